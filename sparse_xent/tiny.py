"""Small calls: plain arrays of a few rows go from the caller to a kernel with nothing between.

A loss of two rows takes a kernel some 50 ns; reading options, judging layouts and waking threads
would take a thousand times as long. Here a call is looked at just far enough to see that nothing
about it is unusual (C order, the last axis, no weights); whatever else it is, and every mistake in
it, is left to `sweep`. A loss has the same bits either way, and so has a sum.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from sparse_xent import config
from sparse_xent.kernels import Scores

# Elements up to which a call is small: above, what `sweep` adds is a small part of the whole.
SIZE = 1 << 14
ROWS = 1 << 10

_SCORES = {"after": Scores.AFTER, "before": Scores.BEFORE, "never": Scores.NEVER}
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_LABELS = (np.dtype(np.int32), np.dtype(np.int64), np.dtype(np.float64))

_Found = tuple[Callable[..., tuple[int, float, int]], int, float, float]
_found: dict[tuple[Any, ...], _Found | None] = {}


def losses(
    y_true: Any, y_pred: Any, from_logits: Any, ignore_class: Any, smoothing: Any, normalize: Any
) -> tuple[Any, float, int] | None:
    """Losses in y_pred's dtype, their sum and how many count; None where the call is not small.

    `y_pred` is an ndarray, and the class axis the last.
    """
    shape = y_pred.shape
    if y_true.__class__ is not np.ndarray or len(shape) != 2 or y_true.shape != shape[:1]:
        return None
    if from_logits.__class__ is not bool or smoothing.__class__ is not float:
        return None
    key = y_pred.dtype, y_true.dtype, shape[1], from_logits, normalize, smoothing, config._epsilon
    found = _found[key] if key in _found else _find(*key)
    if found is None or not 0 < shape[0] <= ROWS or y_pred.size > SIZE:
        return None
    if not (y_pred.flags.c_contiguous and y_true.flags.c_contiguous):
        return None
    entry, walk, lo, hi = found
    if ignore_class is None:
        ignored, many = 0, 0
    elif ignore_class.__class__ is int and abs(ignore_class) < 1 << 53:
        ignored, many = ignore_class, 1
    else:
        return None
    made = np.empty(shape[0], y_pred.dtype)
    bad, total, kept = entry(walk, y_pred, y_true, made, ignored, many, smoothing, lo, hi)
    return None if bad else (made, total, kept)


def _find(
    scores: np.dtype[Any],
    labels: np.dtype[Any],
    classes: int,
    from_logits: bool,
    normalize: str,
    smoothing: float,
    eps: float,
) -> _Found | None:
    """What serves such calls, remembered; None where nothing does."""
    found = None
    kind = Scores.LOGITS if from_logits else _SCORES.get(normalize)
    plain = scores in _FLOATS and labels in _LABELS and scores.isnative and labels.isnative
    if plain and kind is not None and normalize in _SCORES and classes and 0 <= smoothing <= 1:
        from sparse_xent.kernels import native

        size = scores.itemsize
        walk = native.choose(scores.name, kind, smoothing > 0, classes, 1, (size, 0), 1)
        if walk is not None:
            span = float(scores.type(eps)), float(scores.type(1 - eps))
            found = (native.small(), walk.forward(), *span)
    if len(_found) > 1000:  # shapes that never come again
        _found.clear()
    _found[scores, labels, classes, from_logits, normalize, smoothing, eps] = found
    return found
