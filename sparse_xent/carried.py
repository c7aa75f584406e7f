"""A call carried by compiled kernels, on as many threads as `config_threads()` gives.

`sweep` says what a call is; here it is done by `kernels.native` for the arrays that the kernels
take as they lie: native floats of at most 64 bits, whose arithmetic is their own. All else stays
with the NumPy engine, and so does a call whose kernels cannot be had. Positions are cut into chunks
by shape and layout alone, and each chunk leaves its own sums, so that neither the number of threads
nor their pace can be seen in a result.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import numpy as np
import numpy.typing as npt

from sparse_xent import config, implausible, sweep
from sparse_xent.engines import threads
from sparse_xent.implausible import Found
from sparse_xent.kernels import loader
from sparse_xent.kernels.cpu import abi
from sparse_xent.labels import Labels
from sparse_xent.options import Options

Array = npt.NDArray[Any]
_P = ParamSpec("_P")
_R = TypeVar("_R")

# A call of fewer bytes of scores is done by its caller alone: waking another thread costs some
# 50 us, in which one thread reads about this much.
SERIAL_BYTES = 1 << 20
# A task is what a thread takes at once: long beside the 10 us that taking it costs, short enough
# that threads end together and Ctrl-C is heard.
TASK_BYTES = 1 << 21
# A chunk of whole rows: with its losses it stays in a core's second-level cache.
CHUNK_BYTES = 1 << 18
# Labels that are lowered by array operations, some 40 bytes each, at once.
LABELS_AT_ONCE = 1 << 13

EXACT = 1 << 53  # ignored classes that compare exactly with labels of any dtype


def read(
    y_true: object,
    y_pred: object,
    sample_weight: object,
    options: Options,
) -> sweep.Call:
    """What the user sent, checked, and bound to the engine that serves it."""
    call = sweep.Call.read(y_true, y_pred, sample_weight, options)
    walk = _walk(call) if config._compiled else None
    if walk is None:
        return call
    return CarriedCall(**{f: getattr(call, f) for f in call.__dataclass_fields__}, walk=walk)


def _or_by_numpy(
    method: Callable[Concatenate["CarriedCall", _P], _R],
) -> Callable[Concatenate["CarriedCall", _P], _R]:
    """The method; the NumPy engine's of the same name where a kernel cannot be had.

    Kernels are asked for before anything is written, so nothing is done twice.
    """
    by_numpy: Callable[Concatenate[CarriedCall, _P], _R] = getattr(sweep.Call, method.__name__)

    @wraps(method)
    def serve(self: "CarriedCall", /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return method(self, *args, **kwargs)
        except loader.EngineUnavailable as error:
            config.fall_back(error)
        return by_numpy(self, *args, **kwargs)

    return serve


@dataclass(frozen=True, slots=True)
class CarriedCall(sweep.Call):
    """A call that the compiled kernels serve."""

    walk: abi.KernelChoice

    def with_out(self, out: Array | None) -> Self:
        """The same call with a place for its gradient, which is walked beside the scores."""
        call = sweep.Call.with_out(self, out)
        walk = _walk(call)
        assert walk is not None  # as for the same scores before
        return replace(call, walk=walk)

    @_or_by_numpy
    def losses(self, dtype: np.dtype[Any]) -> tuple[Array, Found]:
        """Every loss times its weight, in the losses' shape; and what cannot be probabilities."""
        flat = np.empty(self.layout.count, dtype)
        sums = self._carry(self.walk.forward(), losses=flat)
        return self.layout.unflatten(flat), implausible.of_sums(sums)

    @_or_by_numpy
    def total(self) -> tuple[tuple[float, int, float], Found]:
        """sum(l * w), labels kept and the sum of weights; and what cannot be probabilities."""
        sums = self._carry(self.walk.forward())
        return summed(sums), implausible.of_sums(sums)

    @_or_by_numpy
    def survey(self) -> tuple[int, float]:
        """Check every label and weight before anything is written; the last two of `total`."""
        return summed(self._carry(0))[1:]

    @_or_by_numpy
    def descend(self, divisor: float, losses: Array | None = None) -> tuple[float, Found]:
        """sum(l * w); the gradient of sum(l * w) / divisor is written into `out`."""
        if self._beyond_kernels(divisor):  # the gradient alone: values are the call's
            sums = self._carry(self.walk.forward(), losses=losses)
            sweep.Call.descend(self, divisor)
        else:
            sums = self._carry(self.walk.both(), losses=losses, dx=self.gradient, divisor=divisor)
        return summed(sums)[0], implausible.of_sums(sums)

    @_or_by_numpy
    def ranks(self) -> npt.NDArray[np.int64]:
        """How many classes stand above each label."""
        size = self.walk.chunk
        (*rest, outer, classes, inner), (*xr, xo, xc, xi) = self.layout.steps(self.x)
        slab, lines = outer * inner, self._lines()
        flat, bad = np.empty(self.layout.count, np.int64), []
        places = [self.x.ctypes.data + before for before in _offsets(rest, xr)]
        rank = abi.rank(abi.format_of(self.x.dtype))
        lower = None if lines.apart else abi.lower(lines.y.dtype)

        def task(number: int, first: int, last: int) -> None:
            start = number * slab + first
            y = np.empty(last - first, _LOWERED)
            if lower is None:
                y[...] = self.labels.lower(np.asarray(lines.y[start : start + y.size]))
            else:
                _, at, step, ignored, many, *_ = lines.at(start)
                if lower(at, step, y.size, classes, ignored, many, y.ctypes.data):
                    bad.append(start)
                    return
            to = flat[start:].ctypes.data
            rank(classes, inner, first, last, places[number], xo, xc, xi, y.ctypes.data, to)

        in_tasks(task, len(places), slab, size, self.x.nbytes)
        if bad:
            self.labels.refuse()
        return self.layout.unflatten(flat)

    def _beyond_kernels(self, divisor: float) -> bool:
        """Whether some w / divisor is infinite, or no number for the arithmetic's float32."""
        if divisor == 0:
            return False
        largest, least = 1.0 / abs(divisor), 1.0 / abs(divisor)
        for weights in (self.weights.sample, self.weights.by_class):
            if weights is not None and weights.size:
                most, few = 0.0, 1.0
                for block in np.nditer(
                    weights, ["external_loop", "buffered"], op_dtypes=[np.float64], casting="unsafe"
                ):
                    sizes = np.abs(block)
                    most = max(most, float(sizes.max()))
                    few = min(few, float(sizes.min(where=sizes > 0, initial=1.0)))
                largest, least = largest * most, least * few
        if self.arithmetic == np.float64:
            return largest == math.inf
        return largest > 1e30 or least < 1e-30

    def _carry(
        self,
        walk: int,
        losses: Array | None = None,
        dx: Array | None = None,
        divisor: float = 1.0,
    ) -> Array:
        """Carry every chunk; returns their sums, one row a chunk."""
        (*rest, outer, classes, inner), (*xr, xo, xc, xi) = self.layout.steps(self.x)
        *gr, go, gc, gi = (0,) * (len(rest) + 3) if dx is None else self.layout.steps(dx)[1]
        x_at, dx_at = self.x.ctypes.data, 0 if dx is None else dx.ctypes.data
        past = self.walk.past and dx_at not in (0, x_at)
        lines = self._lines()
        slab, size = outer * inner, self.walk.chunk
        chunks = -(-slab // size)  # of one slab
        sums: Array = np.zeros((math.prod(rest), chunks, abi.SUMS))
        taken = self.walk.reads if dx is None else classes * self.x.itemsize
        own = np.dtype(np.float64 if self.arithmetic == np.float64 else np.float32)
        direct = losses is not None and losses.dtype == own
        to = losses.ctypes.data if losses is not None and direct else 0
        formula = abi.ScalarParams(*self._span(), divisor).laid()
        order = self.layout.c_order_of_slabs()
        calls = []
        for number, (x_by, dx_by) in enumerate(
            zip(_offsets(rest, xr), _offsets(rest, gr), strict=True)
        ):
            before = number * slab  # positions of the slabs that came before
            call = abi.ChunkParams(
                walk, own == np.float64, classes, inner, x_at + x_by, xo, xc, xi,
                dx_at + dx_by if dx_at else 0, go, gc, gi, past,
                *lines.at(before),
                size, sums[number].ctypes.data, to + before * own.itemsize if to else 0, False,
                formula.ctypes.data, order=0 if order is None else order[number].ctypes.data,
            )  # fmt: skip
            calls.append(call)
        held = [call.laid() for call in calls]
        places, carry = [call.ctypes.data for call in held], abi.carry()
        here = not lines.apart and (losses is None or direct)  # nothing is made beside

        def task(number: int, first: int, last: int) -> None:
            if here:
                carry(places[number], first, last, abi.scratch.at)
                return
            start, stop = number * slab + first, number * slab + last
            fields, kept = lines.beside(start, stop, first) if lines.apart else ({}, ())
            if losses is not None and not direct:
                made = np.empty(stop - start, own)
                fields["losses"] = made.ctypes.data - first * own.itemsize
            call = calls[number]._replace(**fields).laid()
            carry(call.ctypes.data, first, last, abi.scratch.at)
            if losses is not None and not direct:
                losses[start:stop] = made
            del kept

        in_tasks(task, len(calls), slab, task_length(size, taken), self.x.nbytes)
        sums = sums.reshape(-1, abi.SUMS)
        if sums[:, _FAULTS].any():
            if sums[:, abi.BAD].any():
                self.labels.refuse()
            self.weights.refuse(self.labels.lower(self.labels.y))
        return sums

    def _lines(self) -> "_Lines":
        y, w = self.layout.positions(self.labels.y), self.weights.sample
        weights = None if w is None else self.layout.positions(w)
        ignored = np.array([c for c in self.labels.ignored if abs(c) <= EXACT], np.int64)
        straight = isinstance(y, np.ndarray) and y.dtype in abi.LABELS and y.flags.aligned
        straight = straight and len(ignored) == len(self.labels.ignored)
        if isinstance(weights, np.ndarray):
            straight = straight and weights.dtype == np.float64 and weights.dtype.isnative
            straight = straight and weights.flags.aligned
        elif weights is not None:
            straight = False
        return _Lines(self.labels, y, ignored, weights, self.weights.by_class, not straight)

    def _span(self) -> tuple[float, float, float]:
        """Label smoothing, and the clip's bounds rounded to the arithmetic's dtype."""
        eps = self.formula["eps"]
        lo, hi = self.arithmetic.type(eps), self.arithmetic.type(1 - eps)
        return self.formula["smoothing"], float(lo), float(hi)


def _walk(call: sweep.Call) -> abi.KernelChoice | None:
    """The kernels that serve a call as its arrays lie, or None."""
    x = call.x
    if x.dtype != call.effective or not x.dtype.isnative or not x.flags.aligned or not x.size:
        return None
    own = np.float64 if x.dtype == np.float64 else np.float32
    if call.arithmetic != own:
        return None
    (*_, classes, inner), (*_, xc, xi) = call.layout.steps(x)
    return abi.choose_kernel(
        abi.format_of(x.dtype),
        call.formula["scores"],
        call.formula["smoothing"] > 0,
        classes,
        inner,
        (xc, xi),
        CHUNK_BYTES,
    )


@dataclass(frozen=True, slots=True)
class _Lines:
    """Labels, ignored classes and weights, in the order of positions."""

    labels: Labels
    y: Any  # an array that steps through memory, or a .flat iterator
    ignored: Array
    w: Any
    by_class: Array | None
    apart: bool  # whether the kernels cannot read them where they lie

    def at(self, position: int) -> tuple[int, int, int, int, int, int, int, int]:
        """What a `native.Call` says of them, for positions counted from this one."""
        by_class = 0 if self.by_class is None else self.by_class.ctypes.data
        if self.apart:
            return (
                abi.lowering(_LOWERED),
                0,
                _LOWERED.itemsize,
                _NONE.ctypes.data,
                1,
                0,
                8,
                by_class,
            )
        (step,) = self.y.strides
        y = abi.lowering(self.y.dtype), self.y.ctypes.data + position * step, step
        w = (0, 0)
        if self.w is not None:
            w = self.w.ctypes.data + position * self.w.strides[0], self.w.strides[0]
        return *y, self.ignored.ctypes.data, self.ignored.size, *w, by_class

    def beside(self, start: int, stop: int, first: int) -> tuple[dict[str, int], tuple[Array, ...]]:
        """Copies of some positions as a kernel reads them, counted from `first`: addresses, arrays.

        Labels that are neither class nor ignored are refused here.
        """
        y = np.empty(stop - start, _LOWERED)
        for at in range(start, stop, LABELS_AT_ONCE):
            end = min(stop, at + LABELS_AT_ONCE)
            y[at - start : end - start] = self.labels.lower(np.asarray(self.y[at:end]))
        fields = {"y": y.ctypes.data - first * y.itemsize}
        if self.w is None:
            return fields, (y,)
        w = np.asarray(self.w[start:stop], np.float64)
        w = np.ascontiguousarray(w)
        return {**fields, "w": w.ctypes.data - first * 8}, (y, w)


_FAULTS = [abi.BAD, abi.MISSING]
_LOWERED, _NONE = np.dtype(np.int32), np.array([-1], np.int64)


def _offsets(shape: list[int], steps: list[int]) -> list[int]:
    """Where each slab begins, in bytes behind the first."""
    return [
        sum(i * step for i, step in zip(index, steps, strict=True))
        for index in itertools.product(*map(range, shape))
    ]


def summed(sums: Array) -> tuple[float, int, float]:
    """sum(l * w), labels kept and sum(w) of all chunks; where losses are infinite NumPy warns."""
    if len(sums) == 1:
        total, kept, weight = sums[0, :3].tolist()
    else:
        total, kept, weight = np.sum(np.ascontiguousarray(sums.T[:3]), axis=1).tolist()
    return total, int(kept), weight


def task_length(size: int, taken: int) -> int:
    """Positions of a task: whole chunks of `size`, each position of which takes `taken` bytes."""
    return max(1, TASK_BYTES // (size * taken)) * size


def in_tasks(
    task: Callable[[int, int, int], None], slabs: int, positions: int, length: int, nbytes: int
) -> None:
    """Call task(slab, first position, the one after the last) until all slabs are done.

    Args:
        task: what is done; by several threads where there is enough of it.
        slabs: how many there are.
        positions: of each slab.
        length: positions of a task.
        nbytes: of all scores.
    """
    tasks = -(-positions // length)
    if slabs * tasks == 1:
        task(0, 0, positions)
        return

    def one(k: int) -> None:
        slab, part = divmod(k, tasks)
        with np.errstate(all="ignore"):  # the caller's does not reach other threads
            task(slab, part * length, min(positions, (part + 1) * length))

    threads.run(one, slabs * tasks, config.config_threads() if nbytes >= SERIAL_BYTES else 1)
