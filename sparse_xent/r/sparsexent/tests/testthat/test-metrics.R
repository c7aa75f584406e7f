skip_without_python()

accuracy <- metric_sparse_categorical_accuracy
top <- metric_sparse_top_k_categorical_accuracy
entropy <- metric_sparse_categorical_crossentropy
targets <- metric_categorical_accuracy

test_that("with data there is one value a label, a plain vector", {
  expect_identical(accuracy(y, p), c(1, 0))
  expect_identical(top(y, p, 3), c(1, 1))
  expect_identical(top(y, p, k = 1L), c(1, 0))
  expect_identical(targets(diag(3)[y + 1, ], p), c(1, 0))
  expect_identical(entropy(y, p), sparse(y, p))
  expect_equal(accuracy(y, p, sample_weight = c(0.5, 1)), c(0.5, 0))
  expect_identical(accuracy(1, p[1, ]), 1)
  expect_identical(top(0:2, matrix(1, 3, 3), 2), c(1, 1, 0))
})

test_that("axes, factors and missing labels are R's", {
  expect_identical(accuracy(y, t(p), axis = 1), c(1, 0))
  expect_identical(accuracy(factor(c("beech", "oak")), named), c(1, 0))
  expect_identical(targets(diag(3)[y + 1, ], p, axis = 2), c(1, 0))
  for (label in list(c(1, NA), c(1L, NA), c(TRUE, NA), factor(c("b", NA), levels = c("a", "b", "c")))) {
    metric <- accuracy(ignore_class = NA)
    metric$update_state(label, p, c(2, NA))
    expect_identical(metric$result(), 1)
  }
  metric <- accuracy(ignore_class = "void")
  metric$update_state(factor(c("beech", "void")), named)
  metric$update_state(factor(c("void", "oak")), named)
  expect_identical(metric$result(), 0.5)
  expect_match(refusal(metric$update_state(factor(1), `colnames<-`(p, c("void", "1", "2")))), "other classes")
})

test_that("without data there is an object that takes batches", {
  metric <- entropy()
  expect_null(metric$update_state(y, p, sample_weight = c(0.3, 0.7)))
  expect_equal(metric$result(), 1.6271976, tolerance = 1e-7)
  expect_output(print(metric), "<metric_sparse_categorical_crossentropy(): 1.627198>", fixed = TRUE)
  other <- entropy(name = "other")
  other$update_state(y, p)
  metric$merge(other)
  both <- sparse(y, p) * c(1.3, 1.7)
  expect_equal(metric$result(), sum(both) / 3, tolerance = 1e-14)
  metric$reset_state()
  expect_identical(metric$result(), 0)
  expect_identical(top(k = 2)$get_config()$k, 2)
  expect_identical(accuracy()$dtype, "float32")
  expect_identical(accuracy()$name, "sparse_categorical_accuracy")
})

test_that("wrong calls are refused in R's words", {
  expect_match(refusal(accuracy(c(1, 3), p)), "use y_true - 1L", fixed = TRUE)
  expect_match(refusal(accuracy()$update_state(c(1, NA), p)), "got NA at [2]", fixed = TRUE)
  expect_match(refusal(accuracy(y)), "y_pred is missing, y_true was given: metric_sparse_", fixed = TRUE)
  expect_match(refusal(accuracy(sample_weight = 1)), "without data", fixed = TRUE)
  expect_match(refusal(accuracy(y, p, axi = 1)), "metric_sparse_categorical_accuracy(): did you mean", fixed = TRUE)
  expect_match(refusal(top(y, p, 1.5)), "k must be a whole number, got 1.5", fixed = TRUE)
  expect_match(refusal(top(y, p, NA)), "k must not be NA", fixed = TRUE)
  expect_match(refusal(top(y, p, TRUE)), "k must be a whole number", fixed = TRUE)
  expect_match(refusal(accuracy(y, p, 1)), "after y_pred must be named", fixed = TRUE)
  expect_match(refusal(top(k = 1)$merge(top(k = 2))), "other must have k", fixed = TRUE)
  expect_match(refusal(accuracy()$merge(1)), "other must be an object", fixed = TRUE)
})

test_that("what Python warns of is a warning of R's", {
  metric <- entropy()
  expect_warning(metric$update_state(c(0, 1), diag(2) * 2.5 - 1), "from_logits = TRUE", fixed = TRUE)
})

test_that("a metric of another session says so", {
  metric <- unserialize(serialize(accuracy(), NULL))
  expect_match(refusal(metric$result()), "made in another session", fixed = TRUE)
})
