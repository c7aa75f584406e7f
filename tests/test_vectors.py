"""Every primitive on vectors does what its docstring says, in both widths and all formats.

Each is called in a kernel of its own on plain arrays, and NumPy says what is right.
"""

import numpy as np
import pytest
from numba import njit

from sparse_xent.kernels import arithmetic, staging
from sparse_xent.kernels.arithmetic import BFLOAT16, FLOAT16, FLOAT32, FLOAT64
from sparse_xent.kernels.cpu import vectors
from sparse_xent.kernels.cpu.abi import LINE

WIDTHS = pytest.mark.parametrize("fmt", [FLOAT32, FLOAT64], ids=lambda f: f.name)
kernel = njit(error_model="numpy")


def own(fmt):
    """The dtype of a format's lanes."""
    return np.float64 if fmt.wide else np.float32


def aligned(shape, dtype):
    """An array that begins with a cache line."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + size].view(dtype).reshape(shape)


def numbers(fmt, rows=1, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, fmt.lanes)).astype(own(fmt))


def on_lanes(fmt, function, *vectors_, result=None):
    """What a primitive or a kernel makes of these vectors, lane by lane."""

    @kernel
    def one(fmt, a, out):
        vectors.keep(out, function(vectors.fetch(fmt, a)))

    @kernel
    def two(fmt, a, b, out):
        vectors.keep(out, function(vectors.fetch(fmt, a), vectors.fetch(fmt, b)))

    @kernel
    def three(fmt, a, b, c, out):
        vectors.keep(
            out, function(vectors.fetch(fmt, a), vectors.fetch(fmt, b), vectors.fetch(fmt, c))
        )

    arrays = [np.ascontiguousarray(v, own(fmt)) for v in vectors_]
    out = np.zeros(fmt.lanes, result or own(fmt))
    call = (one, two, three)[len(arrays) - 1]
    call(fmt, *(a.ctypes.data for a in arrays), out.ctypes.data)
    return out


def test_formats_say_their_lanes():
    lines = {f.lanes * (8 if f.wide else 4) for f in (FLOAT16, BFLOAT16, FLOAT32, FLOAT64)}
    assert lines == {LINE}


# Memory ----------------------------------------------------------------------------------------


def converted(fmt, source, made, step_in, step_out, widen):
    @kernel
    def up(fmt, source, made, n):
        for i in range(0, n, arithmetic.lanes(fmt)):
            vectors.keep(made + 4 * i, vectors.load(fmt, source + 2 * i))

    @kernel
    def down(fmt, source, made, n):
        for i in range(0, n, arithmetic.lanes(fmt)):
            vectors.store(fmt, made + 2 * i, vectors.fetch(fmt, source + 4 * i))

    (up if widen else down)(fmt, source.ctypes.data, made.ctypes.data, source.size)
    return made


@pytest.mark.parametrize("instructions", [True, False], ids=["native", "integers"])
def test_every_float16_widens_exactly(instructions, monkeypatch):
    if not instructions:
        without(monkeypatch, "f16c")
    halves = np.arange(1 << 16, dtype=np.uint16)
    made = converted(FLOAT16, halves, np.empty(1 << 16, np.float32), 2, 4, True)
    due = halves.view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(made, due)
    np.testing.assert_array_equal(np.signbit(made), np.signbit(due))


def without(monkeypatch, feature):
    """Compile as for a processor that lacks a feature."""
    stage = type(staging.stage)
    has = stage.has_feature
    monkeypatch.setattr(stage, "has_feature", lambda self, f: f != feature and has(self, f))


def halves_and_between():
    """Every finite half, its neighbours in float32, and the ties between halves."""
    exact = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    exact = np.sort(exact[np.isfinite(exact)])
    ties = (exact[:-1] + exact[1:]) / 2
    near = [np.nextafter(exact, np.float32(s)) for s in (-np.inf, np.inf)]
    odd = [65519.9, 65520, 65536, 1e30, np.inf, -np.inf, 1e-30, -1e-30, 0, -0.0, np.nan]
    every = np.concatenate([exact, ties, *near, np.array(odd, np.float32)])
    return np.resize(every, -(-every.size // 16) * 16).astype(np.float32)


@pytest.mark.parametrize("instructions", [True, False], ids=["native", "integers"])
def test_float16_is_rounded_to_nearest_even(instructions, monkeypatch):
    if not instructions:
        without(monkeypatch, "f16c")
    values = halves_and_between()
    made = converted(FLOAT16, values, np.empty(values.size, np.uint16), 4, 2, False)
    with np.errstate(over="ignore"):
        due = values.astype(np.float16)
    np.testing.assert_array_equal(made.view(np.float16), due)
    np.testing.assert_array_equal(np.signbit(made.view(np.float16)), np.signbit(due))


def test_bfloat16_is_the_upper_half_of_a_float32():
    halves = np.arange(1 << 16, dtype=np.uint16)
    made = converted(BFLOAT16, halves, np.empty(1 << 16, np.float32), 2, 4, True)
    np.testing.assert_array_equal(made.view(np.uint32), halves.astype(np.uint32) << 16)


def test_bfloat16_is_rounded_to_nearest_even():
    bits = np.random.default_rng(0).integers(0, 1 << 32, 1 << 16, dtype=np.uint32)
    bits[:4096] = bits[:4096] & 0xFFFF0000 | 0x8000  # ties
    values = bits.view(np.float32)
    made = converted(BFLOAT16, values, np.empty(values.size, np.uint16), 4, 2, False)
    wide = bits.astype(np.uint64)
    due = (wide + 0x7FFF + (wide >> 16 & 1) >> 16).astype(np.uint16)
    nan = np.isnan(values)
    np.testing.assert_array_equal(made[~nan], due[~nan])
    back = (made.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(np.isnan(back), nan)


@pytest.mark.parametrize("fmt", [FLOAT16, FLOAT32, FLOAT64], ids=lambda f: f.name)
def test_one_score_is_read_and_written(fmt):
    dtype = np.dtype(fmt.name)

    @kernel
    def copy(fmt, source, to):
        vectors.store_one(fmt, to, vectors.load_one(fmt, source))

    source, to = np.array([1.5, -3.25], dtype), np.zeros(2, dtype)
    copy(fmt, source.ctypes.data + dtype.itemsize, to.ctypes.data)
    np.testing.assert_array_equal(to, np.array([-3.25, 0], dtype))


@WIDTHS
@pytest.mark.parametrize("step", [1, 3])
def test_some_lanes_are_read_and_written_and_no_more(fmt, step):
    @kernel
    def some(fmt, source, to, step, count):
        vectors.store_some(fmt, to, step, count, vectors.load_some(fmt, source, step, count))

    @kernel
    def every(fmt, source, to, step, count):
        vectors.keep(to, vectors.load_some(fmt, source, step, count))

    source = np.arange(1, 3 * fmt.lanes + 1).astype(own(fmt))
    for count in (1, 5, fmt.lanes - 1, fmt.lanes, fmt.lanes + 9):
        held = min(count, fmt.lanes)
        to = np.zeros_like(source)
        address = source.ctypes.data, to.ctypes.data, step * source.itemsize, count
        some(fmt, *address)
        due = np.zeros_like(source)
        due[: held * step : step] = source[: held * step : step]
        np.testing.assert_array_equal(to, due)
        every(fmt, *address)
        np.testing.assert_array_equal(to[held : fmt.lanes], 0)


@WIDTHS
def test_labels_and_factors_become_lanes(fmt):
    @kernel
    def read(fmt, labels, factors, to, found):
        found[0] = vectors.fetch_label(labels + 4)
        found[1] = vectors.fetch_factor(factors + 8)
        vectors.keep(to, vectors.fetch_labels(fmt, labels))
        vectors.keep(to + 64, vectors.fetch_factors(fmt, factors))

    labels = np.arange(-3, fmt.lanes - 3, dtype=np.int32)
    factors = np.linspace(-1, 1, fmt.lanes) / 3
    to, found = np.zeros((2, fmt.lanes), own(fmt)), np.zeros(2)
    read(fmt, labels.ctypes.data, factors.ctypes.data, to.ctypes.data, found)
    whole = np.int64 if fmt.wide else np.int32
    np.testing.assert_array_equal(to[0].view(whole), labels)
    np.testing.assert_array_equal(to[1], factors.astype(own(fmt)))
    np.testing.assert_array_equal(found, [labels[1], factors[1]])


BYTES = vectors.StackBytes(4096)


def test_scratch_is_aligned_and_each_piece_apart():
    @kernel
    def places():
        a, b = vectors.stack_alloc(BYTES), vectors.stack_alloc(BYTES)
        vectors.prefetch(a + (1 << 40))  # need not exist
        vectors.fence()
        return a, b

    a, b = places()
    assert a % LINE == b % LINE == 0
    assert abs(a - b) >= 4096


@pytest.mark.parametrize(
    ("name", "size"), [("copy_line", 64), ("stream_line", 64), ("copy_byte", 1)]
)
def test_bytes_are_copied(name, size):
    copy = getattr(vectors, name)

    @kernel
    def run(to, source):
        copy(to, source)
        vectors.fence()

    source = np.arange(1, 129, dtype=np.uint8)
    to = aligned(128, np.uint8)
    run(to.ctypes.data, source.ctypes.data + 7)
    np.testing.assert_array_equal(to[:size], source[7 : 7 + size])
    assert not to[size:].any()


# Lanes and arithmetic --------------------------------------------------------------------------


@WIDTHS
def test_lanes_are_numbered_and_filled(fmt):
    @kernel
    def fill(fmt, to, x):
        vectors.keep(to, vectors.indices(fmt))
        vectors.keep(to + 64, arithmetic.integers(fmt, -7))
        vectors.keep(to + 128, arithmetic.splat(fmt, x))
        vectors.keep(to + 192, arithmetic.like(arithmetic.splat(fmt, 0.0), x))
        return arithmetic.lanes(fmt), arithmetic.itemsize(fmt), arithmetic.rounded(fmt, x)

    to = np.zeros((4, fmt.lanes), own(fmt))
    facts = fill(fmt, to.ctypes.data, 0.1)
    whole = np.int64 if fmt.wide else np.int32
    np.testing.assert_array_equal(to[0].view(whole), np.arange(fmt.lanes))
    np.testing.assert_array_equal(to[1].view(whole), -7)
    np.testing.assert_array_equal(to[2:], own(fmt)(0.1))
    assert facts == (fmt.lanes, fmt.itemsize, own(fmt)(0.1))


OPERATIONS = {
    "add": (lambda a, b: a + b, np.add),
    "sub": (lambda a, b: a - b, np.subtract),
    "mul": (lambda a, b: a * b, np.multiply),
    "truediv": (lambda a, b: a / b, np.true_divide),
}


@WIDTHS
@pytest.mark.parametrize("name", OPERATIONS)
def test_operators_round_as_numpy(fmt, name):
    ours, due = OPERATIONS[name]
    a, b = numbers(fmt, 2)
    np.testing.assert_array_equal(on_lanes(fmt, kernel(ours), a, b), due(a, b))


@WIDTHS
def test_a_number_stands_beside_vectors(fmt):
    (a,) = numbers(fmt)
    half = kernel(lambda v: 1.0 - v * 0.5)
    np.testing.assert_array_equal(on_lanes(fmt, half, a), 1 - a * own(fmt)(0.5))


COMPARISONS = {
    "<": (lambda a, b: a < b, np.less),
    "<=": (lambda a, b: a <= b, np.less_equal),
    ">": (lambda a, b: a > b, np.greater),
    ">=": (lambda a, b: a >= b, np.greater_equal),
    "==": (lambda a, b: a == b, np.equal),
    "!=": (lambda a, b: a != b, np.not_equal),
}


def with_odd(fmt):
    """Pairs of numbers, equal ones, NaN and inf among them."""
    a, b = numbers(fmt, 2)
    a[:6] = [np.nan, 1, np.inf, -np.inf, 2, np.nan]
    b[:6] = [1, np.nan, np.inf, np.inf, 2, np.nan]
    return a, b


@WIDTHS
@pytest.mark.parametrize("sign", COMPARISONS)
def test_comparisons_are_false_for_nan_but_unequal(fmt, sign):
    ours, due = COMPARISONS[sign]
    compare = kernel(ours)
    chosen = kernel(lambda a, b: arithmetic.select(compare(a, b), arithmetic.like(a, 1.0), 0.0))
    a, b = with_odd(fmt)
    np.testing.assert_array_equal(on_lanes(fmt, chosen, a, b), due(a, b))


@WIDTHS
def test_masks_are_joined(fmt):
    a, b = with_odd(fmt)
    both = kernel(
        lambda a, b: arithmetic.select((a > 0.0) & (b > 0.0), arithmetic.like(a, 1.0), 0.0)
    )
    either = kernel(
        lambda a, b: arithmetic.select((a > 0.0) | (b > 0.0), arithmetic.like(a, 1.0), 0.0)
    )
    np.testing.assert_array_equal(on_lanes(fmt, both, a, b), (a > 0) & (b > 0))
    np.testing.assert_array_equal(on_lanes(fmt, either, a, b), (a > 0) | (b > 0))


@WIDTHS
def test_anywhere_sees_one_lane(fmt):
    @kernel
    def seen(fmt, address):
        return arithmetic.anywhere(vectors.fetch(fmt, address) > 0.0)

    for lane in range(fmt.lanes):
        a = np.full(fmt.lanes, -1, own(fmt))
        assert not seen(fmt, a.ctypes.data)
        a[lane] = 1
        assert seen(fmt, a.ctypes.data)


@WIDTHS
@pytest.mark.parametrize(("name", "due"), [("maximum", np.greater), ("minimum", np.less)])
def test_the_extreme_keeps_a_nan_on_the_right_alone(fmt, name, due):
    a, b = with_odd(fmt)
    made = on_lanes(fmt, getattr(arithmetic, name), a, b)
    np.testing.assert_array_equal(made, np.where(due(a, b), a, b))


@WIDTHS
@pytest.mark.parametrize("instructions", [True, False], ids=["native", "without"])
def test_fma_rounds_once(fmt, instructions, monkeypatch):
    if not instructions:
        without(monkeypatch, "fma")
    tiny = np.finfo(own(fmt)).eps
    a = np.full(fmt.lanes, 1 + tiny, own(fmt))
    once = kernel(lambda a, b, c: arithmetic.fma(a, b, c))
    exact = on_lanes(fmt, once, a, a, -1 - 2 * tiny + 0 * a)
    np.testing.assert_array_equal(exact, tiny * tiny)  # a product rounded first would give 0


@WIDTHS
@pytest.mark.parametrize("instructions", [True, False], ids=["native", "without"])
def test_mad_is_right_to_rounding(fmt, instructions, monkeypatch):
    if not instructions:
        without(monkeypatch, "fma")
    a, b, c = np.abs(numbers(fmt, 3))
    made = on_lanes(fmt, kernel(lambda a, b, c: arithmetic.mad(a, b, c)), a, b, c)
    np.testing.assert_allclose(made, a * b + c, rtol=2 * np.finfo(own(fmt)).eps)


@WIDTHS
def test_floor_goes_down(fmt):
    a = numbers(fmt)[0] * 5
    np.testing.assert_array_equal(on_lanes(fmt, arithmetic.floor, a), np.floor(a))


@WIDTHS
def test_bits_go_both_ways(fmt):
    (a,) = numbers(fmt)
    whole = np.int64 if fmt.wide else np.int32
    np.testing.assert_array_equal(on_lanes(fmt, arithmetic.bits, a, result=whole), a.view(whole))
    back = kernel(lambda v: arithmetic.from_bits(arithmetic.bits(v)))
    np.testing.assert_array_equal(on_lanes(fmt, back, a), a)
    number = kernel(lambda v: arithmetic.as_float((arithmetic.bits(v) << 1) >> 3))
    with np.errstate(over="ignore"):
        due = (a.view(whole) << 1 >> 3).astype(own(fmt))
    np.testing.assert_array_equal(on_lanes(fmt, number, a), due)


@WIDTHS
def test_whole_powers_are_exact_and_end_in_zero(fmt):
    least = -1022 if fmt.wide else -126
    n = np.resize([0, 1, -1, 60, -60, least, least - 1, -2 * 10**6], fmt.lanes).astype(own(fmt))
    due = np.where(n < least, 0, np.ldexp(own(fmt)(1), np.maximum(n, least).astype(int)))
    np.testing.assert_array_equal(on_lanes(fmt, arithmetic.whole_power, n), due)


# Across lanes ----------------------------------------------------------------------------------


@WIDTHS
def test_all_lanes_become_one_number(fmt):
    @kernel
    def across(fmt, address):
        v = vectors.fetch(fmt, address)
        return arithmetic.total(v), arithmetic.highest(v), arithmetic.total(arithmetic.widen(v))

    (a,) = numbers(fmt)
    sum_, top, wide = across(fmt, a.ctypes.data)
    np.testing.assert_allclose(sum_, a.sum(dtype=np.float64), rtol=1e-5)
    assert top == a.max()
    np.testing.assert_allclose(wide, a.sum(dtype=np.float64), rtol=1e-14)
    for lane in range(fmt.lanes):
        one = np.where(np.arange(fmt.lanes) == lane, 1, 0).astype(own(fmt))
        assert across(fmt, one.ctypes.data)[:2] == (1, 1)


@WIDTHS
def test_rows_are_joined_in_their_order(fmt):
    @kernel
    def joined(fmt, square, to):
        vectors.keep(to, vectors.row_totals(fmt, square))
        vectors.keep(to + 64, vectors.row_maxima(fmt, square))

    square, to = numbers(fmt, fmt.lanes), np.zeros((2, fmt.lanes), own(fmt))
    joined(fmt, square.ctypes.data, to.ctypes.data)
    np.testing.assert_allclose(to[0], square.sum(axis=1), rtol=1e-4)
    np.testing.assert_array_equal(to[1], square.max(axis=1))


@WIDTHS
def test_a_row_has_the_same_total_wherever_it_stands(fmt):
    @kernel
    def joined(fmt, square, to):
        vectors.keep(to, vectors.row_totals(fmt, square))

    square, to = np.repeat(numbers(fmt), fmt.lanes, axis=0), np.zeros(fmt.lanes, own(fmt))
    joined(fmt, square.ctypes.data, to.ctypes.data)
    assert np.unique(to).size == 1


@pytest.mark.parametrize("fmt", [FLOAT16, FLOAT32, FLOAT64], ids=lambda f: f.name)
def test_panels_are_turned_and_turned_back(fmt):
    @kernel
    def there(fmt, source, step, to):
        vectors.gather_panel(fmt, source, step, to)

    @kernel
    def back(fmt, source, to, step):
        vectors.scatter_panel(fmt, source, to, step)

    dtype, columns = np.dtype(fmt.name), fmt.lanes // 4
    rows = np.random.default_rng(0).normal(size=(fmt.lanes, 7)).astype(dtype)
    turned = aligned((columns, fmt.lanes), own(fmt))
    there(fmt, rows.ctypes.data, rows.strides[0], turned.ctypes.data)
    np.testing.assert_array_equal(turned, rows[:, :columns].T.astype(own(fmt)))
    made = np.zeros((fmt.lanes + 1, 7), dtype)
    back(fmt, turned.ctypes.data, made.ctypes.data, made.strides[0])
    np.testing.assert_array_equal(made[:-1, :columns], rows[:, :columns])
    assert not made[:, columns:].any()
    assert not made[-1].any()


@WIDTHS
def test_where_rows_meet_the_later_prevails(fmt):
    @kernel
    def back(fmt, source, to, step):
        vectors.scatter_panel(fmt, source, to, step)

    columns = fmt.lanes // 4
    turned = aligned((columns, fmt.lanes), own(fmt))
    turned[:] = np.arange(1, fmt.lanes + 1)  # row r holds r + 1
    made = np.zeros(fmt.lanes + columns - 1, own(fmt))
    back(fmt, turned.ctypes.data, made.ctypes.data, made.itemsize)  # rows one score apart
    np.testing.assert_array_equal(made[: fmt.lanes], np.arange(1, fmt.lanes + 1))


# Primitives of primitives ----------------------------------------------------------------------


def test_a_primitive_takes_single_numbers_as_it_takes_vectors():
    @kernel
    def alone(a, b):
        return arithmetic.maximum(a, b), arithmetic.fma(a, b, 1.0), arithmetic.select(a > b, a, b)

    assert alone(2.0, 3.0) == (3.0, 7.0, 3.0)


def test_a_constant_is_compiled_for():
    @kernel
    def known(fmt):
        return arithmetic.lanes(fmt)

    assert [known(f) for f in (FLOAT32, FLOAT64, BFLOAT16)] == [16, 8, 16]
    assert len(known.signatures) == 3
