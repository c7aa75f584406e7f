"""The compiled kernels as an engine: a call in chunks of positions, on several threads.

It serves arrays that kernels take as they lie: native floats of at most 64 bits, whose arithmetic
is their own. Positions are cut into chunks by shape and layout alone, and each chunk leaves its own
sums, so that neither the number of threads nor their pace can be seen in a result. A call that is
one chunk takes the shortest way: one C function that is given the array objects themselves.
"""

import itertools
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from sparse_xent import config, dtypes
from sparse_xent.engines import numpy as numpy_engine
from sparse_xent.engines import threads
from sparse_xent.engines.base import (
    DONE,
    NOTHING,
    Array,
    BadLabel,
    Found,
    MissingWeight,
    Operands,
    Problem,
    Sums,
    Task,
)
from sparse_xent.kernels import loader
from sparse_xent.kernels.cpu import abi, array_objects

# A call of fewer bytes of scores is done by its caller alone: waking another thread costs some
# 50 us, in which one thread reads about this much.
SERIAL_BYTES = 1 << 20
# A task is what a thread takes at once: long beside the 10 us that taking it costs, short enough
# that threads end together and Ctrl-C is heard.
TASK_BYTES = 1 << 21
# A chunk of whole rows: with its losses it stays in a core's second-level cache.
CHUNK_BYTES = 1 << 18
# Labels that are decoded by array operations, some 40 bytes each, at once.
LABELS_AT_ONCE = 1 << 13

EXACT = 1 << 53  # ignored classes that compare exactly with labels of any dtype

_scratch = abi.scratch
_DECODED, _MINUS_ONE = np.dtype(np.int32), np.array([-1], np.int64)


def prepare(problem: Problem, open_rows: bool) -> "LossProgram | RankProgram | None":
    """What runs calls of this kind; None where kernels do not.

    Args:
        problem: the calls.
        open_rows: whether they may differ in the length of y_pred's first axis: all arrays are in
            C order, and it is not the class axis.

    Raises:
        loader.EngineUnavailable: the kernels cannot be had.
    """
    x = problem.x
    own = problem.targets is None and problem.arithmetic == dtypes.arithmetic(x.dtype, None)
    as_they_lie = x.dtype == problem.counts_as and x.dtype.isnative and x.aligned
    if not own or not as_they_lie or not x.size:
        return None
    return (RankProgram if problem.task == Task.RANKS else LossProgram)(problem, open_rows)


