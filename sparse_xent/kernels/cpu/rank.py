"""Ranks: how many classes stand above the label, which is all that accuracies ask of a row."""

from sparse_xent.kernels.cpu.compiler import part
from sparse_xent.kernels.cpu.formulas import Kind
from sparse_xent.kernels.cpu.vectors import (
    Num,
    anywhere,
    fetch_label,
    indices,
    integers,
    keep,
    lanes,
    load_one,
    load_some,
    select,
    splat,
    total,
    word,
)


@word
def _above(kind: Kind, x: Num, x_t: Num, c: Num, t: Num, live: Num, count: Num) -> Num:
    """One more where a class from c on stands above the target's score; many more for a NaN."""
    lane = indices(kind) + c.to(kind.format.integers)
    higher = (x > x_t) | ((x == x_t) & (lane < t.to(kind.format.integers)))
    count = count + select(higher & (indices(kind) < live), integers(kind, 1), 0)
    return count


@word
def _unordered(kind: Kind, x: Num, live: Num) -> Num:
    return anywhere((x != x) & (indices(kind) < live))


@part
def rank(kind, C, inner, first, last, x, xo, xc, xi, y, out):  # type: ignore[no-untyped-def]
    """Ranks of positions first .. last - 1 into int64 at `out`; C for NaN rows, -1 for y < 0."""
    w = lanes(kind)
    o, i = first // inner, first % inner
    for k in range(last - first):
        t = fetch_label(y + 4 * k)
        p = x + o * xo + i * xi
        result = -1
        if t >= 0:
            x_t = splat(kind, load_one(kind, p + t * xc))
            count = integers(kind, 0)
            flawed = False
            c = 0
            while c < C:
                scores = load_some(kind, p + c * xc, xc, C - c)
                flawed = flawed or _unordered(kind, scores, C - c)
                count = _above(kind, scores, x_t, c, t, C - c, count)
                c += w
            result = C if flawed else int(total(count))
        keep(out + 8 * k, result)
        i += 1
        if i == inner:
            i = 0
            o += 1
