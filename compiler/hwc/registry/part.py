"""A blob that arrives in pieces: kept in the layout's ingest folder until it is whole, and gone on with after a cut.

The file is only ever appended to, so a process may die at any moment; whoever goes on hashes what is there first. It
is locked while its writer lives.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hwc import files
from hwc.digest import CHUNK_BYTES, StreamHash
from hwc.errors import IntegrityError
from hwc.oci_layout import Layout
from hwc.oci_manifest import Descriptor
from hwc.registry import parallel
from hwc.registry.parallel import Stop

STALE_S = 7 * 86400.0
"""A part that nobody went on with for this long is removed."""
_PREFIX = "part-"


class Part:
    """The bytes of a blob that are here so far."""

    def __init__(self, handle: int, blob: Descriptor) -> None:
        self._handle = handle
        self._blob = blob
        self._hasher = StreamHash()
        self.size_bytes = 0
        self.is_needless = False
        """Set when the blob has come another way: the part is removed and nothing takes its place."""

    def take_up(self) -> None:
        """Hash what an earlier run left; what is longer than the blob is thrown away."""
        if os.fstat(self._handle).st_size > self._blob.size_bytes:
            self.restart()
        os.lseek(self._handle, 0, os.SEEK_SET)
        while chunk := os.read(self._handle, CHUNK_BYTES):
            self._hasher.update(chunk)
            self.size_bytes += len(chunk)

    def restart(self) -> None:
        """Throw away what is here."""
        os.ftruncate(self._handle, 0)
        os.lseek(self._handle, 0, os.SEEK_SET)
        self._hasher.close()
        self._hasher = StreamHash()
        self.size_bytes = 0

    def write(self, chunk: bytes) -> None:
        """Append bytes; raise IntegrityError past the blob's size."""
        if self.size_bytes + len(chunk) > self._blob.size_bytes:
            raise IntegrityError(
                f"the registry sends more than the {self._blob.size_bytes} bytes of a blob", where=self._blob.digest
            )
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._handle, view) :]
        self._hasher.update(chunk)
        self.size_bytes += len(chunk)

    def close(self) -> None:
        """End the hashing; the file stays open."""
        self._hasher.close()

    @property
    def is_whole(self) -> bool:
        """Whether all bytes are here, whatever they are."""
        return self.size_bytes == self._blob.size_bytes

    @property
    def is_right(self) -> bool:
        """Whether the bytes are the blob's."""
        return self.is_whole and "sha256:" + self._hasher.hexdigest() == self._blob.digest


@contextmanager
def opened(layout: Layout, blob: Descriptor, stop: Stop) -> Iterator[Part]:
    """Give the part of a blob; when the block ends well it becomes the blob. Bytes that cannot be right are removed."""
    path = layout.path / ".ingest" / f"{_PREFIX}{layout.blob_path(blob.digest).name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = _locked(path, stop)
    part = Part(handle, blob)
    try:
        part.take_up()
        try:
            yield part
            if part.is_needless:
                path.unlink(missing_ok=True)
                return
            if not part.is_right:
                raise IntegrityError("the registry sends other bytes than the digest says", where=blob.digest)
        except BaseException as error:
            if isinstance(error, IntegrityError) or part.size_bytes == 0:
                path.unlink(missing_ok=True)
            raise
        os.fsync(handle)
        os.fchmod(handle, 0o644)
        os.replace(path, layout.blob_path(blob.digest))
    except OSError as error:
        raise files.explain_os_error(error, "cannot write to the bundle store") from error
    finally:
        part.close()
        os.close(handle)
    files.sync_folder(layout.path / "blobs" / "sha256")


def remove_stale(layout: Layout) -> None:
    """Remove the parts that were given up long ago."""
    for path in (layout.path / ".ingest").glob(f"{_PREFIX}*"):
        handle = files.try_lock(path)
        if handle is not None:
            if time.time() - os.fstat(handle).st_mtime > STALE_S:
                path.unlink(missing_ok=True)
            os.close(handle)


def _locked(path: Path, stop: Stop) -> int:
    """Open and lock a part; wait while another process fetches the same blob."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(path, handle):
                return handle
        except BlockingIOError:
            if stop.wait(files.LOCK_POLL_S):
                os.close(handle)
                parallel.check(stop)
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _is_still(path: Path, handle: int) -> bool:
    """Tell whether the path still names the open file: another process may have finished it meanwhile."""
    try:
        return path.stat(follow_symlinks=False).st_ino == os.fstat(handle).st_ino
    except FileNotFoundError:
        return False
