"""The bench tells the truth: its limits move the bytes, its answers are right, the pages show it.

No time is asserted here: machines are shared, and `make bench` prints what misses its goal.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import require_peer

from benchmarks import answers, limits, peers, report, tensors
from benchmarks.__main__ import PAGES, main
from benchmarks.clock import AT_LEAST, ENOUGH, FEWEST, Local, interleave
from benchmarks.report import DATA, FIRST_USE, GROWTH, LEFT_OUT, MEMORY, SPEED, Measurement, Report
from benchmarks.workloads import (
    AFTER,
    CONFIDENT,
    FAR_OFFSET,
    FORWARD,
    GRADIENT,
    GRADIENTS,
    IN_PLACE,
    INTO,
    KINDS,
    LIMIT,
    MASKED,
    OFFSET,
    OURS,
    SPREAD,
    SUBNORMAL,
    USUAL,
    WIDE_SPREAD,
    WORKLOADS,
    Workload,
)

ROOT = Path(__file__).parent.parent
CSV = ROOT / "benchmarks" / "results" / "speed.csv"

by_workload = pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)


def bench(*arguments, of="benchmarks", **environment):
    """Run `python -m benchmarks`, or another module; returns what became of it."""
    return subprocess.run(
        [sys.executable, "-m", of, *arguments],
        cwd=ROOT,
        env={**os.environ, "NUMBA_NUM_THREADS": "2", **environment},
        capture_output=True,
        text=True,
    )


# --- the pages that show it ----------------------------------------------------------------------


TABLES = [(page, name) for page, tables in PAGES.items() for name in tables]


@pytest.mark.parametrize(
    ("page", "name"), TABLES, ids=[f"{page.relative_to(ROOT)}-{name}" for page, name in TABLES]
)
def test_a_table_is_that_of_the_committed_measurements(page, name):
    shown = report.marked(page.read_text("utf-8"), name)
    if CSV.exists():
        assert shown == PAGES[page][name](report.load(CSV))
    else:
        assert shown is None, f"{page} shows figures without the CSV that they come from"


def test_readme_has_five_lines_of_it_and_the_picture():
    text = (ROOT / "README.md").read_text("utf-8")
    table = [line for line in report.marked(text).splitlines() if line.startswith("| ")]
    assert len(table) == 1 + len(report.FIRST_PAGE) == 6
    assert "](benchmarks/results/peers.png)" in text
    assert "](benchmarks/README.md)" in text


def description(path):
    """What a PNG says of itself."""
    png = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    with png.open(path) as picture:
        return picture.text["Description"]


def test_readmes_picture_shows_the_committed_measurements():
    pictures = pytest.importorskip("benchmarks.pictures", reason="matplotlib is not installed")
    kept = report.load(CSV)
    assert description(CSV.parent / "peers.png") == pictures.caption(kept)
    figure = pictures.peers_figure(kept)
    for panel, verb in zip(figure.axes, (FORWARD, GRADIENT), strict=True):
        due = [x for name in report.FIRST_PAGE for x in report.ratios(kept, name, verb).values()]
        assert [bar.get_width() for bar in panel.patches] == due
    assert figure.get_facecolor() == (1, 1, 1, 1)  # on dark pages too


def test_drawn_anew_from_the_csv_without_measuring(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    (tmp_path / "speed.csv").write_bytes(CSV.read_bytes())
    ran = bench("--redraw", "--output", str(tmp_path))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert (tmp_path / "speed.csv").read_bytes() == CSV.read_bytes()
    for name in ("peers.png", "bandwidth.png", "growth.png"):
        image = pytest.importorskip("matplotlib.image", reason="matplotlib is not installed")
        drawn, kept = (image.imread(folder / name) for folder in (tmp_path, CSV.parent))
        assert drawn.shape == kept.shape
        assert abs(drawn - kept).mean() < 0.03  # fonts move by a pixel between versions


def test_committed_measurements_are_a_whole_run():
    if CSV.exists():
        kept = report.load(CSV)
        assert kept.about["cut to"] == "nothing"
        assert {row.subject for row in kept.of(SPEED)} == {w.name for w in WORKLOADS}
        assert {row.part for row in kept.rows} >= {SPEED, MEMORY, FIRST_USE, GROWTH}
        timed = [row for row in kept.rows if row.part in (SPEED, DATA, GROWTH)]
        if kept.of(DATA):  # measured since nothing rests on one round
            assert min(row.rounds for row in timed) >= FEWEST
            assert min(row.rounds for row in timed if row.candidate.startswith(OURS)) >= ENOUGH


def test_a_table_is_put_between_the_markers_and_nowhere_else():
    speed = "<!-- speed -->\nold\n<!-- /speed -->"
    text = f"before\n{speed}\nafter\n{speed.replace('speed', 'data')}\n"
    assert report.marked(text) == report.marked(text, DATA) == "old"
    assert report.mark(text, "| new |") == text.replace("old", "| new |", 1)
    assert report.mark(text, "| new |", DATA) == "| new |".join(text.rsplit("old", 1))
    assert report.marked("no markers") is None
    assert report.mark("no markers", "| new |") == "no markers"


# --- the report ----------------------------------------------------------------------------------


def measured(seconds, *, candidate=OURS, verb=FORWARD, subject="4096 x 32000"):
    return Measurement(SPEED, subject, verb, candidate, seconds, "s", rounds=7, scores=131_072_000)


@pytest.fixture
def found():
    """The forward limit is missed, torch and the gradient's limit are beaten by enough."""
    return Report(
        {"machine": "a loom: two, cores", "threads": "2", "date": "2024-01-01", "torch": "2.0"},
        [
            measured(0.100),
            measured(0.050, candidate=LIMIT),
            measured(2.000, candidate="torch"),
            measured(0.300, verb=GRADIENT),
            measured(0.900, verb=GRADIENT, candidate="torch"),
            measured(0.200, verb=INTO),
            measured(0.150, verb=INTO, candidate=LIMIT),
            measured(0.500, verb=INTO, candidate="torch"),
            measured(5e-6, subject="one call of 2 x 3, float64"),
            Measurement(MEMORY, "4096 x 32000", FORWARD, OURS, 0.25, "MiB"),
            Measurement(MEMORY, "4096 x 32000", FORWARD, "torch", 500.0, "MiB"),
            Measurement(FIRST_USE, "import", "import", OURS, 0.5, "s", note='said "so", twice'),
        ],
    )


