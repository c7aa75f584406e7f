"""The demonstration for a first-time user: published figures, a fitted model, a scored file.

Three parts, each of which uses the package as a user would:

1. the figures that the R manual page and TensorFlow print, expected beside got;
2. a model of the letters of eight sonnets, fitted by SciPy with the loss's own derivative;
3. the model's labels and predictions on the sonnet held out, written and scored as files.

Nothing is random: the report is the same at every run, and on other machines but for the last
digits of the third part.

Notation: y labels, x scores (logits), w the model's weights, C the characters it knows.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_array

from sparse_xent import (
    SparseCategoricalCrossentropy,
    __version__,
    loss_sparse_categorical_crossentropy,
    op_array,
)
from sparse_xent.evaluation import as_text, evaluate

_REACH = 3  # nats held out: 2.29 from two characters, 2.20 from three, 2.21 from four
_DECAY = 3e-4  # nats held out: 2.30 at 1e-3, 2.20 here, 2.17 at 1e-4 for 1.6 times the calls
_BARS = "▁▂▃▄▅▆▇█"
_INDENT = "   "


class Figure(NamedTuple):
    """A published figure, as it was printed, and what this machine computes."""

    what: str
    printed: str
    got: float

    @property
    def agrees(self) -> bool:
        """Whether got is the printed number, but for its last digit's and float32's rounding."""
        last_digit = 10.0**-self.decimals
        return bool(np.isclose(self.got, float(self.printed), rtol=3e-7, atol=last_digit / 2))

    @property
    def decimals(self) -> int:
        """How many were printed."""
        return len(self.printed.partition(".")[2])

    def __str__(self) -> str:
        """One row of the table, with as many decimals got as were printed."""
        verdict = "ok" if self.agrees else "differs"
        return f"{self.what:<34}{self.printed:>12}{self.got:>14.{self.decimals}f}   {verdict}"


class Model(NamedTuple):
    """Logits of the next character: a sum of three vectors, one for each of the last three."""

    characters: str
    weights: NDArray[np.float64]  # [3 * C, C]

    def scores(self, text: str) -> NDArray[np.float64]:
        """The logits before each character of `text`, [characters, C]."""
        _, features = _observe(text, self.characters)
        return np.asarray(features @ self.weights)


def run(stream: TextIO | None = None, folder: str | Path | None = None) -> int:
    """Prints the demonstration.

    Args:
        stream: Where to print; standard output by default.
        folder: Where to keep the sonnet's labels and predictions, so that the command shown can
            be pasted; made if it is not there. By default they go to a temporary folder.

    Returns:
        The exit status: 0, or 1 where a figure differs from the published one.

    Raises:
        OSError: `folder` cannot be made or written to.

    Example:
        >>> import io
        >>> report = io.StringIO()
        >>> run(report)
        0
        >>> report.getvalue().count("   ok")  # the published figures agree
        12
    """
    stream = sys.stdout if stream is None else stream
    held_out, *learnt = _sonnets()
    with _kept_or_temporary(folder) as where:  # first, so that a bad folder is refused at once
        print(f"sparse_xent {__version__}: a demonstration", file=stream)
        status = _show_figures(stream)
        model = _show_model("".join(learnt), held_out, stream)
        _show_files(model, held_out, where, stream, pasted=folder is not None)
    return status


# 1. Published figures ---------------------------------------------------------------------------


def published_figures() -> Iterator[Figure]:
    """The figures of the R manual page, then TensorFlow's for four logit gaps of 1."""
    loss = loss_sparse_categorical_crossentropy
    y_true, y_pred = [1, 2], [[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]]
    y, p, w = op_array(y_true), op_array(y_pred), op_array([0.3, 0.7])  # R's op_array: float32

    yield from _figures("each label's loss", "0.05129339 2.30258509", loss(y_true, y_pred))
    yield from _figures("the object: their mean", "1.1769392", loss()(y, p))
    yield from _figures("sample_weight (0.3, 0.7)", "0.8135988", loss()(y, p, sample_weight=w))
    yield from _figures('reduction="sum"', "2.3538785", loss(reduction="sum")(y, p))
    yield from _figures("reduction=None", "0.0512934 2.3025851", loss(reduction=None)(y, p))

    y, x = op_array([1, 0, 0, 1]), op_array([[0.0, 1.0]] * 4)
    each, mean = loss(from_logits=True, reduction=None), loss(from_logits=True)
    yield from _figures(
        "from_logits=True, gaps of 1", "0.31326166 1.3132616 1.3132616 0.31326166", each(y, x)
    )
    yield from _figures("their mean", "0.8132617", mean(y, x))


def _figures(what: str, printed: str, got: object) -> Iterator[Figure]:
    for number, value in zip(printed.split(), np.ravel(np.asarray(got, float)), strict=True):
        yield Figure(what, number, float(value))
        what = ""  # named once, on its first row


def _show_figures(stream: TextIO) -> int:
    _title("1. The figures that R's manual page and TensorFlow print", stream)
    _lines(["y_true (1, 2), y_pred (0.05, 0.95, 0), (0.1, 0.8, 0.1)", ""], stream)
    figures = list(published_figures())
    _lines([f"{'':<34}{'expected':>12}{'got':>14}", *map(str, figures)], stream)
    differing = sum(not figure.agrees for figure in figures)
    all_met = "All are met, but for float32's rounding: log(1 + 1/e) is 0.3132616875."
    _lines(["", f"{differing} of {len(figures)} figures differ." if differing else all_met], stream)
    return 1 if differing else 0


# 2. A model ---------------------------------------------------------------------------------------


