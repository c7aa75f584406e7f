"""R's manual: a page for each public name, current, and without a finding by R's own checks."""

import importlib.util
import inspect
import re

import pytest
import rscript

import sparse_xent

ROOT = rscript.ROOT
MAN = ROOT / "man"

spec = importlib.util.spec_from_file_location("make_man", MAN / "make.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)

PUBLIC = sorted(name for name in sparse_xent.__all__ if callable(getattr(sparse_xent, name)))
FILES = sorted(map(make.stem, PUBLIC))


def test_pages_are_current():
    assert make.stale() == []


def test_a_page_that_is_not_current_is_named(monkeypatch):
    page = make.page
    monkeypatch.setattr(make, "page", lambda topic: page(topic) + "%" * (topic == "op_array"))
    assert make.stale() == ["op_array.Rd"]


def test_every_public_name_has_a_page_and_an_example():
    assert sorted(path.stem for path in MAN.glob("*.Rd")) == FILES
    assert sorted(path.stem for path in (MAN / "examples").glob("*.R")) == FILES


def test_no_two_pages_have_names_that_differ_by_case_alone():
    assert len({name.lower() for name in FILES}) == len(PUBLIC)


@pytest.mark.parametrize("topic", PUBLIC)
def test_every_argument_is_told_and_output_is_shown(topic):
    page = (MAN / f"{make.stem(topic)}.Rd").read_text("utf-8")
    thing = getattr(sparse_xent, topic)
    for parameter in inspect.signature(thing).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            assert r"\item{\dots}{" in page
        else:
            assert re.search(rf"^\\item{{{parameter.name}}}{{[\w\\]", page, re.MULTILINE)
    for section in ("title", "description", "usage", "value", "seealso", "examples"):
        assert page.count(f"\n\\{section}{{") == 1, section
    assert "\n#> " in page
    assert not re.search(r"\b(None|True|False|np|NumPy scalar|dict)\b", page.split(r"\examples")[0])


@pytest.mark.parametrize("topic", [name for name in PUBLIC if "entropy" in name])
def test_losses_have_their_formula_in_tex_and_in_text(topic):
    page = (MAN / f"{topic}.Rd").read_text("utf-8")
    assert r"\section{Formula}" in page
    assert r"\sum" in page
    assert "sum_" in page


# --- with R --------------------------------------------------------------------------------------


def stub(name):
    """R's `function` with the arguments that Python's signature has; ours, not the generator's."""
    shown = []
    for p in inspect.signature(getattr(sparse_xent, name)).parameters.values():
        if p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD) and "..." not in shown:
            shown.append("...")
        if p.kind is not p.VAR_KEYWORD:
            constants = {
                "None": "NULL", "True": "TRUE", "False": "FALSE", "-1": "-1L", "0.0": "0",
                "0": "0L", "5": "5L", "()": "NULL",
            }  # fmt: skip
            shown.append(
                p.name
                if p.default is p.empty
                else f'{p.name} = "{p.default}"'
                if isinstance(p.default, str)
                else f"{p.name} = {constants[str(p.default)]}"
            )
    return f"{name} <- function({', '.join(shown)}) NULL\n"


CHECKS = """
options(warn = 2)
package <- commandArgs(TRUE)[1]
pages <- Sys.glob(file.path(package, "man", "*.Rd"))
said <- list()
for (page in pages) said[[page]] <- format(tools::checkRd(page))
said$codoc <- format(tools::codoc(dir = package))
said$checkDocFiles <- format(tools::checkDocFiles(dir = package))
said$checkDocStyle <- format(tools::checkDocStyle(dir = package))
said$undoc <- unlist(tools::undoc(dir = package))
lines <- unlist(lapply(pages, readLines))
topics <- gsub("^.name[{]|[}]$", "", grep("^.name[{]", lines, value = TRUE))
for (page in pages) {
  links <- regmatches(text <- readLines(page), gregexpr("link[{][^}]*", text))
  said[[paste(page, "links")]] <- setdiff(sub("link[{]", "", unlist(links)), topics)
}
cat(unlist(said), sep = "\\n")
cat(length(pages), "pages\\n")
"""


@pytest.fixture
def package(tmp_path):
    """A folder that R's checks take for a package: our pages, and a stub for each public name."""
    (tmp_path / "R").mkdir()
    (tmp_path / "man").mkdir()
    (tmp_path / "DESCRIPTION").write_text("Package: stub\nVersion: 0.1\nEncoding: UTF-8\n")
    (tmp_path / "NAMESPACE").write_text("".join(f"export({name})\n" for name in PUBLIC))
    (tmp_path / "R/stub.R").write_text("".join(map(stub, PUBLIC)))
    for page in MAN.glob("*.Rd"):
        (tmp_path / "man" / page.name).write_text(page.read_text("utf-8"), "utf-8")
    return tmp_path


def test_r_finds_nothing_wrong_with_the_pages(package):
    assert rscript.run(CHECKS, package, need=()).splitlines() == ["", f"{len(PUBLIC)} pages"]


def test_r_finds_what_is_wrong_with_a_page(package):
    page = package / "man/op_array.Rd"
    text = page.read_text("utf-8").replace(r"\item{dtype}", r"\item{dtpye}")
    page.write_text(text.replace(r"\link{loss_sparse", r"\link{los_sparse"), "utf-8")
    said = rscript.run(CHECKS, package, need=())
    assert "dtpye" in said
    assert "los_sparse_categorical_crossentropy" in said


RUN = """
folder <- commandArgs(TRUE)[1]
files <- character()
for (page in Sys.glob("man/*.Rd")) {
  files <- c(files, file.path(folder, sub("Rd$", "R", basename(page))))
  tools::Rd2ex(page, tail(files, 1))
}
file.copy(files, paste0(files, ".before"))
commandArgs <- function(...) files
source("man/run.R")
"""


def test_r_examples_come_out_as_the_pages_show(tmp_path):
    rscript.run(RUN, tmp_path)
    assert sorted(path.stem for path in tmp_path.glob("*.R")) == FILES
    for path in tmp_path.glob("*.R"):
        before = (tmp_path / f"{path.name}.before").read_text("utf-8")
        assert path.read_text("utf-8") == before
        assert "\n#> " in before
