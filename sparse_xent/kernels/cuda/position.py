"""What every kernel does with a position besides its row: label, weight, loss, and the sums.

A position is (o, i) of [outer, inner], p its number. Labels, weights and factors are read as they
lie, whatever their dtype: a branch that a whole warp takes the same way costs less than a kernel
for each dtype would to compile.
"""

import math

from numba import cuda

from sparse_xent.kernels.cuda import intrinsics as gpu
from sparse_xent.kernels.cuda.geometry import SCRATCH_BLOCK, SCRATCH_HEAD
from sparse_xent.kernels.cuda.params import (
    ABOVE,
    ALL_ABOVE,
    ALL_BELOW,
    BELOW,
    CODES,
    KEPT,
    LABEL_BITS,
    LABEL_ZERO,
    LARGEST,
    NAN,
    NEGATIVE,
    NOT_WHOLE,
    SMALLEST,
    WEIGHT,
    ErrorSlot,
)
from sparse_xent.kernels.cuda.params import NA as NA_CODE

inlined = cuda.jit(device=True, forceinline=True)
"""Decorator: a function that is inlined into every kernel that calls it."""

IGNORED, BAD = -1, -2
_WEIGHT_SLOT = 8 * ErrorSlot._fields.index("weight")
NA = float(-(2**31))  # R's integer NA

_BOOL, _U8, _I8, _I16, _U16, _I32, _U32, _I64, _U64, _F16, _BF16, _F32, _F64 = CODES.values()
U8, I8, I16, U16, I32, U32, I64 = (
    gpu.Type(name) for name in ("uint8", "int8", "int16", "uint16", "int32", "uint32", "int64")
)
F16, BF16, F32, F64 = (gpu.Type(name) for name in ("float16", "bfloat16", "float32", "float64"))


@inlined
def whole_at(address, code):
    """The integer there; of booleans 0 or 1."""
    if code in (_I64, _U64):
        return gpu.read(I64, address)
    if code == _I32:
        return gpu.read(I32, address)
    if code == _U32:
        return gpu.read(U32, address)
    if code in (_U8, _BOOL):
        return gpu.read(U8, address)
    if code == _I8:
        return gpu.read(I8, address)
    if code == _I16:
        return gpu.read(I16, address)
    return gpu.read(U16, address)


@inlined
def float_at(address, code):
    """The float there."""
    if code == _F32:
        return gpu.read(F32, address)
    if code == _F64:
        return gpu.read(F64, address)
    if code == _F16:
        return gpu.read(F16, address)
    return gpu.read(BF16, address)


@inlined
def number_at(address, code):
    """The number there, as float64."""
    if code >= _F16:
        return float_at(address, code)
    value = whole_at(address, code)
    if code == _U64 and value < 0:
        return float(value) + 18446744073709551616.0
    return float(value)


@inlined
def write_float(address, code, value):
    """A float into memory, rounded to its dtype."""
    if code == _F32:
        gpu.write(F32, address, value)
    elif code == _F64:
        gpu.write(F64, address, value)
    elif code == _F16:
        gpu.write(F16, address, value)
    else:
        gpu.write(BF16, address, value)


@inlined
def place(a, p):
    """(o, i) of position p."""
    o, i = p, 0
    if a.inner > 1:
        o = gpu.divide(p, a.inner) if a.count < 1 << 32 else p // a.inner
        i = p - o * a.inner
    return o, i


@inlined
def label(a, o, i, p, reports):
    """The class of a position, IGNORED or BAD; a thread that `reports` records what is bad."""
    address = a.y + o * a.yo + i * a.yi
    code = a.y_code
    t, whole = 0, True
    if code >= _F16:
        v = float_at(address, code)
        whole = v == math.floor(v) and abs(v) < 9.2e18
        if whole:
            t = int(v)
    else:
        t = whole_at(address, code)
        whole = t >= 0 or code != _U64
    ignored = False
    if whole and a.many != 0:
        if a.many == 1:
            ignored = t == a.ignored
        elif a.many == NEGATIVE:
            ignored = t < 0
        else:
            k = 0
            while k < a.many:
                ignored = ignored or t == gpu.read(I64, a.ignored + 8 * k)
                k += 1
    if ignored:
        return IGNORED
    if whole and t >= 0 and t < a.classes:
        return t
    if reports:
        gpu.atomic_min(a.error, ((a.first + p) << LABEL_BITS) | error_code(address, code, t, whole))
    return BAD


@inlined
def error_code(address, code, t, whole):
    """What an ErrorSlot says of a bad label."""
    if code >= _F16 and not whole:
        v = float_at(address, code)
        if v != v:
            return NAN
        if v - v != 0.0:
            return ALL_ABOVE if v > 0 else ALL_BELOW
        if v == math.floor(v):
            return ABOVE if v > 0 else BELOW
        return NOT_WHOLE
    if not whole or t > LARGEST:  # not whole: beyond int64
        return ABOVE
    if t == -(2**31):
        return NA_CODE
    return LABEL_ZERO + t if t >= SMALLEST else BELOW


