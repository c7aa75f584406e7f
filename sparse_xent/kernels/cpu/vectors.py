"""Explicit vectors for Numba: a small vocabulary that says what the processor should do.

LLVM does not vectorise loops that call exp, nor most loops over short rows, so the kernels say
their vectors aloud. A `Vector` is an LLVM vector (`<16 x float>`, `<8 x double>`): LLVM lowers it
to whatever registers there are (two of AVX2, four of NEON, one of AVX-512), every lane rounds as
a scalar would, and so every machine with a fused multiply-add gives the same bits.

A `Format` says how scores lie in memory. Lanes are always float32 (16 of them) or float64 (8);
halves are widened by `load` and rounded to nearest even by `store`. Addresses are plain integers,
in bytes: they carry no strides and no writability, so that no layout compiles a kernel anew.

    memory       load store load_one store_one load_some store_some fetch fetch_one keep stack
                 fetch_label fetch_labels fetch_long keep_label fetch_factor fetch_factors
                 copy_line stream_line copy_byte prefetch fence
    lanes        splat rounded integers indices like lanes itemsize
    arithmetic   + - * /  fma mad addend maximum minimum floor
    comparison   < <= > >= == !=  & |  select anywhere
    bits         bits from_bits whole_power as_float greater_halves << >>
    across       total highest widen row_totals row_maxima gather_panel scatter_panel

A `word` is a Python function over `Num`s. Kernels call it as they call anything; compiling the
call runs the function, and each operation on a Num writes its LLVM instruction. So words call
words, take vectors and single numbers alike, choose by format with a plain `if`, and cost next
to nothing to compile: no type of theirs is ever inferred.
"""

import inspect
import operator
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.imputils import lower_constant
from numba.core.typing.templates import (
    AbstractTemplate,
    infer,
    infer_global,
    make_intrinsic_template,
    signature,
)
from numba.extending import (
    NativeValue,
    lower_builtin,
    models,
    register_model,
    typeof_impl,
    unbox,
)

from sparse_xent.kernels.cpu.abi import LINE

QUARTERS = 4  # a vector is four quarters of 128 bits; shuffles within a quarter are cheap

_I1, _I8, _I16, _I32, _I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))


# Types -----------------------------------------------------------------------------------------


