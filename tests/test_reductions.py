"""Promises of reduction: which losses count, how much, and what the sum is divided by.

l losses, w weights (sample weight times class weight), V the labels that are not ignored. The
losses here are logs of powers of two, so that a value in units of log 2 is a number one can read.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import oracle
import pytest
from oracle import Definition, assert_close

from sparse_xent import SparseCategoricalCrossentropy, loss_sparse_categorical_crossentropy

pytestmark = pytest.mark.usefixtures("engine")

NAN, INF = np.nan, np.inf
NA = -2147483648  # how R's integer NA arrives
MEANS = ["sum_over_batch_size", "mean", "auto"]
REDUCTIONS = [*MEANS, "sum", "mean_with_sample_weight", None, "none"]
# -log2 of the first class: 1, 2, 3, 4.
EASY = np.array([[1 / 2, 1 / 2], [1 / 4, 3 / 4], [1 / 8, 7 / 8], [1 / 16, 15 / 16]])
ZEROS = [0, 0, 0, 0]


def make(**options: Any) -> SparseCategoricalCrossentropy:
    return loss_sparse_categorical_crossentropy(**{"dtype": "float64", **options})


def bits(value: Any) -> Any:
    """The value in units of log 2, of losses -log2 p read straight from the rows."""
    return np.asarray(value) / math.log(2)


def easy(y_true: Any = ZEROS, w: Any = None, **options: Any) -> Any:
    return bits(make(normalize="never", **options)(y_true, EASY, w))


# ---- the table ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reduction", "w", "ignored", "want"),
    [
        *[
            row
            for name in MEANS
            for row in [
                pytest.param(name, None, 0, 10 / 4, id=f"{name}: sum l / V"),
                pytest.param(name, [1, 0, 2, 1], 0, 11 / 4, id=f"{name}: sum l w / V, not sum w"),
                pytest.param(name, [9, 0, 2, 1], 1, 10 / 3, id=f"{name}: V counts what is kept"),
                pytest.param(name, 3.0, 0, 30 / 4, id=f"{name}: a scalar weight multiplies"),
            ]
        ],
        pytest.param("sum", None, 0, 10, id="sum: sum l"),
        pytest.param("sum", [1, 0, 2, 1], 0, 11, id="sum: sum l w"),
        pytest.param("sum", [9, 0, 2, 1], 1, 10, id="sum: of what is kept"),
        pytest.param("mean_with_sample_weight", None, 0, 10 / 4, id="by weights: none is the mean"),
        pytest.param(
            "mean_with_sample_weight", [1, 0, 2, 1], 0, 11 / 4, id="by weights: sum l w / sum w"
        ),
        pytest.param(
            "mean_with_sample_weight", [9, 0, 2, 1], 1, 10 / 3, id="by weights: of what is kept"
        ),
        pytest.param(
            "mean_with_sample_weight", 2.3, 0, 10 / 4, id="by weights: a scalar 2.3 changes nothing"
        ),
        pytest.param(
            "mean_with_sample_weight", 2.3, 1, 9 / 3, id="by weights: nor where some are ignored"
        ),
        pytest.param(
            "mean_with_sample_weight", [[2.3]], 0, 10 / 4, id="by weights: as broadcast, (1, 1) too"
        ),
        pytest.param(None, [1, 0, 2, 1], 0, [1, 0, 6, 4], id="None: l w"),
        pytest.param("none", [1, 0, 2, 1], 0, [1, 0, 6, 4], id="none: l w"),
        pytest.param(None, [9, 0, 2, 1], 1, [0, 0, 6, 4], id="None: 0 where ignored"),
    ],
)
def test_value_of(reduction: str | None, w: Any, ignored: int, want: Any) -> None:
    y_true = [7] * ignored + ZEROS[ignored:]
    got = easy(y_true, w, reduction=reduction, ignore_class=7)
    np.testing.assert_allclose(got, want, rtol=1e-14)


@pytest.mark.parametrize("reduction", MEANS)
def test_the_three_names_of_the_mean_give_the_same_bits(reduction: str) -> None:
    y_pred = np.random.default_rng(41).normal(size=(50, 4))
    y_true, w = np.arange(50) % 4, np.arange(50.0)
    value, gradient = make(from_logits=True, reduction=reduction).value_and_grad(y_true, y_pred, w)
    mean, mean_gradient = make(from_logits=True).value_and_grad(y_true, y_pred, w)
    assert value == mean
    assert gradient.tobytes() == mean_gradient.tobytes()


def test_auto_is_called_by_its_modern_name_in_the_config() -> None:
    assert make(reduction="auto").get_config()["reduction"] == "sum_over_batch_size"


@pytest.mark.parametrize("reduction", ["Sum", "average", "", 1, True, ["sum"]])
def test_another_reduction_is_refused(reduction: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="^reduction"):
        make(reduction=reduction)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "sample weights"])
@pytest.mark.parametrize("class_weight", [None, [0.5, 0, 2, 1]], ids=["", "class weights"])
@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
@pytest.mark.parametrize("from_logits", [True, False], ids=["logits", "probabilities"])
def test_value_and_gradient_are_the_definitions(
    from_logits: bool, reduction: str | None, class_weight: Any, weighted: bool
) -> None:
    rng = np.random.default_rng(42)
    y_pred = rng.dirichlet(np.ones(4), (3, 5))
    y_true = rng.integers(-1, 4, (3, 5))
    w = rng.normal(1, 1, (3, 5)) if weighted else None
    options: dict[str, Any] = dict(
        from_logits=from_logits, reduction=reduction, class_weight=class_weight, ignore_class=-1
    )
    value, gradient = make(**options).value_and_grad(y_true, y_pred, w)
    want, want_gradient = Definition(**options).value_and_gradient(y_true, y_pred, w)
    assert_close(value, want, 1e-13, 1e-15)
    assert_close(gradient, want_gradient, 1e-13, 1e-14)


# ---- ignored equals deleted ---------------------------------------------------------------------


@pytest.mark.parametrize("s", [0.0, 0.2])
@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
@pytest.mark.parametrize(
    ("ignore_class", "marks"),
    [
        pytest.param(-1, [-1], id="-1"),
        pytest.param(255, [255], id="255"),
        pytest.param(2, [2], id="a class of the range"),
        pytest.param([0, 3, -7], [0, 3, -7], id="several"),
        pytest.param({-1, 2}, [-1, 2], id="a set"),
        pytest.param(frozenset({5.0}), [5], id="a frozen set of whole floats"),
        pytest.param(255.0, [255], id="a whole float, as R sends it"),
        pytest.param(-2147483648, [-2147483648], id="R's integer NA"),
        pytest.param(np.int64(9), [9], id="a NumPy integer"),
        pytest.param(np.array([4, 5]), [4, 5], id="a NumPy array"),
    ],
)
def test_ignored_equals_deleted(
    ignore_class: Any, marks: list[int], reduction: str | None, s: float
) -> None:
    rng = np.random.default_rng(43)
    y_pred = rng.normal(size=(60, 4))
    y_true = np.where(rng.random(60) < 0.4, rng.choice(marks, 60), rng.integers(0, 4, 60))
    w = rng.uniform(0.1, 2, 60)
    keep = ~np.isin(y_true, marks)
    assert 0 < keep.sum() < 60
    y_pred[~keep] = NAN
    loss = make(from_logits=True, ignore_class=ignore_class, reduction=reduction, label_smoothing=s)
    deleted = make(from_logits=True, reduction=reduction, label_smoothing=s)
    value, gradient = loss.value_and_grad(y_true, y_pred, w)
    want, want_gradient = deleted.value_and_grad(y_true[keep], y_pred[keep], w[keep])
    if reduction in (None, "none"):
        assert value[keep].tobytes() == want.tobytes()
        assert value[~keep].tolist() == [0] * (~keep).sum()
    else:
        assert value == pytest.approx(want, rel=1e-14)
    np.testing.assert_allclose(gradient[keep], want_gradient, rtol=1e-14, atol=1e-300)
    assert (gradient[~keep] == 0).all()


def test_an_empty_ignore_class_is_none() -> None:
    assert make(ignore_class=[]) == make(ignore_class=None)
    assert easy(ignore_class=[]) == easy()


@pytest.mark.parametrize("ignore_class", [True, NAN, 1.5, INF, "1", [True], [NAN], [[1]], object()])
def test_another_ignore_class_is_refused(ignore_class: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="^ignore_class"):
        make(ignore_class=ignore_class)


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
def test_where_all_is_ignored_value_and_gradient_are_0(reduction: str | None) -> None:
    loss = make(from_logits=True, ignore_class=9, reduction=reduction)
    value, gradient = loss.value_and_grad([9, 9], np.full((2, 3), NAN), [1.0, 2.0])
    assert np.atleast_1d(value).tolist() == [0] * np.size(value)
    assert gradient.tolist() == [[0] * 3] * 2


def test_a_row_is_ignored_not_a_column() -> None:
    """Ignoring class 1 leaves its score in the sums of the other rows."""
    y_pred = np.array([[0.0, 3.0], [1.0, 2.0]])
    got = make(from_logits=True, ignore_class=1, reduction=None)([0, 1], y_pred)
    assert got[0] == pytest.approx(math.log1p(math.exp(3)), rel=1e-14)
    assert got[1] == 0


# ---- a divisor of 0 -----------------------------------------------------------------------------


@pytest.mark.parametrize("w", [[1, -1, 1, -1], [0, 0, 0, 0], 0.0], ids=str)
def test_weights_that_sum_to_0_give_0_by_weights(w: Any) -> None:
    loss = make(normalize="never", reduction="mean_with_sample_weight")
    value, gradient = loss.value_and_grad(ZEROS, EASY, w)
    assert value == 0
    assert (gradient == 0).all()


def test_all_weights_0_give_0_over_the_count() -> None:
    value, gradient = make().value_and_grad(ZEROS, np.full((4, 2), NAN), [0, 0, 0, 0])
    assert value == 0
    assert (gradient == 0).all()


# ---- sample weights -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "weight"),
    [
        pytest.param((4,), (), id="a scalar"),
        pytest.param((4,), (4,), id="one a loss"),
        pytest.param((4,), (1,), id="a length of 1 is broadcast"),
        pytest.param((4,), (4, 1), id="a closing 1 beyond the losses' rank is dropped"),
        pytest.param((4,), (1, 1), id="(1, 1) is one weight"),
        pytest.param((3, 4), (3,), id="(B,) on (B, T) weighs samples"),
        pytest.param((3, 3), (3,), id="(B,) on (B, B) weighs samples, not time steps"),
        pytest.param((3, 4), (3, 1), id="(B, 1) on (B, T) weighs samples"),
        pytest.param((3, 4), (1, 4), id="(1, T) on (B, T) weighs time steps"),
        pytest.param((3, 4), (3, 4), id="one a loss, in two axes"),
        pytest.param((3, 4), (3, 4, 1), id="(B, T, 1) on (B, T)"),
        pytest.param((3, 4), (1, 4, 1), id="(1, T, 1) on (B, T)"),
        pytest.param((3, 4), (1,), id="(1,) on (B, T)"),
        pytest.param((2, 3, 4), (2, 3), id="(B, S) on (B, S, T)"),
        pytest.param((2, 3, 4), (2,), id="(B,) on (B, S, T)"),
        pytest.param((2, 3, 1), (2, 3, 1), id="the losses' own closing 1 stays"),
        pytest.param((2, 3, 4), (2, 1, 4), id="(B, 1, T) on (B, S, T)"),
        pytest.param((), (), id="a scalar on one loss without axes"),
        pytest.param((), (1,), id="(1,) on one loss without axes"),
    ],
)
@pytest.mark.parametrize("reduction", ["mean", "mean_with_sample_weight", None])
def test_a_weight_is_aligned_to_the_leading_axes(
    shape: tuple[int, ...], weight: tuple[int, ...], reduction: str | None
) -> None:
    rng = np.random.default_rng(44)
    y_pred, y_true = rng.normal(size=(*shape, 3)), rng.integers(0, 3, shape)
    w = rng.uniform(0.5, 2, weight)
    value, gradient = make(from_logits=True, reduction=reduction).value_and_grad(y_true, y_pred, w)
    want, want_gradient = Definition(from_logits=True, reduction=reduction).value_and_gradient(
        y_true, y_pred, w
    )
    assert_close(value, want, 1e-13)
    assert_close(gradient, want_gradient, 1e-13, 1e-15)


@pytest.mark.parametrize(
    ("shape", "weight"),
    [
        ((4,), (3,)),
        ((4,), (2, 2)),
        ((4,), (1, 4)),
        ((4,), (4, 1, 1)),
        ((3, 4), (3, 2)),
        ((3, 4), (4, 3)),
        ((3, 4), (2, 3, 4)),
        ((3, 4), (1, 3, 4)),
        ((2, 3, 4), (3, 4)),
        ((4,), (0,)),
    ],
    ids=str,
)
def test_a_weight_that_does_not_fit_is_refused(
    shape: tuple[int, ...], weight: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="^sample_weight"):
        make()(np.zeros(shape, int), np.ones((*shape, 3)), np.ones(weight))


def test_a_weight_for_time_steps_is_shown_its_axis() -> None:
    with pytest.raises(ValueError, match=r"^sample_weight.*\[None, :\]"):
        make()(np.zeros((3, 4), int), np.ones((3, 4, 2)), np.ones(4))


def test_with_the_class_axis_in_front_weights_follow_the_losses() -> None:
    rng = np.random.default_rng(45)
    y_pred, y_true, w = rng.normal(size=(2, 5, 3)), rng.integers(0, 5, (2, 3)), np.array([1.0, 3.0])
    got = make(from_logits=True, axis=1)(y_true, y_pred, w)
    want, _ = Definition(from_logits=True, axis=1).value_and_gradient(y_true, y_pred, w)
    assert_close(got, want, 1e-14)


@pytest.mark.parametrize("loss", [INF, NAN])
@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
def test_weight_0_is_exactly_0_and_counts_in_v(loss: float, reduction: str | None) -> None:
    y_pred = np.array([[-INF if loss == INF else NAN, 0.0], [0.0, 0.0]])
    value, gradient = make(from_logits=True, reduction=reduction).value_and_grad(
        [0, 0], y_pred, [0, 1]
    )
    want = {None: [0, 1], "none": [0, 1], "sum": 1, "mean_with_sample_weight": 1}
    np.testing.assert_allclose(bits(value), want.get(reduction, 0.5), rtol=1e-14)
    assert gradient[0].tolist() == [0, 0]


def test_a_label_of_weight_0_is_still_checked() -> None:
    with pytest.raises(ValueError, match=r"^y_true"):
        make()([0, 9], EASY[:2], [1, 0])


@pytest.mark.parametrize("bad", [NAN, INF, -2147483648.0])
def test_weights_at_ignored_labels_are_not_read(bad: float) -> None:
    for reduction in ("mean", "mean_with_sample_weight", "sum"):
        value, gradient = make(
            normalize="never", ignore_class=-1, reduction=reduction
        ).value_and_grad([0, -1], EASY[:2], [1.0, bad])
        assert bits(value) == pytest.approx(1, rel=1e-14)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("w", "want"),
    [
        pytest.param([True, False, True, False], 4, id="bools"),
        pytest.param(np.array([1, 0, 2, 0], "uint8"), 7, id="unsigned bytes"),
        pytest.param(np.array([1, 0, 2, 0], "float16"), 7, id="float16"),
        pytest.param(np.array([1, 0, 2, 0], ml_dtypes.bfloat16), 7, id="bfloat16"),
        pytest.param(np.array([1, 0, 2, 0], ">f4"), 7, id="another byte order"),
        pytest.param(np.array([1, 0, 2, 0], np.longdouble), 7, id="long double"),
        pytest.param(np.array([1, 9, 0, 9, 2, 9, 0, 9.0])[::2], 7, id="strided"),
        pytest.param([-1, 0, 1, 0], 2, id="negative weights"),
        pytest.param(np.array([2**40, 0, 0, 0]), 2**40, id="great whole numbers"),
        pytest.param([1e-300, 0, 0, 0], 1e-300, id="tiny weights"),
        pytest.param(2, 20, id="a Python int"),
        pytest.param(np.float32(0.5), 5, id="a NumPy scalar"),
        pytest.param(np.array(0.5), 5, id="a 0-d array"),
        pytest.param(True, 10, id="a bool"),
    ],
)
def test_weights_are_taken_as(w: Any, want: float) -> None:
    assert easy(w=w, reduction="sum") == pytest.approx(want, rel=1e-14)


HOW_A_WEIGHT_IS_NAN = {
    "float16": np.float16,
    "float32": np.float32,
    "float64": np.float64,
    "long double": np.longdouble,
    "bfloat16": ml_dtypes.bfloat16,
    "other byte order": ">f4",
    "a list": list,
}


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        pytest.param(kind, missing, id=f"{kind}, {missing}")
        for kind in HOW_A_WEIGHT_IS_NAN
        for missing in (NAN, -NAN, float(NA))
        if (kind, missing) != ("float16", NA)  # which float16 does not reach
    ],
)
@pytest.mark.parametrize(
    "y_pred",
    [EASY, EASY[:, ::-1], EASY.astype(">f8")],
    ids=["compiled", "strided", "another byte order"],
)
@pytest.mark.parametrize("reduction", ["mean", "sum", "mean_with_sample_weight", None])
def test_a_weight_that_is_missing_is_refused(
    missing: float, kind: str, y_pred: Any, reduction: str | None
) -> None:
    make_array = HOW_A_WEIGHT_IS_NAN[kind]
    w: Any = [1.0, 2.0, missing, missing]
    w = w if make_array is list else np.array(w).astype(make_array)
    loss = make(normalize="never", reduction=reduction)
    for call in (loss, loss.value_and_grad):
        with pytest.raises(
            ValueError, match=r"^sample_weight .*\(NA in R\) at \(2,\); drop"
        ) as said:
            call(ZEROS, y_pred, w)
        assert ("nan" in str(said.value)) == (missing != missing)


def test_a_late_weight_that_is_missing_leaves_out_as_it_was() -> None:
    w = np.ones(300_000)
    w[299_998] = NAN
    y_pred, out = np.full((w.size, 2), 0.5, "float32"), np.full((w.size, 2), 7.0, "float32")
    with pytest.raises(ValueError, match=r"^sample_weight .* at \(299998,\)"):
        make().value_and_grad(np.zeros(w.size, "int8"), y_pred, w, out=out)
    assert (out == 7).all()


@pytest.mark.parametrize("missing", [NAN, float(NA)], ids=["nan", "NA"])
@pytest.mark.parametrize("dtype", ["float32", "float64", ">f8"])
def test_a_missing_weight_at_an_ignored_label_is_not_read(missing: float, dtype: str) -> None:
    loss, labels = make(ignore_class=255), np.array([0, 255, 1, 0])
    w = np.array([1.0, missing, 2.0, 3.0], dtype)
    want = loss.value_and_grad(labels, EASY, [1.0, 0.0, 2.0, 3.0])
    got = loss.value_and_grad(labels, EASY, w)
    assert got[0] == want[0]
    assert got[1].tobytes() == want[1].tobytes()


@pytest.mark.parametrize("w", [NAN, np.float32(NAN), np.array(NAN), [NAN], [[NAN]]], ids=repr)
def test_a_missing_weight_of_all_is_refused_at_the_place_where_it_was_sent(w: Any) -> None:
    place = re.escape(str((0,) * min(1, np.ndim(w))))
    with pytest.raises(ValueError, match=rf"^sample_weight .*nan \(NA in R\) at {place};"):
        make()(ZEROS, EASY, w)


@pytest.mark.parametrize(
    "w", [-2147483648, [1, -2147483648, 1, 1], [1.0, 1.0, -2147483648.0, 1.0]], ids=str
)
def test_rs_na_among_the_weights_is_refused(w: Any) -> None:
    with pytest.raises(ValueError, match=r"^sample_weight.*NA"):
        make()(ZEROS, EASY, w)


@pytest.mark.parametrize("w", ["1", ["1", "2", "3", "4"], [1, None, 1, 1], [1j] * 4], ids=str)
def test_weights_of_another_kind_are_refused(w: Any) -> None:
    with pytest.raises(TypeError, match="^sample_weight"):
        make()(ZEROS, EASY, w)


# ---- class weights ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("class_weight", "w"),
    [
        pytest.param([2, 0.5, 0, 1], [2, 0.5, 0, 1], id="a list"),
        pytest.param(np.array([2, 0.5, 0, 1], "float32"), [2, 0.5, 0, 1], id="an array"),
        pytest.param({0: 2, 1: 0.5, 2: 0, 3: 1}, [2, 0.5, 0, 1], id="a dict"),
        pytest.param({"0": 2, "2": 0.5}, [2, 1, 0.5, 1], id="a dict of digit strings, as R sends"),
        pytest.param({2: 4.0}, [1, 1, 4, 1], id="absent classes weigh 1"),
        pytest.param({np.int64(2): 4.0}, [1, 1, 4, 1], id="a dict of NumPy integers"),
        pytest.param({}, [1, 1, 1, 1], id="an empty dict"),
    ],
)
@pytest.mark.parametrize("s", [0.0, 0.3], ids=["hard", "smoothed"])
def test_class_weights_multiply_the_whole_loss_in_both_forms(
    class_weight: Any, w: list[float], s: float
) -> None:
    y_pred, y_true = np.random.default_rng(46).normal(size=(4, 4)), np.arange(4)
    plain = loss_sparse_categorical_crossentropy(y_true, y_pred, True, label_smoothing=s)
    got = loss_sparse_categorical_crossentropy(
        y_true, y_pred, True, label_smoothing=s, class_weight=class_weight
    )
    np.testing.assert_allclose(got, plain * w, rtol=1e-15)
    options: dict[str, Any] = dict(from_logits=True, label_smoothing=s, class_weight=class_weight)
    for reduction, want in [
        ("mean", (plain * w).sum() / 4),
        ("sum", (plain * w).sum()),
        ("mean_with_sample_weight", (plain * w).sum() / sum(w)),
    ]:
        assert make(reduction=reduction, **options)(y_true, y_pred) == pytest.approx(
            want, rel=1e-14
        )
    np.testing.assert_allclose(make(reduction=None, **options)(y_true, y_pred), got, rtol=1e-15)


def test_class_and_sample_weights_multiply() -> None:
    got = easy([0, 0, 0, 1], [1, 2, 0, 1], class_weight=[3, 0], reduction=None)
    np.testing.assert_allclose(got, [3, 12, 0, 0], rtol=1e-14)
    got = easy([0, 0, 0, 1], [1, 2, 0, 1], class_weight=[3, 0], reduction="mean_with_sample_weight")
    assert got == pytest.approx(15 / 9, rel=1e-14)


def test_a_class_weight_of_0_silences_an_infinite_loss() -> None:
    y_pred = np.array([[-INF, 0.0], [0.0, 0.0]])
    got = loss_sparse_categorical_crossentropy([0, 1], y_pred, True, class_weight=[0, 1])
    np.testing.assert_allclose(bits(got), [0, 1])


def test_an_ignored_class_needs_no_weight() -> None:
    got = easy([255, 0, 0, 0], ignore_class=255, class_weight=[1, 1], reduction="sum")
    assert got == pytest.approx(9, rel=1e-14)


@pytest.mark.parametrize(
    "class_weight",
    [
        pytest.param([1.0], id="too few"),
        pytest.param([1.0, 1.0, 1.0], id="too many"),
        pytest.param([[1.0, 1.0]], id="two axes"),
        pytest.param({2: 1.0}, id="a key beyond the classes"),
        pytest.param({-1: 1.0}, id="a negative key"),
        pytest.param({"2": 1.0}, id="a string key beyond the classes"),
        pytest.param({"cat": 1.0}, id="a key that is no number"),
        pytest.param({0.5: 1.0}, id="a key that is no whole number"),
        pytest.param({0: "a"}, id="a weight that is a string"),
        pytest.param(["a", "b"], id="strings"),
    ],
)
def test_other_class_weights_are_refused(class_weight: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="^class_weight"):
        make(class_weight=class_weight)([0, 1], EASY[:2])


# ---- the sum ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_half_precision_mean_of_70000_losses_is_right(dtype: str) -> None:
    """Their sum is beyond float16's 65504: the division comes before the cast."""
    kind = oracle.FLOATS[dtype]
    rows = np.random.default_rng(47).normal(size=(7, 5)).astype(kind)
    y_pred, y_true = np.tile(rows, (10_000, 1)), np.tile(np.arange(7) % 5, 10_000)
    want, _ = Definition(from_logits=True).value_and_gradient(np.arange(7) % 5, rows)
    value, gradient = make(from_logits=True, dtype=dtype).value_and_grad(y_true, y_pred)
    assert value.dtype == kind
    assert_close(value, want, 1e-5 + float(oracle.finfo(kind).eps) / 2)
    assert np.isfinite(gradient.astype("float32")).all()
    assert np.isposinf(
        make(from_logits=True, dtype="float16", reduction="sum")(y_true, y_pred).astype("float32")
    )


