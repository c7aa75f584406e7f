"""Tiles: rows of few classes, as many rows as there are lanes, finished together, one row a lane.

The scores are transposed in registers, so that each vector holds one class of all rows. The
logarithms, which would cost a short row more than its exponentials, are then taken by lanes, too.

Logits without smoothing are summed as `plain_logits` says. Of other logits each row's greatest is
found first: they are rare, and what they take beside is far more.
"""

from collections.abc import Callable
from typing import Any

from sparse_xent.kernels import arithmetic as ops
from sparse_xent.kernels.cpu import vectors as vec
from sparse_xent.kernels.cpu.abi import LINE, TILE
from sparse_xent.kernels.cpu.compiler import inlined, outlined
from sparse_xent.kernels.cpu.epilogue import (
    exact_rows,
    finish_loss,
    finish_sums,
    row_coefficients,
    store_losses,
    without_ignored,
)
from sparse_xent.kernels.cpu.implausible import note
from sparse_xent.kernels.cpu.memory import (
    AHEAD,
    copy_bytes,
    only_with,
    run_of_positions,
    shifted,
    write_rows,
)
from sparse_xent.kernels.cpu.plain_logits import (
    Last,
    add_column,
    add_panel,
    finish,
    gradient_is_right,
    no_classes,
)
from sparse_xent.kernels.cpu.references import (
    first_reference,
    join_exponents,
    nan_if_overflowed,
    rescaled,
    suspicious,
    term_and_exponent,
)
from sparse_xent.kernels.formulas import (
    ClipRange,
    KernelSpec,
    class_gradient,
    is_logits,
    smoothing_terms,
    term,
)
from sparse_xent.kernels.staging import Value, primitive

COLUMNS = vec.StackBytes(LINE * (TILE + 8))  # a vector for each class
ROWS = vec.StackBytes(16 * (TILE + 4) * 8 + 2 * LINE)
_ONE, _TWO, _THREE, _ALL = (Last(n) for n in range(1, 5))
_VECTOR = vec.StackBytes(LINE)
_FACTORS = vec.StackBytes(2 * LINE)  # float64, as many as there are lanes


@primitive
def panel_classes(spec: KernelSpec) -> int:
    """Classes that are transposed at once."""
    return spec.format.lanes // 4


@inlined
def copy_rows(spec, dx, p, step, labels, factors, count, row, rows, row_labels, row_factors):
    """Copy `count` rows with labels and factors to where there is space for as many as lanes.

    The others count as ignored, and their scores are 0: what is left there of other calls may be
    subnormal, which costs a processor hundreds of cycles at each step (2 x 3 logits: 0.7 us).
    """
    for at in range(0, ops.lanes(spec) * row, LINE):
        vec.keep(rows + at, ops.splat(spec, 0.0))
    for r in range(ops.lanes(spec)):
        if r < count:
            copy_bytes(rows + r * row, p + r * step, row)
            vec.keep_label(row_labels + 4 * r, vec.fetch_label(labels + 4 * r))
            if dx is not None:
                vec.keep(row_factors + 8 * r, vec.fetch_factor(factors + 8 * r))
        else:
            vec.keep_label(row_labels + 4 * r, -1)


@inlined
def transpose(spec, C, p, step, within, columns):
    """Each class of a tile's rows as a vector: in panels, the last of which ends with its row.

    Where panels would not stay `within` the rows, numbers are read one by one.
    """
    size, panel = ops.itemsize(spec), panel_classes(spec)
    if within:
        for c in range(0, C, panel):
            at = ops.minimum(c, ops.maximum(C - panel, 0))
            vec.gather_panel(spec, p + at * size, step, columns + LINE * at)
    else:
        for c in range(C):
            vec.keep(columns + LINE * c, vec.load_some(spec, p + c * size, step, ops.lanes(spec)))


@primitive
def _add_class(
    spec: KernelSpec,
    columns: Value,
    t: Value,
    c: Value,
    m: Value,
    clip_range: ClipRange,
    others: Value,
    x_t: Value,
    exponents: Value,
) -> tuple[Value, Value, Value, Value]:
    """One class of all rows: its terms, onto the sums but for the target's.

    The target's score is or-ed in among zeros: on most processors that leaves the multipliers
    free, which a blend does not.
    """
    x = vec.fetch(spec, columns + c * LINE)
    e, exponent = term_and_exponent(spec, x, m, clip_range)
    here = t == c.to(t.typ)
    x_t = ops.from_bits(ops.bits(x_t) | ops.bits(ops.select(here, x, 0.0)))
    others = others + ops.select(here, 0.0, e)
    return others, x_t, join_exponents(spec, exponents, exponent), e


@inlined
def _sums(spec, C, columns, terms, t, m, clip_range):
    """The sums of all rows' terms but the targets', the targets' scores, and all exponents."""
    others, x_t, exponents = ops.splat(spec, 0.0), ops.splat(spec, 0.0), ops.integers(spec, 0)
    for c in range(C):
        others, x_t, exponents, e = _add_class(
            spec, columns, t, c, m, clip_range, others, x_t, exponents
        )
        if terms is not None:
            vec.keep(terms + LINE * c, e)
    return others, x_t, exponents


