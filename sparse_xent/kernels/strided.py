"""Strided: the positions lie together, the classes apart (channels first, Fortran order).

A block of positions is walked class by class, four classes at a time, so that each class is read
in long runs; what each position has gathered so far stays in the first-level cache. Every lane
is a position, and its additions come in the order of classes, so its bits depend on its own
scores alone. This walk takes any strides: where positions do not lie together either, lanes are
gathered one by one.
"""

import math

from sparse_xent.kernels.algebra import (
    Kind,
    Span,
    gist,
    lines,
    log2e,
    loss,
    reach,
    slope,
    term,
    whole_sum,
)
from sparse_xent.kernels.exact import exact_gradient, exact_sums
from sparse_xent.kernels.parts import part
from sparse_xent.kernels.rows import (
    CEILING,
    fair,
    is_logits,
    is_smooth,
    slot,
)
from sparse_xent.kernels.simd import (
    LINE,
    Num,
    Room,
    anywhere,
    fence,
    fetch,
    fetch_factor,
    fetch_factors,
    fetch_label,
    fetch_labels,
    fetch_one,
    floor,
    fma,
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
    whole_power,
    word,
)
from sparse_xent.kernels.tiles import _mean, _target, unusual, write

BLOCK = 512  # positions: what they gather is 8 KiB, beside four classes of 2 KiB each
_STATE = Room(BLOCK * 8)
_VALUES = Room(LINE)
_COPY = Room(96 * 1024)  # scores of a block, turned into gradients there
_REREAD = 256  # positions of a block with so many classes that they are read a second time


@word
def _ahead(kind: Kind, q: Num, apart: Num) -> None:
    """Ask for the next four classes of the positions at q."""
    for i in range(4, 8):
        prefetch(q + apart * i)


@word
def _scores(kind: Kind, q: Num, apart: Num, step: Num, count: Num) -> tuple[Num, Num, Num, Num]:
    return tuple(load_some(kind, q + apart * i, step, count) for i in range(4))


@word
def _above(kind: Kind, x: tuple[Num, ...], m: Num) -> Num:
    """Whether some score stands too far above its lane's reference."""
    return anywhere(fma(_top(x), log2e(kind), 0.0 - m) > CEILING)


def _top(x: tuple[Num, ...]) -> Num:
    top = x[0]
    for v in x[1:]:
        top = maximum(v, top)
    return top


@word
def _rescaled(kind: Kind, x: tuple[Num, ...], m: Num, rest: Num, lost: Num) -> tuple[Num, Num, Num]:
    """Lanes with too high a score get a new reference; NaN where it is out of reach."""
    top = _top(x)
    high = fma(top, log2e(kind), 0.0 - m) > CEILING
    raised = minimum(reach(kind), maximum(-reach(kind), floor(top * log2e(kind))))
    less = select(raised > m, whole_power(m - raised), math.nan)
    less = select(high, less, 1.0)
    return select(high, raised, m), rest * less, lost * less


@word
def _summed(
    kind: Kind, x: tuple[Num, ...], c: Num, t: Num, m: Num, span: Span, state: tuple[Num, Num, Num]
) -> tuple[Num, Num, Num]:
    """Terms onto the sum, whose rounding errors are kept and put back (Kahan); and the target."""
    rest, lost, x_t = state
    terms = []
    for i, v in enumerate(x):
        here = t == (c + i).to(t.typ)
        terms.append(select(here, 0.0, term(kind, v, m, span)))
        x_t = select(here, v, x_t)
    while len(terms) > 1:
        terms = [a + b for a, b in zip(terms[::2], terms[1::2], strict=True)]
    more = terms[0] - lost
    grown = rest + more
    return grown, (grown - rest) - more, x_t


@word
def _hold(kind: Kind, to: Num, apart: Num, x: tuple[Num, ...]) -> None:
    for i, v in enumerate(x):
        store(kind, to + apart * i, v)


