"""Calls on arrays of a library that traces: checked by shape, and by value where there are values.

Concrete labels and weights are checked and refused as NumPy's are, by the same functions. Of
traced ones shapes and dtypes are checked; a label that is no class makes its loss NaN. The
formulas are `engines.traced`'s, the results the library's.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_xent import config, dtypes, implausible, labels, soft_targets, weights
from sparse_xent import plan as plans
from sparse_xent.arrays import foreign
from sparse_xent.arrays import numpy as arrays
from sparse_xent.arrays.adapters import tracing_library, values_of
from sparse_xent.arrays.base import ArraySpec
from sparse_xent.arrays.refusals import EXPECTED, refuse_dtype
from sparse_xent.arrays.tracing import TracingLibrary
from sparse_xent.engines import traced
from sparse_xent.engines.base import NOTHING, Found, Task
from sparse_xent.kernels import ScoreKind
from sparse_xent.layout import Layout, layout_of
from sparse_xent.options import Options

Array = npt.NDArray[Any]

# Libraries whose arrays do not mix with another's: they have devices and gradients of their own.
_TENSORS = ("torch", "tensorflow", "jax", "cupy", "dask")


def call(
    task: Task,
    library: TracingLibrary,
    options: Options,
    y_true: Any,
    y_pred: Any,
    sample_weight: Any,
) -> Any:
    """What the task says, for scores of a library that traces.

    Args:
        task: losses, a value, a value with its gradient (which is refused), or ranks.
        library: y_pred's.
        options: of the loss.
        y_true: labels, or targets: the library's, NumPy's or what converts to it.
        y_pred: scores.
        sample_weight: weights, if any, as labels.

    Returns:
        The library's array: of the losses' shape, or 0-d for a value.

    Raises:
        TypeError, ValueError: the arrays do not fit, or hold what is refused of NumPy's.
    """
    _check_dense(library, y_pred)
    if task.differentiates:
        raise TypeError(
            f"value_and_grad writes a gradient into memory, which {library.name}'s arrays do not "
            f"give: use {library.gradient_of('y_pred')}, or pass NumPy's arrays"
        )
    if options.device is not None:
        raise ValueError(
            f"device='cuda:{options.device}' is for NumPy's arrays: leave it out, for "
            f"{library.name}'s are served where they lie"
        )
    return _Call(library, options, y_true, y_pred, sample_weight).run(task)


def accuracies(
    library: TracingLibrary,
    options: Options,
    y_true: Any,
    y_pred: Any,
    sample_weight: Any,
    k: int,
) -> Any:
    """1 where the label is among the k classes that score highest, else 0, times its weight.

    Args:
        library: y_pred's.
        options: of the metric; with `soft` ones the label is the greatest target's class.
        y_true, y_pred, sample_weight: as for `call`.
        k: how many classes count as predicted.

    Returns:
        The library's array, NaN where a traced label is no class.
    """
    _check_dense(library, y_pred)
    return _Call(library, options, y_true, y_pred, sample_weight, k).run(Task.RANKS)


def host_scores(y_pred: Any) -> Array:
    """Scores of any library as NumPy's, for a state that is Python's.

    Raises:
        TypeError: there are no values yet.
    """
    library = tracing_library(y_pred)
    if library is None:
        return arrays.scores(values_of(y_pred))
    _check_dense(library, y_pred)
    if not library.is_concrete(y_pred):
        raise TypeError(
            f"y_pred must hold values where a state is updated, got a traced {library.name} "
            f"{type(y_pred).__name__}: return it from what is traced by {library.outside}, and "
            "update the state there; the metrics' functions serve inside"
        )
    return arrays.scores(library.numpy(y_pred))


def _check_dense(library: TracingLibrary, y_pred: Any) -> None:
    """Refuse what is of the library and no array of numbers: a sparse or ragged tensor."""
    if not library.owns(y_pred):
        foreign.refuse_tensor(y_pred, "y_pred")


class _Length(int):
    """A length that is known only when the call runs; its number is no other length's."""

    def __repr__(self) -> str:
        return "None"


