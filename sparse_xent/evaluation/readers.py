"""Decides what a file holds, and brings it to memory block by block.

Every format is a `Source`: a shape, a dtype, and `read`, which returns a box of it. Files are not
trusted: only regular files are opened, nothing is unpickled, what a header promises is held against
the file's size before memory is asked for, and what can only be read from front to back is never
held whole beyond `HELD` bytes. A refusal is a `FileError`, one sentence that begins with the file's
name.

Nothing is memory-mapped: where another process cuts a mapped file short, reading it ends this one
(SIGBUS). `unchanged` compares what a file was before it was read with what it is afterwards.

    .npy                     read block by block, in any order
    .npz, stored member      the same, where it stands in the archive
    .npz, compressed member  inflated block by block, along its first axis

Tables of text are opened by `tables`. To add a format, write a `Source` and enter its opener in
`OPENERS`, or hand it to `open_source`.
"""

from __future__ import annotations

import io
import math
import os
import re
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Box: TypeAlias = tuple[slice, ...]

HELD = 1 << 30  # bytes held of a file that goes from front to back only, where it is needed whole
_AXES, _LONGEST = 32, (1 << 63) - 1  # of an array in memory (NumPy before 2.0: 32 axes)
_HEADER = 10_000  # bytes of a .npy header, as numpy.load has it: more is no description of numbers
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
        """The elements of a box, one slice an axis: not to be written to, good till the next."""
        raise NotImplementedError

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
    except (FileError, MemoryError):
        raise
    except Exception as error:
        raise FileError(f"{file} cannot be read: {_reason(error)}") from None
    try:
        return _of_numbers(source, bfloat16=bfloat16)
    except FileError:
        source.close()
        raise


def split(path: str | os.PathLike[str]) -> tuple[str, str | None]:
    """The file and the key of `FILE.npz:key`."""
    name = os.fsdecode(path)
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
    size, unit = float(min(nbytes, 1 << 100)), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{nbytes} bytes" if unit == "bytes" else f"{size:.1f} {unit}"


def _reason(error: Exception) -> str:
    """What another library says, on one line."""
    text = str(getattr(error, "strerror", None) or error).partition("\n")[0]
    return text[:200] or type(error).__name__


@contextmanager
def unchanged(files: list[str]) -> Iterator[None]:
    """FileError where one of the files was written to, replaced or removed meanwhile.

    It takes the place of a ValueError: what else seems wrong with a file may come from that.
    """
    before = {file: _status(file) for file in files}
    try:
        yield
    except ValueError:
        _check_unchanged(before)
        raise
    _check_unchanged(before)


def _check_unchanged(statuses: dict[str, os.stat_result | None]) -> None:
    for file, before in statuses.items():
        after = _status(file)
        if before is None or _identity(before) == _identity(after):
            continue
        if after is None:
            how = "was removed"
        elif not os.path.samestat(before, after):
            how = "was replaced by another file"
        elif before.st_size != after.st_size:
            how = f"went from {before.st_size:,} to {after.st_size:,} bytes"
        else:
            how = "was written to"
        raise FileError(f"{file} {how} while it was read: try again when it is complete") from None


def _status(file: str) -> os.stat_result | None:
    try:
        return os.stat(file)
    except (OSError, ValueError):
        return None


