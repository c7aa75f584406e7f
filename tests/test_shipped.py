"""Kernels that a wheel brings: nothing is compiled, no bit changes, what does not fit is not run.

The slow part builds such a wheel, which takes minutes, and runs it.
"""

import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import frozen_bits
import inside
import llvmlite.binding as llvm
import processors
import pytest

import sparse_xent
from sparse_xent import warm
from sparse_xent.kernels import ScoreKind, cache, shipped
from sparse_xent.kernels.cpu import abi

PACKAGE = Path(sparse_xent.__file__).parent
ROOT = PACKAGE.parent
ASKED = {"HATCH_BUILD_HOOK_ENABLE_CUSTOM": "true"}
NAME = ("tile", "float32", "LOGITS", False, True)
LEVELS = list(shipped.LEVELS)

linux = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64",
    reason="such wheels are for Linux on x86-64",
)


def flags(features):
    return ",".join(f"+{feature}" for feature in features)


def without(level, feature):
    return flags(f for f in shipped.LEVELS[level] if f != feature)


# --- which files are loaded ----------------------------------------------------------------------


@linux
@pytest.mark.parametrize(
    ("features", "level"),
    [
        (flags(shipped.LEVELS["x86-64-v4"]), "x86-64-v4"),
        (flags([*shipped.LEVELS["x86-64-v4"], "avx512fp16", "amx-tile"]), "x86-64-v4"),
        (flags(shipped.LEVELS["x86-64-v3"]), "x86-64-v3"),
        (without("x86-64-v4", "avx512vl"), "x86-64-v3"),  # Knights Landing
        (without("x86-64-v4", "avx512vl") + ",-avx512vl", "x86-64-v3"),
        (without("x86-64-v3", "fma"), None),
        (without("x86-64-v4", "avx2"), None),
        ("+sse2", None),
    ],
)
def test_the_processor_decides_which_level_serves(features, level):
    assert shipped._level(features) == level


