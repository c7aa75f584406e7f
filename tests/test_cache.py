"""Compiled kernels on disk: found again, never of another version, never anybody else's."""

import compileall
import io
import logging
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import platformdirs
import pytest

import sparse_xent
from sparse_xent.kernels import cache as kernel_cache
from sparse_xent.kernels import loader

PACKAGE = Path(sparse_xent.__file__).parent

SCRIPT = """
import numpy as np, sparse_xent as sx
from sparse_xent.kernels import loader
x = np.array([[0.0, 1.0, 2.0]] * 3)
print(sx.loss_sparse_categorical_crossentropy(np.array([0, 1, 2]), x, True).tolist())
print(len(loader.compiled))
"""

posix = pytest.mark.skipif(os.name != "posix", reason="owners and modes as POSIX has them")
root = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="only root can be other users"
)


def run(folder, cache, script=SCRIPT, stderr=subprocess.PIPE, silent=False, **how):
    """What a new process prints, with the package in `folder` and kernels kept in `cache`."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", script],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        timeout=150,
        cwd=folder if folder.is_dir() else folder.parent,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder), **cache},
        check=False,
        **how,
    )
    assert done.returncode == 0, done.stderr
    assert not (silent and done.stderr), done.stderr
    return done.stdout.splitlines()


def copied(folder):
    shutil.copytree(PACKAGE, folder / "sparse_xent", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A cache that one process has filled, and what that printed."""
    cache = tmp_path_factory.mktemp("compiled")
    return cache, run(PACKAGE.parent, {"NUMBA_CACHE_DIR": str(cache)})


@pytest.fixture
def filled(compiled, tmp_path):
    """A copy of that cache."""
    return Path(shutil.copytree(compiled[0], tmp_path / "cache"))


# --- found again, never stale --------------------------------------------------------------------


def test_a_second_process_finds_what_the_first_compiled(compiled):
    cache, first = compiled
    second = run(PACKAGE.parent, {"NUMBA_CACHE_DIR": str(cache)})
    assert first[0] == second[0]
    assert int(first[1]) > 0
    assert second[1] == "0"


def edit(folder):
    """Change what a kernel computes."""
    formulas = folder / "sparse_xent/kernels/formulas.py"
    text = formulas.read_text("utf-8")
    assert "LN2 = math.log(2)" in text
    formulas.write_text(text.replace("LN2 = math.log(2)", "LN2 = 1.0"), "utf-8")


def without_sources(folder):
    """The package as bytecode alone."""
    kernels = folder / "sparse_xent/kernels"
    compileall.compile_dir(kernels, legacy=True, quiet=1, maxlevels=0, force=True)
    for source in kernels.glob("*.py"):
        source.unlink()
    return folder


def zipped(folder):
    """The package in an archive."""
    return Path(shutil.make_archive(str(folder), "zip", folder))


STAMP = "from sparse_xent.kernels import cache; print(cache.stamp())"


@pytest.mark.parametrize("shipped", [Path, without_sources, zipped])
def test_another_version_has_another_stamp_also_where_there_are_no_sources(shipped, tmp_path):
    stamps = []
    for version in ("one", "same", "other"):
        folder = copied(tmp_path / version)
        if version == "other":
            edit(folder)
        stamps.append(run(shipped(folder), {}, STAMP))
    assert stamps[0] != stamps[2]
    if shipped is not without_sources:  # bytecode holds the time of its source
        assert stamps[0] == stamps[1]


def test_code_that_cannot_be_read_is_not_kept(tmp_path, monkeypatch):
    """Nor loaded, for how old it is cannot be known: programs that are frozen into one file."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    kernel_cache.keep(("k",), b"image")
    assert kernel_cache.load(("k",)) == b"image"
    for known in (kernel_cache.stamp, kernel_cache.sources):
        known.cache_clear()
    monkeypatch.setattr(type(kernel_cache.__spec__.loader), "get_data", None)
    assert kernel_cache.load(("k",)) is None
    with pytest.raises(OSError, match=r"the code of sparse_xent\.kernels cannot be read"):
        kernel_cache.keep(("k",), b"image")


def test_an_edit_of_what_a_kernel_calls_is_seen(compiled, filled, tmp_path):
    folder = copied(tmp_path / "package")
    edit(folder)
    after = run(folder, {"NUMBA_CACHE_DIR": str(filled)})
    assert int(after[1]) > 0
    assert after[0] != compiled[1][0]


def test_another_processor_has_a_folder_of_its_own(compiled):
    nehalem = {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": "+sse2"}
    stamps = {*run(PACKAGE.parent, {}, STAMP), *run(PACKAGE.parent, nehalem, STAMP)}
    assert len(stamps) == 2


def test_what_is_on_disk_needs_no_numba(compiled):
    loaded = SCRIPT + "import sys; print('numba' in sys.modules)"
    assert run(PACKAGE.parent, {"NUMBA_CACHE_DIR": str(compiled[0])}, loaded)[2] == "False"


# --- what a user hears of it ----------------------------------------------------------------------

TWO = """
from sparse_xent.kernels import loader
for labels in ("uint8", "int32"):
    loader.address("decode_labels", labels)
