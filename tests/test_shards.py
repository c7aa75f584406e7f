"""Classes in pieces: states of shards give the loss of whole rows, in any cut and any order.

Held against the definition in long digits (oracle.py), relative to the loss itself, and against one
shot of the loss object: to 1e-14 in float64, 1e-6 in float32.
"""

import itertools
import json
import multiprocessing
import pickle
import random
import re
import tracemalloc

import inside
import numpy as np
import oracle
import pytest
from conftest import LAYOUTS, REDUCTIONS
from hypothesis import given
from hypothesis import strategies as st
from oracle import BFLOAT16, Definition, assert_close, mp

import sparse_xent as sx
from sparse_xent import RowState, finish_rows, grad_from_rows, merge_rows, row_partial

pytestmark = pytest.mark.filterwarnings("ignore:y_pred must hold at least two classes")

#: What results may be off by, relative to themselves, by the state's dtype.
LOSS = {"float32": 1e-6, "float64": 1e-14}
GRADIENT = {"float32": 1e-6, "float64": 1e-13}
#: What one shot itself is off by, for each nat of a gap: its log2(e) is rounded, or the gap itself.
ONE_SHOT = {
    "compiled": {"float32": 1.4e-8, "float64": 5e-17},
    "numpy": {"float32": 6e-8, "float64": 1.2e-16},
}
DTYPES = {"float16": np.float16, "bfloat16": BFLOAT16, "float32": np.float32, "float64": float}
STATE = {"float16": "float32", "bfloat16": "float32", "float32": "float32", "float64": "float64"}


def cuts(classes, shards, seed):
    """First and last class + 1 of so many uneven shards."""
    inner = random.Random(seed).sample(range(1, classes), shards - 1)
    return list(itertools.pairwise([0, *sorted(inner), classes]))


def part(x, axis, first, stop):
    return np.moveaxis(np.moveaxis(x, axis, 0)[first:stop], 0, axis)


def states_of(x, y, pairs, axis=-1, **options):
    return [
        row_partial(part(x, axis, first, stop), y, first, axis=axis, **options)
        for first, stop in pairs
    ]


def merged(states, seed=0, most=3):
    """Merged by twos and threes, in any order and grouping."""
    rng, states = random.Random(seed), list(states)
    while len(states) > 1:
        rng.shuffle(states)
        k = min(rng.randint(2, most), len(states))
        states = [merge_rows(*states[:k]), *states[k:]]
    return states[0]


def gradient_of(x, y, pairs, state, axis=-1, **options):
    made = [grad_from_rows(part(x, axis, a, b), y, a, state, **options) for a, b in pairs]
    return np.concatenate(made, axis=axis)


def one_shot(x, y, w=None, **options):
    dtype = options.pop("dtype", STATE[np.dtype(x.dtype).name])
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, dtype=dtype, **options)
    return loss.value_and_grad(y, x, w)


def gradient_tolerance(dtype):
    """Relative, with a rounding of halves; and absolute: the least normal number, or less."""
    info, arithmetic = oracle.finfo(dtype), STATE[np.dtype(dtype).name]
    rounding = float(info.eps) if np.dtype(dtype).itemsize == 2 else 0
    least = max(float(info.smallest_subnormal), float(np.finfo(arithmetic).smallest_normal))
    return GRADIENT[arithmetic] + rounding, least


