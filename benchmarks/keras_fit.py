"""`python -m benchmarks.keras_fit`: an epoch of Keras's fit with our loss, beside its own loss.

Models that differ in their loss alone train side by side: an epoch of one, then one of the next,
and medians of epochs are compared. The loss that training reports is compared, too. KERAS_BACKEND
picks the backend: torch, where nothing is set. Nothing is kept.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

import sparse_xent as sx
from benchmarks import peers
from benchmarks.clock import Local, interleave
from benchmarks.report import duration

#: Rows of an epoch, features, classes, rows of a batch.
SHAPES = [(4096, 64, 10, 32), (8192, 64, 1000, 256), (2048, 64, 32000, 256)]
KERAS, CLASSES, OBJECTS = "keras", "sparse_xent.integrations.keras", "sparse_xent"
FIRST = 2  # epochs that are not timed


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a line for each loss: median, quartiles, share of the time of Keras's."""
    parser = argparse.ArgumentParser("python -m benchmarks.keras_fit", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each shape, about")
    parser.add_argument("--rows", type=int, default=sys.maxsize, help="of an epoch, at most")
    asked = parser.parse_args(arguments)
    os.environ.setdefault("KERAS_BACKEND", "torch")
    if not peers.is_there("keras"):
        parser.error("it needs Keras, which is not installed")
    print(f"{os.environ['KERAS_BACKEND']}, {sx.config_threads()} threads, {peers.versions()}")
    for rows, *shape in SHAPES:
        _measure(min(rows, asked.rows), *shape, asked)
    return 0


def _measure(rows: int, features: int, classes: int, batch: int, asked: Any) -> None:
    print(f"\n{rows} x {features} -> {classes} classes, batches of {batch}", flush=True)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, features)).astype(np.float32)
    y = rng.integers(0, classes, rows)
    candidates, reported = [], []
    for name, loss in _losses():
        epoch = _epoch(loss, x, y, classes, batch)
        reported.append([epoch() for _ in range(FIRST)])
        candidates.append(Local(name, "fit", epoch))
    all_times = interleave(candidates, asked.rounds, asked.seconds)
    for candidate, times, said in zip(candidates, all_times, reported, strict=True):
        first, third = map(duration, times.quartiles)
        took = f"{duration(times.median):>8}  ({first} .. {third})"
        share = times.median / all_times[0].median
        differs = np.abs(np.divide(said, reported[0]) - 1).max()
        note = f"another loss: {differs:.1e}" if differs > 1e-6 else ""
        print(f"  {candidate.name:34}{took:34}{share:7.3f}  {note}")


def _losses() -> Iterator[tuple[str, Any]]:
    import keras

    from sparse_xent.integrations.keras import SparseCategoricalCrossentropy

    yield KERAS, keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    yield CLASSES, SparseCategoricalCrossentropy(from_logits=True)
    yield OBJECTS, sx.loss_sparse_categorical_crossentropy(from_logits=True)


def _epoch(loss: Any, x: Any, y: Any, classes: int, batch: int) -> Callable[[], float]:
    """What trains a model of its own for an epoch, and says the loss that fit reports."""
    import keras

    keras.utils.set_random_seed(0)
    layers = [keras.layers.Input(x.shape[1:]), keras.layers.Dense(classes)]
    model = keras.Sequential(layers)
    model.compile("sgd", loss)
    fit = partial(model.fit, x, y, batch_size=batch, shuffle=False, verbose=0)
    return lambda: float(fit().history["loss"][0])


if __name__ == "__main__":
    sys.exit(main())
