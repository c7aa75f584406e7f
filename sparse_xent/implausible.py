"""Scores that are given as probabilities and cannot be any: what is found, and the one warning.

Decides which scores those are (below -1e-3 or above 1 + 1e-3, at a label that is not ignored,
whatever its weight; NaN is none of them), which of them is the first (in C order of the labels),
and what they look like. The value of the loss never depends on it. The compiled kernels find the
same rows (`kernels.implausible`).
"""

import sys
import warnings
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from sparse_xent.kernels.cpu import abi
from sparse_xent.layout import Layout

Array = npt.NDArray[Any]

# What a probability may be, rounding errors and all.
LEAST, MOST = abi.LEAST, abi.MOST


class Found(NamedTuple):
    """How many rows cannot be probabilities, and what the first of them holds.

    `Search`, `of_sums` and `joined` give the same numbers for the same scores, whatever the engine
    and the layout.
    """

    rows: int = 0
    first: int = -1  # the row's place among the losses, flat in C order
    column: int = 0  # the class of its first score that cannot be a probability
    score: float = 0.0  # that score
    least: float = 0.0  # of the row, NaN left out
    most: float = 0.0
    total: float = 0.0  # the sum of the row
    whole: bool = False  # whether the row holds nothing but finite whole numbers


NOTHING = Found()


def joined(a: Found, b: Found) -> Found:
    """What is found in both of two parts of a call."""
    if not a.rows or not b.rows:
        return a if a.rows else b
    first = a if a.first < b.first else b
    return first._replace(rows=a.rows + b.rows)


def of_sums(sums: Array) -> Found:
    """What the compiled kernels found: `native.SUMS` float64 of each chunk."""
    chunks = sums[sums[:, abi.ODD_ROWS] > 0]
    if not len(chunks):
        return NOTHING
    chunk = chunks[chunks[:, abi.ODD_ROWS + 1].argmin(), abi.ODD_ROWS :]
    _, first, column, score, least, most, total, whole = chunk.tolist()
    rows = int(chunks[:, abi.ODD_ROWS].sum())
    return Found(rows, int(first), int(column), score, least, most, total, bool(whole))


class Search:
    """Looks at the blocks of a call, as arrays.

    Args:
        layout: the call's.
        probabilities: whether scores are looked at; logits may have any value.
        target_only: whether the target's score alone enters the loss.
        arithmetic: the dtype in which scores are compared.
    """

    def __init__(
        self, layout: Layout, probabilities: bool, target_only: bool, arithmetic: np.dtype[Any]
    ) -> None:
        self.found = NOTHING
        self._layout, self._arithmetic = layout, arithmetic
        self._probabilities, self._target_only = probabilities, target_only

    def look(self, x: Array, y: Array, start: int) -> None:
        """Look at a block.

        Args:
            x: scores [outer, C, inner].
            y: labels [outer, inner], negative where ignored.
            start: the block's first position, in the flat order of positions.
        """
        if not self._probabilities:
            return
        x = x.astype(self._arithmetic, copy=False)  # halves would round the bounds
        targets = np.maximum(y, 0)[:, None]
        seen = np.take_along_axis(x, targets, axis=1) if self._target_only else x
        bad = (seen < LEAST) | (seen > MOST)
        rows = bad.any(axis=1) & (y >= 0)
        if not rows.any():
            return
        places = self._layout.c_order(start + np.flatnonzero(rows))
        k = int(places.argmin())
        outer, inner = (int(axis[k]) for axis in np.nonzero(rows))
        row = x[outer, :, inner].astype(np.float64)
        column = int(bad[outer, :, inner].argmax())
        if self._target_only:
            column = int(y[outer, inner])
        here = Found(
            rows=len(places),
            first=int(places[k]),
            column=column,
            score=float(row[column]),
            least=float(np.fmin.reduce(row)),
            most=float(np.fmax.reduce(row)),
            total=float(row.sum()),
            whole=bool(np.isfinite(row).all() and (row == np.floor(row)).all()),
        )
        self.found = joined(self.found, here)


def warn(found: Found, shape: tuple[int, ...], axis: int) -> None:
    """One UserWarning, at the line that called the library, where there is something to say.

    Args:
        found: what was found in the call.
        shape: y_pred's.
        axis: the class axis, not negative.
    """
    message = None
    if shape[axis] == 1 and 0 not in shape:
        message = (
            f"y_pred must hold at least two classes, got {shape} with one class along axis {axis}: "
            "every loss is 0; stack 1 - p, p (of logits 0, x) along that axis"
        )
    elif found.rows:
        message = (
            f"y_pred must hold probabilities, from 0 to 1: got {found.score:.6g} at "
            f"{place(found, shape, axis)}{_more(found.rows - 1)}; they look like "
            f"{_WAYS_OUT[likely(found)]}"
        )
    if message is not None:
        warnings.warn(message, UserWarning, stacklevel=_depth())


def place(found: Found, shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The index of the first score that cannot be a probability."""
    losses = shape[:axis] + shape[axis + 1 :]
    index = [int(i) for i in np.unravel_index(found.first, losses)] if losses else []
    index.insert(axis, found.column)
    return tuple(index)


def likely(found: Found) -> Literal["logits", "percentages", "counts"]:
    """What the first row looks like."""
    if found.least >= 0 and found.most <= 101 and abs(found.total - 100) <= 1:
        return "percentages"
    return "counts" if found.least >= 0 and found.whole else "logits"


_WAYS_OUT = {
    "logits": "logits: from_logits=True (in R: from_logits = TRUE)",
    "percentages": "percentages: divide by 100",
    "counts": "counts: divide by their sum",
}


def _more(rows: int) -> str:
    return f", and {rows} more row{'s' * (rows > 1)}" if rows else ""


def _depth() -> int:
    """The stack level, for `warnings.warn` in the caller, of the first frame outside the package.

    That is the user's line, however many calls of ours lie between.
    """
    frame, depth = sys._getframe(1), 1
    while frame.f_back is not None and _is_ours(frame.f_globals):
        frame, depth = frame.f_back, depth + 1
    return depth


def _is_ours(variables: dict[str, Any]) -> bool:
    return str(variables.get("__name__", "")).partition(".")[0] == __package__
