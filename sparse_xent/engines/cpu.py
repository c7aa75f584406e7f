"""The compiled kernels as an engine: a call in chunks of positions, on several threads.

It serves arrays that kernels take as they lie: native floats of at most 64 bits, whose arithmetic
is their own. Positions are cut into chunks by shape and layout alone, and each chunk leaves its own
sums, so that neither the number of threads nor their pace can be seen in a result. A small call
takes the shortest way: one C function that is given the array objects themselves.
"""

import itertools
import math
import operator
import sys
from collections.abc import Callable, Sequence
from functools import partial
from threading import get_ident
from typing import Any

import numpy as np

from sparse_xent import config, dtypes
from sparse_xent.accumulate import LossSums
from sparse_xent.engines import numpy as numpy_engine
from sparse_xent.engines import threads
from sparse_xent.engines.base import (
    DONE,
    NOTHING,
    Array,
    BadLabel,
    Found,
    Misaligned,
    MissingWeight,
    Operands,
    Problem,
    Sums,
    Task,
)
from sparse_xent.kernels import loader
from sparse_xent.kernels.cpu import abi, array_objects, functions

# A task is what a thread takes at once: long beside the 10 us that taking it costs, short enough
# that threads end together and Ctrl-C is heard.
TASK_BYTES = 1 << 21
# A call of fewer bytes of scores is done by its caller alone: waking another thread costs
# some 50 us. It is one C function then, where tasks of Python cost 25 us more: the loss of
# 128 x 1000 float32 takes 29 us so, and 53 us as tasks; of 300 x 1000 42 and 70, of 470 x 1000 71
# and 98.
SERIAL_BYTES = TASK_BYTES
# A new array of more bytes has new pages (glibc keeps smaller ones, DEFAULT_MMAP_THRESHOLD_MAX),
# which the system clears as they are first written to: they are in the caches then. The gradient of
# 4096 x 32000 float32 takes 93 ms, and 115 with nontemporal stores; of 200 x 32000 4.4 ms, and 3.0.
CLEARED_BYTES = 1 << 25
# A chunk of whole rows: with its losses it stays in a core's second-level cache.
CHUNK_BYTES = 1 << 18
# Labels that are decoded by array operations, some 40 bytes each, at once.
LABELS_AT_ONCE = 1 << 13

EXACT = 1 << 53  # ignored classes that compare exactly with labels of any dtype

