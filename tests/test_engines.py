"""The compiled engine behind the public face gives what the plain one gives, in every layout."""

import numpy as np
import pytest

import sparse_xent as sx
from sparse_xent import carried, config, plain, warm
from sparse_xent.kernels import loader

#: shape, class axis, memory order: tiles, medium rows, rows, strided; one call is cut for the pool.
LAYOUTS = {
    "few classes": ((300, 10), -1, "C"),
    "classes by the dozen": ((300, 60), -1, "C"),
    "many classes": ((70, 1000), -1, "C"),
    "Fortran order": ((300, 10), -1, "F"),
    "channels first": ((4, 21, 130, 40), 1, "C"),
    "in the middle": ((6, 5, 4, 3), 2, "C"),
    "a few rows": ((7, 3), -1, "C"),
}
KINDS = {"logits": {"from_logits": True}, "probabilities": {}}
TOLERANCE = {"float32": 4e-6, "float64": 1e-13}


@pytest.fixture
def engines(monkeypatch):
    """(compiled, plain): each runs a function on its engine."""

    def on(compiled):
        def run(function, *args, **kwargs):
            monkeypatch.setattr(config, "_compiled", compiled)
            return function(*args, **kwargs)

        return run

    return on(True), on(False)


def case(layout, dtype, kind):
    shape, axis, order = LAYOUTS[layout]
    rng = np.random.default_rng(5)
    x = np.asarray(rng.normal(size=shape) * 3, dtype, order=order)
    if kind == "probabilities":
        x = np.minimum(np.exp(x - 3), 1)
    losses = list(shape)
    classes = losses.pop(axis)
    y = rng.integers(0, classes, losses)
    y.flat[3] = 255
    return y, x, axis, rng.random(losses)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_engines_agree(layout, kind, dtype, engines):
    y, x, axis, w = case(layout, dtype, kind)
    compiled, plain = engines
    f, tolerance = sx.loss_sparse_categorical_crossentropy, TOLERANCE[dtype]
    options = {"ignore_class": 255, "axis": axis, **KINDS[kind]}
    mine, reference = (run(f, y, x, **options) for run in (compiled, plain))
    np.testing.assert_allclose(mine, reference, tolerance)
    loss = f(**options, dtype=dtype)
    for weights in (None, w):
        value, gradient = compiled(loss.value_and_grad, y, x, weights)
        expected, slope = plain(loss.value_and_grad, y, x, weights)
        np.testing.assert_allclose(value, expected, tolerance)
        np.testing.assert_allclose(gradient, slope, 5 * tolerance, 1e-3 * tolerance)
        assert compiled(loss, y, x, weights) == value  # to the bit


def test_a_bad_label_is_refused_before_anything_is_written(engines):
    compiled, _ = engines
    y, x, _, _ = case("few classes", "float64", "logits")
    y[3], y[299] = 0, 10
    before = x.copy()
    loss = sx.SparseCategoricalCrossentropy(from_logits=True)
    with pytest.raises(ValueError, match=r"got 10 at \(299,\)"):
        compiled(loss.value_and_grad, y, x, out=x)
    np.testing.assert_array_equal(x, before)


def test_small_calls_have_the_bits_of_large_ones(engines):
    compiled, _ = engines
    y, x, _, _ = case("few classes", "float64", "logits")
    y[3] = 0
    f = sx.loss_sparse_categorical_crossentropy
    batch = compiled(f, np.tile(y, 200), np.tile(x, (200, 1)), True)  # cut into chunks
    alone = np.concatenate([compiled(f, y[i : i + 1], x[i : i + 1], True) for i in range(300)])
    assert batch.tobytes() == np.tile(alone, 200).tobytes()


