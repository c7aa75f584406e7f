"""Threads: the same bits on any number of them, in a crowd, after a fork and after Ctrl-C."""

import multiprocessing
import os
import subprocess
import sys
import threading

import joblib
import numpy as np
import pytest

import sparse_xent as sx

RNG = np.random.default_rng(7)
#: Above what one thread does alone, with a part of a chunk at the end; rows, tiles and strided.
CASES = {
    "large C": (RNG.normal(size=(131, 5003)).astype(np.float32), -1),
    "medium C": (RNG.normal(size=(6003, 101)).astype(np.float32), -1),
    "small C": (RNG.normal(size=(60_021, 10)).astype(np.float32), -1),
    "channels first": (RNG.normal(size=(3, 21, 101, 103)).astype(np.float32), 1),
    "Fortran order": (np.asfortranarray(RNG.normal(size=(30_011, 10))), -1),
}
OBJECTS = {
    axis: sx.SparseCategoricalCrossentropy(from_logits=True, axis=axis, ignore_class=255)
    for axis in (-1, 1)
}


def labels(x, axis):
    shape = list(x.shape)
    classes = shape.pop(axis)
    y = np.random.default_rng(8).integers(0, classes, shape)
    y.flat[::17] = 255
    return y


def everything(name):
    """Losses, value and gradient of a case, as bytes."""
    x, axis = CASES[name]
    y = labels(x, axis)
    losses = sx.loss_sparse_categorical_crossentropy(y, x, True, 255, axis)
    value, gradient = OBJECTS[axis].value_and_grad(y, x)
    return losses.tobytes(), value.tobytes(), gradient.tobytes()


@pytest.fixture(autouse=True)
def _threads():
    yield
    sx.config_set_threads(None)


@pytest.fixture(scope="module")
def alone():
    """What one thread makes of every case."""
    sx.config_set_threads(1)
    results = {name: everything(name) for name in CASES}
    sx.config_set_threads(None)
    return results


@pytest.mark.parametrize("threads", [2, 3, 8])
@pytest.mark.parametrize("name", CASES)
def test_the_bits_do_not_depend_on_the_number_of_threads(name, threads, alone):
    sx.config_set_threads(threads)
    assert everything(name) == alone[name]


def test_sixteen_callers_at_once_get_the_bits_that_one_gets(alone):
    sx.config_set_threads(4)
    names = list(CASES) * 4
    results = [None] * 16
    start = threading.Barrier(16)

    def call(i):
        start.wait()
        results[i] = everything(names[i])

    callers = [threading.Thread(target=call, args=(i,)) for i in range(16)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(120)
    assert results == [alone[names[i]] for i in range(16)]


def test_joblib_threads_get_the_bits_that_one_gets(alone):
    results = joblib.Parallel(n_jobs=4, prefer="threads")(
        joblib.delayed(everything)(name) for name in CASES
    )
    assert dict(zip(CASES, results, strict=True)) == alone


def _in_child(name, queue):
    queue.put(everything(name))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_gets_the_bits_that_its_parent_got(alone):
    sx.config_set_threads(2)
    name = "small C"
    assert everything(name) == alone[name]  # the pool is in use before the fork
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(name, queue))
    child.start()
    assert queue.get(timeout=120) == alone[name]
    child.join(30)
    assert child.exitcode == 0


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_from_a_thread(alone):
    sx.config_set_threads(2)
    name, got = "small C", []

    def fork():
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        child = context.Process(target=_in_child, args=(name, queue))
        child.start()
        got.append(queue.get(timeout=120))
        child.join(30)

    thread = threading.Thread(target=fork)
    thread.start()
    thread.join(150)
    assert got == [alone[name]]


PREAMBLE = """
import numpy as np, os, signal, sys, threading, time
import sparse_xent as sx
sx.config_set_threads(2)
x = np.random.default_rng(0).normal(size=(20_011, 100)).astype(np.float32)
y = np.random.default_rng(1).integers(0, 100, len(x))
loss = sx.SparseCategoricalCrossentropy(from_logits=True)
"""

RACE = """
results, start = [None] * 2, threading.Barrier(2)

def call(i):
    start.wait()
    results[i] = loss(y, x)

threads = [threading.Thread(target=call, args=(i,)) for i in range(2)]
[t.start() for t in threads]
[t.join() for t in threads]
print(results[0] == results[1] == loss(y, x))
"""

CTRL_C = """
value = loss(y, x)
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    while True:
        loss(y, x)
except KeyboardInterrupt:
    print(loss(y, x) == value)
"""


@pytest.mark.parametrize("script", [RACE, CTRL_C], ids=["first compile raced", "Ctrl-C"])
def test_in_a_process_of_its_own(script, tmp_path):
    prints_true(script, {"NUMBA_CACHE_DIR": str(tmp_path)})


def prints_true(script, environment):
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script],
        capture_output=True,
        text=True,
        timeout=150,
        env={"PATH": "/usr/bin:/bin", **environment},
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr


PLACED = """
import inside
one, other, *more = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {one, other})
value = loss(y, x)
while not inside.helpers():
    time.sleep(0.01)
right = []
for caller, helper in ((one, other), (other, one), (one, other)):
    inside.say_that_callers_are_on(caller)
    right.append(loss(y, x) == value)
    right += [os.sched_getaffinity(thread) == {helper} for thread in inside.helpers()]
right.append(os.sched_getaffinity(0) == {one, other})
"""
UNPLACED = """
os.sched_setaffinity(0, {one})  # the caller may run on one processor only
inside.say_that_callers_are_on(one)
right.append(loss(y, x) == value)

def refuse(*_):
    raise PermissionError

os.sched_setaffinity = refuse
inside.say_that_callers_are_on(other)
right.append(loss(y, x) == value)
"""
#: What would be said of a caller that may run on three processors by now.
FREED = """
freed, three = [], {one, other, 99}
os.sched_getaffinity = lambda _: three
os.sched_setaffinity = lambda _, processors: freed.append(processors)
inside.say_that_callers_are_on(one)
right.append(loss(y, x) == value)
right.append(freed == [three] * len(inside.helpers()))
"""


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="of one processor, or where the system does not say which, there is nothing to choose",
)
def test_of_two_processors_a_helper_has_the_one_that_its_caller_is_not_on():
    """Else Linux may let both share one for 25 ms, and the call takes as long as on one thread."""
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    cache = os.environ.get("NUMBA_CACHE_DIR")
    if cache:
        environment["NUMBA_CACHE_DIR"] = cache
    prints_true(PLACED + UNPLACED + FREED + "print(all(right))", environment)


@pytest.mark.parametrize("variable", ["NUMBA_NUM_THREADS", "OMP_NUM_THREADS"])
def test_the_environment_caps_the_threads(variable, monkeypatch):
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    sx.config_set_threads(6)
    monkeypatch.setenv(variable, "3")
    assert sx.config_threads() == 3
    monkeypatch.setenv(variable, "4,2")
    assert sx.config_threads() == 4
    monkeypatch.setenv(variable, "no number")
    assert sx.config_threads() == 6
