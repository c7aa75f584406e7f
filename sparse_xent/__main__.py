"""The command line: `sparse-xent evaluate`, `demo` and `warm`, also as `python -m sparse_xent`.

Data go to standard output; progress, notes and errors to standard error, progress only where that
is a terminal. The exit status is 0, 1 where something failed, 2 where an argument or a file is
refused, 130 after Ctrl-C. A result is printed in any case: characters that a stream's encoding
lacks are escaped, and where standard output is closed or full an error line has the mean loss.
Errors of standard error itself are ignored.
"""

from __future__ import annotations

import argparse
import csv
import errno
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TextIO

from sparse_xent import __version__, evaluation
from sparse_xent.evaluation.report import Report, shown

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
  .npy   of any size and any order of axes
  .npz   one array, or FILE.npz:key
  .csv   a column per class (labels: one column), with or without a line of names; commas,
         semicolons, tabs or blanks between; what looks like an id or row names is refused:
         leave it out with --drop, or name the classes' columns with --columns

Losses are in nats. The mean is sum(w * loss) / sum(w), w = 1 without --sample-weight; its standard
error is sd / sqrt(n), with weights sqrt(sum(w^2 * (loss - mean)^2)) / sum(w). Sums are exact.

exit status:
  0     scored
  1     something failed (a full disk, a closed output); the score is printed where it is known
  2     what was asked or given is refused, or a file changed while it was read
  130   interrupted (Ctrl-C)
"""

_WARM = """\
They are kept in the user's cache folder, or in the one that NUMBA_CACHE_DIR names. From a folder
that is not the user's own they are loaded where it belongs to root, and only root may write it:

  NUMBA_CACHE_DIR=/opt/kernels sparse-xent warm      as root; set the same variable for the users

or, in NUMBA_CACHE_DIR, where a group that the user is in may write it, and others may not:

  mkdir /srv/kernels && chgrp team /srv/kernels && chmod 2775 /srv/kernels        as root

They are of use on the same kind of processor, with the same versions of Python, Numba and this
package; NUMBA_CPU_NAME (with NUMBA_CPU_FEATURES) names another processor, for the users too.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments, without the program's name; those of the process by default.

    Returns:
        The exit status.
    """
    closed = _open_streams()
    try:
        arguments = _parser().parse_args(argv)
        arguments.closed = closed
        status = int(arguments.run(arguments))
    except SystemExit as ended:  # argparse has printed help, a version or an error
        status = ended.code if isinstance(ended.code, int) else 2
    except KeyboardInterrupt:
        _say("interrupted")
        status = 130
    except BrokenPipeError:  # nobody reads the output any more
        status = 1
    except (ValueError, TypeError) as error:
        status = _failed(error, 2)
    except Exception as error:
        status = _failed(error, 1)
    return _flushed(status)


def _failed(error: Exception, status: int) -> int:
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif not isinstance(error, (OSError, ValueError, TypeError)):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    _say(f"error: {text or type(error).__name__}")
    return status


# ---- the standard streams -----------------------------------------------------------------------


def _open_streams() -> bool:
    """Open the null device for standard streams that are closed; whether output is one of them.

    Otherwise a file opened later would get a stream's number, and with it the stream's output.
    """
    closed = sys.stdout is None
    with suppress(OSError):
        for number in (0, 1, 2):
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    return closed


def _say(text: str) -> None:
    """Print a line to standard error, if it can be written to."""
    with suppress(OSError):
        print(f"sparse-xent: {shown(text)}", file=sys.stderr, flush=True)


def _print(text: str) -> None:
    """Print to standard output; what its encoding lacks is escaped."""
    encoding = sys.stdout.encoding or "ascii"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from None


def _flushed(status: int) -> int:
    """The status, or 1 where the last of the output cannot be written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            # The rest is discarded, or the interpreter would fail on it once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if stream is sys.stdout and not status:
                status = 1
                if not isinstance(error, BrokenPipeError):
                    _say(f"error: standard output: {error.strerror}")
    return status


class _Parser(argparse.ArgumentParser):
    """A parser that fails where help cannot be printed; argparse ignores that."""

    def print_help(self, file: Any = None) -> None:
        _print(self.format_help().rstrip("\n"))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
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
    _add_warm(commands)
    return parser


def _add_evaluate(commands: argparse._SubParsersAction[_Parser]) -> None:
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

    _add_scores(command)
    _add_columns(command)
    _add_scoring(command)


