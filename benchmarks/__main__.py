"""`python -m benchmarks`: measure, print, and keep what was measured.

A whole run (nothing left out, nothing cut) replaces `benchmarks/results/`, the tables in
benchmarks/README.md and the five lines in README; any other writes only where `--output` says.
`--redraw` measures nothing: it makes pictures and tables anew from the CSV. What misses its goal is
said and is no error: machines are shared, and slow at times.
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

import sparse_xent as sx
from benchmarks import answers, fresh, growth, host, keras_worker, limits, peers, report
from benchmarks.clock import (
    AT_LEAST,
    ENOUGH,
    FEWEST,
    Candidate,
    Local,
    Times,
    interleave,
)
from benchmarks.report import DATA, FIRST_USE, GROWTH, LEFT_OUT, MEMORY, SPEED, Measurement, Report
from benchmarks.worker import Worker
from benchmarks.workloads import (
    AFTER,
    FORWARD,
    GRADIENT,
    IN_PLACE,
    INTO,
    KINDS,
    LIMIT,
    OURS,
    PER_LABEL,
    USUAL,
    WORKLOADS,
    Workload,
)

RESULTS = Path(__file__).parent / "results"
#: Page -> name of its markers -> what stands between them.
PAGES: dict[Path, dict[str, Callable[[Report], str]]] = {
    Path(__file__).parent / "README.md": {SPEED: report.whole_table, DATA: report.data_table},
    Path(__file__).parent.parent / "README.md": {SPEED: report.first_page},
}
QUICK_SCORES = 12_000_000  # 48 MB and more: beyond most caches
EVERY, SOME, NOBODY = "every one that is there", "those with a bar, torch and jax.jit", "none"
ROUNDS, SECONDS = 11, 5.0  # of a whole run

#: Where memory is measured: a long row, a short one, strided ones, halves.
MEMORY_OF = {
    "4096 x 32000": [FORWARD, PER_LABEL, GRADIENT, INTO, IN_PLACE],
    "1,000,000 x 10": [FORWARD, IN_PLACE],
    "NCHW 8 x 21 x 512 x 512": [FORWARD, IN_PLACE],
    "bfloat16 4096 x 32000": [FORWARD, IN_PLACE],
    "R probabilities 50,000 x 1000": [FORWARD],
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what was asked for; status 1 where it could not be kept."""
    parser = _parser()
    asked = _arguments(parser, arguments)
    folder = asked.output or (RESULTS if asked.redraw or _is_whole(asked) else None)
    if folder is not None and (why := _why_not_kept(folder, asked)):  # before it is measured
        parser.error(why)
    if asked.redraw:
        return _keep(report.load(folder / "speed.csv"), folder)
    host.keep_to(asked.threads)
    peers.quieten()
    sx.config_set_threads(asked.threads)
    found = Report(about=_about(asked))
    for key, value in found.about.items():
        print(f"{key}: {value}")
    wanted = partial(_is_wanted, asked.only)
    _measure_speed(found, [w.cut(asked.scores) for w in WORKLOADS if wanted(w.name)], asked)
    for part, measure in PARTS.items():
        if wanted(part):
            measure(found, asked)
    _show(found)
    if folder is not None:
        return _keep(found, folder)
    print("nothing is kept: --output FOLDER would keep it")
    return 0


def _at_least(least: float, kind: type = int) -> Callable[[str], float]:
    """Reads a number for argparse, and refuses less."""

    def number(text: str) -> float:
        value: float = kind(text)
        if not least <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        return value

    number.__name__ = kind.__name__  # what argparse says is expected
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    add = parser.add_argument
    names, cores = ", ".join(_names()), len(host.cores())
    add("--quick", action="store_true", help="fewer scores and rounds: minutes, for a glance")
    add("--only", action="append", metavar="NAME", help=f"what has NAME in its name, of: {names}")
    add("--rounds", type=_at_least(1), help="rounds of each candidate, where it is quick enough")
    add("--seconds", type=_at_least(0.001, float), help="for each workload and verb, about")
    add("--scores", type=_at_least(1), help="cut workloads to so many scores")
    add("--threads", type=_at_least(1), default=min(2, cores), help=f"1 to {cores} (all) here")
    add("--no-peers", action="store_true", help="only this library and the machine's limits")
    add("--redraw", action="store_true", help="measure nothing: pictures and tables from the CSV")
    add("--output", type=Path, metavar="FOLDER", help="where the CSV and the pictures go")
    return parser


