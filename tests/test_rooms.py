"""Who may import whom: inside the package imports go down only, and each library has its rooms.

Read from the source with `ast`: an import inside a function or under TYPE_CHECKING counts as much
as one at the top. Each kind of violation is planted in a copy of the package, and caught.
"""

import ast
import shutil
import sys
from functools import cache
from pathlib import Path

import pytest

import sparse_xent

PACKAGE = Path(sparse_xent.__file__).parent
NO_CACHES = shutil.ignore_patterns("__pycache__")

#: The house from the roof down. A room (a module, or a folder with all that is in it) may import
#: itself and what stands on a lower floor; "" is the public face, `sparse_xent` itself.
FLOORS = [
    ["__main__", "r"],
    ["warm"],
    ["demo"],
    ["evaluate"],
    [""],
    ["loss", "metrics"],
    ["soft", "plain", "cuda"],
    ["carried"],
    ["sweep"],
    ["config", "implausible", "labels", "reduction"],
    ["layout", "options"],
    ["arrays"],
    ["kernels"],
]
FLOOR = {room: -depth for depth, rooms in enumerate(FLOORS) for room in rooms}

#: What stands on the public face uses the public names, and behind them only what is named here.
BEHIND_THE_FACE = {
    "__main__": [],
    "demo": [],
    "evaluate": ["carried", "config", "implausible", "options", "sweep"],
}

#: Libraries that only some rooms may name. NumPy is at home everywhere.
LIBRARIES = {
    "numpy": list(FLOOR),
    "scipy": ["demo", "evaluate"],
    "numba": ["kernels"],
    "llvmlite": ["kernels"],
    "platformdirs": ["kernels"],
    "cuda": ["kernels"],
    "ml_dtypes": ["arrays", "options"],
    "matplotlib": ["evaluate"],
    "cupy": ["arrays"],
    "dask": ["arrays"],
    "jax": ["arrays"],
    "tensorflow": ["arrays"],
    "torch": ["arrays"],
}


@cache  # the same files are read again for every violation planted beside them
def imports(source):
    """(line, dots, dotted name) of every import in the source; `from a import b` gives a.b."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, 0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = f"{node.module}." if node.module else ""
            found += [(node.lineno, node.level, start + alias.name) for alias in node.names]
    return found


def imported(path, package):
    """(line, absolute dotted name) of every import in the file."""
    here = path.relative_to(package.parent).with_suffix("").parts
    for line, dots, name in imports(path.read_text("utf-8")):
        # One dot is the file's own package, for an __init__.py too.
        yield line, ".".join([*here[: len(here) - dots], name]) if dots else name


def violations(package):
    """One sentence for each import in the folder `package` that breaks the order of the house."""
    found = []
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        room = inside.parts[0].removesuffix(".py").replace("__init__", "")
        if room not in FLOOR:
            found.append(f"{inside}: {room} is a room on no floor")
            continue
        for line, name in imported(path, package):
            top, *rest = name.split(".")
            if top == "sparse_xent":
                there = rest[0] if rest and rest[0] in FLOOR else ""
                if rest and not there and (package / rest[0]).with_suffix(".py").exists():
                    continue  # a room on no floor: said once, above
                behind = room in BEHIND_THE_FACE and FLOOR[there] < FLOOR[""]
                if there != room and FLOOR[there] >= FLOOR[room]:
                    found.append(f"{inside}:{line}: {room or 'the face'} looks up to {name}")
                elif behind and there not in BEHIND_THE_FACE[room]:
                    found.append(f"{inside}:{line}: {room} goes behind the face for {name}")
            elif top in LIBRARIES:
                if room not in LIBRARIES[top]:
                    found.append(f"{inside}:{line}: {room or 'the face'} names {top}")
            elif top not in sys.stdlib_module_names:
                found.append(f"{inside}:{line}: {top} is a library of no room")
    return found


def test_imports_go_down_only():
    assert violations(PACKAGE) == []


def test_no_star_imports():
    stars = [
        f"{path}:{line}"
        for path in PACKAGE.rglob("*.py")
        for line, name in imported(path, PACKAGE)
        if name.endswith(".*")
    ]
    assert stars == []


@pytest.mark.parametrize(
    ("file", "code", "complaint"),
    [
        (
            "layout.py",
            "from sparse_xent.labels import x",
            "layout looks up to sparse_xent.labels.x",
        ),
        ("layout.py", "from sparse_xent import loss", "layout looks up to sparse_xent.loss"),
        ("layout.py", "import sparse_xent", "layout looks up to sparse_xent"),
        ("layout.py", "import sparse_xent.sweep as s", "layout looks up to sparse_xent.sweep"),
        ("layout.py", "from .labels import x", "layout looks up to sparse_xent.labels.x"),
        ("layout.py", "from . import op_array", "layout looks up to sparse_xent.op_array"),
        ("layout.py", "from .options import x", "layout looks up to sparse_xent.options.x"),
        (
            "kernels/portable.py",
            "from ..layout import x",
            "kernels looks up to sparse_xent.layout.x",
        ),
        ("kernels/__init__.py", "from .. import arrays", "kernels looks up to sparse_xent.arrays"),
        ("__init__.py", "from .evaluate import x", "the face looks up to sparse_xent.evaluate.x"),
        (
            "loss.py",
            "def f():\n    from .metrics import x",
            "loss looks up to sparse_xent.metrics.x",
        ),
        ("loss.py", "if 0:\n    import torch", "loss names torch"),
        ("labels.py", "import numba.cuda", "labels names numba"),
        ("loss.py", "import requests.sessions", "requests is a library of no room"),
        (
            "demo/__init__.py",
            "from ..labels import x",
            "demo goes behind the face for sparse_xent.labels.x",
        ),
        ("attic.py", "", "attic is a room on no floor"),
    ],
)
def test_a_planted_violation_is_caught(tmp_path, file, code, complaint):
    copy = shutil.copytree(PACKAGE, tmp_path / "sparse_xent", ignore=NO_CACHES)
    before = violations(copy)
    with (copy / file).open("a") as out:
        out.write(f"\n{code}\n")
    after = violations(copy)
    assert len(after) == len(before) + 1
    (new,) = set(after) - set(before)
    assert new.endswith(f": {complaint}")


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("kernels/loader.py", "from . import ScoreKind"),
        ("loss.py", "from .kernels.portable import nll"),
        ("loss.py", "from . import sweep"),
        ("evaluation/__init__.py", "from sparse_xent import SparseCategoricalCrossentropy"),
        ("evaluation/__init__.py", "from ..sweep import ranks"),
        ("labels.py", "import os.path, numpy.typing"),
    ],
)
def test_what_goes_down_is_allowed(tmp_path, file, code):
    copy = shutil.copytree(PACKAGE, tmp_path / "sparse_xent", ignore=NO_CACHES)
    before = violations(copy)
    with (copy / file).open("a") as out:
        out.write(f"\n{code}\n")
    assert violations(copy) == before
