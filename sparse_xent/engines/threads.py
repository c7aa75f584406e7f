"""The threads that run the kernels: a small pool of our own, in which the caller takes a share.

Numba's own layers each fail someone: OpenMP kills a forked child at its first parallel call,
workqueue aborts the process when two threads call at once, TBB is not found where pip puts it. The
kernels hold no GIL, so plain threads run them; what a call costs beside its work is a few locks
and a queue. How the work is cut is the caller's affair, and no result depends on who did what.

A caller gets its arrays back only when no helper writes into them any more, whatever a signal
handler raises and wherever. And no helper is inside a task while the process forks: the child,
which has none of the parent's threads, finds every task either done or not begun.
"""

import _thread
import itertools
import os
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from sparse_xent.engines.placement import Placement
from sparse_xent.kernels.locks import Lock

Task = Callable[..., object]
Arguments = Sequence[tuple[Any, ...]]


class _Gate:
    """Many may be inside at once; `close` waits until all have left, and keeps others out."""

    def __init__(self, lock: Lock) -> None:
        self._counting = threading.Lock()
        self._inside = 0
        self._closed = lock  # held by those inside, or by the one who closed the gate
        self.close, self.open = lock.acquire, lock.release

    def enter(self, wait: bool) -> bool:
        """Go in; where the gate is closed wait until it opens, or give up."""
        with self._counting:
            if not self._inside:
                if wait:
                    self._closed.acquire()
                elif not self._closed.try_acquire():
                    return False
            self._inside += 1
            return True

    def leave(self) -> None:
        with self._counting:
            self._inside -= 1
            if not self._inside:
                self._closed.release()

    def forget(self) -> None:
        """In a forked child: those who were entering or leaving are not there."""
        self._counting, self._inside = threading.Lock(), 0


class _Forks:
    """Holds helpers off while the process forks: all of them, between two tasks."""

    def __init__(self) -> None:
        self._next_task = Lock()  # a fork takes it first, so that it need not wait for ever
        self._tasks = _Gate(Lock())
        if hasattr(os, "register_at_fork"):
            # All but the last are functions in C: what a signal handler raises while a Python
            # function runs here would be lost. Those before the fork run in reverse order.
            for begin, end in (
                (self._tasks.close, self._tasks.open),
                (self._next_task.acquire, self._next_task.release),
            ):
                os.register_at_fork(before=begin, after_in_parent=end, after_in_child=end)
            os.register_at_fork(after_in_child=self._tasks.forget)

    def __enter__(self) -> None:
        self._next_task.acquire()
        self._next_task.release()
        self._tasks.enter(wait=True)

    def __exit__(self, *_: object) -> None:
        self._tasks.leave()


_spare: list[_Gate] = []
"""Gates of jobs that have ended."""


class _Job:
    """The tasks of one call, taken one by one by whoever is free."""

    def __init__(self, task: Task, arguments: Arguments, own: Callable[[], object]) -> None:
        self._task, self._arguments, self._own = task, arguments, own
        self.count = self._total = len(arguments)
        self._next = itertools.count()  # next() is one bytecode: no two threads get one number
        try:
            self._helpers = _spare.pop()
        except IndexError:
            self._helpers = _Gate(Lock())
        self.wait_for_helpers = self._helpers.close
        self.error: BaseException | None = None

    def help(self) -> None:
        """Take tasks until there are none, or the caller wants no more of them done."""
        while self.count:
            with _forks:
                if not self._helpers.enter(wait=False):
                    return
                try:
                    self.work(at_most=1)
                finally:
                    self._helpers.leave()

    def work(self, at_most: int = sys.maxsize) -> None:
        """Do the next tasks, until there are none; no Python function is called here but theirs."""
        try:
            own = self._own()
            # `count` may become 0 between the two: what is drawn is done.
            while at_most and self.count and (k := next(self._next)) < self._total:
                self._task(*self._arguments[k], own)
                at_most -= 1
        except BaseException as error:
            self.error = self.error or error
        if at_most:
            self.count = 0  # nobody takes another

    def end(self) -> None:
        """After the wait: raise what a task raised.

        A helper that comes late finds no task left, whoever has the gate by then, and no arrays.
        """
        del self._task, self._arguments
        self._helpers.open()
        _spare.append(self._helpers)
        if self.error is not None:
            try:
                raise self.error
            finally:
                self.error = None  # or error, traceback and job would keep each other's arrays


class _Pool:
    """Worker threads, started when first wanted; they wait for jobs and never end by themselves."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._workers = 0
        self._placement = Placement()

    def run(self, job: _Job, threads: int) -> None:
        wanted = min(threads, job.count) - 1
        try:
            if self._workers < wanted:
                wanted = self._hire(wanted)
            if wanted:
                self._placement.separate()
            for _ in range(wanted):
                self._jobs.put(job)
            job.work()
        finally:
            # A signal handler may raise anywhere above, and again between any two calls of
            # functions or rounds of a loop. Here it cannot before the wait is over: what comes
            # first is an assignment and one C function, of which the interpreter knows no middle.
            job.count = 0
            job.wait_for_helpers()
        job.end()

    def _hire(self, wanted: int) -> int:
        """How many workers there are, `wanted` at most: where the system gives no thread, fewer."""
        with self._lock:
            while self._workers < wanted:
                try:
                    # `Thread.start` would wait for the thread, and an interrupt of that wait can
                    # leave its lock in a state of which the next wait complains.
                    _thread.start_new_thread(self._serve, ())
                except RuntimeError:  # the limit of threads or memory; or the interpreter ends
                    break
                self._workers += 1
        return min(wanted, self._workers)

    def _serve(self) -> None:
        jobs, thread = self._jobs, threading.get_native_id()
        self._placement.add(thread)
        try:
            while True:
                job = jobs.get()
                with suppress(MemoryError):  # before or after a task: the caller goes on alone
                    job.help()
                del job  # or its arrays would live until the next one comes
        finally:
            self._placement.remove(thread)


_pool = _Pool()
_forks = _Forks()


def run(
    task: Task, arguments: Arguments, threads: int, own: Callable[[], object] = lambda: None
) -> None:
    """Call the task with each of some arguments on several threads, the caller's among them.

    Args:
        task: what is done; releases the GIL for most of its time.
        arguments: a tuple for each call.
        threads: how many threads may work on them; 1 means the caller alone.
        own: gives each thread what the task gets from it, behind the arguments.

    Raises:
        BaseException: the first exception that a task raised, or what a signal handler raised; in
            either case when no task is under way any more.
    """
    _pool.run(_Job(task, arguments, own), threads)


def _after_fork_in_child() -> None:
    """Threads do not survive a fork, and a lock may be held by one of them: begin anew."""
    global _pool
    _pool = _Pool()
    _spare.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
