"""What the CUDA kernels do on real hardware: right first, then fast, within eight minutes.

    python -m benchmarks.gpu [--seconds 480] [--only NAME] [--output FOLDER]

It needs torch with CUDA and the extra `cuda13`; CuPy, Triton and Liger take part where they are.
Every finding is a line of JSON as soon as it is there, the tables come last, and a run that is out
of time says what it left out. Nothing but `machine` asks for a GPU: the tests run all the rest on
the host.
"""
