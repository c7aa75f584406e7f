"""The order of things in a call, whatever serves it: read, plan, run, reduce, warn.

A gradient is written only after every label and weight has been checked, for it may go into the
caller's own array. Where something is wrong with the values, the engine says what kind of thing,
and the message is made here from what the user sent. Arrays on a CUDA device are `device`'s; a
tensor on the host is the ndarray of its memory, whose results are tensors again.
"""

import sys
from collections.abc import Callable, Collection
from typing import Any, NoReturn

import numpy as np

from sparse_xent import (
    chunked,
    device,
    dtypes,
    implausible,
    labels,
    soft_targets,
    tracing,
    weights,
)
from sparse_xent import plan as plans
from sparse_xent.accumulate import LossSums
from sparse_xent.arrays import numpy as arrays
from sparse_xent.arrays.adapters import (
    PROTOCOL,
    adapter_of,
    refuse_device,
    refuse_out,
    refuse_taped,
    tensors_of,
    tracing_library,
)
from sparse_xent.arrays.base import ArrayAdapter
from sparse_xent.arrays.dlpack import DeviceArray
from sparse_xent.engines.base import (
    DONE,
    NOTHING,
    Array,
    BadTarget,
    BadValue,
    Divisor,
    Found,
    Misaligned,
    Sums,
    Task,
)
from sparse_xent.engines.numpy import missing
from sparse_xent.layout import layout_of
from sparse_xent.options import Options, Reduction
from sparse_xent.plan import Plan, Sent

_LARGEST, _LEAST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)

# Labels in a list are made an array here while that costs no more than the rest of the call.
_LISTED = 64

_ndarray, _empty, _empty_like, _find = np.ndarray, np.empty, np.empty_like, plans.find
_LOSSES, _RANKS = Task.LOSSES, Task.RANKS
_VALUE, _VALUE_AND_GRADIENT = Task.VALUE, Task.VALUE_AND_GRADIENT
_LOSSES_AND_RANKS = Task.LOSSES_AND_RANKS
_KEPT, _BY_LABEL = Divisor.KEPT, Reduction.NONE
_modules = sys.modules


def losses(y_true: Any, y_pred: Any, sample_weight: Any, options: Options) -> Any:
    """One loss a label, times its weights; the losses' shape."""
    plan = _find(_LOSSES, options, y_true, y_pred, sample_weight)
    if plan is None:
        return _unplanned(losses, _LOSSES, options, y_true, y_pred, sample_weight)
    made = _empty(y_true.shape, plan.result)
    try:
        sums = plan.run(y_true, y_pred, sample_weight, made)
    except BadValue as error:
        sums = _again(error, plan, y_true, y_pred, sample_weight, made, None)
    if sums is not DONE:
        implausible.warn(sums[3], y_pred.shape, plan.axis)
    return made


def value(y_true: Any, y_pred: Any, sample_weight: Any, options: Options) -> Any:
    """The reduced value, a NumPy scalar; with reduction None every loss times its weight."""
    if options.reduction is _BY_LABEL:
        return losses(y_true, y_pred, sample_weight, options)
    plan = _find(_VALUE, options, y_true, y_pred, sample_weight)
    if plan is None:
        return _unplanned(value, _VALUE, options, y_true, y_pred, sample_weight)
    try:
        sums = plan.run(y_true, y_pred, sample_weight)
    except BadValue as error:
        sums = _again(error, plan, y_true, y_pred, sample_weight, None, None)
    if sums[3] is not NOTHING:
        implausible.warn(sums[3], y_pred.shape, plan.axis)
    return _divided(sums, plan)


def value_and_grad(
    y_true: Any, y_pred: Any, sample_weight: Any, out: Any, options: Options
) -> tuple[Any, Any]:
    """The value, and its derivative with respect to y_pred: `out` where it was given."""
    by_label = options.reduction is _BY_LABEL
    task = Task.LOSSES_AND_GRADIENT if by_label else _VALUE_AND_GRADIENT
    plan = None if by_label else _find(task, options, y_true, y_pred, sample_weight, out)
    if plan is None or not (out is None or _may_take(out, y_true, y_pred, sample_weight)):
        both: tuple[Any, Any]
        both = _unplanned(value_and_grad, task, options, y_true, y_pred, sample_weight, out)
        return both
    dx = _empty_like(y_pred, plan.counts_as) if out is None else out
    try:
        sums = plan.run(y_true, y_pred, sample_weight, None, dx, None, None, out is None)
    except BadValue as error:
        sums = _again(error, plan, y_true, y_pred, sample_weight, None, dx)
    if sums[3] is not NOTHING:
        implausible.warn(sums[3], y_pred.shape, plan.axis)
    return _divided(sums, plan), dx


