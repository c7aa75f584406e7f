"""Ranks: how many classes score above the label, which is all that accuracies need of a row.

Rows of few classes are transposed, so that each lane has a row; longer ones are read along, a
vector of classes at once. Where the classes lie apart (channels first, Fortran order) each lane is
a position, too, and each class is read in long runs.

Notation: t a row's label, x_t its score, above the counts, flaws all bits where a score is NaN.
"""

from numba.core import types

from sparse_xent.kernels import arithmetic as ops
from sparse_xent.kernels.cpu import vectors as vec
from sparse_xent.kernels.cpu.abi import LINE, MEDIUM, TILE
from sparse_xent.kernels.cpu.compiler import inlined
from sparse_xent.kernels.cpu.memory import run_of_positions
from sparse_xent.kernels.cpu.tiles import COLUMNS, ROWS, copy_rows, panel_classes, transpose
from sparse_xent.kernels.formulas import KernelSpec
from sparse_xent.kernels.staging import Value, primitive

_LEVEL = 1 << 16  # beyond every class count below MEDIUM, and MEDIUM times it within an int32
_VECTOR = vec.StackBytes(LINE)
_RANKS = vec.StackBytes(2 * LINE)  # int64, as many as there are lanes


@primitive
def _counted(
    spec: KernelSpec, x: Value, higher: Value, above: Value, flaws: Value
) -> tuple[Value, Value]:
    """One more in the lanes that are higher; the lanes that are NaN."""
    one, flaw = ops.integers(spec, 1), ops.integers(spec, -1)
    return above + ops.select(higher, one, 0), flaws | ops.select(x != x, flaw, 0)


# A row a lane ----------------------------------------------------------------------------------


@primitive
def _add_target(spec: KernelSpec, x: Value, c: Value, t: Value, x_t: Value) -> Value:
    """Class c of all rows: its score where it is the target."""
    score = ops.select(t == c.to(t.typ), x, 0.0)
    return ops.from_bits(ops.bits(x_t) | ops.bits(score))


@primitive
def _add_class(
    spec: KernelSpec, x: Value, x_t: Value, c: Value, t: Value, above: Value, flaws: Value
) -> tuple[Value, Value]:
    """Class c of all rows."""
    higher = (x > x_t) | ((x == x_t) & (c.to(t.typ) < t))
    return _counted(spec, x, higher, above, flaws)


@primitive
def _keep_ranks(
    spec: KernelSpec, address: Value, above: Value, flaws: Value, t: Value, C: Value
) -> None:
    """Write as many int64 as there are lanes: C where a score is NaN, -1 for t < 0."""
    ranks = ops.select(flaws < 0, C.to(above.typ), above)
    ranks = ops.select(t < 0, -1, ranks)
    vec.keep(address, ranks if ranks.wide else ranks.cast("sext", types.int64))


@inlined
def _write_ranks(spec, to, above, flaws, t, C, count, ranks):
    """Write the ranks of the first `count` lanes; `ranks` is scratch."""
    if count == ops.lanes(spec):
        _keep_ranks(spec, to, above, flaws, t, C)
    else:
        _keep_ranks(spec, ranks, above, flaws, t, C)
        for r in range(count):
            vec.keep(to + 8 * r, vec.fetch_long(ranks + 8 * r))


@inlined
def _tiles(spec, C, inner, first, last, x, xo, xi, y, out):
    """Rows of at most TILE classes that lie side by side."""
    w, size, panel = ops.lanes(spec), ops.itemsize(spec), panel_classes(spec)
    columns, rows = vec.stack_alloc(COLUMNS), vec.stack_alloc(ROWS)
    row_labels, ranks = vec.stack_alloc(_VECTOR), vec.stack_alloc(_RANKS)
    row = C * size
    done, end, step, p = 0, 0, 0, x
    while done < last - first:
        if done == end:
            end, p, step = run_of_positions(inner, first, last, done, x, xo, xi)
        count = ops.minimum(w, end - done)
        source, apart, labels = p, step, y + 4 * done
        # A panel of fewer classes than it is wide reaches into the rows behind its own.
        within = panel <= C or (step == row and done + w + panel <= end)
        if count < w:
            copy_rows(spec, None, source, apart, labels, 0, count, row, rows, row_labels, 0)
            source, apart, labels, within = rows, row, row_labels, True
        t = vec.fetch_labels(spec, labels)
        transpose(spec, C, source, apart, within, columns)
        x_t = ops.splat(spec, 0.0)
        for c in range(C):
            x_t = _add_target(spec, vec.fetch(spec, columns + LINE * c), c, t, x_t)
        above, flaws = ops.integers(spec, 0), ops.integers(spec, 0)
        for c in range(C):
            scores = vec.fetch(spec, columns + LINE * c)
            above, flaws = _add_class(spec, scores, x_t, c, t, above, flaws)
        _write_ranks(spec, out + 8 * done, above, flaws, t, C, count, ranks)
        p += count * step
        done += count


@inlined
def _strided(spec, C, inner, first, last, x, xo, xc, xi, y, out):
    """Any strides: a vector holds one class of the positions of a run."""
    w, lane = ops.lanes(spec), ops.lane_size(spec)
    targets, row_labels = vec.stack_alloc(_VECTOR), vec.stack_alloc(_VECTOR)
    ranks = vec.stack_alloc(_RANKS)
    done, end, step, p = 0, 0, 0, x
    while done < last - first:
        if done == end:
            end, p, step = run_of_positions(inner, first, last, done, x, xo, xi)
        count = ops.minimum(w, end - done)
        for r in range(w):
            vec.keep_label(row_labels + 4 * r, -1)
        for r in range(count):
            label = vec.fetch_label(y + 4 * (done + r))
            vec.keep_label(row_labels + 4 * r, label)
            target = p + r * step + ops.maximum(label, 0) * xc
            vec.keep(targets + lane * r, vec.load_one(spec, target))
        t, x_t = vec.fetch_labels(spec, row_labels), vec.fetch(spec, targets)
        above, flaws = ops.integers(spec, 0), ops.integers(spec, 0)
        for c in range(C):
            scores = vec.load_some(spec, p + c * xc, step, count)
            above, flaws = _add_class(spec, scores, x_t, c, t, above, flaws)
        _write_ranks(spec, out + 8 * done, above, flaws, t, C, count, ranks)
        p += count * step
        done += count


