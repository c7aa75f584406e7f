"""Chunks on processes of dask.distributed: the same numbers, though a worker is killed mid-way."""

import os
import signal
import time

import numpy as np
import pytest

import sparse_xent as sx
from sparse_xent import loss_sparse_categorical_crossentropy, partial

dask = pytest.importorskip("dask", reason="dask is not installed")
da = pytest.importorskip("dask.array", reason="dask is not installed")
distributed = pytest.importorskip("distributed", reason="distributed is not installed")

ROWS, CLASSES, CHUNK = 4000, 7, 250


@pytest.fixture(scope="module")
def client():
    """Two worker processes of one thread each."""
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "60s"}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def made(block_id=None, chunk=CHUNK, seconds=0.0):
    """A chunk of logits, made where it is wanted; every one takes so long."""
    time.sleep(seconds)
    return np.random.default_rng(block_id[0]).normal(size=(chunk, CLASSES)).astype(np.float32)


def data(seconds=0.0):
    """Logits of which the client has none, and labels."""
    chunks = ((CHUNK,) * (ROWS // CHUNK), (CLASSES,))
    meta = np.empty((0, 0), np.float32)
    x = da.map_blocks(made, chunks=chunks, dtype=np.float32, meta=meta, seconds=seconds)
    return x, np.random.default_rng(0).integers(0, CLASSES, ROWS)


def in_memory():
    x = np.concatenate([made((k, 0)) for k in range(ROWS // CHUNK)])
    return x, data()[1]


@pytest.mark.slow
def test_workers_give_the_numbers_of_one_process(client):
    lazy_x, y = data()
    x, _ = in_memory()
    loss = loss_sparse_categorical_crossentropy(from_logits=True, dtype="float64")
    value, gradient = dask.compute(*loss.value_and_grad(y, lazy_x))
    want = loss.value_and_grad(y, x)
    np.testing.assert_allclose(value, want[0], rtol=1e-14)
    np.testing.assert_array_equal(gradient, want[1])
    here = loss(y, da.from_array(x, chunks=(999, CLASSES))).compute(scheduler="sync")
    assert value == here
    of_shards = loss(y, lazy_x.rechunk((500, 3))).compute()
    np.testing.assert_allclose(of_shards, want[0], rtol=1e-6)
    assert partial(y, lazy_x, from_logits=True, top_k=2) == partial(y, x, from_logits=True, top_k=2)
    metric = sx.metric_sparse_top_k_categorical_accuracy(k=3)
    metric.update_state(y, lazy_x)
    whole = sx.metric_sparse_top_k_categorical_accuracy(k=3)
    whole.update_state(y, x)
    assert metric.result() == whole.result()


@pytest.mark.slow
def test_a_bad_label_on_a_worker_is_named_by_its_place_in_the_whole(client):
    lazy_x, y = data()
    y[3210] = CLASSES
    with pytest.raises(ValueError, match=r"got 7 at \(3210,\)"):
        loss_sparse_categorical_crossentropy(from_logits=True)(y, lazy_x).compute()


@pytest.mark.slow
def test_a_worker_that_is_killed_mid_way_changes_nothing(client):
    lazy_x, y = data(seconds=0.25)
    loss = loss_sparse_categorical_crossentropy(from_logits=True, dtype="float64")
    before = client.run(os.getpid)
    future = client.compute(loss(y, lazy_x))
    until = time.monotonic() + 60
    while sum(map(len, client.has_what().values())) < 3:  # chunks that are done
        assert time.monotonic() < until
        time.sleep(0.02)
    assert not future.done()
    os.kill(sorted(before.values())[0], signal.SIGKILL)
    got = future.result(timeout=120)
    client.wait_for_workers(2, timeout=60)
    after = client.run(os.getpid)
    assert len(set(after.values()) - set(before.values())) == 1
    x, _ = in_memory()
    assert got == loss(y, da.from_array(x, chunks=(1000, CLASSES))).compute(scheduler="sync")
