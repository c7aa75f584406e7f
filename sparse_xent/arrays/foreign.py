"""Other libraries' arrays in the host's memory -> ndarrays. No library is imported here.

A value is known by the module of its type. What libraries mark as missing (pandas' NA, Arrow's and
polars' null) is NaN in the ndarray; who must not take it for a number asks `missing` first.
"""

import sys
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_LIBRARIES = (
    "torch", "tensorflow", "jax", "jaxlib", "cupy", "dask", "pandas", "pyarrow", "polars", "xarray",
)  # fmt: skip

# torch's dtypes that NumPy has; bfloat16 is exact in float32, the others are refused.
_TORCH = {
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64", "complex64", "complex128",
}  # fmt: skip


def library(value: object) -> str | None:
    """The library that a value's type comes from, if it is one of those that are known here."""
    kind: Any = type(value)
    return _library_of(kind)


@lru_cache(maxsize=1000)
def _library_of(kind: Any) -> str | None:
    modules = [base.__module__.partition(".")[0] for base in kind.__mro__]
    return next((name for name in modules if name in _LIBRARIES), None)


def array(value: Any, argument: str) -> Array | None:
    """The ndarray of what NumPy alone would read wrongly or not at all; None for all else."""
    match library(value):
        case "torch" if hasattr(value, "layout"):
            return _of_torch(value, argument)
        case "pandas" if getattr(value, "ndim", 0) == 2 and hasattr(value, "iloc"):
            if any(_nullable(dtype) for dtype in set(value.dtypes)):
                return np.column_stack([_of_pandas(column) for column in _columns(value)])
        case "pandas" if _nullable(getattr(value, "dtype", None)):
            return _of_pandas(value)
        case "pyarrow" if hasattr(value, "as_py"):
            return np.asarray(value.as_py())
    return None


def missing(value: Any) -> Array | None:
    """Where a value's library marks something as missing; None where nothing is."""
    kind = library(value)
    if kind not in ("pandas", "pyarrow", "polars"):
        return None
    if column_names(value) is None:
        return _nulls(value)
    if kind == "pandas" and not any(_nullable(dtype) for dtype in set(value.dtypes)):
        return None  # a frame of floats may have many columns, and is read as it is
    columns = _columns(value)
    masks = [_nulls(column) for column in columns]
    if all(mask is None for mask in masks):
        return None
    rows = len(columns[0])  # of masks [rows] each
    return np.column_stack([np.zeros(rows, bool) if mask is None else mask for mask in masks])


def column(value: Any, index: tuple[int, ...]) -> str:
    """How a message names the column of a table that an index lies in; "" where there is none."""
    names = column_names(value)
    return f", column {names[index[1]]!r}" if names is not None and len(index) == 2 else ""


def column_names(value: Any) -> list[Any] | None:
    """The names of a table's columns; None for what is no table."""
    if getattr(value, "ndim", None) == 1:
        return None
    names = getattr(value, "column_names", None)  # Arrow's, whose `columns` are the data
    if names is None and library(value) in ("pandas", "polars"):
        names = getattr(value, "columns", None)
    return None if names is None else list(names)


def names(value: Any) -> Iterable[Any] | None:
    """The names of a vector's elements: a pandas Series' index, an xarray's coordinate."""
    kind = library(value)
    if kind == "pandas" and hasattr(value, "iloc") and value.ndim == 1:
        one_level = value.index.nlevels == 1
        index: Iterable[Any] = value.index.get_level_values(0) if one_level else value.index
        return index
    if kind == "xarray" and getattr(value, "ndim", 0) == 1:
        coordinate: Iterable[Any] | None = getattr(value, "indexes", {}).get(value.dims[0])
        return coordinate
    return None


def refuse_tensor(value: Any, argument: str) -> NoReturn:
    """TypeError for a tensor where an ndarray is due, with the way to one."""
    name = f"{library(value)} {type(value).__name__}"
    way_out = as_numpy(value, argument)
    if way_out is not None:
        raise TypeError(
            f"{argument} must be a NumPy array or convert to one, got a {name}: pass {way_out}"
        )
    if name.endswith("RaggedTensor"):
        raise TypeError(f"{argument} must be rectangular, got a {name}")
    if library(value) == "torch":
        raise TypeError(f"{argument} must hold values, got a {name} on the device meta")
    raise TypeError(
        f"{argument} must hold values, got a traced {name}: call the loss outside of jax.jit, "
        "jax.grad or tf.function"
    )


def as_numpy(value: Any, name: str) -> str | None:
    """The expression that makes an ndarray of a tensor, wherever it lies; None where none does."""
    match library(value):
        case "torch":
            return None if value.device.type == "meta" else f"{name}.{'.'.join(_steps(value))}"
        case "tensorflow" if type(value).__name__ == "SparseTensor":
            return f"tensorflow.sparse.to_dense({name}).numpy()"
        case "tensorflow":
            ragged = type(value).__name__ == "RaggedTensor"
            return f"{name}.numpy()" if hasattr(value, "numpy") and not ragged else None
        case "jax" | "jaxlib":
            traced = any(base.__name__ == "Tracer" for base in type(value).__mro__)
            return None if traced else f"numpy.asarray({name})"
        case "cupy":
            return f"{name}.get()"
        case _:
            return f"{name}.compute()"  # dask's


