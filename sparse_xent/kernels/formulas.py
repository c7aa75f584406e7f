"""The formulas of both machines: exp2, log and log1p on lanes, and a row's loss and gradient.

Each is written once, for vectors of lanes and for single numbers alike.

    y_j = x_j log2(e) - m          logits in powers of two below a reference m, a whole number
    e_j = 2^y_j                    terms; others = sum of e_j over j != t, S = others + e_t
    loss = log1p(others / e_t)     where e_t >= others: a confident row keeps its digits
         = log S - y_t log 2       elsewhere, however small e_t is

A whole reference can be changed at any time: every term is then multiplied by an exact power of
two. y itself is never rounded: one fused multiply-add finds its whole part, another the fraction,
so a term is as accurate as the polynomial at any offset and any gap.

For probabilities the terms are q_j = clip(p_j) or p_j itself, and there is no reference.
`clip_range` is (eps, 1 - eps), rounded to the arithmetic's dtype.

Names of a row's numbers, here and in all kernels:

    others, target_term    sums of the terms without the target's, and the target's term
    target_score           y_t of logits, p_t of probabilities
    mean, count            what label smoothing needs, from a second pass over the classes: the mean
                           of `smoothing_terms`, and the number of classes that it speaks of
    smoothing              the amount s of label smoothing
    g                      the factor of the row's gradient
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels import arithmetic as ops
from sparse_xent.kernels.staging import Value, primitive, static, static_bool

ClipRange = tuple[Value, Value]


@static
@dataclass(frozen=True)
class KernelSpec:
    """What one kernel is compiled for."""

    format: ops.Format
    scores: ScoreKind
    smooth: bool  # whether labels are smoothed


@primitive
def is_logits(spec: KernelSpec) -> Value:
    """Whether the scores are logits."""
    return static_bool(spec.scores == ScoreKind.LOGITS)


@primitive
def is_smooth(spec: KernelSpec) -> Value:
    """Whether labels are smoothed."""
    return static_bool(spec.smooth)


# Powers and logarithms -------------------------------------------------------------------------

LN2 = math.log(2)
LOG2E = 1 / LN2
# Rounded to float32, log2(e) stretches every gap by 1.3e-8, and that is all it does.
LOG2E_32 = float(np.float32(LOG2E))

# t = x log2(e) + (MAGIC - m) leaves the whole part of y in the last bits of t, biased as an
# exponent is: shifted to the top they are 2^whole, and exactly 0 for the LOWEST.
MAGIC_32, LOWEST_32 = 1.5 * 2.0**23 + 127, -127.0
MAGIC_64, LOWEST_64 = 1.5 * 2.0**52 + 1023, -1023.0

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
# (log(1 + f) - f + f^2 / 2) / f^3 on [sqrt(1/2) - 1, sqrt(2) - 1]: Cephes' coefficients of logf.
_LOG1P_32 = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
_LN2_32 = (
    0.693138062954,
    9.0580006145e-06,
)  # high part, short enough to be exact times k; low part
_LN2_64 = (6.93147180369123816490e-01, 1.90821492927058770002e-10)


def _polynomial(x: Value, coefficients: tuple[float, ...]) -> Value:
    """Horner's scheme in x; long ones in x^2, two coefficients a step.

    A term waits for its polynomial, and a processor has only so many terms in flight: float64's
    loops over classes take 5 to 20 % less with half the steps.
    """
    value: Any = coefficients[0]
    remaining = coefficients[1:]
    if len(remaining) < 6:
        for c in remaining:
            value = ops.mad(value, x, ops.addend(x, c))
        return value
    square = x * x
    if len(remaining) % 2:
        value, remaining = ops.mad(x, value, ops.addend(x, remaining[0])), remaining[1:]
    for a, b in zip(remaining[::2], remaining[1::2], strict=True):
        value = ops.mad(value, square, ops.mad(x, a, ops.addend(x, b)))
    return value


@primitive
def log2e(fmt: Any) -> float:
    """log2(e) as `power` takes it."""
    return LOG2E if fmt.format.wide else LOG2E_32


@primitive
def power(x: Value, m: Any) -> Value:
    """2^(x log2(e) - m), m whole: exactly 0 below 2^-126 (2^-1022), -inf too; NaN and inf: NaN.

    Above 2^127 (2^1023) the result means nothing; the bits of `factored_power` tell where.
    """
    return factored_power(x, m).value


class Power(NamedTuple):
    """2^y as two factors, so that a sum takes their product unrounded, in one instruction."""

    fraction: Value  # 2^(y - n), n the whole number next to y
    whole: Value  # 2^n
    bits: Value  # that hold n

    @property
    def value(self) -> Value:
        """2^y."""
        return self.fraction * self.whole

    def onto(self, sum_: Value) -> Value:
        """sum_ + 2^y."""
        return ops.mad(self.fraction, self.whole, sum_)


def factored_power(x: Value, m: Any) -> Power:
    """`power` before its last multiplication, and the bits that hold y's whole part."""
    scale, magic, lowest, shift, coefficients = (
        (LOG2E, MAGIC_64, LOWEST_64, 52, _POWER_64)
        if x.wide
        else (LOG2E_32, MAGIC_32, LOWEST_32, 23, _POWER_32)
    )
    bias = magic - ops.like(x, m)
    x = ops.maximum((ops.like(x, m) + lowest) * (1 / scale), x)
    t = ops.fma(x, scale, bias)
    fraction = ops.fma(x, scale, bias - t)
    bits = ops.bits(t)
    return Power(_polynomial(fraction, coefficients), ops.from_bits(bits << shift), bits)


