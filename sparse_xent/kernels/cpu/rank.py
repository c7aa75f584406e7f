"""Ranks: how many classes score above the label, which is all that accuracies need of a row."""

from sparse_xent.kernels.arithmetic import anywhere, integers, lanes, select, splat, total
from sparse_xent.kernels.cpu.compiler import inlined
from sparse_xent.kernels.cpu.vectors import fetch_label, indices, keep, load_one, load_some
from sparse_xent.kernels.formulas import KernelSpec
from sparse_xent.kernels.staging import Value, primitive


@primitive
def _above(
    spec: KernelSpec, x: Value, x_t: Value, c: Value, t: Value, live: Value, count: Value
) -> Value:
    """One more in lanes where a class from c on ranks above the target."""
    lane = indices(spec) + c.to(spec.format.integers)
    higher = (x > x_t) | ((x == x_t) & (lane < t.to(spec.format.integers)))
    count = count + select(higher & (indices(spec) < live), integers(spec, 1), 0)
    return count


@primitive
def _unordered(spec: KernelSpec, x: Value, live: Value) -> Value:
    return anywhere((x != x) & (indices(spec) < live))


@inlined
def rank(spec, C, inner, first, last, x, xo, xc, xi, y, out):
    """Ranks of positions first .. last - 1 into int64 at `out`; C for NaN rows, -1 for y < 0."""
    w = lanes(spec)
    o, i = first // inner, first % inner
    for k in range(last - first):
        t = fetch_label(y + 4 * k)
        p = x + o * xo + i * xi
        result = -1
        if t >= 0:
            x_t = splat(spec, load_one(spec, p + t * xc))
            count = integers(spec, 0)
            flawed = False
            c = 0
            while c < C:
                scores = load_some(spec, p + c * xc, xc, C - c)
                flawed = flawed or _unordered(spec, scores, C - c)
                count = _above(spec, scores, x_t, c, t, C - c, count)
                c += w
            result = C if flawed else int(total(count))
        keep(out + 8 * k, result)
        i += 1
        if i == inner:
            i = 0
            o += 1
