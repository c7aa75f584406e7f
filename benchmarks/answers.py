"""What every candidate must find: the definition, in float64, written from nothing of ours.

An answer is a short vector: the value, then the gradient's rows at a few positions. Libraries
differ in the last digits and in how they clip, so agreement is loose; it is there to catch a
candidate that computes something else, whose speed would say nothing.
"""

from typing import Any

import numpy as np

from benchmarks.workloads import GRADIENTS, PER_LABEL, Workload

EPSILON = 1e-7
TOLERANCE = {2: 5e-2, 4: 1e-3, 8: 1e-3}  # by itemsize, relative
FLOAT16_STEP = 2.0**-24  # what a gradient in float16 is rounded to near 0
SAMPLED = 5  # positions whose gradient rows are looked at


def _positions(shape: tuple[int, ...]) -> list[tuple[Any, ...]]:
    size = int(np.prod(shape))
    return [
        np.unravel_index(k, shape) for k in np.linspace(0, size - 1, min(size, SAMPLED), dtype=int)
    ]


def expected(
    workload: Workload, verb: str, y: np.ndarray, x: np.ndarray, value: float | None = None
) -> np.ndarray:
    """The answer by the definition; `value`, where it is known already, is its `mean_loss`."""
    found = [np.array([mean_loss(workload, y, x) if value is None else value])]
    if verb in GRADIENTS:
        kept = _kept(workload, y)
        count = max(1, int(kept.sum()))
        moved = np.moveaxis(x, workload.axis, -1)
        for at in _positions(y.shape):
            row = moved[at].astype(np.float64)
            dx = _derivative(workload, row, int(y[at])) if kept[at] else np.zeros_like(row)
            found.append(dx / count)
    return np.concatenate(found)


def mean_loss(workload: Workload, y: np.ndarray, x: np.ndarray) -> float:
    """The mean over the labels that are not ignored, block by block of the first axis."""
    kept, total = _kept(workload, y), 0.0
    step = max(1, 2**20 // max(1, x[0].size))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        block = np.moveaxis(x[rows], workload.axis, -1)[kept[rows]].astype(np.float64)
        total += _losses(workload, block, y[rows][kept[rows]]).sum()
    return total / max(1, int(kept.sum()))


def _kept(workload: Workload, y: np.ndarray) -> np.ndarray:
    return np.ones(y.shape, bool) if workload.ignore_class is None else y != workload.ignore_class


def _losses(workload: Workload, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if workload.from_logits:
        x = x - x.max(axis=-1, keepdims=True)
        target = np.take_along_axis(x, y[:, None], -1)[:, 0]
        return np.log(np.exp(x).sum(axis=-1)) - target
    q = np.clip(x, EPSILON, 1 - EPSILON)
    target = np.take_along_axis(q, y[:, None], -1)[:, 0]
    sums = 1.0 if workload.normalize == "never" else q.sum(axis=-1)
    return np.log(sums) - np.log(target)


def _derivative(workload: Workload, x: np.ndarray, t: int) -> np.ndarray:
    if workload.from_logits:
        e = np.exp(x - x.max())
        dx = e / e.sum()
        dx[t] -= 1
        return dx
    q = np.clip(x, EPSILON, 1 - EPSILON)
    dx = np.zeros_like(x) if workload.normalize == "never" else np.full_like(x, 1 / q.sum())
    dx[t] -= 1 / q[t]
    return dx * ((x >= EPSILON) & (x <= 1 - EPSILON))


def answer(workload: Workload, verb: str, result: Any) -> np.ndarray:
    """The same vector from what a library returned: its value, losses, or value and gradient."""
    if verb == PER_LABEL:
        losses = as_numpy(result).astype(np.float64)
        return np.array([losses.sum()])  # divided by the caller, who knows what was ignored
    if verb in GRADIENTS:
        value, gradient = result
        gradient = np.moveaxis(as_numpy(gradient), workload.axis, -1)
        rows = [gradient[at].astype(np.float64) for at in _positions(gradient.shape[:-1])]
        return np.concatenate([np.array([float(as_numpy(value))]), *rows])
    return np.array([float(as_numpy(result))])


def as_numpy(x: Any) -> np.ndarray:
    """A tensor of whatever library as an array, without a copy where there is a way."""
    if hasattr(x, "detach"):  # torch, whose bfloat16 NumPy does not know
        x = x.detach()
        return (x.float() if x.element_size() == 2 else x).numpy()
    return np.asarray(x)


def disagreement(workload: Workload, found: np.ndarray, right: np.ndarray) -> str:
    """What is wrong with an answer, in a few words; "" where it agrees."""
    if found.shape != right.shape:
        return f"answers with shape {found.shape}, not {right.shape}"
    tolerance = TOLERANCE[workload.numpy_dtype.itemsize]
    if not np.isclose(found[0], right[0], rtol=tolerance, atol=0):
        return f"other value: {found[0]:.6g}, not {right[0]:.6g}"
    scale = np.abs(right[1:]).max(initial=0)
    least = tolerance * scale + (FLOAT16_STEP if workload.dtype == "float16" else 0)
    if not np.allclose(found[1:], right[1:], rtol=tolerance, atol=least):
        return f"other gradient: off by {np.abs(found[1:] - right[1:]).max():.2g} of {scale:.2g}"
    return ""
