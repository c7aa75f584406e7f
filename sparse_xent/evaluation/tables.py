"""Decides how a table of text is read, block by block: rows of numbers, a column per class.

    lines        ended by LF, CR LF or CR, in UTF-8; counted once, then read from front to back
    separator    commas, semicolons, tabs or blanks, as the first row of numbers shows
    header       as the first line shows, or else the rows of the other files: `decide_headers`
    columns      `columns`: chosen by the user, and refused where they number the rows

`numpy.loadtxt` parses the blocks. What it refuses is parsed cell by cell, so that a fault is named
by file, line and column (these are counted from 1, as a text editor does).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO, NoReturn

import numpy as np
import numpy.typing as npt

from sparse_xent.evaluation import cells
from sparse_xent.evaluation.columns import Choice, Columns, Watch
from sparse_xent.evaluation.readers import Array, Box, FileError, Source, size_of

_CHUNK = 1 << 20  # bytes of text that are counted at once
_LINE = 1 << 26  # bytes of a line of text; 128,000 classes take some 3 MB
_PARSED = 1 << 18  # numbers parsed at once; their text is some 5 MB
_SHOWN = 40  # characters of a cell in a message

_MARKS = {  # longest first
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def openers(choice: Choice) -> dict[str, Callable[[str, str | None], Source]]:
    """What opens files of text, by their suffix."""
    opener = partial(_open, choice=choice)
    return {".csv": opener, ".tsv": opener}


def _open(file: str, key: str | None, choice: Choice) -> Source:
    return Table(file, choice)


class Table(Source):
    """Lines of numbers: a row a line, float64.

    Args:
        file: The file.
        choice: What was said about its lines and columns.

    Attributes:
        header: Whether the first line names the columns; None until `settle` is called, where the
            file alone does not tell.
        likely: Whether such a line is likely to be a header.
        lines: The number of lines, without blank ones at the end.
    """

    def __init__(self, file: str, choice: Choice) -> None:
        self._file: IO[str] | None = None
        self._choice = choice
        _check_encoding(file)
        self.lines = _count_lines(file)
        with _read_errors(file), _opened(file) as text:
            first, second = text.readline(), text.readline()
        row = first if cells.is_blank(second) or _is_comment(second) else second
        self._separator = cells.separator_of(row)
        self._comma = self._separator != ","  # a decimal mark may be a comma
        self._mark: str | None = None  # the decimal mark that the rows have
        commented = choice.header != "no" and _is_comment(first)
        super().__init__(file, (self.lines, 1), np.dtype(np.float64), sequential=True)
        self._second = self._split(second, 2) if not cells.is_blank(second) else []
        self._first = self._split(first.lstrip(" \t#") if commented else first, 1)
        self.shape = (self.lines, len(self._first))
        judged = cells.judge_first_line(
            self._first, self._second, comma=self._comma, probabilities=choice.probabilities
        )
        self.likely, self.header = judged.likely, judged.names
        if choice.header != "auto" or commented:
            self.header = choice.header != "no"
        elif self.lines == 1 and self.header is None:
            self.header = False
        if commented and self._second and len(self._first) != len(self._second):
            raise FileError(
                f"{file}, line 1: expected {len(self._second)} names behind #, as line 2 has, "
                f"got {len(self._first)}: leave comments out"
            )
        if self.header is not None:
            self.settle(self.header)

    @property
    def starts_whole(self) -> bool:
        """Whether the file may begin with a whole number for a name: one cell, `--header auto`."""
        value = cells.number(self._first[0].text)
        alone = self._choice.header == "auto" and len(self._first) == 1 and self.lines > 1
        return alone and value is not None and value.is_integer()

    @property
    def beginning(self) -> str:
        """The first cells, for a message."""
        shown = ", ".join(cell.text.strip()[:_SHOWN] for cell in self._first[:3])
        return shown + (", ..." if len(self._first) > 3 else "")

    def settle(self, header: bool) -> None:
        """Take the first line for names or for a row; what the columns are follows from that."""
        if self.lines == int(header):
            raise FileError(
                f"{self.name} must hold numbers, got a line of column names and no more"
            )
        self.header = header
        names, width, row_names = None, len(self._first), False
        if header:
            names = [cell.text.strip() for cell in self._first]
            if len(self._second) == width + 1:
                self._check_shorter()
                row_names = bool(self._second[-1].text.strip())
                names = ["", *names] if row_names else [*names, ""]
                width += 1
        try:
            self._columns = Columns(names, width, row_names, self._choice)
        except ValueError as error:
            raise FileError(f"{self.name}{error}") from None
        kept = self._columns.kept
        self.shape = (self.lines - header, len(kept))
        counted = self._columns.row_names and self._is_number(self._second[0])  # not text
        self._parsed = [*kept, 0] if counted else kept
        dropped = set(range(width)) - set(self._parsed)
        self._unread: dict[int | str, Callable[[str], float]] | None = None
        if dropped:
            self._unread = dict.fromkeys(dropped, _nothing)
        doubted = self._choice.role == "predictions" and len(kept) > 1 and not self._columns.chosen
        self._watch = Watch(len(self._parsed)) if doubted or counted else None
        self._doubted = doubted
        with _read_errors(self.name):
            self._file = _opened(self.name)
            if header:
                self._file.readline()

    def close(self) -> None:
        """Close the file; nothing is read from it afterwards."""
        if self._file is not None:
            self._file.close()

    def read(self, box: Box) -> Array:
        """The next rows: boxes are read in order; FileError for what is no score."""
        if self._file is None:
            raise FileError(f"{self.name} {self.question}")
        rows, width = box[0].stop - box[0].start, self._columns.width
        with _read_errors(self.name):
            block = np.empty((rows, self.shape[1]))
            step = max(1, _PARSED // width)
            for start in range(0, rows, step):
                stop = min(start + step, rows)
                lines = list(itertools.islice(self._file, stop - start))
                block[start:stop] = self._numbers(lines, stop - start, box[0].start + start)
            if box[0].stop == self.shape[0]:
                self._check_end()
                self._judge_columns()
        return block

    def place(self, position: tuple[int, ...]) -> str:
        """Where an element stands, for a message."""
        return f"({position[0]},), line {position[0] + bool(self.header) + 1}"

    @property
    def question(self) -> str:
        """What is asked where the first line may be either; to follow the file's name."""
        return (
            f"begins with the line {self.beginning}, which may be a row or the names of columns: "
            "say --header yes or --header no"
        )

    def several(self) -> str:
        """What to say where one column was expected and there are more."""
        return self._columns.several() if self.shape[1] > 1 else ""

    def check_lines(self) -> None:
        """FileError for a line that is no row: it would count as one."""
        with _read_errors(self.name), _opened(self.name) as text:
            for k, line in enumerate(itertools.islice(text, self.lines), 1):
                if k > bool(self.header):
                    _check_row(line, f"{self.name}, line {k}")
                    if line.count('"') % 2:
                        self._split(line, k)

    # ---- rows ----

    def _numbers(self, lines: list[str], count: int, row: int) -> npt.NDArray[np.float64]:
        """The next rows: the columns kept."""
        block = self._fast(lines) if len(lines) == count else None
        if block is None or block.shape != (count, self._columns.width):
            block = self._by_cell(lines, count, row)
        elif self._parsed != list(range(self._columns.width)):
            block = block[:, self._parsed]
        if self._watch is not None:
            self._watch.add(block)
        return block[:, : self.shape[1]]

    def _fast(self, lines: list[str]) -> npt.NDArray[np.float64] | None:
        """All columns of the lines, those not read as 0; None where a cell is no number."""
        if any(map(str.isspace, lines)):  # loadtxt leaves them out
            return None
        if self._comma:
            marks = {mark for mark in ".," if any(mark in line for line in lines)}
            if len(marks.union(self._mark or ())) > 1:
                return None
            if self._unread is None:
                self._mark = "".join(marks) or self._mark
            if "," in marks:
                lines = [line.replace(",", ".") for line in lines]
        try:
            block: npt.NDArray[np.float64] = np.loadtxt(
                lines,
                delimiter=self._separator,
                comments=None,
                quotechar='"',
                ndmin=2,
                converters=self._unread,
                encoding=None,
            )
        except ValueError:
            return None
        return block

    def _by_cell(self, lines: list[str], count: int, row: int) -> npt.NDArray[np.float64]:
        """The columns read, cell by cell; FileError that names the first that is no number."""
        block = np.empty((count, len(self._parsed)))
        for k, line in enumerate(lines):
            line_number = row + k + bool(self.header) + 1
            where = f"{self.name}, line {line_number}"
            _check_row(line, where)
            found = self._split(line, line_number)
            if len(found) != self._columns.width:
                raise FileError(
                    f"{where}: expected {self._columns.width} columns, got {len(found)}"
                )
            for j, column in enumerate(self._parsed):
                text = found[column].text
                value = cells.number(text, comma=self._comma)
                mark = "," if "," in text else "." if "." in text else None
                if value is None or (self._comma and mark and self._mark not in (None, mark)):
                    self._refuse(text, f"{where}, column {column + 1}", column, value)
                self._mark = mark or self._mark
                block[k, j] = value
        if len(lines) < count:
            raise FileError(
                f"{self.name} was cut short while it was read: it had {self.lines} lines, and now "
                f"ends after line {row + len(lines) + bool(self.header)}"
            )
        return block

    def _split(self, line: str, number: int) -> list[cells.Cell]:
        try:
            return cells.cells_of(line, self._separator)
        except cells.BadQuote as error:
            raise FileError(
                f"{self.name}, line {number}, column {error.column}: expected a cell, got a quote "
                "that does not end with it on this line"
            ) from None

    def _is_number(self, cell: cells.Cell) -> bool:
        """Whether a cell of the second line is a number, not text in quotes."""
        text = cell.quoted and not all(other.quoted for other in self._second)
        return not text and cells.number(cell.text, comma=self._comma) is not None

    def _refuse(self, text: str, where: str, column: int, value: float | None) -> NoReturn:
        """FileError about a cell that is no number."""
        missing, one = text.strip() in cells.MISSING, self._columns.width == 1
        shown = repr(text[:_SHOWN]) + (" (missing)" if missing else "")
        if len(text) > _SHOWN:
            shown += f"... ({len(text):,} characters)"
        way_out = ""
        if value is not None:
            way_out = "; the decimal mark must be the same in the whole file, a point or a comma"
        elif cells.foreign_number(text):
            way_out = "; numbers are written with the digits 0 to 9 and a point, with no _ or ,"
        elif not one and (not missing or column == self._columns.width - 1):
            way_out = f"; if the column is no {self._choice.role[:-1]}, "
            way_out += self._columns.way_out(column)
        elif one and not missing and self._choice.role == "labels":
            way_out = "; give classes by their index (in R: as.integer(f) - 1L)"
        elif one and not missing:
            way_out = "; between columns stand commas, semicolons, tabs or blanks"
        if not self.header and ", line 1," in where and self._choice.header == "auto":
            way_out += "; if line 1 names the columns, say --header yes"
        raise FileError(f"{where}: expected a number, got {shown}{way_out}")

    def _check_end(self) -> None:
        """Refuse rows that were not there when the lines were counted."""
        assert self._file is not None
        if not cells.is_blank(self._file.read(_CHUNK)):
            raise FileError(
                f"{self.name} grew while it was read: it had {self.lines} lines, and now has more"
            )

    def _check_shorter(self) -> None:
        """Refuse one name over two numbers, which may be one with a decimal comma."""
        if self._separator == "," and len(self._first) == 1 and self._is_number(self._second[0]):
            raise FileError(
                f"{self.name}, line 2: expected 1 column, as line 1 has, got 2 (or a number with a "
                "decimal comma): write numbers with a point (in R: write.csv, not write.csv2)"
            )

    def _judge_columns(self) -> None:
        """Refuse columns that number the rows, now that all of these have been read."""
        if self._watch is None:
            return
        scores, columns = self.shape[1], self._columns
        if self._parsed[scores:] and not self._watch.row_names(scores):
            raise FileError(
                f"{self.name} has one name less than columns, but the first does not look like "
                f"the names of rows: {columns.way_out(0)}"
            )
        if not self._doubted:
            return
        probabilities = self._choice.probabilities
        if self._separator == "," and probabilities and self._watch.split_decimals():
            raise FileError(
                f"{self.name} must hold probabilities, got 0 or 1 and whole numbers in turn, as "
                "decimal commas between commas are: write numbers with a point, or name all "
                "columns with --columns if they are right"
            )
        names = [columns.names[k] if columns.names else None for k in columns.kept]
        if found := self._watch.identifier(scores, names, probabilities=probabilities):
            k, seen = found
            raise FileError(f"{self.name}{columns.refusal(columns.kept[k], seen)}")


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _check_row(line: str, where: str) -> None:
    if cells.is_blank(line):
        raise FileError(f"{where}: expected numbers, got a blank line")
    if _is_comment(line):
        raise FileError(f"{where}: expected numbers, got a comment: leave comments out")