_scratch = abi.scratch
_own_scratch = partial(getattr, _scratch, "at")
(
    _KERNEL, _X, _DX, _Y, _Y_STEP, _W, _W_STEP, _SCALARS, _SUMS, _LOSSES, _DIVIDED_BY,
    _NONTEMPORAL, _RUN_CHUNKS, _ROW, _POSITIONS, _ORDER, _RANKS,
) = (
    abi.ChunkParams._fields.index(name)
    for name in (
        "kernel", "x", "dx", "y", "y_step", "w", "w_step", "formula", "sums", "losses",
        "divided_by", "nontemporal", "run_chunks", "row", "positions", "order", "ranks",
    )
)  # fmt: skip
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
    if problem.task.sums and dtypes.arithmetic(problem.result, None) != problem.arithmetic:
        return None  # losses that are rounded to a dtype which is not computed in
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
        self._order = self.layout.order
        self._y_step = self.layout.line(problem.y.strides)
        self._w_step = 0 if problem.w is None else self.layout.line(problem.w.strides)
        self.reads_labels, self.reads_weights = self._reads_labels(), self._reads_weights()

    def positions(self, x: Array) -> int:
        """How many positions a slab of this call has."""
        return len(x) * self.per_row if self.per_row else self.slab

    def lines(self) -> dict[str, int]:
        """What `abi.ChunkParams` says of labels and weights, but for where they lie.

        Those that kernels do not read as they lie come as `labels` and `readable` make them.
        """
        dtype, step, ignored = _DECODED, _DECODED.itemsize, _MINUS_ONE
        if self.reads_labels:
            dtype, step, ignored = self.problem.y.dtype, self._y_step or 0, self._ignored
        by_class = self.problem.by_class
        return {
            "decoder": functions.decoder(dtype),
            "y": 0,
            "y_step": step,
            "ignored": _address(ignored),
            "many": ignored.size,
            "w": 0,
            "w_step": (self._w_step or 0) if self.reads_weights else 8,
            "by_class": 0 if by_class is None else _address(by_class),
        }

    def offsets(self, steps: tuple[int, ...]) -> Array:
        """Where each slab of an array with these steps begins, in bytes behind the first."""
        indices = itertools.product(*map(range, self.rest))
        sums = [sum(map(operator.mul, index, steps[:-3])) for index in indices]
        return np.array(sums, np.int64)

    def readable(self, at: Operands) -> Operands:
        """The same with labels in the losses' shape, and weights copied as kernels read them.

        Labels and weights that kernels read as they lie stay as they are.
        """
        shape, axis, layout = at.x.shape, self.layout.axis, self.layout
        losses, y, w = shape[:axis] + shape[axis + 1 :], at.y, at.w
        if not self.reads_labels:
            y = self.problem.labels_in_shape(y, losses, axis)
        if not self.reads_weights:
            w = np.empty(losses if self.per_row else layout.ordered_losses)
            order = range(w.ndim) if self.per_row else np.argsort(self._order)
            w.transpose(*order)[...] = self.problem.weights_aligned(at.w, losses)
        return at._replace(y=y, w=w, sent_w=at.w)

    def labels(self, labels: Array, start: int, stop: int) -> Array:
        """The labels of some positions, decoded.

        Raises:
            BadLabel: one is neither class nor ignored.
        """
        line = numpy_engine.in_order(labels, self._order, self._y_step)
        y = np.empty(stop - start, _DECODED)
        for begin in range(start, stop, LABELS_AT_ONCE):
            end = min(stop, begin + LABELS_AT_ONCE)
            y[begin - start : end - start], bad = self.problem.decode(np.asarray(line[begin:end]))
            if bad.any():
                raise BadLabel
        return y

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
        self._reads = self._geometry.reads_labels
        self._rank = functions.rank(abi.format_of(problem.x.dtype))
        self._lines = self._geometry.lines()
        self._decode = functions.decode_labels(problem.y.dtype) if self._reads else None
        self._offsets = self._geometry.offsets(self._geometry.steps)

    def run(self, y: Any, x: Any, w: Any = None, ranks: Any = None, *_: Any) -> Sums:
        """Write the ranks.

        Raises:
            BadLabel: a label is neither class nor ignored.
        """
        geometry, lines = self._geometry, self._lines
        y = geometry.readable(Operands(y, x)).y
        classes, inner, slab = geometry.classes, geometry.inner, geometry.positions(x)
        xo, xc, xi = geometry.steps[-3:]
        to, labels, step = _address(ranks), _address(y), lines["y_step"]
        odd = _address(x) % x.itemsize or (self._reads and labels % y.itemsize)
        if odd and slab:
            raise Misaligned
        bad = []
        slabs = list(enumerate((_address(x) + self._offsets).tolist()))

        def rank(number_and_scores: tuple[int, int], first: int, last: int, _: object) -> None:
            number, scores = number_and_scores
            start = number * slab + first
            decoded = np.empty(last - first, _DECODED)
            if self._decode is None:
                decoded[...] = geometry.labels(y, start, start + decoded.size)
            else:
                said = labels + start * step, step, decoded.size, classes
                if self._decode(*said, lines["ignored"], lines["many"], _address(decoded)) < 0:
                    bad.append(start)
                    return
            here = _address(decoded), to + 8 * start
            self._rank(classes, inner, first, last, scores, xo, xc, xi, *here)

        _in_tasks(rank, slabs, slab, geometry.choice.chunk, x.nbytes)()
        if bad:
            raise BadLabel
        return DONE


