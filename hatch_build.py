"""Puts compiled kernels into a wheel, where that is asked for: on Linux, x86-64.

    HATCH_BUILD_HOOK_ENABLE_CUSTOM=true python -m pip wheel --no-deps --wheel-dir dist .

is what `make wheel` does, and `python -m build` does it with the same variable; it takes minutes.
Unasked a wheel is made at once, of Python alone, and its kernels are compiled where they are used:
so `pip install .` needs no compiler's time, and an editable installation has none of another day.

The tag names manylinux 2.17, the oldest that NumPy's wheels for these Pythons name, and no musl,
where this was not tried; indexes of packages refuse the plain linux_x86_64. Object files are bound
to no version of a C library: they ask the process for exp, log and log1p. Nor are they bound to a
version of Python or Numba: made with Python 3.11 and Numba 0.68.1 they gave the frozen bits under
3.12 with 0.61.2 and under 3.13. `sparse_xent.kernels.shipped` says when they are run.
"""

import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

TAG = "py3-none-manylinux_2_17_x86_64"
FUNCTIONS = {"exp", "log", "log1p"}
"""What kernels may take from the C library."""


class KernelHook(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles the kernels of each level in a process of its own, for Numba has one processor."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add compiled kernels, and the tag of the machines that they are for."""
        if version == "editable":
            return
        machine = f"{sys.platform} {os.uname().machine}" if hasattr(os, "uname") else sys.platform
        if machine != "linux x86_64":
            raise RuntimeError(
                f"kernels for wheels are compiled on Linux, x86-64, and this is {machine}: "
                "without HATCH_BUILD_HOOK_ENABLE_CUSTOM the wheel is made without them"
            )
        sys.path.insert(0, self.root)
        from sparse_xent.kernels.shipped import FOLDER, LEVELS

        self._made = tempfile.TemporaryDirectory()
        self.app.display_waiting("compiling kernels, some minutes")
        running = [self._compile(level, features) for level, features in LEVELS.items()]
        statuses = [process.wait() for process in running]
        if any(statuses):
            raise RuntimeError("the kernels could not be compiled: the cause is above")
        build_data["pure_python"], build_data["tag"] = False, TAG
        build_data["force_include"][self._made.name] = f"sparse_xent/kernels/{FOLDER}"

    def _compile(self, level: str, features: tuple[str, ...]) -> subprocess.Popen[bytes]:
        """Start to compile the kernels of a level, with no other of Numba's settings."""
        usual = {key: value for key, value in os.environ.items() if not key.startswith("NUMBA_")}
        processor = {
            "NUMBA_CPU_NAME": level,
            "NUMBA_CPU_FEATURES": ",".join(f"+{feature}" for feature in features),
        }
        return subprocess.Popen(
            [sys.executable, __file__, level, self._made.name],
            env={**usual, **processor},  # PYTHONPATH among it: an isolated build's packages
        )

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Take away what is in the wheel by now."""
        if version != "editable":
            self._made.cleanup()


def compile_level(level: str, folder: Path) -> None:
    """Write the files of one level, for which this process compiles.

    Raises:
        RuntimeError: a kernel needs what it must not.
    """
    from sparse_xent import warm
    from sparse_xent.kernels import loader, shipped

    images = {name: loader.made(name) for name in warm.of_wheels()}
    for name, image in images.items():
        if more := needed(image) - FUNCTIONS:
            raise RuntimeError(f"kernel {name} takes from the process what it may lack: {more}")
    for path, content in shipped.files(images, level):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_bytes(content)


def needed(image: bytes) -> set[str]:
    """Names of the functions that an object file (ELF, 64 bits) takes from the process."""
    import llvmlite.binding as llvm

    sections = {s.name(): s.data() for s in llvm.ObjectFileRef.from_data(image).sections()}
    names = sections[b".strtab"]
    symbols = struct.iter_unpack("<IBBHQQ", sections[b".symtab"])
    starts = [name for name, _, _, section, *_ in symbols if name and not section]
    return {names[start : names.index(b"\0", start)].decode() for start in starts}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))  # these sources, whatever else is installed
    compile_level(sys.argv[1], Path(sys.argv[2]))