class _Geometry:
    """How the arrays of a problem lie, as the kernels take them."""

    def __init__(self, problem: Problem, open_rows: bool) -> None:
        self.problem, self.layout = problem, problem.layout_with_dx
        (*rest, outer, classes, inner), self.steps = self.layout.view(problem.x.strides)
        self.rest, self.classes, self.inner = rest, classes, inner
        self.slabs, self.slab = math.prod(rest), outer * inner
        self.per_row = self.layout.count // problem.x.shape[0] if open_rows else 0
        self.choice = abi.choose_kernel(
            abi.format_of(problem.x.dtype),
            problem.scores,
            problem.smoothing > 0,
            classes,
            inner,
            self.steps[-2:],
            CHUNK_BYTES,
        )
        self._ignored = np.array([c for c in problem.ignored if abs(c) <= EXACT], np.int64)
        self._y_step = self.layout.line(problem.y.strides)
        self._w_step = 0 if problem.w is None else self.layout.line(problem.w.strides)
        self.reads_lines = self._reads_labels() and self._reads_weights()
        self.decoder = problem.y.dtype if self.reads_lines else _DECODED

    def positions(self, x: Array) -> int:
        """How many positions a slab of this call has."""
        return len(x) * self.per_row if self.per_row else self.slab

    def lines(self, y: Array | None, w: Array | None, position: int) -> dict[str, int]:
        """What `abi.ChunkParams` says of labels and weights, counted from this position.

        Labels and weights that kernels do not read as they lie are None, and come decoded.
        """
        if not self.reads_lines:
            ignored, y_step, w_step = _MINUS_ONE, _DECODED.itemsize, 8
        else:
            ignored, y_step, w_step = self._ignored, self._y_step or 0, self._w_step or 0
        by_class = self.problem.by_class
        return {
            "decoder": abi.decoder(self.decoder),
            "y": 0 if y is None else y.ctypes.data + position * y_step,
            "y_step": y_step,
            "ignored": ignored.ctypes.data,
            "many": ignored.size,
            "w": 0 if w is None else w.ctypes.data + position * w_step,
            "w_step": w_step,
            "by_class": 0 if by_class is None else by_class.ctypes.data,
        }

    def decoded(self, at: Operands, start: int, stop: int) -> tuple[Array, Array | None]:
        """Labels and weights of some positions, as kernels read them: copies.

        Raises:
            BadLabel: a label is neither class nor ignored.
        """
        labels, y = numpy_engine.in_order(at.y, self.layout), np.empty(stop - start, _DECODED)
        for begin in range(start, stop, LABELS_AT_ONCE):
            end = min(stop, begin + LABELS_AT_ONCE)
            y[begin - start : end - start], bad = self.problem.decode(np.asarray(labels[begin:end]))
            if bad.any():
                raise BadLabel
        if at.w is None:
            return y, None
        w = np.asarray(numpy_engine.in_order(at.w, self.layout)[start:stop], np.float64)
        return y, np.ascontiguousarray(w)

    def _reads_labels(self) -> bool:
        """Whether kernels read the labels where they lie."""
        y, exact = self.problem.y, len(self._ignored) == len(self.problem.ignored)
        return self._y_step is not None and y.dtype in abi.LABELS and y.aligned and exact

    def _reads_weights(self) -> bool:
        w = self.problem.w
        straight = w is None or (w.dtype == np.float64 and w.dtype.isnative and w.aligned)
        return straight and self._w_step is not None


class RankProgram:
    """Ranks: how many classes stand above each label."""

    def __init__(self, problem: Problem, open_rows: bool) -> None:
        self._geometry = _Geometry(problem, open_rows)
        self.as_sent = self._geometry.reads_lines
        self._rank = abi.rank(abi.format_of(problem.x.dtype))
        self._decode = (
            abi.decode_labels(self._geometry.decoder) if self._geometry.reads_lines else None
        )

    def run(self, *at: Any) -> Sums:
        """Write the ranks."""
        with np.errstate(all="ignore"):
            return self._run(Operands(*at))

    def _run(self, at: Operands) -> Sums:
        geometry, flat = self._geometry, at.losses.reshape(-1)
        classes, inner, slab = geometry.classes, geometry.inner, geometry.positions(at.x)
        *steps, xo, xc, xi = geometry.steps
        slabs = [at.x.ctypes.data + before for before in _offsets(geometry.rest, steps)]
        bad = []

        def task(number: int, first: int, last: int) -> None:
            start = number * slab + first
            y = np.empty(last - first, _DECODED)
            if self._decode is None:
                y[...] = geometry.decoded(at, start, start + y.size)[0]
            else:
                lines = geometry.lines(at.y, None, start)
                said = (lines[name] for name in ("ignored", "many"))
                if self._decode(lines["y"], lines["y_step"], y.size, classes, *said, y.ctypes.data):
                    bad.append(start)
                    return
            to = flat[start:].ctypes.data
            self._rank(classes, inner, first, last, slabs[number], xo, xc, xi, y.ctypes.data, to)

        _in_tasks(task, len(slabs), slab, geometry.choice.chunk, at.x.nbytes)
        if bad:
            raise BadLabel
        return DONE


