"""`partial`: a loss in pieces. Whatever the cut and the order of merges, bits are one call's."""

import copy
import itertools
import json
import math
import multiprocessing
import pickle
from fractions import Fraction
from functools import reduce

import inside
import numpy as np
import pytest
from conftest import KINDS, LAYOUTS, SHAPES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sparse_xent as sx
from sparse_xent import Partial, partial

REDUCTIONS = ("sum_over_batch_size", "mean", "auto", "sum", "mean_with_sample_weight")
FEW = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
WEIGHTS = np.array([0.3, 0.0, 2.5, 1e-3, 7.0])


def data(shape=(60, 7), axis=-1, kind="logits", dtype="float64", seed=0):
    """Labels, scores of a kind, and weights."""
    r = np.random.default_rng(seed)
    x = r.normal(0, 2, shape)
    if kind != "logits":
        x = np.exp(x)
        x /= x.sum(axis, keepdims=True)
    losses = np.moveaxis(x, axis, -1).shape[:-1]
    y = r.integers(0, shape[axis], losses)
    return y, x.astype(dtype), r.choice(WEIGHTS, losses)


def numbers(state):
    """Every result of a state."""
    found = [state.result(reduction) for reduction in REDUCTIONS]
    found += [state.accuracy(k) for k in json.loads(state.to_json())["config"]["top_k"]]
    return [state.count, state.weight, state.perplexity, state.standard_error(), *found]


def same(one, other):
    """Whether two states are equal, and all their results to the bit."""
    return one == other and list(map(repr, numbers(one))) == list(map(repr, numbers(other)))


# ---- what it agrees with ------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SHAPES)
def test_one_shot_is_the_loss_object_s(name, kind, weighted, engine):
    shape, axis = SHAPES[name]
    y, x, w = data(shape, axis, kind)
    options = {**KINDS[kind], "axis": axis, "ignore_class": 1, "label_smoothing": 0.1}
    if weighted:
        options["class_weight"] = np.linspace(0.5, 2, shape[axis])
    w = w if weighted else None
    state = partial(y, x, **options, sample_weight=w)
    assert state.count == np.count_nonzero(y != 1)
    for reduction in REDUCTIONS:
        loss = sx.SparseCategoricalCrossentropy(**options, reduction=reduction, dtype="float64")
        assert state.result(reduction) == pytest.approx(float(loss(y, x, w)), rel=1e-14, abs=0)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_sums_are_exact_sums_of_the_losses(layout, dtype, engine):
    y, x, _ = data((40, 5), dtype=dtype)
    x = LAYOUTS[layout](x)
    losses = np.asarray(sx.loss_sparse_categorical_crossentropy(y, x, True), np.float64)
    assert partial(y, x, True).result("sum") == math.fsum(losses)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layout", ["C order", "Fortran order", "strided", "misaligned"])
@pytest.mark.parametrize("name", SHAPES)
def test_losses_and_ranks_of_one_read_are_those_of_two(
    name, layout, dtype, kind, engine, monkeypatch
):
    inside.cut_small(monkeypatch.setattr)
    shape, axis = SHAPES[name]
    y, x, _ = data(shape, axis, kind, dtype)
    x.flat[::97] = np.nan
    x = LAYOUTS[layout](np.round(x, 1))  # some are equal
    for labels in (y, y.astype(np.int16)):  # kernels do not read int16 where it lies
        options = {**KINDS[kind], "axis": axis, "ignore_class": 2}
        losses, ranks = inside.losses_and_ranks(labels, x, **options)
        alone = sx.loss_sparse_categorical_crossentropy(labels, x, **options)
        assert losses.tobytes() == np.asarray(alone).tobytes()
        np.testing.assert_array_equal(ranks, inside.ranks(labels, x, axis, 2))


def test_accuracy_counts_classes_above(engine):
    x = np.array([[3, 2, 1], [2, 2, 0], [2, 2, 0], [np.nan, 9, 0], [0, 1, 5]], np.float32)
    y = np.array([0, 0, 1, 1, 0])  # first, tied but first, tied and second, NaN, third
    state = partial(y, x, True, top_k=(1, 2, 3, 0, 9))
    assert [state.accuracy(k) for k in (0, 1, 2, 3, 9)] == [0, 0.4, 0.6, 0.8, 0.8]
    weighted = partial(y, x, True, top_k=1, sample_weight=[1, 0, 2, 2, 5])
    assert weighted.accuracy() == 0.1
    assert partial(y, x, True, ignore_class=0, top_k=1.0).accuracy() == 0


