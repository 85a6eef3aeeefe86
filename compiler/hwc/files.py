"""Files that are written whole or not at all, and names that cannot leave their folder."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from hwc.errors import IntegrityError, MachineError
from hwc.faults import fail_point

LOCK_POLL_S = 0.1


def confined(root: Path, name: str) -> Path:
    """Return ``root/name`` if ``name`` is a plain relative path inside ``root``; raise IntegrityError otherwise.

    Refused: absolute names, ``..``, empty names, NUL, backslashes, and links that lead outside.
    """
    parts = PurePosixPath(name).parts
    bad = not parts or name.startswith("/") or ".." in parts or "\0" in name or "\\" in name
    if bad:
        raise IntegrityError(f"file name leaves its folder: {name!r}", where=str(root))
    path = root.joinpath(*parts)
    if not path.resolve().is_relative_to(root.resolve()):
        raise IntegrityError(f"file name leads outside its folder through a link: {name!r}", where=str(root))
    return path


def explain_os_error(error: OSError, doing: str) -> MachineError:
    """Translate an operating-system error into one that says what to do."""
    hints = {
        errno.ENOSPC: "free disk space, or point HWC_HOME at another disk; `hwc cache gc` frees old stage outputs",
        errno.EDQUOT: "the disk quota is used up; `hwc cache gc` frees old stage outputs",
        errno.EROFS: "the file system is read-only; point HWC_HOME or --store somewhere writable",
        errno.EACCES: "check the permissions, or point HWC_HOME or --store somewhere writable",
        errno.EPERM: "check the permissions, or point HWC_HOME or --store somewhere writable",
    }
    where = str(error.filename or "")
    return MachineError(
        f"{doing}: {error.strerror or error}", where=where, hint=hints.get(error.errno or 0, "")
    )


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, payload: bytes) -> None:
    """Write a file so that a reader sees the old bytes or the new ones, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fail_point("file.before-write")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        fail_point("file.before-rename")
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    fail_point("file.after-rename")


def remove_tree(folder: Path) -> None:
    """Remove a folder and everything in it, if it exists."""
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder)


@contextmanager
def locked(path: Path, *, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold an exclusive advisory lock on a lock file; the system drops it when the process dies.

    ``waiting`` is called again and again while another process holds the lock; it may raise to give up.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if waiting is None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        else:
            _poll(handle, waiting)
        yield
    finally:
        os.close(handle)


def _poll(handle: int, waiting: Callable[[], None]) -> None:
    """Wait for a lock in a way that a thread other than the main one, which gets no signal, can leave."""
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            time.sleep(LOCK_POLL_S)
        else:
            return


def try_lock(path: Path) -> int | None:
    """Take an exclusive lock without waiting; return its handle (close it to release), or None if held."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle
