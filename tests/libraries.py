"""Libraries whose arrays y_pred may be, in one form for tests: made, called, differentiated, read.

An entry of LIBRARIES is a library and a way of calling: at once, or traced, with every array an
argument of what is traced. Another library is another class here; the promises of
test_libraries.py are then held for it too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
from conftest import require_peer


class Library:
    """A library and a way of calling."""

    name = ""  # as in sys.modules
    traces = False  # whether arrays that a function is called with have no values in it
    batch: int | None = None  # the length of axes that is not known where it need not be

    def to_library(self, a: Any) -> Any:
        """The library's array of NumPy's, of the same dtype."""
        raise NotImplementedError

    def to_numpy(self, a: Any) -> Any:
        """NumPy's array of the library's; anything else is no result."""
        raise NotImplementedError

    def traced(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """The function, as the way of calling has it."""
        return f

    def differentiated(self, f: Callable[..., Any]) -> Callable[..., Any]:
        """The derivative of a function that gives a number by its first argument."""
        raise NotImplementedError

    def call(self, f: Callable[..., Any], *arrays: Any) -> Any:
        """f of NumPy's arrays, as NumPy's array."""
        return self.to_numpy(self.traced(f)(*map(self.to_library, arrays)))

    def gradient(self, f: Callable[..., Any], x: Any, *others: Any) -> Any:
        """The derivative of the number f(x, *others) by x."""
        derivative = self.traced(self.differentiated(f))
        return self.to_numpy(derivative(*map(self.to_library, (x, *others))))

    def wide(self) -> Any:
        """A context in which there is float64."""
        return nullcontext()


class Jax(Library):
    name = "jax"

    def __init__(self) -> None:
        self.jax = require_peer("jax")

    def to_library(self, a: Any) -> Any:
        made = self.jax.numpy.asarray(a)
        assert made.dtype == np.asarray(a).dtype, "JAX has no such dtype as it is set up"
        return made

    def to_numpy(self, a: Any) -> Any:
        assert isinstance(a, self.jax.Array)
        return np.asarray(a)

    def differentiated(self, f: Callable[..., Any]) -> Callable[..., Any]:
        derivative: Callable[..., Any] = self.jax.grad(f)
        return derivative

    @contextmanager
    def wide(self) -> Iterator[None]:
        with self.jax.enable_x64(True):
            yield


class JaxJit(Jax):
    traces = True

    def traced(self, f: Callable[..., Any]) -> Callable[..., Any]:
        made: Callable[..., Any] = self.jax.jit(f)
        return made


class TensorFlow(Library):
    name = "tensorflow"

    def __init__(self) -> None:
        self.tf = require_peer("tensorflow")

    def to_library(self, a: Any) -> Any:
        return self.tf.constant(a)

    def to_numpy(self, a: Any) -> Any:
        assert isinstance(a, self.tf.Tensor)
        return np.asarray(a.numpy())

    def differentiated(self, f: Callable[..., Any]) -> Callable[..., Any]:
        def derivative(x: Any, *others: Any) -> Any:
            with self.tf.GradientTape() as tape:
                tape.watch(x)
                value = f(x, *others)
            return tape.gradient(value, x)

        return derivative


class TfFunction(TensorFlow):
    traces = True
    by_xla = False

    def traced(self, f: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arrays: Any) -> Any:
            signature = [self._spec(a) for a in arrays]
            made = self.tf.function(f, input_signature=signature, jit_compile=self.by_xla)
            return made(*arrays)

        return called

    def _spec(self, a: Any) -> Any:
        lengths = [None if n == self.batch else n for n in a.shape]
        return self.tf.TensorSpec(lengths, a.dtype)


class TfFunctionXla(TfFunction):
    by_xla = True


LIBRARIES: dict[str, type[Library]] = {
    "jax": Jax,
    "jax.jit": JaxJit,
    "tensorflow": TensorFlow,
    "tf.function": TfFunction,
    "tf.function by XLA": TfFunctionXla,
}
