"""The formulas of libraries that trace, in NumPy's operations: without JAX and TensorFlow.

What is recorded beside the losses is their slope: it is held against the gradient that NumPy's
engines write, as the losses are against their losses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import inside
import numpy as np
import pytest
from conftest import KINDS, REDUCTIONS, TOLERANCES
from hypothesis import given
from hypothesis import strategies as st

import sparse_xent as sx

SPARSE, SOFT = sx.SparseCategoricalCrossentropy, sx.CategoricalCrossentropy
NAN, INF = math.nan, math.inf


class Operations:
    """NumPy as a library that traces: its arrays have values, or are taken to have none yet."""

    name, outside, differentiates_by_values = "numpy", "nothing", True

    def __init__(self, known: bool) -> None:
        self.exp, self.log, self.log1p, self.floor = np.exp, np.log, np.log1p, np.floor
        self.isnan, self.isinf, self.where, self.clip = np.isnan, np.isinf, np.where, np.clip
        self.expand, self.squeeze, self.reshape = np.expand_dims, np.squeeze, np.reshape
        self.array = self.numpy = np.asarray
        self.known = known
        self.gradients: list[Any] = []  # of the sum of the losses, by each operand

    def owns(self, array: object) -> bool:
        return isinstance(array, np.ndarray)

    def is_concrete(self, array: Any) -> bool:
        return self.known

    def is_on_host(self, array: Any) -> bool:
        return True

    def shape(self, array: Any) -> Any:
        return array.shape

    def dtype(self, array: Any) -> Any:
        return np.asarray(array).dtype

    def check_dtype(self, dtype: str) -> None:
        pass

    def widest(self, kind: str) -> str:
        return f"{kind}64"

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arrays: Any) -> Any:
            with np.errstate(all="ignore"):
                return function(*arrays)

        return called

    def differentiable(self, formula: Any, operands: Any, others: Any, axis: int) -> Any:
        losses, slopes = formula(self, *operands, *others)
        self.gradients = []
        for slope, operand in zip(slopes(), operands, strict=True):
            made = np.zeros(operand.shape) if slope.dense is None else slope.dense
            made = np.array(np.broadcast_to(made, operand.shape))
            if slope.at_target is not None:
                at = np.take_along_axis(made, slope.t, axis) + slope.at_target
                np.put_along_axis(made, slope.t, at, axis)
            self.gradients.append(made)
        return losses

    def gradient_of(self, argument: str) -> str:
        raise NotImplementedError

    def cast(self, a: Any, dtype: str) -> Any:
        return np.asarray(a, dtype)

    def stop_gradient(self, a: Any) -> Any:
        return a

    def sum(self, a: Any, axis: int | None = None) -> Any:
        return np.sum(a, axis, keepdims=axis is not None)

    def max(self, a: Any, axis: int) -> Any:
        return np.max(a, axis, keepdims=True)

    def argmax(self, a: Any, axis: int) -> Any:
        return np.argmax(a, axis, keepdims=True).astype("int32")

    def any(self, a: Any, axis: int) -> Any:
        return np.any(a, axis, keepdims=True)

    def classes(self, a: Any, axis: int) -> Any:
        return np.arange(a.shape[axis]).reshape([-1 if k == axis else 1 for k in range(a.ndim)])

    def take(self, a: Any, t: Any, axis: int) -> Any:
        return np.take_along_axis(a, t, axis)

    def put(self, a: Any, t: Any, value: Any, axis: int) -> Any:
        made = a.copy()
        np.put_along_axis(made, t, value, axis)
        return made

    def leave_out(self, e: Any, t: Any, axis: int) -> Any:
        return self.put(e, t, 0.0, axis)

    def lookup(self, vector: Any, t: Any, dtype: str) -> Any:
        return np.asarray(vector, dtype)[t]

    def size(self, a: Any, dtype: str) -> Any:
        return np.asarray(a.size, dtype)

    def losses_shape(self, x: Any, axis: int) -> Any:
        return x.shape[:axis] + x.shape[axis + 1 :]


def case(shape: tuple[int, ...], axis: int, kind: str, dtype: str = "float64") -> tuple[Any, Any]:
    """Labels and scores, some of which are ignored or clipped."""
    rng = np.random.default_rng(list(shape))
    x = 3 * rng.normal(size=shape)
    if kind != "logits":
        x = np.exp(x) / np.exp(x).sum(axis, keepdims=True)
        x[rng.random(shape) < 0.1] = 0
    return rng.integers(0, shape[axis], np.delete(shape, axis)), x.astype(dtype)


def close(got: Any, want: Any, dtype: str = "float64", atol: float = 0) -> None:
    np.testing.assert_allclose(got, want, TOLERANCES[dtype], atol)


@pytest.fixture(params=[True, False], ids=["known labels", "traced labels"])
def operations(request: pytest.FixtureRequest) -> Operations:
    return Operations(request.param)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_losses_and_slopes(
    operations: Operations, axis: int, kind: str, smoothing: float, dtype: str
) -> None:
    y, x = case((6, 5, 7), axis, kind, dtype)
    y[0] = 9
    options: dict[str, Any] = {"axis": axis, "label_smoothing": smoothing, "ignore_class": 9}
    losses = SPARSE(**KINDS[kind], **options, reduction=None, dtype=dtype)
    want, gradient = losses.value_and_grad(y, x.astype("float64"))
    got = inside.by_formulas(operations, losses, y, x)
    assert got.dtype == dtype
    few_digits = dtype == "float32" and kind != "logits"  # of a probability near 1
    close(got, want, dtype, 2e-7 if few_digits else 0)
    close(operations.gradients[0], gradient, dtype, 1e-6 if dtype == "float32" else 1e-14)
    assert (operations.gradients[0][gradient == 0] == 0).all() or smoothing == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", ["none", "one a sample", "by class", "infinite"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_weights_and_reductions(
    operations: Operations, reduction: str | None, weights: str, kind: str
) -> None:
    y, x = case((6, 5, 7), -1, kind)
    y[1, 1:3] = 9
    w = np.random.default_rng(1).random((6, 5))
    w[0, :2] = 0
    w = {"one a sample": w, "infinite": np.where(w > 0.9, INF, w)}.get(weights)
    by_class = [0, 1, 2, 0.5, 1, 1, 1] if weights == "by class" else None
    loss = SPARSE(
        **KINDS[kind], reduction=reduction, ignore_class=9, class_weight=by_class, dtype="float64"
    )
    want, _ = loss.value_and_grad(y, x, w)
    close(inside.by_formulas(operations, loss, y, x, w), want)


def test_what_is_infinite_or_nan_counts_as_it_does_in_numpy(operations: Operations) -> None:
    x = np.array([[1, -INF, 2], [1, -INF, 2], [INF, 0, 0], [NAN, 0, 0], [-INF] * 3, [1, 2, 3]])
    y = np.array([0, 1, 0, 1, 2, 1])
    loss = SPARSE(from_logits=True, dtype="float64", reduction=None)
    want, gradient = loss.value_and_grad(y, x)
    np.testing.assert_allclose(inside.by_formulas(operations, loss, y, x), want, 1e-12)
    np.testing.assert_allclose(operations.gradients[0], gradient, 1e-12)
    nothing = np.zeros(6)
    assert (inside.by_formulas(operations, loss, y, x, nothing) == 0).all()
    assert np.isfinite(operations.gradients[0]).all()  # to be multiplied by weights of 0


def test_traced_labels_that_are_no_classes_and_missing_weights_give_nan() -> None:
    operations = Operations(known=False)
    y, x = np.array([0, 3, -1, 2, 7]), case((5, 3), -1, "logits")[1]
    bad = [False, True, True, False, False]
    loss = SPARSE(from_logits=True, ignore_class=7, reduction=None)
    assert np.isnan(inside.by_formulas(operations, loss, y, x)).tolist() == bad
    assert np.isnan(operations.gradients[0]).all(1).tolist() == bad
    w = np.array([1, 0, 1, NAN, NAN])
    got = inside.by_formulas(operations, loss, y, x, w)
    assert np.isnan(got).tolist() == [False, True, True, True, False]
    mean = SPARSE(from_logits=True, ignore_class=7)
    assert np.isnan(inside.by_formulas(operations, mean, y, x))


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_targets(operations: Operations, from_logits: bool, smoothing: float) -> None:
    _, x = case((6, 5), -1, "logits" if from_logits else "before")
    rng = np.random.default_rng(2)
    a = np.where(rng.random((6, 5)) < 0.5, 0, rng.random((6, 5)))
    loss = SOFT(
        from_logits=from_logits, label_smoothing=smoothing, dtype="float64", reduction="sum"
    )
    want, gradient = loss.value_and_grad(a, x)
    close(inside.by_formulas(operations, loss, a, x), want)
    close(operations.gradients[0], gradient, atol=1e-14)


@pytest.mark.parametrize("k", [1, 2, 9])
def test_labels_among_the_k_that_score_highest(operations: Operations, k: int) -> None:
    y, x = case((40, 6), -1, "logits")
    x = np.round(x)
    x[3, 2] = NAN
    y[:5] = 9
    got = inside.hits_by_formulas(operations, y, x, k, ignore_class=9)
    want = sx.metric_sparse_top_k_categorical_accuracy(y, x, k, ignore_class=9)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("score", [-2e-3, 1.002, INF, NAN, 1.0005, -5e-4])
@pytest.mark.parametrize("target_only", [False, True])
def test_scores_that_are_no_probabilities_are_found(score: float, target_only: bool) -> None:
    x = np.full((4, 3), 1 / 3)
    x[2, 1] = score
    y = np.array([0, 1, 1, -1])
    odd = not -1e-3 <= score <= 1.001  # so are rows with NaN, which are then looked at
    found = inside.is_suspicious(Operations(known=True), x, y, target_only)
    assert found == odd
    for other in ([0, 1, -1, 1], [0, 1, 2, 1]):  # ignored, or not read where the target's is
        found = inside.is_suspicious(Operations(known=True), x, np.array(other), target_only)
        assert found == (odd and other[2] == 2 and not target_only)


@given(data=st.data())
def test_any_call_is_numpys(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(2, 4), min_size=1, max_size=4), label="shape"))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1), label="axis")
    kind = data.draw(st.sampled_from(list(KINDS)), label="kind")
    y, x = case(shape, axis, kind)
    w = np.random.default_rng(3).random(y.shape)
    loss = SPARSE(
        **KINDS[kind], axis=axis, dtype="float64",
        reduction=data.draw(st.sampled_from(REDUCTIONS), label="reduction"),
        label_smoothing=data.draw(st.sampled_from([0.0, 0.3, 1.0]), label="smoothing"),
        ignore_class=data.draw(st.sampled_from([None, 0]), label="ignored"),
    )  # fmt: skip
    for known in (True, False):
        got = inside.by_formulas(Operations(known), loss, y, x, w)
        close(got, loss(y, x, w), atol=1e-300)
