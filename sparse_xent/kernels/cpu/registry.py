"""What is compiled under each name that `abi` asks for. Importing this imports Numba."""

from collections.abc import Callable
from typing import Any

import numpy as np

from sparse_xent.kernels import ScoreKind, arithmetic
from sparse_xent.kernels.cpu import chunks, compiler
from sparse_xent.kernels.cpu import vectors as vec
from sparse_xent.kernels.cpu.exact_sums import exact_sums
from sparse_xent.kernels.cpu.few_classes import few, plain_few
from sparse_xent.kernels.cpu.gather import gather
from sparse_xent.kernels.cpu.rank import rank
from sparse_xent.kernels.cpu.row_batches import row_batches
from sparse_xent.kernels.cpu.row_quads import plain_rows
from sparse_xent.kernels.cpu.rows import rows
from sparse_xent.kernels.cpu.strided import strided
from sparse_xent.kernels.cpu.tiles import plain_tile, tile
from sparse_xent.kernels.formulas import KernelSpec, is_logits
from sparse_xent.kernels.staging import Value, primitive

_FORMATS = {
    f.name: f
    for f in (arithmetic.FLOAT16, arithmetic.BFLOAT16, arithmetic.FLOAT32, arithmetic.FLOAT64)
}
_KERNELS = {kernel.__name__: kernel for kernel in (gather, tile, row_batches, rows, few, strided)}
_PLAIN = {"tile": plain_tile, "row_batches": plain_rows, "few": plain_few}
"""Those of logits without smoothing that have a kernel of their own."""


# A kernel is shorter, and compiled sooner, without what it never does: what depends on an argument
# that is None is left out.


@primitive
def _of_probabilities(spec: KernelSpec, notes: Value) -> Value | None:
    """Where odd rows are noted, of probabilities."""
    return None if spec.scores == ScoreKind.LOGITS else notes


@primitive
def _of_smooth(spec: KernelSpec, smoothing: Value) -> Value | None:
    """The label smoothing of kernels that smooth labels."""
    return smoothing if spec.smooth else None


@primitive
def _written(dx: Value) -> Value:
    """Where the gradient goes."""
    return dx


@primitive
def _not_written(dx: Value) -> None:
    """Of losses alone, nowhere."""
    return None


def object_code(name: str, *of: Any) -> bytes:
    """The object file of a kernel."""
    function = _kernel(name, *of) if name in _KERNELS else _OTHERS[name](*of)
    return compiler.object_code(
        function, *chunks.SIGNATURES["kernel" if name in _KERNELS else name]
    )


def _kernel(
    name: str, format: str, scores: str, smooth: bool, gradient: bool
) -> Callable[..., None]:
    spec = KernelSpec(_FORMATS[format], ScoreKind[scores], smooth)
    is_plain = spec.scores == ScoreKind.LOGITS and not smooth
    kernel = _PLAIN.get(name, _KERNELS[name]) if is_plain else _KERNELS[name]

    dx_of = _written if gradient else _not_written

    def run(
        C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, notes, smoothing, lo, hi,
        nontemporal, scratch,
    ):  # fmt: skip
        # A subnormal number costs a processor hundreds of cycles at each step. Gradients of logits
        # of spread 30 have many, and took 3 to 6 times as long as those of spread 2; a lane's sum
        # may be one, and long rows of spread 60 took 10 times as long; so may logits, 30 times.
        mode = vec.float_mode()
        if is_logits(spec):
            vec.set_float_mode(mode | vec.FLUSH)
        kernel(
            spec, C, inner, first, last, x, xo, xc, xi, y, out,
            dx_of(dx), do, dc, di, g, _of_probabilities(spec, notes), _of_smooth(spec, smoothing),
            (lo, hi), nontemporal != 0, scratch,
        )  # fmt: skip
        vec.set_float_mode(mode)

    return run


def _rank(format: str) -> Callable[..., None]:
    spec = KernelSpec(_FORMATS[format], ScoreKind.LOGITS, False)

    def ranks(C, inner, first, last, x, xo, xc, xi, y, out):
        rank(spec, C, inner, first, last, x, xo, xc, xi, y, out)

    return ranks


def _exact_sums(format: str) -> Callable[..., None]:
    fmt = _FORMATS[format]

    def sums(n, l, w, y, ranks, v, to):
        exact_sums(fmt, n, l, w, y, ranks, v, to)

    return sums


def _decode_labels(name: str) -> Callable[..., int]:
    fmt = vec.LabelFormat(name, np.dtype(name).itemsize)

    def decode(labels, step, n, classes, ignored, many, to):
        return chunks.decode_labels(fmt, labels, step, n, classes, ignored, many, to)

    return decode


def _run_small_call(items: int, data: int) -> Callable[..., int]:
    def run_small_call(plan, arrays):
        return chunks.run_small_call(plan, arrays, items, data)

    return run_small_call


_OTHERS: dict[str, Callable[..., Callable[..., Any]]] = {
    "rank": _rank,
    "exact_sums": _exact_sums,
    "decode_labels": _decode_labels,
    "run_chunks": lambda: chunks.run_chunks,
    "run_small_call": _run_small_call,
}
