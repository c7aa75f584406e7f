"""Whether the kernels are right: every kind, dtype and boundary shape against float64.

The definition is written here once more, in float64 tensors, and imports nothing of ours. Whatever
the library allocates for a result is NaN before a kernel sees it, so that what is not written
shows; every call is made twice, and must give the same bits.
"""

import itertools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

import sparse_xent as sx
from benchmarks.gpu.machine import Cuda
from benchmarks.gpu.record import Record
from sparse_xent.arrays.adapters import adapter_of_type

#: Relative error of a loss, and of a gradient's elements relative to the row's greatest.
TOLERANCE = {"float16": 2e-3, "bfloat16": 1.6e-2, "float32": 1e-5, "float64": 1e-12}
KINDS = {
    "logits": {"from_logits": True},
    "after": {"normalize": "after"},
    "before": {"normalize": "before"},
    "never": {"normalize": "never"},
}
IGNORED = 255

#: Classes around the places where kernels change, vectors end and blocks begin.
CLASSES = (
    1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 257, 511, 512, 513,
    1000, 1023, 1024, 1025, 2047, 2048, 2049, 4095, 4096, 4099, 8191, 8193, 28_672, 28_673, 50_257,
    65_537, 131_072, 131_075,
)  # fmt: skip
ROWS = (1, 2, 5, 33)


