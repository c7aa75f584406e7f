"""The exact row: what the fast kernels cannot compute, one number at a time, in float64.

It serves rows of logits whose fast result is not finite (an inf or a NaN among the scores, all
classes -inf, the target -inf or 1e38 below, offsets beyond the `reach` of a reference), and those
whose loss is smaller than any normal number. And it serves the targets of smoothed probabilities
whose gradient is the small difference of two numbers.
"""

import math
from typing import Any

from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels.arithmetic import maximum
from sparse_xent.kernels.cpu.compiler import outlined
from sparse_xent.kernels.cpu.vectors import load_one, store_one
from sparse_xent.kernels.formulas import KernelSpec, clip, clip_mask, term
from sparse_xent.kernels.staging import Value, primitive, static_bool


@primitive
def amount(smoothing: Value | None) -> Any:
    """The amount of label smoothing, 0 where there is none."""
    return 0.0 if smoothing is None else smoothing


@primitive
def _decisive_gap(spec: KernelSpec) -> float:
    """A gap to all other logits, in nats, beyond which a loss is 0.

    Billions of classes so far below share less than half of the least float, e**-104 (in float64
    e**-745).
    """
    return 780.0 if spec.format.wide else 130.0


@outlined
def exact_row_sums(spec, p, step, C, t, smoothing, g):
    """Loss, maximum m, others and target_term of exp(x_j - m), number of classes not -inf.

    What is too small for a loss and for g times a gradient counts as 0.
    """
    x_t, top = float(load_one(spec, p + t * step)), -math.inf
    for j in range(C):
        x = float(load_one(spec, p + j * step)) if j != t else top
        top = x if x > top or x != x else top
        if x != x:
            break
    if not (top < math.inf and x_t < math.inf):
        return math.nan, math.nan, math.nan, math.nan, 1.0
    decisive = _decisive_gap(spec) + math.log(maximum(abs(g), 1.0))
    if smoothing == 0.0 and x_t - top > decisive:
        return 0.0, x_t, 0.0, 1.0, 1.0
    m = maximum(top, x_t)
    others, target_term, smoothed, count = 0.0, 0.0, 0.0, 0.0
    for j in range(C):
        x = float(load_one(spec, p + j * step))
        e = math.exp(x - m)
        if j == t:
            target_term = e
        else:
            others += e
        if x != -math.inf:
            count += 1.0
            smoothed += (m * 0.5 - x * 0.5) * (2.0 * smoothing / C)
    # Half the gap to the maximum: the gap may overflow where its product with the weight does not.
    if target_term >= others:
        value = math.log1p(others / target_term)
    else:
        value = math.log(others + target_term)
    if smoothing < 1.0:
        value += 2.0 * (1.0 - smoothing) * (m * 0.5 - x_t * 0.5)
    return value + smoothed * (C / count), m, others, target_term, count


@outlined
def exact_gradient(spec, p, step, to, to_step, C, t, m, others, target_term, count, smoothing, g):
    """Write g times the row's gradient; nothing where g is 0: that row is written already."""
    if g == 0.0:
        return
    if m != m:
        for j in range(C):
            store_one(spec, to + j * to_step, math.nan)
        return
    total = others + target_term
    each = smoothing / count
    for j in range(C):
        x = float(load_one(spec, p + j * step))
        each_here = 0.0 if x == -math.inf else each
        if others == 0.0 and target_term > 0.0 and smoothing == 0.0:
            value = 0.0
        elif j == t:
            value = smoothing - others / total - each_here
        else:
            value = math.exp(x - m) / total - each_here
        store_one(spec, to + j * to_step, g * value)


@primitive
def _is_before(spec: KernelSpec) -> Value:
    return static_bool(spec.scores == ScoreKind.NORMALIZE_CLIP)


@outlined
def exact_target(spec, p, step, C, t, smoothing, g, clip_range):
    """g times the target's gradient of CLIP_NORMALIZE or NORMALIZE_CLIP, smoothed."""
    p_t, others = float(load_one(spec, p + t * step)), 0.0
    for j in range(C):
        if j != t:
            others += term(spec, float(load_one(spec, p + j * step)), 0.0, clip_range)
    target_term = term(spec, p_t, 0.0, clip_range)
    total, sharp = others + target_term, 1.0 - smoothing
    if not _is_before(spec):
        if p_t < clip_range[0] or p_t > clip_range[1]:
            return 0.0
        return g * (
            (smoothing * (target_term / total - 1.0 / C) - sharp * (others / total)) / target_term
        )
    m_t, count = clip_mask(p_t / total, clip_range), 0.0
    for j in range(C):
        count += clip_mask(float(load_one(spec, p + j * step)) / total, clip_range)
    r_t, each = clip(p_t / total, clip_range), smoothing / C
    at_target = 0.0 if m_t == 0.0 else (sharp + each) * m_t / r_t  # r_t may be 0, where epsilon is
    return g * ((sharp * m_t + each * count) - at_target) / total