def power_or_inf(x: Value, m: Any) -> Power:
    """`power`, but inf from 2^127.5 (2^1023.5) on and for an infinite x."""
    top, scale = (1024.0, LOG2E) if x.wide else (128.0, LOG2E_32)
    return factored_power(ops.minimum((ops.like(x, m) + top) * (1 / scale), x), m)


@primitive
def log(u: Value) -> Value:
    """Natural logarithm of 0, a normal number, inf or NaN; -inf for what is negative."""
    root_half, shift, coefficients, ln2 = (
        (0x3FE6A09E667F3BCD, 52, _LOG_64, _LN2_64) if u.wide else (0x3F3504F3, 23, _LOG_32, _LN2_32)
    )
    whole = (ops.bits(u) - root_half) >> shift
    f = ops.from_bits(ops.bits(u) - (whole << shift)) - 1.0
    k = ops.as_float(whole)
    s = f / (f + 2.0)
    half = f * f * 0.5
    tail = ops.mad(k, ln2[1], s * ops.mad(_polynomial(s * s, coefficients), s * s, half))
    value = ops.mad(k, ln2[0], f - (half - tail))
    return ops.select(u < math.inf, ops.select(u > 0.0, value, -math.inf), u)


@primitive
def log_of_any(u: Value) -> Value:
    """`log` of subnormal numbers, too: epsilon 0 lets them through."""
    least, up = (2.0**-1022, 60) if u.wide else (2.0**-126, 60)
    small = u < least
    return log(ops.select(small, u * 2.0**up, u)) - ops.select(small, ops.like(u, up * LN2), 0.0)


@primitive
def log_sum(a: Any, b: Any) -> Value:
    """log(a + b), a >= b >= 0, with the rounding of a + b put back: for a = 1 it is log1p(b)."""
    u = a + b
    return log(u) + (b - (u - a)) / u


# Terms of the sum ------------------------------------------------------------------------------


@primitive
def clip(p: Value, clip_range: ClipRange) -> Value:
    """p moved into the range, NaN kept."""
    return ops.minimum(clip_range[1].to(p.typ), ops.maximum(clip_range[0].to(p.typ), p))


@primitive
def clip_mask(p: Value, clip_range: ClipRange) -> Value:
    """1 where the clip leaves p as it is, else 0."""
    return ops.select((p >= clip_range[0]) & (p <= clip_range[1]), ops.like(p, 1.0), 0.0)


@primitive
def divisor(p: Value, clip_range: ClipRange) -> Value:
    """p clipped, to divide by: -0 becomes 0, so that its quotient is inf, not -inf."""
    return clip(p, clip_range) + 0.0


@primitive
def zero_where_clipped(value: Value, p: Value, clip_range: ClipRange) -> Value:
    """A gradient; 0 where the clip changes p, even where it is infinite. NaN stays NaN."""
    blocked = (p < clip_range[0]) | (p > clip_range[1])
    return ops.select(blocked & (value == value), 0.0, value)


@primitive
def term(spec: KernelSpec, x: Value, m: Any, clip_range: ClipRange) -> Value:
    """What a class adds to the row's sum: e_j, q_j or p_j."""
    if spec.scores == ScoreKind.LOGITS:
        return power(x, m)
    return clip(x, clip_range) if spec.scores == ScoreKind.CLIP_NORMALIZE else x


@primitive
def renormalized(
    spec: KernelSpec, others: Value, target_term: Value, m: Value
) -> tuple[Value, Value, Value]:
    """others, target_term and m under a reference next to their sum, which is then in [1, 2).

    A reference far from the sum would make the loss a small difference of large numbers.
    """
    if spec.scores != ScoreKind.LOGITS:
        return others, target_term, m
    shift, bias = (52, 1023) if others.wide else (23, 127)
    k = ops.as_float((ops.bits(others + target_term) >> shift) - bias)
    scale = ops.whole_power(0.0 - k)
    return others * scale, target_term * scale, m + k


