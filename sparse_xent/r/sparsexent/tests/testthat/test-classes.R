skip_without_python()

trees <- c("ash", "beech", "oak")
f <- factor(c("oak", "beech"))
losses <- function() sparse(c(2, 1), p)

test_that("the names of one row say which class a level is", {
  one <- c(b = 0.1, a = 0.9)
  label <- factor("a", levels = c("a", "b"))
  expect_equal(sparse(label, one), -log(0.9), tolerance = 1e-6)
  expect_equal(sparse()(label, one), -log(0.9), tolerance = 1e-6)
  both <- value_and_grad(sparse(from_logits = TRUE), label, one)
  expect_named(both$gradient, c("b", "a"))
  expect_lt(both$gradient[["a"]], 0)
  expect_identical(sparse(label, prop.table(table(c("b", rep("a", 9))))[2:1]), sparse(0, c(0.9, 0.1)))
  expect_identical(sparse(factor("oak"), named[1, ]), sparse(2, p[1, ]))
  expect_match(refusal(sparse(factor("c"), one)), "names (\"b\", \"a\"), got \"c\" at [1]", fixed = TRUE)
})

test_that("levels are found whatever their order, their use and their kind", {
  for (levels in list(trees, rev(trees), c("elm", "oak", "fir", "beech", "ash"))) {
    expect_identical(sparse(factor(f, levels = levels), named), losses())
    expect_identical(sparse(ordered(f, levels = levels), named), losses())
    expect_identical(sparse(factor(f, levels = levels), as.data.frame(named)), losses())
    expect_equal(sparse(factor(f, levels = levels), t(named), axis = 1), losses(), tolerance = 1e-14)
  }
  expect_identical(sparse(ordered(c("c", "b"), levels = c("a", "b", "c")), p), losses())
  expect_identical(sparse(factor(c(3, 2), levels = 1:3), `colnames<-`(p, 1:3)), losses())
  expect_identical(sparse(factor(c(3, 2), levels = 3:1), `colnames<-`(p, 1:3)), losses())
})

test_that("an array of any dimensions names its classes along the class axis", {
  image <- array(p, c(2, 3, 1), list(NULL, trees, NULL))
  label <- factor(c("oak", "beech"), levels = rev(trees))
  dim(label) <- c(2, 1)
  expect_equal(sparse(label, image, axis = 2), matrix(losses()), tolerance = 1e-14)
  expect_equal(sparse(label, aperm(image, c(1, 3, 2))), matrix(losses()), tolerance = 1e-14)
  expect_equal(sparse(label, aperm(image, c(2, 1, 3)), axis = 1L), matrix(losses()), tolerance = 1e-14)
  # Names along another axis are no classes'.
  expect_match(
    refusal(sparse(f, matrix(p, 2, dimnames = list(c("oak", "beech"), NULL)))), "got 2 levels"
  )
})

test_that("levels that name another axis than the classes' are noticed", {
  rows <- matrix(c(0.2, 0.3, 0.5, 0.1, 0.8, 0.1, 0.6, 0.2, 0.2), 3, dimnames = list(trees, NULL))
  label <- factor(c("oak", "ash", "ash"), levels = trees)
  losses <- sparse(c(2, 0, 0), unname(rows), axis = 1)
  for (order in list(1:3, 3:1)) {
    expect_match(
      refusal(sparse(label, rows[order, ])),
      "^y_pred must have its classes along axis 2, got .* \\(\"ash\", \"beech\", \"oak\"\\) as the names along axis 1: pass axis = 1, or unname\\(y_pred\\)"
    )
    expect_equal(sparse(label, rows[order, ], axis = 1), losses, tolerance = 1e-14)
  }
  expect_match(
    refusal(sparse(label, `colnames<-`(rows, c("a", "b", "c")))), "along another axis, pass axis = 1$"
  )
  image <- array(rows, c(3, 1, 3), list(trees, NULL, NULL))
  expect_match(refusal(sparse(`dim<-`(label, c(3, 1)), image)), "along axis 3, got .* names along axis 1: pass axis = 1")
  expect_equal(sparse(`dim<-`(label, c(1, 3)), image, axis = 1), matrix(losses, 1), tolerance = 1e-14)
  # Cases have names as well: their labels', their numbers'.
  by_position <- sparse(c(2, 0, 1), unname(rows))
  label <- factor(c("oak", "ash", "beech"), levels = trees)
  expect_identical(sparse(label, `rownames<-`(rows, label)), by_position)
  expect_identical(sparse(factor(c(3, 1, 2)), `rownames<-`(rows, 1:3)), by_position)
  expect_identical(sparse(label, unname(rows)), by_position)
})

