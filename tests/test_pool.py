"""The pool: every task once, errors and Ctrl-C come back, forks and crowds survive."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import inside
import pytest

from sparse_xent.engines import threads


def squares(count, threads):
    """What the pool makes of a task that writes one place each."""
    found = [None] * count

    def task(k):
        found[k] = k * k

    inside.run_tasks(task, count, threads)
    return found


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 1000])
def test_every_task_is_done_once_and_before_run_returns(count, threads):
    assert squares(count, threads) == [k * k for k in range(count)]


def test_each_task_is_taken_by_one_thread_only():
    taken = []
    inside.run_tasks(taken.append, 20_000, 4)
    assert sorted(taken) == list(range(20_000))


def test_a_task_that_is_drawn_is_done_though_another_thread_finds_none_left():
    # The other comes between the draw and the comparison: reached inside, so that it always does.
    done = []
    job = threads._Job(lambda k, _: done.append(k), [(0,)], lambda: None)

    class Draw:
        def __next__(self):
            job.count = 0  # as the one does that draws the number behind the last
            return len(done)

    job._next = Draw()
    job.work()
    assert done == [0]


def test_the_caller_takes_a_share_and_others_help():
    here, barrier = threading.get_ident(), threading.Barrier(2, timeout=20)
    seen = set()

    def task(_):
        seen.add(threading.get_ident())
        barrier.wait()  # two tasks are under way at once

    inside.run_tasks(task, 2, 2)
    assert here in seen
    assert len(seen) == 2


def test_one_thread_means_the_caller_alone():
    seen = set()
    inside.run_tasks(lambda _: seen.add(threading.get_ident()), 50, 1)
    assert seen == {threading.get_ident()}


@pytest.mark.parametrize("threads", [1, 2])
def test_the_first_error_comes_back_when_no_task_is_under_way(threads):
    under_way = []

    def task(k):
        under_way.append(k)
        try:
            if k == 3:
                raise ValueError("three")
            time.sleep(0.001)
        finally:
            under_way.remove(k)

    with pytest.raises(ValueError, match="three"):
        inside.run_tasks(task, 100, threads)
    assert under_way == []
    assert squares(10, threads) == [k * k for k in range(10)]


def test_a_crowd_of_callers_is_served():
    results = [None] * 16

    def call(i):
        results[i] = [squares(50, 4) for _ in range(20)]

    callers = [threading.Thread(target=call, args=(i,)) for i in range(16)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(60)
        assert not caller.is_alive()
    assert results == [[[k * k for k in range(50)]] * 20] * 16


def test_a_task_may_call_the_pool():
    sums = [0] * 4

    def task(k):
        sums[k] = sum(squares(10, 2))

    inside.run_tasks(task, 4, 2)
    assert sums == [285] * 4


def _in_child(queue):
    """Two tasks that wait for each other: the child needs a thread of its own for one of them."""
    barrier = threading.Barrier(2, timeout=10)
    inside.run_tasks(lambda _: barrier.wait(), 2, 2)
    queue.put(squares(50, 3))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_a_pool_of_its_own():
    squares(50, 3)  # the parent's threads exist; the child inherits none of them
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=30) == [k * k for k in range(50)]
    child.join(30)
    assert child.exitcode == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_another_thread_holds_the_pools_lock():
    with threads._pool._lock:  # as a thread that hires at this moment would
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                signal.alarm(20)
                status = int(squares(50, 3) != [k * k for k in range(50)])
            finally:
                os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert status == 0


CTRL_C = """
import os, signal, sys, threading, time
from sparse_xent.engines import threads

def run(task, count, most):
    threads.run(lambda k, _: task(k), [(k,) for k in range(count)], most)

running = []

def task(k):
    running.append(k)
    time.sleep(0.05)
    running.remove(k)

threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
began = time.monotonic()
try:
    run(task, 10_000, 2)
except KeyboardInterrupt:
    own = 1  # the task in which the caller was interrupted did not reach its end
    print(len(running) <= own, time.monotonic() - began < 10)
found = [0] * 100
run(lambda k: found.__setitem__(k, k), 100, 2)
print(found == list(range(100)))
"""


def test_ctrl_c_ends_a_long_call_and_the_pool_lives_on():
    done = subprocess.run(
        [sys.executable, "-c", CTRL_C], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["True", "True", "True"]
