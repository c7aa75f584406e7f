y <- c(1, 2)
p <- rbind(c(0.05, 0.95, 0), c(0.1, 0.8, 0.1))
named <- `colnames<-`(p, c("ash", "beech", "oak"))

skip_without_python <- function() {
  skip_if_not(
    reticulate::py_module_available("sparse_xent"), "Python with sparse_xent is not at hand"
  )
}

# The message of a wrong call: one line, whole, and with nothing of Python's in it.
refusal <- function(call) {
  message <- tryCatch({
    call
    "nothing was refused"
  }, error = conditionMessage)
  expect_no_match(message, "\n|Error:|Traceback|None|True|False|py_last_error")
  expect_no_match(message, "numpy|ndarray|tuple|dict\\b|\\bnan\\b|\\binf\\b|\\((str|int|float|bool|list)\\)")
  message
}

sparse <- loss_sparse_categorical_crossentropy
soft <- loss_categorical_crossentropy
