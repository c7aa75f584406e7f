"""What is measured, and the bar that each must reach.

A workload is one shape, dtype, order and kind of scores, with its labels; its data comes from a
seed, so that a worker process has the same without sending it. Its verbs are

    forward          the object's call: one reduced value
    per label        the function's call: one loss a label
    gradient         value_and_grad(), which makes a new array for the gradient
    gradient, out=   value_and_grad(out=another array), kept from call to call
    in place         value_and_grad(out=y_pred)

Peers are timed both ways, too: into an array of their own making, and into one that is kept.

How long a row of logits takes depends on its numbers: rows whose sum or loss does not fit are
summed again. So this library is timed on logits of other `KINDS`, too, beside the usual ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

FORWARD, PER_LABEL = "forward", "per label"
GRADIENT, INTO, IN_PLACE = "gradient", "gradient, out=", "in place"
GRADIENTS = (GRADIENT, INTO, IN_PLACE)

OURS = "sparse_xent"
AFTER = f'{OURS}, normalize="after"'  # beside `normalize="never"`, on the same data
LIMIT = "limit"

USUAL = "usual"  # normal logits of spread 2
OFFSET, FAR_OFFSET, CONFIDENT = "offset 100", "offset 1000", "confident"
SPREAD, WIDE_SPREAD = "spread 30", "spread 60"
MASKED, SUBNORMAL = "masked", "subnormal"
KINDS = (OFFSET, FAR_OFFSET, CONFIDENT, SPREAD, WIDE_SPREAD, MASKED, SUBNORMAL)
"""Of logits, made of the usual ones."""
GAP = 20.0  # how much higher the label's logit is where the model is confident


@dataclass(frozen=True)
class Bar:
    """A goal of a verb: percent of the limit, a multiple of a peer's speed, or a cost."""

    verb: str
    against: str  # LIMIT, a candidate's name, or a unit: then the bar is the most that it may cost
    bar: float


def _bars(
    forward: float | None,
    torch: float | None = None,
    gradient: float | None = None,
    gradient_torch: float | None = None,
    **others: float,
) -> tuple[Bar, ...]:
    """The bars of a workload; jax.jit must be beaten by the same everywhere.

    Percentages count labels, as `bytes_over_limit` does.
    """
    stated = [
        Bar(FORWARD, LIMIT, forward) if forward else None,
        Bar(FORWARD, "torch", torch) if torch else None,
        Bar(FORWARD, "jax.jit", 3.5),
        Bar(INTO, LIMIT, gradient) if gradient else None,
        Bar(GRADIENT, "torch", gradient_torch) if gradient_torch else None,
        Bar(GRADIENT, "jax.jit", 6),
    ]
    return tuple(bar for bar in stated if bar)


