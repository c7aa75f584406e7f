"""Explicit vectors for the CPU's kernels: memory, and what is joined across rows.

LLVM does not vectorise loops that call exp, nor most loops over short rows, so the kernels name
their vectors. A vector holds 16 lanes of float32 or 8 of float64: as many bytes as a cache line.
Addresses are plain integers, in bytes: they carry no strides and no writability, so that no layout
compiles a kernel anew. `load` and `store` convert from and to the scores' format; `fetch` and
`keep` take the arithmetic's own numbers as they are.

    scores       load store load_one store_one load_some store_some
    pairs        load_pair store_pair pair_columns
    labels       load_labels load_label label_lanes label_size no_labels
    numbers      fetch fetch_one keep fetch_integers fetch_label fetch_labels fetch_long keep_label
                 fetch_factor fetch_factors fetch_losses
    bytes        stack_alloc copy_line stream_line copy_byte prefetch fence
    mode         float_mode set_float_mode FLUSH
    lanes        indices mask_of integer_size greater_halves
    rows         row_totals row_maxima load_panel gather_panel scatter_panel
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from sparse_xent.kernels.arithmetic import (
    BFLOAT16,
    FLOAT16,
    FLOAT64,
    Format,
    Join,
    bits,
    from_bits,
    maximum,
    minimum,
    select,
    shuffled,
)
from sparse_xent.kernels.cpu.abi import LINE
from sparse_xent.kernels.staging import (
    Value,
    Vector,
    constant,
    llvm_type,
    primitive,
    stage,
    static,
)

FLUSH = 0x8040  # of `float_mode`: subnormal numbers count as 0, read or computed
QUARTERS = 4  # a vector is four quarters of 128 bits; shuffles within a quarter are cheap

_I8, _I16, _I32, _I64 = (ir.IntType(n) for n in (8, 16, 32, 64))


# Memory ----------------------------------------------------------------------------------------


def _pointer(address: Value, to: ir.Type) -> Any:
    return stage.builder.inttoptr(address.value, to.as_pointer())


def _read(address: Value, typ: ir.Type, align: int) -> Any:
    return stage.builder.load(_pointer(address, typ), align=align, typ=typ)


def _write(address: Value, value: Any, align: int) -> Any:
    return stage.builder.store(value, _pointer(address, value.type), align=align)


def _from_memory(fmt: Format, raw: Any, lanes: int) -> Value:
    """Scores as they lie in memory, as numbers of the arithmetic; `lanes` is 0 for one alone."""
    floats, words = (Vector(t, lanes) if lanes else t for t in (fmt.element, types.int32))
    b = stage.builder
    if fmt.itemsize > 2:
        return Value(floats, raw)
    if fmt == FLOAT16 and stage.has_feature("f16c"):
        native = ir.VectorType(ir.HalfType(), lanes) if lanes else ir.HalfType()
        return Value(floats, b.fpext(b.bitcast(raw, native), llvm_type(floats)))
    half = Value(words, b.zext(raw, llvm_type(words)))
    if fmt == BFLOAT16:
        return from_bits(half << 16)
    # Exponent and fraction are moved in place and rebiased by 112, once more for inf and NaN; a
    # subnormal is made normal by one addition and one exact subtraction.
    sign, body = (half & 0x8000) << 16, (half & 0x7FFF) << 13
    exponent = body & (0x7C00 << 13)
    normal = body + (112 << 23)
    tiny = bits(from_bits(normal + (1 << 23)) - from_bits(constant(words, 113 << 23)))
    body = select(exponent == 0, tiny, normal)
    body = select(exponent == 0x7C00 << 13, normal + (112 << 23), body)
    return from_bits(body | sign)


def _rounded_to_bfloat16(raw: Value) -> Value:
    """Bits of float32 of which the upper half is the nearest bfloat16; not of every NaN."""
    return raw + 0x7FFF + ((raw >> 16) & 1)


def _to_memory(fmt: Format, value: Value) -> Any:
    """Numbers of the arithmetic as they lie in memory, rounded to nearest even."""
    b = stage.builder
    if fmt.itemsize > 2:
        return value.value
    lanes = value.typ.lanes if isinstance(value.typ, Vector) else 0
    short = ir.VectorType(_I16, lanes) if lanes else _I16
    if fmt == FLOAT16 and stage.has_feature("f16c"):
        half = ir.VectorType(ir.HalfType(), lanes) if lanes else ir.HalfType()
        return b.bitcast(b.fptrunc(value.value, half), short)
    raw = bits(value)
    if fmt == BFLOAT16:
        raw = select(value != value, raw | 0x400000, _rounded_to_bfloat16(raw))
        return b.trunc((raw >> 16).value, short)
    size = raw & 0x7FFFFFFF
    normal = (size + (0xFFF - (112 << 23)) + ((size >> 13) & 1)) >> 13
    tiny = bits(from_bits(size) + 0.5) - (126 << 23)  # the last place of 0.5 is the least half's
    special = select(size > 0x7F800000, constant(raw.typ, 0x7E00), 0x7C00)
    body = select(size < 113 << 23, tiny, select(size >= 143 << 23, special, normal))
    return b.trunc((body | ((raw >> 16) & 0x8000)).value, short)


@primitive
def load(fmt: Any, address: Value) -> Value:
    """The vector of scores that begins at `address`."""
    f = fmt.format
    return _from_memory(f, _read(address, ir.VectorType(f.memory, f.lanes), f.itemsize), f.lanes)


@primitive
def store(fmt: Any, address: Value, value: Value) -> None:
    """Write a vector as scores."""
    _write(address, _to_memory(fmt.format, value), fmt.format.itemsize)


@primitive
def load_pair(fmt: Any, address: Value) -> tuple[Value, Value]:
    """The scores from `address` on that fill two vectors: those of `pair_columns`.

    Of bfloat16 they are the even and the odd columns: one operation a vector, where neighbours take
    two.
    """
    f = fmt.format
    if f == BFLOAT16:
        both = Value(f.integers, _read(address, llvm_type(f.integers), f.itemsize))
        return from_bits(both << 16), from_bits(both & -0x10000)
    return load(fmt, address), load(fmt, address + f.lanes * f.itemsize)


@primitive
def pair_columns(fmt: Any) -> tuple[Value, Value]:
    """The columns of a pair's vectors."""
    f = fmt.format
    one = indices(fmt)
    return (one << 1, (one << 1) + 1) if f == BFLOAT16 else (one, one + f.lanes)