class LossProgram:
    """Losses, values and gradients; ranks beside losses."""

    def __init__(self, problem: Problem, open_rows: bool) -> None:
        self._problem, self._geometry = problem, _Geometry(problem, open_rows)
        self._weighted = problem.w is not None or problem.by_class is not None
        self._labels = self._geometry.reads_labels
        self._as_they_lie = self._labels and self._geometry.reads_weights
        self._own = dtypes.arithmetic(problem.x.dtype, None)
        self._ranks, self._exact = problem.task.ranks, problem.task.sums
        self._writes_losses = problem.task in (
            Task.LOSSES,
            Task.LOSSES_AND_GRADIENT,
            Task.LOSSES_AND_RANKS,
        )
        self._differentiates = problem.task.differentiates
        self._casts = self._writes_losses and problem.result != self._own
        choice = self._geometry.choice
        self._kernel = functions.losses(choice, self._differentiates)
        self._chunk, self._run_chunks = choice.chunk, functions.run_chunks()
        clip_range = dtypes.clip_range(problem.epsilon, self._own)
        self._scalars = abi.ScalarParams(problem.smoothing, *clip_range, 1.0).laid()
        self._order = self._geometry.layout.c_order_of_slabs()
        self._template = self._laid()
        self._forward: LossProgram | None = None
        # Where `dx` is laid out unlike the scores the chunks are others, and with them the order of
        # the sum: a pass of its own gives the value the bits that it has without a gradient.
        if problem.layout != problem.layout_with_dx and problem.task == Task.VALUE_AND_GRADIENT:
            self._forward = LossProgram(problem.without_gradient(), open_rows)
        self._wants_sums = problem.task != Task.LOSSES
        self._params, self._small_call = self._template[0].copy(), functions.run_small_call()
        self._takes_small = self._ready_for_small_calls()
        self._rows, self._chunk_rows = self._rows_at_once()

    # ---- small calls ----------------------------------------------------------------------------

    def _ready_for_small_calls(self) -> bool:
        """Whether the one C function serves small calls; its parameters are filled in."""
        for place, number in (
            (_SCALARS, _address(self._scalars)),
            (_DX, self._differentiates),
            (_LOSSES, self._writes_losses),
            (_W, self._problem.w is not None),
            (_DIVIDED_BY, abi.DIVIDED_BY + self._problem.divisor),
            (_RUN_CHUNKS, loader.address("run_chunks")),
            (_ROW, self._geometry.per_row),
            (_POSITIONS, self._geometry.slab),
        ):
            self._params[place] = number
        self._params_at = _address(self._params)
        small = self._geometry.slabs == 1 and self._forward is None
        small = small and self._problem.task != Task.LOSSES_AND_RANKS
        return small and array_objects.are_as_expected()

    def run(
        self,
        y: Any,
        x: Any,
        w: Any = None,
        losses: Any = None,
        dx: Any = None,
        ranks: Any = None,
        exact: LossSums | None = None,
        dx_is_new: bool = False,
    ) -> Sums:
        """Do what the task says.

        Raises:
            BadValue: nothing is written then, but for losses.
        """
        if len(x) > self._rows:
            geometry = self._geometry
            at = Operands(y, x, w, losses, dx, ranks, exact, dx_is_new)
            if not self._as_they_lie:
                at = geometry.readable(at)
            positions = geometry.positions(x)
            if not self._takes_small or positions > self._chunk:
                return self._in_chunks(at, positions)
            return self._converted(at, positions)
        sums: Array | None = None
        if len(x) > self._chunk_rows:
            sums = np.zeros((-(-self._geometry.positions(x) // self._chunk), abi.SUMS))
        elif self._wants_sums:
            sums = np.zeros(abi.SUMS)
        arrays = y, x, losses, dx, sums, _scratch.own, w
        unusual = self._small_call(self._params_at, id(arrays))
        if unusual:
            return self._unusual(Operands(y, x, w, losses, dx), sums, unusual)
        if sums is None or not self._wants_sums:
            return DONE
        if sums.ndim > 1:
            return _summed(sums)
        total, kept, weight = sums[:3].tolist()
        return Sums(total, kept, weight, NOTHING)

    def gradient(
        self, y: Array, x: Array, w: Array | None, losses: Array | None, dx: Array, divisor: float
    ) -> Sums:
        """Write the gradient of sum(w * l) / divisor, and every w * l where losses go somewhere.

        Raises:
            BadValue: nothing is written then.
        """
        at = Operands(y, x, w, losses, dx, dx_is_new=True)
        if not self._as_they_lie:
            at = self._geometry.readable(at)
        return self._in_chunks(at, self._geometry.positions(x), divisor)

    def _rows_at_once(self) -> tuple[int, int]:
        """Up to which length of the first axis a call is small, and up to which it is one chunk."""
        geometry = self._geometry
        if not self._takes_small or not self._as_they_lie or self._casts or self._exact:
            return -1, -1
        score = self._problem.x.dtype.itemsize
        most = max(self._chunk, (SERIAL_BYTES - 1) // (geometry.classes * score))
        if geometry.per_row:
            return most // geometry.per_row, self._chunk // geometry.per_row
        is_small, is_one = geometry.slab <= most, geometry.slab <= self._chunk
        return sys.maxsize if is_small else -1, sys.maxsize if is_one else -1

    def _converted(self, at: Operands, positions: int) -> Sums:
        """One chunk whose labels or weights are decoded first, whose losses are cast, or summed."""
        y = at.y if self._labels else self._geometry.labels(at.y, 0, positions)
        made = np.empty(positions, self._own) if self._casts else at.losses
        sums = np.zeros(abi.SUMS) if self._wants_sums else None
        own = _scratch.own if at.exact is None else _own_sums(at.exact)
        arrays = y, at.x, made, at.dx, sums, own, at.w
        unusual = self._small_call(self._params_at, id(arrays))
        if self._casts:
            with np.errstate(all="ignore"):
                at.losses.reshape(-1)[...] = made
        if unusual:
            done = self._unusual(at, sums, unusual)
        else:
            done = DONE if sums is None else _summed(sums[None])
        if at.exact is not None:
            at.exact.add_fixed_point([own], done.kept, weighted=self._weighted)
        return done

    def _unusual(self, at: Operands, sums: Array | None, what: int) -> Sums:
        """Handle an answer of `run_small_call` that is not 0."""
        if what < 0:
            raise Misaligned
        if sums is None:
            return self._in_chunks(at, self._geometry.positions(at.x))
        rows = sums.reshape(-1, abi.SUMS)
        counted = _summed(rows)
        if rows[0, abi.ODD_ROWS] == abi.BEYOND:
            return self._by_numpy(at, self._problem.divisor.of(counted.kept, counted.weight))
        return counted

    # ---- many chunks ----------------------------------------------------------------------------

    def _in_chunks(self, at: Operands, slab: int, divisor: float | None = None) -> Sums:
        if not slab:
            return Sums(0.0, 0, 0.0, NOTHING)
        sums = np.zeros((self._geometry.slabs, -(-slab // self._chunk), abi.SUMS))
        scalars, params = self._scalars.copy(), self._template.copy()
        self._place(params, at, sums, scalars, slab)
        rows = sums.reshape(-1, abi.SUMS)
        if at.exact is not None:
            return self._add_exactly(at.exact, at, params, slab, rows)
        run = self._prepared(at, params, slab)
        with np.errstate(all="ignore"):
            if not self._differentiates:
                run()
                return _summed(rows)
            dx = params[:, _DX].copy()
            params[:, _DX] = params[:, _KERNEL] = 0  # labels and weights are checked, and counted
            run()
            counted = _summed(rows)
            if self._forward is not None:
                w = at.w if at.sent_w is None else at.sent_w
                counted = self._forward.run(at.y, at.x, w)
            if divisor is None:
                divisor = self._problem.divisor.of(counted.kept, counted.weight)
            if self._weighted and self._is_beyond(rows, divisor):
                return self._by_numpy(at, divisor)
            params[:, _DX], params[:, _KERNEL] = dx, self._kernel
            scalars[-1] = divisor
            run()
            made = _summed(rows)
        return made if self._forward is None else counted

    def _add_exactly(
        self, exact: LossSums, at: Operands, params: Array, slab: int, rows: Array
    ) -> Sums:
        """Add the losses to exact sums: each thread to its own, and all of them at the end."""
        words: dict[int, Array] = {}

        def own() -> int:
            me = get_ident()
            if me not in words:
                words[me] = _own_sums(exact)
            return _address(words[me])

        self._prepared(at, params, slab, own)()
        summed = _summed(rows)
        exact.add_fixed_point(words.values(), summed.kept, weighted=self._weighted)
        return summed

    def _by_numpy(self, at: Operands, divisor: float) -> Sums:
        """The gradient by the NumPy engine, whose factors may be any; values are the kernels'."""
        problem = self._problem
        if self._geometry.per_row:
            problem = problem.with_rows(len(at.x))
        w = at.w if at.sent_w is None else at.sent_w
        values = LossProgram(problem.without_gradient(), False).run(at.y, at.x, w, at.losses)
        numpy_engine.prepare(problem).gradient(at.y, at.x, w, None, at.dx, divisor)
        return values

    def _is_beyond(self, sums: Array, divisor: float) -> bool:
        """Whether some w / divisor lies outside `abi.FACTORS`."""
        if divisor == 0:
            return False
        largest = np.maximum.reduce(sums[:, abi.LARGEST_WEIGHT]) / abs(divisor)
        least = np.minimum.reduce(sums[:, abi.LEAST_WEIGHT]) / abs(divisor)
        low, high = abi.FACTORS[self._own.itemsize]
        return not largest <= high or least < low

    def _place(self, params: Array, at: Operands, sums: Array, scalars: Array, slab: int) -> None:
        """Write into the parameters of each slab where the arrays of this call lie."""
        slabs = np.arange(self._geometry.slabs)
        starts = slabs * slab  # positions of the slabs that came before
        x = _address(at.x)
        odd = x & (at.x.itemsize - 1)
        params[:, _X] += x
        params[:, _SUMS] = _address(sums) + slabs * sums[0].nbytes
        params[:, _SCALARS] = _address(scalars)
        if at.dx is not None:
            dx = x if at.dx is at.x else _address(at.dx)
            params[:, _DX] += dx
            cleared = at.dx_is_new and at.dx.nbytes > CLEARED_BYTES
            past = at.dx.nbytes >= self._geometry.choice.nontemporal
            params[:, _NONTEMPORAL] = past and dx != x and not cleared
        if self._labels:
            y = _address(at.y)
            odd |= y & (at.y.itemsize - 1)
            params[:, _Y] = y + starts * params[:, _Y_STEP]
        if at.w is not None:
            w = _address(at.w)
            odd |= w & 7
            params[:, _W] = w + starts * params[:, _W_STEP]
        if odd and slab:
            raise Misaligned
        if at.losses is not None and not self._casts:
            params[:, _LOSSES] = _address(at.losses) + starts * at.losses.itemsize
        if at.ranks is not None:
            params[:, _RANKS] = _address(at.ranks) + starts * at.ranks.itemsize

    def _prepared(
        self,
        at: Operands,
        params: Array,
        slab: int,
        own: Callable[[], object] = _own_scratch,
    ) -> Callable[[], None]:
        """What sends every chunk through the kernel that the parameters name."""
        taken = self._geometry.choice.reads
        if self._differentiates or self._ranks:
            taken = self._geometry.classes * at.x.itemsize
        length = max(1, TASK_BYTES // (self._chunk * taken)) * self._chunk
        direct = self._labels and not self._casts
        slabs: Sequence[int] = range(len(params))
        if direct:
            slabs = range(at_ := _address(params), at_ + params.nbytes, params[0].nbytes)
        task = self._run_chunks if direct else self._converting(at, params, slab)
        return _in_tasks(task, slabs, slab, length, at.x.nbytes, own)

    def _converting(self, at: Operands, params: Array, slab: int) -> Callable[..., None]:
        """What runs a task whose labels are decoded first, or whose losses are cast."""
        losses = None if at.losses is None else at.losses.reshape(-1)

        def task(number: int, first: int, last: int, scratch: int) -> None:
            start, stop = number * slab + first, number * slab + last
            own, y = params[number].copy(), None
            if not self._labels:
                y = self._geometry.labels(at.y, start, stop)
                own[_Y] = _address(y) - first * y.itemsize
            if self._casts:
                made = np.empty(stop - start, self._own)
                own[_LOSSES] = _address(made) - first * made.itemsize
            self._run_chunks(_address(own), first, last, scratch)
            if losses is not None and self._casts and own[_KERNEL]:
                with np.errstate(all="ignore"):
                    losses[start:stop] = made

        return task

    def _laid(self) -> Array:
        """`abi.ChunkParams` of each slab, but for the addresses of a call's arrays."""
        geometry, problem = self._geometry, self._problem
        *_, xo, xc, xi = geometry.steps
        dx = (0,) * len(geometry.steps)
        if problem.dx is not None:
            dx = geometry.layout.view(problem.dx.strides)[1]
        one = abi.ChunkParams(
            kernel=self._kernel, wide=self._own == np.float64, classes=geometry.classes,
            inner=geometry.inner, x=0, xo=xo, xc=xc, xi=xi, dx=0, do=dx[-3], dc=dx[-2], di=dx[-1],
            size=self._chunk, formula=0, x_odd=problem.x.dtype.itemsize - 1,
            y_odd=problem.y.dtype.itemsize - 1 if self._labels else 0,
            rank=functions.rank_address(geometry.choice.format) if self._ranks else 0,
            exact=functions.exact_sums_address(problem.result.name) if self._exact else 0,
            **geometry.lines(),
        )  # fmt: skip
        laid = np.tile(one.laid(), (geometry.slabs, 1))
        laid[:, _X], laid[:, _DX] = geometry.offsets(geometry.steps), geometry.offsets(dx)
        if self._order is not None:
            laid[:, _ORDER] = _address(self._order) + np.arange(len(laid)) * self._order[0].nbytes
        return laid


def _summed(sums: Array) -> Sums:
    """The sums of all chunks, which are added in their order; and what cannot be probabilities.

    Raises:
        BadLabel, MissingWeight: some chunk says so.
    """
    total, kept, weight, bad, missing = sums[0, : abi.MISSING + 1].tolist()
    if len(sums) > 1:
        lines = np.ascontiguousarray(sums.T[: abi.MISSING + 1])
        total, kept, weight, bad, missing = np.add.reduce(lines, axis=1).tolist()
    if bad:
        raise BadLabel
    if missing:
        raise MissingWeight
    found = _found(sums) if np.maximum.reduce(sums[:, abi.ODD_ROWS]) > 0 else NOTHING
    return Sums(total, int(kept), weight, found)


def _found(sums: Array) -> Found:
    """The rows that cannot be probabilities."""
    chunks = sums[sums[:, abi.ODD_ROWS] > 0]
    chunk = chunks[chunks[:, abi.ODD_ROWS + 1].argmin(), abi.ODD_ROWS : abi.ODD_ROWS + abi.FOUND]
    _, first, column, score, least, most, total, whole = chunk.tolist()
    rows = int(chunks[:, abi.ODD_ROWS].sum())
    return Found(rows, int(first), int(column), score, least, most, total, bool(whole))


def _own_sums(exact: LossSums) -> Array:
    """What a thread adds to, and where its scratch is."""
    words = exact.fixed_point()
    words[0] = _scratch.own[0]
    return words


def _address(array: Array) -> int:
    """Where the first element lies; `.ctypes.data` says the same, more slowly."""
    address: int = array.__array_interface__["data"][0]
    return address


def _in_tasks(
    task: Callable[..., object],
    slabs: Sequence[object],
    positions: int,
    length: int,
    nbytes: int,
    own: Callable[[], object] = _own_scratch,
) -> Callable[[], None]:
    """What calls task(slab, first position, the one after the last, own) until all is done.

    Args:
        task: what is done; by several threads where there is enough of it.
        slabs: what tasks are given for each.
        positions: of each slab.
        length: positions of a task.
        nbytes: of all scores.
        own: what gives each thread its own: its scratch.
    """
    arguments = [
        (slab, first, min(positions, first + length))
        for slab in slabs
        for first in range(0, positions, length)
    ]
    several = len(arguments) > 1 and nbytes >= SERIAL_BYTES
    count = config.threads() if several else 1
    return partial(threads.run, task, arguments, count, own)
