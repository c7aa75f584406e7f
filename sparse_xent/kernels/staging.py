"""How primitives are written: Python functions that run while a kernel is compiled.

Numba infers types and compiles loops and branches. What it cannot express (vectors of lanes,
instructions of its own choice) is written here as a `primitive`: a Python function over `Value`s.
A kernel calls it as it calls any function. To compile the call, the function is run, and each
operation on a Value appends its LLVM instruction. So primitives call each other, take vectors and
single numbers alike, choose by format with a plain `if`, and cost next to nothing to compile:
Numba infers no type inside them.

A `Static` is a constant that a kernel is compiled for. A primitive sees its plain Python value.
"""

import inspect
import operator
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from llvmlite import ir
from numba.core import types
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

_I1, _I32, _I64 = (ir.IntType(n) for n in (1, 32, 64))


# Types -----------------------------------------------------------------------------------------


class Vector(types.Type):  # type: ignore[misc]
    """Numba's type of an LLVM vector of numbers, or of booleans: a mask."""

    def __init__(self, element: types.Type, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        super().__init__(name=f"Vector({element}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, llvm_type(vector))


class Static(types.Type):  # type: ignore[misc]
    """Numba's type of a constant for which a kernel is compiled: the value is in the type."""

    def __init__(self, value: Any) -> None:
        self.value = value
        super().__init__(name=f"Static({value!r})")


register_model(Static)(models.OpaqueModel)
_Class = TypeVar("_Class", bound=type)


def static(cls: _Class) -> _Class:
    """Class decorator: kernels are compiled anew for every instance that they are called with."""
    typeof_impl.register(cls)(lambda value, _context: Static(value))
    return cls


@unbox(Static)
def _unbox_static(_typ: Static, _obj: Any, c: Any) -> NativeValue:
    return NativeValue(c.context.get_dummy_value())


@lower_constant(Static)
def _constant_static(context: Any, _builder: Any, _typ: Static, _value: Any) -> Any:
    return context.get_dummy_value()


_SCALARS = {
    types.boolean: _I1,
    types.int32: _I32,
    types.int64: _I64,
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
}


def llvm_type(typ: types.Type) -> ir.Type:
    """LLVM's type of a number, a vector or a mask."""
    if isinstance(typ, Vector):
        return ir.VectorType(_SCALARS[typ.element], typ.lanes)
    return _SCALARS[typ]


def element_of(typ: types.Type) -> types.Type:
    """The type of one number of it."""
    return typ.element if isinstance(typ, Vector) else typ


def with_element(typ: types.Type, element: types.Type) -> types.Type:
    """The type with other elements: a vector of as many lanes, or one number."""
    return Vector(element, typ.lanes) if isinstance(typ, Vector) else element


# Values that append instructions ----------------------------------------------------------------


class _Stage(threading.local):
    """Where this thread appends instructions."""

    builder: ir.IRBuilder
    context: Any  # Numba's target; None in a trial run, whose instructions are thrown away

    def is_x86(self) -> bool:
        """Whether the processor compiled for is an x86; not so in a trial run."""
        if self.context is None:
            return False
        triple, *_ = self.context.codegen().magic_tuple()
        return triple.startswith(("x86", "i686", "amd64"))

    def has_feature(self, name: str) -> bool:
        """Whether the processor compiled for has an x86 feature; true on any other processor."""
        if not self.is_x86():
            return True
        *_, features = self.context.codegen().magic_tuple()
        return f"+{name}" in features.split(",")


stage = _Stage()


@contextmanager
def _appending(builder: ir.IRBuilder, context: Any) -> Iterator[None]:
    outer = vars(stage).copy()
    stage.builder, stage.context = builder, context
    try:
        yield
    finally:
        vars(stage).clear()
        vars(stage).update(outer)


def _trial() -> Any:
    """Appends to a function that is thrown away: a primitive is run once to see what it returns."""
    function = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), []), "trial")
    return _appending(ir.IRBuilder(function.append_basic_block()), None)