def _arguments(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None
) -> argparse.Namespace:
    asked = parser.parse_args(arguments)
    asked.rounds = asked.rounds or (3 if asked.quick else ROUNDS)
    asked.seconds = asked.seconds or (0.5 if asked.quick else SECONDS)
    asked.scores = asked.scores or (QUICK_SCORES if asked.quick else sys.maxsize)
    if asked.threads > len(host.cores()):
        parser.error(f"--threads {asked.threads}: there are {len(host.cores())} cores")
    if asked.only and not any(_is_wanted(asked.only, name) for name in _names()):
        there = ", ".join(_names())
        parser.error(
            f"--only {' '.join(asked.only)}: nothing has that in its name; there are: {there}"
        )
    return asked


def _names() -> list[str]:
    """Whatever --only may ask for."""
    return [w.name for w in WORKLOADS] + list(PARTS)


def _is_wanted(only: Iterable[str] | None, name: str) -> bool:
    return not only or any(part in name for part in only)


def _is_whole(asked: argparse.Namespace) -> bool:
    thorough = asked.rounds >= ROUNDS and asked.seconds >= SECONDS and asked.scores == sys.maxsize
    return thorough and not asked.only and _peers(asked) == EVERY


def _why_not_kept(folder: Path, asked: argparse.Namespace) -> str:
    """What stands in the way of writing there, or of reading the CSV; "" if nothing does."""
    csv = folder / "speed.csv"
    if asked.redraw and not csv.is_file():
        return f"--redraw takes {csv}, which is not there: a whole run, or --output, makes it"
    way_out = "--output FOLDER keeps the results elsewhere"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in (csv, *PAGES) if folder == RESULTS else (csv,):
            was_there = path.exists()
            path.open("ab").close()
            if not was_there:
                path.unlink()
    except OSError as error:
        return f"cannot write {error.filename}: {error.strerror}; {way_out}"
    return ""


def _peers(asked: argparse.Namespace) -> str:
    """Whom to compare with."""
    return NOBODY if asked.no_peers else SOME if asked.quick else EVERY


def _about(asked: argparse.Namespace) -> dict[str, str]:
    return {
        "date": datetime.date.today().isoformat(),
        "machine": host.name(),
        "cores": str(os.cpu_count()),
        "threads": str(asked.threads),
        "python": platform.python_version(),
        **peers.versions(),
        "absent": ", ".join(peers.absent()) or "none",
        "peers": _peers(asked),
        "cut to": "nothing" if asked.scores == sys.maxsize else f"{asked.scores} scores",
    }


# --- speed ---------------------------------------------------------------------------------------


def _measure_speed(found: Report, workloads: Sequence[Workload], asked: argparse.Namespace) -> None:
    with ExitStack() as team_leaves:
        team: list[Worker] = []
        if workloads and _peers(asked) == EVERY and peers.is_there("keras"):
            for backend, library in keras_worker.BACKENDS.items():
                if peers.is_there(library):
                    worker = keras_worker.worker(backend, asked.threads)
                    team.append(team_leaves.enter_context(worker))
        for workload in workloads:
            start = time.perf_counter()
            print(f"\n{workload.name}", flush=True)
            if workload.needs and not peers.is_there(workload.needs):
                found.add(_left_out(workload.name, FORWARD, OURS, f"{workload.needs} is absent"))
                continue
            for worker in team:  # all at once, beside this process
                with suppress(RuntimeError, OSError):  # who is gone is left out below
                    worker.send("load", workload)
            y, x = workload.data()
            out = np.zeros_like(x) if INTO in workload.verbs else None
            mean = answers.mean_loss(workload, y, x)
            for verbs in ((FORWARD, PER_LABEL), (GRADIENT,), (INTO, IN_PLACE)):
                mine = [verb for verb in verbs if verb in workload.verbs]
                if mine:
                    found.add(*_measure(workload, mine, (y, x, out), mean, team, asked))
            if workload.has_kinds:
                found.add(*_measure_kinds(workload, (y, x, out), asked))
            print(f"  {time.perf_counter() - start:.0f} s for all of it", flush=True)


