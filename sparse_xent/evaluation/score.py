"""Scores blocks of predictions: their losses and ranks, exact sums of them, and notes on oddities.

`losses_and_ranks` and what stands above it are all that evaluation knows of the package behind its
public face.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from sparse_xent import config_epsilon, execute, implausible
from sparse_xent.accumulate import ExactSum, Moments
from sparse_xent.config import read_epsilon
from sparse_xent.engines.base import NOTHING, Found
from sparse_xent.evaluation import sanity
from sparse_xent.evaluation.frequencies import Frequencies
from sparse_xent.evaluation.inputs import (
    IGNORED,
    Int64,
    Labels,
    Predictions,
    Shape,
    Weights,
    place_in,
)
from sparse_xent.evaluation.losses_file import LossesFile
from sparse_xent.evaluation.readers.source import Array, Box
from sparse_xent.evaluation.report import Report, exponential
from sparse_xent.kernels.cpu.abi import LEAST, MOST
from sparse_xent.options import Options
from sparse_xent.options import read as read_options

# ---- the package behind its public face ---------------------------------------------------------


def clip_bound(epsilon: object) -> float:
    """Where probabilities are clipped: at `epsilon` if it is given, else at the package's."""
    return config_epsilon() if epsilon is None else read_epsilon(epsilon, "epsilon")


def options_of(x: Predictions) -> Options:
    """The options of the loss of some predictions, for labels that are 0..C-1 or `IGNORED`."""
    return read_options(
        from_logits=x.scoring.from_logits,
        ignore_class=IGNORED,
        axis=x.axis,
        label_smoothing=x.scoring.label_smoothing,
        normalize=x.scoring.normalize,
        dtype=x.arithmetic,  # so that no loss is rounded
        epsilon=x.scoring.epsilon,
    )


def losses_and_ranks(y: Int64, x: Array, options: Options) -> tuple[Array, Array, Found]:
    """One loss and one rank a label, on the engine that serves the package's other calls.

    Returns:
        The losses; the ranks, which say how many classes have a greater score than the label's (C
        where a score is NaN, -1 at ignored labels); the rows that cannot be probabilities.
    """
    losses, ranks, found = execute.losses_and_ranks(y, x, options)
    return np.asarray(losses), np.asarray(ranks), found


# ---- the score ----------------------------------------------------------------------------------


