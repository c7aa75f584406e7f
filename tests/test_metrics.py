"""Promises of the metrics: the values, their weighted mean over batches, and states that merge.

Values and ranks are held against their definition, written here in NumPy; batches in any order,
cut and merge against one shot, to the bit. Where Keras means the same the two agree; where it does
not (ties, ignored labels in a divisor) the difference is shown.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from conftest import LAYOUTS, SHAPES, require_peer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import sparse_xent as sx
from sparse_xent import (
    CategoricalAccuracy,
    SparseCategoricalAccuracy,
    SparseCategoricalCrossentropyMetric,
    SparseTopKCategoricalAccuracy,
    loss_sparse_categorical_crossentropy,
    metric_categorical_accuracy,
    metric_sparse_categorical_accuracy,
    metric_sparse_categorical_crossentropy,
    metric_sparse_top_k_categorical_accuracy,
)

PAGE_LABELS = [1, 2]
PAGE = np.array([[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]])

FORMS: dict[Any, Any] = {
    metric_sparse_categorical_accuracy: SparseCategoricalAccuracy,
    metric_sparse_top_k_categorical_accuracy: SparseTopKCategoricalAccuracy,
    metric_sparse_categorical_crossentropy: SparseCategoricalCrossentropyMetric,
    metric_categorical_accuracy: CategoricalAccuracy,
}
SPARSE = [f for f in FORMS if f is not metric_categorical_accuracy]
every_form = pytest.mark.parametrize("function", FORMS, ids=lambda f: f.__name__)
every_sparse_form = pytest.mark.parametrize("function", SPARSE, ids=lambda f: f.__name__)

# One engine serves all examples of a test: a fixture of the function does for it.
FEW = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


def hits(y: Any, x: Any, k: int = 1, ignored: Any = (), axis: int = -1) -> Any:
    """Whether fewer than k classes stand above each label; from the definition."""
    rows = np.moveaxis(x, axis, -1).astype(np.float64)
    found = np.zeros(rows.shape[:-1])
    for at in np.ndindex(found.shape):
        row, t = rows[at], y[at]
        if t in ignored or np.isnan(row).any():
            continue
        above = sum(v > row[t] or (v == row[t] and j < t) for j, v in enumerate(row))
        found[at] = above < k
    return found


def given_to(function: Any, y: Any, classes: int) -> Any:
    """Labels as this metric takes them."""
    return np.eye(classes)[y] if function is metric_categorical_accuracy else y


def scored(metric: Any, *batches: Any) -> Any:
    """The metric, after these batches."""
    for batch in batches:
        metric.update_state(*batch)
    return metric


def bits(metric: Any) -> bytes:
    return np.float64(metric.result()).tobytes()


# ---- values -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("engine")
class TestValues:
    def test_the_page(self) -> None:
        one_hot = np.eye(3)[PAGE_LABELS]
        for values in (
            metric_sparse_categorical_accuracy(PAGE_LABELS, PAGE),
            metric_categorical_accuracy(one_hot, PAGE),
            metric_sparse_top_k_categorical_accuracy(PAGE_LABELS, PAGE, 1),
        ):
            assert values.tolist() == [1, 0]
            assert values.dtype == np.float32
        assert metric_sparse_top_k_categorical_accuracy(PAGE_LABELS, PAGE).tolist() == [1, 1]
        values = metric_sparse_categorical_crossentropy(PAGE_LABELS, PAGE)
        np.testing.assert_allclose(values, [0.05129339, 2.30258509], rtol=0, atol=5e-9)
        assert values.dtype == np.float64

    def test_the_page_s_weights(self) -> None:
        weights = [0.3, 0.7]
        metric = metric_sparse_categorical_crossentropy()
        metric.update_state(PAGE_LABELS, PAGE, weights)
        assert metric.result() == pytest.approx(1.6271976, abs=5e-8)
        metric = scored(metric_sparse_categorical_accuracy(), (PAGE_LABELS, PAGE, weights))
        assert metric.result() == pytest.approx(0.3, abs=1e-15)
        values = metric_sparse_categorical_accuracy(PAGE_LABELS, PAGE, sample_weight=weights)
        np.testing.assert_array_equal(values, np.float32([0.3, 0]))

    @pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
    @pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float32", "float64"])
    def test_accuracies_are_their_definition(self, shape: Any, dtype: Any) -> None:
        shape, axis = shape
        rng = np.random.default_rng(3)
        x = rng.integers(-4, 5, shape).astype(dtype)  # full of ties
        classes = shape[axis]
        y = rng.integers(0, classes, np.delete(shape, axis))
        for k in (0, 1, 2, 5, classes, classes + 3):
            values = metric_sparse_top_k_categorical_accuracy(y, x, k, axis=axis, ignore_class=1)
            np.testing.assert_array_equal(values, hits(y, x, k, {1}, axis))
        top = metric_sparse_categorical_accuracy(y, x, axis=axis)
        np.testing.assert_array_equal(top, hits(y, x, 1, (), axis))
        np.testing.assert_array_equal(top, x.argmax(axis) == y)
        targets = np.moveaxis(np.eye(classes)[y], -1, axis)
        np.testing.assert_array_equal(top, metric_categorical_accuracy(targets, x, axis=axis))

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_any_layout(self, layout: str) -> None:
        rng = np.random.default_rng(5)
        x, y = rng.normal(size=(9, 7)), rng.integers(0, 7, 9)
        lying = LAYOUTS[layout](x)
        np.testing.assert_array_equal(
            metric_sparse_top_k_categorical_accuracy(y, lying, 3), hits(y, x, 3)
        )
        np.testing.assert_array_equal(metric_categorical_accuracy(np.eye(7)[y], lying), hits(y, x))
        one, other = (SparseCategoricalCrossentropyMetric(from_logits=True) for _ in range(2))
        one.update_state(y, x)
        other.update_state(y, lying)
        assert other.result() == pytest.approx(one.result(), rel=1e-14)

    def test_the_first_maximum_wins(self) -> None:
        y, x = np.arange(4), np.full((4, 4), 0.25)
        assert metric_sparse_categorical_accuracy(y, x).tolist() == [1, 0, 0, 0]
        assert metric_sparse_top_k_categorical_accuracy(y, x, 3).tolist() == [1, 1, 1, 0]
        soft = [[0.5, 0.5, 0, 0]] * 4
        assert metric_categorical_accuracy(soft, x).tolist() == [1, 1, 1, 1]

    @pytest.mark.parametrize("dtype", ["float16", ml_dtypes.bfloat16, "float32", "float64"])
    @pytest.mark.parametrize("k", [0, 1, 2, 3, 4, 10**6])
    def test_a_row_with_nan_is_wrong_at_every_k(self, k: int, dtype: Any) -> None:
        x = np.array([[1, 0, np.nan], [np.nan, 1, 0], [np.nan] * 3, [2, 1, 0]], dtype)
        values = metric_sparse_top_k_categorical_accuracy([0, 1, 2, 0], x, k)
        assert values.tolist() == [0, 0, 0, float(k > 0)]
        assert metric_categorical_accuracy(np.eye(3)[[0, 1, 2, 0]], x).tolist() == [0, 0, 0, 1]

    def test_infinities_have_their_place(self) -> None:
        x = [[np.inf, np.inf, 0], [-np.inf, -np.inf, -np.inf], [-np.inf, 0, 1]]
        assert metric_sparse_categorical_accuracy([0, 0, 2], x).tolist() == [1, 1, 1]
        assert metric_sparse_categorical_accuracy([1, 1, 0], x).tolist() == [0, 0, 0]

    def test_crossentropies_are_the_losses(self) -> None:
        rng = np.random.default_rng(7)
        x, y = rng.normal(size=(4, 6, 5)), rng.integers(0, 6, (4, 5))
        options: dict[str, Any] = {"from_logits": True, "axis": 1, "ignore_class": {2, 5}}
        want = loss_sparse_categorical_crossentropy(y, x, **options)
        got = metric_sparse_categorical_crossentropy(y, x, **options)
        assert got.tobytes() == want.tobytes()
        w = rng.normal(size=4)
        got = metric_sparse_categorical_crossentropy(y, x, sample_weight=w, **options)
        np.testing.assert_allclose(got, want * w[:, None], rtol=1e-15)
        p = rng.random((4, 3))
        for normalize in ("after", "before", "never"):
            got = metric_sparse_categorical_crossentropy([0, 1, 2, 0], p, normalize=normalize)
            want = loss_sparse_categorical_crossentropy([0, 1, 2, 0], p, normalize=normalize)
            assert got.tobytes() == want.tobytes()

    @every_form
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ml_dtypes.bfloat16])
    def test_dtype_sets_the_values_dtype(self, function: Any, dtype: Any) -> None:
        y = given_to(function, PAGE_LABELS, 3)
        assert function(y, PAGE, dtype=dtype).dtype == np.dtype(dtype)
        assert function(y, PAGE, sample_weight=2, dtype=dtype).dtype == np.dtype(dtype)
        assert FORMS[function](dtype=dtype).dtype == np.dtype(dtype).name
        assert type(scored(function(dtype=dtype), (y, PAGE)).result()) is float

    @every_form
    def test_floatx_and_y_pred_set_it_otherwise(self, function: Any) -> None:
        x = PAGE.astype(np.float16)
        crossentropy = function is metric_sparse_categorical_crossentropy
        y = given_to(function, PAGE_LABELS, 3)
        assert function(y, x).dtype == (np.float16 if crossentropy else np.float32)
        sx.config_set_floatx("float64")
        try:
            assert function(y, x).dtype == (np.float16 if crossentropy else np.float64)
            assert function().dtype == "float64"
        finally:
            sx.config_set_floatx("float32")

    @every_form
    def test_a_single_value_is_a_scalar(self, function: Any) -> None:
        value = function(given_to(function, 1, 3), PAGE[0])
        assert isinstance(value, np.floating)
        assert isinstance(function(given_to(function, 1, 3), PAGE[0], sample_weight=2), np.floating)
        metric = scored(function(), (given_to(function, 1, 3), PAGE[0], 2.0))
        assert metric.result() == pytest.approx(float(value), rel=1e-7)

    @every_form
    def test_no_labels_give_nothing(self, function: Any) -> None:
        y, x = given_to(function, np.zeros(0, int), 3), np.zeros((0, 3))
        assert function(y, x).shape == (0,)
        assert scored(function(), (y, x), (y, x, np.zeros(0)), (y, x, 1)).result() == 0

    @every_sparse_form
    def test_labels_of_any_kind(self, function: Any) -> None:
        want = function(PAGE_LABELS, PAGE)
        for y in (np.array([[1], [2]]), [1.0, 2.0], np.array([1, 2], np.uint8), (1, 2)):
            assert function(y, PAGE).tobytes() == want.tobytes()

    @every_form
    def test_inputs_stay_as_they_are(self, function: Any) -> None:
        y, x, w = given_to(function, PAGE_LABELS, 3), PAGE.copy(), np.array([0.3, 0.7])
        before = np.array(y).tobytes(), x.tobytes(), w.tobytes()
        function(y, x, sample_weight=w)
        scored(function(), (y, x, w))
        assert (np.array(y).tobytes(), x.tobytes(), w.tobytes()) == before


# ---- ignored labels and weights -----------------------------------------------------------------


@pytest.mark.usefixtures("engine")
class TestIgnoredLabelsAndWeights:
    @every_sparse_form
    @pytest.mark.parametrize("ignored", [255, 255.0, [255, -1], {255, 7}, np.array([255])])
    def test_ignored_labels_count_nowhere(self, function: Any, ignored: Any) -> None:
        x = np.vstack([PAGE, np.full(3, np.nan)])
        y, w = [1, 2, 255], [0.3, 0.7, np.nan]
        assert function(y, x, ignore_class=ignored)[2] == 0
        assert function(y, x, ignore_class=ignored, sample_weight=w)[2] == 0
        bare, weighted = function(ignore_class=ignored), function(ignore_class=ignored)
        assert bits(scored(bare, (y, x))) == bits(scored(function(), (PAGE_LABELS, PAGE)))
        want = scored(function(), (PAGE_LABELS, PAGE, w[:2]))
        assert bits(scored(weighted, (y, x, w))) == bits(want)

    @every_sparse_form
    def test_nothing_kept_is_0(self, function: Any) -> None:
        metric = function(ignore_class=[0, 1, 2])
        assert metric.result() == 0
        assert scored(metric, (PAGE_LABELS, PAGE), (PAGE_LABELS, PAGE, [1, 2])).result() == 0
        assert scored(function(), (PAGE_LABELS, PAGE, 0.0)).result() == 0
        assert scored(function(), (PAGE_LABELS, PAGE, [1, -1])).result() == 0

    def test_weight_0_is_0_even_of_inf_and_nan(self) -> None:
        x = np.array([[0.0, -np.inf], [np.nan, 0.0], [0.0, 0.0]])
        w = [0, 0, 2]
        values = metric_sparse_categorical_crossentropy([1, 0, 0], x, True, sample_weight=w)
        assert values.tolist() == [0, 0, pytest.approx(2 * np.log(2), rel=1e-15)]
        metric = scored(metric_sparse_categorical_crossentropy(from_logits=True), ([1, 0, 0], x, w))
        assert metric.result() == pytest.approx(np.log(2), rel=1e-15)
        metric.update_state([1], x[:1])
        assert metric.result() == math.inf
        metric.update_state([0], x[1:2])
        assert math.isnan(metric.result())
        metric.reset_state()
        assert metric.result() == 0

    @every_form
    def test_weights_are_aligned_as_for_the_losses(self, function: Any) -> None:
        rng = np.random.default_rng(11)
        x, y = rng.random((3, 3, 4)), rng.integers(0, 4, (3, 3))
        sent = given_to(function, y, 4)
        values = function(sent, x)
        for w in (2, np.float32(0.5), rng.random(3), rng.random((3, 1)), rng.random((1, 3)),
                  rng.random((3, 3, 1)), rng.random((3, 3)) > 0.5, -rng.random((3, 3)),
                  rng.integers(0, 4, (3, 3)), [1, 0, 2]):  # fmt: skip
            a = np.asarray(w, np.float64)
            full = a[:, None] if a.shape == (3,) else a[..., 0] if a.ndim == 3 else a
            full = np.broadcast_to(full, (3, 3))
            got = function(sent, x, sample_weight=w)
            np.testing.assert_allclose(got, values * full, rtol=1e-6)
            metric = scored(function(), (sent, x, w))
            want = (values.astype(np.float64) * full).sum() / full.sum()
            assert metric.result() == pytest.approx(want, rel=1e-12)

    def test_the_mean_is_over_the_weights(self) -> None:
        metric = scored(
            SparseCategoricalAccuracy(),
            (PAGE_LABELS, PAGE, [1, 3]),
            ([0], PAGE[:1], 4),
            ([1], PAGE[:1]),
        )
        assert metric.result() == (1 + 1) / (1 + 3 + 4 + 1)

    @every_form
    def test_an_infinite_weight_leaves_no_mean(self, function: Any) -> None:
        metric = scored(function(), (given_to(function, PAGE_LABELS, 3), PAGE, [np.inf, 1]))
        assert math.isnan(metric.result())


# ---- the state ----------------------------------------------------------------------------------


def example(seed: int, labels: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(labels, 4)) * 10.0 ** rng.integers(-3, 4, (labels, 1))
    return rng.integers(-1, 4, labels), x, rng.normal(size=labels) * 10.0 ** rng.integers(-9, 9)


MADE: dict[str, Callable[[], Any]] = {
    "accuracy": lambda: SparseCategoricalAccuracy(ignore_class=-1),
    "top 2": lambda: SparseTopKCategoricalAccuracy(2, ignore_class=-1),
    "crossentropy": lambda: SparseCategoricalCrossentropyMetric(from_logits=True, ignore_class=-1),
}
each_kind = pytest.mark.parametrize("kind", MADE)


@pytest.mark.usefixtures("engine")
class TestState:
    @each_kind
    @pytest.mark.parametrize("weighted", [True, False])
    @FEW
    @given(data=st.data())
    def test_any_cut_order_and_merge_give_the_same_bits(
        self, kind: str, weighted: bool, data: Any
    ) -> None:
        n = data.draw(st.integers(0, 40))
        y, x, w = example(data.draw(st.integers(0, 99)), n)
        if weighted and data.draw(st.booleans()):
            w = data.draw(npst.arrays(np.float64, n, elements=st.floats(-1e300, 1e300)))
        sent = [(y, x, w) if weighted else (y, x)]
        whole = scored(MADE[kind](), *sent)
        cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=5)))
        pieces = zip([0, *cuts], [*cuts, n], strict=True)
        batches = [tuple(a[i:j] for a in sent[0]) for i, j in pieces]
        batches = data.draw(st.permutations(batches))
        shards = [MADE[kind]() for _ in range(data.draw(st.integers(1, 4)))]
        for batch in batches:
            data.draw(st.sampled_from(shards)).update_state(*batch)
        first, *others = data.draw(st.permutations(shards))
        for other in others:
            first.merge(pickle.loads(pickle.dumps(other)) if data.draw(st.booleans()) else other)
        assert bits(first) == bits(whole)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_one_shot_is_right_to_1e14(self, dtype: str) -> None:
        rng = np.random.default_rng(13)
        x, y = rng.normal(size=(5000, 7)), rng.integers(0, 7, 5000)
        w = rng.random(5000)
        l = loss_sparse_categorical_crossentropy(y, x, True)
        exact = sum(Fraction(a) * Fraction(b) for a, b in zip(l.tolist(), w.tolist(), strict=True))
        want = float(exact / sum(map(Fraction, w.tolist())))
        metric = SparseCategoricalCrossentropyMetric(from_logits=True, dtype=dtype)
        assert scored(metric, (y, x, w)).result() == pytest.approx(want, rel=1e-14, abs=0)
        loss = sx.SparseCategoricalCrossentropy(
            from_logits=True, dtype="float64", reduction="mean_with_sample_weight"
        )
        assert metric.result() == pytest.approx(float(loss(y, x, w)), rel=1e-14, abs=0)
        hit = scored(SparseCategoricalAccuracy(dtype=dtype), (y, x))
        assert hit.result() == (x.argmax(-1) == y).mean()

    def test_halves_are_not_rounded_twice(self) -> None:
        rng = np.random.default_rng(17)
        x, y = rng.normal(size=(70_000, 5)).astype(np.float16), rng.integers(0, 5, 70_000)
        metric = scored(SparseCategoricalCrossentropyMetric(from_logits=True), (y, x))
        wide = SparseCategoricalCrossentropyMetric(from_logits=True, dtype="float64")
        assert metric.result() == pytest.approx(scored(wide, (y, x)).result(), rel=1e-7)

    @every_form
    def test_reset_forgets(self, function: Any) -> None:
        y = given_to(function, PAGE_LABELS, 3)
        metric = scored(function(), (y, PAGE))
        assert metric.result() > 0
        assert metric.reset_state() is None
        assert metric.result() == 0
        assert scored(metric, (y, PAGE)).result() == scored(function(), (y, PAGE)).result()

    @every_form
    def test_a_refused_batch_adds_nothing(self, function: Any) -> None:
        y = given_to(function, PAGE_LABELS, 3)
        metric = scored(function(), (y, PAGE, [0.3, 0.7]))
        before = metric.result()
        for bad in (
            ([1, 3], PAGE), (y, PAGE, [1, np.nan]), (y, PAGE, [1, 2, 3]), (y, PAGE[:1]), (y, "a"),
        ):  # fmt: skip
            with pytest.raises((TypeError, ValueError)):
                metric.update_state(*bad)
            assert metric.result() == before

    @every_form
    def test_pickle_and_copy_carry_the_state(self, function: Any) -> None:
        y = given_to(function, PAGE_LABELS, 3)
        metric = scored(function(name="mine"), (y, PAGE, [1e-20, 3e20]))
        made = [pickle.loads(pickle.dumps(metric, p)) for p in range(pickle.HIGHEST_PROTOCOL + 1)]
        for again in [*made, copy.copy(metric), copy.deepcopy(metric)]:
            assert type(again) is type(metric)
            assert again.get_config() == metric.get_config()
            assert bits(again) == bits(metric)
            before = bits(metric)
            again.update_state(y, PAGE, [2, -1])
            assert bits(metric) == before
            assert bits(again) == bits(scored(copy.copy(metric), (y, PAGE, [2, -1])))

    def test_a_state_that_is_not_finite_is_carried_too(self) -> None:
        metric = SparseCategoricalCrossentropyMetric(from_logits=True)
        metric.update_state([0], [[-np.inf, 0.0]])
        assert pickle.loads(pickle.dumps(metric)).result() == math.inf

    def test_merging_leaves_the_other_as_it_is(self) -> None:
        one = scored(SparseCategoricalAccuracy(), (PAGE_LABELS, PAGE))
        other = scored(SparseCategoricalAccuracy(name="other"), ([1], PAGE[:1]))
        assert one.merge(other) is None
        assert (one.result(), other.result()) == (2 / 3, 1.0)
        one.merge(one)
        assert one.result() == 2 / 3

    def test_what_does_not_merge_is_named(self) -> None:
        metric = SparseTopKCategoricalAccuracy(3)
        with pytest.raises(
            TypeError, match=r"^other must be a SparseTopKCategoricalAccuracy, got "
        ):
            metric.merge(SparseCategoricalAccuracy())  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"^other must have k=3, got k=5: "):
            metric.merge(SparseTopKCategoricalAccuracy())
        ignoring = SparseTopKCategoricalAccuracy(3, ignore_class=[1, 2])
        with pytest.raises(ValueError, match=r"ignore_class=None, got ignore_class=\[1, 2\]: "):
            metric.merge(ignoring)


# ---- the config ---------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "an axis": {"axis": -1.0, "name": "mine"},
    "a dtype": {"dtype": np.dtype("float64"), "axis": 1},
    "ignored classes": {"ignore_class": {9, 2}},
    "k": {"k": 2.0},
    "logits": {"from_logits": True, "normalize": "never"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@every_form
def test_an_object_is_made_again_from_its_config(function: Any, options: dict[str, Any]) -> None:
    form = FORMS[function]
    if not set(options) <= set(form().get_config()):
        return
    metric = form(**options)
    config = json.loads(json.dumps(metric.get_config(), allow_nan=False))
    assert config == metric.get_config() == function(**options).get_config()
    again = form.from_config(config)
    assert type(again) is form
    assert again.get_config() == config
    assert (again.name, again.dtype) == (config["name"], config["dtype"])
    shown = repr(metric)
    assert shown.startswith(f"<{form.__name__}(")
    assert shown.endswith("): 0.0>")
    assert "\n" not in shown
    made = eval(shown[1:].rpartition(":")[0], {form.__name__: form})
    assert made.get_config() == config


def test_repr_tells_the_result() -> None:
    metric = scored(SparseTopKCategoricalAccuracy(k=1, ignore_class=-1), (PAGE_LABELS, PAGE))
    assert repr(metric) == "<SparseTopKCategoricalAccuracy(k=1, ignore_class=-1): 0.5>"


@every_form
def test_an_object_is_equal_to_itself_alone(function: Any) -> None:
    metric = function()
    assert metric == metric
    assert metric != function()
    assert {metric: 1}[metric] == 1
    with pytest.raises(AttributeError):
        metric.name = "other"
    with pytest.raises(AttributeError):
        metric.axis = 0


# ---- refusals -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("engine")
class TestRefusals:
    @every_form
    def test_one_of_the_two_alone(self, function: Any) -> None:
        name = function.__name__
        says = rf"^y_pred is missing, y_true was given: {name}\(\) takes both \(one value per label"
        with pytest.raises(TypeError, match=says):
            function(PAGE_LABELS)
        with pytest.raises(TypeError, match=rf"^y_true is missing, y_pred was given: {name}"):
            function(y_pred=PAGE)

    @every_form
    def test_unknown_names(self, function: Any) -> None:
        with pytest.raises(TypeError, match=rf"'nam' is not .* {function.__name__}.*'name'"):
            function(nam="a")
        with pytest.raises(TypeError, match=r"'ax' is not .*did you mean 'axis'"):
            function(given_to(function, PAGE_LABELS, 3), PAGE, ax=1)
        with pytest.raises(
            TypeError, match=rf"'nam' is not an argument of {FORMS[function].__name__}"
        ):
            FORMS[function](nam="a")

    @every_form
    def test_weights_without_data(self, function: Any) -> None:
        with pytest.raises(TypeError, match=r"^sample_weight was given to .* without data"):
            function(sample_weight=[1, 2])
        with pytest.raises(TypeError, match=r"^sample_weight is an argument of update_state"):
            FORMS[function](sample_weight=[1, 2])

    @pytest.mark.parametrize(
        ("k", "error", "says"),
        [
            (-1, ValueError, "k must be a whole number from 0 up, got -1: "),
            (1.5, ValueError, "k must be a whole number, got 1.5"),
            (np.nan, ValueError, "k must be a whole number, got nan"),
            (True, TypeError, "k must be a whole number, got True (a bool; "),
            (np.True_, TypeError, "k must be a whole number, got "),
            ("5", TypeError, "k must be a whole number, got '5' (str)"),
            (None, TypeError, "k must be a whole number, got None"),
        ],
    )
    def test_k(self, k: Any, error: Any, says: str) -> None:
        for call in (
            lambda: SparseTopKCategoricalAccuracy(k=k),
            lambda: metric_sparse_top_k_categorical_accuracy(k=k),
            lambda: metric_sparse_top_k_categorical_accuracy(PAGE_LABELS, PAGE, k),
        ):
            with pytest.raises(error) as refused:
                call()
            assert str(refused.value).startswith(says)

    @pytest.mark.parametrize("k", [1, 1.0, np.int8(1), np.array(1), np.float64(1)])
    def test_k_of_any_kind(self, k: Any) -> None:
        assert metric_sparse_top_k_categorical_accuracy(PAGE_LABELS, PAGE, k).tolist() == [1, 0]
        assert type(SparseTopKCategoricalAccuracy(k).get_config()["k"]) is int

    @every_sparse_form
    @pytest.mark.parametrize(
        ("y", "w", "says"),
        [
            ([1, 3], None, "got 3 at (1,); labels look 1-based: use y - 1"),
            ([1, 3], [1, 0], "got 3 at (1,); labels look 1-based: use y - 1"),
            ([0, -1], None, "got -1 at (1,); if -1 marks what should not count"),
            ([0, 1.5], None, "got 1.5 at (1,)"),
            ([0, np.nan], None, "got nan (NA in R) at (1,)"),
            ([0], None, "expected (2,)"),
            (np.eye(3)[[1, 2]], None, "look one-hot"),
            (["a", "b"], None, "y_true must hold"),
            ([0, 1], [1, np.nan], "sample_weight must hold numbers: got nan (NA in R) at (1,)"),
            ([0, 1], [1, -(2**31)], "sample_weight must hold numbers: got -2147483648"),
            ([0, 1], [1, 2, 3], "sample_weight must have the losses' shape (2,)"),
            ([0, 1], ["a", "b"], "sample_weight must"),
        ],
    )
    def test_labels_and_weights(self, function: Any, y: Any, w: Any, says: str) -> None:
        for call in (
            lambda: function(y, PAGE, sample_weight=w),
            lambda: function().update_state(y, PAGE, w),
        ):
            with pytest.raises((TypeError, ValueError)) as refused:
                call()
            assert says in str(refused.value)
            assert "\n" not in str(refused.value)

    def test_targets(self) -> None:
        for targets, says in (
            ([[0, 1, 0], [0, 0, -1]], "got -1 at (1, 2)"),
            ([[0, np.nan, 0], [0, 0, 1]], "got nan at (0, 1)"),
            (PAGE_LABELS, "for one integer a label use metric_sparse_categorical_accuracy"),
        ):
            for call in (metric_categorical_accuracy, CategoricalAccuracy().update_state):
                with pytest.raises(ValueError) as refused:
                    call(targets, PAGE)
                assert says in str(refused.value)
        half = np.array([[0, np.nan, 0]], ml_dtypes.bfloat16)
        with pytest.raises(ValueError, match="got nan"):
            metric_categorical_accuracy(half, PAGE[:1])

    @every_form
    def test_axes_and_kinds_of_scores(self, function: Any) -> None:
        y = given_to(function, PAGE_LABELS, 3)
        with pytest.raises(ValueError, match="axis"):
            function(y, PAGE, axis=2)
        with pytest.raises(ValueError, match="axis"):
            function(axis=5).update_state(y, PAGE)
        with pytest.raises(TypeError, match="^y_pred"):
            function(y, PAGE + 1j)
        with pytest.raises(TypeError, match="^axis"):
            function(axis=True)


@every_form
def test_arrays_on_a_device_are_refused(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import fake_cuda

    fake_cuda.install(monkeypatch, fake_cuda.Gpu())
    fake_cuda.forget_adapters(monkeypatch)
    cupy = fake_cuda.Cupy(monkeypatch)
    y, x = given_to(function, PAGE_LABELS, 3), cupy.asarray(PAGE)
    for call in (function, function().update_state):
        with pytest.raises(
            TypeError, match=r"^y_pred must lie in the host's memory, got a .*cuda:0"
        ):
            call(y, x)


def test_scores_that_cannot_be_probabilities_are_warned_of() -> None:
    x = [[5.0, -3.0], [1.0, 0.0]]
    for call in (
        metric_sparse_categorical_crossentropy,
        metric_sparse_categorical_crossentropy().update_state,
    ):
        with pytest.warns(UserWarning, match=r"^y_pred must hold probabilities.*logits") as said:
            call([0, 1], x)
        assert [w.filename for w in said] == [__file__]
    metric_sparse_categorical_accuracy([0, 1], x)


# ---- Keras --------------------------------------------------------------------------------------

RNG = np.random.default_rng(19)
LOGITS = RNG.permutation(240).reshape(8, 6, 5) / 100  # without ties
LABELS = RNG.integers(0, 5, (8, 6))
WEIGHTS = RNG.random((8, 6)).round(3)
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
VOID = [[1, 2, 255, 0, 255, 1, 255, 2], RNG.dirichlet(np.ones(3), 8).round(4)]

KERAS = """
import json, sys
import keras, numpy as np
m, said = keras.metrics, {}
d = {k: np.array(v) for k, v in json.load(sys.stdin).items()}
y, x, w = d["y"].astype("int32"), d["x"], d["w"]
def mean(metric, *data):
    metric.update_state(*map(keras.ops.convert_to_tensor, data))
    return float(metric.result())
