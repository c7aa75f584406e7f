# What the user typed: names in full, axes from 1, no NA. Everything else about an option is
# Python's to judge.

# R completes the names of arguments that stand before `...`: from = TRUE would be from_logits.
refuse_partial_names <- function(call, definition, frame, this) {
  given <- names(call)
  for (i in seq_along(call)[-1L]) {
    if (identical(call[[i]], quote(...))) {
      given <- c(given, names(eval(quote(substitute(list(...))), frame)))
    }
  }
  if (is.null(given)) {
    return()
  }
  known <- names(formals(definition))
  for (name in given[nzchar(given) & !given %in% known]) {
    near <- known[startsWith(known, name)]
    if (length(near)) {
      fail(
        sQuote(name, FALSE), " is not an argument of ", this, if (this != "a loss") "()",
        ": did you mean ", sQuote(near[[1L]], FALSE), "?"
      )
    }
  }
}

# The options as R holds them, and as Python is sent them. A call's are most often those of the call
# before, and to compare them costs 1 us in place of 20.
options_of <- function(this, given) {
  before <- session$options[[this]]
  if (!identical(before$given, given)) {
    held <- checked_options(this, given)
    before <- list(given = given, held = held, sent = python_options(this, held))
    session$options[[this]] <- before
  }
  before
}

checked_options <- function(this, options) {
  if (!all(nzchar(names(options)))) {
    fail("the arguments of ", this, "() after axis must be named")
  }
  for (name in names(options)) {
    value <- options[[name]]
    if (length(value) == 1L && is.atomic(value) && is.na(value) && name != "ignore_class") {
      fail(name, " must not be NA")
    }
  }
  options$axis <- checked_axis(options$axis)
  options
}

checked_axis <- function(axis) {
  if (!is.numeric(axis) || length(axis) != 1L || axis != trunc(axis)) {
    fail(
      "axis must be one whole number, 1 for the first dimension or -1 for the last, got ",
      paste(deparse(axis), collapse = " ")
    )
  }
  if (axis == 0) {
    fail(
      "axis must not be 0: R counts dimensions from 1, and from the last with -1; Python's axis 0 ",
      "is axis = 1L"
    )
  }
  as.integer(axis)
}

# The options as Python takes them, without those at their default: each costs a conversion, and
# Python has a short way for calls that ask for nothing.
python_options <- function(this, options) {
  if (options$axis > 0L) options$axis <- options$axis - 1L
  if (!is.null(options$ignore_class)) {
    options$ignore_class <- python_classes(options$ignore_class)
  }
  if (!is.null(options$class_weight)) {
    options$class_weight <- python_class_weight(options$class_weight)
  }
  for (name in names(options)) {
    value <- options[[name]]
    if (identical(value, DEFAULTS[[this]][[name]]) && (name != "reduction" || !is.null(value))) {
      options[[name]] <- NULL
    }
  }
  options
}

DEFAULTS <- lapply(c(
  loss_sparse_categorical_crossentropy = "sparse_categorical_crossentropy",
  loss_categorical_crossentropy = "categorical_crossentropy"
), function(name) {
  list(
    from_logits = FALSE, axis = -1L, label_smoothing = 0, reduction = "sum_over_batch_size",
    name = name
  )
})

# NA among the ignored classes is the whole number by which Python knows R's NA_integer_.
python_classes <- function(classes) {
  if (is.numeric(classes) || is.logical(classes) && all(is.na(classes))) {
    classes <- as.numeric(classes)
    classes[is.na(classes)] <- NA_CLASS
  }
  if (length(classes) == 1L) classes else as.list(classes)
}

# By position, or by class where the weights are named: c("2" = 3) or list("2" = 3).
python_class_weight <- function(weights) {
  if (is.numeric(weights)) {
    if (is.null(names(weights))) array(weights) else as.list(weights)
  } else {
    weights
  }
}

# ---- data ----------------------------------------------------------------------------------------

has_data <- function(y_true, y_pred, this) {
  labels <- !missing(y_true) && !is.null(y_true)
  scores <- !missing(y_pred) && !is.null(y_pred)
  if (labels != scores) {
    fail(
      if (labels) "y_pred is missing, y_true was given: " else "y_true is missing, y_pred was given: ",
      if (this == "a loss") {
        "a loss takes both"
      } else {
        paste0(this, "() takes both (one loss per label) or neither (an object that reduces)")
      }
    )
  }
  labels && scores
}

# y_true and y_pred as Python is to see them.
sent_of <- function(this, y_true, y_pred, axis, ignore_class) {
  x <- numbers_of(y_pred, "y_pred")
  dims <- length(dim(x))
  if (abs(axis) > dims && !is_python(x)) {
    fail(
      "axis must be from 1 to ", dims, ", or -1 for the last, for y_pred of ",
      paste(dim(x), collapse = " x "), ", got ", axis, " (R counts dimensions from 1)"
    )
  }
  y <- if (this == "loss_sparse_categorical_crossentropy") {
    labels_of(y_true, x, axis, !is.null(ignore_class) && anyNA(ignore_class))
  } else {
    numbers_of(y_true, "y_true")
  }
  list(y, x)
}