class Vector(types.Type):  # type: ignore[misc]
    """Numba's type of an LLVM vector of numbers, or of booleans: a mask."""

    def __init__(self, element: types.Type, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        super().__init__(name=f"Vector({element}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, _llvm(vector))


class Tag(types.Type):  # type: ignore[misc]
    """Numba's type of a constant for which a kernel is compiled: the value is in the type."""

    def __init__(self, value: Any) -> None:
        self.value = value
        super().__init__(name=f"Tag({value!r})")


register_model(Tag)(models.OpaqueModel)
_Class = TypeVar("_Class", bound=type)


def tag(cls: _Class) -> _Class:
    """Class decorator: kernels are compiled anew for every instance that they are called with."""
    typeof_impl.register(cls)(lambda value, _context: Tag(value))
    return cls


@unbox(Tag)
def _unbox_tag(_typ: Tag, _obj: Any, c: Any) -> NativeValue:
    return NativeValue(c.context.get_dummy_value())


@lower_constant(Tag)
def _constant_tag(context: Any, _builder: Any, _typ: Tag, _value: Any) -> Any:
    return context.get_dummy_value()


@tag
@dataclass(frozen=True)
class Format:
    """How scores lie in memory, and the lanes in which they are computed."""

    name: str
    itemsize: int

    @property
    def format(self) -> "Format":
        """Itself: words take a format, or anything that has one."""
        return self

    @property
    def wide(self) -> bool:
        """Whether the arithmetic is float64."""
        return self.name == "float64"

    @property
    def lanes(self) -> int:
        """How many numbers a vector holds."""
        return 8 if self.wide else 16

    @property
    def element(self) -> types.Type:
        """Numba's type of a lane."""
        return types.float64 if self.wide else types.float32

    @property
    def vector(self) -> Vector:
        """The type of a vector of scores."""
        return Vector(self.element, self.lanes)

    @property
    def integers(self) -> Vector:
        """The type of as many integers, as wide as the lanes."""
        return Vector(types.int64 if self.wide else types.int32, self.lanes)

    @property
    def memory(self) -> ir.Type:
        """LLVM's type of one score in memory."""
        return {2: _I16, 4: ir.FloatType(), 8: ir.DoubleType()}[self.itemsize]


FLOAT16 = Format("float16", 2)
BFLOAT16 = Format("bfloat16", 2)
FLOAT32 = Format("float32", 4)
FLOAT64 = Format("float64", 8)

_SCALARS = {
    types.boolean: _I1,
    types.int32: _I32,
    types.int64: _I64,
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
}


def _llvm(typ: types.Type) -> ir.Type:
    if isinstance(typ, Vector):
        return ir.VectorType(_SCALARS[typ.element], typ.lanes)
    return _SCALARS[typ]


def _element(typ: types.Type) -> types.Type:
    return typ.element if isinstance(typ, Vector) else typ


def _of(typ: types.Type, element: types.Type) -> types.Type:
    """The type with other elements: a vector of as many lanes, or one number."""
    return Vector(element, typ.lanes) if isinstance(typ, Vector) else element


# Numbers that write instructions ---------------------------------------------------------------


class _Stage(threading.local):
    """Where instructions are being written."""

    builder: ir.IRBuilder
    context: Any


_stage = _Stage()


class Num:
    """A number, a vector of them or a mask, at the time when the kernel is compiled."""

    def __init__(self, typ: types.Type, value: Any) -> None:
        self.typ, self.value = typ, value

    @property
    def element(self) -> types.Type:
        """The type of one of its numbers."""
        return _element(self.typ)

    @property
    def floating(self) -> bool:
        """Whether its numbers are floats."""
        return isinstance(self.element, types.Float)

    @property
    def wide(self) -> bool:
        """Whether its numbers have 64 bits."""
        return self.element in (types.float64, types.int64)

    def to(self, typ: types.Type) -> "Num":
        """Converted to the type's elements, and put into all its lanes."""
        if self.typ == typ:
            return self
        b, here, there = _stage.builder, _element(self.typ), _element(typ)
        value, scalar = self.value, _llvm(there)
        if isinstance(self.typ, Vector):
            raise TypeError(f"{self.typ} does not become {typ} by itself")
        if isinstance(here, types.Integer):
            if isinstance(there, types.Float):
                value = b.sitofp(value, scalar)
            elif here.bitwidth != there.bitwidth:
                value = (b.trunc if here.bitwidth > there.bitwidth else b.sext)(value, scalar)
        elif here != there:
            value = (b.fptrunc if here == types.float64 else b.fpext)(value, scalar)
        if isinstance(typ, Vector):
            blank = ir.Constant(_llvm(typ), ir.Undefined)
            one = b.insert_element(blank, value, ir.Constant(_I32, 0))
            value = b.shuffle_vector(
                one, blank, ir.Constant(ir.VectorType(_I32, typ.lanes), [0] * typ.lanes)
            )
        return Num(typ, value)

    def cast(self, how: str, element: types.Type) -> "Num":
        """Every lane through one LLVM conversion."""
        typ = _of(self.typ, element)
        return Num(typ, getattr(_stage.builder, how)(self.value, _llvm(typ)))

    def __add__(self, other: Any) -> "Num":
        return _operate(self, other, "fadd", "add")

    def __sub__(self, other: Any) -> "Num":
        return _operate(self, other, "fsub", "sub")

    def __mul__(self, other: Any) -> "Num":
        return _operate(self, other, "fmul", "mul")

    def __truediv__(self, other: Any) -> "Num":
        return _operate(self, other, "fdiv", "")

    def __radd__(self, other: Any) -> "Num":
        return _operate(other, self, "fadd", "add")

    def __rsub__(self, other: Any) -> "Num":
        return _operate(other, self, "fsub", "sub")

    def __rmul__(self, other: Any) -> "Num":
        return _operate(other, self, "fmul", "mul")

    def __rtruediv__(self, other: Any) -> "Num":
        return _operate(other, self, "fdiv", "")

    def __lshift__(self, other: Any) -> "Num":
        return _operate(self, other, "", "shl")

    def __rshift__(self, other: Any) -> "Num":
        return _operate(self, other, "", "ashr")

    def __and__(self, other: Any) -> "Num":
        return _operate(self, other, "", "and_")

    def __or__(self, other: Any) -> "Num":
        return _operate(self, other, "", "or_")

    def __lt__(self, other: Any) -> "Num":
        return _compare(self, other, "<")

    def __le__(self, other: Any) -> "Num":
        return _compare(self, other, "<=")

    def __gt__(self, other: Any) -> "Num":
        return _compare(self, other, ">")

    def __ge__(self, other: Any) -> "Num":
        return _compare(self, other, ">=")

    def __eq__(self, other: Any) -> "Num":  # type: ignore[override]
        return _compare(self, other, "==")

    def __ne__(self, other: Any) -> "Num":  # type: ignore[override]
        return _compare(self, other, "!=")

    __hash__ = None  # type: ignore[assignment]


def constant(typ: types.Type, value: float) -> Num:
    """A Python number as a Num, in every lane."""
    element = _element(typ)
    value = float(value) if isinstance(element, types.Float) else int(value)
    llvm = _llvm(typ)
    return Num(typ, ir.Constant(llvm, [value] * typ.lanes if isinstance(typ, Vector) else value))


def _joined(*values: Any) -> list[Num]:
    """The values in one type: the vector's among them, else the widest float's, else integer."""
    typs = [v.typ for v in values if isinstance(v, Num)]
    vectors = [t for t in typs if isinstance(t, Vector)]
    common = (
        vectors[0] if vectors else max(typs, key=lambda t: (isinstance(t, types.Float), str(t)))
    )
    return [v.to(common) if isinstance(v, Num) else constant(common, v) for v in values]


def _operate(a: Any, b: Any, on_floats: str, on_integers: str) -> Num:
    a, b = _joined(a, b)
    name = on_floats if a.floating else on_integers
    return Num(a.typ, getattr(_stage.builder, name)(a.value, b.value))


def _compare(a: Any, b: Any, sign: str) -> Num:
    """A mask; false where either is NaN, except for !=."""
    a, b = _joined(a, b)
    builder = _stage.builder
    how = builder.icmp_signed
    if a.floating:
        how = builder.fcmp_unordered if sign == "!=" else builder.fcmp_ordered
    return Num(_of(a.typ, types.boolean), how(sign, a.value, b.value))


# Words -----------------------------------------------------------------------------------------


def word(function: Any) -> Any:
    """Decorator: kernels may call the function; other words go on calling it as it is."""

    def typed(_context: Any, *args: types.Type) -> Any:
        args = tuple(types.unliteral(a) for a in args)
        with _scratch_builder():
            result = _typeof(function(*(_entered(a, _blank(a)) for a in args)))

        def emit(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
            outer = vars(_stage).copy()
            _stage.context, _stage.builder = context, builder
            try:
                made = function(*(_entered(*pair) for pair in zip(args, values, strict=True)))
                return _left(made)
            finally:
                vars(_stage).update(outer)

        return signature(result, *args), emit

    parameters = inspect.signature(function).parameters.values()
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    typed.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
    template = make_intrinsic_template(function, typed, function.__name__, kwargs={})
    infer(template)
    infer_global(function, types.Function(template))
    return function


class _scratch_builder:
    """Instructions that are thrown away: a word is run once to see what it returns."""

    def __enter__(self) -> None:
        self._outer = vars(_stage).copy()
        function = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), []), "scratch")
        _stage.builder = ir.IRBuilder(function.append_basic_block())
        _stage.context = None

    def __exit__(self, *_: object) -> None:
        vars(_stage).clear()
        vars(_stage).update(self._outer)


