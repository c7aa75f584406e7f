"""The traced engine: losses, reductions and ranks as functional operations of a tracing library.

One formula serves JAX and TensorFlow, in whose operations it is written: nothing is written in
place, nothing calls back, no value decides what is done, so that it compiles, batches and
differentiates. Its two choices are those of `numpy_formulas`: the target is left out of the sum,
and derivatives are the hand-written slopes (`TracingLibrary.differentiable`), which keep their
digits near 0 and are exact about clips, where the derivative of the operations is neither. Slopes
are free of NaN where they should be, and so are their own derivatives.

Notation: x scores, p probabilities, t targets, m reference, e = exp(x - m), s label smoothing,
q clipped probabilities, l losses, w weights; the class axis stays, with length 1 where it was
reduced. A label is a class, or IGNORED, or BAD: neither class nor ignored, which makes its loss and
its slope NaN.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparse_xent import dtypes
from sparse_xent.arrays.tracing import Slope, TracingLibrary
from sparse_xent.engines.base import Divisor, Task
from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels.cpu.abi import LEAST, MOST
from sparse_xent.options import NA_INTEGER

Array = Any
Slopes = Callable[[], tuple[Slope, ...]]

IGNORED, BAD = -1, -2


@dataclass(frozen=True, slots=True)
class Traced:
    """A call of one kind, as this engine sees it; `checked` labels and weights are right."""

    library: TracingLibrary
    task: Task
    axis: int  # of the classes, not negative
    classes: int
    scores: ScoreKind
    smoothing: float
    epsilon: float
    soft: bool  # whether targets of the scores' shape stand in the place of labels
    ignored: tuple[int, ...]
    by_class: tuple[float, ...] | None
    divisor: Divisor
    arithmetic: np.dtype[Any]
    result: np.dtype[Any]
    k: int | None  # with ranks: how many classes count as predicted
    labels_checked: bool  # labels are int32 then, negative where ignored
    weights_checked: bool
    infinite: bool  # whether a weight may be: of a sample or of a class

    def run(self, x: Array, y: Array, w: Array) -> Array:
        """Losses, a value, or whether labels are among the k that score highest; times weights.

        Args:
            x: scores.
            y: labels as they were sent, in the losses' shape but for a length of 1 at the class
                axis; or targets.
            w: weights that broadcast to the losses' shape; None for none.
        """
        xp = self.library
        x = xp.cast(x, self.arithmetic.name)
        if self.soft and self.task != Task.RANKS:
            return self._of_targets(x, xp.cast(y, self.arithmetic.name), w)
        if self.soft:
            y = self._greatest(xp.array(y))
        else:
            y = xp.reshape(y, xp.losses_shape(x, self.axis))
            if not self.labels_checked:
                y = decoded(xp, y, self.classes, self.ignored)
        if w is None and self.by_class is not None:
            w = np.float32(1)
        made = self._hits(x, y) if self.task == Task.RANKS else self._losses(x, y, w)
        return self._weighted(made, y, w)

    def _greatest(self, a: Array) -> Array:
        """The class of each row's greatest target; BAD where one is negative or NaN."""
        xp, axis = self.library, self.axis
        y = xp.argmax(a, axis)
        if not self.labels_checked:
            y = xp.where(xp.any(~(a >= 0), axis), BAD, y)
        return xp.squeeze(y, axis)

    def _hits(self, x: Array, y: Array) -> Array:
        """1 where the label is among the k that score highest, else 0; NaN where it is BAD."""
        xp = self.library
        above = ranks(xp, x, y, self.axis)
        assert self.k is not None
        hit = (above >= 0) & (above < min(self.k, self.classes))  # C is the rank in a row with NaN
        made = xp.cast(hit, self.arithmetic.name)
        return made if self.labels_checked else xp.where(y == BAD, math.nan, made)

    # ---- losses ----

    def _losses(self, x: Array, y: Array, w: Array) -> Array:
        """The losses, with their derivative."""
        xp, axis = self.library, self.axis
        formula: Any = FORMULAS[self.scores]
        low, high = dtypes.clip_range(self.epsilon, self.arithmetic)

        def rows(xp: TracingLibrary, x: Array, y: Array, w: Array) -> tuple[Array, Slopes]:
            t = xp.where(y < 0, 0, y)
            x_t = xp.take(x, t, axis)
            if not self.labels_checked:
                x_t = xp.where(y == BAD, math.nan, x_t)  # makes all of its row NaN
            loss, slope = formula(xp, x, x_t, t, axis, self.smoothing, low, high)
            if self.ignored:
                loss = xp.where(y == IGNORED, 0.0, loss)
            return loss, lambda: (self._kept(slope(), x, y, w),)

        losses = xp.differentiable(rows, (x,), (xp.expand(y, axis), self._factors(w, y)), axis)
        return xp.squeeze(losses, axis)

    def _factors(self, w: Array, y: Array) -> Array:
        """The weights as slopes need them, with the class axis: 0 where the divisor is 0, too."""
        if w is None:
            return None
        xp = self.library
        w = self._effective(w, y)
        if self.task.reduces and self.divisor == Divisor.WEIGHT:
            w = xp.where(xp.sum(w) == 0, 0.0, w)
        return xp.expand(xp.stop_gradient(w), self.axis)

    def _kept(self, slope: Slope, x: Array, y: Array, w: Array) -> Slope:
        """The slope, 0 at ignored labels, NaN at bad ones, and weighed where 0 meets infinity."""
        xp = self.library
        if slope.dense is None and not self.labels_checked:
            nothing = xp.cast(y * 0, self.arithmetic.name)
            slope = slope._replace(dense=xp.where(y == BAD, math.nan, nothing))

        slope = self._weighed(slope, x, w, y != BAD)
        if not self.ignored:
            return slope

        def kept(part: Array) -> Array:
            return None if part is None else xp.where(y == IGNORED, 0.0, part)

        return slope._replace(dense=kept(slope.dense), at_target=kept(slope.at_target))

    def _weighed(self, slope: Slope, x: Array, w: Array, good: Array) -> Slope:
        """The slope, to be multiplied by weights that are finite: 0 times infinity is 0 either way.

        What is infinite or NaN is 0 where the weight is. Where the weight is infinite what is not 0
        is so, too, and its sign is left to be multiplied by (`_weighted`).
        """
        if w is None:
            return slope
        xp = self.library
        if self.infinite and slope.dense is not None and slope.at_target is not None:
            # Both parts of the target's slope together, for inf - inf is NaN.
            whole = slope.dense + xp.cast(xp.classes(x, self.axis) * 0, self.arithmetic.name)
            at_target = slope.at_target + xp.take(whole, slope.t, self.axis)
            slope = Slope(xp.put(whole, slope.t, 0.0, self.axis), at_target, slope.t)

        def weighed(part: Array) -> Array:
            if part is None:
                return None
            part = xp.where((w == 0) & good & (xp.isnan(part) | xp.isinf(part)), 0.0, part)
            if not self.infinite:
                return part
            return xp.where(xp.isinf(w) & (part != 0), part * math.inf, part)

        return slope._replace(dense=weighed(slope.dense), at_target=weighed(slope.at_target))

    def _of_targets(self, x: Array, y: Array, w: Array) -> Array:
        """The same for soft targets, which have a derivative too."""
        xp, axis = self.library, self.axis
        low, high = dtypes.clip_range(self.epsilon, self.arithmetic)
        a = (1 - self.smoothing) * y + self.smoothing / self.classes
        if not self.labels_checked:
            bad = xp.any(~(y >= 0), axis)
            a = xp.where(bad, math.nan, a)
        formula = soft_logits if self.scores == ScoreKind.LOGITS else soft_before

        def rows(
            xp: TracingLibrary, x: Array, a: Array, kept: Array, w: Array
        ) -> tuple[Array, Slopes]:
            loss, slopes = formula(xp, x, a, axis, low, high)
            good = kept != BAD
            return loss, lambda: tuple(self._weighed(slope, x, w, good) for slope in slopes())

        kept = xp.squeeze(xp.argmax(x, axis) * 0, axis)  # as labels none of which is ignored
        if not self.labels_checked:
            kept = xp.where(xp.squeeze(bad, axis), BAD, kept)
        others = xp.expand(kept, axis), self._factors(w, kept)
        losses = xp.squeeze(xp.differentiable(rows, (x, a), others, axis), axis)
        return self._weighted(losses, kept, w)

    # ---- weights and reduction ----

    def _effective(self, w: Array, y: Array) -> Array:
        """Each label's weight, in the widest float: 0 where it is ignored."""
        xp = self.library
        wide = xp.widest("float")
        made = xp.cast(w, wide)
        if not self.weights_checked:
            made = xp.where(made == NA_INTEGER, math.nan, made)
        if self.by_class is not None:
            t = xp.where(y < 0, 0, y)
            made = made * xp.lookup(np.array(self.by_class), t, wide)
        return xp.where(y == IGNORED, 0.0, made)

    def _weighted(self, losses: Array, y: Array, w: Array) -> Array:
        """The losses times their weights, reduced if that is the task, in the result's dtype."""
        xp = self.library
        made = xp.cast(losses, xp.widest("float"))
        if w is not None:
            w = self._effective(w, y)
            spared = (w == 0) & (y != BAD) & (xp.isnan(made) | xp.isinf(made))
            made = xp.where(spared, 0.0, made)
            made = self._product(made, w) if self.k is None else xp.where(made == 0, 0.0, made * w)
        if self.task.reduces:
            made = self._divided(made, y, w)
        return xp.cast(made, self.result.name)

    def _product(self, losses: Array, w: Array) -> Array:
        """Losses times weights; of an infinite one slopes have all but the sign (`_weighed`)."""
        if not self.infinite:
            return losses * w
        xp = self.library
        far = xp.isinf(w)
        signed = xp.where(far, xp.clip(w, -1.0, 1.0), w)
        return losses * signed + xp.where(far, xp.stop_gradient(losses) * w, 0.0)

    def _divided(self, made: Array, y: Array, w: Array) -> Array:
        """The value: 0 where there is nothing to divide by, but NaN where a label is bad."""
        xp = self.library
        total = xp.sum(made)
        if self.divisor == Divisor.ONE:
            return total
        if self.divisor == Divisor.WEIGHT and w is not None:
            divisor = xp.sum(w)
        elif self.ignored:
            divisor = xp.cast(xp.sum(xp.cast(y != IGNORED, "int32")), xp.widest("float"))
        else:  # to count them takes JAX's compiler as long as the rest of the reduction
            divisor = xp.size(y, xp.widest("float"))
        nothing = divisor == 0
        value = total / xp.where(nothing, 1.0, divisor)
        if self.labels_checked:
            return xp.where(nothing, 0.0, value)
        nothing = nothing & (xp.sum(xp.cast(y == BAD, "int32")) == 0)
        return xp.where(nothing, 0.0, value)


