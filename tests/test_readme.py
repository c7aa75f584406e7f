"""Every example is run: the pages', and the docstrings', of which each public name has one."""

import ast
import contextlib
import doctest
import importlib
import inspect
import io
import pkgutil
import re
import subprocess
import sys
from itertools import pairwise

import pytest
import rscript
from conftest import ROOT, environment, require_peer

import sparse_xent
import sparse_xent.r

README, SEMANTICS, IN_R = (ROOT / page for page in ("README.md", "docs/semantics.md", "docs/r.md"))
PAGES = [README, SEMANTICS, IN_R]

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS

#: All modules but __main__, whose import is a run of the command line, and Keras's, which is run
#: where Keras has a backend: tests/test_keras.py.
MODULES = [
    "sparse_xent",
    *sorted(
        module.name
        for module in pkgutil.walk_packages(sparse_xent.__path__, "sparse_xent.")
        if not module.name.endswith(("__main__", "integrations.keras"))
    ),
]

PUBLIC = [name for name in sparse_xent.__all__ if callable(getattr(sparse_xent, name))]


def blocks(markdown):
    """[(language, code)] of the fenced blocks."""
    return re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", markdown, re.MULTILINE | re.DOTALL)


def python_blocks(markdown):
    """[(code, output)] of the Python blocks; output is the ```text block that follows, or ""."""
    found = blocks(markdown)
    return [
        (code, after[1] if after[0] == "text" else "")
        for (language, code), after in pairwise([*found, ("", "")])
        if language == "python"
    ]


def failures(test, names=None):
    """Run a doctest, in the namespace `names` if given; returns its complaint, "" for none."""
    if names is not None:
        test.globs = names
    said = []
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    runner.run(test, out=said.append, clear_globs=names is None)
    return "".join(said)


def typed(code, names):
    """What Python prints where the code is typed in: values, what is printed, and an error."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for statement in ast.parse(code).body:
            try:
                exec(compile(ast.Interactive([statement]), "a page", "single"), names)
            except Exception as error:
                print(f"{type(error).__name__}: {error}")
    return printed.getvalue()


def shown_beside(code):
    """What a block says that it prints: the lines that begin with # -> (in R with #>)."""
    return "".join(f"{line}\n" for line in re.findall(r"^#(?: -)?> ?(.*)$", code, re.MULTILINE))


def wrong(markdown):
    """Run the Python blocks, one after the other as a reader would; returns what came out wrong.

    A block with prompts is a doctest. One with lines that begin with # -> is typed in, and they are
    what it prints. Any other is run as it stands, and what it prints is the block of text that
    follows: nothing shown, nothing printed.
    """
    names, said = {}, []
    for code, output in python_blocks(markdown):
        if ">>>" in code:
            test = doctest.DocTestParser().get_doctest(code, {}, "a page", "a page", 0)
            said.append(failures(test, names))
            continue
        if "# ->" in code:
            output, got = shown_beside(code), typed(code, names)
        else:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, "a page", "exec"), names)
            got = printed.getvalue()
        if not doctest.OutputChecker().check_output(output, got, FLAGS):
            said.append(f"Expected:\n{output}Got:\n{got}")
    return "".join(said)


def sections(page):
    """{title: text} of what stands under each heading; "" is the text before the first."""
    first, *rest = re.split(r"^## ", page.read_text("utf-8"), flags=re.MULTILINE)
    return {"": first, **dict(part.split("\n", 1) for part in rest)}


#: Page -> the section whose names all others use.
FIRST = {README: "Thirty seconds", SEMANTICS: ""}
SECTIONS = [
    pytest.param(page, title, id=f"{page.name}: {title}")
    for page, first in FIRST.items()
    for title, text in sections(page).items()
    if title != first and python_blocks(text)
]
#: What a section takes beside the core.
NEEDS = {
    "In torch and Keras": ["torch", "keras"],
    "Arrays": ["jax", "tensorflow", "torch", "dask"],
}
#: Run in a process of its own: Keras picks its backend once a process.
APART = "In torch and Keras"


def wrong_in(page, title):
    """What comes out wrong of one section, read after the first."""
    of = sections(page)
    return wrong(of[FIRST[page]] + of[title])


@pytest.mark.parametrize(("page", "title"), SECTIONS)
def test_the_examples_of_a_page_come_out_as_written(page, title, tmp_path):
    for name in NEEDS.get(title, []):
        require_peer(name)
    if title != APART:
        assert wrong_in(page, title) == ""
        return
    code = f"from test_readme import *; print(wrong_in(README, {title!r}), end='')"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**environment(), "KERAS_BACKEND": "torch", "KERAS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (run.returncode, run.stdout) == (0, ""), run.stderr


