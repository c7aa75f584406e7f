"""The NumPy engine: a call as array operations on blocks of positions, one thread.

It serves every call, and is the reference for the other engines. Positions are cut into
blocks by shape alone; each block's labels are decoded and checked beside the formulas that use
them, so that no whole copy of labels, weights or scores is made. A gradient is written only after
every label and weight has been checked, for it may go into the caller's own array. Sums are
float64, block by block in the flat order of positions.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_xent.accumulate import LossSums
from sparse_xent.engines import numpy_formulas as formulas
from sparse_xent.engines import numpy_soft_targets as soft_formulas
from sparse_xent.engines.base import (
    NOTHING,
    Array,
    BadLabel,
    BadTarget,
    Found,
    MissingWeight,
    Operands,
    Problem,
    Sums,
    Task,
)
from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels.cpu.abi import LEAST, MOST
from sparse_xent.layout import Layout
from sparse_xent.options import NA_INTEGER

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


def prepare(problem: Problem) -> "NumpyProgram":
    """What runs calls of this kind: any kind."""
    return NumpyProgram(problem)


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


def blocks(layout: Layout, positions: int) -> Iterator[Block]:
    """Cut all positions into blocks of at most `positions`, or one; by shape alone."""
    *rest, outer, inner = [math.prod(layout.shape[a] for a in group) for group in layout.groups]
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


def in_order(array: Array, order: tuple[int, ...], step: int | None) -> Any:
    """An array of the losses' shape as one run of positions: a view, or its .flat iterator.

    Args:
        array: labels or weights.
        order: the layout's.
        step: from position to position, if it is the same everywhere: the layout's `line`.
    """
    ordered = array.transpose(order)
    return ordered.flat if step is None else ordered.reshape(-1)


def weighted(losses: Array, w: Float64) -> Float64:
    """w * l in float64; exactly 0 where w is, even where l is inf or NaN."""
    return np.where(w == 0, 0.0, losses.astype(np.float64, copy=False) * w)


def missing(sample: Array, y: Int64) -> npt.NDArray[np.bool_]:
    """Where a weight that counts is NaN or R's integer NA."""
    w = sample.astype(np.float64, copy=False)
    found: npt.NDArray[np.bool_] = (np.isnan(w) | (w == NA_INTEGER)) & (y >= 0)
    return found


