"""Strided: the positions lie together, the classes apart (channels first, Fortran order).

A block of positions is summed class by class, four classes at a time, so that each class is read
in long runs; the sums so far of each position stay in the first-level cache. Every lane is a
position, and its additions come in the order of classes, so its bits depend on its own scores
alone. A position's reference begins at its first score, and is raised where a term overflows. The
kernel takes any strides: where positions do not lie together either, lanes are read one by one.
"""

import math

from sparse_xent.kernels import arithmetic as ops
from sparse_xent.kernels.cpu import vectors as vec
from sparse_xent.kernels.cpu.abi import LINE
from sparse_xent.kernels.cpu.compiler import inlined, outlined
from sparse_xent.kernels.cpu.epilogue import (
    WRITTEN,
    exact_rows,
    finish_loss,
    finish_sums,
    row_coefficients,
    store_losses,
    without_ignored,
)
from sparse_xent.kernels.cpu.implausible import note, some_are_odd
from sparse_xent.kernels.cpu.memory import fills_lines, only_with, shifted, until_line
from sparse_xent.kernels.cpu.references import (
    add_term,
    first_reference,
    join_exponents,
    nan_if_overflowed,
    overflowed,
    scaled_down,
    suspicious,
    where_overflowed,
    with_overflow,
)
from sparse_xent.kernels.formulas import (
    ClipRange,
    KernelSpec,
    class_gradient,
    smoothing_terms,
    term,
)
from sparse_xent.kernels.staging import Value, primitive

BLOCK = 512  # positions: their sums are 8 KiB, beside four classes of 2 KiB each
_STATE = vec.StackBytes(BLOCK * 8 + 5 * LINE)
_VALUES = vec.StackBytes(LINE)


# Sums ------------------------------------------------------------------------------------------

State = tuple[Value, Value]


@primitive
def _prefetch_four(spec: KernelSpec, q: Value, apart: Value) -> None:
    """Prefetch the next four classes of the positions at q."""
    for i in range(4, 8):
        vec.prefetch(q + apart * i)


@primitive
def _load_four(
    spec: KernelSpec, q: Value, apart: Value, step: Value, count: Value
) -> tuple[Value, Value, Value, Value]:
    return tuple(vec.load_some(spec, q + apart * i, step, count) for i in range(4))


@primitive
def _add(value: Value, sum_: Value, lost: Value) -> tuple[Value, Value]:
    """One number onto a sum whose rounding errors are kept and put back (Kahan)."""
    more = value - lost
    grown = sum_ + more
    return grown, (grown - sum_) - more


@primitive
def _add_classes(
    spec: KernelSpec,
    x: tuple[Value, ...],
    c: Value,
    t: Value,
    m: Value,
    clip_range: ClipRange,
    state: State,
) -> tuple[State, Value]:
    """Terms of neighbouring classes onto the sum, but for the target's; and their exponents."""
    zero = ops.splat(spec, 0.0)
    sums, exponents = [zero, zero], ops.bits(zero)
    for i, v in enumerate(x):
        sum_ = sums[i % 2]
        added, exponents, _ = add_term(spec, v, m, clip_range, sum_, exponents)
        sums[i % 2] = ops.select(t == (c + i).to(t.typ), sum_, added)
    state = _add(sums[0] + sums[1], *state)
    return state, with_overflow(spec, exponents, state[0])


@outlined
def _raise(spec, q, xc, xi, count, classes, m_at, sum_at, lost_at, exponents_at):
    """Give lanes where these classes' exponents show an overflow a new reference."""
    m, top = vec.fetch(spec, m_at), vec.load_some(spec, q, xi, count)
    for c in range(1, classes):
        top = ops.maximum(vec.load_some(spec, q + c * xc, xi, count), top)
    exponents = vec.fetch_integers(spec, exponents_at)
    raised = where_overflowed(spec, exponents, ops.maximum(m, first_reference(spec, top)), m)
    vec.keep(m_at, raised)
    vec.keep(sum_at, scaled_down(vec.fetch(spec, sum_at), m - raised))
    vec.keep(lost_at, scaled_down(vec.fetch(spec, lost_at), m - raised))


