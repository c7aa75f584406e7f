"""Tiles: as many rows as there are lanes, finished together, one row a lane.

For few classes (`tile`) the rows are turned in registers, so that each vector holds one class of
all rows; for more (`medium`) each row is walked along itself and only its sums are turned. Either
way the logarithms, which would cost a short row more than its exponentials, are taken by lanes.
"""

import math

from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels.cpu.abi import LINE, MEDIUM, TILE
from sparse_xent.kernels.cpu.compiler import part
from sparse_xent.kernels.cpu.exact_row import exact_gradient, exact_sums, exact_target
from sparse_xent.kernels.cpu.formulas import (
    Kind,
    Span,
    cancels,
    checked,
    far,
    first_reference,
    gist,
    higher,
    lifted,
    lines,
    loss,
    may_cancel,
    mean,
    near_enough,
    rescaled,
    settled,
    slope,
    suspicious,
    term,
    too_high,
    where_high,
    whole_sum,
)
from sparse_xent.kernels.cpu.implausible import note
from sparse_xent.kernels.cpu.rows import (
    AHEAD,
    clear,
    fair,
    holds_terms,
    is_smooth,
    scatter,
    slopes,
    slopes_of,
    slot,
    stream,
    target,
)
from sparse_xent.kernels.cpu.vectors import (
    Num,
    Room,
    anywhere,
    bits,
    copy_byte,
    copy_line,
    fact,
    fence,
    fetch,
    fetch_factor,
    fetch_factors,
    fetch_integers,
    fetch_label,
    fetch_labels,
    fetch_one,
    from_bits,
    gather_panel,
    indices,
    integer_size,
    integers,
    itemsize,
    keep,
    keep_label,
    lanes,
    like,
    load,
    load_one,
    load_some,
    mask_of,
    maximum,
    minimum,
    prefetch,
    rounded,
    row_maxima,
    row_totals,
    scatter_panel,
    select,
    splat,
    stack,
    store_one,
    word,
)

_LINES = Room(LINE * 16)  # one number a row and class vector, for as many rows as there are lanes
_TURNED = Room(LINE * (TILE + 8))
_SQUARE = Room(LINE * 16)
_NUMBERS = Room(LINE)  # a vector
_ROWS = Room(16 * (TILE + 4) * 8 + 2 * LINE)
_STREAM = 16 * MEDIUM * 8 + 2 * LINE  # bytes: a number for each class of a tile


@word
def _panel(kind: Kind) -> int:
    """Classes that are turned at once."""
    return kind.format.lanes // 4


@part
def _copy(to, source, size):  # type: ignore[no-untyped-def]
    for i in range(size):
        copy_byte(to + i, source + i)


