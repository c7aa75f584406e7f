"""The kind of a call -> its plan: everything that specs and options decide, decided once.

A plan is found by task, options, epsilon, and how the arrays lie. Where all of them are in C order
and the first axis is not the classes', its length is left open: calls that differ in nothing else
share a plan. What depends on values or addresses (labels in range, `out` apart from the scores) is
looked at in every call.

Calls on a CUDA device have plans of the same cache, whose programs are launches. Their kinds leave
nothing open, and count in how addresses are aligned.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sparse_xent import config, dtypes, labels, weights
from sparse_xent.arrays.base import ArraySpec, dense_strides
from sparse_xent.arrays.numpy import spec_of
from sparse_xent.arrays.output import check_output, reach
from sparse_xent.arrays.refusals import EXPECTED, refuse_dtype
from sparse_xent.engines import cpu, cuda, cuda_driver
from sparse_xent.engines import numpy as numpy_engine
from sparse_xent.engines.base import Array, Divisor, Problem, Program, Sums, Task
from sparse_xent.kernels import loader
from sparse_xent.layout import layout_of
from sparse_xent.options import Options

_ndarray = np.ndarray
_LIMIT = 1000  # plans; beyond, they are of shapes that never come again


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What serves the calls of one kind."""

    task: Task
    run: Callable[..., Sums]  # the program's
    gradient: Callable[..., Sums] | None  # the same with a divisor that is known beforehand
    options: Options  # held, so that no other options get their id
    axis: int  # of the classes
    result: np.dtype[Any]
    counts_as: np.dtype[Any]  # what the scores' dtype counts as: the gradient's dtype
    divisor: Divisor
    one_class: bool
    lasting: bool  # whether it holds for later calls of its kind
    epsilon: float  # the process's, when it was made
    as_losses: bool  # whether labels were sent in the losses' shape, whose C order positions have
    open_rows: bool  # whether the first axis may have any length: losses lie in C order then
    ordered: tuple[int, ...]  # else: lengths of the losses' axes in the order of positions,
    to_losses: tuple[int, ...]  # and the order of those axes that gives the losses' shape


_plans: dict[tuple[Any, ...] | None, Any] = {}  # Plans, and DevicePlans
_found: dict[tuple[Any, ...], Plan] = {}  # the same, by keys that are quickly made


def find(
    task: Task, options: Options, y: Any, x: Any, w: Any = None, out: Any = None
) -> Plan | None:
    """The plan of arrays that are taken as they were sent, if there was a call like it before.

    Args:
        task: what is wanted.
        options: of the loss.
        y: labels (or soft targets), as they were sent.
        x: scores.
        w: sample weights, if any.
        out: where the gradient goes; None for nowhere, and for a new array.
    """
    if x.__class__ is not _ndarray or y.__class__ is not _ndarray:
        return None
    key: tuple[Any, ...] = (
        task, id(options), config._epsilon, config._compiled,
        x.shape, x.strides, x.dtype, y.shape, y.strides, y.dtype,
    )  # fmt: skip
    if w is not None:
        if w.__class__ is not _ndarray:
            return None
        key = (*key, w.shape, w.strides, w.dtype)
    if out is not None:
        key = _with_out(key, x, out)
    return _found.get(key)


def _with_out(key: tuple[Any, ...], x: Array, out: Any) -> tuple[Any, ...]:
    if out is x or out.__class__ is not _ndarray:
        return (*key, out is x)
    return (*key, False, out.shape, out.strides, out.dtype)


def remember(task: Task, options: Options, y: Any, x: Any, w: Any, out: Any, plan: Plan) -> None:
    """Let `find` find the plan for calls like this one, if it takes arrays as they were sent."""
    arrays = [a for a in (y, x, w) if a is not None]
    direct = plan.lasting and not plan.one_class
    if task in (Task.LOSSES, Task.RANKS):  # made in the labels' shape; of one loss a scalar is made
        direct = direct and plan.as_losses and y.ndim > 0
    if not direct or any(a.__class__ is not _ndarray for a in arrays):
        return
    key: tuple[Any, ...] = (
        task, id(options), plan.epsilon, config._compiled,
        x.shape, x.strides, x.dtype, y.shape, y.strides, y.dtype,
    )  # fmt: skip
    if w is not None:
        key = (*key, w.shape, w.strides, w.dtype)
    if out is not None:
        arrays.append(out)
        key = _with_out(key, x, out)
    if any(a.__class__ is not _ndarray or not a.flags.aligned for a in arrays):
        return
    if len(_found) >= _LIMIT:
        _found.clear()
    _found[key] = plan