def argmax(value: Any, name: str, axis: int) -> str:
    """The expression that makes labels of one-hot targets: one that a tracer can take, too."""
    match library(value):
        case "torch":
            return f"{name}.float().argmax({axis})"  # NumPy cannot read bfloat16
        case "jax" | "jaxlib":
            return f"jax.numpy.argmax({name}, axis={axis})"
        case "tensorflow":
            return f"tf.argmax({name}, axis={axis})"
        case _:
            return f"numpy.argmax({name}, axis={axis})"


# ---- one library each ---------------------------------------------------------------------------


def _of_torch(tensor: Any, argument: str) -> Array:
    if tensor.requires_grad:
        refuse_taped(argument)
    return of_torch(tensor, argument)


def refuse_taped(argument: str) -> NoReturn:
    """TypeError for a tensor that wants gradients in the place of labels, weights or options."""
    # torch's own order is the reverse.
    order = "labels come first, then scores; or " if argument == "y_true" else ""
    raise TypeError(
        f"{argument} must not require gradients, for there is no derivative with respect to it "
        f"here: {order}pass {argument}.detach()"
    )


def of_torch(tensor: Any, argument: str, bfloat16: np.dtype[Any] | None = None) -> Array:
    """The ndarray of a torch tensor that requires no gradient: of its own memory if it has any.

    Args:
        tensor: the argument.
        argument: its name.
        bfloat16: what NumPy has for torch's bfloat16; if None a copy is made in float32.

    Raises:
        TypeError: it holds no values, or none that NumPy knows, or lies elsewhere.
    """
    if tensor.device.type == "meta":
        raise TypeError(
            f"{argument} must hold values, got a tensor on the device meta, without any"
        )
    if tensor.device.type != "cpu":
        _refuse(argument, "lie in the host's memory", f"a tensor on {tensor.device}", "cpu()")
    if not _is_dense(tensor):
        _refuse(argument, "be dense", f"a tensor of layout {tensor.layout}", "to_dense()")
    name = str(tensor.dtype).removeprefix("torch.")
    if name == "bfloat16":
        tensor = tensor.float() if bfloat16 is None else tensor.resolve_neg().view(_torch_int16())
    elif name not in _TORCH:
        way_out = "dequantize()" if tensor.is_quantized else "float()"
        _refuse(argument, "be of a dtype that NumPy has, or bfloat16", f"torch's {name}", way_out)
    try:
        made = np.asarray(tensor.resolve_conj().resolve_neg().numpy())
    except RuntimeError:  # of torch.func's transforms, say
        raise TypeError(
            f"{argument} must hold values, got a {type(tensor).__name__} that torch traces or "
            "wraps: under torch.func call the loss itself, which is differentiated and mapped there"
        ) from None
    return made if name != "bfloat16" or bfloat16 is None else made.view(bfloat16)


def _torch_int16() -> Any:
    return sys.modules["torch"].int16


def _refuse(argument: str, expected: str, got: str, method: str) -> NoReturn:
    raise TypeError(f"{argument} must {expected}, got {got}: pass {argument}.{method}")


def _steps(tensor: Any) -> list[str]:
    """The methods that lead from a torch tensor to NumPy."""
    steps = ["detach()"]
    if not _is_dense(tensor):
        steps.append("to_dense()")
    if tensor.is_quantized:
        steps.append("dequantize()")
    elif str(tensor.dtype).removeprefix("torch.") not in _TORCH:
        steps.append("float()")
    steps.append("cpu()")
    if tensor.is_neg():
        steps.append("resolve_neg()")
    if tensor.is_conj():
        steps.append("resolve_conj()")
    return [*steps, "numpy()"]


def _is_dense(tensor: Any) -> bool:
    return str(tensor.layout) == "torch.strided"


def _nullable(dtype: Any) -> bool:
    """Whether pandas holds numbers beside a mask: its own nullable dtypes, and Arrow's."""
    kind = getattr(getattr(dtype, "numpy_dtype", None), "kind", "")
    return not isinstance(dtype, np.dtype) and kind != "" and kind in "biuf"


def _of_pandas(vector: Any) -> Array:
    if not _nullable(vector.dtype):
        return np.asarray(vector)
    dtype = vector.dtype.numpy_dtype
    if not vector.isna().any():
        return np.asarray(vector.to_numpy(dtype=dtype))
    wide = dtype if dtype.kind == "f" else np.dtype(np.float64)
    return np.asarray(vector.to_numpy(dtype=wide, na_value=np.nan))


def _columns(table: Any) -> list[Any]:
    if hasattr(table, "iloc"):
        return [table.iloc[:, j] for j in range(table.shape[1])]
    return list(table.get_columns() if hasattr(table, "get_columns") else table.columns)


def _nulls(vector: Any) -> Array | None:
    if _nullable(getattr(vector, "dtype", None)):  # a NaN that is a number to pandas stays one
        mask = np.asarray(vector.isna())
        return mask if mask.any() else None
    count = getattr(vector, "null_count", 0)
    if not (count() if callable(count) else count):
        return None
    return np.asarray(vector.is_null())
