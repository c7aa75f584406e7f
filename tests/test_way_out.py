"""The way out that a refusal names works: each is taken from the message, done, and seen to work.

A case is a call that is refused. Where the message names an expression of Python, that very text is
evaluated in the argument's place, with ``numpy`` and the argument in sight.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy
import numpy as np
import pytest
import scipy.sparse
from conftest import require_peer

import sparse_xent as sx
from sparse_xent.__main__ import main

# Probabilities that bfloat16 and a float of 8 bits hold exactly.
P = np.array([[0.125, 0.25, 0.625], [0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.5, 0.375, 0.125]])
Y = np.array([1, 0, 2, 1])
W = np.array([1.0, 2.0, 0.5, 1.0])
C = np.array([1.0, 2.0, 3.0])
SEEN = {"numpy": numpy}


def objects(elements: Any) -> np.ndarray:
    """A 1-d array of objects, whatever they are."""
    made = np.empty(len(elements), object)
    for k, element in enumerate(elements):
        made[k] = element
    return made


def torch_tensor(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda values: change(require_peer("torch").tensor(np.asarray(values)))


def bfloat16_rows(values: Any) -> list[Any]:
    return list(torch_tensor(lambda t: t.bfloat16())(values))


def taped_rows(values: Any) -> np.ndarray:
    return objects([row.clone().requires_grad_() for row in torch_tensor(lambda t: t)(values)])


def negated(values: Any) -> Any:
    return torch_tensor(lambda t: (-t * 1j).conj().imag)(values)


def jax_array(dtype: str) -> Callable[[Any], Any]:
    return lambda values: require_peer("jax").numpy.asarray(values, dtype)


def of_tensorflow(make: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    return lambda values: make(require_peer("tensorflow"), np.asarray(values, np.float32))


def of_pandas(make: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    return lambda values: make(require_peer("pandas"), np.asarray(values))


def of_pyarrow(make: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    return lambda values: make(require_peer("pyarrow"), np.asarray(values))


def each(kind: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The values as nested lists of another kind of number."""

    def made(values: Any) -> Any:
        return [made(v) for v in values] if np.ndim(values) else kind(np.asarray(values).item())

    return made


def masked(values: Any) -> Any:
    """The values, the last of them hidden."""
    made = np.ma.array(values)
    made[-1] = np.ma.masked
    return made


def records(values: Any) -> Any:
    columns = np.asarray(values)
    return np.rec.fromarrays(columns.T, names="a,b,c")


