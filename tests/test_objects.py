"""Promises of the objects: what a loss is made of, what it tells of itself, and what it never does.

A loss is its config: equal configs are equal losses, JSON and pickle carry them, nothing changes
one after it is made. Then the settings of the process, `op_array`, and the types that a checker
sees.
"""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import oracle
import pytest
from oracle import Definition, assert_close

import sparse_xent as sx
from sparse_xent import CategoricalCrossentropy, SparseCategoricalCrossentropy

SPARSE, ONE_HOT = SparseCategoricalCrossentropy, CategoricalCrossentropy
OPTIONS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "logits": {"from_logits": True},
    "one ignored class": {"ignore_class": 255},
    "a whole float ignored": {"ignore_class": 255.0},
    "ignored classes in a list": {"ignore_class": [3, 1]},
    "ignored classes in a set": {"ignore_class": {3, -1, 2}},
    "ignored NumPy integers": {"ignore_class": np.array([4, 2])},
    "an axis": {"axis": 1},
    "an axis that R sends": {"axis": -1.0},
    "smoothing": {"label_smoothing": 0.1},
    "NumPy's smoothing": {"label_smoothing": np.float64(0.25)},
    "class weights in a list": {"class_weight": [1, 2.5, 0]},
    "class weights in an array": {"class_weight": np.array([1, 2], "float32")},
    "class weights in a dict": {"class_weight": {2: 0.5, 0: 3}},
    "class weights by strings": {"class_weight": {"2": 0.5, "0": 3}},
    "normalize": {"normalize": "before"},
    "no reduction": {"reduction": None},
    "a reduction": {"reduction": "mean_with_sample_weight"},
    "the old name of a reduction": {"reduction": "auto"},
    "a name": {"name": "mine"},
    "a dtype": {"dtype": "float64"},
    "a NumPy dtype": {"dtype": np.dtype("float16")},
    "bfloat16": {"dtype": ml_dtypes.bfloat16},
    "a device": {"device": "cuda"},
    "a policy's name": {"dtype": "mixed_float16"},
    "a policy": {"dtype": SimpleNamespace(compute_dtype="float64")},
    "all at once": {
        "from_logits": True,
        "ignore_class": {9, 7},
        "axis": 1,
        "label_smoothing": 0.2,
        "class_weight": {1: 2.0},
        "normalize": "never",
        "reduction": "sum",
        "name": "all",
        "dtype": "bfloat16",
    },
}
SHARED = ["from_logits", "axis", "label_smoothing", "reduction", "name", "dtype"]


def made(form: Any) -> list[Any]:
    """Each case of options that this form takes."""
    return [
        pytest.param(form, options, id=f"{form.__name__}, {name}")
        for name, options in OPTIONS.items()
        if form is SPARSE or set(options) <= set(SHARED)
    ]


EVERY = [*made(SPARSE), *made(ONE_HOT)]


@pytest.fixture
def settings() -> Iterator[Any]:
    """The package, whose settings are put back afterwards."""
    before = sx.config_floatx(), sx.config_epsilon(), sx.config_threads()
    yield sx
    sx.config_set_floatx(before[0])
    sx.config_set_epsilon(before[1])
    sx.config_set_threads(before[2])


