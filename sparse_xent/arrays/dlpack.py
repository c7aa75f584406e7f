"""Device arrays of libraries that are not known by name, and `DeviceArray`, which serves them.

Such an array says where it lies by `__cuda_array_interface__` or by DLPack; results are
`DeviceArray`s, which say the same of themselves.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_xent.arrays.base import ArrayAdapter, ArraySpec, dense_strides
from sparse_xent.dtypes import of_library
from sparse_xent.engines import cuda_driver

PROTOCOLS = ("__cuda_array_interface__", "__dlpack_device__")

_CUDA = 2  # DLPack's number of the kind of device
_LEGACY = 1  # both protocols' name of the default stream


class ProtocolAdapter(ArrayAdapter):
    """Whatever speaks `__cuda_array_interface__` or DLPack."""

    name = "an array in a CUDA device's memory"

    def is_on_device(self, array: Any) -> bool:
        """Whether the array lies in a CUDA device's memory."""
        if hasattr(array, "__cuda_array_interface__"):
            return True
        kind, _ = array.__dlpack_device__()
        return bool(kind == _CUDA)

    def read(self, array: Any) -> tuple[int, Any]:
        """Its address and its spec."""
        if isinstance(array, DeviceArray):  # bfloat16 has no name in the protocols
            return array.address, array.spec
        said = getattr(array, "__cuda_array_interface__", None)
        if said is None:
            return self._dlpack(array)
        if said.get("mask") is not None:
            raise TypeError(
                "device arrays must not be masked, for the mask would be lost: fill them first"
            )
        address, read_only = said["data"]
        shape, strides = tuple(said["shape"]), said.get("strides")
        dtype = np.dtype(said["typestr"])
        steps = dense_strides(shape, dtype.itemsize) if strides is None else tuple(strides)
        if any(at % dtype.alignment for at in (address, *steps)):
            raise ValueError(f"device arrays must be aligned, got {dtype} at {address:#x}")
        device = cuda_driver.device_of(address) if address else 0
        return address, ArraySpec(shape, steps, dtype, device, not read_only)

    def _dlpack(self, array: Any) -> tuple[int, ArraySpec]:
        view = cuda_driver.dlpack(array)  # its memory outlives the view: the caller holds the array
        shape, dtype = tuple(view.shape), np.dtype(view.dtype)
        steps = dense_strides(shape, dtype.itemsize)
        if view.strides is not None:
            steps = tuple(step * dtype.itemsize for step in view.strides)
        return view.ptr, ArraySpec(shape, steps, dtype, view.device_id, not view.readonly)

    def spec(self, kind: Any) -> ArraySpec:
        """How such arrays lie."""
        made: ArraySpec = kind
        if not made.dtype.isnative:
            raise TypeError(
                f"device arrays must be in native byte order, got {made.dtype}: convert them first"
            )
        return made

    def stream(self, array: Any, device: int) -> int:
        """The stream that a producer names: work on it comes after all that it has enqueued.

        DLPack's producers are asked for the default stream, and see to the order themselves.
        """
        said = getattr(array, "__cuda_array_interface__", {})
        return said.get("stream") or _LEGACY

    def empty(self, like: Any, shape: tuple[int, ...], dtype: str) -> "DeviceArray":
        """A new array, C order."""
        device = self._device(like)
        return DeviceArray(shape, of_library(dtype), device, self.stream(like, device))

    def empty_like(self, array: Any) -> "DeviceArray":
        """A new array laid out as another, without its gaps."""
        spec = self.spec_of(array)
        stream = self.stream(array, self._device(array))
        return DeviceArray(spec.shape, spec.dtype, self._device(array), stream, spec.strides)

    def _device(self, array: Any) -> int:
        device = self.spec_of(array).device
        assert device is not None
        return device


class DeviceArray:
    """A result in a device's memory, for callers whose library is not known here.

    It says where it lies in `__cuda_array_interface__`, which CuPy, Numba, torch and others read:
    `cupy.asarray(array)`, `torch.as_tensor(array, device="cuda")`.

    Attributes:
        shape: lengths of the axes.
        strides: steps along them, in bytes.
        dtype: a NumPy dtype.
        device: ordinal of the device.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        device: int,
        stream: int = _LEGACY,
        strides: tuple[int, ...] | None = None,
    ) -> None:
        order = _order(shape, strides)
        lengths = tuple(shape[a] for a in order)
        steps = dict(zip(order, dense_strides(lengths, dtype.itemsize), strict=True))
        self.shape, self.dtype, self.device = shape, dtype, device
        self.strides = tuple(steps[a] for a in range(len(shape)))
        self._stream = stream
        # Allocated on the stream, in order.
        self._memory = cuda_driver.device(device).allocate(self.spec.nbytes, stream)

    @classmethod
    def of(cls, array: npt.NDArray[Any], device: int) -> "DeviceArray":
        """A copy of an array of the host, in C order or as dense as it is."""
        made = cls(array.shape, array.dtype, device, _LEGACY, array.strides)
        if made.strides != array.strides:
            array = array.copy(order="K")
        line = np.lib.stride_tricks.as_strided(array, (array.size,), (array.itemsize,))
        cuda_driver.device(device).send(line, made._memory.address, _LEGACY)
        return made

    @property
    def address(self) -> int:
        """Where the first element lies."""
        return self._memory.address

    @property
    def spec(self) -> ArraySpec:
        """How it lies."""
        return ArraySpec(self.shape, self.strides, self.dtype, self.device)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": self.shape,
            "strides": self.strides,
            "typestr": self.dtype.str,
            "data": (self._memory.address, False),
            "stream": self._stream,
        }

    def numpy(self) -> npt.NDArray[Any]:
        """A copy in the host's memory; waits until it is there."""
        made = np.empty(self._memory.nbytes // self.dtype.itemsize, self.dtype)
        cuda_driver.device(self.device).download(self._memory.address, made, self._stream)
        return np.lib.stride_tricks.as_strided(made, self.shape, self.strides)

    def __repr__(self) -> str:
        return f"DeviceArray({self.shape}, {self.dtype}, device={self.device})"


def _order(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> list[int]:
    """The axes from the longest stride to the shortest; as they stand for C order."""
    axes = list(range(len(shape)))
    return axes if strides is None else sorted(axes, key=lambda a: -abs(strides[a]))
