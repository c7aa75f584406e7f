"""Whatever the user sent -> an ndarray, without a copy where one exists.

It decides which kinds of data are numbers. What is not is refused here with the position of the
first offender and the way out; shapes are `layout`'s business, the values of labels `labels`'.
"""

from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from sparse_xent import dtypes
from sparse_xent.arrays import foreign
from sparse_xent.arrays.base import ArraySpec
from sparse_xent.arrays.output import Placed, check_apart, check_output
from sparse_xent.arrays.refusals import refuse_kind

Array = npt.NDArray[Any]

# Other libraries' tensors: NumPy could read some of them, but the result would silently leave
# their library, their device and their gradients.
_TENSORS = ("torch", "tensorflow", "jax", "jaxlib", "cupy", "dask")
# ml_dtypes' integers of a few bits, which NumPy neither compares nor counts among its integers.
_SMALL = {"int1": np.int8, "int2": np.int8, "int4": np.int8,
          "uint1": np.uint8, "uint2": np.uint8, "uint4": np.uint8}  # fmt: skip


def scores(y_pred: object) -> Array:
    """y_pred as an ndarray of real numbers, the same memory where it is an array."""
    library = None if type(y_pred) is np.ndarray else foreign.library(y_pred)
    if library in _TENSORS and hasattr(y_pred, "shape"):
        foreign.refuse_tensor(y_pred, "y_pred")
    x = complete(y_pred, "y_pred")
    if dtypes.is_number(x.dtype):
        return x
    refuse_kind(y_pred, x, "y_pred")


def spec_of(array: Array) -> ArraySpec:
    """How an array lies in memory."""
    flags = array.flags
    shape, strides = array.shape, array.strides
    return ArraySpec(shape, strides, array.dtype, None, flags.writeable, flags.aligned)


def complete(value: object, argument: str) -> Array:
    """An ndarray of whatever holds numbers, none of which is missing (NA, null) to its library."""
    if type(value) is np.ndarray and value.dtype.kind != "V":
        return value
    mask = foreign.missing(value)
    if mask is not None:
        index = tuple(int(i) for i in np.argwhere(mask)[0])
        more = int(np.count_nonzero(mask)) - 1
        raise ValueError(
            f"{argument} must hold numbers, got NA at {index}{foreign.column(value, index)}"
            f"{f' and {more} more' if more else ''}; drop the rows that have something missing"
        )
    return as_array(value, argument)


def as_array(value: object, argument: str) -> Array:
    """An ndarray of whatever holds numbers; masked arrays, dicts and ragged lists are refused.

    What is missing to its library (pandas' NA, Arrow's null) is NaN.
    """
    if type(value) is np.ndarray:
        return value if value.dtype.kind != "V" else _widened(value)
    _refuse_container(value, argument)
    array = foreign.array(value, argument)
    if array is not None:
        return _widened(array)
    try:
        return _widened(np.asarray(value))
    except ValueError:
        raise ValueError(f"{argument} must be rectangular, got {_ragged(value)}") from None
    except (TypeError, RuntimeError) as error:
        line = _line(error)
        first = value[0] if isinstance(value, list | tuple) else None
        if foreign.library(first) == "torch":
            line += f"; pass [{foreign.as_numpy(first, 'row')} for row in {argument}]"
        raise TypeError(
            f"{argument} must be an array of numbers, got a {type(value).__name__}: {line}"
        ) from None


def _widened(array: Array) -> Array:
    """The array in a dtype that NumPy counts with: integers of 4 bits and fewer get 8."""
    return array.astype(_SMALL[array.dtype.name]) if array.dtype.name in _SMALL else array


def _refuse_container(value: object, argument: str) -> None:
    """TypeError for what NumPy would read, and lose something or find nothing in it."""
    masked = value
    if isinstance(value, list | tuple):  # of types there are few, of elements many
        some = any(issubclass(kind, np.ma.MaskedArray) for kind in set(map(type, value)))
        masked = next(v for v in value if isinstance(v, np.ma.MaskedArray)) if some else None
    if isinstance(masked, np.ma.MaskedArray):
        _refuse_masked(value, masked, argument)
    if isinstance(value, dict):
        raise TypeError(
            f"{argument} must be an array, got a dict (in R: a list or a data.frame; send "
            f"as.matrix({argument})): pass numpy.column_stack(list({argument}.values()))"
        )
    if type(value).__module__.startswith("scipy.sparse"):
        raise TypeError(f"{argument} must be dense, got a sparse matrix: pass {argument}.toarray()")


