"""Strided: whatever has its classes apart: channels first, R's matrices, rows of any other kind.

A thread owns neighbouring positions, 16 bytes of a class, or one position.
Classes are read in order. What a thread needs of each of its positions (label, weight, the target's
score) is first put into shared memory, lane by lane, and read from there as a vector.
"""

import math

from sparse_xent.kernels.arithmetic import lane_size, rounded, select, splat
from sparse_xent.kernels.cuda import intrinsics as gpu
from sparse_xent.kernels.cuda.epilogue import finish_loss, finish_sums, record
from sparse_xent.kernels.cuda.formulas import (
    FAR,
    class_gradient,
    empty,
    exp,
    shrink,
    smoothing_terms,
    term,
    too_far,
)
from sparse_xent.kernels.cuda.geometry import SCRATCH_BLOCK, STRIDED_LANE
from sparse_xent.kernels.cuda.position import (
    BAD,
    factor,
    inlined,
    label,
    reduce_sums,
    scale,
    weight,
)
from sparse_xent.kernels.formulas import gradient_coefficients, is_smooth

RUN = 64
"""Classes that are added up before their sum joins the others': no sum is long in float32."""


@inlined
def _add_terms(spec, x, c, t, m, run, others, clip_range):
    """One class's terms onto the sums, targets left out."""
    here = gpu.is_class(t, c)
    x = gpu.hide_where(spec, x, here)
    if too_far(spec, x, m):
        up = select(x - m > FAR, x, m)
        run = run * exp(m - up)
        others = others * exp(m - up)
        m = up
    return m, run + gpu.drop_where(spec, term(spec, x, m, clip_range), here), others


@inlined
def _sums(spec, at, step, classes, t, clip_range):
    """References and sums of a thread's positions."""
    m, others = empty(splat(spec, 0.0)), splat(spec, 0.0)
    c = 0
    while c < classes:
        run = splat(spec, 0.0)
        end = min(classes, c + RUN)
        while c + 4 <= end:
            a = gpu.load_positions(spec, at + c * step)
            b = gpu.load_positions(spec, at + (c + 1) * step)
            d = gpu.load_positions(spec, at + (c + 2) * step)
            e = gpu.load_positions(spec, at + (c + 3) * step)
            m, run, others = _add_terms(spec, a, c, t, m, run, others, clip_range)
            m, run, others = _add_terms(spec, b, c + 1, t, m, run, others, clip_range)
            m, run, others = _add_terms(spec, d, c + 2, t, m, run, others, clip_range)
            m, run, others = _add_terms(spec, e, c + 3, t, m, run, others, clip_range)
            c += 4
        while c < end:
            x = gpu.load_positions(spec, at + c * step)
            m, run, others = _add_terms(spec, x, c, t, m, run, others, clip_range)
            c += 1
        others = others + run
    return m, others


@inlined
def _smoothing_sums(spec, at, step, classes, m, s, clip_range):
    """The sums of the smoothing terms."""
    total, count, tiny = splat(spec, 0.0), splat(spec, 0.0), shrink(spec, classes)
    c = 0
    while c < classes:
        run = splat(spec, 0.0)
        end = min(classes, c + RUN)
        while c < end:
            x = gpu.load_positions(spec, at + c * step)
            y, one = smoothing_terms(spec, x, m, s, tiny, clip_range)
            run = run + y
            count = count + one
            c += 1
        total = total + run
    return total, count


@inlined
def _gradient(
    spec, at, step, to, to_step, classes, t, dead, m, la, lb, target_gradient, s, clip_range
):
    """Write the gradient of a thread's positions; exact zeros where g is 0."""
    zero = splat(spec, 0.0)
    c = 0
    while c < classes:
        d = class_gradient(spec, gpu.load_positions(spec, at + c * step), m, la, lb, s, clip_range)
        d = select(gpu.is_class(t, c), target_gradient, d)
        gpu.store_positions(spec, to + c * to_step, select(dead, zero, d))
        c += 1


@inlined
def strided(spec, a):
    """Positions side by side, classes apart."""
    clip_range = rounded(spec, a.lo), rounded(spec, a.hi)
    smoothing = rounded(spec, a.smoothing)
    many, one = gpu.positions(spec), lane_size(spec)
    groups = a.inner // many
    # Of each position of a thread: label, weight, and a number of the arithmetic.
    labels_at = (
        gpu.base() + SCRATCH_BLOCK * (gpu.threads() // 32) + STRIDED_LANE * many * gpu.thread()
    )
    weights_at = labels_at + 8 * many
    numbers_at = weights_at + 8 * many
    each = scale(a) if gpu.makes_gradient(spec) else 0.0
    total, kept, weights = 0.0, 0.0, 0.0
    g = gpu.block() * gpu.threads() + gpu.thread()
    while g < a.count // many:
        o = gpu.divide(g, groups) if a.count < 1 << 32 else g // groups
        i = (g - o * groups) * many
        at = a.x + o * a.xo + i * a.xi
        k = 0
        while k < many:
            t = label(a, o, i + k, o * a.inner + i + k, True)
            w = weight(a, o, i + k, o * a.inner + i + k, t, True)
            gpu.put(labels_at + 8 * k, t)
            gpu.put(weights_at + 8 * k, w)
            x = gpu.load_one(spec, at + k * a.xi + max(t, 0) * a.xc)
            gpu.put_lane(spec, numbers_at + one * k, x)
            k += 1
        t_s = gpu.get_labels(spec, labels_at)
        x_t = gpu.get_lanes(spec, numbers_at)
        m, others = _sums(spec, at, a.xc, a.classes, t_s, clip_range)
        others, target_term, m, s = finish_sums(spec, others, m, x_t, clip_range)
        sum_, count = splat(spec, 0.0), splat(spec, 0.0)
        if is_smooth(spec):
            sum_, count = _smoothing_sums(spec, at, a.xc, a.classes, m, s, clip_range)
        value = finish_loss(
            spec, others, target_term, m, x_t, sum_, count, a.classes, smoothing, clip_range
        )
        gpu.put_lanes(spec, numbers_at, value)
        k = 0
        while k < many:
            t, w = gpu.get(t, labels_at + 8 * k), gpu.get(w, weights_at + 8 * k)
            loss = gpu.get(smoothing, numbers_at + one * k)
            total, kept, weights = record(a, o, i + k, t, w, loss, total, kept, weights)
            if gpu.makes_gradient(spec):
                f = factor(a, o, i + k, w, each)
                f = math.nan if t == BAD else f
                gpu.put_lane(spec, numbers_at + one * k, f)
            k += 1
        if gpu.makes_gradient(spec):
            gs = gpu.get_lanes(spec, numbers_at)
            dead = gs == 0.0
            la, lb, target_gradient = gradient_coefficients(
                spec, others, target_term, x_t, count, a.classes, smoothing, gs, clip_range
            )
            _gradient(
                spec, at, a.xc, a.dx + o * a.do + i * a.di, a.dc, a.classes,
                t_s, dead, m, la, lb, target_gradient, s, clip_range,
            )  # fmt: skip
        g += gpu.blocks() * gpu.threads()
    reduce_sums(a, gpu.base(), total, kept, weights)
