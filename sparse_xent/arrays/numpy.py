"""NumPy's room: whatever the user sent -> an ndarray, without a copy where one exists.

It decides which kinds of data are numbers. What is not is refused here with the position of the
first offender and the way out; shapes are `layout`'s business, the values of labels `labels`'.
"""

from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Other libraries' tensors: NumPy could read some of them, but the result would silently leave
# their library, their device and their gradient tape.
_TENSORS = {
    "torch": "y_pred.detach().cpu().numpy()",
    "tensorflow": "y_pred.numpy()",
    "jax": "numpy.asarray(y_pred)",
    "jaxlib": "numpy.asarray(y_pred)",
    "cupy": "y_pred.get()",
    "dask": "y_pred.compute()",
}


def scores(y_pred: object) -> Array:
    """y_pred as an ndarray of real numbers, the same memory where it is an array."""
    libraries = [base.__module__.partition(".")[0] for base in type(y_pred).__mro__]
    library = next((name for name in libraries if name in _TENSORS), None)
    if library is not None and not isinstance(y_pred, np.ndarray):
        raise TypeError(
            f"y_pred must be a NumPy array or convert to one, got a {library} "
            f"{type(y_pred).__name__}: pass {_TENSORS[library]}"
        )
    x = as_array(y_pred, "y_pred")
    if is_float(x.dtype) or x.dtype.kind in "biu":
        return x
    refuse_kind(y_pred, x, "y_pred", "numbers (probabilities or logits)")