_UNKNOWN = _Length(2**40 + 1)


class _Call:
    """One call's arrays, checked as far as they are known."""

    def __init__(
        self,
        library: TracingLibrary,
        options: Options,
        y_true: Any,
        y_pred: Any,
        sample_weight: Any,
        k: int | None = None,
    ) -> None:
        self.library, self.options, self.y_true = library, options, y_true
        self.sparse = soft_targets.SPARSE if k is None else soft_targets.SPARSE_METRIC
        self.k = k
        self.x = _scores(library, y_pred)
        self.labels_checked, y = _read(library, y_true, "y_true")
        weights_known, w = _read(library, sample_weight, "sample_weight")
        if self.labels_checked and not options.soft:
            y = labels.array_of(y)
        self.shape = shape = _shape(library, self.x, y, options)
        self.host = y_pred if library.is_concrete(y_pred) else None
        self.layout = self._said_with_values(
            lambda x: (
                layout_of(shape, options.axis, (0,) * len(shape))
                if x is None
                else labels.class_axis(x, y_true, options.axis)
            )
        )
        self.values = y
        self.y = self._targets(y) if options.soft else self._labels(y)
        self.weights_checked, self.w = weights_known, None
        self.infinite = False
        if w is not None:
            self.w = self._weights(w, sample_weight)

    def run(self, task: Task) -> Any:
        """The result, of the library."""
        library, options, layout = self.library, self.options, self.layout
        counts_as = dtypes.counts_as(library.dtype(self.x))
        result = options.dtype or counts_as
        library.check_dtype(result.name)
        if self.k is None:
            implausible.warn(self._implausible(), self.shape, layout.axis)
        program = _program(
            library, task, options, config._epsilon, layout.axis, layout.classes, counts_as, result,
            self.labels_checked, self.weights_checked, self.infinite, self.k,
        )  # fmt: skip
        return program(self.x, self.y, self.w)

    def _implausible(self) -> Found:
        """Rows of scores on the host that cannot be probabilities, where they have values now.

        The library looks whether there are any, in one read; NumPy's engines then find them.
        """
        library, x, options = self.library, self.host, self.options
        is_known = x is not None and self.labels_checked and library.is_on_host(x)
        if not is_known or options.scores == ScoreKind.LOGITS or 0 in self.shape:
            return NOTHING
        arithmetic = dtypes.arithmetic(dtypes.counts_as(library.dtype(self.x)), options.dtype)
        target_only = options.scores == ScoreKind.CLIP and options.label_smoothing == 0
        search = _search(library, self.layout.axis, arithmetic.name, target_only)
        found = search(self.x, None if options.soft else self.y)
        # In a function that is traced, even of constants, an answer is no value.
        if not library.is_concrete(found) or not library.numpy(found):
            return NOTHING
        sent = plans.Sent(np.asarray(self.values), library.numpy(x), None, None, None, None)
        return plans.of(Task.VALUE, options, sent).run(sent.y, sent.x, None).found

    def _said_with_values(self, check: Callable[[Array | None], Any]) -> Any:
        """What a check gives; what it refuses is said again with the scores' values at hand."""
        try:
            return check(None)
        except ValueError:
            if self.host is not None:
                check(self.library.numpy(self.host))
            raise

    def _stand_in(self) -> Array | None:
        """An array of the scores' shape that costs nothing; None where that is not known."""
        if any(isinstance(n, _Length) for n in self.shape):
            return None
        return np.broadcast_to(np.float32(0.5), self.shape)

    def _labels(self, y: Any) -> Any:
        """Labels: int32 that are right, negative where ignored, or traced ones as they are."""
        layout, ignored = self.layout, self.options.ignore_class
        if not self.labels_checked:
            spec = _spec(self.library, y, "y_true", layout)
            labels.read(spec, layout, ignored, y)
            return y
        said = np.asarray(y) if self.library.owns(self.y_true) else self.y_true
        found = self._said_with_values(
            lambda x: labels.decoded(y, layout, ignored, said, self._stand_in() if x is None else x)
        )
        return found.astype(np.int32)

    def _targets(self, y: Any) -> Any:
        """One-hot or soft targets, which are right where they are known."""
        if not self.labels_checked:
            spec = _spec(self.library, y, "y_true", self.layout)
            soft_targets.check_shape(spec.shape, self.shape, self.sparse)
            return y
        stand_in = self._stand_in()
        if stand_in is None:  # targets of as many axes would tell the lengths
            soft_targets.check_shape(np.shape(y), self.shape, self.sparse)
        assert stand_in is not None
        targets = self._said_with_values(
            lambda x: soft_targets.array_of(y, stand_in if x is None else x, self.sparse)
        )
        with np.errstate(all="ignore"):
            if not (targets >= 0).all():  # NaN is not >= 0 either
                soft_targets.refuse(targets, stand_in, self.layout.axis, self.sparse)
        return self.library.array(self.y_true) if self._may_be_taped(self.y_true) else targets

    def _weights(self, w: Any, sample_weight: Any) -> Any:
        """Weights of the losses' rank, which broadcast to their shape."""
        layout, library = self.layout, self.library
        self.infinite = True  # for all that is known
        if not self.weights_checked:
            weights.read(_spec(library, w, "sample_weight", layout), layout, sample_weight)
            return self._aligned(w)
        w = weights.array_of(w)
        self.infinite = bool(np.isinf(w).any())
        spec = arrays.spec_of(w)
        known = _fitted(spec.shape, layout.losses)
        weights.read(spec._replace(shape=known), layout, sample_weight)
        codes = self.y if self.labels_checked and not self.options.soft else None
        if codes is None and (self.options.ignore_class or known != spec.shape):
            self.weights_checked = False  # which of them count is not known
        else:
            y = np.broadcast_to(np.int64(0), layout.losses) if codes is None else codes
            weights.check(w, layout, y)
        if self._may_be_taped(sample_weight):
            return self._aligned(library.array(sample_weight))
        return weights.aligned(w, layout.losses).astype(np.float64)

    def _may_be_taped(self, value: Any) -> bool:
        """Whether the library's own array is passed on, that it may differentiate by it.

        Else its values are, which may lie on another device than the scores.
        """
        return self.library.differentiates_by_values and self.library.owns(value)

    def _aligned(self, w: Any) -> Any:
        """The library's weights with as many axes as the losses have."""
        library, axes = self.library, len(self.layout.losses)
        if len(library.shape(w) or ()) > axes:
            w = library.squeeze(w, -1)
        while len(library.shape(w) or ()) < axes:
            w = library.expand(w, -1)
        return w


