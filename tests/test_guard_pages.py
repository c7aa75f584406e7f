"""No kernel reads or writes one byte outside the elements of the scores, labels, weights, gradient.

`guarded.py` says how that is seen. The fast part uses kernels that other tests compile, too; the
slow one every format and kind, and the code for processors without AVX-512 and without AVX.
"""

import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

import processors
import pytest
from conftest import environment

PROGRAM = Path(__file__).with_name("guarded.py")

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no mprotect")


def walk(calls, seed, kernels, **environment):
    """Run so many random calls in a process of their own."""
    done = subprocess.run(
        [sys.executable, PROGRAM, str(calls), str(seed), kernels],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    last = "".join(done.stdout.splitlines()[-1:])
    assert (done.returncode, last) == (0, "done"), f"ended in call {last}\n{done.stderr}"


@pytest.mark.seconds(600)  # where the kernels are still to be compiled
def test_no_byte_outside_the_operands_is_touched():
    walk(3000, 1, "few")


@pytest.mark.slow
@pytest.mark.seconds(3600)
def test_no_byte_outside_is_touched_by_any_kernel():
    walk(12_000, 2, "all")


@pytest.mark.slow
@pytest.mark.seconds(3600)
@pytest.mark.parametrize("processor", processors.PROCESSORS)
def test_no_byte_outside_is_touched_on_older_processors(processor):
    if why := processors.missing(processor):
        pytest.skip(why)
    walk(6_000, 3, "few", **processors.environment(processor))


TOUCH = """
import ctypes, sys
import guarded
memory = guarded.Memory()
end = ctypes.addressof(memory.stretch) + guarded.PAGE + guarded.BYTES
island = ctypes.addressof(memory.islands) + guarded.PAGE
whole = len(ctypes.string_at(end - 16, 16)), len(ctypes.string_at(island, guarded.PAGE))
print(*whole, flush=True)
ctypes.string_at(*{"behind": (end - 16, 17), "before": (island - 1, 1)}[sys.argv[1]])
"""


@pytest.mark.parametrize("side", ["behind", "before"])
def test_the_byte_beside_an_operand_cannot_be_read(side):
    done = subprocess.run(
        [sys.executable, "-c", TOUCH, side],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, f"16 {mmap.PAGESIZE}\n"), done.stderr
