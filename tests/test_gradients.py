"""Promises of gradient: value_and_grad's second result is the derivative of its first by y_pred.

Held against 4th-order central differences of the value itself, against the definition in 420
digits, against torch's own autograd, and against what softmax - onehot must satisfy: rows that sum
to 0. Then where it is written: `out`, of any layout, y_pred itself included, or refused before a
byte is written.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import oracle
import pytest
from conftest import KINDS, REDUCTIONS
from oracle import Definition, assert_close

from sparse_xent import (
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
    loss_sparse_categorical_crossentropy,
)

pytestmark = pytest.mark.usefixtures("engine")

NAN, INF = np.nan, np.inf
CLASSES = 5
CLASS_WEIGHT = [0.5, 2.0, 1.0, 0.0, 1.5]


def make(dtype: Any = "float64", **options: Any) -> SparseCategoricalCrossentropy:
    return loss_sparse_categorical_crossentropy(dtype=dtype, **options)


def case(seed: int, rows: int = 8, dtype: Any = "float64") -> tuple[Any, Any, Any]:
    """Labels (one of them 9, to be ignored), rows inside the clip, and weights (one 0, one < 0)."""
    rng = np.random.default_rng(seed)
    y_pred = rng.dirichlet(3 * np.ones(CLASSES), rows).clip(0.05) * rng.uniform(0.7, 1.2, (rows, 1))
    y_true = rng.integers(0, CLASSES, rows)
    y_true[1] = 9
    w = rng.uniform(0.2, 2, rows)
    w[2], w[3] = 0, -0.4
    return y_true, y_pred.astype(dtype), w


def differences(f: Callable[[Any], float], x: Any, h: float = 1e-3) -> Any:
    """4th-order central differences of f at x."""
    gradient = np.empty_like(x)
    for at in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[at] = h
        near, far = f(x + step) - f(x - step), f(x + 2 * step) - f(x - 2 * step)
        gradient[at] = (8 * near - far) / (12 * h)
    return gradient


# ---- what it is ---------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "sample weights"])
@pytest.mark.parametrize("class_weight", [None, CLASS_WEIGHT], ids=["", "class weights"])
@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
@pytest.mark.parametrize("s", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_derivative_of_the_value(
    kind: str, s: float, reduction: str | None, class_weight: Any, weighted: bool
) -> None:
    y_true, y_pred, w = case(31, 5)
    sample_weight = w if weighted else None
    options = dict(
        KINDS[kind],
        label_smoothing=s,
        reduction=reduction,
        ignore_class=9,
        class_weight=class_weight,
    )
    loss = make(**options)
    # differences of a step in relation to the row: log and exp are smooth on this scale
    want = differences(lambda x: float(np.sum(loss(y_true, x, sample_weight))), y_pred, 5e-4)
    value, gradient = loss.value_and_grad(y_true, y_pred, sample_weight)
    np.testing.assert_allclose(gradient, want, rtol=1e-6, atol=1e-8)
    exact, exact_gradient = Definition(**options).value_and_gradient(y_true, y_pred, sample_weight)
    assert_close(value, exact, 1e-13, 1e-15)
    assert_close(gradient, exact_gradient, 1e-13, 2e-14)


@pytest.mark.slow_when(
    # A kernel each: halves are compiled for logits alone in the fast part, and few with smoothing.
    lambda kind, s, dtype: dtype != "float64" and (s > 0 or ("16" in dtype and kind != "logits"))
)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("s", [0.0, 0.2])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_right_in_every_dtype(kind: str, s: float, dtype: str) -> None:
    y_true, y_pred, w = case(32, 12, oracle.FLOATS[dtype])
    options = dict(KINDS[kind], label_smoothing=s, ignore_class=9)
    gradient = make("float32", **options).value_and_grad(y_true, y_pred, w)[1]
    want = Definition(**options).value_and_gradient(y_true, y_pred, w)[1]
    assert gradient.dtype == y_pred.dtype
    wide = float(oracle.finfo(oracle.arithmetic_dtype(y_pred)).eps)
    assert_close(gradient, want, 16 * wide + float(oracle.finfo(dtype).eps) / 2, 8 * wide)


@pytest.mark.parametrize("s", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("shape", "axis"), [((40, 6), -1), ((6, 40), 0), ((3, 500, 4), 1)])
def test_rows_of_a_logit_gradient_sum_to_0(
    shape: tuple[int, ...], axis: int, dtype: str, s: float
) -> None:
    rng = np.random.default_rng(33)
    y_pred = (5 * rng.normal(size=shape)).astype(dtype)
    y_true = rng.integers(0, shape[axis], np.delete(shape, axis))
    loss = make(dtype, from_logits=True, axis=axis, reduction="sum", label_smoothing=s)
    gradient = loss.value_and_grad(y_true, y_pred)[1]
    wide = gradient.astype("float64")
    # smoothed, each entry is a difference of two shares of 1: their size is what rounds
    size = np.abs(wide).sum(axis) if s == 0 else 2.0
    total = np.apply_along_axis(math.fsum, axis, wide)
    assert (np.abs(total) <= 2 * np.finfo(dtype).eps * size).all()


@pytest.mark.parametrize("s", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "class weights"])
def test_logits_agree_with_torchs_autograd(
    peer: Callable[[str], ModuleType], weighted: bool, reduction: str, s: float
) -> None:
    torch = peer("torch")
    rng = np.random.default_rng(34)
    y_pred = rng.normal(size=(30, CLASSES)) * 3
    y_true = rng.integers(0, CLASSES, 30)
    x = torch.tensor(y_pred, requires_grad=True)
    log_p = torch.log_softmax(x, -1)
    a = (1 - s) * torch.eye(CLASSES, dtype=torch.float64)[torch.tensor(y_true)] + s / CLASSES
    class_weight = torch.tensor(CLASS_WEIGHT if weighted else [1.0] * CLASSES, dtype=torch.float64)
    terms = -(a * log_p).sum(-1) * class_weight[torch.tensor(y_true)]
    want = terms.mean() if reduction == "mean" else terms.sum()
    want.backward()
    value, gradient = make(
        from_logits=True,
        label_smoothing=s,
        reduction=reduction,
        class_weight=CLASS_WEIGHT if weighted else None,
    ).value_and_grad(y_true, y_pred)
    np.testing.assert_allclose(np.sum(value), want.item(), rtol=1e-13)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "class weights"])
def test_torchs_own_loss_agrees_on_values_and_gradients(
    peer: Callable[[str], ModuleType], weighted: bool
) -> None:
    """torch's "mean" divides by the weights: here that is "mean_with_sample_weight"."""
    torch = peer("torch")
    rng = np.random.default_rng(35)
    y_pred, y_true = rng.normal(size=(4, CLASSES, 6, 3)), rng.integers(0, CLASSES, (4, 6, 3))
    y_true[0, 0] = -100
    x = torch.tensor(y_pred, requires_grad=True)
    weight = torch.tensor(CLASS_WEIGHT, dtype=torch.float64) if weighted else None
    want = torch.nn.functional.cross_entropy(x, torch.tensor(y_true), weight, ignore_index=-100)
    want.backward()
    value, gradient = make(
        from_logits=True,
        axis=1,
        ignore_class=-100,
        reduction="mean_with_sample_weight",
        class_weight=CLASS_WEIGHT if weighted else None,
    ).value_and_grad(y_true, y_pred)
    assert value == pytest.approx(want.item(), rel=1e-13)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("normalize", ["after", "before", "never"])
