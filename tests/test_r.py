"""From R: the manual page's examples, the package `sparsexent`, what it refuses, saves and copies.

R runs once for all of it (`r/session.R`), and once more to build and check the package. It is
Debian's or yours, with the Python that `scripts/setup-r.sh` makes (.venv-r), or the one that
RETICULATE_PYTHON names.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import r_python, why_no_r

import sparse_xent
import sparse_xent.r

HERE = Path(__file__).parent
SOURCES = Path(sparse_xent.r.path())

#: What the manual page shows, to its digits.
PAGE = [
    [0.05129339, 2.30258509],
    [1.1769392],
    [0.8135988],
    [2.3538785],
    [0.0512934, 2.3025851],  # the page's 0.05129344 is a float32 rounding
]

LEVELS = 'y_true must be a factor of the classes that y_pred names ("ash", "beech", "oak"), '
NO_NA = "got NA at [2]; drop what is missing, or let it not count with ignore_class = NA"

#: Wrong call -> all that R says.
REFUSED = {
    "1..C": "y_true must hold whole numbers from 0 to 2 (3 classes): got 3 at [2]; labels look "
    "1-based: use y_true - 1L",
    "other levels": LEVELS + 'got "elm" at [2]: rename its levels, or y_pred\'s classes',
    "fewer levels": "y_true must be a factor with one level for each of the 3 classes, got 2 "
    'levels ("ash", "oak"): give it all classes in their order, factor(y_true, levels = ...)',
    "names": 'y_true must hold whole numbers, got "a" (character): send the classes\' positions '
    "less 1, match(y_true, classes) - 1L, or a factor",
    "NA": f"y_true must hold whole numbers, {NO_NA}",
    "NA_integer_": f"y_true must hold whole numbers, {NO_NA}",
    "NA_real_": f"y_true must hold whole numbers from 0 to 2 (3 classes): {NO_NA}",
    "NA_character_": "y_true must hold whole numbers, got NA (character): send the classes' "
    "positions less 1, match(y_true, classes) - 1L, or a factor",
    "NA factor": f"y_true must hold whole numbers, {NO_NA}",
    "1.7": "y_true must hold whole numbers from 0 to 2 (3 classes): got 1.7 at [1]; labels are "
    "classes, not scores: are y_true and y_pred swapped?",
    "text column": 'y_pred must hold numbers, got a data.frame whose column 2, "b", is character: '
    "send as.matrix() of the columns that are numbers",
    "from": "'from' is not an argument of loss_sparse_categorical_crossentropy(): did you mean "
    "'from_logits'?",
    "axis 0": "axis must not be 0: R counts dimensions from 1, and from the last with -1; Python's "
    "axis 0 is axis = 1L",
    "axis 3": "axis must be from 1 to 2, or -1 for the last, for y_pred of 2 x 3, got 3 (R counts "
    "dimensions from 1)",
    "avg": "reduction must be one of 'sum_over_batch_size', 'mean', 'auto', 'sum', "
    "'mean_with_sample_weight', 'none', got 'avg'",
    "y_pred missing": "y_pred is missing, y_true was given: loss_sparse_categorical_crossentropy() "
    "takes both (one loss per label) or neither (an object that reduces)",
    "y_true missing": "y_true is missing, y_pred was given: loss_sparse_categorical_crossentropy() "
    "takes both (one loss per label) or neither (an object that reduces)",
    "weights": "sample_weight must have the losses' shape (2), or fewer axes that match its "
    "leading ones, or a 1 in place of an axis: got (3)",
}


def run(command, folder, **variables):
    """Run an R command in a folder of its own, with the package's library; returns its output."""
    (folder / "cran/src/contrib").mkdir(parents=True, exist_ok=True)
    (folder / "cran/src/contrib/PACKAGES").touch()  # a CRAN without a network
    (folder / "library").mkdir(exist_ok=True)
    profile = folder / "profile.R"
    profile.write_text(f'options(repos = c(CRAN = "file://{(folder / "cran").as_posix()}"))\n')
    result = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={
            **os.environ,
            "RETICULATE_PYTHON": str(r_python()),
            "R_LIBS": str(folder / "library"),
            "R_PROFILE_USER": str(profile),
            "KERAS_BACKEND": "numpy",
            "LC_ALL": "C.UTF-8",
            **variables,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where R works: a temporary folder, with a library for the package. Skips without R."""
    if reason := why_no_r():
        pytest.skip(reason)
    return tmp_path_factory.mktemp("r")


@pytest.fixture(scope="module")
def session(folder):
    """What the R session found, by name."""
    (folder / "library").mkdir()
    run(["R", "CMD", "INSTALL", "--no-test-load", "-l", folder / "library", SOURCES], folder)
    run(["Rscript", HERE / "r/session.R", HERE / "r", folder / "found.txt"], folder)
    return dict(
        line.split("\t", 1) for line in (folder / "found.txt").read_text("utf-8").splitlines()
    )


def figures(printed):
    """The numbers of what was printed, a list for each result."""
    return [[float(word) for word in result.split()] for result in printed.split("; ")]


def same_to_six_digits(printed):
    return [pytest.approx(row, rel=1e-6) for row in PAGE] == figures(printed)


def test_r_calls_this_package(session):
    assert session["module"] == sparse_xent.__file__


def test_the_pages_examples_run_after_import_and_two_aliases(session):
    assert same_to_six_digits(session["bare page"])


def test_the_pages_examples_run_with_the_package_alone(session):
    assert same_to_six_digits(session["page"])


@pytest.mark.parametrize("how", ["bare compile", "compile"])
def test_a_keras_model_compiles_with_the_loss(session, how):
    if session[how] == "absent":
        pytest.skip("keras is not installed in R's Python")
    assert session[how] == "agrees"


def test_through_import_alone_a_logical_na_counts_as_1(session):
    """Nothing in Python can tell; the help page says so, and the package refuses it."""
    as_first_class, as_second_class = 1.00000005e-7, 16.118095750958
    found = [float(loss) for loss in session["bare logical NA"].split()]
    assert found == pytest.approx([as_second_class, as_first_class], rel=1e-6)


def test_the_signature_is_keras3s(session):
    assert session["formals"].removesuffix(" NULL") == (
        "function (y_true, y_pred, from_logits = FALSE, ignore_class = NULL, axis = -1L, ..., "
        'reduction = "sum_over_batch_size", name = "sparse_categorical_crossentropy", dtype = NULL)'
    )


def test_losses_are_plain_vectors(session):
    assert session["attributes"] == "TRUE"


@pytest.mark.parametrize("call", REFUSED)
def test_a_wrong_call_is_answered_in_one_line(session, call):
    said = session[f"refused {call}"]
    assert said == f"simpleError: {REFUSED[call]}"


def test_a_loss_is_saved_and_read_in_another_session(session):
    assert session["saved"] == session["saved here"]


def test_forks_compute_after_use(session):
    assert session["mclapply"] == "1.176939 1.176939"


def test_a_matrix_is_not_copied(session):
    """Of 80 MB of scores; the labels' wrapping takes 4 MB, the losses 8 MB in Python and in R."""
    if "peak reduced" not in session:
        pytest.skip("no /proc/self/clear_refs here")
    assert float(session["peak reduced"]) < 4 + 8
    assert float(session["peak per label"]) < 4 + 8 + 8 + 8


#: What R says of a package's vignettes: title and page of each, and whether the page is there.
BROWSED = """
seen <- unclass(browseVignettes("sparsexent"))$sparsexent
there <- function(files) file.exists(file.path(seen[, "Dir"], "doc", files))
both <- there(seen[, "PDF"]) & there(seen[, "File"])
cat(paste(seen[, "Title"], seen[, "PDF"], both, sep = "; "), sep = "\\n")
"""
VIGNETTES = """\
Getting started; getting-started.html; TRUE
Probabilities or logits; probabilities-or-logits.html; TRUE
Scoring a model in R; scoring-a-model-in-r.html; TRUE
Segmentation with a void class; segmentation-with-a-void-class.html; TRUE
"""


@pytest.mark.parametrize("way", ["from the folder", "from what R CMD build makes"])
def test_browse_vignettes_shows_them(folder, tmp_path, way):
    """As install.packages() installs it; its path for programs holds neither pandoc nor Python."""
    source = SOURCES
    if way != "from the folder":
        run(["R", "CMD", "build", SOURCES], tmp_path)
        (source,) = tmp_path.glob("sparsexent_*.tar.gz")
    install = f'install.packages("{source}", repos = NULL, type = "source", quiet = TRUE)'
    programs = tmp_path / "programs"
    programs.mkdir()
    for place in filter(os.path.isdir, os.environ["PATH"].split(os.pathsep)):
        for name in os.listdir(place):
            link = programs / name
            if not ("pandoc" in name or "python" in name or os.path.lexists(link)):
                link.symlink_to(Path(place).absolute() / name)
    where = dict(PATH=str(programs), RETICULATE_PYTHON=str(tmp_path / "none"))
    run(["Rscript", "-e", install], tmp_path, **where)
    assert run(["Rscript", "-e", BROWSED], tmp_path, **where) == VIGNETTES


@pytest.mark.slow
def test_r_cmd_check_finds_nothing(folder):
    run(["R", "CMD", "build", SOURCES], folder)
    (built,) = folder.glob("sparsexent_*.tar.gz")
    said = run(["R", "CMD", "check", "--no-manual", built], folder)
    assert said.rstrip().endswith("Status: OK"), said
    tests = (folder / "sparsexent.Rcheck/tests/testthat.Rout").read_text("utf-8")
    assert re.search(r"\[ FAIL 0 \| WARN 0 \| SKIP 0 \| PASS [1-9]\d+ \]", tests), tests


# --- what needs no R -----------------------------------------------------------------------------


def test_the_version_is_the_python_packages():
    assert f"\nVersion: {sparse_xent.__version__}\n" in (SOURCES / "DESCRIPTION").read_text("utf-8")


def exported():
    lines = re.findall(r"^export\((.*)\)", (SOURCES / "NAMESPACE").read_text("utf-8"), re.M)
    return set(", ".join(lines).split(", "))


def test_every_public_function_is_exported_and_little_else():
    functions = {name for name in sparse_xent.__all__ if name[0].islower()}
    of_devices = {"cuda_check"}  # R's arrays never lie on one
    assert exported() == functions - of_devices | {"value_and_grad"}


def test_every_exported_function_has_a_help_page():
    pages = "".join(page.read_text("utf-8") for page in (SOURCES / "man").glob("*.Rd"))
    assert exported() <= set(re.findall(r"^\\alias\{(.*)\}", pages, re.M))


def test_without_r_the_last_lines_say_so_and_how_to_get_it():
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-m",
            "not slow",
            f"{__file__}::{test_losses_are_plain_vectors.__name__}",
        ],
        cwd=HERE.parent,
        env={**os.environ, "PATH": str(HERE), "CI": ""},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    left_out, *_, last = result.stdout.splitlines()[-3:]
    assert "; calls from R (R is not installed)" in left_out.replace("left out: ", "; ")
    assert last.startswith("`make setup-r` installs R (Debian, Ubuntu; as root")
