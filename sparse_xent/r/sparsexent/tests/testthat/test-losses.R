skip_without_python()

test_that("with data there is one loss a label, a plain vector", {
  losses <- sparse(y, p)
  expect_null(attributes(losses))
  expect_equal(losses, c(0.05129339438755058, 2.302585092994046), tolerance = 1e-12)
  expect_identical(sparse(as.integer(y), p), losses)
  expect_identical(sparse(matrix(y), p), losses)
  expect_identical(sparse(y, as.data.frame(p)), losses)
  expect_identical(sparse(1, p[1, ]), losses[[1]])
  expect_equal(dim(sparse(matrix(0, 2, 4), array(1 / 3, c(2, 4, 3)))), c(2, 4))
})

test_that("without data there is a loss that reduces", {
  scce <- sparse()
  expect_equal(scce(y, p), 1.1769392, tolerance = 1e-7)
  expect_equal(scce(y, p, sample_weight = c(0.3, 0.7)), 0.8135988, tolerance = 1e-7)
  expect_equal(scce(y, p, 2), 2 * 1.1769392, tolerance = 1e-7)
  expect_equal(sparse(reduction = "sum")(y, p), 2.3538785, tolerance = 1e-7)
  expect_equal(sparse(reduction = NULL)(y, p), c(0.0512934, 2.3025851), tolerance = 1e-6)
  expect_equal(sparse(dtype = "float64")(y, p), mean(sparse(y, p)), tolerance = 1e-15)
})

test_that("the gradient is the derivative, with the scores' dimensions and names", {
  loss <- sparse(from_logits = TRUE, dtype = "float64")
  x <- matrix(c(1, -2, 0.5, 3, 0, 0), 2, dimnames = list(NULL, c("ash", "beech", "oak")))
  both <- value_and_grad(loss, c(2, 0), x)
  softmax <- exp(x) / rowSums(exp(x))
  expect_equal(both$gradient, (softmax - rbind(c(0, 0, 1), c(1, 0, 0))) / 2, tolerance = 1e-12)
  expect_identical(both$value, loss(c(2, 0), x))
  expect_identical(loss$value_and_grad(c(2, 0), x), both)
  weighted <- value_and_grad(loss, c(2, 0), x, c(0, 1))
  expect_identical(unname(weighted$gradient[1, ]), c(0, 0, 0))
  single <- value_and_grad(loss, 1, c(0, 0, 0))
  expect_equal(single$gradient, c(1, -2, 1) / 3, tolerance = 1e-12)
})

test_that("axes count from 1, or back from the last", {
  losses <- sparse(y, p)
  expect_identical(sparse(y, p, axis = 2), losses)
  expect_equal(sparse(y, t(p), axis = 1L), losses, tolerance = 1e-14)
  expect_equal(sparse(y, t(p), axis = -2), losses, tolerance = 1e-14)
  image <- aperm(array(p, c(2, 3, 1)), c(1, 3, 2))
  expect_equal(sparse(matrix(y), image, axis = 3L), matrix(losses), tolerance = 1e-14)
  expect_equal(soft(t(diag(3)[y + 1, ]), t(p), axis = 1L), soft(diag(3)[y + 1, ], p))
})

test_that("a dimension of 1 is kept, and one too many is noticed", {
  scores <- array(p, c(2, 3, 1))
  column <- matrix(sparse(y, p))
  f <- factor(c("b", "c"), levels = c("a", "b", "c"))
  for (label in list(matrix(y), matrix(1:2), array(y, c(2, 1, 1)), `dim<-`(f, c(2, 1)))) {
    expect_equal(sparse(label, scores, axis = 2), column, tolerance = 1e-14)
    expect_equal(sparse(axis = 2, dtype = "float64")(label, scores), mean(column), tolerance = 1e-14)
    expect_equal(sparse(label, aperm(scores, c(1, 3, 2))), column, tolerance = 1e-14)
    expect_equal(dim(value_and_grad(sparse(axis = 2), label, scores)$gradient), c(2, 3, 1))
    expect_equal(metric_sparse_categorical_accuracy(label, scores, axis = 2), matrix(c(1, 0)))
  }
  weighted <- sparse(axis = 2, reduction = NULL, dtype = "float64")(matrix(y), scores, matrix(2:3))
  expect_equal(weighted, column * 2:3, tolerance = 1e-14)
  expect_identical(sparse(matrix(y), p), sparse(y, p))
  expect_match(refusal(sparse(y, scores)), "to drop y_pred's axes of length 1 pass drop(y_pred)", fixed = TRUE)
  expect_identical(sparse(y, drop(scores)), sparse(y, p))
  expect_match(refusal(sparse(matrix(y), scores)), "pass axis = 2$")
  expect_match(refusal(sparse(f, scores)), "pass axis = 2$")
  expect_match(refusal(sparse(y, scores, axis = 2)), "pass array(y_true, c(2, 1))", fixed = TRUE)
  expect_equal(sparse(array(y, c(2, 1)), scores, axis = 2), column, tolerance = 1e-14)
  expect_match(refusal(sparse(t(y), p)), "got (1 x 2) (y_pred is (2 x 3)); pass array(y_true, c(2))", fixed = TRUE)
  expect_identical(sparse(array(t(y), c(2)), p), sparse(y, p))
})

test_that("factors are found by name, or by the order of one level a class", {
  losses <- sparse(c(2, 1), p)
  expect_identical(sparse(factor(c("oak", "beech")), named), losses)
  expect_identical(sparse(factor(c("oak", "beech"), levels = c("oak", "elm", "beech")), named), losses)
  expect_identical(sparse(factor(c("c", "b"), levels = c("a", "b", "c")), p), losses)
  expect_identical(sparse(factor(c(2, 1), levels = 0:2), p), losses)
  expect_identical(sparse(factor(c("oak", "beech")), t(named), axis = 1), sparse(c(2, 1), t(p), axis = 1))
})

test_that("what is missing does not count where ignore_class has NA", {
  whole <- sparse(1, p[1, , drop = FALSE])
  for (label in list(c(1, NA), c(1L, NA), c(TRUE, NA), factor(c("b", NA), levels = c("a", "b", "c")))) {
    expect_identical(sparse(label, p, ignore_class = NA), c(whole, 0))
    expect_identical(sparse(label, p, ignore_class = c(NA, 0L)), c(whole, 0))
  }
  expect_equal(sparse(ignore_class = NA, dtype = "float64")(c(1, NA), p), whole)
  expect_identical(sparse(c(1, 255), p, ignore_class = 255), c(whole, 0))
  scores <- p
  scores[1, 2] <- NA
  expect_identical(is.na(sparse(y, scores)), c(TRUE, FALSE))
  storage.mode(scores) <- "integer"
  expect_identical(is.na(sparse(y, scores)), c(TRUE, FALSE))
})

test_that("options beyond keras3's are taken by name", {
  expect_equal(sparse(y, p, normalize = "never")[[1]], -log(0.95), tolerance = 1e-14)
  expect_equal(sparse(y, p, class_weight = c(1, 2, 3)), c(2, 3) * sparse(y, p))
  expect_equal(sparse(y, p, class_weight = c("2" = 3)), c(1, 3) * sparse(y, p))
  expect_gt(sparse(y, p, label_smoothing = 0.1)[[1]], sparse(y, p)[[1]])
})

test_that("the one-hot sibling agrees", {
  expect_equal(soft(diag(3)[y + 1, ], p), c(0.0512932943875506, 2.30258509299405), tolerance = 1e-12)
  expect_equal(soft()(diag(3)[y + 1, ], p), 1.1769392, tolerance = 1e-7)
  expect_named(value_and_grad(soft(), diag(3)[y + 1, ], p), c("value", "gradient"))
})

test_that("a loss prints as the call that makes it, and tells its options", {
  expect_output(print(sparse()), "<loss_sparse_categorical_crossentropy()>", fixed = TRUE)
  expect_output(
    print(sparse(from_logits = TRUE, reduction = NULL, axis = 1L)),
    "<loss_sparse_categorical_crossentropy(from_logits = TRUE, axis = 1L, reduction = NULL)>",
    fixed = TRUE
  )
  expect_identical(sparse(reduction = "sum")$reduction, "sum")
  expect_identical(sparse()$dtype, "float32")
  expect_identical(sparse(axis = 1)$get_config()$axis, 1L)
})

test_that("a loss may be saved, and sent to a fork", {
  scce <- sparse(class_weight = c(1, 2, 3), ignore_class = NA)
  file <- tempfile(fileext = ".rds")
  saveRDS(scce, file)
  again <- readRDS(file)
  expect_identical(again(y, p), scce(y, p))
  expect_identical(again$get_config(), scce$get_config())
  # As in a session where nothing of Python has been touched yet.
  rm(list = ls(sparsexent:::session$objects), envir = sparsexent:::session$objects)
  expect_identical(again(y, p), scce(y, p))
  skip_on_os("windows")
  forked <- parallel::mclapply(1:2, function(i) again(y, p), mc.cores = 2L)
  expect_identical(forked, list(scce(y, p), scce(y, p)))
})

test_that("settings are read and set", {
  expect_identical(config_floatx(), "float32")
  config_set_floatx("float64")
  on.exit(config_set_floatx("float32"))
  wide <- sparse()
  config_set_floatx("float32")
  expect_identical(wide$dtype, "float64")
  expect_identical(config_epsilon(), 1e-7)
  config_set_epsilon(1e-3)
  expect_equal(sparse(2, p[1, ], normalize = "never"), -log(1e-3))
  config_set_epsilon(1e-7)
  config_set_threads(1)
  expect_equal(config_threads(), 1)
  config_set_threads(NULL)
})

test_that("op_array gives plain vectors and matrices", {
  expect_identical(op_array(c(1, 2)), c(1, 2))
  expect_identical(op_array(p), p)
  expect_identical(op_array(0.1, "float32") == 0.1, FALSE)
})

test_that("what Python warns of is one warning of R's, in R's words, at each call", {
  reticulate::py_run_string("
import functools, warnings
import sparse_xent

def warning_too(function, level=2):
    @functools.wraps(function)
    def called(*arguments, **options):
        warnings.warn(
            'y_pred must hold probabilities, from 0 to 1: got 5 at (0, 1), and 1 more row; '
            'they look like logits: from_logits=True (in R: from_logits = TRUE)', stacklevel=level)
        return function(*arguments, **options)
    return called

plain_function = sparse_xent.loss_sparse_categorical_crossentropy
stand_in = type('StandIn', (sparse_xent.SparseCategoricalCrossentropy,), {
    '__call__': warning_too(sparse_xent.SparseCategoricalCrossentropy.__call__),
    'value_and_grad': warning_too(sparse_xent.SparseCategoricalCrossentropy.value_and_grad),
})
warning_function = warning_too(plain_function, 3)
sparse_xent.loss_sparse_categorical_crossentropy = (
    lambda *data, **options: warning_function(*data, **options) if data else stand_in(**options)
)
")
  forget <- function() {
    session <- sparsexent:::session
    session$callers <- list()
    session$loss_sparse_categorical_crossentropy <- NULL
  }
  forget()
  on.exit({
    reticulate::py_run_string("sparse_xent.loss_sparse_categorical_crossentropy = plain_function")
    forget()
  })
  meant <- "y_pred must hold probabilities, from 0 to 1: got 5 at [1, 2], and 1 more row; they look like logits: from_logits = TRUE"
  warned <- function(call) {
    said <- character()
    value <- withCallingHandlers(call, warning = function(w) {
      said <<- c(said, conditionMessage(w))
      invokeRestart("muffleWarning")
    })
    expect_identical(said, meant)
    value
  }
  loss <- sparse()
  for (i in 1:2) {
    expect_equal(warned(sparse(y, p)), c(0.0512934, 2.3025851), tolerance = 1e-6)
    expect_equal(warned(sparse(1, p[1, ], normalize = "never")), -log(0.95), tolerance = 1e-6)
    expect_equal(warned(loss(y, p)), 1.1769392, tolerance = 1e-7)
    expect_equal(warned(loss(y, p, c(0.3, 0.7))), 0.8135988, tolerance = 1e-7)
    expect_equal(dim(warned(value_and_grad(loss, y, p))$gradient), c(2, 3))
    expect_equal(warned(loss$value_and_grad(y, p))$value, 1.1769392, tolerance = 1e-7)
    expect_equal(warned(sparse(reduction = NULL)(y, p)), c(0.0512934, 2.3025851), tolerance = 1e-6)
  }
  expect_error(sparse(c(1, 3), p), "use y_true - 1L")
})
