"""Row quads: plain logits of a batch of rows, four of them summed side by side.

A row's terms are a chain of additions, and four rows are four chains: a processor works on all of
them while memory is on its way. They are summed as `plain_logits` says, and a batch of rows ends
as one vector, a row a lane.

Rows whose first scores are far from 0 have a reference of their own at once: most of them would be
summed twice.
"""

from typing import Any

from sparse_xent.kernels import arithmetic as ops
from sparse_xent.kernels.cpu import vectors as vec
from sparse_xent.kernels.cpu.abi import LINE, PLAIN_MEDIUM
from sparse_xent.kernels.cpu.compiler import inlined, outlined
from sparse_xent.kernels.cpu.epilogue import (
    WRITTEN,
    exact_rows,
    row_coefficients,
    store_losses,
    without_ignored,
)
from sparse_xent.kernels.cpu.memory import (
    clear,
    only_with,
    pending_lines,
    places_of_batches,
    rows_ahead,
    run_of_positions,
    shifted,
    write_four_lines,
    write_lines,
    write_rest,
    write_rows,
)
from sparse_xent.kernels.cpu.plain_logits import add_where, finish, gradient_is_right
from sparse_xent.kernels.cpu.references import first_reference
from sparse_xent.kernels.cpu.row_batches import class_gradients, keep_greatest
from sparse_xent.kernels.formulas import KernelSpec, power_or_inf
from sparse_xent.kernels.staging import Value, primitive

QUAD = 4  # rows
LOW, HIGH = -40.0, 40.0  # between them is the first score of a row that is summed under 0 first
# Of MANY classes it is the greatest of the first vector: that tells more, and costs 4 cycles a row.
# With 20 hardly a row whose logits spread by 30 is summed twice.
MANY, HIGH_OF_MANY = 256, 20.0

# What is known of a batch's rows, row r in lane r: a vector each on the stack, two of factors.
LABELS, FACTORS, SCORES, LOSSES, REFERENCES, A, TARGET_GRADIENTS = (
    LINE * line for line in (0, 1, 3, 4, 5, 6, 7)
)
_BATCH = vec.StackBytes(8 * LINE)
_SQUARE = vec.StackBytes(LINE * 16)  # a vector for each row
_TERMS = 16 * PLAIN_MEDIUM * 4  # bytes of a batch's terms

Four = tuple[Value, Value, Value, Value]


@primitive
def _quarter(spec: KernelSpec) -> int:
    """A quarter of a batch's rows."""
    return spec.format.lanes // QUAD


@inlined
def _read_batch(spec, dx, C, places, most, apart, rows, left, p, step, y, g, batch, square):
    """Labels, factors, the targets' and first scores of a batch; see `plain_rows` for the names.

    Where there is no row, an ignored label, and the scores of some row.
    """
    one = ops.lane_size(spec)
    for place in range(places):
        k, count = place * apart, ops.minimum(rows, left - place * apart)
        for i in range(most):
            lane, row, label = place * _quarter(spec) + i, 0, -1
            if i < count:
                row = k + i
                label = vec.fetch_label(y + 4 * row)
                if dx is not None:
                    vec.keep(batch + FACTORS + 8 * lane, vec.fetch_factor(g + 8 * row))
            q = p + row * step
            score = vec.load_one(spec, q + ops.maximum(label, 0) * ops.itemsize(spec))
            vec.keep_label(batch + LABELS + 4 * lane, label)
            vec.keep(batch + SCORES + one * lane, score)
            if C >= MANY:
                vec.keep(square + LINE * lane, vec.load(spec, q))
            else:
                vec.keep(batch + REFERENCES + one * lane, vec.load_one(spec, q))


# Sums ------------------------------------------------------------------------------------------


@primitive
def _four_rows(p: Value, step: Value, apart: Value, left: Value) -> Four:
    """Addresses of four rows `apart` rows from each other; the first for those beyond `left`."""
    rows = (p + ops.select(apart * i < left, apart * i, 0) * step for i in range(QUAD))
    return tuple(rows)  # type: ignore[return-value]


