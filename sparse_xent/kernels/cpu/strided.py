"""Strided: the positions lie together, the classes apart (channels first, Fortran order).

A block of positions is walked class by class, four classes at a time, so that each class is read
in long runs; what each position has gathered so far stays in the first-level cache. Every lane
is a position, and its additions come in the order of classes, so its bits depend on its own
scores alone. A position's reference begins at its first score, and is raised where a term leaves
the range. This walk takes any strides: where positions do not lie together either, lanes are
gathered one by one.
"""

import math

from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels.cpu.abi import LINE
from sparse_xent.kernels.cpu.compiler import aside, part
from sparse_xent.kernels.cpu.exact_row import exact_gradient, exact_sums
from sparse_xent.kernels.cpu.formulas import (
    Kind,
    Span,
    checked,
    far,
    first_reference,
    gist,
    higher,
    lifted,
    lines,
    loss,
    lowered,
    mean,
    rescaled,
    settled,
    slope,
    suspicious,
    term,
    too_high,
    where_high,
    whole_sum,
)
from sparse_xent.kernels.cpu.implausible import note, some_are_odd
from sparse_xent.kernels.cpu.rows import fair, is_smooth, slot, target
from sparse_xent.kernels.cpu.tiles import sure, unusual
from sparse_xent.kernels.cpu.vectors import (
    Num,
    Room,
    bits,
    fact,
    fetch,
    fetch_factor,
    fetch_factors,
    fetch_label,
    fetch_labels,
    fetch_one,
    from_bits,
    integers,
    itemsize,
    keep,
    keep_label,
    lanes,
    load,
    load_some,
    maximum,
    minimum,
    prefetch,
    rounded,
    select,
    splat,
    stack,
    store,
    store_some,
    word,
)

BLOCK = 512  # positions: what they gather is 8 KiB, beside four classes of 2 KiB each
_STATE = Room(BLOCK * 8 + 5 * LINE)
_VALUES = Room(LINE)
HELD = 96 * 1024  # bytes: terms of a block, so that a gradient takes no second exponential


@word
def _ahead(kind: Kind, q: Num, apart: Num) -> None:
    """Ask for the next four classes of the positions at q."""
    for i in range(4, 8):
        prefetch(q + apart * i)


@word
def _four(kind: Kind, q: Num, apart: Num, step: Num, count: Num) -> tuple[Num, Num, Num, Num]:
    return tuple(load_some(kind, q + apart * i, step, count) for i in range(4))


@aside
def _raise(kind, q, xc, xi, count, classes, m_at, rest_at, lost_at, span):  # type: ignore[no-untyped-def]
    """Give lanes with a higher score among these classes a new reference."""
    m, top = fetch(kind, m_at), load_some(kind, q, xi, count)
    heights = lifted(kind, top, m, span)[1]
    for c in range(1, classes):
        x = load_some(kind, q + c * xc, xi, count)
        top, heights = maximum(x, top), heights | lifted(kind, x, m, span)[1]
    to = where_high(kind, heights, maximum(m, first_reference(kind, top)), m)
    keep(m_at, to)
    keep(rest_at, lowered(fetch(kind, rest_at), m - to))
    keep(lost_at, lowered(fetch(kind, lost_at), m - to))


State = tuple[Num, Num, Num]


@word
def _added(value: Num, sum_: Num, lost: Num) -> tuple[Num, Num]:
    """One number onto a sum whose rounding errors are kept and put back (Kahan)."""
    more = value - lost
    grown = sum_ + more
    return grown, (grown - sum_) - more


@word
def _summed(
    kind: Kind, x: tuple[Num, ...], c: Num, t: Num, m: Num, span: Span, state: State
) -> tuple[State, tuple[Num, ...], Num]:
    """Terms onto the sum, and the target.

    Returns the state, the terms and their heights. The target's score is or-ed in among zeros:
    on most processors that leaves the multipliers free, which a blend does not.
    """
    rest, lost, x_t = state
    terms, kept, heights = [], [], bits(splat(kind, 0.0))
    for i, v in enumerate(x):
        here = t == (c + i).to(t.typ)
        e, height = lifted(kind, v, m, span)
        heights = higher(kind, heights, height)
        terms.append(e)
        kept.append(select(here, 0.0, e))
        x_t = from_bits(bits(x_t) | bits(select(here, v, 0.0)))
    while len(kept) > 1:
        kept = [a + b for a, b in zip(kept[::2], kept[1::2], strict=True)]
    return (*_added(kept[0], rest, lost), x_t), tuple(terms), heights


@word
def _hold(kind: Kind, to: Num, apart: Num, x: tuple[Num, ...]) -> None:
    for i, v in enumerate(x):
        store(kind, to + apart * i, v)


