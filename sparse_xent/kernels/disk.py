"""Where compiled kernels are kept between processes: a folder named by a hash of all their sources.

Numba's own cache looks at a function's file only, so that a kernel would stay stale after an edit
of what it calls, or after an upgrade. Here every kernel source counts. Where no folder can be
written there is no cache, and no error: kernels are then compiled in each process.
"""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from numba.core.caching import CompileResultCacheImpl, FunctionCache, NullCache, _CacheLocator


@lru_cache(maxsize=1)
def sources_hash() -> str:
    """Hash of all kernel sources."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def folder() -> Path:
    """The folder of this version's kernels: in NUMBA_CACHE_DIR, else the user's cache folder."""
    base = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sparse_xent" / sources_hash()


class _Locator(_CacheLocator):  # type: ignore[misc]
    """Says where; what is there is never stale, for the folder is named by its sources."""

    def __init__(self, py_func: Callable[..., Any]) -> None:
        self._line = py_func.__code__.co_firstlineno

    def get_cache_path(self) -> str:
        return str(folder())

    def get_source_stamp(self) -> str:
        return sources_hash()

    def get_disambiguator(self) -> str:
        return str(self._line)

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], _py_file: str) -> "_Locator | None":
        locator = cls(py_func)
        try:
            locator.ensure_cache_path()
        except (OSError, RuntimeError):  # read-only, or a user without a home
            return None
        return locator


class _Impl(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = [_Locator]  # noqa: RUF012


class _Cache(FunctionCache):  # type: ignore[misc]
    """A cache whose entries are told apart by a name: closures of one function share its code."""

    _impl_class = _Impl

    def __init__(self, py_func: Callable[..., Any], entry: str) -> None:
        super().__init__(py_func)
        self._entry = entry

    # A file that a full disk cut short fails in any way that a pickle can; the kernel is then
    # compiled as if there was no file, and the index begun anew.

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception:
            with suppress(OSError):
                self.flush()

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return sig, codegen.magic_tuple(), self._entry


def cache(py_func: Callable[..., Any], entry: str) -> Any:
    """A cache for a function, by the name of what it is compiled for; an empty one if need be."""
    try:
        return _Cache(py_func, entry)
    except (OSError, RuntimeError):  # nowhere to write, or nobody's home
        return NullCache()
