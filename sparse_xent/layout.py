"""Shapes and strides -> how the kernels see them, judged once: views, never a copy of y_pred.

The kernels see [outer, C, inner]: C the class axis, and the positions (one loss each) before and
behind it. To get there the position axes are sorted by stride, longest first, and neighbours that
step through memory as one axis are fused. C order, Fortran order (every R matrix) and every other
dense order then leave at most one axis on each side of C; what a strided view leaves beyond that
stays in front as `rest`, whose slabs are taken one after the other.

The flat order of positions is (rest, outer, inner), C order. It is set by shapes and strides
alone; labels, weights and losses are read and written in it, block by block.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Block:
    """A run of positions [start, stop) that is a box of one slab: x[rest][outer, :, inner]."""

    rest: tuple[int, ...]
    outer: slice
    inner: slice
    start: int
    stop: int

    def of(self, view: Array) -> Array:
        """This block of a view [*rest, outer, C, inner]: [outer, C, inner]."""
        slab: Array = view[self.rest] if self.rest else view
        return slab[self.outer, :, self.inner]

    def boxed(self, flat: Array) -> Array:
        """A flat run of the block's positions as [outer, inner]."""
        return flat.reshape(self.outer.stop - self.outer.start, -1)


@dataclass(frozen=True, slots=True)
class Layout:
    """How one call's arrays are walked; `groups` are fused axes, as axes of y_pred."""

    shape: tuple[int, ...]
    axis: int
    groups: tuple[tuple[int, ...], ...]  # (*rest, outer, inner); an empty group has length 1

    @property
    def classes(self) -> int:
        """C, the length of the class axis."""
        return self.shape[self.axis]

    @property
    def losses(self) -> tuple[int, ...]:
        """Shape of the losses: y_pred's without the class axis."""
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]

    @property
    def count(self) -> int:
        """How many positions, and losses, there are."""
        return math.prod(self.losses)

    def steps(self, array: Array) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shape and strides of an array of y_pred's shape as [*rest, outer, C, inner]."""
        *before, inner = [_fused(array, group) for group in self.groups]
        axes = [*before, (self.classes, array.strides[self.axis]), inner]
        return tuple(n for n, _ in axes), tuple(step for _, step in axes)

    def scores(self, array: Array) -> Array:
        """View of an array of y_pred's shape as [*rest, outer, C, inner]."""
        return as_strided(array, *self.steps(array))

    def positions(self, array: Array) -> "Array | np.flatiter[Array]":
        """An array of the losses' shape as one run of positions: a view, or its .flat iterator."""
        ordered = array.transpose(self._order())
        if _steps_as_one(ordered):
            return _line(ordered)
        return ordered.flat

    def unflatten(self, flat: Array) -> Array:
        """The losses' shape of a run of all positions: a view."""
        order = self._order()
        ordered = flat.reshape([self.losses[a] for a in order])
        return ordered.transpose(np.argsort(order)) if order else ordered

    def place(self, position: int) -> tuple[int, ...]:
        """Where a position stands among the losses."""
        order = self._order()
        walked = np.unravel_index(position, [self.losses[a] for a in order]) if order else ()
        where = dict(zip(order, walked, strict=True))
        return tuple(int(where[a]) for a in range(len(order)))

    def c_order(self, positions: Array) -> Array:
        """Where positions stand among the losses, flat in C order."""
        order = self._order()
        if order == sorted(order):
            return positions
        walked = np.unravel_index(positions, [self.losses[a] for a in order])
        index = [walked[order.index(a)] for a in range(len(order))]
        places: Array = np.ravel_multi_index(index, self.losses)
        return places

    def c_order_of_slabs(self) -> Array | None:
        """For each slab what `kernels.implausible` is told of `c_order`; None where it is flat.

        A row of int64 each: where the first position stands, how many axes a slab has, and the
        length and the step of each, from the innermost on.
        """
        order, (*rest, outer, inner) = self._order(), self.groups
        if not rest and order == sorted(order):
            return None
        slabs = [math.prod(self.shape[a] for a in group) for group in rest]
        positions = np.arange(math.prod(slabs)) * (self.count // math.prod(slabs))
        own = [a - (a > self.axis) for a in outer + inner][::-1]
        axes = [n for a in own for n in (self.losses[a], math.prod(self.losses[a + 1 :]))]
        rows = [[place, len(own), *axes] for place in self.c_order(positions).tolist()]
        return np.array(rows, np.int64)

    def blocks(self, positions: int) -> Iterator[Block]:
        """Cut all positions into blocks of at most `positions`, or one; by shape alone."""
        *rest, outer, inner = [math.prod(self.shape[a] for a in group) for group in self.groups]
        wide = max(1, min(inner, positions))
        tall = max(1, positions // inner) if inner else 1
        start = 0
        for index in np.ndindex(*rest):
            for o in range(0, outer, tall):
                rows = slice(o, min(o + tall, outer))
                for i in range(0, inner, wide):
                    columns = slice(i, min(i + wide, inner))
                    stop = start + (rows.stop - o) * (columns.stop - i)
                    yield Block(index, rows, columns, start, stop)
                    start = stop

    def _order(self) -> list[int]:
        """The losses' axes in the order in which positions run; those of length 1 go first."""
        walked = [a for group in self.groups for a in group]
        idle = [a for a in range(len(self.shape)) if a != self.axis and a not in walked]
        return [a - (a > self.axis) for a in idle + walked]


def judge(x: Array, axis: int, *others: Array) -> Layout:
    """The layout of a call, for y_pred and all others of its shape that are walked beside it."""
    axis = _checked(x, axis)
    arrays = [x, *others]
    axes = [a for a in range(x.ndim) if a != axis and x.shape[a] > 1]
    if x.size == 0:  # no position is walked; any grouping will do
        return Layout(x.shape, axis, (tuple(a for a in range(x.ndim) if a != axis), ()))
    axes.sort(key=lambda a: [-abs(array.strides[a]) for array in arrays])
    groups: list[tuple[int, ...]] = []
    for a in axes:
        if groups and all(
            array.strides[groups[-1][-1]] == array.shape[a] * array.strides[a] for array in arrays
        ):
            groups[-1] += (a,)
        else:
            groups.append((a,))
    inner: tuple[int, ...] = ()
    if groups and abs(x.strides[groups[-1][-1]]) < abs(x.strides[axis]):
        inner = groups.pop()
    # The longest of what is left is walked by the kernel, the others around it.
    outer = max(groups, key=lambda group: math.prod(x.shape[a] for a in group), default=())
    rest = [group for group in groups if group != outer]
    return Layout(x.shape, axis, (*rest, outer, inner))


def _checked(x: Array, axis: int) -> int:
    if x.ndim == 0:
        raise ValueError("y_pred must have a class axis, got a single number (0-d)")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(
            f"axis must be between {-x.ndim} and {x.ndim - 1} for y_pred of shape {x.shape}, "
            f"got {axis} (0-based; -1 is the last)"
        )
    axis %= x.ndim
    if x.shape[axis] == 0:
        raise ValueError(
            f"y_pred must have at least one class, got 0 along axis {axis} of shape {x.shape}"
        )
    return axis


def _fused(array: Array, group: tuple[int, ...]) -> tuple[int, int]:
    if not group:
        return 1, 0
    return math.prod(array.shape[a] for a in group), array.strides[group[-1]]


def _steps_as_one(array: Array) -> bool:
    if array.ndim == 1:
        return True
    walked = [(n, s) for n, s in zip(array.shape, array.strides, strict=True) if n > 1]
    return all(a[1] == b[0] * b[1] for a, b in pairwise(walked))


def _line(array: Array) -> Array:
    if array.flags.c_contiguous:
        return array.reshape(-1)
    step = next(
        (s for n, s in zip(array.shape[::-1], array.strides[::-1], strict=True) if n > 1), 0
    )
    return as_strided(array, (array.size,), (step,))
