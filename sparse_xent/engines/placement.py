"""Which processor a helper thread runs on, where there are two.

Linux may wake a thread on the processor of the one that wakes it, while the other processor is
idle, and leave both there for some 25 ms: a call after a pause then takes as long as one thread
does. So a helper is kept off the caller's processor. 1,000,000 x 10 float32 logits after a pause of
0.1 s, median of 25, Linux 6.18: 2.9 ms, not 5.4. With more processors there is usually an idle one
that the system finds.
"""

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress


def _find() -> Callable[[], int] | None:
    """A function that says which processor the calling thread is on: Linux has one."""
    if hasattr(os, "sched_setaffinity"):
        with suppress(OSError):  # of an interpreter that is linked statically
            return getattr(ctypes.PyDLL(None), "sched_getcpu", None)
    return None


_processor = _find()


class Placement:
    """The helpers of a pool, and where they were last put."""

    def __init__(self) -> None:
        self._helpers: list[int] = []  # the system's numbers of the threads
        self._placed: tuple[int, tuple[int, ...]] | None = None
        self._confined = False

    def add(self, helper: int) -> None:
        """Place this thread, too."""
        self._helpers.append(helper)

    def remove(self, helper: int) -> None:
        """Forget it: the system may give its number to another thread."""
        self._helpers.remove(helper)

    def separate(self) -> None:
        """Put the helpers, which sleep, on the processor that the calling thread is not on.

        Where it may now run on more than two, or on one, so may they.
        """
        if _processor is None:
            return
        here, helpers = _processor(), tuple(self._helpers)
        if (here, helpers) == self._placed:
            return
        with suppress(OSError):  # a sandbox may forbid it
            may = os.sched_getaffinity(0)
            others = may - {here}
            confined = len(others) == 1
            if confined or self._confined:
                for helper in helpers:
                    os.sched_setaffinity(helper, others if confined else may)
            self._confined = confined
        self._placed = here, helpers
