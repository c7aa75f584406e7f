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

from sparse_xent.kernels import arithmetic as ops
from sparse_xent.kernels.arithmetic import FLOAT32, FLOAT64
from sparse_xent.kernels.cpu import vectors as vec
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
from sparse_xent.kernels.staging import Value, constant, primitive, stage

_long, _double = types.int64, types.float64

SIGNATURES: dict[str, tuple[types.Type, ...]] = {
    # C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, notes; smoothing, low, high;
    # nontemporal, scratch
    "kernel": (types.void, *[_long] * INTEGERS, *[_double] * DOUBLES, *[_long] * 2),
    "decode_labels": (_long, *[_long] * 7),  # labels, step, n, classes, ignored, many, to
    "run_chunks": (types.void, *[_long] * 4),
    "run_small_call": (_long, *[_long] * 2),
    "rank": (types.void, *[_long] * 10),  # C, inner, first, last, x, xo, xc, xi, y, out
    "exact_sums": (types.void, *[_long] * 7),  # n, l, w, y, ranks, v, to
}
"""What each C function gives, and what it takes."""

IGNORED, NO_CLASS = np.int32(-1), np.int32(-2)
NA = float(-(2**31))  # R's integer NA
_FOUND = vec.StackBytes(8 * FOUND)


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


@primitive
def _class_of(label: Value, classes: Value) -> Value:
    """Labels as int32; NO_CLASS where they are none, as NaN and 1.7 are."""
    inside = (label >= 0) & (label < classes)
    if not label.floating:
        return ops.select(
            inside, label.cast("trunc", types.int32) if label.wide else label, NO_CLASS
        )
    k = ops.select(inside, label.cast("fptosi", types.int32), NO_CLASS)
    return ops.select(k.cast("sitofp", types.float64) == label, k, NO_CLASS)


@primitive
def _unless_ignored(k: Value, label: Value, ignored: Value) -> Value:
    """k, but IGNORED where the label is this class, which may be no number of its dtype."""
    same = label == ignored
    if label.element == types.int32:
        same = same & (ignored.to(types.int32).to(types.int64) == ignored)
    return ops.select(same, IGNORED, k)


@primitive
def _count(k: Value, kept: Value, bad: Value) -> tuple[Value, Value]:
    """Classes, and what is neither class nor ignored, onto their numbers, by lanes."""
    one = constant(k.typ, 1)
    return kept + ops.select(k >= 0, one, 0), bad + ops.select(k == NO_CLASS, one, 0)


@inlined
def _decoded(label, classes, ignored, many):  # type: ignore[no-untyped-def]
    """One label, or a vector of them."""
    k = _class_of(label, classes)
    for c in range(many):
        k = _unless_ignored(k, label, vec.fetch_long(ignored + 8 * c))
    return k


@inlined
def decode_labels(fmt, labels, step, n, classes, ignored, many, to):  # type: ignore[no-untyped-def]
    """n labels at an address into int32 at another; comparisons only, so that nothing is rounded.

    Returns how many are classes; of labels that are neither classes nor ignored, if there are some,
    minus their number.
    """
    w, size = vec.label_lanes(fmt), vec.label_size(fmt)
    together = n // w * w if step == size else 0
    kept, bad = vec.no_labels(fmt), vec.no_labels(fmt)
    for i in range(0, together, w):
        k = _decoded(vec.load_labels(fmt, labels + i * size), classes, ignored, many)
        vec.keep(to + 4 * i, k)
        kept, bad = _count(k, kept, bad)
    most, wrong = ops.total(kept), ops.total(bad)
    for i in range(together, n):
        one = _decoded(vec.load_label(fmt, labels + i * step), classes, ignored, many)
        vec.keep(to + 4 * i, one)
        most, wrong = _count(one, most, wrong)
    return -wrong if wrong else most


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


@primitive
def _join_sizes(w: Value, largest: Value, least: Value) -> tuple[Value, Value]:
    """A vector of weights onto the largest |w| and the least that is not 0, by lanes."""
    size = ops.maximum(w, 0.0 - w)
    return ops.maximum(size, largest), ops.minimum(ops.select(size != 0, size, math.inf), least)


