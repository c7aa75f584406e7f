"""What Keras, torch, JAX, SciPy and scikit-learn say of the same loss, and where we mean to differ.

Keras picks its backend once a process, so each backend answers every case in one subprocess: this
file, run as ``python test_peers.py BACKEND ANSWERS.npz``. Cases are drawn from a seed on both
sides; only the answers travel. Keras on TensorFlow normalises probabilities after it clips them,
Keras on torch and on JAX before: each backend is held against the `normalize` of that name.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from conftest import require_peer
from scipy.special import log_softmax, logsumexp, softmax
from sklearn.metrics import log_loss

import sparse_xent as sx

#: Backend of Keras -> the `normalize` that it has.
BACKENDS = {"tensorflow": "after", "torch": "before", "jax": "before"}

SHAPES = {1: (5,), 2: (7, 4), 3: (3, 4, 5), 4: (2, 3, 2, 4), 5: (2, 2, 3, 2, 3)}  # classes last
DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
#: The peers' own error, who do all arithmetic in y_pred's dtype: (relative, absolute).
TOLERANCE = {
    "float64": (1e-10, 1e-12),
    "float32": (1e-5, 2e-6),
    "float16": (2e-2, 2e-2),
    "bfloat16": (2e-2, 1e-1),
}
REDUCTIONS = ["sum_over_batch_size", "mean", "sum", "mean_with_sample_weight", "none", None]


# --- The cases ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One call, small enough to be drawn again from its seed wherever it is needed."""

    seed: int
    rank: int
    axis: int
    dtype: str
    from_logits: bool
    ignore_class: int | None
    labels: str
    keep_axis: bool  # labels with length 1 at `axis`
    weights: str | None
    reduction: str | None

    @property
    def id(self) -> str:
        kind = "logits" if self.from_logits else "probabilities"
        ignored = "" if self.ignore_class is None else f"-ignore{self.ignore_class}"
        return (
            f"{self.seed}-rank{self.rank}-axis{self.axis}-{self.dtype}-{kind}{ignored}"
            f"-{self.labels}-weights:{self.weights}-{self.reduction}"
        )

    @property
    def object_dtype(self) -> str:
        """The dtype of the object's arithmetic: float32 for halves, so that means compare."""
        return "float64" if self.dtype == "float64" else "float32"

    def data(self) -> tuple[np.ndarray, np.ndarray, Any]:
        """The labels, the scores and the weight, classes on `axis`."""
        rng = np.random.default_rng(self.seed)
        shape = SHAPES[self.rank]
        classes = shape[-1]
        x = rng.normal(0, 2, shape)
        if not self.from_logits:
            x = np.exp(x)
            x /= x.sum(-1, keepdims=True)
            x *= np.where(rng.random((*shape[:-1], 1)) < 0.2, 3.0, 1.0)  # not normalised
            x[rng.random(shape) < 0.05] = 0.0
            certain = np.eye(classes)[rng.integers(0, classes, shape[:-1])]
            x = np.where(rng.random((*shape[:-1], 1)) < 0.15, certain, x)
            x[..., 0] += np.where(x.sum(-1) == 0, 1.0, 0.0)
        y = np.asarray(rng.integers(0, classes, shape[:-1]))
        if self.ignore_class is not None:
            y = np.where(rng.random(y.shape) < 0.3, self.ignore_class, y)
        weight: Any = {
            None: lambda: None,
            "scalar": lambda: 2.3,
            "samples": lambda: rng.random((shape[0],) + (1,) * (len(shape) - 2)),
            "labels": lambda: rng.random(shape[:-1]),
        }[self.weights]()
        y = y.astype(self.labels)
        if self.keep_axis:
            y = np.expand_dims(y, self.axis)
        return y, np.moveaxis(x, -1, self.axis).astype(DTYPES[self.dtype]), weight