@inlined
def _reference(spec, C, columns):
    """The whole reference below each row's greatest logit; 0 for probabilities."""
    top = vec.fetch(spec, columns)
    if is_logits(spec):
        for c in range(1, C):
            top = ops.maximum(vec.fetch(spec, columns + LINE * c), top)
    return first_reference(spec, top)


@inlined
def _plain_sums(spec, C, p, step, within, t, columns, terms):
    """The state of a tile's rows under the reference 0, and, unless `terms` is None, their terms.

    Panels stay in registers; the last one ends with its row.
    """
    panel, size = panel_classes(spec), ops.itemsize(spec)
    state, c = no_classes(spec), 0
    while c + panel <= C:
        to = shifted(terms, LINE * c)
        state = add_panel(spec, _ALL, p + c * size, step, t, state, to)
        c += panel
        t = t - panel_classes(spec)
    to, last = shifted(terms, LINE * c), p + (C - panel) * size
    if c == 0:  # fewer classes than a panel has
        transpose(spec, C, p, step, within, columns)
        for k in range(C):
            state = add_column(
                spec, columns + LINE * k, t - k, 0.0, state, shifted(terms, LINE * k)
            )
    elif C - c == 1:
        state = add_panel(spec, _ONE, last, step, t, state, to)
    elif C - c == 2:
        state = add_panel(spec, _TWO, last, step, t, state, to)
    elif C - c == 3:
        state = add_panel(spec, _THREE, last, step, t, state, to)
    return state


@outlined
def plain_sums_again(spec, C, columns, terms, t, right):
    """`finish` of rows that are not right, under references of their own; of the others as before.

    A row has its terms and sums under one reference; under 0 they keep their bits.
    """
    m = ops.select(right, ops.splat(spec, 0.0), _reference(spec, C, columns))
    state = no_classes(spec)
    for c in range(C):
        column = columns + LINE * c
        state = add_column(spec, column, t - c, m, state, shifted(terms, LINE * c))
    return finish(spec, state, t, m)


@inlined
def _smoothing_sums(spec, C, columns, m, s, clip_range):
    """The sums of the rows' smoothing terms."""
    sum_, count = ops.splat(spec, 0.0), ops.splat(spec, 0.0)
    for c in range(C):
        more = smoothing_terms(spec, vec.fetch(spec, columns + LINE * c), m, s, clip_range)
        sum_ += more[0]
        count += more[1]
    return sum_, count


@primitive
def _class_gradient(
    spec: KernelSpec,
    columns: Value,
    terms: Value,
    t: Value,
    c: Value,
    a: Value,
    b: Value,
    target_gradient: Value,
    off: Value,
    s: Value,
    clip_range: ClipRange,
) -> None:
    x = vec.fetch(spec, columns + c * LINE)
    d = class_gradient(spec, x, vec.fetch(spec, terms + c * LINE), a, b, s, clip_range)
    d = ops.select(t == c.to(t.typ), target_gradient, d)
    vec.keep(columns + c * LINE, ops.select(off, 0.0, d))


@inlined
def gradients_in_columns(
    spec, C, columns, terms, t, factor, m, before, a, b, target_gradient, s, clip_range
):
    """Put the gradients of as many rows as there are lanes in the place of their scores."""
    a = rescaled(spec, a, before, m)
    off = (t < ops.integers(spec, 0)) | (factor == ops.splat(spec, 0.0))
    for c in range(C):
        _class_gradient(spec, columns, terms, t, c, a, b, target_gradient, off, s, clip_range)


@inlined
def _write_columns(spec, C, columns, to):
    """Write the classes of a tile as rows that lie one after the other."""
    c = (C - 1) // panel_classes(spec) * panel_classes(spec)
    while c >= 0:  # what the last panel writes past its row's end, the others overwrite
        vec.scatter_panel(
            spec, columns + LINE * c, to + c * ops.itemsize(spec), C * ops.itemsize(spec)
        )
        c -= panel_classes(spec)


@inlined
def losses_of_columns(
    spec, C, p, step, apart, count, t, labels, columns, terms, smoothing, clip_range, position,
    notes,
):  # fmt: skip
    """Losses of as many rows as there are lanes, and whether one of them is not accurate.

    And what gradients are made of: others, target_term, target_score, classes that smoothing speaks
    of, the reference of `terms`, that of the sums, and S. Rows lie `step` bytes and classes `apart`
    bytes from each other.
    """
    before = _reference(spec, C, columns)
    others, x_t, exponents = _sums(spec, C, columns, terms, t, before, clip_range)
    others = nan_if_overflowed(spec, others, exponents)
    if notes is not None and suspicious(spec, exponents):
        for r in range(count):
            label = vec.fetch_label(labels + 4 * r)
            note(spec, p + r * step, apart, C, label, -1, position + r, notes)
    others, target_term, m, target_score, s = finish_sums(
        spec, others, term(spec, x_t, before, clip_range), before, x_t
    )
    sum_, alive = ops.splat(spec, 0.0), ops.splat(spec, 0.0)
    if smoothing is not None:
        sum_, alive = _smoothing_sums(spec, C, columns, m, s, clip_range)
    value = finish_loss(
        spec, others, target_term, target_score, sum_, alive, C, smoothing, clip_range
    )
    value, inaccurate = without_ignored(spec, t, value)
    return value, inaccurate, others, target_term, target_score, alive, before, m, s


