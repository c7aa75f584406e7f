"""The data of the tutorials: pictures of handwritten digits, and a text of Shakespeare's.

They come from the first of these that is there:

1. the folder that the environment variable SPARSE_XENT_DATA names: mnist_train_10k.npz,
   t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz (MNIST), shakespeare.txt;
2. Keras, where it is installed: it downloads MNIST and the text once, and keeps them;
3. what needs no network: scikit-learn's small digits, and the sonnets that this package carries.

Every result says which it was and under which licence, in `source`. The vignettes show them in use.
"""

from __future__ import annotations

import gzip
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_VARIABLE = "SPARSE_XENT_DATA"
_MNIST = "MNIST (Y. LeCun, C. Cortes, C. Burges; CC BY-SA 3.0)"
_TEXT = "https://storage.googleapis.com/download.tensorflow.org/data/shakespeare.txt"

_T = TypeVar("_T")


@dataclass(frozen=True)
class Digits:
    """Pictures of digits with their labels, some for training and others for testing."""

    train_images: NDArray[np.uint8]  # [n, height, width], 0 paper to 255 ink
    train_labels: NDArray[np.uint8]  # [n], 0 to 9
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.uint8]
    source: str


@dataclass(frozen=True)
class Text:
    """A text, and where it is from."""

    text: str
    source: str


def digits() -> Digits:
    """Handwritten digits: MNIST's, or the small ones of scikit-learn.

    Returns:
        `Digits`: 10,000 pictures of 28 x 28 to train on and 10,000 to test on; scikit-learn's are
        1,000 and 797, of 8 x 8. Pictures and labels are uint8, in mixed order: the first hundred
        hold all ten digits.

    Raises:
        FileNotFoundError: SPARSE_XENT_DATA names a folder in which a file is missing.
        ImportError: The variable is not set, and neither Keras nor scikit-learn is installed.
    """
    return _first("digits", _digits_of_folder, _digits_of_keras, _digits_of_sklearn)


def shakespeare() -> Text:
    """Plays of Shakespeare, a million characters; or eight sonnets, some 5,000.

    Raises:
        FileNotFoundError: SPARSE_XENT_DATA names a folder without shakespeare.txt.
    """
    return _first("a text", _text_of_folder, _text_of_keras, _text_of_package)


def _first(
    what: str,
    of_folder: Callable[[Path], _T],
    of_keras: Callable[[], _T],
    at_hand: Callable[[], _T],
) -> _T:
    folder = os.environ.get(_VARIABLE)
    if folder:
        return of_folder(Path(folder))
    try:
        return of_keras()
    except ImportError:
        pass  # no Keras, or one without a backend
    except Exception as error:  # Keras raises a bare Exception where a download fails
        warnings.warn(f"Keras could not load {what}, smaller data are used: {error}", stacklevel=3)
    return at_hand()


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{_VARIABLE} must name a folder with {name}, got {str(folder)!r}: name another, or "
            "unset it to use what Keras or scikit-learn bring"
        )
    return path


def _digits_of_folder(folder: Path) -> Digits:
    with np.load(_file(folder, "mnist_train_10k.npz")) as file:
        images, labels = file["images"], file["labels"]
    order = np.random.default_rng(0).permutation(len(labels))  # the file is sorted by label
    return Digits(
        images[order],
        labels[order],
        _read_idx(_file(folder, "t10k-images-idx3-ubyte.gz")),
        _read_idx(_file(folder, "t10k-labels-idx1-ubyte.gz")),
        f"{_MNIST}, from the folder that {_VARIABLE} names",
    )


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """An array of bytes in MNIST's format: 0 0 8 rank, the lengths of the axes, the elements."""
    content = gzip.decompress(path.read_bytes())
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def _digits_of_keras() -> Digits:
    from keras.datasets import mnist

    (images, labels), (test_images, test_labels) = mnist.load_data()
    train = slice(10_000)  # as many as the folder has
    source = f"{_MNIST}, from Keras"
    return Digits(images[train], labels[train], test_images, test_labels, source)


def _digits_of_sklearn() -> Digits:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            f"digits need the environment variable {_VARIABLE}, which names a folder with MNIST's "
            "files, or Keras, or scikit-learn: none is here; pip install scikit-learn"
        ) from error
    bunch = load_digits()
    images = (bunch.images * (255 / 16)).round().astype(np.uint8)
    labels = bunch.target.astype(np.uint8)
    train, test = slice(1000), slice(1000, None)
    source = (
        "Optical Recognition of Handwritten Digits (E. Alpaydin, C. Kaynak; CC BY 4.0), "
        "from scikit-learn"
    )
    return Digits(images[train], labels[train], images[test], labels[test], source)


def _text_of_folder(folder: Path) -> Text:
    text = _file(folder, "shakespeare.txt").read_text("utf-8")
    return Text(
        text, f"Shakespeare's plays (public domain), from the folder that {_VARIABLE} names"
    )


def _text_of_keras() -> Text:
    from keras.utils import get_file

    path = get_file("shakespeare.txt", origin=_TEXT)
    return Text(Path(path).read_text("utf-8"), "Shakespeare's plays (public domain), through Keras")


def _text_of_package() -> Text:
    text = resources.files("sparse_xent.demo").joinpath("sonnets.txt").read_text("utf-8")
    return Text(text, "eight sonnets of Shakespeare's (public domain), which sparse_xent carries")
