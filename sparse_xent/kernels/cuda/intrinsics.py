"""The device's primitives: every instruction that Numba cannot express, in one place.

A vector is what one thread holds of a row; LLVM takes it apart into registers, so the shared
formulas need nothing of their own here. What only a GPU has is written as PTX.

    places      thread threads block blocks rank_in_cluster blocks_of_cluster
    global      load load_within load_one load_positions store store_within store_one
                store_positions read write
    shared      base put get put_scores get_scores put_lanes get_lanes copy_async wait_for_copies
    a warp      sum_over max_over highest_of total_of
    a block     sync_block
    a cluster   rank_in_row peers sync_row get_of
    atomics     atomic_min atomic_increment
    numbers     exp2 columns divide

Addresses are integers, in bytes; those of shared memory are offsets in its own space. Results of
lanes are joined by operations that have no order (maxima, sums of integers) or in an order that C
alone sets: so no bit shows where in memory a row began, or how many threads took it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import types

from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels.arithmetic import (
    Format,
    bits,
    from_bits,
    highest,
    maximum,
    select,
    total,
)
from sparse_xent.kernels.formulas import KernelSpec
from sparse_xent.kernels.staging import (
    Value,
    Vector,
    constant,
    llvm_type,
    primitive,
    stage,
    static,
    static_bool,
)

_I16, _I32, _I64 = (ir.IntType(n) for n in (16, 32, 64))
_F16, _F32, _F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
GLOBAL, SHARED = 1, 3  # NVVM's address spaces

FULL = 16  # bytes of the widest load


@static
@dataclass(frozen=True)
class Slice(Format):
    """Scores in memory, and how many of them are in a thread's registers at once."""

    count: int

    @property
    def lanes(self) -> int:
        """How many numbers a thread's vector holds."""
        return self.count

    @property
    def full(self) -> int:
        """Scores of one 16-byte load."""
        return FULL // self.itemsize


@static
@dataclass(frozen=True)
class DeviceKernelSpec(KernelSpec):
    """What one kernel is compiled for."""

    format: Slice
    gradient: bool = False
    width: int = 1  # threads that take a row together: lanes of a warp, where there are fewer
    cached: bool = False  # whether a row stays in shared memory between two passes
    clustered: bool = False  # whether the blocks of a cluster share a row


def _b() -> ir.IRBuilder:
    return stage.builder


def _ptx(
    text: str,
    gives: ir.Type,
    constraint: str,
    *args: Any,
    acts: bool = False,
    convergent: bool = False,
) -> Any:
    """PTX in place. `acts`: on memory, in order; `convergent`: by all threads of a warp at once."""
    function = ir.FunctionType(gives, [a.type for a in args])
    if acts or convergent:
        constraint = f"{constraint},~{{memory}}".lstrip(",")
    called = _b().asm(function, text, constraint, args, acts or convergent)
    if convergent:
        called.attributes.add("convergent")
    return called


_VOID = ir.VoidType()


def _long(value: Any) -> Value:
    return Value(types.int32, value).to(types.int64)


# Places ----------------------------------------------------------------------------------------


def _special(register: str) -> Value:
    return _long(_ptx(f"mov.u32 $0, %{register};", _I32, "=r"))


@primitive
def thread() -> Value:
    """This thread's number in its block."""
    return _special("tid.x")


@primitive
def threads() -> Value:
    """Threads of a block."""
    return _special("ntid.x")


@primitive
def block() -> Value:
    """This block's number."""
    return _special("ctaid.x")


@primitive
def blocks() -> Value:
    """Blocks of the launch."""
    return _special("nctaid.x")


@primitive
def rank_in_cluster() -> Value:
    """This block's number in its cluster."""
    return _special("cluster_ctarank")


@primitive
def blocks_of_cluster() -> Value:
    """Blocks of a cluster."""
    return _special("cluster_nctarank")


# Scores in registers ---------------------------------------------------------------------------


def _words_of(raw: Any, count: int) -> list[Any]:
    """The 32-bit words of what one or more loads gave, as a list."""
    return [_b().extract_value(raw, i) for i in range(count)]


def _widened(f: Slice, loaded: list[Any]) -> list[Any]:
    """Numbers of the arithmetic, one by one, of 32-bit (64-bit: float64) words."""
    b = _b()
    if f.itemsize > 2:
        return [b.bitcast(v, f.memory) for v in loaded]
    numbers = []
    for v in loaded:
        if f.name == "bfloat16":
            numbers += [b.shl(v, _I32(16)), b.and_(v, _I32(-65536))]
        else:
            halves = b.bitcast(v, ir.VectorType(_F16, 2))
            numbers += [b.fpext(b.extract_element(halves, _I32(i)), _F32) for i in range(2)]
    return [b.bitcast(n, _F32) if n.type == _I32 else n for n in numbers]


