"""Whole calls with the kernels themselves: what the host fills in, and what the compiler made.

The device is not there, but what it would run is: each launch goes through the simulator of
`ptx`, on the host's memory, with the addresses that the host filled in. So the two halves are held
together: arguments in order, steps, scratch, counts, error slots.
"""

import ctypes
import sys
from functools import cache

import fake_cuda
import numpy as np
import pytest
from conftest import NEEDS_CUDA_COMPILER
from fake_cuda import Cupy

import sparse_xent as sx
from sparse_xent import execute
from sparse_xent.kernels.cuda import registry
from sparse_xent.options import read as read_options

if sys.platform != "linux":
    pytest.skip("CUDA's compiler is installed on Linux only", allow_module_level=True)

import ptx

pytestmark = [pytest.mark.slow, NEEDS_CUDA_COMPILER]

SPARSE = sx.SparseCategoricalCrossentropy
f = sx.loss_sparse_categorical_crossentropy
CAPABILITY = (9, 0)


class Host:
    """The host's memory, as the simulator asks for it."""

    def at(self, addresses, size, what):
        low = int(addresses.min())
        span = int(addresses.max()) - low + size
        assert low > 1 << 16, f"no memory at {low:#x}: {what}"
        assert not (addresses % np.uint64(size)).any(), f"not aligned: {what}"
        room = np.ctypeslib.as_array((ctypes.c_uint8 * span).from_address(low))
        offsets = (addresses - np.uint64(low)).astype(np.int64)
        return [(np.ones(len(addresses), np.bool_), room, offsets)]


@cache
def program(kernel):

    return ptx.parse(registry.compiled(kernel, CAPABILITY, "ptx"))


@pytest.fixture
def cupy(monkeypatch):
    """CuPy's surface over the host's memory, and a device that runs the compiled kernels."""
    gpu = fake_cuda.install(monkeypatch, fake_cuda.Gpu(CAPABILITY))

    class Compiled(fake_cuda.Work):
        def run(self):
            config = gpu.launches[-1][2]
            ptx.launch(
                program(self.kernel),
                Host(),
                self.a,
                grid=self.grid,
                block=config.block,
                cluster=config.cluster or 1,
                shared=config.shmem_size,
            )

    monkeypatch.setattr(fake_cuda, "Work", Compiled)
    fake_cuda.forget_adapters(monkeypatch)
    library = Cupy(monkeypatch)
    library.gpu = gpu
    return library


CASES = {
    "few classes": ((9, 5), -1, "C", "float32"),
    "a row in lanes": ((3, 101), -1, "C", "float32"),
    "channels first": ((2, 6, 3, 5), 1, "C", "float32"),
    "Fortran order": ((20, 7), -1, "F", "float64"),
    "slabs": ((3, 2, 4, 5), -1, "gaps", "float32"),
    "halves": ((4, 40), -1, "C", "float16"),
}


def case(name):
    shape, axis, order, dtype = CASES[name]
    rng = np.random.default_rng(3)
    x = (rng.normal(size=shape) * 2).astype(dtype)
    if order == "gaps":
        wide = np.zeros([2 * n for n in shape], dtype)
        view = wide[tuple(slice(0, 2 * n, 2) for n in shape)]
        view[...] = x
        x = view
    x = x if order == "gaps" else np.asarray(x, order=order)
    losses = list(shape)
    classes = losses.pop(axis)
    y = rng.integers(0, classes, losses).astype("int32")
    y.flat[1] = 200
    return y, x, rng.random(losses), axis


@pytest.mark.parametrize("name", CASES)
def test_losses_values_and_gradients(cupy, name):
    y, x, w, axis = case(name)
    on = cupy.asarray
    tolerance = {"float16": 2e-3, "float32": 1e-5, "float64": 1e-12}[x.dtype.name]
    options = {"from_logits": True, "axis": axis, "ignore_class": 200}
    losses = f(on(y), on(x), **options).get()
    np.testing.assert_allclose(losses, f(y, x, **options), tolerance)
    loss = SPARSE(**options, class_weight=1 + np.arange(x.shape[axis]) / 7, label_smoothing=0.1)
    value, gradient = loss.value_and_grad(on(y), on(x), on(w))
    expected, slope = loss.value_and_grad(y, x, w)
    np.testing.assert_allclose(value.get(), expected, max(tolerance, 1e-6))
    np.testing.assert_allclose(
        gradient.get().astype(float), slope.astype(float), 10 * tolerance, tolerance
    )
    assert (np.moveaxis(gradient.get(), axis, -1)[y == 200] == 0).all()
    assert sx.cuda_check() is None


def test_a_mean_by_weights_and_probabilities(cupy):
    y, x, w, axis = case("channels first")
    p = np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True)
    for normalize in ("after", "before", "never"):
        loss = SPARSE(
            axis=axis,
            ignore_class=200,
            normalize=normalize,
            reduction="mean_with_sample_weight",
        )
        value, gradient = loss.value_and_grad(*map(cupy.asarray, (y, p, w)))
        expected, slope = loss.value_and_grad(y, p, w)
        np.testing.assert_allclose(value.get(), expected, 1e-5)
        np.testing.assert_allclose(gradient.get(), slope, 1e-4, 1e-6)


@pytest.mark.parametrize(
    ("bad", "dtype", "said"),
    [
        (77, "int64", "got 77 at (2, 1, 3);"),
        (-3, "int16", "got -3 at (2, 1, 3);"),
        (-(2**31), "int32", "got -2147483648 (NA in R) at (2, 1, 3);"),
        (2**40, "uint64", "got a label above 8388599 at (2, 1, 3);"),
        (1.5, "float32", "got a label that is not whole at (2, 1, 3);"),
        (np.nan, "float64", "got nan (NA in R) at (2, 1, 3);"),
    ],
)
def test_a_bad_label_is_reported_as_the_host_reads_it(cupy, bad, dtype, said):
    y, x, _, _ = case("slabs")
    y = np.where(y == 200, 0, y).astype(dtype)
    y[2, 1, 3] = bad
    losses = f(cupy.asarray(y), cupy.asarray(x), True).get()
    assert np.argwhere(np.isnan(losses)).tolist() == [[2, 1, 3]]
    with pytest.raises(ValueError) as error:
        sx.cuda_check()
    assert said in str(error.value)
    assert sx.cuda_check() is None


def test_ranks(cupy):
    y, x, _, axis = case("a row in lanes")
    options = read_options(axis=axis, ignore_class=200)
    found = execute.ranks(cupy.asarray(y), cupy.asarray(x), options).get()
    np.testing.assert_array_equal(found, execute.ranks(y, x, options))


def test_the_derivative_divides_by_what_the_device_counted(cupy, monkeypatch):
    from conftest import require_peer

    torch = require_peer("torch")
    fake_cuda.torch_on_the_host(monkeypatch, torch, cupy.gpu)
    y, x, w, axis = case("few classes")
    loss = SPARSE(from_logits=True, axis=axis, ignore_class=200)
    at = torch.tensor(x, requires_grad=True)
    (2 * loss(torch.tensor(y), at, torch.tensor(w))).backward()
    np.testing.assert_allclose(at.grad.numpy(), 2 * loss.value_and_grad(y, x, w)[1], 1e-5, 1e-7)
