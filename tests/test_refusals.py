"""Every call that is refused, and what its message must say: one table, walked by every way in.

A row is a call. The ways in are the function, the object, its ``value_and_grad``, the metrics and
the command line, each taken wherever it can express the call. A refusal is one line that stands
alone: the argument first, then what was found and where, then the way out. It modifies nothing,
warns of nothing and drags no foreign error behind it. ValueError is for values, TypeError for
kinds; a row names both where a value of the wrong kind is also a wrong value.
"""

from __future__ import annotations

import inspect
import re
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from conftest import require_peer

import sparse_xent as sx
from sparse_xent.__main__ import main

NA = -2147483648  # how R's integer NA arrives
FACTOR = "as.integer(f) - 1L"
EITHER = (TypeError, ValueError)

# Three losses of four classes: rows of probabilities, read as logits just as well.
SCORES = np.array([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.3, 0.2]])
LABELS = np.array([1, 0, 2])
# Labels of a (2, 3) grid, for positions with two indices.
GRID = np.full((2, 3, 4), 0.25)
GRID_LABELS = np.array([[0, 1, 2], [3, 2, 1]])


@dataclass(frozen=True)
class Refusal:
    """One row of the table.

    Attributes:
        id: What is wrong with the call.
        error: The exception's type.
        argument: The name that the message begins with.
        words: What the message must hold; a bare number counts only as a whole number.
        position: The index tuple of the first bad element in C order.
        unsaid: What the message must not hold: advice that would mislead here.
        options: Arguments of the function or the object, ``sample_weight`` apart.
        only: The one way in that can express the call, where there is but one.
    """

    id: str
    error: type[Exception] | tuple[type[Exception], ...]
    argument: str
    words: tuple[str, ...] = ()
    position: tuple[int, ...] | None = None
    unsaid: tuple[str, ...] = ()
    y_true: Any = field(default_factory=lambda: LABELS)
    y_pred: Any = field(default_factory=lambda: SCORES)
    sample_weight: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)
    only: str | None = None


def label(
    id: str,
    error: type[Exception] | tuple[type[Exception], ...],
    y_true: Any,
    *words: str,
    position: tuple[int, ...] | None = None,
    y_pred: Any = SCORES,
    unsaid: tuple[str, ...] = (),
    only: str | None = None,
    **options: Any,
) -> Refusal:
    return Refusal(
        f"y_true-{id}",
        error,
        "y_true",
        words,
        position,
        unsaid,
        y_true=y_true,
        y_pred=y_pred,
        options=options,
        only=only,
    )


def prediction(
    id: str, error: Any, y_pred: Any, *words: str, y_true: Any = LABELS, **options: Any
) -> Refusal:
    return Refusal(
        f"y_pred-{id}", error, "y_pred", words, y_true=y_true, y_pred=y_pred, options=options
    )


def option(
    name: str, error: Any, value: Any, *words: str, id: str = "", only: str | None = None
) -> Refusal:
    return Refusal(f"{name}-{id or value!r}", error, name, words, options={name: value}, only=only)


def weight(
    id: str,
    error: Any,
    sample_weight: Any,
    *words: str,
    position: tuple[int, ...] | None = None,
    unsaid: tuple[str, ...] = (),
    y_true: Any = LABELS,
    y_pred: Any = SCORES,
    **options: Any,
) -> Refusal:
    return Refusal(
        f"sample_weight-{id}",
        error,
        "sample_weight",
        words,
        position,
        unsaid,
        y_true=y_true,
        y_pred=y_pred,
        sample_weight=sample_weight,
        options=options,
    )


def wide(classes: int) -> np.ndarray:
    """Scores of one row that cost no memory, however many the classes."""
    return np.lib.stride_tricks.as_strided(
        np.ones(1, np.float32), (1, classes), (0, 0), writeable=False
    )


def many(bad: Mapping[int, int], count: int = 300_000) -> np.ndarray:
    """Labels enough for many blocks, all 1 but for the bad ones."""
    labels = np.ones(count, np.int64)
    for index, value in bad.items():
        labels[index] = value
    return labels


MANY = np.full((300_000, 2), 0.5, np.float32)
FORTRAN_LABELS = np.asfortranarray([[0, 1, 9], [8, 2, 1]])
CHANNELS_LAST = np.moveaxis(np.full((2, 3, 5, 4), 0.25), -1, 1)  # axis 1, seen as channels-first
MASKED = np.ma.MaskedArray([1, 0, 2], mask=[True, False, False])