test_that("classes without a name, or with the name of another, are not guessed", {
  partly <- `colnames<-`(p, c("ash", NA, ""))
  expect_identical(sparse(factor(c("ash", "ash"), levels = trees), partly), sparse(c(0, 0), p))
  expect_match(refusal(sparse(f, partly)), "that y_pred names (\"ash\"), got \"oak\" at [1] and 1 more", fixed = TRUE)
  expect_match(refusal(sparse(factor(c("", "ash")), partly)), "got \"\" at [1]", fixed = TRUE)
  expect_identical(sparse(factor(trees[3:2], levels = trees), `colnames<-`(p, c("", NA, ""))), losses())
  for (twice in list(c("ash", "oak", "oak"), c("ash", "oak", "ash"))) {
    expect_match(
      refusal(sparse(f, `colnames<-`(p, twice))),
      "^y_pred must name each class once, got \"(oak|ash)\" at \\[[12]\\] and \\[3\\] along its class axis: rename one of them$"
    )
    expect_identical(sparse(c(2, 1), `colnames<-`(p, twice)), losses())
  }
  for (other in c("Oak", "oak ", " OAK")) {
    message <- refusal(sparse(factor(c(other, "beech")), named))
    expect_match(message, paste0("got \"", other, "\" at [1], where \"oak\" is known: rename its levels"), fixed = TRUE)
  }
})

test_that("a level that is NA is a label that is missing", {
  label <- addNA(factor(c("oak", NA)))
  expect_match(refusal(sparse(label, named)), "got NA at [2]", fixed = TRUE)
  expect_identical(sparse(label, named, ignore_class = NA), c(losses()[[1]], 0))
  all_levels <- addNA(factor(c("oak", NA), levels = trees))
  expect_identical(sparse(all_levels, p, ignore_class = NA), c(losses()[[1]], 0))
  expect_identical(sparse(all_levels, `colnames<-`(p, c(NA, "beech", "oak")), ignore_class = NA), c(losses()[[1]], 0))
})

