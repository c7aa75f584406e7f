"""One suite over every library: what holds for NumPy's arrays holds for its tensors.

Values, gradients, layouts, reductions, what is ignored, labels and refusals, against float64 NumPy;
where kernels run on the library's own memory, against NumPy's bits.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from conftest import KINDS, REDUCTIONS, SHAPES, TOLERANCES
from hypothesis import given
from hypothesis import strategies as st
from tensor_libraries import LIBRARIES

import sparse_xent as sx

losses_of = sx.loss_sparse_categorical_crossentropy
HALF = {"float16": 2e-3, "bfloat16": 2e-2}


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Any:
    """Each library in turn."""
    return LIBRARIES[request.param]()


def case(
    shape: tuple[int, ...], axis: int, dtype: str = "float64", kind: str = "logits"
) -> tuple[Any, Any, Any]:
    """Labels, scores and weights."""
    rng = np.random.default_rng(list(shape))
    x = 2 * rng.normal(size=shape)
    if kind != "logits":
        x = np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True)
    left = list(shape)
    classes = left.pop(axis)
    y = rng.integers(0, classes, left)
    return y, x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype), rng.random(left)


def check(library: Any, found: Any, same: Any, exact: Any, dtype: str) -> None:
    """A tensor holds NumPy's bits where it can, and else what float64 gives, rounded."""
    found = library.to_numpy(found)
    assert found.shape == np.shape(exact)
    if library.same_bits:
        assert found.dtype == same.dtype
        assert found.tobytes() == np.asarray(same).tobytes()
    wide, exact = found.astype(np.float64), np.asarray(exact, np.float64)
    tolerance = HALF.get(dtype) or TOLERANCES[dtype]
    np.testing.assert_allclose(wide, exact, tolerance, tolerance * np.abs(exact).max(initial=0))


# ---- values and gradients -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_losses_and_gradients(library: Any, shape: str, kind: str, dtype: str) -> None:
    y, x, _ = case(*SHAPES[shape], dtype, kind)
    options = {**KINDS[kind], "axis": SHAPES[shape][1]}
    labels, scores, wide = library.to_library(y), library.to_library(x), x.astype(np.float64)
    check(
        library, losses_of(labels, scores, **options), losses_of(y, x, **options),
        losses_of(y, wide, **options), dtype,
    )  # fmt: skip
    loss = sx.SparseCategoricalCrossentropy(**options, dtype="float64", label_smoothing=0.1)
    narrow = sx.SparseCategoricalCrossentropy(**options, label_smoothing=0.1)
    value, slope = narrow.value_and_grad(y, x)
    exact, exact_slope = loss.value_and_grad(y, wide)
    assert value.dtype == np.float32
    check(library, narrow(labels, scores), value, exact, min(dtype, "float32", key=_digits))
    check(library, library.gradient(lambda t: narrow(labels, t), scores), slope, exact_slope, dtype)


def _digits(dtype: str) -> float:
    return -(HALF.get(dtype) or TOLERANCES[dtype])


@pytest.mark.parametrize("kind", KINDS)
def test_value_and_grad_gives_tensors(library: Any, kind: str) -> None:
    if not library.same_bits:
        pytest.skip("its tensors are differentiated by the library")
    for dtype in library.dtypes:
        y, x, w = case((6, 5, 4), 1, dtype, kind)
        for reduction in REDUCTIONS:
            loss = sx.SparseCategoricalCrossentropy(**KINDS[kind], axis=1, reduction=reduction)
            value, slope = loss.value_and_grad(y, x, w)
            made, dx = loss.value_and_grad(*map(library.to_library, (y, x, w)))
            check(library, made, np.asarray(value), value, "float32")
            check(library, dx, slope, slope, "float64")


@pytest.mark.parametrize("upstream", [1.0, -3.0, 0.0, 65536.0, 1e-30])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weights", [None, 2.5, "tensor", "array", "list", "first axis"])
def test_reductions_and_weights(
    library: Any, reduction: str | None, weights: Any, upstream: float
) -> None:
    y, x, w = case((6, 5, 4), 1)
    if weights == "first axis":
        w = w[:, 0]
    elif not isinstance(weights, str):
        w = weights
    sent = library.to_library(w) if weights in ("tensor", "first axis") else w
    sent = w.tolist() if weights == "list" else sent
    loss = sx.SparseCategoricalCrossentropy(
        from_logits=True, axis=1, reduction=reduction, ignore_class=2, dtype="float64",
        class_weight=[1, 2, 3, 0.5, 0],
    )  # fmt: skip
    value, slope = loss.value_and_grad(y, x, w)
    labels, scores = library.to_library(y), library.to_library(x)
    check(library, loss(labels, scores, sent), np.asarray(value), value, "float64")

    def total(t: Any) -> Any:
        made = loss(labels, t, sent) * upstream
        return made.sum() if reduction is None else made

    found = library.to_numpy(library.gradient(total, scores))
    np.testing.assert_allclose(found, upstream * slope, 1e-12, 1e-300)
    assert (found[slope == 0] == 0).all()