def test_a_report_is_read_as_it_was_written(found, tmp_path):
    (tmp_path / "speed.csv").write_text(report.dump(found), "utf-8")
    assert report.load(tmp_path / "speed.csv") == found


def test_bars_are_judged_from_the_measurements_alone(found):
    judged = {str(verdict): verdict.met for verdict in report.verdicts(found)}
    assert judged == {
        "4096 x 32000, forward: 50 % of the limit, bar 88": False,
        "4096 x 32000, forward: 20 times torch, bar 12": True,
        "4096 x 32000, gradient, out=: 75 % of the limit, bar 62": True,
        "4096 x 32000, gradient: 3.0 times torch, bar 15": False,
        "one call of 2 x 3, float64, forward: 5.0 microseconds, bar 4": False,
        "extra memory, 4096 x 32000, forward: 0.25 MiB, bar 1": True,
        "import, import: 0.5 seconds, bar 0.4": False,
    }


def test_the_table_tells_the_processor_and_a_new_gradient_from_one_that_is_kept(found):
    text = report.whole_table(found)
    assert text.startswith(
        "| a loom: two, cores, 2 threads; float32 logits unless said | forward |"
    )
    assert (
        "| value and gradient, new array | others, times as long | value and gradient, `out=` |"
        in text
    )
    new, kept = "300 ms | torch 3.0", "200 ms | 75 % | torch 2.5"
    assert f"| 4096 x 32000 | 100 ms | 50 % | torch 20 | {new} | {kept} |" in text
    assert "| one call of 2 x 3, float64 | 5.0 µs |" in text
    assert "New array: every candidate makes one for the gradient. `out=`: every candid" in text
    assert "rounds, 2024-01-01, torch 2.0." in text
    assert "result, at most: forward 0.25 MiB. Seconds: import 0.5." in text


def test_percentages_of_the_limit_count_labels(found):
    # 100 rows of 10 float32: 4000 bytes of scores and 800 of labels, and 4000 of gradient.
    for verb, percent in ((FORWARD, 60), (INTO, 55), (IN_PLACE, 55)):
        found.add(measured(0.2, subject="1,000,000 x 10", verb=verb))
        found.add(measured(0.1, subject="1,000,000 x 10", verb=verb, candidate=LIMIT))
        (workload,) = (w for w in WORKLOADS if w.name == "1,000,000 x 10")
        assert report.percent_of_limit(found, workload, verb) == pytest.approx(percent)
    assert "| 1,000,000 x 10 | 200 ms | 60 % |  |  |  | 200 ms | 55 % |  |" in report.whole_table(
        found
    )


