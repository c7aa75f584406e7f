"""How Numba compiles a kernel: its functions are typed one by one, and optimised once, together.

Numba makes every function it compiles callable from Python, optimises it and turns it into machine
code. Of a function that is only called by another all that is wasted. Here the functions of a
kernel stop at plain LLVM, and the kernel itself becomes one object file: a C function that needs
neither Numba nor Python to run. (That takes half the time of Numba's usual pipeline, and an object
file that is found on disk takes no import of Numba.) And kernels know numbers, tuples and `range`
alone: what Numba knows of arrays and strings takes a quarter of a second to load.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.cpu import CPUContext
from numba.core.dispatcher import _FunctionCompiler
from numba.core.registry import CPUDispatcher, CPUTarget
from numba.core.target_extension import (
    CPU,
    dispatcher_registry,
    jit_registry,
    target_override,
    target_registry,
)
from numba.core.typed_passes import (
    IRLegalization,
    NativeLowering,
    NoPythonBackend,
    NopythonTypeInference,
    PreLowerStripPhis,
)
from numba.core.untyped_passes import (
    DeadBranchPrune,
    FixupArgs,
    IRProcessing,
    ReconstructSSA,
    TranslateByteCode,
)

from sparse_xent.kernels.cache import ENTRY
from sparse_xent.kernels.cpu.abi import LINE

_OPTIONS = {"nopython": True, "nogil": True, "error_model": "numpy"}


class _Context(CPUContext):  # type: ignore[misc]
    """Numba's CPU without what kernels do not use: arrays, strings, objects and their run-time."""

    def load_additional_registries(self) -> None:
        # The modules add to Numba's registries as they are imported.
        from numba.core import optional  # noqa: F401
        from numba.cpython import builtins, mathimpl, numbers, rangeobj, tupleobj  # noqa: F401

        self.install_registry(mathimpl.registry)

    def post_lowering(self, mod: Any, library: Any) -> None:
        """Nothing is to be linked in."""


class _Target(CPUTarget):  # type: ignore[misc]
    @cached_property
    def _toplevel_target_context(self) -> _Context:
        return _Context(self.typing_context, self._target_name)


class _CPU(CPU):  # type: ignore[misc]
    """The target's class, by which Numba finds what it knows of the CPU, and of this target."""


_NAME = "sparse_xent"
target_registry.pop(_NAME, None)  # of an import of this module that failed
target_registry[_NAME] = _CPU
_target = _Target(_NAME)


class _Dispatcher(CPUDispatcher):  # type: ignore[misc]
    targetdescr = _target


dispatcher_registry[_CPU] = _Dispatcher


