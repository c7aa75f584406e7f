# One R session for all that test_r.py asks of R, because R with Python takes seconds to start.
#
#     Rscript session.R FOLDER RESULTS
#
# FOLDER holds this file. RESULTS gets a line for each finding: its name, a tab, what was found. A
# finding that fails is told as "Error: ...", and the session goes on.

arguments <- commandArgs(TRUE)
folder <- arguments[[1]]
out <- file(arguments[[2]], "w")

found <- function(name, value) {
  value <- tryCatch(paste(value, collapse = " "), error = function(e) {
    paste("Error:", conditionMessage(e))
  })
  writeLines(paste0(name, "\t", gsub("[\n\t]", "\\\\n", value)), out)
  flush(out)
}

# What a reader of the examples sees printed: the values, one a line, without the leading [1].
printed <- function(file, env) {
  shown <- character()
  for (one in parse(file.path(folder, file))) {
    result <- withVisible(eval(one, env))
    if (result$visible) shown <- c(shown, capture.output(print(result$value)))
  }
  paste(sub("^\\[1\\] ", "", shown), collapse = "; ")
}

has_keras <- FALSE
compiled <- function(env) {
  keras <- reticulate::import("keras")
  env$`%>%` <- magrittr::`%>%`
  env$compile <- function(object, ...) object$compile(...)
  softmax <- keras$layers$Dense(3L, activation = "softmax")
  env$model <- keras$Sequential(list(keras$layers$Input(list(2L)), softmax))
  eval(parse(file.path(folder, "compile.R")), env)
  x <- matrix(c(1, -1, 0, 2, 0.5, -3), 3)
  labels <- array(c(0L, 2L, 1L))
  by_keras <- env$model$evaluate(x, labels, verbose = 0L)
  by_us <- env$loss_sparse_categorical_crossentropy()(labels, env$model$predict(x, verbose = 0L))
  stopifnot(is.finite(by_us), abs(by_keras - by_us) < 1e-6)
  "agrees"
}

# ---- through import() alone, as the README has it ----
sx <- reticulate::import("sparse_xent")
bare <- new.env()
bare$loss_sparse_categorical_crossentropy <- sx$loss_sparse_categorical_crossentropy
bare$op_array <- sx$op_array
found("module", sx$`__file__`)
found("bare page", printed("page.R", bare))
found("bare logical NA", sx$loss_sparse_categorical_crossentropy(c(NA, TRUE), diag(2)))

# ---- the package ----
library(sparsexent)
here <- new.env()
found("page", printed("page.R", here))
found("formals", gsub(" +", " ", paste(
  deparse(args(loss_sparse_categorical_crossentropy)),
  collapse = " "
)))
found("attributes", is.null(attributes(loss_sparse_categorical_crossentropy(c(1, 2), diag(3)[2:3, ]))))
found("exports", sort(getNamespaceExports("sparsexent")))

# ---- wrong calls ----
y <- c(1, 2)
p <- rbind(c(0.05, 0.95, 0), c(0.1, 0.8, 0.1))
classes <- `colnames<-`(p, c("ash", "beech", "oak"))
sparse <- loss_sparse_categorical_crossentropy
scce <- sparse()
refused <- function(name, call) {
  call <- substitute(call)
  said <- tryCatch({
    eval(call)
    "taken"
  }, error = function(e) paste0(class(e)[[1]], ": ", conditionMessage(e)))
  found(paste("refused", name), said)
}
refused("1..C", scce(c(1, 3), p))
refused("other levels", scce(factor(c("oak", "elm")), classes))
refused("fewer levels", scce(factor(c("ash", "oak")), p))
refused("names", scce(c("a", "b"), p))
refused("NA", scce(c(TRUE, NA), p))
refused("NA_integer_", scce(c(1L, NA), p))
refused("NA_real_", scce(c(1, NA), p))
refused("NA_character_", scce(c(NA, "a"), p))
refused("NA factor", scce(factor(c("oak", NA)), classes))
refused("1.7", scce(c(1.7, 1), p))
refused("text column", scce(y, data.frame(a = c(0.5, 0.5), b = c("x", "y"))))
refused("from", loss_sparse_categorical_crossentropy(from = TRUE))
refused("axis 0", sparse(y, p, axis = 0L))
refused("axis 3", sparse(y, p, axis = 3L))
refused("avg", sparse(reduction = "avg"))
refused("y_pred missing", sparse(y))
refused("y_true missing", sparse(y_pred = p))
refused("weights", scce(y, p, sample_weight = c(1, 2, 3)))
refused("one row", scce(factor("c"), c(b = 0.1, a = 0.9)))
refused("names twice", scce(factor("ash"), `colnames<-`(p, c("ash", "oak", "ash"))))
refused("another case", scce(factor(c("Oak", "ash")), classes))
refused("Python's array", scce(factor(c("ash", "oak")), reticulate::r_to_py(p)))
refused("weight NA", scce(y, p, sample_weight = c(1, NA)))
refused("class weight NA", sparse(class_weight = c(ash = 1, oak = NA)))
refused("class weight of no class", sparse(class_weight = c(elm = 2))(y, classes))
refused("class weight without names", sparse(class_weight = c(oak = 2))(y, p))
refused("ignored unknown", sparse(ignore_class = "void")(y, classes))
refused("ignored without names", sparse(ignore_class = "void")(y, p))
refused("ignored number", sparse(ignore_class = 1)(factor(2:1, levels = 1:3), p))
refused("an option of a loss that is made", sparse(from_logits = TRUE)(y, p, ignore_class = NA))
refused("an argument too many", scce(y, p, NULL, NA))
refused("a score for each of two classes' labels", scce(c(0, 1, 1), c(0.2, 0.9, 0.6)))
refused("the same by a factor", scce(factor(c("no", "yes", "yes")), c(a = 0.2, b = 0.9, c = 0.6)))
refused("the same in a column", scce(factor(c("no", "yes")), matrix(c(-1, 2))))
refused("levels along the rows", scce(factor(c("oak", "ash", "ash"), c("ash", "beech", "oak")), `rownames<-`(diag(3), c("oak", "beech", "ash"))))
refused("a third dimension", scce(y, array(p, c(2, 3, 1))))
refused("a dimension too few", sparse(axis = 2)(y, array(p, c(2, 3, 1))))
refused("a number for a flag", sparse(from_logits = 1))
refused("a list of dtypes", sparse(dtype = c("float32", "float64")))
refused("TRUE for a class", sparse(ignore_class = TRUE))
refused("targets of other classes", loss_categorical_crossentropy(`colnames<-`(p, c("a", "b", "c")), classes))

