"""Rows: the classes of a position lie together. One row at a time, read once for its loss.

A row is summed in chunks of 1024 columns, cut by C alone: in the arithmetic's dtype
over two vectors of lanes (four spill: 16 registers hold no more chains of exponentials), then the
sums go on in float64. The reference of a row of logits begins at its first vector's maximum. Where
a later logit is far above it, the reference is raised and the chunk is summed again: the sums
before it are multiplied by an exact power of two.

A chunk of a long row is 256 columns of each quarter of the row, read side by side (`memory.PAGE`
says why). Gradients are made from left to right.
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
from sparse_xent.kernels.cpu.exact_row import amount, exact_gradient, exact_row_sums, exact_target
from sparse_xent.kernels.cpu.implausible import note
from sparse_xent.kernels.cpu.memory import (
    AHEAD,
    PAGE,
    clear,
    only_with,
    scatter,
    shifted,
    stream_store,
)
from sparse_xent.kernels.cpu.references import (
    add_term,
    first_reference,
    overflowed,
    reference_is_far,
    rescaled,
    scaled_down,
    suspicious,
    with_overflow,
)
from sparse_xent.kernels.formulas import (
    ClipRange,
    KernelSpec,
    class_gradient,
    gradient_coefficients,
    is_logits,
    smoothing_terms,
    term,
)
from sparse_xent.kernels.staging import Value, primitive

CHUNK = 1024  # columns: 32 float32 additions a lane before float64 takes over
PAIRS = 4  # of a step
# Bytes of a row from which its steps have their pairs a quarter of the row apart: losses of 32,000
# float32 take 0.82 of the time, of 4096 0.9; of 2000, whose quarters lie in two pages, 1.1.
LONG = 4 * PAGE
AHEAD_EACH = AHEAD // 2  # bytes to prefetch by at each of four places: 2048 takes 1.05 of the time

_BUFFER = vec.StackBytes(LINE + 8 * (CHUNK + 64))

# Terms of a row that are kept, so that its gradient takes no second exponential: 128 KiB, a quarter
# of a second-level cache (of 512 KiB: AMD's; most have more).
CACHED = 1 << 17  # bytes


# Pairs of vectors ------------------------------------------------------------------------------
#
# A row is read in pairs of vectors, two sums side by side, and in steps of PAIRS pairs, which are
# `apart` columns from each other. Behind the steps there is a rest of less than a step; where it is
# no whole pairs, its last pair begins early. Pair i's terms are cached at 2 * LINE * i.

Sums = tuple[Value, Value]


@primitive
def _zero_sums(spec: KernelSpec) -> tuple[Sums, Value]:
    zero = ops.splat(spec, 0.0)
    return (zero, zero), ops.integers(spec, 0)


@primitive
def _prefetch_pair(spec: KernelSpec, p: Value, ahead: Value) -> None:
    for line in range(0, 2 * spec.format.lanes * spec.format.itemsize, LINE):
        vec.prefetch(p + (ahead + line))


def _add(
    spec: KernelSpec,
    x: Value,
    m: Value,
    clip_range: ClipRange,
    sum_: Value,
    exponents: Value,
    cached_terms: Value | None,
) -> tuple[Value, Value]:
    """A vector's terms onto a sum, and to where terms are cached, if they are."""
    sum_, exponents, e = add_term(spec, x, m, clip_range, sum_, exponents)
    if cached_terms is not None and spec.scores == ScoreKind.LOGITS:
        vec.keep(cached_terms, e)
    return sum_, exponents


@primitive
def _add_pairs(
    spec: KernelSpec,
    p: Value,
    apart: Value,
    ahead: Value,
    m: Value,
    clip_range: ClipRange,
    sums: Sums,
    exponents: Value,
    cached_terms: Value | None,
    terms_apart: Value,
) -> tuple[Sums, Value]:
    """The terms of the pairs of a step onto the sums."""
    for pair in range(PAIRS):
        at, made = p + apart * pair, []
        _prefetch_pair(spec, at, ahead)
        for i, (x, s) in enumerate(zip(vec.load_pair(spec, at), sums, strict=True)):
            to = shifted(cached_terms, terms_apart * pair + LINE * i)
            added, exponents = _add(spec, x, m, clip_range, s, exponents, to)
            made.append(added)
        sums = made[0], made[1]
    return sums, exponents