LABEL_ROWS = [
    # Out of range: position, value, how many more, the range.
    label("too-large", ValueError, np.array([1, 0, 4]), "4", "0", "3", position=(2,)),
    label("too-large-in-a-list", ValueError, [1, 7, 0], "7", "0", "3", position=(1,)),
    label("negative", ValueError, np.array([1, -1, 2]), "-1", "3", position=(1,)),
    label("negative-int8", ValueError, np.array([1, -128, 2], np.int8), "-128", position=(1,)),
    label("more", ValueError, np.array([9, 7, -3]), "9", "2 more", position=(0,)),
    label("one-more", ValueError, np.array([0, 9, 9]), "9", "1 more", position=(1,)),
    label("no-more", ValueError, np.array([0, 0, 9]), "9", position=(2,), unsaid=("more",)),
    label("uint8-255", ValueError, np.array([255, 0, 1], np.uint8), "255", position=(0,)),
    label(
        "uint64-past-int64",
        ValueError,
        np.array([0, 2**63 + 5, 1], np.uint64),
        "9223372036854775813",
        position=(1,),
    ),
    label("int64-least", ValueError, np.array([0, 1, -(2**63)]), str(-(2**63)), position=(2,)),
    label("past-every-integer", EITHER, [0, 2**70, 1], position=(1,)),
    label("big-endian", ValueError, np.array([0, 4, 1], ">i4"), "4", position=(1,)),
    label("bool-of-one-class", ValueError, np.array([False, True]), y_pred=np.ones((2, 1))),
    label("scalar", ValueError, 4, "4", "3", y_pred=SCORES[0]),
    label("numpy-scalar", ValueError, np.int32(-1), "-1", "3", y_pred=SCORES[0]),
    label("column", ValueError, np.array([[0], [1], [5]]), "5", "3"),
    label("grid", ValueError, [[0, 1, 2], [3, 4, 1]], "4", position=(1, 1), y_pred=GRID),
    label(
        "axis-1",
        ValueError,
        np.array([[0, 1, 3], [9, 2, 1]]),
        "9",
        position=(1, 0),
        y_pred=np.moveaxis(GRID, -1, 1),
        axis=1,
    ),
    # The first in C order, whatever the order in memory and however the work is cut.
    label("fortran", ValueError, FORTRAN_LABELS, "9", "1 more", position=(0, 2), y_pred=GRID),
    label(
        "fortran-scores",
        ValueError,
        np.array([[0, 1, 9], [8, 2, 1]]),
        "9",
        "1 more",
        position=(0, 2),
        y_pred=np.asfortranarray(GRID),
    ),
    label(
        "reversed",
        ValueError,
        np.array([9, 0, 8])[::-1],
        "8",
        "1 more",
        position=(0,),
    ),
    label(
        "channels-last-seen-as-first",
        ValueError,
        np.where(np.arange(30).reshape(2, 3, 5) % 11 == 9, 30, 1),
        "30",
        "1 more",
        position=(0, 1, 4),
        y_pred=CHANNELS_LAST,
        axis=1,
    ),
    label(
        "late",
        ValueError,
        many({299_999: 7}),
        "7",
        position=(299_999,),
        y_pred=MANY,
        unsaid=("more",),
    ),
    label(
        "far-apart",
        ValueError,
        many({150_001: 7, 150_002: -2, 299_998: 5}),
        "7",
        "2 more",
        position=(150_001,),
        y_pred=MANY,
    ),
    label(
        "far-apart-fortran-scores",
        ValueError,
        many({70_000: 7, 299_998: 5}),
        "7",
        "1 more",
        position=(70_000,),
        y_pred=np.asfortranarray(MANY),
    ),
    # Labels from 1: said only where 1..C and nothing else is seen.
    label(
        "1-based",
        ValueError,
        np.array([1, 4, 2]),
        "1-based",
        "y - 1",
        "4",
        position=(1,),
    ),
    label("1-based-doubles", ValueError, [1.0, 2.0, 4.0], "1-based", "y - 1", position=(2,)),
    label(
        "1-based-beside-ignored",
        ValueError,
        np.array([4, 255, 1]),
        "1-based",
        "y - 1",
        position=(0,),
        ignore_class=255,
    ),
    label("0-and-C", ValueError, np.array([0, 4, 1]), position=(1,), unsaid=("1-based",)),
    label("1-and-C-plus-1", ValueError, np.array([1, 5, 2]), position=(1,), unsaid=("1-based",)),
    label("1-and-negative", ValueError, np.array([1, 4, -1]), position=(1,), unsaid=("1-based",)),
    label(
        "1-based-but-for-a-late-0",
        ValueError,
        many({0: 2, 299_999: 0}),
        "2",
        position=(0,),
        y_pred=MANY,
        unsaid=("1-based",),
    ),
    # Ignored is tested before the range.
    label(
        "ignored-do-not-count",
        ValueError,
        np.array([-1, 9, -1]),
        "9",
        position=(1,),
        unsaid=("more",),
        ignore_class=-1,
    ),
    label(
        "another-is-ignored",
        ValueError,
        np.array([0, 255, 254]),
        "254",
        position=(2,),
        ignore_class=[255, -100],
    ),
    # Floats must be whole.
    label("1.7", ValueError, [0, 1.7, 2], "1.7", position=(1,)),
    label("half-float16", ValueError, np.array([1.5, 0, 1], np.float16), "1.5", position=(0,)),
    label("negative-half", ValueError, np.array([0, 1, -0.5]), "-0.5", position=(2,)),
    label("inf", ValueError, [0.0, 1.0, np.inf], "inf", position=(2,)),
    label("minus-inf", ValueError, [0.0, -np.inf, 1.0], "-inf", position=(1,)),
    label("huge", ValueError, [0.0, 1e30, 1.0], position=(1,)),
    label("huge-negative", ValueError, [0.0, 1.0, -1e30], position=(2,)),
    label("float-scalar", ValueError, 0.5, "0.5", y_pred=SCORES[0]),
    label("nan", ValueError, [0.0, np.nan, 1.0], "NA", position=(1,)),
    label("nan-float32", ValueError, np.array([0, 1, np.nan], np.float32), "NA", position=(2,)),
    label("nan-scalar", ValueError, float("nan"), "NA", y_pred=SCORES[0]),
    label("NA", ValueError, [NA, 0, 1], "NA", position=(0,)),
    label("NA-int32", ValueError, np.array([0, NA, 1], np.int32), "NA", position=(1,)),
    label("NA-double", ValueError, [0.0, 1.0, float(NA)], "NA", position=(2,)),
    label("NA-is-not-1-based", ValueError, [1, 4, NA], position=(1,), unsaid=("1-based",)),
    label(
        "NA-first",
        ValueError,
        np.array([0, NA, 9], np.int32),
        "NA",
        "1 more",
        position=(1,),
    ),
    label(
        "nan-at-a-late-place",
        ValueError,
        many({}) * 1.0 + np.where(np.arange(300_000) == 299_997, np.nan, 0.0),
        "NA",
        position=(299_997,),
        y_pred=MANY,
    ),
    # Floats that cannot count the classes: refused even where these few labels are exact.
    label(
        "float16-of-2050",
        EITHER,
        np.array([1], np.float16),
        "float16",
        "2048",
        y_pred=wide(2050),
    ),
    label(
        "bfloat16-of-258",
        EITHER,
        np.array([1], ml_dtypes.bfloat16),
        "bfloat16",
        "256",
        y_pred=wide(258),
    ),
    label(
        "float32-of-2**24+2",
        EITHER,
        np.array([1], np.float32),
        "float32",
        "16777216",
        y_pred=wide(2**24 + 2),
    ),
    label(
        "float64-of-2**53+2",
        EITHER,
        np.array([1.0]),
        "float64",
        "9007199254740992",
        y_pred=wide(2**53 + 2),
        only="function",  # a gradient of that many classes fits nowhere
    ),
    # Kinds that are not numbers.
    label("strings", TypeError, ["cat", "dog", "cat"], FACTOR),
    label("digit-strings", TypeError, ["1", "2", "0"], FACTOR),
    label("string-array", TypeError, np.array(["1", "2", "0"]), FACTOR),
    label("string-objects", TypeError, np.array(["1", "2", "0"], object), FACTOR),
    label("bytes", TypeError, np.array([b"1", b"2", b"0"])),
    label("one-level", TypeError, "setosa", FACTOR, y_pred=SCORES[0]),
    label("one-digit", TypeError, "1", FACTOR, y_pred=SCORES[:1]),
    label("grid-of-strings", TypeError, [["0", "1", "2"], ["1", "1", "1"]], FACTOR, y_pred=GRID),
    label("None-in-a-list", TypeError, [0, None, 1], "None", position=(1,)),
    label("None-in-a-grid", TypeError, [[0, 1, 2], [3, None, 1]], "None", y_pred=GRID),
    label("ragged", EITHER, [[0, 1, 2], [3, 2]], y_pred=GRID),
    label("ragged-numbers", EITHER, [0, [1], 2]),
    label("masked", TypeError, MASKED, "masked"),
    label("masked-nowhere", TypeError, np.ma.MaskedArray([1, 0, 2]), "masked"),
    label("object", TypeError, np.array([1, 0, 2], object), "object"),
    label("fractions", TypeError, [Fraction(1), Fraction(0), Fraction(2)], "Fraction"),
    label("datetime", TypeError, np.array(["2020-01-01"] * 3, "M8[D]"), "datetime64"),
    label("timedelta", TypeError, np.array([1, 2, 0], "m8[s]"), "timedelta64"),
    label("complex", TypeError, np.array([1 + 0j, 0, 2]), "complex"),
    label("complex-in-a-list", TypeError, [1 + 2j, 0, 2], "complex"),
    label("records", TypeError, np.zeros(3, [("class", "i4")])),
    label("dict", TypeError, {"y": [0, 1, 2]}),
    label("set", TypeError, {0, 1, 2}),
    label("generator", TypeError, (i for i in range(3))),
    # Shapes: expected, then got.
    label("too-short", ValueError, [0, 1], "(3,)", "(3, 1)", "(2,)", "(3, 4)"),
    label("too-long", ValueError, np.zeros(4, int), "(3,)", "(4,)"),
    label("row", ValueError, [[0, 1, 2]], "(3,)", "(1, 3)"),
    label("empty", ValueError, [], "(3,)", "(0,)"),
    label(
        "shape-around-the-axis",
        ValueError,
        np.zeros(3, int),
        "(2, 4)",
        "(2, 1, 4)",
        "got (3,)",
        "(2, 3, 4)",
        y_pred=GRID,
        axis=1,
    ),
    label("last-axis-for-axis-1", ValueError, GRID_LABELS, "(2, 4)", "(2, 3)", y_pred=GRID, axis=1),
    label("scalar-for-many", ValueError, 1, "(3,)", "(3, 4)"),
    label("length-1-for-many", ValueError, [1], "(3,)", "(1,)"),
    label("too-deep", ValueError, np.zeros((3, 1, 1), int), "(3,)", "(3, 1, 1)"),
    label(
        "one-hot",
        ValueError,
        np.eye(4, dtype=int)[[1, 0, 2]],
        "one-hot",
        "loss_categorical_crossentropy",
        "argmax",
    ),
    label(
        "one-hot-floats",
        ValueError,
        np.eye(4)[GRID_LABELS],
        "one-hot",
        "argmax",
        y_pred=GRID,
    ),
    # Scores first, as torch and yardstick have it.
    label("swapped", ValueError, SCORES, "swapped", y_pred=LABELS, unsaid=("one-hot",)),
    label("swapped-lists", ValueError, SCORES.tolist(), "swapped", y_pred=LABELS.tolist()),
    label("swapped-column", ValueError, SCORES, "swapped", y_pred=LABELS[:, None]),
    label("swapped-one-row", ValueError, SCORES[0], "swapped", y_pred=LABELS[:1]),
    label("swapped-float-labels", ValueError, SCORES, "swapped", y_pred=LABELS * 1.0),
    label("swapped-grid", ValueError, GRID, "swapped", y_pred=GRID_LABELS),
    label(
        "swapped-axis-1",
        ValueError,
        np.moveaxis(GRID, -1, 1),
        "swapped",
        y_pred=GRID_LABELS,
        axis=1,
    ),
    label(
        "swapped-axis-1-kept",
        ValueError,
        np.moveaxis(GRID, -1, 1),
        "swapped",
        y_pred=GRID_LABELS[:, None],
        axis=1,
    ),
    label("swapped-counts", ValueError, SCORES > 0.3, "swapped", y_pred=LABELS),
    label("swapped-1-d", ValueError, SCORES[0], "swapped", y_pred=np.array([1, 0, 0, 1])),
    label("swapped-one-hot", ValueError, SCORES, "swapped", y_pred=np.eye(4, dtype=int)[LABELS]),
    label("swapped-values", ValueError, [0.1, 0.7, 0.2], "swapped", position=(0,)),
    Refusal(
        "axis-swapped",
        ValueError,
        "axis",
        ("swapped",),
        y_true=np.moveaxis(SCORES, -1, 1),
        y_pred=LABELS,
        options={"axis": 1},
        only="object",
    ),
    label("not-swapped", ValueError, [0, 1], unsaid=("swap",)),
    label("deep-labels", ValueError, np.zeros((3, 4, 2), int), unsaid=("swap",)),
]

