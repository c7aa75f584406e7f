"""A process of its own that takes its turns like everyone else, over a pipe.

What a process can be only once (Keras with one backend, one version of this library) needs one for
each. A worker makes a workload's data anew from its seed, once for all of its verbs, and times its
own calls.
"""

import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Self

import numpy as np

from benchmarks.answers import answer
from benchmarks.clock import FEWEST, Local
from benchmarks.workloads import Workload

PATIENCE = 300  # seconds for one request

#: A call of the workload's verb on its labels and scores.
Maker = Callable[[Workload, str, np.ndarray, np.ndarray], Callable[[], object]]


class Worker:
    """A process that runs `target(pipe, *arguments)`, which is to end in `serve`."""

    def __init__(self, name: str, target: Callable[..., None], *arguments: object) -> None:
        self.name = name
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()
        self._asked = 0  # requests whose answers are still to come

    def send(self, *request: object) -> None:
        """Ask without waiting; the next `ask` passes over the answer."""
        if not self._process.is_alive():
            raise RuntimeError("the worker is gone")
        self._pipe.send(request)
        self._asked += 1

    def ask(self, *request: object) -> Any:
        """What the worker answers; RuntimeError with its own words where it cannot."""
        self.send(*request)
        while self._asked:
            done, reply = self._receive()
            self._asked -= 1
        if not done:
            raise RuntimeError(reply)
        return reply

    def _receive(self) -> tuple[bool, Any]:
        if not self._pipe.poll(PATIENCE):
            self._process.kill()
            raise RuntimeError(f"no answer in {PATIENCE} s")
        try:
            return self._pipe.recv()
        except (EOFError, OSError):
            raise RuntimeError("the worker died") from None

    def prepare(
        self, workload: Workload, verb: str, note: str = "", least: int = FEWEST
    ) -> "Remote":
        """A candidate for the workload; it can be called until the next one is prepared."""
        self.ask("prepare", workload, verb)
        return Remote(self.name, verb, self, note, least)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()


@dataclass
class Remote:
    """A worker's candidate."""

    name: str
    verb: str
    worker: Worker
    note: str = ""
    least: int = FEWEST

    def seconds(self) -> float:
        return self.worker.ask("seconds")

    def answer(self) -> np.ndarray:
        return self.worker.ask("answer")


def serve(pipe: Connection, make: Maker) -> None:
    """Answer requests until the pipe is closed."""
    work = _Work(make)
    while True:
        try:
            what, *details = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            pipe.send((True, getattr(work, what)(*details)))
        except Exception as error:
            words = traceback.format_exception_only(error)[-1].strip().splitlines()
            pipe.send((False, words[0] if words else type(error).__name__))


class _Work:
    """What can be asked for, by name."""

    def __init__(self, make: Maker) -> None:
        self._make = make
        self._workload: Workload | None = None
        self._data: tuple[np.ndarray, ...] = ()
        self._candidate: Local | None = None

    def load(self, workload: Workload) -> None:
        """Make the workload's data; what was made for another goes first."""
        if workload != self._workload:
            self._candidate, self._workload, self._data = None, None, ()
            self._data = workload.data()
            self._workload = workload

    def prepare(self, workload: Workload, verb: str) -> None:
        """Make the candidate that is asked for from now on."""
        self._candidate = None  # its arrays go before others come
        self.load(workload)
        run = self._make(workload, verb, *self._data)
        self._candidate = Local("", verb, run, partial(answer, workload, verb))

    def seconds(self) -> float:
        return self._prepared.seconds()

    def answer(self) -> np.ndarray:
        return self._prepared.answer()

    @property
    def _prepared(self) -> Local:
        if self._candidate is None:
            raise RuntimeError("nothing is prepared")
        return self._candidate
