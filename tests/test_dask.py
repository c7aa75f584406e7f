"""dask's arrays (and xarray's over dask): the same numbers, lazily, whatever the chunks are.

References are calls of this package on NumPy's arrays, which other tests hold to the definition.
"""

import contextlib
import pickle
import re
import threading
import warnings

import numpy as np
import pytest
from conftest import KINDS, REDUCTIONS
from hypothesis import given
from hypothesis import strategies as st

import sparse_xent as sx
from sparse_xent import (
    loss_categorical_crossentropy,
    loss_sparse_categorical_crossentropy,
    partial,
)

dask = pytest.importorskip("dask", reason="dask is not installed")
da = pytest.importorskip("dask.array", reason="dask is not installed")
xarray = pytest.importorskip("xarray", reason="xarray is not installed")

METRICS = [
    sx.metric_sparse_categorical_accuracy,
    sx.metric_sparse_top_k_categorical_accuracy,
    sx.metric_sparse_categorical_crossentropy,
]

#: Shape, class axis, and how long chunks are that cut every axis but that of the classes.
SHAPES = {
    "rows": ((37, 6), -1, (10, 6)),
    "classes first": ((6, 37), 0, (6, 10)),
    "channels first": ((5, 4, 6, 7), 1, (2, 4, 4, 3)),
    "sequences": ((5, 6, 4), -1, (2, 5, 4)),
    "one row": ((6,), 0, (6,)),
    "no rows": ((0, 6), -1, (10, 6)),
}


@pytest.fixture(autouse=True)
def _threads():
    """The scheduler is the one that dask's users have, with its own threads."""
    with dask.config.set(scheduler="threads", num_workers=4):
        yield


@contextlib.contextmanager
def nothing_is_computed():
    def refuse(*_, **__):
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=refuse):
        yield


