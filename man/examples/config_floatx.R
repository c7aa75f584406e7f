config_floatx()
#> [1] "float32"
