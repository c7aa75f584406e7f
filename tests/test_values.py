"""Promises of value: every figure and every row of the loss's definition, one test each.

Each group stands under the topic it belongs to: the two forms, arithmetic and dtypes,
probabilities, logits, label smoothing, the figures of R keras3's manual page, and the one-hot
sibling. Numbers typed in here were computed by others (Keras, mpmath) or stand in the definition;
the rest is held against the oracle. Weights and reductions have their own file.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import oracle
import pytest
from conftest import KINDS
from oracle import Definition, assert_close

from sparse_xent import (
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
    loss_categorical_crossentropy,
    loss_sparse_categorical_crossentropy,
)

pytestmark = pytest.mark.usefixtures("engine")

INF, NAN = math.inf, math.nan
PAGE_TRUE = [1.0, 2.0]
PAGE_PRED = [[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def loss_and_gradient(row: Any, t: int, dtype: Any = "float64", **options: Any) -> tuple[Any, Any]:
    """One row's loss and the gradient of that loss, through the public object."""
    loss = loss_sparse_categorical_crossentropy(reduction="sum", dtype=dtype, **options)
    value, gradient = loss.value_and_grad([t], np.array([row], dtype))
    return float(value), np.asarray(gradient)[0]


# ---- the two forms ------------------------------------------------------------------------------


class TestTheTwoForms:
    def test_both_data_give_one_loss_per_label_never_reduced(self) -> None:
        got = loss_sparse_categorical_crossentropy(PAGE_TRUE, PAGE_PRED)
        assert isinstance(got, np.ndarray)
        assert got.shape == (2,)

    def test_the_first_five_arguments_are_positional(self) -> None:
        y_pred = np.array([[[1.0, 2.0, 0.5], [0.0, 1.0, 3.0]]])
        got = loss_sparse_categorical_crossentropy([[1, 0, 9]], y_pred, True, 9, 1)
        want = Definition(from_logits=True, ignore_class=9, axis=1).per_label([[1, 0, 9]], y_pred)
        assert_close(got, want, 1e-12)

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
    def test_the_losses_have_y_preds_dtype_unless_dtype_is_given(self, dtype: str) -> None:
        y_pred = np.array(PAGE_PRED).astype(oracle.FLOATS[dtype])
        assert loss_sparse_categorical_crossentropy(PAGE_TRUE, y_pred).dtype == y_pred.dtype
        got = loss_sparse_categorical_crossentropy(PAGE_TRUE, PAGE_PRED, dtype=dtype)
        assert got.dtype == y_pred.dtype

    def test_the_name_changes_nothing_where_data_are_given(self) -> None:
        plain = loss_sparse_categorical_crossentropy(PAGE_TRUE, PAGE_PRED)
        named = loss_sparse_categorical_crossentropy(PAGE_TRUE, PAGE_PRED, name="any")
        assert plain.tobytes() == named.tobytes()

    def test_the_default_reduction_may_be_said_where_data_are_given(self) -> None:
        got = loss_sparse_categorical_crossentropy(
            PAGE_TRUE, PAGE_PRED, reduction="sum_over_batch_size"
        )
        assert got.shape == (2,)

    @pytest.mark.parametrize("reduction", ["sum", "mean", "none", None, "mean_with_sample_weight"])
    def test_another_reduction_beside_data_is_refused_with_the_right_call(
        self, reduction: str | None
    ) -> None:
        with pytest.raises(TypeError, match=r"reduction.*\(y_true, y_pred"):
            loss_sparse_categorical_crossentropy(PAGE_TRUE, PAGE_PRED, reduction=reduction)  # type: ignore[call-overload]

    def test_sample_weight_beside_data_is_refused_with_the_right_call(self) -> None:
        with pytest.raises(TypeError, match=r"\(y_true, y_pred, sample_weight=w\)"):
            loss_sparse_categorical_crossentropy(PAGE_TRUE, PAGE_PRED, sample_weight=[0.3, 0.7])  # type: ignore[call-overload]

    def test_no_data_give_the_callable_object(self) -> None:
        loss = loss_sparse_categorical_crossentropy()
        assert isinstance(loss, SparseCategoricalCrossentropy)
        assert isinstance(loss_categorical_crossentropy(), CategoricalCrossentropy)

    @pytest.mark.parametrize(
        ("given", "missing"), [("y_true", "y_pred"), ("y_pred", "y_true")], ids=str
    )
    @pytest.mark.parametrize(
        "form", [loss_sparse_categorical_crossentropy, loss_categorical_crossentropy]
    )
    def test_one_of_the_two_is_refused_by_the_name_of_the_other(
        self, form: Any, given: str, missing: str
    ) -> None:
        with pytest.raises(TypeError, match=missing):
            form(**{given: PAGE_PRED})

    def test_value_and_grad_gives_the_value_that_the_call_gives(self) -> None:
        loss = SparseCategoricalCrossentropy()
        value, gradient = loss.value_and_grad(PAGE_TRUE, PAGE_PRED, [0.3, 0.7])
        assert value == loss(PAGE_TRUE, PAGE_PRED, [0.3, 0.7])
        assert np.shape(gradient) == (2, 3)

    @pytest.mark.parametrize(
        ("labels", "y_pred", "axis", "shape"),
        [
            pytest.param(1, (3,), -1, (), id="(C,) gives a number"),
            pytest.param([1], (1, 3), -1, (1,), id="(1, C) gives (1,)"),
            pytest.param([1, 0], (2, 3), -1, (2,), id="(N, C) gives (N,)"),
            pytest.param([[1], [0]], (2, 3), -1, (2,), id="labels of (N, 1) change nothing"),
            pytest.param([[1, 0, 0, 1]], (2, 4), 0, (4,), id="labels of length 1 at the axis"),
            pytest.param([1, 0, 0, 1], (2, 4), 0, (4,), id="the first axis can hold the classes"),
            pytest.param(np.ones((5, 4, 2), int), (5, 3, 4, 2), 1, (5, 4, 2), id="channels first"),
            pytest.param(1, (1, 3), -1, (1,), id="a scalar serves where there is one loss"),
        ],
    )
    def test_the_losses_have_y_preds_shape_without_the_axis(
        self, labels: Any, y_pred: tuple[int, ...], axis: int, shape: tuple[int, ...]
    ) -> None:
        scores = np.random.default_rng(1).normal(size=y_pred)
        got = loss_sparse_categorical_crossentropy(labels, scores, True, axis=axis)
        assert np.shape(got) == shape
        want = Definition(from_logits=True, axis=axis).per_label(labels, scores)
        assert_close(got, want, 1e-12)


