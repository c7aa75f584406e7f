"""Shapes and strides -> how the kernels see them: integers only, so that the cache keeps them.

The kernels see [outer, C, inner]: C the class axis, and the positions (one loss each) before and
behind it. To get there the position axes are sorted by stride, longest first, and neighbours that
step through memory as one axis are merged. C order, Fortran order (every R matrix) and every other
dense order then leave at most one axis on each side of C; what a strided view leaves beyond that
stays in front as `rest`, whose slabs are taken one after the other.

The flat order of positions is (rest, outer, inner), C order. It is set by shapes and strides
alone; labels, weights and losses are read and written in it.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Ints = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """How one call's arrays are walked; `groups` are merged axes, as axes of y_pred."""

    shape: Ints
    axis: int
    groups: tuple[Ints, ...]  # (*rest, outer, inner); an empty group has length 1

    @property
    def classes(self) -> int:
        """C, the length of the class axis."""
        return self.shape[self.axis]

    @property
    def losses(self) -> Ints:
        """Shape of the losses: y_pred's without the class axis."""
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]

    @property
    def count(self) -> int:
        """How many positions, and losses, there are."""
        return math.prod(self.losses)

    @property
    def order(self) -> Ints:
        """The losses' axes in the order in which positions run; those of length 1 go first."""
        used = [a for group in self.groups for a in group]
        idle = [a for a in range(len(self.shape)) if a != self.axis and a not in used]
        return tuple(a - (a > self.axis) for a in idle + used)

    @property
    def ordered_losses(self) -> Ints:
        """Lengths of the losses' axes in that order."""
        losses = self.losses
        return tuple(losses[a] for a in self.order)

    @property
    def merged(self) -> Ints:
        """Lengths of [*rest, outer, C, inner]."""
        *before, inner = [math.prod(self.shape[a] for a in group) for group in self.groups]
        return (*before, self.classes, inner)

    def view(self, strides: Ints) -> tuple[Ints, Ints]:
        """Shape and strides of an array of y_pred's shape as [*rest, outer, C, inner]."""
        *before, inner = [self._merged(strides, group) for group in self.groups]
        axes = [*before, (self.classes, strides[self.axis]), inner]
        return tuple(n for n, _ in axes), tuple(step for _, step in axes)

    def line(self, strides: Ints) -> int | None:
        """The step in bytes from position to position, of an array of the losses' shape.

        None where its elements are not one step apart in the order of positions.
        """
        losses = self.losses
        axes = [(losses[a], strides[a]) for a in self.order if losses[a] > 1]
        if any(a[1] != b[0] * b[1] for a, b in pairwise(axes)):
            return None
        return axes[-1][1] if axes else 0

    def place(self, position: int) -> Ints:
        """Where a position stands among the losses."""
        order = self.order
        index = np.unravel_index(position, self.ordered_losses) if order else ()
        where = dict(zip(order, index, strict=True))
        return tuple(int(where[a]) for a in range(len(order)))

    def c_order(self, positions: Array) -> Array:
        """Where positions stand among the losses, flat in C order."""
        order = self.order
        if order == tuple(sorted(order)):
            return positions
        index = np.unravel_index(positions, self.ordered_losses)
        places: Array = np.ravel_multi_index([index[a] for a in np.argsort(order)], self.losses)
        return places

    def c_order_of_slabs(self) -> Array | None:
        """For each slab what the kernels need to find `c_order`; None where positions have it.

        A row of int64 each: where the first position stands, how many axes a slab has, and the
        length and the step of each, from the innermost on.
        """
        order, (*rest, outer, inner) = self.order, self.groups
        if not rest and order == tuple(sorted(order)):
            return None
        slabs = [math.prod(self.shape[a] for a in group) for group in rest]
        positions = np.arange(math.prod(slabs)) * (self.count // math.prod(slabs))
        own = [a - (a > self.axis) for a in outer + inner][::-1]
        axes = [n for a in own for n in (self.losses[a], math.prod(self.losses[a + 1 :]))]
        rows = [[place, len(own), *axes] for place in self.c_order(positions).tolist()]
        return np.array(rows, np.int64)

    def _merged(self, strides: Ints, group: Ints) -> tuple[int, int]:
        if not group:
            return 1, 0
        return math.prod(self.shape[a] for a in group), strides[group[-1]]


@lru_cache(maxsize=1000)
def layout_of(shape: Ints, axis: int, *strides: Ints) -> Layout:
    """The layout of a call.

    Args:
        shape: y_pred's.
        axis: the class axis, as it was given.
        strides: in bytes: y_pred's, and those of all others of its shape that are walked beside it.

    Raises:
        ValueError: there is no such axis, or no class along it.
    """
    axis = _checked(shape, axis)
    axes = [a for a in range(len(shape)) if a != axis and shape[a] > 1]
    if 0 in shape:  # no position is walked; any grouping will do
        return Layout(shape, axis, (tuple(a for a in range(len(shape)) if a != axis), ()))
    axes.sort(key=lambda a: [-abs(steps[a]) for steps in strides])
    groups: list[Ints] = []
    for a in axes:
        if groups and all(steps[groups[-1][-1]] == shape[a] * steps[a] for steps in strides):
            groups[-1] += (a,)
        else:
            groups.append((a,))
    inner: Ints = ()
    if groups and abs(strides[0][groups[-1][-1]]) < abs(strides[0][axis]):
        inner = groups.pop()
    # The longest of what is left is walked by the kernel, the others around it.
    outer = max(groups, key=lambda group: math.prod(shape[a] for a in group), default=())
    rest = [group for group in groups if group != outer]
    return Layout(shape, axis, (*rest, outer, inner))


def _checked(shape: Ints, axis: int) -> int:
    if not shape:
        raise ValueError("y_pred must have a class axis, got a single number (0-d)")
    if not -len(shape) <= axis < len(shape):
        raise ValueError(
            f"axis must be between {-len(shape)} and {len(shape) - 1} for y_pred of shape {shape}, "
            f"got {axis} (0-based; -1 is the last)"
        )
    axis %= len(shape)
    if shape[axis] == 0:
        raise ValueError(
            f"y_pred must have at least one class, got 0 along axis {axis} of shape {shape}"
        )
    return axis
