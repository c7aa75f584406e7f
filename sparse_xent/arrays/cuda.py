"""Arrays in a CUDA device's memory: whose they are, how they lie, and how another is made.

A library is known by the type of its arrays and by what they say of themselves; none is imported
here that the caller has not imported. What every array has is its address and its `Form` (shape,
strides, dtype, device), on which alone a plan depends. Work goes on the stream that the library
would use itself, so that nothing waits; what is allocated comes from the library's own pool.

JAX, TensorFlow and dask hold device memory too, but trace what is done with it: not here.
"""

import sys
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from sparse_xent.engines import cuda_driver

_CUDA = 2  # DLPack's number of the kind of device
_NOT_HERE = ("jax", "jaxlib", "tensorflow", "dask")
_DEFAULTS = (0, 1)  # handles of the default stream; 2 is another in each thread
_LEGACY = 1  # __cuda_array_interface__'s and DLPack's name of the default stream


class Form(NamedTuple):
    """How an array lies: all that matters of it but its address."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in bytes
    dtype: np.dtype[Any]
    device: int
    writable: bool

    def at(self, address: int) -> npt.NDArray[Any]:
        """An ndarray of this form at this address, to judge shapes and overlaps by.

        Its memory is the device's: no element of it may be read.
        """
        return np.asarray(_Place(self, address)).view(self.dtype)


class _Place:
    """What NumPy asks of memory."""

    def __init__(self, form: Form, address: int) -> None:
        self.__array_interface__ = {
            "version": 3,
            "data": (address, not form.writable),
            "shape": form.shape,
            "strides": form.strides,
            "typestr": form.dtype.str,
        }


class Library:
    """What is asked of a library of device arrays."""

    name: str

    def has(self, array: Any) -> bool:
        """Whether the array lies in a CUDA device's memory."""
        raise NotImplementedError

    def read(self, array: Any) -> tuple[int, Any]:
        """Its address, and what `form` makes a Form of: cheap, for it is asked at every call."""
        raise NotImplementedError

    def address(self, array: Any) -> int:
        """Its address alone."""
        return self.read(array)[0]

    def form(self, kind: Any) -> Form:
        """How arrays of this kind lie."""
        raise NotImplementedError

    def stream(self, array: Any, device: int) -> int:
        """Handle of the stream that work on the array goes on; 0 is the default stream."""
        raise NotImplementedError

    def lasting(self, array: Any, stream: int) -> bool:
        """Whether memory may be kept for a stream: it stays, and is not being captured."""
        return stream in _DEFAULTS and not self.capturing(array)

    def capturing(self, array: Any) -> bool:
        """Whether work on the array is being captured in a CUDA graph."""
        return False

    def empty(self, like: Any, shape: tuple[int, ...], dtype: str) -> Any:
        """A new array on the device of `like`, C order."""
        raise NotImplementedError

    def empty_as(self, like: Any) -> Any:
        """A new array of the shape, dtype and order of `like`."""
        raise NotImplementedError

    def cast(self, array: Any, dtype: str) -> Any:
        """A copy of another dtype."""
        got = self.form(self.read(array)[1]).dtype
        raise TypeError(f"y_pred must be {dtype} here, got {got}: convert it beforehand")

    def store(self, to: Any, array: Any) -> None:
        """Copy an array's values, rounded to the other's dtype."""
        raise NotImplementedError

    def tracked(self, array: Any) -> bool:
        """Whether the library wants to know derivatives with respect to the array."""
        return False

    def written(self, array: Any) -> None:
        """Tell the library that the array's memory was written behind its back."""

    def to_device(self, argument: str) -> str:
        """How the caller brings an array of the host there, in the library's words."""
        return f"{argument}, copied there"