def drawn(count: int) -> Iterator[Case]:
    rng = np.random.default_rng(20240607)
    for seed in range(count):
        rank = 1 + seed % 5
        ignore = [None, None, -1, 255, 1][rng.integers(5)]
        dtypes = ["float64", "float32", "float64", "float32", "float16", "bfloat16"]
        weights = None if rank == 1 else [None, "scalar", "samples", "labels"][rng.integers(4)]
        reduction = REDUCTIONS[(seed // 5) % 6]
        if reduction == "mean_with_sample_weight" and weights in ("scalar", "samples"):
            weights = "labels"  # the others differ on purpose, and have a test below
        yield Case(
            seed=seed,
            rank=rank,
            axis=int(rng.integers(-rank, rank)),
            dtype=dtypes[rng.integers(6)],
            from_logits=bool(rng.integers(2)),
            ignore_class=ignore,
            labels=["int64", "int32", "float32" if ignore == -1 else "uint8"][rng.integers(3)],
            keep_axis=rank > 1 and bool(rng.random() < 0.2),
            weights=weights,
            reduction=reduction,
        )


CASES = list(drawn(180))


def asked_of(backend: str) -> list[Case]:
    """The cases for one backend: all, but JAX compiles every operation anew for shape and dtype."""
    if backend != "jax":
        return CASES
    return [case for case in CASES if case.dtype == "float64"][::3]


SMOOTHINGS = [0.0, 0.1, 0.5, 1.0]
#: float16 losses: enough that their sum passes 65504, the largest float16.
COUNT = 70_000


def halves(from_logits: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    x = rng.normal(0, 2, (COUNT, 3))
    return rng.integers(0, 3, COUNT), (x if from_logits else softmax(x, -1)).astype(np.float16)


# One label that float16 cannot hold, and scores that tell it from its neighbour.
ODD_LABEL = np.array([2049])
ODD = np.zeros((1, 2050), np.float16)
ODD[0, 2049] = 5
# Rows of probabilities that are none, with the label that is asked for.
STRANGE = np.array([[0.5, np.inf, 0.5], [0.5, np.nan, 0.5], [0, 0, 0], [-1, 2, 0.5], [2, 3, 5]])
PAGE_LABELS = np.array([1, 2])
PAGE = np.array([[0.05, 0.95, 0], [0.1, 0.8, 0.1]])
SQUARE_LABELS = np.array([[0, 1, 2], [2, 1, 0], [1, 1, 0]])
SQUARE = np.random.default_rng(9).dirichlet(np.ones(3), (3, 3))
SQUARE_WEIGHT = np.array([1.0, 2.0, 4.0])


# --- What runs in the peer's own process ----------------------------------------------------------


def answer(backend: str) -> dict[str, np.ndarray]:
    """Everything that this file asks of Keras on one backend."""
    import keras

    assert keras.backend.backend() == backend
    value_and_grad = {
        "tensorflow": value_and_grad_tensorflow,
        "torch": value_and_grad_torch,
        "jax": value_and_grad_jax,
    }[backend]

    def out(value: Any) -> np.ndarray:
        return np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(value, "float64")))

    def function(y: Any, x: Any, **options: Any) -> np.ndarray:
        y, x = keras.ops.convert_to_tensor(y), keras.ops.convert_to_tensor(x)
        return out(keras.losses.sparse_categorical_crossentropy(y, x, **options))

    def build(**options: Any) -> Any:
        return keras.losses.SparseCategoricalCrossentropy(**options)

    answers: dict[str, np.ndarray] = {}
    for case in asked_of(backend):
        y, x, weight = case.data()
        axis = case.axis
        if backend != "torch":  # these two know the last axis only
            x = np.moveaxis(x, axis, -1)
            y = np.moveaxis(y, axis, -1) if case.keep_axis else y
            axis = -1
        elif case.rank > 1:  # its derivative wants the classes second in memory as well
            x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, axis, 1)), 1, axis)
        options = {
            "from_logits": case.from_logits,
            "ignore_class": case.ignore_class,
            "axis": axis,
        }
        answers[f"{case.id} losses"] = function(y, x, **options)
        loss = build(**options, reduction=case.reduction, dtype=case.object_dtype)
        if weight is not None and case.ignore_class is not None:
            # Keras multiplies its mask into the weight; on torch in place, so that it cannot grow.
            weight = np.broadcast_to(weight, answers[f"{case.id} losses"].shape)
        value, dx = value_and_grad(lambda x: loss(y, x, sample_weight=copy(weight)), x)  # noqa: B023
        answers[f"{case.id} value"], dx = out(value), out(dx)
        answers[f"{case.id} gradient"] = np.moveaxis(dx, -1, case.axis) if axis == -1 else dx

    for from_logits in (False, True):
        y, x = smoothing_data(from_logits)
        one_hot = keras.ops.convert_to_tensor(np.eye(x.shape[-1])[y])
        for s in SMOOTHINGS:
            answers[f"smoothing {from_logits} {s}"] = out(
                keras.losses.categorical_crossentropy(
                    one_hot,
                    keras.ops.convert_to_tensor(x),
                    from_logits=from_logits,
                    label_smoothing=s,
                )
            )

    for from_logits in (False, True):
        y, x = halves(from_logits)
        answers[f"float16 losses {from_logits}"] = function(y, x, from_logits=from_logits)
        loss = build(from_logits=from_logits, dtype="float16")
        answers[f"float16 mean {from_logits}"] = out(loss(y, x))
    loss = build(from_logits=True, dtype="float16", reduction=None)
    answers["odd label"] = out(loss(ODD_LABEL, ODD))
    answers["strange"] = function(np.zeros(len(STRANGE), int), STRANGE)
    answers["page"] = function(PAGE_LABELS, PAGE)
    answers["page float32"] = out(build(reduction=None)(PAGE_LABELS, PAGE))
    square = build(dtype="float64")
    answers["square"] = out(square(SQUARE_LABELS, SQUARE, sample_weight=SQUARE_WEIGHT))
    answers["square column"] = out(
        square(SQUARE_LABELS, SQUARE, sample_weight=SQUARE_WEIGHT[:, None])
    )
    weighted = build(dtype="float64", reduction="mean_with_sample_weight")
    answers["scalar 2.3"] = out(weighted(SQUARE_LABELS, SQUARE, sample_weight=2.3))
    return answers