# ---- classes by name: each finding TRUE ----
agree <- function(name, one, other) {
  found(paste("agree", name), isTRUE(all.equal(one, other, tolerance = 1e-12)))
}
trees <- factor(c("oak", "beech"), levels = c("beech", "elm", "oak"))
agree("names of one row", sparse(factor("a"), c(b = 0.1, a = 0.9)), sparse(1, c(0.1, 0.9)))
agree("unused levels, another order", sparse(trees, classes), sparse(c(2, 1), p))
agree("an array's class axis", sparse(trees, t(classes), axis = 1), sparse(c(2, 1), p))
weights <- 1 / table(c("oak", "oak", "ash"))
agree("class weights", sparse(trees, classes, class_weight = weights), c(0.5, 1) * sparse(c(2, 1), p))
kept <- tempfile()
saveRDS(sparse(class_weight = c(oak = 3, void = 9), ignore_class = "void", reduction = "sum", dtype = "float64"), kept)
void <- factor(c("void", "oak"))
agree("class weights and an ignored level, saved", readRDS(kept)(void, classes), 3 * sparse(2, p[2, ]))
agree("the gradient", value_and_grad(readRDS(kept), void, classes)$gradient[1, ], c(ash = 0, beech = 0, oak = 0))
agree(
  "targets in another order",
  loss_categorical_crossentropy(classes[, c(3, 1, 2)], classes), loss_categorical_crossentropy(p, p)
)

# ---- Python's warnings: the texts, and how many differ when asked again ----
warned <- function(name, call) {
  call <- substitute(call)
  said <- character()
  for (i in 1:2) {
    withCallingHandlers(eval(call), warning = function(w) {
      said <<- c(said, conditionMessage(w))
      invokeRestart("muffleWarning")
    })
  }
  found(paste("warned", name), if (length(said) == 2L) unique(said) else c(length(said), said))
}
logits <- rbind(c(2, 3, -1), c(-4, 5, 0))
one_hot <- diag(3)[2:3, ]
warned("losses", sparse(y, logits))
warned("object", scce(y, logits))
warned("weights", scce(y, logits, sample_weight = c(0.3, 0.7)))
warned("gradient", value_and_grad(scce, y, logits))
warned("member", scce$value_and_grad(y, logits))
warned("by name", sparse(class_weight = c(oak = 2))(y, `colnames<-`(logits, c("ash", "beech", "oak"))))
warned("one-hot", loss_categorical_crossentropy(one_hot, logits))
warned("one-hot object", loss_categorical_crossentropy()(one_hot, logits))
warned("percentages", sparse(y, 100 * p))
warned("one class", sparse(c(0, 0), matrix(c(0.4, 0.5))))
warned("one class, object", scce(c(0, 0), matrix(c(0.4, 0.5))))

# ---- after use: a fork, a file, another session ----
found("mclapply", vapply(
  parallel::mclapply(1:2, function(i) scce(y, p), mc.cores = 2L), format, "", digits = 7
))
kept <- tempfile(fileext = ".rds")
saveRDS(sparse(class_weight = c(1, 2, 3)), kept)
elsewhere <- sprintf(
  "loss <- readRDS('%s'); cat(loss(c(1, 2), rbind(c(.05, .95, 0), c(.1, .8, .1))))", kept
)
found("saved", tryCatch(
  system2(file.path(R.home("bin"), "Rscript"), c("-e", shQuote(elsewhere)), stdout = TRUE),
  error = identity
))
found("saved here", format(sparse(class_weight = c(1, 2, 3))(y, p), digits = 7))

# ---- memory: a million rows of ten doubles, 80 MB ----
status <- function(field) { # in MB
  line <- grep(field, readLines("/proc/self/status"), value = TRUE)
  as.numeric(gsub("[^0-9]", "", line)) / 1024
}
peak_growth <- function(call) {
  invisible(gc())
  cat("5", file = "/proc/self/clear_refs") # the peak starts anew
  before <- status("VmRSS")
  force(call)
  status("VmHWM") - before
}
if (file.exists("/proc/self/clear_refs")) {
  n <- 1000000L
  scores <- matrix(runif(10 * n), n)
  labels <- sample.int(10L, n, TRUE) - 1L
  invisible(scce(labels[1:100], scores[1:100, ]))
  invisible(sparse(labels[1:100], scores[1:100, ]))
  found("peak reduced", peak_growth(scce(labels, scores)))
  found("peak per label", peak_growth(sparse(labels, scores)))
  rm(scores, labels)
}

# ---- a Keras model, where R's Python has one ----
if (reticulate::py_module_available("keras")) {
  found("bare compile", compiled(bare))
  found("compile", compiled(list2env(list(
    loss_sparse_categorical_crossentropy = loss_sparse_categorical_crossentropy
  ))))
} else {
  found("bare compile", "absent")
  found("compile", "absent")
}
close(out)
