"""Files in, scores out: every format and order, exact for any cut, and nothing trusted unread."""

import dataclasses
import io
import json
import math
import os
import re
import subprocess
import sys
import zipfile
from itertools import permutations
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from sparse_xent import config_epsilon, loss_sparse_categorical_crossentropy
from sparse_xent import evaluation as package
from sparse_xent.evaluation import FileError, Report, as_json, as_text, evaluate, inputs, readers
from sparse_xent.evaluation.readers import lines, source, tables

HOME = str(Path(package.__file__).parents[2])
NA = -(2**31)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small_boxes(monkeypatch):
    """Five positions at a time, so that small files take many boxes."""
    monkeypatch.setattr(inputs, "_POSITIONS", 5)


def logits(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype) * 3


def labels(*shape, classes, dtype=np.int64, seed=1):
    return np.random.default_rng(seed).integers(0, classes, shape).astype(dtype)


def probabilities(*shape):
    e = np.exp(logits(*shape))
    return e / e.sum(axis=-1, keepdims=True)


def save(**arrays):
    for name, array in arrays.items():
        np.save(f"{name}.npy", array)


def numbers(report):
    """What a report says, whatever the files were called."""
    told = dataclasses.asdict(report)
    return {k: v for k, v in told.items() if k not in ("labels", "predictions", "dtype")}


def by_hand(y, x, *, from_logits, w=None):
    """Mean loss, standard error, accuracy and the labels' entropy, straight from their names."""
    x = x.astype(np.longdouble)
    if from_logits:
        e = np.exp(x - x.max(axis=1, keepdims=True))
        x = e / e.sum(axis=1, keepdims=True)
    else:
        x = np.clip(x, 1e-7, 1 - 1e-7)
        x = x / x.sum(axis=1, keepdims=True)
    l = -np.log(x[np.arange(len(y)), y])
    right = x.argmax(axis=1) == y
    if w is None:
        error = l.std(ddof=1) / np.sqrt(len(l))
        w = np.ones(len(l))
    else:
        error = np.sqrt(np.sum(w**2 * (l - np.average(l, weights=w)) ** 2)) / w.sum()
    shares = np.bincount(y, w) / w.sum()
    entropy = -sum(p * np.log(p) for p in shares if p)
    return np.average(l, weights=w), error, np.average(right, weights=w), entropy


# --- the numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("from_logits", [False, True])
def test_the_report_holds_what_its_fields_are_named(from_logits, weighted):
    y = labels(1000, classes=7)
    x = logits(1000, 7) if from_logits else probabilities(1000, 7)
    w = np.random.default_rng(2).random(1000) if weighted else None
    save(y=y, x=x, w=np.ones(1000) if w is None else w)
    got = evaluate(
        "y.npy", "x.npy", from_logits=from_logits, sample_weight="w.npy" if weighted else None
    )
    mean, error, accuracy, entropy = by_hand(y, x, from_logits=from_logits, w=w)
    assert got.mean_loss == pytest.approx(float(mean), rel=1e-12)
    assert got.standard_error == pytest.approx(float(error), rel=1e-9)
    assert got.accuracy == pytest.approx(float(accuracy), rel=1e-14)
    assert got.frequency_baseline == pytest.approx(float(entropy), rel=1e-14)
    assert got.uniform_baseline == math.log(7)
    assert got.perplexity == math.exp(got.mean_loss)
    assert (got.scored, got.ignored, got.classes, got.shape) == (1000, 0, 7, (1000, 7))
    assert got.total_weight == (pytest.approx(w.sum(), rel=1e-14) if weighted else None)
    clipped = 0 if from_logits else np.count_nonzero(x[np.arange(1000), y] < 1e-7)
    assert (got.infinite, got.nan, got.clipped or 0, len(got.notes)) == (0, 0, clipped, clipped)


def test_the_manual_page_s_figures():
    save(y=np.array([1, 2]), p=np.array([[0.05, 0.95, 0], [0.1, 0.8, 0.1]]), w=np.array([0.3, 0.7]))
    assert evaluate("y.npy", "p.npy").mean_loss == pytest.approx(1.1769392, rel=1e-7)
    weighted = evaluate("y.npy", "p.npy", sample_weight="w.npy")
    assert weighted.mean_loss == pytest.approx(1.6271976, rel=1e-7)  # sum(w * l) / sum(w)


def test_ignored_labels_count_nowhere():
    y, x = labels(200, classes=5), logits(200, 5)
    y[::3] = 255
    y[1::3] = -7
    x[::3] = np.nan
    save(
        y=y, x=x, kept_y=y[2::3], kept_x=x[2::3], w=np.arange(200.0), kept_w=np.arange(200.0)[2::3]
    )
    for weights in (None, "w.npy"):
        got = evaluate(
            "y.npy", "x.npy", from_logits=True, ignore_class=[255, -7], sample_weight=weights
        )
        kept = evaluate(
            "kept_y.npy", "kept_x.npy", from_logits=True, sample_weight=weights and "kept_w.npy"
        )
        assert (got.scored, got.ignored) == (66, 134)
        expected = numbers(kept) | {"ignored": 134, "shape": (200, 5)}
        assert numbers(got) == expected


def test_the_first_of_equal_scores_is_the_prediction_and_nan_is_wrong():
    x = np.array([[1.0, 1, 0], [1, 1, 0], [np.nan, 9, 0], [0, 0, 2]])
    save(y=np.array([0, 1, 1, 2]), x=x)
    assert evaluate("y.npy", "x.npy", from_logits=True).accuracy == 0.5


def test_float16_is_summed_as_it_was_computed():
    """70,000 losses of about 9: their sum is far beyond float16, and no loss is rounded to it."""
    x, y = logits(70_000, 6, dtype=np.float16), labels(70_000, classes=6)
    save(x=x, y=y)
    got = evaluate("y.npy", "x.npy", from_logits=True, per_label="l.npy")
    mean, *_ = by_hand(y, x, from_logits=True)
    assert got.mean_loss == pytest.approx(float(mean), rel=1e-7)
    assert np.load("l.npy").dtype == np.float32
    assert (np.load("l.npy").astype(np.float16) != np.load("l.npy")).any()