@dataclass(frozen=True, slots=True)
class Sent:
    """The arrays of a call, converted but for their dtypes and shapes, and what they were."""

    y: Array  # labels, or soft targets
    x: Array
    w: Array | None
    dx: Array | None
    y_true: object
    sample_weight: object


def of(task: Task, options: Options, sent: Sent) -> Plan:
    """The plan of a call, made where it is the first of its kind.

    Raises:
        TypeError, ValueError: shapes and dtypes do not fit, in the words for the user.
    """
    given = (sent.y, sent.x, sent.w, sent.dx)
    specs = [None if a is None else spec_of(a) for a in given]
    epsilon = config._epsilon  # once, for another thread may set it meanwhile
    key = task, id(options), epsilon, config._compiled, *specs
    open_key = _open_key(key, specs)
    found: Plan | None = _plans.get(open_key) or _plans.get(key)
    if found is not None:
        return found
    plan = _made(task, options, epsilon, sent, specs, open_key is not None)
    if plan.lasting:
        _keep(open_key if plan.open_rows and open_key is not None else key, plan)
    return plan


def _keep(key: tuple[Any, ...], plan: "Plan | DevicePlan") -> None:
    if len(_plans) >= _LIMIT:
        _plans.clear()
    _plans[key] = plan


def _open_key(key: tuple[Any, ...], specs: list[ArraySpec | None]) -> tuple[Any, ...] | None:
    """The key without the number of rows; None where not all arrays are in C order with as many."""
    given = [spec for spec in specs if spec is not None]
    rows = given[0].shape[:1]
    if any(spec.shape[:1] != rows or not spec.is_c_order for spec in given) or not rows:
        return None
    return *key[:4], *(None if s is None else (s.shape[1:], s.dtype, s.aligned) for s in specs)


def _made(
    task: Task,
    options: Options,
    epsilon: float,
    sent: Sent,
    specs: list[Any],
    may_be_open: bool,
) -> Plan:
    sent_as = _SentAs(sent.y_true, sent.x, sent.sample_weight)
    problem = _problem(task, options, epsilon, sent_as, *specs)
    program: Program | None = None
    open_rows, lasting = False, True
    if config._compiled:
        try:
            # One class would not keep the first axis apart from those behind it.
            if may_be_open and problem.layout.axis and problem.layout.classes > 1:
                rows = [_with_rows(spec, 2) for spec in specs]  # of 1 row the steps say nothing
                opened = _problem(task, options, epsilon, _SentAs(), *rows)
                program = cpu.prepare(opened, open_rows=True)
                open_rows = program is not None
            program = program or cpu.prepare(problem, open_rows=False)
        except loader.EngineUnavailable as error:
            config.fall_back(error)
            lasting = False
    program = program or numpy_engine.prepare(problem)
    layout = problem.layout
    if problem.task == Task.LOSSES_AND_GRADIENT:
        layout = problem.layout_with_dx
    as_they_run = tuple(range(len(layout.losses)))
    order = as_they_run if open_rows else layout.order
    return Plan(
        task=problem.task,
        run=program.run,
        gradient=getattr(program, "gradient", None),
        options=options,
        axis=layout.axis,
        result=problem.result,
        counts_as=problem.counts_as,
        divisor=problem.divisor,
        one_class=layout.classes == 1,
        lasting=lasting,
        epsilon=epsilon,
        as_losses=specs[0].shape == layout.losses and order == as_they_run,
        open_rows=open_rows,
        ordered=layout.ordered_losses,
        to_losses=tuple(np.argsort(order).tolist()),
    )


def _with_rows(spec: ArraySpec | None, rows: int) -> ArraySpec | None:
    """The spec of a C-order array with another number of rows."""
    if spec is None:
        return None
    shape = (rows, *spec.shape[1:])
    return spec._replace(shape=shape, strides=dense_strides(shape, spec.dtype.itemsize))


class _SentAs(NamedTuple):
    """What the user sent, for what a message says of it where one can come."""

    y_true: object = None
    x: Array | None = None  # None where values cannot be read
    sample_weight: object = None


