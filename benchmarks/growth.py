"""How the time of one score grows: with the classes at equal bytes, with the labels, with threads.

A flat line is a kernel that fits every shape; a step is a walk that should begin elsewhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

import sparse_xent as sx
from benchmarks.clock import ENOUGH, Local, Times, interleave
from benchmarks.workloads import FORWARD, INTO

BYTES = 64 * 2**20  # of scores, float32: more than the caches of most machines
CLASSES = [2**k for k in range(1, 19)]
LABELS = [4**k for k in range(8)]
CLASSES_OF_LABELS = 1000
CLASSES_OF_THREADS = [10, 100, 32_000]


@dataclass
class _Point(Local):
    """A candidate with so many threads."""

    least: int = ENOUGH
    scores: int = 0
    team: int = 1

    def seconds(self) -> float:
        sx.config_set_threads(self.team)
        return super().seconds()


def measure(most: int, threads: int, rounds: int, seconds: float) -> Iterator[tuple[_Point, Times]]:
    """Each point with its times; its name is "classes 2", "labels 16" or "threads 2 of 10 classes".

    Args:
        most: scores of a point at most.
        threads: the most threads.
        rounds: how often each is called.
        seconds: for each of the three, about.
    """
    size = min(most, BYTES // 4)
    base = 2 * np.random.default_rng(1).standard_normal(size, np.float32)
    out = np.zeros_like(base)
    loss = sx.SparseCategoricalCrossentropy(from_logits=True)

    def point(subject: str, verb: str, rows: int, classes: int, team: int) -> _Point:
        x, dx = (a[: rows * classes].reshape(rows, classes) for a in (base, out))
        y = np.arange(rows) * 7919 % classes
        run = partial(loss, y, x) if verb == FORWARD else partial(loss.value_and_grad, y, x, out=dx)
        return _Point(subject, verb, run, scores=x.size, team=team)

    curves: list[list[tuple[str, int, int, int]]] = [
        [(f"classes {c}", size // c, c, threads) for c in CLASSES],
        [(f"labels {n}", n, CLASSES_OF_LABELS, threads) for n in LABELS],
        [
            (f"threads {n} of {c} classes", size // c, c, n)
            for c in CLASSES_OF_THREADS
            for n in range(1, threads + 1)
        ],
    ]
    for verb in (FORWARD, INTO):
        for curve in curves:
            points = [
                point(subject, verb, rows, classes, team)
                for subject, rows, classes, team in curve
                if 0 < rows * classes <= size
            ]
            for p in points:
                p.seconds()
            for p, times in zip(points, interleave(points, rounds, seconds), strict=True):
                yield p, times
    sx.config_set_threads(threads)