def test_bfloat16_is_read_where_it_is_said_to_be():
    x, y = logits(300, 4).astype(ml_dtypes.bfloat16), labels(300, classes=4)
    save(x=x, same=x.astype(np.float32), y=y)
    np.savez_compressed("x.npz", x=x)
    with pytest.raises(FileError, match="--bfloat16"):
        evaluate("y.npy", "x.npy", from_logits=True)
    for file in ("x.npy", "x.npz"):
        got = evaluate("y.npy", file, from_logits=True, bfloat16=True)
        assert numbers(got) == numbers(evaluate("y.npy", "same.npy", from_logits=True))
        assert got.dtype == "bfloat16"


@pytest.mark.parametrize("dtype", ["bool", "u1", ">i2", "u8", "f2", "f4", ">f8", "g"])
def test_labels_and_weights_of_any_dtype(dtype):
    y, x = labels(100, classes=2), logits(100, 2)
    save(y=y, x=x, z=y.astype(dtype))
    expected = numbers(evaluate("y.npy", "x.npy", from_logits=True))
    assert numbers(evaluate("z.npy", "x.npy", from_logits=True)) == expected
    by_y = evaluate("y.npy", "x.npy", from_logits=True, sample_weight="y.npy")
    assert by_y == dataclasses.replace(
        evaluate("z.npy", "x.npy", from_logits=True, sample_weight="z.npy"), labels="y.npy"
    )


@pytest.mark.parametrize("dtype", ["u1", "i4", ">f4", "g"])
def test_predictions_of_any_dtype(dtype):
    x, y = np.round(logits(100, 5) * 4 + 50).astype(dtype), labels(100, classes=5)
    save(x=x, y=y)
    mean, *_ = by_hand(y, x, from_logits=True)
    assert evaluate("y.npy", "x.npy", from_logits=True).mean_loss == pytest.approx(
        float(mean), rel=1e-6
    )


def test_smoothing_and_normalize_reach_the_loss():
    y, p = labels(50, classes=4), probabilities(50, 4) * 0.5
    save(y=y, p=p)
    for options in ({"label_smoothing": 0.2}, {"normalize": "before"}, {"normalize": "never"}):
        got = evaluate("y.npy", "p.npy", **options)
        expected = loss_sparse_categorical_crossentropy(y, p, **options).mean()
        assert got.mean_loss == pytest.approx(expected, rel=1e-14)
        assert {k: getattr(got, k) for k in options} == options


# --- formats, orders, cuts ------------------------------------------------------------------------