@pytest.mark.parametrize("normalize", ["after", "before", "never"])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_small_calls_in_fortran_order_have_the_bits_of_large_ones(
    dtype, normalize, engines, monkeypatch
):
    compiled, _ = engines
    y, x, _, _ = case("Fortran order", dtype, "probabilities")
    y[3] = 0
    f = sx.loss_sparse_categorical_crossentropy
    many = np.asarray(np.tile(x, (20, 1)), order="F")
    batch = compiled(f, np.tile(y, 20), many, normalize=normalize)  # more than one chunk
    few = [np.asarray(x[i : i + 4], order="F") for i in range(0, 300, 4)]
    parts = [
        compiled(f, y[i : i + 4], part, normalize=normalize)
        for i, part in zip(range(0, 300, 4), few, strict=True)
    ]
    assert batch.tobytes() == np.tile(np.concatenate(parts), 20).tobytes()

    loss = f(normalize=normalize, dtype=dtype)
    out = np.empty_like(x)
    small = [compiled(loss.value_and_grad, y, x), compiled(loss.value_and_grad, y, x, out=out)]
    assert small[1][1] is out
    monkeypatch.setattr(plain, "_planned", lambda *call: None)
    value, gradient = compiled(loss.value_and_grad, y, x)
    for v, g in small:
        assert v == value
        assert g.flags.f_contiguous
        np.testing.assert_array_equal(g, gradient)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["logits", "after", "never"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((5000, 10), "float32"),
        ((700, 300), "float64"),
        ((1300, 1000), "float32"),
        ((3, 70001), "float64"),
    ],
)
def test_plain_calls_of_many_chunks_have_the_bits_of_any_other(
    shape, dtype, kind, order, engines, monkeypatch
):
    """Several chunks, and several tasks of several threads, on either way."""
    compiled, _ = engines
    rng = np.random.default_rng(shape)
    x = np.asarray(rng.normal(size=shape).astype(dtype), order=order)
    x[1] = 0.5
    if kind != "logits":
        x = np.abs(x) / 8
    y = rng.integers(0, shape[1], shape[0])
    given = {"from_logits": kind == "logits", "ignore_class": int(y[0])}
    if kind != "logits":
        given["normalize"] = kind

    def results():
        f = sx.loss_sparse_categorical_crossentropy
        made = [compiled(f, y, x, **given)]
        for reduction in ("mean", "sum"):
            loss = f(reduction=reduction, dtype=dtype, **given)
            made.append(compiled(loss, y, x))
            value, gradient = compiled(loss.value_and_grad, y, x)
            apart, there = np.zeros_like(x), x.copy(order="K")
            made += [value, gradient, *compiled(loss.value_and_grad, y, x, out=apart)]
            made += compiled(loss.value_and_grad, y, there, out=there)
        return made

    plainly = results()
    monkeypatch.setattr(plain, "_planned", lambda *call: None)
    for a, b in zip(plainly, results(), strict=True):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("rows", [3, 5000])
def test_a_bad_label_is_found_before_anything_is_written(rows, order, engines):
    compiled, _ = engines
    x = np.asarray(np.random.default_rng(0).random((rows, 10)), order=order)
    before, y = x.copy(), np.zeros(rows, np.int64)
    y[-1] = 10
    loss = sx.loss_sparse_categorical_crossentropy()
    for call in (loss, sx.loss_sparse_categorical_crossentropy):
        with pytest.raises(ValueError, match=rf"got 10 at \({rows - 1},\)"):
            compiled(call, y, x)
    with pytest.raises(ValueError, match=rf"got 10 at \({rows - 1},\)"):
        compiled(loss.value_and_grad, y, x, out=x)
    np.testing.assert_array_equal(x, before)


def test_what_is_unusual_is_left_to_the_plain_engine(engines):
    compiled, _ = engines
    options = sx.SparseCategoricalCrossentropy()._options
    for x in (np.ones((2, 3), np.int64), np.ones((2, 3), ">f8"), np.ones((2, 3), np.longdouble)):
        assert type(compiled(carried.read, [0, 1], x, None, options)) is not carried.CarriedCall
        assert compiled(plain.reduced, np.array([0, 1]), x, options, gradient=False) is None


def test_a_foreign_byte_order_is_not_held_against_the_native_one(engines, monkeypatch):
    compiled, _ = engines
    monkeypatch.setattr(plain, "_plans", {})
    options = sx.SparseCategoricalCrossentropy()._options
    y, x = np.array([0, 1]), np.ones((2, 3))
    for labels, scores in ((y, x.astype(">f8")), (y.astype(">i8"), x)):
        assert compiled(plain.reduced, labels, scores, options, gradient=False) is None
    assert compiled(plain.reduced, y, x, options, gradient=False) is not None