@primitive
def store_pair(fmt: Any, address: Value, first: Value, second: Value) -> None:
    """Write a pair as scores; a NaN's lower half must be 0, as it is in those of bfloat16."""
    f = fmt.format
    if f == BFLOAT16:
        low, high = (_rounded_to_bfloat16(bits(v)) for v in (first, second))
        even = Value(low.typ, stage.builder.lshr(low.value, constant(low.typ, 16).value))
        _write(address, (even | (high & -0x10000)).value, f.itemsize)
    else:
        store(fmt, address, first)
        store(fmt, address + f.lanes * f.itemsize, second)


@primitive
def load_one(fmt: Any, address: Value) -> Value:
    """The one score at `address`."""
    f = fmt.format
    return _from_memory(f, _read(address, f.memory, f.itemsize), 0)


@primitive
def store_one(fmt: Any, address: Value, value: Value) -> None:
    """Write one score."""
    f = fmt.format
    _write(address, _to_memory(f, value.to(f.element)), f.itemsize)


def _branch(condition: Value, usual: Callable[[], Any], other: Callable[[], Any]) -> Any:
    """The value of whichever branch is taken."""
    b = stage.builder
    with b.if_else(condition.value, likely=True) as (then, otherwise):
        with then:
            first = usual()
            first_block = b.block
        with otherwise:
            second = other()
            second_block = b.block
    if first is None:
        return None
    joined = b.phi(first.type)
    joined.add_incoming(first, first_block)
    joined.add_incoming(second, second_block)
    return joined


