"""The compiled engine gives what the NumPy engine gives, and every call of it the same bits."""

import inside
import numpy as np
import pytest
from conftest import ENGINES, KINDS, SHAPES, STRIDES, TOLERANCES

import sparse_xent as sx
from sparse_xent import warm

f = sx.loss_sparse_categorical_crossentropy
#: One call is cut for several threads.
LARGE = {**SHAPES, "a large image": ((4, 21, 130, 40), 1)}
WIDE = tuple(TOLERANCES)


@pytest.fixture
def both(monkeypatch):
    """The results of a call by each engine, the compiled one's first."""

    def both(call, *args, **options):
        results = []
        for name in ENGINES:
            inside.serve_by(name, monkeypatch.setattr)
            results.append(call(*args, **options))
        return results

    return both


def case(shape, axis, dtype, kind):
    """Labels, some of them 255; scores; weights."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=shape) * 3
    if kind != "logits":
        x = np.minimum(np.exp(x - 3), 1)
    losses = list(shape)
    classes = losses.pop(axis)
    y = rng.integers(0, classes, losses)
    y.flat[-1] = 255
    return y, x.astype(dtype), rng.random(losses)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("kind", ["logits", "after"])
@pytest.mark.parametrize("layout", ["C order", "Fortran order"])
@pytest.mark.parametrize("shape", LARGE)
def test_both_engines_agree(shape, layout, kind, dtype, both):
    shape, axis = LARGE[shape]
    y, x, w = case(shape, axis, dtype, kind)
    x, tolerance = STRIDES[layout](x), TOLERANCES[dtype] / 3
    options = {"ignore_class": 255, "axis": axis, **KINDS[kind]}
    np.testing.assert_allclose(*both(f, y, x, **options), tolerance)
    loss = f(**options, dtype=dtype)
    for weights in (None, w):
        (value, gradient), (expected, slope) = both(loss.value_and_grad, y, x, weights)
        np.testing.assert_allclose(value, expected, tolerance)
        np.testing.assert_allclose(gradient, slope, 5 * tolerance, 1e-3 * tolerance)
        assert both(loss, y, x, weights) == [value, expected]  # to the bit


@pytest.mark.parametrize("labels", [np.int64, np.float32], ids=["as they lie", "converted"])
@pytest.mark.parametrize("layout", STRIDES)
@pytest.mark.parametrize("shape", LARGE)
def test_both_engines_rank_alike(shape, layout, labels, both):
    shape, axis = LARGE[shape]
    y, x, _ = case(shape, axis, "float32", "logits")
    x[..., 0] = np.round(x[..., 0])  # some classes stand level
    x.flat[7 % x.size] = np.nan
    x = STRIDES[layout](x)
    mine, reference = both(inside.ranks, y.astype(labels), x, axis, 255)
    np.testing.assert_array_equal(mine, reference)


def test_an_ignored_class_beyond_int64_is_ignored(both):
    y = np.array([0.0, 2.0**70, 3.0])
    for losses in both(f, y, np.zeros((3, 4)), ignore_class=2**70):
        assert losses.tolist() == [np.log(4), 0, np.log(4)]


# ---- bits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", WIDE)
def test_small_calls_have_the_bits_of_large_ones(dtype, kind, order):
    y, x, _ = case((300, 10), -1, dtype, kind)
    y[-1] = 0
    many = np.asarray(np.tile(x, (20, 1)), order=order)
    batch = f(np.tile(y, 20), many, **KINDS[kind])  # more than one chunk
    few = [slice(i, i + 4) for i in range(0, 300, 4)]
    parts = [f(y[i], np.asarray(x[i], order=order), **KINDS[kind]) for i in few]
    assert batch.tobytes() == np.tile(np.concatenate(parts), 20).tobytes()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["logits", "after", "never"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((7, 3), "float64"),
        ((5000, 10), "float32"),
        ((700, 300), "float64"),
        ((1300, 1000), "float32"),
        ((3, 70001), "float64"),
    ],
)
def test_weights_of_1_change_no_bit(shape, dtype, kind, order):
    """One chunk or several, one thread or several; fresh, in place or elsewhere."""
    y, x, _ = case(shape, 1, dtype, kind)
    x, ones = np.asarray(x, order=order), np.ones(len(x))
    options = {**KINDS[kind], "ignore_class": 255, "dtype": dtype}
    for reduction in ("mean", "sum"):
        loss = f(reduction=reduction, **options)
        value, gradient = loss.value_and_grad(y, x)
        assert loss(y, x) == loss(y, x, ones) == value
        for weights in (None, ones):
            apart, there = np.zeros_like(x), x.copy(order="K")
            for scores, out in ((x, None), (x, apart), (there, there)):
                again, made = loss.value_and_grad(y, scores, weights, out=out)
                assert again == value
                assert made.tobytes() == gradient.tobytes()
    each = f(reduction=None, **options)
    assert f(y, x, **options).tobytes() == each(y, x, ones).tobytes()


def test_labels_and_weights_in_any_order_cost_the_same():
    """Also what the kernels cannot read where it lies."""
    y, x, w = case((4, 21, 130, 40), 1, "float32", "logits")
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, axis=1, ignore_class=255)
    usual = loss.value_and_grad(y, x, w)
    odd = loss.value_and_grad(np.asfortranarray(y), x, np.asfortranarray(w))
    wide = loss.value_and_grad(y.astype(np.uint16), x, w.astype(">f8"))
    for made in (odd, wide):
        assert made[0] == usual[0]
        np.testing.assert_array_equal(made[1], usual[1])


@pytest.mark.parametrize("foreign", ["labels", "scores"])
def test_a_foreign_byte_order_is_not_taken_for_the_native_one(foreign, engine, monkeypatch):
    """Whichever comes first: how a kind of call is served is remembered."""
    y, x = np.array([0, 1]), np.array([[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]])
    swapped = (y.astype(">i8"), x) if foreign == "labels" else (y, x.astype(">f8"))
    loss = sx.SparseCategoricalCrossentropy(dtype="float64")
    for calls in (((y, x), swapped), (swapped, (y, x))):
        inside.forget_plans(monkeypatch.setattr)
        (value, gradient), (again, same) = [loss.value_and_grad(*call) for call in calls]
        np.testing.assert_allclose(value, again, 1e-14)
        np.testing.assert_allclose(gradient, same, 1e-14)


@pytest.mark.parametrize("labels", [[0, 2], [0.0, 2.0], [0, 2.0], [False, 2]])
def test_a_list_of_labels_is_what_its_array_is(labels, engine):
    x = np.array([[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]])
    loss = sx.SparseCategoricalCrossentropy()
    listed = loss.value_and_grad(labels, x)
    value, gradient = loss.value_and_grad(np.array(labels), x)
    assert listed[0] == value
    np.testing.assert_array_equal(listed[1], gradient)


# ---- what ends a kernel -------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("rows", [3, 300, 5000])
def test_a_bad_label_is_found_before_anything_is_written(rows, order, engine):
    x = np.asarray(np.random.default_rng(0).random((rows, 10)), order=order)
    before, y = x.copy(), np.zeros(rows, np.int64)
    y[-1] = 10
    loss = f()
    for call in (f, loss, loss.value_and_grad, lambda y, x: loss.value_and_grad(y, x, out=x)):
        with pytest.raises(ValueError, match=rf"got 10 at \({rows - 1},\)"):
            call(y, x)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("classes", [10, 100, 600])
def test_no_place_of_a_nan_or_an_inf_keeps_a_kernel_from_ending(classes, order, bad, engine):
    """Whichever lane holds it, the first vector's last too: its row alone is not finite."""
    places = [at for at in range(33) if at < classes] + [classes - 1]
    x = np.zeros((len(places), classes), np.float32, order)
    for row, at in enumerate(places):
        x[row, at] = bad
    y = (np.array(places) + 1) % classes
    assert not np.isfinite(f(y, x, True)).any()
    x[:] = 0
    x[3, places[3]] = bad
    assert np.isfinite(np.delete(f(y, x, True), 3)).all()


def test_sparse_xent_warm_has_every_kernel_that_these_calls_took():
    """In this file are the usual calls: layouts, labels, gradients, ranks."""
    f(np.zeros(7, int), np.full((7, 3), 0.5))  # if this test runs alone
    usual = set(filter(inside.is_usual, inside.loaded()))
    assert usual
    assert usual <= set(warm.kernels())
    assert inside.loaded() <= set(warm.kernels(everything=True))
