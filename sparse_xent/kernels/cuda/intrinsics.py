"""The device's vocabulary: every instruction that Numba has no word for, in one place.

These are `simd`'s words, spoken to another machine. A `word` writes LLVM, a vector of lanes is
what one thread holds of a row, and LLVM takes it apart into registers; so the algebra of the CPU
is the algebra here. What only a GPU has is written as PTX, below.

    places      thread threads block blocks lane
    global      load load_within load_one store store_within store_one read write
    shared      base put get put_scores get_scores copy_within arrived
    a warp      exchanged, and what is joined over lanes: highest_of total_of
    a block     together
    a cluster   rank peers gathered peer
    atomics     least count_on fence
    numbers     exp2 columns

Addresses are integers, in bytes; those of shared memory are offsets in its own space. What is
joined is joined by operations that know no order (maxima, sums of integers) or in an order that C
alone sets: so no bit shows where in memory a row began, or how many threads took it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import types

from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels.cpu import vectors
from sparse_xent.kernels.cpu.formulas import Kind
from sparse_xent.kernels.cpu.vectors import (
    Num,
    Vector,
    bits,
    constant,
    from_bits,
    maximum,
    select,
    tag,
    word,
)

_I16, _I32, _I64 = (ir.IntType(n) for n in (16, 32, 64))
_F16, _F32, _F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
GLOBAL, SHARED = 1, 3  # NVVM's address spaces

FULL = 16  # bytes of the widest load
WARP = 32


@tag
@dataclass(frozen=True)
class Slice(vectors.Format):
    """Scores in memory, and how many of them a thread holds at once."""

    count: int

    @property
    def lanes(self) -> int:
        """How many numbers a thread's vector holds."""
        return self.count

    @property
    def full(self) -> int:
        """Scores of one 16-byte load."""
        return FULL // self.itemsize


@tag
@dataclass(frozen=True)
class Case(Kind):
    """What one kernel is compiled for."""

    format: Slice
    gradient: bool = False
    width: int = 1  # threads that take a row together: lanes of a warp, where there are fewer
    held: bool = False  # whether a row stays in shared memory between two looks
    cluster: bool = False  # whether the blocks of a cluster share a row


def _b() -> ir.IRBuilder:
    return vectors._stage.builder


def _ptx(
    text: str,
    gives: ir.Type,
    constraint: str,
    *args: Any,
    acts: bool = False,
    together: bool = False,
) -> Any:
    """PTX in place. `acts`: on memory, in this order; `together`: all threads of a warp at once."""
    function = ir.FunctionType(gives, [a.type for a in args])
    if acts or together:
        constraint = f"{constraint},~{{memory}}".lstrip(",")
    called = _b().asm(function, text, constraint, args, acts or together)
    if together:
        called.attributes.add("convergent")
    return called


_VOID = ir.VoidType()


def _long(value: Any) -> Num:
    return Num(types.int32, value).to(types.int64)


# Places ----------------------------------------------------------------------------------------


def _special(register: str) -> Num:
    return _long(_ptx(f"mov.u32 $0, %{register};", _I32, "=r"))


@word
def thread() -> Num:
    """This thread's number in its block."""
    return _special("tid.x")


@word
def threads() -> Num:
    """Threads of a block."""
    return _special("ntid.x")


@word
def block() -> Num:
    """This block's number."""
    return _special("ctaid.x")


@word
def blocks() -> Num:
    """Blocks of the launch."""
    return _special("nctaid.x")


@word
def rank_in_cluster() -> Num:
    """This block's number in its cluster."""
    return _special("cluster_ctarank")


@word
def blocks_of_cluster() -> Num:
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
    kind = "bf16x2" if f.name == "bfloat16" else "f16x2"
    return _ptx(f"cvt.rn.{kind}.f32 $0, $1, $2;", _I32, "=r,f,f", high, low)


def _narrowed(f: Slice, numbers: list[Any]) -> list[Any]:
    """32-bit (float64: 64-bit) words of numbers as they lie in memory."""
    if f.itemsize > 2:
        return [_one_narrowed(f, n) for n in numbers]
    return [_pair(f, *numbers[i : i + 2]) for i in range(0, len(numbers), 2)]


