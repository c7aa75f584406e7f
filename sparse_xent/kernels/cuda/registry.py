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

from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels.cuda.block_rows import rows
from sparse_xent.kernels.cuda.count import survey
from sparse_xent.kernels.cuda.gather import picked
from sparse_xent.kernels.cuda.geometry import SIZES
from sparse_xent.kernels.cuda.intrinsics import FULL, Case, Slice
from sparse_xent.kernels.cuda.params import INTEGERS, Arguments
from sparse_xent.kernels.cuda.rank import rank_rows, rank_strided
from sparse_xent.kernels.cuda.strided import strided
from sparse_xent.kernels.cuda.thread_rows import few
from sparse_xent.kernels.cuda.warp_rows import lanes

TAKES = types.NamedTuple(
    [types.int64 if i < INTEGERS else types.float64 for i in range(len(Arguments._fields))],
    Arguments,
)
"""One tuple, whose fields are a kernel's parameters."""


WALKS: dict[str, Callable[..., None]] = {
    "few": few,
    "lanes": lanes,
    "rows": rows,
    "held": rows,
    "cluster": rows,
    "strided": strided,
    "picked": picked,
    "rank_rows": rank_rows,
    "rank_strided": rank_strided,
}
_ROWS = {"rows": (False, False), "held": (True, False), "cluster": (True, True)}


def case(name: str) -> tuple[Callable[..., None], Case | None]:
    """The walk and the case of a kernel's name."""
    walk, _, rest = name.partition(".")
    if walk == "survey":
        return survey, None
    found = re.fullmatch(r"([a-z_]+)(\d*)(?:x(\d+))?", walk)
    assert found is not None  # `plan` names no other
    word, width, count = found.groups()
    format, scores, smooth, output = rest.split(".") if "." in rest else (rest, "logits", "", "")
    size = SIZES[format]
    full = FULL // size
    held, cluster = _ROWS.get(word, (False, False))
    many = full
    if word == "lanes":
        many = full * int(count)
    elif word in ("strided", "rank_strided"):
        many = int(width)
    return WALKS[word], Case(
        Slice(format, size, many),
        ScoreKind[scores.upper()],
        smooth == "smooth",
        gradient=output == "grad",
        width=int(width or 1),
        held=held,
        cluster=cluster,
    )


def kernel(name: str) -> Callable[..., None]:
    """The Python function of a kernel."""
    walk, of = case(name)

    def with_case(a):  # type: ignore[no-untyped-def]
        walk(of, a)

    def without(a):  # type: ignore[no-untyped-def]
        walk(a)

    made = without if of is None else with_case
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
    # `simd` asks the code generator which processor it writes for.
    cuda_target.target_context.codegen().magic_tuple = lambda: ("nvptx64", "", "")
    with _aimed_at(cc):
        code, _ = cuda.compile(
            kernel(name), (TAKES,), device=False, abi="numba", cc=cc, output=output
        )
    return code


@contextmanager
def _aimed_at(cc: tuple[int, int]) -> Iterator[None]:
    """Numba compiles a kernel's parts for the device at hand: here for one that need not be."""
    asked = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=cc)
    try:
        yield
    finally:
        dispatcher.get_current_device = asked
