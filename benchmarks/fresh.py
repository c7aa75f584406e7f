"""What only a new process shows: the import, the first call, and the most memory it ever held.

As a program this file measures one thing and prints it as JSON; the functions start it:

    python -m benchmarks.fresh import
    python -m benchmarks.fresh first VERB
    python benchmarks/fresh.py whole VERB      the import and the first call: of any installation
    python -m benchmarks.fresh memory VERB WORKLOAD MOST THREADS CANDIDATE

Nothing heavy is imported at the top, or the import would be paid before it is timed.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def _child(*words: str, **environment: str) -> dict[str, float]:
    return _run([sys.executable, "-m", "benchmarks.fresh", *words], ROOT, environment)


def measured(python: Path, *words: str, **environment: str) -> dict[str, float]:
    """What this program says under another Python, which finds nothing else of this checkout."""
    unset = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")  # a second import finds bytecode
    usual = {key: value for key, value in os.environ.items() if key not in unset}
    command = [str(python), "-P", __file__, *words]
    return _run(command, Path(tempfile.gettempdir()), environment, usual)


def _run(
    command: list[str],
    folder: Path,
    environment: dict[str, str],
    usual: Mapping[str, str] = os.environ,
) -> dict[str, float]:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**usual, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["died without a word"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


def import_seconds(times: int) -> dict[str, float]:
    """Medians: {"import": sparse_xent with all it brings, "of which numpy": NumPy alone}."""
    _child("import")  # the first one may have to compile bytecode
    found = [_child("import") for _ in range(times)]
    return {key: statistics.median(f[key] for f in found) for key in found[0]}


def first_call_seconds(verb: str, times: int) -> dict[str, float]:
    """Medians: {"cold": with an empty kernel cache, "warm": with what that call left behind}."""
    cold, warm = [], []
    for _ in range(times):
        with tempfile.TemporaryDirectory() as folder:
            caches = {"NUMBA_CACHE_DIR": folder, "XDG_CACHE_HOME": folder}
            cold.append(_child("first", verb, **caches)["seconds"])
            warm.append(_child("first", verb, **caches)["seconds"])
    return {"cold": statistics.median(cold), "warm": statistics.median(warm)}


def extra_mib(workload: str, verb: str, most: int, threads: int, candidate: str) -> float:
    """Peak resident memory of one call, beyond what was there before and the result, in MiB."""
    # Large temporaries are mapped and unmapped one by one: none hides in what malloc kept.
    malloc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    return _child("memory", verb, workload, str(most), str(threads), candidate, **malloc)["mib"]


# --- in the new process --------------------------------------------------------------------------


def _import() -> dict[str, float]:
    start = time.perf_counter()
    import numpy  # noqa: F401

    middle = time.perf_counter()
    import sparse_xent  # noqa: F401

    end = time.perf_counter()
    return {"import": end - start, "of which numpy": middle - start}


def _whole(verb: str) -> dict[str, float]:
    return {"seconds": _import()["import"] + _first(verb)["seconds"]}


def _first(verb: str) -> dict[str, float]:
    import numpy as np

    import sparse_xent as sx

    # Large enough for the threads to take part, small enough to cost nothing by itself.
    x = np.random.default_rng(0).standard_normal((4096, 1000), np.float32)
    y = np.arange(len(x)) % 1000
    start = time.perf_counter()
    loss = sx.SparseCategoricalCrossentropy(from_logits=True)
    if verb == "forward":
        loss(y, x)
    elif verb == "gradient":
        loss.value_and_grad(y, x)
    else:
        loss.value_and_grad(y, x, out=x)
    return {"seconds": time.perf_counter() - start}


def _status(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")


def _forget_peak() -> bool:
    """Begin a new peak of resident memory; False where the kernel does not offer it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _peak_of(call: Any, result_is_new: bool) -> int:
    """Bytes by which the call raised the most that the process ever held, beyond a new result.

    What is too little to be seen is 0: other parts of a process give memory back meanwhile.
    """
    import gc

    gc.collect()
    if _forget_peak():
        before = _status("VmHWM")
        result = call()
        raised = _status("VmHWM") - before
    else:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result = call()
        raised = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
    return max(0, raised - (_bytes_of(result) if result_is_new else 0))


def _bytes_of(result: Any) -> int:
    """Bytes of the arrays or tensors that a call returned."""
    parts = result if isinstance(result, tuple) else (result,)
    return sum(p.nbytes for p in parts if getattr(p, "shape", ()))


def _memory(verb: str, name: str, most: str, threads: str, candidate: str) -> dict[str, float]:
    import numpy as np

    import sparse_xent as sx
    from benchmarks import peers
    from benchmarks.workloads import GRADIENT, IN_PLACE, INTO, OURS, PER_LABEL, WORKLOADS

    sx.config_set_threads(int(threads))

    workload = next(w for w in WORKLOADS if w.name == name).cut(int(most))
    y, x = workload.data()
    if candidate == OURS:
        out = x if verb == IN_PLACE else np.zeros_like(x) if verb == INTO else None
        (local,) = peers.ours(workload, [verb], y, x, out)
    else:
        local = dict(peers.others(workload, verb, y, x, int(threads)))[candidate]()
    # What is made once a process (threads, compiled kernels) is no cost of a call.
    local.run()
    return {"mib": _peak_of(local.run, verb in (PER_LABEL, GRADIENT)) / 2**20}


if __name__ == "__main__":
    measures = {"import": _import, "first": _first, "whole": _whole, "memory": _memory}
    what, *details = sys.argv[1:]
    print(json.dumps(measures[what](*details)))
