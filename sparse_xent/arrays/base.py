"""What is known of an array without looking at its values: the currency of plans."""

from typing import Any, NamedTuple

import numpy as np


class ArraySpec(NamedTuple):
    """How an array lies in memory; all of it but its address."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]  # bytes
    dtype: np.dtype[Any]
    device: int | None = None  # ordinal of a CUDA device; None for the host
    writable: bool = True
    aligned: bool = True

    @property
    def size(self) -> int:
        """How many elements there are."""
        size = 1
        for n in self.shape:
            size *= n
        return size

    @property
    def is_c_order(self) -> bool:
        """Whether elements lie one after the other, the last axis fastest."""
        dense = dense_strides(self.shape, self.dtype.itemsize)
        return all(
            n == 1 or s == d for n, s, d in zip(self.shape, self.strides, dense, strict=True)
        )

    def transposed(self, axes: tuple[int, ...]) -> "ArraySpec":
        """The array with its axes in this order."""
        return self._replace(
            shape=tuple(self.shape[a] for a in axes),
            strides=tuple(self.strides[a] for a in axes),
        )


def dense_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Strides of C order, in bytes."""
    strides, step = [], itemsize
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


def reach(spec: ArraySpec) -> tuple[int, int]:
    """The bytes that an array spans, from its address on: the first, the one behind the last."""
    if 0 in spec.shape:
        return 0, 0
    spans = [step * (n - 1) for step, n in zip(spec.strides, spec.shape, strict=True)]
    first, last = sum(min(0, s) for s in spans), sum(max(0, s) for s in spans)
    return first, last + spec.dtype.itemsize
