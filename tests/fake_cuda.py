"""A CUDA device that is not there: the packages' surface, over the host's memory.

`install` puts stand-ins for cuda.core and cuda.bindings where `cuda_driver` looks for them. A
launch reads its arguments as a kernel would, computes with the NumPy engine, and is written down;
so are waits, allocations and copies. Nothing of the package itself is replaced but the compiler.
"""

import ctypes
import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

import ml_dtypes
import numpy as np
from numpy.lib.stride_tricks import as_strided

from sparse_xent import plan
from sparse_xent.arrays import adapters
from sparse_xent.arrays.torch import TorchAdapter
from sparse_xent.engines import cuda_driver, numpy_formulas
from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels.cuda import loader, params
from sparse_xent.kernels.cuda.params import CODES, NONE, Arguments

DTYPES = {name: np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name) for name in CODES}
BY_CODE = {CODES[name]: dtype for name, dtype in DTYPES.items() if name != "bool"}


def memory(address, shape, strides, dtype):
    """Memory at an address, as an array; nothing is asked of it."""
    low = sum(min(0, step * (n - 1)) for n, step in zip(shape, strides, strict=True))
    high = sum(max(0, step * (n - 1)) for n, step in zip(shape, strides, strict=True))
    if 0 in shape:
        return np.empty(shape, dtype)
    nbytes = high - low + dtype.itemsize
    raw = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address + low))
    first = raw[-low : -low + dtype.itemsize].view(dtype)
    return as_strided(first, shape, strides)


class Gpu:
    """What was asked of the device, in order."""

    def __init__(self, capability=(9, 0), devices=1, memory_bytes=1 << 34):
        self.capability, self.devices, self.memory_bytes = capability, devices, memory_bytes
        self.launches = []  # (stream, kernel, config, Arguments, device)
        self.waits = []  # synchronisations
        self.allocations = []  # bytes
        self.copies = []  # (bytes,) between host and device
        self.cleared = []  # (address, bytes, stream)
        self.orders = []  # (stream, after)
        self.loaded = []  # kernels' names
        self.current = 0
        self.unfinished = []  # work that a wait brings about, where `lazy`
        self.lazy = False
        self._kept = []

    def reset(self):
        """Forget what was asked so far."""
        for asked in (
            self.launches, self.waits, self.allocations, self.copies, self.cleared, self.orders
        ):  # fmt: skip
            asked.clear()

    def bytes_at(self, nbytes):
        buffer = (ctypes.c_uint8 * (nbytes + 256))()
        self._kept.append(buffer)
        return -(-ctypes.addressof(buffer) // 256) * 256

    def wait(self, what):
        self.waits.append(what)
        for work in self.unfinished:
            work()
        self.unfinished.clear()

    # ---- cuda.core ----

    @property
    def core(self):
        gpu = self

        class Device:
            def __init__(self, ordinal):
                if not 0 <= ordinal < gpu.devices:
                    raise ValueError(f"device {ordinal}")
                self.ordinal = ordinal
                self.compute_capability = gpu.capability
                self.properties = SimpleNamespace(max_shared_memory_per_block_optin=232_448)

            def set_current(self):
                gpu.current = self.ordinal

            def sync(self):
                gpu.wait("device")

            def allocate(self, nbytes, *, stream):
                assert isinstance(stream, Stream)
                gpu.allocations.append(nbytes)
                if nbytes > gpu.memory_bytes:
                    raise CUDAError("CUDA_ERROR_OUT_OF_MEMORY: the API call failed")
                return SimpleNamespace(handle=gpu.bytes_at(nbytes))

        class Stream:
            def __init__(self, handle):
                self.handle = handle

            @staticmethod
            def from_handle(handle):
                assert type(handle) is int
                return Stream(handle)

            def wait(self, other):
                gpu.orders.append((self.handle, other.handle))

        class LaunchConfig:
            def __init__(self, *, grid, block, cluster=None, shmem_size=None):
                self.grid, self.block, self.cluster = grid, block, cluster
                self.shmem_size = shmem_size
                assert all(type(n) is int and n > 0 for n in (grid, block))
                assert cluster is None or cluster > 1

        class ObjectCode:
            @staticmethod
            def from_cubin(image):
                gpu.loaded.append(image.decode())
                kernel = SimpleNamespace(
                    name=image.decode(),
                    handle=7,
                    attributes=SimpleNamespace(shared_size_bytes=0),
                )
                return SimpleNamespace(get_kernel=lambda entry: kernel)

        def launch(stream, config, kernel, *given):
            assert all(type(a) in (int, float) for a in given)
            arguments = Arguments(*given)
            gpu.launches.append((stream.handle, kernel.name, config, arguments, gpu.current))
            work = Work(kernel.name, arguments, config.grid * (config.cluster or 1)).run
            gpu.unfinished.append(work) if gpu.lazy else work()

        return SimpleNamespace(
            Device=Device,
            Stream=Stream,
            LaunchConfig=LaunchConfig,
            ObjectCode=ObjectCode,
            launch=launch,
            LEGACY_DEFAULT_STREAM=Stream(0),
        )

    # ---- cuda.bindings.driver ----

    @property
    def bindings(self):
        gpu = self

        def copied(to, source, nbytes, stream):
            gpu.wait("copy")
            gpu.copies.append(nbytes)
            ctypes.memmove(to, source, nbytes)
            return (0,)

        def cleared(address, byte, nbytes, stream):
            gpu.cleared.append((address, nbytes, stream))
            work = lambda: ctypes.memset(address, byte, nbytes)  # noqa: E731
            gpu.unfinished.append(work) if gpu.lazy else work()
            return (0,)

        def made_current(context):
            gpu.current = int(context) - 100
            return (0,)

        return SimpleNamespace(
            CU_MEMHOSTALLOC_PORTABLE=1,
            CU_MEMHOSTALLOC_DEVICEMAP=2,
            CUfunction_attribute=SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8),
            CUpointer_attribute=SimpleNamespace(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL=9),
            cuDeviceGetCount=lambda: (0, gpu.devices),
            cuCtxGetCurrent=lambda: (0, 100 + gpu.current),
            cuCtxSetCurrent=made_current,
            cuMemHostAlloc=lambda nbytes, flags: (0, gpu.bytes_at(nbytes)),
            cuMemHostGetDevicePointer=lambda address, flags: (0, address),
            cuKernelSetAttribute=lambda attribute, value, kernel, device: (0,),
            cuPointerGetAttribute=lambda kind, address: (0, 0),
            cuMemcpyAsync=copied,
            cuMemsetD8Async=cleared,
            cuStreamSynchronize=lambda stream: (gpu.wait("stream"), (0,))[1],
        )


