"""The formulas: exp2, log and log1p on lanes, and what a row's loss and gradient are made of.

Each is written once, for vectors of lanes and for single float64 numbers alike.

    y_j = x_j log2(e) - m          logits in powers of two below a whole reference m
    e_j = 2^y_j                    terms; rest = sum of e_j over j != t, S = rest + e_t
    loss = log1p(rest / e_t)       where e_t >= rest: a confident row keeps its digits
         = log S - y_t log 2       elsewhere, however small e_t is

The reference is whole, so that changing it multiplies every term by an exact power of two, and a
row can be walked once, the reference being raised on the way. y itself is never rounded: one
fused multiply-add finds its whole part, another the fraction, so a term is as accurate as the
polynomial at any offset and any gap.

For probabilities the terms are q_j = clip(p_j) or p_j itself, and there is no reference. `span`
is (eps, 1 - eps), rounded to the arithmetic's dtype.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels.cpu.abi import MOST
from sparse_xent.kernels.cpu.vectors import (
    Format,
    Num,
    addend,
    anywhere,
    as_float,
    bits,
    fact,
    floor,
    fma,
    from_bits,
    greater_halves,
    like,
    mad,
    maximum,
    minimum,
    select,
    tag,
    whole_power,
    word,
)

Span = tuple[Num, Num]


@tag
@dataclass(frozen=True)
class Kind:
    """What one kernel is compiled for."""

    format: Format
    scores: ScoreKind
    smooth: bool  # whether labels are smoothed


# Powers and logarithms -------------------------------------------------------------------------

LN2 = math.log(2)
LOG2E = 1 / LN2
# Rounded to float32, log2(e) stretches every gap by 1.3e-8, and that is all it does.
LOG2E_32 = float(np.float32(LOG2E))

# t = x log2(e) + (MAGIC - m) leaves the whole part of y in the last bits of t, biased as an
# exponent is: shifted to the top they are 2^whole, and exactly 0 for the LOWEST.
MAGIC_32, LOWEST_32 = 1.5 * 2.0**23 + 127, -127.0
MAGIC_64, LOWEST_64 = 1.5 * 2.0**52 + 1023, -1023.0

FAR = 64.0  # powers of two by which terms may be scaled at once: all digits are left

# Beyond this |m| the bound below which terms are 0 is no longer found to within half a power of
# two. Rows out there (logits of 1.4e6 in float32, 3.9e14 in float64) go the exact way.
REACH_32, REACH_64 = 2.0**21, 2.0**49

# Minimax polynomials for 2^f on [-1/2, 1/2], highest power first: relative errors 8e-8 and 2e-16.
_POWER_32 = (
    0.0013276472167819944,
    0.009675541331021392,
    0.05550713272875391,
    0.2402211972396918,
    0.6931469670652649,
    1.0000000716546416,
)
_POWER_64 = (
    7.037278846726901e-09,
    1.0208537929657404e-07,
    1.3215662835959238e-06,
    1.5252658116409854e-05,
    0.00015403529961127076,
    0.0013333558228561767,
    0.009618129108034596,
    0.05550410866445883,
    0.24022650695908768,
    0.6931471805599497,
    1.0,
)
# log(1 + f) in s = f / (2 + f): the coefficients of fdlibm's logf and log, highest power first.
_LOG_32 = (0.24279078841, 0.28498786688, 0.40000972152, 0.66666662693)
_LOG_64 = (
    1.479819860510658591e-01,
    1.531383769920937332e-01,
    1.818357216161805012e-01,
    2.222219843214978396e-01,
    2.857142874366239149e-01,
    3.999999999940941908e-01,
    6.666666666666735130e-01,
)
_LN2_32 = (0.693138062954, 9.0580006145e-06)  # high part, short enough to be exact times k; rest
_LN2_64 = (6.93147180369123816490e-01, 1.90821492927058770002e-10)


def _polynomial(x: Num, coefficients: tuple[float, ...]) -> Num:
    """Horner's scheme in x; long ones in x^2, two coefficients a step.

    A term waits for its polynomial, and a processor has only so many terms in flight: float64's
    loops over classes take 5 to 20 % less with half the steps.
    """
    value: Any = coefficients[0]
    rest = coefficients[1:]
    if len(rest) < 6:
        for c in rest:
            value = mad(value, x, addend(x, c))
        return value
    square = x * x
    if len(rest) % 2:
        value, rest = mad(x, value, addend(x, rest[0])), rest[1:]
    for a, b in zip(rest[::2], rest[1::2], strict=True):
        value = mad(value, square, mad(x, a, addend(x, b)))
    return value


@word
def log2e(fmt: Any) -> float:
    """log2(e) as `power` takes it."""
    return LOG2E if fmt.format.wide else LOG2E_32


@word
def power(x: Num, m: Any) -> Num:
    """2^(x log2(e) - m), m whole: exactly 0 below 2^-126 (2^-1022), -inf too; NaN and inf: NaN.

    Above 2^127 (2^1023) the result means nothing: `lifted` says where that is so.
    """
    return _power(x, m)[0]


def _power(x: Num, m: Any) -> tuple[Num, Num]:
    """2^y, and the bits that hold y's whole part."""
    scale, magic, lowest, shift, coefficients = (
        (LOG2E, MAGIC_64, LOWEST_64, 52, _POWER_64)
        if x.wide
        else (LOG2E_32, MAGIC_32, LOWEST_32, 23, _POWER_32)
    )
    bias = magic - like(x, m)
    x = maximum((like(x, m) + lowest) * (1 / scale), x)
    t = fma(x, scale, bias)
    fraction = fma(x, scale, bias - t)
    return _polynomial(fraction, coefficients) * from_bits(bits(t) << shift), bits(t)


