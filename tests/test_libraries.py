"""One suite, every library: losses, values, gradients, metrics of torch, JAX and TensorFlow.

The same functions, at once and traced, are held against float64 NumPy and against the definition;
where NumPy's kernels run on a library's memory, against NumPy's bits. Concrete labels are refused
in NumPy's words; a traced one that is no class gives NaN.
"""

import math
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Collection
from typing import Any

import ml_dtypes
import numpy as np
import oracle
import pytest
from conftest import KINDS, REDUCTIONS, SHAPES, TOLERANCES, environment, require_peer
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from libraries import LIBRARIES, Library

import sparse_xent as sx

SPARSE, SOFT = sx.SparseCategoricalCrossentropy, sx.CategoricalCrossentropy
f = sx.loss_sparse_categorical_crossentropy
NAN, INF = math.nan, math.inf

#: Slopes are differences of numbers up to 1: what one may be off by beside its relative error.
SLOPE = {"float32": 3e-7, "float64": 1e-15}


#: Every case is traced, and mostly compiled, anew: where time counts these stand for the others.
QUICK = ("torch", "jax.jit", "tensorflow")
WARNS = pytest.mark.filterwarnings("ignore:y_pred must hold probabilities")


COMPILED = pytest.mark.slow_when(lambda library: library == "jax.jit")


def each(where: Callable[[type[Library]], bool], quick: Collection[str] = tuple(LIBRARIES)) -> Any:
    """A fixture: each library and way of calling of which this holds, slow but for the quick."""
    names = [name for name, library in LIBRARIES.items() if where(library)]

    def one(request: pytest.FixtureRequest) -> Library:
        return LIBRARIES[request.param]()

    marked = [pytest.param(n, marks=[] if n in quick else pytest.mark.slow) for n in names]
    return pytest.fixture(params=marked)(one)


library = each(lambda library: True, QUICK)
every_library = each(lambda library: True)
at_once = each(lambda library: not library.traces)
traced = each(lambda library: library.traces, QUICK)
on_memory = each(lambda library: library.on_memory)
in_operations = each(lambda library: not library.on_memory, QUICK)
without_memory = each(lambda library: not (library.traces or library.on_memory))


def case(
    shape: tuple[int, ...], axis: int, kind: str, dtype: str = "float32", seed: int = 0
) -> tuple[Any, Any]:
    """Labels and scores."""
    rng = np.random.default_rng(seed)
    x = 3 * rng.normal(size=shape)
    if kind != "logits":
        e = np.exp(x - x.max(axis, keepdims=True))
        x = e / e.sum(axis, keepdims=True)
        x[..., 0] *= 1.25  # sums are not 1
        x = x.clip(1e-6, 0.99)
    losses = np.delete(shape, axis)
    return rng.integers(0, shape[axis], losses), x.astype(dtype)


def wide(x: Any) -> Any:
    return x.astype("float64")


def opened(library: Library, x: Any, axis: int) -> Library:
    """The library, to which the first axis that is not the classes' has an unknown length."""
    lengths = np.delete(x.shape, axis).tolist()
    library.batch = lengths[0] if lengths and lengths[0] != x.shape[axis] else None
    return library


def narrow(a: Any) -> Any:
    """An array of 32 bits an element, as every library has them."""
    a = np.asarray(a)
    return a.astype({"i": "int32", "f": "float32"}.get(a.dtype.kind, a.dtype))


def close(got: Any, want: Any, dtype: str, slope: bool = False) -> None:
    np.testing.assert_allclose(
        np.asarray(got, "float64"),
        np.asarray(want, "float64"),
        rtol=TOLERANCES[dtype] * (10 if slope else 1),
        atol=SLOPE[dtype] if slope else 0,
    )


# ---- values and gradients ------------------------------------------------------------------------


@pytest.mark.slow_when(
    lambda library, kind, smoothing, shape: (
        library == "jax.jit" and (kind != "logits" or bool(smoothing) or shape != "channels first")
    )
)
@pytest.mark.slow_when(lambda shape, smoothing: smoothing and shape != "channels first")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", ["some classes", "channels first", "classes first"])
def test_losses_are_numpys(library: Library, shape: str, kind: str, smoothing: float) -> None:
    lengths, axis = SHAPES[shape]
    y, x = case(lengths, axis, kind)
    options = {**KINDS[kind], "axis": axis, "label_smoothing": smoothing}
    opened(library, x, axis)
    got = library.call(lambda x, y: f(y, x, **options), x, y.astype("int32"))
    assert got.dtype == np.float32
    close(got, f(y, wide(x), **options), "float32")


@pytest.mark.slow_when(lambda shape, dtype: shape != "two rows" and dtype != "bfloat16")
@pytest.mark.slow_when(lambda shape: shape in ("few classes", "many classes", "classes first"))
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_on_its_memory_give_numpys_bits(
    on_memory: Library, shape: str, kind: str, dtype: str
) -> None:
    """Losses, values, their gradients and those of soft targets, with every reduction."""
    lengths, axis = SHAPES[shape]
    y, x = case(lengths, axis, kind)
    x = x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    w = np.random.default_rng(1).random(y.shape)
    options: dict[str, Any] = {**KINDS[kind], "axis": axis}
    soft = np.moveaxis(0.8 * np.eye(x.shape[axis])[y] + 0.04, -1, axis)
    sent = [on_memory.to_library(a) for a in (y, x, w)]
    results = [(f(*sent[:2], **options), f(y, x, **options))]
    if kind in ("logits", "before"):
        one_hot = SOFT(from_logits=kind == "logits", axis=axis)
        got = one_hot.value_and_grad(on_memory.to_library(soft), sent[1])
        results += zip(got, one_hot.value_and_grad(soft, x), strict=True)
    for reduction in REDUCTIONS:
        loss = SPARSE(**options, reduction=reduction, label_smoothing=0.1)
        want = loss.value_and_grad(y, x, w)
        results += zip(loss.value_and_grad(*sent), want, strict=True)
        results.append((loss(*sent), want[0]))
    loss = SPARSE(**options)
    results.append(
        (on_memory.gradient(lambda x, y: loss(y, x), x, y), loss.value_and_grad(y, x)[1])
    )
    for got, want in results:
        got = got if isinstance(got, np.ndarray) else on_memory.to_numpy(got)
        want = np.asarray(want)
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert got.tobytes() == want.tobytes()


@pytest.mark.slow_when(
    lambda library, kind, smoothing: (
        library == "jax.jit" and (smoothing != 0.1 or kind in ("before", "never"))
    )
)
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_in_float64_too(library: Library, kind: str, smoothing: float) -> None:
    y, x = case((40, 7), -1, kind, "float64")
    loss = SPARSE(**KINDS[kind], label_smoothing=smoothing, dtype="float64", reduction="sum")
    value, gradient = loss.value_and_grad(y, x)
    with opened(library, x, -1).wide():
        close(library.call(lambda x, y: loss(y, x), x, y), value, "float64")
        close(library.gradient(lambda x, y: loss(y, x), x, y), gradient, "float64", slope=True)