def _vector(f: Slice, numbers: list[Any]) -> Num:
    """Numbers as a vector."""
    typ = Vector(f.element, len(numbers))
    made = ir.Constant(vectors._llvm(typ), ir.Undefined)
    for i, n in enumerate(numbers):
        made = _b().insert_element(made, n, _I32(i))
    return Num(typ, made)


def _numbers(vector: Num) -> list[Any]:
    return [_b().extract_element(vector.value, _I32(i)) for i in range(vector.typ.lanes)]


# Global memory ---------------------------------------------------------------------------------


def _loading(kind: Case) -> str:
    """A load of scores past the first cache; the read-only way where nothing writes them."""
    return "ld.global.L1::no_allocate" if kind.gradient else "ld.global.nc.L1::no_allocate"


def _full(kind: Case, address: Any) -> list[Any]:
    """16 bytes of scores."""
    f = kind.format
    parts, bits_ = (2, 64) if f.wide else (4, 32)
    typ, letter = (_I64, "l") if f.wide else (_I32, "r")
    outs = ", ".join(f"${i}" for i in range(parts))
    raw = _ptx(
        f"{_loading(kind)}.v{parts}.b{bits_} {{{outs}}}, [${parts}];",
        ir.LiteralStructType([typ] * parts),
        ",".join([f"={letter}"] * parts) + ",l",
        address,
        acts=kind.gradient,
    )
    return _widened(f, _words_of(raw, parts))


