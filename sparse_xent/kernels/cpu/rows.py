"""Rows: the classes of a position lie together. One row at a time, read once for its loss.

A row is cut into chunks of 1024 columns, by C alone. A chunk is summed in the arithmetic's dtype
over two vectors of lanes (four spill: 16 registers hold no more chains of exponentials), then the
sums go on in float64. The reference of a row of logits begins at its first vector's maximum. Where
a later logit is far above it, the reference is raised and the chunk is summed again: the sums
before it are multiplied by an exact power of two.
"""

import math

from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels import arithmetic as ops
from sparse_xent.kernels.cpu import vectors as vec
from sparse_xent.kernels.cpu.abi import LINE
from sparse_xent.kernels.cpu.compiler import inlined
from sparse_xent.kernels.cpu.epilogue import (
    caches_terms,
    finish_loss,
    finish_sums,
    is_accurate,
    reads_rows,
    target_cancels,
)
from sparse_xent.kernels.cpu.exact_row import exact_gradient, exact_row_sums, exact_target
from sparse_xent.kernels.cpu.implausible import note
from sparse_xent.kernels.cpu.memory import AHEAD, clear, only_with, scatter, shifted, stream_store
from sparse_xent.kernels.cpu.references import (
    FAR,
    first_reference,
    join_exponents,
    overflowed,
    rescaled,
    scaled_down,
    suspicious,
    term_and_exponent,
)
from sparse_xent.kernels.formulas import (
    ClipRange,
    KernelSpec,
    class_gradient,
    gradient_coefficients,
    is_logits,
    is_smooth,
    smoothing_terms,
    term,
)
from sparse_xent.kernels.staging import Value, primitive

CHUNK = 1024  # columns: 32 float32 additions a lane before float64 takes over
_BUFFER = vec.StackBytes(8 * (CHUNK + 128))

# Terms of a row that are kept, so that its gradient takes no second exponential: 128 KiB, a quarter
# of a second-level cache (of 512 KiB: AMD's; most have more).
CACHED = 1 << 17  # bytes


# One vector, one group of two ------------------------------------------------------------------

Sums = tuple[Value, Value]


@primitive
def _zero_sums(spec: KernelSpec) -> tuple[Sums, Value, Value]:
    zero = ops.splat(spec, 0.0)
    return (zero, zero), zero, ops.integers(spec, 0)


@primitive
def _add_group(
    spec: KernelSpec,
    p: Value,
    m: Value,
    clip_range: ClipRange,
    sums: Sums,
    exponents: Value,
    cached_terms: Value | None,
) -> tuple[Sums, Value]:
    """Two vectors' terms onto two sums, and to where terms are cached, if they are."""
    step = spec.format.lanes * spec.format.itemsize
    for line in range(0, 2 * step, LINE):
        vec.prefetch(p + (AHEAD + line))
    made = []
    for i, s in enumerate(sums):
        e, exponent = term_and_exponent(spec, vec.load(spec, p + i * step), m, clip_range)
        exponents = join_exponents(spec, exponents, exponent)
        made.append(s + e)
        if cached_terms is not None and spec.scores == ScoreKind.LOGITS:
            vec.keep(cached_terms + LINE * i, e)
    return tuple(made), exponents


@primitive
def _add_vector(
    spec: KernelSpec,
    p: Value,
    t: Value,
    begin: Value,
    m: Value,
    clip_range: ClipRange,
    others: Value,
    target_term: Value,
    exponents: Value,
    cached_terms: Value | None,
) -> tuple[Value, Value, Value]:
    """One vector's terms from lane `begin` on, the target's (lane t) to `target_term`."""
    e, exponent = term_and_exponent(spec, vec.load(spec, p), m, clip_range)
    if cached_terms is not None and spec.scores == ScoreKind.LOGITS:
        vec.keep(cached_terms, e)
    e = ops.select(vec.indices(spec) >= begin, e, 0.0)
    here = vec.indices(spec) == t
    return (
        others + ops.select(here, 0.0, e),
        target_term + ops.select(here, e, 0.0),
        join_exponents(spec, exponents, exponent),
    )