def _unplanned(
    function: Callable[..., Any],
    task: Task,
    options: Options,
    y_true: Any,
    y_pred: Any,
    *others: Any,
) -> Any:
    """The result of a call without a plan at hand: a list, a device's array, the first of its kind.

    Args:
        function: what was called; a short list of labels goes back to it as an array.
        task: what it does.
        options: of the loss.
        y_true: labels.
        y_pred: scores.
        *others: sample_weight; and out, where a gradient is asked for.
    """
    if y_pred.__class__ is not _ndarray or options.device is not None:
        made = _elsewhere(task, options, y_true, y_pred, *others)
        if made is not None:
            return made
    if y_true.__class__ is list and (y := _listed(y_true)) is not None:
        return function(y, y_pred, *others, options)
    call = _Call(task, options, y_true, y_pred, *others)
    if task in (_VALUE, _VALUE_AND_GRADIENT):
        sums = call.run(None)
        made = _divided(sums, call.plan)
    else:
        made, sums = call.losses()
    call.warn(sums.found)
    if not task.differentiates:
        return made
    out = others[1]
    return made, call.sent.dx if out is None else out


def ranks(y_true: Any, y_pred: Any, options: Options) -> Any:
    """How many classes stand above each label: a greater score, or an equal one of a lower class.

    Returns:
        int64, the losses' shape: 0 where the label is predicted, the number of classes where the
        scores hold a NaN, -1 where the label is ignored.
    """
    plan = _find(_RANKS, options, y_true, y_pred)
    if plan is None:
        made = _elsewhere(_RANKS, options, y_true, y_pred, None)
        if made is None:
            made, _ = _Call(_RANKS, options, y_true, y_pred, None).losses()
        return made
    made = _empty(y_true.shape, plan.result)
    try:
        plan.run(y_true, y_pred, None, made)
    except BadValue as error:
        _again(error, plan, y_true, y_pred, None, made, None)
    return made


def losses_and_ranks(y_true: Any, y_pred: Any, options: Options) -> tuple[Any, Any, Found]:
    """The losses and ranks that separate calls give, from one read of the scores.

    It takes 1.05 of the time of the losses alone for 1000 classes and more, 1.3 to 1.4 for 10 to
    100 (float32 logits, AVX-512); two calls take 1.9 to 2.3.

    Arrays on a CUDA device are refused, and nobody is warned of what cannot be probabilities.

    Args:
        y_true: labels.
        y_pred: scores.
        options: of the loss.

    Returns:
        One loss a label; its rank, as `ranks` gives it; the rows that cannot be probabilities.
    """
    return _Call(_LOSSES_AND_RANKS, options, y_true, y_pred, None).both()


def exact_sums(
    y_true: Any,
    y_pred: Any,
    sample_weight: Any,
    options: Options,
    top_k: Collection[int] = (),
    *,
    squares: bool = False,
) -> tuple[LossSums, Found]:
    """The loss over all labels as exact sums, from one read of the scores; no loss is written.

    Sums of w * l and w and the count alone take no longer than a value.

    Args:
        y_true: labels.
        y_pred: scores.
        sample_weight: weights, if any.
        options: of the loss; losses are rounded to its dtype, or to the scores', as `losses` are.
        top_k: numbers k, for the labels whose class is among the k that score highest.
        squares: whether sums of w * w and w * l * l are wanted, too.

    Returns:
        The sums; the rows that cannot be probabilities, of which nobody is warned.
    """
    task, call = Task.SUMS_AND_RANKS if top_k else Task.SUMS, None
    plan, x = _find(task, options, y_true, y_pred, sample_weight), y_pred
    if plan is None:
        call = _Call(task, options, y_true, y_pred, sample_weight)
        plan, x = call.plan, call.sent.x
    classes = x.shape[plan.axis]
    made = LossSums({k: min(k, classes) for k in top_k}, squares=squares)
    if call is None:
        try:
            return made, plan.run(y_true, y_pred, sample_weight, None, None, None, made).found
        except BadValue:
            call = _Call(task, options, y_true, y_pred, sample_weight)
    return made, call.run(None, None, made).found