def _copier(size: int) -> Any:
    """The function that copies `count` items of so many bytes: to, its step, from, its step.

    It is never inlined: the addresses of all lanes, unrolled, would each become a variable of the
    loop around, which then spends most of its time on adding to them.
    """
    module, name = stage.builder.module, f"sparse_xent_copy_{size}"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [_I64] * 5), name)
    function.linkage = "linkonce_odr"
    function.attributes.add("noinline")
    to, to_step, source, source_step, count = function.args
    entry, body, done = (function.append_basic_block(n) for n in ("entry", "body", "done"))
    b = ir.IRBuilder(entry)
    b.cbranch(b.icmp_signed(">", count, _I64(0)), body, done)
    b.position_at_end(body)
    i = b.phi(_I64)
    item = ir.IntType(8 * size)
    at = [
        b.inttoptr(b.add(start, b.mul(i, step)), item.as_pointer())
        for start, step in ((source, source_step), (to, to_step))
    ]
    b.store(b.load(at[0], align=size, typ=item), at[1], align=size)
    after = b.add(i, _I64(1))
    i.add_incoming(_I64(0), entry)
    i.add_incoming(after, body)
    b.cbranch(b.icmp_signed("<", after, count), body, done)
    b.position_at_end(done)
    b.ret_void()
    return function


def _stack_vector(vector: ir.VectorType) -> Any:
    """A vector on the stack, and its address."""
    b = stage.builder
    with b.goto_entry_block():
        place = b.alloca(vector)
        place.align = LINE
    return place, b.ptrtoint(place, _I64)


@primitive
def load_some(fmt: Any, address: Value, step: Value, count: Value) -> Value:
    """A vector of scores `step` bytes apart; 0 from lane `count` on, where nothing is read."""
    f = fmt.format
    b = stage.builder
    vector = ir.VectorType(f.memory, f.lanes)

    def one_by_one() -> Any:
        place, to = _stack_vector(vector)
        b.store(ir.Constant(vector, None), place, align=LINE)
        some = minimum(count, f.lanes)
        b.call(_copier(f.itemsize), [to, _I64(f.itemsize), address.value, step.value, some.value])
        return b.load(place, align=LINE, typ=vector)

    usual = (count >= f.lanes) & (step == f.itemsize)
    return _from_memory(
        f, _branch(usual, lambda: _read(address, vector, f.itemsize), one_by_one), f.lanes
    )


@primitive
def store_some(fmt: Any, address: Value, step: Value, count: Value, value: Value) -> None:
    """Write the first `count` lanes as scores `step` bytes apart."""
    f = fmt.format
    raw = _to_memory(f, value)

    def one_by_one() -> None:
        b = stage.builder
        place, source = _stack_vector(raw.type)
        b.store(raw, place, align=LINE)
        some = minimum(count, f.lanes)
        b.call(
            _copier(f.itemsize), [address.value, step.value, source, _I64(f.itemsize), some.value]
        )

    usual = (count >= f.lanes) & (step == f.itemsize)
    _branch(usual, lambda: _write(address, raw, f.itemsize) and None, one_by_one)


