# Renders the vignettes: every chunk is run anew, R's and Python's, and nothing is cached.
#
#     Rscript vignettes/make.R [FOLDER [NAME...]]      into vignettes/ (`make vignettes`), or into another
#                                                      folder; all of them, or those named
#
# Python is RETICULATE_PYTHON's, else that of .venv-r. no-framework-at-all, as committed, is of MNIST: the
# environment variable SPARSE_XENT_DATA names its folder (sparse_xent/demo/data.py says what is in it).
# Pages that train a model with Keras say so by a line `steps = None`: a fit takes all of its data.
# SPARSE_XENT_STEPS=2 makes that `steps = 2`, the steps of an epoch, for a look in a minute.
#
# NAME.Rmd gives NAME.md and figures/NAME-*.png. The last lines of NAME.md name the versions that made it and
# the sum (MD5) of NAME.Rmd, so that a test can tell whether it is current. From NAME.md and page.html comes
# NAME.html, for the R package: one file with its figures, in inst/doc beside its source; and
# build/vignette.rds, the index by which browseVignettes() finds them, so that neither pandoc nor knitr nor
# Python is needed where the package is installed. (With a FOLDER they come into FOLDER/sparsexent.) What a
# machine measures (chunks with `measured = TRUE`, and the versions) stands between comments,
# <!-- measured --> and <!-- /measured -->: it differs from run to run.

script <- sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE))
here <- dirname(normalizePath(script))
root <- dirname(here)
folder <- normalizePath(c(commandArgs(TRUE), here)[1])
dir.create(file.path(folder, "figures"), showWarnings = FALSE)
package <- if (folder == here) file.path(root, "sparse_xent/r/sparsexent") else file.path(folder, "sparsexent")
for (part in c("inst/doc", "build")) {
  dir.create(file.path(package, part), recursive = TRUE, showWarnings = FALSE)
}
if (!nzchar(Sys.which("pandoc"))) stop("pandoc is not found: it makes the pages for browseVignettes()")
if (!nzchar(Sys.getenv("RETICULATE_PYTHON")) && file.exists(file.path(root, ".venv-r/bin/python")))
  Sys.setenv(RETICULATE_PYTHON = file.path(root, ".venv-r/bin/python"))
Sys.setenv(PYTHONPATH = root, MPLBACKEND = "agg", KERAS_BACKEND = "torch", OMP_WAIT_POLICY = "passive")
steps <- Sys.getenv("SPARSE_XENT_STEPS", "None")

suppressPackageStartupMessages(library(knitr))
invisible(reticulate::import("sparse_xent"))
# The R package is this checkout's too, whichever is installed.
own_library <- tempfile("library")
dir.create(own_library)
install.packages(
  file.path(root, "sparse_xent/r/sparsexent"), own_library, repos = NULL, type = "source", quiet = TRUE,
  INSTALL_opts = c("--no-docs", "--no-test-load")
)
.libPaths(c(own_library, .libPaths()))
invisible(loadNamespace("sparsexent", own_library))

render_markdown()
opts_knit$set(progress = FALSE, verbose = FALSE, root.dir = folder)
opts_chunk$set(
  collapse = FALSE, comment = "", cache = FALSE, error = FALSE,
  dev = "png", dev.args = list(type = "cairo"), dpi = 96, fig.width = 6.6, fig.height = 3.3
)
options(width = 84, digits = 7)
knit_hooks$set(
  measured = function(before, options) {
    if (before) "<!-- measured -->\n" else "\n<!-- /measured -->"
  },
  plot = function(x, options) sprintf("\n![%s](%s)\n", options$fig.alt, x)
)

#' The versions that made a page, on one line: Keras's and torch's too, where it trains with them.
made_by <- function(trained) {
  # torch's version is a kind of text that R would take for two.
  version <- function(module) reticulate::py_str(reticulate::import(module, convert = FALSE)$`__version__`)
  modules <- c(NumPy = "numpy", Matplotlib = "matplotlib", if (trained) c(Keras = "keras", torch = "torch"),
               sparse_xent = "sparse_xent")
  versions <- c(
    R = format(getRversion()), knitr = format(packageVersion("knitr")),
    reticulate = format(packageVersion("reticulate")),
    Python = reticulate::import("platform")$python_version(), vapply(modules, version, "")
  )
  paste(names(versions), versions, collapse = ", ")
}

#' Lines of Markdown, with blocks of the same language made one where nothing stands between them.
joined <- function(lines) {
  fences <- grep("^```", lines)
  closing <- fences[c(FALSE, TRUE)]
  language <- lines[fences[c(TRUE, FALSE)]]
  for (i in rev(seq_along(closing)[-1])) {
    from <- closing[i - 1]
    to <- fences[2 * i - 1]
    bare <- !any(nzchar(lines[seq_len(to - from - 1) + from]))
    if (bare && language[i] == language[i - 1] && language[i] != "```") lines <- lines[-(from:to)]
  }
  fences <- grep("^```", lines)
  ends <- fences[c(FALSE, TRUE)] - 1                  # code may end with a blank line: it is left out
  blank <- ends[!nzchar(lines[ends])]
  if (length(blank)) lines[-blank] else lines
}

