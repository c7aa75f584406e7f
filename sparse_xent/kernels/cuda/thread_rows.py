"""Few: rows of at most FEW classes that lie one after the other, a thread a row.

A block brings the rows of its threads into shared memory in pieces of 16 bytes, and takes their
gradients back the same way; between, a thread walks along its own row.
"""

import math

from sparse_xent.kernels.cpu.formulas import whole_sum
from sparse_xent.kernels.cpu.vectors import itemsize, maximum, rounded, select
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
    LAST,
    arrived,
    base,
    block,
    blocks,
    copy,
    get_score,
    get_scores,
    is_logits,
    is_smooth,
    load_one,
    makes_gradient,
    nothing,
    over,
    put_score,
    sent,
    store,
    store_one,
    thread,
    threads,
    together,
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


@part
def _pads(offset, row, pad):  # type: ignore[no-untyped-def]
    """Bytes that lie between the rows before an offset."""
    return pad * over(offset, row) if pad != 0 else 0


@part
def _bring(case, source, room, row, pad, size):  # type: ignore[no-untyped-def]
    """`size` bytes of rows into shared memory; a row of `row` bytes is followed by `pad`."""
    one = itemsize(case)
    done = 0
    if source % 16 == 0:
        k = thread()
        while k < size // 16:
            copy(room + 16 * k + _pads(16 * k, row, pad), source + 16 * k)
            k += threads()
        done = size // 16 * 16
    sent()
    k = done + one * thread()
    while k < size:
        put_score(case, room + k + _pads(k, row, pad), load_one(case, source + k))
        k += one * threads()
    arrived(LAST)


@part
def _take_back(case, room, to, row, pad, size):  # type: ignore[no-untyped-def]
    """The way back of `_bring`."""
    one = itemsize(case)
    done = 0
    if to % 16 == 0:
        k = thread()
        while k < size // 16:
            store(case, to + 16 * k, get_scores(case, room + 16 * k + _pads(16 * k, row, pad)))
            k += threads()
        done = size // 16 * 16
    k = done + one * thread()
    while k < size:
        store_one(case, to + k, get_score(case, room + k + _pads(k, row, pad)))
        k += one * threads()


@part
def few(case, a):  # type: ignore[no-untyped-def]
    """Short rows, staged through shared memory."""
    span = rounded(case, a.lo), rounded(case, a.hi)
    share = rounded(case, a.smoothing)
    one = itemsize(case)
    row = a.classes * one
    pad = 16 if row % 16 == 0 else 0  # or rows would begin in the same few banks of memory
    room = base()
    each = scale(a) if makes_gradient(case) else 0.0
    total, kept, weights = 0.0, 0.0, 0.0
    first = block() * threads()
    while first < a.count:
        size = min(threads(), a.count - first) * row
        _bring(case, a.x + first * row, room, row, pad, size)
        together()
        p = first + thread()
        if p < a.count:
            t = label(a, p, 0, p, True)
            w = weight(a, p, 0, p, t, True)
            at = room + thread() * (row + pad)
            value = nothing(case)
            g = factor(a, p, 0, w, each) if makes_gradient(case) else 0.0
            if t >= 0:
                x_t = get_score(case, at + t * one)
                m = empty(x_t)
                if is_logits(case):
                    c = 0
                    while c < a.classes:
                        x = get_score(case, at + c * one)
                        m = m if c == t else maximum(x, m)
                        c += 1
                    m = maximum(m, empty(x_t))
                rest = nothing(case)
                c = 0
                while c < a.classes:
                    e = term(case, get_score(case, at + c * one), m, span)
                    if c != t:
                        rest += e
                    c += 1
                rest, hit, m = whole_row(case, rest, m, x_t, span)
                s = whole_sum(case, rest, hit)
                mean, count = nothing(case), nothing(case)
                if is_smooth(case):
                    tiny = shrink(case, a.classes)
                    c = 0
                    while c < a.classes:
                        y, alive = gist(case, get_score(case, at + c * one), m, s, tiny, span)
                        mean += y
                        count += alive
                        c += 1
                    mean = mean_of(case, mean, count, a.classes, x_t, m, tiny)
                value = loss_of(case, rest, hit, m, x_t, mean, share, span)
                if makes_gradient(case) and g != 0.0:
                    la, lb, aim = lines_of(case, rest, hit, x_t, count, a.classes, share, g, span)
                    c = 0
                    while c < a.classes:
                        x = get_score(case, at + c * one)
                        d = slope_of(case, x, m, la, lb, s, span)
                        put_score(case, at + c * one, select(c == t, aim, d))
                        c += 1
            if makes_gradient(case) and (t < 0 or g == 0.0):
                d = rounded(case, math.nan if t == BAD else 0.0)
                c = 0
                while c < a.classes:
                    put_score(case, at + c * one, d)
                    c += 1
            result = weighted(value, t, w)
            write_loss(a, p, 0, result)
            total += result
            kept += 1.0 if t != IGNORED else 0.0
            weights += w
        together()
        if makes_gradient(case):
            _take_back(case, room, a.dx + first * row, row, pad, size)
            together()
        first += blocks() * threads()
    bring_together(a, room, total, kept, weights)
