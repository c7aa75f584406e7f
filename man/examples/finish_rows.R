y_true <- c(0, 1)
logits <- rbind(c(20, 0, 0, 0), c(0, 0, 1, 1))
state <- merge_rows(
  row_partial(logits[, 1:2], y_true, class_offset = 0L),
  row_partial(logits[, 3:4], y_true, class_offset = 2L)
)
finish_rows(state, reduction = NULL)
#> [1] 6.183461e-09 2.006409e+00
finish_rows(state, sample_weight = c(1, 3), reduction = "mean_with_sample_weight")
#> [1] 1.504807

# A shard is missing.
try(finish_rows(row_partial(logits[, 3:4], y_true, class_offset = 2L)))
#> ValueError: state must hold all classes from 0 on, got 2..3: classes 0..1
#>   are missing; merge their shards too
