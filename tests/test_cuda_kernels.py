"""What is compiled for a GPU gives what the plain engine gives, on every boundary that it has.

The kernels run on a simulator of threads (`ptx`), which knows nothing of the loss.
"""

import device
import numpy as np
import ptx
import pytest
from conftest import NEEDS_CUDA_COMPILER
from device import DTYPES, Given, run

from sparse_xent.engines import numpy_formulas
from sparse_xent.kernels import ScoreKind
from sparse_xent.kernels.cuda import params
from sparse_xent.kernels.cuda.geometry import Verb
from sparse_xent.kernels.cuda.params import KEPT, NONE, WEIGHT

pytestmark = [pytest.mark.slow, NEEDS_CUDA_COMPILER]


@pytest.fixture(scope="module", autouse=True)
def _compiling():
    with device.compiling(KERNELS):
        yield


#: What the tests below launch, in their order.
KERNELS = [
    "thread_rows.float16.logits.sharp.grad",
    "thread_rows.float32.logits.sharp.grad",
    "thread_rows.float64.logits.sharp.grad",
    "warp_rows16x1.float16.logits.sharp.grad",
    "warp_rows16x1.bfloat16.logits.sharp.grad",
    "warp_rows32x1.float32.logits.sharp.grad",
    "warp_rows32x2.float64.logits.sharp.grad",
    "cached_rows.bfloat16.logits.sharp.grad",
    "cached_rows.float32.logits.sharp.grad",
    "cached_rows.float64.logits.sharp.grad",
    "strided8.bfloat16.logits.sharp.grad",
    "strided4.float32.logits.sharp.grad",
    "strided2.float64.logits.sharp.grad",
    "thread_rows.float32.clip_normalize.smooth.grad",
    "warp_rows32x1.float32.clip_normalize.sharp.grad",
    "warp_rows32x1.float32.normalize_clip.smooth.grad",
    "warp_rows32x1.float32.clip.smooth.grad",
    "strided4.float32.clip_normalize.smooth.grad",
    "strided4.float32.normalize_clip.sharp.grad",
    "strided4.float32.clip.smooth.grad",
    "cached_rows.float32.logits.smooth.grad",
    "cached_rows.float64.clip_normalize.sharp.grad",
    "cached_rows.bfloat16.normalize_clip.smooth.grad",
    "warp_rows16x1.float32.logits.sharp.grad",
    "warp_rows32x2.float32.logits.sharp.grad",
    "warp_rows32x4.float32.logits.sharp.grad",
    "warp_rows32x8.float32.logits.sharp.grad",
    "warp_rows32x16.float32.logits.sharp.grad",
    "strided1.float32.logits.sharp.grad",
    "block_rows.float32.logits.sharp.nll",
    "cluster_rows.float32.logits.sharp.grad",
    "block_rows.float32.logits.sharp.grad",
    "thread_rows.bfloat16.logits.sharp.grad",
    "warp_rows32x2.bfloat16.logits.sharp.nll",
    "warp_rows32x4.float32.logits.sharp.nll",
    "warp_rows32x8.float64.logits.sharp.nll",
    "block_rows.bfloat16.logits.sharp.nll",
    "block_rows.float64.logits.sharp.nll",
    "thread_rows.float32.logits.smooth.grad",
    "warp_rows32x1.float32.logits.smooth.grad",
    "strided1.float32.logits.smooth.grad",
    "thread_rows.float32.clip_normalize.sharp.grad",
    "thread_rows.float32.normalize_clip.sharp.grad",
    "thread_rows.float32.clip.sharp.grad",
    "warp_rows32x1.float32.normalize_clip.sharp.grad",
    "warp_rows32x1.float32.clip.sharp.grad",
    "thread_rows.float32.logits.sharp.nll",
    "warp_rows32x1.float32.logits.sharp.nll",
    "strided4.float32.logits.sharp.nll",
    "gather.float32.clip.sharp.nll",
    "count",
    "thread_rows.float64.logits.sharp.nll",
    "rank_rows.float32",
    "rank_rows.bfloat16",
    "rank_rows.float64",
    "rank_strided4.float32",
    "rank_strided1.float16",
]