#: What NumPy and we refuse though it holds numbers, whatever it is for.
ANY: dict[str, Callable[[Any], Any]] = {
    "torch's tape": torch_tensor(lambda t: t.double().requires_grad_()),
    "torch's float8": torch_tensor(lambda t: t.to(require_peer("torch").float8_e5m2)),
    "torch, sparse": torch_tensor(lambda t: t.to_sparse()),
    "objects": lambda v: np.asarray(v).astype(object),
    "objects of a frame's kind": of_pandas(lambda pd, v: pd.DataFrame(v, dtype=object)),
    "decimals": each(lambda v: Decimal(str(v))),
    "fractions": each(Fraction),
    "complex": lambda v: np.asarray(v) + 0j,
    "complex in lists": lambda v: (np.asarray(v) + 0j).tolist(),
    "a float of 8 bits": lambda v: np.asarray(v).astype(ml_dtypes.float8_e5m2),
    "a float of 8 bits, another": lambda v: np.asarray(v).astype(ml_dtypes.float8_e4m3fn),
    "an iterator": lambda v: (row for row in np.asarray(v).tolist()),
    "a view of a dict": lambda v: dict(enumerate(np.asarray(v).tolist())).values(),
}
VECTORS: dict[str, Callable[[Any], Any]] = {
    "Arrow's decimals": of_pyarrow(lambda pa, v: pa.array([Decimal(str(n)) for n in v])),
    "a list of Arrow's scalars": of_pyarrow(lambda pa, v: [pa.scalar(n) for n in v.tolist()]),
}
TEXT: dict[str, Callable[[Any], Any]] = {
    "text": each(str),
    "text in an array": lambda v: np.asarray(v).astype(str),
    "bytes": lambda v: np.asarray(v).astype(str).astype(bytes),
}
SCORES: dict[str, Callable[[Any], Any]] = {
    **ANY,
    **TEXT,
    "torch": torch_tensor(lambda t: t),
    "torch's parameter": torch_tensor(lambda t: require_peer("torch").nn.Parameter(t)),
    "torch's bfloat16": torch_tensor(lambda t: t.bfloat16()),
    "torch's bfloat16, tape": torch_tensor(lambda t: t.bfloat16().requires_grad_()),
    "torch's half, tape": torch_tensor(lambda t: t.half().requires_grad_()),
    "torch, negated": negated,
    "torch, transposed": torch_tensor(lambda t: t.T.contiguous().T),
    "a list of torch's bfloat16": bfloat16_rows,
    "objects of torch's tape": taped_rows,
    "a list of torch's tape": lambda v: list(taped_rows(v)),
    "tensorflow, sparse": of_tensorflow(lambda tf, v: tf.sparse.from_dense(v)),
    "objects of arrays": lambda v: objects(list(v)),
    "objects of lists": lambda v: objects(np.asarray(v).tolist()),
    "a series of lists": of_pandas(lambda pd, v: pd.Series(v.tolist())),
    "a series of tuples": of_pandas(lambda pd, v: pd.Series([tuple(r) for r in v.tolist()])),
    "a series of arrays": of_pandas(lambda pd, v: pd.Series(list(v))),
    "lists in a column": of_pandas(lambda pd, v: pd.DataFrame({"p": v.tolist()})),
    "lists in a column by number": of_pandas(lambda pd, v: pd.DataFrame({7: v.tolist()})),
    "lists beside another column": of_pandas(
        lambda pd, v: pd.DataFrame({"y": Y, "p q": v.tolist()})
    ),
    "arrays in a column": of_pandas(lambda pd, v: pd.DataFrame({"p": list(v)})),
    "text beside scores": of_pandas(lambda pd, v: pd.DataFrame(v).assign(name=list("wxyz"))),
    "Arrow's lists": of_pyarrow(lambda pa, v: pa.array(v.tolist())),
    "Arrow's lists in chunks": of_pyarrow(lambda pa, v: pa.chunked_array([v.tolist()])),
    "Arrow's fixed lists": of_pyarrow(
        lambda pa, v: pa.FixedSizeListArray.from_arrays(v.ravel(), v.shape[1])
    ),
    "Arrow's lists in a column": of_pyarrow(lambda pa, v: pa.table({"p": v.tolist()})),
    "records": records,
    "a dict": lambda v: dict(zip("abc", np.asarray(v).T, strict=True)),
    "a sparse matrix": scipy.sparse.csr_matrix,
    "a sparse array": scipy.sparse.coo_array,
    "masked": lambda v: np.ma.array(v),
    "masked integers": lambda v: np.ma.array(v > 0.3),
    "masked rows in a list": lambda v: list(np.ma.array(v)),
}
LABELS = {
    **ANY,
    **VECTORS,
    "a dict": lambda v: {"y": np.asarray(v)},
    "objects of arrays": lambda v: objects([np.array([n]) for n in v]),
    "objects, some of them floats": lambda v: objects([float(v[0]), *v[1:]]),
    "one-hot": lambda v: np.eye(3)[v],
    "a sparse matrix": lambda v: scipy.sparse.csr_matrix(np.asarray(v)[:, None]),
}
WEIGHTS = {
    **ANY,
    **VECTORS,
    **TEXT,
    "text beside numbers": lambda v: [str(v[0]), *v[1:]],
    "masked nowhere": np.ma.array,
}


def expression(message: str) -> str:
    """The expression of Python that a message says to pass."""
    found = re.search(r"(?:pass|argmax) \(?(.+?)(?: or another column|\)? \(in R.*|\))?$", message)
    assert found is not None, f"no way out: {message}"
    code = found[1]
    return code + ")" * (code.count("(") - code.count(")"))


def escaped(call: Callable[[Any], Any], argument: str, value: Any) -> Any:
    """What the call gives when the way out of its refusal has been taken, and that of the next."""
    for _ in range(3):
        try:
            return call(value)
        except (TypeError, ValueError) as refusal:
            message = str(refusal)
        assert "\n" not in message
        assert len(message) <= 400, message
        assert message.startswith(argument), message
        libraries = {name: require_peer("tensorflow") for name in ["tensorflow"] if name in message}
        value = eval(expression(message), {**SEEN, **libraries, argument: value})
    return call(value)


def cases(table: dict[str, Callable[[Any], Any]]) -> list[Any]:
    return [pytest.param(make, id=name) for name, make in table.items()]


# ---- what is no array of numbers ----------------------------------------------------------------

LOSS = sx.SparseCategoricalCrossentropy(reduction=None, dtype="float64")
SOFT = sx.CategoricalCrossentropy(reduction=None, dtype="float64")