def _blank(typ: types.Type) -> Any:
    """Any value of the type, for the trial run; what a tuple's is does not matter."""
    if isinstance(typ, Tag | types.BaseTuple | types.NoneType):
        return None
    return ir.Constant(_llvm(typ), ir.Undefined)


def _entered(typ: types.Type, value: Any) -> Any:
    """What a word sees of a kernel's value."""
    if isinstance(typ, Tag):
        return typ.value
    if isinstance(typ, types.NoneType):
        return None
    if isinstance(typ, types.BaseTuple):
        b = _stage.builder
        parts = [
            _blank(t) if value is None else b.extract_value(value, i) for i, t in enumerate(typ)
        ]
        return tuple(_entered(t, v) for t, v in zip(typ, parts, strict=True))
    return Num(typ, value)


def _typeof(made: Any) -> types.Type:
    if made is None:
        return types.void
    if isinstance(made, tuple):
        return types.Tuple([_typeof(m) for m in made])
    if isinstance(made, Num):
        return made.typ
    return types.float64 if isinstance(made, float) else types.int64


def _left(made: Any) -> Any:
    """What the kernel gets back."""
    if made is None:
        return _stage.context.get_dummy_value()
    if isinstance(made, tuple):
        return _stage.context.make_tuple(_stage.builder, _typeof(made), [_left(m) for m in made])
    return (made if isinstance(made, Num) else constant(_typeof(made), made)).value


def _infix(op: Any) -> None:
    """Let kernels write the operator between vectors too."""

    @infer_global(op)
    class _Typed(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: Any, kws: Any) -> Any:
            if kws or not any(isinstance(a, Vector) for a in args):
                return None
            with _scratch_builder():
                return signature(op(*(Num(a, _blank(a)) for a in args)).typ, *args)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        outer = vars(_stage).copy()
        _stage.context, _stage.builder = context, builder
        try:
            return op(*(Num(t, v) for t, v in zip(sig.args, args, strict=True))).value
        finally:
            vars(_stage).update(outer)

    for pair in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(op, *pair)(lower)


