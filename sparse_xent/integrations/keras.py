"""Keras 3's kinds of losses and metrics, on any of its backends: to compile, fit, save and load.

The arguments, formulas and refusals are those of the objects of the same names in `sparse_xent`;
importing this module imports Keras and registers the classes under the package "sparse_xent": do so
before `keras.saving.load_model`. Labels are never cast to a float type, and a mask or an ignored
class takes a label out of the mean.

Notation: l losses, w sample weights, V the number of labels neither ignored nor masked.
"""

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import keras
import numpy.typing as npt
from keras import ops

# What Keras's own losses ask; it has no public names for them.
from keras.src.backend import get_keras_mask
from keras.src.losses.loss import scale_loss_for_distribution

import sparse_xent as sx

_IgnoreClass = int | Collection[int] | None
_ClassWeight = npt.ArrayLike | Mapping[int, float] | Mapping[str, float] | None
_registered = keras.saving.register_keras_serializable(package="sparse_xent")

# What a masked label becomes, ignored beside the classes that the caller ignores. Every float of 32
# bits and every integer holds it, and it is not R's NA.
_MASKED = -(2**31) + 2**8


def _with_dtype(options: dict[str, Any]) -> dict[str, Any]:
    """The options with Keras's default dtype where none was given."""
    return {**options, "dtype": options["dtype"] or keras.config.floatx()}


# ---- losses -------------------------------------------------------------------------------------


class _Loss(keras.losses.Loss):  # type: ignore[misc]  # Keras has no types here
    """What both losses share: a loss object of ours, which decides on arguments and values."""

    _kind: ClassVar[Any]  # of that object
    _losses: ClassVar[Any]  # the function that gives one loss a label

    def __init__(self, **options: Any) -> None:
        loss = self._kind(**_with_dtype(options))
        super().__init__(name=loss.name, reduction=loss.reduction, dtype=loss.dtype)
        self._loss = loss

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """One loss a label, or a row of targets, whatever the reduction."""
        config = {**self._loss.get_config(), "reduction": "sum_over_batch_size"}
        return self._losses(y_true, y_pred, **config)

    def get_config(self) -> dict[str, Any]:
        """The arguments as plain JSON values."""
        config: dict[str, Any] = self._loss.get_config()
        config.pop("device", None)
        return config

    def _scaled(self, value: Any) -> Any:
        """The value as TensorFlow's strategies sum it over replicas."""
        is_mean = self.reduction not in ("sum", None)
        return scale_loss_for_distribution(value) if is_mean else value


