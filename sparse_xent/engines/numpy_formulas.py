"""The plain engine: loss, gradient and rank as array operations, one line of mathematics a line.

It decides what right means for the fast engine, which is held against it, so it prefers the clear
form to the quick one. Two choices carry its accuracy:

- The target is left out of the sum. With e_j = exp(x_j - m), m the row's maximum, and
  rest = sum of e_j over j != t, the loss of a confident row is log1p(rest / e_t), which keeps its
  digits where log(sum) + m - x_t would round to 0. The gradient at t is -(rest / sum) likewise.
- Sums over classes go by halves: elementwise additions in an order set by C alone, so that a row
  has the same bits alone, in any batch and in any memory layout, with an error of log2(C) ulps.

Notation: x scores, y labels, t a row's label, m reference, e = exp(x - m), q clipped probabilities,
s label smoothing, g factor of a position's gradient; axis 1 is the class axis of [outer, C, inner].
"""

from typing import Any

import numpy as np

from sparse_xent.kernels import ScoreKind

Array = Any  # NumPy's; what array arithmetic returns has no better static type

# A block of 512 KiB (in the arithmetic's dtype) stays in the last-level cache, and is long beside
# the overhead of the some 40 array operations that it goes through.
BLOCK_BYTES = 1 << 19


def workspace(classes: int) -> int:
    """Bytes that a call needs beside its arguments and results, at most."""
    return 12 * max(BLOCK_BYTES, 8 * classes)  # some as float64 where the block is float32


def nll(
    x: Array, y: Array, *, scores: ScoreKind, smoothing: float, eps: float, out: Array | None = None
) -> Array:
    """Negative log-likelihood of each label, in nats; exactly 0 where y < 0.

    Args:
        x: scores [outer, C, inner], any float dtype.
        y: labels [outer, inner], integers below C; negative means ignored.
        scores: what x holds.
        smoothing: label smoothing s, 0 <= s <= 1.
        eps: probabilities are clipped to [eps, 1 - eps], rounded to the arithmetic's dtype.
        out: where the losses go, [outer, inner], any float dtype; a new array if None.

    Returns:
        The losses [outer, inner], in float64 for float64 scores, else float32 (or `out`).
    """
    with np.errstate(all="ignore"):
        return _store(_keep(y, _rows(x, y, scores, eps).nll(smoothing)), out)


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
    """Both `nll` and its gradient, times g, from one look at the scores.

    Rows of the gradient are exactly 0 where g == 0 or y < 0.

    Args:
        x: scores [outer, C, inner], any float dtype.
        y: labels [outer, inner], integers below C; negative means ignored.
        g: factor of each position's gradient, [outer, inner].
        scores: what x holds.
        smoothing: label smoothing s, 0 <= s <= 1.
        eps: probabilities are clipped to [eps, 1 - eps], rounded to the arithmetic's dtype.
        out: where the gradient goes, [outer, C, inner], any float dtype, x itself too; a new
            array if None.

    Returns:
        The losses [outer, inner], not scaled by g, and the gradient [outer, C, inner].
    """
    with np.errstate(all="ignore"):
        rows = _rows(x, y, scores, eps)
        loss = _keep(y, rows.nll(smoothing))
        return loss, _store(_scale(y, g, rows, smoothing), out)


def rank(x: Array, y: Array, *, out: Array | None = None) -> Array:
    """How many classes stand above the label: a greater score, or an equal one at a lower index.

    Args:
        x: scores [outer, C, inner], any float dtype.
        y: labels [outer, inner], integers below C; negative means ignored.
        out: where the ranks go, [outer, inner], int64; a new array if None.

    Returns:
        The ranks [outer, inner], int64: 0 where the label has the first maximum, C (wrong at
        every k) where the row holds a NaN, -1 where y < 0.
    """
    classes = x.shape[1]
    x = widen(x)
    t = np.maximum(y, 0)[:, None]
    x_t = np.take_along_axis(x, t, axis=1)
    before = np.arange(classes)[None, :, None] < t
    above = np.count_nonzero((x > x_t) | ((x == x_t) & before), axis=1)
    above = np.where(np.isnan(x).any(axis=1), classes, above)
    return _store(np.where(y < 0, -1, above), out)


