"""What was found: a line of JSON each, as soon as it is there, and the tables made of the lines."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]

#: % of the roof that SPEED.md's goals ask for, by workload and verb; "x" is a multiple of a rival.
FORWARD, BOTH, IN_PLACE = "forward", "forward + gradient", "in place"


@dataclass
class Record:
    """The rows of one run, and when it must end."""

    seconds: float
    folder: Path | None = None
    rows: list[Row] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds until the run must end."""
        return self.seconds - (time.monotonic() - self.started)

    def add(self, part: str, name: str, **found: Any) -> None:
        """Keep a row, print it, and write it where it will be found if the run breaks off."""
        row = {"part": part, "name": name, **found, "at": round(self.seconds - self.left, 1)}
        self.rows.append(row)
        line = json.dumps(row, default=str)
        print(line, flush=True)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "gpu.jsonl").open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def of(self, part: str) -> list[Row]:
        """The rows of one part."""
        return [row for row in self.rows if row["part"] == part]

    def failed(self) -> list[Row]:
        """What came out wrong, or broke."""
        return [row for row in self.rows if row.get("ok") is False]


def read(path: Path) -> list[Row]:
    """The rows of a file that `Record.add` wrote; the last may have been cut off."""
    rows = []
    for line in path.read_text("utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def tables(record: Record) -> str:
    """All that was found, in Markdown."""
    return "\n".join(
        [
            *_about(record),
            *_speed(record),
            *_host(record),
            *_checks(record),
        ]
    )


def _about(record: Record) -> Iterator[str]:
    for row in record.of("versions"):
        yield f"{row['name']}: {row['value']}"
    yield ""


def _speed(record: Record) -> Iterator[str]:
    roofs = {row["name"]: row["gigabytes_per_second"] for row in record.of("roof")}
    for name, speed in roofs.items():
        yield f"roof, {name}: {speed:.0f} GB/s"
    times = record.of("time")
    if not times:
        return
    rivals = [n for n in dict.fromkeys(row["who"] for row in times) if n != "ours"]
    yield ""
    yield f"| workload | verb | ours | GB/s | % of the roof | goal | {' | '.join(rivals)} |"
    yield f"|{'---|' * (6 + len(rivals))}"
    for name, verb in dict.fromkeys((row["name"], row["verb"]) for row in times):
        by_who = {r["who"]: r for r in times if (r["name"], r["verb"]) == (name, verb)}
        ours = by_who.get("ours")
        if ours is None or "milliseconds" not in ours:
            continue
        roof = roofs.get("copy" if ours["written"] else "read", math.nan)
        percent = 100 * ours["gigabytes_per_second"] / roof
        goal = ours["goal"]
        shown = f"{percent:.0f}" if not goal or percent >= goal else f"**{percent:.0f}**"
        others = [_times(by_who.get(rival), ours["milliseconds"]) for rival in rivals]
        yield (
            f"| {name} | {verb} | {ours['milliseconds']:.3f} ms "
            f"| {ours['gigabytes_per_second']:.0f} | {shown} | {goal or ''} "
            f"| {' | '.join(others)} |"
        )
    yield ""


def _times(row: Row | None, ours: float) -> str:
    """A rival's time as a multiple of ours."""
    if row is None:
        return ""
    return f"{row['milliseconds'] / ours:.2f} x" if "milliseconds" in row else row["error"][:60]


def _host(record: Record) -> Iterator[str]:
    for row in record.of("host time"):
        yield f"host time, {row['name']}: {row['microseconds']:.1f} us (goal 10)"


def _checks(record: Record) -> Iterator[str]:
    for part in ("correct", "labels", "graph", "arrays"):
        rows = record.of(part)
        wrong = [row for row in rows if not row["ok"]]
        yield f"{part}: {len(rows) - len(wrong)} of {len(rows)} right"
        for row in wrong:
            yield f"  wrong: {row['name']}: {row['said']}"
    for row in record.of("left out"):
        yield f"left out: {row['name']}: {row['why']}"
    yield f"{record.seconds - record.left:.0f} s of {record.seconds:.0f}"
