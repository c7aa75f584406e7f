y_pred <- rbind(c(0.05, 0.95, 0), c(0.1, 0.8, 0.1))

metric <- SparseCategoricalAccuracy()
metric$update_state(c(1, 2), y_pred)
metric
#> <SparseCategoricalAccuracy(): 0.5>

# Two states merge into what one would be.
other <- SparseCategoricalAccuracy()
other$update_state(c(1, 1), y_pred)
metric$merge(other)
metric$result()
#> [1] 0.75