@pytest.mark.parametrize("make", cases(SCORES))
@pytest.mark.parametrize("call", ["function", "object", "one-hot"])
def test_scores_are_scored_after_the_way_out(make: Callable[[Any], Any], call: str) -> None:
    value = make(P)
    if isinstance(value, np.ma.MaskedArray) and value.dtype == bool:
        scores: Any = (P > 0.3).astype(float)
    else:
        scores = P
    if call == "one-hot":
        got = escaped(lambda x: SOFT(np.eye(3)[Y], x), "y_pred", value)
        want = SOFT(np.eye(3)[Y], scores)
    elif call == "object":
        got = escaped(lambda x: LOSS.value_and_grad(Y, x)[0], "y_pred", value)
        want = LOSS(Y, scores)
    else:
        got = escaped(
            lambda x: sx.loss_sparse_categorical_crossentropy(Y, x, dtype="float64"),
            "y_pred",
            value,
        )
        want = LOSS(Y, scores)
    got = got.detach() if hasattr(got, "detach") else got  # torch's tensors give tensors
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("make", cases(LABELS))
def test_labels_are_taken_after_the_way_out(make: Callable[[Any], Any]) -> None:
    got = escaped(lambda y: LOSS(y, P), "y_true", make(Y))
    assert got.tolist() == LOSS(Y, P).tolist()


@pytest.mark.parametrize("make", cases(WEIGHTS))
def test_weights_are_taken_after_the_way_out(make: Callable[[Any], Any]) -> None:
    got = escaped(lambda w: LOSS(Y, P, w), "sample_weight", make(W))
    assert got.tolist() == LOSS(Y, P, W).tolist()


def test_what_is_masked_is_out_of_the_way_after_the_way_out() -> None:
    ignoring = sx.SparseCategoricalCrossentropy(ignore_class=-1, reduction=None, dtype="float64")
    want = LOSS(Y, P).tolist()
    for labels in (np.ma.array(Y), np.ma.array(Y, "uint8"), np.ma.array(Y, float)):
        labels[-1] = np.ma.masked
        for value in (labels, list(labels)):
            with pytest.raises(TypeError, match="ignore_class=-1"):
                ignoring(value, P)
            assert escaped(lambda y: ignoring(y, P), "y_true", value).tolist() == [*want[:3], 0]
    weights = np.ma.array(W)
    weights[-1] = np.ma.masked
    assert escaped(lambda w: LOSS(Y, P, w), "sample_weight", weights)[-1] == 0
    scores = np.ma.array(P)
    scores[-1] = np.ma.masked
    for value in (scores, list(scores)):
        assert np.isnan(escaped(lambda x: LOSS(Y, x), "y_pred", value)).tolist() == [
            *[False] * 3,
            True,
        ]


def made_with(**options: Any) -> dict[str, Any]:
    return sx.SparseCategoricalCrossentropy(**options).get_config()


@pytest.mark.parametrize(
    "make",
    cases(
        {
            "torch's tape": ANY["torch's tape"],
            "torch's float8": ANY["torch's float8"],
            "torch, sparse": ANY["torch, sparse"],
            "masked": np.ma.array,
            "a column": of_pandas(lambda pd, v: pd.DataFrame({"w": v})),
            "a column by number": of_pandas(lambda pd, v: pd.DataFrame(v)),
            "Arrow's column": of_pyarrow(lambda pa, v: pa.table({"w": v})),
            "a sparse column": lambda v: scipy.sparse.coo_array(v),
        }
    ),
)
def test_class_weights_are_taken_after_the_way_out(make: Callable[[Any], Any]) -> None:
    got = escaped(lambda c: made_with(class_weight=c)["class_weight"], "class_weight", make(C))
    values = list(got.values()) if isinstance(got, dict) else got
    assert values == C.tolist()


def test_ignored_classes_are_taken_after_the_way_out() -> None:
    given = np.ma.array([3, 9, 5], mask=[False, True, False])
    got = escaped(lambda c: made_with(ignore_class=c)["ignore_class"], "ignore_class", given)
    assert got == [3, 5]


# ---- labels that are numbers, and no classes ----------------------------------------------------


FROM_1: dict[str, Callable[[Any], Any]] = {
    "array": np.asarray,
    "uint8": lambda v: np.asarray(v, np.uint8),
    "doubles": lambda v: np.asarray(v, float),
    "list": list,
    "tuple": tuple,
    "list of doubles": lambda v: [float(n) for n in v],
    "torch": torch_tensor(lambda t: t),
    "torch's bfloat16": torch_tensor(lambda t: t.bfloat16()),
    "series": of_pandas(lambda pd, v: pd.Series(v)),
    "nullable series": of_pandas(lambda pd, v: pd.Series(v, dtype="Int64")),
    "index": of_pandas(lambda pd, v: pd.Index(v)),
    "Arrow": of_pyarrow(lambda pa, v: pa.array(v)),
    "tensorflow": of_tensorflow(lambda tf, v: tf.constant(v)),
}


@pytest.mark.parametrize("make", cases(FROM_1))
def test_labels_from_1_are_labels_from_0_after_the_way_out(make: Callable[[Any], Any]) -> None:
    y_true = make([2, 1, 3, 2])
    with pytest.raises(ValueError, match=r"1-based: use y - 1 \(in R: y - 1L\)$"):
        LOSS(y_true, P)
    y = np.asarray(y_true) if isinstance(y_true, list | tuple) else y_true  # Python's do not count
    assert LOSS(eval("y - 1", {"y": y}), P).tolist() == LOSS(Y, P).tolist()