@primitive
def total_of_terms(spec: KernelSpec, others: Value, target_term: Value) -> Value:
    """S; for "before" NaN where it is 0 or infinite, for p / S means nothing then."""
    s = others + target_term
    if spec.scores == ScoreKind.NORMALIZE_CLIP:
        return ops.select((s != 0.0) & (s < math.inf) & (s > -math.inf), s, math.nan)
    return s


@primitive
def smoothing_terms(
    spec: KernelSpec, x: Value, m: Any, s: Any, clip_range: ClipRange
) -> tuple[Value, Value]:
    """What a class adds to the two sums that label smoothing needs.

    Logits: y_j and 1, but nothing for -inf: that class counts as deleted. "before": log r_j, and
    whether the clip leaves r_j as it is. Else: log q_j.
    """
    if spec.scores == ScoreKind.LOGITS:
        deleted = x == -math.inf
        y = ops.fma(x, log2e(spec), ops.like(x, 0.0) - m)
        return ops.select(deleted, 0.0, y), ops.select(deleted, ops.like(x, 0.0), 1.0)
    if spec.scores == ScoreKind.NORMALIZE_CLIP:
        return log_of_any(clip(x / s, clip_range)), clip_mask(x / s, clip_range)
    return log_of_any(clip(x, clip_range)), ops.like(x, 0.0)


@primitive
def mean_term(
    spec: KernelSpec, sum_: Value, count: Value, classes: Value, target_score: Value
) -> Value:
    """The mean of the smoothing terms over all classes, or over those that are not -inf.

    Of the target alone it is y_t as the loss has it, so that their difference is exactly 0.
    """
    if spec.scores != ScoreKind.LOGITS:
        return sum_ / ops.like(sum_, classes)
    return ops.select((count == 1.0) & (target_score > -math.inf), target_score, sum_ / count)


# A row's loss ----------------------------------------------------------------------------------


@primitive
def loss(
    spec: KernelSpec,
    others: Value,
    target_term: Value,
    target_score: Value,
    mean: Value,
    smoothing: Value,
    clip_range: ClipRange,
) -> Value:
    """A row's loss, in nats: (1-s) sharp + s flat, neither of which is negative.

    sharp is the loss without smoothing, flat that of a target spread evenly over all classes.
    """
    if spec.scores == ScoreKind.LOGITS:
        near = target_term >= others
        more = ops.select(near, others / target_term, target_term)
        # log S; log S - y_t log 2 where near
        base = log_sum(ops.select(near, ops.like(others, 1.0), others), more)
        done = ops.select(near, target_score, 0.0)
        sharp = base - (target_score - done) * LN2
        flat = base - (mean - done) * LN2
    elif spec.scores == ScoreKind.CLIP_NORMALIZE:
        sharp = _after(others, target_term)
        flat = log_of_any(others + target_term) - mean
    else:
        r = target_score
        if spec.scores == ScoreKind.NORMALIZE_CLIP:
            r = target_term / total_of_terms(spec, others, target_term)
        sharp = 0.0 - log_of_any(clip(r, clip_range))
        flat = 0.0 - mean
    if not spec.smooth:
        return sharp
    smoothing = smoothing.to(others.typ)
    sharp = ops.select(smoothing < 1.0, sharp * (1.0 - smoothing), 0.0)  # 0 * inf would be NaN
    value = sharp + flat * smoothing
    if spec.scores == ScoreKind.LOGITS:
        # All smoothed away from a deleted target: with one class left the loss is 0, which log S
        # misses by a rounding. NaN has the row computed exactly (`exact_row`).
        value = ops.select((target_score == -math.inf) & (smoothing >= 1.0), math.nan, value)
    return value


def loss_of_logits(others: Value, target_term: Value, x_t: Value, m: Any) -> Value:
    """The loss of logits without smoothing, for sums under a reference m that may be far from them.

    log(u) = k log 2 + log1p(f), with the rounding of u in f. Where the target is not near, k - y_t
    is rounded once, however far m is. One quotient, two in float64.
    """
    scale, shift, root_half, one = (
        (LOG2E, 52, 0x3FE6A09E667F3BCD, 1023 << 52)
        if others.wide
        else (LOG2E_32, 23, 0x3F3504F3, 127 << 23)
    )
    near = target_term >= others
    ratio = others / target_term
    a = ops.select(near, ops.like(others, 1.0), others)
    b = ops.select(near, ratio, target_term)
    u = a + b
    whole = (ops.bits(u) - root_half) >> shift
    by, k = whole << shift, ops.as_float(whole)
    f = ops.from_bits(ops.bits(u) - by) - 1.0
    f = ops.fma(b - (u - a), ops.from_bits(one - by), f)
    square = f * f
    if others.wide:
        s, half = f / (f + 2.0), square * 0.5
        log1p = f - (half - s * ops.mad(_polynomial(s * s, _LOG_64), s * s, half))
    else:
        log1p = ops.mad(square, -0.5, f) + (square * f) * _polynomial(f, _LOG1P_32)
    k = ops.select(near, k, ops.fma(x_t, -scale, k + ops.like(k, m)))
    return ops.mad(k, LN2, log1p)


