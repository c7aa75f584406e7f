"""Writes one loss a label to a `.npy` file, whole or not at all.

The losses go to a temporary file in the same folder, which replaces the named one when all of it is
on the disk: until then a file of that name stays as it was. Where the disk is full or the folder is
gone, scoring goes on without writing, and the error is kept for the end.
"""

from __future__ import annotations

import io
import os
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_xent.evaluation.report import Report


class OutputError(OSError):
    """One loss a label could not be written; the score is in `report`.

    Args:
        path: The file that was to be written.
        error: What the system said.
        report: The score.
    """

    def __init__(self, path: str, error: OSError, report: Report) -> None:
        super().__init__(
            f"{path} could not be written ({error.strerror or error}): what was there is as it "
            "was, and the score stands"
        )
        self.report = report


class LossesFile:
    """A `.npy` file that is filled front to back; a context manager.

    Args:
        path: The file to write or replace; its name ends in `.npy`.
        shape: The shape of all losses.
        dtype: Their dtype.
        fortran: Whether the first axis is to run fastest.
        inputs: Files that must not be replaced.

    Attributes:
        error: What kept the losses from being written; None where nothing did.

    Raises:
        ValueError: The path is an input, is no `.npy` file, or nothing can be written there.
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
        self.name = check_output(path, inputs)
        self.error: OSError | None = None
        self._dtype, self._fortran = np.dtype(dtype), fortran
        self._path = os.path.realpath(self.name)
        self._folder, name = os.path.split(self._path)
        # Cut short, so that a long name does not become too long.
        self._temporary = os.path.join(self._folder, f".{name[:40]}.{secrets.token_hex(4)}.tmp")
        try:
            opened = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except OSError as error:
            raise ValueError(f"{self.name} cannot be written: {error.strerror}") from None
        self._file = os.fdopen(opened, "wb", buffering=0)
        described = {"descr": self._dtype.str, "fortran_order": fortran, "shape": shape}
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, described)
        self._write(header.getbuffer())

    def append(self, losses: npt.NDArray[Any]) -> None:
        """Write the losses that follow, in the order of the file; nothing after an error."""
        flat = losses.astype(self._dtype, copy=False).ravel(order="F" if self._fortran else "C")
        self._write(flat.data.cast("B") if flat.size else memoryview(b""))

    def put_in_place(self) -> None:
        """Give the file its name; where that fails, `error` says why."""
        if self.error is not None:
            return
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            with suppress(OSError):  # there is none yet, or the file system knows no modes
                os.chmod(self._temporary, stat.S_IMODE(os.stat(self._path).st_mode))
            os.replace(self._temporary, self._path)
        except OSError as error:
            self.error = error
            return
        if hasattr(os, "O_DIRECTORY"):  # so that the new name, too, survives a power failure
            with suppress(OSError):
                folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)

    def __enter__(self) -> LossesFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._give_up()

    def _write(self, data: memoryview) -> None:
        try:
            while self.error is None and len(data):
                data = data[self._file.write(data) :]
        except OSError as error:
            self.error = error
            self._give_up()  # so that a full disk does not stay full

    def _give_up(self) -> None:
        """Remove the temporary file, if it is there still."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            os.unlink(self._temporary)


def check_output(path: str | os.PathLike[str], inputs: Iterable[str] = ()) -> str:
    """The path, if a `.npy` file can be put there without loss of anything that is in use."""
    name = os.fsdecode(path)
    if not name.lower().endswith(".npy"):
        raise ValueError(f"{name} must end in .npy, for that is what is written")
    try:
        status = os.stat(name)
    except FileNotFoundError:
        if not os.path.isdir(os.path.dirname(os.path.realpath(name))):
            raise ValueError(f"{name} must be in a folder that exists") from None
        return name
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} cannot be written: {getattr(error, 'strerror', error)}") from None
    if not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise ValueError(f"{name} must be a regular file, got {what}")
    if not os.access(name, os.W_OK):
        raise ValueError(f"{name} is write-protected: give the losses another name")
    for other in inputs:
        if os.path.exists(other) and os.path.samefile(name, other):
            raise ValueError(f"{name} is an input: give the losses another name")
    for number, stream in ((1, "output"), (2, "error")):
        with suppress(OSError):  # the stream is closed
            if os.path.samestat(status, os.fstat(number)):
                raise ValueError(f"{name} is where standard {stream} goes: give another name")
    return name