@pytest.mark.parametrize(
    ("labels", "ignored"),
    [
        ([1, -1, 2, 1], None),
        ([1, -100, 2, -7], [-7]),
        ([1, 255, 2, -7], [-7, 9]),
        ([1, -2147483648, 2, 255], 255),
        ([1, -2147483648, 2, 0], None),
    ],
)
def test_void_labels_are_ignored_after_the_way_out(labels: Any, ignored: Any) -> None:
    def call(ignored: Any) -> Any:
        return sx.loss_sparse_categorical_crossentropy(labels, P, ignore_class=ignored)

    with pytest.raises(ValueError, match="ignore_class=") as refusal:
        call(ignored)
    code = re.search(r"ignore_class=(\[.*?\]|-?\d+)", str(refusal.value))
    assert code is not None
    assert call(eval(code[1]))[1] == 0


KINDS: dict[str, Callable[[Any], Any]] = {
    "ints": lambda v: v.astype(int),
    "floats": lambda v: v,
    "bools": lambda v: v > 0,
    "lists": lambda v: v.tolist(),
    "torch": torch_tensor(lambda t: t),
    "torch's bools": torch_tensor(lambda t: t > 0),
    "torch's bfloat16": torch_tensor(lambda t: t.bfloat16()),
    "jax's bfloat16": jax_array("bfloat16"),
    "tensorflow": of_tensorflow(lambda tf, v: tf.constant(v)),
}


@pytest.mark.parametrize("axis", [-1, 1, 0])
@pytest.mark.parametrize("make", cases(KINDS))
def test_one_hot_labels_are_labels_after_the_way_out(axis: int, make: Callable[[Any], Any]) -> None:
    scores = np.moveaxis(np.broadcast_to(P, (2, 4, 3)), -1, axis)
    labels = np.broadcast_to(Y, (2, 4))
    hot = make(np.moveaxis(np.eye(3)[labels], -1, axis))
    loss = sx.SparseCategoricalCrossentropy(axis=axis, reduction=None, dtype="float64")
    with pytest.raises(ValueError, match="one-hot: use loss_categorical_cross.*, or") as refusal:
        loss(hot, scores)
    code = re.search(r"or argmax \((.*\))\)$", str(refusal.value))
    assert code is not None
    libraries = {"jax": sys.modules.get("jax"), "tf": sys.modules.get("tensorflow")}
    again = eval(code[1], {**SEEN, **libraries, "y_true": hot})
    assert loss(again, scores).tolist() == loss(labels, scores).tolist()
    sx.loss_categorical_crossentropy(hot, scores, axis=axis)


@pytest.mark.parametrize(
    "make",
    cases(
        {
            "nullable": of_pandas(lambda pd, v: pd.DataFrame(v).convert_dtypes()),
            "bools": of_pandas(lambda pd, v: pd.DataFrame(v > 0).convert_dtypes()),
            "floats": of_pandas(lambda pd, v: pd.DataFrame(v)),
        }
    ),
)
def test_one_hot_frames_are_labels_after_the_way_out(make: Callable[[Any], Any]) -> None:
    hot = make(np.eye(3)[Y])
    with pytest.raises(ValueError, match="one-hot") as refusal:
        LOSS(hot, P)
    code = re.search(r"or argmax \((.*\))\)$", str(refusal.value))
    assert code is not None
    assert LOSS(eval(code[1], {**SEEN, "y_true": hot}), P).tolist() == LOSS(Y, P).tolist()


# ---- names --------------------------------------------------------------------------------------

TREES = np.array(["oak", "ash", "elm", "ash"])
BY_COLUMN = ["ash", "oak", "elm"]  # the order of the scores' columns, which is not theirs sorted
NAMED: dict[str, Callable[[Any], Any]] = {
    "list": list,
    "tuple": tuple,
    "array": np.asarray,
    "objects": lambda v: np.asarray(v, object),
    "series": of_pandas(lambda pd, v: pd.Series(v)),
    "strings": of_pandas(lambda pd, v: pd.Series(v, dtype="string")),
    "categories": of_pandas(lambda pd, v: pd.Series(v, dtype="category")),
    "ordered categories": of_pandas(lambda pd, v: pd.Categorical(v, ["oak", "elm", "ash"], True)),
    "index": of_pandas(lambda pd, v: pd.Index(v)),
}
ONLY_SORTED: dict[str, Callable[[Any], Any]] = {
    "bytes": lambda v: np.asarray(v).astype(bytes),
    "a grid": lambda v: np.asarray(v)[:, None],
    "Arrow": of_pyarrow(lambda pa, v: pa.array(v)),
    "Arrow's chunks": of_pyarrow(lambda pa, v: pa.chunked_array([v])),
    "Arrow's dictionary": of_pyarrow(lambda pa, v: pa.array(v).dictionary_encode()),
}


