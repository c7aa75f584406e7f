# Which class is meant where R says it by name: a factor's levels, class_weight, ignore_class, and the
# names of one-hot targets. Names are matched to those that y_pred has along the class axis, else to
# the factor's levels. What is left for Python are whole numbers from 0 and weights by position.

# Whether a function takes integer labels, not targets.
is_sparse <- function(this) grepl("_sparse_", this, fixed = TRUE)

# A label of an ignored level that y_pred has no scores for.
IGNORED <- -1L

is_by_name <- function(this, options) {
  is_sparse(this) && (is.character(options$ignore_class) || has_names(options$class_weight))
}

has_names <- function(x) !is.null(x) && !is_python(x) && !is.null(names(x))

# The ignored classes that are named.
ignored_names <- function(options) {
  names <- options$ignore_class
  if (is.character(names)) known(names) else character()
}

# Where the class axis stands among so many dimensions.
place_of_axis <- function(axis, dims) if (axis > 0L) axis else dims + 1L + axis

# ---- the classes' names --------------------------------------------------------------------------

# What Python's scores are: their dimensions, and the names along the class axis (a data frame's).
seen_by_python <- function(x, axis) {
  seen <- plain(asked(python_function("seen", "sparse_xent.r")(x, axis - (axis > 0L))))
  dims <- unlist(seen[[1L]])
  refuse_axis_beyond(axis, dims)
  list(count = dims[[place_of_axis(axis, length(dims))]], names = as.character(unlist(seen[[2L]])))
}

# How many classes y_pred has, and what it calls them: NULL, or a name for each, NA for one without.
classes_of <- function(x, axis) {
  if (is_python(x)) {
    seen <- seen_by_python(x, axis)
    count <- seen$count
    names <- seen$names
  } else {
    at <- place_of_axis(axis, length(dim(x)))
    count <- dim(x)[[at]]
    names <- dimnames(x)[[at]]
  }
  names[!nzchar(names)] <- NA_character_
  list(count = count, names = if (!all(is.na(names))) names)
}

# The classes' names, in the classes' order. NULL: nothing names them.
class_names <- function(y, x, options) {
  classes <- classes_of(x, options$axis)
  refuse_number_of_level(options$ignore_class, classes$names, levels(y))
  if (is.factor(y)) refuse_one_score_each(y, x, classes, options)
  if (is.null(classes$names)) {
    return(if (is.factor(y)) levels_in_order(y, classes$count, x, options))
  }
  twice <- anyDuplicated(classes$names, incomparables = NA)
  if (twice) {
    fail(
      "y_pred must name each class once, got ", quoted(classes$names[[twice]]), " at [",
      match(classes$names[[twice]], classes$names), "] and [", twice,
      "] along its class axis: rename one of them"
    )
  }
  classes$names
}

known <- function(names) names[!is.na(names)]

# A single score for each label, as predict() of a model of two classes gives: a vector, or a column.
refuse_one_score_each <- function(y, x, classes, options) {
  dims <- if (!is_python(x)) dim(x)
  vector <- length(dims) == 1L
  column <- length(dims) == 2L && dims[[2L]] == 1L && options$axis != 1L && options$axis != -2L
  if (!(vector || column) || length(y) != prod(dims)) {
    return()
  }
  levels <- setdiff(known(levels(y)), ignored_names(options))
  one_class <- column || length(y) == 1L
  if (one_class && (length(levels) != 2L || all(is.na(y) | as.character(y) %in% classes$names))) {
    return()
  }
  two <- if (length(levels) == 2L && all(nzchar(levels))) {
    scores <- if (column) "y_pred[, 1]" else "y_pred"
    first <- if (all(x >= 0 & x <= 1, na.rm = TRUE)) "1 - " else "0 * "
    names <- vapply(levels, function(level) deparse(as.name(level), backtick = TRUE), "")
    paste0(
      ": if it is of class ", quoted(levels[[2L]]), ", pass cbind(", names[[1L]], " = ", first, scores, ", ",
      names[[2L]], " = ", scores, ")"
    )
  }
  fail(
    "y_pred must have a row for each label and a column for each class, ", length(y), " x ",
    max(2L, length(levels)), ", got ", paste(dims, collapse = " x "), ", a score for each label", two
  )
}

# The first other axis of y_pred that so many labels leave for classes, and of which `holds` is true.
other_axis <- function(y, x, axis, holds) {
  dims <- if (!is_python(x)) dim(x)
  others <- setdiff(seq_along(dims), place_of_axis(axis, length(dims)))
  Find(function(at) length(y) * dims[[at]] == prod(dims) && holds(at), others)
}

