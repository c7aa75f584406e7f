"""Promises over cases nobody thought of: right, or refused by us, and never a warning but one.

Two kinds of draws. Valid calls over shapes, strides, orders, dtypes, labels, weights and options
must be right against the oracle. Wild calls, where anything may be anything, must be right or end
in a ValueError or TypeError raised in the package itself, never in NumPy or Python below it, and
say so in one line. Warnings are errors in every test, but for the one that says of scores that
they cannot be probabilities: any numbers are drawn (test_warnings.py has what it says).
"""

from __future__ import annotations

import itertools
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from conftest import REDUCTIONS, TOLERANCES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import Definition, assert_close

import sparse_xent
from sparse_xent import (
    SparseCategoricalCrossentropy,
    loss_categorical_crossentropy,
    loss_sparse_categorical_crossentropy,
)

PACKAGE = Path(sparse_xent.__file__).parent
pytestmark = [
    pytest.mark.usefixtures("engine"),
    pytest.mark.filterwarnings("ignore:y_pred must hold"),
]

# One engine serves all examples of a test: a fixture of the function does for it.
FEW = settings(
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ]
)

SCORE_DTYPES = [
    "float16", "bfloat16", "float32", "float64", ">f2", ">f4", ">f8", "longdouble",
    "int8", "uint8", "int32", "int64", "bool",
]  # fmt: skip
LABEL_DTYPES = [
    "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", ">i4", ">i8",
    "float16", "float32", "float64",
]  # fmt: skip
WEIGHT_DTYPES = ["float16", "float32", "float64", "int32", "bool", ">f8"]


def dtype_of(name: str) -> Any:
    return oracle.FLOATS.get(name) or np.dtype(name)


# ---- where an array lies ------------------------------------------------------------------------


@st.composite
def lying(draw: st.DrawFn, a: Any) -> Any:
    """The same numbers elsewhere: any order of axes, gaps, reversed, read-only, a list."""
    how = draw(st.sampled_from(["as it is", "list", "view", "view", "view"]))
    if how == "list" and a.dtype.name in ("int64", "float64", "bool") and a.size:
        return a.tolist()
    if how == "as it is" or a.ndim == 0:
        return a
    axes = draw(st.permutations(range(a.ndim)))
    steps = [draw(st.sampled_from([1, 1, 2, -1, -2])) for _ in range(a.ndim)]
    room = np.zeros([a.shape[k] * abs(steps[k]) for k in axes], a.dtype)
    view = room.transpose(np.argsort(axes))[tuple(slice(None, None, step) for step in steps)]
    view = view[tuple(slice(0, n) for n in a.shape)]
    view[...] = a
    view.flags.writeable = draw(st.booleans())
    return view


@st.composite
def numbers(draw: st.DrawFn, shape: tuple[int, ...], from_logits: bool, special: bool) -> Any:
    """Logits with gaps to 80, or anything near probabilities; special values where asked."""
    size = int(np.prod(shape))
    if from_logits:
        element = st.floats(-40, 40, width=16)
        odd = [np.inf, -np.inf, np.nan, -0.0, 1e4]
    else:
        element = st.floats(0, 1, width=16)
        odd = [np.inf, -np.inf, np.nan, 0.0, 1.0, -0.5, 2.0, 1e-7]
    if special:
        element = element | st.sampled_from(odd)
    if draw(st.booleans()):  # a few values, many times: shrinks well, and ties are frequent
        element = st.sampled_from(draw(st.lists(element, min_size=1, max_size=4)))
    return np.array(draw(st.lists(element, min_size=size, max_size=size)), "float64").reshape(shape)


# ---- valid calls --------------------------------------------------------------------------------


