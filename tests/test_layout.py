"""Promises of layout: where the classes stand in memory changes nothing but the last bits.

The class axis may be any axis, the axes in any order, the memory Fortran's, strided, reversed,
read-only, mapped from a file, broadcast, of another byte order or wider than ours. Results are
arrays or NumPy scalars.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from conftest import KINDS, LAYOUTS
from oracle import Definition, assert_close

from sparse_xent import (
    SparseCategoricalCrossentropy,
    loss_categorical_crossentropy,
    loss_sparse_categorical_crossentropy,
)

pytestmark = pytest.mark.usefixtures("engine")

SMOOTHED = {f"smoothed {kind}": {**KINDS[kind], "label_smoothing": 0.1} for kind in KINDS}
#: The kinds of scores, and two that read every class twice.
ALL_KINDS = {**KINDS, **{kind: SMOOTHED[kind] for kind in ("smoothed logits", "smoothed never")}}
SIZES = (3, 5, 4, 2)  # of the axes of a rank-4 array; lower ranks take the first ones


def make(axis: int = -1, **options: Any) -> SparseCategoricalCrossentropy:
    return loss_sparse_categorical_crossentropy(
        **{"axis": axis, "reduction": None, "dtype": "float64", **options}
    )


def scores(shape: tuple[int, ...], seed: int = 61) -> Any:
    return np.random.default_rng(seed).uniform(0.05, 0.95, shape)


def labels(shape: tuple[int, ...], axis: int, seed: int = 62) -> Any:
    rng = np.random.default_rng(seed)
    return rng.integers(0, shape[axis], tuple(np.delete(shape, axis)))


def laid_out(a: Any, axes: tuple[int, ...]) -> Any:
    """The same array with its memory in this order of axes, the last one fastest."""
    room = np.empty([a.shape[k] for k in axes], a.dtype)
    view = room.transpose(np.argsort(axes))
    view[...] = a
    return view


def assert_same(got: Any, want: Any, dtype: Any = "float64") -> None:
    """Equal but for the last bits."""
    eps = float(oracle.finfo(dtype).eps)
    for ours, theirs in zip(got, want, strict=True):
        assert np.shape(ours) == np.shape(theirs)
        np.testing.assert_allclose(
            np.asarray(ours, "float64"), np.asarray(theirs, "float64"), rtol=8 * eps, atol=4 * eps
        )


# ---- the class axis -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize(
    ("rank", "axis"), [(rank, axis) for rank in (1, 2, 3, 4, 5) for axis in range(-rank, rank)]
)
def test_axis_k_equals_moveaxis(rank: int, axis: int, kind: str) -> None:
    shape = (*SIZES, 3)[:rank]
    x, y = scores(shape), labels(shape, axis)
    value, gradient = make(axis, **ALL_KINDS[kind]).value_and_grad(y, x)
    last = np.ascontiguousarray(np.moveaxis(x, axis, -1))
    want, want_gradient = make(**ALL_KINDS[kind]).value_and_grad(y, last)
    assert_same((value, gradient), (want, np.moveaxis(want_gradient, -1, axis)))
    alone = loss_sparse_categorical_crossentropy(y, x, axis=axis, **ALL_KINDS[kind])
    assert np.asarray(alone).tobytes() == np.asarray(value).tobytes()


ORDERS = pytest.mark.parametrize(
    ("axes", "axis"),
    [
        pytest.param(axes, axis, id=f"axes {''.join(map(str, axes))}, classes {axis}")
        for rank in (1, 2, 3, 4)
        for axes in itertools.permutations(range(rank))
        for axis in range(rank)
    ],
)


@pytest.mark.parametrize("kind", ["logits", "after", "smoothed never"])
@ORDERS
def test_every_order_of_axes_with_every_class_axis(
    axes: tuple[int, ...], axis: int, kind: str
) -> None:
    shape = SIZES[: len(axes)]
    x, y = scores(shape), labels(shape, axis)
    w = np.random.default_rng(63).uniform(0.5, 2, y.shape)
    loss = make(axis, **ALL_KINDS[kind])
    want = loss.value_and_grad(y, x, w)
    assert_same(loss.value_and_grad(y, laid_out(x, axes), w), want)
    if y.ndim > 1:  # labels and weights laid out on their own, unlike the scores
        assert_same(loss.value_and_grad(np.asfortranarray(y), x, np.asfortranarray(w)), want)


@ORDERS
def test_later_calls_of_a_kind_are_served_like_the_first(axes: tuple[int, ...], axis: int) -> None:
    """How a kind of call is served is remembered; other numbers come out right all the same."""
    shape = SIZES[: len(axes)]
    form = loss_sparse_categorical_crossentropy
    loss, each = make(axis, reduction="mean"), make(axis)
    for seed in (71, 72, 73):
        x, y = scores(shape, seed), labels(shape, axis, seed)
        w = np.random.default_rng(seed).uniform(0.5, 2, y.shape)
        fresh, fresh_each = make(axis, reduction="mean", name="a"), make(axis, name="a")
        given = laid_out(x, axes)
        for y_given in (y, np.asfortranarray(y)):
            assert_same([form(y_given, given, axis=axis)], [fresh_each(y, x)])
            for weights in (None, w, np.asfortranarray(w)):
                here = (y_given, given, weights)
                want = fresh.value_and_grad(y, x, weights)
                assert_same([loss(*here)], want[:1])
                assert_same(loss.value_and_grad(*here), want)
                assert_same(loss.value_and_grad(*here, out=np.empty(shape)), want)
                assert_same([each(*here)], [fresh_each(y, x, weights)])
                assert_same(each.value_and_grad(*here), fresh_each.value_and_grad(y, x, weights))
                there = laid_out(x, axes)
                assert_same(loss.value_and_grad(y_given, there, weights, out=there), want)


@pytest.mark.parametrize("axis", [2, -3, 5, 0.5, True, None, "1", [0], np.nan])
def test_an_axis_that_is_not_there_is_refused(axis: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="^axis"):
        loss_sparse_categorical_crossentropy([0, 1], np.ones((2, 3)), axis=axis)


@pytest.mark.parametrize("axis", [-1.0, 1.0, np.int8(1), np.float64(-1.0)], ids=repr)
def test_a_whole_axis_is_taken_in_any_number_type(axis: Any) -> None:
    got = loss_sparse_categorical_crossentropy([0, 1], np.ones((2, 3)), True, axis=axis)
    np.testing.assert_allclose(got, np.log(3))


# ---- memory -------------------------------------------------------------------------------------


def mapped(x: Any, folder: Path) -> Any:
    np.save(folder / "x.npy", x)
    return np.load(folder / "x.npy", mmap_mode="r")


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_that_is(layout: str, kind: str, axis: int) -> None:
    x = scores((4, 5, 3))
    y = labels(x.shape, axis)
    loss = make(axis, **ALL_KINDS[kind])
    want = loss.value_and_grad(y, x)
    given = LAYOUTS[layout](x)
    got = loss.value_and_grad(y, given)
    assert_same(got, want)
    assert got[1].dtype == np.float64
    assert got[1].dtype.isnative
    np.testing.assert_array_equal(given, x)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_memory_mapped_from_a_file(kind: str, axis: int, tmp_path: Path) -> None:
    x = scores((4, 5, 3))
    y = labels(x.shape, axis)
    loss = make(axis, **ALL_KINDS[kind])
    got = loss.value_and_grad(y, mapped(x, tmp_path))
    assert_same(got, loss.value_and_grad(y, x))
    assert type(got[1]) is np.ndarray


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize(
    ("source", "axis"),
    [
        pytest.param((1, 5, 3), 1, id="rows are one row"),
        pytest.param((4, 5, 1), 1, id="the inner axis is one"),
        pytest.param((1, 5, 1), 1, id="all rows are one"),
        pytest.param((4, 1, 3), 1, id="the classes of a row are one number"),
        pytest.param((1, 1, 1), 1, id="everything is one number"),
        pytest.param((1, 5, 3), 2, id="rows are one row, classes last"),
    ],
)
def test_a_broadcast_array_where(source: tuple[int, ...], axis: int, kind: str) -> None:
    x = np.broadcast_to(scores(source), (4, 5, 3))
    y = np.broadcast_to(labels((4, 5, 3), axis), tuple(np.delete((4, 5, 3), axis)))
    loss = make(axis, **ALL_KINDS[kind])
    value, gradient = loss.value_and_grad(y, x)
    assert_same((value, gradient), loss.value_and_grad(y, x.copy()))
    assert gradient.flags.writeable
    assert gradient.copy().tobytes() == np.ascontiguousarray(gradient).tobytes()
    assert 0 not in gradient.strides


@pytest.mark.parametrize(
    "take",
    [
        pytest.param(lambda y: y.astype("uint8"), id="uint8"),
        pytest.param(lambda y: y.astype(">i4"), id="big-endian int32"),
        pytest.param(lambda y: y.astype("uint64"), id="uint64"),
        pytest.param(lambda y: y.astype("float32"), id="whole floats"),
        pytest.param(lambda y: y.astype(np.longdouble), id="whole long doubles"),
        pytest.param(LAYOUTS["Fortran order"], id="Fortran order"),
        pytest.param(lambda y: np.repeat(y, 3, 0)[::3], id="strided"),
        pytest.param(LAYOUTS["all axes reversed"], id="reversed"),
        pytest.param(LAYOUTS["misaligned"], id="misaligned"),
        pytest.param(LAYOUTS["nested lists"], id="nested lists"),
        pytest.param(lambda y: y[:, None, :], id="length 1 at the axis"),
        pytest.param(lambda y: np.asfortranarray(y[:, None, :]), id="length 1, Fortran order"),
    ],
)
def test_labels_may_be(take: Callable[[Any], Any]) -> None:
    x = scores((4, 5, 3))
    y = labels(x.shape, 1)
    loss = make(1, from_logits=True)
    want = loss.value_and_grad(y, x)
    got = loss.value_and_grad(take(y), x)
    assert np.asarray(got[0]).tobytes() == np.asarray(want[0]).tobytes()
    assert got[1].tobytes() == want[1].tobytes()


def test_bool_labels_are_0_and_1() -> None:
    x = scores((4, 2))
    y = np.array([True, False, False, True])
    assert_close(make()(y, x), Definition().per_label(y.astype(int), x), 1e-14)


@pytest.mark.parametrize("kind", ALL_KINDS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", ">f2", ">f4"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_dtype_takes_every_axis(kind: str, dtype: str, axis: int) -> None:
    x = scores((4, 5, 3)).astype(oracle.FLOATS.get(dtype, dtype))
    y = labels(x.shape, axis)
    loss = make(axis, **ALL_KINDS[kind])
    native = x.astype(x.dtype.newbyteorder("=")) if dtype.startswith(">") else x
    got = loss.value_and_grad(y, np.asfortranarray(x))
    assert got[1].dtype == native.dtype
    # a half gradient's last bit, next to float32's own
    assert_same(got[:1], loss.value_and_grad(y, native)[:1], "float32")
    assert_same(got[1:], loss.value_and_grad(y, native)[1:], native.dtype)
    want = Definition(axis=axis, reduction=None, **ALL_KINDS[kind]).value_and_gradient(y, native)
    assert_close(got[0], want[0], 1e-5, 5e-7)


# ---- results ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize(
    ("reduction", "shape"),
    [("mean", (3, 4)), ("sum", (4,)), ("mean_with_sample_weight", (0, 4)), (None, (4,))],
    ids=str,
)
def test_a_single_value_is_a_numpy_scalar_never_a_0_d_array(
    reduction: str | None, shape: tuple[int, ...], dtype: str
) -> None:
    loss = make(reduction=reduction, dtype=dtype, from_logits=True)
    x, y = np.ones(shape, oracle.FLOATS[dtype]), np.zeros(shape[:-1], int)
    for value in (loss(y, x), loss.value_and_grad(y, x)[0]):
        assert isinstance(value, np.generic)
        assert value.dtype == oracle.FLOATS[dtype]


def test_one_label_without_axes_gives_a_numpy_scalar() -> None:
    for y_pred in ([0.5, 0.5], (0.5, 0.5), np.array([0.5, 0.5])):
        got = loss_sparse_categorical_crossentropy(1, y_pred)
        assert isinstance(got, np.float64)
    assert isinstance(loss_categorical_crossentropy([0, 1], [0.5, 0.5]), np.float64)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (1, 4), (0, 4)], ids=str)
def test_many_values_are_a_plain_writable_array_of_their_own(shape: tuple[int, ...]) -> None:
    x, y = np.ones(shape), np.zeros(shape[:-1], int)
    value, gradient = make().value_and_grad(y, x)
    for result in (value, gradient, loss_sparse_categorical_crossentropy(y, x)):
        assert type(result) is np.ndarray
        assert result.flags.writeable
        assert not np.shares_memory(result, x)


# ---- bits ---------------------------------------------------------------------------------------


def with_row_stride(x: Any) -> Any:
    """Rows far apart: the same class layout, another place."""
    room = np.empty((x.shape[0], x.shape[1] + 13), x.dtype)
    room[:, : x.shape[1]] = x
    return room[:, : x.shape[1]]


@pytest.mark.parametrize("s", [0.0, 0.1])
@pytest.mark.parametrize(
    "classes", [1, 2, 3, 7, 8, 9, 16, 17, 24, 25, 100, 129, 513, 1000, 2047, 2100, 4097]
)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("from_logits", [True, False], ids=["logits", "probabilities"])
@pytest.mark.filterwarnings("ignore:y_pred must hold")  # such scores, on purpose
def test_a_loss_has_the_same_bits_alone_or_in_any_batch(
    from_logits: bool, dtype: str, classes: int, s: float
) -> None:
    """Rows, classes last: one by one, in pieces, all at once, in another place."""
    rng = np.random.default_rng(64)
    x = rng.normal(size=(70, classes)).astype(oracle.FLOATS[dtype])
    y = rng.integers(0, classes, 70)
    loss = make(from_logits=from_logits, label_smoothing=s)
    value, gradient = loss.value_and_grad(y, x)

    def check(rows: Any, x: Any = x) -> None:
        v, g = loss.value_and_grad(y[rows], x[rows])
        assert v.tobytes() == value[rows].tobytes()
        assert g.tobytes() == gradient[rows].tobytes()

    for k in (0, 1, 33, 69):
        check(slice(k, k + 1))
    check(slice(3, 20))
    check(slice(None, None, -1))
    check(slice(None, None, 3))
    check(rng.permutation(70))
    check(slice(None), with_row_stride(x))
    alone = loss(y[5], x[5])
    assert np.asarray(alone).tobytes() == value[5:6].tobytes()


@pytest.mark.parametrize("s", [0.0, 0.1])
@pytest.mark.parametrize("classes", [1, 2, 3, 8, 9, 25, 129, 1000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("from_logits", [True, False], ids=["logits", "probabilities"])
@pytest.mark.filterwarnings("ignore:y_pred must hold")  # such scores, on purpose
def test_with_channels_first_too_the_bits_are_the_positions_own(
    from_logits: bool, dtype: str, classes: int, s: float
) -> None:
    """Classes far apart: images one by one, and pieces of an image."""
    rng = np.random.default_rng(65)
    x = rng.normal(size=(3, classes, 4, 11)).astype(dtype)
    y = rng.integers(0, classes, (3, 4, 11))
    loss = make(1, from_logits=from_logits, label_smoothing=s)
    value, gradient = loss.value_and_grad(y, x)
    for image in (0, 2):
        v, g = loss.value_and_grad(y[image : image + 1], x[image : image + 1])
        assert v.tobytes() == value[image : image + 1].tobytes()
        assert g.tobytes() == gradient[image : image + 1].tobytes()
    for part in (slice(0, 5), slice(2, 11), slice(7, 9)):
        v, g = loss.value_and_grad(y[..., part], x[..., part])
        assert v.tobytes() == value[..., part].tobytes()
        assert g.tobytes() == gradient[..., part].tobytes()


@pytest.mark.parametrize("reduction", [None, "sum"])
@pytest.mark.parametrize("axis", [-1, 1, 0])
@pytest.mark.parametrize("order", [*itertools.permutations(range(3)), "repeated", "reversed"])
def test_a_second_call_gives_what_the_first_gave(
    order: Any, axis: int, reduction: str | None
) -> None:
    rng = np.random.default_rng(67)
    x, y = rng.random((3, 4, 5)), rng.integers(0, 3, np.delete((3, 4, 5), axis))
    if order == "repeated":
        x, y = np.broadcast_to(x[:1], x.shape), np.broadcast_to(y[:1], y.shape)
    elif order == "reversed":
        x, y = x[::-1, :, ::-1], y[::-1]
    else:
        x = np.transpose(np.transpose(x, order).copy(), np.argsort(order))
    loss = make(axis, reduction=reduction)
    first = loss(y, x), loss(y.copy(), x), *loss.value_and_grad(y, x)
    right = loss(y.copy(), x.copy())
    for made in (first, (loss(y, x), loss(y.copy(), x), *loss.value_and_grad(y, x))):
        for value in made[:3]:
            np.testing.assert_allclose(value, right, rtol=1e-6)
        np.testing.assert_array_equal(made[3], first[3])
    losses = loss_sparse_categorical_crossentropy(y, x, axis=axis)
    again = loss_sparse_categorical_crossentropy(y, x, axis=axis)
    np.testing.assert_array_equal(again, losses)


@pytest.mark.parametrize("reduction", [None, "sum", "mean", "mean_with_sample_weight"])
@pytest.mark.parametrize("order", [*itertools.permutations(range(3))])
@pytest.mark.parametrize("weights", ["each", "float32", "of samples", "infinite"])
def test_a_gradient_s_value_has_the_bits_of_a_call(
    order: tuple[int, ...], reduction: str | None, weights: str
) -> None:
    """Whatever the layouts of the scores and of `out`."""
    rng = np.random.default_rng(68)
    x = np.transpose(np.transpose(rng.normal(size=(3, 4, 5)), order).copy(), np.argsort(order))
    y, w = rng.integers(0, 4, (3, 5)), rng.random((3, 5))
    if weights == "infinite":
        w[1, 2], w[2, 1] = np.inf, 1e300
    elif weights != "each":
        w = w.astype(np.float32) if weights == "float32" else w[:, 0]
    loss = make(1, from_logits=True, reduction=reduction, dtype="float64")
    value, gradients = loss(y, x, w), []
    for layout in "CFKC":
        value_too, gradient = loss.value_and_grad(y, x, w, out=np.empty_like(x, order=layout))
        np.testing.assert_array_equal(value_too, value)
        gradients.append(gradient)
    for gradient in gradients:
        np.testing.assert_allclose(gradient, gradients[0], rtol=1e-13)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("classes", [1, 3, 30])
@pytest.mark.filterwarnings("ignore:y_pred must hold at least two classes")
def test_calls_that_differ_in_their_number_of_rows(axis: int, classes: int) -> None:
    rng = np.random.default_rng(69)
    x = np.moveaxis(rng.normal(size=(700, 5, classes)), -1, axis).copy()
    y, w = rng.integers(0, classes, (700, 5)), rng.random((700, 5))
    loss = make(axis, from_logits=True, reduction=None, dtype="float64")
    whole, slopes = loss.value_and_grad(y, x, w)
    for rows in (2, 700, 0, 1, 300, 1, 2):
        some = y[:rows], x[:rows], w[:rows]
        value, gradient = loss.value_and_grad(*some)
        np.testing.assert_array_equal(value, whole[:rows])
        np.testing.assert_array_equal(gradient, slopes[:rows])
        np.testing.assert_array_equal(loss(*some), whole[:rows])
        total = make(axis, from_logits=True, reduction="sum", dtype="float64")(*some)
        np.testing.assert_allclose(total, whole[:rows].sum(), rtol=1e-13)


def at_an_odd_address(a: Any) -> Any:
    made = np.ndarray(a.shape, a.dtype, np.empty(a.nbytes + 1, np.uint8), 1)
    made[...] = a
    return made


@pytest.mark.parametrize("rows", [0, 5, 20_000])
def test_arrays_need_not_be_aligned(rows: int) -> None:
    rng = np.random.default_rng(70)
    x, y, w = rng.random((rows, 7)), rng.integers(0, 7, rows), rng.random(rows)
    loss = make(dtype="float64")
    for _ in range(2):
        right = loss(y, x, w), *loss.value_and_grad(y, x, w)
        for odd in itertools.product([np.array, at_an_odd_address], repeat=3):
            some = [place(a) for place, a in zip(odd, (y, x, w), strict=True)]
            for a, b in zip((loss(*some), *loss.value_and_grad(*some)), right, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-13)
        out = at_an_odd_address(x)
        value, gradient = loss.value_and_grad(y, x, w, out=out)
        assert gradient is out
        np.testing.assert_array_equal(gradient, right[2])
        np.testing.assert_array_equal(value, right[1])


def test_bits_hold_in_a_batch_of_many_blocks() -> None:
    rng = np.random.default_rng(66)
    x, y = rng.normal(size=(200_000, 10)).astype("float32"), rng.integers(0, 10, 200_000)
    loss = make(from_logits=True)
    value, gradient = loss.value_and_grad(y, x)
    for start, stop in [(0, 1), (77_777, 77_778), (199_999, 200_000), (50_000, 123_456)]:
        v, g = loss.value_and_grad(y[start:stop], x[start:stop])
        assert v.tobytes() == value[start:stop].tobytes()
        assert g.tobytes() == gradient[start:stop].tobytes()
