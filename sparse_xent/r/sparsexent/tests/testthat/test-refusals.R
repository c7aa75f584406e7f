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

test_that("a factor with scores of one class of two is told what to bind", {
  fitted <- c(0.2, 0.9, 0.6)
  label <- factor(c("no", "yes", "yes"))
  losses <- sparse(c(0, 1, 1), cbind(1 - fitted, fitted))
  way_out <- function(label, y_pred, ...) {
    message <- refusal(sparse(label, y_pred, ...))
    expect_match(message, "^y_pred must have a row for each label and a column for each class, [123] x 2, got ")
    eval(str2lang(sub(".*, pass ", "", message)))
  }
  frame <- data.frame(fitted)
  for (y_pred in list(fitted, c(`1` = 0.2, `2` = 0.9, `3` = 0.6), matrix(fitted), cbind(yes = fitted), frame)) {
    expect_identical(sparse(label, way_out(label, y_pred)), losses)
    expect_identical(sparse(rev(label), way_out(label, y_pred)), sparse(c(1, 1, 0), cbind(1 - fitted, fitted)))
  }
  expect_identical(sparse(label[2], way_out(label[2], fitted[2])), losses[2])
  expect_identical(sparse(label[1:2], way_out(label[1:2], c(0.25, 0.75))), sparse(0:1, cbind(c(0.75, 0.25), c(0.25, 0.75))))
  spam <- factor(c("not spam", "spam", "spam"))
  expect_identical(sparse(spam, way_out(spam, fitted)), losses)
  x <- c(-2, 3, 1)
  expect_identical(sparse(label, way_out(label, x), from_logits = TRUE), sparse(c(0, 1, 1), cbind(0, x), from_logits = TRUE))
  expect_match(refusal(sparse(factor(c("a", "b", "c")), fitted)), "3 x 3, got 3, a score for each label$")
  # One row of two classes, and one class.
  expect_identical(sparse(label[2], c(no = 0.1, yes = 0.9)), sparse(1, c(0.1, 0.9)))
  expect_identical(sparse(label[2], reticulate::r_to_py(c(0.1, 0.9))), sparse(1, c(0.1, 0.9)))
  expect_identical(suppressWarnings(sparse(label[2:3], cbind(yes = fitted[2:3]))), c(0, 0))
})

test_that("a vector of scores is not taken for a row where there are more labels", {
  fitted <- c(0.2, 0.9, 0.6)
  expect_match(refusal(sparse(c(0, 1, 1), fitted)), "axis of classes, (3 x 2) for two, got (3), a score for each label of 0 or 1", fixed = TRUE)
  expect_match(refusal(sparse(c(1, 2, 2), fitted)), "of class 2 of two, pass cbind\\(1 - y_pred, y_pred\\), and y_true - 1L$")
  expect_match(refusal(sparse(c(0, 1, 2), fitted)), "pass a row of scores, one a class, for each label$")
  expect_match(refusal(sparse(c(0, NA, 1), fitted)), "a score for each label of 0 or 1")
  expect_match(refusal(sparse(c(0, 1), c(0.3, 0.7))), "if they are a label for each score, pass cbind(1 - y_pred, y_pred)", fixed = TRUE)
  expect_match(refusal(sparse(c(0, 1, 0), p[1, ])), "look one-hot: use loss_categorical_crossentropy(), or which.max(y_true) - 1L", fixed = TRUE)
})