@word
def _may_hold(kind: Kind) -> Num:
    """Whether a class's slope is made of its term alone, which memory's format holds."""
    return fact(kind.scores == ScoreKind.LOGITS and not kind.smooth and kind.format.itemsize > 2)


@word
def _slope(
    kind: Kind, x: Num, e: Num, c: Num, t: Num, a: Num, b: Num, aim: Num, s: Num, span: Span
) -> Num:
    d = slope(kind, x, e, a, b, s, span)
    return select(t < 0, 0.0, select(t == c.to(t.typ), aim, d))


@part
def _gather(kind, C, n, p, xc, xi, ms, rests, losts, targets, labels, span, held, step):  # type: ignore[no-untyped-def]
    """Walk a block of n positions; whether the terms held are under other references; and marks."""
    w, size, one = lanes(kind), itemsize(kind), slot(kind)
    zero, stale, marks = splat(kind, 0.0), False, integers(kind, 0)
    for v in range(0, n, w):
        keep(ms + v * one, first_reference(kind, load_some(kind, p + v * xi, xi, n - v)))
        keep(rests + v * one, zero)
        keep(losts + v * one, zero)
        keep(targets + v * one, zero)
    c, again = 0, False
    while c < C:
        four, v = c + 4 <= C, 0
        while v < n:
            q, at = p + c * xc + v * xi, v * one
            t, m = fetch_labels(kind, labels + 4 * v), fetch(kind, ms + at)
            state = fetch(kind, rests + at), fetch(kind, losts + at), fetch(kind, targets + at)
            to = held + c * step + v * size
            high = False
            if four:
                _ahead(kind, q, xc)
                x = _four(kind, q, xc, xi, n - v)
                state, terms, heights = _summed(kind, x, c, t, m, span, state)
                high = too_high(kind, heights)
                if held:
                    _hold(kind, to, step, terms)
            else:
                x1 = (load_some(kind, q, xi, n - v),)
                state, term1, heights = _summed(kind, x1, c, t, m, span, state)
                high = too_high(kind, heights)
                if held:
                    _hold(kind, to, step, term1)
            marks = higher(kind, marks, heights)
            if again:
                state = checked(kind, state[0], heights), state[1], state[2]
            elif high:
                _raise(
                    kind, q, xc, xi, n - v, 4 if four else 1, ms + at, rests + at, losts + at, span
                )
                stale, again = stale or c > 0, True
                continue
            keep(rests + at, state[0])
            keep(losts + at, state[1])
            keep(targets + at, state[2])
            v, again = v + w, False
        c += 4 if four else 1
    return stale, marks


@part
def _missed(kind, C, p, xc, xi, count, m, s, span):  # type: ignore[no-untyped-def]
    """The sums of the second look at as many positions as there are lanes."""
    zero = splat(kind, 0.0)
    sum_, lost, alive = zero, zero, zero
    for c in range(C):
        both = gist(kind, load_some(kind, p + c * xc, xi, count), m, s, span)
        sum_, lost = _added(both[0], sum_, lost)
        lost = select(sum_ > -math.inf, lost, zero)  # the log of a probability of 0: inf - inf
        alive += both[1]
    return sum_, alive


@part
def _descend(
    kind, C, n, p, xc, xi, to, dc, di, ms, ss, aa, bb, aims, labels, span, held, step, spared
):  # type: ignore[no-untyped-def]
    """Write a block's gradient, class by class; positions with label -2 have theirs already."""
    w, size, one = lanes(kind), itemsize(kind), slot(kind)
    for c in range(C):
        for v in range(0, n, w):
            at, place = v * one, to + c * dc + v * di
            t, b = fetch_labels(kind, labels + 4 * v), fetch(kind, bb + at)
            a, s, x = b, b, b
            if held:
                e = load(kind, held + c * step + v * size)
            else:
                a, s = fetch(kind, aa + at), fetch(kind, ss + at)
                x = load_some(kind, p + c * xc + v * xi, xi, n - v)
                e = term(kind, x, fetch(kind, ms + at), span)
            d = _slope(kind, x, e, c, t, a, b, fetch(kind, aims + at), s, span)
            if spared:
                d = select(t == -2, load_some(kind, place, di, n - v), d)
            store_some(kind, place, di, n - v, d)


