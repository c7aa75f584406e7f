"""Predictions, labels and weights of the same positions, read from files block by block.

A box is a slice of every axis of the losses: the predictions' axes without the class axis. Labels
and weights are checked as they are read, and errors name positions of the file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from sparse_xent.evaluation.readers import open_source
from sparse_xent.evaluation.readers.columns import Choice
from sparse_xent.evaluation.readers.headers import decide_headers
from sparse_xent.evaluation.readers.source import Array, Box, FileError, Source, boxes

Path: TypeAlias = str | os.PathLike[str]
Shape: TypeAlias = tuple[int, ...]
Int64: TypeAlias = npt.NDArray[np.int64]
Float64: TypeAlias = npt.NDArray[np.float64]

IGNORED = -1  # the label of an ignored class, whatever its number in the file
_NA = -(2**31)  # R's integer NA, as files have it

# What is read at once: positions are few enough for the arrays of one number a position, where
# there are few classes.
_BYTES = 1 << 24
_POSITIONS = 1 << 20


@dataclass(frozen=True)
class Scoring:
    """What predictions are, and how they are scored.

    Attributes:
        scores: "probabilities", "logits" or "log-probabilities".
        axis: The class axis, as the user counts it.
        ignored: Labels, as in the file, that do not count.
        label_base: The label of the first class.
        label_smoothing: That of the loss.
        normalize: How probabilities are made to sum to 1.
        epsilon: Where probabilities are clipped.
    """

    scores: str
    axis: int
    ignored: tuple[int, ...]
    label_base: int
    label_smoothing: float
    normalize: str
    epsilon: float

    @property
    def from_logits(self) -> bool:
        """Whether the scores are logits; log-probabilities are, too."""
        return self.scores != "probabilities"


@contextmanager
def open_inputs(
    files: tuple[Path, Path, Path | None],
    choices: tuple[Choice, Choice, Choice],
    scoring: Scoring,
    *,
    bfloat16: bool,
) -> Iterator[tuple[Predictions, Labels, Weights | None]]:
    """Open files of predictions, labels and, if there are any, weights, and check their shapes.

    Args:
        files: The files.
        choices: Which lines and columns of them are read.
        scoring: How they are scored.
        bfloat16: Whether predictions saved as raw records of two bytes are bfloat16.
    """
    with ExitStack() as opened:
        sources: list[Source] = []
        for k, path in enumerate(files):
            if path is not None:
                source = open_source(path, choices[k], bfloat16=bfloat16 and k == 0)
                opened.callback(source.close)
                sources.append(source)
        scores, labels, *weights = sources
        decide_headers(scores, labels, weights[0] if weights else None, scoring.axis)
        x = Predictions(scores, scoring)
        yield x, Labels(labels, x), Weights(weights[0], x) if weights else None


class Predictions:
    """Scores in a file.

    Args:
        source: The array in the file.
        scoring: What the scores are, and how they are scored.

    Attributes:
        axis: The class axis, from 0 on.
        classes: C, the number of classes.
        losses: The shape of the losses.
        arithmetic: The dtype of the losses: "float64" for float64 scores, else "float32".
        fortran: Whether the losses' first axis runs fastest in the order of the file.
    """

    def __init__(self, source: Source, scoring: Scoring) -> None:
        axis, shape = scoring.axis, source.shape
        if not shape:
            raise FileError(f"{source.name} must have a class axis, got a single number")
        if not -len(shape) <= axis < len(shape):
            raise FileError(
                f"axis must be between {-len(shape)} and {len(shape) - 1} for {source.name} of "
                f"shape {shape}, got {axis} (0-based; -1 is the last)"
            )
        self.axis = axis % len(shape)
        self.classes = shape[self.axis]
        self.losses: Shape = shape[: self.axis] + shape[self.axis + 1 :]
        if not self.classes:
            raise FileError(
                f"{source.name} must have at least one class, got 0 along axis {self.axis} of "
                f"shape {shape}"
            )
        by_class = source.sequential and self.axis == 0 and self.losses
        self.source = source.whole() if by_class else source
        self.name, self.scoring = source.name, scoring
        wide = source.dtype.kind == "f" and source.dtype.itemsize > 4
        self.arithmetic = "float64" if wide else "float32"
        self.fortran = source.fortran and len(self.losses) > 1

    def boxes(self) -> Iterator[Box]:
        """Boxes of the losses that cover all of them, in the order of the file."""
        positions = min(_POSITIONS, _BYTES // (self.classes * self.source.dtype.itemsize))
        if self.source.sequential:  # a step of the first axis is the least that can be read
            positions = max(positions, math.prod(self.losses[1:]))
        return boxes(self.losses, max(1, positions), fortran=self.source.fortran)

    def read(self, box: Box) -> Array:
        """The scores of a box of the losses: every class."""
        return self.source.read((*box[: self.axis], slice(0, self.classes), *box[self.axis :]))

    def refuse(self, other: Source, expected: str, way_out: str) -> NoReturn:
        """FileError for a file whose shape does not fit."""
        if len(self.losses) == 1:
            way_out += other.several()
        for source in (other, self.source):
            source.check_lines()
        tabular = other.tabular or self.source.tabular
        if not way_out and tabular and other.shape[:1] != self.source.shape[:1]:
            way_out = ": was a first line wrongly taken for names, or for numbers? (--header)"
        raise FileError(
            f"{other.name} must have {self.name}'s shape without axis {self.axis}: expected "
            f"{expected}, got {other.shape} ({self.name} is {self.source.shape}){way_out}"
        )


class _Aligned:
    """A file that has a number for every loss, read in boxes of the losses.

    Args:
        source: The array in the file.
        losses: The shape of all losses.
        dropped: An axis of length 1 that the losses do not have.
    """

    def __init__(self, source: Source, losses: Shape, dropped: int | None = None) -> None:
        shape = list(source.shape)
        if dropped is not None:
            del shape[dropped]
        in_order = len(losses) == 1 and tuple(shape) == losses
        self.source = source.whole() if source.sequential and not in_order else source
        self.name, self.losses, self.shape, self.dropped = source.name, losses, shape, dropped

    def read(self, box: Box) -> Array:
        """The numbers of a box: an axis of length 1, or missing at the end, is repeated."""
        own = [
            s if n == m else slice(0, n)
            for s, n, m in zip(box, self.shape, self.losses, strict=False)
        ]
        if self.dropped is not None:
            own.insert(self.dropped, slice(0, 1))
        block = self.source.read(tuple(own))
        if block.dtype.kind == "f":  # halves cannot be compared with every int
            block = block.astype(np.result_type(block.dtype, np.float64), copy=False)
        if self.dropped is not None:
            block = block.squeeze(self.dropped)
        block = block.reshape(block.shape + (1,) * (len(box) - block.ndim))
        return np.broadcast_to(block, [s.stop - s.start for s in box])

    def place(self, box: Box, index: tuple[Any, ...]) -> str:
        """Where the number of a loss stands in the file, for a message."""
        position = place_in(box, index)
        own = [i if n > 1 else 0 for i, n in zip(position, self.shape, strict=False)]
        if self.dropped is not None:
            own.insert(self.dropped, 0)
        return self.source.place(tuple(own))


class Labels(_Aligned):
    """Labels in a file.

    Args:
        source: The array in the file.
        x: The predictions.
    """

    def __init__(self, source: Source, x: Predictions) -> None:
        with_axis = (*x.losses[: x.axis], 1, *x.losses[x.axis :])
        one = source.shape == () and math.prod(x.losses) == 1
        if not one and source.shape not in (x.losses, with_axis):
            way_out = ""
            if source.name == x.name:
                table = ".csv" in source.name
                way_out = "" if table else ": one file for both? save labels and scores apart"
            elif self._look_swapped(source, x):
                way_out = f": are {source.name} and {x.name} swapped?"
            elif source.shape == x.source.shape:
                way_out = f": one-hot labels? save numpy.argmax(labels, axis={x.axis})"
            x.refuse(source, f"{x.losses} or {with_axis}", way_out)
        super().__init__(source, x.losses, x.axis if source.shape == with_axis else None)
        self.x, self.base, self.ignored = x, x.scoring.label_base, x.scoring.ignored
        self.last = x.classes - 1 + self.base
        exact = 2 ** (np.finfo(source.dtype).nmant + 1) if source.dtype.kind == "f" else math.inf
        if x.classes - 1 > exact:
            raise FileError(
                f"{self.name} must be of an integer dtype for {x.classes} classes, got "
                f"{source.dtype}, which is exact up to {exact} only"
            )

    @staticmethod
    def _look_swapped(source: Source, x: Predictions) -> bool:
        """Whether the labels are of scores' shape and kind, and the scores of labels'."""
        scores = x.source
        deeper = len(source.shape) > len(scores.shape)
        one_class = len(source.shape) == len(scores.shape) and x.classes == 1
        fractions, whole = source.dtype.kind == "f", scores.dtype.kind in "biu"
        if source.shape == scores.shape:
            return fractions and whole
        return (deeper or one_class) and (fractions or whole)

    def read(self, box: Box) -> Int64:
        """The labels of a box as 0..C-1 and `IGNORED`; ValueError for what is neither."""
        block = super().read(box)
        ignored = np.zeros(block.shape, np.bool_)
        for c in self.ignored:
            ignored |= block == c
        good = (block >= self.base) & (block <= self.last)  # NaN is not
        if block.dtype.kind == "f":
            good &= block == np.floor(block)
        if not (good | ignored).all():
            self._refuse(block, box)
        y = np.where(ignored, self.base, block).astype(np.int64) - self.base
        return np.where(ignored, IGNORED, y)

    def _refuse(self, block: Array, box: Box) -> NoReturn:
        """ValueError that names the first bad label of a box, as it is in the file."""
        kept = [(k, v) for k, v in enumerate(block.ravel().tolist()) if v not in self.ignored]
        bad = [(k, v) for k, v in kept if not (self.base <= v <= self.last and v == int(v))]
        first, value = bad[0]
        place = self.place(box, np.unravel_index(first, block.shape))
        more = f" and at least {len(bad) - 1} more" if len(bad) > 1 else ""
        missing = " (NA in R)" if value != value or value == _NA else ""
        value = int(value) if math.isfinite(value) and value == int(value) else value
        raise ValueError(
            f"{self.name} must hold whole numbers from {self.base} to {self.last} "
            f"({self.x.classes} classes): got {value}{missing} at {place}{more}; "
            + self._cause(value, [v for _, v in kept], [v for _, v in bad])
        )

    def _cause(self, value: Any, kept: list[Any], bad: list[Any]) -> str:
        """What a bad label may come from, and what to do."""
        if value != value:
            return "leave missing labels out, or give them a class that --ignore-class names"
        if value == _NA:
            return f"leave missing labels out, or say --ignore-class {_NA}"
        if any(not math.isfinite(v) or v != int(v) for v in bad):
            return f"labels are classes, not scores: are {self.name} and {self.x.name} swapped?"
        if not self.base and min(kept) >= 1 and max(kept) == self.x.classes:
            return "labels look 1-based: say --label-base 1"
        if self.base and value == 0:
            return "labels look 0-based: leave out --label-base 1"
        if value < 0 or value in (255, 65535):
            return f"say --ignore-class {int(value)} if it marks what does not count"
        return f"{self.x.name} has {self.x.classes} classes along axis {self.x.axis}"


class Weights(_Aligned):
    """Weights in a file, one a loss; those of lower rank belong to the leading axes.

    Args:
        source: The array in the file.
        x: The predictions.
    """

    def __init__(self, source: Source, x: Predictions) -> None:
        shape, dropped = source.shape, None
        if len(shape) == len(x.losses) + 1 and shape[-1] == 1:
            dropped, shape = len(x.losses), shape[:-1]
        pairs = zip(shape, x.losses, strict=False)
        if len(shape) > len(x.losses) or any(n not in (1, m) for n, m in pairs):
            fits = shape == x.losses[-1:]
            way_out = ": weights of the last axis go in as w[None, :]" if fits else ""
            x.refuse(source, f"{x.losses}, or 1 for any of it", way_out)
        super().__init__(source, x.losses, dropped)

    def kept(self, box: Box, y: Int64) -> Float64:
        """The weights of the labels of a box that are not ignored, in C order."""
        block = self.read(box)
        missing = ((block == _NA) | (block != block)) & (y >= 0)
        if missing.any():
            index = tuple(np.argwhere(missing)[0])
            got = "nan" if block[index] != block[index] else _NA
            raise ValueError(
                f"{self.name} must hold numbers: got {got} (NA in R) at {self.place(box, index)}; "
                "weigh what is missing 0"
            )
        return block[y >= 0].astype(np.float64)


def place_in(box: Box, index: tuple[Any, ...]) -> Shape:
    """The position among all losses of an index within a box."""
    return tuple(s.start + int(i) for s, i in zip(box, index, strict=True))