class NumpyProgram:
    """What runs the calls of one kind."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._formula: dict[str, Any] = {
            "scores": problem.scores,
            "smoothing": problem.smoothing,
            "eps": problem.epsilon,
        }

    def run(self, *at: Any) -> Sums:
        """Do what the task says."""
        with np.errstate(all="ignore"):  # infinities and NaN are results
            return self._run(self._shaped(Operands(*at)))

    def _shaped(self, at: Operands) -> Operands:
        """The same with labels and weights in the losses' shape."""
        problem, losses = self._problem, self._problem.layout.losses
        y = at.y
        if problem.targets is None:
            y = problem.labels_in_shape(y, losses, problem.layout.axis)
        w = at.w
        if w is not None:
            w = np.broadcast_to(problem.weights_aligned(w, losses), losses)
        return at._replace(y=y, w=w)

    def _merged(self, at: Operands, layout: Layout) -> Operands:
        """The same with scores, and targets, as the views that blocks are cut from."""
        y = at.y if self._problem.targets is None else merged_view(at.y, layout)
        return at._replace(y=y, x=merged_view(at.x, layout))

    def _run(self, at: Operands) -> Sums:
        problem, layout = self._problem, self._problem.layout
        merged = self._merged(at, layout)
        if problem.task == Task.RANKS:
            return self._ranks(merged)
        if problem.task.sums:
            return self._add_exactly(merged)
        if not problem.task.differentiates:
            return self._losses(merged)
        counted = self._count(merged)
        divisor = problem.divisor.of(counted.kept, counted.weight)
        # Where `dx` is laid out unlike the scores the blocks are others, and with them the order of
        # the sum: a pass of its own gives the value the bits that it has without a gradient.
        alike = layout == problem.layout_with_dx
        alone = None if alike or at.losses is not None else self._losses(merged)
        made = self._gradient(
            merged if alike else self._merged(at, problem.layout_with_dx), divisor
        )
        return counted._replace(total=(alone or made).total, found=made.found)

    def _losses(self, at: Operands) -> Sums:
        """Every w * l into `at.losses` and rank into `at.ranks`, if they are there; the sums."""
        layout, sums = self._problem.layout, _Sums()
        search = _Search(self._problem, layout)
        for block, y, w in self._blocks(at, layout):
            x = self._scores(at, block)
            search.look(x, block.boxed(y), block.start)
            made = weighted(self._nll(at, x, block, y), w)
            sums.add(made, y, w)
            if at.losses is not None:
                at.losses.reshape(-1)[block.start : block.stop] = made
            if at.ranks is not None:
                above = formulas.rank(x, block.boxed(y))
                at.ranks.reshape(-1)[block.start : block.stop] = above.ravel()
        return sums.total(search.found)

    def _add_exactly(self, at: Operands) -> Sums:
        """Add the losses, rounded to the result's dtype, to `at.exact`."""
        problem = self._problem
        weighted = at.w is not None or problem.by_class is not None
        search = _Search(problem, problem.layout)
        assert at.exact is not None
        made = LossSums(at.exact.bounds, squares=at.exact.squares)
        for block, y, w in self._blocks(at, problem.layout):
            x, kept = self._scores(at, block), y >= 0
            search.look(x, block.boxed(y), block.start)
            l = self._nll(at, x, block, y).astype(problem.result, copy=False)
            ranks = formulas.rank(x, block.boxed(y)).ravel() if problem.task.ranks else y
            made.add(l[kept], w[kept] if weighted else None, ranks[kept])
        at.exact.merge(made)  # nothing, where something is refused
        return Sums(0.0, made.count, 0.0, search.found)

    def _count(self, at: Operands) -> Sums:
        """Check every label and weight before anything is written."""
        sums = _Sums()
        for _, y, w in self._blocks(at, self._problem.layout):
            sums.add(w, y, w)
        return sums.total(NOTHING)

    def gradient(
        self, y: Array, x: Array, w: Array | None, losses: Array | None, dx: Array, divisor: float
    ) -> Sums:
        """Write the gradient of sum(w * l) / divisor, and every w * l where losses go somewhere."""
        with np.errstate(all="ignore"):
            at = self._shaped(Operands(y, x, w, losses, dx))
            self._count(self._merged(at, self._problem.layout))
            return self._gradient(self._merged(at, self._problem.layout_with_dx), divisor)

    def _gradient(self, at: Operands, divisor: float) -> Sums:
        """Write the gradient, and every w * l into `at.losses` if it is there; the sums.

        Scores that cannot be probabilities are found before the gradient goes where they are.
        """
        layout, sums = self._problem.layout_with_dx, _Sums()
        dx, search = merged_view(at.dx, layout), _Search(self._problem, layout)
        for block, y, w in self._blocks(at, layout):
            g = w / divisor if divisor != 0 else np.zeros_like(w)
            x = self._scores(at, block)
            search.look(x, block.boxed(y), block.start)
            loss = self._nll_and_grad(at, x, block, y, g, block.of(dx))
            made = weighted(loss, w)
            sums.add(made, y, w)
            if at.losses is not None:
                at.losses.reshape(-1)[block.start : block.stop] = made
        return sums.total(search.found)

    def _ranks(self, at: Operands) -> Sums:
        layout = self._problem.layout
        for block, y, _ in self._blocks(at, layout):
            above = formulas.rank(self._scores(at, block), block.boxed(y))
            at.losses.reshape(-1)[block.start : block.stop] = above.ravel()
        return Sums(0.0, 0, 0.0, NOTHING)

    def _blocks(self, at: Operands, layout: Layout) -> Iterator[tuple[Block, Int64, Float64]]:
        """Each block with its labels and weights, checked: flat, in the order of positions."""
        problem = self._problem
        order, weights, targets = layout.order, None, None
        if problem.targets is None:
            labels = in_order(at.y, order, layout.line(at.y.strides))
        else:  # no position is ignored
            labels, targets = np.zeros(layout.count, np.int64), at.y
        if at.w is not None:
            weights = in_order(at.w, order, layout.line(at.w.strides))
        bytes_of_a_row = layout.classes * problem.arithmetic.itemsize
        for block in blocks(layout, max(1, formulas.BLOCK_BYTES // bytes_of_a_row)):
            here = slice(block.start, block.stop)
            y, bad = problem.decode(labels[here])
            if bad.any():
                raise BadLabel
            if targets is not None and not (block.of(targets) >= 0).all():
                raise BadTarget  # NaN is not >= 0 either
            yield block, y, self._weights(None if weights is None else weights[here], y)

    def _weights(self, sample: Array | None, y: Int64) -> Float64:
        """One weight a position: 0 where y < 0, whose weights are not read."""
        if sample is None:
            w = np.ones(y.shape)
        else:
            w = sample.astype(np.float64)  # a copy: the caller's weights stay as they are
            if missing(w, y).any():
                raise MissingWeight
        if self._problem.by_class is not None:
            w *= self._problem.by_class[np.maximum(y, 0)]
        w[y < 0] = 0
        return w

    def _nll(self, at: Operands, x: Array, block: Block, y: Int64) -> Array:
        if self._problem.targets is not None:
            return self._soft(at, x, block)[0].ravel()
        loss: Array = formulas.nll(x, block.boxed(y), **self._formula)
        return loss.ravel()

    def _nll_and_grad(
        self, at: Operands, x: Array, block: Block, y: Int64, g: Float64, dx: Array
    ) -> Array:
        if self._problem.targets is None:
            boxed = block.boxed(y), block.boxed(g)
            loss: Array = formulas.nll_and_grad(x, *boxed, out=dx, **self._formula)[0]
            return loss.ravel()
        loss, gradient = self._soft(at, x, block)
        factor = block.boxed(g)[:, None]  # float64: a product may fit where the factor does not
        nothing = (factor == 0) | (gradient == 0)  # whatever the other is, inf too
        np.copyto(dx, np.where(nothing, 0, gradient * factor), casting="unsafe")
        return loss.ravel()

    def _soft(self, at: Operands, x: Array, block: Block) -> tuple[Array, Array]:
        return soft_formulas.nll_and_grad(x, block.of(at.y), **self._formula)

    def _scores(self, at: Operands, block: Block) -> Array:
        """The block's scores; a dtype that is not computed in is converted, block by block."""
        x = block.of(at.x)
        if x.dtype != self._problem.counts_as:
            x = x.astype(self._problem.counts_as)
        if self._problem.arithmetic == np.float64:
            x = x.astype(np.float64, copy=False)
        return x


def merged_view(array: Array, layout: Layout) -> Array:
    """An array of y_pred's shape as [*rest, outer, C, inner]: the axes of a group merge."""
    *before, inner = layout.groups
    axes = [*itertools.chain(*before), layout.axis, *inner]
    idle = [a for a in range(array.ndim) if a not in axes]
    return array.transpose(*idle, *axes).reshape(layout.merged)


class _Sums:
    """Sums over blocks: NumPy's pairwise float64 sum within each and over all."""

    def __init__(self) -> None:
        self._parts: list[float] = []
        self._weights: list[float] = []
        self._kept = 0

    def add(self, made: Array, y: Int64, w: Array) -> None:
        self._parts.append(float(np.sum(made)))
        self._weights.append(float(np.sum(w)))
        self._kept += int(np.count_nonzero(y >= 0))

    def total(self, found: Found) -> Sums:
        total, weight = float(np.sum(self._parts)), float(np.sum(self._weights))
        return Sums(total, self._kept, weight, found)


class _Search:
    """Looks for rows of probabilities that cannot be any, block by block."""

    def __init__(self, problem: Problem, layout: Layout) -> None:
        self.found = NOTHING
        self._layout, self._arithmetic = layout, problem.arithmetic
        self._looks = problem.scores != ScoreKind.LOGITS
        # The target's score alone enters the loss.
        self._target_only = problem.scores == ScoreKind.CLIP and problem.smoothing == 0

    def look(self, x: Array, y: Array, start: int) -> None:
        """Look at a block.

        Args:
            x: scores [outer, C, inner].
            y: labels [outer, inner], negative where ignored.
            start: the block's first position, in the flat order of positions.
        """
        if not self._looks:
            return
        x = x.astype(self._arithmetic, copy=False)  # halves would round the bounds
        targets = np.maximum(y, 0)[:, None]
        seen = np.take_along_axis(x, targets, axis=1) if self._target_only else x
        bad = (seen < LEAST) | (seen > MOST)
        rows = bad.any(axis=1) & (y >= 0)
        if not rows.any():
            return
        places = self._layout.c_order(start + np.flatnonzero(rows))
        k = int(places.argmin())
        outer, inner = (int(axis[k]) for axis in np.nonzero(rows))
        row = x[outer, :, inner].astype(np.float64)
        column = int(bad[outer, :, inner].argmax())
        if self._target_only:
            column = int(y[outer, inner])
        here = Found(
            rows=len(places),
            first=int(places[k]),
            column=column,
            score=float(row[column]),
            least=float(np.fmin.reduce(row)),
            most=float(np.fmax.reduce(row)),
            total=float(row.sum()),
            whole=bool(np.isfinite(row).all() and (row == np.floor(row)).all()),
        )
        self.found = self.found.joined(here)
