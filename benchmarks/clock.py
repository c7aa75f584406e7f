"""How times are taken: candidates take turns, round after round, and medians are compared.

Machines are shared and slow down for seconds at a time. In an interleaved run that hits all
candidates alike, so ratios of medians mean something where times alone do not.
"""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

#: Thread pools go on spinning for some milliseconds after a call: nobody is timed beside another's.
PAUSE = 0.01
WARM_BELOW = 0.05  # seconds: a faster candidate is called once untimed, to find its own data warm
LEAST = 0.002  # seconds: faster calls are timed several at once
FEWEST = 3  # turns of any candidate, where so many rounds are asked for
AT_LEAST = 5  # turns of a candidate that a bar is held against
ENOUGH = 9  # turns of those with whom all others are compared
FAR = 10  # times as long as they take: a candidate so slow has no turn more than its least


class Candidate(Protocol):
    """Someone who takes part: a name, one timed turn, and what it computed."""

    name: str
    verb: str
    note: str  # what a reader of its figures should know
    least: int  # turns that it takes at least, however slow it is

    def seconds(self) -> float: ...
    def answer(self) -> np.ndarray: ...


@dataclass
class Local:
    """A candidate in this process."""

    name: str
    verb: str
    run: Callable[[], object]  # waits until the result is there
    read: Callable[[object], np.ndarray] = lambda result: np.zeros(0)
    before: Callable[[], object] | None = None  # untimed, before every call
    note: str = ""
    least: int = AT_LEAST
    calls: int = 1

    def answer(self) -> np.ndarray:
        if self.before:
            self.before()
        return self.read(self.run())

    def seconds(self) -> float:
        if self.before:
            self.before()
        start = time.perf_counter()
        for _ in range(self.calls):
            self.run()
        passed = time.perf_counter() - start
        if passed < LEAST and not self.before and self.calls < 100_000:
            self.calls = max(2 * self.calls, int(self.calls * LEAST / max(passed, 1e-9)))
            return self.seconds()
        return passed / self.calls


@dataclass(frozen=True)
class Times:
    """Seconds of one candidate, over its rounds; or what ended its part in them."""

    seconds: tuple[float, ...]
    failed: Exception | None = None
    spent: float = 0.0  # seconds that all its turns took, those too that do not count

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        first, third = np.percentile(self.seconds, [25, 75])
        return float(first), float(third)


def interleave(
    candidates: Sequence[Candidate], rounds: int, budget: float, needed: str = ""
) -> list[Times]:
    """Let the candidates take turns.

    Args:
        candidates: who takes part; each has been called before, so that it is compiled.
        rounds: how often each is called, where it is quick enough.
        budget: seconds for all, about: slow candidates sit out some of the rounds, evenly spread,
            but have the `least` turns that they ask for, and no more where they take `FAR` times
            as long as `needed`.
        needed: the name of whom the rest cannot do without: its error is raised.

    Returns:
        Their times, in the same order. Who fails takes no further turn.
    """
    taken: list[list[float]] = [[] for _ in candidates]
    failed: list[Exception | None] = [None for _ in candidates]
    spent = [0.0 for _ in candidates]
    turns = []

    def turn(i: int) -> float:
        start = time.perf_counter()
        try:
            return 0.0 if failed[i] else candidates[i].seconds()
        except Exception as error:
            if candidates[i].name == needed:
                raise
            failed[i] = error
            return 0.0
        finally:
            spent[i] += time.perf_counter() - start

    gc.collect()
    gc.disable()
    try:
        firsts = [turn(i) for i in range(len(candidates))]
        far = FAR * max(
            (s for c, s in zip(candidates, firsts, strict=True) if c.name == needed),
            default=float("inf"),
        )
        for i, (c, first) in enumerate(zip(candidates, firsts, strict=True)):
            affordable = int(budget / len(candidates) / max(first, 1e-9))
            turns.append(min(rounds, c.least if first > far else max(c.least, affordable)))
            if turns[-1] < rounds:  # where a call is dear, none is thrown away
                taken[i].append(first)
                turns[-1] -= 1
        order = list(range(len(candidates)))
        for k in range(rounds):
            order = order[1:] + order[:1]
            for i in order:
                if failed[i] or (k + 1) * turns[i] // rounds == k * turns[i] // rounds:
                    continue
                time.sleep(PAUSE)
                if taken[i] and taken[i][-1] < WARM_BELOW:
                    turn(i)
                taken[i].append(turn(i))
    finally:
        gc.enable()
    return [Times(tuple(s), *rest) for s, *rest in zip(taken, failed, spent, strict=True)]
