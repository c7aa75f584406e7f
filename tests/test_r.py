"""From R: the manual page's examples, the package `sparsexent`, what it refuses, saves and copies.

R runs once for all of it (`r/session.R`), and once more to build and check the package. It is
Debian's or yours, with the Python that `scripts/setup-r.sh` makes (.venv-r), or the one that
RETICULATE_PYTHON names.
"""

import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import conftest
import numpy as np
import pytest
from conftest import ROOT, r_python, why_no_r

import sparse_xent
import sparse_xent.r

#: The first test to want it starts R, which compiles where nothing is in the cache.
pytestmark = pytest.mark.seconds(600)

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

NO_NAMES = (
    "but y_pred has no names along its class axis and y_true is not a factor: name y_pred's "
    "classes,"
)

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
    "one row": 'y_true must be a factor of the classes that y_pred names ("b", "a"), got "c" at '
    "[1]: rename its levels, or y_pred's classes",
    "names twice": 'y_pred must name each class once, got "ash" at [1] and [3] along its class '
    "axis: rename one of them",
    "another case": f'{LEVELS}got "Oak" at [1], where "oak" is known: rename its levels, or '
    "y_pred's classes",
    "Python's array": "y_true must be a factor with one level for each of the 3 classes, got 2 "
    'levels ("ash", "oak"): give it all classes in their order, factor(y_true, levels = ...)',
    "weight NA": "sample_weight must hold numbers: got NA at [2]; drop what is missing, or weigh "
    "it 0",
    "class weight NA": 'class_weight must hold numbers, got NA at ["oak"]: give every class a '
    "weight, 1 where it is as the others",
    "class weight of no class": 'class_weight must be named by classes ("ash", "beech", "oak"), '
    'got "elm": rename it, or leave it out; classes that are not named weigh 1',
    "class weight without names": f'class_weight names a class, "oak", {NO_NAMES} or send one '
    "weight for each class, without names",
    "ignored unknown": 'ignore_class must name classes ("ash", "beech", "oak"), got "void": rename '
    "it, or leave it out; a class's number, counted from 0, is sent without quotes",
    "ignored without names": f'ignore_class names a class, "void", {NO_NAMES} or send the class as '
    "a number, counted from 0",
    "ignored number": 'ignore_class = 1 is a class counted from 0, and "1" is another level of '
    'y_true: name the level that is meant, ignore_class = "1"',
    "an option of a loss that is made": "ignore_class is an argument of "
    "loss_sparse_categorical_crossentropy(), not of a loss: make the loss with it, "
    "loss_sparse_categorical_crossentropy(from_logits = TRUE, ignore_class = NA)",
    "an argument too many": "a loss takes y_true, y_pred and sample_weight, got one more",
    "a score for each of two classes' labels": "y_pred must have an axis of classes, (3 x 2) for "
    "two, got (3), a score for each label of 0 or 1: of class 1 of two, pass cbind(1 - y_pred, "
    "y_pred)",
    "the same by a factor": "y_pred must have a row for each label and a column for each class, "
    '3 x 2, got 3, a score for each label: if it is of class "yes", pass cbind(no = 1 - y_pred, '
    "yes = y_pred)",
    "the same in a column": "y_pred must have a row for each label and a column for each class, "
    '2 x 2, got 2 x 1, a score for each label: if it is of class "yes", pass cbind(no = 0 * '
    "y_pred[, 1], yes = y_pred[, 1])",
    "levels along the rows": "y_pred must have its classes along axis 2, got y_true's levels "
    '("ash", "beech", "oak") as the names along axis 1: pass axis = 1, or unname(y_pred) if these '
    "are not its classes",
    "a third dimension": "y_true must have y_pred's shape without axis 3: expected (2 x 3) or "
    "(2 x 3 x 1), got (2) (y_pred is (2 x 3 x 1)); to drop y_pred's axes of length 1 pass "
    "drop(y_pred)",
    "a dimension too few": "y_true must have y_pred's shape without axis 2: expected (2 x 1) or "
    "(2 x 1 x 1), got (2) (y_pred is (2 x 3 x 1)); pass array(y_true, c(2, 1))",
    "a number for a flag": "from_logits must be TRUE or FALSE, got 1",
    "a list of dtypes": "dtype must be one of 'float16', 'bfloat16', 'float32', 'float64', got "
    "c('float32', 'float64')",
    "TRUE for a class": "ignore_class must be a whole number, got TRUE",
    "targets of other classes": 'y_true must name the classes that y_pred names ("ash", "beech", '
    '"oak"), each once, got "a", "b", "c": rename them, or where they stand in y_pred\'s order '
    "send unname(as.matrix(y_true))",
}

