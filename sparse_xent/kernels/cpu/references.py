"""References on the CPU, which reads a row once and does not know its greatest logit beforehand.

A row of logits is summed under a first guess of its reference. The exponents of its terms show
whether one of them left the range of the arithmetic's dtype; then the reference is raised, and the
sums so far are multiplied by an exact power of two. Of probabilities, which need no reference, the
same integers keep the scores' own bits: they show whether a row cannot be probabilities.
"""

import math
from typing import Any

import numpy as np

from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels.arithmetic import (
    anywhere,
    bits,
    floor,
    like,
    maximum,
    minimum,
    select,
    whole_power,
)
from sparse_xent.kernels.cpu.abi import MOST
from sparse_xent.kernels.cpu.vectors import greater_halves
from sparse_xent.kernels.formulas import ClipRange, KernelSpec, factored_power, log2e, term
from sparse_xent.kernels.staging import Value, Vector, primitive, static_bool

FAR = 64.0  # powers of two by which terms may be scaled at once: all digits are left

# Beyond this |m| the bound below which terms are 0 is no longer found to within half a power of
# two. Rows with such logits (1.4e6 in float32, 3.9e14 in float64) are computed by `exact_row`.
REACH_32, REACH_64 = 2.0**21, 2.0**49


@primitive
def reach(fmt: Any) -> float:
    """The greatest |m| that `power` can be used with."""
    return REACH_64 if fmt.format.wide else REACH_32


@primitive
def first_reference(spec: KernelSpec, x: Value) -> Value:
    """The whole reference below a logit, limited to `reach`; 0 for probabilities."""
    if spec.scores != ScoreKind.LOGITS:
        return like(x, 0.0)
    return minimum(maximum(floor(x * log2e(spec)), -reach(spec)), reach(spec))


@primitive
def term_and_exponent(
    spec: KernelSpec, x: Value, m: Any, clip_range: ClipRange
) -> tuple[Value, Value]:
    """The term, and the bits that hold its exponent: for `join_exponents` and `overflowed`.

    Of probabilities they are the score's own bits, for `suspicious`.
    """
    if spec.scores == ScoreKind.LOGITS:
        power = factored_power(x, m)
        return power.value, power.bits
    return term(spec, x, m, clip_range), bits(x)


def add_term(
    spec: KernelSpec, x: Value, m: Any, clip_range: ClipRange, sum_: Value, exponents: Value
) -> tuple[Value, Value, Value]:
    """The term onto a sum, unrounded; its exponent joined to others; and the term."""
    if spec.scores == ScoreKind.LOGITS:
        power = factored_power(x, m)
        return power.onto(sum_), exponents | power.bits, power.value
    e = term(spec, x, m, clip_range)
    return sum_ + e, join_exponents(spec, exponents, bits(x)), e


@primitive
def join_exponents(spec: KernelSpec, a: Value, b: Value) -> Value:
    """The exponents of two terms in one, which shows what is out of range in either."""
    return a | b if spec.scores == ScoreKind.LOGITS else greater_halves(a, b)


@primitive
def suspicious(spec: KernelSpec, exponents: Value) -> Value:
    """Whether some score may lie outside [LEAST, MOST]; some a little below 0 are suspected, too.

    Compared as unsigned numbers, the bits of floats have the floats' order, but for negative ones,
    which are above all others.
    """
    if spec.scores == ScoreKind.LOGITS:
        return static_bool(False)
    if spec.format.wide:  # `greater_halves` compared halves: only the upper one can be used
        most = int(np.float64(MOST).view(np.int64)) >> 32 << 32
        return anywhere((exponents < 0) | (exponents >= most))
    return anywhere((exponents < 0) | (exponents > int(np.float32(MOST).view(np.int32))))


