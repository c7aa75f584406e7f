"""Far ends: slopes that are small differences, weights of inf, casts that overflow."""

import itertools

import inside
import numpy as np
import pytest
from conftest import KINDS, SHAPES
from oracle import Definition, mp

import sparse_xent as sx

#: Each kernel once.
EACH = (
    *("few classes", "some classes", "hundreds of classes", "many classes"),
    *("thousands of classes", "classes first"),
)


# ---- slopes that are small differences ----------------------------------------------------------


def near_what_smoothing_wants(shape, axis, s, seed=0):
    """Probabilities in float32, the target's from near to very near its smoothed share."""
    r = np.random.default_rng(seed)
    classes = shape[axis]
    x = r.dirichlet(np.full(classes, 3.0), sum(shape) - classes)
    y = r.integers(0, classes, len(x))
    rows = np.arange(len(x))
    wanted = 1 - s + s / classes
    off = 10.0 ** r.uniform(-5, 0, len(x)) * r.choice((-1, 1), len(x))
    share = np.clip(wanted * (1 + off / 2), 1e-4, 1 - 1e-4)
    x *= ((1 - share) / (1 - x[rows, y]))[:, None]
    x[rows, y] = share
    x = x.astype(np.float32)
    return y, x if axis else np.ascontiguousarray(x.T)


@pytest.mark.parametrize("s", [0.1, 1.0])
@pytest.mark.parametrize("kind", ["after", "before", "never"])
@pytest.mark.parametrize("shape", EACH)
def test_smoothed_probabilities_keep_the_digits_of_the_target_s_slope(shape, kind, s, engine):
    shape, axis = SHAPES[shape]
    y, x = near_what_smoothing_wants(shape, axis, s)
    options = {**KINDS[kind], "label_smoothing": s, "axis": axis, "reduction": "sum"}
    gradient = sx.SparseCategoricalCrossentropy(**options).value_and_grad(y, x)[1]
    with mp.workdps(50):
        want = Definition(**options).value_and_gradient(y, x)[1]
    at = (np.arange(len(y)), y) if axis else (y, np.arange(len(y)))
    errors = [abs(mp.mpf(float(a)) / b - 1) for a, b in zip(gradient[at], want[at], strict=True)]
    assert max(errors) < 1e-5


@pytest.mark.parametrize("kind", ["after", "before"])
def test_smoothed_away_a_target_of_little_probability_keeps_its_slope(kind, engine):
    r = np.random.default_rng(1)
    x = r.dirichlet(np.full(100, 0.3), 50).astype(np.float32)
    y = x.argsort(axis=1)[:, 20]  # far below 1 / 100
    options = {**KINDS[kind], "label_smoothing": 1.0, "reduction": "sum"}
    gradient = sx.SparseCategoricalCrossentropy(**options).value_and_grad(y, x)[1]
    with mp.workdps(50):
        want = Definition(**options).value_and_gradient(y, x)[1]
    kept = [(i, t) for i, t in enumerate(y) if want[i, t] != 0]
    assert len(kept) > 30
    for i, t in kept:
        assert abs(mp.mpf(float(gradient[i, t])) / want[i, t] - 1) < 1e-5


