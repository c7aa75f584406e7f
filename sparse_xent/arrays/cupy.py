"""CuPy's arrays. CuPy is imported by whoever calls with one, never here."""

import sys
from typing import Any

from sparse_xent.arrays.base import ArrayAdapter, ArraySpec
from sparse_xent.dtypes import of_library


class CuPyAdapter(ArrayAdapter):
    """CuPy's arrays."""

    name = "cupy"

    def __init__(self) -> None:
        self.cupy = sys.modules["cupy"]

    def is_on_device(self, array: Any) -> bool:
        """Always."""
        return True

    def read(self, array: Any) -> tuple[int, Any]:
        """Its address, and what `spec` makes a spec of."""
        memory = array.data
        return memory.ptr, (array.shape, array.strides, array.dtype, memory.device_id)

    def spec(self, kind: Any) -> ArraySpec:
        """How such arrays lie."""
        shape, strides, dtype, device = kind
        return ArraySpec(shape, strides, dtype, device)

    def stream(self, array: Any, device: int) -> int:
        """CuPy's current stream."""
        handle: int = self.cupy.cuda.get_current_stream(device).ptr
        return handle

    def empty(self, like: Any, shape: tuple[int, ...], dtype: str) -> Any:
        """A new array, C order."""
        with self.cupy.cuda.Device(like.data.device_id):
            return self.cupy.empty(shape, of_library(dtype))

    def empty_like(self, array: Any) -> Any:
        """A new array laid out as another."""
        with self.cupy.cuda.Device(array.data.device_id):
            return self.cupy.empty_like(array)

    def cast(self, array: Any, dtype: str) -> Any:
        """A copy of another dtype."""
        with self.cupy.cuda.Device(array.data.device_id):
            return array.astype(of_library(dtype))

    def copy_into(self, to: Any, array: Any) -> None:
        """Copy values, rounded."""
        with self.cupy.cuda.Device(to.data.device_id):
            to[...] = array

    def is_capturing(self, array: Any) -> bool:
        """Whether the current stream is being captured."""
        return bool(self.cupy.cuda.get_current_stream().is_capturing())

    def to_device(self, argument: str) -> str:
        """The expression by which the caller brings an array to y_pred's device."""
        return f"cupy.asarray({argument})"
