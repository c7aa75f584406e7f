"""Calls on arrays in a CUDA device's memory: read, find the plan, launch on the caller's stream.

What can be known from how the arrays lie and from the options is in the plan; the next call of its
kind fills in addresses and launches. Nothing waits, nothing is copied, and nothing is allocated
but the results, from the caller's library, and once a stream a scratch for sums.

The values of labels are checked where they are: a bad one makes its loss and its gradient row NaN
and is recorded, and the next call on that device raises the error, or `cuda_check()`.
"""

from collections.abc import Hashable
from typing import Any

import numpy as np

from sparse_xent import config, dtypes
from sparse_xent import plan as plans
from sparse_xent.arrays.adapters import adapter_of, refuse_out, refuse_place, refuse_taped
from sparse_xent.arrays.base import ArrayAdapter, ArraySpec
from sparse_xent.arrays.output import check_apart, check_output, is_same
from sparse_xent.arrays.refusals import EXPECTED, refuse_dtype
from sparse_xent.engines import cuda, cuda_driver, cuda_errors
from sparse_xent.engines.base import Task
from sparse_xent.options import Options, whole_number
from sparse_xent.plan import DevicePlan, DeviceSpecs

_RANKS = Task.RANKS
_BOTH = (Task.VALUE_AND_GRADIENT, Task.LOSSES_AND_GRADIENT)
_BACKWARD = {Task.LOSSES: Task.GRADIENT, Task.VALUE: Task.GRADIENT_OF_VALUE}


# ---- the public calls ---------------------------------------------------------------------------


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
            cuda_errors.raise_pending(used)


def call(
    task: Task, adapter: ArrayAdapter, options: Options, y: Any, x: Any, w: Any, out: Any = None
) -> Any:
    """What the task says, for scores on a device.

    Args:
        task: losses, a value, either with the gradient, or ranks.
        adapter: y_pred's.
        options: of the loss.
        y: labels.
        x: y_pred.
        w: sample weights, if any.
        out: where the gradient goes; None for a new array.

    Returns:
        One array of y_pred's library on its device, 0-d for a value; with the gradient, two.

    Raises:
        TypeError, ValueError: the arrays do not fit; or an earlier call met a bad label.
    """
    if task in _BOTH:
        return _with_gradient(task, adapter, options, y, x, w, out)
    if task is not _RANKS and adapter.requires_grad(x):
        return _differentiable(task, adapter, options, y, x, w)
    x = _in_arithmetic(adapter, x, options)
    return _Call(task, adapter, options, x, y, w).run()[0]


def _with_gradient(
    task: Task, adapter: ArrayAdapter, options: Options, y: Any, x: Any, w: Any, out: Any
) -> tuple[Any, Any]:
    """The first result, and the gradient with respect to y_pred."""
    if out is not None and adapter_of(out) is not adapter:
        refuse_out(out)
    wide = _in_arithmetic(adapter, x, options)
    if wide is x:
        given = out is not None
        dx = out if given else adapter.empty_like(x)
        made = _Call(task, adapter, options, x, y, w, dx, out_is_given=given).run()[0]
        if given:
            adapter.mark_mutated(out)
        return made, dx
    dtype = dtypes.counts_as(adapter.spec_of(x).dtype)
    if out is not None:
        _check_out(adapter, out, x, dtype)
    dx = adapter.empty_like(wide)
    made = _Call(task, adapter, options, wide, y, w, dx).run()[0]
    if out is None:
        return made, _cast(adapter, dx, dtype)
    adapter.copy_into(out, dx)
    return made, out


def _differentiable(
    task: Task, adapter: ArrayAdapter, options: Options, y: Any, x: Any, w: Any
) -> Any:
    """Losses or a value, whose derivative the library asks for later."""
    refuse_taped(adapter, y, w)
    number = w if adapter_of(w) is None else None  # the library need not know of it
    array = w if number is None else None

    def forward(x: Any, y: Any, w: Any) -> tuple[Any, Any]:
        w = number if w is None else w
        x = _in_arithmetic(adapter, x, options)
        return _Call(task, adapter, options, x, y, w).run(keep_sums=True)

    def derivative(upstream: Any, sums: Any, x: Any, y: Any, w: Any) -> Any:
        w = number if w is None else w
        wide = _in_arithmetic(adapter, x, options)
        dx = adapter.empty_like(wide)
        _Call(_BACKWARD[task], adapter, options, wide, y, w, dx, upstream).run(sums=sums)
        return dx if wide is x else _cast(adapter, dx, adapter.spec_of(x).dtype)

    return adapter.with_derivative(x, (y, array), forward, derivative)


# ---- dtypes and places --------------------------------------------------------------------------


