"""What holds numbers is taken, whichever library it comes from: labels, scores, weights, options.

Each kind of array must give the bits that the same numbers give as NumPy's. What a library marks as
missing is refused with its position, and weights that carry names go by them.
"""

from __future__ import annotations

import array as builtin_array
import json
import pickle
import types
import warnings
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from conftest import require_peer

import sparse_xent as sx

P = np.array([[0.2, 0.3, 0.5], [0.1, 0.8, 0.1], [0.6, 0.2, 0.2], [0.25, 0.5, 0.25]])
Y = np.array([1, 0, 2, 1])
W = np.array([2, 0, 1, 3])  # whole, so that every dtype holds them
C = np.array([3, 1, 2])
NUMPYS = ["int8", "uint64", ">i4", "float16", "float32", "float64", "longdouble"]


def tensor(dtype: str) -> Callable[[Any], Any]:
    def make(values: Any) -> Any:
        torch = require_peer("torch")
        return torch.tensor(np.asarray(values).tolist()).to(getattr(torch, dtype))

    return make


def negated(values: Any) -> Any:
    """A view of torch's that holds the values' negatives, to be negated when they are read."""
    torch = require_peer("torch")
    view = torch.complex(torch.zeros(len(values)), -torch.tensor(values).float()).conj().imag
    assert view.is_neg()
    return view


def jax_array(dtype: str) -> Callable[[Any], Any]:
    return lambda values: require_peer("jax").numpy.asarray(np.asarray(values), dtype)


def tf_tensor(make: str, dtype: str) -> Callable[[Any], Any]:
    def made(values: Any) -> Any:
        return getattr(require_peer("tensorflow"), make)(np.asarray(values), dtype=dtype)

    return made


def series(dtype: Any) -> Callable[[Any], Any]:
    return lambda values: require_peer("pandas").array(np.asarray(values).tolist(), dtype=dtype)


