"""Decides what a file holds, and brings it to memory block by block.

Every format is a `Source`: a shape, a dtype, and `read`, which returns a box of it. Files are not
trusted: only regular files are opened, nothing is unpickled, what a header promises is held against
the file's size before memory is asked for, and what can only be read from front to back is never
held whole beyond `HELD` bytes. A refusal is a `FileError`, one sentence that begins with the file's
name.

    .npy                     memory-mapped; the blocks are views
    .npz, stored member      memory-mapped where it stands in the archive
    .npz, compressed member  inflated block by block, along its first axis

Tables of text are opened by `tables`. To add a format, write a `Source` and enter its opener in
`OPENERS`, or hand it to `open_source`.
"""

from __future__ import annotations

import lzma
import math
import mmap
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Box: TypeAlias = tuple[slice, ...]

HELD = 1 << 30  # bytes held of a file that goes from front to back only, where it is needed whole
_SCATTERED = 1 << 27  # bytes of pages that a view of many short runs may keep mapped
_AROUND = 1 << 21  # bytes that Linux may map around a byte that is touched (a huge page)
_CHUNK = 1 << 20  # bytes of an inflated member that are taken at once


class FileError(ValueError):
    """A file that cannot be read as what it is given for."""


class Source:
    """An array in a file.

    Args:
        name: The file's name as the user wrote it.
        shape: The array's shape.
        dtype: The dtype of what `read` returns.
        fortran: Whether it is the first axis that runs fastest in the file.
        sequential: Whether boxes must be read in order, as slices of the first axis alone.
    """

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
        """The elements of a box, one slice an axis; the array is not to be written to."""
        raise NotImplementedError

    def release(self) -> None:
        """Let go of the memory behind the boxes read so far, which are not used again."""

    def close(self) -> None:
        """Close the file; nothing is read from it afterwards."""

    def place(self, position: tuple[int, ...]) -> str:
        """Where an element stands, for a message."""
        return f"{position}"

    def whole(self) -> Source:
        """The same array, to be read in any order."""
        if self.nbytes > HELD:
            raise FileError(
                f"{self.name} is too large for this order of axes: its {size_of(self.nbytes)} can "
                f"only be read from front to back and would have to be held, where {size_of(HELD)} "
                "is the most that is; save it with numpy.save, and it is memory-mapped"
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


Opener: TypeAlias = Callable[[str, str | None], Source]  # of a file and a key within it


def open_source(
    path: str | os.PathLike[str],
    *,
    bfloat16: bool = False,
    openers: Mapping[str, Opener] | None = None,
) -> Source:
    """Open a file by its suffix.

    Args:
        path: A `.npy` or `.npz` file, or one of `openers`; `FILE.npz:key` names one array of
            several.
        bfloat16: Whether raw records of two bytes, as NumPy saves bfloat16, are bfloat16.
        openers: What opens other files, by their suffix.

    Returns:
        The array in the file: real numbers.

    Raises:
        FileError: There is no such file, or it is damaged, or holds something else.
    """
    file, key = split(path)
    known = OPENERS | dict(openers or {})
    opener = known.get(Path(file).suffix.lower())
    if opener is None:
        raise FileError(f"{file} must be a file whose name ends in {', '.join(known)}")
    _check_regular(file)
    try:
        source = opener(file, key)
    except OSError as error:
        raise FileError(f"{file} cannot be read: {error.strerror or error}") from None
    try:
        return _of_numbers(source, bfloat16=bfloat16)
    except FileError:
        source.close()
        raise


def split(path: str | os.PathLike[str]) -> tuple[str, str | None]:
    """The file and the key of `FILE.npz:key`."""
    name = os.fspath(path)
    named = re.fullmatch(r"(.+\.npz):(.+)", name, re.IGNORECASE | re.DOTALL)
    return (named[1], named[2]) if named else (name, None)


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
    """Bytes, for a reader."""
    size, unit = float(nbytes), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{nbytes} bytes" if unit == "bytes" else f"{size:.1f} {unit}"


def _check_regular(file: str) -> None:
    """Refuse what is not a regular, non-empty file; a pipe would be waited for without end."""
    try:
        status = os.stat(file)
    except FileNotFoundError:
        raise FileError(f"{file} does not exist") from None
    except (OSError, ValueError) as error:
        raise FileError(f"{file!r} cannot be read: {getattr(error, 'strerror', error)}") from None
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise FileError(f"{file} must be a regular file, got {what}")
    if status.st_size == 0:
        raise FileError(f"{file} is empty (0 bytes)")


# ---- numbers ------------------------------------------------------------------------------------


def _of_numbers(source: Source, *, bfloat16: bool) -> Source:
    """The source, if it holds real numbers; raw records of two bytes are bfloat16 if so asked."""
    dtype = source.dtype
    if dtype.kind in "biuf":
        return source
    if dtype.kind == "V" and dtype.names is None and dtype.itemsize == 2:
        if bfloat16:
            return _Widened(source)
        raise FileError(
            f"{source.name} holds raw records of 2 bytes ({dtype.str}), as numpy.save writes "
            "bfloat16: say --bfloat16 if they are such predictions, or save it in another dtype"
        )
    kinds = {"c": "complex numbers", "U": "strings", "S": "strings", "M": "dates", "m": "durations"}
    what = kinds.get(dtype.kind, f"records of dtype {dtype}")
    raise FileError(f"{source.name} must hold real numbers, got {what}")


class _Widened(Source):
    """bfloat16 as float32, whose upper half it is."""

    def __init__(self, source: Source) -> None:
        super().__init__(
            source.name,
            source.shape,
            np.dtype(np.float32),
            fortran=source.fortran,
            sequential=source.sequential,
        )
        self._source = source

    @property
    def stored(self) -> str:
        return "bfloat16"

    def read(self, box: Box) -> Array:
        bits = self._source.read(box).view("<u2")
        widened: Array = np.left_shift(bits, 16, dtype=np.uint32).view(np.float32)
        return widened

    def release(self) -> None:
        self._source.release()

    def close(self) -> None:
        self._source.close()


# ---- .npy ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _NpyHeader:
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int  # from the header's first byte to the array's


class _Mapped(Source):
    """An array that lies in its file as it would in memory.

    Args:
        name: The name for messages.
        file: The file.
        start: Where in it the `.npy` header begins.
        size: How many bytes belong to header and array; to the end of the file by default.
    """

    def __init__(self, name: str, file: str, start: int = 0, size: int | None = None) -> None:
        with open(file, "rb") as opened:
            length = os.fstat(opened.fileno()).st_size
            opened.seek(start)
            header = _read_header(opened, name, length - start if size is None else size)
            if size is not None and start + size > length:
                raise FileError(f"{name} is truncated: the archive ends within it")
            self._pages = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        super().__init__(name, header.shape, header.dtype, fortran=header.fortran)
        order: Literal["C", "F"] = "F" if header.fortran else "C"
        offset = start + header.offset
        self._array: Array = np.ndarray(
            header.shape, header.dtype, self._pages, offset, order=order
        )

    def read(self, box: Box) -> Array:
        block = self._array[box]
        run = _run(block)
        mapped = min(self._array.nbytes, block.nbytes // run * (run + _AROUND))
        if run < block.nbytes and mapped > _SCATTERED:
            return self._gathered(block, run)
        return block if block.flags.aligned else block.copy("K")

    def release(self) -> None:
        """Unmap the pages touched; otherwise every page of the file would come to count as used."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._pages.madvise(mmap.MADV_DONTNEED)

    def _gathered(self, block: Array, run: int) -> Array:
        """A copy of a block of many short runs, made part by part.

        A view would map a page and its surroundings for every run: gigabytes for a few rows of a
        Fortran-order matrix of very many columns.
        """
        copy = np.empty_like(block, order="K")
        widest = max(range(block.ndim), key=lambda a: (block.shape[a] > 1, block.strides[a]))
        runs = max(1, block.nbytes // run // block.shape[widest])
        mapped = min(runs * (run + _AROUND), block.strides[widest])  # for one step along that axis
        step = max(1, _SCATTERED // 4 // mapped)
        for start in range(0, block.shape[widest], step):
            part = (slice(None),) * widest + (slice(start, start + step),)
            copy[part] = block[part]
            self.release()
        return copy


def _run(block: Array) -> int:
    """Bytes that follow one another in memory, from the block's first element on."""
    run = block.itemsize
    for stride, n in sorted(zip(block.strides, block.shape, strict=True)):
        if n > 1:
            if stride != run:
                break
            run *= n
    return run


def _read_header(file: IO[bytes], name: str, size: int) -> _NpyHeader:
    """Read a `.npy` header and hold what it promises against the `size` bytes there are."""
    readers: dict[tuple[int, int], Callable[..., tuple[tuple[int, ...], bool, np.dtype[Any]]]] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    start = file.tell()
    try:
        version = np.lib.format.read_magic(file)
        if version not in readers:
            raise ValueError(f"version {version} of the format is for records, not numbers")
        shape, fortran, dtype = readers[version](file)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        why = str(error).partition("\n")[0]
        raise FileError(f"{name} is not a .npy file, or is damaged: {why}") from None
    if dtype.hasobject:
        raise FileError(f"{name} must hold real numbers, got pickled Python objects, never read")
    if min(shape, default=0) < 0 or dtype.itemsize == 0:
        raise FileError(f"{name} is damaged: its header says shape {shape}, dtype {dtype}")
    offset = file.tell() - start
    there, promised = size - offset, math.prod(shape) * dtype.itemsize
    if there != promised:
        fault = "is truncated" if there < promised else "holds more than its array"
        raise FileError(
            f"{name} {fault}: {size_of(promised)} by its header, shape {shape} of {dtype}, "
            f"but {size_of(there)} in the file"
        )
    return _NpyHeader(shape, fortran and len(shape) > 1, dtype, offset)


def _open_npy(file: str, key: str | None) -> Source:
    return _Mapped(file, file)


# ---- .npz ---------------------------------------------------------------------------------------


class _Inflated(Source):
    """A compressed member of a `.npz` file, inflated as it is read."""

    def __init__(self, name: str, file: str, member: zipfile.ZipInfo) -> None:
        with ExitStack() as opened, _damage_told(name):
            archive = opened.enter_context(zipfile.ZipFile(file))
            self._stream = opened.enter_context(archive.open(member))
            header = _read_header(self._stream, name, member.file_size)
            self._opened = opened.pop_all()
        super().__init__(name, header.shape, header.dtype, fortran=header.fortran, sequential=True)

    def close(self) -> None:
        self._opened.close()

    def read(self, box: Box) -> Array:
        shape = (box[0].stop - box[0].start, *self.shape[1:]) if box else ()
        flat = np.empty(math.prod(shape) * self.dtype.itemsize, np.uint8)
        with _damage_told(self.name):
            for start in range(0, flat.size, _CHUNK):
                part = flat[start : start + _CHUNK]
                inflated = self._stream.read(part.size)
                if len(inflated) < part.size:
                    raise EOFError("it ends too early")
                part[:] = np.frombuffer(inflated, np.uint8)
        array = flat.view(self.dtype)
        return array.reshape(shape, order="F" if self.fortran else "C")


@contextmanager
def _damage_told(name: str) -> Iterator[None]:
    """What the decompressors raise, as a FileError."""
    try:
        yield
    except FileError:
        raise
    except NotImplementedError as error:
        raise FileError(f"{name} is compressed in a way that is not known here: {error}") from None
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError) as error:
        raise FileError(f"{name} is damaged: {error}") from None


def _open_npz(file: str, key: str | None) -> Source:
    with _damage_told(file), zipfile.ZipFile(file) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
    arrays = {member.filename.removesuffix(".npy"): member for member in members}
    if key is None and len(arrays) != 1:
        held = f"{len(arrays)} arrays" if arrays else "no array"
        way_out = f": say which, {file}:{next(iter(arrays))}" if arrays else ""
        raise FileError(f"{file} must hold one array, got {held}{_listed(arrays)}{way_out}")
    key = next(iter(arrays)) if key is None else key.removesuffix(".npy")
    if key not in arrays:
        raise FileError(f"{file} holds no array {key!r}, only {_listed(arrays).strip(' ()')}")
    member, name = arrays[key], f"{file}:{key}"
    if member.flag_bits & 1:
        raise FileError(f"{name} is encrypted: save it without a password")
    if member.compress_type == zipfile.ZIP_STORED:
        return _Mapped(name, file, _start(file, name, member), member.file_size)
    source = _Inflated(name, file, member)
    return source.whole() if source.fortran else source


def _start(file: str, name: str, member: zipfile.ZipInfo) -> int:
    """Where a member's bytes begin: behind its local header, which alone knows its own length."""
    with open(file, "rb") as opened:
        opened.seek(member.header_offset)
        local = opened.read(30)
    if len(local) < 30 or not local.startswith(b"PK\3\4"):
        raise FileError(f"{name} is damaged: the archive's directory points at something else")
    name_length, extra_length = struct.unpack("<HH", local[26:])
    return member.header_offset + 30 + int(name_length) + int(extra_length)


def _listed(arrays: dict[str, zipfile.ZipInfo]) -> str:
    names = [name if name.isprintable() else repr(name) for name in list(arrays)[:8]]
    more = ", ..." if len(arrays) > 8 else ""
    return f" ({', '.join(names)}{more})" if names else ""


OPENERS: dict[str, Opener] = {".npy": _open_npy, ".npz": _open_npz}