# ---- weights of inf -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shape", "dtype"), [*itertools.product(EACH, ["float32"]), ("few classes", "float64")]
)
def test_a_weight_of_inf_gives_an_infinite_gradient_where_the_slope_is_not_0(
    shape, kind, dtype, engine
):
    """Where the slope is exactly 0 (clipped, not read, weight 0) so is the gradient."""
    shape, axis = SHAPES[shape]
    r = np.random.default_rng(2)
    classes, n = shape[axis], sum(shape) - shape[axis]
    x = r.normal(0, 1, (n, classes))
    y = r.integers(0, classes, n)
    if kind == "logits":
        x[0, y[0]] = 900  # the others' terms are no numbers of the dtype
        x[1, (y[1] + 1) % classes] = -np.inf
        x[2] = -np.inf
        x[2, y[2]] = 0  # nothing to learn
    else:
        x = np.exp(x) / np.exp(x).sum(1, keepdims=True)
        x[0, (y[0] + 1) % classes] = 0
        x[1, y[1]] = 0
    x = x.astype(dtype)
    w = np.ones(n)
    w[:4] = np.inf
    w[4] = -np.inf
    w[5] = 0
    there = x if axis else np.ascontiguousarray(x.T)
    loss = sx.SparseCategoricalCrossentropy(**KINDS[kind], axis=axis, reduction="sum", dtype=dtype)
    gradient = loss.value_and_grad(y, there, w)[1]
    gradient = gradient if axis else gradient.T
    options = {**KINDS[kind], "reduction": "sum", "dtype": dtype}
    with mp.workdps(420 if kind == "logits" else 50):
        slopes = Definition(**options).value_and_gradient(y[:5], x[:5])[1]
    for i, j in np.ndindex(5, classes):
        sign = mp.sign(slopes[i, j])
        assert gradient[i, j] == (0 if sign == 0 else float(sign) * w[i]), (i, j)
    assert not gradient[5].any()
    assert np.isfinite(gradient[6:]).all()


# ---- no warning on any thread -------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["sum", None])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("stored", ["float32", "float64", "longdouble"])
@pytest.mark.parametrize("shape", EACH)
def test_no_call_warns_whatever_overflows_on_whatever_thread(
    shape, stored, dtype, reduction, engine, monkeypatch
):
    """Losses beyond the result's dtype are inf; pytest makes an error of every warning."""
    inside.cut_small(monkeypatch.setattr)  # helper threads take their share
    shape, axis = SHAPES[shape]
    top = float(np.finfo(stored if stored != "longdouble" else "float64").max)
    x = np.random.default_rng(3).normal(size=shape)
    y = np.zeros(sum(shape) - shape[axis], int)
    x = np.moveaxis(x, axis, -1)
    x[0, 1], x[1, 0], x[2, 1], x[3, 1] = top, -top, np.inf, np.nan
    x = np.moveaxis(x, -1, axis).astype(stored)
    given = {"from_logits": True, "axis": axis, "dtype": dtype}
    weights = np.full(y.shape, 3, np.longdouble)
    losses = sx.loss_sparse_categorical_crossentropy(y, x, **given)
    assert np.isinf(losses.astype(float)[0]) or float(losses[0]) >= top / 2
    for w in (None, weights, np.full(y.shape, 1e300), np.full(y.shape, 1e-300)):
        loss = sx.SparseCategoricalCrossentropy(**given, reduction=reduction)
        loss(y, x, w)
        loss(y.astype(np.longdouble), x, w)
        loss.value_and_grad(y, x, w)
        if stored != "longdouble":  # its gradient is float64
            loss.value_and_grad(y, x, w, out=np.empty((*x.shape, 2), x.dtype)[..., 0])


def test_a_mean_near_the_ends_of_float32_does_not_warn(engine):
    x = np.array([[0, 3e38], [0, 3e38]], np.float32)
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    assert np.isinf(loss(np.array([0, 0]), x))
    with np.errstate(all="raise"):  # someone's own setting
        assert loss(np.array([1, 1]), x) == 0
        assert loss(np.array([0]), np.array([[95.0, 0]], np.float32)) > 0
        assert loss(np.array([0]), np.array([[103.0, 0]], np.float32)) > 0


@pytest.mark.parametrize("from_logits", [True, False])
def test_the_one_hot_sibling_s_gradient_is_infinite_or_0_under_a_weight_of_inf(from_logits):
    x = np.array([[0.2, 0.5, 0.3], [0.1, 0.0, 0.9]])
    y = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    loss = sx.CategoricalCrossentropy(from_logits=from_logits, reduction="sum", dtype="float64")
    slopes = loss.value_and_grad(y, x)[1]
    gradient = loss.value_and_grad(y, x, np.array([np.inf, -np.inf]))[1]
    want = np.array([[np.inf], [-np.inf]]) * np.where(slopes == 0, np.nan, slopes)
    np.testing.assert_array_equal(gradient, np.where(slopes == 0, 0, want))


