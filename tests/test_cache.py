"""Compiled kernels on disk: found again, never stale, and no error where none can be written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sparse_xent

PACKAGE = Path(sparse_xent.__file__).parent

SCRIPT = """
import numpy as np, sparse_xent as sx
from sparse_xent.kernels import code
x = np.array([[0.0, 1.0, 2.0]] * 3)
print(sx.loss_sparse_categorical_crossentropy(np.array([0, 1, 2]), x, True).tolist())
print(len(code.compiled))
"""


def run(folder, cache, script=SCRIPT):
    """What a new process prints, with the package in `folder` and kernels kept in `cache`."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", script],
        capture_output=True,
        text=True,
        timeout=150,
        cwd=folder,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(folder),
            **cache,
        },
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def copied(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "sparse_xent", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_a_second_process_finds_what_the_first_compiled(tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    first, second = (run(PACKAGE.parent, cache) for _ in range(2))
    assert first[0] == second[0]
    assert int(first[1]) > 0
    assert second[1] == "0"


def test_an_edit_of_what_a_kernel_calls_is_seen(tmp_path):
    folder = copied(tmp_path / "package")
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    before = run(folder, cache)
    algebra = folder / "sparse_xent/kernels/algebra.py"
    text = algebra.read_text("utf-8")
    assert "LN2 = math.log(2)" in text
    algebra.write_text(text.replace("LN2 = math.log(2)", "LN2 = 1.0"), "utf-8")
    after = run(folder, cache)
    assert int(after[1]) > 0
    assert after[0] != before[0]


@pytest.mark.slow  # compiles anew
def test_no_writable_folder_means_no_cache_and_no_error(tmp_path):
    blocked = tmp_path / "a file, not a folder"
    blocked.write_text("")
    for cache in ({"NUMBA_CACHE_DIR": str(blocked)}, {"HOME": os.devnull}):
        assert int(run(PACKAGE.parent, cache)[1]) > 0


@pytest.mark.slow  # compiles anew
def test_a_file_cut_short_is_compiled_anew(tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    before = run(PACKAGE.parent, cache)
    files = [f for f in tmp_path.rglob("*") if f.is_file()]
    assert files
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    after = run(PACKAGE.parent, cache)
    assert after == before


def test_what_is_on_disk_needs_no_numba(tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    loaded = SCRIPT + "import sys; print('numba' in sys.modules)"
    assert [run(PACKAGE.parent, cache, loaded)[2] for _ in range(2)] == ["True", "False"]


@pytest.mark.slow  # compiles anew
def test_another_processor_has_a_folder_of_its_own(tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    run(PACKAGE.parent, cache)
    other = run(PACKAGE.parent, {**cache, "NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": ""})
    assert int(other[1]) > 0
    assert len(list((tmp_path / "sparse_xent").iterdir())) == 2
