"""Tiles: as many rows as there are lanes, finished together, one row a lane.

For few classes (`tile`) the rows are turned in registers, so that each vector holds one class of
all rows; for more (`medium`) each row is walked along itself and only its sums are turned. Either
way the logarithms, which would cost a short row more than its exponentials, are taken by lanes.
"""

import math

from sparse_xent.kernels import Scores
from sparse_xent.kernels.algebra import (
    Kind,
    Span,
    gist,
    lines,
    log2e,
    loss,
    reference,
    slope,
    term,
    whole_sum,
)
from sparse_xent.kernels.exact import exact_gradient, exact_sums
from sparse_xent.kernels.native import MEDIUM, TILE
from sparse_xent.kernels.parts import part
from sparse_xent.kernels.rows import (
    AHEAD,
    clear,
    fair,
    is_logits,
    is_smooth,
    scatter,
    slot,
    stream,
)
from sparse_xent.kernels.simd import (
    LINE,
    Num,
    Room,
    anywhere,
    copy_byte,
    copy_line,
    fact,
    fence,
    fetch,
    fetch_factor,
    fetch_factors,
    fetch_label,
    fetch_labels,
    fetch_one,
    fma,
    gather_panel,
    indices,
    integers,
    itemsize,
    keep,
    keep_label,
    lanes,
    like,
    load,
    load_one,
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
    store,
    store_one,
    word,
)

_LINES = Room(LINE * 16)  # one number a row and class vector, for as many rows as there are lanes
_TURNED = Room(LINE * (TILE + 8))
_SQUARE = Room(LINE * 16)
_ROWS = Room(16 * (TILE + 4) * 8 + 2 * LINE)
_STREAM = Room(16 * MEDIUM * 8 + 2 * LINE)


@word
def _panel(kind: Kind) -> int:
    """Classes that are turned at once."""
    return kind.format.lanes // 4


@word
def _target(kind: Kind, x: Num, m: Num) -> Num:
    """y_t of a logit, p_t of a probability."""
    return fma(x, log2e(kind), 0.0 - m) if kind.scores == Scores.LOGITS else x


@word
def _tile_reference(kind: Kind, top: Num) -> Num:
    return reference(kind, top) if kind.scores == Scores.LOGITS else splat(kind, 0.0)


@word
def _mean(kind: Kind, sum_: Num, count: Num, classes: Num) -> Num:
    """The mean over classes, or over those that are not -inf."""
    return sum_ / (count if kind.scores == Scores.LOGITS else like(sum_, classes))


@part
def _copy(to, source, size):  # type: ignore[no-untyped-def]
    for i in range(size):
        copy_byte(to + i, source + i)


@part
def tile(kind, C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, share, span, past):  # type: ignore[no-untyped-def]
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
        if count < w or done + w >= end:
            # The last tile is taken from a copy: nothing may be read behind it.
            for r in range(w):
                if r < count:
                    _copy(spare + r * row, p + r * step, row)
                    keep_label(lent + 4 * r, fetch_label(labels + 4 * r))
                    if dx is not None:
                        keep(lent_g + 8 * r, fetch_factor(factors + 8 * r))
                else:
                    keep_label(lent + 4 * r, -1)
            p, step, labels, factors = spare, row, lent, lent_g
        t = fetch_labels(kind, labels)
        for line in range(0, w * row, LINE):
            prefetch(p + (AHEAD + line))
        c = 0
        while c < C:
            gather_panel(kind, p + c * size, step, turned + LINE * c)
            c += panel
        m = splat(kind, 0.0)
        if is_logits(kind):
            m = splat(kind, -math.inf)
            for c in range(C):
                m = maximum(fetch(kind, turned + LINE * c), m)
            m = reference(kind, m)
        rest, x_t = splat(kind, 0.0), splat(kind, 0.0)
        for c in range(C):
            rest, x_t, e = _class(kind, turned, t, c, m, span, rest, x_t)
            if dx is not None:
                keep(terms + LINE * c, e)
        hit, at = term(kind, x_t, m, span), _target(kind, x_t, m)
        s = whole_sum(kind, rest, hit)
        total, alive = splat(kind, 0.0), splat(kind, 0.0)
        if is_smooth(kind):
            for c in range(C):
                more = gist(kind, fetch(kind, turned + LINE * c), m, s, span)
                total += more[0]
                alive += more[1]
            total = _mean(kind, total, alive, C)
        value = loss(kind, rest, hit, at, total, share, span)
        value = select(t < 0, splat(kind, 0.0), value)
        odd = unusual(kind, select(t < 0, splat(kind, 1.0), value))
        if dx is not None:
            factor = fetch_factors(kind, factors)
            a, b, aim = lines(kind, rest, hit, at, alive, C, share, factor, span)
            off = (t < integers(kind, 0)) | (factor == splat(kind, 0.0))
            for c in range(C):
                _class_slope(kind, turned, terms, t, c, m, a, b, aim, off, s, span)
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
                    v, mm, rr, hh, cc = exact_sums(kind, p + r * step, size, C, label, share)
                    keep(values + r * slot(kind), rounded(kind, v))
                    if dx is not None:
                        factor1 = fetch_factor(factors + 8 * r)
                        if factor1 != 0.0:
                            exact_gradient(
                                kind,
                                p + r * step,
                                size,
                                made + r * row,
                                size,
                                C,
                                label,
                                mm,
                                rr,
                                hh,
                                cc,
                                share,
                                factor1,
                            )
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


