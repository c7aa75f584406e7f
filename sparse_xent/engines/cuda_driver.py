"""All that is asked of the CUDA driver: devices, kernels loaded once, launches, and error slots.

Nothing of CUDA is imported before a device is asked for; what is missing then (package, driver,
device, memory) is said in one sentence. A launch takes raw addresses and the caller's stream: it
does not wait, allocate or copy. The exceptions wait, and say so: `synchronise`, `download`, and
`send` (constants, once; and the host's arrays, on request).

A kernel that meets a bad label records it in an error slot: a few numbers of the host's own memory
that the device sees too (pinned and mapped). So whoever calls next can look without asking the
device. Each plan has a slot of its own, with what makes messages of its records: a reporter.
"""

import ctypes
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sparse_xent.kernels.cuda import loader, params

EXTRA = "cuda13"
"""The extra that brings what is needed; `cuda12` where the driver knows CUDA 12 only."""

SLOTS = 1024
"""Error slots a device; where there are more plans, the oldest slots go round again."""

_LEGACY = 1  # handle of the default stream
_SLOT_BYTES = 8 * params.ERRORS
_NO_ERRORS = np.full(SLOTS * params.ERRORS, params.NONE, np.int64).tobytes()


class Absent(RuntimeError):
    """CUDA cannot be used here: no package, no driver, no device."""


class Memory:
    """Bytes in a device's memory, given back when the last reference to them goes."""

    def __init__(self, buffer: Any, nbytes: int) -> None:
        self._buffer, self.nbytes = buffer, nbytes
        self.address = int(buffer.handle) if buffer is not None else 0


class Launch(NamedTuple):
    """A kernel and its geometry, ready to be launched."""

    kernel: Any
    config: Any


