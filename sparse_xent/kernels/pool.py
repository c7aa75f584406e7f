"""The threads that carry the kernels: a small pool of our own, in which the caller takes a share.

Numba's own layers each fail someone: OpenMP kills a forked child at its first parallel call,
workqueue aborts the process when two threads call at once, TBB is not found where pip puts it. The
kernels hold no GIL, so plain threads carry them; what a call costs beside its work is two locks
and a queue. How the work is cut is the caller's affair, and no result depends on who did what.
"""

import itertools
import os
import queue
import threading
from collections.abc import Callable

Task = Callable[[int], None]


class _Job:
    """Tasks 0 .. count-1 of one call, taken one by one by whoever is free."""

    def __init__(self, task: Task, count: int) -> None:
        self._task, self._count = task, count
        self._next = itertools.count()  # next() is one bytecode: no two threads get one number
        self._lock = threading.Lock()
        self._helping = 0
        self._closed = False
        self._idle = threading.Event()
        self._error: BaseException | None = None

    def help(self) -> None:
        """Take tasks until there are none; a late helper finds the job closed."""
        with self._lock:
            if self._closed:
                return
            self._helping += 1
        try:
            self._work()
        finally:
            self._leave()

    def finish(self) -> None:
        """The caller's share; returns when no task is under way, and raises what one raised."""
        try:
            self._work()
        finally:
            # Also after Ctrl-C: no helper may still be writing when the caller has its arrays back.
            with self._lock:
                self._closed = True
                helping = self._helping
            if helping:
                self._idle.wait()
        if self._error is not None:
            raise self._error

    def _leave(self) -> None:
        with self._lock:
            self._helping -= 1
            if self._closed and not self._helping:
                self._idle.set()

    def _work(self) -> None:
        while (k := next(self._next)) < self._count:
            try:
                self._task(k)
            except BaseException as error:
                self._error = self._error or error
                self._count = 0  # nobody takes another


class _Pool:
    """Worker threads, started when first wanted; they wait for jobs and never end by themselves."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._workers = 0

    def run(self, task: Task, count: int, threads: int) -> None:
        helpers = min(threads, count) - 1
        job = _Job(task, count)
        if helpers > 0:
            self._hire(helpers)
            for _ in range(helpers):
                self._jobs.put(job)
        job.finish()

    def _hire(self, wanted: int) -> None:
        with self._lock:
            while self._workers < wanted:
                name = f"sparse_xent-{self._workers}"
                threading.Thread(target=self._serve, name=name, daemon=True).start()
                self._workers += 1

    def _serve(self) -> None:
        jobs = self._jobs
        while True:
            job = jobs.get()
            job.help()
            del job  # or its arrays would live until the next one comes


_pool = _Pool()


def run(task: Task, count: int, threads: int) -> None:
    """Call task(0) .. task(count - 1) on at most `threads` threads, the caller's among them.

    Args:
        task: what is done for each number; releases the GIL for most of its time.
        count: how many there are.
        threads: how many threads may work on them; 1 means the caller alone.

    Raises:
        BaseException: the first exception that a task raised, when none is under way any more.
    """
    _pool.run(task, count, threads)


def _after_fork() -> None:
    """Threads do not survive a fork, and a lock may be held by one of them: begin anew."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
