"""The bits of the compiled engine's results, group by group, and the table that holds them.

    python tests/frozen_bits.py [PART ...]       which groups have other bits than frozen_bits.json
    python tests/frozen_bits.py --write          write the table anew, and print what changed
    python tests/frozen_bits.py --hash [PART ...]   the hashes themselves, as JSON

A group is a few calls under one hash: values, losses and gradients for one layout, dtype and kind
of scores, over class counts. PART chooses the groups that have this text in their names.

The data has the same bits everywhere: integers of a generator whose stream NumPy has fixed, exact
divisions by powers of two, and IEEE quotients. So have the results, but for two things. Kernels
for processors without fused multiply-add round once more, and have a hash of their own. And the
groups named "libm" hold rows that the kernels hand to the C library's exp and log: another C
library may change these, and no others. NaN are hashed as one NaN: which of them a sum of two
gives is left open.
"""

import hashlib
import itertools
import json
import os
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import inside
import ml_dtypes
import numpy as np
import processors

import sparse_xent as sx

TABLE = Path(__file__).with_suffix(".json")
WITH_FMA, WITHOUT_FMA = COLUMNS = ("with FMA", "without FMA")

#: What would choose another engine, other processors or fewer threads.
UNSET = (
    "SPARSE_XENT_ENGINE",
    "NUMBA_DISABLE_JIT",
    "NUMBA_CPU_NAME",
    "NUMBA_CPU_FEATURES",
    "NUMBA_NUM_THREADS",
    "OMP_NUM_THREADS",
)

#: Significant bits of each dtype, so that data is made without rounding; its least step is 2**-.
DTYPES = {"float16": (11, 24), "bfloat16": (8, 133), "float32": (24, 149), "float64": (53, 1074)}
KINDS: dict[str, dict[str, Any]] = {
    "logits": {"from_logits": True},
    "after": {"normalize": "after"},
    "before": {"normalize": "before"},
    "never": {"normalize": "never"},
}
SMOOTHINGS = {"": 0.0, " smoothed": 0.1}
LAYOUTS = ("C", "Fortran", "NCHW", "sliced", "3-D")
CLASSES = (2, 3, 10, 24, 25, 100, 600, 1500, 9000)
REDUCTIONS = ("sum_over_batch_size", "sum", "mean_with_sample_weight", None)
LABELS = ("int64", "int32", "int16", "uint8", "bool", "float32", "float64", "list", "Fortran")

# Data -------------------------------------------------------------------------------------------


def integers(name: str, shape: tuple[int, ...], bits: int) -> Any:
    """Integers 0 .. 2**bits - 1, set by the name alone."""
    stream = np.random.PCG64(zlib.crc32(name.encode()))
    drawn = stream.random_raw(int(np.prod(shape))) >> np.uint64(64 - bits)
    return drawn.astype(np.int64).reshape(shape)


def dtype_of(name: str) -> Any:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def own(dtype: Any) -> str:
    """The dtype of the arithmetic on scores of this dtype: results that have it show every bit."""
    return "float64" if dtype_of(str(dtype)) == np.float64 else "float32"


def logits(name: str, shape: tuple[int, int], dtype: str) -> Any:
    """Numbers from -8 to 8, as fine as the dtype has them."""
    bits = DTYPES[dtype][0]
    whole = integers(name, shape, bits) - (1 << bits - 1)
    return np.ldexp(whole.astype(np.float64), 4 - bits).astype(dtype_of(dtype))


def probabilities(name: str, shape: tuple[int, int], dtype: str) -> Any:
    """Rows that sum to about 1: some are one-hot, some have a class far below the clip."""
    drawn = integers(name, shape, 14) ** 3
    share = drawn / drawn.sum(axis=1, keepdims=True)
    share[5::11, 0] = np.ldexp(share[5::11, 0], -30)
    share[3::11] = 0
    share[3::11, -1] = 1
    bits, least = DTYPES[dtype]
    fine = np.maximum(np.frexp(share)[1] - bits, -least)
    return np.ldexp(np.floor(np.ldexp(share, -fine)), fine).astype(dtype_of(dtype))


@lru_cache(maxsize=4)
def scores(kind: str, shape: tuple[int, int], dtype: str) -> Any:
    """Rows of scores, which nobody may write to."""
    make = logits if kind == "logits" else probabilities
    rows = make(f"{kind == 'logits'} {shape} {dtype}", shape, dtype)
    rows.flags.writeable = False
    return rows


def labels(positions: int, classes: int) -> Any:
    return integers(f"labels {positions} {classes}", (positions,), 32) % classes