class Torch(Library):
    """PyTorch's CUDA tensors."""

    name = "torch"

    def __init__(self) -> None:
        self.torch = sys.modules["torch"]
        # What Triton launches by: current_stream() makes an object of the same number, slowly.
        self.stream_of = getattr(self.torch._C, "_cuda_getCurrentRawStream", self._current)

    def _current(self, device: int) -> int:
        handle: int = self.torch.cuda.current_stream(device).cuda_stream
        return handle

    def has(self, array: Any) -> bool:
        return bool(array.is_cuda)

    def read(self, array: Any) -> tuple[int, Any]:
        kind = array.shape, array.stride(), array.dtype, array.get_device(), array.is_neg()
        return array.data_ptr(), kind

    def address(self, array: Any) -> int:
        at: int = array.data_ptr()
        return at

    def form(self, kind: Any) -> Form:
        shape, strides, dtype, device, negated = kind
        if negated:
            raise TypeError(
                "tensors must hold their values, got a view that negates them when it is read: "
                "pass tensor.resolve_neg()"
            )
        dtype = _dtype(str(dtype).removeprefix("torch."))
        strides = tuple(step * dtype.itemsize for step in strides)
        return Form(tuple(shape), strides, dtype, device, True)

    def stream(self, array: Any, device: int) -> int:
        handle: int = self.stream_of(device)
        return handle

    def empty(self, like: Any, shape: tuple[int, ...], dtype: str) -> Any:
        return like.new_empty(shape, dtype=getattr(self.torch, dtype))

    def empty_as(self, like: Any) -> Any:
        return self.torch.empty_like(like)

    def cast(self, array: Any, dtype: str) -> Any:
        return array.detach().to(getattr(self.torch, dtype))

    def store(self, to: Any, array: Any) -> None:
        to.detach().copy_(array)

    def lasting(self, array: Any, stream: int) -> bool:
        return not self.capturing(array)  # torch's streams are a pool's, and never destroyed

    def capturing(self, array: Any) -> bool:
        return bool(self.torch.cuda.is_current_stream_capturing())

    def tracked(self, array: Any) -> bool:
        return array.requires_grad and bool(self.torch.is_grad_enabled())

    def written(self, array: Any) -> None:
        self.torch.autograd.graph.increment_version(array)

    def to_device(self, argument: str) -> str:
        return f"torch.as_tensor({argument}, device=y_pred.device)"


class CuPy(Library):
    """CuPy's arrays."""

    name = "cupy"

    def __init__(self) -> None:
        self.cupy = sys.modules["cupy"]

    def has(self, array: Any) -> bool:
        return True

    def read(self, array: Any) -> tuple[int, Any]:
        memory = array.data
        return memory.ptr, (array.shape, array.strides, array.dtype, memory.device_id)

    def form(self, kind: Any) -> Form:
        shape, strides, dtype, device = kind
        return Form(shape, strides, dtype, device, True)

    def stream(self, array: Any, device: int) -> int:
        handle: int = self.cupy.cuda.get_current_stream(device).ptr
        return handle

    def empty(self, like: Any, shape: tuple[int, ...], dtype: str) -> Any:
        with self.cupy.cuda.Device(like.data.device_id):
            return self.cupy.empty(shape, _dtype(dtype))

    def empty_as(self, like: Any) -> Any:
        with self.cupy.cuda.Device(like.data.device_id):
            return self.cupy.empty_like(like)

    def cast(self, array: Any, dtype: str) -> Any:
        with self.cupy.cuda.Device(array.data.device_id):
            return array.astype(_dtype(dtype))

    def store(self, to: Any, array: Any) -> None:
        with self.cupy.cuda.Device(to.data.device_id):
            to[...] = array

    def capturing(self, array: Any) -> bool:
        return bool(self.cupy.cuda.get_current_stream().is_capturing())

    def to_device(self, argument: str) -> str:
        return f"cupy.asarray({argument})"


