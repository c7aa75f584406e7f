"""Picked: probabilities that are known to sum to one, of which a loss reads the target alone.

Serves every layout, a thread a position.
"""

from sparse_xent.kernels.cpu.vectors import rounded
from sparse_xent.kernels.cuda.formulas import loss_of
from sparse_xent.kernels.cuda.intrinsics import (
    base,
    block,
    blocks,
    load_one,
    nothing,
    thread,
    threads,
)
from sparse_xent.kernels.cuda.position import (
    IGNORED,
    bring_together,
    label,
    part,
    place,
    weight,
    weighted,
    write_loss,
)


@part
def picked(case, a):  # type: ignore[no-untyped-def]
    """ScoreKind.CLIP without smoothing."""
    span = rounded(case, a.lo), rounded(case, a.hi)
    zero = nothing(case)
    total, kept, weights = 0.0, 0.0, 0.0
    p = block() * threads() + thread()
    while p < a.count:
        o, i = place(a, p)
        t = label(a, o, i, p, True)
        w = weight(a, o, i, p, t, True)
        value = zero
        if t >= 0:
            p_t = load_one(case, a.x + o * a.xo + i * a.xi + t * a.xc)
            value = loss_of(case, zero, zero, zero, p_t, zero, zero, span)
        result = weighted(value, t, w)
        write_loss(a, o, i, result)
        total += result
        kept += 1.0 if t != IGNORED else 0.0
        weights += w
        p += blocks() * threads()
    bring_together(a, base(), total, kept, weights)