def weights(positions: int) -> Any:
    """From 0 to 2, a few of them 0."""
    w = np.ldexp(integers(f"weights {positions}", (positions,), 20).astype(np.float64), -19)
    w[::9] = 0
    return w


def place(rows: Any, layout: str) -> tuple[Any, int, tuple[int, ...]]:
    """The rows in an array of their own, laid out so; its class axis; the losses' shape."""
    n, classes = rows.shape
    if layout == "NCHW":
        shape = (n // 8, 2, 4)
        images = rows[: n // 8 * 8].reshape(*shape, classes)
        return np.ascontiguousarray(np.moveaxis(images, -1, 1)), 1, shape
    if layout == "3-D":
        shape = (n // 3, 3)
        return rows[: n // 3 * 3].reshape(*shape, classes).copy(), -1, shape
    if layout == "sliced":
        view = np.zeros((2 * n, 2 * classes), rows.dtype)[::-2, 1::2]
        view[...] = rows
        return view, -1, (n,)
    return rows.copy("F" if layout == "Fortran" else "C"), -1, (n,)


def elsewhere(x: Any, layout: str) -> Any:
    """Where a gradient may go that is laid out unlike the scores."""
    if layout == "C":
        return np.empty(x.shape, x.dtype, "F")
    if layout == "3-D":
        return np.empty((*x.shape, 2), x.dtype)[..., 0]
    if layout == "NCHW":
        return np.moveaxis(np.empty((*x.shape[:1], *x.shape[2:], x.shape[1]), x.dtype), -1, 1)
    return np.empty(x.shape, x.dtype)


# Calls ------------------------------------------------------------------------------------------


def gradients(loss: Any, y: Any, rows: Any, layout: str, w: Any = None) -> Iterator[Any]:
    """Value and gradient: fresh, into an array laid out otherwise, and in place."""
    x, _, _ = place(rows, layout)
    for out in (None, elsewhere(x, layout), x):
        yield from loss.value_and_grad(y, x, w, out=out)


def everything(
    y: Any, rows: Any, layout: str, weighted: dict[str, Any], **given: Any
) -> Iterator[Any]:
    """What all ways of a call give for these scores: without weights, and with `weighted`."""
    x, axis, shape = place(rows, layout)
    y = y[: int(np.prod(shape))].reshape(shape)
    yield sx.loss_sparse_categorical_crossentropy(y, x, axis=axis, **given)
    given |= {"axis": axis, "dtype": own(x.dtype)}
    yield from gradients(sx.SparseCategoricalCrossentropy(**given), y, rows, layout)
    loss = sx.SparseCategoricalCrossentropy(**given, **weighted)
    w = weights(y.size).reshape(shape)
    yield loss(y, x, w)
    yield from gradients(loss, y, rows, layout, w)


# Groups -----------------------------------------------------------------------------------------

Group = tuple[str, Callable[[], Iterator[Any]]]


def small(layout: str, dtype: str, kind: str, smoothing: float) -> Iterator[Any]:
    """Calls of one chunk."""
    for number, classes in enumerate(CLASSES):
        shape = (43 if classes < 600 else 16 if classes < 2500 else 8, classes)
        y, rows = labels(*shape), scores(kind, shape, dtype)
        given = {**KINDS[kind], "label_smoothing": smoothing}
        yield from everything(
            y, rows, layout, {"reduction": REDUCTIONS[number % 4], "ignore_class": 1}, **given
        )


def large(layout: str, dtype: str, kind: str, smoothing: float, classes: int) -> Iterator[Any]:
    """A call of several chunks and tasks, by one thread and by two: the same bits."""
    shape = (5_000_000 // max(4, 2 * dtype_of(dtype).itemsize) // classes, classes)
    y, rows = labels(*shape), scores(kind, shape, dtype)
    x, axis, losses = place(rows, layout)
    y = y[: int(np.prod(losses))].reshape(losses)
    w = weights(y.size).reshape(losses)
    given = {**KINDS[kind], "label_smoothing": smoothing, "axis": axis, "dtype": own(dtype)}
    out = np.empty_like(x)

    def made() -> Iterator[Any]:
        yield sx.loss_sparse_categorical_crossentropy(y, x, **given)
        yield from sx.SparseCategoricalCrossentropy(**given).value_and_grad(y, x, out=out)
        loss = sx.SparseCategoricalCrossentropy(**given, reduction="sum", ignore_class=1)
        yield loss(y, x, w)

    hashes = []
    for threads in (1, 2):
        sx.config_set_threads(threads)
        hashes.append(digest(made()))
    sx.config_set_threads(None)
    if hashes[0] != hashes[1]:
        hashes.append("two threads give other bits than one")
    yield np.array(hashes[1:])


def of_labels(dtype: str, taken: str) -> Iterator[Any]:
    """Labels of every dtype, and in an order of their own."""
    for layout, classes in itertools.product(("C", "NCHW"), (2, 10, 100)):
        shape = (64, classes)
        y, rows = labels(*shape), scores("logits", shape, dtype)
        x, axis, losses = place(rows, layout)
        y = y.reshape(losses)
        if taken == "list":
            y = y.tolist()
        elif taken == "Fortran":
            y = np.asfortranarray(y)
        else:
            y = (y % 2 if taken == "bool" else y).astype(taken)
        for ignored in (None, 1, [0, 1]):
            loss = sx.SparseCategoricalCrossentropy(
                from_logits=True, axis=axis, ignore_class=ignored, dtype=own(dtype)
            )
            yield from loss.value_and_grad(y, x)


def of_options(dtype: str, kind: str, name: str) -> Iterator[Any]:
    """Each option with every reduction."""
    for layout, classes in itertools.product(("C", "Fortran", "NCHW"), (10, 100)):
        shape = (64, classes)
        y, rows = labels(*shape), scores(kind, shape, dtype)
        _, axis, losses = place(rows, layout)
        y, w = y.reshape(losses), weights(64).reshape(losses)
        by_class = weights(classes) + 0.25
        options: dict[str, Any] = {
            "plain": {},
            "ignore_class": {"ignore_class": 3},
            "ignored classes": {"ignore_class": [3, 5, -7]},
            "class_weight": {"class_weight": by_class},
            "class_weight of some": {"class_weight": {0: 0.5, 2: 3.0}},
            "sample_weight": {},
            "sample_weight of the first axis": {},
            "sample_weight of float32": {},
            "all": {"ignore_class": 3, "class_weight": by_class},
        }[name]
        taken = {
            "sample_weight": w,
            "sample_weight of the first axis": w.reshape(len(w), -1)[:, 0] + 0.5,
            "sample_weight of float32": w.astype(np.float32),
            "all": w,
        }.get(name)
        for reduction in REDUCTIONS:
            loss = sx.SparseCategoricalCrossentropy(
                **KINDS[kind], **options, axis=axis, reduction=reduction, dtype=own(dtype)
            )
            yield loss(y, place(rows, layout)[0], taken)
            yield from gradients(loss, y, rows, layout, taken)


def of_results(dtype: str, result: str) -> Iterator[Any]:
    """Results of another dtype than the arithmetic's, which is the scores' own."""
    for kind, layout in itertools.product(KINDS, ("C", "NCHW")):
        rows, y = scores(kind, (64, 10), dtype), labels(64, 10)
        x, axis, losses = place(rows, layout)
        for reduction in REDUCTIONS:
            loss = sx.SparseCategoricalCrossentropy(
                **KINDS[kind], axis=axis, dtype=result, reduction=reduction
            )
            yield loss(y.reshape(losses), x)
            yield from loss.value_and_grad(y.reshape(losses), x)


def of_ranks(layout: str, dtype: str) -> Iterator[Any]:
    """Some classes stand level, some rows hold NaN, some labels are ignored."""
    for classes in CLASSES:
        rows = logits(f"ranks {classes}", (43, classes), "bfloat16").astype(np.float64)
        rows = rows.astype(dtype_of(dtype))
        rows[7::10, classes // 2] = np.nan
        x, axis, shape = place(rows, layout)
        y = labels(43, classes)[: int(np.prod(shape))].reshape(shape)
        for ignored in (None, 1):
            yield inside.ranks(y, x, axis, ignored)
            yield inside.ranks(y.astype(np.int16), x, axis, ignored)


def odd_logits(rows: Any) -> Any:
    """Rows of which the kernels' usual way gives up: the C library's exp and log serve them."""
    rows, top = rows.copy(), float(ml_dtypes.finfo(rows.dtype).max)
    high = min(top / 2, 1e38)
    rows[0, 1] = np.inf
    rows[1, 0] = np.nan
    rows[2, 0] = -np.inf  # the target's
    rows[3, 1] = -np.inf
    rows[4] = -np.inf
    rows[5] = high
    rows[6, 0], rows[6, 1] = high, -high
    rows[7, 0], rows[7, 1] = -high, high
    rows[8] = min(top / 2, 1e6)
    rows[9, 1:] = -min(top / 2, 95)  # a loss below the least normal float32
    rows[10, 1:] = -min(top / 2, 715)  # and float64
    rows[11, 1:] = -np.inf
    rows[12, 0] = min(top / 2, 130)
    return rows


def odd_probabilities(rows: Any) -> Any:
    """Rows of what cannot be probabilities, or hardly is."""
    rows, top = rows.copy(), float(ml_dtypes.finfo(rows.dtype).max)
    least = float(ml_dtypes.finfo(rows.dtype).smallest_subnormal)
    rows[0, 1] = np.inf
    rows[1, 0] = np.nan
    rows[2, 0] = -0.25
    rows[3, 1] = -0.25
    rows[4, 0] = 1.5
    rows[5] = 0
    rows[6, 0] = -0.0
    rows[7, 0] = least
    rows[8] = least
    rows[9] = top
    rows[10, 1] = -np.inf
    rows[11] = -rows[11]
    rows[12] = 50
    return rows


def of_odd_rows(layout: str, dtype: str, kind: str, smoothing: float) -> Iterator[Any]:
    """Special values; the label is class 0."""
    make_odd = odd_logits if kind == "logits" else odd_probabilities
    for classes in (2, 3, 10, 25, 100, 600):
        rows = make_odd(scores(kind, (24, classes), dtype))
        given = {**KINDS[kind], "label_smoothing": smoothing}
        weighted = {"reduction": None, "ignore_class": 1}
        yield from everything(np.zeros(24, np.int64), rows, layout, weighted, **given)


def of_epsilon(dtype: str, kind: str, epsilon: float) -> Iterator[Any]:
    """No clip at all, and a wide one."""
    before = sx.config_epsilon()
    sx.config_set_epsilon(epsilon)
    try:
        for layout, smoothing in itertools.product(("C", "Fortran"), (0.0, 0.1)):
            yield from of_odd_rows(layout, dtype, kind, smoothing)
    finally:
        sx.config_set_epsilon(before)


def groups() -> Iterator[Group]:
    """Name and calls of each group."""
    sorts = list(itertools.product(LAYOUTS, DTYPES, KINDS))
    for (layout, dtype, kind), (smoothed, s) in itertools.product(sorts, SMOOTHINGS.items()):
        yield f"small {layout} {dtype} {kind}{smoothed}", partial(small, layout, dtype, kind, s)
    for number, (dtype, layout, kind) in enumerate(itertools.product(DTYPES, LAYOUTS, KINDS)):
        smoothed = list(SMOOTHINGS)[(number + number // 4) % 2]  # every other one
        # Chunks of so many bytes, and chunks of so many positions, however many classes they have.
        by_rows = layout in ("C", "3-D") and kind != "never"
        several = (600, 10, 1500, 24, 100, 25) if by_rows else (10, 100, 3, 24)
        classes = several[number // 4 % len(several)]
        call = partial(large, layout, dtype, kind, SMOOTHINGS[smoothed], classes)
        yield f"large {layout} {dtype} {kind}{smoothed}, {classes} classes", call
    for dtype, taken in itertools.product(("float32", "float64"), LABELS):
        yield f"labels {taken} {dtype}", partial(of_labels, dtype, taken)
    options = (
        "plain",
        "ignore_class",
        "ignored classes",
        "class_weight",
        "class_weight of some",
        "sample_weight",
        "sample_weight of the first axis",
        "sample_weight of float32",
        "all",
    )
    for dtype, kind, name in itertools.product(
        ("float32", "float64"), ("logits", "after"), options
    ):
        yield f"options {dtype} {kind}: {name}", partial(of_options, dtype, kind, name)
    for dtype in DTYPES:
        for result in ("float16", "bfloat16", "float32", "float64"):
            if result != "float64" or dtype == "float64":
                yield f"results {dtype} as {result}", partial(of_results, dtype, result)
    for layout, dtype in itertools.product(LAYOUTS, DTYPES):
        yield f"ranks {layout} {dtype}", partial(of_ranks, layout, dtype)
    for (layout, dtype, kind), (smoothed, s) in itertools.product(sorts, SMOOTHINGS.items()):
        if kind == "logits":
            name = f"libm {layout} {dtype} logits{smoothed}"
            yield name, partial(of_odd_rows, layout, dtype, kind, s)
    for dtype, kind in itertools.product(DTYPES, list(KINDS)[1:]):
        name = f"odd probabilities {dtype} {kind}"
        yield name, partial(_in_all_layouts, dtype, kind)
    for dtype, kind in itertools.product(("float32", "float64"), list(KINDS)[1:]):
        for epsilon in (0.0, 0.25):
            name = f"epsilon {epsilon} {dtype} {kind}"
            yield name, partial(of_epsilon, dtype, kind, epsilon)


def _in_all_layouts(dtype: str, kind: str) -> Iterator[Any]:
    for layout, s in itertools.product(LAYOUTS, SMOOTHINGS.values()):
        yield from of_odd_rows(layout, dtype, kind, s)


# Hashes and their table -------------------------------------------------------------------------


def digest(results: Iterator[Any]) -> str:
    """Hash of dtypes, shapes and bits, in C order."""
    made = hashlib.sha256()
    for result in results:
        a = np.ascontiguousarray(result)
        if a.dtype.kind not in "iuU" and np.isnan(a).any():
            a = np.where(np.isnan(a), a.dtype.type("nan"), a)
        made.update(f"{a.dtype} {np.shape(result)}".encode())
        made.update(a.tobytes())
    return made.hexdigest()[:12]


def hashes(parts: list[str]) -> dict[str, str]:
    """The hash of each group that has one of `parts` in its name; of every group if none is given.

    Any warning but those of scores that cannot be probabilities is an error: the NumPy engine's,
    where no kernel can be had, for one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "y_pred must hold probabilities", UserWarning)
        return {
            name: digest(calls())
            for name, calls in groups()
            if not parts or any(part in name for part in parts)
        }


def column(fma: bool) -> str:
    """The column of kernels that fuse multiply and add, or do not."""
    return WITH_FMA if fma else WITHOUT_FMA


def table() -> dict[str, dict[str, str]]:
    """Each group's hash in each column."""
    kept = json.loads(TABLE.read_text("utf-8"))
    return {name: _columns(text) for name, text in kept.items()}


def _columns(text: str) -> dict[str, str]:
    """The hashes of a line: one that serves all columns, or one for each, "-" if not known."""
    known = text.split()
    return dict(zip(COLUMNS, known * (len(COLUMNS) // len(known)), strict=True))


def write(found: dict[str, dict[str, str]]) -> None:
    """Write the table: what was found, column by column, and what was not, as it stood."""
    lines = {}
    for name, columns in sorted(found.items()):
        known = [columns.get(column, "-") for column in COLUMNS]
        lines[name] = known[0] if len({*known}) == 1 else " ".join(known)
    TABLE.write_text(json.dumps(lines, indent=0) + "\n", "utf-8")


def changes(column: str, found: dict[str, str]) -> list[str]:
    """Names of the groups whose bits are not the table's."""
    kept = table()
    return [name for name, made in found.items() if kept.get(name, {}).get(column) != made]


def run(parts: list[str], **environment: str) -> dict[str, str]:
    """The same hashes, made in a process of their own by the compiled engine."""
    usual = {key: value for key, value in os.environ.items() if key not in UNSET}
    done = subprocess.run(
        [sys.executable, __file__, "--hash", *parts],
        env={**usual, **environment},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"frozen_bits.py ended with {done.returncode}\n{done.stderr}")
    made: dict[str, str] = json.loads(done.stdout)
    return made


def check(parts: list[str]) -> int:
    """Print the groups whose bits are not the table's on this machine; 1 where there are any."""
    found = run(parts)
    changed = changes(column(processors.has_fma()), found)
    print("\n".join([*changed, f"{len(changed)} of {len(found)} groups have other bits"]))
    return bool(changed)


def rewrite() -> int:
    """Write the table anew for what this machine can run, and print the groups that changed."""
    found = {column(processors.has_fma()): run([])}
    if processors.has_fma() and processors.missing("nehalem") is None:
        found[WITHOUT_FMA] = run([], **processors.environment("nehalem"))
    before = table() if TABLE.exists() else {}
    after = {
        name: {**before.get(name, {}), **{c: made[name] for c, made in found.items()}}
        for name, _ in groups()
    }
    write(after)
    changed = [f"changed: {name}" for name in after if before.get(name) != after[name]]
    gone = [f"gone: {name}" for name in before if name not in after]
    print("\n".join([*changed, *gone]))
    print(f"{len(changed)} of {len(after)} groups changed, {len(gone)} are gone")
    return 0


def main(arguments: list[str]) -> int:
    parts = [a for a in arguments if not a.startswith("--")]
    flags = [a for a in arguments if a.startswith("--")]
    if flags == ["--hash"]:
        print(json.dumps(hashes(parts)))
        return 0
    if flags == ["--write"] and not parts:
        return rewrite()
    return sys.exit(__doc__) if flags else check(parts)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
