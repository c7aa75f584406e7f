"""Few classes apart (channels first, Fortran order): as many positions as lanes at a time.

All classes of a vector of positions are summed one after the other, so that the sums stay in
registers: plain logits as `plain_logits` says, other scores as `tiles` sums its columns. (`strided`
takes a block of positions class by class, and reads and writes their sums at each.) Positions that
do not fill a vector, or do not lie together, are read one by one.
"""

from collections.abc import Callable
from typing import Any

from sparse_xent.kernels import arithmetic as ops
from sparse_xent.kernels.cpu import vectors as vec
from sparse_xent.kernels.cpu.abi import FEW, LINE
from sparse_xent.kernels.cpu.compiler import inlined
from sparse_xent.kernels.cpu.epilogue import (
    WRITTEN,
    exact_rows,
    row_coefficients,
    store_losses,
    without_ignored,
)
from sparse_xent.kernels.cpu.memory import (
    fills_lines,
    only_with,
    run_of_positions,
    shifted,
    until_line,
)
from sparse_xent.kernels.cpu.plain_logits import (
    add_column,
    add_four,
    finish,
    gradient_is_right,
    no_classes,
)
from sparse_xent.kernels.cpu.tiles import (
    gradients_in_columns,
    losses_of_columns,
    plain_sums_again,
)
from sparse_xent.kernels.formulas import KernelSpec
from sparse_xent.kernels.staging import Value, primitive

AHEAD = 1024  # bytes to prefetch each class by
_CLASSES = vec.StackBytes(LINE * FEW)  # a vector for each class
_VECTOR = vec.StackBytes(LINE)
_FACTORS = vec.StackBytes(2 * LINE)  # float64, as many as there are lanes


@inlined
def _load_columns(spec, C, p, xc, step, count, columns):
    """Each class of `count` positions as a vector."""
    for c in range(C):
        vec.prefetch(p + c * xc + AHEAD)
        vec.keep(columns + LINE * c, vec.load_some(spec, p + c * xc, step, count))


@inlined
def _sums(spec, C, p, xc, step, count, t, columns, terms):
    """The state of a vector of positions under the reference 0, and their terms."""
    state, c = no_classes(spec), 0
    if count == ops.lanes(spec) and step == ops.itemsize(spec):
        while c + 4 <= C:
            state = add_four(spec, p + c * xc, xc, AHEAD, t, state, shifted(terms, LINE * c))
            c += 4
            t = t - 4
        for k in range(c, C):
            vec.prefetch(p + k * xc + AHEAD)
            vec.keep(columns + LINE * k, vec.load(spec, p + k * xc))
    else:
        _load_columns(spec, C, p, xc, step, count, columns)
    for k in range(c, C):
        state = add_column(spec, columns + LINE * k, t, 0.0, state, shifted(terms, LINE * k))
        t = t - 1
    return state


@inlined
def _plain_losses(
    spec, C, p, step, xc, count, t, labels, columns, terms, smoothing, clip_range, position, notes
):
    """`losses_of_columns` of logits without smoothing."""
    state = _sums(spec, C, p, xc, step, count, t, columns, terms)
    others, target_term, value, right = finish(spec, state, t, 0.0)
    zero, usable, inaccurate = ops.splat(spec, 0.0), right, False
    if terms is not None:
        usable = right & gradient_is_right(spec, others + target_term, t)
    if not ops.everywhere(usable):
        _load_columns(spec, C, p, xc, step, count, columns)
        others, target_term, again, _ = plain_sums_again(spec, C, columns, terms, t, usable)
        value, inaccurate = without_ignored(spec, t, ops.select(right, value, again))
    return value, inaccurate, others, target_term, zero, zero, zero, zero, zero


@inlined
def _losses(
    spec, C, p, step, xc, count, t, labels, columns, terms, smoothing, clip_range, position, notes
):
    """The same of other scores and labels."""
    _load_columns(spec, C, p, xc, step, count, columns)
    return losses_of_columns(
        spec, C, p, step, xc, count, t, labels, columns, terms, smoothing, clip_range, position,
        notes,
    )  # fmt: skip


# Gradients -------------------------------------------------------------------------------------


@primitive
def _plain_class_gradient(
    spec: KernelSpec, e: Value, t: Value, c: Value, a: Value, target_gradient: Value
) -> Value:
    d = ops.select(t == c.to(t.typ), target_gradient, e * a)
    return ops.select(t < 0, 0.0, d)


