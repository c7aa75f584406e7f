"""Rows: the classes of a position lie together. One row at a time, read once for its loss.

A row is cut into chunks of 1024 columns, by C alone. A chunk is summed in the arithmetic's dtype
over two vectors of lanes (four spill: 16 registers hold no more chains of exponentials), then the
sums go on in float64. The reference of a row of logits begins at its first vector's maximum and
is raised, and the chunk taken again, where a later logit stands far above it: the sums before are
then multiplied by an exact power of two.
"""

import math

from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels.cpu.abi import LINE
from sparse_xent.kernels.cpu.compiler import part
from sparse_xent.kernels.cpu.exact_row import exact_gradient, exact_sums, exact_target
from sparse_xent.kernels.cpu.formulas import (
    FAR,
    Kind,
    Span,
    cancels,
    first_reference,
    gist,
    higher,
    lifted,
    lines,
    log2e,
    loss,
    lowered,
    may_cancel,
    mean,
    rescaled,
    settled,
    slope,
    suspicious,
    term,
    too_high,
    whole_sum,
)
from sparse_xent.kernels.cpu.implausible import note
from sparse_xent.kernels.cpu.vectors import (
    Num,
    Room,
    copy_byte,
    fact,
    fence,
    fetch,
    fetch_factor,
    fetch_label,
    fma,
    highest,
    indices,
    integers,
    itemsize,
    keep,
    lanes,
    load,
    load_one,
    maximum,
    minimum,
    prefetch,
    rounded,
    select,
    splat,
    stack,
    store,
    store_one,
    stream_line,
    total,
    widen,
    word,
)

CHUNK = 1024  # columns: 32 float32 additions a lane before float64 takes over
AHEAD = 4096  # bytes; nearer hides less of the memory's latency, farther gains nothing
_BUFFER = Room(8 * (CHUNK + 128))

# Terms of a row that are held, so that its gradient takes no second exponential: 128 KiB, a quarter
# of a second-level cache (of 512 KiB: AMD's; most have more).
HELD = 1 << 17  # bytes


# One vector, one group of two ------------------------------------------------------------------

Sums = tuple[Num, Num]


@word
def _none(kind: Kind) -> tuple[Sums, Num, Num]:
    zero = splat(kind, 0.0)
    return (zero, zero), zero, integers(kind, 0)


@word
def _group(
    kind: Kind, p: Num, m: Num, span: Span, sums: Sums, heights: Num, held: Num | None
) -> tuple[Sums, Num]:
    """Two vectors' terms onto two sums, and to where they are held, if they are."""
    step = kind.format.lanes * kind.format.itemsize
    for line in range(0, 2 * step, LINE):
        prefetch(p + (AHEAD + line))
    made = []
    for i, s in enumerate(sums):
        e, height = lifted(kind, load(kind, p + i * step), m, span)
        heights = higher(kind, heights, height)
        made.append(s + e)
        if held is not None and kind.scores == ScoreKind.LOGITS:
            keep(held + LINE * i, e)
    return tuple(made), heights


@word
def _vector(
    kind: Kind,
    p: Num,
    t: Num,
    begin: Num,
    m: Num,
    span: Span,
    rest: Num,
    hit: Num,
    heights: Num,
    held: Num | None,
) -> tuple[Num, Num, Num]:
    """One vector's terms from lane `begin` on, the target's (lane t) to `hit`."""
    e, height = lifted(kind, load(kind, p), m, span)
    if held is not None and kind.scores == ScoreKind.LOGITS:
        keep(held, e)
    e = select(indices(kind) >= begin, e, 0.0)
    here = indices(kind) == t
    return rest + select(here, 0.0, e), hit + select(here, e, 0.0), higher(kind, heights, height)


@word
def only_with(dx: Num | None, work: Num) -> Num | None:
    """Scratch that a kernel uses only where it makes gradients."""
    return None if dx is None else work


@word
def shifted(address: Num | None, by: Num) -> Num | None:
    """An address further on, if there is one."""
    return None if address is None else address + by