Data = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def _measure(
    workload: Workload,
    verbs: list[str],
    data: Data,
    mean: float,
    team: list[Worker],
    asked: argparse.Namespace,
) -> Iterator[Measurement]:
    """Verbs of one workload that take turns together; the peers do the first of them."""
    y, x, out = data
    right = {verb: answers.expected(workload, verb, y, x, mean) for verb in verbs}
    barred = {bar.against for bar in workload.bars} | {"torch", "jax.jit"}
    makers: list[tuple[str, Callable[[], Candidate | None]]] = [
        (c.name, lambda c=c: c)  # type: ignore[misc]
        for c in peers.ours(workload, verbs, y, x, out)
    ]
    if _peers(asked) != NOBODY:
        others = peers.others(workload, verbs[0], y, x, asked.threads)
        makers += [(n, make) for n, make in others if n in barred or _peers(asked) == EVERY]
        if verbs[0] != INTO:  # which Keras cannot
            note = "class axis moved inside the call" if workload.axis != -1 else ""
            makers += [(w.name, partial(w.prepare, workload, verbs[0], note)) for w in team]
    entered: list[Candidate] = []
    set_up: dict[tuple[str, str], float] = {}
    for name, make in makers:
        start = time.perf_counter()
        try:
            candidate = make()
            if candidate is None:
                continue  # it has no such loss
            said = answers.disagreement(workload, candidate.answer(), right[candidate.verb])
        except Exception as error:
            if name == OURS:
                raise
            yield _left_out(workload.name, verbs[0], name, error)
            continue
        candidate.note = ", ".join(filter(None, [said, candidate.note]))
        candidate.least = _turns(name, barred)
        entered.append(candidate)
        set_up[name, candidate.verb] = time.perf_counter() - start
    entered += _limits(workload, verbs, x, out, asked.threads)
    times = interleave(entered, asked.rounds, asked.seconds, needed=OURS)
    bounds: dict[str, tuple[Measurement, str]] = {}
    for candidate, taken in zip(entered, times, strict=True):
        if taken.failed:
            yield _left_out(workload.name, candidate.verb, candidate.name, taken.failed)
            continue
        row = _row(SPEED, workload.name, candidate, taken, x.size)
        spent = _spent(taken, set_up.get((candidate.name, candidate.verb), 0.0))
        if candidate.name != LIMIT:
            _print(row, spent)
            yield row
        elif candidate.verb not in bounds or row.value < bounds[candidate.verb][0].value:
            bounds[candidate.verb] = row, spent
    for row, spent in bounds.values():
        _print(row, spent)
        yield row


def _turns(name: str, barred: set[str]) -> int:
    """The turns that a candidate takes at least."""
    if name in (OURS, AFTER):
        return ENOUGH
    return AT_LEAST if name in barred or name in report.ALWAYS_SHOWN else FEWEST


def _measure_kinds(
    workload: Workload, data: Data, asked: argparse.Namespace
) -> Iterator[Measurement]:
    """This library alone, on logits of each kind, in turns with the usual ones."""
    y, x, out = data
    of = {USUAL: x, **{kind: workload.of_kind(kind, y, x) for kind in KINDS}}
    means = {kind: answers.mean_loss(workload, y, scores) for kind, scores in of.items()}
    for verb in (FORWARD, INTO):
        entered = []
        for kind, scores in of.items():
            (candidate,) = peers.ours(workload, [verb], y, scores, out)
            right = answers.expected(workload, verb, y, scores, means[kind])
            candidate.note = answers.disagreement(workload, candidate.answer(), right)
            candidate.name, candidate.least = report.on_kind(kind), ENOUGH
            entered.append(candidate)
        needed = report.on_kind(USUAL)
        times = interleave(entered, asked.rounds, asked.seconds, needed)
        for candidate, taken in zip(entered, times, strict=True):
            if taken.failed:
                raise taken.failed
            row = _row(DATA, workload.name, candidate, taken, x.size)
            _print(row, _spent(taken))
            yield row


