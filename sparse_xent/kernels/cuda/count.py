"""Survey: labels and weights alone, before a gradient whose divisor they are."""

from sparse_xent.kernels.cuda.intrinsics import base, block, blocks, thread, threads
from sparse_xent.kernels.cuda.position import IGNORED, inlined, label, place, reduce_sums, weight


@inlined
def count(a):
    """Check every label and weight; count what is kept, and add up its weights."""
    kept, weights = 0.0, 0.0
    p = block() * threads() + thread()
    while p < a.count:
        o, i = place(a, p)
        t = label(a, o, i, p, True)
        weights += weight(a, o, i, p, t, True)
        kept += 1.0 if t != IGNORED else 0.0
        p += blocks() * threads()
    reduce_sums(a, base(), 0.0, kept, weights)