class LossProgram:
    """Losses, values and gradients."""

    def __init__(self, problem: Problem, open_rows: bool) -> None:
        self._problem, self._geometry = problem, _Geometry(problem, open_rows)
        self.as_sent = self._geometry.reads_lines
        self._own = dtypes.arithmetic(problem.x.dtype, None)
        self._writes_losses = problem.task in (Task.LOSSES, Task.LOSSES_AND_GRADIENT)
        self._reduces = problem.task.reduces
        self._differentiates = problem.task.differentiates
        self._casts = self._writes_losses and problem.result != self._own
        choice = self._geometry.choice
        self._kernel = choice.both() if self._differentiates else choice.forward()
        self._chunk, self._run_chunks = choice.chunk, abi.run_chunks()
        clip_range = dtypes.clip_range(problem.epsilon, self._own)
        self._scalars = abi.ScalarParams(problem.smoothing, *clip_range, 1.0)
        self._order = self._geometry.layout.c_order_of_slabs()
        self._forward: LossProgram | None = None
        # Where `dx` is laid out unlike the scores the chunks are others, and with them the order of
        # the sum: a pass of its own gives the value the bits that it has without a gradient.
        if problem.layout != problem.layout_with_dx and problem.task == Task.VALUE_AND_GRADIENT:
            self._forward = LossProgram(problem.without_gradient(), open_rows)
        self._wants_sums = problem.task != Task.LOSSES
        self._one_chunk = self._for_one_chunk()
        self._rows = self._rows_at_once()

    # ---- one chunk ------------------------------------------------------------------------------

    def _for_one_chunk(self) -> Callable[[int, int, int], int] | None:
        """The C function for a call that is one chunk; None where it does not serve."""
        one = self._geometry.slabs == 1 and self._forward is None
        if not one or not array_objects.are_as_expected():
            return None
        self._scalars_at_hand = self._scalars.laid()
        self._params = self._params_of(
            0, 0, self._geometry.lines(None, None, 0), self._scalars_at_hand, self._order
        )._replace(
            dx=self._differentiates,
            losses=self._writes_losses,
            w=self._problem.w is not None,
            divided_by=abi.DIVIDED_BY + self._problem.divisor,
            run_chunks=loader.address("run_chunks"),
            row=self._geometry.per_row,
            positions=self._geometry.slab,
        ).laid()  # fmt: skip
        self._params_at = self._params.ctypes.data
        return abi.run_one_chunk()

    def run(
        self, y: Any, x: Any, w: Any = None, losses: Any = None, dx: Any = None, _: Any = None
    ) -> Sums:
        """Do what the task says.

        Raises:
            BadValue: nothing is written then, but for losses.
        """
        if len(x) > self._rows:
            return self._otherwise(Operands(y, x, w, losses, dx))
        sums = np.zeros(abi.SUMS) if self._wants_sums else None
        arrays = y, x, losses, dx, sums, _scratch.array, w
        if self._one_chunk(self._params_at, id(arrays)):
            return self._unusual(Operands(y, x, w, losses, dx), sums)
        if sums is None:
            return DONE
        total, kept, weight = sums[:3].tolist()
        return Sums(total, kept, weight, NOTHING)

    def _rows_at_once(self) -> int:
        """Up to which length of the first axis a call goes straight to the one C function."""
        geometry = self._geometry
        if self._one_chunk is None or not self.as_sent or self._casts:
            return -1
        if geometry.per_row:
            return self._chunk // geometry.per_row
        return sys.maxsize if geometry.slab <= self._chunk else -1

    def _otherwise(self, at: Operands) -> Sums:
        """What is more than one chunk, or whose labels, weights or losses are to be converted."""
        positions = self._geometry.positions(at.x)
        if self._one_chunk is None or positions > self._chunk:
            return self._in_chunks(at, positions)
        return self._converted(at, positions)

    def _converted(self, at: Operands, positions: int) -> Sums:
        """One chunk whose labels or weights have to be decoded first, or whose losses are cast."""
        y, w = at.y, at.w
        if not self.as_sent:
            y, w = self._geometry.decoded(at, 0, positions)
        made = np.empty(positions, self._own) if self._casts else at.losses
        sums = np.zeros(abi.SUMS) if self._wants_sums else None
        arrays = y, at.x, made, at.dx, sums, _scratch.array, w
        unusual = self._one_chunk(self._params_at, id(arrays))
        if self._casts:
            with np.errstate(all="ignore"):
                at.losses.reshape(-1)[...] = made
        if unusual:
            return self._unusual(at, sums)
        return DONE if sums is None else _summed(sums[None])

    def _unusual(self, at: Operands, sums: Array | None) -> Sums:
        """What is to be done where one chunk's sums say that something is unusual."""
        if sums is None:
            return self._in_chunks(at, self._geometry.positions(at.x))
        _refuse(sums[None])
        counted = _summed(sums[None])
        if sums[abi.ODD_ROWS] == abi.BEYOND:
            return self._by_numpy(at, self._problem.divisor.of(counted.kept, counted.weight))
        return counted

    # ---- many chunks ----------------------------------------------------------------------------

    def _in_chunks(self, at: Operands, positions: int) -> Sums:
        with np.errstate(all="ignore"):
            if not self._differentiates:
                return _summed(self._pass(at, positions, self._kernel, 1.0))
            counted = self._pass(at._replace(losses=None), positions, 0, 1.0)
            sums = _summed(counted)
            divisor = self._problem.divisor.of(sums.kept, sums.weight)
            if self._is_beyond(counted, divisor):
                return self._by_numpy(at, divisor)
            total = (
                None if self._forward is None else self._forward.run(*at._replace(dx=None)).total
            )
            made = _summed(self._pass(at, positions, self._kernel, divisor))
            return made if total is None else made._replace(total=total)

    def _by_numpy(self, at: Operands, divisor: float) -> Sums:
        """The gradient by the NumPy engine, whose factors may be any; values are the kernels'."""
        values = LossProgram(self._problem.without_gradient(), False).run(*at._replace(dx=None))
        with np.errstate(all="ignore"):
            numpy_engine.prepare(self._problem).gradient(at._replace(losses=None), divisor)
        return values

    def _is_beyond(self, sums: Array, divisor: float) -> bool:
        """Whether some w / divisor is infinite, or no number for the arithmetic's float32."""
        if divisor == 0:
            return False
        largest = sums[:, abi.LARGEST_WEIGHT].max() / abs(divisor)
        least = sums[:, abi.LEAST_WEIGHT].min() / abs(divisor)
        low, high = abi.FACTORS[self._own.itemsize]
        return not largest <= high or least < low

    def _pass(self, at: Operands, slab: int, kernel: int, divisor: float) -> Array:
        """Send every chunk through a kernel (0: none); returns their sums, one row a chunk."""
        geometry, size = self._geometry, self._chunk
        writes = at.dx is not None and kernel == self._kernel and self._differentiates
        losses = at.losses.reshape(-1) if at.losses is not None and kernel else None
        sums = np.zeros((geometry.slabs, -(-slab // size), abi.SUMS))
        scalars = self._scalars._replace(divisor=divisor).laid()
        dx_at = at.dx.ctypes.data if writes else 0
        ahead = dict(
            kernel=kernel,
            nontemporal=geometry.choice.nontemporal and dx_at not in (0, at.x.ctypes.data),
        )
        to = losses.ctypes.data if losses is not None and not self._casts else 0
        lines = geometry.reads_lines
        calls = []
        for number, (x_by, dx_by) in enumerate(zip(*self._slab_offsets(), strict=True)):
            before = number * slab  # positions of the slabs that came before
            said = geometry.lines(*((at.y, at.w) if lines else (None, None)), before)
            order = None if self._order is None else self._order[number]
            calls.append(
                self._params_of(
                    at.x.ctypes.data + x_by, dx_at and dx_at + dx_by, said, scalars, order
                )._replace(
                    **ahead,
                    sums=sums[number].ctypes.data,
                    losses=to and to + before * self._own.itemsize,
                )
            )
        laid = [call.laid() for call in calls]
        addresses = [call.ctypes.data for call in laid]
        casts = losses is not None and self._casts

        def task(number: int, first: int, last: int) -> None:
            if lines and not casts:
                self._run_chunks(addresses[number], first, last, _scratch.at)
                return
            start, stop = number * slab + first, number * slab + last
            fields, y, w, made = {}, None, None, None
            if not lines:
                y, w = geometry.decoded(at, start, stop)
                fields["y"] = y.ctypes.data - first * y.itemsize
                if w is not None:
                    fields["w"] = w.ctypes.data - first * 8
            if casts:
                made = np.empty(stop - start, self._own)
                fields["losses"] = made.ctypes.data - first * self._own.itemsize
            call = calls[number]._replace(**fields).laid()
            self._run_chunks(call.ctypes.data, first, last, _scratch.at)
            if casts:
                losses[start:stop] = made

        taken = geometry.choice.reads
        if writes:
            taken = geometry.classes * at.x.itemsize
        length = max(1, TASK_BYTES // (size * taken)) * size
        _in_tasks(task, len(calls), slab, length, at.x.nbytes)
        sums = sums.reshape(-1, abi.SUMS)
        _refuse(sums)
        return sums

    def _slab_offsets(self) -> tuple[list[int], list[int]]:
        """Where each slab of the scores and of the gradient begins."""
        dx, rest = self._problem.dx, self._geometry.rest
        steps = self._geometry.steps if dx is None else self._geometry.layout.view(dx.strides)[1]
        return _offsets(rest, self._geometry.steps[:-3]), _offsets(rest, steps[:-3])

    def _params_of(
        self, x: int, dx: int, lines: dict[str, int], scalars: Array, order: Array | None
    ) -> abi.ChunkParams:
        """What kernels are told of one slab."""
        geometry, problem = self._geometry, self._problem
        *_, xo, xc, xi = geometry.steps
        do = dc = di = 0
        if problem.dx is not None:
            *_, do, dc, di = geometry.layout.view(problem.dx.strides)[1]
        return abi.ChunkParams(
            kernel=self._kernel, wide=self._own == np.float64, classes=geometry.classes,
            inner=geometry.inner, x=x, xo=xo, xc=xc, xi=xi, dx=dx, do=do, dc=dc, di=di,
            size=self._chunk, formula=scalars.ctypes.data,
            order=0 if order is None else order.ctypes.data, **lines,
        )  # fmt: skip


def _refuse(sums: Array) -> None:
    """Raise what was found to be wrong with labels or weights."""
    if sums[:, abi.BAD].any():
        raise BadLabel
    if sums[:, abi.MISSING].any():
        raise MissingWeight


def _summed(sums: Array) -> Sums:
    """The sums of all chunks, which are added in their order; and what cannot be probabilities."""
    if len(sums) == 1:
        total, kept, weight = sums[0, :3].tolist()
    else:
        total, kept, weight = np.sum(np.ascontiguousarray(sums.T[:3]), axis=1).tolist()
    return Sums(total, int(kept), weight, _found(sums))


def _found(sums: Array) -> Found:
    chunks = sums[sums[:, abi.ODD_ROWS] > 0]
    if not len(chunks):
        return NOTHING
    chunk = chunks[chunks[:, abi.ODD_ROWS + 1].argmin(), abi.ODD_ROWS : abi.ODD_ROWS + abi.FOUND]
    _, first, column, score, least, most, total, whole = chunk.tolist()
    rows = int(chunks[:, abi.ODD_ROWS].sum())
    return Found(rows, int(first), int(column), score, least, most, total, bool(whole))


def _offsets(shape: list[int], steps: Any) -> list[int]:
    """Where each slab begins, in bytes behind the first."""
    return [
        sum(i * step for i, step in zip(index, steps, strict=True))
        for index in itertools.product(*map(range, shape))
    ]


def _in_tasks(
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
