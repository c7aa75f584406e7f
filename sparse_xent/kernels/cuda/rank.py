"""Ranks: how many classes score above the label, which is all that accuracies need of a row."""

from sparse_xent.kernels.arithmetic import itemsize, lane_size, like, select, splat
from sparse_xent.kernels.cuda import intrinsics as gpu
from sparse_xent.kernels.cuda.geometry import SCRATCH_BLOCK, STRIDED_LANE
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
        gpu.write(I64, a.out + o * a.oo + i * a.oi, result)
    else:
        write_float(a.out + o * a.oo + i * a.oi, a.out_code, float(result))


@inlined
def rank_rows(spec, a):
    """Rows of classes side by side, a warp a row."""
    lane = gpu.thread() % 32
    step = 32 * gpu.full(spec)
    p = (gpu.block() * gpu.threads() + gpu.thread()) // 32
    while p < a.count:
        o, i = place(a, p)
        t = label(a, o, i, p, lane == 0)
        at = a.x + o * a.xo + i * a.xi
        count, flawed = 0, 0
        if t >= 0:
            x_t = splat(spec, gpu.load_one(spec, at + t * itemsize(spec)))
            first = lane * gpu.full(spec) - gpu.head(spec, at)
            while first < a.classes:
                x = gpu.load_within(spec, at, first, 0, a.classes)
                where = gpu.columns(spec, first, 0)
                live = gpu.in_row(where, a.classes)
                count += gpu.count_true(gpu.above(x, x_t, gpu.earlier_than(where, t)) & live)
                flawed += gpu.count_true((x != x) & live)
                first += step
        count, flawed = gpu.sum_over(gpu.WHOLE_WARP, count), gpu.sum_over(gpu.WHOLE_WARP, flawed)
        if lane == 0:
            _write(a, o, i, t, count, flawed > 0)
        p += gpu.blocks() * gpu.threads() // 32


@inlined
def rank_strided(spec, a):
    """Positions side by side, classes apart; a thread owns some neighbours."""
    many, one = gpu.positions(spec), lane_size(spec)
    groups = a.inner // many
    labels_at = (
        gpu.base() + SCRATCH_BLOCK * (gpu.threads() // 32) + STRIDED_LANE * many * gpu.thread()
    )
    flaws_at = labels_at + 8 * many
    numbers_at = flaws_at + 8 * many
    g = gpu.block() * gpu.threads() + gpu.thread()
    while g < a.count // many:
        o = gpu.divide(g, groups) if a.count < 1 << 32 else g // groups
        i = (g - o * groups) * many
        at = a.x + o * a.xo + i * a.xi
        k = 0
        while k < many:
            t = label(a, o, i + k, o * a.inner + i + k, True)
            gpu.put(labels_at + 8 * k, t)
            gpu.put_lane(
                spec, numbers_at + one * k, gpu.load_one(spec, at + k * a.xi + max(t, 0) * a.xc)
            )
            k += 1
        t_s, x_t = gpu.get_labels(spec, labels_at), gpu.get_lanes(spec, numbers_at)
        count, flaws, before = like(t_s, 0), like(t_s, 0), like(t_s, 0) == 0
        c = 0
        while c < a.classes:
            x = gpu.load_positions(spec, at + c * a.xc)
            before = select(gpu.is_class(t_s, c), before != before, before)
            count = count + gpu.as_counts(gpu.above(x, x_t, before))
            flaws = flaws + gpu.as_counts(x != x)
            c += 1
        gpu.put_counts(flaws_at, flaws)
        # Ranks and flaws take turns in one place, where their lanes are read one by one.
        k = 0
        while k < many:
            t, flawed = gpu.get(c, labels_at + 8 * k), gpu.get(c, flaws_at + 8 * k)
            gpu.put_counts(flaws_at, count)
            _write(a, o, i + k, t, gpu.get(c, flaws_at + 8 * k), flawed > 0)
            gpu.put_counts(flaws_at, flaws)
            k += 1
        g += gpu.blocks() * gpu.threads()
