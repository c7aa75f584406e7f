"""Where kernels cannot be had the NumPy engine serves: right results, one warning that says why."""

import os
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import inside
import numpy as np
import pytest
from packaging.requirements import Requirement

import sparse_xent as sx

TESTS = Path(__file__).parent
ROOT = Path(sx.__file__).parents[1]

CALL = """
import os, sys, warnings
import inside, numpy as np, sparse_xent as sx

def call():
    scores = np.array([[.05, .95, 0], [.1, .8, .1]])
    losses = sx.loss_sparse_categorical_crossentropy([1, 2], scores)
    assert np.allclose(losses, [0.05129339, 2.30258509], 1e-6), losses

def warned():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        call()
    return [f"{w.category.__name__}: {w.message} ({os.path.basename(w.filename)})" for w in seen]

def told(*words):
    "The next call warns once, of this, where it is called; those that follow do not."
    (said,) = warned()
    always = "RuntimeWarning: the NumPy engine serves", "SPARSE_XENT_ENGINE=numpy", "(<string>)"
    for word in (*always, *words):
        assert word in said, said
    assert "\\n" not in said, said
    assert warned() == []
"""


def python(script, cache, **env):
    """Standard output of a new process; it may say nothing else."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CALL + script],
        capture_output=True,
        text=True,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(TESTS)]),
            "NUMBA_CACHE_DIR": str(cache),
            **env,
        },
        check=False,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """A cache that has what the call takes."""
    cache = tmp_path_factory.mktemp("kernels")
    python("call()", cache)
    return cache


# --- what the user asked for ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "engine"),
    [
        ("", "compiled"),
        (" ", "compiled"),
        ("compiled", "compiled"),
        ("numpy", "numpy"),
        ("plain", "numpy"),
    ],
)
def test_the_engine_is_named_in_the_environment(value, engine, monkeypatch):
    monkeypatch.setenv("SPARSE_XENT_ENGINE", value)
    assert inside.asked_for() == engine


def test_another_engine_is_refused(monkeypatch):
    monkeypatch.setenv("SPARSE_XENT_ENGINE", "fast")
    with pytest.raises(ValueError, match=r'must be "compiled" or "numpy" .*, got \'fast\''):
        inside.asked_for()


def test_an_empty_engine_counts_as_unset(tmp_path):
    script = "print(inside.serving())"
    assert python(script, tmp_path, SPARSE_XENT_ENGINE="") == "compiled\n"


def test_the_numpy_engine_asks_for_no_kernel(monkeypatch):
    asked = inside.refuse_kernels(monkeypatch.setattr, lasting=True)
    inside.serve_by("numpy", monkeypatch.setattr)
    results((6, 5), 1)
    assert not asked


@pytest.mark.parametrize("value", ["1", "true"])
def test_numba_disable_jit_is_heeded_in_silence(value, tmp_path):
    python("call(); assert not inside.loaded()", tmp_path, NUMBA_DISABLE_JIT=value)


@pytest.mark.parametrize(
    ("disable", "enable"),
    [
        ("os.environ['NUMBA_DISABLE_JIT'] = '1'", "del os.environ['NUMBA_DISABLE_JIT']"),
        (
            "import numba; numba.config.DISABLE_JIT = 1",
            "numba.config.DISABLE_JIT = 0",
        ),
    ],
    ids=["environment", "config"],
)
def test_also_where_it_is_set_while_the_process_runs(disable, enable, warm):
    script = f"""
{disable}
call()
assert not inside.loaded()
{enable}
call()
assert inside.loaded()
{disable}
call()
"""
    python(script, warm)


def test_a_settings_file_of_numba_s_is_heeded(tmp_path):
    """It is read where there is a `yaml`, and known once Numba is imported."""
    (tmp_path / ".numba_config.yaml").write_text("disable_jit: 1\n")
    (tmp_path / "yaml.py").write_text("def safe_load(file): return {'disable_jit': 1}\n")
    script = f"os.chdir({str(tmp_path)!r}); call(); assert not inside.loaded()"
    python(script + "; assert 'numba' in sys.modules", tmp_path)


# --- what does not work --------------------------------------------------------------------------


def test_a_numba_whose_private_names_moved_is_told_of_once(tmp_path):
    script = """
import numba.core.dispatcher
del numba.core.dispatcher._FunctionCompiler
name = "ImportError: cannot import name '_FunctionCompiler'"
told(name, f"Numba {numba.__version__}", "compiler.py:")
"""
    python(script, tmp_path)


@pytest.mark.parametrize("package", ["numba", "llvmlite"])
def test_a_machine_without_numba_is_told_of_once(package, tmp_path):
    python(f"sys.modules[{package!r}] = None; told('ModuleNotFoundError', {package!r})", tmp_path)


def test_a_fault_of_our_own_is_not_hidden(tmp_path):
    script = """
def fault(*name): raise TypeError("a fault\\nof two lines")
inside.compile_by(fault)
told("TypeError: a fault of two lines", "<string>:")
"""
    python(script, tmp_path)


def test_a_warning_that_is_an_error_leaves_a_process_that_works(tmp_path):
    script = """
sys.modules["numba"] = None
try:
    call()