def _add_scores(command: argparse.ArgumentParser) -> None:
    what = command.add_argument_group("what the scores are (probabilities, if nothing is said)")
    kind = what.add_mutually_exclusive_group()
    kind.add_argument("--logits", dest="from_logits", action="store_true", help="logits")
    kind.add_argument("--log-probs", action="store_true", help="logarithms of probabilities")
    kind.add_argument(
        "--normalize",
        choices=("after", "before", "never"),
        default="after",
        help="make probabilities sum to 1 after clipping them, before, or never (default: after)",
    )
    what.add_argument(
        "--epsilon",
        type=float,
        metavar="E",
        help="clip probabilities to E and 1 - E, 0 for not at all (default: 1e-7)",
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


def _add_scoring(command: argparse.ArgumentParser) -> None:
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


def _add_demo(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "demo",
        help="published figures, a small model, a scored file",
        description="Show the package at work, on data that it carries.",
        allow_abbrev=False,
    )
    command.set_defaults(run=_demo)
    command.add_argument("--folder", metavar="DIR", help="keep the demonstration's files here")


def _add_warm(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = commands.add_parser(
        "warm",
        help="compile the usual kernels before they are wanted",
        description="Compile the usual kernels and keep them, so that no later process has to: for "
        "images of\ncontainers, and for machines that many share. What is there already is left.",
        epilog=_WARM,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(run=_warm)
    command.add_argument(
        "--halves", action="store_true", help="float16 and bfloat16 too, not float32 and 64 alone"
    )
    command.add_argument(
        "--all",
        action="store_true",
        help="every dtype, every --normalize and label smoothing: some minutes",
    )
    command.add_argument(
        "--quiet",
        action="store_true",
        help="one line where there is something to compile, and none where all is there",
    )


def _warm(arguments: argparse.Namespace) -> int:
    from sparse_xent import warm

    wanted = {"halves": arguments.halves, "everything": arguments.all}
    if arguments.quiet:
        warm.run(
            **wanted,
            on_start=lambda count: print(
                f"compiling {count} kernels, about a second each; they are kept", flush=True
            ),
        )
        return 0
    done = warm.run(
        **wanted,
        on_compiled=lambda kernel, seconds: print(f"{seconds:6.2f} s  {kernel}", flush=True),
    )
    print(
        f"{done.compiled} kernels compiled in {done.seconds:.1f} s, {done.found} were there "
        f"already: {done.folder}"
    )
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from sparse_xent import demo

    return demo.run(folder=arguments.folder)


def _evaluate(arguments: argparse.Namespace) -> int:
    progress, unwritten = _Progress(sys.stderr), None
    others = ("run", "closed", "json")  # all else is named as `evaluate` has it
    options = {name: value for name, value in vars(arguments).items() if name not in others}
    try:
        report = evaluation.evaluate(**options, on_progress=progress.show, on_note=progress.note)
    except evaluation.OutputError as error:
        report, unwritten = error.report, error
    finally:
        progress.clear()
    if arguments.json:
        text = evaluation.as_json(report)
    else:
        colour, blocks = _has_colour(sys.stdout), _can_encode("█▏", sys.stdout)
        text = evaluation.as_text(report, colour=colour, blocks=blocks)
    status = _printed(text, report, closed=arguments.closed)
    return status if unwritten is None else _failed(unwritten, 1)


def _printed(text: str, report: Report, *, closed: bool) -> int:
    """Print a report; where that fails, its mean goes to standard error."""
    try:
        if closed:
            raise OSError(errno.EBADF, "it is closed")
        _print(text)
    except BrokenPipeError:
        return 1
    except OSError as error:
        _say(
            f"error: standard output: {error.strerror}: the mean loss is {report.mean_loss!r}, of "
            f"{report.scored} labels"
        )
        return 1
    return 0


# ---- the terminal -------------------------------------------------------------------------------


class _Progress:
    """One line at a terminal, drawn again at most ten times a second; elsewhere nothing."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._bold, self._dim, self._plain = _styles(stream)
        self._full, self._empty = ("━", "─") if _can_encode("━─", stream) else ("#", "-")
        self._began = self._drawn = clock()
        self._shown = False

    def show(self, done: int, total: int) -> None:
        """Draw how much of the predictions is done, in bytes; nothing once all of it is."""
        now = self._clock()
        if not self._terminal or done >= total or now - self._drawn < 0.1:
            return
        self._drawn, self._shown = now, True
        share, rate = done / total, done / (now - self._began)
        cells = round(30 * share)
        bar = (
            f"{self._bold}{self._full * cells}{self._plain}{self._dim}{self._empty * (30 - cells)}"
        )
        minutes, seconds = divmod(round((total - done) / rate), 60)
        self._write(
            f"\r{bar}{self._plain} {share:4.0%}  {rate / 1e6:,.0f} MB/s  "
            f"{minutes:02}:{seconds:02} left \x1b[K"
        )

    def note(self, text: str) -> None:
        """Print a sentence above the line."""
        self.clear()
        self._write(f"sparse-xent: note: {shown(text)}\n")

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            self._write("\r\x1b[K")
            self._shown = False

    def _write(self, text: str) -> None:
        with suppress(OSError):  # the terminal is gone or the disk is full: scoring goes on
            self._stream.write(text)
            self._stream.flush()


def _has_colour(stream: TextIO) -> bool:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return stream.isatty() and not plain


def _styles(stream: TextIO) -> tuple[str, str, str]:
    return ("\x1b[1m", "\x1b[2m", "\x1b[0m") if _has_colour(stream) else ("", "", "")


def _can_encode(text: str, stream: TextIO) -> bool:
    """Whether the stream's encoding has these characters."""
    try:
        text.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