@pytest.mark.parametrize("s", [0.0, 0.2])
def test_probabilities_agree_with_torchs_autograd(
    peer: Callable[[str], ModuleType], normalize: str, s: float
) -> None:
    torch = peer("torch")
    y_true, y_pred, _ = case(36)
    y_true[1] = 0
    y_pred[0] = [1, 0, 0, 0, 0]
    p = torch.tensor(y_pred, requires_grad=True)
    given = p / p.sum(-1, keepdim=True) if normalize == "before" else p
    q = given.clamp(1e-7, 1 - 1e-7)
    log_q = q.log() - (q.sum(-1, keepdim=True).log() if normalize == "after" else 0)
    a = (1 - s) * torch.eye(CLASSES, dtype=torch.float64)[torch.tensor(y_true)] + s / CLASSES
    want = -(a * log_q).sum(-1).mean()
    want.backward()
    value, gradient = make(normalize=normalize, label_smoothing=s).value_and_grad(y_true, y_pred)
    assert value == pytest.approx(want.item(), rel=1e-13)
    np.testing.assert_allclose(gradient, p.grad.numpy(), rtol=1e-12, atol=1e-15)


def test_scores_that_are_whole_numbers_have_a_float32_gradient() -> None:
    gradient = make(from_logits=True).value_and_grad([1], np.array([[1, 2, 3]]))[1]
    assert gradient.dtype == np.float32
    gradient = make("float32", from_logits=True).value_and_grad([1], [[1.0, 2.0, 3.0]])[1]
    assert gradient.dtype == np.float64


