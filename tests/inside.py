"""What tests must reach inside the package for, each with its reason: the one place to bind anew.

Everything else that tests do goes through the public face. `put` is how an attribute is set:
pytest's `monkeypatch.setattr`, or `setattr` in a process of its own.
"""

import ctypes
import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

import sparse_xent as sx
from sparse_xent import config, execute, plan, tracing
from sparse_xent.accumulate import ExactSum, LossSums
from sparse_xent.engines import cpu, numpy_formulas, placement, threads, traced
from sparse_xent.engines.base import Task
from sparse_xent.kernels import ScoreKind, loader
from sparse_xent.kernels import cache as kernel_cache
from sparse_xent.kernels.cpu import abi, array_objects, functions
from sparse_xent.options import read

# The engine ---------------------------------------------------------------------------------------
#
# The public face has no switch but the environment's SPARSE_XENT_ENGINE, which is read once.


def serve_by(engine: str, put: Callable[..., None] = setattr) -> None:
    """Let this engine serve all calls, "compiled" or "numpy"."""
    put(config, "_compiled", engine == "compiled")


def serving() -> str:
    """The engine that serves calls now."""
    return "compiled" if config._compiled else "numpy"


def asked_for() -> str:
    """The engine that the environment asks for, read now."""
    return config._asked_for()


def ranks(y: Any, x: Any, axis: int = -1, ignore_class: Any = None) -> Any:
    """How many classes stand above each label: no public function gives ranks."""
    return execute.ranks(y, x, _options(axis, ignore_class))


def losses_and_ranks(
    y: Any, x: Any, axis: int = -1, ignore_class: Any = None, **options: Any
) -> list[Any]:
    """Both from one read, as `partial` takes them: its sums would hide a bit."""
    chosen = read(axis=axis, ignore_class=ignore_class, **options)
    return [np.asarray(a) for a in execute.losses_and_ranks(y, x, chosen)[:2]]


def by_formulas(library: Any, loss: Any, y: Any, x: Any, w: Any = None) -> Any:
    """A loss object's result from the formulas of libraries that trace, in a library's operations.

    Which libraries there are, no caller can say.
    """
    options = loss._options
    task = Task.LOSSES if loss.reduction is None else Task.VALUE
    return tracing.call(task, library, options, y, x, w)


def hits_by_formulas(library: Any, y: Any, x: Any, k: int, **options: Any) -> Any:
    """The same of labels among the k classes that score highest."""
    chosen = read(**options, dtype="float32")
    return tracing.accuracies(library, chosen, y, x, None, k)


def is_suspicious(library: Any, x: Any, y: Any, target_only: bool) -> bool:
    """What decides whether NumPy's engines look for scores that are no probabilities."""
    return bool(traced.is_suspicious(library, x.ndim - 1, x.dtype.name, target_only, x, y))


def add_exactly(numbers: Any, w: Any, limbs: Any) -> None:
    """The compiled sums of a chunk of float64 losses, over what `limbs` holds of sum(w * l).

    Args:
        numbers: at most 2048 losses.
        w: their weights, or None.
        limbs: the fixed-point number, which no call could make as large as a test needs it.
    """
    function = functions._function(
        functions.exact_sums_address("float64"), None, *[ctypes.c_int64] * 7
    )
    y, v, words = np.zeros(2048, np.int32), np.empty(2048), LossSums().fixed_point()
    padded = np.zeros((2, 2048))
    padded[0, : len(numbers)] = numbers
    padded[1, : len(numbers)] = 1.0 if w is None else w
    words[abi.EXACT : abi.EXACT + abi.SUM_WORDS] = limbs
    l, weights = (row.ctypes.data for row in padded)
    at = l, 0 if w is None else weights, y.ctypes.data, 0, v.ctypes.data, words.ctypes.data
    function(len(numbers), *at)
    limbs[:] = words[abi.EXACT : abi.EXACT + abi.SUM_WORDS]


def exact_total(limbs: Any) -> Any:
    """The `ExactSum` of a fixed-point number."""
    total = ExactSum()
    total.add_fixed_point(limbs)
    return total


@cache
def _options(axis: int, ignore_class: int | None) -> Any:
    return sx.SparseCategoricalCrossentropy(axis=axis, ignore_class=ignore_class)._options