for name, weights in (("", ()), (" weighted", (w,))):
    said["accuracy" + name] = mean(m.SparseCategoricalAccuracy(), y, x, *weights)
    for k in (1, 2, 4):
        said[f"top {k}" + name] = mean(m.SparseTopKCategoricalAccuracy(k), y, x, *weights)
    logits = m.SparseCategoricalCrossentropy(from_logits=True)
    said["logits" + name] = mean(logits, y, x, *weights)
    said["probabilities" + name] = mean(m.SparseCategoricalCrossentropy(), y, d["p"], *weights)
    one_hot = np.eye(5)[y]
    said["one-hot" + name] = mean(m.CategoricalAccuracy(), one_hot, x, *weights)
ties = np.zeros((3, 3)), np.array([0, 1, 2], "int32")
said["ties"] = mean(m.SparseTopKCategoricalAccuracy(2), ties[1], ties[0])
void = d["void_y"].astype("int32"), d["void_p"]
said["void"] = mean(m.SparseCategoricalCrossentropy(ignore_class=255), *void)
loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=255)
said["void loss"] = float(loss(*map(keras.ops.convert_to_tensor, void)))
print(json.dumps(said))
"""


@pytest.fixture(scope="module", params=["torch", "jax"])
def keras(request: pytest.FixtureRequest, tmp_path_factory: Any) -> dict[str, float]:
    """What Keras's metrics say of the same data, in a process of its own."""
    for name in ("keras", request.param):
        if importlib.util.find_spec(name) is None:
            require_peer(name)  # which skips; Keras, if it is there, would bring TensorFlow along
    sent = dict(x=LOGITS, y=LABELS, w=WEIGHTS, p=PROBABILITIES, void_y=VOID[0], void_p=VOID[1])
    home = str(tmp_path_factory.mktemp("keras"))
    done = subprocess.run(
        [sys.executable, "-c", KERAS],
        input=json.dumps({key: np.asarray(value).tolist() for key, value in sent.items()}),
        env={**os.environ, "KERAS_BACKEND": request.param, "KERAS_HOME": home,
             "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True,
        text=True,
        timeout=170,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answers


def test_results_are_keras_s(keras: dict[str, float]) -> None:
    for name, weights in (("", ()), (" weighted", (WEIGHTS,))):
        ours = {
            "accuracy": scored(SparseCategoricalAccuracy(), (LABELS, LOGITS, *weights)),
            "logits": scored(
                SparseCategoricalCrossentropyMetric(from_logits=True), (LABELS, LOGITS, *weights)
            ),
            "probabilities": scored(
                SparseCategoricalCrossentropyMetric(normalize="before"),
                (LABELS, PROBABILITIES, *weights),
            ),
            "one-hot": scored(CategoricalAccuracy(), (np.eye(5)[LABELS], LOGITS, *weights)),
        }
        for k in (1, 2, 4):
            top = SparseTopKCategoricalAccuracy(k)
            ours[f"top {k}"] = scored(top, (LABELS, LOGITS, *weights))
        for what, metric in ours.items():
            assert metric.result() == pytest.approx(keras[what + name], rel=2e-6), what


def test_keras_counts_all_ties_among_the_top_k(keras: dict[str, float]) -> None:
    metric = scored(SparseTopKCategoricalAccuracy(2), ([0, 1, 2], np.zeros((3, 3))))
    assert metric.result() == 2 / 3
    assert keras["ties"] == 1


def test_keras_counts_ignored_labels_in_its_metric_s_divisor(keras: dict[str, float]) -> None:
    metric = SparseCategoricalCrossentropyMetric(ignore_class=255, normalize="before")
    ours = scored(metric, VOID).result()
    assert ours == pytest.approx(keras["void loss"], rel=2e-6)
    assert keras["void"] == pytest.approx(ours * 5 / 8, rel=2e-6)


# ---- torchmetrics -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_results_over_batches_are_torchmetrics_s(seed: int) -> None:
    """With labels to ignore, and without ties, which it decides in another way."""
    require_peer("torchmetrics")
    import torch
    from torchmetrics.classification import MulticlassAccuracy
    from torchmetrics.text import Perplexity

    r = np.random.default_rng(seed)
    classes = int(r.integers(6, 12))
    theirs = {
        k: MulticlassAccuracy(classes, top_k=k, average="micro", ignore_index=-100)
        for k in (1, 2, 5)
    }
    perplexity = Perplexity(ignore_index=-100)
    ours = {k: SparseTopKCategoricalAccuracy(k, ignore_class=-100) for k in theirs}
    ours[1] = SparseCategoricalAccuracy(ignore_class=-100)
    crossentropy = SparseCategoricalCrossentropyMetric(from_logits=True, ignore_class=-100)
    state: Any = 0
    for sequences in r.integers(1, 9, 4):
        x = r.normal(size=(sequences, 7, classes))
        y = np.where(r.random((sequences, 7)) < 0.2, -100, r.integers(0, classes, (sequences, 7)))
        scores, labels = torch.tensor(x), torch.tensor(y)
        for k, metric in theirs.items():
            metric.update(scores.reshape(-1, classes), labels.reshape(-1))
            ours[k].update_state(y, x)
        perplexity.update(scores, labels)
        crossentropy.update_state(y, x)
        state += sx.partial(y, x, from_logits=True, ignore_class=-100, top_k=tuple(theirs))
    for k, metric in theirs.items():
        assert ours[k].result() == pytest.approx(float(metric.compute()), rel=1e-6)
        assert state.accuracy(k) == ours[k].result()
    assert math.exp(crossentropy.result()) == pytest.approx(float(perplexity.compute()), rel=1e-5)
    assert state.perplexity == pytest.approx(math.exp(crossentropy.result()), rel=1e-15)
