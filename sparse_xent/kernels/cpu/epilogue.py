"""What every row of the CPU ends with, whatever kernel has summed its terms.

    finish_sums               the sums under their final reference, the target's score, the total
    finish_loss               the loss
    exact_rows                losses that are not accurate, and their gradients, once more
    row_coefficients          what the gradients of the row's classes are made of
    store_losses              the losses of a vector of rows

`finish_sums` and `finish_loss` take the numbers of one row, or of a vector of rows, one a lane. The
others work on a vector of rows: row r at p + r * step with its classes `apart` bytes from each
other, its label, factor and loss the r-th of those at `labels`, `factors` and `values`.
"""

import math

from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels.arithmetic import (
    anywhere,
    fma,
    lane_size,
    lanes,
    like,
    rounded,
    select,
    splat,
)
from sparse_xent.kernels.cpu.abi import LINE
from sparse_xent.kernels.cpu.compiler import inlined
from sparse_xent.kernels.cpu.exact_row import amount, exact_gradient, exact_row_sums, exact_target
from sparse_xent.kernels.cpu.references import cancels, may_cancel
from sparse_xent.kernels.cpu.vectors import (
    FLUSH,
    StackBytes,
    fetch,
    fetch_factor,
    fetch_factors,
    fetch_label,
    fetch_one,
    float_mode,
    keep,
    keep_label,
    set_float_mode,
    stack_alloc,
)
from sparse_xent.kernels.formulas import (
    ClipRange,
    KernelSpec,
    gradient_coefficients,
    log2e,
    loss,
    mean_term,
    renormalized,
    total_of_terms,
)
from sparse_xent.kernels.staging import Value, Vector, primitive, static_bool

WRITTEN = -2  # the label of a row whose gradient is written already
_VECTOR = StackBytes(LINE)


@primitive
def reads_rows(spec: KernelSpec) -> Value:
    """Whether more of a row than its target is needed for its loss."""
    return static_bool(spec.smooth or spec.scores != ScoreKind.CLIP)


@primitive
def caches_terms(spec: KernelSpec) -> Value:
    """Whether terms are kept for the gradient: where they cost more than reading them back."""
    return static_bool(spec.scores == ScoreKind.LOGITS)


@primitive
def finish_sums(
    spec: KernelSpec, others: Value, target_term: Value, reference: Value, x_t: Value
) -> tuple[Value, Value, Value, Value, Value]:
    """others, target_term and m under the final reference m; target_score; S."""
    others, target_term, m = renormalized(spec, others, target_term, reference)
    target_score = x_t.to(m.typ)
    if spec.scores == ScoreKind.LOGITS:
        target_score = fma(target_score, log2e(spec), 0.0 - m)
    return others, target_term, m, target_score, total_of_terms(spec, others, target_term)


@primitive
def finish_loss(
    spec: KernelSpec,
    others: Value,
    target_term: Value,
    target_score: Value,
    sum_: Value,
    count: Value,
    classes: Value,
    smoothing: Value | None,
    clip_range: ClipRange,
) -> Value:
    """The loss; sum_ and count are the sums of the `smoothing_terms`, if there are any."""
    mean = mean_term(spec, sum_, count, classes, target_score) if spec.smooth else sum_
    return loss(spec, others, target_term, target_score, mean, smoothing, clip_range)


@primitive
def without_ignored(spec: KernelSpec, t: Value, value: Value) -> tuple[Value, Value]:
    """Losses of a vector of rows, 0 where ignored; whether one of the others is not accurate."""
    kept = select(t < 0, splat(spec, 0.0), value)
    if spec.scores != ScoreKind.LOGITS:
        return kept, static_bool(False)
    judged = select(t < 0, splat(spec, 1.0), kept)
    return kept, anywhere(select(is_accurate(spec, judged), like(judged, 0.0), 1.0) > 0.0)


