"""`python -m benchmarks.tensors`: torch's tensors on the CPU, beside torch's own loss.

Value and gradient, forward and backward pass, as a step of training asks for them; both sides make
their gradient anew. Beside them stand `value_and_grad` of tensors, of NumPy's arrays of the same
memory, and losses whose mean torch takes. Candidates take turns, and medians are compared; each
answer is checked against the definition. Nothing is kept.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

import sparse_xent as sx
from benchmarks import answers, peers
from benchmarks.clock import Local, interleave
from benchmarks.report import duration
from benchmarks.workloads import GRADIENT, OURS, WORKLOADS, Workload

TORCH, TENSORS, ARRAYS = "torch", f"{OURS}, backward", f"{OURS}, arrays"
SMALL = Workload("2 x 3, float64", (2, 3), (), (GRADIENT,), dtype="float64")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print a line for each candidate: median, quartiles, how many times torch's."""
    parser = argparse.ArgumentParser("python -m benchmarks.tensors", description=__doc__)
    parser.add_argument("--only", default="", help="workloads with this in their names")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each workload, about")
    parser.add_argument("--scores", type=int, default=sys.maxsize, help="cut to so many scores")
    parser.add_argument("--threads", type=int, default=sx.config_threads())
    asked = parser.parse_args(arguments)
    if not peers.is_there("torch"):
        parser.error("it needs torch, which is not installed")
    sx.config_set_threads(asked.threads)
    print(f"{asked.threads} threads, {peers.versions()}")
    for workload in (*WORKLOADS, SMALL):
        if workload.from_logits and GRADIENT in workload.verbs and asked.only in workload.name:
            _measure(workload.cut(asked.scores), asked)
    return 0


def _measure(workload: Workload, asked: argparse.Namespace) -> None:
    print(f"\n{workload.name}", flush=True)
    y, x = workload.data()
    right = answers.expected(workload, GRADIENT, y, x)
    candidates = list(_candidates(workload, y, x, asked.threads))
    for candidate in candidates:
        candidate.note = answers.disagreement(workload, candidate.answer(), right)
    all_times = interleave(candidates, asked.rounds, asked.seconds, needed=TENSORS)
    torchs = all_times[0].median
    for candidate, times in zip(candidates, all_times, strict=True):
        first, third = map(duration, times.quartiles)
        took = f"{duration(times.median):>8}  ({first} .. {third})"
        print(f"  {candidate.name:32}{took:34}{torchs / times.median:5.1f} x  {candidate.note}")


def _candidates(workload: Workload, y: Any, x: Any, threads: int) -> Iterator[Local]:
    """Torch first, then ours."""
    import torch

    loss = sx.SparseCategoricalCrossentropy(**workload.options)
    losses = partial(sx.loss_sparse_categorical_crossentropy, **workload.options)
    labels, scores = torch.from_numpy(y), peers._tensor(x)
    kept = max(1, int(np.sum(y != workload.ignore_class)))

    def backward(value_of: Callable[[Any], Any]) -> object:
        leaf = scores.detach().requires_grad_()
        value = value_of(leaf)
        value.backward()
        return value, leaf.grad

    calls: dict[str, Callable[[], object]] = {
        TORCH: peers._torch(workload, GRADIENT, y, x, threads),
        TENSORS: lambda: backward(lambda leaf: loss(labels, leaf)),
        f"{OURS}, losses, backward": lambda: backward(
            lambda leaf: losses(labels, leaf).float().sum() / kept
        ),
        f"{OURS}, value_and_grad": lambda: loss.value_and_grad(labels, scores),
        ARRAYS: lambda: loss.value_and_grad(y, x),
    }
    for name, call in calls.items():
        yield Local(name, GRADIENT, call, partial(answers.answer, workload, GRADIENT))


if __name__ == "__main__":
    sys.exit(main())
