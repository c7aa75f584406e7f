"""The exact row: logits that the fast walks give up on, one number at a time, in float64.

It serves rows whose fast result is not finite: an inf or a NaN among the scores, all classes
-inf, the target -inf or 1e38 below, offsets that a whole reference cannot reach.
"""

import math

from sparse_xent.kernels.parts import aside
from sparse_xent.kernels.simd import load_one, store_one


@aside
def exact_sums(kind, p, step, C, t, share):  # type: ignore[no-untyped-def]
    """Loss, maximum m, rest and hit (of exp(x_j - m)), and the number of classes not -inf."""
    m = -math.inf
    for j in range(C):
        x = float(load_one(kind, p + j * step))
        m = x if x > m or x != x else m  # a NaN stays: no comparison with it is true
        if m != m:
            break
    rest, hit, missed, count = 0.0, 0.0, 0.0, 0.0
    for j in range(C):
        x = float(load_one(kind, p + j * step))
        e = math.exp(x - m)
        if j == t:
            hit = e
        else:
            rest += e
        if x != -math.inf:
            count += 1.0
            missed += (m * 0.5 - x * 0.5) * (2.0 * share / C)
    # Half the gap to the maximum: the gap itself may overflow where its share does not.
    x_t = float(load_one(kind, p + t * step))
    value = math.log1p(rest / hit) if hit >= rest else math.log(rest + hit)
    if share < 1.0:
        value += 2.0 * (1.0 - share) * (m * 0.5 - x_t * 0.5)
    return value + missed * (C / count), m, rest, hit, count


@aside
def exact_gradient(kind, p, step, to, to_step, C, t, m, rest, hit, count, share, g):  # type: ignore[no-untyped-def]
    """Write g times the row's gradient."""
    total = rest + hit
    each = share / count
    for j in range(C):
        x = float(load_one(kind, p + j * step))
        kept = 0.0 if x == -math.inf else each
        if j == t:
            value = share - rest / total - kept
        else:
            value = math.exp(x - m) / total - kept
        store_one(kind, to + j * to_step, g * value)