@inlined
def _plain_gradients(
    spec, C, columns, terms, t, factor, m, before, a, b, target_gradient, s, clip_range
):
    """`gradients_in_columns` of logits without smoothing."""
    for c in range(C):
        e = vec.fetch(spec, terms + LINE * c)
        vec.keep(columns + LINE * c, _plain_class_gradient(spec, e, t, c, a, target_gradient))


@inlined
def _write_columns(spec, C, columns, t, to, dc, step, count, some_written, nontemporal):
    """Write the gradients of a vector of positions, but of those that are WRITTEN.

    Without the prefetch 21 classes and 10 take 1.16 times as long.
    """
    whole_lines = nontemporal and count == ops.lanes(spec) and fills_lines(spec, to, step, dc)
    if whole_lines and not some_written:
        for c in range(C):
            vec.stream_vector(to + c * dc, vec.fetch(spec, columns + LINE * c))
        return
    for c in range(C):
        d, place = vec.fetch(spec, columns + LINE * c), to + c * dc
        vec.prefetch(place + AHEAD)
        if some_written:
            d = ops.select(t == WRITTEN, vec.load_some(spec, place, step, count), d)
        vec.store_some(spec, place, step, count, d)


# The kernel ------------------------------------------------------------------------------------


def _kernel(losses_of: Callable[..., Any], gradients_of: Callable[..., Any]) -> Callable[..., None]:
    """The kernel whose losses and gradients come from these."""

    @inlined
    def few(
        spec, C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, notes,
        smoothing, clip_range, nontemporal, scratch,
    ):  # fmt: skip
        """C <= FEW."""
        w, one = ops.lanes(spec), ops.lane_size(spec)
        columns, terms, values = (
            vec.stack_alloc(_CLASSES),
            vec.stack_alloc(_CLASSES),
            vec.stack_alloc(_VECTOR),
        )
        labels, factors = vec.stack_alloc(_VECTOR), vec.stack_alloc(_FACTORS)
        vec.keep(factors, ops.splat(spec, 0.0))
        vec.keep(factors + LINE, ops.splat(spec, 0.0))
        done, end = 0, 0
        step, dx_step, p, to = 0, 0, x, dx
        while done < last - first:
            if done == end:
                end, p, step = run_of_positions(inner, first, last, done, x, xo, xi)
                if dx is not None:
                    end, to, dx_step = run_of_positions(inner, first, last, done, dx, do, di)
            count = ops.minimum(w, end - done)
            if dx is not None and nontemporal:
                count = until_line(spec, to, dx_step, dc, count)
            here = y + 4 * done
            if count < w:
                here = labels
                for r in range(w):
                    vec.keep_label(labels + 4 * r, -1)
                for r in range(count):
                    vec.keep_label(labels + 4 * r, vec.fetch_label(y + 4 * (done + r)))
            t = vec.fetch_labels(spec, here)
            value, inaccurate, others, target_term, target_score, alive, before, m, s = losses_of(
                spec, C, p, step, xc, count, t, here, columns, only_with(dx, terms), smoothing,
                clip_range, first + done, notes,
            )  # fmt: skip
            vec.keep(values, value)
            some_written = False
            if dx is not None:
                for r in range(count):  # where a factor is 0, the position counts as ignored
                    factor = vec.fetch_factor(g + 8 * (done + r))
                    label = vec.fetch_label(here + 4 * r)
                    vec.keep(factors + 8 * r, factor)
                    vec.keep_label(labels + 4 * r, -1 if factor == 0.0 else label)
                a, b, target_gradient = row_coefficients(
                    spec, p, step, xc, count, C, labels, factors,
                    others, target_term, target_score, alive, smoothing, clip_range,
                )  # fmt: skip
            if inaccurate:
                some_written = exact_rows(
                    spec, values, y + 4 * done, factors, p, step, xc, to, dx_step, dc, count, C,
                    smoothing, only_with(dx, labels),
                )  # fmt: skip
            if dx is not None:
                t = vec.fetch_labels(spec, labels)
                gradients_of(
                    spec, C, columns, terms, t, vec.fetch_factors(spec, factors), m, before, a, b,
                    target_gradient, s, clip_range,
                )  # fmt: skip
                _write_columns(
                    spec, C, columns, t, to, dc, dx_step, count, some_written, nontemporal
                )
                to += count * dx_step
            store_losses(spec, out + done * one, values, count)
            p += count * step
            done += count
        if dx is not None and nontemporal:
            vec.fence()

    return few  # type: ignore[no-any-return]


few = _kernel(_losses, gradients_in_columns)
plain_few = _kernel(_plain_losses, _plain_gradients)