@_registered
class SparseCategoricalCrossentropy(_Loss):
    """Crossentropy between integer labels and class scores, for Keras's `compile`.

    The value is that of `sparse_xent.SparseCategoricalCrossentropy`: sum(w l) / V in nats. Labels
    and scores are (N,) and (N, C), or of any rank, with the class axis anywhere. In `fit` a label
    that is no class is refused on the torch backend, and gives NaN on JAX and TensorFlow.

    Args:
        from_logits: whether scores are logits; probabilities if False.
        ignore_class: class, or list of classes, whose losses and gradients are exactly 0.
        axis: the class axis of the scores, 0-based.
        label_smoothing: share of the target that is spread over all classes, 0 to 1.
        class_weight: a vector of C weights, or a dict; it multiplies each label's loss.
        normalize: how probabilities are made to sum to 1: "after" is what Keras does on
            TensorFlow, "before" what it does on torch and JAX; "never" reads one score a label.
        reduction: as in Keras.
        name: the loss's name.
        dtype: dtype of the value, or a policy; `keras.config.floatx()` if None. Nothing is computed
            below float32, whatever it is.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range.

    Weights have the losses' shape, or fewer axes that match its leading ones: weights (N,) of
    sequences (N, T) weigh samples, for T = N too. Where scores have a Keras mask, masked labels are
    as ignored ones.

    Example:
        >>> loss = SparseCategoricalCrossentropy(ignore_class=[255, -100])
        >>> value = loss([1, 2, 255], [[0.05, 0.95, 0], [0.1, 0.8, 0.1], [0, 0, 1]])
        >>> print(f"{float(value):.5f}")
        1.17694
        >>> model = keras.Sequential([keras.layers.Dense(3, activation="softmax")])
        >>> model.compile(optimizer="sgd", loss=loss)

    Source: Keras 3, `keras.losses.SparseCategoricalCrossentropy`.
    """

    _kind = sx.SparseCategoricalCrossentropy
    _losses = staticmethod(sx.loss_sparse_categorical_crossentropy)

    def __init__(
        self,
        *,
        from_logits: bool = False,
        ignore_class: _IgnoreClass = None,
        axis: int = -1,
        label_smoothing: float = 0.0,
        class_weight: _ClassWeight = None,
        normalize: Any = "after",
        reduction: Any = "sum_over_batch_size",
        name: str | None = "sparse_categorical_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            from_logits=from_logits,
            ignore_class=ignore_class,
            axis=axis,
            label_smoothing=label_smoothing,
            class_weight=class_weight,
            normalize=normalize,
            reduction=reduction,
            name=name,
            dtype=dtype,
        )
        config = self._loss.get_config()
        self._axis = config["axis"]
        self._masking = sx.SparseCategoricalCrossentropy(
            **{**config, "ignore_class": _with_masked(config["ignore_class"])}
        )

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The reduced loss.

        Args:
            y_true: labels, the scores' shape without the class axis (or 1 there), of any integer
                dtype, or whole-number floats.
            y_pred: scores, with or without a Keras mask.
            sample_weight: weights, if any.

        Returns:
            A tensor of the backend.
        """
        mask = get_keras_mask(y_pred)
        y_pred = ops.convert_to_tensor(y_pred)
        if mask is None:
            return self._scaled(self._loss(y_true, y_pred, sample_weight))
        y = _masked(y_true, y_pred, mask, self._axis)
        return self._scaled(self._masking(y, y_pred, sample_weight))


@_registered
class CategoricalCrossentropy(_Loss):
    """Crossentropy between one-hot or soft targets and class scores, for Keras's `compile`.

    One loss a row is that of `sparse_xent.CategoricalCrossentropy`; masks, weights and the
    reduction are Keras's.

    Args:
        from_logits: whether scores are logits; probabilities if False.
        label_smoothing: share of the target that is spread over all classes, 0 to 1.
        axis: the class axis, 0-based.
        reduction: as in Keras.
        name: the loss's name.
        dtype: dtype of losses and value, or a policy; `keras.config.floatx()` if None.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range.

    Example:
        >>> value = CategoricalCrossentropy()([[0, 1, 0]], [[0.05, 0.95, 0]])
        >>> print(f"{float(value):.5f}")
        0.05129

    Source: Keras 3, `keras.losses.CategoricalCrossentropy`.
    """

    _kind = sx.CategoricalCrossentropy
    _losses = staticmethod(sx.loss_categorical_crossentropy)

    def __init__(
        self,
        *,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: Any = "sum_over_batch_size",
        name: str | None = "categorical_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            from_logits=from_logits,
            label_smoothing=label_smoothing,
            axis=axis,
            reduction=reduction,
            name=name,
            dtype=dtype,
        )


# ---- metrics ------------------------------------------------------------------------------------


class _Metric(keras.metrics.Metric):  # type: ignore[misc]
    """What all metrics share: the sums of w v and of w, as variables that Keras may distribute."""

    _kind: ClassVar[Any]  # of the metric object of ours that decides on arguments
    _values: ClassVar[Any]  # the function that gives one value a label

    def __init__(self, **options: Any) -> None:
        metric = self._kind(**_with_dtype(options))
        super().__init__(name=metric.name, dtype=metric.dtype)
        self._config: dict[str, Any] = metric.get_config()
        wide = "float64" if self.dtype == "float64" else "float32"  # a float16 counts to 2048
        self.total = self.add_weight(name="total", initializer="zeros", dtype=wide)
        self.count = self.add_weight(name="count", initializer="zeros", dtype=wide)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch.

        Args:
            y_true: labels, or targets.
            y_pred: scores, with or without a Keras mask, whose masked labels count nowhere.
            sample_weight: weights, if any.
        """
        mask = get_keras_mask(y_pred)
        x = ops.stop_gradient(ops.convert_to_tensor(y_pred))
        options = dict(self._config)
        ignored = options.get("ignore_class")
        if mask is not None and "ignore_class" in options:
            y_true = _masked(y_true, x, mask, options["axis"])
            options["ignore_class"] = ignored = _with_masked(ignored)
        values = ops.cast(self._values(y_true, x, **options), self.total.dtype)
        if ignored is None and mask is None and sample_weight is None:
            self.total.assign_add(ops.sum(values))
            self.count.assign_add(ops.cast(ops.size(values), self.count.dtype))
            return
        counts = ops.ones_like(values, dtype="bool")
        if ignored is not None:
            y = _without_class_axis(y_true, x, options["axis"])
            for each in _several(ignored):
                counts &= y != each
        elif mask is not None:
            counts &= _of_labels(mask, values)
        # A weight, 0 where it does not count, is the accuracy of a label of one class, 0.
        one = ops.expand_dims(ops.zeros_like(values), -1)
        w = sx.metric_sparse_categorical_accuracy(
            ops.where(counts, 0, _MASKED),
            one,
            ignore_class=_MASKED,
            sample_weight=sample_weight,
            dtype=self.total.dtype,
        )
        self.total.assign_add(ops.sum(ops.where(w == 0, ops.zeros_like(values), w * values)))
        self.count.assign_add(ops.sum(w))

    def result(self) -> Any:
        """The weighted mean over all labels so far, sum(w v) / sum(w); 0 where there are none."""
        return ops.divide_no_nan(self.total, self.count)

    def get_config(self) -> dict[str, Any]:
        """The arguments as plain JSON values."""
        return {**self._config, "name": self.name}


