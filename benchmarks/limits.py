"""What the machine can do at best: read an array, copy it, or read and write it in place.

A percentage of a limit is worth what the limit is worth. So the loops are written as LLVM vectors
with prefetches and non-temporal stores, not left to what a compiler makes of them; threads take
chunks from a shared counter, so that none waits for a late one; and of several plausible variants
the fastest counts. Of the library that is measured there are its threads alone, which are placed on
processors as in its own calls.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic

from sparse_xent.engines.threads import run

LINE = 64  # bytes of a cache line; a vector is one line
UNROLL = 4  # lines a step: enough loads in flight, and independent sums

_WORDS = ir.VectorType(ir.IntType(64), LINE // 8)
_I32 = ir.IntType(32)


def _address(builder: Any, at: Any, line: int) -> Any:
    at = builder.add(at, ir.Constant(at.type, line * LINE))
    return builder.inttoptr(at, _WORDS.as_pointer())


def _prefetch(builder: Any, at: Any, write: bool) -> None:
    pointer = builder.inttoptr(at, ir.IntType(8).as_pointer())
    signature = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
    ask = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
    builder.call(ask, [pointer, *(ir.Constant(_I32, n) for n in (int(write), 3, 1))])


def _steps(builder: Any, count: Any, bytes_of_a_step: int = UNROLL * LINE) -> Any:
    """Offsets 0, `bytes_of_a_step`, ... below count bytes."""
    zero, step = (ir.Constant(count.type, n) for n in (0, bytes_of_a_step))
    return cgutils.for_range_slice(builder, zero, count, step, intp=count.type)


@intrinsic
def _read(typing_context, source, count, apart, ahead):  # type: ignore[no-untyped-def]
    """Sum of the 64-bit words of `count` bytes, prefetching `ahead` bytes further on.

    From as many places as a step has lines, `apart` bytes from each other and read side by side;
    where apart is 0, from one.
    """

    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        source, count, apart, ahead = args
        blank = ir.Constant(_WORDS, [0] * _WORDS.count)
        sums = [cgutils.alloca_once_value(builder, blank) for _ in range(UNROLL)]

        def add(offset: Any, between: Any) -> None:
            for line, total in enumerate(sums):
                place = builder.mul(between, ir.Constant(between.type, line))
                here = builder.add(builder.add(source, offset), place)
                _prefetch(builder, builder.add(here, ahead), False)
                words = builder.load(_address(builder, here, 0), align=8)
                builder.store(builder.add(builder.load(total), words), total)

        together = builder.icmp_signed("==", apart, ir.Constant(apart.type, 0))
        with builder.if_else(together) as (one, several):
            with one, _steps(builder, count) as (offset, _):
                add(offset, ir.Constant(apart.type, LINE))
            with several, _steps(builder, apart, LINE) as (offset, _):
                add(offset, apart)
        total = builder.load(sums[0])
        for other in sums[1:]:
            total = builder.add(total, builder.load(other))
        lanes = [builder.extract_element(total, ir.Constant(_I32, k)) for k in range(_WORDS.count)]
        result = lanes[0]
        for lane in lanes[1:]:
            result = builder.add(result, lane)
        return result

    return types.int64(*[types.int64] * 4), emit


def _copier(stream: bool) -> Any:
    @intrinsic
    def copy(typing_context, source, target, count, ahead):  # type: ignore[no-untyped-def]
        """Copy `count` bytes to a 64-byte boundary; `stream`: past the caches."""

        def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
            source, target, count, ahead = args
            with _steps(builder, count) as (offset, _):
                here, to = builder.add(source, offset), builder.add(target, offset)
                there = builder.add(here, ahead)
                lines = []
                for line in range(UNROLL):
                    at = builder.add(there, ir.Constant(ahead.type, line * LINE))
                    _prefetch(builder, at, False)
                    lines.append(builder.load(_address(builder, here, line), align=8))
                for line, words in enumerate(lines):
                    written = builder.store(words, _address(builder, to, line), align=LINE)
                    if stream:
                        mark = builder.module.add_metadata([ir.Constant(_I32, 1)])
                        written.set_metadata("nontemporal", mark)
            builder.fence("seq_cst")
            return ir.Constant(ir.IntType(64), 0)

        return types.int64(*[types.int64] * 4), emit

    return copy


_stream, _store = _copier(True), _copier(False)


@intrinsic
def _take(typing_context, counter):  # type: ignore[no-untyped-def]
    """The number at the address `counter`, which every caller finds one higher."""

    def emit(context, builder, signature, args):  # type: ignore[no-untyped-def]
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(types.int64), emit


@njit(nogil=True)
def _read_share(source, target, size, chunk, ahead, counter):  # type: ignore[no-untyped-def]
    total = 0
    start = _take(counter) * chunk
    while start < size:
        total += _read(source + start, min(chunk, size - start), 0, ahead)
        start = _take(counter) * chunk
    return total


@njit(nogil=True)
def _read_at_4_places_share(source, target, size, chunk, ahead, counter):  # type: ignore[no-untyped-def]
    total = 0
    start = _take(counter) * chunk
    while start < size:
        count = min(chunk, size - start)
        total += _read(source + start, count, count // UNROLL, ahead)
        start = _take(counter) * chunk
    return total


@njit(nogil=True)
def _stream_share(source, target, size, chunk, ahead, counter):  # type: ignore[no-untyped-def]
    start = _take(counter) * chunk
    while start < size:
        _stream(source + start, target + start, min(chunk, size - start), ahead)
        start = _take(counter) * chunk
    return 0


@njit(nogil=True)
def _store_share(source, target, size, chunk, ahead, counter):  # type: ignore[no-untyped-def]
    start = _take(counter) * chunk
    while start < size:
        _store(source + start, target + start, min(chunk, size - start), ahead)
        start = _take(counter) * chunk
    return 0


@dataclass(frozen=True)
class Variant:
    """One way to move the bytes: chunk 0 halves them among the threads; ahead: of the prefetch."""

    share: Callable[..., int]
    chunk: int
    ahead: int

    def __str__(self) -> str:
        cut = f"chunks of {self.chunk >> 10} KiB" if self.chunk else "equal shares"
        name = self.share.__name__.strip("_").removesuffix("_share").replace("_", " ")
        return f"{name}, {cut}, prefetch {self.ahead >> 10} KiB ahead"


KIB = 1024
READ = [
    Variant(_read_share, chunk, ahead)
    for chunk, ahead in [(256 * KIB, 4 * KIB), (2048 * KIB, 4 * KIB), (0, 4 * KIB), (256 * KIB, 0)]
]
READ += [Variant(_read_at_4_places_share, chunk, 2 * KIB) for chunk in (256 * KIB, 2048 * KIB)]
COPY = [
    *(
        Variant(_stream_share, chunk, ahead)
        for chunk, ahead in [(256 * KIB, 4 * KIB), (0, 4 * KIB)]
    ),
    Variant(_stream_share, 256 * KIB, 0),
    Variant(_store_share, 256 * KIB, 4 * KIB),  # the faster one where the caches hold much of it
]
UPDATE = [Variant(_store_share, 256 * KIB, ahead) for ahead in (4 * KIB, 0)]


def move(variant: Variant, source: np.ndarray, target: np.ndarray | None, threads: int) -> int:
    """Carry out the variant once, on this library's threads.

    A read returns the sum of the array's 64-bit words.

    Arrays are dense, in any order. The last bytes that fill no step are left out: below 320 of
    them.
    """
    step = UNROLL * LINE
    begin = source.ctypes.data
    skipped = -begin % LINE
    to = 0 if target is None else target.ctypes.data + (skipped := -target.ctypes.data % LINE)
    size = max(0, source.nbytes - skipped) // step * step
    chunk = variant.chunk or max(step, -(-size // (threads * step)) * step)
    counter = np.zeros(LINE, np.int64)  # alone on its line
    args = (begin + skipped, to, size, chunk, variant.ahead, counter[8:].ctypes.data)
    totals: list[int] = []
    run(lambda *share: totals.append(variant.share(*share[:-1])), [args] * threads, threads)
    return sum(totals)