@primitive
def _add_marked_pair(
    spec: KernelSpec,
    p: Value,
    t: Value,
    begin: Value,
    m: Value,
    clip_range: ClipRange,
    sums: Sums,
    exponents: Value,
    cached_terms: Value | None,
) -> tuple[Sums, Value]:
    """A pair's terms from column `begin` on, and without column t, onto the sums."""
    made = []
    pairs = zip(vec.load_pair(spec, p), vec.pair_columns(spec), sums, strict=True)
    for i, (x, column, s) in enumerate(pairs):
        to = shifted(cached_terms, LINE * i)
        added, exponents = _add(spec, x, m, clip_range, s, exponents, to)
        made.append(ops.select((column >= begin) & (column != t), added, s))
    return tuple(made), exponents  # type: ignore[return-value]


@inlined
def _prefetch_page(p, step):
    """Where the step of so many bytes at p begins a page, prefetch the next page's first lines.

    The processor's own prefetching has begun there when it is reached: rows of 2 to 8 KiB take 3 to
    8 % less.
    """
    if p & (PAGE - step) == 0:
        for line in range(4):
            vec.prefetch(((p + PAGE) & -PAGE) + LINE * line)


@inlined
def _chunk_sums(
    spec, p, n, step, apart, rest, end, ahead, t, m, clip_range, cached_terms, cached_size
):
    """The sum of a chunk's terms but the target's, and their exponents.

    The step that has the target, or the last where none has it, is added after the others: no
    branch depends on the label.

    Args:
        spec: what the kernel is compiled for.
        p: address of the first step.
        n: steps.
        step: columns from step to step.
        apart: columns from pair to pair of a step.
        rest: first column behind all steps, counted from p as all columns are.
        end: column after the last; `rest` unless this is the last chunk.
        ahead: bytes to prefetch by.
        t: the target's column.
        m: the reference.
        clip_range: of probabilities.
        cached_terms: where terms are cached from column 0 on, or None.
        cached_size: bytes from term to term there; 0 where there is no place for all.
    """
    wide, size = 2 * ops.lanes(spec), ops.itemsize(spec)
    m = ops.splat(spec, m)
    sums, exponents = _zero_sums(spec)
    marked = n - 1
    for pair in range(PAIRS):
        column = t - pair * apart
        if 0 <= column < n * step and column % step < wide:
            marked = column // step
    for i in range(n - 1):
        column = ops.select(i < marked, i, i + 1) * step
        if apart == wide:
            _prefetch_page(p + column * size, step * size)
        sums, exponents = _add_pairs(
            spec, p + column * size, apart * size, ahead, m, clip_range, sums, exponents,
            shifted(cached_terms, column * cached_size), apart * cached_size,
        )  # fmt: skip
    for pair in range(PAIRS):
        column = marked * step + pair * apart
        _prefetch_pair(spec, p + column * size, ahead)
        to = shifted(cached_terms, column * cached_size)
        sums, exponents = _add_marked_pair(
            spec, p + column * size, t - column, 0, m, clip_range, sums, exponents, to
        )
    for column in range(rest, end, wide):
        at, to = ops.minimum(column, end - wide), shifted(cached_terms, column * cached_size)
        _prefetch_pair(spec, p + at * size, AHEAD)
        sums, exponents = _add_marked_pair(
            spec, p + at * size, t - at, column - at, m, clip_range, sums, exponents, to
        )
    total = sums[0] + sums[1]
    return total, with_overflow(spec, exponents, total)


@primitive
def _greater(spec: KernelSpec, p: Value, top: Value) -> Value:
    for x in vec.load_pair(spec, p):
        top = ops.maximum(x, top)
    return top


@inlined
def _greatest(spec, p, n, step, apart, rest, end):
    """The greatest scores of a chunk, by lanes."""
    wide, size = 2 * ops.lanes(spec), ops.itemsize(spec)
    top = vec.load(spec, p)
    for column in range(0, n * step, step):
        for pair in range(PAIRS):
            top = _greater(spec, p + (column + pair * apart) * size, top)
    for column in range(rest, end, wide):
        top = _greater(spec, p + ops.minimum(column, end - wide) * size, top)
    return top


