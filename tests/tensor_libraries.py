"""The libraries whose tensors are taken as y_pred, one entry each: what a test needs to use one.

A new adapter is a class here and its line in LIBRARIES; every promise of `test_libraries` is then
kept by it, too.
"""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from conftest import require_peer

Function = Callable[[Any], Any]


class Torch:
    """PyTorch on the CPU: kernels on its memory, so that results have NumPy's own bits."""

    same_bits = True
    dtypes = ("float16", "bfloat16", "float32", "float64")
    labels = (
        "bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64",
        "float16", "bfloat16", "float32", "float64",
    )  # fmt: skip

    def __init__(self) -> None:
        self.torch = require_peer("torch")
        torch = self.torch
        #: The same numbers lying otherwise: functions of a tensor.
        self.layouts: dict[str, Function] = {
            "C order": lambda x: x.clone(),
            "Fortran order": lambda x: x.permute(*range(x.ndim)[::-1]).contiguous().permute(
                *range(x.ndim)[::-1]
            ),
            "first axis last": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
            "every other": lambda x: torch.stack([x, x], 1).flatten(0, 1)[::2],
            "negated": lambda x: torch.complex(torch.zeros_like(x), -x).conj().imag,
        }  # fmt: skip

    def to_library(self, array: Any) -> Any:
        """A tensor of the same numbers."""
        array = np.asarray(array)
        if array.dtype == ml_dtypes.bfloat16:
            return self.torch.from_numpy(array.astype(np.float32)).bfloat16()
        return self.torch.from_numpy(array.copy())

    def to_numpy(self, tensor: Any) -> np.ndarray[Any, Any]:
        """An array of the same numbers; a failure where it is no tensor of this library."""
        assert type(tensor) is self.torch.Tensor, type(tensor)
        assert not tensor.requires_grad
        if tensor.dtype == self.torch.bfloat16:
            return np.asarray(tensor.float().numpy().astype(ml_dtypes.bfloat16))
        return np.asarray(tensor.numpy())

    def gradient(self, f: Function, x: Any) -> Any:
        """The derivative by x of f(x), one number."""
        leaf = x.detach().requires_grad_()
        return self.torch.autograd.grad(f(leaf), leaf)[0]


LIBRARIES: dict[str, type[Torch]] = {"torch": Torch}