@st.composite
def calls(draw: st.DrawFn) -> tuple[dict[str, Any], Any, Any, Any]:
    """Options, labels, scores and weights of a valid call."""
    rank = draw(st.integers(1, 4))
    axis = draw(st.integers(-rank, rank - 1))
    shape = [draw(st.integers(0, 3)) for _ in range(rank)]
    classes = shape[axis] = draw(st.integers(1, 5))
    left = tuple(np.delete(shape, axis))
    from_logits = draw(st.booleans())
    dtype = dtype_of(draw(st.sampled_from(SCORE_DTYPES)))
    special = draw(st.booleans()) and dtype.kind in "fV"
    with np.errstate(over="ignore"):  # 1e4 in a byte is not what is tried here
        scores = draw(numbers(tuple(shape), from_logits, special))
        y_pred = scores.astype(dtype) if dtype.kind in "fV" else np.abs(scores).astype(dtype)
    ignored = draw(st.none() | st.integers(0, 100) | st.lists(st.integers(0, 8), max_size=2))
    allowed = list(range(classes)) + [
        int(v) for v in np.atleast_1d(ignored if ignored is not None else [])
    ]
    count = int(np.prod(left))
    y_true = np.array(
        draw(st.lists(st.sampled_from(allowed), min_size=count, max_size=count)), "int64"
    ).reshape(left)
    y_true = y_true.astype(dtype_of(draw(st.sampled_from(LABEL_DTYPES))))
    if draw(st.booleans()):
        y_true = np.expand_dims(y_true, axis)
    w = None
    if draw(st.booleans()):
        full = [draw(st.sampled_from([n, 1])) for n in left]
        w_shape = tuple(full[: draw(st.integers(0, len(left)))])
        if draw(st.booleans()) and len(w_shape) == len(left):
            w_shape = (*w_shape, 1)
        size = int(np.prod(w_shape))
        weights = st.sampled_from([0.0, 1.0, 2.0, 0.5, -1.0])
        w = np.array(draw(st.lists(weights, min_size=size, max_size=size))).reshape(w_shape)
        w = w.astype(dtype_of(draw(st.sampled_from(WEIGHT_DTYPES))))
    class_weight = draw(
        st.none()
        | st.lists(st.sampled_from([0.0, 1.0, 3.0]), min_size=classes, max_size=classes)
        | st.dictionaries(st.integers(0, classes - 1), st.sampled_from([0.0, 2.0]))
    )
    options = {
        "from_logits": from_logits,
        "axis": axis,
        "ignore_class": ignored,
        "label_smoothing": draw(st.sampled_from([0.0, 0.0, 0.125, 1.0])),
        "class_weight": class_weight,
        "normalize": draw(st.sampled_from(["after", "before", "never"])),
        "reduction": draw(st.sampled_from(REDUCTIONS)),
        "dtype": draw(st.sampled_from(list(TOLERANCES))),
    }
    return options, draw(lying(y_true)), draw(lying(y_pred)), w


def at_the_edge(y_pred: Any, options: dict[str, Any]) -> bool:
    """Where a sum nearly cancels, or rounding decides what is clipped: no one right answer."""
    if options["from_logits"] or options["normalize"] != "before":
        return False
    p = np.moveaxis(np.asarray(y_pred).astype("float64"), options["axis"], -1)
    with np.errstate(all="ignore"):
        total, size = p.sum(-1), np.abs(p).sum(-1)
        share = p / total[..., None]
    near = np.isclose(share, 1e-7, rtol=1e-3, atol=0) | np.isclose(
        share, 1 - 1e-7, rtol=3e-7, atol=0
    )
    return bool((np.abs(total) < 0.05 * size).any() or (near & (share != 1)).any())


