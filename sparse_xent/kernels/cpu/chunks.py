"""One call's positions in chunks: labels, weights, kernel and sums, without the GIL.

A chunk's labels are decoded into a scratch that stays in cache, a kernel makes their losses (and
gradients) beside them, and the chunk leaves one row of sums behind: chunks are cut by shape alone,
so no sum depends on which thread ran which. Everything is addresses and numbers, the kernel too (a
C function): so this is compiled once for all dtypes and all layouts.

Notation: y labels, w weights, l losses, n positions of a chunk, g = w / divisor, all flat.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from sparse_xent.kernels.arithmetic import minimum
from sparse_xent.kernels.cpu.abi import (
    BAD,
    BEYOND,
    DIVIDED_BY,
    DOUBLES,
    FACTORS,
    FOUND,
    INTEGERS,
    KEPT,
    LARGEST_WEIGHT,
    LEAST_WEIGHT,
    MISSING,
    ODD_ROWS,
    POSITION_BYTES,
    POSITIONS,
    SUMS,
    TOTAL,
    WEIGHT,
    ChunkParams,
    ScalarParams,
)
from sparse_xent.kernels.cpu.array_objects import SHAPE
from sparse_xent.kernels.cpu.compiler import inlined
from sparse_xent.kernels.cpu.implausible import no_notes
from sparse_xent.kernels.cpu.vectors import (
    StackBytes,
    fetch_factor,
    fetch_long,
    keep,
    stack_alloc,
)
from sparse_xent.kernels.staging import Value, primitive

_long, _double = types.int64, types.float64

SIGNATURES: dict[str, tuple[types.Type, ...]] = {
    # C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, notes; smoothing, low, high;
    # nontemporal, scratch
    "kernel": (types.void, *[_long] * INTEGERS, *[_double] * DOUBLES, *[_long] * 2),
    "decode_labels": (_long, *[_long] * 7),  # labels, step, n, classes, ignored, many, to
    "run_chunks": (types.void, *[_long] * 4),
    "run_one_chunk": (_long, *[_long] * 2),
    "rank": (types.void, *[_long] * 10),  # C, inner, first, last, x, xo, xc, xi, y, out
    "exact_sums": (types.void, *[_long] * 7),  # n, l, w, y, ranks, v, to
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


_call_kernel = _c_function(*SIGNATURES["kernel"])
_call_decoder = _c_function(*SIGNATURES["decode_labels"])
_call_run_chunks = _c_function(*SIGNATURES["run_chunks"])
_call_rank = _c_function(*SIGNATURES["rank"])
_call_exact_sums = _c_function(*SIGNATURES["exact_sums"])


@intrinsic
def _at(_typing, typ, address):  # type: ignore[no-untyped-def]
    """The address as a pointer to numbers of this Numba type, which loops index and LLVM widens."""
    pointer = types.CPointer(typ.dtype)

    def emit(context, builder, _sig, args):  # type: ignore[no-untyped-def]
        return builder.inttoptr(args[1], context.get_value_type(pointer))

    return pointer(typ, types.intp), emit


# Labels ----------------------------------------------------------------------------------------


@inlined
def _decode(values, step, n, classes, ignored, many, y):  # type: ignore[no-untyped-def]
    """Every `step`-th of `values` into y; comparisons only, so that NaN and 1.7 are no class."""
    for i in range(n):
        v = values[i * step]
        k = np.int32(v) if (v >= 0) & (v < classes) else NO_CLASS
        y[i] = k if k == v else NO_CLASS
    for c in range(many):
        for i in range(n):
            y[i] = IGNORED if values[i * step] == ignored[c] else y[i]


def decode_labels(typ: types.Type) -> Callable[..., Any]:
    """The function that decodes labels of a Numba type, to be compiled as a C function."""
    size = typ.bitwidth // 8

    def decode(labels, step, n, classes, ignored, many, to):  # type: ignore[no-untyped-def]
        """n labels at an address into int32 at another; returns how many are no class."""
        y, ignored = _at(types.int32, to), _at(types.int64, ignored)
        _decode(_at(typ, labels), step // size, n, classes, ignored, many, y)
        bad = 0
        for i in range(n):
            bad += y[i] == NO_CLASS
        return bad

    return decode


# Weights and sums ------------------------------------------------------------------------------


@inlined
def _weights(weights, step, by_class, y, n, w):  # type: ignore[no-untyped-def]
    """The weight of a decoded label, 0 where ignored; returns how many that count are missing."""
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
        class_weights = _at(types.float64, by_class)
        for i in range(n):
            if y[i] >= 0:
                w[i] *= class_weights[y[i]]
    return missing


@inlined
def _weighted(l, w, n, v, to, copied):  # type: ignore[no-untyped-def]
    """v = l * w, exactly 0 where w is, even where l is inf or NaN; and its copy, if wanted."""
    for i in range(n):
        v[i] = l[i] * w[i] if w[i] != 0 else 0.0
    if copied:
        for i in range(n):
            to[i] = v[i]


@inlined
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


@primitive
def _numbers(address: Value) -> tuple[Value, ...]:
    """A `ChunkParams` as it lies in memory."""
    return tuple(fetch_long(address + 8 * i) for i in range(len(ChunkParams._fields)))


@primitive
def _doubles(address: Value) -> tuple[Value, ...]:
    """A `ScalarParams` as it lies in memory."""
    return tuple(fetch_factor(address + 8 * i) for i in range(len(ScalarParams._fields)))


@inlined
def _sizes(w, n):  # type: ignore[no-untyped-def]
    """The largest |w|, and the least that is not 0."""
    largest, least = 0.0, math.inf
    for i in range(n):
        size = abs(w[i])
        largest = max(largest, size)
        least = min(least, size if size != 0 else math.inf)
    return largest, least


@inlined
def _is_beyond(largest, least, divisor, wide):  # type: ignore[no-untyped-def]
    """Whether some w / divisor lies where no kernel writes gradients."""
    if divisor == 0:
        return False
    low, high = _NARROW
    if wide:
        low, high = _WIDE
    return not largest / abs(divisor) <= high or least / abs(divisor) < low


def run_chunks(call, first, last, own):  # type: ignore[no-untyped-def]
    """Run positions first .. last - 1 of a call, in chunks; `first` is where a chunk begins.

    It stops at a chunk that has a label that is no class, or a weight that is NA, or whose gradient
    takes factors that kernels do not take, before anything of it is written.

    Args:
        call: address of a `ChunkParams`.
        first: first position.
        last: position after the last.
        own: address of the address of SCRATCH bytes that no other thread uses meanwhile; where
            exact sums are wanted those are there, too: see EXACT.
    """
    (
        kernel, wide, classes, inner, x, xo, xc, xi, dx, do, dc, di,
        decoder, y_from, y_step, ignored, many, w_from, w_step, by_class,
        size, formula, sums, losses, divided_by, nontemporal, _, _, _, _, _, order, rank, ranks,
        exact,
    ) = _numbers(call)  # fmt: skip
    smoothing, low, high, divisor = _doubles(formula)
    scratch = fetch_long(own)
    l_at, g_at, w_at = scratch, scratch + 8 * POSITIONS, scratch + 16 * POSITIONS
    v_at, y_at, spare = scratch + 24 * POSITIONS, scratch + 32 * POSITIONS, scratch + POSITION_BYTES
    y = _at(types.int32, y_at)
    w, v, g = _at(types.float64, w_at), _at(types.float64, v_at), _at(types.float64, g_at)
    for p in range(first, last, size):
        n = minimum(size, last - p)
        row = _at(types.float64, sums + 8 * SUMS * (p // size))
        here = (y_from + p * y_step, y_step, n, classes, ignored, many, y_at)
        row[BAD] = _call_decoder(decoder, here)
        row[MISSING] = _weights(w_from + p * w_step if w_from else 0, w_step, by_class, y, n, w)
        kept = 0
        for i in range(n):
            kept += y[i] >= 0
        row[KEPT], row[WEIGHT], row[TOTAL], row[ODD_ROWS] = kept, _sum(w, n), 0.0, 0.0
        largest, least = 1.0, 1.0
        if w_from or by_class:
            largest, least = _sizes(w, n)
        row[LARGEST_WEIGHT], row[LEAST_WEIGHT] = largest, least
        if row[BAD] or row[MISSING]:
            return
        if not kernel:
            continue
        if dx:
            if divided_by == DIVIDED_BY + 1:
                divisor = float(kept)
            if divided_by == DIVIDED_BY + 2:
                divisor = row[WEIGHT]
            if divided_by and _is_beyond(largest, least, divisor, wide):
                row[ODD_ROWS] = BEYOND
                return
            for i in range(n):
                g[i] = w[i] / divisor if divisor != 0 else 0.0
        notes = no_notes(order)
        rows = x, xo, xc, xi, y_at, l_at, dx, do, dc, di, g_at, notes
        _call_kernel(
            kernel, (classes, inner, p, p + n, *rows, smoothing, low, high, nontemporal, spare)
        )
        if rank:  # the scores are still in the second-level cache
            ranks_at = g_at if exact else ranks + 8 * p
            _call_rank(rank, (classes, inner, p, p + n, x, xo, xc, xi, y_at, ranks_at))
        if exact:
            weights = w_at if w_from or by_class else 0
            _call_exact_sums(exact, (n, l_at, weights, y_at, g_at, v_at, own))
        elif wide:
            doubles = _at(types.float64, l_at), _at(types.float64, losses + 8 * p)
            _weighted(doubles[0], w, n, v, doubles[1], losses != 0)
            row[TOTAL] = _sum(v, n)
        else:
            floats = _at(types.float32, l_at), _at(types.float32, losses + 4 * p)
            _weighted(floats[0], w, n, v, floats[1], losses != 0)
            row[TOTAL] = _sum(v, n)
        if fetch_factor(notes) > 0.0:
            for i in range(FOUND):
                row[ODD_ROWS + i] = fetch_factor(notes + 8 * i)


FIELDS = len(ChunkParams._fields)
_CALL, _SPARE = StackBytes(8 * FIELDS), StackBytes(8 * SUMS)
_NARROW, _WIDE = FACTORS[4], FACTORS[8]
Y, X, LOSSES, DX, SUMS_AT, W, RUN_CHUNKS, ROW, COUNT = (
    8 * ChunkParams._fields.index(f)
    for f in ("y", "x", "losses", "dx", "sums", "w", "run_chunks", "row", "positions")
)
X_ODD, Y_ODD = (8 * ChunkParams._fields.index(f) for f in ("x_odd", "y_odd"))


@primitive
def _item(arrays: Value, i: Value, items: Value, data: Value) -> Value:
    """The address of the data of array i of a tuple."""
    return fetch_long(fetch_long(arrays + (items + 8 * i)) + data)


@inlined
def run_one_chunk(plan, arrays, items, data):  # type: ignore[no-untyped-def]
    """Run all positions of a call that is one chunk.

    Args:
        plan: address of a `ChunkParams` whose arrays are still to come; losses, dx and w are 1
            where there are some.
        arrays: address of a tuple of array objects: labels, scores, losses, gradient, SUMS float64
            of 0, what `run_chunks` takes as `own`, weights. What there is none of may be anything,
            and so may the sums where losses alone are wanted.
        items: where a tuple has its items; a constant, as is
        data: where an array object has its data's address.

    Returns:
        0 where nothing is unusual: labels that are no class, weights that are NA, rows that cannot
        be probabilities, factors of the gradient that no kernel takes; -1 where the
        address of scores, labels or weights is no multiple of their size, and nothing was done.
    """
    call, to = stack_alloc(_CALL), stack_alloc(_SPARE)
    for i in range(FIELDS):
        keep(call + 8 * i, fetch_long(plan + 8 * i))
    if fetch_long(plan + DX) or not fetch_long(plan + LOSSES):
        to = _item(arrays, 4, items, data)
    else:  # losses alone: nobody wants their sums
        keep(to + 8 * BAD, 0.0)
        keep(to + 8 * MISSING, 0.0)
        keep(to + 8 * ODD_ROWS, 0.0)
    y, x = _item(arrays, 0, items, data), _item(arrays, 1, items, data)
    wrong = (x & fetch_long(plan + X_ODD)) | (y & fetch_long(plan + Y_ODD))
    keep(call + Y, y)
    keep(call + X, x)
    keep(call + SUMS_AT, to)
    if fetch_long(plan + LOSSES):
        keep(call + LOSSES, _item(arrays, 2, items, data))
    if fetch_long(plan + DX):
        keep(call + DX, _item(arrays, 3, items, data))
    if fetch_long(plan + W):
        w = _item(arrays, 6, items, data)
        wrong |= w & 7
        keep(call + W, w)
    positions = fetch_long(plan + COUNT)
    if fetch_long(plan + ROW):
        rows = fetch_long(fetch_long(fetch_long(arrays + (items + 8)) + (data + SHAPE)))
        positions = rows * fetch_long(plan + ROW)
    if wrong and positions:
        return -1
    _call_run_chunks(
        fetch_long(plan + RUN_CHUNKS), (call, 0, positions, _item(arrays, 5, items, data))
    )
    row = _at(types.float64, to)
    return int(row[BAD] + row[MISSING] + abs(row[ODD_ROWS]))
