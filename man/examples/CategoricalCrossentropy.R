cce <- CategoricalCrossentropy()
y_true <- rbind(c(0, 1, 0), c(0, 0, 1))
y_pred <- rbind(c(0.05, 0.95, 0), c(0.1, 0.8, 0.1))
cce(y_true, y_pred)
#> [1] 1.176939
cce(y_true, y_pred, sample_weight = c(0.3, 0.7))
#> [1] 0.8135988

# The gradient of logits is their softmax less the target.
cce <- CategoricalCrossentropy(from_logits = TRUE, reduction = "sum")
found <- cce$value_and_grad(rbind(c(0.5, 0.5, 0)), rbind(c(0, 0, 0)))
found[[2]]
#>            [,1]       [,2]      [,3]
#> [1,] -0.1666667 -0.1666667 0.3333333