def test_perplexity_is_exp_of_the_weighted_mean(engine):
    y, x, w = data()
    state = partial(y, x, True, sample_weight=w)
    assert state.perplexity == math.exp(state.result("mean_with_sample_weight"))
    assert partial([0], [[-1e4, 0.0]], True).perplexity == math.inf


def test_the_standard_error_is_that_of_a_mean(engine):
    y, x, w = data()
    l = np.asarray(sx.loss_sparse_categorical_crossentropy(y, x, True))
    due = l.std(ddof=1) / math.sqrt(l.size)
    assert partial(y, x, True).standard_error() == pytest.approx(due, rel=1e-12)
    for scale in (1.0, 3.0):
        state = partial(y, x, True, sample_weight=np.full(y.shape, scale))
        assert state.standard_error() == pytest.approx(due, rel=1e-12)
    m, n = np.average(l, weights=w), w.sum() ** 2 / (w * w).sum()
    variance = (w * (l - m) ** 2).sum() / (w.sum() - (w * w).sum() / w.sum())
    state = partial(y, x, True, sample_weight=w)
    assert state.standard_error() == pytest.approx(math.sqrt(variance / n), rel=1e-12)


def test_where_there_is_no_standard_error(engine):
    y, x, _ = data()
    assert partial(y[:1], x[:1], True).standard_error() is None
    assert partial(y[:2], x[:2], True, sample_weight=[1, 0]).standard_error() is None
    assert partial(y, x, True, sample_weight=-1).standard_error() is None
    assert partial([0, 0], [[-np.inf, 0], [0, 0]], True).standard_error() is None


def test_where_nothing_counts_all_is_0(engine):
    for state in (
        partial([7, 7], [[0.0, 1.0]] * 2, True, ignore_class=7, top_k=1),
        partial(np.empty(0, int), np.empty((0, 2)), True, top_k=1),
    ):
        assert (state.count, state.weight, state.perplexity, state.accuracy()) == (0, 0, 1, 0)
        assert [state.result(reduction) for reduction in REDUCTIONS] == [0] * 5


def test_weight_0_is_0_even_times_inf(engine):
    x = np.array([[0, -np.inf], [1, 1], [np.nan, 0]])
    state = partial([1, 0, 0], x, True, sample_weight=[0, 1, 0], top_k=1)
    assert (state.count, state.weight) == (3, 1)
    assert state.result("sum") == pytest.approx(math.log(2), rel=1e-15)
    assert partial([1, 0], x[:2], True).result() == math.inf
    assert math.isnan(partial([0, 0], x[1:], True).result())


