"""The loss of logits whose classes are in pieces: a vocabulary over several processes or files.

Each holder of a shard makes a `RowState` of it, states are merged, and the merged state gives the
losses, and to each holder the gradient of its own logits. A state is three numbers a row:

    reference   m, near the largest logit of the classes other than the target
    excess      sum of exp(x_j - m) over those classes, less 1
    target      x_t, the target's logit

The target is left out of the sum, for the loss is log1p(exp(m - x_t) (1 + excess)), which has all
its digits however near 0 it is. An error of the sum, relative to the sum, is at most the same error
of the loss, relative to the loss; m and x_t are stored as they are.

All arithmetic is float64; only what is stored is rounded, to float64 for float64 logits, else to
float32. Float64 has m the largest logit, and the sum, from 1 to C, loses 1e-16 a merge. For float32
that choice would lose 6e-8 a merge: of 62 shards that each add 5.9e-8 to a sum of 2, merged one
after the other, nothing would stay, and the loss be off by 2e-6. But m is free: any m with its own
sum says the same. So float32 takes the number nearest to the log of the whole sum for m. Excess is
then small, at most 2^-24 |m|, and a float32 holds it to 2^-24 of itself: the two together have 48
bits, some 2e-9 of the sum at |m| = 1e6, and 12 bytes a row suffice for 1e-6 after any number of
merges that a vocabulary has. Beyond |m| = 2^22, where float32s are 1/2 apart and more, a sum could
be near 0 and excess near -1: m is the largest logit again.

What needs no fourth array: target is NaN where the class is in no shard so far, and inf where it
was found but is inf or NaN. Reference is -inf where there is no other class, or all are -inf
(excess is -1); NaN where a logit is NaN or +inf, whatever is merged; +inf where the label is
ignored.

Notation: x logits, t a row's label, m reference, S = 1 + excess, C classes, l losses, w weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_xent import dtypes, weights
from sparse_xent import labels as checks
from sparse_xent.accumulate import chunks
from sparse_xent.arrays import numpy as arrays
from sparse_xent.arrays.base import dense_strides
from sparse_xent.engines.numpy import Block, blocks, in_order, merged_view, weighted
from sparse_xent.engines.numpy_formulas import BLOCK_BYTES, sum_by_halves
from sparse_xent.layout import Layout, layout_of
from sparse_xent.options import (
    Options,
    Reduction,
    ReductionName,
    describe,
    read,
    refuse_unknown,
    whole_number,
)

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_MAGIC, _VERSION = b"RowState", 1
_FINE = 2.0**22  # up to here float32s are at most 1/2 apart
_FAR = 600.0  # gaps whose exp, times any number of classes, is a float64


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RowState:
    """What the classes of one or more shards contribute to each row's loss, by `row_partial()`.

    Args:
        reference: m, near the largest logit of the classes other than the target; float32 or
            float64, of the losses' shape, as the next two are. -inf where there is none; NaN where
            a logit is NaN or +inf; +inf where the label is ignored.
        excess: sum of exp(x_j - m) over the classes other than the target, less 1.
        target: the target's logit; NaN where the target is in no shard so far, inf where it is inf
            or NaN.
        classes: the classes seen, as (first, end) pairs, sorted and apart from each other.
        axis: the class axis of the logits, 0-based and not negative.
        ignored: the classes that do not count.
        extremes: the least and the greatest label that are not ignored; None where there is none.
        beyond: flat position (C order) and value of the first label from the last shard's end on;
            None where there is none.

    Raises:
        ValueError: bytes are not those of a state, or of another version.

    Cost: 12 bytes a row for float16, bfloat16 and float32 logits, 24 for float64.

    Example:
        >>> import numpy as np
        >>> state = row_partial(np.zeros((2, 3), np.float32), [1, 4], 0)
        >>> RowState.from_bytes(state.to_bytes())
        RowState(shape=(2,), dtype=float32, classes=0..2)
    """

    reference: Array
    excess: Array
    target: Array
    classes: tuple[tuple[int, int], ...]
    axis: int
    ignored: tuple[int, ...]
    extremes: tuple[int, int] | None
    beyond: tuple[int, int] | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The losses' shape."""
        return self.reference.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32, or float64 for float64 logits."""
        return self.reference.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the three arrays: 12 a row, or 24."""
        return self.reference.nbytes + self.excess.nbytes + self.target.nbytes

    def to_bytes(self) -> bytes:
        """The state as bytes: a header in JSON with version, dtype and shape, and the three arrays.

        Returns:
            `nbytes`, and some 200 more.
        """
        told = {name: getattr(self, name) for name in self.__slots__[3:]}
        little = self.dtype.newbyteorder("<")
        header = {"version": _VERSION, "dtype": little.str, "shape": self.shape, **told}
        text = json.dumps(header).encode()
        data = [getattr(self, name).astype(little).tobytes() for name in self.__slots__[:3]]
        return b"".join([_MAGIC, len(text).to_bytes(4, "little"), text, *data])

    @classmethod
    def from_bytes(cls, data: bytes) -> RowState:
        """The state that `to_bytes` wrote, on any machine.

        Args:
            data: what `to_bytes` returned.

        Returns:
            The state.
        """
        data = bytes(data)
        end = 12 + int.from_bytes(data[8:12], "little")
        if data[:8] != _MAGIC or len(data) < end:
            raise ValueError(
                f"data must be what RowState.to_bytes() returned, got {len(data)} other bytes"
            )
        header = json.loads(data[12:end])
        if (version := header.pop("version")) != _VERSION:
            raise ValueError(
                f"data must be of version {_VERSION}, got version {version}: use the same version "
                "of sparse_xent in all processes"
            )
        dtype, shape = np.dtype(header.pop("dtype")), tuple(header.pop("shape"))
        size = int(np.prod(shape)) * dtype.itemsize
        if len(data) - end != 3 * size:
            raise ValueError(
                f"data must hold {3 * size} bytes for rows of shape {shape}, got {len(data) - end}"
                ": was all of it read?"
            )
        found = np.frombuffer(data, dtype, offset=end).reshape(3, *shape)
        classes = tuple((first, stop) for first, stop in header.pop("classes"))
        told: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in header.items()
        }
        m, excess, target = (found[k, ...].astype(dtype.newbyteorder("=")) for k in range(3))
        return cls(m, excess, target, classes=classes, **told)

    def __reduce__(self) -> tuple[Callable[..., RowState], tuple[bytes]]:
        return RowState.from_bytes, (self.to_bytes(),)

    def __repr__(self) -> str:
        return f"RowState(shape={self.shape}, dtype={self.dtype}, classes={_shown(self.classes)})"


