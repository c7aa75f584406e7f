"""What is compiled under each name that `plan` gives. Importing this imports Numba.

A name is walk.format.scores.smoothing.output, such as lanes32x8.float32.logits.sharp.grad; ranks
have a format alone, the survey has nothing.
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

from sparse_xent.kernels import Scores
from sparse_xent.kernels.cuda.arguments import INTEGERS, Arguments
from sparse_xent.kernels.cuda.lanes import lanes
from sparse_xent.kernels.cuda.plan import SIZES
from sparse_xent.kernels.cuda.words import FULL, Case, Slice

TAKES = types.NamedTuple(
    [types.int64 if i < INTEGERS else types.float64 for i in range(len(Arguments._fields))],
    Arguments,
)
"""One tuple, whose fields are a kernel's parameters."""


def case(name: str) -> tuple[str, Case]:
    """The walk and the case of a kernel's name."""
    walk, format, scores, smooth, output = [*name.split("."), "", "", "", ""][:5]
    letters, width, count = re.fullmatch(r"([a-z_]+)(\d*)(?:x(\d+))?", walk).groups()
    size = SIZES[format]
    full = FULL // size
    lanes_ = full * int(count or 1) if letters == "lanes" else full
    return letters, Case(
        Slice(format, size, lanes_),
        Scores[scores.upper()],
        smooth == "smooth",
        output == "grad",
        int(width or 1),
    )


def kernel(name: str) -> Callable[..., None]:
    """The Python function of a kernel."""
    walk, of = case(name)
    body = {"lanes": lanes}[walk]

    def made(a):  # type: ignore[no-untyped-def]
        body(of, a)

    made.__name__ = made.__qualname__ = re.sub(r"\W", "_", name)
    return made


def compiled(name: str, cc: tuple[int, int], output: str) -> Any:
    """Numba's code of a kernel: LTO-IR as bytes, or PTX as text."""
    # `simd` asks the code generator which processor it writes for.
    cuda_target.target_context.codegen().magic_tuple = lambda: ("nvptx64", "", "")
    with _aimed_at(cc):
        code, _ = cuda.compile(
            kernel(name), (TAKES,), device=False, abi="numba", cc=cc, output=output
        )
    return code


@contextmanager
def _aimed_at(cc: tuple[int, int]) -> Iterator[None]:
    """Numba compiles the parts of a kernel for the device at hand: here for one that need not be."""
    asked = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=cc)
    try:
        yield
    finally:
        dispatcher.get_current_device = asked
