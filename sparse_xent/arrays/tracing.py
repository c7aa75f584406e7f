"""Libraries that trace: what their adapters offer.

JAX and TensorFlow record what is done with an array, compile it and differentiate it. They are
served by the formulas of `engines.traced`, written in the operations of a `TracingLibrary`, never
by kernels that take memory. No library is imported here.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

Array = Any  # a library's
Entity = TypeVar("Entity")


class Slope(NamedTuple):
    """A derivative of losses by one operand: dense_j + [j = t] at_target, in each row."""

    dense: Array | None  # of the operand's shape, or with length 1 at the class axis
    at_target: Array | None = None  # with length 1 at the class axis
    t: Array | None = None  # each row's t, int32, with length 1 at the class axis


Formula = Callable[..., tuple[Array, Callable[[], tuple[Slope, ...]]]]
"""(library, *operands, *others) -> the losses, and what makes their slope by each operand."""


class TracingLibrary(Protocol):
    """A library of traced arrays: what is known of its arrays, and its array operations.

    Operations are named as NumPy's. Where an `axis` is given it is the class axis, which stays in
    the result with length 1. Indices are int32.
    """

    name: str
    outside: str
    """The transformations under which arrays are traced, in the words of a message."""

    differentiates_by_values: bool
    """Whether it may differentiate by arrays that have values, as a tape does."""

    def __hash__(self) -> int: ...

    # ---- what is known of an array ----

    def owns(self, array: object) -> bool:
        """Whether the array is this library's."""

    def is_concrete(self, array: Any) -> bool:
        """Whether the array of this library has values that can be read here and now."""

    def is_on_host(self, array: Any) -> bool:
        """Whether a concrete array lies in the host's memory, and on no accelerator."""

    def numpy(self, array: Any) -> npt.NDArray[Any]:
        """A concrete array's values."""

    def array(self, value: Any) -> Array:
        """An array that operations take, of one of the library's or of NumPy's."""

    def shape(self, array: Array) -> tuple[int | None, ...] | None:
        """Its lengths, None for one that is not known yet; None where not even the rank is."""

    def dtype(self, array: Array) -> np.dtype[Any]:
        """Its dtype as NumPy's."""

    # ---- what it offers ----

    def check_dtype(self, dtype: str) -> None:
        """Refuse a dtype that the library does not have as it is set up.

        Raises:
            TypeError: with the way to have it.
        """

    def widest(self, kind: str) -> str:
        """Name of the widest dtype of a kind, "float" or "int"."""

    def compiled(self, function: Callable[..., Array]) -> Callable[..., Array]:
        """The function of arrays (or None), compiled where calls outside of a trace gain by it."""

    def differentiable(
        self, formula: Formula, operands: tuple[Array, ...], others: tuple[Array, ...], axis: int
    ) -> Array:
        """The losses of a formula, whose derivatives are its slopes, not those of its operations.

        Slopes are differentiated as they are written.
        """

    def gradient_of(self, argument: str) -> str:
        """The expression that differentiates `loss(y_true, y_pred)` by y_pred."""

    # ---- array operations ----

    def exp(self, a: Array) -> Array:
        """The exponential."""

    def log(self, a: Array) -> Array:
        """The natural logarithm."""

    def log1p(self, a: Array) -> Array:
        """log(1 + a)."""

    def floor(self, a: Array) -> Array:
        """The greatest whole number that is not greater."""

    def isnan(self, a: Array) -> Array:
        """Where it is NaN."""

    def isinf(self, a: Array) -> Array:
        """Where it is infinite."""

    def where(self, condition: Array, a: Any, b: Any) -> Array:
        """One or the other; numbers take the dtype of the array beside them."""

    def clip(self, a: Array, low: float, high: float) -> Array:
        """Not below low, not above high; NaN stays."""

    def cast(self, a: Array, dtype: str) -> Array:
        """In a dtype."""

    def stop_gradient(self, a: Array) -> Array:
        """A constant to derivatives."""

    def sum(self, a: Array, axis: int | None = None) -> Array:
        """Over the classes, or over all."""

    def max(self, a: Array, axis: int) -> Array:
        """Over the classes."""

    def argmax(self, a: Array, axis: int) -> Array:
        """The first class of the greatest, int32."""

    def any(self, a: Array, axis: int) -> Array:
        """Whether any of a row is true."""

    def classes(self, a: Array, axis: int) -> Array:
        """0 .. C-1 along the class axis, of length 1 along the others."""

    def take(self, a: Array, t: Array, axis: int) -> Array:
        """Each row's element at t."""

    def put(self, a: Array, t: Array, value: Any, axis: int) -> Array:
        """The array with a value, or one a row, in the place of each row's element at t."""

    def leave_out(self, e: Array, t: Array, axis: int) -> Array:
        """Numbers that are finite or NaN, with 0 in the place of each row's element at t."""

    def lookup(self, vector: npt.NDArray[Any], t: Array, dtype: str) -> Array:
        """vector[t]."""

    def expand(self, a: Array, axis: int) -> Array:
        """The array with the class axis, of length 1."""

    def squeeze(self, a: Array, axis: int) -> Array:
        """The array without the class axis, of length 1."""

    def reshape(self, a: Array, shape: tuple[int, ...]) -> Array:
        """The elements in another shape."""

    def size(self, a: Array, dtype: str) -> Array:
        """How many elements there are, in a dtype."""

    def losses_shape(self, x: Array, axis: int) -> Any:
        """The shape of x without the class axis, as `reshape` takes it."""


def not_converted(entity: Entity) -> Entity:
    """A function, or a class of callables, as it is, for TensorFlow to run as it is.

    In a tf.function AutoGraph rewrites the functions that it meets, and all that they call, but
    those that bear this mark.
    """
    entity.autograph_info__ = {}  # type: ignore[attr-defined]
    return entity