def _sonnets() -> list[str]:
    """Shakespeare's sonnets 18, 29, 30, 55, 60, 73, 116 and 130, in small letters."""
    text = resources.files(__package__).joinpath("sonnets.txt").read_text(encoding="utf-8")
    return [sonnet.strip() + "\n" for sonnet in text.lower().split("\n\n")]


def _observe(text: str, characters: str) -> tuple[NDArray[np.int64], csr_array]:
    """For each character of `text` its label, [n], and the three before it one-hot, [n, 3 * C]."""
    C = len(characters)
    codes = np.array([characters.index(c) for c in "\n" * _REACH + text])  # begins on a new line
    *before, y = (codes[k : codes.size - _REACH + k] for k in range(_REACH + 1))
    columns = np.stack([k * C + code for k, code in enumerate(before)], axis=1)
    starts = np.arange(0, columns.size + 1, _REACH)
    shape = (y.size, _REACH * C)
    return y, csr_array((np.ones(columns.size), columns.ravel(), starts), shape=shape)


def fit(text: str, characters: str) -> Model:
    """The weights of least mean loss on `text` plus decay: convex, so there is one minimum."""
    C = len(characters)
    y, features = _observe(text, characters)
    loss = SparseCategoricalCrossentropy(from_logits=True, dtype="float64")

    def objective(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights = w.reshape(-1, C)
        x = features @ weights
        value, dx = loss.value_and_grad(y, x, out=x)  # the gradient takes the place of the logits
        return value + _DECAY / 2 * (w @ w), (features.T @ dx + _DECAY * weights).ravel()

    start = np.zeros(features.shape[1] * C)
    # Down to a smaller gradient than SciPy's default, so that the decimals shown do not depend on
    # the order in which a machine's BLAS sums.
    converged = {"gtol": 1e-6, "ftol": 0.0}
    best = minimize(objective, start, jac=True, method="L-BFGS-B", options=converged)
    return Model(characters, best.x.reshape(-1, C))


def _show_model(learnt: str, held_out: str, stream: TextIO) -> Model:
    characters = "".join(sorted({*learnt, *held_out}))
    C = len(characters)
    model = fit(learnt, characters)
    loss = SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
    rows = (
        f"guessing evenly: log {C}",
        "the characters' own frequencies",
        "before the fit",
        "after",
        "perplexity: exp of that",
    )

    def column(text: str) -> list[float]:
        y, _ = _observe(text, characters)
        x = model.scores(text)
        before, after = float(loss(y, np.zeros_like(x))), float(loss(y, x))
        return [float(np.log(C)), _entropy(text), before, after, float(np.exp(after))]

    _title("2. Which character comes next in a sonnet?", stream)
    _lines(
        [
            f"Logits over {C} characters, from the three before; fitted on seven sonnets by",
            "scipy.optimize.minimize with the loss's value_and_grad. Mean losses, in nats:",
            "",
            f"{'':<34}{'learnt from':>12}{'held out':>14}",
            f"{'characters':<34}{len(learnt):>12,}{len(held_out):>14,}",
        ],
        stream,
    )
    for what, seen, unseen in zip(rows, column(learnt), column(held_out), strict=True):
        _lines([f"{what:<34}{seen:>12.3f}{unseen:>14.3f}"], stream)
    _show_line(model, held_out, stream)
    return model


def _entropy(text: str) -> float:
    """The mean loss where each character's frequency is its probability."""
    _, counts = np.unique(list(text), return_counts=True)
    share = counts / len(text)
    return -float(share @ np.log(share))


def _show_line(model: Model, text: str, stream: TextIO) -> None:
    """Each character's own loss, drawn under the first line of `text`."""
    line = text.partition("\n")[0]
    y, _ = _observe(line, model.characters)
    each = loss_sparse_categorical_crossentropy(y, model.scores(line), from_logits=True)
    bars = _BARS if _can_print(_BARS, stream) else "01234567"
    least, most = bars[0], bars[-1]
    drawn = "".join(bars[min(int(2 * nats), 7)] for nats in each)
    _lines(
        [
            "",
            f"Each character's loss in a held-out line ({least} under 0.5, {most} 3.5 or more):",
            "",
            line,
            drawn,
        ],
        stream,
    )


# 3. Files ---------------------------------------------------------------------------------------


@contextmanager
def _kept_or_temporary(folder: str | Path | None) -> Iterator[Path]:
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="sparse_xent_demo_") as made:
            yield Path(made)
    else:
        Path(folder).mkdir(parents=True, exist_ok=True)
        yield Path(folder)


def _show_files(model: Model, held_out: str, folder: Path, stream: TextIO, *, pasted: bool) -> None:
    y, _ = _observe(held_out, model.characters)
    labels, predictions = folder / "sonnet-labels.npy", folder / "sonnet-logits.npy"
    np.save(labels, y)
    np.save(predictions, model.scores(held_out))

    shown = [str(path) if pasted else path.name for path in (labels, predictions)]
    command = shlex.join(["sparse-xent", "evaluate", *shown, "--logits"])
    report = evaluate(labels, predictions, from_logits=True)
    report = dataclasses.replace(report, labels=shown[0], predictions=shown[1])
    _title("3. The sonnet held out, scored from files", stream)
    print(f"$ {command}", file=stream)
    print(as_text(report, blocks=_can_print(_BARS, stream)), file=stream)
    if not pasted:
        print("\nTo keep the two files: sparse-xent demo --folder DIR", file=stream)


# Printing ---------------------------------------------------------------------------------------


def _title(text: str, stream: TextIO) -> None:
    print(f"\n{text}\n", file=stream)


def _lines(lines: Iterable[str], stream: TextIO) -> None:
    for line in lines:
        print(f"{_INDENT}{line}".rstrip(), file=stream)


def _can_print(text: str, stream: TextIO) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
