"""The command line: its options, what it prints where, its exit statuses, and how it ends early."""

import io
import json
import os
import pty
import re
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import sparse_xent
from sparse_xent import __main__ as command_line
from sparse_xent import demo, warm
from sparse_xent.__main__ import main
from sparse_xent.evaluation import as_json, as_text, evaluate
from sparse_xent.kernels import cache, loader, shipped

HOME = str(Path(sparse_xent.__file__).parents[1])
COMMAND = [sys.executable, "-m", "sparse_xent"]
OPTIONS = [
    "--logits",
    "--log-probs",
    "--normalize",
    "--epsilon",
    "--bfloat16",
    "--axis",
    "--header",
    "--columns",
    "--drop",
    "--label-column",
    "--weight-column",
    "--ignore-class",
    "--label-base",
    "--sample-weight",
    "--label-smoothing",
    "--per-label",
    "--json",
]


@pytest.fixture(autouse=True)
def _files(tmp_path, monkeypatch):
    """Sixty rows of six classes, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 6))
    y = rng.integers(0, 6, 60)
    e = np.exp(x)
    np.save("x.npy", x)
    np.save("p.npy", e / e.sum(axis=1, keepdims=True))
    np.save("logp.npy", np.log(e / e.sum(axis=1, keepdims=True)))
    np.save("turned.npy", x.T)
    np.save("raw.npy", (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view("V2"))
    np.save("y.npy", y)
    np.save("one.npy", y + 1)
    np.save("void.npy", np.where(y < 2, 250 + y, y))
    np.save("w.npy", rng.random(60))
    np.savetxt("x.csv", x, delimiter=",")
    names = {"delimiter": ",", "header": "a,b,c,d,e,f,y,w", "comments": ""}
    np.savetxt("all.csv", np.c_[x, y, rng.random(60)], **names)


def environment(**changes):
    unset = ("NO_COLOR", "TERM", "PYTHONIOENCODING")
    kept = {k: v for k, v in os.environ.items() if k not in unset}
    return kept | {"PYTHONPATH": HOME, "PYTHONUTF8": "1", "TERM": "xterm"} | changes


def run(*arguments, **options):
    """The command in a process of its own."""
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
        **options,
    )


# --- what is printed, and where -------------------------------------------------------------------


def test_the_table_goes_to_standard_output_and_nothing_else_is_said(capsys):
    assert main(["evaluate", "y.npy", "x.npy", "--logits"]) == 0
    told = capsys.readouterr()
    assert told.out == as_text(evaluate("y.npy", "x.npy", from_logits=True)) + "\n"
    assert told.err == ""


def test_json_is_one_object(capsys):
    assert main(["evaluate", "y.npy", "p.npy", "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == evaluate("y.npy", "p.npy").to_dict()
    assert told.err == ""


def test_notes_go_to_standard_error_and_into_json(capsys):
    assert main(["evaluate", "y.npy", "p.npy", "--logits", "--json"]) == 0
    told = capsys.readouterr()
    [note] = json.loads(told.out)["notes"]
    assert told.err == f"sparse-xent: note: {note}\n"


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        ("y.npy x.npy --logits", {"from_logits": True}),
        ("y.npy logp.npy --log-probs", {"log_probs": True}),
        ("y.npy p.npy --normalize before", {"normalize": "before"}),
        ("y.npy p.npy --epsilon 0.1", {"epsilon": 0.1}),
        ("y.npy p.npy --epsilon 0", {"epsilon": 0}),
        ("y.npy p.npy --label-smoothing 0.1", {"label_smoothing": 0.1}),
        ("y.npy turned.npy --logits --axis 0", {"from_logits": True, "axis": 0}),
        ("y.npy turned.npy --logits --axis -2", {"from_logits": True, "axis": -2}),
        ("one.npy p.npy --label-base 1", {"label_base": 1}),
        ("y.npy p.npy --ignore-class 3", {"ignore_class": 3}),
        ("void.npy p.npy --ignore-class 250 --ignore-class 251", {"ignore_class": [250, 251]}),
        ("y.npy p.npy --ignore-class -1", {"ignore_class": [-1]}),
        ("y.npy p.npy --sample-weight w.npy", {"sample_weight": "w.npy"}),
        ("y.npy raw.npy --logits --bfloat16", {"from_logits": True, "bfloat16": True}),
        ("y.npy x.csv --logits --header no", {"from_logits": True, "header": "no"}),
        (
            "y.npy x.csv --logits --columns 5,4,3,2,1,0",
            {"from_logits": True, "columns": [5, 4, 3, 2, 1, 0]},
        ),
        ("y.npy all.csv --logits --drop y,w", {"from_logits": True, "drop": ["y", "w"]}),
        ("all.csv p.npy --label-column y", {"label_column": "y"}),
        (
            "y.npy p.npy --sample-weight all.csv --weight-column w",
            {"sample_weight": "all.csv", "weight_column": "w"},
        ),
    ],
)
def test_every_option_reaches_its_argument(arguments, keywords, capsys):
    labels, predictions, *options = arguments.split()
    assert main(["evaluate", labels, predictions, *options, "--json"]) == 0
    assert capsys.readouterr().out == as_json(evaluate(labels, predictions, **keywords)) + "\n"


def test_one_loss_a_label():
    assert main(["evaluate", "y.npy", "p.npy", "--per-label", "l.npy"]) == 0
    expected = sparse_xent.loss_sparse_categorical_crossentropy(np.load("y.npy"), np.load("p.npy"))
    assert np.array_equal(np.load("l.npy"), expected)


def test_help_shows_examples_and_every_option(capsys):
    assert main(["evaluate", "--help"]) == 0
    told = capsys.readouterr().out
    assert "sparse-xent evaluate labels.npy predictions.npy --logits" in told
    assert "sum(w * loss) / sum(w)" in told
    for option in OPTIONS:
        assert f" {option}" in told
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert "examples:" in told
    assert "evaluate" in told
    assert "demo" in told


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sparse-xent {sparse_xent.__version__}\n"


def test_demo_is_handed_on(monkeypatch):
    given = []
    monkeypatch.setattr(demo, "run", lambda **options: given.append(options) or 1)
    assert main(["demo", "--folder", "here"]) == 1
    assert main(["demo"]) == 1
    assert given == [{"folder": "here"}, {"folder": None}]


# --- exit statuses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["evaluate"], "LABELS, PREDICTIONS"),
        (["score"], "invalid choice"),
        (["evaluate", "y.npy", "p.npy", "--logit"], "unrecognized arguments"),
        (["evaluate", "y.npy", "p.npy", "--logits", "--log-probs"], "not allowed with"),
        (["evaluate", "y.npy", "p.npy", "--logits", "--normalize", "never"], "not allowed with"),
        (["evaluate", "y.npy", "p.npy", "--label-base", "2"], "invalid choice"),
        (["evaluate", "y.npy", "p.npy", "--axis", "one"], "invalid int value"),
    ],
)
def test_a_wrong_command_is_refused_with_2(arguments, words, capsys):
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert words in told.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("absent.npy p.npy", "absent.npy does not exist"),
        ("y.npy y.npy", "y.npy must have"),
        ("p.npy y.npy", "swapped"),
        ("one.npy p.npy", "--label-base 1"),
        ("void.npy p.npy", "0 to 5"),
        ("y.npy raw.npy", "--bfloat16"),
        ("y.npy p.npy --axis 2", "axis must be between -2 and 1"),
        ("y.npy p.npy --epsilon 0.5", "epsilon must be from 0 to below 0.5, got 0.5"),
        ("y.npy p.npy --epsilon nan", "epsilon must be a number, got nan"),
        ("y.npy p.npy --logits --epsilon 1e-9", "with logits leave it out"),
        ("y.npy p.npy --label-smoothing 2", "label_smoothing must lie between 0 and 1"),
        ("y.npy p.npy --sample-weight p.npy", "p.npy must have"),
        ("y.npy p.npy --per-label p.npy", "p.npy is an input"),
        ("y.npy p.npy --per-label l.csv", "must end in .npy"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_2_on_one_line(arguments, words, capsys):
    assert main(["evaluate", *arguments.split()]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("sparse-xent: error: ")
    assert told.err.count("\n") == 1
    assert words in told.err


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Two kernels, whose code is made in no time, for a cache of this test's own."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(warm, "kernels", lambda *_: [("small",), ("tile", "float32", True)])
    monkeypatch.setattr(loader, "made", lambda name: b"code of " + repr(name).encode())
    return tmp_path / "cache"


def test_warm_says_what_it_compiled_where_and_what_was_there(quick, capsys):
    assert main(["warm"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" s  ")[1] for line in lines[:2]] == ["small", "tile float32 True"]
    assert re.fullmatch(r"2 kernels compiled in [\d.]+ s, 0 were there already: .*", lines[2])
    assert lines[2].endswith(str(cache.folder()))
    assert sorted(file.name for file in quick.rglob("*.o")) == ["small.o", "tile-float32-True.o"]
    assert main(["warm"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"0 kernels compiled in [\d.]+ s, 2 were there already: .*", line)


def test_warm_quiet_says_one_line_where_there_is_something_to_compile_and_else_none(quick, capsys):
    assert main(["warm", "--quiet"]) == 0
    assert capsys.readouterr().out == "compiling 2 kernels, about a second each; they are kept\n"
    assert main(["warm", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_warm_leaves_what_a_wheel_brought(quick, monkeypatch, capsys):
    monkeypatch.setattr(shipped, "load", lambda name: b"image" if name == ("small",) else None)
    monkeypatch.setattr(loader, "_KEPT", (shipped.load, cache.load))
    assert main(["warm"]) == 0
    *_, line = capsys.readouterr().out.splitlines()
    assert re.match(r"1 kernels compiled in [\d.]+ s, 1 were there already", line)


def test_warm_says_on_one_line_why_nothing_can_be_kept(quick, capsys):
    quick.write_text("a file")
    assert main(["warm"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"sparse-xent: error: compiled kernels cannot be kept in {quick}/")
    assert "NUMBA_CACHE_DIR" in line


def test_warm_says_on_one_line_why_nothing_can_be_compiled(quick, monkeypatch, capsys):
    monkeypatch.undo()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(quick))
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert main(["warm"]) == 1
    assert capsys.readouterr().err == "sparse-xent: error: NUMBA_DISABLE_JIT is set\n"


def test_warm_has_halves_and_all_on_request():
    usual, halves, every = (list(warm.kernels(*what)) for what in ((), (True,), (False, True)))
    assert set(usual) < set(halves) < set(every)
    for names in (usual, halves, every):
        assert len(set(names)) == len(names)
    assert ("tile", "bfloat16", "CLIP_NORMALIZE", False, True) in halves
    assert ("strided", "float16", "CLIP", True, False) in every


def test_it_runs_as_a_module():
    done = run("evaluate", "y.npy", "p.npy", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == evaluate("y.npy", "p.npy").to_dict()
    done = run("evaluate", "y.npy", "absent.npy")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "sparse-xent: error: absent.npy does not exist\n"


def test_a_reader_that_goes_away_is_no_news():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [*COMMAND, "evaluate", "y.npy", "p.npy"],
            stdout=closed,
            stderr=subprocess.PIPE,
            env=environment(),
            timeout=120,
        )
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_output_that_cannot_be_written_is_status_1():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "evaluate", "y.npy", "p.npy"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            timeout=120,
        )
    assert done.returncode == 1
    assert done.stderr == (
        "sparse-xent: error: standard output: No space left on device: the mean loss is "
        f"{evaluate('y.npy', 'p.npy').mean_loss!r}, of 60 labels\n"
    )


def test_a_full_disk_leaves_the_old_losses():
    size = 1 << 20
    np.save("many_y.npy", np.zeros(size, np.uint8))
    np.save("many_x.npy", np.zeros((size, 2), np.float32))
    Path("l.npy").write_text("old")
    before = sorted(os.listdir())
    done = run(
        *["evaluate", "many_y.npy", "many_x.npy", "--logits", "--per-label", "l.npy"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )
    score = as_text(evaluate("many_y.npy", "many_x.npy", from_logits=True)) + "\n"
    assert (done.returncode, done.stdout) == (1, score)
    assert re.fullmatch(
        "sparse-xent: error: l.npy could not be written .File too large.: .*\n", done.stderr
    )
    assert Path("l.npy").read_text() == "old"
    assert sorted(os.listdir()) == before


def large_file():
    """More to score than a test has time for, in a file that takes no room on the disk."""
    with open("large.npy", "wb") as file:
        described = {"descr": "<f4", "fortran_order": False, "shape": (1 << 24, 256)}
        np.lib.format.write_array_header_1_0(file, described)
        file.truncate(file.tell() + (1 << 34))
    np.save("large_y.npy", np.zeros(1 << 24, np.uint8))


def test_ctrl_c_is_status_130_and_leaves_nothing_behind():
    large_file()
    Path("l.npy").write_text("old")
    before = sorted(os.listdir())
    process = subprocess.Popen(
        [*COMMAND, "evaluate", "large_y.npy", "large.npy", "--logits", "--per-label", "l.npy"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    while not any(name.startswith(".l.npy") for name in os.listdir()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=250)
    # To a shell 130 is both: Python ends by the signal itself where it was heard while compiling.
    assert process.returncode in (130, -signal.SIGINT)
    assert (out, err) == ("", "sparse-xent: interrupted\n")
    assert Path("l.npy").read_text() == "old"
    assert sorted(os.listdir()) == before


# --- at a terminal --------------------------------------------------------------------------------


def at_a_terminal(*arguments, until="", **changes):
    """What the command writes where its outputs are a terminal; Ctrl-C once `until` is seen."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(**changes),
        close_fds=True,
    )
    os.close(theirs)
    shown, ends = b"", time.monotonic() + 250
    while time.monotonic() < ends:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # the other end has closed
                break
            if not chunk:
                break
            shown += chunk
        if until and re.search(until, shown.decode(errors="replace")):
            process.send_signal(signal.SIGINT)
            until = ""
    os.close(ours)
    return process.wait(timeout=250), shown.decode().replace("\r\n", "\n")


