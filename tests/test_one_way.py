"""Every call goes one way, and it is short: few Python calls, in few files of the package.

Python's own calls are counted, not seconds: a warm call's number is the same on every machine. What
the fake CUDA device does is not counted: on a machine with a GPU it is the driver's.
"""

import gc
import sys
from collections import Counter
from pathlib import Path

import fake_cuda
import inside
import numpy as np
import pytest

import sparse_xent as sx

PACKAGE = Path(sx.__file__).parent
TESTS, DEVICE = Path(__file__).parent, Path(fake_cuda.__file__)
CALLS, FILES = 40, 8


def counted(call):
    """Python-level calls of the second of two calls, by function, and files of the package."""
    call()
    taken: Counter[str] = Counter()
    files = set()
    outside = []  # frames of the fake device, under which nothing counts

    def profile(frame, event, _):
        file = Path(frame.f_code.co_filename)
        if event == "return" and outside and outside[-1] is frame:
            outside.pop()
        if event != "call" or outside:
            return
        if file == DEVICE:
            outside.append(frame)
        if file.is_relative_to(TESTS):
            return
        taken[f"{file.name}:{frame.f_code.co_qualname}"] += 1
        if file.is_relative_to(PACKAGE):
            files.add(str(file.relative_to(PACKAGE)))

    gc.disable()  # other libraries are called where garbage is collected
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
        gc.enable()
    return taken, files


def check(call, most_calls=CALLS, most_files=FILES):
    taken, files = counted(call)
    number = sum(taken.values())
    found = (
        f"{number} Python calls (at most {most_calls}), most of {taken.most_common(8)}, in "
        f"{len(files)} files of the package (at most {most_files}): {sorted(files)}"
    )
    assert 0 < number <= most_calls, found
    assert 0 < len(files) <= most_files, found


def image(dtype="float32"):
    """Labels and logits of four images, channels first."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 21, 32, 32)).astype(dtype)
    return rng.integers(0, 21, (4, 32, 32)), x


def gradient_of_an_image():
    y, x = image()
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, axis=1)
    return lambda: loss.value_and_grad(y, x, out=x)


def losses_of_an_image():
    y, x = image()
    return lambda: sx.loss_sparse_categorical_crossentropy(y, x, True, axis=1)


def gradient_of_two_rows():
    y, x = np.array([1, 2]), np.array([[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]])
    loss = sx.SparseCategoricalCrossentropy()
    return lambda: loss.value_and_grad(y, x)


def losses_of_two_rows():
    y, x = np.array([1, 2]), np.array([[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]])
    return lambda: sx.loss_sparse_categorical_crossentropy(y, x)


def value_of_two_rows():
    y, x = np.array([1, 2]), np.array([[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]])
    loss = sx.SparseCategoricalCrossentropy()
    return lambda: loss(y, x)


def gradient_under_weights():
    y, x = image("float64")
    w = np.random.default_rng(1).random(y.shape)
    loss = sx.SparseCategoricalCrossentropy(
        from_logits=True,
        axis=1,
        ignore_class=3,
        class_weight=np.linspace(0.5, 2, 21),
        label_smoothing=0.1,
        reduction="mean_with_sample_weight",
    )
    return lambda: loss.value_and_grad(y, x, w)


def value_under_weights_of_samples():
    y, x = image()
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, axis=1)
    w = np.array([0.5, 1.0, 0.0, 2.0], np.float32)
    return lambda: loss(y, x, w)


def ranks():
    y, x = image()
    return lambda: inside.ranks(y, x, 1, 3)


def gradient_of_one_hot_targets():
    x = np.random.default_rng(0).normal(size=(64, 10)).astype("float32")
    targets = np.eye(10, dtype=np.float32)[np.arange(64) % 10]
    loss = sx.CategoricalCrossentropy(from_logits=True)
    return lambda: loss.value_and_grad(targets, x)


@pytest.mark.parametrize(
    "prepared",
    [
        gradient_of_an_image,
        losses_of_an_image,
        gradient_under_weights,
        value_under_weights_of_samples,
        ranks,
    ],
    ids=lambda prepared: prepared.__name__.replace("_", " "),
)
def test_a_call_is_short(prepared):
    check(prepared())


@pytest.mark.parametrize(
    ("prepared", "most_calls"),
    [(losses_of_two_rows, 5), (value_of_two_rows, 9), (gradient_of_two_rows, 8)],
    ids=lambda given: given.__name__.replace("_", " ") if callable(given) else "",
)
def test_a_small_call_is_hardly_more_than_its_c_function(prepared, most_calls):
    check(prepared(), most_calls, most_files=5)


def test_of_one_hot_targets_most_calls_are_array_operations():
    """The NumPy engine serves them, and NumPy's own functions are half in Python."""
    check(gradient_of_one_hot_targets(), most_calls=220, most_files=10)


@pytest.fixture
def cupy(monkeypatch):
    fake_cuda.install(monkeypatch, fake_cuda.Gpu())
    fake_cuda.forget_adapters(monkeypatch)
    return fake_cuda.Cupy(monkeypatch)


@pytest.mark.parametrize("verb", ["value", "gradient in place"])
def test_a_call_on_a_cuda_device_is_short(verb, cupy):
    y, x = map(cupy.asarray, image())
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, axis=1)
    if verb == "value":
        check(lambda: loss(y, x), most_files=11)
    else:
        check(lambda: loss.value_and_grad(y, x, out=x), most_files=11)


def test_what_is_counted():
    """Functions of the package and of others, but nothing that the device does."""
    taken, files = counted(lambda: sx.config_threads())
    assert taken["config.py:config_threads"] == 1
    assert files == {"config.py"}
    taken, files = counted(lambda: np.broadcast_shapes((2, 1), (1, 3)))
    assert sum(taken.values()) > 0
    assert not files
    taken, files = counted(lambda: fake_cuda.poisoned(np.empty(3)).sum())
    assert not any(name.startswith("fake_cuda") for name in taken)
    assert not files