class _Call:
    """A call whose arrays may be anything: converted, planned and run."""

    def __init__(
        self,
        task: Task,
        options: Options,
        y_true: Any,
        y_pred: Any,
        sample_weight: Any,
        out: Any = None,
    ) -> None:
        self.options, self.dx_is_new = options, out is None
        sent = _read(task, options, y_true, y_pred, sample_weight, out)
        self.sent, self.plan = sent, plans.of(task, options, sent)
        finds = task is not _LOSSES_AND_RANKS  # nobody looks for its plan
        if finds and (sent.y is y_true) and (sent.x is y_pred) and (sent.w is sample_weight):
            plans.remember(task, options, y_true, y_pred, sample_weight, out, self.plan)

    def run(
        self,
        losses: Array | None,
        ranks: Array | None = None,
        exact: LossSums | None = None,
        divisor: float | None = None,
    ) -> Sums:
        """Let the program do it; with a divisor where it is known beforehand."""
        sent = self.sent
        try:
            if divisor is not None:
                assert self.plan.gradient is not None
                return self.plan.gradient(sent.y, sent.x, sent.w, losses, sent.dx, divisor)
            at = sent.y, sent.x, sent.w, losses, sent.dx, ranks, exact, self.dx_is_new
            return self.plan.run(*at)
        except BadValue as error:
            wrong = error
        _refuse(wrong, sent, self.options)

    def losses(self) -> tuple[Any, Sums]:
        """The losses, or ranks, in their shape, and the sums."""
        flat = np.empty(self.shape, self.plan.result)
        sums = self.run(flat)
        return arrays.scalar(flat.transpose(self.plan.to_losses)), sums

    def both(self) -> tuple[Any, Any, Found]:
        """The losses and the ranks in their shape, and what cannot be probabilities."""
        flat, ranks = np.empty(self.shape, self.plan.result), np.empty(self.shape, np.int64)
        sums = self.run(flat, ranks)
        losses, above = (arrays.scalar(a.transpose(self.plan.to_losses)) for a in (flat, ranks))
        return losses, above, sums.found

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the losses' axes in the order of positions."""
        plan, x = self.plan, self.sent.x
        if plan.open_rows:
            return x.shape[: plan.axis] + x.shape[plan.axis + 1 :]
        return plan.ordered

    def warn(self, found: Found) -> None:
        """Tell the user of scores that cannot be probabilities, once for the whole call."""
        implausible.warn(found, self.sent.x.shape, self.plan.axis)


def _read(
    task: Task, options: Options, y_true: Any, y_pred: Any, sample_weight: Any, out: Any
) -> Sent:
    """The arrays of a call; what holds no numbers, or no gradient, is refused."""
    x = arrays.scores(y_pred)
    labels.class_axis(x, y_true, options.axis)
    y = soft_targets.array_of(y_true, x) if options.soft else labels.array_of(y_true)
    w, dx = weights.array_of(sample_weight), None
    if task.differentiates:
        dx = arrays.output(out, x, {"y_true": y, "sample_weight": w})
    return Sent(y, x, w, dx, y_true, sample_weight)


def _divided(sums: Sums, plan: Plan) -> Any:
    """The value, rounded once to the result's dtype."""
    total, kept, weight, _ = sums
    divisor = kept if plan.divisor is _KEPT else plan.divisor.of(kept, weight)
    quotient = weights.divided(total, divisor)
    dtype = plan.result
    if _LEAST <= quotient <= _LARGEST and dtype.itemsize >= 4:
        return dtype.type(quotient)
    with np.errstate(all="ignore"):  # of what rounds to inf or to 0 NumPy would warn
        return dtype.type(quotient)


def _listed(given: list[Any]) -> Array | None:
    """A short list of plain numbers as an array; None for any other."""
    if len(given) > _LISTED or not all(n.__class__ in (int, float) for n in given):
        return None
    made = np.array(given)
    return None if made.dtype.kind == "O" else made  # beyond every integer