def left_at_a_terminal(*arguments, **changes):
    """The same without the progress that a slow machine sees, drawn on a line and cleared again."""
    status, shown = at_a_terminal(*arguments, **changes)
    return status, "\n".join(line.rpartition("\r\x1b[K")[2] for line in shown.split("\n"))


def test_a_terminal_is_shown_bold_and_dim_unless_no_color_is_set():
    bold = as_text(evaluate("y.npy", "p.npy"), colour=True) + "\n"
    assert left_at_a_terminal("evaluate", "y.npy", "p.npy") == (0, bold)
    plain = as_text(evaluate("y.npy", "p.npy")) + "\n"
    assert left_at_a_terminal("evaluate", "y.npy", "p.npy", NO_COLOR="1") == (0, plain)
    assert left_at_a_terminal("evaluate", "y.npy", "p.npy", TERM="dumb") == (0, plain)


def test_a_terminal_without_unicode_gets_ascii():
    expected = as_text(evaluate("y.npy", "p.npy"), blocks=False) + "\n"
    status, shown = left_at_a_terminal(
        "evaluate", "y.npy", "p.npy", NO_COLOR="1", PYTHONUTF8="0", PYTHONIOENCODING="ascii"
    )
    assert (status, shown) == (0, expected)
    assert "###" in shown


