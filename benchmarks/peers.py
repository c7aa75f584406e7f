"""Who else computes the same, each as its own documentation would have it done.

Inputs are converted beforehand, which flatters the others: only the computation is timed. A
gradient is asked for twice: into a new array (GRADIENT), as each library gives it by itself, and
into one that is kept from call to call (INTO), by the fastest way that the library has; Keras and
SciPy have none. Keras, whose backend is chosen once a process, runs in worker processes
(`keras_worker`) that take their turns like everyone else.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

import sparse_xent as sx
from benchmarks.answers import EPSILON, answer
from benchmarks.clock import Local
from benchmarks.workloads import (
    AFTER,
    FORWARD,
    GRADIENT,
    IN_PLACE,
    INTO,
    OURS,
    PER_LABEL,
    Workload,
)

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
    "ml_dtypes": ["ml_dtypes"],  # not to compare with: without it bfloat16 is left out
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
    """sparse_xent by its public names, one candidate a verb; `out` serves INTO and IN_PLACE."""
    loss = sx.SparseCategoricalCrossentropy(**workload.options)
    per_label = partial(sx.loss_sparse_categorical_crossentropy, y, x, **workload.options)
    calls: dict[str, Callable[[], object]] = {
        FORWARD: lambda: loss(y, x),
        PER_LABEL: per_label,
        GRADIENT: lambda: loss.value_and_grad(y, x),
        INTO: lambda: loss.value_and_grad(y, x, out=out),
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
        if run is None:
            return None
        note = (run.__doc__ or "").rstrip(".")  # how it is done, where that is not plain
        return Local(name, verb, run, partial(answer, workload, verb), note=note)

    for name, library, make in _MAKERS:
        if is_there(library):
            yield name, partial(candidate, name, make)


# --- torch ---------------------------------------------------------------------------------------


def _torch(
    workload: Workload, verb: str, y: np.ndarray, x: np.ndarray, threads: int
) -> Callable[[], object]:
    torch = _load("torch")
    torch.set_num_threads(threads)
    scores, labels = _tensor(x), torch.from_numpy(y)
    if verb == INTO:
        return _fastest(_torch_into(workload, labels, scores))
    return _torch_call(_torch_loss(workload), verb, labels, scores)


def _torch_compile(
    workload: Workload, verb: str, y: np.ndarray, x: np.ndarray, threads: int
) -> Callable[[], object]:
    torch = _load("torch")
    torch.set_num_threads(threads)
    torch.compiler.reset()  # it compiles one function for so many shapes only
    compiled = partial(torch.compile, fullgraph=True, dynamic=False)
    scores, labels = _tensor(x), torch.from_numpy(y)
    by_autograd = _torch_call(compiled(_torch_loss(workload)), verb, labels, scores)
    if verb == FORWARD:
        return by_autograd
    formula = _torch_formula(workload)
    if verb == GRADIENT:
        return _fastest([by_autograd, _torch_call(compiled(formula), FORWARD, labels, scores)])

    def fill(scores: Any, labels: Any, out: Any) -> Any:
        value, gradient = formula(scores, labels)
        out.copy_(gradient)
        return value

    filled, out = compiled(fill), torch.zeros_like(scores)

    def into() -> object:
        """The gradient's formula, copied into out."""
        with torch.no_grad():
            return filled(scores, labels, out), out

    return into


def _torch_call(
    call: Callable[[Any, Any], Any], verb: str, labels: Any, scores: Any
) -> Callable[[], object]:
    """The call alone, or with the gradient that autograd makes."""
    torch = _load("torch")

    def forward() -> object:
        with torch.no_grad():
            return call(scores, labels)

    def value_and_grad() -> object:
        leaf = scores.detach().requires_grad_()
        value = call(leaf, labels)
        value.backward()
        return value, leaf.grad

    return forward if verb == FORWARD else value_and_grad


def _torch_loss(workload: Workload) -> Callable[[Any, Any], Any]:
    torch, ignored = _load("torch"), _torch_ignored(workload)

    def loss(scores: Any, labels: Any) -> Any:
        if workload.from_logits:
            if workload.axis == -1 and scores.ndim > 2:  # its classes are the second axis
                scores = scores.movedim(-1, 1)
            return torch.nn.functional.cross_entropy(scores, labels, ignore_index=ignored)
        q = scores.gather(-1, labels[:, None])[:, 0] if workload.normalize == "never" else scores
        q = q.clamp(EPSILON, 1 - EPSILON)
        if workload.normalize == "never":
            return -q.log().mean()
        return (q.sum(-1).log() - q.gather(-1, labels[:, None])[:, 0].log()).mean()

    return loss


