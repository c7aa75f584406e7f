"""Random calls on arrays that lie between inaccessible pages: what test_guard_pages.py runs.

    python tests/guarded.py CALLS SEED few|all

Each operand (scores, labels, weights, gradient) ends where an inaccessible page begins, or begins
where one ends, or has such pages between any two of its rows. Steps are of either sign or 0, with
gaps or without. A kernel that reads or writes one byte too many there ends the process with a
segmentation fault, and the last line written says in which call.

Every call is repeated on copies with the same strides in ordinary memory, whose gaps hold other
bytes: results must have the same bits, inputs must be unchanged, and gaps are not written to.
"""

import ctypes
import mmap
import os
import sys
import warnings

import inside
import ml_dtypes
import numpy as np
from conftest import KINDS

import sparse_xent as sx

PAGE = mmap.PAGESIZE
BYTES = 1024 * PAGE  # of one operand, gaps included
ROWS = 100  # of an operand whose rows have pages of their own
MARGIN = 256  # bytes beside an operand that must stay as they are

CLASSES = (1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 13, 16, 21, 23, 24, 25, 31, 32, 33, 47, 64, 100)
MORE_CLASSES = (130, 257, 300, 511, 512, 515, 600, 1030, 2047, 2100, 4200, 8300)


class Memory:
    """Where one operand lies: a stretch between two closed pages, or one page in two is closed."""

    def __init__(self):
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

        def mapped(pages, closed):
            held = (ctypes.c_uint8 * (pages * PAGE)).from_buffer(mmap.mmap(-1, pages * PAGE))
            for page in closed:
                if libc.mprotect(ctypes.addressof(held) + page * PAGE, PAGE, 0) != 0:
                    raise OSError(ctypes.get_errno(), "mprotect failed")
            return held

        self.stretch = mapped(BYTES // PAGE + 2, (0, BYTES // PAGE + 1))
        self.islands = mapped(2 * ROWS + 1, range(0, 2 * ROWS + 1, 2))


class Operand:
    """`view` lies in guarded memory, `twin` has the same values and strides in ordinary memory."""

    def __init__(self, r, memory, values, repeated=()):
        self._values, size = values, values.itemsize
        self.at_end = bool(r.integers(2))
        self.islands = (
            values.ndim == 2
            and 0 < values.shape[0] <= ROWS
            and values.shape[1] * size <= PAGE
            and not repeated
            and r.random() < 0.3
        )
        strides = _strides(r, values, self.islands, repeated)
        low, extent = _extent(values, strides)
        while extent > BYTES and not self.islands:  # too many gaps
            strides = _strides(r, values, self.islands, repeated)
            low, extent = _extent(values, strides)
        if self.islands:
            begin, base = PAGE, memory.islands
            if self.at_end:
                begin += PAGE - values.shape[1] * size
            pages = [slice((2 * k + 1) * PAGE, (2 * k + 2) * PAGE) for k in range(len(values))]
        else:
            begin, base = PAGE, memory.stretch
            if self.at_end:
                begin += BYTES - extent
            last = PAGE + BYTES
            pages = [slice(max(PAGE, begin - MARGIN), min(last, begin + extent + MARGIN))]
        whole = np.frombuffer(base, np.uint8)
        self._watched = [whole[page] for page in pages]
        for page in self._watched:
            page[:] = 0xFF
        other = np.zeros(extent + 128, np.uint8)
        line = (begin - other.ctypes.data) % 64  # where lines end decides how they are written
        self.view = _view(values, base, begin - low, strides)
        self.twin = _view(values, other, line - low, strides)
        self._before = [page.copy() for page in self._watched]
        self.text = (
            f"{values.dtype}{list(values.shape)} steps {strides} "
            f"{'islands' if self.islands else 'stretch'} {'at its end' if self.at_end else ''}"
        )

    def unchanged(self):
        """Whether no byte around or between the elements has changed; the elements are put back."""
        if self.view.flags.writeable:
            self.view[...] = self._values
        return all(np.array_equal(a, b) for a, b in zip(self._watched, self._before, strict=True))


def _view(values, memory, offset, strides):
    made = np.ndarray(values.shape, values.dtype, memory, offset, strides)
    made[...] = values
    return made


def _extent(values, strides):
    """Bytes from the first element to the lowest one, and from that behind the highest."""
    reach = [s * (n - 1) for s, n in zip(strides, values.shape, strict=True) if n]
    low = sum(min(0, n) for n in reach)
    return low, sum(max(0, n) for n in reach) + values.itemsize - low


def _strides(r, values, islands, repeated):
    """Steps in bytes along the axes: any order of axes, either sign, gaps; 0 where repeated."""
    shape, size = values.shape, values.itemsize
    signs = [int(r.choice((1, 1, -1))) for _ in shape]
    if islands:
        return (2 * PAGE * signs[0], size)
    order = list(range(len(shape)))[::-1]
    if r.random() < 0.5:
        r.shuffle(order)
    dense = r.random() < 0.4
    odd = int(r.integers(1, size + 1)) if r.random() < 0.03 else 0  # elements that are not aligned
    strides, step = [0] * len(shape), size
    for a in order:
        if a in repeated:
            continue
        if not dense:
            step = step * int(r.choice((1, 1, 1, 2, 3))) + size * int(r.choice((0, 0, 1, 5))) + odd
        strides[a] = step * signs[a]
        step *= max(shape[a], 1)
    return tuple(strides)


# One call ---------------------------------------------------------------------------------------


def _shape(r, few_classes):
    """Shape and class axis: up to three axes, the classes anywhere among them."""
    classes = int(r.choice(CLASSES if few_classes else MORE_CLASSES))
    positions = int(r.choice((1, 3, 8, 15, 16, 17, 31, 32, 33, 50, 70, 530, 700)))
    positions = max(1, min(positions, 20_000 // classes))
    shape = [positions]
    if r.random() < 0.3:
        inner = int(r.choice((1, 2, 3, 17, 40)))
        shape = [max(1, positions // inner), inner]
    axis = int(r.choice((0, len(shape), len(shape))))
    shape.insert(axis, classes)
    return tuple(shape), axis


def _repeat(r, values):
    """The values, and the axes along which they are repeated: there steps may be 0."""
    axes = tuple(a for a in range(values.ndim) if values.shape[a] and r.random() < 0.04)
    for a in axes:
        values = np.repeat(values.take([0], a), values.shape[a], a)
    return values, axes


def _scores(r, shape, axis, dtype, kind):
    x = r.normal(0, 3, shape)
    if kind != "logits":
        x = np.exp(x)
        x /= x.sum(axis, keepdims=True)
    if r.random() < 0.3:  # rows that the kernels take the long way
        for value in (np.nan, np.inf, -np.inf, 300.0, -1e30, 0.0):
            x.flat[r.integers(x.size)] = value
    with np.errstate(over="ignore"):
        return x.astype(dtype)


def _formula(r, few):
    """dtype, options, and whether a gradient is wanted; `few` are what other tests compile too."""
    kind = str(r.choice(list(KINDS)))
    gradient = bool(r.random() < 0.6)
    if few:
        dtype = str(r.choice(("float32", "float64", "float16")))
        smoothing = float(r.choice((0.0, 0.1))) if dtype == "float32" else 0.0
        if dtype == "float16":
            kind = "logits"
        gradient = gradient or dtype != "float32" or smoothing > 0 or kind == "before"
    else:
        dtype = str(r.choice(("float32", "float64", "float16", "bfloat16")))
        smoothing = float(r.choice((0.0, 0.1)))
    options = {**KINDS[kind], "label_smoothing": smoothing}
    return np.dtype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype), options, gradient


def _labels(r, classes, losses):
    dtype = r.choice(("int64", "int32", "uint8", "float64", "int16"))
    top = min(classes, 256) if dtype == "uint8" else classes
    return r.integers(0, top, losses).astype(dtype)


class Case:
    """One random call."""

    def __init__(self, r, memories, few):
        shape, self.axis = _shape(r, r.random() < 0.8)
        dtype, self.options, gradient = _formula(r, few)
        losses = shape[: self.axis] + shape[self.axis + 1 :]
        kind = "logits" if "from_logits" in self.options else "probabilities"
        x = _scores(r, shape, self.axis, dtype, kind)
        self.x = Operand(r, memories[0], *_repeat(r, x))
        self.y = Operand(r, memories[1], *_repeat(r, _labels(r, shape[self.axis], losses)))
        self.w = self.out = None
        self.verb = str(
            r.choice(
                ("gradient", "into", "in place") if gradient else ("call", "rank", "both", "sums")
            )
        )
        self.reduction = r.choice(("mean", "sum", None))
        if self.verb == "call" and r.random() < 0.5:
            self.verb = "losses"
        elif self.verb not in ("rank", "both") and r.random() < 0.4:
            weights = r.random(losses).astype(r.choice(("float64", "float32")))
            self.w = Operand(r, memories[2], *_repeat(r, weights))
        if self.verb == "in place" and 0 in self.x.view.strides:
            self.verb = "gradient"
        if self.verb == "into":
            self.out = Operand(r, memories[3], np.zeros(shape, dtype))
        self.ignored = int(r.integers(shape[self.axis])) if r.random() < 0.3 else None

    def text(self):
        names = ("x", "y", "w", "out")
        operands = ((n, getattr(self, n)) for n in names)
        laid = "; ".join(f"{n} {o.text}" for n, o in operands if o is not None)
        return f"{self.verb} {self.options} axis={self.axis} ignored={self.ignored}: {laid}"

    def run(self, side):
        """The call on "view"s or on "twin"s."""
        x, y = getattr(self.x, side), getattr(self.y, side)
        given = {"axis": self.axis, "ignore_class": self.ignored}
        if self.verb == "rank":
            return [inside.ranks(y, x, **given)]
        given |= self.options
        if self.verb == "both":
            return inside.losses_and_ranks(y, x, **given)
        if self.verb == "sums":
            w = None if self.w is None else getattr(self.w, side)
            state = sx.partial(y, x, **given, sample_weight=w, top_k=(1, 5))
            return [np.frombuffer(state.to_bytes(), np.uint8)]
        if self.verb == "losses":
            return [sx.loss_sparse_categorical_crossentropy(y, x, **given)]
        dtype = "float64" if x.dtype == np.float64 else "float32"
        loss = sx.SparseCategoricalCrossentropy(reduction=self.reduction, dtype=dtype, **given)
        w = None if self.w is None else getattr(self.w, side)
        if self.verb == "call":
            return [loss(y, x, w)]
        out = x if self.verb == "in place" else None
        if self.out is not None:
            out = getattr(self.out, side)
        return loss.value_and_grad(y, x, w, out=out)

    def check(self):
        """Run both ways; a sentence that says what is wrong, or None."""
        made, due = (
            [(np.asarray(a).dtype, np.asarray(a).tobytes()) for a in self.run(side)]
            for side in ("view", "twin")
        )
        if made != due:
            return "other bits than in ordinary memory"
        for name in ("x", "y", "w", "out"):
            operand = getattr(self, name)
            if operand is not None and not operand.unchanged():
                return f"{name}: bytes beside its elements have changed"
        return None


def main(calls, seed, few):
    r = np.random.default_rng(seed)
    memories = [Memory() for _ in range(4)]
    np.seterr(all="ignore")
    warnings.simplefilter("ignore")  # of scores that cannot be probabilities, which are wanted
    for k in range(calls):
        if k % 500 == 0:  # calls of one chunk and of many, on helper threads too
            chunk, task = ((1 << 18, 1 << 21), (1 << 12, 1 << 13))[k // 500 % 2]
            inside.cut_small(chunk=chunk, task=task)
        case = Case(r, memories, few)
        text = f"{k} {case.text()}"
        os.write(1, f"{text}\n".encode())
        if wrong := case.check():
            sys.exit(f"{wrong}: call {text}")
    os.write(1, b"done\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "few")
