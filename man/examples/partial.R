# Two partitions, of which nobody holds both; their states merge in any order.
y_true <- c(1, 2)
y_pred <- rbind(c(0.05, 0.95, 0), c(0.1, 0.8, 0.1))
first <- partial(y_true[1], y_pred[1, , drop = FALSE], top_k = 1:2)
second <- partial(y_true[2], y_pred[2, , drop = FALSE], top_k = 1:2, offset = 1)
both <- first$merge(second)
both$result()
#> [1] 1.176939
both$accuracy()
#> [1] 0.5
both$perplexity
#> [1] 3.244429

# What is wrong is named by its place in all of the data, counted from 0.
try(partial(c(0, 3), y_pred, offset = 100))
#> ValueError: y_true must hold whole numbers from 0 to 2 (3 classes): got 3
#>   at (101,); y_pred has 3 classes along axis 1