def value_and_grad_tensorflow(f: Callable[[Any], Any], x: np.ndarray) -> tuple[Any, Any]:
    import tensorflow

    at = tensorflow.convert_to_tensor(x)
    with tensorflow.GradientTape() as tape:
        tape.watch(at)
        value = f(at)
    return value, tape.gradient(value, at)


def value_and_grad_torch(f: Callable[[Any], Any], x: np.ndarray) -> tuple[Any, Any]:
    import keras

    at = keras.ops.convert_to_tensor(x).detach().requires_grad_(True)
    value = f(at)
    value.sum().backward()
    return value, at.grad


def value_and_grad_jax(f: Callable[[Any], Any], x: np.ndarray) -> tuple[Any, Any]:
    import jax

    def total(at: Any) -> tuple[Any, Any]:
        value = f(at)
        return value.sum(), value

    gradient, value = jax.grad(total, has_aux=True)(jax.numpy.asarray(x))
    return value, gradient


def optax_style() -> dict[str, np.ndarray]:
    """What ``optax.softmax_cross_entropy_with_integer_labels`` computes, and JAX's derivative."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def losses_and_gradient(x: Any, y: Any) -> Any:
        def total(x: Any) -> Any:
            target = jnp.take_along_axis(x, y[..., None], -1)[..., 0]
            losses = jax.nn.logsumexp(x, -1) - target
            return losses.sum(), losses

        gradient, losses = jax.grad(total, has_aux=True)(x)
        return losses, gradient

    answers = {}
    for case in CASES:
        if case.from_logits and case.ignore_class is None and case.dtype == "float64":
            y, x = last_axis(case)
            losses, gradient = losses_and_gradient(jnp.asarray(x), jnp.asarray(y.astype(np.int32)))
            answers[f"{case.id} optax"] = np.asarray(losses)
            answers[f"{case.id} optax gradient"] = np.asarray(gradient)
    return answers


def last_axis(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores of a case, with the classes on the last axis."""
    y, x, _ = case.data()
    return (y.squeeze(case.axis) if case.keep_axis else y), np.moveaxis(x, case.axis, -1)


