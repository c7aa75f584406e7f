"""torch.compile leaves this package to Python: its kernels are compiled already.

A function that is compiled and calls the package has a break in its graph there, and the call is
what it is without the compiler. If the compiler followed it, it would put its own array operations
in the place of NumPy's. It asks a function that it comes upon (an attribute, which is there before
torch is imported), and the code of one that is about to run (torch's own table). Neither imports
torch; with a torch that asks otherwise results are the same, and compiling is slow.
"""

import sys
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType
from typing import Any

_REASON = "the kernels of sparse_xent are compiled already: leave its call out of fullgraph=True"

_ours: list[FunctionType] = []


def leave_to_python(package: str) -> None:
    """Let the compiler break its graph at every function of the package that is loaded by now."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == package:
            _ours.extend(_functions(name, vars(module).values()))
    for function in _ours:
        function._torchdynamo_disable = True  # type: ignore[attr-defined]
        function._torchdynamo_disable_msg = _REASON  # type: ignore[attr-defined]
    run_uncompiled()


def run_uncompiled() -> None:
    """Let it compile none of them as they run, nor what they call; nothing where torch is not."""
    torch: Any = sys.modules.get("torch")
    try:
        frames = torch._C._dynamo.eval_frame
        skip = frames._FrameExecStrategy(frames._FrameAction.SKIP, frames._FrameAction.SKIP)
        for function in _ours:
            for code in _inside(function.__code__):
                frames.set_code_exec_strategy(code, skip)
    except AttributeError:  # no torch, or one that is not asked so
        return


def _inside(code: CodeType) -> Iterator[CodeType]:
    """The code of a function and of those that it defines."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _inside(constant)


def _functions(module: str, values: Iterable[Any]) -> Iterator[FunctionType]:
    """The functions of a module, or of a class in it."""
    for value in list(values):
        function = value
        for inner in ("__func__", "fget", "__wrapped__"):  # of methods, properties and caches
            function = getattr(value, inner, None) or function
        if getattr(function, "__module__", None) != module:
            continue
        if isinstance(function, FunctionType):
            yield function
        elif isinstance(function, type):
            yield from _functions(module, vars(function).values())
