y_true <- c(0, 3)
logits <- rbind(c(2, 1, 0, 0), c(0, 0, 1, 1))
state <- merge_rows(
  row_partial(logits[, 1:2], y_true, class_offset = 0L),
  row_partial(logits[, 3:4], y_true, class_offset = 2L)
)
here <- grad_from_rows(logits[, 1:2], y_true, 0L, state)
there <- grad_from_rows(logits[, 3:4], y_true, 2L, state)
round(cbind(here, there), 4)
#>         [,1]   [,2]   [,3]    [,4]
#> [1,] -0.1949 0.1123 0.0413  0.0413
#> [2,]  0.0672 0.0672 0.1828 -0.3172