@primitive
def _four_labels(spec: KernelSpec, labels: Value) -> Four:
    t = (vec.fetch_label(labels + 4 * _quarter(spec) * i) for i in range(QUAD))
    return tuple(ops.splat(spec, label) for label in t)  # type: ignore[return-value]


@primitive
def _four_references(spec: KernelSpec, references: Value | None) -> tuple[Any, ...]:
    if references is None:
        return (0.0,) * QUAD
    apart = ops.lane_size(spec) * _quarter(spec)
    return tuple(ops.splat(spec, vec.fetch_one(spec, references + apart * i)) for i in range(QUAD))


@primitive
def _no_sums(spec: KernelSpec) -> Four:
    return (ops.splat(spec, 0.0),) * QUAD  # type: ignore[return-value]


@primitive
def _add_vectors(
    spec: KernelSpec,
    rows: Four,
    offset: Value,
    ahead: Value | None,
    columns: Value,
    begin: Value | None,
    t: Four,
    m: tuple[Any, ...],
    sums: Four,
    terms: Value | None,
    term_step: Value,
) -> Four:
    """A vector of columns of each row, from column `begin` on: all but the targets onto sums."""
    made = []
    for i, (p, sum_) in enumerate(zip(rows, sums, strict=True)):
        at = p + offset
        if ahead is not None:
            vec.prefetch(at + ahead)
        e, other = power_or_inf(vec.load(spec, at), m[i]), columns != t[i]
        if terms is not None:
            vec.keep(terms + term_step * i, e.value)
        made.append(add_where(other if begin is None else other & (columns >= begin), sum_, e))
    return tuple(made)  # type: ignore[return-value]


@primitive
def _keep_sums(spec: KernelSpec, square: Value, sums: Four) -> None:
    for i, sum_ in enumerate(sums):
        vec.keep(square + LINE * _quarter(spec) * i, sum_)


@primitive
def _columns(spec: KernelSpec, first: Value) -> Value:
    """The numbers of a vector's columns, as floats."""
    return ops.as_float(vec.indices(spec)) + first.to(spec.format.vector)


@inlined
def _sum_four(spec, C, rows, ahead, labels, references, square, terms, pending, line):
    """The sums by lanes of four rows' terms but the targets', and, unless `terms` is None, terms.

    References are 0 where `references` is None. Pending lines are written from number `line` on.
    """
    w, size, one = ops.lanes(spec), ops.itemsize(spec), ops.lane_size(spec)
    t, m = _four_labels(spec, labels), _four_references(spec, references)
    sums, column, columns = _no_sums(spec), 0, _columns(spec, 0)
    term_step = _quarter(spec) * C * one
    while column + w <= C:
        if pending is not None:
            if line + QUAD <= pending[2]:
                write_four_lines(pending[0] + LINE * line, pending[1] + LINE * line)
            line += QUAD
        sums = _add_vectors(
            spec, rows, column * size, ahead, columns, None, t, m, sums,
            shifted(terms, column * one), term_step,
        )  # fmt: skip
        column += w
        columns = columns + w
    if column < C:  # the last vector begins early
        at = C - w
        sums = _add_vectors(
            spec, rows, at * size, None, _columns(spec, at), column, t, m, sums,
            shifted(terms, at * one), term_step,
        )  # fmt: skip
    _keep_sums(spec, square, sums)