@FEW
@given(call=calls())
def test_a_valid_call_is_right(call: tuple[dict[str, Any], Any, Any, Any]) -> None:
    options, y_true, y_pred, w = call
    before = [np.asarray(a).tobytes() for a in (y_true, y_pred)]
    value, gradient = loss_sparse_categorical_crossentropy(**options).value_and_grad(
        y_true, y_pred, w
    )
    assert [np.asarray(a).tobytes() for a in (y_true, y_pred)] == before
    assert value.dtype == options["dtype"]
    assert gradient.dtype == oracle.stored_dtype(y_pred)
    if at_the_edge(y_pred, options):
        return
    wide = oracle.arithmetic_dtype(y_pred, options["dtype"])
    eps = float(np.finfo(wide).eps)
    rtol = oracle.tolerance(wide, options["dtype"])
    # sums of weighted losses of both signs cancel: what may be lost is measured by their sizes
    want, want_gradient = Definition(**options).value_and_gradient(y_true, y_pred, w)
    sizes = Definition(**{**options, "reduction": None}).per_label(y_true, y_pred, w)
    size = sum(abs(float(v)) for v in sizes.ravel() if np.isfinite(float(v)))
    scale = (
        1.0 if not np.size(w) or w is None else max(1.0, 1 / divisor(options, y_true, y_pred, w))
    )
    logits = options["from_logits"] and options["reduction"] is None
    assert_close(value, want, rtol, 0 if logits else (rtol * size + 16 * eps) * scale)
    steepest = max([1.0, *(abs(float(g)) for g in want_gradient.ravel() if np.isfinite(float(g)))])
    rtol = oracle.tolerance(wide, gradient.dtype)
    assert_close(gradient, want_gradient, rtol, 32 * eps * steepest * scale)


def divisor(options: dict[str, Any], y_true: Any, y_pred: Any, w: Any) -> float:
    """What a sum is divided by where weights may nearly cancel: 1 elsewhere."""
    if options["reduction"] != "mean_with_sample_weight":
        return 1.0
    ones = np.ones(np.shape(y_pred)) / 2
    total = Definition(
        **{**options, "reduction": "sum", "normalize": "never", "from_logits": False,
           "label_smoothing": 0.0}
    ).value_and_gradient(y_true, ones, w)[0] / oracle.mp.log(2)  # fmt: skip
    return abs(float(total)) or 1.0


@FEW
@given(call=calls())
def test_both_forms_agree_to_the_bit(call: tuple[dict[str, Any], Any, Any, Any]) -> None:
    options, y_true, y_pred, _ = call
    data = {k: v for k, v in options.items() if k != "reduction"}
    alone = loss_sparse_categorical_crossentropy(y_true, y_pred, **data)
    made = loss_sparse_categorical_crossentropy(**{**options, "reduction": None})(y_true, y_pred)
    assert np.shape(alone) == np.shape(made)
    assert alone.tobytes() == made.tobytes()


@FEW
@given(call=calls())
def test_the_value_has_the_same_bits_with_and_without_a_gradient(
    call: tuple[dict[str, Any], Any, Any, Any],
) -> None:
    options, y_true, y_pred, w = call
    loss = loss_sparse_categorical_crossentropy(**options)
    value, _ = loss.value_and_grad(y_true, y_pred, w)
    assert np.asarray(loss(y_true, y_pred, w)).tobytes() == np.asarray(value).tobytes()


@FEW
@given(call=calls(), data=st.data())
def test_in_place_agrees_to_the_bit(
    call: tuple[dict[str, Any], Any, Any, Any], data: st.DataObject
) -> None:
    options, y_true, y_pred, w = call
    loss = loss_sparse_categorical_crossentropy(**options)
    x = np.array(y_pred, oracle.stored_dtype(y_pred), order=data.draw(st.sampled_from("CF")))
    value, gradient = loss.value_and_grad(y_true, x, w)
    again, result = loss.value_and_grad(y_true, x, w, out=x)
    assert result is x
    assert np.asarray(again).tobytes() == np.asarray(value).tobytes()
    np.testing.assert_array_equal(x.astype("float64"), gradient.astype("float64"))


# ---- wild calls ---------------------------------------------------------------------------------