def close(got, want, rtol, least=0.0):
    """Relative to `want` itself, NaN and infinities alike; below `least` to that."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    np.testing.assert_allclose(got, want, rtol=rtol, atol=least, equal_nan=True)


@st.composite
def cases(draw, special=False):
    """Logits, labels, a split of the classes and an order; confident rows, offsets, gaps."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from(list(DTYPES)))
    ndim = draw(st.integers(1, 3))
    axis = draw(st.integers(0, ndim - 1))
    shape = [draw(st.integers(1, 4)) for _ in range(ndim)]
    shape[axis] = classes = draw(st.integers(1, 70))
    reach = {"float64": 700.0, "float16": 40.0}.get(dtype, 80.0)
    x = rng.normal(0, 1, shape) * draw(st.sampled_from([0.0, 0.1, 2.0, reach / 12]))
    y = rng.integers(0, classes, [n for a, n in enumerate(shape) if a != axis])
    at = np.expand_dims(y, axis)
    top = x.max(axis=axis, keepdims=True)
    gap = draw(st.sampled_from([None, 0.0, 1.0, 20.7, reach / 2, reach - 15, 15 - reach]))
    if gap is not None:
        np.put_along_axis(x, at, top + gap, axis=axis)
    if dtype in ("float32", "float64"):
        x += draw(st.sampled_from([0.0, 0.0, -300.0, 1e6, -1e6]))
    x = x.astype(DTYPES[dtype])
    if special:
        for value in draw(
            st.lists(st.sampled_from([-np.inf, -np.inf, np.inf, np.nan]), max_size=4)
        ):
            x[tuple(rng.integers(0, n) for n in shape)] = value
        if draw(st.booleans()):
            np.put_along_axis(x, at, np.array(-np.inf, x.dtype), axis=axis)
        if draw(st.booleans()):
            x[...] = -np.inf
            np.put_along_axis(x, at, np.array(1, x.dtype), axis=axis)
    shards = draw(st.integers(1, min(64, classes)))
    return x, y, axis, cuts(classes, shards, draw(st.integers(0, 99))), draw(st.integers(0, 99))


# ---- the loss -----------------------------------------------------------------------------------


@given(cases())
def test_losses_are_right_relative_to_themselves(case):
    x, y, axis, pairs, seed = case
    state = merged(states_of(x, y, pairs, axis), seed)
    want = Definition(from_logits=True, axis=axis).per_label(y, x)
    got = np.asarray(finish_rows(state, reduction=None))
    assert got.dtype == STATE[x.dtype.name]
    assert_close(got, want, LOSS[got.dtype.name])


@given(cases(special=True))
def test_losses_and_gradients_are_those_of_one_shot(case):
    x, y, axis, pairs, seed = case
    state = merged(states_of(x, y, pairs, axis), seed)
    dtype = STATE[x.dtype.name]
    least = float(np.finfo(dtype).smallest_normal)
    losses, gradient = one_shot(x, y, axis=axis, reduction=None)
    gaps = np.ptp(x[np.isfinite(x)].astype(float)) if np.isfinite(x).any() else 0
    one = ONE_SHOT[inside.serving()][dtype] * min(gaps, {"float32": 110, "float64": 750}[dtype])
    close(finish_rows(state, reduction=None), losses, LOSS[dtype] + one, least)
    got = gradient_of(x, y, pairs, state, axis, reduction=None)
    assert got.dtype == x.dtype
    rtol, least = gradient_tolerance(x.dtype)
    close(got, gradient, rtol + one, least)


@given(cases(special=True))
def test_gradients_are_right_element_by_element(case):
    x, y, axis, pairs, seed = case
    state = merged(states_of(x, y, pairs, axis), seed)
    got = gradient_of(x, y, pairs, state, axis, reduction="sum")
    want = Definition(from_logits=True, axis=axis, reduction="sum").value_and_gradient(y, x)[1]
    assert_close(got, want, *gradient_tolerance(x.dtype))


def test_tiny_contributions_of_many_shards_are_not_lost_one_after_the_other():
    """Each is less than half a rounding of float32 beside the first."""
    x = np.full((1, 64), np.log(5.9e-8), np.float32)
    x[0, :2], x[0, 63] = 0, 20  # the greatest of the others, and the target
    state = row_partial(x[:, :2], [63], 0)
    for k in range(2, 64):
        state = merge_rows(state, row_partial(x[:, k : k + 1], [63], k))
    want = Definition(from_logits=True).per_label([63], x)
    assert_close(finish_rows(state, reduction=None), want, 1e-7)


@pytest.mark.parametrize("gap", [0.0, 20.7, 79.0])
@pytest.mark.parametrize("offset", [0.0, 1e6, -1e6])
def test_bits_of_float32_states_suffice_after_many_merges(offset, gap):
    r = np.random.default_rng(1)
    x = (r.normal(0, 3, (20, 640)) + offset).astype(np.float32)
    y = r.integers(0, 640, 20)
    x[np.arange(20), y] = x.max(axis=1) + np.float32(gap)
    state = merged(states_of(x, y, cuts(640, 64, 3)), most=2)
    with mp.workdps(100):
        want = Definition(from_logits=True).per_label(y, x)
    assert_close(finish_rows(state, reduction=None), want, 1e-7)