LOSS = {"float16": 4e-6, "bfloat16": 4e-6, "float32": 4e-6, "float64": 1e-13}
SLOPE = {"float16": 1e-3, "bfloat16": 8e-3, "float32": 4e-6, "float64": 1e-13}
BOTH, NLL = Verb.NLL_AND_GRAD, Verb.NLL


def agree(given, gradient=True):
    """Run, and hold what was made against the plain engine; returns it."""
    given.up = np.linspace(-1.5, 2, given.y.size).reshape(given.y.shape) if gradient else None
    made = run(given, BOTH if gradient else NLL)
    losses, dx = device.expected(given, given.up if gradient else 1.0)
    name = given.x.dtype.name
    np.testing.assert_allclose(made.losses, losses, LOSS[name], 1e-37, err_msg=made.plan.kernel)
    if gradient:
        largest = np.nanmax(np.abs(dx), initial=1e-30)
        np.testing.assert_allclose(
            made.dx.astype(np.float64),
            dx,
            SLOPE[name],
            SLOPE[name] * 1e-2 * largest,
            err_msg=made.plan.kernel,
        )
    assert made.error.tolist() == [NONE, NONE]
    return made


def named(made):
    """Position of the first bad label, and what its ErrorSlot says of it."""
    assert made.error[1] == NONE
    return divmod(int(made.error[0]), 1 << params.LABEL_BITS)


# ---- every kernel, format and kind of scores ----------------------------------------------------

#: kernel -> shape [outer, C, inner], order in memory, shift in bytes
GEOMETRIES = {
    "thread_rows": ((150, 10, 1), "classes last", 0),
    "warp_rows": ((11, 100, 1), "classes last", 8),
    "cached_rows": ((2, 4101, 1), "classes last", 8),
    "strided": ((2, 21, 16), "classes first", 0),
}


@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [
        *(("thread_rows", d) for d in ("float16", "float32", "float64")),
        *(("warp_rows", d) for d in DTYPES),
        *(("cached_rows", d) for d in ("bfloat16", "float32", "float64")),
        *(("strided", d) for d in ("bfloat16", "float32", "float64")),
    ],
)
def test_logits_of_every_format(kernel, dtype):
    shape, order, shift = GEOMETRIES[kernel]
    made = agree(Given(*device.scores(shape, dtype), order=order, shift=shift))
    assert made.plan.kernel.startswith(kernel)


@pytest.mark.parametrize(
    ("kernel", "kind", "smoothing"),
    [
        ("thread_rows", ScoreKind.CLIP_NORMALIZE, 0.1),
        ("warp_rows", ScoreKind.CLIP_NORMALIZE, 0.0),
        ("warp_rows", ScoreKind.NORMALIZE_CLIP, 0.1),
        ("warp_rows", ScoreKind.CLIP, 0.1),
        ("strided", ScoreKind.CLIP_NORMALIZE, 0.1),
        ("strided", ScoreKind.NORMALIZE_CLIP, 0.0),
        ("strided", ScoreKind.CLIP, 0.1),
    ],
)
def test_probabilities_of_every_kind(kernel, kind, smoothing):
    shape, order, shift = GEOMETRIES[kernel]
    x, y = device.scores(shape, "float32", kind)
    agree(Given(x, y, kind, smoothing, order, shift))


@pytest.mark.parametrize(
    ("kind", "smoothing", "dtype"),
    [
        (ScoreKind.LOGITS, 0.1, "float32"),
        (ScoreKind.CLIP_NORMALIZE, 0.0, "float64"),
        (ScoreKind.NORMALIZE_CLIP, 0.1, "bfloat16"),
    ],
)
def test_long_rows_of_other_kinds(kind, smoothing, dtype):
    x, y = device.scores((2, 4101, 1), dtype, kind)
    agree(Given(x, y, kind, smoothing, shift=8))


