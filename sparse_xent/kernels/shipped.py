"""Compiled kernels that a wheel for Linux on x86-64 brings, so that its users compile nothing.

`hatch_build.py` makes them, one object file a kernel, for two levels of processors as the ABI of
x86-64 defines them; a checkout and other wheels have none. They need no Numba, and of the C library
exp, log and log1p alone. They are part of the package and as trusted as its modules are: whoever
can write one can write the other.

A file begins with a hash of the sources of all kernels, its level, its name and the rest, as files
of `cache` do. What was changed, or is of other sources, counts as absent, and so does all of it
where the environment asks Numba for other machine code. What is absent is compiled as anywhere.
"""

import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from sparse_xent.kernels import cache

_V3 = (
    *("64bit", "cmov", "cx8", "fxsr", "mmx", "sse", "sse2"),
    *("cx16", "popcnt", "sahf", "sse3", "ssse3", "sse4.1", "sse4.2", "crc32"),
    *("avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave"),
)
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")

LEVELS = {"x86-64-v4": _V4, "x86-64-v3": _V3}
"""Processors as LLVM names them, the best first, and the features that their code may use."""

FOLDER = "objects"


def files(images: dict[tuple[object, ...], bytes], level: str) -> Iterator[tuple[str, bytes]]:
    """Path in FOLDER, and content, of the file of each kernel.

    Args:
        images: object files by the names of kernels, compiled for the level.
        level: a name in `LEVELS`.
    """
    for name, image in images.items():
        yield f"{level}/{cache.file_name(name)}", cache.sealed(_version(level), name, image)


def load(name: tuple[object, ...]) -> bytes | None:
    """The object file of this name for this processor, if the package has it."""
    level = _level(cache.features())
    read = getattr(__spec__.loader, "get_data", None)
    if level is None or read is None:
        return None
    try:
        kept = read(str(Path(__file__).parent / FOLDER / level / cache.file_name(name)))
        return cache.unsealed(_version(level), name, kept)
    except OSError:  # not there, or the sources cannot be read
        return None


@lru_cache(maxsize=2)
def _level(features: str) -> str | None:
    """The best level whose features a processor has; None where it has no level's."""
    import llvmlite.binding as llvm

    if sys.platform != "linux" or not llvm.get_process_triple().startswith("x86_64-"):
        return None
    there = {feature[1:] for feature in features.split(",") if feature.startswith("+")}
    return next((level for level, wanted in LEVELS.items() if there.issuperset(wanted)), None)


def _version(level: str) -> str:
    """What a file must be of. Files are made where the environment asks nothing of Numba."""
    return "\0".join((cache.sources(), level, *cache.settings()))
