"""Records of bad labels and missing weights that kernels left on a device -> ValueErrors.

A record holds a position and, for a label, what it was: the label itself or a code, for by the
time that the host looks the labels may be gone. Messages are made by a plan's `Reporter`: what
there is to say of a label is not known here.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from sparse_xent.kernels.cuda import params
from sparse_xent.options import NA_INTEGER

_CODES: dict[int, tuple[float, str | None]] = {
    params.BELOW: (params.LARGEST + 1.0, f"a label below {params.SMALLEST}"),
    params.ABOVE: (params.LARGEST + 1.0, f"a label above {params.LARGEST}"),
    params.NAN: (math.nan, None),
    params.NOT_WHOLE: (0.5, "a label that is not whole"),
    params.NA: (float(NA_INTEGER), None),
    params.ALL_ABOVE: (math.inf, None),
    params.ALL_BELOW: (-math.inf, None),
}
"""For each code a value to find the likely cause by, and how it is shown; by its value if None."""


class Reporter(NamedTuple):
    """What makes messages of the records of one plan."""

    place: Callable[[int], tuple[int, ...]]  # of a position, among the losses
    label: Callable[[float, str | None, tuple[int, ...]], str]  # (value, how it is shown, place)
    weight: Callable[[tuple[int, ...]], str]  # (place)

    def message(self, slot: params.ErrorSlot) -> str:
        """What there is to say of a slot that holds an error: of a label, or else of a weight."""
        if slot.label == params.NONE:
            return self.weight(self.place(slot.weight))
        code = slot.label & ((1 << params.LABEL_BITS) - 1)
        value, shown = _CODES.get(code, (float(code - params.LABEL_ZERO), None))
        return self.label(value, shown, self.place(slot.label >> params.LABEL_BITS))


def raise_pending(device: Any) -> None:
    """Wait for a device, clear its error slots, and raise the first error that one held.

    Raises:
        ValueError: a label was no class, or a weight was missing.
    """
    device.synchronise()
    for reporter, slot in device.pending_errors():
        raise ValueError(reporter.message(slot))
