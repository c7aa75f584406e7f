"""Sample weight, class weight, ignored classes and reduction -> (w, divisor).

A call's value is sum(w * l) / divisor, its gradient that of the losses scaled by g = w / divisor;
w is 0 where a label is ignored. Kernels know nothing else of weights and reductions.

Notation: l losses, w weights, V the number of labels that are not ignored.
"""

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from sparse_xent.arrays import foreign
from sparse_xent.arrays.base import ArraySpec
from sparse_xent.arrays.numpy import as_array, spec_of
from sparse_xent.arrays.refusals import refuse_kind
from sparse_xent.dtypes import is_number
from sparse_xent.engines.base import Divisor
from sparse_xent.engines.numpy import missing
from sparse_xent.layout import Layout
from sparse_xent.options import NA_INTEGER, Options, Reduction
from sparse_xent.origin import in_whole

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


def divisor(reduction: Reduction) -> Divisor:
    """The divisor of a reduction."""
    if reduction in (Reduction.SUM, Reduction.NONE):
        return Divisor.ONE
    return Divisor.WEIGHT if reduction == Reduction.MEAN_WITH_SAMPLE_WEIGHT else Divisor.KEPT


def divided(total: float, divisor: float) -> float:
    """The value; 0 where there is nothing to divide by."""
    return total / divisor if divisor != 0 else 0.0


@dataclass(frozen=True, slots=True)
class Weights:
    """The sample weights in the calls of one kind, and what there is to say of bad ones."""

    sent: tuple[int, ...]  # the shape in which they were sent
    losses: tuple[int, ...]

    def spec(self, w: ArraySpec) -> ArraySpec:
        """The weights' spec in the losses' shape; repeats have stride 0."""
        shape = _aligned(w.shape, self.losses)
        steps = w.strides + (0,) * (len(self.losses) - len(w.shape))
        strides = tuple(0 if n == 1 else s for n, s in zip(shape, steps, strict=False))
        return w._replace(shape=self.losses, strides=strides)

    def refuse(self, weights: Array, y: Int64) -> NoReturn:
        """ValueError that names the first weight that is missing.

        Args:
            weights: all of them, as they were sent.
            y: all labels, decoded.
        """
        sample = np.broadcast_to(aligned(weights, self.losses), self.losses)
        index = tuple(int(i) for i in np.argwhere(missing(sample, y))[0])
        value = sample[index]
        shown = "nan" if value != value else f"{NA_INTEGER}"
        raise ValueError(self.complaint(index, shown))

    def complaint(self, at: tuple[int, ...], shown: str = f"{NA_INTEGER} or nan") -> str:
        """What there is to say of a weight that is missing.

        Args:
            at: its place among the losses.
            shown: the weight; both that it may be where it cannot be seen.
        """
        sent = self.sent[: len(at)]
        whole = zip(at, in_whole(list(at)), sent, self.losses, strict=False)
        # One weight may serve a whole axis.
        position = tuple(j if length == many else 0 for i, j, length, many in whole)
        return (
            f"sample_weight must hold numbers: got {shown} (NA in R) at {position}; "
            "drop what is missing, or weigh it 0"
        )


def aligned(w: Array, losses: tuple[int, ...]) -> Array:
    """A view of weights that fit these losses, which broadcasts to their shape."""
    return w.reshape(_aligned(w.shape, losses))


def counted(w: Array, layout: Layout, y: Int64, sample_weight: object) -> Float64:
    """One weight a label, in the losses' shape: 0 where it is ignored, whose weight is not read.

    Args:
        w: the weights as they were sent.
        layout: y_pred's.
        y: all labels in the losses' shape, negative where ignored.
        sample_weight: what the user sent, for what a message says of it.

    Raises:
        ValueError: a weight that counts is missing, or they do not fit.
    """
    read(spec_of(w), layout, sample_weight)
    return np.where(y < 0, 0.0, check(w, layout, y).astype(np.float64))


def check(w: Array, layout: Layout, y: Int64) -> Array:
    """A view in the losses' shape of weights that fit, none of which is missing where it counts.

    Args:
        w: the weights as they were sent.
        layout: y_pred's.
        y: all labels in the losses' shape, negative where ignored.

    Raises:
        ValueError: a weight that counts is missing.
    """
    sample = np.broadcast_to(aligned(w, layout.losses), layout.losses)
    if missing(sample, y).any():
        Weights(w.shape, layout.losses).refuse(w, y)
    return sample


def array_of(sample_weight: object) -> Array | None:
    """The user's sample weights as an array of numbers; what are none is refused."""
    if sample_weight is None:
        return None
    w = as_array(sample_weight, "sample_weight")
    if not is_number(w.dtype):
        refuse_kind(sample_weight, w, "sample_weight")
    return w


def check_number(weight: float) -> None:
    """Refuse one number, as the weight of every label, that is missing.

    Raises:
        ValueError: it is NaN or R's integer NA.
    """
    if weight != weight or weight == NA_INTEGER:
        raise ValueError(
            f"sample_weight must be a number, got {'nan' if weight != weight else NA_INTEGER} "
            "(NA in R): drop what is missing, or weigh it 0"
        )


def read(w: ArraySpec | None, layout: Layout, sample_weight: object = None) -> Weights | None:
    """How sample weights of this shape are aligned, for a y_pred of this layout.

    Args:
        w: the weights as they were sent, if they were.
        layout: y_pred's.
        sample_weight: what the user sent, for what a message says of it.

    Raises:
        ValueError: they do not fit.
    """
    if w is None:
        return None
    losses = layout.losses
    shape = _aligned(w.shape, losses)
    if len(shape) == len(losses) and all(n in (1, m) for n, m in zip(shape, losses, strict=True)):
        return Weights(w.shape, losses)
    advice = ""
    if len(w.shape) == 1 and len(losses) > 1 and w.shape[0] == losses[-1]:
        ahead = ", ".join(["None"] * (len(losses) - 1))
        advice = f"; to weigh the last axis, pass w[{ahead}, :]"
        indexes = isinstance(sample_weight, np.ndarray)
        if sample_weight is not None and not (indexes or foreign.library(sample_weight) == "torch"):
            advice += " of w = numpy.asarray(sample_weight)"
    raise ValueError(
        f"sample_weight must have the losses' shape {losses}, or fewer axes that match its leading "
        f"ones, or a 1 in place of an axis: got {w.shape}{advice}"
    )


def _aligned(shape: tuple[int, ...], losses: tuple[int, ...]) -> tuple[int, ...]:
    """The weights' shape with its axes aligned with the losses' leading ones."""
    if len(shape) == len(losses) + 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape + (1,) * (len(losses) - len(shape))


def by_class(options: Options, classes: int) -> Float64 | None:
    """class_weight as a vector of C weights.

    Raises:
        ValueError: it names a class that there is not, or has another length.
    """
    weights = options.class_weight
    if weights is None:
        return None
    if weights and isinstance(weights[0], tuple):
        vector = np.ones(classes)
        for c, weight in weights:
            if not 0 <= c < classes:
                raise ValueError(
                    f"class_weight's keys must be classes from 0 to {classes - 1}, got {c}"
                )
            vector[c] = weight
        return vector
    if len(weights) != classes:
        raise ValueError(
            f"class_weight must have one weight a class: expected {classes}, got {len(weights)}"
        )
    return np.array(weights, np.float64)
