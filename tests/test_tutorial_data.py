"""The tutorials' data: from a folder, from Keras or from scikit-learn, and said which."""

import gzip
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from sparse_xent.demo import data

FILES = ["mnist_train_10k.npz", "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Without the variable, and without Keras, which would download."""
    monkeypatch.delenv("SPARSE_XENT_DATA", raising=False)
    for name in ("keras", "keras.datasets", "keras.utils"):  # another test may have loaded them
        monkeypatch.setitem(sys.modules, name, None)


def pictures_of(labels):
    """Pictures of 2 x 3 pixels, which hold their label in each."""
    return np.repeat(labels, 6).reshape(-1, 2, 3)


def idx(array):
    """The array of bytes in the format of MNIST's files."""
    lengths = np.array(array.shape, ">u4").tobytes()
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + lengths + array.tobytes())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    sorted_by_label = np.repeat(np.arange(10, dtype=np.uint8), 20)
    np.savez(tmp_path / FILES[0], images=pictures_of(sorted_by_label), labels=sorted_by_label)
    labels = np.array([7, 2, 1, 0, 4], np.uint8)
    (tmp_path / FILES[1]).write_bytes(idx(pictures_of(labels)))
    (tmp_path / FILES[2]).write_bytes(idx(labels))
    (tmp_path / "shakespeare.txt").write_text("First Citizen:\n", "utf-8")
    monkeypatch.setenv("SPARSE_XENT_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def keras(monkeypatch, tmp_path):
    """A Keras whose loaders have more digits than are taken; `fails` is what they raise, if set."""
    labels = np.arange(10_500, dtype=np.uint16).astype(np.uint8) % 10
    file = tmp_path / "downloaded.txt"
    file.write_text("Before we proceed\n", "utf-8")
    fake = SimpleNamespace(fails=None)

    def load(result):
        if fake.fails:
            raise fake.fails
        return result

    both = ((pictures_of(labels), labels), (pictures_of(labels[:7]), labels[:7]))
    fake.datasets = SimpleNamespace(mnist=SimpleNamespace(load_data=lambda: load(both)))
    fake.utils = SimpleNamespace(get_file=lambda name, origin: load(str(file)))
    for name, module in {
        "keras": fake,
        "keras.datasets": fake.datasets,
        "keras.utils": fake.utils,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    return fake


def is_well_formed(found):
    """Every picture shows its label, in bytes."""
    for images, labels in [
        (found.train_images, found.train_labels),
        (found.test_images, found.test_labels),
    ]:
        assert images.dtype == labels.dtype == np.uint8
        np.testing.assert_array_equal(images, pictures_of(labels))


def test_digits_of_the_folder(folder, keras):
    found = data.digits()
    is_well_formed(found)
    assert "CC BY-SA 3.0), from the folder that SPARSE_XENT_DATA names" in found.source
    assert str(folder) not in found.source
    assert found.test_labels.tolist() == [7, 2, 1, 0, 4]
    # Mixed, the same way each time: the file's first fifth holds two digits.
    assert np.bincount(found.train_labels).tolist() == [20] * 10
    assert set(found.train_labels[:100]) == set(range(10))
    np.testing.assert_array_equal(found.train_labels, data.digits().train_labels)


def test_text_of_the_folder(folder, keras):
    found = data.shakespeare()
    assert found.text == "First Citizen:\n"
    assert "public domain), from the folder that SPARSE_XENT_DATA names" in found.source


@pytest.mark.parametrize("missing", [*FILES, "shakespeare.txt"])
def test_a_folder_without_a_file_is_refused(folder, missing):
    (folder / missing).unlink()
    ask = data.shakespeare if missing == "shakespeare.txt" else data.digits
    with pytest.raises(FileNotFoundError) as refused:
        ask()
    assert str(refused.value) == (
        f"SPARSE_XENT_DATA must name a folder with {missing}, got {str(folder)!r}: name another, "
        "or unset it to use what Keras or scikit-learn bring"
    )


def test_keras_serves_where_no_folder_is_named(keras, monkeypatch):
    monkeypatch.setenv("SPARSE_XENT_DATA", "")
    found = data.digits()
    is_well_formed(found)
    assert (len(found.train_labels), len(found.test_labels)) == (10_000, 7)
    assert found.source.endswith("CC BY-SA 3.0), from Keras")
    assert data.shakespeare().text == "Before we proceed\n"
    assert data.shakespeare().source.endswith("(public domain), through Keras")


def test_small_data_serve_and_say_why_where_keras_cannot_download(keras):
    keras.fails = Exception("URL fetch failure")
    for ask, what in [(data.digits, "digits"), (data.shakespeare, "a text")]:
        said = f"^Keras could not load {what}, smaller data are used: URL fetch failure$"
        with pytest.warns(UserWarning, match=said) as warned:
            found = ask()
        assert warned[0].filename == __file__
        assert "Keras" not in found.source


def test_small_data_without_a_network():
    found = data.digits()
    assert found.train_images.shape == (1000, 8, 8)
    assert found.test_images.shape == (797, 8, 8)
    assert (found.train_images.min(), found.train_images.max()) == (0, 255)
    assert found.train_images.dtype == found.test_labels.dtype == np.uint8
    assert set(found.test_labels) == set(range(10))
    assert found.source.endswith("CC BY 4.0), from scikit-learn")
    text = data.shakespeare()
    assert text.text.startswith("Shall I compare thee to a summer's day?\n")
    assert text.source.endswith("(public domain), which sparse_xent carries")


def test_without_any_source_the_ways_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError) as refused:
        data.digits()
    for way in ("SPARSE_XENT_DATA", "Keras", "pip install scikit-learn"):
        assert way in str(refused.value)
