"""Lines of a text file: in UTF-8, ended by LF, CR LF or CR, and counted before they are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from sparse_xent.evaluation.readers.source import FileError, size_of

_CHUNK = 1 << 20  # bytes of text that are counted at once
_LINE = 1 << 26  # the most bytes of a line; 128,000 classes take some 3 MB

_MARKS = {  # byte order marks, the longest first
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def opened(file: str) -> IO[str]:
    """The file as text; bytes that are not UTF-8 are kept, for in a name they do no harm."""
    return open(file, encoding="utf-8-sig", errors="surrogateescape", newline=None)


@contextmanager
def read_errors(file: str) -> Iterator[None]:
    """What reading and parsing raise, as a FileError."""
    try:
        yield
    except OSError as error:
        raise FileError(f"{file} cannot be read: {error.strerror or error}") from None
    except MemoryError:
        raise FileError(f"{file} has lines too long for the memory there is") from None


def check_encoding(file: str) -> None:
    """FileError where a file is in UTF-16 or UTF-32, or no text."""
    with open(file, "rb") as binary:
        head = binary.read(1 << 12)
    got = next((name for bom, name in _MARKS.items() if head.startswith(bom)), None)
    if got is None and head.count(0) > len(head) // 4:
        got = "UTF-16BE" if head.startswith(b"\0") else "UTF-16LE"
    if got is None and any(byte in head for byte in range(1, 9)):
        raise FileError(f"{file} must be text in UTF-8, got no text at all")
    if got is not None:
        raise FileError(
            f"{file} must be text in UTF-8, got {got}: save it as UTF-8 (in a shell: iconv -f "
            f"{got} -t UTF-8)"
        )


def count_lines(file: str) -> int:
    """The number of the last line that is not blank; a line of more than `_LINE` is refused."""
    last, ended, unfinished, after_cr = 0, 0, 0, False
    with open(file, "rb") as binary:
        while chunk := binary.read(_CHUNK):
            text = len(chunk.rstrip())
            # The CR of a CR LF that is cut in two was counted with the chunk before.
            within = _line_ends(chunk, 0, text) if text else 0
            again = after_cr and chunk.startswith(b"\n")
            if text:
                last = ended + within - again + 1
            ended += within - again + _line_ends(chunk, text, len(chunk))
            at = max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))
            unfinished = len(chunk) - at - 1 + unfinished * (at < 0)
            after_cr = chunk.endswith(b"\r")
            if unfinished > _LINE:
                raise FileError(
                    f"{file}, line {ended + 1} must be a row of numbers, got {size_of(_LINE)} "
                    "without an end of line"
                )
    if not last:
        raise FileError(f"{file} must hold numbers, got only blank lines")
    return last


def _line_ends(chunk: bytes, start: int, stop: int) -> int:
    ends = chunk.count(b"\n", start, stop)
    if chunk.find(b"\r", start, stop) >= 0:
        ends += chunk.count(b"\r", start, stop) - chunk.count(b"\r\n", start, stop)
    return ends
