y_pred <- rbind(c(0.05, 0.95, 0), c(0.1, 0.8, 0.1))

metric_sparse_categorical_accuracy(c(1, 2), y_pred)
#> [1] 1 0

# Without data: an object that takes batches.
metric <- metric_sparse_categorical_accuracy(ignore_class = 255)
metric$update_state(c(1, 255), y_pred)
metric$update_state(c(1, 2), y_pred, sample_weight = c(1, 2))
metric$result()
#> [1] 0.5