@pytest.mark.slow_when(
    lambda library, weights, reduction: (
        library == "jax.jit" and (weights != "all" or reduction == "sum")
    )
)
@pytest.mark.parametrize("weights", ["none", "one a sample", "all", "by class"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_reductions_and_weights_are_numpys(
    library: Library, reduction: str | None, weights: str
) -> None:
    y, x = case((30, 4, 6), -1, "logits")
    rng = np.random.default_rng(1)
    y[rng.random(y.shape) < 0.3] = 255
    w = {"one a sample": rng.random(30), "all": rng.random((30, 4, 1))}.get(weights)
    by_class = np.linspace(0.5, 2, 6) if weights == "by class" else None
    loss = SPARSE(from_logits=True, ignore_class=255, reduction=reduction, class_weight=by_class)
    value, gradient = loss.value_and_grad(y, wide(x), w)
    sent = (y.astype("int32"), *([] if w is None else [w.astype("float32")]))

    def total(x: Any, *others: Any) -> Any:
        return library.total(loss(others[0], x, *others[1:]))

    opened(library, x, -1)
    got = library.call(lambda x, *others: loss(others[0], x, *others[1:]), x, *sent)
    close(got, value, "float32")
    slope = library.gradient(total, x, *sent)
    assert slope.dtype == np.float32
    close(slope, gradient, "float32", slope=True)
    assert (slope[y == 255] == 0).all()


@COMPILED
@pytest.mark.slow_when(lambda upstream: upstream != -3.0)
@pytest.mark.parametrize("upstream", [1.0, -3.0, 0.0, 65536.0, 1e-30])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_what_comes_after_is_differentiated_through(
    library: Library, reduction: str | None, upstream: float
) -> None:
    y, x = case((6, 5, 4), 1, "logits", "float64")
    w = np.random.default_rng(1).random(y.shape)
    loss = SPARSE(
        from_logits=True, axis=1, reduction=reduction, ignore_class=2, dtype="float64",
        class_weight=[1, 2, 3, 0.5, 0],
    )  # fmt: skip
    value, gradient = loss.value_and_grad(y, x, w)
    with library.wide():
        close(library.call(lambda x, y, w: loss(y, x, w), x, y, w), value, "float64")
        slope = library.gradient(lambda x, y, w: library.total(loss(y, x, w) * upstream), x, y, w)
    np.testing.assert_allclose(slope, upstream * gradient, 1e-11, 1e-15 * abs(upstream))
    assert (slope[gradient == 0] == 0).all()


@COMPILED
def test_each_loss_has_its_own_upstream(library: Library) -> None:
    y, x = case((7, 5), -1, "logits", "float64")
    up = np.random.default_rng(1).random(7) - 0.5
    want = SPARSE(from_logits=True, reduction="sum", dtype="float64").value_and_grad(y, x, up)[1]
    with library.wide():
        slope = library.gradient(lambda x, y, u: library.total(f(y, x, True) * u), x, y, up)
    close(slope, want, "float64", slope=True)


@pytest.mark.parametrize(
    "form", ["a number", "its own", "array", "list", "first axis", "(B, 1, 1)"]
)
def test_weights_are_of_any_form(at_once: Library, form: str) -> None:
    y, x = case((6, 5, 4), 1, "logits")
    w: Any = np.random.default_rng(1).random((6, 4))
    w = {"a number": 2.5, "first axis": w[:, 0], "(B, 1, 1)": w[:, :1, None]}.get(form, w)
    sent: Any = {"a number": w, "array": w}.get(form)
    if sent is None:
        sent = w.tolist() if form == "list" else at_once.to_library(narrow(w))
    loss = SPARSE(from_logits=True, axis=1)
    value, gradient = loss.value_and_grad(y, wide(x), w)
    scores = at_once.to_library(x)
    close(at_once.to_numpy(loss(y, scores, sent)), value, "float32")
    slope = at_once.gradient(lambda x: loss(y, x, sent), x)
    close(slope, gradient, "float32", slope=True)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_scores_lie_in_any_layout(at_once: Library, axis: int) -> None:
    y, x = case((6, 5, 4), axis, "logits")
    w = np.random.default_rng(1).random(y.shape).astype("float32")
    loss = SPARSE(from_logits=True, axis=axis)
    value, gradient = loss.value_and_grad(y, wide(x), w)
    labels, weights = at_once.to_library(y.astype("int32")), at_once.to_library(w)
    for laid in at_once.layouts.values():
        scores = laid(at_once.to_library(x))
        close(at_once.to_numpy(loss(labels, scores, weights)), value, "float32")
        losses = at_once.to_numpy(f(labels, scores, True, axis=axis))
        close(losses, f(y, wide(x), True, axis=axis), "float32")
        derivative = at_once.differentiated(lambda x: loss(labels, x, weights))
        close(at_once.to_numpy(derivative(scores)), gradient, "float32", slope=True)


@pytest.mark.slow_when(
    lambda library, shape, kind: (
        library == "jax.jit" and (shape != "channels first" or kind in ("before", "never"))
    )
)
@pytest.mark.slow_when(lambda shape: shape == "classes first")
@pytest.mark.parametrize("shape", ["channels first", "classes first", "classes in the middle"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_numpys_on_any_axis(library: Library, kind: str, shape: str) -> None:
    lengths, axis = SHAPES[shape]
    y, x = case(lengths, axis, kind)
    loss = SPARSE(**KINDS[kind], axis=axis)
    opened(library, x, axis)
    got = library.gradient(lambda x, y: loss(y, x), x, np.expand_dims(y, axis).astype("int32"))
    close(got, loss.value_and_grad(y, wide(x))[1], "float32", slope=True)


# ---- accuracy ------------------------------------------------------------------------------------

#: Logits whose losses or slopes are lost by log(sum) + m - x_t, or by p_t - 1.
NEAR_0: list[list[float]] = [
    [20, 0, 0],
    [40, 0, 0],
    [60, -10, 0],
    [80, 0, -20],
    [1e6, 1e6 - 30, 1e6 - 40],
    [-1e6, -1e6 - 17, -1e6 - 40],
    [3, -INF, -12],
    [1e38, 1e38, 1e38],
    [0, 5, 70],
]


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_loss_near_0_keeps_its_digits(every_library: Library, dtype: str) -> None:
    x = np.array(NEAR_0, dtype)
    y = np.zeros(len(x), "int32")
    definition = oracle.Definition(from_logits=True, reduction="sum")
    losses = definition.per_label(y, x)
    _, gradient = definition.value_and_gradient(y, x)
    loss = SPARSE(from_logits=True, reduction="sum", dtype=dtype)
    with opened(every_library, x, -1).wide():
        got = every_library.call(lambda x, y: f(y, x, True), x, y)
        slope = every_library.gradient(lambda x, y: loss(y, x), x, y)
    oracle.assert_close(got, losses, TOLERANCES[dtype])
    # A subnormal slope may be taken for 0, as compilers of floats do.
    oracle.assert_close(slope, gradient, TOLERANCES[dtype], atol=float(np.finfo(dtype).tiny))


@pytest.mark.slow_when(lambda library, smoothing: library == "jax.jit" and smoothing != 0.1)
@WARNS
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_strange_scores_are_the_definition_s(library: Library, kind: str, smoothing: float) -> None:
    if kind == "logits":
        rows = [
            [0, -INF, 1], [-INF, 0, 1], [0, INF, 1], [INF, 0, 1], [0, NAN, 1], [NAN, 0, -INF],
            [-INF] * 3, [INF, NAN, 0], [1e38] * 3, [3e38, -3e38, 0], [-3e38, 3e38, 0],
        ]  # fmt: skip
    else:
        rows = [
            [0.5, INF, 0.5], [0.5, NAN, 0.5], [NAN, 0.5, 0.5], [0, 0, 0], [1, 0, 0], [0, 1, 0],
            [2, 3, 5], [-1, 0.5, 1.5], [0.5, -0.5, 0], [0, -INF, 1], [INF, 0, 0], [1e-8, 0.5, 0.5],
        ]  # fmt: skip
    x = np.array(rows, "float32")
    y = np.zeros(len(x), "int32")
    options = {**KINDS[kind], "label_smoothing": smoothing}
    definition = oracle.Definition(**options, reduction="sum")
    _, gradient = definition.value_and_gradient(y, x)
    loss = SPARSE(**options, reduction="sum")
    opened(library, x, -1)
    got = library.call(lambda x, y: f(y, x, **options), x, y)
    oracle.assert_close(got, definition.per_label(y, x), 2e-5)
    slope = library.gradient(lambda x, y: loss(y, x), x, y)
    oracle.assert_close(slope, gradient, 2e-5, atol=1e-6)


@COMPILED
def test_halves_are_computed_in_float32(library: Library) -> None:
    y, x = case((50, 7), -1, "logits")
    opened(library, x, -1)
    loss = SPARSE(from_logits=True)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        halves = x.astype(dtype)
        got = library.call(lambda x, y: f(y, x, True), halves, y.astype("uint8"))
        assert got.dtype == dtype
        assert (got == f(y, wide(halves), True).astype(dtype)).mean() > 0.9  # the rest: one ulp
        slope = library.gradient(lambda x, y: loss(y, x), halves, y.astype("uint8"))
        assert slope.dtype == dtype
        want = loss.value_and_grad(y, wide(halves))[1]
        np.testing.assert_allclose(wide(slope), want, rtol=2**-7, atol=1e-7)


@COMPILED
def test_a_float16_mean_of_many_losses_is_right(library: Library) -> None:
    x = np.full((70_000, 2), 0, np.float16)
    y = np.zeros(70_000, "int32")
    loss = SPARSE(from_logits=True, dtype="float16")
    assert library.call(lambda x, y: loss(y, x), x, y) == np.float16(math.log(2))


@COMPILED
def test_dtype_is_the_result_s(library: Library) -> None:
    y, x = case((9, 4), -1, "logits")
    with opened(library, x, -1).wide():
        got = library.call(lambda x, y: f(y, x, True, dtype="float64"), x, y)
        assert got.dtype == np.float64
        close(got, f(y, wide(x), True), "float64")
        got = library.call(lambda x, y: f(y, x, True, dtype="float16"), x, y)
        assert got.dtype == np.float16


@COMPILED
def test_whole_numbers_count_as_float32(library: Library) -> None:
    x = np.array([[1, 2, 3], [3, 2, 1]], "int32")
    got = library.call(lambda x, y: f(y, x, True), x, np.array([0, 2]).astype("int32"))
    assert got.dtype == np.float32
    close(got, f([0, 2], wide(x), True), "float32")


@COMPILED
def test_epsilon_is_the_process_s_at_each_call(library: Library) -> None:
    p = np.array([[0, 1, 0], [0.25, 0.5, 0.25]], "float32")
    y = np.array([0, 1], "int32")
    before = sx.config_epsilon()
    try:
        for epsilon in (1e-3, 0.0, 1e-7):
            sx.config_set_epsilon(epsilon)
            close(library.call(lambda x, y: f(y, x), p, y), f(y, p), "float32")
    finally:
        sx.config_set_epsilon(before)


# ---- shapes at the edge --------------------------------------------------------------------------


def test_one_row_has_one_loss(every_library: Library) -> None:
    for y in (1, [1]):
        got = every_library.call(lambda x, y: f(y, x, True), np.float32([1, 2, 3]), np.int32(y))
        assert got.shape == ()
        close(got, f(1, [1.0, 2, 3], True), "float32")
    assert every_library.call(
        lambda x, y: f(y, x, True), np.float32([[1, 2]]), np.int32(1)
    ).shape == (1,)


def test_one_class_costs_0_and_is_warned_of(library: Library) -> None:
    loss, x, y = SPARSE(from_logits=True), np.float32([[1], [2]]), np.int32([0, 0])
    with pytest.warns(UserWarning, match="y_pred must hold at least two classes"):
        assert library.call(lambda x, y: loss(y, x), x, y) == 0
    with pytest.warns(UserWarning, match="y_pred must hold at least two classes"):
        assert (library.gradient(lambda x, y: loss(y, x), x, y) == 0).all()


@COMPILED
def test_no_label_costs_0(library: Library) -> None:
    x, y = np.zeros((0, 3), "float32"), np.zeros(0, "int32")
    assert library.call(lambda x, y: f(y, x, True), x, y).shape == (0,)
    for reduction in REDUCTIONS[:3]:
        loss = SPARSE(from_logits=True, reduction=reduction)
        assert library.call(lambda x, y, loss=loss: loss(y, x), x, y) == 0
        assert library.gradient(lambda x, y, loss=loss: loss(y, x), x, y).shape == (0, 3)


@COMPILED
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_where_every_label_is_ignored_all_is_0(library: Library, reduction: str | None) -> None:
    loss = SPARSE(from_logits=True, reduction=reduction, ignore_class=1)
    x, y = np.float32([[1, NAN, 2], [INF, 1, 1]]), np.int32([1, 1])
    assert (library.call(lambda x, y: loss(y, x), x, y) == 0).all()
    slope = library.gradient(lambda x, y: library.total(loss(y, x) * 3), x, y)
    assert (slope == 0).all()


@COMPILED
@pytest.mark.slow_when(lambda ignored: not isinstance(ignored, list))
@pytest.mark.parametrize("ignored", [2, [0, 2], -100, [255, -1]])
def test_an_ignored_label_costs_exactly_nothing(library: Library, ignored: Any) -> None:
    y, x = case((9, 4), -1, "logits")
    y[[1, 4]] = ignored[0] if isinstance(ignored, list) else ignored
    x[1] = NAN
    loss = SPARSE(from_logits=True, ignore_class=ignored)
    value, gradient = loss.value_and_grad(y, wide(x))
    y = y.astype("int32")
    opened(library, x, -1)
    losses = library.call(lambda x, y: f(y, x, True, ignored), x, y)
    assert losses[[1, 4]].tolist() == [0, 0]
    close(library.call(lambda x, y: loss(y, x), x, y), value, "float32")
    slope = library.gradient(lambda x, y: loss(y, x), x, y)
    assert (slope[[1, 4]] == 0).all()
    close(slope, gradient, "float32", slope=True)


@pytest.mark.slow_when(
    lambda library, kind, smoothing: library == "jax.jit" and (kind != "before" or smoothing == 0)
)
@pytest.mark.slow_when(lambda known: not known)
@pytest.mark.parametrize("known", [True, False], ids=["known weights", "weights as arguments"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_an_infinite_weight_times_a_slope_of_0_is_0(
    library: Library, kind: str, smoothing: float, known: bool
) -> None:
    """Of a class that is masked, or whose probability is clipped, as of any slope of 0."""
    x = np.float32([[0.5, 0, 0.5], [0.1, 0.8, 0.1], [0, 0, 1], [0.3, 0.3, 0.4]])
    if kind == "logits":
        x = np.float32([[1, -INF, 2], [0, 1, 2], [-INF, -INF, 0], [1, 2, 3]])
    y, w = np.int32([0, 1, 2, 7]), np.float32([INF, 1, -INF, INF])
    for options in ({}, {"class_weight": [INF, 1, 1]}):
        loss = SPARSE(
            **KINDS[kind], label_smoothing=smoothing, ignore_class=7, reduction="sum", **options
        )
        w = w if not options else np.float32([1, 1, 1, 1])
        value, gradient = loss.value_and_grad(y, wide(x), w)
        if known:
            got = library.call(lambda x, y, loss=loss, w=w: loss(y, x, w), x, y)
            slope = library.gradient(lambda x, y, loss=loss, w=w: loss(y, x, w), x, y)
        else:
            got = library.call(lambda x, y, w, loss=loss: loss(y, x, w), x, y, w)
            slope = library.gradient(lambda x, y, w, loss=loss: loss(y, x, w), x, y, w)
        close(got, value, "float32")
        close(slope, gradient, "float32", slope=True)
        assert (slope[gradient == 0] == 0).all()
        assert np.isinf(slope).any()


@COMPILED
@WARNS
def test_an_infinite_weight_of_a_soft_target_too(library: Library) -> None:
    x, a = np.float32([[0.5, 0, 0.5], [0.1, 0.8, 0.1]]), np.float32([[0, 0, 1], [0, 1, 0]])
    w = np.float32([INF, 1])
    for logits in (True, False):
        scores = np.where(x == 0, np.float32(-INF), x) if logits else x
        loss = SOFT(from_logits=logits, reduction="sum")
        slope = library.gradient(lambda x, a, w, loss=loss: loss(a, x, w), scores, a, w)
        want = loss.value_and_grad(wide(a), wide(scores), w)[1]
        close(slope, want, "float32", slope=True)


@pytest.mark.slow_when(
    lambda library, reduction: library == "jax.jit" and reduction != "mean_with_sample_weight"
)
@pytest.mark.parametrize("reduction", REDUCTIONS[:3])
def test_what_does_not_count_is_0_even_of_nan(library: Library, reduction: str) -> None:
    x = np.float32([[NAN, 0, 1], [INF, 0, 1], [0, -INF, 2], [1, 2, 3]])
    y, w = np.int32([7, 0, 1, 2]), np.float32([1, 0, 0, 1])
    loss = SPARSE(from_logits=True, ignore_class=[7, -1], reduction=reduction)
    expected = loss.value_and_grad(y, wide(x), w)
    opened(library, x, -1)
    close(library.call(lambda x, y, w: loss(y, x, w), x, y, w), expected[0], "float32")
    slope = library.gradient(lambda x, y, w: loss(y, x, w), x, y, w)
    close(slope, expected[1], "float32", slope=True)
    assert (slope[:3] == 0).all()
    nothing = np.float32([1, 0, 0, 0])
    assert library.call(lambda x, y, w: loss(y, x, w), x, y, nothing) == 0
    assert (library.gradient(lambda x, y, w: loss(y, x, w), x, y, nothing) == 0).all()
    by_class = SPARSE(from_logits=True, ignore_class=7, class_weight=[0, 0, 1], reduction=reduction)
    slope = library.gradient(lambda x, y: by_class(y, x), x, y)
    assert (slope[:3] == 0).all()
    assert np.isfinite(slope).all()


# ---- labels --------------------------------------------------------------------------------------

LABELS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
          "float16", "bfloat16", "float32", "float64")  # fmt: skip


@pytest.mark.slow_when(
    lambda library, dtype: library == "jax.jit" and dtype not in ("int8", "uint64", "bfloat16")
)
@pytest.mark.parametrize("dtype", LABELS)
def test_labels_are_of_any_dtype(library: Library, dtype: str) -> None:
    _, x = case((4, 3), -1, "logits")
    y = np.array([0, 1, 1, 0]).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    opened(library, x, -1)
    options: dict[str, Any] = {"from_logits": True, "ignore_class": [-1, 70_000, 2**40]}
    with library.wide():
        got = library.call(lambda x, y: f(y, x, **options), x, y)
    close(got, f(y, wide(x), **options), "float32")


def test_labels_are_of_any_form(at_once: Library) -> None:
    y, x = case((8, 5), -1, "logits")
    scores, own = at_once.to_library(x), at_once.to_library(y.astype("int32"))
    want = f(y, wide(x), True)
    forms: list[Any] = [y, y.tolist(), y[:, None], own, own[:, None]]
    forms += [y.astype(d) for d in ("uint64", ">i2", "float64")]
    for sent in forms:
        close(at_once.to_numpy(f(sent, scores, True)), want, "float32")
        slope = at_once.gradient(lambda x, y=sent: at_once.total(f(y, x, True)), x)
        assert slope.shape == x.shape


BAD_LABELS = {
    "int32": [0, 3, -1, 2, -2147483648, 7],
    "int8": [0, 3, -1, 2, -128, 7],
    "uint8": [0, 3, 255, 2, 128, 7],
    "uint32": [0, 3, 2**32 - 1, 2, 2**31, 7],
    "uint64": [0, 3, 2**64 - 1, 2, 2**63, 7],
    "float32": [0, 0.5, NAN, 2, INF, 7],
}


@pytest.mark.slow_when(
    lambda library, dtype: library == "jax.jit" and dtype not in ("int32", "uint32")
)
@pytest.mark.parametrize("dtype", BAD_LABELS)
def test_a_traced_label_that_is_no_class_gives_nan(library: Library, dtype: str) -> None:
    """Classes are 0, 1 and 2, and 7 is ignored; so is -1 where there can be none."""
    y = np.array(BAD_LABELS[dtype], dtype)
    _, x = case((6, 3), -1, "logits")
    ignored = 7 if dtype in ("int32", "int8", "float32") else [7, -1]
    loss = SPARSE(from_logits=True, ignore_class=ignored, reduction="sum")
    losses = SPARSE(from_logits=True, ignore_class=ignored, reduction=None)
    good = np.array([True, False, False, True, False, True])
    opened(library, x, -1)
    with library.wide():
        if not library.traces:
            with pytest.raises(ValueError, match="^y_true must hold whole numbers from 0 to 2"):
                library.call(lambda x, y: loss(y, x), x, y)
            return
        got = library.call(lambda x, y: losses(y, x), x, y)
        slope = library.gradient(lambda x, y: loss(y, x), x, y)
        assert np.isnan(library.call(lambda x, y: loss(y, x), x, y))
    assert (np.isfinite(got) == good).all()
    assert (np.isfinite(slope).all(1) == good).all()
    assert (np.isnan(slope).all(1) == ~good).all()
    want = losses.value_and_grad(np.array([0, 2, 7]), wide(x[good]))
    close(got[good], want[0], "float32")
    close(slope[good], want[1], "float32", slope=True)


@pytest.mark.slow_when(lambda kind, reduction: kind != "after" or reduction == "sum")
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_traced_label_is_nan_whatever_its_weight(
    traced: Library, kind: str, reduction: str | None
) -> None:
    _, x = case((2, 3), -1, kind)
    y, w = np.int32([5, 0]), np.float32([0, 0])
    loss = SPARSE(**KINDS[kind], reduction=reduction)
    got = traced.call(lambda x, y, w: loss(y, x, w), x, y, w)
    assert np.isnan(got if reduction else got[0])
    if reduction:
        slope = traced.gradient(lambda x, y, w: loss(y, x, w), x, y, w)
        assert np.isnan(slope[0]).all()
        assert (slope[1] == 0).all()


def test_a_missing_traced_weight_gives_nan(every_library: Library) -> None:
    y, x = np.int32([0, 7, 1]), np.zeros((3, 2), "float32")
    loss = SPARSE(from_logits=True, reduction=None, ignore_class=7)
    for missing in (NAN, -(2.0**31)):
        w = np.float32([missing, missing, 1])
        if every_library.traces:
            got = every_library.call(lambda x, y, w: loss(y, x, w), x, y, w)
            assert np.isnan(got).tolist() == [True, False, False]
        else:
            with pytest.raises(
                ValueError, match=r"^sample_weight must hold numbers: got .* \(0,\)"
            ):
                every_library.call(lambda x, y, w: loss(y, x, w), x, y, w)


# ---- refusals ------------------------------------------------------------------------------------

P = np.float32([[0.2, 0.5, 0.3], [0.1, 0.8, 0.1]])
REFUSED: dict[str, tuple[Any, Any, Any, dict[str, Any]]] = {
    "out of range": ([0, 3], P, None, {}),
    "more of them": ([5, 3], P, None, {}),
    "negative": ([-1, 0], P, None, {}),
    "void": ([255, 0], P, None, {}),
    "1-based": ([3, 1], P, None, {}),
    "NA": ([-(2**31), 0], P, None, {}),
    "NaN": ([NAN, 0], P, None, {}),
    "half": ([0.5, 1.0], P, None, {}),
    "text": (["a", "b"], P, None, {}),
    "complex labels": (np.complex64([0, 1]), P, None, {}),
    "one-hot": (np.eye(3)[[0, 1]], P, None, {}),
    "shape": ([0, 1, 2], P, None, {}),
    "a scalar": (1, P, None, {}),
    "swapped": (P, np.float32([0, 1]), None, {}),
    "0-d": ([0], np.float32(1), None, {}),
    "axis": ([0, 1], P, None, {"axis": 2}),
    "another axis": ([0, 1, 1], P, None, {}),
    "no class": ([0, 1], np.zeros((2, 0), "float32"), None, {}),
    "complex": ([0, 1], P.astype("complex64"), None, {}),
    "class weights": ([0, 1], P, None, {"class_weight": [1.0, 2.0]}),
    "no such class": ([0, 1], P, None, {"class_weight": {3: 1.0}}),
    "weights that do not fit": ([0, 1], P, [1.0, 2, 3], {}),
    "square weights": ([0, 1], P, [[1.0, 1], [1, 1]], {}),
    "a weight missing": ([0, 1], P, [NAN, 1], {}),
    "R's NA as a weight": ([0, 1], P, [1, -(2.0**31)], {}),
    "text as weights": ([0, 1], P, ["a", "b"], {}),
}
#: What is said differently while JAX traces the scores: their values are not known.
UNSEEN = ("swapped", "0-d")


def said(call: Callable[[], Any]) -> tuple[type[BaseException], str]:
    """The refusal of a call: its kind and its one line."""
    with pytest.raises((TypeError, ValueError)) as refusal:
        call()
    assert "\n" not in str(refusal.value)
    return refusal.type, str(refusal.value)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_reads_the_same_from_every_library(
    at_once: Library, name: str, reduction: str | None
) -> None:
    """Word for word as of NumPy's arrays; of the library's own labels and weights, or of lists."""
    y, x, w, options = REFUSED[name]
    loss, scores = SPARSE(**options, reduction=reduction), at_once.to_library(x)
    differentiable = np.asarray(x).dtype.kind == "f" and name not in UNSEEN

    def gradient(y: Any, w: Any) -> Any:
        total = at_once.differentiated(lambda x: at_once.total(loss(y, x, w)))
        return total(scores)

    expected = said(lambda: loss(y, x, w))
    assert said(lambda: loss(y, scores, w)) == expected
    if differentiable:
        assert said(lambda: gradient(y, w)) == expected
    if "text" in name:
        return
    y, w = narrow(y), None if w is None else narrow(w)
    expected = said(lambda: loss(y, x, w))
    y, w = at_once.to_library(y), None if w is None else at_once.to_library(w)
    assert said(lambda: loss(y, scores, w)) == expected
    if differentiable:
        assert said(lambda: gradient(y, w)) == expected


def test_scores_that_are_no_probabilities_are_warned_of_in_numpys_words(at_once: Library) -> None:
    """Once a call, at its line; the value stands."""
    logits = np.float32([[0.5, 0.5, 0], [3, -2, 1], [0.5, 70, 0], [0.1, 0.8, 0.1]])
    y = np.int32([0, 1, 7, 2])
    soft = np.float32([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]])
    percentages = np.float32([[20, 50, 30], [10, 80, 10], [1, 1, 98], [0, 1, 99]])
    for x in (logits, percentages, logits.astype("float16"), logits.T):
        axis = -1 if len(x) == 4 else 0
        targets = np.moveaxis(soft, -1, axis)
        loss = SPARSE(ignore_class=7, axis=axis)
        calls: list[Callable[[Any], Any]] = [
            lambda x, loss=loss: loss(y, x),
            lambda x, axis=axis: f(y, x, ignore_class=7, axis=axis),
            lambda x, axis=axis: SPARSE(reduction=None, axis=axis)(y % 7, x),
            lambda x, axis=axis: SPARSE(normalize="never", axis=axis, ignore_class=7)(y, x),
            lambda x, axis=axis: SPARSE(normalize="before", label_smoothing=0.1, axis=axis)(
                y % 7, x
            ),
            lambda x, axis=axis, a=targets: SOFT(axis=axis)(a, x),
        ]
        for call in calls if x is logits else calls[:1]:
            with pytest.warns(UserWarning, match="^y_pred must hold probabilities") as expected:
                want = call(x)
            with pytest.warns(UserWarning, match="^y_pred must hold probabilities") as seen:
                got = call(at_once.to_library(x))
            assert [str(w.message) for w in seen] == [str(w.message) for w in expected]
            assert len(seen) == 1
            assert seen[0].filename == __file__
            np.testing.assert_allclose(
                at_once.to_numpy(got), want, 2e-3 if x.itemsize == 2 else 1e-5
            )
        if at_once.warns_in_gradients:
            with pytest.warns(UserWarning, match="^y_pred must hold probabilities") as seen:
                at_once.gradient(lambda x, loss=loss: loss(y, x) * 2, x)
            assert len(seen) == 1
            assert seen[0].filename == __file__


def test_nobody_is_warned_of_what_may_be_or_does_not_count(library: Library) -> None:
    fine = np.float32([[-1e-4, 1.0005, 0], [NAN, 0.5, 0.5], [5, 5, -5]])
    y = np.int32([0, 1, 7])
    for loss in (SPARSE(ignore_class=7), SPARSE(from_logits=True, ignore_class=7)):
        library.call(lambda x, y, loss=loss: loss(y, x), fine, y)
    target_only = SPARSE(normalize="never", ignore_class=7)
    library.call(lambda x, y: target_only(y, x), np.float32([[0.5, 9], [9, 0.5]]), np.int32([0, 1]))
    if library.traces:
        logits = np.float32([[3, -2, 1]])
        library.call(lambda x, y: SPARSE()(y, x), logits, np.int32([0]))
        # Of constants, too, nothing is known before what is traced runs.
        constant = library.to_library(logits)
        library.call(lambda x: SPARSE()([0], constant) + x, np.float32(1))


def test_traced_shapes_are_refused_in_one_line(library: Library) -> None:
    for y, w, line in [
        ([0, 1, 2], None, r"y_true must have y_pred's shape without axis 1: expected \(2,\) or"),
        (np.eye(3)[[0, 1]], None, "its labels look one-hot: use loss_categorical_crossentropy"),
        ([0, 1], [1.0, 2, 3], r"sample_weight must have the losses' shape \(2,\)"),
        (np.complex64([0, 1]), None, "y_true must hold whole numbers.*complex"),
    ]:
        sent = [P, narrow(y), *([] if w is None else [narrow(w)])]
        with pytest.raises((TypeError, ValueError), match=line):
            library.call(lambda x, y, *w: SPARSE()(y, x, *w), *sent)


def test_the_way_out_of_traced_one_hot_labels_can_be_traced(traced: Library) -> None:
    y, one_hot = np.int32([0, 1]), np.eye(3, dtype="float32")[[0, 1]]
    with pytest.raises(ValueError, match="its labels look one-hot") as refusal:
        traced.call(lambda x, y: SPARSE()(y, x), P, one_hot)
    expression = re.search(r", or argmax \((.*)\)", str(refusal.value))
    assert expression is not None
    named = {"jax": lambda: traced.jax, "tensorflow": lambda: traced.tf}[traced.name]()

    def way_out(x: Any, y_true: Any) -> Any:
        names = {"jax": named, "tf": named, "y_true": y_true}
        return SPARSE()(eval(expression[1], names), x)

    close(traced.call(way_out, P, one_hot), SPARSE()(y, wide(P)), "float32")


def test_value_and_grad_and_device_are_for_memory(without_memory: Library) -> None:
    x = without_memory.to_library(P)
    way_out = {"jax": r"jax\.value_and_grad\(lambda x: loss\(y_true, x\)\)\(y_pred\)",
               "tensorflow": r"tf\.GradientTape\(\)"}[without_memory.name]  # fmt: skip
    for options in ({}, {"reduction": None}):
        with pytest.raises(TypeError, match=f"^value_and_grad writes .*{way_out}"):
            SPARSE(**options).value_and_grad([0, 1], x)
    with pytest.raises(TypeError, match=f"^value_and_grad writes .*{way_out}"):
        SPARSE().value_and_grad([0, 1], x, out=np.empty_like(P))
    with pytest.raises(ValueError, match="^device='cuda:0' is for NumPy's arrays"):
        SPARSE(device="cuda")([0, 1], x)


@pytest.mark.parametrize("other", ["torch", "jax", "tensorflow"])
def test_arrays_of_another_library_are_refused_or_read(at_once: Library, other: str) -> None:
    """Where kernels run on memory they are read as NumPy reads them."""
    if other == at_once.name:
        return
    module = require_peer(other)
    make = {"torch": "tensor", "jax": "numpy.asarray", "tensorflow": "constant"}[other]
    for part in make.split("."):
        module = getattr(module, part)
    y, x = module([0, 1]), at_once.to_library(P)
    calls = (lambda: SPARSE()(y, x), lambda: f(y, x), lambda: SPARSE()([0, 1], x, y))
    if at_once.on_memory:
        want = SPARSE()([0, 1], P), f([0, 1], P), SPARSE()([0, 1], P, [0, 1])
        for call, value in zip(calls, want, strict=True):
            np.testing.assert_array_equal(at_once.to_numpy(call()), value)
        return
    for call in calls:
        with pytest.raises(TypeError, match=rf"^(y_true|sample_weight) must be .*got a {other} .*"):
            call()


# ---- one-hot targets -----------------------------------------------------------------------------


@pytest.mark.slow_when(
    lambda library, kind, axis, smoothing: library == "jax.jit" and (axis == -1 or smoothing == 0)
)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("kind", ["logits", "before"])
def test_one_hot_and_soft_targets(library: Library, kind: str, axis: int, smoothing: float) -> None:
    _, x = case((12, 5), -1, kind)
    rng = np.random.default_rng(3)
    a = np.where(rng.random((12, 5)) < 0.5, 0, rng.random((12, 5))).astype("float32")
    w = rng.random(12).astype("float32")
    x, a = np.moveaxis(x, -1, axis), np.moveaxis(a, -1, axis)
    options: dict[str, Any] = dict(
        from_logits=kind == "logits", axis=axis, label_smoothing=smoothing
    )
    losses, loss = SOFT(**options, reduction=None), SOFT(**options)
    opened(library, x, axis)
    got = library.call(lambda x, a: sx.loss_categorical_crossentropy(a, x, **options), x, a)
    close(got, losses(wide(a), wide(x)), "float32")
    value, gradient = loss.value_and_grad(wide(a), wide(x), w)
    close(library.call(lambda x, a, w: loss(a, x, w), x, a, w), value, "float32")
    got = library.gradient(lambda x, a, w: loss(a, x, w), x, a, w)
    close(got, gradient, "float32", slope=True)


@pytest.mark.parametrize("form", ["its own", "array", "list"])
def test_targets_are_of_any_form(at_once: Library, form: str) -> None:
    y, x = case((6, 5), -1, "logits")
    a = np.float32(0.8 * np.eye(5)[y] + 0.04)
    sent = {"its own": at_once.to_library(a), "array": a, "list": a.tolist()}[form]
    scores, loss = at_once.to_library(x), SOFT(from_logits=True)
    value, gradient = loss.value_and_grad(wide(a), wide(x))
    close(at_once.to_numpy(loss(sent, scores)), value, "float32")
    close(at_once.gradient(lambda x: loss(sent, x), x), gradient, "float32", slope=True)
    losses = sx.loss_categorical_crossentropy(sent, scores, True, 0.1)
    want = sx.loss_categorical_crossentropy(wide(a), wide(x), True, 0.1)
    close(at_once.to_numpy(losses), want, "float32")


def test_soft_targets_have_a_derivative_too(in_operations: Library) -> None:
    _, x = case((6, 4), -1, "logits")
    a = np.random.default_rng(4).random((6, 4)).astype("float32")
    loss = SOFT(from_logits=True, reduction="sum", label_smoothing=0.25)
    got = in_operations.gradient(lambda a, x: loss(a, x), a, x)
    lse = np.log(np.exp(wide(x)).sum(-1, keepdims=True))
    close(got, 0.75 * (lse - wide(x)), "float32", slope=True)


@COMPILED
def test_targets_are_refused_or_nan(library: Library) -> None:
    a = np.float32([[0, 1, 0], [0, -1, 0]])
    loss = SOFT(from_logits=True, reduction=None)
    if library.traces:
        assert np.isnan(library.call(lambda x, a: loss(a, x), P, a)).tolist() == [False, True]
    else:
        with pytest.raises(ValueError, match=r"^y_true must hold targets of 0 and more.*\(1, 1\)"):
            library.call(lambda x, a: loss(a, x), P, a)
    with pytest.raises(ValueError, match=r"y_true must have y_pred's shape \(2, 3\), got \(2,\)"):
        library.call(lambda x, a: loss(a, x), P, np.int32([0, 1]))


# ---- metrics -------------------------------------------------------------------------------------


def test_metrics_are_numpys(library: Library) -> None:
    y, x = case((40, 6), -1, "logits")
    x = np.round(x)  # with ties
    x[3, 2] = NAN
    y[:5] = 9
    w = np.random.default_rng(5).random(40).astype("float32")
    functions: list[Callable[..., Any]] = [
        sx.metric_sparse_categorical_accuracy,
        lambda *a, **k: sx.metric_sparse_top_k_categorical_accuracy(*a, 2, **k),
        lambda *a, **k: sx.metric_sparse_categorical_crossentropy(*a, from_logits=True, **k),
    ]
    opened(library, x, -1)
    for function in functions:
        for weights in ([], [w]):

            def metric(x: Any, y: Any, *w: Any, function: Any = function) -> Any:
                return function(y, x, ignore_class=9, **({"sample_weight": w[0]} if w else {}))

            want = metric(x, y, *weights)
            close(library.call(metric, x, y.astype("int32"), *weights), want, "float32")
    a = np.eye(6, dtype="float32")[y % 6]
    got = library.call(lambda x, a: sx.metric_categorical_accuracy(a, x), x, a)
    assert (got == sx.metric_categorical_accuracy(a, x)).all()
    if library.traces:
        bad = np.int32([9, 77])
        hits = library.call(
            lambda x, y: sx.metric_sparse_categorical_accuracy(y, x, ignore_class=9), x[:2], bad
        )
        assert np.isnan(hits).tolist() == [False, True]


@COMPILED
def test_metric_objects_take_what_has_values(library: Library) -> None:
    y, x = case((40, 6), -1, "after")
    w, a = np.random.default_rng(5).random(40).astype("float32"), np.eye(6, dtype="float32")[y]
    metrics: list[tuple[Callable[[], Any], Any]] = [
        (sx.SparseCategoricalCrossentropyMetric, y),
        (sx.SparseCategoricalAccuracy, y),
        (lambda: sx.SparseTopKCategoricalAccuracy(k=2), y),
        (sx.CategoricalAccuracy, a),
    ]
    for metric, labels in metrics:
        for weights in ([], [w]):
            ours, same = metric(), metric()
            same.update_state(labels, x, *weights)
            sent = [narrow(labels), x, *weights]
            ours.update_state(*map(library.to_library, sent))
            assert ours.result() == same.result()
    if library.traces:
        ours = sx.SparseCategoricalAccuracy()
        with pytest.raises(TypeError, match="y_pred must hold values where a state is updated"):
            library.call(lambda x, y: ours.update_state(y, x), x, y.astype("int32"))
        assert ours.result() == 0


def test_a_part_of_the_data_is_scored(library: Library) -> None:
    y, x = case((9, 5), -1, "after")
    w = np.random.default_rng(5).random(9).astype("float32")
    sent = [library.to_library(a) for a in (y.astype("int32"), x, w)]
    state = sx.partial(sent[0], sent[1], sample_weight=sent[2], top_k=2)
    assert state == sx.partial(y, x, sample_weight=w, top_k=2)
    if library.traces:
        with pytest.raises(TypeError, match="y_pred must hold values where a state is updated"):
            library.call(lambda x, y: sx.partial(y, x), x, y.astype("int32"))


# ---- whatever comes ------------------------------------------------------------------------------


@pytest.mark.slow_when(lambda name: name == "jax")  # which compiles for each shape
@pytest.mark.parametrize("name", ["torch", "jax", "tensorflow"])
@settings(max_examples=30)
@given(data=st.data())
def test_any_call_is_numpys(name: str, data: st.DataObject) -> None:
    """Values and gradients of random shapes, labels, weights and options."""
    library = LIBRARIES[name]()
    shape = data.draw(hnp.array_shapes(max_dims=4, max_side=4))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    classes = shape[axis]
    if classes == 1:
        shape, classes = tuple(2 if k == axis % len(shape) else n for k, n in enumerate(shape)), 2
    kind = data.draw(st.sampled_from(list(KINDS)))
    lengths = tuple(int(n) for n in np.delete(shape, axis))
    y = data.draw(hnp.arrays("int32", lengths, elements=st.integers(0, classes)))
    low, high = (-60, 60) if kind == "logits" else (0.015625, 1)
    scores = st.floats(low, high, width=32)
    x = data.draw(hnp.arrays("float32", shape, elements=scores))
    w = data.draw(
        hnp.arrays("float32", lengths, elements=st.floats(-2, 2, width=16, allow_subnormal=False))
    )
    loss = SPARSE(
        **KINDS[kind],
        axis=axis,
        ignore_class=classes,
        label_smoothing=data.draw(st.sampled_from([0, 0.25, 1.0])),
        reduction=data.draw(st.sampled_from(REDUCTIONS)),
    )
    if loss.reduction == "mean_with_sample_weight":
        w = np.abs(w)  # a sum of both signs may be next to 0
    up = data.draw(st.sampled_from([1.0, -0.5]))
    value, gradient = loss.value_and_grad(y, wide(x), w)
    scale = 1 + float(np.abs(w).sum()) * 200  # weights of both signs cancel
    got = library.call(lambda x, y, w: loss(y, x, w), x, y, w)
    np.testing.assert_allclose(got, value, rtol=2e-5, atol=1e-6 * scale)
    slope = library.gradient(lambda x, y, w: library.total(loss(y, x, w) * up), x, y, w)
    np.testing.assert_allclose(
        slope, up * gradient, rtol=2e-5, atol=2e-6 * max(1, np.abs(gradient).max())
    )


# ---- JAX's transformations -----------------------------------------------------------------------


@pytest.fixture
def jax() -> Any:
    return require_peer("jax")


@pytest.mark.slow_when(lambda kind: kind != "after")
@pytest.mark.parametrize("kind", KINDS)
def test_vmap_and_scan_are_loops(jax: Any, kind: str) -> None:
    y, x = case((5, 8, 6), -1, kind)
    y[:, 0] = 9
    y = y.astype("int32")
    loss = SPARSE(**KINDS[kind], ignore_class=9)
    values, gradients = zip(
        *(loss.value_and_grad(*row) for row in zip(y, wide(x), strict=True)), strict=True
    )
    both = jax.value_and_grad(lambda x, y: loss(y, x))
    value, gradient = jax.vmap(both)(x, y)
    close(value, values, "float32")
    close(gradient, gradients, "float32", slope=True)
    _, (value, gradient) = jax.jit(
        lambda x, y: jax.lax.scan(lambda carry, row: (carry, both(*row)), 0, (x, y))
    )(x, y)
    close(value, values, "float32")
    close(gradient, gradients, "float32", slope=True)
    one = jax.vmap(lambda x: f(y[0], x, **KINDS[kind], ignore_class=9))(x)  # labels have values
    close(one, [f(y[0], wide(row), **KINDS[kind], ignore_class=9) for row in x], "float32")


@pytest.mark.slow
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives_are_those_of_the_slopes(jax: Any, kind: str, smoothing: float) -> None:
    """Forward over reverse, reverse over reverse and forward over forward, by differences too."""
    y, x = case((2, 4), -1, kind, "float64")
    if kind != "logits":
        x = x.clip(0.05, 0.9)  # that differences may be near
    loss = SPARSE(**KINDS[kind], label_smoothing=smoothing, dtype="float64", reduction="sum")
    h = 1e-6

    def g(x: Any) -> Any:
        return loss.value_and_grad(y, x)[1].ravel()

    want = np.array([(g(x + d) - g(x - d)) / (2 * h) for d in h * np.eye(8).reshape(8, 2, 4)])
    with jax.enable_x64(True):

        def number(x: Any) -> Any:
            return loss(y, x.reshape(2, 4))

        at = jax.numpy.asarray(x.ravel())
        for outer, inner in [
            (jax.jacfwd, jax.jacrev), (jax.jacrev, jax.jacrev), (jax.jacfwd, jax.jacfwd),
        ]:  # fmt: skip
            hessian = outer(inner(number))(at)
            np.testing.assert_allclose(hessian, want, rtol=1e-6, atol=2e-8 * np.abs(want).max())


@pytest.mark.slow
def test_a_second_derivative_of_masked_classes_is_finite(jax: Any) -> None:
    x = np.float32([[0, -INF, 1], [2, 1, -INF]])
    hessian = jax.hessian(lambda x: SPARSE(from_logits=True)([0, 1], x))(jax.numpy.asarray(x))
    assert np.isfinite(hessian).all()


@pytest.mark.slow
def test_weights_have_a_derivative_even_at_0(jax: Any) -> None:
    """As learning to weigh samples takes it: by weights of 0, through the gradient of the value."""
    y, x = case((4, 3), -1, "logits")
    loss, losses = (SPARSE(from_logits=True, reduction=r) for r in ("sum", None))
    w = jax.numpy.zeros(4)
    scores = jax.numpy.asarray(x)
    close(jax.grad(lambda w: loss(y, scores, w))(w), losses(y, wide(x)), "float32")
    mixed = jax.jacfwd(jax.grad(lambda x, w: loss(y, x, w)), argnums=1)(scores, w)
    want = loss.value_and_grad(y, wide(x))[1]
    for k in range(4):
        close(mixed[k, :, k], want[k], "float32", slope=True)


def test_loss_objects_are_functions_to_transform(jax: Any) -> None:
    y, x = case((4, 3), -1, "logits")
    loss = SPARSE(from_logits=True)
    value, gradient = loss.value_and_grad(y, wide(x))
    close(jax.jit(loss)(y, x), value, "float32")
    close(jax.jit(jax.grad(loss, argnums=1))(y, x), gradient, "float32", slope=True)


@pytest.mark.slow  # a process of its own, which has two devices
def test_what_lies_on_another_device_is_read_where_it_has_values(jax: Any) -> None:
    code = """
        import jax, numpy as np, sparse_xent as sx
        here, there = jax.devices()
        at = lambda device, a, dtype: jax.device_put(np.asarray(a, dtype), device)
        x, w = at(here, [[0.2, 0.5, 0.3], [0.1, 0.8, 0.1]], "float32"), at(there, [1, 2], "float32")
        y, a = at(there, [0, 1], "int32"), at(there, np.eye(3)[:2], "float32")
        loss = sx.SparseCategoricalCrossentropy()
        want = loss(np.array([0, 1]), np.asarray(x), [1, 2])
        assert abs(loss(y, x, w) - want) < 1e-6
        assert abs(jax.value_and_grad(lambda x: loss(y, x, w))(x)[0] - want) < 1e-6
        assert abs(sx.CategoricalCrossentropy()(a, x, w) - want) < 1e-6
        assert sx.metric_sparse_categorical_accuracy(y, x, sample_weight=w).tolist() == [0, 2]
    """
    environ = {**environment(), "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_jax_without_float64_says_how_to_have_it(jax: Any) -> None:
    x = jax.numpy.asarray(P)
    with pytest.raises(TypeError, match=r"jax\.config\.update\('jax_enable_x64', True\)"):
        f([0, 1], x, dtype="float64")


def test_what_jax_computes_at_once_is_compiled_once(jax: Any, caplog: Any) -> None:
    """The second call of a kind compiles nothing."""
    x = jax.numpy.asarray(np.zeros((7, 3), "float32"))
    with jax.log_compiles():
        f(np.zeros(7, "int64"), x, True, name="once")
        assert "ompil" in caplog.text
        caplog.clear()
        f(np.ones(7, "int64"), x, True, name="once")
        assert "ompil" not in caplog.text


# ---- TensorFlow's --------------------------------------------------------------------------------


@pytest.fixture
def tf() -> Any:
    return require_peer("tensorflow")


@pytest.mark.slow_when(lambda kind, traced: traced and kind != "logits")
@pytest.mark.parametrize("traced", [False, True], ids=["eager", "tf.function"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tape_of_a_tape_is_the_second_derivative(tf: Any, kind: str, traced: bool) -> None:
    y, x = case((3, 4), -1, kind, "float64")
    if kind != "logits":
        x = x.clip(0.05, 0.9)
    loss = SPARSE(**KINDS[kind], dtype="float64", reduction="sum")
    h = 1e-6

    def along(x: Any) -> Any:
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                value = loss(y, x)
            total = tf.reduce_sum(inner.gradient(value, x)[:, 1])
        return outer.gradient(total, x)

    def g(x: Any) -> Any:
        return loss.value_and_grad(y, x)[1][:, 1].sum()

    want = [(g(x + d) - g(x - d)) / (2 * h) for d in h * np.eye(12).reshape(12, 3, 4)]
    got = (tf.function(along) if traced else along)(tf.constant(x))
    np.testing.assert_allclose(np.ravel(got), want, rtol=1e-6, atol=2e-8 * np.abs(want).max())


def test_variables_are_scores_labels_and_weights(tf: Any) -> None:
    y, x = case((4, 3), -1, "logits")
    w = np.float32([1, 2, 3, 4])
    loss = SPARSE(from_logits=True)
    scores, labels, weights = tf.Variable(x), tf.Variable(y), tf.Variable(w)
    with tf.GradientTape() as tape:
        value = loss(labels, scores, weights)
    expected = loss.value_and_grad(y, wide(x), w)
    close(value, expected[0], "float32")
    close(tape.gradient(value, scores), expected[1], "float32", slope=True)
    weighed = tf.constant(w)
    with tf.GradientTape() as tape:
        tape.watch(weighed)
        value = SPARSE(from_logits=True, reduction="sum")(y, scores, weighed)
    close(tape.gradient(value, weighed), f(y, wide(x), True), "float32")
    bad = tf.Variable([0, 1, 2, 3])
    close(tf.function(lambda: loss(labels, scores, weights))(), expected[0], "float32")
    assert np.isnan(tf.function(lambda: loss(bad, scores))())


def test_autograph_leaves_our_functions_as_they_are(tf: Any, monkeypatch: Any) -> None:
    """What it rewrites it reads line by line, and warns of what it cannot read."""
    from tensorflow.python.autograph.impl import api

    converted = []
    convert = api._convert_actual
    monkeypatch.setattr(
        api, "_convert_actual", lambda e, ctx: converted.append(e) or convert(e, ctx)
    )
    loss = SPARSE(from_logits=True)

    def step(x: Any, y: Any) -> Any:
        if tf.reduce_sum(x) > -1e30:  # something to rewrite
            x = x + 0
        sx.metric_sparse_categorical_accuracy(y, x)
        return loss(y, x) + tf.reduce_sum(f(y, x, True))

    tf.function(step)(tf.zeros((2, 3)), tf.zeros(2, tf.int32))
    names = {getattr(e, "__module__", "") for e in converted}
    assert any(e.__name__ == "step" for e in converted)
    assert not [name for name in names if name.startswith("sparse_xent")]


def spec(tf: Any, shape: Any, dtype: str = "float32") -> Any:
    return tf.TensorSpec(shape, getattr(tf, dtype))


@pytest.mark.parametrize("axis", [-1, 1])
def test_lengths_that_only_the_call_knows(tf: Any, axis: int) -> None:
    loss = SPARSE(from_logits=True, axis=axis)
    y, x = case((4, 5, 6), axis, "logits")
    lengths = [None, 5 if axis == 1 else None, None if axis == 1 else 6]
    step = tf.function(
        lambda x, y, w: loss(y, x, w),
        input_signature=[spec(tf, lengths), spec(tf, [None, None], "int32"), spec(tf, [None])],
    )
    w = np.float32([1, 2, 3, 4])
    close(step(x, y.astype("int32"), w), loss(y, wide(x), w), "float32")
    with pytest.raises(Exception, match=r"(?i)shape|dimension|incompatible|broadcast|size"):
        step(x, y[:1].astype("int32"), w[:1])
    known = tf.function(lambda x: loss(y, x, w), input_signature=[spec(tf, lengths)])
    close(known(x), loss(y, wide(x), w), "float32")
    with pytest.raises(Exception, match=r"(?i)shape|dimension|incompatible|broadcast|size"):
        known(x[:1])
    assert np.isnan(step(x, y.astype("int32"), np.float32([1, NAN, 1, 1])))


def test_sparse_tensors_are_refused_with_the_dense_one(tf: Any) -> None:
    x = tf.sparse.from_dense(P)
    metric = sx.SparseCategoricalAccuracy()
    for call in (
        lambda: f([0, 1], x),
        lambda: SPARSE().value_and_grad([0, 1], x),
        lambda: sx.metric_sparse_categorical_accuracy([0, 1], x),
        lambda: metric.update_state([0, 1], x),
    ):
        with pytest.raises(TypeError, match=r"^y_pred must be .*pass tensorflow\.sparse\.to_dense"):
            call()


def test_what_has_to_be_known_is_asked_for(tf: Any) -> None:
    signature = [spec(tf, [None, 3])]
    with pytest.raises(ValueError, match=r"y_pred's shape \(None, 3\), got \(1, 1, 3\)"):
        tf.function(
            lambda x: SOFT()(np.ones((1, 1, 3)), x), input_signature=signature
        ).get_concrete_function()
    for shapes, line in [
        (([2, None], [2]), r"y_pred must have a known number of classes, got shape \(2, None\)"),
        ((None, [2]), "y_pred must be of known rank.*tf.ensure_shape"),
        (([2, 3], None), "y_true must be of known rank.*tf.ensure_shape"),
        (([None, 3], [None, 4]), r"expected \(None,\) or \(None, 1\), got \(None, 4\)"),
    ]:
        signature = [spec(tf, shapes[0]), spec(tf, shapes[1], "int32")]
        with pytest.raises((TypeError, ValueError), match=line):
            tf.function(lambda x, y: f(y, x), input_signature=signature).get_concrete_function()


# ---- peers ---------------------------------------------------------------------------------------


def test_losses_are_the_libraries_own(jax: Any, tf: Any) -> None:
    y, x = case((50, 9), -1, "logits")
    ours, p = f(y, wide(x), True), np.exp(wide(x)) / np.exp(wide(x)).sum(-1, keepdims=True)
    close(f(y, tf.constant(x), True), ours, "float32")
    np.testing.assert_allclose(
        tf.nn.sparse_softmax_cross_entropy_with_logits(y, x), f(y, tf.constant(x), True), 1e-5, 1e-6
    )
    rows = np.arange(50)
    np.testing.assert_allclose(
        -jax.nn.log_softmax(x)[rows, y], f(y, jax.numpy.asarray(x), True), 1e-5, 1e-6
    )
    np.testing.assert_allclose(
        tf.keras.losses.sparse_categorical_crossentropy(y, tf.constant(p)),
        f(y, tf.constant(p)),
        1e-10,
    )


@pytest.mark.slow
def test_losses_are_optaxs(jax: Any) -> None:
    optax = pytest.importorskip("optax", reason="optax is not installed")
    y, x = case((50, 9), -1, "logits")
    scores = jax.numpy.asarray(x)
    ours = jax.jit(lambda x: f(y, x, True))(scores)
    theirs = optax.softmax_cross_entropy_with_integer_labels(scores, y)
    np.testing.assert_allclose(ours, theirs, 1e-5, 1e-6)
    a = jax.nn.one_hot(y, 9) * 0.9 + 0.01
    theirs = optax.softmax_cross_entropy(scores, a)
    np.testing.assert_allclose(
        sx.loss_categorical_crossentropy(a, scores, True), theirs, 1e-5, 1e-6
    )


@pytest.mark.parametrize("from_logits", [True, False])
def test_losses_are_kerass_on_its_backend(from_logits: bool) -> None:
    keras = require_peer("keras")
    y, x = case((50, 9), -1, "logits" if from_logits else "after")
    x = x / (1 if from_logits else x.sum(-1, keepdims=True))
    scores = keras.ops.convert_to_tensor(x)
    theirs = keras.losses.sparse_categorical_crossentropy(y, scores, from_logits=from_logits)
    np.testing.assert_allclose(f(y, scores, from_logits), theirs, 1e-5, 1e-6)
    a = np.eye(9, dtype="float32")[y]
    theirs = keras.losses.categorical_crossentropy(a, scores, from_logits, 0.1)
    ours = sx.loss_categorical_crossentropy(a, scores, from_logits, 0.1)
    np.testing.assert_allclose(ours, theirs, 1e-5, 1e-6)
