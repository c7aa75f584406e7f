"""What `evaluate` prints and writes arrives, or one line says why not: the score is never lost."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sparse_xent
from sparse_xent.__main__ import main
from sparse_xent.evaluation import OutputError, as_json, as_text, evaluate, losses_file

HOME = str(Path(sparse_xent.__file__).parents[1])
COMMAND = [sys.executable, "-m", "sparse_xent", "evaluate"]


@pytest.fixture(autouse=True)
def _files(tmp_path, monkeypatch):
    """Sixty rows of six classes, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    p = rng.random((60, 6)) + 0.1
    np.save("p.npy", p / p.sum(axis=1, keepdims=True))
    np.save("y.npy", rng.integers(0, 6, 60))


def run(*arguments, redirected="", **changes):
    """The command in a shell of its own, which does what `redirected` says."""
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "PYTHONIOENCODING")}
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirected}', "sh", *COMMAND, *arguments],
        capture_output=True,
        text=True,
        errors="surrogateescape",
        env=env | {"PYTHONPATH": HOME, "PYTHONUTF8": "1"} | changes,
        timeout=150,
    )


def mean_loss():
    return evaluate("y.npy", "p.npy").mean_loss


# --- standard output and standard error -----------------------------------------------------------


@pytest.mark.parametrize("redirected", [">&-", ">/dev/full", ">&- 2>seen", "<&- >&- 2>seen"])
def test_a_result_that_cannot_be_printed_is_told_on_standard_error(redirected):
    done = run("y.npy", "p.npy", redirected=redirected)
    told = Path("seen").read_text() if "seen" in redirected else done.stderr
    assert done.returncode == 1
    assert re.fullmatch("sparse-xent: error: standard output: .*\n", told)
    assert f"the mean loss is {mean_loss()!r}, of 60 labels" in told


@pytest.mark.parametrize("redirected", ["2>&-", "2>/dev/full", "<&- 2>&-"])
def test_standard_error_that_cannot_be_written_costs_no_result(redirected):
    done = run("y.npy", "p.npy", "--logits", "--json", redirected=redirected)  # has a note
    assert done.returncode == 0
    assert done.stdout == as_json(evaluate("y.npy", "p.npy", from_logits=True)) + "\n"
    done = run("y.npy", "absent.npy", redirected=redirected)
    assert (done.returncode, done.stdout) == (2, "")


def test_nothing_is_written_to_a_file_that_took_a_closed_stream_s_number():
    done = run(*["y.npy", "p.npy", "--logits", "--per-label", "l.npy"], redirected="<&- >&- 2>&-")
    assert done.returncode == 1
    evaluate("y.npy", "p.npy", from_logits=True, per_label="expected.npy")
    assert Path("l.npy").read_bytes() == Path("expected.npy").read_bytes()


def test_help_that_cannot_be_printed_is_status_1():
    done = run("--help", redirected=">/dev/full")
    assert done.returncode == 1
    assert done.stderr == "sparse-xent: error: standard output: No space left on device\n"


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("标签", "cp1252"),
        ("é", "ascii"),
        (os.fsdecode(b"\xff"), "utf-8"),
        ("a\nb", "utf-8"),
        ("\x1b[31m", "latin-1"),
    ],
)
def test_a_file_of_any_name_is_scored(name, encoding):
    np.save(f"{name}.npy", np.load("y.npy"))
    done = run(f"{name}.npy", "p.npy", PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, "")
    title, about = done.stdout.splitlines()[:2]
    assert title.isprintable()
    assert about == "probabilities, 60 x 6 float64"
    assert f"{mean_loss():.7f}" in done.stdout


@pytest.mark.parametrize("name", ["标签", os.fsdecode(b"\xff"), "a\nb", '"'])
def test_json_is_ascii_and_carries_every_name(name, capsys):
    np.save(f"{name}.npy", np.load("y.npy"))
    assert main(["evaluate", f"{name}.npy", "p.npy", "--json"]) == 0
    told = capsys.readouterr().out
    assert told.isascii()
    assert json.loads(told)["labels"] == f"{name}.npy"


@pytest.mark.parametrize("name", ["标签", os.fsdecode(b"\xff"), "a\nb", "\x1b[31m"])
def test_an_error_or_a_note_about_any_name_is_one_line(name, capsys):
    assert main(["evaluate", "y.npy", f"{name}.npy"]) == 2
    told = capsys.readouterr().err
    assert re.fullmatch("sparse-xent: error: .*[.]npy.* does not exist\n", told)
    np.save(f"{name}.npy", np.load("p.npy"))
    assert main(["evaluate", "y.npy", f"{name}.npy", "--logits"]) == 0
    told = capsys.readouterr().err
    assert re.fullmatch("sparse-xent: note: .*[.]npy: rows look like probabilities.*\n", told)
    assert told[:-1].isprintable()


# --- one loss a label: where it cannot go ---------------------------------------------------------


def refused(path):
    """What is said of `--per-label path`; nothing has changed, and nothing was scored."""
    before = sorted((n, os.lstat(n).st_mtime_ns, os.lstat(n).st_ino) for n in os.listdir())
    with pytest.raises(ValueError, match=".*") as error:
        evaluate("y.npy", "p.npy", per_label=path)
    assert sorted((n, os.lstat(n).st_mtime_ns, os.lstat(n).st_ino) for n in os.listdir()) == before
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(path)
    return str(error.value)


