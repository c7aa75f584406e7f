"""Calls whose scores are chunked (dask): one task a block, lazy results, exact sums.

A task does for its block what a call does for an array: kernels, checks and messages are the same,
and a message names the position in the whole. Kernels run serially in a task, for the scheduler
runs several. A value is the sum of w * l without rounding, so that no chunking can be seen in it.

Logits whose classes are in several chunks travel as row states (`shards`), unless their labels are
smoothed. All other scores of that kind are brought together in blocks of whole rows first.

Notation: x scores, y labels, t labels decoded, w weights, l losses, dx the gradient.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_xent import config, dtypes, labels, shards, soft_targets, weights
from sparse_xent.accumulate import LossSums
from sparse_xent.arrays import dask as arrays
from sparse_xent.arrays.base import ArraySpec, dense_strides
from sparse_xent.arrays.refusals import EXPECTED, refuse_dtype
from sparse_xent.engines.base import Divisor
from sparse_xent.engines.numpy import weighted
from sparse_xent.layout import Layout, layout_of
from sparse_xent.options import Options, Reduction
from sparse_xent.origin import in_whole, starting_at

Array = npt.NDArray[Any]
Dask = Any
First = tuple[int, ...]  # where a block begins along each axis

PerLabel = Callable[[Any, Any, Any, Options], Any]
"""(y, x, w, options) of a block -> one number a label, times its weight."""
SumsOf = Callable[[Any, Any, Any, Options], LossSums]
"""The same -> the exact sums of a block."""
Gradient = Callable[[Any, Any, Any, float, Options], tuple[Any, Any]]
"""(y, x, w, divisor, options) of a block -> its losses, without weights, and the gradient of
sum(w * l) / divisor."""

is_lazy = arrays.is_lazy


# ---- calls --------------------------------------------------------------------------------------


def losses(of: PerLabel, y_true: Any, y_pred: Any, sample_weight: Any, options: Options) -> Any:
    """One loss a label, times its weights; lazy, of the losses' shape.

    Args:
        of: what gives the losses of a block.
        y_true: labels, or soft targets.
        y_pred: scores.
        sample_weight: weights, if any.
        options: of the loss.
    """
    call = _Call(y_true, y_pred, sample_weight, options)
    return call.like(call.weighted(call.losses(of)), call.axis)


def value(of: SumsOf, y_true: Any, y_pred: Any, sample_weight: Any, options: Options) -> Any:
    """The reduced value; lazy, 0-d. The arguments are those of `losses`, but for sums."""
    call = _Call(y_true, y_pred, sample_weight, options)
    return call.like(call.reduced(call.sums(of)))


def value_and_grad(
    of: Gradient, y_true: Any, y_pred: Any, sample_weight: Any, out: Any, options: Options
) -> tuple[Any, Any]:
    """The value (or every loss) and its derivative with respect to y_pred, from one task a block.

    Both are lazy: compute them together, or each block is done twice.
    """
    if out is not None:
        raise TypeError(
            f"out must be None where y_pred is lazy, got a {type(out).__name__}: the gradient is "
            "lazy too; dask.array.store(gradient, out) writes it"
        )
    call = _Call(y_true, y_pred, sample_weight, options)
    l, dx = call.losses_and_gradient(of)
    if options.reduction is Reduction.NONE:
        return call.like(call.weighted(l), call.axis), call.like(dx)
    return call.like(call.reduced(call.sums_of(l))), call.like(dx)


def values(
    of: PerLabel,
    y_true: Any,
    y_pred: Any,
    sample_weight: Any,
    options: Options,
    soft: bool = False,
) -> Any:
    """A metric's value for each label, times its weight; lazy, of the losses' shape.

    Args:
        of: what gives the values of a block.
        y_true: labels, or soft targets.
        y_pred: scores.
        sample_weight: weights, if any.
        options: of the metric, with the values' dtype.
        soft: whether there are soft targets.
    """
    call = _Call(y_true, y_pred, sample_weight, options, soft, whole_rows=True)
    return call.like(call.mapped(of, options, call.w, dtype=options.dtype), call.axis)


def state(
    of: Callable[[Any, Any, Any, Options], Any],
    merge: Callable[[list[Any]], Any],
    y_true: Any,
    y_pred: Any,
    sample_weight: Any,
    options: Options,
    soft: bool = False,
) -> Any:
    """The merged state of all blocks, computed here and now.

    Args:
        of: (y, x, w, options) of a block -> its state.
        merge: one state of several.
        y_true: labels, or soft targets.
        y_pred: scores.
        sample_weight: weights, if any.
        options: of the call.
        soft: whether there are soft targets.
    """
    call = _Call(y_true, y_pred, sample_weight, options, soft, whole_rows=True)
    states = call.mapped(of, options, call.w, dtype=object)
    return arrays.merged(states, merge).compute().item()


class _Call:
    """The operands of a call, checked by shape and dtype, in equal blocks."""

    def __init__(
        self,
        y_true: Any,
        y_pred: Any,
        sample_weight: Any,
        options: Options,
        soft: bool = False,
        whole_rows: bool = False,
    ) -> None:
        soft = soft or options.soft
        if options.device is not None:
            raise TypeError(
                "device must be None where y_pred is lazy, got "
                f"'cuda:{options.device}': blocks that lie on a device are served there"
            )
        self._sent = y_pred
        x = _plain(y_pred, "y_pred")
        layout = layout_of(x.shape, options.axis, dense_strides(x.shape, x.dtype.itemsize))
        self.axis = axis = layout.axis
        if options.epsilon is None:  # this process's, whichever does the work
            options = options.changed(epsilon=config.config_epsilon())
        names = arrays.names_of_axes(y_pred)
        y = _targets(y_true, x, names) if soft else None
        names = names[:axis] + names[axis + 1 :]
        t = _labels(None if soft else y_true, names, layout, options)
        w = _weights(sample_weight, names, layout)
        as_states = options.from_logits and not (options.label_smoothing or soft)
        self._is_split = x.numblocks[axis] > 1 and as_states and not whole_rows
        self.x = x if self._is_split else arrays.whole_rows(x, axis)
        self._labels = arrays.aligned(t, self.x, axis)
        self._targets = None
        if y is not None:
            self._targets = arrays.in_chunks(y, dict(enumerate(self.x.chunks)))
        self.w = None if w is None else arrays.aligned(w, self.x, axis)
        self._counts_as = dtypes.counts_as(x.dtype)
        self._dtype = options.dtype or self._counts_as
        self._wide = dtypes.arithmetic(self._counts_as, options.dtype)
        start, name = in_whole([0] * (x.ndim - 1)), f"{x.name} {self._labels.name}"
        self._part = _Part(layout.classes, axis, options, start, name)
        if self._is_split:
            decoded = partial(_decoded, self._part)
            self._labels = arrays.mapped(decoded, self._labels, dtype=np.int64)
            self._part = replace(self._part, options=options.changed(ignore_class=(-1,)))

    def like(self, made: Dask, axis: int | None = None) -> Any:
        """A result of the kind of y_pred; `axis` is the class axis where it has none."""
        return arrays.like(self._sent, made, axis)

    def mapped(self, of: Callable[..., Any], options: Options, w: Dask | None, dtype: Any) -> Dask:
        """What a function of labels, scores, weights and options gives for each block of rows."""
        options = options.changed(epsilon=self._part.options.epsilon)
        task = partial(_of_block, of, options)
        return self._of_scores(task, w, dtype=dtype, drop=dtype is not object)

    def _of_scores(
        self, task: Callable[..., Any], *others: Dask | None, dtype: Any, drop: bool = False
    ) -> Dask:
        """task(part, first, x, y, *others) of each block; without the class axis where `drop`."""
        y = self._labels if self._targets is None else self._targets
        task = partial(task, self._part)
        return arrays.mapped(task, self.x, y, *others, dtype=dtype, axis=self.axis, drop=drop)

    def losses(self, of: PerLabel) -> Dask:
        """Every loss, without weights, in the dtype that it is computed in."""
        if self._is_split:
            return self._losses_of(self._states())
        bare = self._part.options.changed(class_weight=None, dtype=self._wide)
        return self.mapped(of, bare, None, dtype=self._wide)

    def losses_and_gradient(self, of: Gradient) -> tuple[Dask, Dask]:
        """The same, and the gradient."""
        divisor = self._divisor()
        if self._is_split:
            states = self._states()
            w = arrays.mapped(
                partial(_all_weights, self._part), self._labels, self.w, dtype=np.float64
            )
            dx = self._of_scores(
                partial(_shard_gradient, self._wide), states, w, divisor, dtype=self._counts_as
            )
            return self._losses_of(states), dx
        bare = self._part.options.changed(dtype=self._wide)
        task = partial(_losses_and_gradient, of, bare)
        pairs = self._of_scores(task, self.w, divisor, dtype=object)
        l = arrays.item(pairs, self.x, self._wide, 0, drop=self.axis)
        return l, arrays.item(pairs, self.x, self._counts_as, 1)

    def _states(self) -> Dask:
        """The row state of each block of rows, from those of its shards."""
        shard = self._of_scores(partial(_shard_state, self._wide), dtype=object)
        return arrays.merged(shard, _merged_rows, axis=self.axis)

    def _losses_of(self, states: Dask) -> Dask:
        return arrays.mapped(partial(_finished, self._wide), self._labels, states, dtype=self._wide)

    # ---- weights, and what there is of each loss ----

    def weighted(self, l: Dask) -> Dask:
        """Every loss times its weight, in the result's dtype."""
        task = partial(_weighted, self._part, self._dtype)
        return arrays.mapped(task, l, self._labels, self.w, dtype=self._dtype)

    def sums(self, of: SumsOf) -> Dask:
        """The exact sums of each block, from one read of its scores."""
        if self._is_split:
            return self.sums_of(self._losses_of(self._states()))
        return self.mapped(of, self._part.options.changed(dtype=self._wide), self.w, dtype=object)

    def sums_of(self, l: Dask | None) -> Dask:
        """The same of losses without weights; of labels and weights alone if None."""
        return arrays.mapped(partial(_sums, self._part), self._labels, self.w, l)

    def reduced(self, sums: Dask) -> Dask:
        """The value."""
        finish = partial(_value, weights.divisor(self._part.options.reduction), self._dtype)
        return arrays.merged(sums, _joined, finish, self._dtype)

    def _divisor(self) -> Dask:
        """What sum(w * l) is divided by: known, or found from labels and weights alone; 0-d."""
        kind = weights.divisor(self._part.options.reduction)
        if kind is not Divisor.WEIGHT and not self._part.options.ignore_class:
            return np.float64(kind.of(self._labels.size, 0.0))
        finish = partial(_divided_by, kind)
        return arrays.merged(self.sums_of(None), _joined, finish, np.float64)