def _torch_ignored(workload: Workload) -> int:
    return -100 if workload.ignore_class is None else workload.ignore_class


def _torch_formula(workload: Workload) -> Callable[[Any, Any], tuple[Any, Any]]:
    """The value and its gradient in one function, for a compiler to fuse."""
    torch, ignored = _load("torch"), _torch_ignored(workload)
    axis, wide = workload.axis, workload.dtype in ("float32", "float64")
    along = [1] * len(workload.shape)
    along[axis] = workload.classes

    def value_and_grad(scores: Any, labels: Any) -> tuple[Any, Any]:
        x = scores if wide else scores.float()
        kept = labels != ignored
        at = torch.where(kept, labels, 0).unsqueeze(axis)
        share = (kept / kept.sum()).to(x.dtype).unsqueeze(axis)
        is_target = torch.arange(workload.classes).view(along) == at
        if workload.from_logits:
            total = torch.logsumexp(x, axis, keepdim=True)
            losses = total - x.gather(axis, at)
            gradient = (torch.exp(x - total) - is_target.to(x.dtype)) * share
        else:
            q = x.clamp(EPSILON, 1 - EPSILON)
            sums, target = q.sum(axis, keepdim=True), q.gather(axis, at)
            losses = sums.log() - target.log()
            slope = 1 / sums - torch.where(is_target, 1 / target, 0)
            gradient = torch.where(q == x, slope * share, 0)
        return (losses * share).sum(), gradient.to(scores.dtype)

    return value_and_grad


def _tensor(x: np.ndarray) -> Any:
    """The same memory as a tensor; bfloat16, which torch takes from no array, by its bits."""
    torch = _load("torch")
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def _fastest(calls: list[Callable[[], object]]) -> Callable[[], object]:
    """The one whose second call takes the least."""

    def seconds(call: Callable[[], object]) -> float:
        call()
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return min(calls, key=seconds) if len(calls) > 1 else calls[0]


def _torch_into(workload: Workload, labels: Any, scores: Any) -> list[Callable[[], object]]:
    """Value and gradient in tensors that are kept: autograd has no out=, its kernels have."""
    torch = _load("torch")
    out, axis, ignore = torch.zeros_like(scores), workload.axis, _torch_ignored(workload)
    kept = labels != ignore
    at, count = torch.where(kept, labels, 0).unsqueeze(axis), max(1, int(kept.sum()))
    every = count == labels.numel()

    def mean(losses: Any) -> Any:
        return losses.mean() if every else losses.squeeze(axis)[kept].mean()

    def by_softmax() -> object:
        """Softmax(out=) and its target lowered by 1."""
        torch.softmax(scores, axis, out=out)
        value = mean(-out.gather(axis, at).log())
        out.scatter_add_(axis, at, minus_one)
        out.mul_(share)
        return value, out

    def by_kernels() -> object:
        """The kernels of cross_entropy, each with out=."""
        aten = torch.ops.aten
        torch._log_softmax(of, 1, False, out=logs)
        value, total = nll(logs, labels, None, 1, ignore)
        nll_backward(one, logs, labels, None, 1, ignore, total, grad_input=inner)
        aten._log_softmax_backward_data.out(inner, logs, 1, scores.dtype, out=into)
        return value, into.movedim(1, -1) if second else into

    def of_probabilities() -> object:
        """Clamp(out=), then div(out=)."""
        torch.clamp(scores, EPSILON, 1 - EPSILON, out=out)
        sums, target = out.sum(axis, keepdim=True), out.gather(axis, at)
        torch.eq(out, scores, out=inside)
        torch.div(inside, count * sums, out=out)
        out.scatter_add_(axis, at, inside.gather(axis, at) / (-count * target))
        return mean(sums.log() - target.log()), out

    if not workload.from_logits:
        inside = torch.zeros(scores.shape, dtype=torch.bool)
        return [of_probabilities]
    minus_one = torch.full((), -1, dtype=scores.dtype).expand(at.shape)
    share = (kept / count).to(scores.dtype).unsqueeze(axis) if not every else 1 / count
    # cross_entropy's kernels have the classes second.
    second = axis == -1 and scores.ndim > 2
    of = scores.movedim(-1, 1) if second else scores
    # In C order whatever the scores have: into another order, out= is filled wrongly.
    logs, inner, into = (torch.zeros(of.shape, dtype=of.dtype) for _ in range(3))
    one = torch.ones((), dtype=scores.dtype)
    several = "2d" if of.ndim > 2 else ""
    nll = getattr(torch.ops.aten, f"nll_loss{several}_forward")
    nll_backward = getattr(torch.ops.aten, f"nll_loss{several}_backward").grad_input
    return [by_softmax, by_kernels]


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

    value_and_grad = jax.value_and_grad(loss)
    if verb == INTO:
        recycled = jax.jit(
            lambda scores, labels, _: value_and_grad(scores, labels),
            donate_argnums=2,
            keep_unused=True,
        )
        kept = [jnp.zeros_like(scores)]

        def into() -> object:
            """The last gradient's buffer donated."""
            value, kept[0] = jax.block_until_ready(recycled(scores, labels, kept[0]))
            return value, kept[0]

        return into
    compiled = jax.jit(loss if verb == FORWARD else value_and_grad)
    return lambda: jax.block_until_ready(compiled(scores, labels))


