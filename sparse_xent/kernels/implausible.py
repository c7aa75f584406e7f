"""Rows that are given as probabilities and cannot be any, found while they are walked.

A walk marks what it reads: integers that are or-ed over many scores, with two bits that are set
where one of them may lie outside [LEAST, MOST]. That takes two instructions a vector. Where the
bits say so, `note` looks at the row again, before a gradient may go where it is, score by score;
it counts the row if it is right, and keeps what the first one holds.
"""

import numpy as np
from numba.core import types

from sparse_xent.kernels import Scores
from sparse_xent.kernels.algebra import Kind
from sparse_xent.kernels.native import FOUND, LEAST, MOST
from sparse_xent.kernels.parts import aside, part
from sparse_xent.kernels.simd import (
    Num,
    Room,
    anywhere,
    fact,
    fetch_factor,
    fetch_long,
    floor,
    keep,
    load_one,
    maximum,
    minimum,
    stack,
    word,
)

FIRST, COLUMN, SCORE, LOWEST, HIGHEST, TOTAL, WHOLE = (8 * i for i in range(1, FOUND))
ORDER = 8 * FOUND  # behind what is found: the address of the order, see `_place`
NOTES = Room(8 * (FOUND + 1))


@word
def suspicious(kind: Kind, marks: Num) -> Num:
    """Whether some score among those marked may be no probability."""
    if kind.scores == Scores.LOGITS:
        return fact(False)
    return anywhere((marks & (0b11 << (62 if kind.format.wide else 30))) != 0)


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
