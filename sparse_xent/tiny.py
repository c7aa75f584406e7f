"""Small calls: plain arrays of a few rows go from the caller to a kernel with nothing between.

A loss of two rows takes a kernel some 50 ns; reading options, judging layouts and waking threads
would take a thousand times as long. Here a call is looked at just far enough to see that nothing
about it is unusual (C order, the last of two axes, no weights); whatever else it is, and every
mistake in it, is left to `sweep`. A loss has the same bits either way, and so have sums and
gradients.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from sparse_xent import config
from sparse_xent.carried import CHUNK_BYTES
from sparse_xent.kernels import Scores
from sparse_xent.options import SCORES, Options

# A call is small where its rows are one chunk of `carried`: that is long beside what `sweep` adds,
# and one chunk has one sum, whoever makes it.

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_LABELS = (np.dtype(np.int32), np.dtype(np.int64), np.dtype(np.float64))
_REDUCED = {"sum_over_batch_size": True, "mean": True, "sum": False}

_RESULTS: dict[str, Any] = {"float32": np.float32, "float64": np.float64}
_LARGEST = float(np.finfo(np.float32).max)

_Found = tuple[int, Callable[..., tuple[int, float, int]], int, float, float]
_found: dict[tuple[Any, ...], _Found | None] = {}


def losses(
    y_true: Any,
    y_pred: Any,
    from_logits: Any,
    ignore_class: Any,
    axis: int,
    smoothing: Any,
    normalize: Any,
) -> Any:
    """One loss a label, in y_pred's dtype; None where the call is not small. y_pred is an array."""
    if from_logits.__class__ is not bool or smoothing.__class__ is not float:
        return None
    if axis not in (-1, 1) or normalize.__class__ is not str:
        return None
    if ignore_class is None:
        ignored, many = 0, 0
    elif ignore_class.__class__ is int and -(1 << 53) < ignore_class < 1 << 53:
        ignored, many = ignore_class, 1
    else:
        return None
    found = _serves(y_true, y_pred, from_logits, normalize, smoothing, False)
    if found is None:
        return None
    _, entry, walk, lo, hi = found
    made = np.empty(y_pred.shape[0], y_pred.dtype)
    bad, _, _ = entry(
        walk, y_pred, y_true, made, y_pred, False, False, ignored, many, smoothing, lo, hi
    )
    return None if bad else made


def reduced(
    y_true: Any, y_pred: Any, options: Options, gradient: bool, out: Any = None
) -> tuple[Any, Any] | None:
    """The reduced value and, if wanted, its gradient; None where the call is not small."""
    result = _RESULTS.get(options.dtype or "")
    if y_pred.__class__ is not np.ndarray or options.axis not in (-1, 1) or result is None:
        return None
    mean = _REDUCED.get(options.reduction or "")
    ignore = options.ignore_class
    if mean is None or options.class_weight is not None or len(ignore) > 1:
        return None
    if options.dtype == "float64" and y_pred.itemsize != 8:
        return None  # the arithmetic is then wider than the scores
    smoothing = options.label_smoothing
    found = _serves(y_true, y_pred, options.from_logits, options.normalize, smoothing, gradient)
    ignored = ignore[0] if ignore else 0
    if found is None or not -(1 << 53) < ignored < 1 << 53:
        return None
    _, entry, walk, lo, hi = found
    if out is not None and not _fits(out, y_pred, y_true):
        return None
    made = np.empty(y_pred.shape[0], y_pred.dtype)
    dx = out if out is not None else np.empty_like(y_pred) if gradient else y_pred
    bad, total, kept = entry(
        walk, y_pred, y_true, made, dx, gradient, mean, ignored, len(ignore), smoothing, lo, hi
    )
    value = total / kept if mean and kept else total
    if bad or value > _LARGEST:  # what rounds to inf is rounded where no warning is heard
        return None
    return result(value), dx


def _serves(
    y_true: Any, y_pred: Any, from_logits: bool, normalize: str, smoothing: float, gradient: bool
) -> _Found | None:
    """What serves the call, if it is small and plain."""
    if not config._compiled:
        return None
    shape = y_pred.shape
    if y_true.__class__ is not np.ndarray or len(shape) != 2 or y_true.shape != shape[:1]:
        return None
    key = (
        y_pred.dtype, y_true.dtype, shape[1], from_logits, normalize, smoothing, gradient,
        config._epsilon,
    )  # fmt: skip
    found = _found[key] if key in _found else _find(*key)
    if found is None or not 0 < shape[0] <= found[0]:
        return None
    plain = y_pred.flags.c_contiguous and y_true.flags.c_contiguous
    return found if plain and y_pred.flags.aligned and y_true.flags.aligned else None


def _fits(out: Any, y_pred: Any, y_true: Any) -> bool:
    """Whether a gradient may go there as it stands: y_pred itself, or an array well apart."""
    if out.__class__ is not np.ndarray or out.shape != y_pred.shape or out.dtype != y_pred.dtype:
        return False
    flags = out.flags
    if not (flags.c_contiguous and flags.writeable and flags.aligned):
        return False
    apart = out is y_pred or not np.may_share_memory(out, y_pred)
    return apart and not np.may_share_memory(out, y_true)


def _find(
    scores: np.dtype[Any],
    labels: np.dtype[Any],
    classes: int,
    from_logits: bool,
    normalize: str,
    smoothing: float,
    gradient: bool,
    eps: float,
) -> _Found | None:
    """What serves calls of this kind, remembered; None where nothing does."""
    found = None
    kind = SCORES.get(normalize)
    plain = scores in _FLOATS and labels in _LABELS and scores.isnative and labels.isnative
    plain = plain and not (from_logits and smoothing > 0)  # as in `carried`
    if plain and kind is not None and classes and 0 <= smoothing <= 1:
        from sparse_xent.kernels import native

        kind = Scores.LOGITS if from_logits else kind
        walk = native.choose(
            scores.name, kind, smoothing > 0, classes, 1, (scores.itemsize, 0), CHUNK_BYTES
        )
        span = float(scores.type(eps)), float(scores.type(1 - eps))
        found = (walk.chunk, native.small(), walk.both() if gradient else walk.forward(), *span)
    if len(_found) > 1000:  # shapes that never come again
        _found.clear()
    _found[scores, labels, classes, from_logits, normalize, smoothing, gradient, eps] = found
    return found
