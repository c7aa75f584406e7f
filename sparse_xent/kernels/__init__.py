"""The compiled loops, and nothing else: no reduction, no weight by name, no ignored class, no axis.

Kernels see scores as x[outer, C, inner], labels as y[outer, inner], already checked, where y < 0
means ignored, and one factor for each position, g[outer, inner], which scales its gradient row.

    staging arithmetic formulas    what both machines share: primitives, lanes, loss and gradient
    cpu cuda                       the kernels of either machine
    cache trusted                  compiled kernels on disk, and which of them may be run
    shipped                        compiled kernels that a wheel brings
    loader availability locks      machine code by name; why there is none; a lock for both
"""

import enum


class ScoreKind(enum.IntEnum):
    """What the scores are: logits, or probabilities and how they are made to sum to one."""

    LOGITS = 0
    CLIP_NORMALIZE = 1  # clipped, then divided by the sum of the clipped: "after"
    NORMALIZE_CLIP = 2  # divided by their sum, then clipped: "before"
    CLIP = 3  # clipped; the rows are known to sum to one: "never"
