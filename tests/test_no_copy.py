"""No layout of scores is copied whole: peak memory, read in a fresh process, shows it."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from conftest import environment

PEAK = """
    import json, resource, sys
    import numpy as np
    import inside
    import sparse_xent as sx

    shape, axes, dtype, axis, verb, from_logits, normalize, source = json.loads(sys.argv[1])
    def status(key):
        for line in open("/proc/self/status"):
            if line.startswith(key):
                return int(line.split()[1]) * 1024
        raise KeyError(key)

    loss = sx.loss_sparse_categorical_crossentropy(
        from_logits=from_logits, normalize=normalize, axis=axis, dtype="float32",
        reduction=None if verb == "losses" else "sum_over_batch_size",
    )
    def call(y, x, out=None):
        if verb == "losses":
            return loss(y, x)
        return loss.value_and_grad(y, x, out=out)
    def made(sizes):
        twice = [2 * n if k == 0 and source == "every other" else n for k, n in enumerate(sizes)]
        twice[1] += source == "all but the last"
        x = np.full([twice[k] for k in axes], 0.5, dtype).transpose(np.argsort(axes))
        if source == "all but the last":  # a language model's scores, of the tokens after them
            return x[:, :-1]
        return {"every other": x[::2], "reversed": x[::-1]}.get(source, x)
    def labels_of(sizes):
        sizes = [n for k, n in enumerate(sizes) if k != axis % len(sizes)]
        if source == "all but the last":
            return np.zeros([sizes[0], sizes[1] + 1], "int32")[:, 1:]
        return np.zeros(sizes, "int32")
    # a small call of its kind first: what is imported or made once is not this call's memory
    for most in (4, 2**22 // shape[axis]):  # the second is large enough for threads
        few = list(shape)
        for k in sorted((k for k in range(len(shape)) if k != axis % len(shape)), reverse=True):
            few[k] = min(few[k], most)
            most = -(-most // few[k]) if most > 4 else most
        small = made(few)
        labels = labels_of(few)
        call(labels, small, small if verb == "in place" else None)
    if source == "file":
        x = np.load(sys.argv[2], mmap_mode="r")
    else:
        x = made(shape)
        if source == "read-only":
            x.flags.writeable = False
    y = labels_of(shape)
    out = x if verb == "in place" else None
    before = status("VmRSS:")
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew here
    result = call(y, x, out)
    peak = status("VmHWM:")
    own = result.nbytes if verb == "losses" else 0 if verb == "in place" else result[1].nbytes
    declared = inside.workspace(shape[axis])
    print(json.dumps({"grown": peak - before, "result": own, "declared": declared}))
"""

MIB = 2**20
ROWS = (2**26 // 1000, 1000)  # 256 MiB of float32


IMAGE = (16, 16, 512, 512)
CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], str, int, str, str]] = {
    # shape, order of axes in memory, dtype, class axis, kind, where it comes from
    "C order": (ROWS, (0, 1), "float32", -1, "logits", "made"),
    "10 classes": ((2**26 // 10, 10), (0, 1), "float32", -1, "logits", "made"),
    "131072 classes": ((512, 131072), (0, 1), "float32", -1, "logits", "made"),
    "Fortran order": (ROWS, (1, 0), "float32", -1, "logits", "made"),
    "an R matrix": ((2**25 // 10, 10), (1, 0), "float64", -1, "after", "made"),
    "probabilities before": (ROWS, (0, 1), "float32", -1, "before", "made"),
    "probabilities never": (ROWS, (0, 1), "float32", -1, "never", "made"),
    "channels first": (IMAGE, (0, 1, 2, 3), "float32", 1, "logits", "made"),
    "channels first, last in memory": (IMAGE, (0, 2, 3, 1), "float32", 1, "logits", "made"),
    "axes in any order": (IMAGE, (3, 1, 0, 2), "float32", 1, "logits", "made"),
    "float16": ((2**27 // 1000, 1000), (0, 1), "float16", -1, "logits", "made"),
    "every other row": (ROWS, (0, 1), "float32", -1, "logits", "every other"),
    "rows reversed": (ROWS, (0, 1), "float32", -1, "logits", "reversed"),
    "a language model's": (
        (64, 1000, 1024),
        (0, 1, 2),
        "float32",
        -1,
        "logits",
        "all but the last",
    ),
    "read-only": (ROWS, (0, 1), "float32", -1, "logits", "read-only"),
    "big-endian": (ROWS, (0, 1), ">f4", -1, "logits", "made"),
    "memory-mapped": (ROWS, (0, 1), "float32", -1, "logits", "file"),
}
NEVER_OUT = {"read-only", "big-endian", "memory-mapped"}


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc"
)
@pytest.mark.parametrize(
    ("name", "verb"),
    [
        pytest.param(name, verb, id=f"{name}, {verb}")
        for name in CASES
        for verb in ("losses", "value and gradient", "in place")
        if verb != "in place" or name not in NEVER_OUT
    ],
)
def test_y_pred_is_not_copied(name: str, verb: str, tmp_path: Path) -> None:
    """The peak grows by less than 1 MiB and the result; the NumPy engine's by what it declares."""
    shape, axes, dtype, axis, kind, source = CASES[name]
    file = tmp_path / "x.npy"
    mapped_bytes = 0
    if source == "file":  # the pages of the file that are read count as resident, once
        mapped_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize + MIB  # and its page tables
        np.lib.format.open_memmap(file, "w+", dtype, shape)[...] = 0.5
    normalize = "after" if kind == "logits" else kind
    case = [shape, axes, dtype, axis, verb, kind == "logits", normalize, source]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(PEAK), json.dumps(case), str(file)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    spare = MIB + seen["result"] + mapped_bytes
    if dtype == ">f4":
        spare += MIB + seen["declared"]
    assert seen["grown"] < spare, {k: f"{v / MIB:.1f} MiB" for k, v in seen.items()}
