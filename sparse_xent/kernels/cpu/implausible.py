"""Rows that are given as probabilities and cannot be any, found while they are walked.

A walk keeps the greatest bits that it reads, which takes one instruction a vector
(`algebra.higher`). Where they are `suspicious`, `note` looks at the row again, before a gradient
may go where it is; it counts the row if some score is odd, which is to say no probability, and
keeps what the first such row holds. Scores a little below 0 are suspicious and not odd: where a
whole row or many positions can be looked at by vectors, that is done first.
"""

import numpy as np
from numba.core import types

from sparse_xent.kernels.cpu.abi import FOUND, LEAST, MOST
from sparse_xent.kernels.cpu.compiler import aside, part
from sparse_xent.kernels.cpu.formulas import Kind
from sparse_xent.kernels.cpu.vectors import (
    Num,
    Room,
    anywhere,
    fetch_factor,
    fetch_long,
    floor,
    itemsize,
    keep,
    lanes,
    load,
    load_one,
    load_some,
    maximum,
    minimum,
    splat,
    stack,
    word,
)

FIRST, COLUMN, SCORE, LOWEST, HIGHEST, TOTAL, WHOLE = (8 * i for i in range(1, FOUND))
ORDER = 8 * FOUND  # behind what is found: the address of the order, see `_place`
NOTES = Room(8 * (FOUND + 1))


@word
def _bounds(kind: Kind) -> tuple[float, float]:
    """LEAST and MOST in the arithmetic's dtype."""
    if kind.format.wide:
        return LEAST, MOST
    return float(np.float32(LEAST)), float(np.float32(MOST))


@word
def _score(kind: Kind, address: Num) -> Num:
    """One score, in float64."""
    return load_one(kind, address).to(types.float64)


@part
def no_notes(order):  # type: ignore[no-untyped-def]
    """Where a chunk's rows are noted: none so far. Returns the address."""
    notes = stack(NOTES)
    keep(notes, 0.0)
    keep(notes + ORDER, order)
    return notes


@part
def _place(position, order):  # type: ignore[no-untyped-def]
    """Where a position of a slab stands among the losses, flat in C order.

    The order is int64: the place of the slab's first position, the number of axes, and of each,
    from the innermost on, its length and how far its steps lead. Without one both orders agree.
    """
    if order == 0:
        return position
    place = fetch_long(order)
    for axis in range(fetch_long(order + 8)):
        length, step = fetch_long(order + 16 * axis + 16), fetch_long(order + 16 * axis + 24)
        place += position % length * step
        position = position // length
    return place


@word
def _beyond(kind: Kind, low: Num, high: Num) -> Num:
    """Whether some lane's least or greatest score lies outside the bounds."""
    least, most = _bounds(kind)
    return anywhere((low < least) | (high > most))


@aside
def row_is_odd(kind, p, C):  # type: ignore[no-untyped-def]
    """Whether a row of at least one vector, whose classes lie together, has an odd score."""
    w, size = lanes(kind), itemsize(kind)
    low = high = splat(kind, 0.0)
    column = 0
    while column < C:
        x = load(kind, p + minimum(column, C - w) * size)
        low, high = minimum(x, low), maximum(x, high)  # NaN is passed over
        column += w
    return _beyond(kind, low, high)


@aside
def some_are_odd(kind, p, xc, xi, count, C):  # type: ignore[no-untyped-def]
    """Whether one of as many positions as there are lanes has an odd score."""
    low = high = splat(kind, 0.0)
    for c in range(C):
        x = load_some(kind, p + c * xc, xi, count)
        low, high = minimum(x, low), maximum(x, high)
    return _beyond(kind, low, high)


@aside
def note(kind, p, step, C, t, only, position, notes):  # type: ignore[no-untyped-def]
    """Count a row that counts and cannot be probabilities, and keep what the first one holds.

    Args:
        kind: what the walk is compiled for.
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
    if only < 0 and step == itemsize(kind) and lanes(kind) <= C and not row_is_odd(kind, p, C):
        return
    least, most = _bounds(kind)
    column, end = 0, C
    if only >= 0:
        column, end = only, only + 1
    score = _score(kind, p + column * step)
    while not (score < least or score > most):
        column += 1
        if column >= end:
            return
        score = _score(kind, p + column * step)
    rows = fetch_factor(notes)
    place = float(_place(position, fetch_long(notes + ORDER)))
    keep(notes, rows + 1.0)
    if rows > 0.0 and place > fetch_factor(notes + FIRST):
        return
    low, high, total, whole = score, score, 0.0, 1.0
    for j in range(C):
        x = _score(kind, p + j * step)
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
