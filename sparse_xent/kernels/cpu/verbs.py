"""The compiled engine's four verbs: `portable`'s, on memory.

Whichever walk suits how the scores lie does the work: `rows`, `tiles`, `strided` or `picked`. A
call stays on its caller's thread; whole losses are cut and carried by many in `carry`, where
labels and weights are lowered beside the very same kernels.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels.cpu import abi

Array = npt.NDArray[Any]


def nll(
    x: Array, y: Array, *, scores: ScoreKind, smoothing: float, eps: float, out: Array | None = None
) -> Array:
    """Negative log-likelihood of each label, in nats; exactly 0 where y < 0.

    Args:
        x: scores [outer, C, inner], native float16, bfloat16, float32 or float64, any strides.
        y: labels [outer, inner], integers below C; negative means ignored.
        scores: what x holds.
        smoothing: label smoothing s, 0 <= s <= 1.
        eps: probabilities are clipped to [eps, 1 - eps], rounded to the arithmetic's dtype.
        out: where the losses go, [outer, inner], any float dtype; a new array if None.

    Returns:
        The losses [outer, inner], in float64 for float64 scores, else float32 (or `out`).
    """
    return _given(_carried(x, y, None, None, scores, smoothing, eps), out)


def nll_grad(
    x: Array,
    y: Array,
    g: Array,
    *,
    scores: ScoreKind,
    smoothing: float,
    eps: float,
    out: Array | None = None,
) -> Array:
    """Derivative of g * nll with respect to the scores; rows of exact zeros where g == 0 or y < 0.

    Args:
        x: scores [outer, C, inner], native float16, bfloat16, float32 or float64, any strides.
        y: labels [outer, inner], integers below C; negative means ignored.
        g: factor of each position's gradient, [outer, inner].
        scores: what x holds.
        smoothing: label smoothing s, 0 <= s <= 1.
        eps: probabilities are clipped to [eps, 1 - eps], rounded to the arithmetic's dtype.
        out: where the gradient goes, [outer, C, inner], of x's dtype, x itself too; a new array
            if None.

    Returns:
        The gradient [outer, C, inner], in x's dtype.
    """
    return nll_and_grad(x, y, g, scores=scores, smoothing=smoothing, eps=eps, out=out)[1]


def nll_and_grad(
    x: Array,
    y: Array,
    g: Array,
    *,
    scores: ScoreKind,
    smoothing: float,
    eps: float,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """Both `nll` and `nll_grad`, from one look at the scores.

    Args:
        x: scores [outer, C, inner], native float16, bfloat16, float32 or float64, any strides.
        y: labels [outer, inner], integers below C; negative means ignored.
        g: factor of each position's gradient, [outer, inner].
        scores: what x holds.
        smoothing: label smoothing s, 0 <= s <= 1.
        eps: probabilities are clipped to [eps, 1 - eps], rounded to the arithmetic's dtype.
        out: where the gradient goes, [outer, C, inner], of x's dtype, x itself too; a new array
            if None.

    Returns:
        The losses [outer, inner], not scaled by g, and the gradient [outer, C, inner].
    """
    dx = np.empty_like(x) if out is None else out
    return _carried(x, y, g, dx, scores, smoothing, eps), dx


def rank(x: Array, y: Array, *, out: Array | None = None) -> Array:
    """How many classes stand above the label: a greater score, or an equal one at a lower index.

    Args:
        x: scores [outer, C, inner], native float16, bfloat16, float32 or float64, any strides.
        y: labels [outer, inner], integers below C; negative means ignored.
        out: where the ranks go, [outer, inner], int64; a new array if None.

    Returns:
        The ranks [outer, inner], int64: 0 where the label has the first maximum, C (wrong at
        every k) where the row holds a NaN, -1 where y < 0.
    """
    _, classes, inner = x.shape
    made, labels = np.empty(y.shape, np.int64), np.ascontiguousarray(y, np.int32)
    lines, ranks = labels.ctypes.data, made.ctypes.data
    ranked = abi.rank(x.dtype.name)
    ranked(classes, inner, 0, y.size, x.ctypes.data, *x.strides, lines, ranks)
    return _given(made, out)


def _carried(
    x: Array,
    y: Array,
    g: Array | None,
    dx: Array | None,
    scores: ScoreKind,
    smoothing: float,
    eps: float,
) -> Array:
    """The losses; the gradient goes into dx, where there is one."""
    _, classes, inner = x.shape
    own = np.dtype(np.float64 if x.dtype == np.float64 else np.float32)
    labels, made = np.ascontiguousarray(y, np.int32), np.empty(y.shape, own)
    factors = None if g is None else np.ascontiguousarray(g, np.float64)
    walk = abi.choose_kernel(
        x.dtype.name, scores, smoothing > 0, classes, inner, x.strides[1:], x.nbytes
    )
    span = float(own.type(eps)), float(own.type(1 - eps))
    to: tuple[int, ...]
    scores_at = x.ctypes.data, *x.strides, labels.ctypes.data, made.ctypes.data
    if dx is None or factors is None:
        call, to, past = abi.kernel(walk.forward()), (0,) * 5, False
    else:
        call, to = abi.kernel(walk.both()), (dx.ctypes.data, *dx.strides, factors.ctypes.data)
        past = walk.past and dx.ctypes.data != x.ctypes.data
    scratch = abi.scratch.at
    call(classes, inner, 0, y.size, *scores_at, *to, 0, smoothing, *span, past, scratch)
    return made


def _given(made: Array, out: Array | None) -> Array:
    if out is None:
        return made
    np.copyto(out, made, casting="unsafe")
    return out