@inlined
def _sums(spec, C, p, step, apart, quads, left, ahead, batch, references, square, terms, pending):
    """The sums of a batch's rows, and their terms.

    Args:
        spec: what the kernel is compiled for.
        C: classes.
        p: address of the batch's first row.
        step: bytes from row to row.
        apart: rows from each of a quad's rows to the next.
        quads: how many there are.
        left: rows from the first one on; of a quad's rows behind them, the first is summed again.
        ahead: bytes to prefetch by.
        batch: what is known of the rows.
        references: address of their references, or None where all are 0.
        square: where sums by lanes go, a vector a row.
        terms: where terms go, C of each row, or None.
        pending: pending lines, to write meanwhile, or None.
    """
    one, lines = ops.lane_size(spec), C // ops.lanes(spec) * QUAD
    for r in range(quads):
        four = _four_rows(p + r * step, step, apart, left - r)
        _sum_four(
            spec, C, four, ahead, batch + LABELS + 4 * r, shifted(references, one * r),
            square + LINE * r, shifted(terms, r * C * one), pending, r * lines,
        )  # fmt: skip
    if pending is not None:
        whole = pending[2] // QUAD * QUAD
        write_lines(pending, ops.minimum(quads * lines, whole), pending[2])
    return vec.row_totals(spec, square)


@primitive
def _finish(
    spec: KernelSpec, others: Value, batch: Value, m: Any
) -> tuple[Value, Value, Value, Value]:
    zero, x_t = ops.splat(spec, 0.0), vec.fetch(spec, batch + SCORES)
    return finish(spec, (others, zero, x_t), vec.fetch_labels(spec, batch + LABELS), m)


@primitive
def _fits(spec: KernelSpec, m: Value) -> Value:
    """A mask of rows whose greatest term is finite under 0: the others would be summed again."""
    return m < (1024.0 if spec.format.wide else 128.0)


@outlined
def _sums_again(spec, C, p, step, apart, quads, left, ahead, batch, square, terms, right):
    """`finish` of rows that are not right, under references of their own; of the others as before.

    A row has its terms and sums under one reference; under 0 they keep their bits.
    """
    each = _quarter(spec)
    for i in range(QUAD):
        count = ops.minimum(quads, left - i * apart)
        keep_greatest(spec, C, p + i * apart * step, step, count, square + LINE * each * i)
    m = first_reference(spec, vec.row_maxima(spec, square))
    m = ops.select(right & _fits(spec, m), ops.splat(spec, 0.0), m)
    vec.keep(batch + REFERENCES, m)
    others = _sums(
        spec, C, p, step, apart, quads, left, ahead, batch, batch + REFERENCES, square, terms, None
    )
    return _finish(spec, others, batch, m)