@dataclass(frozen=True)
class Workload:
    """One shape, dtype, order and kind of scores."""

    name: str
    shape: tuple[int, ...]
    bars: tuple[Bar, ...]
    verbs: tuple[str, ...] = (FORWARD, PER_LABEL)
    axis: int = -1
    dtype: str = "float32"
    order: str = "C"  # R's matrices are "F"
    from_logits: bool = True
    normalize: str = "after"
    ignore_class: int | None = None
    in_readme: bool = True

    @property
    def classes(self) -> int:
        return self.shape[self.axis]

    @property
    def numpy_dtype(self) -> np.dtype:
        if self.dtype != "bfloat16":
            return np.dtype(self.dtype)
        import ml_dtypes  # asked for here alone, so that the rest can be measured without it

        return np.dtype(ml_dtypes.bfloat16)

    @property
    def needs(self) -> str | None:
        """The module without which its data cannot be made."""
        return "ml_dtypes" if self.dtype == "bfloat16" else None

    @property
    def is_tiny(self) -> bool:
        """Whether a call costs by itself, not by its data: no limit of memory applies."""
        return int(np.prod(self.shape)) < 1000

    @property
    def has_limit(self) -> bool:
        """Whether the whole array is read."""
        return not self.is_tiny and (self.from_logits or self.normalize != "never")

    @property
    def is_r_matrix(self) -> bool:
        return self.order == "F"

    @property
    def has_kinds(self) -> bool:
        """Whether its rows can be of other `KINDS`."""
        return self.from_logits and not self.is_tiny

    def bytes_over_limit(self, verb: str) -> float:
        """Bytes that a verb reads and writes, each once, over those of the loop of its limit.

        The loop moves the scores alone; a loss reads a label of 8 bytes beside a row of them.
        """
        row = self.classes * self.numpy_dtype.itemsize * (1 if verb == FORWARD else 2)
        return 1 + 8 / row

    def cut(self, most: int) -> "Workload":
        """The same with fewer labels: at most `most` scores, or one label's."""
        size = int(np.prod(self.shape))
        if size <= most:
            return self
        # The first axis only: channels and image sizes stay what they are, where they can.
        shape = (max(1, self.shape[0] * most // size), *self.shape[1:])
        if int(np.prod(shape)) > most and len(shape) == 4:
            pixels = max(1, int((most / self.classes) ** 0.5))
            shape = tuple(n if n in (1, self.classes) else pixels for n in (1, *shape[1:]))
        return replace(self, shape=shape)

    @cached_property
    def options(self) -> dict[str, object]:
        """The loss's keyword arguments."""
        return {
            "from_logits": self.from_logits,
            "normalize": self.normalize,
            "axis": self.axis,
            "ignore_class": self.ignore_class,
        }

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """(labels, scores): int64 0 .. C-1 and a tenth ignored, normal logits or their softmax."""
        rng = np.random.default_rng(20_240_601)
        axis = self.axis % len(self.shape)
        y = rng.integers(0, self.classes, self.shape[:axis] + self.shape[axis + 1 :])
        if self.ignore_class is not None:
            y[rng.random(y.shape) < 0.1] = self.ignore_class
        x = np.empty(self.shape, self.numpy_dtype, order=self.order)  # type: ignore[call-overload]
        # Slice by slice: what is drawn wider or elsewhere must not double the memory.
        for rows in _slices(self.shape):
            drawn = 2 * rng.standard_normal(x[rows].shape, np.float32)
            if not self.from_logits:
                drawn = np.exp(drawn.astype(np.result_type(x.dtype, np.float32)))
                drawn /= drawn.sum(axis=axis, keepdims=True)
            x[rows] = drawn
        return y, x

    def of_kind(self, kind: str, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Logits of one of the `KINDS`: a new array, made of the usual labels and logits."""
        other = np.empty_like(x)
        axis = self.axis % x.ndim
        labels = np.expand_dims(np.where(y == self.ignore_class, 0, y), axis)
        for rows in _slices(self.shape):
            piece = x[rows].astype(np.result_type(x.dtype, np.float32))
            at = labels[rows]
            of_labels = np.take_along_axis(piece, at, axis)
            if kind == CONFIDENT:
                np.put_along_axis(piece, at, of_labels + piece.dtype.type(GAP), axis)
            elif kind == MASKED:
                piece[piece < 0] = -np.inf
                np.put_along_axis(piece, at, of_labels, axis)
            elif kind == SUBNORMAL:
                piece *= np.finfo(piece.dtype).tiny / 16
            elif kind in (SPREAD, WIDE_SPREAD):
                piece *= {SPREAD: 15, WIDE_SPREAD: 30}[kind]
            else:
                piece += {OFFSET: 100, FAR_OFFSET: 1000}[kind]
            other[rows] = piece
        return other


def _slices(shape: tuple[int, ...]) -> Iterator[slice]:
    """The first axis in pieces of some four million scores."""
    step = max(1, 2**22 // max(1, int(np.prod(shape[1:]))))
    for start in range(0, shape[0], step):
        yield slice(start, start + step)


_ALL = (FORWARD, PER_LABEL, *GRADIENTS)
_NCHW, _NHWC = (8, 21, 512, 512), (8, 512, 512, 21)
_HALF_MULTINOMIAL = [Bar(verb, "HalfMultinomialLoss", 7) for verb in (FORWARD, GRADIENT)]
_R = {"order": "F", "dtype": "float64"}

WORKLOADS = [
    Workload("4096 x 32000", (4096, 32000), _bars(88, 12, 62, 15), _ALL),
    Workload("1024 x 128256", (1024, 128256), _bars(88, 12, 62, 15), _ALL),
    Workload("50,000 x 1000", (50_000, 1000), _bars(83, 12, 60, 15), _ALL),
    Workload("200,000 x 100", (200_000, 100), _bars(90, 14, 61, 15), _ALL),
    Workload("1,000,000 x 10", (1_000_000, 10), _bars(70, 30, 39, 20), _ALL),
    Workload(
        "NCHW 8 x 21 x 512 x 512", _NCHW, _bars(74, 14, 61, 15), _ALL, axis=1, ignore_class=255
    ),
    Workload(
        "NHWC 8 x 512 x 512 x 21", _NHWC, _bars(None), _ALL, ignore_class=255, in_readme=False
    ),
    Workload("float16 4096 x 32000", (4096, 32000), _bars(88, 12), _ALL, dtype="float16"),
    Workload("bfloat16 4096 x 32000", (4096, 32000), _bars(88, 12), _ALL, dtype="bfloat16"),
    Workload(
        "R probabilities 50,000 x 1000",
        (50_000, 1000),
        (*_bars(90, 20), Bar(FORWARD, "log_loss", 40)),
        from_logits=False,
        **_R,
    ),
    Workload(
        "R probabilities 1,000,000 x 10",
        (1_000_000, 10),
        (*_bars(66, 20), Bar(FORWARD, "log_loss", 40)),
        from_logits=False,
        **_R,
    ),
    Workload(
        "R logits 50,000 x 1000",
        (50_000, 1000),
        (*_bars(None), *_HALF_MULTINOMIAL),
        (FORWARD, PER_LABEL, GRADIENT, INTO),
        **_R,
    ),
    Workload(
        "R logits 1,000,000 x 10",
        (1_000_000, 10),
        (*_bars(None), *_HALF_MULTINOMIAL),
        (FORWARD, PER_LABEL, GRADIENT, INTO),
        **_R,
    ),
    *(
        Workload(
            f"probabilities {name}",
            shape,
            _bars(None),
            (FORWARD, PER_LABEL, GRADIENT, INTO),
            from_logits=False,
            in_readme=False,
        )
        for name, shape in [
            ("4096 x 32000", (4096, 32000)),
            ("50,000 x 1000", (50_000, 1000)),
            ("200,000 x 100", (200_000, 100)),
            ("1,000,000 x 10", (1_000_000, 10)),
        ]
    ),
    Workload(
        'normalize="never" 200,000 x 100',
        (200_000, 100),
        (Bar(FORWARD, AFTER, 5),),
        from_logits=False,
        normalize="never",
    ),
    Workload(
        "one call of 2 x 3, float64",
        (2, 3),
        (Bar(FORWARD, "microseconds", 4), Bar(PER_LABEL, "microseconds", 4)),
        dtype="float64",
        from_logits=False,
    ),
]

#: A batch of training, which one thread does in one C function: `benchmarks.against` has it.
BATCH = Workload("128 x 1000", (128, 1000), _bars(None), _ALL, in_readme=False)