def test_the_sum_is_made_in_float64() -> None:
    """Of a million float32 losses, a float32 sum would keep six digits or fewer."""
    y_pred = np.random.default_rng(48).normal(size=(1_000_000, 2)).astype("float32")
    y_true = np.zeros(1_000_000, "int8")
    losses = loss_sparse_categorical_crossentropy(y_true, y_pred, True)
    got = make(from_logits=True, reduction="sum", dtype="float64")(y_true, y_pred)
    each = loss_sparse_categorical_crossentropy(y_true, y_pred, True, dtype="float64")
    assert got == pytest.approx(math.fsum(each), rel=1e-13)
    got = make(from_logits=True, reduction="sum", dtype="float32")(y_true, y_pred)
    assert got == np.float32(math.fsum(losses))


def test_a_value_is_the_sum_of_its_losses() -> None:
    y_pred = np.random.default_rng(49).normal(size=(1000, 7))
    y_true, w = np.arange(1000) % 7, np.random.default_rng(50).normal(size=1000)
    loss = make(from_logits=True, reduction=None)
    terms = loss(y_true, y_pred, w)
    exactly = sum((Fraction(float(v)) for v in terms), Fraction(0))
    scale = np.abs(terms).sum()
    total = make(from_logits=True, reduction="sum")(y_true, y_pred, w)
    assert abs(Fraction(float(total)) - exactly) <= Fraction(1, 10**15) * Fraction(scale)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_call_gives_the_same_bits_again_and_for_any_number_of_threads(
    threads: int, settings: Any
) -> None:
    y_pred = np.random.default_rng(51).normal(size=(30_000, 11)).astype("float32")
    y_true = np.arange(30_000) % 11
    loss = make(from_logits=True, dtype="float64")
    value, gradient = loss.value_and_grad(y_true, y_pred)
    settings.config_set_threads(threads)
    again, gradient_again = loss.value_and_grad(y_true, y_pred)
    assert again == value
    assert gradient.tobytes() == gradient_again.tobytes()


@pytest.fixture
def settings() -> Any:
    """The package, whose number of threads is put back afterwards."""
    import sparse_xent

    before = sparse_xent.config_threads()
    yield sparse_xent
    sparse_xent.config_set_threads(before)
