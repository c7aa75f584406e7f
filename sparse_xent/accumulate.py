"""Exact sums of float64 numbers: the same bits for any cut, order or merge, and rounded once.

A float64 is an integer times a power of two. An `ExactSum` keeps Python integers for some powers of
two; adding and merging add integers, so their order cannot matter. Quotients of such sums are
computed as fractions and rounded once to the nearest float64. What the compiled engine has summed
comes as fixed-point numbers (`kernels.cpu.exact_sums`), and is added as it is.

Notation: l losses, w weights, n their number, m the mean; `wwl` is the sum of w * w * l, and so on.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_xent.kernels.cpu import abi

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

SUMS = ("wl", "w", "ww", "wll")
"""The sums of a `LossSums`."""

# Numbers that are added at once: the arrays made of them (about twelve) stay in a core's cache.
# Far below 2**26, up to which the sums of half mantissas in `_binned` are exact.
_CHUNK = 1 << 15
# Up to so many numbers it is quicker to add them one by one (0.4 us each) than as an array.
_FEW = 16
# How often the numbers of a chunk are split before what is left of them is added bit by bit.
_LEVELS = 3
_HUGE = 2.0**1000  # from here on the power of two that splits numbers might be none
_HALF = 27  # bits in the lower half of a mantissa of 53
_LEAST = -1200  # below the exponent of every float64, as numpy.frexp gives it
_EXPONENTS = 1 << 12  # more than there are exponents: keys of one group of `GroupedSums`


class ExactSum:
    """The exact sum of float64 numbers.

    Infinities and NaN are summed apart, and decide the result as IEEE addition does.

    To store or send a sum, write the list of floats that `partials` returns: `ExactSum(partials)`
    is the same sum again. JSON has no number for infinity and NaN: only the last of the list is
    one, and only where the sum is not finite.

    Args:
        numbers: The first numbers.

    Example:
        >>> total = ExactSum()
        >>> total.add(np.array([1e100, 1.0, -1e100]))
        >>> float(total)
        1.0
        >>> float(ExactSum(total.partials()))
        1.0
    """

    __slots__ = ("_bins", "_not_finite")

    def __init__(self, numbers: npt.ArrayLike = ()) -> None:
        self._bins: Counter[int] = Counter()  # exponent e -> sum of mantissas, in units of 2**e
        self._not_finite = 0.0  # the sum of the infinities and NaN
        self.add(np.asarray(numbers, np.float64))

    def add(self, x: Floats) -> None:
        """Add the numbers x, float64 of shape [n]."""
        if x.size <= _FEW:
            for number in x.tolist():
                self._add_one(number)
            return
        finite = np.isfinite(x)
        if not finite.all():
            with np.errstate(invalid="ignore"):
                self._not_finite += float(x[~finite].sum())
            x = x[finite]
        for here in chunks(x.size):
            self._add_chunk(x[here])

    def _add_one(self, number: float) -> None:
        if math.isfinite(number):
            mantissa, e = math.frexp(number)
            self._bins[e - 53] += int(mantissa * 2.0**53)
        else:
            self._not_finite += number

    def _add_chunk(self, left: Floats) -> None:
        """Add at most `_CHUNK` finite numbers.

        A power of two far above them all, added and subtracted again, leaves of each a multiple of
        one u; of those all sums are below 2**53 u, so that NumPy's rounds nothing, and the rest is
        exact (Rump, Ogita and Oishi 2008, "Accurate floating-point summation").
        """
        for _ in range(_LEVELS):
            largest = max(left.max(), -left.min())
            if not 0 < largest < _HUGE:
                break
            power = math.ldexp(1.5, math.frexp(largest)[1] + _CHUNK.bit_length() - 2)
            part = left + power
            part -= power
            self._add_one(float(part.sum()))
            left = left - part
        left = left[left != 0]
        mantissas, exponents = np.frexp(left)
        self._bins.update(_binned(exponents.astype(np.int64), mantissas))

    def add_fixed_point(self, words: Integers) -> None:
        """Add a fixed-point number, `abi.SUM_WORDS` int64 side by side."""
        self._not_finite += float(words[abi.LIMBS :].view(np.float64)[0])
        e = abi.UNIT
        for limb in words[: abi.LIMBS].tolist():
            if limb:
                self._bins[e] += limb
            e += 32

    def merge(self, other: ExactSum) -> None:
        """Add all numbers of `other`."""
        self._bins.update(other._bins)
        self._not_finite += other._not_finite

    def partials(self) -> list[float]:
        """Float64 numbers, the largest first, whose exact sum this is."""
        partials, left = [], self.fraction()
        while left:
            nearest = min(max(rounded(left), -sys.float_info.max), sys.float_info.max)
            partials.append(nearest)
            left -= Fraction(nearest)
        return partials if self.finite else [*partials, self._not_finite]

    @property
    def finite(self) -> bool:
        """Whether no infinity and no NaN was added."""
        return self._not_finite == 0

    def fraction(self) -> Fraction:
        """The exact sum of the finite numbers."""
        least = min(self._bins, default=0)
        units = sum(mantissas << (e - least) for e, mantissas in self._bins.items())
        return units * Fraction(2) ** least

    def over(self, divisor: Fraction) -> float:
        """The sum divided by `divisor`, rounded once; 0 where the divisor is 0."""
        if divisor == 0:
            return 0.0
        if self.finite:
            return rounded(self.fraction() / divisor)
        return self._not_finite if divisor > 0 else -self._not_finite

    def share_of(self, total: ExactSum) -> float | None:
        """The sum divided by another; None where either is not finite, or the other is 0."""
        if not (self.finite and total.finite and total.fraction()):
            return None
        return self.over(total.fraction())

    def __float__(self) -> float:
        return self.over(Fraction(1))


class LossSums:
    """The exact sums of a loss over labels that count: what states of it are made of.

    With squares they are sum(w * l), sum(w), sum(w * w) and sum(l * l * w), else the first two.
    Each w * l and w * w is rounded to float64 once, l * l * w in this order, after each product; no
    sum is. A loss of weight 0 counts as 0, even where it is inf or NaN.

    Args:
        bounds: For each k that hits are wanted for, the rank below which a label is one.
        squares: Whether sums of squares are wanted, too.

    Attributes:
        bounds, squares: The same.
        count: Labels that were added, whatever their weight.
        sums: The exact sums `wl`, `w`, `ww`, `wll`, as wanted.
        hits: For each k, how many hits there were, and the exact sum of their weights.
    """

    def __init__(self, bounds: Mapping[int, int] | None = None, *, squares: bool = False) -> None:
        self.bounds, self.squares, self.count = dict(bounds or {}), squares, 0
        self.sums = {name: ExactSum() for name in SUMS[: None if squares else 2]}
        self.hits = {k: (0, ExactSum()) for k in self.bounds}

    def add(self, l: npt.NDArray[Any], w: Floats | None, ranks: Integers | None) -> None:
        """Add labels that count: losses, weights if not all are 1, ranks if hits are wanted."""
        l = l.astype(np.float64, copy=False)
        right = {} if ranks is None else {k: ranks < bound for k, bound in self.bounds.items()}
        self._add_counts(l.size, {k: int(r.sum()) for k, r in right.items()}, w is not None)
        with np.errstate(all="ignore"):
            if w is None:
                self.sums["wl"].add(l)
                if self.squares:
                    self.sums["wll"].add(l * l)
                return
            self.sums["w"].add(w)
            self.sums["wl"].add(np.where(w == 0, 0.0, w * l))
            if self.squares:
                self.sums["ww"].add(w * w)
                self.sums["wll"].add(np.where(w == 0, 0.0, l * l * w))
        for k, (_, weight) in self.hits.items():
            weight.add(w[right[k]])

    def fixed_point(self) -> Integers:
        """What `exact_sums` adds to, without the scratch: see `abi.EXACT`."""
        many = len(self.bounds)
        words = np.zeros(abi.EXACT + 2 * many + (abi.SUMMANDS + many) * abi.SUM_WORDS, np.int64)
        words[1 : abi.EXACT + many] = (self.squares, many, *self.bounds.values())
        return words

    def add_fixed_point(self, given: Collection[Integers], kept: int, *, weighted: bool) -> None:
        """Add what `exact_sums` has added to some `fixed_point()`, for so many labels."""
        many, first = len(self.bounds), abi.EXACT + len(self.bounds)
        places = [*range(len(self.sums)), *range(abi.SUMMANDS, abi.SUMMANDS + many)]
        sums = [*self.sums.values(), *(weight for _, weight in self.hits.values())]
        self._add_counts(kept, {}, weighted)
        for words in given:
            hits = words[first : first + many].tolist()
            self._add_counts(0, dict(zip(self.bounds, hits, strict=True)), weighted)
            for place, total in zip(places, sums, strict=True):
                start = first + many + place * abi.SUM_WORDS
                total.add_fixed_point(words[start : start + abi.SUM_WORDS])

    def merge(self, other: LossSums) -> None:
        """Add all labels of `other`, which has the same bounds and sums."""
        self.count += other.count
        for name, own in self.sums.items():
            own.merge(other.sums[name])
        for k, (many, weight) in self.hits.items():
            more, theirs = other.hits[k]
            weight.merge(theirs)
            self.hits[k] = many + more, weight

    def _add_counts(self, kept: int, hits: Mapping[int, int], weighted: bool) -> None:
        self.count += kept
        for k, many in hits.items():
            before, weight = self.hits[k]
            self.hits[k] = before + many, weight
            if not weighted:
                weight._add_one(float(many))
        if not weighted:
            self.sums["w"]._add_one(float(kept))
            if self.squares:
                self.sums["ww"]._add_one(float(kept))


class GroupedSums:
    """An exact sum for each group of numbers; groups are whole numbers from 0 on.

    To store or send them, write `sums()` as a list of partials for each group; adding each list to
    its group of a new `GroupedSums` gives the same sums again.

    Attributes:
        finite: Whether no infinity and no NaN was added; if not, `sums` are of no use.
    """

    def __init__(self) -> None:
        self.finite = True
        self._bins: Counter[int] = Counter()  # group and exponent -> sum of mantissas

    def add(self, groups: Integers, x: Floats) -> None:
        """Add the numbers x to their groups, both of shape [n]."""
        self.finite &= bool(np.isfinite(x).all())
        for here in chunks(x.size if self.finite else 0):
            mantissas, exponents = np.frexp(x[here])
            self._bins.update(_binned(groups[here] * _EXPONENTS + (exponents - _LEAST), mantissas))

    def merge(self, other: GroupedSums) -> None:
        """Add all numbers of `other`."""
        self.finite &= other.finite
        self._bins.update(other._bins)

    def sums(self) -> dict[int, ExactSum]:
        """The sum of each group in which there was a number other than 0, in order."""
        sums: dict[int, ExactSum] = {}
        for key, mantissas in sorted(self._bins.items()):
            group, e = divmod(key, _EXPONENTS)
            sums.setdefault(group, ExactSum())._bins[e + _LEAST] = mantissas
        return sums


class Moments:
    """Mean and standard error of losses, each with its weight if weights are given.

    Without weights the mean is m = sum(l) / n and the standard error sd(l) / sqrt(n), sd with n - 1
    as in R. With weights they are m = sum(w * l) / sum(w) and sqrt(sum(w^2 * (l - m)^2)) / sum(w).
    Each w * l is rounded to float64; no sum is.

    The state is `count` and the partials of each of `sums`: plain numbers, to be written as
    `{"count": moments.count} | {name: s.partials() for name, s in moments.sums.items()}`, and set
    again in a new `Moments`.

    Args:
        weighted: Whether `add` is given weights.

    Attributes:
        weighted: The same.
        count: n.
        sums: The exact sums `wl` and `wlwl`, with weights also `w`, `ww` and `wwl`.
    """

    def __init__(self, *, weighted: bool = False) -> None:
        self.weighted, self.count = weighted, 0
        names = ("wl", "wlwl", "w", "ww", "wwl") if weighted else ("wl", "wlwl")
        self.sums = {name: ExactSum() for name in names}

    def add(self, l: Floats, w: Floats | None = None) -> None:
        """Add losses, shape [n]; a loss of weight 0 counts as 0, even where it is inf or NaN."""
        check_weights(w, given=self.weighted)
        self.count += l.size
        with np.errstate(all="ignore"):
            for here in chunks(l.size):
                if w is None:
                    wl = l[here]
                else:
                    some = w[here]
                    wl = np.where(some == 0, 0.0, l[here] * some)
                    self.sums["w"].add(some)
                    self._add_products("ww", some, some)
                    self._add_products("wwl", some, wl)
                self.sums["wl"].add(wl)
                self._add_products("wlwl", wl, wl)

    def _add_products(self, name: str, x: Floats, y: Floats) -> None:
        """Add x * y with what its rounding takes away: in a variance nearly all may cancel."""
        product, error = _two_product(x, y)
        self.sums[name].add(product)
        if error.any():
            self.sums[name].add(error)

    def merge(self, other: Moments) -> None:
        """Add all losses of `other`."""
        if other.weighted != self.weighted:
            raise TypeError("moments with weights and moments without do not merge")
        self.count += other.count
        for name, own in self.sums.items():
            own.merge(other.sums[name])

    @property
    def total_weight(self) -> Fraction:
        """sum(w), or n without weights; weights that are not finite are left out."""
        return self.sums["w"].fraction() if self.weighted else Fraction(self.count)

    @property
    def weight(self) -> float:
        """sum(w), rounded once; n without weights."""
        return float(self.sums["w"] if self.weighted else self.count)

    @property
    def mean(self) -> float:
        """sum(w * l) / sum(w), rounded once; 0 where nothing was added or the weights cancel."""
        if self.weighted and not self.sums["w"].finite:
            return math.nan
        return self.sums["wl"].over(self.total_weight)

    @property
    def standard_error(self) -> float | None:
        """The standard error of the mean; None where it is not defined, or beyond the range."""
        total = self.total_weight
        if self.count < 2 or total == 0 or not all(s.finite for s in self.sums.values()):
            return None
        fractions = {name: s.fraction() for name, s in self.sums.items()}
        wl, wlwl = fractions["wl"], fractions["wlwl"]
        ww, wwl = fractions.get("ww", total), fractions.get("wwl", wl)
        m = wl / total
        square = (wlwl - 2 * m * wwl + m * m * ww) / (total * total)
        if not self.weighted:
            square *= Fraction(self.count, self.count - 1)
        return math.sqrt(max(0.0, rounded(square)))


def check_weights(w: Floats | None, *, given: bool) -> None:
    """TypeError where weights are missing in one call of `add` and given in another."""
    if (w is not None) != given:
        raise TypeError(f"w must be {'given' if given else 'None'} in every call of add")


def chunks(size: int) -> Iterator[slice]:
    """Slices of at most `_CHUNK` positions that cover `size` of them."""
    return (slice(start, start + _CHUNK) for start in range(0, size, _CHUNK))


def rounded(x: Fraction) -> float:
    """The float64 nearest to `x`; infinite beyond the range."""
    try:
        return float(x)
    except OverflowError:
        return math.inf if x > 0 else -math.inf


# ---- float64 as integers ------------------------------------------------------------------------


def _binned(keys: Integers, mantissas: Floats) -> dict[int, int]:
    """For each key, less 53, the sum of the mantissas (below 1) that have it, times 2**53.

    Mantissas are cut into two halves of 27 bits or fewer; float64 sums of those are exact.
    """
    if not keys.size:
        return {}
    least = int(keys.min())
    if int(keys.max()) - least < 4 * _CHUNK:
        bins = keys - least
        names: Integers = np.arange(int(bins.max()) + 1) + least
    else:
        names, bins = np.unique(keys, return_inverse=True)
    scaled = mantissas * 2.0 ** (53 - _HALF)
    high = np.rint(scaled)
    high_sums = np.bincount(bins, high)
    low_sums = np.bincount(bins, (scaled - high) * 2.0**_HALF)
    used = np.flatnonzero((high_sums != 0) | (low_sums != 0))
    return {
        int(names[k]) - 53: (int(high_sums[k]) << _HALF) + int(low_sums[k]) for k in used.tolist()
    }


def _two_product(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The product rounded, and what rounding took from it (Dekker 1971), down to 5e-324."""
    product = x * y
    x_high, y_high = _upper_half(x), _upper_half(y)
    x_low, y_low = x - x_high, y - y_high
    error = ((x_high * y_high - product) + x_high * y_low + x_low * y_high) + x_low * y_low
    return product, error


def _upper_half(x: Floats) -> Floats:
    """x rounded to the upper 26 bits of its mantissa; what is left has 26 bits, too."""
    return ((x.view(np.int64) + (1 << (_HALF - 1))) & -(1 << _HALF)).view(np.float64)