@pytest.mark.parametrize(
    ("shape", "order", "shift", "kernel"),
    [
        ((1, 1, 1), "classes last", 0, "thread_rows."),
        ((1, 2, 1), "classes last", 4, "thread_rows."),
        ((129, 32, 1), "classes last", 0, "thread_rows."),
        ((128, 31, 1), "classes last", 0, "thread_rows."),
        ((3, 33, 1), "classes last", 4, "warp_rows16x1."),
        ((9, 128, 1), "classes last", 0, "warp_rows32x1."),
        ((9, 128, 1), "classes last", 12, "warp_rows32x2."),
        ((3, 257, 1), "classes last", 4, "warp_rows32x4."),
        ((3, 1000, 1), "classes last", 0, "warp_rows32x8."),
        ((2, 2045, 1), "classes last", 4, "warp_rows32x16."),
        ((2, 2049, 1), "classes last", 4, "cached_rows."),
        ((2, 8192, 1), "classes last", 0, "cached_rows."),
        ((1, 2, 130), "classes first", 0, "strided1."),
        ((1, 3, 4), "classes first", 0, "strided4."),
        ((2, 130, 132), "classes first", 0, "strided4."),
        ((2, 130, 8), "classes first", 4, "strided1."),
        ((135, 9, 1), "R", 0, "strided1."),
        ((3, 40, 5), "classes last", 0, "warp_rows"),
    ],
)
def test_boundary_shapes(shape, order, shift, kernel):
    made = agree(Given(*device.scores(shape, "float32"), order=order, shift=shift))
    assert made.plan.kernel.startswith(kernel)


def test_rows_beyond_one_block():
    """A cluster shares what no block can hold; where there are none, the row is read again."""
    x, y = device.scores((2, 60001, 1), "float32")
    alone = run(Given(x, y, shift=4), NLL)
    for cc, kernel in (((9, 0), "cluster_rows"), ((8, 0), "block_rows")):
        made = agree(Given(x, y, shift=4, cc=cc))
        assert made.plan.kernel.startswith(kernel)
        assert made.losses.tobytes() == alone.losses.tobytes()


@pytest.mark.parametrize(
    ("shape", "order"),
    [
        ((150, 10, 1), "classes last"),
        ((5, 100, 1), "classes last"),
        ((2, 4101, 1), "classes last"),
        ((2, 21, 16), "classes first"),
    ],
)
def test_in_place_and_elsewhere_alike(shape, order):
    x, y = device.scores(shape, "bfloat16")
    there = agree(Given(x, y, order=order))
    here = agree(Given(x, y, order=order, in_place=True))
    crooked = agree(Given(x, y, order=order, dx_shift=6))
    assert here.dx.tobytes() == there.dx.tobytes() == crooked.dx.tobytes()


# ---- the same bits ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("classes", [257, 4101])
def test_a_row_has_the_same_bits_wherever_it_lies(classes, dtype):
    """Alone, in any batch, and at any address: rows of odd length begin at every remainder."""
    size = DTYPES[dtype].itemsize
    x, y = device.scores((9, classes, 1), dtype)
    batch = run(Given(x, y), NLL).losses
    assert run(Given(x, y), NLL).losses.tobytes() == batch.tobytes()
    for row in (0, 3, 8):
        for shift in range(0, 16, max(size, 4)):
            alone = run(Given(x[row : row + 1], y[row : row + 1], shift=shift), NLL).losses
            assert alone.tobytes() == batch[row : row + 1].tobytes()
    if classes == 4101 or dtype == "float32":
        assert agree(Given(x, y)).losses.tobytes() == batch.tobytes()


# ---- the odd rows of the law --------------------------------------------------------------------

INF, NAN = np.inf, np.nan

#: name -> (row, label): SEMANTICS.md section 4
ODD = {
    "masked": ([0.0, -INF, 1.0, -INF], 0),
    "target masked": ([0.0, -INF, 1.0, 2.0], 1),
    "all masked": ([-INF] * 4, 2),
    "all but the target masked": ([-INF, 3.0, -INF, -INF], 1),
    "one alive, not the target": ([-INF, 3.0, -INF, -INF], 0),
    "inf": ([0.0, INF, 1.0, 2.0], 0),
    "target inf": ([0.0, INF, 1.0, 2.0], 1),
    "nan": ([0.0, NAN, 1.0, 2.0], 0),
    "target nan": ([0.0, NAN, 1.0, 2.0], 1),
    "nan and inf": ([INF, NAN, -INF, 2.0], 2),
    "1e38 everywhere": ([1e38] * 4, 1),
    "lowest": ([-3e38] * 4, 1),
    "lowest but one": ([-3e38, -3e38, -3e38, 0.0], 1),
    "offset": ([1e6, 1e6 + 1, 1e6 - 2, 1e6], 3),
    "confident": ([20.0, 0.0, 0.0, 0.0], 0),
    "very confident": ([80.0, 0.0, 0.0, 0.0], 0),
    "very wrong": ([80.0, 0.0, 0.0, 0.0], 2),
    "late climb": ([-300.0, -200.0, -100.0, 0.0], 0),
    "tiny": ([1e-40, -1e-40, 0.0, 2e-40], 0),
}


