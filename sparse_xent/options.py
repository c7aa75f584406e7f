"""What the user typed -> one frozen record: enums, numbers, NumPy dtypes.

Nothing below this file sees a string, a None or an R double in the place of an option. Every
refusal of an option is worded here: argument first, expected, got, and the way out.
"""

import difflib
import enum
import math
import numbers
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Set, ValuesView
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from sparse_xent import dtypes
from sparse_xent.arrays import foreign
from sparse_xent.arrays.numpy import as_array
from sparse_xent.dtypes import FLOATS
from sparse_xent.kernels import ScoreKind

NormalizeName = Literal["after", "before", "never"]
ReductionName = Literal[
    "sum_over_batch_size", "mean", "auto", "sum", "mean_with_sample_weight", "none"
]


class _Policy(Protocol):
    """A dtype policy, Keras's for one."""

    @property
    def compute_dtype(self) -> Any: ...


DType = npt.DTypeLike | _Policy | None
IgnoreClass = int | float | Collection[int] | npt.NDArray[Any] | None

NAME = "sparse_categorical_crossentropy"
SOFT_NAME = "categorical_crossentropy"
REDUCTION = "sum_over_batch_size"
NA_INTEGER = -(2**31)  # R's integer NA, as it arrives in Python

_POLICIES = {"mixed_float16": "float16", "mixed_bfloat16": "bfloat16"}
_SCORES = {
    "after": ScoreKind.CLIP_NORMALIZE,
    "before": ScoreKind.NORMALIZE_CLIP,
    "never": ScoreKind.CLIP,
}