def test_the_table_of_other_logits_has_ratios_to_the_usual_ones(found):
    assert report.data_table(found) == "Not measured yet."
    for kind, seconds in {USUAL: 0.1, **dict.fromkeys(KINDS, 0.12), CONFIDENT: 0.105}.items():
        for verb in (FORWARD, INTO) if kind in (USUAL, MASKED) else (FORWARD,):
            row = measured(seconds, verb=verb, candidate=report.on_kind(kind))
            found.add(Measurement(**{**vars(row), "part": DATA}))
    head, _, *rows = report.data_table(found).splitlines()
    cells = {**dict.fromkeys(KINDS, "1.20"), CONFIDENT: "1.05", MASKED: "1.20 / 1.20"}
    assert rows == ["| 4096 x 32000 | " + " | ".join(cells.values()) + " |"]
    assert head == "| forward / value and gradient, `out=` | " + " | ".join(KINDS) + " |"


def test_the_first_page_has_torch_by_the_quicker_of_its_ways(found):
    assert "torch.compile" not in report.first_page(found)
    found.add(measured(0.5, candidate="torch.compile"))
    found.add(measured(5.0, candidate="torch.compile", verb=GRADIENT))
    text = report.first_page(found)
    row = "| 4096 labels, 32,000 classes | 100 ms | 5.0 x |  |  | 300 ms | 3.0 x |  |  |"
    assert row in text.splitlines()
    assert "TensorFlow, torch the quicker of eager and torch.compile. An empty" in text
    assert "| 4096 x 32000 | 100 ms | 50 % | torch 20, torch.compile 5.0 |" in report.whole_table(
        found
    )


def test_the_first_page_has_the_quickest_keras_and_nobody_who_answers_otherwise(found):
    found.add(measured(0.4, candidate="keras (torch)"), measured(0.3, candidate="keras (jax)"))
    found.add(Measurement(**{**vars(measured(0.1, candidate="jax.jit")), "note": "other value"}))
    text = report.first_page(found)
    row = "| 4096 labels, 32,000 classes | 100 ms | 20 x |  | 3.0 x | 300 ms | 3.0 x |  |  |"
    assert row in text.splitlines()
    assert "a loom: two, cores, 2 threads." in text


def test_the_table_speaks_of_measurements_and_of_no_goal(found):
    pages = [page.read_text("utf-8") for page in PAGES]
    for text in (report.whole_table(found), report.first_page(found), *pages):
        table = report.marked(text) or text
        assert not re.search(r"\*\*|\bbars?\b|\bgoals?\b|[<>] \d|-\d+ MiB| -\d", table)


@pytest.mark.parametrize(("mib", "text"), [(0, "none measurable"), (0.09, "none measurable"),
                                           (0.25, "0.25 MiB"), (500.0, "500 MiB")])  # fmt: skip
def test_memory_too_little_to_see_is_said_to_be_so(mib, text):
    assert report.mebibytes(mib) == text


def test_no_speed_is_judged_by_a_figure_of_memory():
    rows = [
        Measurement(MEMORY, "4096 x 32000", verb, candidate, 0.0, "MiB")
        for verb in (FORWARD, GRADIENT, INTO)
        for candidate in (OURS, "torch")
    ]
    judged = [str(verdict) for verdict in report.verdicts(Report({}, rows))]
    assert judged == ["extra memory, 4096 x 32000, forward: 0 MiB, bar 1"]


def test_who_answers_otherwise_is_no_rival(found):
    wrong = measured(0.01, candidate="numpy")
    found.add(Measurement(**{**vars(wrong), "note": "other value: 2, not 1"}))
    assert "numpy" not in report.whole_table(found)


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.5e-7, "0.85 µs"), (4e-6, "4.0 µs"), (0.0094, "9.4 ms"), (12, "12 s")]
)
def test_durations_have_two_digits_that_count(seconds, text):
    assert report.duration(seconds) == text


# --- clock and limits ----------------------------------------------------------------------------


def test_candidates_take_turns():
    turns = []
    names = ["a", "b", "c"]
    players = [Local(name, FORWARD, lambda name=name: turns.append(name)) for name in names]
    for player in players:
        player.seconds = lambda run=player.run: run() or 1.0
    times = interleave(players, rounds=4, budget=1e9)
    assert [len(t.seconds) for t in times] == [4, 4, 4]
    rounds = turns[3:]  # after the first calls, by which turns are planned
    assert [sorted(rounds[k : k + 3]) for k in range(0, 12, 3)] == [names] * 4
    assert len({rounds[k] for k in range(0, 12, 3)}) == 3  # nobody is always first


def turns_of(budget, rounds, **seconds):
    """How many turns each candidate took, by name."""
    least = {OURS: ENOUGH, "barred": AT_LEAST, "slow": FEWEST}
    players = [Local(name, FORWARD, lambda: None, least=least[name]) for name in seconds]
    for player in players:
        player.seconds = lambda took=seconds[player.name]: took
    times = interleave(players, rounds, budget, needed=OURS)
    assert [t.median for t in times] == list(seconds.values())
    return {p.name: len(t.seconds) for p, t in zip(players, times, strict=True)}