@pytest.mark.parametrize(
    ("platform", "triple"),
    [
        ("darwin", "x86_64-apple-darwin23"),
        ("win32", "x86_64-pc-windows-msvc"),
        ("linux", "aarch64-unknown-linux-gnu"),
        ("linux", "i686-unknown-linux-gnu"),
    ],
)
def test_other_platforms_have_no_level(platform, triple, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(llvm, "get_process_triple", lambda: triple)
    assert shipped._level.__wrapped__(flags(shipped.LEVELS["x86-64-v4"])) is None


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The file of one kernel for a processor of the lower level, which is this machine's now."""
    for variable in os.environ:
        if variable.startswith("NUMBA_"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("NUMBA_CPU_FEATURES", flags(shipped.LEVELS["x86-64-v3"]))
    monkeypatch.setattr(shipped, "FOLDER", str(tmp_path))
    ((path, content),) = shipped.files({NAME: b"image"}, "x86-64-v3")
    (tmp_path / path).parent.mkdir()
    (tmp_path / path).write_bytes(content)
    return tmp_path / path


@linux
def test_a_file_that_fits_is_loaded(file):
    assert shipped.load(NAME) == b"image"
    assert shipped.load(("rows", *NAME[1:])) is None


@linux
@pytest.mark.parametrize("at", [0, 31, 32, 36])
def test_a_changed_byte_is_seen_in_the_digest_and_in_the_code(at, file):
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
    assert shipped.load(NAME) is None


@linux
@pytest.mark.parametrize("length", [0, 20, 36])
def test_a_file_cut_short_is_seen(length, file):
    file.write_bytes(file.read_bytes()[:length])
    assert shipped.load(NAME) is None


@linux
def test_a_file_under_another_name_or_of_another_level_is_seen(file):
    other = ("rows", *NAME[1:])
    shutil.copy(file, file.with_name(cache.file_name(other)))
    assert shipped.load(other) is None
    ((_, content),) = shipped.files({NAME: b"image"}, "x86-64-v4")
    file.write_bytes(content)
    assert shipped.load(NAME) is None


@linux
def test_code_of_other_sources_is_not_loaded(file, monkeypatch):
    monkeypatch.setattr(cache, "sources", lambda: "f" * 64)
    assert shipped.load(NAME) is None


@linux
@pytest.mark.parametrize(
    ("variable", "value"),
    [("NUMBA_OPT", "0"), ("NUMBA_DEBUGINFO", "1"), ("NUMBA_CPU_FEATURES", "+sse2")],
)
def test_what_the_environment_asks_of_numba_is_heeded(variable, value, file, monkeypatch):
    monkeypatch.setenv(variable, value)
    assert shipped.load(NAME) is None


def test_a_checkout_has_none_and_all_of_it_compiles():
    assert not (PACKAGE / "kernels" / shipped.FOLDER).exists()
    assert shipped.load(("run_chunks",)) is None


def test_every_kernel_of_float32_and_float64_is_among_them():
    names, every = list(warm.of_wheels()), set(warm.kernels(everything=True))
    halves = {name for name in every if {"float16", "bfloat16"} & {*name}}
    assert len(names) == len(set(names))
    assert every - halves <= set(names)
    assert {name[0] for name in set(names) - every} == {"run_small_call"}  # of other Pythons
    assert set(warm.kernels()) <= set(names)


@pytest.mark.parametrize("apart", [False, True], ids=["classes together", "classes apart"])
@pytest.mark.parametrize("classes", [1, 2, 10, 24, 25, 32, 33, 100, 511, 512, 2047, 2048, 9000])
def test_every_kernel_that_a_call_may_choose_is_compiled_in_advance(classes, apart):
    every = set(warm.kernels(everything=True))
    for format, scores, smooth in itertools.product(abi.FORMATS, ScoreKind, (False, True)):
        steps = (abi.FORMATS[format] * (1000 if apart else 1), 8)
        choice = abi.choose_kernel(format, scores, smooth, classes, 1, steps, 1 << 18)
        assert {choice.named(False), choice.named(True)} <= every


# --- wheels --------------------------------------------------------------------------------------


def hook():
    """The module that wheels are built with; it is no part of the package."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_editable_installation_has_no_kernels_also_where_they_are_asked_for():
    build_data = {}
    hook().KernelHook.initialize(None, "editable", build_data)
    assert build_data == {}


def test_whoever_asks_for_kernels_elsewhere_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(RuntimeError, match="on Linux, x86-64, and this is darwin .*without HATCH_"):
        hook().KernelHook.initialize(None, "standard", {})


def test_kernels_are_compiled_by_the_build_s_packages_and_without_the_user_s_settings(monkeypatch):
    """An isolated build finds Numba by PYTHONPATH."""
    monkeypatch.setenv("PYTHONPATH", "/where/pip/put/it")
    monkeypatch.setenv("NUMBA_OPT", "0")
    taken, module = {}, hook()
    monkeypatch.setattr(subprocess, "Popen", lambda command, env: taken.update(env))
    made = SimpleNamespace(_made=SimpleNamespace(name="folder"))
    module.KernelHook._compile(made, "x86-64-v3", ("avx", "avx2"))
    assert taken["PYTHONPATH"] == "/where/pip/put/it"
    numba = {key: value for key, value in taken.items() if key.startswith("NUMBA_")}
    assert numba == {"NUMBA_CPU_NAME": "x86-64-v3", "NUMBA_CPU_FEATURES": "+avx,+avx2"}


@linux
def test_what_a_kernel_takes_from_the_process_is_seen():
    """By its names: a kernel that needed more of it than exp and log would not be shipped."""
    assert hook().needed(inside.object_code(inside.QUICK)) == set()
    logits = inside.object_code(("rows", "float32", "LOGITS", False, True))
    assert hook().needed(logits) == hook().FUNCTIONS


@pytest.mark.parametrize(("asked", "numba"), [({}, False), (ASKED, True)])
def test_only_who_asks_for_kernels_must_have_numba_to_build(asked, numba):
    code = "import hatchling.build as b; print(b.get_requires_for_build_wheel())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("numba" in done.stdout) is numba


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel with kernels."""
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        env={**os.environ, **ASKED},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """A folder that the wheel is installed in."""
    folder = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, "--target", folder, wheel], check=True)
    return folder


RUN = """
import json, sys
import frozen_bits, sparse_xent
from sparse_xent.kernels import loader
found = {
    name: frozen_bits.digest(calls())
    for name, calls in frozen_bits.groups()
    if "float16" not in name and (len(sys.argv) == 1 or name in sys.argv)
}
print(json.dumps([found, sparse_xent.__file__, sorted(loader.compiled), "numba" in sys.modules]))
"""
FEW = "small C float32 logits", "small Fortran float64 after smoothed"


