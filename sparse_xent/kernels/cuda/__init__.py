"""The kernels for NVIDIA's GPUs.

    params       what every kernel takes: one list of numbers for all of them
    geometry     which kernel serves a shape, and with how many blocks and threads
    loader       machine code by a kernel's name: from the disk, or compiled now
    registry     what is compiled under each name
    intrinsics   the primitives that only a GPU has
    formulas     how a term is made on the device, where that differs from the CPU
    position     labels, weights and sums, which all kernels treat alike
    epilogue     what every row ends with
    thread_rows warp_rows block_rows strided gather rank count    the kernels

`geometry` and `params` need neither Numba nor a GPU; `loader` compiles without a GPU or a driver.
Nothing here launches anything: `engines.cuda_driver` does, for whoever has a device.
"""
