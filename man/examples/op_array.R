op_array(c(1, 2))
#> [1] 1 2
op_array(rbind(c(0.05, 0.95, 0), c(0.1, 0.8, 0.1)), dtype = "float32")
#>      [,1] [,2] [,3]
#> [1,] 0.05 0.95  0.0
#> [2,] 0.10 0.80  0.1
op_array(c(0.5, 1.5), dtype = "int32")
#> [1] 0 1
try(op_array(c("a", "b")))
#> TypeError: x must hold numbers, got 'a' (str) at (0,)
