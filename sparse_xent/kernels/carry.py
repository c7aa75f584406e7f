"""One call's chunks of positions, carried through labels, weights, kernel and sums without the GIL.

The compiled half of `sweep`. A chunk's labels are lowered into a scratch that stays in cache, a
walk makes their losses (and gradients) beside them, and the chunk leaves one row of sums behind:
chunks are cut by shape alone, so no sum depends on who carried which. Everything is addresses and
numbers, the walk too (a C function): so this is compiled once for all dtypes and all layouts.

Notation: y labels, w weights, l losses, n positions of a chunk, g = w / divisor, all flat.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic

from sparse_xent.kernels.simd import Room, stack

IGNORED, NO_CLASS = np.int32(-1), np.int32(-2)
NA = float(-(2**31))  # R's integer NA

# Positions of a chunk at most: its scratch of 28 bytes each (labels, losses, weights, factors) is
# a small part of a core's second-level cache beside the scores themselves.
POSITIONS = 2048

# What a chunk leaves behind, float64 each.
TOTAL, KEPT, WEIGHT, BAD, MISSING = range(5)
SUMS = 5
"""Columns of the sums: sum(l * w), labels kept, sum(w), labels that are no class, weights NA."""

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
_inlined = njit(inline="always", **OPTIONS)

# A walk's C signature: C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g: integers;
# share, lo, hi: doubles; past: whether the gradient is written past the caches.
INTEGERS = 15
SIGNATURE = types.void(*[types.int64] * INTEGERS, *[types.float64] * 3, types.int64)


# A lowering's: labels, step, n, classes, ignored, many, to; it returns how many are no class.
LOWERING = types.int64(*[types.int64] * 7)


@intrinsic
def _call_lowering(_typing, address, integers):  # type: ignore[no-untyped-def]
    """Call the lowering at an address."""

    def emit(_context, builder, _sig, args):  # type: ignore[no-untyped-def]
        word = ir.IntType(64)
        function = ir.FunctionType(word, [word] * 7)
        pointer = builder.inttoptr(args[0], function.as_pointer())
        return builder.call(pointer, [builder.extract_value(args[1], i) for i in range(7)])

    return types.int64(types.int64, types.UniTuple(types.int64, 7)), emit


@intrinsic
def _call(_typing, address, integers, doubles, past):  # type: ignore[no-untyped-def]
    """Call the walk at an address."""

    def emit(_context, builder, _sig, args):  # type: ignore[no-untyped-def]
        word, double = ir.IntType(64), ir.DoubleType()
        function = ir.FunctionType(ir.VoidType(), [word] * INTEGERS + [double] * 3 + [word])
        pointer = builder.inttoptr(args[0], function.as_pointer())
        flat = [builder.extract_value(args[1], i) for i in range(INTEGERS)]
        flat += [builder.extract_value(args[2], i) for i in range(3)]
        builder.call(pointer, [*flat, args[3]])

    of = types.UniTuple(types.int64, INTEGERS), types.UniTuple(types.float64, 3)
    return types.void(types.int64, *of, types.int64), emit


@intrinsic
def _at(_typing, typ, address):  # type: ignore[no-untyped-def]
    """The address as a pointer to numbers of this Numba type, which loops index and LLVM widens."""
    pointer = types.CPointer(typ.dtype)

    def emit(context, builder, _sig, args):  # type: ignore[no-untyped-def]
        return builder.inttoptr(args[1], context.get_value_type(pointer))

    return pointer(typ, types.intp), emit


# Labels ----------------------------------------------------------------------------------------


@_inlined
def _mark(values, step, n, classes, ignored, many, y):  # type: ignore[no-untyped-def]
    """Every `step`-th of `values` into y; comparisons only, so that NaN and 1.7 are no class."""
    for i in range(n):
        v = values[i * step]
        k = np.int32(v) if (v >= 0) & (v < classes) else NO_CLASS
        y[i] = k if k == v else NO_CLASS
    for c in range(many):
        for i in range(n):
            y[i] = IGNORED if values[i * step] == ignored[c] else y[i]


def lowering(typ: types.Type) -> Callable[..., Any]:
    """The function that lowers labels of a Numba type, to be compiled as a C function."""
    size = typ.bitwidth // 8

    def lower(labels, step, n, classes, ignored, many, to):  # type: ignore[no-untyped-def]
        """n labels at an address into int32 at another; returns how many are no class."""
        y, ignored = _at(types.int32, to), _at(types.int64, ignored)
        _mark(_at(typ, labels), step // size, n, classes, ignored, many, y)
        bad = 0
        for i in range(n):
            bad += y[i] == NO_CLASS
        return bad

    return lower


# Weights and sums ------------------------------------------------------------------------------


@_inlined
def _weigh(weights, step, by_class, y, n, w):  # type: ignore[no-untyped-def]
    """The weight of each lowered label, 0 where ignored; returns how many that count are NA."""
    missing = 0
    if weights:
        given, every = _at(types.float64, weights), step // 8
        for i in range(n):
            v = given[i * every]
            missing += (v == NA) & (y[i] >= 0)
            w[i] = v if y[i] >= 0 else 0.0
    else:
        for i in range(n):
            w[i] = 1.0 if y[i] >= 0 else 0.0
    if by_class:
        shares = _at(types.float64, by_class)
        for i in range(n):
            if y[i] >= 0:
                w[i] *= shares[y[i]]
    return missing


@_inlined
def _weighted(l, w, n, to):  # type: ignore[no-untyped-def]
    """l * w, exactly 0 where w is, even where l is inf or NaN."""
    for i in range(n):
        to[i] = l[i] * w[i] if w[i] != 0 else 0.0


@_inlined
def _sum(v, n):  # type: ignore[no-untyped-def]
    """Eight sums side by side, in an order set by n alone."""
    a = b = c = d = e = f = g = h = 0.0  # float64, whatever v is
    i = 0
    while i + 8 <= n:
        a += v[i]
        b += v[i + 1]
        c += v[i + 2]
        d += v[i + 3]
        e += v[i + 4]
        f += v[i + 5]
        g += v[i + 6]
        h += v[i + 7]
        i += 8
    while i < n:
        a += v[i]
        i += 1
    return ((a + b) + (c + d)) + ((e + f) + (g + h))


# The chunks ------------------------------------------------------------------------------------

_LABELS, _DOUBLES = Room(4 * POSITIONS), Room(8 * POSITIONS)


def carry(walk, wide, scores, gradient, labels, weights, formula, chunks, sums, losses, divisor):
    """Carry positions first .. last - 1, in chunks of `size`; `first` is a multiple of it.

    Args:
        walk: address of the kernel; 0 to check and count labels and weights only.
        wide: whether losses are float64, else float32.
        scores: C, inner, and x with its steps in bytes along outer, classes and inner.
        gradient: dx (0 for none) with its steps, and whether it is written past the caches.
        labels: address of the lowering, of the labels, step, address of the ignored classes, how
            many.
        weights: address (0 for none), step, address of the class weights (0 for none).
        formula: label smoothing and the clip's bounds.
        chunks: first, last, size.
        sums: address of the rows of sums, one a chunk from position 0 on.
        losses: address of all losses, to be written times their weights; 0 for none.
        divisor: of the gradient; 0 makes it 0.
    """
    classes, inner, x, xo, xc, xi = scores
    dx, do, dc, di, past = gradient
    lowering, y_from, y_step, ignored, many = labels
    w_from, w_step, by_class = weights
    first, last, size = chunks
    y_at, l_at, g_at = stack(_LABELS), stack(_DOUBLES), stack(_DOUBLES)
    w_at, v_at = stack(_DOUBLES), stack(_DOUBLES)
    y = _at(types.int32, y_at)
    w, v, g = _at(types.float64, w_at), _at(types.float64, v_at), _at(types.float64, g_at)
    for p in range(first, last, size):
        n = min(size, last - p)
        row = _at(types.float64, sums + 8 * SUMS * (p // size))
        here = (y_from + p * y_step, y_step, n, classes, ignored, many, y_at)
        row[BAD] = _call_lowering(lowering, here)
        row[MISSING] = _weigh(w_from + p * w_step if w_from else 0, w_step, by_class, y, n, w)
        kept = 0
        for i in range(n):
            kept += y[i] >= 0
        row[KEPT], row[WEIGHT], row[TOTAL] = kept, _sum(w, n), 0.0
        if row[BAD] or row[MISSING]:
            return
        if not walk:
            continue
        if dx:
            for i in range(n):
                g[i] = w[i] / divisor if divisor != 0 else 0.0
        _call(
            walk,
            (classes, inner, p, p + n, x, xo, xc, xi, y_at, l_at, dx, do, dc, di, g_at),
            formula,
            past,
        )
        if wide:
            _weighted(_at(types.float64, l_at), w, n, v)
        else:
            _weighted(_at(types.float32, l_at), w, n, v)
        row[TOTAL] = _sum(v, n)
        if losses:
            if wide:
                _copy(v, n, _at(types.float64, losses + 8 * p))
            else:
                _copy(v, n, _at(types.float32, losses + 4 * p))


@_inlined
def _copy(v, n, to):  # type: ignore[no-untyped-def]
    for i in range(n):
        to[i] = v[i]


def small(walk, x, y, losses, dx, gradient, mean, ignored, many, share, lo, hi):
    """One chunk of plain arrays: x[n, C], y[n], C order, no weights, one class ignored or none.

    Args:
        walk: address of the kernel.
        x: scores.
        y: labels.
        losses: where they go, in the arithmetic's dtype.
        dx: where the gradient goes, of x's shape and type.
        gradient: whether it is wanted; else dx is not looked at.
        mean: whether the gradient is that of the mean over labels kept, else of the sum.
        ignored: the class that does not count.
        many: how many there are, 0 or 1.
        share: label smoothing.
        lo: lower bound of the clip.
        hi: upper bound.

    Returns:
        How many labels are no class (nothing is written then), sum(l), and how many are kept.
    """
    n, classes = x.shape
    y_at, g_at = stack(_LABELS), stack(_DOUBLES)
    lowered, g = _at(types.int32, y_at), _at(types.float64, g_at)
    _mark(y, 1, n, classes, (ignored,), many, lowered)
    bad = kept = 0
    for i in range(n):
        bad += lowered[i] == NO_CLASS
        kept += lowered[i] >= 0
    if bad:
        return bad, 0.0, 0
    row, size = x.strides
    to = dx.ctypes.data if gradient else 0
    if gradient:
        factor = 1.0 / kept if mean and kept else 1.0
        for i in range(n):
            g[i] = factor if lowered[i] >= 0 else 0.0
    places = (0, n, x.ctypes.data, row, size, 0, y_at, losses.ctypes.data, to, row, size, 0, g_at)
    _call(walk, (classes, 1, *places), (share, lo, hi), 0)
    return 0, _sum(losses, n), kept