NO_PROBABILITIES = "y_pred must hold probabilities, from 0 to 1: got "
LOGITS = f"{NO_PROBABILITIES}2 at [1, 1], and 1 more row; they look like logits: from_logits = TRUE"
ONE_CLASS = (
    "y_pred must hold at least two classes, got (2 x 1) with one class along axis 2: every loss is "
    "0; bind 1 - p, p (of logits 0, x) along that axis, as cbind() does along axis 2"
)

#: A call whose scores are odd -> the one warning, which R shows each time.
WARNED = {
    "losses": LOGITS,
    "object": LOGITS,
    "weights": LOGITS,
    "gradient": LOGITS,
    "member": LOGITS,
    "by name": LOGITS,
    "one-hot": LOGITS,
    "one-hot object": LOGITS,
    "percentages": f"{NO_PROBABILITIES}5 at [1, 1], and 1 more row; they look like percentages: "
    "divide by 100",
    "one class": ONE_CLASS,
    "one class, object": ONE_CLASS,
}

#: What R calls by name, and by position: the same.
AGREE = [
    "names of one row",
    "unused levels, another order",
    "an array's class axis",
    "class weights",
    "class weights and an ignored level, saved",
    "the gradient",
    "targets in another order",
]


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


#: Calls of which each is the first that needs Python.
FIRST_CALLS = ["sparse(1, c(0.1, 0.9))", "sparse()", "sparse(factor(1), reticulate::r_to_py(1))"]


@pytest.mark.parametrize("python", ["one without sparse_xent", "none"])
def test_a_python_without_sparse_xent_is_named_with_what_to_do(session, folder, tmp_path, python):
    used = tmp_path / "bin/python"
    why = f"Python specified in RETICULATE_PYTHON ({used}) does not exist"
    calls = FIRST_CALLS[:2]
    if python != "none":
        subprocess.run([r_python(), "-m", "venv", "--without-pip", tmp_path], check=True)
        why, calls = "No module named 'sparse_xent'", FIRST_CALLS
    code = "sparse <- sparsexent::loss_sparse_categorical_crossentropy\n" + "\n".join(
        f'cat(tryCatch({call}, error = conditionMessage), "\n", sep = "")' for call in calls
    )
    said = run(["Rscript", "-e", code], folder, RETICULATE_PYTHON=str(used), PYTHONPATH="")
    due = (
        f"sparse_xent cannot be loaded from {used} ({why}): run `make setup-r` in a clone of "
        "sparse_xent, and begin a new R session with `Sys.setenv(RETICULATE_PYTHON = "
        '"/path/to/the/clone/.venv-r/bin/python")`'
    )
    assert said.splitlines() == [due] * len(calls)


@pytest.mark.parametrize("call", AGREE)
def test_classes_go_by_name(session, call):
    assert session[f"agree {call}"] == "TRUE"


@pytest.mark.parametrize("call", WARNED)
def test_what_python_warns_of_is_one_warning_of_rs_at_each_call(session, call):
    assert session[f"warned {call}"] == WARNED[call]


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
Does the sparse loss train more slowly?; does-the-sparse-loss-train-more-slowly.html; TRUE
From one vector to a fleet; from-one-vector-to-a-fleet.html; TRUE
Getting started; getting-started.html; TRUE
Handwritten digits; handwritten-digits.html; TRUE
No framework at all; no-framework-at-all.html; TRUE
Probabilities or logits; probabilities-or-logits.html; TRUE
Scoring a model in R; scoring-a-model-in-r.html; TRUE
Segmentation with a void class; segmentation-with-a-void-class.html; TRUE
Writing like Shakespeare; writing-like-shakespeare.html; TRUE
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
    # For pools of Python's processes.
    of_processes = {"partial", "row_partial", "merge_rows", "finish_rows", "grad_from_rows"}
    assert exported() == functions - of_devices - of_processes | {"value_and_grad"}


def test_every_exported_function_has_a_help_page():
    pages = "".join(page.read_text("utf-8") for page in (SOURCES / "man").glob("*.Rd"))
    assert exported() <= set(re.findall(r"^\\alias\{(.*)\}", pages, re.M))


