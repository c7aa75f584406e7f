"""What happens on the host when arrays lie on a CUDA device, with a device that is not there.

The fake launches compute on the host's memory with the NumPy engine, so whole calls are held
against NumPy's. What only hardware can show is not here: see `python -m benchmarks.gpu`.
"""

import subprocess
import sys
import threading

import fake_cuda
import ml_dtypes
import numpy as np
import pytest
from conftest import require_peer
from fake_cuda import Cupy, CupyArray, Gpu, Packed, Spoken

import sparse_xent as sx
from sparse_xent import dtypes, execute
from sparse_xent import plan as plans
from sparse_xent.arrays import adapters
from sparse_xent.arrays.dlpack import DeviceArray
from sparse_xent.engines import cuda_driver
from sparse_xent.kernels.cuda import params
from sparse_xent.options import read as read_options

# NumPy's results beside those of the device, which does not look for what cannot be probabilities.
pytestmark = pytest.mark.filterwarnings("ignore:y_pred must hold:UserWarning")


f = sx.loss_sparse_categorical_crossentropy
SPARSE = sx.SparseCategoricalCrossentropy
DTYPES = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-5, "float64": 1e-12}
KINDS = {
    "logits": {"from_logits": True},
    "after": {"normalize": "after"},
    "before": {"normalize": "before"},
    "never": {"normalize": "never"},
}
#: shape, class axis, order; the last two have axes that do not fuse: several launches.
LAYOUTS = {
    "rows": ((6, 40), -1, "C"),
    "Fortran order": ((6, 40), -1, "F"),
    "channels first": ((3, 5, 4, 2), 1, "C"),
    "classes alone": ((7,), 0, "C"),
    "one class": ((4, 1), -1, "C"),
    "gaps": ((3, 4, 5), 1, "gaps"),
    "gaps behind": ((2, 3, 4, 5), -1, "gaps"),
    "backwards": ((6, 40), -1, "backwards"),
}


@pytest.fixture
def gpu(monkeypatch):
    return fake_cuda.install(monkeypatch, Gpu())


@pytest.fixture
def cupy(gpu, monkeypatch):
    fake_cuda.forget_adapters(monkeypatch)
    return Cupy(monkeypatch)


@pytest.fixture
def torch(gpu, monkeypatch):
    torch = require_peer("torch")
    torch.on_the_host = fake_cuda.torch_on_the_host(monkeypatch, torch, gpu)
    return torch


def laid(x, order):
    if order == "gaps":
        made = np.zeros([2 * n + 1 for n in x.shape], x.dtype)
        view = made[tuple(slice(1, 2 * n, 2) for n in x.shape)]
        view[...] = x
        return view
    if order == "backwards":
        return np.ascontiguousarray(x[::-1, ::-1])[::-1, ::-1]
    return np.asarray(x, order=order)


def case(layout="rows", dtype="float32", kind="logits", seed=5):
    """Labels, scores and weights, on the host."""
    shape, axis, order = LAYOUTS[layout]
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape) * 2
    if kind != "logits":
        x = np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True)
    x = laid(x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype), order)
    losses = list(shape)
    classes = losses.pop(axis)
    return rng.integers(0, classes, losses), x, rng.random(losses), axis


def close(found, expected, tolerance):
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    scale = np.abs(expected).max(initial=0)
    np.testing.assert_allclose(found, expected, tolerance, tolerance * scale * 1e-2)


# --- whole calls against NumPy's -----------------------------------------------------------------


@pytest.mark.slow_when(lambda layout, kind, dtype: "16" in dtype and kind != "logits")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_verb_is_numpys(cupy, layout, kind, dtype):
    y, x, w, axis = case(layout, dtype, kind)
    options = {"axis": axis, **KINDS[kind]}
    on = cupy.asarray
    tolerance = DTYPES[dtype]
    losses = f(on(y), on(x), **options)
    assert type(losses) is CupyArray
    assert losses.dtype == x.dtype
    close(losses.get(), f(y, x, **options), tolerance)
    loss = SPARSE(**options, label_smoothing=0.1)
    for weights in (None, w):
        sent = None if weights is None else on(weights)
        value, gradient = loss.value_and_grad(on(y), on(x), sent)
        expected, slope = loss.value_and_grad(y, x, weights)
        close(value.get(), expected, 1e-5 if dtype in ("float32", "float64") else tolerance)
        close(gradient.get(), slope, 5 * tolerance)
        assert gradient.dtype == x.dtype
        assert loss(on(y), on(x), sent).get() == value.get()


REDUCTIONS = ["sum_over_batch_size", "sum", "mean_with_sample_weight", None]


@pytest.mark.parametrize("ignored", [None, 0, [0, 3, 2**70], 255])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weights", [None, 2.5, "all", "first axis", "last axis"])
@pytest.mark.parametrize("by_class", [None, "vector"])
def test_every_reduction_is_numpys(cupy, reduction, weights, ignored, by_class):
    y, x, w, _ = case("gaps behind")
    y.flat[0] = 0
    if ignored == 255:
        y[...] = 255
    w = {"all": w, "first axis": w[:, 0, 0], "last axis": w[:1, :1, :]}.get(weights, weights)
    sent = cupy.asarray(w) if isinstance(w, np.ndarray) else w
    by_class = None if by_class is None else np.arange(1, 6) / 3
    loss = SPARSE(
        from_logits=True, reduction=reduction, ignore_class=ignored, class_weight=by_class
    )
    value, gradient = loss.value_and_grad(cupy.asarray(y), cupy.asarray(x), sent)
    expected, slope = loss.value_and_grad(y, x, w)
    close(value.get(), expected, 1e-5)
    close(gradient.get(), slope, 1e-5)
    close(loss(cupy.asarray(y), cupy.asarray(x), sent).get(), expected, 1e-5)
    assert type(value) is CupyArray


def test_a_weight_of_nothing_is_nothing(cupy):
    y, x, w, _ = case()
    x[0, 1] = np.nan
    w[0] = 0.0
    loss = SPARSE(from_logits=True, reduction="sum")
    value, gradient = loss.value_and_grad(*map(cupy.asarray, (y, x, w)))
    expected, slope = loss.value_and_grad(y, x, w)
    close(value.get(), expected, 1e-5)
    assert (gradient.get()[0] == 0).all()
    np.testing.assert_allclose(gradient.get(), slope, 1e-5, 1e-7)


