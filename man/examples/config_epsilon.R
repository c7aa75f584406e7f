config_epsilon()
#> [1] 1e-07
