"""Files as others write them, or while others do: read right, or refused in one sentence."""

import io
import os
import re
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sparse_xent import evaluation as package
from sparse_xent.evaluation import FileError, evaluate, inputs, readers

HOME = str(Path(package.__file__).parents[2])


@pytest.fixture(autouse=True)
def _files(tmp_path, monkeypatch):
    """Sixty rows of six classes in a folder of their own, read five rows at a time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inputs, "_POSITIONS", 5)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 6))
    np.save("x.npy", x)
    np.save("f.npy", np.asfortranarray(x))
    np.save("y.npy", rng.integers(0, 6, 60))
    np.save("w.npy", rng.random(60))
    np.savez("stored.npz", x=x)
    np.savez_compressed("packed.npz", x=np.random.default_rng(1).normal(size=(60, 6)))
    np.savetxt("x.csv", x, delimiter=",")


# --- headers of .npy files ------------------------------------------------------------------------


def npy(array, version):
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.lib.format.write_array(file, array, version=version)
    return file.getvalue()


def with_header(text, content=b"", version=1, length=None):
    """A `.npy` file with this text for its header."""
    text = text.encode("utf-8")
    size = (len(text) if length is None else length).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + content


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_version_of_the_format_is_read(version, dtype, order):
    x = np.asarray(np.load("x.npy"), order=order).astype(dtype, order="K")
    Path("v.npy").write_bytes(npy(x, version))
    np.save("same.npy", x.astype(x.dtype.newbyteorder("="), order="K"))
    assert np.array_equal(np.load("v.npy"), x)
    with zipfile.ZipFile("v.npz", "w") as archive:
        archive.write("v.npy", compress_type=zipfile.ZIP_DEFLATED)
    expected = evaluate("y.npy", "same.npy", from_logits=True)
    for file in ("v.npy", "v.npz"):
        got = evaluate("y.npy", file, from_logits=True)
        assert (got.mean_loss, got.accuracy) == (expected.mean_loss, expected.accuracy)


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (60L, 6L), }\n",
        "{'shape': (60L, 6L), 'fortran_order': False, 'descr': '<f8'}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (60L, 6), }" + " " * 5000 + "\n",
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_header_that_python_2_wrote_is_read(text, version):
    Path("old.npy").write_bytes(with_header(text, np.load("x.npy").tobytes(), version))
    expected = evaluate("y.npy", "x.npy", from_logits=True)
    assert evaluate("y.npy", "old.npy", from_logits=True).mean_loss == expected.mean_loss


def described(shape, descr="'<f8'", order="False"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}\n"


HEADERS = {
    "no number known": (b"\x93NUMPY\4\0" + bytes(200), r"version \(4, 0\)"),
    "longer than the file": (with_header(described("(6, 3)"), length=9000), "ends within its"),
    "longer than any": (with_header("", version=2, length=2**32 - 1), "4.0 GiB long"),
    "a long one": (with_header(described("(6, 3)") + " " * 60000), "KiB long"),
    "no dict": (with_header("[1, 2]\n"), "not a .npy file, or is damaged"),
    "a call": (with_header("__import__('os').abort()\n"), "not a .npy file, or is damaged"),
    "deep": (with_header("(" * 5000 + "\n"), "not a .npy file, or is damaged"),
    "a digit too many": (with_header(described("(" + "9" * 8000 + ",)")), "not a .npy file, or"),
    "digits": (with_header(described("(" + "9" * 4000 + ",)")), "is truncated"),
    "axes": (with_header(described("(" + "1," * 70 + ")"), bytes(8)), "at most 32 axes, got 70"),
    "endless and empty": (with_header(described(f"(0, {10**30})")), "its header says shape"),
    "empty but vast": (with_header(described(f"(0, {2**40}, {2**40})")), "its header says shape"),
    "negative": (with_header(described("(-1, -8)"), bytes(64)), "its header says shape"),
    "not whole": (with_header(described("(6.0, 3)"), bytes(144)), "not a .npy file, or is damaged"),
    "no order": (with_header(described("(6, 3)", order="None"), bytes(144)), "not a .npy file"),
    "no dtype": (with_header(described("(6, 3)", "'<f7'"), bytes(144)), "not a .npy file, or is"),
    "objects": (with_header(described("(6, 3)", "'|O'"), bytes(144)), "never read"),
    "an object within": (
        with_header(described("(6,)", "[('a', '<f8'), ('b', '|O')]"), bytes(96)),
        "never read",
    ),
    "records": (with_header(described("(6,)", "[('a', '<f8')]"), bytes(48)), "got records"),
    "names of records": (
        with_header(described("(6,)", "[('标签', '<f8')]"), bytes(48), version=3),
        "got records",
    ),
    "records of two bytes": (with_header(described("(6,)", "[('a', 'u2')]"), bytes(12)), "records"),
    "an array in each": (with_header(described("(6,)", "('<f8', (3,))"), bytes(144)), "records"),
    "no UTF-8": (b"\x93NUMPY\3\0\4\0\0\0\xff\xfe\xff\xfe", "not a .npy file, or is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_describes_no_numbers_is_refused_in_one_sentence(name):
    content, words = HEADERS[name]
    Path("bad.npy").write_bytes(content)
    with zipfile.ZipFile("bad.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write("bad.npy")
    for file in ("bad.npy", "bad.npz"):
        with pytest.raises(FileError, match=words) as refused:
            evaluate("y.npy", file, from_logits=True)
        message = str(refused.value)
        assert message.startswith(file)
        assert "\n" not in message
        assert len(message) < 500


def test_only_what_is_asked_for_is_read():
    """Blocks are runs of the file, in both orders; one run where they lie together."""
    x = np.random.default_rng(3).normal(size=(7, 5, 6))
    for order in ("C", "F"):
        np.save("three.npy", np.asarray(x, order=order))
        source = readers.open_source("three.npy")
        for box in np.ndindex(3, 2, 3):
            cut = tuple(slice(i, i + n) for i, n in zip(box, (4, 3, 2), strict=True))
            assert np.array_equal(source.read(cut), x[cut])
        assert np.array_equal(source.read((slice(0, 7), slice(0, 5), slice(0, 6))), x)
        source.close()


# --- files that change while they are read --------------------------------------------------------


def replaced(name):
    Path("other").write_bytes(Path(name).read_bytes())
    os.replace("other", name)


def grown(name):
    with open(name, "ab") as file:
        file.write(b"0,1,2,3,4,5\n")


def rewritten(name):
    with open(name, "r+b") as file:
        file.seek(os.stat(name).st_size - 8)
        file.write(b"1,2,3,4\n")
    os.utime(name, ns=(1, 1))  # a clock may tick too slowly to show what a test does


def cut(name):
    os.truncate(name, os.stat(name).st_size * 3 // 4)


CHANGES = {
    replaced: "was replaced by another file",
    grown: "went from [0-9,]+ to [0-9,]+ bytes",
    rewritten: "was written to",
    os.unlink: "was removed",
    cut: "went from [0-9,]+ to [0-9,]+ bytes",
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(
    "changed", ["x.npy", "f.npy", "stored.npz", "packed.npz", "x.csv", "y.npy", "w.npy"]
)
def test_a_file_that_changes_while_it_is_read_is_not_scored(changed, change):
    predictions = changed if changed not in ("y.npy", "w.npy") else "x.npy"
    Path("l.npy").write_text("old")

    def once(done, total):
        if once.left:
            once.left = False
            change(changed)

    once.left = True
    with pytest.raises(FileError, match=f"^{changed} {CHANGES[change]} while it was read") as told:
        evaluate(
            *["y.npy", predictions],
            from_logits=True,
            sample_weight="w.npy",
            per_label="l.npy",
            on_progress=once,
        )
    assert "\n" not in str(told.value)
    assert Path("l.npy").read_text() == "old"
    assert not [name for name in os.listdir() if name.endswith(".tmp")]


SHRINKING = """
import os, sys
from sparse_xent import evaluation as package
package.inputs._BYTES = 1 << 16
file, axis = sys.argv[1:]
try:
    package.evaluate("large_y.npy", file, from_logits=True, axis=int(axis),
                     on_progress=lambda done, total: os.truncate(file, 4096))