def odd(classes, kind=np.float32):
    """The rows, as wide as `classes`: what is added is masked, but a little for a few rows."""
    x = np.full((len(ODD), classes, 1), -INF, kind)
    places = np.linspace(0, classes - 1, 4).astype(int)  # the ends and between
    y = np.zeros((len(ODD), 1), np.int64)
    for r, (row, t) in enumerate(ODD.values()):
        x[r, places, 0] = np.array(row).astype(kind)
        y[r] = places[t]
    return x, y


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(
    ("classes", "order"),
    [
        (5, "classes last"),
        (100, "classes last"),
        (130, "R"),
        (4103, "classes last"),
    ],
)
def test_odd_rows(classes, order, smoothing):
    x, y = odd(classes)
    with np.errstate(all="ignore"):
        agree(Given(x, y, smoothing=smoothing, order=order))


@pytest.mark.parametrize("kind", [s for s in ScoreKind if s != ScoreKind.LOGITS])
@pytest.mark.parametrize(("classes", "order"), [(5, "classes last"), (100, "classes last")])
def test_odd_probabilities(classes, order, kind):
    rows = [
        [0.0] * 4,
        [0.0, 1.0, 0.0, 0.0],
        [1.0, 0.0, 0.0, 0.0],
        [0.5, INF, 0.5, 0.0],
        [0.5, NAN, 0.5, 0.0],
        [NAN, 0.1, 0.2, 0.3],
        [-1.0, 0.5, 0.25, 2.0],
        [2.0, 3.0, 5.0, 0.0],
        [-1.0, 1.0, 0.0, 0.0],
        [1e-30, 2e-30, 1e-30, 0.0],
        [3e38, 1e38, 0.0, 0.0],
    ]
    x = np.zeros((len(rows), classes, 1), np.float32)
    x[:, np.linspace(0, classes - 1, 4).astype(int), 0] = rows
    y = np.zeros((len(rows), 1), np.int64)
    with np.errstate(all="ignore"):
        agree(Given(x, y, kind, order=order))


@pytest.mark.parametrize("classes", [7, 257, 4099])
@pytest.mark.parametrize("offset", [0.0, 1000.0, 1e6])
def test_losses_are_right_relative_to_themselves(classes, offset):
    """At any offset, and at gaps of up to 80: 1e-5 in float32."""
    rng = np.random.default_rng(int(offset) + classes)
    gap = rng.choice([-80, -40.5, -20.25, -7, 0], (24, classes, 1))
    x, y = (gap + offset).astype(np.float32), rng.integers(0, classes, (24, 1))
    x[np.arange(12), y[:12, 0], 0] = offset
    x[:12] = np.where(x[:12] == offset, np.float32(offset - 40.5), x[:12])
    x[np.arange(12), y[:12, 0], 0] = offset
    losses = run(Given(x, y), NLL).losses
    exact = numpy_formulas.nll(
        x.astype(np.float64), y, scores=ScoreKind.LOGITS, smoothing=0, eps=1e-7
    )
    np.testing.assert_allclose(losses, exact, 1e-5)


# ---- ignored, weights, labels -------------------------------------------------------------------


@pytest.mark.parametrize("kernel", GEOMETRIES)
def test_ignored_and_unweighted_positions_are_exact_zeros(kernel):
    shape, order, shift = GEOMETRIES[kernel]
    x, y = device.scores(shape, "float32")
    w = np.linspace(1, 2, y.size).reshape(y.shape)
    y.flat[1], w.flat[0] = 255, 0.0
    x[0, :, :] = np.nan
    x[:, :, y.shape[1] - 1][y[:, -1] == 255] = np.nan
    given = Given(x, y, order=order, shift=shift, ignored=(255,), w=w, reduced=True)
    made = run(given, BOTH)
    assert made.losses.flat[0] == made.losses.flat[1] == 0
    dead = made.dx.transpose(0, 2, 1).reshape(y.size, -1)[:2]
    assert not dead.any()
    assert not np.isnan(dead).any()
    _, kept, weight = made.result
    assert kept == y.size - 1
    np.testing.assert_allclose(weight, w.sum() - w.flat[1], 1e-14)


