"""Who may import whom: imports go down only, and each library is named in few places.

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

#: The package from the top down. A module, or a folder with all that is in it, may import itself
#: and what stands below; "" is the public face, `sparse_xent` itself. One module stands below its
#: folder: the CUDA driver knows of no arrays, and arrays of libraries without a name ask it.
LAYERS = [
    ["__main__", "r"],
    ["warm"],
    ["demo"],
    ["evaluation", "integrations"],
    [""],
    ["loss", "metrics", "partial"],
    ["execute"],
    ["chunked", "device", "tracing"],
    ["plan", "shards"],
    ["soft_targets"],
    ["implausible", "labels", "weights"],
    ["engines"],
    ["config"],
    ["options"],
    ["arrays"],
    ["engines.cuda_driver"],
    ["accumulate", "dtypes", "layout", "origin"],
    ["kernels"],
]
LAYER = {name: -depth for depth, names in enumerate(LAYERS) for name in names}

#: What stands on the public face uses the public names, and behind them only what is named here.
BEHIND_THE_FACE = {
    "__main__": [],
    "demo": [],
    "evaluation": [
        "accumulate", "config", "engines", "execute", "implausible", "kernels", "options",
    ],
    "integrations": [],
}  # fmt: skip

#: Libraries that only some modules and folders may name. NumPy is at home everywhere.
LIBRARIES = {
    "numpy": list(LAYER),
    "scipy": ["demo"],
    "numba": ["kernels"],
    "llvmlite": ["kernels"],
    "platformdirs": ["kernels"],
    "cuda": ["engines.cuda_driver", "kernels"],
    "ml_dtypes": ["arrays", "dtypes", "evaluation"],
    "cupy": ["arrays"],
    "dask": ["arrays"],
    "jax": ["arrays"],
    "keras": ["demo", "integrations"],
    "sklearn": ["demo"],
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


def place_of(parts):
    """The module or folder of LAYERS that a dotted name's parts lie in; "" for the public face."""
    two = ".".join(parts[:2])
    return two if two in LAYER else parts[0] if parts and parts[0] in LAYER else ""


def violations(package):
    """One sentence for each import in the folder `package` that breaks the order of the house."""
    found = []
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        place = inside.parts[0].removesuffix(".py").replace("__init__", "")
        place = place_of(inside.with_suffix("").parts) or place
        if place not in LAYER:
            found.append(f"{inside}: {place} stands in no layer")
            continue
        for line, name in imported(path, package):
            top, *rest = name.split(".")
            if top == "sparse_xent":
                there = place_of(rest)
                if rest and not there and (package / rest[0]).with_suffix(".py").exists():
                    continue  # of no layer: said once, above
                behind = place in BEHIND_THE_FACE and LAYER[there] < LAYER[""]
                if there != place and LAYER[there] >= LAYER[place]:
                    found.append(f"{inside}:{line}: {place or 'the face'} looks up to {name}")
                elif behind and there not in BEHIND_THE_FACE[place]:
                    found.append(f"{inside}:{line}: {place} goes behind the face for {name}")
            elif top in LIBRARIES:
                if place not in LIBRARIES[top]:
                    found.append(f"{inside}:{line}: {place or 'the face'} names {top}")
            elif top not in sys.stdlib_module_names:
                found.append(f"{inside}:{line}: {top} is a library of no module")
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
        ("layout.py", "import sparse_xent.plan as p", "layout looks up to sparse_xent.plan"),
        ("layout.py", "from .labels import x", "layout looks up to sparse_xent.labels.x"),
        ("layout.py", "from . import op_array", "layout looks up to sparse_xent.op_array"),
        ("layout.py", "from .options import x", "layout looks up to sparse_xent.options.x"),
        (
            "kernels/loader.py",
            "from ..layout import x",
            "kernels looks up to sparse_xent.layout.x",
        ),
        ("kernels/__init__.py", "from .. import arrays", "kernels looks up to sparse_xent.arrays"),
        (
            "__init__.py",
            "from .evaluation import x",
            "the face looks up to sparse_xent.evaluation.x",
        ),
        (
            "loss.py",
            "def f():\n    from .metrics import x",
            "loss looks up to sparse_xent.metrics.x",
        ),
        ("loss.py", "if 0:\n    import torch", "loss names torch"),
        ("labels.py", "import numba.cuda", "labels names numba"),
        ("loss.py", "import requests.sessions", "requests is a library of no module"),
        (
            "demo/__init__.py",
            "from ..labels import x",
            "demo goes behind the face for sparse_xent.labels.x",
        ),
        ("attic.py", "", "attic stands in no layer"),
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
        ("loss.py", "from .kernels.loader import address"),
        ("loss.py", "from . import execute"),
        ("evaluation/__init__.py", "from sparse_xent import SparseCategoricalCrossentropy"),
        ("evaluation/__init__.py", "from ..execute import ranks"),
        ("labels.py", "import os.path, numpy.typing"),
    ],
)
def test_what_goes_down_is_allowed(tmp_path, file, code):
    copy = shutil.copytree(PACKAGE, tmp_path / "sparse_xent", ignore=NO_CACHES)
    before = violations(copy)
    with (copy / file).open("a") as out:
        out.write(f"\n{code}\n")
    assert violations(copy) == before


