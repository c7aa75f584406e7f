"""What is made of the measurements: the CSV, the tables, and how they stand to the goals.

Every figure shown anywhere comes from the CSV through here, so that a test can hold README's five
lines, the whole table in benchmarks/README.md and the picture to the committed file. They show what
was measured and nothing else; the goals (`Bar`) are for those who work on the kernels, and only the
bench's own output speaks of them.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path

from benchmarks.workloads import (
    FORWARD,
    GRADIENT,
    IN_PLACE,
    INTO,
    KINDS,
    LIMIT,
    OURS,
    USUAL,
    WORKLOADS,
    Bar,
    Workload,
)

SPEED, MEMORY, FIRST_USE, GROWTH = "speed", "memory", "first use", "growth"
DATA = "data"  # this library on logits of each kind
LEFT_OUT = "left out"  # who could not take part, and why

#: (subject, verb) -> the most that it may be, in the measurement's unit.
COSTS = {
    ("import", "import"): 0.4,
    ("first call, empty cache", FORWARD): 3.0,
    ("first call, empty cache", IN_PLACE): 3.0,
    ("first call, warm cache", FORWARD): 0.4,
    ("first call, warm cache", IN_PLACE): 0.4,
}
MEMORY_BAR = {FORWARD: 1.0, IN_PLACE: 1.0}  # MiB beyond the result
HOW_TO_READ_IT = (
    '"torch 15" took 15 times as long; 100 % is the fastest read or copy of this memory.',
    "New array: every candidate makes one for the gradient.",
    "`out=`: every candidate fills one that is kept; torch by the faster of softmax(out=) and",
    "cross_entropy's kernels with out=, JAX by a donated buffer; SciPy and Keras cannot.",
)
ALWAYS_SHOWN = ("torch", "torch.compile", "jax.jit")  # of those who are slower or faster

#: What README shows: workload -> its name there.
FIRST_PAGE = {
    "4096 x 32000": "4096 labels, 32,000 classes",
    "50,000 x 1000": "50,000 labels, 1000 classes",
    "1,000,000 x 10": "1,000,000 labels, 10 classes",
    "NCHW 8 x 21 x 512 x 512": "8 maps of 512 x 512 pixels, 21 classes, channels first",
    "R probabilities 50,000 x 1000": "50,000 labels, 1000 classes, probabilities in an R matrix",
}
PEERS = ("torch", "jax.jit", "Keras")  # beside whom, each by the quickest of its ways
_PEER_OF = {
    "torch.compile": "torch",
    **{f"keras ({b})": "Keras" for b in ("tensorflow", "torch", "jax")},
}


@dataclass(frozen=True)
class Measurement:
    """One line of the CSV: a median, and the quartiles of its rounds."""

    part: str  # SPEED, DATA, MEMORY, FIRST_USE, GROWTH or LEFT_OUT
    subject: str  # the workload's name, or a point of a curve
    verb: str
    candidate: str
    value: float
    unit: str
    first_quartile: float = 0.0
    third_quartile: float = 0.0
    rounds: int = 1
    scores: int = 0  # how many went in
    note: str = ""


@dataclass
class Report:
    """The measurements, and where and when they were made."""

    about: dict[str, str] = field(default_factory=dict)
    rows: list[Measurement] = field(default_factory=list)

    def add(self, *rows: Measurement) -> None:
        """Append measurements."""
        self.rows += rows

    def of(self, part: str) -> list[Measurement]:
        """The measurements of one part."""
        return [row for row in self.rows if row.part == part]

    def find(
        self, subject: str, verb: str, candidate: str = OURS, part: str = SPEED
    ) -> float | None:
        """A value; None where it was not measured."""
        for row in self.of(part):
            if (row.subject, row.verb, row.candidate) == (subject, verb, candidate):
                return row.value
        return None


# --- the file ------------------------------------------------------------------------------------


def dump(report: Report) -> str:
    """The report as CSV, after a head of `# key: value` lines."""
    text = io.StringIO()
    for key, value in report.about.items():
        text.write(f"# {key}: {value}\n")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(f.name for f in fields(Measurement))
    for row in report.rows:
        lines.writerow(f"{cell:.6g}" if isinstance(cell, float) else cell for cell in astuple(row))
    return text.getvalue()


def load(path: Path) -> Report:
    """What `dump` wrote."""
    lines = path.read_text("utf-8").splitlines()
    head = [line[2:].partition(": ") for line in lines if line.startswith("# ")]
    about = {key: value for key, _, value in head}
    rows = csv.DictReader(line for line in lines if not line.startswith("# "))
    kinds = {f.name: f.type for f in fields(Measurement)}
    return Report(about, [Measurement(**{k: kinds[k](v) for k, v in row.items()}) for row in rows])  # type: ignore[operator]


# --- bars ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """A bar, and what was reached."""

    subject: str
    bar: Bar
    reached: float

    @property
    def met(self) -> bool:
        return self.reached <= self.bar.bar if self._is_cost else self.reached >= self.bar.bar

    @property
    def _is_cost(self) -> bool:
        return self.bar.against in ("microseconds", "seconds", "MiB")

    def __str__(self) -> str:
        where, bar = f"{self.subject}, {self.bar.verb}", self.bar
        if self._is_cost:
            return f"{where}: {number(self.reached)} {bar.against}, bar {bar.bar:g}"
        if bar.against == LIMIT:
            return f"{where}: {self.reached:.0f} % of the limit, bar {bar.bar:g}"
        return f"{where}: {number(self.reached)} times {bar.against}, bar {bar.bar:g}"


def reached(report: Report, workload: Workload, bar: Bar) -> float | None:
    """What a workload reached of a bar; None where one side was not measured."""
    mine = report.find(workload.name, bar.verb)
    if mine is None:
        return None
    if bar.against == "microseconds":
        return 1e6 * mine
    if bar.against == LIMIT:
        return percent_of_limit(report, workload, bar.verb)
    other = report.find(workload.name, bar.verb, bar.against)
    return None if other is None else other / mine


def percent_of_limit(report: Report, workload: Workload, verb: str) -> float | None:
    """Bytes a second, in percent of those of the machine's own loop; None where not measured."""
    mine, limit = (report.find(workload.name, verb, name) for name in (OURS, LIMIT))
    if mine is None or limit is None:
        return None
    return 100 * workload.bytes_over_limit(verb) * limit / mine


