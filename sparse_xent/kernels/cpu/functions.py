"""The kernels' C functions, found or compiled when they are first asked for."""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from sparse_xent.kernels import loader
from sparse_xent.kernels.cpu import abi, array_objects


def losses(choice: abi.KernelChoice, gradient: bool) -> int:
    """Address of the kernel of losses, or of losses and gradients."""
    return loader.address(*choice.named(gradient))


def decoder(dtype: np.dtype[Any]) -> int:
    """Address of the C function that decodes labels of a dtype in `abi.LABELS`."""
    return loader.address("decode_labels", abi.LABELS[dtype])


@cache
def run_chunks() -> Callable[[int, int, int, int], None]:
    """`chunks.run_chunks`: address of a ChunkParams, first position, end, scratch.

    Holds no GIL.
    """
    return _function(loader.address("run_chunks"), None, *[ctypes.c_int64] * 4)


@cache
def run_small_call() -> Callable[..., int]:
    """`chunks.run_small_call`: address of a ChunkParams, and of a tuple of array objects."""
    address = loader.address("run_small_call", array_objects.ITEMS, array_objects.DATA)
    return _function(address, ctypes.c_int64, *[ctypes.c_int64] * 2)


@cache
def decode_labels(dtype: np.dtype[Any]) -> Callable[..., int]:
    """A decoder that Python can call."""
    return _function(decoder(dtype), ctypes.c_int64, *[ctypes.c_int64] * 7)


@cache
def rank(format: str) -> Callable[..., None]:
    """`rank.rank` for one format of scores."""
    return _function(rank_address(format), None, *[ctypes.c_int64] * 10)


def rank_address(format: str) -> int:
    """Its address, which `abi.ChunkParams` takes."""
    return loader.address("rank", format)


def exact_sums_address(format: str) -> int:
    """Address of `exact_sums.exact_sums` for losses of one format."""
    return loader.address("exact_sums", format)


def _function(address: int, gives: Any, *takes: Any) -> Callable[..., Any]:
    return ctypes.CFUNCTYPE(gives, *takes)(address)
