"""Libraries whose arrays y_pred may be, in one form for tests: made, called, differentiated, read.

An entry of LIBRARIES is a library and a way of calling: at once, or traced, with every array an
argument of what is traced. Another library is another class here; the promises of
test_libraries.py are then held for it too. Two are none: NumPy, which all are held against, and
dask, whose results are lazy and have no derivative of their own (test_dask.py).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import ml_dtypes
import numpy as np
from conftest import require_peer


class Library:
    """A library and a way of calling."""

    name = ""  # as in sys.modules
    traces = False  # whether arrays that a function is called with have no values in it
    batch: int | None = None  # the length of axes that is not known where it need not be
    on_memory = False  # whether NumPy's kernels run on its memory: results have NumPy's own bits
    warns_in_gradients = True  # whether scores have values where they are differentiated by
    #: The same numbers lying otherwise: functions of an array, which few libraries have.
    layouts: dict[str, Callable[[Any], Any]] = {"as it is": lambda x: x}  # noqa: RUF012

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

    def total(self, a: Any) -> Any:
        """The sum of all elements."""
        return a.sum()

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


class Torch(Library):
    name = "torch"
    on_memory = True

    def __init__(self) -> None:
        self.torch = torch = require_peer("torch")
        self.layouts = {
            "C order": lambda x: x.clone(),
            "Fortran order": lambda x: x.permute(*range(x.ndim)[::-1]).contiguous().permute(
                *range(x.ndim)[::-1]
            ),
            "first axis last": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
            "every other": lambda x: torch.stack([x, x], 1).flatten(0, 1)[::2],
            "negated": lambda x: torch.complex(torch.zeros_like(x), -x).conj().imag,
        }  # fmt: skip

    def to_library(self, a: Any) -> Any:
        a = np.asarray(a)
        if a.dtype == ml_dtypes.bfloat16:
            return self.torch.from_numpy(a.astype(np.float32)).bfloat16()
        return self.torch.from_numpy(a.copy())

    def to_numpy(self, a: Any) -> Any:
        assert type(a) is self.torch.Tensor
        assert not a.requires_grad
        if a.dtype == self.torch.bfloat16:
            return a.float().numpy().astype(ml_dtypes.bfloat16)
        return np.asarray(a.numpy())

    def differentiated(self, f: Callable[..., Any]) -> Callable[..., Any]:
        def derivative(x: Any, *others: Any) -> Any:
            leaf = x.detach().requires_grad_()
            return self.torch.autograd.grad(f(leaf, *others), leaf)[0]

        return derivative


class Jax(Library):
    name = "jax"
    warns_in_gradients = False

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

    def total(self, a: Any) -> Any:
        return self.tf.reduce_sum(a)


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
    "torch": Torch,
    "jax": Jax,
    "jax.jit": JaxJit,
    "tensorflow": TensorFlow,
    "tf.function": TfFunction,
    "tf.function by XLA": TfFunctionXla,
}
