"""The vignettes: rendered from the sources beside them, and their numbers come out again.

Without R the Python chunks are run and what they print is held against the page, and the pages that
the R package carries against both; with R the whole is rendered anew. What a machine measures
differs from run to run, and is not compared. A page of MNIST comes out again where MNIST is, in the
folder that SPARSE_XENT_DATA names, else ../shared/data. Its code runs everywhere, on the digits of
scikit-learn.

Pages that train a model with Keras take minutes: here their code runs for two steps an epoch, in
Python (trained_pages.py checks what comes out) and in R.
"""

import base64
import contextlib
import gzip
import hashlib
import html
import io
import math
import os
import re
import subprocess
import sys
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
import rscript

VIGNETTES = rscript.ROOT / "vignettes"
PACKAGE = rscript.ROOT / "sparse_xent/r/sparsexent"
NAMES = [
    "does-the-sparse-loss-train-more-slowly",
    "from-one-vector-to-a-fleet",
    "getting-started",
    "handwritten-digits",
    "no-framework-at-all",
    "probabilities-or-logits",
    "scoring-a-model-in-r",
    "segmentation-with-a-void-class",
    "writing-like-shakespeare",
]

OF_MNIST = ["no-framework-at-all"]
TRAINED = [
    "does-the-sparse-loss-train-more-slowly",
    "handwritten-digits",
    "writing-like-shakespeare",
]
OTHERS = [name for name in NAMES if name not in TRAINED]
SHARED = rscript.ROOT.parent / "shared/data"
MNIST = os.environ.get("SPARSE_XENT_DATA") or (str(SHARED) if SHARED.is_dir() else "")

NUMBER = re.compile(r"-?\d+\.?\d*(?:e[+-]?\d+)?")


def page(name):
    return (VIGNETTES / f"{name}.md").read_text("utf-8")


