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
from numba.core import cgutils, types
from numba.extending import intrinsic

from sparse_xent.kernels.arithmetic import minimum
from sparse_xent.kernels.cpu.abi import (
    BAD,
    DATA,
    DOUBLES,
    FOUND,
    INTEGERS,
    ITEMS,
    KEPT,
    LOWERED,
    MISSING,
    ODD_ROWS,
    POSITIONS,
    SIZES,
    SUMS,
    TOTAL,
    WEIGHT,
    ChunkParams,
    ScalarParams,
)
from sparse_xent.kernels.cpu.compiler import inlined as part
from sparse_xent.kernels.cpu.implausible import no_notes
from sparse_xent.kernels.cpu.vectors import StackBytes as Room
from sparse_xent.kernels.cpu.vectors import fetch_factor, fetch_long, keep
from sparse_xent.kernels.cpu.vectors import stack_alloc as stack
from sparse_xent.kernels.staging import Value as Num
from sparse_xent.kernels.staging import primitive as word

_long, _double = types.int64, types.float64

SIGNATURES: dict[str, tuple[types.Type, ...]] = {
    # C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, notes; share, lo, hi; past,
    # scratch
    "walk": (types.void, *[_long] * INTEGERS, *[_double] * DOUBLES, *[_long] * 2),
    "lowering": (_long, *[_long] * 7),  # labels, step, n, classes, ignored, many, to
    "carry": (types.void, *[_long] * 4),
    "small": (_long, *[_long] * 2),
    "rank": (types.void, *[_long] * 10),
}
"""What each C function gives, and what it takes."""

IGNORED, NO_CLASS = np.int32(-1), np.int32(-2)
NA = float(-(2**31))  # R's integer NA


def _c_function(gives: types.Type, *takes: types.Type) -> Callable[..., Any]:
    """What calls a C function of this signature, given its address and the tuple it takes."""

    @intrinsic
    def call(_typing, address, values):  # type: ignore[no-untyped-def]
        def emit(context, builder, _sig, args):  # type: ignore[no-untyped-def]
            of = context.get_value_type
            function = ir.FunctionType(of(gives), [of(t) for t in takes])
            pointer = builder.inttoptr(args[0], function.as_pointer())
            called = builder.call(pointer, cgutils.unpack_tuple(builder, args[1]))
            return context.get_dummy_value() if gives == types.void else called

        return gives(address, values), emit

    return call


_call_walk = _c_function(*SIGNATURES["walk"])
_call_lowering = _c_function(*SIGNATURES["lowering"])
_call_carry = _c_function(*SIGNATURES["carry"])


@intrinsic
def _at(_typing, typ, address):  # type: ignore[no-untyped-def]
    """The address as a pointer to numbers of this Numba type, which loops index and LLVM widens."""
    pointer = types.CPointer(typ.dtype)

    def emit(context, builder, _sig, args):  # type: ignore[no-untyped-def]
        return builder.inttoptr(args[1], context.get_value_type(pointer))

    return pointer(typ, types.intp), emit


# Labels ----------------------------------------------------------------------------------------


@part
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


@part
def _weigh(weights, step, by_class, y, n, w):  # type: ignore[no-untyped-def]
    """The weight of a lowered label, 0 where ignored; returns how many that count are missing."""
    missing = 0
    if weights:
        given, every = _at(types.float64, weights), step // 8
        for i in range(n):
            v = given[i * every]
            missing += ((v == NA) | (v != v)) & (y[i] >= 0)
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


@part
def _settle(l, w, n, v, to, copied):  # type: ignore[no-untyped-def]
    """v = l * w, exactly 0 where w is, even where l is inf or NaN; and its copy, if wanted."""
    for i in range(n):
        v[i] = l[i] * w[i] if w[i] != 0 else 0.0
    if copied:
        for i in range(n):
            to[i] = v[i]


@part
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


@word
def _numbers(address: Num) -> tuple[Num, ...]:
    """A `ChunkParams` as it lies in memory."""
    return tuple(fetch_long(address + 8 * i) for i in range(len(ChunkParams._fields)))


@word
def _doubles(address: Num) -> tuple[Num, ...]:
    """A `ScalarParams` as it lies in memory."""
    return tuple(fetch_factor(address + 8 * i) for i in range(len(ScalarParams._fields)))