def test_a_single_row_without_a_batch_has_a_gradient_of_its_shape() -> None:
    value, gradient = make(from_logits=True).value_and_grad(1, np.array([0.5, 1.0, 2.0]))
    want = Definition(from_logits=True).value_and_gradient(1, np.array([0.5, 1.0, 2.0]))
    assert isinstance(value, np.float64)
    assert_close(value, want[0], 1e-15)
    assert_close(gradient, want[1], 1e-15)


# ---- the one-hot sibling ------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "sample weights"])
@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
@pytest.mark.parametrize("s", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("from_logits", [True, False], ids=["logits", "probabilities"])
def test_the_one_hot_siblings_is_the_derivative_of_its_value(
    from_logits: bool, s: float, reduction: str | None, weighted: bool
) -> None:
    """Targets that do not sum to 1 too: softmax times their sum, not softmax alone."""
    _, y_pred, w = case(39, 5)
    targets = np.random.default_rng(40).uniform(0, 2, y_pred.shape).round(1)
    targets[0, 1] = 0
    sample_weight = w if weighted else None
    loss = CategoricalCrossentropy(
        from_logits=from_logits, label_smoothing=s, reduction=reduction, dtype="float64"
    )
    want = differences(lambda x: float(np.sum(loss(targets, x, sample_weight))), y_pred, 5e-4)
    value, gradient = loss.value_and_grad(targets, y_pred, sample_weight)
    np.testing.assert_allclose(gradient, want, rtol=1e-6, atol=1e-8)
    losses, exact = oracle.soft_targets(targets, y_pred, from_logits=from_logits, label_smoothing=s)
    factor = np.ones(5) if sample_weight is None else w
    divisor = {None: 1, "sum": 1, "mean_with_sample_weight": factor.sum()}.get(reduction, 5)
    terms = losses * factor
    assert_close(value, (terms if reduction is None else terms.sum()) / divisor, 1e-13, 1e-15)
    assert_close(gradient, exact * factor[:, None] / divisor, 1e-13, 2e-14)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_the_one_hot_siblings_out_may_be_y_pred_itself(axis: int) -> None:
    rng = np.random.default_rng(40)
    y_pred, targets = rng.normal(size=(4, 5, 3)), rng.uniform(size=(4, 5, 3))
    loss = CategoricalCrossentropy(from_logits=True, axis=axis, dtype="float64")
    value, gradient = loss.value_and_grad(targets, y_pred)
    again, result = loss.value_and_grad(targets, y_pred, out=y_pred)
    assert result is y_pred
    assert again == value
    assert y_pred.tobytes() == gradient.tobytes()


def test_the_one_hot_siblings_rows_of_weight_0_are_0_even_with_nan() -> None:
    y_pred = np.array([[NAN, 1.0], [1.0, 2.0]])
    loss = CategoricalCrossentropy(from_logits=True, dtype="float64")
    value, gradient = loss.value_and_grad([[1, 0], [1, 0]], y_pred, [0, 1])
    assert value == pytest.approx(np.log1p(np.e) / 2, rel=1e-14)
    assert gradient[0].tolist() == [0, 0]


# ---- rows of exact zeros ------------------------------------------------------------------------

TROUBLE = {
    "logits": [NAN, INF, 1.0],
    "after": [NAN, 0.5, 0.5],
    "before": [0.0, 0.0, 0.0],
    "never": [NAN, NAN, NAN],
}


@pytest.mark.parametrize("s", [0.0, 0.2])
@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
class TestExactZeros:
    """A row that does not count adds exactly 0 to value and gradient, even where it holds NaN."""

    def check(self, y_true: Any, kind: str, dtype: str, w: Any, **options: Any) -> None:
        rows = np.array([TROUBLE[kind], [0.2, 0.3, 0.5], TROUBLE[kind]])
        y_pred = rows.astype(oracle.FLOATS[dtype])
        loss = make("float64", **KINDS[kind], **options)
        value, gradient = loss.value_and_grad(y_true, y_pred, w)
        assert gradient[[0, 2]].astype("float64").tolist() == [[0, 0, 0], [0, 0, 0]]
        assert not np.signbit(gradient[[0, 2]].astype("float64")).any()
        assert np.isfinite(gradient.astype("float64")).all()
        assert np.any(gradient[1] != 0)
        terms = np.atleast_1d(value)
        assert np.isfinite(terms).all()
        if terms.size == 3:
            assert terms[[0, 2]].tolist() == [0, 0]
        exact, _ = Definition(**KINDS[kind], **options).value_and_gradient(y_true, y_pred, w)
        assert_close(value, exact, 1e-6, 1e-6)

    def test_ignored_rows(self, kind: str, dtype: str, reduction: str | None, s: float) -> None:
        self.check(
            [7, 2, 7], kind, dtype, None, ignore_class=7, reduction=reduction, label_smoothing=s
        )

    def test_rows_of_weight_0(self, kind: str, dtype: str, reduction: str | None, s: float) -> None:
        self.check([0, 2, 0], kind, dtype, [0, 1, 0], reduction=reduction, label_smoothing=s)

    def test_rows_of_class_weight_0(
        self, kind: str, dtype: str, reduction: str | None, s: float
    ) -> None:
        self.check(
            [0, 2, 0], kind, dtype, None, class_weight=[0, 1, 1], reduction=reduction,
            label_smoothing=s,
        )  # fmt: skip


def test_a_weight_of_0_silences_an_infinite_loss() -> None:
    y_pred = np.array([[-INF, 1.0], [0.0, 1.0]])
    value, gradient = make(from_logits=True, reduction="sum").value_and_grad([0, 1], y_pred, [0, 1])
    assert value == pytest.approx(np.log1p(np.exp(-1)), rel=1e-14)
    assert gradient[0].tolist() == [0, 0]


@pytest.mark.parametrize("w", [1e39, 1e-44], ids=["beyond float32", "below float32"])
def test_a_weight_that_float32_cannot_hold_scales_a_float32_gradient(w: float) -> None:
    """What the product is decides: a masked class stays 0, and what fits is finite."""
    y_pred = np.array([[0, -INF, -5, -40]] if w > 1 else [[2e-7, 1, 0, 0]], "float32")
    options: dict[str, Any] = dict(from_logits=w > 1, normalize="never", reduction="sum")
    gradient = make("float32", **options).value_and_grad([0], y_pred, w)[1]
    want = Definition(**options).value_and_gradient([0], y_pred, w)[1]
    assert_close(gradient, want, 1e-5)


# ---- out ----------------------------------------------------------------------------------------


def order_of(a: Any, axes: tuple[int, ...]) -> Any:
    """An empty array of a's shape and dtype whose memory runs in this order of axes."""
    return np.empty([a.shape[k] for k in axes], a.dtype).transpose(np.argsort(axes))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("s", [0.0, 0.2])
@pytest.mark.parametrize("kind", KINDS)
class TestOut:
    def case(self, kind: str, dtype: str, s: float) -> tuple[Any, Any, Any, Any, Any]:
        rng = np.random.default_rng(37)
        y_pred = rng.dirichlet(np.ones(4), (3, 5)).astype(oracle.FLOATS[dtype])
        y_true = rng.integers(0, 4, (3, 5))
        y_true[0, 0] = 9
        loss = make("float64", **KINDS[kind], label_smoothing=s, ignore_class=9)
        value, gradient = loss.value_and_grad(y_true, y_pred)
        return loss, y_true, y_pred, value, gradient

    def test_a_given_array_is_filled_and_is_the_second_result(
        self, kind: str, dtype: str, s: float
    ) -> None:
        loss, y_true, y_pred, value, gradient = self.case(kind, dtype, s)
        out = np.full_like(y_pred, NAN)
        again, result = loss.value_and_grad(y_true, y_pred, out=out)
        assert result is out
        assert again == value
        assert out.tobytes() == gradient.tobytes()

    def test_y_pred_itself_may_be_out(self, kind: str, dtype: str, s: float) -> None:
        loss, y_true, y_pred, value, gradient = self.case(kind, dtype, s)
        again, result = loss.value_and_grad(y_true, y_pred, out=y_pred)
        assert result is y_pred
        assert again == value
        assert y_pred.tobytes() == gradient.tobytes()

    def test_another_view_of_the_very_same_memory_may_be_out(
        self, kind: str, dtype: str, s: float
    ) -> None:
        loss, y_true, y_pred, value, gradient = self.case(kind, dtype, s)
        again, _ = loss.value_and_grad(y_true, y_pred, out=y_pred[...])
        assert again == value
        assert y_pred.tobytes() == gradient.tobytes()

    @pytest.mark.parametrize("axes", list(itertools.permutations(range(3))), ids=str)
    def test_out_may_have_any_order_of_axes(
        self, kind: str, dtype: str, s: float, axes: tuple[int, ...]
    ) -> None:
        loss, y_true, y_pred, value, gradient = self.case(kind, dtype, s)
        out = order_of(y_pred, axes)
        again, result = loss.value_and_grad(y_true, y_pred, out=out)
        assert result is out
        assert again == value
        np.testing.assert_array_equal(out, gradient)

    def test_out_may_be_strided_or_reversed(self, kind: str, dtype: str, s: float) -> None:
        loss, y_true, y_pred, _, gradient = self.case(kind, dtype, s)
        room = np.full((6, 10, 8), 7, y_pred.dtype)
        for out in (room[::2, ::2, ::2], room[1::2, 1::2, 1::2][::-1, ::-1, ::-1]):
            loss.value_and_grad(y_true, y_pred, out=out)
            np.testing.assert_array_equal(out, gradient)
        untouched = np.ones(room.shape, bool)
        untouched[::2, ::2, ::2] = untouched[1::2, 1::2, 1::2] = False
        assert (room[untouched] == 7).all()

    def test_in_place_works_for_a_fortran_array(self, kind: str, dtype: str, s: float) -> None:
        loss, y_true, y_pred, _, gradient = self.case(kind, dtype, s)
        fortran = np.asfortranarray(y_pred)
        loss.value_and_grad(y_true, fortran, out=fortran)
        wide = float(oracle.finfo(dtype).eps)
        np.testing.assert_allclose(
            fortran.astype("float64"), gradient.astype("float64"), rtol=4 * wide, atol=4 * wide
        )


READ_ONLY = np.zeros((2, 3))
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    "out",
    [
        pytest.param(np.zeros((3, 2)), id="of another shape"),
        pytest.param(np.zeros((2, 3, 1)), id="of another rank"),
        pytest.param(np.zeros((2, 3), "float32"), id="of another dtype"),
        pytest.param(np.zeros((2, 3), ">f8"), id="of another byte order"),
        pytest.param(READ_ONLY, id="read-only"),
        pytest.param(np.broadcast_to(np.zeros(3), (2, 3)), id="broadcast and read-only"),
        pytest.param(
            np.lib.stride_tricks.as_strided(np.zeros(6), (2, 3), (0, 8)), id="with repeated rows"
        ),
        pytest.param(
            np.lib.stride_tricks.as_strided(np.zeros(6), (2, 3), (8, 8)), id="that overlaps itself"
        ),
        pytest.param([[0.0] * 3, [0.0] * 3], id="that is a list"),
        pytest.param(np.ma.zeros((2, 3)), id="that is masked"),
        pytest.param(0.0, id="that is a number"),
    ],
)
def test_an_out_is_refused_before_a_byte_is_written(out: Any) -> None:
    before = np.array(out, copy=True)
    with pytest.raises((ValueError, TypeError), match="^out"):
        make(from_logits=True).value_and_grad([0, 1], np.ones((2, 3)), out=out)
    np.testing.assert_array_equal(np.array(out), before)


