"""The demonstration keeps its word: published figures met, a model that learns, a file scored."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from sparse_xent import SparseCategoricalCrossentropy, demo

# What the R manual page prints, then what TensorFlow prints for four logit gaps of 1.
PRINTED = [
    *("0.05129339", "2.30258509"),
    *("1.1769392", "0.8135988", "2.3538785"),
    *("0.0512934", "2.3025851"),
    *("0.31326166", "1.3132616", "1.3132616", "0.31326166"),
    "0.8132617",
]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, Path]:
    """The status and the report of one run, and the folder that it kept its files in."""
    folder = tmp_path_factory.mktemp("demo") / "made for it"
    stream = io.StringIO()
    return demo.run(stream, folder), stream.getvalue(), folder


@pytest.fixture(scope="module")
def model() -> demo.Model:
    held_out, *learnt = demo._sonnets()
    return demo.fit("".join(learnt), "".join(sorted({*held_out, *"".join(learnt)})))


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch, model: demo.Model) -> None:
    """Spares a test that is about something else the seconds of a fit."""
    monkeypatch.setattr(demo, "fit", lambda text, characters: model)


# Published figures


def test_every_published_figure_is_shown_as_it_was_printed() -> None:
    assert [figure.printed for figure in demo.published_figures()] == PRINTED


@pytest.mark.parametrize(("index", "printed"), [*enumerate(PRINTED)])
def test_published_figure_is_met(index: int, printed: str) -> None:
    figure = list(demo.published_figures())[index]
    assert figure.got == pytest.approx(float(printed), rel=1e-6)
    assert figure.agrees
    assert str(figure).endswith("ok")


def test_figures_got_are_those_of_the_formula() -> None:
    each = -np.log([0.95, 0.1])  # the clip moves these by less than 2e-7
    gap = np.logaddexp(0, [-1, 1, 1, -1])
    formula = [*each, each.mean(), each @ [0.3, 0.7] / 2, each.sum(), *each, *gap, gap.mean()]
    got = [figure.got for figure in demo.published_figures()]
    np.testing.assert_allclose(got, formula, rtol=3e-7, atol=2e-7)


@pytest.mark.parametrize(
    ("printed", "got", "agrees"),
    [
        ("0.05129339", 0.05129339438, True),
        ("0.05129339", 0.05129329438, False),  # not normalised after the clip
        ("0.0512934", 0.05129344, True),  # TensorFlow's float32
        ("0.0512934", 0.05129354, False),
        ("2.3025851", 2.302585, True),
        ("2.3025851", 2.302583, False),
        ("0.8135988", 1.6271976, False),  # divided by the weights' sum
        ("1.1769392", float("nan"), False),
    ],
)
def test_a_figure_agrees_to_its_printed_digits(printed: str, got: float, agrees: bool) -> None:
    figure = demo.Figure("figure", printed, got)
    assert figure.agrees is agrees
    assert str(figure).endswith("   ok" if agrees else "   differs")


@pytest.mark.usefixtures("fitted")
def test_a_figure_that_differs_is_counted_and_is_the_exit_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figures = [demo.Figure("right", "1.5", 1.5), demo.Figure("wrong", "1.5", 1.6)]
    monkeypatch.setattr(demo, "published_figures", lambda: iter(figures))
    stream = io.StringIO()
    assert demo.run(stream) == 1
    assert "1 of 2 figures differ" in stream.getvalue()


# The sonnets and the model


def test_eight_sonnets_of_fourteen_lines_in_plain_characters() -> None:
    sonnets = demo._sonnets()
    assert [sonnet.count("\n") for sonnet in sonnets] == [14] * 8
    assert all(sonnet.isascii() and sonnet == sonnet.lower() for sonnet in sonnets)
    assert sonnets[0].startswith("shall i compare thee to a summer's day?\n")


def test_a_character_is_predicted_from_the_three_before_it() -> None:
    y, features = demo._observe("abab", "\nab")
    assert y.tolist() == [1, 2, 1, 2]
    third, second, last = np.split(features.toarray(), 3, axis=1)
    assert last.argmax(axis=1).tolist() == [0, 1, 2, 1]
    assert second.argmax(axis=1).tolist() == [0, 0, 1, 2]
    assert third.argmax(axis=1).tolist() == [0, 0, 0, 1]
    assert (features.sum(axis=1) == 3).all()


def test_the_fit_is_the_minimum_by_its_own_derivative(model: demo.Model) -> None:
    learnt = "".join(demo._sonnets()[1:])
    y, features = demo._observe(learnt, model.characters)
    x = model.scores(learnt)
    p = np.exp(x - x.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(y.size), y] -= 1  # d(sum of losses)/dx, from the definition
    slope = features.T @ p / y.size + demo._DECAY * model.weights
    assert np.abs(slope).max() < 2e-6


def test_the_model_learns_what_its_baselines_do_not(shown: tuple[int, str, Path]) -> None:
    def row(what: str) -> np.ndarray:
        line = next(line for line in shown[1].splitlines() if line.strip().startswith(what))
        return np.array(line.split()[-2:], float)

    even, own = row("guessing evenly"), row("the characters' own frequencies")
    before, after = row("before the fit"), row("after")
    np.testing.assert_allclose(even, np.log(35), atol=5e-4)
    np.testing.assert_array_equal(before, even)  # logits of 0 are a uniform guess
    assert (own < even - 0.5).all()
    assert (after < own - 0.7).all()
    np.testing.assert_allclose(row("perplexity"), np.exp(after), rtol=1e-3)
    assert after[0] < after[1]


# The report and its files


def test_the_report_is_the_same_every_time(shown: tuple[int, str, Path]) -> None:
    status, report, folder = shown
    again = io.StringIO()
    assert demo.run(again, folder) == status == 0
    assert again.getvalue() == report


def test_the_report_fits_a_terminal(shown: tuple[int, str, Path]) -> None:
    lines = shown[1].splitlines()
    assert len(lines) < 70
    assert not [line for line in lines if line != line.rstrip()]
    ours = lines[: next(i for i, line in enumerate(lines) if line.startswith("$"))]
    assert max(map(len, ours)) <= 80  # what follows is as wide as the names of the files


def test_each_character_of_the_line_has_its_bar(shown: tuple[int, str, Path]) -> None:
    lines = shown[1].splitlines()
    line = next(i for i, text in enumerate(lines) if "summer's day?" in text)
    assert len(lines[line + 1]) == len(lines[line])
    assert set(lines[line + 1].strip()) <= set("▁▂▃▄▅▆▇█")
    assert lines[line + 1][-1] == "█"  # no question mark among the sonnets learnt from


def test_files_kept_hold_the_held_out_sonnet(
    shown: tuple[int, str, Path], model: demo.Model
) -> None:
    folder = shown[2]
    y, x = np.load(folder / "sonnet-labels.npy"), np.load(folder / "sonnet-logits.npy")
    sonnet = demo._sonnets()[0]
    assert "".join(model.characters[code] for code in y) == sonnet
    np.testing.assert_array_equal(x, model.scores(sonnet))
    loss = SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    assert f"{loss(y, x):.3f}" in shown[1]


def test_the_command_shown_can_be_pasted(shown: tuple[int, str, Path]) -> None:
    _, report, _ = shown
    command = re.search(r"^ *\$ (.*)$", report, re.MULTILINE)
    assert command
    program, *arguments = shlex.split(command[1])
    assert program == "sparse-xent"
    done = subprocess.run(
        [sys.executable, "-m", "sparse_xent", *arguments],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert report[command.end() + 1 :] == done.stdout


@pytest.mark.usefixtures("fitted")
def test_nothing_is_left_behind_without_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert demo.run() == 0
    assert os.listdir(tmp_path) == []
    out, err = capsys.readouterr()
    assert "$ sparse-xent evaluate sonnet-labels.npy sonnet-logits.npy --logits" in out
    assert out.endswith("To keep the two files: sparse-xent demo --folder DIR\n")
    assert str(tmp_path) not in out
    assert err == ""


@pytest.mark.usefixtures("fitted")
def test_a_stream_without_blocks_gets_digits(shown: tuple[int, str, Path]) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    assert demo.run(stream) == 0
    stream.flush()
    report = raw.getvalue().decode("ascii")
    blocks, digits = "▁▂▃▄▅▆▇█", "01234567"
    bars = next(line for line in shown[1].splitlines() if set(line.strip()) & set(blocks[2:7]))
    assert bars.translate(str.maketrans(blocks, digits)) in report.splitlines()


@pytest.mark.usefixtures("fitted")
def test_a_folder_that_is_a_file_is_an_os_error(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    with pytest.raises(FileExistsError):
        demo.run(io.StringIO(), taken)
    assert taken.read_text() == "mine"


def test_once_warm_it_takes_less_than_five_seconds(shown: tuple[int, str, Path]) -> None:
    began = time.thread_time()  # a clock that the machine's other work does not drive on
    demo.run(io.StringIO())
    assert time.thread_time() - began < 5