# Anything that a caller may have at hand where a number, a name or an array is due.
ODD_VALUES: list[Any] = [
    None, ..., True, False, np.bool_(True), object(), int, slice(0, 1), lambda: 0,
    0, 1, -1, 2, 3, 255, -2147483648, 2**31, 2**63, 2**64, 10**400, np.int64(1),
    0.5, 1.0, -1.0, 2.0, np.nan, np.inf, -np.inf, 1e300, np.float32(2), 1j,
    "", "1", "mean", "sum", "none", "before", "float32", "float16", "mixed_float16", "int32",
    "bad", "two\nlines", b"1", np.float16, np.dtype("float64"), np.datetime64("2020-01-01"),
    [], [1], [True], [None], [0.5], [[1]], (), {}, {1, 2}, range(2),
    {"1": 2.0}, {0: 1.0}, {0: "a"}, {0.5: 1},
    np.array(1), np.array([1]), np.array([]), np.array(["a"]), np.array([None]), np.ones((2, 3)),
    np.ma.array([1, 2], mask=[0, 1]),
]  # fmt: skip
odd = st.sampled_from(ODD_VALUES)
# Anything that a caller may send as labels, scores, weights or out.
ODD_ARRAYS: list[Any] = [
    # like two rows of scores
    np.zeros((2, 3)), np.zeros((2, 3, 1)), np.zeros((0, 3)), np.zeros((2, 0)),
    np.ones((2, 3), bool), np.zeros((2, 3), "float16"), np.zeros((2, 3), "complex64"),
    np.zeros((2, 3), object),
    np.zeros((2, 3), "datetime64[s]"), np.zeros((2, 3), "V4"), np.zeros((2, 3), [("a", "f4")]),
    np.full((2, 3), "a"), np.ma.zeros((2, 3)),
    np.array([[0.2, 0.8], [0.5, 0.5]]).view(np.matrix),
    [[0.1, 0.2], [0.3]], [[0.1, None]], [["0.1", "0.9"]], [[10**400, 1]], [[1j, 1]],
    {"a": [0.1, 0.2], "b": [0.9, 0.8]}, [0.2, 0.8], [[[0.2, 0.8]]],
    # like two labels
    [0, 1], (0, 1), range(2), {0, 1}, {0: 1}, [0, 5], [-1, 0], [0.5, 1], [np.nan, 1], [None, 0],
    [2**63, 0], [2**64, 0], [10**400, 0], ["0", "1"], [True, False], [[0], [1]], [[0, 1], [1]],
    np.array([0, 1], "uint64"), np.array([0, 1], ">i2"), np.array([0, 2**53 + 1], float),
    np.array(["a", "b"]), np.array([0, 1], "S1"), np.array([0, 1], "timedelta64[s]"),
    np.zeros(2, "V2"), np.ma.array([0, 1]), np.zeros((2, 1), int), np.zeros((1, 2), int),
    np.zeros((2, 2), int),
    # like neither
    0.5, np.float64(0.5), np.zeros(()), "text", b"ab", memoryview(b"\x00\x01"),
]  # fmt: skip
OPTIONS = [
    "from_logits", "ignore_class", "axis", "label_smoothing", "class_weight", "normalize",
    "reduction", "name", "dtype",
]  # fmt: skip
UNKNOWN = ["from", "sample_weight", "axes"]


def ours(error: BaseException) -> bool:
    """Was it raised in the package itself (a frame below it means that it came from elsewhere)?"""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(last.filename).is_relative_to(PACKAGE)


def refused_by_us(form: Any, *args: Any, **kwargs: Any) -> Any:
    """The result, or None where the call was refused as it should be."""
    try:
        return form(*args, **kwargs)
    except (ValueError, TypeError) as error:
        refusal = error
    assert ours(refusal), "".join(traceback.format_exception(refusal))
    assert str(refusal)
    assert "\n" not in str(refusal)
    return None


def bytes_of(out: Any) -> bytes | None:
    """The memory of an array, of a masked one too."""
    return np.asarray(out).tobytes() if isinstance(out, np.ndarray) else None


