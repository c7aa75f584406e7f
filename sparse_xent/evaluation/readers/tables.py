"""Reads tables of text: rows of numbers, a column per class, as a `.csv` or `.tsv` file has them.

    lines      counted once, then read from front to back
    cells      between commas, semicolons, tabs or blanks, as the first row of numbers shows
    headers    a first line of names: as the line shows, or else as the rows of the other files do
    columns    chosen by the user, and refused where they number the rows

`numpy.loadtxt` parses the blocks. What it refuses is parsed cell by cell, so that an error names
file, line and column (these are counted from 1, as a text editor does).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import IO, NoReturn

import numpy as np
import numpy.typing as npt

from sparse_xent.evaluation.readers import cells
from sparse_xent.evaluation.readers.columns import Choice, Columns, ColumnScan
from sparse_xent.evaluation.readers.lines import check_encoding, count_lines, opened, read_errors
from sparse_xent.evaluation.readers.source import Array, Box, FileError, Source

_END = 1 << 20  # characters after the last row that are looked at
_PARSED = 1 << 18  # numbers parsed at once; their text is some 5 MB
_SHOWN = 40  # characters of a cell in a message


def open_source(file: str, key: str | None, choice: Choice) -> Source:
    """A table of text."""
    return Table(file, choice)


class Table(Source):
    """Lines of numbers: a row a line, float64.

    Args:
        file: The file.
        choice: Which lines and columns are read.

    Attributes:
        header: Whether the first line names the columns; None until `set_header` is called, where
            the file alone leaves that open.
        likely: Whether such a line is likely to be a header.
        lines: The number of lines, without blank ones at the end.
    """

    tabular = True

    def __init__(self, file: str, choice: Choice) -> None:
        self._file: IO[str] | None = None
        self._choice = choice
        check_encoding(file)
        self.lines = count_lines(file)
        with read_errors(file), opened(file) as text:
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
        line = cells.classify_first_line(
            self._first, self._second, comma=self._comma, probabilities=choice.probabilities
        )
        self.likely, self.header = line.likely, line.names
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
            self.set_header(self.header)

    @property
    def starts_whole(self) -> bool:
        """Whether the first line is one whole number, which may be a name (`--header auto`)."""
        value = cells.number(self._first[0].text)
        alone = self._choice.header == "auto" and len(self._first) == 1 and self.lines > 1
        return alone and value is not None and value.is_integer()

    @property
    def beginning(self) -> str:
        """The first cells, for a message."""
        shown = ", ".join(cell.text.strip()[:_SHOWN] for cell in self._first[:3])
        return shown + (", ..." if len(self._first) > 3 else "")

    def set_header(self, header: bool) -> None:
        """Take the first line for names or for a row, and find the columns accordingly."""
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
            self._unread = dict.fromkeys(dropped, _zero)
        scores = self._choice.role == "predictions" and len(kept) > 1
        self._may_be_ids = scores and not self._columns.chosen
        self._scan = ColumnScan(len(self._parsed)) if self._may_be_ids or counted else None
        with read_errors(self.name):
            self._file = opened(self.name)
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
        with read_errors(self.name):
            block = np.empty((rows, self.shape[1]))
            step = max(1, _PARSED // width)
            for start in range(0, rows, step):
                stop = min(start + step, rows)
                lines = list(itertools.islice(self._file, stop - start))
                block[start:stop] = self._numbers(lines, stop - start, box[0].start + start)
            if box[0].stop == self.shape[0]:
                self._check_end()
                self._check_columns()
        return block

    def place(self, position: tuple[int, ...]) -> str:
        """Where an element stands, for a message."""
        return f"({position[0]},), line {position[0] + bool(self.header) + 1}"

    @property
    def question(self) -> str:
        """The request to say what the first line is; it follows the file's name."""
        return (
            f"begins with the line {self.beginning}, which may be a row or the names of columns: "
            "say --header yes or --header no"
        )

    def several(self) -> str:
        """What to say where one column was expected and there are more."""
        return self._columns.several() if self.shape[1] > 1 else ""

    def check_lines(self) -> None:
        """FileError for a line that is no row: it would count as one."""
        with read_errors(self.name), opened(self.name) as text:
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
        if self._scan is not None:
            self._scan.add(block)
        return block[:, : self.shape[1]]

    def _fast(self, lines: list[str]) -> npt.NDArray[np.float64] | None:
        """All columns of the lines, those not read as 0; None where a cell is no number."""
        if any(map(str.isspace, lines)):  # loadtxt skips them
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
            way_out = (
                "; give classes by their index (in R: as.integer(f) - 1L where levels(f) are in "
                "the order of the predictions' columns, else match(f, colnames(p)) - 1L)"
            )
        elif one and not missing:
            way_out = "; between columns stand commas, semicolons, tabs or blanks"
        if not self.header and ", line 1," in where and self._choice.header == "auto":
            way_out += "; if line 1 names the columns, say --header yes"
        raise FileError(f"{where}: expected a number, got {shown}{way_out}")

    def _check_end(self) -> None:
        """Refuse rows that were not there when the lines were counted."""
        assert self._file is not None
        if not cells.is_blank(self._file.read(_END)):
            raise FileError(
                f"{self.name} grew while it was read: it had {self.lines} lines, and now has more"
            )

    def _check_shorter(self) -> None:
        """Refuse one name over two numbers, which may be one number with a decimal comma."""
        if self._separator == "," and len(self._first) == 1 and self._is_number(self._second[0]):
            raise FileError(
                f"{self.name}, line 2: expected 1 column, as line 1 has, got 2 (or a number with a "
                "decimal comma): write numbers with a point (in R: write.csv, not write.csv2)"
            )

    def _check_columns(self) -> None:
        """Refuse columns that number the rows, once all rows have been read."""
        if self._scan is None:
            return
        scores, columns = self.shape[1], self._columns
        if self._parsed[scores:] and not self._scan.row_names(scores):
            raise FileError(
                f"{self.name} has one name less than columns, but the first does not look like "
                f"the names of rows: {columns.way_out(0)}"
            )
        if not self._may_be_ids:
            return
        probabilities = self._choice.probabilities
        if self._separator == "," and probabilities and self._scan.split_decimals():
            raise FileError(
                f"{self.name} must hold probabilities, got 0 or 1 and whole numbers in turn, as "
                "decimal commas between commas are: write numbers with a point, or name all "
                "columns with --columns if they are right"
            )
        names = [columns.names[k] if columns.names else None for k in columns.kept]
        if found := self._scan.identifier(scores, names, probabilities=probabilities):
            k, seen = found
            raise FileError(f"{self.name}{columns.refusal(columns.kept[k], seen)}")


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _check_row(line: str, where: str) -> None:
    if cells.is_blank(line):
        raise FileError(f"{where}: expected numbers, got a blank line")
    if _is_comment(line):
        raise FileError(f"{where}: expected numbers, got a comment: leave comments out")


def _zero(text: str) -> float:
    """The value of a cell that is not read."""
    return 0.0