def _nothing(text: str) -> float:
    """What stands for a cell that is not read."""
    return 0.0


# ---- lines --------------------------------------------------------------------------------------


def _opened(file: str) -> IO[str]:
    # Bytes that are not UTF-8 are kept apart: in a name they do no harm, a number has none.
    return open(file, encoding="utf-8-sig", errors="surrogateescape", newline=None)


@contextmanager
def _read_errors(file: str) -> Iterator[None]:
    """What reading and parsing raise, as a FileError."""
    try:
        yield
    except OSError as error:
        raise FileError(f"{file} cannot be read: {error.strerror or error}") from None
    except MemoryError:
        raise FileError(f"{file} has lines too long for the memory there is") from None


def _check_encoding(file: str) -> None:
    with open(file, "rb") as opened:
        head = opened.read(1 << 12)
    got = next((name for bom, name in _MARKS.items() if head.startswith(bom)), None)
    if got is None and head.count(0) > len(head) // 4:
        got = "UTF-16BE" if head.startswith(b"\0") else "UTF-16LE"
    if got is None and any(byte in head for byte in range(1, 9)):
        raise FileError(f"{file} must be text in UTF-8, got no text at all")
    if got is not None:
        raise FileError(
            f"{file} must be text in UTF-8, got {got}: save it as UTF-8 (in a shell: iconv -f "
            f"{got} -t UTF-8)"
        )