# Sizes --------------------------------------------------------------------------------------------


def cut_small(
    put: Callable[..., None] = setattr,
    chunk: int = 1 << 10,
    task: int = 1 << 11,
    serial: int = 0,
) -> None:
    """Cut calls so small that arrays which an oracle can follow have many chunks and threads.

    Calls of fewer than `serial` bytes are cut into chunks alone: their caller does all of them.
    """
    put(cpu, "SERIAL_BYTES", serial)
    put(cpu, "CHUNK_BYTES", chunk)
    put(cpu, "TASK_BYTES", task)
    forget_plans(put)


def forget_plans(put: Callable[..., None] = setattr) -> None:
    """Prepare every kind of call anew: plans remember sizes, and kernels that could not be had."""
    put(plan, "_plans", {})
    put(plan, "_found", {})


def workspace(classes: int) -> int:
    """Bytes that the NumPy engine takes beside its operands, as it says itself."""
    return int(numpy_formulas.workspace(classes))


def refuse_tasks(put: Callable[..., None] = setattr) -> None:
    """Let no call be cut into tasks: the test is of the way that has none."""

    def run(*_: object) -> None:
        raise AssertionError("the call was cut into tasks")

    put(threads, "run", run)


# Threads ------------------------------------------------------------------------------------------


def run_tasks(task: Callable[[int], object], count: int, most: int) -> None:
    """Call task(0) .. task(count - 1) on at most so many threads of those that run kernels."""
    threads.run(lambda k, _: task(k), [(k,) for k in range(count)], most)


def say_that_callers_are_on(processor: int, put: Callable[..., None] = setattr) -> None:
    """Let the engine believe that; where a thread is, the system alone decides."""
    put(placement, "_processor", lambda: processor)


def helpers() -> list[int]:
    """The system's numbers of the threads that help callers."""
    return list(threads._pool._placement._helpers)


# Kernels ------------------------------------------------------------------------------------------
#
# Which of them a call takes, and what happens where they cannot be had, no result shows.

#: The kernels whose stack frames are largest, of which one call takes one, and what calls them.
CALLERS = [("run_small_call", array_objects.ITEMS, array_objects.DATA), ("run_chunks",)]
DEEPEST = [
    ("gather", "float32", ScoreKind.CLIP.name, False, True),
    *[
        (name, dtype, ScoreKind.LOGITS.name, False, True)
        for name in ("tile", "row_batches", "rows", "strided")
        for dtype in ("float32", "float64")
    ],
]
#: One that is quick to compile.
QUICK = ("decode_labels", "uint8")


def loaded() -> set[tuple[Any, ...]]:
    """Names of the kernels that calls of this process took."""
    return set(loader._addresses)


def is_usual(kernel: tuple[Any, ...]) -> bool:
    """Whether `sparse-xent warm` compiles it unasked: it is not of halves, smoothing and so on."""
    rare = {"NORMALIZE_CLIP", "CLIP", True} & {*kernel[2:4]}  # scores, and whether smoothed
    return not (rare or {"float16", "bfloat16"} & {*kernel})


def object_code(kernel: tuple[Any, ...]) -> bytes:
    """A kernel's object file, from the cache or compiled now."""
    return kernel_cache.load(kernel) or compiled_now(kernel)


def compiled_now(kernel: tuple[Any, ...]) -> bytes:
    """A kernel's object file, whatever the cache has."""
    return loader.made(kernel)


def compile_by(function: Callable[..., bytes]) -> None:
    """Let this function compile kernels, given their names; Numba is imported."""
    importlib.import_module(loader._REGISTRY).object_code = function


def link(kernel: tuple[Any, ...], image: bytes) -> int:
    """The address of a kernel, from its object file; RuntimeError where that is none."""
    return loader._link(kernel, image)


def refuse_kernels(put: Callable[..., None], lasting: bool) -> list[tuple[Any, ...]]:
    """Let no kernel be had, until further notice or for a while; returns those asked for."""
    asked: list[tuple[Any, ...]] = []

    def address(*name: Any) -> int:
        asked.append(name)
        raise loader.EngineUnavailable("not here", lasting=lasting)

    put(loader, "address", address)
    put(config, "_fell_back", False)
    serve_by("compiled", put)
    forget_plans(put)
    return asked