def row_partial(
    logits_shard: Any,
    labels: Any,
    class_offset: int,
    *,
    axis: int = -1,
    ignore_class: Any = None,
    **unknown: Any,
) -> RowState:
    """What the classes of one shard contribute to each row's loss.

    Args:
        logits_shard: logits of the classes `class_offset`, `class_offset` + 1 and so on, [..., C_k]
            with the shard's classes along `axis`: float16, bfloat16, float32 or float64, any memory
            layout.
        labels: classes among all shards, the logits' shape without `axis` (or 1 there), of any
            integer dtype, or whole-number floats; the same in every shard's call.
        class_offset: the shard's first class.
        axis: the class axis, 0-based; -1 is the last.
        ignore_class: class, or list, set or array of classes, whose losses and gradients are
            exactly 0.

    Returns:
        A `RowState` of the losses' shape, to be merged with those of the other shards.

    Raises:
        TypeError: labels or logits are not numbers, or a keyword is unknown: labels are not
            smoothed here, and probabilities are not served.
        ValueError: a label is negative (and not ignored), no whole number or missing, or shapes do
            not fit. Labels of other shards' classes are looked for in the end, by `finish_rows()`.

    Cost: one read of the shard; 12 bytes a row for the state (24 for float64 logits), some
        20 for labels while it runs, and some blocks of 512 KiB (or of one row).

    Example:
        >>> import numpy as np
        >>> x = np.array([[2.0, 1.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
        >>> y = [0, 3]
        >>> state = merge_rows(row_partial(x[:, :2], y, 0), row_partial(x[:, 2:], y, 2))
        >>> finish_rows(state, reduction=None)
        array([0.4401897 , 1.38629436])
    """
    _refuse(
        unknown, ("logits_shard", "labels", "class_offset", "axis", "ignore_class"), "row_partial"
    )
    options = read(from_logits=True, axis=axis, ignore_class=ignore_class)
    with _argument_names():
        x, y, layout, offset = _read(logits_shard, labels, class_offset, options)
        stop = offset + layout.classes
        reader = checks.read_part(
            arrays.spec_of(y), layout, options.ignore_class, stop, y_true=labels, x=x
        )
        kept = _decoded(reader, y)
    dtype = dtypes.arithmetic(dtypes.counts_as(x.dtype), None)
    made = np.empty((3, layout.count), dtype)
    with np.errstate(all="ignore"):  # infinities and NaN are results
        for block, x_block, (t,) in _blocks(x, layout, kept):
            at, found = _in_shard(t, offset, layout.classes)
            m, others, x_t = _summed(x_block, at, found)
            ignored = t < 0
            m[ignored], others[ignored], found = np.inf, 0, found & ~ignored
            reference, excess = _stored(m, others, dtype)
            for row, value in zip(
                made, (reference, excess, np.where(found, x_t, np.nan)), strict=True
            ):
                row[block.start : block.stop] = value.ravel()
    back = np.argsort(layout.order)
    m, excess, target = (a.reshape(layout.ordered_losses).transpose(back).copy("C") for a in made)
    far = kept.ravel() >= stop
    first = int(far.argmax()) if far.any() else None
    counted = kept[kept >= 0]
    return RowState(
        m,
        excess,
        target,
        classes=((offset, stop),),
        axis=layout.axis,
        ignored=options.ignore_class,
        extremes=(int(counted.min()), int(counted.max())) if counted.size else None,
        beyond=None if first is None else (first, int(kept.ravel()[first])),
    )