PREDICTION_ROWS = [
    prediction("dict", TypeError, {"a": [0.5] * 3, "b": [0.5] * 3}, "as.matrix("),
    prediction("strings", TypeError, [["0.5", "0.5"]] * 3),
    prediction("string-array", TypeError, SCORES.astype(str)),
    prediction("one-string", TypeError, "0.5"),
    prediction("bytes", TypeError, np.full((3, 2), b"0.5")),
    prediction("text-column", TypeError, [[0.1, 0.9, "a"]] * 3, "as.matrix()"),
    prediction("masked", TypeError, np.ma.MaskedArray(SCORES), "masked"),
    prediction("complex", TypeError, SCORES + 0j, "complex"),
    prediction("complex-in-a-list", TypeError, [[0.5, 0.5j]] * 3, "complex"),
    prediction("object", TypeError, SCORES.astype(object), "object"),
    prediction("None-in-a-list", TypeError, [[0.5, None]] * 3),
    prediction("datetime", TypeError, np.zeros((3, 4), "M8[s]"), "datetime64"),
    prediction("timedelta", TypeError, np.zeros((3, 4), "m8[s]"), "timedelta64"),
    prediction("records", TypeError, np.zeros((3, 4), [("p", "f8")])),
    prediction("set", TypeError, {0.1, 0.9}),
    prediction("generator", TypeError, (row for row in SCORES)),
    prediction("ragged", EITHER, [[0.5, 0.5], [1.0], [0.5, 0.5]]),
    prediction("0-d", ValueError, np.float64(0.5), y_true=0),
    prediction("swapped-0-d", ValueError, 2, "swapped", y_true=SCORES[0]),
    replace(
        prediction("masked-rows", TypeError, list(np.ma.MaskedArray(SCORES)), "masked"),
        only="object",  # a file has no masks
    ),
    prediction("python-float", ValueError, 0.5, y_true=0),
    prediction("no-class", ValueError, np.zeros((3, 0)), "(3, 0)"),
    prediction("no-class-and-no-row", ValueError, np.zeros((0, 0)), y_true=np.zeros(0, int)),
    prediction("no-class-on-axis-0", ValueError, np.zeros((0, 3)), "(0, 3)", y_true=LABELS, axis=0),
]

