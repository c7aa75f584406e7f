"""Processors that kernels can be compiled for, beside this machine's own.

A process that has `environment(name)` compiles for that processor, and runs the code here where
`missing(name)` is None.
"""

import platform

import llvmlite.binding as llvm

PROCESSORS = {
    "haswell": "+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe",
    "nehalem": "+sse4.2,+popcnt",
}
"""Names and features: AVX2 without AVX-512, and what came before AVX."""


def environment(name: str) -> dict[str, str]:
    """What the environment must have for kernels to be compiled for this processor."""
    return {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": PROCESSORS[name]}


def missing(name: str) -> str | None:
    """Why code for this processor cannot run here; None where it can."""
    if not _x86():
        return "the code of x86 processors runs on x86 alone"
    wanted = [f[1:] for f in PROCESSORS[name].split(",")]
    if absent := [f for f in wanted if not llvm.get_host_cpu_features()[f]]:
        return f"this processor cannot run {name}'s code: it has no {absent[0]}"
    return None


def has_fma(name: str | None = None) -> bool:
    """Whether kernels for this processor, or for this machine's own, fuse multiply and add."""
    if name is not None:
        return "+fma" in PROCESSORS[name].split(",")
    return not _x86() or bool(llvm.get_host_cpu_features()["fma"])


def _x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")