def merge_rows(*states: RowState) -> RowState:
    """The state of all classes of some states; any order and any grouping gives the same losses.

    Args:
        states: states of the same rows, no class in two of them.

    Returns:
        A `RowState` of the same shape; of float64 if one of them is.

    Raises:
        TypeError: there is none, or something else among them.
        ValueError: a class is in two of them, or they are of other rows or labels.

    Cost: one read of each; 12 bytes a row (24 for float64).

    Example:
        >>> import numpy as np
        >>> x = np.zeros((1, 6), np.float32)
        >>> merge_rows(row_partial(x[:, 4:], [5], 4), row_partial(x[:, :4], [5], 0))
        RowState(shape=(1,), dtype=float32, classes=0..5)
    """
    for state in states:
        _check_state(state, "states")
    if not states:
        raise TypeError("states must be one RowState or more, got none: merge_rows(*states)")
    states = tuple(sorted(states, key=lambda state: state.classes))  # bits do not depend on order
    first, last = states[0], max(states, key=lambda state: state.classes[-1])
    classes = _joined([pair for state in states for pair in state.classes])
    for state in states[1:]:
        for name in ("shape", "axis", "ignored", "extremes"):
            if getattr(state, name) != getattr(first, name):
                raise ValueError(
                    f"states must be of the same rows and labels, got {name} "
                    f"{getattr(first, name)} and {getattr(state, name)}"
                )
    made = np.empty((3, *first.shape), np.result_type(*(state.dtype for state in states)))
    flat = made.reshape(3, -1)
    with np.errstate(all="ignore"):
        for here in chunks(flat.shape[1]):
            parts = [_flat(state, here) for state in states]
            _check_alike(first.shape, here.start, parts)
            m = reduce(np.maximum, [reference for reference, _, _ in parts])  # NaN wins
            base = np.where(np.isfinite(m), m, 0)
            others = sum(total * np.exp(reference - base) for reference, total, _ in parts)
            others = np.where(np.isposinf(m), 0, others)
            flat[0, here], flat[1, here] = _stored(m, others, made.dtype)
            flat[2, here] = reduce(np.fmax, [target for _, _, target in parts])
    m, excess, target = (made[k, ...] for k in range(3))
    return replace(
        first, reference=m, excess=excess, target=target, classes=classes, beyond=last.beyond
    )


