"""Whether the gradient may go into an array that the caller gave: on the host and on devices.

All is decided on specs and addresses, in integers: no element is read, and no array stands for
another. `overlap` and `repeats` are exact where that takes little work; where it would take much
(strides that interleave in many ways) they say yes, for a refusal harms nothing.

Notation: an element's place is address + sum of stride * index; a "term" (step, most) stands for
step * k with 0 <= k <= most.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from sparse_xent.arrays.base import ArraySpec

Placed = tuple[ArraySpec, int]  # a spec and the address of the first element
Terms = list[tuple[int, int]]

WORK = 100_000
"""Partial sums that are looked at, at most: some 50 ms."""


def check_output(out: ArraySpec, x: ArraySpec, dtype: np.dtype[Any]) -> None:
    """Refuse an `out` that cannot hold the gradient with respect to y_pred, wherever it lies.

    Args:
        out: the caller's.
        x: y_pred.
        dtype: the gradient's.

    Raises:
        ValueError: it has another shape, dtype or byte order, is read-only, or repeats elements.
    """
    if out.shape != x.shape:
        raise ValueError(f"out must have y_pred's shape {x.shape}, got {out.shape}")
    if out.dtype != dtype or not out.dtype.isnative:
        raise ValueError(f"out must be of dtype {dtype}, in native byte order, got {out.dtype.str}")
    if not out.writable:
        raise ValueError("out must be writable, got a read-only array")
    if repeats(out):
        raise ValueError(
            "out must hold every element once, got an array whose elements share memory "
            f"(strides {out.strides} for shape {out.shape}, as broadcast_to makes them)"
        )


def check_apart(out: Placed, x: Placed, inputs: Mapping[str, Placed]) -> None:
    """Refuse an `out` whose memory is read while it is written.

    Args:
        out: the caller's.
        x: y_pred, which may be `out` itself: the same elements in the same order.
        inputs: what else is read, by its argument's name.

    Raises:
        ValueError: `out` overlaps one of them.
    """
    if not is_same(out, x) and overlap(out, x):
        raise ValueError(
            "out must be y_pred itself or not overlap it, got an array that shares part of it"
        )
    for name, placed in inputs.items():
        if overlap(out, placed):
            raise ValueError(f"out must not overlap {name}, which is read while out is written")


def reach(spec: ArraySpec) -> tuple[int, int]:
    """The bytes that an array spans, from its address on: the first, the one behind the last."""
    if 0 in spec.shape:
        return 0, 0
    spans = [step * (n - 1) for step, n in zip(spec.strides, spec.shape, strict=True)]
    first, last = sum(min(0, s) for s in spans), sum(max(0, s) for s in spans)
    return first, last + spec.dtype.itemsize


def overlap(a: Placed, b: Placed, work: int = WORK) -> bool:
    """Whether two arrays have a byte in common; True too where `work` does not suffice to say.

    A byte of `a` is one of `b` where address_a + sum(s_i k_i) + p = address_b + sum(t_j l_j) + q,
    with k and l within the shapes, and p and q within an element.
    """
    (spec, at), (other, to) = a, b
    (low, high), (other_low, other_high) = reach(spec), reach(other)
    if low == high or other_low == other_high:
        return False
    if at + high <= to + other_low or to + other_high <= at + low:
        return False
    terms = [*_terms(spec), (1, spec.dtype.itemsize - 1)]
    others = [*_terms(other), (1, other.dtype.itemsize - 1)]
    negated = [(-step, most) for step, most in others]
    return _has_solution([*terms, *negated], to - at, work)


def repeats(spec: ArraySpec, work: int = WORK) -> bool:
    """Whether two elements share a byte; True too where `work` does not suffice to say.

    Two elements differ first along some axis, there by 1 or more, and along later ones by any
    number; they share a byte where their places differ by less than an element.
    """
    if 0 in spec.shape:
        return False
    axes = sorted(_terms(spec), key=lambda term: -abs(term[0]))
    size = spec.dtype.itemsize
    reached = [size + sum(abs(s) * n for s, n in axes[i + 1 :]) for i in range(len(axes))]
    if all(abs(step) >= behind for (step, _), behind in zip(axes, reached, strict=True)):
        return False  # every axis steps over all that the shorter steps reach
    for i, (step, most) in enumerate(axes):
        later = [(s, 2 * n) for s, n in axes[i + 1 :]]  # differences from -n to n
        total = (size - 1) - step + sum(s * n for s, n in axes[i + 1 :])
        if _has_solution([(step, most - 1), *later, (1, 2 * (size - 1))], total, work):
            return True
    return False


def is_same(a: Placed, b: Placed) -> bool:
    """Whether two arrays are the same elements in the same order."""
    (spec, at), (other, to) = a, b
    return (at, *spec[:3]) == (to, *other[:3])


def _terms(spec: ArraySpec) -> Terms:
    """An axis's stride, and the greatest index; without axes that do not move."""
    axes = zip(spec.strides, spec.shape, strict=True)
    return [(step, n - 1) for step, n in axes if n > 1]


def _has_solution(terms: Iterable[tuple[int, int]], total: int, work: int) -> bool:
    """Whether sum(step * k) = total for some k with 0 <= k <= most, term by term.

    True too where `work` partial sums do not suffice to say.
    """
    joined: dict[int, int] = {}
    for step, most in terms:
        if step < 0:  # step * k = step * most + |step| * (most - k)
            total -= step * most
        if step and most:
            joined[abs(step)] = joined.get(abs(step), 0) + most
    ordered = sorted(joined.items(), reverse=True)
    reached = [sum(s * n for s, n in ordered[i:]) for i in range(len(ordered) + 1)]
    common = [math.gcd(*(s for s, _ in ordered[i:])) for i in range(len(ordered) + 1)]
    pending = [(0, total)]  # (the next term, what is left of the total)
    while pending:
        i, left = pending.pop()
        if left == 0:
            return True
        if not 0 < left <= reached[i] or left % common[i]:
            continue
        step, most = ordered[i]
        # What the later terms cannot reach, this one has to.
        least = max(0, -((reached[i + 1] - left) // step))
        counts = range(least, min(most, left // step) + 1)
        work -= len(counts)
        if work < 0:
            return True
        pending += [(i + 1, left - step * k) for k in counts]
    return False
