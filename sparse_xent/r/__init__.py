"""The R package `sparsexent`: keras3's loss functions in R's own terms, carried as R sources.

It calls this package through reticulate and holds only what Python cannot know: factors, missing
values and where they stand in R's counting, axes counted from 1, plain vectors as results.

    install.packages(reticulate::import("sparse_xent.r")$path(), repos = NULL, type = "source")

installs it from R; in a shell that is
`R CMD INSTALL "$(python -c 'import sparse_xent.r as r; print(r.path())')"`.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np


def path() -> str:
    """The folder with the R package's sources, from which R installs it.

    Returns:
        An absolute path.

    Example:
        >>> path().endswith("sparsexent")
        True
    """
    return str(Path(__file__).resolve().parent / "sparsexent")


def plainly(call: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls another, and gives R what it can take up quickly.

    A NumPy scalar comes as a plain number: reticulate writes down a result's class and all those
    above it, six for a NumPy float, and with a float in its place a call costs R 4 us less, of 57
    (reticulate 1.28). UserWarnings, which R would never show, come with the result, as a dict of
    "result" and "warnings"; that costs a call 1 us, and `warnings.catch_warnings` would cost 3.

    Args:
        call: what gives the results.

    Returns:
        The function.

    Example:
        >>> plainly(np.float32)(0.5)
        0.5
        >>> plainly(lambda x: warnings.warn("is it?") or x)(1)
        {'result': 1, 'warnings': ['is it?']}
    """
    # Every time, not once a place. Calls from R have no frame outside the package above them.
    warnings.filterwarnings("always", category=UserWarning, module=r"sparse_xent(\.|$)")

    def called(*arguments: Any, **options: Any) -> Any:
        texts: list[str] = []

        def keep(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, UserWarning):
                texts.append(str(message))
            else:
                show(message, category, filename, lineno, file, line)

        show = warnings.showwarning
        warnings.showwarning = keep
        try:
            result = call(*arguments, **options)
        finally:
            warnings.showwarning = show
        if isinstance(result, np.generic):
            result = result.item()
        return {"result": result, "warnings": texts} if texts else result

    return called


def seen(y_pred: Any, axis: int) -> tuple[tuple[int, ...], list[str | None] | None]:
    """What R is to know of scores that are Python's: their shape, and their classes' names.

    Args:
        y_pred: scores of any library.
        axis: the class axis, from 0 or from the last with -1; one beyond the shape has no names.

    Returns:
        The shape, and a name for each class where a data frame's columns (or rows, or a series'
        index) have any; None where they have not, or where they are merely numbered.

    Example:
        >>> seen(np.ones((2, 3)), -1)
        ((2, 3), None)
    """
    shape = tuple(int(length) for length in np.shape(y_pred))
    if not -len(shape) <= axis < len(shape):
        return shape, None
    axis %= len(shape)
    if hasattr(y_pred, "axes") and hasattr(y_pred, "iloc"):  # pandas
        labels = y_pred.axes[axis]
        if list(labels) == list(range(len(labels))):
            return shape, None
    elif axis == 1 and len(shape) == 2:  # polars, pyarrow
        labels = getattr(y_pred, "column_names", getattr(y_pred, "columns", None))
    else:
        labels = None
    return shape, None if labels is None else [str(label) for label in labels]