def test_a_reference_beyond_the_fine_floats_is_a_logit():
    for top in (1e7, 1e12, 1e38, -1e38):
        x = np.full((1, 8), top, np.float32)
        state = merged(states_of(x, [5], cuts(8, 5, 0)))
        close(finish_rows(state, reduction=None), [np.log(8)], 1e-6)
    x = np.full((1, 8192), 2e8, np.float32)  # where floats are 16 apart
    close(
        finish_rows(merged(states_of(x, [5], cuts(8192, 2, 0))), reduction=None),
        [np.log(8192)],
        1e-7,
    )
    x = np.array([[1e38, -3e38, 3e38]], np.float32)
    assert finish_rows(merged(states_of(x, [2], cuts(3, 3, 0)))) == 0
    assert finish_rows(merged(states_of(x, [1], cuts(3, 3, 0)))) == np.inf
    assert finish_rows(row_partial(np.array([[2000.0, 0]]), [1], 0)) == 2000


def test_a_loss_is_right_where_a_class_s_own_share_is_no_normal_number():
    x = np.zeros((1, 4096))
    x[0, 7] = 715
    want = Definition(from_logits=True).per_label([7], x)
    assert_close(
        finish_rows(merged(states_of(x, [7], cuts(4096, 3, 0))), reduction=None), want, 1e-14
    )


