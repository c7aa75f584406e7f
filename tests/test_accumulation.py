"""Sums that are exact: held against Python's fractions, and the same bits for any cut or order."""

import math
import random
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sparse_xent.evaluation import accumulation
from sparse_xent.evaluation.accumulation import ExactSum, Frequencies, Moments, Part, root, rounded

# Of any size: subnormal, huge, whole, and short ones that meet on one exponent.
NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(0, 20),
    st.floats(0, 20, width=32),
    st.integers(-9, 9).map(float),
)
LOSSES = st.lists(NUMBERS, max_size=40)
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=25)


def array(values):
    return np.array(values, np.float64)


def exact(values):
    return [Fraction(v) for v in values]


def moments(l, w=None):
    sums = Moments(weighted=w is not None)
    sums.add(array(l), None if w is None else array(w))
    return sums


def told(sums):
    return sums.count, sums.weight, sums.mean, sums.standard_error


def cut(length, seed):
    """A random order of the positions, in random parts."""
    rng = random.Random(seed)
    order = rng.sample(range(length), length)
    edges = sorted(rng.choices(range(length + 1), k=4))
    return [order[a:b] for a, b in pairwise([0, *edges, length])]


def is_nearest_root(r, x):
    """Whether no float64 is nearer to the square root of the fraction x than r."""
    low = (Fraction(r) + Fraction(math.nextafter(r, 0.0))) / 2
    high = Fraction(r) + Fraction(math.ulp(r)) / 2  # the next float64 up may be infinite
    return low * low <= x <= high * high


# --- one sum --------------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
@given(data=st.data())
def test_a_sum_of_products_is_the_sum_of_fractions(degree, data):
    rows = data.draw(st.lists(st.tuples(*[NUMBERS] * degree), max_size=25))
    total = ExactSum()
    total.add(*(array([row[k] for row in rows]) for k in range(degree)))
    assert total.fraction() == sum((math.prod(exact(row)) for row in rows), Fraction(0))


def test_what_float64_loses_is_kept():
    total = ExactSum()
    total.add(array([1e300, 1.0, -1e300, 5e-324]))
    assert total.fraction() == 1 + Fraction(5e-324)
    total = ExactSum()
    total.add(array([1e-200, -1e-200]), array([1e-200, 1e-200]))  # each underflows as a float
    assert total.fraction() == 0
    total = ExactSum()
    total.add(array([1e-300]), array([1e-300]))
    assert total.fraction() == Fraction(1e-300) ** 2


def test_more_than_one_chunk_adds_up():
    rng = np.random.default_rng(0)
    l = rng.exponential(size=2 * accumulation._CHUNK + 7)
    total = ExactSum()
    total.add(l, l)
    assert total.fraction() == sum(v * v for v in map(Fraction, l.tolist()))


def test_as_many_equal_numbers_as_a_chunk_holds_add_up():
    worst = math.nextafter(1.0, 0.0)  # every bit of its mantissa is set
    total = ExactSum()
    total.add(np.full(accumulation._CHUNK, worst))
    assert total.fraction() == accumulation._CHUNK * Fraction(worst)


@given(values=LOSSES)
def test_a_sum_is_rounded_once(values):
    total = ExactSum()
    total.add(array(values))
    assert float(total) == rounded(sum(exact(values), Fraction(0)))


def test_beyond_the_range_is_infinite():
    total = ExactSum()
    total.add(array([1e308, 1e308]))
    assert float(total) == math.inf
    total.add(array([-1e308]))
    assert float(total) == 1e308  # the way there does not matter
    assert rounded(Fraction(-(10**400))) == -math.inf


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, math.inf], math.inf),
        ([-math.inf, 1e308], -math.inf),
        ([math.inf, -math.inf], math.nan),
        ([math.nan, 1.0], math.nan),
        ([math.inf, math.nan], math.nan),
        ([math.inf, math.inf], math.inf),
    ],
)
def test_infinity_and_nan_decide_the_sum(values, expected):
    for order in (values, values[::-1]):
        one, other = ExactSum(), ExactSum()
        one.add(array(order[:1]))
        other.add(array(order[1:]))
        one.merge(other)
        assert float(one) == expected or (math.isnan(float(one)) and math.isnan(expected))
        assert not one.finite


def test_a_product_with_infinity_has_its_sign_whatever_the_size_of_the_rest():
    total = ExactSum()
    total.add(array([1e-300]), array([-1e-300]), array([math.inf]))
    assert float(total) == -math.inf
    total = ExactSum()
    total.add(array([0.0]), array([math.inf]))
    assert math.isnan(float(total))