# One row ---------------------------------------------------------------------------------------


@primitive
def _reference(spec: KernelSpec, top: Value) -> Value:
    """A reference below the scores of a vector; 0 where there is none."""
    return first_reference(spec, ops.highest(ops.widen(top)))


@inlined
def _row_sums(spec, p, C, t, clip_range, cached_terms):
    """The sum of the other terms and the reference m of the row at p.

    And whether all terms are cached under m, and whether a score is suspicious.
    """
    wide, size, one = 2 * ops.lanes(spec), ops.itemsize(spec), ops.lane_size(spec)
    m = _reference(spec, vec.load(spec, p))
    others = ops.widen(ops.splat(spec, 0.0))
    whole, odd = C * one <= CACHED, False
    cached_size = one if whole else 0
    steps = C // (PAIRS * wide)
    step, apart, ahead = PAIRS * wide, wide, AHEAD
    is_long = C * size >= LONG
    if is_long:
        step, apart, ahead = wide, steps * wide, AHEAD_EACH
    column, done = 0, 0
    while done < steps:
        n = ops.minimum(steps - done, CHUNK // (PAIRS * wide))
        here, to = p + column * size, shifted(cached_terms, column * cached_size)
        rest = steps * PAIRS * wide - column
        end = C - column if done + n == steps else rest
        if is_long and (column + n * step) * size + AHEAD_EACH > apart * size:
            ahead = AHEAD_EACH + (C - apart) * size  # in the next row, if that comes next
        more, exponents = _chunk_sums(
            spec, here, n, step, apart, rest, end, ahead, t - column, m, clip_range, to, cached_size
        )
        if overflowed(spec, exponents):
            raised = _reference(spec, _greatest(spec, here, n, step, apart, rest, end))
            if not raised > m:
                return math.nan, m, False, False  # beyond `reach`
            whole = whole and done == 0
            others = scaled_down(others, m - raised)
            m = raised
            continue
        odd = odd or suspicious(spec, exponents)
        others += ops.widen(more)
        column += n * step
        done += n
    return ops.total(others), m, whole, odd


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


def vector_gradient(
    spec: KernelSpec,
    x: Value,
    terms: Value | None,
    m: Value,
    a: Value,
    b: Value,
    s: Value,
    clip_range: ClipRange,
) -> Value:
    """The gradients of a vector of classes, from the terms at `terms`, if there are any."""
    e = term(spec, x, m, clip_range) if terms is None else vec.fetch(spec, terms)
    return class_gradient(spec, x, e, a, b, s, clip_range).to(spec.format.vector)


@primitive
def _pair_gradient(
    spec: KernelSpec,
    p: Value,
    terms: Value | None,
    m: Value,
    a: Value,
    b: Value,
    s: Value,
    clip_range: ClipRange,
) -> tuple[Value, Value]:
    """The gradients of a pair, from its cached terms, if there are any."""
    return tuple(  # type: ignore[return-value]
        vector_gradient(spec, x, shifted(terms, LINE * i), m, a, b, s, clip_range)
        for i, x in enumerate(vec.load_pair(spec, p))
    )


@inlined
def _class_gradients(spec, p, terms, to, n, m, a, b, s, clip_range):
    """Write the gradients of the n classes from p on, none of them the target; `to` may be p.

    Their terms are cached at `terms`, unless that is None.
    """
    wide, size = 2 * ops.lanes(spec), ops.itemsize(spec)
    m, a, b, s = ops.splat(spec, m), ops.splat(spec, a), ops.splat(spec, b), ops.splat(spec, s)
    # The last pair, which may begin early, is made first: in place, its scores vanish.
    pairs, end = (n - 1) // wide, n - wide
    last = _pair_gradient(
        spec, p + end * size, shifted(terms, pairs * 2 * LINE), m, a, b, s, clip_range
    )
    for i in range(pairs):
        at = i * wide * size
        if terms is None:
            _prefetch_pair(spec, p + at, AHEAD)
        d = _pair_gradient(spec, p + at, shifted(terms, i * 2 * LINE), m, a, b, s, clip_range)
        vec.store_pair(spec, to + at, d[0], d[1])
    vec.store_pair(spec, to + end * size, last[0], last[1])


@primitive
def _chunk_columns(left: Value) -> Value:
    """Columns of the next chunk. The last is never short, so that it has a whole vector."""
    return ops.select(left < CHUNK + 64, left, CHUNK)


@inlined
def _row_gradient(
    spec, p, dx, dc, C, t, m, a, b, target_gradient, s, clip_range, nontemporal, cached_terms
):
    """Write a row's gradient to dx; `cached_terms` has its terms, or is 0.

    Past the caches it goes in whole lines: what a chunk leaves of its last line, the next writes.
    """
    size = ops.itemsize(spec)
    direct = not nontemporal and dc == size
    buffer = vec.stack_alloc(_BUFFER) + LINE
    column, held = 0, 0
    while column < C:
        n = _chunk_columns(C - column)
        here, place, to = p + column * size, dx + column * dc, buffer
        if direct:
            to = place
        if cached_terms:
            terms = cached_terms + column * ops.lane_size(spec)
            _class_gradients(spec, here, terms, to, n, m, a, b, s, clip_range)
        else:
            _class_gradients(spec, here, None, to, n, m, a, b, s, clip_range)
        if 0 <= t - column < n:
            vec.store_one(spec, to + (t - column) * size, target_gradient)
        column += n
        if dc != size:
            scatter(spec, place, dc, to, n)
        elif not direct:
            end = n * size
            left = ops.select(column < C, (place + end) & (LINE - 1), 0)
            stream_store(place - held, buffer - held, held + end - left)
            vec.copy_line(buffer - LINE, buffer + (end - LINE))
            held = left


@inlined
def rows(
    spec, C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, notes,
    smoothing, clip_range, nontemporal, scratch,
):  # fmt: skip
    """C >= MEDIUM; of logits without smoothing C >= PLAIN_MEDIUM."""
    cached_terms, mode = only_with(dx, scratch), vec.float_mode()
    o, i = first // inner, first % inner
    for k in range(last - first):
        t = vec.fetch_label(y + 4 * k)
        p = x + o * xo + i * xi
        value, factor, accurate = 0.0, 1.0, True
        if dx is not None:
            factor = vec.fetch_factor(g + 8 * k)
        if t >= 0:
            others, before, whole = 0.0, 0.0, False
            if reads_rows(spec):
                others, before, whole, odd = _row_sums(spec, p, C, t, clip_range, cached_terms)
                if notes is not None and odd:
                    note(spec, p, xc, C, t, -1, first + k, notes)
            x_t = vec.load_one(spec, p + t * ops.itemsize(spec))
            target_term = float(term(spec, x_t, ops.rounded(spec, before), clip_range))
            others, target_term, m, target_score, s = finish_sums(
                spec, others, target_term, before, x_t
            )
            sum_, count = 0.0, 0.0
            if smoothing is not None:
                sum_, count = _smoothing_sums(spec, p, C, m, s, clip_range)
            value = finish_loss(
                spec, others, target_term, target_score, sum_, count, C, smoothing, clip_range
            )
            accurate = not is_logits(spec) or is_accurate(spec, value)
            if not accurate:
                vec.set_float_mode(mode & ~vec.FLUSH)
                value, m, others, target_term, count = exact_row_sums(
                    spec, p, xc, C, t, amount(smoothing), factor
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
                if smoothing is not None and target_cancels(spec, a, target_gradient, smoothing):
                    target_gradient = exact_target(spec, p, xc, C, t, smoothing, factor, clip_range)
                terms = 0
                if caches_terms(spec) and whole and not reference_is_far(spec, a, before, m):
                    terms, a = cached_terms, rescaled(spec, a, before, m)
                _row_gradient(
                    spec, p, to, dc, C, t, m, a, b, target_gradient, s, clip_range, nontemporal,
                    terms,
                )  # fmt: skip
            else:
                exact_gradient(
                    spec, p, xc, to, dc, C, t, m, others, target_term, count, amount(smoothing),
                    factor,
                )  # fmt: skip
        if not accurate:
            vec.set_float_mode(mode)
        i += 1
        if i == inner:
            i = 0
            o += 1
    if dx is not None and nontemporal:
        vec.fence()
