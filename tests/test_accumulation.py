"""Sums that are exact: held against Python's fractions, and the same bits for any cut or order."""

import json
import math
import random
from fractions import Fraction
from itertools import pairwise

import inside
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sparse_xent import accumulate
from sparse_xent.accumulate import ExactSum, GroupedSums, Moments, rounded
from sparse_xent.evaluation.frequencies import Frequencies

# Of any size: subnormal, huge, whole, and short ones that meet on one exponent.
NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(0, 20),
    st.floats(0, 20, width=32),
    st.integers(-9, 9).map(float),
)
# Of a size whose squares are numbers, too.
USUAL = st.one_of(
    st.floats(1e-60, 1e60),
    st.floats(-1e60, -1e-60),
    st.floats(0, 20, width=32),
    st.integers(-9, 9).map(float),
)
LOSSES = st.lists(NUMBERS, max_size=40)
PAIRS = st.lists(st.tuples(USUAL, USUAL), max_size=25)


def array(values):
    return np.array(values, np.float64)


def exact(values):
    return [Fraction(v) for v in values]


def moments(l, w=None):
    sums = Moments(weighted=w is not None)
    sums.add(array(l), None if w is None else array(w))
    return sums


def figures(sums):
    return sums.count, sums.weight, sums.mean, sums.standard_error


def cut(length, seed):
    """A random order of the positions, in random parts."""
    rng = random.Random(seed)
    order = rng.sample(range(length), length)
    edges = sorted(rng.choices(range(length + 1), k=4))
    return [order[a:b] for a, b in pairwise([0, *edges, length])]


# --- one sum --------------------------------------------------------------------------------------


@given(values=LOSSES)
def test_a_sum_is_the_sum_of_fractions(values):
    total = ExactSum()
    total.add(array(values))
    assert total.fraction() == sum(exact(values), Fraction(0))
    assert ExactSum(values).fraction() == total.fraction()


def test_what_float64_loses_is_kept():
    total = ExactSum([1e300, 1.0, -1e300, 5e-324])
    assert total.fraction() == 1 + Fraction(5e-324)


def test_more_than_one_chunk_adds_up():
    l = np.random.default_rng(0).exponential(size=2 * accumulate._CHUNK + 7)
    assert ExactSum(l).fraction() == sum(map(Fraction, l.tolist()))


def test_as_many_equal_numbers_as_a_chunk_holds_add_up():
    worst = math.nextafter(1.0, 0.0)  # every bit of its mantissa is set
    total = ExactSum(np.full(accumulate._CHUNK, worst))
    assert total.fraction() == accumulate._CHUNK * Fraction(worst)


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


@given(values=LOSSES, seed=st.integers(0, 999))
def test_any_cut_and_order_gives_the_same_sums(values, seed):
    whole, merged = ExactSum(values), ExactSum()
    for part in cut(len(values), seed):
        merged.merge(ExactSum(array(values)[part]))
    assert merged.fraction() == whole.fraction()
    assert merged.partials() == whole.partials()


@given(values=LOSSES)
@example(values=[1e308, 1e308, 1e308])  # a sum beyond the range
@example(values=[1e300, 1.0, -1e300, 5e-324])
def test_a_sum_is_restored_from_its_partials(values):
    total = ExactSum(values)
    partials = json.loads(json.dumps(total.partials()))
    assert ExactSum(partials).fraction() == total.fraction()
    assert all(math.isfinite(p) for p in partials)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_sum_that_is_not_finite_is_restored_too(value):
    again = ExactSum(ExactSum([1.0, value]).partials())
    assert again.fraction() == 1
    assert str(float(again)) == str(value)


def test_a_share_is_rounded_once_and_needs_a_finite_total():
    total = ExactSum([0.1, 0.2, 0.7])
    assert ExactSum([0.1]).share_of(total) == rounded(Fraction(0.1) / total.fraction())
    assert ExactSum([0.1]).share_of(ExactSum()) is None
    assert ExactSum([0.1]).share_of(ExactSum([1.0, math.inf])) is None
    assert ExactSum([math.nan]).share_of(total) is None


def of_all_sizes(n, seed, dtype=np.float64):
    """Numbers from the least to the greatest that there are, of both signs."""
    r = np.random.default_rng(seed)
    bits = r.integers(
        0, 1 << (8 * np.dtype(dtype).itemsize), n, dtype=np.dtype(f"u{np.dtype(dtype).itemsize}")
    )
    found = bits.view(dtype)
    return found[np.isfinite(found)]


#: More numbers than are added one by one, and of what sizes they are.
SIZES = {
    "all": lambda n: of_all_sizes(n, 1),
    "floats": lambda n: np.random.default_rng(2).exponential(size=n).astype(np.float32),
    "doubles": lambda n: np.random.default_rng(3).normal(size=n),
    "near": lambda n: 1 + np.random.default_rng(4).random(n),
    "equal": lambda n: np.full(n, -math.nextafter(1.0, 0.0)),
    "huge": lambda n: np.full(n, np.finfo(np.float64).max),
    "subnormal": lambda n: np.arange(n) * 5e-324,
    "two sizes": lambda n: np.where(np.arange(n) % 2, 1e300, -1e-300),
    "zeros": lambda n: np.zeros(n),
}


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("n", [17, 2048, accumulate._CHUNK, accumulate._CHUNK + 9])
def test_arrays_of_any_sizes_add_up(n, name):
    values = SIZES[name](n).astype(np.float64)
    kept = values.copy()
    total = ExactSum(values)
    assert total.fraction() == sum(map(Fraction, values.tolist()), Fraction(0))
    assert values.tobytes() == kept.tobytes()


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("n", [1, 7, 8, 9, 300, 2047, 2048])
def test_the_compiled_sums_of_any_sizes_add_up(n, name):
    values, limbs = SIZES[name](n).astype(np.float64), np.zeros(67, np.int64)
    due = sum(map(Fraction, values.tolist()), Fraction(0))
    inside.add_exactly(values, None, limbs)
    assert inside.exact_total(limbs).fraction() == due
    inside.add_exactly(values, np.full(values.size, -0.5), limbs)
    halves = [Fraction(-0.5 * v) for v in values.tolist()]
    assert inside.exact_total(limbs).fraction() == due + sum(halves, Fraction(0))