def test_only_a_regular_file_may_be_replaced():
    os.mkdir("folder.npy")
    os.mkfifo("pipe.npy")
    os.symlink("/dev/null", "null.npy")
    os.symlink("/dev/stdout", "stdout.npy")
    os.symlink("pipe.npy", "to_pipe.npy")
    for name in ("folder.npy", "pipe.npy", "null.npy", "to_pipe.npy"):
        assert "must be a regular file" in refused(name)
    for name in ("/dev/stdout", "/dev/null", "/dev/full", "folder.npy/"):
        assert "must" in refused(name)


def test_an_input_by_any_name_is_not_replaced():
    os.link("y.npy", "hard.npy")
    os.symlink("p.npy", "soft.npy")
    os.symlink(os.path.abspath("."), "here")
    for name in (
        "y.npy",
        "./p.npy",
        "hard.npy",
        "soft.npy",
        "here/y.npy",
        os.path.abspath("p.npy"),
    ):
        assert "is an input" in refused(name)


def test_a_folder_that_is_not_there_is_named():
    os.symlink("absent/l.npy", "dangling.npy")
    os.symlink("round.npy", "round.npy")
    for name in ("absent/l.npy", "dangling.npy"):
        assert "must be in a folder that exists" in refused(name)
    for name in ("round.npy", "y.npy/l.npy", "n" * 300 + ".npy"):
        assert "cannot be written" in refused(name)


def test_a_dangling_link_is_filled_and_a_long_name_is_written():
    os.symlink("there.npy", "link.npy")
    for name in ("link.npy", "n" * 251 + ".npy", "é" * 120 + ".npy"):
        evaluate("y.npy", "p.npy", per_label=name)
        assert np.load(name).shape == (60,)
    assert os.path.islink("link.npy")


def test_a_write_protected_file_is_kept(monkeypatch):
    Path("l.npy").write_text("old")
    os.chmod("l.npy", 0o444)
    # Root may write to it all the same: what the system answers others is put in its place.
    monkeypatch.setattr(losses_file.os, "access", lambda path, mode: mode != os.W_OK)
    assert "is write-protected" in refused("l.npy")


def test_where_standard_output_goes_is_no_place_for_losses():
    done = run("y.npy", "p.npy", "--per-label", "l.npy", redirected=">l.npy")
    assert (done.returncode, Path("l.npy").read_bytes()) == (2, b"")
    assert done.stderr == (
        "sparse-xent: error: l.npy is where standard output goes: give another name\n"
    )


# --- one loss a label: what stops it on the way ---------------------------------------------------


def limited(size):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize(("size", "old"), [(0, None), (100, "old"), (300, "old"), (300, None)])
def test_a_full_disk_costs_the_losses_and_not_the_score(size, old):
    expected = as_text(evaluate("y.npy", "p.npy")) + "\n"
    if old is not None:
        Path("l.npy").write_text(old)
    before = sorted(os.listdir())
    done = subprocess.run(
        [*COMMAND, "y.npy", "p.npy", "--per-label", "l.npy"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": HOME, "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=limited(size),
        timeout=150,
    )
    assert (done.returncode, done.stdout) == (1, expected)
    assert re.fullmatch(
        "sparse-xent: error: l.npy could not be written .File too large.: .*the score stands\n",
        done.stderr,
    )
    assert sorted(os.listdir()) == before
    assert old is None or Path("l.npy").read_text() == old


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_error_at_the_end_costs_the_losses_and_not_the_score(call, monkeypatch, capsys):
    Path("l.npy").write_text("old")
    before = sorted(os.listdir())

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(losses_file.os, call, fail)
    with pytest.raises(OutputError, match="l.npy could not be written .Input/output error") as told:
        evaluate("y.npy", "p.npy", per_label="l.npy")
    assert told.value.report == evaluate("y.npy", "p.npy")
    assert main(["evaluate", "y.npy", "p.npy", "--per-label", "l.npy", "--json"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["mean_loss"] == mean_loss()
    assert printed.err.count("\n") == 1
    assert Path("l.npy").read_text() == "old"
    assert sorted(os.listdir()) == before


def test_a_folder_that_goes_away_costs_the_losses_and_not_the_score():
    os.mkdir("kept")

    def remove(done, total):
        os.rename("kept", "gone")

    with pytest.raises(OutputError, match="kept/l.npy could not be written .No such file"):
        evaluate("y.npy", "p.npy", per_label="kept/l.npy", on_progress=remove)


@pytest.mark.skipif(os.geteuid() == 0 and not os.path.exists("/proc/self"), reason="no /proc")
def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_scored():
    # /proc takes no new file of anybody, root included.
    with pytest.raises(ValueError, match=r"^/proc/self/l.npy cannot be written: "):
        evaluate("y.npy", "p.npy", per_label="/proc/self/l.npy")


def test_an_error_that_nobody_expected_is_one_line(monkeypatch, capsys):
    def fail(*_, **__):
        raise RecursionError("too deep\nby far")

    monkeypatch.setattr("sparse_xent.evaluation.evaluate", fail)
    assert main(["evaluate", "y.npy", "p.npy"]) == 1
    assert capsys.readouterr().err == "sparse-xent: error: RecursionError: too deep\\nby far\n"
