"""Exact sums of a chunk: its losses, its weights and their products are added without rounding.

A sum is kept as a fixed-point number as wide as float64's range: `LIMBS` integers of 64 bits, each
of which counts 32 bits further up (Neal 2015, "Fast exact summation using small and large
superaccumulators"). To add single numbers to it takes 3 ns each, ten times what a vector of them
may cost. So vectors are split first: adding and subtracting a power of two, far above, leaves of
every number what is a multiple of u (the last place of that power), and takes away the rest
exactly. Multiples of one u that do not leave 53 bits add up without rounding in any order (Rump,
Ogita and Oishi 2008, "Accurate floating-point summation"), so that a chunk adds one number to the
fixed-point one. The rest is split again, until nothing is left: once for losses of float32 that are
within 18 bits of one another, twice for most other numbers.

Notation: l losses, w weights, n positions of a chunk, v float64 numbers to be added.
"""

from dataclasses import dataclass

from sparse_xent.kernels import arithmetic as ops
from sparse_xent.kernels.arithmetic import FLOAT64
from sparse_xent.kernels.cpu import vectors as vec
from sparse_xent.kernels.cpu.abi import EXACT, LIMBS, POSITIONS, SUM_WORDS, SUMMANDS
from sparse_xent.kernels.cpu.compiler import inlined, outlined
from sparse_xent.kernels.staging import Value, primitive, static

_LANES = FLOAT64.lanes
_LEVELS = 4  # how often a chunk is split; of numbers of all sizes the rest is added one by one
_ROOM = POSITIONS.bit_length() - 1  # bits that a sum of so many numbers may have above the greatest
_MANTISSA, _SPECIAL = 52, 0x7FF  # bits of a mantissa, and the exponent of infinities and NaN
_HIGHEST = _SPECIAL - 1 - _ROOM  # the exponent up to which the power above is a number
_SIZE = (1 << 63) - 1  # the bits of a float64 but its sign
_LIMB = 32
_LOW = (1 << _LIMB) - 1


@static
@dataclass(frozen=True)
class _Summand:
    """What is added of a label that counts: l and w and their products, in this order."""

    factors: str


_L, _LL = _Summand("l"), _Summand("ll")
_WL, _W, _WW, _LLW = (_Summand(factors) for factors in ("wl", "w", "ww", "llw"))


@primitive
def _numbers(fmt: ops.Format, what: _Summand, l: Value, w: Value, y: Value) -> Value:
    """A vector of what is added: 0 where the label is ignored, and where w is 0, whatever l is."""
    counts = vec.fetch_labels(FLOAT64, y) >= 0
    product = weight = None
    for factor in what.factors:
        if factor == "w":
            weight = number = vec.fetch(FLOAT64, w)
        else:
            number = vec.fetch_losses(fmt, l)
        product = number if product is None else product * number
    if weight is not None:
        counts = counts & (weight != 0)
    return ops.select(counts, product, 0.0)


@primitive
def _is_hit(ranks: Value, y: Value, bound: Value) -> Value:
    """Where a label counts and its rank is below the bound."""
    above = vec.fetch_integers(FLOAT64, ranks)
    return (vec.fetch_labels(FLOAT64, y) >= 0) & (above < bound.to(above.typ))


@primitive
def _hit_weights(w: Value, ranks: Value, y: Value, bound: Value) -> Value:
    """The weights of the hits, 0 elsewhere."""
    return ops.select(_is_hit(ranks, y, bound), vec.fetch(FLOAT64, w), 0.0)


@primitive
def _hits(ranks: Value, y: Value, bound: Value, count: Value) -> Value:
    """One more in the lanes of the hits."""
    return count + ops.select(_is_hit(ranks, y, bound), ops.integers(FLOAT64, 1), 0)


@primitive
def _keep(at: Value, x: Value, largest: Value) -> Value:
    """Write a vector; the largest bits so far, but for signs."""
    vec.keep(at, x)
    return ops.maximum(ops.bits(x) & _SIZE, largest)


@primitive
def _split(at: Value, power: Value, total: Value, largest: Value) -> tuple[Value, Value]:
    """Add the multiples of the power's last place to the total, and leave the rest."""
    x = vec.fetch(FLOAT64, at)
    part = (x + power) - power
    return total + part, _keep(at, x - part, largest)


