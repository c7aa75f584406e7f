"""The one-hot sibling's targets: an array of y_pred's shape in the place of labels.

Every check of a target, and every message about one.
"""

from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from sparse_xent import labels
from sparse_xent.arrays.numpy import as_array
from sparse_xent.arrays.refusals import refuse_kind
from sparse_xent.dtypes import is_number
from sparse_xent.origin import and_more, in_whole

Array = npt.NDArray[Any]

SPARSE = "loss_sparse_categorical_crossentropy"
SPARSE_METRIC = "metric_sparse_categorical_accuracy"


def array_of(y_true: object, x: Array, sparse: str = SPARSE) -> Array:
    """The user's targets for these scores; their values are not checked yet.

    Args:
        y_true: what the user sent.
        x: the scores.
        sparse: the function that takes integer labels.

    Raises:
        TypeError, ValueError: they are no numbers, or have another shape.
    """
    a = as_array(y_true, "y_true")
    if not is_number(a.dtype):
        refuse_kind(y_true, a, "y_true", "numbers (a weight for each class)")
    if a.shape != x.shape:
        swapped = labels.are_whole(x) and not labels.are_whole(a)
        check_shape(a.shape, x.shape, sparse, f"; {labels.SWAPPED}" if swapped else "")
    return a


def check_shape(
    targets: tuple[int, ...], scores: tuple[int, ...], sparse: str = SPARSE, cause: str = ""
) -> None:
    """Refuse targets of another shape than the scores'.

    Args:
        targets: their shape.
        scores: y_pred's.
        sparse: the function that takes integer labels.
        cause: what else there is to say.

    Raises:
        ValueError: the shapes differ.
    """
    if targets != scores:
        raise ValueError(
            f"y_true must have y_pred's shape {scores}, got {targets}: for one integer a label "
            f"use {sparse}{cause}"
        )


def refuse(targets: Array, x: Array, axis: int, sparse: str = SPARSE) -> NoReturn:
    """ValueError that names the first target, in C order, that is negative or NaN."""
    with np.errstate(all="ignore"):  # bfloat16 warns of its NaN
        bad = ~(targets >= 0)
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    at, axis = list(index), axis % x.ndim
    column = at.pop(axis)
    at = in_whole(at)
    at.insert(axis, column)
    others = and_more(int(np.count_nonzero(bad)) - 1)
    if labels.are_whole(x) and not labels.are_whole(targets):
        others += f"; {labels.SWAPPED}"
    raise ValueError(
        f"y_true must hold targets of 0 and more, got {targets[index]} at {tuple(at)}{others}; "
        f"for integer labels, -1 for a void class among them, use {sparse}"
    )