class Reduction(enum.Enum):
    """How losses become one number; the values are the names in a config."""

    SUM_OVER_BATCH_SIZE = "sum_over_batch_size"
    MEAN = "mean"
    SUM = "sum"
    MEAN_WITH_SAMPLE_WEIGHT = "mean_with_sample_weight"
    NONE = None


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one loss, read once; immutable values only, so that it hashes and compares."""

    from_logits: bool
    ignore_class: tuple[int, ...]
    axis: int
    label_smoothing: float
    class_weight: tuple[float, ...] | tuple[tuple[int, float], ...] | None
    normalize: str
    reduction: Reduction
    name: str
    dtype: np.dtype[Any] | None  # of the result; y_pred's if None
    device: int | None  # the CUDA device that is to serve the host's arrays; None for the host
    scores: ScoreKind  # what y_pred holds
    soft: bool  # whether the targets are one-hot or soft, in the place of labels
    epsilon: float | None  # the bound of the clip; `config_epsilon()` at each call if None

    def changed(self, **options: Any) -> "Options":
        """The options with others in place of some, already read: the same object each time."""
        return _changed(self, tuple(options.items()))

    def __reduce__(self) -> tuple[Callable[..., "Options"], tuple[Any, ...]]:
        return _unpickled, tuple(getattr(self, name) for name in self.__slots__)


def read(
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
    *,
    default_name: str = NAME,
    soft: bool = False,
    epsilon: float | None = None,
) -> Options:
    """Check every option and give it its type; equal options are one object.

    Args:
        from_logits, ignore_class, axis, label_smoothing, class_weight, normalize, reduction, name,
            dtype, device: as they were typed.
        default_name: what None names.
        soft: whether the targets are one-hot or soft: probabilities are then normalised first.
        epsilon: the bound of the clip, checked, if it is not to be `config_epsilon()`.
    """
    logits = _flag(from_logits, "from_logits")
    made = Options(
        from_logits=logits,
        ignore_class=_ignored(ignore_class),
        axis=whole_number(axis, "axis"),
        label_smoothing=_smoothing(label_smoothing),
        class_weight=_class_weight(class_weight),
        normalize=(normal := choice(normalize, "normalize", get_args(NormalizeName))),
        reduction=_reduction(reduction),
        name=_name(name, default_name),
        dtype=None if dtype is None else dtypes.of_name(float_name(dtype, "dtype")),
        device=_device(device),
        scores=ScoreKind.LOGITS if logits else _SCORES["before" if soft else normal],
        soft=soft,
        epsilon=epsilon,
    )
    return _one(made)


def _one(options: Options) -> Options:
    """Of equal options one object, for plans go by it."""
    if len(_interned) > 1000:
        _interned.clear()
    return _interned.setdefault(options, options)


@lru_cache(maxsize=1000)
def _changed(options: Options, others: tuple[tuple[str, Any], ...]) -> Options:
    return _one(replace(options, **dict(others)))


def _unpickled(*values: Any) -> Options:
    return _one(Options(*values))


_interned: dict[Options, Options] = {}
_IMMUTABLE = frozenset({bool, int, float, str, type(None)})


class _NotRemembered(Exception):
    """A value may change, or holds others that may be equal and mean something else."""


@lru_cache(maxsize=1000, typed=True)  # typed: True is not 1
def _read_once(*given: Any) -> Options:
    if not _IMMUTABLE.issuperset(map(type, given)):
        raise _NotRemembered
    return read(*given)


def read_once(*given: Any) -> Options:
    """`read`, remembered where all values are of the immutable kinds: reading takes 10 us."""
    try:
        return _read_once(*given)
    except (_NotRemembered, TypeError, ValueError):  # not hashable; or the refusal, said again
        pass
    return read(*given)


def plain(key: str, value: Any) -> Any:
    """An option as a plain JSON value, as a config has it."""
    if key == "reduction":
        return value.value
    if key == "dtype" and value is not None:
        return value.name
    if key == "device" and value is not None:
        return f"cuda:{value}" if value else "cuda"
    if key == "ignore_class":
        return (value[0] if len(value) == 1 else list(value)) if value else None
    if key == "class_weight" and value is not None:
        by_key = value and isinstance(value[0], tuple)
        return {str(c): w for c, w in value} if by_key else list(value)
    return value


# ---- names --------------------------------------------------------------------------------------


def refuse_unknown(unknown: Mapping[str, object], known: Iterable[str], function: str) -> None:
    """TypeError for a keyword that `function` does not have, with the nearest that it has."""
    for name in unknown:
        known = list(known)
        near = nearest(name, known)
        meant = f"did you mean {near!r}?" if near else f"it takes {', '.join(known)}"
        raise TypeError(f"{name!r} is not an argument of {function}(): {meant}")


def has_data(y_true: object, y_pred: object, function: str, each: str, verb: str) -> bool:
    """Whether a function was called with its data: both of them, or neither.

    Args:
        y_true, y_pred: as they were sent.
        function: its name.
        each: what there is one of for each label.
        verb: what the object does that is made without data.

    Raises:
        TypeError: one of the two is missing.
    """
    if (y_true is None) != (y_pred is None):
        missing, given = ("y_true", "y_pred") if y_true is None else ("y_pred", "y_true")
        raise TypeError(
            f"{missing} is missing, {given} was given: {function}() takes both (one {each} per "
            f"label) or neither (an object that {verb})"
        )
    return y_true is not None


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


_PLAIN = (int, float, str, bool, type(None))


def scalar(value: Any, argument: str) -> Any:
    """The number (or bool) that a 0-d array of any library holds; whatever else it is, as it is."""
    if value.__class__ in _PLAIN or isinstance(value, Mapping):
        return value
    if hasattr(value, "as_py"):  # Arrow's scalars have no shape
        return value.as_py()
    shape = getattr(value, "shape", None)
    if shape is None or len(shape):
        return value
    return as_array(value, argument)[()]


def whole_number(value: object, argument: str) -> int:
    """An int, a NumPy integer, or a whole float (R writes 2 as a double); bools are refused.

    The number may stand in a 0-d array or tensor.
    """
    found = scalar(value, argument)
    if _is_bool(found):
        raise TypeError(
            f"{argument} must be a whole number, got {found!r} (a bool; in R an NA arrives as True)"
        )
    real = _real(found)
    if isinstance(real, int):
        return real
    if isinstance(real, float):
        if math.isfinite(real) and real == int(real):
            return int(real)
        raise ValueError(f"{argument} must be a whole number, got {real!r}")
    raise TypeError(f"{argument} must be a whole number, got {describe(value)}")


def number(value: object, argument: str) -> float:
    """A real number that is not NaN; bools and strings are refused."""
    real = _real(scalar(value, argument))
    if real is None:
        raise TypeError(f"{argument} must be a number, got {describe(value)}")
    result = _as_float(real)
    if math.isnan(result):
        raise ValueError(f"{argument} must be a number, got nan")
    return result


def _is_bool(value: object) -> bool:
    return isinstance(value, bool | np.bool_)


def _real(value: object) -> int | float | None:
    """A Python int or float from one of any kind of real number; None for all else, bools too."""
    if _is_bool(value) or isinstance(value, np.timedelta64):  # an integer by its class
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
    flag = scalar(value, argument)
    if not _is_bool(flag):
        raise TypeError(f"{argument} must be True or False, got {describe(value)}")
    return bool(flag)


def _smoothing(value: object) -> float:
    smoothing = number(value, "label_smoothing")
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label_smoothing must lie between 0 and 1, got {smoothing!r}")
    return smoothing


def _elements(value: Any, argument: str) -> list[Any] | None:
    """The elements of a vector: a list, a set, an array of any library; None for all else."""
    if isinstance(value, list | tuple | range | Set | ValuesView):
        return list(value)
    if value is None or isinstance(value, str | bytes | Mapping):
        return None
    if not any(hasattr(value, name) for name in ("__array__", "__dlpack__", "shape")):
        return list(value) if isinstance(value, Iterable) else None
    array = as_array(value, argument)
    if array.ndim != 1:
        return None
    return array.tolist() if array.dtype.kind in "biuf" else list(array)


def _ignored(value: object) -> tuple[int, ...]:
    """The ignored classes, sorted; () where there is none."""
    if value is None:
        return ()
    classes = _elements(value, "ignore_class")
    if classes is None:
        classes = [value]
    return tuple(sorted({whole_number(v, "ignore_class") for v in classes}))


def _class_weight(value: Any) -> tuple[float, ...] | tuple[tuple[int, float], ...] | None:
    """A vector as a tuple of floats; a dict, or a vector with names, as (class, weight) pairs."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return _by_class(list(value.keys()), list(value.values()), refuse_bool=True)
    expected = "class_weight must be a vector of one weight a class, or a dict"
    columns = foreign.column_names(value)
    if columns is not None:
        way_out = f": pass class_weight[{columns[0]!r}] or another column" if columns else ""
        raise TypeError(f"{expected}, got a {type(value).__name__}{way_out}")
    weights = None if isinstance(value, Set) else _elements(value, "class_weight")
    if weights is None:
        shape = getattr(value, "shape", ())
        got = f"shape {tuple(shape)}" if len(shape) else describe(value)
        raise TypeError(f"{expected}, got {got}")
    refuse_bool = not all(map(_is_bool, weights))  # one among numbers may be R's NA
    names = foreign.names(value)
    if names is not None:
        return _by_class(list(names), weights, refuse_bool)
    return tuple(_weight(w, f"class_weight[{k}]", refuse_bool) for k, w in enumerate(weights))


