"""Runs the Python blocks of a vignette that trains models, for two steps an epoch, and checks them.

    KERAS_BACKEND=torch python tests/trained_pages.py NAME

The blocks are those of the page as it is shown, but for its line `steps = None`; figures go to
figures/ in the current folder. Each page has a function in CHECKS, which is given all that the
blocks defined.
"""

import re
import sys
from pathlib import Path

import matplotlib

VIGNETTES = Path(__file__).parent.parent / "vignettes"


def run(name):
    """All that the Python blocks of a page define."""
    text = (VIGNETTES / f"{name}.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert "\nsteps = None" in "\n".join(blocks)
    names = {}
    for block in blocks:
        code = re.sub(r"^steps = None\b", "steps = 2", block, flags=re.MULTILINE)
        exec(compile(code, f"{name}.md", "exec"), names)
    return names


CHECKS = {}


if __name__ == "__main__":
    matplotlib.use("agg")
    Path("figures").mkdir(exist_ok=True)
    CHECKS[sys.argv[1]](run(sys.argv[1]))
