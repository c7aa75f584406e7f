y_pred <- rbind(c(0.05, 0.95, 0), c(0.1, 0.8, 0.1))

y_true <- rbind(c(0, 1, 0), c(0, 0, 1))
metric_categorical_accuracy(y_true, y_pred)
#> [1] 1 0