@pytest.mark.parametrize("labels", [[0, 2], [0.0, 2.0], [0, 2.0]])
def test_a_short_list_of_labels_is_a_small_call(labels, engines):
    compiled, _ = engines
    x = np.array([[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]])
    options = sx.SparseCategoricalCrossentropy()._options
    listed = compiled(plain.reduced, labels, x, options, gradient=True)
    value, gradient = compiled(plain.reduced, np.array(labels), x, options, gradient=True)
    assert listed[0] == value
    np.testing.assert_array_equal(listed[1], gradient)


@pytest.mark.parametrize("labels", [[0, True], [0, None], ["0", "2"], [[0], [2]], [0, 2**70]])
def test_other_lists_are_not(labels, engines):
    compiled, _ = engines
    options = sx.SparseCategoricalCrossentropy()._options
    assert compiled(plain.reduced, labels, np.ones((2, 3)), options, gradient=False) is None


@pytest.mark.parametrize("labels", [np.int64, np.float32], ids=["as they lie", "lowered"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_engines_rank_alike(layout, labels, engines):
    y, x, axis, _ = case(layout, "float32", "logits")
    x[..., 0] = np.round(x[..., 0])  # some classes stand level
    x.flat[7] = np.nan
    options = sx.SparseCategoricalCrossentropy(axis=axis, ignore_class=255)._options
    mine, reference = (
        run(lambda: carried.read(y.astype(labels), x, None, options).ranks()) for run in engines
    )
    np.testing.assert_array_equal(mine, reference)


def test_an_ignored_class_that_no_kernel_knows_is_ignored(engines):
    compiled, plain = engines
    f, x = sx.loss_sparse_categorical_crossentropy, np.zeros((3, 4))
    y = np.array([0.0, 2.0**70, 3.0])
    for run in (compiled, plain):
        assert run(f, y, x, ignore_class=2**70).tolist() == [np.log(4), 0, np.log(4)]


def test_labels_and_weights_in_any_order_cost_the_same(engines):
    """What the kernels cannot read where it lies is lowered beside, task by task."""
    compiled, _ = engines
    y, x, axis, w = case("channels first", "float32", "logits")
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, axis=axis, ignore_class=255)
    usual = compiled(loss.value_and_grad, y, x, w)
    odd = compiled(loss.value_and_grad, np.asfortranarray(y), x, np.asfortranarray(w))
    wide = compiled(loss.value_and_grad, y.astype(np.uint16), x, w.astype(">f8"))
    for made in (odd, wide):
        assert made[0] == usual[0]
        np.testing.assert_array_equal(made[1], usual[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("classes", [10, 100, 600])
def test_no_place_of_a_nan_or_an_inf_keeps_a_kernel_from_ending(classes, order, bad, engines):
    """Whichever lane holds it, the first vector's last too: its row alone is not finite."""
    compiled, _ = engines
    places = [at for at in range(33) if at < classes] + [classes - 1]
    x = np.zeros((len(places), classes), np.float32, order)
    for row, at in enumerate(places):
        x[row, at] = bad
    y = (np.array(places) + 1) % classes
    losses = compiled(sx.loss_sparse_categorical_crossentropy, y, x, True)
    assert not np.isfinite(losses).any()
    x[:] = 0
    x[3, places[3]] = bad
    losses = compiled(sx.loss_sparse_categorical_crossentropy, y, x, True)
    assert np.isfinite(np.delete(losses, 3)).all()


def test_sparse_xent_warm_has_every_kernel_that_these_calls_took(engines):
    """In this file are the usual calls: layouts, labels, gradients, ranks."""
    compiled, _ = engines
    _, x, _, _ = case("a few rows", "float64", "probabilities")
    compiled(sx.loss_sparse_categorical_crossentropy, np.zeros(7, int), x)  # if it runs alone
    taken = {n for n in loader._addresses if "float16" not in n and "bfloat16" not in n}
    unusual = {
        n for n in taken if {"NORMALIZE_CLIP", "CLIP", True} & {*n[2:4]}
    }  # what --all is for
    assert taken - unusual
    assert taken - unusual <= set(warm.kernels())
    assert taken <= set(warm.kernels(everything=True))