@primitive
def with_overflow(spec: KernelSpec, exponents: Value, sum_: Value) -> Value:
    """The exponents of a sum's terms, out of range in the lanes where the sum is infinite or NaN.

    A term between 2^127.5 and 2^128.5 may be infinite with an exponent within the range.
    """
    if spec.scores != ScoreKind.LOGITS:
        return exponents
    return select(sum_ < math.inf, exponents, -1)


@primitive
def overflowed(spec: KernelSpec, exponents: Value) -> Value:
    """Whether some term or sum was above 2^128 (2^1024), or NaN: its reference must be raised."""
    if spec.scores != ScoreKind.LOGITS:
        return static_bool(False)
    return anywhere((exponents & ~_in_range(spec)) != 0)


def _in_range(spec: KernelSpec) -> int:
    """The bits of exponents within the range: MAGIC's, and 8 (11) for y's biased whole part."""
    return 0x4338000000000000 | 0x7FF if spec.format.wide else 0x4B400000 | 0xFF


@primitive
def where_overflowed(spec: KernelSpec, exponents: Value, a: Value, b: Value) -> Value:
    """a in the lanes where a term or sum overflowed; the others keep b, and their bits."""
    if spec.scores != ScoreKind.LOGITS:
        return b
    return select((exponents & ~_in_range(spec)) != 0, a, b)


@primitive
def nan_if_overflowed(spec: KernelSpec, others: Value, exponents: Value) -> Value:
    """A vector's sums, NaN where one overflowed even so: its reference is beyond `reach`."""
    return where_overflowed(spec, exponents, like(others, math.nan), others)


def _is_far(spec: KernelSpec, a: Value, first: Value, m: Value) -> Value:
    least = 2.0**-1022 if spec.format.wide else 2.0**-126
    scaled = maximum(a, 0.0 - a) * whole_power(first - m)
    return (m - first > FAR) | ((scaled < least) & (a != 0.0))


@primitive
def reference_is_far(spec: KernelSpec, a: Value, first: Value, m: Value) -> Value:
    """Whether terms under the reference `first`, or their factor a, lose digits if scaled to m."""
    if spec.scores != ScoreKind.LOGITS:
        return static_bool(False)
    far = _is_far(spec, a, first, m)
    return anywhere(far) if isinstance(far.typ, Vector) else far


@primitive
def nearer_reference(spec: KernelSpec, a: Value, first: Value, m: Value) -> Value:
    """m in the lanes where the reference `first` is too far below it, else `first`."""
    return select(_is_far(spec, a, first, m), m, first)


@primitive
def rescaled(spec: KernelSpec, a: Value, first: Value, m: Value) -> Value:
    """The factor of terms under the reference `first` that equals `a` under m, not far above."""
    return a * whole_power(first - m) if spec.scores == ScoreKind.LOGITS else a


@primitive
def scaled_down(value: Value, by: Value) -> Value:
    """Value * 2^by, by whole and not above 0.

    In two steps: a sum may be near the greatest number, and 2^by be 0 where the product is not.
    """
    half = floor(by * 0.5)
    return value * whole_power(half) * whole_power(by - half)


@primitive
def cancels(spec: KernelSpec, a: Value, target_gradient: Value, smoothing: Value) -> Value:
    """Whether the two summands of a target's gradient cancel to less than an eighth.

    That happens to smoothed probabilities near the smoothed target: float32's sums and quotients,
    right to some 1e-6, then leave less than five digits.
    """
    whole = a * smoothing.to(a.typ) if spec.scores == ScoreKind.CLIP_NORMALIZE else a
    return maximum(target_gradient, 0.0 - target_gradient) * 8.0 < maximum(whole, 0.0 - whole)


def may_cancel(spec: KernelSpec) -> bool:
    """Whether a target's gradient has summands of either sign, in float32."""
    return (
        spec.smooth
        and not spec.format.wide
        and spec.scores in (ScoreKind.CLIP_NORMALIZE, ScoreKind.NORMALIZE_CLIP)
    )