def test_labels_and_weights_of_other_shapes(engine):
    y, x, _ = data((6, 4, 5))
    w = np.arange(6.0)
    state = partial(y, x, True, sample_weight=w)
    assert state == partial(y[..., None], x, True, sample_weight=np.repeat(w, 4).reshape(6, 4))
    assert state == partial(y.tolist(), x.tolist(), True, sample_weight=w[:, None])
    assert partial(1, x[0, 0], True) == partial([1], x[0, :1], True)
    assert partial(y, x, True, sample_weight=1) == partial(y, x, True)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_sums_of_all_sizes_are_those_of_fractions(dtype, engine, monkeypatch):
    inside.cut_small(monkeypatch.setattr)
    r = np.random.default_rng(5)
    y, x = r.integers(0, 3, 3000), r.normal(0, 1, (3000, 3)) * 10.0 ** r.integers(-4, 5, (3000, 1))
    x = x.astype(dtype)
    w = r.normal(size=3000) * 2.0 ** r.integers(-200, 200, 3000)
    w[::7] = 0
    l = np.asarray(sx.loss_sparse_categorical_crossentropy(y, x, True), np.float64)
    x[0], l[0], w[0] = np.nan, np.nan, 0
    right = x.argmax(axis=1) == y
    due = {
        "wl": np.where(w == 0, 0, w * l),
        "w": w,
        "ww": w * w,
        "wll": np.where(w == 0, 0, l * l * w),
    }
    found = json.loads(partial(y, x, True, sample_weight=w, top_k=(1, 2)).to_json())
    assert {name: math.fsum(s) for name, s in found["sums"].items()} == {
        name: math.fsum(numbers) for name, numbers in due.items()
    }
    for name, numbers in due.items():
        assert sum(map(Fraction, found["sums"][name])) == sum(map(Fraction, numbers.tolist()))
    assert found["hits"]["1"][0] == right[1:].sum()
    assert sum(map(Fraction, found["hits"]["1"][1])) == sum(
        map(Fraction, w[1:][right[1:]].tolist())
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_number_of_threads_gives_the_same_sums_of_the_losses(
    layout, engine, monkeypatch, request
):
    inside.cut_small(monkeypatch.setattr)
    request.addfinalizer(lambda: sx.config_set_threads(None))
    y, x, w = data((700, 9), dtype="float32")
    x = LAYOUTS[layout](x)
    for labels, weights in ((y, None), (y.astype(np.int16), w), (y, w.astype(np.float32))):
        losses = sx.loss_sparse_categorical_crossentropy(labels, x, True, 2)
        l = np.asarray(losses, np.float64) * (1 if weights is None else weights.astype(np.float64))
        states = []
        for threads in (1, 4):
            sx.config_set_threads(threads)
            states.append(partial(labels, x, True, 2, sample_weight=weights, top_k=(1, 5)))
            metric = sx.metric_sparse_categorical_crossentropy(from_logits=True, ignore_class=2)
            metric.update_state(labels, x, weights)
            assert metric.result() == states[0].result("mean_with_sample_weight")
        assert same(*states)
        assert states[0].result("sum") == math.fsum(l)


# ---- any cut and any order ----------------------------------------------------------------------


@st.composite
def cuts(draw):
    """How a call on 40 labels is cut, and in which order the pieces are merged."""
    points = sorted(draw(st.sets(st.integers(1, 39), max_size=12)))
    merges = [draw(st.tuples(st.integers(0, 99), st.integers(0, 99))) for _ in points]
    return list(itertools.pairwise([0, *points, 40])), merges


def tree(states, merges):
    """The states merged two by two, in an arbitrary order."""
    states = list(states)
    for first, second in merges:
        one = states.pop(first % len(states))
        other = states.pop(second % len(states))
        states.append(one.merge(other))
    (state,) = states
    return state


@pytest.mark.filterwarnings("ignore:y_pred must hold")
@FEW
@given(cuts(), st.sampled_from(sorted(KINDS)), st.sampled_from(("float32", "float64")),
       st.booleans(), st.booleans())  # fmt: skip
def test_no_cut_and_no_order_can_be_seen(engine, cut, kind, dtype, weighted, odd):
    y, x, w = data((40, 5), kind=kind, dtype=dtype)
    if odd:
        x[3, 1], x[17, 0], y[17] = np.nan, -np.inf, 0
    options = {**KINDS[kind], "ignore_class": 3, "top_k": (1, 2)}
    if weighted:
        options["class_weight"] = {0: 0.1, 2: 3.3}
    whole = partial(y, x, **options, sample_weight=w if weighted else None)
    pieces, merges = cut
    states = [
        partial(y[a:b], x[a:b], **options, sample_weight=w[a:b] if weighted else None, offset=a)
        for a, b in pieces
    ]
    assert same(tree(states, merges), whole)
    assert same(sum(states), whole)
    assert same(reduce(lambda a, b: b + a, map(Partial.from_json, map(Partial.to_json, states))),
                whole)  # fmt: skip


def test_a_merge_changes_neither(engine):
    y, x, _ = data()
    one, other = partial(y[:9], x[:9], True), partial(y[9:], x[9:], True)
    before = one.to_json(), other.to_json()
    assert (one + other).count == 60
    assert (one.to_json(), other.to_json()) == before


Y, X, _ = data((400, 6), dtype="float32")


def of_partition(start):
    here = slice(start, start + 100)
    return partial(Y[here], X[here], from_logits=True, top_k=(1, 5), offset=start)


@pytest.mark.seconds(120)
def test_a_pool_of_processes_gives_the_bits_of_one_call():
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = sum(pool.imap_unordered(of_partition, range(0, 400, 100)))
    assert same(found, partial(Y, X, from_logits=True, top_k=(1, 5)))


# ---- stored and sent ----------------------------------------------------------------------------

STATES = {
    "plain": dict(top_k=(1, 5)),
    "probabilities": dict(from_logits=False, normalize="before"),
    "weighted": dict(class_weight=[0.5, 1, 2, math.inf, 1], ignore_class=[3, 255]),
    "by class": dict(class_weight={1: 2.5}, label_smoothing=0.1, sample_weight=0.1),
}


@pytest.fixture(params=STATES)
def state(request):
    options = {"from_logits": True, **STATES[request.param]}
    y, x, _ = data((30, 5), kind="logits" if options["from_logits"] else "after")
    return partial(y, x, **options)


@pytest.mark.parametrize(
    "sent",
    [
        lambda s: Partial.from_json(s.to_json()),
        lambda s: Partial.from_json(json.dumps(json.loads(s.to_json()), indent=2, sort_keys=True)),
        lambda s: Partial.from_bytes(memoryview(s.to_bytes())),
        lambda s: pickle.loads(pickle.dumps(s)),
        copy.copy,
        copy.deepcopy,
    ],
    ids=["JSON", "JSON otherwise", "bytes", "pickle", "copy", "deep copy"],
)
def test_a_state_comes_back_equal(sent, state):
    found = sent(state)
    assert same(found, state)
    assert hash(found) == hash(state)
    assert same(found + state, state + state)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_sums_that_are_not_finite_come_back(value):
    state = partial([0, 1], [[0.0, 1.0]] * 2, True, sample_weight=[1.0, 2.0], class_weight=[1, 2])
    if value == value:
        state += partial([0], [[0.0, 1.0]], True, class_weight=[1, 2], sample_weight=value)
    else:
        state += partial([0], [[np.nan, 1.0]], True, class_weight=[1, 2])
    assert same(Partial.from_json(state.to_json()), state)
    assert "NaN" not in state.to_json()
    assert "Infinity" not in state.to_json()


def refused(function, given, message):
    with pytest.raises(ValueError, match=message) as caught:
        function(given)
    assert "\n" not in str(caught.value)


def same_or_refused(function, given, state):
    """Whether a state is read that is equal, as where the last digit of a number says the same."""
    try:
        return function(given) == state
    except ValueError as error:
        return "\n" not in str(error)


def test_damage_is_refused(state):
    data = state.to_bytes()
    for k, byte in enumerate(data):
        damaged = bytes([*data[:k], byte ^ 1, *data[k + 1 :]])
        assert same_or_refused(Partial.from_bytes, damaged, state)
        text = damaged.partition(b"\n")[2].decode()
        assert same_or_refused(Partial.from_json, text, state)
    refused(Partial.from_bytes, data[:-1], "anew$")
    refused(Partial.from_json, state.to_json()[:-1], "anew$")


def test_other_versions_and_other_things_are_refused(state):
    text, data = state.to_json(), state.to_bytes()
    refused(Partial.from_json, text.replace('"version": 1', '"version": 2'), "^text .* version 2")
    refused(Partial.from_bytes, data.replace(b"Partial 1", b"Partial 2", 1), "^data .* version '2'")
    for wrong in ("", "{}", "[1]", "null", "not JSON", '{"format": "sparse_xent.Partial"}'):
        refused(Partial.from_json, wrong, "^text must be what Partial.to_json")
        refused(Partial.from_bytes, wrong.encode(), "^data must be what Partial.to_bytes")
    with pytest.raises(TypeError, match="^text must be a string"):
        Partial.from_json(data)
    with pytest.raises(TypeError, match="^data must be bytes"):
        Partial.from_bytes(text)


# ---- what is refused ----------------------------------------------------------------------------


def test_positions_are_those_of_all_data(engine):
    x = np.full((3, 4, 2), 0.5)
    y = np.zeros((3, 4), int)
    y[1, 2] = 9
    with pytest.raises(ValueError, match=r"^y_true .* got 9 at \(101, 2\)"):
        partial(y, x, offset=100)
    with pytest.raises(ValueError, match=r"^y_true .* got 9 at \(101, 2, 0\)"):
        partial(y[..., None], x, offset=100.0)
    y[1, 2], w = 0, np.ones((3, 4))
    w[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"^sample_weight .* got nan .* at \(102, 1\)"):
        partial(y, x, sample_weight=w, offset=100)
    with pytest.raises(ValueError, match=r"^sample_weight .* got nan .* at \(0, 1\)"):
        partial(y, x, sample_weight=w[2:], offset=100)  # one row of weights for all
    x[2, 3, 1] = 5
    with pytest.warns(UserWarning, match=r"^y_pred must hold probabilities.* at \(102, 3, 1\)"):
        partial(y, x, offset=100)


def test_a_warning_points_to_the_caller():
    with pytest.warns(UserWarning, match="^y_pred must hold") as caught:
        partial([0], [[3.0, 2.0]])
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"from_logits": False}, "from_logits"),
        ({"ignore_class": 3}, "ignore_class"),
        ({"label_smoothing": 0.1}, "label_smoothing"),
        ({"class_weight": {0: 2}}, "class_weight"),
        ({"top_k": 5}, "top_k"),
        ({"axis": 1, "normalize": "never"}, None),  # of no effect
    ],
)
def test_states_of_another_loss_do_not_merge(options, argument):
    y, x = [0, 1], [[0.5, 0.5], [0.1, 0.9]]
    one, other = partial(y, x, True), partial(y, x, **{"from_logits": True, **options})
    if argument is None:
        assert one.merge(other).count == 4
        return
    with pytest.raises(
        ValueError, match=f"^other must be a state of the same loss, got {argument}="
    ):
        one.merge(other)
    assert one != other


