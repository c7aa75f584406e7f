"""How long the work takes, beside the roofs and beside torch eager, torch.compile and Liger.

Times are medians of device events, on random data many times as large as the caches. Bytes are
those that must be moved: the scores once for the loss, and written once for a gradient.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

import sparse_xent as sx
from benchmarks.gpu.machine import Cuda
from benchmarks.gpu.record import BOTH, FORWARD, IN_PLACE, Record


@dataclass(frozen=True)
class Workload:
    """One shape, dtype and order; `goals` in % of the roof, by verb."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    axis: int = -1
    column_major: bool = False
    from_logits: bool = True
    normalize: str = "after"
    ignore_class: int | None = None
    goals: tuple[int | None, int | None] = (None, None)  # forward, with the gradient

    @property
    def classes(self) -> int:
        return self.shape[self.axis]

    def cut(self, most: int) -> "Workload":
        """The same with fewer rows: at most so many bytes of scores, or one row's."""
        size = getattr(torch, self.dtype).itemsize
        row = size
        for n in self.shape[1:]:
            row *= n
        return replace(self, shape=(max(1, min(self.shape[0], most // row)), *self.shape[1:]))

    def data(self, device: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Labels, and scores."""
        dtype = getattr(torch, self.dtype)
        if self.column_major:
            x = torch.randn(self.shape[::-1], dtype=dtype, device=device).T
        else:
            x = torch.randn(self.shape, dtype=dtype, device=device)
        if not self.from_logits:
            x = torch.softmax(x, self.axis)
        losses = [n for a, n in enumerate(self.shape) if a != self.axis % len(self.shape)]
        y = torch.randint(0, self.classes, losses, device=device)
        if self.ignore_class is not None:
            y[torch.rand(losses, device=device) < 0.1] = self.ignore_class
        return y, x

    def loss(self) -> sx.SparseCategoricalCrossentropy:
        """The loss that is measured."""
        return sx.SparseCategoricalCrossentropy(
            from_logits=self.from_logits,
            axis=self.axis,
            normalize=self.normalize,  # type: ignore[arg-type]
            ignore_class=self.ignore_class,
        )


WORKLOADS = [
    Workload("1M x 1000", (1_000_000, 1000), goals=(90, 85)),
    Workload("8192 x 131072", (8192, 131_072), goals=(93, 88)),
    Workload("bfloat16 16384 x 131072", (16_384, 131_072), "bfloat16", goals=(90, 85)),
    Workload("bfloat16 65536 x 50257", (65_536, 50_257), "bfloat16", goals=(85, 85)),
    Workload(
        "NCHW 64 x 21 x 512 x 512", (64, 21, 512, 512), axis=1, ignore_class=255, goals=(88, 85)
    ),
    Workload("column-major 1M x 1000", (1_000_000, 1000), column_major=True, goals=(90, 85)),
    Workload("float64 1M x 500", (1_000_000, 500), "float64", goals=(70, 70)),
    Workload("float16 1M x 1000", (1_000_000, 1000), "float16", goals=(90, 85)),
    Workload("32M x 10", (32_000_000, 10)),
    Workload("10M x 100", (10_000_000, 100)),
    Workload("probabilities 1M x 1000", (1_000_000, 1000), from_logits=False),
    Workload(
        'probabilities, normalize="never" 4M x 500',
        (4_000_000, 500),
        from_logits=False,
        normalize="never",
    ),
]

Run = Callable[[], object]


def measure(machine: Cuda, record: Record, workload: Workload) -> None:
    """All that a workload has, ours first."""
    y, x = workload.data(machine.device)
    moved = x.numel() * x.element_size()
    if workload.normalize == "never" and not workload.from_logits:
        moved = y.numel() * (y.element_size() + 32)  # a sector of 32 bytes a row
    dx = torch.empty_like(x)
    for verb, who, run, before in _runs(machine, workload, y, x, dx):
        if record.left < 15:
            record.add("left out", f"{workload.name}, {verb}, {who}", why="out of time")
            continue
        said: dict[str, Any] = {"verb": verb, "who": who}
        try:
            for _ in range(3):  # compiles, fills pools
                if before is not None:
                    before()
                run()
            machine.synchronise()
            times = [t for _ in range(machine.rounds) for t in _timed(machine, run, before)]
        except Exception as error:  # a rival's failure is a finding, and ours must not end the run
            lines = f"{type(error).__name__}: {error}".strip().splitlines()
            record.add("time", workload.name, **said, error=lines[0], ok=who != "ours")
            machine.free()
            continue
        median = statistics.median(times)
        written = verb != FORWARD
        goal = workload.goals[written]
        bytes_moved = 2 * x.numel() * x.element_size() if written else moved
        record.add(
            "time",
            workload.name,
            **said,
            milliseconds=median,
            least=min(times),
            rounds=len(times),
            gigabytes_per_second=bytes_moved / median / 1e6,
            written=written,
            goal=goal,
            bytes=x.numel() * x.element_size(),
        )
    del x, y, dx
    machine.free()


def _timed(machine: Cuda, run: Run, before: Run | None) -> list[float]:
    if before is not None:
        before()
    return machine.milliseconds(run, 1)


def _runs(
    machine: Cuda, workload: Workload, y: torch.Tensor, x: torch.Tensor, dx: torch.Tensor
) -> Iterator[tuple[str, str, Run, Run | None]]:
    """Verb, whose, what is timed, and what is done before it untimed."""
    loss = workload.loss()
    yield FORWARD, "ours", lambda: loss(y, x), None
    yield BOTH, "ours", lambda: loss.value_and_grad(y, x, out=dx), None
    yield IN_PLACE, "ours", lambda: loss.value_and_grad(y, dx, out=dx), lambda: dx.copy_(x)
    if not workload.from_logits:
        return
    theirs = _eager(workload)
    for who, function in (("torch", theirs), ("torch.compile", machine.compile(theirs))):
        yield FORWARD, who, lambda f=function: f(x, y), None  # type: ignore[misc]
        yield BOTH, who, lambda f=function: _gradient(f, x, y), None  # type: ignore[misc]
    last = workload.axis == -1 and not workload.column_major
    if machine.has("liger_kernel") and last:
        from liger_kernel.transformers.functional import liger_cross_entropy

        yield BOTH, "Liger", lambda: _gradient(liger_cross_entropy, dx, y), lambda: dx.copy_(x)


def _eager(workload: Workload) -> Callable[..., torch.Tensor]:
    """torch's own: it wants its classes second."""
    ignored = -100 if workload.ignore_class is None else workload.ignore_class

    def cross_entropy(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(x, y, ignore_index=ignored)

    return cross_entropy


def _gradient(function: Callable[..., Any], x: torch.Tensor, y: torch.Tensor) -> Any:
    at = x.detach().requires_grad_(True)
    return torch.autograd.grad(function(at, y), at)


def host_time(machine: Cuda, record: Record) -> None:
    """What a launch-bound call costs its caller: microseconds until it has returned."""
    x = torch.randn(1024, 1000, device=machine.device)
    y = torch.randint(0, 1000, (1024,), device=machine.device)
    dx = torch.empty_like(x)
    loss = sx.SparseCategoricalCrossentropy(from_logits=True)
    f = sx.loss_sparse_categorical_crossentropy
    theirs = torch.nn.functional.cross_entropy
    for name, run in {
        "per label, 1024 x 1000": lambda: f(y, x, True),
        "value, 1024 x 1000": lambda: loss(y, x),
        "value and gradient, 1024 x 1000": lambda: loss.value_and_grad(y, x, out=dx),
        "torch, value, 1024 x 1000": lambda: theirs(x, y),
    }.items():
        run()
        record.add("host time", name, microseconds=_host(machine, run))


def _host(machine: Cuda, run: Run) -> float:
    """The median over batches, each short enough that the device's queue does not fill up."""
    batch, taken = min(50, machine.calls), []
    for _ in range(max(1, machine.calls // batch)):
        machine.synchronise()
        start = time.perf_counter()
        for _ in range(batch):
            run()
        taken.append((time.perf_counter() - start) / batch)
    machine.synchronise()
    return 1e6 * statistics.median(taken)
