"""Picked: probabilities that are known to sum to one, of which a loss reads the target alone.

Serves every layout. What a gradient costs is the zeros around each target.
"""

from sparse_xent.kernels.cpu.abi import LINE
from sparse_xent.kernels.cpu.compiler import part
from sparse_xent.kernels.cpu.formulas import lines, loss, suspicious
from sparse_xent.kernels.cpu.implausible import note
from sparse_xent.kernels.cpu.rows import slot
from sparse_xent.kernels.cpu.tiles import _run, write
from sparse_xent.kernels.cpu.vectors import (
    Room,
    bits,
    fence,
    fetch,
    fetch_factor,
    fetch_factors,
    fetch_label,
    fetch_labels,
    fetch_one,
    integers,
    itemsize,
    keep,
    keep_label,
    lanes,
    load_one,
    maximum,
    minimum,
    prefetch,
    rounded,
    select,
    splat,
    stack,
    store_one,
)

BLOCK = 256  # positions: their targets are asked for together, then read
_ZEROS = Room(4096)
_BLOCK = Room(BLOCK * 8)


@part
def picked(
    kind, C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, notes, share, span,
    past, work,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """ScoreKind.CLIP without smoothing."""
    w, size, one = lanes(kind), itemsize(kind), slot(kind)
    zeros, nothing = stack(_ZEROS), splat(kind, 0.0)
    labels, targets, factors, aims = stack(_BLOCK), stack(_BLOCK), stack(_BLOCK), stack(_BLOCK)
    for i in range(0, 4096, LINE):
        keep(zeros + i, nothing)
    done, end = 0, 0
    x_step, dx_step, p, q = 0, 0, x, dx
    while done < last - first:
        if done == end:
            end, p, x_step = _run(inner, first, last, done, x, xo, xi)
            if dx is not None:
                end, q, dx_step = _run(inner, first, last, done, dx, do, di)
        n = minimum(BLOCK, end - done)
        for r in range(n):
            prefetch(p + r * x_step + maximum(fetch_label(y + 4 * (done + r)), 0) * xc)
        for r in range(n):
            t = fetch_label(y + 4 * (done + r))
            keep(
                targets + one * r,
                rounded(kind, load_one(kind, p + r * x_step + maximum(t, 0) * xc)),
            )
            keep_label(labels + 4 * r, t)
            if dx is not None:
                keep(factors + 8 * r, fetch_factor(g + 8 * (done + r)))
        for v in range(0, n, w):
            t, p_t = fetch_labels(kind, labels + 4 * v), fetch(kind, targets + one * v)
            if suspicious(kind, bits(p_t)):
                for r in range(v, minimum(v + w, n)):
                    label, here = fetch_label(labels + 4 * r), first + done + r
                    note(kind, p + r * x_step, xc, C, label, label, here, notes)
            value = loss(kind, nothing, nothing, p_t, nothing, share, span)
            value = select(t < integers(kind, 0), nothing, value)
            keep(targets + one * v, value)
            if dx is not None:
                factor = fetch_factors(kind, factors + 8 * v)
                _, _, aim = lines(kind, nothing, nothing, p_t, nothing, C, share, factor, span)
                keep(aims + one * v, select(factor == nothing, nothing, aim))
        write(out + one * done, targets, one * n, False)
        if dx is not None:
            if dc == size:
                for r in range(n):
                    at, left = q + r * dx_step, C * size
                    while left > 0:
                        some = minimum(left, 4096)
                        write(at, zeros, some, past)
                        at, left = at + some, left - some
            elif dx_step == size:
                for c in range(C):
                    write(q + c * dc, zeros, n * size, past)
            else:
                for r in range(n):
                    for c in range(C):
                        store_one(kind, q + r * dx_step + c * dc, 0.0)
            if past:
                fence()
            for r in range(n):
                t = fetch_label(labels + 4 * r)
                if t >= 0:
                    store_one(kind, q + r * dx_step + t * dc, fetch_one(kind, aims + one * r))
            q += n * dx_step
        p += n * x_step
        done += n
