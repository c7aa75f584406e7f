"""Ranks: how many classes stand above the label, which is all that accuracies ask of a row."""

from sparse_xent.kernels.cpu.vectors import itemsize, select, splat
from sparse_xent.kernels.cuda.geometry import SCRATCH_BLOCK, STRIDED_LANE
from sparse_xent.kernels.cuda.intrinsics import (
    above,
    base,
    beside,
    block,
    blocks,
    both,
    columns,
    count_of,
    counted,
    earlier_than,
    full,
    get,
    get_labels,
    get_lanes,
    head,
    in_row,
    is_class,
    lane_size,
    load_one,
    load_within,
    over,
    positions,
    put,
    put_counts,
    put_lane,
    sum_over,
    thread,
    threads,
    unordered,
    write,
    zeros_of,
)
from sparse_xent.kernels.cuda.params import CODES
from sparse_xent.kernels.cuda.position import (
    I64,
    IGNORED,
    WARP,
    label,
    part,
    place,
    write_float,
)

_I64 = CODES["int64"]


@part
def _write(a, o, i, t, count, flawed):  # type: ignore[no-untyped-def]
    """A position's rank: C where its row holds a NaN or its label is bad, -1 where ignored."""
    result = a.classes if flawed or t < 0 else count
    if t == IGNORED:
        result = -1
    if a.out_code == _I64:
        write(I64, a.out + o * a.oo + i * a.oi, result)
    else:
        write_float(a.out + o * a.oo + i * a.oi, a.out_code, float(result))


@part
def rank_rows(case, a):  # type: ignore[no-untyped-def]
    """Rows of classes side by side, a warp a row."""
    lane = thread() % 32
    step = 32 * full(case)
    p = (block() * threads() + thread()) // 32
    while p < a.count:
        o, i = place(a, p)
        t = label(a, o, i, p, lane == 0)
        at = a.x + o * a.xo + i * a.xi
        count, flawed = 0, 0
        if t >= 0:
            x_t = splat(case, load_one(case, at + t * itemsize(case)))
            first = lane * full(case) - head(case, at)
            while first < a.classes:
                x = load_within(case, at, first, 0, a.classes)
                where = columns(case, first, 0)
                live = in_row(where, a.classes)
                count += count_of(both(above(x, x_t, earlier_than(where, t)), live))
                flawed += count_of(both(unordered(x), live))
                first += step
        count, flawed = sum_over(WARP, count), sum_over(WARP, flawed)
        if lane == 0:
            _write(a, o, i, t, count, flawed > 0)
        p += blocks() * threads() // 32


@part
def rank_strided(case, a):  # type: ignore[no-untyped-def]
    """Positions side by side, classes apart; a thread owns some neighbours."""
    many, one = positions(case), lane_size(case)
    groups = a.inner // many
    labels_at = base() + SCRATCH_BLOCK * (threads() // 32) + STRIDED_LANE * many * thread()
    flaws_at = labels_at + 8 * many
    numbers_at = flaws_at + 8 * many
    g = block() * threads() + thread()
    while g < a.count // many:
        o = over(g, groups) if a.count < 1 << 32 else g // groups
        i = (g - o * groups) * many
        at = a.x + o * a.xo + i * a.xi
        k = 0
        while k < many:
            t = label(a, o, i + k, o * a.inner + i + k, True)
            put(labels_at + 8 * k, t)
            put_lane(case, numbers_at + one * k, load_one(case, at + k * a.xi + max(t, 0) * a.xc))
            k += 1
        t_s, x_t = get_labels(case, labels_at), get_lanes(case, numbers_at)
        count, flaws, before = zeros_of(t_s), zeros_of(t_s), zeros_of(t_s) == 0
        c = 0
        while c < a.classes:
            x = beside(case, at + c * a.xc)
            before = select(is_class(t_s, c), before != before, before)
            count = count + counted(above(x, x_t, before))
            flaws = flaws + counted(unordered(x))
            c += 1
        put_counts(flaws_at, flaws)
        # A rank takes the place of what was told of the target: nobody asks for that again.
        k = 0
        while k < many:
            t, flawed = get(c, labels_at + 8 * k), get(c, flaws_at + 8 * k)
            put_counts(flaws_at, count)
            _write(a, o, i + k, t, get(c, flaws_at + 8 * k), flawed > 0)
            put_counts(flaws_at, flaws)
            k += 1
        g += blocks() * threads()
