# No label of any call on a GPU was wrong; nor was there one here.
is.null(cuda_check())
#> [1] TRUE
