"""What is shipped, what it asks for, and the set-up that `make` does on a machine new to it."""

import email
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from conftest import PEERS

import sparse_xent

ROOT = Path(__file__).parent.parent


# --- what is shipped -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The folder with the wheel and the source distribution, built from a copy of the checkout."""
    checkout = tmp_path_factory.mktemp("checkout") / "sparse_xent"
    made = shutil.ignore_patterns(
        ".git", ".venv*", "__pycache__", ".*_cache", ".hypothesis", "dist"
    )
    shutil.copytree(ROOT, checkout, ignore=made)
    (checkout / ".venv").mkdir()  # what git ignores must not travel
    (checkout / ".venv/big").touch()
    result = subprocess.run(
        [sys.executable, "-m", "hatchling", "build"], cwd=checkout, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return checkout / "dist"


@pytest.fixture(scope="module")
def wheel(dist):
    (path,) = dist.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def test_wheel_holds_the_package_and_nothing_else(wheel):
    package = ROOT / "sparse_xent"
    ours = {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert shipped == ours
    assert "sparse_xent/py.typed" in shipped
    assert any(re.fullmatch(r"sparse_xent/demo/.*\.txt", name) for name in shipped)


def test_wheel_serves_every_platform(wheel):
    assert wheel.filename.endswith("-py3-none-any.whl")


def test_core_dependencies_are_few_and_numba_is_bounded(metadata):
    core = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert sorted(core) == ["numba<0.69,>=0.61", "numpy>=1.26", "platformdirs", "scipy"]


def test_metadata(metadata):
    assert metadata["Name"].replace("-", "_") == "sparse_xent"
    assert metadata["Version"] == sparse_xent.__version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"
    assert set(metadata.get_all("Provides-Extra")) == {
        "cuda12", "cuda13", "dev", "peers", "plots", "test", "test-cuda"
    }  # fmt: skip


def test_the_tests_of_a_newcomer_ask_for_no_cuda_and_no_peer(metadata):
    asked = [line for line in metadata.get_all("Requires-Dist") if "extra == 'test'" in line]
    assert any(line.startswith("pytest-xdist") for line in asked)
    peers = "torch|tensor|jax|keras|xgboost|lightgbm|transformers"
    assert not any(re.match(f"sparse_xent.*cuda|.*nvidia|cuda|{peers}", line) for line in asked)
    compiler = [line for line in metadata.get_all("Requires-Dist") if "'test-cuda'" in line]
    assert any("cuobjdump" in line for line in compiler)


def test_every_peer_is_among_the_peers(metadata):
    asked = [line for line in metadata.get_all("Requires-Dist") if "extra == 'peers'" in line]
    names = {re.match(r"[\w-]+", line)[0] for line in asked}
    assert names == {name for distributions in PEERS.values() for name in distributions}


def test_changelog_tells_of_this_version():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest
    assert newest[1] == sparse_xent.__version__


def test_source_distribution_can_be_tested(dist):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", "README.md", "scripts/setup.sh", "tests/conftest.py"} <= names
    assert not any(name.startswith((".venv", "dist")) for name in names)


def test_command_line_runs_from_the_wheel(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    (points,) = (tmp_path / "site").glob("*.dist-info/entry_points.txt")
    assert points.read_text() == "[console_scripts]\nsparse-xent = sparse_xent.__main__:main\n"
    code = "import sys, sparse_xent.__main__ as m; print(m.__file__); sys.exit(m.main())"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, "--help"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(str(tmp_path))
    for words in ("sparse-xent", "evaluate", "demo"):
        assert words in result.stdout


# --- the set-up ----------------------------------------------------------------------------------

# A project that needs nothing from the network: it builds itself.
BACKEND = """
import zipfile

FILES = {
    "METADATA": "Metadata-Version: 2.1\\nName: sparse_xent\\nVersion: 1\\n"
    "Provides-Extra: dev\\nProvides-Extra: test\\n",
    "WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    "RECORD": "",
}

def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "sparse_xent-1-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        for file, text in FILES.items():
            wheel.writestr(f"sparse_xent-1.dist-info/{file}", text)
    return name
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


@pytest.fixture
def checkout(tmp_path):
    """A checkout with our set-up, its path with a space in it, and nothing to download."""
    root = tmp_path / "a checkout"
    (root / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/setup.sh", root / "scripts")
    (root / "backend.py").write_text(BACKEND)
    (root / "pyproject.toml").write_text(PYPROJECT)
    return root


def set_up(checkout, *extras, path="/usr/bin:/bin", **variables):
    """(exit code, output, seconds) of scripts/setup.sh, in an environment with nothing else."""
    start = time.perf_counter()
    result = subprocess.run(
        ["/bin/sh", str(checkout / "scripts/setup.sh"), *extras],
        env={"PATH": str(path), **variables},
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return result.returncode, result.stdout, time.perf_counter() - start


@pytest.mark.slow
def test_set_up_is_done_once_and_again_when_it_must_be(checkout):
    base = {"PYTHON": sys.executable, "HOME": str(checkout.parent)}
    ready = checkout / ".venv/.ready"

    code, said, _ = set_up(checkout, **base)
    assert code == 0, said
    assert said.startswith("setup: making .venv with Python 3.")
    assert "setup: installing sparse_xent and what it needs" in said
    assert said.endswith("setup: ready\n")

    code, said, _ = set_up(checkout, "dev", **base)
    assert code == 0, said
    assert said.startswith("setup: installing sparse_xent[dev]")

    for extras in (["dev"], []):  # there already: nothing said, nothing done
        code, said, seconds = set_up(checkout, *extras, **base)
        assert (code, said) == (0, "")
        assert seconds < 2

    code, said, _ = set_up(checkout, "test", **base)  # one more extra: the others stay
    assert code == 0, said
    assert said.startswith("setup: installing sparse_xent[dev,test]")
    assert set_up(checkout, "dev", **base)[:2] == (0, "")

    (checkout / "pyproject.toml").write_text(f"{PYPROJECT}# changed\n")
    code, said, _ = set_up(checkout, "dev", **base)
    assert code == 0, said
    assert said.startswith("setup: installing sparse_xent[dev,test]")

    # Cut short while pip was at work; then with its Python gone.
    ready.unlink()
    code, said, _ = set_up(checkout, "dev", **base)
    assert code == 0, said
    assert said.startswith("setup: installing sparse_xent[dev]")
    (checkout / ".venv/bin/python").unlink()
    code, said, _ = set_up(checkout, "dev", **base)
    assert code == 0, said
    assert said.startswith("setup: making .venv")


@pytest.mark.slow
def test_set_up_that_fails_is_not_taken_for_done(checkout):
    base = {"PYTHON": sys.executable, "HOME": str(checkout.parent)}
    (checkout / "backend.py").write_text("")
    for _ in range(2):
        code, said, _ = set_up(checkout, "dev", **base)
        assert code == 1
        assert said.endswith("mended, the same command goes on from here\n")
    (checkout / "backend.py").write_text(BACKEND)
    code, said, _ = set_up(checkout, "dev", **base)
    assert code == 0, said


def stand_in(folder, name, version, *, venv=True):
    """A command that answers as a Python of that version would, as far as the set-up asks."""
    minor = int(version.split(".")[1])
    script = f"""#!/bin/sh
case "$*" in
    -V) echo "Python {version}" ;;
    *'sys.exit('*) exit {int(minor < 11)} ;;
    *'import ensurepip'*) exit {int(not venv)} ;;
    *'print("%d.%d"'*) echo "{version.rpartition(".")[0]}" ;;
    *) echo "asked $*"; exit 7 ;;
