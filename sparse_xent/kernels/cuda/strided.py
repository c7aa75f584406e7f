"""Strided: whatever has its classes apart: channels first, R's matrices, rows of any other kind.

A thread owns neighbouring positions, 16 bytes of a class, or one position.
Classes are walked in order. What a thread needs of each of its positions (label, weight, the
target's score) is gathered in shared memory first, and becomes a vector beside the scores' own.
"""

import math

from sparse_xent.kernels.cpu.formulas import whole_sum
from sparse_xent.kernels.cpu.vectors import rounded, select, splat
from sparse_xent.kernels.cuda.formulas import (
    FAR,
    empty,
    exp,
    gist,
    lines_of,
    loss_of,
    mean_of,
    shrink,
    slope_of,
    term,
    too_far,
    whole_row,
)
from sparse_xent.kernels.cuda.geometry import SCRATCH_BLOCK, STRIDED_LANE
from sparse_xent.kernels.cuda.intrinsics import (
    base,
    beside,
    block,
    blocks,
    dropped_where,
    get,
    get_labels,
    get_lanes,
    hidden_where,
    is_class,
    is_smooth,
    lane_size,
    load_one,
    makes_gradient,
    over,
    positions,
    put,
    put_lane,
    put_lanes,
    store_beside,
    thread,
    threads,
)
from sparse_xent.kernels.cuda.position import (
    BAD,
    IGNORED,
    bring_together,
    factor,
    label,
    part,
    scale,
    weight,
    weighted,
    write_loss,
)

RUN = 64
"""Classes that are added up before their sum joins the others': no sum is long in float32."""


@part
def _pile(case, x, c, t, m, run, rest, span):  # type: ignore[no-untyped-def]
    """One class's terms onto the sums, targets left out."""
    here = is_class(t, c)
    x = hidden_where(case, x, here)
    if too_far(case, x, m):
        up = select(x - m > FAR, x, m)
        run = run * exp(m - up)
        rest = rest * exp(m - up)
        m = up
    return m, run + dropped_where(case, term(case, x, m, span), here), rest


@part
def _sums(case, at, step, classes, t, span):  # type: ignore[no-untyped-def]
    """References and sums of a thread's positions."""
    m, rest = empty(splat(case, 0.0)), splat(case, 0.0)
    c = 0
    while c < classes:
        run = splat(case, 0.0)
        end = min(classes, c + RUN)
        while c + 4 <= end:
            a = beside(case, at + c * step)
            b = beside(case, at + (c + 1) * step)
            d = beside(case, at + (c + 2) * step)
            e = beside(case, at + (c + 3) * step)
            m, run, rest = _pile(case, a, c, t, m, run, rest, span)
            m, run, rest = _pile(case, b, c + 1, t, m, run, rest, span)
            m, run, rest = _pile(case, d, c + 2, t, m, run, rest, span)
            m, run, rest = _pile(case, e, c + 3, t, m, run, rest, span)
            c += 4
        while c < end:
            m, run, rest = _pile(case, beside(case, at + c * step), c, t, m, run, rest, span)
            c += 1
        rest = rest + run
    return m, rest


@part
def _gists(case, at, step, classes, m, s, tiny, span):  # type: ignore[no-untyped-def]
    """The two sums that smoothing needs."""
    total, count = splat(case, 0.0), splat(case, 0.0)
    c = 0
    while c < classes:
        run = splat(case, 0.0)
        end = min(classes, c + RUN)
        while c < end:
            y, one = gist(case, beside(case, at + c * step), m, s, tiny, span)
            run = run + y
            count = count + one
            c += 1
        total = total + run
    return total, count


@part
def _descend(case, at, step, to, to_step, classes, t, dead, m, la, lb, aim, s, span):  # type: ignore[no-untyped-def]
    """Write the gradient of a thread's positions; exact zeros where they are dead."""
    zero = splat(case, 0.0)
    c = 0
    while c < classes:
        d = slope_of(case, beside(case, at + c * step), m, la, lb, s, span)
        d = select(is_class(t, c), aim, d)
        store_beside(case, to + c * to_step, select(dead, zero, d))
        c += 1


@part
def strided(case, a):  # type: ignore[no-untyped-def]
    """Positions side by side, classes apart."""
    span = rounded(case, a.lo), rounded(case, a.hi)
    share = rounded(case, a.smoothing)
    many, one = positions(case), lane_size(case)
    groups = a.inner // many
    # Of each position of a thread: label, weight, and a number of the arithmetic.
    labels_at = base() + SCRATCH_BLOCK * (threads() // 32) + STRIDED_LANE * many * thread()
    weights_at = labels_at + 8 * many
    numbers_at = weights_at + 8 * many
    each = scale(a) if makes_gradient(case) else 0.0
    total, kept, weights = 0.0, 0.0, 0.0
    g = block() * threads() + thread()
    while g < a.count // many:
        o = over(g, groups) if a.count < 1 << 32 else g // groups
        i = (g - o * groups) * many
        at = a.x + o * a.xo + i * a.xi
        k = 0
        while k < many:
            t = label(a, o, i + k, o * a.inner + i + k, True)
            w = weight(a, o, i + k, o * a.inner + i + k, t, True)
            put(labels_at + 8 * k, t)
            put(weights_at + 8 * k, w)
            x = load_one(case, at + k * a.xi + max(t, 0) * a.xc)
            put_lane(case, numbers_at + one * k, x)
            k += 1
        t_s = get_labels(case, labels_at)
        x_t = get_lanes(case, numbers_at)
        m, rest = _sums(case, at, a.xc, a.classes, t_s, span)
        rest, hit, m = whole_row(case, rest, m, x_t, span)
        s = whole_sum(case, rest, hit)
        mean, count = splat(case, 0.0), splat(case, 0.0)
        if is_smooth(case):
            tiny = shrink(case, a.classes)
            mean, count = _gists(case, at, a.xc, a.classes, m, s, tiny, span)
            mean = mean_of(case, mean, count, a.classes, x_t, m, tiny)
        put_lanes(case, numbers_at, loss_of(case, rest, hit, m, x_t, mean, share, span))
        k = 0
        while k < many:
            t, w = get(t, labels_at + 8 * k), get(w, weights_at + 8 * k)
            result = weighted(get(share, numbers_at + one * k), t, w)
            write_loss(a, o, i + k, result)
            total += result
            kept += 1.0 if t != IGNORED else 0.0
            weights += w
            if makes_gradient(case):
                f = factor(a, o, i + k, w, each)
                f = math.nan if t == BAD else f
                put_lane(case, numbers_at + one * k, f)
            k += 1
        if makes_gradient(case):
            gs = get_lanes(case, numbers_at)
            dead = gs == 0.0
            la, lb, aim = lines_of(case, rest, hit, x_t, count, a.classes, share, gs, span)
            _descend(
                case, at, a.xc, a.dx + o * a.do + i * a.di, a.dc, a.classes,
                t_s, dead, m, la, lb, aim, s, span,
            )  # fmt: skip
        g += blocks() * threads()
    bring_together(a, base(), total, kept, weights)
