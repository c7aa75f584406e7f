"""Files that are machine code: read only if nobody but whom we trust can have put them there.

From the cache folder down to the file, all must belong to the caller or to root, and be writable by
nobody else. Two exceptions:

- A cache folder that all may write, but in which nobody may move what others own (the sticky bit,
  as /tmp has it), may hold our own folder.
- A cache folder that the user named, and that a group of his and nobody else may write, is that
  group's: what lies in it with that group is read, whoever of the group wrote it. It must belong to
  the caller or to root, or have a path on which nobody outside the group can have put it.

The user's own cache folder (~/.cache) may be writable by a group: ours in it may not. No symbolic
link is followed below the cache folder, and what is checked is what was opened, not a name. Windows
has no such modes: there a file is as safe as the access list of its folder.
"""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

_MODES = hasattr(os, "geteuid") and hasattr(os, "O_NOFOLLOW") and os.open in os.supports_dir_fd


def read(base: Path, inside: tuple[str, ...], named: bool) -> bytes:
    """A file's content.

    Args:
        base: the cache folder.
        inside: the folders in it that lead to the file, and the file's name.
        named: whether the user named the cache folder.

    Raises:
        OSError: it is not there, or is not to be trusted.
    """
    *folders, name = inside
    if not _MODES:
        return base.joinpath(*inside).read_bytes()
    with _opened(base, folders, named, make=False) as (at, trust):
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe must not keep us waiting
        with os.fdopen(os.open(name, flags, dir_fd=at), "rb") as file:
            found = os.fstat(file.fileno())
            trust.check(found, base.joinpath(*inside))
            if not stat.S_ISREG(found.st_mode):
                raise PermissionError(f"{base.joinpath(*inside)} is not a regular file")
            return file.read()


def write(base: Path, inside: tuple[str, ...], named: bool, content: bytes) -> None:
    """Make a file, or put it in an older one's place: all of it or nothing. Makes folders, too.

    Args:
        base: the cache folder.
        inside: the folders in it that lead to the file, and the file's name.
        named: whether the user named the cache folder.
        content: what the file is to hold.

    Raises:
        OSError: it cannot be written, or could not be trusted there.
    """
    *folders, name = inside
    draft = f".{secrets.token_hex(8)}"
    if not _MODES:
        parent = base.joinpath(*folders)
        parent.mkdir(parents=True, exist_ok=True)
        try:
            (parent / draft).write_bytes(content)
            (parent / draft).replace(parent / name)
        finally:
            (parent / draft).unlink(missing_ok=True)
        return
    with _opened(base, folders, named, make=True) as (at, trust):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        handle = os.open(draft, flags, trust.files, dir_fd=at)
        try:
            with os.fdopen(handle, "wb") as file:
                if trust.group is not None:
                    os.fchown(handle, -1, trust.group)
                # Some file systems give files to another user: what is not ours is not read.
                trust.check(os.fstat(handle), base.joinpath(*inside))
                file.write(content)
            os.replace(draft, name, src_dir_fd=at, dst_dir_fd=at)
        except BaseException:
            os.unlink(draft, dir_fd=at)
            raise


class _Trust(NamedTuple):
    """Whose files are read from a cache folder, and the modes of what is made in it."""

    users: frozenset[int]
    group: int | None  # all of whose files are read, too
    folders: int  # modes, from which the umask takes its share
    files: int

    def check(self, found: os.stat_result, path: Path) -> None:
        """Refuse what others own or may write."""
        of_the_group = self.group is not None and found.st_gid == self.group
        if found.st_uid not in self.users and not of_the_group:
            raise _belongs(path, found)
        if found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and not of_the_group):
            raise _written(path, found)


def _trust(base: Path, found: os.stat_result, named: bool) -> _Trust:
    """Whose files are read from this cache folder; refuses one in which others can move ours."""
    users = frozenset((os.geteuid(), 0))
    by_group, by_all = found.st_mode & stat.S_IWGRP, found.st_mode & stat.S_IWOTH
    groups = (os.getegid(), *os.getgroups())
    of_a_group = named and by_group and not by_all and found.st_gid in groups
    if of_a_group and (found.st_uid in users or _reached_by_the_group_alone(base, found.st_gid)):
        return _Trust(users, found.st_gid, 0o775, 0o644)
    if found.st_uid not in users:
        raise _belongs(base, found)
    if (by_all or (named and by_group)) and not found.st_mode & stat.S_ISVTX:
        raise _written(base, found)
    return _Trust(users, None, 0o755, 0o644) if named else _Trust(users, None, 0o700, 0o600)


def _reached_by_the_group_alone(base: Path, group: int) -> bool:
    """Whether nobody outside the group, but root, can have put the folder where it is."""
    for place in (base, *base.parents):
        found = place.lstat()
        if stat.S_ISLNK(found.st_mode) or found.st_mode & stat.S_IWOTH:
            return False
        if found.st_mode & stat.S_IWGRP and found.st_gid not in (group, 0):
            return False
    return True


@contextmanager
def _opened(
    base: Path, folders: list[str], named: bool, make: bool
) -> Iterator[tuple[int, _Trust]]:
    """The last of these folders, each within the one before, all checked; made if wanted."""
    if make:
        with suppress(FileExistsError):  # what else there is will not open as a folder
            base.parent.mkdir(parents=True, exist_ok=True)
            base.mkdir(0o775 if named else 0o700)
    at, path = os.open(base, os.O_RDONLY | os.O_DIRECTORY), base
    try:
        trust = _trust(base, os.fstat(at), named)
        for folder in folders:
            path = path / folder
            if make:
                _made(folder, at, trust)
            above, at = at, os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(above)
            trust.check(os.fstat(at), path)
        yield at, trust
    finally:
        os.close(at)


def _made(folder: str, at: int, trust: _Trust) -> None:
    with suppress(FileExistsError):
        os.mkdir(folder, trust.folders, dir_fd=at)
        if trust.group is not None:
            os.chown(folder, -1, trust.group, dir_fd=at, follow_symlinks=False)


def _belongs(path: Path, found: os.stat_result) -> PermissionError:
    return PermissionError(f"{path} belongs to another user (uid {found.st_uid})")


def _written(path: Path, found: os.stat_result) -> PermissionError:
    mode = stat.S_IMODE(found.st_mode)
    return PermissionError(f"{path} may be written by others (its mode is {mode:o})")