@inlined
def _sums(spec, C, n, p, xc, xi, ms, sums, losts, labels, clip_range):
    """Sum a block of n positions; returns all exponents."""
    w, one = ops.lanes(spec), ops.lane_size(spec)
    zero, every = ops.splat(spec, 0.0), ops.integers(spec, 0)
    flags = vec.stack_alloc(_VALUES)
    for v in range(0, n, w):
        vec.keep(ms + v * one, first_reference(spec, vec.load_some(spec, p + v * xi, xi, n - v)))
        vec.keep(sums + v * one, zero)
        vec.keep(losts + v * one, zero)
    c, again = 0, False
    while c < C:
        four, v = c + 4 <= C, 0
        while v < n:
            q, at = p + c * xc + v * xi, v * one
            t, m = vec.fetch_labels(spec, labels + 4 * v), vec.fetch(spec, ms + at)
            state = vec.fetch(spec, sums + at), vec.fetch(spec, losts + at)
            if four:
                _prefetch_four(spec, q, xc)
                x = _load_four(spec, q, xc, xi, n - v)
                state, exponents = _add_classes(spec, x, c, t, m, clip_range, state)
            else:
                x1 = (vec.load_some(spec, q, xi, n - v),)
                state, exponents = _add_classes(spec, x1, c, t, m, clip_range, state)
            every = join_exponents(spec, every, exponents)
            if again:
                state = nan_if_overflowed(spec, state[0], exponents), state[1]
            elif overflowed(spec, exponents):
                vec.keep(flags, exponents)
                _raise(
                    spec, q, xc, xi, n - v, 4 if four else 1, ms + at, sums + at, losts + at, flags
                )
                again = True
                continue
            vec.keep(sums + at, state[0])
            vec.keep(losts + at, state[1])
            v, again = v + w, False
        c += 4 if four else 1
    return every


@inlined
def _smoothing_sums(spec, C, p, xc, xi, count, m, s, clip_range):
    """The sums of the smoothing terms of as many positions as there are lanes."""
    zero = ops.splat(spec, 0.0)
    sum_, lost, alive = zero, zero, zero
    for c in range(C):
        x = vec.load_some(spec, p + c * xc, xi, count)
        both = smoothing_terms(spec, x, m, s, clip_range)
        sum_, lost = _add(both[0], sum_, lost)
        lost = ops.select(sum_ > -math.inf, lost, zero)  # the log of a probability of 0: inf - inf
        alive += both[1]
    return sum_, alive


# Gradients -------------------------------------------------------------------------------------


@primitive
def _class_gradient(
    spec: KernelSpec,
    x: Value,
    e: Value,
    c: Value,
    t: Value,
    a: Value,
    b: Value,
    target_gradient: Value,
    s: Value,
    clip_range: ClipRange,
) -> Value:
    d = class_gradient(spec, x, e, a, b, s, clip_range)
    return ops.select(t < 0, 0.0, ops.select(t == c.to(t.typ), target_gradient, d))


@inlined
def _gradient(
    spec, C, n, p, xc, xi, to, dc, di, ms, ss, aa, bb, target_gradients, labels, clip_range,
    some_written, nontemporal,
):  # fmt: skip
    """Write a block's gradient, class by class, but for positions that are WRITTEN.

    Prefetching the next class, of scores and of gradients, takes a sixth off the time.
    """
    w, one = ops.lanes(spec), ops.lane_size(spec)
    whole_lines = nontemporal and fills_lines(spec, to, di, dc)
    for c in range(C):
        for v in range(0, n, w):
            at, place = v * one, to + c * dc + v * di
            t, q = vec.fetch_labels(spec, labels + 4 * v), p + c * xc + v * xi
            vec.prefetch(q + xc)
            x = vec.load_some(spec, q, xi, n - v)
            a, b, s = vec.fetch(spec, aa + at), vec.fetch(spec, bb + at), vec.fetch(spec, ss + at)
            e = term(spec, x, vec.fetch(spec, ms + at), clip_range)
            if not whole_lines:
                vec.prefetch(place + dc)
            target_gradient = vec.fetch(spec, target_gradients + at)
            d = _class_gradient(spec, x, e, c, t, a, b, target_gradient, s, clip_range)
            if some_written:
                d = ops.select(t == WRITTEN, vec.load_some(spec, place, di, n - v), d)
            if whole_lines and n - v >= w:
                vec.stream_vector(place, d)
            else:
                vec.store_some(spec, place, di, n - v, d)


# The kernel ------------------------------------------------------------------------------------