class Value:
    """A number, a vector of them or a mask, at the time when the kernel is compiled."""

    def __init__(self, typ: types.Type, value: Any) -> None:
        self.typ, self.value = typ, value

    @property
    def element(self) -> types.Type:
        """The type of one of its numbers."""
        return element_of(self.typ)

    @property
    def floating(self) -> bool:
        """Whether its numbers are floats."""
        return isinstance(self.element, types.Float)

    @property
    def wide(self) -> bool:
        """Whether its numbers have 64 bits."""
        return self.element in (types.float64, types.int64)

    def to(self, typ: types.Type) -> "Value":
        """Converted to the type's elements, and put into all its lanes."""
        if self.typ == typ:
            return self
        b, here, there = stage.builder, element_of(self.typ), element_of(typ)
        value, scalar = self.value, llvm_type(there)
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
            blank = ir.Constant(llvm_type(typ), ir.Undefined)
            one = b.insert_element(blank, value, ir.Constant(_I32, 0))
            value = b.shuffle_vector(
                one, blank, ir.Constant(ir.VectorType(_I32, typ.lanes), [0] * typ.lanes)
            )
        return Value(typ, value)

    def cast(self, how: str, element: types.Type) -> "Value":
        """Every lane through one LLVM conversion."""
        typ = with_element(self.typ, element)
        return Value(typ, getattr(stage.builder, how)(self.value, llvm_type(typ)))

    def __add__(self, other: Any) -> "Value":
        return _operate(self, other, "fadd", "add")

    def __sub__(self, other: Any) -> "Value":
        return _operate(self, other, "fsub", "sub")

    def __mul__(self, other: Any) -> "Value":
        return _operate(self, other, "fmul", "mul")

    def __truediv__(self, other: Any) -> "Value":
        return _operate(self, other, "fdiv", "")

    def __radd__(self, other: Any) -> "Value":
        return _operate(other, self, "fadd", "add")

    def __rsub__(self, other: Any) -> "Value":
        return _operate(other, self, "fsub", "sub")

    def __rmul__(self, other: Any) -> "Value":
        return _operate(other, self, "fmul", "mul")

    def __rtruediv__(self, other: Any) -> "Value":
        return _operate(other, self, "fdiv", "")

    def __lshift__(self, other: Any) -> "Value":
        return _operate(self, other, "", "shl")

    def __rshift__(self, other: Any) -> "Value":
        return _operate(self, other, "", "ashr")

    def __and__(self, other: Any) -> "Value":
        return _operate(self, other, "", "and_")

    def __or__(self, other: Any) -> "Value":
        return _operate(self, other, "", "or_")

    def __lt__(self, other: Any) -> "Value":
        return _compare(self, other, "<")

    def __le__(self, other: Any) -> "Value":
        return _compare(self, other, "<=")

    def __gt__(self, other: Any) -> "Value":
        return _compare(self, other, ">")

    def __ge__(self, other: Any) -> "Value":
        return _compare(self, other, ">=")

    def __eq__(self, other: Any) -> "Value":  # type: ignore[override]
        return _compare(self, other, "==")

    def __ne__(self, other: Any) -> "Value":  # type: ignore[override]
        return _compare(self, other, "!=")

    __hash__ = None  # type: ignore[assignment]


def constant(typ: types.Type, value: float) -> Value:
    """A Python number as a Value, in every lane."""
    element = element_of(typ)
    value = float(value) if isinstance(element, types.Float) else int(value)
    llvm = llvm_type(typ)
    return Value(typ, ir.Constant(llvm, [value] * typ.lanes if isinstance(typ, Vector) else value))


def unified(*values: Any) -> list[Value]:
    """The values in one type: the vector's among them, else the widest float's, else integer."""
    typs = [v.typ for v in values if isinstance(v, Value)]
    vectors = [t for t in typs if isinstance(t, Vector)]
    common = (
        vectors[0] if vectors else max(typs, key=lambda t: (isinstance(t, types.Float), str(t)))
    )
    return [v.to(common) if isinstance(v, Value) else constant(common, v) for v in values]


