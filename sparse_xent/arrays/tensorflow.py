"""TensorFlow's tensors, eager and symbolic. TensorFlow is imported by whoever calls, never here."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_xent import dtypes
from sparse_xent.arrays.tracing import Array, Formula, Slope


class TensorFlow:
    """TensorFlow and its operations."""

    name = "tensorflow"
    outside = "tf.function"
    differentiates_by_values = True

    def __init__(self) -> None:
        self.tf = tf = sys.modules["tensorflow"]
        self.exp, self.log, self.log1p = tf.exp, tf.math.log, tf.math.log1p
        self.floor, self.isnan, self.isinf = tf.floor, tf.math.is_nan, tf.math.is_inf
        self.expand, self.reshape, self.clip = tf.expand_dims, tf.reshape, tf.clip_by_value
        self.cast, self.stop_gradient = tf.cast, tf.stop_gradient

    # ---- what is known of an array ----

    def owns(self, array: object) -> bool:
        """Whether the tensor (or variable) is TensorFlow's, and dense."""
        return isinstance(array, self.tf.Tensor | self.tf.Variable)

    def is_concrete(self, array: Any) -> bool:
        """Whether its value is known: in a tf.function a variable's is not."""
        eager = isinstance(array, self.tf.Tensor) or self.tf.executing_eagerly()
        return eager and hasattr(array, "numpy")

    def is_on_host(self, array: Any) -> bool:
        """Whether its device is the host's."""
        return ":CPU:" in array.device

    def numpy(self, array: Any) -> npt.NDArray[Any]:
        """A concrete tensor's values."""
        return np.asarray(array.numpy())

    def array(self, value: Any) -> Array:
        """A tensor."""
        return self.tf.convert_to_tensor(value)

    def shape(self, array: Array) -> tuple[int | None, ...] | None:
        """Its lengths, as far as they are known."""
        return None if array.shape.rank is None else tuple(array.shape)

    def dtype(self, array: Array) -> np.dtype[Any]:
        """Its dtype as NumPy's."""
        return dtypes.of_library(array.dtype.name)

    # ---- what it offers ----

    def check_dtype(self, dtype: str) -> None:
        """TensorFlow has them all."""

    def widest(self, kind: str) -> str:
        """Name of the widest dtype of a kind."""
        return f"{kind}64"

    def compiled(self, function: Callable[..., Array]) -> Callable[..., Array]:
        """As it is: a tf.function would be traced again for each shape."""
        return function

    def differentiable(
        self, formula: Formula, operands: tuple[Array, ...], others: tuple[Array, ...], axis: int
    ) -> Array:
        """By custom_gradient, whose gradient is differentiated as it is written."""

        @self.tf.custom_gradient  # type: ignore[untyped-decorator]
        def losses(*operands: Array) -> Any:
            made, slopes = formula(self, *operands, *others)

            def gradient(upstream: Array) -> list[Array]:
                return [
                    self._scaled(slope, upstream, like, axis)
                    for slope, like in zip(slopes(), operands, strict=True)
                ]

            return made, gradient

        return losses(*operands)

    def _scaled(self, slope: Slope, upstream: Array, like: Array, axis: int) -> Array:
        """The gradient by an operand."""
        dense = 0 if slope.dense is None else slope.dense
        if slope.at_target is None:
            return self.tf.broadcast_to(upstream * dense, self.tf.shape(like))
        at_target = upstream * (
            slope.at_target + (0 if slope.dense is None else self._at(slope, axis))
        )
        scaled = self.tf.zeros_like(upstream) if slope.dense is None else upstream * dense
        return self.tf.where(self._is_target(like, slope.t, axis), at_target, scaled)

    def _at(self, slope: Slope, axis: int) -> Array:
        """The dense part at each row's target."""
        assert slope.dense is not None
        whole = slope.dense.shape[axis] != 1
        return self.take(slope.dense, slope.t, axis) if whole else slope.dense

    def gradient_of(self, argument: str) -> str:
        """The statements that differentiate."""
        return (
            f"with tf.GradientTape() as tape: tape.watch({argument}); "
            f"value = loss(y_true, {argument}); then tape.gradient(value, {argument})"
        )

    # ---- array operations ----

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        """Numbers take the dtype of the tensor beside them."""
        tensor = self.tf.Tensor
        dtype = next(v.dtype for v in (a, b) if isinstance(v, tensor))
        a, b = (v if isinstance(v, tensor) else self.tf.constant(v, dtype) for v in (a, b))
        return self.tf.where(condition, a, b)

    def sum(self, a: Array, axis: int | None = None) -> Array:
        """Over the classes, or over all."""
        return self.tf.reduce_sum(a, axis, keepdims=axis is not None)

    def max(self, a: Array, axis: int) -> Array:
        """Over the classes."""
        return self.tf.reduce_max(a, axis, keepdims=True)

    def argmax(self, a: Array, axis: int) -> Array:
        """The first of the greatest."""
        return self.expand(self.tf.argmax(a, axis, output_type=self.tf.int32), axis)

    def any(self, a: Array, axis: int) -> Array:
        """Over the classes."""
        return self.tf.reduce_any(a, axis, keepdims=True)

    def classes(self, a: Array, axis: int) -> Array:
        """0 .. C-1."""
        return self.tf.reshape(
            self.tf.range(a.shape[axis]), [-1 if k == axis else 1 for k in range(a.shape.rank)]
        )

    def take(self, a: Array, t: Array, axis: int) -> Array:
        """Each row's element at t; where the class axis is not the last by comparing all with t."""
        if axis == a.shape.rank - 1:
            return self.tf.gather(a, t, axis=axis, batch_dims=axis)
        return self.sum(self.where(self._is_target(a, t, axis), a, 0), axis)

    def put(self, a: Array, t: Array, value: Any, axis: int) -> Array:
        """By comparing all classes with t: TensorFlow's scatter takes longer."""
        return self.where(self._is_target(a, t, axis), value, a)

    def leave_out(self, e: Array, t: Array, axis: int) -> Array:
        """As `put` does it."""
        return self.put(e, t, 0.0, axis)

    def _is_target(self, a: Array, t: Array, axis: int) -> Array:
        return self.tf.equal(self.classes(a, axis), t)

    def lookup(self, vector: npt.NDArray[Any], t: Array, dtype: str) -> Array:
        """vector[t]."""
        return self.tf.gather(self.tf.constant(vector, dtype), t)

    def squeeze(self, a: Array, axis: int) -> Array:
        """The tensor without the class axis."""
        return self.tf.squeeze(a, [axis])

    def size(self, a: Array, dtype: str) -> Array:
        """How many elements there are."""
        return self.tf.cast(self.tf.size(a, self.tf.int64), dtype)

    def losses_shape(self, x: Array, axis: int) -> Any:
        """The shape without the class axis, of numbers where all are known."""
        if x.shape.is_fully_defined():
            return [*x.shape[:axis], *x.shape[axis + 1 :]]
        lengths = self.tf.shape(x)
        return self.tf.concat([lengths[:axis], lengths[axis + 1 :]], 0)
