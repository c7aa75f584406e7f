"""The exact row: logits that the fast walks give up on, one number at a time, in float64.

It serves rows whose fast result is not finite (an inf or a NaN among the scores, all classes -inf,
the target -inf or 1e38 below, offsets that a whole reference cannot reach), and those whose loss is
smaller than any normal number. And it serves targets of smoothed probabilities whose slope is the
small difference of two numbers.
"""

import math

from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels.cpu.compiler import aside
from sparse_xent.kernels.cpu.formulas import Kind, Span, clip, passed
from sparse_xent.kernels.cpu.vectors import Num, fact, load_one, store_one, word


@word
def _alone(kind: Kind) -> float:
    """A gap to all other logits, in nats, beyond which a loss is 0.

    Billions of classes so far below share less than half of the least float, e**-104 (in float64
    e**-745).
    """
    return 780.0 if kind.format.wide else 130.0


@aside
def exact_sums(kind, p, step, C, t, share, g):  # type: ignore[no-untyped-def]
    """Loss, maximum m, rest and hit (of exp(x_j - m)), and the number of classes not -inf.

    What is too small for a loss and for g times a gradient counts as 0.
    """
    x_t, top = float(load_one(kind, p + t * step)), -math.inf
    for j in range(C):
        x = float(load_one(kind, p + j * step)) if j != t else top
        top = x if x > top or x != x else top
        if x != x:
            break
    if top != top or x_t != x_t:
        return math.nan, math.nan, math.nan, math.nan, 1.0
    alone = _alone(kind) + math.log(max(abs(g), 1.0))
    if share == 0.0 and x_t < math.inf and x_t - top > alone:
        return 0.0, x_t, 0.0, 1.0, 1.0
    m = max(top, x_t)
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
    value = math.log1p(rest / hit) if hit >= rest else math.log(rest + hit)
    if share < 1.0:
        value += 2.0 * (1.0 - share) * (m * 0.5 - x_t * 0.5)
    return value + missed * (C / count), m, rest, hit, count


@aside
def exact_gradient(kind, p, step, to, to_step, C, t, m, rest, hit, count, share, g):  # type: ignore[no-untyped-def]
    """Write g times the row's gradient; nothing where g is 0, whose row is written already."""
    if g == 0.0:
        return
    total = rest + hit
    each = share / count
    for j in range(C):
        x = float(load_one(kind, p + j * step))
        kept = 0.0 if x == -math.inf else each
        if rest == 0.0 and hit > 0.0 and share == 0.0:
            value = 0.0
        elif j == t:
            value = share - rest / total - kept
        else:
            value = math.exp(x - m) / total - kept
        store_one(kind, to + j * to_step, g * value)


@word
def _is_before(kind: Kind) -> Num:
    return fact(kind.scores == ScoreKind.NORMALIZE_CLIP)


@word
def _summand(kind: Kind, p: Num, span: Span) -> Num:
    """What a probability adds to its row's sum."""
    return p if kind.scores == ScoreKind.NORMALIZE_CLIP else clip(p, span)


@aside
def exact_target(kind, p, step, C, t, share, g, span):  # type: ignore[no-untyped-def]
    """g times the target's slope of CLIP_NORMALIZE or NORMALIZE_CLIP, smoothed."""
    p_t, rest = float(load_one(kind, p + t * step)), 0.0
    for j in range(C):
        if j != t:
            rest += _summand(kind, float(load_one(kind, p + j * step)), span)
    hit = _summand(kind, p_t, span)
    total, sharp = rest + hit, 1.0 - share
    if not _is_before(kind):
        if p_t < span[0] or p_t > span[1]:
            return 0.0
        return g * ((share * (hit / total - 1.0 / C) - sharp * (rest / total)) / hit)
    m_t, count = passed(p_t / total, span), 0.0
    for j in range(C):
        count += passed(float(load_one(kind, p + j * step)) / total, span)
    r_t, each = clip(p_t / total, span), share / C
    at_target = 0.0 if m_t == 0.0 else (sharp + each) * m_t / r_t  # r_t may be 0, where epsilon is
    return g * ((sharp * m_t + each * count) - at_target) / total
