"""A scorer for scikit-learn: the mean loss of predicted probabilities, with labels as they are.

It needs nothing of scikit-learn but an estimator's `predict_proba` and `classes_`.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_xent import SparseCategoricalCrossentropy

_LOSS = SparseCategoricalCrossentropy(
    from_logits=True, reduction="mean_with_sample_weight", dtype="float64"
)


def sklearn_scorer() -> Callable[..., float]:
    """A scorer of probabilities for scikit-learn: the negative mean loss; greater is better.

    score = -sum(w l) / sum(w) with l = log(sum_j q_j) - log(q_t) in nats, where q = max(p, eps) of
    the probabilities p = estimator.predict_proba(X), eps is their dtype's (2.2e-16 in float64) and
    t is the place of a row's label in `estimator.classes_`. Where rows sum to 1 that is what
    scikit-learn's "neg_log_loss" gives. It also takes a fold without one of the classes, for which
    "neg_log_loss" fails: the others are scored as they are, and a label that the estimator has not
    seen has p = 0, costs -log(eps) and is warned of.

    Returns:
        A function `scorer(estimator, X, y, sample_weight=None)`, which pickles: for the argument
        `scoring` of `cross_val_score`, `GridSearchCV` and their like. The estimator may be a
        pipeline or a search. Labels are what the estimator was fitted with: numbers or text.

    Raises (the scorer):
        ValueError: a label is text where the classes are numbers, or the other way round; or the
            estimator does not predict one column for each of its classes.
        TypeError: the estimator has no single vector `classes_`.

    Warns (the scorer):
        UserWarning: `y` holds labels that the estimator has not seen.

    Cost: one read of the probabilities, and a look into a dictionary for each label.

    Example:
        >>> from types import SimpleNamespace
        >>> model = SimpleNamespace(
        ...     classes_=np.array(["ham", "spam"]),
        ...     predict_proba=lambda X: np.array([[0.5, 0.5], [0.9, 0.1]]),
        ... )
        >>> scorer = sklearn_scorer()
        >>> round(scorer(model, None, ["spam", "ham"]), 4)
        -0.3993

    Source: scikit-learn, `sklearn.metrics.log_loss`.
    """
    return _score


def _score(estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
    """The negative mean loss of an estimator's probabilities: see `sklearn_scorer()`."""
    classes = _classes(estimator)
    p = np.asarray(estimator.predict_proba(X))  # [n, C]
    if p.ndim != 2 or p.shape[1] != len(classes):
        raise ValueError(
            f"estimator.predict_proba must give a column for each of the {len(classes)} classes, "
            f"got shape {p.shape}"
        )
    eps = np.finfo(p.dtype).eps
    labels = _places(y, classes)
    x = np.log(np.maximum(p, eps), dtype=np.float64)  # as logits they are divided by their sum
    unseen = labels < 0
    if unseen.any():
        labels = np.where(unseen, len(classes), labels)
        x = np.column_stack([x, np.where(unseen, np.log(eps), -np.inf)])
    return -float(_LOSS(labels, x, sample_weight))


def _classes(estimator: Any) -> list[Any]:
    classes = getattr(estimator, "classes_", None)
    if classes is None or any(np.ndim(label) for label in classes):
        got = "without them" if classes is None else "with several vectors of them"
        raise TypeError(
            "estimator must be a fitted classifier of one output, with the labels of its classes "
            f"in classes_: got a {type(estimator).__name__} {got}"
        )
    found: list[Any] = np.asarray(classes).tolist()
    return found


def _places(y: Any, classes: list[Any]) -> npt.NDArray[np.int64]:
    """Where each label stands among the classes; -1, with a warning, where it does not."""
    place = {label: j for j, label in enumerate(classes)}
    labels = np.asarray(y).ravel().tolist()
    places = np.array([place.get(label, -1) for label in labels], np.int64)
    unseen = np.flatnonzero(places < 0)
    if unseen.size:
        first = labels[unseen[0]]
        more = f" and {unseen.size - 1} more" if unseen.size > 1 else ""
        got = f"got {first!r} at ({unseen[0]},){more}"
        if isinstance(first, str) != isinstance(classes[0], str):
            raise ValueError(
                f"y must hold labels of the kind that the estimator was fitted with, {got}: its "
                f"classes_ are {', '.join(map(repr, classes[:5]))}{' ...' * (len(classes) > 5)}"
            )
        warnings.warn(
            f"y must hold labels that the estimator has seen, {got}: each costs what a class of "
            "probability 0 does; with StratifiedKFold every fold has every class",
            UserWarning,
            stacklevel=3,
        )
    return places