@dataclass(frozen=True)
class Case:
    """One shape, order, dtype and kind."""

    shape: tuple[int, ...]
    axis: int
    layout: str  # "C", "F", "odd" (starts and steps at odd elements), "gaps"
    dtype: str
    kind: str
    smoothing: float = 0.0

    def __str__(self) -> str:
        smooth = ", smoothed" if self.smoothing else ""
        where = f"{self.shape}, axis {self.axis}, {self.layout}"
        return f"{self.dtype}, {self.kind}{smooth}, {where}"

    @property
    def options(self) -> dict[str, Any]:
        """The loss's arguments."""
        smoothing = {"label_smoothing": self.smoothing}
        return {**KINDS[self.kind], **smoothing, "axis": self.axis, "ignore_class": IGNORED}

    def data(self, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Labels, scores and weights."""
        seed = torch.Generator(device).manual_seed(7)
        dtype = getattr(torch, self.dtype)
        x = torch.randn(self.shape, generator=seed, dtype=torch.float64, device=device) * 3
        if self.kind != "logits":
            x = torch.softmax(x, self.axis)
        x = _laid(x.to(dtype), self.layout)
        losses = [n for a, n in enumerate(self.shape) if a != self.axis % len(self.shape)]
        classes = self.shape[self.axis]
        y = torch.randint(0, classes, losses, generator=seed, device=device)
        w = torch.rand(losses, generator=seed, dtype=torch.float64, device=device)
        if y.numel() > 3:
            y.view(-1)[2] = IGNORED if classes <= IGNORED else y.view(-1)[2]
            w.view(-1)[3] = 0.0
        return y, x, w


def cases() -> Iterator[Case]:
    """Every case, those first that tell the most."""
    every = list(itertools.product(TOLERANCE, KINDS, (0.0, 0.1)))
    for classes in (1000, 3, 131_075):  # one kernel of each family, in every variant
        for dtype, kind, smoothing in every:
            yield Case((5, classes), -1, "C", dtype, kind, smoothing)
    for shape, axis, layout in (
        ((2, 21, 13, 17), 1, "C"),
        ((3, 5, 7), 1, "C"),
        ((70, 30), -1, "F"),
        ((2, 1000, 9), 1, "C"),
        ((33, 1001), -1, "odd"),
        ((6, 40, 11), 0, "gaps"),
        ((4, 6, 50), -1, "gaps"),
    ):
        for dtype, kind, smoothing in every:
            yield Case(shape, axis, layout, dtype, kind, smoothing)
    for classes, rows in itertools.product(CLASSES, ROWS):
        for dtype in TOLERANCE:
            yield Case((rows, classes), -1, "C", dtype, "logits")
    for classes, rows in itertools.product(CLASSES, ROWS[::3]):
        for dtype, kind in itertools.product(("float32", "bfloat16"), tuple(KINDS)[1:]):
            yield Case((rows, classes), -1, "C", dtype, kind)
    for classes, inner in itertools.product((1, 2, 5, 19, 33, 257), (1, 2, 31, 33, 129)):
        for dtype in TOLERANCE:
            yield Case((3, classes, inner), 1, "C", dtype, "logits")


def measure(machine: Cuda, record: Record, seconds: float) -> None:
    """Check cases until `seconds` are left."""
    wanted = list(cases())
    done = 0
    with poisoned():
        for case in wanted:
            if record.left < seconds:
                break
            said = _complaint(machine, case)
            if said or done % 100 == 0:
                record.add("correct", str(case), ok=not said, said=said)
            done += 1
    name = f"{done} cases of {len(wanted)}"
    record.add("correct", name, ok=done > 0, said="", cases=done)
    if done < len(wanted):
        record.add("left out", f"correct: {len(wanted) - done} cases", why="out of time")


def _complaint(machine: Cuda, case: Case) -> str:
    """What is wrong with a case; "" where nothing is."""
    try:
        found = [_answers(machine, case) for _ in range(2)]
        right = definition(case, *case.data(machine.device))
    except Exception as error:  # it goes into the record; the next case may do
        return f"{type(error).__name__}: {error}".strip().splitlines()[0]
    for name, first in found[0].items():
        if not _same_bits(first, found[1][name]):
            return f"{name}: two calls gave different bits"
        off = _error(first, right[name], case, by_row=name.startswith("gradient"))
        if not off <= TOLERANCE["float32" if name.startswith("value") else case.dtype]:
            return f"{name}: off by {off:.3g}"
    return ""


def _answers(machine: Cuda, case: Case) -> dict[str, torch.Tensor]:
    """What our verbs say: losses, values, gradients."""
    y, x, w = case.data(machine.device)
    loss = sx.SparseCategoricalCrossentropy(**case.options)
    summed = sx.SparseCategoricalCrossentropy(**case.options, reduction="sum")
    out = torch.full_like(x, torch.nan)
    value, _ = loss.value_and_grad(y, x, w, out=out)
    place = x.clone(memory_format=torch.preserve_format)
    if place.stride() == x.stride():
        _, in_place = loss.value_and_grad(y, place, w, out=place)
    else:  # a view with gaps has no twin of the same strides
        in_place = out
    at = x.detach().requires_grad_(True)
    summed(y, at, w).backward()
    return {
        "losses": sx.loss_sparse_categorical_crossentropy(y, x, **case.options),
        "value": value,
        "value alone": loss(y, x, w),
        "gradient": out,
        "gradient in place": in_place,
        "gradient by autograd": at.grad,
    }


def definition(
    case: Case, y: torch.Tensor, x: torch.Tensor, w: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The same by the definition."""
    wide = torch.float64
    moved = x.detach().to(wide).movedim(case.axis, -1).contiguous().requires_grad_(True)
    kept = y != IGNORED
    t = torch.where(kept, y, 0)[..., None]
    s, classes = case.smoothing, moved.shape[-1]
    a = torch.zeros_like(moved).scatter_(-1, t, 1 - s) + s / classes
    if case.kind == "logits":
        losses = torch.logsumexp(moved, -1) - (a * moved).sum(-1)
    else:
        single = torch.float64 if case.dtype == "float64" else torch.float32
        lo = torch.tensor(1e-7, dtype=single).item()
        hi = torch.tensor(1 - 1e-7, dtype=wide).to(single).item()
        q = moved / moved.sum(-1, keepdim=True) if case.kind == "before" else moved
        q = q.clamp(lo, hi)
        losses = -(a * q.log()).sum(-1)
        if case.kind == "after":
            losses = losses + q.sum(-1).log()
    losses = torch.where(kept, losses, 0.0)
    weighted = torch.where(w == 0, 0.0, losses * w)
    (slope,) = torch.autograd.grad(weighted.sum(), moved)
    slope = slope.movedim(-1, case.axis)
    count = max(1, int(kept.sum()))
    mean = (weighted.sum() / count).detach()
    return {
        "losses": losses.detach(),
        "value": mean,
        "value alone": mean,
        "gradient": slope / count,
        "gradient in place": slope / count,
        "gradient by autograd": slope,
    }


def _error(found: torch.Tensor, right: torch.Tensor, case: Case, by_row: bool) -> float:
    """The greatest error, relative to each loss or to each gradient row's greatest element."""
    right = right.to(found.dtype).to(torch.float64)  # what is beyond a half is inf there
    found = found.detach().to(torch.float64)
    if found.shape != right.shape:
        return torch.inf
    least = torch.finfo(getattr(torch, case.dtype)).tiny
    scale = right.abs()
    if by_row and scale.ndim:
        scale = scale.amax(case.axis, keepdim=True)
    off = (found - right).abs() / scale.clamp_min(max(least, 1e-7 if not by_row else least))
    if found.numel() == 0:
        return 0.0
    return float(torch.where(found == right, 0.0, off).nan_to_num(nan=torch.inf).max())


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    width = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return bool(torch.equal(a.contiguous().view(width), b.contiguous().view(width)))


def _laid(x: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values, laid out otherwise."""
    if layout == "F":
        reverse = tuple(reversed(range(x.ndim)))
        return x.permute(reverse).contiguous().permute(reverse)
    if layout == "odd":  # no row begins where a vector does
        made = x.new_zeros((*x.shape[:-1], x.shape[-1] + 1)).flatten()
        view = made[1:].as_strided(x.shape, _steps(x.shape, x.shape[-1]), 1)
        return view.copy_(x)
    if layout == "gaps":  # axes that do not fuse
        made = x.new_zeros([n + 2 for n in x.shape])
        return made[tuple(slice(1, n + 1) for n in x.shape)].copy_(x)
    return x.contiguous()


def _steps(shape: torch.Size, last: int) -> tuple[int, ...]:
    steps, step = [1], last
    for n in reversed(shape[1:-1]):
        steps.append(step)
        step *= n
    return tuple(reversed([*steps, step])) if len(shape) > 1 else (1,)


@contextmanager
def poisoned() -> Iterator[None]:
    """Whatever is allocated for a result is NaN until it is written."""
    adapter = adapter_of_type(torch.Tensor)
    empty, empty_like = adapter.empty, adapter.empty_like
    adapter.empty = lambda *args: _poison(empty(*args))
    adapter.empty_like = lambda *args: _poison(empty_like(*args))
    try:
        yield
    finally:
        del adapter.empty, adapter.empty_like


def _poison(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor


# ---- labels, graphs, other arrays ---------------------------------------------------------------


def labels(machine: Cuda, record: Record) -> None:
    """A bad label is NaN in its own row, is reported once, and harms nothing else."""
    x = torch.randn(70, 10, device=machine.device)
    for bad, words in (
        (10, "got 10 at"),
        (-3, "got -3 at"),
        (2**40, "got a label above 8388599 at"),
    ):
        y = torch.arange(70, device=machine.device) % 10
        y[41] = bad
        losses = sx.loss_sparse_categorical_crossentropy(y, x, True)
        machine.synchronise()
        wrong = losses.isnan().nonzero().flatten().tolist()
        said = _raised(sx.cuda_check)
        again = _raised(sx.cuda_check)
        right = wrong == [41] and f"{words} (41,)" in said and again == ""
        record.add("labels", f"label {bad}", ok=right, said=said or f"NaN at {wrong}", again=again)
    y[41] = 10
    loss = sx.SparseCategoricalCrossentropy(from_logits=True)
    loss.value_and_grad(y, x)
    machine.synchronise()
    said = _raised(lambda: loss(y, x))
    record.add("labels", "the next call", ok="got 10 at (41,)" in said, said=said)
    machine.synchronise()
    _raised(sx.cuda_check)
    y[41] = 3
    value = float(loss(y, x))
    right_value = float(torch.nn.functional.cross_entropy(x, y))
    record.add(
        "labels", "afterwards", ok=abs(value - right_value) < 1e-5, said=f"{value}, {right_value}"
    )


def _raised(run: Callable[[], object]) -> str:
    """What a run raised, "" for nothing."""
    try:
        run()
    except ValueError as error:
        return re.sub(r"\s+", " ", str(error))
    return ""


def graphs(machine: Cuda, record: Record) -> None:
    """What is captured in a graph does its work anew on what lies there when it is replayed."""
    loss = sx.SparseCategoricalCrossentropy(from_logits=True, ignore_class=IGNORED)
    f = sx.loss_sparse_categorical_crossentropy
    for shape, axis in (((64, 1000), -1), ((2, 21, 32, 32), 1), ((8, 50_257), -1)):
        x = torch.randn(shape, device=machine.device)
        losses = [n for a, n in enumerate(shape) if a != axis % len(shape)]
        y = torch.randint(0, shape[axis], losses, device=machine.device)
        dx, kept = torch.empty_like(x), {}
        options = {"from_logits": True, "axis": axis, "ignore_class": IGNORED}
        loss = sx.SparseCategoricalCrossentropy(**options)

        def run(
            y: Any = y,
            x: Any = x,
            dx: Any = dx,
            loss: Any = loss,
            kept: Any = kept,
            o: Any = options,
        ) -> None:
            kept["losses"] = f(y, x, **o)
            kept["value"], _ = loss.value_and_grad(y, x, out=dx)

        try:
            replay = machine.captured(run)
            x.normal_()
            replay()
            machine.synchronise()
            found = [kept["losses"].clone(), kept["value"].clone(), dx.clone()]
            run()
            eager = [kept["losses"], kept["value"], dx]
            right = all(_same_bits(a, b) for a, b in zip(found, eager, strict=True))
            said = "" if right else "other bits than an eager call's"
        except Exception as error:  # it goes into the record
            right, said = False, f"{type(error).__name__}: {error}".strip().splitlines()[0]
        record.add("graph", str(shape), ok=right, said=said)


def other_arrays(machine: Cuda, record: Record) -> None:
    """CuPy, whatever speaks a protocol, NumPy on request, another stream: torch's very bits."""
    x = torch.randn(33, 1000, device=machine.device)
    y = torch.randint(0, 1000, (33,), device=machine.device)
    f = sx.loss_sparse_categorical_crossentropy
    right = f(y, x, True)

    def stream() -> torch.Tensor:
        return f(y, x, True)

    def numpy() -> torch.Tensor:
        host = f(y.cpu().numpy(), x.cpu().numpy(), True, device="cuda")
        return torch.as_tensor(host, device=machine.device)

    def protocol() -> torch.Tensor:
        return machine.tensor(f(machine.spoken(y), machine.spoken(x), True))

    def dlpack() -> torch.Tensor:
        return machine.tensor(f(machine.packed(y), machine.packed(x), True))

    def cupy() -> torch.Tensor:
        import cupy

        return machine.tensor(f(cupy.asarray(y), cupy.asarray(x), True))

    runs: dict[str, Callable[[], torch.Tensor]] = {
        "another stream": lambda: machine.beside(stream),
        'NumPy, device="cuda"': numpy,
        "__cuda_array_interface__": protocol,
        "DLPack": dlpack,
    }
    if machine.has("cupy"):
        runs["CuPy"] = cupy
    else:
        record.add("left out", "CuPy", why="not installed")
    for name, run in runs.items():
        try:
            same = _same_bits(run(), right)
            said = "" if same else "other bits than torch's"
        except Exception as error:  # it goes into the record
            same, said = False, f"{type(error).__name__}: {error}".strip().splitlines()[0]
        record.add("arrays", name, ok=same, said=said)
