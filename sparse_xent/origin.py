"""Where a call's data begin in all of the data, where they are a part of more.

A partition of a file, a block of a dask array: what is wrong in one is named by its position in the
whole, whoever makes the message.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import zip_longest

_first: ContextVar[tuple[int, ...] | None] = ContextVar("first", default=None)


@contextmanager
def starting_at(*first: int) -> Iterator[None]:
    """Calls in this context are for a part of the data.

    Args:
        *first: where the part begins along each axis of the losses; 0 along those behind.
    """
    token = _first.set(first)
    try:
        yield
    finally:
        _first.reset(token)


def in_whole(index: list[int]) -> list[int]:
    """The place among all losses of a place among those of this call."""
    first = (_first.get() or ())[: len(index)]
    return [i + start for i, start in zip_longest(index, first, fillvalue=0)]


def and_more(count: int, what: str = "") -> str:
    """How a message says that others like what it names are wrong too."""
    if not count:
        return ""
    of = f" {what}{'s' * (count > 1)}" if what else ""
    return f" and {count} more{of}{'' if _first.get() is None else ' in this part'}"
