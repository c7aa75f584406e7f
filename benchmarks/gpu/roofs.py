"""The roofs: how fast this machine reads and copies, with kernels that do nothing else.

The best of several grids counts; whoever is measured against a roof has to come near the best.
"""

import statistics
from collections.abc import Callable

import torch

from benchmarks.gpu.machine import Cuda
from benchmarks.gpu.record import Record

# 16 bytes a thread and turn, four turns in flight; what is read must be used, or it is not read.
SOURCE = r"""
struct alignas(16) Words { unsigned a, b, c, d; };

extern "C" __global__ void read(const Words* x, long long n, unsigned* out) {
    unsigned seen = 0;
    const long long step = (long long)gridDim.x * blockDim.x;
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i + 3 * step < n; i += 4 * step) {
        const uint4 p = __ldcs((const uint4*)(x + i));
        const uint4 q = __ldcs((const uint4*)(x + i + step));
        const uint4 r = __ldcs((const uint4*)(x + i + 2 * step));
        const uint4 s = __ldcs((const uint4*)(x + i + 3 * step));
        seen ^= p.x ^ p.y ^ p.z ^ p.w ^ q.x ^ q.y ^ q.z ^ q.w;
        seen ^= r.x ^ r.y ^ r.z ^ r.w ^ s.x ^ s.y ^ s.z ^ s.w;
    }
    for (; i < n; i += step) {
        const uint4 p = __ldcs((const uint4*)(x + i));
        seen ^= p.x ^ p.y ^ p.z ^ p.w;
    }
    if (seen == 0x9e3779b9u) *out = seen;
}

extern "C" __global__ void copy(const Words* x, long long n, Words* to) {
    const long long step = (long long)gridDim.x * blockDim.x;
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i + 3 * step < n; i += 4 * step) {
        const uint4 p = __ldcs((const uint4*)(x + i));
        const uint4 q = __ldcs((const uint4*)(x + i + step));
        const uint4 r = __ldcs((const uint4*)(x + i + 2 * step));
        const uint4 s = __ldcs((const uint4*)(x + i + 3 * step));
        __stcs((uint4*)(to + i), p);
        __stcs((uint4*)(to + i + step), q);
        __stcs((uint4*)(to + i + 2 * step), r);
        __stcs((uint4*)(to + i + 3 * step), s);
    }
    for (; i < n; i += step) __stcs((uint4*)(to + i), __ldcs((const uint4*)(x + i)));
}
"""
BLOCKS = (4, 8, 16, 32)  # a multiprocessor
THREADS = 256


def compiled(architecture: str) -> dict[str, bytes]:
    """Both kernels as machine code; needs a compiler, and no GPU."""
    from cuda.core import Program, ProgramOptions

    image = Program(SOURCE, "c++", ProgramOptions(arch=architecture)).compile("cubin").code
    return {"read": image, "copy": image}


def measure(machine: Cuda, record: Record) -> None:
    """Both roofs, in gigabytes (10**9 bytes) a second; a copy's bytes count read and written."""
    x = torch.randint(
        -(2**31), 2**31 - 1, (machine.bytes,), dtype=torch.int32, device=machine.device
    )
    to = torch.empty_like(x)
    for name, image in compiled(machine.architecture).items():
        launch = machine.kernel(image, name)
        best = max((_speed(machine, launch, name, x, to, each), each) for each in BLOCKS)
        machine.synchronise()
        right = name == "read" or bool(torch.equal(x, to))
        record.add("roof", name, gigabytes_per_second=best[0], blocks_each=best[1], ok=right)
    machine.free()


def _speed(
    machine: Cuda,
    launch: Callable[..., None],
    name: str,
    x: torch.Tensor,
    to: torch.Tensor,
    blocks_each: int,
) -> float:
    """Gigabytes a second of one kernel on one grid."""
    grid, words = blocks_each * machine.multiprocessors, x.numel() // 4

    def run() -> None:
        launch(grid, THREADS, x.data_ptr(), words, to.data_ptr())

    run()
    moved = x.numel() * 4 * (2 if name == "copy" else 1)
    return moved / statistics.median(machine.milliseconds(run, machine.rounds)) / 1e6
