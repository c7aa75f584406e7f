"""Promises of accuracy: a label's loss is right relative to the loss itself.

loss = logsumexp(x) - x_t, held against the same definition in 420 digits: to 1e-12 in float64
(gaps to 700) and 1e-5 in float32 (gaps to 80), at any offset to 1e6, as long as the loss of the
inputs as stored is a normal number of the result's dtype; below that the nearest subnormal or 0,
above it inf. float16 and bfloat16 are computed in float32 and rounded once: the plain expression's
own error there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import Definition, assert_close

from sparse_xent import loss_sparse_categorical_crossentropy

RTOL = {"float64": 1e-12, "float32": 1e-5}
GAPS = {
    "float64": [1e-9, 1e-3, 0.5, 1, 10, 36, 40, 100, 300, 500, 700],
    "float32": [1e-9, 1e-3, 0.5, 1, 10, 16, 20, 40, 60, 70, 80],
}
OFFSETS = [0.0, 1.0, -1.0, 1e3, -1e3, 1e6, -1e6]
WIDE = ["float32", "float64"]


def losses(y_true: Any, y_pred: Any, **options: Any) -> Any:
    return loss_sparse_categorical_crossentropy(y_true, y_pred, True, **options)


def gradient(y_true: Any, y_pred: Any, **options: Any) -> Any:
    loss = loss_sparse_categorical_crossentropy(
        from_logits=True, reduction="sum", dtype=y_pred.dtype, **options
    )
    return loss.value_and_grad(y_true, y_pred)[1]


def gap_rows(gap: float, offset: float, classes: int, dtype: str) -> Any:
    """The target above all others by `gap`, and below them by it, as the dtype stores it."""
    rows = np.full((3, classes), offset, dtype)
    rows[0, 0] += np.asarray(gap, dtype)  # the target wins
    rows[1, 0] -= np.asarray(gap, dtype)  # the target loses to all
    rows[2, 1] += np.asarray(gap, dtype)  # the target loses to one
    return rows


@pytest.mark.parametrize("classes", [2, 3, 17, 100])
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("dtype", WIDE)
def test_every_gap_is_right_relative_to_the_loss(dtype: str, offset: float, classes: int) -> None:
    rows = np.concatenate([gap_rows(gap, offset, classes, dtype) for gap in GAPS[dtype]])
    y_true = np.zeros(len(rows), int)
    want = Definition(from_logits=True)
    assert_close(losses(y_true, rows), want.per_label(y_true, rows), RTOL[dtype])


@pytest.mark.parametrize("dtype", WIDE)
def test_the_gradient_at_the_target_is_right_relative_to_itself(dtype: str) -> None:
    rows = np.concatenate([gap_rows(gap, 0.0, 5, dtype) for gap in GAPS[dtype]])
    y_true = np.zeros(len(rows), int)
    want = Definition(from_logits=True, reduction="sum").value_and_gradient(y_true, rows)[1]
    assert_close(gradient(y_true, rows), want, RTOL[dtype])


@pytest.mark.parametrize("s", [1e-6, 0.1, 0.9, 1.0])
@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("dtype", WIDE)
def test_smoothed_losses_are_right_at_every_gap_and_offset(
    dtype: str, offset: float, s: float
) -> None:
    rows = np.concatenate([gap_rows(gap, offset, 6, dtype) for gap in GAPS[dtype]])
    rows[::4, 3] = -np.inf
    y_true = np.zeros(len(rows), int)
    want = Definition(from_logits=True, label_smoothing=s).per_label(y_true, rows)
    assert_close(losses(y_true, rows, label_smoothing=s), want, RTOL[dtype])


@pytest.mark.parametrize("offset", [1e6, -1e6])
@pytest.mark.parametrize("dtype", WIDE)
def test_nearly_equal_logits_far_from_zero_lose_nothing(dtype: str, offset: float) -> None:
    """The inputs as stored count: at 1e6 float32 holds sixteenths, and their loss is exact."""
    rows = (offset + np.random.default_rng(21).integers(-8, 8, (50, 4)) / 16).astype(dtype)
    y_true = np.arange(50) % 4
    for s in (0.0, 0.1):
        want = Definition(from_logits=True, label_smoothing=s).per_label(y_true, rows)
        assert_close(losses(y_true, rows, label_smoothing=s), want, RTOL[dtype])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("classes", [24, 511, 2047, 2048, 9000, 100_000])
@pytest.mark.parametrize(("dtype", "digits"), [("float32", 1e-5), ("float64", 1e-12)])
def test_equal_terms_whose_roundings_all_go_one_way_add_up(dtype, digits, classes, order) -> None:
    y_pred = np.array(np.full((20, classes), 0.1), dtype, order=order)
    y_pred[:, 0] = 20
    gap = np.longdouble(y_pred[0, 0]) - np.longdouble(y_pred[0, 1])
    want = np.log1p((classes - 1) * np.exp(-gap))
    got = losses(np.zeros(20, int), y_pred)
    assert (np.abs(got - want) <= digits * want).all()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("classes", [10, 100, 700])
@pytest.mark.parametrize(("dtype", "least"), [("float32", 80), ("float64", 700)])
def test_many_classes_that_are_each_next_to_nothing_add_up(
    dtype: str, least: float, classes: int, order: Any
) -> None:
    """Some of the terms are no normal numbers beside the target's, while the loss is one."""
    rng = np.random.default_rng(31)
    rows = rng.uniform(0, 12, (40, classes)).astype(dtype)
    y_true = rng.integers(0, classes, 40)
    rows[np.arange(40), y_true] = np.linspace(least, least + 12, 40)
    rows = np.asarray(rows, order=order)
    want = Definition(from_logits=True, reduction="sum")
    assert_close(losses(y_true, rows), want.per_label(y_true, rows), RTOL[dtype])
    at_targets = np.arange(40), y_true
    dx, wanted = gradient(y_true, rows), want.value_and_gradient(y_true, rows)[1]
    assert_close(dx[at_targets], wanted[at_targets], RTOL[dtype])