@pytest.mark.parametrize(
    ("y_pred", "out"),
    [
        pytest.param(slice(0, 6), slice(1, 7), id="shifted by one"),
        pytest.param(slice(0, 6), slice(3, 9), id="shifted by a row"),
        pytest.param(slice(0, 12, 2), slice(0, 6), id="of another stride"),
        pytest.param(slice(0, 6), slice(5, None, -1), id="reversed"),
    ],
)
def test_an_out_that_overlaps_y_pred_is_refused_before_a_byte_is_written(
    y_pred: slice, out: slice
) -> None:
    room = np.arange(12.0)
    scores = np.lib.stride_tricks.as_strided(
        room[y_pred], (2, 3), tuple(room[y_pred].strides[0] * k for k in (3, 1))
    )
    target = np.lib.stride_tricks.as_strided(
        room[out], (2, 3), tuple(room[out].strides[0] * k for k in (3, 1))
    )
    with pytest.raises(ValueError, match="^out"):
        make(from_logits=True).value_and_grad([0, 1], scores, out=target)
    assert room.tolist() == list(range(12))


def test_an_out_between_y_preds_elements_does_not_overlap() -> None:
    room = np.arange(12.0)
    scores, out = room[::2].reshape(2, 3), room[1::2].reshape(2, 3)
    want = make(from_logits=True).value_and_grad([0, 1], scores.copy())
    got = make(from_logits=True).value_and_grad([0, 1], scores, out=out)
    assert got[0] == want[0]
    np.testing.assert_array_equal(out, want[1])
    assert scores.ravel().tolist() == list(range(0, 12, 2))