@inlined
def _chunk_sums(spec, p, n, t, m, clip_range, cached_terms):
    """Sums of the n terms from p on, without and at the target, and their exponents.

    The target is column t of them, or none of them. Its group of vectors is taken one by one, as
    the last few are, so that leaving it out costs the other groups nothing.
    """
    w, size = ops.lanes(spec), ops.itemsize(spec)
    m = ops.splat(spec, m)
    sums, target_term, exponents = _zero_sums(spec)
    groups = n // (2 * w)
    i, stop = 0, groups
    if t >= 0:
        stop = ops.minimum(t // (2 * w), groups)
    while True:
        while i < stop:
            here = p + i * 2 * w * size
            to = shifted(cached_terms, i * 2 * LINE)
            sums, exponents = _add_group(spec, here, m, clip_range, sums, exponents, to)
            i += 1
        column, end = i * 2 * w, n
        if i < groups:
            end = column + 2 * w
        a, b = sums
        while column < end:
            at = ops.minimum(column, n - w)  # the last begins early
            to = shifted(cached_terms, at * ops.lane_size(spec))
            a, target_term, exponents = _add_vector(
                spec,
                p + at * size,
                t - at,
                column - at,
                m,
                clip_range,
                a,
                target_term,
                exponents,
                to,
            )
            column = at + w
        sums = a, b
        if end == n:
            return a + b, target_term, exponents
        i, stop = i + 1, groups


@inlined
def _greatest(spec, p, n):
    """The greatest of the n scores from p on."""
    w, size = ops.lanes(spec), ops.itemsize(spec)
    top = vec.load(spec, p)
    for column in range(w, n, w):
        top = ops.maximum(vec.load(spec, p + ops.minimum(column, n - w) * size), top)
    return top


# One row ---------------------------------------------------------------------------------------


@primitive
def _chunk_columns(left: Value) -> Value:
    """Columns of the next chunk. The last is never short, so that it has a whole vector."""
    return ops.select(left < CHUNK + 64, left, CHUNK)


@primitive
def _reference(spec: KernelSpec, top: Value) -> Value:
    """A reference below the scores of a vector; 0 where there is none."""
    return first_reference(spec, ops.highest(ops.widen(top)))


@inlined
def _row_sums(spec, p, C, t, clip_range, cached_terms):
    """others, target_term and the reference m of the row at p.

    And whether all terms are cached under m, and whether a score is suspicious.
    """
    m = _reference(spec, vec.load(spec, p))
    others = ops.widen(ops.splat(spec, 0.0))
    target_term = others
    column, whole, odd = 0, C * ops.lane_size(spec) <= CACHED, False
    while column < C:
        n = _chunk_columns(C - column)
        at = p + column * ops.itemsize(spec)
        to = shifted(cached_terms, column * ops.lane_size(spec) if whole else 0)
        more, here, exponents = _chunk_sums(spec, at, n, t - column, m, clip_range, to)
        if overflowed(spec, exponents):
            raised = _reference(spec, _greatest(spec, at, n))
            if not raised > m:
                return math.nan, math.nan, m, False, False  # beyond `reach`
            whole = whole and column == 0
            others = scaled_down(others, m - raised)
            target_term = scaled_down(target_term, m - raised)
            m = raised
            continue
        odd = odd or suspicious(spec, exponents)
        others += ops.widen(more)
        target_term += ops.widen(here)
        column += n
    return ops.total(others), ops.total(target_term), m, whole, odd


@primitive
def add_smoothing_terms(
    spec: KernelSpec,
    p: Value,
    begin: Value,
    m: Value,
    s: Value,
    clip_range: ClipRange,
    sums: tuple[Value, Value],
) -> tuple[Value, Value]:
    """A vector's smoothing terms from lane `begin` on onto two sums, which may be float64."""
    live = vec.indices(spec) >= begin
    both = smoothing_terms(spec, vec.load(spec, p), m, s, clip_range)
    more = [ops.select(live, v, 0.0) for v in both]
    return tuple(a + (ops.widen(v) if a.wide else v) for a, v in zip(sums, more, strict=True))


@inlined
def _smoothing_sums(spec, p, C, m, s, clip_range):
    """The sums of the row's smoothing terms."""
    zero = ops.widen(ops.splat(spec, 0.0))
    sums = zero, zero
    m, s = ops.splat(spec, m), ops.splat(spec, s)
    column = 0
    while column < C:
        at = ops.minimum(column, C - ops.lanes(spec))
        here = p + at * ops.itemsize(spec)
        sums = add_smoothing_terms(spec, here, column - at, m, s, clip_range, sums)
        column = at + ops.lanes(spec)
    return ops.total(sums[0]), ops.total(sums[1])


# Gradients -------------------------------------------------------------------------------------


@primitive
def _vector_gradient(
    spec: KernelSpec, p: Value, m: Value, a: Value, b: Value, s: Value, clip_range: ClipRange
) -> Value:
    x = vec.load(spec, p)
    e = term(spec, x, m, clip_range)
    return class_gradient(spec, x, e, a, b, s, clip_range).to(spec.format.vector)


@primitive
def _gradient_of_terms(
    spec: KernelSpec, p: Value, terms: Value, a: Value, b: Value, s: Value, clip_range: ClipRange
) -> Value:
    """The same from cached terms; a score is looked at only where labels are smoothed."""
    x, e = vec.load(spec, p), vec.fetch(spec, terms)
    return class_gradient(spec, x, e, a, b, s, clip_range).to(spec.format.vector)


@primitive
def _write_four_vectors(
    spec: KernelSpec,
    p: Value,
    to: Value,
    m: Value,
    a: Value,
    b: Value,
    s: Value,
    clip_range: ClipRange,
) -> None:
    step = spec.format.lanes * spec.format.itemsize
    for line in range(0, 4 * step, LINE):
        vec.prefetch(p + (AHEAD + line))
    made = [_vector_gradient(spec, p + i * step, m, a, b, s, clip_range) for i in range(4)]
    for i, v in enumerate(made):
        vec.store(spec, to + i * step, v)


@inlined
def class_gradients(spec, p, to, n, m, a, b, s, clip_range):
    """Write the gradients of the n classes from p on, none of them the target; `to` may be p."""
    w, size = ops.lanes(spec), ops.itemsize(spec)
    m, a, b, s = ops.splat(spec, m), ops.splat(spec, a), ops.splat(spec, b), ops.splat(spec, s)
    # The last vector, which may begin early, is made first: in place, its scores vanish.
    last = _vector_gradient(spec, p + (n - w) * size, m, a, b, s, clip_range)
    column = 0
    while column + 4 * w <= n:
        _write_four_vectors(spec, p + column * size, to + column * size, m, a, b, s, clip_range)
        column += 4 * w
    while column + w < n:
        d = _vector_gradient(spec, p + column * size, m, a, b, s, clip_range)
        vec.store(spec, to + column * size, d)
        column += w
    vec.store(spec, to + (n - w) * size, last)


@inlined
def class_gradients_of_terms(spec, p, terms, to, n, a, b, s, clip_range):
    """The same from the cached terms of these classes."""
    w, size, one = ops.lanes(spec), ops.itemsize(spec), ops.lane_size(spec)
    a, b, s = ops.splat(spec, a), ops.splat(spec, b), ops.splat(spec, s)
    end = n - w
    last = _gradient_of_terms(spec, p + end * size, terms + end * one, a, b, s, clip_range)
    for column in range(0, end, w):
        here = terms + column * one
        d = _gradient_of_terms(spec, p + column * size, here, a, b, s, clip_range)
        vec.store(spec, to + column * size, d)
    vec.store(spec, to + end * size, last)


@inlined
def _row_gradient(
    spec, p, dx, dc, C, t, m, a, b, target_gradient, s, clip_range, nontemporal, cached_terms
):
    """Write a row's gradient to dx; `cached_terms` has its terms, or is 0."""
    size = ops.itemsize(spec)
    if not nontemporal and dc == size:
        if cached_terms:
            class_gradients_of_terms(spec, p, cached_terms, dx, C, a, b, s, clip_range)
        else:
            class_gradients(spec, p, dx, C, m, a, b, s, clip_range)
        vec.store_one(spec, dx + t * size, target_gradient)
        return
    buffer = vec.stack_alloc(_BUFFER)
    column = 0
    while column < C:
        n = C - column
        if n >= CHUNK + 64:  # end at a line's end, so that no line is written by two chunks
            n = CHUNK - ((dx + column * dc) & 63) // size
        here = p + column * size
        if cached_terms:
            terms = cached_terms + column * ops.lane_size(spec)
            class_gradients_of_terms(spec, here, terms, buffer, n, a, b, s, clip_range)
        else:
            class_gradients(spec, here, buffer, n, m, a, b, s, clip_range)
        if 0 <= t - column < n:
            vec.store_one(spec, buffer + (t - column) * size, target_gradient)
        if dc == size:
            stream_store(dx + column * size, buffer, n * size)
        else:
            scatter(spec, dx + column * dc, dc, buffer, n)
        column += n


@inlined
def rows(
    spec, C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, notes,
    smoothing, clip_range, nontemporal, scratch,
):  # fmt: skip
    """C >= MEDIUM, and any C that has a whole vector."""
    cached_terms = only_with(dx, scratch)
    o, i = first // inner, first % inner
    for k in range(last - first):
        t = vec.fetch_label(y + 4 * k)
        p = x + o * xo + i * xi
        value, factor = 0.0, 1.0
        if dx is not None:
            factor = vec.fetch_factor(g + 8 * k)
        if t >= 0:
            others, target_term, before, whole = 0.0, 0.0, 0.0, False
            if reads_rows(spec):
                others, target_term, before, whole, odd = _row_sums(
                    spec, p, C, t, clip_range, cached_terms
                )
                if odd:
                    note(spec, p, xc, C, t, -1, first + k, notes)
            others, target_term, m, target_score, s = finish_sums(
                spec, others, target_term, before, vec.load_one(spec, p + t * ops.itemsize(spec))
            )
            sum_, count = 0.0, 0.0
            if is_smooth(spec):
                sum_, count = _smoothing_sums(spec, p, C, m, s, clip_range)
            value = finish_loss(
                spec, others, target_term, target_score, sum_, count, C, smoothing, clip_range
            )
            accurate = not is_logits(spec) or is_accurate(spec, value)
            if not accurate:
                value, m, others, target_term, count = exact_row_sums(
                    spec, p, xc, C, t, smoothing, factor
                )
        vec.keep(out + k * ops.lane_size(spec), ops.rounded(spec, value))
        if dx is not None:
            to = dx + o * do + i * di
            if t < 0 or factor == 0.0:
                clear(spec, to, dc, C)
            elif accurate:
                a, b, target_gradient = gradient_coefficients(
                    spec, others, target_term, target_score, count, C, smoothing, factor, clip_range
                )
                if target_cancels(spec, a, target_gradient, smoothing):
                    target_gradient = exact_target(spec, p, xc, C, t, smoothing, factor, clip_range)
                terms = 0
                if caches_terms(spec) and whole and m - before <= FAR:
                    terms, a = cached_terms, rescaled(spec, a, before, m)
                _row_gradient(
                    spec,
                    p,
                    to,
                    dc,
                    C,
                    t,
                    m,
                    a,
                    b,
                    target_gradient,
                    s,
                    clip_range,
                    nontemporal,
                    terms,
                )
            else:
                exact_gradient(
                    spec, p, xc, to, dc, C, t, m, others, target_term, count, smoothing, factor
                )
        i += 1
        if i == inner:
            i = 0
            o += 1
    if dx is not None and nontemporal:
        vec.fence()
