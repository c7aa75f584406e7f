"""Compiles the usual kernels in advance: for images, and for machines that many share.

A kernel serves one layout, one dtype and one kind of scores, with or without label smoothing and
gradient. `kernels.cpu` defines which there are; here are those that most calls use.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sparse_xent.kernels import ScoreKind, cache, loader
from sparse_xent.kernels.cpu import abi, array_objects

_LAYOUTS = ("tile", "row_batches", "rows", "few", "strided")
_WIDE, _HALVES = ("float32", "float64"), ("float16", "bfloat16")


class Report(NamedTuple):
    """What was done."""

    folder: Path
    compiled: int
    found: int  # were there already
    seconds: float


def kernels(halves: bool = False, everything: bool = False) -> Iterator[tuple[Any, ...]]:
    """Names of kernels, as `kernels.loader` takes them; the quick ones first.

    Args:
        halves: float16 and bfloat16 scores too, beside float32 and float64.
        everything: every dtype, every kind of probabilities, and label smoothing too.
    """
    formats = _WIDE + _HALVES if halves or everything else _WIDE
    yield "run_small_call", array_objects.ITEMS, array_objects.DATA
    yield ("run_chunks",)
    yield from (("decode_labels", name) for name in sorted(set(abi.LABELS.values())))
    yield from ((name, format) for name in ("rank", "exact_sums") for format in formats)
    kinds = tuple(ScoreKind) if everything else (ScoreKind.LOGITS, ScoreKind.CLIP_NORMALIZE)
    smooths = (False, True) if everything else (False,)
    for format, scores, smooth in itertools.product(formats, kinds, smooths):
        layouts = ("gather",) if scores == ScoreKind.CLIP and not smooth else _LAYOUTS
        for layout, gradient in itertools.product(layouts, (False, True)):
            yield layout, format, scores.name, smooth, gradient


def of_wheels() -> Iterator[tuple[Any, ...]]:
    """Names of the kernels that a wheel for Linux brings: every one of float32 and float64."""
    yield from (("run_small_call", *layout) for layout in array_objects.LAYOUTS)
    for name in kernels(everything=True):
        if name[0] != "run_small_call" and not {*_HALVES} & {*name}:
            yield name


def run(
    halves: bool = False,
    everything: bool = False,
    on_start: Callable[[int], None] = lambda count: None,
    on_compiled: Callable[[str, float], None] = lambda kernel, seconds: None,
) -> Report:
    """Compile what is not there yet, and keep it.

    Args:
        halves: as in `kernels`.
        everything: as in `kernels`.
        on_start: is called with the number of kernels to compile, where there are some.
        on_compiled: is called with each kernel's name and the seconds that it took.

    Raises:
        OSError: nothing can be kept, or nothing compiled, here.
    """
    start, names = time.perf_counter(), list(kernels(halves, everything))
    missing = [name for name in names if not loader.is_kept(name)]
    if missing:
        on_start(len(missing))
    for name in missing:
        began = time.perf_counter()
        try:
            image = loader.made(name)
        except loader.EngineUnavailable as error:
            raise OSError(str(error)) from error
        try:
            cache.keep(name, image)
        except OSError as error:
            raise OSError(cache.refusal(error)) from error
        on_compiled(" ".join(map(str, name)), time.perf_counter() - began)
    found = len(names) - len(missing)
    return Report(cache.folder(), len(missing), found, time.perf_counter() - start)