def ways_from_names(labels: Any) -> list[str]:
    with pytest.raises(
        TypeError, match=r"^y_true must hold whole numbers .*, got .* at "
    ) as caught:
        LOSS(labels, P)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) <= 400
    assert (
        "for an R factor send as.integer(f) - 1L where its levels are in the order of y_pred's "
        "columns, else match(f, colnames(y_pred)) - 1L, "
    ) in message
    return re.findall(r"(?:pandas\.\w+|numpy\.\w+)\([^()]*\)(?:\.codes)?", message)


@pytest.mark.parametrize("make", cases(NAMED | ONLY_SORTED))
def test_sorted_names_are_labels_after_the_way_out(make: Callable[[Any], Any]) -> None:
    labels, names = make(TREES), sorted(set(TREES))
    *_, way = ways_from_names(labels)
    if isinstance(labels, np.ndarray) and labels.dtype.kind == "S":
        names = [name.encode() for name in names]
    got = LOSS(eval(way, SEEN | {"names": names, "y_true": labels}), P)
    assert got.tolist() == LOSS([2, 0, 1, 0], P).tolist()


@pytest.mark.parametrize("make", cases(NAMED))
def test_names_in_any_order_are_labels_after_the_way_out(make: Callable[[Any], Any]) -> None:
    labels, pandas = make(TREES), require_peer("pandas")
    way, _ = ways_from_names(labels)
    seen = SEEN | {"pandas": pandas, "names": BY_COLUMN, "y_true": labels}
    assert LOSS(eval(way, seen), P).tolist() == LOSS([1, 0, 2, 0], P).tolist()


@pytest.mark.parametrize("make", cases(ONLY_SORTED))
def test_pandas_is_not_named_where_it_would_find_no_name(make: Callable[[Any], Any]) -> None:
    assert len(ways_from_names(make(TREES))) == 1


def test_a_missing_name_is_refused_after_the_way_out() -> None:
    pandas = require_peer("pandas")
    labels = pandas.Series(["oak", None, "ash", "elm"], dtype="category")
    way, _ = ways_from_names(labels)
    seen = SEEN | {"pandas": pandas, "names": BY_COLUMN, "y_true": labels}
    with pytest.raises(ValueError, match=r"got -1 at \(1,\)"):
        LOSS(eval(way, seen), P)


# ---- two classes in one column, and an axis forgotten -------------------------------------------

ONE = np.array([0.125, 0.75, 0.5, 0.25, 0.375])  # predict_proba(X)[:, 1]
HITS = np.array([0, 1, 1, 0, 0])
COLUMNS: dict[str, tuple[Any, Any]] = {
    "vector": (HITS, ONE),
    "lists": (HITS.tolist(), ONE.tolist()),
    "floats": (HITS * 1.0, ONE.astype("f4")),
    "bools": (HITS > 0, ONE),
    "one hit": ([0, 1, 0, 0, 0], ONE),
    "no hit": ([0] * 5, ONE),
    "labels in a column": (HITS[:, None], ONE),
    "series": (HITS, of_pandas(lambda pd, v: pd.Series(v))(ONE)),
    "some ignored": ([0, 1, -1, 0, 1], ONE),
    "logits": (HITS, np.log(ONE / (1 - ONE))),
    "a column": (HITS, ONE[:, None]),
    "a column, all hits": (HITS * 0 + 1, ONE[:, None]),
    "a column, labels in a column": (HITS[:, None], ONE[:, None]),
    "a map with an axis": (np.array([HITS, 1 - HITS]), np.array([[ONE], [1 - ONE]])),
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("verb", ["__call__", "value_and_grad"])
@pytest.mark.filterwarnings("ignore:y_pred must hold at least two classes:UserWarning")
def test_scores_of_one_class_of_two_are_scored_after_the_way_out(name: str, verb: str) -> None:
    labels, scores = COLUMNS[name]
    options: dict[str, Any] = {"from_logits": name == "logits", "ignore_class": -1}
    options["axis"] = 1 if np.ndim(scores) == 3 else -1
    loss = sx.SparseCategoricalCrossentropy(**options, reduction=None, dtype="float64")
    with pytest.raises(ValueError, match="of class 1 of two, pass") as caught:
        getattr(loss, verb)(labels, scores)
    message = str(caught.value)
    assert "\n" not in message
    assert "1-based" not in message
    assert "one-hot" not in message
    found = re.search(r"pass (numpy\.(?:stack|concatenate)\(.*?axis=-?\d+\))", message)
    assert found is not None, message
    pair = eval(found[1], SEEN | {"y_pred": np.asarray(scores)})  # Python's lists do not count
    axis = 1 if np.ndim(scores) == 3 else -1
    y, p = np.asarray(labels, int), np.take(pair, 1, axis).astype(float)
    got = sx.SparseCategoricalCrossentropy(
        **options | {"axis": axis}, reduction=None, dtype="float64"
    )(labels, pair)
    if name == "logits":
        p = 1 / (1 + np.exp(-p))
    y = y.reshape(p.shape)
    want = np.where(y < 0, 0, -np.log(np.where(y == 1, p, 1 - p)))
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("scores", [ONE, np.log(ONE / (1 - ONE))])
@pytest.mark.parametrize("labels", [HITS + 1, (HITS + 1.0)[:, None], [2] * 5, [1, 2, -1, -1, 2]])
def test_labels_1_and_2_of_a_score_each_are_scored_after_the_way_out(
    labels: Any, scores: Any
) -> None:
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1, reduction="sum")
    with pytest.raises(ValueError, match="of 1 or 2: of class 2 of two, pass ") as caught:
        loss(labels, scores)
    found = re.search(r"pass (numpy.*) \(in R: cbind\(.*\)\), and (.*)$", str(caught.value))
    assert found is not None, caught.value
    seen = SEEN | {"y_pred": scores, "y_true": np.asarray(labels)}
    pair, y = (eval(way, seen) for way in found.groups())
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-2, reduction="sum")
    assert loss(y, pair) == loss(np.asarray(labels) - 1, np.stack([pair[:, 0], scores], -1))


