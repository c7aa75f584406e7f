"""No clip at all (epsilon 0), or one below every normal number: the definition, on every engine."""

import itertools

import numpy as np
import pytest
from conftest import STRIDES, TOLERANCES

import sparse_xent as sx

LONG = np.longdouble

#: Some rows hold what cannot be probabilities, on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:y_pred must hold probabilities:UserWarning")


@pytest.fixture
def _epsilon():
    before = sx.config_epsilon()
    yield
    sx.config_set_epsilon(before)


def rows(classes, dtype):
    """Labels 0, and rows of what a clip would have changed."""
    least = np.finfo(dtype).smallest_subnormal
    tiny = np.finfo(dtype).tiny
    rest = np.linspace(1, 2, classes - 2)
    p = np.zeros((16, classes), dtype)
    p[:, 2:] = rest / rest.sum()
    p[0, :2] = 0, 1  # the target is 0
    p[1, :2] = 0.5, 0  # another class is
    p[2] = 0
    p[2, 0] = 1  # right, and certain
    p[3] = 0
    p[3, 1] = 1  # wrong, and certain
    p[4, :2] = least, 0  # the row sums to 1, so that its share is no other number
    p[5, :2] = least * 5, least
    p[6, :2] = tiny / 3, tiny
    p[7, :2] = tiny * 3, tiny / 7
    p[8] = p[8] * tiny
    p[8, :2] = tiny, least * 100
    p[9, :2] = -0.25, 0.75  # no probabilities: below 0
    p[10, :2] = 0.75, -0.25
    p[11, :2] = 1.5, 0.25  # above 1
    p[12, :2] = 0.25, 1.5
    p[13, :2] = -0.0, 0.5
    p[14, :2] = np.nan, 0.5
    p[15, :2] = 0.5, np.nan
    return np.zeros(16, np.int64), p


def defined(y, p, *, normalize, smoothing, epsilon, targets=None):
    """Losses and gradients by the definition, in long double; 0 * inf is 0."""
    low, high = p.dtype.type(epsilon), p.dtype.type(1 - epsilon)
    p, classes = p.astype(LONG), p.shape[1]
    if targets is None:
        targets = np.eye(classes)[y]
    a = targets * (1 - LONG(smoothing)) + LONG(smoothing) / classes
    with np.errstate(all="ignore"):
        total = p.sum(axis=1, keepdims=True)
        total = np.where(np.isfinite(total) & (total != 0), total, np.nan)
        score = p / total if normalize == "before" else p
        q = np.clip(score, LONG(low), LONG(high)) + LONG(0)  # -0 is 0
        blocked = (score < low) | (score > high)
        loss = -np.where(a == 0, 0, a * np.log(q)).sum(axis=1)
        pull = np.where(blocked | (a == 0), 0, a / q)
        if normalize == "after":
            s = q.sum(axis=1, keepdims=True)
            return np.log(s[:, 0]) + loss, np.where(blocked, 0, 1 / s - pull)
        if normalize == "never":
            return loss, -pull
        return loss, (np.where(blocked, 0, a).sum(axis=1, keepdims=True) - pull) / total


def assert_close(got, want, rtol, atol=0.0):
    """Equal to rtol, with one subnormal number allowed; what is beyond the range is infinite."""
    with np.errstate(all="ignore"):
        want = want.astype(got.dtype)
    np.testing.assert_allclose(got, want, rtol, atol + np.finfo(got.dtype).smallest_subnormal)


def cases():
    """Each kernel once; those that no other fast test compiles are slow."""
    for classes, smoothing in itertools.product((3, 24, 100, 1500), (0.0, 0.1, 1.0)):
        quick = classes in (3, 100) and not smoothing
        marks = () if quick else pytest.mark.slow
        yield pytest.param(classes, "C order", smoothing, marks=marks)
    for classes, smoothing in itertools.product((3, 40), (0.0, 0.1, 1.0)):
        yield pytest.param(classes, "Fortran order", smoothing, marks=pytest.mark.slow)


@pytest.mark.usefixtures("_epsilon")
@pytest.mark.parametrize(("classes", "layout", "smoothing"), list(cases()))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("normalize", ["after", "before", "never"])
@pytest.mark.parametrize("epsilon", [0, 1e-320])
def test_without_a_clip_the_definition_holds(
    epsilon, classes, layout, smoothing, normalize, dtype, engine
):
    y, p = rows(classes, dtype)
    p = STRIDES[layout](p)
    sx.config_set_epsilon(epsilon)
    options = {"normalize": normalize, "label_smoothing": smoothing}
    want, want_dx = defined(y, p, normalize=normalize, smoothing=smoothing, epsilon=epsilon)
    loss = sx.SparseCategoricalCrossentropy(reduction=None, dtype=dtype, **options)
    got, dx = loss.value_and_grad(y, p)
    assert_close(got, want, TOLERANCES[dtype], 1e-18)  # what long double has of a sum near 1
    assert_close(dx, want_dx, TOLERANCES[dtype] * 10, 1e-6 if dtype == "float32" else 1e-14)
    alone = sx.loss_sparse_categorical_crossentropy(y, p, **options)
    assert alone.tobytes() == got.tobytes()


@pytest.mark.usefixtures("_epsilon")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_without_a_clip_the_one_hot_sibling_has_its_definition(smoothing, dtype):
    y, p = rows(5, dtype)
    y, p = y[:14], p[:14]
    targets = np.eye(5, dtype=dtype)[y]
    sx.config_set_epsilon(0)
    how = {"normalize": "before", "smoothing": smoothing, "epsilon": 0}
    want, want_dx = defined(y, p, **how, targets=targets)
    loss = sx.CategoricalCrossentropy(reduction=None, dtype=dtype, label_smoothing=smoothing)
    got, dx = loss.value_and_grad(targets, p)
    assert_close(got, want, TOLERANCES[dtype])
    assert_close(dx, want_dx, TOLERANCES[dtype] * 10, 1e-6)
