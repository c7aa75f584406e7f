"""The CUDA kernels as an engine: a call as launches, one a slab, on the caller's stream.

What a launch needs but for addresses is decided once, from specs: the kernel, its geometry, and
where in each array a slab begins, counted from the array's first element. So a call of a known
kind fills in addresses and launches; nothing waits, nothing is copied, and no memory is allocated.

Where sums are wanted, each block leaves its own in a scratch, and the last to end adds them up. A
mean's divisor that only the device knows (labels that are not ignored, the sum of weights) is
counted by a launch of its own before the gradient, which needs it.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from sparse_xent import dtypes
from sparse_xent.arrays.base import ArraySpec
from sparse_xent.engines import cuda_driver
from sparse_xent.engines.base import Array, Divisor, Problem, Task
from sparse_xent.engines.cuda_errors import Reporter
from sparse_xent.kernels.cuda import geometry, params
from sparse_xent.kernels.cuda.geometry import Place, Verb
from sparse_xent.layout import Ints, Layout, layout_of

Address = tuple[int, int]  # where in a launch's arguments, and what is added there

# Places in a launch's arguments that each call fills in.
_PLACES = {name: place for place, name in enumerate(params.Arguments._fields)}
X, Y, W, OUT, DX, UP = (_PLACES[name] for name in ("x", "y", "w", "out", "dx", "up"))
VALUE, COUNTED = _PLACES["value"], _PLACES["counted"]
_SCRATCH, _RESULT = _PLACES["scratch"], _PLACES["result"]

LOW_BITS = geometry.VECTOR - 1
"""The bits of an address that say whether a vector may begin there: plans differ in them."""

SUMS = params.RESULTS
"""float64 that a call's sums take: sum(w * l), labels that are not ignored, sum(w)."""

_SUMS_BYTES = 8 * SUMS

_VERBS = {
    Task.LOSSES: Verb.NLL,
    Task.VALUE: Verb.NLL,
    Task.VALUE_AND_GRADIENT: Verb.NLL_AND_GRAD,
    Task.LOSSES_AND_GRADIENT: Verb.NLL_AND_GRAD,
    Task.GRADIENT: Verb.NLL_GRAD,
    Task.GRADIENT_OF_VALUE: Verb.NLL_GRAD,
    Task.RANKS: Verb.RANK,
}
_DIVIDES = (Task.VALUE, Task.VALUE_AND_GRADIENT, Task.GRADIENT_OF_VALUE)
_DIVISORS = {
    Divisor.ONE: params.GIVEN,
    Divisor.KEPT: params.KEPT,
    Divisor.WEIGHT: params.WEIGHT,
}


class Step(NamedTuple):
    """A launch, but for addresses: in their places stand offsets from where arrays begin."""

    what: cuda_driver.Launch
    arguments: tuple[int | float, ...]


@dataclass(frozen=True, slots=True)
class LaunchProgram:
    """What runs the calls of one kind, given addresses."""

    device: Any
    steps: tuple[Step, ...]  # none where there are no labels
    count: tuple[Step, ...]  # what has to be counted before `steps`
    scratch_bytes: int  # for sums; 0 where none are wanted
    counts_divisor: bool  # whether only the device knows the divisor

    def run(self, stream: int, addresses: list[Address]) -> None:
        """Launch what wants no sums."""
        for step in self.steps:
            self.device.launch(stream, step.what, _filled(step, addresses))

    def run_sums(self, stream: int, addresses: list[Address], scratch: int, sums: int) -> None:
        """Launch what shares a scratch: no other call's launches may come between.

        Args:
            stream: handle of the stream.
            addresses: of the arrays; those of scratch and sums are appended.
            scratch: address of `scratch_bytes` bytes, the first 8 of which are 0, and are again
                when the call is over.
            sums: address of SUMS float64 where the sums are to stay; 0 for nowhere.
        """
        counted = scratch + self.scratch_bytes - 2 * _SUMS_BYTES
        addresses.append((_SCRATCH, scratch))
        if self.count:
            for step in self.count:
                filled = _filled(step, [*addresses, (_RESULT, counted)])
                self.device.launch(stream, step.what, filled)
            addresses.append((COUNTED, counted))
        addresses.append((_RESULT, sums or counted + _SUMS_BYTES))
        self.run(stream, addresses)


