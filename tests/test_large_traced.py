"""Arrays so large that JAX's and TensorFlow's compilers take other code: as right as small ones.

XLA serves sums and maxima of many elements by a library of its own, and fuses other operations with
them. Rows whose losses are near 0, infinite or NaN stand among many others here.
"""

import math
from typing import Any

import numpy as np
import oracle
import pytest
from conftest import KINDS, TOLERANCES, require_peer
from libraries import LIBRARIES, Library

import sparse_xent as sx

NAN, INF = math.nan, math.inf
ROWS, CLASSES = 300, 1000


@pytest.fixture(
    params=[pytest.param(n, marks=[] if n == "jax.jit" else pytest.mark.slow) for n in LIBRARIES]
)
def library(request: pytest.FixtureRequest) -> Library:
    """Each library and way of calling in turn."""
    return LIBRARIES[request.param]()


def strange(dtype: str) -> tuple[Any, Any]:
    """Labels and logits: each of the first rows is a case of its own."""
    rng = np.random.default_rng(0)
    x = 3 * rng.normal(size=(ROWS, CLASSES))
    y = rng.integers(0, CLASSES, ROWS).astype("int32")
    for k, gap in enumerate(
        (20, 40, 75)
    ):  # nearly right, at the first, a middle and the last class
        for n, t in enumerate((0, 500, CLASSES - 1)):
            row = 3 * k + n
            x[row] = -gap - rng.random(CLASSES)
            y[row], x[row, t] = t, 0
    x[9] = 0  # all equal
    x[10, y[10] - 1] = x[10].max() + 1  # beside the label stands the maximum
    x[11, [y[11], y[11] - 1]] = 30  # and here one that is equal to the label's
    x[12] += 1e6
    x[13, y[13] - 1] = INF
    x[14, y[14] - 1] = NAN
    x[15, y[15]] = -INF
    x[16, ::2] = -INF
    y[16] = 1
    x[17] = -INF
    x[18, y[18]] = INF
    x[19, y[19]] = NAN
    x[20] = 1e38
    x[21] = -INF
    x[21, y[21]] = 7  # no other class is left
    return y, x.astype(dtype)


def defined(y: Any, x: Any) -> tuple[Any, Any]:
    """Losses and their slopes in long double, whose exponents reach all gaps of these logits."""
    x = x.astype(np.longdouble)
    t = y[:, None]
    others = np.ones(x.shape, bool)
    np.put_along_axis(others, t, False, 1)
    with np.errstate(all="ignore"):
        x_t = np.take_along_axis(x, t, 1)
        loss = np.log1p(np.exp(x - x_t).sum(1, keepdims=True, where=others))
        m = x.max(1, keepdims=True)
        e = np.exp(x - m)
        slope = np.where(others, e / e.sum(1, keepdims=True), np.expm1(-loss))
    lost = np.isnan(m) | np.isinf(m)
    return np.where(lost, NAN, loss)[:, 0], np.where(lost, NAN, slope)


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_losses_and_slopes_near_0_or_lost(library: Library, dtype: str) -> None:
    y, x = strange(dtype)
    losses, gradient = defined(y, x)
    f = sx.loss_sparse_categorical_crossentropy
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, reduction="sum", dtype=dtype)
    with library.wide():
        got = library.call(lambda x, y: f(y, x, True), x, y)
        slope = library.gradient(lambda x, y: loss(y, x), x, y)
    oracle.assert_close(got, losses, TOLERANCES[dtype])
    atol = float(np.finfo(dtype).tiny)  # a subnormal slope may be taken for 0
    oracle.assert_close(slope, gradient, 10 * TOLERANCES[dtype], atol=atol)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "logits"])
def test_probabilities_are_numpys(library: Library, kind: str, smoothing: float) -> None:
    options = {**KINDS[kind], "label_smoothing": smoothing}
    rng = np.random.default_rng(1)
    x = rng.dirichlet(np.ones(CLASSES), ROWS).astype("float32")
    y = rng.integers(0, CLASSES, ROWS).astype("int32")
    x[0] = 0
    x[1] = 0
    x[1, y[1]] = 1
    x[2, y[2] - 1] = NAN
    x[3, y[3]] = NAN
    f = sx.loss_sparse_categorical_crossentropy
    got = library.call(lambda x, y: f(y, x, **options), x, y)
    oracle.assert_close(got, f(y, x, **options), 1e-5)


def test_more_classes_than_float32_can_count() -> None:
    jax = require_peer("jax")
    t = 2**24 + 1  # as float32 it is 2**24
    x = jax.numpy.full((1, t + 2), -30.0).at[0, t - 1].set(3.0).at[0, t].set(2.0)
    loss = sx.SparseCategoricalCrossentropy(from_logits=True)
    got = jax.jit(lambda x, y: loss(y, x))(x, np.array([t]))
    rest = math.exp(1) + t * math.exp(-32)
    np.testing.assert_allclose(float(got), math.log1p(rest), rtol=1e-5)
