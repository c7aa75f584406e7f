"""JAX's arrays and tracers. JAX is imported by whoever calls with one, never here."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_xent.arrays import foreign
from sparse_xent.arrays.tracing import Array, Formula, Slope

# Labels were made valid before they serve as indices.
_MODE = "promise_in_bounds"


class Jax:
    """JAX and its operations."""

    name = "jax"
    outside = "jax.jit, jax.grad and jax.vmap"
    differentiates_by_values = False

    def __init__(self, sloped: bool = True) -> None:
        self.sloped = sloped  # whether slopes are made of what is computed, or losses alone
        self.jax = jax = sys.modules["jax"]
        jnp = jax.numpy
        self.exp, self.log, self.log1p, self.floor = jnp.exp, jnp.log, jnp.log1p, jnp.floor
        self.isnan, self.isinf, self.where, self.clip = jnp.isnan, jnp.isinf, jnp.where, jnp.clip
        self.expand, self.squeeze, self.reshape = jnp.expand_dims, jnp.squeeze, jnp.reshape
        self.stop_gradient = jax.lax.stop_gradient
        self.jnp = jnp

    # ---- what is known of an array ----

    def owns(self, array: object) -> bool:
        """Whether the array is JAX's."""
        return foreign.library(array) in ("jax", "jaxlib") and hasattr(array, "shape")

    def is_concrete(self, array: Any) -> bool:
        """Whether it is no tracer, and all of it lies with this process."""
        traced = isinstance(array, self.jax.core.Tracer)
        return not traced and getattr(array, "is_fully_addressable", True)

    def is_on_host(self, array: Any) -> bool:
        """Whether all its devices are the host's."""
        return all(device.platform == "cpu" for device in array.devices())

    def numpy(self, array: Any) -> npt.NDArray[Any]:
        """A concrete array's values."""
        return np.asarray(array)

    def array(self, value: Any) -> Array:
        """The value as it is: JAX takes NumPy's arrays."""
        return value

    def shape(self, array: Array) -> tuple[int | None, ...] | None:
        """Its lengths, which are always known."""
        return tuple(array.shape)

    def dtype(self, array: Array) -> np.dtype[Any]:
        """Its dtype."""
        dtype: np.dtype[Any] = np.dtype(array.dtype)
        return dtype

    # ---- what it offers ----

    def check_dtype(self, dtype: str) -> None:
        """Refuse float64 where JAX would make it float32."""
        if dtype == "float64" and self.widest("float") != dtype:
            raise TypeError(
                "dtype must be at most float32 for JAX's arrays as JAX is set up, got float64: "
                "call jax.config.update('jax_enable_x64', True) first"
            )

    def widest(self, kind: str) -> str:
        """Name of the widest dtype of a kind."""
        return kind + ("64" if self.jax.config.jax_enable_x64 else "32")

    def compiled(self, function: Callable[..., Array]) -> Callable[..., Array]:
        """By jax.jit, which is a part of the caller's where there is one."""
        made: Callable[..., Array] = self.jax.jit(function)
        return made

    def differentiable(
        self, formula: Formula, operands: tuple[Array, ...], others: tuple[Array, ...], axis: int
    ) -> Array:
        """By custom_jvp, so that forward, reverse and higher derivatives are all there."""

        def value(xp: Jax) -> Any:
            made = self.jax.custom_jvp(lambda *arrays: formula(xp, *arrays)[0])
            made.defjvp(derivative, symbolic_zeros=True)
            return made

        def derivative(arrays: tuple[Array, ...], tangents: tuple[Array, ...]) -> Any:
            slopes = formula(self, *arrays)[1]()
            parts = [
                self._along(slope, tangent, axis)
                for slope, tangent in zip(slopes, tangents, strict=False)
                if not isinstance(tangent, zero)
            ]
            return value(self)(*arrays), sum(parts[1:], parts[0])

        zero = self.jax.custom_derivatives.SymbolicZero
        return value(Jax(sloped=False))(*operands, *others)

    def _along(self, slope: Slope, tangent: Array, axis: int) -> Array:
        """The derivative of the losses along a tangent."""
        whole = slope.dense
        if whole is None:
            return slope.at_target * self.take(tangent, slope.t, axis)
        if slope.at_target is not None:
            is_target = self.classes(tangent, axis) == slope.t
            whole = self.where(is_target, whole + slope.at_target, whole)
        return self.sum(whole * tangent, axis)

    def gradient_of(self, argument: str) -> str:
        """The expression that differentiates."""
        return f"jax.value_and_grad(lambda x: loss(y_true, x))({argument})"

    # ---- array operations ----

    def cast(self, a: Array, dtype: str) -> Array:
        """The array in a dtype."""
        return self.jnp.asarray(a, dtype)

    def sum(self, a: Array, axis: int | None = None) -> Array:
        """Over the classes, or over all."""
        return self.jnp.sum(a, axis, keepdims=axis is not None)

    def max(self, a: Array, axis: int) -> Array:
        """Over the classes."""
        return self.jnp.max(a, axis, keepdims=True)

    def argmax(self, a: Array, axis: int) -> Array:
        """The first of the greatest."""
        return self.jnp.argmax(a, axis, keepdims=True).astype("int32")

    def any(self, a: Array, axis: int) -> Array:
        """Over the classes."""
        return self.jnp.any(a, axis, keepdims=True)

    def classes(self, a: Array, axis: int) -> Array:
        """0 .. C-1."""
        return self.jnp.arange(a.shape[axis], dtype="int32").reshape(
            [-1 if k == axis else 1 for k in range(a.ndim)]
        )

    def take(self, a: Array, t: Array, axis: int) -> Array:
        """Each row's element at t."""
        return self.jnp.take_along_axis(a, t, axis, mode=_MODE)

    def put(self, a: Array, t: Array, value: Any, axis: int) -> Array:
        """By a scatter: a comparison of all classes with t takes half as long again (CPU)."""
        value = self.jnp.asarray(value, a.dtype)
        return self.jnp.put_along_axis(a, t, value, axis, inplace=False, mode=_MODE)

    def leave_out(self, e: Array, t: Array, axis: int) -> Array:
        """By a scatter where slopes read the result again, else by arithmetic.

        XLA's compiler for CPUs fuses arithmetic with a sum, but neither a scatter nor a comparison:
        the mean of 512 x 32000 losses takes half the time, of 4096 x 1000 four fifths.
        """
        if self.sloped or e.shape[axis] > 2**24:  # float32 has not all classes above
            return self.put(e, t, 0.0, axis)
        classes = self.classes(e, axis).astype(e.dtype)
        # The minimum of e and the distance would do, and take 0.9 of the time, but where XLA fuses
        # a minimum it may give the other number for a NaN.
        return e * self.jnp.minimum(self.jnp.abs(classes - t.astype(e.dtype)), 1)

    def lookup(self, vector: npt.NDArray[Any], t: Array, dtype: str) -> Array:
        """vector[t]."""
        return self.jnp.take(self.jnp.asarray(vector, dtype), t, mode="clip")

    def size(self, a: Array, dtype: str) -> Array:
        """How many elements there are."""
        return self.jnp.asarray(a.size, dtype)

    def losses_shape(self, x: Array, axis: int) -> Any:
        """The shape without the class axis."""
        return (*x.shape[:axis], *x.shape[axis + 1 :])