def r_blocks(page):
    """(code, lines of output) of a page's R blocks, without empty lines."""
    code = "".join(code for language, code in blocks(page.read_text("utf-8")) if language == "r")
    return code, [line.strip() for line in shown_beside(code).splitlines() if line.strip()]


LIBRARY = """
arguments <- commandArgs(TRUE)
install.packages(arguments[1], arguments[2], repos = NULL, type = "source", quiet = TRUE)
.libPaths(c(arguments[2], .libPaths()))
cat("\nnow the page\n")
source(arguments[3], print.eval = TRUE)
"""


@pytest.mark.seconds(600)  # the first call from R compiles, where nothing is in the cache
@pytest.mark.parametrize("page", [README, IN_R], ids=lambda page: page.name)
def test_the_examples_in_r_come_out_as_written(page, tmp_path):
    code, due = r_blocks(page)
    assert "library(sparsexent)" in code
    assert due
    (tmp_path / "library").mkdir()
    (tmp_path / "page.R").write_text(code, "utf-8")
    arguments = sparse_xent.r.path(), tmp_path / "library", tmp_path / "page.R"
    _, said = rscript.run(LIBRARY, *arguments).split("now the page\n")
    assert [line.strip() for line in said.splitlines() if line.strip()] == due


def test_readmes_files_are_scored_as_written(tmp_path):
    ((_, code),) = [b for b in blocks(sections(README)["In R, and on files"]) if b[0] == "sh"]
    program = tmp_path / "sparse-xent"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sparse_xent "$@"\n')
    program.chmod(0o755)
    run = subprocess.run(
        ["/bin/sh", "-ec", code],
        cwd=tmp_path,
        env={**environment(), "PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stderr) == (0, "")
    (shown,) = re.findall(r"^# (mean loss .*)$", code, re.MULTILINE)
    for figure in re.findall(r"[\d.]+", shown):
        assert re.search(rf"\b{re.escape(figure)}\d*\b", run.stdout), figure


def test_readme_is_short_and_shows_the_loss():
    text = README.read_text("utf-8")
    assert len(text.splitlines()) < 150
    assert "r" in [language for language, _ in blocks(text)]
    shown = "".join(code + output for code, output in python_blocks(text))
    for words in ("loss_sparse_categorical_crossentropy", "value_and_grad", "0.05129"):
        assert words in shown


def test_what_the_pages_ask_of_make_exists():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    asked = set()
    for page in [*PAGES, ROOT / "benchmarks/README.md"]:
        asked |= set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE))
    assert {"demo", "test", "setup-r", "bench"} <= asked
    assert asked <= set(targets)


def test_every_public_name_stands_in_the_page_of_semantics():
    text = SEMANTICS.read_text("utf-8")
    assert [name for name in sparse_xent.__all__ if f"`{name}" not in text] == []


def anchors(path):
    """The names by which a page's headings can be linked to."""
    titles = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


LINKING = [*PAGES, *map(ROOT.joinpath, ("benchmarks/README.md", "docs/recipes.md",
           "CONTRIBUTING.md", "CHANGELOG.md", "vignettes/index.md"))]  # fmt: skip


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        there = page.parent / path if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_come_out_as_written(name):
    module = importlib.import_module(name)
    said = [failures(test) for test in doctest.DocTestFinder().find(module) if test.examples]
    assert said == [""] * len(said)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_shows_an_example(name):
    thing = getattr(sparse_xent, name)
    assert inspect.getdoc(thing)
    examples = [e for test in doctest.DocTestFinder().find(thing, name) for e in test.examples]
    assert any(name in example.source for example in examples)
    assert any(example.want for example in examples)


PROMPTS = "```python\n>>> 1 + 1\n2\n```\nso:\n```python\n>>> two = 2\n>>> two * 2\n4\n```\n"
BESIDE = "```python\nint('x')\n# -> ValueError: ...\ntwo = 2\ntwo * 2\n# -> 4\n```\n"
PLAIN = "```python\ntwo = 2\n```\nso:\n```python\nprint(1 + 1, two * 2)\n```\n\n```text\n2 4\n```\n"


@pytest.mark.parametrize("right", [PROMPTS, BESIDE, PLAIN], ids=["prompts", "beside", "plain"])
def test_a_wrong_example_is_caught(right):
    assert wrong(right) == ""
    assert re.search(r"Expected:\n.*5\nGot:\n.*4\n", wrong(right.replace("4\n", "5\n")), re.DOTALL)


def test_output_that_is_not_shown_is_caught():
    assert wrong("```python\nprint(7)\n```\n") == "Expected:\nGot:\n7\n"
