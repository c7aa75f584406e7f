wrong <- rbind(c(1, 0))
loss_sparse_categorical_crossentropy(1L, wrong)
#> [1] 16.1181
config_set_epsilon(1e-12)
loss_sparse_categorical_crossentropy(1L, wrong)
#> [1] 27.63102
config_set_epsilon(1e-7)
try(config_set_epsilon(0))
#> ValueError: value must be between 0 and 0.5, both excluded, got 0.0