def _problem(
    task: Task, options: Options, epsilon: float, sent: _SentAs, y: Any, x: Any, w: Any, dx: Any
) -> Problem:
    """The call as engines see it, from the specs of its arrays as they were sent."""
    targets = y if options.soft else None
    beside = () if targets is None else (targets.strides,)
    layout = layout_of(x.shape, options.axis, x.strides, *beside)
    with_dx = layout
    if dx is not None:
        with_dx = layout_of(x.shape, options.axis, x.strides, *beside, dx.strides)
    if targets is not None:  # no position is ignored
        y = ArraySpec(layout.losses, (0,) * len(layout.losses), np.dtype(np.int64))
    reader = labels.read(y, layout, options.ignore_class, sent.y_true, sent.x)
    aligned = weights.read(w, layout, sent.sample_weight)
    counts_as = dtypes.counts_as(x.dtype)
    return Problem(
        task=task,
        layout=layout,
        layout_with_dx=with_dx,
        x=x,
        y=reader.spec(y),
        w=None if aligned is None or w is None else aligned.spec(w),
        dx=dx,
        targets=targets,
        scores=options.scores,
        smoothing=options.label_smoothing,
        epsilon=epsilon if options.epsilon is None else options.epsilon,
        ignored=options.ignore_class,
        by_class=None if task == Task.RANKS else weights.by_class(options, layout.classes),
        divisor=weights.divisor(options.reduction),
        counts_as=counts_as,
        arithmetic=dtypes.arithmetic(counts_as, None if task == Task.RANKS else options.dtype),
        result=np.dtype(np.int64) if task == Task.RANKS else options.dtype or counts_as,
        labels_in_shape=labels.in_shape,
        weights_aligned=weights.aligned,
        decode=reader.decode,
        label_message=reader.complaint,
        weight_message=(aligned or weights.Weights(layout.losses, layout.losses)).complaint,
    )


# ---- CUDA devices -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class DevicePlan:
    """What serves the calls of one kind on a CUDA device."""

    program: cuda.LaunchProgram
    options: Options  # held, so that no other options get their id
    reduces: bool  # whether the first result is a value, not losses or ranks
    shape: tuple[int, ...]  # of the first result
    result: str  # its dtype's name; "" where there is none
    specs: dict[int, ArraySpec]  # where the caller gave `out`: of all, by place in the arguments
    reach: dict[int, tuple[int, int]]  # the bytes that each spans, from its address on


class DeviceSpecs(NamedTuple):
    """How the arrays of a call on a device lie, and what else its plan depends on."""

    y: ArraySpec
    x: ArraySpec
    w: ArraySpec | None
    dx: ArraySpec | None
    up: ArraySpec | None  # the gradient with respect to the first result
    weight: float | None  # one number for all labels, in the place of `w`
    low_bits: tuple[int, int]  # of the addresses of x and dx
    out_is_given: bool  # whether dx is the caller's, who may have sent anything
    stream: int
    y_true: object  # as it was sent, for messages


_making = threading.RLock()  # two threads that want one plan make it once


def find_on_device(key: tuple[Any, ...]) -> DevicePlan | None:
    """The plan of a call on a device, if there was one like it before.

    Args:
        key: task, id of the options, epsilon, and all else that the plan depends on.
    """
    return _plans.get(key)


def on_device(key: tuple[Any, ...], task: Task, options: Options, specs: DeviceSpecs) -> DevicePlan:
    """The same, made where the call is the first of its kind.

    Raises:
        TypeError, ValueError: shapes and dtypes do not fit, in the words for the user.
    """
    with _making:
        plan = find_on_device(key)
        if plan is None:
            plan = _made_on_device(task, options, key[2], specs)
            _keep(key, plan)
    return plan


def _made_on_device(task: Task, options: Options, epsilon: float, specs: DeviceSpecs) -> DevicePlan:
    x, y, w, dx, up = specs.x, specs.y, specs.w, specs.dx, specs.up
    for argument, spec in (("y_pred", x), ("y_true", y), ("sample_weight", w)):
        if spec is not None and not dtypes.is_number(spec.dtype):
            refuse_dtype(spec.dtype, argument, EXPECTED[argument])
    if specs.weight is not None:
        weights.check_number(specs.weight)
        w = ArraySpec((), (), np.dtype(np.float64))
    if dx is not None and specs.out_is_given:  # overlaps are looked for in every call
        check_output(dx, x, dtypes.counts_as(x.dtype))
    problem = _problem(task, options, epsilon, _SentAs(specs.y_true), y, x, w, dx)
    losses = problem.layout.losses
    assert x.device is not None
    program = cuda.prepare(
        problem,
        cuda_driver.device(x.device),
        specs.stream,
        low_bits=specs.low_bits,
        weight=specs.weight,
        up=None if up is None else up.broadcast_to(losses),
    )
    sent = {cuda.X: x, cuda.Y: y, cuda.W: specs.w, cuda.DX: dx} if specs.out_is_given else {}
    kept = {place: spec for place, spec in sent.items() if spec is not None}
    return DevicePlan(
        program=program,
        options=options,
        reduces=task.reduces,
        shape=() if task.reduces else losses,
        result="" if task in (Task.GRADIENT, Task.GRADIENT_OF_VALUE) else problem.result.name,
        specs=kept,
        reach={place: reach(spec) for place, spec in kept.items()},
    )