@pytest.mark.parametrize("ignored", [(), (3,), (3, -5), (0, 1, 2, 3, 4, -5)])
def test_ignored_classes(ignored):
    x, y = device.scores((40, 6, 1), "float32")
    y[5], y[6] = 3, -5
    made = run(Given(x, y, ignored=ignored), NLL)
    expected = numpy_formulas.nll(
        x, np.where(np.isin(y, ignored) | (y < 0), -1, y),
        scores=ScoreKind.LOGITS, smoothing=0, eps=1e-7,
    )  # fmt: skip
    if -5 not in ignored:
        expected[6] = np.nan
        assert named(made) == (6, params.LABEL_ZERO - 5)
    np.testing.assert_allclose(made.losses, expected, 4e-6)


@pytest.mark.parametrize(
    "dtype",
    [dtype for dtype in params.CODES if dtype != "bfloat16"],
)
def test_labels_of_every_dtype(dtype):
    x, y = device.scores((9, 2, 1), "float32")
    made = run(Given(x, y.astype(dtype), ignored=()), NLL)
    np.testing.assert_allclose(made.losses, device.expected(Given(x, y), 1.0)[0], 4e-6)
    assert made.error.tolist() == [NONE, NONE]


def test_labels_of_bfloat16():
    x, y = device.scores((9, 2, 1), "float32")
    made = run(Given(x, y.astype(DTYPES["bfloat16"]), ignored=()), NLL)
    np.testing.assert_allclose(made.losses, device.expected(Given(x, y), 1.0)[0], 4e-6)


@pytest.mark.parametrize(
    ("dtype", "bad", "code"),
    [
        ("int64", -1, params.LABEL_ZERO - 1),
        ("int64", 10, params.LABEL_ZERO + 10),
        ("int64", 2**62, params.ABOVE),
        ("int64", -(2**62), params.BELOW),
        ("int32", -(2**31), params.NA),
        ("uint64", 2**64 - 1, params.ABOVE),
        ("uint8", 255, params.LABEL_ZERO + 255),
        ("float64", 1.5, params.NOT_WHOLE),
        ("float64", np.nan, params.NAN),
        ("float32", np.inf, params.ALL_ABOVE),
        ("float32", -np.inf, params.ALL_BELOW),
        ("float64", 1e300, params.ABOVE),
    ],
)
def test_a_label_that_is_no_class(dtype, bad, code):
    """Its loss and gradient row are NaN, the others' are theirs, and the first is named."""
    x, y = device.scores((150, 10, 1), "float32")
    labels = y.astype(dtype)
    labels[140] = labels[70] = np.array(bad).astype(dtype)
    made = run(Given(x, labels, ignored=(3 * 10**9,)), BOTH)
    assert named(made) == (70, code)
    wrong = np.zeros(150, bool)
    wrong[[70, 140]] = True
    assert np.isnan(made.losses[wrong]).all()
    assert np.isnan(made.dx[wrong]).all()
    assert not np.isnan(made.losses[~wrong]).any()
    assert not np.isnan(made.dx[~wrong]).any()


@pytest.mark.parametrize("kernel", GEOMETRIES)
def test_bad_labels_in_every_kernel(kernel):
    shape, order, shift = GEOMETRIES[kernel]
    x, y = device.scores(shape, "float32")
    y.flat[-1] = shape[1]
    made = run(Given(x, y, order=order, shift=shift), BOTH)
    assert named(made) == (y.size - 1, params.LABEL_ZERO + shape[1])
    assert np.isnan(made.losses.flat[-1])
    assert np.isnan(made.dx[-1, :, -1]).all()
    assert not np.isnan(made.losses.flat[:-1]).any()


