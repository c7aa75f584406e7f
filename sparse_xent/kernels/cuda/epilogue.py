"""What every row of the device ends with, whatever kernel has summed its terms.

finish_sums    the sums under the reference of the whole row, and the total
finish_loss    the loss
record         the position's weighted loss, written and added to the thread's sums
fill_value     what the whole gradient row is where no class has a gradient of its own
"""

import math

from sparse_xent.kernels.cuda.formulas import loss, mean_term, shrink, whole_row
from sparse_xent.kernels.cuda.intrinsics import DeviceKernelSpec
from sparse_xent.kernels.cuda.position import BAD, IGNORED, inlined, weighted, write_loss
from sparse_xent.kernels.formulas import ClipRange, total_of_terms
from sparse_xent.kernels.staging import Value, primitive


@primitive
def finish_sums(
    spec: DeviceKernelSpec, others: Value, m: Value, x_t: Value, clip_range: ClipRange
) -> tuple[Value, Value, Value, Value]:
    """others, target_term and M; S. `others` comes as the sum below m."""
    others, target_term, m = whole_row(spec, others, m, x_t, clip_range)
    return others, target_term, m, total_of_terms(spec, others, target_term)


@primitive
def finish_loss(
    spec: DeviceKernelSpec,
    others: Value,
    target_term: Value,
    m: Value,
    x_t: Value,
    sum_: Value,
    count: Value,
    classes: Value,
    smoothing: Value,
    clip_range: ClipRange,
) -> Value:
    """The loss; sum_ and count are the sums of the `smoothing_terms`, if there are any."""
    mean = sum_
    if spec.smooth:
        mean = mean_term(spec, sum_, count, classes, x_t, m, shrink(spec, classes))
    return loss(spec, others, target_term, m, x_t, mean, smoothing, clip_range)


@inlined
def record(a, o, i, t, w, value, total, kept, weights):
    """Write a position's weighted loss; the thread's sums with it, its label and its weight."""
    result = weighted(value, t, w)
    write_loss(a, o, i, result)
    return total + result, kept + (1.0 if t != IGNORED else 0.0), weights + w


@inlined
def fill_value(t):
    """NaN for a label that is no class, else 0."""
    return math.nan if t == BAD else 0.0
