"""Which library's adapter an array has: by its type, without an import.

A type is looked at once and remembered. Adapters are of two kinds: of libraries whose arrays lie in
memory, on a CUDA device or, torch's, on the host too; and of those that trace what is done with an
array, wherever it lies. dask's arrays are of neither.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NoReturn

import numpy as np

from sparse_xent.arrays import foreign
from sparse_xent.arrays.base import ArrayAdapter
from sparse_xent.arrays.cupy import CuPyAdapter
from sparse_xent.arrays.dlpack import PROTOCOLS, ProtocolAdapter
from sparse_xent.arrays.jax import Jax
from sparse_xent.arrays.tensorflow import TensorFlow
from sparse_xent.arrays.torch import TorchAdapter
from sparse_xent.arrays.tracing import TracingLibrary

_TRACING = ("jax", "jaxlib", "tensorflow", "dask")
_ADAPTERS: dict[str, Callable[[], ArrayAdapter]] = {"torch": TorchAdapter, "cupy": CuPyAdapter}

_TRACERS: dict[str, Callable[[], TracingLibrary]] = {
    "jax": Jax, "jaxlib": Jax, "tensorflow": TensorFlow,
}  # fmt: skip

PROTOCOL = ProtocolAdapter()

_by_type: dict[type, ArrayAdapter | None] = {}
_made: dict[str, ArrayAdapter] = {}


def adapter_of(array: object) -> ArrayAdapter | None:
    """The adapter of an array that lies in a CUDA device's memory; None for all else."""
    kind = type(array)
    try:
        found = _by_type[kind]
    except KeyError:
        found = adapter_of_type(kind)
    return found if found is not None and found.is_on_device(array) else None


def tensors_of(array: object) -> ArrayAdapter | None:
    """The adapter of a tensor that NumPy's kernels serve and whose results are tensors."""
    found = adapter_of_type(type(array))
    return found if found is not None and found.is_tensor(array) else None


def values_of(y_pred: Any) -> Any:
    """Scores as they were sent; of a tensor the ndarray of its memory."""
    adapter = tensors_of(y_pred)
    return y_pred if adapter is None else adapter.to_numpy(y_pred, "y_pred")


def as_sent(made: Any, y_pred: object) -> Any:
    """What NumPy made of scores, as a tensor where they were one."""
    adapter = tensors_of(y_pred)
    return made if adapter is None else adapter.of_numpy(made)


def adapter_of_type(kind: type) -> ArrayAdapter | None:
    """The adapter of arrays of this type, wherever one lies; one object a library."""
    if kind not in _by_type:
        _by_type[kind] = _find(kind)
    return _by_type[kind]


@lru_cache
def _tracer(maker: Callable[[], TracingLibrary]) -> TracingLibrary:
    """The one adapter of a library that traces."""
    return maker()


def tracing_library(array: object) -> TracingLibrary | None:
    """The adapter of an array of a library that traces; None for all else."""
    maker = _TRACERS.get(foreign.library(array) or "")
    return _tracer(maker) if maker is not None and hasattr(array, "shape") else None


def _find(kind: type) -> ArrayAdapter | None:
    if issubclass(kind, np.ndarray | np.generic | list | tuple | int | float):
        return None
    names = [base.__module__.partition(".")[0] for base in kind.__mro__]
    if any(name in _TRACING for name in names):
        return None
    for name, adapter in _ADAPTERS.items():
        if name in names:
            return _made.setdefault(name, adapter())
    return PROTOCOL if any(hasattr(kind, protocol) for protocol in PROTOCOLS) else None


def refuse_place(array: object, argument: str, like: ArrayAdapter, device: int) -> NoReturn:
    """TypeError for an argument that does not lie where y_pred does.

    Args:
        array: the argument.
        argument: its name.
        like: y_pred's adapter.
        device: the ordinal of y_pred's device.
    """
    expected = f"{argument} must lie on cuda:{device}, as y_pred does"
    got = f"got a {type(array).__name__}"
    other = adapter_of(array)
    if other is not None:
        got += f" on cuda:{other.spec_of(array).device}"
    elif foreign.library(array) == "torch":
        raise TypeError(
            f"{expected}, {got} in the host's memory: pass {argument}.to(y_pred.device)"
        )
    else:
        got += " in the host's memory"
    raise TypeError(f"{expected}, {got}: pass {like.to_device(argument)}")


def refuse_taped(adapter: ArrayAdapter, y_true: object, sample_weight: object) -> None:
    """TypeError for labels or weights that require gradients, of y_pred's library."""
    for value, argument in ((y_true, "y_true"), (sample_weight, "sample_weight")):
        if adapter_of_type(type(value)) is adapter and adapter.is_taped(value):
            foreign.refuse_taped(argument)


def refuse_out(out: object) -> NoReturn:
    """TypeError for an `out` that is not of y_pred's library, or lies elsewhere."""
    raise TypeError(
        f"out must be an array of y_pred's library on its device, got a {type(out).__name__}"
    )


def refuse_device(array: object, argument: str, instead: str) -> NoReturn:
    """TypeError for an argument on a device where the host alone serves, with the way to it.

    Args:
        array: the argument.
        argument: its name.
        instead: what serves arrays on devices, in the words of the message.
    """
    adapter: Any = adapter_of(array)
    named = foreign.library(array)
    kind = f"{named} {type(array).__name__}" if named else type(array).__name__
    copied = foreign.as_numpy(array, argument) if named else f"{argument}, copied to the host"
    if hasattr(array, "numpy") and not named:
        copied = f"{argument}.numpy()"
    raise TypeError(
        f"{argument} must lie in the host's memory, got a {kind} on cuda:"
        f"{adapter.spec_of(array).device}: pass {copied}; {instead}"
    )