def test_each_loss_has_its_own_upstream(library: Any) -> None:
    y, x, w = case((7, 5), -1)
    scores, up = library.to_library(x), library.to_library(w - 0.5)
    found = library.gradient(lambda t: (losses_of(y, t, True) * up).sum(), scores)
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, reduction="sum", dtype="float64")
    want = loss.value_and_grad(y, x, w - 0.5)[1]
    np.testing.assert_allclose(library.to_numpy(found), want, 1e-12)


def test_losses_near_0_and_far_off_keep_their_digits(library: Any) -> None:
    rows = np.array([[20, 0, 0], [0, 88, 0], [1e6, 1e6 + 1, 1e6], [1e38] * 3], np.float32)
    found = library.to_numpy(losses_of([0, 1, 1, 2], library.to_library(rows), True))
    want = losses_of([0, 1, 1, 2], rows.astype(np.float64), True)
    np.testing.assert_allclose(found, want, 1e-5)


def test_what_is_infinite_or_nan(library: Any) -> None:
    inf, nan = np.inf, np.nan
    x = np.array([[1, -inf, 2], [1, -inf, 2], [inf, 0, 0], [nan, 0, 0], [-inf] * 3])
    y = np.array([0, 1, 0, 1, 2])
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, dtype="float64", reduction="sum")
    scores = library.to_library(x)
    np.testing.assert_array_equal(
        library.to_numpy(losses_of(y, scores, True)), losses_of(y, x, True)
    )
    slope = library.to_numpy(library.gradient(lambda t: loss(y, t), scores))
    np.testing.assert_allclose(slope, loss.value_and_grad(y, x)[1], 1e-12)


# ---- ignored labels, weight 0, nothing ----------------------------------------------------------


@pytest.mark.parametrize("ignored", [2, [0, 2], -100, [255, -1]])
def test_an_ignored_label_costs_exactly_nothing(library: Any, ignored: Any) -> None:
    y, x, _ = case((9, 4), -1)
    at = ignored[0] if isinstance(ignored, list) else ignored
    y[[1, 4]] = at
    x[1] = np.nan
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, ignore_class=ignored, dtype="float64")
    value, slope = loss.value_and_grad(y, x)
    labels, scores = library.to_library(y), library.to_library(x)
    losses = library.to_numpy(losses_of(labels, scores, True, ignored))
    assert losses[[1, 4]].tolist() == [0, 0]
    check(library, loss(labels, scores), np.asarray(value), value, "float64")
    found = library.to_numpy(library.gradient(lambda t: loss(labels, t), scores))
    assert (found[[1, 4]] == 0).all()
    np.testing.assert_allclose(found, slope, 1e-12)


def test_a_weight_of_0_hides_what_is_infinite(library: Any) -> None:
    x = library.to_library(np.array([[0.0, -np.inf], [1.0, 2.0], [np.nan, 0.0]]))
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    slope = library.to_numpy(library.gradient(lambda t: loss([1, 0, 0], t, [0, 1, 0]) * 2, x))
    assert (slope[[0, 2]] == 0).all()
    assert slope[1, 1] > 0


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nothing_costs_0(library: Any, reduction: str | None) -> None:
    loss = sx.SparseCategoricalCrossentropy(
        from_logits=True, reduction=reduction, ignore_class=1, dtype="float64"
    )
    none = library.to_library(np.zeros((0, 3)))
    labels = library.to_library(np.zeros(0, np.int64))
    assert library.to_numpy(losses_of(labels, none, True)).shape == (0,)
    assert library.to_numpy(loss(labels, none)).sum() == 0
    slope = library.gradient(lambda t: loss(labels, t).sum(), none)
    assert library.to_numpy(slope).shape == (0, 3)
    all_ignored = library.to_library(np.ones((2, 3)))
    labels = library.to_library(np.array([1, 1]))
    slope = library.gradient(lambda t: loss(labels, t).sum() * 3, all_ignored)
    assert not library.to_numpy(slope).any()