def _row(part: str, subject: str, candidate: Candidate, taken: Times, scores: int) -> Measurement:
    return Measurement(
        part,
        subject,
        candidate.verb,
        candidate.name,
        taken.median,
        "s",
        *taken.quartiles,
        rounds=len(taken.seconds),
        scores=scores,
        note=candidate.note,
    )


def _left_out(subject: str, verb: str, name: str, why: object) -> Measurement:
    """Who could not take part, printed and as a line of the CSV."""
    reason = f"{type(why).__name__}: {why}" if isinstance(why, Exception) else str(why)
    reason = " ".join(reason.split())[:200]  # what is wrong may stand in a later line
    print(f"  {name} is left out: {reason}", flush=True)
    return Measurement(LEFT_OUT, subject, verb, name, 0.0, "", note=reason)


def _limits(
    workload: Workload, verbs: list[str], x: np.ndarray, out: np.ndarray | None, threads: int
) -> list[Local]:
    """The variants of the limit of each verb, compiled; the fastest will count."""
    if not workload.has_limit:
        return []
    moved = {
        FORWARD: (limits.READ, x, None),
        INTO: (limits.COPY, x, out),
        IN_PLACE: (limits.UPDATE, out, out),
    }
    candidates = []
    for verb in verbs:
        variants, source, target = moved.get(verb, ([], x, None))
        for variant in variants:
            run = partial(limits.move, variant, source, target, threads)
            run()
            candidates.append(Local(LIMIT, verb, run, note=str(variant), least=ENOUGH))
    return candidates


def _print(row: Measurement, spent: str) -> None:
    first, third = report.duration(row.first_quartile), report.duration(row.third_quartile)
    who, took = f"{row.verb:14}  {row.candidate:30}", f"{report.duration(row.value):>8}"
    line = f"  {who}  {took}  {f'({first} .. {third})':22}  {spent:28}"
    print(f"{line}  {row.note}".rstrip(), flush=True)


def _spent(taken: Times, set_up: float = 0.0) -> str:
    """Where the time of a run goes: the rounds of a candidate, and its data, compiler and check."""
    return f"{len(taken.seconds)} rounds {taken.spent:.1f} s, before {set_up:.1f} s"


# --- memory, first use, growth -------------------------------------------------------------------


def _measure_memory(found: Report, asked: argparse.Namespace) -> None:
    print("\nmemory beyond the result", flush=True)
    of = list(MEMORY_OF.items())
    for name, verbs in of[:1] if asked.quick else of:
        workload = next(w for w in WORKLOADS if w.name == name)
        if workload.needs and not peers.is_there(workload.needs):
            found.add(_left_out(name, "memory", OURS, f"{workload.needs} is absent"))
            continue
        rivals = ["torch"] if name == of[0][0] and not asked.no_peers else []
        for verb in verbs:
            rival = rivals if verb in (FORWARD, GRADIENT, INTO) and peers.is_there("torch") else []
            for candidate in [OURS, *rival]:
                try:
                    mib = fresh.extra_mib(name, verb, asked.scores, asked.threads, candidate)
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    if candidate == OURS:
                        raise
                    found.add(_left_out(name, verb, candidate, error))
                    continue
                found.add(Measurement(MEMORY, name, verb, candidate, mib, "MiB"))
                print(f"  {name}  {verb}  {candidate}  {report.mebibytes(mib)}", flush=True)


