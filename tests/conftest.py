"""What every test runs under: no silent skip, no endless test, peers by name, a count of each part.

Under CI=true a skip (an expected failure too) is a failure unless its reason stands in
``allowed_skips.txt``. Elsewhere a peer that is absent skips what compares with it, and without R
what calls from R is skipped; the last lines of the run name them.
"""

import functools
import importlib.metadata
import importlib.util
import os
import re
import shutil
import signal
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parent.parent
CI = os.environ.get("CI") == "true"

#: What the results are compared with: module -> the distributions that may bring it.
PEERS = {
    "keras": ["keras"],
    "tensorflow": ["tensorflow", "tensorflow-cpu"],
    "torch": ["torch"],
    "jax": ["jax"],
}

#: Seconds that one test may take: room for a cold TensorFlow on a busy machine.
SECONDS = 180
SECONDS_SLOW = 600

ALLOWED = [
    re.compile(line)
    for line in (Path(__file__).parent / "allowed_skips.txt").read_text("utf-8").splitlines()
    if line and not line.startswith("#")
]

# Shared machines stall: a deadline would measure them. "ci" repeats itself, run after run; "here"
# seeks new cases; HYPOTHESIS_PROFILE=deep seeks long.
settings.register_profile("here", max_examples=100, deadline=None)
settings.register_profile(
    "ci",
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("deep", max_examples=5000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if CI else "here"))


def require_peer(name: str) -> ModuleType:
    """Import a library that results are compared with, or skip: "torch is not installed"."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, while it is imported, are not ours to mend
        return importlib.import_module(name)


@pytest.fixture(scope="session")
def peer() -> Callable[[str], ModuleType]:
    """`peer("torch")` is the module, or skips the test."""
    return require_peer


def r_python() -> Path:
    """The Python that R is to call: scripts/setup-r.sh makes it, unless one is named."""
    return Path(os.environ.get("RETICULATE_PYTHON") or ROOT / ".venv-r/bin/python")


@functools.cache
def why_no_r() -> str | None:
    """Why nothing can be called from R, in a sentence; None where R and its Python are there."""
    if shutil.which("Rscript") is None:
        return "R is not installed"
    if not r_python().exists():
        return "R has no Python to call: .venv-r is not there"
    if not os.environ.get("RETICULATE_PYTHON") and not (ROOT / ".venv-r/.ready").exists():
        return "R could not call the Python that it has: .venv-r is not ready"
    return None


# --- no silent skip ------------------------------------------------------------------------------


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Under CI, turn a skip that is not allowed into a failure that says so."""
    if not (CI and report.skipped):
        return
    expected = getattr(report, "wasxfail", None)
    reason = report.longrepr[2].removeprefix("Skipped: ") if expected is None else expected
    if any(pattern.fullmatch(reason) for pattern in ALLOWED):
        return
    if expected is not None:
        del report.wasxfail  # or pytest would go on to count it as expected
    report.outcome = "failed"
    report.longrepr = f"skipped where CI=true, for a reason not in allowed_skips.txt: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


# --- no endless test -----------------------------------------------------------------------------


@contextmanager
def _time_limit(item: pytest.Item) -> Generator[None, None, None]:
    """Raise TimeoutError in the test after its time; loops outside Python meet the ini's guard."""
    if marker := item.get_closest_marker("seconds"):
        seconds = marker.args[0]
    else:
        seconds = SECONDS_SLOW if item.get_closest_marker("slow") else SECONDS

    def stop(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"{item.nodeid} ran longer than {seconds} s")

    if not hasattr(signal, "SIGALRM"):  # Windows
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    with _time_limit(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    with _time_limit(item):
        return (yield)


# --- the count of each part ----------------------------------------------------------------------


def _version(distributions: list[str]) -> str:
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "?"


@pytest.hookimpl(wrapper=True, tryfirst=True)  # after pytest's own summary: the last lines are ours
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter,
) -> Generator[None, None, None]:
    """Print what became of each test file, and which peers were there."""
    yield
    outcomes = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")
    parts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for outcome in outcomes:
        for report in terminalreporter.stats.get(outcome, []):
            parts[report.nodeid.partition("::")[0]][outcome] += 1

    def line(counts: Counter[str]) -> str:
        return ", ".join(f"{counts[outcome]} {outcome}" for outcome in outcomes if counts[outcome])

    terminalreporter.section("parts")
    width = max(map(len, parts), default=0)
    for part, counts in sorted(parts.items()):
        terminalreporter.line(f"{part:{width}}  {line(counts)}")
    total = sum(parts.values(), Counter())
    terminalreporter.line(f"{len(parts)} parts: {line(total) or 'nothing ran'}")

    there = {name: importlib.util.find_spec(name) is not None for name in PEERS}
    used = [f"{name} {_version(PEERS[name])}" for name in PEERS if there[name]]
    absent = [name for name in PEERS if not there[name]]
    terminalreporter.line(f"peers used: {', '.join(used) or 'none'}")
    if absent:
        terminalreporter.line(
            f"peers absent: {', '.join(absent)} (what compares with them was skipped; "
            "`make test PEERS=1` installs them)"
        )


@pytest.hookimpl(wrapper=True, tryfirst=True)  # after pytest's last line of all
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """Say that R is absent, and how to get it, where tests wanted it."""
    result = yield
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    wanted = any(item.path.name == "test_r.py" for item in getattr(session, "items", []))
    if terminal is not None and wanted and (reason := why_no_r()):
        terminal.ensure_newline()
        terminal.line(
            f"{reason}, and what calls from R was skipped: `make setup-r` installs it "
            "(Debian, Ubuntu; as root, or where sudo asks for no password)"
        )
    return result
