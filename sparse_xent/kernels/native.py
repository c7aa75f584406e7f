"""Kernels as C functions: compiled when first wanted, kept on disk, known by their addresses.

It decides what one compilation serves: a walk for one format of scores, one kind of scores, with
or without smoothing and gradient; a lowering for one dtype of labels; and one `carry` for all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import njit
from numba.core import types
from numba.core.ccallback import CFunc

from sparse_xent.kernels import Scores, disk, simd
from sparse_xent.kernels import carry as _carry
from sparse_xent.kernels.algebra import Kind
from sparse_xent.kernels.carry import BAD, MISSING, POSITIONS, SUMS
from sparse_xent.kernels.picked import picked
from sparse_xent.kernels.rows import rows
from sparse_xent.kernels.strided import strided
from sparse_xent.kernels.tiles import MEDIUM, TILE, medium, tile

__all__ = ["BAD", "LABELS", "MISSING", "SUMS", "Walk", "carry", "choose", "lowering"]

# What labels may be where they lie; others are converted beforehand. Bools are bytes of 0 and 1.
LABELS = {
    np.dtype(np.int64): types.int64,
    np.dtype(np.int32): types.int32,
    np.dtype(np.uint8): types.uint8,
    np.dtype(np.float64): types.float64,
    np.dtype(np.bool_): types.uint8,
}


FORMATS = {f.name: f for f in (simd.FLOAT16, simd.BFLOAT16, simd.FLOAT32, simd.FLOAT64)}


_KERNELS = {"picked": picked, "tile": tile, "medium": medium, "rows": rows, "strided": strided}


@dataclass(frozen=True, slots=True)
class Walk:
    """What serves one geometry: a kernel, and how many positions a chunk has."""

    name: str
    kind: Kind
    chunk: int
    past: bool  # whether gradients that are not in place go past the caches

    def forward(self) -> int:
        """Address of the losses' kernel."""
        return _walk(self.name, self.kind, False)

    def both(self) -> int:
        """Address of the kernel of losses and gradients."""
        return _walk(self.name, self.kind, True)


def choose(
    format: str,
    scores: Scores,
    smooth: bool,
    classes: int,
    inner: int,
    steps: tuple[int, ...],
    chunk_bytes: int,
) -> Walk:
    """The walk for scores with these steps in bytes along classes and inner."""
    kind = Kind(FORMATS[format], scores, smooth)
    size = kind.format.itemsize
    if scores == Scores.NEVER and not smooth:
        return Walk("picked", kind, POSITIONS, classes >= 4096)
    if steps[0] != size and classes > 1:
        return Walk("strided", kind, POSITIONS, False)
    name = "tile" if classes <= TILE else "medium" if classes < MEDIUM else "rows"
    rows_of_a_chunk = max(1, min(POSITIONS, chunk_bytes // (size * classes)))
    return Walk(name, kind, rows_of_a_chunk, classes >= 4096)


@cache
def _walk(name: str, kind: Kind, gradient: bool) -> int:
    """Address of a walk's C function."""
    kernel = _KERNELS[name]

    def forward(  # type: ignore[no-untyped-def]
        C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, share, lo, hi, past
    ):
        kernel(
            kind, C, inner, first, last, x, xo, xc, xi, y, out,
            None, 0, 0, 0, 0, share, (lo, hi), False,
        )  # fmt: skip

    def both(  # type: ignore[no-untyped-def]
        C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, share, lo, hi, past
    ):
        kernel(
            kind, C, inner, first, last, x, xo, xc, xi, y, out,
            dx, do, dc, di, g, share, (lo, hi), past != 0,
        )  # fmt: skip

    function = both if gradient else forward
    return _compiled(function, _carry.SIGNATURE, f"{name} {kind!r}")


@cache
def lowering(dtype: np.dtype[Any]) -> int:
    """Address of the C function that lowers labels of a dtype in LABELS."""
    return _compiled(_carry.lowering(LABELS[dtype]), _carry.LOWERING, f"{dtype}")


@cache
def carry() -> Callable[..., None]:
    """`carry.carry`, compiled or found on disk at its first call."""
    dispatcher = njit(_carry.carry, **_carry.OPTIONS)
    dispatcher._cache = disk.cache(_carry.carry, "carry")
    return dispatcher


@cache
def small() -> Callable[..., tuple[int, float, int]]:
    """`carry.small`, compiled or found on disk at its first call with each pair of dtypes."""
    dispatcher = njit(_carry.small, **_carry.OPTIONS)
    dispatcher._cache = disk.cache(_carry.small, "small")
    return dispatcher


_alive: list[CFunc] = []  # code lives as long as its CFunc


def _compiled(function: Callable[..., Any], signature: Any, entry: str) -> int:
    options = {"nopython": True, "error_model": "numpy"}
    made = CFunc(function, (signature.args, signature.return_type), {}, options)
    made._cache = disk.cache(function, entry)
    made.compile()
    _alive.append(made)
    return int(made.address)
