"""Trees boosted by our objectives predict what the libraries' own objectives give."""

from __future__ import annotations

import copy
import pickle
import re
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import require_peer

from sparse_xent.integrations import boosting
from sparse_xent.integrations.boosting import lightgbm_objective, xgboost_objective

ROUNDS = 12
RNG = np.random.default_rng(7)
X = RNG.normal(size=(240, 5))
# None is 0: on either side of a row of weight 0 a split gains the same, and rounding would choose.
WEIGHTS = RNG.uniform(0.25, 3, 240)
MAKERS = pytest.mark.parametrize("make", [xgboost_objective, lightgbm_objective])


def labels(classes: int) -> np.ndarray:
    """Labels that X tells something of, each class some times."""
    scores = X @ np.random.default_rng(classes).normal(size=(5, classes))
    return (2 * scores + RNG.gumbel(size=scores.shape)).argmax(axis=1)


LABELS = {classes: labels(classes) for classes in (2, 3, 7)}
DATA = pytest.mark.parametrize("classes", LABELS)
WEIGHTED = pytest.mark.parametrize("w", [None, WEIGHTS], ids=["unweighted", "weighted"])


def xgboost_params(classes: int, **more: Any) -> dict[str, Any]:
    own = {"objective": "multi:softprob", "num_class": classes, "nthread": 1, "max_depth": 4}
    return own | more


def lightgbm_params(classes: int, **more: Any) -> dict[str, Any]:
    own = {"num_class": classes, "verbose": -1, "num_threads": 1, "deterministic": True}
    return own | {"learning_rate": 0.3} | more


# ---- the training functions ---------------------------------------------------------------------


#: Where XGBoost starts, so that no two splits gain the same but for rounding: from rows that
#: differ, or with weights that do. In each, its own parameters and ours.
STARTS = ["each row's own", "one for all", "the frequencies"]


@DATA
@pytest.mark.parametrize("start", STARTS)
def test_xgboost_predicts_what_its_own_objective_gives(classes: int, start: str) -> None:
    xgboost = require_peer("xgboost")
    y, objective = LABELS[classes], xgboost_objective(classes)
    if start == "each row's own":
        margin = np.random.default_rng(classes).normal(size=(len(y), classes))
        data = xgboost.DMatrix(X, y, base_margin=margin)
    else:
        data = xgboost.DMatrix(X, y, weight=WEIGHTS)
    own = xgboost_params(classes, **({} if start == "the frequencies" else {"base_score": 0.5}))
    ours = own | (
        {"base_score": objective.init_score(y, WEIGHTS).tolist()} if len(own) == 4 else {}
    )
    expected = xgboost.train(own, data, ROUNDS).predict(data)
    got = xgboost.train(ours, data, ROUNDS, obj=objective).predict(data)
    assert abs(expected - 1 / classes).max() > 0.2, "the model has learnt nothing"
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


@DATA
@WEIGHTED
@pytest.mark.parametrize("start", [False, True], ids=["from 0", "from the frequencies"])
def test_lightgbm_predicts_what_its_own_objective_gives(classes: int, w: Any, start: bool) -> None:
    lightgbm = require_peer("lightgbm")
    y = LABELS[classes]
    own = lightgbm_params(classes, objective="multiclass", boost_from_average=start)
    expected = lightgbm.train(own, lightgbm.Dataset(X, y, weight=w), ROUNDS).predict(X)
    objective = lightgbm_objective(classes)
    from_ = objective.init_score(y, w) if start else np.zeros(classes)
    data = lightgbm.Dataset(X, y, weight=w, init_score=np.tile(from_, (len(y), 1)))
    model = lightgbm.train(lightgbm_params(classes, objective=objective), data, ROUNDS)
    got = objective.probabilities(model.predict(X) + from_)
    assert abs(expected - 1 / classes).max() > 0.2, "the model has learnt nothing"
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


def test_an_ignored_label_is_as_a_row_of_weight_0() -> None:
    lightgbm, xgboost = require_peer("lightgbm"), require_peer("xgboost")
    y = LABELS[3].astype(float)
    holes, w = y.copy(), np.ones(len(y))
    holes[::5], w[::5] = -1, 0
    ours = lightgbm_objective(3, ignore_class=-1)
    params = lightgbm_params(3, objective=ours)
    one = lightgbm.train(params, lightgbm.Dataset(X, holes), ROUNDS).predict(X)
    other = lightgbm.train(params, lightgbm.Dataset(X, y, weight=w), ROUNDS).predict(X)
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(ours.init_score(holes), ours.init_score(y, w))
    # Without the bins of its histograms, whose bounds go by the weights.
    params = xgboost_params(3, base_score=0.5, tree_method="exact")
    got = [
        xgboost.train(params, data, ROUNDS, obj=xgboost_objective(3, ignore_class=-1)).predict(data)
        for data in (xgboost.DMatrix(X, holes), xgboost.DMatrix(X, y, weight=w))
    ]
    np.testing.assert_allclose(*got, rtol=0, atol=1e-6)


