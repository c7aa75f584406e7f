"""The compiled kernels are the plain engine's twins: every walk, kind of scores, dtype and layout.

`portable` in float64 says what is right, on the scores as stored and with the clip's bounds
rounded to the arithmetic's dtype. Among the rows stand all the odd ones: NaN and inf, masked
classes and targets, ignored labels, factors of 0, offsets and gaps far out.
"""

import inspect

import numpy as np
import pytest

from sparse_xent.engines import numpy_formulas
from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels.cpu import verbs as cpu_verbs

EPS = 1e-7
#: One shape [outer, C, inner] for each walk: tile, medium, rows (one chunk and three).
TOGETHER = {
    "tile": (70, 10, 1),
    "medium": (41, 100, 1),
    "rows": (37, 600, 1),
    "long": (19, 2100, 1),
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


def formula(scores, smoothing):
    return {"scores": scores, "smoothing": smoothing, "eps": EPS}


def due(x, y, g, scores, smoothing, monkeypatch):
    """Losses and gradient in float64, the clip's bounds as the dtype's arithmetic has them."""
    own = np.float64 if x.dtype == np.float64 else np.float32
    begin = numpy_formulas._Probabilities.__init__

    def rounded(self, p, t, eps):
        begin(self, p, t, eps)
        self.lo, self.hi = float(own(eps)), float(own(1 - eps))

    monkeypatch.setattr(numpy_formulas._Probabilities, "__init__", rounded)
    return numpy_formulas.nll_and_grad(x.astype(np.float64), y, g, **formula(scores, smoothing))


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


#: Each pair is a compilation for every walk and kind of scores: the rarer ones are slow.
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
def test_every_walk_is_the_plain_engine_s_twin(shape, smoothing, dtype, scores, monkeypatch):
    x, y, g = scores_of(shape, dtype, scores)
    loss, dx = cpu_verbs.nll_and_grad(x, y, g, **formula(scores, smoothing))
    right, slopes = due(x, y, g, scores, smoothing, monkeypatch)
    assert_losses(loss, right) if scores != ScoreKind.NORMALIZE_CLIP else assert_shares(loss, right)
    assert_gradients(dx, slopes)
    assert not loss[y < 0].any()
    zero = np.broadcast_to(((y < 0) | (g == 0))[:, None], dx.shape)
    assert not dx[zero].any()


def assert_shares(made, right):
    """-log of a share near 1 has the share's own rounding, and no more."""
    ulp = 2e-16 if made.dtype == np.float64 else 1.2e-7
    np.testing.assert_allclose(made, right, rtol=20 * ulp, atol=4 * ulp)


@pytest.mark.parametrize("verb", ["nll", "nll_grad", "nll_and_grad", "rank"])
def test_the_verbs_are_portable_s_in_name_and_parameters(verb):
    ours, plain = getattr(cpu_verbs, verb), getattr(numpy_formulas, verb)
    assert parameters(ours) == parameters(plain)
    assert ours.__doc__.splitlines()[0] == plain.__doc__.splitlines()[0]


def parameters(verb):
    return [(p.name, p.kind, p.default) for p in inspect.signature(verb).parameters.values()]


def bits(a):
    return np.ascontiguousarray(a).view(f"u{a.itemsize}")


@SCORES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("smoothing", [0.0, pytest.param(0.1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("shape", EVERY.values(), ids=EVERY)
def test_a_row_has_the_same_bits_alone_as_in_any_batch(shape, smoothing, dtype, scores):
    x, y, g = scores_of(shape, dtype, scores)
    loss, dx = cpu_verbs.nll_and_grad(x, y, g, **formula(scores, smoothing))
    for o, i in [(0, 0), (shape[0] - 1, shape[2] - 1), (shape[0] // 2, shape[2] // 3)]:
        box = slice(o, o + 1), slice(i, i + 1)
        part = x[box[0], :, box[1]]
        alone = cpu_verbs.nll_and_grad(part, y[box], g[box], **formula(scores, smoothing))
        np.testing.assert_array_equal(bits(alone[0]), bits(loss[box]))
        np.testing.assert_array_equal(bits(alone[1]), bits(dx[box[0], :, box[1]]))


@pytest.mark.parametrize("shape", EVERY.values(), ids=EVERY)
def test_the_loss_has_the_same_bits_with_and_without_a_gradient(shape):
    x, y, g = scores_of(shape, np.float32, ScoreKind.LOGITS)
    how = formula(ScoreKind.LOGITS, 0.0)
    both = cpu_verbs.nll_and_grad(x, y, g, **how)
    np.testing.assert_array_equal(bits(cpu_verbs.nll(x, y, **how)), bits(both[0]))
    np.testing.assert_array_equal(bits(cpu_verbs.nll_grad(x, y, g, **how)), bits(both[1]))


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
    how = formula(ScoreKind.LOGITS, 0.0)
    loss, dx = cpu_verbs.nll_and_grad(x, y, g, **how)
    into = cpu_verbs.nll_and_grad(x, y, g, out=out, **how)
    assert into[1] is out
    np.testing.assert_array_equal(bits(into[0]), bits(loss))
    np.testing.assert_array_equal(out, dx)


@SCORES
@pytest.mark.parametrize("how", ["012", "021", "210", "steps"])
@pytest.mark.parametrize("smoothing", [0.0, pytest.param(0.1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("shape", EVERY.values(), ids=EVERY)
def test_in_place_is_as_apart(shape, smoothing, how, scores):
    x, y, g = scores_of(shape, np.float32, scores)
    held = laid_out(shape, np.float32, how)
    held[...] = x
    held.flags.writeable = False
    loss, dx = cpu_verbs.nll_and_grad(held, y, g, **formula(scores, smoothing))
    np.testing.assert_array_equal(held, x)
    held.flags.writeable = True
    into = cpu_verbs.nll_and_grad(held, y, g, out=held, **formula(scores, smoothing))
    np.testing.assert_array_equal(bits(into[0]), bits(loss))
    np.testing.assert_array_equal(held, dx)


@pytest.mark.parametrize(("dtype", "most"), [(np.float32, 80), (np.float64, 700)])
@pytest.mark.parametrize("classes", [2, 10, 100, 600])
def test_a_gap_is_right_relative_to_the_loss_at_any_offset(classes, dtype, most):
    r = np.random.default_rng(classes)
    for offset in (0, 1e3, -1e6, 1e6):
        x = (r.uniform(0, 1, (64, classes, 1)) * most).astype(dtype) + dtype(offset)
        y = np.where(np.arange(64) % 2, x.argmax(axis=1)[:, 0], r.integers(0, classes, 64))[:, None]
        for view in (x, np.ascontiguousarray(x.transpose(2, 1, 0))):
            labels = y if view is x else y.T
            made = cpu_verbs.nll(view, labels, **formula(ScoreKind.LOGITS, 0.0))
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
    made = cpu_verbs.nll(x, y, **formula(ScoreKind.CLIP, 0.0))
    np.testing.assert_allclose(made, np.log(4), rtol=1e-6)


@DTYPES
@pytest.mark.parametrize("shape", EVERY.values(), ids=EVERY)
def test_ranks_are_the_plain_engine_s(shape, dtype):
    r = np.random.default_rng(0)
    x = r.integers(0, 9, shape).astype(dtype)  # many ties
    x[0, 1, 0] = np.nan
    y = r.integers(-1, shape[1], (shape[0], shape[2]))
    y[0, 0] = 0
    made = cpu_verbs.rank(x, y)
    np.testing.assert_array_equal(made, numpy_formulas.rank(x, y))
    assert made[0, 0] == shape[1]
    out = np.zeros(y.shape, np.int64)
    assert cpu_verbs.rank(x, y, out=out) is out
    np.testing.assert_array_equal(out, made)