"""


def heard(cache):
    """What a terminal shows of a new process that takes two kernels."""
    import pty

    master, terminal = pty.openpty()
    run(PACKAGE.parent, {"NUMBA_CACHE_DIR": str(cache)}, TWO, stderr=terminal)
    os.write(terminal, b"end")
    shown = os.read(master, 10_000).decode()
    os.close(master), os.close(terminal)
    return shown.removesuffix("end")


@posix
def test_at_a_terminal_one_line_says_that_kernels_are_compiled_and_where_they_are_kept(tmp_path):
    line, rest = heard(tmp_path).split("\r\n")
    assert line.startswith("sparse_xent: compiling kernels ")
    (folder,) = (tmp_path / "sparse_xent").iterdir()
    assert f"kept in {folder};" in line
    assert rest == ""
    assert heard(tmp_path) == ""  # they are there


def test_elsewhere_nothing_is_said(tmp_path):
    """A notebook, a report and a program that reads it have streams that are no terminals."""
    run(PACKAGE.parent, {"NUMBA_CACHE_DIR": str(tmp_path)}, TWO, silent=True)
    assert list(tmp_path.rglob("*.o"))


@pytest.mark.parametrize("stderr", [None, "closed", "without isatty"])
def test_whatever_stands_for_stderr_does_no_harm(stderr, monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(loader, "_announced", False)
    monkeypatch.setattr(sys, "stderr", {None: None, "closed": closed}.get(stderr, object()))
    loader._announce()


# --- whole, and what it is called ----------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of this process's own, for files that need not be kernels: those take seconds."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    kernel_cache.keep(("a", True), b"image of a")
    return tmp_path / "cache"


def the_file(cache):
    (file,) = cache.rglob("a-True.o")
    return file


@posix
def test_files_cut_short_or_open_to_others_are_compiled_anew(filled, compiled):
    """Whatever of another user's may lie there: it is not run, but replaced."""
    files = sorted(f for f in filled.rglob("*") if f.is_file())
    assert len(files) > 1
    for number, file in enumerate(files):
        if number % 2:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        else:
            file.chmod(0o666)
    assert run(PACKAGE.parent, {"NUMBA_CACHE_DIR": str(filled)}) == compiled[1]
    assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o644}
    again = run(PACKAGE.parent, {"NUMBA_CACHE_DIR": str(filled)})
    assert again == [compiled[1][0], "0"]


@pytest.mark.parametrize(
    "change", [lambda b: b[:-1], lambda b: b[:20], lambda b: b"", lambda b: b"x" + b]
)
def test_a_changed_file_counts_as_absent(change, cache):
    assert kernel_cache.load(("a", True)) == b"image of a"
    the_file(cache).write_bytes(change(the_file(cache).read_bytes()))
    assert kernel_cache.load(("a", True)) is None


def test_a_file_under_another_name_counts_as_absent(cache):
    for name in (("b", True), ("a", False)):
        file = the_file(cache).with_name("-".join(map(str, name)) + ".o")
        shutil.copy(the_file(cache), file)
        assert kernel_cache.load(name) is None


def test_a_file_of_another_version_counts_as_absent(cache, monkeypatch):
    monkeypatch.setattr(kernel_cache, "stamp", lambda: "f" * 16)
    shutil.copytree(the_file(cache).parent, cache / "sparse_xent" / ("f" * 16))
    assert kernel_cache.load(("a", True)) is None


# --- nobody else's -------------------------------------------------------------------------------


def places(cache):
    """The file, and every folder from the cache folder down to it."""
    file = the_file(cache)
    return [file, *(p for p in file.parents if p == cache or cache in p.parents)]