@_registered
class SparseCategoricalAccuracy(_Metric):
    """The share of labels whose class scores highest, for Keras's `compile`.

    Values are those of `sparse_xent.metric_sparse_categorical_accuracy()`; ignored and masked
    labels count nowhere.

    Args:
        axis: the class axis of the scores, 0-based.
        ignore_class: class, or list of classes, whose labels count nowhere.
        name: the metric's name.
        dtype: of the values; the state is float32, or float64.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range.

    Example:
        >>> metric = SparseCategoricalAccuracy(ignore_class=255)
        >>> metric.update_state([1, 2, 255], [[0.05, 0.95, 0], [0.1, 0.8, 0.1], [0, 0, 1]])
        >>> float(metric.result())
        0.5

    Source: Keras 3, `keras.metrics.SparseCategoricalAccuracy`.
    """

    _kind = sx.SparseCategoricalAccuracy
    _values = staticmethod(sx.metric_sparse_categorical_accuracy)

    def __init__(
        self,
        *,
        axis: int = -1,
        ignore_class: _IgnoreClass = None,
        name: str | None = "sparse_categorical_accuracy",
        dtype: Any = None,
    ) -> None:
        super().__init__(axis=axis, ignore_class=ignore_class, name=name, dtype=dtype)


@_registered
class SparseTopKCategoricalAccuracy(_Metric):
    """The share of labels whose class is among the k that score highest, for Keras's `compile`.

    Values are those of `sparse_xent.metric_sparse_top_k_categorical_accuracy()`: of equal scores
    the lower class ranks first, where Keras counts all of them.

    Args:
        k: how many classes count as predicted, a whole number from 0 up.
        axis: the class axis of the scores, 0-based.
        ignore_class: class, or list of classes, whose labels count nowhere.
        name: the metric's name.
        dtype: of the values; the state is float32, or float64.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range.

    Example:
        >>> metric = SparseTopKCategoricalAccuracy(k=2)
        >>> metric.update_state([1, 2], [[0.05, 0.95, 0], [0.2, 0.7, 0.1]])
        >>> float(metric.result())
        0.5

    Source: Keras 3, `keras.metrics.SparseTopKCategoricalAccuracy`.
    """

    _kind = sx.SparseTopKCategoricalAccuracy
    _values = staticmethod(sx.metric_sparse_top_k_categorical_accuracy)

    def __init__(
        self,
        k: int = 5,
        *,
        axis: int = -1,
        ignore_class: _IgnoreClass = None,
        name: str | None = "sparse_top_k_categorical_accuracy",
        dtype: Any = None,
    ) -> None:
        super().__init__(k=k, axis=axis, ignore_class=ignore_class, name=name, dtype=dtype)