@word
def log(u: Num) -> Num:
    """Natural logarithm of 0, a normal number, inf or NaN; -inf for what is negative."""
    root_half, shift, coefficients, ln2 = (
        (0x3FE6A09E667F3BCD, 52, _LOG_64, _LN2_64) if u.wide else (0x3F3504F3, 23, _LOG_32, _LN2_32)
    )
    whole = (bits(u) - root_half) >> shift
    f = from_bits(bits(u) - (whole << shift)) - 1.0
    k = as_float(whole)
    s = f / (f + 2.0)
    half = f * f * 0.5
    tail = mad(k, ln2[1], s * mad(_polynomial(s * s, coefficients), s * s, half))
    value = mad(k, ln2[0], f - (half - tail))
    return select(u < math.inf, select(u > 0.0, value, -math.inf), u)


@word
def log_of_any(u: Num) -> Num:
    """`log` of subnormal numbers, too: epsilon 0 lets them through."""
    least, up = (2.0**-1022, 60) if u.wide else (2.0**-126, 60)
    small = u < least
    return log(select(small, u * 2.0**up, u)) - select(small, like(u, up * LN2), 0.0)


@word
def log_sum(a: Any, b: Any) -> Num:
    """log(a + b), a >= b >= 0, with the rounding of a + b put back: for a = 1 it is log1p(b)."""
    u = a + b
    return log(u) + (b - (u - a)) / u


# Terms of the sum ------------------------------------------------------------------------------


@word
def reach(fmt: Any) -> float:
    """The greatest |m| that `power` takes."""
    return REACH_64 if fmt.format.wide else REACH_32


@word
def reference(fmt: Any, top: Num) -> Num:
    """The whole reference below the greatest logit; NaN where it is out of reach."""
    m = floor(top * log2e(fmt))
    return select((m <= reach(fmt)) & (m >= -reach(fmt)), m, math.nan)


@word
def first_reference(kind: Kind, x: Num) -> Num:
    """The whole reference below a logit, held within reach; 0 for probabilities."""
    if kind.scores != ScoreKind.LOGITS:
        return like(x, 0.0)
    return minimum(maximum(floor(x * log2e(kind)), -reach(kind)), reach(kind))


@word
def clip(p: Num, span: Span) -> Num:
    """p held within the span, NaN kept."""
    return minimum(span[1].to(p.typ), maximum(span[0].to(p.typ), p))


