"""What the compiled kernels serve, and which of them serves what; this module needs no Numba.

A kernel is a C function in an object file of its own: losses for one layout, one format of scores
and one kind of them, with or without smoothing and gradient; `decode_labels` for one dtype of
labels; `rank` for one format; `exact_sums` for losses of one format; `run_small_call` for one
layout of Python's objects; one `run_chunks` for all. `loader` finds them in the package or on disk
or has them compiled, and they are known by their addresses.
"""

import threading
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from sparse_xent.kernels import ScoreKind

LINE = 64  # bytes of a cache line, and of every vector of lanes

# Class counts at which another kernel takes over.
TILE = 24  # classes at most; above, turning the rows costs more than reading along them
MEDIUM = 512  # from here on one row at a time
# The same of logits without smoothing. One row at a time, losses of 512 to 1000 classes take 1.4
# times as long, of 2000 1.15 times; gradients as long. A lane sums 128 float32 at most, and is
# off by 2e-6 where all are equal.
PLAIN_MEDIUM = 2048
FEW = 32  # classes apart at most whose sums stay in registers

# Positions of a chunk at most: its scratch of 36 bytes each (labels, losses, weights, factors) is
# a small part of a core's second-level cache beside the scores themselves. With 1024, 4096 and 8192
# few classes apart take 0.95 to 1.05 of the time (8 x 21 x 512 x 512 and 1,000,000 x 10).
POSITIONS = 2048

# Bytes of scores in a chunk at most, where it has more than 16 positions (a line of float32): no
# exception of a signal handler is raised within one. At 90 ns an element, the worst that was seen
# (rows of 20,000 float32 far apart in memory, each done again one number at a time), that is 0.8 s.
CHUNK_LIMIT = 32 << 20

# Bytes from which a gradient is written past the caches, which do not hold it and the scores then:
# its lines are not read first. 50,000 x 1000 float32 takes 0.75 of the time, 200,000 x 100 half;
# but tiles, whose rows are short, 1.2 to 1.4 times as long (1,000,000 x 10): they never are. Of
# classes apart, 21 take 0.8 of the time, 32 0.6, 100 to 1000 0.86, and 10 or 5 as long; but maps of
# few positions, whose first ones are written one by one up to a line, several times as long.
NONTEMPORAL = 16 << 20
LONG_RUNS = {"few": 256, "strided": 1024}  # positions
NEVER = 1 << 62

# A caller's thread may have a stack of 128 KiB (musl's default), so that the kernels of one call
# together take less than half of that; what they need beyond is handed to them.
POSITION_BYTES = 36 * POSITIONS  # of a chunk, in `run_chunks`
# Bytes of a kernel that makes gradients: twice the terms of 16 rows of PLAIN_MEDIUM classes in
# float32, or once, and twice the gradients in halves. All others need less.
TERMS = 2 * 16 * PLAIN_MEDIUM * 4 + 4 * LINE
SCRATCH = POSITION_BYTES + TERMS


class _Scratch(threading.local):
    """Each thread's own, which begins a cache line; `own`, at the address `at`, says where."""

    def __init__(self) -> None:
        held = np.empty(SCRATCH + LINE, np.uint8)
        self._array = held[-held.ctypes.data % LINE :]
        self.own = np.array([self._array.ctypes.data], np.int64)
        self.at = self.own.ctypes.data


scratch = _Scratch()

FORMATS = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
"""Bytes of a score."""

# What labels may be where they lie; others are converted beforehand. Bools are bytes of 0 and 1.
LABELS = {np.dtype(name): name for name in ("int64", "int32", "uint8", "float64")}
LABELS[np.dtype(np.bool_)] = "uint8"

TOTAL, KEPT, WEIGHT, BAD, MISSING, LARGEST_WEIGHT, LEAST_WEIGHT, ODD_ROWS = range(8)
FOUND = 8
SUMS = ODD_ROWS + FOUND
"""What a chunk leaves behind, float64 each: sum(w * l), or 0 where losses are written; labels kept,
sum(w), labels that are no class, weights that are NA, the largest |w| and the least that is not 0;
and FOUND numbers of rows that cannot be probabilities: how many there are, and of the first its
place, the class of its first such score, that score, its least and its greatest score, their sum,
and whether all are whole."""

LIMBS = 66
"""Of a fixed-point number: limb i counts units of 2**(32 * i - 1074). Float64 needs 66 of them."""

UNIT = -1074
SUM_WORDS = LIMBS + 1  # and, as a float64, the sum of the infinities and NaN
SUMMANDS = 4
EXACT = 3
"""What `exact_sums` takes and leaves, int64s: EXACT of them say where the thread's scratch is,
whether squares are wanted, and how many bounds there are; the bounds, of ranks below which a label
is a hit; the number of hits at each; then SUM_WORDS for each of sum(w * l), sum(w), sum(w * w),
sum(l * l * w), and for the weights of the hits at each bound."""

BEYOND = -1.0
"""In the place of ODD_ROWS where a small call was left alone: see FACTORS."""