# ---- operands -----------------------------------------------------------------------------------


def _plain(
    value: Any, argument: str, names: tuple[Any, ...] = (), expected: str | None = None
) -> Any:
    """A lazy array, of numbers; what is not lazy as it is."""
    array = arrays.plain(value, argument, names)
    if is_lazy(array) and not dtypes.is_number(array.dtype):
        refuse_dtype(array.dtype, argument, expected or EXPECTED[argument])
    return array


def _labels(y_true: Any, names: tuple[Any, ...], layout: Layout, options: Options) -> Any:
    """The labels in the losses' shape; for soft targets zeros, of which none is ignored."""
    if y_true is None:
        return np.broadcast_to(np.int8(0), layout.losses)
    y = _plain(y_true, "y_true", names)
    if not is_lazy(y):
        y = labels.array_of(y)
    spec = ArraySpec.dense(y.shape, y.dtype)
    return labels.read(spec, layout, options.ignore_class, y_true).shaped(y)


def _targets(y_true: Any, x: Dask, names: tuple[Any, ...]) -> Any:
    """Soft targets, of the scores' shape."""
    y = _plain(y_true, "y_true", names, "numbers (a weight for each class)")
    if is_lazy(y):
        soft_targets.check_shape(y.shape, x.shape)
        return y
    return soft_targets.array_of(y, np.broadcast_to(np.float32(0.5), x.shape))


