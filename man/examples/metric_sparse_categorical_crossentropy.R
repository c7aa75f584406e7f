y_pred <- rbind(c(0.05, 0.95, 0), c(0.1, 0.8, 0.1))

metric_sparse_categorical_crossentropy(c(1, 2), y_pred)
#> [1] 0.05129339 2.30258509

# Without data: the weighted mean over batches.
metric <- metric_sparse_categorical_crossentropy()
metric$update_state(c(1, 2), y_pred, sample_weight = c(0.3, 0.7))
metric$result()
#> [1] 1.627198
