"""Arithmetic on lanes that every machine has: it is LLVM's own, and so are its roundings.

A vector is an LLVM vector (`<16 x float>`, `<8 x double>`) that LLVM maps to whatever registers
there are: two of AVX2, four of NEON, one of AVX-512, single registers of a GPU's thread. Every lane
rounds as a scalar would, so every machine with a fused multiply-add gives the same bits.

A `Format` says how scores lie in memory. Lanes are always float32 or float64; halves are widened
when they are loaded and rounded to nearest even when they are stored.

    lanes        lanes itemsize splat rounded integers like
    arithmetic   + - * /  fma mad addend maximum minimum floor
    comparison   < <= > >= == !=  & |  select anywhere everywhere
    bits         bits from_bits whole_power as_float << >>
    across       total highest lowest widen
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from sparse_xent.kernels.staging import (
    Value,
    Vector,
    constant,
    llvm_type,
    primitive,
    stage,
    static,
    unified,
)

_I16, _I32 = ir.IntType(16), ir.IntType(32)


# Lanes -----------------------------------------------------------------------------------------


@static
@dataclass(frozen=True)
class Format:
    """How scores lie in memory, and the lanes in which they are computed."""

    name: str
    itemsize: int

    @property
    def format(self) -> "Format":
        """Itself: primitives take a format, or anything that has one."""
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


@primitive
def lanes(fmt: Any) -> int:
    """How many numbers a vector holds."""
    return fmt.format.lanes


@primitive
def itemsize(fmt: Any) -> int:
    """Bytes of one score in memory."""
    return fmt.format.itemsize


@primitive
def lane_size(fmt: Any) -> int:
    """Bytes of a number of the arithmetic."""
    return fmt.format.element.bitwidth // 8


@primitive
def splat(fmt: Any, value: Any) -> Value:
    """A number in every lane."""
    typ = fmt.format.vector
    return value.to(typ) if isinstance(value, Value) else constant(typ, value)


@primitive
def rounded(fmt: Any, value: Any) -> Value:
    """A number rounded to the arithmetic's dtype."""
    return value.to(fmt.format.element)


@primitive
def integers(fmt: Any, value: Any) -> Value:
    """An integer in every lane."""
    typ = fmt.format.integers
    return value.to(typ) if isinstance(value, Value) else constant(typ, value)


@primitive
def like(model: Value, value: Any) -> Value:
    """A number as `model` is: in every lane, or alone."""
    return value.to(model.typ) if isinstance(value, Value) else constant(model.typ, value)


# Arithmetic ------------------------------------------------------------------------------------


def _intrinsic(name: str, *args: Value) -> Value:
    """An LLVM intrinsic whose result and arguments have one type."""
    b, typ = stage.builder, args[0].typ
    llvm = llvm_type(typ)
    suffix = "f64" if args[0].wide else "f32"
    if isinstance(typ, Vector):
        suffix = f"v{typ.lanes}{suffix}"
    function = ir.FunctionType(llvm, [llvm] * len(args))
    called = cgutils.get_or_insert_function(b.module, function, f"llvm.{name}.{suffix}")
    return Value(typ, b.call(called, [a.value for a in args]))


@primitive
def fma(a: Any, b: Any, c: Any) -> Value:
    """a * b + c rounded once, on every machine."""
    a, b, c = unified(a, b, c)
    if stage.has_feature("fma") or a.wide:
        return _intrinsic("fma", a, b, c)
    # Without the instruction float32 goes through float64, where the product is exact: the C
    # library's fmaf, lane by lane, takes ten times as long.
    a, b, c = (v.cast("fpext", types.float64) for v in (a, b, c))
    return (a * b + c).cast("fptrunc", types.float32)


@primitive
def mad(a: Any, b: Any, c: Any) -> Value:
    """a * b + c, fused where the machine can: for polynomials, where either will do."""
    a, b, c = unified(a, b, c)
    return _intrinsic("fma", a, b, c) if stage.has_feature("fma") else a * b + c


class _Volatile(ir.instructions.LoadInstr):  # type: ignore[misc]
    """A load that LLVM neither drops nor moves."""

    def descr(self, buf: list[str]) -> None:
        """Append its text."""
        super().descr(buf)
        buf[-1] = buf[-1].replace("load", "load volatile", 1)


