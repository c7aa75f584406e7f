wrong <- rbind(c(1, 0))
loss_sparse_categorical_crossentropy(1L, wrong)
#> [1] 16.1181
config_set_epsilon(1e-12)
loss_sparse_categorical_crossentropy(1L, wrong)
#> [1] 27.63102
config_set_epsilon(0)
loss_sparse_categorical_crossentropy(1L, wrong)
#> [1] Inf
config_set_epsilon(1e-7)
try(config_set_epsilon(0.5))
#> ValueError: value must be from 0 to below 0.5, got 0.5
