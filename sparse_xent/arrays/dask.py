"""dask's arrays, and xarray's over dask: one task a block, and nothing is computed here.

Scores stay as they are chunked; labels and weights are cut likewise. All that is returned is lazy.
dask is imported here alone, and only when one of its arrays was given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from sparse_xent.arrays import foreign

Array = npt.NDArray[Any]
Dask = Any  # a dask.array.Array


_TOGETHER = 16  # how many states one task merges: a task costs more to schedule than a merge


def is_lazy(value: object) -> bool:
    """Whether a value is dask's array, or xarray's DataArray over one."""
    match foreign.library(value):
        case "dask":
            return hasattr(value, "dask") and hasattr(value, "chunks")
        case "xarray":
            return hasattr(value, "dtype") and getattr(value, "chunks", None) is not None
    return False


def plain(value: Any, argument: str, dims: tuple[Any, ...] = ()) -> Any:
    """The dask array of what is lazy, the data of what is xarray's; all else as it is.

    Args:
        value: what the user sent.
        argument: its name.
        dims: names of y_pred's axes: a DataArray that has no other names is aligned by them.

    Raises:
        TypeError: it is a collection of dask's that is no array.
        ValueError: the lengths of its chunks are not known.
    """
    if foreign.library(value) == "xarray" and hasattr(value, "data"):
        value = _by_names(value, dims) if set(value.dims) <= set(dims) else value.data
    if foreign.library(value) != "dask":
        return value
    if not is_lazy(value):
        frame = hasattr(value, "to_dask_array")
        way_out = "to_dask_array(lengths=True)" if frame else "compute()"
        raise TypeError(
            f"{argument} must be an array, got a dask {type(value).__name__}: pass "
            f"{argument}.{way_out}"
        )
    if any(math.isnan(n) for n in value.shape):
        raise ValueError(
            f"{argument} must have chunks of known lengths, got {value.chunks}: pass "
            f"{argument}.compute_chunk_sizes()"
        )
    return value


def _by_names(value: Any, dims: tuple[Any, ...]) -> Any:
    """The data with these axes in this order; length 1 where there is none of that name."""
    if not value.dims:
        return value.data
    data = value.transpose(*(d for d in dims if d in value.dims)).data
    return data[tuple(slice(None) if d in value.dims else None for d in dims)]


def names_of_axes(value: Any) -> tuple[Any, ...]:
    """The names of a DataArray's axes; none for all else."""
    return tuple(value.dims) if foreign.library(value) == "xarray" else ()


def like(value: Any, result: Dask, axis: int | None) -> Any:
    """A result as y_pred was sent: in a DataArray, with the names and coordinates that it has left.

    Args:
        value: y_pred as it was sent.
        result: of its shape, without the class axis, or a single number.
        axis: the class axis, where the result has none; None where it is of y_pred's shape.
    """
    if foreign.library(value) != "xarray":
        return result
    if result.ndim == 0 and value.ndim > 1:
        return type(value)(result)
    of = value if axis is None else value.isel({value.dims[axis]: 0}, drop=True)
    return type(value)(result, coords=of.coords, dims=of.dims)


def in_chunks(array: Any, chunks: dict[int, Any]) -> Dask:
    """A dask array, or an ndarray as one, with these chunks along each axis."""
    import dask.array as da

    if foreign.library(array) == "dask":
        return array.rechunk(chunks)
    return da.from_array(np.asarray(array), chunks=tuple(chunks.values()))


def whole_rows(x: Dask, axis: int) -> Dask:
    """The array with all classes in each block; other axes are cut so that blocks stay small."""
    if x.numblocks[axis] == 1:
        return x
    return x.rechunk({a: -1 if a == axis else "auto" for a in range(x.ndim)})


def aligned(array: Any, x: Dask, axis: int) -> Dask:
    """An array of the losses' number of axes, each of their length or 1, in the scores' blocks."""
    lengths, chunks = list(x.shape), list(x.chunks)
    del lengths[axis], chunks[axis]
    pairs = zip(array.shape, lengths, chunks, strict=True)
    return in_chunks(array, {d: c if n == m else -1 for d, (n, m, c) in enumerate(pairs)})


