"""Machine code by name: at hand, or from the disk, or compiled now.

Only compiling needs Numba, which takes longer to import than all else in a first call: what the
disk has is linked by LLVM alone.
"""

import _thread
import atexit
import os
import threading
from typing import Any

from sparse_xent.kernels import disk
from sparse_xent.kernels.locks import Lock

_addresses: dict[tuple[Any, ...], int] = {}
_linked: list[Any] = []  # code lives as long as what linked it
_loading = Lock()  # two threads that want one kernel compile it once
_linker: Any = None

# Bytes of the stack that Numba and LLVM are given, whatever the threads of the caller have.
_STACK = 16 << 20

compiled: list[tuple[Any, ...]] = []
"""What this process did not find on disk."""


def address(*name: object) -> int:
    """Address of a C function: a walk, a lowering, `carry`, `small` or `rank`."""
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
    image = disk.load(name)
    if image is None:
        return None
    try:
        return _link(name, image)
    except RuntimeError:
        return None


def _made(name: tuple[Any, ...]) -> int:
    from sparse_xent.kernels import build

    image = build.object_code(*name)
    compiled.append(name)
    disk.save(name, image)
    return _link(name, image)


def _link(name: tuple[Any, ...], image: bytes) -> int:
    global _linker
    import llvmlite.binding as llvm

    if _linker is None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        _linker = llvm.create_lljit_compiler(use_jit_link=True)
    library = llvm.JITLibraryBuilder().add_object_img(image).add_current_process()
    library.export_symbol(disk.ENTRY)
    linked = library.link(_linker, f"{name} {len(_linked)}")
    _linked.append(linked)
    return int(linked[disk.ENTRY])


def _wait_until_loaded() -> None:
    """LLVM must not be at work while its library's memory is taken away."""
    _loading.acquire()
    _loading.release()


atexit.register(_wait_until_loaded)

if hasattr(os, "register_at_fork"):
    # A fork waits until nothing is half loaded: the child could not go on with it.
    _released = {"after_in_parent": _loading.release, "after_in_child": _loading.release}
    os.register_at_fork(before=_loading.acquire, **_released)