@pytest.mark.parametrize(
    "labels", [[0, 1, 2, 1, 0], [3, 1, 1, 2, 2], [0, 1, -1, 0, 1], [0, 7, 0, 0, 0]]
)
def test_a_score_for_each_of_more_labels_does_not_look_one_hot(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="^y_pred must have an axis of classes") as caught:
        LOSS(labels, ONE)
    assert str(caught.value).endswith("pass a row of scores, one a class, for each label")


def test_two_labels_and_scores_may_be_a_row_and_its_target() -> None:
    y_pred = np.array([0.25, 0.75])
    with pytest.raises(ValueError, match="look one-hot") as caught:
        LOSS([0, 1], y_pred)
    way = re.search(r"a label for each score, pass (numpy.*) \(in R: cbind", str(caught.value))
    assert way is not None, caught.value
    assert LOSS([0, 1], eval(way[1], SEEN | {"y_pred": y_pred})) == pytest.approx(-np.log(0.75))


@pytest.mark.parametrize(
    ("labels", "scores", "axis"),
    [
        ((2,), (2, 3, 1), -1),
        ((2,), (1, 2, 1, 3, 1), -1),
        ((2,), (2, 3, 1), 1),
        ((1, 2), (2, 3), -1),
        ((2, 4), (2, 1, 3, 4), 2),
        ((2, 4, 1, 1), (2, 3, 4), 1),
    ],
)
def test_axes_of_length_1_that_are_too_many_or_few_fit_after_the_way_out(
    labels: tuple[int, ...], scores: tuple[int, ...], axis: int
) -> None:
    arrays = {"y_true": np.ones(labels, int), "y_pred": np.full(scores, 0.25)}
    loss = sx.SparseCategoricalCrossentropy(axis=axis)
    with pytest.raises(ValueError, match="y_pred's shape without axis") as caught:
        loss(*arrays.values())
    found = re.search(r"pass numpy\.\w+\((y_true|y_pred).*?\)(?=$| \(in R)", str(caught.value))
    assert found is not None, caught.value
    arrays[found[1]] = eval(found[0].removeprefix("pass "), SEEN | arrays)
    assert loss(*arrays.values()) == pytest.approx(np.log(3))


@pytest.mark.parametrize(
    ("labels", "scores"),
    [
        ([0, 1, 0], [0.25, 0.5, 0.25]),  # a row, and its target
        ([0, 1, 0], [-2.0, 3.0, 0.5]),
        (np.eye(3)[Y], P),
        (np.eye(3)[Y].astype(bool), 5 * P),
    ],
)
def test_one_hot_rows_do_not_look_like_two_classes(labels: Any, scores: Any) -> None:
    with pytest.raises(ValueError, match="look one-hot"):
        LOSS(labels, scores)


@pytest.mark.parametrize(
    ("labels", "scores", "axis", "fits"),
    [
        (np.zeros((2, 4, 5), int), (2, 3, 4, 5), -1, [1]),
        (np.zeros((2, 1, 4, 5), int), (2, 3, 4, 5), -1, [1]),
        (np.zeros(4, int), (3, 4), -1, [0]),
        (np.zeros((5, 4), int), (5, 4, 3), 1, [2]),
        (np.zeros((2, 3, 5), int), (2, 3, 3, 5), -1, [1, 2]),
    ],
)
@pytest.mark.parametrize("verb", ["__call__", "value_and_grad"])
def test_labels_fit_the_axis_that_the_refusal_names(
    labels: Any, scores: Any, axis: int, fits: list[int], verb: str
) -> None:
    x = np.full(scores, 0.25)
    loss = sx.SparseCategoricalCrossentropy(axis=axis)
    with pytest.raises(ValueError, match="y_pred's shape without axis") as caught:
        getattr(loss, verb)(labels, x)
    named = [int(a) for a in re.findall(r"axis=(\d)", str(caught.value))]
    assert named == fits
    for a in named:
        sx.SparseCategoricalCrossentropy(axis=a)(labels, x)