class Device:
    """One device, as far as it is needed here."""

    def __init__(self, ordinal: int) -> None:
        core, bindings = _packages()
        self.ordinal = ordinal
        self._core, self._bindings = core, bindings
        self._launch = core.launch
        self._here = core.Device(ordinal)
        self._several = _count(bindings) > 1
        self._local = threading.local()
        self._kernels: dict[str, Any] = {}
        self._constants: dict[tuple[str, bytes], Memory] = {}
        self._streams: dict[int, Any] = {}
        self.lock = threading.RLock()  # held while several launches belong together
        self._scratches: dict[int, Memory] = {}
        self._reporters: list[Any] = []  # one a slot that was given away
        self._next_slot = 0
        self.capability: tuple[int, int] = tuple(self._here.compute_capability)
        flags = bindings.CU_MEMHOSTALLOC_PORTABLE | bindings.CU_MEMHOSTALLOC_DEVICEMAP
        with self._current():
            at = int(_checked(bindings.cuMemHostAlloc(len(_NO_ERRORS), flags)))
            self._slots_on_device = int(_checked(bindings.cuMemHostGetDevicePointer(at, 0)))
        memory = (ctypes.c_int64 * (SLOTS * params.ERRORS)).from_address(at)
        self._slots_at = at
        self._records = np.ctypeslib.as_array(memory).reshape(SLOTS, params.ERRORS)
        self._records[:] = params.NONE
        self._no_errors = b""  # what the slots hold that were given away, where there is no error

    # ---- errors ----

    def error_slot(self, reporter: Any) -> int:
        """Address, on the device, of a slot whose records `reporter` makes messages of."""
        with self.lock:
            slot, self._next_slot = self._next_slot, (self._next_slot + 1) % SLOTS
            self._reporters[slot : slot + 1] = [reporter]
            self._no_errors = _NO_ERRORS[: _SLOT_BYTES * len(self._reporters)]
            return self._slots_on_device + _SLOT_BYTES * slot

    def has_errors(self) -> bool:
        """Whether any slot holds an error by now; asks nothing of the device."""
        return ctypes.string_at(self._slots_at, len(self._no_errors)) != self._no_errors

    def pending_errors(self) -> list[tuple[Any, params.ErrorSlot]]:
        """Reporters, and what their slots hold, of all slots with an error; they are cleared.

        To be asked of a device that is idle.
        """
        with self.lock:
            found = np.flatnonzero((self._records != params.NONE).any(axis=1)).tolist()
            pending = [
                (self._reporters[slot], params.ErrorSlot(*self._records[slot].tolist()))
                for slot in found
            ]
            self._records[:] = params.NONE
            return pending

    # ---- launches ----

    def loaded(self, kernel: str, grid: int, block: int, cluster: int, shared: int) -> Launch:
        """A kernel, loaded on first use and kept, with the geometry that it is to have.

        Args:
            kernel: the name that `loader.cubin` takes.
            grid: blocks, a multiple of `cluster`.
            block: threads of a block.
            cluster: blocks of a cluster; 1 for none.
            shared: bytes of dynamic shared memory.
        """
        with self.lock, self._current():
            if kernel not in self._kernels:
                made = loader.cubin(kernel, self.capability)
                found = self._core.ObjectCode.from_cubin(made.image).get_kernel(made.entry)
                self._allow_shared_memory(found)
                self._kernels[kernel] = found
            config = self._core.LaunchConfig(
                grid=grid // cluster,  # cuda.core counts clusters where there are any
                block=block,
                cluster=cluster if cluster > 1 else None,
                shmem_size=shared,
            )
            return Launch(self._kernels[kernel], config)

    def launch(self, stream: int, what: Launch, arguments: Sequence[int | float]) -> None:
        """Enqueue a kernel; returns at once."""
        on = self._streams.get(stream) or self._stream(stream)
        if self._several or not getattr(self._local, "current", False):
            with self._current():
                self._launch(on, what.config, what.kernel, *arguments)
        else:
            self._launch(on, what.config, what.kernel, *arguments)

    def synchronise(self) -> None:
        """Wait until the device has done all that was enqueued."""
        with self._current():
            self._here.sync()

    def order(self, stream: int, after: int) -> None:
        """Let what is enqueued on `stream` from now on wait, there, for what is on `after`."""
        if stream != after and {stream, after} != {0, _LEGACY}:
            with self._current():
                self._stream(stream).wait(self._stream(after))

    def allocate(self, nbytes: int, stream: int) -> Memory:
        """Memory from the device's pool, ordered by the stream.

        Raises:
            MemoryError: the device has not so much.
        """
        if nbytes == 0:
            return Memory(None, 0)
        with self._current():
            try:
                buffer = self._here.allocate(nbytes, stream=self._stream(stream))
            except _core_errors() as error:
                if "OUT_OF_MEMORY" not in str(error):
                    raise
                raise MemoryError(
                    f"cuda:{self.ordinal} has no {nbytes} bytes of memory left: cut y_pred into "
                    "parts, or free what other libraries hold there"
                ) from None
        return Memory(buffer, nbytes)

    def scratch(self, stream: int, nbytes: int) -> int:
        """Address of memory that is the stream's for good; its first 8 bytes are 0 at first.

        Whoever uses it leaves them so; `lock` is held meanwhile.
        """
        kept = self._scratches.get(stream)
        if kept is None or kept.nbytes < nbytes:
            # What was too small is given back on the stream, after what still uses it.
            kept = self._scratches[stream] = self.allocate(max(nbytes, 1 << 18), stream)
            self.clear(kept.address, 8, stream)
        return kept.address

    def clear(self, address: int, nbytes: int, stream: int) -> None:
        """Enqueue zeros."""
        if nbytes:
            with self._current():
                _checked(self._bindings.cuMemsetD8Async(address, 0, nbytes, stream))

    def constant(self, array: npt.NDArray[Any], stream: int) -> int:
        """Address of a small array's bytes on the device; kept for good, sent once (it waits)."""
        key = array.dtype.str, array.tobytes()
        if key not in self._constants:
            memory = self.allocate(array.nbytes, stream)
            self.send(array, memory.address, stream)
            self._constants[key] = memory
        return self._constants[key].address

    def send(self, array: npt.NDArray[Any], address: int, stream: int) -> None:
        """A C-ordered array's bytes to the device; waits until they are there."""
        if array.nbytes:
            self._copy(address, array.ctypes.data, array.nbytes, stream)

    def download(self, address: int, to: npt.NDArray[Any], stream: int) -> None:
        """The device's bytes in a C-ordered array; waits until they are there."""
        if to.nbytes:
            self._copy(to.ctypes.data, address, to.nbytes, stream)

    def _copy(self, to: int, source: int, nbytes: int, stream: int) -> None:
        """The driver sees by the addresses which way."""
        with self._current():
            _checked(self._bindings.cuMemcpyAsync(to, source, nbytes, stream))
            _checked(self._bindings.cuStreamSynchronize(stream))

    def _allow_shared_memory(self, kernel: Any) -> None:
        """Above 48 KiB a kernel must be allowed its dynamic shared memory by hand."""
        most = self._here.properties.max_shared_memory_per_block_optin
        most -= kernel.attributes.shared_size_bytes
        attribute = self._bindings.CUfunction_attribute
        _checked(
            self._bindings.cuKernelSetAttribute(
                attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                most,
                kernel.handle,
                self.ordinal,
            )
        )

    def _stream(self, handle: int) -> Any:
        """The stream as cuda.core wants it; kept, for making one takes longer than a launch."""
        if len(self._streams) > 1000:  # streams that are gone
            self._streams.clear()
        if handle not in self._streams:
            made = (
                self._core.LEGACY_DEFAULT_STREAM
                if handle in (0, _LEGACY)
                else self._core.Stream.from_handle(handle)
            )
            self._streams[handle] = made
        return self._streams[handle]

    @contextmanager
    def _current(self) -> Iterator[None]:
        """This device as the thread's own, and afterwards the one that was.

        A thread of which CUDA knows nothing yet keeps this one: it would get it anyway.
        """
        driver = self._bindings
        before = _checked(driver.cuCtxGetCurrent())
        self._here.set_current()
        self._local.current = True
        try:
            yield
        finally:
            if self._several and int(before):
                _checked(driver.cuCtxSetCurrent(before))