def _operate(a: Any, b: Any, on_floats: str, on_integers: str) -> Value:
    a, b = unified(a, b)
    name = on_floats if a.floating else on_integers
    return Value(a.typ, getattr(stage.builder, name)(a.value, b.value))


def _compare(a: Any, b: Any, sign: str) -> Value:
    """A mask; false where either is NaN, except for !=."""
    a, b = unified(a, b)
    builder = stage.builder
    how = builder.icmp_signed
    if a.floating:
        how = builder.fcmp_unordered if sign == "!=" else builder.fcmp_ordered
    return Value(with_element(a.typ, types.boolean), how(sign, a.value, b.value))


# Primitives ----------------------------------------------------------------------------------


def primitive(function: Any) -> Any:
    """Decorator: kernels may call the function; other primitives call it as plain Python."""

    def typed(_context: Any, *args: types.Type) -> Any:
        args = tuple(types.unliteral(a) for a in args)
        with _trial():
            result = _type_of(function(*(_received(a, _undefined(a)) for a in args)))

        def emit(context: Any, builder: ir.IRBuilder, _signature: Any, values: Any) -> Any:
            with _appending(builder, context):
                received = (_received(*pair) for pair in zip(args, values, strict=True))
                return _returned(function(*received))

        return signature(result, *args), emit

    parameters = inspect.signature(function).parameters.values()
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    typed.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
    template = make_intrinsic_template(function, typed, function.__name__, kwargs={})
    infer(template)
    infer_global(function, types.Function(template))
    return function


def _undefined(typ: types.Type) -> Any:
    """Any value of the type, for the trial run; what a tuple's is does not matter."""
    if isinstance(typ, Static | types.BaseTuple | types.NoneType):
        return None
    return ir.Constant(llvm_type(typ), ir.Undefined)


def _received(typ: types.Type, value: Any) -> Any:
    """What a primitive sees of a kernel's value."""
    if isinstance(typ, Static):
        return typ.value
    if isinstance(typ, types.NoneType):
        return None
    if isinstance(typ, types.BaseTuple):
        b = stage.builder
        parts = [
            _undefined(t) if value is None else b.extract_value(value, i) for i, t in enumerate(typ)
        ]
        return tuple(_received(t, v) for t, v in zip(typ, parts, strict=True))
    return Value(typ, value)


def _type_of(made: Any) -> types.Type:
    """Numba's type of what a primitive returns."""
    if made is None:
        return types.void
    if isinstance(made, tuple):
        return types.Tuple([_type_of(m) for m in made])
    if isinstance(made, Value):
        return made.typ
    return types.float64 if isinstance(made, float) else types.int64


def _returned(made: Any) -> Any:
    """LLVM's value of what a primitive returns."""
    if made is None:
        return stage.context.get_dummy_value()
    if isinstance(made, tuple):
        return stage.context.make_tuple(stage.builder, _type_of(made), [_returned(m) for m in made])
    return (made if isinstance(made, Value) else constant(_type_of(made), made)).value


def _register_operator(op: Any) -> None:
    """Let kernels write the operator between vectors, too."""

    @infer_global(op)
    class _Typed(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: Any, kws: Any) -> Any:
            if kws or not any(isinstance(a, Vector) for a in args):
                return None
            with _trial():
                return signature(op(*(Value(a, _undefined(a)) for a in args)).typ, *args)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        with _appending(builder, context):
            return op(*(Value(t, v) for t, v in zip(sig.args, args, strict=True))).value

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
    _register_operator(getattr(operator, _name))


def static_bool(truth: bool) -> Value:
    """A truth known when the kernel is compiled: LLVM drops the other branch of an `if`."""
    return constant(types.boolean, truth)
