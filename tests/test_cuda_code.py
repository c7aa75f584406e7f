"""Machine code without a GPU: what every kernel is compiled to, for three generations, is read.

A kernel has to move 16 bytes at once, to live in its registers, and to keep float64 and anything
that adds in no order out of what it does for each class.
"""

import multiprocessing
import re
import subprocess
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import device
import pytest
from conftest import NEEDS_CUDA_COMPILER

from sparse_xent.kernels.cuda import loader, registry
from sparse_xent.kernels.cuda.geometry import registers

pytestmark = [pytest.mark.slow, NEEDS_CUDA_COMPILER]

ARCHITECTURES = [(8, 0), (9, 0), (10, 0)]

#: Every kernel, with the formats, scores and outputs that ask most of it.
KERNELS = [
    "thread_rows.float32.logits.sharp.nll",
    "thread_rows.bfloat16.normalize_clip.smooth.grad",
    "warp_rows32x2.float32.logits.sharp.nll",
    "warp_rows32x8.float32.logits.sharp.nll",
    "warp_rows32x16.float32.logits.sharp.grad",
    "warp_rows32x8.bfloat16.logits.sharp.grad",
    "warp_rows32x4.bfloat16.normalize_clip.smooth.grad",
    "warp_rows32x8.float64.logits.sharp.grad",
    "block_rows.float32.logits.sharp.nll",
    "block_rows.bfloat16.logits.sharp.nll",
    "block_rows.float64.logits.sharp.nll",
    "cached_rows.float32.logits.sharp.grad",
    "cached_rows.bfloat16.logits.sharp.grad",
    "cached_rows.float64.normalize_clip.smooth.grad",
    "cluster_rows.float32.logits.sharp.grad",
    "strided4.float32.logits.sharp.nll",
    "strided8.bfloat16.logits.sharp.grad",
    "gather.float32.clip.sharp.nll",
    "rank_rows.bfloat16",
    "count",
]


@dataclass
class Listing:
    """Machine code, line by line, and where its loops are."""

    text: str
    usage: str
    lines: list[str] = field(default_factory=list)
    loops: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self):
        labels, jumps = {}, []
        for line in self.text.splitlines():
            if label := re.match(r"\s*(\.L_x_\d+):", line):
                labels[label[1]] = len(self.lines)
            elif found := re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
                if jump := re.search(r"\bBRA\S*\s.*`\((\.L_x_\d+)\)", found[1]):
                    jumps.append((len(self.lines), jump[1]))
                self.lines.append(found[1])
        self.loops = [(labels[to], at) for at, to in jumps if labels[to] <= at]

    def count(self, pattern, lines=None):
        return sum(bool(re.search(pattern, line)) for line in lines or self.lines)

    def inner_loops(self):
        """The lines of each loop that has no other within."""
        for first, last in self.loops:
            if not any(first <= a and b <= last and (a, b) != (first, last) for a, b in self.loops):
                yield self.lines[first : last + 1]

    def loops_over_classes(self):
        """Those of them that read scores or make terms."""
        for lines in self.inner_loops():
            if self.count(TERM, lines):
                yield lines

    @property
    def registers(self):
        return int(re.search(r"REG:(\d+)", self.usage)[1])

    @property
    def stack(self):
        return int(re.search(r"STACK:(\d+)", self.usage)[1])


TERM = r"MUFU\.EX2|LDG\.E\S*\.128"
WIDE = r"LDG\S*\.128"  # LDGSTS too: from global to shared memory
SPILL = r"\b(LDL|STL)\b"
FLOAT_ATOMIC = r"\b(RED|ATOM|ATOMG|ATOMS|REDG)\S*\.(F16|F32|F64|BF16)"
FLOAT64 = r"\b(DADD|DMUL|DFMA|DSETP|DMNMX)\b|\.F64"


def read(kernel, cc, folder):
    """The listing of a kernel, as the cache on disk has it or compiled now."""
    image = Path(folder) / f"{kernel}.{cc[0]}.cubin"
    image.write_bytes(loader.cubin(kernel, cc).image)

    def output(tool, *options):
        from cuda.pathfinder import find_nvidia_binary_utility  # comes with the compiler

        path = find_nvidia_binary_utility(tool)
        run = subprocess.run([path, *options, image], capture_output=True, text=True, check=True)
        return run.stdout

    # without an analysis of the flow of data, which takes as long as all the rest
    return Listing(output("nvdisasm", "-c", "-ndf"), output("cuobjdump", "-res-usage"))


def _read_all(kernel, folder):
    device.text(kernel)  # the simulator wants it later; once Numba knows its types, all is quick
    able = [cc for cc in ARCHITECTURES if cc[0] >= 9 or not kernel.startswith("cluster_rows")]
    return [(cc, read(kernel, cc, folder)) for cc in able]


@pytest.fixture(scope="module")
def listings(tmp_path_factory):
    """kernel -> [(compute capability, listing)], made by two processes."""
    folder = tmp_path_factory.mktemp("cubins")
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        made = {kernel: pool.submit(_read_all, kernel, folder) for kernel in KERNELS}
        yield {kernel: future.result() for kernel, future in made.items()}