def test_the_compiled_sums_take_infinities_and_nan_apart():
    limbs = np.zeros(67, np.int64)
    inside.add_exactly(np.array([1.0, math.inf, 2.0]), None, limbs)
    assert float(inside.exact_total(limbs)) == math.inf
    assert inside.exact_total(limbs).fraction() == 3
    inside.add_exactly(np.array([-math.inf]), None, limbs)
    assert math.isnan(float(inside.exact_total(limbs)))


def test_limbs_that_are_nearly_full_carry():
    limbs = np.zeros(67, np.int64)
    limbs[:65] = (1 << 63) - (1 << 38)  # room for the numbers of one call, not of fifty
    due = inside.exact_total(limbs).fraction()
    values = np.resize(2.0 ** np.arange(-1000.0, 1000.0, 41), 2048)  # of all sizes: one by one
    for _ in range(50):
        inside.add_exactly(values, None, limbs)
    due += 50 * sum(map(Fraction, values.tolist()))
    assert inside.exact_total(limbs).fraction() == due


# --- means and standard errors --------------------------------------------------------------------


def is_near(got, expected):
    """Whether a number agrees with a fraction to 1e-14."""
    return abs(Fraction(got) - expected) <= abs(expected) * Fraction(1, 10**14)


@given(l=st.lists(USUAL, max_size=40))
@example(l=[1e-5, 1e5] * 5)
@example(l=[0.1] * 7)  # a spread of 0, where sums of squares in float64 give 1e-17 or NaN
@example(l=[1e5 + 1e-9 * k for k in range(9)])  # a spread of 1e-14 of the mean
def test_mean_and_standard_error_are_those_of_the_definition(l):
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
    assert is_near(Fraction(got.standard_error) ** 2, variance)


@given(pairs=st.lists(st.tuples(st.floats(0.5, 2), st.floats(-20, 20, width=32)), max_size=25))
@example(pairs=[(1.0, 1.0), (-1.0, 5.0)])  # weights that cancel
@example(pairs=[(0.1, 1e-30), (3e-9, 2e20)])
def test_weighted_mean_and_standard_error_are_those_of_the_definition(pairs):
    w, l = ([p[k] for p in pairs] for k in (0, 1))
    got = moments(l, w)
    W, L = exact(w), exact(l)
    total = sum(W, Fraction(0))
    assert got.weight == rounded(total)
    if total == 0:
        assert (got.mean, got.standard_error) == (0.0, None)
        return
    m = sum(a * b for a, b in zip(W, L, strict=True)) / total
    scale = max(map(abs, L))  # what 1e-14 is of, where the losses cancel
    assert abs(Fraction(got.mean) - m) <= scale / 10**14
    if len(l) < 2:
        assert got.standard_error is None
        return
    square = sum(a * a * (b - m) ** 2 for a, b in zip(W, L, strict=True)) / (total * total)
    error = Fraction(math.sqrt(square))
    assert abs(Fraction(got.standard_error) - error) <= max(error, scale) / 10**14


def test_a_spread_whose_squares_are_beyond_the_range_has_no_standard_error():
    got = moments([1e200, 2e200])
    assert (got.mean, got.standard_error) == (1.5e200, None)


@pytest.mark.parametrize("weighted", [False, True])
@given(pairs=PAIRS, seed=st.integers(0, 999))
def test_any_cut_and_order_gives_the_same_moments(weighted, pairs, seed):
    l, w = (array([p[k] for p in pairs]) for k in (0, 1))
    merged = Moments(weighted=weighted)
    for part in cut(len(pairs), seed):
        merged.merge(moments(l[part], w[part] if weighted else None))
    assert figures(merged) == figures(moments(l, w if weighted else None))


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


def test_a_group_whose_numbers_are_not_finite_is_noticed_in_any_order():
    sums, other = GroupedSums(), GroupedSums()
    sums.add(np.array([0, 2]), array([0.5, 1e300]))
    other.add(np.array([2]), array([math.inf]))
    partials = {group: total.partials() for group, total in sums.sums().items()}
    assert (sums.finite, partials) == (True, {0: [0.5], 2: [1e300]})
    sums.merge(other)
    assert not sums.finite


def test_unlike_frequencies_do_not_merge():
    with pytest.raises(TypeError, match="do not merge"):
        frequencies([0]).merge(frequencies([0], [1.0]))
    with pytest.raises(TypeError, match="do not merge"):
        frequencies([0]).merge(frequencies([0], classes=6))
    with pytest.raises(TypeError, match="w must be None"):
        frequencies([0]).add(np.array([0]), array([1.0]))