def _count_lines(file: str) -> int:
    """The number of the last line that is not blank; a line beyond all measure is refused."""
    last, ended, unfinished, after_cr = 0, 0, 0, False
    with open(file, "rb") as opened:
        while chunk := opened.read(_CHUNK):
            text = len(chunk.rstrip())
            # The first half of a CR LF has been counted with the chunk before.
            within = _line_ends(chunk, 0, text) if text else 0
            again = after_cr and chunk.startswith(b"\n")
            if text:
                last = ended + within - again + 1
            ended += within - again + _line_ends(chunk, text, len(chunk))
            at = max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))
            unfinished = len(chunk) - at - 1 + unfinished * (at < 0)
            after_cr = chunk.endswith(b"\r")
            if unfinished > _LINE:
                raise FileError(
                    f"{file}, line {ended + 1} must be a row of numbers, got {size_of(_LINE)} "
                    "without an end of line"
                )
    if not last:
        raise FileError(f"{file} must hold numbers, got only blank lines")
    return last


def _line_ends(chunk: bytes, start: int, stop: int) -> int:
    ends = chunk.count(b"\n", start, stop)
    if chunk.find(b"\r", start, stop) >= 0:
        ends += chunk.count(b"\r", start, stop) - chunk.count(b"\r\n", start, stop)
    return ends