def _may_take(out: Any, y_true: Any, y_pred: Any, sample_weight: Any) -> bool:
    """Whether a gradient may go there: y_pred itself, or memory that is surely no input's."""
    flags = out.flags
    if not (flags.writeable and flags.aligned) or np.may_share_memory(out, y_true):
        return False
    if sample_weight is not None and np.may_share_memory(out, sample_weight):
        return False
    return out is y_pred or not np.may_share_memory(out, y_pred)


def _again(
    error: BadValue, plan: Plan, y: Any, x: Any, w: Any, losses: Array | None, dx: Any
) -> Sums:
    """What comes of a call whose values were not as expected, or the refusal in words."""
    if isinstance(error, Misaligned):
        return _Call(plan.task, plan.options, y, x, w, dx).run(losses)
    try:
        _refuse(error, Sent(y, x, w, dx, y, w), plan.options)
    except ValueError as refusal:
        raise refusal from None


def _refuse(error: BadValue, sent: Sent, options: Options) -> NoReturn:
    """The error in words for the user: what is wrong, where first, and the likely cause."""
    if isinstance(error, BadTarget):
        soft_targets.refuse(sent.y, sent.x, options.axis)
    _check_values(sent, options)
    raise ValueError(
        "y_true, y_pred and sample_weight must not change during a call: what was wrong with their "
        "values is so no more"
    )


def _check_values(sent: Sent, options: Options) -> None:
    """Refuse labels that are neither classes nor ignored, and weights that are missing."""
    layout = layout_of(sent.x.shape, options.axis, sent.x.strides)
    given = np.broadcast_to(np.int64(0), layout.losses) if options.soft else sent.y
    y = labels.decoded(given, layout, options.ignore_class, sent.y_true, sent.x)
    if sent.w is not None:
        weights.counted(sent.w, layout, y, sent.sample_weight)


# ---- who calls ----------------------------------------------------------------------------------


def called_by_keras() -> bool:
    """Whether the function that asks was called by a function of Keras.

    `model.compile(loss=...)` wraps a callable that is no `keras.losses.Loss`, calls it with labels
    and scores alone, takes what comes back for one loss a label, and weighs, masks and averages it.
    A mean it would multiply by each weight and average again: a wrong number in silence. Nothing
    in such a call tells it from the user's own, and a loss cannot be of Keras's kind without an
    import of Keras. So the calling function is looked at.
    """
    if "keras" not in _modules:
        return False
    frame = sys._getframe(1).f_back
    if frame is None:  # called from C, as R does
        return False
    module = frame.f_globals.get("__name__") or ""
    return module.partition(".")[0] == "keras"


# ---- parts of the data --------------------------------------------------------------------------


def _lazily(
    task: Task, options: Options, y_true: Any, y_pred: Any, sample_weight: Any, out: Any
) -> Any:
    """What a call for chunked scores gives: lazy, each chunk by a call for it alone."""
    if task.differentiates:
        return chunked.value_and_grad(
            losses_and_gradient, y_true, y_pred, sample_weight, out, options
        )
    if task is _VALUE:
        return chunked.value(_sums_of_part, y_true, y_pred, sample_weight, options)
    return chunked.losses(losses, y_true, y_pred, sample_weight, options)


def _sums_of_part(y_true: Any, y_pred: Any, sample_weight: Any, options: Options) -> LossSums:
    made, found = exact_sums(y_true, y_pred, sample_weight, options)
    implausible.warn(found, y_pred.shape, options.axis % y_pred.ndim)
    return made


def losses_and_gradient(
    y_true: Any, y_pred: Any, sample_weight: Any, divisor: float, options: Options
) -> tuple[Any, Any]:
    """The losses, without weights, and the gradient of sum(w * l) / divisor.

    Args:
        y_true: labels.
        y_pred: scores.
        sample_weight: weights, if any.
        divisor: of all the data of which this is a part.
        options: of the loss; its reduction is not asked.
    """
    options = options.changed(reduction=Reduction.NONE)
    call = _Call(Task.LOSSES_AND_GRADIENT, options, y_true, y_pred, sample_weight)
    made = np.empty(call.shape, call.plan.result)
    sums = call.run(made, divisor=divisor)
    if sample_weight is not None or options.class_weight is not None:  # w * l was rounded
        return losses(y_true, y_pred, None, options.changed(class_weight=None)), call.sent.dx
    call.warn(sums.found)
    return arrays.scalar(made.transpose(call.plan.to_losses)), call.sent.dx