def md5(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


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
    assert sorted(path.stem for path in VIGNETTES.glob("*.md")) == sorted([*NAMES, "index"])


def test_the_index_has_each_of_them_once_with_a_sentence():
    index = (VIGNETTES / "index.md").read_text("utf-8")
    entries = re.findall(r"^\d\. \[(.+)\]\((.+)\.md\): ((?:.|\n   )+\.)$", index, re.MULTILINE)
    assert sorted(name for _, name, _ in entries) == NAMES
    assert index.count("](") == len(NAMES)
    for title, name, _ in entries:
        assert page(name).startswith(f"# {title}\n")


@pytest.mark.parametrize("name", NAMES)
def test_the_page_is_of_this_source(name):
    made_of = md5(VIGNETTES / f"{name}.Rmd")
    assert f"<!-- of {name}.Rmd, MD5 {made_of} -->" in page(name), "run make vignettes"
    trained = "Keras \\S+, torch \\S+, " if name in TRAINED else ""
    versions = rf"Made with R \S+, .*Python \S+, NumPy \S+, .*{trained}sparse_xent \S+\n"
    assert re.search(versions, page(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_page_that_trains_was_rendered_with_all_its_steps_and_no_warning(name):
    assert (name in TRAINED) == bool(re.search(r"^steps = ", page(name), re.MULTILINE))
    assert page(name).count("\nsteps = None") == (name in TRAINED)
    assert name not in TRAINED or "Warning:" not in page(name)


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


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, in which the chunks leave their figures."""
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    (tmp_path / "figures").mkdir()
    yield tmp_path
    plt.close("all")


def run(name, names):
    """Runs a page's Python blocks, in `names`: [(code, what it printed, what the page shows)]."""
    blocks = outputs(page(name))
    assert blocks
    with np.printoptions(legacy="1.25"):  # as the NumPy of the pages prints scalars
        for code, shown in blocks:
            printed = io.StringIO()
            with (
                contextlib.redirect_stdout(printed),
                warnings.catch_warnings(record=True) as warned,
            ):
                warnings.simplefilter("always", UserWarning)
                exec(compile(code, f"{name}.md", "exec"), names)
            for message in dict.fromkeys(str(warning.message) for warning in warned):
                print(f"\n<string>:1: UserWarning: {message}", file=printed)
            yield code, printed.getvalue(), shown


@pytest.mark.parametrize("name", OTHERS)
def test_python_chunks_print_what_the_page_shows(name, folder, monkeypatch):
    if name in OF_MNIST:
        if not MNIST:
            pytest.skip("MNIST is not here: SPARSE_XENT_DATA names no folder")
        monkeypatch.setenv("SPARSE_XENT_DATA", MNIST)
    for code, printed, shown in run(name, measured(name)):
        assert alike(printed, shown), f"{code}\n{printed}"


def test_a_model_without_a_framework_learns_the_small_digits_too(folder, monkeypatch):
    monkeypatch.delenv("SPARSE_XENT_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "keras", None)  # would download
    names = {}
    said = "".join(printed for _, printed, _ in run("no-framework-at-all", names))
    assert "Optical Recognition of Handwritten Digits" in said
    assert "converged: True" in said
    assert names["W"].shape == (8 * 8 + 1, 10)
    assert names["loss"](names["y"], names["X"] @ names["W"]) < 0.3
    assert names["loss"](names["y_test"], names["logits"]) < 0.5
    assert names["correct"].mean() > 0.85
    assert [path.name for path in folder.glob("figures/*")] == ["no-framework-at-all-weights.png"]


@pytest.mark.seconds(300)
@pytest.mark.parametrize("name", TRAINED)
def test_a_page_that_trains_does_so_for_two_steps_an_epoch(name, tmp_path):
    for module in ("keras", "torch"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    script = rscript.ROOT / "tests/trained_pages.py"
    done = subprocess.run(
        [sys.executable, script, name],
        cwd=tmp_path,
        env={
            **os.environ,
            "KERAS_BACKEND": "torch",
            "PYTHONPATH": str(rscript.ROOT),
            "OMP_WAIT_POLICY": "passive",  # threads that spin are slow beside other tests
            "SPARSE_XENT_DATA": MNIST,
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    drawn = {path.name for path in tmp_path.glob("figures/*.png")}
    assert drawn == set(re.findall(r'savefig\("figures/([^"]+)"', page(name)))  # R draws others


def measured(name):
    """What measured chunks leave for the blocks that draw it: other names are made by the rest."""
    values = {"classes": [2, 16], "sparse": [0.1, 0.2], "dense": [1.0, 2.0]}
    return values if name == "getting-started" else {}


def test_base_r_is_compared_at_its_best():
    """By the line that takes one logarithm a label, not one a class."""
    name = "base R, picked before the log"
    code = f'"{name}" = best(-log(pmax(p[cbind(i, y + 1)] / rowSums(p), 1e-7))),'
    against = "times_faster = round(seconds[[1]] / seconds, 1))\n"
    before, _, after = page("scoring-a-model-in-r").partition(against)
    assert f"seconds <- c(\n  {code}" in before
    shown = after.split("```")[2]
    rows = dict(re.findall(r"^(\S.*?) +\d+\.?\d* +(\d+\.\d)$", shown, re.MULTILINE))
    assert float(rows.pop(name)) == 1
    assert len(rows) == 5


def test_alike_is_strict_about_all_but_last_digits():
    assert alike("[1] 0.3132617 a", "[1]  0.3132616 a\n")
    assert not alike("[1] 0.3132617", "[1] 0.3132917")
    assert not alike("[1] 0.31 TRUE", "[1] 0.31 FALSE")
    assert not alike("1 2", "1")


# --- the pages that the R package carries, for browseVignettes() ----------------------------------


def carried(name, package=PACKAGE):
    return (package / f"inst/doc/{name}.html").read_text("utf-8")


def words(page):
    """What an HTML page says, without what was measured."""
    return html.unescape(re.sub("<[^>]*>", "", without_measurements(page).partition("<body>")[2]))


@pytest.mark.parametrize("name", NAMES)
def test_the_r_package_carries_the_page_as_it_is(name):
    markdown, template = VIGNETTES / f"{name}.md", VIGNETTES / "page.html"
    of = f"<!-- of {name}.md, MD5 {md5(markdown)}, and page.html, MD5 {md5(template)} -->"
    assert of in carried(name), "run make vignettes"
    for _, block in re.findall(r"^```(\w*)\n(.*?)^```", page(name), re.MULTILINE | re.DOTALL):
        assert block.strip() in html.unescape(re.sub("<[^>]*>", "", carried(name)))
    source = PACKAGE / f"inst/doc/{name}.Rmd"
    assert source.read_bytes() == (VIGNETTES / source.name).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_the_page_in_the_r_package_stands_alone(name):
    shown = re.findall(r'<img src="data:image/png;base64,\s*([^"]+)"', carried(name))
    figures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", page(name))
    assert [*map(base64.b64decode, shown)] == [(VIGNETTES / path).read_bytes() for path in figures]
    links = set(re.findall(r'(?:href|src)="(?!data:)([^"]*)"', carried(name)))
    assert links <= {f"{other}.html" for other in NAMES}


def test_r_finds_the_pages_and_little_room_is_taken():
    files = [*PACKAGE.glob("inst/doc/*")]
    assert sorted(path.name for path in files) == sorted(
        f"{name}.{kind}" for name in NAMES for kind in ("Rmd", "html")
    )
    assert sum(path.stat().st_size for path in files) < 1_200_000
    index = gzip.decompress((PACKAGE / "build/vignette.rds").read_bytes())
    for name in NAMES:
        title = page(name).splitlines()[0].removeprefix("# ")
        assert all(word.encode() in index for word in (f"{name}.Rmd", f"{name}.html", title))
    # R CMD build keeps what it did not make, and R CMD INSTALL looks for an index, only with these.
    assert "\nBuildVignettes: no\n" in (PACKAGE / "DESCRIPTION").read_text("utf-8")
    assert [path.name for path in PACKAGE.glob("vignettes/*")] == [".install_extras"]


# --- with R --------------------------------------------------------------------------------------


@pytest.mark.seconds(600)
def test_rendered_anew_in_r_the_pages_say_the_same(tmp_path, monkeypatch):
    names = [name for name in OTHERS if MNIST or name not in OF_MNIST]
    monkeypatch.setenv("SPARSE_XENT_DATA", MNIST)
    render(tmp_path, names)
    for name in names:
        again = (tmp_path / f"{name}.md").read_text("utf-8")
        old, new = (without_measurements(text).splitlines() for text in (page(name), again))
        assert len(old) == len(new)
        assert [pair for pair in zip(old, new, strict=True) if not alike(*pair)] == []
        for figure in VIGNETTES.glob(f"figures/{name}-*.png"):
            assert (tmp_path / "figures" / figure.name).stat().st_size > 1000
        assert alike(words(carried(name)), words(carried(name, tmp_path / "sparsexent")))


@pytest.mark.seconds(600)
def test_pages_that_train_are_rendered_in_r_too(tmp_path, monkeypatch):
    """For two steps an epoch: all but what the models learn is as it stands."""
    monkeypatch.setenv("SPARSE_XENT_DATA", MNIST)
    monkeypatch.setenv("SPARSE_XENT_STEPS", "2")
    render(tmp_path, TRAINED, "keras", "torch")
    for name in TRAINED:
        again = (tmp_path / f"{name}.md").read_text("utf-8")
        assert again.count("\nsteps = 2") == 1
        again = again.replace("\nsteps = 2", "\nsteps = None")
        assert without_outputs(again) == without_outputs(page(name))
        figures = {path.name for path in tmp_path.glob(f"figures/{name}-*.png")}
        assert figures == {path.name for path in VIGNETTES.glob(f"figures/{name}-*.png")}


def without_outputs(text):
    """A page's prose and code, without what the code prints and what was measured."""
    blocks = r"^```(\w*)\n(.*?)^```\n"
    code = re.sub(
        blocks,
        lambda block: block[0] if block[1] else "",
        without_measurements(text),
        flags=re.MULTILINE | re.DOTALL,
    )
    return re.sub(r"\n{2,}", "\n\n", code)


def render(folder, names, *modules):
    """Renders pages in R; skips where R's Python lacks a module, or where pandoc is not found."""
    # Keras is there only if its backend is, too: the one that make.R takes.
    code = """
      Sys.setenv(KERAS_BACKEND = "torch")
      for (module in strsplit("%s", " ")[[1]]) if (!reticulate::py_module_available(module)) {
        cat("no", module, "\\n")
        quit()
      }
      if (!nzchar(Sys.which("pandoc"))) { cat("no pandoc\\n"); quit() }
      status <- system2("Rscript", c("vignettes/make.R", shQuote(commandArgs(TRUE))))
      if (status) quit(status = status)
    """
    said = rscript.run(
        code % " ".join(("matplotlib", *modules)), folder, *names, need=("reticulate", "knitr")
    )
    for lacking in re.findall(r"^no (\S+)", said, re.MULTILINE):
        pytest.skip(
            f"R's Python has no {lacking}" if lacking != "pandoc" else "pandoc is not found"
        )