@pytest.mark.parametrize(
    ("dtype", "missing"),
    [
        ("int32", -(2**31)),
        ("float64", -(2**31)),
        ("float16", np.nan),
        ("float32", np.nan),
        ("float64", np.nan),
        ("bfloat16", np.nan),
    ],
)
def test_a_missing_weight_is_named(dtype, missing):
    x, y = device.scores((40, 6, 1), "float32")
    w = np.ones((40, 1), DTYPES.get(dtype, dtype))
    w[[4, 7, 9]] = missing
    y[4] = -1  # ignored: its weight is not read
    assert run(Given(x, y, w=w), NLL).error.tolist() == [NONE, 7]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "uint64", "float16", "float64"])
def test_weights_of_every_kind(dtype):
    x, y = device.scores((40, 6, 1), "float32")
    w = np.arange(40).reshape(40, 1) % 3
    by_class = np.linspace(0, 2, 6)
    made = run(Given(x, y, w=w.astype(dtype), by_class=by_class, reduced=True), BOTH)
    g = w.astype(dtype).astype(np.float64) * by_class[y]
    losses, dx = device.expected(Given(x, y), g)
    np.testing.assert_allclose(made.losses, losses * g, 4e-6)
    np.testing.assert_allclose(made.dx, dx, 4e-6, 1e-7)
    np.testing.assert_allclose(made.result, [(losses * g).sum(), 40, g.sum()], 1e-6)


# ---- reductions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [*GEOMETRIES, "gather"])
def test_sums_of_all_blocks(kernel):
    kind = ScoreKind.CLIP if kernel == "gather" else ScoreKind.LOGITS
    shape, order, shift = GEOMETRIES.get(kernel, ((600, 10, 1), "classes last", 0))
    x, y = device.scores(shape, "float32", kind)
    y.flat[3 % y.size] = -1
    given = Given(x, y, kind, order=order, shift=shift, reduced=True, by=KEPT, divisor=0.0)
    made = run(given, NLL)
    total, kept, weight = made.result
    np.testing.assert_allclose(total, made.losses.sum(), 1e-14)
    assert kept == weight == np.count_nonzero(y >= 0)
    assert made.value == np.float32(total / kept)
    assert made.counter == 0  # ready for the next call
    again = run(given, NLL)
    assert again.result.tobytes() == made.result.tobytes()


def test_a_call_of_several_slabs_is_one_sum():
    x, y = device.scores((300, 10, 1), "float32")
    whole = run(Given(x, y, reduced=True, by=KEPT), NLL)
    y[298] = 10
    parts = run(Given(x, y, reduced=True, by=KEPT, slabs=3), NLL)
    assert named(parts)[0] == 298
    y[298] = 0
    parts = run(Given(x, y, reduced=True, by=KEPT, slabs=3), NLL)
    assert parts.losses[:298].tobytes() == whole.losses[:298].tobytes()
    assert parts.result[1] == 300
    np.testing.assert_allclose(parts.result[0], parts.losses.sum(), 1e-14)
    assert parts.counter == 0


@pytest.mark.parametrize("by", [KEPT, WEIGHT])
def test_a_gradient_divided_by_what_was_counted(by):
    x, y = device.scores((150, 10, 1), "float32")
    y[9] = -1
    w = np.linspace(0, 2, 150).reshape(150, 1)
    counted = run(Given(x, y, w=w, reduced=True), Verb.COUNT).result
    assert counted[0] == 0
    made = run(Given(x, y, w=w, by=by, counted=counted, reduced=True), BOTH)
    assert made.result[1:].tolist() == counted[1:].tolist()
    _, dx = device.expected(Given(x, y), w / counted[by])
    np.testing.assert_allclose(made.dx, dx, 4e-6, 1e-9)
    assert made.value == np.float32(made.result[0] / counted[by])


def test_nothing_kept_is_zero():
    x, y = device.scores((40, 6, 1), "float32")
    y[:] = -1
    counted = run(Given(x, y, reduced=True), Verb.COUNT).result
    made = run(Given(x, y, by=KEPT, counted=counted, reduced=True), BOTH)
    assert made.value == 0
    assert not made.dx.any()


