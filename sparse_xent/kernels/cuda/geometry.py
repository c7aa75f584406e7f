"""Which kernel serves a geometry, with how many blocks and threads: host logic, no GPU, no Numba.

A plan is set by shape, strides and alignment alone, never by the GPU's number of processors, so
that a call has the same bits on every GPU. (The compute capability decides only where a gradient's
row is kept between its two passes, which no bit shows.)

    thread_rows  few classes, rows one after the other: a block stages its rows in shared memory,
                 each thread takes one
    warp_rows    rows of classes side by side that fit the registers of 8, 16 or 32 lanes
    block_rows   longer rows: a block a row, read once for a loss, twice for a gradient
    cached_rows  the same for gradients, the row kept in the block's shared memory
    cluster_rows the same, in the shared memory of a cluster of 2, 4 or 8 blocks
    strided      any other layout: a thread owns 16 bytes of neighbouring positions, or one position
    gather       probabilities known to sum to one: a thread a position, one element read
    count        labels and weights alone
"""

import enum
import math
from dataclasses import dataclass

from sparse_xent.kernels import ScoreKind

SIZES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
"""Bytes of a score."""

THREAD_ROW_CLASSES = 32  # classes of which a thread takes a whole row
LANE_VECTORS = {2: 8, 4: 16, 8: 8}  # 16-byte vectors of a lane at most: 64 or 32 registers
LANE_VECTORS_SMOOTH = 4  # the same where labels are smoothed: the second pass needs registers, too
WARP = 32
VECTOR = 16  # bytes of a load

# Blocks of a launch at most. More would not fill any GPU better, and each leaves sums behind that
# one block adds up in the end.
BLOCKS = 8192


class Verb(enum.IntEnum):
    """What a launch is to do; gradients alone are those of NLL_AND_GRAD without `out`."""

    NLL = 0
    NLL_GRAD = 1
    NLL_AND_GRAD = 2
    RANK = 3
    COUNT = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """A launch but for its arguments."""

    kernel: str  # the name that `loader.cubin` takes
    grid: int  # blocks; a multiple of `cluster`
    block: int  # threads of a block
    cluster: int  # blocks of a cluster; 1: launched without clusters
    shared: int  # bytes of dynamic shared memory; above 48 KiB the host has to set an attribute

    def scratch(self, slabs: int = 1) -> int:
        """Bytes of scratch for sums: a counter, which must be 0 before the launch, and sums."""
        return SCRATCH_HEAD + SCRATCH_BLOCK * self.grid * slabs


SCRATCH_HEAD = 16
SCRATCH_BLOCK = 24


@dataclass(frozen=True, slots=True)
class Place:
    """Where scores or a gradient lie: address, and steps in bytes along outer, classes, inner."""

    address: int
    outer: int
    classes: int
    inner: int

    def aligned(self, shape: tuple[int, int, int], along_classes: bool) -> bool:
        """Whether vectors along classes (or inner) begin at multiples of 16 bytes everywhere."""
        steps = (self.outer, self.inner if along_classes else self.classes)
        lengths = (shape[0], shape[2] if along_classes else shape[1])
        moves = [step for step, n in zip(steps, lengths, strict=True) if n > 1]
        return all(at % VECTOR == 0 for at in (self.address, *moves))


def choose(
    dtype: str,
    scores: ScoreKind,
    smooth: bool,
    verb: Verb,
    shape: tuple[int, int, int],
    x: Place,
    dx: Place | None = None,
    cc: tuple[int, int] = (9, 0),
) -> Plan:
    """The plan for one slab of scores.

    Args:
        dtype: of the scores, a key of SIZES.
        scores: what they are.
        smooth: whether labels are smoothed.
        verb: what is wanted.
        shape: (outer, C, inner), none of which is 0.
        x: where the scores lie.
        dx: where the gradient goes, if one is wanted.
        cc: the device's compute capability.
    """
    outer, classes, inner = shape
    if verb == Verb.COUNT:
        return _by_position("count", outer * inner, per_thread=4)
    places = [x] if dx is None else [x, dx]
    size = SIZES[dtype]
    row = classes == 1 or all(p.classes == size for p in places)
    if verb == Verb.RANK:
        suffix = dtype
        if row:
            return _of_warps(f"rank_rows.{suffix}", outer * inner, WARP, 0)
        return _strided("rank_strided", f".{suffix}", dtype, shape, places)
    gradient = verb in (Verb.NLL_GRAD, Verb.NLL_AND_GRAD)
    suffix = ".".join(
        (
            dtype,
            scores.name.lower(),
            "smooth" if smooth else "sharp",
            "grad" if gradient else "nll",
        )
    )
    if scores == ScoreKind.CLIP and not smooth and not gradient:
        return _by_position(f"gather.{suffix}", outer * inner)
    if not row:
        return _strided("strided", f".{suffix}", dtype, shape, places)
    dense = inner == 1 and (outer == 1 or all(p.outer == size * classes for p in places))
    if classes <= THREAD_ROW_CLASSES and dense:
        return _thread_rows(suffix, outer, classes, size, gradient)
    held = min(LANE_VECTORS[size], LANE_VECTORS_SMOOTH) if smooth else LANE_VECTORS[size]
    # The kernel is chosen by C alone, for it sets the order of a row's sum.
    if _vectors(classes, size, False) <= WARP * held:
        vectors = _vectors(classes, size, all(p.aligned(shape, True) for p in places))
        return _warp_rows(suffix, outer * inner, classes, vectors, size)
    return _block_rows(suffix, outer * inner, classes, size, gradient, cc)


