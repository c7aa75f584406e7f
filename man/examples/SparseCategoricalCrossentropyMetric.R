y_pred <- rbind(c(0.05, 0.95, 0), c(0.1, 0.8, 0.1))

metric <- SparseCategoricalCrossentropyMetric(ignore_class = 255)
metric$update_state(c(1, 255), y_pred)
metric$update_state(c(1, 2), y_pred)
metric$result()
#> [1] 0.801724

# Perplexity, once at the end.
exp(metric$result())
#> [1] 2.229381
