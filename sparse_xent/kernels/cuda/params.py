"""The parameters of every kernel: one list of numbers, packed once by the host.

Integers are int64, addresses and steps in bytes; the last few are float64. A kernel is launched
with `*arguments`: Python's ints and floats, which cuda.core hands over as these very types.

Positions are those of one slab x[outer, C, inner], position p = (p // inner, p % inner); what is
said of labels, weights, losses and upstream factors is where position (o, i) lies:
address + o * step_o + i * step_i. A repeated weight has steps of 0.

    kernel       reads                                             writes
    nll          x y w                                             out, sums, value
    nll_grad     x y w up, counted where `by` is KEPT or WEIGHT    dx, out, sums, value
    rank         x y                                               out (INT64 or a float)
    count        y w                                               sums

A label that is no class, nor ignored, makes its loss and gradient row NaN, and is recorded in the
ErrorSlot at `error`, and so is a weight that is NaN or R's NA. Both numbers there are updated by an
atomic minimum, so that the first position of all is kept.

Sums are [sum(l * w), labels kept, sum(w)], float64, of all positions of the call. Each block
leaves its own in `scratch`, the last to end adds them up in the order of blocks into `result` and
puts the counter at the head of `scratch` back to 0, as it has to be before the launch. So a
scratch belongs to one call at a time; a call of several slabs (layouts that no single [outer, C,
inner] describes) has one scratch, `Plan.scratch(slabs)` bytes, and one launch a slab, whose
`block` is slab * grid and whose `blocks` is slabs * grid.

`value` is the result of a reduction, sum / divisor, rounded to its dtype; `by` names the divisor:

    GIVEN   the float64 `divisor`
    KEPT    the number of labels that are not ignored
    WEIGHT  the sum of their weights

A gradient is w * up / divisor times a row's own. Where `by` is KEPT or WEIGHT the divisor has to
be known before: `count` leaves it in its `result`, whose address is the gradient's `counted`.
Neither needs the host to wait.
"""

from typing import NamedTuple

NONE = 2**63 - 1
"""What an ErrorSlot holds where there is no error."""


class ErrorSlot(NamedTuple):
    """What launches record of errors, int64 each."""

    # Of the first label that is no class the position (`first` + p), below 2**39, and in the
    # LABEL_BITS low bits what it was: when the host looks, the labels may be gone.
    label: int = NONE
    weight: int = NONE  # the first position of a missing weight


ERRORS = len(ErrorSlot._fields)

LABEL_BITS = 24
"""Bits of an ErrorSlot's label that say what the label was."""

LABEL_ZERO = 1 << (LABEL_BITS - 1)
"""What they hold for label 0: whole labels from SMALLEST to LARGEST are LABEL_ZERO + label,"""

BELOW, ABOVE, NAN, NOT_WHOLE, NA, ALL_ABOVE, ALL_BELOW = range(7)
"""and others a code: below those, above, NaN, not whole, R's integer NA, inf, -inf."""

SMALLEST, LARGEST = 8 - LABEL_ZERO, LABEL_ZERO - 9

RESULTS = 3
"""float64 of a result: sum(l * w), labels kept, sum(w)."""

TOTAL, KEPT_AT, WEIGHT_AT = range(RESULTS)

GIVEN, KEPT, WEIGHT = range(3)
"""What a value and a gradient are divided by."""

CODES = {
    "bool": 0,
    "uint8": 0,
    "int8": 1,
    "int16": 2,
    "uint16": 3,
    "int32": 4,
    "uint32": 5,
    "int64": 6,
    "uint64": 7,
    "float16": 8,
    "bfloat16": 9,
    "float32": 10,
    "float64": 11,
}
"""Dtypes of labels, weights, losses, upstream factors and values. Kernels read all as they lie
and write losses and values as any of the floats, ranks as int64 or any of the floats."""

NEGATIVE = -1
"""In `many`: every label below 0 is ignored."""


class Arguments(NamedTuple):
    """The parameters of every kernel, in order; what a kernel has no use for may be 0."""

    classes: int  # C
    inner: int
    count: int  # type: ignore[assignment]  # outer * inner: positions of this slab
    first: int  # positions of the slabs before, for the ErrorSlot
    # scores [outer, C, inner]
    x: int
    xo: int
    xc: int
    xi: int
    # labels
    y: int
    yo: int
    yi: int
    y_code: int
    many: int  # ignored classes: none, one in `ignored`, or more: int64s at the address `ignored`
    ignored: int
    # sample weights; w = 0: every weight is 1
    w: int
    wo: int
    wi: int
    w_code: int
    by_class: int  # address of C float64 class weights; 0: none
    # losses times their weights, or ranks; out = 0: not wanted
    out: int
    oo: int
    oi: int
    out_code: int
    # gradient [outer, C, inner], of the scores' dtype; dx may be x
    dx: int
    do: int
    dc: int
    di: int
    # factors of the gradient, beside the weights; up = 0: none
    up: int
    uo: int
    ui: int
    up_code: int
    error: int  # address of an ErrorSlot
    # reduction; scratch = 0: none is wanted
    scratch: int
    block: int  # blocks of the slabs before
    blocks: int  # blocks of all slabs
    result: int  # address of RESULTS float64
    value: int  # address of the reduced value; 0: not wanted
    value_code: int
    by: int  # GIVEN, KEPT or WEIGHT
    counted: int  # address of the result of `count`
    # float64 from here on
    smoothing: float
    lo: float  # the clip's bounds, rounded to the arithmetic's dtype
    hi: float
    divisor: float  # where `by` is GIVEN


INTEGERS = Arguments._fields.index("smoothing")
FLOATS = len(Arguments._fields) - INTEGERS


class View(NamedTuple):
    """Device memory: `__cuda_array_interface__` in plain numbers."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in bytes, never None
    dtype: str  # a key of CODES
