config_set_threads(1)
config_threads()
#> [1] 1

# As many again as the machine gives.
config_set_threads(NULL)
