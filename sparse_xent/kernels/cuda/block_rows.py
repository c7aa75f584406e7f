"""Block rows: long rows of classes, a block a row, or a cluster of blocks.

Thread k of all that share a row takes every 16 bytes' worth whose number is k modulo their number,
counted from the last boundary before the row, and every lane of it has a sum and a reference of
its own. So each of them adds up the same columns in the same order wherever a row begins, and
however many blocks share it; and their results are joined by operations that have no order.

A gradient takes a second pass. For it the row is kept in shared memory where it fits, by one block
or by the blocks of a cluster; otherwise it is read again.
"""

from sparse_xent.kernels.arithmetic import highest, itemsize, maximum, rounded, splat, total
from sparse_xent.kernels.cuda import intrinsics as gpu
from sparse_xent.kernels.cuda.epilogue import fill_value, finish_loss, finish_sums, record
from sparse_xent.kernels.cuda.formulas import (
    class_gradient,
    empty,
    raised,
    shrink,
    smoothing_terms,
    term,
    too_far,
    under,
)
from sparse_xent.kernels.cuda.geometry import BLOCK_ROWS_SHARED
from sparse_xent.kernels.cuda.position import (
    factor,
    inlined,
    label,
    place,
    reduce_sums,
    scale,
    weight,
)
from sparse_xent.kernels.formulas import gradient_coefficients, is_logits, is_smooth

# Shared memory by which warps exchange values, 8 bytes for each of at most 16, in three places
# that are used in turn, so that none is written again while another warp may still read it.
_TOP, _SIZE, _SUM = 0, 128, 256
_SUMS = 384  # the block's sums: three registers that only one thread would use

LAST_BUT_ONE, LAST_BUT_TWO, LAST_BUT_THREE = gpu.Pending(1), gpu.Pending(2), gpu.Pending(3)


# Joined over all threads that share a row ------------------------------------------------------


