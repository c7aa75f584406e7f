"""The suite's own promises: what conftest.py refuses, stops, counts and names, seen to happen."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import PEERS

HERE = Path(__file__).parent
ROOT = HERE.parent

#: Test files that skip, one way each; "expected" fails and says so beforehand.
SKIPS = {
    "call": "def test(): pytest.skip('no moon')",
    "mark": "@pytest.mark.skip(reason='no moon')\ndef test(): pass",
    "fixture": "@pytest.fixture\ndef f(): pytest.skip('no moon')\ndef test(f): pass",
    "module": "pytest.skip('no moon', allow_module_level=True)",
    "expected": "@pytest.mark.xfail(reason='no moon')\ndef test(): assert 0",
}

#: Test files that must fail anywhere.
FAILURES = {
    "hang": "import time\n@pytest.mark.seconds(0.2)\ndef test(): time.sleep(60)",
    "marker": "@pytest.mark.unheard_of\ndef test(): pass",
    "overflow": "import numpy as np\ndef test(): np.float32(1e38) * np.float32(1e38)",
    "warning": "import warnings\ndef test(): warnings.warn('look')",
    "surprise": "@pytest.mark.xfail(reason='no moon')\ndef test(): pass",
}

#: A test that asks for a library to compare with.
PEER = "def test(peer): peer('torch')"

#: Two tests, of which one is slow.
SLOW = "@pytest.mark.slow\ndef test_slow(): assert 0\ndef test_quick(): pass"


def without(*modules):
    """An edit of conftest.py by which these modules are not installed."""
    stands = "import importlib.util\n"
    absent = (
        "find_spec = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name: None if name in {modules} else find_spec(name)\n"
    )
    return lambda text: text.replace(stands, stands + absent, 1)


def with_seconds(**seconds):
    """An edit of conftest.py by which its limits are others."""

    def edit(text):
        for name, value in seconds.items():
            text, found = re.subn(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
            assert found == 1
        return text

    return edit


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Run a suite of test files, with our conftest; returns (exit code, lines of output)."""

    def outcome(files, *arguments, ci, allowed="", edit=str):
        root = tmp_path_factory.mktemp("suite")
        (root / "tests").mkdir()
        shutil.copy(ROOT / "pyproject.toml", root)
        (root / "tests/conftest.py").write_text(edit((HERE / "conftest.py").read_text("utf-8")))
        (root / "tests/allowed_skips.txt").write_text(allowed)
        for name, source in files.items():
            (root / f"tests/test_{name}.py").write_text(f"import pytest\n{source}\n")
        result = subprocess.run(
            [sys.executable, "-m", "pytest", "--continue-on-collection-errors", *arguments],
            cwd=root,
            env={**os.environ, "CI": "true" if ci else ""},
            capture_output=True,
            text=True,
        )
        assert result.stderr == ""
        return result.returncode, result.stdout.splitlines()

    return outcome


def parts(lines):
    """{test file: its counts} as the end of the run gives them."""
    return dict(
        line.split(maxsplit=1) for line in lines if line.startswith("tests/test_") and "  " in line
    )


def test_under_ci_every_skip_fails_and_says_why(outcome):
    code, lines = outcome(SKIPS, ci=True)
    assert code == 1
    why = "skipped where CI=true, for a reason not in allowed_skips.txt: no moon"
    assert lines.count(why) == len(SKIPS)
    assert parts(lines) == {
        "tests/test_call.py": "1 failed",
        "tests/test_expected.py": "1 failed",
        "tests/test_fixture.py": "1 error",  # this one and the next two never came to the test
        "tests/test_mark.py": "1 error",
        "tests/test_module.py": "1 error",
    }


@pytest.mark.slow
def test_under_ci_a_listed_skip_passes(outcome):
    code, lines = outcome(
        {**SKIPS, "other": "def test(): pass"}, ci=True, allowed="# why\n\nno (moon|sun)\n"
    )
    assert code == 0, "\n".join(lines)
    assert "6 parts: 1 passed, 4 skipped, 1 xfailed" in lines


@pytest.mark.slow
def test_a_reason_is_matched_whole(outcome):
    code, lines = outcome({"call": SKIPS["call"]}, ci=True, allowed="no moo\n")
    assert code == 1, "\n".join(lines)


def test_elsewhere_skips_are_counted(outcome):
    code, lines = outcome({**SKIPS, "other": "def test(): pass"}, ci=False)
    assert code == 0, "\n".join(lines)
    assert parts(lines) == {
        "tests/test_call.py": "1 skipped",
        "tests/test_expected.py": "1 xfailed",
        "tests/test_fixture.py": "1 skipped",
        "tests/test_mark.py": "1 skipped",
        "tests/test_module.py": "1 skipped",
        "tests/test_other.py": "1 passed",
    }


def test_an_absent_peer_skips_and_is_named_in_the_last_lines(outcome):
    code, lines = outcome({"peer": PEER}, ci=False, edit=without("torch", "jax"))
    assert code == 0, "\n".join(lines)
    assert any("torch is not installed" in line for line in lines)
    (left,) = (line for line in lines[-3:] if line.startswith("left out: "))
    here = [peer for peer in PEERS if importlib.util.find_spec(peer)]  # maybe none
    absent = [peer for peer in PEERS if peer in ("torch", "jax") or peer not in here]
    assert f"comparisons with {', '.join(absent)} (not installed)" in left
    assert any(line.startswith("`make test ALL=1` runs everything") for line in lines[-2:])


