"""Machine code by name: at hand, or from the disk, or compiled now.

Only compiling needs Numba, which takes longer to import than all else in a first call: what the
disk has is linked by LLVM alone.
"""

import _thread
import atexit
import ctypes
import errno
import importlib
import itertools
import logging
import mmap
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sparse_xent.kernels import cache
from sparse_xent.kernels.locks import Lock

_log = logging.getLogger("sparse_xent")
_REGISTRY = f"{__package__}.cpu.registry"

# Where memory runs out LLVM ends the process, so what it takes is asked for beforehand. Bytes of
# address space, with a reserve: llvmlite's library takes 154 MiB; Numba and the first kernel
# 170 MiB, each further one 10 MiB; to link one takes 1.2 MiB.
_LLVM, _COMPILE_FIRST, _COMPILE, _LINK = (n << 20 for n in (192, 256, 64, 8))
_PASSING = {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # errors that may go away

_attempts = itertools.count()
_addresses: dict[tuple[Any, ...], int] = {}
_loading = Lock()  # two threads that want one kernel compile it once
_linker: Any = None

# Bytes of the stack that Numba and LLVM are given, whatever the threads of the caller have.
_STACK = 16 << 20

compiled: list[tuple[Any, ...]] = []
"""What this process did not find on disk."""


class EngineUnavailable(RuntimeError):
    """Why a kernel cannot be had here, in one line: the NumPy engine serves instead.

    Attributes:
        lasting: whether asking again is no use.
        asked_for: whether the user wanted it so, and need not be warned.
    """

    def __init__(self, why: str, *, lasting: bool = True, asked_for: bool = False) -> None:
        super().__init__(why)
        self.lasting, self.asked_for = lasting, asked_for


def address(*name: object) -> int:
    """Address of a C function: a walk, a lowering, `carry`, `small` or `rank`.

    Raises:
        EngineUnavailable: it can be neither loaded nor compiled here.
    """
    found = _addresses.get(name)
    return _on_a_thread_of_its_own(name) if found is None else found


def _on_a_thread_of_its_own(name: tuple[Any, ...]) -> int:
    """Load or compile where no signal handler can raise, and wait for it.

    An import or a link that is cut in the middle cannot be made good in the same process. Here an
    exception ends the wait alone: the next call finds what the thread has made by then.
    """
    results: list[int | BaseException] = []
    done = _thread.allocate_lock()
    done.acquire()

    def load() -> None:
        try:
            results.append(_load(name))
        except BaseException as error:
            results.append(error)
        finally:
            done.release()

    asked = threading.stack_size()  # 0: the system's usual size, which suffices
    try:
        if 0 < asked < _STACK:
            threading.stack_size(_STACK)
        _thread.start_new_thread(load, ())
    except RuntimeError:  # no thread is to be had: as well as may be, on the caller's own
        load()
    finally:
        threading.stack_size(asked)
    done.acquire()
    result = results.pop()
    if isinstance(result, BaseException):
        raise result
    return result


def _load(name: tuple[Any, ...]) -> int:
    _loading.acquire()
    try:
        if name not in _addresses:
            _addresses[name] = _found(name) or _made(name)
        return _addresses[name]
    finally:
        _loading.release()


def _found(name: tuple[Any, ...]) -> int | None:
    """From the disk; None where it is not there, or is no longer what was written."""
    with _unavailable("loaded"):
        _check_machine()
        image = cache.load(name)
        if image is None:
            return None
        try:
            return _link(name, image)
        except RuntimeError:
            return None


def _made(name: tuple[Any, ...]) -> int:
    image = made(name)
    compiled.append(name)
    cache.save(name, image)
    with _unavailable("loaded"):
        return _link(name, image)


def made(name: tuple[Any, ...]) -> bytes:
    """The object file of a kernel, compiled now.

    Raises:
        EngineUnavailable: it cannot be compiled here.
    """
    with _unavailable("compiled"):
        _check_jit()
        _check_memory(_COMPILE_FIRST if _REGISTRY not in sys.modules else _COMPILE)
        return bytes(_registry().object_code(*name))


def _link(name: tuple[Any, ...], image: bytes) -> int:
    global _linker
    import llvmlite.binding as llvm

    _check_memory(_LINK)
    if _linker is None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        _linker = llvm.create_lljit_compiler(use_jit_link=True)
        # Never freed: where llvmlite is first imported while Python ends, as in a call from
        # `atexit`, its finalizer comes when its module is no longer there.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(_linker))
    library = llvm.JITLibraryBuilder().add_object_img(image).add_current_process()
    library.export_symbol(cache.ENTRY)
    # A name serves once, even where linking fails.
    linked = library.link(_linker, f"{name} {next(_attempts)}")
    address = int(linked[cache.ENTRY])
    linked.detach()  # code lives as long as the process
    return address


# What is in the way -------------------------------------------------------------------------------


@contextmanager
def _unavailable(done: str) -> Iterator[None]:
    """Let every error say that a kernel cannot be had, and whether that will last."""
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


def _check_machine() -> None:
    """Refuse what would make LLVM end the process, and what the user does not want."""
    _check_jit()
    if "llvmlite.binding" not in sys.modules:
        _check_memory(_LLVM)
    import llvmlite.binding as llvm

    try:
        llvm.check_jit_execution()
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise MemoryError(str(error)) from error
        raise EngineUnavailable(
            f"memory may not be made executable here ({os.strerror(error.errno or 0)})"
        ) from error


def _check_jit() -> None:
    """Refuse where NUMBA_DISABLE_JIT or, once Numba is there, its config.DISABLE_JIT is set."""
    config = sys.modules.get("numba.core.config")
    asked = os.environ.get("NUMBA_DISABLE_JIT", "").strip() not in ("", "0")
    if asked or getattr(config, "DISABLE_JIT", False):
        raise EngineUnavailable("NUMBA_DISABLE_JIT is set", lasting=False, asked_for=True)


def _check_memory(wanted: int) -> None:
    """Raise MemoryError where so many bytes are not to be had: LLVM would end the process."""
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if os.name == "posix" else {}
    try:
        mmap.mmap(-1, wanted, **private).close()
    except OSError as error:
        raise MemoryError(f"{wanted >> 20} MiB of memory are not to be had") from error


def _registry() -> Any:
    """The module that compiles. An import that failed leaves nothing by which the next would."""
    before = set(sys.modules)
    try:
        import numba  # noqa: F401  # by itself, for its file of settings may disable compiling

        _check_jit()
        return importlib.import_module(_REGISTRY)
    except BaseException:
        if "numba" not in sys.modules:
            for name in set(sys.modules) - before:
                package, _, module = name.rpartition(".")
                if name.startswith("numba.") or package.startswith(__package__):
                    del sys.modules[name]
                    if package in sys.modules:
                        vars(sys.modules[package]).pop(module, None)
        raise


# The end of the process, and its forks -----------------------------------------------------------


def _wait_until_loaded() -> None:
    """LLVM must not be at work while its library's memory is taken away."""
    _loading.acquire()
    _loading.release()


atexit.register(_wait_until_loaded)

if hasattr(os, "register_at_fork"):
    # A fork waits until nothing is half loaded: the child could not go on with it.
    _released = {"after_in_parent": _loading.release, "after_in_child": _loading.release}
    os.register_at_fork(before=_loading.acquire, **_released)
