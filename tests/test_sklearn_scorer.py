"""The scorer gives what "neg_log_loss" gives, and goes on where that fails."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import require_peer

import sparse_xent as sx
from sparse_xent.integrations.sklearn import sklearn_scorer

datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
from sklearn.dummy import DummyClassifier  # noqa: E402
from sklearn.ensemble import RandomForestClassifier  # noqa: E402
from sklearn.inspection import permutation_importance  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.metrics import get_scorer, log_loss  # noqa: E402
from sklearn.model_selection import (  # noqa: E402
    GridSearchCV,
    KFold,
    StratifiedKFold,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.tree import DecisionTreeClassifier  # noqa: E402

X, Y = datasets.load_iris(return_X_y=True)
X = X[:, :2]  # of the sepals alone, which leave something to be wrong about
NAMES = np.array(["virginica", "setosa", "versicolor"])[Y]  # in another order than their sorting
FOLDS = StratifiedKFold(3, shuffle=True, random_state=0)
SCORER = sklearn_scorer()

MODELS = {
    "logistic": make_pipeline(StandardScaler(), LogisticRegression()),
    "tree": DecisionTreeClassifier(random_state=0),  # probabilities of 0 and 1
    "forest": RandomForestClassifier(5, random_state=0),
}
LABELS: dict[str, Any] = {
    "numbers": Y,
    "from 1": Y + 1,
    "floats": Y * 1.0,
    "text": NAMES,
    "objects": NAMES.astype(object),
    "list": NAMES.tolist(),
    "two classes": Y > 0,
}


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("model", MODELS)
def test_it_is_neg_log_loss(model: str, labels: str) -> None:
    y = LABELS[labels]
    expected = cross_val_score(MODELS[model], X, y, cv=FOLDS, scoring="neg_log_loss")
    got = cross_val_score(MODELS[model], X, y, cv=FOLDS, scoring=SCORER)
    np.testing.assert_allclose(got, expected, rtol=1e-13)


def test_categories_are_scored() -> None:
    pandas = require_peer("pandas")
    y = pandas.Series(pandas.Categorical(NAMES, categories=["versicolor", "virginica", "setosa"]))
    model = MODELS["logistic"].fit(X, NAMES)
    assert SCORER(model, X, y) == SCORER(model, X, NAMES)


def test_float32_probabilities_are_clipped_as_log_loss_clips_them() -> None:
    p = np.array([[1, 0], [0.25, 0.75], [0, 1]], np.float32)
    model = SimpleNamespace(classes_=np.array([0, 1]), predict_proba=lambda X: p)
    for y in ([0, 1, 1], [1, 0, 1]):
        np.testing.assert_allclose(SCORER(model, None, y), -log_loss(y, p), rtol=1e-6, atol=1e-7)


def test_weights_are_those_of_log_loss() -> None:
    model, w = MODELS["tree"].fit(X, NAMES), np.arange(len(Y)) % 7
    expected = log_loss(NAMES, model.predict_proba(X), sample_weight=w)
    np.testing.assert_allclose(SCORER(model, X, NAMES, sample_weight=w), -expected, rtol=1e-13)
    np.testing.assert_allclose(SCORER(model, X, NAMES, w), -expected, rtol=1e-13)


def test_it_goes_by_no_setting() -> None:
    model = MODELS["tree"].fit(X[::2], NAMES[::2])
    before, epsilon = SCORER(model, X, NAMES), sx.config_epsilon()
    sx.config_set_epsilon(1e-3)
    try:
        assert SCORER(model, X, NAMES) == before
    finally:
        sx.config_set_epsilon(epsilon)


# ---- where it is used ---------------------------------------------------------------------------


def test_searches_and_processes_take_it() -> None:
    assert pickle.loads(pickle.dumps(SCORER)) is SCORER is sklearn_scorer()
    grid = {"logisticregression__C": [0.01, 1.0, 100.0]}
    found = [
        GridSearchCV(MODELS["logistic"], grid, scoring=scoring, cv=FOLDS, n_jobs=jobs).fit(X, NAMES)
        for scoring, jobs in (("neg_log_loss", 1), (SCORER, 1), (SCORER, 2))
    ]
    for search in found[1:]:
        assert search.best_params_ == found[0].best_params_
        np.testing.assert_allclose(
            search.cv_results_["mean_test_score"], found[0].cv_results_["mean_test_score"], 1e-13
        )
    assert found[1].score(X, NAMES) == SCORER(found[1], X, NAMES)
    both = cross_validate(
        MODELS["logistic"], X, NAMES, cv=FOLDS, scoring={"loss": SCORER, "hits": "accuracy"}
    )
    assert both["test_loss"].shape == both["test_hits"].shape == (3,)
    importance = permutation_importance(
        found[1], X, NAMES, scoring=SCORER, n_repeats=2, random_state=0
    )
    assert (importance.importances_mean > 0).any()


# ---- folds without a class ----------------------------------------------------------------------


def test_a_test_fold_without_a_class_is_scored() -> None:
    model = MODELS["logistic"].fit(X, NAMES)
    few = np.flatnonzero(NAMES != "setosa")
    with pytest.raises(ValueError, match="labels"):  # what is mended here
        get_scorer("neg_log_loss")(model, X[few], NAMES[few])
    expected = log_loss(NAMES[few], model.predict_proba(X[few]), labels=model.classes_)
    np.testing.assert_allclose(SCORER(model, X[few], NAMES[few]), -expected, rtol=1e-13)


def test_a_class_that_was_not_seen_costs_what_probability_0_costs() -> None:
    known = np.flatnonzero(NAMES != "setosa")
    model = MODELS["logistic"].fit(X[known], NAMES[known])
    p = np.insert(model.predict_proba(X), 0, 0.0, axis=1)
    expected = log_loss(NAMES, p, labels=["setosa", "versicolor", "virginica"])
    first = int(np.argmax(NAMES == "setosa"))
    message = rf"^y must hold labels .* has seen, got 'setosa' at \({first},\) and 49 more: "
    with pytest.warns(UserWarning, match=message) as warned:
        score = SCORER(model, X, NAMES)
    np.testing.assert_allclose(score, -expected, rtol=1e-13)
    assert len(warned) == 1
    assert SCORER(model, X[known], NAMES[known]) > -1  # nobody is warned of what is known


@pytest.mark.filterwarnings("ignore:y must hold labels that the estimator has seen:UserWarning")
def test_unshuffled_folds_are_scored() -> None:
    scores = cross_val_score(MODELS["logistic"], X, NAMES, cv=KFold(3), scoring=SCORER)
    np.testing.assert_allclose(scores, np.log(np.finfo(float).eps), rtol=1e-12)


# ---- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trained", "asked", "words"),
    [
        (NAMES, Y, "got 0 at (0,) and 149 more: its classes_ are 'setosa', 'versicolor',"),
        (Y, NAMES, "got 'virginica' at (0,) and 149 more: its classes_ are 0, 1, 2"),
    ],
    ids=["text, then numbers", "numbers, then text"],
)
def test_labels_of_another_kind_are_refused(trained: Any, asked: Any, words: str) -> None:
    model = MODELS["tree"].fit(X, trained)
    with pytest.raises(ValueError, match=r"^y must hold labels of the kind") as refusal:
        SCORER(model, X, asked)
    assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_what_is_no_classifier_of_one_output_is_refused() -> None:
    two = DummyClassifier(strategy="prior").fit(X, np.column_stack([Y, Y]))
    for model in (two, SimpleNamespace(predict_proba=lambda X: X)):
        with pytest.raises(
            TypeError, match=r"^estimator must be a fitted classifier of one output"
        ):
            SCORER(model, X, Y)
    model = SimpleNamespace(classes_=np.arange(3), predict_proba=lambda X: X)
    with pytest.raises(ValueError, match=r"column for each of the 3 classes, got shape \(150, 2\)"):
        SCORER(model, X, Y)
    with pytest.raises(ValueError, match=r"got shape \(150,\)"):
        SCORER(SimpleNamespace(classes_=[0, 1], predict_proba=lambda X: X[:, 0]), X, Y)
