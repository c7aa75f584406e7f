"""The vignettes: rendered from the sources beside them, and their numbers come out again.

Without R the Python chunks are run and what they print is held against the page; with R the whole
is rendered anew. What a machine measures differs from run to run, and is not compared.
"""

import contextlib
import hashlib
import io
import math
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
import rscript

VIGNETTES = rscript.ROOT / "vignettes"
NAMES = [
    "getting-started",
    "probabilities-or-logits",
    "scoring-a-model-in-r",
    "segmentation-with-a-void-class",
]

NUMBER = re.compile(r"-?\d+\.?\d*(?:e[+-]?\d+)?")


def page(name):
    return (VIGNETTES / f"{name}.md").read_text("utf-8")


def alike(one, other):
    """Whether two texts are the same: words exactly, numbers but for the last digits printed."""
    if [*map(str.split, NUMBER.split(one))] != [*map(str.split, NUMBER.split(other))]:
        return False
    pairs = zip(NUMBER.findall(one), NUMBER.findall(other), strict=True)
    return all(math.isclose(float(a), float(b), rel_tol=1e-5, abs_tol=1e-20) for a, b in pairs)


def without_measurements(text):
    return re.sub(r"<!-- measured -->.*?<!-- /measured -->", "", text, flags=re.DOTALL)


def outputs(text):
    """What the Python blocks of a page print: [(code, output)], measured ones left out."""
    found = re.findall(
        r"^```(\w*)\n(.*?)^```", without_measurements(text), re.MULTILINE | re.DOTALL
    )
    after = [*found[1:], ("end", "")]
    return [
        (code, shown if language == "" else "")
        for (of, code), (language, shown) in zip(found, after, strict=True)
        if of == "python"
    ]


def test_these_are_the_vignettes():
    assert sorted(path.stem for path in VIGNETTES.glob("*.Rmd")) == NAMES
    assert sorted(path.stem for path in VIGNETTES.glob("*.md")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_page_is_of_this_source(name):
    source = (VIGNETTES / f"{name}.Rmd").read_bytes()
    made_of = hashlib.md5(source, usedforsecurity=False).hexdigest()
    assert f"<!-- of {name}.Rmd, MD5 {made_of} -->" in page(name), "run make vignettes"
    assert re.search(r"Made with R \S+, .*Python \S+, NumPy \S+, .*sparse_xent \S+\n", page(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_is_shown_told_and_small(name):
    shown = dict(re.findall(r"!\[([^]]{40,})\]\((figures/[^)]+\.png)\)", page(name)))
    assert page(name).count("![") == len(shown)
    there = {f"figures/{path.name}" for path in VIGNETTES.glob(f"figures/{name}-*.png")}
    assert set(shown.values()) == there
    for path in there:
        assert (VIGNETTES / path).stat().st_size < 60_000


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere_and_no_path_of_a_machine_is_shown(name):
    for target in re.findall(r"\]\(([^)]+)\)", page(name)):
        assert (VIGNETTES / target).exists()
    assert not re.search(r"/(home|tmp|root|usr|opt)/|\bobject at 0x", page(name))


@pytest.mark.parametrize("name", NAMES)
def test_python_chunks_print_what_the_page_shows(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the chunks leave their figures
    plt.switch_backend("agg")
    (tmp_path / "figures").mkdir()
    blocks = outputs(page(name))
    assert blocks
    names = measured(name)
    with np.printoptions(legacy="1.25"):  # as the NumPy of the pages prints scalars
        for code, shown in blocks:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, f"{name}.md", "exec"), names)
            assert alike(printed.getvalue(), shown), f"{code}\n{printed.getvalue()}"
    plt.close("all")


def measured(name):
    """What measured chunks leave for the blocks that draw it: other names are made by the rest."""
    values = {"classes": [2, 16], "sparse": [0.1, 0.2], "dense": [1.0, 2.0]}
    return values if name == "getting-started" else {}


def test_alike_is_strict_about_all_but_last_digits():
    assert alike("[1] 0.3132617 a", "[1]  0.3132616 a\n")
    assert not alike("[1] 0.3132617", "[1] 0.3132917")
    assert not alike("[1] 0.31 TRUE", "[1] 0.31 FALSE")
    assert not alike("1 2", "1")


def test_rendered_anew_in_r_the_pages_say_the_same(tmp_path):
    code = """
      folder <- commandArgs(TRUE)[1]
      if (!reticulate::py_module_available("matplotlib")) { cat("no matplotlib\\n"); quit() }
      status <- system2("Rscript", c("vignettes/make.R", shQuote(folder)))
      if (status) quit(status = status)
    """
    said = rscript.run(code, tmp_path, need=("reticulate", "knitr"))
    if "no matplotlib" in said:
        pytest.skip("R's Python has no matplotlib")
    for name in NAMES:
        again = (tmp_path / f"{name}.md").read_text("utf-8")
        old, new = (without_measurements(text).splitlines() for text in (page(name), again))
        assert len(old) == len(new)
        assert [pair for pair in zip(old, new, strict=True) if not alike(*pair)] == []
        for figure in VIGNETTES.glob(f"figures/{name}-*.png"):
            assert (tmp_path / "figures" / figure.name).stat().st_size > 1000
