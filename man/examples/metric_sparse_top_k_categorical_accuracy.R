y_pred <- rbind(c(0.05, 0.95, 0), c(0.1, 0.8, 0.1))

metric_sparse_top_k_categorical_accuracy(c(0, 2), y_pred, k = 2)
#> [1] 1 0

# Of equal scores the lower class ranks first.
metric_sparse_top_k_categorical_accuracy(0:2, matrix(1, 3, 3), k = 2)
#> [1] 1 1 0
