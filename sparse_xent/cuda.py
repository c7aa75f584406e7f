"""The device call: what the user sent -> a plan, judged once -> launches on the caller's stream.

A call is judged by the very functions that judge NumPy's, on arrays that stand for the device's:
same shape, strides and dtype, and no memory. What they find depends on how the arrays lie and on
the options, not on addresses; so it is kept as a plan, and the next call of its kind fills in
addresses and launches. Nothing waits, nothing is copied, and nothing is allocated but the results,
from the caller's library, and once a stream a scratch for sums.

The values of labels are checked where they are: a bad one makes its loss and its gradient row NaN
and leaves word, which the next call on that device raises, or `cuda_check()`.
"""

import enum
import math
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt

from sparse_xent import carried, config, labels, weights
from sparse_xent.arrays import cuda as arrays
from sparse_xent.arrays import numpy as host
from sparse_xent.arrays import torch as tape
from sparse_xent.arrays.cuda import Form, Library
from sparse_xent.engines import cuda_driver
from sparse_xent.kernels.cuda import params as words
from sparse_xent.kernels.cuda.geometry import SIZES, Place, Verb, choose
from sparse_xent.kernels.cuda.params import (
    CODES,
    GIVEN,
    KEPT,
    LABEL_BITS,
    LABEL_ZERO,
    NONE,
    RESULTS,
    WEIGHT,
    Arguments,
)
from sparse_xent.layout import Layout, judge
from sparse_xent.options import NA_INTEGER, Options, float_dtype, whole_number
from sparse_xent.options import read as read_options

Array = npt.NDArray[Any]
Address = tuple[int, int]  # where in the arguments, and what is added there


class Task(enum.IntEnum):
    """What a call is for."""

    LOSSES = 0
    VALUE = 1
    VALUE_AND_GRADIENT = 2
    LOSSES_AND_GRADIENT = 3
    GRADIENT = 4  # of losses that are on a tape, times what comes from above
    GRADIENT_OF_VALUE = 5
    RANKS = 6


_SUMS = (Task.VALUE, Task.VALUE_AND_GRADIENT)
_DIVIDES = (*_SUMS, Task.GRADIENT_OF_VALUE)
_BACKWARD = (Task.GRADIENT, Task.GRADIENT_OF_VALUE)
_VERBS = {
    Task.LOSSES: Verb.NLL,
    Task.VALUE: Verb.NLL,
    Task.VALUE_AND_GRADIENT: Verb.NLL_AND_GRAD,
    Task.LOSSES_AND_GRADIENT: Verb.NLL_AND_GRAD,
    Task.GRADIENT: Verb.NLL_GRAD,
    Task.GRADIENT_OF_VALUE: Verb.NLL_GRAD,
    Task.RANKS: Verb.RANK,
}
_DIVISORS = {"sum": GIVEN, None: GIVEN, "mean_with_sample_weight": WEIGHT}

# Places in the list of arguments that are filled in at each call.
_AT = {name: place for place, name in enumerate(Arguments._fields)}
_X, _Y, _W, _OUT, _DX, _UP = (_AT[name] for name in ("x", "y", "w", "out", "dx", "up"))
_SCRATCH, _RESULT, _VALUE = _AT["scratch"], _AT["result"], _AT["value"]
_SURVEYED = _AT["counted"]


# ---- the public calls ---------------------------------------------------------------------------


class _Host(Library):
    """The host's arrays, which are served on request."""


HOST = _Host()


def serving(y_pred: object, options: Options) -> Library | None:
    """Whose arrays they are, where a call is done here; None where it is not.

    Here are done those of arrays on a CUDA device, and others on request.
    """
    return arrays.library(y_pred) or (None if options.device is None else HOST)


def per_label(library: Library, y_true: Any, y_pred: Any, options: Options) -> Any:
    """One loss a label, an array of y_pred's library where y_pred lies."""
    if library is HOST:
        return _visiting(Task.LOSSES, y_true, y_pred, None, None, options)
    return _losses(library, options, y_true, y_pred, None)