@primitive
def _after(others: Value, target_term: Value) -> Value:
    """log1p(others / target_term); inf where the target's term alone is 0, NaN where both are.

    A target's term so small that the ratio may overflow (epsilon may let it) is scaled by 2^up.
    """
    target_term = target_term + 0.0  # -0 becomes 0
    least, up = (2.0**-512, 512) if others.wide else (2.0**-64, 64)
    small = (target_term < least) & (target_term < others * 0.5)
    one, ratio = (
        ops.like(others, 1.0),
        others / ops.select(small, target_term * 2.0**up, target_term),
    )
    near = (ratio <= one) & (target_term >= others * 0.5)
    value = log_sum(
        ops.select(near, one, ratio),
        ops.select(near, ratio, ops.select(small, ops.like(others, 2.0**-up), one)),
    )
    return ops.select(
        target_term == 0.0, ratio, value + ops.select(small, ops.like(others, up * LN2), 0.0)
    )


# A row's gradient ------------------------------------------------------------------------------
#
# Class j gets `class_gradient`: a e_j + b, a, or a + b / q_j with the row's own a and b. The target
# gets `target_gradient`. All of them include the factor g.


@primitive
def gradient_coefficients(
    spec: KernelSpec,
    others: Value,
    target_term: Value,
    target_score: Value,
    count: Value,
    classes: Value,
    smoothing: Value,
    g: Value,
    clip_range: ClipRange,
) -> tuple[Value, Value, Value]:
    """a, b and target_gradient of a row."""
    zero, g = ops.like(others, 0.0), g.to(others.typ)
    s = total_of_terms(spec, others, target_term)
    smoothing = smoothing.to(others.typ) if spec.smooth else zero
    if spec.scores == ScoreKind.LOGITS:
        if not spec.smooth:
            return g / s, zero, g * (0.0 - others / s)
        each = smoothing / count
        target_gradient = smoothing - others / s - ops.select(target_score == -math.inf, zero, each)
        return g / s, g * (0.0 - each), g * target_gradient
    each = smoothing / ops.like(others, classes)
    if spec.scores == ScoreKind.CLIP_NORMALIZE:
        if spec.smooth:
            target_gradient = smoothing / s - ((1.0 - smoothing) * (others / s) + each) / (
                target_term + 0.0
            )
        else:
            target_gradient = 0.0 - others / s / (target_term + 0.0)
        return (
            g / s,
            g * (0.0 - each),
            zero_where_clipped(g * target_gradient, target_score, clip_range),
        )
    if spec.scores == ScoreKind.NORMALIZE_CLIP:
        r = target_term / s
        m = clip_mask(r, clip_range)
        weight = (1.0 - smoothing) * m + each * count
        target_gradient = weight - zero_where_clipped(
            (1.0 - smoothing + each) / divisor(r, clip_range), r, clip_range
        )
        return g / s * weight, g / s * (0.0 - each), g / s * target_gradient
    target_gradient = (0.0 - (1.0 - smoothing + each)) / divisor(target_score, clip_range)
    return zero, g * (0.0 - each), zero_where_clipped(g * target_gradient, target_score, clip_range)


@primitive
def class_gradient(
    spec: KernelSpec, x: Value, e: Value, a: Value, b: Value, s: Value, clip_range: ClipRange
) -> Value:
    """The gradient of a class that is not the target."""
    a = a.to(x.typ)
    if spec.scores == ScoreKind.LOGITS:
        return ops.select(x == -math.inf, e * a, e * a + b) if spec.smooth else e * a
    if spec.scores == ScoreKind.CLIP_NORMALIZE:
        return zero_where_clipped(
            a + b / divisor(x, clip_range) if spec.smooth else ops.like(x, a), x, clip_range
        )
    if spec.scores == ScoreKind.NORMALIZE_CLIP and spec.smooth:
        return a + zero_where_clipped(b / divisor(x / s, clip_range), x / s, clip_range)
    return a + zero_where_clipped(b / divisor(x, clip_range), x, clip_range) if spec.smooth else a