def arrow(make: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    return lambda values: make(require_peer("pyarrow"), np.asarray(values).tolist())


def xarray(make: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    return lambda values: make(require_peer("xarray"), np.asarray(values))


def small(name: str) -> Callable[[Any], Any]:
    return lambda values: np.asarray(values).astype(getattr(ml_dtypes, name))


VECTORS: dict[str, Callable[[Any], Any]] = {
    "list": lambda v: np.asarray(v).tolist(),
    "tuple": lambda v: tuple(np.asarray(v).tolist()),
    "deque": lambda v: deque(np.asarray(v).tolist()),
    "array.array": lambda v: builtin_array.array("i", np.asarray(v).tolist()),
    "memoryview": lambda v: memoryview(np.asarray(v)),
    "list of NumPy scalars": lambda v: list(np.asarray(v)),
    "list of 0-d arrays": lambda v: [np.array(n) for n in v],
    **{f"numpy {dtype}": lambda v, dtype=dtype: np.asarray(v).astype(dtype) for dtype in NUMPYS},
    "read-only": lambda v: np.frombuffer(np.asarray(v).tobytes(), np.int64),
    "subclass": lambda v: np.asarray(v).view(type("Mine", (np.ndarray,), {})),
    **{f"ml_dtypes {n}": small(n) for n in ("int4", "uint4", "bfloat16")},
    "ml_dtypes uint2": small("uint2"),
    "list of int4": lambda v: [ml_dtypes.int4(n) for n in v],
    **{f"torch {d}": tensor(d) for d in ("int64", "uint8", "float32", "bfloat16", "float16")},
    "torch negated": negated,
    "list of torch scalars": lambda v: list(tensor("int64")(v)),
    **{f"jax {d}": jax_array(d) for d in ("int32", "bfloat16", "int4", "float32")},
    "tensorflow int64": tf_tensor("constant", "int64"),
    "tensorflow bfloat16": tf_tensor("constant", "bfloat16"),
    "tensorflow variable": tf_tensor("Variable", "int32"),
    **{f"pandas {d}": series(d) for d in ("Int64", "UInt8", "Float32", "Float64", "category")},
    **{f"pandas {d}": series(d) for d in ("int64[pyarrow]", "float[pyarrow]", "Sparse[int]")},
    "pandas Index": lambda v: require_peer("pandas").Index(np.asarray(v)),
    "pyarrow": arrow(lambda pa, v: pa.array(v)),
    "pyarrow chunked": arrow(lambda pa, v: pa.chunked_array([v[:1], v[1:]])),
    "pyarrow dictionary": arrow(lambda pa, v: pa.array(v).dictionary_encode()),
    "pyarrow half": arrow(lambda pa, v: pa.array(np.array(v, np.float16))),
    "list of pyarrow scalars": arrow(lambda pa, v: [pa.scalar(n).as_py() for n in v]),
    "xarray": xarray(lambda xr, v: xr.DataArray(v)),
    "xarray variable": xarray(lambda xr, v: xr.Variable("x", v)),
}
ENTRIES = [pytest.param(make, id=name) for name, make in VECTORS.items()]

#: torch's bfloat16 has no name among NumPy's dtypes, and is float32 by the time labels are read.
OVER_256 = ["ml_dtypes bfloat16", "torch bfloat16", "jax bfloat16", "tensorflow bfloat16"]


def taken(loss: Any, *data: Any) -> Any:
    """What a call gives, which warns of nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return loss(*data)


# ---- vectors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", ENTRIES)
def test_labels_are_taken(make: Callable[[Any], Any]) -> None:
    y_true = make(Y)
    got = taken(sx.loss_sparse_categorical_crossentropy, y_true, P)
    assert got.tobytes() == sx.loss_sparse_categorical_crossentropy(Y, P).tobytes()
    loss = sx.SparseCategoricalCrossentropy()
    value, gradient = taken(loss.value_and_grad, y_true, P)
    want = loss.value_and_grad(Y, P)
    assert value == want[0]
    assert gradient.tobytes() == want[1].tobytes()


@pytest.mark.parametrize("make", ENTRIES)
@pytest.mark.parametrize("reduction", ["mean", "mean_with_sample_weight", None])
def test_sample_weights_are_taken(make: Callable[[Any], Any], reduction: str | None) -> None:
    loss = sx.SparseCategoricalCrossentropy(reduction=reduction)
    value, gradient = taken(loss.value_and_grad, Y, P, make(W))
    want = loss.value_and_grad(Y, P, W)
    assert np.asarray(value).tobytes() == np.asarray(want[0]).tobytes()
    assert gradient.tobytes() == want[1].tobytes()


@pytest.mark.parametrize("make", ENTRIES)
def test_class_weights_are_taken(make: Callable[[Any], Any]) -> None:
    want = sx.SparseCategoricalCrossentropy(class_weight=C, dtype="float64")
    loss = sx.SparseCategoricalCrossentropy(class_weight=make(C), dtype="float64")
    assert loss(Y, P) == want(Y, P)
    assert loss == want
    assert hash(loss) == hash(want)
    assert json.loads(json.dumps(loss.get_config(), allow_nan=False)) == want.get_config()
    assert pickle.loads(pickle.dumps(loss)) == want


@pytest.mark.parametrize(
    "make", [*ENTRIES, *(pytest.param(t, id=t.__name__) for t in (set, frozenset))]
)
def test_ignored_classes_are_taken(make: Callable[[Any], Any]) -> None:
    loss = sx.SparseCategoricalCrossentropy(ignore_class=make([2, 0]))
    want = sx.SparseCategoricalCrossentropy(ignore_class=[0, 2])
    assert loss == want
    assert loss.get_config()["ignore_class"] == [0, 2]
    assert all(type(c) is int for c in loss.get_config()["ignore_class"])
    assert loss(Y, P) == want(Y, P)
    got = sx.loss_sparse_categorical_crossentropy(Y, P, ignore_class=make([2, 0]))
    assert got.tolist()[1:3] == [0, 0]


@pytest.mark.parametrize(
    "made",
    [
        iter([0, 2]),
        (c for c in (0, 2)),
        {0: "", 2: ""}.keys(),
        {"a": 2, "b": 0}.values(),
        range(0, 3, 2),
    ],
    ids=lambda made: type(made).__name__,
)
def test_ignored_classes_may_be_any_collection(made: Any) -> None:
    loss = sx.SparseCategoricalCrossentropy(ignore_class=made)
    assert loss.get_config()["ignore_class"] == [0, 2]


@pytest.mark.parametrize("name", OVER_256)
def test_bfloat16_labels_are_refused_above_256_classes_whoever_holds_them(name: str) -> None:
    labels, scores = VECTORS[name]([256]), np.full((1, 257), 1 / 257)
    whole = sx.loss_sparse_categorical_crossentropy([256], scores)
    assert sx.loss_sparse_categorical_crossentropy(labels, scores) == whole
    with pytest.raises(TypeError, match="bfloat16, which is exact up to 256"):
        sx.loss_sparse_categorical_crossentropy(labels, np.full((1, 258), 1 / 258))


def test_int2_and_uint2_and_int1_hold_labels() -> None:
    for name in ("int1", "uint1", "int2", "uint2"):
        if hasattr(ml_dtypes, name):
            labels = np.zeros(4, getattr(ml_dtypes, name))
            want = sx.loss_sparse_categorical_crossentropy(np.zeros(4, int), P)
            assert sx.loss_sparse_categorical_crossentropy(labels, P).tobytes() == want.tobytes()
    with pytest.raises(ValueError, match=r"got -2 at \(1,\)"):
        sx.loss_sparse_categorical_crossentropy(np.array([0, -2, 1, 1]).astype(ml_dtypes.int2), P)


@pytest.mark.parametrize("dtype", ["float8_e5m2", "float8_e4m3fn", "float4_e2m1fn"])
def test_floats_of_8_bits_and_fewer_are_refused_by_name(dtype: str) -> None:
    few = np.zeros(4).astype(getattr(ml_dtypes, dtype))
    with pytest.raises(TypeError, match=f"^y_true .*{dtype}"):
        sx.loss_sparse_categorical_crossentropy(few, P)
    with pytest.raises(TypeError, match=f"^y_pred .*{dtype}"):
        sx.loss_sparse_categorical_crossentropy(Y, P.astype(getattr(ml_dtypes, dtype)))
    with pytest.raises(TypeError, match=f"^sample_weight .*{dtype}"):
        sx.SparseCategoricalCrossentropy()(Y, P, few)


# ---- single numbers -----------------------------------------------------------------------------

SCALARS: dict[str, Callable[[Any], Any]] = {
    "NumPy scalar": np.asarray(0).dtype.type,
    "0-d array": np.array,
    "long double": np.longdouble,
    "int4": ml_dtypes.int4,
    "bfloat16": ml_dtypes.bfloat16,
    **{f"torch {d}": tensor(d) for d in ("int64", "float64", "bfloat16")},
    **{f"jax {d}": jax_array(d) for d in ("int32", "float32", "bfloat16", "int4")},
    "tensorflow": tf_tensor("constant", "int64"),
    "tensorflow variable": tf_tensor("Variable", "float32"),
    "pandas Int64": lambda v: require_peer("pandas").array([v], dtype="Int64")[0],
    "pyarrow": lambda v: require_peer("pyarrow").scalar(v),
    "xarray": lambda v: require_peer("xarray").DataArray(v),
}


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in SCALARS.items()])
def test_single_numbers_are_taken(make: Callable[[Any], Any]) -> None:
    plain: dict[str, Any] = {
        "axis": 1,
        "ignore_class": 2,
        "label_smoothing": 1,
        "class_weight": {0: 3},
    }
    held = {key: make(plain[key]) for key in ("axis", "ignore_class", "label_smoothing")}
    loss = sx.SparseCategoricalCrossentropy(
        **held, class_weight={make(0) if hash_of(make(0)) else 0: make(3)}
    )
    want = sx.SparseCategoricalCrossentropy(**plain)
    assert loss == want
    assert json.dumps(loss.get_config()) == json.dumps(want.get_config())
    assert (
        sx.SparseCategoricalCrossentropy(ignore_class=[make(2)]).get_config()["ignore_class"] == 2
    )
    assert sx.SparseCategoricalCrossentropy(class_weight=[make(3), 1, 1]) == (
        sx.SparseCategoricalCrossentropy(class_weight=[3, 1, 1])
    )
    assert sx.SparseCategoricalCrossentropy()(Y, P, make(3)) == sx.SparseCategoricalCrossentropy()(
        Y, P, 3
    )


def hash_of(value: Any) -> int | None:
    """A value's hash; None where it has none, and so cannot be a key."""
    try:
        return hash(value)
    except TypeError:
        return None


BOOLS: dict[str, Callable[[], Any]] = {
    "NumPy": lambda: np.True_,
    "0-d array": lambda: np.array(True),
    "0-d object": lambda: np.array(True, object),
    "torch": lambda: tensor("bool")(True),
    "jax": lambda: jax_array("bool")(True),
    "tensorflow": lambda: tf_tensor("constant", "bool")(True),
    "pyarrow": lambda: require_peer("pyarrow").scalar(True),
    "xarray": lambda: require_peer("xarray").DataArray(True),
}


@pytest.mark.parametrize("name", BOOLS)
def test_a_bool_is_a_flag_and_no_number(name: str) -> None:
    value = BOOLS[name]()
    assert sx.SparseCategoricalCrossentropy(from_logits=value).get_config()["from_logits"] is True
    wrong: list[dict[str, Any]] = [
        {"axis": value},
        {"ignore_class": value},
        {"ignore_class": [255, value]},
        {"label_smoothing": value},
        {"class_weight": [1.0, value]},
        {"class_weight": {0: value}},
    ]
    for options in wrong:
        with pytest.raises(TypeError, match=f"^{next(iter(options))}"):
            sx.SparseCategoricalCrossentropy(**options)


@pytest.mark.parametrize("library", ["torch", "tensorflow", "jax"])
def test_a_librarys_dtype_is_one(library: str) -> None:
    module = require_peer(library)
    float64 = (module if library != "jax" else module.numpy).float64
    assert sx.SparseCategoricalCrossentropy(dtype=float64).dtype == "float64"
    bfloat16 = (module if library != "jax" else module.numpy).bfloat16
    assert sx.SparseCategoricalCrossentropy(dtype=bfloat16).dtype == "bfloat16"


# ---- tables of scores ---------------------------------------------------------------------------


def frame(dtype: Any = None) -> Any:
    made = require_peer("pandas").DataFrame(P, columns=["a", "b", "c"])
    return made if dtype is None else made.astype(dtype)


def arrow_table() -> Any:
    return require_peer("pyarrow").table({name: P[:, j] for j, name in enumerate("abc")})


TABLES: dict[str, Callable[[], Any]] = {
    "floats": frame,
    "convert_dtypes": lambda: frame().convert_dtypes(),
    "Arrow dtypes": lambda: (
        require_peer("pyarrow"),
        frame().convert_dtypes(dtype_backend="pyarrow"),
    )[1],
    "Float64": lambda: frame("Float64"),
    "some nullable": lambda: frame({"b": "Float64"}),
    "double[pyarrow]": lambda: (require_peer("pyarrow"), frame("double[pyarrow]"))[1],
    "equal names": lambda: frame().set_axis(["a", "a", "a"], axis=1).convert_dtypes(),
    "rows in another order of names": lambda: frame("Float64").set_axis([9, 7, 5, 3]),
    "pyarrow table": arrow_table,
    "pyarrow batch": lambda: arrow_table().to_batches()[0],
    "pyarrow tensor": lambda: require_peer("pyarrow").Tensor.from_numpy(P),
    "xarray": lambda: require_peer("xarray").DataArray(P),
    "matrix": lambda: P.view(np.matrix),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_scores_are_taken(name: str) -> None:
    got = taken(sx.loss_sparse_categorical_crossentropy, Y, TABLES[name]())
    assert got.tobytes() == sx.loss_sparse_categorical_crossentropy(Y, P).tobytes()
    soft = taken(sx.loss_categorical_crossentropy, TABLES[name](), TABLES[name]())
    assert soft.tobytes() == sx.loss_categorical_crossentropy(P, P).tobytes()


def test_a_nullable_frame_keeps_its_width() -> None:
    require_peer("pandas")
    got = sx.loss_sparse_categorical_crossentropy(Y, frame("Float32"))
    assert got.dtype == np.float32
    want = sx.loss_sparse_categorical_crossentropy(Y, P.astype(np.float32))
    assert got.tobytes() == want.tobytes()
    assert sx.op_array(frame("Float64")).tolist() == P.tolist()


def test_a_file_read_with_arrow_dtypes_is_taken(tmp_path: Any) -> None:
    pandas, _ = require_peer("pandas"), require_peer("pyarrow")
    frame().assign(y=Y).to_csv(tmp_path / "x.csv", index=False)
    read = pandas.read_csv(tmp_path / "x.csv", dtype_backend="pyarrow")
    got = sx.loss_sparse_categorical_crossentropy(read["y"], read[["a", "b", "c"]])
    assert got.tobytes() == sx.loss_sparse_categorical_crossentropy(Y, P).tobytes()


# ---- what is missing ----------------------------------------------------------------------------


def with_missing(kind: str) -> Any:
    if kind == "pyarrow":
        columns = {
            "a": [0.2, 0.1, 0.6, 0.2],
            "b": [0.3, 0.8, 0.2, 0.5],
            "c": [0.5, None, 0.2, None],
        }
        return require_peer("pyarrow").table(columns)
    made = frame()
    made.iloc[[1, 3], 2] = np.nan
    if kind == "Arrow dtypes":
        require_peer("pyarrow")
        return made.convert_dtypes(dtype_backend="pyarrow")
    return made.convert_dtypes()


@pytest.mark.parametrize("kind", ["nullable", "Arrow dtypes", "pyarrow"])
def test_a_score_that_is_missing_is_refused_by_row_and_column(kind: str) -> None:
    place = r"^y_pred .*NA at \(1, 2\), column 'c' and 1 more; drop the rows"
    with pytest.raises(ValueError, match=place):
        sx.loss_sparse_categorical_crossentropy(Y, with_missing(kind))
    with pytest.raises(ValueError, match=place):
        sx.SparseCategoricalCrossentropy().value_and_grad(Y, with_missing(kind))
    with pytest.raises(ValueError, match=place):
        sx.loss_categorical_crossentropy(P, with_missing(kind))


def test_a_nan_that_is_a_number_stays_one() -> None:
    made = frame()
    made.iloc[1, 2] = np.nan
    got = sx.loss_sparse_categorical_crossentropy(Y, made)
    assert np.isnan(got).tolist() == [False, True, False, False]


def missing_at_1(values: Any) -> list[Any]:
    some: list[Any] = np.asarray(values).tolist()
    return [some[0], None, *some[2:]]


def pandas_holes(dtype: str, make: str = "Series") -> Callable[[list[Any]], Any]:
    def made(values: list[Any]) -> Any:
        if "pyarrow" in dtype:
            require_peer("pyarrow")
        flags = [v if v is None else v > 0 for v in values]
        return getattr(require_peer("pandas"), make)(
            flags if dtype == "boolean" else values, dtype=dtype
        )

    return made


HOLES: dict[str, Callable[[list[Any]], Any]] = {
    **{f"pandas {d}": pandas_holes(d) for d in ("Int64", "Float32", "boolean", "int64[pyarrow]")},
    "pandas array": pandas_holes("Int64", "array"),
    "pyarrow": lambda v: require_peer("pyarrow").array(v),
    "pyarrow chunked": lambda v: require_peer("pyarrow").chunked_array([v[:1], v[1:]]),
}


@pytest.mark.parametrize("name", HOLES)
def test_a_missing_label_or_weight_is_refused_with_its_position(name: str) -> None:
    with pytest.raises(ValueError, match=r"^y_true .*NA.* at \(1,\)"):
        sx.loss_sparse_categorical_crossentropy(HOLES[name](missing_at_1(Y)), P)
    with pytest.raises(ValueError, match=r"^sample_weight .*NA.* at \(1,\)"):
        sx.SparseCategoricalCrossentropy()(Y, P, HOLES[name](missing_at_1(W)))
    with pytest.raises(ValueError, match=r"^class_weight\[1\] .*NA"):
        sx.SparseCategoricalCrossentropy(class_weight=HOLES[name](missing_at_1(C)))
    with pytest.raises((TypeError, ValueError), match=r"^ignore_class .*(nan|bool)"):
        sx.SparseCategoricalCrossentropy(ignore_class=HOLES[name](missing_at_1(C)))


@pytest.mark.parametrize("name", HOLES)
def test_a_missing_weight_at_an_ignored_label_is_not_read(name: str) -> None:
    loss = sx.SparseCategoricalCrossentropy(ignore_class=0)
    holes = HOLES[name]([1, None, 1, 1])
    assert loss(Y, P, holes) == loss(Y, P, [1, 0, 1, 1])


# ---- weights that carry names -------------------------------------------------------------------

KEYS: dict[str, Callable[[Any], Any]] = {
    "ints": lambda pd: [2, 0, 1],
    "bytes": lambda pd: pd.Index([2, 0, 1], dtype="uint8"),
    "whole floats": lambda pd: [2.0, 0.0, 1.0],
    "digits": lambda pd: ["2", "0", "1"],
    "categories": lambda pd: pd.CategoricalIndex([2, 0, 1]),
    "nullable": lambda pd: pd.Index([2, 0, 1], dtype="Int64"),
    "one level": lambda pd: pd.MultiIndex.from_tuples([(2,), (0,), (1,)]),
}
VALUES = ["float64", "float32", "int64", "Float64", "Int8", "object"]


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("dtype", VALUES)
def test_a_series_of_class_weights_goes_by_its_index(keys: str, dtype: str) -> None:
    pandas = require_peer("pandas")
    named = pandas.Series([5, 7, 9], index=KEYS[keys](pandas), dtype=dtype)
    loss = sx.SparseCategoricalCrossentropy(class_weight=named, reduction=None, dtype="float64")
    assert loss.get_config()["class_weight"] == {"0": 7.0, "1": 9.0, "2": 5.0}
    assert loss(Y, P).tobytes() == loss.from_config(loss.get_config())(Y, P).tobytes()
    weighed = sx.SparseCategoricalCrossentropy(
        class_weight=[7, 9, 5], reduction=None, dtype="float64"
    )
    assert loss(Y, P).tobytes() == weighed(Y, P).tobytes()
    given = sx.loss_sparse_categorical_crossentropy(Y, P, class_weight=named)
    assert given.tobytes() == weighed(Y, P).tobytes()


def test_the_inverse_of_value_counts_weighs_each_class_by_its_own_count() -> None:
    pandas = require_peer("pandas")
    y = [2, 2, 2, 0, 1, 1]
    weights = 1 / pandas.Series(y).value_counts()
    loss = sx.SparseCategoricalCrossentropy(class_weight=weights)
    assert loss == sx.SparseCategoricalCrossentropy(class_weight=weights.to_dict())
    assert loss.get_config()["class_weight"] == {"0": 1.0, "1": 0.5, "2": 1 / 3}


def test_classes_that_a_series_does_not_name_weigh_1() -> None:
    pandas = require_peer("pandas")
    loss = sx.SparseCategoricalCrossentropy(class_weight=pandas.Series([5.0], index=[2]))
    assert loss == sx.SparseCategoricalCrossentropy(class_weight={2: 5.0})
    empty = sx.SparseCategoricalCrossentropy(class_weight=pandas.Series([], dtype=float))
    assert empty == sx.SparseCategoricalCrossentropy()


@pytest.mark.parametrize(
    "index",
    [
        [0, 0, 1], [0, 1, 3], [-1, 0, 1], ["a", "b", "c"], [0.5, 1, 2], [np.nan, 1, 2],
        [None, 1, 2], [True, False, 2], [(0, 1), (1, 1), (2, 1)], ["0.0", "1.0", "2.0"],
    ],
    ids=str,
)  # fmt: skip
def test_a_series_with_names_that_are_no_classes_is_refused(index: Any) -> None:
    pandas = require_peer("pandas")
    with pytest.raises((TypeError, ValueError), match="^class_weight"):
        sx.SparseCategoricalCrossentropy(class_weight=pandas.Series([1.0, 2.0, 3.0], index=index))(
            Y, P
        )


@pytest.mark.parametrize("missing", [np.nan, None, -2147483648.0])
def test_a_series_with_a_missing_weight_is_refused_by_its_class(missing: Any) -> None:
    pandas = require_peer("pandas")
    named = pandas.Series([1.0, missing, 3.0], index=[2, 0, 1])
    with pytest.raises(ValueError, match=r"^class_weight\[0\] .*NA in R"):
        sx.SparseCategoricalCrossentropy(class_weight=named)


def test_a_coordinate_of_xarray_names_the_classes() -> None:
    made = require_peer("xarray").DataArray([5.0, 7.0, 9.0], coords={"c": [2, 0, 1]}, dims="c")
    loss = sx.SparseCategoricalCrossentropy(class_weight=made)
    assert loss == sx.SparseCategoricalCrossentropy(class_weight={0: 7, 1: 9, 2: 5})


@pytest.mark.parametrize("columns", [["w"], [0, 1, 2]], ids=["one column", "as many as classes"])
def test_a_frame_of_class_weights_is_refused_with_its_column(columns: list[Any]) -> None:
    pandas = require_peer("pandas")
    made = pandas.DataFrame(np.ones((3, len(columns))), columns=columns)
    with pytest.raises(TypeError, match=r"^class_weight .*DataFrame.*class_weight\["):
        sx.SparseCategoricalCrossentropy(class_weight=made)


def test_a_table_of_arrow_is_refused_as_class_weights() -> None:
    made = require_peer("pyarrow").table({"w": [1.0, 2.0, 3.0]})
    with pytest.raises(TypeError, match=r"^class_weight .*Table.*class_weight\['w'\]"):
        sx.SparseCategoricalCrossentropy(class_weight=made)


@pytest.mark.parametrize(
    "made",
    [OrderedDict({2: 5.0}), Counter({2: 5}), types.MappingProxyType({2: 5.0}), {np.int64(2): 5}],
    ids=lambda made: type(made).__name__,
)
def test_any_mapping_is_taken_as_a_dict(made: Any) -> None:
    loss = sx.SparseCategoricalCrossentropy(class_weight=made)
    assert loss.get_config()["class_weight"] == {"2": 5.0}


def test_series_of_labels_and_weights_go_by_position() -> None:
    pandas = require_peer("pandas")
    y = pandas.Series(Y, index=[3, 2, 1, 0])
    w = pandas.Series(W, index=list("abcd"))
    loss = sx.SparseCategoricalCrossentropy()
    assert loss(y, frame(), w) == loss(Y, P, W)


# ---- tensors that are not plain -----------------------------------------------------------------


ODD: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "tape": (lambda torch, v: torch.tensor(v, requires_grad=True), r"gradients.*\.detach\(\)"),
    "meta": (lambda torch, v: torch.tensor(v, device="meta"), "meta"),
    "float8": (
        lambda torch, v: torch.tensor(v).to(torch.float8_e5m2),
        r"float8_e5m2.*\.float\(\)",
    ),
}
HELD = {
    "y_true": [0.0, 1.0, 0.0, 1.0],
    "sample_weight": [0.0, 1.0, 0.0, 1.0],
    "class_weight": [1.0, 2.0, 1.0],
    "ignore_class": [0.0, 2.0],
    "label_smoothing": 0.5,
}


@pytest.mark.parametrize("argument", HELD)
@pytest.mark.parametrize("kind", ODD)
def test_a_tensor_that_is_more_than_numbers_is_refused(argument: str, kind: str) -> None:
    make, words = ODD[kind]
    given = {"y_true": Y, "sample_weight": None}
    given[argument] = make(require_peer("torch"), HELD[argument])
    y_true, sample_weight = given.pop("y_true"), given.pop("sample_weight")
    with pytest.raises(TypeError, match=f"^{argument} .*{words}"):
        sx.SparseCategoricalCrossentropy(**given)(y_true, P, sample_weight)


def test_a_sparse_tensor_is_refused_with_the_dense_one() -> None:
    torch = require_peer("torch")
    with pytest.raises(TypeError, match=r"^y_true .*pass y_true\.to_dense\(\)"):
        sx.loss_sparse_categorical_crossentropy(torch.tensor(Y).to_sparse(), P)


def test_traced_scores_are_refused_with_the_place_to_call_from() -> None:
    jax = require_peer("jax")
    with pytest.raises(TypeError, match=r"^y_pred must hold values.*traced by jax\.jit"):
        jax.jit(lambda x: sx.partial(Y, x).result())(P)