@inlined
def weight(a, o, i, p, t, reports):
    """The weight of a position, 0 where it is ignored, whose weight is not read."""
    w = 1.0
    if t == IGNORED:
        w = 0.0
    else:
        if a.w != 0:
            w = number_at(a.w + o * a.wo + i * a.wi, a.w_code)
            if (w == NA or w != w) and reports:
                gpu.atomic_min(a.error + _WEIGHT_SLOT, a.first + p)
        if a.by_class != 0 and t >= 0:
            w *= gpu.read(F64, a.by_class + 8 * t)
    return w


@inlined
def scale(a):
    """1 / divisor; 0 where there is nothing to divide by."""
    divisor = a.divisor
    if a.by == KEPT:
        divisor = gpu.read(F64, a.counted + 8)
    elif a.by == WEIGHT:
        divisor = gpu.read(F64, a.counted + 16)
    return 1.0 / divisor if divisor != 0.0 else 0.0


@inlined
def factor(a, o, i, w, each):
    """What a position's gradient is multiplied by; `each` is `scale`'s."""
    g = w * each
    if a.up != 0 and g != 0.0:
        g *= float_at(a.up + o * a.uo + i * a.ui, a.up_code)
    return g


@inlined
def weighted(loss, t, w):
    """l * w in float64: exactly 0 where w is, NaN where the label is bad."""
    value = 0.0
    if t == BAD:
        value = math.nan
    elif w != 0.0:
        value = float(loss) * w
    return value


@inlined
def write_loss(a, o, i, value):
    """A position's weighted loss, if losses are wanted."""
    if a.out != 0:
        write_float(a.out + o * a.oo + i * a.oi, a.out_code, value)


@inlined
def _joined(place, total, kept, weights):
    """Sums of all threads of a block, in its first thread: lanes by halves, then warps in order."""
    total = gpu.sum_over(gpu.WHOLE_WARP, total)
    kept = gpu.sum_over(gpu.WHOLE_WARP, kept)
    weights = gpu.sum_over(gpu.WHOLE_WARP, weights)
    me = gpu.thread()
    at = place + SCRATCH_BLOCK * (me // 32)
    if me % 32 == 0:
        gpu.put(at, total)
        gpu.put(at + 8, kept)
        gpu.put(at + 16, weights)
    gpu.sync_block()
    if me == 0:
        total, kept, weights = 0.0, 0.0, 0.0
        k = 0
        while k < gpu.threads() // 32:
            at = place + SCRATCH_BLOCK * k
            total += gpu.get(total, at)
            kept += gpu.get(kept, at + 8)
            weights += gpu.get(weights, at + 16)
            k += 1
    gpu.sync_block()
    return total, kept, weights


@inlined
def reduce_sums(a, place, total, kept, weights):
    """Sums of all blocks: the last to finish adds them up in order and writes the result.

    Args:
        a: the kernel's arguments.
        place: address of shared memory, SCRATCH_BLOCK bytes a warp.
        total: this thread's sum of l * w.
        kept: its number of labels that are not ignored.
        weights: its sum of their weights.
    """
    if a.scratch == 0:
        return
    total, kept, weights = _joined(place, total, kept, weights)
    me = gpu.thread()
    before = 0
    if me == 0:
        at = a.scratch + SCRATCH_HEAD + SCRATCH_BLOCK * (a.block + gpu.block())
        gpu.write(F64, at, total)
        gpu.write(F64, at + 8, kept)
        gpu.write(F64, at + 16, weights)
        before = gpu.atomic_increment(a.scratch)
        gpu.put(place, before)
    gpu.sync_block()
    before = gpu.get(before, place)
    gpu.sync_block()
    if before != a.blocks - 1:
        return
    total, kept, weights = 0.0, 0.0, 0.0
    k = me
    while k < a.blocks:
        at = a.scratch + SCRATCH_HEAD + SCRATCH_BLOCK * k
        total += gpu.read(F64, at)
        kept += gpu.read(F64, at + 8)
        weights += gpu.read(F64, at + 16)
        k += gpu.threads()
    total, kept, weights = _joined(place, total, kept, weights)
    if me == 0:
        gpu.write(I64, a.scratch, 0)
        if a.result != 0:
            gpu.write(F64, a.result, total)
            gpu.write(F64, a.result + 8, kept)
            gpu.write(F64, a.result + 16, weights)
        if a.value != 0:
            divisor = a.divisor
            if a.by == KEPT:
                divisor = kept
            elif a.by == WEIGHT:
                divisor = weights
            write_float(a.value, a.value_code, total / divisor if divisor != 0.0 else 0.0)