# ---- other libraries' arrays --------------------------------------------------------------------


def _elsewhere(
    task: Task, options: Options, y_true: Any, y_pred: Any, sample_weight: Any, out: Any = None
) -> Any:
    """What tensors, a device, chunks or a library that traces give; None for NumPy's calls."""
    adapter = adapter_of(y_pred)
    if adapter is not None:
        if options.soft:
            refuse_device(
                y_pred, "y_pred", "with integer labels the sparse loss is served on the device"
            )
        return device.call(task, adapter, options, y_true, y_pred, sample_weight, out)
    adapter = tensors_of(y_pred)
    if adapter is not None:
        return _of_tensors(task, adapter, options, y_true, y_pred, sample_weight, out)
    library = tracing_library(y_pred)
    if library is not None:
        return tracing.call(task, library, options, y_true, y_pred, sample_weight)
    if chunked.is_lazy(y_pred):
        return _lazily(task, options, y_true, y_pred, sample_weight, out)
    if options.device is not None:
        return _offloaded(task, options, y_true, y_pred, sample_weight, out)
    return None


def _offloaded(
    task: Task, options: Options, y_true: Any, y_pred: Any, sample_weight: Any, out: Any
) -> Any:
    """A call for arrays of the host: taken to the device that was asked for, the results back.

    All is checked before anything is sent, labels too: the host's refusals hold as they stand.
    """
    sent = _read(task, options, y_true, y_pred, sample_weight, out)
    _check_values(sent, options)
    ordinal, counts_as = options.device, dtypes.counts_as(sent.x.dtype)
    assert ordinal is not None
    wide = dtypes.arithmetic(counts_as, options.dtype) == dtypes.FLOAT64
    x = DeviceArray.of(sent.x.astype(dtypes.FLOAT64 if wide else counts_as, copy=False), ordinal)
    native = sent.y.dtype.newbyteorder("=")
    own = native if native.kind in "biu" else dtypes.counts_as(native)
    y, w = DeviceArray.of(sent.y.astype(own, copy=False), ordinal), None
    if sent.w is not None:
        w = DeviceArray.of(np.ascontiguousarray(sent.w, np.float64), ordinal)
    if sent.dx is None:
        return arrays.scalar(device.call(task, PROTOCOL, options, y, x, w).numpy())
    made, dx = device.call(task, PROTOCOL, options, y, x, w)
    np.copyto(sent.dx, dx.numpy(), casting="unsafe")
    return arrays.scalar(made.numpy()), sent.dx if out is None else out


# ---- tensors in the host's memory ---------------------------------------------------------------


def _of_tensors(
    task: Task,
    adapter: ArrayAdapter,
    options: Options,
    y_true: Any,
    y_pred: Any,
    sample_weight: Any,
    out: Any = None,
) -> Any:
    """What NumPy's arrays of the same memory give, as tensors of y_pred's library."""
    if not (task.differentiates or task is _RANKS) and adapter.requires_grad(y_pred):
        return _differentiable(task, adapter, options, y_true, y_pred, sample_weight)
    y, w = adapter.as_numpy(y_true), adapter.as_numpy(sample_weight)
    x = adapter.to_numpy(y_pred, "y_pred")
    if not task.differentiates:
        return adapter.of_numpy(
            ranks(y, x, options) if task is _RANKS else _function(task)(y, x, w, options)
        )
    if out is None:
        made, dx = value_and_grad(y, x, w, None, options)
        return adapter.of_numpy(made), adapter.of_numpy(dx)
    if not adapter.is_tensor(out):
        refuse_out(out)
    to = adapter.to_memory(out)  # y_pred's own may be a copy in `x`: then this refuses
    made, _ = value_and_grad(y, x, w, x if out is y_pred else to, options)
    adapter.mark_mutated(out)
    return adapter.of_numpy(made), out


def _function(task: Task) -> Callable[..., Any]:
    return value if task is _VALUE else losses


