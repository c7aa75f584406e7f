"""Rows: long rows of classes, a block a row, or a cluster of blocks.

Thread k of all that share a row takes every 16 bytes' worth whose number is k modulo their number,
counted from the last boundary before the row, and every lane of it has a sum and a reference of
its own. So each of them adds up the same columns in the same order wherever a row begins, and
however many blocks share it; and what they hold at the end is joined by what knows no order.

A gradient takes a second look. The row is `held` for it in shared memory where it fits, by one
block or by the blocks of a cluster; otherwise it is read again.
"""

import math

from sparse_xent.kernels.cpu.formulas import whole_sum
from sparse_xent.kernels.cpu.vectors import itemsize, maximum, rounded, splat
from sparse_xent.kernels.cuda.formulas import (
    empty,
    gist,
    lines_of,
    loss_of,
    mean_of,
    onto,
    raised,
    shrink,
    slope_of,
    term,
    too_far,
    whole_row,
)
from sparse_xent.kernels.cuda.geometry import ROWS_SHARED
from sparse_xent.kernels.cuda.intrinsics import (
    LAST,
    Left,
    arrived,
    base,
    block,
    blocks,
    copy,
    dropped,
    from_whole,
    full,
    get,
    get_of,
    get_scores,
    head,
    hidden,
    highest_in,
    inside,
    inside_only,
    is_held,
    is_logits,
    is_shared_out,
    is_smooth,
    is_wide,
    lift_of,
    load,
    load_one,
    load_within,
    magnitude,
    makes_gradient,
    max_over,
    meet,
    nothing,
    peers,
    placed,
    put,
    put_scores,
    rank,
    sent,
    store_within,
    sum_over,
    takes_four,
    thread,
    threads,
    total_in,
    whole_sum_of,
)
from sparse_xent.kernels.cuda.position import (
    BAD,
    IGNORED,
    WARP,
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

# Shared memory: what warps hand to each other, 8 bytes each for at most 16 of them, in places
# that follow each other so that none is written again while somebody may still read it.
_TOP, _SIZE, _SUM = 0, 128, 256
_SUMS = 384  # the block's sums: three registers that only one thread would use

LAST_BUT_ONE, LAST_BUT_TWO, LAST_BUT_THREE = Left(1), Left(2), Left(3)


# Joined over all who share a row ---------------------------------------------------------------


@part
def _handed(case, at, value):  # type: ignore[no-untyped-def]
    """A warp's value, for all to see."""
    if thread() % 32 == 0:
        put(at + 8 * (thread() // 32), value)
    meet(case)


@part
def _greatest(case, at, value):  # type: ignore[no-untyped-def]
    """The greatest value of all."""
    value = max_over(WARP, value)
    _handed(case, at, value)
    warps = threads() // 32
    k = 0
    while k < warps * peers(case):
        value = maximum(get_of(case, value, at + 8 * (k % warps), k // warps), value)
        k += 1
    return value


@part
def _added(case, at, value):  # type: ignore[no-untyped-def]
    """The sum of all values: lanes by halves, then warps in order."""
    value = sum_over(WARP, value)
    _handed(case, at, value)
    warps = threads() // 32
    total = get_of(case, value, at, 0)
    k = 1
    while k < warps * peers(case):
        total += get_of(case, value, at + 8 * (k % warps), k // warps)
        k += 1
    return total


@part
def _total(case, s):  # type: ignore[no-untyped-def]
    """The sum of all lanes of all threads."""
    if is_wide(case):
        total = _added(case, base() + _SIZE, float(total_in(s)))
        meet(case)
        return rounded(case, total)
    size = _greatest(case, base() + _SIZE, magnitude(s))
    lift = lift_of(size)
    return rounded(case, from_whole(_added(case, base() + _SUM, whole_sum_of(s, lift)), lift, size))


# A look at the row -----------------------------------------------------------------------------


@part
def _pile(case, x, v, first, classes, t_v, t_k, m, s, span, edge):  # type: ignore[no-untyped-def]
    """One vector's terms onto the sums, its target left out."""
    if v == t_v:
        x = hidden(case, x, t_k)
    if too_far(case, x, m):
        m, s = raised(case, x, m, s)
    e = term(case, x, m, span)
    if v == t_v:
        e = dropped(case, e, t_k)
    if edge:
        e = inside(case, e, first, classes)
    return m, s + e


@part
def _read_sums(case, at, lead, classes, t_v, t_k, me, all_, span):  # type: ignore[no-untyped-def]
    """References and sums of a thread's share of the row, from global memory."""
    v, n = me, full(case)
    m, s = empty(splat(case, 0.0)), splat(case, 0.0)
    origin = at - lead * itemsize(case)
    whole = (lead + classes) // n if origin % 16 == 0 else 0
    end = (lead + classes + n - 1) // n
    if v == 0 and lead > 0:
        x = load_within(case, at, -lead, 0, classes)
        m, s = _pile(case, x, v, -lead, classes, t_v, t_k, m, s, span, True)
        v += all_
    while takes_four(case) and v + 3 * all_ < whole:
        a = load(case, origin + 16 * v)
        b = load(case, origin + 16 * (v + all_))
        c = load(case, origin + 16 * (v + 2 * all_))
        d = load(case, origin + 16 * (v + 3 * all_))
        m, s = _pile(case, a, v, 0, classes, t_v, t_k, m, s, span, False)
        m, s = _pile(case, b, v + all_, 0, classes, t_v, t_k, m, s, span, False)
        m, s = _pile(case, c, v + 2 * all_, 0, classes, t_v, t_k, m, s, span, False)
        m, s = _pile(case, d, v + 3 * all_, 0, classes, t_v, t_k, m, s, span, False)
        v += 4 * all_
    while v + all_ < whole:
        a = load(case, origin + 16 * v)
        b = load(case, origin + 16 * (v + all_))
        m, s = _pile(case, a, v, 0, classes, t_v, t_k, m, s, span, False)
        m, s = _pile(case, b, v + all_, 0, classes, t_v, t_k, m, s, span, False)
        v += 2 * all_
    while v < end:
        first = v * n - lead
        x = load_within(case, at, first, 0, classes)
        m, s = _pile(case, x, v, first, classes, t_v, t_k, m, s, span, True)
        v += all_
    return m, s


@part
def _ask(case, at, lead, classes, me, all_, k, until):  # type: ignore[no-untyped-def]
    """Some of a thread's share of the row on its way into shared memory."""
    n = full(case)
    origin = at - lead * itemsize(case)
    to = base() + ROWS_SHARED + 16 * thread()
    end = (lead + classes + n - 1) // n
    while k < until and me + k * all_ < end:
        v = me + k * all_
        first = v * n - lead
        if first >= 0 and first + n <= classes and origin % 16 == 0:
            copy(to + 16 * k * threads(), origin + 16 * v)
        else:
            put_scores(case, to + 16 * k * threads(), load_within(case, at, first, 0, classes))
        k += 1
    sent()


@part
def _held_sums(case, lead, classes, t_v, t_k, me, all_, k, until, m, s, span):  # type: ignore[no-untyped-def]
    """The same as `_read_sums` of what has arrived."""
    n = full(case)
    end = (lead + classes + n - 1) // n
    at = base() + ROWS_SHARED + 16 * thread()
    while k < until and me + k * all_ < end:
        v = me + k * all_
        x = get_scores(case, at + 16 * k * threads())
        m, s = _pile(case, x, v, v * n - lead, classes, t_v, t_k, m, s, span, True)
        k += 1
    return m, s


@part
def _sums(case, at, lead, classes, t_v, t_k, me, all_, span):  # type: ignore[no-untyped-def]
    """References and sums of a thread's share of the row, which is then held, if it is to be."""
    if not is_held(case):
        return _read_sums(case, at, lead, classes, t_v, t_k, me, all_, span)
    # Four groups: the first is added up while the others are on their way.
    n = full(case)
    q = ((lead + classes + n - 1) // n + 4 * all_ - 1) // (4 * all_)
    m, s = empty(splat(case, 0.0)), splat(case, 0.0)
    _ask(case, at, lead, classes, me, all_, 0, q)
    _ask(case, at, lead, classes, me, all_, q, 2 * q)
    _ask(case, at, lead, classes, me, all_, 2 * q, 3 * q)
    _ask(case, at, lead, classes, me, all_, 3 * q, 4 * q)
    arrived(LAST_BUT_THREE)
    m, s = _held_sums(case, lead, classes, t_v, t_k, me, all_, 0, q, m, s, span)
    arrived(LAST_BUT_TWO)
    m, s = _held_sums(case, lead, classes, t_v, t_k, me, all_, q, 2 * q, m, s, span)
    arrived(LAST_BUT_ONE)
    m, s = _held_sums(case, lead, classes, t_v, t_k, me, all_, 2 * q, 3 * q, m, s, span)
    arrived(LAST)
    return _held_sums(case, lead, classes, t_v, t_k, me, all_, 3 * q, 4 * q, m, s, span)


@part
def _again(case, at, first, classes, k):  # type: ignore[no-untyped-def]
    """A vector of the row, at the second look."""
    if is_held(case):
        return get_scores(case, base() + ROWS_SHARED + 16 * (thread() + k * threads()))
    return load_within(case, at, first, 0, classes)


@part
def _gists(case, at, lead, classes, me, all_, m, s, tiny, span):  # type: ignore[no-untyped-def]
    """The two sums that smoothing needs."""
    n = full(case)
    total, count = splat(case, 0.0), splat(case, 0.0)
    m, s = splat(case, m), splat(case, s)
    k = 0
    while (me + k * all_) * n < lead + classes:
        first = (me + k * all_) * n - lead
        y, one = gist(case, _again(case, at, first, classes, k), m, s, tiny, span)
        total = total + inside_only(case, y, first, classes)
        count = count + inside_only(case, one, first, classes)
        k += 1
    return total, count


@part
def _descend(case, at, to, lead, classes, t_v, t_k, me, all_, m, la, lb, aim, s, span):  # type: ignore[no-untyped-def]
    """Write a thread's share of the gradient."""
    n = full(case)
    m, s = splat(case, m), splat(case, s)
    la, lb = splat(case, la), splat(case, lb)
    k = 0
    while (me + k * all_) * n < lead + classes:
        v = me + k * all_
        first = v * n - lead
        d = slope_of(case, _again(case, at, first, classes, k), m, la, lb, s, span)
        if v == t_v:
            d = placed(d, t_k, aim)
        store_within(case, to, first, 0, classes, d)
        k += 1


@part
def _fill(case, to, lead, classes, me, all_, value):  # type: ignore[no-untyped-def]
    """A row of the gradient that is one number throughout."""
    n, d = full(case), splat(case, value)
    v = me
    while v * n < lead + classes:
        store_within(case, to, v * n - lead, 0, classes, d)
        v += all_


@part
def rows(case, a):  # type: ignore[no-untyped-def]
    """Rows that a block, or a cluster of blocks, takes together."""
    span = rounded(case, a.lo), rounded(case, a.hi)
    share = rounded(case, a.smoothing)
    size, n = itemsize(case), full(case)
    me = rank(case) * threads() + thread()
    all_ = peers(case) * threads()
    alone = me == 0
    sums = base() + _SUMS
    if thread() == 0:
        put(sums, 0.0)
        put(sums + 8, 0.0)
        put(sums + 16, 0.0)
    p = block() // peers(case)
    while p < a.count:
        # What a row needs after its sums is asked for then: their loop needs the registers.
        o, i = place(a, p)
        t = label(a, o, i, p, alone)
        at = a.x + o * a.xo + i * a.xi
        lead = head(case, at)
        value, x_t, top, rest = nothing(case), nothing(case), nothing(case), nothing(case)
        if t >= 0:
            x_t = load_one(case, at + t * size)
            t_v, t_k = (t + lead) // n, (t + lead) % n
            m, s = _sums(case, at, lead, a.classes, t_v, t_k, me, all_, span)
            top = highest_in(m)
            if is_logits(case):
                top = _greatest(case, base() + _TOP, top)
            rest = _total(case, onto(case, s, m, top))
        w = weight(a, o, i, p, t, alone)
        g = factor(a, o, i, w, scale(a)) if makes_gradient(case) else 0.0
        to = a.dx + o * a.do + i * a.di
        if t >= 0:
            rest, hit, top = whole_row(case, rest, top, x_t, span)
            whole = whole_sum(case, rest, hit)
            mean, count = nothing(case), nothing(case)
            if is_smooth(case):
                tiny = shrink(case, a.classes)
                y, one = _gists(case, at, lead, a.classes, me, all_, top, whole, tiny, span)
                mean = _total(case, y)
                count = _total(case, one)
                mean = mean_of(case, mean, count, a.classes, x_t, top, tiny)
            value = loss_of(case, rest, hit, top, x_t, mean, share, span)
            if makes_gradient(case) and g != 0.0:
                la, lb, aim = lines_of(case, rest, hit, x_t, count, a.classes, share, g, span)
                t_v, t_k = (t + lead) // n, (t + lead) % n
                _descend(
                    case, at, to, lead, a.classes, t_v, t_k, me, all_, top, la, lb, aim, whole, span
                )
        if makes_gradient(case) and (t < 0 or g == 0.0):
            _fill(case, to, lead, a.classes, me, all_, math.nan if t == BAD else 0.0)
        if alone:
            result = weighted(value, t, w)
            write_loss(a, o, i, result)
            put(sums, get(result, sums) + result)
            put(sums + 8, get(w, sums + 8) + (1.0 if t != IGNORED else 0.0))
            put(sums + 16, get(w, sums + 16) + w)
        p += blocks() // peers(case)
    meet(case)
    total, kept, weights = 0.0, 0.0, 0.0
    if thread() == 0:
        total, kept, weights = get(total, sums), get(kept, sums + 8), get(weights, sums + 16)
    bring_together(a, base(), total, kept, weights)
    if is_shared_out(case):
        meet(case)  # nobody leaves while others may still read what it holds