def _vectors(classes: int, size: int, aligned: bool) -> int:
    """Vectors from boundary to boundary that a row touches, wherever it begins.

    float64 takes its columns two by two instead, wherever they lie.
    """
    lanes = VECTOR // size
    return (
        math.ceil(classes / lanes) if aligned or size == 8 else (classes + 2 * lanes - 2) // lanes
    )


# Registers of a thread at most, so that a processor (65,536 of them) has room for enough threads to
# keep its memory busy: two blocks of 512 (or 384) that share long rows, three of 128 that share
# nothing. Kernels that need more (float64, smoothed labels, 64 numbers a lane) run fewer.
_REGISTERS = {
    "thread_rows": (64, 128),
    "warp_rows": (128, 255),
    "block_rows": (64, 128),
    "cached_rows": (64, 128),
    "cluster_rows": (128, 255),
    "strided": (168, 255),
}
_REGISTERS_ELSE = 96


def registers(kernel: str) -> int:
    """How many registers a kernel may have."""
    family, _, spec = kernel.partition(".")
    name = family.partition("x")[0].rstrip("0123456789")
    usual, more = _REGISTERS.get(name, (_REGISTERS_ELSE, _REGISTERS_ELSE))
    halves = spec.startswith(("float16", "bfloat16"))
    if "smooth" in spec or "float64" in spec or family.endswith("x8" if halves else "x16"):
        return more
    return 80 if usual == 64 and halves else usual


def _by_position(kernel: str, count: int, per_thread: int = 1, block: int = 256) -> Plan:
    return Plan(kernel, _grid(count, block * per_thread), block, 1, _sums(block))


def _thread_rows(suffix: str, outer: int, classes: int, size: int, gradient: bool) -> Plan:
    block = 128
    row = classes * size
    row += VECTOR if row % VECTOR == 0 else 0  # as the kernel pads it
    return Plan(
        f"thread_rows.{suffix}", _grid(outer, block), block, 1, max(block * row, _sums(block))
    )


def lanes_of_a_row(classes: int, size: int) -> int:
    """How many lanes take a row: set by C alone, for it sets the order of a row's sum."""
    vectors = math.ceil(classes * size / VECTOR)
    return 8 if vectors <= 8 else 16 if vectors <= 16 else WARP


def _warp_rows(suffix: str, count: int, classes: int, vectors: int, size: int) -> Plan:
    lanes = lanes_of_a_row(classes, size)
    each = 1
    while lanes * each < vectors:
        each *= 2
    return _of_warps(f"warp_rows{lanes}x{each}.{suffix}", count, lanes, 0)


def _of_warps(kernel: str, count: int, lanes: int, shared: int, block: int = 256) -> Plan:
    return Plan(kernel, _grid(count, block // lanes), block, 1, shared + _sums(block))


def threads_of_a_row(classes: int, size: int) -> int:
    """How many threads take a long row: set by C alone, for it sets the order of a row's sum."""
    row = classes * size
    if row < 2048 * VECTOR:
        return 256
    return 384 if size == 2 and row < 1 << 18 else 512  # halves hold eight sums a thread


def shared_bytes_for_row(cc: tuple[int, int]) -> int:
    """Bytes of shared memory for a row, so that a processor can run two blocks where possible."""
    return (113 if cc[0] in (9, 10) else 80 if cc == (8, 0) else 48) * 1024 - BLOCK_ROWS_SHARED


BLOCK_ROWS_SHARED = (
    1024  # bytes besides the row: what warps and blocks of a cluster exchange, and sums
)


def _block_rows(
    suffix: str, count: int, classes: int, size: int, gradient: bool, cc: tuple[int, int]
) -> Plan:
    threads = threads_of_a_row(classes, size)
    if gradient:
        vectors = _vectors(classes, size, False)
        for cluster in (1, 2, 4, 8) if cc[0] >= 9 else (1,):
            if threads // cluster % WARP:
                break
            held = math.ceil(vectors / threads) * (threads // cluster) * VECTOR
            if held <= shared_bytes_for_row(cc):
                name = "cached_rows" if cluster == 1 else "cluster_rows"
                grid = min(count, BLOCKS // cluster) * cluster
                return Plan(
                    f"{name}.{suffix}", grid, threads // cluster, cluster, held + BLOCK_ROWS_SHARED
                )
    return Plan(f"block_rows.{suffix}", min(count, BLOCKS), threads, 1, BLOCK_ROWS_SHARED)


def _strided(
    family: str, spec: str, dtype: str, shape: tuple[int, int, int], places: list[Place]
) -> Plan:
    outer, _, inner = shape
    size = SIZES[dtype]
    lanes = VECTOR // size
    whole = inner % lanes == 0 and all(p.inner == size and p.aligned(shape, False) for p in places)
    lanes = lanes if whole else 1
    block = 128
    groups = outer * (inner // lanes)
    shared = _sums(block) + STRIDED_LANE * lanes * block
    return Plan(f"{family}{lanes}{spec}", _grid(groups, block), block, 1, shared)


STRIDED_LANE = 24  # bytes of shared memory in which a thread keeps what it knows of a position


def _grid(count: int, per_block: int) -> int:
    return max(1, min(math.ceil(count / per_block), BLOCKS))


def _sums(block: int) -> int:
    """Bytes in which the warps of a block exchange their sums."""
    return SCRATCH_BLOCK * block // WARP