#' The title in the header of NAME.Rmd.
title_of <- function(name) {
  lines <- readLines(file.path(here, paste0(name, ".Rmd")), encoding = "UTF-8")
  sub('^title: "(.*)"$', "\\1", grep("^title:", lines, value = TRUE)[1])
}

#' Whether NAME.Rmd trains a model with Keras.
trains <- function(name) {
  any(startsWith(readLines(file.path(here, paste0(name, ".Rmd")), encoding = "UTF-8"), "steps = None"))
}

#' torch with the matrix products that it brings. In R's process it would find those of R's BLAS first: with the
#' reference BLAS a step of an LSTM took 5.6 s of a core there, where it takes 1.3 s.
load_torch <- function() {
  reticulate::py_run_string("if True:
    import os, sys
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | getattr(os, 'RTLD_DEEPBIND', 0))
    import torch
    sys.setdlopenflags(flags)
  ")
}

render <- function(name) {
  source <- file.path(here, paste0(name, ".Rmd"))
  opts_chunk$set(fig.path = file.path("figures", paste0(name, "-")))
  # Each vignette starts bare, in R as in Python.
  if ("package:sparsexent" %in% search()) detach("package:sparsexent")
  reticulate::py_run_string(
    "for _ in [n for n in globals() if n[0] != '_' and n not in ('r', 'R')]: del globals()[_]"
  )
  text <- sub("^steps = None", paste("steps =", steps), readLines(source, encoding = "UTF-8"))
  text <- knit(text = text, envir = new.env(parent = globalenv()), quiet = TRUE)
  lines <- joined(strsplit(paste(text, collapse = "\n"), "\n")[[1]])
  header <- which(lines == "---")[1:2]
  body <- lines[-seq_len(header[2])]
  foot <- c(
    "", "---", "", "<!-- measured -->", paste0("Made with ", made_by(trains(name)), "."), "<!-- /measured -->", "",
    sprintf("<!-- of %s.Rmd, MD5 %s -->", name, tools::md5sum(source))
  )
  page <- c(paste("#", title_of(name)), body, foot)
  writeLines(page, file.path(folder, paste0(name, ".md")), useBytes = TRUE)
}

#' NAME.html of NAME.md: links lead to the other pages, figures stand in the page itself.
to_html <- function(name) {
  markdown <- file.path(folder, paste0(name, ".md"))
  template <- file.path(here, "page.html")
  made <- tempfile(fileext = ".html")
  of <- sprintf("of %s.md, MD5 %s, and page.html, MD5 %s", name, tools::md5sum(markdown), tools::md5sum(template))
  status <- system2("pandoc", shQuote(c(
    "--from=gfm", "--to=html5", "--wrap=preserve", paste0("--template=", template),
    "-V", paste0("pagetitle=", title_of(name)), "-V", paste0("of=", of), "-o", made, markdown
  )))
  stopifnot(status == 0)
  page <- readLines(made, encoding = "UTF-8")
  page <- gsub('href="([a-z-]+)[.]md"', 'href="\\1.html"', page)
  page <- gsub('<span id="cb[0-9-]+"><a href="[^"]*"[^>]*></a>', "<span>", page)
  for (language in c("R", "Python")) {
    class <- sprintf('class="sourceCode %s"', tolower(language))
    begins <- sprintf('<div class="sourceCode" id="cb[0-9]+"><pre *%s><code %s>', class, class)
    page <- sub(begins, sprintf('<div class="code" data-language="%s"><pre><code>', language), page)
  }
  for (figure in list.files(file.path(folder, "figures"), paste0("^", name, "-"), full.names = TRUE)) {
    shown <- sprintf('src="figures/%s"', basename(figure))
    page <- sub(shown, sprintf('src="%s"', image_uri(figure)), page, fixed = TRUE)
  }
  writeLines(page, file.path(package, "inst/doc", paste0(name, ".html")), useBytes = TRUE)
  file.copy(file.path(here, paste0(name, ".Rmd")), file.path(package, "inst/doc"), overwrite = TRUE)
}

names <- sub("[.]Rmd$", "", basename(sort(Sys.glob(file.path(here, "*.Rmd")))))
asked <- commandArgs(TRUE)[-1]
stopifnot(asked %in% names)
if (!length(asked)) asked <- names
if (any(vapply(asked, trains, NA))) load_torch()
for (name in asked) {
  began <- proc.time()[["elapsed"]]
  unlink(Sys.glob(file.path(folder, "figures", paste0(name, "-*.png"))))
  setwd(folder)
  render(name)
  to_html(name)
  cat(sprintf("vignettes: %s, %.0f s\n", name, proc.time()[["elapsed"]] - began))
}

# What R CMD build would have written: version 2 of the format is read by every R.
titles <- vapply(names, title_of, "", USE.NAMES = FALSE)
index <- data.frame(File = paste0(names, ".Rmd"), Title = titles, PDF = paste0(names, ".html"), R = "")
index$Keywords <- index$Depends <- rep(list(character()), length(names))
saveRDS(index, file.path(package, "build/vignette.rds"), version = 2)