def _one_widened(f: Slice, raw: Any) -> Any:
    b = _b()
    if f.itemsize > 2:
        return b.bitcast(raw, f.memory)
    if f.name == "bfloat16":
        return b.bitcast(b.shl(b.zext(raw, _I32), _I32(16)), _F32)
    return b.fpext(b.bitcast(raw, _F16), _F32)


def _one_narrowed(f: Slice, value: Any) -> Any:
    """One number as it lies in memory, rounded to nearest even."""
    b = _b()
    if f.itemsize > 2:
        return b.bitcast(value, _I64 if f.wide else _I32)
    return b.trunc(_pair(f, value, _F32(0.0)), _I16)


def _pair(f: Slice, low: Any, high: Any) -> Any:
    """Two numbers rounded to halves, in one word."""
    halves = "bf16x2" if f.name == "bfloat16" else "f16x2"
    return _ptx(f"cvt.rn.{halves}.f32 $0, $1, $2;", _I32, "=r,f,f", high, low)


def _narrowed(f: Slice, numbers: list[Any]) -> list[Any]:
    """32-bit (float64: 64-bit) words of numbers as they lie in memory."""
    if f.itemsize > 2:
        return [_one_narrowed(f, n) for n in numbers]
    return [_pair(f, *numbers[i : i + 2]) for i in range(0, len(numbers), 2)]


def _vector(f: Slice, numbers: list[Any]) -> Value:
    """Numbers as a vector."""
    typ = Vector(f.element, len(numbers))
    made = ir.Constant(llvm_type(typ), ir.Undefined)
    for i, n in enumerate(numbers):
        made = _b().insert_element(made, n, _I32(i))
    return Value(typ, made)


def _numbers(vector: Value) -> list[Any]:
    return [_b().extract_element(vector.value, _I32(i)) for i in range(vector.typ.lanes)]


# Global memory ---------------------------------------------------------------------------------


def _loading(spec: DeviceKernelSpec) -> str:
    """A load of scores that skips the first cache; read-only where nothing writes them."""
    return "ld.global.L1::no_allocate" if spec.gradient else "ld.global.nc.L1::no_allocate"


def _full(spec: DeviceKernelSpec, address: Any) -> list[Any]:
    """16 bytes of scores."""
    f = spec.format
    parts, bits_ = (2, 64) if f.wide else (4, 32)
    typ, letter = (_I64, "l") if f.wide else (_I32, "r")
    outs = ", ".join(f"${i}" for i in range(parts))
    raw = _ptx(
        f"{_loading(spec)}.v{parts}.b{bits_} {{{outs}}}, [${parts}];",
        ir.LiteralStructType([typ] * parts),
        ",".join([f"={letter}"] * parts) + ",l",
        address,
        acts=spec.gradient,
    )
    return _widened(f, _words_of(raw, parts))


def _single(spec: DeviceKernelSpec, address: Any, wanted: Any, fill: float) -> Any:
    """One score where `wanted`, else the fill; nothing is read then."""
    f = spec.format
    typ, letter = {2: (_I16, "h"), 4: (_I32, "r"), 8: (_I64, "l")}[f.itemsize]
    size = 8 * f.itemsize
    raw = _ptx(
        f"{{ .reg .pred q; setp.ne.u32 q, $2, 0; mov.b{size} $0, 0; "
        f"@q {_loading(spec)}.b{size} $0, [$1]; }}",
        typ,
        f"=&{letter},l,r",
        address,
        _b().zext(wanted, _I32),
        acts=spec.gradient,
    )
    value = _one_widened(f, raw)
    return _b().select(wanted, value, value.type(fill))


def _either(condition: Any, one: Callable[[], list[Any]], other: Callable[[], list[Any]]) -> Any:
    """The numbers that the branch taken gives."""
    b = _b()
    with b.if_else(condition, likely=True) as (then, otherwise):
        with then:
            first = one()
            first_block = b.block
        with otherwise:
            second = other()
            second_block = b.block
    joined = []
    for x, y in zip(first, second, strict=True):
        phi = b.phi(x.type)
        phi.add_incoming(x, first_block)
        phi.add_incoming(y, second_block)
        joined.append(phi)
    return joined


@primitive
def padding(spec: DeviceKernelSpec) -> float:
    """The score where a row has no class: it adds nothing to a sum, unless scores are clipped."""
    return float("-inf") if spec.scores == ScoreKind.LOGITS else 0.0


@primitive
def load(spec: DeviceKernelSpec, address: Value) -> Value:
    """As many scores as 16 bytes hold, at a multiple of 16."""
    return _vector(spec.format, _full(spec, address.value))


