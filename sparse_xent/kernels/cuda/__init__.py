"""The loops again, for NVIDIA's GPUs: the four verbs on device memory, and what they launch.

    verbs      nll, nll_grad, nll_and_grad, rank: the same as on the other engines
    plan       which kernel serves a geometry, and with how many blocks and threads
    arguments  what a kernel is told: one list for all of them
    code       machine code by a kernel's name: from the disk, or compiled now
    words      every instruction that Numba has no word for, and the shared algebra on the device
    formula    what a class adds to a row on the device, where that differs from the CPU's
    few lanes rows strided picked ranks survey    the kernels

`plan` and `arguments` need neither Numba nor a GPU; `code` compiles without either a GPU or a
driver. Nothing here launches anything by itself: `launch` does, for whoever has a device.
"""