@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 5)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ignored", [None, 1])
def test_no_labels_cost_nothing(cupy, gpu, shape, reduction, ignored):
    x, y = np.empty(shape, np.float32), np.empty(shape[:-1], np.int64)
    loss = SPARSE(reduction=reduction, ignore_class=ignored)
    value, gradient = loss.value_and_grad(cupy.asarray(y), cupy.asarray(x))
    expected, slope = loss.value_and_grad(y, x)
    np.testing.assert_array_equal(value.get(), expected)
    assert gradient.shape == slope.shape
    assert gpu.launches == []


@pytest.mark.parametrize(
    "dtype",
    ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
     "float16", "bfloat16", "float32", "float64"],
)  # fmt: skip
def test_labels_are_read_as_they_lie(cupy, gpu, dtype):
    y, x, _, _ = case()
    y = (y % 2).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    losses = f(cupy.asarray(y), cupy.asarray(x), True)
    np.testing.assert_allclose(losses.get(), f(y, x, True), 1e-5)
    ((_, _, _, sent, _),) = gpu.launches
    assert sent.y == y.ctypes.data
    assert sent.y_code == params.CODES[dtype]


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool"])
def test_scores_that_are_no_floats_count_as_float32(cupy, dtype):
    y, x, _, _ = case()
    x = np.abs(x * 3).astype(dtype)
    loss = SPARSE(from_logits=True)
    losses = f(cupy.asarray(y), cupy.asarray(x), True)
    assert losses.dtype == np.float32
    np.testing.assert_allclose(losses.get(), f(y, x, True), 1e-5)
    value, gradient = loss.value_and_grad(cupy.asarray(y), cupy.asarray(x))
    expected, slope = loss.value_and_grad(y, x)
    assert gradient.dtype == slope.dtype == np.float32
    np.testing.assert_allclose(gradient.get(), slope, 1e-4, 1e-6)
    np.testing.assert_allclose(value.get(), expected, 1e-5)
    out = cupy.asarray(np.empty(x.shape, np.float32))
    assert loss.value_and_grad(cupy.asarray(y), cupy.asarray(x), out=out)[1] is out
    np.testing.assert_allclose(out.get(), slope, 1e-4, 1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_wider_dtype_is_worked_in(cupy, dtype):
    y, x, w, _ = case(dtype=dtype)
    losses = f(cupy.asarray(y), cupy.asarray(x), True, dtype="float64")
    assert losses.dtype == np.float64
    np.testing.assert_allclose(losses.get(), f(y, x.astype("float64"), True), 1e-12)
    loss = SPARSE(from_logits=True, dtype="float64")
    value, gradient = loss.value_and_grad(*map(cupy.asarray, (y, x, w)))
    assert gradient.dtype == x.dtype
    expected, slope = loss.value_and_grad(y, x, w)
    np.testing.assert_allclose(value.get(), expected, 1e-12)
    np.testing.assert_allclose(gradient.get(), slope, 1e-3, 1e-6)


def test_ranks_are_numpys(cupy):
    y, x, _, axis = case("gaps")
    y.flat[2] = 255
    options = read_options(axis=axis, ignore_class=255)
    made = execute.ranks(cupy.asarray(y), cupy.asarray(x), options)
    assert made.dtype == np.int64
    expected = execute.ranks(y, x, options)
    np.testing.assert_array_equal(made.get()[y != 255], expected[y != 255])


# --- where the gradient goes ---------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_place_and_into_another(cupy, layout):
    y, x, _, axis = case(layout)
    loss = SPARSE(from_logits=True, axis=axis)
    expected, slope = loss.value_and_grad(y, x.copy(order="K"))
    apart = cupy.asarray(np.full(x.shape, np.nan, x.dtype))
    value, out = loss.value_and_grad(cupy.asarray(y), cupy.asarray(x), out=apart)
    assert out is apart
    close(apart.get(), slope, 1e-5)
    scores = cupy.asarray(x)
    value, out = loss.value_and_grad(cupy.asarray(y), scores, out=scores)
    assert out is scores
    close(x, slope, 1e-5)
    close(value.get(), expected, 1e-5)


def outs(x):
    """What no gradient of x may go to, and what is said of it."""
    line = np.zeros(x.size + 8, x.dtype)
    read_only = np.empty_like(x)
    read_only.flags.writeable = False
    return {
        "shape": (np.empty((2, 2), x.dtype), "out must have y_pred's shape"),
        "dtype": (x.astype("float64"), "out must be of dtype float32"),
        "repeats": (
            np.lib.stride_tricks.as_strided(line, x.shape, (0, 4)), "must hold every element once"
        ),
        "shares a part": (x[::-1], "out must be y_pred itself or not overlap it"),
    }  # fmt: skip


@pytest.mark.parametrize("wrong", ["shape", "dtype", "repeats", "shares a part"])
def test_out_is_checked_as_numpys_is(cupy, gpu, wrong):
    y, x, _, _ = case()
    out, said = outs(x)[wrong]
    for _ in range(2):  # a kind that is known is looked at again
        with pytest.raises(ValueError, match=said) as here:
            SPARSE().value_and_grad(cupy.asarray(y), cupy.asarray(x), out=cupy.asarray(out))
        with pytest.raises(ValueError, match=said) as there:
            SPARSE().value_and_grad(y, x, out=out)
        assert str(here.value) == str(there.value)
    assert gpu.launches == []


def test_out_may_overlap_at_one_call_and_not_at_another(cupy, gpu):
    """Of one kind, by their addresses alone: the check is no part of what is remembered."""
    line = np.zeros(40 * 20, np.float32)
    y = np.zeros(10, np.int64)

    def part(row):
        return cupy.asarray(line[row * 40 :][:400].reshape(10, 40))

    loss = SPARSE()
    loss.value_and_grad(cupy.asarray(y), part(0), out=part(10))
    assert len(plans._plans) == 1
    with pytest.raises(ValueError, match="out must be y_pred itself or not overlap it"):
        loss.value_and_grad(cupy.asarray(y), part(0), out=part(2))
    loss.value_and_grad(cupy.asarray(y), part(0), out=part(0))
    assert len(plans._plans) == 1
    with pytest.raises(ValueError, match="out must not overlap y_true"):
        loss.value_and_grad(CupyArray(line[400:410].view(np.int32)), part(0), out=part(10))


def test_out_of_another_library_is_refused(cupy):
    y, x, _, _ = case()
    for out in (x.copy(), Spoken(x.copy())):
        with pytest.raises(TypeError, match="out must be an array of y_pred's library on its dev"):
            SPARSE().value_and_grad(cupy.asarray(y), cupy.asarray(x), out=out)


def test_a_read_only_out_is_refused(gpu):
    y, x, _, _ = case()
    out = np.empty_like(x)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out must be writable"):
        SPARSE().value_and_grad(Spoken(y), Spoken(x), out=Spoken(out))


# --- what is launched, and what is not done ------------------------------------------------------


def test_a_call_waits_for_nothing_and_copies_nothing(cupy, gpu):
    y, x, w, _ = case()
    y, x, w = map(cupy.asarray, (y, x, w))
    loss = SPARSE(from_logits=True, ignore_class=3, class_weight=np.ones(40))
    out = cupy.empty_like(x)

    def calls():
        f(y, x, True)
        loss(y, x, w)
        loss(y, x, 2.5)
        loss.value_and_grad(y, x, w, out=out)

    calls()  # loads code, sends constants, takes a scratch for the stream
    gpu.reset()
    calls()
    assert len(gpu.launches) == 5  # the last counts first
    assert (gpu.waits, gpu.copies, gpu.allocations, gpu.cleared) == ([], [], [], [])


def test_the_library_allocates_the_results_and_nothing_else(cupy, monkeypatch):
    made = []
    monkeypatch.setattr(
        Cupy, "empty", lambda self, shape, dtype: (made.append(shape), CupyArray(
            np.empty(shape, dtype)))[1]
    )  # fmt: skip
    y, x, w, _ = case()
    f(cupy.asarray(y), cupy.asarray(x), True)
    SPARSE(ignore_class=2)(*map(cupy.asarray, (y, x, w)))
    assert made == [(6,), ()]


def test_kernels_are_loaded_once(cupy, gpu):
    y, x, _, _ = case()
    for _ in range(3):
        f(cupy.asarray(y), cupy.asarray(x), True)
        f(cupy.asarray(y[:5]), cupy.asarray(x[:5]), True)
    assert len(gpu.launches) == 6
    assert gpu.loaded == [gpu.launches[0][1]]


def test_a_kind_is_planned_once(cupy, monkeypatch):
    made = []
    make = plans._made_on_device
    monkeypatch.setattr(plans, "_made_on_device", lambda *args: (made.append(1), make(*args))[1])
    y, x, _, _ = case()
    loss, twin = SPARSE(from_logits=True), SPARSE(from_logits=True)
    for _ in range(3):
        loss(cupy.asarray(y.copy()), cupy.asarray(x.copy()))
        twin(cupy.asarray(y), cupy.asarray(x))
        f(cupy.asarray(y), cupy.asarray(x), ignore_class=[1, 2])  # read anew at each call
    assert len(made) == 2


def test_settings_and_alignment_are_of_the_kind(cupy, gpu):
    y, x, _, _ = case(kind="after")
    line = np.zeros(x.size + 4, np.float32)
    f(cupy.asarray(y), cupy.asarray(x))
    shifted = line[1 : 1 + x.size].reshape(x.shape)
    shifted[...] = x
    odd = line[2 : 2 + x.size].reshape(x.shape) if line.ctypes.data % 16 == 12 else shifted
    f(cupy.asarray(y), cupy.asarray(odd))
    before = sx.config_epsilon()
    try:
        sx.config_set_epsilon(1e-3)
        f(cupy.asarray(y), cupy.asarray(x))
    finally:
        sx.config_set_epsilon(before)
    assert len(plans._plans) == 3
    assert [launch[3].lo for launch in gpu.launches] == [
        float(np.float32(eps)) for eps in (1e-7, 1e-7, 1e-3)
    ]


def test_plans_are_not_kept_without_end(cupy, monkeypatch):
    y, x, _, _ = case()
    monkeypatch.setattr(plans, "_plans", dict.fromkeys(range(1001)))
    f(cupy.asarray(y), cupy.asarray(x), True)
    assert len(plans._plans) == 1


def test_labels_and_scores_of_a_graph_are_those_of_its_capture(cupy, gpu):
    """Addresses go into the launch as they are: a replay reads what lies there then."""
    y, x, _, _ = case()
    losses = f(cupy.asarray(y), cupy.asarray(x), True)
    ((_, kernel, _, sent, _),) = gpu.launches
    x *= 2
    fake_cuda.Work(kernel, sent, 1).run()
    np.testing.assert_allclose(losses.get(), f(y, x, True), 1e-5)


def test_geometry_is_the_plans(cupy, gpu):
    from sparse_xent.kernels import ScoreKind
    from sparse_xent.kernels.cuda.geometry import Place, Verb, choose

    x = np.zeros((5, 60_000), np.float32)
    y = np.zeros(5, np.int32)
    loss = SPARSE(from_logits=True)
    loss.value_and_grad(cupy.asarray(y), cupy.asarray(x))
    ((stream, kernel, config, sent, device),) = gpu.launches
    place = Place(x.ctypes.data, 240_000, 4, 0)
    dx = Place(sent.dx, 240_000, 4, 0)
    plan = choose(
        "float32", ScoreKind.LOGITS, False, Verb.NLL_AND_GRAD, (5, 60_000, 1), place, dx, (9, 0)
    )
    assert kernel == plan.kernel
    assert (config.grid * (config.cluster or 1), config.block) == (plan.grid, plan.block)
    assert (config.cluster or 1, config.shmem_size) == (plan.cluster, plan.shared)
    assert plan.cluster > 1  # the case that cuda.core counts otherwise
    assert (stream, device) == (0, 0)
    assert (sent.classes, sent.inner, sent.count, sent.first) == (60_000, 1, 5, 0)
    assert (sent.x, sent.xo, sent.xc) == (x.ctypes.data, 240_000, 4)
    assert (sent.y, sent.yo) == (y.ctypes.data, 4)
    assert (sent.block, sent.blocks, sent.by, sent.divisor) == (0, plan.grid, 0, 5.0)


def test_axes_that_do_not_fuse_are_slabs_of_one_call(cupy, gpu):
    y, x, _, axis = case("gaps behind")
    SPARSE(axis=axis, from_logits=True)(cupy.asarray(y), cupy.asarray(x))
    sent = [launch[3] for launch in gpu.launches]
    assert len(sent) == 2  # of three axes, the two longest go in one launch
    assert [t.first for t in sent] == [0, 12]
    grid = sent[1].block
    assert [t.block for t in sent] == [0, grid]
    assert {t.blocks for t in sent} == {2 * grid}
    assert len({t.scratch for t in sent}) == 1


def test_a_second_outer_axis_is_no_slab(cupy, gpu):
    """Weights of samples repeat along time: [B, T, C] stays one launch."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 4, 9)).astype("float32")
    y, w = rng.integers(0, 9, (30, 4)), rng.random(30)
    value = SPARSE(from_logits=True)(*map(cupy.asarray, (y, x, w)))
    np.testing.assert_allclose(value.get(), SPARSE(from_logits=True)(y, x, w), 1e-6)
    ((_, _, _, sent, _),) = gpu.launches
    assert (sent.count, sent.inner) == (120, 4)
    assert (sent.wo, sent.wi) == (8, 0)


# --- streams and devices -------------------------------------------------------------------------


def test_work_goes_on_the_callers_stream(cupy, gpu):
    y, x, _, _ = case()
    for stream in (0, 77, 78):
        cupy.stream = stream
        f(cupy.asarray(y), cupy.asarray(x), True)
    assert [launch[0] for launch in gpu.launches] == [0, 77, 78]
    assert gpu.orders == []


def test_each_stream_has_a_scratch_of_its_own(torch, gpu):
    y, x, w, _ = case()
    loss = SPARSE(from_logits=True)
    for handle in (0, 5, 0, 5, 6):
        torch.on_the_host.handle = handle
        loss(torch.tensor(y), torch.tensor(x), torch.tensor(w))
    torch.on_the_host.handle = 0
    scratches = [launch[3].scratch for launch in gpu.launches]
    assert scratches[0] == scratches[2]
    assert scratches[1] == scratches[3]
    assert len(set(scratches)) == 3
    assert len(gpu.allocations) == 3


def test_a_stream_that_may_go_has_no_memory_kept_for_it(cupy, gpu):
    y, x, _, _ = case()
    cupy.stream = 77
    for _ in range(2):
        SPARSE()(cupy.asarray(y), cupy.asarray(x))
    assert gpu.allocations == []
    assert [(nbytes, stream) for _, nbytes, stream in gpu.cleared] == [(8, 77)] * 2


def test_a_scratch_grows_and_begins_with_zeros(gpu):
    device = cuda_driver.device(0)
    first = device.scratch(5, 100)
    assert device.scratch(5, 1000) == first
    larger = device.scratch(5, 1 << 20)
    assert larger != first
    assert device.scratch(5, 1 << 19) == larger
    assert gpu.allocations == [1 << 18, 1 << 20]
    assert gpu.cleared == [(first, 8, 5), (larger, 8, 5)]


def test_arrays_of_others_are_waited_for_on_the_device(cupy, gpu):
    y, x, w, _ = case()
    cupy.stream = 77
    losses = SPARSE(reduction=None)(Spoken(y, stream=5), cupy.asarray(x), Spoken(w, stream=6))
    assert gpu.orders == [(77, 5), (77, 6)]
    assert gpu.waits == []
    np.testing.assert_allclose(losses.get(), SPARSE(reduction=None)(y, x, w), 1e-5)


def test_another_device_is_made_current_for_a_launch_and_then_left(monkeypatch, cupy):
    gpu = fake_cuda.install(monkeypatch, Gpu(devices=2))
    y, x, _, _ = case()
    there = [cupy.asarray(a) for a in (y, x)]
    for array in there:
        array.data.device_id = 1
    gpu.current = 0
    f(*there, True)
    assert [launch[4] for launch in gpu.launches] == [1]
    assert gpu.current == 0


def test_threads_get_the_device_made_current(cupy, gpu):
    y, x, _, _ = case()
    f(cupy.asarray(y), cupy.asarray(x), True)
    current = []
    monitor = type(cuda_driver.device(0)._here)
    before = monitor.set_current

    def set_current(device):
        current.append(threading.current_thread())
        before(device)

    monitor.set_current = set_current
    threads = [
        threading.Thread(target=f, args=(cupy.asarray(y), cupy.asarray(x), True)) for _ in "ab"
    ]
    for thread in threads:
        thread.start()
        thread.join()
    assert set(current) == set(threads)


def test_labels_on_another_device_are_refused(cupy, gpu):
    y, x, _, _ = case()
    away = cupy.asarray(y)
    away.data.device_id = 1
    with pytest.raises(TypeError, match="y_true must lie on cuda:0, as y_pred does, got an array"):
        f(away, cupy.asarray(x))
    w = cupy.asarray(np.ones(6))
    w.data.device_id = 1
    with pytest.raises(TypeError, match="sample_weight must lie on cuda:0"):
        SPARSE()(cupy.asarray(y), cupy.asarray(x), w)


# --- graphs --------------------------------------------------------------------------------------


def test_a_capture_takes_memory_of_its_own(torch, gpu):
    y, x, w, _ = case()
    y, x, w = map(torch.tensor, (y, x, w))
    loss = SPARSE(from_logits=True, ignore_class=1)
    loss.value_and_grad(y, x, w)
    kept = gpu.launches[0][3].scratch
    gpu.reset()
    torch.on_the_host.captures = True
    try:
        loss.value_and_grad(y, x, w)
    finally:
        torch.on_the_host.captures = False
    assert kept not in {launch[3].scratch for launch in gpu.launches}
    assert len(gpu.cleared) == 1  # its counter, in the graph
    assert (gpu.waits, gpu.copies, gpu.allocations) == ([], [], [])


def test_a_new_kind_in_a_capture_is_refused(torch, gpu):
    y, x, _, _ = case()
    torch.on_the_host.captures = True
    try:
        with pytest.raises(RuntimeError, match="make it once before the capture"):
            f(torch.tensor(y), torch.tensor(x), True)
    finally:
        torch.on_the_host.captures = False
    assert gpu.loaded == []


# --- bad labels ----------------------------------------------------------------------------------


def raised(*args):
    with pytest.raises(ValueError, match="^y_true must hold whole numbers") as error:
        sx.cuda_check(*args)
    return str(error.value)


@pytest.mark.parametrize(
    ("bad", "dtype", "words"),
    [
        (40, "int64", "got 40 at (3,); labels look 1-based: use y - 1 (in R: y - 1L)"),
        (41, "int32", "got 41 at (3,); y_pred has 40 classes along axis 1"),
        (-1, "int8", "got -1 at (3,); if -1 marks what should not count, pass ignore_class=-1"),
        (255, "uint8", "got 255 at (3,); if 255 is a void class, pass ignore_class=255"),
        (1.7, "float32", "got a label that is not whole at (3,); labels are classes, not scores"),
        (np.nan, "float32", "got nan (NA in R) at (3,); drop missing labels"),
        (np.inf, "float64", "got inf at (3,); labels are classes, not scores"),
        (-np.inf, "float64", "got -inf at (3,); labels are classes, not scores"),
        (-(2**31), "int32", "got -2147483648 (NA in R) at (3,); drop missing labels"),
        (2**40, "int64", "got a label above 8388599 at (3,); y_pred has 40 classes along axis 1"),
        (-(2**40), "int64", "got a label below -8388600 at (3,); y_pred has 40 classes"),
    ],
)
def test_a_bad_label_is_nan_and_reported(cupy, gpu, bad, dtype, words):
    y, x, _, _ = case()
    y = (y % 39).astype(dtype)
    y[3] = bad
    losses = f(cupy.asarray(y), cupy.asarray(x), True).get()
    np.testing.assert_array_equal(np.isnan(losses), [False, False, False, True, False, False])
    assert gpu.waits == []
    said = raised()
    assert said.startswith("y_true must hold whole numbers from 0 to 39 (40 classes): ")
    assert words in said
    assert "\n" not in said
    assert sx.cuda_check() is None  # once


def test_the_next_call_on_the_device_reports_it(cupy, gpu):
    y, x, _, _ = case()
    y[2] = 99
    f(cupy.asarray(y), cupy.asarray(x), True)
    y[2] = 0
    with pytest.raises(ValueError, match=r"got 99 at \(2,\)"):
        SPARSE()(cupy.asarray(y), cupy.asarray(x))
    gpu.reset()
    assert np.isfinite(SPARSE()(cupy.asarray(y), cupy.asarray(x)).get())
    assert gpu.waits == []


def test_a_call_does_not_wait_for_errors(cupy, gpu):
    y, x, _, _ = case()
    gpu.lazy = True
    y[2] = 99
    f(cupy.asarray(y), cupy.asarray(x), True)
    f(cupy.asarray(y), cupy.asarray(x), True)  # nothing is known yet: not a word
    assert gpu.waits == []
    assert "got 99 at (2,)" in raised()


def test_its_gradient_row_is_nan_and_no_other(cupy):
    y, x, _, _ = case()
    y[2] = 99
    scores = cupy.asarray(x)
    value, gradient = SPARSE(from_logits=True).value_and_grad(cupy.asarray(y), scores, out=scores)
    assert np.isnan(value.get())
    np.testing.assert_array_equal(np.isnan(gradient.get()).all(axis=1), np.arange(6) == 2)
    np.testing.assert_array_equal(np.isnan(gradient.get()).any(axis=1), np.arange(6) == 2)
    assert "got 99 at (2,)" in raised(0)


@pytest.mark.parametrize("layout", ["channels first", "gaps", "gaps behind", "Fortran order"])
def test_its_place_is_that_in_what_was_sent(cupy, layout):
    y, x, _, axis = case(layout)
    last = tuple(n - 1 for n in y.shape)
    y[last] = 77
    f(cupy.asarray(y), cupy.asarray(x), axis=axis)
    assert f"got 77 at {last}; " in raised()
    sent = np.expand_dims(y, axis)
    f(cupy.asarray(sent), cupy.asarray(x), axis=axis)
    place = list(last)
    place.insert(axis % x.ndim, 0)
    assert f"got 77 at {tuple(place)}; " in raised()


def test_the_first_of_several_is_reported(cupy):
    y, x, _, _ = case()
    y[[4, 1]] = 99, 98
    f(cupy.asarray(y), cupy.asarray(x))
    assert "got 98 at (1,)" in raised()


def test_errors_of_several_kinds_of_calls_are_kept_apart(cupy):
    y, x, _, _ = case()
    y[5] = 99
    f(cupy.asarray(y[:, None]), cupy.asarray(x))
    with pytest.raises(ValueError, match=r"got 99 at \(5, 0\)"):
        f(cupy.asarray(y), cupy.asarray(x))
    f(cupy.asarray(y), cupy.asarray(x))
    assert "got 99 at (5,)" in raised()


def test_old_error_slots_go_round(cupy, monkeypatch):
    """More kinds of calls than slots: the errors of the oldest are the newest's to report."""
    used = cuda_driver.SLOTS
    y, x, _, _ = case()
    f(cupy.asarray(y), cupy.asarray(x))
    device = cuda_driver.device(0)
    for n in range(used + 3):
        device.error_slot(n)
    assert len(device._reporters) == used
    assert len(device._no_errors) == 8 * params.ERRORS * cuda_driver.SLOTS
    assert not device.has_errors()
    device._records[3, 0] = 5
    assert device.has_errors()
    assert device.pending_errors() == [(used + 2, (5, params.NONE))]
    assert not device.has_errors()


@pytest.mark.parametrize("missing", [-(2**31), np.nan], ids=["NA", "nan"])
def test_a_missing_weight_is_reported(cupy, missing):
    y, x, w, _ = case()
    w[4] = missing
    SPARSE()(*map(cupy.asarray, (y, x, w)))
    with pytest.raises(
        ValueError, match=r"^sample_weight must hold numbers: got -2147483648 or nan .* \(4,"
    ):
        sx.cuda_check()
    with pytest.raises(ValueError, match=f"sample_weight must be a number, got {missing}"):
        SPARSE()(cupy.asarray(y), cupy.asarray(x), missing)


def test_devices_that_were_not_used_have_no_errors(gpu):
    assert sx.cuda_check() is None
    assert sx.cuda_check(3.0) is None
    assert cuda_driver.used() == {}
    with pytest.raises(TypeError, match="device must be a whole number"):
        sx.cuda_check("cuda:0")


# --- refusals ------------------------------------------------------------------------------------


def test_labels_of_the_host_are_refused_with_the_way_out(cupy, torch):
    y, x, w, _ = case()
    for labels in (y, y.tolist(), 3):
        with pytest.raises(
            TypeError,
            match=r"^y_true must lie on cuda:0, as y_pred does, got a \w+ in the host's memory: "
            r"pass cupy.asarray\(y_true\)$",
        ):
            f(labels, cupy.asarray(x))
    with pytest.raises(TypeError, match=r"pass torch.as_tensor\(y_true, device=y_pred.device\)$"):
        f(y, torch.tensor(x))
    with pytest.raises(TypeError, match=r"sample_weight must lie on cuda:0.*cupy.asarray\(samp"):
        SPARSE()(cupy.asarray(y), cupy.asarray(x), w)


def test_a_tensor_of_the_host_is_refused_with_the_way_to_the_device(cupy, torch, monkeypatch):
    y, x, _, _ = case()
    monkeypatch.setattr(torch.on_the_host, "is_on_device", lambda self, array: False)
    with pytest.raises(
        TypeError, match=r"got a Tensor in the host's memory: pass y_true.to\(y_pred.device\)"
    ):
        f(torch.tensor(y), cupy.asarray(x))


@pytest.mark.parametrize(
    ("labels", "scores", "options", "said"),
    [
        (np.zeros(3, int), np.zeros((2, 3)), {}, "y_true must have y_pred's shape without axis 1"),
        (np.zeros((2, 3)), np.zeros((2, 3)), {}, "look one-hot"),
        (np.zeros(2, complex), np.zeros((2, 3)), {}, "y_true must hold whole numbers"),
        (np.zeros(2, int), np.zeros((2, 3), complex), {}, "y_pred must hold numbers"),
        (np.zeros(2, int), np.zeros((2, 0)), {}, "at least one class"),
        (np.zeros((), int), np.zeros(()), {}, "0-d"),
        (np.zeros(2, int), np.zeros((2, 3)), {"axis": 2}, "axis must be between"),
        (np.zeros(2, int), np.zeros((2, 3)), {"class_weight": [1, 2]}, "one weight a class"),
        (np.zeros(2, "float16"), np.zeros((2, 4000)), {}, "of an integer dtype for 4000 classes"),
    ],
)
def test_shapes_and_kinds_are_refused_in_numpys_words(cupy, labels, scores, options, said):
    with pytest.raises((TypeError, ValueError), match=said) as here:
        f(cupy.asarray(labels), cupy.asarray(scores), **options)
    with pytest.raises(type(here.value)) as there:
        f(labels, scores, **options)
    assert str(here.value) == str(there.value)


def test_no_frame_of_a_refusal_holds_memory_of_the_device(cupy):
    """Whoever shows a traceback's variables, as reporters of errors do, would read it."""
    y, x, _, _ = case()
    with pytest.raises(ValueError) as error:
        f(cupy.asarray(y), cupy.asarray(x), axis=0)
    frames, at = [], error.value.__traceback__
    while at is not None:
        frames.append(at.tb_frame)
        at = at.tb_next
    for frame in frames[1:]:
        for value in frame.f_locals.values():
            assert not isinstance(value, np.ndarray), frame


@pytest.mark.parametrize("make", [sx.loss_categorical_crossentropy, sx.CategoricalCrossentropy()])
def test_one_hot_targets_are_refused_with_the_way_to_the_host(cupy, torch, make):
    x = np.zeros((2, 3), np.float32)
    array = DeviceArray.of(x, 0)
    for scores, kind, way_out in (
        (cupy.asarray(x), "cupy CupyArray", "y_pred.get()"),
        (torch.tensor(x), "torch Tensor", "y_pred.detach().cpu().numpy()"),
        (array, "DeviceArray", "y_pred.numpy()"),
        (Spoken(x), "Spoken", "y_pred, copied to the host"),
    ):
        with pytest.raises(TypeError) as error:
            make(x, scores)
        assert str(error.value) == (
            f"y_pred must lie in the host's memory, got a {kind} on cuda:0: pass {way_out}; "
            "with integer labels the sparse loss is served on the device"
        )


def test_tensors_that_look_one_hot_are_refused_in_torchs_words(torch):
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"or argmax \(y_true.float\(\).argmax\(1\)\)"):
        f(x, x)


