"""The cells of a line of text, the numbers in them, and whether a line names the columns.

Nothing is guessed. A number is written with the digits 0 to 9, a point, an exponent, or as inf or
nan; where something other than a comma stands between the columns, its decimal mark may be a comma.
A line is a header where it has text; where it has numbers alone, its form may leave that open.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

MISSING = {"", "NA", "N/A", "<NA>", "NULL", "None", "null"}

_NUMBER = re.compile(
    r"[+-]?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?|inf(?:inity)?|nan)", re.ASCII | re.IGNORECASE
)
_COMMA_DECIMAL = re.compile(r"[+-]?\d+,\d+(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_GROUPED = re.compile(r"[+-]?\d+(?:,\d+)+(?:\.\d*)?", re.ASCII)  # 1,233,961
_QUOTED = r'"([^"]*(?:""[^"]*)*)"'
_BLANKS = " \t\n\r\v\f"


class Cell(NamedTuple):
    """A cell's text, and whether it stood in quotes."""

    text: str
    quoted: bool


class BadQuote(ValueError):
    """A quote that begins a cell and does not end it; `column` counts from 1."""

    def __init__(self, column: int) -> None:
        super().__init__(column)
        self.column = column


# ---- cells --------------------------------------------------------------------------------------


def cells_of(line: str, separator: str | None) -> list[Cell]:
    """The cells of a line; None separates by blanks.

    The `csv` module does not say whether a cell was quoted, which distinguishes names from numbers,
    and its limit on the length of a cell is one for the whole process.
    """
    line = line.strip(_BLANKS) if separator is None else line.rstrip("\r\n")
    if '"' not in line:
        return [Cell(text, False) for text in line.split(separator) or [""]]
    between = r"[ \t\v\f]+" if separator is None else re.escape(separator)
    pad = "" if separator is None else r"[ \t]*" if separator != "\t" else " *"
    quoted = re.compile(rf"{pad}{_QUOTED}{pad}(?:({between})|\Z)", re.DOTALL)
    plain = re.compile(rf"(.*?)(?:({between})|\Z)", re.DOTALL)
    cells: list[Cell] = []
    at = 0
    while True:
        if found := quoted.match(line, at):
            cells.append(Cell(found[1].replace('""', '"'), True))
        else:
            found = plain.match(line, at)
            assert found is not None  # it matches any text
            if found[1].lstrip().startswith('"'):
                raise BadQuote(len(cells) + 1)
            cells.append(Cell(found[1], False))
        if not found[2]:
            return cells
        at = found.end()


def separator_of(line: str) -> str | None:
    """What stands between the columns of a row: one character, or None for blanks.

    A comma beside tabs or blanks is a decimal mark where every cell between them is a number.
    """
    bare = re.sub(_QUOTED, '""', line).strip(_BLANKS)
    if ";" in bare:
        return ";"
    other = "\t" if "\t" in bare else None if any(c in bare for c in _BLANKS) else ","
    if "," in bare and other != ",":
        values = [v.strip() for v in bare.split(other)]
        decimal = any(map(_COMMA_DECIMAL.fullmatch, values))
        if decimal and all(v == '""' or number(v, comma=True) is not None for v in values):
            return other
        return ","
    return other


def is_blank(line: str) -> bool:
    """Whether a line has nothing in it."""
    return not line.strip(_BLANKS)


# ---- numbers ------------------------------------------------------------------------------------


def number(text: str, *, comma: bool = False) -> float | None:
    """The number that a cell is; None for any other text.

    Args:
        text: The cell.
        comma: Whether its decimal mark may be a comma.
    """
    text = text.strip()
    if comma and _COMMA_DECIMAL.fullmatch(text):
        text = text.replace(",", ".")
    return float(text) if _NUMBER.fullmatch(text) else None


def foreign_number(text: str) -> bool:
    """Whether a text that is no number here is one elsewhere: 1_000, 1,000, other digits."""
    if _GROUPED.fullmatch(text.strip()):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return number(text) is None


# ---- a line of names ----------------------------------------------------------------------------


class FirstLine(NamedTuple):
    """Whether a first line names the columns.

    Attributes:
        names: True or False where the line itself shows it; None where it may be either.
        likely: Whether it is more likely a line of names: different whole numbers over fractions.
    """

    names: bool | None
    likely: bool = False


def classify_first_line(
    first: list[Cell], second: list[Cell], *, comma: bool, probabilities: bool
) -> FirstLine:
    """Whether the first line of a table names its columns.

    Args:
        first: Its cells.
        second: Those of the next line; none if there is no other.
        comma: Whether a decimal mark may be a comma.
        probabilities: Whether its rows are probabilities.
    """
    values = [number(cell.text, comma=comma) for cell in first]
    found = [v for v in values if v is not None]
    if len(found) == len(first):
        return _classify_numbers(first, second, found, comma, probabilities)
    texts = [cell.text.strip() for cell, v in zip(first, values, strict=True) if v is None]
    words = [text for text in texts if text not in MISSING]
    if any(map(foreign_number, words)):
        return FirstLine(False)  # refused as a cell, by its place
    if not found:
        return FirstLine(bool(words))
    if not _is_run(found) or not (words or "" in texts):
        return FirstLine(False)
    under = [number(c.text, comma=comma) for c in second]
    beside = [u is None for u, v in zip(under, values, strict=False) if v is None]
    alike = len(second) == len(first) and all(beside) and "" not in texts
    return FirstLine(None if alike else True)  # text over text: a1,0 may be a row as well


def _classify_numbers(
    first: list[Cell],
    second: list[Cell],
    values: list[float],
    comma: bool,
    probabilities: bool,
) -> FirstLine:
    run = _is_run(values)
    quoted = all(cell.quoted for cell in first)
    if quoted and second and not any(cell.quoted for cell in second[-len(first) :]):
        return FirstLine(True)  # numbers are not quoted, names are
    if run and len(second) == len(first) + 1:
        return FirstLine(True)  # over rows with a name each
    under = [v for cell in second if (v := number(cell.text, comma=comma)) is not None]
    other = any(math.isfinite(v) and v != int(v) for v in under)  # fractions
    if probabilities and under:
        other |= all(0 <= v <= 1 for v in under)
    whole = all(math.isfinite(v) and v == int(v) for v in values)
    different = len(set(values)) == len(values) and not 0 <= min(values) <= max(values) <= 1
    likely = other and whole and different
    return FirstLine(None if run or likely else False, likely)


def _is_run(values: list[float]) -> bool:
    """Whether the values are 0, 1, 2, ... or 1, 2, 3, ..."""
    return any(values == [float(base + k) for k in range(len(values))] for base in (0, 1))
