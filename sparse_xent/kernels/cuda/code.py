"""Machine code by a kernel's name and a compute capability: from the disk, or compiled now.

Numba is the compiler (kernels to LTO-IR), cuda.core links; neither needs a GPU or a driver. What
the disk has needs neither package: a cubin and the name of its entry are all that a launch takes.
"""

from typing import NamedTuple


class Code(NamedTuple):
    """A kernel as a GPU takes it."""

    image: bytes  # a cubin
    entry: str  # the kernel's name in it


def cubin(kernel: str, cc: tuple[int, int]) -> Code:
    """The code of `Plan.kernel` for a compute capability such as (9, 0)."""
    raise NotImplementedError(kernel, cc)