# ---- labels -------------------------------------------------------------------------------------


def test_labels_of_every_dtype(library: Any) -> None:
    y, x, _ = case((8, 5), -1)
    y = y % 2
    scores, want = library.to_library(x), losses_of(y, x, True)
    labels = library.to_library(y)
    forms: list[Any] = [y, y.tolist(), y[:, None], labels, labels[:, None]]
    forms += [y.astype(d) for d in ("bool", "uint64", ">i2", "float64")]
    forms += [labels.to(getattr(library.torch, d)) for d in library.labels]
    for sent in forms:
        found = library.to_numpy(losses_of(sent, scores, True))
        np.testing.assert_allclose(found, want, 1e-12)
        slope = library.gradient(lambda t, sent=sent: losses_of(sent, t, True).sum(), scores)
        assert library.to_numpy(slope).shape == x.shape


# ---- layouts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layout", ["C order", "Fortran order", "first axis last", "every other", "negated"]
)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_layouts(library: Any, layout: str, axis: int) -> None:
    y, x, w = case((6, 5, 4), axis, "float32")
    laid = library.layouts[layout](library.to_library(x))
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, axis=axis, dtype="float64")
    value, slope = loss.value_and_grad(y, x.astype(np.float64), w)
    labels, weights = library.to_library(y), library.to_library(w)
    np.testing.assert_allclose(library.to_numpy(loss(labels, laid, weights)), value, 1e-12)
    found = library.to_numpy(library.gradient(lambda t: loss(labels, t, weights), laid))
    np.testing.assert_allclose(found, slope, 1e-5, 1e-8)
    found = library.to_numpy(losses_of(labels, laid, True, axis=axis))
    np.testing.assert_allclose(found, losses_of(y, x, True, axis=axis), 1e-5)


@given(data=st.data())
def test_any_shape_axis_and_option(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4), label="shape"))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1), label="axis")
    kind = data.draw(st.sampled_from(list(KINDS)), label="kind")
    y, x, w = case(shape, axis, "float64", kind)
    loss = sx.SparseCategoricalCrossentropy(
        **KINDS[kind], axis=axis, dtype="float64",
        reduction=data.draw(st.sampled_from(REDUCTIONS), label="reduction"),
        label_smoothing=data.draw(st.sampled_from([0.0, 0.3, 1.0]), label="smoothing"),
        ignore_class=data.draw(st.sampled_from([None, 0]), label="ignored"),
    )  # fmt: skip
    up = data.draw(st.sampled_from([1.0, -0.5]), label="upstream")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one class
        value, slope = loss.value_and_grad(y, x, w)
        for name in LIBRARIES:
            library = LIBRARIES[name]()
            labels, scores, weights = map(library.to_library, (y, x, w))
            np.testing.assert_allclose(
                library.to_numpy(loss(labels, scores, weights)), value, 1e-12
            )
            found = library.gradient(
                lambda t, y=labels, w=weights: (loss(y, t, w) * up).sum(), scores
            )
            np.testing.assert_allclose(library.to_numpy(found), up * slope, 1e-12, 1e-300)


# ---- the sibling, and metrics -------------------------------------------------------------------


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("targets", ["tensor", "array", "list"])
def test_one_hot_targets(library: Any, from_logits: bool, targets: str) -> None:
    y, x, _ = case((6, 5), -1, "float64", "logits" if from_logits else "after")
    soft = 0.8 * np.eye(5)[y] + 0.04
    sent = {"tensor": library.to_library(soft), "array": soft, "list": soft.tolist()}[targets]
    scores = library.to_library(x)
    want = sx.loss_categorical_crossentropy(soft, x, from_logits, 0.1)
    found = sx.loss_categorical_crossentropy(sent, scores, from_logits, 0.1)
    check(library, found, want, want, "float64")
    loss = sx.CategoricalCrossentropy(from_logits=from_logits, dtype="float64")
    value, slope = loss.value_and_grad(soft, x)
    check(library, loss(sent, scores), np.asarray(value), value, "float64")
    found = library.to_numpy(library.gradient(lambda t: loss(sent, t) * 2, scores))
    np.testing.assert_allclose(found, 2 * slope, 1e-12)