def is_suspicious(
    xp: TracingLibrary, axis: int, arithmetic: str, target_only: bool, x: Array, y: Array
) -> Array:
    """Whether a score that enters the loss is no probability, or beside it one is NaN.

    By the greatest and the least of each row: compilers read them in half the time of comparisons
    of all scores (1.4 and 2.6 ms of 4096 x 1000 float32 by JAX on two cores, the loss 3.8).

    Args:
        xp: the scores' library.
        axis: of the classes.
        arithmetic: the dtype in which scores are computed with.
        target_only: whether the target's score alone enters the loss.
        x: scores.
        y: labels that are right, negative where ignored; None for soft targets.
    """
    p = xp.cast(x, arithmetic)
    if y is not None:
        y = xp.expand(xp.reshape(y, xp.losses_shape(p, axis)), axis)
    if target_only:
        p = xp.take(p, xp.where(y < 0, 0, y), axis)
    found = ~((xp.max(-p, axis) <= -LEAST) & (xp.max(p, axis) <= MOST))
    if y is not None:
        found = found & (y >= 0)
    return xp.sum(xp.cast(found, "int32")) > 0


# ---- labels -------------------------------------------------------------------------------------


def decoded(xp: TracingLibrary, y: Array, classes: int, ignored: tuple[int, ...]) -> Array:
    """Labels as int32: a class, IGNORED or BAD."""
    kind = xp.dtype(y).kind
    unsigned = kind in "bu" or xp.dtype(y).name.startswith("uint")
    if dtypes.is_float(xp.dtype(y)):
        wide = xp.widest("float")
        y = xp.cast(y, wide)
        ignored = tuple(c for c in ignored if _is_exact(c, wide))
    else:  # unsigned ones that do not fit become negative, and are bad
        wide = xp.widest("int")
        y = xp.cast(y, wide)
        bound = 2 ** (int(wide[-2:]) - 1)
        ignored = tuple(c for c in ignored if (0 if unsigned else -bound) <= c < bound)
    right = (y >= 0) & (y < classes)
    if "float" in wide:
        right = right & (xp.floor(y) == y)
    made = xp.where(right, xp.cast(xp.where(right, y, 0), "int32"), BAD)
    for c in ignored:
        made = xp.where(y == c, IGNORED, made)
    return made


