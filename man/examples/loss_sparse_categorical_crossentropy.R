# One loss per label. Labels count from 0: these are the second and the third class.
y_true <- c(1, 2)
y_pred <- rbind(c(0.05, 0.95, 0), c(0.1, 0.8, 0.1))
loss_sparse_categorical_crossentropy(y_true, y_pred)
#> [1] 0.05129339 2.30258509

# Without data: an object that reduces. The default is the mean.
scce <- loss_sparse_categorical_crossentropy()
scce(op_array(y_true), op_array(y_pred))
#> [1] 1.176939
scce(op_array(y_true), op_array(y_pred), sample_weight = op_array(c(0.3, 0.7)))
#> [1] 0.8135988

scce <- loss_sparse_categorical_crossentropy(reduction = "sum")
scce(op_array(y_true), op_array(y_pred))
#> [1] 2.353878

scce <- loss_sparse_categorical_crossentropy(reduction = NULL)
scce(op_array(y_true), op_array(y_pred))
#> [1] 0.0512934 2.3025851

# Logits: a confident and right row costs little, but not 0.
loss_sparse_categorical_crossentropy(0L, rbind(c(20, 0, 0)), from_logits = TRUE)
#> [1] 4.122307e-09

# The classes may stand along any axis: here each column is a case.
loss_sparse_categorical_crossentropy(y_true, t(y_pred), axis = -2L)
#> [1] 0.05129339 2.30258509

# A factor is sent as its codes less 1 where the columns stand in the order of its levels...
f <- factor(c("b", "c"), levels = c("a", "b", "c"))
loss_sparse_categorical_crossentropy(as.integer(f) - 1L, y_pred)
#> [1] 0.05129339 2.30258509

# ... and by the columns' names where they stand in another.
turned <- cbind(c = y_pred[, 3], a = y_pred[, 1], b = y_pred[, 2])
loss_sparse_categorical_crossentropy(match(f, colnames(turned)) - 1L, turned)
#> [1] 0.05129339 2.30258509

# Labels that count from 1 are refused, and so is what is missing.
try(loss_sparse_categorical_crossentropy(c(2, 3), y_pred))
#> ValueError: y_true must hold whole numbers from 0 to 2 (3 classes): got 3
#>   at (1,); labels look 1-based: use y - 1 (in R: y - 1L)
try(loss_sparse_categorical_crossentropy(c(1L, NA), y_pred))
#> ValueError: y_true must hold whole numbers from 0 to 2 (3 classes): got
#>   -2147483648 (NA in R) at (1,); drop missing labels, or name a class for
#>   them in ignore_class (ignore_class=-2147483648 takes R's NA as it is)
loss_sparse_categorical_crossentropy(c(1L, NA), y_pred, ignore_class = -2147483648)
#> [1] 0.05129339 0.00000000
