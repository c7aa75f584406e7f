"""Which columns of a table are read, and which look as if they only number its rows.

A column is known by its name, or by its position counted from 0. What looks like an identifier is
refused, and not left out silently: by its name at once, by its numbers after the last row.
"""

from __future__ import annotations

import csv
import io
import operator
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Header: TypeAlias = Literal["auto", "yes", "no"]
Column: TypeAlias = str | int
Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]

_OPTION = {"predictions": "--columns", "labels": "--label-column", "weights": "--weight-column"}
_LISTED = 8  # columns that a message names
_FEW = 64  # rows that are looked at first

_NAMES = {"", "id", "ids", "index", "idx", "rowid", "rowindex", "rowname", "rownames", "rownumber"}
_ENDING = re.compile(r".*[ _.\-](?:id|ID|Id)|.*[a-z]I[dD]")  # user_id, UserId
_TRUTH = {"label", "labels", "target", "truth", "true", "class", "y", "ytrue"}


@dataclass(frozen=True)
class Choice:
    """Which lines and columns of a table are read, as the options say.

    Attributes:
        header: Whether its first line names the columns.
        columns: The columns that are read, in this order; None reads all.
        drop: Columns that are left out.
        role: What the table holds.
        probabilities: Whether it holds probabilities.
    """

    header: Header = "auto"
    columns: tuple[Column, ...] | None = None
    drop: tuple[Column, ...] = ()
    role: Literal["predictions", "labels", "weights"] = "predictions"
    probabilities: bool = False

    @property
    def option(self) -> str:
        """The option that names the columns to read."""
        return _OPTION[self.role]

    def check(self, file: str, *, table: bool) -> None:
        """ValueError where columns were chosen of a file that has none."""
        if not table and (self.columns is not None or self.drop):
            option = self.option if self.columns is not None else "--drop"
            raise ValueError(f"{option} is for .csv files, got {file}: leave it out")