class CUDAError(Exception):
    """cuda.core's."""


class Work:
    """What one launch does, on the host's memory."""

    def __init__(self, kernel, arguments, grid):
        self.kernel, self.a, self.grid = kernel, arguments, grid
        family, *kind = kernel.split(".")
        self.family = family
        self.dtype = DTYPES[kind[0]] if kind else np.dtype(np.float32)
        self.scores = ScoreKind[kind[1].upper()] if len(kind) > 1 else ScoreKind.LOGITS
        if len(kind) > 1:
            assert (kind[2] == "smooth") == (arguments.smoothing > 0)
            self.gradient = kind[3] == "grad"

    def run(self):
        with np.errstate(all="ignore"):
            self._run()

    def _run(self):
        a = self.a
        outer = a.count // a.inner
        self.positions = outer, a.inner
        y, bad, ignored = self._labels()
        w = self._of(a.w, a.wo, a.wi, a.w_code, 1.0)
        missing = (np.isnan(w) | (w == -(2**31))) & ~ignored & ~bad
        if missing.any():
            self._record(1, a.first + int(np.flatnonzero(missing.ravel())[0]))
        if a.by_class:
            w = w * memory(a.by_class, (a.classes,), (8,), np.dtype(np.float64))[np.maximum(y, 0)]
        w = np.where(ignored, 0.0, w)
        kept = ~ignored
        if self.family == "count":
            self._sum(np.zeros(self.positions), kept, w)
            return
        x = memory(a.x, (outer, a.classes, a.inner), (a.xo, a.xc, a.xi), self.dtype).copy()
        if self.family.startswith("rank"):
            made = numpy_formulas.rank(x, y).astype(np.float64)
            out = memory(a.out, self.positions, (a.oo, a.oi), BY_CODE[a.out_code])
            out[...] = np.where(bad, a.classes, made)
            return
        # The kernels' arithmetic; the bounds of the clip come rounded already.
        formula = {"scores": self.scores, "smoothing": a.smoothing, "eps": a.lo}
        loss = numpy_formulas.nll(x, y, **formula).astype(np.float64)
        loss = np.where(w == 0, 0.0, loss * w)
        loss[bad] = np.nan
        if a.out:
            out = memory(a.out, self.positions, (a.oo, a.oi), BY_CODE[a.out_code])
            out[...] = loss.astype(out.dtype)
        if a.dx:
            assert self.gradient
            up = self._of(a.up, a.uo, a.ui, a.up_code, 1.0)
            divisor = self._divisor()
            g = w * up / divisor if divisor != 0 else np.zeros_like(w)
            slope = numpy_formulas.nll_and_grad(x, y, g, **formula)[1].astype(np.float64)
            slope[np.broadcast_to(bad[:, None], slope.shape)] = np.nan
            dx = memory(a.dx, x.shape, (a.do, a.dc, a.di), self.dtype)
            dx[...] = slope.astype(dx.dtype)
        if a.scratch:
            self._sum(loss, kept, w)

    def _of(self, address, outer, inner, number, otherwise):
        if not address:
            return np.full(self.positions, otherwise)
        lie = memory(address, self.positions, (outer, inner), BY_CODE[number])
        return lie.astype(np.float64)

    def _labels(self):
        a = self.a
        sent = memory(a.y, self.positions, (a.yo, a.yi), BY_CODE[a.y_code])
        values = sent.astype(np.float64)
        classes = [a.ignored] if a.many == 1 else []
        if a.many > 1:
            classes = memory(a.ignored, (a.many,), (8,), np.dtype(np.int64)).tolist()
        ignored = np.isin(values, classes)
        if a.many == params.NEGATIVE:
            ignored = values < 0
        good = (values >= 0) & (values < a.classes) & (values == np.floor(values))
        bad = ~ignored & ~good
        if bad.any():
            first = int(np.flatnonzero(bad.ravel())[0])
            self._record(
                0, (a.first + first) << params.LABEL_BITS | label_code(values.ravel()[first])
            )
        return np.where(good & ~ignored, values, -1).astype(np.int64), bad, ignored

    def _record(self, field, value):
        at = memory(self.a.error + 8 * field, (1,), (8,), np.dtype(np.int64))
        at[0] = min(at[0], value)

    def _divisor(self):
        if self.a.by == params.GIVEN:
            return self.a.divisor
        sums = memory(self.a.counted, (3,), (8,), np.dtype(np.float64))
        return sums[params.KEPT_AT if self.a.by == params.KEPT else params.WEIGHT_AT]

    def _sum(self, loss, kept, w):
        """As if the slab were one block; the last of all adds up what the scratch holds."""
        a = self.a
        counter = memory(a.scratch, (1,), (8,), np.dtype(np.int64))
        assert 0 <= counter[0] < a.blocks, "a scratch must begin with 0"
        assert a.blocks % self.grid == 0
        blocks = memory(a.scratch + 16, (a.blocks, 3), (24, 8), np.dtype(np.float64))
        blocks[a.block : a.block + self.grid] = 0
        blocks[a.block] = loss.sum(), kept.sum(), w.sum()
        counter[0] += self.grid
        if counter[0] < a.blocks:
            return
        counter[0] = 0
        total = blocks.sum(axis=0)
        memory(a.result, (3,), (8,), np.dtype(np.float64))[:] = total
        if a.value:
            by = (a.divisor, total[1], total[2])[a.by]
            made = total[0] / by if by != 0 else 0.0
            memory(a.value, (1,), (8,), BY_CODE[a.value_code])[0] = made


