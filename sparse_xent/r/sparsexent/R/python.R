# The way to Python and back: the module, found when it is first needed; calls whose errors come
# back as one R sentence; results as plain vectors and arrays.

# What this session has found in Python. Nothing of it is in the objects that users hold, so that
# these can be saved, sent to a worker and read in a session where Python has yet to start.
session <- new.env(parent = emptyenv())
session$objects <- new.env(parent = emptyenv())
session$options <- list()

sx <- function() {
  if (is.null(session$module)) {
    session$module <- tryCatch(
      import("sparse_xent", convert = FALSE),
      error = function(e) {
        fail(
          "the Python package sparse_xent cannot be loaded (", first_line(conditionMessage(e)),
          "): before R starts, set RETICULATE_PYTHON to a Python that has it"
        )
      }
    )
  }
  session$module
}

# A function of the module. Found once: `$` on a module costs as much as a small loss.
python_function <- function(name) {
  if (is.null(session[[name]])) session[[name]] <- sx()[[name]]
  session[[name]]
}

# What calls an object of Python's: a NumPy scalar it gives comes back as a plain number, which
# reticulate turns into R's sooner: see plainly() in sparse_xent.r.
python_plainly <- function(object) {
  if (is.null(session$plainly)) session$plainly <- import("sparse_xent.r", convert = FALSE)$plainly
  session$plainly(object)$`__call__`
}

# The value of a call of Python, or its refusal in R's words.
asked <- function(call) {
  withCallingHandlers(call, error = function(e) fail(in_r_words(conditionMessage(e))))
}

# What Python returned, as R has it: numbers, vectors and arrays, never an array of one dimension.
# It goes by py_to_r()'s default method, found once: the one for "numpy.ndarray" asks Python about
# dates (0.6 ms a call in reticulate 1.28), and to look for methods of each class costs a call 5 us.
plain <- function(result) {
  if (is.null(session$to_r)) {
    session$to_r <- utils::getS3method("py_to_r", "default", envir = asNamespace("reticulate"))
  }
  without_one_dim(session$to_r(result))
}

without_one_dim <- function(x) {
  if (length(dim(x)) == 1L) dim(x) <- NULL
  x
}

fail <- function(...) stop(..., call. = FALSE)

first_line <- function(text) {
  lines <- trimws(strsplit(text, "\n", fixed = TRUE)[[1L]])
  lines <- lines[nzchar(lines)]
  if (length(lines)) lines[[1L]] else ""
}

# ---- Python's sentence in R's words --------------------------------------------------------------

in_r_words <- function(text) {
  text <- sub("^[A-Za-z_.]*(Error|Exception): ", "", first_line(text))
  if (grepl("incompatible NumPy binary version", text, fixed = TRUE)) {
    return(paste0(
      text, ": this reticulate needs a Python with NumPy below 2 (pip install 'numpy<2'), ",
      "or update reticulate to 1.41 or later"
    ))
  }
  # Missing values, and what becomes of them here.
  text <- gsub("(nan|-2147483648) \\(NA in R\\)", "NA", text)
  text <- sub(
    "drop missing labels, or name a class.*$",
    "drop what is missing, or let it not count with ignore_class = NA", text
  )
  # The ways out.
  text <- sub("use y - 1 (in R: y - 1L)", "use y_true - 1L", text, fixed = TRUE)
  text <- sub(
    "use loss_categorical_crossentropy, or argmax.*$",
    "use loss_categorical_crossentropy(), or max.col(y_true) - 1L", text
  )
  text <- sub("pass w\\[((None, )+):\\]", "pass array(w, c(\\1length(w)))", text)
  text <- gsub("None, ", "1, ", text, fixed = TRUE)
  text <- gsub("(ignore_class|class_weight|reduction)=", "\\1 = ", text)
  text <- gsub("sample_weight=w", "sample_weight = w", text, fixed = TRUE)
  text <- gsub("\\bTrue\\b", "TRUE", text)
  text <- gsub("\\bFalse\\b", "FALSE", text)
  text <- gsub("\\bNone\\b", "NULL", text)
  # Positions and axes count from 1, and shapes are written with an x.
  text <- replaced(text, " at \\([0-9, ]+\\)", function(found) {
    paste0(" at [", paste(whole_numbers(found) + 1, collapse = ", "), "]")
  })
  text <- replaced(text, "\\baxis [0-9]+", function(found) {
    paste("axis", whole_numbers(found) + 1)
  })
  text <- gsub("()", "(a single number)", text, fixed = TRUE)
  text <- gsub("loss_(sparse_)?categorical_crossentropy\\(a single number\\)",
    "loss_\\1categorical_crossentropy()", text
  )
  replaced(text, "\\([0-9]+(, [0-9]+)+\\)|\\([0-9]+,\\)", function(found) {
    paste0("(", paste(whole_numbers(found), collapse = " x "), ")")
  })
}

replaced <- function(text, pattern, by) {
  matches <- gregexpr(pattern, text, perl = TRUE)
  found <- regmatches(text, matches)[[1L]]
  regmatches(text, matches) <- list(vapply(found, by, "", USE.NAMES = FALSE))
  text
}

whole_numbers <- function(text) as.numeric(regmatches(text, gregexpr("[0-9]+", text))[[1L]])