@MAKERS
def test_a_class_without_a_label_starts_low(make: Any) -> None:
    start = make(3).init_score([0, 0, 2, 0])
    assert start.dtype == np.float64
    assert np.isfinite(start).all()
    p = make(3).probabilities(start)
    np.testing.assert_allclose(p, [0.75, 0, 0.25], atol=2e-6)
    with pytest.raises(ValueError, match=r"^y_true must hold whole numbers from 0 to 2"):
        make(3).init_score([0, 3, 1])


# ---- the classes of scikit-learn's kind ---------------------------------------------------------


def test_xgboosts_classifier_takes_the_objective() -> None:
    xgboost = require_peer("xgboost")
    options = {"n_estimators": ROUNDS, "max_depth": 4, "base_score": 0.5, "n_jobs": 1}
    y = LABELS[3]
    own = xgboost.XGBClassifier(**options).fit(X, y, sample_weight=WEIGHTS)
    ours = xgboost.XGBClassifier(objective=xgboost_objective(3), **options)
    ours.fit(X, y, sample_weight=WEIGHTS)
    np.testing.assert_allclose(ours.predict_proba(X), own.predict_proba(X), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(ours.predict(X), own.predict(X))
    again = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(again.predict_proba(X), ours.predict_proba(X))


@WEIGHTED
def test_lightgbms_classifier_takes_the_objective_and_gives_scores(w: Any) -> None:
    lightgbm = require_peer("lightgbm")
    base = pytest.importorskip("sklearn.base", reason="scikit-learn is not installed")
    options = {"n_estimators": ROUNDS, "verbose": -1, "n_jobs": 1, "min_child_samples": 5}
    names = np.array(["ant", "bee", "cat"])[LABELS[3]]
    own = lightgbm.LGBMClassifier(boost_from_average=False, **options)
    objective = lightgbm_objective(3)
    ours = base.clone(lightgbm.LGBMClassifier(objective=objective, **options))
    for model in (own, ours):
        model.fit(X, names, sample_weight=w)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names of columns, which an array has not
        expected = own.predict_proba(X)
        got = objective.probabilities(ours.predict_proba(X, raw_score=True))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
    assert pickle.loads(pickle.dumps(ours)).objective == objective


@MAKERS
def test_both_ways_in_are_one(make: Any) -> None:
    objective = make(3)
    x = RNG.normal(size=(5, 3))
    y, w = np.array([0, 2, 1, 1, 0]), np.array([1, 0.5, 2, 0, 3])
    for weights, sent in ((None, np.empty(0)), (None, None), (w, w)):
        data = SimpleNamespace(get_label=lambda: y, get_weight=lambda sent=sent: sent)
        for one, other in zip(objective(x, data), objective(y, x, weights), strict=True):
            np.testing.assert_array_equal(one, other)


# ---- values -------------------------------------------------------------------------------------


def definition(x: Any, y: Any, w: Any) -> tuple[Any, Any]:
    """Gradient and p (1 - p) in long double, from the definition."""
    x = np.asarray(x, np.longdouble)
    terms = np.exp(x - x.max(axis=1, keepdims=True))
    hot = np.eye(x.shape[1], dtype=bool)[y]
    total = terms.sum(axis=1, keepdims=True)
    others = np.where(hot, 0, terms).sum(axis=1, keepdims=True)
    p = terms / total
    one_less = np.where(hot, others, total - terms) / total
    return np.where(hot, -one_less, p) * w, p * one_less * w


@MAKERS
@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_gradient_and_hessian_keep_their_digits_where_a_row_is_certain(
    make: Any, dtype: str, rtol: float, order: Any
) -> None:
    x = np.array([[30, 0, 0, 1], [0.5, 1, 2, 3], [-20, 12, 11, 0]], dtype, order=order)
    y, w = np.array([0, 3, 1]), np.array([[1.0], [0.5], [2.0]])
    kept = x.copy()
    gradient, hessian = make(4)(y, x, w.ravel())
    np.testing.assert_array_equal(x, kept)
    wanted, product = definition(x, y, w)
    factor = {xgboost_objective: 2, lightgbm_objective: 4 / 3}[make]
    np.testing.assert_allclose(gradient, wanted.astype(dtype), rtol=rtol)
    np.testing.assert_allclose(hessian, (factor * product).astype(dtype), rtol=rtol, atol=1e-16)
    for result in (gradient, hessian):
        assert result.dtype == x.dtype
        assert result.strides == x.strides


def test_xgboosts_hessian_goes_by_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = np.array([[0.0, 1.0, 3.0]], np.float32), [1]
    gradient, _ = xgboost_objective(3)(y, x)
    residual = abs(gradient)
    for version, hessian in {
        "2.1.4": 2 * residual * (1 - residual),
        "3.2.0": 2 * residual * (1 - residual),
        "3.4.1": 2 * residual * (1 - residual),
        "3.5.0": residual,
        "3.10.0rc1": residual,
        "4.0.0": residual,
    }.items():
        monkeypatch.setitem(boosting.sys.modules, "xgboost", SimpleNamespace(__version__=version))
        np.testing.assert_allclose(xgboost_objective(3)(y, x)[1], hessian, rtol=1e-6)
    monkeypatch.delitem(boosting.sys.modules, "xgboost")
    for installed in ("xgboost", "xgboost-cpu"):  # not imported yet: by the version installed
        monkeypatch.setattr(
            boosting.importlib.metadata, "version", lambda name, one=installed: only(name, one)
        )
        np.testing.assert_allclose(xgboost_objective(3)(y, x)[1], residual, rtol=1e-6)


def only(name: str, installed: str) -> str:
    if name != installed:
        raise boosting.importlib.metadata.PackageNotFoundError(name)
    return "9.9.9"


def test_xgboosts_hessian_is_never_0() -> None:
    gradient, hessian = xgboost_objective(2)([0, 1], np.array([[200, 0], [0, 0]], "f4"), [1, 0])
    assert (hessian == np.float32(1e-16)).all()
    assert not gradient.any()


# ---- refusals -----------------------------------------------------------------------------------


@MAKERS
@pytest.mark.parametrize(
    ("value", "error"),
    [(1, ValueError), (0, ValueError), (-3, ValueError), (True, TypeError), (3.5, TypeError),
     ("3", TypeError), (None, TypeError)],
)  # fmt: skip
def test_a_number_of_classes_that_is_none_is_refused(make: Any, value: Any, error: Any) -> None:
    with pytest.raises(error, match=r"^num_class must be .*, got") as refusal:
        make(value)
    assert "\n" not in str(refusal.value)


@MAKERS
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_without_a_softmax_are_refused_with_their_place(make: Any, bad: float) -> None:
    x = np.zeros((4, 3))
    x[2, 1] = bad
    with pytest.raises(ValueError, match=rf"^y_pred must hold .* got {bad} at \(2, 1\): "):
        make(3)([0, 1, 2, 0], x)
    gradient, _ = make(3)([0, 1, 2, 0], np.where(np.isfinite(x), x, -np.inf))  # a class ruled out
    assert np.isfinite(gradient).all()
    make(3, ignore_class=-1)([0, 1, -1, 0], x)  # a row that does not count


@MAKERS
@pytest.mark.parametrize("shape", [(6,), (6, 2), (6, 4), (6, 3, 1)])
def test_scores_of_another_number_of_classes_are_refused(make: Any, shape: Any) -> None:
    message = f"got 3 for scores of shape {re.escape(str(shape))}: pass the same num_class"
    with pytest.raises(ValueError, match=f"^num_class must .*{message}"):
        make(3)(np.zeros(6), np.zeros(shape))


def by_xgboost(y: Any, classes: int = 3, **more: Any) -> None:
    xgboost = require_peer("xgboost")
    data = xgboost.DMatrix(X, y, **more)
    xgboost.train(xgboost_params(classes), data, 2, obj=xgboost_objective(3))


def by_lightgbm(y: Any, classes: int = 3, **more: Any) -> None:
    lightgbm = require_peer("lightgbm")
    params = lightgbm_params(classes, objective=lightgbm_objective(3))
    lightgbm.train(params, lightgbm.Dataset(X, y, **more), 2)


@pytest.mark.parametrize("train", [by_xgboost, by_lightgbm])
def test_what_is_wrong_in_training_is_refused_in_a_line(train: Any) -> None:
    y = LABELS[3]
    for message, labels, classes in (
        (r"^y_true must hold .* from 0 to 2 .* use y - 1", y + 1, 3),
        (r"^y_true must hold .* got 0.5 at \(0,\)", y * 0 + 0.5, 3),
        ("^num_class must be .* got 3 for scores of shape", y, 4),
    ):
        with pytest.raises(ValueError, match=message) as refusal:
            train(labels, classes)
        assert "\n" not in str(refusal.value)


def test_xgboost_does_not_go_on_from_scores_of_nan() -> None:
    margin = np.zeros((len(X), 3))
    margin[5, 2] = np.nan
    with pytest.raises(
        ValueError, match=r"^y_pred must hold .* got nan at \(5, 2\): .*base_margin"
    ):
        by_xgboost(LABELS[3], base_margin=margin)


def test_the_classifiers_of_two_classes_are_refused_with_the_reason() -> None:
    lightgbm, xgboost = require_peer("lightgbm"), require_peer("xgboost")
    for model in (
        xgboost.XGBClassifier(objective=xgboost_objective(2), n_estimators=2),
        lightgbm.LGBMClassifier(objective=lightgbm_objective(2), verbose=-1),
    ):
        with pytest.raises(ValueError, match=r"scikit-learn class .*, from three classes on"):
            model.fit(X, LABELS[2])


@MAKERS
def test_an_objective_is_a_value(make: Any) -> None:
    one = make(np.int64(3), ignore_class=[-1])
    assert one == make(3, ignore_class=-1) == copy.deepcopy(one) == pickle.loads(pickle.dumps(one))
    assert hash(one) == hash(make(3, ignore_class=-1))
    assert one != make(3)
    assert "num_class=3" in repr(one)
    with pytest.raises(AttributeError):
        one.num_class = 4