esac
"""
    path = folder / name
    path.write_text(script)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def pythons(tmp_path):
    """A folder for a PATH: what the set-up needs of a system, and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("dirname", "cat", "cksum", "tail", "tr", "rm"):
        (folder / tool).symlink_to(shutil.which(tool))
    return folder


def test_set_up_says_what_is_missing_without_python(checkout, pythons):
    code, said, _ = set_up(checkout, path=pythons)
    assert code == 1
    assert said.startswith("setup: needs Python >= 3.11, found none: install it (Debian")
    assert said.count("\n") == 1


def test_set_up_says_what_is_missing_with_an_old_python(checkout, pythons):
    stand_in(pythons, "python3", "3.9.2")
    code, said, _ = set_up(checkout, path=pythons)
    assert code == 1
    assert said.startswith("setup: needs Python >= 3.11, found Python 3.9.2: install it (Debian")


def test_set_up_says_what_is_missing_without_venv(checkout, pythons):
    stand_in(pythons, "python3", "3.11.2", venv=False)
    code, said, _ = set_up(checkout, path=pythons)
    assert code == 1
    assert said.startswith("setup: Python 3.11 is here without venv: install it (Debian, Ubuntu: ")
    assert "apt-get install python3.11-venv)" in said
    assert said.count("\n") == 1


def test_set_up_passes_over_pythons_that_cannot_serve(checkout, pythons):
    stand_in(pythons, "python3", "3.9.2")
    stand_in(pythons, "python3.12", "3.12.1", venv=False)
    stand_in(pythons, "python3.11", "3.11.9")
    code, said, _ = set_up(checkout, path=pythons)
    assert code == 1  # the stand-in makes no .venv, and says so
    assert said.startswith("setup: making .venv with Python 3.11.9")
    assert said.endswith("setup: python3.11 could not make .venv: its own words are above\n")


@pytest.mark.parametrize(("mode", "status"), [(["auto"], 0), ([], 1)])
def test_set_up_of_r_says_what_is_missing(checkout, pythons, mode, status):
    shutil.copy(ROOT / "scripts/setup-r.sh", checkout / "scripts")
    result = subprocess.run(
        ["/bin/sh", str(checkout / "scripts/setup-r.sh"), *mode],
        env={"PATH": str(pythons)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == status
    assert result.stderr.startswith("setup-r: R with reticulate and testthat is not here")
    assert result.stderr.count("\n") == 1