class _Logits:
    """Rows of logits: loss = logsumexp(x) - sum_j a_j x_j, a = (1-s) onehot(t) + s/K.

    K counts the classes that are not -inf: those stand as if they were deleted. An inf or a NaN
    makes its whole row NaN by itself, for inf - inf is NaN.
    """

    def __init__(self, x: Array, t: Array) -> None:
        self.x, self.t, self.dtype = x, t, x.dtype
        self.m = x.max(axis=1, keepdims=True)
        self.e = np.exp(x - self.m)
        self.e_t = np.take_along_axis(self.e, t, axis=1)
        self.rest = _sum_without(self.e, t)
        self.sum = self.rest + self.e_t

    def nll(self, s: float) -> Array:
        # e_t >= rest only where the label has the maximum: x_t = m, and log1p keeps the digits.
        log_sum = np.where(self.e_t >= self.rest, np.log1p(self.rest / self.e_t), np.log(self.sum))
        x_t = np.take_along_axis(self.x, self.t, axis=1)
        if s == 0:
            return log_sum + (self.m - x_t)
        # Half the gap to the maximum: the gap itself may overflow where its share of s does not.
        half = self.m * 0.5 - self.x * 0.5
        alive, share = self._alive(s)
        missed = sum_by_halves(np.where(alive, half * (2 * share), 0))
        target = 0 if s == 1 else 2 * (1 - s) * (self.m * 0.5 - x_t * 0.5)  # 0 * inf would be NaN
        return log_sum + target + missed

    def grad(self, s: float) -> Array:
        dx = self.e / self.sum
        at_target = s - self.rest / self.sum
        if s > 0:
            alive, share = self._alive(s)
            dx -= np.where(alive, share, 0)
            at_target -= np.where(np.take_along_axis(alive, self.t, axis=1), share, 0)
        np.put_along_axis(dx, self.t, at_target, axis=1)
        return dx

    def signs(self, dx: Array, s: float) -> Array:
        """Of each slope: 0 only where it is exactly 0, not where its term is too small a number."""
        if s > 0:
            return np.sign(dx)
        alive = self.x != -np.inf
        signs = np.where((dx == 0) & alive, 1, np.sign(dx))
        alone = np.count_nonzero(alive, axis=1, keepdims=True) == np.take_along_axis(
            alive, self.t, axis=1
        )
        dx_t = np.take_along_axis(dx, self.t, axis=1)
        np.put_along_axis(signs, self.t, np.where(np.isnan(dx_t), dx_t, alone - 1), axis=1)
        return signs

    def _alive(self, s: float) -> tuple[Array, Array]:
        alive = self.x != -np.inf
        return alive, s / np.count_nonzero(alive, axis=1, keepdims=True).astype(self.x.dtype)


class _Probabilities:
    """Rows of probabilities: q lies in [lo, hi] after the clip, m_j = 1 where it let p_j pass."""

    def __init__(self, p: Array, t: Array, eps: float) -> None:
        # The bounds are rounded to the arithmetic's dtype: 1 - 1e-7 is 0.99999988 in float32.
        self.lo, self.hi = p.dtype.type(eps), p.dtype.type(1 - eps)
        self.p, self.t, self.dtype = p, t, p.dtype

    def _clip(self, p: Array) -> Array:
        return np.clip(p, self.lo, self.hi) + 0  # -0 becomes 0

    def _passed(self, p: Array) -> Array:
        return ((p >= self.lo) & (p <= self.hi)).astype(p.dtype)

    def _unblocked(self, dx: Array, p: Array) -> Array:
        """A gradient, 0 where the clip held p back, even where it is infinite; NaN stays NaN."""
        return np.where(((p < self.lo) | (p > self.hi)) & ~np.isnan(dx), 0, dx)

    def _target(self, p: Array) -> Array:
        return np.take_along_axis(p, self.t, axis=1)

    def signs(self, dx: Array, s: float) -> Array:
        """Of each slope."""
        return np.sign(dx)

    def _add_at_target(self, p: Array, value: Array) -> None:
        np.put_along_axis(p, self.t, self._target(p) + value, axis=1)


class _After(_Probabilities):
    """q = clip(p), loss = log S - sum_j a_j log q_j, S = sum_j q_j."""

    def __init__(self, p: Array, t: Array, eps: float) -> None:
        super().__init__(p, t, eps)
        self.q = self._clip(p)
        self.q_t = self._target(self.q)
        self.rest = _sum_without(self.q, t)
        self.sum = self.rest + self.q_t

    def nll(self, s: float) -> Array:
        ratio = self.rest / self.q_t
        loss = np.log1p(ratio)  # log S - log q_t with all its digits
        if np.isinf(ratio).any():  # only where eps lets q_t be so small
            loss = np.where(np.isinf(ratio), np.log(self.sum) - np.log(self.q_t), loss)
        if s == 0:
            return loss
        classes = self.q.shape[1]
        return _sharp(loss, s) + s * (np.log(self.sum) - sum_by_halves(np.log(self.q)) / classes)

    def grad(self, s: float) -> Array:
        q, q_t, rest, total = self.q, self.q_t, self.rest, self.sum
        dx = _like(q, 1 / total)
        if s > 0:  # float32 would keep few digits of the difference where q_j is near a_j S
            q = q.astype(np.float64)
            q_t, rest = self._target(q), _sum_without(q, self.t)
            total = rest + q_t
            dx = 1 / total - s / q.shape[1] / q
        # 1 / S - a_t / q_t without the cancellation: S = rest + q_t.
        at_target = (s * (q_t / total - 1 / q.shape[1]) - (1 - s) * (rest / total)) / q_t
        np.put_along_axis(dx, self.t, at_target, axis=1)
        return self._unblocked(dx, self.p)