# One with the levels among its names. Cases may be named too: by their labels, or by numbers from 1.
axis_of_levels <- function(y, x, options) {
  levels <- setdiff(known(levels(y)), ignored_names(options))
  other_axis(y, x, options$axis, function(at) {
    names <- dimnames(x)[[at]]
    length(levels) && all(levels %in% names) && !anyDuplicated(names) &&
      !identical(names, as.character(y)) && !identical(names, as.character(seq_along(names)))
  })
}

# The end of a message, where another axis may be the classes'.
or_axis <- function(at) if (length(at)) paste0("; where the classes are along another axis, pass axis = ", at)

# A factor's levels where y_pred names no classes: there must be one a class, in the classes' order.
# An ignored level may stand beside them.
levels_in_order <- function(y, count, x, options) {
  ignored <- ignored_names(options)
  levels <- known(levels(y))
  named <- axis_of_levels(y, x, options)
  if (length(named)) {
    fail(
      "y_pred must have its classes along axis ", place_of_axis(options$axis, length(dim(x))),
      ", got y_true's levels (", some(levels), ") as the names along axis ", named, ": pass axis = ", named,
      ", or unname(y_pred) if these are not its classes"
    )
  }
  if (length(levels) != count && length(setdiff(levels, ignored)) == count) {
    levels <- setdiff(levels, ignored)
  }
  if (length(levels) != count) {
    fail(
      "y_true must be a factor with one level for each of the ", count, " classes, got ",
      length(levels), " levels (", some(levels), "): give it all classes in their order, ",
      "factor(y_true, levels = ...)", or_axis(
        other_axis(y, x, options$axis, function(at) dim(x)[[at]] == length(levels))
      )
    )
  }
  as_numbers <- suppressWarnings(as.numeric(levels))
  if (!anyNA(as_numbers) && is.unsorted(as_numbers)) {
    from_0 <- sort(as_numbers) - (seq_len(count) - 1L)
    way_out <- if (all(from_0 == 0)) {
      "send as.integer(as.character(y_true))"
    } else if (all(from_0 == 1)) {
      "send as.integer(as.character(y_true)) - 1L"
    } else {
      "give it the levels in the columns' order, factor(y_true, levels = ...)"
    }
    fail(
      "y_true is a factor whose levels are numbers out of order (", some(levels), "), so that ",
      "level and number disagree on the class: ", way_out
    )
  }
  levels
}

# ---- labels --------------------------------------------------------------------------------------

# A factor's labels as whole numbers from 0. Unused levels need not be classes.
# `elsewhere`: another axis with names like the levels, if there is one.
codes_of <- function(y, classes, ignored, elsewhere) {
  of_level <- match(levels(y), classes, incomparables = NA) - 1L
  of_level[is.na(of_level) & levels(y) %in% ignored] <- IGNORED
  codes <- of_level[as.integer(y)]
  if (anyNA(of_level[!is.na(levels(y))])) {
    strange <- which(is.na(codes) & !is.na(as.character(y)))
    if (length(strange)) {
      level <- as.character(y[[strange[[1L]]]])
      fail(
        "y_true must be a factor of the classes that y_pred names (", some(known(classes)), "), got ",
        quoted(level), " at ", place(strange[[1L]], y), others(strange), near(level, classes),
        ": rename its levels, or y_pred's classes", or_axis(elsewhere)
      )
    }
  }
  dim(codes) <- dim(y)
  codes
}

# ---- options -------------------------------------------------------------------------------------

# Options by name, as Python is to have them: by position. `y` are the labels as the user sent them.
by_position <- function(options, classes, y) {
  levels <- if (is.factor(y)) levels(y)
  if (has_names(options$class_weight)) {
    options$class_weight <- weights_by_position(
      options$class_weight, classes, ignored_names(options), is.factor(y)
    )
  }
  if (is.character(options$ignore_class)) {
    options$ignore_class <- ignored_by_position(options$ignore_class, classes, levels)
  }
  options
}

# The options that can be judged before there are data.
without_names <- function(this, options) {
  if (is_by_name(this, options)) {
    if (has_names(options$class_weight)) options["class_weight"] <- list(NULL)
    if (is.character(options$ignore_class)) options["ignore_class"] <- list(NULL)
  }
  options
}