@pytest.mark.slow
def test_under_ci_an_absent_peer_fails(outcome):
    code, lines = outcome({"peer": PEER}, ci=True, edit=without("torch"))
    assert code == 1
    assert any(line.endswith("allowed_skips.txt: torch is not installed") for line in lines)


PROCESSES = pytest.mark.parametrize(
    "processes",
    [[], pytest.param(["-n", "2"], marks=pytest.mark.slow)],
    ids=["one process", "two"],
)


@PROCESSES
def test_slow_tests_that_are_left_out_are_counted_in_the_last_lines(outcome, processes):
    files = {"one": SLOW, "two": SLOW}
    code, lines = outcome(files, "-m", "not slow", *processes, ci=False)
    assert code == 0, "\n".join(lines)
    assert parts(lines) == {"tests/test_one.py": "1 passed", "tests/test_two.py": "1 passed"}
    (left,) = (line for line in lines[-3:] if line.startswith("left out: "))
    assert left.startswith("left out: slow tests (2)")


@pytest.mark.slow
def test_an_absent_compiler_for_cuda_is_named_in_the_last_lines(outcome):
    compiles = (
        "from conftest import NEEDS_CUDA_COMPILER\n@NEEDS_CUDA_COMPILER\ndef test(): assert 0"
    )
    code, lines = outcome({"cuda": compiles}, ci=False, edit=without("numba_cuda"))
    assert code == 0, "\n".join(lines)
    assert any("CUDA code (its compiler is not installed)" in line for line in lines[-3:])
    code, lines = outcome({"cuda": compiles}, ci=True, edit=without("numba_cuda"))
    assert code == 1
    why = "skipped where CI=true, for a reason not in allowed_skips.txt: "
    assert f"{why}CUDA's compiler is not installed" in lines


@pytest.mark.slow
def test_where_nothing_is_left_out_the_last_line_says_so(outcome):
    everything = "cuda_compiler_is_there = lambda: True\nabsent_peers = why_no_r = lambda: []\n"
    code, lines = outcome({"one": SLOW}, "-k", "quick", ci=False, edit=lambda t: t + everything)
    assert code == 0, "\n".join(lines)
    assert lines[-1].startswith("left out: slow tests (1)") or "ALL=1" in lines[-1]
    code, lines = outcome({"one": PEER}, ci=False, edit=lambda t: t + everything)
    assert lines[-1] == "nothing of what was asked for was left out"


def test_hanging_warning_and_misnamed_tests_fail(outcome):
    code, lines = outcome(FAILURES, ci=False)
    assert code == 1
    assert any(re.search(r"test_hang.py::test ran longer than \d", line) for line in lines)
    assert parts(lines) == {
        f"tests/test_{name}.py": "1 error" if name == "marker" else "1 failed" for name in FAILURES
    }


@pytest.mark.slow
def test_limits_grow_with_the_slowness_of_the_machine(outcome):
    """Where importing NumPy takes a thousand times as long as it should, so may a test."""
    waits = "import time\n@pytest.mark.seconds(0.01)\ndef test(): time.sleep(0.5)"
    for usual, failed in ((1e-4, 0), (1e4, 1)):
        code, lines = outcome({"waits": waits}, ci=False, edit=with_seconds(SECONDS_IMPORT=usual))
        assert code == failed, "\n".join(lines)


@PROCESSES
def test_a_silent_test_is_named_while_it_is_at_work(outcome, processes):
    waits = "import time\ndef test(): time.sleep(2)"
    edit = with_seconds(SECONDS_SILENT=0.3)
    code, lines = outcome({"waits": waits}, *processes, ci=False, edit=edit)
    assert code == 0, "\n".join(lines)
    said = [line for line in lines if re.fullmatch(r"\(\d+ s; .*\)", line)]
    assert any("tests/test_waits.py::test for 1 s" in line for line in said), "\n".join(lines)


# --- what make asks of it ------------------------------------------------------------------------


def asked_of_pytest(*variables, **environment):
    """(extras, arguments of pytest) of `make test`: what it would run, and does not."""
    shown = subprocess.run(
        ["make", "--dry-run", "test", *variables],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (setup,) = re.findall(r"scripts/setup\.sh (.*)", shown)
    (pytest_,) = re.findall(r"-m pytest (.*)", shown)
    return setup.split(), pytest_


def test_make_runs_the_fast_part_unless_everything_is_asked_for():
    extras, arguments = asked_of_pytest()
    assert extras == ["test"]
    assert '-m "not slow"' in arguments
    for everything in (["ALL=1"], ["CI=true"]):
        extras, arguments = asked_of_pytest(*everything)
        assert extras == ["test", "test-cuda", "peers"]
        assert "slow" not in arguments
    assert asked_of_pytest(CI="true") == asked_of_pytest("ALL=1")
    assert asked_of_pytest("ALL=0") == asked_of_pytest("CI=1") == asked_of_pytest()
    extras, arguments = asked_of_pytest("PEERS=1", "ARGS=-k layout")
    assert extras == ["test", "peers"]
    assert arguments.split()[-2:] == ["-k", "layout"]
    assert '-m "not slow"' in arguments