def finish_rows(
    state: RowState,
    *,
    sample_weight: Any = None,
    reduction: ReductionName | None = "sum_over_batch_size",
    **unknown: Any,
) -> Any:
    """The losses of rows all of whose classes were merged, or their reduced value, in nats.

    Args:
        state: the merged state of all shards.
        sample_weight: a number; or weights of the losses' shape, or of fewer axes that match its
            leading ones, or with 1 in place of an axis.
        reduction: "sum_over_batch_size" (or "mean", "auto"): sum(l * w) / V, V labels not ignored;
            "sum"; "mean_with_sample_weight": sum(l * w) / sum(w); None or "none": l * w.

    Returns:
        A NumPy scalar of the state's dtype, float32 or float64; with reduction None an array of
        the losses' shape. 0 where ignored, and where the weight is 0.

    Raises:
        TypeError: there is no such keyword.
        ValueError: a label is in no shard, classes are missing between shards, a weight is missing,
            or does not fit.

    Cost: one read of the state, and some 100 bytes a row.

    Example:
        >>> import numpy as np
        >>> state = row_partial(np.array([[20.0, 0.0], [0.0, 20.0]]), [0, 0], 0)
        >>> finish_rows(state, reduction=None)
        array([2.06115362e-09, 2.00000000e+01])
        >>> finish_rows(state)
        np.float64(10.000000002061153)
    """
    _refuse(unknown, ("state", "sample_weight", "reduction"), "finish_rows")
    how = read(reduction=reduction).reduction
    w, divisor = _weights(state, sample_weight, how)
    with np.errstate(all="ignore"):
        made = weighted(_losses(state)[0], w)
        if how is Reduction.NONE:
            return arrays.scalar(made.astype(state.dtype))
        return state.dtype.type(weights.divided(float(made.sum()), divisor))


def grad_from_rows(
    logits_shard: Any,
    labels: Any,
    class_offset: int,
    state: RowState,
    *,
    sample_weight: Any = None,
    reduction: ReductionName | None = "sum_over_batch_size",
    out: Any = None,
    **unknown: Any,
) -> Any:
    """The gradient of the reduced value with respect to one shard's logits, from the merged state.

    At class j it is g exp(x_j) / sum_k exp(x_k), at the target -g (sum over the others) / sum, with
    g = w / divisor; nothing more need be exchanged between shards.

    Args:
        logits_shard: the shard's logits, as `row_partial()` was given them.
        labels: the labels, as `row_partial()` was given them.
        class_offset: the shard's first class.
        state: the merged state of all shards, which knows axis and ignored classes.
        sample_weight: weights, as `finish_rows()` takes them.
        reduction: as `finish_rows()` takes it; None gives the gradient of the losses' sum.
        out: where the gradient goes: an array of the shard's shape and dtype, native and writable,
            in any memory layout; `logits_shard` itself, which is then overwritten, or an array that
            does not overlap it. A new array if None.

    Returns:
        The gradient, of the shard's shape and dtype: `out` where it was given. Rows of ignored
        labels and of weight 0 are exactly 0; rows with a NaN or +inf in any shard are NaN.

    Raises:
        TypeError, ValueError: as in `row_partial()` and `finish_rows()`, or the shard is no part of
            the state, or `out` does not fit; nothing is written then.

    Cost: one read of the shard, one write of the gradient; some 100 bytes a row beside it, and some
        blocks of 512 KiB (or of one row).

    Example:
        >>> import numpy as np
        >>> x = np.zeros((1, 4))
        >>> state = merge_rows(row_partial(x[:, :2], [3], 0), row_partial(x[:, 2:], [3], 2))
        >>> grad_from_rows(x[:, 2:], [3], 2, state)
        array([[ 0.25, -0.75]])
    """
    known = ("logits_shard", "labels", "class_offset", "state", "sample_weight", "reduction", "out")
    _refuse(unknown, known, "grad_from_rows")
    how = read(reduction=reduction).reduction
    w, divisor = _weights(state, sample_weight, how)
    options = read(from_logits=True, axis=state.axis, ignore_class=state.ignored)
    with _argument_names():
        x, y, layout, offset = _read(logits_shard, labels, class_offset, options)
        t = _labels_of(state, x, y, layout, offset, labels)
        inputs = {"y_true": y, "sample_weight": weights.array_of(sample_weight)}
        dx = arrays.output(out, x, inputs)
    layout = layout_of(x.shape, layout.axis, x.strides, dx.strides)
    view = merged_view(dx, layout)
    with np.errstate(all="ignore"):
        g = w / divisor if divisor != 0 else np.zeros_like(w)
        ratio = _losses(state)[1]  # others / target's term, relative to which the target's is
        share = np.where(ratio <= 1, ratio / (1 + ratio), 1 / (1 + 1 / ratio))
        m, s, target = (a.reshape(state.shape) for a in _flat(state, slice(None)))
        top = np.where(np.isposinf(target), np.nan, np.maximum(m, target))
        total = s * np.exp(m - top) + np.exp(target - top)
        alone = np.isneginf(m)
        for block, x_block, given in _blocks(x, layout, t, g, share, top, total, alone):
            dx_block = block.of(view)
            np.copyto(dx_block, _gradient(x_block, offset, *given), casting="unsafe")
    return dx if out is None else out


