"""Scores a file of predictions against a file of labels, however large they are.

    labels, predictions, weights      readers        boxes of a file, in the file's own order
        -> lowered, checked                          positions are those of the file
        -> losses, ranks              the library    one call a box
        -> exact sums                 accumulate     the same bits for any cut
        -> Report                     report         rounded once

Beside that: `kinds` looks whether rows are what they are said to be, `output` writes one loss a
label. Messages speak of files and of the command line's options.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from sparse_xent import (
    SparseCategoricalCrossentropy,
    carried,
    config_epsilon,
    config_set_epsilon,
    implausible,
)
from sparse_xent.accumulate import ExactSum, Moments
from sparse_xent.config import read_epsilon
from sparse_xent.evaluation import sanity, tables
from sparse_xent.evaluation.columns import Choice, Column, Header, as_choice
from sparse_xent.evaluation.frequencies import Frequencies
from sparse_xent.evaluation.losses_file import LossesFile, OutputError, check_output
from sparse_xent.evaluation.readers import (
    Array,
    Box,
    FileError,
    Source,
    boxes,
    open_source,
    split,
    unchanged,
)
from sparse_xent.evaluation.report import Report, as_json, as_text, exponential
from sparse_xent.options import read as settled
from sparse_xent.sweep import losses_and_found, ranks

__all__ = ["FileError", "OutputError", "Report", "as_json", "as_text", "evaluate"]

Path: TypeAlias = str | os.PathLike[str]
Shape: TypeAlias = tuple[int, ...]
Int64: TypeAlias = npt.NDArray[np.int64]
Float64: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]

_IGNORED = -1  # the label of what does not count, whatever the file calls it
_NA = -(2**31)  # R's integer NA, as files have it

# A box: some of a core's cache, so that the second look (ranks) is cheap; few enough positions that
# what is made for each (labels, losses, ranks) stays small where there are few classes.
_BYTES = 1 << 24
_POSITIONS = 1 << 20


def evaluate(
    labels: Path,
    predictions: Path,
    *,
    from_logits: bool = False,
    log_probs: bool = False,
    ignore_class: Any = None,
    axis: int = -1,
    label_base: Literal[0, 1] = 0,
    sample_weight: Path | None = None,
    label_smoothing: float = 0.0,
    normalize: Literal["after", "before", "never"] = "after",
    epsilon: float | None = None,
    bfloat16: bool = False,
    header: Header = "auto",
    columns: Column | Sequence[Column] | None = None,
    drop: Column | Sequence[Column] | None = None,
    label_column: Column | None = None,
    weight_column: Column | None = None,
    per_label: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Report:
    """Score predictions in a file against labels in another.

    The files are read box by box, so they may be larger than memory. Losses are computed in float64
    for float64 predictions and in float32 for others; their sums are exact, and the result is the
    same to the last bit however the files are cut.

    Args:
        labels: Whole numbers, the predictions' shape without the class axis (or with length 1
            there): a `.npy`, `.npz` or one-column `.csv` file; `FILE.npz:key` names one of several.
        predictions: Scores of every class along `axis`; a `.csv` file has a column per class, with
            commas, semicolons, tabs or blanks between them, and no other column.
        from_logits: Whether the scores are logits; else they are probabilities.
        log_probs: Whether they are logarithms of probabilities.
        ignore_class: A label, or several, as written in the file, that do not count.
        axis: The class axis.
        label_base: The label of the first class: 0, or 1 as R writes them.
        sample_weight: A file of weights, one a label; weights of lower rank belong to the leading
            axes. The mean is then sum(w * l) / sum(w).
        label_smoothing: Between 0 and 1.
        normalize: How probabilities are made to sum to 1: "after" or "before" clipping, "never".
        epsilon: Where probabilities are clipped, 0 included; `config_epsilon()` by default. It is
            the whole process's until the call ends.
        bfloat16: Whether predictions saved as raw records of two bytes are bfloat16.
        header: Whether `.csv` files begin with a line of names; "auto" takes text for names, and
            0, 1, 2, ... or 1, 2, 3, ... as the number of rows in the other file says.
        columns: The columns of the predictions' `.csv` file to score, the first class first, by
            name or by position from 0; they are taken unexamined.
        drop: Columns of it to leave out; what still looks like an identifier is refused.
        label_column: The column of the labels' `.csv` file that holds them.
        weight_column: The column of the weights' `.csv` file that holds them.
        per_label: A `.npy` file for one loss a label, 0 where ignored, without weights; float64 for
            float64 predictions, else float32. An old file is replaced at the end, or not at all.
        on_progress: Called with the bytes of predictions done and their total.
        on_note: Called with a sentence when something looks odd.

    Returns:
        The scores, in plain Python numbers.

    Raises:
        FileError: A file cannot be read, does not fit the others, or changed while it was read (a
            ValueError).
        ValueError: A label is out of range, an option is, or `per_label` cannot be written there.
        TypeError: An option is of the wrong kind.
        OutputError: All is scored, but `per_label` could not be written to its end (an OSError,
            with the score as `report`): what was there is as it was.
    """
    loss = SparseCategoricalCrossentropy(  # reads and judges the options
        from_logits=from_logits or log_probs,
        ignore_class=ignore_class,
        axis=axis,
        label_smoothing=label_smoothing,
        normalize=normalize,
    )
    if label_base not in (0, 1):
        raise ValueError(f"label_base must be 0 or 1, got {label_base!r}")
    kind = "log-probabilities" if log_probs else "logits" if from_logits else "probabilities"
    choices = _choices(header, columns, drop, label_column, weight_column, kind)
    if weight_column is not None and sample_weight is None:
        raise ValueError("--weight-column must come with --sample-weight, the file that it is of")
    files = _Files(labels, predictions, sample_weight, per_label, bfloat16, choices)
    if epsilon is not None and kind != "probabilities":
        raise ValueError(f"epsilon is where probabilities are clipped: with {kind} leave it out")
    with _clipped_at(epsilon):
        return files.scored(kind, loss.get_config(), label_base, on_progress, on_note)


@contextmanager
def _clipped_at(epsilon: float | None) -> Iterator[None]:
    """Probabilities clipped at epsilon, or as they are by default."""
    before = config_epsilon()
    if epsilon is not None:
        config_set_epsilon(read_epsilon(epsilon, "epsilon"))
    try:
        yield
    finally:
        config_set_epsilon(before)


@dataclass(frozen=True)
class _Files:
    """What is read and written, and how it is read."""

    labels: Path
    predictions: Path
    sample_weight: Path | None
    per_label: Path | None
    bfloat16: bool
    choices: tuple[Choice, Choice, Choice]  # of predictions, labels and weights

    def scored(
        self,
        kind: str,
        options: dict[str, Any],
        label_base: int,
        on_progress: Callable[[int, int], None] | None,
        on_note: Callable[[str], None] | None,
    ) -> Report:
        """The report on the files, which must be at the end what they were before."""
        given = (self.labels, self.predictions, self.sample_weight)
        inputs = [split(path)[0] for path in given if path is not None]
        if self.per_label is not None:
            check_output(self.per_label, inputs)
        with ExitStack() as opened:

            def source(path: Path, choice: Choice, *, bfloat16: bool = False) -> Source:
                made = open_source(path, bfloat16=bfloat16, openers=tables.openers(choice))
                opened.callback(made.close)
                choice.check(made.name, table=isinstance(made, tables.Table))
                return made

            with unchanged(inputs):
                of_x, of_y, of_w = self.choices
                x_file = source(self.predictions, of_x, bfloat16=self.bfloat16)
                y_file = source(self.labels, of_y)
                w_file = None if self.sample_weight is None else source(self.sample_weight, of_w)
                tables.decide_headers(x_file, y_file, w_file, options["axis"])
                x = _Predictions(x_file, kind, options)
                y = _Labels(y_file, x, label_base)
                w = None if w_file is None else _Weights(w_file, x)
                written = None
                if self.per_label is not None:
                    layout = x.losses, x.arithmetic
                    written = opened.enter_context(
                        LossesFile(self.per_label, *layout, fortran=x.fortran, inputs=inputs)
                    )
                score = _Score(x, y, w, on_note)
                score.run(written, on_progress)
            report = score.report()
            if written is not None:
                written.put_in_place()
        if written is not None and written.error is not None:
            raise OutputError(written.name, written.error, report)
        return report


def _choices(
    header: Header, columns: Any, drop: Any, label: Any, weight: Any, kind: str
) -> tuple[Choice, Choice, Choice]:
    """What was said about tables of predictions, labels and weights."""
    if header not in ("auto", "yes", "no"):
        raise ValueError(f"header must be 'auto', 'yes' or 'no', got {header!r}")
    if columns is not None and drop is not None:
        raise ValueError(
            "--columns and --drop must not both be given: --columns names all it reads"
        )
    probabilities = kind == "probabilities"
    return (
        Choice(header, as_choice(columns), as_choice(drop) or (), probabilities=probabilities),
        Choice(header, as_choice(label), role="labels"),
        Choice(header, as_choice(weight), role="weights"),
    )


# ---- predictions, and what goes with them -------------------------------------------------------


class _Predictions:
    """Scores in a file, with the axis of the classes and the options of their loss."""

    def __init__(self, source: Source, scores: str, options: dict[str, Any]) -> None:
        axis, shape = options["axis"], source.shape
        if not shape:
            raise FileError(f"{source.name} must have a class axis, got a single number")
        if not -len(shape) <= axis < len(shape):
            raise FileError(
                f"axis must be between {-len(shape)} and {len(shape) - 1} for {source.name} of "
                f"shape {shape}, got {axis} (0-based; -1 is the last)"
            )
        self.axis = axis % len(shape)
        self.classes = shape[self.axis]
        self.losses: Shape = shape[: self.axis] + shape[self.axis + 1 :]
        if not self.classes:
            raise FileError(
                f"{source.name} must have at least one class, got 0 along axis {self.axis} of "
                f"shape {shape}"
            )
        by_class = source.sequential and self.axis == 0 and self.losses
        self.source = source.whole() if by_class else source
        self.scores, self.options = scores, options
        wide = source.dtype.kind == "f" and source.dtype.itemsize > 4
        self.arithmetic = "float64" if wide else "float32"  # asked for, so that nothing is rounded
        self.fortran = source.fortran and len(self.losses) > 1
        self._read = settled(
            from_logits=options["from_logits"],
            ignore_class=_IGNORED,
            axis=self.axis,
            label_smoothing=options["label_smoothing"],
            normalize=options["normalize"],
            dtype=self.arithmetic,
        )
        self._found = implausible.NOTHING
        self._first: tuple[Shape, str] = (), ""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.source.name

    def boxes(self) -> Iterator[Box]:
        """Boxes of the losses that cover all of them, in the order of the file."""
        positions = min(_POSITIONS, _BYTES // (self.classes * self.source.dtype.itemsize))
        if self.source.sequential:  # a step of the first axis is the least that can be read
            positions = max(positions, math.prod(self.losses[1:]))
        return boxes(self.losses, max(1, positions), fortran=self.source.fortran)

    def read(self, box: Box) -> Array:
        """The scores of a box of the losses: every class."""
        return self.source.read((*box[: self.axis], slice(0, self.classes), *box[self.axis :]))

    def score(self, box: Box, rows: Array, y: Int64) -> Array:
        """The losses of a box; rows that cannot be probabilities are kept for `odd_rows`."""
        losses, found = losses_and_found(carried.read(y, rows, None, self._read), self._read)
        if found.rows:
            at = implausible.place(found, rows.shape, self.axis)
            row = np.moveaxis(rows, self.axis, -1)[at[: self.axis] + at[self.axis + 1 :]]
            start = [s.start for s in box]
            start.insert(self.axis, 0)
            here = tuple(i + first for i, first in zip(at, start, strict=True))
            place = here[: self.axis] + here[self.axis + 1 :]
            first = int(np.ravel_multi_index(place, self.losses)) if place else 0
            if not self._found.rows or first < self._found.first:
                self._first = here, sanity.cause(row.astype(np.float64), found)
            self._found = implausible.joined(self._found, found._replace(first=first))
        return np.asarray(losses)

    def odd_rows(self) -> str | None:
        """What there is to say of all rows that cannot be probabilities, and of one class."""
        if self.classes == 1 and math.prod(self.losses):
            return f"{self.name} has one class: every loss is 0; stack 1 - p, p"
        if not self._found.rows:
            return None
        (place, cause), many = self._first, self._found.rows
        return (
            f"{self.name}: {many:,} row{'s are' if many > 1 else ' is'} no probabilities, the "
            f"first score is {self._found.score:.6g} at {self.source.place(place)}: {cause}"
        )

    def clipped(self, rows: Array, y: Int64, losses: Array) -> Bools:
        """Which losses of a box are finite only, or larger only, for the clip at epsilon."""
        dtype = np.dtype(self.arithmetic)
        t = np.expand_dims(np.maximum(y, 0), self.axis)
        p = np.take_along_axis(rows, t, self.axis).squeeze(self.axis).astype(dtype)
        if self.options["normalize"] == "before":
            with np.errstate(all="ignore"):
                p = p / rows.sum(self.axis, dtype=dtype)
        clipped: Bools = (p < dtype.type(config_epsilon())) & np.isfinite(losses)
        return clipped

    def refuse(self, other: Source, expected: str, way_out: str) -> NoReturn:
        """FileError for a file whose shape does not fit."""
        if isinstance(other, tables.Table) and len(self.losses) == 1:
            way_out += other.several()
        texts = [f for f in (other, self.source) if isinstance(f, tables.Table)]
        for table in texts:
            table.check_lines()
        if not way_out and texts and other.shape[:1] != self.source.shape[:1]:
            way_out = ": was a first line wrongly taken for names, or for numbers? (--header)"
        raise FileError(
            f"{other.name} must have {self.name}'s shape without axis {self.axis}: expected "
            f"{expected}, got {other.shape} ({self.name} is {self.source.shape}){way_out}"
        )


class _Aligned:
    """A file that has a number for every loss, read in boxes of the losses.

    Args:
        source: The file.
        losses: The shape of all losses.
        dropped: An axis of length 1 that the losses do not have.
    """

    def __init__(self, source: Source, losses: Shape, dropped: int | None = None) -> None:
        shape = list(source.shape)
        if dropped is not None:
            del shape[dropped]
        in_order = len(losses) == 1 and tuple(shape) == losses
        self.source = source.whole() if source.sequential and not in_order else source
        self.losses, self.shape, self.dropped = losses, tuple(shape), dropped

    @property
    def name(self) -> str:
        """The file's name."""
        return self.source.name

    def read(self, box: Box) -> Array:
        """The numbers of a box: an axis of length 1, or missing at the end, is repeated."""
        own = [
            s if n == m else slice(0, n)
            for s, n, m in zip(box, self.shape, self.losses, strict=False)
        ]
        if self.dropped is not None:
            own.insert(self.dropped, slice(0, 1))
        block = self.source.read(tuple(own))
        if block.dtype.kind == "f":  # halves cannot be compared with every int
            block = block.astype(np.result_type(block.dtype, np.float64), copy=False)
        if self.dropped is not None:
            block = block.squeeze(self.dropped)
        block = block.reshape(block.shape + (1,) * (len(box) - block.ndim))
        return np.broadcast_to(block, [s.stop - s.start for s in box])

    def place(self, position: Shape) -> str:
        """Where the number of a loss stands in the file, for a message."""
        own = [i if n > 1 else 0 for i, n in zip(position, self.shape, strict=False)]
        if self.dropped is not None:
            own.insert(self.dropped, 0)
        return self.source.place(tuple(own))


