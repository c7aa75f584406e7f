"""Writes one loss a label to a `.npy` file, whole or not at all.

The losses go to a temporary file in the same folder, which takes the place of the named one when
all of it has reached the disk: until then a file of that name stays as it was.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt


class LossesFile:
    """A `.npy` file that is filled front to back; a context manager.

    Args:
        path: The file to write or replace; its name ends in `.npy`.
        shape: The shape of all losses.
        dtype: Their dtype.
        fortran: Whether the first axis is to run fastest.
        inputs: Files that must not be replaced.

    Raises:
        ValueError: The path is an input, is no `.npy` file, or not in a folder.
        OSError: The folder cannot be written to.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        *,
        fortran: bool = False,
        inputs: Iterable[str] = (),
    ) -> None:
        self._dtype, self._order = np.dtype(dtype), "F" if fortran else "C"
        self._path = os.path.realpath(check_output(path, inputs))
        self._folder, name = os.path.split(self._path)
        self._temporary = os.path.join(self._folder, f".{name}.{secrets.token_hex(4)}.tmp")
        opened = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        self._file = os.fdopen(opened, "wb")
        header = {"descr": self._dtype.str, "fortran_order": fortran, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, losses: npt.NDArray[Any]) -> None:
        """Write the losses that follow, in the order of the file."""
        flat = losses.astype(self._dtype, copy=False).ravel(
            order="F" if self._order == "F" else "C"
        )
        self._file.write(flat.data)

    def __enter__(self) -> LossesFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._put_in_place()
        finally:
            self._file.close()
            if os.path.exists(self._temporary):
                os.unlink(self._temporary)

    def _put_in_place(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if os.path.exists(self._path):
            os.chmod(self._temporary, stat.S_IMODE(os.stat(self._path).st_mode))
        os.replace(self._temporary, self._path)
        if hasattr(os, "O_DIRECTORY"):  # the name, too, is to survive a power failure
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def check_output(path: str | os.PathLike[str], inputs: Iterable[str] = ()) -> str:
    """The path, if a `.npy` file can be put there without loss of an input."""
    name = os.fspath(path)
    if not name.lower().endswith(".npy"):
        raise ValueError(f"{name} must end in .npy, for that is what is written")
    if not os.path.isdir(os.path.dirname(os.path.realpath(name))):
        raise ValueError(f"{name} must be in a folder that exists")
    if os.path.exists(name):
        if not os.path.isfile(name):
            raise ValueError(f"{name} must be a regular file, got something else of that name")
        for other in inputs:
            if os.path.exists(other) and os.path.samefile(name, other):
                raise ValueError(f"{name} is an input: give the losses another name")
    return name