def carry(call, first, last, scratch):  # type: ignore[no-untyped-def]
    """Carry positions first .. last - 1 of a call, in chunks; `first` is where a chunk begins.

    It stops at a chunk that has a label that is no class, or a weight that is NA.

    Args:
        call: address of a `ChunkParams`.
        first: first position.
        last: position after the last.
        scratch: address of SCRATCH bytes that no other thread uses meanwhile.
    """
    (
        walk, wide, classes, inner, x, xo, xc, xi, dx, do, dc, di, past,
        lowering, y_from, y_step, ignored, many, w_from, w_step, by_class,
        size, sums, losses, mean, formula, _, order,
    ) = _numbers(call)  # fmt: skip
    share, lo, hi, divisor = _doubles(formula)
    l_at, g_at, w_at = scratch, scratch + 8 * POSITIONS, scratch + 16 * POSITIONS
    v_at, y_at, spare = scratch + 24 * POSITIONS, scratch + 32 * POSITIONS, scratch + LOWERED
    y = _at(types.int32, y_at)
    w, v, g = _at(types.float64, w_at), _at(types.float64, v_at), _at(types.float64, g_at)
    for p in range(first, last, size):
        n = minimum(size, last - p)
        row = _at(types.float64, sums + 8 * SUMS * (p // size))
        here = (y_from + p * y_step, y_step, n, classes, ignored, many, y_at)
        row[BAD] = _call_lowering(lowering, here)
        row[MISSING] = _weigh(w_from + p * w_step if w_from else 0, w_step, by_class, y, n, w)
        kept = 0
        for i in range(n):
            kept += y[i] >= 0
        row[KEPT], row[WEIGHT], row[TOTAL], row[ODD_ROWS] = kept, _sum(w, n), 0.0, 0.0
        if row[BAD] or row[MISSING]:
            return
        if not walk:
            continue
        if dx:
            if mean:
                divisor = float(kept)
            for i in range(n):
                g[i] = w[i] / divisor if divisor != 0 else 0.0
        notes = no_notes(order)
        rows = x, xo, xc, xi, y_at, l_at, dx, do, dc, di, g_at, notes
        _call_walk(walk, (classes, inner, p, p + n, *rows, share, lo, hi, past, spare))
        if wide:
            doubles = _at(types.float64, l_at), _at(types.float64, losses + 8 * p)
            _settle(doubles[0], w, n, v, doubles[1], losses != 0)
        else:
            floats = _at(types.float32, l_at), _at(types.float32, losses + 4 * p)
            _settle(floats[0], w, n, v, floats[1], losses != 0)
        row[TOTAL] = _sum(v, n)
        if fetch_factor(notes) > 0.0:
            for i in range(FOUND):
                row[ODD_ROWS + i] = fetch_factor(notes + 8 * i)


FIELDS = len(ChunkParams._fields)
_CALL, _SPARE = Room(8 * FIELDS), Room(8 * SUMS)
Y, X, LOSSES, DX, TO, CARRY = (
    8 * ChunkParams._fields.index(f) for f in ("y", "x", "losses", "dx", "sums", "carry")
)


def small(plan, arrays):  # type: ignore[no-untyped-def]
    """Carry all positions of a call that is one chunk.

    Args:
        plan: address of a `ChunkParams` whose arrays are still to come; dx and losses are 1 where wanted.
        arrays: address of a tuple of array objects: labels [n], scores [n, C], losses [n],
            gradient [n, C], SUMS float64 and SCRATCH bytes that no other thread uses meanwhile.
            What is not wanted may be anything; sums are written where losses are not.

    Returns:
        How many labels are no class, and how many rows cannot be probabilities.
    """
    call, spare = stack(_CALL), stack(_SPARE)
    for i in range(FIELDS):
        keep(call + 8 * i, fetch_long(plan + 8 * i))
    items = arrays + ITEMS
    scores = fetch_long(items + 8)
    keep(call + Y, fetch_long(fetch_long(items) + DATA))
    keep(call + X, fetch_long(scores + DATA))
    to = spare
    if fetch_long(plan + LOSSES):
        keep(call + LOSSES, fetch_long(fetch_long(items + 16) + DATA))
    else:
        to = fetch_long(fetch_long(items + 32) + DATA)
    if fetch_long(plan + DX):
        keep(call + DX, fetch_long(fetch_long(items + 24) + DATA))
    keep(call + TO, to)
    n, scratch = fetch_long(fetch_long(scores + SIZES)), fetch_long(items + 40)
    _call_carry(fetch_long(plan + CARRY), (call, 0, n, fetch_long(scratch + DATA)))
    return int(fetch_factor(to + 8 * BAD) + fetch_factor(to + 8 * ODD_ROWS))
