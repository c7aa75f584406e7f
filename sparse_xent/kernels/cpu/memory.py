"""Memory on the CPU: runs of positions that are equally far apart, and how rows are written.

Position k of [outer, inner] lies at x + (k // inner) * xo + (k % inner) * xi. Kernels that finish
several positions together take them from one run, where only k % inner moves.
"""

from sparse_xent.kernels.arithmetic import itemsize, lanes, minimum
from sparse_xent.kernels.cpu.abi import LINE
from sparse_xent.kernels.cpu.compiler import inlined
from sparse_xent.kernels.cpu.vectors import (
    copy_byte,
    copy_line,
    load_one,
    store_one,
    stream_line,
)
from sparse_xent.kernels.staging import Value, primitive

# Bytes to prefetch by, at one place. A line asked for earlier holds one of the few buffers of the
# first-level cache for longer: on an AVX-512 Xeon tiles of 20 classes take a tenth longer at 4096
# and at 1024 than at 2048, and long rows, when they were read at one place, 1.5 times as long at
# 4096.
AHEAD = 2048
# Bytes of a page. A processor's own prefetching ends with it, and goes on in each page for itself:
# reading four pages side by side keeps more lines on their way than reading one.
PAGE = 4096


@primitive
def shifted(address: Value | None, by: Value) -> Value | None:
    """An address further on, if there is one."""
    return None if address is None else address + by


@primitive
def only_with(dx: Value | None, address: Value) -> Value | None:
    """An address that a kernel uses only where it makes gradients."""
    return None if dx is None else address


@inlined
def run_of_positions(inner, first, last, done, x, xo, xi):
    """End of the run of positions that begins with first + done, its address and its step."""
    if inner == 1:
        return last - first, x + (first + done) * xo, xo
    o, i = (first + done) // inner, (first + done) % inner
    return minimum(last - first, done + inner - i), x + o * xo + i * xi, xi


# Pending lines ---------------------------------------------------------------------------------
#
# A burst of nontemporal stores holds up all that comes after it. So the lines of a batch's gradient
# are pending, and are written a few at a time while the next batch is summed: 600,000 x 32 float32
# take 0.74 of the time, 200,000 x 100 and 50,000 x 1000 0.86. They are (source, to, their number).
# Batches are made in two buffers by turns.


@inlined
def pending_lines(buffer, to, size, held, next_buffer):
    """The whole lines of so many bytes in a buffer, and how many bytes are left behind them.

    Those are put before the next buffer. Before this one there are `held` bytes that were left of
    what was written before `to`. The first bytes of all, up to a line, are copied at once.
    """
    copy_line(next_buffer - LINE, buffer + size - LINE)
    source, to, size = buffer - held, to - held, size + held
    before = minimum(-to & (LINE - 1), size)
    copy_bytes(to, source, before)
    size -= before
    return (source + before, to + before, size // LINE), size % LINE


@primitive
def write_four_lines(source: Value, to: Value) -> None:
    """Write four lines."""
    for i in range(4):
        stream_line(to + LINE * i, source + LINE * i)


@inlined
def write_lines(pending, begin, end):
    """Write those from number `begin` up to `end`."""
    for i in range(begin, end):
        stream_line(pending[1] + LINE * i, pending[0] + LINE * i)


@inlined
def write_rest(pending, held, buffer, end):
    """Write all lines, and up to `end` the `held` bytes before a buffer that are left behind."""
    write_lines(pending, 0, pending[2])
    copy_bytes(end - held, buffer - held, held)


# Rows in batches ---------------------------------------------------------------------------------
#
# A batch is as many rows as there are lanes, `most` of them at most of each of `places` places,
# which are `apart` rows from each other: where those are left of n rows. Batches begin `most` rows
# from each other, before row `stop`. Row begin + place * apart + i is in lane place * most + i.
#
# Losses alone take their rows from four places, a quarter of the rows apart (see PAGE). Gradients
# are written a line after the other, so their rows lie together.

PLACES = 4


@inlined
def places_of_batches(spec, dx, n):
    """places, most, apart and stop of n rows."""
    w = lanes(spec)
    if dx is not None:
        return 1, w, w // PLACES, n
    quarter = (n + PLACES - 1) // PLACES
    return PLACES, w // PLACES, quarter, quarter


@inlined
def rows_ahead(by, begin, stop, n):
    """By how many rows to prefetch: `by`, but into the next rows behind all places."""
    if begin + by >= stop:
        return by + n - stop
    return by


# Lines of classes apart ------------------------------------------------------------------------


@inlined
def until_line(spec, to, step, dc, n):
    """How many of n positions to take, so that those behind them begin a line of every class.

    All of them, where they do not lie together, or the classes do not begin alike.
    """
    size = itemsize(spec)
    left = (-to & (LINE - 1)) // size
    if step == size and left and dc & (LINE - 1) == 0:
        return minimum(n, left)
    return n


@inlined
def fills_lines(spec, to, step, dc):
    """Whether a vector of positions at `to` is a whole line of every class, dc bytes apart."""
    size = itemsize(spec)
    return step == size and lanes(spec) * size == LINE and ((to | dc) & (LINE - 1)) == 0


# Rows as they are written ---------------------------------------------------------------------


@inlined
def clear(spec, p, step, C):
    """Write a row of exact zeros."""
    for j in range(C):
        store_one(spec, p + j * step, 0.0)


@inlined
def copy_bytes(to, source, size):
    """Copy bytes one by one."""
    for i in range(size):
        copy_byte(to + i, source + i)


@inlined
def stream_store(to, source, size):
    """Copy bytes with nontemporal stores; lines that are written in part go through the caches."""
    i = 0
    while i < size and (to + i) & 63:
        copy_byte(to + i, source + i)
        i += 1
    while i + 64 <= size:
        stream_line(to + i, source + i)
        i += 64
    while i < size:
        copy_byte(to + i, source + i)
        i += 1


@inlined
def write(to, source, size, nontemporal):
    """Copy bytes."""
    if nontemporal:
        stream_store(to, source, size)
        return
    i = 0
    while i + 64 <= size:
        copy_line(to + i, source + i)
        i += 64
    while i < size:
        copy_byte(to + i, source + i)
        i += 1


@inlined
def scatter(spec, to, step, source, n):
    """Copy scores that lie side by side to where they are `step` bytes apart."""
    for j in range(n):
        store_one(spec, to + j * step, load_one(spec, source + j * itemsize(spec)))


@inlined
def write_rows(spec, to, step, apart, source, count, C, nontemporal):
    """Copy rows that lie one after the other to where rows are `step` and classes `apart` bytes."""
    size = itemsize(spec)
    if apart == size and step == C * size:
        write(to, source, count * step, nontemporal)
    elif apart == size:
        for r in range(count):
            write(to + r * step, source + r * C * size, C * size, nontemporal)
    else:
        for r in range(count):
            scatter(spec, to + r * step, apart, source + r * C * size, C)
