"""Why kernels cannot be had here, found out before LLVM would end the process.

LLVM ends the process where memory runs out or may not be made executable. So both are tried
beforehand, and every failure becomes an `EngineUnavailable` that says why in one line.
"""

import errno
import logging
import mmap
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_log = logging.getLogger("sparse_xent")

# Bytes of address space, with a reserve: llvmlite's library takes 154 MiB; Numba and the first
# kernel 170 MiB, each further one 10 MiB; to link one takes 1.2 MiB.
LLVM, COMPILE_FIRST, COMPILE, LINK = (n << 20 for n in (192, 256, 64, 8))
_PASSING = {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # errors that may go away


class EngineUnavailable(RuntimeError):
    """Why a kernel cannot be had here, in one line: the NumPy engine serves instead.

    Attributes:
        lasting: whether asking again is no use.
        asked_for: whether the user wanted it so, and need not be warned.
    """

    def __init__(self, why: str, *, lasting: bool = True, asked_for: bool = False) -> None:
        super().__init__(why)
        self.lasting, self.asked_for = lasting, asked_for


@contextmanager
def unavailable(done: str) -> Iterator[None]:
    """Let every error become an EngineUnavailable that says whether it will last."""
    try:
        yield
    except EngineUnavailable:
        raise
    except MemoryError as error:
        why = f"there is too little memory for kernels to be {done}"
        raise EngineUnavailable(why, lasting=False) from error
    except Exception as error:  # Numba and LLVM raise what they like
        _log.info("a kernel cannot be %s", done, exc_info=error)
        at = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise EngineUnavailable(
            f"kernels cannot be {done} with {_numba()}: {text[:500]} "
            f"[{Path(at.filename).name}:{at.lineno}]",
            lasting=getattr(error, "errno", None) not in _PASSING,
        ) from error


def _numba() -> str:
    try:
        return f"Numba {version('numba')}"
    except PackageNotFoundError:
        return "no Numba installed"


def check_machine() -> None:
    """Refuse a machine on which LLVM would end the process, and what the user does not want."""
    check_jit()
    if "llvmlite.binding" not in sys.modules:
        check_memory(LLVM)
    import llvmlite.binding as llvm

    try:
        llvm.check_jit_execution()
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise MemoryError(str(error)) from error
        raise EngineUnavailable(
            f"memory may not be made executable here ({os.strerror(error.errno or 0)})"
        ) from error


def check_jit() -> None:
    """Refuse where NUMBA_DISABLE_JIT or, once Numba is there, its config.DISABLE_JIT is set."""
    config = sys.modules.get("numba.core.config")
    asked = os.environ.get("NUMBA_DISABLE_JIT", "").strip() not in ("", "0")
    if asked or getattr(config, "DISABLE_JIT", False):
        raise EngineUnavailable("NUMBA_DISABLE_JIT is set", lasting=False, asked_for=True)


def check_memory(wanted: int) -> None:
    """Raise MemoryError where so many bytes are not to be had: LLVM would end the process."""
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if os.name == "posix" else {}
    try:
        mmap.mmap(-1, wanted, **private).close()
    except OSError as error:
        raise MemoryError(f"{wanted >> 20} MiB of memory are not to be had") from error