def mapped(
    task: Callable[..., Any],
    x: Dask,
    *others: Any,
    dtype: Any = object,
    axis: int | None = None,
    drop: bool = False,
) -> Dask:
    """task(first, *blocks) of each block, where `first` is its first index along each axis of x.

    Labels are handed over as they are, and each block's number as one more array: whatever dask
    cannot join with the task itself is scheduled apart, which takes as long as the smaller sums do.

    Args:
        task: gives the block of the result; or one Python object, where dtype is `object`.
        x: an array.
        *others: arrays of as many axes, or without `axis`, in the same blocks but where one of
            length 1 serves all; what is no lazy array goes to each task as it is.
        dtype: of the result.
        axis: the axis that others need not have.
        drop: whether the result lacks it; x is then in one block along it.
    """
    import dask.array as da

    every = tuple(range(x.ndim))
    rows = tuple(d for d in every if d != axis)
    out = rows if drop else every
    numblocks = tuple(x.numblocks[d] for d in out)
    starts = [np.cumsum((0, *c))[:-1].tolist() for c in x.chunks]
    numbers = da.from_array(np.arange(math.prod(numblocks)).reshape(numblocks), chunks=1)
    operands: list[Any] = [x, every]  # first: the result's chunks are those of x
    for array in others:
        axes = every[: array.ndim] if is_lazy(array) else None
        operands += [array, rows if axes and len(axes) < x.ndim else axes]
    box = dtype is object
    return da.blockwise(
        partial(_of_blocks, task, starts, out, box),
        out,
        *operands,
        numbers,
        out,
        adjust_chunks=dict.fromkeys(every, lambda length: 1) if box else None,
        align_arrays=False,
        dtype=dtype,
        meta=np.empty((0,) * len(out), dtype),
        token=_name(task),
    )


def _name(task: Any) -> str:
    """What dask's dashboard calls a task."""
    while isinstance(task, partial):
        task = task.func
    return f"sparse_xent_{task.__name__.strip('_')}"


def _of_blocks(
    task: Callable[..., Any],
    starts: list[list[int]],
    out: tuple[int, ...],
    box: bool,
    *operands: Any,
) -> Any:
    """The task, told where its block begins along each axis."""
    *blocks, number = operands
    first = [0] * len(starts)
    block = np.unravel_index(number.item(), [len(starts[d]) for d in out])
    for d, k in zip(out, block, strict=True):
        first[d] = starts[d][k]
    # Along an axis that the result lacks, dask gives a list of blocks: there is one.
    made = task(tuple(first), *(b[0] if isinstance(b, list) else b for b in blocks))
    return _box(made, len(out)) if box else made


def _box(value: Any, axes: int) -> Array:
    made = np.empty((1,) * axes, object)
    made[(0,) * axes] = value
    return made


def item(made: Dask, x: Dask, dtype: Any, k: int, drop: int | None = None) -> Dask:
    """The array whose blocks are the k-th of each tuple in an array of tuples.

    Args:
        made: one tuple for each block of x.
        x: an array.
        dtype: of the result.
        k: which of each tuple.
        drop: an axis of x that the result does not have.
    """
    chunks = tuple(c for d, c in enumerate(x.chunks) if d != drop)
    return made.map_blocks(
        partial(_item, k),
        chunks=chunks,
        dtype=dtype,
        meta=np.empty((0,) * len(chunks), dtype),
        token="sparse_xent_item",
        **({} if drop is None else {"drop_axis": drop}),
    )


def _item(k: int, made: Array) -> Any:
    return np.asarray(made.flat[0][k])


def merged(
    states: Dask,
    merge: Callable[[list[Any]], Any],
    finish: Callable[[Any], Any] | None = None,
    dtype: Any = object,
    axis: int | None = None,
) -> Dask:
    """All objects of an array as one, by a tree of merges; along one axis, or all.

    Args:
        states: one object for each block.
        merge: one object of a list of them.
        finish: what is returned of the last; itself if None.
        dtype: of the result.
        axis: the axis along which objects are merged; all if None, for a 0-d array.
    """
    import dask.array as da

    axes = 0 if axis is None else states.ndim - 1
    cut = [a for a, blocks in enumerate(states.numblocks) if blocks > 1 and axis in (a, None)]
    together = max(2, round(_TOGETHER ** (1 / max(1, len(cut)))))
    return da.reduction(
        states,
        chunk=_as_it_is,
        combine=partial(_merged, merge, None),
        aggregate=partial(_merged, merge, finish),
        axis=axis,
        split_every=dict.fromkeys(cut, together),
        dtype=dtype,
        meta=np.empty((0,) * axes, dtype),
        name="sparse_xent_merged",
    )


def _as_it_is(states: Array, axis: Any, keepdims: bool) -> Array:
    return states


def _merged(
    merge: Callable[[list[Any]], Any],
    finish: Callable[[Any], Any] | None,
    states: Array,
    axis: Any,
    keepdims: bool,
) -> Any:
    made = merge(states.ravel().tolist())
    if finish is not None:
        return finish(made)
    return _box(made, states.ndim if keepdims else states.ndim - len(axis))