# ---- headers ------------------------------------------------------------------------------------


def decide_headers(predictions: Source, labels: Source, weights: Source | None, axis: int) -> None:
    """Settle first lines that may be names or a row: by the number of rows in the other files.

    Args:
        predictions: The predictions.
        labels: The labels.
        weights: The weights, if any.
        axis: The class axis of the predictions.

    Raises:
        FileError: The files agree in either case.
    """
    files = [f for f in (predictions, labels, weights) if f is not None]
    undecided = [f for f in files if isinstance(f, Table) and f.header is None]
    shape = predictions.shape
    by_row = len(shape) == 2 and axis in (1, -1)
    alike = by_row and _both_start_alike(predictions, labels)
    if isinstance(predictions, Table) and predictions in undecided and not by_row:
        raise FileError(f"{predictions.name} {predictions.question}")
    if by_row:
        counts = _rows(predictions) & _rows(labels)
        if weights is not None and 1 not in _rows(weights):  # one weight goes with any number
            counts &= _rows(weights)
        expected = {id(f): counts for f in files}
    else:
        losses = shape[: axis % len(shape)] + shape[axis % len(shape) + 1 :] if shape else ()
        rows = losses[0] if losses else 1
        counts = {1 if len(losses) == 1 and axis % len(shape) == 0 else rows}
        expected = {id(labels): counts, id(weights): {rows}}
    if len(counts) > 1 or (alike and counts):
        asked = undecided[0]
        raise FileError(f"{asked.name} {asked.question} (the other files fit either)")
    for table in undecided:
        fits = _rows(table) & expected[id(table)] or _rows(table) & {1}
        table.settle(table.lines - 1 in fits)


def _rows(source: Source) -> set[int]:
    """The numbers of rows that a file may have."""
    if isinstance(source, Table) and source.header is None:
        return {source.lines - 1, source.lines}
    return {source.shape[0] if source.shape else 1}


def _both_start_alike(predictions: Source, labels: Source) -> bool:
    """Whether a likely header of the predictions may have a number as its like in the labels."""
    return (
        isinstance(predictions, Table)
        and isinstance(labels, Table)
        and predictions.header is None
        and predictions.likely
        and labels.header is False
        and labels.starts_whole
        and labels.lines == predictions.lines
    )