except RuntimeWarning:
    call()
    print("works")
"""
    assert python(script, tmp_path) == "works\n"


@pytest.mark.skipif(sys.platform != "linux", reason="memory that cannot be made executable: Linux")
@pytest.mark.parametrize("cache", ["warm", "cold"])
def test_memory_that_may_not_be_made_executable_is_told_of_once(cache, warm, tmp_path):
    """PR_SET_MDWE, of Linux 6.3 and later; where it is not, LLVM's own question is answered no."""
    script = """
import ctypes
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):
    import llvmlite.binding
    def check_jit_execution(): raise OSError(13, "Permission denied")
    llvmlite.binding.check_jit_execution = check_jit_execution
told("memory may not be made executable here (Permission denied)")
"""
    python(script, warm if cache == "warm" else tmp_path)


# --- memory --------------------------------------------------------------------------------------

LIMITED = """
import resource
def limit(extra):
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + extra, hard))
hard = resource.getrlimit(resource.RLIMIT_AS)[1]
limit({mib} << 20)
told("too little memory")
assert inside.serving() == 'compiled' and not inside.loaded()
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
call()
assert inside.loaded()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a process is limited as Linux does it")
@pytest.mark.parametrize("before", ["", "import llvmlite.binding"], ids=["LLVM", "a kernel"])
def test_a_memory_limit_lasts_no_longer_than_it_is_set(before, warm):
    python(before + LIMITED.format(mib=4), warm)


@pytest.mark.skipif(sys.platform != "linux", reason="a process is limited as Linux does it")
@pytest.mark.slow
@pytest.mark.parametrize("mib", [160, 200, 240, 300])
def test_nor_one_that_keeps_kernels_from_being_compiled(mib, tmp_path):
    """Asked for beforehand: LLVM ends the process where it gets none."""
    python(LIMITED.format(mib=mib), tmp_path)


def test_what_failed_to_be_linked_can_be_linked_again():
    image = inside.object_code(inside.QUICK)
    with pytest.raises(RuntimeError):
        inside.link(inside.QUICK, b"no object file")
    assert inside.link(inside.QUICK, image)
    assert inside.link(inside.QUICK, image)


def test_an_import_of_numba_that_failed_can_be_repeated(tmp_path):
    script = """
class Finder:
    def find_spec(name, path, target=None):
        if name == "numba.core.typed_passes":
            raise MemoryError
sys.meta_path.insert(0, Finder)
(said,) = warned()
assert "too little memory for kernels to be compiled" in said
assert "numba" not in sys.modules
sys.meta_path.remove(Finder)
assert len(inside.compiled_now(inside.QUICK)) > 100
"""
    python(script, tmp_path)


# --- whoever calls -------------------------------------------------------------------------------


def results(shape, axis):
    """What every kind of call gives."""
    rng = np.random.default_rng(1)
    x = rng.random(shape)
    y = rng.integers(0, shape[axis], [n for i, n in enumerate(shape) if i != axis])
    loss = sx.SparseCategoricalCrossentropy(axis=axis)
    each = sx.SparseCategoricalCrossentropy(axis=axis, reduction=None)
    out = np.empty_like(x)
    return [
        sx.loss_sparse_categorical_crossentropy(y, x, axis=axis),
        sx.loss_sparse_categorical_crossentropy(y, x, axis=axis, ignore_class=[0, 1]),
        loss(y, x),
        loss(y, x, rng.random(y.shape)),
        *loss.value_and_grad(y, x),
        *each.value_and_grad(y, x, rng.random(y.shape), out=out),
        inside.ranks(y, x, axis),
    ]


@pytest.mark.parametrize("lasting", [True, False])
@pytest.mark.parametrize(("shape", "axis"), [((6, 5), 1), ((5000, 5), 1), ((2, 5, 7), 1)])
def test_every_call_is_served_and_one_warning_given(shape, axis, lasting, monkeypatch):
    inside.serve_by("numpy", monkeypatch.setattr)
    expected = results(shape, axis)
    asked = inside.refuse_kernels(monkeypatch.setattr, lasting)
    with pytest.warns(RuntimeWarning, match="not here") as seen:
        got = results(shape, axis)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    for mine, reference in zip(got, expected, strict=True):
        np.testing.assert_array_equal(mine, reference)
    assert inside.serving() == ("numpy" if lasting else "compiled")
    assert len(asked) == 1 if lasting else len(asked) > 5


def test_nothing_is_written_before_a_label_is_refused(monkeypatch):
    inside.refuse_kernels(monkeypatch.setattr, lasting=False)
    x, y = np.full((5000, 5), 0.2), np.zeros(5000, int)
    y[-1] = 5
    before = x.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        with pytest.raises(ValueError, match=r"got 5 at \(4999,\)"):
            sx.SparseCategoricalCrossentropy().value_and_grad(y, x, out=x)
    np.testing.assert_array_equal(x, before)


def test_numba_is_bounded_where_it_was_tried():
    """The bound in pyproject holds the Numba that these tests run on."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    (bound,) = (part for part in text.split('"') if part.startswith("numba>"))
    specifier = Requirement(bound).specifier
    assert version("numba") in specifier
    assert any(s.operator == "<" for s in specifier)
