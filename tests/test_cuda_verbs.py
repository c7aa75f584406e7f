"""The device's verbs are the CPU's: names, parameters, pages, and what they give."""

import inspect

import device
import numpy as np
import ptx
import pytest
from conftest import NEEDS_CUDA_COMPILER

from sparse_xent.engines import numpy as numpy_engine
from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels.cpu import verbs as cpu_verbs
from sparse_xent.kernels.cuda import verbs
from sparse_xent.kernels.cuda.geometry import BLOCKS, Place, Verb, choose, registers
from sparse_xent.kernels.cuda.params import CODES, NONE, Arguments, View

VERBS = ["nll", "nll_grad", "nll_and_grad", "rank"]


@pytest.mark.parametrize("name", VERBS)
def test_names_parameters_and_pages_are_the_cpus(name):
    ours, theirs = getattr(verbs, name), getattr(cpu_verbs, name)
    assert inspect.getdoc(ours) == inspect.getdoc(theirs)
    assert parameters(ours) == parameters(theirs) == parameters(getattr(numpy_engine, name))


def parameters(verb):
    return [(p.name, p.kind, p.default) for p in inspect.signature(verb).parameters.values()]


class Simulated:
    """A device of simulated threads."""

    capability = (9, 0)

    def __init__(self):
        self.memory = ptx.Memory()
        self.error = self.memory.give(np.full(2, NONE, np.int64))
        self.launches = []

    def launch(self, plan, arguments):
        assert len(arguments) == len(Arguments._fields)
        self.launches.append(plan.kernel)
        ptx.launch(
            device.program(plan.kernel),
            self.memory,
            arguments,
            grid=plan.grid,
            block=plan.block,
            cluster=plan.cluster,
            shared=plan.shared,
        )

    def empty(self, shape, dtype):
        return self.view(np.full(shape, 77, device.DTYPES.get(dtype, np.int64)))

    def view(self, array):
        dtype = array.dtype.name
        assert dtype in CODES
        return View(self.memory.give(array), array.shape, array.strides, dtype)

    def back(self, view):
        dtype = device.DTYPES.get(view.dtype, np.dtype(np.int64))
        return self.memory.back(view.address, dtype, view.shape)


@pytest.mark.slow
@NEEDS_CUDA_COMPILER
def test_what_they_give_is_what_the_plain_engine_gives():
    x, y = device.scores((9, 10, 1), "float32")
    y[3] = -1
    g = np.linspace(-1, 1, 9).reshape(9, 1)
    options = dict(scores=ScoreKind.LOGITS, smoothing=0.0, eps=1e-7)
    gpu = Simulated()
    on_device = [gpu.view(a) for a in (x, y, g)]
    losses, dx = numpy_engine.nll_and_grad(x, y, g, **options)
    with verbs.on(gpu):
        np.testing.assert_allclose(gpu.back(verbs.nll(*on_device[:2], **options)), losses, 4e-6)
        np.testing.assert_allclose(gpu.back(verbs.nll_grad(*on_device, **options)), dx, 4e-6, 1e-8)
        place = gpu.empty(x.shape, "float32")
        both = verbs.nll_and_grad(*on_device, **options, out=place)
        assert both[1] is place
        np.testing.assert_allclose(gpu.back(both[0]), losses, 4e-6)
        np.testing.assert_allclose(gpu.back(place), dx, 4e-6, 1e-8)
        np.testing.assert_array_equal(gpu.back(verbs.rank(*on_device[:2])), numpy_engine.rank(x, y))
    assert [k.partition(".")[0] for k in gpu.launches] == ["few", "few", "few", "rank_rows"]


# ---- plans --------------------------------------------------------------------------------------


FIRST = dict(order="classes first")
BOTH = dict(verb=Verb.NLL_AND_GRAD)


def planned(outer, classes, inner=1, dtype="float32", verb=Verb.NLL, order="rows", **options):
    size = device.DTYPES[dtype].itemsize
    place = {
        "rows": Place(4096, size * classes * inner, size, size * classes),
        "classes first": Place(4096, size * classes * inner, size * inner, size),
        "columns": Place(4096, size, size * outer, size),
    }[order]
    dx = place if verb in (Verb.NLL_GRAD, Verb.NLL_AND_GRAD) else None
    kind, smooth = options.pop("kind", ScoreKind.LOGITS), options.pop("smooth", False)
    return choose(dtype, kind, smooth, verb, (outer, classes, inner), place, dx, **options)