class Columns:
    """The columns of a table: their names, and which of them are read.

    Args:
        names: What the header calls them; None without one.
        width: How many there are.
        row_names: Whether the first is the rows' names, over which the header has nothing.
        choice: Which are wanted.

    Raises:
        ValueError: There is no such column, or one is an identifier by its name. The message is to
            follow the file's name.
    """

    def __init__(
        self, names: list[str] | None, width: int, row_names: bool, choice: Choice
    ) -> None:
        self.names, self.width, self.choice = names, width, choice
        self.chosen = choice.columns is not None  # then no column is examined
        if choice.columns is not None:
            self.kept = self._positions(choice.columns, choice.option)
        else:
            dropped = self._positions(choice.drop, "--drop")
            self.kept = [k for k in range(width) if k not in dropped]
        self.row_names = row_names and 0 in self.kept and not self.chosen
        if self.row_names:
            self.kept.remove(0)
        if not self.kept:
            raise ValueError(f" must keep a column, got {self._listed(range(width))} all left out")
        if not self.chosen:
            for k in self.kept:
                self._check_name(k)

    def refusal(self, column: int, seen: str) -> str:
        """A sentence, to follow the file's name, about a column that holds no scores."""
        what = {
            "predictions": "hold a score of one class in every column",
            "labels": "hold a label in every row",
            "weights": "hold a weight in every row",
        }[self.choice.role]
        return f" must {what}, got {self.described(column)} {seen}: {self.way_out(column)}"

    def way_out(self, column: int) -> str:
        """What to do: leave a column out, or name those to read."""
        others = [k for k in self.kept if k != column]
        if self.choice.role != "predictions":
            option = self._option_for(self._best(others))
            return f"say which column holds the {self.choice.role}, {option}"
        drop = f"leave it out with --drop {self._argument([column])}"
        if len(self.kept) > _LISTED or not others:
            return f"{drop}, or name the classes' columns with --columns"
        return f"{drop}, or name the columns of the classes, {self._option_for(others)}"

    def described(self, column: int) -> str:
        """A column in words."""
        name = self._name(column)
        if name is None:
            return f"column {column} (counted from 0)"
        return f"column {name!r}" if name else f"a column without a name (column {column} from 0)"

    def several(self) -> str:
        """What to say where one column was expected and there are more."""
        return (
            f"; of the columns {self._listed(self.kept)} say which holds the {self.choice.role}: "
            f"{self._option_for(self._best(self.kept))}"
        )

    def _best(self, columns: list[int]) -> list[int]:
        """The one of several columns that is most likely the one wanted."""
        truth = [k for k in columns if _is_truth(self._name(k))]
        others = [k for k in columns if not _is_identifier(self._name(k) or "x")]
        return (truth if self.choice.role == "labels" else [])[:1] or others[-1:] or self.kept[-1:]

    def _check_name(self, column: int) -> None:
        name = self._name(column)
        if name is None:
            return
        if not name and column == 0:
            raise ValueError(
                " has a first column without a name, as row names have: "
                f"{self.way_out(column)} (or write it without them: row.names = FALSE in R, "
                "index=False in pandas)"
            )
        strict = self.choice.role != "predictions"  # class_id may well be a label
        if _is_identifier(name, strict=strict):
            seen = "whose name is that of an identifier" if name else "as row names have"
            raise ValueError(self.refusal(column, seen))

    def _name(self, column: int) -> str | None:
        return None if self.names is None else self.names[column]

    def _positions(self, wanted: Sequence[Column], option: str) -> list[int]:
        """The positions of columns that are all given by name, or all by position."""
        names = self.names or []
        by_name = any(isinstance(w, str) and w.strip() in names for w in wanted)
        found: list[int] = []
        for w in wanted:
            if isinstance(w, str) and by_name:
                if names.count(w.strip()) > 1:
                    raise ValueError(f" has several columns {w!r}: give {option} positions from 0")
                at = names.index(w.strip()) if w.strip() in names else -1
            else:
                at = int(w) if re.fullmatch(r"\s*\d+\s*", str(w), re.ASCII) else -1
            if not 0 <= at < self.width:
                held = f"names ({self._listed(range(self.width))}) or " if names else ""
                none = "" if names else ", for no line names them"
                raise ValueError(
                    f" has no column {w!r}: {option} takes {held}positions, 0 to {self.width - 1}"
                    f"{none}"
                )
            if at in found:
                raise ValueError(f" has one column {w!r}, which {option} names twice")
            found.append(at)
        return found

    def _listed(self, columns: Sequence[int]) -> str:
        listed = [repr(self.names[k]) if self.names else str(k) for k in columns[:_LISTED]]
        return ", ".join(listed) + (", ..." if len(columns) > _LISTED else "")

    def _option_for(self, columns: list[int]) -> str:
        return f"{self.choice.option} {self._argument(columns)}"

    def _argument(self, columns: list[int]) -> str:
        """The columns as a shell takes them: names, or positions where a name would not do."""
        names = self.names or []
        named = all(
            names and names.count(n := names[k]) == 1 and n.isprintable() and n[:1] != "-"
            for k in columns
        )
        written = io.StringIO()
        csv.writer(written).writerow([names[k] if named else k for k in columns])
        text = written.getvalue().rstrip("\r\n")
        return shlex.quote("" if text == '""' else text)


def _is_identifier(name: str, *, strict: bool = False) -> bool:
    """Whether a column of this name numbers the rows; `strict` leaves names like user_id out."""
    if _bare(name) in _NAMES or _bare(name).startswith("unnamed:"):  # pandas reads "" so
        return True
    if strict:
        return False
    return bool(_ENDING.fullmatch(name))


def _is_truth(name: str | None) -> bool:
    """Whether a column of this name holds labels."""
    return name is not None and _bare(name) in _TRUTH


def _bare(name: str) -> str:
    return re.sub(r"[ _.\-]", "", name.lower())


# ---- columns by their numbers -------------------------------------------------------------------