def _single(kind: Case, address: Any, wanted: Any, fill: float) -> Any:
    """One score where `wanted`, else the fill; nothing is read then."""
    f = kind.format
    typ, letter = {2: (_I16, "h"), 4: (_I32, "r"), 8: (_I64, "l")}[f.itemsize]
    size = 8 * f.itemsize
    raw = _ptx(
        f"{{ .reg .pred q; setp.ne.u32 q, $2, 0; mov.b{size} $0, 0; "
        f"@q {_loading(kind)}.b{size} $0, [$1]; }}",
        typ,
        f"=&{letter},l,r",
        address,
        _b().zext(wanted, _I32),
        acts=kind.gradient,
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


@word
def fill_of(kind: Case) -> float:
    """What stands where a row has no class: it adds nothing to a row's sum, clipped ones aside."""
    return float("-inf") if kind.scores == ScoreKind.LOGITS else 0.0


@word
def load(kind: Case, address: Num) -> Num:
    """As many scores as 16 bytes hold, at a multiple of 16."""
    return _vector(kind.format, _full(kind, address.value))


@word
def load_within(kind: Case, address: Num, column: Num, step: Num, classes: Num) -> Num:
    """A thread's share of a row: the fill where there is no class.

    Args:
        kind: how many scores a thread takes.
        address: of column 0.
        column: of the first score.
        step: columns from one 16 bytes' worth to the next.
        classes: columns of the row.
    """
    f = kind.format
    made: list[Any] = []
    for part in range(f.lanes // f.full):
        first = column + step * part
        at = address + first * f.itemsize
        inside = (first >= 0) & (first + f.full <= classes)
        if f.wide:
            inside = inside & ((at & (FULL - 1)) == 0)

        def one_by_one(first: Num = first, at: Num = at) -> list[Any]:
            return [
                _single(
                    kind,
                    (at + k * f.itemsize).value,
                    ((first + k >= 0) & (first + k < classes)).value,
                    fill_of(kind),
                )
                for k in range(f.full)
            ]

        def at_once(at: Num = at) -> list[Any]:
            return _full(kind, at.value)

        made += _either(inside.value, at_once, one_by_one)
    return _vector(f, made)


@word
def load_one(kind: Case, address: Num) -> Num:
    """One score."""
    f = kind.format
    return Num(f.element, _single(kind, address.value, ir.Constant(ir.IntType(1), 1), 0.0))


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


@word
def store(kind: Case, address: Num, value: Num) -> None:
    """16 bytes of scores, at a multiple of 16."""
    _store_full(kind.format, address.value, _numbers(value))


@word
def store_within(
    kind: Case, address: Num, column: Num, step: Num, classes: Num, value: Num
) -> None:
    """The way back of `load_within`; `address` need not begin as the scores' did."""
    f = kind.format
    numbers = _numbers(value)
    for part in range(f.lanes // f.full):
        some = numbers[part * f.full : (part + 1) * f.full]
        first = column + step * part
        at = address + first * f.itemsize
        inside = (first >= 0) & (first + f.full <= classes) & ((at & (FULL - 1)) == 0)

        def one_by_one(first: Num = first, at: Num = at, some: list[Any] = some) -> list[Any]:
            for k, number in enumerate(some):
                wanted = ((first + k >= 0) & (first + k < classes)).value
                _store_single(f, (at + k * f.itemsize).value, number, wanted)
            return []

        def at_once(at: Num = at, some: list[Any] = some) -> list[Any]:
            _store_full(f, at.value, some)
            return []

        _either(inside.value, at_once, one_by_one)


@word
def store_one(kind: Case, address: Num, value: Num) -> None:
    """One score."""
    f = kind.format
    always = ir.Constant(ir.IntType(1), 1)
    _store_single(f, address.value, value.to(f.element).value, always)


@tag
@dataclass(frozen=True)
class Type:
    """A type of numbers in memory, by NumPy's name."""

    name: str


_FLOATS = {"float16": _I16, "bfloat16": _I16, "float32": _F32, "float64": _F64}


def _typed(address: Num, name: str, space: int) -> tuple[Any, ir.Type]:
    memory = _FLOATS[name] if name in _FLOATS else ir.IntType(int(name.lstrip("uint")))
    return _b().inttoptr(address.value, memory.as_pointer(space)), memory


@word
def read(typ: Type, address: Num) -> Num:
    """A number as it lies in global memory: integers as int64, floats as float64."""
    b = _b()
    pointer, memory = _typed(address, typ.name, GLOBAL)
    raw = b.load(pointer, typ=memory)
    if "float" not in typ.name:
        signed = typ.name.startswith("int")
        if memory != _I64:
            raw = (b.sext if signed else b.zext)(raw, _I64)
        return Num(types.int64, raw)
    if memory == _I16:
        raw = _one_widened(Slice(typ.name, 2, 1), raw)
    return Num(types.float64, raw if raw.type == _F64 else b.fpext(raw, _F64))


@word
def write(typ: Type, address: Num, value: Num) -> None:
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
        # By way of float32, which keeps whether anything was cut off in its last bit.
        raw = _one_narrowed(Slice(typ.name, 2, 1), _to_odd(value.value))
    else:
        raw = _one_narrowed(Slice(typ.name, 2, 1), value.to(types.float32).value)
    b.store(raw, pointer)


def _to_odd(value: Any) -> Any:
    """float64 cut to float32, its last bit set where something was cut off.

    What is rounded twice, to float32 and to a half, may come out wrong by one place; not so from
    here.
    """
    b = _b()
    cut = _ptx("cvt.rz.f32.f64 $0, $1;", _F32, "=f,d", value)
    inexact = b.fcmp_ordered("!=", b.fpext(cut, _F64), value)
    return b.bitcast(b.or_(b.bitcast(cut, _I32), b.zext(inexact, _I32)), _F32)


# Shared memory ---------------------------------------------------------------------------------


@word
def base() -> Num:
    """Where the block's dynamic shared memory begins."""
    b = _b()
    name = "sparse_xent_shared"
    if name not in b.module.globals:
        made = ir.GlobalVariable(b.module, ir.ArrayType(ir.IntType(8), 0), name, SHARED)
        made.linkage = "external"
        made.align = FULL
    return Num(types.int64, b.ptrtoint(b.module.globals[name], _I64))


@word
def put(address: Num, value: Num) -> None:
    """A number into shared memory, as it is."""
    pointer = _b().inttoptr(address.value, value.value.type.as_pointer(SHARED))
    stored = _b().store(value.value, pointer)
    stored.volatile = True


@word
def get(like: Num, address: Num) -> Num:
    """A number of shared memory, of the type of `like`."""
    typ = like.value.type
    pointer = _b().inttoptr(address.value, typ.as_pointer(SHARED))
    return Num(like.typ, _b().load(pointer, typ=typ))


@word
def put_scores(kind: Case, address: Num, value: Num) -> None:
    """16 bytes of scores into shared memory, as they lie in global memory."""
    f = kind.format
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


@word
def get_scores(kind: Case, address: Num) -> Num:
    """The way back of `put_scores`."""
    f = kind.format
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


@word
def get_score(kind: Case, address: Num) -> Num:
    """One score of shared memory."""
    f = kind.format
    memory = {2: _I16, 4: _I32, 8: _I64}[f.itemsize]
    pointer = _b().inttoptr(address.value, memory.as_pointer(SHARED))
    return Num(f.element, _one_widened(f, _b().load(pointer, typ=memory)))


@word
def put_score(kind: Case, address: Num, value: Num) -> None:
    """One score into shared memory, rounded as it will lie in global memory."""
    f = kind.format
    raw = _one_narrowed(f, value.to(f.element).value)
    pointer = _b().inttoptr(address.value, raw.type.as_pointer(SHARED))
    _b().store(raw, pointer)


@word
def copy(to: Num, source: Num) -> None:
    """16 bytes from global to shared memory, some time before `arrived`."""
    _ptx(
        "cp.async.cg.shared.global [$0], [$1], 16;",
        _VOID,
        "r,l",
        _b().trunc(to.value, _I32),
        source.value,
        acts=True,
    )


@word
def sent() -> None:
    """The copies asked for since the last `sent` are one group."""
    _ptx("cp.async.commit_group;", _VOID, "", acts=True)


@tag
@dataclass(frozen=True)
class Left:
    """Groups of copies that need not have arrived yet."""

    groups: int


LAST = Left(0)


@word
def arrived(left: Left) -> None:
    """This thread's copies are there, but for the last few groups."""
    _ptx(f"cp.async.wait_group {left.groups};", _VOID, "", acts=True)


# Threads together ------------------------------------------------------------------------------


@word
def together() -> None:
    """All threads of the block have come here, and see what all have written."""
    _ptx("bar.sync 0;", _VOID, "", together=True)


@word
def cluster_together() -> None:
    """All threads of the cluster have come here, and see what all have written."""
    _ptx("barrier.cluster.arrive.release.aligned;", _VOID, "", together=True)
    _ptx("barrier.cluster.wait.acquire.aligned;", _VOID, "", together=True)


@word
def get_from(like: Num, address: Num, rank: Num) -> Num:
    """A number of the shared memory of another block of the cluster."""
    b = _b()
    at = _ptx(
        "mapa.shared::cluster.u32 $0, $1, $2;",
        _I32,
        "=r,r,r",
        b.trunc(address.value, _I32),
        b.trunc(rank.value, _I32),
    )
    wide = like.value.type in (_I64, _F64)
    raw = _ptx(
        f"ld.shared::cluster.b{64 if wide else 32} $0, [$1];",
        _I64 if wide else _I32,
        "=l,r" if wide else "=r,r",
        at,
        acts=True,
    )
    return Num(like.typ, b.bitcast(raw, like.value.type))


def _exchanged(value: Num, distance: int) -> Num:
    """The value of the lane whose number differs by `distance`, a power of two."""
    b = _b()

    def swapped(v: Any) -> Any:
        text = f"shfl.sync.bfly.b32 $0, $1, {distance}, 31, -1;"
        return _ptx(text, _I32, "=r,r", v, together=True)

    if not value.wide:
        raw = value.value if value.value.type == _I32 else b.bitcast(value.value, _I32)
        return Num(value.typ, b.bitcast(swapped(raw), value.value.type))
    raw = value.value if value.value.type == _I64 else b.bitcast(value.value, _I64)
    low, high = b.trunc(raw, _I32), b.trunc(b.lshr(raw, _I64(32)), _I32)
    low, high = b.zext(swapped(low), _I64), b.zext(swapped(high), _I64)
    return Num(value.typ, b.bitcast(b.or_(low, b.shl(high, _I64(32))), value.value.type))


def _joined(value: Num, width: int, join: Callable[[Num, Num], Num]) -> Num:
    """What `width` neighbouring lanes hold, joined; every one of them gets it."""
    distance = width // 2
    while distance:
        value = join(value, _exchanged(value, distance))
        distance //= 2
    return value


@tag
@dataclass(frozen=True)
class Width:
    """A number of neighbouring lanes."""

    lanes: int


@word
def sum_over(width: Width, value: Num) -> Num:
    """The sum of what neighbouring lanes hold, by halves: in an order set by their number."""
    return _joined(value, width.lanes, lambda a, b: a + b)


@word
def max_over(width: Width, value: Num) -> Num:
    """The greatest of what neighbouring lanes hold; of floats a NaN may or may not be seen."""
    return _joined(value, width.lanes, maximum)


# Sums without an order -------------------------------------------------------------------------
#
# Lanes of float32 are added as whole numbers of 64 bits, the greatest of them being scaled to some
# 2^LIFT: the sum is the same in any order, and exact but for what lies 2^-LIFT below the greatest.

LIFT = 40  # leaves room for 2^22 numbers


@word
def magnitude(vector: Num) -> Num:
    """What orders floats by size, as an integer: the greatest of all lanes. NaN is the greatest."""
    return vectors.highest(bits(_narrow(vector)) & 0x7FFFFFFF)


def _narrow(vector: Num) -> Num:
    """float64 is added in order, but Numba wants types on ways not taken too."""
    return vector.cast("fptrunc", types.float32) if vector.wide else vector


@word
def lift_of(size: Num) -> Num:
    """The power of two by which numbers of at most this magnitude are scaled to be added."""
    return constant(types.int32, LIFT + 127) - (size >> 23)


def _scaled(value: Num, power: Num) -> Num:
    """value * 2^power: in two steps, each of which is a number of float32."""
    half = power >> 1
    one = _power_of_two(half)
    other = _power_of_two(power - half)
    return value * one.to(value.typ) * other.to(value.typ)


def _power_of_two(n: Num) -> Num:
    """2^n of an int32 from -126 to 127."""
    return from_bits((n + 127) << 23)


@word
def whole_sum_of(vector: Num, lift: Num) -> Num:
    """The sum of all lanes times 2^lift, in whole numbers of 64 bits."""
    b = _b()
    total: Any = None
    for n in _numbers(_scaled(_narrow(vector), lift)):
        one = _ptx("cvt.rni.s64.f32 $0, $1;", _I64, "=l,f", n)
        total = one if total is None else b.add(total, one)
    return Num(types.int64, total)


@word
def from_whole(total: Num, lift: Num, size: Num) -> Num:
    """The sum as a float32 again; NaN where `size`, the greatest magnitude, is not a number's."""
    value = total.to(types.float32)
    value = _scaled(value, constant(types.int32, 0) - lift)
    return select(size >= 0x7F800000, float("nan"), value)


# Atomics ---------------------------------------------------------------------------------------


@word
def least(address: Num, value: Num) -> None:
    """Keep the lesser of an int64 in global memory and a value, in no order."""
    _ptx("red.global.min.s64 [$0], $1;", _VOID, "l,l", address.value, value.value, acts=True)


@word
def count_on(address: Num) -> Num:
    """Add 1 to an int64 in global memory; returns what was there.

    What this thread has seen or written before is seen by whoever counts later.
    """
    return Num(
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


@word
def exp2(x: Num) -> Num:
    """2^x of float32, within 2 units of the last place; 0 below 2^-126."""
    numbers = _numbers(x) if isinstance(x.typ, Vector) else [x.value]
    made = [_ptx("ex2.approx.ftz.f32 $0, $1;", _F32, "=f,f", n) for n in numbers]
    if not isinstance(x.typ, Vector):
        return Num(x.typ, made[0])
    vector = ir.Constant(vectors._llvm(x.typ), ir.Undefined)
    for i, n in enumerate(made):
        vector = _b().insert_element(vector, n, _I32(i))
    return Num(x.typ, vector)


@word
def columns(kind: Case, column: Num, step: Num) -> Num:
    """The columns of what `load_within` gives, as int32."""
    f, b = kind.format, _b()
    typ = Vector(types.int32, f.lanes)
    made = ir.Constant(vectors._llvm(typ), ir.Undefined)
    for part in range(f.lanes // f.full):
        first = b.trunc((column + step * part).value, _I32)
        for k in range(f.full):
            made = b.insert_element(made, b.add(first, _I32(k)), _I32(part * f.full + k))
    return Num(typ, made)


@word
def over(a: Num, b: Num) -> Num:
    """a // b of numbers below 2^32: of 64 bits it would be a call of some 70 instructions."""
    b_ = _b()
    made = b_.udiv(b_.trunc(a.value, _I32), b_.trunc(b.value, _I32))
    return Num(types.int64, b_.zext(made, _I64))


@word
def count_of(mask: Num) -> Num:
    """How many lanes of a mask are true."""
    b = _b()
    total: Any = _I64(0)
    for k in range(mask.typ.lanes):
        total = b.add(total, b.zext(b.extract_element(mask.value, _I32(k)), _I64))
    return Num(types.int64, total)


# Rows in lanes ---------------------------------------------------------------------------------


@word
def full(kind: Case) -> int:
    """Scores of a 16-byte load."""
    return kind.format.full


@word
def width(kind: Case) -> int:
    """Threads that take a row together."""
    return kind.width


@word
def head(kind: Case, address: Num) -> Num:
    """Scores from the last multiple of 16 bytes to the address; 0 for float64.

    float64 is taken two by two from the row's beginning, wherever that is: its sums have an order.
    """
    if kind.format.wide:
        return constant(types.int64, 0)
    shift = 2 if kind.format.itemsize == 4 else 1
    return (address & (FULL - 1)) >> shift


@word
def is_logits(kind: Case) -> Num:
    """Whether the scores are logits."""
    return vectors.fact(kind.scores == ScoreKind.LOGITS)


@word
def is_smooth(kind: Case) -> Num:
    """Whether labels are smoothed."""
    return vectors.fact(kind.smooth)


@word
def makes_gradient(kind: Case) -> Num:
    """Whether a gradient is written."""
    return vectors.fact(kind.gradient)


@word
def nothing(kind: Case) -> Num:
    """0 of the arithmetic."""
    return constant(kind.format.element, 0.0)


@word
def others(kind: Case, x: Num, where: Num, t: Num) -> Num:
    """Logits without the target, which becomes -inf; probabilities as they are."""
    if kind.scores != ScoreKind.LOGITS:
        return x
    return select(where == t.to(types.int32), float("-inf"), x)


@word
def live(kind: Case, e: Num, where: Num, t: Num, classes: Num) -> Num:
    """Terms of the row's classes without the target. A fill's is 0 already, a clipped one aside."""
    if kind.scores == ScoreKind.LOGITS:
        return e
    e = select(where == t.to(types.int32), 0.0, e)
    return everywhere(kind, e, where, classes) if kind.scores == ScoreKind.CLIP_NORMALIZE else e


@word
def everywhere(kind: Case, v: Num, where: Num, classes: Num) -> Num:
    """Numbers of the row's classes, 0 for what is none."""
    inside = (where >= 0) & (where < classes.to(types.int32))
    return select(inside, v, 0.0)


@word
def folded(kind: Case, v: Num) -> Num:
    """As many sums as 16 bytes hold scores: of each place, in the order of columns."""
    numbers, count = _numbers(v), kind.format.full
    sums = numbers[:count]
    for i, n in enumerate(numbers[count:]):
        sums[i % count] = _b().fadd(sums[i % count], n)
    return _vector(kind.format, sums)


@word
def highest_of(kind: Case, v: Num) -> Num:
    """The greatest of what the lanes of a row hold."""
    return _joined(vectors.highest(v), kind.width, maximum)


@word
def total_of(kind: Case, v: Num) -> Num:
    """The sum of what the lanes of a row hold, whatever lane holds what (but of float64)."""
    if v.wide:
        return _joined(vectors.total(v), kind.width, lambda a, b: a + b)
    size = _joined(magnitude(v), kind.width, maximum)
    lift = lift_of(size)
    return from_whole(_joined(whole_sum_of(v, lift), kind.width, lambda a, b: a + b), lift, size)


# Rows of a block, positions of a thread --------------------------------------------------------


@word
def is_held(kind: Case) -> Num:
    """Whether a row stays in shared memory between two looks at it."""
    return vectors.fact(kind.held)


@word
def is_shared_out(kind: Case) -> Num:
    """Whether the blocks of a cluster share a row."""
    return vectors.fact(kind.cluster)


@word
def takes_four(kind: Case) -> Num:
    """Whether four loads are asked for at once: two of halves hold as many scores."""
    return vectors.fact(kind.format.itemsize == 4)


@word
def rank(kind: Case) -> Num:
    """This block's number among those that share its row."""
    return rank_in_cluster() if kind.cluster else constant(types.int64, 0)


@word
def peers(kind: Case) -> Num:
    """How many blocks share a row."""
    return blocks_of_cluster() if kind.cluster else constant(types.int64, 1)


@word
def meet(kind: Case) -> None:
    """All threads that share a row have come here, and see what all have written."""
    (cluster_together if kind.cluster else together)()


@word
def get_of(kind: Case, like: Num, address: Num, block: Num) -> Num:
    """A number of the shared memory of one of the blocks that share a row."""
    return get_from(like, address, block) if kind.cluster else get(like, address)


@word
def hidden(kind: Case, x: Num, lane: Num) -> Num:
    """Logits with one lane -inf; probabilities as they are."""
    if kind.scores != ScoreKind.LOGITS:
        return x
    return select(_lanes_of(x) == lane.to(types.int32), float("-inf"), x)


@word
def dropped(kind: Case, e: Num, lane: Num) -> Num:
    """Terms without one lane's, if that is not hidden already."""
    if kind.scores == ScoreKind.LOGITS:
        return e
    return select(_lanes_of(e) == lane.to(types.int32), 0.0, e)


@word
def placed(v: Num, lane: Num, value: Num) -> Num:
    """A vector with a number in one lane."""
    return select(_lanes_of(v) == lane.to(types.int32), value, v)


def _lanes_of(v: Num) -> Num:
    typ = Vector(types.int32, v.typ.lanes)
    return Num(typ, ir.Constant(vectors._llvm(typ), list(range(typ.lanes))))


@word
def inside(kind: Case, e: Num, first: Num, classes: Num) -> Num:
    """Terms of columns that are classes, `first` being lane 0's; 0 for the others."""
    if kind.scores != ScoreKind.CLIP_NORMALIZE:
        return e
    where = _lanes_of(e) + first.to(types.int32)
    return everywhere(kind, e, where, classes)


@word
def inside_only(kind: Case, v: Num, first: Num, classes: Num) -> Num:
    """Numbers of columns that are classes, whatever the scores are."""
    return everywhere(kind, v, _lanes_of(v) + first.to(types.int32), classes)


@word
def total_in(v: Num) -> Num:
    """The sum of a thread's lanes, by halves."""
    return vectors.total(v)


@word
def highest_in(v: Num) -> Num:
    """The greatest of a thread's lanes."""
    return vectors.highest(v)


@word
def is_wide(kind: Case) -> Num:
    """Whether the arithmetic is float64."""
    return vectors.fact(kind.format.wide)


@word
def beside(kind: Case, address: Num) -> Num:
    """The scores of a thread's neighbouring positions: 16 bytes, or one score."""
    if kind.format.lanes > 1:
        return _vector(kind.format, _full(kind, address.value))
    return _vector(kind.format, [_single(kind, address.value, ir.Constant(ir.IntType(1), 1), 0.0)])


@word
def store_beside(kind: Case, address: Num, value: Num) -> None:
    """The way back of `beside`."""
    numbers = _numbers(value)
    if len(numbers) > 1:
        _store_full(kind.format, address.value, numbers)
    else:
        always = ir.Constant(ir.IntType(1), 1)
        _store_single(kind.format, address.value, numbers[0], always)


@word
def positions(kind: Case) -> int:
    """Positions that a thread owns together."""
    return kind.format.lanes


@word
def lane_size(kind: Case) -> int:
    """Bytes of a number of the arithmetic."""
    return kind.format.element.bitwidth // 8


@word
def put_lane(kind: Case, address: Num, value: Num) -> None:
    """A number of the arithmetic into shared memory, where `get_lanes` finds it."""
    put(address, value.to(kind.format.element))


@word
def get_lanes(kind: Case, address: Num) -> Num:
    """A thread's numbers, side by side in shared memory, as a vector."""
    size = kind.format.element.bitwidth // 8
    model = constant(kind.format.element, 0.0)
    return _vector(
        kind.format,
        [get(model, address + size * k).value for k in range(kind.format.lanes)],
    )


@word
def put_lanes(kind: Case, address: Num, value: Num) -> None:
    """The way back of `get_lanes`."""
    size = kind.format.element.bitwidth // 8
    for k, number in enumerate(_numbers(value)):
        put(address + size * k, Num(kind.format.element, number))


@word
def get_labels(kind: Case, address: Num) -> Num:
    """A thread's labels, int64 side by side in shared memory, as a vector of int32."""
    model, typ = constant(types.int64, 0), Vector(types.int32, kind.format.lanes)
    made = ir.Constant(vectors._llvm(typ), ir.Undefined)
    for k in range(typ.lanes):
        one = get(model, address + 8 * k).to(types.int32)
        made = _b().insert_element(made, one.value, _I32(k))
    return Num(typ, made)


@word
def is_class(labels: Num, c: Num) -> Num:
    """Which lanes have this label."""
    return labels == c.to(types.int32)


@word
def hidden_where(kind: Case, x: Num, mask: Num) -> Num:
    """Logits of the lanes of a mask as -inf; probabilities as they are."""
    return select(mask, float("-inf"), x) if kind.scores == ScoreKind.LOGITS else x


@word
def dropped_where(kind: Case, e: Num, mask: Num) -> Num:
    """Terms of the lanes of a mask as 0, if they are not hidden already."""
    return e if kind.scores == ScoreKind.LOGITS else select(mask, 0.0, e)


@word
def above(x: Num, x_t: Num, earlier: Num) -> Num:
    """Which scores stand above the target's: the greater, and the equal at a lower index."""
    return (x > x_t) | ((x == x_t) & earlier)


@word
def earlier_than(where: Num, t: Num) -> Num:
    """Which columns stand before the target's."""
    return where < t.to(types.int32)


@word
def in_row(where: Num, classes: Num) -> Num:
    """Which columns are classes."""
    return (where >= 0) & (where < classes.to(types.int32))


@word
def both(a: Num, b: Num) -> Num:
    """Lanes of two masks."""
    return a & b


@word
def counted(mask: Num) -> Num:
    """1 in the lanes of a mask, else 0."""
    return mask.cast("zext", types.int32)


@word
def zeros_of(labels: Num) -> Num:
    """Integers, all 0."""
    return constant(labels.typ, 0)


@word
def put_counts(address: Num, value: Num) -> None:
    """A thread's integers into shared memory, int64 each."""
    for k, number in enumerate(_numbers(value)):
        put(address + 8 * k, Num(types.int32, number).to(types.int64))


@word
def unordered(x: Num) -> Num:
    """Which lanes are NaN."""
    return x != x
