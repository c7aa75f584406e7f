"""Scores that are given as probabilities and cannot be any: what is found, and the one warning.

Decides which scores those are (below -1e-3 or above 1 + 1e-3, at a label that is not ignored,
whatever its weight; NaN is none of them), which of them is the first (in C order of the labels),
and what they look like. The value of the loss never depends on it. The compiled kernels find the
same rows (`kernels.cpu.implausible`).
"""

import sys
import warnings
from typing import Any, Literal

import numpy as np

from sparse_xent.engines.base import Found
from sparse_xent.origin import and_more, current, in_whole

_CALLS = 100  # whose warnings are remembered


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
            f"{place(found, shape, axis)}{_others(found.rows - 1)}; they look like "
            f"{_WAYS_OUT[likely(found)]}"
        )
    if message is not None and _is_first():
        warnings.warn(message, UserWarning, stacklevel=_depth())


_warned: dict[str, set[tuple[int, ...]]] = {}  # call -> parts that had something to say


def _is_first() -> bool:
    """Of the parts of a call one alone warns in each process, until that part is done again."""
    part = current()
    if part is None or part.call is None:
        return True
    before = _warned.get(part.call)
    if before is not None and part.first not in before:
        before.add(part.first)
        return False
    if len(_warned) >= _CALLS:
        _warned.clear()
    _warned[part.call] = {part.first}
    return True


def place(found: Found, shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """The index of the first score that cannot be a probability."""
    losses = shape[:axis] + shape[axis + 1 :]
    index = [int(i) for i in np.unravel_index(found.first, losses)] if losses else []
    index = in_whole(index)
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


def _others(rows: int) -> str:
    return f",{and_more(rows, 'row')}" if rows else ""


def _depth() -> int:
    """The stack level, for `warnings.warn` in the caller, of the first frame outside the package.

    That is the user's line, however many calls of ours lie between, and of torch's, by which a
    differentiable loss is called.
    """
    frame, depth = sys._getframe(1), 1
    while frame.f_back is not None and _is_ours(frame.f_globals):
        frame, depth = frame.f_back, depth + 1
    return depth


def _is_ours(variables: dict[str, Any]) -> bool:
    return str(variables.get("__name__", "")).partition(".")[0] in (__package__, "torch")