def test_slow_candidates_take_fewer_turns_but_nobody_too_few():
    few = turns_of(1.0, 20, **{OURS: 100.0, "barred": 100.0, "slow": 100.0})
    assert few == {OURS: ENOUGH, "barred": AT_LEAST, "slow": FEWEST}
    assert set(turns_of(1e9, 20, **{OURS: 100.0, "barred": 999.0, "slow": 999.0}).values()) == {20}
    assert turns_of(1.0, 2, **{OURS: 100.0, "slow": 100.0}) == {OURS: 2, "slow": 2}


def test_who_takes_ten_times_as_long_as_we_do_takes_no_turn_more_than_its_least():
    far = turns_of(1e9, 20, **{OURS: 1.0, "barred": 11.0, "slow": 11.0})
    assert far == {OURS: 20, "barred": AT_LEAST, "slow": FEWEST}


def test_who_fails_on_the_way_is_left_out_and_the_others_go_on():
    def fails():
        raise MemoryError("no room")

    calls = []
    broken, well = Local("broken", FORWARD, fails), Local("well", FORWARD, lambda: calls.append(1))
    well.seconds = lambda: well.run() or 1.0
    a, b = interleave([broken, well], rounds=3, budget=1e9, needed="well")
    assert repr(a.failed) == "MemoryError('no room')"
    assert (b.failed, len(b.seconds)) == (None, 3)
    with pytest.raises(MemoryError):
        interleave([broken, well], rounds=3, budget=1e9, needed="broken")


def test_a_quick_call_is_timed_many_at_once():
    calls = []
    candidate = Local("quick", FORWARD, lambda: calls.append(1))
    assert 0 < candidate.seconds() < 1e-3
    assert candidate.calls > 1
    assert len(calls) > candidate.calls


VARIANTS = [(v, "read") for v in limits.READ]
VARIANTS += [(v, "copy") for v in limits.COPY] + [(v, "update") for v in limits.UPDATE]


@pytest.mark.parametrize(("variant", "kind"), VARIANTS, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [10, 1_000, 300_001])
def test_limits_move_every_byte_but_some_at_the_ends(variant, kind, threads, size):
    x = np.random.default_rng(size).integers(1, 2**40, size)
    kept = x.copy()
    target = {"read": None, "copy": np.zeros_like(x), "update": x}[kind]
    total = limits.move(variant, x, target, threads)
    assert (x == kept).all()
    line, step = limits.LINE // 8, limits.UNROLL * limits.LINE // 8  # in words
    if kind == "read":
        begin = -x.ctypes.data % limits.LINE // 8
        end = begin + (size - begin) // step * step
        assert total == x[begin:end].sum()
    if kind == "copy" and size > 2 * step:
        moved = slice(line, -line - step)
        assert (target[moved] == x[moved]).all()


# --- workloads and answers -----------------------------------------------------------------------


@by_workload
def test_cut_workloads_are_of_the_same_kind(workload):
    for most in (1, 3_000, 10**12):
        cut = workload.cut(most)
        assert cut.classes == workload.classes
        assert len(cut.shape) == len(workload.shape)
        assert np.prod(cut.shape) <= max(most, workload.classes)
    assert cut == workload


@by_workload
def test_data_are_what_the_workload_says(workload):
    cut = workload.cut(200_000)
    y, x = cut.data()
    assert x.shape == cut.shape
    assert x.dtype == cut.numpy_dtype
    assert x.flags.f_contiguous if cut.order == "F" else x.flags.c_contiguous
    assert y.size * cut.classes == x.size
    kept = y[y != cut.ignore_class]
    assert ((kept >= 0) & (kept < cut.classes)).all()
    assert (kept.size < y.size) == (cut.ignore_class is not None)
    if not cut.from_logits:
        np.testing.assert_allclose(x.sum(axis=cut.axis), 1, rtol=1e-5)
    again = cut.data()
    assert (again[0] == y).all()
    assert again[1].tobytes() == x.tobytes()


@by_workload
def test_we_compute_what_is_measured(workload):
    cut = workload.cut(100_000)
    y, x = cut.data()
    out = np.zeros_like(x)
    for candidate in peers.ours(cut, list(cut.verbs), y, x, out):
        right = answers.expected(cut, candidate.verb, y, x)
        if candidate.verb in GRADIENTS:
            assert np.abs(right[1:]).max() > 0
        assert answers.disagreement(cut, candidate.answer(), right) == ""


with_kinds = pytest.mark.parametrize(
    "workload", [w for w in WORKLOADS if w.has_kinds], ids=lambda w: w.name
)


