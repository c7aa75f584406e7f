"""Interrupts: whatever a signal handler raises, memory stays whole and the next call is right.

Each test runs in a process of its own, which an alarm interrupts at random times, as Ctrl-C or a
test runner's time limit would.
"""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no setitimer on Windows")

PREAMBLE = """
import random, signal, sys, threading, time
import numpy as np
import sparse_xent as sx

random.seed(SEED)

class Interrupt(BaseException):
    pass

raised = 0

def handler(signum, frame):
    global raised
    raised += 1
    raise Interrupt

signal.signal(signal.SIGALRM, handler)

def interrupted(call, longest):
    # Call again and again until it is interrupted, which it must be once.
    before = raised
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-5, longest))
        while True:
            call()
    except Interrupt:
        pass
    assert raised == before + 1
"""

CALLS = """
sx.config_set_threads(2)
rng = np.random.default_rng(1)

def operands(n, c, dtype=np.float32, order="C", labels=np.int64):
    x = np.array(rng.normal(size=(n, c)), dtype, order=order)
    return rng.integers(0, c, n).astype(labels), x

loss = sx.SparseCategoricalCrossentropy(from_logits=True)
none = sx.SparseCategoricalCrossentropy(from_logits=True, reduction=None, dtype="float64")
weights = rng.uniform(size=20_000)
rows, few, long = operands(20_000, 100), operands(200_000, 10), operands(300, 32_000)
halves, apart = operands(20_000, 100, np.float16, labels=np.int16), operands(100_000, 10, order="F")
out = np.empty_like(rows[1])
calls = {
    "value": lambda: loss(*rows),
    "few classes": lambda: loss(*few),
    "many classes": lambda: loss(*long),
    "Fortran order": lambda: loss.value_and_grad(*apart)[1],
    "losses": lambda: sx.loss_sparse_categorical_crossentropy(*rows, True),
    "gradient": lambda: loss.value_and_grad(*rows)[1],
    "gradient into out": lambda: loss.value_and_grad(*rows, out=out)[1],
    "weights": lambda: loss.value_and_grad(*rows, sample_weight=weights)[0],
    "labels that are converted": lambda: loss(*halves),
    "losses that are converted": lambda: none(*halves),
    "a list of labels": lambda: loss(labels, rows[1]),
}
labels = rows[0].tolist()
right = {name: call().tobytes() for name, call in calls.items()}

for _ in range(ROUNDS):
    for call in calls.values():
        interrupted(call, 2e-2)
for name, call in calls.items():
    assert call().tobytes() == right[name], name
from sparse_xent.engines import threads
barrier = threading.Barrier(2, timeout=20)
threads.run(lambda _: barrier.wait(), [(), ()], 2)  # a helper still helps
print(raised)
"""


def child(script, seconds=120, **values):
    """What a new process prints that runs the script with these numbers in it."""
    for name, value in values.items():
        script = script.replace(name, str(value))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=seconds, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), (done.returncode, done.stderr[-3000:])
    return done.stdout.split()


def test_interrupted_calls_leave_memory_whole_and_lose_no_exception():
    assert child(PREAMBLE + CALLS, SEED=1, ROUNDS=12) == ["132"]


@pytest.mark.slow
def test_ten_thousand_interrupted_calls_in_one_process():
    assert child(PREAMBLE + CALLS, 590, SEED=2, ROUNDS=910) == ["10010"]


UNDER_WAY = """
from sparse_xent.engines import threads

under_way = set()

def task(k):
    under_way.add(k)
    end = time.perf_counter() + 3e-4
    while time.perf_counter() < end:
        time.sleep(1e-5)
    under_way.discard(k)

main = threading.main_thread()

def helped(k):
    # The caller's own tasks are cut by the interrupt; only helpers' must come to an end.
    if threading.current_thread() is not main:
        task(k)
    else:
        time.sleep(1e-4)

def handler(signum, frame):
    global raised, left
    raised += 1
    if left:
        left -= 1
        raise Interrupt

signal.signal(signal.SIGALRM, handler)
seen = 0
for _ in range(ROUNDS):
    left = random.choice([1, 1, 2, 3])  # further ones come while the first is dealt with
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-4, 5e-3), 1e-4)
        try:
            while True:
                threads.run(lambda k, _: helped(k), [(k,) for k in range(40)], 3)
        finally:
            found = list(under_way)
            seen += 1
            assert not found, found
    except Interrupt:
        pass
    left = 0
    signal.setitimer(signal.ITIMER_REAL, 0)
    while under_way:  # of a round whose look was cut off by another interrupt
        time.sleep(1e-3)
print(seen > ROUNDS / 2)
"""


