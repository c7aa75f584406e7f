skip_without_python()

test_that("labels that are no classes are refused, with their place and the way out", {
  expect_identical(
    refusal(sparse(c(1, 3), p)),
    paste(
      "y_true must hold whole numbers from 0 to 2 (3 classes): got 3 at [2];",
      "labels look 1-based: use y_true - 1L"
    )
  )
  expect_match(refusal(sparse(c(1.7, 1), p)), "got 1.7 at [1]", fixed = TRUE)
  expect_match(refusal(sparse(matrix(c(0, 1, 5, 7), 2), array(0.5, c(2, 2, 3)))),
    "got 5 at [1, 2] and 1 more; y_pred has 3 classes along axis 3",
    fixed = TRUE
  )
  expect_match(refusal(sparse(c(1, 255), p, ignore_class = c(7, 8))), "pass ignore_class = (255|c\\(7, 8, 255\\))$")
  expect_match(refusal(sparse(c("a", "b"), p)), "\"a\" (character): send .*match\\(y_true, classes\\) - 1L|match")
  expect_match(refusal(sparse(list(1, 2), p)), "send unlist(y_true)", fixed = TRUE)
  expect_match(refusal(sparse(data.frame(y), p)), "send its column, y_true[[1]]", fixed = TRUE)
  expect_match(refusal(sparse(diag(3)[2:3, ], p)), "loss_categorical_crossentropy(), or max.col(y_true) - 1L", fixed = TRUE)
  expect_match(refusal(sparse(c(1, 2, 0), p)), "expected (2) or (2 x 1), got (3) (y_pred is (2 x 3))", fixed = TRUE)
  expect_match(refusal(sparse(c(1, 2, 0), p)), "along another axis, pass axis = 1", fixed = TRUE)
})

test_that("scores of one class of two are told to be bound", {
  fitted <- c(0.2, 0.9, 0.6)
  expect_match(refusal(sparse(c(0, 1, 1), fitted)), "of class 1 of two, pass cbind(1 - y_pred, y_pred)", fixed = TRUE)
  expect_match(refusal(sparse(c(0, 1, 1), matrix(fitted))), "of class 1 of two, pass cbind(1 - y_pred, y_pred)", fixed = TRUE)
  expect_length(sparse(c(0, 1, 1), cbind(1 - fitted, fitted)), 3)
})

test_that("factors of other levels are refused", {
  expect_match(refusal(sparse(factor(c("x", "y")), p)), "one level for each of the 3 classes, got 2 levels (\"x\", \"y\")", fixed = TRUE)
  expect_match(refusal(sparse(factor(c("oak", "elm")), named)), "got \"elm\" at [2]: rename its levels", fixed = TRUE)
  twelve <- factor(as.character(0:11))
  expect_match(refusal(sparse(twelve, matrix(1 / 12, 12, 12))), "send as.integer(as.character(y_true))", fixed = TRUE)
})

test_that("NA of each type is refused where it stands", {
  for (label in list(
    c(1, NA), c(1L, NA), c(TRUE, NA), c(1, NaN), factor(c("b", NA), levels = c("a", "b", "c"))
  )) {
    message <- refusal(sparse(label, p))
    expect_match(message, "got NA at [2]; drop what is missing", fixed = TRUE)
    expect_match(message, "ignore_class = NA$")
    expect_match(refusal(sparse()(label, p)), "got NA at [2]", fixed = TRUE)
  }
  expect_match(refusal(sparse(matrix(c(0, NA), 1), array(0.5, c(1, 2, 3)))), "NA at [1, 2]", fixed = TRUE)
  expect_match(refusal(sparse(NA, p[1, , drop = FALSE])), "NA at [1]", fixed = TRUE)
  expect_match(refusal(sparse(c("a", NA), p)), "character")
  for (option in c("from_logits", "axis", "label_smoothing", "normalize", "reduction", "dtype")) {
    expect_match(refusal(do.call(sparse, setNames(list(NA), option))), paste0("^", option, " must not be NA$"))
  }
})

test_that("scores that are not numbers are refused", {
  expect_match(
    refusal(sparse(y, data.frame(a = c(0.5, 0.5), b = c("x", "y")))),
    "column 2, \"b\", is character: send as.matrix() of the columns that are numbers",
    fixed = TRUE
  )
  expect_match(refusal(sparse(y, matrix(letters[1:6], 2))), "it is text")
  expect_match(refusal(sparse(y, p + 0i)), "a complex matrix")
})

test_that("names are taken in full only", {
  meant <- "'from' is not an argument of loss_sparse_categorical_crossentropy(): did you mean 'from_logits'?"
  expect_identical(refusal(sparse(from = TRUE)), meant)
  through <- function(...) loss_sparse_categorical_crossentropy(...)
  expect_identical(refusal(through(y, p, from = TRUE)), meant)
  expect_identical(refusal(do.call(sparse, list(from = TRUE))), meant)
  expect_match(refusal(sparse(smoothing = 0.1)), "did you mean 'label_smoothing'?", fixed = TRUE)
  expect_match(refusal(sparse()(y, p, sample = 1)), "did you mean 'sample_weight'?", fixed = TRUE)
  expect_match(refusal(sparse(y, p, FALSE, NULL, -1L, 0.1)), "must be named")
})

test_that("an axis that is not there is refused in R's counting", {
  expect_match(refusal(sparse(y, p, axis = 0L)), "axis must not be 0: R counts dimensions from 1")
  expect_match(refusal(sparse(axis = 0L)), "axis must not be 0")
  expect_match(refusal(sparse(y, p, axis = 3L)), "from 1 to 2, or -1 for the last, for y_pred of 2 x 3, got 3")
  expect_match(refusal(sparse(axis = -3)(y, p)), "got -3")
  expect_match(refusal(sparse(axis = 1.5)), "axis must be one whole number")
})

test_that("the rest of what may go wrong is said as plainly", {
  expect_match(refusal(sparse(reduction = "avg")), "^reduction must be one of 'sum_over_batch_size', .*got 'avg'$")
  expect_match(refusal(sparse(y)), "^y_pred is missing, y_true was given")
  expect_match(refusal(sparse(y_pred = p)), "^y_true is missing, y_pred was given")
  expect_match(refusal(sparse()(y)), "^y_pred is missing, y_true was given")
  expect_match(refusal(sparse()()), "^y_true and y_pred are missing")
  expect_match(refusal(sparse(y, p, reduction = NULL)), "call loss_sparse_categorical_crossentropy(reduction = NULL)(y_true, y_pred)", fixed = TRUE)
  expect_match(refusal(sparse()(y, p, c(1, 2, 3))), "sample_weight must have the losses' shape (2)", fixed = TRUE)
  expect_match(refusal(sparse()(matrix(0, 2, 5), array(0.1, c(2, 5, 3)), 1:5)), "pass array(w, c(1, length(w)))", fixed = TRUE)
  expect_match(refusal(sparse()(y, p, c(1L, NA))), "got NA at [2]", fixed = TRUE)
  expect_match(refusal(sparse()(y, p, c(TRUE, NA))), "got NA at [2]", fixed = TRUE)
  expect_match(refusal(sparse()(y, p, c("1", "2"))), "storage.mode(sample_weight)", fixed = TRUE)
  expect_match(refusal(sparse(sample_weight = 1)), "sample_weight = w")
  expect_match(refusal(value_and_grad(1, y, p)), "^loss must be an object")
  expect_match(refusal(config_set_epsilon(1)), "\\b0 .*0\\.5\\b")
})
