"""Gather: probabilities that are known to sum to one, of which a loss reads the target alone.

Serves every layout. What a gradient costs is the zeros around each target.
"""

from sparse_xent.kernels import arithmetic as ops
from sparse_xent.kernels.cpu import vectors as vec
from sparse_xent.kernels.cpu.abi import LINE
from sparse_xent.kernels.cpu.compiler import inlined
from sparse_xent.kernels.cpu.implausible import note
from sparse_xent.kernels.cpu.memory import clear, run_of_positions, write
from sparse_xent.kernels.cpu.references import suspicious
from sparse_xent.kernels.formulas import gradient_coefficients, loss

BLOCK = 256  # positions: their targets are prefetched together, then read
_ZEROS = vec.StackBytes(4096)
_NUMBERS = vec.StackBytes(BLOCK * 8)


@inlined
def _read_targets(spec, dx, n, p, x_step, xc, y, g, labels, targets, factors):
    """Labels and factors of n positions, and the scores of their targets."""
    for r in range(n):
        vec.prefetch(p + r * x_step + ops.maximum(vec.fetch_label(y + 4 * r), 0) * xc)
    for r in range(n):
        t = vec.fetch_label(y + 4 * r)
        x_t = vec.load_one(spec, p + r * x_step + ops.maximum(t, 0) * xc)
        vec.keep(targets + ops.lane_size(spec) * r, ops.rounded(spec, x_t))
        vec.keep_label(labels + 4 * r, t)
        if dx is not None:
            vec.keep(factors + 8 * r, vec.fetch_factor(g + 8 * r))


@inlined
def _write_zeros(spec, C, n, to, step, dc, zeros, nontemporal):
    """Gradients of n positions, all 0."""
    size = ops.itemsize(spec)
    if dc == size:
        for r in range(n):
            at, left = to + r * step, C * size
            while left > 0:
                some = ops.minimum(left, 4096)
                write(at, zeros, some, nontemporal)
                at, left = at + some, left - some
    elif step == size:
        for c in range(C):
            write(to + c * dc, zeros, n * size, nontemporal)
    else:
        for r in range(n):
            clear(spec, to + r * step, dc, C)


@inlined
def gather(
    spec, C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, notes,
    smoothing, clip_range, nontemporal, scratch,
):  # fmt: skip
    """ScoreKind.CLIP without smoothing."""
    w, one, nothing = ops.lanes(spec), ops.lane_size(spec), ops.splat(spec, 0.0)
    zeros, labels, targets = (
        vec.stack_alloc(_ZEROS),
        vec.stack_alloc(_NUMBERS),
        vec.stack_alloc(_NUMBERS),
    )
    factors, target_gradients = vec.stack_alloc(_NUMBERS), vec.stack_alloc(_NUMBERS)
    for i in range(0, 4096, LINE):
        vec.keep(zeros + i, nothing)
    done, end = 0, 0
    x_step, dx_step, p, to = 0, 0, x, dx
    while done < last - first:
        if done == end:
            end, p, x_step = run_of_positions(inner, first, last, done, x, xo, xi)
            if dx is not None:
                end, to, dx_step = run_of_positions(inner, first, last, done, dx, do, di)
        n = ops.minimum(BLOCK, end - done)
        _read_targets(
            spec, dx, n, p, x_step, xc, y + 4 * done, g + 8 * done, labels, targets, factors
        )
        for v in range(0, n, w):
            t, p_t = vec.fetch_labels(spec, labels + 4 * v), vec.fetch(spec, targets + one * v)
            if suspicious(spec, ops.bits(p_t)):
                for r in range(v, ops.minimum(v + w, n)):
                    label, here = vec.fetch_label(labels + 4 * r), first + done + r
                    note(spec, p + r * x_step, xc, C, label, label, here, notes)
            value = loss(spec, nothing, nothing, p_t, nothing, smoothing, clip_range)
            vec.keep(targets + one * v, ops.select(t < ops.integers(spec, 0), nothing, value))
            if dx is not None:
                factor = vec.fetch_factors(spec, factors + 8 * v)
                _, _, target_gradient = gradient_coefficients(
                    spec, nothing, nothing, p_t, nothing, C, smoothing, factor, clip_range
                )
                target_gradient = ops.select(factor == nothing, nothing, target_gradient)
                vec.keep(target_gradients + one * v, target_gradient)
        write(out + one * done, targets, one * n, False)
        if dx is not None:
            _write_zeros(spec, C, n, to, dx_step, dc, zeros, nontemporal)
            if nontemporal:
                vec.fence()
            for r in range(n):
                t = vec.fetch_label(labels + 4 * r)
                if t >= 0:
                    here = to + r * dx_step + t * dc
                    vec.store_one(spec, here, vec.fetch_one(spec, target_gradients + one * r))
            to += n * dx_step
        p += n * x_step
        done += n