OPTION_ROWS = [
    option("axis", TypeError, True),
    option("axis", TypeError, np.True_, id="numpy-bool"),
    option("axis", TypeError, None),
    option("axis", TypeError, "last"),
    option("axis", TypeError, [1]),
    option("axis", EITHER, 1.5, "1.5"),
    option("axis", EITHER, float("nan")),
    option("axis", EITHER, float("inf")),
    option("axis", ValueError, 2, "2", "(3, 4)"),
    option("axis", ValueError, -3, "-3", "(3, 4)"),
    option("axis", ValueError, 2.0, "2", "(3, 4)", id="a double past the end"),
    option("axis", ValueError, NA, str(NA)),
    option("axis", ValueError, 2**70),
    option("ignore_class", TypeError, True),
    option("ignore_class", TypeError, np.False_, id="numpy-bool"),
    option("ignore_class", TypeError, [255, True]),
    option("ignore_class", TypeError, "255"),
    option("ignore_class", TypeError, ["255"]),
    option("ignore_class", TypeError, [[255]]),
    option("ignore_class", TypeError, [1, [2]]),
    option("ignore_class", TypeError, [None]),
    option("ignore_class", TypeError, {255: 1}),
    option("ignore_class", TypeError, 1 + 2j),
    option("ignore_class", EITHER, float("nan")),
    option("ignore_class", EITHER, [255.0, float("nan")]),
    option("ignore_class", EITHER, float("inf")),
    option("ignore_class", EITHER, 1.5, "1.5"),
    option("ignore_class", EITHER, {0.5}, "0.5"),
    option("label_smoothing", ValueError, -0.1, "-0.1", "0", "1"),
    option("label_smoothing", ValueError, 1.5, "1.5", "0", "1"),
    option("label_smoothing", ValueError, float("nan"), "nan"),
    option("label_smoothing", ValueError, float("inf"), "inf"),
    option("label_smoothing", EITHER, 10**400, id="past every double"),
    option("label_smoothing", TypeError, True),
    option("label_smoothing", TypeError, "0.1"),
    option("label_smoothing", TypeError, None),
    option("label_smoothing", TypeError, [0.1]),
    option("label_smoothing", TypeError, 0.1j),
    option("class_weight", ValueError, [1.0, 2.0, 3.0], "4", "3"),
    option("class_weight", ValueError, [1.0] * 5, "4", "5"),
    option("class_weight", EITHER, np.ones((2, 2)), id="2-d"),
    option("class_weight", EITHER, np.ones((4, 1)), id="column"),
    option("class_weight", ValueError, {4: 2.0}, "4", "3"),
    option("class_weight", ValueError, {-1: 2.0}, "-1", "3"),
    option("class_weight", ValueError, {"7": 2.0}, "7", "3"),
    option("class_weight", EITHER, {"cat": 2.0}, "cat"),
    option("class_weight", EITHER, {"1.5": 2.0}, "1.5"),
    option("class_weight", EITHER, {0.5: 2.0}, "0.5"),
    option("class_weight", EITHER, {None: 2.0}),
    option("class_weight", EITHER, {"²": 2.0}, "²"),
    option("class_weight", EITHER, {"--1": 2.0}, "--1"),
    option("class_weight", EITHER, {"": 2.0}),
    option("class_weight", EITHER, {1: 10**400}, id="past every double"),
    option("class_weight", TypeError, {True: 2.0}),
    option("class_weight", EITHER, {1: 2.0, "1": 3.0}, id="one class twice"),
    option("class_weight", TypeError, ["1", "2", "3", "4"]),
    option("class_weight", TypeError, {1: "2"}),
    option("class_weight", TypeError, {1: None}),
    option("class_weight", TypeError, {1: [2.0]}),
    option("class_weight", TypeError, "balanced"),
    option("class_weight", TypeError, [1.0, None, 1.0, 1.0]),
    option("class_weight", TypeError, np.ones(4) + 0j, "complex", id="complex"),
    option("class_weight", TypeError, np.ma.MaskedArray(np.ones(4)), "masked", id="masked"),
    option("class_weight", TypeError, {1.0, 2.0, 3.0, 4.0}, id="set"),
    option("class_weight", ValueError, [1, NA, 1, 1], "NA"),
    option("class_weight", ValueError, {2: NA}, "NA"),
    option("class_weight", ValueError, [1, float("nan"), 1, 1], "class_weight[1]", "nan", "NA"),
    option("class_weight", ValueError, np.array([1, 1, 1, np.nan], "f4"), "class_weight[3]", "NA"),
    option("class_weight", ValueError, {"2": float("nan")}, "class_weight[2]", "NA"),
    option("class_weight", TypeError, {2: True}, "True", "NA"),
    option("class_weight", TypeError, [1.0, True, 1.0, 1.0], "class_weight[1]", "True", "NA"),
    option("class_weight", EITHER, np.zeros(4, "m8[s]"), id="durations"),
    option("class_weight", EITHER, np.zeros(4, "M8[s]"), id="dates"),
    option("class_weight", EITHER, np.float64(2.0), id="a NumPy scalar"),
    option("ignore_class", TypeError, np.array([True, False]), id="bool array"),
    option("ignore_class", TypeError, np.array(True), id="0-d bool array"),
    option("ignore_class", EITHER, np.array([1.0, np.nan]), "nan", id="nan in an array"),
    option("ignore_class", EITHER, np.array([1.5]), "1.5", id="a half in an array"),
    option("ignore_class", TypeError, np.array([[1, 2]]), id="2-d"),
    option("ignore_class", TypeError, np.ma.MaskedArray([1, 2]), "masked", id="masked"),
    option("ignore_class", TypeError, np.array(["1"]), id="string array"),
    option("ignore_class", TypeError, np.array([1], "m8[s]"), id="durations"),
    option("ignore_class", TypeError, np.array([1], "M8[s]"), id="dates"),
    option("ignore_class", TypeError, b"1", id="bytes"),
    option("axis", TypeError, np.array(True), id="0-d bool array"),
    option("axis", TypeError, np.timedelta64(1, "s"), id="a duration"),
    option("label_smoothing", TypeError, np.array(True), id="0-d bool array"),
    option("label_smoothing", TypeError, np.array([0.1]), id="1-d"),
    option("from_logits", TypeError, np.array([True]), id="1-d"),
    option("class_weight", EITHER, 2.0),
    option("class_weight", EITHER, [[1.0, 2.0], [3.0]], id="ragged"),
    option("reduction", ValueError, "sum_over_batchsize", "sum_over_batch_size"),
    option("reduction", ValueError, "average", "mean"),
    option("reduction", ValueError, "nonesuch", "sum_over_batch_size"),
    option("reduction", EITHER, True),
    option("reduction", EITHER, 1),
    option("reduction", EITHER, ["sum"]),
    option("normalize", ValueError, "befor", "before"),
    option("normalize", ValueError, "After", "after"),
    option("normalize", EITHER, True),
    option("normalize", EITHER, None),
    option("dtype", EITHER, "flaot32", "float32"),
    option("dtype", EITHER, "float31", "float31"),
    option("dtype", EITHER, "int32", "int32"),
    option("dtype", EITHER, np.int64, "int64"),
    option("dtype", EITHER, "complex64", "complex64"),
    option("dtype", EITHER, "mixed_flaot16", "float16"),
    option("dtype", EITHER, 3.5),
    option("dtype", EITHER, object, id="object"),
    option("dtype", EITHER, object(), id="an object"),
    option("name", TypeError, 3, only="object"),
    option("name", TypeError, ["loss"], only="object"),
    option("from_logits", TypeError, "TRUE"),
    option("from_logits", TypeError, None),
    option("from_logits", TypeError, [True]),
    option("from_logits", EITHER, 2),
    option("from_logits", EITHER, float("nan")),
]