# ---- arithmetic and dtypes ----------------------------------------------------------------------


class Policy:
    """Like a Keras dtype policy: anything that says its compute dtype."""

    compute_dtype = "float16"


class TestArithmeticAndDtypes:
    @pytest.mark.parametrize(
        ("y_pred", "result"),
        [
            pytest.param(np.ones((1, 3), "float16"), "float16", id="float16 stays"),
            pytest.param(np.ones((1, 3), BFLOAT16), "bfloat16", id="bfloat16 stays"),
            pytest.param(np.ones((1, 3), "float32"), "float32", id="float32 stays"),
            pytest.param(np.ones((1, 3), "float64"), "float64", id="float64 stays"),
            pytest.param(np.ones((1, 3), ">f4"), "float32", id="big-endian float32 is converted"),
            pytest.param(np.ones((1, 3), ">f8"), "float64", id="big-endian float64 is converted"),
            pytest.param(np.ones((1, 3), ">f2"), "float16", id="big-endian float16 is converted"),
            pytest.param(np.ones((1, 3), np.longdouble), "float64", id="long double is converted"),
            pytest.param(np.ones((1, 3), "int8"), "float32", id="int8 becomes float32"),
            pytest.param(np.ones((1, 3), "int64"), "float32", id="int64 becomes float32"),
            pytest.param(np.ones((1, 3), "uint16"), "float32", id="uint16 becomes float32"),
            pytest.param(np.ones((1, 3), bool), "float32", id="bools become float32"),
            pytest.param([[1, 1, 1]], "float32", id="Python ints become float32"),
            pytest.param([[True, True, True]], "float32", id="Python bools become float32"),
            pytest.param([[1.0, 1.0, 1.0]], "float64", id="Python floats become float64"),
        ],
    )
    @pytest.mark.parametrize("from_logits", [True, False], ids=["logits", "probabilities"])
    def test_y_preds_dtype_decides_the_losses_dtype(
        self, y_pred: Any, result: str, from_logits: bool
    ) -> None:
        got = loss_sparse_categorical_crossentropy([2], y_pred, from_logits)
        assert got.dtype == oracle.FLOATS[result]
        assert got.dtype.isnative
        assert_close(got, [oracle.mp.log(3)], float(oracle.finfo(result).eps))

    @pytest.mark.parametrize(
        "y_pred",
        [
            pytest.param(np.ones((1, 3), "complex64"), id="complex64"),
            pytest.param(np.ones((1, 3), "complex128"), id="complex128"),
            pytest.param(np.ones((1, 3), object), id="object"),
            pytest.param(np.ones((1, 3), "datetime64[s]"), id="datetime"),
            pytest.param(np.ones((1, 3), "timedelta64[s]"), id="timedelta"),
            pytest.param(np.array([["1", "2", "3"]]), id="strings"),
        ],
    )
    def test_scores_of_another_kind_are_refused(self, y_pred: Any) -> None:
        with pytest.raises(TypeError, match="^y_pred"):
            loss_sparse_categorical_crossentropy([0], y_pred)

    @pytest.mark.parametrize(
        ("dtype", "result"),
        [
            pytest.param("float64", "float64", id="a name"),
            pytest.param(np.float16, "float16", id="a NumPy scalar type"),
            pytest.param(np.dtype("float32"), "float32", id="a NumPy dtype"),
            pytest.param("bfloat16", "bfloat16", id="the name bfloat16"),
            pytest.param(BFLOAT16, "bfloat16", id="ml_dtypes' bfloat16"),
            pytest.param("mixed_float16", "float16", id="the policy mixed_float16"),
            pytest.param("mixed_bfloat16", "bfloat16", id="the policy mixed_bfloat16"),
            pytest.param(Policy(), "float16", id="an object with compute_dtype"),
            pytest.param(
                SimpleNamespace(compute_dtype="bfloat16"), "bfloat16", id="compute_dtype bfloat16"
            ),
        ],
    )
    def test_dtype_is_taken_as(self, dtype: Any, result: str) -> None:
        want = oracle.FLOATS[result]
        assert loss_sparse_categorical_crossentropy([0], [[0.5, 0.5]], dtype=dtype).dtype == want
        assert loss_sparse_categorical_crossentropy(dtype=dtype)([0], [[0.5, 0.5]]).dtype == want

    @pytest.mark.parametrize("dtype", ["int32", "float33", "complex64", np.int8, object, 3.0])
    def test_a_dtype_that_is_no_float_is_refused(self, dtype: Any) -> None:
        with pytest.raises((TypeError, ValueError), match="^dtype"):
            loss_sparse_categorical_crossentropy(dtype=dtype)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("s", [0.0, 0.3], ids=["hard labels", "smoothed labels"])
    def test_float32_scores_with_dtype_float64_are_right_to_float64(
        self, kind: str, s: float
    ) -> None:
        y_pred = np.random.default_rng(2).dirichlet(np.ones(5), 40).astype("float32")
        y_true = np.arange(40) % 5
        got = loss_sparse_categorical_crossentropy(
            y_true, y_pred, dtype="float64", label_smoothing=s, **KINDS[kind]
        )
        want = Definition(dtype="float64", label_smoothing=s, **KINDS[kind]).per_label(
            y_true, y_pred
        )
        assert got.dtype == np.float64
        assert_close(got, want, 1e-12, 1e-15)

    def test_the_clip_too_is_done_in_the_wider_dtype(self) -> None:
        one_hot = np.array([[1, 0, 0]], "float32")
        narrow = loss_sparse_categorical_crossentropy([0], one_hot, normalize="never")
        wide = loss_sparse_categorical_crossentropy(
            [0], one_hot, normalize="never", dtype="float64"
        )
        assert_close(narrow, [-oracle.mp.log(oracle.exact(np.float32(1 - 1e-7)))], 1e-6)
        assert_close(wide, [-oracle.mp.log(oracle.exact(1 - 1e-7))], 1e-8)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_halves_are_computed_in_float32_and_cast_once(self, dtype: str) -> None:
        y_pred = np.random.default_rng(3).normal(size=(200, 4)).astype(oracle.FLOATS[dtype])
        y_true = np.arange(200) % 4
        got = loss_sparse_categorical_crossentropy(y_true, y_pred, True)
        wide = loss_sparse_categorical_crossentropy(y_true, y_pred.astype("float32"), True)
        assert got.tobytes() == wide.astype(y_pred.dtype).tobytes()

    def test_the_gradient_has_y_preds_dtype_whatever_dtype_says(self) -> None:
        loss = loss_sparse_categorical_crossentropy(from_logits=True, dtype="float64")
        for name, dtype in oracle.FLOATS.items():
            value, gradient = loss.value_and_grad([1], np.ones((1, 3), dtype))
            assert value.dtype == np.float64
            assert gradient.dtype == dtype, name

    def test_inputs_may_be_read_only_and_are_never_modified(self) -> None:
        y_pred, y_true, w = np.array(PAGE_PRED), np.array([1, 2]), np.array([0.3, 0.7])
        before = y_pred.tobytes(), y_true.tobytes(), w.tobytes()
        for array in (y_pred, y_true, w):
            array.flags.writeable = False
        loss_sparse_categorical_crossentropy(y_true, y_pred)
        SparseCategoricalCrossentropy().value_and_grad(y_true, y_pred, w)
        assert (y_pred.tobytes(), y_true.tobytes(), w.tobytes()) == before