@inlined
def _weigh(l, w, n):  # type: ignore[no-untyped-def]
    """l *= w, exactly 0 where w is, even where l is inf or NaN."""
    for i in range(n):
        l[i] = l[i] * w[i] if w[i] != 0 else 0.0


@primitive
def _weighted(l: Value, w: Value) -> Value:
    """The same of one number, or a vector."""
    return ops.select(w != 0, l * w, 0.0)


@primitive
def _add_to_first(sums: Value, number: Value) -> Value:
    """A number onto the first of the sums."""
    b, lane = stage.builder, ir.Constant(ir.IntType(32), 0)
    first = b.fadd(b.extract_element(sums.value, lane), number.value)
    return Value(sums.typ, b.insert_element(sums.value, first, lane))


@primitive
def _joined(sums: Value) -> Value:
    """The sum of the sums, neighbours first."""
    while (count := sums.typ.lanes) > 2:
        even, odd = (ops.shuffled(sums, sums, range(i, count, 2)) for i in (0, 1))
        sums = even + odd
    return ops.total(sums)


@inlined
def _sum(wide, l, w, n):  # type: ignore[no-untyped-def]
    """The sum of l * w, of l where w is 0: eight sums side by side, in an order set by n alone."""
    sums, one, i = ops.splat(FLOAT64, 0.0), 8 if wide else 4, 0
    while i + 8 <= n:
        at = l + one * i
        v = vec.fetch_losses(FLOAT64, at) if wide else vec.fetch_losses(FLOAT32, at)
        sums += _weighted(v, vec.fetch(FLOAT64, w + 8 * i)) if w else v
        i += 8
    while i < n:
        at = l + one * i
        x = vec.fetch_factor(at) if wide else float(vec.fetch_one(FLOAT32, at))
        sums = _add_to_first(sums, _weighted(x, vec.fetch_factor(w + 8 * i)) if w else x)
        i += 1
    return _joined(sums)


@inlined
def _sum_and_sizes(w, n):  # type: ignore[no-untyped-def]
    """The sum of w as `_sum` has it, the largest |w| and the least that is not 0."""
    sums, i = ops.splat(FLOAT64, 0.0), 0
    largest, least = sums, ops.splat(FLOAT64, math.inf)
    while i + 8 <= n:
        v = vec.fetch(FLOAT64, w + 8 * i)
        sums += v
        largest, least = _join_sizes(v, largest, least)
        i += 8
    while i < n:
        one = vec.fetch_factor(w + 8 * i)
        sums = _add_to_first(sums, one)
        largest, least = _join_sizes(ops.splat(FLOAT64, one), largest, least)
        i += 1
    return _joined(sums), ops.highest(largest), ops.lowest(least)


# The chunks ------------------------------------------------------------------------------------


@primitive
def _numbers(address: Value) -> tuple[Value, ...]:
    """A `ChunkParams` as it lies in memory."""
    return tuple(vec.fetch_long(address + 8 * i) for i in range(len(ChunkParams._fields)))


@primitive
def _doubles(address: Value) -> tuple[Value, ...]:
    """A `ScalarParams` as it lies in memory."""
    return tuple(vec.fetch_factor(address + 8 * i) for i in range(len(ScalarParams._fields)))


@primitive
def _divisor(divided_by: Value, known: Value, kept: Value, weight: Value) -> Value:
    """What a gradient is divided by: what is known beforehand, or as DIVIDED_BY says."""
    counted = ops.select(divided_by == DIVIDED_BY + 1, kept, known)
    return ops.select(divided_by == DIVIDED_BY + 2, weight, counted)


@inlined
def _is_beyond(largest, least, divisor, wide):  # type: ignore[no-untyped-def]
    """Whether some w / divisor lies where no kernel writes gradients."""
    if divisor == 0:
        return False
    low, high = _NARROW
    if wide:
        low, high = _WIDE
    return not largest / abs(divisor) <= high or least / abs(divisor) < low


@primitive
def _begin(row: Value, kept: Value) -> None:
    """The sums of a chunk whose labels are decoded, and have no weights."""
    bad, kept = (k.to(types.float64) for k in (0 - ops.minimum(kept, 0), kept))
    for place in (MISSING, TOTAL, ODD_ROWS):
        vec.keep(row + 8 * place, constant(types.float64, 0.0))
    for place, value in ((BAD, bad), (KEPT, kept), (WEIGHT, kept)):
        vec.keep(row + 8 * place, value)