def _is_exact(value: int, dtype: str) -> bool:
    if abs(value) > 2**100:
        return False
    return int(np.dtype(dtype).type(value)) == value


def ranks(xp: TracingLibrary, x: Array, y: Array, axis: int) -> Array:
    """How many classes stand above the label: a greater score, or an equal one of a lower class.

    Returns:
        int32, the losses' shape; C where the row holds a NaN, the label where it is IGNORED or BAD.
    """
    y = xp.expand(y, axis)
    t = xp.where(y < 0, 0, y)
    x_t = xp.take(x, t, axis)
    before = xp.classes(x, axis) < t
    above = xp.sum(xp.cast((x > x_t) | ((x == x_t) & before), "int32"), axis)
    above = xp.where(xp.any(xp.isnan(x), axis), x.shape[axis], above)
    return xp.squeeze(xp.where(y < 0, y, above), axis)


# ---- logits -------------------------------------------------------------------------------------


def logits(
    xp: TracingLibrary, x: Array, x_t: Array, t: Array, axis: int, s: float, *_: float
) -> tuple[Array, Callable[[], Slope]]:
    """Loss = logsumexp(x) - sum_j a_j x_j, a = (1-s) onehot(t) + s/K; the slope is softmax - a.

    K counts the classes that are not -inf. An inf or a NaN makes its whole row NaN by itself, for
    inf - inf is NaN.
    """
    m = xp.stop_gradient(xp.max(x, axis))
    others = xp.leave_out(xp.exp(x - m), t, axis)
    e_t = xp.exp(x_t - m)
    rest = xp.sum(others, axis)
    total = rest + e_t
    # log(total), with all digits of rest where the label has the maximum: e_t is 1 there.
    loss = xp.log1p(xp.where(x_t == m, rest, total - 1))
    if s == 0:
        loss = loss + (m - x_t)

        def slope() -> Slope:
            inverse = 1 / total
            return Slope(others * inverse, -(rest * inverse), t)

        return loss, slope

    alive = xp.cast(x != -math.inf, xp.dtype(x).name)
    share = s / xp.sum(alive, axis)
    # Half the gap to the maximum: the gap itself may overflow where its share of s does not.
    half = m * 0.5 - x * 0.5
    loss = loss + xp.sum(xp.where(alive > 0, half * (2 * share), 0.0), axis)
    if s < 1:  # 0 * inf would be NaN
        loss = loss + 2 * (1 - s) * (m * 0.5 - x_t * 0.5)

    def smoothed() -> Slope:
        inverse = 1 / total
        dense = others * inverse - xp.put(alive * share, t, 0.0, axis)
        at_target = s - rest * inverse - xp.where(x_t == -math.inf, 0.0, share)
        return Slope(dense, at_target, t)

    return loss, smoothed