def test_no_axis_is_named_where_none_fits() -> None:
    for labels in ([0, 1], np.zeros((4, 2), int), 1):
        with pytest.raises(ValueError, match="^y_true must") as caught:
            LOSS(labels, P)
        assert "axis=" not in str(caught.value)


# ---- swapped ------------------------------------------------------------------------------------

Z = np.random.default_rng(1).normal(size=(2, 5, 4, 3))  # logits
SWAPS: dict[str, tuple[Any, Any, int]] = {
    "rows": (Z[0, 0], np.array([1, 0, 2, 1]), -1),
    "rows in lists": (Z[0, 0].tolist(), [1, 0, 2, 1], -1),
    "rows as tuples": (tuple(map(tuple, Z[0, 0])), (1, 0, 2, 1), -1),
    "labels as doubles": (Z[0, 0], [1.0, 0.0, 2.0, 1.0], -1),
    "float32 and int8": (Z[0, 0].astype("f4"), np.array([1, 0, 2, 1], "i1"), -1),
    "a column of labels": (Z[0, 0], np.array([[1], [0], [2], [1]]), -1),
    "one row": (Z[0, 0, 0], 2, -1),
    "one row, one label in a list": (Z[0, 0, 0], [2], -1),
    "a row of a matrix": (Z[0, 0, :1], [2], -1),
    "a sequence": (Z[0], Z[0].argmax(-1), -1),
    "an image": (np.moveaxis(Z, -1, 1), Z.argmax(-1), 1),
    "an image, its labels with the axis": (np.moveaxis(Z, -1, 1), Z.argmax(-1)[:, None], 1),
    "columns": (Z[0, 0].T, [1, 0, 2, 1], 0),
    "columns, by the second axis": (Z[0, 0].T[None], [[1, 0, 2, 1]], 1),
    "the axis that labels lack": (Z[0, 0], [1, 0, 2, 1], 1),
    "whole scores": (np.round(9 * Z[0, 0]).astype(int), [1, 0, 2, 1], -1),
}


@pytest.mark.parametrize("name", SWAPS)
@pytest.mark.parametrize("verb", ["function", "__call__", "value_and_grad"])
def test_swapped_arguments_look_swapped(name: str, verb: str) -> None:
    scores, labels, axis = SWAPS[name]
    options: dict[str, Any] = {"from_logits": True, "axis": axis}
    if verb == "function":
        call = partial(sx.loss_sparse_categorical_crossentropy, **options)
    else:
        call = getattr(sx.SparseCategoricalCrossentropy(**options), verb)
    with pytest.raises(ValueError, match="y_true and y_pred look swapped") as refusal:
        call(scores, labels)
    message = str(refusal.value)
    assert "\n" not in message
    assert "one-hot" not in message
    call(labels, scores)  # the way out


@pytest.mark.filterwarnings("ignore:y_pred must hold probabilities:UserWarning")
def test_swapped_arguments_of_the_one_hot_loss_look_swapped() -> None:
    hot = np.eye(3)[Y]
    for scores, targets in ((Z[0, 0], hot), (Z[0, 0], hot.astype(int)), (Z[0], np.eye(3)[[Y] * 5])):
        for call in (SOFT, SOFT.value_and_grad, sx.loss_categorical_crossentropy):
            with pytest.raises(ValueError, match="y_true and y_pred look swapped"):
                call(scores, targets)
            call(targets, scores)
    with pytest.raises(ValueError, match=r"use loss_sparse_categorical_crossentropy; .*swapped"):
        SOFT(Z[0, 0], Y)


NOT_SWAPPED: dict[str, tuple[Any, Any]] = {
    "labels of another length": ([0, 1], P),
    "labels with an axis too many": (np.zeros((4, 3, 2), int), P),
    "soft targets": (P, P),
    "one-hot targets": (np.eye(3)[Y], P),
    "one-hot scores": (np.eye(3, dtype=int)[Y], np.eye(3)[Y]),
    "a scalar": (1, P),
}


@pytest.mark.parametrize("name", NOT_SWAPPED)
def test_other_mistakes_do_not_look_swapped(name: str) -> None:
    with pytest.raises(ValueError, match="^y_true") as refusal:
        LOSS(*NOT_SWAPPED[name])
    assert "swapped" not in str(refusal.value)


# ---- where an argument stands -------------------------------------------------------------------

GRID, GRID_LABELS = Z[0], np.zeros((5, 4), int)