except package.FileError as error:
    print(error)
"""


@pytest.mark.parametrize(("order", "axis"), [("C", 1), ("F", 1)])
def test_a_file_that_is_cut_short_does_not_end_the_process(order, axis):
    """Memory-mapped, its pages would be gone, and the process with them (SIGBUS)."""
    np.save("large.npy", np.zeros((4000, 64), order=order))
    np.save("large_y.npy", np.zeros(4000, np.uint8))
    done = subprocess.run(
        [sys.executable, "-c", SHRINKING, "large.npy", str(axis)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": HOME},
        timeout=150,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(
        "large.npy went from 2,048,128 to 4,096 bytes while it was read: .*\n", done.stdout
    )


def test_a_bad_label_in_a_file_that_stays_is_told_as_it_is():
    y = np.load("y.npy")
    y[50] = 99
    np.save("y.npy", y)
    with pytest.raises(ValueError, match="y.npy must hold whole numbers from 0 to 5.*got 99"):
        evaluate("y.npy", "x.npy", from_logits=True)


# --- what lies under a name -----------------------------------------------------------------------

UNDER_A_NAME = {
    "page.npy": b"<html>404</html>",
    "pointer.npy": b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 1\n",
    "pickled.npy": b"\x80\x04\x95\x0b\0\0\0\0\0\0\0]\x94(K\x01K\x02e.",
    "zeros.npy": bytes(200),
    "magic.npy": b"\x93NUMPY",
    "version.npy": b"\x93NUMPY\1\0",
    "started.npz": b"PK\3\4" + bytes(100),
    "without.npz": b"PK\5\6" + bytes(18),
    "zeros.npz": bytes(200),
}


@pytest.mark.parametrize("name", UNDER_A_NAME)
@pytest.mark.parametrize("role", ["labels", "predictions", "weights"])
def test_something_else_under_a_file_s_name_is_refused_in_one_sentence(role, name):
    Path(name).write_bytes(UNDER_A_NAME[name])
    files = {"labels": "y.npy", "predictions": "x.npy", "weights": "w.npy"} | {role: name}
    with pytest.raises(FileError, match=f"^{name} ") as refused:
        evaluate(files["labels"], files["predictions"], sample_weight=files["weights"])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["/dev/zero", "/proc/self/mem", "/", "round.npy", "x.npy/x.npy"])
def test_a_name_of_no_file_is_refused_in_one_sentence(name):
    os.symlink("round.npy", "round.npy")
    with pytest.raises(FileError) as refused:
        evaluate("y.npy", name)
    assert "\n" not in str(refused.value)


# --- archives -------------------------------------------------------------------------------------


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


@pytest.mark.parametrize("file", ["stored.npz", "packed.npz"])
def test_an_archive_with_any_one_byte_wrong_is_read_or_refused(file):
    """Nothing of zipfile, struct or zlib comes through, and no number for other data."""
    content = Path(file).read_bytes()
    with zipfile.ZipFile(file) as archive:
        data = archive.infolist()[0].compress_size
    # Every byte of the directories and headers, and some of the numbers.
    places = [*range(200), *range(200, data, 97), *range(data, len(content))]
    expected = evaluate("y.npy", file, from_logits=True).mean_loss
    for at in places:
        Path("bad.npz").write_bytes(flipped(content, at))
        try:
            mean_loss = evaluate("y.npy", "bad.npz", from_logits=True).mean_loss
        except FileError as refused:
            message = str(refused)
            told = message.startswith(("bad.npz", "y.npy")) and "\n" not in message
        else:
            told = mean_loss == expected
        assert told, at