@word
def _class(
    kind: Kind, turned: Num, t: Num, c: Num, m: Num, span: Span, rest: Num, x_t: Num
) -> tuple[Num, Num, Num]:
    """One class of all rows: its terms, onto the sums but for the target's."""
    x = fetch(kind, turned + c * LINE)
    e = term(kind, x, m, span)
    here = t == c.to(t.typ)
    return rest + select(here, 0.0, e), select(here, x, x_t), e


@word
def _class_slope(
    kind: Kind,
    turned: Num,
    terms: Num,
    t: Num,
    c: Num,
    m: Num,
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
    if kind.scores != Scores.LOGITS:
        return fact(False)
    return anywhere(select(fair(kind, value), like(value, 0.0), 1.0) > 0.0)


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


@word
def _top_vector(kind: Kind, p: Num, top: Num) -> Num:
    return maximum(load(kind, p), top)


@word
def _sum_vector(
    kind: Kind, p: Num, ahead: Num, t: Num, begin: Num, m: Num, span: Span, rest: Num
) -> Num:
    prefetch(p + ahead)
    e = term(kind, load(kind, p), m, span)
    lane = indices(kind)
    return rest + select((lane >= begin) & (lane != t), e, 0.0)


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


@word
def _slope_at(kind: Kind, p: Num, m: Num, a: Num, b: Num, s: Num, span: Span) -> Num:
    x = load(kind, p)
    return slope(kind, x, term(kind, x, m, span), a, b, s, span).to(kind.format.vector)


@part
def medium(
    kind, C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, share, span, past
):  # type: ignore[no-untyped-def]
    """TILE < C < MEDIUM."""
    w, size = lanes(kind), itemsize(kind)
    square, more = stack(_SQUARE), stack(_SQUARE)
    labels, factors, targets, values = stack(_LINES), stack(_LINES), stack(_LINES), stack(_LINES)
    ms, ss, aa, bb, aims = stack(_LINES), stack(_LINES), stack(_LINES), stack(_LINES), stack(_LINES)
    made = stack(_STREAM)
    one = slot(kind)
    row = C * size
    keep(factors, splat(kind, 0.0))
    done, end = 0, 0
    x_step, dx_step, p, qd = 0, 0, x, dx
    while done < last - first:
        if done == end:
            end, p, x_step = _run(inner, first, last, done, x, xo, xi)
            if dx is not None:
                end, qd, dx_step = _run(inner, first, last, done, dx, do, di)
        rows = minimum(w, end - done)
        ahead = rows * x_step
        for r in range(w):
            label, score = -1, 0.0
            if r < rows:
                label = fetch_label(y + 4 * (done + r))
                score = float(load_one(kind, p + r * x_step + maximum(label, 0) * size))
                if dx is not None:
                    keep(factors + 8 * r, fetch_factor(g + 8 * (done + r)))
            keep_label(labels + 4 * r, label)
            keep(targets + one * r, rounded(kind, score))
        m = splat(kind, 0.0)
        if is_logits(kind):
            for r in range(rows):
                q = p + r * x_step
                top = load(kind, q + (C - w) * size)
                column = 0
                while column + w < C:
                    top = _top_vector(kind, q + column * size, top)
                    column += w
                keep(square + LINE * r, top)
            m = reference(kind, row_maxima(kind, square))
        keep(ms, m)
        for r in range(rows):
            q, t, mr = p + r * x_step, fetch_label(labels + 4 * r), _line(kind, ms, r)
            u, v = splat(kind, 0.0), splat(kind, 0.0)
            column = 0
            while column + 2 * w <= C:
                u = _sum_vector(kind, q + column * size, ahead, t - column, 0, mr, span, u)
                column += w
                v = _sum_vector(kind, q + column * size, ahead, t - column, 0, mr, span, v)
                column += w
            while column < C:
                at = minimum(column, C - w)
                u = _sum_vector(kind, q + at * size, ahead, t - at, column - at, mr, span, u)
                column = at + w
            keep(square + LINE * r, u + v)
        rest, x_t, t = row_totals(kind, square), fetch(kind, targets), fetch_labels(kind, labels)
        hit, at_ = term(kind, x_t, m, span), _target(kind, x_t, m)
        s = whole_sum(kind, rest, hit)
        keep(ss, s)
        mean, alive = splat(kind, 0.0), splat(kind, 0.0)
        if is_smooth(kind):
            for r in range(rows):
                q, mr, sr = p + r * x_step, _line(kind, ms, r), _line(kind, ss, r)
                sums = splat(kind, 0.0), splat(kind, 0.0)
                column = 0
                while column < C:
                    at = minimum(column, C - w)
                    sums = _gist_vector(kind, q + at * size, column - at, mr, sr, span, sums)
                    column = at + w
                keep(square + LINE * r, sums[0])
                keep(more + LINE * r, sums[1])
            mean, alive = row_totals(kind, square), row_totals(kind, more)
            mean = _mean(kind, mean, alive, C)
        value = loss(kind, rest, hit, at_, mean, share, span)
        value = select(t < 0, splat(kind, 0.0), value)
        keep(values, value)
        odd = unusual(kind, select(t < 0, splat(kind, 1.0), value))
        if dx is not None:
            factor = fetch_factors(kind, factors)
            a, b, aim = lines(kind, rest, hit, at_, alive, C, share, factor, span)
            keep(aa, a)
            keep(bb, b)
            keep(aims, aim)
            for r in range(rows):
                q, mr, sr = p + r * x_step, _line(kind, ms, r), _line(kind, ss, r)
                ar, br = _line(kind, aa, r), _line(kind, bb, r)
                to = made + r * row
                t1 = fetch_label(labels + 4 * r)
                if t1 < 0 or fetch_factor(factors + 8 * r) == 0.0:
                    clear(kind, to, size, C)
                    continue
                v = float(fetch_one(kind, values + r * one))
                if odd and not fair(kind, v):
                    v, mm, rr, hh, cc = exact_sums(kind, q, size, C, t1, share)
                    keep(values + r * one, rounded(kind, v))
                    exact_gradient(
                        kind,
                        q,
                        size,
                        to,
                        size,
                        C,
                        t1,
                        mm,
                        rr,
                        hh,
                        cc,
                        share,
                        fetch_factor(factors + 8 * r),
                    )
                    continue
                column = 0
                while column < C:
                    at = minimum(column, C - w)
                    d = _slope_at(kind, q + at * size, mr, ar, br, sr, span)
                    store(kind, to + at * size, d)
                    column = at + w
                store_one(kind, to + t1 * size, fetch_one(kind, aims + r * one))
        if odd:
            for r in range(rows):
                v, t1 = float(fetch_one(kind, values + r * one)), fetch_label(labels + 4 * r)
                if t1 >= 0 and not fair(kind, v):
                    v, mm, rr, hh, cc = exact_sums(kind, p + r * x_step, size, C, t1, share)
                    keep(values + r * one, rounded(kind, v))
        if rows == w:
            keep(out + done * one, fetch(kind, values))
        else:
            for r in range(rows):
                keep(out + (done + r) * one, fetch_one(kind, values + r * one))
        if dx is not None:
            _write_rows(kind, qd, dx_step, dc, made, rows, C, past)
            qd += rows * dx_step
        p += rows * x_step
        done += rows
    if dx is not None and past:
        fence()
