y_true <- c(0, 4)
logits <- rbind(c(2, 1, 0, 0, 0), c(0, 0, 0, 1, 2))
states <- lapply(1:5, function(k) {
  row_partial(logits[, k, drop = FALSE], y_true, class_offset = k - 1L)
})
do.call(merge_rows, states)
#> RowState(shape=(2,), dtype=float64, classes=0..4)

# Any order, any grouping.
Reduce(merge_rows, rev(states))
#> RowState(shape=(2,), dtype=float64, classes=0..4)