@primitive
def _buffers(spec: KernelSpec, scratch: Value) -> tuple[Value, Value]:
    """Where gradients are made that are not written at once; those of halves behind the terms."""
    if spec.format.itemsize == 2:
        return scratch + (_TERMS + LINE), scratch + (_TERMS + LINE + _TERMS // 2 + LINE)
    return scratch + LINE, scratch + (LINE + _TERMS + LINE)


@primitive
def _terms_of(spec: KernelSpec, scratch: Value, buffer: Value) -> Value:
    """Where a batch's terms go: where its gradient is made, which takes their place.

    Not so of halves, which lie closer: one would overwrite the terms of another row.
    """
    return scratch if spec.format.itemsize == 2 else buffer


# The kernel ------------------------------------------------------------------------------------


@primitive
def _begins_near(first: Value, high: Value, t: Value) -> Value:
    """A mask of the rows that are summed under 0 first."""
    return ((first >= LOW) & (first <= high)) | (t < 0)


@inlined
def _losses(spec, C, p, step, apart, quads, left, ahead, batch, square, terms, pending):
    """A batch's losses, whether one is not accurate, and what gradients are made of."""
    t = vec.fetch_labels(spec, batch + LABELS)
    if C >= MANY:
        near = _begins_near(vec.row_maxima(spec, square), HIGH_OF_MANY, t)
    else:
        near = _begins_near(vec.fetch(spec, batch + REFERENCES), HIGH, t)
    if ops.everywhere(near):
        others = _sums(
            spec, C, p, step, apart, quads, left, ahead, batch, None, square, terms, pending
        )
        others, target_term, value, right = _finish(spec, others, batch, 0.0)
    else:
        if pending is not None:
            write_lines(pending, 0, pending[2])
        others, target_term, value, right = _sums_again(
            spec, C, p, step, apart, quads, left, ahead, batch, square, terms, near
        )
    inaccurate = False
    usable = right
    if terms is not None:
        usable = right & gradient_is_right(spec, others + target_term, t)
    if not ops.everywhere(usable):
        others, target_term, again, _ = _sums_again(
            spec, C, p, step, apart, quads, left, ahead, batch, square, terms, usable & near
        )
        value, inaccurate = without_ignored(spec, t, ops.select(right, value, again))
    vec.keep(batch + LOSSES, value)
    return others, target_term, inaccurate


@inlined
def _gradient(spec, C, count, batch, terms, to, step, clip_range):
    """Write the gradients of all rows but those that are WRITTEN."""
    size, one = ops.itemsize(spec), ops.lane_size(spec)
    for r in range(count):
        t, row = vec.fetch_label(batch + LABELS + 4 * r), to + r * step
        if t == WRITTEN:
            continue
        if t < 0 or vec.fetch_factor(batch + FACTORS + 8 * r) == 0.0:
            clear(spec, row, size, C)
            continue
        a, here = vec.fetch_one(spec, batch + A + r * one), terms + r * C * one
        class_gradients(spec, here, here, row, C, a, a, a, a, clip_range)
        vec.store_one(spec, row + t * size, vec.fetch_one(spec, batch + TARGET_GRADIENTS + r * one))


@inlined
def plain_rows(
    spec, C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, notes,
    smoothing, clip_range, nontemporal, scratch,
):  # fmt: skip
    """TILE < C < PLAIN_MEDIUM, logits without smoothing."""
    w, size, one, each = ops.lanes(spec), ops.itemsize(spec), ops.lane_size(spec), _quarter(spec)
    square, batch = vec.stack_alloc(_SQUARE), vec.stack_alloc(_BATCH)
    labels, factors, values = batch + LABELS, batch + FACTORS, batch + LOSSES
    buffer, next_buffer = _buffers(spec, scratch)
    pending, held = (scratch, scratch, 0), 0
    zero = ops.splat(spec, 0.0)
    vec.keep(factors, zero)
    vec.keep(factors + LINE, zero)
    for r in range(w):
        vec.keep(square + LINE * r, zero)
    done = 0
    while done < last - first:
        end, p, x_step = run_of_positions(inner, first, last, done, x, xo, xi)
        n, to, dx_step, direct, in_lines = end - done, dx, 0, False, False
        if dx is not None:
            end, to, dx_step = run_of_positions(inner, first, last, done, dx, do, di)
            direct = dc == size and not nontemporal
            in_lines = dc == size and dx_step == C * size and not direct
        places, most, apart, stop = places_of_batches(spec, dx, n)  # a quad's rows are `apart`, too
        for begin in range(0, stop, most):
            here, left, rows = p + begin * x_step, n - begin, ops.minimum(most, stop - begin)
            terms = only_with(dx, _terms_of(spec, scratch, buffer))
            # Of 128 classes at most two batches ahead: 5 to 12 % faster than one.
            ahead = rows_ahead(2 * most if C <= 128 else most, begin, stop, n)
            _read_batch(
                spec, dx, C, places, most, apart, rows, left, here, x_step, y + 4 * (done + begin),
                g + 8 * (done + begin), batch, square,
            )  # fmt: skip
            others, target_term, inaccurate = _losses(
                spec, C, here, x_step, apart, ops.minimum(rows, each), left, ahead * x_step, batch,
                square, terms, only_with(dx, pending),
            )  # fmt: skip
            if dx is not None:
                a, _, target_gradient = row_coefficients(
                    spec, here, x_step, size, rows, C, labels, factors,
                    others, target_term, zero, zero, smoothing, clip_range,
                )  # fmt: skip
                vec.keep(batch + A, a)
                vec.keep(batch + TARGET_GRADIENTS, target_gradient)
            for place in range(places):
                k, lane = begin + place * apart, place * each
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
                    _gradient(spec, C, count, batch, terms, row, row_step, clip_range)
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
