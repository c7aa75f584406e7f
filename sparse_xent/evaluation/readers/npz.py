"""Reads `.npz` archives: a stored array where it lies in the file, a compressed one in order."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from sparse_xent.evaluation.readers.columns import Choice
from sparse_xent.evaluation.readers.npy import Stored, read_header
from sparse_xent.evaluation.readers.source import Array, Box, FileError, Source, reason

_CHUNK = 1 << 20  # bytes that are read, or inflated, at once


def open_source(file: str, key: str | None, choice: Choice) -> Source:
    """An array in a `.npz` file: the only one, or that of the key."""
    with _errors_as_file_error(file), zipfile.ZipFile(file) as archive:
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
        return Stored(name, file, start, member.file_size)
    source = _Inflated(name, file, member)
    return source.whole() if source.fortran else source


class _Inflated(Source):
    """A compressed array, inflated as it is read."""

    def __init__(self, name: str, file: str, member: zipfile.ZipInfo) -> None:
        with ExitStack() as opened, _errors_as_file_error(name):
            archive = opened.enter_context(zipfile.ZipFile(file))
            self._stream = opened.enter_context(archive.open(member))
            header = read_header(self._stream, name, member.file_size)
            self._opened = opened.pop_all()
        self._swapped = header.swapped
        super().__init__(name, header.shape, header.dtype, fortran=header.fortran, sequential=True)

    def close(self) -> None:
        self._opened.close()

    def read(self, box: Box) -> Array:
        shape = (box[0].stop - box[0].start, *self.shape[1:]) if box else ()
        flat = np.empty(math.prod(shape) * self.dtype.itemsize, np.uint8)
        with _errors_as_file_error(self.name):
            for start in range(0, flat.size, _CHUNK):
                part = flat[start : start + _CHUNK]
                inflated = self._stream.read(part.size)
                if len(inflated) < part.size:
                    raise EOFError("it ends too early")
                part[:] = np.frombuffer(inflated, np.uint8)
        array: Array = flat.view(self.dtype)
        if self._swapped:
            array.byteswap(inplace=True)
        return array.reshape(shape, order="F" if self.fortran else "C")


@contextmanager
def _errors_as_file_error(name: str) -> Iterator[None]:
    """What reading an archive raises, as a FileError."""
    try:
        yield
    except (FileError, MemoryError):
        raise
    except NotImplementedError as error:
        raise FileError(f"{name} is compressed in a way that is not known here: {error}") from None
    except Exception as error:  # zipfile, zlib, bz2, lzma and struct do not list what they raise
        raise FileError(f"{name} is damaged: {reason(error)}") from None


def _check_sum(file: str, name: str, start: int, member: zipfile.ZipInfo) -> None:
    """Compare a stored array with its checksum, as zipfile does at the end of a member."""
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
    """Where an array's bytes begin: after its local header, whose length is only in the header."""
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
