"""Machine code by name: loaded already, or from the package or the disk, or compiled now.

Only compiling needs Numba, which takes longer to import than all else in a first call: what is on
disk is linked by LLVM alone.
"""

import _thread
import atexit
import ctypes
import importlib
import itertools
import os
import sys
import threading
from contextlib import suppress
from typing import Any

from sparse_xent.kernels import cache, shipped
from sparse_xent.kernels.availability import (
    COMPILE,
    COMPILE_FIRST,
    LINK,
    check_jit,
    check_machine,
    check_memory,
    unavailable,
)
from sparse_xent.kernels.availability import EngineUnavailable as EngineUnavailable  # by `address`
from sparse_xent.kernels.locks import Lock

_REGISTRY = f"{__package__}.cpu.registry"

_attempts = itertools.count()
_addresses: dict[tuple[Any, ...], int] = {}
_loading = Lock()  # two threads that want one kernel compile it once
_linker: Any = None
_announced = False

# Bytes of the stack that Numba and LLVM are given, whatever the threads of the caller have.
_STACK = 16 << 20

_KEPT = (shipped.load, cache.load)
"""Where machine code is looked for, in this order."""

compiled: list[tuple[Any, ...]] = []
"""What this process did not find there."""


def address(*name: object) -> int:
    """Address of a C function, by the name that `cpu.abi` gives it.

    Raises:
        EngineUnavailable: it can be neither loaded nor compiled here.
    """
    found = _addresses.get(name)
    return _load_on_a_thread(name) if found is None else found


def _load_on_a_thread(name: tuple[Any, ...]) -> int:
    """Load or compile where no signal handler can raise, and wait for it.

    An import or a link that is interrupted cannot be repeated in the same process. Here an
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
    except RuntimeError:  # no thread can be started: on the caller's own
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


def is_kept(name: tuple[Any, ...]) -> bool:
    """Whether a kernel need not be compiled."""
    return any(load(name) is not None for load in _KEPT)


def _found(name: tuple[Any, ...]) -> int | None:
    """What is kept; None where it is not there, or is no longer what was written."""
    with unavailable("loaded"):
        check_machine()
        for load in _KEPT:
            image = load(name)
            if image is not None:
                with suppress(RuntimeError):  # no object file, or it lacks a function here
                    return _link(name, image)
        return None


def _made(name: tuple[Any, ...]) -> int:
    _announce()
    image = made(name)
    compiled.append(name)
    cache.save(name, image)
    with unavailable("loaded"):
        return _link(name, image)


def made(name: tuple[Any, ...]) -> bytes:
    """The object file of a kernel, compiled now.

    Raises:
        EngineUnavailable: it cannot be compiled here.
    """
    with unavailable("compiled"):
        check_jit()
        check_memory(COMPILE_FIRST if _REGISTRY not in sys.modules else COMPILE)
        return bytes(_registry().object_code(*name))


def _announce() -> None:
    """Say at a terminal, once a process, what the next seconds are for.

    Nothing is said where the text would be kept: a notebook's stream and a report's are no
    terminals, and nor is what a file or another program reads.
    """
    global _announced
    if _announced:
        return
    _announced = True
    with suppress(Exception):  # whatever stands in for stderr: the call does not depend on it
        if sys.stderr.isatty():
            sys.stderr.write(
                "sparse_xent: compiling kernels for this kind of call, which takes seconds; they "
                f"are kept in {cache.folder()}; `sparse-xent warm` compiles all the usual ones\n"
            )
            sys.stderr.flush()


def _link(name: tuple[Any, ...], image: bytes) -> int:
    global _linker
    import llvmlite.binding as llvm

    check_memory(LINK)
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


def _registry() -> Any:
    """The module that compiles, named by a string: it is the only import upwards in this package.

    An import that failed leaves no modules behind that would make the next one fail.
    """
    before = set(sys.modules)
    try:
        import numba  # noqa: F401  # first, for its file of settings may disable compiling

        check_jit()
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
