"""Scores a file of predictions against a file of labels, of any size.

    readers        the array in a file, block by block, in the order of the file
    inputs         predictions, labels and weights of the same positions, checked
    score          the losses and ranks of every block, and exact sums of them
    frequencies    how often each class is the label
    sanity         whether rows of scores look like what they are given as
    losses_file    one loss a label, written to a file
    report         the result: a record of plain numbers, as JSON and as a table

Messages speak of files and of the command line's options.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal

from sparse_xent import SparseCategoricalCrossentropy
from sparse_xent.evaluation.inputs import Path, Scoring, open_inputs
from sparse_xent.evaluation.losses_file import LossesFile, OutputError, check_output
from sparse_xent.evaluation.readers import split
from sparse_xent.evaluation.readers.columns import Choice, Column, Header, as_choice
from sparse_xent.evaluation.readers.files import unchanged
from sparse_xent.evaluation.readers.source import FileError
from sparse_xent.evaluation.report import Report, as_json, as_text
from sparse_xent.evaluation.score import Score, clip_bound

__all__ = ["FileError", "OutputError", "Report", "as_json", "as_text", "evaluate"]


def evaluate(
    labels: Path,
    predictions: Path,
    *,
    from_logits: bool = False,
    log_probs: bool = False,
    ignore_class: Any = None,
    axis: int = -1,
    label_base: Literal[0, 1] = 0,
    sample_weight: Path | None = None,
    label_smoothing: float = 0.0,
    normalize: Literal["after", "before", "never"] = "after",
    epsilon: float | None = None,
    bfloat16: bool = False,
    header: Header = "auto",
    columns: Column | Sequence[Column] | None = None,
    drop: Column | Sequence[Column] | None = None,
    label_column: Column | None = None,
    weight_column: Column | None = None,
    per_label: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Report:
    """Score predictions in a file against labels in another.

    The files are read block by block, so they may be larger than memory. Losses are computed in
    float64 for float64 predictions and in float32 for others; their sums are exact, and the result
    is the same to the last bit however the files are cut into blocks.

    Args:
        labels: Whole numbers, the predictions' shape without the class axis (or with length 1
            there): a `.npy`, `.npz` or one-column `.csv` file; `FILE.npz:key` names one of several.
        predictions: Scores of every class along `axis`; a `.csv` file has a column per class, with
            commas, semicolons, tabs or blanks between them, and no other column.
        from_logits: Whether the scores are logits; else they are probabilities.
        log_probs: Whether they are logarithms of probabilities.
        ignore_class: A label, or several, as written in the file, that do not count.
        axis: The class axis.
        label_base: The label of the first class: 0, or 1 as R writes them.
        sample_weight: A file of weights, one a label; weights of lower rank belong to the leading
            axes. The mean is then sum(w * l) / sum(w).
        label_smoothing: Between 0 and 1.
        normalize: How probabilities are made to sum to 1: "after" or "before" clipping, "never".
        epsilon: Where probabilities are clipped, 0 included; `config_epsilon()` by default.
        bfloat16: Whether predictions saved as raw records of two bytes are bfloat16.
        header: Whether `.csv` files begin with a line of names; "auto" takes text for names, and
            0, 1, 2, ... or 1, 2, 3, ... as the number of rows in the other file says.
        columns: The columns of the predictions' `.csv` file to score, the first class first, by
            name or by position from 0; none is refused as an identifier then.
        drop: Columns of it to leave out; what still looks like an identifier is refused.
        label_column: The column of the labels' `.csv` file that holds them.
        weight_column: The column of the weights' `.csv` file that holds them.
        per_label: A `.npy` file for one loss a label, 0 where ignored, without weights; float64 for
            float64 predictions, else float32. An old file is replaced at the end, or not at all.
        on_progress: Called with the bytes of predictions done and their total.
        on_note: Called with a sentence where something looks odd.

    Returns:
        The scores, in plain Python numbers.

    Raises:
        FileError: A file cannot be read, does not fit the others, or changed while it was read (a
            ValueError).
        ValueError: A label is out of range, an option is, or `per_label` cannot be written there.
        TypeError: An option is of the wrong kind.
        OutputError: All is scored, but `per_label` could not be written to its end (an OSError,
            with the score as `report`): an old file is as it was.
    """
    loss = SparseCategoricalCrossentropy(  # checks the options
        from_logits=from_logits or log_probs,
        ignore_class=ignore_class,
        axis=axis,
        label_smoothing=label_smoothing,
        normalize=normalize,
    ).get_config()
    if label_base not in (0, 1):
        raise ValueError(f"label_base must be 0 or 1, got {label_base!r}")
    kind = "log-probabilities" if log_probs else "logits" if from_logits else "probabilities"
    choices = _choices(header, columns, drop, label_column, weight_column, kind)
    if weight_column is not None and sample_weight is None:
        raise ValueError("--weight-column must come with --sample-weight, the file that it is of")
    if epsilon is not None and kind != "probabilities":
        raise ValueError(f"epsilon is where probabilities are clipped: with {kind} leave it out")
    ignored = loss["ignore_class"]
    scoring = Scoring(
        scores=kind,
        axis=loss["axis"],
        ignored=(ignored,) if isinstance(ignored, int) else tuple(ignored or ()),
        label_base=label_base,
        label_smoothing=loss["label_smoothing"],
        normalize=loss["normalize"],
        epsilon=clip_bound(epsilon),
    )
    files = predictions, labels, sample_weight
    return _scored(files, choices, scoring, bfloat16, per_label, on_progress, on_note)


def _scored(
    files: tuple[Path, Path, Path | None],
    choices: tuple[Choice, Choice, Choice],
    scoring: Scoring,
    bfloat16: bool,
    per_label: Path | None,
    on_progress: Callable[[int, int], None] | None,
    on_note: Callable[[str], None] | None,
) -> Report:
    """The report on the files, which must be at the end what they were before."""
    names = [split(path)[0] for path in files if path is not None]
    if per_label is not None:
        check_output(per_label, names)
    losses_file = None
    with ExitStack() as opened:
        with unchanged(names):
            inputs = open_inputs(files, choices, scoring, bfloat16=bfloat16)
            x, y, w = opened.enter_context(inputs)
            if per_label is not None:
                losses_file = opened.enter_context(
                    LossesFile(per_label, x.losses, x.arithmetic, fortran=x.fortran, inputs=names)
                )
            score = Score(x, y, w, on_note)
            score.run(losses_file, on_progress)
        report = score.report()
        if losses_file is not None:
            losses_file.put_in_place()
    if losses_file is not None and losses_file.error is not None:
        raise OutputError(losses_file.name, losses_file.error, report)
    return report


def _choices(
    header: Header, columns: Any, drop: Any, label: Any, weight: Any, kind: str
) -> tuple[Choice, Choice, Choice]:
    """Which lines and columns of predictions, labels and weights are read."""
    if header not in ("auto", "yes", "no"):
        raise ValueError(f"header must be 'auto', 'yes' or 'no', got {header!r}")
    if columns is not None and drop is not None:
        raise ValueError(
            "--columns and --drop must not both be given: --columns names all it reads"
        )
    probabilities = kind == "probabilities"
    return (
        Choice(header, as_choice(columns), as_choice(drop) or (), probabilities=probabilities),
        Choice(header, as_choice(label), role="labels"),
        Choice(header, as_choice(weight), role="weights"),
    )