@primitive
def fetch(fmt: Any, address: Value) -> Value:
    """A vector of the arithmetic's own numbers, as `keep` wrote it."""
    typ = fmt.format.vector
    return Value(typ, _read(address, llvm_type(typ), typ.element.bitwidth // 8))


@primitive
def fetch_one(fmt: Any, address: Value) -> Value:
    """One of the arithmetic's own numbers, as `keep` wrote it."""
    typ = fmt.format.element
    return Value(typ, _read(address, llvm_type(typ), typ.bitwidth // 8))


@primitive
def keep(address: Value, value: Value) -> None:
    """Write a vector or a number as it is."""
    _write(address, value.value, value.element.bitwidth // 8)


@primitive
def fetch_label(address: Value) -> Value:
    """One int32, as an integer."""
    return Value(types.int32, _read(address, _I32, 4)).to(types.int64)


@primitive
def keep_label(address: Value, t: Value) -> None:
    """Write an integer as an int32."""
    _write(address, t.to(types.int32).value, 4)


@static
@dataclass(frozen=True)
class LabelFormat:
    """How labels lie in memory; they are taken as int32, int64 or float64."""

    name: str
    size: int  # bytes

    @property
    def lanes(self) -> int:
        """How many are taken at once."""
        return 8 if self.size == 8 else 16

    def load(self, address: Value, lanes: int) -> Value:
        """A vector of labels; `lanes` is 0 for one alone."""
        memory = ir.DoubleType() if self.name == "float64" else ir.IntType(8 * self.size)
        raw = _read(address, ir.VectorType(memory, lanes) if lanes else memory, self.size)
        wide = {"int64": types.int64, "float64": types.float64}
        element = wide.get(self.name, types.int32)
        typ = Vector(element, lanes) if lanes else element
        return Value(typ, stage.builder.zext(raw, llvm_type(typ)) if self.size == 1 else raw)


@primitive
def load_labels(fmt: LabelFormat, address: Value) -> Value:
    """The labels from `address` on."""
    return fmt.load(address, fmt.lanes)


@primitive
def load_label(fmt: LabelFormat, address: Value) -> Value:
    """The one label at `address`."""
    return fmt.load(address, 0)


@primitive
def label_lanes(fmt: LabelFormat) -> int:
    """How many labels a vector holds."""
    return fmt.lanes


@primitive
def label_size(fmt: LabelFormat) -> int:
    """Bytes of a label in memory."""
    return fmt.size


@primitive
def no_labels(fmt: LabelFormat) -> Value:
    """An int32 for each lane, 0."""
    return constant(Vector(types.int32, fmt.lanes), 0)


@primitive
def fetch_long(address: Value) -> Value:
    """One int64."""
    return Value(types.int64, _read(address, _I64, 8))


@primitive
def fetch_labels(fmt: Any, address: Value) -> Value:
    """As many int32 as there are lanes."""
    typ = fmt.format.integers
    raw = _read(address, ir.VectorType(_I32, typ.lanes), 4)
    return Value(typ, stage.builder.sext(raw, llvm_type(typ)) if fmt.format.wide else raw)


@primitive
def fetch_integers(fmt: Any, address: Value) -> Value:
    """A vector of integers, as wide as the lanes, from any address."""
    typ = fmt.format.integers
    return Value(typ, _read(address, llvm_type(typ), typ.element.bitwidth // 8))


@primitive
def fetch_losses(fmt: Any, address: Value) -> Value:
    """As many losses as float64 has lanes, rounded to the format's dtype, in float64."""
    f, typ = fmt.format, Vector(fmt.format.element, FLOAT64.lanes)
    losses = Value(typ, _read(address, llvm_type(typ), typ.element.bitwidth // 8))
    if f.itemsize == 2:
        losses = _from_memory(f, _to_memory(f, losses), typ.lanes)
    return losses if losses.wide else losses.cast("fpext", types.float64)


@primitive
def mask_of(fmt: Any, truth: Value) -> Value:
    """An integer as wide as a lane: all bits set, or none."""
    return select(truth, constant(fmt.format.integers.element, -1), 0)


@primitive
def fetch_factor(address: Value) -> Value:
    """One float64."""
    return Value(types.float64, _read(address, ir.DoubleType(), 8))


@primitive
def fetch_factors(fmt: Any, address: Value) -> Value:
    """As many float64 as there are lanes, rounded to the arithmetic's dtype."""
    typ = fmt.format.vector
    raw = _read(address, ir.VectorType(ir.DoubleType(), typ.lanes), 8)
    return Value(typ, raw if fmt.format.wide else stage.builder.fptrunc(raw, llvm_type(typ)))


@static
@dataclass(frozen=True)
class StackBytes:
    """A number of bytes, known when the kernel is compiled."""

    size: int


@primitive
def stack_alloc(count: StackBytes) -> Value:
    """The address of so many bytes of scratch, which live as long as the kernel's call."""
    with stage.builder.goto_entry_block():
        place = stage.builder.alloca(ir.ArrayType(_I8, count.size))
        place.align = LINE
    return Value(types.int64, stage.builder.ptrtoint(place, _I64))


@primitive
def copy_line(to: Value, source: Value) -> None:
    """Copy 64 bytes."""
    _write(to, _read(source, ir.VectorType(_I64, LINE // 8), 1), 1)


def _stream(to: Value, line: Any) -> None:
    mark = stage.builder.module.add_metadata([ir.Constant(_I32, 1)])
    _write(to, line, LINE).set_metadata("nontemporal", mark)


@primitive
def stream_line(to: Value, source: Value) -> None:
    """Copy 64 bytes to a 64-byte boundary with a nontemporal store: the line is not read first."""
    _stream(to, _read(source, ir.VectorType(_I64, LINE // 8), 1))


@primitive
def stream_vector(to: Value, value: Value) -> None:
    """Write a vector of lanes to a 64-byte boundary with a nontemporal store."""
    _stream(to, value.value)


@primitive
def copy_byte(to: Value, source: Value) -> None:
    """Copy one byte."""
    _write(to, _read(source, _I8, 1), 1)


@primitive
def prefetch(address: Value) -> None:
    """Prefetch the line of `address`, which need not exist."""
    pointer = _pointer(address, _I8)
    function = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
    ask = cgutils.get_or_insert_function(stage.builder.module, function, "llvm.prefetch.p0")
    stage.builder.call(ask, [pointer, *(ir.Constant(_I32, n) for n in (0, 3, 1))])


@primitive
def fence() -> None:
    """Streamed lines become visible before anything that is written after the fence."""
    stage.builder.fence("seq_cst")


def _control(name: str, place: Any) -> None:
    pointer = _I8.as_pointer()  # LLVM up to 15 takes no other
    function = ir.FunctionType(ir.VoidType(), [pointer])
    called = cgutils.get_or_insert_function(stage.builder.module, function, f"llvm.x86.sse.{name}")
    stage.builder.call(called, [stage.builder.bitcast(place, pointer)])


@primitive
def float_mode() -> Value:
    """How this thread's floats are computed: x86's MXCSR; 0 on other processors."""
    if not stage.is_x86():
        return constant(types.int64, 0)
    with stage.builder.goto_entry_block():
        place = stage.builder.alloca(_I32)
    _control("stmxcsr", place)
    return Value(types.int32, stage.builder.load(place, typ=_I32)).to(types.int64)


@primitive
def set_float_mode(mode: Value) -> None:
    """Let this thread compute as `float_mode` said."""
    if stage.is_x86():
        with stage.builder.goto_entry_block():
            place = stage.builder.alloca(_I32)
        stage.builder.store(mode.to(types.int32).value, place)
        _control("ldmxcsr", place)


# Lanes -----------------------------------------------------------------------------------------


@primitive
def indices(fmt: Any) -> Value:
    """0, 1, 2, ...: the lanes' own numbers."""
    typ = fmt.format.integers
    return Value(typ, ir.Constant(llvm_type(typ), list(range(typ.lanes))))


@primitive
def greater_halves(a: Value, b: Value) -> Value:
    """Of each 32 bits the greater, as numbers without a sign: one instruction for any lanes."""
    build, typ = stage.builder, llvm_type(a.typ)
    halves = ir.VectorType(_I32, a.typ.lanes * (2 if a.wide else 1))
    first, second = (build.bitcast(v.value, halves) for v in (a, b))
    greater = build.select(build.icmp_unsigned(">", first, second), first, second)
    return Value(a.typ, build.bitcast(greater, typ))


# Across rows ---------------------------------------------------------------------------------


def _fold_segments(a: Value, b: Value, segment: int, join: Join) -> Value:
    """In every segment of a, then of b, the second half joined to the first."""
    half = segment // 2
    first = [s + i for s in range(0, 2 * a.typ.lanes, segment) for i in range(half)]
    return join(shuffled(a, b, first), shuffled(a, b, [i + half for i in first]))


def _fold_within_quarters(a: Value, b: Value, run: int, join: Join) -> Value:
    """In every quarter, the upper half joined to the lower; runs of a and b alternate."""
    n = a.typ.lanes
    quarter = n // QUARTERS
    low = []
    for start in range(0, n, quarter):
        for at in range(start, start + quarter // 2, run):
            low += [*range(at, at + run), *range(n + at, n + at + run)]
    high = [i + quarter // 2 for i in low]
    return join(shuffled(a, b, low), shuffled(a, b, high))


def _fold_rows(fmt: Format, address: Value, join: Join) -> Value:
    """Vector r's lanes joined into lane r, in the same order for every r.

    Whole quarters are joined first, until a vector has four rows, one a quarter; then lanes within
    quarters. Rows are paired so that all come out in order.
    """
    rows = [fetch(fmt, address + LINE * r) for r in range(fmt.lanes)]
    quarter = fmt.lanes // QUARTERS
    folded = []
    for e in range(quarter):
        a, b, c, d = rows[e::quarter]
        two = _fold_segments(a, b, fmt.lanes, join), _fold_segments(c, d, fmt.lanes, join)
        folded.append(_fold_segments(*two, fmt.lanes // 2, join))
    if quarter == 4:
        folded = [
            _fold_within_quarters(folded[0], folded[1], 1, join),
            _fold_within_quarters(folded[2], folded[3], 1, join),
        ]
    return _fold_within_quarters(folded[0], folded[1], quarter // 2, join)


@primitive
def row_totals(fmt: Any, address: Value) -> Value:
    """Lane r is the sum of the r-th of as many kept vectors as there are lanes."""
    return _fold_rows(fmt.format, address, operator.add)


@primitive
def row_maxima(fmt: Any, address: Value) -> Value:
    """Lane r is the greatest lane of the r-th kept vector; a NaN may or may not be seen."""
    return _fold_rows(fmt.format, address, maximum)


def _transposed(panel: list[Value]) -> list[Value]:
    """Transpose within every quarter: four vectors of float32, or two of float64."""
    n = panel[0].typ.lanes

    def mixed(a: Value, b: Value, at: Sequence[int]) -> Value:
        """In every quarter, these lanes of the quarter's: first a's, then b's."""
        size = n // QUARTERS
        order = [i if i < size else n - size + i for i in at]
        return shuffled(a, b, [q + i for q in range(0, n, size) for i in order])

    if len(panel) == 2:
        a, b = panel
        return [mixed(a, b, (0, 2)), mixed(a, b, (1, 3))]
    a, b, c, d = panel
    upper = mixed(a, b, (0, 4, 1, 5)), mixed(c, d, (0, 4, 1, 5))
    lower = mixed(a, b, (2, 6, 3, 7)), mixed(c, d, (2, 6, 3, 7))
    return [mixed(*pair, at) for pair in (upper, lower) for at in ((0, 1, 4, 5), (2, 3, 6, 7))]


@primitive
def load_panel(fmt: Any, address: Value, step: Value) -> tuple[Value, ...]:
    """The first columns (4, or 2 of float64) of as many rows as there are lanes, transposed.

    Row r begins at address + r * step, and is lane r of every column.
    """
    f = fmt.format
    quarter = f.lanes // QUARTERS
    b = stage.builder
    rows = []
    for _ in range(f.lanes):
        rows.append(_read(address, ir.VectorType(f.memory, quarter), f.itemsize))
        address = address + step
    panel = []
    for e in range(quarter):
        four = rows[e::quarter]
        while len(four) > 1:
            at = ir.Constant(
                ir.VectorType(_I32, 2 * four[0].type.count), list(range(2 * four[0].type.count))
            )
            four = [b.shuffle_vector(x, y, at) for x, y in zip(four[::2], four[1::2], strict=True)]
        panel.append(_from_memory(f, four[0], f.lanes))
    return tuple(_transposed(panel))


@primitive
def gather_panel(fmt: Any, address: Value, step: Value, to: Value) -> None:
    """`load_panel`, each column kept as a vector: the first at `to`, the others behind it."""
    for c, column in enumerate(load_panel(fmt, address, step)):
        _write(to + LINE * c, column.value, LINE)


@primitive
def scatter_panel(fmt: Any, source: Value, address: Value, step: Value) -> None:
    """The inverse of `gather_panel`; rows are written in order, so that the later overwrites."""
    f = fmt.format
    quarter = f.lanes // QUARTERS
    b = stage.builder
    columns = [
        Value(f.vector, _read(source + LINE * c, llvm_type(f.vector), LINE)) for c in range(quarter)
    ]
    panel = [_to_memory(f, row) for row in _transposed(columns)]
    for q in range(QUARTERS):
        at = ir.Constant(ir.VectorType(_I32, quarter), list(range(quarter * q, quarter * (q + 1))))
        for raw in panel:
            _write(address, b.shuffle_vector(raw, raw, at), f.itemsize)
            address = address + step
