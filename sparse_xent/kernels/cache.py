"""Where compiled kernels are kept between processes: one object file each.

The folder's name is a hash of all that the code depends on: every kernel module, the versions of
Numba, LLVM and Python, the processor. So nothing in it is ever stale, whatever is edited or
upgraded. A file begins with a hash of that, of its kernel's name and of the rest: one that a full
disk cut short, or that was moved there from another name or version, counts as absent. Where no
folder can be written there is no cache, and no error: each process compiles for itself, and one
logged note says so.

A file is machine code that is run: what is loaded, and from where, is decided in `trusted`.
"""

import hashlib
import importlib
import importlib.util
import logging
import os
import pkgutil
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from sparse_xent.kernels import trusted

ENTRY = "sparse_xent_entry"
"""The C function's name in every object file."""

VARIABLE = "NUMBA_CACHE_DIR"
"""What names the folder, where the user's cache folder will not do."""

_DIGEST = 32  # bytes of the hash at the head of a file
_SETTINGS = ("OPT", "DEBUGINFO", "BOUNDSCHECK", "LOOP_VECTORIZE", "SLP_VECTORIZE")
"""Of Numba, NUMBA_OPT and so on: those that change machine code."""

_log = logging.getLogger("sparse_xent")
_noted = False


# What the code depends on -------------------------------------------------------------------------


@lru_cache(maxsize=1)
def stamp() -> str:
    """Hash of all that compiled code depends on.

    Raises:
        OSError: the modules' code cannot be read.
        ImportError: Numba or llvmlite is not there.
    """
    import llvmlite.binding as llvm

    processor = os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name()
    python = sys.implementation.cache_tag or sys.version
    parts = (
        *(sources(), _version("numba"), _version("llvmlite"), python),
        *(llvm.get_process_triple(), processor, features(), *settings()),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def sources() -> str:
    """Hash of every kernel module.

    Raises:
        OSError: the modules' code cannot be read.
    """
    digest = hashlib.sha256()
    for package in (__package__, f"{__package__}.cpu"):
        for part in modules(package):
            digest.update(part + b"\0")
    return digest.hexdigest()


def features() -> str:
    """Features of the processor that code is compiled for: "+avx,-avx512f" and so on."""
    import llvmlite.binding as llvm

    asked = os.environ.get("NUMBA_CPU_FEATURES")
    return asked or str(llvm.get_host_cpu_features().flatten())


def settings() -> tuple[str, ...]:
    """What the environment asks of Numba's machine code; empty strings where it asks nothing."""
    return tuple(os.environ.get(f"NUMBA_{setting}", "") for setting in _SETTINGS)


def modules(package: str) -> Iterator[bytes]:
    """Name and code of each module of a package, but for its subpackages'.

    The code is what Python's own loader reads: sources, bytecode where no sources are shipped,
    members of an archive.

    Raises:
        OSError: a loader does not give its bytes.
    """
    here = importlib.import_module(package)
    names = [m.name for m in pkgutil.iter_modules(here.__path__) if not m.ispkg]
    for name in (package, *(f"{package}.{name}" for name in sorted(names))):
        spec = importlib.util.find_spec(name)
        read = getattr(spec and spec.loader, "get_data", None)
        if spec is None or spec.origin is None or read is None:
            raise OSError(f"the code of {name} cannot be read, so its age is not known")
        yield name.encode() + b"\0" + read(spec.origin)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a frozen program may have the package without its metadata
        return str(importlib.import_module(package).__version__)


# Files --------------------------------------------------------------------------------------------


def file_name(name: tuple[object, ...]) -> str:
    """What the file of this kernel is called."""
    return "-".join(str(part) for part in name) + ".o"


def sealed(version: str, name: tuple[object, ...], image: bytes) -> bytes:
    """A file's content: the object file, behind a hash of version, name and object file."""
    return hashlib.sha256(f"{version}\0{name!r}\0".encode() + image).digest() + image


def unsealed(version: str, name: tuple[object, ...], kept: bytes) -> bytes | None:
    """The object file in a file's content, if it is whole and of this version and name."""
    image = kept[_DIGEST:]
    return image if sealed(version, name, image) == kept else None


def folder() -> Path:
    """The folder of this version's kernels: in NUMBA_CACHE_DIR, else the user's cache folder.

    Raises:
        OSError: there is none.
    """
    place = _place()
    return place.base / place.name / stamp()


def load(name: tuple[object, ...]) -> bytes | None:
    """The object file of this name, if it is there, whole, and nobody else's."""
    try:
        return unsealed(stamp(), name, trusted.read(*_where(name)))
    except OSError:  # not there, or not to be read or trusted
        return None


def save(name: tuple[object, ...], image: bytes) -> None:
    """Keep an object file, if there is a place for it: all of it, or nothing and one note."""
    global _noted
    try:
        keep(name, image)
    except OSError as error:
        if not _noted:
            _noted = True
            _log.warning("%s", refusal(error))


def keep(name: tuple[object, ...], image: bytes) -> None:
    """Keep an object file: all of it, or nothing.

    Raises:
        OSError: there is no place for it.
    """
    trusted.write(*_where(name), sealed(stamp(), name, image))


def refusal(error: OSError) -> str:
    """Why nothing can be kept, where, and what helps: one line."""
    try:
        place = _place()
        where = str(place.base / place.name)
    except OSError:
        where = "the user's cache folder"
    return (
        f"compiled kernels cannot be kept in {where}: {error.strerror or error}; each process "
        f"compiles them anew, for seconds: let {VARIABLE} name a folder that you can write and "
        "others cannot"
    )


def _where(name: tuple[object, ...]) -> tuple[Path, tuple[str, ...], bool]:
    """For `trusted`: the cache folder, the path in it, whether the user named that folder."""
    place = _place()
    return place.base, (place.name, stamp(), file_name(name)), place.named


class _Place(NamedTuple):
    base: Path  # a folder that others may use too
    name: str  # ours in it
    named: bool  # whether the user named it


def _place() -> _Place:
    if base := os.environ.get(VARIABLE):
        return _Place(Path(base).absolute(), "sparse_xent", True)
    import platformdirs

    try:
        path = platformdirs.user_cache_path("sparse_xent", appauthor=False)
    except RuntimeError as error:
        raise OSError("this user has no home folder") from error
    if not path.is_absolute():  # older platformdirs: "~/.cache" would be made in this very folder
        raise OSError("this user has no home folder")
    return _Place(path.parent, path.name, False)
