"""Few classes apart (channels first, Fortran order): plain logits of as many positions as lanes.

All classes of a vector of positions are summed one after the other, so that the sums stay in
registers, as `plain_logits` says. (`strided` takes a block of positions class by class, and reads
and writes their sums at each.) Positions that do not fill a vector, or do not lie together, are
read one by one.
"""

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
from sparse_xent.kernels.cpu.memory import only_with, run_of_positions, shifted
from sparse_xent.kernels.cpu.plain_logits import (
    add_column,
    add_four,
    finish,
    gradient_is_right,
    no_classes,
)
from sparse_xent.kernels.cpu.tiles import plain_sums_again
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


@primitive
def _class_gradient(
    spec: KernelSpec, e: Value, t: Value, c: Value, a: Value, target_gradient: Value
) -> Value:
    d = ops.select(t == c.to(t.typ), target_gradient, e * a)
    return ops.select(t < 0, 0.0, d)


@inlined
def _gradient(spec, C, terms, t, a, target_gradient, to, dc, step, count, some_written):
    """Write the gradients of a vector of positions, but of those that are WRITTEN.

    Without the prefetch 21 classes and 10 take 1.16 times as long.
    """
    for c in range(C):
        e, place = vec.fetch(spec, terms + LINE * c), to + c * dc
        vec.prefetch(place + AHEAD)
        d = _class_gradient(spec, e, t, c, a, target_gradient)
        if some_written:
            d = ops.select(t == WRITTEN, vec.load_some(spec, place, step, count), d)
        vec.store_some(spec, place, step, count, d)


@inlined
def few(
    spec, C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, notes,
    smoothing, clip_range, nontemporal, scratch,
):  # fmt: skip
    """C <= FEW, logits without smoothing."""
    w, one = ops.lanes(spec), ops.lane_size(spec)
    columns, terms, values = (
        vec.stack_alloc(_CLASSES),
        vec.stack_alloc(_CLASSES),
        vec.stack_alloc(_VECTOR),
    )
    labels, factors = vec.stack_alloc(_VECTOR), vec.stack_alloc(_FACTORS)
    done, end = 0, 0
    step, dx_step, p, to = 0, 0, x, dx
    while done < last - first:
        if done == end:
            end, p, step = run_of_positions(inner, first, last, done, x, xo, xi)
            if dx is not None:
                end, to, dx_step = run_of_positions(inner, first, last, done, dx, do, di)
        count = ops.minimum(w, end - done)
        here = y + 4 * done
        if count < w:
            here = labels
            for r in range(w):
                vec.keep_label(labels + 4 * r, -1)
            for r in range(count):
                vec.keep_label(labels + 4 * r, vec.fetch_label(y + 4 * (done + r)))
        t = vec.fetch_labels(spec, here)
        state = _sums(spec, C, p, xc, step, count, t, columns, only_with(dx, terms))
        others, target_term, value, right = finish(spec, state, t, 0.0)
        usable, inaccurate, some_written = right, False, False
        if dx is not None:
            usable = right & gradient_is_right(spec, others + target_term, t)
        if not ops.everywhere(usable):
            _load_columns(spec, C, p, xc, step, count, columns)
            others, target_term, again, _ = plain_sums_again(
                spec, C, columns, only_with(dx, terms), t, usable
            )
            value, inaccurate = without_ignored(spec, t, ops.select(right, value, again))
        vec.keep(values, value)
        if dx is not None:
            for r in range(count):  # where a factor is 0, the position counts as ignored
                factor, label = vec.fetch_factor(g + 8 * (done + r)), vec.fetch_label(here + 4 * r)
                vec.keep(factors + 8 * r, factor)
                vec.keep_label(labels + 4 * r, -1 if factor == 0.0 else label)
            zero = ops.splat(spec, 0.0)
            a, _, target_gradient = row_coefficients(
                spec, p, step, xc, count, C, labels, factors,
                others, target_term, zero, zero, smoothing, clip_range,
            )  # fmt: skip
        if inaccurate:
            some_written = exact_rows(
                spec, values, y + 4 * done, factors, p, step, xc, to, dx_step, dc, count, C,
                smoothing, only_with(dx, labels),
            )  # fmt: skip
        if dx is not None:
            t = vec.fetch_labels(spec, labels)
            _gradient(spec, C, terms, t, a, target_gradient, to, dc, dx_step, count, some_written)
            to += count * dx_step
        store_losses(spec, out + done * one, values, count)
        p += count * step
        done += count
