# The way to Python and back: the module, found when it is first needed; calls whose errors come
# back as one R sentence; results as plain vectors and arrays.

# What this session has found in Python. Nothing of it is in the objects that users hold, so that
# these can be saved, sent to a worker and read in a session where Python has yet to start.
session <- new.env(parent = emptyenv())
session$objects <- new.env(parent = emptyenv())
session$options <- list()
session$callers <- list()

# A function of a module of Python's. Found once: `$` on a module costs as much as a small loss.
python_function <- function(name, module = "sparse_xent") {
  if (is.null(session[[name]])) {
    session[[name]] <- tryCatch(
      import(module, convert = FALSE)[[name]],
      error = function(e) fail(not_loaded(in_r_words(conditionMessage(e))))
    )
  }
  session[[name]]
}

# What is said where Python has no sparse_xent: which Python that is, and the two lines that mend it.
not_loaded <- function(why) {
  paste0(
    "sparse_xent cannot be loaded from ", python_used(), " (", why,
    if (!nzchar(Sys.getenv("RETICULATE_PYTHON"))) "; RETICULATE_PYTHON is not set",
    "): run `make setup-r` in a clone of sparse_xent, and begin a new R session with ",
    "`Sys.setenv(RETICULATE_PYTHON = \"/path/to/the/clone/.venv-r/bin/python\")`"
  )
}

python_used <- function() {
  asked <- Sys.getenv("RETICULATE_PYTHON")
  if (py_available()) py_config()$python else if (nzchar(asked)) asked else "any Python"
}

# What calls a function or an object of Python's: a NumPy scalar it gives comes back as a plain number,
# which reticulate turns into R's sooner, and what it warns of comes with the result: see plainly() in
# sparse_xent.r.
python_plainly <- function(object) {
  python_function("plainly", "sparse_xent.r")(object)$`__call__`
}

# The same of a function of the module, found once.
python_caller <- function(name) {
  if (is.null(session$callers[[name]])) {
    session$callers[[name]] <- python_plainly(python_function(name))
  }
  session$callers[[name]]
}

# The value of a call of Python, or its refusal in R's words.
asked <- function(call) {
  withCallingHandlers(call, error = function(e) fail(in_r_words(conditionMessage(e))))
}