# ---- probabilities ------------------------------------------------------------------------------


def after(
    xp: TracingLibrary, p: Array, p_t: Array, t: Array, axis: int, s: float, low: float, high: float
) -> tuple[Array, Callable[[], Slope]]:
    """q = clip(p), loss = log S - sum_j a_j log q_j, S = sum_j q_j; slope m_j (1/S - a_j/q_j)."""
    q, q_t = xp.clip(p, low, high), xp.clip(p_t, low, high)
    rest = xp.sum(xp.put(q, t, 0.0, axis), axis)
    total = rest + q_t
    ratio = rest / q_t
    loss = xp.log1p(ratio)  # log S - log q_t with all its digits
    # The ratio is infinite only where eps lets q_t be so small.
    loss = xp.where(xp.isinf(ratio), xp.log(total) - xp.log(q_t), loss)
    each = s / p.shape[axis]
    if s > 0:
        spread = s * xp.log(total) - each * xp.sum(xp.log(q), axis)
        loss = spread if s == 1 else (1 - s) * loss + spread

    def slope() -> Slope:
        # 1 / S - a_t / q_t without the cancellation: S = rest + q_t.
        at_target = -(1 - s) * (rest / total)
        dense = 1 / total
        if s > 0:
            at_target = at_target + s * (q_t / total) - each
            dense = dense - each / q
        at_target = _passed(xp, at_target / q_t, p_t, low, high)
        return Slope(xp.put(_passed(xp, dense, p, low, high), t, 0.0, axis), at_target, t)

    return loss, slope


def before(
    xp: TracingLibrary, p: Array, p_t: Array, t: Array, axis: int, s: float, low: float, high: float
) -> tuple[Array, Callable[[], Slope]]:
    """r = clip(p / sum p), loss = -sum_j a_j log r_j; NaN where sum p is 0, inf or NaN.

    The slope is (sum_k a_k m_k - a_j m_j / r_j) / sum p.
    """
    total = xp.where(xp.isnan(p_t), math.nan, _divisor(xp, p, axis))
    share_t = p_t / total
    r_t = xp.clip(share_t, low, high)
    loss = -xp.log(r_t)
    each = s / p.shape[axis]
    if s > 0:
        spread = -each * xp.sum(xp.log(xp.clip(p / total, low, high)), axis)
        loss = spread if s == 1 else (1 - s) * loss + spread

    def slope() -> Slope:
        passed_t = _mask(xp, share_t, low, high)
        kept = (1 - s) * passed_t
        at_target = -(kept / xp.where(passed_t > 0, r_t, 1.0)) / total
        if s == 0:
            return Slope(kept / total, at_target, t)
        share = p / total
        passed = _mask(xp, share, low, high)
        kept = kept + each * xp.sum(passed, axis)
        r = xp.where(passed > 0, share, 1.0)
        return Slope((kept - each * passed / r) / total, at_target, t)

    return loss, slope