# ---- the config ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "options"), EVERY)
class TestALossIsItsConfig:
    def test_json_carries_it(self, form: Any, options: dict[str, Any]) -> None:
        loss = form(**options)
        config = loss.get_config()
        text = json.dumps(config, allow_nan=False)
        assert json.loads(text) == config
        again = form.from_config(json.loads(text))
        assert type(again) is form
        assert again == loss
        assert again.get_config() == config
        assert hash(again) == hash(loss)

    def test_it_is_plain(self, form: Any, options: dict[str, Any]) -> None:
        def plain(value: Any) -> bool:
            if isinstance(value, dict):
                return all(type(k) is str and plain(v) for k, v in value.items())
            if isinstance(value, list):
                return all(plain(v) for v in value)
            return type(value) in (str, int, float, bool, type(None))

        assert plain(form(**options).get_config())

    def test_it_has_every_argument(self, form: Any, options: dict[str, Any]) -> None:
        parameters = inspect.signature(form).parameters.values()
        keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        assert set(form(**options).get_config()) == set(keywords)
        assert set(options) <= set(keywords)

    def test_the_function_without_data_makes_the_same(
        self, form: Any, options: dict[str, Any]
    ) -> None:
        functions = {
            SPARSE: sx.loss_sparse_categorical_crossentropy,
            ONE_HOT: sx.loss_categorical_crossentropy,
        }
        assert functions[form](**options) == form(**options)

    def test_pickle_and_copy_carry_it(self, form: Any, options: dict[str, Any]) -> None:
        loss = form(**options)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            again = pickle.loads(pickle.dumps(loss, protocol))
            assert type(again) is form
            assert again == loss
        assert copy.copy(loss) == loss
        assert copy.deepcopy(loss) == loss

    def test_its_repr_is_one_line_that_makes_it_again(
        self, form: Any, options: dict[str, Any]
    ) -> None:
        loss = form(**options)
        text = repr(loss)
        assert text.startswith(form.__name__ + "(")
        assert "\n" not in text
        assert eval(text, {form.__name__: form}) == loss

    def test_nothing_can_be_changed(self, form: Any, options: dict[str, Any]) -> None:
        loss = form(**options)
        before = loss.get_config()
        for name in [*before, "anything"]:
            with pytest.raises((AttributeError, TypeError)):
                setattr(loss, name, 1)
            with pytest.raises((AttributeError, TypeError)):
                delattr(loss, name)
        config = loss.get_config()
        for value in config.values():
            if isinstance(value, dict | list):
                value.clear()
        config.clear()
        assert loss.get_config() == before


def test_what_was_given_may_change_afterwards() -> None:
    ignored, weights, array = [1, 2], {0: 2.0}, np.array([1.0, 2.0])
    losses = [
        SPARSE(ignore_class=ignored),
        SPARSE(class_weight=weights),
        SPARSE(class_weight=array),
    ]
    before = [loss.get_config() for loss in losses]
    ignored.append(3)
    weights[1] = 5.0
    array[:] = 0
    assert [loss.get_config() for loss in losses] == before


def test_a_set_becomes_a_sorted_list_in_the_config() -> None:
    assert SPARSE(ignore_class={9, -1, 4}).get_config()["ignore_class"] == [-1, 4, 9]
    assert SPARSE(ignore_class=255.0).get_config()["ignore_class"] == 255


