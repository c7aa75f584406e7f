"""Objectives for gradient boosting: XGBoost's and LightGBM's own softmax, by this library's loss.

Trees trained with one predict what those of the built-in objective do. An objective serves both
ways in: `obj(scores, data)` of the training functions, and `objective(y_true, y_pred, weights)` of
the scikit-learn classes.

Notation: x scores [n, K], p their softmax, t a row's label, w its weight, g = p - [j=t] the
derivative of the loss. Since |g| is p off the target and 1 - p at it, p (1 - p) = |g| (1 - |g|),
with the digits of 1 - p kept where p is near 1.
"""

import importlib.metadata
import math
import operator
import re
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from sparse_xent import SparseCategoricalCrossentropy

Array = npt.NDArray[Any]
_IgnoreClass = int | Collection[int] | None


def xgboost_objective(num_class: int, *, ignore_class: _IgnoreClass = None) -> "XGBoostObjective":
    """XGBoost's `multi:softprob` as a custom objective, by this library's loss.

    The gradient is w (p - [j=t]). The Hessian is the one of the XGBoost that is found:
    max(2 w p (1 - p), 1e-16) up to 3.4, max(w |p - [j=t]|, 1e-16) from 3.5 on.

    Args:
        num_class: K, the number of classes, 2 or more.
        ignore_class: class, or several, whose rows have a gradient of 0.

    Returns:
        An `XGBoostObjective`: for `xgboost.train(..., obj=)`, with `num_class` and
        `"objective": "multi:softprob"` among the parameters, without which `predict` gives no
        probabilities; and for `XGBClassifier(objective=)`, of three classes or more.

    Raises:
        TypeError, ValueError: `num_class` is no whole number from 2 on.

    Predictions are the built-in objective's to 1e-6, but where two splits gain the same: which one
    is taken hangs on the last bit of its gradients, and those here are the nearer ones.

    Cost: one call of `value_and_grad` a round, and an array for the Hessian.

    Example:
        >>> objective = xgboost_objective(num_class=3)
        >>> gradient, hessian = objective([2], np.zeros((1, 3), np.float32))
        >>> gradient.round(3)
        array([[ 0.333,  0.333, -0.667]], dtype=float32)

    Source: XGBoost, `src/objective/multiclass_obj.cu`.
    """
    return XGBoostObjective(_classes(num_class), _loss(ignore_class))


def lightgbm_objective(num_class: int, *, ignore_class: _IgnoreClass = None) -> "LightGBMObjective":
    """LightGBM's `multiclass` as a custom objective, by this library's loss.

    The gradient is w (p - [j=t]), the Hessian w K / (K - 1) p (1 - p).

    Args:
        num_class: K, the number of classes, 2 or more.
        ignore_class: class, or several, whose rows have a gradient and Hessian of 0.

    Returns:
        A `LightGBMObjective`: for `lightgbm.train({"objective": ..., "num_class": K})`, and for
        `LGBMClassifier(objective=)`, of three classes or more. What either predicts are scores:
        `probabilities` makes probabilities of them, and `init_score` is where the built-in
        objective starts.

    Raises:
        TypeError, ValueError: `num_class` is no whole number from 2 on.

    Cost: one call of `value_and_grad` a round, and an array for the Hessian.

    Example:
        >>> objective = lightgbm_objective(num_class=3)
        >>> gradient, hessian = objective([2], np.zeros((1, 3)))
        >>> hessian.round(3).tolist()
        [[0.333, 0.333, 0.333]]

    Source: LightGBM, `src/objective/multiclass_objective.hpp`.
    """
    return LightGBMObjective(_classes(num_class), _loss(ignore_class))


