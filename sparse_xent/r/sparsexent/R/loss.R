# keras3's two losses: with data one loss a label, without data an object that reduces.

loss_sparse_categorical_crossentropy <- function(
    y_true, y_pred, from_logits = FALSE, ignore_class = NULL, axis = -1L, ...,
    reduction = "sum_over_batch_size", name = "sparse_categorical_crossentropy", dtype = NULL) {
  this <- "loss_sparse_categorical_crossentropy"
  refuse_partial_names(sys.call(), sys.function(), parent.frame(), this)
  options <- options_of(this, list(
    from_logits = from_logits, ignore_class = ignore_class, axis = axis, ...,
    reduction = reduction, name = name, dtype = dtype
  ))
  if (has_data(y_true, y_pred, this)) {
    per_label(this, y_true, y_pred, options)
  } else {
    new_loss(this, options$held)
  }
}

loss_categorical_crossentropy <- function(
    y_true, y_pred, from_logits = FALSE, label_smoothing = 0, axis = -1L, ...,
    reduction = "sum_over_batch_size", name = "categorical_crossentropy", dtype = NULL) {
  this <- "loss_categorical_crossentropy"
  refuse_partial_names(sys.call(), sys.function(), parent.frame(), this)
  options <- options_of(this, list(
    from_logits = from_logits, label_smoothing = label_smoothing, axis = axis, ...,
    reduction = reduction, name = name, dtype = dtype
  ))
  if (has_data(y_true, y_pred, this)) {
    per_label(this, y_true, y_pred, options)
  } else {
    new_loss(this, options$held)
  }
}

value_and_grad <- function(loss, y_true, y_pred, sample_weight = NULL, ...) {
  if (!inherits(loss, "sparsexent_loss")) {
    fail(
      "loss must be an object that loss_sparse_categorical_crossentropy() or ",
      "loss_categorical_crossentropy() returned, got ", kind(loss)
    )
  }
  held <- environment(loss)
  if (...length()) refuse_more(held$this, held$options, "value_and_grad()", substitute(list(...)))
  evaluated(held, "value_and_grad", y_true, y_pred, sample_weight)
}

# ---- the form with data --------------------------------------------------------------------------

per_label <- function(this, y_true, y_pred, options, sample_weight = NULL) {
  sent <- sent_of(this, y_true, y_pred, options$held)
  python <- python_caller(this)
  extra <- if (is.null(sent$options)) options$sent else python_options(this, sent$options)
  if (!is.null(sample_weight)) extra$sample_weight <- weights_of(sample_weight)
  plain(asked(
    if (length(extra)) do.call(python, c(list(sent$y, sent$x), extra)) else python(sent$y, sent$x)
  ))
}

# ---- the object ----------------------------------------------------------------------------------

# A function that remembers its options, and nothing that could not be saved: see `session`.
new_loss <- function(this, options) {
  held <- new.env(parent = environment(new_loss))
  held$this <- this
  held$options <- options
  held$key <- basename(tempfile(""))
  # Python's object is made now, so that a wrong option is refused here and not at the first call;
  # and its dtype is kept, config_floatx() as it is now, wherever and whenever the loss is called.
  held$options$dtype <- plain(python_object(held, without_names(this, options))$dtype)
  loss <- function(y_true, y_pred, sample_weight = NULL, ...) {
    refuse_partial_names(sys.call(), sys.function(), parent.frame(), "a loss")
    if (...length()) refuse_more(this, options, "a loss", substitute(list(...)))
    evaluated(parent.env(environment()), "call", y_true, y_pred, sample_weight)
  }
  environment(loss) <- held
  structure(loss, class = c("sparsexent_loss", "function"))
}

evaluated <- function(held, verb, y_true, y_pred, sample_weight) {
  if (!has_data(y_true, y_pred, "a loss")) {
    fail("y_true and y_pred are missing: a loss takes loss(y_true, y_pred, sample_weight = NULL)")
  }
  sent <- sent_of(held$this, y_true, y_pred, held$options)
  options <- if (is.null(sent$options)) held$options else sent$options
  python <- python_object(held, options)[[verb]]
  result <- plain(asked(
    if (is.null(sample_weight)) {
      python(sent$y, sent$x)
    } else {
      python(sent$y, sent$x, weights_of(sample_weight))
    }
  ))
  if (verb == "call") {
    return(result)
  }
  list(value = without_one_dim(result[[1L]]), gradient = named_as(result[[2L]], sent$x))
}

# A gradient with the names of its scores.
named_as <- function(gradient, x) {
  gradient <- without_one_dim(gradient)
  if (is.null(dim(gradient))) {
    names(gradient) <- dimnames(x)[[1L]]
  } else {
    dimnames(gradient) <- dimnames(x)
  }
  gradient
}

# Python's object of a loss with these options (the loss's own, or with classes found by name): made
# when it is first needed in this session. The options are compared, for a loss that was read from a
# file could have the key of another.
python_object <- function(held, options) {
  found <- session$objects[[held$key]]
  if (is.null(found) || !identical(found$options, options)) {
    if (length(session$objects) > 1000L) rm(list = ls(session$objects), envir = session$objects)
    object <- asked(do.call(python_function(held$this), python_options(held$this, options)))
    found <- list(
      options = options, object = object, call = python_plainly(object),
      value_and_grad = python_plainly(object$value_and_grad), dtype = object$dtype
    )
    found$options$dtype <- plain(found$dtype)
    session$objects[[held$key]] <- found
  }
  found
}

print.sparsexent_loss <- function(x, ...) {
  held <- environment(x)
  cat("<", as_call(held$this, held$options), ">\n", sep = "")
  invisible(x)
}

# The call that makes an object with these options; defaults are left out.
as_call <- function(this, options) {
  defaults <- formals(this)
  given <- options[!mapply(function(value, name) {
    name %in% names(defaults) && identical(value, eval(defaults[[name]]))
  }, options, names(options))]
  if (identical(given$dtype, config_floatx())) given$dtype <- NULL
  shown <- vapply(given, function(value) paste(deparse(value), collapse = " "), "")
  arguments <- paste(names(given), shown, sep = " = ", collapse = ", ", recycle0 = TRUE)
  paste0(this, "(", arguments, ")")
}

# The members that Python's object has, so that what was written for the one runs with the other.
`$.sparsexent_loss` <- function(x, name) {
  held <- environment(x)
  switch(name,
    name = , reduction = , dtype = held$options[[name]],
    get_config = function() held$options,
    value_and_grad = function(y_true, y_pred, sample_weight = NULL, ...) {
      if (...length()) refuse_more(held$this, held$options, "a loss", substitute(list(...)))
      evaluated(held, "value_and_grad", y_true, y_pred, sample_weight)
    },
    fail("a loss has no ", dQuote(name, FALSE), ": it has name, reduction, dtype, get_config() ",
      "and value_and_grad()")
  )
}

# A model's compile() gets Python's own object, which knows classes as whole numbers from 0.
r_to_py.sparsexent_loss <- function(x, convert = FALSE) {
  held <- environment(x)
  options <- held$options
  if (is_by_name(held$this, options)) options <- by_position(options, NULL, NULL)
  python_object(held, options)$object
}