class _Labels(_Aligned):
    """Labels as their file has them: the first class is `base`, and some are ignored."""

    def __init__(self, source: Source, x: _Predictions, base: int) -> None:
        with_axis = (*x.losses[: x.axis], 1, *x.losses[x.axis :])
        one = source.shape == () and math.prod(x.losses) == 1
        if not one and source.shape not in (x.losses, with_axis):
            way_out = ""
            if source.name == x.name:
                table = ".csv" in source.name
                way_out = "" if table else ": one file for both? save labels and scores apart"
            elif self._look_swapped(source, x):
                way_out = f": are {source.name} and {x.name} swapped?"
            elif source.shape == x.source.shape:
                way_out = f": one-hot labels? save numpy.argmax(labels, axis={x.axis})"
            x.refuse(source, f"{x.losses} or {with_axis}", way_out)
        super().__init__(source, x.losses, x.axis if source.shape == with_axis else None)
        self.x, self.base, self.last = x, base, x.classes - 1 + base
        ignored = x.options["ignore_class"]
        self.ignored: list[int] = [ignored] if isinstance(ignored, int) else ignored or []
        exact = 2 ** (np.finfo(source.dtype).nmant + 1) if source.dtype.kind == "f" else math.inf
        if x.classes - 1 > exact:
            raise FileError(
                f"{self.name} must be of an integer dtype for {x.classes} classes, got "
                f"{source.dtype}, which is exact up to {exact} only"
            )

    @staticmethod
    def _look_swapped(source: Source, x: _Predictions) -> bool:
        """Whether the labels are of scores' shape and kind, and the scores of labels'."""
        scores = x.source
        deeper = len(source.shape) > len(scores.shape)
        one_class = len(source.shape) == len(scores.shape) and x.classes == 1
        fractions, whole = source.dtype.kind == "f", scores.dtype.kind in "biu"
        if source.shape == scores.shape:
            return fractions and whole
        return (deeper or one_class) and (fractions or whole)

    def read(self, box: Box) -> Int64:
        """The labels of a box as 0..C-1 and `_IGNORED`; ValueError for what is neither."""
        block = super().read(box)
        ignored = np.zeros(block.shape, np.bool_)
        for c in self.ignored:
            ignored |= block == c
        good = (block >= self.base) & (block <= self.last)  # NaN is not
        if block.dtype.kind == "f":
            good &= block == np.floor(block)
        if not (good | ignored).all():
            self._refuse(block, box)
        y = np.where(ignored, self.base, block).astype(np.int64) - self.base
        return np.where(ignored, _IGNORED, y)

    def _refuse(self, block: Array, box: Box) -> NoReturn:
        """ValueError that names the first bad label of a box, in the file's own terms."""
        kept = [(k, v) for k, v in enumerate(block.ravel().tolist()) if v not in self.ignored]
        bad = [(k, v) for k, v in kept if not (self.base <= v <= self.last and v == int(v))]
        first, value = bad[0]
        index = np.unravel_index(first, block.shape)
        position = tuple(s.start + int(i) for s, i in zip(box, index, strict=True))
        more = f" and at least {len(bad) - 1} more" if len(bad) > 1 else ""
        missing = " (NA in R)" if value != value or value == _NA else ""
        value = int(value) if math.isfinite(value) and value == int(value) else value
        raise ValueError(
            f"{self.name} must hold whole numbers from {self.base} to {self.last} "
            f"({self.x.classes} classes): got {value}{missing} at {self.place(position)}{more}; "
            + self._cause(value, [v for _, v in kept], [v for _, v in bad])
        )

    def _cause(self, value: Any, kept: list[Any], bad: list[Any]) -> str:
        if value != value:
            return "leave missing labels out, or give them a class that --ignore-class names"
        if value == _NA:
            return f"leave missing labels out, or say --ignore-class {_NA}"
        if any(not math.isfinite(v) or v != int(v) for v in bad):
            return f"labels are classes, not scores: are {self.name} and {self.x.name} swapped?"
        if not self.base and min(kept) >= 1 and max(kept) == self.x.classes:
            return "labels look 1-based: say --label-base 1"
        if self.base and value == 0:
            return "labels look 0-based: leave out --label-base 1"
        if value < 0 or value in (255, 65535):
            return f"say --ignore-class {int(value)} if it marks what does not count"
        return f"{self.x.name} has {self.x.classes} classes along axis {self.x.axis}"


