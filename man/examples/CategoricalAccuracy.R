y_pred <- rbind(c(0.05, 0.95, 0), c(0.1, 0.8, 0.1))

metric <- CategoricalAccuracy()
metric$update_state(rbind(c(0, 1, 0), c(0, 0, 1)), y_pred)
metric$result()
#> [1] 0.5
