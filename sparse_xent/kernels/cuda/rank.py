"""Ranks: how many classes stand above the label, which is all that accuracies ask of a row."""

from sparse_xent.kernels.arithmetic import itemsize, lane_size, like, select, splat
from sparse_xent.kernels.cuda.geometry import SCRATCH_BLOCK, STRIDED_LANE
from sparse_xent.kernels.cuda.intrinsics import (
    WHOLE_WARP,
    above,
    as_counts,
    base,
    block,
    blocks,
    columns,
    count_true,
    divide,
    earlier_than,
    full,
    get,
    get_labels,
    get_lanes,
    head,
    in_row,
    is_class,
    load_one,
    load_positions,
    load_within,
    positions,
    put,
    put_counts,
    put_lane,
    sum_over,
    thread,
    threads,
    write,
)
from sparse_xent.kernels.cuda.params import CODES
from sparse_xent.kernels.cuda.position import I64, IGNORED, inlined, label, place, write_float

_I64 = CODES["int64"]


@inlined
def _write(a, o, i, t, count, flawed):
    """A position's rank: C where its row holds a NaN or its label is bad, -1 where ignored."""
    result = a.classes if flawed or t < 0 else count
    if t == IGNORED:
        result = -1
    if a.out_code == _I64:
        write(I64, a.out + o * a.oo + i * a.oi, result)
    else:
        write_float(a.out + o * a.oo + i * a.oi, a.out_code, float(result))


@inlined
def rank_rows(spec, a):
    """Rows of classes side by side, a warp a row."""
    lane = thread() % 32
    step = 32 * full(spec)
    p = (block() * threads() + thread()) // 32
    while p < a.count:
        o, i = place(a, p)
        t = label(a, o, i, p, lane == 0)
        at = a.x + o * a.xo + i * a.xi
        count, flawed = 0, 0
        if t >= 0:
            x_t = splat(spec, load_one(spec, at + t * itemsize(spec)))
            first = lane * full(spec) - head(spec, at)
            while first < a.classes:
                x = load_within(spec, at, first, 0, a.classes)
                where = columns(spec, first, 0)
                live = in_row(where, a.classes)
                count += count_true(above(x, x_t, earlier_than(where, t)) & live)
                flawed += count_true((x != x) & live)
                first += step
        count, flawed = sum_over(WHOLE_WARP, count), sum_over(WHOLE_WARP, flawed)
        if lane == 0:
            _write(a, o, i, t, count, flawed > 0)
        p += blocks() * threads() // 32


@inlined
def rank_strided(spec, a):
    """Positions side by side, classes apart; a thread owns some neighbours."""
    many, one = positions(spec), lane_size(spec)
    groups = a.inner // many
    labels_at = base() + SCRATCH_BLOCK * (threads() // 32) + STRIDED_LANE * many * thread()
    flaws_at = labels_at + 8 * many
    numbers_at = flaws_at + 8 * many
    g = block() * threads() + thread()
    while g < a.count // many:
        o = divide(g, groups) if a.count < 1 << 32 else g // groups
        i = (g - o * groups) * many
        at = a.x + o * a.xo + i * a.xi
        k = 0
        while k < many:
            t = label(a, o, i + k, o * a.inner + i + k, True)
            put(labels_at + 8 * k, t)
            put_lane(spec, numbers_at + one * k, load_one(spec, at + k * a.xi + max(t, 0) * a.xc))
            k += 1
        t_s, x_t = get_labels(spec, labels_at), get_lanes(spec, numbers_at)
        count, flaws, before = like(t_s, 0), like(t_s, 0), like(t_s, 0) == 0
        c = 0
        while c < a.classes:
            x = load_positions(spec, at + c * a.xc)
            before = select(is_class(t_s, c), before != before, before)
            count = count + as_counts(above(x, x_t, before))
            flaws = flaws + as_counts(x != x)
            c += 1
        put_counts(flaws_at, flaws)
        # Ranks and flaws take turns in one place, where their lanes are read one by one.
        k = 0
        while k < many:
            t, flawed = get(c, labels_at + 8 * k), get(c, flaws_at + 8 * k)
            put_counts(flaws_at, count)
            _write(a, o, i + k, t, get(c, flaws_at + 8 * k), flawed > 0)
            put_counts(flaws_at, flaws)
            k += 1
        g += blocks() * threads()