@inlined
def _read_labels(spec, n, y, labels):
    """Labels of a block; -1 in the lanes behind its last position."""
    for r in range(n):
        vec.keep_label(labels + 4 * r, vec.fetch_label(y + 4 * r))
    for r in range(n, (n + ops.lanes(spec) - 1) // ops.lanes(spec) * ops.lanes(spec)):
        vec.keep_label(labels + 4 * r, -1)


@inlined
def _read_targets(spec, n, p, xc, xi, labels, targets):
    """The targets' scores, which are in a cache by now; an ignored label's is that of class 0."""
    for r in range(n):
        c = ops.maximum(vec.fetch_label(labels + 4 * r), 0)
        vec.keep(targets + ops.lane_size(spec) * r, vec.load_one(spec, p + c * xc + r * xi))


@inlined
def _note(spec, C, n, p, xc, xi, labels, position, notes):
    """Look again at a block some of whose positions may not be probabilities."""
    w = ops.lanes(spec)
    for v in range(0, n, w):
        if some_are_odd(spec, p + v * xi, xc, xi, n - v, C):
            for r in range(v, ops.minimum(v + w, n)):
                label = vec.fetch_label(labels + 4 * r)
                note(spec, p + r * xi, xc, C, label, -1, position + r, notes)


@inlined
def _read_factors(count, g, factors, labels):
    """Factors of a vector of positions; where one is 0, the position counts as ignored."""
    for r in range(count):
        vec.keep(factors + 8 * r, vec.fetch_factor(g + 8 * r))
        if vec.fetch_factor(factors + 8 * r) == 0.0:
            vec.keep_label(labels + 4 * r, -1)


@inlined
def strided(
    spec, C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, notes,
    smoothing, clip_range, nontemporal, scratch,
):  # fmt: skip
    """Any strides: classes apart, or rows whose positions are not one step apart."""
    w, one = ops.lanes(spec), ops.lane_size(spec)
    ms, ss, sums = vec.stack_alloc(_STATE), vec.stack_alloc(_STATE), vec.stack_alloc(_STATE)
    losts, targets = vec.stack_alloc(_STATE), vec.stack_alloc(_STATE)
    labels, factors = vec.stack_alloc(_STATE), vec.stack_alloc(_STATE)
    values = vec.stack_alloc(_VALUES)
    aa, bb, target_gradients = sums, losts, targets  # what is no longer needed then
    k = 0
    while k < last - first:
        o, i = (first + k) // inner, (first + k) % inner
        n = ops.minimum(BLOCK, ops.minimum(inner - i, last - first - k))
        p, to = x + o * xo + i * xi, shifted(dx, o * do + i * di)
        if dx is not None and nontemporal:
            n = until_line(spec, to, di, dc, n)
        _read_labels(spec, n, y + 4 * k, labels)
        exponents = _sums(spec, C, n, p, xc, xi, ms, sums, losts, labels, clip_range)
        _read_targets(spec, n, p, xc, xi, labels, targets)
        if notes is not None and suspicious(spec, exponents):
            _note(spec, C, n, p, xc, xi, labels, first + k, notes)
        some_written = False
        for v in range(0, n, w):
            count, at, q, t_at = ops.minimum(w, n - v), v * one, p + v * xi, labels + 4 * v
            t, x_t = vec.fetch_labels(spec, t_at), vec.fetch(spec, targets + at)
            before = vec.fetch(spec, ms + at)
            others, target_term, m, target_score, s = finish_sums(
                spec, vec.fetch(spec, sums + at), term(spec, x_t, before, clip_range), before, x_t
            )
            sum_, alive = ops.splat(spec, 0.0), ops.splat(spec, 0.0)
            if smoothing is not None:
                sum_, alive = _smoothing_sums(spec, C, q, xc, xi, count, m, s, clip_range)
            value = finish_loss(
                spec, others, target_term, target_score, sum_, alive, C, smoothing, clip_range
            )
            value, inaccurate = without_ignored(spec, t, value)
            vec.keep(values, value)
            if dx is not None:
                _read_factors(count, g + 8 * (k + v), factors, t_at)
                a, b, target_gradient = row_coefficients(
                    spec, q, xi, xc, count, C, t_at, factors,
                    others, target_term, target_score, alive, smoothing, clip_range,
                )  # fmt: skip
                vec.keep(aa + at, a)
                vec.keep(bb + at, b)
                vec.keep(target_gradients + at, target_gradient)
                vec.keep(ss + at, s)
                vec.keep(ms + at, m)
            if inaccurate:
                some_written = exact_rows(
                    spec, values, y + 4 * (k + v), factors, q, xi, xc, shifted(to, v * di), di, dc,
                    count, C, smoothing, only_with(dx, t_at),
                ) or some_written  # fmt: skip
            store_losses(spec, out + (k + v) * one, values, count)
        if dx is not None:
            _gradient(
                spec, C, n, p, xc, xi, to, dc, di, ms, ss, aa, bb, target_gradients, labels,
                clip_range, some_written, nontemporal,
            )  # fmt: skip
        k += n
    if dx is not None and nontemporal:
        vec.fence()
