"""What is compiled under each name that `native` asks for. Importing this imports Numba."""

from collections.abc import Callable
from typing import Any

from numba.core import types

from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels.cpu import chunks, compiler, vectors
from sparse_xent.kernels.cpu.formulas import Kind
from sparse_xent.kernels.cpu.gather import picked
from sparse_xent.kernels.cpu.rank import rank
from sparse_xent.kernels.cpu.rows import rows
from sparse_xent.kernels.cpu.strided import strided
from sparse_xent.kernels.cpu.tiles import medium, tile

_FORMATS = {
    f.name: f for f in (vectors.FLOAT16, vectors.BFLOAT16, vectors.FLOAT32, vectors.FLOAT64)
}
_WALKS = {walk.__name__: walk for walk in (picked, tile, medium, rows, strided)}


def object_code(name: str, *of: Any) -> bytes:
    """The object file of a kernel."""
    function = _walk(name, *of) if name in _WALKS else _OTHERS[name](*of)
    return compiler.object_code(function, *chunks.SIGNATURES["walk" if name in _WALKS else name])


def _walk(name: str, format: str, scores: str, smooth: bool, gradient: bool) -> Callable[..., None]:
    kernel, kind = _WALKS[name], Kind(_FORMATS[format], ScoreKind[scores], smooth)

    def forward(
        C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, notes, share, lo, hi,
        past, work,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        kernel(
            kind, C, inner, first, last, x, xo, xc, xi, y, out,
            None, 0, 0, 0, 0, notes, share, (lo, hi), False, 0,
        )  # fmt: skip

    def both(
        C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, notes, share, lo, hi,
        past, work,
    ):  # type: ignore[no-untyped-def]  # fmt: skip
        kernel(
            kind, C, inner, first, last, x, xo, xc, xi, y, out,
            dx, do, dc, di, g, notes, share, (lo, hi), past != 0, work,
        )  # fmt: skip

    return both if gradient else forward


def _rank(format: str) -> Callable[..., None]:
    kind = Kind(_FORMATS[format], ScoreKind.LOGITS, False)

    def ranks(C, inner, first, last, x, xo, xc, xi, y, out):  # type: ignore[no-untyped-def]
        rank(kind, C, inner, first, last, x, xo, xc, xi, y, out)

    return ranks


_OTHERS: dict[str, Callable[..., Callable[..., Any]]] = {
    "rank": _rank,
    "lowering": lambda dtype: chunks.lowering(getattr(types, dtype)),
    "carry": lambda: chunks.carry,
    "small": lambda: chunks.small,
}
