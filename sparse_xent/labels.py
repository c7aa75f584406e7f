"""Every check of a label, and every message about one.

A label is a whole number from 0 to C-1, of any integer or float dtype, or one of the ignored
classes. `Labels.lower` turns a block of them into int64 with -1 for ignored; the first block with
a bad label makes `refuse` look at all of them and name the first, in C order of the losses.
"""

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from sparse_xent.arrays.numpy import as_array, is_float, refuse_kind
from sparse_xent.layout import Layout
from sparse_xent.options import NA_INTEGER

Array = npt.NDArray[Any]
Int64 = npt.NDArray[np.int64]

_EXACT = {"bfloat16": 2**8, "float16": 2**11, "float32": 2**24, "float64": 2**53}


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of one call: `y` in the losses' shape, a view of what the user sent."""

    y: Array
    sent: tuple[int, ...]  # the shape in which they were sent
    axis: int
    classes: int
    ignored: tuple[int, ...]

    def lower(self, block: Array) -> Int64:
        """A block of `y` as int64, -1 where ignored; ValueError if any is no class."""
        y, bad = self._judge(block)
        if bad.any():
            self.refuse()
        return y

    def _judge(self, block: Array) -> tuple[Int64, npt.NDArray[np.bool_]]:
        """Labels as int64 (-1 where ignored), and where they are neither class nor ignored."""
        values = _exact(block)
        # A class beyond the dtype's range cannot be among the labels, nor be compared with them.
        ignored = np.zeros(values.shape, np.bool_)
        for c in self.ignored:
            if _fits(c, values.dtype):
                ignored |= values == values.dtype.type(c)
        bad = ~ignored & ~((values >= 0) & (values < self.classes))  # NaN is bad as well
        if values.dtype.kind == "f":
            bad |= ~ignored & (values != np.floor(values))
        return np.where(ignored | bad, -1, values).astype(np.int64, copy=False), bad

    def refuse(self) -> NoReturn:
        """ValueError: the first bad label, how many more there are, and the likely cause."""
        flat = self.y.ravel()
        y, bad = self._judge(flat)
        first = int(bad.argmax())
        more = int(np.count_nonzero(bad)) - 1
        values = _exact(flat)
        cause = self._cause(values[first], values, bad, y)
        raise ValueError(self._complaint(_shown(values[first]), self._index(first), more, cause))

    def complaint(self, value: float, words: str | None, at: tuple[int, ...]) -> str:
        """What there is to say of one bad label where the others cannot be seen.

        Args:
            value: the label, or a number with the same likely cause.
            words: how it is shown; by its value if None.
            at: its place among the losses.
        """
        values = np.array([int(value) if value == value // 1 and abs(value) < 2**53 else value])
        cause = self._cause(values[0], values, np.array([True]), np.empty(0, np.int64))
        first = int(np.ravel_multi_index(at, self.y.shape)) if at else 0
        return self._complaint(words or _shown(values[0]), self._index(first), 0, cause)

    def _complaint(self, shown: str, at: tuple[int, ...], more: int, cause: str) -> str:
        others = f" and {more} more" if more else ""
        return (
            f"y_true must hold whole numbers from 0 to {self.classes - 1} ({self.classes} classes)"
            f": got {shown} at {at}{others}{cause}"
        )

    def _index(self, first: int) -> tuple[int, ...]:
        """The index in the array that was sent, which may have length 1 at the class axis."""
        index = [int(i) for i in np.unravel_index(first, self.y.shape)]
        if len(self.sent) > self.y.ndim:
            index.insert(self.axis, 0)
        return tuple(index) if self.sent else ()

    def _cause(self, value: Any, values: Array, bad: Array, y: Int64) -> str:
        if value != value or value == NA_INTEGER:
            return "; drop missing labels, or name a class for them in ignore_class" + (
                "" if value != value else f" (ignore_class={NA_INTEGER} takes R's NA as it is)"
            )
        wrong = values[bad & (values == values)]
        if not np.isfinite(wrong).all() or (wrong != np.floor(wrong)).any():
            return "; labels are classes, not scores: are y_true and y_pred swapped?"
        kept = np.concatenate([y[y >= 0], wrong])
        if kept.min() >= 1 and kept.max() == self.classes:
            return "; labels look 1-based: use y - 1 (in R: y - 1L)"
        if value < 0:
            return f"; if {int(value)} marks what should not count, pass ignore_class={int(value)}"
        if value in (255, 65535):
            return f"; if {int(value)} is a void class, pass ignore_class={int(value)}"
        return f"; y_pred has {self.classes} classes along axis {self.axis}"


def read(y_true: object, layout: Layout, ignored: tuple[int, ...]) -> Labels:
    """The user's labels for a y_pred of this layout; their values are not checked yet."""
    y = as_array(y_true, "y_true")
    kind = y.dtype.kind
    if kind == "O" and not isinstance(y_true, np.ndarray) and _are_ints(y):
        y = _beyond_int64(y)
    elif not (kind in "biu" or is_float(y.dtype)):
        refuse_kind(y_true, y, "y_true", "whole numbers (the classes' indices)")
    if is_float(y.dtype):
        _check_exact(y.dtype, layout.classes)
    return Labels(_shaped(y, layout), y.shape, layout.axis, layout.classes, ignored)


def _shaped(y: Array, layout: Layout) -> Array:
    """A view of y in the losses' shape, or a ValueError that says which shapes would do."""
    with_axis = (*layout.shape[: layout.axis], 1, *layout.shape[layout.axis + 1 :])
    if y.shape == layout.losses:
        return y
    if y.shape == with_axis:
        return y.squeeze(layout.axis)
    if y.ndim == 0 and layout.count == 1:
        return y.reshape(layout.losses)
    if y.shape == layout.shape:
        raise ValueError(
            f"y_true must have y_pred's shape without axis {layout.axis}, got y_pred's own "
            f"{y.shape}: its labels look one-hot: use loss_categorical_crossentropy, or argmax"
            f" (numpy.argmax(y_true, axis={layout.axis}))"
        )
    got = "a single number" if y.ndim == 0 else f"{y.shape}"
    raise ValueError(
        f"y_true must have y_pred's shape without axis {layout.axis}: expected {layout.losses} or "
        f"{with_axis}, got {got} (y_pred is {layout.shape})"
    )


def _check_exact(dtype: np.dtype[Any], classes: int) -> None:
    limit = _EXACT.get(dtype.name, 2**53)
    if classes - 1 > limit:
        raise TypeError(
            f"y_true must be of an integer dtype for {classes} classes, got {dtype.name}, which is "
            f"exact up to {limit} only: pass the labels as they were before the cast to float"
        )


def _exact(block: Array) -> Array:
    """The block in a dtype that holds its values exactly and compares with integers."""
    kind = block.dtype.kind
    if kind == "u" and block.dtype.itemsize == 8:
        return block.astype(np.uint64, copy=False)
    if kind in "biu":
        return block.astype(np.int64, copy=False)
    if kind == "f" and block.dtype.itemsize > 8:
        return block.astype(np.longdouble, copy=False)
    return block.astype(np.float64, copy=False)


def _fits(value: int, dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "f":
        return abs(value) < 2**1000 and int(float(value)) == value
    info = np.iinfo(dtype)
    return int(info.min) <= value <= int(info.max)


def _are_ints(y: Array) -> bool:
    return y.size > 0 and all(type(v) is int for v in y.ravel())


def _beyond_int64(y: Array) -> Array:
    """Python ints that no integer dtype holds, as float64: whole still, and out of any range."""
    return np.array([float(max(min(v, 2**100), -(2**100))) for v in y.ravel()]).reshape(y.shape)


def _shown(value: Any) -> str:
    if value != value:
        return "nan (NA in R)"
    if value == NA_INTEGER:
        return f"{NA_INTEGER} (NA in R)"
    number = value.item() if hasattr(value, "item") else value
    return f"{number:.17g}" if isinstance(number, float) else repr(number)
