"""Lanes: rows of classes side by side that fit the registers of 8, 16 or 32 lanes.

Every lane holds 16-byte pieces of the row, cut where memory has its boundaries; what lies before
the row's first class or behind its last is a fill. The row is read once, and a gradient is made of
what the registers hold.
"""

from sparse_xent.kernels.arithmetic import itemsize, maximum, rounded, select, splat
from sparse_xent.kernels.cuda import intrinsics as gpu
from sparse_xent.kernels.cuda.epilogue import fill_value, finish_loss, finish_sums, record
from sparse_xent.kernels.cuda.formulas import class_gradient, empty, shrink, smoothing_terms, term
from sparse_xent.kernels.cuda.position import (
    factor,
    inlined,
    label,
    place,
    reduce_sums,
    scale,
    weight,
)
from sparse_xent.kernels.formulas import gradient_coefficients, is_smooth


@inlined
def warp_rows(spec, a):
    """Rows that fit the registers of a warp, or of some of its lanes."""
    clip_range = rounded(spec, a.lo), rounded(spec, a.hi)
    smoothing = rounded(spec, a.smoothing)
    many, size = gpu.width(spec), itemsize(spec)
    mine = gpu.thread() % many
    rows, row = gpu.threads() // many, gpu.thread() // many
    step = many * gpu.full(spec)
    each = scale(a) if gpu.makes_gradient(spec) else 0.0
    total, kept, weights = 0.0, 0.0, 0.0
    first = gpu.block() * rows
    while first < a.count:
        # Lanes without a row repeat the last row: whole warps have to take part in what is joined.
        p = min(first + row, a.count - 1)
        alone = mine == 0 and first + row < a.count
        o, i = place(a, p)
        t = label(a, o, i, p, alone)
        w = weight(a, o, i, p, t, alone)
        classes = a.classes if t >= 0 else 0
        at = a.x + o * a.xo + i * a.xi
        column = mine * gpu.full(spec) - gpu.head(spec, at)
        x = gpu.load_within(spec, at, column, step, classes)
        x_t = gpu.load_one(spec, at + max(t, 0) * size)
        where = gpu.columns(spec, column, step)
        others_x = gpu.without_target(spec, x, where, t)
        m = maximum(gpu.highest_of(spec, others_x), empty(x_t))
        e = gpu.row_terms(spec, term(spec, others_x, m, clip_range), where, t, classes)
        others = gpu.total_of(spec, gpu.folded(spec, e))
        others, target_term, m, s = finish_sums(spec, others, m, x_t, clip_range)
        sum_, count = gpu.nothing(spec), gpu.nothing(spec)
        if is_smooth(spec):
            y, one = smoothing_terms(spec, x, m, s, shrink(spec, a.classes), clip_range)
            sum_ = gpu.total_of(
                spec, gpu.folded(spec, gpu.zero_outside_row(spec, y, where, classes))
            )
            count = gpu.total_of(
                spec, gpu.folded(spec, gpu.zero_outside_row(spec, one, where, classes))
            )
        value = finish_loss(
            spec, others, target_term, m, x_t, sum_, count, a.classes, smoothing, clip_range
        )
        if alone:
            total, kept, weights = record(a, o, i, t, w, value, total, kept, weights)
        if gpu.makes_gradient(spec) and first + row < a.count:
            g = factor(a, o, i, w, each)
            to = a.dx + o * a.do + i * a.di
            d = splat(spec, fill_value(t))
            if t >= 0 and g != 0.0:
                la, lb, target_gradient = gradient_coefficients(
                    spec, others, target_term, x_t, count, a.classes, smoothing, g, clip_range
                )
                d = class_gradient(spec, x, m, la, lb, s, clip_range)
                d = select(where == t, target_gradient, d)
            gpu.store_within(spec, to, column, step, a.classes, d)
        first += gpu.blocks() * rows
    reduce_sums(a, gpu.base(), total, kept, weights)