@primitive
def addend(model: Value, value: float) -> Any:
    """A constant that a `mad` adds to vectors like `model`.

    Where there are 16 registers, LLVM would fill them with constants and put sums aside in memory
    at each step. Read from memory by the instruction that adds it, a constant takes none (loops
    over classes: 5 to 15 % faster on AVX2).
    """
    if not isinstance(model.typ, Vector) or stage.has_feature("avx512vl"):
        return value
    b, constants = stage.builder, constant(model.typ, value).value
    name, size = f"addend {constants}", model.typ.lanes * model.element.bitwidth // 8
    if name not in b.module.globals:
        place = ir.GlobalVariable(b.module, constants.type, name)
        place.linkage, place.global_constant, place.align = "internal", True, size
        place.initializer = constants
    read = _Volatile(b.block, b.module.globals[name], typ=constants.type)
    read.align = size
    b._insert(read)
    return Value(model.typ, read)


@primitive
def maximum(a: Any, b: Any) -> Value:
    """The greater; b where either is NaN, so that a NaN in b is kept and one in a is not."""
    a, b = unified(a, b)
    return select(a > b, a, b)


@primitive
def minimum(a: Any, b: Any) -> Value:
    """The lesser; b where either is NaN, so that a NaN in b is kept and one in a is not."""
    a, b = unified(a, b)
    return select(a < b, a, b)


@primitive
def floor(value: Value) -> Value:
    """The greatest whole number that is not above."""
    return _intrinsic("floor", value)


@primitive
def select(mask: Value, a: Any, b: Any) -> Value:
    """a where the mask is true, else b."""
    a, b = unified(a, b)
    return Value(a.typ, stage.builder.select(mask.value, a.value, b.value))


@primitive
def anywhere(mask: Value) -> Value:
    """Whether any lane of the mask is true."""
    b, integer = stage.builder, ir.IntType(mask.typ.lanes)
    return Value(types.boolean, b.icmp_unsigned("!=", b.bitcast(mask.value, integer), integer(0)))


@primitive
def everywhere(mask: Value) -> Value:
    """Whether all lanes of the mask are true."""
    b, integer = stage.builder, ir.IntType(mask.typ.lanes)
    return Value(types.boolean, b.icmp_unsigned("==", b.bitcast(mask.value, integer), integer(-1)))


# Bits ------------------------------------------------------------------------------------------


@primitive
def bits(value: Value) -> Value:
    """The bits of floats, as integers of their width."""
    return value.cast("bitcast", types.int64 if value.wide else types.int32)


@primitive
def from_bits(value: Value) -> Value:
    """The floats that have these bits."""
    return value.cast("bitcast", types.float64 if value.wide else types.float32)


@primitive
def whole_power(n: Value) -> Value:
    """2^n for a whole n up to 127 (1023), exactly; 0 below -126 (-1022)."""
    lowest, magic, shift = (1023, 1.5 * 2.0**52, 52) if n.wide else (127, 1.5 * 2.0**23, 23)
    return from_bits(bits(maximum(-lowest, n) + (magic + lowest)) << shift)


@primitive
def as_float(value: Value) -> Value:
    """Integers as the nearest floats of their width."""
    return value.cast("sitofp", types.float64 if value.wide else types.float32)


# Across lanes ----------------------------------------------------------------------------------


def shuffled(a: Value, b: Value, at: Sequence[int]) -> Value:
    """Lanes of a (0, 1, ...) and b (from a's count on), in this order."""
    mask = ir.Constant(ir.VectorType(_I32, len(at)), list(at))
    return Value(Vector(a.element, len(at)), stage.builder.shuffle_vector(a.value, b.value, mask))


def _lane(value: Value, index: int) -> Value:
    return Value(
        value.element, stage.builder.extract_element(value.value, ir.Constant(_I32, index))
    )


Join = Callable[[Value, Value], Value]


def _fold(value: Value, join: Join) -> Value:
    """The upper half joined to the lower until one number is left."""
    count = value.typ.lanes
    while count > 1:
        count //= 2
        value = join(
            shuffled(value, value, range(count)), shuffled(value, value, range(count, 2 * count))
        )
    return _lane(value, 0)


@primitive
def total(vector: Value) -> Value:
    """The sum of all lanes, by halves."""
    return _fold(vector, operator.add)


@primitive
def highest(vector: Value) -> Value:
    """The greatest lane; a NaN may or may not be seen."""
    return _fold(vector, maximum)


@primitive
def lowest(vector: Value) -> Value:
    """The least lane; a NaN may or may not be seen."""
    return _fold(vector, minimum)


@primitive
def widen(vector: Value) -> Value:
    """The same numbers in float64."""
    return vector if vector.wide else vector.cast("fpext", types.float64)