WEIGHT_ROWS = [
    weight("too-long", ValueError, np.ones(4), "(4,)", "(3,)", unsaid=("[None",)),
    weight("too-deep", ValueError, np.ones((3, 4)), "(3, 4)", "(3,)"),
    weight("two-ones", ValueError, np.ones((3, 1, 1)), "(3, 1, 1)", "(3,)"),
    weight(
        "time-steps",
        ValueError,
        np.ones(3),
        "(3,)",
        "(2, 3)",
        "w[None, :]",
        y_true=GRID_LABELS,
        y_pred=GRID,
    ),
    weight(
        "no-axis-fits",
        ValueError,
        np.ones((2, 4)),
        "(2, 4)",
        "(2, 3)",
        y_true=GRID_LABELS,
        y_pred=GRID,
        unsaid=("[None",),
    ),
    weight("ragged", EITHER, [[1.0], [1.0, 2.0], [3.0]]),
    weight("strings", TypeError, ["1", "2", "3"]),
    weight("one-string", TypeError, "1"),
    weight("None-in-a-list", TypeError, [1.0, None, 2.0]),
    weight("object", TypeError, np.ones(3).astype(object), "object"),
    weight("fractions", TypeError, [Fraction(1)] * 3, "Fraction"),
    weight("complex", TypeError, np.ones(3) + 0j, "complex"),
    weight("complex-scalar", TypeError, 1j, "complex"),
    weight("datetime", TypeError, np.zeros(3, "M8[s]"), "datetime64"),
    weight("masked", TypeError, np.ma.MaskedArray(np.ones(3), mask=[1, 0, 0]), "masked"),
    weight("dict", TypeError, {0: 1.0, 1: 2.0}),
    weight("NA", ValueError, np.array([1, NA, NA], np.int32), "NA", position=(1,)),
    weight("NA-double", ValueError, [1.0, 2.0, float(NA)], "NA", position=(2,)),
    weight("NA-scalar", ValueError, NA, "NA"),
    weight("nan", ValueError, np.array([1, np.nan, np.nan]), "nan", "NA", position=(1,)),
    weight("nan-float16", ValueError, np.array([1, 2, np.nan], "f2"), "NA", position=(2,)),
    weight("nan-float32", ValueError, np.array([1, 2, np.nan], "f4"), "NA", position=(2,)),
    weight("nan-in-a-list", ValueError, [float("nan"), 2.0, 1.0], "NA", position=(0,)),
    weight("nan-scalar", ValueError, float("nan"), "nan", "NA"),
    weight(
        "nan-in-a-grid",
        ValueError,
        np.array([[1, 2, 3], [4, np.nan, 5]]),
        "NA",
        position=(1, 1),
        y_true=GRID_LABELS,
        y_pred=GRID,
    ),
    weight(
        "nan-beside-ignored",
        ValueError,
        [np.nan, np.nan, 1],
        "nan",
        position=(1,),
        y_true=[-1, 0, 1],
        ignore_class=-1,
    ),
    weight(
        "nan-late",
        ValueError,
        np.where(np.arange(300_000) == 299_990, np.nan, 1),
        "NA",
        position=(299_990,),
        y_true=many({}),
        y_pred=MANY,
    ),
    weight(
        "NA-in-a-grid",
        ValueError,
        np.array([[1, 2, 3], [4, NA, 5]]),
        "NA",
        position=(1, 1),
        y_true=GRID_LABELS,
        y_pred=GRID,
    ),
    weight(
        "NA-beside-ignored",
        ValueError,
        [NA, NA, 1],
        "NA",
        position=(1,),
        y_true=[-1, 0, 1],
        ignore_class=-1,
        unsaid=("more",),
    ),
    weight(
        "NA-late",
        ValueError,
        np.where(np.arange(300_000) == 299_990, NA, 1).astype(np.int32),
        "NA",
        position=(299_990,),
        y_true=many({}),
        y_pred=MANY,
    ),
]

ROWS = LABEL_ROWS + PREDICTION_ROWS + OPTION_ROWS + WEIGHT_ROWS


# --- What every refusal is held to ----------------------------------------------------------------


def fingerprint(value: Any) -> Any:
    """The bytes of an argument, to be equal before and after."""
    if isinstance(value, np.ma.MaskedArray):
        return fingerprint(value.data), fingerprint(np.ma.getmaskarray(value))
    if isinstance(value, np.ndarray):
        # A view that repeats one element is known by that element: 2**53 of them fit nowhere.
        cell = value[tuple(slice(1) if step == 0 else slice(None) for step in value.strides)]
        body = repr(cell.tolist()) if value.dtype.hasobject else cell.tobytes()
        return value.dtype, value.shape, value.strides, value.flags.writeable, body
    return repr(value)


def says(message: str, word: str) -> bool:
    """Whether a message holds a word; a bare number must stand as a whole number."""
    if re.fullmatch(r"-?\d+", word):
        return re.search(rf"(?<![\d.\w]){re.escape(word)}(?!\.?\d)", message) is not None
    return word in message


@contextmanager
def refused(row: Refusal, *also: Any) -> Iterator[None]:
    """Holds one call to everything that a refusal promises; ``also`` must not be modified."""
    arguments = (row.y_true, row.y_pred, row.sample_weight, *row.options.values(), *also)
    before = [fingerprint(argument) for argument in arguments]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(row.error) as caught:
            yield
    check_message(row, str(caught.value))
    assert str(caught.value).startswith(row.argument), f"the argument comes first: {caught.value}"
    # Only this error is printed: no foreign one before it, none "during handling of" another.
    trace = "".join(traceback.format_exception(caught.value))
    assert trace.count("Traceback (most recent call last)") == 1, trace
    assert [fingerprint(argument) for argument in arguments] == before


def check_message(row: Refusal, message: str) -> None:
    assert message
    assert "\n" not in message, f"one line: {message!r}"
    assert message == message.strip()
    assert len(message) <= 400, f"R cuts messages off, and nobody reads {len(message)} characters"
    for word in row.words:
        assert says(message, word), f"{word!r} is missing: {message}"
    for word in row.unsaid:
        assert word not in message, f"{word!r} misleads: {message}"
    if row.position is not None:
        assert str(row.position) in message, f"{row.position} is missing: {message}"


# --- The ways in ----------------------------------------------------------------------------------


def through_function(row: Refusal) -> None:
    sx.loss_sparse_categorical_crossentropy(row.y_true, row.y_pred, **row.options)


def through_object(row: Refusal) -> None:
    loss = sx.loss_sparse_categorical_crossentropy(**row.options)
    loss(row.y_true, row.y_pred, sample_weight=row.sample_weight)


def through_class(row: Refusal) -> None:
    loss = sx.SparseCategoricalCrossentropy(**row.options)
    loss(row.y_true, row.y_pred, row.sample_weight)


def through_gradient(row: Refusal) -> None:
    loss = sx.SparseCategoricalCrossentropy(**row.options)
    loss.value_and_grad(row.y_true, row.y_pred, sample_weight=row.sample_weight)


def through_unreduced(row: Refusal) -> None:
    loss = sx.SparseCategoricalCrossentropy(reduction=None, **row.options)
    loss.value_and_grad(row.y_true, row.y_pred, sample_weight=row.sample_weight)


def metric(name: str) -> dict[str, Callable[[Refusal], None]]:
    make = getattr(sx, name)

    def given_data(row: Refusal) -> None:
        make(row.y_true, row.y_pred, sample_weight=row.sample_weight, **row.options)

    def by_state(row: Refusal) -> None:
        make(**row.options).update_state(row.y_true, row.y_pred, sample_weight=row.sample_weight)

    return {name: given_data, f"{name}().update_state": by_state}


