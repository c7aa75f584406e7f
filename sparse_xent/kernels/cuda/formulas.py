"""The formulas on the device: `algebra`'s, but for how a term is made and what it stands below.

    d_j = x_j - m        nats below a logit m that was met in the row: any of them near the greatest
    e_j = exp(d_j)       terms; rest = sum of e_j over j != t
    M = max(m, x_t)      the reference of the whole row; hit = exp(x_t - M)

One special unit makes 2^y from a rounded y, so a whole reference and a fused multiply-add, with
which the CPU avoids that rounding, would gain nothing here. The difference d_j is rounded once, and
exact near the reference and at large offsets; at 80 nats below, its term is right to 7e-6. And
there is no reach: 1e38 is as good a reference as 1.

What a row's loss and gradient are made of (`loss`, `lines`, `slope`, `mean`, `clip`, `passed`) is
the CPU's algebra, to the letter.
"""

import math

from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels.cpu import formulas
from sparse_xent.kernels.cpu.formulas import LOG2E, LOG2E_32, Span
from sparse_xent.kernels.cpu.vectors import (
    Num,
    anywhere,
    bits,
    fact,
    from_bits,
    like,
    maximum,
    select,
    word,
)
from sparse_xent.kernels.cuda.intrinsics import Case, exp2

EMPTY_32, EMPTY_64 = -3.4028234663852886e38, -1.7976931348623157e308
"""The reference of no class at all: the lowest number. Every logit stands above it, or at it."""

FAR = 16.0
"""Nats that a term may stand above its reference before that is raised: so little costs no digits
in float32, and the logits of one row seldom differ by more from the first."""


@word
def empty(model: Num) -> Num:
    """The reference of no class, like `model`."""
    return like(model, EMPTY_64 if model.wide else EMPTY_32)


@word
def exp(d: Num) -> Num:
    """e^d: exactly 0 for -inf, NaN for NaN."""
    if d.wide:
        return formulas.power(d, 0.0)
    return exp2(d * LOG2E_32)


@word
def term(case: Case, x: Num, m: Num, span: Span) -> Num:
    """What a class adds to the row's sum: e_j, q_j or p_j."""
    if case.scores == ScoreKind.LOGITS:
        return exp(x - m.to(x.typ))
    return formulas.term(case, x, 0.0, span)


@word
def too_far(case: Case, x: Num, m: Num) -> Num:
    """Whether some logit stands so far above its reference that this must be raised."""
    if case.scores != ScoreKind.LOGITS:
        return fact(False)
    return anywhere(x - m > FAR)


@word
def raised(case: Case, x: Num, m: Num, s: Num) -> tuple[Num, Num]:
    """References raised to the logits that are too far above them, and sums that follow."""
    up = select(x - m > FAR, x, m)
    return up, s * exp(m - up)


@word
def onto(case: Case, s: Num, m: Num, top: Num) -> Num:
    """Sums below their own references, as sums below a greater one."""
    return s * exp(m - top.to(m.typ)) if case.scores == ScoreKind.LOGITS else s


@word
def whole_row(case: Case, rest: Num, m: Num, x_t: Num, span: Span) -> tuple[Num, Num, Num]:
    """rest, hit and M, of the sum below m of all classes but the target."""
    if case.scores != ScoreKind.LOGITS:
        return rest, term(case, x_t, m, span), m
    top = maximum(x_t, m)
    rest = rest * exp(m - top)
    hit = exp(x_t - top)
    return select(rest + hit == 0.0, math.nan, rest), hit, top  # no class is alive


@word
def shrink(case: Case, classes: Num) -> Num:
    """A power of two by which half a gap is scaled, so that the sum over classes does not overflow.

    The gap itself may overflow, and so may the sum of its halves.
    """
    count = classes.to(case.format.element)
    top, shift = (2045, 52) if count.wide else (253, 23)
    return from_bits((like(bits(count), top) - (bits(count) >> shift)) << shift) * 0.5


@word
def gist(case: Case, x: Num, m: Num, s: Num, tiny: Num, span: Span) -> tuple[Num, Num]:
    """`algebra.gist`; of logits `tiny` (from `shrink`) times the gap in nats."""
    if case.scores != ScoreKind.LOGITS:
        return formulas.gist(case, x, 0.0, s, span)
    deleted = x == -math.inf
    tiny = tiny.to(x.typ)
    gap = x * tiny - m.to(x.typ) * tiny
    return select(deleted, 0.0, gap), select(deleted, like(x, 0.0), 1.0)


@word
def mean_of(case: Case, total: Num, count: Num, classes: Num, x_t: Num, m: Num, tiny: Num) -> Num:
    """`algebra.mean` of what `gist` gave: of logits half the mean gap, in nats."""
    if case.scores != ScoreKind.LOGITS:
        return formulas.mean(case, total, count, classes, x_t)
    half = total / (count * (tiny * 2.0).to(count.typ))
    return select((count == 1.0) & (x_t > -math.inf), x_t * 0.5 - m * 0.5, half)


@word
def loss_of(
    case: Case, rest: Num, hit: Num, m: Num, x_t: Num, mean: Num, share: Num, span: Span
) -> Num:
    """A row's loss, in nats."""
    if case.scores != ScoreKind.LOGITS:
        return formulas.loss(case, rest, hit, x_t, mean, share, span)
    near, there, k = formulas.settled(case, rest, hit, like(rest, 0.0))
    at = (x_t - m) * LOG2E - k
    if not case.smooth:
        value = formulas.loss(case, near, there, at, mean, share, span)
        # Powers of two end before nats do.
        return select((value == math.inf) & (x_t > -math.inf), m - x_t, value)
    share = share.to(rest.typ)
    flat = mean * (2 * LOG2E) - k
    # All smoothed away: what the target alone would cost does not count, be it infinite.
    alone = (share >= 1.0) & (x_t == -math.inf)
    at = select(alone, flat, at)
    value = formulas.loss(case, near, there, at, flat, share, span)
    sharp = select(share < 1.0, (m * 0.5 - x_t * 0.5) * (2.0 - share * 2.0), 0.0)
    finite = ((x_t > -math.inf) | alone) & (rest + hit < math.inf)
    beyond = finite & ((at == -math.inf) | (flat == -math.inf))
    return select(beyond, sharp - mean * (share * 2.0), value)


@word
def lines_of(
    case: Case,
    rest: Num,
    hit: Num,
    x_t: Num,
    count: Num,
    classes: Num,
    share: Num,
    g: Num,
    span: Span,
) -> tuple[Num, Num, Num]:
    """`algebra.lines`: a, b and aim of a row's gradient, times g."""
    return formulas.lines(case, rest, hit, x_t, count, classes, share, g.to(rest.typ), span)


@word
def slope_of(case: Case, x: Num, m: Num, a: Num, b: Num, s: Num, span: Span) -> Num:
    """The gradient of classes that are not the target."""
    e = term(case, x, m, span) if case.scores == ScoreKind.LOGITS else x
    made = formulas.slope(case, x, e, a, b, s.to(x.typ), span)
    return made.to(x.typ)
