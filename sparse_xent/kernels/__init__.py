"""The loops, and nothing else: no reduction, no weight, no ignored class by name, no axis.

Every engine here (`portable` on array operations, `cpu` on Numba) offers the same four verbs,

    nll(x, y)  nll_grad(x, y, g)  nll_and_grad(x, y, g)  rank(x, y)

on the same views: scores ``x[outer, C, inner]``, labels ``y[outer, inner]`` (checked; y < 0 means
ignored) and one factor a position ``g[outer, inner]``, by which its gradient row is scaled.
"""

import enum


class ScoreKind(enum.IntEnum):
    """What the scores are: logits, or probabilities with the way they are made to sum to one."""

    LOGITS = 0
    CLIP_NORMALIZE = 1  # clipped, then divided by the sum of the clipped: "after"
    NORMALIZE_CLIP = 2  # divided by their sum, then clipped: "before"
    CLIP = 3  # clipped; the rows are known to sum to one: "never"