class _Weights(_Aligned):
    """Weights, one a loss; those of lower rank belong to the leading axes."""

    def __init__(self, source: Source, x: _Predictions) -> None:
        shape, dropped = source.shape, None
        if len(shape) == len(x.losses) + 1 and shape[-1] == 1:
            dropped, shape = len(x.losses), shape[:-1]
        pairs = zip(shape, x.losses, strict=False)
        if len(shape) > len(x.losses) or any(n not in (1, m) for n, m in pairs):
            fits = shape == x.losses[-1:]
            way_out = ": weights of the last axis go in as w[None, :]" if fits else ""
            x.refuse(source, f"{x.losses}, or 1 for any of it", way_out)
        super().__init__(source, x.losses, dropped)

    def kept(self, box: Box, y: Int64) -> Float64:
        """The weights of the labels of a box that are not ignored, in C order."""
        block = self.read(box)
        missing = ((block == _NA) | (block != block)) & (y >= 0)
        if missing.any():
            index = tuple(np.argwhere(missing)[0])
            got = "nan" if block[index] != block[index] else _NA
            position = tuple(s.start + int(i) for s, i in zip(box, index, strict=True))
            raise ValueError(
                f"{self.name} must hold numbers: got {got} (NA in R) at {self.place(position)}; "
                "weigh what is missing 0"
            )
        return block[y >= 0].astype(np.float64)


