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


def spread(array: Dask | None, axis: int) -> Dask | None:
    """An array of the losses' number of axes with one of length 1 where the classes are."""
    return None if array is None else array[(*(slice(None),) * axis, None)]


def mapped(
    task: Callable[..., Any],
    x: Dask,
    *others: Dask | None,
    dtype: Any = object,
    drop: int | None = None,
) -> Dask:
    """task(first, *blocks) of each block, where `first` is its first index along each axis of x.

    Args:
        task: gives the block of the result; or one Python object, where dtype is `object`.
        x: an array.
        *others: arrays of as many axes, in the same blocks but where one of length 1 serves all.
        dtype: of the result.
        drop: an axis of x, in one block, that the result does not have.
    """
    import dask.array as da

    if drop is not None:  # dask's own drop_axis copies every block of x
        return item(mapped(task, x, *others), x, dtype, drop=drop)
    starts = tuple(tuple(np.cumsum((0, *c))[:-1].tolist()) for c in x.chunks)
    chunks = x.chunks
    if dtype is object:
        task, chunks = partial(_boxed, task), tuple((1,) * len(c) for c in chunks)
    return da.map_blocks(
        partial(_at_start, task, starts),
        x,
        *others,
        chunks=chunks,
        dtype=dtype,
        meta=np.empty((0,) * x.ndim, dtype),
        token=_name(task),
    )


def _name(task: Any) -> str:
    """What dask's dashboard calls a task."""
    while isinstance(task, partial):
        task = task.args[0] if task.func is _boxed else task.func
    return f"sparse_xent_{task.__name__.strip('_')}"


def _at_start(
    task: Callable[..., Any],
    starts: tuple[tuple[int, ...], ...],
    *blocks: Any,
    block_id: tuple[int, ...],
) -> Any:
    """The task, told where its block begins along each axis."""
    return task(tuple(s[k] for s, k in zip(starts, block_id, strict=True)), *blocks)


def _boxed(task: Callable[..., Any], first: tuple[int, ...], *blocks: Any) -> Array:
    return _box(task(first, *blocks), len(first))


def _box(value: Any, axes: int) -> Array:
    made = np.empty((1,) * axes, object)
    made[(0,) * axes] = value
    return made


def item(made: Dask, x: Dask, dtype: Any, k: int | None = None, drop: int | None = None) -> Dask:
    """The array whose blocks are the objects of an array, or the k-th of each that is a tuple.

    Args:
        made: one object for each block of x.
        x: an array.
        dtype: of the result.
        k: which of each tuple; None for objects that are blocks themselves.
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


def _item(k: int | None, made: Array) -> Any:
    found = made.flat[0]
    return np.asarray(found if k is None else found[k])


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
    return da.reduction(
        states,
        chunk=_as_it_is,
        combine=partial(_merged, merge, None),
        aggregate=partial(_merged, merge, finish),
        axis=axis,
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
