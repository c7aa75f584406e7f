library(testthat)
library(sparsexent)

test_check("sparsexent")
