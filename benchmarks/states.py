"""`python -m benchmarks.states`: loss, accuracy and top-5 by one `partial`, and what it replaces.

For each number of classes: the losses alone, `partial` without and with `top_k=(1, 5)`, with
weights, the crossentropy metric; and the same three figures by torch and by scikit-learn, each as
its documentation has them and by the quickest way that was found. All take turns; times are
medians, and ratios are of those. Torch is given tensors, scikit-learn the probabilities that it
requires, and `partial` those too where it stands beside it. All figures are compared.

Scores of 40 MB stay in the caches of large machines, where arithmetic is all that is measured.
`--alone --scores 500000000` shows memory's part: 2 GB, without torch and scikit-learn.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import sparse_xent as sx
from benchmarks import peers, report
from benchmarks.clock import Local, Times, interleave

CLASSES = [10, 100, 1000, 32_000]
SCORES = 10_000_000  # float32: 40 MB
ALONE, ONE, ONE_OF_P = "losses alone", "partial, top_k=(1, 5)", "partial, probabilities"
TORCH, SKLEARN = "torch", "scikit-learn"
NEAR = 1e-4  # by which figures of float32 may differ, relative to themselves


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser("python -m benchmarks.states", description=__doc__)
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES)
    parser.add_argument("--scores", type=int, default=SCORES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each number of classes")
    parser.add_argument("--alone", action="store_true", help="without torch and scikit-learn")
    asked = parser.parse_args()
    sx.config_set_threads(asked.threads)
    peers.quieten()
    for name, version in peers.versions().items():
        print(f"{name}: {version}")
    for classes in asked.classes:
        labels = max(1, asked.scores // classes)
        print(f"\n{labels:,} labels of {classes:,} classes, {asked.threads} threads", flush=True)
        candidates = list(_candidates(labels, classes, asked.threads, asked.alone))
        if not asked.alone:
            _compare(candidates)
        # Those who take a hundred times as long would leave the others few turns.
        quick = [c for c in candidates if not c.name.startswith((TORCH, SKLEARN))]
        times = interleave(quick, 4 * asked.rounds, asked.seconds / 2)
        _print(quick, times, labels)
        if asked.alone:
            continue
        beside = [c for c in candidates if c not in quick or c.name in (ONE, ONE_OF_P)]
        _print(beside, interleave(beside, asked.rounds, asked.seconds / 2), labels)


def _candidates(labels: int, classes: int, threads: int, alone: bool) -> Iterator[Local]:
    r = np.random.default_rng(classes)
    x = 2 * r.standard_normal((labels, classes), np.float32)
    y, w = r.integers(0, classes, labels), r.random(labels)
    x[np.arange(labels), y] += np.float32(np.log(classes))  # some are right, and some among five
    metric = sx.metric_sparse_categorical_crossentropy(from_logits=True)

    def ours(name: str, run: Callable[[], object], read: Any = lambda made: np.zeros(0)) -> Local:
        return Local(name, "forward", run, read)

    yield ours(ALONE, lambda: sx.loss_sparse_categorical_crossentropy(y, x, True))
    yield ours("metric, update_state", lambda: metric.update_state(y, x))
    yield ours("partial", lambda: sx.partial(y, x, True))
    yield ours(ONE, lambda: sx.partial(y, x, True, top_k=(1, 5)), _figures)
    yield ours(
        "partial, top_k, weights",
        lambda: sx.partial(y, x, True, top_k=(1, 5), sample_weight=w),
    )
    if alone:
        return
    if peers.is_there("torch"):
        yield from _torch(x, y, threads)
    if peers.is_there("sklearn"):
        p = np.exp(x.astype(np.float64))
        p = (p / p.sum(axis=1, keepdims=True)).astype(np.float32)
        yield ours(ONE_OF_P, lambda: sx.partial(y, p, top_k=(1, 5)), _figures)
        yield from _sklearn(p, y)


def _figures(state: Any) -> np.ndarray:
    return np.array([state.result(), state.accuracy(1), state.accuracy(5)])


def _torch(x: np.ndarray, y: np.ndarray, threads: int) -> Iterator[Local]:
    import torch
    from torch.nn.functional import cross_entropy

    torch.set_num_threads(threads)
    scores, labels = torch.from_numpy(x), torch.from_numpy(y)
    column = labels[:, None]

    def usual() -> list[Any]:
        first = (scores.argmax(1) == labels).float().mean()
        five = (scores.topk(5, dim=1).indices == column).any(1).float().mean()
        return [cross_entropy(scores, labels), first, five]

    def one_top() -> list[Any]:
        right = scores.topk(5, dim=1).indices == column
        return [cross_entropy(scores, labels), right[:, 0].float().mean(), right.sum() / len(y)]

    def by_rank() -> list[Any]:
        above = (scores > scores.gather(1, column)).sum(1)
        return [
            cross_entropy(scores, labels), (above < 1).float().mean(), (above < 5).float().mean(),
        ]  # fmt: skip

    for name, run in (("argmax, topk", usual), ("topk", one_top), ("ranks", by_rank)):
        under = torch.inference_mode()(run)
        yield Local(
            f"{TORCH}: {name}", "forward", under, lambda made: np.array([*map(float, made)])
        )


def _sklearn(p: np.ndarray, y: np.ndarray) -> Iterator[Local]:
    from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

    labels = np.arange(p.shape[1])

    def usual() -> list[float]:
        first, five = (top_k_accuracy_score(y, p, k=k, labels=labels) for k in (1, 5))
        return [log_loss(y, p, labels=labels), first, five]

    def by_argmax() -> list[float]:
        first = accuracy_score(y, p.argmax(1))
        return [
            log_loss(y, p, labels=labels), first, top_k_accuracy_score(y, p, k=5, labels=labels),
        ]  # fmt: skip

    for name, run in (("top_k_accuracy_score", usual), ("argmax, top_k_...", by_argmax)):
        yield Local(f"{SKLEARN}: {name}", "forward", run, np.array)


def _compare(candidates: list[Local]) -> None:
    """All who have the three figures have the same; it warms everyone up, too."""
    due = None
    for candidate in candidates:
        made = candidate.answer()
        if made.size:
            due = made if due is None else due
            np.testing.assert_allclose(made, due, rtol=NEAR, err_msg=candidate.name)


def _print(candidates: list[Local], times: list[Times], labels: int) -> None:
    of = {c.name: t.median for c, t in zip(candidates, times, strict=True) if not t.failed}
    for name, median in of.items():
        beside = ONE_OF_P if name.startswith((SKLEARN, ONE_OF_P)) else ONE
        relative = f"{median / of[beside]:8.1f} times {beside}"
        if ALONE in of:
            relative = f"{median / of[ALONE]:8.2f} of the losses"
        print(f"  {name:38} {report.duration(median):>9} {1e9 * median / labels:10.1f} ns a label"
              f"{relative}")  # fmt: skip


if __name__ == "__main__":
    main()
