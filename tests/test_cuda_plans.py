"""Plans of launches: which kernel serves a geometry, and that every device can launch it."""

import device
import pytest

from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels.cuda.geometry import BLOCKS, Place, Verb, choose, registers

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
        (planned(10**6, 10), "thread_rows.float32.logits.sharp.nll", (7813, 128, 1)),
        (planned(10**6, 1000), "warp_rows32x8.float32.logits.sharp.nll", (8192, 256, 1)),
        (planned(5, 128), "warp_rows32x1.float32.logits.sharp.nll", (1, 256, 1)),
        (planned(8192, 131072), "block_rows.float32.logits.sharp.nll", (8192, 512, 1)),
        (planned(9, 50257, dtype="bfloat16"), "block_rows.bfloat16.logits.sharp.nll", (9, 384, 1)),
        (
            planned(9, 50257, dtype="bfloat16", **BOTH),
            "cached_rows.bfloat16.logits.sharp.grad",
            (9, 384, 1),
        ),
        (
            planned(9, 131072, **BOTH),
            "cluster_rows.float32.logits.sharp.grad",
            (72, 64, 8),
        ),
        (
            planned(9, 131072, **BOTH, cc=(8, 0)),
            "block_rows.float32.logits.sharp.grad",
            (9, 512, 1),
        ),
        (
            planned(9, 10**6, **BOTH),
            "block_rows.float32.logits.sharp.grad",
            (9, 512, 1),
        ),
        (
            planned(64, 21, 512 * 512, **FIRST),
            "strided4.float32.logits.sharp.nll",
            (8192, 128, 1),
        ),
        (planned(1, 1000, 10**6, **FIRST), "strided4.float32.logits.sharp.nll", (1954, 128, 1)),
        (planned(10**6, 10, order="columns"), "strided1.float32.logits.sharp.nll", (7813, 128, 1)),
        (planned(9, 7, kind=ScoreKind.CLIP), "gather.float32.clip.sharp.nll", (1, 256, 1)),
        (
            planned(9, 7, kind=ScoreKind.CLIP, smooth=True),
            "thread_rows.float32.clip.smooth.nll",
            (1, 128, 1),
        ),
        (planned(9, 700, dtype="float64"), "block_rows.float64.logits.sharp.nll", (9, 256, 1)),
        (planned(9, 7, verb=Verb.RANK), "rank_rows.float32", (2, 256, 1)),
        (planned(2, 7, 8, verb=Verb.RANK, **FIRST), "rank_strided4.float32", (1, 128, 1)),
        (planned(5000, 7, verb=Verb.COUNT), "count", (5, 256, 1)),
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
