"""The formulas of the device, where they differ: how a term is made, and below which reference.

    d_j = x_j - m        nats below a logit m of the row: any of them near the greatest will do
    e_j = exp(d_j)       terms; others = sum of e_j over j != t
    M = max(m, x_t)      the reference of the whole row; target_term = exp(x_t - M)

A special unit makes 2^y from a rounded y, so a whole reference and a fused multiply-add, with which
the CPU avoids that rounding, would gain nothing here. The difference d_j is rounded once, and exact
near the reference and at large offsets; at 80 nats below, its term is right to 7e-6. And every
number can be a reference, 1e38 as well as 1.
"""

import math

from sparse_xent.kernels import ScoreKind, formulas
from sparse_xent.kernels.arithmetic import anywhere, bits, from_bits, like, maximum, select
from sparse_xent.kernels.cuda.intrinsics import DeviceKernelSpec, exp2
from sparse_xent.kernels.formulas import LOG2E, LOG2E_32, ClipRange
from sparse_xent.kernels.staging import Value, primitive, static_bool

EMPTY_32, EMPTY_64 = -3.4028234663852886e38, -1.7976931348623157e308
"""The reference of no class at all: the lowest number. No logit but -inf is below it."""

FAR = 16.0
"""Nats by which a logit may exceed its reference before that is raised: so little costs no digits
in float32, and the logits of one row seldom differ by more from the first."""


@primitive
def empty(model: Value) -> Value:
    """The reference of no class, like `model`."""
    return like(model, EMPTY_64 if model.wide else EMPTY_32)


@primitive
def exp(d: Value) -> Value:
    """e^d: exactly 0 for -inf, NaN for NaN."""
    if d.wide:
        return formulas.power(d, 0.0)
    return exp2(d * LOG2E_32)


@primitive
def term(spec: DeviceKernelSpec, x: Value, m: Value, clip_range: ClipRange) -> Value:
    """What a class adds to the row's sum: e_j, q_j or p_j."""
    if spec.scores == ScoreKind.LOGITS:
        return exp(x - m.to(x.typ))
    return formulas.term(spec, x, 0.0, clip_range)


@primitive
def too_far(spec: DeviceKernelSpec, x: Value, m: Value) -> Value:
    """Whether some logit is so far above its reference that this must be raised."""
    if spec.scores != ScoreKind.LOGITS:
        return static_bool(False)
    return anywhere(x - m > FAR)


@primitive
def raised(spec: DeviceKernelSpec, x: Value, m: Value, s: Value) -> tuple[Value, Value]:
    """References raised to the logits that are too far above them, and sums that follow."""
    up = select(x - m > FAR, x, m)
    return up, s * exp(m - up)


@primitive
def under(spec: DeviceKernelSpec, s: Value, m: Value, top: Value) -> Value:
    """Sums under their own references, as sums under a greater one."""
    return s * exp(m - top.to(m.typ)) if spec.scores == ScoreKind.LOGITS else s


@primitive
def whole_row(
    spec: DeviceKernelSpec, others: Value, m: Value, x_t: Value, clip_range: ClipRange
) -> tuple[Value, Value, Value]:
    """others, target_term and M, of the sum under m of all classes but the target."""
    if spec.scores != ScoreKind.LOGITS:
        return others, term(spec, x_t, m, clip_range), m
    top = maximum(x_t, m)
    others = others * exp(m - top)
    target_term = exp(x_t - top)
    # All classes are -inf where both are 0.
    return select(others + target_term == 0.0, math.nan, others), target_term, top


@primitive
def shrink(spec: DeviceKernelSpec, classes: Value) -> Value:
    """A power of two by which half a gap is scaled, so that the sum over classes does not overflow.

    The gap itself may overflow, and so may the sum of its halves.
    """
    count = classes.to(spec.format.element)
    top, shift = (2045, 52) if count.wide else (253, 23)
    return from_bits((like(bits(count), top) - (bits(count) >> shift)) << shift) * 0.5


@primitive
def smoothing_terms(
    spec: DeviceKernelSpec, x: Value, m: Value, s: Value, tiny: Value, clip_range: ClipRange
) -> tuple[Value, Value]:
    """As `formulas` has them; of logits `tiny` (from `shrink`) times the gap to m in nats."""
    if spec.scores != ScoreKind.LOGITS:
        return formulas.smoothing_terms(spec, x, 0.0, s, clip_range)
    deleted = x == -math.inf
    tiny = tiny.to(x.typ)
    gap = x * tiny - m.to(x.typ) * tiny
    return select(deleted, 0.0, gap), select(deleted, like(x, 0.0), 1.0)


@primitive
def mean_term(
    spec: DeviceKernelSpec,
    total: Value,
    count: Value,
    classes: Value,
    x_t: Value,
    m: Value,
    tiny: Value,
) -> Value:
    """Their mean, from their sums; of logits half the mean gap, in nats."""
    if spec.scores != ScoreKind.LOGITS:
        return formulas.mean_term(spec, total, count, classes, x_t)
    half = total / (count * (tiny * 2.0).to(count.typ))
    return select((count == 1.0) & (x_t > -math.inf), x_t * 0.5 - m * 0.5, half)


@primitive
def loss(
    spec: DeviceKernelSpec,
    others: Value,
    target_term: Value,
    m: Value,
    x_t: Value,
    mean: Value,
    smoothing: Value,
    clip_range: ClipRange,
) -> Value:
    """A row's loss, in nats."""
    if spec.scores != ScoreKind.LOGITS:
        return formulas.loss(spec, others, target_term, x_t, mean, smoothing, clip_range)
    near, there, k = formulas.renormalized(spec, others, target_term, like(others, 0.0))
    at = (x_t - m) * LOG2E - k
    if not spec.smooth:
        value = formulas.loss(spec, near, there, at, mean, smoothing, clip_range)
        # Counted in powers of two the gap overflows before it does in nats.
        return select((value == math.inf) & (x_t > -math.inf), m - x_t, value)
    smoothing = smoothing.to(others.typ)
    flat = mean * (2 * LOG2E) - k
    # All smoothed away: the loss without smoothing does not count, even where it is infinite.
    alone = (smoothing >= 1.0) & (x_t == -math.inf)
    at = select(alone, flat, at)
    value = formulas.loss(spec, near, there, at, flat, smoothing, clip_range)
    sharp = select(smoothing < 1.0, (m * 0.5 - x_t * 0.5) * (2.0 - smoothing * 2.0), 0.0)
    finite = ((x_t > -math.inf) | alone) & (others + target_term < math.inf)
    beyond = finite & ((at == -math.inf) | (flat == -math.inf))
    return select(beyond, sharp - mean * (smoothing * 2.0), value)


@primitive
def class_gradient(
    spec: DeviceKernelSpec, x: Value, m: Value, a: Value, b: Value, s: Value, clip_range: ClipRange
) -> Value:
    """The gradient of classes that are not the target."""
    e = term(spec, x, m, clip_range) if spec.scores == ScoreKind.LOGITS else x
    made = formulas.class_gradient(spec, x, e, a, b, s.to(x.typ), clip_range)
    return made.to(x.typ)
