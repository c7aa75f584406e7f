"""What is compiled under each name that `geometry` gives. Importing this imports Numba.

A name is kernel.format.scores.smoothing.output, such as warp_rows32x8.float32.logits.sharp.grad;
the name of ranks has a format alone, that of `count` nothing.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from numba import cuda
from numba.core import types
from numba.cuda import dispatcher
from numba.cuda.descriptor import cuda_target

from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels.cuda.block_rows import block_rows
from sparse_xent.kernels.cuda.count import count
from sparse_xent.kernels.cuda.gather import gather
from sparse_xent.kernels.cuda.geometry import SIZES
from sparse_xent.kernels.cuda.intrinsics import FULL, DeviceKernelSpec, Slice
from sparse_xent.kernels.cuda.params import INTEGERS, Arguments
from sparse_xent.kernels.cuda.rank import rank_rows, rank_strided
from sparse_xent.kernels.cuda.strided import strided
from sparse_xent.kernels.cuda.thread_rows import thread_rows
from sparse_xent.kernels.cuda.warp_rows import warp_rows

TAKES = types.NamedTuple(
    [types.int64 if i < INTEGERS else types.float64 for i in range(len(Arguments._fields))],
    Arguments,
)
"""One tuple, whose fields are a kernel's parameters."""


KERNELS: dict[str, Callable[..., None]] = {
    "thread_rows": thread_rows,
    "warp_rows": warp_rows,
    "block_rows": block_rows,
    "cached_rows": block_rows,
    "cluster_rows": block_rows,
    "strided": strided,
    "gather": gather,
    "rank_rows": rank_rows,
    "rank_strided": rank_strided,
}


def spec_of(name: str) -> tuple[Callable[..., None], DeviceKernelSpec | None]:
    """The function of a kernel's name, and what it is compiled for."""
    family, _, rest = name.partition(".")
    if family == "count":
        return count, None
    found = re.fullmatch(r"([a-z_]+)(\d*)(?:x(\d+))?", family)
    assert found is not None  # `geometry` gives no other name
    kernel, width, vectors = found.groups()
    format, scores, smooth, output = rest.split(".") if "." in rest else (rest, "logits", "", "")
    size = SIZES[format]
    numbers = FULL // size
    if kernel == "warp_rows":
        numbers *= int(vectors)
    elif kernel in ("strided", "rank_strided"):
        numbers = int(width)
    return KERNELS[kernel], DeviceKernelSpec(
        Slice(format, size, numbers),
        ScoreKind[scores.upper()],
        smooth == "smooth",
        gradient=output == "grad",
        width=int(width or 1),
        cached=kernel in ("cached_rows", "cluster_rows"),
        clustered=kernel == "cluster_rows",
    )


def kernel(name: str) -> Callable[..., None]:
    """The Python function of a kernel."""
    function, spec = spec_of(name)

    def with_spec(a):
        function(spec, a)

    def without(a):
        function(a)

    made = without if spec is None else with_spec
    made.__name__ = made.__qualname__ = re.sub(r"\W", "_", name)
    return made


def compiled(name: str, cc: tuple[int, int], output: str) -> Any:
    """Numba's code of a kernel: LTO-IR as bytes, or PTX as text.

    Raises:
        RuntimeError: Numba has but the CUDA target that came with it once, and is no more.
    """
    if cuda.implementation != "NVIDIA":
        raise RuntimeError(
            f"compiling for CUDA takes the package numba-cuda, got numba's {cuda.implementation} "
            "target: pip install 'sparse_xent[cuda13]' (or [cuda12])"
        )
    # `staging` asks the code generator which processor it writes for.
    cuda_target.target_context.codegen().magic_tuple = lambda: ("nvptx64", "", "")
    with _compiling_for(cc):
        code, _ = cuda.compile(
            kernel(name), (TAKES,), device=False, abi="numba", cc=cc, output=output
        )
    return code


@contextmanager
def _compiling_for(cc: tuple[int, int]) -> Iterator[None]:
    """Numba compiles inlined functions for the device at hand; here there need not be one."""
    asked = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=cc)
    try:
        yield
    finally:
        dispatcher.get_current_device = asked
