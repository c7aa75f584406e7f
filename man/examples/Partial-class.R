state <- partial(c(1, 2), rbind(c(0.05, 0.95, 0), c(0.1, 0.8, 0.1)), top_k = 1)
state
#> Partial(count=2, mean=1.1769392436907957, top_k=[1])
state$result("sum")
#> [1] 2.353878
state$standard_error()
#> [1] 1.125646

# A state is stored, or sent, as text.
text <- state$to_json()
Partial$from_json(text)$count
#> [1] 2