def _filled(step: Step, addresses: list[Address]) -> list[int | float]:
    arguments = list(step.arguments)
    for place, address in addresses:
        arguments[place] += address
    return arguments


def prepare(
    problem: Problem,
    device: cuda_driver.Device,
    stream: int,
    *,
    low_bits: tuple[int, int] = (0, 0),
    weight: float | None = None,
    up: ArraySpec | None = None,
) -> LaunchProgram:
    """What runs calls of this kind.

    Args:
        problem: the calls.
        device: where the arrays lie.
        stream: handle of the stream on which constants are sent there.
        low_bits: of the addresses of the scores and of the gradient: what is left modulo 16.
        weight: the sample weight, where it is one number, and `problem.w` repeats it.
        up: what a gradient is multiplied by beside the weights, in the losses' shape.
    """
    return _ProgramBuilder(problem, device, stream, low_bits, weight, up).program()


class _ProgramBuilder:
    """Makes the program of one kind of calls."""

    def __init__(
        self,
        problem: Problem,
        device: cuda_driver.Device,
        stream: int,
        low_bits: tuple[int, int],
        weight: float | None,
        up: ArraySpec | None,
    ) -> None:
        self.problem, self.device, self.stream = problem, device, stream
        self.low_bits = dict(zip(("x", "dx"), low_bits, strict=True))
        self.weight = None if weight is None else self._sent(np.array(weight))
        task, layout = problem.task, problem.layout
        out = ArraySpec.dense(layout.losses, problem.result)
        writes = task in (Task.LOSSES, Task.LOSSES_AND_GRADIENT, Task.RANKS)
        of_losses = {"y": problem.y, "w": problem.w, "out": out if writes else None, "up": up}
        self.dtypes = {name: spec.dtype for name, spec in of_losses.items() if spec is not None}
        self.strides = {"x": problem.x.strides} | {
            name: _repeated(spec.strides, layout.axis)
            for name, spec in of_losses.items()
            if spec is not None
        }
        if problem.dx is not None:
            self.strides["dx"] = problem.dx.strides
        self.layout = _merged(layout, tuple(self.strides.values()))

    def program(self) -> LaunchProgram:
        """All of it."""
        task, (by, divisor) = self.problem.task, self._divided()
        counts = task == Task.VALUE_AND_GRADIENT and by != params.GIVEN
        steps, scratch = self._steps(_VERBS[task], by, divisor)
        count, its_scratch = self._steps(Verb.COUNT, params.GIVEN, 1.0) if counts else ((), 0)
        nbytes = 8 * math.ceil(max(scratch, its_scratch) / 8) + 2 * _SUMS_BYTES
        return LaunchProgram(
            device=self.device,
            steps=steps,
            count=count,
            scratch_bytes=nbytes if task.reduces else 0,
            counts_divisor=by != params.GIVEN,
        )

    def _divided(self) -> tuple[int, float]:
        """What a value and its gradient are divided by: a number, where it is known already."""
        problem = self.problem
        if problem.task not in _DIVIDES or problem.divisor == Divisor.ONE:
            return params.GIVEN, 1.0
        weighs = problem.w is not None or problem.by_class is not None
        if not problem.ignored and (problem.divisor == Divisor.KEPT or not weighs):
            return params.GIVEN, float(self.layout.count)
        return _DIVISORS[problem.divisor], 1.0

    def _steps(self, verb: Verb, by: int, divisor: float) -> tuple[tuple[Step, ...], int]:
        """A launch for each slab, and the bytes of scratch that they want together."""
        layout, problem = self.layout, self.problem
        if layout.count == 0:
            return (), 0
        views = {name: layout.view(strides) for name, strides in self.strides.items()}
        (*rest, outer, classes, inner), _ = views["x"]
        slabs = list(itertools.product(*map(range, rest)))
        chosen = geometry.choose(
            problem.x.dtype.name,
            problem.scores,
            problem.smoothing > 0,
            verb,
            (outer, classes, inner),
            self._place("x", views["x"][1], slabs),
            self._place("dx", views["dx"][1], slabs) if "dx" in views else None,
            self.device.capability,
        )
        what = self.device.loaded(
            chosen.kernel, chosen.grid, chosen.block, chosen.cluster, chosen.shared
        )
        common = self._common(by, divisor)
        steps = []
        for number, index in enumerate(slabs):
            fields: dict[str, Any] = common | {
                "classes": classes,
                "inner": inner,
                "count": outer * inner,
                "first": number * outer * inner,
                "block": number * chosen.grid,
                "blocks": len(slabs) * chosen.grid,
            }
            for name, (_, strides) in views.items():
                fields |= self._lies(name, strides, index)
            steps.append(Step(what, params.Arguments(**fields)))
        return tuple(steps), chosen.scratch(len(slabs)) if problem.task.reduces else 0

    def _lies(self, name: str, strides: Ints, index: Ints) -> dict[str, int]:
        """The arguments that say where an array's slab lies, from where the array begins."""
        *_, outer, classes, inner = strides
        letter = {"dx": "d", "out": "o", "up": "u"}.get(name, name)
        fields = {f"{letter}o": outer, f"{letter}i": inner}
        if name in ("x", "dx"):
            fields[f"{letter}c"] = classes
        else:
            fields[f"{name}_code"] = params.CODES[self.dtypes[name].name]
        if name == "w" and self.weight is not None:
            return {name: self.weight, **fields}  # a constant: no call fills it in
        return {name: _offset(strides, index), **fields}

    def _place(self, name: str, strides: Ints, slabs: Sequence[Ints]) -> Place:
        """Where all slabs of an array lie: their addresses' low bits, which alone count, joined."""
        *_, outer, classes, inner = strides
        low = 0
        for index in slabs:
            low |= (self.low_bits[name] + _offset(strides, index)) % geometry.VECTOR
        return Place(low, outer, classes, inner)

    def _common(self, by: int, divisor: float) -> dict[str, int | float]:
        """The arguments that are the same for every slab."""
        problem = self.problem
        clip = dtypes.clip_range(problem.epsilon, dtypes.arithmetic(problem.x.dtype, None))
        ignored = [c for c in problem.ignored if -params.NONE <= c <= params.NONE]
        by_class = problem.by_class
        reporter = Reporter(self.layout.place, problem.label_message, problem.weight_message)
        fields: dict[str, int | float] = dict.fromkeys(params.Arguments._fields, 0)
        return fields | {
            "many": len(ignored),
            "ignored": ignored[0] if len(ignored) == 1 else self._sent(np.array(ignored, np.int64)),
            "by_class": 0 if by_class is None else self._sent(by_class),
            "error": self.device.error_slot(reporter),
            "value_code": params.CODES[problem.result.name] if problem.task.reduces else 0,
            "by": by,
            "smoothing": problem.smoothing,
            "lo": clip[0],
            "hi": clip[1],
            "divisor": divisor,
        }

    def _sent(self, constants: Array) -> int:
        """The address of constants on the device."""
        return self.device.constant(constants, self.stream) if constants.size else 0


def _repeated(strides: Ints, axis: int) -> Ints:
    """Strides of an array of the losses' shape that is repeated along the class axis."""
    return (*strides[:axis], 0, *strides[axis:])


def _merged(layout: Layout, strides: tuple[Ints, ...]) -> Layout:
    """The layout of all arrays together, with as few slabs as they allow.

    Kernels take any steps along outer and inner: where classes are not in front of the inner axis,
    a second outer one is as good.
    """
    together = layout_of(layout.shape, layout.axis, *strides)
    *rest, outer, inner = together.groups
    if not inner and rest:
        rest.append(outer)
        rest.sort(key=lambda group: -abs(strides[0][group[-1]]))
        by_length = sorted(rest, key=lambda group: -math.prod(layout.shape[a] for a in group))
        outer, inner = (group for group in rest if group in by_length[:2])
        rest = [group for group in rest if group not in by_length[:2]]
    return replace(together, groups=(*rest, outer, inner))


def _offset(strides: Ints, index: Ints) -> int:
    """Where a slab begins, in bytes behind the first."""
    return sum(i * step for i, step in zip(index, strides, strict=False))