@dataclass(frozen=True)
class _Objective:
    """What both objectives share; they never change, compare by value, and pickle."""

    num_class: int
    loss: SparseCategoricalCrossentropy

    def __call__(self, first: Any, second: Any, sample_weight: Any = None) -> tuple[Array, Array]:
        """The gradient and the Hessian of a round.

        Args:
            first: scores (n, K); or labels (n,), as the scikit-learn classes have it.
            second: the DMatrix or Dataset with labels and weights; or scores.
            sample_weight: weights (n,) where labels are given; 1 if None.

        Returns:
            Two arrays of the scores' shape, dtype and memory layout.

        Raises:
            ValueError: there are scores of another number of classes or without a softmax (NaN,
                inf), or a label is neither a class nor ignored.
        """
        scores, labels = second, first
        if hasattr(second, "get_label"):
            scores, labels, sample_weight = first, second.get_label(), second.get_weight()
        x = np.asarray(scores)  # [n, K]
        if x.shape[1:] != (self.num_class,):
            raise ValueError(
                f"num_class must be y_pred's number of classes, got {self.num_class} for scores "
                f"of shape {x.shape}: pass the same num_class among the library's parameters (its "
                "scikit-learn class sets it itself, from three classes on)"
            )
        value, gradient = self.loss.value_and_grad(labels, x)
        if math.isnan(value):  # no other loss is: each is 0 or more
            _refuse_scores(x, gradient)
        hessian = self._hessian(np.abs(gradient))
        if sample_weight is not None and np.size(sample_weight):  # XGBoost has an empty array
            w = np.asarray(sample_weight, gradient.dtype)[:, None]
            gradient *= w
            hessian *= w
        return gradient, self._at_least(hessian)

    def init_score(self, y_true: Any, sample_weight: Any = None) -> Any:
        """The scores (K,) at which the built-in objective starts: logarithms of class frequencies.

        Args:
            y_true: labels (n,).
            sample_weight: weights (n,); 1 if None.

        Returns:
            A float64 array. For LightGBM's `Dataset(init_score=)` it is repeated for each row,
            `numpy.tile(start, (n, 1))`, and is added to what the model predicts. For XGBoost it
            is the parameter `base_score`, as a list, from 3.1 on.

        Raises:
            ValueError: a label is neither a class nor ignored.

        Example:
            >>> lightgbm_objective(num_class=2).init_score([0, 0, 1, 0])
            array([-0.28768207, -1.38629436])
        """
        y = np.asarray(y_true)
        one_row = np.zeros((1, self.num_class))
        nothing = np.broadcast_to(one_row, (y.size, self.num_class))
        _, gradient = self.loss.value_and_grad(y, nothing)
        kept = gradient.any(axis=1)
        w = None if sample_weight is None else np.asarray(sample_weight, np.float32)[kept]
        counts = np.bincount(y[kept].astype(np.int64), w, self.num_class)
        return self._start(counts / max(counts.sum(), np.finfo(float).tiny))

    @staticmethod
    def probabilities(scores: Any) -> Any:
        """The softmax of scores (n, K), which is what the built-in objective predicts.

        Args:
            scores: what a model predicts, with the scores that it started from added to it.

        Returns:
            Probabilities of the same shape.

        Example:
            >>> lightgbm_objective(num_class=2).probabilities([[0.0, 0.0]])
            array([[0.5, 0.5]])
        """
        x = np.asarray(scores)
        terms = np.exp(x - x.max(axis=-1, keepdims=True))
        return terms / terms.sum(axis=-1, keepdims=True)

    def _hessian(self, residual: Array) -> Any:
        raise NotImplementedError

    def _at_least(self, hessian: Array) -> Any:
        return hessian

    def _start(self, frequencies: Array) -> Any:
        raise NotImplementedError


class XGBoostObjective(_Objective):
    """What `xgboost_objective()` makes."""

    def _hessian(self, residual: Array) -> Any:
        if _xgboost_version() >= (3, 5):  # read in its source; 3.2 is the version that was run
            return residual
        return 2 * residual * (1 - residual)

    def _at_least(self, hessian: Array) -> Any:
        return np.maximum(hessian, 1e-16, dtype=hessian.dtype)

    def _start(self, frequencies: Array) -> Any:
        start = np.log(frequencies + 1e-6)
        return start - start.mean()


class LightGBMObjective(_Objective):
    """What `lightgbm_objective()` makes."""

    def _hessian(self, residual: Array) -> Any:
        return self.num_class / (self.num_class - 1) * residual * (1 - residual)

    def _start(self, frequencies: Array) -> Any:
        return np.log(np.maximum(frequencies, 1e-15))


def _loss(ignore_class: _IgnoreClass) -> SparseCategoricalCrossentropy:
    return SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=ignore_class, reduction="sum", dtype="float32"
    )


def _classes(num_class: Any) -> int:
    try:
        classes = operator.index(num_class)
    except TypeError:
        classes = None
    if classes is None or isinstance(num_class, bool):
        raise TypeError(f"num_class must be a whole number, got a {type(num_class).__name__}")
    if classes < 2:
        raise ValueError(f"num_class must be 2 or more, got {classes}")
    return classes


def _refuse_scores(x: Array, gradient: Array) -> NoReturn:
    """ValueError for the first row without a softmax: XGBoost would go on with NaN, in silence."""
    row = int(np.isnan(gradient).any(axis=1).argmax())
    column = int((np.isnan(x[row]) | np.isposinf(x[row])).argmax())
    raise ValueError(
        f"y_pred must hold scores that have a softmax, got {x[row, column]} at ({row}, {column}): "
        "is something missing or infinite in base_margin or init_score, or is the learning rate "
        "too high?"
    )


def _xgboost_version() -> tuple[int, ...]:
    """The version of the XGBoost that calls; where none does, of the one that is installed."""
    found = getattr(sys.modules.get("xgboost"), "__version__", None)
    for distribution in ("xgboost", "xgboost-cpu"):
        if found is None:
            try:
                found = importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                continue
    return tuple(map(int, re.findall(r"\d+", found or "0.0")[:2]))