@word
def passed(p: Num, span: Span) -> Num:
    """1 where the clip lets p pass unchanged, else 0."""
    return select((p >= span[0]) & (p <= span[1]), like(p, 1.0), 0.0)


@word
def divisor(p: Num, span: Span) -> Num:
    """p clipped, to divide by: -0 becomes 0, so that its quotient is inf, not -inf."""
    return clip(p, span) + 0.0


@word
def unblocked(value: Num, p: Num, span: Span) -> Num:
    """A gradient; 0 where the clip held p back, even where it is infinite. NaN stays NaN."""
    blocked = (p < span[0]) | (p > span[1])
    return select(blocked & (value == value), 0.0, value)


@word
def term(kind: Kind, x: Num, m: Any, span: Span) -> Num:
    """What a class adds to the row's sum: e_j, q_j or p_j."""
    if kind.scores == ScoreKind.LOGITS:
        return power(x, m)
    return clip(x, span) if kind.scores == ScoreKind.CLIP_NORMALIZE else x


@word
def lifted(kind: Kind, x: Num, m: Any, span: Span) -> tuple[Num, Num]:
    """The term, and its height: integers for `higher`, and in the end for `too_high`.

    The heights of probabilities are their bits, for `suspicious`.
    """
    if kind.scores == ScoreKind.LOGITS:
        return _power(x, m)
    return term(kind, x, m, span), bits(x)


@word
def higher(kind: Kind, a: Num, b: Num) -> Num:
    """The heights of two terms in one."""
    return a | b if kind.scores == ScoreKind.LOGITS else greater_halves(a, b)


@word
def suspicious(kind: Kind, heights: Num) -> Num:
    """Whether some score may lie outside [LEAST, MOST]; so may negative ones within, and NaN.

    Without a sign the bits of floats are in their order, and those of negative ones above all.
    """
    if kind.scores == ScoreKind.LOGITS:
        return fact(False)
    if kind.format.wide:  # halves of a number are compared: its lower ones say nothing
        most = int(np.float64(MOST).view(np.int64)) >> 32 << 32
        return anywhere((heights < 0) | (heights >= most))
    return anywhere((heights < 0) | (heights > int(np.float32(MOST).view(np.int32))))


@word
def too_high(kind: Kind, heights: Num) -> Num:
    """Whether some term was above 2^128 (2^1024), or NaN: its reference must be raised."""
    if kind.scores != ScoreKind.LOGITS:
        return fact(False)
    return anywhere((heights & ~_usual(kind)) != 0)


def _usual(kind: Kind) -> int:
    """The bits of heights within the range: MAGIC's, and 8 (11) for y's biased whole part."""
    return 0x4338000000000000 | 0x7FF if kind.format.wide else 0x4B400000 | 0xFF


@word
def settled(kind: Kind, rest: Num, hit: Num, m: Num) -> tuple[Num, Num, Num]:
    """rest, hit and m with the reference moved to the sum: rest + hit is then in [1, 2).

    A reference far from the sum would make the loss a small difference of large numbers.
    """
    if kind.scores != ScoreKind.LOGITS:
        return rest, hit, m
    shift, bias = (52, 1023) if rest.wide else (23, 127)
    k = as_float((bits(rest + hit) >> shift) - bias)
    scale = whole_power(0.0 - k)
    return rest * scale, hit * scale, m + k


@word
def where_high(kind: Kind, heights: Num, a: Num, b: Num) -> Num:
    """a in the lanes with a term that is too high; the others keep b, and their bits."""
    if kind.scores != ScoreKind.LOGITS:
        return b
    return select((heights & ~_usual(kind)) != 0, a, b)


@word
def checked(kind: Kind, rest: Num, heights: Num) -> Num:
    """A vector's sums, NaN where a term is too high still: its reference is out of reach."""
    return where_high(kind, heights, like(rest, math.nan), rest)


@word
def far(kind: Kind, first: Num, m: Num) -> Num:
    """Whether terms under the reference `first` lose digits when they are scaled to m at once."""
    return anywhere(m - first > FAR) if kind.scores == ScoreKind.LOGITS else fact(False)