test_that("an array of Python's has its classes counted, and a data frame of Python's their names", {
  numpy <- reticulate::import("numpy", convert = FALSE)
  expect_identical(sparse(factor(c("c", "b"), levels = c("a", "b", "c")), numpy$array(p)), losses())
  expect_match(
    refusal(sparse(factor(c("c", "b")), numpy$array(p))),
    "one level for each of the 3 classes, got 2 levels"
  )
  expect_match(refusal(sparse(f, numpy$array(p), axis = 3L)), "axis must be from 1 to 2", fixed = TRUE)
  expect_equal(
    sparse(factor(c("c", "b"), levels = c("a", "b", "c")), numpy$array(t(p)), axis = 1L), losses(),
    tolerance = 1e-14
  )
  reticulate::py_run_string("
import numpy
class OfColumns(numpy.ndarray):
    columns = ['ash', 'beech', 'oak']
", convert = FALSE)
  columns <- numpy$array(p)$view(reticulate::import_main(convert = FALSE)$OfColumns)
  expect_identical(sparse(factor(c("oak", "beech")), columns), losses())
  expect_identical(sparse(c(2, 1), columns, class_weight = c(oak = 2)), c(2, 1) * losses())
  expect_match(refusal(sparse(factor("elm"), columns)), "y_pred names (\"ash\", \"beech\", \"oak\")", fixed = TRUE)
})

# ---- class_weight ----

test_that("classes weigh by name, in any order and kind of vector", {
  expected <- c(3, 2) * losses()
  for (weights in list(
    c(ash = 1, beech = 2, oak = 3), c(oak = 3, beech = 2), c(beech = 2L, oak = 3L, ash = 7L),
    list(oak = 3, beech = 2), data.frame(oak = 3, beech = 2, ash = 1),
    table(rep(trees, 1:3)), 6 / (6 / table(rep(trees, 1:3))), tapply(1:3, trees, sum),
    matrix(1:3, 1, dimnames = list(NULL, trees))
  )) {
    expect_equal(sparse(f, named, class_weight = weights), expected, tolerance = 1e-15)
    expect_equal(sparse(c(2, 1), named, class_weight = weights), expected, tolerance = 1e-15)
    expect_equal(sparse(factor(f, levels = trees), p, class_weight = weights), expected, tolerance = 1e-15)
    loss <- sparse(class_weight = weights, reduction = "sum", dtype = "float64")
    expect_equal(loss(f, named), sum(expected), tolerance = 1e-15)
    expect_equal(value_and_grad(loss, f, named)$value, sum(expected), tolerance = 1e-15)
    expect_equal(loss(f, named, c(0, 1)), expected[[2]], tolerance = 1e-15)
  }
  expect_equal(sparse(f[1], named[1, ], class_weight = c(oak = 3)), expected[[1]])
  expect_equal(sparse(f, t(named), axis = 1L, class_weight = c(oak = 3, beech = 2)), expected)
})

test_that("a loss finds the weights' classes at each call", {
  loss <- sparse(class_weight = c(oak = 3, beech = 2), reduction = "sum", dtype = "float64")
  turned <- named[, c(3, 1, 2)]
  for (i in 1:2) {
    expect_equal(loss(f, named), sum(c(3, 2) * losses()), tolerance = 1e-14)
    expect_equal(loss(f, turned), sum(c(3, 2) * losses()), tolerance = 1e-14)
  }
  file <- tempfile(fileext = ".rds")
  saveRDS(loss, file)
  rm(list = ls(sparsexent:::session$objects), envir = sparsexent:::session$objects)
  expect_identical(readRDS(file)(f, named), loss(f, named))
  expect_identical(loss$get_config()$class_weight, c(oak = 3, beech = 2))
  expect_output(
    print(sparse(class_weight = table(trees), ignore_class = factor("ash"))),
    "(ignore_class = \"ash\", class_weight = c(ash = 1, beech = 1, oak = 1))>",
    fixed = TRUE
  )
  expect_match(refusal(reticulate::r_to_py(loss)), "class_weight names a class, \"oak\"")
})

test_that("names that are whole numbers are classes from 0, unless they are classes' names", {
  expect_equal(sparse(y, p, class_weight = c("2" = 3)), c(1, 3) * sparse(y, p))
  expect_equal(sparse(y, named, class_weight = list("2" = 3)), c(1, 3) * sparse(y, p))
  expect_equal(sparse(y, p, class_weight = table(c(1, 2, 2))), c(1, 2) * sparse(y, p))
  numbers <- factor(2:3, levels = 1:3)
  for (scores in list(p, `colnames<-`(p, 1:3))) {
    expect_equal(sparse(numbers, scores, class_weight = c("2" = 3)), c(3, 1) * sparse(y, p))
  }
  expect_match(
    refusal(sparse(y, `colnames<-`(p, 1:3), class_weight = c("2" = 3))),
    "class_weight names \"2\", which is one class by y_pred's names and another one counted from 0",
    fixed = TRUE
  )
  expect_equal(sparse(y, `colnames<-`(p, 1:3), class_weight = table(1:3)), sparse(y, p))
  expect_match(refusal(sparse(y, p, class_weight = c("3" = 3))), "^class_weight's names must be classes from 0 to 2, got 3")
})

test_that("weights of no class are refused, with the classes that are known", {
  known <- "^class_weight must be named by classes \\(\"ash\", \"beech\", \"oak\"\\), got "
  expect_match(refusal(sparse(f, named, class_weight = c(elm = 2, fir = 3))), paste0(known, "\"elm\" and 1 more: rename it"))
  expect_match(refusal(sparse(class_weight = c(Oak = 2))(f, named)), paste0(known, "\"Oak\", where \"oak\" is known"))
  expect_match(refusal(sparse(f, named, class_weight = c(oak = 2, "1" = 3))), paste0(known, "\"1\""))
  expect_match(
    refusal(sparse(y, p, class_weight = c(oak = 2))),
    "class_weight names a class, \"oak\", but y_pred has no names along its class axis and y_true is not a factor",
    fixed = TRUE
  )
  expect_match(refusal(sparse(class_weight = c(oak = 1, 2))), "must name every weight or none, got no name at [2]", fixed = TRUE)
  expect_match(refusal(sparse(class_weight = setNames(1:2, c("oak", NA)))), "got no name at [2]", fixed = TRUE)
  expect_match(refusal(sparse(class_weight = c(oak = 1, oak = 2))), "got \"oak\" twice", fixed = TRUE)
})

test_that("weights that are no numbers are refused, missing ones too", {
  expect_match(refusal(sparse(class_weight = c(1, NA, 2))), "got NA at [2]", fixed = TRUE)
  expect_match(refusal(sparse(class_weight = c(1L, NA, NA))), "got NA at [2] and 1 more", fixed = TRUE)
  expect_match(refusal(sparse(class_weight = c(TRUE, NA))), "got NA at [2]", fixed = TRUE)
  expect_match(refusal(sparse(class_weight = c(ash = 1, oak = NaN))), "got NA at [\"oak\"]", fixed = TRUE)
  expect_match(refusal(sparse(class_weight = list(1, NA, 2))), "got NA at [2]", fixed = TRUE)
  expect_match(refusal(sparse(class_weight = factor(1:3))), "got factor")
  expect_match(refusal(sparse(class_weight = c("1", "2", "3"))), "it is text")
  expect_match(refusal(sparse(class_weight = list(oak = "a"))), "got character at [\"oak\"]", fixed = TRUE)
  expect_match(refusal(sparse(class_weight = list(oak = 1:2))), "got 2 values at [\"oak\"]", fixed = TRUE)
  expect_match(refusal(sparse(class_weight = diag(3))), "got 3 x 3 of them")
  expect_match(refusal(sparse(y, p, class_weight = c(1, 2))), "expected 3, got 2")
})

# ---- ignore_class ----

test_that("classes are ignored by name", {
  for (ignored in list("oak", factor("oak"), c("oak", "ash"), list("oak", "ash"), c("oak", NA))) {
    expect_identical(sparse(f, named, ignore_class = ignored), c(0, losses()[[2]]))
    expect_identical(sparse(c(2, 1), named, ignore_class = ignored), c(0, losses()[[2]]))
    expect_identical(sparse(factor(f, levels = trees), p, ignore_class = ignored), c(0, losses()[[2]]))
    loss <- sparse(ignore_class = ignored, dtype = "float64")
    expect_identical(loss(f, named), losses()[[2]])
    expect_identical(unname(value_and_grad(loss, f, named)$gradient[1, ]), c(0, 0, 0))
  }
  expect_identical(sparse(factor(c("oak", NA)), named, ignore_class = c("oak", NA)), c(0, 0))
  expect_identical(sparse(f, named, ignore_class = character()), losses())
  expect_identical(sparse(factor(c("oak", NA)), named, ignore_class = NA_character_), c(losses()[[1]], 0))
  for (ignored in list(c(void = 2, sky = 7), reticulate::r_to_py(2L), reticulate::r_to_py(c(2L, 7L)))) {
    expect_identical(sparse(c(2, 1), p, ignore_class = ignored), c(0, losses()[[2]]))
    expect_identical(sparse(factor(f, levels = trees), p, ignore_class = ignored), c(0, losses()[[2]]))
  }
  expect_match(refusal(sparse(factor(c("oak", NA)), named, ignore_class = "oak")), "got NA at [2]", fixed = TRUE)
})

test_that("an ignored level needs no scores", {
  label <- factor(c("void", "oak"), levels = c("void", trees))
  for (scores in list(p, named)) {
    expect_identical(sparse(label, scores, ignore_class = "void"), c(0, sparse(2, p[2, ])))
  }
  loss <- sparse(ignore_class = "void", class_weight = c(void = 9, oak = 2), dtype = "float64")
  expect_equal(loss(label, named), 2 * sparse(2, p[2, ]), tolerance = 1e-15)
  expect_equal(loss(label, named, c(NA, 1)), 2 * sparse(2, p[2, ]), tolerance = 1e-15)
  expect_match(refusal(sparse(label, named)), "got \"void\" at [1]", fixed = TRUE)
  expect_match(refusal(sparse(label, p)), "got 4 levels", fixed = TRUE)
})

test_that("ignored classes that are not known are refused", {
  expect_match(
    refusal(sparse(f, named, ignore_class = "Oak")),
    "^ignore_class must name classes \\(\"ash\", \"beech\", \"oak\"\\), got \"Oak\", where \"oak\" is known"
  )
  expect_match(refusal(sparse(c(2, 1), named, ignore_class = "255")), "got \"255\": .*without quotes")
  expect_match(refusal(sparse(y, p, ignore_class = "void")), "ignore_class names a class, \"void\", but y_pred has no names")
  expect_match(refusal(sparse(ignore_class = "void")(y, p)), "send the class as a number, counted from 0$")
})

test_that("a number that is another class's level is refused", {
  label <- factor(c(0, 255), levels = c(0, 1, 255))
  for (scores in list(p[, 1:2], `colnames<-`(p[, 1:2], 0:1))) {
    expect_match(refusal(sparse(label, scores, ignore_class = 255)), "name the level that is meant, ignore_class = \"255\"", fixed = TRUE)
    expect_identical(sparse(label, scores, ignore_class = "255")[[2]], 0)
  }
  expect_match(refusal(sparse(factor(3:2, levels = 1:3), p, ignore_class = 2)), "ignore_class = 2 is a class counted from 0")
  expect_identical(sparse(factor(2:1, levels = 0:2), p, ignore_class = 2), c(0, losses()[[2]]))
})

# ---- weights, targets ----

test_that("a missing weight is refused whatever its type, unless its label is ignored", {
  for (weights in list(c(1, NA), c(1, NaN), c(1L, NA), c(TRUE, NA), matrix(c(1, NA)), array(c(1, NA)))) {
    expect_match(refusal(sparse()(y, p, weights)), "^sample_weight must hold numbers: got NA at \\[2\\]")
    expect_match(refusal(value_and_grad(sparse(), y, p, weights)), "got NA at [2]", fixed = TRUE)
    expect_match(refusal(soft()(diag(3)[2:3, ], p, weights)), "got NA at [2]", fixed = TRUE)
    expect_equal(sparse(ignore_class = 2)(y, p, weights), sparse()(1, p[1, ]))
  }
  for (weight in list(NA, NA_integer_, NA_real_)) {
    expect_match(refusal(sparse()(y, p, weight)), "^sample_weight must hold numbers: got NA; drop")
  }
})

test_that("targets are brought into the scores' order of classes", {
  targets <- diag(3)[c(3, 2), ]
  colnames(targets) <- trees
  expected <- soft(unname(targets), p)
  for (order in list(1:3, c(2, 3, 1), 3:1)) {
    expect_identical(soft(targets[, order], named), expected)
    expect_identical(soft(as.data.frame(targets[, order]), as.data.frame(named)), expected)
    expect_identical(soft(targets[1, order], named[1, ]), expected[[1]])
    expect_equal(soft(t(targets[, order]), t(named), axis = 1L), expected, tolerance = 1e-14)
    expect_identical(
      value_and_grad(soft(), targets[, order], named), value_and_grad(soft(), targets, named)
    )
  }
  expect_identical(soft(unname(targets), named), expected)
  expect_identical(soft(targets, p), expected)
  for (names in list(c("yash", "ybeech", "yoak"), c("ash", "oak", "oak"), c("ash", "beech", NA))) {
    expect_match(
      refusal(soft(`colnames<-`(targets, names), named)),
      "^y_true must name the classes that y_pred names .*send unname\\(as.matrix\\(y_true\\)\\)$"
    )
  }
})
