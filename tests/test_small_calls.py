"""A small call of several chunks, which one C function does, gives what tasks on threads give."""

import warnings

import inside
import numpy as np
import pytest
from conftest import REDUCTIONS

import sparse_xent as sx

CHUNK, TASK, SMALL = 1 << 11, 1 << 12, 1 << 20  # bytes
SHAPES = {"tiles": (700, 7), "batches": (150, 40), "rows": (9, 600), "3-D": (20, 11, 30)}


def laid(rng, name, kind, dtype="float32"):
    """Labels and scores."""
    shape = SHAPES[name]
    x = rng.normal(0, 3, shape)
    x = x if kind == "logits" else np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    return rng.integers(0, shape[-1], shape[:-1]), x.astype(dtype)


def outcome(monkeypatch, call, small):
    """The bytes of what a call gives, what it warns of, and its error."""
    with monkeypatch.context() as patched, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        inside.cut_small(patched.setattr, CHUNK, TASK, SMALL if small else 0)
        if small:
            inside.refuse_tasks(patched.setattr)
        try:
            made, error = call(), None
        except ValueError as raised:
            made, error = (), str(raised)
    made = made if isinstance(made, tuple) else (made,)
    return [np.asarray(m).tobytes() for m in made], [str(w.message) for w in said], error


def agree(monkeypatch, *calls):
    for call in calls:
        assert outcome(monkeypatch, call, True) == outcome(monkeypatch, call, False)


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
@pytest.mark.parametrize("weights", ["none", "all", "classes", "zero"])
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
@pytest.mark.parametrize("name", SHAPES)
def test_bits_are_those_of_tasks(name, kind, weights, reduction, monkeypatch):
    rng = np.random.default_rng(1)
    y, x = laid(rng, name, kind)
    y.flat[::3] = 255
    options = {"from_logits": kind == "logits", "ignore_class": 255}
    if weights == "classes":
        options["class_weight"] = rng.uniform(0.5, 2, x.shape[-1])
    w = {"all": rng.uniform(0, 2, y.shape), "zero": np.zeros(y.shape)}.get(weights)
    loss = sx.SparseCategoricalCrossentropy(reduction=reduction, **options)
    agree(
        monkeypatch,
        lambda: sx.loss_sparse_categorical_crossentropy(y, x, **options),
        lambda: loss(y, x, w),
        lambda: loss.value_and_grad(y, x, w),
        lambda: loss.value_and_grad(y, x.copy(), w, out=np.empty_like(x)),
    )


@pytest.mark.parametrize("at", [0, 300, -1])
@pytest.mark.parametrize("what", ["label", "weight", "probability", "factor"])
def test_what_is_wrong_in_any_chunk_is_said_alike(what, at, monkeypatch):
    rng = np.random.default_rng(2)
    y, x = laid(rng, "tiles", "logits" if what == "factor" else "probabilities")
    w = np.ones(y.shape)
    if what == "label":
        y[at] = 7
    if what == "probability":
        x[at, 2] = 1.5
    if what in ("weight", "factor"):
        w[at] = np.nan if what == "weight" else 1e35  # beyond what kernels multiply by in float32
    loss = sx.SparseCategoricalCrossentropy(from_logits=what == "factor")
    _, said, error = outcome(monkeypatch, lambda: loss(y, x, w), True)
    place = f" at ({at % len(y)},"
    assert what == "factor" or place in (error or said[0])
    agree(monkeypatch, lambda: loss(y, x, w), lambda: loss.value_and_grad(y, x, w))


def test_nothing_of_a_gradient_is_written_before_all_labels_are_known(monkeypatch):
    y, x = laid(np.random.default_rng(3), "tiles", "logits")
    y[-1] = -1
    out = np.full_like(x, 7)
    loss = sx.SparseCategoricalCrossentropy(from_logits=True)
    outcome(monkeypatch, lambda: loss.value_and_grad(y, x, out=out), True)
    assert (out == 7).all()
