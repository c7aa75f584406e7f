"""An array in a file, whatever the format: its shape, its dtype, and blocks of its elements."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Box: TypeAlias = tuple[slice, ...]

HELD = 1 << 30  # bytes held in memory of a file that can only be read in order, but is needed whole


class FileError(ValueError):
    """A file that cannot be read as what it is given for."""


class Source:
    """An array in a file.

    Args:
        name: The file's name as the user wrote it.
        shape: The array's shape.
        dtype: The dtype of what `read` returns.
        fortran: Whether the first axis runs fastest in the file.
        sequential: Whether boxes must be read in order, as slices of the first axis alone.

    Attributes:
        tabular: Whether the file has lines and columns, which options can choose.
    """

    tabular = False

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        *,
        fortran: bool = False,
        sequential: bool = False,
    ) -> None:
        self.name, self.shape, self.dtype = name, shape, dtype
        self.fortran, self.sequential = fortran, sequential

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def stored(self) -> str:
        """The name of the dtype in the file."""
        return self.dtype.name

    def read(self, box: Box) -> Array:
        """The elements of a box, one slice an axis: read-only, and valid until the next call."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the file; nothing is read from it afterwards."""

    def place(self, position: tuple[int, ...]) -> str:
        """Where an element stands, for a message."""
        return f"{position}"

    def several(self) -> str:
        """What to say where one column was expected and there are more."""
        return ""

    def check_lines(self) -> None:
        """FileError for a line that is no row of the array."""

    def whole(self) -> Source:
        """The same array, held in memory, so that it can be read in any order."""
        if self.nbytes > HELD:
            raise FileError(
                f"{self.name} is too large for this order of axes: its {size_of(self.nbytes)} can "
                f"only be read from front to back and would have to be held, where {size_of(HELD)} "
                "is the most that is; save it with numpy.save, and any order will do"
            )
        return _Held(self, self.read(tuple(map(slice, (0,) * len(self.shape), self.shape))))


class _Held(Source):
    """An array in memory, read once from front to back."""

    def __init__(self, source: Source, array: Array) -> None:
        super().__init__(source.name, source.shape, source.dtype, fortran=source.fortran)
        self._source, self._array = source, array

    def read(self, box: Box) -> Array:
        return self._array[box]

    @property
    def stored(self) -> str:
        return self._source.stored

    def place(self, position: tuple[int, ...]) -> str:
        return self._source.place(position)


def numbers(source: Source, *, bfloat16: bool) -> Source:
    """The source if it holds real numbers; FileError otherwise.

    Args:
        source: The array.
        bfloat16: Whether raw records of two bytes are bfloat16.
    """
    dtype = source.dtype
    if dtype.kind in "biuf":
        return source
    plain = dtype.names is None and dtype.subdtype is None
    if dtype.kind == "V" and plain and dtype.itemsize == 2:
        if bfloat16:
            return _Widened(source)
        raise FileError(
            f"{source.name} holds raw records of 2 bytes ({dtype.str}), as numpy.save writes "
            "bfloat16: say --bfloat16 if they are such predictions, or save it in another dtype"
        )
    kinds = {"c": "complex numbers", "U": "strings", "S": "strings", "M": "dates", "m": "durations"}
    what = kinds.get(dtype.kind, f"records of dtype {str(dtype)[:100]}")
    raise FileError(f"{source.name} must hold real numbers, got {what}")


class _Widened(Source):
    """bfloat16 as float32, whose upper half it is."""

    stored = "bfloat16"

    def __init__(self, source: Source) -> None:
        order = {"fortran": source.fortran, "sequential": source.sequential}
        super().__init__(source.name, source.shape, np.dtype(np.float32), **order)
        self._source = source

    def read(self, box: Box) -> Array:
        bits = self._source.read(box).view("<u2")
        widened: Array = np.left_shift(bits, 16, dtype=np.uint32).view(np.float32)
        return widened

    def close(self) -> None:
        self._source.close()


def boxes(shape: tuple[int, ...], positions: int, *, fortran: bool = False) -> Iterator[Box]:
    """Cut an array into boxes of at most `positions`, in the order in which it lies in memory.

    The slowest axis is cut, and the next only where one step of it is too much: so each box is one
    run of an array of this shape and order.
    """
    axes = list(range(len(shape)))[:: -1 if fortran else 1]  # slowest first
    if not axes:
        yield ()
        return
    behind = [math.prod(shape[a] for a in axes[k + 1 :]) for k in range(len(axes))]
    cut = next(k for k, size in enumerate(behind) if size <= max(positions, 1))
    length = shape[axes[cut]]
    step = max(1, positions // max(behind[cut], 1))
    for index in np.ndindex(*(shape[a] for a in axes[:cut])):
        for start in range(0, length, step):
            box = [slice(0, n) for n in shape]
            for a, i in zip(axes, index, strict=False):
                box[a] = slice(i, i + 1)
            box[axes[cut]] = slice(start, min(start + step, length))
            yield tuple(box)


def size_of(nbytes: int) -> str:
    """A number of bytes as text, with a unit."""
    size, unit = float(min(nbytes, 1 << 100)), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{nbytes} bytes" if unit == "bytes" else f"{size:.1f} {unit}"


def reason(error: Exception) -> str:
    """The message of another library's error, on one line."""
    text = str(getattr(error, "strerror", None) or error).partition("\n")[0]
    return text[:200] or type(error).__name__
