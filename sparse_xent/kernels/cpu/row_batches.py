"""Row batches: as many rows as there are lanes, each summed along itself and finished together.

For more classes than a tile has, transposing the scores costs more than summing each row along
itself. Only the sums, one vector a row, are transposed: so the logarithms are still taken by lanes.
"""

import math

from sparse_xent.kernels import arithmetic as ops
from sparse_xent.kernels.cpu import vectors as vec
from sparse_xent.kernels.cpu.abi import LINE, MEDIUM
from sparse_xent.kernels.cpu.compiler import inlined
from sparse_xent.kernels.cpu.epilogue import (
    WRITTEN,
    caches_terms,
    exact_rows,
    finish_loss,
    finish_sums,
    row_coefficients,
    store_losses,
    without_ignored,
)
from sparse_xent.kernels.cpu.implausible import note
from sparse_xent.kernels.cpu.memory import (
    clear,
    only_with,
    pending_lines,
    places_of_batches,
    rows_ahead,
    run_of_positions,
    shifted,
    write_lines,
    write_rest,
    write_rows,
)
from sparse_xent.kernels.cpu.references import (
    first_reference,
    join_exponents,
    nearer_reference,
    overflowed,
    reference_is_far,
    rescaled,
    suspicious,
    term_and_exponent,
    with_overflow,
)
from sparse_xent.kernels.cpu.rows import add_smoothing_terms, vector_gradient
from sparse_xent.kernels.formulas import ClipRange, KernelSpec, term
from sparse_xent.kernels.staging import Value, primitive

# What is known of a batch's rows, row r in lane r: a vector each on the stack, two of factors.
LABELS, FACTORS, SCORES, LOSSES, REFERENCES, TOTALS, A, B, TARGET_GRADIENTS = (
    LINE * line for line in (0, 1, 3, 4, 5, 6, 7, 8, 9)
)
_BATCH = vec.StackBytes(10 * LINE)
_SQUARE = vec.StackBytes(LINE * 16)  # a vector for each row
_GRADIENT = 16 * MEDIUM * 4 + LINE  # bytes of a batch's gradient, and of what is held before it

_REACH = MEDIUM + 16  # columns on either side of the target
_MASKS = vec.StackBytes(8 * (2 * _REACH + 16))


@inlined
def _target_masks(spec):
    """Address of masks of lanes: all bits set, but none for the one that is just there."""
    masks, size = vec.stack_alloc(_MASKS), ops.lane_size(spec)
    for i in range(2 * _REACH + 16):
        vec.keep(masks + i * size, vec.mask_of(spec, i != _REACH))
    return masks + _REACH * size


@primitive
def _lane(spec: KernelSpec, address: Value, r: Value) -> Value:
    """Number r of a kept vector, in every lane."""
    return ops.splat(spec, vec.fetch_one(spec, address + r * ops.lane_size(spec)))


@inlined
def _read_targets(spec, dx, batch_rows, p, step, y, g, batch):
    """Labels, factors, the targets' scores and first references; of no row, an ignored label's."""
    one = ops.lane_size(spec)
    places, most, apart, rows, left = batch_rows
    for place in range(places):
        count = ops.minimum(rows, left - place * apart)
        for i in range(most):
            r, label, score, begin = place * most + i, -1, 0.0, 0.0
            if i < count:
                row = place * apart + i
                q, label = p + row * step, vec.fetch_label(y + 4 * row)
                begin = float(vec.load_one(spec, q))
                score = float(vec.load_one(spec, q + ops.maximum(label, 0) * ops.itemsize(spec)))
                if dx is not None:
                    vec.keep(batch + FACTORS + 8 * r, vec.fetch_factor(g + 8 * row))
            vec.keep_label(batch + LABELS + 4 * r, label)
            vec.keep(batch + SCORES + one * r, ops.rounded(spec, score))
            vec.keep(batch + REFERENCES + one * r, ops.rounded(spec, begin))
    vec.keep(batch + REFERENCES, first_reference(spec, vec.fetch(spec, batch + REFERENCES)))


# Sums ------------------------------------------------------------------------------------------