@primitive
def load_within(
    spec: DeviceKernelSpec, address: Value, column: Value, step: Value, classes: Value
) -> Value:
    """A thread's share of a row: the padding where there is no class.

    Args:
        spec: how many scores a thread takes.
        address: of column 0.
        column: of the first score.
        step: columns from one 16 bytes' worth to the next.
        classes: columns of the row.
    """
    f = spec.format
    made: list[Any] = []
    for part in range(f.lanes // f.full):
        first = column + step * part
        at = address + first * f.itemsize
        inside = (first >= 0) & (first + f.full <= classes)
        if f.wide:
            inside = inside & ((at & (FULL - 1)) == 0)

        def one_by_one(first: Value = first, at: Value = at) -> list[Any]:
            return [
                _single(
                    spec,
                    (at + k * f.itemsize).value,
                    ((first + k >= 0) & (first + k < classes)).value,
                    padding(spec),
                )
                for k in range(f.full)
            ]

        def at_once(at: Value = at) -> list[Any]:
            return _full(spec, at.value)

        made += _either(inside.value, at_once, one_by_one)
    return _vector(f, made)


@primitive
def load_one(spec: DeviceKernelSpec, address: Value) -> Value:
    """One score."""
    f = spec.format
    return Value(f.element, _single(spec, address.value, ir.Constant(ir.IntType(1), 1), 0.0))


def _store_full(f: Slice, address: Any, numbers: list[Any]) -> None:
    parts = _narrowed(f, numbers)
    letter = "l" if f.wide else "r"
    ins = ", ".join(f"${i + 1}" for i in range(len(parts)))
    _ptx(
        f"st.global.cs.v{len(parts)}.b{64 if f.wide else 32} [$0], {{{ins}}};",
        _VOID,
        ",".join(["l"] + [letter] * len(parts)),
        address,
        *parts,
        acts=True,
    )


def _store_single(f: Slice, address: Any, value: Any, wanted: Any) -> None:
    letter = {2: "h", 4: "r", 8: "l"}[f.itemsize]
    _ptx(
        f"{{ .reg .pred q; setp.ne.u32 q, $2, 0; @q st.global.b{8 * f.itemsize} [$0], $1; }}",
        _VOID,
        f"l,{letter},r",
        address,
        _one_narrowed(f, value),
        _b().zext(wanted, _I32),
        acts=True,
    )


@primitive
def store(spec: DeviceKernelSpec, address: Value, value: Value) -> None:
    """16 bytes of scores, at a multiple of 16."""
    _store_full(spec.format, address.value, _numbers(value))


@primitive
def store_within(
    spec: DeviceKernelSpec, address: Value, column: Value, step: Value, classes: Value, value: Value
) -> None:
    """The inverse of `load_within`; `address` need not be aligned as the scores' was."""
    f = spec.format
    numbers = _numbers(value)
    for part in range(f.lanes // f.full):
        some = numbers[part * f.full : (part + 1) * f.full]
        first = column + step * part
        at = address + first * f.itemsize
        inside = (first >= 0) & (first + f.full <= classes) & ((at & (FULL - 1)) == 0)

        def one_by_one(first: Value = first, at: Value = at, some: list[Any] = some) -> list[Any]:
            for k, number in enumerate(some):
                wanted = ((first + k >= 0) & (first + k < classes)).value
                _store_single(f, (at + k * f.itemsize).value, number, wanted)
            return []

        def at_once(at: Value = at, some: list[Any] = some) -> list[Any]:
            _store_full(f, at.value, some)
            return []

        _either(inside.value, at_once, one_by_one)


@primitive
def store_one(spec: DeviceKernelSpec, address: Value, value: Value) -> None:
    """One score."""
    f = spec.format
    always = ir.Constant(ir.IntType(1), 1)
    _store_single(f, address.value, value.to(f.element).value, always)


@static
@dataclass(frozen=True)
class Type:
    """A type of numbers in memory, by NumPy's name."""

    name: str


_FLOATS = {"float16": _I16, "bfloat16": _I16, "float32": _F32, "float64": _F64}


def _typed(address: Value, name: str, space: int) -> tuple[Any, ir.Type]:
    memory = _FLOATS[name] if name in _FLOATS else ir.IntType(int(name.lstrip("uint")))
    return _b().inttoptr(address.value, memory.as_pointer(space)), memory


@primitive
def read(typ: Type, address: Value) -> Value:
    """A number as it lies in global memory: integers as int64, floats as float64."""
    b = _b()
    pointer, memory = _typed(address, typ.name, GLOBAL)
    raw = b.load(pointer, typ=memory)
    if "float" not in typ.name:
        signed = typ.name.startswith("int")
        if memory != _I64:
            raw = (b.sext if signed else b.zext)(raw, _I64)
        return Value(types.int64, raw)
    if memory == _I16:
        raw = _one_widened(Slice(typ.name, 2, 1), raw)
    return Value(types.float64, raw if raw.type == _F64 else b.fpext(raw, _F64))


@primitive
def write(typ: Type, address: Value, value: Value) -> None:
    """A number into global memory, rounded once to what lies there."""
    b = _b()
    pointer, memory = _typed(address, typ.name, GLOBAL)
    if "float" not in typ.name:
        raw = value.to(types.int64).value
    elif memory == _F64:
        raw = value.to(types.float64).value
    elif memory == _F32:
        raw = value.to(types.float32).value
    elif value.wide:
        # By way of float32, whose last bit keeps whether anything was cut off.
        raw = _one_narrowed(Slice(typ.name, 2, 1), _to_odd(value.value))
    else:
        raw = _one_narrowed(Slice(typ.name, 2, 1), value.to(types.float32).value)
    b.store(raw, pointer)


def _to_odd(value: Any) -> Any:
    """float64 cut to float32, its last bit set where something was cut off.

    A number rounded twice, to float32 and then to a half, may be wrong by one unit of the last
    place; a number rounded to odd first is not.
    """
    b = _b()
    cut = _ptx("cvt.rz.f32.f64 $0, $1;", _F32, "=f,d", value)
    inexact = b.fcmp_ordered("!=", b.fpext(cut, _F64), value)
    return b.bitcast(b.or_(b.bitcast(cut, _I32), b.zext(inexact, _I32)), _F32)


# Shared memory ---------------------------------------------------------------------------------


@primitive
def base() -> Value:
    """Where the block's dynamic shared memory begins."""
    b = _b()
    name = "sparse_xent_shared"
    if name not in b.module.globals:
        made = ir.GlobalVariable(b.module, ir.ArrayType(ir.IntType(8), 0), name, SHARED)
        made.linkage = "external"
        made.align = FULL
    return Value(types.int64, b.ptrtoint(b.module.globals[name], _I64))


@primitive
def put(address: Value, value: Value) -> None:
    """A number into shared memory, as it is."""
    pointer = _b().inttoptr(address.value, value.value.type.as_pointer(SHARED))
    stored = _b().store(value.value, pointer)
    stored.volatile = True


@primitive
def get(like: Value, address: Value) -> Value:
    """A number of shared memory, of the type of `like`."""
    typ = like.value.type
    pointer = _b().inttoptr(address.value, typ.as_pointer(SHARED))
    return Value(like.typ, _b().load(pointer, typ=typ))


@primitive
def put_scores(spec: DeviceKernelSpec, address: Value, value: Value) -> None:
    """16 bytes of scores into shared memory, as they lie in global memory."""
    f = spec.format
    parts = _narrowed(f, _numbers(value))
    letter = "l" if f.wide else "r"
    ins = ", ".join(f"${i + 1}" for i in range(len(parts)))
    _ptx(
        f"st.shared.v{len(parts)}.b{64 if f.wide else 32} [$0], {{{ins}}};",
        _VOID,
        ",".join(["r"] + [letter] * len(parts)),
        _b().trunc(address.value, _I32),
        *parts,
        acts=True,
    )


@primitive
def get_scores(spec: DeviceKernelSpec, address: Value) -> Value:
    """The inverse of `put_scores`."""
    f = spec.format
    parts = 2 if f.wide else 4
    typ, letter = (_I64, "l") if f.wide else (_I32, "r")
    outs = ", ".join(f"${i}" for i in range(parts))
    raw = _ptx(
        f"ld.shared.v{parts}.b{64 if f.wide else 32} {{{outs}}}, [${parts}];",
        ir.LiteralStructType([typ] * parts),
        ",".join([f"={letter}"] * parts) + ",r",
        _b().trunc(address.value, _I32),
        acts=True,
    )
    return _vector(f, _widened(f, _words_of(raw, parts)))


@primitive
def get_score(spec: DeviceKernelSpec, address: Value) -> Value:
    """One score of shared memory."""
    f = spec.format
    memory = {2: _I16, 4: _I32, 8: _I64}[f.itemsize]
    pointer = _b().inttoptr(address.value, memory.as_pointer(SHARED))
    return Value(f.element, _one_widened(f, _b().load(pointer, typ=memory)))


@primitive
def put_score(spec: DeviceKernelSpec, address: Value, value: Value) -> None:
    """One score into shared memory, rounded as it will lie in global memory."""
    f = spec.format
    raw = _one_narrowed(f, value.to(f.element).value)
    pointer = _b().inttoptr(address.value, raw.type.as_pointer(SHARED))
    _b().store(raw, pointer)


@primitive
def copy_async(to: Value, source: Value) -> None:
    """Copy 16 bytes from global to shared memory; done after `wait_for_copies`."""
    _ptx(
        "cp.async.cg.shared.global [$0], [$1], 16;",
        _VOID,
        "r,l",
        _b().trunc(to.value, _I32),
        source.value,
        acts=True,
    )


@primitive
def commit_copies() -> None:
    """The copies started since the last `commit_copies` are one group."""
    _ptx("cp.async.commit_group;", _VOID, "", acts=True)


@static
@dataclass(frozen=True)
class Pending:
    """A number of groups of copies that need not be done yet."""

    groups: int


LAST = Pending(0)


@primitive
def wait_for_copies(left: Pending) -> None:
    """Wait for this thread's copies, except the last few groups."""
    _ptx(f"cp.async.wait_group {left.groups};", _VOID, "", acts=True)


# Threads together ------------------------------------------------------------------------------


@primitive
def sync_block() -> None:
    """Wait for all threads of the block, and see what they have written."""
    _ptx("bar.sync 0;", _VOID, "", convergent=True)


@primitive
def sync_cluster() -> None:
    """Wait for all threads of the cluster, and see what they have written."""
    _ptx("barrier.cluster.arrive.release.aligned;", _VOID, "", convergent=True)
    _ptx("barrier.cluster.wait.acquire.aligned;", _VOID, "", convergent=True)


@primitive
def get_from(like: Value, address: Value, rank_in_row: Value) -> Value:
    """A number of the shared memory of another block of the cluster."""
    b = _b()
    at = _ptx(
        "mapa.shared::cluster.u32 $0, $1, $2;",
        _I32,
        "=r,r,r",
        b.trunc(address.value, _I32),
        b.trunc(rank_in_row.value, _I32),
    )
    wide = like.value.type in (_I64, _F64)
    raw = _ptx(
        f"ld.shared::cluster.b{64 if wide else 32} $0, [$1];",
        _I64 if wide else _I32,
        "=l,r" if wide else "=r,r",
        at,
        acts=True,
    )
    return Value(like.typ, b.bitcast(raw, like.value.type))


def _exchanged(value: Value, distance: int) -> Value:
    """The value of the lane whose number differs by `distance`, a power of two."""
    b = _b()

    def swapped(v: Any) -> Any:
        text = f"shfl.sync.bfly.b32 $0, $1, {distance}, 31, -1;"
        return _ptx(text, _I32, "=r,r", v, convergent=True)

    if not value.wide:
        raw = value.value if value.value.type == _I32 else b.bitcast(value.value, _I32)
        return Value(value.typ, b.bitcast(swapped(raw), value.value.type))
    raw = value.value if value.value.type == _I64 else b.bitcast(value.value, _I64)
    low, high = b.trunc(raw, _I32), b.trunc(b.lshr(raw, _I64(32)), _I32)
    low, high = b.zext(swapped(low), _I64), b.zext(swapped(high), _I64)
    return Value(value.typ, b.bitcast(b.or_(low, b.shl(high, _I64(32))), value.value.type))


def _joined(value: Value, width: int, join: Callable[[Value, Value], Value]) -> Value:
    """The values of `width` neighbouring lanes, joined; every one of them gets the result."""
    distance = width // 2
    while distance:
        value = join(value, _exchanged(value, distance))
        distance //= 2
    return value


@static
@dataclass(frozen=True)
class Width:
    """A number of neighbouring lanes."""

    lanes: int


WHOLE_WARP = Width(32)


@primitive
def sum_over(width: Width, value: Value) -> Value:
    """The sum over neighbouring lanes, by halves: in an order set by their number."""
    return _joined(value, width.lanes, lambda a, b: a + b)


@primitive
def max_over(width: Width, value: Value) -> Value:
    """The maximum over neighbouring lanes; of floats a NaN may or may not be seen."""
    return _joined(value, width.lanes, maximum)


# Sums without an order -------------------------------------------------------------------------
#
# Lanes of float32 are added as whole numbers of 64 bits, the greatest of them being scaled to some
# 2^LIFT: the sum is the same in any order, and exact but for what lies 2^-LIFT below the greatest.

LIFT = 40  # 2^22 numbers can be added without overflow


@primitive
def magnitude(vector: Value) -> Value:
    """What orders floats by size, as an integer: the greatest of all lanes. NaN is the greatest."""
    return highest(bits(_narrow(vector)) & 0x7FFFFFFF)


def _narrow(vector: Value) -> Value:
    """float64 is added in order instead; but Numba types branches that are not taken, too."""
    return vector.cast("fptrunc", types.float32) if vector.wide else vector


@primitive
def lift_of(size: Value) -> Value:
    """The power of two by which numbers of at most this magnitude are scaled to be added."""
    return constant(types.int32, LIFT + 127) - (size >> 23)


def _scaled(value: Value, power: Value) -> Value:
    """value * 2^power: in two steps, each of which is a number of float32."""
    half = power >> 1
    one = _power_of_two(half)
    other = _power_of_two(power - half)
    return value * one.to(value.typ) * other.to(value.typ)


def _power_of_two(n: Value) -> Value:
    """2^n of an int32 from -126 to 127."""
    return from_bits((n + 127) << 23)


@primitive
def whole_sum_of(vector: Value, lift: Value) -> Value:
    """The sum of all lanes times 2^lift, in whole numbers of 64 bits."""
    b = _b()
    total: Any = None
    for n in _numbers(_scaled(_narrow(vector), lift)):
        one = _ptx("cvt.rni.s64.f32 $0, $1;", _I64, "=l,f", n)
        total = one if total is None else b.add(total, one)
    return Value(types.int64, total)


@primitive
def from_whole(total: Value, lift: Value, size: Value) -> Value:
    """The sum as a float32 again; NaN where `size`, the greatest magnitude, is not a number's."""
    value = total.to(types.float32)
    value = _scaled(value, constant(types.int32, 0) - lift)
    return select(size >= 0x7F800000, float("nan"), value)


# Atomics ---------------------------------------------------------------------------------------


@primitive
def atomic_min(address: Value, value: Value) -> None:
    """Atomically keep the lesser of an int64 in global memory and a value."""
    _ptx("red.global.min.s64 [$0], $1;", _VOID, "l,l", address.value, value.value, acts=True)


@primitive
def atomic_increment(address: Value) -> Value:
    """Atomically add 1 to an int64 in global memory; returns the number before.

    What this thread has seen or written before is visible to threads that increment it later.
    """
    return Value(
        types.int64,
        _ptx(
            "{ fence.acq_rel.gpu; atom.global.add.u64 $0, [$1], 1; fence.acq_rel.gpu; }",
            _I64,
            "=l,l",
            address.value,
            acts=True,
        ),
    )


# Numbers ---------------------------------------------------------------------------------------


@primitive
def exp2(x: Value) -> Value:
    """2^x of float32, within 2 units of the last place; 0 below 2^-126."""
    numbers = _numbers(x) if isinstance(x.typ, Vector) else [x.value]
    made = [_ptx("ex2.approx.ftz.f32 $0, $1;", _F32, "=f,f", n) for n in numbers]
    if not isinstance(x.typ, Vector):
        return Value(x.typ, made[0])
    vector = ir.Constant(llvm_type(x.typ), ir.Undefined)
    for i, n in enumerate(made):
        vector = _b().insert_element(vector, n, _I32(i))
    return Value(x.typ, vector)


@primitive
def columns(spec: DeviceKernelSpec, column: Value, step: Value) -> Value:
    """The columns of what `load_within` gives, as int32."""
    f, b = spec.format, _b()
    typ = Vector(types.int32, f.lanes)
    made = ir.Constant(llvm_type(typ), ir.Undefined)
    for part in range(f.lanes // f.full):
        first = b.trunc((column + step * part).value, _I32)
        for k in range(f.full):
            made = b.insert_element(made, b.add(first, _I32(k)), _I32(part * f.full + k))
    return Value(typ, made)


@primitive
def divide(a: Value, b: Value) -> Value:
    """a // b of numbers below 2^32: of 64 bits it would be a call of some 70 instructions."""
    b_ = _b()
    made = b_.udiv(b_.trunc(a.value, _I32), b_.trunc(b.value, _I32))
    return Value(types.int64, b_.zext(made, _I64))


@primitive
def count_true(mask: Value) -> Value:
    """How many lanes of a mask are true."""
    b = _b()
    total: Any = _I64(0)
    for k in range(mask.typ.lanes):
        total = b.add(total, b.zext(b.extract_element(mask.value, _I32(k)), _I64))
    return Value(types.int64, total)


# Rows in lanes ---------------------------------------------------------------------------------


@primitive
def full(spec: DeviceKernelSpec) -> int:
    """Scores of a 16-byte load."""
    return spec.format.full


@primitive
def width(spec: DeviceKernelSpec) -> int:
    """Threads that take a row together."""
    return spec.width


@primitive
def head(spec: DeviceKernelSpec, address: Value) -> Value:
    """Scores from the last multiple of 16 bytes to the address; 0 for float64.

    float64 is taken two by two from the row's beginning, wherever that is: its sums have an order.
    """
    if spec.format.wide:
        return constant(types.int64, 0)
    shift = 2 if spec.format.itemsize == 4 else 1
    return (address & (FULL - 1)) >> shift


@primitive
def makes_gradient(spec: DeviceKernelSpec) -> Value:
    """Whether a gradient is written."""
    return static_bool(spec.gradient)


@primitive
def nothing(spec: DeviceKernelSpec) -> Value:
    """0 of the arithmetic."""
    return constant(spec.format.element, 0.0)


@primitive
def without_target(spec: DeviceKernelSpec, x: Value, where: Value, t: Value) -> Value:
    """Logits without the target, which becomes -inf; probabilities as they are."""
    if spec.scores != ScoreKind.LOGITS:
        return x
    return select(where == t.to(types.int32), float("-inf"), x)


@primitive
def row_terms(spec: DeviceKernelSpec, e: Value, where: Value, t: Value, classes: Value) -> Value:
    """Terms of the row's classes without the target. A fill's is 0 already, a clipped one aside."""
    if spec.scores == ScoreKind.LOGITS:
        return e
    e = select(where == t.to(types.int32), 0.0, e)
    return (
        zero_outside_row(spec, e, where, classes) if spec.scores == ScoreKind.CLIP_NORMALIZE else e
    )


@primitive
def zero_outside_row(spec: DeviceKernelSpec, v: Value, where: Value, classes: Value) -> Value:
    """Numbers of the row's classes, 0 for what is none."""
    inside = (where >= 0) & (where < classes.to(types.int32))
    return select(inside, v, 0.0)


@primitive
def folded(spec: DeviceKernelSpec, v: Value) -> Value:
    """As many sums as 16 bytes hold scores: of each place, in the order of columns."""
    numbers, count = _numbers(v), spec.format.full
    sums = numbers[:count]
    for i, n in enumerate(numbers[count:]):
        sums[i % count] = _b().fadd(sums[i % count], n)
    return _vector(spec.format, sums)


@primitive
def highest_of(spec: DeviceKernelSpec, v: Value) -> Value:
    """The maximum over the lanes of a row."""
    return _joined(highest(v), spec.width, maximum)


@primitive
def total_of(spec: DeviceKernelSpec, v: Value) -> Value:
    """The sum over the lanes of a row, whatever lane has which term (except in float64)."""
    if v.wide:
        return _joined(total(v), spec.width, lambda a, b: a + b)
    size = _joined(magnitude(v), spec.width, maximum)
    lift = lift_of(size)
    return from_whole(_joined(whole_sum_of(v, lift), spec.width, lambda a, b: a + b), lift, size)


# Rows of a block, positions of a thread --------------------------------------------------------


@primitive
def caches_row(spec: DeviceKernelSpec) -> Value:
    """Whether a row stays in shared memory between two passes."""
    return static_bool(spec.cached)


@primitive
def is_clustered(spec: DeviceKernelSpec) -> Value:
    """Whether the blocks of a cluster share a row."""
    return static_bool(spec.clustered)


@primitive
def loads_four(spec: DeviceKernelSpec) -> Value:
    """Whether four loads are issued at once: two loads of halves have as many scores."""
    return static_bool(spec.format.itemsize == 4)


@primitive
def rank_in_row(spec: DeviceKernelSpec) -> Value:
    """This block's number among those that share its row."""
    return rank_in_cluster() if spec.clustered else constant(types.int64, 0)


@primitive
def peers(spec: DeviceKernelSpec) -> Value:
    """How many blocks share a row."""
    return blocks_of_cluster() if spec.clustered else constant(types.int64, 1)


@primitive
def sync_row(spec: DeviceKernelSpec) -> None:
    """Wait for all threads that share a row, and see what they have written."""
    (sync_cluster if spec.clustered else sync_block)()


@primitive
def get_of(spec: DeviceKernelSpec, like: Value, address: Value, block: Value) -> Value:
    """A number of the shared memory of one of the blocks that share a row."""
    return get_from(like, address, block) if spec.clustered else get(like, address)


@primitive
def hide_lane(spec: DeviceKernelSpec, x: Value, lane: Value) -> Value:
    """Logits with one lane -inf; probabilities as they are."""
    if spec.scores != ScoreKind.LOGITS:
        return x
    return select(_lanes_of(x) == lane.to(types.int32), float("-inf"), x)


@primitive
def drop_lane(spec: DeviceKernelSpec, e: Value, lane: Value) -> Value:
    """Terms without one lane's, if that is not hidden already."""
    if spec.scores == ScoreKind.LOGITS:
        return e
    return select(_lanes_of(e) == lane.to(types.int32), 0.0, e)


@primitive
def with_lane(v: Value, lane: Value, value: Value) -> Value:
    """A vector with a number in one lane."""
    return select(_lanes_of(v) == lane.to(types.int32), value, v)


def _lanes_of(v: Value) -> Value:
    typ = Vector(types.int32, v.typ.lanes)
    return Value(typ, ir.Constant(llvm_type(typ), list(range(typ.lanes))))


@primitive
def terms_inside_row(spec: DeviceKernelSpec, e: Value, first: Value, classes: Value) -> Value:
    """Terms of columns that are classes, `first` being lane 0's; 0 for the others."""
    if spec.scores != ScoreKind.CLIP_NORMALIZE:
        return e
    where = _lanes_of(e) + first.to(types.int32)
    return zero_outside_row(spec, e, where, classes)


@primitive
def values_inside_row(spec: DeviceKernelSpec, v: Value, first: Value, classes: Value) -> Value:
    """Numbers of columns that are classes, whatever the scores are."""
    return zero_outside_row(spec, v, _lanes_of(v) + first.to(types.int32), classes)


@primitive
def is_wide(spec: DeviceKernelSpec) -> Value:
    """Whether the arithmetic is float64."""
    return static_bool(spec.format.wide)


@primitive
def load_positions(spec: DeviceKernelSpec, address: Value) -> Value:
    """The scores of a thread's neighbouring positions: 16 bytes, or one score."""
    if spec.format.lanes > 1:
        return _vector(spec.format, _full(spec, address.value))
    return _vector(spec.format, [_single(spec, address.value, ir.Constant(ir.IntType(1), 1), 0.0)])


@primitive
def store_positions(spec: DeviceKernelSpec, address: Value, value: Value) -> None:
    """The inverse of `load_positions`."""
    numbers = _numbers(value)
    if len(numbers) > 1:
        _store_full(spec.format, address.value, numbers)
    else:
        always = ir.Constant(ir.IntType(1), 1)
        _store_single(spec.format, address.value, numbers[0], always)


@primitive
def positions(spec: DeviceKernelSpec) -> int:
    """Positions that a thread owns together."""
    return spec.format.lanes


@primitive
def put_lane(spec: DeviceKernelSpec, address: Value, value: Value) -> None:
    """A number of the arithmetic into shared memory, where `get_lanes` finds it."""
    put(address, value.to(spec.format.element))


@primitive
def get_lanes(spec: DeviceKernelSpec, address: Value) -> Value:
    """A thread's numbers, side by side in shared memory, as a vector."""
    size = spec.format.element.bitwidth // 8
    model = constant(spec.format.element, 0.0)
    return _vector(
        spec.format,
        [get(model, address + size * k).value for k in range(spec.format.lanes)],
    )


@primitive
def put_lanes(spec: DeviceKernelSpec, address: Value, value: Value) -> None:
    """The inverse of `get_lanes`."""
    size = spec.format.element.bitwidth // 8
    for k, number in enumerate(_numbers(value)):
        put(address + size * k, Value(spec.format.element, number))


@primitive
def get_labels(spec: DeviceKernelSpec, address: Value) -> Value:
    """A thread's labels, int64 side by side in shared memory, as a vector of int32."""
    model, typ = constant(types.int64, 0), Vector(types.int32, spec.format.lanes)
    made = ir.Constant(llvm_type(typ), ir.Undefined)
    for k in range(typ.lanes):
        one = get(model, address + 8 * k).to(types.int32)
        made = _b().insert_element(made, one.value, _I32(k))
    return Value(typ, made)


@primitive
def is_class(labels: Value, c: Value) -> Value:
    """Which lanes have this label."""
    return labels == c.to(types.int32)


@primitive
def hide_where(spec: DeviceKernelSpec, x: Value, mask: Value) -> Value:
    """Logits of the lanes of a mask as -inf; probabilities as they are."""
    return select(mask, float("-inf"), x) if spec.scores == ScoreKind.LOGITS else x


@primitive
def drop_where(spec: DeviceKernelSpec, e: Value, mask: Value) -> Value:
    """Terms of the lanes of a mask as 0, if they are not hidden already."""
    return e if spec.scores == ScoreKind.LOGITS else select(mask, 0.0, e)


@primitive
def above(x: Value, x_t: Value, earlier: Value) -> Value:
    """Which scores rank above the target's: the greater, and the equal at a lower index."""
    return (x > x_t) | ((x == x_t) & earlier)


@primitive
def earlier_than(where: Value, t: Value) -> Value:
    """Which columns are before the target's."""
    return where < t.to(types.int32)


@primitive
def in_row(where: Value, classes: Value) -> Value:
    """Which columns are classes."""
    return (where >= 0) & (where < classes.to(types.int32))


@primitive
def as_counts(mask: Value) -> Value:
    """1 in the lanes of a mask, else 0."""
    return mask.cast("zext", types.int32)


@primitive
def put_counts(address: Value, value: Value) -> None:
    """A thread's integers into shared memory, int64 each."""
    for k, number in enumerate(_numbers(value)):
        put(address + 8 * k, Value(types.int32, number).to(types.int64))