# ---- probabilities ------------------------------------------------------------------------------


def one_hot(classes: int, dtype: str = "float64") -> Any:
    row = np.zeros((1, classes), dtype)
    row[0, 0] = 1
    return row


class TestProbabilities:
    @pytest.mark.parametrize(
        ("row", "t", "options", "dtype", "want", "digits"),
        [
            pytest.param(
                [0.05, 0.95, 0.0], 1, {}, "float64", 0.05129339, 5e-9,
                id="the default is 'after': 0.05129339 as on the manual page",
            ),
            pytest.param(
                [0.05, 0.95, 0.0], 1, {"normalize": "before"}, "float64", 0.05129329, 5e-9,
                id="'before' gives -log 0.95 = 0.05129329",
            ),
            pytest.param(
                [1, 0, 0], 0, {}, "float64", 2.0e-7, 5e-12,
                id="an exactly right one-hot row of 3 costs 2.0e-7 'after'",
            ),
            pytest.param(
                one_hot(1000)[0], 0, {}, "float64", 9.98950e-05, 5e-11,
                id="an exactly right one-hot row of 1000 costs 9.98950e-05 'after'",
            ),
            pytest.param(
                one_hot(100000)[0], 0, {}, "float64", 9.95023e-03, 5e-9,
                id="an exactly right one-hot row of 100000 costs 9.95023e-03 'after'",
            ),
            pytest.param(
                [1, 0, 0], 0, {"normalize": "before"}, "float64", 1.0e-7, 5e-13,
                id="an exactly right one-hot row costs 1.0e-7 'before'",
            ),
            pytest.param(
                [1, 0, 0], 0, {"normalize": "before"}, "float32", 1.19e-7, 5e-10,
                id="an exactly right one-hot row costs 1.19e-7 'before' in float32",
            ),
            pytest.param(
                [2, 3, 5], 0, {}, "float64", 1.0986123, 5e-8,
                id="scores above one are clipped to it 'after': log 3",
            ),
            pytest.param(
                [2, 3, 5], 0, {"normalize": "before"}, "float64", 1.6094379, 5e-8,
                id="scores above one are divided by their sum 'before': log 5",
            ),
            pytest.param(
                [1, 0, 0], 1, {}, "float64", 16.118095750958, 5e-13,
                id="one-hot and wrong costs 16.118095750958 'after'",
            ),
            pytest.param(
                [1, 0, 0], 1, {"normalize": "before"}, "float64", 16.118095650958, 5e-13,
                id="one-hot and wrong costs 16.118095650958 'before'",
            ),
            pytest.param(
                [0.5, 0.9, 0.1], 0, {"normalize": "never"}, "float64", math.log(2), 1e-15,
                id="'never' reads one element: -log 0.5 whatever the row sums to",
            ),
        ],
    )  # fmt: skip
    @pytest.mark.filterwarnings("ignore:y_pred must hold")  # such scores, on purpose
    def test_figure(
        self, row: Any, t: int, options: dict[str, Any], dtype: str, want: float, digits: float
    ) -> None:
        got = loss_sparse_categorical_crossentropy([t], np.array([row], dtype), **options)
        assert got[0] == pytest.approx(want, abs=digits, rel=0)

    @pytest.mark.parametrize("normalize", ["after", "before", "never"])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.filterwarnings("ignore:y_pred must hold")  # such scores, on purpose
    def test_formula_and_gradient(self, normalize: str, dtype: str) -> None:
        rng = np.random.default_rng(4)
        y_pred = (rng.dirichlet(np.ones(6) / 2, 60) * rng.uniform(0.5, 1.5, (60, 1))).astype(dtype)
        y_true = np.arange(60) % 6
        want = Definition(normalize=normalize, reduction="sum")
        loss = loss_sparse_categorical_crossentropy(
            normalize=normalize, reduction="sum", dtype=dtype
        )
        eps = float(np.finfo(dtype).eps)
        got = loss_sparse_categorical_crossentropy(y_true, y_pred, normalize=normalize)
        assert_close(got, want.per_label(y_true, y_pred), 8 * eps, 8 * eps)
        value, gradient = loss.value_and_grad(y_true, y_pred)
        want_value, want_gradient = want.value_and_gradient(y_true, y_pred)
        assert_close(value, want_value, 8 * eps)
        assert_close(gradient, want_gradient, 16 * eps, 16 * eps)

    def test_never_reads_p_t_alone(self) -> None:
        row = [NAN, 0.25, INF]
        value, gradient = loss_and_gradient(row, 1, normalize="never")
        assert value == pytest.approx(math.log(4), rel=1e-15)
        assert gradient.tolist() == [0.0, -4.0, 0.0]

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_the_clips_bounds_are_inclusive(self, dtype: str) -> None:
        """At a bound the gradient is that of the inside; one number beyond it is 0."""
        kind = np.dtype(dtype).type
        low, high = kind(1e-7), kind(1) - kind(1e-7)
        below, above = np.nextafter(low, kind(0)), np.nextafter(high, kind(2))
        for bound, beyond in [(low, below), (high, above)]:
            inside = loss_and_gradient([bound, 0, 0], 0, dtype, normalize="never")[1]
            outside = loss_and_gradient([beyond, 0, 0], 0, dtype, normalize="never")[1]
            assert inside[0] == pytest.approx(-1 / float(bound), rel=1e-6)
            assert outside[0] == 0
        inside = loss_and_gradient([low, 0.5, 0.5], 1, dtype, normalize="after")[1]
        outside = loss_and_gradient([below, 0.5, 0.5], 1, dtype, normalize="after")[1]
        assert inside[0] == pytest.approx(1, rel=1e-5)
        assert outside[0] == 0

    def test_before_a_right_one_hot_row_is_flat(self) -> None:
        """p / sum p = 1 lies above the bound."""
        assert loss_and_gradient([1, 0], 0, normalize="before")[1].tolist() == [0, 0]

    def test_one_minus_eps_is_0_99999988_in_float32(self) -> None:
        got = loss_sparse_categorical_crossentropy(
            [0], np.array([[1.0, 0.0]], "float32"), normalize="never"
        )
        assert_close(got, [-oracle.mp.log(oracle.exact(1 - 2.0**-23))], 1e-6)

    @pytest.mark.slow_when(lambda normalize, dtype: normalize != "never")
    @pytest.mark.parametrize("normalize", ["after", "before", "never"])
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_halves_use_float32s_bounds(self, normalize: str, dtype: str) -> None:
        y_pred = one_hot(3).astype(oracle.FLOATS[dtype])
        for t in (0, 1):
            got = loss_sparse_categorical_crossentropy(
                [t], y_pred, normalize=normalize, dtype="float32"
            )
            want = Definition(normalize=normalize).per_label([t], y_pred)
            assert_close(got, want, 1e-6, 2.5e-7)

    @pytest.mark.parametrize("s", [0.0, 0.2], ids=["hard", "smoothed"])
    @pytest.mark.parametrize("normalize", ["after", "before", "never"])
    def test_normalize_changes_nothing_for_logits(self, normalize: str, s: float) -> None:
        y_pred = np.random.default_rng(5).normal(size=(7, 4))
        y_true = np.arange(7) % 4
        plain = loss_sparse_categorical_crossentropy(y_true, y_pred, True, label_smoothing=s)
        other = loss_sparse_categorical_crossentropy(
            y_true, y_pred, True, normalize=normalize, label_smoothing=s
        )
        assert plain.tobytes() == other.tobytes()

    @pytest.mark.parametrize("from_logits", [True, False], ids=["logits", "probabilities"])
    @pytest.mark.parametrize("normalize", ["During", "AFTER", None, True, ""])
    def test_normalize_is_validated_for_logits_too(self, normalize: Any, from_logits: bool) -> None:
        with pytest.raises((TypeError, ValueError), match="^normalize"):
            loss_sparse_categorical_crossentropy(from_logits=from_logits, normalize=normalize)

    @pytest.mark.parametrize(
        ("normalize", "row", "t", "want"),
        [
            pytest.param("after", [0.5, NAN, 0.5], 0, NAN, id="'after' a NaN makes the row NaN"),
            pytest.param("after", [NAN, 0.5, 0.5], 0, NAN, id="'after' a NaN target too"),
            pytest.param("after", [0.5, INF, 0.5], 0, 1.3862943, id="'after' +inf is clipped to 1"),
            pytest.param(
                "after", [0.5, -INF, 0.5], 0, math.log(2), id="'after' -inf is clipped to eps"
            ),
            pytest.param(
                "after", [0.5, -3.0, 0.5], 0, math.log(2), id="'after' a negative is clipped"
            ),
            pytest.param(
                "after", [0.0, 0.0, 0.0], 1, math.log(3), id="'after' a zero row is log C"
            ),
            pytest.param("before", [0.0, 0.0, 0.0], 0, NAN, id="'before' a sum of 0 is NaN"),
            pytest.param("before", [1.0, -1.0, 0.0], 0, NAN, id="'before' a cancelling sum is NaN"),
            pytest.param("before", [0.5, INF, 0.5], 0, NAN, id="'before' a sum of inf is NaN"),
            pytest.param("before", [0.5, NAN, 0.5], 0, NAN, id="'before' a sum of NaN is NaN"),
            pytest.param("never", [0.5, NAN, INF], 0, math.log(2), id="'never' p_t alone decides"),
            pytest.param("never", [NAN, 0.5, 0.5], 0, NAN, id="'never' a NaN target is NaN"),
            pytest.param("never", [0.0, 0.5, 0.5], 0, 16.118095650958, id="'never' 0 is clipped"),
            pytest.param("never", [INF, 0.5, 0.5], 0, 1e-7, id="'never' +inf is clipped"),
        ],
    )
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.filterwarnings("ignore:y_pred must hold")  # such scores, on purpose
    def test_special_value(
        self, normalize: str, row: list[float], t: int, want: float, dtype: str
    ) -> None:
        y_pred = np.array([row, [0.2, 0.3, 0.5]], dtype)
        got = loss_sparse_categorical_crossentropy([t, t], y_pred, normalize=normalize)
        assert got[0] == pytest.approx(want, rel=2e-7, abs=3e-7, nan_ok=True)
        assert math.isfinite(got[1])  # a row's trouble is its own

    @pytest.mark.parametrize(
        ("normalize", "row", "want"),
        [
            pytest.param("after", [0.5, NAN, 0.5], [NAN] * 3, id="'after' NaN: the whole row"),
            pytest.param("after", [0.5, INF, 0.5], [0.5 - 2, 0, 0.5], id="'after' +inf: 0 there"),
            pytest.param("after", [0.5, -3.0, 0.5], [1 - 2, 0, 1], id="'after' negative: 0 there"),
            pytest.param("after", [0.0, 0.0, 0.0], [0, 0, 0], id="'after' a zero row: flat"),
            pytest.param("before", [0.0, 0.0, 0.0], [NAN] * 3, id="'before' sum 0: the whole row"),
            pytest.param(
                "before", [0.5, INF, 0.5], [NAN] * 3, id="'before' sum inf: the whole row"
            ),
            pytest.param(
                "before", [0.5, NAN, 0.5], [NAN] * 3, id="'before' sum NaN: the whole row"
            ),
            pytest.param("never", [0.0, 0.5, 0.5], [0, 0, 0], id="'never' a clipped target: flat"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:y_pred must hold")  # such scores, on purpose
    def test_special_gradient(self, normalize: str, row: list[float], want: list[float]) -> None:
        gradient = loss_and_gradient(row, 0, normalize=normalize)[1]
        np.testing.assert_allclose(gradient, want, rtol=1e-6, atol=1e-6)


# ---- logits -------------------------------------------------------------------------------------


class TestLogits:
    @pytest.mark.parametrize(
        ("row", "dtype", "want", "digits"),
        [
            pytest.param([20, 0, 0], "float32", 4.12e-9, 5e-12, id="[20, 0, 0] float32 is 4.12e-9"),
            pytest.param([40, 0, 0], "float64", 8.5e-18, 5e-20, id="[40, 0, 0] float64 is 8.5e-18"),
            pytest.param([1, 0], "float64", 0.3132616875, 5e-11, id="a gap of 1 is 0.3132616875"),
            pytest.param([0, 1], "float64", 1.3132616875, 5e-11, id="a gap of -1 is 1.3132616875"),
        ],
    )
    def test_figure(self, row: list[float], dtype: str, want: float, digits: float) -> None:
        got = loss_sparse_categorical_crossentropy([0], np.array([row], dtype), True)
        assert got[0] == pytest.approx(want, abs=digits, rel=0)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
    @pytest.mark.parametrize(
        ("row", "t"),
        [
            pytest.param([0.5, -INF, 2.0], 0, id="-inf on another class: finite, 0 there"),
            pytest.param(
                [-INF, 1.5, -INF, -INF], 1, id="all others masked: 0, and a flat gradient"
            ),
            pytest.param([-INF, 0.5, 2.0], 0, id="-inf on the target: inf, softmax - onehot"),
            pytest.param([INF, 0.5, 2.0], 0, id="+inf on the target: NaN"),
            pytest.param([INF, 0.5, 2.0], 1, id="+inf elsewhere: NaN"),
            pytest.param([INF, INF, 2.0], 1, id="+inf twice: NaN"),
            pytest.param([INF, -INF, 2.0], 1, id="+inf beside -inf on the target: NaN"),
            pytest.param([NAN, 0.5, 2.0], 0, id="NaN on the target: NaN"),
            pytest.param([NAN, 0.5, 2.0], 1, id="NaN elsewhere: NaN"),
            pytest.param([NAN, -INF, 2.0], 1, id="NaN wins over the inf of a masked target"),
            pytest.param([-INF, -INF, -INF], 1, id="all -inf: NaN"),
        ],
    )
    def test_special_value_and_gradient(self, row: list[float], t: int, dtype: str) -> None:
        kind = oracle.FLOATS[dtype]
        y_pred = np.array([row, [1.0] * len(row)]).astype(kind)
        loss = loss_sparse_categorical_crossentropy(from_logits=True, reduction=None, dtype=dtype)
        value, gradient = loss.value_and_grad([t, t], y_pred)
        want, want_gradient = Definition(from_logits=True, reduction=None).value_and_gradient(
            [t, t], y_pred
        )
        rtol = oracle.tolerance("float32", kind)
        assert_close(value, want, rtol)
        assert_close(gradient, want_gradient, rtol)

    @pytest.mark.parametrize(
        ("row", "t", "want"),
        [
            pytest.param([1e38] * 3, 0, math.log(3), id="1e38 everywhere is log C"),
            pytest.param([-1e38] * 3, 2, math.log(3), id="-1e38 everywhere is log C"),
            pytest.param([3e38, -3e38], 0, 0.0, id="3e38 over -3e38 costs 0"),
            pytest.param([3e38, -3e38], 1, INF, id="-3e38 under 3e38 overflows float32 to inf"),
            pytest.param([1e38, -1e38], 1, 2e38, id="-1e38 under 1e38 costs 2e38"),
            pytest.param([1e6, 1e6 - 1], 0, 0.31326166, id="an offset of 1e6"),
            pytest.param([-1e6, -1e6 - 1], 1, 1.3132616, id="an offset of -1e6"),
        ],
    )
    def test_great_values_are_right_without_a_warning(
        self, row: list[float], t: int, want: float
    ) -> None:
        got = loss_sparse_categorical_crossentropy([t], np.array([row], "float32"), True)
        assert got[0] == pytest.approx(want, rel=1e-6)

    def test_greatest_doubles_are_right_without_a_warning(self) -> None:
        y_pred = np.array([[1.7e308, -1.7e308], [1.7e308, 1.7e308], [-1.7e308, -1.7e308]])
        got = loss_sparse_categorical_crossentropy([0, 1, 0], y_pred, True)
        np.testing.assert_allclose(got, [0, math.log(2), math.log(2)], rtol=1e-15)
        assert loss_sparse_categorical_crossentropy([1], y_pred[:1], True)[0] == INF

    def test_the_gradient_at_the_target_is_minus_the_rest_over_the_sum(self) -> None:
        gradient = loss_and_gradient([40, 0, 0], 0, from_logits=True)[1]
        assert gradient[0] == pytest.approx(-2 * math.exp(-40), rel=1e-12)  # p_t - 1 would be 0
        gradient = loss_and_gradient([20, 0, 0], 0, "float32", from_logits=True)[1]
        assert gradient[0] == pytest.approx(-2 * math.exp(-20), rel=1e-5)

    def test_log_probabilities_go_in_as_logits(self) -> None:
        p = np.random.default_rng(6).dirichlet(np.ones(5), 30)
        y_true = np.arange(30) % 5
        got = loss_sparse_categorical_crossentropy(y_true, np.log(p), True)
        np.testing.assert_allclose(got, -np.log(p[np.arange(30), y_true]), rtol=1e-12, atol=1e-15)

    def test_four_gaps_of_one_as_float32_prints_them(self) -> None:
        """TensorFlow's float32 figures: equal to their last bit or the one beside it."""
        y_pred = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], "float32")
        got = loss_sparse_categorical_crossentropy([0, 1, 0, 1], y_pred, True)
        want = np.array([0.31326166, 1.3132616, 1.3132616, 0.31326166], "float32")
        assert (np.abs(got - want) <= np.spacing(want)).all()
        mean = loss_sparse_categorical_crossentropy(from_logits=True)([0, 1, 0, 1], y_pred)
        assert mean == pytest.approx(0.8132617, abs=6e-8)


# ---- label smoothing ----------------------------------------------------------------------------


class TestLabelSmoothing:
    @pytest.mark.slow_when(lambda kind, dtype: dtype == "float32" and kind != "logits")
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("s", [1e-3, 0.1, 0.5, 1.0])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_formula_and_gradient(self, kind: str, s: float, dtype: str) -> None:
        rng = np.random.default_rng(7)
        y_pred = rng.dirichlet(np.ones(6), 40).astype(dtype)
        y_true = np.arange(40) % 6
        loss = loss_sparse_categorical_crossentropy(
            reduction=None, dtype=dtype, label_smoothing=s, **KINDS[kind]
        )
        value, gradient = loss.value_and_grad(y_true, y_pred)
        want = Definition(reduction=None, label_smoothing=s, **KINDS[kind])
        want_value, want_gradient = want.value_and_gradient(y_true, y_pred)
        eps = float(np.finfo(dtype).eps)
        assert_close(value, want_value, 16 * eps)
        assert_close(gradient, want_gradient, 16 * eps, 16 * eps)

    @pytest.mark.parametrize("kind", KINDS)
    def test_no_smoothing_is_the_plain_loss_to_the_bit(self, kind: str) -> None:
        y_pred = np.random.default_rng(8).dirichlet(np.ones(6), 40)
        y_true = np.arange(40) % 6
        plain = loss_sparse_categorical_crossentropy(y_true, y_pred, **KINDS[kind])
        zero = loss_sparse_categorical_crossentropy(
            y_true, y_pred, label_smoothing=0, **KINDS[kind]
        )
        assert plain.tobytes() == zero.tobytes()

    @pytest.mark.parametrize("kind", KINDS)
    def test_full_smoothing_forgets_the_label(self, kind: str) -> None:
        y_pred = np.random.default_rng(9).dirichlet(np.ones(4), 1)
        got = [
            loss_sparse_categorical_crossentropy([t], y_pred, label_smoothing=1, **KINDS[kind])[0]
            for t in range(4)
        ]
        np.testing.assert_allclose(got, got[0], rtol=1e-14)

    @pytest.mark.parametrize("s", [0.1, 0.7])
    @pytest.mark.parametrize("kind", ["logits", "before"])
    def test_smoothing_equals_the_one_hot_sibling(self, kind: str, s: float) -> None:
        y_pred = np.random.default_rng(10).dirichlet(np.ones(5), 25)
        y_true = np.arange(25) % 5
        sparse = loss_sparse_categorical_crossentropy(
            y_true, y_pred, label_smoothing=s, **KINDS[kind]
        )
        dense = loss_categorical_crossentropy(np.eye(5)[y_true], y_pred, kind == "logits", s)
        np.testing.assert_allclose(sparse, dense, rtol=1e-13)

    @pytest.mark.parametrize("s", [0.0, 0.1, 0.5, 1.0])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_masked_classes_count_as_deleted(self, s: float, dtype: str) -> None:
        full = np.array([[0.3, -INF, 1.5, -INF, -0.7]], dtype)
        kept = np.array([[0.3, 1.5, -0.7]], dtype)
        loss = loss_sparse_categorical_crossentropy(
            from_logits=True, label_smoothing=s, reduction="sum", dtype=dtype
        )
        value, gradient = loss.value_and_grad([2], full)
        want, want_gradient = loss.value_and_grad([1], kept)
        eps = float(np.finfo(dtype).eps)
        assert value == pytest.approx(want, rel=8 * eps)
        np.testing.assert_allclose(gradient[0, [0, 2, 4]], want_gradient[0], rtol=8 * eps, atol=eps)
        assert gradient[0, [1, 3]].tolist() == [0, 0]

    @pytest.mark.parametrize(
        ("s", "want"),
        [
            pytest.param(0.0, INF, id="no smoothing: inf"),
            pytest.param(0.3, INF, id="s < 1: inf"),
            pytest.param(1.0, None, id="s = 1: the label has no say, finite"),
        ],
    )
    def test_a_masked_target_with(self, s: float, want: float | None) -> None:
        row = np.array([[-INF, 0.5, 2.0]])
        value, gradient = loss_and_gradient(row[0], 0, from_logits=True, label_smoothing=s)
        exact, exact_gradient = Definition(
            from_logits=True, label_smoothing=s, reduction="sum"
        ).value_and_gradient([0], row)
        assert want is None or value == want
        assert_close(np.float64(value), exact, 1e-14)
        assert_close(gradient, exact_gradient[0], 1e-14, 1e-15)
        assert np.isfinite(gradient).all()

    @pytest.mark.parametrize(
        "row", [[NAN, 1.0, 2.0], [1.0, INF, 2.0], [-INF] * 3, [NAN, INF, -INF]], ids=str
    )
    @pytest.mark.parametrize("s", [0.1, 1.0])
    def test_special_rows_are_nan_with_smoothing_too(self, row: list[float], s: float) -> None:
        value, gradient = loss_and_gradient(row, 0, from_logits=True, label_smoothing=s)
        assert math.isnan(value)
        assert np.isnan(gradient).all()

    def test_never_reads_every_class_where_labels_are_smoothed(self) -> None:
        value, _ = loss_and_gradient([0.5, NAN, 0.5], 0, normalize="never", label_smoothing=0.1)
        assert math.isnan(value)

    @pytest.mark.parametrize("s", [-0.1, 1.1, NAN, INF, -INF, -1, 2])
    def test_smoothing_outside_zero_to_one_is_refused(self, s: float) -> None:
        with pytest.raises(ValueError, match=r"^label_smoothing"):
            loss_sparse_categorical_crossentropy(label_smoothing=s)
        with pytest.raises(ValueError, match=r"^label_smoothing"):
            loss_categorical_crossentropy(label_smoothing=s)

    @pytest.mark.parametrize("s", ["0.1", None, [0.1], {}])
    def test_smoothing_of_another_kind_is_refused(self, s: Any) -> None:
        with pytest.raises(TypeError, match=r"^label_smoothing"):
            loss_sparse_categorical_crossentropy(label_smoothing=s)


# ---- a single class, and no label at all --------------------------------------------------------


class TestTheSmallestShapes:
    @pytest.mark.parametrize("s", [0.0, 0.4], ids=["hard", "smoothed"])
    @pytest.mark.parametrize("kind", ["logits", "after"])
    @pytest.mark.filterwarnings("ignore:y_pred must hold")  # such scores, on purpose
    def test_a_single_class_costs_nothing(self, kind: str, s: float) -> None:
        y_pred = np.array([[0.3], [1.0], [0.7]])
        loss = loss_sparse_categorical_crossentropy(
            reduction=None, label_smoothing=s, **KINDS[kind]
        )
        value, gradient = loss.value_and_grad([0, 0, 0], y_pred)
        assert value.tolist() == [0, 0, 0]
        np.testing.assert_allclose(gradient, 0, atol=1e-15)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3), (0, 0, 3), (0, 1)], ids=str)
    def test_no_label_gives_an_empty_array_a_0_and_an_empty_gradient(
        self, kind: str, shape: tuple[int, ...]
    ) -> None:
        y_pred, y_true = np.empty(shape), np.empty(shape[:-1], int)
        got = loss_sparse_categorical_crossentropy(y_true, y_pred, **KINDS[kind])
        assert isinstance(got, np.ndarray)
        assert got.shape == shape[:-1]
        for reduction in ("mean", "sum", "mean_with_sample_weight"):
            value, gradient = loss_sparse_categorical_crossentropy(
                reduction=reduction, **KINDS[kind]
            ).value_and_grad(y_true, y_pred)
            assert value == 0
            assert gradient.shape == shape

    @pytest.mark.parametrize(
        "y_pred", [np.empty((2, 0)), np.empty((0, 0)), np.float64(0.5), 0.5], ids=repr
    )
    def test_no_class_and_no_axis_are_refused(self, y_pred: Any) -> None:
        with pytest.raises(ValueError, match="^y_pred"):
            loss_sparse_categorical_crossentropy(np.zeros(np.shape(y_pred)[:-1], int), y_pred)