@primitive
def is_accurate(spec: KernelSpec, value: Value) -> Value:
    """Whether a loss of logits is finite, and large enough to be right to its last digits.

    Terms that are no normal numbers beside the target's are 0 in the sums: millions of them are
    less than a rounding of a loss 2**46 (in float64 2**82) times the least normal number.
    """
    least = 2.0**-940 if spec.format.wide else 2.0**-80
    return (value >= least) & (value < math.inf)


@inlined
def exact_rows(
    spec, values, labels, factors, p, step, apart, to, to_step, to_apart, count, C, smoothing, marks
):
    """Compute rows whose loss is not accurate with `exact_row`.

    Args:
        spec: what the kernel is compiled for.
        values: losses, which are replaced.
        labels: labels; below 0 a row is ignored.
        factors: factors of the gradients; not read without `to`.
        p: address of the rows' scores.
        step: bytes from row to row.
        apart: bytes from class to class.
        to: address of the rows' gradients, or None.
        to_step: bytes from row to row there.
        to_apart: bytes from class to class there.
        count: rows.
        C: classes.
        smoothing: label smoothing, or None.
        marks: labels that become WRITTEN where a gradient is written, or None.

    Returns:
        Whether some label has become WRITTEN.
    """
    marked, mode = False, float_mode()
    set_float_mode(mode & ~FLUSH)
    for r in range(count):
        t, value = fetch_label(labels + 4 * r), fetch_one(spec, values + r * lane_size(spec))
        if t >= 0 and not is_accurate(spec, float(value)):
            factor = 1.0
            if to is not None:
                factor = fetch_factor(factors + 8 * r)
            exact, m, others, target_term, alive = exact_row_sums(
                spec, p + r * step, apart, C, t, amount(smoothing), factor
            )
            keep(values + r * lane_size(spec), rounded(spec, exact))
            if to is not None:
                exact_gradient(
                    spec, p + r * step, apart, to + r * to_step, to_apart, C, t,
                    m, others, target_term, alive, amount(smoothing), factor,
                )  # fmt: skip
                if marks is not None and factor != 0.0:
                    keep_label(marks + 4 * r, WRITTEN)
                    marked = True
    set_float_mode(mode)
    return marked


@primitive
def target_cancels(spec: KernelSpec, a: Value, target_gradient: Value, smoothing: Value) -> Value:
    """Whether the target's gradient, of any of the rows, has lost too many digits."""
    if not may_cancel(spec):
        return static_bool(False)
    lost = cancels(spec, a, target_gradient, smoothing)
    return anywhere(lost) if isinstance(lost.typ, Vector) else lost


@inlined
def row_coefficients(
    spec, p, step, apart, count, C, labels, factors,
    others, target_term, target_score, alive, smoothing, clip_range,
):  # fmt: skip
    """`gradient_coefficients` of a vector of rows, the target's exact where summands cancel."""
    a, b, target_gradient = gradient_coefficients(
        spec, others, target_term, target_score, alive, C, smoothing,
        fetch_factors(spec, factors), clip_range,
    )  # fmt: skip
    if smoothing is None:
        return a, b, target_gradient
    if not target_cancels(spec, a, target_gradient, smoothing):
        return a, b, target_gradient
    gradients, sizes = stack_alloc(_VECTOR), stack_alloc(_VECTOR)
    keep(gradients, target_gradient)
    keep(sizes, a)
    for r in range(count):
        at, t = r * lane_size(spec), fetch_label(labels + 4 * r)
        gradient, size = fetch_one(spec, gradients + at), fetch_one(spec, sizes + at)
        if t >= 0 and cancels(spec, size, gradient, smoothing):
            factor = fetch_factor(factors + 8 * r)
            exact = exact_target(spec, p + r * step, apart, C, t, smoothing, factor, clip_range)
            keep(gradients + at, rounded(spec, exact))
    return a, b, fetch(spec, gradients)


@inlined
def store_losses(spec, out, values, count):
    """Write the losses of `count` rows."""
    if count == lanes(spec):
        keep(out, fetch(spec, values))
    else:
        for r in range(count):
            keep(out + r * lane_size(spec), fetch_one(spec, values + r * lane_size(spec)))
