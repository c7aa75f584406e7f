"""Counts how often each class is the label: the best prediction that is the same for every row."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from sparse_xent.accumulate import Floats, GroupedSums, Integers, check_weights, rounded


class Frequencies:
    """How often each class was the label, each time with its weight if weights are given.

    Args:
        classes: The number of classes C; labels are 0..C-1.
        weighted: Whether `add` is given weights.
    """

    def __init__(self, classes: int, *, weighted: bool = False) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros(classes, np.int64)
        self.weighted = weighted
        self._weights = GroupedSums()

    def add(self, y: Integers, w: Floats | None = None) -> None:
        """Add labels, shape [n], and their weights."""
        check_weights(w, given=self.weighted)
        self.counts += np.bincount(y, minlength=self.counts.size)
        if w is not None:
            self._weights.add(y, w)

    def merge(self, other: Frequencies) -> None:
        """Add all labels of `other`."""
        if (other.weighted, other.counts.size) != (self.weighted, self.counts.size):
            raise TypeError("frequencies of unlike classes or weighting do not merge")
        self.counts += other.counts
        self._weights.merge(other._weights)

    def totals(self) -> dict[int, Fraction]:
        """The classes seen, in order, and the exact total of the weights of each."""
        if self.weighted:
            return {c: total.fraction() for c, total in self._weights.sums().items()}
        return {int(c): Fraction(int(self.counts[c])) for c in np.flatnonzero(self.counts)}

    @property
    def entropy(self) -> float | None:
        """The mean loss, in nats, where these frequencies are predicted for every row.

        0 where nothing was added; None where a class's weights are negative or not finite.
        """
        totals = list(self.totals().values())
        everything = sum(totals, Fraction(0))
        if not self._weights.finite or any(t < 0 for t in totals):
            return None
        shares = [rounded(t / everything) for t in totals if t > 0]
        return abs(math.fsum(-p * math.log(p) for p in shares if p > 0))
