"""Plain calls: dense arrays go from the caller to a kernel with next to nothing between.

A loss of two rows takes a kernel some 50 ns; to read options and judge layouts takes 150 us, in
which a kernel reads a megabyte. Here a call is looked at just far enough to see that nothing
about it is unusual (dense, the last of two axes, no weights); whatever else it is, and every
mistake in it, is left to `sweep`. A loss has the same bits either way, and so have sums and
gradients: chunks and tasks are `carried`'s. Rows that are one chunk, which has one sum, take the
shortest way: `carry.small`. Scores in Fortran order, as every matrix of R's is, have a plan for
each number of rows, for their steps depend on it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparse_xent import carried, config, implausible
from sparse_xent.implausible import Found
from sparse_xent.kernels import ScoreKind, loader
from sparse_xent.kernels.cpu import abi
from sparse_xent.options import SCORES, Options

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_REDUCED = {"sum_over_batch_size": True, "mean": True, "sum": False}

_RESULTS: dict[str, Any] = {"float32": np.float32, "float64": np.float64}
_LARGEST, _LEAST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)

_Array, _empty = np.ndarray, np.empty

# Labels in a list are made an array here while that costs no more than the rest of the call.
_LISTED = 64


@dataclass(frozen=True, slots=True)
class _Plan:
    """What serves calls of one kind."""

    walk: abi.KernelChoice
    small: Callable[..., int]
    call: abi.ChunkParams  # but for what each call brings
    at: int  # address of its numbers
    formula: abi.ScalarParams
    held: tuple[Any, ...]  # what has addresses


_plans: dict[tuple[Any, ...], _Plan | None] = {}
_UNKNOWN: Any = object()


def losses(
    y_true: Any,
    y_pred: Any,
    from_logits: Any,
    ignore_class: Any,
    axis: int,
    smoothing: Any,
    normalize: Any,
) -> Any:
    """One loss a label, in y_pred's dtype; None where the call is not plain."""
    if from_logits.__class__ is not bool or smoothing.__class__ is not float:
        return None
    if (axis != -1 and axis != 1) or normalize.__class__ is not str:
        return None
    if ignore_class is not None and ignore_class.__class__ is not int:
        return None
    if y_true.__class__ is list:
        y_true = _listed(y_true)
    plan = _planned(y_true, y_pred, from_logits, normalize, smoothing, ignore_class, False, None)
    if plan is None:
        return None
    made = _empty(y_true.shape, y_pred.dtype)
    if len(made) > plan.walk.chunk:
        sums = _carried(plan, y_true, y_pred, plan.call.walk, 1.0, losses=made)
        if sums is not None:
            implausible.warn(implausible.of_sums(sums), y_pred.shape, 1)
        return None if sums is None else made
    arrays = y_true, y_pred, made, None, None, abi.scratch.array
    odd = plan.small(plan.at, id(arrays))
    return None if odd else made  # `sweep` says what is wrong


def reduced(
    y_true: Any, y_pred: Any, options: Options, gradient: bool, out: Any = None
) -> tuple[Any, Any] | None:
    """The reduced value and, if wanted, its gradient; None where the call is not plain."""
    result = _RESULTS.get(options.dtype or "")
    mean = _REDUCED.get(options.reduction or "")
    if result is None or mean is None or options.axis not in (-1, 1):
        return None
    ignored = options.ignore_class
    if options.class_weight is not None or len(ignored) > 1:
        return None
    if y_true.__class__ is list:
        y_true = _listed(y_true)
    plan = _planned(
        y_true, y_pred, options.from_logits, options.normalize, options.label_smoothing,
        ignored[0] if ignored else None, gradient, mean,
    )  # fmt: skip
    if plan is None:
        return None
    if result is np.float64 and y_pred.itemsize != 8:
        return None  # the arithmetic is then wider than the scores
    if out is not None and not _fits(out, y_pred, y_true):
        return None
    dx = out if out is not None else np.empty_like(y_pred) if gradient else None
    sums = (_small if len(y_true) <= plan.walk.chunk else _large)(plan, y_true, y_pred, dx)
    if sums is None:
        return None
    (total, kept, *_), found = sums
    if found is not None:
        implausible.warn(found, y_pred.shape, 1)
    value = total / kept if mean and kept else total
    if value > _LARGEST or 0 < value < _LEAST:  # of what rounds to inf or to 0 NumPy would warn
        with np.errstate(all="ignore"):
            return result(value), dx
    return result(value), dx


_Sums = tuple[Any, Found | None]  # sum of losses, labels kept, ...; rows that warn, if any


def _small(plan: _Plan, y_true: Any, y_pred: Any, dx: Any) -> _Sums | None:
    """The sums of a call that is one chunk; None where a label is no class."""
    sums = _empty(abi.SUMS)
    arrays = y_true, y_pred, None, dx, sums, abi.scratch.array
    if plan.small(plan.at, id(arrays)):
        if sums[abi.BAD]:
            return None
        return sums.tolist(), implausible.of_sums(sums[None])
    return sums.tolist(), None


def _large(plan: _Plan, y_true: Any, y_pred: Any, dx: Any) -> _Sums | None:
    """The same of more than one chunk."""
    divisor = 1.0
    if dx is not None:  # labels are checked before anything is written, and counted
        sums = _carried(plan, y_true, y_pred, 0, divisor)
        if sums is None:
            return None
        if plan.call.mean:
            divisor = float(carried.summed(sums)[1])
    sums = _carried(plan, y_true, y_pred, plan.call.walk, divisor, dx)
    if sums is None:
        return None
    with np.errstate(all="ignore"):
        return carried.summed(sums), implausible.of_sums(sums)