def _weights(sample_weight: Any, names: tuple[Any, ...], layout: Layout) -> Any:
    """The weights with the losses' number of axes, each as long as theirs or 1."""
    if sample_weight is None:
        return None
    w = _plain(sample_weight, "sample_weight", names)
    if not is_lazy(w):
        w = weights.array_of(w)
    weights.read(ArraySpec.dense(w.shape, w.dtype), layout, sample_weight)
    return weights.aligned(w, layout.losses)


# ---- tasks --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    """What every task of a call knows."""

    classes: int
    axis: int
    options: Options
    start: list[int]  # where the call's data begin in data of which they are a part
    call: str  # names the call

    @contextmanager
    def starting_at(self, first: First, has_classes: bool = False) -> Iterator[None]:
        """What is done for the block that begins there."""
        if has_classes:
            first = first[: self.axis] + first[self.axis + 1 :]
        first = tuple(map(operator.add, self.start, first))
        with (
            starting_at(*first, call=self.call),
            config.serial(),
            np.errstate(all="ignore"),  # infinities and NaN are results
        ):
            yield

    def labels(self, y: Array) -> Array:
        """Labels of the losses' shape, decoded: -1 where ignored."""
        layout = self._layout(y)
        return labels.decoded(y, layout, self.options.ignore_class, y, None)

    def weights(self, y: Array, w: Array | None) -> tuple[Any, Array | None]:
        """Which labels count, and a weight for each label; None where all of these weigh 1."""
        by_class = weights.by_class(self.options, self.classes)
        if w is None and by_class is None and not self.options.ignore_class:
            return ..., None
        t = self.labels(y)
        made = None if w is None else weights.counted(w, self._layout(y), t, w)
        if by_class is not None:
            of_class = np.where(t < 0, 0.0, by_class[t])
            made = of_class if made is None else made * of_class
        return t >= 0, made

    def _layout(self, y: Array) -> Layout:
        shape = (*y.shape[: self.axis], self.classes, *y.shape[self.axis :])
        return layout_of(shape, self.axis, dense_strides(shape, 1))