def _in_arithmetic(adapter: ArrayAdapter, x: Any, options: Options) -> Any:
    """The scores as they are, or converted where no kernel reads them so.

    Integers count as float32; scores below the arithmetic that `dtype` asks for are widened.
    """
    kind = getattr(x, "dtype", None), options.dtype
    if kind in _read_as_they_are:
        return x
    dtype = adapter.spec_of(x).dtype
    if not dtypes.is_number(dtype):
        refuse_dtype(dtype, "y_pred", EXPECTED["y_pred"])
    counts_as = dtypes.counts_as(dtype)
    if dtypes.arithmetic(counts_as, options.dtype) == dtypes.FLOAT64:
        counts_as = dtypes.FLOAT64
    if dtype == counts_as:
        if kind[0] is not None:
            _read_as_they_are.add(kind)
        return x
    return adapter.cast(x, counts_as.name)


_read_as_they_are: set[tuple[Any, ...]] = set()


def _cast(adapter: ArrayAdapter, array: Any, dtype: np.dtype[Any]) -> Any:
    """The array in that dtype, as it is where it has it."""
    return array if adapter.spec_of(array).dtype == dtype else adapter.cast(array, dtype.name)


def _check_out(adapter: ArrayAdapter, out: Any, x: Any, dtype: np.dtype[Any]) -> None:
    """Refuse an `out` that no gradient with respect to x may go into, of whatever dtype x is."""
    (to, kind), (at, x_kind) = adapter.read(out), adapter.read(x)
    spec, x_spec = adapter.spec(kind), adapter.spec(x_kind)
    check_output(spec, x_spec, dtype)
    check_apart((spec, to), (x_spec, at), {})


def _check_place(spec: ArraySpec | None, argument: str, device: int | None) -> None:
    """Refuse an array that lies on another device than y_pred."""
    if spec is not None and spec.device != device:
        raise TypeError(
            f"{argument} must lie on cuda:{device}, as y_pred does, got an array on "
            f"cuda:{spec.device}"
        )


# ---- a call -------------------------------------------------------------------------------------


