# Runs R files and writes into each, after every expression, what it prints, as "#> " lines:
#
#     Rscript man/run.R FILE.R ...
#
# The lines that stood there are replaced; a file that says what it prints is left as it is. Of an
# error inside try() the message alone is shown, without reticulate's frame, which varies.

shown <- function(expression, where) {
  said <- capture.output({
    result <- withVisible(eval(expression, where))
    failed <- inherits(result$value, "try-error")
    if (result$visible && !failed) print(result$value)
  })
  if (failed) {
    message <- regmatches(result$value, regexpr("[A-Z][A-Za-z]*Error: [^\n]*", result$value))
    stopifnot(length(message) == 1)
    said <- c(said, strwrap(message, 76, exdent = 2))
  }
  if (length(said)) paste("#>", said) else character()
}

renewed <- function(file) {
  lines <- readLines(file, encoding = "UTF-8")
  lines <- lines[!startsWith(lines, "#>")]
  expressions <- parse(text = lines, keep.source = TRUE)
  last <- vapply(attr(expressions, "srcref"), function(at) at[3], 1L)
  where <- new.env(parent = globalenv())
  after <- vector("list", length(lines))
  for (i in seq_along(expressions)) after[[last[i]]] <- shown(expressions[[i]], where)
  unlist(Map(c, lines, after), use.names = FALSE)
}

options(width = 80, digits = 7, try.outFile = file(nullfile(), "w"))
for (file in commandArgs(TRUE)) writeLines(renewed(file), file, useBytes = TRUE)