@with_kinds
def test_other_kinds_of_logits_are_what_their_names_say(workload):
    cut = workload.cut(200_000)
    y, x = cut.data()
    usual = np.moveaxis(x, cut.axis, -1).astype(np.float64)
    kept = y != cut.ignore_class
    spread = 0.2 if x.dtype.itemsize == 2 else 1e-4  # halves are coarse
    for kind in KINDS:
        other = cut.of_kind(kind, y, x)
        assert (other.shape, other.dtype, other.strides) == (x.shape, x.dtype, x.strides)
        of = np.moveaxis(other, cut.axis, -1).astype(np.float64)
        if kind in (OFFSET, FAR_OFFSET):
            due = {OFFSET: 100, FAR_OFFSET: 1000}[kind]
            assert np.mean(of - usual) == pytest.approx(due, abs=spread)
            assert np.abs(of - usual - due).max() <= 8 * 2.0**-8 * due / 2
        elif kind in (SPREAD, WIDE_SPREAD):
            assert np.std(of) == pytest.approx({SPREAD: 30, WIDE_SPREAD: 60}[kind], rel=0.05)
        elif kind == MASKED:
            assert np.isneginf(of).mean() == pytest.approx(0.5 * (1 - 1 / cut.classes), abs=0.02)
            assert (of == usual)[~np.isneginf(of)].all()
            assert np.isfinite(answers.mean_loss(cut, y, other))
        elif kind == SUBNORMAL:
            assert np.abs(of).max() < np.finfo(np.result_type(x.dtype, np.float32)).tiny
            assert x.dtype == np.float16 or np.abs(of).max() > 0
        else:
            assert kind == CONFIDENT
            raised = of - usual
            at_label = np.take_along_axis(raised, np.where(kept, y, 0)[..., None], -1)
            np.testing.assert_allclose(at_label, 20, atol=spread)
            assert np.count_nonzero(raised) == kept.size
            losses = answers.mean_loss(cut, y, other)
            assert 0 < losses < 1e-2
    spreads, odd = {SPREAD, WIDE_SPREAD}, {MASKED, SUBNORMAL}
    assert {OFFSET, FAR_OFFSET, CONFIDENT, *spreads, *odd} == set(KINDS)


@with_kinds
def test_we_compute_what_is_measured_on_every_kind_of_logits(workload):
    cut = workload.cut(100_000)
    y, x = cut.data()
    out = np.zeros_like(x)
    for kind in KINDS:
        scores = cut.of_kind(kind, y, x)
        for candidate in peers.ours(cut, [FORWARD, INTO], y, scores, out):
            right = answers.expected(cut, candidate.verb, y, scores)
            assert answers.disagreement(cut, candidate.answer(), right) == ""
            raised = [(n + 1) * 1.1 for n in right]
            assert answers.disagreement(cut, np.array(raised), right) != ""


def address(gradient):
    if hasattr(gradient, "unsafe_buffer_pointer"):  # JAX
        return gradient.unsafe_buffer_pointer()
    return gradient.data_ptr() if hasattr(gradient, "data_ptr") else gradient.ctypes.data


def addresses(candidate):
    """Where two gradients in turn lie; both are held, so that memory is not given twice."""
    first = candidate.run()[1]
    where = address(first)
    return where, address(candidate.run()[1])


INTO_OF = ["1,000,000 x 10", "NCHW 8 x 21 x 512 x 512", "float16 4096 x 32000"]
INTO_OF += ["bfloat16 4096 x 32000", "R logits 50,000 x 1000", "probabilities 200,000 x 100"]

#: torch's compiler imports parts of torch that torch warns of.
compiles = pytest.mark.filterwarnings("ignore:.torch[.]jit:DeprecationWarning")


@compiles
@pytest.mark.slow  # imports torch and JAX
@pytest.mark.parametrize("name", INTO_OF)
def test_peers_fill_an_array_that_is_kept_where_we_do_and_make_one_where_we_do(name):
    (cut,) = (w.cut(100_000) for w in WORKLOADS if w.name == name)
    y, x = cut.data()
    for verb in (GRADIENT, INTO):
        right = answers.expected(cut, verb, y, x)
        made = {p: make() for p, make in peers.others(cut, verb, y, x, 1)}
        assert made
        for candidate in filter(None, made.values()):
            assert answers.disagreement(cut, candidate.answer(), right) == ""
            first, second = addresses(candidate)
            assert (first == second) == (verb == INTO), candidate.name


