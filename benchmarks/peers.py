"""Who else computes the same, each as its own documentation would have it done.

Inputs are converted beforehand, which flatters the others: only the computation is timed. Keras,
whose backend is chosen once a process, runs in worker processes (`keras_worker`) that take their
turns like everyone else.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import sparse_xent as sx
from benchmarks.answers import EPSILON, answer
from benchmarks.clock import Local
from benchmarks.workloads import AFTER, FORWARD, GRADIENT, IN_PLACE, OURS, PER_LABEL, Workload

#: Module -> the distributions that bring it.
LIBRARIES = {
    "torch": ["torch"],
    "jax": ["jax"],
    "keras": ["keras"],
    "tensorflow": ["tensorflow", "tensorflow-cpu"],
    "sklearn": ["scikit-learn"],
    "scipy": ["scipy"],
    "numpy": ["numpy"],
    "numba": ["numba"],
}


def versions() -> dict[str, str]:
    """Distribution -> its version, of the libraries that are there."""
    found = {OURS: sx.__version__}
    for names in LIBRARIES.values():
        for name in names:
            try:
                found[name] = importlib.metadata.version(name)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return found


def absent() -> list[str]:
    """The libraries that are not there."""
    return [name for name in LIBRARIES if not is_there(name)]


def is_there(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _load(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, while it is imported, are not ours to mend
        return importlib.import_module(name)


Maker = Callable[[Workload, str, np.ndarray, np.ndarray, int], Callable[[], object] | None]


def ours(
    workload: Workload, verbs: list[str], y: np.ndarray, x: np.ndarray, out: np.ndarray | None
) -> Iterator[Local]:
    """sparse_xent by its public names, one candidate a verb; gradients go into `out`."""
    loss = sx.SparseCategoricalCrossentropy(**workload.options)
    per_label = partial(sx.loss_sparse_categorical_crossentropy, y, x, **workload.options)
    calls: dict[str, Callable[[], object]] = {
        FORWARD: lambda: loss(y, x),
        PER_LABEL: per_label,
        GRADIENT: lambda: loss.value_and_grad(y, x, out=out),
        IN_PLACE: lambda: loss.value_and_grad(y, out, out=out),
    }
    kept = max(1, int(np.sum(y != workload.ignore_class)))
    for verb in verbs:
        candidate = Local(OURS, verb, calls[verb], partial(answer, workload, verb))
        if verb == PER_LABEL:
            candidate.read = lambda losses: answer(workload, PER_LABEL, losses) / kept
        if verb == IN_PLACE:
            candidate.before = partial(np.copyto, out, x)
        yield candidate
    if FORWARD in verbs and workload.normalize == "never":
        after = sx.SparseCategoricalCrossentropy(**{**workload.options, "normalize": "after"})
        yield Local(AFTER, FORWARD, lambda: after(y, x), partial(answer, workload, FORWARD))


def others(
    workload: Workload, verb: str, y: np.ndarray, x: np.ndarray, threads: int
) -> Iterator[tuple[str, Callable[[], Local | None]]]:
    """(name, what makes the candidate) of who is there; None is made where it has no such loss."""

    def candidate(name: str, make: Maker) -> Local | None:
        run = make(workload, verb, y, x, threads)
        return run and Local(name, verb, run, partial(answer, workload, verb))

    for name, library, make in _MAKERS:
        if is_there(library):
            yield name, partial(candidate, name, make)


# --- torch ---------------------------------------------------------------------------------------


def _torch(
    workload: Workload, verb: str, y: np.ndarray, x: np.ndarray, threads: int
) -> Callable[[], object]:
    torch = _load("torch")
    torch.set_num_threads(threads)
    if workload.dtype == "bfloat16":
        scores = torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    else:
        scores = torch.from_numpy(x)
    labels = torch.from_numpy(y)
    ignore = -100 if workload.ignore_class is None else workload.ignore_class

    def loss(scores: Any) -> Any:
        if workload.from_logits:
            if workload.axis == -1 and scores.ndim > 2:  # its classes are the second axis
                scores = scores.movedim(-1, 1)
            return torch.nn.functional.cross_entropy(scores, labels, ignore_index=ignore)
        q = scores.gather(-1, labels[:, None])[:, 0] if workload.normalize == "never" else scores
        q = q.clamp(EPSILON, 1 - EPSILON)
        if workload.normalize == "never":
            return -q.log().mean()
        return (q.sum(-1).log() - q.gather(-1, labels[:, None])[:, 0].log()).mean()

    if verb == FORWARD:

        def forward() -> object:
            with torch.no_grad():
                return loss(scores)

        return forward

    def value_and_grad() -> object:
        leaf = scores.detach().requires_grad_()
        value = loss(leaf)
        value.backward()
        return value, leaf.grad

    return value_and_grad


# --- JAX -----------------------------------------------------------------------------------------


def _jax(
    workload: Workload, verb: str, y: np.ndarray, x: np.ndarray, threads: int
) -> Callable[[], object]:
    jax = _load("jax")
    jnp = _load("jax.numpy")
    jax.config.update("jax_enable_x64", True)
    scores, labels = jnp.asarray(x), jnp.asarray(y.astype(np.int32))
    axis = workload.axis

    def loss(scores: Any, labels: Any) -> Any:
        """As in optax, softmax_cross_entropy_with_integer_labels()."""
        safe = labels
        if workload.ignore_class is not None:
            kept = labels != workload.ignore_class
            safe = jnp.where(kept, labels, 0)

        def pick(of: Any) -> Any:
            return jnp.take_along_axis(of, jnp.expand_dims(safe, axis), axis=axis).squeeze(axis)

        if workload.from_logits:
            losses = jax.nn.logsumexp(scores, axis=axis) - pick(scores)
        elif workload.normalize == "never":
            losses = -jnp.log(jnp.clip(pick(scores), EPSILON, 1 - EPSILON))
        else:
            q = jnp.clip(scores, EPSILON, 1 - EPSILON)
            losses = jnp.log(q.sum(axis=axis)) - jnp.log(pick(q))
        if workload.ignore_class is None:
            return losses.mean()
        return jnp.where(kept, losses, 0).sum() / kept.sum()

    compiled = jax.jit(loss if verb == FORWARD else jax.value_and_grad(loss))
    return lambda: jax.block_until_ready(compiled(scores, labels))


# --- NumPy and SciPy -----------------------------------------------------------------------------


def _plain(
    logsumexp: Callable[[np.ndarray, int], np.ndarray],
    softmax: Callable[[np.ndarray, int], np.ndarray],
    workload: Workload,
    verb: str,
    y: np.ndarray,
    x: np.ndarray,
) -> Callable[[], object]:
    axis, never = workload.axis, workload.normalize == "never"
    at = np.expand_dims(np.where(y == workload.ignore_class, 0, y), axis)
    kept = y != workload.ignore_class
    every, count = kept.all(), kept.sum()

    def mean(losses: np.ndarray) -> Any:
        return losses.mean() if every else losses[kept].mean()

    def pick(of: np.ndarray) -> np.ndarray:
        return np.take_along_axis(of, at, axis).squeeze(axis)

    def forward() -> object:
        scores = x.astype(np.float32) if x.dtype.itemsize == 2 else x
        if workload.from_logits:
            return mean(logsumexp(scores, axis) - pick(scores))
        if never:
            return mean(-np.log(np.clip(pick(scores), EPSILON, 1 - EPSILON)))
        q = np.clip(scores, EPSILON, 1 - EPSILON)
        return mean(np.log(q.sum(axis=axis)) - np.log(pick(q)))

    def value_and_grad() -> object:
        scores = x.astype(np.float32) if x.dtype.itemsize == 2 else x
        if workload.from_logits:
            p = softmax(scores, axis)
            value = mean(-np.log(pick(p)))
            np.put_along_axis(p, at, np.take_along_axis(p, at, axis) - 1, axis)
        else:
            q = np.clip(scores, EPSILON, 1 - EPSILON)
            sums, target = q.sum(axis=axis, keepdims=True), np.take_along_axis(q, at, axis)
            value = mean((np.log(sums) - np.log(target)).squeeze(axis))
            p = np.broadcast_to(1 / sums, q.shape).copy()
            np.put_along_axis(p, at, np.take_along_axis(p, at, axis) - 1 / target, axis)
            p *= q == scores
        p /= count
        if not every:
            np.moveaxis(p, axis, -1)[~kept] = 0
        return value, p

    return forward if verb == FORWARD else value_and_grad


def _numpy(
    workload: Workload, verb: str, y: np.ndarray, x: np.ndarray, threads: int
) -> Callable[[], object]:
    def logsumexp(x: np.ndarray, axis: int) -> np.ndarray:
        m = x.max(axis=axis, keepdims=True)
        return np.log(np.exp(x - m).sum(axis=axis)) + m.squeeze(axis)

    def softmax(x: np.ndarray, axis: int) -> np.ndarray:
        e = np.exp(x - x.max(axis=axis, keepdims=True))
        e /= e.sum(axis=axis, keepdims=True)
        return e

    return _plain(logsumexp, softmax, workload, verb, y, x)


def _scipy(
    workload: Workload, verb: str, y: np.ndarray, x: np.ndarray, threads: int
) -> Callable[[], object] | None:
    if not workload.from_logits:
        return None  # it has no words for it
    special = _load("scipy.special")
    return _plain(
        lambda x, axis: special.logsumexp(x, axis=axis),
        lambda x, axis: special.softmax(x, axis=axis),
        workload,
        verb,
        y,
        x,
    )


# --- scikit-learn --------------------------------------------------------------------------------


def _log_loss(
    workload: Workload, verb: str, y: np.ndarray, x: np.ndarray, threads: int
) -> Callable[[], object] | None:
    if workload.from_logits or verb != FORWARD or not (workload.is_r_matrix or workload.is_tiny):
        return None
    log_loss = _load("sklearn.metrics").log_loss
    classes = np.arange(workload.classes)
    return lambda: log_loss(y, x, labels=classes)


def _half_multinomial(
    workload: Workload, verb: str, y: np.ndarray, x: np.ndarray, threads: int
) -> Callable[[], object] | None:
    if not (workload.from_logits and workload.is_r_matrix):
        return None
    loss = _load("sklearn._loss").HalfMultinomialLoss(n_classes=workload.classes)
    y = y.astype(x.dtype)
    if verb == FORWARD:
        return lambda: loss(y_true=y, raw_prediction=x, n_threads=threads)
    weights = np.full(len(y), 1 / len(y))  # its gradient is not divided otherwise

    def value_and_grad() -> object:
        losses, gradient = loss.loss_gradient(
            y_true=y, raw_prediction=x, sample_weight=weights, n_threads=threads
        )
        return losses.sum(), gradient

    return value_and_grad


_MAKERS: list[tuple[str, str, Maker]] = [
    ("torch", "torch", _torch),
    ("jax.jit", "jax", _jax),
    ("numpy", "numpy", _numpy),
    ("scipy", "scipy", _scipy),
    ("log_loss", "sklearn", _log_loss),
    ("HalfMultinomialLoss", "sklearn", _half_multinomial),
]


def quieten() -> None:
    """Frameworks greet their users on stderr; set before any of them is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