@part
def strided(
    kind, C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, notes, share, span,
    past, work,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Any strides: classes apart, or rows whose positions are not one step apart."""
    w, size, one = lanes(kind), itemsize(kind), slot(kind)
    ms, rests, losts, targets = stack(_STATE), stack(_STATE), stack(_STATE), stack(_STATE)
    labels, values, factors = stack(_STATE), stack(_VALUES), stack(_STATE)
    aa, bb, aims, ss = rests, losts, targets, stack(_STATE)  # take the places of what is done with
    # Held classes are a line more than a block apart: a power of two would let them fall into
    # the same sets of the first-level cache (21 classes: 32 cycles for 32 bytes, now 28).
    held, step = 0, (BLOCK + w) * size
    if dx is not None and _may_hold(kind) and C * step <= HELD:
        held = work
    k = 0
    while k < last - first:
        o, i = (first + k) // inner, (first + k) % inner
        n = minimum(BLOCK, minimum(inner - i, last - first - k))
        p = x + o * xo + i * xi
        for r in range(n):
            keep_label(labels + 4 * r, fetch_label(y + 4 * (k + r)))
        for r in range(n, (n + w - 1) // w * w):
            keep_label(labels + 4 * r, -1)
        stale, marks = _gather(
            kind, C, n, p, xc, xi, ms, rests, losts, targets, labels, span, held, step
        )
        if suspicious(kind, marks):
            for v in range(0, n, w):
                if some_are_odd(kind, p + v * xi, xc, xi, n - v, C):
                    for r in range(v, minimum(v + w, n)):
                        label = fetch_label(labels + 4 * r)
                        note(kind, p + r * xi, xc, C, label, -1, first + k + r, notes)
        spared = False
        for v in range(0, n, w):
            count, at, q = minimum(w, n - v), v * one, p + v * xi
            t, x_t = fetch_labels(kind, labels + 4 * v), fetch(kind, targets + at)
            before = fetch(kind, ms + at)
            rest, hit, m = settled(
                kind, fetch(kind, rests + at), term(kind, x_t, before, span), before
            )
            s = whole_sum(kind, rest, hit)
            flat, alive = splat(kind, 0.0), splat(kind, 0.0)
            if is_smooth(kind):
                flat, alive = _missed(kind, C, q, xc, xi, count, m, s, span)
                flat = mean(kind, flat, alive, C, target(kind, x_t, m))
            value = loss(kind, rest, hit, target(kind, x_t, m), flat, share, span)
            value = select(t < 0, splat(kind, 0.0), value)
            keep(values, value)
            if dx is not None:
                for r in range(count):
                    keep(factors + 8 * r, fetch_factor(g + 8 * (k + v + r)))
                    if fetch_factor(factors + 8 * r) == 0.0:
                        keep_label(labels + 4 * (v + r), -1)
                factor = fetch_factors(kind, factors)
                y_t = target(kind, x_t, m)
                a, b, aim = lines(kind, rest, hit, y_t, alive, C, share, factor, span)
                here = labels + 4 * v
                aim = sure(kind, q, xi, xc, count, C, here, factors, a, aim, share, span)
                if held:  # the factor of terms as they are held takes the place of b, which is 0
                    stale = stale or far(kind, before, m)
                    b = rescaled(kind, a, before, m)
                keep(aa + at, a)
                keep(bb + at, b)
                keep(aims + at, aim)
                keep(ss + at, s)
                keep(ms + at, m)
            if unusual(kind, select(t < 0, splat(kind, 1.0), value)):
                for r in range(count):
                    t1 = fetch_label(y + 4 * (k + v + r))
                    v1 = float(fetch_one(kind, values + r * one))
                    if t1 >= 0 and not fair(kind, v1):
                        factor1 = 1.0
                        if dx is not None:
                            factor1 = fetch_factor(factors + 8 * r)
                        v1, m1, rest1, hit1, alive1 = exact_sums(
                            kind, q + r * xi, xc, C, t1, share, factor1
                        )
                        keep(values + r * one, rounded(kind, v1))
                        if dx is not None and fetch_label(labels + 4 * (v + r)) >= 0:
                            # In place its scores vanish here, so it is left alone from now on.
                            exact_gradient(
                                kind, q + r * xi, xc, dx + o * do + (i + v + r) * di, dc, C, t1,
                                m1, rest1, hit1, alive1, share, factor1,
                            )  # fmt: skip
                            keep_label(labels + 4 * (v + r), -2)
                            spared = True
            if count == w:
                keep(out + (k + v) * one, fetch(kind, values))
            else:
                for r in range(count):
                    keep(out + (k + v + r) * one, fetch_one(kind, values + r * one))
        if dx is not None:
            _descend(
                kind, C, n, p, xc, xi, dx + o * do + i * di, dc, di, ms, ss, aa, bb, aims, labels,
                span, 0 if stale else held, step, spared,
            )  # fmt: skip
        k += n
