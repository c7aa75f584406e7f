"""One launch on the simulator, from arrays to arrays: what the tests of the device's kernels share.

The plan is `choose`'s, the code is what is compiled for sm_90, and outputs begin as garbage.
"""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import ptx

from sparse_xent.engines import numpy_formulas
from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels import cache as kernel_cache
from sparse_xent.kernels.cuda import registry
from sparse_xent.kernels.cuda.geometry import Place, Plan, Verb, choose
from sparse_xent.kernels.cuda.loader import _stamp
from sparse_xent.kernels.cuda.params import CODES, NEGATIVE, NONE, Arguments

DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
EPS = 1e-7

#: How x[outer, C, inner] lies in memory: the order of its axes, the last one closest together.
ORDERS = {"classes last": (0, 2, 1), "classes first": (0, 1, 2), "R": (1, 0, 2)}


_ahead: dict[str, Future[str]] = {}


def text(kernel: str) -> str:
    """A kernel's PTX, from the cache on disk or compiled now."""
    name = ("ptx", kernel, _stamp())
    found = kernel_cache.load(name)
    if found is not None:
        return found.decode()
    made: str = registry.compiled(kernel, (9, 0), "ptx")
    kernel_cache.save(name, made.encode())
    return made


@contextmanager
def compiling(kernels: list[str]) -> Iterator[None]:
    """Meanwhile other processes compile these kernels, in this order, before they are wanted."""
    kernels = [k for k in kernels if k not in _ahead]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        _ahead.update({k: pool.submit(text, k) for k in kernels})
        yield
        for k in kernels:
            _ahead[k].cancel()


@cache
def program(kernel: str) -> ptx.Program:
    """The compiled kernel."""
    return ptx.parse(_ahead[kernel].result() if kernel in _ahead else text(kernel))


def arithmetic(dtype: str) -> type:
    return np.float64 if dtype == "float64" else np.float32


def code(array: np.ndarray) -> int:
    return CODES["bool" if array.dtype == np.bool_ else array.dtype.name]


@dataclass
class Given:
    """A call's data and options; what is None is not given."""

    x: np.ndarray  # [outer, C, inner], of one of DTYPES
    y: np.ndarray  # [outer, inner]
    scores: ScoreKind = ScoreKind.LOGITS
    smoothing: float = 0.0
    order: str = "classes last"
    shift: int = 0  # bytes from a multiple of 16 to the scores
    dx_shift: int | None = None  # the same of the gradient; as the scores if None
    in_place: bool = False
    ignored: tuple[int, ...] | None = None  # None: every negative label
    w: np.ndarray | None = None
    by_class: np.ndarray | None = None
    up: np.ndarray | None = None
    by: int = 0
    divisor: float = 1.0
    counted: np.ndarray | None = None
    reduced: bool = False
    out: str = "float64"  # the losses' dtype
    value: str = "float32"  # the reduced value's
    cc: tuple[int, int] = (9, 0)
    slabs: int = 1  # the call is cut into so many launches along outer


@dataclass
class Made:
    """What a call left behind."""

    plan: Plan
    losses: np.ndarray
    dx: np.ndarray | None
    error: np.ndarray
    result: np.ndarray | None  # sum(l * w), kept, sum(w)
    value: np.ndarray | None
    counter: int
    runs: list[ptx.Launch]