METRICS: dict[str, Callable[..., Any]] = {
    "accuracy": sx.metric_sparse_categorical_accuracy,
    "top 2": lambda *a, **k: sx.metric_sparse_top_k_categorical_accuracy(*a, k=2, **k),
    "crossentropy": sx.metric_sparse_categorical_crossentropy,
    "one-hot accuracy": sx.metric_categorical_accuracy,
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("weighted", [False, True])
def test_metrics(library: Any, name: str, weighted: bool) -> None:
    y, x, w = case((9, 5), -1, "float64", "after")
    if name == "one-hot accuracy":
        y = np.eye(5)[y]
    metric, weights = METRICS[name], w if weighted else None
    labels, scores = library.to_library(y), library.to_library(x)
    sent = library.to_library(w) if weighted else None
    want = metric(y, x, sample_weight=weights)
    check(library, metric(labels, scores, sample_weight=sent), want, want, "float32")
    objects = metric(), metric()
    objects[0].update_state(y, x, weights)
    objects[1].update_state(labels, scores, sent)
    assert objects[0].result() == objects[1].result()


def test_a_partition_is_scored(library: Any) -> None:
    y, x, w = case((9, 5), -1, "float64", "after")
    labels, scores, weights = map(library.to_library, (y, x, w))
    state = sx.partial(labels, scores, sample_weight=weights, top_k=2)
    assert state == sx.partial(y, x, sample_weight=w, top_k=2)


# ---- refusals -----------------------------------------------------------------------------------

Y, X = np.array([0, 1, 2, 1]), np.array([[0.2, 0.3, 0.5]] * 4)
NAN, NA = np.array([0, 1, np.nan, 1]), np.array([0, -(2**31), 2, 1])
WRONG: dict[str, tuple[Any, Any, Any]] = {
    "out of range": (Y + 2, X, None),
    "from 1": (np.array([1, 2, 3, 1]), X, None),
    "negative": (Y - 1, X, None),
    "R's NA": (NA, X, None),
    "NaN": (NAN, X, None),
    "not whole": (Y + 0.5, X, None),
    "one-hot": (np.eye(3)[Y], X, None),
    "too few": (Y[:2], X, None),
    "swapped": (X, Y, None),
    "a weight missing": (Y, X, NAN),
    "weights that do not fit": (Y, X, np.ones(3)),
    "complex scores": (Y, X + 0j, None),
    "complex labels": (Y + 0j, X, None),
    "no classes": (Y, np.zeros((4, 0)), None),
    "a single score": (0, np.array(1.0), None),
}


def said(call: Callable[[], Any]) -> tuple[type[BaseException], str]:
    """The refusal of a call: its kind and its words."""
    with pytest.raises((TypeError, ValueError)) as refusal:
        call()
    assert "\n" not in str(refusal.value)
    return refusal.type, str(refusal.value)


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_refusal_reads_the_same(library: Any, name: str, reduction: str | None) -> None:
    loss = sx.SparseCategoricalCrossentropy(dtype="float64", reduction=reduction)
    sent = [None if a is None else library.to_library(a) for a in WRONG[name]]
    assert said(lambda: loss(*sent)) == said(lambda: loss(*WRONG[name]))


@pytest.mark.parametrize("name", sorted({*WRONG} - {"complex scores", "swapped"}))
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_so_does_one_while_differentiating(library: Any, name: str, reduction: str | None) -> None:
    loss = sx.SparseCategoricalCrossentropy(dtype="float64", reduction=reduction)
    y, x, w = (None if a is None else library.to_library(a) for a in WRONG[name])
    found = said(lambda: library.gradient(lambda t: loss(y, t, w), x))
    assert found == said(lambda: loss(*WRONG[name]))


def test_one_warning_tells_of_logits_at_the_line_of_the_call(library: Any) -> None:
    scores = library.to_library(np.array([[0.5, 0.5, 0.0], [3.0, -2.0, 1.0]]))
    loss = sx.SparseCategoricalCrossentropy()
    for call in (
        lambda: loss([0, 1], scores),
        lambda: losses_of([0, 1], scores),
        lambda: library.gradient(lambda t: loss([0, 1], t) * 2, scores),
        lambda: library.gradient(lambda t: losses_of([0, 1], t).sum(), scores),
    ):
        with pytest.warns(UserWarning, match="look like logits: from_logits=True") as seen:
            call()
        assert len(seen) == 1
        assert re.search(r"test_tensors\.py$", seen[0].filename)