@primitive
def _add_vector(
    spec: KernelSpec,
    p: Value,
    ahead: Value,
    masks: Value,
    m: Value,
    clip_range: ClipRange,
    others: Value,
    exponents: Value,
) -> tuple[Value, Value, Value]:
    """A vector's terms but the target's onto a sum; the exponents; and all its terms."""
    vec.prefetch(p + ahead)
    e, exponent = term_and_exponent(spec, vec.load(spec, p), m, clip_range)
    kept = ops.from_bits(ops.bits(e) & vec.fetch_integers(spec, masks))
    return others + kept, join_exponents(spec, exponents, exponent), e


@primitive
def _add_last_vector(
    spec: KernelSpec,
    p: Value,
    t: Value,
    begin: Value,
    m: Value,
    clip_range: ClipRange,
    others: Value,
    exponents: Value,
) -> tuple[Value, Value, Value]:
    """The same of a row's last vector, whose lanes before `begin` were counted before."""
    e, exponent = term_and_exponent(spec, vec.load(spec, p), m, clip_range)
    lane = vec.indices(spec)
    others = others + ops.select((lane >= begin) & (lane != t), e, 0.0)
    return others, join_exponents(spec, exponents, exponent), e


@inlined
def _sums(
    spec, C, p, step, batch_rows, ahead, batch, masks, sums, row_exponents, terms, clip_range,
    pending,
):  # fmt: skip
    """Each row's sum by lanes, its exponents, and, unless `terms` is 0, its terms.

    Pending lines are written meanwhile, unless `pending` is None. Returns all exponents.
    """
    w, size, one = ops.lanes(spec), ops.itemsize(spec), ops.lane_size(spec)
    places, most, apart, rows, left = batch_rows
    every = ops.integers(spec, 0)
    for k in range(rows * places):
        i, place = k // places, k % places
        if i >= left - place * apart:
            continue
        r, q = place * most + i, p + (place * apart + i) * step
        if pending is not None:
            write_lines(pending, pending[2] * k // rows, pending[2] * (k + 1) // rows)
        first, second = ops.integers(spec, 0), ops.integers(spec, 0)
        t, m = vec.fetch_label(batch + LABELS + 4 * r), _lane(spec, batch + REFERENCES, r)
        to, mask = terms + r * C * one, masks - t * one
        u, v = ops.splat(spec, 0.0), ops.splat(spec, 0.0)
        column = 0
        while column + 2 * w < C:
            u, first, e = _add_vector(spec, q + column * size, ahead, mask, m, clip_range, u, first)
            if terms:
                vec.keep(to + column * one, e)
            column += w
            v, second, e = _add_vector(
                spec, q + column * size, ahead, mask + LINE, m, clip_range, v, second
            )
            if terms:
                vec.keep(to + column * one, e)
            column += w
            mask += 2 * LINE
        while column < C:
            at = ops.minimum(column, C - w)
            u, first, e = _add_last_vector(
                spec, q + at * size, t - at, column - at, m, clip_range, u, first
            )
            if terms:
                vec.keep(to + at * one, e)
            column = at + w
        vec.keep(sums + LINE * r, u + v)
        first = with_overflow(spec, join_exponents(spec, first, second), u + v)
        vec.keep(row_exponents + LINE * r, first)
        every = join_exponents(spec, every, first)
    return every


@primitive
def _greater(spec: KernelSpec, p: Value, top: Value) -> Value:
    return ops.maximum(vec.load(spec, p), top)


@inlined
def keep_greatest(spec, C, p, step, rows, square):
    """Each row's greatest scores, by lanes."""
    w, size = ops.lanes(spec), ops.itemsize(spec)
    for r in range(rows):
        q = p + r * step
        top = vec.load(spec, q + (C - w) * size)
        for column in range(0, C - w, w):
            top = _greater(spec, q + column * size, top)
        vec.keep(square + LINE * r, top)


@inlined
def _raised_sums(
    spec, C, p, step, batch_rows, batch, masks, sums, row_exponents, terms, clip_range
):
    """The sums once more, under higher references where a term or sum overflowed.

    Returns NaN in the lanes where a term overflows even so, else 0.
    """
    one = ops.lane_size(spec)
    places, most, apart, rows, left = batch_rows
    for place in range(places):
        count, here = ops.minimum(rows, left - place * apart), p + place * apart * step
        keep_greatest(spec, C, here, step, count, sums + LINE * most * place)
    vec.keep(batch + LOSSES, first_reference(spec, vec.row_maxima(spec, sums)))
    for r in range(ops.lanes(spec)):
        if overflowed(spec, vec.fetch_integers(spec, row_exponents + LINE * r)):
            vec.keep(batch + REFERENCES + one * r, vec.fetch_one(spec, batch + LOSSES + one * r))
    _sums(
        spec, C, p, step, batch_rows, 0, batch, masks, sums, row_exponents, terms, clip_range, None
    )
    for r in range(ops.lanes(spec)):
        lost = overflowed(spec, vec.fetch_integers(spec, row_exponents + LINE * r))
        vec.keep(batch + LOSSES + one * r, ops.rounded(spec, math.nan if lost else 0.0))
    return vec.fetch(spec, batch + LOSSES)


@inlined
def _smoothing_sums(spec, C, p, step, batch_rows, batch, sums, counts, clip_range):
    """The sums of each row's smoothing terms."""
    w, size = ops.lanes(spec), ops.itemsize(spec)
    places, most, apart, rows, left = batch_rows
    for k in range(rows * places):
        i, place = k // places, k % places
        if i >= left - place * apart:
            continue
        r, q = place * most + i, p + (place * apart + i) * step
        m, s = _lane(spec, batch + REFERENCES, r), _lane(spec, batch + TOTALS, r)
        both = ops.splat(spec, 0.0), ops.splat(spec, 0.0)
        column = 0
        while column < C:
            at = ops.minimum(column, C - w)
            both = add_smoothing_terms(spec, q + at * size, column - at, m, s, clip_range, both)
            column = at + w
        vec.keep(sums + LINE * r, both[0])
        vec.keep(counts + LINE * r, both[1])
    return vec.row_totals(spec, sums), vec.row_totals(spec, counts)


# Gradients -------------------------------------------------------------------------------------


@primitive
def _vector_gradient(
    spec: KernelSpec,
    p: Value,
    terms: Value | None,
    m: Value,
    a: Value,
    b: Value,
    s: Value,
    clip_range: ClipRange,
) -> Value:
    return vector_gradient(spec, vec.load(spec, p), terms, m, a, b, s, clip_range)


@inlined
def class_gradients(spec, p, terms, to, n, m, a, b, s, clip_range):
    """Write the gradients of the n classes from p on, none of them the target; `to` may be p.

    Their terms lie at `terms`, unless that is None.
    """
    w, size, one = ops.lanes(spec), ops.itemsize(spec), ops.lane_size(spec)
    m, a, b, s = ops.splat(spec, m), ops.splat(spec, a), ops.splat(spec, b), ops.splat(spec, s)
    # The last vector, which may begin early, is made first: in place, its scores vanish.
    end = n - w
    last = _vector_gradient(spec, p + end * size, shifted(terms, end * one), m, a, b, s, clip_range)
    for column in range(0, end, w):
        here = shifted(terms, column * one)
        d = _vector_gradient(spec, p + column * size, here, m, a, b, s, clip_range)
        vec.store(spec, to + column * size, d)
    vec.store(spec, to + end * size, last)


# The kernel ------------------------------------------------------------------------------------


@inlined
def _batch_sums(
    spec, C, p, step, batch_rows, ahead, batch, masks, sums, row_exponents, terms, clip_range,
    position, notes, pending,
):  # fmt: skip
    """Sum the rows, and look again at those that may not be probabilities.

    Returns NaN in the lanes of rows beyond the `reach` of a reference, else 0.
    """
    exponents = _sums(
        spec, C, p, step, batch_rows, ahead, batch, masks, sums, row_exponents, terms, clip_range,
        pending,
    )  # fmt: skip
    if notes is not None and suspicious(spec, exponents):
        places, most, apart, rows, left = batch_rows
        for place in range(places):
            for i in range(ops.minimum(rows, left - place * apart)):
                r, k = place * most + i, place * apart + i
                if suspicious(spec, vec.fetch_integers(spec, row_exponents + LINE * r)):
                    label = vec.fetch_label(batch + LABELS + 4 * r)
                    note(spec, p + k * step, ops.itemsize(spec), C, label, -1, position + k, notes)
    if overflowed(spec, exponents):
        return _raised_sums(
            spec, C, p, step, batch_rows, batch, masks, sums, row_exponents, terms, clip_range
        )
    return ops.splat(spec, 0.0)


@inlined
def _keep_coefficients(
    spec, C, p, step, batch_rows, batch, masks, sums, row_exponents, terms, clip_range,
    others, target_term, target_score, alive, smoothing, before, m,
):  # fmt: skip
    """What the gradients are made of, from terms under the references `before` if they are kept."""
    a, b, target_gradient = row_coefficients(
        spec, p, step, ops.itemsize(spec), batch_rows[3], C, batch + LABELS, batch + FACTORS,
        others, target_term, target_score, alive, smoothing, clip_range,
    )  # fmt: skip
    if terms:
        if reference_is_far(spec, a, before, m):
            before = nearer_reference(spec, a, before, m)
            vec.keep(batch + REFERENCES, before)
            _sums(
                spec, C, p, step, batch_rows, 0, batch, masks, sums, row_exponents, terms,
                clip_range, None,
            )  # fmt: skip
            vec.keep(batch + REFERENCES, m)
        a = rescaled(spec, a, before, m)
    vec.keep(batch + A, a)
    vec.keep(batch + B, b)
    vec.keep(batch + TARGET_GRADIENTS, target_gradient)


@inlined
def _gradient(spec, C, p, step, rows, batch, terms, clip_range, to, to_step):
    """Write the gradients of all rows but those that are WRITTEN."""
    size, one = ops.itemsize(spec), ops.lane_size(spec)
    for r in range(rows):
        q, t, factor = (
            p + r * step,
            vec.fetch_label(batch + LABELS + 4 * r),
            vec.fetch_factor(batch + FACTORS + 8 * r),
        )
        row = to + r * to_step
        if t == WRITTEN:
            continue
        if t < 0 or factor == 0.0:
            clear(spec, row, size, C)
            continue
        a, b, s = (
            _lane(spec, batch + A, r),
            _lane(spec, batch + B, r),
            _lane(spec, batch + TOTALS, r),
        )
        m = _lane(spec, batch + REFERENCES, r)
        if terms:
            here = terms + r * C * one
            class_gradients(spec, q, here, row, C, m, a, b, s, clip_range)
        else:
            class_gradients(spec, q, None, row, C, m, a, b, s, clip_range)
        vec.store_one(spec, row + t * size, vec.fetch_one(spec, batch + TARGET_GRADIENTS + r * one))


@inlined
def _losses(
    spec, C, p, step, batch_rows, ahead, batch, masks, sums, row_exponents, terms, smoothing,
    clip_range, position, notes, pending,
):  # fmt: skip
    """A batch's losses, whether one is not accurate, and what gradients are made of."""
    lost = _batch_sums(
        spec, C, p, step, batch_rows, ahead, batch, masks, sums, row_exponents, terms, clip_range,
        position, notes, pending,
    )  # fmt: skip
    before, x_t = vec.fetch(spec, batch + REFERENCES), vec.fetch(spec, batch + SCORES)
    target_term = term(spec, x_t, before, clip_range)
    others, target_term, m, target_score, s = finish_sums(
        spec, vec.row_totals(spec, sums) + lost, target_term, before, x_t
    )
    vec.keep(batch + REFERENCES, m)
    vec.keep(batch + TOTALS, s)
    sum_, alive = ops.splat(spec, 0.0), ops.splat(spec, 0.0)
    if smoothing is not None:  # the exponents are done with when classes are counted
        sum_, alive = _smoothing_sums(
            spec, C, p, step, batch_rows, batch, sums, row_exponents, clip_range
        )
    value = finish_loss(
        spec, others, target_term, target_score, sum_, alive, C, smoothing, clip_range
    )
    value, inaccurate = without_ignored(spec, vec.fetch_labels(spec, batch + LABELS), value)
    vec.keep(batch + LOSSES, value)
    return inaccurate, others, target_term, target_score, alive, before, m


@inlined
def row_batches(
    spec, C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, notes,
    smoothing, clip_range, nontemporal, scratch,
):  # fmt: skip
    """TILE < C < MEDIUM."""
    w, size, one = ops.lanes(spec), ops.itemsize(spec), ops.lane_size(spec)
    sums, row_exponents = vec.stack_alloc(_SQUARE), vec.stack_alloc(_SQUARE)
    batch, masks = vec.stack_alloc(_BATCH), _target_masks(spec)
    labels, factors, values = batch + LABELS, batch + FACTORS, batch + LOSSES
    terms, buffer, next_buffer = 0, scratch + LINE, scratch + LINE + _GRADIENT
    pending, held = (scratch, scratch, 0), 0
    if dx is not None and caches_terms(spec):
        terms = scratch + 2 * _GRADIENT
    zero = ops.splat(spec, 0.0)
    vec.keep(factors, zero)
    vec.keep(factors + LINE, zero)
    for r in range(w):
        vec.keep(sums + LINE * r, zero)
        vec.keep(row_exponents + LINE * r, zero)
    done = 0
    while done < last - first:
        end, p, x_step = run_of_positions(inner, first, last, done, x, xo, xi)
        n, to, dx_step, direct, in_lines = end - done, dx, 0, False, False
        if dx is not None:
            end, to, dx_step = run_of_positions(inner, first, last, done, dx, do, di)
            direct = dc == size and not nontemporal
            in_lines = dc == size and dx_step == C * size and not direct
        places, most, apart, stop = places_of_batches(spec, dx, n)
        for begin in range(0, stop, most):
            here, left, rows = p + begin * x_step, n - begin, ops.minimum(most, stop - begin)
            batch_rows = places, most, apart, rows, left
            _read_targets(
                spec, dx, batch_rows, here, x_step, y + 4 * (done + begin), g + 8 * (done + begin),
                batch,
            )  # fmt: skip
            inaccurate, others, target_term, target_score, alive, before, m = _losses(
                spec, C, here, x_step, batch_rows, rows_ahead(most, begin, stop, n) * x_step, batch,
                masks, sums, row_exponents, terms, smoothing, clip_range, first + done + begin,
                notes, only_with(dx, pending),
            )  # fmt: skip
            if dx is not None:
                _keep_coefficients(
                    spec, C, here, x_step, batch_rows, batch, masks, sums, row_exponents, terms,
                    clip_range, others, target_term, target_score, alive, smoothing, before, m,
                )  # fmt: skip
            for place in range(places):
                k, lane = begin + place * apart, place * most
                count = ops.minimum(rows, left - place * apart)
                row, row_step = to, dx_step
                if dx is not None:
                    row = to + k * dx_step
                    if not direct:
                        row, row_step = buffer, C * size
                if inaccurate:
                    exact_rows(
                        spec, values + lane * one, labels + 4 * lane, factors + 8 * lane,
                        p + k * x_step, x_step, size, row, row_step, size, count, C, smoothing,
                        only_with(dx, labels + 4 * lane),
                    )  # fmt: skip
                if dx is not None:
                    _gradient(spec, C, here, x_step, count, batch, terms, clip_range, row, row_step)
                    if in_lines:
                        there, bytes_ = to + k * dx_step, count * dx_step
                        pending, held = pending_lines(buffer, there, bytes_, held, next_buffer)
                        buffer, next_buffer = next_buffer, buffer
                    elif not direct:
                        write_rows(spec, to + k * dx_step, dx_step, dc, row, count, C, nontemporal)
                store_losses(spec, out + (done + k) * one, values + lane * one, count)
        if dx is not None and in_lines:
            write_rest(pending, held, buffer, to + n * dx_step)
            pending, held = (scratch, scratch, 0), 0
        done = end
    if dx is not None and nontemporal:
        vec.fence()