@pytest.mark.slow  # imports torch
@pytest.mark.parametrize("name", INTO_OF)
def test_every_way_into_a_tensor_that_is_kept_is_right(name, monkeypatch):
    # Reaches inside: which way is the fastest, and so the candidate, is chance.
    (cut,) = (w.cut(100_000) for w in WORKLOADS if w.name == name)
    y, x = cut.data()
    right = answers.expected(cut, INTO, y, x)
    ways = []
    monkeypatch.setattr(peers, "_fastest", lambda calls: ways.extend(calls) or calls[0])
    assert dict(peers.others(cut, INTO, y, x, 1))["torch"]() is not None
    assert len(ways) == (2 if cut.from_logits else 1)
    for way in ways:
        assert answers.disagreement(cut, answers.answer(cut, INTO, way()), right) == "", way.__doc__


@compiles
@pytest.mark.slow  # imports torch
def test_every_way_to_a_compiled_gradient_is_right(monkeypatch):
    # Reaches inside, as above.
    require_peer("torch")
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("torch.compile needs a C++ compiler")
    ways = []
    monkeypatch.setattr(peers, "_fastest", lambda calls: ways.extend(calls) or calls[0])
    for name in INTO_OF:
        (cut,) = (w.cut(100_000) for w in WORKLOADS if w.name == name)
        y, x = cut.data()
        right = answers.expected(cut, GRADIENT, y, x)
        ways.clear()
        assert dict(peers.others(cut, GRADIENT, y, x, 1))["torch.compile"]() is not None
        assert len(ways) == 2
        for way in ways:
            found = answers.answer(cut, GRADIENT, way())
            assert answers.disagreement(cut, found, right) == "", name


@pytest.mark.slow  # imports torch
def test_without_a_compiler_torch_compile_is_left_out_and_it_is_said(tmp_path):
    require_peer("torch")
    asked = [*TINY, "--only", "one call", "--output", str(tmp_path)]
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "torch"), "CXX": "/no/such/compiler"}
    ran = bench(*asked, **caches)
    assert ran.returncode == 0, ran.stderr
    rows = report.load(tmp_path / "speed.csv").of(LEFT_OUT)
    assert {row.candidate for row in rows} == {"torch.compile"}
    assert all("/no/such/compiler" in row.note for row in rows)