def _carried(
    plan: _Plan,
    y_true: Any,
    y_pred: Any,
    walk: int,
    divisor: float,
    dx: Any = None,
    losses: Any = None,
) -> Any:
    """The sums of all chunks, one row a chunk; None where a label is no class."""
    positions, size, x = len(y_true), plan.walk.chunk, y_pred.ctypes.data
    sums = np.zeros((-(-positions // size), abi.SUMS))
    formula = plan.formula._replace(divisor=divisor).laid()
    to = 0 if dx is None else dx.ctypes.data
    call = plan.call._replace(
        walk=walk, x=x, y=y_true.ctypes.data, dx=to, past=plan.walk.past and to not in (0, x),
        size=size, sums=sums.ctypes.data, losses=0 if losses is None else losses.ctypes.data,
        mean=False, formula=formula.ctypes.data,
    ).laid()  # fmt: skip
    at, carry = call.ctypes.data, abi.carry()
    taken = plan.walk.reads if dx is None else y_pred.shape[1] * y_pred.itemsize
    carried.in_tasks(
        lambda _, first, last: carry(at, first, last, abi.scratch.at),
        1,
        positions,
        carried.task_length(size, taken),
        y_pred.nbytes,
    )
    return None if sums[:, abi.BAD].any() else sums


def _listed(labels: list[Any]) -> Any:
    """A short list of plain numbers as an array; any other as it is, which no plan serves."""
    if len(labels) > _LISTED or not all(n.__class__ in (int, float) for n in labels):
        return labels
    return np.array(labels)


def _planned(
    y_true: Any,
    y_pred: Any,
    from_logits: bool,
    normalize: str,
    smoothing: float,
    ignored: int | None,
    gradient: bool,
    mean: bool | None,
) -> _Plan | None:
    """What serves the call, if it is plain. `mean` is None where losses are wanted."""
    if y_pred.__class__ is not _Array or y_true.__class__ is not _Array or not config._compiled:
        return None
    shape = y_pred.shape
    if len(shape) != 2 or y_true.shape != shape[:1]:
        return None
    x, y, eps = y_pred.dtype, y_true.dtype, config._epsilon
    if not (x.isnative and y.isnative):
        return None  # a dtype's number does not tell
    flags, others = y_pred.flags, y_true.flags
    if flags.c_contiguous:
        inner = 1
    elif flags.f_contiguous:
        inner = shape[0]
    else:
        return None
    key = (
        x.num, y.num, shape[1], from_logits, normalize, smoothing, ignored, gradient, mean, eps,
        inner,
    )  # fmt: skip
    plan = _plans.get(key, _UNKNOWN)
    if plan is _UNKNOWN:
        if len(_plans) > 1000:  # shapes that never come again
            _plans.clear()
        try:
            plan = _find(x, y, *key[2:])
        except loader.EngineUnavailable as error:
            config.fall_back(error)
            return None
        _plans[key] = plan
    if plan is None or not shape[0]:
        return None
    return plan if others.c_contiguous and flags.aligned and others.aligned else None


def _fits(out: Any, y_pred: Any, y_true: Any) -> bool:
    """Whether a gradient may go there as it stands: y_pred itself, or an array well apart."""
    if out.__class__ is not _Array or out.shape != y_pred.shape or out.dtype != y_pred.dtype:
        return False
    flags = out.flags
    if not (flags.writeable and flags.aligned) or out.strides != y_pred.strides:
        return False
    apart = out is y_pred or not np.may_share_memory(out, y_pred)
    return apart and not np.may_share_memory(out, y_true)


def _find(
    x: np.dtype[Any],
    y: np.dtype[Any],
    classes: int,
    from_logits: bool,
    normalize: str,
    smoothing: float,
    ignored: int | None,
    gradient: bool,
    mean: bool | None,
    eps: float,
    inner: int,
) -> _Plan | None:
    """What serves calls of this kind; None where nothing does.

    `inner` is 1 for C order, else the number of rows: they are then the axis behind the classes.
    """
    plan, normal = None, SCORES.get(normalize)
    served = x in _FLOATS and y in abi.LABELS and abi.arrays_are_as_expected()
    served = served and abs(ignored or 0) < 1 << 53  # exact among labels of any dtype
    if served and normal is not None and classes > 1 and 0 <= smoothing <= 1:
        scores, size = ScoreKind.LOGITS if from_logits else normal, x.itemsize
        steps = (classes * size, size, 0) if inner == 1 else (0, inner * size, size)
        walk = abi.choose_kernel(
            x.name, scores, smoothing > 0, classes, inner, steps[1:], carried.CHUNK_BYTES
        )
        kept = np.array([0 if ignored is None else ignored], np.int64)
        span = float(x.type(eps)), float(x.type(1 - eps))
        formula = abi.ScalarParams(smoothing, *span, 1.0)
        doubles = formula.laid()
        call = abi.ChunkParams(
            walk.both() if gradient else walk.forward(), size == 8, classes, inner, 0, *steps,
            gradient, *steps, False, abi.lowering(y), 0, y.itemsize, kept.ctypes.data,
            ignored is not None, 0, 0, 0, abi.POSITIONS, 0, mean is None, mean is True,
            doubles.ctypes.data, loader.address("carry"),
        )  # fmt: skip
        longs = call.laid()
        held = kept, longs, doubles
        plan = _Plan(walk, abi.small(), call, longs.ctypes.data, formula, held)
    return plan
