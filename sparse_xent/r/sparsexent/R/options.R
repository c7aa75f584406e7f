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
        sQuote(name, FALSE), " is not an argument of ", this, if (!startsWith(this, "a ")) "()",
        ": did you mean ", sQuote(near[[1L]], FALSE), "?"
      )
    }
  }
}

# What an object is called with besides data and weights (`more`: a call of list()). Options are those
# of the function that makes the object.
refuse_more <- function(this, options, called, more) {
  name <- names(more)[2L]
  if (is.null(name) || is.na(name) || !nzchar(name)) {
    fail(called, " takes y_true, y_pred and sample_weight, got one more")
  }
  by_name_alone <- if (startsWith(this, "loss_sparse_")) c("label_smoothing", "class_weight", "normalize")
  if (!name %in% c(names(options), by_name_alone)) {
    fail(called, " takes y_true, y_pred and sample_weight, got ", sQuote(name, FALSE))
  }
  value <- more[[2L]]
  options[name] <- list(if (nchar(paste(deparse(value), collapse = " ")) > 60L) as.name(name) else value)
  fail(
    name, " is an argument of ", this, "(), not of ", called, ": make the ",
    sub("_.*", "", this), " with it, ", as_call(this, options)
  )
}

# The options as R holds them, and as Python is sent them (NULL where that waits for the data: they say
# classes by name). A call's are most often those of the call before, and to compare them costs 1 us in
# place of 20.
options_of <- function(this, given) {
  before <- session$options[[this]]
  if (!identical(before$given, given)) {
    held <- checked_options(this, given)
    before <- list(given = given, held = held)
    if (!is_by_name(this, held)) before$sent <- python_options(this, held)
    session$options[[this]] <- before
  }
  before
}

checked_options <- function(this, options) {
  if (!all(nzchar(names(options)))) {
    before <- names(formals(this))
    fail("the arguments of ", this, "() after ", before[[match("...", before) - 1L]], " must be named")
  }
  for (name in names(options)) {
    value <- options[[name]]
    if (length(value) == 1L && is.atomic(value) && is.na(value) && name != "ignore_class") {
      fail(name, " must not be NA")
    }
  }
  options$axis <- checked_axis(options$axis)
  if (!is.null(options$ignore_class)) {
    options$ignore_class <- checked_classes(options$ignore_class)
  }
  if (!is.null(options$class_weight)) {
    options$class_weight <- checked_class_weight(options$class_weight)
  }
  options
}

# Ignored classes as a vector without names, levels as text.
checked_classes <- function(classes) {
  if (is.function(classes)) {
    fail("ignore_class must be a class, its number from 0 or its name, or several, got a function")
  }
  if (is.list(classes) && !is.object(classes) && all(lengths(classes) == 1L)) {
    classes <- unlist(lapply(classes, function(class) if (is.factor(class)) as.character(class) else class))
  }
  if (is.factor(classes)) classes <- as.character(classes)
  if (is_python(classes)) classes else unname(classes)
}

# Class weights as doubles, with names or without: of a vector, a list, or a table() and the like.
checked_class_weight <- function(weights) {
  if (is_python(weights)) {
    return(weights)
  }
  names <- names(weights)
  if (is.list(weights)) {
    odd <- which(lengths(weights) != 1L | !vapply(weights, is_number, NA))
    if (length(odd)) {
      what <- weights[[odd[[1L]]]]
      fail(
        "class_weight must hold one number for each class, got ",
        if (length(what) == 1L) kind(what) else paste(length(what), "values"), " at ",
        place_or_name(odd[[1L]], names), others(odd)
      )
    }
    weights <- vapply(weights, as.double, 0)
  } else if (!is_number(weights)) {
    fail(
      "class_weight must hold numbers, got ", kind(weights), way_to_numbers(weights, "class_weight")
    )
  } else if (length(dim(weights)) > 1L) {
    weights <- drop(unclass(weights))
    names <- names(weights)
    if (!is.null(dim(weights))) {
      fail(
        "class_weight must be a vector of one weight a class, got ",
        paste(dim(weights), collapse = " x "), " of them"
      )
    }
  }
  weights <- as.double(weights)
  missing <- which(is.na(weights))
  if (length(missing)) {
    fail(
      "class_weight must hold numbers, got NA at ", place_or_name(missing[[1L]], names),
      others(missing), ": give every class a weight, 1 where it is as the others"
    )
  }
  names(weights) <- checked_names(names)
  weights
}

# The names of class weights: each, once; or none.
checked_names <- function(names) {
  bare <- which(is.na(names) | !nzchar(names))
  twice <- anyDuplicated(names)
  if (length(names) && length(bare) == length(names)) {
    return(NULL)
  }
  if (length(bare)) {
    fail("class_weight must name every weight or none, got no name at [", bare[[1L]], "]", others(bare))
  }
  if (twice) {
    fail("class_weight must name each class once, got ", quoted(names[[twice]]), " twice")
  }
  names
}

place_or_name <- function(i, names) {
  if (is.null(names) || is.na(names[[i]]) || !nzchar(names[[i]])) {
    paste0("[", i, "]")
  } else {
    paste0("[", quoted(names[[i]]), "]")
  }
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
  if (is_python(classes)) {
    return(classes)
  }
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
      if (startsWith(this, "a ")) {
        paste(this, "takes both")
      } else if (startsWith(this, "loss_")) {
        paste0(this, "() takes both (one loss per label) or neither (an object that reduces)")
      } else {
        paste0(this, "() takes both (one value per label) or neither (an object that takes batches)")
      }
    )
  }
  labels && scores
}

# y_true and y_pred as Python is to see them; and the options, where they say classes by name.
sent_of <- function(this, y_true, y_pred, options) {
  x <- numbers_of(y_pred, "y_pred")
  axis <- options$axis
  if (abs(axis) > length(dim(x)) && !is_python(x)) refuse_axis_beyond(axis, dim(x))
  if (!is_sparse(this)) {
    return(list(y = in_order_of(numbers_of(y_true, "y_true"), x, axis), x = x, options = NULL))
  }
  by_class <- NULL
  ignored <- options$ignore_class
  missing_class <- !is.null(ignored) && !is_python(ignored) && anyNA(ignored)
  if ((by_name <- is_by_name(this, options)) || is.object(y_true) && is.factor(y_true)) {
    classes <- class_names(y_true, x, options)
    if (by_name) by_class <- by_position(options, classes, y_true)
    if (is.factor(y_true)) y_true <- {
      codes_of(y_true, classes, ignored_names(options), axis_of_levels(y_true, x, options))
    }
  }
  list(y = labels_of(y_true, missing_class), x = x, options = by_class)
}

refuse_axis_beyond <- function(axis, dims) {
  if (abs(axis) > length(dims)) {
    fail(
      "axis must be from 1 to ", length(dims), ", or -1 for the last, for y_pred of ",
      paste(dims, collapse = " x "), ", got ", axis, " (R counts dimensions from 1)"
    )
  }
}
