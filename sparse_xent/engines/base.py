"""What a plan asks of an engine, and what an engine answers.

An engine's `prepare(problem)` gives a `Program`, or None where it does not serve such a call. It
sees specs, numbers and packed constants; of `arrays` it knows `ArraySpec` alone, it words no
message, and says only which kind of thing is wrong with the values that it read.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from sparse_xent.accumulate import LossSums
from sparse_xent.arrays.base import ArraySpec
from sparse_xent.kernels import ScoreKind
from sparse_xent.layout import Ints, Layout, layout_of

Array = npt.NDArray[Any]


class Task(enum.IntEnum):
    """What a call is for."""

    LOSSES = 0
    VALUE = 1
    VALUE_AND_GRADIENT = 2
    LOSSES_AND_GRADIENT = 3
    RANKS = 4
    GRADIENT = 5  # of losses that were computed before, times the gradient with respect to them
    GRADIENT_OF_VALUE = 6
    LOSSES_AND_RANKS = 7  # from one read of the scores
    SUMS = 8  # exact ones, of losses that are written nowhere
    SUMS_AND_RANKS = 9  # the same, and how many labels rank below some bounds

    __hash__ = int.__hash__  # Enum's own is a Python function, and plans are found by tasks

    @property
    def reduces(self) -> bool:
        """Whether a value is wanted, not losses."""
        return self in (Task.VALUE, Task.VALUE_AND_GRADIENT)

    @property
    def differentiates(self) -> bool:
        """Whether a gradient is written."""
        return self in _DIFFERENTIATE

    @property
    def ranks(self) -> bool:
        """Whether ranks are wanted beside losses or sums."""
        return self in (Task.LOSSES_AND_RANKS, Task.SUMS_AND_RANKS)

    @property
    def sums(self) -> bool:
        """Whether exact sums are wanted, and nothing is written."""
        return self in (Task.SUMS, Task.SUMS_AND_RANKS)


_DIFFERENTIATE = (
    Task.VALUE_AND_GRADIENT,
    Task.LOSSES_AND_GRADIENT,
    Task.GRADIENT,
    Task.GRADIENT_OF_VALUE,
)


class Divisor(enum.IntEnum):
    """What sum(w * l) is divided by."""

    ONE = 0
    KEPT = 1  # the number of labels that are not ignored; their weights do not enter, as in Keras
    WEIGHT = 2  # the sum of w

    def of(self, kept: int, weight: float) -> float:
        """The divisor of a call with so many labels that count, and this sum of their weights."""
        return (1.0, float(kept), weight)[self]


class Found(NamedTuple):
    """How many rows cannot be probabilities, and what the first of them holds.

    All engines give the same numbers for the same scores, whatever the layout.
    """

    rows: int = 0
    first: int = -1  # the row's place among the losses, flat in C order
    column: int = 0  # the class of its first score that cannot be a probability
    score: float = 0.0  # that score
    least: float = 0.0  # of the row, NaN left out
    most: float = 0.0
    total: float = 0.0  # the sum of the row
    whole: bool = False  # whether the row holds nothing but finite whole numbers

    def joined(self, other: "Found") -> "Found":
        """The findings of two parts of a call together."""
        if not self.rows or not other.rows:
            return self if self.rows else other
        first = self if self.first < other.first else other
        return first._replace(rows=self.rows + other.rows)


NOTHING = Found()


class Sums(NamedTuple):
    """What is known of a call when it is done."""

    total: float  # sum(w * l); 0 where only a gradient or losses were wanted
    kept: int  # labels that are not ignored
    weight: float  # sum(w)
    found: Found


DONE = Sums(0.0, 0, 0.0, NOTHING)
"""The answer where nothing but losses or ranks was wanted, and nothing is to be said."""


class BadValue(Exception):
    """Something is wrong with the values that an engine read."""


class BadLabel(BadValue):
    """A label is neither a class nor ignored."""


class BadTarget(BadValue):
    """A one-hot or soft target is negative or NaN."""


class Misaligned(BadValue):
    """An input's address is no multiple of its elements' size, as that of the plan's inputs was."""


class MissingWeight(BadValue):
    """A sample weight that counts is NaN or R's integer NA."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A call of one kind, as an engine sees it.

    `layout` is that of the scores (and of soft targets), `layout_with_dx` that of the scores and
    their gradient together. Specs of labels and weights have the losses' shape.
    """

    task: Task
    layout: Layout
    layout_with_dx: Layout
    x: ArraySpec
    y: ArraySpec
    w: ArraySpec | None
    dx: ArraySpec | None
    targets: ArraySpec | None  # soft targets, of the scores' shape; `y` is then all 0
    scores: ScoreKind
    smoothing: float
    epsilon: float  # probabilities are clipped to [epsilon, 1 - epsilon]
    ignored: tuple[int, ...]
    by_class: npt.NDArray[np.float64] | None
    divisor: Divisor
    counts_as: np.dtype[Any]  # what the scores' dtype counts as
    arithmetic: np.dtype[Any]
    result: np.dtype[Any]
    labels_in_shape: Callable[[Array, tuple[int, ...], int], Array]
    """(labels as they were sent, the losses' shape, the class axis) -> a view in that shape."""
    weights_aligned: Callable[[Array, tuple[int, ...]], Array]
    """(weights as they were sent, the losses' shape) -> a view that broadcasts to that shape."""
    decode: Callable[[Array], tuple[Array, Array]]
    """Labels -> int64 (-1 where ignored), and where they are neither class nor ignored."""
    label_message: Callable[[float, str | None, Ints], str]
    """(value, how it is shown, place among the losses) of a label that is found to be bad when the
    call is long over -> what there is to say of it."""
    weight_message: Callable[[Ints], str]
    """(place among the losses) -> the same of a weight that is missing."""

    def with_rows(self, rows: int) -> "Problem":
        """The same with another length of the first axis, of arrays in C order."""

        def longer(spec: ArraySpec | None) -> ArraySpec | None:
            return None if spec is None else spec._replace(shape=(rows, *spec.shape[1:]))

        x, y, w, dx = (longer(spec) for spec in (self.x, self.y, self.w, self.dx))
        assert x is not None
        assert y is not None
        layout = layout_of(x.shape, self.layout.axis, x.strides)
        return replace(self, layout=layout, layout_with_dx=layout, x=x, y=y, w=w, dx=dx)

    def without_gradient(self) -> "Problem":
        """The same without the gradient: its losses or its value alone."""
        if self.task.reduces:
            return replace(self, task=Task.VALUE, dx=None, layout_with_dx=self.layout)
        # Losses lie in the order of positions that they have beside the gradient.
        return replace(self, task=Task.LOSSES, dx=None, layout=self.layout_with_dx)


class Operands(NamedTuple):
    """The arrays of one call."""

    y: Any
    x: Any
    w: Any = None
    losses: Any = None  # where they (or ranks) go, in the losses' shape
    dx: Any = None
    ranks: Any = None  # where they go beside losses, in the losses' shape
    exact: LossSums | None = None  # what sums are added to, when all is known to be good
    dx_is_new: bool = False  # whether `dx` was allocated for this call, and never written to
    sent_w: Any = None  # the weights as they were sent, where `w` is a copy


class Program(Protocol):
    """What runs the calls of one kind."""

    def run(self, *at: Any) -> Sums:
        """Do what the task says.

        Args:
            at: the fields of `Operands`.

        Raises:
            BadLabel, BadTarget, MissingWeight: nothing is written then, but for losses.
        """
