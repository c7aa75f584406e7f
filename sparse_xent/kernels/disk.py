"""Where compiled kernels are kept between processes: one object file each.

The folder's name is a hash of all that the code depends on: every kernel source, the versions of
Numba, LLVM and Python, the processor. So nothing in it is ever stale, whatever is edited or
upgraded. A file begins with the hash of the rest: one that a full disk cut short counts as absent.
Where no folder can be written there is no cache, and no error: each process compiles for itself.
"""

import hashlib
import os
import sys
import tempfile
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

ENTRY = "sparse_xent_entry"
"""The C function's name in every object file."""

_DIGEST = 32  # bytes of the hash at the head of a file


@lru_cache(maxsize=1)
def stamp() -> str:
    """Hash of all that compiled code depends on."""
    import llvmlite.binding as llvm

    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    processor = os.environ.get("NUMBA_CPU_NAME") or llvm.get_host_cpu_name()
    features = os.environ.get("NUMBA_CPU_FEATURES") or llvm.get_host_cpu_features().flatten()
    python = sys.implementation.cache_tag or sys.version
    rest = (
        *(version("numba"), version("llvmlite"), python),
        *(llvm.get_process_triple(), processor, features),
    )
    digest.update("\0".join(rest).encode())
    return digest.hexdigest()[:16]


def folder() -> Path:
    """The folder of this version's kernels: in NUMBA_CACHE_DIR, else the user's cache folder."""
    base = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sparse_xent" / stamp()


def load(name: tuple[object, ...]) -> bytes | None:
    """The object file of this name, if it is there and whole."""
    try:
        kept = _path(name).read_bytes()
    except (OSError, RuntimeError):  # not there, not to be read, or a user without a home
        return None
    digest, image = kept[:_DIGEST], kept[_DIGEST:]
    return image if hashlib.sha256(image).digest() == digest else None


def save(name: tuple[object, ...], image: bytes) -> None:
    """Keep an object file, if there is a place for it: all of it, or nothing."""
    with suppress(OSError, RuntimeError):
        path = _path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(image).digest() + image)
            Path(draft).replace(path)
        except BaseException:
            Path(draft).unlink()
            raise


def _path(name: tuple[object, ...]) -> Path:
    return folder() / ("-".join(str(part) for part in name) + ".o")