# ---- one block of rows --------------------------------------------------------------------------


def _blocks(
    x: Array, layout: Layout, *of_rows: Array
) -> Iterator[tuple[Block, Float64, list[Array]]]:
    """Blocks of logits as float64 [outer, C, inner], copies, and of arrays of the losses' shape."""
    view, counts_as = merged_view(x, layout), dtypes.counts_as(x.dtype)
    flat = [in_order(a, layout.order, layout.line(a.strides)) for a in of_rows]
    for block in blocks(layout, max(1, BLOCK_BYTES // (8 * layout.classes))):
        here = slice(block.start, block.stop)
        copied = np.array(block.of(view).astype(counts_as, copy=False), np.float64, order="C")
        yield block, copied, [block.boxed(a[here]) for a in flat]


def _in_shard(
    t: Int64, offset: int, classes: int, axis: int = 1
) -> tuple[Int64, npt.NDArray[np.bool_]]:
    """The target's index in the shard, with a class axis, 0 where it is not there; where it is."""
    at = t - offset
    found = (t >= 0) & (at >= 0) & (at < classes)
    return np.expand_dims(np.where(found, at, 0), axis), found


def _summed(x: Float64, at: Int64, found: Array) -> tuple[Float64, Float64, Float64]:
    """m, the sum of exp(x_j - m) without the target, and the target's logit; x is overwritten."""
    x_t = np.take_along_axis(x, at, axis=1)
    np.put_along_axis(x, at, np.where(found[:, None], -np.inf, x_t), axis=1)
    m = x.max(axis=1, keepdims=True)
    x -= np.where(np.isneginf(m), 0, m)
    others = sum_by_halves(np.exp(x, out=x))[:, 0].copy()
    m, x_t = m[:, 0], x_t[:, 0]
    odd = np.isnan(x_t) | np.isposinf(x_t)
    lost = np.isnan(m) | np.isposinf(m) | (found & odd)
    m[lost] = others[lost] = np.nan
    return m, others, np.where(odd, np.inf, x_t)


def _stored(m: Float64, others: Float64, dtype: np.dtype[Any]) -> tuple[Float64, Float64]:
    """Reference and excess as a state of this dtype has them, not yet rounded."""
    if dtype == dtypes.FLOAT32:
        nearest = (m + np.log(others)).astype(np.float32).astype(np.float64)
        fine = np.abs(nearest) <= _FINE
        m, others = np.where(fine, nearest, m), np.where(fine, others * np.exp(m - nearest), others)
    return m, others - 1


def _gradient(
    x: Float64, offset: int, t: Int64, g: Float64, share: Float64, top: Float64, total: Float64,
    alone: Array,
) -> Float64:  # fmt: skip
    """The gradient of a block, [outer, C, inner], in place of its logits."""
    at, found = _in_shard(t, offset, x.shape[1])
    infinite = np.isinf(g)
    if some := bool(infinite.any()):  # an infinite slope but where it is exactly 0
        deleted = np.isneginf(x) & (infinite & np.isfinite(top))[:, None]
        share = np.where(infinite & ~alone & (share == 0), 1, share)
    x -= top[:, None]
    np.exp(x, out=x)
    if some:
        np.copyto(x, 1, where=(x == 0) & infinite[:, None])
    x *= (g / total)[:, None]
    if some:
        np.copyto(x, 0, where=deleted)
    there = np.take_along_axis(x, at, axis=1)
    at_target = np.where(share == 0, 0, -share * g)
    np.put_along_axis(x, at, np.where(found[:, None], at_target[:, None], there), axis=1)
    np.copyto(x, 0, where=((t < 0) | (g == 0))[:, None])
    return x


# ---- states -------------------------------------------------------------------------------------


def _flat(state: RowState, here: slice) -> tuple[Float64, Float64, Float64]:
    """Reference, 1 + excess and target of some rows, in float64."""
    m, excess, target = (
        a.reshape(-1)[here].astype(np.float64)
        for a in (state.reference, state.excess, state.target)
    )
    return m, 1 + excess, target


def _losses(state: RowState) -> tuple[Float64, Float64]:
    """The losses, and the ratio of the others' sum to the target's term; rows' shape.

    Up to gaps of 700 a rounding of m - x_t would cost 6e-14 of exp(m - x_t): it is put back. The
    half of the gap is exact, and its exp is a normal number where the ratio is one.
    """
    m, s, target = _flat(state, slice(None))
    gap = m - target
    part = gap - m
    lost = (m - (gap - part)) - (target + part)
    lost = np.where(np.isfinite(gap), lost, 0)
    half = np.exp(gap / 2)
    ratio = half * s * half * (1 + lost)
    loss = np.where(gap < _FAR, np.log1p(ratio), gap + (np.log(s) + lost))
    return loss.reshape(state.shape), ratio.reshape(state.shape)


def _joined(pairs: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Ranges of classes, sorted, those that meet in one; ValueError where they overlap."""
    joined: list[tuple[int, int]] = []
    for first, stop in sorted(pairs):
        end = joined[-1][1] if joined else -1
        if first < end:
            twice = _shown(((first, min(stop, end)),))
            raise ValueError(
                f"states must hold each class once, got {twice} twice (of "
                f"{', '.join(_shown((pair,)) for pair in sorted(pairs))}): was a state merged "
                "twice, or is class_offset wrong?"
            )
        joined[-1:] = [(joined[-1][0], stop)] if first == end else [*joined[-1:], (first, stop)]
    return tuple(joined)


def _shown(classes: tuple[tuple[int, int], ...]) -> str:
    return ", ".join(f"{first}..{stop - 1}" for first, stop in classes)


def _check_state(state: object, argument: str) -> None:
    if not isinstance(state, RowState):
        way_out = ": merge_rows(*states)" if isinstance(state, list | tuple) else ""
        raise TypeError(f"{argument} must be a RowState, got {describe(state)}{way_out}")


def _check_alike(
    shape: tuple[int, ...], start: int, parts: list[tuple[Float64, Float64, Float64]]
) -> None:
    """Refuse rows that are ignored in one state only, or have their targets in two."""
    ignored = [np.isposinf(reference) for reference, _, _ in parts]
    there = sum((~np.isnan(target)).astype(np.int64) for _, _, target in parts)
    bad = reduce(np.logical_or, ignored) & ~reduce(np.logical_and, ignored) | (there > 1)
    if bad.any():
        raise ValueError(
            "states must be of the same labels and ignore_class, got others at "
            f"{_place(start + int(bad.argmax()), shape)}"
        )


def _place(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, shape)) if shape else ()


def _whole_layout(state: RowState) -> Layout:
    """The layout of all shards' logits together; ValueError where a class or a label is missing."""
    _check_state(state, "state")
    if len(state.classes) > 1 or state.classes[0][0] > 0:
        ends = [(0, 0), *state.classes]
        gaps = [(a[1], b[0]) for a, b in zip(ends, state.classes, strict=False) if a[1] < b[0]]
        raise ValueError(
            f"state must hold all classes from 0 on, got {_shown(state.classes)}: classes "
            f"{_shown(tuple(gaps))} are missing; merge their shards too"
        )
    classes, shape, axis = state.classes[0][1], state.shape, state.axis
    whole = (*shape[:axis], classes, *shape[axis:])
    missing = np.isnan(state.target) & ~np.isposinf(state.reference)
    if missing.any():
        flat = int(missing.argmax())
        if state.beyond is None or state.beyond[0] != flat:
            raise ValueError(
                "labels must be the same in every shard's call, got others at "
                f"{_place(flat, shape)}"
            )
        reader = checks.Labels(shape, shape, axis, classes, state.ignored)
        more = int(np.count_nonzero(missing)) - 1
        text = reader.complaint(
            state.beyond[1], None, _place(flat, shape), more, state.extremes or ()
        )
        if "y_pred has" in text:
            text = text.replace("y_pred has", "the shards have") + "; is a shard missing?"
        raise ValueError(text.replace("y_true", "labels"))
    return layout_of(whole, axis, dense_strides(whole, 8))


def _weights(state: RowState, sample_weight: Any, how: Reduction) -> tuple[Float64, float]:
    """The rows' weights, 0 where ignored, and what sum(w * l) is divided by."""
    layout = _whole_layout(state)
    kept = ~np.isposinf(state.reference)
    if (sent := weights.array_of(sample_weight)) is None:
        w = kept.astype(np.float64)
    else:
        w = weights.counted(sent, layout, kept - np.int64(1), sample_weight)
    with np.errstate(all="ignore"):
        return w, weights.divisor(how).of(int(np.count_nonzero(kept)), float(np.sum(w)))


# ---- arguments ----------------------------------------------------------------------------------


def _refuse(unknown: Mapping[str, object], known: tuple[str, ...], function: str) -> None:
    """TypeError for a keyword that there is not."""
    for name in unknown:
        if "smooth" in name:
            raise TypeError(
                f"{name} is not an argument of {function}(): shards serve logits without label "
                "smoothing; for smoothed losses keep the classes of a row in one array and use "
                "SparseCategoricalCrossentropy(from_logits=True, label_smoothing=s)"
            )
    refuse_unknown(unknown, known, function)


@contextmanager
def _argument_names() -> Iterator[None]:
    """Refusals in the names that the arguments have here."""
    swapped = "logits_shard and labels look swapped: logits come first, then labels"
    try:
        yield
    except (TypeError, ValueError) as error:
        text = str(error).replace(checks.SWAPPED, swapped)
        text = text.replace("use loss_categorical_crossentropy, or argmax", "pass class indices")
        text = text.replace("y_true", "labels").replace("y_pred", "logits_shard")
        raise type(error)(text) from None


def _read(
    logits_shard: Any, labels: Any, class_offset: Any, options: Options
) -> tuple[Array, Array, Layout, int]:
    """Logits, labels, the logits' layout and the first class."""
    offset = whole_number(class_offset, "class_offset")
    if offset < 0:
        raise ValueError(
            f"class_offset must be the shard's first class, 0 or more, got {class_offset}"
        )
    x = arrays.scores(logits_shard)
    layout = checks.class_axis(x, labels, options.axis)
    return x, checks.array_of(labels), layout, offset


def _decoded(reader: checks.Labels, y: Array) -> Int64:
    """Labels as int64 of the losses' shape, -1 where ignored; bad ones are refused."""
    decoded, bad = reader.decode(reader.shaped(y))
    if bad.any():
        reader.refuse(y)
    return decoded


def _labels_of(
    state: RowState, x: Array, y: Array, layout: Layout, offset: int, sent: Any
) -> Int64:
    """The labels of a shard, decoded; ValueError where shard or labels are not the state's."""
    classes, shard = state.classes[0][1], _shown(((offset, offset + layout.classes),))
    if layout.losses != state.shape or offset + layout.classes > classes:
        raise ValueError(
            f"logits_shard must be a part of the state's {classes} classes for rows of shape "
            f"{state.shape}, got classes {shard} for rows of shape {layout.losses}"
        )
    of = {"y_true": sent, "x": x}
    reader = checks.read_part(arrays.spec_of(y), layout, state.ignored, classes, **of)
    t = _decoded(reader, y)
    found = t[t >= 0]
    extremes = (int(found.min()), int(found.max())) if found.size else None
    if extremes != state.extremes or ((t < 0) != np.isposinf(state.reference)).any():
        raise ValueError(
            "labels must be those of the state, got others: pass what row_partial() was given"
        )
    at, there = _in_shard(t, offset, layout.classes, layout.axis)
    x_t = np.take_along_axis(x, at, layout.axis).reshape(state.shape)
    x_t = x_t.astype(dtypes.counts_as(x.dtype)).astype(state.dtype)
    x_t = np.where(np.isnan(x_t), np.inf, x_t)
    if (moved := there & (x_t != state.target)).any():
        raise ValueError(
            "logits_shard must be what row_partial() was given, got another logit of the label at "
            f"{_place(int(moved.argmax()), state.shape)}: is class_offset {offset} its own?"
        )
    return t
