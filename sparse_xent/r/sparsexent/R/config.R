# keras3's settings, and its op_array(), so that its examples run as they stand.

config_floatx <- function() plain(asked(python_function("config_floatx")()))

config_set_floatx <- function(value) set("config_set_floatx", value)

config_epsilon <- function() plain(asked(python_function("config_epsilon")()))

config_set_epsilon <- function(value) set("config_set_epsilon", value)

config_threads <- function() plain(asked(python_function("config_threads")()))

config_set_threads <- function(value) set("config_set_threads", value)

set <- function(setter, value) {
  if (length(value) == 1L && is.atomic(value) && is.na(value)) fail("value must not be NA")
  invisible(plain(asked(python_function(setter)(value))))
}

op_array <- function(x, dtype = NULL) {
  plain(asked(python_function("op_array")(numbers_of(x, "x"), dtype)))
}