class Score:
    """Exact sums over all boxes, and notes on what was odd in them.

    Args:
        x: The predictions.
        y: Their labels.
        w: Their weights, if any.
        on_note: Called with each note.
    """

    def __init__(
        self,
        x: Predictions,
        y: Labels,
        w: Weights | None,
        on_note: Callable[[str], None] | None,
    ) -> None:
        self._x, self._y, self._w, self._on_note = x, y, w, on_note
        self._options = options_of(x)
        self._moments = Moments(weighted=w is not None)
        self._frequencies = Frequencies(x.classes, weighted=w is not None)
        self._right = ExactSum()  # the weights of the labels that are predicted
        self._clipped, self._clipped_losses = 0, ExactSum()
        self._ignored = self._infinite = self._nan = 0
        self._implausible = NOTHING
        self._first_implausible: tuple[Shape, str] = (), ""  # its position, and the likely cause
        self._odd_rows = False
        self._notes: list[str] = []

    def run(
        self, losses_file: LossesFile | None, on_progress: Callable[[int, int], None] | None
    ) -> None:
        """Add all boxes, and write each loss."""
        done = 0  # bytes of predictions
        for box in self._x.boxes():
            rows, y = self._x.read(box), self._y.read(box)
            losses = self._add(box, rows, y)
            if losses_file is not None:
                losses_file.append(losses)
            done += rows.nbytes
            if on_progress is not None:
                on_progress(done, self._x.source.nbytes)

    def _add(self, box: Box, rows: Array, y: Int64) -> Array:
        """Add a box; returns its losses."""
        scoring = self._x.scoring
        losses, ranks, found = losses_and_ranks(y, rows, self._options)
        if found.rows:
            self._add_implausible(found, box, rows)
        w = None if self._w is None else self._w.kept(box, y)
        kept = y >= 0
        every = slice(None) if kept.all() else kept.ravel()
        l = losses.ravel()[every].astype(np.float64)
        self._moments.add(l, w)
        self._frequencies.add(y.ravel()[every], w)
        right = ranks.ravel()[every] == 0
        self._right.add(right.astype(np.float64) if w is None else w[right])
        self._ignored += y.size - l.size
        counted = np.ones(l.shape, np.bool_) if w is None else w != 0
        if not scoring.from_logits:
            clipped = self._are_clipped(rows, y, losses).ravel()[every] & counted
            self._clipped += int(clipped.sum())
            self._clipped_losses.add(l[clipped] if w is None else l[clipped] * w[clipped])
        if not np.isfinite(l[counted]).all():
            self._note_not_finite(box, y, losses)
            self._nan += int(np.isnan(l[counted]).sum())
            self._infinite += int(np.isinf(l[counted]).sum())
        if not self._odd_rows and l.size:
            bounds = LEAST, MOST
            odd = sanity.note(rows, self._x.axis, kept, scoring.scores, bounds)
            if odd is not None:
                self._odd_rows = True
                self._note(f"{self._x.name}: rows {odd}")
        return losses

    def _are_clipped(self, rows: Array, y: Int64, losses: Array) -> npt.NDArray[np.bool_]:
        """Whether losses are finite, or larger, only because of the clip at epsilon."""
        axis, dtype = self._x.axis, np.dtype(self._x.arithmetic)
        t = np.expand_dims(np.maximum(y, 0), axis)
        p = np.take_along_axis(rows, t, axis).squeeze(axis).astype(dtype)
        if self._x.scoring.normalize == "before":
            with np.errstate(all="ignore"):
                p = p / rows.sum(axis, dtype=dtype)
        below: npt.NDArray[np.bool_] = p < dtype.type(self._x.scoring.epsilon)
        return below & np.isfinite(losses)

    def _add_implausible(self, found: Found, box: Box, rows: Array) -> None:
        """Count rows that cannot be probabilities, and keep the first of all boxes."""
        axis = self._x.axis
        index = implausible.place(found, rows.shape, axis)
        row = index[:axis] + index[axis + 1 :]
        place = place_in(box, row)
        first = int(np.ravel_multi_index(place, self._x.losses)) if place else 0
        if not self._implausible.rows or first < self._implausible.first:
            scores = np.moveaxis(rows, axis, -1)[row].astype(np.float64)
            cause = sanity.cause(scores, implausible.likely(found))
            self._first_implausible = (*place[:axis], index[axis], *place[axis:]), cause
        self._implausible = self._implausible.joined(found._replace(first=first))

    def report(self) -> Report:
        """The sums, rounded."""
        x, scoring, moments = self._x, self._x.scoring, self._moments
        logits = scoring.from_logits
        share = None if logits else self._clipped_losses.share_of(moments.sums["wl"])
        self._note_at_end(share)
        mean, weight = moments.mean, moments.total_weight
        return Report(
            labels=self._y.name,
            predictions=x.name,
            scores=scoring.scores,
            dtype=x.source.stored,
            shape=x.source.shape,
            normalize=None if logits else scoring.normalize,
            label_smoothing=scoring.label_smoothing,
            classes=x.classes,
            scored=moments.count,
            ignored=self._ignored,
            total_weight=moments.weight if moments.weighted else None,
            mean_loss=mean,
            standard_error=moments.standard_error,
            perplexity=exponential(mean),
            accuracy=self._right.over(weight) if math.isfinite(moments.weight) else math.nan,
            uniform_baseline=math.log(x.classes),
            frequency_baseline=self._frequencies.entropy,
            infinite=self._infinite,
            nan=self._nan,
            epsilon=None if logits else scoring.epsilon,
            clipped=None if logits else self._clipped,
            clipped_share=share,
            notes=tuple(self._notes),
        )

    # ---- notes ----

    def _note(self, text: str) -> None:
        self._notes.append(text)
        if self._on_note is not None:
            self._on_note(text)

    def _note_not_finite(self, box: Box, y: Int64, losses: Array) -> None:
        if self._infinite or self._nan:
            return
        index = tuple(np.argwhere(~np.isfinite(losses) & (y >= 0))[0])
        self._note(
            f"{self._x.name}: not every loss is finite, the first is {losses[index]} at "
            f"{place_in(box, index)}"
        )

    def _note_at_end(self, share: float | None) -> None:
        """What is known once all boxes are added; `share` is that of the clipped losses."""
        x, many = self._x, self._implausible.rows
        if not self._moments.count:
            none = f"no label counts, all {self._ignored} are of an ignored class"
            self._note(f"{self._y.name}: {none if self._ignored else 'there is no label to score'}")
        if x.classes == 1 and 0 not in x.losses:
            self._note(f"{x.name} has one class: every loss is 0; stack 1 - p, p")
        elif many:
            position, cause = self._first_implausible
            self._note(
                f"{x.name}: {many:,} row{'s are' if many > 1 else ' is'} no probabilities, the "
                f"first score is {self._implausible.score:.6g} at {x.source.place(position)}: "
                f"{cause}"
            )
        if self._clipped:
            total = "" if share is None else f": they are {share:.3%} of the total"
            self._note(
                f"{x.name}: {self._clipped:,} of {self._moments.count:,} losses were clipped, the "
                f"label's probability being below epsilon, {x.scoring.epsilon:g}{total} "
                "(--epsilon sets the bound)"
            )
