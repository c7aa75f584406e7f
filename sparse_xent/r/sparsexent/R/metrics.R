# keras3's metrics: with data one value a label, without data an object that takes batch after batch.

metric_sparse_categorical_accuracy <- function(
    y_true, y_pred, ..., axis = -1L, ignore_class = NULL, sample_weight = NULL,
    name = "sparse_categorical_accuracy", dtype = NULL) {
  this <- "metric_sparse_categorical_accuracy"
  refuse_partial_names(sys.call(), sys.function(), parent.frame(), this)
  measured(this, y_true, y_pred, sample_weight, list(
    axis = axis, ignore_class = ignore_class, ..., name = name, dtype = dtype
  ))
}

metric_sparse_top_k_categorical_accuracy <- function(
    y_true, y_pred, k = 5L, ..., axis = -1L, ignore_class = NULL, sample_weight = NULL,
    name = "sparse_top_k_categorical_accuracy", dtype = NULL) {
  this <- "metric_sparse_top_k_categorical_accuracy"
  refuse_partial_names(sys.call(), sys.function(), parent.frame(), this)
  measured(this, y_true, y_pred, sample_weight, list(
    k = k, axis = axis, ignore_class = ignore_class, ..., name = name, dtype = dtype
  ))
}

metric_sparse_categorical_crossentropy <- function(
    y_true, y_pred, from_logits = FALSE, ignore_class = NULL, axis = -1L, ...,
    normalize = "after", sample_weight = NULL, name = "sparse_categorical_crossentropy", dtype = NULL) {
  this <- "metric_sparse_categorical_crossentropy"
  refuse_partial_names(sys.call(), sys.function(), parent.frame(), this)
  measured(this, y_true, y_pred, sample_weight, list(
    from_logits = from_logits, ignore_class = ignore_class, axis = axis, ...,
    normalize = normalize, name = name, dtype = dtype
  ))
}

metric_categorical_accuracy <- function(
    y_true, y_pred, ..., axis = -1L, sample_weight = NULL, name = "categorical_accuracy",
    dtype = NULL) {
  this <- "metric_categorical_accuracy"
  refuse_partial_names(sys.call(), sys.function(), parent.frame(), this)
  measured(this, y_true, y_pred, sample_weight, list(axis = axis, ..., name = name, dtype = dtype))
}

measured <- function(this, y_true, y_pred, sample_weight, given) {
  options <- options_of(this, given)
  if (has_data(y_true, y_pred, this)) {
    return(per_label(this, y_true, y_pred, options, sample_weight))
  }
  if (!is.null(sample_weight)) {
    fail(
      "sample_weight was given to ", this, "() without data: give it y_true and y_pred as well, or ",
      "call update_state(y_true, y_pred, sample_weight = w) of the object"
    )
  }
  new_metric(this, options$held)
}

# ---- the object ----------------------------------------------------------------------------------

# Functions around Python's object, which has the state. Where options say classes by name the first
# data tell which classes those are, and the object is made anew.
new_metric <- function(this, options) {
  made <- function(options) asked(do.call(python_function(this), python_options(this, options)))
  object <- made(without_names(this, options))
  options$dtype <- plain(object$dtype)
  by_class <- NULL
  here <- function() {
    if (py_is_null_xptr(object)) {
      fail("this metric was made in another session, and its state is gone: make it anew")
    }
    object
  }
  update_state <- function(y_true, y_pred, sample_weight = NULL, ...) {
    refuse_partial_names(sys.call(), sys.function(), parent.frame(), "a metric")
    if (...length()) refuse_more(this, options, "update_state()", substitute(list(...)))
    if (!has_data(y_true, y_pred, "a metric")) {
      fail("y_true and y_pred are missing: update_state(y_true, y_pred, sample_weight = NULL)")
    }
    sent <- sent_of(this, y_true, y_pred, options)
    to <- here()
    if (!is.null(sent$options) && is.null(by_class)) {
      to <- made(sent$options)
    } else if (!is.null(sent$options) && !identical(by_class, sent$options)) {
      fail("ignore_class names other classes than in the batches before: give them the same classes")
    }
    plain(asked(python_plainly(to$update_state)(sent$y, sent$x, weights_of(sample_weight))))
    object <<- to
    by_class <<- sent$options
    invisible()
  }
  merge <- function(other) {
    if (!inherits(other, "sparsexent_metric")) {
      fail("other must be an object that ", this, "() returned, got ", kind(other))
    }
    from <- environment(other$merge)
    to <- if (is.null(by_class) && !is.null(from$by_class)) made(from$by_class) else here()
    asked(to$merge(from$here()))
    object <<- to
    by_class <<- if (is.null(by_class)) from$by_class else by_class
    invisible()
  }
  structure(list(
    name = options$name, dtype = options$dtype, update_state = update_state,
    result = function() plain(asked(here()$result())),
    reset_state = function() {
      asked(here()$reset_state())
      invisible()
    },
    merge = merge, get_config = function() options
  ), class = "sparsexent_metric")
}

print.sparsexent_metric <- function(x, ...) {
  held <- environment(x$merge)
  cat("<", as_call(held$this, held$options), ": ", format(x$result()), ">\n", sep = "")
  invisible(x)
}