def effective(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that y_pred counts as: integers and bools are float32, long double float64."""
    if dtype.kind in "biu":
        return np.dtype(np.float32)
    if dtype.kind == "f" and dtype.itemsize > 8:
        return np.dtype(np.float64)
    return dtype.newbyteorder("=")


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether dtype is a real float, ml_dtypes' bfloat16 (kind "V") among them."""
    return dtype.kind == "f" or (dtype.kind == "V" and dtype.name == "bfloat16")


def as_array(value: object, argument: str) -> Array:
    """An ndarray of whatever holds numbers; masked arrays, dicts and ragged lists are refused."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{argument} must not be a masked array, whose mask would be lost: fill it first, "
            f"{argument}.filled(...), for labels with a class that ignore_class names"
        )
    if isinstance(value, dict):
        raise TypeError(
            f"{argument} must be an array, got a dict (in R: a list or a data.frame; "
            f"send as.matrix({argument}))"
        )
    if type(value).__module__.startswith("scipy.sparse"):
        raise TypeError(f"{argument} must be dense, got a sparse matrix: pass {argument}.toarray()")
    try:
        return np.asarray(value)
    except ValueError:
        raise ValueError(f"{argument} must be rectangular, got {_ragged(value)}") from None
    except TypeError as error:
        raise TypeError(
            f"{argument} must be an array of numbers, got {type(value).__name__}: {_line(error)}"
        ) from None
    except RuntimeError as error:  # a torch tensor that requires grad, say
        raise TypeError(f"{argument} must convert to a NumPy array: {_line(error)}") from None


def refuse_kind(value: object, array: Array, argument: str, expected: str) -> NoReturn:
    """TypeError for data that is not numbers, with the first offender where there is one."""
    kind = array.dtype.kind
    way_out = ""
    offender = _offender(value, array) if kind in "OUST" else None
    if offender is not None:
        position, found = offender
        where = f" at {position}" if array.ndim else ""
        got = f"{found!r} ({type(found).__name__}){where}"
        if isinstance(found, str | bytes) and argument == "y_true":
            way_out = "; for an R factor send as.integer(f) - 1L, for names their index"
        elif argument == "y_pred":
            way_out = (
                "; drop the columns that are not numbers (in R: as.matrix() of those that are)"
            )
        elif found is None or type(found).__name__ in ("NAType", "NaTType"):
            way_out = "; drop what is missing, or give it a class that ignore_class names"
    elif kind == "c":
        got = f"complex numbers ({array.dtype})"
        way_out = f"; {argument}.real, if the imaginary part is 0"
    else:
        got = f"dtype {array.dtype}"
        if kind == "O":
            number = "int" if argument == "y_true" else "float"
            way_out = f"; its elements are numbers: pass {argument}.astype({number})"
    raise TypeError(f"{argument} must hold {expected}, got {got}{way_out}")


def output(out: object, x: Array, inputs: dict[str, Array | None]) -> Array:
    """Where the gradient goes: a new array laid out as y_pred, or the caller's own, checked.

    Raises:
        TypeError: `out` is no NumPy array.
        ValueError: it has another shape, dtype or byte order, is read-only, repeats elements, or
            overlaps y_pred (without being it) or another input.
    """
    dtype = effective(x.dtype)
    if out is None:
        return np.empty_like(x, dtype=dtype)
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be a NumPy array, got a {type(out).__name__}")
    if out.shape != x.shape:
        raise ValueError(f"out must have y_pred's shape {x.shape}, got {out.shape}")
    if out.dtype != dtype or not out.dtype.isnative:
        raise ValueError(f"out must be of dtype {dtype}, in native byte order, got {out.dtype.str}")
    if not out.flags.writeable:
        raise ValueError("out must be writable, got a read-only array")
    if _repeats(out):
        raise ValueError(
            "out must hold every element once, got an array whose elements share memory "
            f"(strides {out.strides} for shape {out.shape}, as broadcast_to makes them)"
        )
    if not _same_memory(out, x) and _overlap(out, x):
        raise ValueError(
            "out must be y_pred itself or not overlap it, got an array that shares part of it"
        )
    for name, value in inputs.items():
        if value is not None and _overlap(out, value):
            raise ValueError(f"out must not overlap {name}, which is read while out is written")
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
    array = as_array(x, "x")
    if not (is_float(array.dtype) or array.dtype.kind in "biu"):
        refuse_kind(x, array, "x", "numbers")
    try:
        wanted = array.dtype if dtype is None else np.dtype(dtype)
    except (TypeError, ValueError):
        shown = repr(dtype) if isinstance(dtype, str) else f"a {type(dtype).__name__}"
        raise TypeError(f"dtype must be a dtype or its name, got {shown}") from None
    if not (is_float(wanted) or wanted.kind in "biu"):
        raise TypeError(f"dtype must be a dtype of numbers, got {wanted}")
    with np.errstate(all="ignore"):
        return scalar(np.array(array, wanted))


def scalar(array: Array) -> Any:
    """An array as it is, but a NumPy scalar in place of a 0-d one."""
    return array[()] if array.ndim == 0 else array


def _same_memory(a: Array, b: Array) -> bool:
    def place(array: Array) -> tuple[object, ...]:
        return array.__array_interface__["data"][0], array.shape, array.strides, array.dtype

    return place(a) == place(b)


def _overlap(a: Array, b: Array) -> bool:
    try:
        return np.shares_memory(a, b, max_work=1_000_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return np.may_share_memory(a, b)  # by their bounds: rather refuse than write over an input


def _repeats(array: Array) -> bool:
    """Whether two elements share memory."""
    if array.size == 0:
        return False
    reach = array.itemsize
    for step, n in sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True)):
        if n > 1 and step < reach:
            break
        reach += step * (n - 1)
    else:
        return False  # every axis steps over all that the shorter steps reach
    places = np.zeros(1, np.int64)  # interleaved axes: look at every place
    for n, step in zip(array.shape, array.strides, strict=True):
        places = (places[:, None] + step * np.arange(n)).ravel()
    places.sort()
    return bool((np.diff(places) < array.itemsize).any())


def _offender(value: object, array: Array) -> tuple[tuple[int, ...], object] | None:
    """Index and value of the first element that is not a number, read from the untouched data."""
    original = array
    if array.dtype.kind != "O" and isinstance(value, list | tuple):
        original = np.asarray(value, dtype=object)  # [1, 'a'] is all strings as an array
    for flat, element in enumerate(original.ravel()):
        if not isinstance(element, int | float | np.number):
            index = tuple(int(i) for i in np.unravel_index(flat, original.shape))
            return index, element.item() if isinstance(element, np.generic) else element
    return None


def _ragged(value: object) -> str:
    if isinstance(value, list | tuple):
        lengths = {len(v) for v in value if hasattr(v, "__len__") and not isinstance(v, str)}
        if len(lengths) > 1:
            return f"rows of {', '.join(map(str, sorted(lengths)[:4]))} elements"
        return "rows of different shapes"
    return f"a {type(value).__name__} that NumPy cannot read"


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
