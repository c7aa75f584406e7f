"""Sample weight, class weight, ignored and reduction -> (w, divisor): one number a position.

The kernels know nothing of these. A call's value is sum(w * nll) / divisor, its gradient that of
the kernel scaled by g = w / divisor; w is 0 where a label is ignored.

Notation: l losses, w weights, V the number of labels that are not ignored.
"""

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from sparse_xent.arrays import foreign
from sparse_xent.arrays.numpy import as_array, is_float
from sparse_xent.arrays.refusals import refuse_kind
from sparse_xent.layout import Layout
from sparse_xent.options import NA_INTEGER, Options

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of one call; `sample` is a view in the losses' shape (repeats have stride 0)."""

    sample: Array | None
    sent: tuple[int, ...]  # the shape in which the sample weights were sent
    by_class: Float64 | None

    def lower(self, sample: Array | None, y: Int64) -> Float64:
        """One weight a position of a block: 0 where y < 0, whose weights are not read."""
        if sample is None:
            w = np.ones(y.shape)
        else:
            w = sample.astype(np.float64)  # a copy: the caller's weights stay as they are
        if self.by_class is not None:
            w *= self.by_class[np.maximum(y, 0)]
        w[y < 0] = 0
        return w

    def refuse(self, y: Int64) -> NoReturn:
        """ValueError that names the first weight that is missing; `y` are all labels, lowered."""
        assert self.sample is not None
        index = tuple(int(i) for i in np.argwhere(missing(self.sample, y))[0])
        value = self.sample[index]
        raise ValueError(self.complaint(index, "nan" if value != value else f"{NA_INTEGER}"))

    def complaint(self, at: tuple[int, ...], shown: str = f"{NA_INTEGER} or nan") -> str:
        """What there is to say of a weight that is missing.

        Args:
            at: its place among the losses.
            shown: the weight; both that it may be where it cannot be seen.
        """
        sent = self.sent[: len(at)]
        position = tuple(0 if length == 1 else i for i, length in zip(at, sent, strict=False))
        return (
            f"sample_weight must hold numbers: got {shown} (NA in R) at {position}; "
            "drop what is missing, or weigh it 0"
        )


def missing(sample: Array, y: Int64) -> npt.NDArray[np.bool_]:
    """Where a weight that counts is NaN or R's integer NA."""
    w = sample.astype(np.float64, copy=False)
    found: npt.NDArray[np.bool_] = (np.isnan(w) | (w == NA_INTEGER)) & (y >= 0)
    return found


def read(sample_weight: object, layout: Layout, options: Options) -> Weights:
    """The user's weights for a y_pred of this layout."""
    by_class = _by_class(options, layout.classes)
    if sample_weight is None:
        return Weights(None, (), by_class)
    w = as_array(sample_weight, "sample_weight")
    if not (w.dtype.kind in "biu" or is_float(w.dtype)):
        refuse_kind(sample_weight, w, "sample_weight", "numbers")
    indexes = isinstance(sample_weight, np.ndarray) or foreign.library(sample_weight) == "torch"
    return Weights(_aligned(w, layout.losses, indexes), w.shape, by_class)


def weighted(losses: Array, w: Float64) -> Float64:
    """l * w in float64; exactly 0 where w is, even where l is inf or NaN."""
    return np.where(w == 0, 0.0, losses.astype(np.float64, copy=False) * w)


def divisor(reduction: str | None, kept: int, weight: float) -> float:
    """What sum(l * w) is divided by: V, the sum of the weights, or 1. 0 gives the value 0."""
    match reduction:
        case "sum" | None:
            return 1.0
        case "mean_with_sample_weight":
            return weight
        case _:  # the mean over the labels that count; their weights do not enter, as in Keras
            return float(kept)


def _aligned(w: Array, losses: tuple[int, ...], indexes: bool) -> Array:
    """w broadcast to the losses' shape, its axes aligned with the leading ones: a view.

    `indexes` says whether what was sent takes w[None, :].
    """
    if w.ndim == 0:
        return np.broadcast_to(w, losses)
    if w.ndim == len(losses) + 1 and w.shape[-1] == 1:
        w = w[..., 0]
    if w.ndim <= len(losses):
        shape: tuple[int, ...] = w.shape + (1,) * (len(losses) - w.ndim)
        if all(n in (1, m) for n, m in zip(shape, losses, strict=True)):
            return np.broadcast_to(w.reshape(shape), losses)
    advice = ""
    if w.ndim == 1 and len(losses) > 1 and w.shape[0] == losses[-1]:
        ahead = ", ".join(["None"] * (len(losses) - 1))
        advice = f"; to weigh the last axis, pass w[{ahead}, :]"
        if not indexes:
            advice += " of w = numpy.asarray(sample_weight)"
    raise ValueError(
        f"sample_weight must have the losses' shape {losses}, or fewer axes that match its leading "
        f"ones, or a 1 in place of an axis: got {w.shape}{advice}"
    )


def _by_class(options: Options, classes: int) -> Float64 | None:
    """class_weight as a vector of C weights."""
    weights = options.class_weight
    if weights is None:
        return None
    if weights and isinstance(weights[0], tuple):
        by_class = np.ones(classes)
        for c, weight in weights:
            if not 0 <= c < classes:
                raise ValueError(
                    f"class_weight's keys must be classes from 0 to {classes - 1}, got {c}"
                )
            by_class[c] = weight
        return by_class
    if len(weights) != classes:
        raise ValueError(
            f"class_weight must have one weight a class: expected {classes}, got {len(weights)}"
        )
    return np.array(weights, np.float64)
