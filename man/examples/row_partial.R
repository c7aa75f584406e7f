# Five classes, the first three here and the last two elsewhere.
y_true <- c(0, 4)
logits <- rbind(c(2, 1, 0, 0, 0), c(0, 0, 0, 1, 2))
first <- row_partial(logits[, 1:3], y_true, class_offset = 0L)
last <- row_partial(logits[, 4:5], y_true, class_offset = 3L)
first
#> RowState(shape=(2,), dtype=float64, classes=0..2)

finish_rows(merge_rows(first, last))
#> [1] 0.5731722
loss <- SparseCategoricalCrossentropy(from_logits = TRUE)
loss(y_true, logits)
#> [1] 0.5731722
