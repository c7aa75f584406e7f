"""The device's four verbs: `portable`'s, on a GPU's memory.

Arrays are `View`s; new ones are the device's. What a verb needs of a device is little: somebody
who launches a plan, gives memory, and says where error words are. That is `with on(device):` here,
so that the verbs run on a GPU, or on what stands in for one. Whole losses (weights, reductions,
several slabs) are packed by the device call itself, for the very same kernels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import numpy as np

from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels.cuda.geometry import Place, Plan, Verb, choose
from sparse_xent.kernels.cuda.params import CODES, NEGATIVE, Arguments, View

Array = View


class Device(Protocol):
    """What the verbs need of a device."""

    capability: tuple[int, int]
    error: int
    """Address of `arguments.ERRORS` int64."""

    def launch(self, plan: Plan, arguments: Arguments) -> None:
        """Enqueue a kernel."""

    def empty(self, shape: tuple[int, ...], dtype: str) -> View:
        """New memory in C order, of any content."""


_device: ContextVar[Device] = ContextVar("device")


@contextmanager
def on(device: Device) -> Iterator[None]:
    """Meanwhile the verbs run there."""
    before = _device.set(device)
    try:
        yield
    finally:
        _device.reset(before)


def nll(
    x: Array, y: Array, *, scores: ScoreKind, smoothing: float, eps: float, out: Array | None = None
) -> Array:
    """Negative log-likelihood of each label, in nats; exactly 0 where y < 0.

    Args:
        x: scores [outer, C, inner], native float16, bfloat16, float32 or float64, any strides.
        y: labels [outer, inner], integers below C; negative means ignored.
        scores: what x holds.
        smoothing: label smoothing s, 0 <= s <= 1.
        eps: probabilities are clipped to [eps, 1 - eps], rounded to the arithmetic's dtype.
        out: where the losses go, [outer, inner], any float dtype; a new array if None.

    Returns:
        The losses [outer, inner], in float64 for float64 scores, else float32 (or `out`).
    """
    losses = _own(x, y) if out is None else out
    _launch(Verb.NLL, x, y, None, losses, None, scores, smoothing, eps)
    return losses


def nll_grad(
    x: Array,
    y: Array,
    g: Array,
    *,
    scores: ScoreKind,
    smoothing: float,
    eps: float,
    out: Array | None = None,
) -> Array:
    """Derivative of g * nll with respect to the scores; rows of exact zeros where g == 0 or y < 0.

    Args:
        x: scores [outer, C, inner], native float16, bfloat16, float32 or float64, any strides.
        y: labels [outer, inner], integers below C; negative means ignored.
        g: factor of each position's gradient, [outer, inner].
        scores: what x holds.
        smoothing: label smoothing s, 0 <= s <= 1.
        eps: probabilities are clipped to [eps, 1 - eps], rounded to the arithmetic's dtype.
        out: where the gradient goes, [outer, C, inner], of x's dtype, x itself too; a new array
            if None.

    Returns:
        The gradient [outer, C, inner], in x's dtype.
    """
    dx = _device.get().empty(x.shape, x.dtype) if out is None else out
    _launch(Verb.NLL_GRAD, x, y, g, None, dx, scores, smoothing, eps)
    return dx


def nll_and_grad(
    x: Array,
    y: Array,
    g: Array,
    *,
    scores: ScoreKind,
    smoothing: float,
    eps: float,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """Both `nll` and `nll_grad`, from one look at the scores.

    Args:
        x: scores [outer, C, inner], native float16, bfloat16, float32 or float64, any strides.
        y: labels [outer, inner], integers below C; negative means ignored.
        g: factor of each position's gradient, [outer, inner].
        scores: what x holds.
        smoothing: label smoothing s, 0 <= s <= 1.
        eps: probabilities are clipped to [eps, 1 - eps], rounded to the arithmetic's dtype.
        out: where the gradient goes, [outer, C, inner], of x's dtype, x itself too; a new array
            if None.

    Returns:
        The losses [outer, inner], not scaled by g, and the gradient [outer, C, inner].
    """
    losses = _own(x, y)
    dx = _device.get().empty(x.shape, x.dtype) if out is None else out
    _launch(Verb.NLL_AND_GRAD, x, y, g, losses, dx, scores, smoothing, eps)
    return losses, dx


def rank(x: Array, y: Array, *, out: Array | None = None) -> Array:
    """How many classes stand above the label: a greater score, or an equal one at a lower index.

    Args:
        x: scores [outer, C, inner], native float16, bfloat16, float32 or float64, any strides.
        y: labels [outer, inner], integers below C; negative means ignored.
        out: where the ranks go, [outer, inner], int64; a new array if None.

    Returns:
        The ranks [outer, inner], int64: 0 where the label has the first maximum, C (wrong at
        every k) where the row holds a NaN, -1 where y < 0.
    """
    ranks = _device.get().empty(y.shape, "int64") if out is None else out
    _launch(Verb.RANK, x, y, None, ranks, None, ScoreKind.LOGITS, 0.0, 0.0)
    return ranks


def _own(x: View, y: View) -> View:
    """Memory for losses in the arithmetic's dtype."""
    return _device.get().empty(y.shape, "float64" if x.dtype == "float64" else "float32")


def _place(view: View) -> Place:
    return Place(view.address, *view.strides)


def _launch(
    verb: Verb,
    x: View,
    y: View,
    g: View | None,
    out: View | None,
    dx: View | None,
    scores: ScoreKind,
    smoothing: float,
    eps: float,
) -> None:
    """One slab, the whole call."""
    device = _device.get()
    outer, classes, inner = x.shape
    plan = choose(
        x.dtype,
        scores,
        smoothing > 0,
        verb,
        (outer, classes, inner),
        _place(x),
        None if dx is None else _place(dx),
        device.capability,
    )
    own = np.float64 if x.dtype == "float64" else np.float32
    fields: dict[str, int | float] = dict.fromkeys(Arguments._fields, 0)
    for names, view in (
        (("x", "xo", "xc", "xi"), x),
        (("dx", "do", "dc", "di"), dx),
        (("y", "yo", "yi"), y),
        (("out", "oo", "oi"), out),
        (("up", "uo", "ui"), g),
    ):
        if view is not None:
            fields.update(zip(names, (view.address, *view.strides), strict=True))
    for name, view in (("y_code", y), ("out_code", out), ("up_code", g)):
        fields[name] = 0 if view is None else CODES[view.dtype]
    fields.update(
        classes=classes,
        inner=inner,
        count=outer * inner,
        many=NEGATIVE,
        error=device.error,
        smoothing=float(smoothing),
        lo=float(own(eps)),
        hi=float(own(1 - eps)),
        divisor=1.0,
    )
    device.launch(plan, Arguments(**fields))  # type: ignore[arg-type]