class _Library(JITCodeLibrary):  # type: ignore[misc]
    """LLVM code that never enters Numba's own engine."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _finalize_final_module(self) -> None:
        self._finalized = True


class _FunctionLibrary(_Library):
    """A function that is to be linked into a kernel."""

    def _optimize_final_module(self) -> None:
        pass


class _KernelLibrary(_Library):
    """A kernel that becomes an object file, all of it within ENTRY."""

    inside = ""  # the name that Numba gave to what ENTRY calls

    def _optimize_final_module(self) -> None:
        called = self._final_module.get_function(self.inside)
        called.linkage = llvm.Linkage.internal
        called.add_function_attribute("alwaysinline")
        super()._optimize_final_module()


class _Lowering(NativeLowering):  # type: ignore[misc]
    """Numba's lowering, and no wrapper around it."""

    library: type[_Library]

    def run_pass(self, state: Any) -> bool:
        state.library = self.library(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = state.flags.no_cpython_wrapper = True
        state.flags.no_cfunc_wrapper = True
        return bool(super().run_pass(state))


@register_pass(mutates_CFG=True, analysis_only=False)
class _FunctionLowering(_Lowering):
    _name, library = "function_lowering", _FunctionLibrary

    def run_pass(self, state: Any) -> bool:
        super().run_pass(state)
        # Numba identifies what it compiled by the builtin that Python would call; any one will do.
        entry = [].clear
        state.targetctx.insert_user_function(entry, state.cr.fndesc, [state.library])
        state["cr"] = state.cr._replace(cfunc=entry)
        return True


@register_pass(mutates_CFG=True, analysis_only=False)
class _KernelLowering(_Lowering):
    _name, library = "kernel_lowering", _KernelLibrary

    def run_pass(self, state: Any) -> bool:
        super().run_pass(state)
        context, called = state.targetctx, state.cr.fndesc
        module = context.create_module("entry")
        convention = context.call_conv
        made = ir.Function(
            module,
            convention.get_function_type(called.restype, called.argtypes),
            called.llvm_func_name,
        )
        takes = [context.get_value_type(t) for t in called.argtypes]
        entry = ir.Function(
            module, ir.FunctionType(context.get_value_type(called.restype), takes), ENTRY
        )
        builder = ir.IRBuilder(entry.append_basic_block())
        # A vector that is spilled to the stack must not lie across two cache lines. LLVM aligns the
        # stack for that where something on it that escapes is itself aligned to a line.
        place = builder.alloca(ir.IntType(8))
        place.align = LINE
        takes_place = ir.FunctionType(ir.VoidType(), [place.type])
        builder.asm(takes_place, "", "r", [place], side_effect=True)
        # Kernels raise nothing: the status is ignored.
        _, result = convention.call_function(
            builder, made, called.restype, called.argtypes, entry.args
        )
        builder.ret(result)
        state.library.add_ir_module(module)
        state.library.inside = called.llvm_func_name
        return True


_PASSES = (
    TranslateByteCode,
    FixupArgs,
    IRProcessing,
    DeadBranchPrune,  # of arguments that are None
    ReconstructSSA,
    NopythonTypeInference,
    PreLowerStripPhis,
    IRLegalization,
)
"""The passes of Numba before lowering that kernels need: a third of all."""


def _pipeline(lowering: type[_Lowering]) -> type[CompilerBase]:
    class Pipeline(CompilerBase):  # type: ignore[misc]
        def define_pipelines(self) -> list[PassManager]:
            passes = PassManager(lowering._name)
            for each in (*_PASSES, lowering, NoPythonBackend):
                passes.add_pass(each, each._name)
            passes.finalize()
            return [passes]

    return Pipeline


_functions = _pipeline(_FunctionLowering)


def inlined(function: Callable[..., Any]) -> Any:
    """Decorator: a function that is inlined into every kernel that calls it."""
    options = {**_OPTIONS, "forceinline": True}
    return _Dispatcher(function, {}, options, pipeline_class=_functions)


def outlined(function: Callable[..., Any]) -> Any:
    """Decorator: the same, but called and not inlined: for long functions that seldom run."""
    return _Dispatcher(function, {}, _OPTIONS, pipeline_class=_functions)


# What Numba itself writes in Python, such as the truth of a number, is compiled as kernels are.
jit_registry[_CPU] = lambda **_options: inlined


@global_compiler_lock  # type: ignore[untyped-decorator]
def object_code(function: Callable[..., Any], gives: types.Type, *takes: types.Type) -> bytes:
    """An object file with the function, with this signature in Numba's types."""
    compiler = _FunctionCompiler(function, _target, _OPTIONS, {}, _pipeline(_KernelLowering))
    with target_override(_NAME):
        library = compiler.compile(takes, gives).library
    library._ensure_finalized()
    codegen = library._codegen
    # In an object file of its own constants and code are together, within reach of short addresses;
    # in Numba's code model they may lie anywhere, which takes one more instruction a constant.
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(
        cpu=codegen._get_host_cpu_name(),
        features=codegen._tm_features,
        opt=3,
        codemodel="small",
        reloc="pic",
    )
    made: bytes = machine.emit_object(library._final_module)
    return made