@pytest.mark.seconds(240)
def test_kernels_live_in_their_registers(listings):
    for kernel, all_ in listings.items():
        for cc, listing in all_:
            at = f"{kernel} sm_{cc[0]}{cc[1]}"
            assert listing.registers <= registers(kernel), at
            assert listing.stack == 0, f"{at} spills"
            assert not listing.count(SPILL), f"{at} spills"


def test_scores_are_read_and_written_16_bytes_at_once(listings):
    for kernel, all_ in listings.items():
        if kernel.startswith(("gather", "count")):
            continue
        for cc, listing in all_:
            assert listing.count(WIDE), f"{kernel} {cc} reads less than 16 bytes at once"
            if kernel.endswith("grad"):
                assert listing.count(r"STG\S*\.128"), f"{kernel} {cc} writes less"


def test_nothing_is_added_in_no_order(listings):
    for kernel, all_ in listings.items():
        for cc, listing in all_:
            assert not listing.count(FLOAT_ATOMIC), f"{kernel} {cc}"
            if "rank" not in kernel:
                assert listing.count(r"\bATOMG?\b|\bATOMG?\."), f"{kernel} {cc} counts no blocks"


def test_float64_stays_out_of_the_loops_over_classes_of_other_formats(listings):
    seen = 0
    for kernel, all_ in listings.items():
        for cc, listing in all_:
            loops = list(listing.loops_over_classes())
            if kernel.startswith(("block_rows", "cached_rows", "cluster_rows", "strided")):
                assert loops, f"{kernel} {cc} has no loop over classes"
            found = sum(listing.count(FLOAT64, lines) for lines in loops)
            if "float64" in kernel:
                seen += found > 0  # where it belongs, it is seen
            else:
                assert not found, f"{kernel} {cc} has float64 in a loop over classes"
    assert seen >= 3


def test_float64_of_a_row_in_lanes_is_the_same_for_any_number_of_classes(listings):
    """The loop over classes is unrolled there: four times as many classes take no more of it."""
    few, many = (
        listings["warp_rows32x2.float32.logits.sharp.nll"],
        listings["warp_rows32x8.float32.logits.sharp.nll"],
    )
    for (cc, a), (_, b) in zip(few, many, strict=True):
        assert a.count(FLOAT64) == b.count(FLOAT64), cc
        assert a.count("MUFU.EX2") < b.count("MUFU.EX2"), cc


# ---- the readers see what they are to see -------------------------------------------------------


def planted(*lines):
    text = "".join(
        line if line.startswith(".L") else f"        /*{16 * k:04x}*/    {line} ;\n"
        for k, line in enumerate(lines)
    )
    return Listing(text, "REG:40 STACK:8 SHARED:0")


def test_what_is_planted_is_found():
    bad = planted(
        "MOV R1, c[0x0][0x28]",
        ".L_x_0:\n",
        "LDG.E.128.CONSTANT R4, [R2.64]",
        "DADD R6, R6, R8",
        "STL [R1], R6",
        "RED.E.ADD.F32.FTZ.RN.STRONG.GPU [R2.64], R4",
        "@P0 BRA `(.L_x_0)",
        "EXIT",
    )
    (loop,) = bad.loops_over_classes()
    assert bad.count(FLOAT64, loop) == bad.count(SPILL) == bad.count(FLOAT_ATOMIC) == 1
    assert (bad.registers, bad.stack) == (40, 8)


# ---- by name, and kept --------------------------------------------------------------------------


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(loader, "_codes", {})
    monkeypatch.setattr(loader, "compiled", [])
    return tmp_path


def test_code_is_compiled_once_and_then_found_on_disk(fresh, monkeypatch):
    first = loader.cubin("count", (9, 0))
    assert loader.compiled == [("count", (9, 0))]
    assert first.image.startswith(b"\x7fELF")
    assert first.entry.encode() in first.image
    monkeypatch.setattr(loader, "_codes", {})
    monkeypatch.setattr(loader, "_made", None)
    assert loader.cubin("count", (9, 0)) == first
    assert loader.cubin("count", (9, 0)) is loader.cubin("count", (9, 0))


def test_a_file_cut_short_is_compiled_anew(fresh):
    whole = loader.cubin("count", (9, 0))
    (kept,) = fresh.rglob("*.o")
    kept.write_bytes(kept.read_bytes()[:-100])
    loader._codes.clear()
    assert len(loader.cubin("count", (9, 0)).image) == len(whole.image)
    assert len(loader.compiled) == 2


def test_the_compiler_has_to_be_nvidias(monkeypatch):
    from numba import cuda

    monkeypatch.setattr(cuda, "implementation", "Numba")
    with pytest.raises(RuntimeError, match=r"takes the package numba-cuda.*pip install"):
        registry.compiled("count", (9, 0), "ptx")


def test_absent_packages_are_told_in_one_sentence(fresh, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "cuda.core", None)
    with pytest.raises(RuntimeError, match=r"numba-cuda and cuda-core.*pip install"):
        loader.cubin("count", (9, 0))