def _scores(library: TracingLibrary, y_pred: Any) -> Any:
    """The scores as operations take them."""
    dtype = library.dtype(y_pred)
    if not dtypes.is_number(dtype):
        refuse_dtype(dtype, "y_pred", EXPECTED["y_pred"])
    return library.array(y_pred)


def _read(library: TracingLibrary, value: Any, argument: str) -> tuple[bool, Any]:
    """Whether the values are known, and the value: as NumPy's, or as the library's."""
    if library.owns(value):
        if library.is_concrete(value):
            return True, library.numpy(value)
        return False, library.array(value)
    other = (foreign.library(value) or "").removesuffix("lib")  # jaxlib's are JAX's
    if other in _TENSORS and hasattr(value, "shape"):
        instead = foreign.as_numpy(value, argument)
        raise TypeError(
            f"{argument} must be {library.name}'s, as y_pred is, or NumPy's, got a "
            f"{other} {type(value).__name__}{instead and ': pass '}{instead or ''}"
        )
    return True, value


def _shape(library: TracingLibrary, x: Any, y: Any, options: Options) -> tuple[int, ...]:
    """y_pred's shape; what is not known of it is what labels have."""
    shape = library.shape(x)
    if shape is None:
        raise TypeError(
            f"y_pred must be of known rank, got a {library.name} {type(x).__name__} of none: pass "
            "tf.ensure_shape(y_pred, ...) with as many axes as it has"
        )
    axis = options.axis % len(shape) if shape else 0
    if None not in shape:
        return shape  # type: ignore[return-value]
    if shape[axis] is None:
        raise TypeError(
            f"y_pred must have a known number of classes, got shape {shape}, whose axis {axis} is "
            "not known: pass tf.ensure_shape(y_pred, ...) with that number"
        )
    of_y = tuple(y.shape) if hasattr(y, "shape") else np.shape(y)
    if len(of_y) == len(shape) - 1:
        of_y = (*of_y[:axis], shape[axis], *of_y[axis:])
    if len(of_y) != len(shape):
        of_y = (None,) * len(shape)
    found = (n if n is not None else m for n, m in zip(shape, of_y, strict=True))
    return tuple(_UNKNOWN if n is None else n for n in found)