def data(shape, axis, kind, dtype="float64", seed=0):
    """Scores, labels, weights of each label, and weights of the first axis."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape)
    if kind != "logits":
        x = np.abs(x) / np.abs(x).sum(axis, keepdims=True)
    losses = [n for a, n in enumerate(shape) if a != axis % len(shape)]
    y = rng.integers(0, shape[axis], losses)
    return x.astype(dtype), y, rng.random(losses)


def split(chunks, axis):
    """The chunks with that of the classes cut."""
    chunks = list(chunks)
    chunks[axis] = max(1, chunks[axis] // 2 - 1)
    return tuple(chunks)


def lazy(array, chunks="auto"):
    return da.from_array(array, chunks=chunks)


def close(got, want, dtype):
    """Equal to the last bits; single precision where the classes of a row come from two chunks."""
    rtol = 1e-12 if dtype == "float64" else 2e-6
    np.testing.assert_allclose(got, want, rtol=rtol, atol=1e-14 if dtype == "float64" else 1e-7)


@pytest.mark.parametrize("classes", ["together", "cut"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", SHAPES)
def test_losses_values_and_gradients_are_those_of_numpy(case, kind, dtype, classes):
    shape, axis, chunks = SHAPES[case]
    chunks = split(chunks, axis) if classes == "cut" else chunks
    x, y, w = data(shape, axis, kind, dtype)
    options = {"axis": axis, "ignore_class": 2, **KINDS[kind]}
    lazy_x, lazy_y = lazy(x, chunks), lazy(y, 3)
    with nothing_is_computed():
        losses = loss_sparse_categorical_crossentropy(lazy_y, lazy_x, **options)
    want = loss_sparse_categorical_crossentropy(y, x, **options)
    assert isinstance(losses, da.Array)
    assert (losses.shape, losses.dtype) == (np.shape(want), np.asarray(want).dtype)
    close(losses.compute(), want, dtype)
    class_weight = np.linspace(0.5, 2, shape[axis])
    for reduction in REDUCTIONS:
        loss = loss_sparse_categorical_crossentropy(
            **options, reduction=reduction, dtype="float64", class_weight=class_weight
        )
        with nothing_is_computed():
            alone = loss(lazy_y, lazy_x, lazy(w, 4))
            value, gradient = loss.value_and_grad(lazy_y, lazy_x, lazy(w, 4))
        want_value, want_gradient = loss.value_and_grad(y, x, w)
        assert (value.shape, value.dtype) == (np.shape(want_value), np.dtype("float64"))
        assert (gradient.shape, gradient.dtype) == (shape, np.dtype(dtype))
        alone, value, gradient = dask.compute(alone, value, gradient)
        np.testing.assert_array_equal(alone, value)
        close(value, want_value, dtype)
        close(gradient, want_gradient, dtype)


@pytest.mark.parametrize("case", ["rows", "channels first"])
def test_smoothed_labels_and_soft_targets_are_served(case):
    shape, axis, chunks = SHAPES[case]
    x, y, w = data(shape, axis, "logits")
    for pieces in (chunks, split(chunks, axis)):
        loss = loss_sparse_categorical_crossentropy(
            axis=axis, from_logits=True, label_smoothing=0.1, dtype="float64"
        )
        got = dask.compute(*loss.value_and_grad(lazy(y), lazy(x, pieces), w))
        for made, want in zip(got, loss.value_and_grad(y, x, w), strict=True):
            close(made, want, "float64")
        targets = np.random.default_rng(1).random(shape)
        soft = loss_categorical_crossentropy(axis=axis, from_logits=True, dtype="float64")
        got = dask.compute(*soft.value_and_grad(lazy(targets, 3), lazy(x, pieces), w))
        for made, want in zip(got, soft.value_and_grad(targets, x, w), strict=True):
            close(made, want, "float64")
        got = loss_categorical_crossentropy(targets, lazy(x, pieces), axis=axis, from_logits=True)
        want = loss_categorical_crossentropy(targets, x, axis=axis, from_logits=True)
        close(got.compute(), want, "float64")


def cuts(length):
    """Ways to cut an axis into chunks."""
    return st.lists(st.integers(1, length - 1), max_size=6, unique=True).map(
        lambda at: tuple(np.diff([0, *sorted(at), length]).tolist())
    )


@given(rows=cuts(40), of_labels=cuts(40), weighted=st.booleans(), ignored=st.booleans())
def test_no_bit_of_a_value_depends_on_the_chunks(rows, of_labels, weighted, ignored):
    x, y, w = data((40, 5), -1, "logits", "float32")
    loss = loss_sparse_categorical_crossentropy(
        from_logits=True, dtype="float64", ignore_class=1 if ignored else None
    )
    w = w if weighted else None
    with dask.config.set(scheduler="sync"):
        got = loss(lazy(y, (of_labels,)), lazy(x, (rows, (5,))), w).compute()
        whole = loss(lazy(y, 40), lazy(x, (40, 5)), w).compute()
        turned = None if w is None else w[::-1]
        assert got == whole == loss(y[::-1], lazy(x[::-1], (7, 5)), turned).compute()
    np.testing.assert_allclose(got, loss(y, x, w), rtol=1e-14)


@pytest.mark.parametrize("classes", ["together", "cut"])
@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("metric", METRICS)
def test_metrics_give_the_same_lazily_and_their_objects_compute(metric, case, classes):
    shape, axis, chunks = SHAPES[case]
    chunks = split(chunks, axis) if classes == "cut" else chunks
    x, y, w = data(shape, axis, "after", "float32")
    options = {"axis": axis, "ignore_class": 2}
    with nothing_is_computed():
        got = metric(lazy(y, 3), lazy(x, chunks), **options, sample_weight=lazy(w, 4))
    want = metric(y, x, **options, sample_weight=w)
    assert (got.shape, got.dtype) == (np.shape(want), np.asarray(want).dtype)
    close(got.compute(), want, "float32")
    chunked, whole = metric(**options), metric(**options)
    for weight in (None, w):
        chunked.update_state(lazy(y, 3), lazy(x, chunks), weight)
        whole.update_state(y, x, weight)
    np.testing.assert_allclose(chunked.result(), whole.result(), rtol=1e-6)
    if axis == -1:
        assert chunked.result() == whole.result()


def test_accuracy_of_soft_targets_is_served():
    x, _, w = data((37, 6), -1, "after")
    targets = np.random.default_rng(1).random((37, 6))
    for chunks in ((10, 6), (10, 4)):
        got = sx.metric_categorical_accuracy(lazy(targets, 3), lazy(x, chunks), sample_weight=w)
        np.testing.assert_array_equal(
            got.compute(), sx.metric_categorical_accuracy(targets, x, sample_weight=w)
        )
        metric, whole = sx.metric_categorical_accuracy(), sx.metric_categorical_accuracy()
        metric.update_state(lazy(targets, 3), lazy(x, chunks))
        whole.update_state(targets, x)
        assert metric.result() == whole.result()


@pytest.mark.parametrize("chunks", [(10, 6), (10, 4), (37, 6)])
def test_a_partial_state_is_computed_from_all_chunks(chunks):
    x, y, w = data((37, 6), -1, "after", "float32")
    options = {"top_k": (1, 3), "class_weight": {1: 2.0}, "label_smoothing": 0.1}
    got = partial(lazy(y, 5), lazy(x, chunks), **options, sample_weight=lazy(w, 9))
    assert got == partial(y, x, **options, sample_weight=w)


def test_a_process_that_computes_has_no_settings_of_its_own():
    """Epsilon and floatx are those of the process that called."""
    x, y, _ = data((37, 6), -1, "after", "float32")
    x[3, y[3]] = 0
    built = []
    before = sx.config_epsilon()
    for epsilon in (1e-3, before):
        sx.config_set_epsilon(epsilon)
        try:
            built.append(
                (
                    loss_sparse_categorical_crossentropy(lazy(y), lazy(x, (10, 6))),
                    loss_sparse_categorical_crossentropy(y, x),
                )
            )
        finally:
            sx.config_set_epsilon(before)
    for got, want in built:
        np.testing.assert_array_equal(got.compute(), want)


# ---- what is done, and where --------------------------------------------------------------------


def counting(x, seen):
    """The array, whose blocks note that they are made."""

    def made(block, block_id):
        seen.append(block_id)
        return block

    return x.map_blocks(made, dtype=x.dtype, meta=np.empty((0,) * x.ndim, x.dtype))


@pytest.mark.parametrize("chunks", [(10, 6), (10, 4)])
def test_each_chunk_is_read_once(chunks):
    x, y, _ = data((37, 6), -1, "logits")
    seen = []
    lazy_x = counting(lazy(x, chunks), seen)
    loss = loss_sparse_categorical_crossentropy(from_logits=True)
    for results in (
        [loss(y, lazy_x)],
        list(loss.value_and_grad(y, lazy_x)),
        [loss_sparse_categorical_crossentropy(y, lazy_x, from_logits=True)],
    ):
        seen.clear()
        dask.compute(*results)
        assert sorted(seen) == sorted(np.ndindex(lazy_x.numblocks))
    seen.clear()
    partial(y, lazy_x, from_logits=True, top_k=(1, 5))
    assert sorted(seen) == sorted(np.ndindex(lazy_x.numblocks))


def test_one_number_comes_back_from_a_value():
    """The last task of a value is given sums, and nothing that grows with the data."""
    x, y, _ = data((400, 6), -1, "logits")
    value = loss_sparse_categorical_crossentropy(from_logits=True)(y, lazy(x, (10, 6)))
    sizes = []

    def watched(graph, keys, **options):
        made = dask.threaded.get(graph, keys, **options)
        sizes.append(len(pickle.dumps(made)))
        return made

    value.compute(scheduler=watched)
    assert sizes
    assert max(sizes) < 1000


def test_kernels_are_serial_within_the_scheduler_s_threads(monkeypatch):
    from sparse_xent.engines import threads  # what it is asked for is no part of the public face

    asked, run = [], threads.run

    def recorded(task, arguments, count, *more):
        asked.append(count)
        return run(task, arguments, count, *more)

    monkeypatch.setattr(threads, "run", recorded)
    sx.config_set_threads(2)
    try:
        x, y, _ = data((60_000, 10), -1, "logits")
        loss = loss_sparse_categorical_crossentropy(from_logits=True)
        loss(y, x)
        assert asked
        assert set(asked) == {2}
        asked.clear()
        dask.compute(*loss.value_and_grad(y, lazy(x, (30_000, 10))))
        assert asked
        assert set(asked) == {1}
        asked.clear()
        loss(y, x)
        assert set(asked) == {2}
    finally:
        sx.config_set_threads(None)


# ---- what is wrong ------------------------------------------------------------------------------


def raised(call):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("chunks", [(10, 6, 3), (10, 4, 3)])
def test_a_bad_label_is_named_by_its_place_in_the_whole(chunks):
    x, y, _ = data((37, 6, 7), 1, "logits")
    y[33, 5] = 6
    lazy_x, lazy_y = lazy(x, chunks), lazy(y, (8, 2))
    options = {"from_logits": True, "axis": 1}
    loss = loss_sparse_categorical_crossentropy(**options)
    metric = sx.metric_sparse_categorical_accuracy(axis=1)
    for call in (
        lambda: loss_sparse_categorical_crossentropy(lazy_y, lazy_x, **options).compute(),
        lambda: loss(lazy_y, lazy_x).compute(),
        lambda: loss.value_and_grad(lazy_y, lazy_x)[1].compute(),
        lambda: metric.update_state(lazy_y, lazy_x),
        lambda: partial(lazy_y, lazy_x, **options),
    ):
        assert re.match(
            r"y_true must hold whole numbers from 0 to 5 \(6 classes\): got 6 at \(33, 5\)",
            raised(call),
        )
    assert metric.result() == 0
    assert "at (133, 5)" in raised(lambda: partial(lazy_y, lazy_x, **options, offset=100))


def test_others_that_are_wrong_are_counted_in_their_chunk():
    x, y, _ = data((37, 6), -1, "logits")
    y[[31, 35]] = -5
    loss = loss_sparse_categorical_crossentropy(from_logits=True)
    message = raised(lambda: loss(y, lazy(x, (10, 6))).compute())
    assert "got -5 at (31,) and 1 more in this part" in message


def test_a_missing_weight_is_named_by_its_place_in_the_whole():
    x, y, w = data((37, 6, 7), 1, "logits")
    loss = loss_sparse_categorical_crossentropy(from_logits=True, axis=1)
    w[33, 5] = np.nan
    assert "got nan (NA in R) at (33, 5)" in raised(
        lambda: loss(y, lazy(x, (10, 6, 3)), lazy(w, 4)).compute()
    )
    of_rows = np.ones(37)
    of_rows[33] = np.nan
    for chunks in ((10, 6, 3), (10, 4, 3)):
        message = raised(
            lambda chunks=chunks: loss.value_and_grad(y, lazy(x, chunks), of_rows)[1].compute()
        )
        assert re.search(r"got nan \(NA in R\) at \(33, \d\)", message)


def test_a_bad_target_is_named_by_its_place_in_the_whole():
    x, _, _ = data((37, 6, 7), 1, "logits")
    targets = np.ones(x.shape)
    targets[33, 2, 5] = -1
    for chunks in ((10, 6, 3), (10, 4, 3)):
        assert "got -1.0 at (33, 2, 5)" in raised(
            lambda chunks=chunks: loss_categorical_crossentropy(
                targets, lazy(x, chunks), from_logits=True, axis=1
            ).compute()
        )


def test_shapes_and_dtypes_are_refused_at_once_in_numpy_s_words():
    x, y, w = data((37, 6), -1, "logits")
    lazy_x, lazy_y = lazy(x, (10, 6)), lazy(y, 5)
    loss = loss_sparse_categorical_crossentropy()
    with nothing_is_computed():
        for plain, given in (
            ((y[:-1], x), (lazy_y[:-1], lazy_x)),
            ((x, x), (lazy_x, lazy_x)),
            ((y, x.astype(complex)), (lazy_y, lazy_x.astype(complex))),
            ((y.astype(str), x), (y.astype(str), lazy_x)),
            ((y, x, w[:-1]), (lazy_y, lazy_x, lazy(w[:-1]))),
            ((y, x, w.astype(complex)), (lazy_y, lazy_x, lazy(w).astype(complex))),
        ):
            assert raised(lambda: loss(*given)) == raised(lambda: loss(*plain))  # noqa: B023
        assert raised(
            lambda: loss_sparse_categorical_crossentropy(lazy_y, lazy_x, axis=2)
        ) == raised(lambda: loss_sparse_categorical_crossentropy(y, x, axis=2))
        soft = loss_categorical_crossentropy()
        assert raised(lambda: soft(lazy_y, lazy_x)) == raised(lambda: soft(y, x))


def test_what_cannot_be_served_is_refused_with_a_way_out():
    x, y, _ = data((37, 6), -1, "logits")
    lazy_x = lazy(x, (10, 6))
    loss = loss_sparse_categorical_crossentropy(from_logits=True)
    message = raised(lambda: loss.value_and_grad(y, lazy_x, out=np.empty_like(x)))
    assert message.startswith("out must be None where y_pred is lazy, got a ndarray")
    out = np.empty_like(x)
    da.store(loss.value_and_grad(y, lazy_x)[1], out)
    np.testing.assert_allclose(out, loss.value_and_grad(y, x)[1], rtol=1e-12)
    some = lazy_x[lazy_x[:, 0] > 0]
    message = raised(lambda: loss(y, some))
    assert message.startswith("y_pred must have chunks of known lengths")
    assert message.endswith("pass y_pred.compute_chunk_sizes()")
    known = some.compute_chunk_sizes()
    assert np.isfinite(loss(y[x[:, 0] > 0], known).compute())
    on_device = loss_sparse_categorical_crossentropy(device="cuda")
    assert raised(lambda: on_device(y, lazy_x)).startswith("device must be None")


def test_scores_that_cannot_be_probabilities_are_named_once_by_their_place_in_the_whole():
    x, y, _ = data((40, 6), -1, "after")
    x[[23, 27, 35]] = 3
    built = loss_sparse_categorical_crossentropy(y, lazy(x, (10, 6)))
    for _ in range(2):  # a second time too
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            built.compute(scheduler="sync")
        (one,) = caught
        chunks = r"got 3 at \(23, 0\), and 1 more row in this part;|got 3 at \(35, 0\);"
        assert re.search(chunks, str(one.message))


# ---- xarray -------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [(10, 6, 3), (10, 4, 3)])
def test_a_dataarray_gives_dataarrays_with_the_names_that_are_left(chunks):
    x, y, w = data((37, 6, 7), 1, "logits")
    dims, times = ("time", "class", "place"), np.arange(37) * 10
    scores = xarray.DataArray(lazy(x, chunks), dims=dims, coords={"time": times}, name="scores")
    labels = xarray.DataArray(y.T, dims=("place", "time"))  # in another order: names decide
    of_places = xarray.DataArray(w[0], dims="place")
    options = {"from_logits": True, "axis": 1}
    losses = loss_sparse_categorical_crossentropy(labels, scores, **options)
    assert losses.chunks is not None
    assert losses.dims == ("time", "place")
    np.testing.assert_array_equal(losses.time, times)
    close(losses.values, loss_sparse_categorical_crossentropy(y, x, **options), "float64")
    loss = loss_sparse_categorical_crossentropy(**options, dtype="float64")
    value, gradient = loss.value_and_grad(labels, scores, of_places)
    want = loss.value_and_grad(y, x, w[:1])
    assert value.dims == ()
    assert gradient.dims == dims
    close(float(value), want[0], "float64")
    close(gradient.values, want[1], "float64")
    hits = sx.metric_sparse_categorical_accuracy(labels, scores, axis=1)
    assert hits.dims == ("time", "place")
    np.testing.assert_array_equal(hits, sx.metric_sparse_categorical_accuracy(y, x, axis=1))


def test_threads_that_build_and_compute_at_once_do_not_meet():
    x, y, _ = data((37, 6), -1, "logits")
    want = loss_sparse_categorical_crossentropy(y, x, from_logits=True)
    wrong = []

    def work():
        for _ in range(10):
            got = loss_sparse_categorical_crossentropy(y, lazy(x, (5, 6)), from_logits=True)
            if not np.array_equal(got.compute(), want):
                wrong.append(got)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_targets_that_do_not_fit_are_refused_before_anything_is_computed():
    x, _, _ = data((37, 6), -1, "logits")
    with nothing_is_computed():
        message = raised(lambda: loss_categorical_crossentropy(np.ones((36, 6)), lazy(x, (10, 6))))
    assert message == raised(lambda: loss_categorical_crossentropy(np.ones((36, 6)), x))


def test_frames_of_dask_s_are_refused_with_the_way_to_arrays():
    dataframe = pytest.importorskip("dask.dataframe", reason="dask's dataframes are not installed")
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    x, y, _ = data((37, 6), -1, "logits")
    labels = dataframe.from_pandas(pandas.Series(y), npartitions=3)
    loss = loss_sparse_categorical_crossentropy(from_logits=True)
    message = raised(lambda: loss(labels, lazy(x, (10, 6))))
    assert message.endswith("pass y_true.to_dask_array(lengths=True)")
    got = loss(labels.to_dask_array(lengths=True), lazy(x, (10, 6)))
    np.testing.assert_allclose(got.compute(), loss(y, x), rtol=1e-6)
