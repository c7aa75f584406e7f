"""`python -m benchmarks.gpu`: measure the CUDA kernels, in at most eight minutes."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

try:
    import torch  # noqa: F401
except ImportError:  # all that follows is written with it
    raise SystemExit(
        "benchmarks.gpu needs an NVIDIA GPU and torch, which is not installed"
    ) from None

from benchmarks.gpu import correct, record, roofs, speed
from benchmarks.gpu.machine import Cuda
from benchmarks.gpu.record import Record

SECONDS = 470.0  # of eight minutes; the rest is Python's start and torch's
FOR_TIMES = 0.55  # of them, kept from the checks for the times


def main(arguments: Sequence[str] | None = None, machine: Cuda | None = None) -> int:
    """Run what was asked for; status 1 where something came out wrong."""
    asked = _arguments(arguments)
    found = Record(asked.seconds, asked.output)
    machine = machine or Cuda()
    for name, value in machine.versions().items():
        found.add("versions", name, value=value)
    for name, part in _parts(machine, found).items():
        if asked.only and not any(wanted in name for wanted in asked.only):
            continue
        if found.left < 10:
            found.add("left out", name, why="out of time")
            continue
        try:
            part()
        except Exception as error:  # one part's end is not the others'
            said = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            found.add("broken", name, ok=False, said=said)
            machine.free()
    shown = record.tables(found)
    print(shown)
    if asked.output is not None:
        (asked.output / "gpu.md").write_text(shown + "\n", "utf-8")
    return 1 if found.failed() else 0


def _parts(machine: Cuda, found: Record) -> dict[str, Callable[[], None]]:
    """Everything by name, in order: what tells the most comes first."""

    def timed(workload: speed.Workload) -> Callable[[], None]:
        return lambda: speed.measure(machine, found, workload.cut(8 * machine.bytes))

    return {
        "roofs": lambda: roofs.measure(machine, found),
        "labels": lambda: correct.labels(machine, found),
        "graphs": lambda: correct.graphs(machine, found),
        "arrays": lambda: correct.other_arrays(machine, found),
        "correct": lambda: correct.measure(machine, found, FOR_TIMES * found.seconds),
        "host time": lambda: speed.host_time(machine, found),
        **{f"time {workload.name}": timed(workload) for workload in speed.WORKLOADS},
    }


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=SECONDS, help="when to stop, whatever is left to do")
    add("--only", action="append", metavar="NAME", help="the parts with NAME in their name")
    add("--output", type=Path, metavar="FOLDER", help="keep the lines and the tables there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