@inlined
def _add_one(bits, to):  # type: ignore[no-untyped-def]
    """Add the float64 of these bits to a fixed-point number; infinities and NaN beside it."""
    e = (bits >> _MANTISSA) & _SPECIAL
    if e == _SPECIAL:
        beside = to + 8 * LIMBS
        vec.keep(beside, vec.fetch_factor(beside) + ops.from_bits(bits))
        return
    m = bits & ((1 << _MANTISSA) - 1)
    if e > 0:
        m |= 1 << _MANTISSA
        e -= 1
    shift, limb = e % _LIMB, to + 8 * (e // _LIMB)
    sign = -1 if bits < 0 else 1
    low, high = (m << shift) & _LOW, m >> (_LIMB - shift)
    vec.keep(limb, vec.fetch_long(limb) + sign * low)
    vec.keep(limb + 8, vec.fetch_long(limb + 8) + sign * (high & _LOW))
    vec.keep(limb + 16, vec.fetch_long(limb + 16) + sign * (high >> _LIMB))


@inlined
def _carry(to):  # type: ignore[no-untyped-def]
    """Bring all limbs but the last below 2**32, so that 2**31 more numbers may be added."""
    for i in range(LIMBS - 1):
        limb = to + 8 * i
        here = vec.fetch_long(limb)
        vec.keep(limb, here & _LOW)
        vec.keep(limb + 8, vec.fetch_long(limb + 8) + (here >> _LIMB))


@outlined
def _add(v, n, largest, to):  # type: ignore[no-untyped-def]
    """Add n numbers at v, a whole number of vectors, whose largest bits are these; v is spent."""
    for _ in range(_LEVELS):
        e = largest >> _MANTISSA
        if largest == 0 or e > _HIGHEST:
            break
        # With the greatest below 2**(e + 1), all sums are multiples of u below 2**53 u.
        power = ops.splat(FLOAT64, ops.from_bits(((e + _ROOM) << _MANTISSA) | _HALF))
        total, left = ops.splat(FLOAT64, 0.0), ops.integers(FLOAT64, 0)
        for i in range(0, n, _LANES):
            total, left = _split(v + 8 * i, power, total, left)
        _add_one(ops.bits(ops.total(total)), to)
        largest = int(ops.highest(left))
    if largest != 0:
        for i in range(n):
            _add_one(vec.fetch_long(v + 8 * i), to)
        _carry(to)


_HALF = 1 << (_MANTISSA - 1)  # of a mantissa: 1.5 times the power, so that signs do not matter


@inlined
def _add_numbers(fmt, what, n, l, w, y, v, to):  # type: ignore[no-untyped-def]
    size, largest = ops.lane_size(fmt), ops.integers(FLOAT64, 0)
    for i in range(0, n, _LANES):
        x = _numbers(fmt, what, l + size * i, w + 8 * i, y + 4 * i)
        largest = _keep(v + 8 * i, x, largest)
    _add(v, n, int(ops.highest(largest)), to)


@inlined
def _add_hits(n, w, y, ranks, bound, v, count, to):  # type: ignore[no-untyped-def]
    """How many hits there are, and with weights the sum of theirs."""
    many = ops.integers(FLOAT64, 0)
    for i in range(0, n, _LANES):
        many = _hits(ranks + 8 * i, y + 4 * i, bound, many)
    vec.keep(count, vec.fetch_long(count) + ops.total(many))
    if w:
        largest = ops.integers(FLOAT64, 0)
        for i in range(0, n, _LANES):
            x = _hit_weights(w + 8 * i, ranks + 8 * i, y + 4 * i, bound)
            largest = _keep(v + 8 * i, x, largest)
        _add(v, n, int(ops.highest(largest)), to)


@inlined
def exact_sums(fmt, n, l, w, y, ranks, v, to):  # type: ignore[no-untyped-def]
    """Add a chunk to the exact sums of a call.

    Args:
        fmt: the losses' dtype, to which they are rounded.
        n: positions.
        l: address of losses, in the arithmetic of that dtype.
        w: address of weights, float64; 0 where every label weighs 1, whose sums are counts.
        y: address of labels, int32, negative where ignored; up to 7 behind the last are written.
        ranks: address of ranks, int64.
        v: address of POSITIONS float64 of scratch.
        to: address of what is wanted and of the sums: see EXACT.
    """
    squares, many, bounds = vec.fetch_long(to + 8), vec.fetch_long(to + 16), to + 8 * EXACT
    hits, sums = bounds + 8 * many, bounds + 16 * many
    size, end = 8 * SUM_WORDS, -(-n // _LANES) * _LANES
    for i in range(n, end):
        vec.keep_label(y + 4 * i, -1)
    if w:
        _add_numbers(fmt, _WL, end, l, w, y, v, sums)
        _add_numbers(fmt, _W, end, l, w, y, v, sums + size)
        if squares:
            _add_numbers(fmt, _WW, end, l, w, y, v, sums + 2 * size)
            _add_numbers(fmt, _LLW, end, l, w, y, v, sums + 3 * size)
    else:
        _add_numbers(fmt, _L, end, l, w, y, v, sums)
        if squares:
            _add_numbers(fmt, _LL, end, l, w, y, v, sums + 3 * size)
    for k in range(many):
        bound, weights = vec.fetch_long(bounds + 8 * k), sums + (SUMMANDS + k) * size
        _add_hits(end, w, y, ranks, bound, v, hits + 8 * k, weights)
