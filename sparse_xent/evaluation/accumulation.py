"""Sums without rounding: the same bits for any cut, order or shard, rounded once in the result.

A float64 is an integer times a power of two, and so is a product of float64s. An `ExactSum` keeps
one Python integer for each power of two that it met; adding and merging are additions of integers,
so no order of them can matter. Means, standard errors and frequencies are quotients of such sums,
worked out as fractions and rounded to the nearest float64 at the end.

Notation: l losses, w weights, n how many, m the mean; sum_ww is the sum of w * w, and so on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Positions worked on at once: what is made of them (some twelve arrays) stays in a core's cache.
# Far below 2**26, up to which the sums of half mantissas in `_binned` are exact.
_CHUNK = 1 << 15
_HALF = 27  # bits in the lower half of a mantissa
_SPLITTER = float((1 << _HALF) + 1)  # Veltkamp's, for float64


class ExactSum:
    """The exact sum of float64 numbers, or of products of them.

    Infinities and NaN are counted apart and decide the result as IEEE addition would.

    Example:
        >>> total = ExactSum()
        >>> total.add(np.array([1e100, 1.0, -1e100]))
        >>> float(total)
        1.0
    """

    __slots__ = ("_bins", "_infinite")

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()  # exponent e -> sum of mantissas, in units of 2**e
        self._infinite: Counter[str] = Counter()  # "inf", "-inf", "nan" -> how many

    def add(self, *factors: Floats) -> None:
        """Add products, position by position: `add(w, l, l)` adds sum(w * l * l)."""
        for here in _chunks(factors[0].size):
            chunk = [f[here] for f in factors]
            if not all(np.isfinite(f).all() for f in chunk):
                finite = np.logical_and.reduce([np.isfinite(f) for f in chunk])
                self._infinite.update(map(str, _product_of_signs(*(f[~finite] for f in chunk))))
                chunk = [f[finite] for f in chunk]
            for terms, exponents in _products(*chunk):
                self._bins.update(_binned(exponents, terms))

    def merge(self, other: ExactSum) -> None:
        """Add what `other` has added."""
        self._bins.update(other._bins)
        self._infinite.update(other._infinite)

    @property
    def finite(self) -> bool:
        """Whether no infinity and no NaN was added."""
        return not self._infinite

    def fraction(self) -> Fraction:
        """The sum of the finite terms, exactly."""
        if not self._bins:
            return Fraction(0)
        least = min(self._bins)
        units = sum(mantissas << (e - least) for e, mantissas in self._bins.items())
        return units * Fraction(2) ** least

    def over(self, divisor: Fraction) -> float:
        """The sum divided by `divisor`, rounded once; 0 where the divisor is 0."""
        if divisor == 0:
            return 0.0
        if self.finite:
            return rounded(self.fraction() / divisor)
        only = set(self._infinite)
        infinity = float(only.pop()) if len(only) == 1 else math.nan
        return infinity if divisor > 0 else -infinity

    def __float__(self) -> float:
        return self.over(Fraction(1))


class Moments:
    """Mean and standard error of losses, each with its weight if weights are given.

    Without weights the mean is sum(l) / n and the standard error sd(l) / sqrt(n), sd with n - 1 as
    in R. With weights they are m = sum(w * l) / sum(w) and sqrt(sum(w^2 * (l - m)^2)) / sum(w).

    Args:
        weighted: Whether `add` is given weights.
    """

    def __init__(self, *, weighted: bool = False) -> None:
        self.weighted = weighted
        self.count = 0
        self._sum_l = ExactSum()
        self._sum_ll = ExactSum()  # with weights: of w * w * l * l
        self._sum_w, self._sum_ww, self._sum_wwl = ExactSum(), ExactSum(), ExactSum()

    def add(self, l: Floats, w: Floats | None = None) -> None:
        """Add losses, shape [n]; a loss of weight 0 counts as 0, even where it is inf or NaN."""
        if (w is not None) != self.weighted:
            raise TypeError(
                f"w must be {'given' if self.weighted else 'None'} in every call of add"
            )
        self.count += l.size
        if w is None:
            self._sum_l.add(l)
            self._sum_ll.add(l, l)
            return
        l = np.where(w == 0, 0.0, l)
        self._sum_w.add(w)
        self._sum_l.add(w, l)
        self._sum_ww.add(w, w)
        self._sum_wwl.add(w, w, l)
        self._sum_ll.add(w, w, l, l)

    def merge(self, other: Moments) -> None:
        """Add what `other` has added."""
        if other.weighted != self.weighted:
            raise TypeError("moments with weights and moments without do not merge")
        self.count += other.count
        for name, own in vars(self).items():
            if isinstance(own, ExactSum):
                own.merge(getattr(other, name))

    @property
    def sum(self) -> ExactSum:
        """The exact sum of w * l."""
        return self._sum_l

    @property
    def total_weight(self) -> Fraction:
        """sum(w), or n without weights; weights that are not finite are left out."""
        return self._sum_w.fraction() if self.weighted else Fraction(self.count)

    @property
    def weight(self) -> float:
        """sum(w), rounded once; n without weights."""
        return float(self._sum_w) if self.weighted else float(self.count)

    @property
    def mean(self) -> float:
        """sum(w * l) / sum(w), rounded once; 0 where nothing was added or the weights cancel."""
        return self._sum_l.over(self.total_weight) if self._sum_w.finite else math.nan

    @property
    def standard_error(self) -> float | None:
        """The standard error of the mean, rounded once; None where it is not defined."""
        sums = self._sum_l, self._sum_ll, self._sum_w, self._sum_ww, self._sum_wwl
        if not all(total.finite for total in sums):
            return None
        l, ll, w, ww, wwl = (total.fraction() for total in sums)
        if not self.weighted:
            n = self.count
            return root((ll - l * l / n) / (n - 1) / n) if n > 1 else None
        if self.count < 2 or w == 0:
            return None
        m = l / w
        return root((ll - 2 * m * wwl + m * m * ww) / (w * w))


class Part:
    """Some of the losses: how many, and which share of the total they are.

    Example:
        >>> everything, part = Moments(), Part()
        >>> everything.add(np.array([1.0, 3.0]))
        >>> part.add(np.array([3.0]))
        >>> part.count, part.share(everything)
        (1, 0.75)
    """

    def __init__(self) -> None:
        self.count = 0
        self._sum_l = ExactSum()

    def add(self, l: Floats, w: Floats | None = None) -> None:
        """Add losses, shape [n], and their weights; a weight of 0 adds none."""
        if w is not None:
            l, w = l[w != 0], w[w != 0]
        self.count += l.size
        self._sum_l.add(l, *([] if w is None else [w]))

    def merge(self, other: Part) -> None:
        """Add what `other` has added."""
        self.count += other.count
        self._sum_l.merge(other._sum_l)

    def share(self, moments: Moments) -> float | None:
        """sum(w * l) of these over that of all; None where the total is 0 or not finite."""
        total = moments.sum
        if not (total.finite and self._sum_l.finite) or not total.fraction():
            return None
        return self._sum_l.over(total.fraction())


class Frequencies:
    """How often each class was the label, each time with its weight if weights are given.

    Args:
        classes: The number of classes C; labels are 0..C-1.
        weighted: Whether `add` is given weights.
    """

    def __init__(self, classes: int, *, weighted: bool = False) -> None:
        self.counts: Integers = np.zeros(classes, np.int64)
        self.weighted = weighted
        self._bins: Counter[int] = Counter()  # class and exponent -> sum of mantissas
        self._finite = True

    def add(self, y: Integers, w: Floats | None = None) -> None:
        """Add labels, shape [n], and their weights."""
        if (w is not None) != self.weighted:
            raise TypeError(
                f"w must be {'given' if self.weighted else 'None'} in every call of add"
            )
        self.counts += np.bincount(y, minlength=self.counts.size)
        if w is None:
            return
        self._finite &= bool(np.isfinite(w).all())
        if self._finite:
            for here in _chunks(y.size):
                [(terms, exponents)] = _products(w[here])
                self._bins.update(_binned(y[here] * _EXPONENTS + exponents - _LEAST, terms))

    def merge(self, other: Frequencies) -> None:
        """Add what `other` has added."""
        if (other.weighted, other.counts.size) != (self.weighted, self.counts.size):
            raise TypeError("frequencies of unlike classes or weighting do not merge")
        self.counts += other.counts
        self._bins.update(other._bins)
        self._finite &= other._finite

    def totals(self) -> dict[int, Fraction]:
        """The classes seen, in order, and the exact total of the weights of each."""
        if not self.weighted:
            return {int(c): Fraction(int(self.counts[c])) for c in np.flatnonzero(self.counts)}
        totals: dict[int, Fraction] = {}
        for key, mantissas in sorted(self._bins.items()):
            c, e = divmod(key, _EXPONENTS)
            totals[c] = totals.get(c, Fraction(0)) + mantissas * Fraction(2) ** (e + _LEAST)
        return totals

    @property
    def entropy(self) -> float | None:
        """The mean loss, in nats, of whoever always predicts just these frequencies.

        0 where nothing was added; None where a class's weights are negative or not finite.
        """
        totals = list(self.totals().values())
        everything = sum(totals, Fraction(0))
        if not self._finite or any(t < 0 for t in totals):
            return None
        shares = [rounded(t / everything) for t in totals if t > 0]
        return abs(math.fsum(-p * math.log(p) for p in shares if p > 0))


def rounded(x: Fraction) -> float:
    """The float64 nearest to `x`; infinite beyond the range."""
    try:
        return float(x)
    except OverflowError:
        return math.inf if x > 0 else -math.inf


def root(x: Fraction) -> float:
    """The float64 nearest to the square root of `x` >= 0.

    The root is first cut to an integer of at least 55 bits whose last bit says whether anything was
    cut off ("round to odd"), so that the one rounding that follows is right.
    """
    shift = (x.numerator.bit_length() - x.denominator.bit_length() - 110) // 2
    scaled = x / Fraction(4) ** shift
    floor = scaled.numerator // scaled.denominator
    whole = math.isqrt(floor)
    odd = whole | (whole * whole != scaled)
    return rounded(odd * Fraction(2) ** shift)


# ---- float64 as integers ------------------------------------------------------------------------

_LEAST = -1200  # below the least exponent of a float64's mantissa
_EXPONENTS = 1 << 12  # the exponents of one class's bins


def _chunks(size: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, size, _CHUNK))


def _products(*factors: Floats) -> Iterator[tuple[Floats, Integers]]:
    """Terms t and exponents e of which the sum of t * 2**e is the product of `factors`, exactly.

    Mantissas in [0.5, 1) are multiplied, so that nothing can underflow: after four factors the last
    bit that can be set is 2**-212.
    """
    first, exponents = _mantissas(factors[0])
    if len(factors) == 1:
        yield first, exponents
        return
    expansion = [first]
    for factor in factors[1:]:
        m, e = _mantissas(factor)
        expansion = [part for term in expansion for part in _two_product(term, m)]
        expansion = [term for term in expansion if term.any()]
        exponents = exponents + e
    for term in expansion:
        m, e = _mantissas(term)
        yield m, e + exponents


def _mantissas(x: Floats) -> tuple[Floats, Integers]:
    m, e = np.frexp(x)
    return m, e.astype(np.int64)


def _two_product(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """The product rounded, and what rounding took from it: exact together (Dekker 1971)."""
    p = a * b
    a_high, a_low = _split(a)
    b_high, b_low = _split(b)
    return p, a_low * b_low - (((p - a_high * b_high) - a_low * b_high) - a_high * b_low)


def _split(a: Floats) -> tuple[Floats, Floats]:
    scaled = _SPLITTER * a
    high = scaled - (scaled - a)
    return high, a - high


def _binned(keys: Integers, mantissas: Floats) -> dict[int, int]:
    """For each key, less 53, the sum of the mantissas (below 1) that have it, times 2**53.

    Mantissas are cut into two halves of 27 bits or fewer; float64 sums of those are exact.
    """
    if not keys.size:
        return {}
    least = int(keys.min())
    if int(keys.max()) - least < 4 * _CHUNK:
        bins = keys - least
        names: NDArray[np.int64] = np.arange(int(bins.max()) + 1) + least
    else:
        names, bins = np.unique(keys, return_inverse=True)
    scaled = mantissas * 2.0 ** (53 - _HALF)
    high = np.rint(scaled)
    high_sums = np.bincount(bins, high)
    low_sums = np.bincount(bins, (scaled - high) * 2.0**_HALF)
    met = np.flatnonzero((high_sums != 0) | (low_sums != 0))
    return {
        int(names[k]) - 53: (int(high_sums[k]) << _HALF) + int(low_sums[k]) for k in met.tolist()
    }


def _product_of_signs(*factors: Floats) -> list[float]:
    """Products that have a factor inf or NaN: the size of the finite factors does not matter."""
    with np.errstate(invalid="ignore"):
        signs = [np.where(np.isfinite(f), np.sign(f), f) for f in factors]
        product: Floats = np.multiply.reduce(signs)
    return [float(p) for p in product]
