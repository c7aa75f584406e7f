"""The loss straight from its definition, in mpmath: what tests of right values are held against.

Nothing here imports the package, and nothing here is clever: a label's loss is written as the
definition reads, with 420 digits, so that log(sum(exp(x))) - x[t] needs no rearrangement to be
right even where the loss is a subnormal number and the logits stand at 1e6.

Notation: x the scores of one row (logits) or p (probabilities), t its label, s the smoothing, K
the classes that take part, a_j = (1 - s)[j = t] + s / K, eps the clip, C the classes, l the
losses, w the weights, V the labels that are not ignored. Special values (NaN, the infinities) are
decided by hand at the top of each formula, in the order in which the definition names them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
from conftest import TOLERANCES

mp: Any = mpmath.MPContext()  # a context of our own: mpmath's global precision stays as it is
mp.dps = 420
NAN, INF, ZERO, ONE = mp.nan, mp.inf, mp.mpf(0), mp.mpf(1)

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = {name: np.dtype(name) for name in ("float16", "float32", "float64")} | {
    "bfloat16": BFLOAT16
}


def exact(value: Any) -> Any:
    """The number itself as an mpf: every dtype that is taken fits a double exactly."""
    return mp.mpf(float(value))


def stored_dtype(y_pred: Any) -> np.dtype[Any]:
    """The dtype that y_pred has once it is taken: whole numbers and bools become float32."""
    dtype = np.asarray(y_pred).dtype
    if dtype.kind in "iub":
        return FLOATS["float32"]
    if dtype.kind == "f" and dtype.itemsize > 8:
        return FLOATS["float64"]
    return dtype.newbyteorder("=") if dtype.kind == "f" else dtype


def arithmetic_dtype(y_pred: Any, dtype: Any = None) -> np.dtype[Any]:
    """The wider of y_pred's dtype and `dtype`, never below float32."""
    wide = stored_dtype(y_pred) == np.float64 or (
        dtype is not None and np.dtype(dtype).name == "float64"
    )
    return FLOATS["float64" if wide else "float32"]


# ---- one row, logits ----------------------------------------------------------------------------


def smoothed_targets(t: int, classes: list[int], s: Any) -> dict[int, Any]:
    """a_j over the classes that take part; the label keeps its own share where it does not."""
    a = {j: s / len(classes) for j in classes}
    a[t] = a.get(t, ZERO) + (ONE - s)
    return a


def logit_row(x: list[Any], t: int, s: Any) -> tuple[Any, list[Any]]:
    """The loss of one row of logits and its gradient: logsumexp(x) - sum a_j x_j, softmax - a."""
    classes = [j for j, value in enumerate(x) if value != -INF]
    if any(mp.isnan(value) or value == INF for value in x) or not classes:
        return NAN, [NAN] * len(x)
    e = {j: mp.exp(x[j]) for j in classes}
    total = mp.fsum(e.values())
    a = smoothed_targets(t, classes, s)
    gradient = [e.get(j, ZERO) / total - a.get(j, ZERO) for j in range(len(x))]
    if t not in classes and a[t] != 0:
        return INF, gradient
    return mp.log(total) - mp.fsum(a[j] * x[j] for j in classes), gradient


# ---- one row, probabilities ---------------------------------------------------------------------


def clip_bounds(eps: float, arithmetic: np.dtype[Any]) -> tuple[Any, Any]:
    """eps and 1 - eps, rounded to the arithmetic's dtype: 0.99999988 in float32."""
    kind = arithmetic.type
    return exact(kind(eps)), exact(kind(1 - eps))


def clipped(p: Any, low: Any, high: Any) -> Any:
    return NAN if mp.isnan(p) else min(max(p, low), high)


def after_row(p: list[Any], t: int, s: Any, low: Any, high: Any) -> tuple[Any, list[Any]]:
    """q = clip(p); log(sum q) - sum a_j log q_j."""
    if any(mp.isnan(value) for value in p):
        return NAN, [NAN] * len(p)
    q = [clipped(value, low, high) for value in p]
    total = mp.fsum(q)
    a = smoothed_targets(t, list(range(len(p))), s)
    loss = mp.log(total) - mp.fsum(product(mp.log(q[j]), a[j]) for j in a)
    inside = [low <= value <= high for value in p]
    gradient = [
        quotient(ONE, total) - quotient(a[j], q[j]) if inside[j] else ZERO for j in range(len(p))
    ]
    return loss, gradient


def before_row(p: list[Any], t: int, s: Any, low: Any, high: Any) -> tuple[Any, list[Any]]:
    """r = clip(p / sum p); -sum a_j log r_j."""
    finite = all(mp.isfinite(value) for value in p)
    total = mp.fsum(p) if finite else NAN
    if not finite or total == 0:
        return NAN, [NAN] * len(p)
    share = [value / total for value in p]
    r = [clipped(value, low, high) for value in share]
    a = smoothed_targets(t, list(range(len(p))), s)
    kept = [a[j] if low <= share[j] <= high else ZERO for j in range(len(p))]  # a_j m_j
    loss = -mp.fsum(product(mp.log(r[j]), a[j]) for j in range(len(p)))
    return loss, [(mp.fsum(kept) - quotient(kept[j], r[j])) / total for j in range(len(p))]


