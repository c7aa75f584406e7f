"""The machine that is measured: the only module here that asks for a GPU.

What it offers (a device for torch, events, graphs, a compiler, kernels of one's own) the tests have
on the host too, so that all the rest is run before it first meets hardware.
"""

import importlib.metadata
import importlib.util
import platform
from collections.abc import Callable
from typing import Any

import torch

PACKAGES = (
    "sparse_xent", "torch", "triton", "cupy-cuda13x", "cupy-cuda12x", "numba", "numba-cuda",
    "cuda-core", "cuda-bindings", "numpy", "liger-kernel",
)  # fmt: skip


class Cuda:
    """The first CUDA device."""

    device = "cuda"
    bytes = 1 << 30  # of scores in what is timed, at least: many times what any cache holds
    rounds = 30
    calls = 2000  # of a host-bound call

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise SystemExit(
                f"benchmarks.gpu needs an NVIDIA GPU, and a torch that sees it: torch "
                f"{torch.__version__} does not"
            )

    def versions(self) -> dict[str, str]:
        """What is measured, and with what."""
        there = {}
        for name in PACKAGES:
            try:
                there[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        about = torch.cuda.get_device_properties(0)
        return {
            "device": about.name,
            "compute capability": f"{about.major}.{about.minor}",
            "multiprocessors": str(about.multi_processor_count),
            "memory": f"{about.total_memory / 2**30:.0f} GiB",
            "L2": f"{getattr(about, 'L2_cache_size', 0) / 2**20:.0f} MiB",
            "CUDA of torch": str(torch.version.cuda),
            "driver": self._driver(),
            "python": platform.python_version(),
            **there,
        }

    def _driver(self) -> str:
        from cuda.bindings import driver

        status, version = driver.cuDriverGetVersion()
        return f"CUDA {version // 1000}.{version % 1000 // 10}" if status == 0 else "?"

    @property
    def multiprocessors(self) -> int:
        return int(torch.cuda.get_device_properties(0).multi_processor_count)

    def synchronise(self) -> None:
        """Wait for all that was enqueued."""
        torch.cuda.synchronize()

    def free(self) -> None:
        """Give memory that is no longer used back."""
        torch.cuda.empty_cache()

    def milliseconds(self, run: Callable[[], object], rounds: int) -> list[float]:
        """Times between device events around each of several runs."""
        events = [
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            for _ in range(rounds)
        ]
        for start, end in events:
            start.record()
            run()
            end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) for start, end in events]

    def captured(self, run: Callable[[], object]) -> Callable[[], None]:
        """The run as a CUDA graph: what it enqueues is enqueued again by the function returned."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph.replay  # type: ignore[no-any-return]

    def beside(self, run: Callable[[], Any]) -> Any:
        """The run's result, made on a stream of its own."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            result = run()
        torch.cuda.current_stream().wait_stream(side)
        return result

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """torch.compile."""
        return torch.compile(function)

    def has(self, module: str) -> bool:
        """Whether a rival is there."""
        return importlib.util.find_spec(module) is not None

    def kernel(self, image: bytes, entry: str) -> Callable[..., None]:
        """launch(grid, block, *arguments) of a kernel in machine code, on the current stream."""
        from cuda.core import LaunchConfig, ObjectCode, Stream, launch

        made = ObjectCode.from_cubin(image).get_kernel(entry)

        def on_current_stream(grid: int, block: int, *arguments: int) -> None:
            stream = Stream.from_handle(torch.cuda.current_stream().cuda_stream)
            launch(stream, LaunchConfig(grid=grid, block=block), made, *arguments)

        return on_current_stream

    def spoken(self, tensor: torch.Tensor) -> Any:
        """The tensor's memory, as what says nothing but `__cuda_array_interface__`."""
        return _Spoken(tensor)

    def packed(self, tensor: torch.Tensor) -> Any:
        """The tensor's memory, as what speaks nothing but DLPack."""
        return _Packed(tensor)

    def tensor(self, array: Any) -> torch.Tensor:
        """A device array of another library as a tensor."""
        return torch.as_tensor(array, device=self.device)

    @property
    def architecture(self) -> str:
        major, minor = torch.cuda.get_device_capability()
        return f"sm_{major}{minor}"


class _Spoken:
    """A tensor that says nothing but `__cuda_array_interface__`."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    @property
    def __cuda_array_interface__(self) -> Any:
        return self._tensor.__cuda_array_interface__


class _Packed:
    """A tensor that speaks nothing but DLPack."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def __dlpack__(self, **asked: Any) -> Any:
        return self._tensor.__dlpack__(**asked)

    def __dlpack_device__(self) -> Any:
        return self._tensor.__dlpack_device__()