# ---- subnormal numbers --------------------------------------------------------------------------


def loss_of_logits(x, axis, s=0.0):
    """One loss a label, of the dtype of x."""
    return sx.SparseCategoricalCrossentropy(
        from_logits=True, axis=axis, label_smoothing=s, reduction=None, dtype=x.dtype
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", EACH)
def test_subnormal_losses_are_kept_beside_a_gradient(shape, dtype, engine):
    """Gradients are made with subnormal results flushed to 0; losses have the bits of a call."""
    shape, axis = SHAPES[shape]
    gap, least = (97.0, 1e-43) if dtype == "float32" else (738.0, 1e-322)
    x = np.full(shape, -gap, dtype)
    y = np.zeros(tuple(np.delete(shape, axis)), int)
    np.moveaxis(x, axis, -1)[..., 0] = 0
    loss = loss_of_logits(x, axis)
    losses, gradient = loss.value_and_grad(y, x)
    assert losses.tobytes() == loss(y, x).tobytes()
    assert (losses >= least).all()
    assert (losses < np.finfo(dtype).tiny).all()
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("gap", [10.0, 97.0])
@pytest.mark.parametrize("shape", EACH)
def test_a_call_leaves_the_mode_of_floats_as_it_was(shape, gap, engine):
    """Some processors have a mode in which subnormal results are 0: it is the caller's."""
    shape, axis = SHAPES[shape]
    x = np.full(shape, -gap, "float32")
    np.moveaxis(x, axis, -1)[..., 0] = 0
    y = np.zeros(tuple(np.delete(shape, axis)), int)
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, axis=axis)
    for call in (loss, loss.value_and_grad):
        call(y, x)
        small = np.full(64, 1e-30, np.float32) * np.float32(1e-10)
        assert (small > 0).all()
        assert (small * np.float32(1e10) > 0).all()


