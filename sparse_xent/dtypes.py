"""Which dtype scores count as, are computed in, are clipped in, and become.

Every decision about a dtype is here. All arithmetic, clipping included, is done in the wider of
y_pred's dtype and the result's, never below float32; only the result is cast.
"""

from typing import Any

import numpy as np

DType = np.dtype[Any]

FLOATS = ("float16", "bfloat16", "float32", "float64")
FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def is_float(dtype: DType) -> bool:
    """Whether dtype is a real float, ml_dtypes' bfloat16 (kind "V") among them."""
    return dtype.kind in "fV" and (
        issubclass(dtype.type, np.floating) or dtype.name == "bfloat16"  # not ml_dtypes' float8
    )


def is_number(dtype: DType) -> bool:
    """Whether dtype holds real numbers: bools, integers or floats."""
    return dtype.kind in "biu" or is_float(dtype)


def counts_as(dtype: DType) -> DType:
    """The dtype that y_pred counts as: integers and bools are float32, long double float64."""
    if dtype.kind in "biu":
        return FLOAT32
    if dtype.kind == "f" and dtype.itemsize > 8:
        return FLOAT64
    return dtype.newbyteorder("=")


def arithmetic(scores: DType, result: DType | None) -> DType:
    """The dtype of all arithmetic, by what the scores count as and the dtype of the result."""
    wide = scores == FLOAT64 or (result is not None and result == FLOAT64)  # None equals float64
    return FLOAT64 if wide else FLOAT32


def clip_range(epsilon: float, arithmetic: DType) -> tuple[float, float]:
    """The bounds of probabilities, eps and 1 - eps, rounded to the dtype of the arithmetic."""
    return float(arithmetic.type(epsilon)), float(arithmetic.type(1 - epsilon))


def of_name(name: str) -> DType:
    """The NumPy dtype of one of FLOATS; bfloat16 is ml_dtypes'.

    Raises:
        ValueError: ml_dtypes is not there.
    """
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError:
        raise ValueError(
            "dtype 'bfloat16' needs the package ml_dtypes, which gives NumPy that dtype: "
            "pip install ml_dtypes"
        ) from None
    bfloat16: DType = np.dtype(ml_dtypes.bfloat16)
    return bfloat16