@pytest.mark.parametrize(
    ("plan", "kernel", "geometry"),
    [
        (planned(10**6, 10), "few.float32.logits.sharp.nll", (7813, 128, 1)),
        (planned(10**6, 1000), "lanes32x8.float32.logits.sharp.nll", (8192, 256, 1)),
        (planned(5, 128), "lanes32x1.float32.logits.sharp.nll", (1, 256, 1)),
        (planned(8192, 131072), "rows.float32.logits.sharp.nll", (8192, 512, 1)),
        (planned(9, 50257, dtype="bfloat16"), "rows.bfloat16.logits.sharp.nll", (9, 384, 1)),
        (
            planned(9, 50257, dtype="bfloat16", **BOTH),
            "held.bfloat16.logits.sharp.grad",
            (9, 384, 1),
        ),
        (
            planned(9, 131072, **BOTH),
            "cluster.float32.logits.sharp.grad",
            (72, 64, 8),
        ),
        (
            planned(9, 131072, **BOTH, cc=(8, 0)),
            "rows.float32.logits.sharp.grad",
            (9, 512, 1),
        ),
        (
            planned(9, 10**6, **BOTH),
            "rows.float32.logits.sharp.grad",
            (9, 512, 1),
        ),
        (
            planned(64, 21, 512 * 512, **FIRST),
            "strided4.float32.logits.sharp.nll",
            (8192, 128, 1),
        ),
        (planned(1, 1000, 10**6, **FIRST), "strided4.float32.logits.sharp.nll", (1954, 128, 1)),
        (planned(10**6, 10, order="columns"), "strided1.float32.logits.sharp.nll", (7813, 128, 1)),
        (planned(9, 7, kind=ScoreKind.CLIP), "picked.float32.never.sharp.nll", (1, 256, 1)),
        (
            planned(9, 7, kind=ScoreKind.CLIP, smooth=True),
            "few.float32.never.smooth.nll",
            (1, 128, 1),
        ),
        (planned(9, 700, dtype="float64"), "rows.float64.logits.sharp.nll", (9, 256, 1)),
        (planned(9, 7, verb=Verb.RANK), "rank_rows.float32", (2, 256, 1)),
        (planned(2, 7, 8, verb=Verb.RANK, **FIRST), "rank_strided4.float32", (1, 128, 1)),
        (planned(5000, 7, verb=Verb.SURVEY), "survey", (5, 256, 1)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_plans(plan, kernel, geometry):
    assert plan.kernel == kernel
    assert (plan.grid, plan.block, plan.cluster) == geometry


@pytest.mark.parametrize("dtype", device.DTYPES)
@pytest.mark.parametrize("verb", [Verb.NLL, Verb.NLL_AND_GRAD, Verb.RANK])
@pytest.mark.parametrize("cc", [(8, 0), (8, 6), (9, 0), (10, 0), (12, 0)])
def test_every_plan_can_be_launched(cc, verb, dtype):
    """Within what the device has: threads, registers, shared memory, whole warps and clusters."""
    most = {(8, 0): 163, (8, 6): 99, (9, 0): 227, (10, 0): 227, (12, 0): 99}[cc] * 1024
    for classes in [1, 2, 31, 32, 33, 100, 513, 2048, 2049, 30000, 57000, 113000, 131072, 10**6]:
        for outer, inner, order in ((70, 1, "rows"), (3, 40, "classes first"), (10**5, 1, "rows")):
            for smooth in (False, True):
                plan = planned(outer, classes, inner, dtype, verb, order, smooth=smooth, cc=cc)
                assert plan.block % 32 == 0
                assert plan.grid % plan.cluster == 0
                assert 0 < plan.grid <= BLOCKS
                assert plan.shared <= most, plan
                assert plan.block * registers(plan.kernel) <= 65536, plan
                assert cc[0] >= 9 or plan.cluster == 1


def test_alignment_never_moves_a_row_to_other_lanes():
    """What sets the order of a row's sum is set by C alone, wherever the row begins."""
    for classes in [*range(33, 2100, 7), 1024, 2045, 2046, 2047, 2048]:
        kernels = set()
        for shift in (0, 4, 8, 12):
            place = Place(4096 + shift, 4 * classes, 4, 4 * classes)
            plan = choose("float32", ScoreKind.LOGITS, False, Verb.NLL, (9, classes, 1), place)
            kernels.add(plan.kernel.partition("x")[0].partition(".")[0])
        assert len(kernels) == 1, (classes, kernels)
