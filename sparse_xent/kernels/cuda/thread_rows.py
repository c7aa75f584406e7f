"""Few: rows of at most FEW classes that lie one after the other, a thread a row.

A block brings the rows of its threads into shared memory in pieces of 16 bytes, and takes their
gradients back the same way; in between, each thread sums its own row.
"""

from sparse_xent.kernels.arithmetic import itemsize, maximum, rounded, select
from sparse_xent.kernels.cuda import intrinsics as gpu
from sparse_xent.kernels.cuda.epilogue import fill_value, finish_loss, finish_sums, record
from sparse_xent.kernels.cuda.formulas import class_gradient, empty, shrink, smoothing_terms, term
from sparse_xent.kernels.cuda.position import factor, inlined, label, reduce_sums, scale, weight
from sparse_xent.kernels.formulas import gradient_coefficients, is_logits, is_smooth


@inlined
def _pads(offset, row, pad):
    """Bytes that lie between the rows before an offset."""
    return pad * gpu.divide(offset, row) if pad != 0 else 0


@inlined
def _stage_rows(spec, source, shared, row, pad, size):
    """`size` bytes of rows into shared memory; a row of `row` bytes is followed by `pad`."""
    one = itemsize(spec)
    done = 0
    if source % 16 == 0:
        k = gpu.thread()
        while k < size // 16:
            gpu.copy_async(shared + 16 * k + _pads(16 * k, row, pad), source + 16 * k)
            k += gpu.threads()
        done = size // 16 * 16
    gpu.commit_copies()
    k = done + one * gpu.thread()
    while k < size:
        gpu.put_score(spec, shared + k + _pads(k, row, pad), gpu.load_one(spec, source + k))
        k += one * gpu.threads()
    gpu.wait_for_copies(gpu.LAST)


@inlined
def _unstage_rows(spec, shared, to, row, pad, size):
    """The inverse of `_stage_rows`."""
    one = itemsize(spec)
    done = 0
    if to % 16 == 0:
        k = gpu.thread()
        while k < size // 16:
            gpu.store(
                spec, to + 16 * k, gpu.get_scores(spec, shared + 16 * k + _pads(16 * k, row, pad))
            )
            k += gpu.threads()
        done = size // 16 * 16
    k = done + one * gpu.thread()
    while k < size:
        gpu.store_one(spec, to + k, gpu.get_score(spec, shared + k + _pads(k, row, pad)))
        k += one * gpu.threads()


@inlined
def _sums(spec, at, classes, t, x_t, clip_range):
    """The sum of a row's terms without the target's, and its reference: the greatest logit."""
    one, m, others = itemsize(spec), empty(x_t), gpu.nothing(spec)
    if is_logits(spec):
        c = 0
        while c < classes:
            x = gpu.get_score(spec, at + c * one)
            m = m if c == t else maximum(x, m)
            c += 1
        m = maximum(m, empty(x_t))
    c = 0
    while c < classes:
        e = term(spec, gpu.get_score(spec, at + c * one), m, clip_range)
        if c != t:
            others += e
        c += 1
    return others, m


@inlined
def _smoothing_sums(spec, at, classes, m, s, clip_range):
    """The sums of a row's smoothing terms."""
    sum_, count, tiny = gpu.nothing(spec), gpu.nothing(spec), shrink(spec, classes)
    c = 0
    while c < classes:
        x = gpu.get_score(spec, at + c * itemsize(spec))
        y, alive = smoothing_terms(spec, x, m, s, tiny, clip_range)
        sum_ += y
        count += alive
        c += 1
    return sum_, count


@inlined
def _gradient(spec, at, classes, t, m, la, lb, target_gradient, s, clip_range):
    """Write a row's gradient over its scores."""
    c = 0
    while c < classes:
        place = at + c * itemsize(spec)
        d = class_gradient(spec, gpu.get_score(spec, place), m, la, lb, s, clip_range)
        gpu.put_score(spec, place, select(c == t, target_gradient, d))
        c += 1


@inlined
def _fill(spec, at, classes, value):
    """Write a gradient that is one number throughout."""
    c = 0
    while c < classes:
        gpu.put_score(spec, at + c * itemsize(spec), value)
        c += 1


@inlined
def thread_rows(spec, a):
    """Short rows, staged through shared memory."""
    clip_range = rounded(spec, a.lo), rounded(spec, a.hi)
    smoothing = rounded(spec, a.smoothing)
    one, shared = itemsize(spec), gpu.base()
    row = a.classes * one
    pad = 16 if row % 16 == 0 else 0  # or rows would begin in the same few banks of memory
    each = scale(a) if gpu.makes_gradient(spec) else 0.0
    total, kept, weights = 0.0, 0.0, 0.0
    first = gpu.block() * gpu.threads()
    while first < a.count:
        size = min(gpu.threads(), a.count - first) * row
        _stage_rows(spec, a.x + first * row, shared, row, pad, size)
        gpu.sync_block()
        p = first + gpu.thread()
        if p < a.count:
            t = label(a, p, 0, p, True)
            w = weight(a, p, 0, p, t, True)
            at = shared + gpu.thread() * (row + pad)
            value = gpu.nothing(spec)
            g = factor(a, p, 0, w, each) if gpu.makes_gradient(spec) else 0.0
            if t >= 0:
                x_t = gpu.get_score(spec, at + t * one)
                others, m = _sums(spec, at, a.classes, t, x_t, clip_range)
                others, target_term, m, s = finish_sums(spec, others, m, x_t, clip_range)
                sum_, count = gpu.nothing(spec), gpu.nothing(spec)
                if is_smooth(spec):
                    sum_, count = _smoothing_sums(spec, at, a.classes, m, s, clip_range)
                value = finish_loss(
                    spec, others, target_term, m, x_t, sum_, count, a.classes, smoothing, clip_range
                )
                if gpu.makes_gradient(spec) and g != 0.0:
                    la, lb, target_gradient = gradient_coefficients(
                        spec, others, target_term, x_t, count, a.classes, smoothing, g, clip_range
                    )
                    _gradient(spec, at, a.classes, t, m, la, lb, target_gradient, s, clip_range)
            if gpu.makes_gradient(spec) and (t < 0 or g == 0.0):
                _fill(spec, at, a.classes, rounded(spec, fill_value(t)))
            total, kept, weights = record(a, p, 0, t, w, value, total, kept, weights)
        gpu.sync_block()
        if gpu.makes_gradient(spec):
            _unstage_rows(spec, shared, a.dx + first * row, row, pad, size)
            gpu.sync_block()
        first += gpu.blocks() * gpu.threads()
    reduce_sums(a, shared, total, kept, weights)
