"""The compiled kernels, through the public face: every kernel, kind of scores, dtype and layout.

The NumPy engine in float64 says what is right, on the scores as stored and with the clip's bounds
rounded to the arithmetic's dtype. Among the rows stand all the odd ones: NaN and inf, masked
classes and targets, ignored labels, weights of 0, offsets and gaps far out.
"""

import numpy as np
import pytest

import sparse_xent as sx
from sparse_xent.engines import numpy_formulas
from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels.cpu import abi, functions, row_batches, row_quads, rows

#: Some rows hold what cannot be probabilities, on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:y_pred must hold probabilities:UserWarning")

EPS = 1e-7
#: One shape [outer, C, inner] for each kernel: tile, row_batches (of logits up to 2047 classes),
#: rows in steps that lie together and in steps a quarter of a row apart.
TOGETHER = {
    "tile": (70, 10, 1),
    "row_batches": (41, 100, 1),
    "rows": (37, 600, 1),
    "last of batches": (21, 511, 1),
    "last of quads": (21, 2047, 1),
    "long": (19, 2100, 1),
    "longest": (19, 9000, 1),
}
#: Classes apart: few and many of them, positions that fill vectors and that do not.
APART = {"planes": (3, 21, 100), "wide": (1, 5, 1030), "many": (1, 300, 70), "alone": (60, 9, 1)}
EVERY = {**TOGETHER, **APART}
SCORES = pytest.mark.parametrize("scores", list(ScoreKind), ids=lambda s: s.name.lower())
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])


