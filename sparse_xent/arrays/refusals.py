"""What is said of data that is not numbers: the first offender, its place, and a way out.

Where there is a way out in Python it is an expression that works as it stands, with numpy imported.
"""

import numbers
from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from sparse_xent.arrays import foreign

Array = npt.NDArray[Any]

EXPECTED = {
    "y_true": "whole numbers (the classes' indices)",
    "y_pred": "numbers (probabilities or logits)",
    "sample_weight": "numbers",
}
"""What the arguments hold, in the words of messages."""


def refuse_kind(
    value: object, array: Array, argument: str, expected: str | None = None
) -> NoReturn:
    """TypeError for data that is not numbers, with the first offender where there is one.

    Args:
        value: what the user sent.
        array: an array of it.
        argument: its name.
        expected: what it should hold; EXPECTED's if None.
    """
    expected = expected or EXPECTED[argument]
    kind = array.dtype.kind
    offender = _offender(value, array) if kind in "OUST" else None
    if offender is not None:
        position, found = offender
        where = f" at {position}{foreign.column(value, position)}" if array.ndim else ""
        shown = repr(found) if len(repr(found)) <= 60 else f"{repr(found)[:56]} ..."
        got = f"{shown.replace(chr(10), ' ')} ({type(found).__name__}){where}"
        way_out = _way_past(found, position, value, array, argument)
    elif kind == "O":
        got = f"dtype {array.dtype}"
        whole = all(isinstance(v, numbers.Integral) and abs(int(v)) < 2**63 for v in array.flat)
        number = "int" if argument == "y_true" and whole else "float"
        way_out = f"its elements are numbers: pass numpy.array({argument}, {number})"
    else:
        refuse_dtype(array.dtype, argument, expected)
    raise TypeError(f"{argument} must hold {expected}, got {got}{way_out and '; '}{way_out}")


def refuse_dtype(dtype: np.dtype[Any], argument: str, expected: str) -> NoReturn:
    """TypeError for an array whose dtype alone says that it holds none of what is expected."""
    if dtype.kind == "c":
        got = f"complex numbers ({dtype})"
        way_out = f"if the imaginary part is 0, pass numpy.real({argument})"
    else:
        got = f"dtype {str(dtype)[:60]}"
        way_out = _way_from(dtype, argument)
    raise TypeError(f"{argument} must hold {expected}, got {got}{way_out and '; '}{way_out}")


def _way_from(dtype: np.dtype[Any], argument: str) -> str:
    """The way out for an array of a dtype that is not taken though it holds numbers."""
    if dtype.names:
        return f"pass numpy.column_stack([{argument}[k] for k in {argument}.dtype.names])"
    if dtype.name.startswith("float"):
        return f"pass numpy.array({argument}, numpy.float32)"
    return ""


def _way_past(
    found: object, position: tuple[int, ...], value: object, array: Array, argument: str
) -> str:
    """The way out where this is the first element that is no number."""
    if found is None or type(found).__name__ in ("NAType", "NaTType", "NullScalar"):
        return {
            "y_true": "drop what is missing, or give it a class that ignore_class names",
            "sample_weight": "drop what is missing, or weigh it 0",
        }.get(argument, "drop the rows that have something missing")
    nested = isinstance(found, list | tuple | np.ndarray) or len(getattr(found, "shape", ()))
    if nested and array.ndim:
        return _way_through(found, position, value, array, argument)
    if array.ndim == 0 and isinstance(found, Iterable) and not isinstance(found, str | bytes):
        return "" if isinstance(found, set | frozenset) else f"pass list({argument})"
    if isinstance(found, str | bytes) and argument == "y_true":
        return _way_from_names(value, array)
    if hasattr(found, "as_py") and array.ndim == 1:
        return f"pass [v.as_py() for v in {argument}]"
    if isinstance(found, str | bytes | numbers.Number) and _converts(value):
        return f"pass numpy.array({argument}, float)"  # decimals, fractions, numbers as text
    if argument != "y_pred" or isinstance(found, dict):
        return ""
    way_out = "drop the columns that are not numbers"
    if hasattr(value, "select_dtypes") and value.select_dtypes("number").shape[1]:
        way_out += ": pass y_pred.select_dtypes('number')"
    return f"{way_out} (in R: as.matrix() of those that are)"


def _way_from_names(value: object, array: Array) -> str:
    """The way out for labels that are text or categories: from their names to indices."""
    sorted_names = "numpy.searchsorted(names, y_true)"
    # pandas finds no name among bytes and Arrow's scalars, and takes one axis.
    if array.ndim != 1 or array.dtype.kind == "S" or foreign.library(value) == "pyarrow":
        way_out = f"for sorted names of classes pass {sorted_names}"
    else:
        way_out = (
            "for names in the order of y_pred's classes pass pandas.Categorical(y_true, "
            f"categories=names).codes, for sorted names {sorted_names}"
        )
    return (
        "for an R factor send as.integer(f) - 1L where its levels are in the order of y_pred's "
        f"columns, else match(f, colnames(y_pred)) - 1L, {way_out}"
    )


def _way_through(
    found: object, position: tuple[int, ...], value: object, array: Array, argument: str
) -> str:
    """The way out where the elements are lists or arrays themselves: in columns, in objects."""
    inner = array[:, position[1]] if array.ndim == 2 else array.ravel()
    shapes = sorted({_shape(element) for element in inner.tolist()})
    if len(shapes) > 1:
        return f"they differ in shape: {shapes[0]} and {shapes[1]}"
    names = foreign.column_names(value)
    name = argument if names is None else f"{argument}[{names[position[1]]!r}]"
    if foreign.library(found) == "torch":
        return f"pass [{foreign.as_numpy(found, 'row')} for row in {name}]"
    arrow = foreign.library(value) == "pyarrow"
    return f"pass numpy.array({f'{name}.to_pylist()' if arrow else f'list({name})'})"


def _shape(value: Any) -> tuple[int, ...]:
    try:
        return tuple(int(n) for n in np.shape(value))
    except (TypeError, ValueError):  # ragged in itself
        return ()


def _converts(value: object) -> bool:
    try:
        np.array(value, float)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _offender(value: object, array: Array) -> tuple[tuple[int, ...], object] | None:
    """Index and value of the first element that is not a number, read from the untouched data."""
    original = array
    if array.dtype.kind != "O" and isinstance(value, list | tuple):
        original = np.asarray(value, dtype=object)  # [1, 'a'] is all strings as an array
    for flat, element in enumerate(original.ravel()):
        if not isinstance(element, int | float | np.number | np.bool_):
            index = tuple(int(i) for i in np.unravel_index(flat, original.shape))
            return index, element.item() if isinstance(element, np.generic) else element
    return None
