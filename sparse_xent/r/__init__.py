"""The R package `sparsexent`: keras3's loss functions in R's own terms, carried as R sources.

It calls this package through reticulate and holds only what Python cannot know: factors, missing
values and where they stand in R's counting, axes counted from 1, plain vectors as results.

    install.packages(reticulate::import("sparse_xent.r")$path(), repos = NULL, type = "source")

installs it from R; in a shell that is
`R CMD INSTALL "$(python -c 'import sparse_xent.r as r; print(r.path())')"`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    """A function that calls another, and gives a number where that gives a NumPy scalar.

    reticulate writes down a result's class and all those above it, six for a NumPy float: with a
    float in its place a call costs R 4 us less, of 57 (reticulate 1.28).

    Args:
        call: what gives the results.

    Returns:
        The function; it takes arguments by position only.

    Example:
        >>> plainly(np.float32)(0.5)
        0.5
    """

    def called(*arguments: Any) -> Any:
        result = call(*arguments)
        return result.item() if isinstance(result, np.generic) else result

    return called
