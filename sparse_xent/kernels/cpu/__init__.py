"""The kernels for the CPU."""
