"""Lanes: rows of classes side by side that fit the registers of 8, 16 or 32 lanes.

Every lane holds 16-byte pieces of the row, cut where memory has its boundaries; what lies before
the row's first class or behind its last is a fill. The row is read once, and a gradient is made of
what the registers hold.
"""

from sparse_xent.kernels.cpu.formulas import whole_sum
from sparse_xent.kernels.cpu.vectors import itemsize, maximum, rounded, select, splat
from sparse_xent.kernels.cuda.formulas import (
    empty,
    gist,
    lines_of,
    loss_of,
    mean_of,
    shrink,
    slope_of,
    term,
    whole_row,
)
from sparse_xent.kernels.cuda.intrinsics import (
    base,
    block,
    blocks,
    columns,
    everywhere,
    folded,
    full,
    head,
    highest_of,
    is_smooth,
    live,
    load_one,
    load_within,
    makes_gradient,
    nothing,
    others,
    store_within,
    thread,
    threads,
    total_of,
    width,
)
from sparse_xent.kernels.cuda.position import (
    BAD,
    IGNORED,
    bring_together,
    factor,
    label,
    part,
    place,
    scale,
    weight,
    weighted,
    write_loss,
)


@part
def lanes(case, a):  # type: ignore[no-untyped-def]
    """Rows that the lanes of a warp, or some of them, hold."""
    span = rounded(case, a.lo), rounded(case, a.hi)
    share = rounded(case, a.smoothing)
    many, size = width(case), itemsize(case)
    mine = thread() % many
    rows, row = threads() // many, thread() // many
    step = many * full(case)
    each = scale(a) if makes_gradient(case) else 0.0
    total, kept, weights = 0.0, 0.0, 0.0
    first = block() * rows
    while first < a.count:
        # Lanes without a row go along, as the last: what is joined is joined by whole warps.
        p = min(first + row, a.count - 1)
        alone = mine == 0 and first + row < a.count
        o, i = place(a, p)
        t = label(a, o, i, p, alone)
        w = weight(a, o, i, p, t, alone)
        classes = a.classes if t >= 0 else 0
        at = a.x + o * a.xo + i * a.xi
        column = mine * full(case) - head(case, at)
        x = load_within(case, at, column, step, classes)
        x_t = load_one(case, at + max(t, 0) * size)
        where = columns(case, column, step)
        rest_of = others(case, x, where, t)
        m = maximum(highest_of(case, rest_of), empty(x_t))
        e = live(case, term(case, rest_of, m, span), where, t, classes)
        rest = total_of(case, folded(case, e))
        rest, hit, m = whole_row(case, rest, m, x_t, span)
        s = whole_sum(case, rest, hit)
        mean, count = nothing(case), nothing(case)
        if is_smooth(case):
            tiny = shrink(case, a.classes)
            y, one = gist(case, x, m, s, tiny, span)
            mean = total_of(case, folded(case, everywhere(case, y, where, classes)))
            count = total_of(case, folded(case, everywhere(case, one, where, classes)))
            mean = mean_of(case, mean, count, a.classes, x_t, m, tiny)
        value = loss_of(case, rest, hit, m, x_t, mean, share, span)
        value = weighted(value, t, w)
        if alone:
            write_loss(a, o, i, value)
            total += value
            kept += 1.0 if t != IGNORED else 0.0
            weights += w
        if makes_gradient(case) and first + row < a.count:
            g = factor(a, o, i, w, each)
            to = a.dx + o * a.do + i * a.di
            d = splat(case, 0.0)
            if t == BAD:
                d = splat(case, float("nan"))
            elif t != IGNORED and g != 0.0:
                la, lb, aim = lines_of(case, rest, hit, x_t, count, a.classes, share, g, span)
                d = slope_of(case, x, m, la, lb, s, span)
                d = select(where == t, aim, d)
            store_within(case, to, column, step, a.classes, d)
        first += blocks() * rows
    bring_together(a, base(), total, kept, weights)
