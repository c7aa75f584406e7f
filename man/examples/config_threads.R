config_threads() >= 1
#> [1] TRUE