def verdicts(report: Report) -> Iterator[Verdict]:
    """Every bar that could be judged."""
    for workload in WORKLOADS:
        for bar in workload.bars:
            found = reached(report, workload, bar)
            if found is not None:
                yield Verdict(workload.name, bar, found)
    for row in report.rows:
        if row.candidate == OURS and row.part == FIRST_USE:
            if (row.subject, row.verb) in COSTS:
                bar = Bar(row.verb, "seconds", COSTS[row.subject, row.verb])
                yield Verdict(row.subject, bar, row.value)
        elif row.candidate == OURS and row.part == MEMORY and row.verb in MEMORY_BAR:
            bar = Bar(row.verb, "MiB", MEMORY_BAR[row.verb])
            yield Verdict(f"extra memory, {row.subject}", bar, row.value)


# --- tables --------------------------------------------------------------------------------------


def number(x: float) -> str:
    """Two digits that count, and all that stand before the point."""
    return f"{x:.0f}" if abs(x) >= 9.95 else f"{x:.1f}" if abs(x) >= 0.95 else f"{x:.2g}"


def duration(seconds: float) -> str:
    """With a unit that suits it."""
    if seconds < 1e-3:
        return f"{number(1e6 * seconds)} µs"
    return f"{number(1e3 * seconds)} ms" if seconds < 1 else f"{number(seconds)} s"


def mebibytes(x: float) -> str:
    """Memory; below a tenth of one it is lost among a process's other pages."""
    return f"{number(x)} MiB" if x >= 0.1 else "none measurable"


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """Lines of a table."""
    head = list(head)
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]


def speed_table(report: Report, workloads: Iterable[Workload] = WORKLOADS) -> list[str]:
    """One line a workload: times, percentages of the limit, and by how much who is slower."""
    machine, threads = (report.about.get(key, "?") for key in ("machine", "threads"))
    head = [
        f"{machine}, {threads} threads; float32 logits unless said",
        "forward",
        "of read limit",
        "others, times as long",
        "value and gradient, new array",
        "others, times as long",
        "value and gradient, `out=`",
        "of copy limit",
        "others, times as long",
    ]
    rows = []
    for w in workloads:
        forward, fresh, into = (_cells(report, w, verb) for verb in (FORWARD, GRADIENT, INTO))
        cells = [*forward, fresh[0], fresh[2], *into]
        if any(cells):
            rows.append([w.name, *cells])
    return markdown(head, rows)


def _cells(report: Report, workload: Workload, verb: str) -> tuple[str, str, str]:
    """(time, percent of the limit, who is how much slower)."""
    mine = report.find(workload.name, verb)
    if mine is None:
        return "", "", ""
    percent = percent_of_limit(report, workload, verb)
    shown = "" if percent is None else f"{percent:.0f} %"
    rivals = _rivals(report, workload, verb, mine)
    return duration(mine), shown, ", ".join(f"{name} {number(ratio)}" for name, ratio in rivals)


def on_kind(kind: str) -> str:
    """This library on logits of a kind, as a candidate."""
    return f"{OURS}, {kind}"


def data_table(report: Report) -> str:
    """What stands in benchmarks/README.md of other kinds of logits: ratios to the usual ones."""
    if not report.of(DATA):
        return "Not measured yet."

    def ratio(subject: str, verb: str, kind: str) -> str:
        usual = report.find(subject, verb, on_kind(USUAL), DATA)
        seconds = report.find(subject, verb, on_kind(kind), DATA)
        return f"{seconds / usual:.2f}" if seconds and usual else ""

    rows = []
    for w in WORKLOADS:
        ratios = [[ratio(w.name, verb, kind) for verb in (FORWARD, INTO)] for kind in KINDS]
        cells = [" / ".join(filter(None, both)) for both in ratios]
        if any(cells):
            rows.append([w.name, *cells])
    return "\n".join(markdown(["forward / value and gradient, `out=`", *KINDS], rows))