@given(values=LOSSES, seed=st.integers(0, 999))
def test_any_cut_and_order_gives_the_same_sums(values, seed):
    whole, merged = ExactSum(), ExactSum()
    whole.add(array(values), array(values))
    for part in cut(len(values), seed):
        shard = ExactSum()
        shard.add(array(values)[part], array(values)[part])
        merged.merge(shard)
    assert merged.fraction() == whole.fraction()


# --- means and standard errors --------------------------------------------------------------------


@given(l=LOSSES)
@example(l=[1e-5, 1e5] * 5)
@example(l=[0.1] * 7)  # a spread of 0, where sums of squares in float64 give 1e-17 or NaN
def test_mean_and_standard_error_are_the_nearest_float64(l):
    got, n = moments(l), len(l)
    assert (got.count, got.weight) == (n, n)
    if n == 0:
        assert (got.mean, got.standard_error) == (0.0, None)
        return
    m = sum(exact(l)) / n
    assert got.mean == rounded(m)
    if n == 1:
        assert got.standard_error is None
        return
    variance = sum((v - m) ** 2 for v in exact(l)) / (n - 1) / n
    assert is_nearest_root(got.standard_error, variance)


@given(pairs=PAIRS)
@example(pairs=[(1e-200, 1e-200), (3e-200, 2e-200)])  # squares underflow
@example(pairs=[(1.0, 1.0), (-1.0, 5.0)])  # weights that cancel
def test_weighted_mean_and_standard_error_are_the_nearest_float64(pairs):
    w, l = ([p[k] for p in pairs] for k in (0, 1))
    got = moments(l, w)
    W, L = exact(w), exact(l)
    total = sum(W, Fraction(0))
    assert got.weight == rounded(total)
    if total == 0:
        assert (got.mean, got.standard_error) == (0.0, None)
        return
    m = sum(a * b for a, b in zip(W, L, strict=True)) / total
    assert got.mean == rounded(m)
    if len(l) < 2:
        assert got.standard_error is None
        return
    square = sum(a * a * (b - m) ** 2 for a, b in zip(W, L, strict=True)) / (total * total)
    assert is_nearest_root(got.standard_error, square)


@pytest.mark.parametrize("weighted", [False, True])
@given(pairs=PAIRS, seed=st.integers(0, 999))
def test_any_cut_and_order_gives_the_same_moments(weighted, pairs, seed):
    l, w = (array([p[k] for p in pairs]) for k in (0, 1))
    merged = Moments(weighted=weighted)
    for part in cut(len(pairs), seed):
        merged.merge(moments(l[part], w[part] if weighted else None))
    assert told(merged) == told(moments(l, w if weighted else None))


def test_standard_errors_of_a_hand_worked_case():
    assert moments([1.0, 2.0, 4.0]).standard_error == pytest.approx(math.sqrt(7 / 3 / 3), rel=1e-15)
    # m = (1*1 + 2*3) / 3 = 7/3; sum w^2 (l-m)^2 = 16/9 + 4*4/9 = 32/9; sqrt of it / 3
    weighted = moments([1.0, 3.0], [1.0, 2.0])
    assert weighted.mean == 7 / 3
    assert weighted.standard_error == pytest.approx(math.sqrt(32 / 9) / 3, rel=1e-15)


def test_a_loss_of_weight_zero_counts_as_zero_even_where_it_is_not_finite():
    got = moments([math.nan, math.inf, 2.0], [0.0, 0.0, 0.5])
    assert (got.count, got.weight, got.mean) == (3, 0.5, 2.0)


@pytest.mark.parametrize(
    ("l", "w", "mean"),
    [
        ([1.0, math.inf], None, math.inf),
        ([1.0, math.nan], None, math.nan),
        ([1.0, math.inf], [1.0, 2.0], math.inf),
        ([1.0, 2.0], [1.0, math.nan], math.nan),
        ([1.0, 2.0], [1.0, math.inf], math.nan),
    ],
)
def test_a_mean_that_is_not_finite_has_no_standard_error(l, w, mean):
    got = moments(l, w)
    assert got.mean == mean or (math.isnan(got.mean) and math.isnan(mean))
    assert got.standard_error is None


def test_weights_given_and_not_given_do_not_mix():
    with pytest.raises(TypeError, match="w must be None"):
        moments([1.0]).add(array([1.0]), array([1.0]))
    with pytest.raises(TypeError, match="w must be given"):
        moments([1.0], [1.0]).add(array([1.0]))
    with pytest.raises(TypeError, match="do not merge"):
        moments([1.0]).merge(moments([1.0], [1.0]))


