"""Temporary files that blobs are written to before they appear, and the removal of those a dead process left."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from hwc import files

_PREFIX = "blob-"


@contextmanager
def temporary(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a temporary file in ``folder``; it is gone after the block unless the block renamed it.

    The file stays locked while its writer lives: a lock that can be had marks the file as a dead writer's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with files.locked(folder / "lock"):  # from the sweep until the new file is locked, nobody else may sweep
        _sweep(folder)
        handle, name = tempfile.mkstemp(dir=folder, prefix=_PREFIX)
        fcntl.flock(handle, fcntl.LOCK_EX)
    path = Path(name)
    with os.fdopen(handle, "wb") as stream:
        try:
            yield stream, path
        finally:
            path.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    for path in folder.glob(f"{_PREFIX}*"):
        handle = files.try_lock(path)
        if handle is not None:
            path.unlink(missing_ok=True)
            os.close(handle)
