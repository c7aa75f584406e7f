"""`python -m benchmarks.chunks`: scoring dask's chunks beside a NumPy call on the same bytes.

The logits lie in memory, and dask is given them in chunks, so that what differs is scheduling and
where results go. On as many threads each, in turns; times are medians.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import dask
import dask.array as da
import numpy as np

import sparse_xent as sx
from benchmarks import report
from benchmarks.clock import Local, interleave

CLASSES = [10, 100, 1000, 32_000]
GIGABYTES = 2.0
CHUNK_BYTES = 1 << 26
NUMPY, DASK = "NumPy", "dask"


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser("python -m benchmarks.chunks", description=__doc__)
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES)
    parser.add_argument("--gigabytes", type=float, default=GIGABYTES)
    parser.add_argument("--chunk", type=int, default=CHUNK_BYTES, help="bytes of a chunk")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=30.0, help="for each number of classes")
    asked = parser.parse_args()
    sx.config_set_threads(asked.threads)
    print(f"dask: {dask.__version__}")
    for classes in asked.classes:
        labels = int(asked.gigabytes * 1e9 / 4 / classes)
        rows = max(1, asked.chunk // (4 * classes))
        print(
            f"\n{labels:,} labels of {classes:,} classes, chunks of {rows:,} rows, "
            f"{asked.threads} threads",
            flush=True,
        )
        with dask.config.set(scheduler="threads", num_workers=asked.threads):
            candidates = list(_candidates(labels, classes, rows))
            times = interleave(candidates, asked.rounds, asked.seconds)
        of = {c.name: t.median for c, t in zip(candidates, times, strict=True)}
        for name, median in of.items():
            what = name.partition(", ")[0]
            ratio = median / of[f"{what}, {NUMPY}"]
            print(f"  {name:28} {report.duration(median):>9} {ratio:6.2f} of {NUMPY}'s")


def _candidates(labels: int, classes: int, rows: int) -> Iterator[Local]:
    r = np.random.default_rng(classes)
    x, y = np.empty((labels, classes), np.float32), r.integers(0, classes, labels)
    for start in range(0, labels, rows):
        r.standard_normal(out=x[start : start + rows], dtype=np.float32)
    chunks, of_labels = _chunked(x, (rows, classes)), _chunked(y, (rows,))
    loss = sx.loss_sparse_categorical_crossentropy(from_logits=True)

    def losses(y: Any, x: Any) -> Any:
        return sx.loss_sparse_categorical_crossentropy(y, x, from_logits=True)

    def state(y: Any, x: Any) -> Any:
        return sx.partial(y, x, from_logits=True, top_k=(1, 5))

    for name, call in {"value": loss, "losses": losses}.items():
        yield _of(f"{name}, {NUMPY}", partial(call, y, x))
        yield _of(f"{name}, {DASK}", lambda call=call: dask.compute(call(of_labels, chunks)))

    dx = np.empty_like(x)

    def gradient() -> None:
        value, gradient = loss.value_and_grad(of_labels, chunks)
        dask.compute(value, da.store(gradient, dx, lock=False, compute=False))

    yield _of(f"value and gradient, {NUMPY}", lambda: loss.value_and_grad(y, x))
    yield _of(f"value and gradient, {DASK}", gradient)
    yield _of(f"partial, {NUMPY}", lambda: state(y, x))
    yield _of(f"partial, {DASK}", lambda: state(of_labels, chunks))


def _of(name: str, run: Callable[[], object]) -> Local:
    return Local(name, "forward", run, lambda made: np.zeros(0))


def _chunked(array: np.ndarray, chunks: tuple[int, ...]) -> Any:
    return da.from_array(array, chunks=chunks, name=False)  # unhashed


if __name__ == "__main__":
    main()