@pytest.mark.parametrize("reduction", ["mean", "sum", None])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(2, 3), (4000, 3), (40, 3, 50)], ids=str)
@pytest.mark.parametrize("odd", ["a deleted target", "beyond the largest float", "NaN"])
def test_in_place_a_value_that_is_no_number_is_what_it_is_elsewhere(
    odd: str, shape: tuple[int, ...], dtype: str, reduction: str | None
) -> None:
    y_pred = np.random.default_rng(0).normal(size=shape).astype(dtype)
    labels = np.zeros(np.delete(shape, 1), int)
    first = y_pred[0] if len(shape) == 2 else y_pred[0, :, 0]
    first[:] = {
        "a deleted target": [-INF, 1, 2],
        "beyond the largest float": np.finfo(dtype).max * np.array([-0.7, 0.7, 0.1]),
        "NaN": [0, NAN, 1],
    }[odd]
    loss = make(dtype, from_logits=True, axis=1, reduction=reduction)
    value, gradient = loss.value_and_grad(labels, y_pred)
    there, out = loss.value_and_grad(labels, y_pred, out=y_pred)
    assert not np.isfinite(value).all()
    np.testing.assert_array_equal(there, value)
    np.testing.assert_array_equal(out, gradient)


@pytest.mark.parametrize(
    ("y_true", "w"),
    [
        pytest.param([0, 5], None, id="a label out of range"),
        pytest.param([0, -1], None, id="a negative label"),
        pytest.param([0, 0.5], None, id="a label that is no whole number"),
        pytest.param([0, 1, 2], None, id="too many labels"),
        pytest.param([0, 1], [1.0, 2.0, 3.0], id="too many weights"),
        pytest.param([0, 1], ["a", "b"], id="weights that are strings"),
    ],
)
def test_after_a_refusal_neither_out_nor_y_pred_has_changed(y_true: Any, w: Any) -> None:
    """The last row is the wrong one, of so many that they are worked off block by block."""
    reps = 20_000
    y_pred = np.full((2 * reps, 3), 0.5)
    labels = np.concatenate([np.zeros(2 * reps - 2), np.asarray(y_true, float)[:2]])
    labels = labels if len(y_true) == 2 else np.zeros(2 * reps + 1, int)
    weights = (
        w if w is None else np.concatenate([np.ones(2 * reps - 2).astype(np.asarray(w).dtype), w])
    )
    for out in (np.full_like(y_pred, 7), y_pred):
        before = out.tobytes()
        with pytest.raises((ValueError, TypeError), match="^(y_true|sample_weight)"):
            make(from_logits=True).value_and_grad(labels, y_pred, weights, out=out)
        assert out.tobytes() == before


def test_no_y_pred_and_no_labels_write_an_empty_out() -> None:
    out = np.empty((0, 3))
    value, result = make().value_and_grad(np.empty(0, int), np.empty((0, 3)), out=out)
    assert value == 0
    assert result is out