@inlined
def _share(spec, at, value):
    """Put a warp's value where all threads that share the row can read it."""
    if gpu.thread() % 32 == 0:
        gpu.put(at + 8 * (gpu.thread() // 32), value)
    gpu.sync_row(spec)


@inlined
def _greatest(spec, at, value):
    """The greatest value of all."""
    value = gpu.max_over(gpu.WHOLE_WARP, value)
    _share(spec, at, value)
    warps = gpu.threads() // 32
    k = 0
    while k < warps * gpu.peers(spec):
        value = maximum(gpu.get_of(spec, value, at + 8 * (k % warps), k // warps), value)
        k += 1
    return value


@inlined
def _added(spec, at, value):
    """The sum of all values: lanes by halves, then warps in order."""
    value = gpu.sum_over(gpu.WHOLE_WARP, value)
    _share(spec, at, value)
    warps = gpu.threads() // 32
    total = gpu.get_of(spec, value, at, 0)
    k = 1
    while k < warps * gpu.peers(spec):
        total += gpu.get_of(spec, value, at + 8 * (k % warps), k // warps)
        k += 1
    return total


@inlined
def _total(spec, s):
    """The sum of all lanes of all threads."""
    if gpu.is_wide(spec):
        sum_ = _added(spec, gpu.base() + _SIZE, float(total(s)))
        gpu.sync_row(spec)
        return rounded(spec, sum_)
    size = _greatest(spec, gpu.base() + _SIZE, gpu.magnitude(s))
    lift = gpu.lift_of(size)
    sum_ = _added(spec, gpu.base() + _SUM, gpu.whole_sum_of(s, lift))
    return rounded(spec, gpu.from_whole(sum_, lift, size))


# Passes over the row ---------------------------------------------------------------------------


@inlined
def _add_terms(spec, x, v, first, classes, t_v, t_k, m, s, clip_range, edge):
    """One vector's terms onto the sums, its target left out."""
    if v == t_v:
        x = gpu.hide_lane(spec, x, t_k)
    if too_far(spec, x, m):
        m, s = raised(spec, x, m, s)
    e = term(spec, x, m, clip_range)
    if v == t_v:
        e = gpu.drop_lane(spec, e, t_k)
    if edge:
        e = gpu.terms_inside_row(spec, e, first, classes)
    return m, s + e


@inlined
def _read_sums(spec, at, lead, classes, t_v, t_k, me, all_, clip_range):
    """References and sums of a thread's share of the row, from global memory."""
    v, n = me, gpu.full(spec)
    m, s = empty(splat(spec, 0.0)), splat(spec, 0.0)
    origin = at - lead * itemsize(spec)
    whole = (lead + classes) // n if origin % 16 == 0 else 0
    end = (lead + classes + n - 1) // n
    if v == 0 and lead > 0:
        x = gpu.load_within(spec, at, -lead, 0, classes)
        m, s = _add_terms(spec, x, v, -lead, classes, t_v, t_k, m, s, clip_range, True)
        v += all_
    while gpu.loads_four(spec) and v + 3 * all_ < whole:
        a = gpu.load(spec, origin + 16 * v)
        b = gpu.load(spec, origin + 16 * (v + all_))
        c = gpu.load(spec, origin + 16 * (v + 2 * all_))
        d = gpu.load(spec, origin + 16 * (v + 3 * all_))
        m, s = _add_terms(spec, a, v, 0, classes, t_v, t_k, m, s, clip_range, False)
        m, s = _add_terms(spec, b, v + all_, 0, classes, t_v, t_k, m, s, clip_range, False)
        m, s = _add_terms(spec, c, v + 2 * all_, 0, classes, t_v, t_k, m, s, clip_range, False)
        m, s = _add_terms(spec, d, v + 3 * all_, 0, classes, t_v, t_k, m, s, clip_range, False)
        v += 4 * all_
    while v + all_ < whole:
        a = gpu.load(spec, origin + 16 * v)
        b = gpu.load(spec, origin + 16 * (v + all_))
        m, s = _add_terms(spec, a, v, 0, classes, t_v, t_k, m, s, clip_range, False)
        m, s = _add_terms(spec, b, v + all_, 0, classes, t_v, t_k, m, s, clip_range, False)
        v += 2 * all_
    while v < end:
        first = v * n - lead
        x = gpu.load_within(spec, at, first, 0, classes)
        m, s = _add_terms(spec, x, v, first, classes, t_v, t_k, m, s, clip_range, True)
        v += all_
    return m, s


@inlined
def _copy_ahead(spec, at, lead, classes, me, all_, k, until):
    """Start to copy some of a thread's share of the row into shared memory."""
    n = gpu.full(spec)
    origin = at - lead * itemsize(spec)
    to = gpu.base() + BLOCK_ROWS_SHARED + 16 * gpu.thread()
    end = (lead + classes + n - 1) // n
    while k < until and me + k * all_ < end:
        v = me + k * all_
        first = v * n - lead
        if first >= 0 and first + n <= classes and origin % 16 == 0:
            gpu.copy_async(to + 16 * k * gpu.threads(), origin + 16 * v)
        else:
            gpu.put_scores(
                spec, to + 16 * k * gpu.threads(), gpu.load_within(spec, at, first, 0, classes)
            )
        k += 1
    gpu.commit_copies()


@inlined
def _cached_sums(spec, lead, classes, t_v, t_k, me, all_, k, until, m, s, clip_range):
    """The same as `_read_sums`, of what has arrived in shared memory."""
    n = gpu.full(spec)
    end = (lead + classes + n - 1) // n
    at = gpu.base() + BLOCK_ROWS_SHARED + 16 * gpu.thread()
    while k < until and me + k * all_ < end:
        v = me + k * all_
        x = gpu.get_scores(spec, at + 16 * k * gpu.threads())
        m, s = _add_terms(spec, x, v, v * n - lead, classes, t_v, t_k, m, s, clip_range, True)
        k += 1
    return m, s


@inlined
def _sums(spec, at, lead, classes, t_v, t_k, me, all_, clip_range):
    """References and sums of a thread's share of the row; puts it into shared memory on the way."""
    if not gpu.caches_row(spec):
        return _read_sums(spec, at, lead, classes, t_v, t_k, me, all_, clip_range)
    # Four groups: the first is added up while the others are on their way.
    n = gpu.full(spec)
    q = ((lead + classes + n - 1) // n + 4 * all_ - 1) // (4 * all_)
    m, s = empty(splat(spec, 0.0)), splat(spec, 0.0)
    _copy_ahead(spec, at, lead, classes, me, all_, 0, q)
    _copy_ahead(spec, at, lead, classes, me, all_, q, 2 * q)
    _copy_ahead(spec, at, lead, classes, me, all_, 2 * q, 3 * q)
    _copy_ahead(spec, at, lead, classes, me, all_, 3 * q, 4 * q)
    gpu.wait_for_copies(LAST_BUT_THREE)
    m, s = _cached_sums(spec, lead, classes, t_v, t_k, me, all_, 0, q, m, s, clip_range)
    gpu.wait_for_copies(LAST_BUT_TWO)
    m, s = _cached_sums(spec, lead, classes, t_v, t_k, me, all_, q, 2 * q, m, s, clip_range)
    gpu.wait_for_copies(LAST_BUT_ONE)
    m, s = _cached_sums(spec, lead, classes, t_v, t_k, me, all_, 2 * q, 3 * q, m, s, clip_range)
    gpu.wait_for_copies(gpu.LAST)
    return _cached_sums(spec, lead, classes, t_v, t_k, me, all_, 3 * q, 4 * q, m, s, clip_range)


@inlined
def _reload(spec, at, first, classes, k):
    """A vector of the row, in the second pass."""
    if gpu.caches_row(spec):
        return gpu.get_scores(
            spec, gpu.base() + BLOCK_ROWS_SHARED + 16 * (gpu.thread() + k * gpu.threads())
        )
    return gpu.load_within(spec, at, first, 0, classes)


@inlined
def _smoothing_sums(spec, at, lead, classes, me, all_, m, s, clip_range):
    """A thread's share of the sums of the row's smoothing terms, lane by lane."""
    n, tiny = gpu.full(spec), shrink(spec, classes)
    total, count = splat(spec, 0.0), splat(spec, 0.0)
    m, s = splat(spec, m), splat(spec, s)
    k = 0
    while (me + k * all_) * n < lead + classes:
        first = (me + k * all_) * n - lead
        x = _reload(spec, at, first, classes, k)
        y, one = smoothing_terms(spec, x, m, s, tiny, clip_range)
        total = total + gpu.values_inside_row(spec, y, first, classes)
        count = count + gpu.values_inside_row(spec, one, first, classes)
        k += 1
    return total, count


@inlined
def _gradient(
    spec, at, to, lead, classes, t_v, t_k, me, all_, m, la, lb, target_gradient, s, clip_range
):
    """Write a thread's share of the gradient."""
    n = gpu.full(spec)
    m, s = splat(spec, m), splat(spec, s)
    la, lb = splat(spec, la), splat(spec, lb)
    k = 0
    while (me + k * all_) * n < lead + classes:
        v = me + k * all_
        first = v * n - lead
        d = class_gradient(spec, _reload(spec, at, first, classes, k), m, la, lb, s, clip_range)
        if v == t_v:
            d = gpu.with_lane(d, t_k, target_gradient)
        gpu.store_within(spec, to, first, 0, classes, d)
        k += 1


@inlined
def _fill(spec, to, lead, classes, me, all_, value):
    """Write a gradient row that is one number throughout."""
    n, d = gpu.full(spec), splat(spec, value)
    v = me
    while v * n < lead + classes:
        gpu.store_within(spec, to, v * n - lead, 0, classes, d)
        v += all_


@inlined
def block_rows(spec, a):
    """Rows that a block, or a cluster of blocks, takes together."""
    clip_range = rounded(spec, a.lo), rounded(spec, a.hi)
    smoothing = rounded(spec, a.smoothing)
    size, n = itemsize(spec), gpu.full(spec)
    me = gpu.rank_in_row(spec) * gpu.threads() + gpu.thread()
    all_ = gpu.peers(spec) * gpu.threads()
    alone = me == 0
    sums = gpu.base() + _SUMS
    if gpu.thread() == 0:
        gpu.put(sums, 0.0)
        gpu.put(sums + 8, 0.0)
        gpu.put(sums + 16, 0.0)
    p = gpu.block() // gpu.peers(spec)
    while p < a.count:
        # What a row needs after its sums is read after them: their loop needs the registers.
        o, i = place(a, p)
        t = label(a, o, i, p, alone)
        at = a.x + o * a.xo + i * a.xi
        lead = gpu.head(spec, at)
        value, x_t, top, others = (
            gpu.nothing(spec),
            gpu.nothing(spec),
            gpu.nothing(spec),
            gpu.nothing(spec),
        )
        if t >= 0:
            x_t = gpu.load_one(spec, at + t * size)
            t_v, t_k = (t + lead) // n, (t + lead) % n
            m, s = _sums(spec, at, lead, a.classes, t_v, t_k, me, all_, clip_range)
            top = highest(m)
            if is_logits(spec):
                top = _greatest(spec, gpu.base() + _TOP, top)
            others = _total(spec, under(spec, s, m, top))
        w = weight(a, o, i, p, t, alone)
        g = factor(a, o, i, w, scale(a)) if gpu.makes_gradient(spec) else 0.0
        to = a.dx + o * a.do + i * a.di
        if t >= 0:
            others, target_term, top, whole = finish_sums(spec, others, top, x_t, clip_range)
            sum_, count = gpu.nothing(spec), gpu.nothing(spec)
            if is_smooth(spec):
                y, one = _smoothing_sums(
                    spec, at, lead, a.classes, me, all_, top, whole, clip_range
                )
                sum_, count = _total(spec, y), _total(spec, one)
            value = finish_loss(
                spec, others, target_term, top, x_t, sum_, count, a.classes, smoothing, clip_range
            )
            if gpu.makes_gradient(spec) and g != 0.0:
                la, lb, target_gradient = gradient_coefficients(
                    spec, others, target_term, x_t, count, a.classes, smoothing, g, clip_range
                )
                t_v, t_k = (t + lead) // n, (t + lead) % n
                _gradient(
                    spec, at, to, lead, a.classes, t_v, t_k, me, all_,
                    top, la, lb, target_gradient, whole, clip_range,
                )  # fmt: skip
        if gpu.makes_gradient(spec) and (t < 0 or g == 0.0):
            _fill(spec, to, lead, a.classes, me, all_, fill_value(t))
        if alone:
            total, kept, weights = record(
                a, o, i, t, w, value, gpu.get(w, sums), gpu.get(w, sums + 8), gpu.get(w, sums + 16)
            )
            gpu.put(sums, total)
            gpu.put(sums + 8, kept)
            gpu.put(sums + 16, weights)
        p += gpu.blocks() // gpu.peers(spec)
    gpu.sync_row(spec)
    total, kept, weights = 0.0, 0.0, 0.0
    if gpu.thread() == 0:
        total, kept, weights = (
            gpu.get(total, sums),
            gpu.get(kept, sums + 8),
            gpu.get(weights, sums + 16),
        )
    reduce_sums(a, gpu.base(), total, kept, weights)
    if gpu.is_clustered(spec):
        gpu.sync_row(spec)  # no block ends while others may still read its shared memory