@pytest.mark.parametrize(
    ("dtype", "exact"),
    [
        ("float16", [1 + 2**-8, 1 + 2**-10, 3]),
        ("bfloat16", [1 + 2**-7, 1, 3]),
        ("float32", [1 + 2**-8, 1 + 2**-11, 3]),
    ],
)
def test_values_and_losses_are_rounded_once(dtype, exact):
    """1 + 2^-8 + 2^-30 lies above the middle of two bfloat16, and on it as a float32."""
    x, y = device.scores((3, 3, 1), "float64")
    wanted = np.array([1 + 2**-8 + 2**-30, 1 + 2**-11 + 2**-30, 3.0])
    w = wanted[:, None] / run(Given(x, y), NLL).losses
    made = run(Given(x, y, w=w, out=dtype), NLL)
    assert made.losses[:, 0].astype(float).tolist() == exact
    first = run(Given(x[:1], y[:1], w=w[:1], value=dtype, reduced=True), NLL)
    assert float(first.value) == exact[0]


# ---- ranks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "order", "dtype"),
    [
        ((150, 10, 1), "classes last", "float32"),
        ((9, 257, 1), "classes last", "bfloat16"),
        ((9, 257, 1), "classes last", "float64"),
        ((2, 21, 16), "classes first", "float32"),
        ((3, 21, 5), "classes first", "float16"),
    ],
)
def test_ranks(shape, order, dtype):
    x, y = device.scores(shape, dtype)
    x = np.round(x.astype(np.float64)).astype(x.dtype)  # some classes stand level
    x[1, 4, 0] = np.nan
    y.flat[2] = -1
    made = run(Given(x, y, order=order), Verb.RANK)
    np.testing.assert_array_equal(made.losses, numpy_formulas.rank(x, y))
    y.flat[-1] = shape[1]
    made = run(Given(x, y, order=order), Verb.RANK)
    assert made.losses.flat[-1] == shape[1]
    assert named(made)[0] == y.size - 1


# ---- the simulator is no easier than a GPU ------------------------------------------------------


def test_an_access_outside_an_array_is_seen():
    memory = ptx.Memory()
    address = memory.give(np.zeros(10, np.float32))
    for bad, size in ((address - 4, 4), (address + 40, 4), (address + 32, 16), (address + 2, 4)):
        with pytest.raises(ptx.Fault):
            memory.at(np.array([bad], np.uint64), size, "")


def simulated(body, shared=0, block=64):
    text = (
        ".visible .entry one(.param .u64 one_param_0)\n{\n"
        ".reg .pred %p<4>;\n.reg .b32 %r<9>;\n.reg .b64 %rd<9>;\n"
        "ld.param.u64 %rd1, [one_param_0];\nmov.u32 %r1, %tid.x;\n" + body + "\nret;\n}"
    )
    memory = ptx.Memory()
    to = memory.give(np.zeros(block, np.uint32))
    ptx.launch(ptx.parse(text), memory, [to], grid=1, block=block, shared=shared)
    return memory.back(to, np.uint32, block)


STORE = "mul.wide.u32 %rd2, %r1, 4;\nadd.s64 %rd3, %rd1, %rd2;\nst.global.u32 [%rd3], %r2;"


def test_a_shuffle_waits_for_lanes_that_went_another_way():
    swapped = simulated(
        "mov.u32 %r2, 5;\nsetp.lt.u32 %p1, %r1, 7;\n@%p1 bra A;\nmov.u32 %r2, 6;\nA:\n"
        "shfl.sync.bfly.b32 %r2, %r2, 1, 31, -1;\n" + STORE
    )
    assert swapped.tolist() == [5] * 6 + [6, 5] + [6] * 56


def test_threads_that_wait_for_ever_are_an_error():
    with pytest.raises(ptx.Fault, match="for ever"):
        simulated(
            "setp.lt.u32 %p1, %r1, 7;\n@%p1 bra A;\n"
            "shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1;\nA:\nbar.sync 0;"
        )


def test_a_copy_that_nobody_waited_for_has_not_arrived():
    early = simulated(
        "mov.u32 %r3, 0;\nsetp.ne.u32 %p1, %r1, 0;\n@%p1 bra A;\n"
        "cp.async.cg.shared.global [%r3], [%rd1], 16;\ncp.async.commit_group;\nA:\n"
        "bar.sync 0;\nld.shared.u32 %r2, [%r3];\n" + STORE,
        shared=16,
    )
    assert set(early) == {0xFFFFFFFF}