class ColumnScan:
    """What kinds of numbers the columns of a table hold, found while its rows are read.

    Only columns without a fraction so far are looked at again, so that it costs next to nothing.

    Args:
        width: The number of columns.
    """

    def __init__(self, width: int) -> None:
        self._whole = np.arange(width)  # no fraction so far
        self._finite = np.ones(width, np.bool_)
        self._binary = np.ones(width, np.bool_)
        self._above = np.ones(width, np.bool_)  # above 1 in every row
        self._in_order = np.ones((2, width), np.bool_)  # 0, 1, 2, ... and 1, 2, 3, ...
        self._rows, self._width = 0, width
        self._first: Floats = np.empty((0, width))

    def add(self, block: Floats) -> None:
        """Look at the next rows."""
        if len(self._first) < 3:
            self._first = np.concatenate([self._first, block[:3]])[:3]
        for part in (block[:_FEW], block[_FEW:]):  # a few rows show most fractions
            if self._whole.size and len(part):
                self._look(part)
            self._rows += len(part)

    def _look(self, block: Floats) -> None:
        x = block if len(self._whole) == self._width else block[:, self._whole]
        with np.errstate(all="ignore"):
            finite = np.isfinite(x.sum(axis=0))
        whole = (x == np.floor(x)).all(axis=0)
        if not whole.all():  # NaN is no fraction
            rest = x[:, ~whole]
            whole[~whole] = ~(np.isfinite(rest) & (rest != np.floor(rest))).any(axis=0)
            x, finite, self._whole = x[:, whole], finite[whole], self._whole[whole]
        self._finite[self._whole] &= finite
        count = self._rows + np.arange(len(x))[:, np.newaxis]
        looks: list[tuple[Bools, Callable[[Floats], Bools]]] = [
            (self._binary, lambda x: (x == 0) | (x == 1)),
            (self._above, lambda x: x > 1),
            (self._in_order[0], lambda x: x == count),
            (self._in_order[1], lambda x: x == count + 1),
        ]
        for so_far, look in looks:
            still = so_far[self._whole]
            if still.any():
                so_far[self._whole[still]] = look(x[:, still]).all(axis=0)

    def row_names(self, column: int) -> bool:
        """Whether a column may be the names of rows, beside all columns before it."""
        whole = np.isin(np.arange(self._width), self._whole) & self._finite
        fractions = not whole[:column].all()
        ordered = bool(self._in_order[:, column].any()) and (self._rows > 2 or fractions)
        return bool(whole[column]) and (ordered or (fractions and not self._binary[column]))

    def identifier(
        self, scores: int, names: Sequence[str | None], *, probabilities: bool
    ) -> tuple[int, str] | None:
        """The first column that is an identifier, and what shows it; None if none is.

        Args:
            scores: How many columns, from the first on, should hold scores.
            names: Their names.
            probabilities: Whether the scores are probabilities.
        """
        fractional = ~np.isin(np.arange(self._width), self._whole)[:scores]
        whole, binary = ~fractional & self._finite[:scores], self._binary[:scores]
        fractions = bool(fractional.any())
        for k in np.flatnonzero(whole & self._in_order[:, :scores].any(axis=0)).tolist():
            if self._rows > 2:
                base = int(self._in_order[1, k])
                return k, f"holding {base} to {self._rows - 1 + base} in order, as an index does"
        for k in np.flatnonzero(whole).tolist() if fractions else []:
            if not binary[k]:
                return k, f"{self._shown(k)} beside columns of fractions, as an identifier does"
            if _is_truth(names[k]):
                return k, f"{self._shown(k)} beside columns of fractions, as labels do"
        if probabilities and self._rows > 2 and np.count_nonzero(~binary) == 1:
            (k,) = np.flatnonzero(~binary).tolist()
            if whole[k] and self._above[k]:
                return k, f"{self._shown(k)} above 1 beside columns of 0 and 1, as identifiers do"
        return None

    def _shown(self, column: int) -> str:
        shown = ", ".join(f"{v:.16g}" for v in self._first[:, column])
        return f"holding whole numbers ({shown}{', ...' if self._rows > 3 else ''})"

    def split_decimals(self) -> bool:
        """Whether all columns are whole, and those at even positions 0 and 1: as 0,72,0,28 is."""
        even = self._width % 2 == 0 and self._width > 2
        whole = len(self._whole) == self._width and self._finite.all()
        return bool(even and whole and self._binary[::2].all() and not self._binary[1::2].all())


def as_choice(value: Any) -> tuple[Column, ...] | None:
    """One column or several, as a tuple; None for None."""
    if value is None:
        return None
    one = isinstance(value, str) or not isinstance(value, Iterable)
    return tuple(map(_column, [value] if one else value))


def _column(value: Any) -> Column:
    if isinstance(value, str):
        return value
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise TypeError(
        f"a column must be a name or a position from 0, got {value!r} of type "
        f"{type(value).__name__}"
    )