@pytest.mark.parametrize(
    ("dtype", "gaps"),
    [
        ("float32", [85, 87, 88, 90, 95, 100, 103, 104, 110]),
        ("float64", [705, 708, 709, 720, 740, 745, 746, 800]),
    ],
)
def test_below_the_normal_numbers_it_is_the_nearest_subnormal_or_0(
    dtype: str, gaps: list[float]
) -> None:
    rows = np.concatenate([gap_rows(gap, 0.0, 3, dtype)[:1] for gap in gaps])
    y_true = np.zeros(len(rows), int)
    want = Definition(from_logits=True).per_label(y_true, rows)
    assert_close(losses(y_true, rows), want, RTOL[dtype])  # assert_close allows one subnormal
    assert losses([0], rows[-1:])[0] == 0
    assert 0 < losses([0], rows[3:4])[0] < np.finfo(dtype).tiny * 1.01


# How far e^x may climb above the first score of a row before a term no longer fits the dtype.
RANGE = {"float32": 128 * np.log(2), "float64": 1024 * np.log(2)}


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "classes", [5, 10, 100, 1100, 2100, pytest.param(9000, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("dtype", WIDE)
def test_what_was_summed_at_the_top_of_the_range_survives_a_climb_beyond_it(
    dtype: str, classes: int, order: Any
) -> None:
    """The sum so far is all of the target's rest, and is to be scaled by nearly the whole range."""
    rows, high = [], min(20, classes - 4)  # where possible not among the first that are read
    for below, above in ((0.3, 0.3), (5, 5), (60, 0.3), (0.3, 60)):
        row = np.zeros(classes, dtype)
        row[high], row[-1] = RANGE[dtype] - below, RANGE[dtype] + above
        rows.append(row - np.asarray(RANGE[dtype] / 2, dtype))
    y_pred = np.asarray(np.array(rows), order=order)
    want = Definition(from_logits=True, reduction="sum")
    for label in (classes - 1, high):
        y_true = np.full(len(rows), label)
        assert_close(losses(y_true, y_pred), want.per_label(y_true, y_pred), RTOL[dtype])
        slopes = want.value_and_gradient(y_true, y_pred)[1]
        assert_close(gradient(y_true, y_pred)[:, [high, -1]], slopes[:, [high, -1]], RTOL[dtype])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("classes", [2, 5, 10, 24, 25, 100, 600, 2047, 2500, 9000])
@pytest.mark.parametrize("spread", [3, 30, 100, 300])
@pytest.mark.parametrize("dtype", WIDE)
def test_rows_of_any_spread_are_right(dtype: str, spread: float, classes: int, order: Any) -> None:
    """Thousands of rows, whose highest score stands anywhere; half of them are predicted right."""
    rng = np.random.default_rng(classes)
    rows = 60_000 // classes
    y_pred = np.asarray((rng.normal(size=(rows, classes)) * spread).astype(dtype), order=order)
    y_true = rng.integers(0, classes, rows)
    y_true[::2] = y_pred[::2].argmax(1)
    gaps = y_pred.astype(np.longdouble)
    gaps -= np.take_along_axis(gaps, y_true[:, None], 1)
    top = np.maximum(gaps.max(1), 0)
    np.put_along_axis(gaps, y_true[:, None], -np.inf, 1)
    rest = np.exp(gaps - top[:, None]).sum(1)
    loss = np.where(top > 0, top + np.log(rest + np.exp(-top)), np.log1p(rest))
    normal = loss >= np.finfo(dtype).tiny
    np.testing.assert_allclose(losses(y_true, y_pred)[normal], loss[normal], RTOL[dtype])
    shares = np.exp(gaps - (top + np.log(rest + np.exp(-top)))[:, None])
    slopes = gradient(y_true, y_pred)
    np.put_along_axis(slopes, y_true[:, None], 0, 1)
    np.testing.assert_allclose(slopes, shares, 1e-4 if dtype == "float32" else 1e-10, 1e-30)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_above_the_greatest_number_it_is_inf_without_a_warning(dtype: str) -> None:
    kind = oracle.FLOATS[dtype]
    greatest = float(oracle.finfo(kind).max)
    y_pred = np.array([[0.75 * greatest, -0.75 * greatest], [0.25 * greatest, -0.25 * greatest]])
    got = losses([1, 1], y_pred.astype(kind))
    assert np.isposinf(got[0])
    assert np.isfinite(got[1])
    assert_close(got, Definition(from_logits=True).per_label([1, 1], y_pred.astype(kind)), 0.01)


def test_a_cast_that_overflows_gives_inf_without_a_warning() -> None:
    y_pred = np.array([[1e5, 0.0], [1e39, 0.0]])
    for dtype, want in [("float16", [True, True]), ("float32", [False, True])]:
        got = losses([1, 1], y_pred, dtype=dtype)
        assert np.isposinf(got).tolist() == want
        value = loss_sparse_categorical_crossentropy(
            from_logits=True, reduction="sum", dtype=dtype
        )([1, 1], y_pred)
        assert np.isposinf(value)


@pytest.mark.filterwarnings("ignore:y_pred must hold probabilities:UserWarning")
@pytest.mark.slow_when(
    lambda dtype, s, from_logits: (s > 0 or not from_logits) and dtype != "float64"
)
@pytest.mark.parametrize("from_logits", [True, False], ids=["logits", "probabilities"])
@pytest.mark.parametrize("s", [0.0, 0.1], ids=["hard", "smoothed"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_caller_who_made_numpy_raise_hears_nothing(
    dtype: str, s: float, from_logits: bool
) -> None:
    row = [[np.nan, 1, 2], [np.inf, 1, 2], [-np.inf, 1, 2], [-np.inf] * 3, [100, 0, 0], [0, 0, 0]]
    y_pred = np.array(row).astype(oracle.FLOATS[dtype])
    for normalize in ("after", "before", "never"):
        loss = loss_sparse_categorical_crossentropy(
            from_logits=from_logits, normalize=normalize, label_smoothing=s, dtype=dtype
        )
        with np.errstate(all="raise"):
            value, _ = loss.value_and_grad([0, 0, 0, 0, 1, 0], y_pred)
        assert value.dtype == y_pred.dtype


@pytest.mark.slow_when(lambda dtype, s, classes: s > 0)
@pytest.mark.parametrize("classes", [3, 100, 600, 9000])
@pytest.mark.parametrize("s", [0.0, 0.1], ids=["hard", "smoothed"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_err_by_no_more_than_one_rounding(dtype: str, s: float, classes: int) -> None:
    kind = oracle.FLOATS[dtype]
    rows = 50 if classes < 9000 else 5
    y_pred = (4 * np.random.default_rng(22).normal(size=(rows, classes))).astype(kind)
    y_true = np.arange(rows) % classes
    got = losses(y_true, y_pred, label_smoothing=s)
    want = Definition(from_logits=True, label_smoothing=s).per_label(y_true, y_pred)
    assert_close(got, want, 1e-5 + float(oracle.finfo(kind).eps) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("normalize", ["after", "before", "never"])
def test_half_probabilities_err_by_no_more_than_one_rounding(dtype: str, normalize: str) -> None:
    kind = oracle.FLOATS[dtype]
    y_pred = np.random.default_rng(23).dirichlet(np.ones(5), 150).astype(kind)
    y_true = np.arange(150) % 5
    got = loss_sparse_categorical_crossentropy(y_true, y_pred, normalize=normalize)
    want = Definition(normalize=normalize).per_label(y_true, y_pred)
    assert_close(got, want, 1e-6 + float(oracle.finfo(kind).eps) / 2, 5e-7)


@pytest.mark.parametrize("s", [0.0, 0.1], ids=["hard", "smoothed"])
def test_float32_data_with_dtype_float64_are_right_to_float64(s: float) -> None:
    rows = np.concatenate(
        [gap_rows(gap, offset, 4, "float32") for gap in GAPS["float32"] for offset in OFFSETS]
    )
    y_true = np.zeros(len(rows), int)
    got = losses(y_true, rows, dtype="float64", label_smoothing=s)
    want = Definition(from_logits=True, label_smoothing=s).per_label(y_true, rows)
    assert_close(got, want, 1e-12)


@pytest.mark.parametrize("classes", [1000, 20011, 131072])
@pytest.mark.parametrize("dtype", WIDE)
def test_many_classes_are_right_too(dtype: str, classes: int) -> None:
    """Against NumPy's long double: 420 digits over 131,072 classes would take minutes."""
    rng = np.random.default_rng(24)
    y_pred = rng.normal(scale=3, size=(3, classes)).astype(dtype)
    y_pred[1] = 0.5  # equal terms are the worst case of a plain running sum
    wide = y_pred.astype(np.longdouble)
    y_true = np.array([0, classes - 1, classes // 2])
    reference = wide.max(1, keepdims=True)
    lse = np.log(np.exp(wide - reference).sum(1)) + reference[:, 0]
    want = lse - wide[np.arange(3), y_true]
    np.testing.assert_allclose(
        losses(y_true, y_pred).astype(np.longdouble), want, rtol=RTOL[dtype], atol=0
    )


@st.composite
def stored_rows(draw: st.DrawFn, dtype: str) -> tuple[Any, int]:
    """A row of logits as the dtype stores it, with gaps to the promise's bound, and its label."""
    limit = 350.0 if dtype == "float64" else 40.0
    classes = draw(st.integers(1, 9))
    spread = draw(st.sampled_from([1e-6, 1.0, limit]))
    x = draw(
        st.lists(
            st.floats(-spread, spread) | st.just(-np.inf) | st.just(0.0),
            min_size=classes,
            max_size=classes,
        )
    )
    offset = draw(st.sampled_from(OFFSETS) | st.floats(-1e6, 1e6))
    row = (np.array(x) + offset).astype(dtype)
    return row, draw(st.integers(0, classes - 1))


@pytest.mark.filterwarnings("ignore:y_pred must hold at least two classes:UserWarning")
@pytest.mark.parametrize("dtype", WIDE)
@given(data=st.data(), s=st.sampled_from([0.0, 0.0, 1e-3, 0.1, 1.0]))
def test_any_row_is_right_relative_to_its_loss(dtype: str, data: st.DataObject, s: float) -> None:
    row, t = data.draw(stored_rows(dtype))
    want = Definition(from_logits=True, label_smoothing=s).per_label([t], row[None])
    assert_close(losses([t], row[None], label_smoothing=s), want, RTOL[dtype])


@pytest.mark.filterwarnings("ignore:y_pred must hold at least two classes:UserWarning")
@pytest.mark.parametrize("dtype", WIDE)
@given(data=st.data())
def test_any_rows_gradient_is_right_relative_to_itself(dtype: str, data: st.DataObject) -> None:
    row, t = data.draw(stored_rows(dtype))
    want = Definition(from_logits=True, reduction="sum").value_and_gradient([t], row[None])[1]
    # sums and differences of the dtype's own numbers: what 420 digits leave of them below atol is 0
    assert_close(gradient([t], row[None]), want, RTOL[dtype], float(np.finfo(dtype).tiny))
