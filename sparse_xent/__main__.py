"""The command line: `sparse-xent evaluate` and `sparse-xent demo`, also as `python -m sparse_xent`.

Data go to standard output; progress, notes and errors to standard error, progress only where that
is a terminal. The exit status is 0, 1 where something failed, 2 where what was asked or given is
refused, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from sparse_xent import __version__

_EXAMPLES = """\
examples:
  sparse-xent evaluate labels.npy predictions.npy --logits
  sparse-xent evaluate model.npz:y model.npz:p --ignore-class 255 --axis 1
  sparse-xent evaluate y.csv p.csv --label-base 1             as R counts classes
  sparse-xent evaluate y.npy p.npy --json | jq .mean_loss
  sparse-xent evaluate y.npy p.npy --per-label losses.npy     one loss a label, to look further
"""

_FILES = """\
files:
  .npy   memory-mapped, of any size and any order of axes
  .npz   one array, or FILE.npz:key
  .csv   a column per class (labels: one column), with or without a line of names; commas,
         semicolons, tabs or blanks between; what looks like an id or row names is refused:
         leave it out with --drop, or name the classes' columns with --columns

Losses are in nats. The mean is sum(w * loss) / sum(w), w = 1 without --sample-weight; its standard
error is sd / sqrt(n), with weights sqrt(sum(w^2 * (loss - mean)^2)) / sum(w). Sums are exact.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments, without the program's name; those of the process by default.

    Returns:
        The exit status.
    """
    try:
        chosen = _parser().parse_args(argv)
    except SystemExit as told:  # argparse has printed help, a version or an error
        return told.code if isinstance(told.code, int) else 2
    try:
        status = int(chosen.run(chosen))
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("sparse-xent: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone: nothing is left to be told
        _drop_output()
        return 1
    except (ValueError, TypeError) as error:
        return _failed(error, 2)
    except (OSError, MemoryError) as error:
        _drop_output()
        return _failed(error, 1)


def _drop_output() -> None:
    """Forget what cannot be written, or the interpreter would fail on it once more at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(error: Exception, status: int) -> int:
    if isinstance(error, OSError) and error.filename:
        error = OSError(f"{error.filename}: {error.strerror}")
    text = " ".join(str(error).split()) or type(error).__name__
    print(f"sparse-xent: error: {text}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sparse-xent",
        description="Sparse categorical cross-entropy: score predictions that lie in files.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"sparse-xent {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_evaluate(commands)
    _add_demo(commands)
    return parser


def _add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "evaluate",
        help="mean loss, perplexity and accuracy of a file of predictions",
        description="Score predictions against labels; files may be larger than memory.",
        epilog=f"{_FILES}\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(run=_evaluate)
    command.add_argument("labels", metavar="LABELS", help="the class of each row, a whole number")
    command.add_argument("predictions", metavar="PREDICTIONS", help="a score for every class")

    what = command.add_argument_group("what the scores are (probabilities, if nothing is said)")
    kind = what.add_mutually_exclusive_group()
    kind.add_argument("--logits", action="store_true", help="logits")
    kind.add_argument("--log-probs", action="store_true", help="logarithms of probabilities")
    kind.add_argument(
        "--normalize",
        choices=("after", "before", "never"),
        default="after",
        help="make probabilities sum to 1 after clipping them, before, or never (default: after)",
    )
    what.add_argument("--bfloat16", action="store_true", help="raw 2-byte records are bfloat16")
    what.add_argument(
        "--axis", type=int, default=-1, metavar="K", help="the class axis (default: -1, the last)"
    )
    what.add_argument(
        "--header",
        choices=("auto", "yes", "no"),
        default="auto",
        help="whether .csv files begin with a line of names (default: auto, as the files show)",
    )
    _add_columns(command)

    how = command.add_argument_group("how they are scored")
    how.add_argument(
        "--ignore-class",
        type=int,
        action="append",
        metavar="C",
        help="a label, as in the file, that does not count; may be given again",
    )
    how.add_argument(
        "--label-base", type=int, choices=(0, 1), default=0, help="the first class (default: 0)"
    )
    how.add_argument("--sample-weight", metavar="FILE", help="a weight for each loss")
    how.add_argument(
        "--label-smoothing", type=float, default=0.0, metavar="S", help="0 to 1 (default: 0)"
    )

    out = command.add_argument_group("what comes out")
    out.add_argument("--per-label", metavar="OUT.npy", help="write one loss a label, unweighted")
    out.add_argument("--json", action="store_true", help="print one JSON object")


def _add_columns(command: argparse.ArgumentParser) -> None:
    table = command.add_argument_group(
        "columns of .csv files: names, or positions from 0 (in R's words: 0 is column 1)"
    )
    which = table.add_mutually_exclusive_group()
    which.add_argument(
        "--columns",
        type=_names,
        action="extend",
        metavar="A,B,C",
        help="the columns of PREDICTIONS to score, the first class first; none is doubted then",
    )
    which.add_argument(
        "--drop",
        type=_names,
        action="extend",
        metavar="A,B",
        help="columns of PREDICTIONS to leave out: id, row names ('' is a column without a name)",
    )
    table.add_argument("--label-column", metavar="A", help="the column of LABELS to read")
    table.add_argument("--weight-column", metavar="A", help="the column of the weights to read")


def _names(text: str) -> list[str]:
    """Names between commas, quoted as in a .csv file where they hold commas."""
    try:
        return next(csv.reader([text], skipinitialspace=True), []) or [""]
    except csv.Error as error:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no list of names: {error}") from None


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "demo",
        help="published figures, a small model, a scored file",
        description="Show the package at work, on data that it carries.",
        allow_abbrev=False,
    )
    command.set_defaults(run=_demo)
    command.add_argument("--folder", metavar="DIR", help="keep the demonstration's files here")


def _demo(chosen: argparse.Namespace) -> int:
    from sparse_xent import demo

    return demo.run(folder=chosen.folder)


def _evaluate(chosen: argparse.Namespace) -> int:
    from sparse_xent import evaluate

    progress = _Progress(sys.stderr)
    try:
        report = evaluate.evaluate(
            chosen.labels,
            chosen.predictions,
            from_logits=chosen.logits,
            log_probs=chosen.log_probs,
            ignore_class=chosen.ignore_class,
            axis=chosen.axis,
            label_base=chosen.label_base,
            sample_weight=chosen.sample_weight,
            label_smoothing=chosen.label_smoothing,
            normalize=chosen.normalize,
            bfloat16=chosen.bfloat16,
            header=chosen.header,
            columns=chosen.columns,
            drop=chosen.drop,
            label_column=chosen.label_column,
            weight_column=chosen.weight_column,
            per_label=chosen.per_label,
            on_progress=progress.show,
            on_note=progress.note,
        )
    finally:
        progress.clear()
    if chosen.json:
        print(evaluate.as_json(report))
    else:
        print(evaluate.as_text(report, colour=_coloured(sys.stdout), blocks=_can("█▏", sys.stdout)))
    return 0


# ---- the terminal -------------------------------------------------------------------------------


class _Progress:
    """One line at a terminal, drawn again at most ten times a second; elsewhere nothing."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._bold, self._dim, self._plain = _styles(stream)
        self._full, self._empty = ("━", "─") if _can("━─", stream) else ("#", "-")
        self._began = self._drawn = clock()
        self._shown = False

    def show(self, done: int, total: int) -> None:
        """Draw how much of the predictions is done, in bytes."""
        now = self._clock()
        if not self._terminal or now - self._drawn < 0.1:
            return
        self._drawn, self._shown = now, True
        share, rate = done / total if total else 1.0, done / (now - self._began)
        cells = round(30 * share)
        bar = (
            f"{self._bold}{self._full * cells}{self._plain}{self._dim}{self._empty * (30 - cells)}"
        )
        minutes, seconds = divmod(round((total - done) / rate), 60)
        self._stream.write(
            f"\r{bar}{self._plain} {share:4.0%}  {rate / 1e6:,.0f} MB/s  "
            f"{minutes:02}:{seconds:02} left \x1b[K"
        )
        self._stream.flush()

    def note(self, text: str) -> None:
        """Print a sentence above the line."""
        self.clear()
        print(f"sparse-xent: note: {text}", file=self._stream)

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = False


def _coloured(stream: TextIO) -> bool:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not plain


def _styles(stream: TextIO) -> tuple[str, str, str]:
    return ("\x1b[1m", "\x1b[2m", "\x1b[0m") if _coloured(stream) else ("", "", "")


def _can(text: str, stream: TextIO) -> bool:
    """Whether the stream's encoding has these characters."""
    try:
        text.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
