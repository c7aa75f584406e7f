"""What runs a plan on the host: NumPy, the compiled kernels with their threads, CUDA."""