def label_code(value):
    """What an ErrorSlot holds of a label."""
    if np.isnan(value):
        return params.NAN
    if np.isinf(value):
        return params.ALL_ABOVE if value > 0 else params.ALL_BELOW
    if value != np.floor(value):
        return params.NOT_WHOLE
    if value == -(2**31):
        return params.NA
    if not params.SMALLEST <= value <= params.LARGEST:
        return params.BELOW if value < 0 else params.ABOVE
    return params.LABEL_ZERO + int(value)


def install(monkeypatch, gpu):
    """Put the device that is not there in the place of one that is."""
    packages = gpu.core, gpu.bindings
    monkeypatch.setattr(cuda_driver, "_packages", lambda: packages)
    monkeypatch.setattr(cuda_driver, "_core_errors", lambda: CUDAError)
    monkeypatch.setattr(cuda_driver, "_devices", {})
    monkeypatch.setattr(
        loader, "cubin", lambda kernel, cc: loader.Code(kernel.encode(), f"entry of {kernel}")
    )
    monkeypatch.setattr(plan, "_plans", {})
    return gpu


def forget_adapters(monkeypatch):
    """Let no type of array be known."""
    monkeypatch.setattr(adapters, "_by_type", {})
    monkeypatch.setattr(adapters, "_made", {})


