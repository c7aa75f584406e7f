"""The metrics' public face: four functions that mirror R keras3's, and the objects they return.

Called with data, a function gives one value per label, times its weight; called without, an object
that takes batch after batch and gives their weighted mean. What it keeps are two exact sums, of
w * v and of w: any order of the batches, any cut of them and any merge give the same bits.

Notation: v values, w weights (0 where a label is ignored), C classes; a label's rank is the number
of classes that score higher, or as high and have a lower index.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Self, cast, overload

import numpy as np
import numpy.typing as npt

from sparse_xent import (
    chunked,
    dtypes,
    execute,
    implausible,
    labels,
    soft_targets,
    tracing,
    weights,
)
from sparse_xent.accumulate import ExactSum
from sparse_xent.arrays import numpy as arrays
from sparse_xent.arrays.adapters import (
    adapter_of,
    as_sent,
    refuse_device,
    tracing_library,
)
from sparse_xent.arrays.tracing import not_converted
from sparse_xent.config import config_floatx
from sparse_xent.execute import called_by_keras
from sparse_xent.options import (
    REDUCTION,
    DType,
    IgnoreClass,
    NormalizeName,
    Options,
    describe,
    has_data,
    plain,
    read,
    read_once,
    refuse_unknown,
    whole_number,
)

_Array = npt.NDArray[Any]


# ---- objects ------------------------------------------------------------------------------------


class _Metric:
    """What all metric objects share: a config that stays, and the two sums of their state."""

    __slots__ = ("__weakref__", "_k", "_options", "_total", "_weight")
    _options: Options
    _k: int  # the rank from which on a label is wrong
    _total: ExactSum  # of w * v
    _weight: ExactSum  # of w
    _keys: ClassVar[tuple[str, ...]]  # the arguments, in the order of the signature
    _soft: ClassVar[bool] = False  # whether targets are one-hot or soft

    def _construct(self, given: Mapping[str, Any], unknown: Mapping[str, object]) -> None:
        if "sample_weight" in unknown:
            raise TypeError(
                f"sample_weight is an argument of update_state, not of {type(self).__name__}(): "
                "metric.update_state(y_true, y_pred, sample_weight=w)"
            )
        refuse_unknown(unknown, self._keys, type(self).__name__)
        self._k = _top(given["k"]) if "k" in self._keys else 1
        given = {key: given[key] for key in self._keys if key != "k"}
        if given["dtype"] is None:
            given["dtype"] = config_floatx()
        self._options = read(**given, default_name=self._default("name"))
        self.reset_state()

    @property
    def name(self) -> str:
        """The metric's name."""
        return self._options.name

    @property
    def dtype(self) -> str:
        """Name of the dtype below which nothing is computed; the result is a Python float."""
        return cast(np.dtype[Any], self._options.dtype).name

    @not_converted
    def __call__(self, y_true: Any, y_pred: Any) -> Any:
        """For Keras's `compile` alone: one value a label, which Keras weighs and averages."""
        if not called_by_keras():
            raise TypeError(
                f"a {type(self).__name__} is not called: update_state(y_true, y_pred) adds a "
                "batch, and the metric's function gives the values of data"
            )
        ignored = self.get_config().get("ignore_class")
        if ignored is not None:
            raise ValueError(
                f"ignore_class must be None where Keras calls, got {ignored!r}: Keras makes the "
                "mean of the values itself, over ignored labels too; pass "
                f"sparse_xent.integrations.keras.{self._as_call()}"
            )
        return self._values(y_true, y_pred)

    @not_converted
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch; one that is refused adds nothing.

        Args:
            y_true: labels, or targets, as the function of this metric takes them.
            y_pred: class scores, any real dtype, any memory layout. dask's are computed chunk by
                chunk, and only sums come back.
            sample_weight: a number; or weights of the labels' shape, or of fewer axes that match
                its leading ones, or with 1 in place of an axis. A missing one (NaN, R's NA) is
                refused, but at ignored labels, where weights are not read.

        Raises:
            TypeError: labels, scores or weights are not numbers, or lie on a CUDA device, or are
                traced by JAX or TensorFlow, and so have no values yet.
            ValueError: a label is neither a class nor ignored, a weight is missing, or shapes do
                not fit.
        """
        if chunked.is_lazy(y_pred):
            of = partial(_of_chunk, type(self), self.get_config())
            given = y_true, y_pred, sample_weight, self._options
            self.merge(chunked.state(of, _merged, *given, soft=self._soft))
            return
        total, weight = self._sums(y_true, _scores(y_pred), sample_weight)
        self._total.merge(total)
        self._weight.merge(weight)

    def result(self) -> float:
        """The weighted mean of all values so far, sum(w * v) / sum(w), rounded once.

        Returns:
            A float in double precision, whatever `dtype` is; 0 where nothing is kept.
        """
        if not self._weight.finite:
            return math.nan
        return self._total.over(self._weight.fraction())

    def reset_state(self) -> None:
        """Forget all batches."""
        self._total, self._weight = ExactSum(), ExactSum()

    def merge(self, other: Self) -> None:
        """Add all that another object was given, which stays as it is.

        Args:
            other: an object of the same kind, with the same arguments but for its name.

        Raises:
            TypeError: it is of another kind.
            ValueError: an argument differs.
        """
        if type(other) is not type(self):
            raise TypeError(f"other must be a {type(self).__name__}, got {describe(other)}")
        mine, theirs = self.get_config(), other.get_config()
        for key in self._keys:
            if key != "name" and mine[key] != theirs[key]:
                raise ValueError(
                    f"other must have {key}={mine[key]!r}, got {key}={theirs[key]!r}: only states "
                    "of one config merge"
                )
        self._total.merge(other._total)
        self._weight.merge(other._weight)

    def get_config(self) -> dict[str, Any]:
        """The arguments as plain JSON values, from which `from_config` makes an object anew.

        Returns:
            A dict with a key for each argument; `dtype` by its name, one ignored class as an int,
            several as a sorted list.
        """
        return {
            key: self._k if key == "k" else plain(key, getattr(self._options, key))
            for key in self._keys
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """An object made from what `get_config` returned, without its data.

        Args:
            config: arguments by name.

        Returns:
            The object.
        """
        return cls(**config)

    def __repr__(self) -> str:
        return f"<{self._as_call()}: {self.result()!r}>"

    def _as_call(self) -> str:
        """The call that makes it."""
        shown = [
            f"{key}={value!r}"
            for key, value in self.get_config().items()
            if value != self._default(key)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        sums = self._total.partials(), self._weight.partials()
        return _restored, (type(self), self.get_config(), *sums)

    def _values(self, y_true: Any, y_pred: Any) -> Any:
        """One value a label."""
        return _accuracies(y_true, y_pred, None, self._options, self._k, self._soft)

    def _sums(self, y_true: Any, x: _Array, sample_weight: Any) -> tuple[ExactSum, ExactSum]:
        """The sums of w * v and of w of one batch."""
        return _sums_of_hits(y_true, x, sample_weight, self._options, self._k)

    @classmethod
    def _default(cls, key: str) -> Any:
        return config_floatx() if key == "dtype" else inspect.signature(cls).parameters[key].default


def _of_chunk(
    cls: type[_Metric], config: Mapping[str, Any], y: Any, x: Any, w: Any, options: Options
) -> _Metric:
    """A metric of one chunk alone, whose options have the epsilon of the process that asks."""
    metric = cls.from_config(config)
    metric._options = options
    metric.update_state(y, x, w)
    return metric


def _merged(metrics: list[_Metric]) -> _Metric:
    made = metrics[0].from_config(metrics[0].get_config())
    for metric in metrics:
        made.merge(metric)
    return made


def _restored(
    cls: type[_Metric], config: Mapping[str, Any], total: list[float], weight: list[float]
) -> _Metric:
    metric = cls.from_config(config)
    metric._total, metric._weight = ExactSum(total), ExactSum(weight)
    return metric


class SparseCategoricalAccuracy(_Metric):
    """The share of labels whose class scores highest, over batches.

    Mirrors `keras.metrics.SparseCategoricalAccuracy`, without a framework; the values are those of
    `metric_sparse_categorical_accuracy()`. The state is two exact sums: any order of the batches,
    any cut and any merge give the same bits. An object is equal to itself alone, whatever its
    state: compare `get_config()` or `result()`. Pickles and copies carry the state. One thread at a
    time may update it: give each thread or process its own, and merge.

    Args:
        axis: the class axis of `y_pred`, 0-based.
        ignore_class: class, or list, set or array of classes, whose labels count nowhere.
        name: the metric's name.
        dtype: kept for Keras's sake; `config_floatx()` as it is now if None. The result is a float
            in double precision.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range.

    Example:
        >>> metric = SparseCategoricalAccuracy()
        >>> metric.update_state([1, 2], [[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]])
        >>> metric.result()
        0.5
        >>> other = SparseCategoricalAccuracy()
        >>> other.update_state([0, 0], [[0.9, 0.1], [0.5, 0.5]], sample_weight=[1, 3])
        >>> metric.merge(other)
        >>> metric
        <SparseCategoricalAccuracy(): 0.8333333333333334>

    Source: Keras 3, `keras.metrics.SparseCategoricalAccuracy`.
    """

    __slots__ = ()
    _keys = ("axis", "ignore_class", "name", "dtype")

    def __init__(
        self,
        *,
        axis: int = -1,
        ignore_class: IgnoreClass = None,
        name: str | None = "sparse_categorical_accuracy",
        dtype: DType = None,
        **unknown: object,
    ) -> None:
        self._construct(locals(), unknown)


class SparseTopKCategoricalAccuracy(_Metric):
    """The share of labels whose class is among the k that score highest, over batches.

    Mirrors `keras.metrics.SparseTopKCategoricalAccuracy`, without a framework, but for ties; the
    values are those of `metric_sparse_top_k_categorical_accuracy()`. State, equality, pickles and
    threads: as for `SparseCategoricalAccuracy`.

    Args:
        k: how many classes count as predicted, a whole number from 0 up.
        axis: the class axis of `y_pred`, 0-based.
        ignore_class: class, or list, set or array of classes, whose labels count nowhere.
        name: the metric's name.
        dtype: kept for Keras's sake; `config_floatx()` as it is now if None.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range.

    Example:
        >>> metric = SparseTopKCategoricalAccuracy(k=2)
        >>> metric.update_state([1, 2], [[0.05, 0.95, 0.0], [0.2, 0.7, 0.1]])
        >>> metric.result()
        0.5

    Source: Keras 3, `keras.metrics.SparseTopKCategoricalAccuracy`.
    """

    __slots__ = ()
    _keys = ("k", "axis", "ignore_class", "name", "dtype")

    def __init__(
        self,
        k: int = 5,
        *,
        axis: int = -1,
        ignore_class: IgnoreClass = None,
        name: str | None = "sparse_top_k_categorical_accuracy",
        dtype: DType = None,
        **unknown: object,
    ) -> None:
        self._construct(locals(), unknown)


class SparseCategoricalCrossentropyMetric(_Metric):
    """The weighted mean of the crossentropy between labels and class scores, over batches.

    Mirrors `keras.metrics.SparseCategoricalCrossentropy`, without a framework; the values are those
    of `metric_sparse_categorical_crossentropy()`. The mean is over labels that are not ignored:
    Keras's metric counts ignored ones in its divisor, and its loss does not. Perplexity is
    `math.exp(metric.result())`, once at the end. A value of weight 0 adds exactly 0, even where it
    is inf or NaN. State, equality, pickles and threads: as for `SparseCategoricalAccuracy`.

    Args:
        from_logits: whether `y_pred` holds logits; probabilities if False.
        ignore_class: class, or list, set or array of classes, whose labels count nowhere.
        axis: the class axis of `y_pred`, 0-based.
        normalize: how probabilities are made to sum to 1, "after" or "before" they are clipped, or
            "never".
        name: the metric's name.
        dtype: losses are computed in the wider of it and `y_pred`'s dtype, never below float32, and
            not rounded further; `config_floatx()` as it is now if None.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range.

    Example:
        >>> import numpy as np
        >>> metric = SparseCategoricalCrossentropyMetric()
        >>> y_pred = np.array([[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]])
        >>> metric.update_state([1, 2], y_pred, sample_weight=[0.3, 0.7])
        >>> print(f"{metric.result():.7f}")
        1.6271976

    Source: Keras 3, `keras.metrics.SparseCategoricalCrossentropy`.
    """

    __slots__ = ()
    _keys = ("from_logits", "ignore_class", "axis", "normalize", "name", "dtype")

    def __init__(
        self,
        *,
        from_logits: bool = False,
        ignore_class: IgnoreClass = None,
        axis: int = -1,
        normalize: NormalizeName = "after",
        name: str | None = "sparse_categorical_crossentropy",
        dtype: DType = None,
        **unknown: object,
    ) -> None:
        self._construct(locals(), unknown)

    def _values(self, y_true: Any, y_pred: Any) -> Any:
        return execute.losses(y_true, _on_host(y_pred), None, self._options)

    def _sums(self, y_true: Any, x: _Array, sample_weight: Any) -> tuple[ExactSum, ExactSum]:
        wide = dtypes.arithmetic(dtypes.counts_as(x.dtype), self._options.dtype)
        options = self._options.changed(dtype=wide)
        made, found = execute.exact_sums(y_true, x, sample_weight, options)
        implausible.warn(found, x.shape, options.axis % x.ndim)
        return made.sums["wl"], made.sums["w"]


class CategoricalAccuracy(_Metric):
    """The share of rows whose greatest target and greatest score are of one class, over batches.

    Mirrors `keras.metrics.CategoricalAccuracy`, without a framework; the values are those of
    `metric_categorical_accuracy()`. State, equality, pickles and threads: as for
    `SparseCategoricalAccuracy`.

    Args:
        axis: the class axis, 0-based.
        name: the metric's name.
        dtype: kept for Keras's sake; `config_floatx()` as it is now if None.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range.

    Example:
        >>> metric = CategoricalAccuracy()
        >>> metric.update_state([[0, 1, 0], [0, 0, 1]], [[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]])
        >>> metric.result()
        0.5

    Source: Keras 3, `keras.metrics.CategoricalAccuracy`.
    """

    __slots__ = ()
    _keys = ("axis", "name", "dtype")
    _soft = True

    def __init__(
        self,
        *,
        axis: int = -1,
        name: str | None = "categorical_accuracy",
        dtype: DType = None,
        **unknown: object,
    ) -> None:
        self._construct(locals(), unknown)

    def _sums(self, y_true: Any, x: _Array, sample_weight: Any) -> tuple[ExactSum, ExactSum]:
        y = _greatest(y_true, x, self._options.axis)
        return _sums_of_hits(y, x, sample_weight, self._options, 1)


# ---- functions ----------------------------------------------------------------------------------


@overload
def metric_sparse_categorical_accuracy(
    y_true: None = None,
    y_pred: None = None,
    *,
    axis: int = -1,
    ignore_class: IgnoreClass = None,
    name: str | None = "sparse_categorical_accuracy",
    dtype: DType = None,
) -> SparseCategoricalAccuracy: ...
@overload
def metric_sparse_categorical_accuracy(
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    *,
    axis: int = -1,
    ignore_class: IgnoreClass = None,
    sample_weight: npt.ArrayLike | None = None,
    name: str | None = "sparse_categorical_accuracy",
    dtype: DType = None,
) -> npt.NDArray[Any]: ...
@not_converted
def metric_sparse_categorical_accuracy(
    y_true: Any = None,
    y_pred: Any = None,
    *,
    axis: Any = -1,
    ignore_class: Any = None,
    sample_weight: Any = None,
    name: Any = "sparse_categorical_accuracy",
    dtype: Any = None,
    **unknown: Any,
) -> Any:
    """Whether each label's class is the one that scores highest: 1 or 0, times its weight.

    The first maximum wins: of equal scores the lower class counts as the higher. A row that holds
    NaN is wrong. An ignored label gives 0; the object leaves it out of the mean.

    Args:
        y_true: labels 0 .. C-1, `y_pred`'s shape without the class axis (or 1 there), of any
            integer dtype, or whole-number floats; lists too. None, with `y_pred`, asks for the
            object.
        y_pred: class scores, probabilities or logits, any real dtype, any memory layout, of rank 1
            and up, in the host's memory; or JAX's, TensorFlow's or dask's.
        axis: the class axis of `y_pred`, 0-based; -1 is the last.
        ignore_class: class, or list, set or array of classes, whose labels count nowhere.
        sample_weight: a number; or weights of the labels' shape, or of fewer axes that match its
            leading ones, or with 1 in place of an axis. With data only: the object takes it in
            `update_state`.
        name: the object's name.
        dtype: dtype of the values; `config_floatx()` if None.

    Returns:
        The values, of `y_pred`'s shape without the class axis, a NumPy scalar for a single one; a
        tensor where `y_pred` is torch's. Of JAX's and TensorFlow's arrays theirs, NaN where a
        traced label is no class; of dask's lazy ones.
        Without data, a `SparseCategoricalAccuracy`.

    Raises:
        TypeError: labels, scores or weights are not numbers or lie on a CUDA device, one of the two
            is missing, or a keyword is unknown (the message names the nearest).
        ValueError: a label is neither a class nor ignored (the message names its position and the
            likely cause), a weight is missing, or shapes or options do not fit.

    Cost: one read of `y_pred`; nothing is sorted.

    Example:
        >>> y_pred = [[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]]
        >>> metric_sparse_categorical_accuracy([1, 2], y_pred)
        array([1., 0.], dtype=float32)
        >>> metric = metric_sparse_categorical_accuracy()
        >>> metric.update_state([1, 2], y_pred)
        >>> metric.result()
        0.5

    Source: R keras3, `metric_sparse_categorical_accuracy`.
    """
    options = {"axis": axis, "ignore_class": ignore_class, "name": name, "dtype": dtype}
    function = "metric_sparse_categorical_accuracy"
    if not _has_data(y_true, y_pred, sample_weight, unknown, function, options):
        return SparseCategoricalAccuracy(**options)
    chosen = _chosen(axis, ignore_class, name, dtype)
    return _accuracies(y_true, y_pred, sample_weight, chosen, 1)


@overload
def metric_sparse_top_k_categorical_accuracy(
    y_true: None = None,
    y_pred: None = None,
    k: int = 5,
    *,
    axis: int = -1,
    ignore_class: IgnoreClass = None,
    name: str | None = "sparse_top_k_categorical_accuracy",
    dtype: DType = None,
) -> SparseTopKCategoricalAccuracy: ...
@overload
def metric_sparse_top_k_categorical_accuracy(
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    k: int = 5,
    *,
    axis: int = -1,
    ignore_class: IgnoreClass = None,
    sample_weight: npt.ArrayLike | None = None,
    name: str | None = "sparse_top_k_categorical_accuracy",
    dtype: DType = None,
) -> npt.NDArray[Any]: ...
@not_converted
def metric_sparse_top_k_categorical_accuracy(
    y_true: Any = None,
    y_pred: Any = None,
    k: Any = 5,
    *,
    axis: Any = -1,
    ignore_class: Any = None,
    sample_weight: Any = None,
    name: Any = "sparse_top_k_categorical_accuracy",
    dtype: Any = None,
    **unknown: Any,
) -> Any:
    """Whether each label's class is among the k that score highest: 1 or 0, times its weight.

    Of equal scores the lower class ranks first, so that exactly k classes of a row count as
    predicted, and k = 1 is `metric_sparse_categorical_accuracy()`. Keras counts every class that
    scores as high as the k-th: a row of equal scores is right there for any label, and here for
    labels below k. With k >= C every row is right but one that holds NaN, which is wrong at every
    k. An ignored label gives 0; the object leaves it out of the mean.

    Args:
        y_true: labels 0 .. C-1, `y_pred`'s shape without the class axis (or 1 there), of any
            integer dtype, or whole-number floats; lists too. None, with `y_pred`, asks for the
            object.
        y_pred: class scores, probabilities or logits, any real dtype, any memory layout, of rank 1
            and up, in the host's memory; or JAX's, TensorFlow's or dask's.
        k: how many classes count as predicted, a whole number from 0 up.
        axis: the class axis of `y_pred`, 0-based; -1 is the last.
        ignore_class: class, or list, set or array of classes, whose labels count nowhere.
        sample_weight: as for `metric_sparse_categorical_accuracy()`.
        name: the object's name.
        dtype: dtype of the values; `config_floatx()` if None.

    Returns:
        The values, of `y_pred`'s shape without the class axis, a NumPy scalar for a single one; a
        tensor where `y_pred` is torch's. Of JAX's and TensorFlow's arrays theirs, NaN where a
        traced label is no class; of dask's lazy ones.
        Without data, a `SparseTopKCategoricalAccuracy`.

    Raises:
        TypeError: as for `metric_sparse_categorical_accuracy()`, or k is not a number.
        ValueError: as there, or k is negative or not whole.

    Cost: one read of `y_pred`, whatever k is; nothing is sorted.

    Example:
        >>> y_pred = [[0.05, 0.95, 0.0], [0.2, 0.7, 0.1]]
        >>> metric_sparse_top_k_categorical_accuracy([0, 2], y_pred, k=2)
        array([1., 0.], dtype=float32)

    Source: R keras3, `metric_sparse_top_k_categorical_accuracy`.
    """
    options = {"k": k, "axis": axis, "ignore_class": ignore_class, "name": name, "dtype": dtype}
    function = "metric_sparse_top_k_categorical_accuracy"
    if not _has_data(y_true, y_pred, sample_weight, unknown, function, options):
        return SparseTopKCategoricalAccuracy(**options)
    chosen = _chosen(axis, ignore_class, name, dtype)
    return _accuracies(y_true, y_pred, sample_weight, chosen, _top(k))


@overload
def metric_sparse_categorical_crossentropy(
    y_true: None = None,
    y_pred: None = None,
    from_logits: bool = False,
    ignore_class: IgnoreClass = None,
    axis: int = -1,
    *,
    normalize: NormalizeName = "after",
    name: str | None = "sparse_categorical_crossentropy",
    dtype: DType = None,
) -> SparseCategoricalCrossentropyMetric: ...
@overload
def metric_sparse_categorical_crossentropy(
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    from_logits: bool = False,
    ignore_class: IgnoreClass = None,
    axis: int = -1,
    *,
    normalize: NormalizeName = "after",
    sample_weight: npt.ArrayLike | None = None,
    name: str | None = "sparse_categorical_crossentropy",
    dtype: DType = None,
) -> npt.NDArray[Any]: ...
@not_converted
def metric_sparse_categorical_crossentropy(
    y_true: Any = None,
    y_pred: Any = None,
    from_logits: Any = False,
    ignore_class: Any = None,
    axis: Any = -1,
    *,
    normalize: Any = "after",
    sample_weight: Any = None,
    name: Any = "sparse_categorical_crossentropy",
    dtype: Any = None,
    **unknown: Any,
) -> Any:
    """Crossentropy between integer labels and class scores, one value per label, times its weight.

    The values are the losses of `loss_sparse_categorical_crossentropy()`, whose formulas stand
    there, times the weights: exactly 0 where the weight is, even of inf or NaN, and where the label
    is ignored. The object gives their weighted mean over labels that are not ignored; Keras's
    counts ignored labels in its divisor, so that it is lower than Keras's own loss.

    Args:
        y_true: labels 0 .. C-1, `y_pred`'s shape without the class axis (or 1 there), of any
            integer dtype, or whole-number floats; lists too. None, with `y_pred`, asks for the
            object.
        y_pred: class scores, any real dtype, any memory layout, of rank 1 and up, in the host's
            memory; or JAX's, TensorFlow's or dask's.
        from_logits: whether `y_pred` holds logits; probabilities if False.
        ignore_class: class, or list, set or array of classes, whose labels count nowhere.
        axis: the class axis of `y_pred`, 0-based; -1 is the last.
        normalize: how probabilities are made to sum to 1, "after" or "before" they are clipped, or
            "never".
        sample_weight: as for `metric_sparse_categorical_accuracy()`.
        name: the object's name.
        dtype: dtype of the values; `y_pred`'s if None. For the object `config_floatx()` if None.

    Returns:
        The values in nats, of `y_pred`'s shape without the class axis, a NumPy scalar for a single
        one; a tensor where `y_pred` is torch's. Without data, a
        `SparseCategoricalCrossentropyMetric`.

    Raises:
        TypeError: as for `metric_sparse_categorical_accuracy()`.
        ValueError: as there.

    Warns:
        UserWarning: `y_pred` holds what cannot be probabilities, or one class only, as for
            `loss_sparse_categorical_crossentropy()`.

    Cost: one read of `y_pred`.

    Example:
        >>> y_pred = [[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]]
        >>> metric_sparse_categorical_crossentropy([1, 2], y_pred)
        array([0.05129339, 2.30258509])
        >>> metric = metric_sparse_categorical_crossentropy()
        >>> metric.update_state([1, 2], y_pred, sample_weight=[0.3, 0.7])
        >>> print(f"{metric.result():.7f}")
        1.6271976

    Source: R keras3, `metric_sparse_categorical_crossentropy`.
    """
    options = {
        "from_logits": from_logits,
        "ignore_class": ignore_class,
        "axis": axis,
        "normalize": normalize,
        "name": name,
        "dtype": dtype,
    }
    function = "metric_sparse_categorical_crossentropy"
    if not _has_data(y_true, y_pred, sample_weight, unknown, function, options):
        return SparseCategoricalCrossentropyMetric(**options)
    chosen = _chosen(axis, ignore_class, name, dtype, from_logits, normalize)
    return execute.losses(y_true, _on_host(y_pred), sample_weight, chosen)


@overload
def metric_categorical_accuracy(
    y_true: None = None,
    y_pred: None = None,
    *,
    axis: int = -1,
    name: str | None = "categorical_accuracy",
    dtype: DType = None,
) -> CategoricalAccuracy: ...
@overload
def metric_categorical_accuracy(
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    *,
    axis: int = -1,
    sample_weight: npt.ArrayLike | None = None,
    name: str | None = "categorical_accuracy",
    dtype: DType = None,
) -> npt.NDArray[Any]: ...
@not_converted
def metric_categorical_accuracy(
    y_true: Any = None,
    y_pred: Any = None,
    *,
    axis: Any = -1,
    sample_weight: Any = None,
    name: Any = "categorical_accuracy",
    dtype: Any = None,
    **unknown: Any,
) -> Any:
    """Whether a row's greatest target and greatest score are of one class: 1 or 0, times a weight.

    Of equal targets, and of equal scores, the first counts. A row whose scores hold NaN is wrong.

    Args:
        y_true: one-hot or soft targets of `y_pred`'s shape, not negative; they need not sum to 1.
            None, with `y_pred`, asks for the object.
        y_pred: class scores, probabilities or logits, any real dtype, any memory layout, of rank 1
            and up, in the host's memory; or JAX's, TensorFlow's or dask's.
        axis: the class axis, 0-based; -1 is the last.
        sample_weight: as for `metric_sparse_categorical_accuracy()`.
        name: the object's name.
        dtype: dtype of the values; `config_floatx()` if None.

    Returns:
        The values, of `y_pred`'s shape without the class axis, a NumPy scalar for a single one; a
        tensor where `y_pred` is torch's. Of JAX's and TensorFlow's arrays theirs, NaN where a
        traced label is no class; of dask's lazy ones.
        Without data, a `CategoricalAccuracy`.

    Raises:
        TypeError: targets, scores or weights are not numbers or lie on a CUDA device, one of the
            two is missing, or a keyword is unknown.
        ValueError: a target is negative or NaN, a weight is missing, or shapes or options do not
            fit.

    Cost: one read of `y_pred` and two of `y_true`.

    Example:
        >>> metric_categorical_accuracy([[0, 1, 0], [0, 0, 1]], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]])
        array([1., 0.], dtype=float32)

    Source: R keras3, `metric_categorical_accuracy`.
    """
    options = {"axis": axis, "name": name, "dtype": dtype}
    function = "metric_categorical_accuracy"
    if not _has_data(y_true, y_pred, sample_weight, unknown, function, options):
        return CategoricalAccuracy(**options)
    chosen = _chosen(axis, None, name, dtype)
    return _accuracies(y_true, y_pred, sample_weight, chosen, 1, soft=True)


# ---- what they are made of ----------------------------------------------------------------------


def _has_data(
    y_true: object,
    y_pred: object,
    sample_weight: object,
    unknown: Mapping[str, object],
    function: str,
    options: Mapping[str, object],
) -> bool:
    """Whether this is the form with data; refuses what neither form, or the other one, takes."""
    refuse_unknown(unknown, ("y_true", "y_pred", *options, "sample_weight"), function)
    if has_data(y_true, y_pred, function, "value", "takes batches"):
        return True
    if sample_weight is not None:
        raise TypeError(
            f"sample_weight was given to {function}() without data: give it y_true and y_pred as "
            "well, or call update_state(y_true, y_pred, sample_weight=w) of the object"
        )
    return False


def _chosen(
    axis: object,
    ignore_class: object,
    name: object,
    dtype: object,
    from_logits: object = False,
    normalize: object = "after",
) -> Options:
    return read_once(from_logits, ignore_class, axis, 0.0, None, normalize, REDUCTION, name, dtype)


def _top(k: object) -> int:
    number = whole_number(k, "k")
    if number < 0:
        raise ValueError(
            f"k must be a whole number from 0 up, got {number}: 1 is the class that scores highest"
        )
    return number


def _accuracies(
    y_true: Any, y_pred: Any, sample_weight: Any, options: Options, k: int, soft: bool = False
) -> Any:
    """1 or 0 a label, or a row of targets if they are soft, times its weight."""
    options = options.changed(dtype=options.dtype or dtypes.of_name(config_floatx()))
    library = tracing_library(y_pred)
    if library is not None:
        options = options.changed(soft=soft)
        return tracing.accuracies(library, options, y_true, y_pred, sample_weight, k)
    if chunked.is_lazy(y_pred):
        of = partial(_accuracies, k=k, soft=soft)
        return chunked.values(of, y_true, y_pred, sample_weight, options, soft=soft)
    x = _scores(y_pred)
    y = _greatest(y_true, x, options.axis) if soft else y_true
    return as_sent(_weighted(_hits(y, x, options, k), x, sample_weight, options), y_pred)


def _on_host(y_pred: Any) -> Any:
    """The scores as they were sent, which do not lie on a CUDA device."""
    if adapter_of(y_pred) is not None:
        refuse_device(y_pred, "y_pred", "losses are served on the device")
    return y_pred


def _scores(y_pred: object) -> _Array:
    return tracing.host_scores(_on_host(y_pred))


def _hits(y_true: Any, x: _Array, options: Options, k: int) -> tuple[Any, Any]:
    """Whether the rank of each label is below k, and the ranks: negative where it is ignored."""
    classes = labels.class_axis(x, y_true, options.axis).classes
    ranks = execute.ranks(y_true, x, options)
    return (ranks >= 0) & (ranks < min(k, classes)), ranks  # C is the rank in a row with NaN


def _sums_of_hits(
    y_true: Any, x: _Array, sample_weight: Any, options: Options, k: int
) -> tuple[ExactSum, ExactSum]:
    """The exact sums of the weights of labels that rank below k, and of all that count."""
    hits, ranks = _hits(y_true, x, options, k)
    w = _weights(sample_weight, x, ranks, options.axis)
    if w is None:
        return ExactSum([np.count_nonzero(hits)]), ExactSum([np.count_nonzero(ranks >= 0)])
    return ExactSum(w[hits].ravel()), ExactSum(w.ravel())


def _greatest(y_true: Any, x: _Array, axis: int) -> Any:
    """The class of each row's greatest target, of the first where there are several."""
    axis = labels.class_axis(x, y_true, axis).axis
    targets = soft_targets.array_of(y_true, x, soft_targets.SPARSE_METRIC)
    with np.errstate(all="ignore"):
        fit = targets.size == 0 or targets.min() >= 0  # the least is NaN where there is one
    if not fit:
        soft_targets.refuse(targets, x, axis, soft_targets.SPARSE_METRIC)
    return targets.argmax(axis)


def _weights(sample_weight: object, x: _Array, y: Any, axis: int) -> Any:
    """One weight a label, 0 where y is negative; None where none were given."""
    w = weights.array_of(sample_weight)
    if w is None:
        return None
    return weights.counted(w, labels.class_axis(x, None, axis), y, sample_weight)


def _weighted(hits: tuple[Any, Any], x: _Array, sample_weight: object, options: Options) -> Any:
    """1 or 0 a label, times its weight."""
    v, ranks = hits
    w = _weights(sample_weight, x, ranks, options.axis)
    dtype = options.dtype
    with np.errstate(all="ignore"):  # a weight beyond the dtype is inf
        return arrays.scalar(np.asarray(v if w is None else np.where(v, w, 0.0)).astype(dtype))