def _by_class(
    keys: list[Any], weights: list[Any], refuse_bool: bool
) -> tuple[tuple[int, float], ...] | None:
    """Sorted (class, weight) pairs; None where there is none, for absent classes weigh 1."""
    pairs: dict[int, float] = {}
    for key, weight in zip(keys, weights, strict=True):
        c = _class_key(key)
        if c in pairs:
            raise ValueError(f"class_weight must name a class once, got {c} more than once")
        pairs[c] = _weight(weight, f"class_weight[{c}]", refuse_bool)
    return tuple(sorted(pairs.items())) or None


def _class_key(key: object) -> int:
    if isinstance(key, str):
        if not re.fullmatch(r"-?[0-9]{1,18}", key):
            raise ValueError(
                f"class_weight's keys must be classes (0, 1, ... or '0', '1', ...), got {key!r}"
            )
        return int(key)
    return whole_number(key, "class_weight's key")


def _weight(value: object, argument: str, refuse_bool: bool) -> float:
    """One weight; among numbers a bool is refused, for R's NA arrives as one."""
    found = scalar(value, argument)
    if _is_bool(found) and not refuse_bool:
        return float(found)
    real = _real(found)
    if real is None:
        got = (
            f"{found!r} (a bool; in R an NA arrives as True)"
            if _is_bool(found)
            else describe(value)
        )
        raise TypeError(f"{argument} must be a number, got {got}")
    if real == NA_INTEGER or real != real:
        raise ValueError(f"{argument} must be a number, got {real!r} (NA in R)")
    weight = _as_float(real)
    if math.isinf(weight) and isinstance(real, int):
        raise ValueError(f"{argument} must fit a float, got an int of {real.bit_length()} bits")
    return weight


def _reduction(value: object) -> Reduction:
    if value is None:
        return Reduction.NONE
    name = choice(value, "reduction", get_args(ReductionName))
    return Reduction({"auto": REDUCTION, "none": None}.get(name, name))


def _name(value: object, default: str) -> str:
    if value is None:
        return default
    if not isinstance(value, str):
        raise TypeError(f"name must be a string, got {describe(value)}")
    return str(value)


def _device(value: object) -> int | None:
    """None, or the ordinal of a CUDA device: "cuda" is the first, "cuda:1" the next."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f'device must be None, "cuda" or "cuda:1" and so on, got {describe(value)}')
    if not re.fullmatch(r"cuda(:[0-9]{1,4})?", value):
        raise ValueError(f'device must be None, "cuda" or "cuda:1" and so on, got {value!r}')
    return int(value.partition(":")[2] or 0)


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
    if type(value).__module__.partition(".")[0] in ("torch", "tensorflow"):
        value = getattr(value, "name", str(value).removeprefix("torch."))
    try:
        name: str = np.dtype(value).name  # type: ignore[call-overload]
        return name
    except (TypeError, ValueError):
        return None
