"""Opens a file of numbers in any of the formats that are registered here.

    .npy        npy      blocks are read in any order
    .npz        npz      a stored array as .npy; a compressed one is inflated in order
    .csv, .tsv  tables   rows are parsed in order

To add a format, write a module with a `Source` and an opener, and add its line to `FORMATS`.

Files are not trusted: only regular files are opened, nothing is unpickled, the size in a header is
compared with the file's before memory is allocated, and what can only be read in order is never
held whole beyond `source.HELD` bytes. A refusal is a `FileError`: one sentence that begins with the
file's name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from sparse_xent.evaluation.readers import npy, npz, tables
from sparse_xent.evaluation.readers.columns import Choice
from sparse_xent.evaluation.readers.files import check_regular
from sparse_xent.evaluation.readers.source import FileError, Source, numbers, reason

# What opens a file: given its name, the key of an array within it, and the columns chosen of it.
Opener: TypeAlias = Callable[[str, str | None, Choice], Source]

FORMATS: dict[str, Opener] = {
    ".npy": npy.open_source,
    ".npz": npz.open_source,
    ".csv": tables.open_source,
    ".tsv": tables.open_source,
}


def open_source(
    path: str | os.PathLike[str], choice: Choice | None = None, *, bfloat16: bool = False
) -> Source:
    """Open a file by its suffix, one of `FORMATS`.

    Args:
        path: The file; `FILE.npz:key` names one array of several.
        choice: Which lines and columns are read, for files that have them.
        bfloat16: Whether raw records of two bytes, as NumPy saves bfloat16, are bfloat16.

    Returns:
        The array in the file: real numbers.

    Raises:
        FileError: There is no such file, or it is damaged, or holds something else.
        ValueError: Columns are chosen of a file that has none.
    """
    file, key = split(path)
    choice = Choice() if choice is None else choice
    opener = FORMATS.get(Path(file).suffix.lower())
    if opener is None:
        raise FileError(f"{file} must be a file whose name ends in {', '.join(FORMATS)}")
    check_regular(file)
    try:
        source = opener(file, key, choice)
    except (FileError, MemoryError):
        raise
    except Exception as error:
        raise FileError(f"{file} cannot be read: {reason(error)}") from None
    try:
        array = numbers(source, bfloat16=bfloat16)
        choice.check(array.name, table=array.tabular)
    except ValueError:
        source.close()
        raise
    return array


def split(path: str | os.PathLike[str]) -> tuple[str, str | None]:
    """The file and the key of `FILE.npz:key`."""
    name = os.fsdecode(path)
    named = re.fullmatch(r"(.+\.npz):(.+)", name, re.IGNORECASE | re.DOTALL)
    return (named[1], named[2]) if named else (name, None)
