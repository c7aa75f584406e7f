"""Which library an array is of, asked once a call; the only rooms that name one.

y_pred alone decides: what comes back is of its type. NumPy's arrays, and what converts to one
without loss (lists, pandas and polars frames, memory-mapped files), are served by `numpy`.
"""
