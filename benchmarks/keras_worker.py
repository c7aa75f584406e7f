"""Keras on each of its backends, one process a backend, taking turns with the other candidates.

Keras picks its backend once a process, so each backend has a `Worker`.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks.worker import Worker, serve
from benchmarks.workloads import FORWARD, Workload

BACKENDS = {"tensorflow": "tensorflow", "torch": "torch", "jax": "jax"}  # backend -> its module


def worker(backend: str, threads: int) -> Worker:
    """A process in which Keras has one backend."""
    return Worker(f"keras ({backend})", _serve, backend, threads)


def _serve(pipe: Connection, backend: str, threads: int) -> None:
    os.environ["KERAS_BACKEND"] = backend

    def make(workload: Workload, verb: str, y: np.ndarray, x: np.ndarray) -> Callable[[], object]:
        return _MAKERS[backend](workload, verb, y, x, threads)

    serve(pipe, make)


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


def _tensorflow(
    workload: Workload, verb: str, y: np.ndarray, x: np.ndarray, threads: int
) -> Callable[[], object]:
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # a graph a workload is meant, and no reason to warn
    with suppress(RuntimeError):  # set at the first workload, and fixed from then on
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    _, loss = _loss(workload)
    labels, scores = tf.constant(y), tf.constant(x)

    def forward(y: Any, x: Any) -> Any:
        return loss(y, x)

    def value_and_grad(y: Any, x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(y, x)
        return value, tape.gradient(value, x)

    graph = tf.function(forward if verb == FORWARD else value_and_grad)
    if verb == FORWARD:
        return lambda: graph(labels, scores).numpy()

    def run() -> object:
        value, gradient = graph(labels, scores)
        return value.numpy(), gradient

    return run


def _torch(
    workload: Workload, verb: str, y: np.ndarray, x: np.ndarray, threads: int
) -> Callable[[], object]:
    import torch

    torch.set_num_threads(threads)
    _, loss = _loss(workload)
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


def _jax(
    workload: Workload, verb: str, y: np.ndarray, x: np.ndarray, threads: int
) -> Callable[[], object]:
    import jax

    jax.config.update("jax_enable_x64", workload.dtype == "float64")
    _, loss = _loss(workload)
    labels, scores = jax.numpy.asarray(y.astype(np.int32)), jax.numpy.asarray(x)

    def of_scores(x: Any, y: Any) -> Any:
        return loss(y, x)

    compiled = jax.jit(of_scores if verb == FORWARD else jax.value_and_grad(of_scores))
    return lambda: jax.block_until_ready(compiled(scores, labels))


_MAKERS = {"tensorflow": _tensorflow, "torch": _torch, "jax": _jax}