def _differentiable(
    task: Task,
    adapter: ArrayAdapter,
    options: Options,
    y_true: Any,
    y_pred: Any,
    sample_weight: Any,
) -> Any:
    """Losses or a value, whose derivative the library asks for later.

    The gradient of a value is found with it, from one read of the scores, and kept: it is what is
    asked for next, times 1. Both passes together take 95 ms so for 4096 x 32000 float32, and 119
    with a read for each; memory is no more than torch's own loss takes, which keeps log_softmax.
    Losses are differentiated when their weights in what is made of them are known.
    """
    refuse_taped(adapter, y_true, sample_weight)
    tensors, kept = _apart(adapter, y_true, sample_weight)
    found: list[Any] = []
    at_once = task is _VALUE and not adapter.is_transformed()

    def forward(x: Any, y: Any, w: Any) -> tuple[Any, None]:
        y = adapter.as_numpy(y_true if y is None else y)
        w = adapter.as_numpy(sample_weight if w is None else w)
        x = adapter.to_numpy(x, "y_pred")
        if not at_once:
            return adapter.of_numpy(_function(task)(y, x, w, options)), None
        made, dx = value_and_grad(y, x, w, None, options)
        found.append(dx)
        return adapter.of_numpy(made), None

    def derivative(upstream: Any, _: None, x: Any, y: Any, w: Any) -> Any:
        dx = found.pop() if found else None
        if dx is None or upstream.item() != 1:
            y, w = (
                k if a is None else adapter.as_numpy(a) for a, k in zip((y, w), kept, strict=True)
            )
            up, x = adapter.to_numpy(upstream, "grad_outputs"), adapter.to_numpy(x, "y_pred")
            dx = _times(up, task, options, y, x, w, dx)
        return adapter.of_numpy(dx)

    return adapter.with_derivative(y_pred, tensors, forward, derivative)


def _apart(adapter: ArrayAdapter, y_true: Any, w: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Labels and weights that are tensors, whose changes are noticed; and copies of others."""
    is_tensor = adapter.is_tensor
    y_tensor, w_tensor = is_tensor(y_true), w is None or is_tensor(w)
    tensors = y_true if y_tensor else None, w if w_tensor else None
    return tensors, (
        None if y_tensor else np.array(arrays.as_array(y_true, "y_true")),
        None if w_tensor else np.array(arrays.as_array(w, "sample_weight")),
    )


def _times(
    upstream: Array, task: Task, options: Options, y: Any, x: Array, w: Any, out: Any
) -> Any:
    """The gradient of the losses, or of the value, times that with respect to them.

    It enters with the weights, before anything is rounded: the float16 gradient of a loss that was
    scaled does not underflow.
    """
    up: Any = upstream.astype(np.float64)
    if task is _LOSSES:
        options = options.changed(reduction=Reduction.SUM)
    elif options.reduction is Reduction.MEAN_WITH_SAMPLE_WEIGHT:
        sums = _Call(_VALUE, options, y, x, w).run(None)
        up, options = (
            up * weights.divided(1.0, sums.weight),
            options.changed(reduction=Reduction.SUM),
        )
    share = up
    if w is not None:
        losses = layout_of(x.shape, options.axis, x.strides).losses
        of_label = weights.aligned(np.asarray(weights.array_of(w)), losses).astype(np.float64)
        with np.errstate(all="ignore"):
            share = of_label * up
    if not missing(share, np.zeros((), np.int64)).any():
        return _gradient(y, x, share, out, options)
    dx = _gradient(y, x, w, out, options)  # of NaN, which as a weight is a missing one
    with np.errstate(all="ignore"):
        by_row = np.expand_dims(up, options.axis) if up.ndim else up
        return np.multiply(dx, by_row, out=dx, where=dx != 0, casting="unsafe")


def _gradient(y: Any, x: Array, w: Any, out: Any, options: Options) -> Any:
    """The gradient of a value, where the same arrays were looked at before: nobody is warned."""
    if options.device is not None:
        return _offloaded(_VALUE_AND_GRADIENT, options, y, x, w, out)[1]
    plan = _find(_VALUE_AND_GRADIENT, options, y, x, w, out)
    if plan is None:
        call = _Call(_VALUE_AND_GRADIENT, options, y, x, w, out)
        call.run(None)
        return call.sent.dx
    dx = _empty_like(x, plan.counts_as) if out is None else out
    try:
        plan.run(y, x, w, None, dx, None, None, out is None)
    except BadValue as error:
        _again(error, plan, y, x, w, None, dx)
    return dx