@word
def near_enough(first: Num, m: Num) -> Num:
    """m in the lanes where `first` is too far from it."""
    return select(m - first > FAR, m, first)


@word
def rescaled(kind: Kind, a: Num, first: Num, m: Num) -> Num:
    """The factor of terms under the reference `first` that is `a` under m, not far above."""
    return a * whole_power(first - m) if kind.scores == ScoreKind.LOGITS else a


@word
def lowered(value: Num, by: Num) -> Num:
    """value * 2^by, by whole and not above 0.

    In two steps: a sum may be near the greatest number, and 2^by be 0 where the product is not.
    """
    half = floor(by * 0.5)
    return value * whole_power(half) * whole_power(by - half)


@word
def whole_sum(kind: Kind, rest: Num, hit: Num) -> Num:
    """S; for "before" NaN where it is 0 or infinite, for p / S means nothing then."""
    s = rest + hit
    if kind.scores == ScoreKind.NORMALIZE_CLIP:
        return select((s != 0.0) & (s < math.inf) & (s > -math.inf), s, math.nan)
    return s


@word
def gist(kind: Kind, x: Num, m: Any, s: Any, span: Span) -> tuple[Num, Num]:
    """What a class adds to the sums of the second look, which smoothing needs.

    Logits: y_j and 1, but nothing for -inf, which stands as if deleted. "before": log r_j and
    whether the clip let r_j pass. Else: log q_j.
    """
    if kind.scores == ScoreKind.LOGITS:
        deleted = x == -math.inf
        y = fma(x, log2e(kind), like(x, 0.0) - m)
        return select(deleted, 0.0, y), select(deleted, like(x, 0.0), 1.0)
    if kind.scores == ScoreKind.NORMALIZE_CLIP:
        return log_of_any(clip(x / s, span)), passed(x / s, span)
    return log_of_any(clip(x, span)), like(x, 0.0)


@word
def mean(kind: Kind, sum_: Num, count: Num, classes: Num, at: Num) -> Num:
    """The mean over classes, or over those that are not -inf.

    Of the target alone it is the target's y_t as the loss has it: their difference is then 0.
    """
    if kind.scores != ScoreKind.LOGITS:
        return sum_ / like(sum_, classes)
    return select((count == 1.0) & (at > -math.inf), at, sum_ / count)


# A row's loss ----------------------------------------------------------------------------------
#
# rest and hit: the sums of terms without and at the target; at: the target's y_t or p_t; mean and
# count: the sums of the second look, the first divided by the classes in it; share: the smoothing.


@word
def loss(kind: Kind, rest: Num, hit: Num, at: Num, mean: Num, share: Num, span: Span) -> Num:
    """A row's loss, in nats: (1-s) sharp + s flat, neither of which is negative.

    sharp is the loss without smoothing, flat that of a target which is every class alike.
    """
    if kind.scores == ScoreKind.LOGITS:
        near = hit >= rest
        more = select(near, rest / hit, hit)
        base = log_sum(select(near, like(rest, 1.0), rest), more)  # log S, less at's where near
        done = select(near, at, 0.0)
        sharp = base - (at - done) * LN2
        flat = base - (mean - done) * LN2
    elif kind.scores == ScoreKind.CLIP_NORMALIZE:
        sharp = _after(rest, hit)
        flat = log_of_any(rest + hit) - mean
    else:
        r = hit / whole_sum(kind, rest, hit) if kind.scores == ScoreKind.NORMALIZE_CLIP else at
        sharp = 0.0 - log_of_any(clip(r, span))
        flat = 0.0 - mean
    if not kind.smooth:
        return sharp
    share = share.to(rest.typ)
    value = select(share < 1.0, sharp * (1.0 - share), 0.0) + flat * share  # 0 * inf would be NaN
    if kind.scores == ScoreKind.LOGITS:
        # All smoothed away from a deleted target: with one class left the loss is 0, which log S
        # misses by a rounding. NaN sends the row the exact way.
        value = select((at == -math.inf) & (share >= 1.0), math.nan, value)
    return value