def test_every_format_gives_the_same_bits(small_boxes):
    y, x, w = labels(53, classes=4), logits(53, 4), np.linspace(0, 2, 53)
    save(y=y, x=x, w=w, column=y[:, np.newaxis])
    np.save("f.npy", np.asfortranarray(x))
    np.savez("stored.npz", x=x, y=y, w=w)
    np.savez("one.npz", x)
    np.savez_compressed("packed.npz", x=x, y=y, w=w, f=np.asfortranarray(x))
    with zipfile.ZipFile("bz.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.write("x.npy")
    text = {"fmt": "%.17g", "delimiter": ",", "comments": ""}
    np.savetxt("x.csv", x, **text)
    np.savetxt("named.csv", x, header='"V1","V2","V3",d', **text)
    np.savetxt("y.csv", y, fmt="%d")
    np.savetxt("w.csv", w, header="w", **text)
    Path("dos.csv").write_bytes(
        b"\xef\xbb\xbf" + Path("x.csv").read_bytes().replace(b"\n", b"\r\n") + b"\r\n \n"
    )
    expected = numbers(evaluate("y.npy", "x.npy", from_logits=True, sample_weight="w.npy"))
    files = [
        ("y.npy", "f.npy", "w.npy"),
        ("column.npy", "x.npy", "w.npy"),
        ("stored.npz:y", "stored.npz:x", "stored.npz:w"),
        ("stored.npz:y.npy", "one.npz", "w.csv"),
        ("packed.npz:y", "packed.npz:x", "packed.npz:w"),
        ("y.csv", "packed.npz:f", "w.npy"),
        ("y.csv", "bz.npz", "w.csv"),
        ("y.csv", "x.csv", "w.csv"),
        ("packed.npz:y", "named.csv", "w.npy"),
        ("y.npy", "dos.csv", "packed.npz:w"),
    ]
    for y_file, x_file, w_file in files:
        got = evaluate(y_file, x_file, from_logits=True, sample_weight=w_file)
        assert numbers(got) == expected, (y_file, x_file, w_file)


def test_a_format_is_added_by_its_opener(monkeypatch):
    def open_source(file, key, choice):
        return readers.npy.Stored(file, file)

    monkeypatch.setitem(readers.FORMATS, ".array", open_source)
    save(y=labels(9, classes=4), x=logits(9, 4))
    os.rename("x.npy", "x.array")
    assert evaluate("y.npy", "x.array", from_logits=True).scored == 9


@pytest.mark.parametrize("positions", [1, 3, 7, 1000])
def test_any_cut_gives_the_same_bits(positions, monkeypatch):
    save(y=labels(101, classes=6), x=logits(101, 6, dtype=np.float32), w=logits(101))
    expected = evaluate("y.npy", "x.npy", from_logits=True, sample_weight="w.npy")
    monkeypatch.setattr(inputs, "_POSITIONS", positions)
    assert evaluate("y.npy", "x.npy", from_logits=True, sample_weight="w.npy") == expected


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("file", ["x.npy", "x.npz:stored", "x.npz:packed"])
def test_the_class_axis_may_stand_anywhere(axis, order, file, small_boxes):
    x = np.asarray(logits(4, 3, 6), order=order)
    losses = tuple(np.delete(x.shape, axis))
    y = labels(*losses, classes=x.shape[axis])
    with_axis = np.expand_dims(y, axis)
    save(x=x, y=y, with_axis=with_axis, other=np.asarray(y, order="F"))
    np.savez("x.npz", stored=x)
    with zipfile.ZipFile("x.npz", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.write("x.npy", "packed.npy")
        archive.write("y.npy", "y.npy")
    expected = loss_sparse_categorical_crossentropy(y, x, from_logits=True, axis=axis)
    for y_file in ("y.npy", "with_axis.npy", "other.npy", "x.npz:y"):
        got = evaluate(y_file, file, from_logits=True, axis=axis, per_label="l.npy")
        assert np.array_equal(np.load("l.npy"), expected)
        assert got.mean_loss == pytest.approx(expected.mean(), rel=1e-14)
        assert got.accuracy == np.mean(x.argmax(axis=axis) == y)


@pytest.mark.parametrize("weights", ["full", "samples", "ones", "scalar", "steps", "column"])
def test_weights_are_aligned_to_the_leading_axes(weights, small_boxes):
    w = {
        "full": logits(4, 6),
        "samples": logits(4),
        "ones": logits(4, 1),
        "scalar": np.float64(2.5),
        "steps": logits(1, 6),
        "column": logits(4, 6, 1),
    }[weights]
    x, y = logits(4, 6, 3), labels(4, 6, classes=3)
    save(x=x, y=y, w=w)
    np.savez_compressed("w.npz", w)
    full = {"samples": w[:, None], "column": w[..., 0]} if np.ndim(w) else {}
    weight = np.broadcast_to(full.get(weights, w), (4, 6))
    losses = loss_sparse_categorical_crossentropy(y, x, from_logits=True)
    expected = np.sum(losses * weight) / weight.sum()
    for file in ("w.npy", "w.npz"):
        got = evaluate("y.npy", "x.npy", from_logits=True, sample_weight=file)
        assert got.mean_loss == pytest.approx(expected, rel=1e-12)


def test_one_row_and_no_row(small_boxes):
    save(
        x=logits(4), one=np.array([2]), scalar=np.array(2), none=np.zeros(0, int), rows=logits(0, 4)
    )
    expected = loss_sparse_categorical_crossentropy(2, logits(4), from_logits=True)
    for file in ("one.npy", "scalar.npy"):
        got = evaluate(file, "x.npy", from_logits=True, per_label="l.npy")
        assert (got.mean_loss, got.standard_error, got.scored) == (expected, None, 1)
        assert np.load("l.npy") == expected
        assert np.load("l.npy").shape == ()
    got = evaluate("none.npy", "rows.npy", from_logits=True, per_label="l.npy")
    assert (got.scored, got.mean_loss, got.standard_error, got.accuracy) == (0, 0.0, None, 0.0)
    assert "no label to score" in got.notes[0]
    assert np.load("l.npy").shape == (0,)


def test_nothing_kept_is_said():
    save(x=logits(3, 4), y=np.full(3, 9))
    got = evaluate("y.npy", "x.npy", from_logits=True, ignore_class=9)
    assert (got.scored, got.ignored, got.mean_loss, got.frequency_baseline) == (0, 3, 0.0, 0.0)
    assert "all 3 are of an ignored class" in got.notes[0]


@pytest.mark.parametrize("shape", list(permutations((2, 3, 4))))
@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize("positions", [1, 2, 5, 6, 24, 100])
def test_boxes_cover_an_array_once_in_the_order_of_memory(shape, fortran, positions):
    order = "F" if fortran else "C"
    number = np.arange(24).reshape(shape, order=order)
    walked = [
        number[box].ravel(order=order) for box in source.boxes(shape, positions, fortran=fortran)
    ]
    assert np.concatenate(walked).tolist() == list(range(24))
    assert all(len(part) <= positions for part in walked)
    assert len(walked) <= 2 * 24 / positions + 1 or positions < 6


def test_a_box_of_many_short_runs_gives_the_same_bits(monkeypatch):
    x, y = np.asfortranarray(logits(64, 50)), labels(64, classes=50)
    save(x=x, y=y)
    expected = evaluate("y.npy", "x.npy", from_logits=True)
    monkeypatch.setattr(inputs, "_POSITIONS", 8)
    assert evaluate("y.npy", "x.npy", from_logits=True) == expected


RANKED = """
import sys
from sparse_xent.evaluation import evaluate
from sparse_xent.kernels import loader
evaluate("y.npy", sys.argv[1], from_logits=True)
print([name for name in loader._addresses if name[0] == "rank"])
"""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ranks_are_those_of_the_compiled_kernel(dtype):
    save(y=labels(9, classes=4), x=logits(9, 4, dtype=dtype))
    done = subprocess.run(
        [sys.executable, "-c", RANKED, "x.npy"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": HOME, "SPARSE_XENT_ENGINE": "compiled"},
    )
    assert (done.stdout, done.stderr) == (f"[('rank', '{dtype}')]\n", "")


# --- what the clip decides ------------------------------------------------------------------------


def with_wrong_rows(dtype=np.float64):
    """Labels, and probabilities of which every seventh is next to nothing for its label."""
    y, p = labels(60, classes=4), probabilities(60, 4)
    rows = np.arange(0, 60, 7)
    p[rows, y[rows]] = 10.0 ** -(7 + np.arange(len(rows)))
    return y, (p / p.sum(axis=1, keepdims=True)).astype(dtype)


@pytest.mark.parametrize("normalize", ["after", "before", "never"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("epsilon", [None, 1e-12, 1e-3, 0])
@pytest.mark.parametrize("weighted", [False, True])
def test_clipped_losses_are_counted_with_their_share(
    weighted, epsilon, dtype, normalize, small_boxes
):
    y, p = with_wrong_rows(dtype)
    w = np.arange(60) % 5 / 2 if weighted else np.ones(60)
    y[14] = 255
    save(y=y, p=p, w=w)
    before = config_epsilon()
    got = evaluate(
        "y.npy",
        "p.npy",
        normalize=normalize,
        epsilon=epsilon,
        ignore_class=255,
        sample_weight="w.npy" if weighted else None,
        per_label="l.npy",
    )
    assert config_epsilon() == before == 1e-7
    bound = before if epsilon is None else epsilon
    kept = np.flatnonzero((y != 255) & (w != 0))
    p_t, l = p[kept, y[kept]], np.load("l.npy").astype(np.float64)[kept] * w[kept]
    clipped = p_t < dtype(bound)
    assert (got.epsilon, got.clipped) == (bound, clipped.sum())
    assert got.clipped_share == pytest.approx(l[clipped].sum() / l.sum(), rel=1e-13)
    notes = [note for note in got.notes if "clipped" in note]
    assert len(notes) == bool(clipped.any())
    if notes:
        words = f"p.npy: {clipped.sum()} of {got.scored} losses were clipped"
        assert notes[0].startswith(words)
        assert f"{got.clipped_share:.3%} of the total" in notes[0]
    assert re.search(rf"^  clipped at {bound:g} +{clipped.sum()}( |$)", as_text(got), re.MULTILINE)


def test_epsilon_is_that_of_one_evaluation_alone(small_boxes):
    y, p = with_wrong_rows()
    save(y=y, p=p)
    seen = []
    evaluate("y.npy", "p.npy", epsilon=1e-3, on_progress=lambda *_: seen.append(config_epsilon()))
    assert set(seen) == {1e-7}


def test_epsilon_decides_the_mean():
    y, p = with_wrong_rows()
    save(y=y, p=p)
    for epsilon in (1e-9, 0):
        got = evaluate("y.npy", "p.npy", normalize="never", epsilon=epsilon)
        exact = -np.log(np.maximum(p[np.arange(60), y], epsilon)).mean()
        assert got.mean_loss == pytest.approx(exact, rel=1e-12)


def test_without_a_clip_a_target_of_0_is_infinite_and_counted_as_that():
    save(y=np.array([1, 0]), p=np.array([[1.0, 0], [0.5, 0.5]]))
    got = evaluate("y.npy", "p.npy", epsilon=0)
    assert (got.mean_loss, got.infinite, got.clipped) == (math.inf, 1, 0)
    assert got.clipped_share is None
    assert json.loads(as_json(got))["clipped"] == 0


def test_logits_are_not_clipped():
    save(y=labels(9, classes=4), x=logits(9, 4))
    got = evaluate("y.npy", "x.npy", from_logits=True)
    assert (got.epsilon, got.clipped, got.clipped_share) == (None, None, None)
    assert "clipped" not in as_text(got)
    for how in ({"from_logits": True}, {"log_probs": True}):
        with pytest.raises(ValueError, match="epsilon is where probabilities are clipped"):
            evaluate("y.npy", "x.npy", epsilon=1e-9, **how)


@pytest.mark.parametrize("epsilon", [-1e-9, 0.5, math.nan, math.inf, "x", True])
def test_no_epsilon_that_clips_to_nothing(epsilon):
    save(y=labels(9, classes=4), p=probabilities(9, 4))
    with pytest.raises((ValueError, TypeError), match="^epsilon must be"):
        evaluate("y.npy", "p.npy", epsilon=epsilon)
    assert config_epsilon() == 1e-7


# --- labels ---------------------------------------------------------------------------------------


def test_a_bad_label_is_named_by_its_place_in_the_file(small_boxes):
    y = labels(40, classes=4)
    y[[23, 24]] = 17
    save(y=y, x=logits(40, 4), grid=y.reshape(8, 5), volume=logits(8, 5, 4))
    np.savetxt("y.csv", y, fmt="%d", header="label", comments="")
    for file, predictions, place in [
        ("y.npy", "x.npy", r"at \(23,\) "),
        ("y.csv", "x.npy", r"at \(23,\), line 25 "),
        ("grid.npy", "volume.npy", r"at \(4, 3\) "),
    ]:
        with pytest.raises(
            ValueError, match=rf"^{file} .* 0 to 3 .*got 17 {place}and at least 1 more"
        ):
            evaluate(file, predictions, from_logits=True)


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        ([1, 2, 4], {}, "from 0 to 3 .*got 4 at .*say --label-base 1"),
        ([0, 2, 4], {}, "got 4 at .*x.npy has 4 classes along axis 1"),
        ([0, 1, 4], {"label_base": 1}, "from 1 to 4 .*got 0 at .*leave out --label-base 1"),
        ([1, 5, 4], {"label_base": 1}, "from 1 to 4 .*got 5 at"),
        ([0, -1, 3], {}, "got -1 at .*say --ignore-class -1"),
        ([0, 255, 3], {}, "got 255 at .*say --ignore-class 255"),
        ([0, NA, 3], {}, "got -2147483648 .NA in R. at .*say --ignore-class -2147483648"),
        ([0, math.nan, 3], {}, "got nan .NA in R. at .*leave missing labels out"),
        ([0.5, 1, 3], {}, "got 0.5 at .*swapped"),
        ([0, math.inf, 3], {}, "got inf at .*swapped"),
    ],
)
def test_a_bad_label_is_told_in_the_file_s_own_terms(values, options, words):
    save(y=np.array(values), x=logits(3, 4))
    with pytest.raises(ValueError, match=words):
        evaluate("y.npy", "x.npy", from_logits=True, **options)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i8", "u8", "f2", "f8"])
def test_labels_from_one_and_what_they_ignore(dtype, small_boxes):
    y, x = labels(30, classes=4), logits(30, 4)
    from_one = (y + 1).astype(dtype)
    from_one[::4] = 0  # ignored where it is named, though it is no class
    save(x=x, one=from_one, zero=np.where(np.arange(30) % 4 == 0, 99, y))
    got = evaluate("one.npy", "x.npy", from_logits=True, label_base=1, ignore_class=0)
    expected = evaluate("zero.npy", "x.npy", from_logits=True, ignore_class=99)
    assert numbers(got) == numbers(expected)


def test_half_labels_are_refused_where_they_are_not_exact():
    save(y=np.zeros(2, np.float16), x=logits(2, 3000))
    with pytest.raises(FileError, match="y.npy must be of an integer dtype for 3000 classes"):
        evaluate("y.npy", "x.npy", from_logits=True)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((5, 4), "one-hot"),
        ((4,), r"expected \(5,\) or \(5, 1\), got \(4,\)"),
        ((5, 4, 3), "swapped"),
    ],
)
def test_labels_of_another_shape_are_refused(shape, words):
    fractions = words == "swapped"
    save(y=logits(*shape) if fractions else np.zeros(shape, int), x=logits(5, 4))
    with pytest.raises(FileError, match=words):
        evaluate("y.npy", "x.npy", from_logits=True)


def test_missing_weights_are_refused_where_they_count(small_boxes):
    w = np.arange(20, dtype=np.int32)
    w[[3, 17]] = NA
    y = labels(20, classes=3)
    y[3] = 99
    save(w=w, y=y, x=logits(20, 3))
    with pytest.raises(ValueError, match=r"w.npy must hold numbers: got -2147483648 .* at \(17,\)"):
        evaluate("y.npy", "x.npy", from_logits=True, sample_weight="w.npy", ignore_class=99)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_weight_of_nan_is_missing_unless_its_label_is_ignored(dtype):
    w = np.ones(20, dtype)
    w[3] = w[17] = np.nan
    y = labels(20, classes=3)
    y[3] = 99
    save(w=w, y=y, x=logits(20, 3))
    with pytest.raises(ValueError, match=r"w.npy must hold numbers: got nan .* at \(17,\)"):
        evaluate("y.npy", "x.npy", from_logits=True, sample_weight="w.npy", ignore_class=99)


def test_weights_that_are_infinite_make_the_mean_nan():
    save(w=np.array([1.0, np.inf]), y=np.array([0, 1]), x=logits(2, 3))
    got = evaluate("y.npy", "x.npy", from_logits=True, sample_weight="w.npy")
    assert math.isnan(got.mean_loss)
    assert math.isnan(got.accuracy)
    assert (got.standard_error, got.frequency_baseline) == (None, None)


# --- what looks odd -------------------------------------------------------------------------------

P = np.random.default_rng(3).dirichlet(np.ones(10), 200)


@pytest.mark.parametrize(
    ("x", "options", "words"),
    [
        (P, {}, None),
        (P.astype(np.float16), {}, None),
        (np.eye(10)[np.arange(200) % 10], {}, None),
        (P, {"from_logits": True}, "look like probabilities .*leave out --logits"),
        (P, {"log_probs": True}, "look like probabilities .*leave out --log-probs"),
        (np.log(P), {}, "look like log-probabilities .*say --log-probs"),
        (np.log(P), {"log_probs": True}, None),
        (np.log(P), {"from_logits": True}, None),
        (logits(200, 10), {}, "200 rows are no probabilities.* say --logits"),
        (logits(200, 10), {"from_logits": True}, None),
        (logits(200, 10), {"log_probs": True}, "do not look like log-probabilities .*--logits"),
        (P * 0.5, {}, "do not sum to 1"),
        (np.where(np.arange(200)[:, None] == 3, np.inf, P), {}, "1 row is no probabilities"),
        (P * 100, {}, "200 rows .* look like percentages: divide them by 100"),
        (np.floor(P * 1000), {}, "200 rows .* look like counts: divide each row by its sum"),
        (np.where(P < 0.1, -np.inf, np.log(P)), {"from_logits": True}, None),
    ],
)
@pytest.mark.filterwarnings("ignore:y_pred must hold probabilities")  # what is expected says so
def test_rows_of_another_kind_are_pointed_out_and_scored_as_asked(x, options, words):
    y = x.argmax(axis=1)
    save(x=x, y=y)
    heard = []
    got = evaluate("y.npy", "x.npy", on_note=heard.append, **options)
    from_logits = bool(options)
    expected = loss_sparse_categorical_crossentropy(y, x, from_logits, dtype="float64").mean()
    assert got.mean_loss == pytest.approx(expected, rel=1e-6)
    assert tuple(heard) == got.notes
    heard = [note for note in heard if "clipped" not in note]  # that is another matter
    if words is None:
        assert heard == []
    else:
        assert len(heard) == 1
        assert re.search(words, heard[0])


def test_odd_rows_are_counted_over_all_boxes_and_no_warning_is_raised(small_boxes):
    x = np.repeat(P, 5, axis=0)
    x[[37, 500, 999]] = np.random.default_rng(0).normal(size=10)
    x[11] = 7  # at a label that does not count
    y = np.where(np.arange(1000) == 11, -1, 3)
    column = int(np.argmax((x[37] < -1e-3) | (x[37] > 1.001)))
    save(x=x, y=y, xt=np.asfortranarray(x))
    with open("x.csv", "w") as file:
        np.savetxt(file, x, delimiter=",")
    said = f"3 rows are no probabilities, the first score is {x[37, column]:.6g} at "
    way_out = ": say --logits if they are logits"
    for name in ("x.npy", "xt.npy"):
        notes = evaluate("y.npy", name, ignore_class=-1).notes
        assert notes == (f"{name}: {said}(37, {column}){way_out}",)
    (note,) = evaluate("y.npy", "x.csv", ignore_class=-1).notes
    assert note.startswith(f"x.csv: {said}")
    assert "line 38" in note


def test_ignored_rows_are_no_reason_for_a_note_and_a_single_class_is():
    x = np.vstack([P, np.zeros((50, 10))])  # padding
    save(x=x, y=np.where(np.arange(250) < 200, 0, -1), one=np.full((5, 1), 3.0), zeros=np.zeros(5))
    assert evaluate("y.npy", "x.npy", ignore_class=-1).notes == ()
    (note,) = evaluate("zeros.npy", "one.npy").notes
    assert note == "one.npy has one class: every loss is 0; stack 1 - p, p"


def test_losses_that_are_not_finite_are_counted_and_the_first_is_named(small_boxes):
    x = logits(20, 3)
    x[12, 1], x[17], x[19, 1] = -np.inf, np.nan, -np.inf
    save(x=x, y=np.ones(20, int), w=np.r_[np.ones(12), 0, np.ones(4), 0, 1, 0])
    got = evaluate("y.npy", "x.npy", from_logits=True)
    assert (got.infinite, got.nan, got.standard_error) == (2, 1, None)
    assert math.isnan(got.mean_loss)
    assert got.notes == ("x.npy: not every loss is finite, the first is inf at (12,)",)
    # a weight of 0 takes them out of the mean
    got = evaluate("y.npy", "x.npy", from_logits=True, sample_weight="w.npy")
    assert math.isfinite(got.mean_loss)
    assert (got.infinite, got.nan, got.notes) == (0, 0, ())


# --- files that are not what they say -------------------------------------------------------------


def header(shape, descr="<f8", fortran=False):
    file = io.BytesIO()
    described = {"descr": descr, "fortran_order": fortran, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(compression=zipfile.ZIP_DEFLATED, **members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


X = npy(logits(6, 3))
PACKED = npz(x=X)

DAMAGED = {
    "empty.npy": (b"", "is empty"),
    "cut.npy": (X[:-5], "is truncated: 144 bytes by its header, .* 139 bytes in the file"),
    "cut_header.npy": (X[:50], "not a .npy file, or is damaged"),
    "two.npy": (X + X, "holds more than its array"),
    "text.npy": (b"0.1,0.2,0.7\n" * 9, "not a .npy file, or is damaged"),
    "huge.npy": (header((1 << 20, 1 << 20)) + bytes(99), "is truncated: 8.0 TiB by its header"),
    "vast.npy": (header((2**62, 2**62)), "is truncated"),
    "negative.npy": (header((-6, -3)) + bytes(144), "is damaged: its header says shape"),
    "nothing.npy": (header((6, 3), "|V0"), "is damaged: its header says"),
    "code.npy": (X[:10] + b"__import__('os')".ljust(118) + X[128:], "not a .npy file"),
    "objects.npy": (npy(np.array([[{}] * 3] * 6)), "got pickled Python objects, never read"),
    "strings.npy": (npy(np.array([["a"] * 3] * 6)), "must hold real numbers, got strings"),
    "dates.npy": (npy(np.zeros((6, 3), "M8[s]")), "must hold real numbers, got dates"),
    "complex.npy": (npy(np.zeros((6, 3), complex)), "must hold real numbers, got complex"),
    "records.npy": (npy(np.zeros(6, [("a", "f8")])), "must hold real numbers, got records"),
    "future.npy": (X[:6] + b"\4" + X[7:], "version .4, 0. of the format is not known here"),
    "halves.npy": (npy(np.zeros((6, 3), "V2")), "say --bfloat16"),
    "quarters.npy": (npy(np.zeros((6, 3), "V1")), "must hold real numbers, got records"),
    "scalar.npy": (npy(np.float64(3)), "must have a class axis"),
    "classless.npy": (npy(np.zeros((6, 0))), "must have at least one class"),
    "text.npz": (b"no zip at all", "is damaged: File is not a zip file"),
    "none.npz": (npz(), "must hold one array, got no array"),
    "several.npz": (npz(x=X, y=X), "got 2 arrays .x, y.: say which, several.npz:x"),
    "flipped.npz": (flipped(PACKED, 90), "flipped.npz:x is damaged"),
    "cut.npz": (PACKED[:100], "is damaged"),
    "bomb.npz": (npz(x=header((1 << 16, 1 << 16)) + bytes(99)), "is truncated: 32.0 GiB by its h"),
    "short.npz": (npz(zipfile.ZIP_STORED, x=X[:-5]), "is truncated"),
    "lost.npz": (flipped(npz(zipfile.ZIP_STORED, x=X), 0), "is damaged"),
    "locked.npz": (flipped(PACKED, PACKED.index(b"PK\1\2") + 8), "is encrypted"),
    "blank.csv": (b"\n \n\n", "got only blank lines"),
    "gap.csv": (b"3,1,2\n" * 2 + b"\n" + b"3,1,2\n" * 3, "line 3: expected numbers, got a blank"),
    "ragged.csv": (b"3,1,2\n" * 4 + b"3,1\n3,1,2\n", "line 5: expected 3 columns, got 2"),
    "missing.csv": (b"a,b,c\n" + b"3,1,2\n" * 5 + b"1,NA,3\n", "line 7, column 2: .*'NA' .missing"),
    "first.csv": (b"NA,2,3\n" + b"3,1,2\n" * 5, "line 1, column 1: .*'NA' .missing"),
    "word.csv": (b"3,1,2\n" * 5 + b"3,1,x\n", "line 6, column 3: expected a number, got 'x'"),
    "digits.csv": (b"3,1,2\n" * 5 + b"3,1,2_0\n", "line 6, column 3: expected a number"),
    "names.csv": (b"a,b,c\n", "got a line of column names and no more"),
    "rownames.csv": (b'"","V1","V2"\n"1",2,3\n', "row.names = FALSE"),
    "wide.csv": ("3,1,2\n".encode("utf-16"), "must be text in UTF-8"),
    "binary.csv": (bytes(range(256)), "must be text in UTF-8"),
    "table.txt": (b"1,2,3", "whose name ends in .npy, .npz, .csv"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused_in_one_sentence(name):
    content, words = DAMAGED[name]
    Path(name).write_bytes(content)
    save(y=labels(6, classes=3))
    with pytest.raises(FileError, match=words) as refused:
        evaluate("y.npy", name, from_logits=True)
    message = str(refused.value)
    assert message.startswith((name, "y.npy"))
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize("role", ["labels", "predictions", "weights"])
def test_only_regular_files_are_opened(role):
    save(y=labels(6, classes=3), x=logits(6, 3))
    os.mkfifo("pipe.npy")
    os.mkdir("folder.npy")
    files = {"labels": "y.npy", "predictions": "x.npy"}
    for name, words in [
        ("pipe.npy", "pipe.npy must be a regular file, got a pipe"),
        ("folder.npy", "folder.npy must be a regular file, got a folder"),
        ("absent.npy", "absent.npy does not exist"),
        ("absent.npz:x", "absent.npz does not exist"),
    ]:
        given = files | {role: name}
        with pytest.raises(FileError, match=words):
            evaluate(given["labels"], given["predictions"], sample_weight=given.get("weights"))


def test_what_must_be_held_whole_is_capped(monkeypatch):
    monkeypatch.setattr(source, "HELD", 1000)
    np.savez_compressed("x.npz", f=np.asfortranarray(logits(50, 4)), c=logits(50, 4))
    np.savetxt("x.csv", logits(4, 50), delimiter=",")
    save(y=labels(50, classes=4))
    for file, axis in [("x.npz:f", -1), ("x.npz:c", 0), ("x.csv", 0)]:
        with pytest.raises(FileError, match=r"save it with numpy.save"):
            evaluate("y.npy", file, from_logits=True, axis=axis)
    assert evaluate("y.npy", "x.npz:c", from_logits=True).scored == 50


def test_a_line_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(lines, "_LINE", 1 << 20)
    Path("x.csv").write_bytes(b"1,2,3\n" + b"1," * (1 << 20))
    save(y=labels(6, classes=3))
    with pytest.raises(FileError, match="x.csv, line 2 must be a row of numbers, got 1.0 MiB"):
        evaluate("y.npy", "x.csv")


def test_a_part_that_is_all_blank_lines_is_refused(monkeypatch):
    monkeypatch.setattr(tables, "_PARSED", 6)  # two lines at a time
    Path("x.csv").write_bytes(b"3,1,2\n" * 2 + b"\n" * 2 + b"3,1,2\n" * 2)
    save(y=labels(6, classes=3))
    with pytest.raises(FileError, match="x.csv, line 3: expected numbers, got a blank line"):
        evaluate("y.npy", "x.csv", from_logits=True)


def test_names_in_the_first_line_are_found_or_told():
    rows = "0,1,2\n" * 3
    save(three=np.array([2, 2, 2]), two=np.array([2, 2]))
    Path("x.csv").write_text(rows)
    assert evaluate("three.npy", "x.csv", from_logits=True, header="no").scored == 3
    assert evaluate("two.npy", "x.csv", from_logits=True, header="yes").scored == 2
    Path("y.csv").write_text("0\n2\n2\n2\n")  # a pandas Series writes the name 0
    with pytest.raises(FileError, match=r"got \(4, 1\).*--header"):
        evaluate("y.csv", "x.csv", from_logits=True, header="no")
    Path("x.csv").write_text("a,b,c\n" + "2,1,0\n" * 3)
    Path("y.csv").write_text("species\nsetosa\nvirginica\nsetosa\n")
    with pytest.raises(FileError, match=r"line 2, column 1: .*'setosa'.*as.integer\(f\) - 1L"):
        evaluate("y.csv", "x.csv", from_logits=True, header="auto")


def test_a_stored_member_is_read_where_it_stands():
    """Behind other members of odd lengths its numbers are not aligned."""
    x, y = logits(20, 3), labels(20, classes=3)
    for pad in range(1, 9):
        with zipfile.ZipFile("x.npz", "w") as archive:
            archive.writestr("note.npy", b"x" * pad)
            archive.writestr("x.npy", npy(x))
        save(x=x, y=y)
        expected = numbers(evaluate("y.npy", "x.npy", from_logits=True))
        assert numbers(evaluate("y.npy", "x.npz:x", from_logits=True)) == expected
        assert readers.open_source("x.npz:x").read((slice(0, 20), slice(0, 3))).flags.aligned


# --- one loss a label -----------------------------------------------------------------------------


def test_losses_are_written_unweighted_with_0_where_ignored(small_boxes):
    y, x = labels(30, classes=4), logits(30, 4)
    y[7] = -1
    save(y=y, x=x, w=np.full(30, 3.0))
    evaluate(
        "y.npy",
        "x.npy",
        from_logits=True,
        ignore_class=-1,
        sample_weight="w.npy",
        per_label="l.npy",
    )
    expected = loss_sparse_categorical_crossentropy(y, x, from_logits=True, ignore_class=-1)
    assert np.array_equal(np.load("l.npy"), expected)
    assert expected[7] == 0


def test_an_old_file_is_replaced_at_the_end_or_not_at_all(small_boxes):
    y, x = labels(30, classes=4), logits(30, 4)
    save(y=y, x=x, bad=np.where(np.arange(30) == 27, 9, y))
    Path("l.npy").write_text("old")
    os.chmod("l.npy", 0o640)
    with pytest.raises(ValueError, match="got 9"):
        evaluate("bad.npy", "x.npy", from_logits=True, per_label="l.npy")
    assert Path("l.npy").read_text() == "old"
    with pytest.raises(KeyboardInterrupt):
        evaluate("y.npy", "x.npy", from_logits=True, per_label="l.npy", on_progress=interrupt)
    assert Path("l.npy").read_text() == "old"
    assert sorted(os.listdir()) == ["bad.npy", "l.npy", "x.npy", "y.npy"]
    evaluate("y.npy", "x.npy", from_logits=True, per_label="l.npy")
    assert np.load("l.npy").shape == (30,)
    assert os.stat("l.npy").st_mode & 0o777 == 0o640
    assert sorted(os.listdir()) == ["bad.npy", "l.npy", "x.npy", "y.npy"]


def interrupt(done, total):
    raise KeyboardInterrupt


def test_a_link_to_the_old_file_stays_one():
    save(y=labels(5, classes=4), x=logits(5, 4))
    os.mkdir("kept")
    Path("kept/l.npy").write_text("old")
    os.symlink("kept/l.npy", "l.npy")
    evaluate("y.npy", "x.npy", from_logits=True, per_label="l.npy")
    assert os.path.islink("l.npy")
    assert np.load("kept/l.npy").shape == (5,)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("y.npy", "y.npy is an input"),
        ("link.npy", "link.npy is an input"),
        ("w.npy", "w.npy is an input"),
        ("./x.npy", "x.npy is an input"),
        ("losses.csv", "must end in .npy"),
        ("absent/l.npy", "must be in a folder that exists"),
        ("folder.npy", "must be a regular file"),
    ],
)
def test_what_must_not_be_written_is_refused_before_anything_is_read(path, words):
    save(y=labels(5, classes=4), x=logits(5, 4), w=np.ones(5))
    os.symlink("x.npy", "link.npy")
    os.mkdir("folder.npy")
    before = {name: os.stat(name) for name in os.listdir()}
    with pytest.raises(ValueError, match=words):
        evaluate("y.npy", "x.npy", from_logits=True, sample_weight="w.npy", per_label=path)
    assert {name: os.stat(name).st_mtime_ns for name in os.listdir()} == {
        name: status.st_mtime_ns for name, status in before.items()
    }


# --- the report -----------------------------------------------------------------------------------


def test_a_report_is_frozen_and_plain():
    save(y=labels(9, classes=4), x=logits(9, 4, dtype=np.float32), w=np.ones(9, np.float32))
    got = evaluate(
        "y.npy", "x.npy", from_logits=True, sample_weight="w.npy", label_smoothing=np.float32(0)
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        got.mean_loss = 0
    plain = {str, int, float, tuple, type(None)}
    assert {type(value) for value in dataclasses.asdict(got).values()} <= plain
    assert {type(n) for n in got.shape} == {int}
    assert json.loads(as_json(got)) == got.to_dict()


def sample(**changes):
    report = Report(
        labels="y.npy",
        predictions="x.npy",
        scores="logits",
        dtype="float32",
        shape=(60000, 10),
        normalize=None,
        label_smoothing=0.0,
        classes=10,
        scored=59988,
        ignored=12,
        total_weight=None,
        mean_loss=0.31326169,
        standard_error=0.00213,
        perplexity=1.3678794,
        accuracy=0.912345,
        uniform_baseline=math.log(10),
        frequency_baseline=2.2993127,
        infinite=0,
        nan=0,
    )
    return dataclasses.replace(report, **changes)


def test_what_json_lacks_is_a_string():
    text = as_json(sample(mean_loss=math.nan, perplexity=math.inf, standard_error=None))

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    told = json.loads(text, parse_constant=refuse)
    assert (told["mean_loss"], told["perplexity"]) == ("NaN", "Infinity")
    assert told["standard_error"] is None


def test_the_table():
    assert as_text(sample()).splitlines() == [
        "x.npy against y.npy",
        "logits, 60,000 x 10 float32",
        "",
        "  losses scored               59,988",
        "  ignored                         12",
        "  mean loss               0.31326169  nats, standard error 0.0021",
        "  perplexity               1.3678794",
        "  accuracy                  91.2345%",
        "",
        "                                nats    perplexity",
        "  these predictions       0.31326169     1.3678794   ████▏",
        "  labels' frequencies      2.2993127     9.9673296   ██████████████████████████████",
        "  uniform, log 10          2.3025851     10.000000   ██████████████████████████████",
    ]


def test_the_table_says_what_is_particular():
    weighted = as_text(sample(total_weight=4964.5, label_smoothing=0.1))
    assert "sum of weights" in weighted
    assert "the mean is sum(w * loss) / sum(w)" in weighted
    assert "label smoothing 0.1" in weighted
    nothing = as_text(sample(scored=0, mean_loss=0.0, standard_error=None, frequency_baseline=None))
    assert re.search(r"accuracy +-$", nothing, re.MULTILINE)
    assert re.search(r"these predictions +- +-$", nothing, re.MULTILINE)
    infinite = as_text(sample(mean_loss=math.inf, perplexity=math.inf, standard_error=None))
    assert re.search(r"these predictions +inf +inf$", infinite, re.MULTILINE)
    as_text(sample(frequency_baseline=0.0, uniform_baseline=0.0, mean_loss=0.0)).encode()
    as_text(sample(), blocks=False).encode("ascii")
    coloured = as_text(sample(), colour=True)
    assert re.sub(r"\x1b\[\dm", "", coloured).replace(" ", "") == as_text(sample()).replace(" ", "")


@pytest.mark.parametrize(
    ("loss", "shown"),
    [
        (4.12e-9, "4.12e-09"),
        (0.0, "0.0000000"),
        (16.118095650958, "16.118096"),
        (1e-3, "0.0010000000"),
    ],
)
def test_losses_of_any_size_are_shown_to_eight_digits(loss, shown):
    assert re.search(rf"mean loss +{re.escape(shown)} ", as_text(sample(mean_loss=loss)))


# --- larger than memory ---------------------------------------------------------------------------

GROWTH = """
import resource, sys
from sparse_xent.evaluation import evaluate
evaluate("warm_y.npy", "warm_x.npy", from_logits=True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
y, x, axis = sys.argv[1:]
report = evaluate(y, x, from_logits=True, axis=int(axis), per_label="l.npy")
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(report.scored, after - before)
"""


def sparse_file(name, shape, fortran=False):
    """A file of zeros that takes no room on the disk."""
    start = header(shape, "<f4", fortran)
    with open(name, "wb") as file:
        file.write(start)
        file.truncate(len(start) + 4 * math.prod(shape))


@pytest.mark.slow_when(lambda kind, shape, axis, most: kind in ("F", "packed") or axis == 0)
@pytest.mark.parametrize(
    ("kind", "shape", "axis", "most"),
    [
        ("C", (65_536, 1024), -1, 96),
        ("F", (65_536, 1024), -1, 96),
        ("F", (2048, 32_768), -1, 96),
        ("C", (4, 64, 512, 512), 1, 96),
        ("C", (64, 1024, 1024), 0, 96),
        ("packed", (65_536, 1024), -1, 96),
        ("text", (500_000, 10), -1, 72),
    ],
)
def test_memory_does_not_grow_with_the_file(kind, shape, axis, most):
    """256 MiB of scores (60 MB as text, 40 MB as numbers) are scored within some MiB."""
    losses = tuple(np.delete(shape, axis))
    save(y=np.zeros(losses, np.uint8), warm_x=logits(9, 3), warm_y=labels(9, classes=3))
    file, y = "x.npy", "y.npy"
    if kind == "packed":
        file = "x.npz"
        with (
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
            archive.open("x.npy", "w") as member,
        ):
            member.write(header(shape, "<f4"))
            for _ in range(shape[0] // 1024):
                member.write(bytes(1024 * shape[1] * 4))
    elif kind == "text":
        file, y = "x.csv", "y.csv"
        line = b",".join([b"0.123456789"] * shape[1]) + b"\n"
        Path(file).write_bytes(line * shape[0])
        Path(y).write_bytes(b"1\n" * shape[0])
    else:
        sparse_file(file, shape, fortran=kind == "F")
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, y, file, str(axis)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": HOME},
    )
    assert done.returncode == 0, done.stderr
    scored, grown = map(int, done.stdout.split())
    assert scored == math.prod(losses)
    assert grown < most * 1024, f"{grown // 1024} MiB"