def check_result(result: Any, y_pred: Any, axis: Any) -> None:
    """What was taken must at least have the shape and the type of a result."""
    assert isinstance(result, np.ndarray | np.generic)
    shape = np.shape(y_pred)
    assert np.shape(result) == tuple(np.delete(shape, int(axis)))


@FEW
@given(
    y_true=odd | st.sampled_from(ODD_ARRAYS),
    y_pred=odd | st.sampled_from(ODD_ARRAYS),
    options=st.dictionaries(st.sampled_from([*OPTIONS, *UNKNOWN]), odd, max_size=2),
)  # fmt: skip
def test_any_data_and_options_are_taken_or_refused_by_us(
    y_true: Any, y_pred: Any, options: dict[str, Any]
) -> None:
    result = refused_by_us(loss_sparse_categorical_crossentropy, y_true, y_pred, **options)
    if result is not None and not isinstance(result, SparseCategoricalCrossentropy):
        check_result(result, y_pred, options.get("axis", -1))


@FEW
@given(
    y_true=st.sampled_from(ODD_ARRAYS), y_pred=st.sampled_from(ODD_ARRAYS),
    w=odd | st.sampled_from(ODD_ARRAYS), out=st.none() | st.sampled_from(ODD_ARRAYS) | odd,
    reduction=st.sampled_from(REDUCTIONS),
)  # fmt: skip
def test_any_weights_and_any_out_are_taken_or_refused_by_us(
    y_true: Any, y_pred: Any, w: Any, out: Any, reduction: str | None
) -> None:
    if isinstance(out, np.ndarray):
        out = out.copy()  # it may be written
    before = bytes_of(out)
    loss = loss_sparse_categorical_crossentropy(from_logits=True, reduction=reduction)
    result = refused_by_us(loss.value_and_grad, y_true, y_pred, w, out=out)
    if result is None:
        assert bytes_of(out) == before


@FEW
@given(
    y_true=odd | st.sampled_from(ODD_ARRAYS),
    y_pred=odd | st.sampled_from(ODD_ARRAYS),
    options=st.dictionaries(
        st.sampled_from(
            ["from_logits", "label_smoothing", "axis", "name", "dtype", "class_weight"]
        ),
        odd,
        max_size=2,
    ),
)
def test_the_one_hot_sibling_takes_or_refuses_by_itself(
    y_true: Any, y_pred: Any, options: dict[str, Any]
) -> None:
    result = refused_by_us(loss_categorical_crossentropy, y_true, y_pred, **options)
    if isinstance(result, np.ndarray | np.generic):
        check_result(result, y_pred, options.get("axis", -1))


def test_every_odd_value_at_every_option_is_taken_or_refused_by_us() -> None:
    for name, value in itertools.product(OPTIONS, ODD_VALUES):
        loss = refused_by_us(SparseCategoricalCrossentropy, **{name: value})
        if loss is not None:
            assert refused_by_us(loss.get_config) is not None
            assert len(repr(loss).splitlines()) == 1
            refused_by_us(loss, [0, 1], np.ones((2, 3)))


@FEW
@given(
    labels=st.lists(st.integers(-3, 8), min_size=1, max_size=6),
    ignored=st.none() | st.integers(-3, 8),
    dtype=st.sampled_from(["int8", "int64", ">i2", "float32", "float64"]),
    column=st.booleans(),
)
def test_labels_are_refused_exactly_where_one_is_out_of_range(
    labels: list[int], ignored: int | None, dtype: str, column: bool
) -> None:
    y_true = np.array(labels, dtype)[:, None] if column else np.array(labels, dtype)
    y_pred = np.random.default_rng(71).normal(size=(len(labels), 4))
    wrong = [k for k, t in enumerate(labels) if t != ignored and not 0 <= t < 4]
    got = refused_by_us(loss_sparse_categorical_crossentropy, y_true, y_pred, True, ignored)
    assert (got is None) == bool(wrong)
    if got is not None:
        want = Definition(from_logits=True, ignore_class=ignored).per_label(labels, y_pred)
        assert_close(got, want, 1e-12)