def scores_of(shape, dtype, scores, seed=0):
    """Scores, labels and factors with every odd row among them."""
    r = np.random.default_rng(seed)
    outer, classes, inner = shape
    x = r.normal(0, 3, shape)
    if scores != ScoreKind.LOGITS:
        x = np.exp(x)
        x /= x.sum(axis=1, keepdims=True)
    y = r.integers(0, classes, (outer, inner))
    g = r.normal(size=(outer, inner))
    places = iter(r.permutation(outer * inner))

    def row():
        o, i = divmod(int(next(places)), inner)
        return x[o, :, i], (o, i)

    for _ in range(3):
        y[row()[1]] = -1
    (nan, at), (dead, off) = row(), row()
    nan[0], y[at] = np.nan, -1
    dead[0], g[off] = np.nan, 0
    row()[0][classes // 2] = np.nan
    row()[0][-1] = np.inf
    big = 6e4 if dtype == np.float16 else 1e38
    far = 1e4 if dtype == np.float16 else 1e6
    if scores == ScoreKind.LOGITS:
        row()[0][:] = -np.inf
        (masked, at), (other, there), (only, here) = row(), row(), row()
        masked[y[at]] = -np.inf
        other[(y[there] + 1) % classes] = -np.inf
        only[np.arange(classes) != y[here]] = -np.inf
        row()[0][:] = big
        for offset in (far, -far):
            row()[0][:] += offset
        row()[0][0] = -big
        row()[0][-1] = 300  # the reference is raised late
        for value in (30, 100, -100):
            target, at = row()
            target[y[at]] = value
    else:
        row()[0][:] = 0
        (right, at), (wrong, there) = row(), row()
        right[:] = np.arange(classes) == y[at]
        wrong[:] = np.arange(classes) == (y[there] + 1) % classes
        row()[0][:] *= 7
        row()[0][0] = -0.3
    with np.errstate(over="ignore"):
        return x.astype(dtype), y, g


KINDS = {
    ScoreKind.LOGITS: {"from_logits": True},
    ScoreKind.CLIP_NORMALIZE: {"normalize": "after"},
    ScoreKind.NORMALIZE_CLIP: {"normalize": "before"},
    ScoreKind.CLIP: {"normalize": "never"},
}


def options(x, scores, smoothing):
    own = "float64" if x.dtype == np.float64 else "float32"
    smoothed = {"label_smoothing": smoothing, **KINDS[scores]}
    return {"axis": 1, "ignore_class": -1, "dtype": own, **smoothed}


def losses(x, y, scores, smoothing=0.0):
    return sx.loss_sparse_categorical_crossentropy(y, x, **options(x, scores, smoothing))


def both(x, y, g, scores, smoothing=0.0, out=None):
    """Losses times g, and the gradient of their sum."""
    loss = sx.SparseCategoricalCrossentropy(reduction=None, **options(x, scores, smoothing))
    return loss.value_and_grad(y, x, g, out=out)


def due(x, y, g, scores, smoothing, monkeypatch):
    """Losses and gradient in float64, the clip's bounds as the dtype's arithmetic has them."""
    own = np.float64 if x.dtype == np.float64 else np.float32
    begin = numpy_formulas._Probabilities.__init__

    def rounded(self, p, t, eps):
        begin(self, p, t, eps)
        self.lo, self.hi = float(own(eps)), float(own(1 - eps))

    monkeypatch.setattr(numpy_formulas._Probabilities, "__init__", rounded)
    formula = {"scores": scores, "smoothing": smoothing, "eps": EPS}
    return numpy_formulas.nll_and_grad(x.astype(np.float64), y, g, **formula)


def assert_losses(made, right):
    # The loss of one class among deleted ones is 0; float64's smoothed sums leave 1e-16 of it.
    rtol = 1e-12 if made.dtype == np.float64 else 1e-5
    np.testing.assert_allclose(made, right, rtol=rtol, atol=3e-16)


def assert_gradients(made, right):
    """Right to rounding, relative to the greatest of each row: within one, terms may cancel."""
    rtol = {2: 2e-3, 4: 2e-6, 8: 1e-12}[made.itemsize]
    with np.errstate(over="ignore"):
        right = right.astype(made.dtype).astype(np.float64)
    made = made.astype(np.float64)
    np.testing.assert_array_equal(np.isnan(made), np.isnan(right))
    np.testing.assert_array_equal(np.isinf(made), np.isinf(right))
    finite = np.isfinite(right)
    np.testing.assert_array_equal(made[~finite], right[~finite])
    made, right = np.where(finite, made, 0), np.where(finite, right, 0)
    top = np.abs(right).max(axis=1, keepdims=True)
    assert (np.abs(made - right) <= rtol * top).all()


#: Each pair is a compilation for every kernel and kind of scores: the rarer ones are slow.
ARITHMETIC = [
    (np.float32, 0.0),
    pytest.param(np.float32, 0.1, marks=pytest.mark.slow),
    pytest.param(np.float32, 1.0, marks=pytest.mark.slow),
    (np.float64, 0.0),
    pytest.param(np.float64, 0.1, marks=pytest.mark.slow),
    pytest.param(np.float64, 1.0, marks=pytest.mark.slow),
    pytest.param(np.float16, 0.0, marks=pytest.mark.slow),
    pytest.param(np.float16, 0.1, marks=pytest.mark.slow),
]


@SCORES
@pytest.mark.parametrize(("dtype", "smoothing"), ARITHMETIC)
@pytest.mark.parametrize("shape", EVERY.values(), ids=EVERY)
def test_every_kernel_gives_what_the_numpy_engine_gives(
    shape, smoothing, dtype, scores, monkeypatch
):
    x, y, g = scores_of(shape, dtype, scores)
    loss, (value, dx) = losses(x, y, scores, smoothing), both(x, y, g, scores, smoothing)
    right, slopes = due(x, y, g, scores, smoothing, monkeypatch)
    np.testing.assert_array_equal(value, np.where(g == 0, 0, loss * g).astype(value.dtype))
    if scores == ScoreKind.NORMALIZE_CLIP:
        assert_shares(loss, right, shape[1] if smoothing else 1)
    else:
        assert_losses(loss, right)
    assert_gradients(dx, slopes)
    assert not loss[y < 0].any()
    zero = np.broadcast_to(((y < 0) | (g == 0))[:, None], dx.shape)
    assert not dx[zero].any()


def assert_shares(made, right, terms):
    """-log of a share near 1 has the share's own rounding; a sum of many, that of its additions."""
    ulp = 2e-16 if made.dtype == np.float64 else 1.2e-7
    np.testing.assert_allclose(made, right, rtol=(20 + terms / 100) * ulp, atol=4 * ulp)


def bits(a):
    return np.ascontiguousarray(a).view(f"u{a.itemsize}")


@SCORES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("smoothing", [0.0, pytest.param(0.1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("shape", EVERY.values(), ids=EVERY)
def test_a_row_has_the_same_bits_alone_as_in_any_batch(shape, smoothing, dtype, scores):
    x, y, g = scores_of(shape, dtype, scores)
    loss, (_, dx) = losses(x, y, scores, smoothing), both(x, y, g, scores, smoothing)
    for o, i in [(0, 0), (shape[0] - 1, shape[2] - 1), (shape[0] // 2, shape[2] // 3)]:
        box = slice(o, o + 1), slice(i, i + 1)
        part = x[box[0], :, box[1]]
        alone = both(part, y[box], g[box], scores, smoothing)
        np.testing.assert_array_equal(
            bits(losses(part, y[box], scores, smoothing)), bits(loss[box])
        )
        np.testing.assert_array_equal(bits(alone[1]), bits(dx[box[0], :, box[1]]))


#: What makes the terms of a row of logits, or its gradient, too large or too small for a reference
#: of 0.
FAR = {
    "offset 200": lambda x: x + 200,
    "offset -100": lambda x: x - 100,
    "offset -20": lambda x: x - 20,
    "spread 30": lambda x: x * 10,
    "target -inf": lambda x: np.where(np.arange(len(x)) == 0, -np.inf, x),
    "others -inf": lambda x: np.where(np.arange(len(x)) == 0, x, -np.inf),
    "NaN": lambda x: np.where(np.arange(len(x)) == 1, np.nan, x),
}


@pytest.mark.parametrize("far", FAR.values(), ids=FAR)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("classes", [2, 3, 7, 10, 21, 25, 100, 255, 256, 600, 2047, 2100, 5000])
def test_rows_far_from_others_do_not_change_their_bits(classes, order, dtype, far):
    r = np.random.default_rng(classes)
    x = np.array(r.normal(0, 3, (70, classes, 1)), dtype, order=order)
    y, g = np.zeros((70, 1), np.int64), r.normal(size=(70, 1))
    mixed = x.copy(order=order)
    for row in range(0, 70, 5):
        mixed[row, :, 0] = far(x[row, :, 0])
    usual = np.arange(70) % 5 > 0
    for made, right in zip(
        both(mixed, y, g, ScoreKind.LOGITS), both(x, y, g, ScoreKind.LOGITS), strict=True
    ):
        np.testing.assert_array_equal(bits(made[usual]), bits(right[usual]))


@pytest.mark.parametrize("shape", EVERY.values(), ids=EVERY)
def test_the_loss_has_the_same_bits_with_and_without_a_gradient(shape):
    x, y, _ = scores_of(shape, np.float32, ScoreKind.LOGITS)
    value, _ = both(x, y, np.ones(y.shape), ScoreKind.LOGITS)
    np.testing.assert_array_equal(bits(losses(x, y, ScoreKind.LOGITS)), bits(value))


@SCORES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reduction", [None, "mean"])
@pytest.mark.parametrize("shape", EVERY.values(), ids=EVERY)
def test_weights_of_1_change_no_bits(shape, reduction, dtype, scores):
    """Without weights, chunks write what kernels give: 0 for what is ignored, NaN in it or not."""
    x, y, _ = scores_of(shape, dtype, scores)
    if reduction:  # a value that is a number
        x = np.where(np.isfinite(x), x, 0.25).astype(dtype)
    loss = sx.SparseCategoricalCrossentropy(reduction=reduction, **options(x, scores, 0.0))
    plain, weighted = loss.value_and_grad(y, x), loss.value_and_grad(y, x, np.ones(y.shape))
    for made, right in zip(plain, weighted, strict=True):
        np.testing.assert_array_equal(bits(made), bits(right))
    assert loss(y, x).tobytes() == plain[0].tobytes()
    zero = np.broadcast_to((y < 0)[:, None], x.shape)
    assert not plain[1][zero].any()


def laid_out(shape, dtype, how):
    """An array of the shape: "steps" leaves room between numbers, else an order of its axes."""
    if how == "steps":
        return np.zeros([2 * n for n in shape], dtype)[::2, ::2, ::2]
    order = [int(a) for a in how]
    return np.zeros([shape[a] for a in order], dtype).transpose(np.argsort(order))


@pytest.mark.parametrize("how", ["012", "021", "210", "102", "steps"])
@pytest.mark.parametrize("shape", EVERY.values(), ids=EVERY)
def test_the_gradient_goes_into_any_layout(shape, how):
    x, y, g = scores_of(shape, np.float32, ScoreKind.LOGITS)
    out = laid_out(shape, np.float32, how)
    value, dx = both(x, y, g, ScoreKind.LOGITS)
    into = both(x, y, g, ScoreKind.LOGITS, out=out)
    assert into[1] is out
    np.testing.assert_array_equal(bits(into[0]), bits(value))
    np.testing.assert_array_equal(out, dx)


@pytest.mark.parametrize("classes", [10, 100, 1000, 2100, 5000])
def test_a_large_gradient_that_goes_past_the_caches_is_as_in_place(classes):
    """Its rows begin anywhere in a line; the last batch is not whole."""
    rows = 4_500_000 // classes + 3
    r = np.random.default_rng(classes)
    x = r.normal(0, 3, (rows, classes)).astype(np.float32)
    x[5], x[70, 1] = x[5] + 200, np.nan
    y = r.integers(-1, classes, rows)
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1, reduction="sum")
    held = np.empty(x.size + 1, np.float32)
    out = held[1:].reshape(x.shape)
    assert out.nbytes >= abi.NONTEMPORAL
    value, _ = loss.value_and_grad(y, x, out=out)
    again, dx = loss.value_and_grad(y, x, out=x)
    np.testing.assert_array_equal(bits(value), bits(again))
    np.testing.assert_array_equal(bits(out), bits(dx))


@pytest.mark.parametrize("scores", [{"from_logits": True}, {}], ids=["logits", "probabilities"])
@pytest.mark.parametrize("smoothing", [0.0, pytest.param(0.1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("begin", "more"), [(0, 0), (1, 0), (7, 0), (12, 9)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [12, 32, 33, 150])
def test_a_large_gradient_of_classes_apart_goes_past_the_caches(
    classes, dtype, begin, more, smoothing, scores
):
    """Its classes begin anywhere in a line; some positions are done again, some are ignored."""
    inner = (abi.NONTEMPORAL // np.dtype(dtype).itemsize // classes // 2 + 64) // 16 * 16 + more
    r = np.random.default_rng(classes)
    held = r.uniform(0, 1, 2 * classes * inner + begin).astype(dtype)
    x = held[begin:].reshape(2, classes, inner)
    x[0, :, 5] += 1000
    x[1, 2, 40] = np.nan
    y = r.integers(-1, classes, (2, inner))
    loss = sx.SparseCategoricalCrossentropy(
        **scores, axis=1, ignore_class=-1, reduction="sum", label_smoothing=smoothing
    )
    out = np.empty_like(held)[begin:].reshape(x.shape)
    assert out.nbytes >= abi.NONTEMPORAL
    value, _ = loss.value_and_grad(y, x, out=out)
    again, dx = loss.value_and_grad(y, x, out=x)
    np.testing.assert_array_equal(bits(value), bits(again))
    np.testing.assert_array_equal(bits(out), bits(dx))


@SCORES
@pytest.mark.parametrize("how", ["012", "021", "210", "steps"])
@pytest.mark.parametrize("smoothing", [0.0, pytest.param(0.1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("shape", EVERY.values(), ids=EVERY)
def test_in_place_is_as_apart(shape, smoothing, how, scores):
    x, y, g = scores_of(shape, np.float32, scores)
    held = laid_out(shape, np.float32, how)
    held[...] = x
    held.flags.writeable = False
    value, dx = both(held, y, g, scores, smoothing)
    np.testing.assert_array_equal(held, x)
    held.flags.writeable = True
    into = both(held, y, g, scores, smoothing, out=held)
    np.testing.assert_array_equal(bits(into[0]), bits(value))
    np.testing.assert_array_equal(held, dx)


@pytest.mark.parametrize(("dtype", "most"), [(np.float32, 80), (np.float64, 700)])
@pytest.mark.parametrize("classes", [2, 10, 100, 600, 2047, 2500, 9000])
def test_a_gap_is_right_relative_to_the_loss_at_any_offset(classes, dtype, most):
    r = np.random.default_rng(classes)
    for offset in (0, 1e3, -1e6, 1e6):
        x = (r.uniform(0, 1, (64, classes, 1)) * most).astype(dtype) + dtype(offset)
        y = np.where(np.arange(64) % 2, x.argmax(axis=1)[:, 0], r.integers(0, classes, 64))[:, None]
        for view in (x, np.ascontiguousarray(x.transpose(2, 1, 0))):
            labels = y if view is x else y.T
            made = losses(view, labels, ScoreKind.LOGITS)
            wide = view.astype(np.longdouble)
            gaps = wide - np.take_along_axis(wide, labels[:, None], axis=1)
            np.put_along_axis(gaps, labels[:, None], -np.inf, axis=1)
            top = np.maximum(gaps.max(axis=1, keepdims=True), 0)
            rest = np.exp(gaps - top).sum(axis=1)
            right = np.where(
                top[:, 0] > 0, top[:, 0] + np.log(rest + np.exp(-top[:, 0])), np.log1p(rest)
            )
            rtol = 1e-5 if dtype == np.float32 else 1e-12
            np.testing.assert_allclose(made, right.astype(np.float64), rtol=rtol)


def test_never_reads_no_more_than_the_target():
    x = np.full((40, 50, 1), np.nan, np.float32)
    y = np.arange(40)[:, None]
    x[np.arange(40), np.arange(40), 0] = 0.25
    np.testing.assert_allclose(losses(x, y, ScoreKind.CLIP), np.log(4), rtol=1e-6)


@DTYPES
@pytest.mark.parametrize("shape", EVERY.values(), ids=EVERY)
def test_ranks_are_the_numpy_engine_s(shape, dtype):
    """Called by its address, for no public function gives ranks."""
    r = np.random.default_rng(0)
    x = r.integers(0, 9, shape).astype(dtype)  # many ties
    x[0, 1, 0] = np.nan
    y = r.integers(-1, shape[1], (shape[0], shape[2])).astype(np.int32)
    y[0, 0] = 0
    made = np.empty(y.shape, np.int64)
    to, labels = made.ctypes.data, y.ctypes.data
    functions.rank(x.dtype.name)(*shape[1:], 0, y.size, x.ctypes.data, *x.strides, labels, to)
    np.testing.assert_array_equal(made, numpy_formulas.rank(x, y))
    assert made[0, 0] == shape[1]


def test_the_scratch_of_a_thread_is_large_enough_for_every_kernel():
    """Guard pages do not see it: it is memory of the library's own."""
    batch = 64  # bytes of 16 rows' terms of a class: float32
    assert batch * abi.PLAIN_MEDIUM <= row_quads._TERMS
    assert 2 * (abi.LINE + row_quads._TERMS) <= abi.TERMS  # batches take turns
    assert abi.LINE + batch * abi.MEDIUM <= row_batches._GRADIENT
    assert 2 * row_batches._GRADIENT + batch * abi.MEDIUM <= abi.TERMS
    pair = 128  # bytes of terms: a row may end with one that begins early
    assert rows.CACHED + pair <= abi.TERMS