for _name in (
    "add",
    "iadd",
    "sub",
    "mul",
    "truediv",
    "lshift",
    "rshift",
    "lt",
    "le",
    "gt",
    "ge",
    "eq",
    "ne",
    "and_",
    "or_",
):
    _infix(getattr(operator, _name))


# Memory ----------------------------------------------------------------------------------------


def _can(feature: str) -> bool:
    """Whether the processor compiled for has an x86 feature; other processors have their like."""
    if _stage.context is None:
        return True
    triple, _, features = _stage.context.codegen().magic_tuple()
    return not triple.startswith(("x86", "i686", "amd64")) or f"+{feature}" in features.split(",")


def _pointer(address: Num, to: ir.Type) -> Any:
    return _stage.builder.inttoptr(address.value, to.as_pointer())


def _read(address: Num, typ: ir.Type, align: int) -> Any:
    return _stage.builder.load(_pointer(address, typ), align=align, typ=typ)


def _write(address: Num, value: Any, align: int) -> Any:
    return _stage.builder.store(value, _pointer(address, value.type), align=align)


def _widened(fmt: Format, raw: Any, lanes: int) -> Num:
    """Scores as they lie in memory, as numbers of the arithmetic; `lanes` is 0 for one alone."""
    floats, words = (Vector(t, lanes) if lanes else t for t in (fmt.element, types.int32))
    b = _stage.builder
    if fmt.itemsize > 2:
        return Num(floats, raw)
    if fmt == FLOAT16 and _can("f16c"):
        half = ir.VectorType(ir.HalfType(), lanes) if lanes else ir.HalfType()
        return Num(floats, b.fpext(b.bitcast(raw, half), _llvm(floats)))
    word = Num(words, b.zext(raw, _llvm(words)))
    if fmt == BFLOAT16:
        return from_bits(word << 16)
    # Exponent and fraction are moved in place and rebiased by 112, once more for inf and NaN; a
    # subnormal is made normal by one addition and one exact subtraction.
    sign, body = (word & 0x8000) << 16, (word & 0x7FFF) << 13
    exponent = body & (0x7C00 << 13)
    normal = body + (112 << 23)
    tiny = bits(from_bits(normal + (1 << 23)) - from_bits(constant(words, 113 << 23)))
    body = select(exponent == 0, tiny, normal)
    body = select(exponent == 0x7C00 << 13, normal + (112 << 23), body)
    return from_bits(body | sign)


def _narrowed(fmt: Format, value: Num) -> Any:
    """Numbers of the arithmetic as they lie in memory, rounded to nearest even."""
    b = _stage.builder
    if fmt.itemsize > 2:
        return value.value
    lanes = value.typ.lanes if isinstance(value.typ, Vector) else 0
    short = ir.VectorType(_I16, lanes) if lanes else _I16
    if fmt == FLOAT16 and _can("f16c"):
        half = ir.VectorType(ir.HalfType(), lanes) if lanes else ir.HalfType()
        return b.bitcast(b.fptrunc(value.value, half), short)
    word = bits(value)
    if fmt == BFLOAT16:
        rounded = word + 0x7FFF + ((word >> 16) & 1)
        word = select(value != value, word | 0x400000, rounded)
        return b.trunc((word >> 16).value, short)
    size = word & 0x7FFFFFFF
    normal = (size + (0xFFF - (112 << 23)) + ((size >> 13) & 1)) >> 13
    tiny = bits(from_bits(size) + 0.5) - (126 << 23)  # the last place of 0.5 is the least half's
    special = select(size > 0x7F800000, constant(word.typ, 0x7E00), 0x7C00)
    body = select(size < 113 << 23, tiny, select(size >= 143 << 23, special, normal))
    return b.trunc((body | ((word >> 16) & 0x8000)).value, short)


@word
def load(fmt: Any, address: Num) -> Num:
    """The vector of scores that begins at `address`."""
    f = fmt.format
    return _widened(f, _read(address, ir.VectorType(f.memory, f.lanes), f.itemsize), f.lanes)


@word
def store(fmt: Any, address: Num, value: Num) -> None:
    """Write a vector as scores."""
    _write(address, _narrowed(fmt.format, value), fmt.format.itemsize)


@word
def load_one(fmt: Any, address: Num) -> Num:
    """The one score at `address`."""
    f = fmt.format
    return _widened(f, _read(address, f.memory, f.itemsize), 0)


@word
def store_one(fmt: Any, address: Num, value: Num) -> None:
    """Write one score."""
    f = fmt.format
    _write(address, _narrowed(f, value.to(f.element)), f.itemsize)


