"""The R package `sparsexent`: keras3's loss functions in R's own terms, carried as R sources.

It calls this package through reticulate and holds only what Python cannot know: factors, missing
values and where they stand in R's counting, axes counted from 1, plain vectors as results.

    install.packages(reticulate::import("sparse_xent.r")$path(), repos = NULL, type = "source")

installs it from R; in a shell that is
`R CMD INSTALL "$(python -c 'import sparse_xent.r as r; print(r.path())')"`.
"""

from pathlib import Path


def path() -> str:
    """The folder with the R package's sources, from which R installs it.

    Returns:
        An absolute path.

    Example:
        >>> path().endswith("sparsexent")
        True
    """
    return str(Path(__file__).resolve().parent / "sparsexent")