@primitive
def _copy(to: Value, source: Value, count: vec.StackBytes) -> None:
    """Copy so many bytes, in eights."""
    for at in range(0, count.size, 8):
        vec.keep(to + at, vec.fetch_long(source + at))


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
    scratch = vec.fetch_long(own)
    g_at, w_at, v_at = scratch + 8 * POSITIONS, scratch + 16 * POSITIONS, scratch + 24 * POSITIONS
    y_at, spare = scratch + 32 * POSITIONS, scratch + POSITION_BYTES
    y, w, g = _at(types.int32, y_at), _at(types.float64, w_at), _at(types.float64, g_at)
    weights, one = w_at if w_from or by_class else 0, 8 if wide else 4
    for p in range(first, last, size):
        n = ops.minimum(size, last - p)
        row = _at(types.float64, sums + 8 * SUMS * (p // size))
        here = (y_from + p * y_step, y_step, n, classes, ignored, many, y_at)
        kept = _call_decoder(decoder, here)
        _begin(sums + 8 * SUMS * (p // size), kept)
        largest, least = 1.0, 1.0
        if weights:
            row[MISSING] = _weights(w_from + p * w_step if w_from else 0, w_step, by_class, y, n, w)
            row[WEIGHT], largest, least = _sum_and_sizes(weights, n)
        row[LARGEST_WEIGHT], row[LEAST_WEIGHT] = largest, least
        if row[BAD] or row[MISSING]:
            return
        if not kernel:
            continue
        if dx:
            divisor = _divisor(divided_by, divisor, float(kept), row[WEIGHT])
            if divided_by and _is_beyond(largest, least, divisor, wide):
                row[ODD_ROWS] = BEYOND
                return
            if weights or p == first:  # without weights for all chunks: none has more positions
                for i in range(n):
                    g[i] = (w[i] if weights else 1.0) / divisor if divisor != 0 else 0.0
        notes, l_at = no_notes(order), losses + one * p if losses else scratch
        rows = x, xo, xc, xi, y_at, l_at, dx, do, dc, di, g_at, notes
        _call_kernel(
            kernel, (classes, inner, p, p + n, *rows, smoothing, low, high, nontemporal, spare)
        )
        if rank:  # the scores are still in the second-level cache
            ranks_at = g_at if exact else ranks + 8 * p
            _call_rank(rank, (classes, inner, p, p + n, x, xo, xc, xi, y_at, ranks_at))
        if exact:
            _call_exact_sums(exact, (n, l_at, weights, y_at, g_at, v_at, own))
        elif losses:  # nobody wants their sum
            if weights and wide:
                _weigh(_at(types.float64, l_at), w, n)
            elif weights:
                _weigh(_at(types.float32, l_at), w, n)
        else:
            row[TOTAL] = _sum(wide, l_at, weights, n)
        if vec.fetch_factor(notes) > 0.0:
            _copy(sums + 8 * (SUMS * (p // size) + ODD_ROWS), notes, _FOUND)


_CALL, _SPARE = vec.StackBytes(8 * len(ChunkParams._fields)), vec.StackBytes(8 * SUMS)
_FORMULA = vec.StackBytes(8 * len(ScalarParams._fields))
DIVISOR_AT = ScalarParams._fields.index("divisor")
_NARROW, _WIDE = FACTORS[4], FACTORS[8]
(
    KERNEL, WIDE, Y, X, SIZE, FORMULA, LOSSES, DX, SUMS_AT, W, DIVISOR, RUN_CHUNKS, ROW, COUNT,
    X_ODD, Y_ODD,
) = (
    8 * ChunkParams._fields.index(f)
    for f in (
        "kernel", "wide", "y", "x", "size", "formula", "losses", "dx", "sums", "w", "divided_by",
        "run_chunks", "row", "positions", "x_odd", "y_odd",
    )
)  # fmt: skip


@primitive
def _item(arrays: Value, i: Value, items: Value, data: Value) -> Value:
    """The address of the data of array i of a tuple."""
    return vec.fetch_long(vec.fetch_long(arrays + (items + 8 * i)) + data)


@inlined
def _together(rows, chunks):  # type: ignore[no-untyped-def]
    """What the chunks' sums say together: what is unusual, labels kept, weights and their sizes."""
    unusual, kept, weight, largest, least = 0.0, 0.0, 0.0, 0.0, math.inf
    for k in range(0, chunks * SUMS, SUMS):
        unusual += rows[k + BAD] + rows[k + MISSING] + abs(rows[k + ODD_ROWS])
        kept += rows[k + KEPT]
        weight += rows[k + WEIGHT]
        largest = ops.maximum(rows[k + LARGEST_WEIGHT], largest)
        least = ops.minimum(rows[k + LEAST_WEIGHT], least)
    return unusual, kept, weight, largest, least


@inlined
def run_small_call(plan, arrays, items, data):  # type: ignore[no-untyped-def]
    """Run all positions of a call.

    Args:
        plan: address of a `ChunkParams` whose arrays are still to come; losses, dx and w are 1
            where there are some.
        arrays: address of a tuple of array objects: labels, scores, losses, gradient, SUMS float64
            for each chunk, what `run_chunks` takes as `own`, weights. What there is none of may be
            anything, and so may the sums where one chunk's losses alone are wanted.
        items: where a tuple has its items; a constant, as is
        data: where an array object has its data's address.

    Returns:
        0 where nothing is unusual, 1 where something is: labels that are no class, weights that are
        NA, rows that cannot be probabilities, factors of the gradient that no kernel takes. -1
        where the address of scores, labels or weights is no multiple of their size, and nothing was
        done.
    """
    call, to = vec.stack_alloc(_CALL), vec.stack_alloc(_SPARE)
    _copy(call, plan, _CALL)
    y, x, own = (
        _item(arrays, 0, items, data),
        _item(arrays, 1, items, data),
        _item(arrays, 5, items, data),
    )
    wrong = (x & vec.fetch_long(plan + X_ODD)) | (y & vec.fetch_long(plan + Y_ODD))
    positions, size = vec.fetch_long(plan + COUNT), vec.fetch_long(plan + SIZE)
    if vec.fetch_long(plan + ROW):
        rows = vec.fetch_long(vec.fetch_long(vec.fetch_long(arrays + (items + 8)) + (data + SHAPE)))
        positions = rows * vec.fetch_long(plan + ROW)
    chunks, dx = (positions + size - 1) // size, vec.fetch_long(plan + DX)
    if dx or chunks > 1 or not vec.fetch_long(plan + LOSSES):
        to = _item(arrays, 4, items, data)
    vec.keep(call + Y, y)
    vec.keep(call + X, x)
    vec.keep(call + SUMS_AT, to)
    if vec.fetch_long(plan + LOSSES):
        vec.keep(call + LOSSES, _item(arrays, 2, items, data))
    if dx:
        vec.keep(call + DX, _item(arrays, 3, items, data))
    if vec.fetch_long(plan + W):
        w = _item(arrays, 6, items, data)
        wrong |= w & 7
        vec.keep(call + W, w)
    if wrong and positions:
        return -1
    run, sums = vec.fetch_long(plan + RUN_CHUNKS), _at(types.float64, to)
    if dx and chunks > 1:  # the divisor is known when all labels and weights have been read
        vec.keep(call + KERNEL, 0)
        _call_run_chunks(run, (call, 0, positions, own))
        unusual, kept, weight, largest, least = _together(sums, chunks)
        if unusual:
            return 1
        divisor = _divisor(vec.fetch_long(plan + DIVISOR), 1.0, kept, weight)
        if _is_beyond(largest, least, divisor, vec.fetch_long(plan + WIDE)):
            sums[ODD_ROWS] = BEYOND
            return 1
        formula, known = vec.stack_alloc(_FORMULA), vec.fetch_long(plan + FORMULA)
        _copy(formula, known, _FORMULA)
        vec.keep(formula + 8 * DIVISOR_AT, divisor)
        vec.keep(call + FORMULA, formula)
        vec.keep(call + DIVISOR, 0)
        vec.keep(call + KERNEL, vec.fetch_long(plan + KERNEL))
    _call_run_chunks(run, (call, 0, positions, own))
    unusual, _, _, _, _ = _together(sums, chunks)
    return 1 if unusual else 0