def test_warnings_come_with_the_result_and_others_go_their_way():
    def call(x, error=None):
        warnings.warn("is it?", stacklevel=2)
        warnings.warn("old", DeprecationWarning, stacklevel=2)
        if error:
            raise error
        return np.float32(x)

    before = warnings.showwarning
    called = sparse_xent.r.plainly(call)
    for _ in range(2):
        with pytest.warns(DeprecationWarning, match="old"):
            result = called(x=0.5)
        assert result == {"result": 0.5, "warnings": ["is it?"]}
    with pytest.warns(DeprecationWarning, match="old"), pytest.raises(ValueError, match="no"):
        called(0.5, error=ValueError("no"))
    assert warnings.showwarning is before
    assert sparse_xent.r.plainly(np.float32)(0.5) == 0.5


@pytest.mark.parametrize(
    ("frame", "axis", "names"),
    [
        (dict(columns=["b", "a"]), -1, ["b", "a"]),
        (dict(columns=["b", "a"]), 1, ["b", "a"]),
        (dict(columns=["b", "a"]), 0, None),
        (dict(columns=[2, 1], index=["x", "y", "z"]), 0, ["x", "y", "z"]),
        (dict(columns=[2, 1]), 1, ["2", "1"]),
        (dict(), 1, None),
    ],
)
def test_classes_of_a_data_frame_of_pythons_have_names(frame, axis, names):
    pandas = pytest.importorskip("pandas")
    assert sparse_xent.r.seen(pandas.DataFrame(np.ones((3, 2)), **frame), axis) == ((3, 2), names)


def test_arrays_of_pythons_have_none():
    assert sparse_xent.r.seen(np.ones((3, 2)), 5) == ((3, 2), None)
    assert sparse_xent.r.seen([[1, 2]], 0) == ((1, 2), None)


# --- set-up ---------------------------------------------------------------------------------------

RSCRIPT = """\
#!/bin/sh
# An R with all its packages, reticulate 1.46 among them; its call of a loss ends as the file says.
case "$*" in
    *loss_sparse*) {call} ;;
    *'cat(format('*) printf 1.46 ;;
esac
"""
PYTHON = """\
#!/bin/sh
# Python as it is, but that pip has nothing to do; the shared library is where the test says it is.
case "$*" in
    *libpython*.so*) exit {library} ;;
    *base_prefix*) exit 1 ;;
    *' pip '*) exit 0 ;;
esac
exec "{python}" "$@"
"""


def set_up(folder, call="exit 0", library=0):
    """Run scripts/setup-r.sh in a checkout whose .venv-r is there, with stand-ins for R and pip."""
    for place in (folder / "scripts", folder / "programs", folder / ".venv-r/bin"):
        place.mkdir(parents=True)
    shutil.copy(ROOT / "scripts/setup-r.sh", folder / "scripts")
    shutil.copy(ROOT / "pyproject.toml", folder)
    programs = {
        "programs/Rscript": RSCRIPT.format(call=call),
        "programs/pandoc": "#!/bin/sh\n",
        ".venv-r/bin/python": PYTHON.format(library=library, python=sys.executable),
    }
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return subprocess.run(
        ["/bin/sh", "scripts/setup-r.sh"],
        cwd=folder,
        env={"PATH": f"{folder / 'programs'}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )


def test_set_up_is_ready_when_r_has_called_a_loss(tmp_path):
    result = set_up(tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("calling a loss from R (once; up to a minute)\nsetup-r: ready\n")
    assert (tmp_path / ".venv-r/.ready").exists()


@pytest.mark.parametrize(
    ("stand_ins", "said"),
    [
        (
            dict(call='echo "Error: Python shared library not found"; echo "Use it"; exit 1'),
            "setup-r: R cannot call .venv-r/bin/python: Error: Python shared library not found\n",
        ),
        (
            dict(library=1),
            "is not here: name a Python that was built with --enable-shared, with PYTHON_R=...\n",
        ),
    ],
)
def test_set_up_says_in_a_line_what_keeps_r_from_calling(tmp_path, stand_ins, said):
    result = set_up(tmp_path, **stand_ins)
    assert result.returncode == 1
    assert result.stderr.endswith(said)
    assert result.stderr.count("\n") == 1
    assert "ready" not in result.stdout
    assert not (tmp_path / ".venv-r/.ready").exists()


def test_a_python_that_r_could_not_call_is_not_asked_again(tmp_path, monkeypatch):
    (tmp_path / ".venv-r/bin").mkdir(parents=True)
    (tmp_path / ".venv-r/bin/python").touch()
    monkeypatch.setattr(conftest, "ROOT", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.delenv("RETICULATE_PYTHON", raising=False)
    why_not = why_no_r.__wrapped__  # what it says is kept
    assert why_not() == "R could not call the Python that it has: .venv-r is not ready"
    (tmp_path / ".venv-r/.ready").touch()
    assert why_not() is None


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
