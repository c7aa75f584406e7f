"""A call carried by compiled kernels, on as many threads as `config_threads()` gives.

`sweep` says what a call is; here it is done by `kernels.native` for the arrays that the kernels
take as they lie: native floats of at most 64 bits, whose arithmetic is their own. All else stays
with the plain engine. Positions are cut into chunks by shape and layout alone, and each chunk
leaves its own sums, so that neither the number of threads nor their pace can be seen in a result.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sparse_xent import config, sweep
from sparse_xent.kernels import Scores, pool
from sparse_xent.options import Options

Array = npt.NDArray[Any]

# A call of fewer bytes of scores is done by its caller alone: waking another thread costs some
# 50 us, in which one thread reads about this much.
SERIAL_BYTES = 1 << 20
# A task is what a thread takes at once: long beside the 10 us that taking it costs, short enough
# that threads end together and Ctrl-C is heard.
TASK_BYTES = 1 << 21
# A chunk of whole rows: with its losses it stays in a core's second-level cache.
CHUNK_BYTES = 1 << 18


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


@dataclass(frozen=True, slots=True)
class CarriedCall(sweep.Call):
    """A call that the compiled kernels serve."""

    walk: Any  # kernels.native.Walk

    def with_out(self, out: Array | None) -> Self:
        """The same call with a place for its gradient, which is walked beside the scores."""
        call = sweep.Call.with_out(self, out)
        return replace(call, walk=_walk(call))

    def losses(self, dtype: np.dtype[Any]) -> Array:
        """Every loss times its weight, in the losses' shape."""
        flat = np.empty(self.layout.count, dtype)
        self._carry(self.walk.forward(), losses=flat)
        return self.layout.unflatten(flat)

    def total(self) -> tuple[float, int, float]:
        """sum(l * w), the number of labels kept, and the sum of their weights."""
        return _summed(self._carry(self.walk.forward()))

    def survey(self) -> tuple[int, float]:
        """Check every label and weight before anything is written; the last two of `total`."""
        return _summed(self._carry(0))[1:]

    def descend(self, divisor: float, losses: Array | None = None) -> tuple[float, Array]:
        """sum(l * w), and the gradient of sum(l * w) / divisor, written into `out`."""
        assert self.out is not None
        if self._beyond_float32(divisor):  # the kernels hold a row's factor in its arithmetic
            return sweep.Call.descend(self, divisor, losses)
        dx = self.layout.scores(self.out)
        sums = self._carry(self.walk.both(), losses=losses, dx=dx, divisor=divisor)
        return _summed(sums)[0], self.out

    def _beyond_float32(self, divisor: float) -> bool:
        """Whether some w / divisor is too large or too small for the arithmetic's float32."""
        if self.arithmetic == np.float64 or divisor == 0:
            return False
        largest, least = 1.0 / abs(divisor), 1.0 / abs(divisor)
        for weights in (self.weights.sample, self.weights.by_class):
            if weights is not None and weights.size:
                sizes = np.abs(weights.astype(np.float64))
                largest *= float(sizes.max())
                least *= float(sizes.min(where=sizes > 0, initial=1.0))
        return largest > 1e30 or least < 1e-30

    def _carry(
        self,
        walk: int,
        losses: Array | None = None,
        dx: Array | None = None,
        divisor: float = 1.0,
    ) -> Array:
        """Carry every chunk; returns their sums, one row a chunk."""
        from sparse_xent.kernels import native

        x = self.layout.scores(self.x)
        *rest, outer, classes, inner = x.shape
        *xr, xo, xc, xi = x.strides
        *gr, go, gc, gi = dx.strides if dx is not None else (0,) * x.ndim
        past = dx is not None and self.walk.past and dx.ctypes.data != x.ctypes.data
        labels, weights, keep = self._lines()
        slab, size = outer * inner, self.walk.chunk
        chunks = -(-slab // size)  # of one slab
        sums = np.zeros((math.prod(rest), chunks, native.SUMS))
        per_task = max(1, TASK_BYTES // (size * classes * self.x.itemsize))
        tasks = -(-chunks // per_task)
        slabs = list(np.ndindex(*rest))
        formula = self._span()
        wide = self.arithmetic == np.float64
        carry = native.carry()
        x_at, dx_at = x.ctypes.data, 0 if dx is None else dx.ctypes.data

        def task(k: int) -> None:
            with np.errstate(all="ignore"):  # each thread has its own
                carry_task(k)

        def carry_task(k: int) -> None:
            slab_number, part = divmod(k, tasks)
            index = slabs[slab_number]
            first = part * per_task * size
            last = min(slab, first + per_task * size)
            start = slab_number * slab  # of the slab, among all positions
            made = None if losses is None else _room(losses, start + first, start + last, wide)
            carry(
                walk,
                wide,
                (classes, inner, x_at + _offset(index, xr), xo, xc, xi),
                (dx_at + _offset(index, gr) if dx_at else 0, go, gc, gi, past),
                (labels[0], labels[1] + start * labels[2], *labels[2:]),
                (weights[0] + start * weights[1] if weights[0] else 0, *weights[1:]),
                formula,
                (first, last, size),
                sums[slab_number].ctypes.data,
                0 if made is None else made.ctypes.data - first * made.itemsize,
                divisor,
            )
            if made is not None and losses is not None and made.base is not losses:
                losses[start + first : start + last] = made

        threads = config.config_threads() if self.x.nbytes >= SERIAL_BYTES else 1
        pool.run(task, len(slabs) * tasks, threads)
        sums = sums.reshape(-1, native.SUMS)
        if sums[:, native.BAD].any():
            self.labels.refuse()
        if sums[:, native.MISSING].any():
            self.weights.refuse(self.labels.lower(self.labels.y))
        del keep
        return sums

    def _lines(self) -> tuple[tuple[int, ...], tuple[int, ...], list[Array]]:
        """Labels and weights as addresses and steps, and the arrays that hold them."""
        from sparse_xent.kernels import native

        y, ignored = self.layout.positions(self.labels.y), self.labels.ignored
        if not isinstance(y, np.ndarray) or y.dtype not in native.LABELS or not y.flags.aligned:
            y, ignored = self.labels.lower(np.asarray(y[:])), (-1,)
        classes = np.array(ignored, np.int64)
        labels = native.lowering(y.dtype), y.ctypes.data, *y.strides, classes.ctypes.data
        keep = [y, classes]
        sample, step = 0, 0
        if self.weights.sample is not None:
            w = np.asarray(self.layout.positions(self.weights.sample)[:], np.float64)
            keep.append(w)
            sample, step = w.ctypes.data, w.strides[0]
        by_class = self.weights.by_class
        weights = sample, step, 0 if by_class is None else by_class.ctypes.data
        return (*labels, len(ignored)), weights, keep

    def _span(self) -> tuple[float, float, float]:
        """Label smoothing, and the clip's bounds rounded to the arithmetic's dtype."""
        eps = self.formula["eps"]
        lo, hi = self.arithmetic.type(eps), self.arithmetic.type(1 - eps)
        return self.formula["smoothing"], float(lo), float(hi)


def _walk(call: sweep.Call) -> Any:
    """The kernels that serve a call as its arrays lie, or None."""
    x = call.x
    if x.dtype != call.effective or not x.dtype.isnative or not x.flags.aligned or not x.size:
        return None
    own = np.float64 if x.dtype == np.float64 else np.float32
    if call.arithmetic != own:
        return None
    if call.formula["scores"] == Scores.LOGITS and call.formula["smoothing"] > 0:
        return None  # a row with one class alive may cost some 1e-9 there where 0 is right
    from sparse_xent.kernels import native

    view = call.layout.scores(x)
    return native.choose(
        x.dtype.name,
        call.formula["scores"],
        call.formula["smoothing"] > 0,
        view.shape[-2],
        view.shape[-1],
        view.strides[-2:],
        CHUNK_BYTES,
    )


def _room(losses: Array, start: int, stop: int, wide: bool) -> Array:
    """Where a task's losses go: in place, or beside where they are of another dtype."""
    own = np.float64 if wide else np.float32
    return losses[start:stop] if losses.dtype == own else np.empty(stop - start, own)


def _offset(index: tuple[int, ...], steps: list[int]) -> int:
    return sum(i * step for i, step in zip(index, steps, strict=True))


def _summed(sums: Array) -> tuple[float, int, float]:
    total, kept, weight = (float(np.sum(column)) for column in np.ascontiguousarray(sums.T[:3]))
    return total, int(kept), weight
