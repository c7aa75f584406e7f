"""Speed beside JAX's and TensorFlow's own losses under their compilers, and accuracy near 0.

    python -m benchmarks.traced              # PEERS: jax, optax, tensorflow; those that are there
    python -m benchmarks.traced --rounds 51

Medians of interleaved rounds: the value (a mean) of float32 logits, and the value with its
gradient. `x own` is the own loss's time over ours: above 1 ours is the faster. `near 0` is what
each gives for the loss of logits (20, 0, 0) whose label is 0: it is 4.122e-09.
"""

import argparse
import importlib.util
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import sparse_xent as sx

SHAPES = ((4096, 1000), (50_000, 100), (512, 32_000))
LOSS = sx.SparseCategoricalCrossentropy(from_logits=True)


class Pair(NamedTuple):
    """The own loss and ours, in one way of calling."""

    name: str
    own: Callable[[], Any]
    ours: Callable[[], Any]
    near_0: tuple[float, float]


def data(shape: tuple[int, int]) -> tuple[Any, Any]:
    """Logits and labels."""
    rng = np.random.default_rng(0)
    x = 3 * rng.normal(size=shape).astype("float32")
    return x, rng.integers(0, shape[1], shape[0]).astype("int32")


NEAR_0 = np.array([[20, 0, 0]], "float32"), np.array([0], "int32")


def of_jax(shape: tuple[int, int]) -> Iterator[Pair]:
    """jax.jit, beside optax."""
    import jax
    import jax.numpy as jnp
    import optax

    def own(x: Any, y: Any) -> Any:
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(x, y))

    def ours(x: Any, y: Any) -> Any:
        return LOSS(y, x)

    x, y = map(jnp.asarray, data(shape))
    for verb, derive in (("value", lambda f: f), ("value and gradient", jax.value_and_grad)):
        calls = [jax.jit(derive(f)) for f in (own, ours)]
        runs = [lambda call=call: jax.block_until_ready(call(x, y)) for call in calls]
        yield Pair(
            f"optax, jax.jit: {verb}",
            *runs,
            (float(own(*NEAR_0)), float(ours(*map(jnp.asarray, NEAR_0)))),
        )


def of_tensorflow(shape: tuple[int, int]) -> Iterator[Pair]:
    """tf.function, by XLA and not, beside tf.nn."""
    import tensorflow as tf

    def own(x: Any, y: Any) -> Any:
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, x))

    def ours(x: Any, y: Any) -> Any:
        return LOSS(y, x)

    def with_gradient(f: Callable[..., Any]) -> Callable[..., Any]:
        def both(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = f(x, y)
            return value, tape.gradient(value, x)

        return both

    x, y = map(tf.constant, data(shape))
    near = tuple(float(f(*map(tf.constant, NEAR_0))) for f in (own, ours))
    for by_xla in (False, True):
        for verb, derive in (("value", lambda f: f), ("value and gradient", with_gradient)):
            calls = [tf.function(derive(f), jit_compile=by_xla) for f in (own, ours)]
            runs = [lambda call=call: tf.nest.map_structure(_wait, call(x, y)) for call in calls]
            how = "jit_compile" if by_xla else "tf.function"
            yield Pair(f"tf.nn, {how}: {verb}", *runs, near)


def _wait(tensor: Any) -> None:
    if tensor.shape.rank == 0:  # computed when the gradient is
        tensor.numpy()


def medians(pair: Pair, rounds: int) -> tuple[float, float]:
    """Seconds of either, interleaved."""
    calls = (pair.own, pair.ours)
    for call in calls * 2:
        call()
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for call, into in zip(calls, taken, strict=True):
            start = time.perf_counter()
            call()
            into.append(time.perf_counter() - start)
    return statistics.median(taken[0]), statistics.median(taken[1])


def main() -> None:
    """Print a line for each shape and way of calling."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=25, help="rounds of each (%(default)s)")
    rounds = parser.parse_args().rounds
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    print(f"{'logits':>12} {'':32} {'own':>9} {'ours':>9} {'x own':>6}   near 0: own, ours")
    for name, pairs in (("optax", of_jax), ("tensorflow", of_tensorflow)):
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed")
            continue
        for shape in SHAPES:
            for pair in pairs(shape):
                own, ours = medians(pair, rounds)
                size = f"{shape[0]} x {shape[1]}"
                times = f"{1e3 * own:6.2f} ms {1e3 * ours:6.2f} ms {own / ours:6.2f}"
                near = f"{pair.near_0[0]:.4g}, {pair.near_0[1]:.4g}"
                print(f"{size:>12} {pair.name:32} {times}   {near}", flush=True)


if __name__ == "__main__":
    main()
