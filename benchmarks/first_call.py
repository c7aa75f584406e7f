"""The first call of a process, its import included: from an installed wheel, and in this checkout.

    python -m benchmarks.first_call [WHEEL]

WHEEL is one that `make wheel` made; without it, it is made here, which takes minutes. It is
installed with what it needs into an environment of its own, in a folder that is removed. Each call
is 4096 x 1000 float32 logits, in a new process; the candidates take turns.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

from benchmarks.fresh import ROOT, measured
from benchmarks.workloads import FORWARD, GRADIENT

WHEEL, COLD, WARM = "installed wheel, empty cache", "checkout, empty cache", "checkout, warm cache"
GOALS = {WHEEL: 0.3, COLD: 2.0}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser("python -m benchmarks.first_call", description=__doc__)
    parser.add_argument("wheel", nargs="?", type=Path, help="made by `make wheel`")
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = asked.wheel or made(folder)
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB", flush=True)
        python = installed(wheel, folder / "venv")
        seconds = interleaved(python, folder, asked.rounds)
    for (candidate, verb), found in seconds.items():
        goal = f"  goal {GOALS[candidate]} s" if candidate in GOALS else ""
        said = f"{statistics.median(found):.3f} s  ({min(found):.3f} .. {max(found):.3f}){goal}"
        print(f"{candidate:28}  {verb:9}  {said}")


def made(folder: Path) -> Path:
    """A new wheel with compiled kernels."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder]
    asked = {**os.environ, "HATCH_BUILD_HOOK_ENABLE_CUSTOM": "true"}
    subprocess.run([*pip, ROOT], env=asked, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def installed(wheel: Path, folder: Path) -> Path:
    """The Python of a new environment that has the wheel and what it needs."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
    return python


def interleaved(python: Path, folder: Path, rounds: int) -> dict[tuple[str, str], list[float]]:
    """Seconds of each candidate and verb, one process each, after one that is not counted."""
    seconds: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds + 1):
        for key, taken in one_round(python, folder / f"cache {number}"):
            if number:
                seconds.setdefault(key, []).append(taken)
    return seconds


def one_round(python: Path, cache: Path) -> Iterator[tuple[tuple[str, str], float]]:
    """Every candidate once; a cache is empty before the first call that compiles."""
    for verb in (FORWARD, GRADIENT):
        own = str(cache / verb)
        checkout = {"PYTHONPATH": str(ROOT), "NUMBA_CACHE_DIR": own}
        for candidate, environment in (
            (WHEEL, {"NUMBA_CACHE_DIR": f"{own} of nothing"}),
            (COLD, checkout),
            (WARM, checkout),
        ):
            yield (candidate, verb), measured(python, "whole", verb, **environment)["seconds"]


if __name__ == "__main__":
    main()
