"""The one-hot sibling's formulas, plain: targets a[outer, C, inner] in the place of labels.

Logits: loss = sum_j a_j (logsumexp(x) - x_j); probabilities are normalised before they are
clipped: loss = -sum_j a_j log r_j, r = clip(p / sum p). 0 * inf is 0: a class without weight does
not count, whatever its score. Sums go by halves, as in `portable`, and the maximum is left out of
the sum of exponentials for the same reason as the target is there.
"""

from typing import Any

import numpy as np

from sparse_xent.engines.numpy_formulas import sum_by_halves, widen
from sparse_xent.kernels import ScoreKind

Array = Any


def nll_and_grad(
    x: Array, a: Array, *, scores: ScoreKind, smoothing: float, eps: float
) -> tuple[Array, Array]:
    """Losses [outer, inner] of soft targets, in nats, and their gradient [outer, C, inner].

    Args:
        x: scores [outer, C, inner], any float dtype.
        a: targets [outer, C, inner], not negative.
        scores: LOGITS or NORMALIZE_CLIP.
        smoothing: label smoothing s: the targets become (1 - s) a + s / C.
        eps: probabilities are clipped to [eps, 1 - eps], rounded to the arithmetic's dtype.

    Returns:
        Both, in float64 for float64 scores, else float32.
    """
    with np.errstate(all="ignore"):
        x = widen(x)
        a = (1 - smoothing) * a.astype(x.dtype) + x.dtype.type(smoothing / x.shape[1])
        loss, dx = _logits(x, a) if scores == ScoreKind.LOGITS else _before(x, a, eps)
        return loss[:, 0], dx


def _logits(x: Array, a: Array) -> tuple[Array, Array]:
    top = x.argmax(axis=1)[:, None]
    m = np.take_along_axis(x, top, axis=1)
    e = np.exp(x - m)
    np.put_along_axis(e, top, np.where(np.isfinite(m), 0, np.nan), axis=1)
    rest = sum_by_halves(e.copy())
    mass = sum_by_halves(a.copy())
    missed = sum_by_halves(np.where(a == 0, 0, 2 * a * (m * 0.5 - x * 0.5)))
    loss = mass * np.log1p(rest) + missed
    dx = mass * e / (1 + rest) - a
    # mass * p - a at the maximum, without the cancellation: p = 1 - rest / (1 + rest).
    a_top = np.take_along_axis(a, top, axis=1)
    np.put_along_axis(dx, top, (mass - a_top) - mass * rest / (1 + rest), axis=1)
    return loss, dx


def _before(p: Array, a: Array, eps: float) -> tuple[Array, Array]:
    lo, hi = p.dtype.type(eps), p.dtype.type(1 - eps)
    total = sum_by_halves(p.copy())
    total = np.where(np.isfinite(total) & (total != 0), total, np.nan)
    share = p / total
    r = np.clip(share, lo, hi) + p.dtype.type(0)  # -0 becomes 0
    m = (share >= lo) & (share <= hi)
    loss = -sum_by_halves(np.where(a == 0, 0 * total, a * np.log(r)))
    passed = sum_by_halves(np.where(m, a, 0))
    return loss, (passed - np.where(m & (a != 0), a / r, 0)) / total
