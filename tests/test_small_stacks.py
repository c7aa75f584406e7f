"""Kernels run on the smallest stacks that threads have: 128 KiB, the default of musl's systems."""

import platform
import re
import subprocess
import sys

import inside
import pytest
from conftest import KINDS, environment

SMALL = """
import itertools, sys, threading
import inside
import numpy as np
import sparse_xent as sx

KINDS = {kinds}
SHAPES = [(40, 10, -1), (40, 100, -1), (20, 400, -1), (5, 600, -1), (3, 9000, -1), (2, 40_000, -1),
          (700, 3, 0), (700, 21, 0), (60, 300, 0)]

def calls():
    for (positions, classes, axis), (dtype, options) in itertools.product(SHAPES, KINDS):
        r = np.random.default_rng(classes)
        x = r.random((positions, classes)).astype(dtype)
        x = x if axis else np.ascontiguousarray(x.T)
        y = r.integers(0, classes, positions)
        loss = sx.SparseCategoricalCrossentropy(**options, axis=axis, reduction=None)
        yield sx.loss_sparse_categorical_crossentropy(y, x, **options, axis=axis)
        yield loss(y, x, r.random(positions))
        apart = np.empty((*x.shape, 2), dtype)[..., 0]
        for out in (None, apart, x.copy(), x):
            yield from loss.value_and_grad(y, x, out=out)
        if options.get("from_logits"):
            yield inside.ranks(y, x, axis)

def results(into):
    into += [a.tobytes() for a in calls()]

here, there = [], []
threading.stack_size(128 * 1024)
thread = threading.Thread(target=results, args=(there,))
thread.start()
thread.join()
results(here)
assert len(here) == len(there) > 0
assert here == there
print(len(here))
"""
FEW = [
    *[("float32", KINDS[kind]) for kind in ("logits", "after", "never")],
    ("float32", {**KINDS["logits"], "label_smoothing": 0.1}),
    ("float64", KINDS["logits"]),
]
ALL = [
    (dtype, {**kind, "label_smoothing": s})
    for dtype in ("float32", "float64", "float16")
    for s in (0.0, 0.1)
    for kind in KINDS.values()
]


@pytest.mark.parametrize(
    "kinds",
    [
        pytest.param(FEW, id="few", marks=pytest.mark.seconds(600)),
        pytest.param(ALL, id="all", marks=[pytest.mark.slow, pytest.mark.seconds(3600)]),
    ],
)
def test_a_thread_of_128_kib_gets_what_any_other_gets(kinds):
    done = subprocess.run(
        [sys.executable, "-c", SMALL.replace("{kinds}", repr(kinds))],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"ended with {done.returncode}\n{done.stderr}"


def frame(kernel):
    """Bytes of a kernel's largest stack frame: what its functions take from the stack's pointer."""
    code = inside.object_code(kernel)
    taken = re.findall(rb"\x48\x81\xec(....)", code, re.DOTALL)  # sub rsp, ....
    return max((int.from_bytes(size, "little") for size in taken), default=0)


@pytest.mark.seconds(600)
def test_the_kernels_of_one_call_take_less_than_64_kib_of_the_stack():
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("frames are read from the code of x86 processors")
    largest = max(map(frame, inside.DEEPEST))
    assert largest > 4096  # frames are seen
    assert sum(map(frame, inside.CALLERS)) + largest < 48 << 10  # the rest is for small functions