class Other(Library):
    """Whatever speaks `__cuda_array_interface__` or DLPack; results are `DeviceArray`s."""

    name = "an array in a CUDA device's memory"

    def has(self, array: Any) -> bool:
        if hasattr(array, "__cuda_array_interface__"):
            return True
        kind, _ = array.__dlpack_device__()
        return bool(kind == _CUDA)

    def read(self, array: Any) -> tuple[int, Any]:
        if isinstance(array, DeviceArray):  # bfloat16 has no name in the protocols
            return array.address, array.form
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
        steps = dense(shape, dtype.itemsize) if strides is None else tuple(strides)
        if any(at % dtype.alignment for at in (address, *steps)):
            raise ValueError(f"device arrays must be aligned, got {dtype} at {address:#x}")
        device = cuda_driver.device_of(address) if address else 0
        return address, Form(shape, steps, dtype, device, not read_only)

    def _dlpack(self, array: Any) -> tuple[int, Form]:
        view = cuda_driver.dlpack(array)  # its memory outlives the view: the caller holds the array
        shape, dtype = tuple(view.shape), np.dtype(view.dtype)
        steps = dense(shape, dtype.itemsize)
        if view.strides is not None:
            steps = tuple(step * dtype.itemsize for step in view.strides)
        return view.ptr, Form(shape, steps, dtype, view.device_id, not view.readonly)

    def form(self, kind: Any) -> Form:
        made: Form = kind
        return made

    def stream(self, array: Any, device: int) -> int:
        """The stream that a producer names: work on it comes after all that it has enqueued.

        DLPack's producers are asked for the default stream, and see to the order themselves.
        """
        said = getattr(array, "__cuda_array_interface__", {})
        return said.get("stream") or _LEGACY

    def empty(self, like: Any, shape: tuple[int, ...], dtype: str) -> "DeviceArray":
        form = self.form(self.read(like)[1])
        return DeviceArray(shape, _dtype(dtype), form.device, self.stream(like, form.device))

    def empty_as(self, like: Any) -> "DeviceArray":
        form = self.form(self.read(like)[1])
        stream = self.stream(like, form.device)
        return DeviceArray(form.shape, form.dtype, form.device, stream, form.strides)


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
        steps = dict(zip(order, dense(lengths, dtype.itemsize), strict=True))
        self.shape, self.dtype, self.device = shape, dtype, device
        self.strides = tuple(steps[a] for a in range(len(shape)))
        self._stream = stream
        nbytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
        self._memory = cuda_driver.device(device).allocate(
            nbytes, stream
        )  # on the stream, in order

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
    def form(self) -> Form:
        """How it lies."""
        return Form(self.shape, self.strides, self.dtype, self.device, True)

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


OTHER = Other()

_by_type: dict[type, Library | None] = {}
_LIBRARIES: dict[str, type[Any]] = {"torch": Torch, "cupy": CuPy}
_made: dict[str, Library] = {}


def library(array: object) -> Library | None:
    """The library of an array that lies in a CUDA device's memory; None for all else."""
    kind = type(array)
    try:
        found = _by_type[kind]
    except KeyError:
        found = library_of(kind)
    return found if found is not None and found.has(array) else None


def library_of(kind: type) -> Library | None:
    """The library whose arrays are of this type, wherever one lies; one object a library."""
    if kind not in _by_type:
        _by_type[kind] = _find(kind)
    return _by_type[kind]


def refuse_place(array: object, argument: str, like: Library, device: int) -> NoReturn:
    """TypeError for an argument that does not lie where y_pred does."""
    got = f"a {type(array).__name__}"
    other = library(array)
    if other is not None:
        got += f" on cuda:{other.form(other.read(array)[1]).device}"
    elif type(array).__module__.startswith("torch"):
        raise TypeError(
            f"{argument} must lie on cuda:{device}, as y_pred does, got a {type(array).__name__} "
            f"in the host's memory: pass {argument}.to(y_pred.device)"
        )
    else:
        got += " in the host's memory"
    raise TypeError(
        f"{argument} must lie on cuda:{device}, as y_pred does, got {got}: "
        f"pass {like.to_device(argument)}"
    )


def _find(kind: type) -> Library | None:
    if issubclass(kind, np.ndarray | np.generic | list | tuple | int | float):
        return None
    names = [base.__module__.partition(".")[0] for base in kind.__mro__]
    if any(name in _NOT_HERE for name in names):
        return None
    for name, library in _LIBRARIES.items():
        if name in names:
            return _made.setdefault(name, library())
    protocols = "__cuda_array_interface__", "__dlpack_device__"
    return OTHER if any(hasattr(kind, protocol) for protocol in protocols) else None


def _dtype(name: str) -> np.dtype[Any]:
    """NumPy's dtype of that name; bfloat16 is ml_dtypes'."""
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError:
            raise TypeError(
                "bfloat16 arrays need the package ml_dtypes, which gives NumPy that dtype: "
                "pip install ml_dtypes"
            ) from None
        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    try:
        return np.dtype(name)
    except TypeError:
        raise TypeError(
            f"arrays must be of a dtype that NumPy knows, or bfloat16, got {name}"
        ) from None


def dense(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Strides of C order."""
    steps, step = [], itemsize
    for n in reversed(shape):
        steps.append(step)
        step *= n
    return tuple(reversed(steps))


def _order(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> list[int]:
    """The axes from the longest stride to the shortest; as they stand for C order."""
    axes = list(range(len(shape)))
    return axes if strides is None else sorted(axes, key=lambda a: -abs(strides[a]))
