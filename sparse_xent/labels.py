"""Every check of a label, and every message about one.

A label is a whole number from 0 to C-1, of any integer or float dtype, or one of the ignored
classes. What can be known of labels from their shape and dtype is checked when a call is planned;
their values are checked where they are used, and where one is bad `Labels.refuse` looks at all of
them and names the first, in C order of the losses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from sparse_xent.arrays import foreign
from sparse_xent.arrays.base import ArraySpec
from sparse_xent.arrays.numpy import as_array, spec_of
from sparse_xent.arrays.refusals import refuse_kind
from sparse_xent.dtypes import is_float, is_number
from sparse_xent.layout import Layout, layout_of
from sparse_xent.options import NA_INTEGER
from sparse_xent.origin import and_more, in_whole

Array = npt.NDArray[Any]
Int64 = npt.NDArray[np.int64]

SWAPPED = "y_true and y_pred look swapped: labels come first, then scores"
UNKNOWN = 2**62  # the number of classes where only a part of them has been seen
_EXACT = {"bfloat16": 2**8, "float16": 2**11, "float32": 2**24, "float64": 2**53}


@dataclass(frozen=True, slots=True)
class Labels:
    """What labels may be in the calls of one kind, and what there is to say of bad ones."""

    sent: tuple[int, ...]  # the shape in which they were sent
    losses: tuple[int, ...]
    axis: int
    classes: int
    ignored: tuple[int, ...]

    def shaped(self, y: Array) -> Array:
        """A view of the labels, as they were sent, in the losses' shape."""
        return in_shape(y, self.losses, self.axis)

    def spec(self, y: ArraySpec) -> ArraySpec:
        """The labels' spec in the losses' shape."""
        if y.shape == self.losses:
            return y
        strides = y.strides[: self.axis] + y.strides[self.axis + 1 :]
        return y._replace(shape=self.losses, strides=strides or (0,) * len(self.losses))

    def decode(self, block: Array) -> tuple[Int64, npt.NDArray[np.bool_]]:
        """Labels as int64 (-1 where ignored), and where they are neither class nor ignored."""
        values = _exact(block)
        # A class beyond the dtype's range cannot be among the labels, nor be compared with them.
        ignored = np.zeros(values.shape, np.bool_)
        for c in self.ignored:
            if _fits(c, values.dtype):
                ignored |= values == values.dtype.type(c)
        bad = ~ignored & ~((values >= 0) & (values < self.classes))  # NaN is bad as well
        if values.dtype.kind == "f":
            with np.errstate(invalid="ignore"):  # older NumPy warns of the floor of NaN
                bad |= ~ignored & (values != np.floor(values))
        return np.where(ignored | bad, -1, values).astype(np.int64, copy=False), bad

    def refuse(self, labels: Array) -> NoReturn:
        """ValueError: the first bad label, how many more there are, and the likely cause.

        Args:
            labels: all of them, as they were sent.
        """
        flat = self.shaped(labels).ravel()
        y, bad = self.decode(flat)
        first = int(bad.argmax())
        more = int(np.count_nonzero(bad)) - 1
        values = _exact(flat)
        cause = self._cause(values[first], values, bad, y)
        index = self._index(first)
        raise ValueError(self._complaint(_shown(values[first]), index, more, cause))

    def complaint(
        self,
        value: float,
        words: str | None,
        at: tuple[int, ...],
        more: int = 0,
        seen: Sequence[int] = (),
    ) -> str:
        """What there is to say of one bad label where the others cannot be seen.

        Args:
            value: the label, or a number with the same likely cause.
            words: how it is shown; by its value if None.
            at: its place among the losses.
            more: how many others are bad.
            seen: other labels, the least and the greatest among them, where they are known.
        """
        values = np.array([int(value) if value == value // 1 and abs(value) < 2**53 else value])
        cause = self._cause(values[0], values, np.array([True]), np.array(seen, np.int64))
        first = int(np.ravel_multi_index(at, self.losses)) if at else 0
        return self._complaint(words or _shown(values[0]), self._index(first), more, cause)

    def _complaint(self, shown: str, at: tuple[int, ...], more: int, cause: str) -> str:
        others, valid = and_more(more), f"0 to {self.classes - 1} ({self.classes} classes)"
        if self.classes == UNKNOWN:
            valid = "0 on"
        return f"y_true must hold whole numbers from {valid}: got {shown} at {at}{others}{cause}"

    def _index(self, first: int) -> tuple[int, ...]:
        """The index in the array that was sent, which may have length 1 at the class axis."""
        index = in_whole([int(i) for i in np.unravel_index(first, self.losses)])
        if len(self.sent) > len(self.losses):
            index.insert(self.axis, 0)
        return tuple(index) if self.sent else ()

    def _cause(self, value: Any, values: Array, bad: Array, y: Int64) -> str:
        if value != value or value == NA_INTEGER:
            takes = f" ({self._ignoring(NA_INTEGER)} takes R's NA as it is)"
            return "; drop missing labels, or name a class for them in ignore_class" + (
                takes if value == value else ""
            )
        wrong = values[bad & (values == values)]
        if not np.isfinite(wrong).all() or (wrong != np.floor(wrong)).any():
            return "; labels are classes, not scores: are y_true and y_pred swapped?"
        if self.classes == 1 and (wrong == 1).all():
            return (
                "; if y_pred holds the probabilities of class 1 of two, pass "
                f"numpy.concatenate([1 - y_pred, y_pred], axis={self.axis}) (of logits: 0 * y_pred "
                "for 1 - y_pred)"
            )
        kept = np.concatenate([y[y >= 0], wrong])
        if kept.min() >= 1 and kept.max() == self.classes:
            return "; labels look 1-based: use y - 1 (in R: y - 1L)"
        if value < 0:
            return f"; if {int(value)} marks what should not count, pass {self._ignoring(value)}"
        if value in (255, 65535):
            return f"; if {int(value)} is a void class, pass {self._ignoring(value)}"
        return f"; y_pred has {self.classes} classes along axis {self.axis}"

    def _ignoring(self, value: Any) -> str:
        """The option that ignores this class too."""
        classes = sorted({*self.ignored, int(value)})
        return f"ignore_class={classes if len(classes) > 1 else classes[0]}"


def in_shape(y: Array, losses: tuple[int, ...], axis: int) -> Array:
    """A view in the losses' shape of labels that fit a y_pred with this class axis."""
    if y.shape == losses:
        return y
    return y.squeeze(axis) if y.ndim > len(losses) else y.reshape(losses)


def class_axis(x: Array, y_true: object, axis: int) -> Layout:
    """The layout of y_pred, which is said to be swapped with y_true where it looks so.

    Raises:
        ValueError: y_pred has no such axis, or no class along it.
    """
    try:
        return layout_of(x.shape, axis, x.strides)
    except ValueError as error:
        if are_whole(x) and _axes(y_true) == x.ndim + 1:
            raise ValueError(f"{error}; {SWAPPED}") from None
        raise


def _axes(value: object) -> int:
    """How many axes there are; none where that cannot be said."""
    try:
        return np.ndim(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return 0


def array_of(y_true: object) -> Array:
    """The user's labels as an array of numbers; what are none is refused."""
    y = as_array(y_true, "y_true")
    if y.dtype.kind == "O" and not isinstance(y_true, np.ndarray) and _are_ints(y):
        return _beyond_int64(y)
    if not is_number(y.dtype):
        refuse_kind(y_true, y, "y_true")
    return y


def read(
    y: ArraySpec,
    layout: Layout,
    ignored: tuple[int, ...],
    y_true: object = None,
    x: Array | None = None,
) -> Labels:
    """What labels of this shape and dtype may be, for a y_pred of this layout.

    Args:
        y: the labels as they were sent.
        layout: y_pred's.
        ignored: the classes that do not count.
        y_true: what the user sent, for what a message says of it.
        x: y_pred, to see whether it looks like labels; None where its values cannot be read.

    Raises:
        TypeError: the labels' dtype cannot hold so many classes.
        ValueError: their shape does not fit.
    """
    if is_float(y.dtype):
        _check_exact(_sent_as(y_true, y.dtype), layout.classes)
    fits = y.shape in (layout.losses, _with_axis(layout))
    if not fits and (y.shape or layout.count != 1):
        _refuse_shape(y, layout, ignored, y_true, x)
    return Labels(y.shape, layout.losses, layout.axis, layout.classes, ignored)


def read_part(
    y: ArraySpec, layout: Layout, ignored: tuple[int, ...], stop: int, **of: Any
) -> Labels:
    """The same where the layout is that of a part of the classes, which ends before class `stop`.

    How many classes there are is not known: a label beyond the part is no bad one.
    """
    if is_float(y.dtype):
        _check_exact(_sent_as(of.get("y_true"), y.dtype), stop)
    return replace(read(y, layout, ignored, **of), classes=UNKNOWN)


def decoded(
    y: Array,
    layout: Layout,
    ignored: tuple[int, ...],
    y_true: object,
    x: Array | None,
) -> Int64:
    """All labels in the losses' shape, -1 where one is ignored.

    Args:
        y: the labels as they were sent.
        layout: y_pred's.
        ignored: the classes that do not count.
        y_true: what the user sent, for what a message says of it.
        x: y_pred; None where its values cannot be read.

    Raises:
        TypeError, ValueError: one is neither a class nor ignored, or they do not fit.
    """
    reader = read(spec_of(y), layout, ignored, y_true, x)
    found, bad = reader.decode(reader.shaped(y))
    if bad.any():
        reader.refuse(y)
    return found


def _with_axis(layout: Layout) -> tuple[int, ...]:
    return (*layout.shape[: layout.axis], 1, *layout.shape[layout.axis + 1 :])


def _refuse_shape(
    y: ArraySpec, layout: Layout, ignored: tuple[int, ...], y_true: object, x: Array | None
) -> NoReturn:
    """ValueError that says which shapes would do."""
    expected = f"y_true must have y_pred's shape without axis {layout.axis}"
    swapped = _look_swapped(y, layout, y_true, x)
    column = x if x is not None and x.ndim == 1 and not swapped else None
    if column is not None:
        _check_column(y_true, column, ignored)
    if y.shape == layout.shape and not swapped:
        argmax = foreign.argmax(y_true, "y_true", layout.axis)
        labels = "" if column is None else f"; if they are a label for each score, {_two(column)}"
        raise ValueError(
            f"{expected}, got y_pred's own {y.shape}: its labels look one-hot: use "
            f"loss_categorical_crossentropy, or argmax ({argmax}){labels}"
        )
    got = f"{y.shape}" if y.shape else "a single number"
    raise ValueError(
        f"{expected}: expected {layout.losses} or "
        f"{_with_axis(layout)}, got {got} (y_pred is {layout.shape})"
        f"{f'; {SWAPPED}' if swapped else _other_shape(y.shape, layout)}"
    )


def _other_shape(y: tuple[int, ...], layout: Layout) -> str:
    """What makes labels of this shape fit, in a message; "" where nothing does."""
    x = layout.shape
    axes = [a for a in range(len(x)) if y in (x[:a] + x[a + 1 :], (*x[:a], 1, *x[a + 1 :]))]
    if axes:
        fits = " or ".join(f"axis={a}" for a in axes)
        return f"; where the classes are along another axis, pass {fits}"
    if layout.classes == 1 and len(y) and _without_1(x)[:-1] == _without_1(y):
        return "; to drop y_pred's axes of length 1 pass numpy.squeeze(y_pred) (in R: drop(y_pred))"
    if layout.losses and _without_1(y) == _without_1(layout.losses):
        return f"; pass numpy.reshape(y_true, {layout.losses})"
    return ""


def _without_1(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def _check_column(y_true: object, x: Array, ignored: tuple[int, ...]) -> None:
    """ValueError where y_pred is a vector with a score for each label, and no row with its target.

    With two classes such scores are those of the second: `predict_proba(...)[:, 1]`, or what a glm
    fitted.
    """
    y = array_of(y_true)
    kept = y[(y == y) & ~np.isin(y, [NA_INTEGER, *ignored])]
    if y.shape not in (x.shape, (x.size, 1)) or not are_whole(kept):
        return
    expected, got = "y_pred must have an axis of classes", f"got {x.shape}, a score for each label"
    if not np.isin(kept, [0, 1, 2]).all() or np.isin([0, 2], kept).all():
        raise ValueError(f"{expected}, {got}: pass a row of scores, one a class, for each label")
    expected += f", ({x.size}, 2) for two"
    if 2 in kept:
        raise ValueError(
            f"{expected}, {got} of 1 or 2: of class 2 of two, {_two(x)}, and y_true - 1"
        )
    one_hot = np.count_nonzero(y) == 1
    # A single label of 1 is that of a row's class, unless the scores are probabilities of no row.
    if not one_hot or (_are_probabilities(x) and abs(x.sum() - 1) > 0.01):
        raise ValueError(f"{expected}, {got} of 0 or 1: of class 1 of two, {_two(x)}")


def _two(x: Array) -> str:
    """The way out for the scores of the second of two classes alone."""
    of_first = "1 - y_pred" if _are_probabilities(x) else "0 * y_pred"
    return f"pass numpy.stack([{of_first}, y_pred], axis=-1) (in R: cbind({of_first}, y_pred))"


def _are_probabilities(x: Array) -> bool:
    return bool(((x >= 0) & (x <= 1)).all())


def _look_swapped(y: ArraySpec, layout: Layout, y_true: object, x: Array | None) -> bool:
    """Whether y_true looks like scores, and y_pred like labels; by shape alone without its values.

    Scores have an axis more than labels (or a longer one), and are seldom whole numbers.
    """
    deeper = len(y.shape) == len(layout.shape) + 1
    one_class = (
        len(y.shape) == len(layout.shape) and layout.classes == 1 and y.shape != layout.shape
    )
    if x is None:
        return y.dtype.kind == "f" and (deeper or one_class)
    whole = are_whole(array_of(y_true))
    if deeper or one_class:
        return not whole or are_whole(x)
    return y.shape == layout.shape and not whole and are_whole(x)


def are_whole(array: Array) -> bool:
    """Whether all numbers are whole."""
    if array.dtype.kind in "biu":
        return True
    values = array.astype(np.float64, copy=False)
    with np.errstate(invalid="ignore"):  # older NumPy warns of the floor of NaN
        return bool((values == np.floor(values)).all())


def _sent_as(y_true: object, dtype: np.dtype[Any]) -> str:
    """The dtype's name before the labels were an ndarray, in which torch's bfloat16 is float32."""
    if isinstance(y_true, np.ndarray):
        return dtype.name
    name = str(getattr(y_true, "dtype", dtype)).removeprefix("torch.")
    return name if name in _EXACT else dtype.name


def _check_exact(dtype: str, classes: int) -> None:
    limit = _EXACT.get(dtype, 2**53)
    if classes - 1 > limit:
        raise TypeError(
            f"y_true must be of an integer dtype for {classes} classes, got {dtype}, which is "
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