def _branches(condition: Num, usual: Callable[[], Any], other: Callable[[], Any]) -> Any:
    """What the branch taken gives."""
    b = _stage.builder
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
    module, name = _stage.builder.module, f"sparse_xent_copy_{size}"
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


def _place(vector: ir.VectorType) -> Any:
    """Room for a vector on the stack, and its address."""
    b = _stage.builder
    with b.goto_entry_block():
        place = b.alloca(vector)
        place.align = LINE
    return place, b.ptrtoint(place, _I64)


@word
def load_some(fmt: Any, address: Num, step: Num, count: Num) -> Num:
    """A vector of scores `step` bytes apart; 0 from lane `count` on, where nothing is read."""
    f = fmt.format
    b = _stage.builder
    vector = ir.VectorType(f.memory, f.lanes)

    def one_by_one() -> Any:
        place, to = _place(vector)
        b.store(ir.Constant(vector, None), place, align=LINE)
        some = minimum(count, f.lanes)
        b.call(_copier(f.itemsize), [to, _I64(f.itemsize), address.value, step.value, some.value])
        return b.load(place, align=LINE, typ=vector)

    usual = (count >= f.lanes) & (step == f.itemsize)
    return _widened(
        f, _branches(usual, lambda: _read(address, vector, f.itemsize), one_by_one), f.lanes
    )


@word
def store_some(fmt: Any, address: Num, step: Num, count: Num, value: Num) -> None:
    """Write the first `count` lanes as scores `step` bytes apart."""
    f = fmt.format
    raw = _narrowed(f, value)

    def one_by_one() -> None:
        b = _stage.builder
        place, source = _place(raw.type)
        b.store(raw, place, align=LINE)
        some = minimum(count, f.lanes)
        b.call(
            _copier(f.itemsize), [address.value, step.value, source, _I64(f.itemsize), some.value]
        )

    usual = (count >= f.lanes) & (step == f.itemsize)
    _branches(usual, lambda: _write(address, raw, f.itemsize) and None, one_by_one)


