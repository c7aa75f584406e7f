"""Rows that are given as probabilities and cannot be any, found while they are summed.

A kernel keeps the greatest bits that it reads, which takes one instruction a vector
(`references.join_exponents`). Where they are `suspicious`, `note` reads the row again, before a
gradient may overwrite it. It counts the row if some score is odd, that is, no probability, and
keeps the numbers of the first such row. Scores a little below 0 are suspicious and not odd: where a
whole row or many positions can be read by vectors, that is done first.
"""

import numpy as np
from numba.core import types

from sparse_xent.kernels.arithmetic import anywhere, floor, itemsize, lanes, maximum, minimum, splat
from sparse_xent.kernels.cpu.abi import FOUND, LEAST, MOST
from sparse_xent.kernels.cpu.compiler import inlined, outlined
from sparse_xent.kernels.cpu.vectors import (
    StackBytes,
    fetch_factor,
    fetch_long,
    keep,
    load,
    load_one,
    load_some,
    stack_alloc,
)
from sparse_xent.kernels.formulas import KernelSpec
from sparse_xent.kernels.staging import Value, primitive

FIRST, COLUMN, SCORE, LOWEST, HIGHEST, TOTAL, WHOLE = (8 * i for i in range(1, FOUND))
ORDER = 8 * FOUND  # after what is found: the address of the order, see `_place`
NOTES = StackBytes(8 * (FOUND + 1))


@primitive
def _bounds(spec: KernelSpec) -> tuple[float, float]:
    """LEAST and MOST in the arithmetic's dtype."""
    if spec.format.wide:
        return LEAST, MOST
    return float(np.float32(LEAST)), float(np.float32(MOST))


@primitive
def _score(spec: KernelSpec, address: Value) -> Value:
    """One score, in float64."""
    return load_one(spec, address).to(types.float64)


@inlined
def no_notes(order):
    """Address where a chunk's odd rows are noted: none so far."""
    notes = stack_alloc(NOTES)
    keep(notes, 0.0)
    keep(notes + ORDER, order)
    return notes


@inlined
def _place(position, order):
    """The index of a slab's position among the losses, flat in C order.

    The order is int64: the index of the slab's first position, the number of axes, and of each,
    from the innermost on, its length and its step. Without one both orders agree.
    """
    if order == 0:
        return position
    place = fetch_long(order)
    for axis in range(fetch_long(order + 8)):
        length, step = fetch_long(order + 16 * axis + 16), fetch_long(order + 16 * axis + 24)
        place += position % length * step
        position = position // length
    return place


@primitive
def _beyond(spec: KernelSpec, low: Value, high: Value) -> Value:
    """Whether some lane's least or greatest score lies outside the bounds."""
    least, most = _bounds(spec)
    return anywhere((low < least) | (high > most))


@outlined
def row_is_odd(spec, p, C):
    """Whether a row of at least one vector, whose classes lie together, has an odd score."""
    w, size = lanes(spec), itemsize(spec)
    low = high = splat(spec, 0.0)
    column = 0
    while column < C:
        x = load(spec, p + minimum(column, C - w) * size)
        low, high = minimum(x, low), maximum(x, high)  # NaN is passed over
        column += w
    return _beyond(spec, low, high)


@outlined
def some_are_odd(spec, p, xc, xi, count, C):
    """Whether one of as many positions as there are lanes has an odd score."""
    low = high = splat(spec, 0.0)
    for c in range(C):
        x = load_some(spec, p + c * xc, xi, count)
        low, high = minimum(x, low), maximum(x, high)
    return _beyond(spec, low, high)


@outlined
def note(spec, p, step, C, t, only, position, notes):
    """Count a row that cannot be probabilities, and keep the numbers of the first one.

    Args:
        spec: what the kernel is compiled for.
        p: address of the row's first score.
        step: bytes from class to class.
        C: classes.
        t: the row's label; below 0 the row does not count.
        only: the one class whose score enters the loss, or -1.
        position: the row's.
        notes: where it is noted; 0 for nowhere.
    """
    if t < 0 or notes == 0:
        return
    if only < 0 and step == itemsize(spec) and lanes(spec) <= C and not row_is_odd(spec, p, C):
        return
    least, most = _bounds(spec)
    column, end = 0, C
    if only >= 0:
        column, end = only, only + 1
    score = _score(spec, p + column * step)
    while not (score < least or score > most):
        column += 1
        if column >= end:
            return
        score = _score(spec, p + column * step)
    rows = fetch_factor(notes)
    place = float(_place(position, fetch_long(notes + ORDER)))
    keep(notes, rows + 1.0)
    if rows > 0.0 and place > fetch_factor(notes + FIRST):
        return
    low, high, total, whole = score, score, 0.0, 1.0
    for j in range(C):
        x = _score(spec, p + j * step)
        low, high, total = minimum(x, low), maximum(x, high), total + x
        if not (x - x == 0.0 and x == floor(x)):
            whole = 0.0
    keep(notes + FIRST, place)
    keep(notes + COLUMN, float(column))
    keep(notes + SCORE, score)
    keep(notes + LOWEST, low)
    keep(notes + HIGHEST, high)
    keep(notes + TOTAL, total)
    keep(notes + WHOLE, whole)