def run(site, cache, *groups, **environment):
    """Hashes of results, and what was compiled, in a new process with nothing but the wheel."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore:y_pred must hold:UserWarning", "-c", RUN, *groups],
        cwd=cache,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(site), str(ROOT / "tests")]),
            "NUMBA_CACHE_DIR": str(cache),
            **environment,
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found, where, compiled, numba = json.loads(done.stdout)
    assert Path(where).is_relative_to(site)
    assert found
    assert not frozen_bits.changes(frozen_bits.column(fma="nehalem" not in str(environment)), found)
    return [tuple(name) for name in compiled], numba


@pytest.mark.slow
@pytest.mark.seconds(1800)
@linux
def test_the_wheel_names_its_platform_and_is_small(wheel):
    assert wheel.name.endswith("-py3-none-manylinux_2_17_x86_64.whl")
    assert wheel.stat().st_size < 4 << 20
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (about,) = (name for name in names if name.endswith(".dist-info/WHEEL"))
        assert "Root-Is-Purelib: false" in archive.read(about).decode()
    folder = f"sparse_xent/kernels/{shipped.FOLDER}"
    assert {name for name in names if name.endswith(".o")} == {
        f"{folder}/{level}/{cache.file_name(name)}" for level in LEVELS for name in warm.of_wheels()
    }


@pytest.mark.slow
@pytest.mark.seconds(1800)
@linux
@pytest.mark.parametrize("level", LEVELS)
def test_an_installed_wheel_compiles_nothing_and_gives_the_frozen_bits(level, site, tmp_path):
    """Of every loss and gradient of float32 and float64, in each layout."""
    there = llvm.get_host_cpu_features()
    if absent := [f for f in shipped.LEVELS[level] if not there[f]]:
        pytest.skip(f"this processor cannot run {level}'s code: it has no {absent[0]}")
    features = flags(shipped.LEVELS[level])
    assert run(site, tmp_path, NUMBA_CPU_FEATURES=features) == ([], False)
    assert list(tmp_path.iterdir()) == []
    assert run(site, tmp_path, *FEW) == ([], False)  # this processor's own level


@pytest.mark.slow
@pytest.mark.seconds(1800)
@linux
def test_what_is_damaged_or_of_another_processor_is_compiled(site, tmp_path):
    if why := processors.missing("haswell"):
        pytest.skip(why)
    damaged = shutil.copytree(site, tmp_path / "damaged")
    for file in damaged.glob(f"sparse_xent/kernels/{shipped.FOLDER}/*/run_chunks.o"):
        content = bytearray(file.read_bytes())
        content[5] ^= 1
        file.write_bytes(content)
    kept = tmp_path / "kept"
    kept.mkdir()
    assert run(damaged, kept, *FEW) == ([("run_chunks",)], True)
    assert run(damaged, kept, *FEW) == ([], False)
    compiled, _ = run(site, tmp_path, *FEW, **processors.environment("nehalem"))
    assert len(compiled) > 4


#: What GNU's assembler calls these levels.
MARCH = {"x86-64-v3": "generic64+cx16+popcnt+sse4.2+avx2+bmi+bmi2+f16c+fma+lzcnt+movbe+xsave"}
MARCH["x86-64-v4"] = MARCH["x86-64-v3"] + "+avx512f+avx512bw+avx512cd+avx512dq+avx512vl"


def refused(folder, march):
    """What an assembler for these processors says of the instructions in object files."""
    files = sorted(folder.glob("*.o"))
    listing = subprocess.run(
        ["objdump", "--disassemble", "--no-show-raw-insn", *files],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = {re.sub(r"<.*?>|#.*", "", line) for line in re.findall(r"^ +\w+:\t(.*)", listing, re.M)}
    # Addresses of jumps are no labels, and padding has prefixes that are refused in a source.
    lines = [line for line in sorted(found) if not re.match(r"(j\w+|call) +\w|.*\bnop", line)]
    assert len(lines) > 10_000
    done = subprocess.run(
        ["as", f"-march={march}", "-o", os.devnull, "-"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
    )
    return [line for line in done.stderr.splitlines() if "Error" in line]


@pytest.mark.slow
@pytest.mark.seconds(1800)
@linux
def test_no_instruction_is_beyond_its_level(site, tmp_path):
    """By another disassembler and another assembler than those that made them."""
    if not (shutil.which("objdump") and shutil.which("as")):
        pytest.skip("binutils are not here: objdump and as")
    for level in LEVELS:
        (tmp_path / level).mkdir()
        for file in site.glob(f"sparse_xent/kernels/{shipped.FOLDER}/{level}/*.o"):
            (tmp_path / level / file.name).write_bytes(file.read_bytes()[cache._DIGEST :])
        assert not refused(tmp_path / level, MARCH[level])[:5]
    assert refused(tmp_path / "x86-64-v4", MARCH["x86-64-v3"])  # the assembler does tell
