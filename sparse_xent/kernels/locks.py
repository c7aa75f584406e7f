"""A lock whose wait is not ended by what a signal handler raises.

`threading.Lock.acquire`, and all that is built on it, returns early when a handler raises: with
KeyboardInterrupt, or a test runner's TimeoutError. Where memory must not be given back before
others have let go of it, that is too early. The interpreter has another wait for its own use, in
its stable C interface.
"""

import ctypes
from functools import partial

_API = ctypes.pythonapi
# Functions that CFUNCTYPE makes release the GIL while they wait; `pythonapi`'s own do not.
_allocate = ctypes.CFUNCTYPE(ctypes.c_void_p)(("PyThread_allocate_lock", _API))
_acquire = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(
    ("PyThread_acquire_lock", _API)
)
_release = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(("PyThread_release_lock", _API))


class Lock:
    """A lock that any thread may release, not only the one that acquired it.

    Its methods are C functions and run no Python code: the interpreter calls signal handlers
    between its own instructions only, so none runs between the call of `acquire` and its end.
    Its memory (some 50 bytes) is never freed, which would take a `__del__` in which a signal
    handler's exception is lost: those who need many reuse them.
    """

    def __init__(self) -> None:
        handle = _allocate()
        if not handle:
            raise MemoryError("no memory for a lock")
        self.acquire = partial(_acquire, handle, 1)
        self.try_acquire = partial(_acquire, handle, 0)  # 1 where it was free, else 0
        self.release = partial(_release, handle)
