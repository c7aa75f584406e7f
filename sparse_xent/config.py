"""Three settings of the process: the default dtype of results, the clip's epsilon, the threads.

The names are Keras's (R: keras3's). `config_epsilon` and `config_threads` are read at each call;
`config_floatx` when a loss object is constructed.

The sparse loss is served by compiled kernels. SPARSE_XENT_ENGINE=numpy in the environment asks for
the NumPy engine instead, array operations on one thread: for a machine that cannot compile, or to
compare. Where the kernels cannot be had the NumPy engine serves too, and one warning says why.
"""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sparse_xent.dtypes import FLOATS
from sparse_xent.kernels.loader import EngineUnavailable
from sparse_xent.options import describe, float_name, number, whole_number

_floatx = "float32"
_epsilon = 1e-7

_threads: int | None = None  # None: as many as the machine gives, see config_threads()


def _asked_for() -> str:
    """The engine that the environment asks for: "compiled" or "numpy"; empty counts as unset."""
    engine = os.environ.get("SPARSE_XENT_ENGINE", "").strip() or "compiled"
    if engine not in ("compiled", "numpy", "plain"):
        raise ValueError(
            'SPARSE_XENT_ENGINE in the environment must be "compiled" or "numpy" (or "plain", its '
            f"older name), got {engine!r}"
        )
    return "numpy" if engine == "plain" else engine


# Which engine serves is decided here: each call reads `_compiled`, and `fall_back` alone sets it.
_compiled = _asked_for() == "compiled"
_fell_back = False


def fall_back(error: EngineUnavailable) -> None:
    """Let the NumPy engine serve, for the kernels cannot be had; one RuntimeWarning a process."""
    global _compiled, _fell_back
    if error.lasting:
        _compiled = False
    if not (error.asked_for or _fell_back):
        _fell_back = True
        warnings.warn(
            f"the NumPy engine serves, more slowly: {error}; "
            "SPARSE_XENT_ENGINE=numpy in the environment asks for it without this warning",
            RuntimeWarning,
            stacklevel=_outside(),
        )


def _outside() -> int:
    """The stack level, for a warning of `fall_back`'s, of the caller outside this package."""
    package, level, frame = __name__.partition(".")[0], 1, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame, level = frame.f_back, level + 1
    return level


def config_floatx() -> str:
    """Name of the dtype that loss objects return by default.

    Returns:
        `"float32"`, unless `config_set_floatx()` set another.

    Example:
        >>> config_floatx()
        'float32'

    Source: `keras.config.floatx`.
    """
    return _floatx


def config_set_floatx(value: str) -> None:
    """Set the dtype that loss objects constructed from now on return by default.

    Args:
        value: `"float16"`, `"bfloat16"`, `"float32"` or `"float64"`.

    Raises:
        TypeError: `value` is not a string.
        ValueError: `value` is another string.

    Example:
        >>> config_set_floatx("float64")
        >>> config_floatx()
        'float64'
        >>> config_set_floatx("float32")

    Source: `keras.config.set_floatx`.
    """
    global _floatx
    if not isinstance(value, str):
        raise TypeError(f"value must be a dtype's name, one of {FLOATS}, got {describe(value)}")
    _floatx = float_name(value, "value")


def config_epsilon() -> float:
    """The bound to which probabilities are clipped: to [epsilon, 1 - epsilon].

    Returns:
        1e-7, unless `config_set_epsilon()` set another.

    Example:
        >>> config_epsilon()
        1e-07

    Source: `keras.config.epsilon`.
    """
    return _epsilon


def config_set_epsilon(value: float) -> None:
    """Set the bound to which probabilities are clipped, from the next call on.

    Args:
        value: a number from 0 to below 0.5. With 0 nothing is clipped but what is no probability,
            and a label whose probability is 0 costs `inf`.

    Raises:
        TypeError: `value` is not a number.
        ValueError: `value` is out of that range.

    Example:
        >>> config_set_epsilon(1e-12)
        >>> config_epsilon()
        1e-12
        >>> config_set_epsilon(1e-7)

    Source: `keras.config.set_epsilon`.
    """
    global _epsilon
    _epsilon = read_epsilon(value, "value")


def read_epsilon(value: object, name: str) -> float:
    """A bound as it is typed, or TypeError, ValueError."""
    epsilon = number(value, name)
    if not 0 <= epsilon < 0.5:
        raise ValueError(f"{name} must be from 0 to below 0.5, got {value!r}")
    return epsilon


def config_threads() -> int:
    """How many threads a call of the compiled engine may use; the NumPy engine uses one.

    Returns:
        The number that `config_set_threads()` set; else the cores that this process may run on.
        Both are capped by the environment variables NUMBA_NUM_THREADS and OMP_NUM_THREADS.

    Example:
        >>> config_threads() >= 1
        True
    """
    global _cap
    _cap = _read_cap()
    return threads()


def threads() -> int:
    """The same with the environment's caps as they were last read: when imported, or asked for."""
    return 1 if _serial.get() else max(1, min(_threads or _cores(), _cap))


_serial = ContextVar("_serial", default=False)


@contextmanager
def serial() -> Iterator[None]:
    """Calls in this context use the thread that they are made in: others run beside it."""
    token = _serial.set(True)
    try:
        yield
    finally:
        _serial.reset(token)


def config_set_threads(value: int | None) -> None:
    """Set how many threads a call may use, from the next call on; results do not depend on it.

    Args:
        value: a whole number from 1 up (R's doubles are taken), or None for the machine's cores.

    Raises:
        TypeError: `value` is not a number.
        ValueError: `value` is below 1 or not whole.

    Example:
        >>> config_set_threads(1)
        >>> config_threads()
        1
        >>> config_set_threads(None)
    """
    global _threads
    if value is None:
        _threads = None
        return
    threads = whole_number(value, "value")
    if threads < 1:
        raise ValueError(
            f"value must be at least 1, or None for the machine's cores, got {value!r}"
        )
    _threads = threads


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux knows of cgroups and taskset
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _read_cap() -> int:
    """The least cap of the environment; of a list, as OMP_NUM_THREADS may be, the first counts."""
    caps = [sys.maxsize]
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name, "").split(",")[0].strip()
        if text.isdigit() and int(text) > 0:
            caps.append(int(text))
    return min(caps)


_cap = _read_cap()
