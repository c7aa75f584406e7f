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
from sparse_xent.kernels.cpu import abi

_LAYOUTS = ("tile", "row_batches", "rows", "strided")
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
    yield from (("run_one_chunk",), ("run_chunks",))
    yield from (("decode_labels", name) for name in sorted(set(abi.LABELS.values())))
    yield from ((name, format) for name in ("rank", "exact_sums") for format in formats)
    kinds = tuple(ScoreKind) if everything else (ScoreKind.LOGITS, ScoreKind.CLIP_NORMALIZE)
    smooths = (False, True) if everything else (False,)
    for format, scores, smooth in itertools.product(formats, kinds, smooths):
        layouts: tuple[str, ...] = _LAYOUTS
        if scores == ScoreKind.CLIP and not smooth:
            layouts = ("gather",)
        elif scores == ScoreKind.LOGITS and not smooth:
            layouts = (*_LAYOUTS, "few")
        for layout, gradient in itertools.product(layouts, (False, True)):
            yield layout, format, scores.name, smooth, gradient


def run(
    halves: bool = False,
    everything: bool = False,
    on_compiled: Callable[[str, float], None] = lambda kernel, seconds: None,
) -> Report:
    """Compile what is not there yet, and keep it.

    Args:
        halves: as in `kernels`.
        everything: as in `kernels`.
        on_compiled: is called with each kernel's name and the seconds that it took.

    Raises:
        OSError: nothing can be kept, or nothing compiled, here.
    """
    start, compiled, found = time.perf_counter(), 0, 0
    for name in kernels(halves, everything):
        if cache.load(name) is not None:
            found += 1
            continue
        began = time.perf_counter()
        try:
            image = loader.made(name)
        except loader.EngineUnavailable as error:
            raise OSError(str(error)) from error
        try:
            cache.keep(name, image)
        except OSError as error:
            raise OSError(cache.refusal(error)) from error
        compiled += 1
        on_compiled(" ".join(map(str, name)), time.perf_counter() - began)
    return Report(cache.folder(), compiled, found, time.perf_counter() - start)
