# What a call costs from R, against base R for the same losses, in one session: against the best line, which
# takes the label's share before the log, and the one that is often written, which takes logs of all classes.
#
#     RETICULATE_PYTHON=$PWD/.venv-r/bin/python Rscript benchmarks/r_overhead.R
#
# sparsexent is installed into a temporary library first, from this checkout's sources. Times are the
# best and the median of several calls; the first call, which may compile, is not among them.

python <- reticulate::import("sparse_xent.r")
library_here <- tempfile("library")
dir.create(library_here)
install.packages(python$path(), library_here, repos = NULL, type = "source", quiet = TRUE)
library(sparsexent, lib.loc = library_here)

n <- 1000000L
set.seed(1)
p <- matrix(runif(10 * n), n)
y <- sample.int(10L, n, TRUE) - 1L
i <- seq_len(n)
scce <- loss_sparse_categorical_crossentropy()
sparse <- loss_sparse_categorical_crossentropy

seconds <- function(call, times = 9L) {
  call <- substitute(call)
  frame <- parent.frame()
  eval(call, frame)
  vapply(seq_len(times), function(k) {
    system.time(eval(call, frame))[["elapsed"]]
  }, 0)
}
line <- function(what, times, base) {
  cat(sprintf(
    "%-34s best %7.4f s   median %7.4f s   %5.1f times as fast as base R's best\n",
    what, min(times), stats::median(times), stats::median(base) / stats::median(times)
  ))
}

cat(
  R.version.string, "; reticulate ", format(utils::packageVersion("reticulate")), "; ",
  config_threads(), " threads; ", n, " x 10 doubles\n",
  sep = ""
)
base <- seconds(-log(pmax(p[cbind(i, y + 1)] / rowSums(p), 1e-7)))
all_logs <- seconds(-log(pmax(p / rowSums(p), 1e-7))[cbind(i, y + 1)])
line("base R, one loss a label", base, base)
line("base R, logs of all classes", all_logs, base)
line("scce(y, p)", seconds(scce(y, p)), base)
line("loss_sparse_...(y, p)", seconds(sparse(y, p)), base)
line("value_and_grad(scce, y, p)", seconds(value_and_grad(scce, y, p)), base)
ours <- loss_sparse_categorical_crossentropy(y, p, normalize = "before")
theirs <- -log(pmax(p[cbind(i, y + 1)] / rowSums(p), 1e-7))
cat(sprintf("largest difference of a loss       %.1e\n", max(abs(ours - theirs))))

# Calls so small that the way to Python and back is all they cost.
microseconds <- function(call, times = 2000L) {
  call <- eval(call("function", NULL, substitute(call)), parent.frame())
  call()
  runs <- vapply(1:5, function(k) {
    system.time(for (j in seq_len(times)) call(), gcFirst = FALSE)[["elapsed"]]
  }, 0)
  min(runs) / times * 1e6
}
few <- p[1:4, 1:3]
labels <- c(1, 2, 0, 1)
nothing <- reticulate::py_eval("lambda *given: 1.0")
bare <- reticulate::import("sparse_xent")$loss_sparse_categorical_crossentropy()
wrapped <- array(labels)
cat(sprintf("%-34s %6.1f us\n", "a Python function of nothing", microseconds(nothing(wrapped, few))))
cat(sprintf("%-34s %6.1f us\n", "the loss through import() alone", microseconds(bare(wrapped, few))))
cat(sprintf("%-34s %6.1f us\n", "scce(y, p)", microseconds(scce(labels, few))))
cat(sprintf("%-34s %6.1f us\n", "loss_sparse_...(y, p)", microseconds(sparse(labels, few))))