@pytest.mark.slow
def test_the_bench_of_keras_s_fit_trains_alike(tmp_path):
    for name in ("keras", "torch"):
        if not peers.is_there(name):
            require_peer(name)
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.keras_fit", "--rounds", "2", "--rows", "64"],
        cwd=ROOT,
        env={**os.environ, "KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    rows = [line for line in run.stdout.splitlines() if "(" in line and ".." in line]
    assert len(rows) == 9
    assert "another loss" not in run.stdout


def test_the_bench_of_tensors_measures_right_answers(capsys):
    require_peer("torch")
    asked = ["--only", "1,000,000 x 10", "--scores", "1000", "--rounds", "2", "--seconds", "0.01"]
    assert tensors.main(asked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "1,000,000 x 10"
    rows = [line for line in lines if " x" in line and "(" in line]
    assert len(rows) == 10  # of C order and R's
    assert all(line.rstrip().endswith(" x") for line in rows)  # and no word of another answer


def test_expected_answers_are_those_of_the_manual_page():
    page = Workload("page", (2, 3), (), dtype="float64", from_logits=False)
    x = np.array([[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]])
    found = answers.expected(page, GRADIENT, np.array([1, 2]), x)
    assert found[0] == pytest.approx((0.05129339 + 2.30258509) / 2, abs=1e-8)
    np.testing.assert_allclose(found[1:], [0.5, 0.5 - 0.5 / 0.95, 0, 0.5, 0.5, 0.5 - 5], atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([1.1, 0.5, -0.5], "other value: 1.1, not 1"),
        ([1.0, 0.5, -0.4], "other gradient: off by 0.1 of 0.5"),
        ([np.nan, 0.5, -0.5], "other value: nan, not 1"),
        ([1.0, 0.5], "answers with shape (2,), not (3,)"),
        ([1.0, 0.5, -0.5], ""),
    ],
)
def test_other_answers_are_told(wrong, said):
    right = np.array([1.0, 0.5, -0.5])
    assert answers.disagreement(WORKLOADS[0], np.array(wrong), right) == said


def test_every_bar_is_held_against_something_that_is_measured():
    rivals = {name for name, _, _ in peers._MAKERS} | {LIMIT, "microseconds", AFTER}
    for workload in WORKLOADS:
        assert {bar.against for bar in workload.bars} <= rivals
        assert len({(bar.verb, bar.against) for bar in workload.bars}) == len(workload.bars)


PEAK = """
import numpy as np
from benchmarks.fresh import _peak_of
def call():
    result = np.ones(2**25, np.uint8)
    np.ones(2**26, np.uint8)  # held for a moment only
    return result
given = np.ones(2**25, np.uint8)
print(_peak_of(lambda: None, True), _peak_of(call, True), _peak_of(lambda: (1.0, given), False))
"""


def test_peak_memory_is_that_of_a_moment_and_without_the_result():
    ran = subprocess.run([sys.executable, "-c", PEAK], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    nothing, moment, into = map(int, ran.stdout.split())
    assert 0 <= nothing < 2**20
    assert abs(moment - 2**26) < 2**21
    assert 0 <= into < 2**20


# --- beside another checkout ---------------------------------------------------------------------

OTHER = """
def config_set_threads(threads): pass
class SparseCategoricalCrossentropy:
    def __init__(self, **options): pass
    def __call__(self, y_true, y_pred): return 1.0
    def value_and_grad(self, y_true, y_pred, out): raise KeyError("no such thing")
"""


def against(folder, *arguments):
    """Of one workload, cut."""
    few = ["--scores", "20000", "--rounds", "2", "--seconds", "0.05"]
    return bench(str(folder), "--only", "NHWC", *few, *arguments, of="benchmarks.against")


@pytest.mark.parametrize("kind", [USUAL, SPREAD])
def test_two_checkouts_are_measured_beside_each_other(kind):
    ran = against(ROOT, "--kind", kind)
    assert ran.returncode == 0, ran.stderr
    head, _, row, _, said = ran.stdout.splitlines()
    assert head.count("| times as fast |") == 2
    name, *cells = row.strip("| ").split(" | ")
    assert name == "NHWC 8 x 512 x 512 x 21"
    assert len(cells) == 6
    assert all(cell.endswith("s") for k, cell in enumerate(cells) if k % 3 < 2)
    assert all(0.01 < float(cells[k]) < 100 for k in (2, 5))
    assert said.startswith(f"Medians of interleaved rounds on {kind} data, ")


def checkout(folder, source):
    (folder / "sparse_xent").mkdir()
    (folder / "sparse_xent" / "__init__.py").write_text(source)
    return folder


def test_a_checkout_that_answers_otherwise_or_cannot_is_said_to(tmp_path):
    ran = against(checkout(tmp_path, OTHER))
    assert ran.returncode == 0, ran.stderr
    row = ran.stdout.splitlines()[2]
    assert re.fullmatch(r"\| NHWC [^|]+\| [^|]+s \| [^|]+s \| other answers \|  \|  \|  \|", row)
    assert "NHWC 8 x 512 x 512 x 21, forward, before: other value: 1, not" in ran.stderr
    assert "NHWC 8 x 512 x 512 x 21, gradient, out=: KeyError: 'no such thing'" in ran.stderr
    assert f"before: {tmp_path.name}, after: " in ran.stdout


def test_a_checkout_that_cannot_be_imported_is_told_in_one_sentence(tmp_path):
    ran = against(checkout(tmp_path, "import a_library_that_is_not_here"))
    assert (ran.returncode, ran.stdout) == (1, "")
    (line,) = ran.stderr.splitlines()
    assert line.startswith(f"before: ImportError: sparse_xent of {tmp_path} cannot be imported (")
    assert "'a_library_that_is_not_here'" in line
    assert line.endswith("needs a library, or a version of one, that this Python does not have")


def test_a_folder_that_is_no_checkout_is_refused(tmp_path):
    ran = against(tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert f"{tmp_path} has no folder sparse_xent: `git worktree add FOLDER COMMIT`" in ran.stderr


# --- end to end ----------------------------------------------------------------------------------

TINY = ["--scores", "20000", "--rounds", "2", "--seconds", "0.05"]
ONE = ["1,000,000 x 10", "import"]
A_FEW = [*ONE, "one call", "growth"]
A_PEER_EACH = ["NCHW", "bfloat16", "R probabilities 50,000", "R logits 50,000", "one call"]


def only(names):
    return [word for name in names for word in ("--only", name)]


def otherwise(kept):
    return [row for row in kept.rows if row.note.startswith("other")]


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(ONE, id="one"),
        pytest.param(A_FEW, id="a few", marks=pytest.mark.slow),
        pytest.param([], id="all", marks=pytest.mark.slow),
    ],
)
def test_a_cut_run_measures_what_is_asked_and_keeps_it_where_it_is_told(names, tmp_path):
    before = CSV.read_bytes() if CSV.exists() else None
    ran = bench(*TINY, *only(names), "--no-peers", "--output", str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    kept = report.load(tmp_path / "speed.csv")
    for workload in WORKLOADS:
        if names and not any(name in workload.name for name in names):
            continue
        for verb in workload.verbs:
            assert kept.find(workload.name, verb) > 0
            if workload.has_limit and verb in (FORWARD, INTO, IN_PLACE):
                assert kept.find(workload.name, verb, LIMIT) > 0
    parts = {SPEED, DATA, FIRST_USE}
    parts |= set() if names == ONE else {GROWTH} if names else {GROWTH, MEMORY}
    assert {row.part for row in kept.rows} == parts
    assert otherwise(kept) == []
    for verdict in report.verdicts(kept):
        assert (f"goal missed: {verdict}\n" in ran.stdout) == (not verdict.met)
    for name in ("bandwidth.png", "growth.png") if GROWTH in parts else ("bandwidth.png",):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert (CSV.read_bytes() if CSV.exists() else None) == before


@pytest.mark.slow
def test_every_peer_that_is_there_takes_part_and_agrees(tmp_path):
    ran = bench(*TINY, *only(A_PEER_EACH), "--output", str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    kept = report.load(tmp_path / "speed.csv")
    # Without a C++ compiler it says so.
    can_compile = shutil.which(os.environ.get("CXX", "g++")) is not None
    assert {row.candidate for row in kept.of(LEFT_OUT)} <= {"torch.compile"}
    assert not (kept.of(LEFT_OUT) and can_compile)
    assert otherwise(kept) == []
    there = {row.candidate for row in kept.rows}
    due = {name for name, library, _ in peers._MAKERS if peers.is_there(library)}
    assert due - there <= (set() if can_compile else {"torch.compile"})
    if peers.is_there("keras"):
        backends = [name for name in ("tensorflow", "torch", "jax") if peers.is_there(name)]
        assert {f"keras ({backend})" for backend in backends} <= there
    absent = [name for name in peers.LIBRARIES if not peers.is_there(name)]
    assert f"; absent: {', '.join(absent) or 'none'}\n" in ran.stdout


@pytest.mark.slow
def test_a_cut_run_of_each_part_alone_comes_to_its_end(tmp_path):
    for name in ("memory", "import"):
        ran = bench(
            *TINY, "--quick", "--only", name, "--no-peers", "--output", str(tmp_path / name)
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        kept = report.load(tmp_path / name / "speed.csv")
        assert {row.part for row in kept.rows} == {MEMORY if name == "memory" else FIRST_USE}
        assert not list((tmp_path / name).glob("*.png"))  # nothing to draw


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "4096x32000"], "nothing has that in its name"),
        (["--rounds", "0"], "argument --rounds: must be at least 1, got 0"),
        (["--seconds", "nan"], "argument --seconds: must be at least 0.001, got nan"),
        (["--scores", "-1"], "argument --scores: must be at least 1, got -1"),
        (["--threads", "0"], "argument --threads: must be at least 1, got 0"),
        (["--threads", "100000"], "--threads 100000: there are "),
        (
            ["--redraw", "--output", "{empty}"],
            "--redraw takes {empty}/speed.csv, which is not there",
        ),
        (["--output", "{file}"], "cannot write {file}: "),
        (["--output", "{file}/below"], "cannot write {file}/below: "),
        (["--output", "{taken}"], "cannot write {taken}/speed.csv: "),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_measured(
    arguments, said, tmp_path, capsys
):
    places = {name: tmp_path / name for name in ("empty", "file", "taken")}
    places["empty"].mkdir()
    places["file"].touch()
    (places["taken"] / "speed.csv").mkdir(parents=True)
    with pytest.raises(SystemExit) as refused:
        main([argument.format(**places) for argument in arguments])
    assert refused.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said.format(**places) in shown.err


WITHOUT_ML_DTYPES = """
import sys
sys.modules["ml_dtypes"] = None
from benchmarks.__main__ import PAGES, main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--help"], "bfloat16 4096 x 32000"), ([*TINY, "--only", "bfloat16"], "ml_dtypes is absent")],
)
def test_without_ml_dtypes_only_bfloat16_is_left_out(arguments, said):
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_ML_DTYPES, *arguments, "--no-peers"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert said in ran.stdout


def test_without_torch_the_bench_of_a_gpu_says_so_in_one_sentence():
    code = "import sys; sys.modules['torch'] = None; import benchmarks.gpu.__main__"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    said = "benchmarks.gpu needs an NVIDIA GPU and torch, which is not installed\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", said)


@pytest.mark.slow  # JAX, TensorFlow and their compilers start
def test_the_compilers_own_losses_are_lost_near_0_and_ours_are_not() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.traced", "--rounds", "1"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()[1:]
    measured = [line for line in lines if " x own" not in line and " ms " in line]
    absent = [line for line in lines if line.endswith("is not installed")]
    assert len(measured) == 18 - 6 * ("optax is not installed" in absent) - 12 * (
        "tensorflow is not installed" in absent
    )
    assert all(line.endswith("   0, 4.122e-09") for line in measured)
