# What the user sends, as Python is to see it. Matrices and arrays travel as they lie; a vector gets
# its length as a dimension (and its names as that dimension's), or reticulate would make a list of it,
# element by element.

# Scores (or anything of numbers): a matrix or array, the same memory unless it must be converted.
numbers_of <- function(x, argument) {
  if (is.double(x) && !is.object(x)) { # the usual case, asked first: small calls are a matter of us
    return(if (is.null(dim(x))) with_dim(x) else x)
  }
  if (is_python(x)) {
    return(x)
  }
  if (is.data.frame(x)) {
    odd <- which(!vapply(x, is_number, NA))
    if (length(odd)) {
      fail(
        argument, " must hold numbers, got a data.frame whose column ", odd[[1L]], ", ",
        dQuote(names(x)[[odd[[1L]]]], FALSE), ", is ", class(x[[odd[[1L]]]])[[1L]], others(odd),
        ": send as.matrix() of the columns that are numbers"
      )
    }
    x <- as.matrix(x)
  }
  if (!is_number(x)) {
    fail(argument, " must be a numeric matrix or array, got ", kind(x), way_to_numbers(x, argument))
  }
  # NA in what is not double would arrive in Python as 1 or as -2147483648.
  if (!is.double(x) && anyNA(x)) storage.mode(x) <- "double"
  with_dim(x)
}

# Labels: 0 for the first class. `missing_class` says that NA is among the ignored classes.
labels_of <- function(y, missing_class) {
  if (is.double(y) && !is.object(y) && !missing_class) {
    return(with_dim(y))
  }
  if (is_python(y)) {
    return(y)
  }
  if (is.character(y)) {
    fail(
      "y_true must hold whole numbers, got ", encodeString(y[1L], quote = "\""), " (character): send the ",
      "classes' positions less 1, match(y_true, classes) - 1L, or a factor"
    )
  } else if (is.data.frame(y)) {
    fail("y_true must be a vector of labels, got a data.frame: send its column, y_true[[1]]")
  } else if (!is_number(y)) {
    fail("y_true must hold whole numbers, got ", kind(y), way_to_numbers(y, "y_true"))
  }
  # A double NA is NaN in Python and refused there; an integer one is the whole number that
  # ignore_class = NA names; a logical one would be TRUE.
  if (missing_class) {
    if (is.logical(y)) storage.mode(y) <- "integer"
    if (is.double(y) && anyNA(y)) y[is.na(y)] <- NA_CLASS
  } else if (!is.double(y) && anyNA(y)) {
    refuse_missing(y, "drop what is missing, or let it not count with ignore_class = NA")
  }
  with_dim(y)
}

# R's NA_integer_ in Python.
NA_CLASS <- -2147483648

weights_of <- function(w) {
  if (is.null(w) || is_python(w)) {
    return(w)
  }
  if (!is_number(w)) {
    fail("sample_weight must hold numbers, got ", kind(w), way_to_numbers(w, "sample_weight"))
  }
  if (is.logical(w)) storage.mode(w) <- "integer" # whose NA Python knows
  if (is.double(w) && anyNA(w)) w[is.na(w)] <- NA_CLASS # refused there, unless its label is ignored
  if (length(w) == 1L && is.null(dim(w))) w else with_dim(w)
}

# ---- small questions -----------------------------------------------------------------------------

is_python <- function(x) inherits(x, "python.builtin.object")

is_number <- function(x) (is.numeric(x) || is.logical(x)) && !inherits(x, "integer64")

with_dim <- function(x) {
  if (is.null(dim(x))) {
    names <- names(x)
    dim(x) <- length(x)
    if (!is.null(names)) dimnames(x) <- list(names)
    x
  } else if (is.object(x)) {
    unclass(x)
  } else {
    x
  }
}

kind <- function(x) {
  name <- class(x)[[1L]]
  if (name %in% c("matrix", "array")) name <- paste("a", typeof(x), name)
  name
}

way_to_numbers <- function(x, argument) {
  if (is.data.frame(x)) {
    paste0(": send its column, ", argument, "[[1]]")
  } else if (is.character(x)) {
    paste0(": it is text; if it is numbers, storage.mode(", argument, ") <- \"double\"")
  } else if (is.factor(x) && argument == "y_true") {
    ": a factor's labels are for the functions with \"sparse\" in their names"
  } else if (isS4(x)) {
    paste0(": send as.matrix(", argument, ")")
  } else if (is.list(x)) {
    paste0(": send ", if (any(lengths(x) > 1L)) "do.call(rbind, " else "unlist(", argument, ")")
  } else if (inherits(x, "integer64")) {
    paste0(": send as.integer(", argument, ")")
  } else {
    ""
  }
}

refuse_missing <- function(y, way_out) {
  at <- which(is.na(y))
  fail("y_true must hold whole numbers, got NA at ", place(at[[1L]], y), others(at), "; ", way_out)
}

# Where an element stands, as R would index it: [3], or [2, 1] in a matrix.
place <- function(i, x) {
  at <- if (is.null(dim(x))) i else arrayInd(i, dim(x))
  paste0("[", paste(at, collapse = ", "), "]")
}

others <- function(found) if (length(found) > 1L) paste(" and", length(found) - 1L, "more") else ""

some <- function(names) {
  shown <- paste(dQuote(utils::head(names, 4L), FALSE), collapse = ", ")
  if (length(names) > 4L) paste0(shown, ", ...") else shown
}
