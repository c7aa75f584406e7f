"""Plain logits: not smoothed, of fewer than PLAIN_MEDIUM classes, summed under the reference 0.

Terms under the reference 0 take no first score, no exponents and no raised reference. They are
right for most rows, and `finish` says for which: a row whose others sum to less than 2^-90 has lost
terms, and so may have one whose loss is not finite or below 2^-80. Such a row is summed once more
under a reference of its own. Its own numbers decide that, so no row's bits depend on another row.

A state is the sums of the even and of the odd classes but for the targets, and the targets' scores.
"""

from dataclasses import dataclass
from typing import Any

from sparse_xent.kernels import arithmetic as ops
from sparse_xent.kernels.cpu import vectors as vec
from sparse_xent.kernels.cpu.abi import LINE
from sparse_xent.kernels.cpu.epilogue import is_accurate
from sparse_xent.kernels.formulas import KernelSpec, Power, loss_of_logits, power_or_inf
from sparse_xent.kernels.staging import Value, primitive, stage, static

State = tuple[Value, Value, Value]


@primitive
def no_classes(spec: KernelSpec) -> State:
    """The state before the first class."""
    zero = ops.splat(spec, 0.0)
    return zero, zero, zero


def add_where(mask: Value, sum_: Value, e: Power) -> Value:
    """sum_ + e where the mask is true, else sum_.

    A masked addition is one instruction of AVX-512, and two elsewhere.
    """
    return ops.select(mask, e.onto(sum_), sum_)


def _add(xs: tuple[Value, ...], t: Value, m: Any, state: State, terms: Value | None) -> State:
    """Neighbouring classes onto the state, and their terms to `terms`.

    `t` are the labels less the first of the classes. A masked move is one instruction of AVX-512,
    and two elsewhere, as an or is.
    """
    *sums, x_t = state
    for i, x in enumerate(xs):
        e, other = power_or_inf(x, m), t != i
        if terms is not None:
            vec.keep(terms + LINE * i, e.value)
        sums[i % 2] = add_where(other, sums[i % 2], e)
        if stage.has_feature("avx512f"):
            x_t = ops.select(other, x_t, x)
        else:
            x_t = ops.from_bits(ops.bits(x_t) | ops.bits(ops.select(other, 0.0, x)))
    return sums[0], sums[1], x_t


@static
@dataclass(frozen=True)
class Last:
    """How many of a panel's classes count: its last ones, for the others were counted before."""

    count: int


@primitive
def add_panel(
    spec: KernelSpec,
    last: Last,
    p: Value,
    step: Value,
    t: Value,
    state: State,
    terms: Value | None,
) -> State:
    """The last classes of a panel at p, of rows `step` bytes apart."""
    return _add(vec.load_panel(spec, p, step)[-last.count :], t, 0.0, state, terms)


@primitive
def add_column(
    spec: KernelSpec, column: Value, t: Value, m: Any, state: State, terms: Value | None
) -> State:
    """One class, kept as a vector; the sums change places, as the next class is for the other."""
    first, second, x_t = _add((vec.fetch(spec, column),), t, m, state, terms)
    return second, first, x_t


@primitive
def add_four(
    spec: KernelSpec,
    q: Value,
    apart: Value,
    ahead: Value,
    t: Value,
    state: State,
    terms: Value | None,
) -> State:
    """Four classes `apart` bytes from each other, of neighbouring positions from q on."""
    for i in range(4):
        vec.prefetch(q + apart * i + ahead)
    return _add(tuple(vec.load(spec, q + apart * i) for i in range(4)), t, 0.0, state, terms)


@primitive
def finish(spec: KernelSpec, state: State, t: Value, m: Any) -> tuple[Value, Value, Value, Value]:
    """others, target_term, the losses, and a mask of those that are right.

    An ignored row's loss is 0, and right.
    """
    others, x_t = state[0] + state[1], state[2]
    target_term = power_or_inf(x_t, m).value
    value = loss_of_logits(others, target_term, x_t, m)
    least = 2.0**-960 if spec.format.wide else 2.0**-90
    right = ((others >= least) & is_accurate(spec, value)) | (t < 0)
    return others, target_term, ops.select(t < 0, 0.0, value), right


@primitive
def gradient_is_right(spec: KernelSpec, total: Value, t: Value) -> Value:
    """A mask of the rows whose terms, and factors divided by `total`, are normal numbers."""
    far = 2.0**500 if spec.format.wide else 2.0**20
    return ((total >= 1.0 / far) & (total <= far)) | (t < 0)