def run(given: Given, verb: Verb) -> Made:
    """Launch what the plan says, a slab at a time."""
    memory, call = ptx.Memory(), {}
    outer, classes, inner = given.x.shape
    gradient = verb in (Verb.NLL_GRAD, Verb.NLL_AND_GRAD)
    axes = ORDERS[given.order]
    lain = np.ascontiguousarray(given.x.transpose(axes))
    steps = tuple(lain.strides[axes.index(axis)] for axis in range(3))
    x = memory.give(lain, given.shift)
    dx = 0
    if gradient:
        shift = given.shift if given.dx_shift is None else given.dx_shift
        dx = x if given.in_place else memory.give(np.full_like(lain, 77), shift)
    whole = "int64" if verb == Verb.RANK else given.out
    losses = np.full((outer, inner), 77, np.int64 if whole == "int64" else DTYPES[whole])
    out, error = memory.give(losses), memory.give(np.full(2, NONE, np.int64))

    def plane(name: str, array: np.ndarray | None) -> None:
        if array is not None:
            full = np.broadcast_to(array, (outer, inner))
            call[name] = memory.give(full)
            call[f"{name}o"], call[f"{name}i"] = inner * full.itemsize, full.itemsize
            call[f"{name}_code"] = code(full)

    plane("y", given.y)
    plane("w", given.w)
    plane("up", None)
    if given.up is not None:
        plane("up", given.up)
        call["uo"], call["ui"] = call.pop("upo"), call.pop("upi")
    if given.by_class is not None:
        call["by_class"] = memory.give(given.by_class.astype(np.float64))
    if given.counted is not None:
        call["counted"] = memory.give(given.counted.astype(np.float64))
    call["many"] = NEGATIVE
    if given.ignored is not None:
        call["many"] = len(given.ignored)
        if len(given.ignored) == 1:
            call["ignored"] = given.ignored[0]
        elif given.ignored:
            call["ignored"] = memory.give(np.array(given.ignored, np.int64))
    own = arithmetic(given.x.dtype.name)
    each = outer // given.slabs
    part = (each, classes, inner)
    runs: list[ptx.Launch] = []
    for slab in range(given.slabs):
        before = slab * each
        places = [Place(at + before * steps[0], *steps) for at in ((x, dx) if gradient else (x,))]
        plan = choose(
            given.x.dtype.name,
            given.scores,
            given.smoothing > 0,
            verb,
            part,
            *places,
            cc=given.cc,
        )
        if given.reduced and slab == 0:
            call["scratch"] = memory.give(np.zeros(plan.scratch(given.slabs) // 8))
            call["result"] = memory.give(np.full(3, np.nan))
            call["value"] = memory.give(np.full(1, 77, DTYPES[given.value]))
            call["value_code"] = CODES[given.value]
            call["blocks"] = plan.grid * given.slabs
        fields = dict.fromkeys(Arguments._fields, 0) | call
        fields |= dict(
            classes=classes, inner=inner, count=each * inner, first=before * inner,
            x=places[0].address, xo=steps[0], xc=steps[1], xi=steps[2],
            out=out + before * inner * losses.itemsize, oo=inner * losses.itemsize,
            oi=losses.itemsize, out_code=CODES[whole],
            dx=places[-1].address if gradient else 0, do=steps[0], dc=steps[1], di=steps[2],
            error=error, block=slab * plan.grid, by=given.by,
            smoothing=float(given.smoothing), lo=float(own(EPS)), hi=float(own(1 - EPS)),
            divisor=float(given.divisor),
        )  # fmt: skip
        for name, step in (("y", "yo"), ("w", "wo"), ("up", "uo")):
            if fields[name]:
                fields[name] += before * fields[step]
        runs.append(
            ptx.launch(
                program(plan.kernel),
                memory,
                Arguments(**fields),
                grid=plan.grid,
                block=plan.block,
                cluster=plan.cluster,
                shared=plan.shared,
            )
        )
    back = memory.back(dx, lain.dtype, lain.shape) if gradient else None
    return Made(
        plan,
        memory.back(out, losses.dtype, losses.shape),
        None if back is None else back.transpose(np.argsort(axes)),
        memory.back(error, np.int64, 2),
        memory.back(call["result"], np.float64, 3) if given.reduced else None,
        memory.back(call["value"], DTYPES[given.value], 1)[0] if given.reduced else None,
        int(memory.back(call["scratch"], np.int64, -1)[0]) if given.reduced else 0,
        runs,
    )


def scores(
    shape: tuple[int, int, int], dtype: str, kind: ScoreKind = ScoreKind.LOGITS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Random scores [outer, C, inner] and labels [outer, inner]."""
    rng = np.random.default_rng([seed, *shape])
    x = rng.normal(size=shape) * 3
    if kind != ScoreKind.LOGITS:
        x = np.exp(x - x.max(1, keepdims=True))
        x /= x.sum(1, keepdims=True)
    outer, classes, inner = shape
    return x.astype(DTYPES[dtype]), rng.integers(0, classes, (outer, inner))


def expected(given: Given, g: Any) -> tuple[np.ndarray, np.ndarray]:
    """Losses and gradient of the plain engine, in the kernel's arithmetic."""
    own = arithmetic(given.x.dtype.name)
    return numpy_formulas.nll_and_grad(
        given.x.astype(own),
        given.y.astype(np.int64),
        np.broadcast_to(g, given.y.shape),
        scores=given.scores,
        smoothing=given.smoothing,
        eps=EPS,
    )
