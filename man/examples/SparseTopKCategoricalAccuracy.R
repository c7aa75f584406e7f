y_pred <- rbind(c(0.05, 0.95, 0), c(0.1, 0.8, 0.1))

metric <- SparseTopKCategoricalAccuracy(k = 2)
metric$update_state(c(0, 2), y_pred)
metric$result()
#> [1] 0.5