# --- NumPy and SciPy -----------------------------------------------------------------------------


def _plain(
    logsumexp: Callable[[np.ndarray, int], np.ndarray],
    softmax: Callable[[np.ndarray, int, np.ndarray | None], np.ndarray],
    workload: Workload,
    verb: str,
    y: np.ndarray,
    x: np.ndarray,
) -> Callable[[], object]:
    axis, never = workload.axis, workload.normalize == "never"
    at = np.expand_dims(np.where(y == workload.ignore_class, 0, y), axis)
    kept = y != workload.ignore_class
    every, count = kept.all(), kept.sum()
    out = work = None
    if verb == INTO:
        out = np.zeros_like(x)
        work = np.zeros(x.shape, np.float32) if x.dtype.itemsize == 2 else out

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
            p = softmax(scores, axis, work)
            value = mean(-np.log(pick(p)))
            np.put_along_axis(p, at, np.take_along_axis(p, at, axis) - 1, axis)
        else:
            q = np.clip(scores, EPSILON, 1 - EPSILON, out=work)
            sums, target = q.sum(axis=axis, keepdims=True), np.take_along_axis(q, at, axis)
            value = mean((np.log(sums) - np.log(target)).squeeze(axis))
            p = np.divide(q == scores, sums, out=work)
            lowered = np.take_along_axis(p, at, axis) * (1 - sums / target)
            np.put_along_axis(p, at, lowered, axis)
        p /= count
        if not every:
            np.moveaxis(p, axis, -1)[~kept] = 0
        if p is not out and out is not None:
            np.copyto(out, p, casting="same_kind")
            return value, out
        return value, p

    return forward if verb == FORWARD else value_and_grad


def _numpy(
    workload: Workload, verb: str, y: np.ndarray, x: np.ndarray, threads: int
) -> Callable[[], object]:
    def logsumexp(x: np.ndarray, axis: int) -> np.ndarray:
        m = x.max(axis=axis, keepdims=True)
        return np.log(np.exp(x - m).sum(axis=axis)) + m.squeeze(axis)

    def softmax(x: np.ndarray, axis: int, out: np.ndarray | None) -> np.ndarray:
        e = np.subtract(x, x.max(axis=axis, keepdims=True), out=out)
        np.exp(e, out=e)
        e /= e.sum(axis=axis, keepdims=True)
        return e

    return _plain(logsumexp, softmax, workload, verb, y, x)


def _scipy(
    workload: Workload, verb: str, y: np.ndarray, x: np.ndarray, threads: int
) -> Callable[[], object] | None:
    if not workload.from_logits or verb == INTO or x.dtype.itemsize == 2:
        return None  # it has no function for probabilities or of halves, and no out= for logits
    special = _load("scipy.special")
    return _plain(
        lambda x, axis: special.logsumexp(x, axis=axis),
        lambda x, axis, out: special.softmax(x, axis=axis),
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
    kept: dict[str, np.ndarray] = {}
    if verb == INTO:
        kept = {"loss_out": np.zeros(len(y), x.dtype), "gradient_out": np.zeros_like(x)}

    def value_and_grad() -> object:
        losses, gradient = loss.loss_gradient(
            y_true=y, raw_prediction=x, sample_weight=weights, n_threads=threads, **kept
        )
        return losses.sum(), gradient

    return value_and_grad


_MAKERS: list[tuple[str, str, Maker]] = [
    ("torch", "torch", _torch),
    ("torch.compile", "torch", _torch_compile),
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
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no processes beside the timed
