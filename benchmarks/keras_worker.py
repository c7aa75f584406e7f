"""Keras on each of its backends, one process a backend, taking turns with the other candidates.

Keras picks its backend once a process. So each backend has a worker, which makes the data anew
from the workload's seed, and is told over a pipe when its turn is; it times its own call.
"""

import os
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Self

import numpy as np

from benchmarks.answers import answer
from benchmarks.workloads import FORWARD, Workload

BACKENDS = {"tensorflow": "tensorflow", "torch": "torch", "jax": "jax"}  # backend -> its module
PATIENCE = 120  # seconds for one request


class Worker:
    """A process in which Keras has one backend."""

    def __init__(self, backend: str, threads: int) -> None:
        self.name = f"keras ({backend})"
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, backend, threads), daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, *request: object) -> Any:
        """What the worker answers; RuntimeError with its own words where it cannot."""
        if not self._process.is_alive():
            raise RuntimeError("the worker is gone")
        self._pipe.send(request)
        if not self._pipe.poll(PATIENCE):
            self._process.kill()
            raise RuntimeError(f"no answer in {PATIENCE} s")
        try:
            done, reply = self._pipe.recv()
        except EOFError:
            raise RuntimeError("the worker died") from None
        if not done:
            raise RuntimeError(reply)
        return reply

    def prepare(self, workload: Workload, verb: str) -> "Remote":
        """A candidate for the workload; its data lives until the next one."""
        self.ask("prepare", workload, verb)
        note = "class axis moved inside the call" if workload.axis != -1 else ""
        return Remote(self.name, verb, self, note)

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
    in_full: bool = False

    def seconds(self) -> float:
        return self.worker.ask("seconds")

    def answer(self) -> np.ndarray:
        return self.worker.ask("answer")


def _idle() -> None:
    """Nothing is prepared."""


def _serve(pipe: Connection, backend: str, threads: int) -> None:
    os.environ["KERAS_BACKEND"] = backend
    run: Callable[[], object] = _idle
    workload, verb = None, ""
    while True:
        try:
            what, *details = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            reply: object = None
            if what == "prepare":
                run = _idle  # the last workload's arrays go first
                workload, verb = details
                run = _MAKERS[backend](workload, verb, threads)
            elif what == "seconds":
                start, calls = time.perf_counter(), 0
                while not calls or time.perf_counter() - start < 0.002:
                    run()
                    calls += 1
                reply = (time.perf_counter() - start) / calls
            else:
                reply = answer(workload, verb, run())
            pipe.send((True, reply))
        except Exception as error:
            words = traceback.format_exception_only(error)[-1].strip().splitlines()
            pipe.send((False, words[0] if words else type(error).__name__))


def _loss(workload: Workload) -> tuple[Any, Callable[[Any, Any], Any]]:
    """Keras, and its loss as a function of (labels, scores)."""
    import keras

    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=workload.from_logits,
        ignore_class=workload.ignore_class,
        # Halves are computed in float32, as by default; float64 stays what it is.
        dtype="float64" if workload.dtype == "float64" else "float32",
    )
    if workload.axis == -1:
        return keras, loss
    # On TensorFlow the loss refuses any other axis than the last.
    return keras, lambda y, x: loss(y, keras.ops.moveaxis(x, workload.axis, -1))


def _tensorflow(workload: Workload, verb: str, threads: int) -> Callable[[], object]:
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # a graph a workload is meant, and no reason to warn
    with suppress(RuntimeError):  # set at the first workload, and fixed from then on
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    _, loss = _loss(workload)
    y, x = (tf.constant(a) for a in workload.data())

    def forward(y: Any, x: Any) -> Any:
        return loss(y, x)

    def value_and_grad(y: Any, x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(y, x)
        return value, tape.gradient(value, x)

    graph = tf.function(forward if verb == FORWARD else value_and_grad)
    if verb == FORWARD:
        return lambda: graph(y, x).numpy()

    def run() -> object:
        value, gradient = graph(y, x)
        return value.numpy(), gradient

    return run


def _torch(workload: Workload, verb: str, threads: int) -> Callable[[], object]:
    import torch

    torch.set_num_threads(threads)
    _, loss = _loss(workload)
    y, x = workload.data()
    labels = torch.from_numpy(y)
    if workload.dtype == "bfloat16":
        scores = torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    else:
        scores = torch.from_numpy(x)

    def forward() -> object:
        with torch.no_grad():
            return loss(labels, scores)

    def value_and_grad() -> object:
        leaf = scores.detach().requires_grad_()
        value = loss(labels, leaf)
        value.backward()
        return value, leaf.grad

    return forward if verb == FORWARD else value_and_grad


def _jax(workload: Workload, verb: str, threads: int) -> Callable[[], object]:
    import jax

    jax.config.update("jax_enable_x64", workload.dtype == "float64")
    _, loss = _loss(workload)
    y, x = workload.data()
    labels, scores = jax.numpy.asarray(y.astype(np.int32)), jax.numpy.asarray(x)

    def of_scores(x: Any, y: Any) -> Any:
        return loss(y, x)

    compiled = jax.jit(of_scores if verb == FORWARD else jax.value_and_grad(of_scores))
    return lambda: jax.block_until_ready(compiled(scores, labels))


_MAKERS = {"tensorflow": _tensorflow, "torch": _torch, "jax": _jax}
