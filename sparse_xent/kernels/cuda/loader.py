"""Machine code by a kernel's name and a compute capability: from the disk, or compiled now.

Numba is the compiler (kernels to LTO-IR), cuda.core links; neither needs a GPU or a driver. What
the disk has needs neither of them to be imported: a cubin and the name of its entry are all that a
launch takes. It is kept where `kernels.cache` keeps the CPU's code, under names with a hash of
all that it depends on.
"""

import hashlib
import re
import threading
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from sparse_xent.kernels import cache as kernel_cache
from sparse_xent.kernels.cuda.geometry import registers

_PACKAGES = ("numba", "numba-cuda", "cuda-core", "nvidia-nvvm", "nvidia-nvjitlink")
_codes: dict[tuple[str, tuple[int, int]], "Code"] = {}
_lock = threading.RLock()  # two threads that want one kernel compile it once

compiled: list[tuple[str, tuple[int, int]]] = []
"""What this process did not find on disk."""


class Code(NamedTuple):
    """A kernel as a GPU takes it."""

    image: bytes  # a cubin
    entry: str  # the kernel's name in it


def cubin(kernel: str, cc: tuple[int, int]) -> Code:
    """The code of `Plan.kernel` for a compute capability such as (9, 0).

    Raises:
        RuntimeError: it has to be compiled, and a package that this takes is missing.
    """
    key = kernel, cc
    found = _codes.get(key)
    if found is not None:
        return found
    with _lock:
        if key not in _codes:
            _codes[key] = _found(kernel, cc) or _made(kernel, cc)
        return _codes[key]


def _name(kernel: str, cc: tuple[int, int]) -> tuple[object, ...]:
    return "cuda", kernel, f"sm_{cc[0]}{cc[1]}", _stamp()


def _found(kernel: str, cc: tuple[int, int]) -> Code | None:
    image = kernel_cache.load(_name(kernel, cc))
    return None if image is None else Code(image, _entry(image))


def _made(kernel: str, cc: tuple[int, int]) -> Code:
    try:
        from cuda.core import Linker, LinkerOptions, ObjectCode

        from sparse_xent.kernels.cuda import registry
    except ImportError as error:
        raise RuntimeError(
            f"compiling for CUDA takes numba-cuda and cuda-core ({error}): "
            "pip install 'sparse_xent[cuda13]' (or [cuda12])"
        ) from None
    options = LinkerOptions(
        arch=f"sm_{cc[0]}{cc[1]}",
        link_time_optimization=True,
        max_register_count=registers(kernel),
    )
    made = ObjectCode.from_ltoir(registry.compiled(kernel, cc, "ltoir"))
    image = bytes(Linker(made, options=options).link("cubin").code)
    compiled.append((kernel, cc))
    kernel_cache.save(_name(kernel, cc), image)
    return Code(image, _entry(image))


def _entry(image: bytes) -> str:
    """The kernel's name: the compiler gives it another at each compilation."""
    found = re.search(rb"\0\.text\.(\w+)\0", image)
    assert found is not None  # a cubin has a section for each function
    return found[1].decode()


@cache
def _stamp() -> str:
    """Hash of what this code depends on besides `cache.stamp`: sources here, and the compiler."""
    digest = hashlib.sha256()
    for part in kernel_cache.modules(__package__):
        digest.update(part + b"\0")
    digest.update("\0".join(_version(package) for package in _PACKAGES).encode())
    return digest.hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