test_that("options of a loss that was made are refused where it is called", {
  made <- sparse(from_logits = TRUE)
  again <- "make the loss with it, loss_sparse_categorical_crossentropy(from_logits = TRUE, ignore_class = NA)"
  expect_match(refusal(made(y, p, ignore_class = NA)), again, fixed = TRUE)
  expect_match(refusal(made(y, p, NULL, ignore_class = NA)), again, fixed = TRUE)
  expect_match(refusal(value_and_grad(made, y, p, ignore_class = NA)), again, fixed = TRUE)
  expect_match(refusal(made$value_and_grad(y, p, ignore_class = NA)), again, fixed = TRUE)
  ignored <- NA
  expect_match(refusal(made(y, p, ignore_class = ignored)), "(from_logits = TRUE, ignore_class = ignored)", fixed = TRUE)
  expect_match(refusal(made(y, p, label_smoothing = NULL)), "(from_logits = TRUE, label_smoothing = NULL)", fixed = TRUE)
  long <- refusal(sparse()(y, p, class_weight = c(beech = 1.25, oak = 1.5, ash = 1.75, elm = 1.125, fir = 1.375)))
  expect_match(long, "(class_weight = class_weight)", fixed = TRUE)
  expect_match(
    refusal(metric_sparse_categorical_accuracy()$update_state(y, p, axis = 1)),
    "make the metric with it, metric_sparse_categorical_accuracy(axis = 1)",
    fixed = TRUE
  )
  expect_identical(refusal(sparse()(y, p, weights = 1)), "a loss takes y_true, y_pred and sample_weight, got 'weights'")
  expect_identical(refusal(soft()(y, p, class_weight = 1)), "a loss takes y_true, y_pred and sample_weight, got 'class_weight'")
  expect_identical(refusal(sparse()(y, p, NULL, NA)), "a loss takes y_true, y_pred and sample_weight, got one more")
})

test_that("values are shown as R shows them", {
  expect_match(refusal(sparse(y, p, from_logits = 1)), "must be TRUE or FALSE, got 1$")
  expect_match(refusal(sparse(y, p, from_logits = c(TRUE, FALSE))), "must be TRUE or FALSE, got c\\(TRUE, FALSE\\)$")
  expect_match(refusal(sparse(y, p, dtype = 64)), "'float64', got 64$")
  expect_match(refusal(sparse(y, p, label_smoothing = 2)), "between 0 and 1, got 2$")
  expect_match(refusal(sparse(y, p, label_smoothing = 1.05)), "between 0 and 1, got 1.05$")
  expect_match(refusal(sparse(y, p, ignore_class = TRUE)), "must be a whole number, got TRUE$")
  expect_match(refusal(sparse(y, p, ignore_class = list(1:2))), "must be a whole number, got c\\(1, 2\\)$")
  expect_match(refusal(sparse(y, p, ignore_class = max)), "^ignore_class must be a class, .* got a function$")
  expect_match(refusal(sparse(y, p, reduction = "sum")), "^reduction = 'sum' is for the object")
  expect_match(refusal(sparse(reduction = list(a = 1, b = 2))), "got a list$")
  expect_match(refusal(sparse(c(1, Inf), p)), "got Inf at [2]", fixed = TRUE)
  expect_match(refusal(soft(replace(diag(3)[2:3, ], 1, NA), p)), "got NA at [1, 1]", fixed = TRUE)
  expect_match(refusal(sparse(y, list(p[1, ], p[2, ]))), "send do.call(rbind, y_pred)", fixed = TRUE)
  expect_match(refusal(sparse()(y, p, data.frame(w = 1:2))), "send its column, sample_weight[[1]]", fixed = TRUE)
  expect_identical(refusal(config_set_epsilon(NA)), "value must not be NA")
  expect_match(refusal(config_set_epsilon(NaN)), "value must not be NA")
  expect_match(refusal(config_set_floatx(1:2)), "one of 'float16', .*'float64', got c\\(1, 2\\)$")
  expect_match(refusal(soft(factor(c("a", "b")), p)), "a factor's labels are for the functions with \"sparse\" in their names", fixed = TRUE)
})

test_that("factors of other levels are refused", {
  expect_match(refusal(sparse(factor(c("x", "y")), p)), "one level for each of the 3 classes, got 2 levels (\"x\", \"y\")", fixed = TRUE)
  expect_match(refusal(sparse(factor(c("oak", "elm")), named)), "got \"elm\" at [2]: rename its levels", fixed = TRUE)
  twelve <- factor(as.character(0:11))
  expect_match(refusal(sparse(twelve, matrix(1 / 12, 12, 12))), ": send as.integer\\(as.character\\(y_true\\)\\)$")
  from_1 <- factor(as.character(1:12))
  message <- refusal(sparse(from_1, diag(12)))
  expect_match(message, ": send as.integer(as.character(y_true)) - 1L", fixed = TRUE)
  expect_identical(sparse(as.integer(as.character(from_1)) - 1L, diag(12)), sparse(0:11, diag(12)))
  other <- factor(as.character(2:13))
  expect_match(refusal(sparse(other, diag(12))), "the levels in the columns' order, factor(y_true, levels = ...)", fixed = TRUE)
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