class _Before(_Probabilities):
    """r = clip(p / sum p), loss = -sum_j a_j log r_j; NaN where sum p is 0, inf or NaN."""

    def __init__(self, p: Array, t: Array, eps: float) -> None:
        super().__init__(p, t, eps)
        total = sum_by_halves(p.copy())
        self.sum = np.where(np.isfinite(total) & (total != 0), total, np.nan)
        self.share = p / self.sum
        self.r = self._clip(self.share)

    def nll(self, s: float) -> Array:
        return _expected(-np.log(self._target(self.r)), self.r, s)

    def grad(self, s: float) -> Array:
        # With u = sum_j a_j m_j: dloss/dp_j = (u - a_j m_j / r_j) / sum p.
        m, r, total = self._passed(self.share), self.r, self.sum
        if s > 0:  # in float64, as in `_After`
            m = m.astype(np.float64)
            total = np.where(np.isnan(total), total, sum_by_halves(self.p.astype(np.float64)))
            r = self._clip(self.p / total)
        r = np.where(m == 0, 1, r)  # 0 / 0 would be NaN
        m_t, r_t, each = self._target(m), self._target(r), s / m.shape[1]
        u = (1 - s) * m_t
        if s > 0:
            u = u + each * sum_by_halves(m.copy())
            dx = u - each * m / r
        else:
            dx = _like(m, u)
        self._add_at_target(dx, -_sharp(m_t / r_t, s))
        return dx / total


class _Never(_Probabilities):
    """q = clip(p), loss = -sum_j a_j log q_j; without smoothing p_t alone is read."""

    def __init__(self, p: Array, t: Array, eps: float) -> None:
        super().__init__(p, t, eps)
        self.p_t = self._target(p)
        self.q_t = self._clip(self.p_t)

    def nll(self, s: float) -> Array:
        return _expected(-np.log(self.q_t), self._clip(self.p) if s > 0 else self.p, s)

    def grad(self, s: float) -> Array:
        if s > 0:
            q = self._clip(self.p)
            dx = self._unblocked(-(s / q.shape[1]) / q, self.p)
        else:
            dx = np.zeros_like(self.p)
        self._add_at_target(dx, self._unblocked(-_sharp(1 / self.q_t, s), self.p_t))
        return dx


_Rows = _Logits | _After | _Before | _Never


def _rows(x: Array, y: Array, scores: ScoreKind, eps: float) -> _Rows:
    t = np.maximum(y, 0)[:, None]  # an ignored row needs some target; its results are dropped
    x = widen(x)
    match scores:
        case ScoreKind.LOGITS:
            return _Logits(x, t)
        case ScoreKind.CLIP_NORMALIZE:
            return _After(x, t, eps)
        case ScoreKind.NORMALIZE_CLIP:
            return _Before(x, t, eps)
        case ScoreKind.CLIP:
            return _Never(x, t, eps)


def _expected(at_target: Array, q: Array, s: float) -> Array:
    """-sum_j a_j log q_j, given -log q_t."""
    if s == 0:
        return at_target
    return _sharp(at_target, s) - (s / q.shape[1]) * sum_by_halves(np.log(q))


def _sharp(value: Array, s: float) -> Array:
    """What is left of the label's own part where it is smoothed: 0 * inf would be NaN."""
    return np.zeros_like(value) if s == 1 else (1 - s) * value


def widen(x: Array) -> Array:
    """The block in C order, in the arithmetic's dtype: one kernel of NumPy's for every layout."""
    return np.ascontiguousarray(x, np.float64 if x.dtype == np.float64 else np.float32)


def sum_by_halves(a: Array) -> Array:
    """Sum over axis 1 by halves, in place: the additions and their order depend on C alone."""
    n = a.shape[1]
    while n > 1:
        half = (n + 1) // 2
        a[:, : n - half] += a[:, half:n]
        n = half
    return a[:, :1]


def _sum_without(a: Array, t: Array) -> Array:
    """Sum over axis 1 of all but the target; `a` is left as it was."""
    a = a.copy()
    np.put_along_axis(a, t, 0, axis=1)
    return sum_by_halves(a)


def _like(a: Array, value: Array) -> Array:
    return np.broadcast_to(value, a.shape).copy()


def _keep(y: Array, loss: Array) -> Array:
    return np.where(y < 0, 0, loss[:, 0])


def _scale(y: Array, g: Array, rows: _Rows, s: float) -> Array:
    """The gradient times g, in the arithmetic's dtype; 0 where either is, whatever the other."""
    dx, factor = rows.grad(s), np.where(y < 0, 0, g)[:, None]
    made = dx * factor  # in float64: a factor beyond float32 may have a product within it
    if np.isinf(factor).any():
        signs = rows.signs(dx, s)
        made = np.where(np.isinf(factor), np.where(signs == 0, 0, signs * factor), made)
    return np.where(factor == 0, 0, made).astype(rows.dtype, copy=False)


def _store(result: Array, out: Array | None) -> Array:
    if out is None:
        return result
    np.copyto(out, result, casting="unsafe")
    return out
