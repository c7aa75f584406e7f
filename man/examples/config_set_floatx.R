y_pred <- rbind(c(0.05, 0.95, 0), c(0.1, 0.8, 0.1))
format(SparseCategoricalCrossentropy()(c(1, 2), y_pred), digits = 15)
#> [1] "1.1769392490387"
config_set_floatx("float64")
format(SparseCategoricalCrossentropy()(c(1, 2), y_pred), digits = 15)
#> [1] "1.1769392436908"
config_set_floatx("float32")