def never(
    xp: TracingLibrary, p: Array, p_t: Array, t: Array, axis: int, s: float, low: float, high: float
) -> tuple[Array, Callable[[], Slope]]:
    """q = clip(p), loss = -sum_j a_j log q_j, slope -a_j m_j / q_j; without smoothing of p_t."""
    q_t = xp.clip(p_t, low, high)
    loss = -xp.log(q_t)
    each = s / p.shape[axis]
    if s > 0:
        spread = -each * xp.sum(xp.log(xp.clip(p, low, high)), axis)
        loss = spread if s == 1 else (1 - s) * loss + spread

    def slope() -> Slope:
        at_target = _passed(xp, -(1 - s) / q_t, p_t, low, high)
        if s == 0:
            return Slope(None, at_target, t)
        return Slope(_passed(xp, -each / xp.clip(p, low, high), p, low, high), at_target, t)

    return loss, slope


def _passed(xp: TracingLibrary, slope: Array, p: Array, low: float, high: float) -> Array:
    """A slope, 0 where the clip held p back, even where it is infinite; NaN stays NaN."""
    return xp.where(((p < low) | (p > high)) & ~xp.isnan(slope), 0.0, slope)


def _mask(xp: TracingLibrary, p: Array, low: float, high: float) -> Array:
    """1 where the clip let p pass."""
    return xp.cast((p >= low) & (p <= high), xp.dtype(p).name)


def _divisor(xp: TracingLibrary, p: Array, axis: int) -> Array:
    """Each row's sum, NaN where it is no divisor."""
    total = xp.sum(p, axis)
    return xp.where(xp.isinf(total) | (total == 0), math.nan, total)


FORMULAS = {
    ScoreKind.LOGITS: logits,
    ScoreKind.CLIP_NORMALIZE: after,
    ScoreKind.NORMALIZE_CLIP: before,
    ScoreKind.CLIP: never,
}


# ---- soft targets -------------------------------------------------------------------------------


def soft_logits(
    xp: TracingLibrary, x: Array, a: Array, axis: int, *_: float
) -> tuple[Array, Slopes]:
    """Loss = sum_j a_j (logsumexp(x) - x_j), where 0 * inf is 0.

    The maximum is left out of the sum of exponentials.
    """
    m = xp.stop_gradient(xp.max(x, axis))
    top = xp.argmax(x, axis)
    others = xp.leave_out(xp.exp(x - m), top, axis)
    rest = xp.sum(others, axis)
    rest = xp.where(xp.isinf(m) | xp.isnan(m), math.nan, rest)
    mass = xp.sum(a, axis)
    half = m * 0.5 - x * 0.5
    loss = mass * xp.log1p(rest) + xp.sum(xp.where(a == 0, 0.0, 2 * a * half), axis)

    def slopes() -> tuple[Slope, ...]:
        inverse = 1 / (1 + rest)
        # mass * p - a at the maximum, without the cancellation: p = 1 - rest / (1 + rest).
        at_top = (mass - xp.take(a, top, axis)) - mass * (rest * inverse)
        by_x = Slope(xp.put(mass * inverse * others - a, top, 0.0, axis), at_top, top)
        return by_x, Slope(xp.log1p(rest) + 2 * half)

    return loss, slopes


def soft_before(
    xp: TracingLibrary, p: Array, a: Array, axis: int, low: float, high: float
) -> tuple[Array, Slopes]:
    """r = clip(p / sum p), loss = -sum_j a_j log r_j, where 0 * inf is 0."""
    total = _divisor(xp, p, axis)
    share = p / total
    r = xp.clip(share, low, high)
    loss = -xp.sum(xp.where(a == 0, 0 * total, a * xp.log(r)), axis)

    def slopes() -> tuple[Slope, ...]:
        passed = _mask(xp, share, low, high)
        safe = xp.where((passed > 0) & ((share != 0) | (a != 0)), share, 1.0)
        by_x = (xp.sum(a * passed, axis) - a * passed / safe) / total
        return Slope(by_x), Slope(-xp.log(r))

    return loss, slopes