@pytest.mark.parametrize(
    ("a", "b"),
    [
        pytest.param({}, {"dtype": "float32"}, id="the default dtype is floatx"),
        pytest.param({"reduction": "auto"}, {}, id="auto is the mean"),
        pytest.param({"reduction": "none"}, {"reduction": None}, id="none is None"),
        pytest.param({"ignore_class": [1, 2]}, {"ignore_class": {2, 1}}, id="a set is its list"),
        pytest.param({"ignore_class": [255]}, {"ignore_class": 255}, id="one class is its list"),
        pytest.param({"ignore_class": []}, {}, id="no ignored class is None"),
        pytest.param({"axis": 1.0}, {"axis": 1}, id="1.0 is 1"),
        pytest.param({"label_smoothing": 0}, {}, id="no smoothing is 0"),
        pytest.param({"dtype": "mixed_float16"}, {"dtype": np.float16}, id="a policy is its dtype"),
        pytest.param(
            {"class_weight": {1: 2, 0: 3}}, {"class_weight": {"0": 3.0, "1": 2.0}},
            id="keys may be strings, in any order",
        ),
        pytest.param(
            {"class_weight": np.array([1, 2], "float16")}, {"class_weight": [1.0, 2.0]},
            id="an array is its list",
        ),
    ],
)  # fmt: skip
def test_equal_configs_are_equal_losses(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert SPARSE(**a) == SPARSE(**b)
    assert hash(SPARSE(**a)) == hash(SPARSE(**b))
    assert len({SPARSE(**a), SPARSE(**b)}) == 1


SAID_OTHERWISE = {"nothing", "the old name of a reduction", "an axis that R sends"}


@pytest.mark.parametrize("name", sorted(OPTIONS.keys() - SAID_OTHERWISE))
def test_other_configs_are_other_losses(name: str) -> None:
    assert SPARSE(**OPTIONS[name]) != SPARSE()


def test_a_loss_equals_no_other_kind_of_thing() -> None:
    assert SPARSE(name="x") != ONE_HOT(name="x")
    assert SPARSE() != SPARSE().get_config()
    assert SPARSE() != "SparseCategoricalCrossentropy()"


def test_the_arguments_are_keyword_only() -> None:
    for form in (SPARSE, ONE_HOT):
        with pytest.raises(TypeError):
            form(True)


@pytest.mark.parametrize(
    ("form", "wrong", "nearest"),
    [
        (sx.loss_sparse_categorical_crossentropy, "from", "from_logits"),
        (sx.loss_sparse_categorical_crossentropy, "logits", "from_logits"),
        (sx.loss_sparse_categorical_crossentropy, "ignore_index", "ignore_class"),
        (sx.loss_sparse_categorical_crossentropy, "smoothing", "label_smoothing"),
        (sx.loss_sparse_categorical_crossentropy, "normalise", "normalize"),
        (sx.loss_sparse_categorical_crossentropy, "class_weights", "class_weight"),
        (SPARSE, "from", "from_logits"),
        (SPARSE, "reduce", "reduction"),
        (SPARSE, "axes", "axis"),
        (ONE_HOT, "from", "from_logits"),
        (sx.loss_categorical_crossentropy, "label_smooth", "label_smoothing"),
    ],
)
def test_an_unknown_keyword_is_answered_with_the_nearest(
    form: Any, wrong: str, nearest: str
) -> None:
    with pytest.raises(TypeError, match=rf"{wrong}.*\b{nearest}\b"):
        form(**{wrong: 1})


def test_the_signature_shows_what_r_shows_first() -> None:
    parameters = inspect.signature(sx.loss_sparse_categorical_crossentropy).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert positional == ["y_true", "y_pred", "from_logits", "ignore_class", "axis"]
    assert keywords == [
        "label_smoothing", "class_weight", "normalize", "reduction", "name", "dtype", "device",
    ]  # fmt: skip
    parameters = inspect.signature(sx.loss_categorical_crossentropy).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == ["y_true", "y_pred", "from_logits", "label_smoothing", "axis"]


def test_a_loss_can_be_called_by_name_and_again() -> None:
    loss = SPARSE()
    first = loss(y_true=[1], y_pred=[[0.2, 0.8]], sample_weight=2.0)
    assert loss([1], [[0.2, 0.8]], 2.0) == first


# ---- the settings of the process ----------------------------------------------------------------


class TestSettings:
    def test_what_they_are_at_first(self) -> None:
        code = "import sparse_xent as s; print(s.config_floatx(), s.config_epsilon())"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=280
        )
        assert done.stdout.split() == ["float32", "1e-07"]
        assert isinstance(sx.config_threads(), int)
        assert sx.config_threads() >= 1

    @pytest.mark.parametrize("floatx", ["float16", "bfloat16", "float32", "float64"])
    def test_floatx_is_read_when_a_loss_is_made(self, settings: Any, floatx: str) -> None:
        old = SPARSE()
        assert settings.config_set_floatx(floatx) is None
        assert settings.config_floatx() == floatx
        new = SPARSE()
        settings.config_set_floatx("float32")
        assert old([0], [[0.25, 0.75]]).dtype == np.float32
        assert new([0], [[0.25, 0.75]]).dtype == oracle.FLOATS[floatx]
        assert new.get_config()["dtype"] == floatx
        assert SPARSE.from_config(old.get_config()) == old

    def test_floatx_says_nothing_about_data_in_hand(self, settings: Any) -> None:
        settings.config_set_floatx("float16")
        assert sx.loss_sparse_categorical_crossentropy([0], [[0.25, 0.75]]).dtype == np.float64

    @pytest.mark.parametrize("normalize", ["after", "before", "never"])
    @pytest.mark.parametrize("epsilon", [1e-3, 1e-12, 0])
    def test_epsilon_is_read_at_each_call(
        self, settings: Any, normalize: str, epsilon: float
    ) -> None:
        y_pred = np.array([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
        loss = SPARSE(normalize=normalize, dtype="float64", reduction=None)
        assert settings.config_set_epsilon(epsilon) is None
        assert settings.config_epsilon() == epsilon
        value, gradient = loss.value_and_grad([1, 0], y_pred)
        want = Definition(normalize=normalize, epsilon=epsilon, reduction=None)
        want_value, want_gradient = want.value_and_gradient([1, 0], y_pred)
        assert_close(value, want_value, 1e-12)
        assert_close(gradient, want_gradient, 1e-12, 1e-14)
        alone = sx.loss_sparse_categorical_crossentropy([1, 0], y_pred, normalize=normalize)
        assert alone.tobytes() == value.tobytes()

    @pytest.mark.parametrize("floatx", ["int32", "float8", "", None, 32, "float128"])
    def test_another_floatx_is_refused(self, settings: Any, floatx: Any) -> None:
        with pytest.raises((ValueError, TypeError)):
            settings.config_set_floatx(floatx)
        assert settings.config_floatx() == "float32"

    @pytest.mark.parametrize(
        "epsilon",
        [0.5, -1e-7, 1.0, np.nan, np.inf, "1e-7", None, pytest.param(10**400, id="10**400")],
    )
    def test_another_epsilon_is_refused(self, settings: Any, epsilon: Any) -> None:
        with pytest.raises((ValueError, TypeError)):
            settings.config_set_epsilon(epsilon)
        assert settings.config_epsilon() == 1e-7

    @pytest.mark.parametrize("threads", [0, -1, 1.5, np.nan, "2", True])
    def test_another_number_of_threads_is_refused(self, settings: Any, threads: Any) -> None:
        before = settings.config_threads()
        with pytest.raises((ValueError, TypeError)):
            settings.config_set_threads(threads)
        assert settings.config_threads() == before

    def test_one_thread_can_be_asked_for(self, settings: Any) -> None:
        assert settings.config_set_threads(1) is None
        assert settings.config_threads() == 1


# ---- op_array -----------------------------------------------------------------------------------


class TestOpArray:
    @pytest.mark.parametrize(
        "x",
        [
            pytest.param([1.0, 2.0], id="a list, as R sends a vector"),
            pytest.param([[0.05, 0.95], [0.1, 0.9]], id="nested lists"),
            pytest.param(np.asfortranarray([[0.25, 0.75], [0.5, 0.5]]), id="an R matrix"),
            pytest.param([1, 2], id="whole numbers"),
        ],
    )
    def test_it_is_an_array_of_the_same_numbers(self, x: Any) -> None:
        got = sx.op_array(x)
        assert type(got) is np.ndarray
        np.testing.assert_allclose(got, x, rtol=1e-7)

    def test_a_number_is_a_numpy_scalar_never_a_0_d_array(self) -> None:
        """As R sends c(2): a vector of length 1 is a bare number there."""
        assert isinstance(sx.op_array(2.0), np.generic)
        assert sx.op_array(2.0) == 2

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int32"])
    def test_it_has_the_dtype_asked_for(self, dtype: str) -> None:
        want = oracle.FLOATS.get(dtype, np.dtype(dtype) if dtype != "bfloat16" else None)
        assert sx.op_array([1.0, 2.0], dtype).dtype == want
        assert sx.op_array([1, 2], dtype=dtype).dtype == want

    def test_the_manual_pages_call(self) -> None:
        y_true, y_pred = sx.op_array([1, 2]), sx.op_array([[0.05, 0.95, 0.0], [0.1, 0.8, 0.1]])
        scce = sx.loss_sparse_categorical_crossentropy()
        assert scce(y_true, y_pred) == pytest.approx(1.1769392, abs=2e-7)
        weights = sx.op_array([0.3, 0.7])
        assert scce(y_true, y_pred, sample_weight=weights) == pytest.approx(0.8135988, abs=2e-7)

    def test_another_dtype_is_refused_by_us(self) -> None:
        with pytest.raises((TypeError, ValueError), match="^dtype"):
            sx.op_array([1.0], "float33")


# ---- types --------------------------------------------------------------------------------------

TYPED = """
    import numpy as np
    import sparse_xent as sx
    y = np.array([0, 1])
    p = np.array([[0.5, 0.5], [0.5, 0.5]], dtype=np.float32)
    reveal_type(sx.loss_sparse_categorical_crossentropy())
    reveal_type(sx.loss_sparse_categorical_crossentropy(from_logits=True, reduction=None))
    reveal_type(sx.loss_sparse_categorical_crossentropy(y, p))
    reveal_type(sx.loss_sparse_categorical_crossentropy([0, 1], [[0.5, 0.5], [0.5, 0.5]], True, 9))
    reveal_type(sx.loss_categorical_crossentropy())
    reveal_type(sx.loss_categorical_crossentropy(p, p))
    sx.loss_sparse_categorical_crossentropy(y, p, reduction="sum")  # wrong
    sx.loss_sparse_categorical_crossentropy(y, p, sample_weight=y)  # wrong
    sx.loss_sparse_categorical_crossentropy(y)  # wrong
    sx.loss_sparse_categorical_crossentropy(logits=True)  # wrong
    sx.loss_sparse_categorical_crossentropy(normalize="during")  # wrong
    value, gradient = sx.SparseCategoricalCrossentropy(ignore_class={1, 2}).value_and_grad(y, p)
    loss = sx.SparseCategoricalCrossentropy()
    reveal_type(sx.SparseCategoricalCrossentropy.from_config(loss.get_config()))
    reveal_type(sx.metric_sparse_categorical_accuracy(axis=1))
    reveal_type(sx.metric_sparse_categorical_accuracy(y, p, sample_weight=y))
    sx.metric_sparse_categorical_accuracy(sample_weight=y)  # wrong
    sx.metric_sparse_categorical_accuracy(y)  # wrong
"""


def test_a_checker_tells_the_data_form_from_the_object_form(tmp_path: Path) -> None:
    source = textwrap.dedent(TYPED).lstrip()
    (tmp_path / "typed.py").write_text(source)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--no-error-summary",
            "--no-pretty",
            "--cache-dir",
            str(tmp_path / "cache"),
            "--config-file",
            "",
            str(tmp_path / "typed.py"),
        ],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
        cwd=Path(sx.__file__).parents[1],
    )
    said = [line for line in done.stdout.splitlines() if "typed.py" in line]
    revealed = [line.split('"')[1] for line in said if "Revealed type" in line]
    wrong = {int(line.split(":")[1]) for line in said if ": error:" in line}
    sparse, dense = (
        f"sparse_xent.loss.{name}"
        for name in ("SparseCategoricalCrossentropy", "CategoricalCrossentropy")
    )
    assert [name if "ndarray" not in name else "an array" for name in revealed] == [
        sparse, sparse, "an array", "an array", dense, "an array", sparse,
        "sparse_xent.metrics.SparseCategoricalAccuracy", "an array",
    ], done.stdout + done.stderr  # fmt: skip
    assert wrong == {
        number for number, line in enumerate(source.splitlines(), 1) if "# wrong" in line
    }, done.stdout


@pytest.mark.parametrize(
    "made",
    [
        lambda: sx.loss_sparse_categorical_crossentropy(),
        lambda: sx.loss_categorical_crossentropy(),
        lambda: sx.metric_sparse_categorical_accuracy(),
        lambda: sx.partial([0], [[0.5, 0.5]]),
    ],
)
def test_an_object_can_be_weakly_referenced(made):
    """As caches do: `jax.jit(loss)` fails without."""
    one = made()
    assert weakref.ref(one)() is one