# A row along its vectors -----------------------------------------------------------------------


@primitive
def _add_packed(spec: KernelSpec, x: Value, x_t: Value, skip: Value | None, counts: Value) -> Value:
    """Counts a vector of classes: 1 where it is higher, `_LEVEL` where it is equal or NaN."""
    higher, apart = x > x_t, (x < x_t) | (x > x_t)
    if skip is not None:
        lane, first = vec.indices(spec), skip.to(spec.format.integers)
        higher, apart = higher & (lane >= first), apart | (lane < first)
    counts = counts + ops.select(higher, ops.integers(spec, 1), 0)
    return counts + ops.select(apart, ops.integers(spec, 0), _LEVEL)


@inlined
def _rank_without_ties(spec, C, p, t):
    """The rank of a row in which no other score is equal to the target's and none NaN; else -1.

    Its branches do not depend on the target, which nobody predicts: where rows are short that is
    what costs most (100 classes: 23 ns a row with them, 14 without).
    """
    w, size = ops.lanes(spec), ops.itemsize(spec)
    x_t = ops.splat(spec, vec.load_one(spec, p + t * size))
    counts = ops.integers(spec, 0)
    c = 0
    while c + w <= C:
        counts = _add_packed(spec, vec.load(spec, p + c * size), x_t, None, counts)
        c += w
    if c < C:  # the last vector ends with the row
        at = C - w
        counts = _add_packed(spec, vec.load(spec, p + at * size), x_t, c - at, counts)
    packed = int(ops.total(counts))
    if packed >= 2 * _LEVEL:
        return -1
    return packed - _LEVEL


@primitive
def _add_lower_classes(
    spec: KernelSpec, x: Value, x_t: Value, above: Value, flaws: Value
) -> tuple[Value, Value]:
    """A vector of classes below the target, which an equal score puts above it."""
    return _counted(spec, x, x >= x_t, above, flaws)


@primitive
def _add_higher_classes(
    spec: KernelSpec, x: Value, x_t: Value, above: Value, flaws: Value
) -> tuple[Value, Value]:
    """A vector of classes beyond the target."""
    return _counted(spec, x, x > x_t, above, flaws)


@primitive
def _add_classes(
    spec: KernelSpec,
    x: Value,
    x_t: Value,
    c: Value,
    t: Value,
    skip: Value,
    above: Value,
    flaws: Value,
) -> tuple[Value, Value]:
    """The classes from c on, wherever the target is; the first `skip` lanes do not count."""
    lane, typ = vec.indices(spec), spec.format.integers
    higher = (x > x_t) | ((x == x_t) & (lane + c.to(typ) < t.to(typ)))
    return _counted(spec, x, higher & (lane >= skip.to(typ)), above, flaws)


@inlined
def _rank_of_row(spec, C, p, t):
    """The rank of one row of more classes than a vector holds, side by side from p on."""
    w, size = ops.lanes(spec), ops.itemsize(spec)
    x_t = ops.splat(spec, vec.load_one(spec, p + t * size))
    above, flaws = ops.integers(spec, 0), ops.integers(spec, 0)
    c = 0
    while c + w <= t:
        above, flaws = _add_lower_classes(spec, vec.load(spec, p + c * size), x_t, above, flaws)
        c += w
    if c + w <= C:
        above, flaws = _add_classes(spec, vec.load(spec, p + c * size), x_t, c, t, 0, above, flaws)
        c += w
    while c + w <= C:
        above, flaws = _add_higher_classes(spec, vec.load(spec, p + c * size), x_t, above, flaws)
        c += w
    if c < C:  # the last vector ends with the row
        at = C - w
        above, flaws = _add_classes(
            spec, vec.load(spec, p + at * size), x_t, at, t, c - at, above, flaws
        )
    if ops.anywhere(flaws < ops.integers(spec, 0)):
        return C
    return int(ops.total(above))


@inlined
def _rows(spec, C, inner, first, last, x, xo, xi, y, out):
    """Rows of more than TILE classes that lie side by side."""
    o, i = first // inner, first % inner
    for k in range(last - first):
        t = vec.fetch_label(y + 4 * k)
        result = -1
        if t >= 0:
            p = x + o * xo + i * xi
            if C < MEDIUM:
                result = _rank_without_ties(spec, C, p, t)
            if result < 0:
                result = _rank_of_row(spec, C, p, t)
        vec.keep(out + 8 * k, result)
        i += 1
        if i == inner:
            i = 0
            o += 1


@inlined
def rank(spec, C, inner, first, last, x, xo, xc, xi, y, out):
    """Ranks of positions first .. last - 1 into int64 at `out`; C for NaN rows, -1 for y < 0."""
    if xc != ops.itemsize(spec):
        _strided(spec, C, inner, first, last, x, xo, xc, xi, y, out)
    elif C > TILE:
        _rows(spec, C, inner, first, last, x, xo, xi, y, out)
    else:
        _tiles(spec, C, inner, first, last, x, xo, xi, y, out)
