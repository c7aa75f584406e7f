"""The one-hot sibling's targets: an array of y_pred's shape in the place of labels.

It is here for soft targets and for comparison, so it runs on the NumPy engine; blocks, weights
and sums are those of `sweep`. No position is ignored.
"""

from dataclasses import dataclass, replace
from typing import Any, NoReturn, Self

import numpy as np
import numpy.typing as npt

from sparse_xent import labels, sweep
from sparse_xent.arrays import numpy as arrays
from sparse_xent.arrays.refusals import refuse_kind
from sparse_xent.engines import numpy_soft_targets
from sparse_xent.kernels import ScoreKind
from sparse_xent.layout import Block, Layout, judge
from sparse_xent.options import Options

Array = npt.NDArray[Any]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SoftCall(sweep.Call):
    """One call with targets of y_pred's shape."""

    targets: Array

    @classmethod
    def read(
        cls,
        y_true: object,
        y_pred: object,
        sample_weight: object,
        options: Options,
    ) -> "SoftCall":
        """What the user sent, checked but for the values of targets and weights."""
        x = arrays.scores(y_pred)
        targets = _targets(y_true, x)
        layout = judge(x, options.axis, targets)
        parts = sweep.parts(x, layout, _nothing_ignored(layout), sample_weight, options)
        parts["formula"]["scores"] = (
            ScoreKind.LOGITS if options.from_logits else ScoreKind.NORMALIZE_CLIP
        )
        return cls(**parts, targets=targets)

    def inputs(self) -> dict[str, Array | None]:
        """What is read while a gradient is written, beside the scores."""
        return {"y_true": self.targets, "sample_weight": self.weights.sample}

    def with_out(self, out: Array | None) -> Self:
        """The same call with a place for its gradient, which is walked beside the scores."""
        layout = judge(self.x, self.layout.axis, self.targets, *sweep.given(out))
        return replace(self, out=out, layout=layout)

    def _lower(self, block: Block, y: Array) -> Int64:
        targets = block.of(self.layout.scores(self.targets))
        if not (targets >= 0).all():  # NaN is not >= 0 either
            _refuse(self.targets, self.x)
        return self.labels.lower(y)

    def _nll(self, x: Array, block: Block, y: Int64) -> Array:
        return self._both(x, block)[0]

    def _nll_and_grad(self, x: Array, block: Block, y: Int64, g: Float64, dx: Array) -> Array:
        loss, gradient = self._both(x, block)
        factor = block.boxed(g)[:, None]  # float64: a product may fit where the factor does not
        nothing = (factor == 0) | (gradient == 0)  # whatever the other is, inf too
        np.copyto(dx, np.where(nothing, 0, gradient * factor), casting="unsafe")
        return loss

    def _both(self, x: Array, block: Block) -> tuple[Array, Array]:
        targets = block.of(self.layout.scores(self.targets))
        loss, gradient = numpy_soft_targets.nll_and_grad(x, targets, **self.formula)
        return loss.ravel(), gradient


def _targets(y_true: object, x: Array) -> Array:
    a = arrays.as_array(y_true, "y_true")
    if not (a.dtype.kind in "biu" or arrays.is_float(a.dtype)):
        refuse_kind(y_true, a, "y_true", "numbers (a weight for each class)")
    if a.shape != x.shape:
        order = ""
        if labels.are_whole(x) and not labels.are_whole(a):
            order = f"; {labels.SWAPPED}"
        raise ValueError(
            f"y_true must have y_pred's shape {x.shape}, got {a.shape}: for one integer a label "
            f"use loss_sparse_categorical_crossentropy{order}"
        )
    return a


def _refuse(targets: Array, x: Array) -> NoReturn:
    """ValueError that names the first target, in C order, that is negative or NaN."""
    bad = ~(targets >= 0)
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    more = int(np.count_nonzero(bad)) - 1
    others = f" and {more} more" if more else ""
    if labels.are_whole(x) and not labels.are_whole(targets):
        others += f"; {labels.SWAPPED}"
    raise ValueError(
        f"y_true must hold targets of 0 and more, got {targets[index]} at {index}{others}; for "
        "integer labels, -1 for a void class among them, use loss_sparse_categorical_crossentropy"
    )


def _nothing_ignored(layout: Layout) -> labels.Labels:
    zero = np.broadcast_to(np.int64(0), layout.losses)
    return labels.Labels(zero, layout.losses, layout.axis, layout.classes, ())
