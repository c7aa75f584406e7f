"""Where a gradient may go is decided on shapes, strides and addresses, exactly, with bounded work.

The host's arrays and a device's are judged by the same function; what holds for integers is tried
here, on layouts drawn at random, against sets of bytes.
"""

import random
import time

import numpy as np
import pytest

from sparse_xent.arrays import output
from sparse_xent.arrays.base import ArraySpec, dense_strides


def drawn(rng, axes=3, longest=5, stride=40):
    shape = tuple(rng.randint(1, longest) for _ in range(rng.randint(0, axes)))
    strides = tuple(rng.randint(-stride, stride) for _ in shape)
    return ArraySpec(shape, strides, np.dtype(rng.choice(["u1", "f2", "f4", "f8"])))


def bytes_of(spec, at=0):
    return [
        at + sum(i * step for i, step in zip(index, spec.strides, strict=True)) + k
        for index in np.ndindex(*spec.shape)
        for k in range(spec.dtype.itemsize)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_overlap_and_repeats_are_those_of_the_bytes(seed):
    rng = random.Random(seed)
    seen = set()
    for _ in range(400):
        a, b, to = drawn(rng), drawn(rng), rng.randint(-150, 150)
        mine, others = bytes_of(a), bytes_of(b, to)
        assert output.overlap((a, 0), (b, to)) == bool(set(mine) & set(others)), (a, b, to)
        assert output.repeats(a) == (len(set(mine)) < len(mine)), a
        first, last = output.reach(a)
        assert (min(mine), max(mine) + 1) == (first, last)
        seen.add((output.overlap((a, 0), (b, to)), output.repeats(a)))
    assert len(seen) == 4  # every answer was given


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.s_[::2], np.s_[1::2]),
        (np.s_[:, ::2], np.s_[:, 1::2]),
        (np.s_[::2, ::3], np.s_[::2, 1::3]),
        (np.s_[::-2], np.s_[-2::-2]),
    ],
)
def test_views_that_interleave_are_apart(one, other):
    x = np.zeros((400, 300), np.float32)
    a, b = (
        (ArraySpec(v.shape, v.strides, v.dtype), v.__array_interface__["data"][0])
        for v in (x[one], x[other])
    )
    assert not output.overlap(a, b)
    assert output.overlap(a, (b[0], b[1] - 1))  # by a byte


def test_nothing_overlaps_what_is_empty():
    x = ArraySpec.dense((3, 4), np.dtype(np.float32))
    none = ArraySpec.dense((3, 0), np.dtype(np.float32))
    assert output.overlap((x, 0), (x, 0))
    assert not output.overlap((x, 0), (none, 4))
    assert not output.overlap((none, 4), (x, 0))
    assert not output.repeats(none)


def test_what_takes_too_much_work_is_taken_to_overlap():
    primes = (1009, 1013, 1019, 1021, 1031, 1033)
    a = ArraySpec((50,) * 6, tuple(16 * p for p in primes), np.dtype(np.float32))
    b = ArraySpec((50,) * 6, tuple(16 * p + 16 for p in primes), np.dtype(np.float32))
    start = time.perf_counter()
    assert output.overlap((a, 0), (b, 8), work=1000)  # odd multiples of 8 bytes apart: they do not
    assert output.overlap((a, 0), (b, 8)) in (True, False)
    assert time.perf_counter() - start < 5


def test_a_spec_says_what_numpy_says():
    for shape in ((), (3,), (2, 3, 4), (2, 1, 3), (0, 2)):
        x = np.zeros(shape, np.float64)
        spec = ArraySpec.dense(shape, x.dtype)
        assert spec.strides == dense_strides(shape, 8)
        assert (spec.size, spec.nbytes, spec.is_c_order) == (x.size, x.nbytes, True)
    wide = ArraySpec((1, 3), (24, 8), np.dtype(np.float64)).broadcast_to((2, 5, 3))
    assert (wide.shape, wide.strides) == ((2, 5, 3), (0, 0, 8))
