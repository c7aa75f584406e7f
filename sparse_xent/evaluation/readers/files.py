"""Regular files, which must stay what they are while they are read.

Nothing is memory-mapped: where another process cuts a mapped file short, reading it ends this one
(SIGBUS). `unchanged` compares what a file was before it was read with what it is afterwards.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from sparse_xent.evaluation.readers.source import FileError


def check_regular(file: str) -> None:
    """Refuse what is not a regular, non-empty file; reading a pipe might never end."""
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
