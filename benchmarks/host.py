"""The machine on which it is measured."""

import os
import platform
from pathlib import Path


def name() -> str:
    """The processor, and its generation as LLVM names it: virtual machines say little else."""
    from llvmlite import binding

    found = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                found = line.partition(": ")[2].strip()
                break
    except OSError:
        pass
    return f"{found} ({binding.get_host_cpu_name()})"


def cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def keep_to(threads: int) -> None:
    """Use so many cores, before any library counts them."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores()[:threads])