# --- circles, inside folders too ------------------------------------------------------------------


def module_of(path, package):
    """The dotted name of a file's module; a package's is that of its __init__."""
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circles(package):
    """Modules that import each other, in whatever number of steps: one sorted list for each circle.

    A module is taken to import what its import statements name, wherever they stand. What is
    loaded by a string, as the compiler is by kernels/loader.py, is not seen.
    """
    files = {module_of(path, package): path for path in package.rglob("*.py")}
    reached = {}
    for module, path in files.items():
        names = {name for _, name in imported(path, package)}
        there = {name if name in files else name.rpartition(".")[0] for name in names}
        reached[module] = there & set(files) - {module}
    for through in files:  # Warshall
        for start in files:
            if through in reached[start]:
                reached[start] = reached[start] | reached[through]
    found = {
        tuple(sorted(m for m in reached[start] if start in reached[m]))
        for start in files
        if start in reached[start]
    }
    return sorted(map(list, found))


def test_no_modules_import_each_other():
    assert circles(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "code", "other"),
    [
        (
            "kernels/cpu/abi.py",
            "from sparse_xent.kernels.cpu import vectors",
            "kernels.cpu.vectors",
        ),
        ("kernels/staging.py", "def f():\n    from . import arithmetic", "kernels.arithmetic"),
        (
            "kernels/cuda/position.py",
            "import sparse_xent.kernels.cuda.epilogue",
            "kernels.cuda.epilogue",
        ),
        ("kernels/__init__.py", "from .formulas import KernelSpec", "kernels.formulas"),
    ],
)
def test_a_circle_is_seen(tmp_path, file, code, other):
    copy = shutil.copytree(PACKAGE, tmp_path / "sparse_xent", ignore=NO_CACHES)
    with (copy / file).open("a") as out:
        out.write(f"\n{code}\n")
    module = module_of(copy / file, copy)
    assert any({module, f"sparse_xent.{other}"} <= set(circle) for circle in circles(copy))


# --- functions that fit a screen ------------------------------------------------------------------

#: Lines of a function at most, its docstring not counted.
LONGEST, LONGEST_KERNEL = 60, 90


def long_functions(package):
    """file:line name and lines of each function that is longer than may be."""
    found = []
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        longest = LONGEST_KERNEL if inside.parts[0] == "kernels" else LONGEST
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0]
                told = ast.get_docstring(node) is not None
                docstring = first.end_lineno - first.lineno + 1 if told else 0
                lines = node.end_lineno - node.lineno + 1 - docstring
                if lines > longest:
                    found.append(f"{inside}:{node.lineno}: {node.name} has {lines} lines")
    return found


def test_a_function_fits_a_screen():
    assert long_functions(PACKAGE) == []


@pytest.mark.parametrize(("folder", "longest"), [("kernels", LONGEST_KERNEL), (".", LONGEST)])
def test_a_long_function_is_seen(tmp_path, folder, longest):
    (tmp_path / folder).mkdir(exist_ok=True)
    body = '    """Two\n\n    lines."""\n' + "    pass\n" * (longest - 1)
    (tmp_path / folder / "one.py").write_text(f"def f():\n{body}")
    assert long_functions(tmp_path) == []
    (tmp_path / folder / "one.py").write_text(f"def f():\n{body}    pass\n")
    assert len(long_functions(tmp_path)) == 1