# ---- what is made of it -------------------------------------------------------------------------


class _Score:
    """Exact sums over all boxes, and what was odd in them."""

    def __init__(
        self,
        x: _Predictions,
        y: _Labels,
        w: _Weights | None,
        on_note: Callable[[str], None] | None,
    ) -> None:
        self._x, self._y, self._w = x, y, w
        weighted = w is not None
        self._moments = Moments(weighted=weighted)
        self._frequencies = Frequencies(x.classes, weighted=weighted)
        self._right = ExactSum()
        self._clipped, self._clipped_losses = 0, ExactSum()
        self._ignored = self._infinite = self._nan = 0
        self._notes: list[str] = []
        self._on_note = on_note
        self._odd_kind = False

    def run(
        self, written: LossesFile | None, on_progress: Callable[[int, int], None] | None
    ) -> None:
        """Add all boxes, and write each loss."""
        done = 0  # bytes of predictions
        for box in self._x.boxes():
            rows, y = self._x.read(box), self._y.read(box)
            losses = self._x.score(box, rows, y)
            self._add(box, rows, y, losses)
            if written is not None:
                written.append(losses)
            done += rows.nbytes
            if on_progress is not None:
                on_progress(done, self._x.source.nbytes)

    def _add(self, box: Box, rows: Array, y: Int64, losses: Array) -> None:
        above = np.asarray(ranks(y, rows, axis=self._x.axis, ignore_class=_IGNORED))
        w = None if self._w is None else self._w.kept(box, y)
        kept = y >= 0
        every = slice(None) if kept.all() else kept.ravel()
        l = losses.ravel()[every].astype(np.float64)
        self._moments.add(l, w)
        self._frequencies.add(y.ravel()[every], w)
        right = above.ravel()[every] == 0
        self._right.add(right.astype(np.float64) if w is None else w[right])
        self._ignored += y.size - l.size
        counted = np.ones(l.shape, np.bool_) if w is None else w != 0
        if not self._x.options["from_logits"]:
            clipped = self._x.clipped(rows, y, losses).ravel()[every] & counted
            self._clipped += int(clipped.sum())
            self._clipped_losses.add(l[clipped] if w is None else l[clipped] * w[clipped])
        if not np.isfinite(l[counted]).all():
            self._note_not_finite(box, y, losses)
            self._nan += int(np.isnan(l[counted]).sum())
            self._infinite += int(np.isinf(l[counted]).sum())
        if not self._odd_kind and l.size:
            odd = sanity.note(rows, self._x.axis, kept, self._x.scores)
            if odd is not None:
                self._odd_kind = True
                self._note(f"{self._x.name}: rows {odd}")

    def report(self) -> Report:
        """The sums, rounded."""
        scored = self._moments.count
        if not scored:
            self._note(
                f"{self._y.name}: no label counts, all {self._ignored} are of an ignored class"
                if self._ignored
                else f"{self._y.name}: there is no label to score"
            )
        odd = self._x.odd_rows()
        if odd is not None:
            self._note(odd)
        mean, options = self._moments.mean, self._x.options
        logits = options["from_logits"]
        share = None if logits else self._clipped_losses.share_of(self._moments.sums["wl"])
        self._note_clipped(share)
        weight = self._moments.total_weight
        return Report(
            labels=self._y.name,
            predictions=self._x.name,
            scores=self._x.scores,
            dtype=self._x.source.stored,
            shape=self._x.source.shape,
            normalize=None if logits else options["normalize"],
            label_smoothing=options["label_smoothing"],
            classes=self._x.classes,
            scored=scored,
            ignored=self._ignored,
            total_weight=self._moments.weight if self._moments.weighted else None,
            mean_loss=mean,
            standard_error=self._moments.standard_error,
            perplexity=exponential(mean),
            accuracy=self._right.over(weight) if math.isfinite(self._moments.weight) else math.nan,
            uniform_baseline=math.log(self._x.classes),
            frequency_baseline=self._frequencies.entropy,
            infinite=self._infinite,
            nan=self._nan,
            epsilon=None if logits else config_epsilon(),
            clipped=None if logits else self._clipped,
            clipped_share=share,
            notes=tuple(self._notes),
        )

    def _note_not_finite(self, box: Box, y: Int64, losses: Array) -> None:
        if self._infinite or self._nan:
            return
        index = np.argwhere(~np.isfinite(losses) & (y >= 0))[0]
        position = tuple(s.start + int(i) for s, i in zip(box, index, strict=True))
        value = losses[tuple(index)]
        self._note(f"{self._x.name}: not every loss is finite, the first is {value} at {position}")

    def _note_clipped(self, share: float | None) -> None:
        if not self._clipped:
            return
        total = "" if share is None else f": they are {share:.3%} of the total"
        self._note(
            f"{self._x.name}: {self._clipped:,} of {self._moments.count:,} losses were "
            f"clipped, the label's probability being below epsilon, {config_epsilon():g}{total} "
            "(--epsilon sets the bound)"
        )

    def _note(self, text: str) -> None:
        self._notes.append(text)
        if self._on_note is not None:
            self._on_note(text)