def _of_block(
    of: Callable[..., Any], options: Options, part: _Part, first: First, x: Array, y: Array, w: Any
) -> Any:
    with part.starting_at(first, True):
        return of(y, x, w, options)


def _losses_and_gradient(
    of: Gradient, options: Options, part: _Part, first: First, x: Array, y: Array, w: Any, by: Any
) -> tuple[Any, Any]:
    with part.starting_at(first, True):
        return of(y, x, w, float(by), options)


def _weighted(part: _Part, dtype: Any, first: First, l: Array, y: Array, w: Array | None) -> Array:
    with part.starting_at(first):
        w = part.weights(y, w)[1]
        return (l if w is None else weighted(l, w)).astype(dtype, copy=False)


def _decoded(part: _Part, first: First, y: Array) -> Array:
    with part.starting_at(first):
        return part.labels(y)


def _all_weights(part: _Part, first: First, y: Array, w: Array | None) -> Array:
    with part.starting_at(first):
        made = part.weights(y, w)[1]
        return np.ones(y.shape) if made is None else made


# ---- sums ---------------------------------------------------------------------------------------


def _sums(part: _Part, first: First, y: Array, w: Array | None, l: Array | None) -> LossSums:
    """Exact sums of the labels of a block that count."""
    made = LossSums()
    with part.starting_at(first):
        kept, w = part.weights(y, w)
        l = np.zeros(y.shape) if l is None else l
        made.add(np.ravel(l[kept]), None if w is None else np.ravel(w[kept]), None)
    return made


def _joined(sums: list[LossSums]) -> LossSums:
    made = LossSums()
    for one in sums:
        made.merge(one)
    return made


def _divided_by(kind: Divisor, sums: LossSums) -> np.float64:
    """What the total is divided by."""
    return np.float64(kind.of(sums.count, float(sums.sums["w"])))


def _value(kind: Divisor, dtype: Any, sums: LossSums) -> Any:
    """The value, rounded once to float64 and then to its dtype."""
    total, weight = sums.sums["wl"], sums.sums["w"]
    with np.errstate(all="ignore"):
        if kind is not Divisor.WEIGHT:
            return dtype.type(total.over(Fraction(kind.of(sums.count, 0.0))))
        return dtype.type(total.over(weight.fraction()) if weight.finite else math.nan)


# ---- rows whose classes are in several blocks ---------------------------------------------------


def _shard_state(wide: Any, part: _Part, first: First, x: Array, t: Array) -> shards.RowState:
    x = x.astype(wide, copy=False)
    return shards.row_partial(x, t, first[part.axis], axis=part.axis, ignore_class=-1)


def _merged_rows(states: list[shards.RowState]) -> shards.RowState:
    return shards.merge_rows(*states)


def _finished(wide: Any, first: First, t: Array, state: Array) -> Array:
    return np.asarray(shards.finish_rows(state.item(), reduction=None)).astype(wide, copy=False)


def _shard_gradient(
    wide: Any, part: _Part, first: First, x: Array, t: Array, state: Array, w: Array, divisor: Any
) -> Array:
    """The gradient of a shard's logits."""
    with np.errstate(all="ignore"):
        g = w / divisor if divisor != 0 else np.zeros_like(w)
    x_wide = x.astype(wide, copy=False)
    made = shards.grad_from_rows(
        x_wide, t, first[part.axis], state.item(), sample_weight=g, reduction="sum"
    )
    with np.errstate(all="ignore"):
        return np.asarray(made).astype(dtypes.counts_as(x.dtype), copy=False)
