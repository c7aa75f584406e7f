"""What the user typed -> one frozen record: names, defaults, R's doubles, dtypes.

Nothing below this file sees a string, a None or an R double. Every refusal of an option is worded
here: argument first, expected, got, and the way out.
"""

import difflib
import math
import numbers
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from sparse_xent.kernels import Scores

Normalize = Literal["after", "before", "never"]
Reduction = Literal["sum_over_batch_size", "mean", "auto", "sum", "mean_with_sample_weight", "none"]

NAME = "sparse_categorical_crossentropy"
SOFT_NAME = "categorical_crossentropy"
REDUCTION = "sum_over_batch_size"
FLOATS = ("float16", "bfloat16", "float32", "float64")
NA_INTEGER = -(2**31)  # R's integer NA, as it arrives in Python

_POLICIES = {"mixed_float16": "float16", "mixed_bfloat16": "bfloat16"}
SCORES = {"after": Scores.AFTER, "before": Scores.BEFORE, "never": Scores.NEVER}


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one loss, read once; plain values only, so that it hashes and compares."""

    from_logits: bool
    ignore_class: tuple[int, ...]
    axis: int
    label_smoothing: float
    class_weight: tuple[float, ...] | tuple[tuple[int, float], ...] | None
    normalize: str
    reduction: str | None
    name: str
    dtype: str | None
    device: str | None = None  # where NumPy's arrays are to be served; None for the host

    @property
    def scores(self) -> Scores:
        """What y_pred holds, as the kernels name it."""
        return Scores.LOGITS if self.from_logits else SCORES[self.normalize]


def read(
    *,
    from_logits: object = False,
    ignore_class: object = None,
    axis: object = -1,
    label_smoothing: object = 0.0,
    class_weight: object = None,
    normalize: object = "after",
    reduction: object = REDUCTION,
    name: object = NAME,
    dtype: object = None,
    device: object = None,
    default_name: str = NAME,
) -> Options:
    """Check every option and settle its type."""
    return Options(
        from_logits=_flag(from_logits, "from_logits"),
        ignore_class=_ignored(ignore_class),
        axis=whole_number(axis, "axis"),
        label_smoothing=_smoothing(label_smoothing),
        class_weight=_class_weight(class_weight),
        normalize=choice(normalize, "normalize", get_args(Normalize)),
        reduction=_reduction(reduction),
        name=_name(name, default_name),
        dtype=None if dtype is None else float_name(dtype, "dtype"),
        device=_device(device),
    )


# ---- names --------------------------------------------------------------------------------------


def refuse_unknown(unknown: Mapping[str, object], known: Iterable[str], function: str) -> None:
    """TypeError for a keyword that `function` does not have, with the nearest that it has."""
    for name in unknown:
        known = list(known)
        near = nearest(name, known)
        meant = f"did you mean {near!r}?" if near else f"it takes {', '.join(known)}"
        raise TypeError(f"{name!r} is not an argument of {function}(): {meant}")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` begins, or else resembles most."""
    known = list(known)
    begun = [k for k in known if k.startswith(name.lower())] if name else []
    close = begun or difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return close[0] if close else None


def choice(value: object, argument: str, allowed: Iterable[str]) -> str:
    """One of a few strings, or a refusal that names the nearest."""
    allowed = list(allowed)
    names = ", ".join(repr(a) for a in allowed)
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be one of {names}, got {describe(value)}")
    if value not in allowed:
        near = nearest(value, allowed)
        meant = f" (did you mean {near!r}?)" if near else ""
        raise ValueError(f"{argument} must be one of {names}, got {value!r}{meant}")
    return str(value)


def describe(value: object) -> str:
    """A value for a message: its repr where that is short, its type where it is not."""
    text = repr(value)
    kind = type(value).__name__
    if value is None:
        return "None"
    plain = isinstance(value, str | bool | int | float)
    return (
        f"{text[:60]} ({kind})" if plain or (len(text) <= 40 and "\n" not in text) else f"a {kind}"
    )


# ---- numbers ------------------------------------------------------------------------------------


def whole_number(value: object, argument: str) -> int:
    """An int, a NumPy integer, or a whole float (R writes 2 as a double); bools are refused."""
    if _is_bool(value):
        raise TypeError(
            f"{argument} must be a whole number, got {value!r} (a bool; in R an NA arrives as True)"
        )
    if isinstance(value, numbers.Integral):
        return int(value)
    scalar = _scalar(value)
    if isinstance(scalar, int):
        return scalar
    if isinstance(scalar, float):
        if math.isfinite(scalar) and scalar == int(scalar):
            return int(scalar)
        raise ValueError(f"{argument} must be a whole number, got {scalar!r}")
    raise TypeError(f"{argument} must be a whole number, got {describe(value)}")


def number(value: object, argument: str) -> float:
    """A real number that is not NaN; bools and strings are refused."""
    scalar = _scalar(value)
    if _is_bool(value) or scalar is None:
        raise TypeError(f"{argument} must be a number, got {describe(value)}")
    result = _as_float(scalar)
    if math.isnan(result):
        raise ValueError(f"{argument} must be a number, got nan")
    return result


def _is_bool(value: object) -> bool:
    return isinstance(value, bool | np.bool_)


