state <- row_partial(matrix(0, 3, 2), c(0, 1, 1), class_offset = 0L)
state$nbytes
#> [1] 72
RowState$from_bytes(state$to_bytes())
#> RowState(shape=(3,), dtype=float64, classes=0..1)
