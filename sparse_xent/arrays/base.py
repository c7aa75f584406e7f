"""How an array lies in memory, and what is asked of the libraries whose arrays are served.

An `ArraySpec` says all of an array but its address and its values: plans are made of specs. An
`ArrayAdapter` stands for one library: it gives the specs and addresses of that library's arrays,
allocates results from its pool, and names the stream that it would work on. No library is imported
here, nor asked for.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

DEFAULT_STREAMS = (0, 1)
"""Handles of the stream that a device's work goes on by default; 2 is another in each thread."""


class ArraySpec(NamedTuple):
    """How an array lies in memory; all of it but its address."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]  # bytes
    dtype: np.dtype[Any]
    device: int | None = None  # ordinal of a CUDA device; None for the host
    writable: bool = True
    aligned: bool = True

    @property
    def size(self) -> int:
        """How many elements there are."""
        size = 1
        for n in self.shape:
            size *= n
        return size

    @property
    def nbytes(self) -> int:
        """How many bytes they take."""
        return self.size * self.dtype.itemsize

    @property
    def is_c_order(self) -> bool:
        """Whether elements lie one after the other, the last axis fastest."""
        dense = dense_strides(self.shape, self.dtype.itemsize)
        return all(
            n == 1 or s == d for n, s, d in zip(self.shape, self.strides, dense, strict=True)
        )

    @classmethod
    def dense(
        cls, shape: tuple[int, ...], dtype: np.dtype[Any], device: int | None = None
    ) -> "ArraySpec":
        """A new array in C order."""
        return cls(shape, dense_strides(shape, dtype.itemsize), dtype, device)

    def broadcast_to(self, shape: tuple[int, ...]) -> "ArraySpec":
        """The array in a shape that NumPy's rules give it: repeats have stride 0."""
        ahead = (0,) * (len(shape) - len(self.shape))
        axes = zip(self.shape, self.strides, strict=True)
        return self._replace(shape=shape, strides=ahead + tuple(s if n > 1 else 0 for n, s in axes))


def dense_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Strides of C order, in bytes."""
    strides, step = [], itemsize
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


class ArrayAdapter(Protocol):
    """A library of arrays in a CUDA device's memory; torch's tensors are served on the host too.

    What is asked at every call is cheap: `read`, `address`, `stream`, `owns_stream`,
    `requires_grad`.
    """

    name: str

    def is_on_device(self, array: Any) -> bool:
        """Whether the array lies in a CUDA device's memory."""

    def read(self, array: Any) -> tuple[int, Any]:
        """Its address, and a hashable value of which `spec` makes its spec."""

    def spec(self, kind: Any) -> ArraySpec:
        """How the arrays lie of which `read` gave this value.

        Raises:
            TypeError, ValueError: kernels cannot read such arrays.
        """

    def stream(self, array: Any, device: int) -> int:
        """Handle of the stream that work on the array goes on; 0 is the default stream."""

    def empty(self, like: Any, shape: tuple[int, ...], dtype: str) -> Any:
        """A new array on the device of `like`, C order."""

    def empty_like(self, array: Any) -> Any:
        """A new array of the shape, dtype and order of another."""

    def address(self, array: Any) -> int:
        """The array's address alone."""
        return self.read(array)[0]

    def spec_of(self, array: Any) -> ArraySpec:
        """How the array lies."""
        return self.spec(self.read(array)[1])

    def owns_stream(self, array: Any, stream: int) -> bool:
        """Whether memory may be kept for a stream: it is never destroyed, and is not captured."""
        return stream in DEFAULT_STREAMS and not self.is_capturing(array)

    def is_capturing(self, array: Any) -> bool:
        """Whether work on the array is being captured in a CUDA graph."""
        return False

    def cast(self, array: Any, dtype: str) -> Any:
        """A copy of another dtype.

        Raises:
            TypeError: the library has no such thing.
        """
        got = self.spec_of(array).dtype
        raise TypeError(f"y_pred must be {dtype} here, got {got}: convert it beforehand")

    def copy_into(self, to: Any, array: Any) -> None:
        """Copy an array's values, rounded to the other's dtype; only where `cast` casts."""
        raise TypeError(f"{self.name} has no other dtype")

    def requires_grad(self, array: Any) -> bool:
        """Whether the library wants to know derivatives with respect to the array."""
        return False

    def is_taped(self, array: Any) -> bool:
        """Whether it wants those with respect to an array that is no y_pred, where none are."""
        return False

    def with_derivative(
        self,
        x: Any,
        others: tuple[Any, ...],
        forward: Callable[..., Any],
        backward: Callable[..., Any],
    ) -> Any:
        """forward(x, *others), whose derivative the library knows; where it `requires_grad`.

        Args:
            x: the array that is differentiated by.
            others: arrays (or None) that both functions read, and that have no derivative.
            forward: gives the result, and an array (or None) that `backward` reads as well.
            backward: backward(upstream, kept, x, *others) gives the gradient with respect to x.
        """
        raise TypeError(f"{self.name} knows no derivatives")

    def mark_mutated(self, array: Any) -> None:
        """Tell the library that kernels wrote to the array's memory."""
        return None

    def to_device(self, argument: str) -> str:
        """The expression by which the caller brings an array of the host to y_pred's device."""
        return f"{argument}, copied there"

    def is_tensor(self, value: object) -> bool:
        """Whether this is a tensor whose memory NumPy reads and whose results are tensors again.

        What follows is asked of libraries that have such.
        """
        return False

    def to_numpy(self, tensor: Any, argument: str) -> Array:
        """An ndarray of a tensor's memory; a copy where its values are not what lies there.

        Raises:
            TypeError: its memory is not the host's, or holds no numbers that NumPy knows.
        """
        raise TypeError(f"{self.name} has no arrays on the host")

    def as_numpy(self, value: Any) -> Any:
        """The same of a tensor that NumPy knows as it is; all else as it was sent."""
        return value

    def to_memory(self, out: Any) -> Array:
        """An ndarray of the memory of a tensor that is written to."""
        return self.to_numpy(out, "out")

    def of_numpy(self, made: Any) -> Any:
        """A tensor of an ndarray's memory, or of a NumPy scalar."""
        raise TypeError(f"{self.name} has no arrays on the host")

    def is_transformed(self) -> bool:
        """Whether the library now looks at calls by tensors without memory, as its vmap does."""
        return False