def test_a_terminal_shows_progress_and_clears_it():
    large_file()
    status, shown = at_a_terminal(
        *["evaluate", "large_y.npy", "large.npy", "--logits"], until=r"[1-9]% .*MB/s .* left"
    )
    assert status == 130
    assert shown.endswith("\r\x1b[Ksparse-xent: interrupted\n")


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def test_progress_is_drawn_ten_times_a_second_at_most(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    now = [0.0]
    stream = Terminal()
    progress = command_line._Progress(stream, clock=lambda: now[0])
    for k in range(1, 17):
        now[0] = k / 16
        progress.show(k * 10**7, 16 * 10**9)
    lines = stream.getvalue().split("\r")[1:]
    assert len(lines) == 8
    assert lines[-1] == "─" * 30 + "   1%  160 MB/s  01:39 left \x1b[K"
    now[0] = 100.0
    progress.show(8 * 10**9, 16 * 10**9)
    line = stream.getvalue().split("\r")[-1]
    assert line == "━" * 15 + "─" * 15 + "  50%  80 MB/s  01:40 left \x1b[K"
    progress.note("odd")
    assert stream.getvalue().endswith("\r\x1b[Ksparse-xent: note: odd\n")
    progress.clear()
    assert stream.getvalue().endswith("odd\n")  # nothing is shown that were to be cleared


def test_progress_is_silent_elsewhere():
    stream = io.StringIO()
    progress = command_line._Progress(stream, clock=iter(range(99)).__next__)
    progress.show(1, 2)
    progress.clear()
    assert stream.getvalue() == ""
