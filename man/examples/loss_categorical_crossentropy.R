y_pred <- rbind(c(0.05, 0.95, 0), c(0.1, 0.8, 0.1))

# One-hot targets: the second and the third class.
y_true <- rbind(c(0, 1, 0), c(0, 0, 1))
loss_categorical_crossentropy(y_true, y_pred)
#> [1] 0.05129329 2.30258509

# Soft targets: half a vote for each of two classes.
loss_categorical_crossentropy(rbind(c(0.5, 0.5, 0)), y_pred[1, , drop = FALSE])
#> [1] 1.523513

# A factor as one-hot rows, where the columns stand in the order of its levels; then by their names.
f <- factor(c("b", "c"), levels = c("a", "b", "c"))
loss_categorical_crossentropy(diag(nlevels(f))[as.integer(f), ], y_pred)
#> [1] 0.05129329 2.30258509
turned <- cbind(c = y_pred[, 3], a = y_pred[, 1], b = y_pred[, 2])
loss_categorical_crossentropy(diag(3)[match(f, colnames(turned)), ], turned)
#> [1] 0.05129329 2.30258509

try(loss_categorical_crossentropy(rbind(c(0, 1, 0), c(0, 0, -1)), y_pred))
#> ValueError: y_true must hold targets of 0 and more, got -1.0 at (1, 2); for
#>   integer labels, -1 for a void class among them, use
#>   loss_sparse_categorical_crossentropy