@part
def tile(
    kind, C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, notes, share, span,
    past, work,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """C <= TILE."""
    w, size = lanes(kind), itemsize(kind)
    turned, terms = stack(_TURNED), stack(_TURNED)
    spare, lent, lent_g, made = stack(_ROWS), stack(_LINES), stack(_LINES), stack(_ROWS)
    values = stack(_LINES)
    row = C * size
    panel = _panel(kind)
    done, end = 0, 0
    x_step, dx_step, p, q = 0, 0, x, dx
    while done < last - first:
        if done == end:  # the next run of positions that are one step apart
            end, p, x_step = _run(inner, first, last, done, x, xo, xi)
            if dx is not None:
                end, q, dx_step = _run(inner, first, last, done, dx, do, di)
        count = minimum(w, end - done)
        next_p, step, labels, factors = p + count * x_step, x_step, y + 4 * done, 0
        if dx is not None:
            factors = g + 8 * done
        # A panel of fewer classes than it is wide reaches into the rows behind its own.
        within = panel <= C or (step == row and done + w + panel <= end)
        if count < w:  # a copy, so that there are as many rows as lanes
            for r in range(w):
                if r < count:
                    _copy(spare + r * row, p + r * step, row)
                    keep_label(lent + 4 * r, fetch_label(labels + 4 * r))
                    if dx is not None:
                        keep(lent_g + 8 * r, fetch_factor(factors + 8 * r))
                else:
                    keep_label(lent + 4 * r, -1)
            p, step, labels, factors, within = spare, row, lent, lent_g, True
        t = fetch_labels(kind, labels)
        for line in range(0, w * row, LINE):
            prefetch(p + (AHEAD + line))
        _turn(kind, C, p, step, within, turned)
        before = first_reference(kind, fetch(kind, turned))
        rest, x_t, heights = _walk(kind, C, turned, terms, t, before, span, dx is not None)
        if too_high(kind, heights):
            before = where_high(
                kind, heights, first_reference(kind, _highest(kind, C, turned)), before
            )
            rest, x_t, heights = _walk(kind, C, turned, terms, t, before, span, dx is not None)
            rest = checked(kind, rest, heights)
        if suspicious(kind, heights):
            for r in range(count):
                label, here = fetch_label(labels + 4 * r), first + done + r
                note(kind, p + r * step, size, C, label, -1, here, notes)
        rest, hit, m = settled(kind, rest, term(kind, x_t, before, span), before)
        at = target(kind, x_t, m)
        s = whole_sum(kind, rest, hit)
        total, alive = splat(kind, 0.0), splat(kind, 0.0)
        if is_smooth(kind):
            for c in range(C):
                more = gist(kind, fetch(kind, turned + LINE * c), m, s, span)
                total += more[0]
                alive += more[1]
            total = mean(kind, total, alive, C, at)
        value = loss(kind, rest, hit, at, total, share, span)
        value = select(t < 0, splat(kind, 0.0), value)
        odd = unusual(kind, select(t < 0, splat(kind, 1.0), value))
        if dx is not None:
            factor = fetch_factors(kind, factors)
            a, b, aim = lines(kind, rest, hit, at, alive, C, share, factor, span)
            aim = sure(kind, p, step, size, count, C, labels, factors, a, aim, share, span)
            if far(kind, before, m):
                before = near_enough(before, m)
                _walk(kind, C, turned, terms, t, before, span, True)
            a = rescaled(kind, a, before, m)
            off = (t < integers(kind, 0)) | (factor == splat(kind, 0.0))
            for c in range(C):
                _class_slope(kind, turned, terms, t, c, a, b, aim, off, s, span)
            c = (C - 1) // panel * panel
            while c >= 0:  # what the last panel writes past its row's end, the others mend
                scatter_panel(kind, turned + LINE * c, made + c * size, row)
                c -= panel
        keep(values, value)
        if odd:
            for r in range(count):
                v = float(fetch_one(kind, values + r * slot(kind)))
                label = fetch_label(labels + 4 * r)
                if label >= 0 and not fair(kind, v):
                    factor1 = 1.0
                    if dx is not None:
                        factor1 = fetch_factor(factors + 8 * r)
                    v, mm, rr, hh, cc = exact_sums(
                        kind, p + r * step, size, C, label, share, factor1
                    )
                    keep(values + r * slot(kind), rounded(kind, v))
                    if dx is not None:
                        exact_gradient(
                            kind, p + r * step, size, made + r * row, size, C, label,
                            mm, rr, hh, cc, share, factor1,
                        )  # fmt: skip
        if count == w:
            keep(out + done * slot(kind), fetch(kind, values))
        else:
            for r in range(count):
                keep(out + (done + r) * slot(kind), fetch_one(kind, values + r * slot(kind)))
        if dx is not None:
            _write_rows(kind, q, dx_step, dc, made, count, C, past)
            q += count * dx_step
        p = next_p
        done += count
    if dx is not None and past:
        fence()


@part
def _turn(kind, C, p, step, within, turned):  # type: ignore[no-untyped-def]
    """Each class of a tile's rows as a vector: in panels, the last of which ends with its row.

    Where panels would not stay `within` the rows, numbers are read one by one.
    """
    size, panel = itemsize(kind), _panel(kind)
    if within:
        for c in range(0, C, panel):
            at = minimum(c, maximum(C - panel, 0))
            gather_panel(kind, p + at * size, step, turned + LINE * at)
    else:
        for c in range(C):
            keep(turned + LINE * c, load_some(kind, p + c * size, step, lanes(kind)))


@part
def _run(inner, first, last, done, x, xo, xi):  # type: ignore[no-untyped-def]
    """End of the run of positions that begins with first + done, its address and its step."""
    if inner == 1:
        return last - first, x + (first + done) * xo, xo
    o, i = (first + done) // inner, (first + done) % inner
    return minimum(last - first, done + inner - i), x + o * xo + i * xi, xi


@part
def _write_rows(kind, to, step, apart, source, count, C, past):  # type: ignore[no-untyped-def]
    """Rows that lie together, to where their classes are `apart`."""
    size = itemsize(kind)
    if apart == size and step == C * size:
        write(to, source, count * step, past)
    elif apart == size:
        for r in range(count):
            write(to + r * step, source + r * C * size, C * size, past)
    else:
        for r in range(count):
            scatter(kind, to + r * step, apart, source + r * C * size, C)


@part
def _walk(kind, C, turned, terms, t, m, span, held):  # type: ignore[no-untyped-def]
    """The sum of all rows' terms but the targets', the targets' scores, and all heights."""
    rest, x_t, heights = splat(kind, 0.0), splat(kind, 0.0), integers(kind, 0)
    for c in range(C):
        rest, x_t, heights, e = _class(kind, turned, t, c, m, span, rest, x_t, heights)
        if held:
            keep(terms + LINE * c, e)
    return rest, x_t, heights


@part
def _highest(kind, C, turned):  # type: ignore[no-untyped-def]
    """Each row's greatest score."""
    top = fetch(kind, turned)
    for c in range(1, C):
        top = maximum(fetch(kind, turned + LINE * c), top)
    return top


@word
def _class(
    kind: Kind, turned: Num, t: Num, c: Num, m: Num, span: Span, rest: Num, x_t: Num, heights: Num
) -> tuple[Num, Num, Num, Num]:
    """One class of all rows: its terms, onto the sums but for the target's.

    The target's score is or-ed in among zeros: on most processors that leaves the multipliers
    free, which a blend does not.
    """
    x = fetch(kind, turned + c * LINE)
    e, height = lifted(kind, x, m, span)
    here = t == c.to(t.typ)
    x_t = from_bits(bits(x_t) | bits(select(here, x, 0.0)))
    return rest + select(here, 0.0, e), x_t, higher(kind, heights, height), e


@word
def _class_slope(
    kind: Kind,
    turned: Num,
    terms: Num,
    t: Num,
    c: Num,
    a: Num,
    b: Num,
    aim: Num,
    off: Num,
    s: Num,
    span: Span,
) -> None:
    x = fetch(kind, turned + c * LINE)
    d = slope(kind, x, fetch(kind, terms + c * LINE), a, b, s, span)
    d = select(t == c.to(t.typ), aim, d)
    keep(turned + c * LINE, select(off, 0.0, d))


@word
def unusual(kind: Kind, value: Num) -> Num:
    """Whether some row's loss is to be taken exactly."""
    if kind.scores != ScoreKind.LOGITS:
        return fact(False)
    return anywhere(select(fair(kind, value), like(value, 0.0), 1.0) > 0.0)


@word
def _unsure(kind: Kind, a: Num, aim: Num, share: Num) -> Num:
    """Whether some row's `aim` is to be taken exactly."""
    return anywhere(cancels(kind, a, aim, share)) if may_cancel(kind) else fact(False)


@part
def sure(kind, p, step, apart, count, C, labels, factors, a, aim, share, span):  # type: ignore[no-untyped-def]
    """`aim`, taken exactly in the rows (at p, `step` apart) where its terms cancel."""
    if not _unsure(kind, a, aim, share):
        return aim
    aims, whole = stack(_NUMBERS), stack(_NUMBERS)
    keep(aims, aim)
    keep(whole, a)
    for r in range(count):
        at, t = r * slot(kind), fetch_label(labels + 4 * r)
        if t >= 0 and cancels(kind, fetch_one(kind, whole + at), fetch_one(kind, aims + at), share):
            factor = fetch_factor(factors + 8 * r)
            exact = exact_target(kind, p + r * step, apart, C, t, share, factor, span)
            keep(aims + at, rounded(kind, exact))
    return fetch(kind, aims)


@part
def write(to, source, size, past):  # type: ignore[no-untyped-def]
    """Copy bytes, past the caches if so said."""
    if past:
        stream(to, source, size)
        return
    i = 0
    while i + 64 <= size:
        copy_line(to + i, source + i)
        i += 64
    while i < size:
        copy_byte(to + i, source + i)
        i += 1


# More classes ----------------------------------------------------------------------------------

_REACH = MEDIUM + 16  # columns on either side of the target
_WINDOW = Room(8 * (2 * _REACH + 16))


@part
def _window(kind):  # type: ignore[no-untyped-def]
    """Address of masks of lanes: all bits set, but none for the one that is just there."""
    masks, size = stack(_WINDOW), integer_size(kind)
    for i in range(2 * _REACH + 16):
        keep(masks + i * size, mask_of(kind, i != _REACH))
    return masks + _REACH * size


@word
def _sum_vector(
    kind: Kind, p: Num, ahead: Num, masks: Num, m: Num, span: Span, rest: Num, heights: Num
) -> tuple[Num, Num, Num]:
    """A vector's terms but the target's onto a sum; the heights; and all its terms."""
    prefetch(p + ahead)
    e, height = lifted(kind, load(kind, p), m, span)
    kept = from_bits(bits(e) & fetch_integers(kind, masks))
    return rest + kept, higher(kind, heights, height), e


@word
def _last_vector(
    kind: Kind, p: Num, t: Num, begin: Num, m: Num, span: Span, rest: Num, heights: Num
) -> tuple[Num, Num, Num]:
    """The same of a row's last vector, whose first lanes were counted before."""
    e, height = lifted(kind, load(kind, p), m, span)
    lane = indices(kind)
    return rest + select((lane >= begin) & (lane != t), e, 0.0), higher(kind, heights, height), e


@word
def _top_vector(kind: Kind, p: Num, top: Num) -> Num:
    return maximum(load(kind, p), top)


@word
def _gist_vector(
    kind: Kind, p: Num, begin: Num, m: Num, s: Num, span: Span, sums: tuple[Num, Num]
) -> tuple[Num, Num]:
    live = indices(kind) >= begin
    both = gist(kind, load(kind, p), m, s, span)
    return tuple(a + select(live, v, 0.0) for a, v in zip(sums, both, strict=True))


@word
def _line(kind: Kind, address: Num, r: Num) -> Num:
    """Number r of a kept vector, in every lane."""
    return splat(kind, fetch_one(kind, address + r * (kind.format.element.bitwidth // 8)))


@part
def _sums(kind, C, p, step, rows, ahead, labels, ms, masks, square, highs, terms, span):  # type: ignore[no-untyped-def]
    """Walk along the rows of a tile: their sums by lanes into `square`, their heights into `highs`.

    Returns all heights.
    """
    w, size, one = lanes(kind), itemsize(kind), slot(kind)
    all_ = integers(kind, 0)
    for r in range(rows):
        heights, others = integers(kind, 0), integers(kind, 0)
        q, t, m = p + r * step, fetch_label(labels + 4 * r), _line(kind, ms, r)
        to, mask = terms + r * C * one, masks - t * one
        u, v = splat(kind, 0.0), splat(kind, 0.0)
        column = 0
        while column + 2 * w < C:
            u, heights, e = _sum_vector(kind, q + column * size, ahead, mask, m, span, u, heights)
            if terms:
                keep(to + column * one, e)
            column += w
            v, others, e = _sum_vector(
                kind, q + column * size, ahead, mask + LINE, m, span, v, others
            )
            if terms:
                keep(to + column * one, e)
            column += w
            mask += 2 * LINE
        while column < C:
            at = minimum(column, C - w)
            u, heights, e = _last_vector(
                kind, q + at * size, t - at, column - at, m, span, u, heights
            )
            if terms:
                keep(to + at * one, e)
            column = at + w
        keep(square + LINE * r, u + v)
        heights = higher(kind, heights, others)
        keep(highs + LINE * r, heights)
        all_ = higher(kind, all_, heights)
    return all_


@part
def _tops(kind, C, p, step, rows, square):  # type: ignore[no-untyped-def]
    """Each row's greatest score."""
    w, size = lanes(kind), itemsize(kind)
    for r in range(rows):
        q = p + r * step
        top = load(kind, q + (C - w) * size)
        for column in range(0, C - w, w):
            top = _top_vector(kind, q + column * size, top)
        keep(square + LINE * r, top)
    return row_maxima(kind, square)


@part
def _gists(kind, C, p, step, rows, ms, ss, square, more, span):  # type: ignore[no-untyped-def]
    """The sums of the second look at the rows of a tile, by lanes."""
    w, size = lanes(kind), itemsize(kind)
    for r in range(rows):
        q, m, s = p + r * step, _line(kind, ms, r), _line(kind, ss, r)
        sums = splat(kind, 0.0), splat(kind, 0.0)
        column = 0
        while column < C:
            at = minimum(column, C - w)
            sums = _gist_vector(kind, q + at * size, column - at, m, s, span, sums)
            column = at + w
        keep(square + LINE * r, sums[0])
        keep(more + LINE * r, sums[1])


@part
def medium(
    kind, C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, notes, share, span,
    past, work,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """TILE < C < MEDIUM."""
    w, size, one = lanes(kind), itemsize(kind), slot(kind)
    square, more, masks = stack(_SQUARE), stack(_SQUARE), _window(kind)
    highs = more  # looked at before `more` is needed
    labels, factors, targets, values = stack(_LINES), stack(_LINES), stack(_LINES), stack(_LINES)
    judged = stack(_LINES)
    ms, ss, aa, bb, aims = stack(_LINES), stack(_LINES), stack(_LINES), stack(_LINES), stack(_LINES)
    made, terms, direct = 0, 0, False
    if dx is not None:
        made, direct = work, dc == size and not past
        if holds_terms(kind):
            terms = work + _STREAM
    keep(factors, splat(kind, 0.0))
    for r in range(w):
        keep(square + LINE * r, splat(kind, 0.0))
    done, end = 0, 0
    x_step, dx_step, p, qd = 0, 0, x, dx
    while done < last - first:
        if done == end:
            end, p, x_step = _run(inner, first, last, done, x, xo, xi)
            if dx is not None:
                end, qd, dx_step = _run(inner, first, last, done, dx, do, di)
        rows = minimum(w, end - done)
        for r in range(w):
            label, score, begin = -1, 0.0, 0.0
            if r < rows:
                q, label = p + r * x_step, fetch_label(y + 4 * (done + r))
                begin = float(load_one(kind, q))
                score = float(load_one(kind, q + maximum(label, 0) * size))
                if dx is not None:
                    keep(factors + 8 * r, fetch_factor(g + 8 * (done + r)))
            keep_label(labels + 4 * r, label)
            keep(targets + one * r, rounded(kind, score))
            keep(ms + one * r, rounded(kind, begin))
        before, ahead = first_reference(kind, fetch(kind, ms)), rows * x_step
        keep(ms, before)
        heights = _sums(
            kind, C, p, x_step, rows, ahead, labels, ms, masks, square, highs, terms, span
        )
        lost = splat(kind, 0.0)
        if suspicious(kind, heights):
            for r in range(rows):
                if suspicious(kind, fetch_integers(kind, highs + LINE * r)):
                    label, here = fetch_label(labels + 4 * r), first + done + r
                    note(kind, p + r * x_step, size, C, label, -1, here, notes)
        if too_high(kind, heights):
            keep(values, first_reference(kind, _tops(kind, C, p, x_step, rows, square)))
            for r in range(rows):
                if too_high(kind, fetch_integers(kind, highs + LINE * r)):
                    keep(ms + one * r, fetch_one(kind, values + one * r))
            before = fetch(kind, ms)
            _sums(kind, C, p, x_step, rows, 0, labels, ms, masks, square, highs, terms, span)
            for r in range(rows):
                odd = too_high(kind, fetch_integers(kind, highs + LINE * r))
                keep(values + one * r, rounded(kind, math.nan if odd else 0.0))
            lost = fetch(kind, values)
        x_t, t = fetch(kind, targets), fetch_labels(kind, labels)
        rest, hit = row_totals(kind, square) + lost, term(kind, x_t, before, span)
        rest, hit, m = settled(kind, rest, hit, before)
        y_t, s = target(kind, x_t, m), whole_sum(kind, rest, hit)
        keep(ms, m)
        keep(ss, s)
        flat, alive = splat(kind, 0.0), splat(kind, 0.0)
        if is_smooth(kind):
            _gists(kind, C, p, x_step, rows, ms, ss, square, more, span)
            flat, alive = row_totals(kind, square), row_totals(kind, more)
            flat = mean(kind, flat, alive, C, y_t)
        value = loss(kind, rest, hit, y_t, flat, share, span)
        value = select(t < 0, splat(kind, 0.0), value)
        keep(values, value)
        odd = unusual(kind, select(t < 0, splat(kind, 1.0), value))
        if odd:  # before any gradient is written, which may be where the scores are
            keep(judged, value)
            for r in range(rows):
                v, t1 = float(fetch_one(kind, values + r * one)), fetch_label(labels + 4 * r)
                if t1 >= 0 and not fair(kind, v):
                    v, mm, rr, hh, cc = exact_sums(kind, p + r * x_step, size, C, t1, share, 1.0)
                    keep(values + r * one, rounded(kind, v))
        if dx is not None:
            a, b, aim = lines(
                kind, rest, hit, y_t, alive, C, share, fetch_factors(kind, factors), span
            )
            aim = sure(kind, p, x_step, size, rows, C, labels, factors, a, aim, share, span)
            if terms:
                if far(kind, before, m):
                    before = near_enough(before, m)
                    keep(ms, before)
                    _sums(
                        kind, C, p, x_step, rows, 0, labels, ms, masks, square, highs, terms, span
                    )
                    keep(ms, m)
                a = rescaled(kind, a, before, m)
            keep(aa, a)
            keep(bb, b)
            keep(aims, aim)
            for r in range(rows):
                q, t1, factor = (
                    p + r * x_step,
                    fetch_label(labels + 4 * r),
                    fetch_factor(factors + 8 * r),
                )
                to = qd + r * dx_step if direct else made + r * C * size
                if t1 < 0 or factor == 0.0:
                    clear(kind, to, size, C)
                elif odd and not fair(kind, float(fetch_one(kind, judged + r * one))):
                    v, mm, rr, hh, cc = exact_sums(kind, q, size, C, t1, share, factor)
                    exact_gradient(kind, q, size, to, size, C, t1, mm, rr, hh, cc, share, factor)
                else:
                    ar, br, sr = _line(kind, aa, r), _line(kind, bb, r), _line(kind, ss, r)
                    if terms:
                        slopes_of(kind, q, terms + r * C * one, to, C, ar, br, sr, span)
                    else:
                        slopes(kind, q, to, C, _line(kind, ms, r), ar, br, sr, span)
                    store_one(kind, to + t1 * size, fetch_one(kind, aims + r * one))
            if not direct:
                _write_rows(kind, qd, dx_step, dc, made, rows, C, past)
            qd += rows * dx_step
        if rows == w:
            keep(out + done * one, fetch(kind, values))
        else:
            for r in range(rows):
                keep(out + (done + r) * one, fetch_one(kind, values + r * one))
        p += rows * x_step
        done += rows
    if dx is not None and past:
        fence()
