"""Forks: a child computes, whatever its parent's threads were doing when it was made.

Servers, data loaders and R's mclapply fork a process that has made calls, is making one on another
thread, or is loading its first kernel.
"""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on Windows")

PREAMBLE = """
import os, random, signal, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # that forks and threads do not go together
import numpy as np
import sparse_xent as sx

rng = np.random.default_rng(1)
x = rng.normal(size=(20_000, 100)).astype(np.float32)
y = rng.integers(0, 100, len(x))
loss = sx.SparseCategoricalCrossentropy(from_logits=True)

def call():
    value, gradient = loss.value_and_grad(y, x)
    return value.tobytes() + gradient.tobytes() + loss(y, x).tobytes()

def done(pid, seconds=60):
    # Whether the child said that all was well, in time.
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return status == 0
        time.sleep(2e-3)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return False
"""

UNDER_LOAD = """
sx.config_set_threads(2)
right = call()
stop = False

def busy():
    while not stop:
        assert call() == right

threads = [threading.Thread(target=busy) for _ in range(2)]
for thread in threads:
    thread.start()
good = 0
for k in range(FORKS):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = int(call() != right)
            if k % 10 == 0:  # a child has children, too
                grandchild = os.fork()
                if grandchild == 0:
                    os._exit(int(call() != right))
                status |= not done(grandchild)
        finally:
            os._exit(status)
    good += done(pid)
stop = True
for thread in threads:
    thread.join()
print(good, call() == right)
"""

FROM_A_HANDLER = """
sx.config_set_threads(2)
right = call()
children = []

def handler(signum, frame):
    pid = os.fork()
    if pid == 0:
        parent.clear()
        signal.alarm(60)
    else:
        children.append(pid)

signal.signal(signal.SIGALRM, handler)
parent = [True]
random.seed(2)
for _ in range(FORKS):
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-4, 3e-3))
    while signal.getitimer(signal.ITIMER_REAL)[0]:
        same = call() == right  # the child goes on in the middle of this call
        if not parent:
            os._exit(int(not same))
    if not parent:
        os._exit(int(call() != right))
print(sum(done(pid) for pid in children), call() == right)
"""

FIRST_CALL = """
def trial(delay):
    # In a process of its own, which forks while another thread makes the first call.
    pid = os.fork()
    if pid:
        return done(pid, 100)
    threading.Thread(target=call).start()
    time.sleep(delay)
    child = os.fork()
    if child == 0:
        call()
        os._exit(0)
    os._exit(int(not done(child)))

print(all(trial(delay) for delay in DELAYS))
"""


def child(script, seconds=150, **values):
    """What a new process prints that runs the script with these numbers in it."""
    for name, value in values.items():
        script = script.replace(name, str(value))
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), (done.returncode, done.stderr[-3000:])
    return done.stdout.split()


def test_children_of_a_process_that_is_at_work():
    assert child(UNDER_LOAD, FORKS=40) == ["40", "True"]


@pytest.mark.slow
def test_many_children_of_a_process_that_is_at_work():
    assert child(UNDER_LOAD, 590, FORKS=500) == ["500", "True"]


def test_a_fork_in_the_middle_of_a_call():
    assert child(FROM_A_HANDLER, FORKS=40) == ["40", "True"]


def test_a_fork_while_another_thread_loads_a_kernel():
    assert child("call()\nos._exit(0)") == []  # so that the kernels are on disk
    assert child(FIRST_CALL, DELAYS=(0.002, 0.01, 0.02, 0.04, 0.08)) == ["True"]


@pytest.mark.slow
def test_a_fork_while_another_thread_compiles_a_kernel(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert child(FIRST_CALL, DELAYS=(0.02, 0.3)) == ["True"]