def _identity(status: os.stat_result | None) -> tuple[int, ...] | None:
    return status and (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


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

    def close(self) -> None:
        self._source.close()


# ---- .npy ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _NpyHeader:
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int  # from the header's first byte to the array's


class _Stored(Source):
    """An array that lies in its file as it would in memory.

    Args:
        name: The name for messages.
        file: The file.
        start: Where in it the `.npy` header begins.
        size: How many bytes belong to header and array; to the end of the file by default.
    """

    def __init__(self, name: str, file: str, start: int = 0, size: int | None = None) -> None:
        with ExitStack() as opened:
            self._file = opened.enter_context(open(file, "rb", buffering=0))
            length = os.fstat(self._file.fileno()).st_size
            self._file.seek(start)
            header = _read_header(self._file, name, length - start if size is None else size)
            self._opened = opened.pop_all()
        super().__init__(name, header.shape, _native(header.dtype), fortran=header.fortran)
        self._start, self._foreign = start + header.offset, not header.dtype.isnative
        self._memory = np.empty(0, np.uint8)  # of the last block; fresh memory costs a page fault

    def close(self) -> None:
        self._opened.close()

    def __del__(self) -> None:
        if hasattr(self, "_opened"):  # else the header was refused
            self.close()

    def read(self, box: Box) -> Array:
        if self.fortran:  # the same file, read as C order, holds the transpose
            return self._block(self.shape[::-1], box[::-1]).T
        return self._block(self.shape, box)

    def _block(self, shape: tuple[int, ...], box: Box) -> Array:
        """A box of an array of this shape in C order, run by run."""
        lengths = tuple(s.stop - s.start for s in box)
        size = math.prod(lengths) * self.dtype.itemsize
        if self._memory.size < size:
            self._memory = np.empty(size, np.uint8)
        block: Array = self._memory[:size].view(self.dtype).reshape(lengths)
        # Axes below `cut` are stepped through, those above are whole: each step is one run.
        cut = max((a for a in range(len(shape)) if lengths[a] != shape[a]), default=0)
        run = math.prod(lengths[cut:]) * self.dtype.itemsize
        offsets: Array = np.array(self._start, np.int64)
        for a, part in enumerate(box):
            steps = np.arange(part.start, part.stop if a < cut else part.start + 1)
            stride = math.prod(shape[a + 1 :]) * self.dtype.itemsize
            offsets = np.add.outer(offsets, steps * stride)
        room = self._memory.data
        for k, offset in enumerate(offsets.ravel().tolist() if size else ()):
            self._fill(room[k * run : (k + 1) * run], offset)
        if self._foreign:
            block.byteswap(inplace=True)
        block.flags.writeable = False
        return block

    def _fill(self, room: memoryview, offset: int) -> None:
        try:
            self._file.seek(offset)
            while len(room) and (got := self._file.readinto(room)):
                room = room[got:]
        except OSError as error:
            raise FileError(f"{self.name} cannot be read: {_reason(error)}") from None
        if len(room):
            raise FileError(f"{self.name} was cut short while it was read")


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in this machine's byte order, in which the library is quickest."""
    return dtype.newbyteorder("=")


def _read_header(file: IO[bytes], name: str, size: int) -> _NpyHeader:
    """Read a `.npy` header and hold what it promises against the `size` bytes there are."""
    start = file.tell()
    try:
        version, text = _header_text(file)
        shape, fortran, dtype = _described(version, text)
    except ValueError as error:
        raise FileError(f"{name} is not a .npy file, or is damaged: {_reason(error)}") from None
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
    return _NpyHeader(shape, fortran and len(shape) > 1, dtype, offset)


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
    except Exception as error:  # of a hostile text NumPy raises also what ast and tokenize do
        raise ValueError(_reason(error)) from None


def _exactly(file: IO[bytes], size: int) -> bytes:
    taken = b""
    while len(taken) < size:
        more = file.read(size - len(taken))
        if not more:
            raise ValueError("the file ends within its header")
        taken += more
    return taken


def _brief(shape: tuple[int, ...]) -> str:
    """A shape, for a message: a hostile header's has thousands of axes, or of digits."""
    text = f"shape {shape}" if len(shape) <= _AXES else f"a shape of {len(shape)} axes"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _open_npy(file: str, key: str | None) -> Source:
    return _Stored(file, file)


# ---- .npz ---------------------------------------------------------------------------------------


class _Inflated(Source):
    """A compressed member of a `.npz` file, inflated as it is read."""

    def __init__(self, name: str, file: str, member: zipfile.ZipInfo) -> None:
        with ExitStack() as opened, _damage_told(name):
            archive = opened.enter_context(zipfile.ZipFile(file))
            self._stream = opened.enter_context(archive.open(member))
            header = _read_header(self._stream, name, member.file_size)
            self._opened = opened.pop_all()
        dtype, self._foreign = _native(header.dtype), not header.dtype.isnative
        super().__init__(name, header.shape, dtype, fortran=header.fortran, sequential=True)

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
        array: Array = flat.view(self.dtype)
        if self._foreign:
            array.byteswap(inplace=True)
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
    except MemoryError:
        raise
    except Exception as error:  # of zipfile, zlib, bz2, lzma, struct: they list what they raise not
        raise FileError(f"{name} is damaged: {_reason(error)}") from None


def _open_npz(file: str, key: str | None) -> Source:
    with _damage_told(file), zipfile.ZipFile(file) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
    arrays = {member.filename.removesuffix(".npy"): member for member in members}
    if key is None and len(arrays) != 1:
        held = f"{len(arrays)} arrays" if arrays else "no array"
        ways = " or ".join(f"{file}:{name}" for name in list(arrays)[:3])
        way_out = f": say which, {ways}" if arrays else ""
        raise FileError(f"{file} must hold one array, got {held}{_listed(arrays)}{way_out}")
    key = next(iter(arrays)) if key is None else key.removesuffix(".npy")
    if key not in arrays:
        raise FileError(f"{file} holds no array {key!r}, only {_listed(arrays).strip(' ()')}")
    member, name = arrays[key], f"{file}:{key}"
    if member.flag_bits & 1:
        raise FileError(f"{name} is encrypted: save it without a password")
    if member.compress_type == zipfile.ZIP_STORED:
        if member.compress_size != member.file_size:
            raise FileError(f"{name} is damaged: it is stored as it is, but with two sizes")
        start = _start(file, name, member)
        _check_sum(file, name, start, member)
        return _Stored(name, file, start, member.file_size)
    source = _Inflated(name, file, member)
    return source.whole() if source.fortran else source


def _check_sum(file: str, name: str, start: int, member: zipfile.ZipInfo) -> None:
    """Hold a stored member against its checksum, as zipfile does where it reads one to its end."""
    left, found = member.file_size, 0
    with open(file, "rb") as opened:
        opened.seek(start)
        while left and (chunk := opened.read(min(left, _CHUNK))):
            left, found = left - len(chunk), zlib.crc32(chunk, found)
    if left:
        raise FileError(f"{name} is truncated: the archive ends within it")
    if found != member.CRC:
        raise FileError(f"{name} is damaged: its checksum is not that of its numbers")


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
