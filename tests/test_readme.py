"""Every example is run: README's, and the docstrings', of which each public name has one."""

import contextlib
import doctest
import importlib
import inspect
import io
import pkgutil
import re
from pathlib import Path

import pytest

import sparse_xent

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"

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
        for (language, code), after in zip(found, [*found[1:], ("", "")], strict=True)
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


def wrong(markdown):
    """Run the Python blocks, one after the other as a reader would; returns what came out wrong.

    A block with prompts is a doctest. One without is run as it stands, and what it prints is the
    block of text that follows: nothing shown, nothing printed.
    """
    names, said = {}, []
    for code, output in python_blocks(markdown):
        if ">>>" in code:
            test = doctest.DocTestParser().get_doctest(code, {}, "README.md", "README.md", 0)
            said.append(failures(test, names))
        else:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, "README.md", "exec"), names)
            if not doctest.OutputChecker().check_output(output, printed.getvalue(), FLAGS):
                said.append(f"Expected:\n{output}Got:\n{printed.getvalue()}")
    return "".join(said)


def test_readme_shows_the_loss_in_python_and_r():
    markdown = README.read_text("utf-8")
    assert "r" in [language.lower() for language, _ in blocks(markdown)]
    shown = "".join(code + output for code, output in python_blocks(markdown))
    for words in ("loss_sparse_categorical_crossentropy", "value_and_grad", "0.05129"):
        assert words in shown


def test_readme_examples_come_out_as_written():
    assert wrong(README.read_text("utf-8")) == ""


def test_readme_is_short():
    assert len(README.read_text("utf-8").splitlines()) < 150


def test_what_readme_asks_of_make_exists():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    asked = re.findall(
        r"\bmake ([a-z]+)`?$|`make ([a-z]+)", README.read_text("utf-8"), re.MULTILINE
    )
    asked = {name for pair in asked for name in pair if name}
    assert {"demo", "test"} <= asked
    assert asked <= set(targets)


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
PLAIN = "```python\ntwo = 2\n```\nso:\n```python\nprint(1 + 1, two * 2)\n```\n\n```text\n2 4\n```\n"


@pytest.mark.parametrize("right", [PROMPTS, PLAIN], ids=["prompts", "plain"])
def test_a_wrong_example_is_caught(right):
    assert wrong(right) == ""
    assert re.search(r"Expected:\n.*5\nGot:\n.*4\n", wrong(right.replace("4\n", "5\n")), re.DOTALL)


def test_output_that_is_not_shown_is_caught():
    assert wrong("```python\nprint(7)\n```\n") == "Expected:\nGot:\n7\n"