def test_a_weight_of_inf_gives_an_infinite_gradient_where_the_slope_is_not_0():
    x = np.array([[900.0, 0, -np.inf], [0, -np.inf, -np.inf], [-np.inf, 0, 0], [np.nan, 0, 0]])
    y, w, pairs = [0, 0, 0, 0], [np.inf, np.inf, -np.inf, np.inf], [(0, 1), (1, 3)]
    got = gradient_of(x, y, pairs, merged(states_of(x, y, pairs)), sample_weight=w, reduction="sum")
    np.testing.assert_array_equal(got, one_shot(x, y, w, reduction="sum")[1])
    np.testing.assert_array_equal(got[0], [-np.inf, np.inf, 0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("row", "loss"),
    [
        ([0, -np.inf, 0, 0], np.log(3)),
        ([-np.inf, 0, 0, 0], np.inf),
        ([5, -np.inf, -np.inf, -np.inf], 0),
        ([-np.inf] * 4, np.nan),
        ([np.inf, 0, 0, 0], np.nan),
        ([np.nan, 0, 0, 0], np.nan),
        ([0, 0, np.inf, -np.inf], np.nan),
        ([-np.inf, 0, np.nan, np.inf], np.nan),
        ([0, -np.inf, np.nan, 0], np.nan),
    ],
)
def test_far_ends(row, loss, dtype):
    x = np.array([row], dtype)
    for shards, seed in itertools.product((1, 2, 3, 4), range(5)):
        pairs = cuts(4, shards, seed)
        state = merged(states_of(x, [0], pairs), seed)
        close(finish_rows(state, reduction=None), [loss], 1e-6)
        got = gradient_of(x, [0], pairs, state)
        close(got, one_shot(x, [0])[1], 1e-6)
        assert np.isnan(got).all() == np.isnan(loss)
        again = gradient_of(x, [0], pairs, state, sample_weight=0)
        assert not again.any()
        assert finish_rows(state, sample_weight=0) == 0


# ---- reductions, weights, ignored classes, layouts ----------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [None, 2.3, "rows", "all", "inf"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_values_and_gradients_reduce_as_the_object_does(axis, weight, reduction):
    r = np.random.default_rng(2)
    x = r.normal(0, 3, (4, 5, 11))
    x[1, 1, 3] = np.nan  # ignored
    if isinstance(weight, str):
        x[0, 0, 4] = np.inf  # of weight 0
    x = np.moveaxis(x, -1, axis).copy()
    y = r.integers(0, 11, (4, 5))
    y[1, 1:3] = 255
    y[2, 2] = -100
    w = {"rows": np.array([0.0, 1, 2, 3]), "all": r.normal(size=(4, 5)), "inf": np.ones((4, 5))}
    w = w.get(weight, weight)
    if isinstance(weight, str) and weight != "rows":
        w[0, :2] = 0
        w[1, 1] = np.nan
        if weight == "inf":
            w[3] = [np.inf, -np.inf, 1e300, 1, 2]
    options = {"axis": axis, "ignore_class": [255, -100]}
    pairs = cuts(11, 4, 1)
    state = merged(states_of(x, y, pairs, **options))
    value, gradient = one_shot(x, y, w, reduction=reduction, **options)
    close(finish_rows(state, sample_weight=w, reduction=reduction), value, 1e-13)
    got = gradient_of(x, y, pairs, state, axis, sample_weight=w, reduction=reduction)
    close(got, gradient, 1e-13)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_layout_is_taken(axis, layout):
    r = np.random.default_rng(3)
    shape = [7, 5, 3]
    x = np.round(r.normal(0, 3, shape), 2).astype(np.float64)
    y = r.integers(0, shape[axis], [n for a, n in enumerate(shape) if a != axis])
    losses, gradient = one_shot(x, y, axis=axis, reduction=None)
    there = LAYOUTS[layout](x)
    state = row_partial(there, np.expand_dims(y, axis), 0, axis=axis)
    close(finish_rows(state, reduction=None), losses, 1e-14)
    close(grad_from_rows(there, y, 0, state, reduction="sum"), gradient, 1e-13)


def test_many_blocks_and_wide_rows_are_one():
    r = np.random.default_rng(4)
    x = r.normal(0, 2, (50, 3, 9000)).astype(np.float32)
    y = r.integers(0, 9000, (50, 3))
    pairs = cuts(9000, 5, 2)
    state = merged(states_of(x, y, pairs))
    value, gradient = one_shot(x.astype(float), y)
    close(finish_rows(state), value, 1e-6)
    close(gradient_of(x, y, pairs, state), gradient, 1e-6)
    turned = np.ascontiguousarray(np.moveaxis(x, -1, 0))
    other = row_partial(turned, y, 0, axis=0)
    close(finish_rows(other), value, 1e-6)
    for out in (np.empty_like(x), np.empty(x.shape, x.dtype, order="F")):
        assert grad_from_rows(x, y, 0, state, out=out) is out
        close(out, gradient, 1e-6)
    source = x.copy()
    assert grad_from_rows(source, y, 0, state, out=source) is source
    close(source, gradient, 1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_no_whole_copy_of_a_shard_is_made(order, dtype):
    x = np.zeros((1024, 4096), dtype, order=order)
    y, out = np.zeros(1024, np.int64), np.empty_like(x)

    def peak(call):
        tracemalloc.start()
        made = call()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 3 << 20
        return made

    state = peak(lambda: row_partial(x, y, 0))
    peak(lambda: grad_from_rows(x, y, 0, state, out=out))


def test_one_row_and_no_row():
    x = np.array([1.0, 2.0, 4.0])
    state = merge_rows(row_partial(x[2:], 2, 2), row_partial(x[:2], 2, 0))
    loss = finish_rows(state, reduction=None)
    assert isinstance(loss, np.float64)
    close(loss, one_shot(x, 2)[0], 1e-14)
    assert RowState.from_bytes(state.to_bytes()).shape == ()
    assert grad_from_rows(x[:2], 2, 0, state).shape == (2,)
    none = np.empty((0, 3), np.float32)
    state = merge_rows(row_partial(none, [], 0), row_partial(none, [], 3))
    assert finish_rows(state) == 0
    assert finish_rows(state, reduction=None).shape == (0,)
    assert grad_from_rows(none, [], 3, state).shape == (0, 3)


def test_inputs_are_not_modified_and_no_order_matters_to_the_bits_of_one_merge():
    x = np.random.default_rng(5).normal(size=(6, 9)).astype(np.float32)
    y, before = np.arange(6), x.copy()
    states = states_of(x, y, cuts(9, 4, 0))
    bits = {merge_rows(*order).to_bytes() for order in itertools.permutations(states)}
    assert len(bits) == 1
    np.testing.assert_array_equal(x, before)


def test_states_of_float32_and_float64_merge():
    x = np.random.default_rng(6).normal(size=(6, 9)).astype(np.float32)
    y = np.arange(6)
    state = merge_rows(row_partial(x[:, :4], y, 0), row_partial(x[:, 4:].astype(float), y, 4))
    assert state.dtype == np.float64
    close(finish_rows(state), one_shot(x, y)[0], 1e-6)


# ---- what travels -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_is_12_bytes_and_24_in_float64(dtype):
    x = np.zeros((30, 7), DTYPES[dtype])
    state = row_partial(x, np.arange(30) % 9, 2, ignore_class=8)
    assert state.nbytes == (24 if dtype == "float64" else 12) * 30
    sent = state.to_bytes()
    assert state.nbytes < len(sent) < state.nbytes + 300
    for again in (RowState.from_bytes(sent), pickle.loads(pickle.dumps(state))):
        assert again.to_bytes() == sent
        assert repr(again) == repr(state)
        assert "\n" not in repr(again)


def _holder(pipe, name, first):
    """A process of its own: sends its shard's state, gets the merged one, sends its gradient."""
    with np.load(name) as given:
        x, y = given["x"], given["y"]
    state = row_partial(x, y, first)
    pipe.send_bytes(state.to_bytes())
    pipe.send_bytes(grad_from_rows(x, y, first, pipe.recv()).tobytes())


def test_two_processes_exchange_states(tmp_path):
    x = np.random.default_rng(7).normal(0, 5, (40, 33)).astype(np.float32)
    y = np.random.default_rng(8).integers(0, 33, 40)
    spawn, holders, pipes = multiprocessing.get_context("spawn"), [], []
    for first, stop in ((0, 20), (20, 33)):
        np.savez(tmp_path / f"{first}.npz", x=x[:, first:stop], y=y)
        ours, theirs = spawn.Pipe()
        holders.append(
            spawn.Process(target=_holder, args=(theirs, tmp_path / f"{first}.npz", first))
        )
        holders[-1].start()
        theirs.close()
        pipes.append(ours)
    state = merge_rows(*(RowState.from_bytes(pipe.recv_bytes()) for pipe in pipes))
    for pipe in pipes:
        pipe.send(state)
    made = [np.frombuffer(p.recv_bytes(), np.float32).reshape(40, -1) for p in pipes]
    for holder in holders:
        holder.join()
    value, gradient = one_shot(x.astype(float), y)
    close(finish_rows(state), value, 1e-6)
    close(np.concatenate(made, axis=1), gradient, 1e-6)


# ---- refusals -----------------------------------------------------------------------------------

X = np.zeros((3, 4))
WHOLE = row_partial(X, [0, 1, 2], 0)


def state_with(**header):
    """The bytes of a state whose header says something else."""
    data = WHOLE.to_bytes()
    end = 12 + int.from_bytes(data[8:12], "little")
    text = json.dumps({**json.loads(data[12:end]), **header}).encode()
    return data[:8] + len(text).to_bytes(4, "little") + text + data[end:]


REFUSED = [
    (lambda: row_partial(X, [0, -1, 2], 0), ValueError,
     "labels must hold whole numbers from 0 on: got -1 at (1,); if -1 marks what should not count"),
    (lambda: row_partial(X, [0, 1.5, 2], 0), ValueError, "numbers from 0 on: got 1.5 at (1,)"),
    (lambda: row_partial(X, [0, np.nan, 2], 0), ValueError, "got nan (NA in R) at (1,)"),
    (lambda: row_partial(X, [0, 1], 0), ValueError,
     "labels must have logits_shard's shape without axis 1: expected (3,) or (3, 1), got (2,)"),
    (lambda: row_partial(X, np.eye(3, 4), 0), ValueError, "pass class indices (numpy.argmax("),
    (lambda: row_partial(X, ["a", "b", "c"], 0), TypeError, "labels must hold whole numbers"),
    (lambda: row_partial([["a"]], [0], 0), TypeError, "logits_shard must hold numbers"),
    (lambda: row_partial(X, np.zeros(3, np.float16), 4000), TypeError, "exact up to 2048"),
    (lambda: row_partial(X, [0, 1, 2], -4), ValueError, "class_offset must be the shard's first"),
    (lambda: row_partial(X, [0, 1, 2], 1.5), ValueError, "class_offset must be a whole number"),
    (lambda: row_partial(X, [0, 1, 2], 0, axis=2), ValueError, "axis must be between -2 and 1"),
    (lambda: row_partial(X, [0, 1, 2], 0, label_smoothing=0.1), TypeError,
     "label_smoothing is not an argument of row_partial(): shards serve logits without label"),
    (lambda: row_partial(X, [0, 1, 2], 0, ignore_clas=1), TypeError, "you mean 'ignore_class'?"),
    (lambda: finish_rows(WHOLE, smoothing=0.1), TypeError, "without label smoothing"),
    (lambda: finish_rows(WHOLE, reduktion=None), TypeError, "did you mean 'reduction'?"),
    (lambda: finish_rows(WHOLE, reduction="avg"), ValueError, "reduction must be one of"),
    (lambda: finish_rows(X), TypeError, "state must be a RowState, got"),
    (lambda: finish_rows(WHOLE, sample_weight=[1, 2]), ValueError, "sample_weight must have the"),
    (lambda: finish_rows(WHOLE, sample_weight=[1, 2, np.nan]), ValueError,
     "got nan (NA in R) at (2,)"),
    (lambda: merge_rows(), TypeError, "states must be one RowState or more, got none"),
    (lambda: merge_rows([WHOLE]), TypeError, "states must be a RowState, got"),
    (lambda: merge_rows(WHOLE, row_partial(X, [0, 1, 2], 2)), ValueError,
     "states must hold each class once, got 2..3 twice (of 0..3, 2..5)"),
    (lambda: merge_rows(WHOLE, row_partial(X[:2], [0, 1], 4)), ValueError,
     "states must be of the same rows and labels, got shape (3,) and (2,)"),
    (lambda: merge_rows(WHOLE, row_partial(X, [0, 1, 3], 4)), ValueError,
     "states must be of the same rows and labels, got extremes (0, 2) and (0, 3)"),
    (lambda: merge_rows(row_partial(X, [0, 1, 2], 4), row_partial(X, [0, 2, 2], 0),
                        row_partial(X, [0, 9, 2], 8)), ValueError, "same rows and labels"),
    (lambda: merge_rows(row_partial(X[:, :2], [0, 1, 3], 0), row_partial(X[:, 2:], [0, 3, 3], 2)),
     ValueError, "states must be of the same labels and ignore_class, got others at (1,)"),
    (lambda: finish_rows(row_partial(X, [0, 1, 2], 1)), ValueError,
     "state must hold all classes from 0 on, got 1..4: classes 0..0 are missing"),
    (lambda: finish_rows(merge_rows(WHOLE, row_partial(X, [0, 1, 2], 6))), ValueError,
     "state must hold all classes from 0 on, got 0..3, 6..9: classes 4..5 are missing; merge"),
    (lambda: finish_rows(row_partial(X, [0, 7, 9], 0)), ValueError,
     "whole numbers from 0 to 3 (4 classes): got 7 at (1,) and 1 more; the shards have 4 classes"),
    (lambda: finish_rows(row_partial(X, [1, 4, 2], 0)), ValueError,
     "got 4 at (1,); labels look 1-based: use y - 1"),
    (lambda: finish_rows(row_partial(X, [1, 255, 2], 0, ignore_class=-1)), ValueError,
     "got 255 at (1,); if 255 is a void class, pass ignore_class=[-1, 255]"),
    (lambda: grad_from_rows(X, [0, 1, 2], 4, WHOLE), ValueError,
     "must be a part of the state's 4 classes for rows of shape (3,), got classes 4..7 for rows"),
    (lambda: grad_from_rows(X, [0, 1, 3], 0, WHOLE), ValueError, "labels must be those of the"),
    (lambda: grad_from_rows(X, [0, 1, 2], 0, WHOLE, out=np.empty((3, 3))), ValueError,
     "out must have logits_shard's shape (3, 4), got (3, 3)"),
    (lambda: grad_from_rows(X + np.arange(4), [0, 1, 2], 0, WHOLE), ValueError,
     "must be what row_partial() was given, got another logit of the label at (1,): is class_off"),
    (lambda: RowState.from_bytes(b"anything"), ValueError, "data must be what RowState.to_bytes()"),
    (lambda: RowState.from_bytes(WHOLE.to_bytes()[:-1]), ValueError, "was all of it read?"),
    (lambda: RowState.from_bytes(state_with(version=2)), ValueError,
     "data must be of version 1, got version 2: use the same version of sparse_xent"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), REFUSED, ids=[case[2] for case in REFUSED])
def test_refusals_say_what_is_wrong_in_one_line(call, kind, message):
    with pytest.raises(kind, match=re.escape(message)) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert "y_true" not in str(caught.value)
    assert "y_pred" not in str(caught.value)


def test_nothing_is_written_where_something_is_refused():
    out = np.full((3, 4), 7.0)
    with pytest.raises(ValueError):
        grad_from_rows(X, [0, 1, 2], 0, WHOLE, sample_weight=[1, np.nan, 1], out=out)
    assert (out == 7).all()
