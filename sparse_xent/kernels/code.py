"""Machine code by name: at hand, or from the disk, or compiled now.

Only compiling needs Numba, which takes longer to import than all else in a first call: what the
disk has is linked by LLVM alone.
"""

import os
import threading
from typing import Any

from sparse_xent.kernels import disk

_addresses: dict[tuple[Any, ...], int] = {}
_linked: list[Any] = []  # code lives as long as what linked it
_lock = threading.RLock()  # two threads that want one kernel compile it once
_linker: Any = None

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
    if found is not None:
        return found
    with _lock:
        if name not in _addresses:
            _addresses[name] = _found(name) or _made(name)
        return _addresses[name]


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


def _after_fork() -> None:
    """The lock may have been held by a thread that the child does not have."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
