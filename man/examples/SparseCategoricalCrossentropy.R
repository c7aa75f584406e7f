scce <- SparseCategoricalCrossentropy(from_logits = TRUE, ignore_class = 255)
scce
#> SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)

# A void label (255) costs nothing and counts nowhere.
y_true <- c(0, 255, 2)
logits <- rbind(c(2, 1, 0), c(0, 0, 0), c(0, 1, 2))
scce(y_true, logits)
#> [1] 0.407606

# Value and gradient of the mean: each row sums to 0, the void one is 0.
found <- scce$value_and_grad(y_true, logits)
found[[1]]
#> [1] 0.407606
round(found[[2]], 4)
#>         [,1]   [,2]    [,3]
#> [1,] -0.1674 0.1224  0.0450
#> [2,]  0.0000 0.0000  0.0000
#> [3,]  0.0450 0.1224 -0.1674

# The arguments, as a list that can be saved; and an equal object made of them.
str(scce$get_config()[c("from_logits", "ignore_class", "axis")])
#> List of 3
#>  $ from_logits : logi TRUE
#>  $ ignore_class: int 255
#>  $ axis        : int -1
SparseCategoricalCrossentropy$from_config(scce$get_config())
#> SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