ignored_by_position <- function(ignored, classes, levels) {
  named <- known(ignored)
  names <- unique(known(c(classes, levels)))
  if (!length(names) && length(named)) {
    fail(
      "ignore_class names a class, ", quoted(named[[1L]]), ", but ", NO_NAMES, " or send the ",
      "class as a number, counted from 0"
    )
  }
  strange <- which(!named %in% names)
  if (length(strange)) {
    fail(
      "ignore_class must name classes (", some(names), "), got ", quoted(named[[strange[[1L]]]]),
      others(strange), near(named[[strange[[1L]]]], names), ": rename it, or leave it out; a class's number,",
      " counted from 0, is sent without quotes"
    )
  }
  codes <- match(ignored, classes, incomparables = NA) - 1L
  codes[is.na(codes)] <- IGNORED
  codes[is.na(ignored)] <- NA
  unique(codes)
}

# A vector with one weight a class, 1 where none is named. Names that are no class's but whole
# numbers are classes counted from 0: Python's, which judges them.
weights_by_position <- function(weights, classes, ignored, of_factor) {
  names <- names(weights)
  found <- match(names, classes, incomparables = NA)
  numbered <- all(is_whole(names))
  if (numbered && all(is.na(found)) && !(length(classes) && all(is_whole(classes)))) {
    return(weights)
  }
  if (is.null(classes)) {
    fail(
      "class_weight names a class, ", quoted(names[!is_whole(names)][[1L]]), ", but ", NO_NAMES,
      " or send one weight for each class, without names"
    )
  }
  strange <- which(is.na(found) & !names %in% ignored)
  if (length(strange)) {
    fail(
      "class_weight must be named by classes (", some(known(classes)), "), got ",
      quoted(names[[strange[[1L]]]]), others(strange), near(names[[strange[[1L]]]], classes),
      ": rename it, or leave it out; classes that are not named weigh 1"
    )
  }
  named <- which(!is.na(found))
  numbers <- if (numbered) as.numeric(names) else NA
  if (!of_factor && numbered && all(numbers >= 0 & numbers < length(classes))) {
    other <- which(numbers != found - 1)
    if (length(other)) {
      fail(
        "class_weight names ", quoted(names[[other[[1L]]]]), ", which is one class by y_pred's ",
        "names and another one counted from 0: send one weight for each class, without names"
      )
    }
  }
  by_class <- rep(1, length(classes))
  by_class[found[named]] <- weights[named]
  by_class
}

# A number counts classes from 0. Where a level is that number and another class, either may be meant.
refuse_number_of_level <- function(ignored, classes, levels) {
  if (!is.numeric(ignored)) {
    return()
  }
  if (is.null(classes)) classes <- known(levels)
  is_level <- as.character(ignored) %in% known(levels)
  code <- match(as.character(ignored), classes, incomparables = NA) - 1L
  other <- which(is_level & (is.na(code) | code != ignored))
  if (length(other)) {
    number <- as.character(ignored[[other[[1L]]]])
    fail(
      "ignore_class = ", number, " is a class counted from 0, and ", quoted(number), " is another ",
      "level of y_true: name the level that is meant, ignore_class = ", quoted(number)
    )
  }
}

# ---- targets -------------------------------------------------------------------------------------

# One-hot or soft targets with their classes in y_pred's order, where both are named.
in_order_of <- function(y, x, axis) {
  if (is_python(y) || is.null(dimnames(y)) || abs(axis) > length(dim(y))) {
    return(y)
  }
  of_y <- classes_of(y, axis)$names
  of_x <- if (!is.null(of_y)) classes_of(x, axis)$names
  if (is.null(of_x) || identical(of_x, of_y) || length(of_x) != length(of_y)) {
    return(y)
  }
  order <- match(of_x, of_y)
  if (anyNA(of_x) || anyNA(order) || anyDuplicated(of_x)) {
    fail(
      "y_true must name the classes that y_pred names (", some(known(of_x)), "), each once, got ",
      some(known(of_y)), ": rename them, or where they stand in y_pred's order send ", bare("y_true", y)
    )
  }
  at <- rep(list(TRUE), length(dim(y)))
  at[[place_of_axis(axis, length(dim(y)))]] <- order
  do.call(`[`, c(list(y), at, drop = FALSE))
}

# ---- words ---------------------------------------------------------------------------------------

NO_NAMES <- "y_pred has no names along its class axis and y_true is not a factor: name y_pred's classes,"

quoted <- function(name) dQuote(name, FALSE)

is_whole <- function(names) grepl("^-?[0-9]+$", names)

bare <- function(argument, x) {
  if (length(dim(x)) == 2L) paste0("unname(as.matrix(", argument, "))") else paste0("unname(", argument, ")")
}

# A known name that differs in case, blanks or signs alone, as read.csv() and typing change them.
near <- function(name, known) {
  simple <- function(names) make.names(tolower(trimws(names)))
  at <- match(simple(name), simple(known))
  if (is.na(at)) "" else paste0(", where ", quoted(known[[at]]), " is known")
}