@pytest.fixture
def give(monkeypatch):
    """Let paths belong to another user and a group; the caller is then in the group, if asked."""

    def give(*paths, member=False):
        if os.geteuid() == 0:
            for path in paths:
                os.chown(path, 65534, 65534, follow_symlinks=False)
            monkeypatch.setattr(os, "getgroups", lambda: [65534] if member else [])
        else:  # then let them look like someone else's, and their group like one of others
            given = {path.lstat().st_ino for path in paths}
            monkeypatch.setattr(os, "fstat", lambda handle: seen(fstat(handle), given))
            if not member:
                monkeypatch.setattr(os, "getegid", lambda: os.getgid() + 1)
                monkeypatch.setattr(os, "getgroups", list)

    fstat = os.fstat

    def seen(found, given):
        fields = list(found)
        fields[stat.ST_UID] += found.st_ino in given
        return os.stat_result(fields)

    return give


@posix
@pytest.mark.parametrize("which", range(4))
def test_what_another_user_owns_is_not_loaded(which, cache, give):
    give(places(cache)[which])
    assert kernel_cache.load(("a", True)) is None


@posix
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
@pytest.mark.parametrize("which", range(3))
def test_what_others_may_write_is_not_loaded(which, mode, cache):
    places(cache)[which].chmod(mode)
    assert kernel_cache.load(("a", True)) is None


@posix
def test_nor_from_a_cache_folder_in_which_others_may_move_ours(cache):
    cache.chmod(0o777)
    assert kernel_cache.load(("a", True)) is None
    with pytest.raises(PermissionError, match=r"may be written by others \(its mode is 777\)"):
        kernel_cache.keep(("b",), b"image")
    cache.chmod(0o1777)  # as /tmp has it
    assert kernel_cache.load(("a", True)) == b"image of a"


@posix
@pytest.mark.parametrize("which", range(3))
def test_no_symbolic_link_is_followed_below_the_cache_folder(which, cache, tmp_path):
    place = places(cache)[which]
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    assert kernel_cache.load(("a", True)) is None
    if which == 0:
        kernel_cache.keep(("a", True), b"image of a")  # takes the link's place
        assert not place.is_symlink()


@posix
def test_the_cache_folder_itself_may_be_a_link(cache, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(cache)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "link"))
    assert kernel_cache.load(("a", True)) == b"image of a"


@posix
@pytest.mark.seconds(20)
def test_a_pipe_or_a_folder_in_a_file_s_place_keeps_nobody_waiting(cache):
    file = the_file(cache)
    file.unlink()
    os.mkfifo(file)
    assert kernel_cache.load(("a", True)) is None
    file.unlink()
    file.mkdir()
    assert kernel_cache.load(("a", True)) is None


# --- a group's -----------------------------------------------------------------------------------


@pytest.fixture
def umask():
    """Set the umask of this process."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.fixture
def shared(tmp_path, monkeypatch, umask):
    """A group's folder, named in NUMBA_CACHE_DIR, with a file in it."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o2775)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(folder))
    umask(0o002)
    kernel_cache.keep(("a", True), b"image of a")
    return folder


def give_group(folder, mode=0o2775):
    """Let a folder of the caller's be another group's, where the caller may do that."""
    if os.geteuid() == 0:
        os.chown(folder, 0, 65534)
        folder.chmod(mode)


@posix
def test_a_group_s_folder_gets_the_modes_of_the_umask(shared):
    file, *folders = places(shared)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert {stat.S_IMODE(f.stat().st_mode) & 0o777 for f in folders} == {0o775}
    assert {p.stat().st_gid for p in places(shared)} == {shared.stat().st_gid}


@posix
def test_what_another_user_of_the_group_wrote_is_loaded(shared, give):
    below = places(shared)[:-1]
    give_group(shared)
    give(*below, member=True)
    for folder in below[1:]:
        folder.chmod(0o2775)
    assert kernel_cache.load(("a", True)) == b"image of a"
    below[0].chmod(0o666)
    assert kernel_cache.load(("a", True)) is None


@posix
def test_a_group_that_the_caller_is_not_in_is_not_trusted(shared, give):
    give_group(shared)
    give(*places(shared)[:-1])
    assert kernel_cache.load(("a", True)) is None


@posix
def test_files_are_the_group_s_also_where_the_folder_does_not_see_to_that(shared, give):
    """Its mode is 775, not 2775: what is made there has its maker's own group at first."""
    give_group(shared, 0o775)
    shutil.rmtree(shared / "sparse_xent")
    give(member=True)
    kernel_cache.keep(("a", True), b"image of a")
    assert {p.stat().st_gid for p in places(shared)} == {shared.stat().st_gid}
    assert kernel_cache.load(("a", True)) == b"image of a"


