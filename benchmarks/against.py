"""`python -m benchmarks.against FOLDER`: this checkout beside an earlier one of the project.

FOLDER is a checkout of any commit with the public names: `git worktree add FOLDER COMMIT` makes
one. Each side is a process of its own with an empty kernel cache of its own; both have the same
data and take turns, round by round. A line a workload: the loss, and value and gradient with
`out=`. Nothing is kept: the table is Markdown, for a page to take.
"""

import argparse
import datetime
import importlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

# Nothing that is imported here imports sparse_xent: in a worker, FOLDER's is to come first.
from benchmarks import answers, host, report
from benchmarks.clock import ENOUGH, interleave
from benchmarks.worker import Worker, serve
from benchmarks.workloads import BATCH, FORWARD, INTO, KINDS, USUAL, WORKLOADS, Workload

HERE = Path(__file__).parent.parent
VERBS = {FORWARD: "forward", INTO: "value and gradient, `out=`"}
NOTHING = ["", "", ""]  # before, after, ratio


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the table; status 1 where a side cannot take part."""
    parser = argparse.ArgumentParser("python -m benchmarks.against", description=__doc__)
    parser.add_argument("folder", type=Path, help="a checkout of an earlier commit")
    parser.add_argument("--only", default="", help="workloads with this in their names")
    parser.add_argument("--kind", choices=(USUAL, *KINDS), default=USUAL, help="of logits")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each line and verb, about")
    parser.add_argument("--scores", type=int, default=sys.maxsize, help="cut to so many scores")
    parser.add_argument("--threads", type=int, default=min(2, len(host.cores())))
    asked = parser.parse_args(arguments)
    workloads = [
        w.cut(asked.scores)
        for w in (*WORKLOADS, BATCH)
        if asked.only in w.name and (asked.kind == USUAL or w.has_kinds)
    ]
    if not workloads:
        parser.error(f"--only {asked.only}: no workload of such data has that in its name")
    if not (asked.folder / "sparse_xent").is_dir():
        parser.error(
            f"{asked.folder} has no folder sparse_xent: `git worktree add FOLDER COMMIT` makes a "
            "checkout"
        )
    host.keep_to(asked.threads)
    with (
        tempfile.TemporaryDirectory() as caches,
        _worker("before", asked.folder, caches, asked) as before,
        _worker("after", HERE, caches, asked) as after,
    ):
        try:
            for side in (before, after):
                side.prepare(next(w for w in WORKLOADS if w.is_tiny), FORWARD).answer()
        except RuntimeError as error:
            print(f"{side.name}: {error}", file=sys.stderr)
            return 1
        rows = [_row(workload, (before, after), asked) for workload in workloads]
    head = [f"{host.name()}, {asked.threads} threads"]
    for said in VERBS.values():
        head += [f"{said}, before", "after", "times as fast"]
    print(*report.markdown(head, rows), sep="\n")
    print(
        f"\nMedians of interleaved rounds on {asked.kind} data, {datetime.date.today()}; "
        f"before: {_commit(asked.folder)}, after: {_commit(HERE)}."
    )
    return 0


def _row(workload: Workload, sides: Sequence[Worker], asked: argparse.Namespace) -> list[str]:
    """The table's line of a workload; what could not be measured is said on stderr."""
    print(f"{workload.name} ...", file=sys.stderr, flush=True)
    cells = [workload.name]
    for verb in VERBS:
        try:
            cells += _cells(workload, verb, sides, asked) if verb in workload.verbs else NOTHING
        except RuntimeError as error:
            print(f"{workload.name}, {verb}: {error}", file=sys.stderr)
            cells += NOTHING
    return cells


def _cells(
    workload: Workload, verb: str, sides: Sequence[Worker], asked: argparse.Namespace
) -> list[str]:
    """Time before, time after, and how many times as fast that is."""
    for side in sides:
        side.send("load", workload)  # at once
    candidates = [side.prepare(workload, verb, least=ENOUGH) for side in sides]
    found = [candidate.answer() for candidate in candidates]
    times = interleave(candidates, asked.rounds, asked.seconds)
    for taken in times:
        if taken.failed:
            raise taken.failed
    before, after = (taken.median for taken in times)
    said = answers.disagreement(workload, *found)
    if said:
        print(f"{workload.name}, {verb}, before: {said}", file=sys.stderr)
    ratio = "other answers" if said else f"{before / after:.2f}"
    return [report.duration(before), report.duration(after), ratio]


def _commit(folder: Path) -> str:
    """The commit of a checkout, with a mark where files were changed; else the folder's name."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return folder.resolve().name
    return done.stdout.strip()


# --- in the process of a side --------------------------------------------------------------------


def _worker(name: str, folder: Path, caches: str, asked: argparse.Namespace) -> Worker:
    cache = Path(caches) / name
    cache.mkdir(mode=0o700)
    return Worker(name, _serve, folder.resolve(), cache, asked.threads, asked.kind)


def _serve(pipe: Connection, folder: Path, cache: Path, threads: int, kind: str) -> None:
    os.environ["NUMBA_CACHE_DIR"] = str(cache)
    sys.path.insert(0, str(folder))

    def make(workload: Workload, verb: str, y: np.ndarray, x: np.ndarray) -> Callable[[], object]:
        usual = kind == USUAL or not workload.has_kinds
        scores = x if usual else workload.of_kind(kind, y, x)
        return _call(_imported(folder), threads, workload, verb, y, scores)

    serve(pipe, make)


def _call(
    sx: Any, threads: int, workload: Workload, verb: str, y: np.ndarray, x: np.ndarray
) -> Callable[[], object]:
    sx.config_set_threads(threads)
    loss = sx.SparseCategoricalCrossentropy(**workload.options)
    if verb == FORWARD:
        return partial(loss, y, x)
    return partial(loss.value_and_grad, y, x, out=np.zeros_like(x))


def _imported(folder: Path) -> Any:
    """The folder's own sparse_xent."""
    try:
        sx = importlib.import_module("sparse_xent")
    except Exception as error:
        raise ImportError(
            f"sparse_xent of {folder} cannot be imported ({type(error).__name__}: {error}): that "
            "commit needs a library, or a version of one, that this Python does not have"
        ) from None
    if not Path(sx.__file__ or "").resolve().is_relative_to(folder):
        raise ImportError(f"sparse_xent comes from {sx.__file__}, not from {folder}")
    return sx


if __name__ == "__main__":
    sys.exit(main())