def _spec(library: TracingLibrary, array: Any, argument: str, layout: Layout) -> ArraySpec:
    """A traced array's shape and dtype, as NumPy's would be; unknown lengths are the scores'."""
    shape, dtype = library.shape(array), library.dtype(array)
    if not dtypes.is_number(arrays.as_array(np.empty(0, dtype), argument).dtype):
        refuse_dtype(dtype, argument, EXPECTED[argument])
    if shape is None:
        raise TypeError(
            f"{argument} must be of known rank, got a {library.name} {type(array).__name__} of "
            f"none: pass tf.ensure_shape({argument}, ...) with as many axes as it has"
        )
    whole = layout.shape if len(shape) == len(layout.shape) else layout.losses
    if argument == "sample_weight":
        whole = layout.losses
    return ArraySpec.dense(_fitted(shape, whole), dtype)


def _fitted(shape: tuple[int | None, ...], whole: tuple[int, ...]) -> tuple[int, ...]:
    """A shape whose lengths are the whole's where either is not known."""
    lengths = list(shape)
    for k, n in enumerate(whole[: len(shape)]):
        if lengths[k] is None or (isinstance(n, _Length) and lengths[k] != 1):
            lengths[k] = n
    return tuple(_UNKNOWN if n is None else n for n in lengths)


@lru_cache(maxsize=1000)
def _program(
    library: TracingLibrary,
    task: Task,
    options: Options,
    epsilon: float,
    axis: int,
    classes: int,
    counts_as: np.dtype[Any],
    result: np.dtype[Any],
    labels_checked: bool,
    weights_checked: bool,
    infinite: bool,
    k: int | None,
) -> Callable[..., Any]:
    """What serves calls of one kind: a function of scores, labels and weights."""
    ranks = task == Task.RANKS
    by_class = None if ranks else weights.by_class(options, classes)
    made = traced.Traced(
        library=library,
        task=task,
        axis=axis,
        classes=classes,
        scores=options.scores,
        smoothing=options.label_smoothing,
        epsilon=epsilon if options.epsilon is None else options.epsilon,
        soft=options.soft,
        ignored=options.ignore_class,
        by_class=None if by_class is None else tuple(by_class.tolist()),
        divisor=weights.divisor(options.reduction),
        arithmetic=dtypes.arithmetic(counts_as, None if ranks else options.dtype),
        result=result,
        k=k,
        labels_checked=labels_checked,
        weights_checked=weights_checked,
        infinite=infinite or (by_class is not None and bool(np.isinf(by_class).any())),
    )
    return library.compiled(made.run)


@lru_cache(maxsize=1000)
def _search(
    library: TracingLibrary, axis: int, arithmetic: str, target_only: bool
) -> Callable[..., Any]:
    """What says whether there are scores that are no probabilities: of scores and labels."""
    return library.compiled(partial(traced.is_suspicious, library, axis, arithmetic, target_only))