@_registered
class SparseCategoricalCrossentropyMetric(_Metric):
    """The weighted mean of the crossentropy of labels and class scores, for Keras's `compile`.

    Values are those of `sparse_xent.metric_sparse_categorical_crossentropy()`, in nats. Ignored and
    masked labels are in no divisor; Keras's own metric counts the ignored ones.

    Args:
        from_logits: whether scores are logits; probabilities if False.
        ignore_class: class, or list of classes, whose labels count nowhere.
        axis: the class axis of the scores, 0-based.
        normalize: "after", "before" or "never", as for the loss.
        name: the metric's name.
        dtype: of the values; the state is float32, or float64.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range.

    Example:
        >>> metric = SparseCategoricalCrossentropyMetric()
        >>> metric.update_state([1, 2], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]], [0.3, 0.7])
        >>> print(f"{float(metric.result()):.5f}")
        1.62720

    Source: Keras 3, `keras.metrics.SparseCategoricalCrossentropy`.
    """

    _kind = sx.SparseCategoricalCrossentropyMetric
    _values = staticmethod(sx.metric_sparse_categorical_crossentropy)

    def __init__(
        self,
        *,
        from_logits: bool = False,
        ignore_class: _IgnoreClass = None,
        axis: int = -1,
        normalize: Any = "after",
        name: str | None = "sparse_categorical_crossentropy",
        dtype: Any = None,
    ) -> None:
        super().__init__(
            from_logits=from_logits,
            ignore_class=ignore_class,
            axis=axis,
            normalize=normalize,
            name=name,
            dtype=dtype,
        )


@_registered
class CategoricalAccuracy(_Metric):
    """The share of rows whose greatest target and greatest score are of one class, for `compile`.

    Values are those of `sparse_xent.metric_categorical_accuracy()`.

    Args:
        axis: the class axis, 0-based.
        name: the metric's name.
        dtype: of the values; the state is float32, or float64.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or out of range.

    Example:
        >>> metric = CategoricalAccuracy()
        >>> metric.update_state([[0, 1, 0], [0, 0, 1]], [[0.05, 0.95, 0], [0.1, 0.8, 0.1]])
        >>> float(metric.result())
        0.5

    Source: Keras 3, `keras.metrics.CategoricalAccuracy`.
    """

    _kind = sx.CategoricalAccuracy
    _values = staticmethod(sx.metric_categorical_accuracy)

    def __init__(
        self, *, axis: int = -1, name: str | None = "categorical_accuracy", dtype: Any = None
    ) -> None:
        super().__init__(axis=axis, name=name, dtype=dtype)


# ---- masks --------------------------------------------------------------------------------------


def _several(ignored: Any) -> list[int]:
    """Ignored classes of a config as a list."""
    return ignored if isinstance(ignored, list) else [] if ignored is None else [ignored]


def _with_masked(ignored: Any) -> list[int]:
    """The classes that are ignored where masked labels are, too."""
    return [*_several(ignored), _MASKED]


def _without_class_axis(y_true: Any, y_pred: Any, axis: int) -> Any:
    """Labels of the losses' shape, where they come with length 1 at the class axis."""
    y = ops.convert_to_tensor(y_true)
    return ops.squeeze(y, axis) if len(y.shape) == len(y_pred.shape) else y


def _masked(y_true: Any, y_pred: Any, mask: Any, axis: int) -> Any:
    """The labels, and `_MASKED` in the place of those that the mask leaves out."""
    y = _without_class_axis(y_true, y_pred, axis)
    dtype = keras.backend.result_type(y.dtype, "int32")
    if "float" in dtype:
        dtype = keras.backend.result_type(dtype, "float32")
    y = ops.cast(y, dtype)
    return ops.where(_of_labels(mask, y), y, ops.cast(_MASKED, dtype))


def _of_labels(mask: Any, losses: Any) -> Any:
    """A mask of the losses' leading axes, as bools of their rank."""
    mask = ops.cast(mask, "bool")
    for _ in range(len(losses.shape) - len(mask.shape)):
        mask = ops.expand_dims(mask, -1)
    return mask