def value(library: Library, y_true: Any, y_pred: Any, sample_weight: Any, options: Options) -> Any:
    """The reduced value, 0-d; with reduction None every loss times its weight."""
    if library is HOST:
        task = Task.LOSSES if options.reduction is None else Task.VALUE
        return _visiting(task, y_true, y_pred, sample_weight, None, options)
    if options.reduction is None:
        return _losses(library, options, y_true, y_pred, sample_weight)
    if not library.tracked(y_pred):
        return _value(library, options, y_true, y_pred, sample_weight)[0]
    return _taped(
        Task.GRADIENT_OF_VALUE,
        library,
        options,
        (y_true, y_pred, sample_weight),
        lambda y, x, w: _value(library, options, y, x, w, keep=True),
    )


def value_and_grad(
    library: Library, y_true: Any, y_pred: Any, sample_weight: Any, out: Any, options: Options
) -> tuple[Any, Any]:
    """The value and its derivative with respect to y_pred, `out` where it was given."""
    task = Task.LOSSES_AND_GRADIENT if options.reduction is None else Task.VALUE_AND_GRADIENT
    if library is HOST:
        return _visiting(task, y_true, y_pred, sample_weight, out, options)  # type: ignore[no-any-return]
    x = _in_arithmetic(library, y_pred, options)
    if x is not y_pred:  # the rare pair: as wide as the arithmetic, and back
        if out is not None:
            _check_out(library, out, y_pred)
        made, wide = _both(library, task, options, y_true, x, sample_weight, None)
        if out is not None:
            library.store(out, wide)
            return made, out
        own = host.effective(_form(library, y_pred).dtype).name
        return made, wide if _form(library, wide).dtype.name == own else library.cast(wide, own)
    return _both(library, task, options, y_true, x, sample_weight, out)


def ranks(y_true: Any, y_pred: Any, axis: int = -1, ignore_class: object = None) -> Any:
    """How many classes stand above each label, as `sweep.ranks` has it: int64 on the device."""
    options = read_options(axis=axis, ignore_class=ignore_class)
    library = arrays.library(y_pred)
    if library is None:
        raise TypeError("y_pred must lie on a CUDA device: sweep.ranks serves the host's arrays")
    call = _Call(Task.RANKS, library, options, _in_arithmetic(library, y_pred, options), y_true)
    return call.run()[0]


def cuda_check(device: int | None = None) -> None:
    """Wait for the CUDA device, and raise what went wrong with the labels there, if anything did.

    A call on a device's arrays does not wait for its result, so a bad label is not refused by
    that call: its loss and its gradient row are NaN. The error is raised by the next call on that
    device, or here. It is raised once, and the device goes on.

    Args:
        device: ordinal of the device; None for all that this process has used.

    Returns:
        None, where every label was a class or ignored.

    Raises:
        ValueError: a label was neither; the message names the first, its position and value.

    Example:
        >>> cuda_check() is None
        True
    """
    wanted = None if device is None else whole_number(device, "device")
    for ordinal, used in cuda_driver.used().items():
        if wanted in (None, ordinal):
            _raise_what_is_pending(used)


# ---- one kind of call at a time -----------------------------------------------------------------


def _losses(library: Library, options: Options, y: Any, x: Any, w: Any) -> Any:
    if library.tracked(x):
        return _taped(
            Task.GRADIENT,
            library,
            options,
            (y, x, w),
            lambda y, x, w: (_losses_alone(library, options, y, x, w), None),
        )
    return _losses_alone(library, options, y, x, w)


def _losses_alone(library: Library, options: Options, y: Any, x: Any, w: Any) -> Any:
    x = _in_arithmetic(library, x, options)
    return _Call(Task.LOSSES, library, options, x, y, w).run()[0]


def _value(
    library: Library, options: Options, y: Any, x: Any, w: Any, keep: bool = False
) -> tuple[Any, Any]:
    """The value, and where `keep` the sums from which a derivative takes its divisor."""
    x = _in_arithmetic(library, x, options)
    call = _Call(Task.VALUE, library, options, x, y, w)
    return call.run(keep=keep)[:2]