def test_the_bound_of_the_clip_is_part_of_the_loss():
    one = partial([0], [[0.5, 0.5]])
    sx.config_set_epsilon(1e-3)
    try:
        other = partial([0], [[0.5, 0.5]])
    finally:
        sx.config_set_epsilon(1e-7)
    with pytest.raises(ValueError, match=r"got epsilon=0\.001 where this one has 1e-07"):
        one.merge(other)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.result(None), ValueError, "^reduction .* got None: .* gives them$"),
        (lambda s: s.result("none"), ValueError, "^reduction .* got 'none'"),
        (lambda s: s.result("men"), ValueError, "^reduction must be one of .* mean 'mean'"),
        (lambda s: s.accuracy(5), ValueError, r"^k must be .* got 5 .* pass top_k=\[1, 5\]"),
        (lambda s: s.accuracy("1"), TypeError, "^k must be a whole number"),
        (lambda s: s.merge(3), TypeError, "^other must be a Partial, got 3"),
        (lambda s: s + 3, TypeError, "unsupported operand"),
        (lambda s: Partial(), TypeError, r"^Partial is made by partial\("),
        (lambda s: setattr(s, "count", 3), AttributeError, "^a state cannot be changed"),
        (lambda s: delattr(s, "count"), AttributeError, "^a state cannot be changed"),
        (lambda s: partial([0], [[1.0, 2.0]], True, top_k=-1), ValueError, "^top_k .* got -1"),
        (lambda s: partial([0], [[1.0, 2.0]], True, top_k=["1"]), TypeError, "^top_k must be"),
        (lambda s: partial([0], [[1.0, 2.0]], True, top_k=True), TypeError, "^top_k must be"),
        (lambda s: partial([0], [[1.0, 2.0]], True, offset=-1), ValueError, "^offset .* got -1"),
        (lambda s: partial([0], [[1.0, 2.0]], True, offset=(1,)), TypeError, "^offset must be"),
        (lambda s: partial([0], [[1.0, 2.0]], True, class_weight=[1]), ValueError, "^class_weight"),
        (lambda s: partial([0], [[1.0, 2.0]], True, sample_weight=[1, 2]), ValueError, "^sample_w"),
    ],
)
def test_refusals(call, error, message):
    state = partial([0], [[1.0, 2.0]], True, top_k=1)
    with pytest.raises(error, match=message) as caught:
        call(state)
    assert "\n" not in str(caught.value)


def test_a_state_is_one_line():
    state = partial([0, 1], [[0.25, 0.75]] * 2, ignore_class=1, top_k=(5, 1, 1))
    assert repr(state) == (
        f"Partial(count=1, mean={state.result()!r}, ignore_class=[1], top_k=[1, 5])"
    )
    assert "\n" not in state.to_json()
    assert len(state.to_bytes()) < 1000
    assert len(repr(partial([0], np.zeros((1, 500)), True, class_weight=np.ones(500)))) < 200