def never_row(p: list[Any], t: int, s: Any, low: Any, high: Any) -> tuple[Any, list[Any]]:
    """q = clip(p); -sum a_j log q_j: without smoothing p_t alone is read."""
    a = smoothed_targets(t, list(range(len(p))) if s != 0 else [t], s)
    q = {j: clipped(p[j], low, high) for j in a}
    loss = -mp.fsum(a[j] * mp.log(q[j]) for j in a if a[j] != 0)
    gradient = [ZERO] * len(p)
    for j in a:
        if mp.isnan(p[j]):
            gradient[j] = NAN
        elif low <= p[j] <= high:
            gradient[j] = -quotient(a[j], q[j])
    return loss, gradient


PROBABILITIES = {"after": after_row, "before": before_row, "never": never_row}


# ---- whole arrays -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Definition:
    """The loss with its options, under the names of the public function."""

    from_logits: bool = False
    ignore_class: Any = None
    axis: int = -1
    label_smoothing: float = 0.0
    class_weight: Any = None
    normalize: str = "after"
    reduction: str | None = "sum_over_batch_size"
    dtype: Any = None
    epsilon: float = 1e-7

    def _rows(
        self, y_true: Any, y_pred: Any
    ) -> tuple[tuple[int, ...], int, Iterator[tuple[tuple[int, ...], int, list[Any]]]]:
        """The losses' shape, the axis, and (position, label, scores) for each label."""
        scores = np.asarray(y_pred)
        scores = scores.astype(stored_dtype(scores))
        axis = self.axis % scores.ndim
        rows = np.moveaxis(scores, axis, -1)
        shape = rows.shape[:-1]
        labels = np.asarray(y_true)
        if labels.ndim == scores.ndim and labels.shape[axis] == 1 and labels.shape != shape:
            labels = np.squeeze(labels, axis)
        labels = labels.reshape(shape)

        def each() -> Iterator[tuple[tuple[int, ...], int, list[Any]]]:
            for at in np.ndindex(shape):
                yield at, int(labels[at]), [exact(value) for value in rows[at]]

        return shape, axis, each()

    def _ignored(self, label: int) -> bool:
        ignore = self.ignore_class
        if ignore is None:
            return False
        return label in {
            int(v)
            for v in (
                ignore if np.ndim(ignore) or isinstance(ignore, set | frozenset) else [ignore]
            )
        }

    def _class_weight(self, label: int) -> Any:
        weights = self.class_weight
        if weights is None:
            return ONE
        if isinstance(weights, Mapping):
            return exact(weights.get(label, weights.get(str(label), 1.0)))
        return exact(np.asarray(weights)[label])

    def _row(
        self, scores: list[Any], label: int, arithmetic: np.dtype[Any]
    ) -> tuple[Any, list[Any]]:
        s = exact(self.label_smoothing)
        if self.from_logits:
            return logit_row(scores, label, s)
        low, high = clip_bounds(self.epsilon, arithmetic)
        return PROBABILITIES[self.normalize](scores, label, s, low, high)

    def _parts(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Any:
        """Per position: l, dl/dx as rows of the last axis, w (0 where ignored), ignored."""
        shape, axis, rows = self._rows(y_true, y_pred)
        w_given = aligned_weight(sample_weight, shape)
        arithmetic = arithmetic_dtype(y_pred, self.dtype)
        classes = np.shape(y_pred)[axis]
        losses, w = np.empty(shape, object), np.empty(shape, object)
        gradient = np.empty((*shape, classes), object)
        ignored = np.zeros(shape, bool)
        for at, label, scores in rows:
            ignored[at] = self._ignored(label)
            losses[at], w[at], gradient[at] = ZERO, ZERO, [ZERO] * classes
            if not ignored[at]:
                w[at] = exact(w_given[at]) * self._class_weight(label)
                if w[at] != 0:  # weight 0 is exactly 0, whatever the loss
                    losses[at], gradient[at] = self._row(scores, label, arithmetic)
        return losses, gradient, w, ignored, axis

    def per_label(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """l * w, one number a label, as an object array of mpf."""
        losses, _, w, _, _ = self._parts(y_true, y_pred, sample_weight)
        return np.asarray(losses * w, object)  # not the bare number where there is but one

    def value_and_gradient(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None
    ) -> tuple[Any, Any]:
        """The reduced value (l * w where there is no reduction) and its gradient by y_pred."""
        losses, gradient, w, ignored, axis = self._parts(y_true, y_pred, sample_weight)
        terms = np.asarray(losses * w, object)
        reduction = {None: "none", "auto": "mean", "sum_over_batch_size": "mean"}.get(
            self.reduction, self.reduction
        )
        divisor = {
            "none": ONE,
            "sum": ONE,
            "mean": mp.mpf(int((~ignored).sum())),
            "mean_with_sample_weight": mp.fsum(w[~ignored].ravel()),
        }[str(reduction)]
        scale = ZERO if divisor == 0 else ONE / divisor
        value = terms if reduction == "none" else product(mp.fsum(terms.ravel()), scale)
        factor = np.array([product(v, scale) for v in w.ravel()], object).reshape((*w.shape, 1))
        scaled = np.frompyfunc(product, 2, 1)(gradient, factor)
        return value, np.moveaxis(np.asarray(scaled, object).reshape(gradient.shape), -1, axis)


def product(a: Any, b: Any) -> Any:
    """a * b where a factor of 0 wins over NaN and the infinities."""
    return ZERO if b == 0 else a * b


def quotient(a: Any, b: Any) -> Any:
    """a / b for a, b >= 0: infinite where only b is 0, and 0 where a is."""
    return ZERO if a == 0 else INF if b == 0 else a / b


def aligned_weight(sample_weight: Any, shape: tuple[int, ...]) -> Any:
    """The weight of every label: aligned to the leading axes, a closing length of 1 dropped."""
    if sample_weight is None:
        return np.ones(shape)
    w = np.asarray(sample_weight)
    if w.ndim == len(shape) + 1 and w.shape[-1] == 1:
        w = w[..., 0]
    return np.broadcast_to(w.reshape(w.shape + (1,) * (len(shape) - w.ndim)), shape)


def soft_targets(
    y_true: Any,
    y_pred: Any,
    *,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
    epsilon: float = 1e-7,
) -> tuple[Any, Any]:
    """The one-hot sibling, per row, and its gradient: targets t_j (1 - s) + s / C, 0 * inf = 0."""
    scores = np.asarray(y_pred)
    scores = np.moveaxis(scores.astype(stored_dtype(scores)), axis, -1)
    targets = np.moveaxis(np.asarray(y_true), axis, -1)
    shape, classes, s = scores.shape[:-1], scores.shape[-1], exact(label_smoothing)
    low, high = clip_bounds(epsilon, arithmetic_dtype(y_pred))
    losses, gradient = np.empty(shape, object), np.empty(scores.shape, object)
    for at in np.ndindex(shape):
        x = [exact(v) for v in scores[at]]
        a = [exact(v) * (ONE - s) + s / classes for v in targets[at]]
        if from_logits:
            total = mp.fsum(mp.exp(v) for v in x)
            lse = mp.log(total)
            losses[at] = mp.fsum(product(lse - v, aj) for v, aj in zip(x, a, strict=True))
            gradient[at] = [mp.fsum(a) * mp.exp(v) / total - aj for v, aj in zip(x, a, strict=True)]
        else:
            total = mp.fsum(x)
            share = [v / total for v in x]
            r = [clipped(v, low, high) for v in share]
            kept = [aj if low <= v <= high else ZERO for v, aj in zip(share, a, strict=True)]
            losses[at] = -mp.fsum(product(mp.log(v), aj) for v, aj in zip(r, a, strict=True))
            gradient[at] = [
                (mp.fsum(kept) - quotient(k, v)) / total for k, v in zip(kept, r, strict=True)
            ]
    return losses, np.moveaxis(gradient, -1, axis)


# ---- comparing ----------------------------------------------------------------------------------


def finfo(dtype: Any) -> Any:
    return ml_dtypes.finfo(np.dtype(dtype))


def misses(got: Any, want: Any, rtol: float, atol: float = 0.0) -> list[str]:
    """Where `got` is not `want` to rtol (relative to `want` itself) or atol: one line a place.

    NaN must be NaN and an infinity that infinity. A result beyond the dtype's greatest number must
    be the infinity, and below its smallest normal number may be off by one subnormal.
    """
    got, want = np.asarray(got), np.asarray(want, object)
    if got.shape != want.shape:
        return [f"shape {got.shape}, expected {want.shape}"]
    info = finfo(got.dtype)
    greatest, least = exact(info.max), exact(info.smallest_subnormal)
    lines = []
    for at in np.ndindex(want.shape):
        g, w = float(got[at]), want[at]
        w = w if isinstance(w, mp.mpf) else exact(w)
        if mp.isnan(w) or not mp.isfinite(w):
            right = math.isnan(g) if mp.isnan(w) else mp.mpf(g) == w
        elif math.isinf(g):
            right = abs(w) >= greatest * (1 - mp.mpf(rtol)) and (g > 0) == (w > 0)
        else:
            right = abs(mp.mpf(g) - w) <= mp.mpf(rtol) * abs(w) + mp.mpf(atol) + least
            if w == 0 and atol == 0:
                right = g == 0
        if not right:
            lines.append(f"at {at}: got {g!r}, expected {mp.nstr(w, 20)}")
    return lines


def assert_close(got: Any, want: Any, rtol: float, atol: float = 0.0) -> None:
    wrong = misses(got, want, rtol, atol)
    assert not wrong, f"{len(wrong)} wrong (rtol {rtol}, atol {atol}): " + "; ".join(wrong[:5])


def tolerance(arithmetic: Any, result: Any) -> float:
    """What a loss may be off by, relative to itself: the arithmetic's promise and one rounding."""
    return TOLERANCES[np.dtype(arithmetic).name] + float(finfo(result).eps)