def _both(
    library: Library, task: Task, options: Options, y: Any, x: Any, w: Any, out: Any
) -> tuple[Any, Any]:
    if out is None:
        dx = library.empty_as(x)
        return _Call(task, library, options, x, y, w, dx).run()[0], dx
    if arrays.library(out) is not library:
        _refuse_out(out)
    made = _Call(task, library, options, x, y, w, out, given=True).run()[0]
    library.written(out)
    return made, out


def _taped(
    backward: Task,
    library: Library,
    options: Options,
    given: tuple[Any, Any, Any],
    forward: Callable[..., tuple[Any, Any]],
) -> Any:
    """The result of `forward`, with its derivative on the tape of the scores."""
    y, x, w = given
    constant = w if arrays.library(w) is None else None  # a number is no business of the tape
    if constant is None and w is not None and library.tracked(w):
        raise TypeError(
            "sample_weight must not require gradients, for there is no derivative with respect to "
            "it here: pass sample_weight.detach()"
        )

    def derivative(up: Any, kept: Any, x: Any, y: Any, w: Any) -> Any:
        w = constant if w is None else w
        wide = _in_arithmetic(library, x, options)
        dx = library.empty_as(wide)
        _Call(backward, library, options, wide, y, w, dx, up).run(kept=kept)
        return dx if wide is x else library.cast(dx, _form(library, x).dtype.name)

    return tape.on_tape(
        x,
        (y, None if constant is not None else w),
        lambda x, y, w: forward(y, x, constant if w is None else w),
        derivative,
    )


def _in_arithmetic(library: Library, x: Any, options: Options) -> Any:
    """The scores as they are, or converted where no kernel reads them so.

    Integers count as float32; scores below the arithmetic that `dtype` asks for are widened.
    """
    kind = library.name, getattr(x, "dtype", None), options.dtype
    if kind in _as_they_are:
        return x
    form = _form(library, x)
    if form.dtype.name == "float64" or (form.dtype.name in SIZES and options.dtype != "float64"):
        if kind[1] is not None:
            _as_they_are.add(kind)
        return x
    if not (host.is_float(form.dtype) or form.dtype.kind in "biu"):
        with _out_of_sight():
            host.scores(form.at(_BASE))  # says what is wrong with it
    return library.cast(x, "float64" if options.dtype == "float64" else "float32")


_as_they_are: set[tuple[Any, ...]] = set()


def _check_out(library: Library, out: Any, x: Any) -> None:
    """Refuse an `out` that no gradient with respect to x may go to: the checks of NumPy's."""
    if arrays.library(out) is not library:
        _refuse_out(out)
    (to, kind), (at, scores) = library.read(out), library.read(x)
    with _out_of_sight():
        host.output(library.form(kind).at(to), library.form(scores).at(at), {})


def _refuse_out(out: object) -> NoReturn:
    raise TypeError(
        f"out must be an array of y_pred's library on its device, got a {type(out).__name__}"
    )


def _form(library: Library, array: Any) -> Form:
    return library.form(library.read(array)[1])