class _Call:
    """One call's arrays, read, and its plan."""

    __slots__ = ("adapter", "addresses", "others", "plan", "x")

    def __init__(
        self,
        task: Task,
        adapter: ArrayAdapter,
        options: Options,
        x: Any,
        y: Any,
        w: Any = None,
        dx: Any = None,
        up: Any = None,
        out_is_given: bool = False,  # whether dx is the caller's, who may have sent anything
    ) -> None:
        self.adapter, self.x = adapter, x
        self.others: tuple[tuple[ArrayAdapter, Any], ...] = ()  # arrays of other libraries
        at, kind = adapter.read(x)
        y_adapter = adapter if type(y) is type(x) else self._adapter_of(y, "y_true", kind)
        y_at, y_kind = y_adapter.read(y)
        self.addresses: list[cuda.Address] = [(cuda.X, at), (cuda.Y, y_at)]
        w_kind = dx_kind = up_kind = None
        if w is not None:
            w_kind = self._read_weight(w, kind)
        if dx is not None:
            to, dx_kind = adapter.read(dx)
            dx_kind = dx_kind, to & cuda.LOW_BITS, out_is_given
            self.addresses.append((cuda.DX, to))
        if up is not None:
            up_at, up_kind = adapter.read(up)
            self.addresses.append((cuda.UP, up_at))
        # The plan holds the options: while it is there, no others have their id.
        key: tuple[Any, ...] = (
            task, id(options), config._epsilon, kind, at & cuda.LOW_BITS, y_kind, w_kind, dx_kind,
            up_kind, adapter, y_adapter,
        )  # fmt: skip
        self.plan: DevicePlan = plans.find_on_device(key) or self._made(key, options, y)

    def _adapter_of(self, array: Any, argument: str, kind: Hashable) -> ArrayAdapter:
        """The adapter of an array that lies beside the scores, of whatever library."""
        found = adapter_of(array)
        if found is None:
            device = self.adapter.spec(kind).device
            assert device is not None
            refuse_place(array, argument, self.adapter, device)
        if found is not self.adapter:
            self.others = (*self.others, (found, array))
        return found

    def _read_weight(self, w: Any, kind: Hashable) -> Hashable:
        """Read the sample weight: an array beside the scores, or a number of the host's."""
        if isinstance(w, int | float | np.number | np.bool_) or (
            isinstance(w, np.ndarray) and w.ndim == 0
        ):
            return float(w).hex()
        adapter = self._adapter_of(w, "sample_weight", kind)
        at, w_kind = adapter.read(w)
        self.addresses.append((cuda.W, at))
        return adapter, w_kind

    def _made(self, key: tuple[Any, ...], options: Options, y: Any) -> DevicePlan:
        """The plan of a call that is the first of its kind."""
        task, _, _, kind, low, y_kind, w_kind, dx_kind, up_kind, adapter, y_adapter = key
        if adapter_of(y) is None:  # it may be the library's, and the host's
            self._adapter_of(y, "y_true", kind)
        if adapter.is_capturing(self.x):
            raise RuntimeError(
                "a call of a new kind loads code, which a CUDA graph cannot capture: make it once "
                "before the capture"
            )
        x = adapter.spec(kind)
        device = x.device
        if options.device is not None and device != options.device:
            raise ValueError(
                f"device='cuda:{options.device}' is for arrays of the host, and y_pred lies on "
                f"cuda:{device}: bring it there, or leave device out"
            )
        w, weight, dx = None, None, None
        if isinstance(w_kind, str):
            weight = float.fromhex(w_kind)
        elif w_kind is not None:
            w = w_kind[0].spec(w_kind[1])
        dx_low, given = 0, False
        if dx_kind is not None:
            of_dx, dx_low, given = dx_kind
            dx = adapter.spec(of_dx)
        y_spec = y_adapter.spec(y_kind)
        for spec, argument in ((y_spec, "y_true"), (w, "sample_weight"), (dx, "out")):
            _check_place(spec, argument, device)
        specs = DeviceSpecs(
            y=y_spec,
            x=x,
            w=w,
            dx=dx,
            up=None if up_kind is None else adapter.spec(up_kind),
            weight=weight,
            low_bits=(low, dx_low),
            out_is_given=given,
            stream=adapter.stream(self.x, device),
            y_true=y,
        )
        return plans.on_device(key, task, options, specs)

    def run(self, keep_sums: bool = False, sums: Any = None) -> tuple[Any, Any]:
        """Launch.

        Args:
            keep_sums: whether the sums are kept where the divisor is among them.
            sums: those that an earlier call kept, for a gradient.

        Returns:
            The first result, and the sums where they are kept.
        """
        plan, adapter, x, addresses = self.plan, self.adapter, self.x, self.addresses
        program = plan.program
        device = program.device
        if device.has_errors():
            cuda_errors.raise_pending(device)
        if plan.specs:
            self._check_overlap()
        stream = adapter.stream(x, device.ordinal)
        for other, array in self.others:
            device.order(stream, other.stream(array, device.ordinal))
        made = kept = None
        if plan.result:
            made = adapter.empty(x, plan.shape, plan.result)
            place = cuda.VALUE if plan.reduces else cuda.OUT
            addresses.append((place, adapter.address(made)))
        if sums is not None:
            addresses.append((cuda.COUNTED, adapter.address(sums)))
        if keep_sums and program.counts_divisor:
            kept = adapter.empty(x, (cuda.SUMS,), "float64")
        if not program.steps:
            self._clear(stream, made, kept)
        elif plan.reduces:
            self._run_sums(stream, kept)
        else:
            program.run(stream, addresses)
        return made, kept

    def _check_overlap(self) -> None:
        """Refuse an `out` that is neither the scores' own memory nor apart from what is read.

        By bounds first; only where these meet is it looked at closely.
        """
        at, reach = dict(self.addresses), self.plan.reach
        to = at.pop(cuda.DX)
        low, high = reach[cuda.DX]
        low, high = to + low, to + high
        meet = []
        for place, address in at.items():
            first, last = reach[place]
            if address + first < high and low < address + last:
                meet.append(place)
        if not meet:
            return
        specs = self.plan.specs
        x, dx = (specs[cuda.X], at[cuda.X]), (specs[cuda.DX], to)
        if meet == [cuda.X] and is_same(x, dx):
            return
        names = {cuda.Y: "y_true", cuda.W: "sample_weight"}
        check_apart(dx, x, {names[p]: (specs[p], at[p]) for p in meet if p in names})

    def _run_sums(self, stream: int, kept: Any) -> None:
        """Launch what shares a scratch, which no other call may use meanwhile."""
        program, adapter = self.plan.program, self.adapter
        device, nbytes = program.device, program.scratch_bytes
        with device.lock:
            if adapter.owns_stream(self.x, stream):
                scratch = device.scratch(stream, nbytes)
            else:
                own = adapter.empty(self.x, (nbytes // 8,), "float64")
                scratch = adapter.address(own)
                device.clear(scratch, 8, stream)
            to = 0 if kept is None else adapter.address(kept)
            program.run_sums(stream, self.addresses, scratch, to)

    def _clear(self, stream: int, *arrays: Any) -> None:
        """What is reduced over nothing is 0."""
        device = self.plan.program.device
        for array in arrays:
            if array is not None:
                at, kind = self.adapter.read(array)
                device.clear(at, self.adapter.spec(kind).nbytes, stream)
