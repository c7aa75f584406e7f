"""One warning a call for scores that cannot be probabilities: what, where first, how many."""

import re
import warnings

import numpy as np
import pytest
from conftest import SHAPES, STRIDES

import sparse_xent as sx

loss_of = sx.loss_sparse_categorical_crossentropy
LOGITS = "logits: from_logits=True (in R: from_logits = TRUE)"
PERCENTAGES, COUNTS = "percentages: divide by 100", "counts: divide by their sum"


def warned(function, *args, **kwargs):
    """The messages of all warnings of a call."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        function(*args, **kwargs)
    assert all(type(w.message) is UserWarning and w.filename == __file__ for w in found)
    return [str(w.message) for w in found]


def told(function, *args, **kwargs):
    """Score, index and number of rows of the one warning of a call."""
    (message,) = warned(function, *args, **kwargs)
    said = re.fullmatch(
        r"y_pred must hold probabilities, from 0 to 1: got (\S+) at (\(.*?\))"
        r"(?:, and (\d+) more rows?)?; they look like .*",
        message,
    )
    index = tuple(int(n) for n in re.findall(r"\d+", said[2]))
    return float(said[1]), index, 1 + int(said[3] or 0)


def due(y, x, axis, ignored, target_only=False):
    """The same, from the definition."""
    x = np.moveaxis(x.astype(np.float64), axis, -1)
    bad = (x < -1e-3) | (x > 1.001)
    if target_only:
        bad &= np.arange(x.shape[-1]) == y[..., None]
    bad &= (y != ignored)[..., None]
    *place, column = (int(i) for i in np.argwhere(bad)[0])
    score = x[(*place, column)]
    place.insert(axis % x.ndim, column)
    return float(f"{score:.6g}"), tuple(place), int(bad.any(axis=-1).sum())


def scores(shape, axis, dtype, seed=0, share=0.2):
    """Probabilities, and in some of the rows one score or two that are none."""
    rng = np.random.default_rng(seed)
    x = rng.random(shape)
    x /= x.sum(axis=axis, keepdims=True)
    rows = np.moveaxis(x, axis, -1)
    odd = np.asarray(rng.random(rows.shape[:-1]) < share)
    odd.flat[-1] = True
    rows[rng.random(odd.shape) < 0.1, 0] = np.nan  # no reason, and hides none
    for value in (1.5, -0.25, np.inf, -np.inf, 70.0):
        rows[odd, rng.integers(0, rows.shape[-1], odd.sum())] = value
        odd &= rng.random(odd.shape) < 0.5
    y = np.asarray(rng.integers(0, rows.shape[-1], odd.shape))
    y[rng.random(odd.shape) < 0.2] = 255
    y.flat[-1] = 1
    return y, x.astype(dtype)


#: Every kernel, and other dtypes; one chunk, more, and tasks for more than one thread.
CASES = [
    *[(*SHAPES[name], "float32") for name in SHAPES],
    ((5000, 10), -1, "float32"),
    ((3, 7), -1, "float64"),
    ((4, 6, 5, 7), 2, "float64"),
    ((7,), 0, "float64"),
    ((30, 5), -1, "float16"),
    ((150, 5), -1, ">f8"),
]


@pytest.mark.parametrize("layout", STRIDES)
@pytest.mark.parametrize(("shape", "axis", "dtype"), CASES, ids=str)
def test_count_and_first_position_are_right_in_every_layout(shape, axis, dtype, layout, engine):
    y, x = scores(shape, axis, dtype, seed=1)
    x = STRIDES[layout](x)
    assert told(loss_of, y, x, ignore_class=255, axis=axis) == due(y, x, axis, 255)
    loss = loss_of(ignore_class=255, axis=axis)
    assert told(loss, y, x) == due(y, x, axis, 255)


def test_rows_are_counted_by_all_threads_alike(engine):
    y, x = scores((200_000, 10), -1, "float32", seed=2, share=0.01)
    expected = due(y, x, -1, 255)
    for threads in (1, 3):
        sx.config_set_threads(threads)
        try:
            assert told(loss_of, y, x, ignore_class=255) == expected
            assert told(loss_of(ignore_class=255), y, x) == expected
        finally:
            sx.config_set_threads(None)


@pytest.mark.parametrize("layout", ["C order", "Fortran order", "turned"])
@pytest.mark.parametrize("in_place", [False, True], ids=["apart", "in place"])
@pytest.mark.parametrize("reduction", ["mean", None], ids=str)
@pytest.mark.parametrize(
    ("shape", "axis"), [((5000, 10), -1), ((41, 30), 1), ((37, 600), 1), ((4, 6, 5, 7), 1)], ids=str
)
def test_a_gradient_in_place_hides_nothing(shape, axis, reduction, in_place, layout, engine):
    y, x = scores(shape, axis, "float32", seed=3)
    x = STRIDES[layout](x)
    expected = due(y, x, axis, 255)
    loss = loss_of(ignore_class=255, axis=axis, reduction=reduction)
    assert told(loss.value_and_grad, y, x, out=x if in_place else None) == expected


@pytest.mark.parametrize(
    "options",
    [
        {"normalize": "before"},
        {"normalize": "never", "label_smoothing": 0.1},
        {"normalize": "after", "label_smoothing": 0.1},
        {"class_weight": [0.0, 1.0, 2.0, 0.0, 1.0]},
        {"dtype": "float64"},
        {"dtype": "float16"},
    ],
    ids=str,
)
def test_other_options_change_nothing(options, engine):
    y, x = scores((300, 5), -1, "float32", seed=4)
    expected = due(y, x, -1, 255)
    assert told(loss_of, y, x, ignore_class=255, **options) == expected
    weight = np.zeros(300)  # labels of weight 0 count, as they do in the mean's divisor
    assert told(loss_of(ignore_class=255, **options), y, x, sample_weight=weight) == expected
    loss = loss_of(ignore_class=255, **options)
    assert told(loss.value_and_grad, y, x, weight) == expected


@pytest.mark.parametrize("layout", ["C order", "Fortran order"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_never_reads_the_target_alone(dtype, layout, engine):
    y, x = scores((3000, 5), -1, dtype, seed=5, share=0.5)
    x = STRIDES[layout](x)
    expected = due(y, x, -1, 255, target_only=True)
    assert expected[2] < due(y, x, -1, 255)[2]
    assert told(loss_of, y, x, ignore_class=255, normalize="never") == expected
    loss = loss_of(ignore_class=255, normalize="never")
    assert told(loss.value_and_grad, y, x, out=x) == expected
    assert not warned(loss_of, [0], np.array([[0.5, 7.0]]), normalize="never")


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ([2.5, -1.0, 0.3], LOGITS),
        ([2.5, 1.0, 0.3], LOGITS),
        ([0.2, -0.5, 0.3], LOGITS),
        ([-0.1, -3.0, -3.0], LOGITS),
        ([0.5, np.inf, 0.5], LOGITS),
        ([2.0, np.nan, 5.0], LOGITS),
        ([3.0, 0.0, 5.0], COUNTS),
        ([300.0, 0.0, 500.0], COUNTS),
        ([5.0, 95.0, 0.0], PERCENTAGES),
        ([12.5, 80.1, 7.3], PERCENTAGES),
    ],
    ids=str,
)
@pytest.mark.parametrize("normalize", ["after", "before", "never"])
def test_the_likely_cause_is_the_first_row_s(row, cause, normalize, engine):
    good = [0.2, 0.7, 0.1]
    target = int(np.argmax([v < -1e-3 or v > 1.001 for v in row]))
    x = np.array([good, row, [-4.0, 9.0, 1.0], good])
    (message,) = warned(loss_of, [0, target, 1, 2], x, normalize=normalize)
    assert message.endswith(f"at (1, {target}), and 1 more row; they look like {cause}")
    x = np.array([row])
    (message,) = warned(loss_of(normalize=normalize).value_and_grad, [target], x, out=x)
    assert message.endswith(f"at (0, {target}); they look like {cause}")


@pytest.mark.parametrize(
    ("score", "odd"),
    [
        (-1e-3, False),
        (-0.0, False),
        (-9e-4, False),
        (1 + 1e-3, False),
        (np.nan, False),
        (np.nextafter(-1e-3, -1), True),
        (np.nextafter(1 + 1e-3, 2), True),
        (-1.1e-3, True),
        (1.0011, True),
        (1.9, True),
        (5e-324, False),
        (1e300, True),
        (-1e300, True),
    ],
)
@pytest.mark.parametrize("classes", [3, 40, 600])
def test_the_bounds_are_met_exactly(score, odd, classes, engine):
    x = np.full((20, classes), 0.25)
    x[13, classes - 1] = score
    y = np.zeros(20, np.int64)
    assert len(warned(loss_of, y, x)) == odd
    assert len(warned(loss_of, y, np.asfortranarray(x))) == odd


def test_values_and_gradients_stay_what_they_were(engine):
    y, x = scores((300, 5), -1, "float64", seed=6)
    y[y == 255] = 0
    inside = np.clip(x, 1e-7, 1 - 1e-7)
    with pytest.warns(UserWarning, match="look like"):
        odd = loss_of(y, x)
    np.testing.assert_array_equal(odd, loss_of(y, inside))


@pytest.mark.parametrize(
    ("y", "x", "options"),
    [
        ([0, 1], [[0.5, 0.5], [0.0, 1.0]], {}),
        ([0, -1], [[0.5, 0.5], [3.0, -1.0]], {"ignore_class": -1}),
        ([0, 1], [[2.0, 0.5], [3.0, -1.0]], {"from_logits": True}),
        (np.zeros(0, int), np.zeros((0, 3)), {}),
        (np.zeros(0, int), np.zeros((0, 1)), {}),
        ([True, False], [[True, False], [True, False]], {}),
        ([0, 1], [[0.0, 0.0], [np.nan, 1.0]], {}),
    ],
    ids=str,
)
def test_no_reason_no_warning(y, x, options, engine):
    assert not warned(loss_of, y, x, **options)
    assert not warned(loss_of(**options), y, x)
    assert not warned(loss_of(**options).value_and_grad, y, x)


@pytest.mark.parametrize("dtype", ["int8", "uint64", "longdouble", "float16", "int64"])
def test_every_dtype_of_counts_warns(dtype, engine):
    x = np.array([[3, 0, 5], [1, 0, 0]], dtype)
    (message,) = warned(loss_of, [0, 1], x)
    assert message.endswith(f"got 3 at (0, 0); they look like {COUNTS}")


def test_bfloat16_warns(engine):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    x = np.array([[0.5, 0.5], [2.5, 0.25]], bfloat16)
    (message,) = warned(loss_of, [0, 1], x)
    assert "got 2.5 at (1, 0); they look like logits" in message


def test_a_call_that_is_refused_does_not_warn(engine):
    x = np.full((4, 3), 7.5)

    def refused():
        for call in (loss_of, loss_of(), loss_of().value_and_grad):
            with pytest.raises(ValueError, match="y_true"):
                call([0, 1, 2, 3], x)

    assert not warned(refused)


@pytest.mark.parametrize("options", [{}, {"from_logits": True}, {"normalize": "never"}], ids=str)
def test_one_class_is_no_choice(options, engine):
    y, x = [0, 0], np.array([[0.3], [4.0]])
    for call in (loss_of, loss_of(**options), loss_of(**options).value_and_grad):
        (message,) = warned(call, y, x, **(options if call is loss_of else {}))
        assert message.startswith("y_pred must hold at least two classes, got (2, 1) with one")
        assert message.endswith("every loss is 0; stack 1 - p, p (of logits 0, x) along that axis")


def test_the_one_hot_sibling_warns_too():
    f = sx.loss_categorical_crossentropy
    y, x = np.eye(3)[[0, 1, 2]], np.array([[0.2, 0.7, 0.1], [5.0, 95.0, 0.0], [2.0, 90.0, 8.0]])
    for call in (f, f(), f().value_and_grad):
        (message,) = warned(call, y, x)
        assert message.endswith(f"got 5 at (1, 0), and 1 more row; they look like {PERCENTAGES}")
    assert not warned(f, y, x, from_logits=True)
    x = np.array([[3.0], [2.0]])
    (message,) = warned(f, np.ones((2, 1)), x)
    assert "every loss is 0" in message


def test_warnings_as_errors_come_when_all_is_done(engine):
    y, x = np.array([0, 1]), np.array([[0.5, 0.5], [2.0, 3.0]])
    loss = loss_of()
    with pytest.warns(UserWarning, match="counts"):
        expected = loss.value_and_grad(y, x)[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="got 2 at"):
            loss.value_and_grad(y, x, out=x)
    np.testing.assert_array_equal(x, expected)


def test_the_usual_filter_shows_it_once_for_each_line(engine):
    x = np.array([[2.0, 3.0]])
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        for _ in range(3):
            loss_of([0], x)
        loss_of([0], x)
    lines = [w.lineno for w in found]
    assert len(lines) == 2
    assert lines[1] == lines[0] + 1


def test_ranks_and_construction_do_not_warn():
    assert not warned(loss_of)
    assert not warned(sx.SparseCategoricalCrossentropy, normalize="never")