def smoothing_data(from_logits: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(11)
    x = rng.normal(0, 3, (4, 6, 5))
    return rng.integers(0, 5, (4, 6)), x if from_logits else np.exp(x)


if __name__ == "__main__":
    named = answer(sys.argv[1])
    if sys.argv[1] == "jax":
        named |= optax_style()
    np.savez(sys.argv[2], **named)
    sys.exit()


# --- The comparison -------------------------------------------------------------------------------

# Keras takes any scores for probabilities, so what it makes of them is compared too.
pytestmark = pytest.mark.filterwarnings("ignore:y_pred must hold")


@dataclass(frozen=True)
class Peer:
    """Keras on one backend: the `normalize` that it has, and all that it answered."""

    backend: str
    normalize: str
    answers: dict[str, np.ndarray]


def need(name: str) -> None:
    """Skip where a library is absent, without importing it: Keras would bring TensorFlow along."""
    if importlib.util.find_spec(name) is None:
        require_peer(name)


@cache
def asked(backend: str, folder: Path) -> Peer:
    """All that a backend has to say, in one process of its own."""
    for name in ("keras", backend):
        need(name)
    answers = folder / f"{backend}.npz"
    settings = {
        "KERAS_BACKEND": backend,
        "KERAS_HOME": str(folder),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",  # or JAX would round float64 to float32
    }
    run = subprocess.run(
        [sys.executable, __file__, backend, str(answers)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert run.returncode == 0, run.stderr
    with np.load(answers) as file:
        return Peer(backend, BACKENDS[backend], dict(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("peers")


@pytest.fixture(scope="module", params=BACKENDS)
def keras(request: pytest.FixtureRequest, folder: Path) -> Peer:
    return asked(request.param, folder)


each_case = pytest.mark.parametrize(
    ("keras", "case"),
    [
        pytest.param(backend, case, id=f"{backend}-{case.id}")
        for backend in BACKENDS
        for case in asked_of(backend)
    ],
    indirect=["keras"],
)


both_kinds = pytest.mark.parametrize("from_logits", [False, True], ids=["probabilities", "logits"])


def close(actual: Any, expected: Any, dtype: str) -> None:
    relative, absolute = TOLERANCE[dtype]
    actual = np.asarray(actual).astype(np.float64)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=relative, atol=absolute)


@each_case
def test_the_losses_are_keras_s(keras: Peer, case: Case) -> None:
    y, x, _ = case.data()
    losses = sx.loss_sparse_categorical_crossentropy(
        y, x, case.from_logits, case.ignore_class, case.axis, normalize=keras.normalize
    )
    assert losses.dtype == x.dtype
    close(losses, keras.answers[f"{case.id} losses"], case.dtype)


@each_case
def test_the_reduced_value_and_its_gradient_are_keras_s(keras: Peer, case: Case) -> None:
    y, x, weight = case.data()
    loss = sx.SparseCategoricalCrossentropy(
        from_logits=case.from_logits,
        ignore_class=case.ignore_class,
        axis=case.axis,
        normalize=keras.normalize,
        reduction=case.reduction,
        dtype=case.object_dtype,
    )
    value, gradient = loss.value_and_grad(y, x, sample_weight=weight)
    np.testing.assert_array_equal(value, loss(y, x, sample_weight=weight))
    assert value.dtype == case.object_dtype
    # Keras on torch divides in float32, whatever the dtype.
    divided = case.reduction not in ("sum", "none", None)
    coarse = keras.backend == "torch" and case.dtype == "float64" and divided
    close(value, keras.answers[f"{case.id} value"], "float32" if coarse else case.object_dtype)
    assert gradient.dtype == x.dtype
    close(gradient, keras.answers[f"{case.id} gradient"], "float32" if coarse else case.dtype)


def test_the_cases_meet_every_option() -> None:
    assert {case.rank for case in CASES} == {1, 2, 3, 4, 5}
    assert {(case.rank, case.axis % case.rank) for case in CASES} == {
        (rank, axis) for rank in SHAPES for axis in range(rank)
    }
    assert {case.reduction for case in CASES} == set(REDUCTIONS)
    assert {(case.dtype, case.from_logits) for case in CASES} == {
        (dtype, kind) for dtype in DTYPES for kind in (False, True)
    }
    assert {(case.weights, case.ignore_class is None) for case in CASES} == {
        (weights, none)
        for weights in (None, "scalar", "samples", "labels")
        for none in (False, True)
    }
    assert {case.labels for case in CASES} == {"int32", "int64", "uint8", "float32"}
    assert {case.keep_axis for case in CASES} == {False, True}


@pytest.mark.parametrize("s", SMOOTHINGS)
@both_kinds
def test_smoothing_is_keras_s_one_hot_loss(keras: Peer, from_logits: bool, s: float) -> None:
    y, x = smoothing_data(from_logits)
    expected = keras.answers[f"smoothing {from_logits} {s}"]
    sparse = sx.loss_sparse_categorical_crossentropy(
        y, x, from_logits, label_smoothing=s, normalize="before"
    )
    close(sparse, expected, "float64")
    dense = sx.loss_categorical_crossentropy(np.eye(5)[y], x, from_logits, s)
    close(dense, expected, "float64")
    first = sx.loss_categorical_crossentropy(
        np.moveaxis(np.eye(5)[y], -1, 0), np.moveaxis(x, -1, 0), from_logits, s, 0
    )
    close(first, expected, "float64")


# --- torch, JAX, SciPy, scikit-learn by themselves ------------------------------------------------

LOGITS = [case for case in CASES if case.from_logits and case.dtype in ("float32", "float64")]


@pytest.mark.parametrize("s", [0.0, 0.3])
@pytest.mark.parametrize(
    "case", [case for case in LOGITS if case.rank > 1], ids=lambda case: case.id
)
def test_the_logits_loss_is_torch_s(case: Case, s: float) -> None:
    torch = require_peer("torch")
    y, x = last_axis(case)
    x = np.moveaxis(x, -1, 1)  # where torch has its classes
    ignore = -100 if case.ignore_class is None else case.ignore_class
    labels = torch.from_numpy(y.astype(np.int64))

    def of_torch(at: Any, reduction: str) -> Any:
        return torch.nn.functional.cross_entropy(
            at, labels, ignore_index=ignore, label_smoothing=s, reduction=reduction
        )

    options: dict[str, Any] = {"ignore_class": ignore, "axis": 1, "label_smoothing": s}
    losses = sx.loss_sparse_categorical_crossentropy(y, x, True, **options)
    close(losses, of_torch(torch.from_numpy(x), "none").numpy(), case.dtype)

    at = torch.from_numpy(x).requires_grad_(True)
    mean = of_torch(at, "mean")
    mean.backward()
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, dtype=case.dtype, **options)
    value, gradient = loss.value_and_grad(y, x)
    close(value, mean.detach().numpy(), case.dtype)
    close(gradient, at.grad.numpy(), case.dtype)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_class_weights_are_torch_s_and_its_mean_divides_by_them(reduction: str) -> None:
    torch = require_peer("torch")
    rng = np.random.default_rng(3)
    y, x, weight = rng.integers(0, 4, (5, 6)), rng.normal(size=(5, 4, 6)), rng.random(4)
    y[rng.random(y.shape) < 0.2] = -100
    at = torch.from_numpy(x).requires_grad_(True)
    expected = torch.nn.functional.cross_entropy(
        at, torch.from_numpy(y), weight=torch.from_numpy(weight), reduction=reduction
    )
    expected.sum().backward()

    options: dict[str, Any] = {
        "from_logits": True,
        "ignore_class": -100,
        "axis": 1,
        "dtype": "float64",
    }
    if reduction == "mean":  # torch divides by the sum of the weights
        loss = sx.SparseCategoricalCrossentropy(**options, reduction="mean_with_sample_weight")
        value, gradient = loss.value_and_grad(y, x, sample_weight=weight[y % 4])
    else:
        loss = sx.SparseCategoricalCrossentropy(**options, reduction=reduction, class_weight=weight)
        value, gradient = loss.value_and_grad(y, x)
    close(value, expected.detach().numpy(), "float64")
    close(gradient, at.grad.numpy(), "float64")


def test_masked_classes_are_torch_s() -> None:
    torch = require_peer("torch")
    x = np.random.default_rng(4).normal(size=(6, 5))
    x[:, 2] = -np.inf
    x[4, :2] = -np.inf
    y = np.array([0, 1, 3, 4, 3, 2])  # the last label is masked itself
    at = torch.from_numpy(x).requires_grad_(True)
    losses = torch.nn.functional.cross_entropy(at, torch.from_numpy(y), reduction="none")
    losses.sum().backward()
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, reduction=None, dtype="float64")
    value, gradient = loss.value_and_grad(y, x)
    assert value[5] == np.inf
    close(value, losses.detach().numpy(), "float64")
    close(gradient, at.grad.numpy(), "float64")


def test_the_logits_loss_and_gradient_are_optax_s(folder: Path) -> None:
    jax = asked("jax", folder)
    cases = [case for case in LOGITS if f"{case.id} optax" in jax.answers]
    assert {case.rank for case in cases} >= {2, 3, 4, 5}
    for case in cases:
        y, x = last_axis(case)
        loss = sx.SparseCategoricalCrossentropy(from_logits=True, reduction=None, dtype=case.dtype)
        value, gradient = loss.value_and_grad(y, x)
        close(value, jax.answers[f"{case.id} optax"], case.dtype)
        close(gradient, jax.answers[f"{case.id} optax gradient"], case.dtype)


@pytest.mark.parametrize("case", LOGITS, ids=lambda case: case.id)
def test_the_logits_loss_is_scipy_s(case: Case) -> None:
    y, x = last_axis(case)
    kept = np.ones(y.shape, bool) if case.ignore_class is None else y != case.ignore_class
    target = np.where(kept, y, 0).astype(int)[..., None]
    expected = -np.take_along_axis(log_softmax(x, -1), target, -1)[..., 0]
    losses = sx.loss_sparse_categorical_crossentropy(y, x, True, case.ignore_class)
    close(losses, np.where(kept, expected, 0), case.dtype)
    np.testing.assert_array_equal(np.asarray(losses)[~kept], 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("normalize", ["after", "before", "never"])
def test_the_probability_loss_is_scikit_learn_s(dtype: str, weighted: bool, normalize: str) -> None:
    rng = np.random.default_rng(8)
    p = rng.dirichlet(np.ones(6), 500).clip(1e-4).astype(dtype)
    p /= p.sum(1, keepdims=True)
    y = rng.integers(0, 6, 500)
    weight = rng.random(500) if weighted else None
    loss = sx.SparseCategoricalCrossentropy(
        normalize=normalize, reduction="mean_with_sample_weight", dtype=dtype
    )
    expected = log_loss(y, p, labels=range(6), sample_weight=weight)
    # Rows sum to one only to the dtype's own precision, which "never" takes at its word.
    close(loss(y, p, sample_weight=weight), np.float64(expected), dtype)


# --- Where we differ, and mean to -----------------------------------------------------------------


def test_the_manual_page_s_figure_tells_after_from_before(keras: Peer) -> None:
    expected = {"after": 0.05129339, "before": 0.05129329}[keras.normalize]
    np.testing.assert_allclose(keras.answers["page"][0], expected, rtol=0, atol=5e-9)
    for normalize, figure in {"after": 0.05129339, "before": 0.05129329}.items():
        ours = sx.loss_sparse_categorical_crossentropy(PAGE_LABELS, PAGE, normalize=normalize)
        np.testing.assert_allclose(ours[0], figure, rtol=0, atol=5e-9)


def test_in_float32_ours_is_the_nearer_to_the_manual_page(keras: Peer) -> None:
    exact = sx.loss_sparse_categorical_crossentropy(PAGE_LABELS, PAGE, normalize=keras.normalize)
    loss = sx.SparseCategoricalCrossentropy(reduction=None, normalize=keras.normalize)
    ours = loss(PAGE_LABELS, PAGE)
    assert ours.dtype == np.float32
    theirs = keras.answers["page float32"]
    np.testing.assert_allclose(ours, theirs, rtol=2e-6)
    assert np.all(abs(ours - exact) <= abs(theirs - exact))
    if keras.backend == "tensorflow":
        assert f"{np.float32(theirs[0]):.8f}" == "0.05129344"


def test_strange_probabilities_are_keras_s_on_tensorflow_and_jax(keras: Peer) -> None:
    ours = sx.loss_sparse_categorical_crossentropy(
        np.zeros(len(STRANGE), int), STRANGE, normalize=keras.normalize
    )
    theirs = keras.answers["strange"]
    if keras.normalize == "after":
        np.testing.assert_allclose(ours[[0, 2, 4]], [1.3862943, np.log(3), 1.0986123], rtol=1e-7)
    else:
        assert np.isnan(ours[:3]).all()  # a sum of inf, NaN or 0
    if keras.backend == "torch":
        # It reads the label's own share: .5 / inf is 0, clipped to eps, and looks like a loss.
        np.testing.assert_allclose(theirs[0], -np.log(1e-7))
        ours, theirs = ours[1:], theirs[1:]
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def exact_losses(y: np.ndarray, x: np.ndarray, from_logits: bool, normalize: str) -> np.ndarray:
    """The losses of float16 scores as the definition has them, in float64."""
    x = x.astype(np.float64)
    t = np.arange(len(x)), y
    if from_logits:
        return logsumexp(x, -1) - x[t]
    if normalize == "before":
        x = x / x.sum(-1, keepdims=True)
    q = x.clip(1e-7, 1 - 1e-7)
    total = q.sum(-1) if normalize == "after" else 1.0
    return np.log(total) - np.log(q[t])


@both_kinds
def test_float16_losses_are_the_exact_ones_rounded_where_keras_s_are_not(
    keras: Peer, from_logits: bool
) -> None:
    y, x = halves(from_logits)
    exact = exact_losses(y, x, from_logits, keras.normalize)
    ours = sx.loss_sparse_categorical_crossentropy(y, x, from_logits, normalize=keras.normalize)
    assert ours.dtype == np.float16
    # float32's own error may carry a loss over the middle between two float16 numbers, seldom.
    nearest = exact.astype(np.float16)
    assert np.mean(ours != nearest) < 1e-3
    np.testing.assert_allclose(ours, exact, rtol=2**-11 + 1e-5, atol=6e-8)
    theirs = np.mean(keras.answers[f"float16 losses {from_logits}"] != nearest)
    if keras.backend == "tensorflow" and from_logits:  # its own operation works in float32
        assert theirs < 1e-3
    else:
        assert theirs > 0.1


@both_kinds
def test_a_float16_mean_of_many_losses_is_right_where_keras_s_is_none(
    keras: Peer, from_logits: bool
) -> None:
    y, x = halves(from_logits)
    loss = sx.SparseCategoricalCrossentropy(
        from_logits=from_logits, normalize=keras.normalize, dtype="float16"
    )
    value = loss(y, x)
    assert value.dtype == np.float16
    assert value == np.float16(np.mean(exact_losses(y, x, from_logits, keras.normalize)))
    assert np.isnan(keras.answers[f"float16 mean {from_logits}"])


def test_label_2049_stays_2049_where_keras_makes_it_2048(keras: Peer) -> None:
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, dtype="float16", reduction=None)
    total = np.log(2049 + np.exp(5.0))
    np.testing.assert_allclose(loss(ODD_LABEL, ODD), [total - 5], rtol=1e-3)
    np.testing.assert_allclose(keras.answers["odd label"], [total], rtol=1e-2)
    with pytest.raises((TypeError, ValueError), match="2048"):
        loss(ODD_LABEL.astype(np.float16), ODD)


def test_a_weight_for_each_sample_weighs_samples_where_keras_weighs_time_steps(keras: Peer) -> None:
    loss = sx.SparseCategoricalCrossentropy(dtype="float64", normalize=keras.normalize)
    samples = loss(SQUARE_LABELS, SQUARE, sample_weight=SQUARE_WEIGHT)
    steps = loss(SQUARE_LABELS, SQUARE, sample_weight=SQUARE_WEIGHT[None, :])
    np.testing.assert_allclose(samples, keras.answers["square column"], rtol=1e-6)
    np.testing.assert_allclose(steps, keras.answers["square"], rtol=1e-6)
    assert abs(samples - steps) > 1e-2


def test_a_scalar_weight_leaves_the_weighted_mean_where_keras_sums(keras: Peer) -> None:
    options: dict[str, Any] = {"dtype": "float64", "normalize": keras.normalize}
    weighted = sx.SparseCategoricalCrossentropy(**options, reduction="mean_with_sample_weight")
    mean = sx.SparseCategoricalCrossentropy(**options)(SQUARE_LABELS, SQUARE)
    total = sx.SparseCategoricalCrossentropy(**options, reduction="sum")(SQUARE_LABELS, SQUARE)
    np.testing.assert_allclose(weighted(SQUARE_LABELS, SQUARE, sample_weight=2.3), mean, rtol=1e-14)
    np.testing.assert_allclose(keras.answers["scalar 2.3"], total, rtol=1e-6)


def test_a_tiny_loss_is_kept_where_scipy_and_torch_give_0() -> None:
    torch = require_peer("torch")
    x = np.array([[20, 0, 0]], np.float32)
    assert log_softmax(x, -1)[0, 0] == 0
    assert torch.nn.functional.cross_entropy(torch.from_numpy(x), torch.tensor([0])) == 0
    ours = sx.loss_sparse_categorical_crossentropy([0], x, True)
    np.testing.assert_allclose(ours, [np.log1p(2 * np.exp(-20.0))], rtol=1e-5)


def test_nothing_kept_is_0_where_torch_gives_nan() -> None:
    torch = require_peer("torch")
    x = np.zeros((2, 3))
    theirs = torch.nn.functional.cross_entropy(torch.from_numpy(x), torch.tensor([-100, -100]))
    assert torch.isnan(theirs)
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-100)
    value, gradient = loss.value_and_grad([-100, -100], x)
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros((2, 3)))
