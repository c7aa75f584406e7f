"""What every test runs under: no silent skip, no endless test, signs of life, a count of each part.

And what tests have in common: each engine in turn, and one table each of the kinds of scores, of
shapes, of layouts in memory and of tolerances.

Under CI=true a skip (an expected failure too) is a failure unless its reason stands in
``allowed_skips.txt``. Elsewhere a peer that is absent skips what compares with it; so do CUDA's
compiler and R. The last lines of the run say what was left out, and how to get it.

`make test` runs this on two processes (pytest-xdist). What is counted or said is counted and said
in the one that has the terminal; the others, the workers, run the tests.
"""

import functools
import importlib.metadata
import importlib.util
import inspect
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import numpy as np
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
    "torchmetrics": ["torchmetrics"],
    "optax": ["optax"],
    "xgboost": ["xgboost", "xgboost-cpu"],
    "lightgbm": ["lightgbm"],
    "transformers": ["transformers"],
}

#: Seconds that one test may take on a machine that imports NumPy in `SECONDS_IMPORT`: room for a
#: cold TensorFlow, and for other work beside it. A slower machine, measured as the run begins, has
#: more. The ini's last guard, which knows no machine, comes after the longest of them.
SECONDS = 300
SECONDS_SLOW = 600
SECONDS_LONGEST = 1700
SECONDS_IMPORT = 0.2

#: After so many seconds without a test that ends, those at work are named.
SECONDS_SILENT = 15.0

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


# --- what tests have in common -------------------------------------------------------------------

ENGINES = ("compiled", "numpy")


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each engine in turn serves the calls of the test; its name."""
    import inside

    inside.serve_by(request.param, monkeypatch.setattr)
    return request.param


def environment() -> dict[str, str]:
    """The environment of a process of its own that may import what tests import."""
    path = os.pathsep.join([str(ROOT / "tests"), *sys.path])
    return {**os.environ, "PYTHONPATH": path}


#: Every kind of scores, as options of a loss.
KINDS: dict[str, dict[str, Any]] = {
    "logits": {"from_logits": True},
    "after": {"normalize": "after"},
    "before": {"normalize": "before"},
    "never": {"normalize": "never"},
}
REDUCTIONS = ("sum_over_batch_size", "sum", "mean_with_sample_weight", None)

#: What a loss may be off by, relative to itself, by the dtype of the arithmetic.
TOLERANCES = {"float32": 1e-5, "float64": 1e-12}

#: Shapes and class axes, one for each way in which kernels go through memory.
SHAPES: dict[str, tuple[tuple[int, ...], int]] = {
    "few classes": ((200, 10), -1),
    "some classes": ((60, 50), -1),
    "hundreds of classes": ((20, 600), -1),
    "many classes": ((8, 2100), -1),
    "thousands of classes": ((8, 4200), -1),
    "classes first": ((10, 200), 0),
    "channels first": ((5, 21, 3, 9), 1),
    "classes in the middle": ((6, 5, 4, 3), 2),
    "two rows": ((2, 3), -1),
}


def _strided(x: Any) -> Any:
    room = np.full([2 * n + 1 for n in x.shape], 77, x.dtype)
    view = room[tuple(slice(1, None, 2) for _ in x.shape)]
    view[...] = x
    return view


def _turned(x: Any) -> Any:
    return np.moveaxis(np.moveaxis(x, 0, -1).copy(), -1, 0)


def _read_only(x: Any) -> Any:
    view = x.copy()
    view.flags.writeable = False
    return view


def _misaligned(x: Any) -> Any:
    room = np.empty(x.nbytes + 1, "uint8")
    view = room[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


#: The same numbers, lying otherwise: functions of an array. The STRIDES keep its dtype, are aligned
#: and can be written to.
STRIDES: dict[str, Callable[[Any], Any]] = {
    "C order": lambda x: x.copy("C"),
    "Fortran order": lambda x: x.copy("F"),
    "strided": _strided,
    "turned": _turned,
    "rows reversed": lambda x: x[::-1].copy()[::-1],
    "classes reversed": lambda x: x[..., ::-1].copy()[..., ::-1],
    "all axes reversed": lambda x: np.flip(np.flip(x).copy()),
}
LAYOUTS: dict[str, Callable[[Any], Any]] = {
    **STRIDES,
    "read-only": _read_only,
    "misaligned": _misaligned,
    "a field of a record": lambda x: np.rec.fromarrays([x, x], names="a,b")["b"],
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "little-endian": lambda x: x.astype(x.dtype.newbyteorder("<")),
    "big-endian and Fortran order": lambda x: x.astype(x.dtype.newbyteorder(">"), order="F"),
    "long double": lambda x: x.astype(np.longdouble),
    "long double, strided": lambda x: np.repeat(x.astype(np.longdouble), 2, 0)[::2],
    "a subclass of ndarray": lambda x: x.view(type("Sub", (np.ndarray,), {})),
    "nested lists": lambda x: x.tolist(),
}


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


def cuda_compiler_is_there() -> bool:
    """Whether the extra `test-cuda` is installed."""
    return all(map(importlib.util.find_spec, ("numba_cuda", "cuda", "ml_dtypes")))


#: Beside `slow`, for a test that compiles kernels for CUDA.
NEEDS_CUDA_COMPILER = pytest.mark.skipif(
    not cuda_compiler_is_there(), reason="CUDA's compiler is not installed"
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what `slow_when` says of its parameters; pytest's -m chooses after that."""
    for item in items:
        for condition in item.iter_markers("slow_when"):
            named = inspect.signature(condition.args[0]).parameters
            if condition.args[0](**{name: item.callspec.params[name] for name in named}):
                item.add_marker(pytest.mark.slow)


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


