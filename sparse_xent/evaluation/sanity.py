"""Says what rows of scores look like, where that is not what they are given as.

A guess never changes how rows are scored: a note says what they look like, and which option to use
if they are that. All rows that cannot be probabilities are found while they are scored; for the
rest a sample of rows of every block is examined.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_SAMPLE = 64  # rows of a block that are examined,
_SAMPLE_SIZE = 1 << 16  # and numbers, or two rows
_TOLERANCE = 0.01  # of a sum: 1000 float16 probabilities may sum to 1.002


def note(
    x: Array,
    axis: int,
    kept: NDArray[np.bool_],
    scores: str,
    bounds: tuple[float, float],
) -> str | None:
    """What is odd about a block of scores.

    Args:
        x: The scores.
        axis: The class axis.
        kept: The rows that count; the losses' shape.
        scores: What they are given as: "probabilities", "logits" or "log-probabilities".
        bounds: The least and the greatest score that can be a probability, but for rounding.

    Returns:
        What is odd, to follow the word "rows"; None if nothing is.
    """
    rows = _sampled(x, axis, kept)
    rows = rows[~np.isnan(rows).any(axis=1) & ~np.isposinf(rows).any(axis=1)]
    if not rows.size or rows.shape[1] == 1:
        return None
    if scores == "probabilities":
        return _of_probabilities(rows, *bounds)
    return _of_logits(rows, scores == "log-probabilities")


def cause(row: Array, likely: str) -> str:
    """What the first row that cannot be probabilities looks like, and what to do.

    Args:
        row: All its scores.
        likely: What it looks like, log-probabilities aside: "logits", "percentages" or "counts".
    """
    if row.max() <= 0 and np.abs(_log_sum(row[None])).max() <= _TOLERANCE:
        return "they look like log-probabilities (none is above 0): say --log-probs if they are"
    return {
        "logits": "say --logits if they are logits",
        "percentages": "they look like percentages: divide them by 100",
        "counts": "they look like counts: divide each row by its sum",
    }[likely]


def _of_logits(rows: Array, log_probs: bool) -> str | None:
    if _are_probabilities(rows):
        asked = "--log-probs" if log_probs else "--logits"
        return f"look like probabilities (each row sums to 1): leave out {asked} if they are"
    total = _log_sum(rows)
    if log_probs and np.abs(total).max() > _TOLERANCE:
        return (
            "do not look like log-probabilities (the log of the sum of their exponentials reaches "
            f"{total[np.abs(total).argmax()]:.4g}, not 0): say --logits if they are logits; either "
            "way that log is taken off"
        )
    return None


def _of_probabilities(rows: Array, least: float, most: float) -> str | None:
    if rows.min() < least or rows.max() > most:  # `cause` says more
        return None
    sums = rows.sum(axis=1)
    worst = sums[np.abs(sums - 1).argmax()]
    if abs(worst - 1) > _TOLERANCE:
        return f"do not sum to 1 (one row's sum is {worst:.4g}): are they probabilities?"
    return None


def _are_probabilities(rows: Array) -> bool:
    within = rows.min() >= 0 and rows.max() <= 1
    return bool(within and np.abs(rows.sum(axis=1) - 1).max() <= _TOLERANCE)


def _log_sum(rows: Array) -> Array:
    """The log of the sum of the exponentials of each row."""
    greatest = rows.max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        total = np.exp(rows - greatest).sum(axis=1)
    logs: Array = np.where(np.isneginf(greatest[:, 0]), -np.inf, np.log(total) + greatest[:, 0])
    return logs


def _sampled(x: Array, axis: int, kept: NDArray[np.bool_]) -> Array:
    """Rows that count, evenly spaced, as float64: shape [at most _SAMPLE, C]."""
    rows = np.moveaxis(x, axis, -1)
    positions = np.flatnonzero(kept)
    most = min(len(positions), _SAMPLE, max(2, _SAMPLE_SIZE // rows.shape[-1]))
    chosen = positions[np.linspace(0, len(positions) - 1, most).astype(np.int64)]
    sample: Array = rows[np.unravel_index(chosen, kept.shape)] if kept.ndim else rows
    return np.atleast_2d(sample).astype(np.float64)
