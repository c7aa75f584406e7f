"""`value_and_grad` gives the bits that the call gives, whatever out, reduction and weights are."""

import inside
import numpy as np
import pytest
from conftest import REDUCTIONS, SHAPES, STRIDES

import sparse_xent as sx

SIZES = (0.0, 1e-45, 1e-38, 1e-31, 1.0, 1.0, 1e29, 1e31, 1e35, 1e200, np.inf)


@pytest.fixture(autouse=True)
def _cut_small(engine, monkeypatch):
    """Many chunks of few positions, for helper threads too."""
    inside.cut_small(monkeypatch.setattr, 1 << 11, 1 << 12)


def laid(r, x):
    return STRIDES[r.choice(list(STRIDES))](x)


def weights(r, losses):
    """None, or weights of a few sizes, of the losses' shape or of the first axis alone."""
    if r.random() < 0.2:
        return None
    some = r.choice(SIZES, size=2)
    shape = losses if r.random() < 0.7 else losses[:1]
    w = r.choice(some, size=shape) * r.uniform(0.5, 2, shape)
    with np.errstate(all="ignore"):
        return w.astype(r.choice(("float64", "float32")))


def compare(seed, calls):
    r = np.random.default_rng(seed)
    for k in range(calls):
        shape, axis = SHAPES[r.choice(list(SHAPES))]
        dtype = r.choice(("float32", "float32", "float64", "float16"))
        logits = bool(r.integers(2)) or dtype == "float16"
        x = r.normal(0, 3, shape)
        x = laid(r, (x if logits else 1 / (1 + np.exp(-x))).astype(dtype))
        losses = tuple(np.delete(shape, axis))
        y = r.integers(0, shape[axis], losses)
        options = {
            "from_logits": logits,
            "label_smoothing": 0.1 if dtype == "float32" and r.random() < 0.3 else 0.0,
            "reduction": REDUCTIONS[r.integers(len(REDUCTIONS))],
            "dtype": r.choice(("float32", "float64", "float16", "bfloat16")),
            "axis": axis,
            "ignore_class": 1 if r.random() < 0.3 else None,
        }
        loss, w = sx.SparseCategoricalCrossentropy(**options), weights(r, losses)
        out = (None, laid(r, x), x)[r.integers(3)]
        want = loss(y, x, w)
        got, _ = loss.value_and_grad(y, x, w, out=out)
        assert np.asarray(got).dtype == np.asarray(want).dtype
        assert np.asarray(got).tobytes() == np.asarray(want).tobytes(), (
            f"call {k}: {dtype}{x.shape} strides {x.strides}, out "
            f"{None if out is None else out.strides}, weights "
            f"{None if w is None else (w.dtype, w.min(), w.max())}, {options}: {got} not {want}"
        )


@pytest.mark.seconds(600)  # where the kernels are still to be compiled
def test_a_gradient_s_value_has_the_bits_of_the_call():
    compare(1, 500)


@pytest.mark.slow
def test_a_gradient_s_value_has_the_bits_of_the_call_in_many_calls():
    compare(2, 6000)
