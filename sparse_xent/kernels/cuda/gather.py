"""Picked: probabilities that are known to sum to one, of which a loss reads the target alone.

Serves every layout, a thread a position.
"""

from sparse_xent.kernels.arithmetic import rounded
from sparse_xent.kernels.cuda.epilogue import record
from sparse_xent.kernels.cuda.formulas import loss
from sparse_xent.kernels.cuda.intrinsics import (
    base,
    block,
    blocks,
    load_one,
    nothing,
    thread,
    threads,
)
from sparse_xent.kernels.cuda.position import inlined, label, place, reduce_sums, weight


@inlined
def gather(spec, a):
    """ScoreKind.CLIP without smoothing."""
    clip_range = rounded(spec, a.lo), rounded(spec, a.hi)
    zero = nothing(spec)
    total, kept, weights = 0.0, 0.0, 0.0
    p = block() * threads() + thread()
    while p < a.count:
        o, i = place(a, p)
        t = label(a, o, i, p, True)
        w = weight(a, o, i, p, t, True)
        value = zero
        if t >= 0:
            p_t = load_one(spec, a.x + o * a.xo + i * a.xi + t * a.xc)
            value = loss(spec, zero, zero, zero, p_t, zero, zero, clip_range)
        total, kept, weights = record(a, o, i, t, w, value, total, kept, weights)
        p += blocks() * threads()
    reduce_sums(a, base(), total, kept, weights)
