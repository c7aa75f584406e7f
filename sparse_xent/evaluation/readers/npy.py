"""Reads `.npy` files block by block, in any order of the blocks.

A header may come from anyone: what it says is checked, and compared with the size of the file.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from sparse_xent.evaluation.readers.columns import Choice
from sparse_xent.evaluation.readers.source import Array, Box, FileError, Source, reason, size_of

_AXES, _LONGEST = 32, (1 << 63) - 1  # of an array in memory (NumPy before 2.0: 32 axes)
_HEADER = 10_000  # the most bytes of a header; numpy.load has the same limit


def open_source(file: str, key: str | None, choice: Choice) -> Source:
    """The array in a `.npy` file."""
    return Stored(file, file)


@dataclass(frozen=True)
class Header:
    """What a `.npy` header says of its array.

    Attributes:
        shape: The array's shape.
        fortran: Whether its first axis runs fastest.
        dtype: Its dtype in this machine's byte order.
        swapped: Whether its bytes are in the other order.
        offset: From the header's first byte to the array's.
    """

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    swapped: bool
    offset: int


class Stored(Source):
    """An array that lies in its file as it would in memory.

    Args:
        name: The name for messages.
        file: The file.
        start: Where in it the `.npy` header begins.
        size: How many bytes header and array have; to the end of the file by default.
    """

    def __init__(self, name: str, file: str, start: int = 0, size: int | None = None) -> None:
        with ExitStack() as opened:
            self._file = opened.enter_context(open(file, "rb", buffering=0))
            length = os.fstat(self._file.fileno()).st_size
            self._file.seek(start)
            header = read_header(self._file, name, length - start if size is None else size)
            self._opened = opened.pop_all()
        super().__init__(name, header.shape, header.dtype, fortran=header.fortran)
        self._start, self._swapped = start + header.offset, header.swapped
        self._memory = np.empty(0, np.uint8)  # reused: fresh memory costs page faults

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

    def __del__(self) -> None:
        if hasattr(self, "_opened"):  # else the header was refused
            self.close()

    def read(self, box: Box) -> Array:
        """The elements of a box."""
        if self.fortran:  # the same file, read in C order, holds the transpose
            return self._block(self.shape[::-1], box[::-1]).T
        return self._block(self.shape, box)

    def _block(self, shape: tuple[int, ...], box: Box) -> Array:
        """A box of an array of this shape in C order, run by run."""
        lengths = tuple(s.stop - s.start for s in box)
        size = math.prod(lengths) * self.dtype.itemsize
        if self._memory.size < size:
            self._memory = np.empty(size, np.uint8)
        block: Array = self._memory[:size].view(self.dtype).reshape(lengths)
        # Each step of the axes before `cut` is one run: the axes after it are whole.
        cut = max((a for a in range(len(shape)) if lengths[a] != shape[a]), default=0)
        run = math.prod(lengths[cut:]) * self.dtype.itemsize
        offsets: Array = np.array(self._start, np.int64)
        for a, part in enumerate(box):
            steps = np.arange(part.start, part.stop if a < cut else part.start + 1)
            stride = math.prod(shape[a + 1 :]) * self.dtype.itemsize
            offsets = np.add.outer(offsets, steps * stride)
        memory = self._memory.data
        for k, offset in enumerate(offsets.ravel().tolist() if size else ()):
            self._fill(memory[k * run : (k + 1) * run], offset)
        if self._swapped:
            block.byteswap(inplace=True)
        block.flags.writeable = False
        return block

    def _fill(self, memory: memoryview, offset: int) -> None:
        try:
            self._file.seek(offset)
            while len(memory) and (got := self._file.readinto(memory)):
                memory = memory[got:]
        except OSError as error:
            raise FileError(f"{self.name} cannot be read: {reason(error)}") from None
        if len(memory):
            raise FileError(f"{self.name} was cut short while it was read")


def read_header(file: IO[bytes], name: str, size: int) -> Header:
    """Read a `.npy` header and compare what it says with the `size` bytes that there are."""
    start = file.tell()
    try:
        version, text = _header_text(file)
        shape, fortran, dtype = _described(version, text)
    except ValueError as error:
        raise FileError(f"{name} is not a .npy file, or is damaged: {reason(error)}") from None
    if dtype.hasobject:
        raise FileError(f"{name} must hold real numbers, got pickled Python objects, never read")
    offset = file.tell() - start
    there, promised = size - offset, math.prod(shape) * dtype.itemsize
    longest = math.prod(n for n in shape if n) * dtype.itemsize
    empty = not promised and (len(shape) > _AXES or longest > _LONGEST)  # NumPy makes no such array
    if min(shape, default=0) < 0 or dtype.itemsize == 0 or empty:
        raise FileError(f"{name} is damaged: its header says {_brief(shape)}, dtype {dtype}")
    if len(shape) > _AXES:
        raise FileError(f"{name} must have at most {_AXES} axes, got {len(shape)}")
    if there != promised:
        fault = "is truncated" if there < promised else "holds more than its array"
        raise FileError(
            f"{name} {fault}: {size_of(promised)} by its header, {_brief(shape)} of {dtype}, "
            f"but {size_of(there)} in the file"
        )
    swapped, native = not dtype.isnative, dtype.newbyteorder("=")
    return Header(shape, fortran and len(shape) > 1, native, swapped, offset)


def _header_text(file: IO[bytes]) -> tuple[tuple[int, int], bytes]:
    """A header's version and text; ValueError where there is none."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"version {version} of the format is not known here")
    length = int.from_bytes(_exactly(file, 2 if version == (1, 0) else 4), "little")
    if length > _HEADER:
        raise ValueError(f"its header says that it is {size_of(length)} long")
    return version, _exactly(file, length)


def _described(
    version: tuple[int, int], text: bytes
) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, order and dtype by a header of any version; ValueError for what is wrong with it.

    Versions differ in how long the text may be and how it is encoded. NumPy has no public reader
    of version 3, whose UTF-8 is for names of columns: numbers have none, and it reads as version 2.
    """
    try:
        if version == (3, 0):
            text = text.decode("utf-8").encode("latin-1", "replace")
        with warnings.catch_warnings():  # of Python 2, whose headers say 3L, and of old dtypes
            warnings.simplefilter("ignore")
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(
                io.BytesIO(len(text).to_bytes(4, "little") + text)
            )
        return tuple(map(int, shape)), bool(fortran), dtype
    except Exception as error:  # a hostile text makes NumPy raise errors of ast and tokenize, too
        raise ValueError(reason(error)) from None


def _exactly(file: IO[bytes], size: int) -> bytes:
    taken = b""
    while len(taken) < size:
        more = file.read(size - len(taken))
        if not more:
            raise ValueError("the file ends within its header")
        taken += more
    return taken


def _brief(shape: tuple[int, ...]) -> str:
    """A shape, for a message: in a hostile header it has thousands of axes, or of digits."""
    text = f"shape {shape}" if len(shape) <= _AXES else f"a shape of {len(shape)} axes"
    return text if len(text) <= 200 else f"{text[:200]}..."