@functools.cache
def pace() -> float:
    """How many times longer than usual a new process takes here and now; never below 1."""

    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import numpy"], check=True)
        return time.perf_counter() - start

    return max(1.0, min(seconds(), seconds()) / SECONDS_IMPORT)


def seconds_of(item: pytest.Item) -> float:
    """How long a test may take on this machine."""
    if marker := item.get_closest_marker("seconds"):
        usual = marker.args[0]
    else:
        usual = SECONDS_SLOW if item.get_closest_marker("slow") else SECONDS
    return min(pace() * usual, SECONDS_LONGEST)


@contextmanager
def _time_limit(item: pytest.Item) -> Generator[None, None, None]:
    """Raise TimeoutError in the test after its time; loops outside Python meet the ini's guard."""
    seconds = seconds_of(item)

    def stop(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"{item.nodeid} ran longer than {seconds:.2g} s")

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


# --- signs of life -------------------------------------------------------------------------------


class Pulse:
    """Names the tests at work, on the terminal, where none has ended for some seconds.

    A thread of the process that has the terminal, so that it speaks while a test waits for a
    compiler, a process or a library's import. It writes past pytest's capture.
    """

    def __init__(self, terminal: int) -> None:
        self._terminal = os.dup(terminal)
        self._at_work: dict[str, float] = {}  # test -> when it began
        self._began = self._spoke = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pulse", daemon=True)
        self._thread.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._at_work[nodeid] = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._at_work.pop(nodeid, None)
        self._spoke = time.monotonic()

    def pytest_unconfigure(self) -> None:
        self._over.set()
        self._thread.join()
        os.close(self._terminal)

    def _watch(self) -> None:
        while not self._over.wait(SECONDS_SILENT / 10):
            now = time.monotonic()
            if now - self._spoke >= SECONDS_SILENT:
                self._spoke = now
                tests = [f"{test} for {now - start:.0f} s" for test, start in self._tests()]
                said = ", ".join(tests) or "finding the tests"
                with suppress(OSError):  # nobody reads on
                    os.write(self._terminal, f"\n({now - self._began:.0f} s; {said})\n".encode())

    def _tests(self) -> list[tuple[str, float]]:
        return list(self._at_work.copy().items())


def pytest_configure(config: pytest.Config) -> None:
    """Watch over the run from the process that has the terminal."""
    if hasattr(config, "workerinput"):
        return
    config.pluginmanager.register(LeftOut(), "left_out")
    try:
        terminal = sys.stdout.fileno()
    except (OSError, ValueError):  # no file behind it
        return
    config.pluginmanager.register(Pulse(terminal), "pulse")


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

    used = [f"{name} {_version(PEERS[name])}" for name in PEERS if name not in absent_peers()]
    terminalreporter.line(f"peers used: {', '.join(used) or 'none'}")


def absent_peers() -> list[str]:
    """The libraries to compare with that are not installed."""
    return [name for name in PEERS if importlib.util.find_spec(name) is None]


# --- what was left out ---------------------------------------------------------------------------


class LeftOut:
    """The last lines of the run: what it left out, and the command that brings it."""

    def __init__(self) -> None:
        self._slow = 0

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self._slow += count_slow(items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker of pytest-xdist goes: what it left out, each of them has left out."""
        self._slow = max(self._slow, getattr(node, "workeroutput", {}).get("slow", 0))

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # after pytest's last line of all
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, object, object]:
        result = yield
        terminal = session.config.pluginmanager.get_plugin("terminalreporter")
        if terminal is None or session.config.option.collectonly:
            return result
        terminal.ensure_newline()
        for line in self.lines():
            terminal.line(line)
        return result

    def lines(self) -> list[str]:
        """One line for each thing, and then the way to it."""
        r = why_no_r()
        left = [
            f"slow tests ({self._slow})" if self._slow else "",
            "" if cuda_compiler_is_there() else "CUDA code (its compiler is not installed)",
            f"comparisons with {', '.join(absent_peers())} (not installed)" * bool(absent_peers()),
            f"calls from R ({r})" if r else "",
        ]
        left = [what for what in left if what]
        if not left:
            return ["nothing of what was asked for was left out"]
        way = ["`make test ALL=1` runs everything (it downloads gigabytes, and takes half an hour)"]
        if r:
            way.append(
                "`make setup-r` installs R (Debian, Ubuntu; as root, or where sudo asks for no "
                "password)"
            )
        return [f"left out: {'; '.join(left)}", *way]


def count_slow(items: list[pytest.Item]) -> int:
    return sum(item.get_closest_marker("slow") is not None for item in items)


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Let the process that has the terminal know how many slow tests this worker leaves out."""
    output = getattr(items[0].config, "workeroutput", None) if items else None
    if output is not None:
        output["slow"] = output.get("slow", 0) + count_slow(items)