@posix
def test_nor_a_group_s_folder_that_anybody_can_have_put_there(shared, give):
    """As in /tmp, by someone who is in a group with the caller."""
    shared.parent.chmod(0o1777)
    give(*places(shared), member=True)
    assert kernel_cache.load(("a", True)) is None


@posix
def test_nor_a_group_s_folder_that_the_user_did_not_name(tmp_path, monkeypatch, umask):
    umask(0o002)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tmp_path.chmod(0o775)
    kernel_cache.keep(("a", True), b"image of a")
    file, *folders, _ = places(tmp_path)
    assert {stat.S_IMODE(f.stat().st_mode) for f in folders} == {0o700}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert kernel_cache.load(("a", True)) == b"image of a"
    folders[0].chmod(0o770)
    assert kernel_cache.load(("a", True)) is None


AS_USER = """
import os, sys
sys.path.insert(0, sys.argv[1])
from sparse_xent.kernels import cache
cache.stamp()  # while what it imports can be read
os.setgroups([4321]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2])); os.umask(0o002)
if sys.argv[3] == "keep":
    cache.keep(("a", True), b"image of a")
print(cache.load(("a", True)) == b"image of a")
"""


@root
def test_users_of_a_group_share_their_kernels():
    """Each with a uid and a group of his own, beside the group that they share."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        os.chown(folder, 0, 4321)
        os.chmod(folder, 0o2775)
        _share(folder)


def _share(folder):
    def user(uid, what):
        done = subprocess.run(
            [sys.executable, "-c", AS_USER, str(PACKAGE.parent), str(uid), what],
            env={**os.environ, "NUMBA_CACHE_DIR": folder},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    assert user(1001, "keep") == "True\n"
    assert user(1002, "load") == "True\n"
    assert user(1002, "keep") == "True\n"  # he may put his own in its place
    os.chown(folder, 0, 0)
    os.chmod(folder, 0o755)
    assert user(1002, "load") == "False\n"


# --- no place ------------------------------------------------------------------------------------


def test_no_writable_folder_means_no_cache_and_no_error(tmp_path):
    blocked = tmp_path / "a file, not a folder"
    blocked.write_text("")
    for cache in ({"NUMBA_CACHE_DIR": str(blocked)}, {"HOME": os.devnull}):
        assert int(run(PACKAGE.parent, cache)[1]) > 0


@pytest.fixture
def told(caplog, monkeypatch):
    """What is logged, while nothing has been noted yet."""
    monkeypatch.setattr(kernel_cache, "_noted", False)
    caplog.set_level(logging.DEBUG, "sparse_xent")
    return caplog


def test_one_note_names_the_folder_the_cause_and_the_variable(tmp_path, monkeypatch, told):
    blocked = tmp_path / "a file, not a folder"
    blocked.write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(blocked))
    for kernel in "ab":
        kernel_cache.save((kernel,), b"image")
    (note,) = told.records
    text = note.getMessage()
    assert note.levelno == logging.WARNING
    for words in (f"{blocked / 'sparse_xent'}: Not a directory", "NUMBA_CACHE_DIR", "compiles"):
        assert words in text
    assert "\n" not in text


def test_a_full_disk_leaves_no_draft_and_the_old_file(cache, monkeypatch, told):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    kernel_cache.save(("a", True), b"another image")
    assert "No space left on device" in told.records[0].getMessage()
    assert [f.name for f in the_file(cache).parent.iterdir()] == ["a-True.o"]
    assert kernel_cache.load(("a", True)) == b"image of a"


@pytest.mark.parametrize("known", ["an error", "~/.cache/sparse_xent"])
def test_a_user_without_a_home_gets_no_folder_where_he_stands(known, tmp_path, monkeypatch, told):
    def homeless(*_args, **_kwargs):  # platformdirs, newer and older
        if known == "an error":
            raise RuntimeError("could not determine the home directory")
        return Path(known)

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_path", homeless)
    kernel_cache.save(("a", True), b"image")
    assert "no home" in told.records[0].getMessage()
    assert kernel_cache.load(("a", True)) is None
    assert list(tmp_path.iterdir()) == []


def test_where_there_are_no_modes_files_are_kept_all_the_same(cache, monkeypatch):
    """On Windows: no owners, no folders by handle."""
    monkeypatch.setattr("sparse_xent.kernels.trusted._MODES", False)
    assert kernel_cache.load(("a", True)) == b"image of a"
    kernel_cache.keep(("new", 1), b"image")
    assert kernel_cache.load(("new", 1)) == b"image"
    assert sorted(f.name for f in the_file(cache).parent.iterdir()) == ["a-True.o", "new-1.o"]