_devices: dict[int, Any] = {}
_lock = threading.Lock()


def device(ordinal: int) -> Device:
    """The device of this ordinal.

    Raises:
        Absent: it cannot be used, and why.
    """
    found = _devices.get(ordinal)
    if found is None:
        with _lock:
            found = _devices.get(ordinal) or Device(ordinal)
            _devices[ordinal] = found
    return found


def used() -> dict[int, Any]:
    """The devices that this process has asked for, by ordinal."""
    return dict(_devices)


def device_of(address: int) -> int:
    """The ordinal of the device in whose memory an address lies."""
    _, bindings = _packages()
    kind = bindings.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    return int(_checked(bindings.cuPointerGetAttribute(kind, address)))


def dlpack(array: Any) -> Any:
    """What an array says of itself through DLPack, ready for the default stream."""
    try:
        from cuda.core.utils import StridedMemoryView
    except ImportError as error:
        raise Absent(_missing(error)) from None
    return StridedMemoryView.from_dlpack(array, stream_ptr=_LEGACY)


@cache
def _packages() -> tuple[Any, Any]:
    """cuda.core and cuda.bindings' driver, once a driver answers."""
    try:
        import cuda.core as core
        from cuda.bindings import driver
    except ImportError as error:
        raise Absent(_missing(error)) from None
    try:
        (status,) = driver.cuInit(0)
    except RuntimeError:  # libcuda is not there
        status = None
    if status != 0:
        said = "no driver was found" if status is None else f"the driver says {status.name}"
        raise Absent(f"CUDA arrays need an NVIDIA GPU and its driver: {said}; nvidia-smi tells")
    if _count(driver) == 0:
        raise Absent("CUDA arrays need an NVIDIA GPU: the driver is there, and sees none")
    return core, driver


def _core_errors() -> type[Exception]:
    """What cuda.core raises where the driver refuses."""
    from cuda.core._utils.cuda_utils import CUDAError

    error: type[Exception] = CUDAError
    return error


def _missing(error: ImportError) -> str:
    return (
        f"CUDA arrays need the package {error.name or 'cuda.core'}, which is not installed: "
        f'pip install "sparse_xent[{EXTRA}]" (cuda12 for drivers of CUDA 12)'
    )


def _count(bindings: Any) -> int:
    return int(_checked(bindings.cuDeviceGetCount()))


def _checked(result: tuple[Any, ...]) -> Any:
    """What a call of the driver gave; a RuntimeError with its name for what failed."""
    status, *values = result
    if status != 0:
        raise RuntimeError(f"CUDA's driver says {status.name}")
    return values[0] if values else None