def test_a_call_leaves_only_when_no_helper_is_at_work_however_often_it_is_interrupted():
    assert child(PREAMBLE + UNDER_WAY, SEED=3, ROUNDS=400) == ["True"]


FIRST_CALL = """
x, y = np.zeros((2000, 100), np.float32), np.zeros(2000, int)
loss = sx.SparseCategoricalCrossentropy(from_logits=True)
try:
    signal.setitimer(signal.ITIMER_REAL, DELAY)
    loss(y, x)
except Interrupt:
    pass
signal.setitimer(signal.ITIMER_REAL, 0)
print(loss(y, x), loss.value_and_grad(y, x)[0])
"""


@pytest.mark.parametrize(
    "delay", [0.3, *(pytest.param(d, marks=pytest.mark.slow) for d in (0.01, 0.05, 0.1, 0.6, 1.5))]
)
def test_an_interrupt_while_a_kernel_is_compiled(delay, tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert child(PREAMBLE + FIRST_CALL, SEED=4, DELAY=delay) == ["4.6051702"] * 2


@pytest.mark.parametrize("delay", [0.002, 0.01, 0.02, 0.03])
def test_an_interrupt_while_a_kernel_is_loaded(delay):
    assert child(PREAMBLE + FIRST_CALL, SEED=5, DELAY=delay) == ["4.6051702"] * 2


RAISED_SOON = """
sx.config_set_threads(THREADS)
x = np.zeros((1000, 20_000), np.float32, order="F")
y = np.arange(1000)
x[y, y] = 130  # every loss is below the smallest normal number: each row is done again with care
loss = sx.SparseCategoricalCrossentropy(from_logits=True)
loss(y[:1], x[:1])
began = time.perf_counter()
signal.setitimer(signal.ITIMER_REAL, 0.1)
try:
    for _ in range(10):
        loss(y, x)
except Interrupt:
    pass
print(time.perf_counter() - began < 10)
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupt_is_raised_before_a_long_call_ends(threads):
    assert child(PREAMBLE + RAISED_SOON, SEED=6, THREADS=threads) == ["True"]


AT_EXIT = """
import atexit

def last():
    import numpy as np
    import sparse_xent as sx
    x, y = np.zeros((20_000, 100), np.float32), np.zeros(20_000, int)
    print(sx.SparseCategoricalCrossentropy(from_logits=True)(y, x))

atexit.register(last)
IMPORT
"""


@pytest.mark.parametrize("first", ["", "import sparse_xent", "last()"])
@pytest.mark.parametrize("cache", ["warm", pytest.param("cold", marks=pytest.mark.slow)])
def test_a_call_while_the_interpreter_ends(first, cache, tmp_path, monkeypatch):
    if cache == "cold":
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert set(child(AT_EXIT, IMPORT=first)) == {"4.6051702"}


@pytest.mark.slow
def test_the_process_may_end_while_a_kernel_is_compiled(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    interrupted = FIRST_CALL[: FIRST_CALL.index("print")] + "print('end')"
    assert child(PREAMBLE + interrupted, SEED=7, DELAY=0.5) == ["end"]


NO_THREAD = """
import _thread
import numpy as np, sparse_xent as sx

def refuse(*_):
    raise RuntimeError("can't start new thread")

_thread.start_new_thread = refuse
x, y = np.zeros((20_000, 100), np.float32), np.zeros(20_000, int)
print(sx.SparseCategoricalCrossentropy(from_logits=True)(y, x))
"""


def test_where_no_thread_can_be_started_the_caller_goes_on_alone():
    assert child(NO_THREAD) == ["4.6051702"]