@part
def _chunk(kind, p, n, t, m, span, held):  # type: ignore[no-untyped-def]
    """Sums of the n terms from p on, without and at the target, and their heights.

    The target is column t of them, or none of them. Its group of vectors is taken one by one, as
    the last few are, so that leaving it out costs the other groups nothing.
    """
    w, size = lanes(kind), itemsize(kind)
    m = splat(kind, m)
    sums, hit, heights = _none(kind)
    groups = n // (2 * w)
    i, stop = 0, groups
    if t >= 0:
        stop = minimum(t // (2 * w), groups)
    while True:
        while i < stop:
            here = p + i * 2 * w * size
            sums, heights = _group(kind, here, m, span, sums, heights, shifted(held, i * 2 * LINE))
            i += 1
        column, end = i * 2 * w, n
        if i < groups:
            end = column + 2 * w
        a, b = sums
        while column < end:
            at = minimum(column, n - w)  # the last begins early
            here = shifted(held, at * slot(kind))
            a, hit, heights = _vector(
                kind, p + at * size, t - at, column - at, m, span, a, hit, heights, here
            )
            column = at + w
        sums = a, b
        if end == n:
            return a + b, hit, heights
        i, stop = i + 1, groups


@part
def _highest(kind, p, n):  # type: ignore[no-untyped-def]
    """The greatest of the n scores from p on."""
    w, size = lanes(kind), itemsize(kind)
    top = load(kind, p)
    for column in range(w, n, w):
        top = maximum(load(kind, p + minimum(column, n - w) * size), top)
    return top


# One row ---------------------------------------------------------------------------------------


@word
def _cut(left: Num) -> Num:
    """Columns of the next chunk. The last is never short, so that it has a whole vector."""
    return select(left < CHUNK + 64, left, CHUNK)


@word
def _reference(kind: Kind, top: Num) -> Num:
    """A reference below the scores of a vector; 0 where there is none."""
    return first_reference(kind, highest(widen(top)))


@part
def _row_sums(kind, p, C, t, span, held):  # type: ignore[no-untyped-def]
    """rest, hit and the reference m of the row at p; whether all terms are held under it; marks."""
    m = _reference(kind, load(kind, p))
    rest = widen(splat(kind, 0.0))
    hit = rest
    column, whole, marked = 0, C * slot(kind) <= HELD, False
    while column < C:
        n = _cut(C - column)
        at = p + column * itemsize(kind)
        to = shifted(held, column * slot(kind) if whole else 0)
        more, here, heights = _chunk(kind, at, n, t - column, m, span, to)
        if too_high(kind, heights):
            raised = _reference(kind, _highest(kind, at, n))
            if not raised > m:
                return math.nan, math.nan, m, False, False  # out of reach
            whole = whole and column == 0
            rest = lowered(rest, m - raised)
            hit = lowered(hit, m - raised)
            m = raised
            continue
        marked = marked or suspicious(kind, heights)
        rest += widen(more)
        hit += widen(here)
        column += n
    return total(rest), total(hit), m, whole, marked


@word
def _gist_vector(
    kind: Kind, p: Num, begin: Num, m: Num, s: Num, span: Span, sums: tuple[Num, Num]
) -> tuple[Num, Num]:
    live = indices(kind) >= begin
    both = gist(kind, load(kind, p), m, s, span)
    return tuple(a + widen(select(live, v, 0.0)) for a, v in zip(sums, both, strict=True))


@part
def _row_gist(kind, p, C, m, s, span):  # type: ignore[no-untyped-def]
    """The sums of the second look at a row."""
    zero = widen(splat(kind, 0.0))
    sums = zero, zero
    m, s = splat(kind, m), splat(kind, s)
    column = 0
    while column < C:
        at = minimum(column, C - lanes(kind))
        sums = _gist_vector(kind, p + at * itemsize(kind), column - at, m, s, span, sums)
        column = at + lanes(kind)
    return total(sums[0]), total(sums[1])


@word
def _slope_vector(kind: Kind, p: Num, m: Num, a: Num, b: Num, s: Num, span: Span) -> Num:
    x = load(kind, p)
    return slope(kind, x, term(kind, x, m, span), a, b, s, span).to(kind.format.vector)


@word
def _slope_of(kind: Kind, p: Num, held: Num, a: Num, b: Num, s: Num, span: Span) -> Num:
    """The same from a term that is held; a score is looked at only where labels are smoothed."""
    e = fetch(kind, held)
    return slope(kind, load(kind, p), e, a, b, s, span).to(kind.format.vector)


@part
def slopes_of(kind, p, held, to, n, a, b, s, span):  # type: ignore[no-untyped-def]
    """Gradients of the n classes from p on, as `slopes` makes them, from their terms."""
    w, size, one = lanes(kind), itemsize(kind), slot(kind)
    a, b, s = splat(kind, a), splat(kind, b), splat(kind, s)
    end = n - w
    last = _slope_of(kind, p + end * size, held + end * one, a, b, s, span)
    for column in range(0, end, w):
        d = _slope_of(kind, p + column * size, held + column * one, a, b, s, span)
        store(kind, to + column * size, d)
    store(kind, to + end * size, last)


@word
def _slope_group(kind: Kind, p: Num, to: Num, m: Num, a: Num, b: Num, s: Num, span: Span) -> None:
    step = kind.format.lanes * kind.format.itemsize
    for line in range(0, 4 * step, LINE):
        prefetch(p + (AHEAD + line))
    made = [_slope_vector(kind, p + i * step, m, a, b, s, span) for i in range(4)]
    for i, v in enumerate(made):
        store(kind, to + i * step, v)


@part
def slopes(kind, p, to, n, m, a, b, s, span):  # type: ignore[no-untyped-def]
    """Gradients of the n classes from p on, as if none was the target; `to` may be p."""
    w, size = lanes(kind), itemsize(kind)
    m, a, b, s = splat(kind, m), splat(kind, a), splat(kind, b), splat(kind, s)
    # The last vector, which may begin early, is made first: in place, its scores vanish.
    last = _slope_vector(kind, p + (n - w) * size, m, a, b, s, span)
    column = 0
    while column + 4 * w <= n:
        _slope_group(kind, p + column * size, to + column * size, m, a, b, s, span)
        column += 4 * w
    while column + w < n:
        store(kind, to + column * size, _slope_vector(kind, p + column * size, m, a, b, s, span))
        column += w
    store(kind, to + (n - w) * size, last)


@part
def stream(to, source, size):  # type: ignore[no-untyped-def]
    """Copy bytes past the caches; lines written in part go the ordinary way."""
    i = 0
    while i < size and (to + i) & 63:
        copy_byte(to + i, source + i)
        i += 1
    while i + 64 <= size:
        stream_line(to + i, source + i)
        i += 64
    while i < size:
        copy_byte(to + i, source + i)
        i += 1


@part
def scatter(kind, to, step, source, n):  # type: ignore[no-untyped-def]
    """Scores that lie together, to where they are `step` bytes apart."""
    for j in range(n):
        store_one(kind, to + j * step, load_one(kind, source + j * itemsize(kind)))


@part
def _row_gradient(kind, p, dx, dc, C, t, m, a, b, aim, s, span, past, held):  # type: ignore[no-untyped-def]
    """Write a row's gradient to dx, past the caches if so said; `held` has its terms, or is 0."""
    size = itemsize(kind)
    if not past and dc == size:
        if held:
            slopes_of(kind, p, held, dx, C, a, b, s, span)
        else:
            slopes(kind, p, dx, C, m, a, b, s, span)
        store_one(kind, dx + t * size, aim)
        return
    buffer = stack(_BUFFER)
    column = 0
    while column < C:
        n = C - column
        if n >= CHUNK + 64:  # end at a line's end, so that no line is written by two chunks
            n = CHUNK - ((dx + column * dc) & 63) // size
        if held:
            here = held + column * slot(kind)
            slopes_of(kind, p + column * size, here, buffer, n, a, b, s, span)
        else:
            slopes(kind, p + column * size, buffer, n, m, a, b, s, span)
        if 0 <= t - column < n:
            store_one(kind, buffer + (t - column) * size, aim)
        if dc == size:
            stream(dx + column * size, buffer, n * size)
        else:
            scatter(kind, dx + column * dc, dc, buffer, n)
        column += n


@part
def clear(kind, p, step, C):  # type: ignore[no-untyped-def]
    """A row of exact zeros."""
    for j in range(C):
        store_one(kind, p + j * step, 0.0)


@word
def target(kind: Kind, x: Num, m: Num) -> Num:
    """y_t of a logit, p_t of a probability, in the dtype of the reference m."""
    x = x.to(m.typ)
    return fma(x, log2e(kind), 0.0 - m) if kind.scores == ScoreKind.LOGITS else x


@word
def reads_rows(kind: Kind) -> Num:
    """Whether more of a row than its target is needed for its loss."""
    return fact(kind.smooth or kind.scores != ScoreKind.CLIP)


@word
def holds_terms(kind: Kind) -> Num:
    """Whether terms are kept for the gradient: where they cost more than reading them back."""
    return fact(kind.scores == ScoreKind.LOGITS)


@word
def is_smooth(kind: Kind) -> Num:
    """Whether labels are smoothed."""
    return fact(kind.smooth)


@word
def is_logits(kind: Kind) -> Num:
    """Whether the scores are logits."""
    return fact(kind.scores == ScoreKind.LOGITS)


@word
def fair(kind: Kind, value: Num) -> Num:
    """Whether a loss is finite and large enough that it needs no second, exact look.

    Terms that are no normal numbers beside the target's are 0 in the sums: millions of them are
    less than a rounding of a loss 2**46 (in float64 2**82) times the least normal number.
    """
    least = 2.0**-940 if kind.format.wide else 2.0**-80
    return (value >= least) & (value < math.inf)


@word
def _unsure(kind: Kind, a: Num, aim: Num, share: Num) -> Num:
    """Whether `aim` is to be taken exactly."""
    return cancels(kind, a, aim, share) if may_cancel(kind) else fact(False)


@word
def slot(kind: Kind) -> int:
    """Bytes of a loss."""
    return kind.format.element.bitwidth // 8


@part
def rows(
    kind, C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, notes, share, span,
    past, work,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """C >= MEDIUM, and any C that has a whole vector."""
    held = only_with(dx, work)
    o, i = first // inner, first % inner
    for k in range(last - first):
        t = fetch_label(y + 4 * k)
        p = x + o * xo + i * xi
        value, factor = 0.0, 1.0
        if dx is not None:
            factor = fetch_factor(g + 8 * k)
        if t >= 0:
            rest, hit, before, whole = 0.0, 0.0, 0.0, False
            if reads_rows(kind):
                rest, hit, before, whole, marked = _row_sums(kind, p, C, t, span, held)
                if marked:
                    note(kind, p, xc, C, t, -1, first + k, notes)
            rest, hit, m = settled(kind, rest, hit, before)
            at = target(kind, load_one(kind, p + t * itemsize(kind)), m)
            s = whole_sum(kind, rest, hit)
            flat, count = 0.0, 0.0
            if is_smooth(kind):
                flat, count = _row_gist(kind, p, C, m, s, span)
                flat = mean(kind, flat, count, C, at)
            value = loss(kind, rest, hit, at, flat, share, span)
            usual = not is_logits(kind) or fair(kind, value)
            if not usual:
                value, m, rest, hit, count = exact_sums(kind, p, xc, C, t, share, factor)
        keep(out + k * slot(kind), rounded(kind, value))
        if dx is not None:
            q = dx + o * do + i * di
            if t < 0 or factor == 0.0:
                clear(kind, q, dc, C)
            elif usual:
                a, b, aim = lines(kind, rest, hit, at, count, C, share, factor, span)
                if _unsure(kind, a, aim, share):
                    aim = exact_target(kind, p, xc, C, t, share, factor, span)
                terms = 0
                if holds_terms(kind) and whole and m - before <= FAR:
                    terms, a = held, rescaled(kind, a, before, m)
                _row_gradient(kind, p, q, dc, C, t, m, a, b, aim, s, span, past, terms)
            else:
                exact_gradient(kind, p, xc, q, dc, C, t, m, rest, hit, count, share, factor)
        i += 1
        if i == inner:
            i = 0
            o += 1
    if dx is not None and past:
        fence()