def _scalar(value: object) -> int | float | None:
    """A Python int or float from whatever holds just one number (a 0-d array too), else None."""
    if _is_bool(value) or isinstance(value, str | bytes | complex):
        return None
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
        if _is_bool(value):
            return None
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real | np.floating) or type(value).__name__ == "bfloat16":
        return _as_float(value)
    return None


def _as_float(value: Any) -> float:
    """The nearest float; an int or a Fraction beyond all of them is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value > 0 or -1)


def _flag(value: object, argument: str) -> bool:
    if not _is_bool(value):
        raise TypeError(f"{argument} must be True or False, got {describe(value)}")
    return bool(value)


def _smoothing(value: object) -> float:
    smoothing = number(value, "label_smoothing")
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label_smoothing must lie between 0 and 1, got {smoothing!r}")
    return smoothing


def _ignored(value: object) -> tuple[int, ...]:
    """The ignored classes, sorted; () where there is none."""
    if value is None:
        return ()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple | set | frozenset | range):
        classes = {whole_number(v, "ignore_class") for v in value}
    else:
        classes = {whole_number(value, "ignore_class")}
    return tuple(sorted(classes))


def _class_weight(value: object) -> tuple[float, ...] | tuple[tuple[int, float], ...] | None:
    """A vector as a tuple of floats, a dict as sorted (class, weight) pairs."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        if not value:
            return None  # absent classes weigh 1, and all are absent
        pairs = {_class_key(k): _weight(w, f"class_weight[{k!r}]") for k, w in value.items()}
        if len(pairs) < len(value):
            raise ValueError(f"class_weight names a class twice: {sorted(map(str, value))}")
        return tuple(sorted(pairs.items()))
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            "class_weight must not be a masked array, whose mask would be lost: "
            "class_weight.filled(...)"
        )
    if isinstance(value, str | bytes | set | frozenset):
        raise TypeError(
            f"class_weight must be a vector of numbers or a dict, got {describe(value)}"
        )
    try:
        items = list(value)  # type: ignore[call-overload]
    except TypeError:
        raise TypeError(
            f"class_weight must be a vector of one weight a class, or a dict, got {describe(value)}"
        ) from None
    return tuple(_weight(w, f"class_weight[{k}]") for k, w in enumerate(items))


def _class_key(key: object) -> int:
    if isinstance(key, str):
        if not re.fullmatch(r"-?[0-9]{1,18}", key):
            raise ValueError(
                f"class_weight's keys must be classes (0, 1, ... or '0', '1', ...), got {key!r}"
            )
        return int(key)
    return whole_number(key, "class_weight's key")


def _weight(value: object, argument: str) -> float:
    if _is_bool(value):
        return float(bool(value))
    scalar = _scalar(value)
    if scalar is None:
        raise TypeError(f"{argument} must be a number, got {describe(value)}")
    if scalar == NA_INTEGER:
        raise ValueError(f"{argument} must be a number, got {NA_INTEGER} (NA in R)")
    weight = _as_float(scalar)
    if math.isinf(weight) and isinstance(scalar, int):
        raise ValueError(f"{argument} must fit a float, got an int of {scalar.bit_length()} bits")
    return weight


def _reduction(value: object) -> str | None:
    if value is None:
        return None
    reduction = choice(value, "reduction", get_args(Reduction))
    return {"auto": REDUCTION, "none": None}.get(reduction, reduction)


def _name(value: object, default: str) -> str:
    if value is None:
        return default
    if not isinstance(value, str):
        raise TypeError(f"name must be a string, got {describe(value)}")
    return str(value)


def _device(value: object) -> str | None:
    """None, or a CUDA device: "cuda" (the first) or by its ordinal, "cuda:1"."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f'device must be None, "cuda" or "cuda:1" and so on, got {describe(value)}')
    if not re.fullmatch(r"cuda(:[0-9]{1,4})?", value):
        raise ValueError(f'device must be None, "cuda" or "cuda:1" and so on, got {value!r}')
    return str(value)


# ---- dtypes -------------------------------------------------------------------------------------


def float_name(value: object, argument: str) -> str:
    """The name of one of the four float dtypes, from a name, a dtype, a policy or its name."""
    compute = getattr(value, "compute_dtype", None)
    wanted = value if compute is None else compute
    name = _POLICIES.get(wanted, wanted) if isinstance(wanted, str) else _dtype_name(wanted)
    if name is not None and name not in FLOATS:
        name = _dtype_name(name) or name  # "f4", "<f8", "single"
    if name in FLOATS:
        return str(name)
    expected = f"{argument} must be one of {', '.join(map(repr, FLOATS))}"
    if name is None:
        raise TypeError(f"{expected}, a dtype or a dtype policy, got {describe(value)}")
    near = nearest(name, FLOATS)
    meant = f" (did you mean {near!r}?)" if near else ""
    raise ValueError(f"{expected}, got {value!r}{meant}")


def _dtype_name(value: object) -> str | None:
    if value is None or isinstance(value, int | float | list | dict):
        return None
    try:
        name: str = np.dtype(value).name  # type: ignore[call-overload]
        return name
    except (TypeError, ValueError):
        return None


def float_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype of a name that `float_name` returned; bfloat16 is ml_dtypes'."""
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError:
        raise ValueError(
            "dtype 'bfloat16' needs the package ml_dtypes, which gives NumPy that dtype: "
            "pip install ml_dtypes"
        ) from None
    bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return bfloat16