# What Python returned, as R has it: numbers, vectors and arrays, never an array of one dimension; and
# what Python warned of as a warning of R's.
# It goes by py_to_r()'s default method, found once: the one for "numpy.ndarray" asks Python about
# dates (0.6 ms a call in reticulate 1.28), and to look for methods of each class costs a call 5 us.
plain <- function(result) {
  if (is.null(session$to_r)) {
    session$to_r <- utils::getS3method("py_to_r", "default", envir = asNamespace("reticulate"))
  }
  result <- session$to_r(result)
  if (is.list(result) && !is.null(names(result))) {
    for (text in result$warnings) warning(in_r_words(text), call. = FALSE)
    result <- result$result
  }
  without_one_dim(result)
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
  text <- sub("^[A-Za-z_.]*(Error|Exception|Warning): ", "", first_line(text))
  if (grepl("incompatible NumPy binary version", text, fixed = TRUE)) {
    return(paste0(
      text, ": this reticulate needs NumPy below 2 (", python_used(), " -m pip install 'numpy<2'), ",
      "or update reticulate to 1.41 or later"
    ))
  }
  # Missing values, and what becomes of them here.
  text <- gsub("(nan|-2147483648) \\(NA in R\\)", "NA", text)
  text <- sub(
    "drop missing labels, or name a class.*$",
    "drop what is missing, or let it not count with ignore_class = NA", text
  )
  text <- sub(" at ()", "", text, fixed = TRUE)
  # The ways out, R's where both are said.
  text <- sub("use y - 1 \\([^()]*in R: y - 1L\\)", "use y_true - 1L", text)
  text <- sub(
    "use loss_categorical_crossentropy, or argmax \\([^()]*\\([^()]*\\)\\)",
    paste0(
      "use loss_categorical_crossentropy(), or ",
      if (grepl("own \\([0-9]+,\\)", text)) "which.max" else "max.col", "(y_true) - 1L"
    ), text
  )
  text <- sub(
    "pass numpy\\.[a-z]+\\(\\[([01] [-*] y_pred), y_pred\\], axis=-?[0-9]+\\)( \\(of logits.*| \\(in R: [^)]*\\)\\))?",
    "pass cbind(\\1, y_pred)", text
  )
  text <- gsub("\\S+ \\(in R: ([^()]*|[^()]*\\([^()]*\\))\\)", "\\1", text)
  text <- sub("and y_true - 1$", "and y_true - 1L", text)
  text <- sub("pass numpy\\.reshape\\(y_true, \\(([0-9]+(, [0-9]+)*),?\\)\\)", "pass array(y_true, c(\\1))", text)
  text <- sub("class_weight's keys", "class_weight's names", text, fixed = TRUE)
  text <- sub("pass w\\[((None, )+):\\]", "pass array(w, c(\\1length(w)))", text)
  text <- gsub("None, ", "1, ", text, fixed = TRUE)
  text <- gsub("(from_logits|ignore_class|class_weight|normalize|reduction)=", "\\1 = ", text)
  text <- gsub("sample_weight=w", "sample_weight = w", text, fixed = TRUE)
  text <- gsub("\\bTrue\\b", "TRUE", text)
  text <- gsub("\\bFalse\\b", "FALSE", text)
  text <- gsub("\\bNone\\b", "NULL", text)
  # Values: R says no type beside one, and shows whole doubles without a point.
  text <- gsub(" \\((str|int|float|bool|a bool; in R an NA arrives as TRUE)\\)", "", text)
  text <- gsub("\\[([^][]*)\\] \\(list\\)", "c(\\1)", text)
  text <- gsub("(?<![0-9.])([0-9]+)\\.0(?![0-9.e])", "\\1", text, perl = TRUE)
  text <- gsub("\\binf\\b", "Inf", text)
  text <- gsub("\\bnan\\b", "NA", text)
  text <- gsub("\\{[^{}]*\\} \\(dict\\)|\\ba dict\\b", "a list", text)
  text <- gsub("\\ban? ndarray\\b", "an array", text)
  text <- sub(", a dtype or a dtype policy,", ",", text, fixed = TRUE)
  text <- sub("one of \\(('[^()]*')\\)", "one of \\1", text)
  # Positions and axes count from 1, and shapes are written with an x.
  text <- replaced(text, " at \\([0-9, ]+\\)", function(found) {
    paste0(" at [", paste(whole_numbers(found) + 1, collapse = ", "), "]")
  })
  text <- replaced(text, "\\baxis [0-9]+", function(found) {
    paste("axis", whole_numbers(found) + 1)
  })
  text <- replaced(text, "\\baxis=[0-9]+", function(found) {
    paste("axis =", whole_numbers(found) + 1)
  })
  text <- gsub("()", "(a single number)", text, fixed = TRUE)
  text <- gsub("((loss|metric)_[a-z_]+)\\(a single number\\)", "\\1()", text)
  text <- sub("stack (1 - p, p .*along that axis)", "bind \\1, as cbind() does along axis 2", text)
  text <- replaced(text, "(?<!c)\\([0-9]+(, [0-9]+)+\\)|\\([0-9]+,\\)", function(found) {
    paste0("(", paste(whole_numbers(found), collapse = " x "), ")")
  })
  gsub("ignore_class = \\[([^]]*)\\]", "ignore_class = c(\\1)", text)
}

replaced <- function(text, pattern, by) {
  matches <- gregexpr(pattern, text, perl = TRUE)
  found <- regmatches(text, matches)[[1L]]
  regmatches(text, matches) <- list(vapply(found, by, "", USE.NAMES = FALSE))
  text
}

whole_numbers <- function(text) as.numeric(regmatches(text, gregexpr("[0-9]+", text))[[1L]])