@inlined
def _losses(
    spec, C, p, step, within, count, t, labels, columns, terms, smoothing, clip_range, position,
    notes,
):  # fmt: skip
    """The same of a tile."""
    transpose(spec, C, p, step, within, columns)
    return losses_of_columns(
        spec, C, p, step, ops.itemsize(spec), count, t, labels, columns, terms, smoothing,
        clip_range, position, notes,
    )  # fmt: skip


@inlined
def _plain_losses(
    spec, C, p, step, within, count, t, labels, columns, terms, smoothing, clip_range, position,
    notes,
):  # fmt: skip
    """The same of logits without smoothing."""
    state = _plain_sums(spec, C, p, step, within, t, columns, terms)
    others, target_term, value, right = finish(spec, state, t, 0.0)
    zero, usable, inaccurate = ops.splat(spec, 0.0), right, False
    if terms is not None:
        usable = right & gradient_is_right(spec, others + target_term, t)
    if not ops.everywhere(usable):
        transpose(spec, C, p, step, within, columns)
        others, target_term, again, _ = plain_sums_again(spec, C, columns, terms, t, usable)
        value, inaccurate = without_ignored(spec, t, ops.select(right, value, again))
    return value, inaccurate, others, target_term, zero, zero, zero, zero, zero


# The kernel ------------------------------------------------------------------------------------


def _kernel(losses_of: Callable[..., Any]) -> Callable[..., None]:
    """The kernel whose losses, and what the gradient is made of, come from `losses_of`."""

    @inlined
    def tile(
        spec, C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, notes,
        smoothing, clip_range, nontemporal, scratch,
    ):  # fmt: skip
        """C <= TILE."""
        w, size, panel = ops.lanes(spec), ops.itemsize(spec), panel_classes(spec)
        columns, terms, values = (
            vec.stack_alloc(COLUMNS),
            vec.stack_alloc(COLUMNS),
            vec.stack_alloc(_VECTOR),
        )
        rows, row_labels, row_factors = (
            vec.stack_alloc(ROWS),
            vec.stack_alloc(_VECTOR),
            vec.stack_alloc(_FACTORS),
        )
        gradients, row = vec.stack_alloc(ROWS), C * size
        done, end = 0, 0
        x_step, dx_step, p, to = 0, 0, x, dx
        while done < last - first:
            if done == end:
                end, p, x_step = run_of_positions(inner, first, last, done, x, xo, xi)
                if dx is not None:
                    end, to, dx_step = run_of_positions(inner, first, last, done, dx, do, di)
            count = ops.minimum(w, end - done)
            next_p, step, labels, factors = p + count * x_step, x_step, y + 4 * done, g + 8 * done
            # A panel of fewer classes than it is wide reaches into the rows behind its own.
            within = panel <= C or (step == row and done + w + panel <= end)
            if count < w:
                copy_rows(
                    spec, dx, p, step, labels, factors, count, row, rows, row_labels, row_factors
                )
                p, step, labels, factors, within = rows, row, row_labels, row_factors, True
            t = vec.fetch_labels(spec, labels)
            for line in range(0, w * row, LINE):
                vec.prefetch(p + (AHEAD + line))
                if dx is not None:
                    vec.prefetch(to + (AHEAD + line))
            value, inaccurate, others, target_term, target_score, alive, before, m, s = losses_of(
                spec, C, p, step, within, count, t, labels, columns, only_with(dx, terms),
                smoothing, clip_range, first + done, notes,
            )  # fmt: skip
            vec.keep(values, value)
            if dx is not None:
                a, b, target_gradient = row_coefficients(
                    spec, p, step, size, count, C, labels, factors,
                    others, target_term, target_score, alive, smoothing, clip_range,
                )  # fmt: skip
                factor = vec.fetch_factors(spec, factors)
                gradients_in_columns(
                    spec, C, columns, terms, t, factor, m, before, a, b, target_gradient, s,
                    clip_range,
                )  # fmt: skip
                _write_columns(spec, C, columns, gradients)
            if inaccurate:
                exact_rows(
                    spec, values, labels, factors, p, step, size, only_with(dx, gradients), row,
                    size, count, C, smoothing, None,
                )  # fmt: skip
            store_losses(spec, out + done * ops.lane_size(spec), values, count)
            if dx is not None:
                write_rows(spec, to, dx_step, dc, gradients, count, C, nontemporal)
                to += count * dx_step
            p = next_p
            done += count
        if dx is not None and nontemporal:
            vec.fence()

    return tile  # type: ignore[no-any-return]


tile = _kernel(_losses)
plain_tile = _kernel(_plain_losses)