# ---- R keras3's manual page ---------------------------------------------------------------------


class TestTheManualPagesFigures:
    def test_per_label(self) -> None:
        got = loss_sparse_categorical_crossentropy(PAGE_TRUE, PAGE_PRED)
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, [0.05129339, 2.30258509], rtol=0, atol=5e-9)

    @pytest.mark.parametrize(
        ("options", "weight", "want"),
        [
            pytest.param({}, None, 1.1769392, id="the mean: 1.1769392"),
            pytest.param({}, [0.3, 0.7], 0.8135988, id="weights 0.3 and 0.7: 0.8135988"),
            pytest.param({"reduction": "sum"}, None, 2.3538785, id="the sum: 2.3538785"),
            pytest.param({"reduction": None}, None, [0.0512934, 2.3025851], id="no reduction"),
            pytest.param({"reduction": "none"}, None, [0.0512934, 2.3025851], id="'none'"),
        ],
    )
    def test_object(self, options: dict[str, Any], weight: Any, want: Any) -> None:
        got = loss_sparse_categorical_crossentropy(**options)(PAGE_TRUE, PAGE_PRED, weight)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, rtol=0, atol=1.3e-7)

    def test_the_weights_go_in_by_name(self) -> None:
        got = loss_sparse_categorical_crossentropy()(
            PAGE_TRUE, PAGE_PRED, sample_weight=np.array([0.3, 0.7])
        )
        assert got == pytest.approx(0.8135988, abs=6e-8)

    def test_ours_is_nearer_than_the_printed_rounding(self) -> None:
        got = loss_sparse_categorical_crossentropy(reduction=None)(PAGE_TRUE, PAGE_PRED)
        assert abs(float(got[0]) - 0.05129339438754849) < abs(0.05129344 - 0.05129339438754849)