METRICS = [name for name in sorted(vars(sx)) if name.startswith("metric_sparse_")]
WAYS: dict[str, Callable[[Refusal], None]] = {
    "function": through_function,
    "object": through_object,
    "class": through_class,
    "value_and_grad": through_gradient,
    "value_and_grad, unreduced": through_unreduced,
    **{way: call for name in METRICS for way, call in metric(name).items()},
}


def expresses(way: str, row: Refusal) -> bool:
    """Whether a way in has the arguments that a row gives."""
    if row.only is not None:
        return way == row.only
    if way == "function":  # given data, it takes neither a weight nor a reduction
        return row.sample_weight is None and "reduction" not in row.options
    if way == "value_and_grad, unreduced":
        return "reduction" not in row.options
    if way.startswith("metric_"):
        parameters = inspect.signature(getattr(sx, way.split("(")[0])).parameters
        return set(row.options) <= set(parameters)
    return True


@pytest.mark.parametrize(
    ("row", "way"),
    [
        pytest.param(row, way, id=f"{row.id} | {way}")
        for row in ROWS
        for way in WAYS
        if expresses(way, row)
    ],
)
def test_a_bad_call_is_refused_by_every_way_in(row: Refusal, way: str) -> None:
    with refused(row):
        WAYS[way](row)


def test_every_row_is_walked_and_named_once() -> None:
    names = [row.id for row in ROWS]
    assert len(set(names)) == len(names)
    assert all(any(expresses(way, row) for way in WAYS) for row in ROWS)


# --- The command line -----------------------------------------------------------------------------

FLAGS = {"axis": "--axis", "ignore_class": "--ignore-class"}
#: Advice for a caller -> for a user who has files, and options in place of arguments.
TOLD_OF_FILES = {
    FACTOR: "strings",
    "as.matrix()": "strings",
    "datetime64": "dates",
    "timedelta64": "durations",
    "y - 1": "--label-base 1",
    "loss_categorical_crossentropy": "one-hot",
}


def in_a_file(value: Any) -> np.ndarray | None:
    """The array that a user would have saved for an argument, or None where no file can hold it."""
    if isinstance(value, np.ma.MaskedArray) or not isinstance(value, (np.ndarray, list)):
        return None
    try:
        array = np.asarray(value)
    except ValueError:  # ragged
        return None
    plain = array.dtype.kind in "biufcmMUS" and array.size <= 10**6 and array.dtype.names is None
    return array if plain else None


def fits_files(row: Refusal) -> bool:
    given = [row.y_true, row.y_pred] + ([] if row.sample_weight is None else [row.sample_weight])
    flags = all(name in FLAGS and type(value) is int for name, value in row.options.items())
    there = all(in_a_file(value) is not None for value in given)
    return flags and there and row.only is None


@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in ROWS if fits_files(row)])
def test_the_command_line_refuses_it_on_one_line(
    row: Refusal,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"y_true": row.y_true, "y_pred": row.y_pred, "sample_weight": row.sample_weight}
    for name, value in files.items():
        if value is not None:
            np.save(f"{name}.npy", in_a_file(value))
    command = ["evaluate", "y_true.npy", "y_pred.npy", "--per-label", "losses.npy"]
    command += [f"{FLAGS[name]}={value}" for name, value in row.options.items()]
    if row.sample_weight is not None:
        command += ["--sample-weight", "sample_weight.npy"]
    saved = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        status = exit_status(command)

    shown = capsys.readouterr()
    assert status == 2, shown
    assert shown.out == ""
    message = shown.err.removesuffix("\n")
    words = tuple(TOLD_OF_FILES.get(word, word) for word in row.words)
    check_message(replace(row, words=words), message)
    assert row.argument in message, f"{row.argument} is not named: {message}"
    # Nothing is half written, and no file is touched.
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == saved


def exit_status(command: list[str]) -> int | str | None:
    try:
        return main(command)
    except SystemExit as stop:
        return stop.code


