"""One call carried through: blocks of positions -> labels, weights, kernel, sum.

This room decides the order of things. Positions are cut into blocks by shape alone; each block's
labels are lowered and checked beside the kernel that uses them, so that no whole copy of labels,
weights or scores is made. A gradient is written only after every label and weight has been
checked, for it may go into the caller's own array. Sums are float64, block by block in the flat
order of positions, so that shape and layout alone set their order.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, ParamSpec, Self, TypeVar

import numpy as np
import numpy.typing as npt

from sparse_xent import config, implausible, labels, weights
from sparse_xent.arrays import numpy as arrays
from sparse_xent.engines import numpy as numpy_engine
from sparse_xent.implausible import Found
from sparse_xent.kernels import ScoreKind
from sparse_xent.layout import Block, Layout, judge
from sparse_xent.options import Options, float_dtype, read

Array = npt.NDArray[Any]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
_P = ParamSpec("_P")
_R = TypeVar("_R")


def _quiet(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Infinities and NaN among losses and weights are results here, not news: no call warns."""

    @wraps(function)
    def quiet(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with np.errstate(all="ignore"):  # made anew each time: its state is no other thread's
            return function(*args, **kwargs)

    return quiet


@_quiet
def per_label(call: "Call", options: Options) -> Any:
    """One loss a label, times its class weight; the losses' shape, y_pred's dtype or `dtype`."""
    losses, found = losses_and_found(call, options)
    call.warn(found)
    return losses


@_quiet
def losses_and_found(call: "Call", options: Options) -> tuple[Any, Found]:
    """One loss a label, and the rows that cannot be probabilities, of which nobody is told."""
    dtype = call.effective if options.dtype is None else _result_dtype(options)
    losses, found = call.losses(dtype)
    return arrays.scalar(losses), found


@_quiet
def value(call: "Call", options: Options) -> Any:
    """The reduced value, a NumPy scalar; with reduction None every loss times its weight."""
    if options.reduction is None:
        losses, found = call.losses(_result_dtype(options))
        call.warn(found)
        return arrays.scalar(losses)
    (total, kept, weight), found = call.total()
    call.warn(found)
    divisor = weights.divisor(options.reduction, kept, weight)
    return _divided(total, divisor, _result_dtype(options))


@_quiet
def value_and_grad(call: "Call", options: Options) -> tuple[Any, Array]:
    """The value, and its derivative with respect to y_pred, in y_pred's dtype."""
    alone = call.with_out(None)
    kept, weight = alone.survey()
    divisor = weights.divisor(options.reduction, kept, weight)
    if options.reduction is None:
        losses = np.empty(call.layout.count, _result_dtype(options))
        _, found = call.descend(divisor, losses)
        call.warn(found)
        return arrays.scalar(call.layout.unflatten(losses)), call.gradient
    # Where `out` is laid out unlike y_pred the blocks are others, and with them the order of the
    # sum: a pass of its own gives the value the bits that it has without a gradient.
    total = None if alone.layout == call.layout else alone.total()[0][0]
    summed, found = call.descend(divisor)
    total = summed if total is None else total
    call.warn(found)
    return _divided(total, divisor, _result_dtype(options)), call.gradient


@_quiet
def ranks(y_true: object, y_pred: object, axis: int = -1, ignore_class: object = None) -> Any:
    """How many classes stand above each label: 0 where it is predicted, -1 where it is ignored.

    Args:
        y_true: labels, as the loss takes them.
        y_pred: scores of any kind, for only their order counts.
        axis: the class axis.
        ignore_class: the class or classes that do not count.

    Returns:
        int64, the losses' shape; the number of classes where the scores hold a NaN.
    """
    options = read(axis=axis, ignore_class=ignore_class)
    return arrays.scalar(Call.read(y_true, y_pred, None, options).ranks())


@dataclass(frozen=True, slots=True)
class Call:
    """One call, read and checked but for the values of labels and weights."""

    x: Array
    out: Array | None
    layout: Layout
    labels: labels.Labels
    weights: weights.Weights
    formula: dict[str, Any]  # scores, smoothing, eps: what the kernels' verbs take
    effective: np.dtype[Any]  # the dtype that y_pred counts as
    arithmetic: np.dtype[Any]

    @classmethod
    def read(
        cls,
        y_true: object,
        y_pred: object,
        sample_weight: object,
        options: Options,
    ) -> "Call":
        """What the user sent, checked but for the values of labels and weights."""
        x = arrays.scores(y_pred)
        layout = labels.layout_of(x, y_true, options.axis)
        targets = labels.read(y_true, layout, options.ignore_class, x)
        return cls(**parts(x, layout, targets, sample_weight, options))

    def inputs(self) -> dict[str, Array | None]:
        """What is read while a gradient is written, beside the scores."""
        return {"y_true": self.labels.y, "sample_weight": self.weights.sample}

    def with_out(self, out: Array | None) -> Self:
        """The same call with a place for its gradient, which is walked beside the scores."""
        return replace(self, out=out, layout=judge(self.x, self.layout.axis, *given(out)))

    @property
    def gradient(self) -> Array:
        """Where the gradient goes."""
        assert self.out is not None
        return self.out

    def warn(self, found: Found) -> None:
        """Tell the user of scores that cannot be probabilities, once for the whole call."""
        implausible.warn(found, self.layout.shape, self.layout.axis)

    def losses(self, dtype: np.dtype[Any]) -> tuple[Array, Found]:
        """Every loss times its weight, in the losses' shape; and what cannot be probabilities."""
        flat = np.empty(self.layout.count, dtype)
        search = self._search()
        for block, y, w in self._blocks():
            x = self._looked_at(block, y, search)
            flat[block.start : block.stop] = weights.weighted(self._nll(x, block, y), w)
        return self.layout.unflatten(flat), search.found

    def total(self) -> tuple[tuple[float, int, float], Found]:
        """sum(l * w), labels kept and the sum of weights; and what cannot be probabilities."""
        sums, search = _Sums(), self._search()
        for block, y, w in self._blocks():
            x = self._looked_at(block, y, search)
            sums.add(weights.weighted(self._nll(x, block, y), w), y, w)
        return sums.total(), search.found

    def survey(self) -> tuple[int, float]:
        """Check every label and weight before anything is written; the last two of `total`."""
        sums = _Sums()
        for _, y, w in self._blocks():
            sums.add(w, y, w)
        return sums.total()[1:]

    def descend(self, divisor: float, losses: Array | None = None) -> tuple[float, Found]:
        """sum(l * w); the gradient of sum(l * w) / divisor is written into `out`.

        `losses`, where wanted, receives every l * w in the flat order of positions. Scores that
        cannot be probabilities are found before the gradient goes where they are.
        """
        dx = self.layout.scores(self.gradient)
        sums, search = _Sums(), self._search()
        for block, y, w in self._blocks():
            g = w / divisor if divisor != 0 else np.zeros_like(w)
            x = self._looked_at(block, y, search)
            loss = self._nll_and_grad(x, block, y, g, block.of(dx))
            weighted = weights.weighted(loss, w)
            sums.add(weighted, y, w)
            if losses is not None:
                losses[block.start : block.stop] = weighted
        return sums.total()[0], search.found

    def ranks(self) -> Int64:
        """How many classes stand above each label."""
        flat = np.empty(self.layout.count, np.int64)
        for block, y, _ in self._blocks():
            above = numpy_engine.rank(self._scores(block), block.boxed(y))
            flat[block.start : block.stop] = above.ravel()
        return self.layout.unflatten(flat)

    def _blocks(self) -> Iterator[tuple[Block, Int64, Float64]]:
        """Each block with its labels and weights, checked: flat, in the order of positions."""
        y = self.layout.positions(self.labels.y)
        sample = None if self.weights.sample is None else self.layout.positions(self.weights.sample)
        bytes_of_a_row = self.layout.classes * self.arithmetic.itemsize
        for block in self.layout.blocks(max(1, numpy_engine.BLOCK_BYTES // bytes_of_a_row)):
            here = slice(block.start, block.stop)
            lowered = self._lower(block, y[here])
            weight = None if sample is None else sample[here]
            if weight is not None and weights.missing(weight, lowered).any():
                self.weights.refuse(self.labels.lower(self.labels.y))
            yield block, lowered, self.weights.lower(weight, lowered)

    def _lower(self, block: Block, y: Array) -> Int64:
        return self.labels.lower(y)

    def _nll(self, x: Array, block: Block, y: Int64) -> Array:
        loss: Array = numpy_engine.nll(x, block.boxed(y), **self.formula)
        return loss.ravel()

    def _nll_and_grad(self, x: Array, block: Block, y: Int64, g: Float64, dx: Array) -> Array:
        loss: Array = numpy_engine.nll_and_grad(
            x, block.boxed(y), block.boxed(g), out=dx, **self.formula
        )[0]
        return loss.ravel()

    def _search(self) -> implausible.Search:
        scores = self.formula["scores"]
        target_only = scores == ScoreKind.CLIP and self.formula["smoothing"] == 0
        return implausible.Search(
            self.layout, scores != ScoreKind.LOGITS, target_only, self.arithmetic
        )

    def _looked_at(self, block: Block, y: Int64, search: implausible.Search) -> Array:
        """The block's scores, after a look at whether they can be probabilities."""
        x = self._scores(block)
        search.look(x, block.boxed(y), block.start)
        return x

    def _scores(self, block: Block) -> Array:
        """The block's scores; a dtype that the kernels do not take is converted, block by block."""
        x = block.of(self.layout.scores(self.x))
        if x.dtype != self.effective:
            x = x.astype(self.effective)
        if self.arithmetic == np.float64:
            x = x.astype(np.float64, copy=False)
        return x


def given(out: Array | None) -> tuple[Array, ...]:
    """What is walked beside the scores for a gradient, if one is wanted."""
    return () if out is None else (out,)


def parts(
    x: Array,
    layout: Layout,
    y: labels.Labels,
    sample_weight: object,
    options: Options,
) -> dict[str, Any]:
    """The fields of a `Call`, settled."""
    effective = arrays.effective(x.dtype)
    wide = effective == np.float64 or options.dtype == "float64"
    return {
        "x": x,
        "out": None,
        "layout": layout,
        "labels": y,
        "weights": weights.read(sample_weight, layout, options),
        "formula": {
            "scores": options.scores,
            "smoothing": options.label_smoothing,
            "eps": config.config_epsilon(),
        },
        "effective": effective,
        "arithmetic": np.dtype(np.float64 if wide else np.float32),
    }


class _Sums:
    """Sums over blocks: NumPy's pairwise float64 sum within each and over all."""

    def __init__(self) -> None:
        self._parts: list[float] = []
        self._weights: list[float] = []
        self._kept = 0

    def add(self, weighted: Array, y: Int64, w: Array) -> None:
        self._parts.append(float(np.sum(weighted)))
        self._weights.append(float(np.sum(w)))
        self._kept += int(np.count_nonzero(y >= 0))

    def total(self) -> tuple[float, int, float]:
        return float(np.sum(self._parts)), self._kept, float(np.sum(self._weights))


def _divided(total: float, divisor: float, dtype: np.dtype[Any]) -> Any:
    """total / divisor rounded once to dtype; 0 where there is nothing to divide by."""
    return dtype.type(np.float64(total) / divisor if divisor != 0 else 0.0)


def _result_dtype(options: Options) -> np.dtype[Any]:
    return np.dtype(float_dtype(options.dtype or config.config_floatx()))