@word
def _gradient(
    kind: Kind, x: Num, c: Num, t: Num, m: Num, a: Num, b: Num, aim: Num, s: Num, span: Span
) -> Num:
    d = slope(kind, x, term(kind, x, m, span), a, b, s, span)
    d = select(t == c.to(t.typ), aim, d)
    return select(t < 0, 0.0, d)


@part
def strided(
    kind, C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, share, span, past
):  # type: ignore[no-untyped-def]
    """Any strides: classes apart, or rows whose positions are not one step apart."""
    w, size, one = lanes(kind), itemsize(kind), slot(kind)
    ms, rests, losts, targets = stack(_STATE), stack(_STATE), stack(_STATE), stack(_STATE)
    labels, factors, values, copied = stack(_STATE), stack(_STATE), stack(_VALUES), stack(_COPY)
    aa, bb, aims, ss = rests, losts, targets, stack(_STATE)  # take the places of what is done with
    block, held = BLOCK, 0
    if dx is not None:
        block = minimum(BLOCK, (96 * 1024 // (C * size) // w - 1) * w)
        held = C
        if block < _REREAD:
            block, held = _REREAD, 0
    # Held classes are a line more than a block apart: a power of two would let them fall into
    # the same sets of the first-level cache (21 classes: 32 cycles for 32 bytes, now 28).
    held_step = (block + w) * size
    zero = splat(kind, 0.0)
    k = 0
    while k < last - first:
        o, i = (first + k) // inner, (first + k) % inner
        n = minimum(block, minimum(inner - i, last - first - k))
        p = x + o * xo + i * xi
        for v in range(0, n, w):
            keep(ms + v * one, splat(kind, -reach(kind)) if is_logits(kind) else zero)
            keep(rests + v * one, zero)
            keep(losts + v * one, zero)
            keep(targets + v * one, zero)
        for r in range(n):
            keep_label(labels + 4 * r, fetch_label(y + 4 * (k + r)))
        for r in range(n, (n + w - 1) // w * w):
            keep_label(labels + 4 * r, -1)

        c = 0
        while c < C:
            four = c + 4 <= C
            for v in range(0, n, w):
                q, at = p + c * xc + v * xi, v * one
                t, m = fetch_labels(kind, labels + 4 * v), fetch(kind, ms + at)
                state = fetch(kind, rests + at), fetch(kind, losts + at), fetch(kind, targets + at)
                if four:
                    _ahead(kind, q, xc)
                    scores = _scores(kind, q, xc, xi, n - v)
                    if is_logits(kind) and _above(kind, scores, m):
                        m, rest, lost = _rescaled(kind, scores, m, state[0], state[1])
                        state = rest, lost, state[2]
                        keep(ms + at, m)
                    state = _summed(kind, scores, c, t, m, span, state)
                    if held > 0:
                        _hold(kind, copied + c * held_step + v * size, held_step, scores)
                else:
                    score = (load_some(kind, q, xi, n - v),)
                    if is_logits(kind) and _above(kind, score, m):
                        m, rest, lost = _rescaled(kind, score, m, state[0], state[1])
                        state = rest, lost, state[2]
                        keep(ms + at, m)
                    state = _summed(kind, score, c, t, m, span, state)
                    if held > 0:
                        _hold(kind, copied + c * held_step + v * size, held_step, score)
                keep(rests + at, state[0])
                keep(losts + at, state[1])
                keep(targets + at, state[2])
            c += 4 if four else 1

        for v in range(0, n, w):
            count, at, q = minimum(w, n - v), v * one, p + v * xi
            t, m = fetch_labels(kind, labels + 4 * v), fetch(kind, ms + at)
            rest, x_t = fetch(kind, rests + at), fetch(kind, targets + at)
            hit, y_t = term(kind, x_t, m, span), _target(kind, x_t, m)
            s = whole_sum(kind, rest, hit)
            mean, alive = zero, zero
            if is_smooth(kind):
                state = zero, zero, zero
                for c in range(C):
                    both = gist(kind, load_some(kind, q + c * xc, xi, count), m, s, span)
                    state = _added(kind, both[0], state)
                    alive += both[1]
                mean = _mean(kind, state[0], alive, C)
            value = loss(kind, rest, hit, y_t, mean, share, span)
            value = select(t < 0, zero, value)
            keep(values, value)
            if dx is not None:
                for r in range(count):
                    keep(factors + 8 * r, fetch_factor(g + 8 * (k + v + r)))
                factor = fetch_factors(kind, factors)
                a, b, aim = lines(kind, rest, hit, y_t, alive, C, share, factor, span)
                keep(aa + at, a)
                keep(bb + at, b)
                keep(aims + at, aim)
                keep(ss + at, s)
                for r in range(count):
                    if fetch_factor(factors + 8 * r) == 0.0:
                        keep_label(labels + 4 * (v + r), -1)
            if unusual(kind, select(t < 0, splat(kind, 1.0), value)):
                for r in range(count):
                    t1, v1 = (
                        fetch_label(y + 4 * (k + v + r)),
                        float(fetch_one(kind, values + r * one)),
                    )
                    if t1 >= 0 and not fair(kind, v1):
                        v1, m1, rest1, hit1, alive1 = exact_sums(kind, q + r * xi, xc, C, t1, share)
                        keep(values + r * one, rounded(kind, v1))
                        if dx is not None and fetch_label(labels + 4 * (v + r)) >= 0:
                            # In place its scores vanish here, so it is left alone from now on.
                            exact_gradient(
                                kind,
                                q + r * xi,
                                xc,
                                dx + o * do + (i + v + r) * di,
                                dc,
                                C,
                                t1,
                                m1,
                                rest1,
                                hit1,
                                alive1,
                                share,
                                fetch_factor(factors + 8 * r),
                            )
                            keep_label(labels + 4 * (v + r), -2)
            if count == w:
                keep(out + (k + v) * one, fetch(kind, values))
            else:
                for r in range(count):
                    keep(out + (k + v + r) * one, fetch_one(kind, values + r * one))

        if dx is not None:
            qd = dx + o * do + i * di
            fits = held
            if held == 0:
                fits = 96 * 1024 // held_step
            c0 = 0
            while c0 < C:
                c1 = minimum(C, c0 + fits)
                if held == 0:
                    for c in range(c0, c1):
                        for v in range(0, n, w):
                            x1 = load_some(kind, p + c * xc + v * xi, xi, n - v)
                            store(kind, copied + (c - c0) * held_step + v * size, x1)
                for v in range(0, n, w):
                    at = v * one
                    t, m = fetch_labels(kind, labels + 4 * v), fetch(kind, ms + at)
                    a, b = fetch(kind, aa + at), fetch(kind, bb + at)
                    aim, s = fetch(kind, aims + at), fetch(kind, ss + at)
                    for c in range(c0, c1):
                        here = copied + (c - c0) * held_step + v * size
                        d = _gradient(kind, load(kind, here), c, t, m, a, b, aim, s, span)
                        store(kind, here, d)
                    if anywhere(t == integers(kind, -2)):
                        for c in range(c0, c1):
                            here = copied + (c - c0) * held_step + v * size
                            there = load_some(kind, qd + c * dc + v * di, di, n - v)
                            store(kind, here, select(t == -2, there, load(kind, here)))
                for c in range(c0, c1):
                    here = copied + (c - c0) * held_step
                    if di == size:
                        write(qd + c * dc, here, n * size, past)
                    else:
                        for v in range(0, n, w):
                            d = load(kind, here + v * size)
                            store_some(kind, qd + c * dc + v * di, di, n - v, d)
                c0 = c1
        k += n
    if dx is not None and past:
        fence()


@word
def _added(kind: Kind, value: Num, state: tuple[Num, Num, Num]) -> tuple[Num, Num, Num]:
    """One number onto a sum whose rounding errors are kept and put back (Kahan)."""
    sum_, lost, _ = state
    more = value - lost
    grown = sum_ + more
    return grown, (grown - sum_) - more, lost