# --- The two forms --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "keywords", "words"),
    [
        pytest.param((LABELS,), {}, ("y_pred",), id="y_pred missing"),
        pytest.param((), {"y_true": LABELS}, ("y_pred",), id="y_pred missing, by name"),
        pytest.param((None, SCORES), {}, ("y_true",), id="y_true None"),
        pytest.param((), {"y_pred": SCORES}, ("y_true",), id="y_true missing"),
        pytest.param(
            (LABELS, SCORES),
            {"sample_weight": np.ones(3)},
            ("sample_weight", "()(y_true, y_pred, sample_weight=w)"),
            id="sample_weight with data",
        ),
        pytest.param((), {"sample_weight": np.ones(3)}, ("sample_weight",), id="sample_weight"),
        pytest.param((LABELS, SCORES), {"reduction": "sum"}, ("reduction",), id="reduction sum"),
        pytest.param((LABELS, SCORES), {"reduction": None}, ("reduction",), id="reduction None"),
        pytest.param((LABELS, SCORES), {"from": True}, ("from", "from_logits"), id="from"),
        pytest.param((), {"from": True}, ("from", "from_logits"), id="from, without data"),
        pytest.param(
            (LABELS, SCORES), {"ignore_index": 1}, ("ignore_index", "ignore_class"), id="ignore"
        ),
        pytest.param((), {"labelsmoothing": 0.1}, ("label_smoothing",), id="labelsmoothing"),
        pytest.param((), {"normalise": "after"}, ("normalize",), id="normalise"),
        pytest.param((), {"Reduction": "sum"}, ("reduction",), id="Reduction"),
        pytest.param((LABELS,), {"axes": 0}, ("axis",), id="unknown beside missing"),
        pytest.param((), {"zzz": 0}, ("zzz",), id="nothing near"),
        pytest.param((LABELS, SCORES, False, None, -1, 0.1), {}, (), id="six positional"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_the_function_names_what_is_missing_misplaced_or_misspelt(
    arguments: tuple[Any, ...], keywords: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(TypeError) as caught:
        sx.loss_sparse_categorical_crossentropy(*arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_the_advice_of_a_misplaced_argument_is_a_call_that_works() -> None:
    with pytest.raises(TypeError) as caught:
        sx.loss_sparse_categorical_crossentropy(LABELS, SCORES, reduction="sum")
    message = str(caught.value)
    assert "(y_true, y_pred)" in message
    assert "reduction='sum'" in message.replace('"', "'")


@pytest.mark.parametrize("make", [sx.SparseCategoricalCrossentropy, sx.CategoricalCrossentropy])
def test_the_objects_name_the_nearest_option_too(make: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="from_logits"):
        make(from_logit=True)
    with pytest.raises(TypeError):
        make(True)
    with pytest.raises((TypeError, ValueError)):
        make.from_config({"from_logit": True})


@pytest.mark.parametrize("missing", ["y_true", "y_pred"])
@pytest.mark.parametrize("verb", ["__call__", "value_and_grad"])
def test_an_object_given_None_for_data_names_it(verb: str, missing: str) -> None:
    data: dict[str, Any] = {"y_true": LABELS, "y_pred": SCORES, missing: None}
    with pytest.raises(TypeError, match=missing):
        getattr(sx.SparseCategoricalCrossentropy(), verb)(**data)


# --- out ------------------------------------------------------------------------------------------


def read_only(scores: np.ndarray) -> np.ndarray:
    out = np.zeros_like(scores)
    out.flags.writeable = False
    return out


def repeated(scores: np.ndarray) -> np.ndarray:
    return np.lib.stride_tricks.as_strided(np.zeros(4), scores.shape, (0, 8))


def interleaved(scores: np.ndarray) -> np.ndarray:
    """Strides that step on an element twice, with none of them 0."""
    return np.lib.stride_tricks.as_strided(np.zeros(8), scores.shape, (8, 8))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        pytest.param(lambda x: np.zeros((4, 3)), ValueError, ("(3, 4)", "(4, 3)"), id="transposed"),
        pytest.param(lambda x: np.zeros((1, 3, 4)), ValueError, ("(3, 4)",), id="too deep"),
        pytest.param(lambda x: np.zeros(12), ValueError, ("(3, 4)", "(12,)"), id="flat"),
        pytest.param(lambda x: np.zeros(x.shape, "f4"), EITHER, ("float64", "f4"), id="narrower"),
        pytest.param(lambda x: np.zeros(x.shape, int), EITHER, ("float64", "i8"), id="integer"),
        pytest.param(lambda x: np.zeros(x.shape, ">f8"), EITHER, (), id="other byte order"),
        pytest.param(lambda x: np.zeros(x.shape, complex), EITHER, (), id="complex"),
        pytest.param(read_only, ValueError, ("writ",), id="read-only"),
        pytest.param(repeated, ValueError, (), id="repeated elements"),
        pytest.param(interleaved, ValueError, (), id="interleaved elements"),
        pytest.param(lambda x: x[::-1], ValueError, ("y_pred",), id="y_pred reversed"),
        pytest.param(lambda x: x.tolist(), TypeError, ("list",), id="list"),
        pytest.param(lambda x: 0.0, TypeError, ("float",), id="scalar"),
        pytest.param(lambda x: True, TypeError, (), id="bool"),
        pytest.param(lambda x: bytearray(96), TypeError, (), id="buffer"),
        pytest.param(lambda x: np.ma.zeros(x.shape), TypeError, ("asked",), id="masked"),
    ],
)
@pytest.mark.parametrize("reduction", ["sum", None])
def test_out_is_refused_before_a_byte_is_written(
    make: Callable[[np.ndarray], Any], error: Any, words: tuple[str, ...], reduction: str | None
) -> None:
    scores = SCORES.copy()
    out = make(scores)
    row = Refusal("out", error, "out", words, y_pred=scores)
    with refused(row, out):
        sx.SparseCategoricalCrossentropy(reduction=reduction).value_and_grad(
            LABELS, scores, out=out
        )


def test_out_over_part_of_y_pred_is_refused() -> None:
    memory = np.full(16, 0.25)
    scores, out = memory[:12].reshape(3, 4), memory[4:].reshape(3, 4)
    with refused(Refusal("out", ValueError, "out", ("y_pred",), y_pred=scores), out, memory):
        sx.SparseCategoricalCrossentropy().value_and_grad(LABELS, scores, out=out)


def test_out_between_the_elements_of_y_pred_is_taken() -> None:
    memory = np.full((3, 8), 0.25)
    scores, out = memory[:, ::2], memory[:, 1::2]
    value, gradient = sx.SparseCategoricalCrossentropy().value_and_grad(LABELS, scores, out=out)
    expected, whole = sx.SparseCategoricalCrossentropy().value_and_grad(LABELS, scores.copy())
    assert gradient is out
    assert value == expected
    np.testing.assert_array_equal(gradient, whole)
    np.testing.assert_array_equal(scores, 0.25)


@pytest.mark.parametrize("argument", ["y_true", "sample_weight"])
def test_out_over_labels_or_weights_is_refused(argument: str) -> None:
    out = np.ones((3, 4))
    inside = out[:, 0]  # three whole doubles: labels or weights as good as any
    data = {"y_true": LABELS, "sample_weight": None, argument: inside}
    row = Refusal("out", ValueError, "out", (argument,), **data)
    with refused(row, out):
        sx.SparseCategoricalCrossentropy().value_and_grad(
            data["y_true"], SCORES, sample_weight=data["sample_weight"], out=out
        )


LATE_ROWS = [row for row in ROWS if row.y_pred is MANY]


@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in LATE_ROWS])
@pytest.mark.parametrize("in_place", [False, True], ids=["out", "in place"])
def test_a_late_refusal_leaves_out_as_it_was(row: Refusal, in_place: bool) -> None:
    scores = row.y_pred.copy()
    out = scores if in_place else np.full_like(scores, 7.0)
    with refused(row, scores, out):
        sx.SparseCategoricalCrossentropy(**row.options).value_and_grad(
            row.y_true, scores, sample_weight=row.sample_weight, out=out
        )


# --- What stands next to a refusal, and is taken --------------------------------------------------


def test_ignored_is_tested_before_the_range() -> None:
    loss = sx.SparseCategoricalCrossentropy(ignore_class=[NA, 255.0, -1], reduction=None)
    labels = np.array([NA, 0, 255])
    kept = sx.loss_sparse_categorical_crossentropy(labels[1:2], SCORES[1:2], dtype="float32")
    np.testing.assert_array_equal(loss(labels, SCORES), [0, kept[0], 0])


def test_weights_at_ignored_labels_are_not_read() -> None:
    loss = sx.SparseCategoricalCrossentropy(ignore_class=-1)
    labels, weights = np.array([-1, 0, 2]), np.array([NA, 1, 2], np.int32)
    assert loss(labels, SCORES, sample_weight=weights) == loss(
        labels, SCORES, sample_weight=[0, 1, 2]
    )


def test_a_label_of_weight_0_is_still_checked() -> None:
    with refused(label("weight 0", ValueError, [0, 9, 1], "9", position=(1,))):
        sx.SparseCategoricalCrossentropy()([0, 9, 1], SCORES, sample_weight=[1, 0, 1])


@pytest.mark.parametrize(
    ("dtype", "classes"), [(np.float16, 2049), (ml_dtypes.bfloat16, 257)], ids=["half", "bfloat16"]
)
def test_float_labels_are_taken_up_to_their_exact_integers(dtype: Any, classes: int) -> None:
    scores = np.full((1, classes), 1 / classes)
    last = np.array([classes - 1], dtype)
    whole = sx.loss_sparse_categorical_crossentropy([classes - 1], scores)
    assert sx.loss_sparse_categorical_crossentropy(last, scores) == whole


def test_what_R_writes_is_taken() -> None:
    loss = sx.loss_sparse_categorical_crossentropy
    plain = loss([1, 0, 2], SCORES, ignore_class=255, axis=-1)
    np.testing.assert_array_equal(loss([1.0, 0.0, 2.0], SCORES, False, 255.0, -1.0), plain)
    np.testing.assert_array_equal(loss([1, 0, 2], SCORES, class_weight={"0": 1.0}), plain)
    np.testing.assert_array_equal(loss([[1], [0], [2]], SCORES, ignore_class=[]), plain)
    assert loss(1, SCORES[:1]) == plain[:1]


