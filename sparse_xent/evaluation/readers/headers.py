"""Decides whether a table's first line names its columns, where the table alone leaves it open."""

from __future__ import annotations

from sparse_xent.evaluation.readers.source import FileError, Source
from sparse_xent.evaluation.readers.tables import Table


def decide_headers(predictions: Source, labels: Source, weights: Source | None, axis: int) -> None:
    """Decide whether first lines are names or a row, by the number of rows in the other files.

    Args:
        predictions: The predictions.
        labels: The labels.
        weights: The weights, if any.
        axis: The class axis of the predictions.

    Raises:
        FileError: The files agree in either case.
    """
    files = [f for f in (predictions, labels, weights) if f is not None]
    undecided = [f for f in files if isinstance(f, Table) and f.header is None]
    shape = predictions.shape
    by_row = len(shape) == 2 and axis in (1, -1)
    alike = by_row and _both_start_alike(predictions, labels)
    if isinstance(predictions, Table) and predictions in undecided and not by_row:
        raise FileError(f"{predictions.name} {predictions.question}")
    if by_row:
        counts = _rows(predictions) & _rows(labels)
        if weights is not None and 1 not in _rows(weights):  # one weight goes with any number
            counts &= _rows(weights)
        expected = {id(f): counts for f in files}
    else:
        losses = shape[: axis % len(shape)] + shape[axis % len(shape) + 1 :] if shape else ()
        rows = losses[0] if losses else 1
        counts = {1 if len(losses) == 1 and axis % len(shape) == 0 else rows}
        expected = {id(labels): counts, id(weights): {rows}}
    if len(counts) > 1 or (alike and counts):
        asked = undecided[0]
        raise FileError(f"{asked.name} {asked.question} (the other files fit either)")
    for table in undecided:
        fits = _rows(table) & expected[id(table)] or _rows(table) & {1}
        table.set_header(table.lines - 1 in fits)


def _rows(source: Source) -> set[int]:
    """The numbers of rows that a file may have."""
    if isinstance(source, Table) and source.header is None:
        return {source.lines - 1, source.lines}
    return {source.shape[0] if source.shape else 1}


def _both_start_alike(predictions: Source, labels: Source) -> bool:
    """Whether both first lines may be names: one likely, the other a single whole number."""
    return (
        isinstance(predictions, Table)
        and isinstance(labels, Table)
        and predictions.header is None
        and predictions.likely
        and labels.header is False
        and labels.starts_whole
        and labels.lines == predictions.lines
    )