FACTORS = {4: (1e-30, 1e30), 8: (1e-150, 1e150)}
"""By the bytes of the arithmetic's dtype: between which bounds w / divisor must lie for a kernel to
write gradients. Beyond, a factor may be infinite, or no normal number, once it is divided by a
row's sum: that lies between 2**-20 and 2**20 (2**-500 and 2**500)."""

DIVIDED_BY = 1
"""What `divided_by` is where a call is small, plus a `Divisor`: 1 for one, 2 for the number of
labels kept, 3 for the sum of their weights. It is 0 where the divisor is known beforehand."""

LEAST, MOST = -1e-3, 1 + 1e-3  # what a probability may be, rounding and all


class ChunkParams(NamedTuple):
    """What `run_chunks` takes: integers of 64 bits in this order, addresses and steps in bytes."""

    kernel: int  # 0 to check and count labels and weights only
    wide: int  # whether losses are float64, else float32
    classes: int
    inner: int
    x: int
    xo: int
    xc: int
    xi: int
    dx: int  # 0 for no gradient
    do: int
    dc: int
    di: int
    decoder: int  # of labels
    y: int
    y_step: int
    ignored: int  # int64, `many` of them
    many: int
    w: int  # float64; 0 for none
    w_step: int
    by_class: int  # float64, one a class; 0 for none
    size: int  # positions of a chunk
    formula: int  # a ScalarParams
    sums: int = 0  # SUMS float64 a chunk, from position 0 on
    losses: int = 0  # where all losses go, times their weights; 0 for none
    divided_by: int = 0  # what a small call's gradient is divided by; see DIVIDED_BY
    nontemporal: int = 0  # whether the gradient is written past the caches
    run_chunks: int = 0  # what `run_small_call` calls
    row: int = 0  # positions of each entry of the scores' first axis; 0 where `positions` has all
    positions: int = 0
    x_odd: int = 0  # bits that no address of scores has: their size less 1
    y_odd: int = 0
    order: int = 0  # of positions among the losses (`implausible`); 0 where it is C order
    rank: int = 0  # the function that gives ranks; 0 where they are not wanted
    ranks: int = 0  # where they go, int64
    exact: int = 0  # the function that adds to exact sums; losses and ranks go nowhere then

    def laid(self) -> Any:
        """The numbers in memory."""
        return np.array(self, np.int64)


class ScalarParams(NamedTuple):
    """The rest of what `run_chunks` takes: float64 in this order."""

    smoothing: float
    low: float  # the clip's bounds
    high: float
    divisor: float  # of the gradient; 0 makes it 0

    def laid(self) -> Any:
        """The numbers in memory."""
        return np.array(self, np.float64)


INTEGERS, DOUBLES = 16, 3
"""A kernel takes C, inner, first, last, x, xo, xc, xi, y, out, dx, do, dc, di, g, notes; share, lo,
hi; and whether the gradient is written past the caches; scratch of TERMS bytes. Where y is below 0
it writes 0, as loss and as gradient, whatever scores and factor are."""


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """What serves one geometry: a kernel, and how many positions a chunk has."""

    name: str
    format: str
    scores: ScoreKind
    smooth: bool
    chunk: int
    nontemporal: int  # bytes of a gradient, not in place, from which it goes past the caches
    reads: int  # bytes that the loss of one position takes from memory

    def named(self, gradient: bool) -> tuple[Any, ...]:
        """The name by which `loader` knows the kernel, with or without gradients."""
        return self.name, self.format, self.scores.name, self.smooth, gradient


def choose_kernel(
    format: str,
    scores: ScoreKind,
    smooth: bool,
    classes: int,
    inner: int,
    steps: tuple[int, ...],
    chunk_bytes: int,
) -> KernelChoice:
    """The kernel for scores with these steps in bytes along classes and inner."""
    size = FORMATS[format]
    positions = min(POSITIONS, max(16, CHUNK_LIMIT // (size * classes) // 16 * 16))
    if scores == ScoreKind.CLIP and not smooth:
        past = 0 if classes >= 4096 else NEVER
        return KernelChoice("gather", format, scores, smooth, positions, past, LINE)
    plain = scores == ScoreKind.LOGITS and not smooth
    if classes > 1 and steps[0] != size:
        name = "few" if classes <= FEW else "strided"
        long = inner >= LONG_RUNS[name]
        past = NONTEMPORAL if classes >= 12 and size >= 4 and long else NEVER
        return KernelChoice(name, format, scores, smooth, positions, past, size * classes)
    most = PLAIN_MEDIUM if plain else MEDIUM
    name = "tile" if classes <= TILE else "row_batches" if classes < most else "rows"
    rows_of_a_chunk = max(1, min(POSITIONS, chunk_bytes // (size * classes)))
    if plain and name == "row_batches" and rows_of_a_chunk > 16:
        rows_of_a_chunk -= rows_of_a_chunk % 16  # whole batches
    past = 0 if classes >= 4096 else NEVER if name == "tile" else NONTEMPORAL
    return KernelChoice(name, format, scores, smooth, rows_of_a_chunk, past, size * classes)


@cache
def format_of(dtype: np.dtype[Any]) -> str:
    """The name of a dtype of scores; NumPy spells it out anew each time, in 5 us."""
    return dtype.name