def _measure_import(found: Report, asked: argparse.Namespace) -> None:
    print("\nimport", flush=True)
    times = min(asked.rounds, ENOUGH)
    for what, seconds in fresh.import_seconds(times).items():
        found.add(Measurement(FIRST_USE, "import", what, OURS, seconds, "s", rounds=times))
        print(f"  {what}  {seconds:.2f} s", flush=True)


def _measure_first_call(found: Report, asked: argparse.Namespace) -> None:
    print("\nfirst call", flush=True)
    times = 1 if asked.rounds < AT_LEAST else min(asked.rounds, ENOUGH)
    for verb in (FORWARD, IN_PLACE):
        for cache, seconds in fresh.first_call_seconds(verb, times).items():
            subject = f"first call, {'empty' if cache == 'cold' else 'warm'} cache"
            found.add(Measurement(FIRST_USE, subject, verb, OURS, seconds, "s", rounds=times))
            print(f"  {subject}  {verb}  {seconds:.2f} s", flush=True)


def _measure_growth(found: Report, asked: argparse.Namespace) -> None:
    print("\ngrowth: nanoseconds a score", flush=True)
    seconds, rounds = 2 * asked.seconds, min(asked.rounds, ENOUGH)
    for point, times in growth.measure(asked.scores, asked.threads, rounds, seconds):
        value, first, third = (1e9 * s / point.scores for s in (times.median, *times.quartiles))
        row = Measurement(GROWTH, point.name, point.verb, OURS, value, "ns", first, third)
        found.add(replace(row, rounds=len(times.seconds), scores=point.scores))
        print(f"  {point.verb:9}  {point.name:26}  {report.number(value)}", flush=True)


#: What is measured beside the workloads' speed, by the name that --only takes.
PARTS = {
    "memory": _measure_memory,
    "import": _measure_import,
    "first call": _measure_first_call,
    "growth": _measure_growth,
}


# --- what is shown and kept ----------------------------------------------------------------------


def _show(found: Report) -> None:
    if found.of(SPEED):
        print("", *report.speed_table(found), sep="\n")
    if found.of(DATA):
        print("", report.data_table(found), sep="\n")
    if found.of(MEMORY) or found.of(FIRST_USE):
        print("", *report.costs_table(found), sep="\n")
    judged = list(report.verdicts(found))
    missed = [verdict for verdict in judged if not verdict.met]
    print(f"\n{len(judged) - len(missed)} of {len(judged)} goals met")
    for verdict in missed:
        print(f"goal missed: {verdict}")
    for row in found.rows:
        if row.note.startswith("other "):
            print(f"answers otherwise: {row.candidate}, {row.subject}, {row.verb}: {row.note}")
    for row in found.of(LEFT_OUT):
        print(f"left out: {row.candidate}, {row.subject}, {row.verb}: {row.note}")
    print(f"peers: {found.about['peers']}; absent: {found.about['absent']}")


def _keep(found: Report, folder: Path) -> int:
    """Write CSV, tables and pictures; where that fails the CSV is printed, status 1."""
    try:
        (folder / "speed.csv").write_text(report.dump(found), "utf-8")
        for page, tables in PAGES.items() if folder == RESULTS else ():
            text = page.read_text("utf-8")
            for name, table in tables.items():
                if report.marked(text, name) is None:
                    print(f"{page} has no <!-- {name} --> ... <!-- /{name} -->: its table is\n")
                    print(table(found), end="\n\n")
                text = report.mark(text, table(found), name)
            page.write_text(text, "utf-8")
        if peers.is_there("matplotlib"):
            from benchmarks import pictures

            if any(report.ratios(found, name, FORWARD) for name in report.FIRST_PAGE):
                pictures.peers(found, folder / "peers.png")
            if any(row.candidate == LIMIT for row in found.of(SPEED)):
                pictures.bandwidth(found, folder / "bandwidth.png")
            if found.of(GROWTH):
                pictures.growth(found, folder / "growth.png")
        else:
            print("matplotlib is not installed: no pictures")
    except OSError as error:
        print(report.dump(found))
        print(f"could not keep it ({error}): above is what speed.csv would hold", file=sys.stderr)
        return 1
    print(f"kept in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