# ---- the one-hot sibling ------------------------------------------------------------------------


class TestTheOneHotSibling:
    def test_its_page_figure(self) -> None:
        got = loss_categorical_crossentropy([[0, 1, 0]], [[0.05, 0.95, 0.0]])
        assert got[0] == pytest.approx(0.0512932944, abs=5e-11)

    @pytest.mark.parametrize("from_logits", [True, False], ids=["logits", "probabilities"])
    @pytest.mark.parametrize("s", [0.0, 0.25])
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
    @pytest.mark.parametrize("axis", [-1, 1, 0])
    def test_soft_targets_need_not_sum_to_one(
        self, from_logits: bool, s: float, dtype: str, axis: int
    ) -> None:
        rng = np.random.default_rng(11)
        y_pred = rng.uniform(0.05, 1, (3, 4, 5)).astype(oracle.FLOATS[dtype])
        targets = rng.uniform(0, 2, (3, 4, 5)).round(1)
        got = loss_categorical_crossentropy(targets, y_pred, from_logits, s, axis)
        want, _ = oracle.soft_targets(
            targets, y_pred, from_logits=from_logits, label_smoothing=s, axis=axis
        )
        eps = float(oracle.finfo(dtype).eps)
        assert got.dtype == y_pred.dtype
        assert_close(got, want, 16 * eps, 16 * eps)

    @pytest.mark.parametrize("from_logits", [True, False], ids=["logits", "probabilities"])
    def test_one_hot_targets_equal_the_sparse_loss_before(self, from_logits: bool) -> None:
        y_pred = np.random.default_rng(12).dirichlet(np.ones(4), 20)
        y_true = np.arange(20) % 4
        dense = loss_categorical_crossentropy(np.eye(4, dtype=int)[y_true], y_pred, from_logits)
        sparse = loss_sparse_categorical_crossentropy(
            y_true, y_pred, from_logits, normalize="before"
        )
        np.testing.assert_allclose(dense, sparse, rtol=1e-13)

    @pytest.mark.parametrize(
        ("reduction", "weight", "want"),
        [
            pytest.param("sum_over_batch_size", None, 1.5, id="the mean"),
            pytest.param("mean", [1, 0], 1.0, id="a weight of 0 counts in the divisor"),
            pytest.param("sum", None, 3.0, id="the sum"),
            pytest.param("sum", [1, 2], 4.0, id="the weighted sum"),
            pytest.param("mean_with_sample_weight", [1, 3], 5 / 4, id="by the weights"),
            pytest.param(None, [1, 3], [2.0, 3.0], id="no reduction"),
        ],
    )
    def test_reduction(self, reduction: str | None, weight: Any, want: Any) -> None:
        """The losses are 2 log 2 and log 2: the values are in units of log 2."""
        loss = CategoricalCrossentropy(reduction=reduction, dtype="float64")
        got = loss([[2, 0], [1, 0]], [[0.5, 0.5], [0.5, 0.5]], weight)
        np.testing.assert_allclose(np.asarray(got) / math.log(2), want, rtol=1e-14)

    def test_zero_times_infinity_is_zero(self) -> None:
        got = loss_categorical_crossentropy(
            [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], [[0.0, -INF, 1.0], [1.0, 1.0, -INF]], True
        )
        np.testing.assert_allclose(got, [math.log(1 + math.e), math.log(2)], rtol=1e-14)

    def test_a_target_on_a_masked_class_costs_infinity(self) -> None:
        assert loss_categorical_crossentropy([[0.5, 0.5]], [[0.0, -INF]], True)[0] == INF

    @pytest.mark.parametrize("bad", [-0.5, NAN, -INF])
    def test_negative_and_nan_targets_are_refused(self, bad: float) -> None:
        with pytest.raises(ValueError, match=r"^y_true.*\(1, 0\)"):
            loss_categorical_crossentropy([[1.0, 0.0], [bad, 1.0]], [[0.5, 0.5], [0.5, 0.5]])

    @pytest.mark.parametrize("shape", [(2,), (2, 1), (1, 3), (3, 2), (2, 3, 1)], ids=str)
    def test_targets_of_another_shape_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="^y_true"):
            loss_categorical_crossentropy(np.zeros(shape), np.ones((2, 3)))

    def test_a_single_label_gives_a_number(self) -> None:
        got = loss_categorical_crossentropy([0.0, 1.0], [0.5, 0.5])
        assert isinstance(got, np.generic)
        assert got == pytest.approx(math.log(2))

    def test_both_forms_agree(self) -> None:
        y_true, y_pred = np.eye(3), np.array([[0.2, 0.3, 0.5]] * 3)
        data = loss_categorical_crossentropy(y_true, y_pred, label_smoothing=0.1, dtype="float32")
        made = loss_categorical_crossentropy(label_smoothing=0.1, reduction=None)(y_true, y_pred)
        assert data.tobytes() == made.tobytes()
