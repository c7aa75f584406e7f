"""Where CPython's tuples have their items, and NumPy's arrays their data's address.

A small call hands its arrays to C as a tuple of objects, and C reads the addresses: to
ask NumPy for an address takes 0.8 us, to hand another integer through ctypes 0.1 us, and all the
rest of a small call 2 us. Where objects are laid out in another way the general way serves, which
asks NumPy.
"""

import ctypes
import sys
from functools import cache

import numpy as np

ITEMS = tuple.__basicsize__  # bytes: of the first item's address, in a tuple
DATA = object.__basicsize__  # of the data's address, in an array object
SHAPE = 16  # of its lengths' address, behind that and the number of dimensions

LAYOUTS = ((24, 16), (32, 16))
"""ITEMS and DATA of CPython 3.11 to 3.13, and of 3.14, whose tuples have a hash before their items.
Without the GIL objects are larger."""


@cache
def are_as_expected() -> bool:
    """Whether tuples and array objects hold what is read from them where it is read."""
    if sys.implementation.name != "cpython":
        return False
    array = np.zeros((2, 3))
    both = (array, None)
    if (ctypes.c_int64 * 2).from_address(id(both) + ITEMS)[:] != [id(array), id(None)]:
        return False
    data, shape = (ctypes.c_int64.from_address(id(array) + at).value for at in (DATA, DATA + SHAPE))
    return data == array.ctypes.data and (ctypes.c_int64 * 2).from_address(shape)[:] == [2, 3]