# --- Data frames ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [way for way in WAYS if not way.startswith("metric_")])
def test_a_data_frame_with_a_text_column_names_the_way_out(way: str) -> None:
    pandas = require_peer("pandas")
    frame = pandas.DataFrame({"a": [0.5, 0.5, 0.5], "species": ["x", "y", "z"]})
    with refused(prediction("text column", TypeError, frame, "as.matrix()")):
        WAYS[way](prediction("text column", TypeError, frame))


@pytest.mark.parametrize("kind", ["strings", "categories", "missing"])
def test_a_series_that_is_not_numbers_is_refused(kind: str) -> None:
    pandas = require_peer("pandas")
    labels, error, words = {
        "strings": (pandas.Series(["x", "y", "x"]), TypeError, (FACTOR,)),
        "categories": (pandas.Series(["x", "y", "x"], dtype="category"), TypeError, ()),
        "missing": (pandas.Series([0, None, 1]), ValueError, ("NA", "(1,)")),
    }[kind]
    with refused(label(kind, error, labels, *words)):
        sx.loss_sparse_categorical_crossentropy(labels, SCORES)


# --- The one-hot sibling --------------------------------------------------------------------------

TARGETS = np.eye(4)[LABELS]


def soft(id: str, error: Any, y_true: Any, *words: str, position: Any = None) -> Refusal:
    return Refusal(f"y_true-{id}", error, "y_true", words, position, y_true=y_true)


def with_cell(value: float, dtype: Any = float) -> np.ndarray:
    targets = TARGETS.astype(dtype)
    targets[2, 1] = value
    return targets


SOFT_ROWS = [
    soft("negative", ValueError, with_cell(-0.25), "-0.25", position=(2, 1)),
    soft("nan", ValueError, with_cell(np.nan), position=(2, 1)),
    soft("nan-float32", ValueError, with_cell(np.nan, np.float32), position=(2, 1)),
    soft("sparse-labels", ValueError, LABELS, "loss_sparse_categorical_crossentropy"),
    soft("sparse-column", ValueError, LABELS[:, None], "(3, 4)", "(3, 1)"),
    replace(soft("swapped", ValueError, SCORES, "swapped"), y_pred=LABELS),
    replace(
        soft("swapped-logits", ValueError, SCORES - 0.15, "swapped", position=(0, 0)),
        y_pred=TARGETS,
    ),
    soft("transposed", ValueError, TARGETS.T, "(3, 4)", "(4, 3)"),
    soft("strings", TypeError, TARGETS.astype(str)),
    soft("complex", TypeError, TARGETS + 0j, "complex"),
    soft("masked", TypeError, np.ma.MaskedArray(TARGETS), "masked"),
    soft("object", TypeError, TARGETS.astype(object)),
    soft("None", TypeError, [[1, 0, 0, None]] * 3),
    soft("ragged", EITHER, [[1, 0, 0, 0], [1], [1]]),
    soft("datetime", TypeError, np.zeros((3, 4), "M8[s]")),
    Refusal("no-class", ValueError, "y_pred", y_true=np.zeros((3, 0)), y_pred=np.zeros((3, 0))),
]
SHARED = ("axis", "label_smoothing", "reduction", "dtype", "name", "from_logits")
SOFT_ROWS += [
    Refusal(row.id, row.error, row.argument, row.words, y_true=TARGETS, y_pred=row.y_pred)
    for row in PREDICTION_ROWS
    if row.y_true is LABELS and not row.options and row.id != "y_pred-no-class"
]
SOFT_ROWS += [
    Refusal(row.id, row.error, row.argument, row.words, y_true=TARGETS, options=row.options)
    for row in OPTION_ROWS
    if set(row.options) <= set(SHARED)
]
SOFT_ROWS += [
    Refusal(
        row.id,
        row.error,
        row.argument,
        row.words,
        row.position,
        y_true=TARGETS,
        sample_weight=row.sample_weight,
    )
    for row in WEIGHT_ROWS
    if row.y_true is LABELS
]


def soft_function(row: Refusal) -> None:
    sx.loss_categorical_crossentropy(row.y_true, row.y_pred, **row.options)


def soft_object(row: Refusal) -> None:
    loss = sx.CategoricalCrossentropy(**row.options)
    loss(row.y_true, row.y_pred, sample_weight=row.sample_weight)


def soft_gradient(row: Refusal) -> None:
    loss = sx.CategoricalCrossentropy(**row.options)
    loss.value_and_grad(row.y_true, row.y_pred, sample_weight=row.sample_weight)


@pytest.mark.parametrize(
    ("row", "call"),
    [
        pytest.param(row, call, id=f"{row.id} | {call.__name__}")
        for row in SOFT_ROWS
        for call in (soft_function, soft_object, soft_gradient)
        if call is not soft_function
        or (row.sample_weight is None and not {"reduction", "name"} & set(row.options))
    ],
)
def test_the_one_hot_loss_refuses_alike(row: Refusal, call: Callable[[Refusal], None]) -> None:
    with refused(row):
        call(row)


@pytest.mark.parametrize(
    ("arguments", "keywords", "word"),
    [
        pytest.param((TARGETS,), {}, "y_pred", id="y_pred missing"),
        pytest.param((), {"y_pred": SCORES}, "y_true", id="y_true missing"),
        pytest.param((TARGETS, SCORES), {"reduction": "sum"}, "reduction", id="reduction"),
        pytest.param((TARGETS, SCORES), {"sample_weight": 1.0}, "sample_weight", id="weight"),
        pytest.param((), {"from": True}, "from_logits", id="from"),
    ],
)
def test_the_one_hot_function_names_what_is_wrong(
    arguments: tuple[Any, ...], keywords: dict[str, Any], word: str
) -> None:
    with pytest.raises(TypeError, match=word):
        sx.loss_categorical_crossentropy(*arguments, **keywords)


# --- Settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setter", "getter", "value", "error"),
    [
        pytest.param(name, name.replace("_set", ""), value, error, id=f"{name}({value!r})")
        for name, values in {
            "config_set_floatx": [("float31", EITHER), ("int32", EITHER), (None, EITHER)],
            "config_set_epsilon": [
                (-1e-7, ValueError),
                (float("nan"), ValueError),
                (float("inf"), ValueError),
                (0.5, ValueError),
                ("1e-7", TypeError),
                (None, TypeError),
                (True, TypeError),
            ],
            "config_set_threads": [
                (0, ValueError),
                (-1, ValueError),
                (1.5, EITHER),
                ("2", TypeError),
                (True, TypeError),
            ],
        }.items()
        for value, error in values
    ],
)
def test_a_bad_setting_is_refused_and_changes_nothing(
    setter: str, getter: str, value: Any, error: Any
) -> None:
    before = getattr(sx, getter)()
    with pytest.raises(error) as caught:
        getattr(sx, setter)(value)
    assert "\n" not in str(caught.value)
    assert getattr(sx, getter)() == before