def test_another_byte_order_is_refused_not_misread(gpu):
    y, x, w, _ = case()
    for sent in ((Spoken(y.astype(">i8")), Spoken(x)), (Spoken(y), Spoken(x.astype(">f4")))):
        with pytest.raises(TypeError, match="must be in native byte order, got >"):
            f(*sent, True)
    with pytest.raises(TypeError, match="must be in native byte order, got >f8"):
        SPARSE()(Spoken(y), Spoken(x), Spoken(w.astype(">f8")))


def test_masks_are_refused(gpu):
    y, x, _, _ = case()
    with pytest.raises(TypeError, match="must not be masked"):
        f(Spoken(y), Spoken(x, mask=object()))


def test_memory_that_is_not_aligned_is_refused(gpu):
    y, _, _, _ = case()
    x = np.zeros(6 * 40 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(6, 40)
    with pytest.raises(ValueError, match="must be aligned"):
        f(Spoken(y), Spoken(x))


def test_values_that_torch_negates_on_reading_are_refused(torch):
    y, x, _, _ = case()
    negated = torch.complex(torch.tensor(x), torch.tensor(x)).conj().imag
    assert negated.is_neg()
    with pytest.raises(TypeError, match=r"resolve_neg\(\)"):
        f(torch.tensor(y), negated)


@pytest.mark.parametrize("device", ["cpu", "cuda:x", "gpu", 0, True])
def test_a_device_that_is_none_is_refused(device):
    with pytest.raises((TypeError, ValueError), match='device must be None, "cuda" or "cuda:1"'):
        SPARSE(device=device)


def test_a_device_for_arrays_that_lie_on_another_is_refused(cupy):
    y, x, _, _ = case()
    assert np.isfinite(f(cupy.asarray(y), cupy.asarray(x), device="cuda:0").get()).all()
    with pytest.raises(ValueError, match="y_pred lies on cuda:0: bring it there"):
        f(cupy.asarray(y), cupy.asarray(x), device="cuda:1")


# --- other libraries -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Spoken, Packed])
@pytest.mark.parametrize("layout", ["rows", "Fortran order", "gaps"])
def test_whatever_speaks_a_protocol_is_served(gpu, kind, layout):
    if kind is Packed:
        pytest.importorskip("cuda.core.utils")  # reads DLPack for us
    y, x, w, axis = case(layout)
    losses = f(kind(y), kind(x), True, axis=axis)
    assert type(losses) is DeviceArray
    np.testing.assert_allclose(losses.numpy(), f(y, x, True, axis=axis), 1e-5)
    loss = SPARSE(from_logits=True, axis=axis)
    value, gradient = loss.value_and_grad(kind(y), kind(x), kind(w))
    expected, slope = loss.value_and_grad(y, x, w)
    np.testing.assert_allclose(value.numpy(), expected, 1e-5)
    np.testing.assert_allclose(gradient.numpy(), slope, 1e-5, 1e-6)
    said = gradient.__cuda_array_interface__
    assert (said["version"], said["shape"], said["typestr"]) == (3, x.shape, "<f4")
    again = f(kind(y), gradient, True, axis=axis)  # a result is an input
    assert again.shape == y.shape
    assert repr(again) == f"DeviceArray({y.shape}, float32, device=0)"


def test_a_producers_stream_is_used(gpu):
    y, x, _, _ = case()
    f(Spoken(y, stream=9), Spoken(x, stream=9), True)
    assert gpu.launches[0][0] == 9
    f(Spoken(y), Spoken(x), True)
    assert gpu.launches[1][0] == 0  # the default stream, by its handle in cuda.core


def test_dlpack_of_the_host_is_not_on_a_device(gpu):
    y, x, _, _ = case()
    with pytest.raises(TypeError, match="y_pred must hold numbers"):
        f(y, Packed(x, device=(1, 0)))
    assert gpu.launches == []


@pytest.mark.parametrize("library", ["jax", "tensorflow", "dask"])
def test_what_traces_is_not_taken_for_memory(gpu, library):
    """Though it says where it lies. JAX's and TensorFlow's own take their formulas."""
    made = type("Array", (Spoken,), {"__module__": f"{library}.core", "shape": (1, 3)})
    assert adapters.adapter_of(made(np.zeros((1, 3)))) is None
    if library == "dask":
        with pytest.raises(TypeError, match="got a dask Array: "):
            f([1], made(np.zeros((1, 3))))


# --- NumPy, on request ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*DTYPES, "int64", "float32 to float64"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_numpys_arrays_go_there_on_request_and_come_back(gpu, layout, dtype):
    dtype, _, wide = dtype.partition(" to ")
    y, x, w, axis = case(layout, "float32" if dtype == "int64" else dtype)
    x = (3 * x).astype("int64") if dtype == "int64" else x
    options = {"from_logits": True, "axis": axis, "dtype": wide or None}
    losses, expected = f(y, x, device="cuda", **options), f(y, x, **options)
    assert type(losses) is type(expected)
    assert np.asarray(losses).dtype == np.asarray(expected).dtype
    tolerance = 1e-12 if wide else DTYPES.get(dtype, 1e-5)
    close(losses, expected, tolerance)
    host, there = SPARSE(**options), SPARSE(**options, device="cuda")
    gpu.reset()
    (value, gradient), (expected, slope) = (loss.value_and_grad(y, x, w) for loss in (there, host))
    assert type(value) is type(expected)
    assert gradient.dtype == slope.dtype
    close(value, expected, max(tolerance, 1e-5))
    close(gradient, slope, 10 * max(tolerance, 1e-7 if wide else 0))
    assert len(gpu.launches) >= 1
    out = np.full_like(slope, np.nan)
    assert there.value_and_grad(y, x, w, out=out)[1] is out
    np.testing.assert_array_equal(out, gradient)
    assert there(y, x) == there(y.tolist(), x)


def test_nothing_goes_there_unasked(gpu):
    y, x, w, _ = case()
    f(y, x)
    SPARSE()(y, x, w)
    SPARSE().value_and_grad(y.tolist(), x.tolist())
    assert gpu.launches == gpu.copies == gpu.allocations == []


def test_on_request_labels_are_refused_as_numpys_and_out_is_untouched(gpu):
    y, x, _, _ = case()
    y[[2, 4]] = 99, 40
    out = np.full_like(x, 7)
    loss = SPARSE(device="cuda")
    with pytest.raises(ValueError, match=r"got 99 at \(2,\) and 1 more") as there:
        loss.value_and_grad(y, x, out=out)
    with pytest.raises(ValueError) as here:
        SPARSE().value_and_grad(y, x, out=out)
    assert str(there.value) == str(here.value)
    assert (out == 7).all()
    assert gpu.launches == []


def test_the_devices_memory_may_not_suffice(monkeypatch):
    fake_cuda.install(monkeypatch, Gpu(memory_bytes=100))
    y, x, _, _ = case()
    with pytest.raises(MemoryError, match=r"^cuda:0 has no 960 bytes of memory left: cut y_pred"):
        f(y, x, device="cuda")


# --- torch's autograd graph -----------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ignored", [None, 1])
@pytest.mark.parametrize("layout", ["rows", "channels first", "Fortran order"])
def test_backward_is_value_and_grad(torch, layout, reduction, ignored):
    y, x, w, axis = case(layout)
    at = torch.tensor(0.0) + torch.from_numpy(x)
    at = at.as_strided(at.shape, [s // 4 for s in x.strides]) if layout != "rows" else at
    at = torch.from_numpy(x.copy(order="K")).requires_grad_(True)
    loss = SPARSE(from_logits=True, axis=axis, reduction=reduction, ignore_class=ignored)
    for weights in (None, 0.5, w):
        sent = torch.tensor(weights) if isinstance(weights, np.ndarray) else weights
        at.grad = None
        value = loss(torch.tensor(y), at, sent)
        assert value.requires_grad
        (3 * value).sum().backward()
        _, slope = loss.value_and_grad(y, x, weights)
        np.testing.assert_allclose(at.grad.numpy(), 3 * slope, 1e-5, 1e-7)


def test_losses_are_in_the_graph(torch):
    y, x, _, _ = case()
    at = torch.tensor(x, requires_grad=True)
    up = torch.arange(12.0)[::2]  # strided
    f(torch.tensor(y), at, True).backward(up)
    (expected,) = torch.autograd.grad(
        torch.nn.functional.cross_entropy(at, torch.tensor(y), reduction="none"), at, up
    )
    np.testing.assert_allclose(at.grad.numpy(), expected.numpy(), 1e-5, 1e-6)


def test_gradcheck_holds(torch):
    y, x, w, _ = case(dtype="float64")
    labels, weights = torch.tensor(y[:3]), torch.tensor(w[:3])
    at = torch.tensor(x[:3, :5].copy(), requires_grad=True)
    labels %= 5
    for reduction in REDUCTIONS:
        loss = SPARSE(
            from_logits=True, reduction=reduction, dtype="float64", ignore_class=int(labels[0])
        )
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(labels, x, weights), at)


def test_a_wider_dtype_is_in_the_graph(torch):
    y, x, _, _ = case()
    at = torch.tensor(x, requires_grad=True)
    value = SPARSE(from_logits=True, dtype="float64")(torch.tensor(y), at)
    assert value.dtype == torch.float64
    value.backward()
    assert at.grad.dtype == torch.float32
    _, slope = SPARSE(from_logits=True).value_and_grad(y, x)
    np.testing.assert_allclose(at.grad.numpy(), slope, 1e-5, 1e-7)


def test_a_second_derivative_is_refused_not_wrong(torch):
    y, x, _, _ = case()
    at = torch.tensor(x, requires_grad=True)
    value = SPARSE(from_logits=True)(torch.tensor(y), at)
    (slope,) = torch.autograd.grad(value, at, create_graph=True)
    with pytest.raises(RuntimeError, match="the loss has no second derivative here"):
        (slope.square().sum() + at.sum()).backward()


def test_torch_func_grad(torch):
    y, x, _, _ = case()
    labels = torch.tensor(y)
    loss = SPARSE(from_logits=True)
    slope = torch.func.grad(lambda x: loss(labels, x))(torch.tensor(x))
    np.testing.assert_allclose(slope.numpy(), loss.value_and_grad(y, x)[1], 1e-5, 1e-7)


def test_scores_changed_before_backward_are_noticed(torch):
    y, x, _, _ = case()
    leaf = torch.tensor(x, requires_grad=True)
    at = leaf * 1
    value = SPARSE(from_logits=True)(torch.tensor(y), at)
    with torch.no_grad():
        at.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()
    at = leaf * 1
    value = SPARSE(from_logits=True)(torch.tensor(y), at)
    SPARSE(from_logits=True).value_and_grad(torch.tensor(y), at.detach(), out=at.detach())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_without_gradients_no_graph_is_kept(torch, gpu):
    y, x, _, _ = case()
    at = torch.tensor(x, requires_grad=True)
    loss = SPARSE()
    with torch.no_grad():
        assert not loss(torch.tensor(y), at).requires_grad
    assert not loss(torch.tensor(y), at.detach()).requires_grad
    value, gradient = loss.value_and_grad(torch.tensor(y), at)
    assert not value.requires_grad
    assert not gradient.requires_grad
    assert gpu.launches[-1][3].dx == gradient.data_ptr()


def test_weights_that_want_a_derivative_are_refused(torch):
    y, x, w, _ = case()
    at = torch.tensor(x, requires_grad=True)
    with pytest.raises(TypeError, match=r"pass sample_weight.detach\(\)"):
        SPARSE()(torch.tensor(y), at, torch.tensor(w, requires_grad=True))


def test_a_bad_label_in_training_is_reported_once(torch):
    y, x, _, _ = case()
    y[2] = 99
    at = torch.tensor(x, requires_grad=True)
    value = SPARSE(from_logits=True)(torch.tensor(y), at)
    with pytest.raises(ValueError, match=r"got 99 at \(2,\)"):
        value.backward()
    assert sx.cuda_check() is None


def test_bfloat16_tensors(torch):
    y, x, _, _ = case(dtype="bfloat16")
    at = torch.tensor(x.astype(np.float32)).bfloat16().requires_grad_(True)
    losses = f(torch.tensor(y), at, True)
    assert losses.dtype == torch.bfloat16
    losses.sum().backward()
    assert at.grad.dtype == torch.bfloat16
    expected = f(y, x, True)
    np.testing.assert_allclose(losses.detach().float().numpy(), expected.astype(float), 2e-2)


# --- what is missing -----------------------------------------------------------------------------


def test_an_absent_package_is_named_with_the_extra(monkeypatch):
    cuda_driver._packages.cache_clear()
    monkeypatch.setattr(cuda_driver, "_devices", {})
    for name in ("cuda", "cuda.core", "cuda.core.utils", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    y, x, _, _ = case()
    with pytest.raises(
        cuda_driver.Absent, match=r'is not installed: pip install "sparse_xent\[cuda13\]"'
    ):
        f(y, x, device="cuda")
    with pytest.raises(cuda_driver.Absent, match="is not installed"):
        cuda_driver.dlpack(Packed(x))


class Status(int):
    name = "CUDA_ERROR_NO_DEVICE"


@pytest.mark.parametrize(
    ("answer", "count", "said"),
    [
        (
            RuntimeError("libcuda"),
            0,
            r"its driver: no driver was found; nvidia-smi tells$",
        ),
        ((Status(100),), 0, "its driver: the driver says CUDA_ERROR_NO_DEVICE"),
        ((0,), 0, "the driver is there, and sees none"),
    ],
)
def test_an_absent_driver_or_gpu_is_said_in_a_sentence(monkeypatch, answer, count, said):
    bindings = pytest.importorskip("cuda.bindings.driver")

    def init(flags):
        if isinstance(answer, Exception):
            raise answer
        return answer

    cuda_driver._packages.cache_clear()
    monkeypatch.setattr(cuda_driver, "_devices", {})
    monkeypatch.setattr(bindings, "cuInit", init)
    monkeypatch.setattr(bindings, "cuDeviceGetCount", lambda: (0, count))
    y, x, _, _ = case()
    with pytest.raises(cuda_driver.Absent, match=said) as error:
        f(y, x, device="cuda")
    assert "\n" not in str(error.value)
    cuda_driver._packages.cache_clear()


def test_bfloat16_needs_its_dtype(cupy, monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(TypeError, match="pip install ml_dtypes"):
        dtypes.of_library("bfloat16")
    with pytest.raises(TypeError, match="a dtype that NumPy knows, or bfloat16, got float5"):
        dtypes.of_library("float5")


def test_what_the_driver_refuses_is_named():
    with pytest.raises(RuntimeError, match="CUDA's driver says CUDA_ERROR_NO_DEVICE"):
        cuda_driver._checked((Status(100), None))


# --- NumPy's calls are left alone ----------------------------------------------------------------


def test_small_calls_never_ask_whose_arrays_they_are(monkeypatch):
    def asked(*args):
        raise AssertionError("asked")

    y, x = np.array([1, 2]), np.ones((2, 3)) / 3
    f(y, x)
    monkeypatch.setattr(execute, "adapter_of", asked)
    assert f(y, x).shape == (2,)
    SPARSE()(y, x)
    SPARSE().value_and_grad(y, x)
    with pytest.raises(AssertionError, match="asked"):
        f(y, x.tolist())


def test_a_single_loss_is_a_scalar_every_time():
    y, x = np.array(1), np.array([1.0, 2.0, 3.0])
    assert [type(f(y, x, True)) for _ in range(2)] == [np.float64] * 2


def test_a_gradient_of_integer_scores_is_float32_every_time():
    y, x = np.array([1, 2]), np.array([[1, 2, 3], [3, 1, 2]])
    loss = SPARSE(from_logits=True)
    first, second = (loss.value_and_grad(y, x)[1] for _ in range(2))
    assert first.dtype == second.dtype == np.float32
    np.testing.assert_array_equal(first, second)


def test_numpys_calls_load_nothing_of_cuda():
    code = """
import sys
import numpy as np
import sparse_xent as sx
sx.loss_sparse_categorical_crossentropy([1, 2], np.ones((2, 3)))
sx.SparseCategoricalCrossentropy().value_and_grad([1, 2], np.ones((2, 3)), [1.0, 2.0])
sx.cuda_check()
loaded = [n for n in sys.modules if n.split(".")[0] in ("cuda", "torch", "cupy", "numba_cuda")]
print(loaded, "numba.cuda" in sys.modules)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "[] False\n"