@word
def _after(rest: Num, hit: Num) -> Num:
    """log(rest + hit) - log(hit) = log1p(rest / hit); inf where hit alone is 0, NaN where both are.

    A hit so small that the ratio may overflow (only where epsilon lets it) is scaled by 2^up.
    """
    hit = hit + 0.0  # -0 becomes 0
    least, up = (2.0**-512, 512) if rest.wide else (2.0**-64, 64)
    small = (hit < least) & (hit < rest * 0.5)
    one, ratio = like(rest, 1.0), rest / select(small, hit * 2.0**up, hit)
    near = (ratio <= one) & (hit >= rest * 0.5)
    value = log_sum(
        select(near, one, ratio), select(near, ratio, select(small, like(rest, 2.0**-up), one))
    )
    return select(hit == 0.0, ratio, value + select(small, like(rest, up * LN2), 0.0))


# A row's gradient ------------------------------------------------------------------------------
#
# Class j gets slope(x_j, e_j), a line in e_j, 1 or 1/q_j with the row's own a and b; the target
# gets `aim`. All three hold the factor g.


@word
def lines(
    kind: Kind,
    rest: Num,
    hit: Num,
    at: Num,
    count: Num,
    classes: Num,
    share: Num,
    g: Num,
    span: Span,
) -> tuple[Num, Num, Num]:
    """a, b and aim of a row."""
    zero = like(rest, 0.0)
    s = whole_sum(kind, rest, hit)
    share = share.to(rest.typ) if kind.smooth else zero
    if kind.scores == ScoreKind.LOGITS:
        if not kind.smooth:
            return g / s, zero, g * (0.0 - rest / s)
        each = share / count
        aim = share - rest / s - select(at == -math.inf, zero, each)
        return g / s, g * (0.0 - each), g * aim
    each = share / like(rest, classes)
    if kind.scores == ScoreKind.CLIP_NORMALIZE:
        if kind.smooth:
            aim = share / s - ((1.0 - share) * (rest / s) + each) / (hit + 0.0)
        else:
            aim = 0.0 - rest / s / (hit + 0.0)
        return g / s, g * (0.0 - each), unblocked(g * aim, at, span)
    if kind.scores == ScoreKind.NORMALIZE_CLIP:
        r = hit / s
        m = passed(r, span)
        weight = (1.0 - share) * m + each * count
        aim = weight - unblocked((1.0 - share + each) / divisor(r, span), r, span)
        return g / s * weight, g / s * (0.0 - each), g / s * aim
    aim = (0.0 - (1.0 - share + each)) / divisor(at, span)
    return zero, g * (0.0 - each), unblocked(g * aim, at, span)


@word
def cancels(kind: Kind, a: Num, aim: Num, share: Num) -> Num:
    """Whether the terms of a target's slope, of `lines`, leave less of each other than an eighth.

    Smoothed probabilities near what smoothing wants: float32's sums and quotients, right to some
    1e-6, would then leave less than five digits.
    """
    whole = a * share.to(a.typ) if kind.scores == ScoreKind.CLIP_NORMALIZE else a
    return maximum(aim, 0.0 - aim) * 8.0 < maximum(whole, 0.0 - whole)


def may_cancel(kind: Kind) -> bool:
    """Whether a target's slope has terms of either sign, in float32."""
    return (
        kind.smooth
        and not kind.format.wide
        and kind.scores in (ScoreKind.CLIP_NORMALIZE, ScoreKind.NORMALIZE_CLIP)
    )


@word
def slope(kind: Kind, x: Num, e: Num, a: Num, b: Num, s: Num, span: Span) -> Num:
    """The gradient of a class that is not the target."""
    a = a.to(x.typ)
    if kind.scores == ScoreKind.LOGITS:
        return select(x == -math.inf, e * a, e * a + b) if kind.smooth else e * a
    if kind.scores == ScoreKind.CLIP_NORMALIZE:
        return unblocked(a + b / divisor(x, span) if kind.smooth else like(x, a), x, span)
    if kind.scores == ScoreKind.NORMALIZE_CLIP and kind.smooth:
        return a + unblocked(b / divisor(x / s, span), x / s, span)
    return a + unblocked(b / divisor(x, span), x, span) if kind.smooth else a
