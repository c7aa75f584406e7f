"""Where a call's data begin in all of the data, where they are a part of more.

A partition of a file, a block of a dask array: what is wrong in one is named by its position in the
whole, whoever makes the message.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import zip_longest
from typing import NamedTuple


class Part(NamedTuple):
    """A part of the data."""

    first: tuple[int, ...]  # where it begins along each axis of the losses; 0 along those behind
    call: str | None  # names a call of which several parts are done, each apart


_part: ContextVar[Part | None] = ContextVar("part", default=None)


@contextmanager
def starting_at(*first: int, call: str | None = None) -> Iterator[None]:
    """Calls in this context are for a part of the data: the arguments are `Part`'s."""
    token = _part.set(Part(first, call))
    try:
        yield
    finally:
        _part.reset(token)


def current() -> Part | None:
    """The part that is at work; None for all of the data."""
    return _part.get()


def in_whole(index: list[int]) -> list[int]:
    """The place among all losses of a place among those of this call."""
    part = current()
    first = () if part is None else part.first[: len(index)]
    return [i + start for i, start in zip_longest(index, first, fillvalue=0)]


def and_more(count: int, what: str = "") -> str:
    """How a message says that others like what it names are wrong too."""
    if not count:
        return ""
    of = f" {what}{'s' * (count > 1)}" if what else ""
    return f" and {count} more{of}{'' if current() is None else ' in this part'}"