@word
def fetch(fmt: Any, address: Num) -> Num:
    """A vector of the arithmetic's own numbers, as `keep` wrote it."""
    typ = fmt.format.vector
    return Num(typ, _read(address, _llvm(typ), typ.element.bitwidth // 8))


@word
def fetch_one(fmt: Any, address: Num) -> Num:
    """One of the arithmetic's own numbers, as `keep` wrote it."""
    typ = fmt.format.element
    return Num(typ, _read(address, _llvm(typ), typ.bitwidth // 8))


@word
def keep(address: Num, value: Num) -> None:
    """Write a vector or a number as it is."""
    _write(address, value.value, value.element.bitwidth // 8)


@word
def fetch_label(address: Num) -> Num:
    """One int32, as an integer."""
    return Num(types.int32, _read(address, _I32, 4)).to(types.int64)


@word
def keep_label(address: Num, t: Num) -> None:
    """Write an integer as an int32."""
    _write(address, t.to(types.int32).value, 4)


@word
def fetch_long(address: Num) -> Num:
    """One int64."""
    return Num(types.int64, _read(address, _I64, 8))


@word
def fetch_labels(fmt: Any, address: Num) -> Num:
    """As many int32 as there are lanes."""
    typ = fmt.format.integers
    raw = _read(address, ir.VectorType(_I32, typ.lanes), 4)
    return Num(typ, _stage.builder.sext(raw, _llvm(typ)) if fmt.format.wide else raw)


@word
def fetch_integers(fmt: Any, address: Num) -> Num:
    """A vector of integers, as wide as the lanes, from any address."""
    typ = fmt.format.integers
    return Num(typ, _read(address, _llvm(typ), typ.element.bitwidth // 8))


@word
def integer_size(fmt: Any) -> int:
    """Bytes of an integer as wide as a lane."""
    return fmt.format.element.bitwidth // 8


@word
def mask_of(fmt: Any, truth: Num) -> Num:
    """An integer as wide as a lane: all bits set, or none."""
    return select(truth, constant(fmt.format.integers.element, -1), 0)


@word
def fetch_factor(address: Num) -> Num:
    """One float64."""
    return Num(types.float64, _read(address, ir.DoubleType(), 8))


@word
def fetch_factors(fmt: Any, address: Num) -> Num:
    """As many float64 as there are lanes, rounded to the arithmetic's dtype."""
    typ = fmt.format.vector
    raw = _read(address, ir.VectorType(ir.DoubleType(), typ.lanes), 8)
    return Num(typ, raw if fmt.format.wide else _stage.builder.fptrunc(raw, _llvm(typ)))


@tag
@dataclass(frozen=True)
class Room:
    """A number of bytes, known when the kernel is compiled."""

    size: int


@word
def stack(room: Room) -> Num:
    """The address of so many bytes of scratch, which live as long as the kernel's call."""
    with _stage.builder.goto_entry_block():
        place = _stage.builder.alloca(ir.ArrayType(_I8, room.size))
        place.align = LINE
    return Num(types.int64, _stage.builder.ptrtoint(place, _I64))


@word
def copy_line(to: Num, source: Num) -> None:
    """Copy 64 bytes."""
    _write(to, _read(source, ir.VectorType(_I64, LINE // 8), 1), 1)


@word
def stream_line(to: Num, source: Num) -> None:
    """Copy 64 bytes to a 64-byte boundary, past the caches: the line is not read first."""
    written = _write(to, _read(source, ir.VectorType(_I64, LINE // 8), 1), LINE)
    module = _stage.builder.module
    written.set_metadata("nontemporal", module.add_metadata([ir.Constant(_I32, 1)]))


@word
def copy_byte(to: Num, source: Num) -> None:
    """Copy one byte."""
    _write(to, _read(source, _I8, 1), 1)


@word
def prefetch(address: Num) -> None:
    """Ask for the line of `address`, which need not exist."""
    pointer = _pointer(address, _I8)
    function = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
    ask = cgutils.get_or_insert_function(_stage.builder.module, function, "llvm.prefetch.p0")
    _stage.builder.call(ask, [pointer, *(ir.Constant(_I32, n) for n in (0, 3, 1))])


@word
def fence() -> None:
    """Streamed lines become visible before anything that is written after."""
    _stage.builder.fence("seq_cst")


# Lanes -----------------------------------------------------------------------------------------


def fact(truth: bool) -> Num:
    """What is known when the kernel is compiled: LLVM drops the other branch of an `if`."""
    return constant(types.boolean, truth)


@word
def lanes(fmt: Any) -> int:
    """How many numbers a vector holds."""
    return fmt.format.lanes


@word
def itemsize(fmt: Any) -> int:
    """Bytes of one score in memory."""
    return fmt.format.itemsize


@word
def splat(fmt: Any, value: Any) -> Num:
    """A number in every lane."""
    typ = fmt.format.vector
    return value.to(typ) if isinstance(value, Num) else constant(typ, value)


@word
def rounded(fmt: Any, value: Any) -> Num:
    """A number rounded to the arithmetic's dtype."""
    return value.to(fmt.format.element)


@word
def integers(fmt: Any, value: Any) -> Num:
    """An integer in every lane."""
    typ = fmt.format.integers
    return value.to(typ) if isinstance(value, Num) else constant(typ, value)


@word
def indices(fmt: Any) -> Num:
    """0, 1, 2, ...: the lanes' own numbers."""
    typ = fmt.format.integers
    return Num(typ, ir.Constant(_llvm(typ), list(range(typ.lanes))))


@word
def like(model: Num, value: Any) -> Num:
    """A number as `model` is: in every lane, or alone."""
    return value.to(model.typ) if isinstance(value, Num) else constant(model.typ, value)


# Arithmetic ------------------------------------------------------------------------------------


def _library(name: str, *args: Num) -> Num:
    """An LLVM intrinsic whose result and arguments have one type."""
    b, typ = _stage.builder, args[0].typ
    llvm = _llvm(typ)
    suffix = "f64" if args[0].wide else "f32"
    if isinstance(typ, Vector):
        suffix = f"v{typ.lanes}{suffix}"
    function = ir.FunctionType(llvm, [llvm] * len(args))
    called = cgutils.get_or_insert_function(b.module, function, f"llvm.{name}.{suffix}")
    return Num(typ, b.call(called, [a.value for a in args]))


@word
def fma(a: Any, b: Any, c: Any) -> Num:
    """a * b + c rounded once, on every machine."""
    a, b, c = _joined(a, b, c)
    if _can("fma") or a.wide:
        return _library("fma", a, b, c)
    # Without the instruction float32 goes through float64, where the product is exact: the C
    # library's fmaf, lane by lane, takes ten times as long.
    a, b, c = (v.cast("fpext", types.float64) for v in (a, b, c))
    return (a * b + c).cast("fptrunc", types.float32)


@word
def mad(a: Any, b: Any, c: Any) -> Num:
    """a * b + c, fused where the machine can: for polynomials, where either will do."""
    a, b, c = _joined(a, b, c)
    return _library("fma", a, b, c) if _can("fma") else a * b + c


class _Volatile(ir.instructions.LoadInstr):  # type: ignore[misc]
    """A load that LLVM neither drops nor moves."""

    def descr(self, buf: list[str]) -> None:
        """Write it down."""
        super().descr(buf)
        buf[-1] = buf[-1].replace("load", "load volatile", 1)


@word
def addend(model: Num, value: float) -> Any:
    """A constant that a `mad` adds to vectors like `model`.

    Where there are 16 registers, LLVM would fill them with constants and put sums aside in memory
    at each step. Read from memory by the instruction that adds it, a constant takes none (loops
    over classes: 5 to 15 % faster on AVX2).
    """
    if not isinstance(model.typ, Vector) or _can("avx512vl"):
        return value
    b, constants = _stage.builder, constant(model.typ, value).value
    name = f"addend {constants}"
    if name not in b.module.globals:
        place = ir.GlobalVariable(b.module, constants.type, name)
        place.linkage, place.global_constant, place.align = "internal", True, LINE
        place.initializer = constants
    read = _Volatile(b.block, b.module.globals[name], typ=constants.type)
    read.align = LINE
    b._insert(read)
    return Num(model.typ, read)


@word
def maximum(a: Any, b: Any) -> Num:
    """The greater; b where either is NaN, so that a NaN in b is kept and one in a is not."""
    a, b = _joined(a, b)
    return select(a > b, a, b)


@word
def minimum(a: Any, b: Any) -> Num:
    """The lesser; b where either is NaN, so that a NaN in b is kept and one in a is not."""
    a, b = _joined(a, b)
    return select(a < b, a, b)


@word
def floor(value: Num) -> Num:
    """The greatest whole number that is not above."""
    return _library("floor", value)


@word
def select(mask: Num, a: Any, b: Any) -> Num:
    """a where the mask is true, else b."""
    a, b = _joined(a, b)
    return Num(a.typ, _stage.builder.select(mask.value, a.value, b.value))


@word
def anywhere(mask: Num) -> Num:
    """Whether any lane of the mask is true."""
    word = ir.IntType(mask.typ.lanes)
    b = _stage.builder
    return Num(types.boolean, b.icmp_unsigned("!=", b.bitcast(mask.value, word), word(0)))


# Bits ------------------------------------------------------------------------------------------


@word
def bits(value: Num) -> Num:
    """The bits of floats, as integers of their width."""
    return value.cast("bitcast", types.int64 if value.wide else types.int32)


@word
def from_bits(value: Num) -> Num:
    """The floats that have these bits."""
    return value.cast("bitcast", types.float64 if value.wide else types.float32)


@word
def whole_power(n: Num) -> Num:
    """2^n for a whole n up to 127 (1023), exactly; 0 below -126 (-1022)."""
    lowest, magic, shift = (1023, 1.5 * 2.0**52, 52) if n.wide else (127, 1.5 * 2.0**23, 23)
    return from_bits(bits(maximum(-lowest, n) + (magic + lowest)) << shift)


@word
def as_float(value: Num) -> Num:
    """Integers as the nearest floats of their width."""
    return value.cast("sitofp", types.float64 if value.wide else types.float32)


@word
def greater_halves(a: Num, b: Num) -> Num:
    """Of each 32 bits the greater, as numbers without a sign: one instruction for any lanes."""
    build, typ = _stage.builder, _llvm(a.typ)
    halves = ir.VectorType(_I32, a.typ.lanes * (2 if a.wide else 1))
    first, second = (build.bitcast(v.value, halves) for v in (a, b))
    greater = build.select(build.icmp_unsigned(">", first, second), first, second)
    return Num(a.typ, build.bitcast(greater, typ))


# Across lanes ----------------------------------------------------------------------------------


def _shuffled(a: Num, b: Num, at: Sequence[int]) -> Num:
    """Lanes of a (0, 1, ...) and b (from a's count on), in this order."""
    mask = ir.Constant(ir.VectorType(_I32, len(at)), list(at))
    return Num(Vector(a.element, len(at)), _stage.builder.shuffle_vector(a.value, b.value, mask))


def _lane(value: Num, index: int) -> Num:
    return Num(value.element, _stage.builder.extract_element(value.value, ir.Constant(_I32, index)))


Join = Callable[[Num, Num], Num]


def _folded(value: Num, join: Join) -> Num:
    """The upper half joined to the lower until one number is left."""
    count = value.typ.lanes
    while count > 1:
        count //= 2
        value = join(
            _shuffled(value, value, range(count)), _shuffled(value, value, range(count, 2 * count))
        )
    return _lane(value, 0)


@word
def total(vector: Num) -> Num:
    """The sum of all lanes, by halves."""
    return _folded(vector, operator.add)


@word
def highest(vector: Num) -> Num:
    """The greatest lane; a NaN may or may not be seen."""
    return _folded(vector, maximum)


@word
def widen(vector: Num) -> Num:
    """The same numbers in float64."""
    return vector if vector.wide else vector.cast("fpext", types.float64)


def _halved(a: Num, b: Num, segment: int, join: Join) -> Num:
    """In every segment of a, then of b, the second half joined to the first."""
    half = segment // 2
    first = [s + i for s in range(0, 2 * a.typ.lanes, segment) for i in range(half)]
    return join(_shuffled(a, b, first), _shuffled(a, b, [i + half for i in first]))


def _met(a: Num, b: Num, run: int, join: Join) -> Num:
    """In every quarter, the upper half joined to the lower; runs of a and b alternate."""
    n = a.typ.lanes
    quarter = n // QUARTERS
    low = []
    for start in range(0, n, quarter):
        for at in range(start, start + quarter // 2, run):
            low += [*range(at, at + run), *range(n + at, n + at + run)]
    high = [i + quarter // 2 for i in low]
    return join(_shuffled(a, b, low), _shuffled(a, b, high))


def _rows_joined(fmt: Format, address: Num, join: Join) -> Num:
    """Vector r's lanes joined into lane r, in the same order for every r.

    Whole quarters meet first, until a vector holds four rows, one a quarter; then lanes within
    quarters. The rows that travel together are chosen so that all come out in order.
    """
    rows = [fetch(fmt, address + LINE * r) for r in range(fmt.lanes)]
    quarter = fmt.lanes // QUARTERS
    held = []
    for e in range(quarter):
        a, b, c, d = rows[e::quarter]
        two = _halved(a, b, fmt.lanes, join), _halved(c, d, fmt.lanes, join)
        held.append(_halved(*two, fmt.lanes // 2, join))
    if quarter == 4:
        held = [_met(held[0], held[1], 1, join), _met(held[2], held[3], 1, join)]
    return _met(held[0], held[1], quarter // 2, join)


@word
def row_totals(fmt: Any, address: Num) -> Num:
    """Lane r is the sum of the r-th of as many kept vectors as there are lanes."""
    return _rows_joined(fmt.format, address, operator.add)


@word
def row_maxima(fmt: Any, address: Num) -> Num:
    """Lane r is the greatest lane of the r-th kept vector; a NaN may or may not be seen."""
    return _rows_joined(fmt.format, address, maximum)


def _turned(panel: list[Num]) -> list[Num]:
    """Transpose within every quarter: four vectors of float32, or two of float64."""
    n = panel[0].typ.lanes

    def mixed(a: Num, b: Num, at: Sequence[int]) -> Num:
        """In every quarter, these lanes of the quarter's: first a's, then b's."""
        size = n // QUARTERS
        order = [i if i < size else n - size + i for i in at]
        return _shuffled(a, b, [q + i for q in range(0, n, size) for i in order])

    if len(panel) == 2:
        a, b = panel
        return [mixed(a, b, (0, 2)), mixed(a, b, (1, 3))]
    a, b, c, d = panel
    upper = mixed(a, b, (0, 4, 1, 5)), mixed(c, d, (0, 4, 1, 5))
    lower = mixed(a, b, (2, 6, 3, 7)), mixed(c, d, (2, 6, 3, 7))
    return [mixed(*pair, at) for pair in (upper, lower) for at in ((0, 1, 4, 5), (2, 3, 6, 7))]


@word
def gather_panel(fmt: Any, address: Num, step: Num, to: Num) -> None:
    """Turn the first columns (4, or 2 of float64) of as many rows as there are lanes.

    Row r begins at address + r * step; column c is kept as the c-th vector from `to` on, and row
    r is its lane r.
    """
    f = fmt.format
    quarter = f.lanes // QUARTERS
    b = _stage.builder
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
        panel.append(_widened(f, four[0], f.lanes))
    for c, column in enumerate(_turned(panel)):
        _write(to + LINE * c, column.value, LINE)


@word
def scatter_panel(fmt: Any, source: Num, address: Num, step: Num) -> None:
    """The way back of `gather_panel`; rows are written in order, so that the later prevails."""
    f = fmt.format
    quarter = f.lanes // QUARTERS
    b = _stage.builder
    columns = [
        Num(f.vector, _read(source + LINE * c, _llvm(f.vector), LINE)) for c in range(quarter)
    ]
    panel = [_narrowed(f, row) for row in _turned(columns)]
    for q in range(QUARTERS):
        at = ir.Constant(ir.VectorType(_I32, quarter), list(range(quarter * q, quarter * (q + 1))))
        for raw in panel:
            _write(address, b.shuffle_vector(raw, raw, at), f.itemsize)
            address = address + step