def _refuse_masked(value: object, masked: object, argument: str) -> NoReturn:
    """TypeError for a masked array, or a list with one in it: to be filled with what is ignored."""
    if masked is value and masked is np.ma.masked:
        raise TypeError(f"{argument} must be a number, got numpy.ma.masked")
    why, kind, filler = {
        "y_true": ("with ignore_class=-1", "int", "-1"),
        "y_pred": ("for losses of NaN there", "float", "numpy.nan"),
    }.get(argument, ("for weights of 0 there", "float", "0"))
    if masked is np.ma.masked:
        way_out = f"{why} pass [{filler} if v is numpy.ma.masked else v for v in {argument}]"
    elif argument == "ignore_class":
        way_out = "pass ignore_class.compressed()"
    else:
        name = argument if masked is value else f"numpy.ma.array({argument})"
        way_out = f"{why} pass {name}.astype({kind}).filled({filler})"
    raise TypeError(f"{argument} must not be a masked array, whose mask would be lost: {way_out}")


def output(out: object, x: Array, inputs: dict[str, Array | None]) -> Array:
    """Where the gradient goes: a new array laid out as y_pred, or the caller's own, checked.

    Raises:
        TypeError: `out` is no NumPy array.
        ValueError: it has another shape, dtype or byte order, is read-only, repeats elements, or
            overlaps y_pred (without being it) or another input.
    """
    dtype = dtypes.counts_as(x.dtype)
    if out is None:
        return np.empty_like(x, dtype=dtype)
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be a NumPy array, got a {type(out).__name__}")
    check_output(spec_of(out), spec_of(x), dtype)
    others = {name: _placed(a) for name, a in inputs.items() if a is not None}
    check_apart(_placed(out), _placed(x), others)
    return np.asarray(out)


def op_array(x: Any, dtype: Any = None) -> Any:
    """An array of what is given; R keras3's `op_array`, so that its examples run as they stand.

    Args:
        x: a number, a (nested) list of numbers, or an array.
        dtype: a dtype or its name; that of the data if None.

    Returns:
        A NumPy array, a copy of x; a NumPy scalar for a single number.

    Raises:
        TypeError: x does not hold numbers, or dtype is none.
        ValueError: x is ragged.

    Example:
        >>> op_array([1, 2], dtype="float32")
        array([1., 2.], dtype=float32)

    Source: R keras3, `op_array`.
    """
    array = complete(x, "x")
    if not dtypes.is_number(array.dtype):
        refuse_kind(x, array, "x", "numbers")
    try:
        wanted = array.dtype if dtype is None else np.dtype(dtype)
    except (TypeError, ValueError):
        shown = repr(dtype) if isinstance(dtype, str) else f"a {type(dtype).__name__}"
        raise TypeError(f"dtype must be a dtype or its name, got {shown}") from None
    if not dtypes.is_number(wanted):
        raise TypeError(f"dtype must be a dtype of numbers, got {wanted}")
    with np.errstate(all="ignore"):
        return scalar(np.array(array, wanted))


def scalar(array: Array) -> Any:
    """An array as it is, but a NumPy scalar in place of a 0-d one."""
    return array[()] if array.ndim == 0 else array


def _placed(array: Array) -> Placed:
    return spec_of(array), array.__array_interface__["data"][0]


def _ragged(value: object) -> str:
    if isinstance(value, list | tuple):
        lengths = {len(v) for v in value if hasattr(v, "__len__") and not isinstance(v, str)}
        if len(lengths) > 1:
            return f"rows of {', '.join(map(str, sorted(lengths)[:4]))} elements"
        return "rows of different shapes"
    return f"a {type(value).__name__} that NumPy cannot read"


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