class _out_of_sight:
    """Raise errors without the frames that hold arrays whose memory nobody may read.

    Who shows a traceback's variables, as test runners and reporters of errors do, would read it.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Exception):
            raise error.with_traceback(None)


# ---- a call -------------------------------------------------------------------------------------


class _Step(NamedTuple):
    """A launch, but for addresses: in their places stand offsets from where arrays begin."""

    what: cuda_driver.Launch
    arguments: tuple[int | float, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    """All that calls of one kind have in common."""

    device: Any
    survey: tuple[_Step, ...]  # what has to be known before `steps`
    steps: tuple[_Step, ...]
    shape: tuple[int, ...]  # of the first result
    dtype: str  # its name; "" where there is none
    sums: bool  # whether it is a reduced value
    scratch: int  # bytes
    divided: int  # GIVEN, KEPT or WEIGHT
    forms: dict[int, Form]  # of what the caller sent, where he also sent a place for the gradient
    spans: dict[int, tuple[int, int]]  # the bytes that each reaches over, from its address on
    options: Options


_plans: dict[Hashable, _Plan] = {}
_options: dict[Options, Options] = {}  # one of those that are equal
_making = threading.RLock()


class _Call:
    """One call's arrays, read."""

    __slots__ = ("addresses", "key", "library", "options", "others", "plan", "w", "x")

    def __init__(
        self,
        task: Task,
        library: Library,
        options: Options,
        x: Any,
        y: Any,
        w: Any = None,
        dx: Any = None,
        up: Any = None,
        given: bool = False,  # whether dx is the caller's, who may have sent anything
    ) -> None:
        self.library, self.options, self.x, self.w = library, options, x, w
        self.others: tuple[tuple[Library, Any], ...] = ()
        at, kind = library.read(x)
        y_of = library if type(y) is type(x) else self._of(y, "y_true", kind)
        y_at, y_kind = y_of.read(y)
        self.addresses: list[Address] = [(_X, at), (_Y, y_at)]
        w_kind = dx_kind = up_kind = None
        if w is not None:
            w_kind = self._weight(w, kind)
        if dx is not None:
            to, dx_kind = library.read(dx)
            dx_kind = dx_kind, to & 15, given
            self.addresses.append((_DX, to))
        if up is not None:
            upstream, up_kind = library.read(up)
            self.addresses.append((_UP, upstream))
        # The plan holds the options: while it is there, no others have their id.
        self.key: tuple[Any, ...] = (
            task, id(options), config._epsilon, kind, at & 15, y_kind, w_kind, dx_kind, up_kind,
            library, y_of,
        )  # fmt: skip
        self.plan = _plans.get(self.key) or self._judged(y_of, y)

    def _of(self, array: Any, argument: str, kind: Hashable) -> Library:
        found = arrays.library(array)
        if found is None:
            arrays.refuse_place(array, argument, self.library, self.library.form(kind).device)
        if found is not self.library:
            self.others = (*self.others, (found, array))
        return found

    def _weight(self, w: Any, kind: Hashable) -> Hashable:
        """Read the sample weight: an array beside the scores, or a number of the host's."""
        if isinstance(w, int | float | np.number | np.bool_) or (
            isinstance(w, np.ndarray) and w.ndim == 0
        ):
            return float(w).hex()
        w_of = self._of(w, "sample_weight", kind)
        at, w_kind = w_of.read(w)
        self.addresses.append((_W, at))
        return w_of, w_kind

    def _judged(self, y_of: Library, y: Any) -> _Plan:
        """The plan of a call that is the first of its kind, or whose options were read anew."""
        if arrays.library(y) is None:  # it may be the library's, and the host's
            self._of(y, "y_true", self.key[3])
        options = self.options = _options.setdefault(self.options, self.options)
        self.key = (self.key[0], id(options), *self.key[2:])
        if self.key in _plans:
            return _plans[self.key]
        if self.library.capturing(self.x):
            raise RuntimeError(
                "a call of a new kind loads code, which a CUDA graph cannot capture: make it once "
                "before the capture"
            )
        with _making:
            if len(_plans) > 1000:  # shapes that never come again
                _plans.clear()
                _options.clear()
            with _out_of_sight():
                plan = _Judge(self, y_of).plan()
            _plans[self.key] = plan
        return plan

    def run(self, keep: bool = False, kept: Any = None) -> tuple[Any, Any]:
        """Launch; returns the first result, and the sums where they are to be kept."""
        plan, library, x, addresses = self.plan, self.library, self.x, self.addresses
        device = plan.device
        if device.is_told():
            _raise_what_is_pending(device)
        if plan.spans:
            self._check_overlap()
        stream = library.stream(x, device.ordinal)
        for other, array in self.others:
            device.order(stream, other.stream(array, device.ordinal))
        made = sums = None
        if plan.dtype:
            made = library.empty(x, plan.shape, plan.dtype)
            addresses.append((_VALUE if plan.sums else _OUT, library.address(made)))
        if kept is not None:
            addresses.append((_SURVEYED, library.address(kept)))
        if keep and plan.divided != GIVEN:
            sums = library.empty(x, (RESULTS,), "float64")
        if not plan.steps:
            for array in (made, sums):
                self._clear(device, array, stream)
        elif plan.sums:
            self._reduce(device, stream, sums)
        else:
            for step in plan.steps:
                device.launch(stream, step.what, _filled(step, addresses))
        return made, sums

    def _check_overlap(self) -> None:
        """Refuse a gradient's place that is neither the scores' own nor apart from what is read.

        By bounds first; only where these meet is it looked at closely.
        """
        at = dict(self.addresses)
        low, high = self.plan.spans[_DX]
        low, high = at[_DX] + low, at[_DX] + high
        meet = [
            place
            for place in (_X, _Y, _W)
            if place in at
            and at[place] + self.plan.spans[place][0] < high
            and low < at[place] + self.plan.spans[place][1]
        ]
        if not meet:
            return
        forms = self.plan.forms
        if meet == [_X] and at[_X] == at[_DX] and forms[_X][:3] == forms[_DX][:3]:
            return
        with _out_of_sight():
            names = {_Y: "y_true", _W: "sample_weight"}
            inputs: dict[str, Array | None] = {
                name: forms[p].at(at[p]) for p, name in names.items() if p in at
            }
            host.output(forms[_DX].at(at[_DX]), forms[_X].at(at[_X]), inputs)

    def _reduce(self, device: Any, stream: int, sums: Any) -> None:
        """Launch what shares a scratch: no other call's launches may come between."""
        plan, library, addresses = self.plan, self.library, self.addresses
        with device.lock:
            if library.lasting(self.x, stream):
                scratch = device.scratch(stream, plan.scratch + _TAIL)
            else:
                own = library.empty(self.x, ((plan.scratch + _TAIL) // 8,), "float64")
                scratch = library.address(own)
                device.clear(scratch, 8, stream)
            addresses.append((_SCRATCH, scratch))
            surveyed = scratch + plan.scratch
            for step in plan.survey:
                device.launch(stream, step.what, _filled(step, [*addresses, (_RESULT, surveyed)]))
            if plan.survey:
                addresses.append((_SURVEYED, surveyed))
            result = surveyed + 8 * RESULTS if sums is None else library.address(sums)
            addresses.append((_RESULT, result))
            for step in plan.steps:
                device.launch(stream, step.what, _filled(step, addresses))

    def _clear(self, device: Any, array: Any, stream: int) -> None:
        """What is reduced over nothing is 0."""
        if array is not None:
            at, kind = self.library.read(array)
            form = self.library.form(kind)
            device.clear(at, math.prod(form.shape) * form.dtype.itemsize, stream)


_TAIL = 2 * 8 * RESULTS  # behind a scratch: a survey's sums, and a call's own


def _filled(step: _Step, addresses: list[Address]) -> list[int | float]:
    arguments = list(step.arguments)
    for place, address in addresses:
        arguments[place] += address
    return arguments


# ---- a plan -------------------------------------------------------------------------------------

_BASE = 1 << 20  # where arrays stand while they are judged; plans hold offsets from there
_BASE_OF_DX = 1 << 50  # apart from all others


class _Judge:
    """Makes the plan of a call that is the first of its kind."""

    def __init__(self, call: _Call, y_of: Library) -> None:
        task, _, eps, kind, low, y_kind, w_kind, dx_kind, up_kind, *_ = call.key
        options = call.options
        self.task, self.options, self.eps, self.call = task, options, eps, call
        form = call.library.form(kind)
        self.device = cuda_driver.device(form.device)
        self.stream = call.library.stream(call.x, form.device)
        if options.device is not None and form.device != _ordinal(options.device):
            raise ValueError(
                f"device={options.device!r} is for arrays of the host, and y_pred lies on "
                f"cuda:{form.device}: bring it there, or leave device out"
            )
        self.bases = {"x": _BASE + low}
        self.forms: dict[int, Form] = {}
        self.weight: int | None = None  # address of a number
        self.x = host.scores(form.at(_BASE + low))
        layout = judge(self.x, options.axis)
        y_form = y_of.form(y_kind)
        self._same_place(y_form, form, "y_true")
        self.labels = labels.read(y_form.at(_BASE), layout, options.ignore_class)
        self.w = self._weights(w_kind, form, layout)
        self.dx = None
        if dx_kind is not None:
            kind, to_low, given = dx_kind
            to = call.library.form(kind)
            self._same_place(to, form, "out")
            self.bases["dx"] = _BASE_OF_DX + to_low
            self.dx = to.at(self.bases["dx"])
            if given:
                host.output(self.dx, self.x, {})
                self.forms = {_X: form, _Y: y_form, _DX: to}
                if self.w is not None and self.weight is None:
                    self.forms[_W] = self.w_form
        self.up = None
        if up_kind is not None:
            upstream = call.library.form(up_kind).at(_BASE)
            self.up = np.broadcast_to(upstream, layout.losses)
        self.result = _result(task, options, self.x)
        out = Form(layout.losses, arrays.dense(layout.losses, self.result.itemsize), self.result,
                   form.device, True).at(_BASE)  # fmt: skip
        self.out = out if not (task in _SUMS or task in _BACKWARD) else None
        self.layout = self._boxed(layout)

    def _same_place(self, form: Form, like: Form, argument: str) -> None:
        if form.device != like.device:
            raise TypeError(
                f"{argument} must lie on cuda:{like.device}, as y_pred does, got an array on "
                f"cuda:{form.device}"
            )

    def _weights(self, kind: Any, like: Form, layout: Layout) -> Array | None:
        """The sample weights as they are broadcast; a number is sent to the device once."""
        if kind is None:
            self.weights = weights.read(None, layout, self.options)
            return None
        if isinstance(kind, str):
            weight = np.array(float.fromhex(kind))
            self.weights = weights.read(weight, layout, self.options)
            if weights.missing(weight, np.zeros((), np.int64)):
                shown = "nan" if np.isnan(weight) else NA_INTEGER
                raise ValueError(
                    f"sample_weight must be a number, got {shown} (NA in R): drop what is missing, "
                    "or weigh it 0"
                )
            self.weight = self._sent(weight)
            return self.weights.sample
        w_of, w_kind = kind
        form = w_of.form(w_kind)
        self._same_place(form, like, "sample_weight")
        self.w_form = form
        self.weights = weights.read(form.at(_BASE), layout, self.options)
        return self.weights.sample

    def _boxed(self, layout: Layout) -> Layout:
        """The layout of all arrays together, with as few slabs as they allow.

        Kernels take any steps along outer and inner: where classes are not in front of the inner
        axis, a second outer one is as good.
        """
        walked = [self._spread(a) for a in (self.labels.y, self.w, self.out, self.up)]
        others = [a for a in (*walked, self.dx) if a is not None]
        self.layout = layout
        together = judge(self.x, layout.axis, *others)
        *rest, outer, inner = together.groups
        if not inner and rest:
            rest.append(outer)
            rest.sort(key=lambda group: -abs(self.x.strides[group[-1]]))
            longest = sorted(rest, key=lambda group: -math.prod(self.x.shape[a] for a in group))[:2]
            outer, inner = (group for group in rest if group in longest)
            rest = [group for group in rest if group not in longest]
        return replace(together, groups=(*rest, outer, inner))

    def _spread(self, array: Array | None) -> Array | None:
        """An array of the losses' shape, repeated along the class axis."""
        if array is None:
            return None
        axis = self.labels.axis
        return np.broadcast_to(np.expand_dims(array, axis), self.x.shape)

    def plan(self) -> _Plan:
        """What is launched for calls of this kind."""
        task, by, divisor = self.task, *self._divided()
        summed = task in _SUMS
        surveys = task == Task.VALUE_AND_GRADIENT and by != GIVEN
        main = self._steps(_VERBS[task], by, divisor)
        survey = self._steps(Verb.COUNT, GIVEN, 1.0) if surveys else ((), 0)
        dtype = "" if task in _BACKWARD else self.result.name
        return _Plan(
            device=self.device,
            survey=survey[0],
            steps=main[0],
            shape=() if summed else self.layout.losses,
            dtype=dtype,
            sums=summed,
            scratch=-(-max(main[1], survey[1]) // 8) * 8,
            divided=by,
            forms=self.forms,
            spans={place: _span(form) for place, form in self.forms.items()},
            options=self.options,
        )

    def _divided(self) -> tuple[int, float]:
        """What a value and its gradient are divided by: a number, where it is known already."""
        if self.task not in _DIVIDES:
            return GIVEN, 1.0
        by = _DIVISORS.get(self.options.reduction, KEPT)
        weighs = self.w is not None or self.weights.by_class is not None
        if by == GIVEN:
            return GIVEN, 1.0
        if not self.options.ignore_class and (by == KEPT or not weighs):
            return GIVEN, float(self.layout.count)
        return by, 1.0

    def _steps(self, verb: Verb, by: int, divisor: float) -> tuple[tuple[_Step, ...], int]:
        """A launch for each slab, and the bytes of scratch that they want together."""
        layout = self.layout
        if layout.count == 0:
            return (), 0
        views = {
            name: None if array is None else layout.scores(array)
            for name, array in {
                "x": self.x,
                "y": self._spread(self.labels.y),
                "w": self._spread(self.w),
                "out": self._spread(self.out),
                "dx": self.dx,
                "up": self._spread(self.up),
            }.items()
        }
        x = views["x"]
        assert x is not None
        *rest, outer, classes, inner = x.shape
        slabs = list(np.ndindex(*rest))
        shape = outer, classes, inner
        dx = None if views["dx"] is None else _place(views["dx"], slabs)
        plan = choose(
            self.x.dtype.name,
            self.options.scores,
            self.options.label_smoothing > 0,
            verb,
            shape,
            _place(x, slabs),
            dx,
            self.device.capability,
        )
        fixed = self._fixed(by, divisor)
        what = self.device.loaded(plan.kernel, plan.grid, plan.block, plan.cluster, plan.shared)
        steps = []
        for number, index in enumerate(slabs):
            fields = fixed | {
                "classes": classes,
                "inner": inner,
                "count": outer * inner,
                "first": number * outer * inner,
                "block": number * plan.grid,
                "blocks": len(slabs) * plan.grid,
            }
            for name, view in views.items():
                fields |= self._lies(name, view, index)
            steps.append(_Step(what, Arguments(**fields)))
        return tuple(steps), plan.scratch(len(slabs)) if self.task in _SUMS else 0

    def _lies(self, name: str, view: Array | None, index: tuple[int, ...]) -> dict[str, int]:
        """The arguments that say where an array's slab lies, from where the array begins."""
        if view is None:
            return {}
        *_, outer, classes, inner = view.strides
        letter = {"dx": "d", "out": "o", "up": "u"}.get(name, name)
        steps = {f"{letter}o": outer, f"{letter}i": inner}
        if name in ("x", "dx"):
            steps[f"{letter}c"] = classes
        else:
            steps[f"{name}_code"] = CODES[view.dtype.name]
        if name == "w" and self.weight is not None:
            return {name: self.weight, **steps}  # a constant: no call fills it in
        return {name: view[index].ctypes.data - self.bases.get(name, _BASE), **steps}

    def _fixed(self, by: int, divisor: float) -> dict[str, int | float]:
        """The arguments that are the same for every slab."""
        options, single = self.options, self.x.dtype.itemsize < 8
        arithmetic = np.float32 if single else np.float64
        ignored = [c for c in options.ignore_class if -NONE <= c <= NONE]
        by_class = None if self.task == Task.RANKS else self.weights.by_class
        fixed: dict[str, int | float] = dict.fromkeys(Arguments._fields, 0)
        return fixed | {
            "many": len(ignored),
            "ignored": ignored[0] if len(ignored) == 1 else self._sent(np.array(ignored, np.int64)),
            "by_class": 0 if by_class is None else self._sent(by_class),
            "error": self.device.error(_Told(self._unseen(), self.weights, self.layout)),
            "value_code": CODES[self.result.name] if self.task in _SUMS else 0,
            "by": by,
            "smoothing": options.label_smoothing,
            "lo": float(arithmetic(self.eps)),
            "hi": float(arithmetic(1 - self.eps)),
            "divisor": divisor,
        }

    def _sent(self, constants: Array) -> int:
        """The address of constants on the device."""
        if not constants.size:
            return 0
        return int(self.device.constant(constants, self.stream))

    def _unseen(self) -> labels.Labels:
        """The labels without their memory, which is no longer theirs when an error is told."""
        return replace(self.labels, y=np.broadcast_to(np.int8(0), self.labels.y.shape))


def _span(form: Form) -> tuple[int, int]:
    """The bytes that an array reaches over, from its address on."""
    if 0 in form.shape:
        return 0, 0
    reach = [step * (n - 1) for step, n in zip(form.strides, form.shape, strict=True)]
    return sum(min(0, r) for r in reach), sum(max(0, r) for r in reach) + form.dtype.itemsize


def _place(view: Array, slabs: list[tuple[int, ...]]) -> Place:
    """Where all slabs of an array lie: their addresses' low bits, which alone count, joined."""
    *_, outer, classes, inner = view.strides
    low = 0
    for index in slabs:
        low |= view[index].ctypes.data & 15
    return Place(low, outer, classes, inner)


def _result(task: Task, options: Options, x: Array) -> np.dtype[Any]:
    """The dtype of a call's first result."""
    if task == Task.RANKS:
        return np.dtype(np.int64)
    return float_dtype(options.dtype or x.dtype.name)


def _ordinal(device: str) -> int:
    return int(device.partition(":")[2] or 0)


# ---- bad labels ---------------------------------------------------------------------------------

_NUMBERLESS: dict[int, tuple[float, str | None]] = {
    words.BELOW: (words.LARGEST + 1.0, f"a label below {words.SMALLEST}"),
    words.ABOVE: (words.LARGEST + 1.0, f"a label above {words.LARGEST}"),
    words.NAN: (math.nan, None),
    words.NOT_WHOLE: (0.5, "a label that is not whole"),
    words.NA: (float(NA_INTEGER), None),
    words.ALL_ABOVE: (math.inf, None),
    words.ALL_BELOW: (-math.inf, None),
}
"""What stands for no number: a value to find the likely cause by, and words if it has none."""


class _Told(NamedTuple):
    """What error words are read with: those of one plan."""

    labels: labels.Labels
    weights: weights.Weights
    layout: Layout


def _raise_what_is_pending(device: Any) -> None:
    """ValueError for the first error word that holds one; all of them are taken back."""
    device.synchronise()
    for told, label, weight in device.told():
        if label != NONE:
            at, what = told.layout.place(label >> LABEL_BITS), label & ((1 << LABEL_BITS) - 1)
            value, shown = _NUMBERLESS.get(what, (float(what - LABEL_ZERO), None))
            raise ValueError(told.labels.complaint(value, shown, at))
        if weight != NONE:
            raise ValueError(told.weights.complaint(told.layout.place(weight)))


# ---- the host's arrays, on request --------------------------------------------------------------


def _visiting(
    task: Task, y_true: Any, y_pred: Any, sample_weight: Any, out: Any, options: Options
) -> Any:
    """A call for arrays of the host: taken to the device, and the results back.

    Everything is checked before anything is sent, labels too: NumPy's refusals hold as they stand.
    """
    assert options.device is not None
    call = carried.read(y_true, y_pred, sample_weight, options)
    call.survey()
    to = host.output(out, call.x, call.inputs()) if task in _VISITS_WITH_GRADIENT else None
    device = _ordinal(options.device)
    wide = call.arithmetic == np.float64
    x = arrays.DeviceArray.of(
        call.x.astype(call.arithmetic if wide else call.effective, copy=False), device
    )
    y = arrays.DeviceArray.of(call.labels.y, device)
    w: Any = sample_weight
    if call.weights.sample is not None:
        w = arrays.DeviceArray.of(np.ascontiguousarray(call.weights.sample, np.float64), device)
    library = arrays.OTHER
    dx = None if to is None else library.empty_as(x)
    result = host.scalar(_Call(task, library, options, x, y, w, dx).run()[0].numpy())
    if to is None:
        return result
    assert dx is not None
    np.copyto(to, dx.numpy(), casting="unsafe")
    return result, to if out is None else out


_VISITS_WITH_GRADIENT = (Task.VALUE_AND_GRADIENT, Task.LOSSES_AND_GRADIENT)