@pytest.mark.parametrize("s", [0.0, 0.1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", EACH)
def test_subnormal_logits_count_as_0_and_cost_no_digit(shape, dtype, s, engine):
    shape, axis = SHAPES[shape]
    r = np.random.default_rng(0)
    x = (r.standard_normal(shape) * np.finfo(dtype).tiny / 4).astype(dtype)
    y = r.integers(0, shape[axis], np.delete(shape, axis))
    values, gradient = loss_of_logits(x, axis, s).value_and_grad(y, x)
    digits = {"float32": 1e-5, "float64": 1e-12}[dtype]
    np.testing.assert_allclose(values, np.log(shape[axis]), rtol=digits)
    want = np.full(shape, (1 - s) / shape[axis])
    want = np.moveaxis(want, axis, -1)
    np.put_along_axis(want, y[..., None], (1 - s) / shape[axis] - (1 - s), axis=-1)
    np.testing.assert_allclose(np.moveaxis(gradient, axis, -1), want, rtol=digits)


@pytest.mark.parametrize("s", [0.0, 0.1])
@pytest.mark.parametrize("gap", [87.0, 88.0, 88.3, 88.7, 89.0, 89.5, 709.4, 709.8, 710.2])
@pytest.mark.parametrize("shape", EACH)
def test_terms_about_the_greatest_number_are_summed_under_another_reference(shape, gap, s, engine):
    """2^128 may be infinite, and so may a sum of smaller terms."""
    shape, axis = SHAPES[shape]
    dtype = "float64" if gap > 100 else "float32"
    x, y = np.full(shape, -0.4, dtype), np.zeros(np.delete(shape, axis), int)
    classes = np.moveaxis(x, axis, -1)
    classes[..., shape[axis] // 2] += gap
    classes[..., -1] += gap
    classes[::2, ..., 0] = -50.0  # the first reference is far below the other logits
    values, gradient = loss_of_logits(x, axis, s).value_and_grad(y, x)
    wide = classes.astype(np.longdouble)
    e = np.exp(wide - wide.max(-1, keepdims=True))
    total = e.sum(-1, keepdims=True)
    a = np.full(wide.shape, np.longdouble(s) / shape[axis])
    a[..., 0] += 1 - np.longdouble(s)
    want = np.log(total[..., 0]) + wide.max(-1) - (a * wide).sum(-1)
    digits, tiny = {"float32": (1e-5, 1e-37), "float64": (1e-12, 1e-307)}[dtype]
    np.testing.assert_allclose(values, want, rtol=digits)
    got = np.moveaxis(gradient, axis, -1)
    assert (np.abs(got - (e / total - a)) <= digits * np.abs(e / total - a) + tiny).all()


@pytest.mark.parametrize("shape", EACH)
def test_a_large_weight_keeps_gradients_of_logits_far_below_0(shape, engine):
    shape, axis = SHAPES[shape]
    y = np.zeros(tuple(np.delete(shape, axis)), int)
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, axis=axis, reduction="sum")
    gradient = loss.value_and_grad(y, np.full(shape, -300.0), np.full(y.shape, 1e200))[1]
    want = np.full(shape, 1e200 / shape[axis])
    np.moveaxis(want, axis, -1)[..., 0] -= 1e200
    np.testing.assert_allclose(gradient, want, rtol=1e-12)


@pytest.mark.parametrize("s", [0.0, 0.1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", EACH)
def test_a_small_weight_keeps_gradients_of_logits_far_above_a_row_s_first(shape, dtype, s, engine):
    shape, axis = SHAPES[shape]
    x = np.zeros(shape, dtype)
    np.moveaxis(x, axis, -1)[..., -2] = 44
    y = np.ones(tuple(np.delete(shape, axis)), int)
    loss = sx.SparseCategoricalCrossentropy(
        from_logits=True, axis=axis, reduction="sum", label_smoothing=s
    )
    e = np.exp(np.moveaxis(x, axis, -1).astype(np.longdouble) - 44)
    want = e / e.sum(-1, keepdims=True) - s / shape[axis]
    want[..., 1] -= 1 - s
    least, digits = np.finfo(dtype).tiny, {"float32": 1e-5, "float64": 1e-12}[dtype]
    for w in {"float32": (1e-20, 3e-30, 1e-36), "float64": (1e-140, 1e-290, 1e-300)}[dtype]:
        gradient = loss.value_and_grad(y, x, sample_weight=np.full(y.shape, w))[1]
        error = np.abs(np.moveaxis(gradient, axis, -1) - want * np.longdouble(w))
        assert (error <= digits * np.abs(want * np.longdouble(w)) + least).all(), w


@pytest.mark.parametrize("s", [0.0, 0.1])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [21, 40, 60])
def test_neighbours_whose_terms_overflow_change_no_bit(classes, dtype, s, engine):
    """Classes apart, many positions side by side; and whatever line of memory `out` begins in."""
    spread, positions = (30, 4096) if dtype == "float32" else (240, 4096)
    r = np.random.default_rng(classes)
    x = (r.standard_normal((classes, positions)) * spread).astype(dtype)
    x[1, ::3] = x[0, ::3] + x.dtype.type(88.1 if dtype == "float32" else 709.2)
    x[2, ::3] = x[1, ::3]
    y = r.integers(0, classes, positions)
    y[::3] = 2
    loss = loss_of_logits(x, 0, s)
    values, gradient = loss(y, x), loss.value_and_grad(y, x)[1]
    shifted = slice(5, None)
    assert loss(y[shifted], x[:, shifted]).tobytes() == values[shifted].tobytes()
    high = x.copy()
    high[3, 1::2] = 1000 if dtype == "float32" else 10_000
    assert loss(y, high)[::2].tobytes() == values[::2].tobytes()
    for begin in (1, 4, 12):
        out = np.empty(x.size + begin, dtype)[begin:].reshape(x.shape)
        made = loss.value_and_grad(y, x, out=out)
        assert made[0].tobytes() == values.tobytes()
        assert out.tobytes() == gradient.tobytes()
    moved = loss.value_and_grad(y[shifted], x[:, shifted])[1]
    assert moved.tobytes() == np.ascontiguousarray(gradient[:, shifted]).tobytes()