@given(x=st.fractions(min_value=0))
@example(x=Fraction(2))
@example(x=Fraction(5e-324))
@example(x=Fraction(1, 3))
@example(x=Fraction((2**53 + 1) ** 2))  # its root lies halfway between two float64
@example(x=Fraction((2**53 + 1) ** 2 + 1))
@example(x=Fraction((2**53 + 3) ** 2 - 1))
def test_a_root_is_the_nearest_float64(x):
    assert is_nearest_root(root(x), x)


def test_a_root_on_the_halfway_point_goes_to_the_even_neighbour():
    assert root(Fraction((2**53 + 1) ** 2)) == 2.0**53
    assert root(Fraction((2**53 + 3) ** 2)) == 2.0**53 + 4


# --- frequencies ----------------------------------------------------------------------------------


def frequencies(y, w=None, classes=5):
    counted = Frequencies(classes, weighted=w is not None)
    counted.add(np.array(y, np.int64), None if w is None else array(w))
    return counted


LABELLED = st.lists(st.tuples(st.integers(0, 4), NUMBERS), max_size=25)


@given(pairs=LABELLED, seed=st.integers(0, 999))
def test_the_weights_of_each_class_are_summed_exactly_in_any_order(pairs, seed):
    y, w = np.array([p[0] for p in pairs], np.int64), array([p[1] for p in pairs])
    merged = Frequencies(5, weighted=True)
    for part in cut(len(pairs), seed):
        merged.merge(frequencies(y[part], w[part]))
    expected = {c: sum((Fraction(v) for k, v in pairs if k == c), Fraction(0)) for c in range(5)}
    got = merged.totals()
    assert {c: got.get(c, Fraction(0)) for c in range(5)} == expected
    assert merged.entropy == frequencies(y, w).entropy


def test_entropy_is_that_of_the_frequencies():
    assert frequencies([0, 1, 2, 3]).entropy == pytest.approx(math.log(4), rel=1e-15)
    assert frequencies([3, 3, 3]).entropy == 0.0
    assert frequencies([]).entropy == 0.0
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert frequencies([0, 1, 1, 1]).entropy == pytest.approx(expected, rel=1e-15)
    assert frequencies([0, 1], [0.25, 0.75]).entropy == pytest.approx(expected, rel=1e-15)


def test_entropy_is_not_defined_for_negative_or_infinite_weights():
    assert frequencies([0, 1], [-1.0, 2.0]).entropy is None
    assert frequencies([0, 1], [math.inf, 2.0]).entropy is None
    assert frequencies([0, 0, 1], [-1.0, 2.0, 1.0]).entropy == pytest.approx(math.log(2))


def test_many_classes_at_many_scales_are_kept_apart():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 100_000, 5000)
    w = rng.random(5000) * 2.0 ** rng.integers(-1000, 1000, 5000)
    expected = {}
    for c, v in zip(y.tolist(), w.tolist(), strict=True):
        expected[c] = expected.get(c, Fraction(0)) + Fraction(v)
    assert frequencies(y, w, 100_000).totals() == expected


def test_unlike_frequencies_do_not_merge():
    with pytest.raises(TypeError, match="do not merge"):
        frequencies([0]).merge(frequencies([0], [1.0]))
    with pytest.raises(TypeError, match="do not merge"):
        frequencies([0]).merge(frequencies([0], classes=6))
    with pytest.raises(TypeError, match="w must be None"):
        frequencies([0]).add(np.array([0]), array([1.0]))


# --- some of the losses ---------------------------------------------------------------------------


@given(PAIRS, st.integers(0, 99), st.booleans())
def test_a_part_is_its_exact_share_for_any_cut(pairs, seed, weighted):
    l, w = array([a for a, _ in pairs]), array([b for _, b in pairs])
    everything, part, merged = Moments(weighted=weighted), Part(), Part()
    everything.add(l, w if weighted else None)
    some = l > 1
    part.add(l[some], w[some] if weighted else None)
    for at in cut(len(pairs), seed):
        piece, chosen = Part(), [k for k in at if some[k]]
        piece.add(l[chosen], w[chosen] if weighted else None)
        merged.merge(piece)
    assert merged.share(everything) == part.share(everything)
    assert merged.count == part.count == int((some & ((w != 0) | (not weighted))).sum())
    factors = exact(w) if weighted else [Fraction(1)] * len(pairs)
    terms = [a * b for a, b in zip(exact(l), factors, strict=True)]
    total = sum(terms)
    inside = sum(t for t, chosen in zip(terms, some, strict=True) if chosen)
    assert part.share(everything) == (rounded(Fraction(inside) / total) if total else None)


def test_a_part_of_what_is_not_finite_has_no_share():
    everything, part = Moments(), Part()
    everything.add(array([1.0, math.inf]))
    part.add(array([1.0]))
    assert part.share(everything) is None
