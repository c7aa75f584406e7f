"""The suite's own promises: what conftest.py refuses, stops, counts and names, seen to happen."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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

ABSENT = """
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "torch" else find_spec(name)
def test(peer): peer("torch")
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Run a suite of test files, with our conftest; returns (exit code, lines of output)."""

    def outcome(files, *, ci, allowed=""):
        root = tmp_path_factory.mktemp("suite")
        (root / "tests").mkdir()
        shutil.copy(ROOT / "pyproject.toml", root)
        shutil.copy(HERE / "conftest.py", root / "tests")
        (root / "tests/allowed_skips.txt").write_text(allowed)
        for name, source in files.items():
            (root / f"tests/test_{name}.py").write_text(f"import pytest\n{source}\n")
        result = subprocess.run(
            [sys.executable, "-m", "pytest", "--continue-on-collection-errors"],
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


def test_under_ci_a_listed_skip_passes(outcome):
    code, lines = outcome(
        {**SKIPS, "other": "def test(): pass"}, ci=True, allowed="# why\n\nno (moon|sun)\n"
    )
    assert code == 0, "\n".join(lines)
    assert "6 parts: 1 passed, 4 skipped, 1 xfailed" in lines


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
    code, lines = outcome({"absent": ABSENT}, ci=False)
    assert code == 0, "\n".join(lines)
    assert any("torch is not installed" in line for line in lines)
    assert lines[-2].startswith("peers absent: ")
    assert "torch" in lines[-2]


def test_under_ci_an_absent_peer_fails(outcome):
    code, lines = outcome({"absent": ABSENT}, ci=True)
    assert code == 1
    assert any(line.endswith("allowed_skips.txt: torch is not installed") for line in lines)


def test_hanging_warning_and_misnamed_tests_fail(outcome):
    code, lines = outcome(FAILURES, ci=False)
    assert code == 1
    assert any("test_hang.py::test ran longer than 0.2 s" in line for line in lines)
    assert parts(lines) == {
        f"tests/test_{name}.py": "1 error" if name == "marker" else "1 failed" for name in FAILURES
    }
