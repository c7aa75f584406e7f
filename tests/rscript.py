"""R, where it is found: `run(code)` runs R code in one Rscript whose Python imports this checkout.

The Python is RETICULATE_PYTHON's, else that of .venv-r, else the one that runs the tests: whichever
R's reticulate takes first.
"""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: Nothing of the user's start-up files, and no picture left where the test runs.
OPTIONS = ["--no-init-file", "--no-site-file", "--no-save"]


def run(code, *arguments, need=("reticulate",)):
    """Run R code; returns what it printed. Skips where R, or a package of `need`, is absent.

    Without "reticulate" among what is needed, no Python is looked for.
    """
    python, lacking = _found(tuple(need))
    if lacking:
        pytest.skip(lacking)
    done = _rscript(python, code, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@functools.cache
def _found(need):
    """The Python that R's reticulate takes, and what is lacking, "" for nothing: asked once."""
    if shutil.which("Rscript") is None:
        return "", "R is not found"
    packages = ", ".join(f'"{package}"' for package in need)
    absent = f"for (p in c({packages})) if (!requireNamespace(p, quietly = TRUE)) stop(p)"
    if _rscript("", absent).returncode:
        return "", f"R has not all of {', '.join(need)}"
    if "reticulate" not in need:
        return "", ""
    asked = os.environ.get("RETICULATE_PYTHON")
    pythons = [asked] if asked else [str(ROOT / ".venv-r/bin/python"), sys.executable]
    # An array there and back: Python starts with a NumPy that reticulate cannot read, too.
    works = 'invisible(reticulate::import("sparse_xent")$op_array(diag(2)))'
    for python in pythons:
        if _rscript(python, works).returncode == 0:
            return python, ""
    return "", "R's reticulate takes no Python here"


def _rscript(python, code, *arguments):
    return subprocess.run(
        ["Rscript", *OPTIONS, "-e", code, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "RETICULATE_PYTHON": python, "PYTHONPATH": str(ROOT), "LANGUAGE": "en"},
        capture_output=True,
        text=True,
    )