@pytest.mark.parametrize(
    "make",
    cases(
        {
            **{k: FROM_1[k] for k in ("array", "list", "series", "nullable series", "Arrow")},
            **{k: FROM_1[k] for k in ("torch", "torch's bfloat16", "tensorflow")},
        }
    ),
)
def test_weights_of_the_last_axis_fit_after_the_way_out(make: Callable[[Any], Any]) -> None:
    w = make(np.array([1.0, 2.0, 3.0, 4.0]))
    loss = sx.SparseCategoricalCrossentropy(from_logits=True)
    with pytest.raises(ValueError, match=r"pass w\[None, :\]") as refusal:
        loss(GRID_LABELS, GRID, w)
    seen = {**SEEN, "sample_weight": w, "w": w}
    if of := re.search(r" of w = (\S+)$", str(refusal.value)):
        seen["w"] = eval(of[1], seen)  # w itself has no such index
    got = loss(GRID_LABELS, GRID, eval("w[None, :]", seen))
    assert got == loss(GRID_LABELS, GRID, np.broadcast_to([1.0, 2.0, 3.0, 4.0], (5, 4)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"from_logits": True},
        {"axis": 0, "label_smoothing": 0.1},
        {"ignore_class": 1, "normalize": "before", "dtype": "float64"},
        {"class_weight": C, "ignore_class": [1, 2]},
    ],
    ids=lambda options: ", ".join(options),
)
def test_what_belongs_to_the_object_is_a_call_of_it_with_the_same_options(
    options: dict[str, Any],
) -> None:
    x = P.T if options.get("axis") == 0 else P
    function = sx.loss_sparse_categorical_crossentropy
    seen = {"loss_sparse_categorical_crossentropy": function, "y_true": Y, "y_pred": x, "w": W}
    loss = sx.SparseCategoricalCrossentropy(**options)
    with pytest.raises(TypeError, match="^sample_weight .*call ") as refusal:
        function(Y, x, sample_weight=W, **options)
    code = str(refusal.value).partition("call ")[2]
    assert eval(code, seen | options) == loss(Y, x, W)
    with pytest.raises(TypeError, match="^reduction='sum' .*call ") as refusal:
        function(Y, x, reduction="sum", **options)
    code = str(refusal.value).partition("call ")[2]
    assert eval(code, seen | options) == type(loss)(**options, reduction="sum")(Y, x)


def test_the_same_of_the_one_hot_loss() -> None:
    function, hot = sx.loss_categorical_crossentropy, np.eye(3)[Y]
    with pytest.raises(TypeError, match="call ") as refusal:
        function(hot, P, sample_weight=W, from_logits=True, label_smoothing=0.5)
    code = str(refusal.value).partition("call ")[2]
    seen = {"loss_categorical_crossentropy": function, "y_true": hot, "y_pred": P, "w": W}
    loss = sx.CategoricalCrossentropy(from_logits=True, label_smoothing=0.5)
    assert eval(code, seen) == loss(hot, P, W)


@pytest.mark.parametrize("labels", [Y, Y[:, None]], ids=["row", "column"])
def test_integer_labels_of_the_one_hot_loss_go_to_the_loss_it_names(labels: Any) -> None:
    with pytest.raises(ValueError, match="use loss_sparse_categorical_crossentropy$") as refusal:
        SOFT(labels, P)
    named = getattr(sx, str(refusal.value).rpartition(" ")[2])
    assert named(labels, P).shape == (4,)


# ---- files --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["evaluate", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err.removesuffix("\n")


def test_truth_and_probabilities_in_one_archive_are_told_apart(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez("both.npz", y=Y, p=P)
    message = refusal_of(["both.npz", "both.npz"], capsys)
    names = re.search(r"say which, (\S+) or (\S+)$", message)
    assert names is not None, message
    assert main(["evaluate", *names.groups()]) == 0


def test_truth_and_probabilities_in_one_array_are_told_to_be_saved_apart(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = np.column_stack([Y, P])
    np.save("both.npy", both)
    message = refusal_of(["both.npy", "both.npy"], capsys)
    assert message.endswith(": one file for both? save labels and scores apart")
    np.save("y.npy", both[:, 0])
    np.save("p.npy", both[:, 1:])
    assert main(["evaluate", "y.npy", "p.npy"]) == 0


@pytest.mark.parametrize(
    ("y", "p"),
    [(Y, P), (Y[:, None], P), (Y * 1.0, P), (Y[:1], P[0]), (np.eye(3, dtype=int)[Y], P)],
    ids=["labels", "a column", "doubles", "one row", "one-hot"],
)
def test_swapped_files_look_swapped(
    y: Any, p: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("y.npy", y)
    np.save("p.npy", p)
    message = refusal_of(["p.npy", "y.npy"], capsys)
    assert message.endswith(": are p.npy and y.npy swapped?"), message