class Cupy(ModuleType):
    """As much of CuPy as is asked for, over NumPy; `stream` is the current one."""

    def __init__(self, monkeypatch):
        super().__init__("cupy")
        self.stream, self.capturing = 0, False
        self.cuda = SimpleNamespace(
            Device=lambda ordinal: nullcontext(),
            get_current_stream=lambda ordinal=0: SimpleNamespace(
                ptr=self.stream, is_capturing=lambda: self.capturing
            ),
        )
        monkeypatch.setitem(sys.modules, "cupy", self)

    def asarray(self, array):
        return CupyArray(np.asarray(array))

    def empty(self, shape, dtype):
        return CupyArray(poisoned(np.empty(shape, dtype)))

    def empty_like(self, array):
        return CupyArray(poisoned(np.empty_like(array.host)))


class CupyArray:
    """A CuPy array, as far as it is looked at."""

    def __init__(self, host):
        self.host = host
        self.shape, self.strides, self.dtype = host.shape, host.strides, host.dtype
        self.data = SimpleNamespace(ptr=host.ctypes.data, device_id=0)

    def astype(self, dtype):
        return CupyArray(self.host.astype(dtype))

    def __setitem__(self, key, value):
        self.host[key] = value.host

    def get(self):
        return self.host


CupyArray.__module__ = "cupy"


class Spoken:
    """Host memory that says it is a device's, through `__cuda_array_interface__` alone."""

    def __init__(self, host, stream=None, **more):
        self.host, self.stream, self.more = host, stream, more

    @property
    def __cuda_array_interface__(self):
        said = dict(self.host.__array_interface__, version=3, stream=self.stream)
        return {**said, **self.more}


class Packed:
    """Host memory that says it is a device's, through DLPack alone."""

    def __init__(self, host, device=(2, 0)):
        self.host, self.device = host, device

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, stream=None, **asked):
        assert stream == 1
        return self.host.__dlpack__()


def poisoned(array):
    """The array, with nothing in it that could pass for a result."""
    array[...] = np.nan if array.dtype.kind in "fV" else 77
    return array


def torch_on_the_host(monkeypatch, torch, gpu):
    """Let torch's CPU tensors pass for tensors on cuda:0."""

    class Tensors(TorchAdapter):
        handle, captures, versions = 0, False, ()

        def __init__(self):
            super().__init__()
            self.stream_of = lambda device: type(self).handle

        def is_on_device(self, array):
            return True

        def read(self, array):
            address, (shape, strides, dtype, _, negated) = super().read(array)
            return address, (shape, strides, dtype, 0, negated)

        def is_capturing(self, array):
            return type(self).captures

        def empty(self, like, shape, dtype):
            made = super().empty(like, shape, dtype)
            return made.fill_(torch.nan) if made.is_floating_point() else made

    monkeypatch.setitem(adapters._ADAPTERS, "torch", Tensors)
    forget_adapters(monkeypatch)
    return Tensors


assert np.iinfo(np.int64).max == NONE