def _rivals(report: Report, workload: Workload, verb: str, mine: float) -> list[tuple[str, float]]:
    """torch, jax.jit, those with a goal, and the fastest of the rest: (name, times slower)."""
    found = {
        row.candidate: row.value / mine
        for row in report.of(SPEED)
        if (row.subject, row.verb) == (workload.name, verb)
        and row.candidate not in (OURS, LIMIT)
        and not row.note.startswith("other")
    }
    always = {*ALWAYS_SHOWN, *(bar.against for bar in workload.bars)}
    shown = [name for name in found if name in always]
    rest = sorted((name for name in found if name not in shown), key=found.__getitem__)[:1]
    return [(name, found[name]) for name in [*shown, *rest]]


def costs_table(report: Report) -> list[str]:
    """Memory and first use."""
    rows = [
        [
            row.subject,
            row.verb,
            row.candidate,
            mebibytes(row.value) if row.part == MEMORY else duration(row.value),
            row.note,
        ]
        for row in report.of(MEMORY) + report.of(FIRST_USE)
    ]
    return markdown(["", "verb", "candidate", "", "note"], rows)


def ratios(report: Report, subject: str, verb: str) -> dict[str, float]:
    """Times as long as ours that each of PEERS took; who was not measured is left out."""
    mine = report.find(subject, verb)
    found: dict[str, float] = {}
    for row in report.of(SPEED):
        if mine is None or (row.subject, row.verb) != (subject, verb):
            continue
        name = _PEER_OF.get(row.candidate, row.candidate)
        if name in PEERS and not row.note.startswith("other"):
            found[name] = min(row.value / mine, found.get(name, float("inf")))
    return found


def first_page(report: Report) -> str:
    """What stands in README between its markers: five lines."""
    head = ["", "loss", *PEERS, "loss and gradient", *PEERS]
    rows = []
    for subject, name in FIRST_PAGE.items():
        cells = []
        for verb in (FORWARD, GRADIENT):
            mine, others = report.find(subject, verb), ratios(report, subject, verb)
            cells.append("" if mine is None else duration(mine))
            cells += [f"{number(others[peer])} x" if peer in others else "" for peer in PEERS]
        if any(cells):
            rows.append([name, *cells])
    machine, threads = (report.about.get(key, "?") for key in ("machine", "threads"))
    compiled = any(row.candidate == "torch.compile" for row in report.of(SPEED))
    said = (
        f"{_measured(report)} {machine}, {threads} threads. Scores are float32 logits, but float64 "
        "from R. The gradient is a new array. 2.0 x: it took twice as long as sparse_xent. Keras "
        "is the quickest of its backends torch, JAX and TensorFlow"
        + (", torch the quicker of eager and torch.compile" if compiled else "")
        + ". An empty cell was not measured."
    )
    return "\n".join([*markdown(head, rows), "", said])


def _measured(report: Report) -> str:
    """When, and with which versions."""
    about = report.about
    names = [f"{k} {about[k]}" for k in ("sparse_xent", "torch", "jax", "keras") if k in about]
    return f"Medians of interleaved rounds, {about.get('date', '?')}, {', '.join(names)}."


def whole_table(report: Report) -> str:
    """What stands in benchmarks/README.md between its markers."""
    said = [
        _measured(report),
        *HOW_TO_READ_IT,
        *_costs(report),
    ]
    table = speed_table(report, [w for w in WORKLOADS if w.in_readme])
    return "\n".join([*table, "", " ".join(said)])


def _costs(report: Report) -> Iterator[str]:
    """Sentences on memory and first use: the worst of each."""
    extra = [row for row in report.of(MEMORY) if row.candidate == OURS]
    parts = [
        f"{verb} {mebibytes(max(row.value for row in extra if row.verb == verb))}"
        for verb in MEMORY_BAR
        if any(row.verb == verb for row in extra)
    ]
    if parts:
        yield f"Memory beyond the arguments and the result, at most: {', '.join(parts)}."
    first = {
        subject: max(row.value for row in report.of(FIRST_USE) if row.subject == subject)
        for subject, verb in COSTS
        if report.find(subject, verb, part=FIRST_USE) is not None
    }
    if first:
        yield f"Seconds: {', '.join(f'{name} {number(s)}' for name, s in first.items())}."


def marked(text: str, name: str = SPEED) -> str | None:
    """What a text has between the markers of that name; None without them."""
    found = re.search(f"<!-- {name} -->\n(.*?)\n?<!-- /{name} -->", text, re.DOTALL)
    return found and found[1]


def mark(text: str, table: str, name: str = SPEED) -> str:
    """The text with the table between the markers of that name; as it was, if it has none."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, has_begin, rest = text.partition(begin)
    _, has_end, after = rest.partition(end)
    return f"{before}{begin}\n{table}\n{end}{after}" if has_begin and has_end else text
