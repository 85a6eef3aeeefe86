"""An OCI image layout on disk: content-addressed blobs and the tags that point at them.

A blob or an index is visible whole or not at all, whenever the process dies. Bytes are written to a locked temporary
file in ``.ingest/`` and renamed into place; a temporary file that nobody locks is a dead process's, and the next
writer removes it. Every change of the tags is one read, decide and replace under one lock.

Source: OCI image specification 1.1, image-layout.md.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hwc import digest as digests
from hwc import files, oci_ingest, oci_manifest
from hwc.digest import CHUNK_BYTES
from hwc.errors import IntegrityError, UsageError
from hwc.faults import fail_point
from hwc.oci_layout_index import IndexFile
from hwc.oci_manifest import MAX_MANIFEST_BYTES, Descriptor

LAYOUT_FILE = "oci-layout"
LAYOUT_VERSION = "1.0.0"
_MAY_LIE_BESIDE = frozenset({"README.md", "index.json", "blobs", LAYOUT_FILE})
"""What a folder may hold, beside dot files, and still become a layout: git keeps a README in the default store, and
another process may be making the same layout, its marker appearing after it was looked for."""


class BlobWriter:
    """Takes the bytes of one blob and hashes them as they pass."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._hasher = hashlib.sha256()
        self.size_bytes = 0

    def write(self, chunk: bytes) -> None:
        """Append bytes."""
        self._stream.write(chunk)
        self._hasher.update(chunk)
        self.size_bytes += len(chunk)

    @property
    def digest(self) -> str:
        """Digest of the bytes written so far."""
        return "sha256:" + self._hasher.hexdigest()


@dataclass(frozen=True, slots=True)
class Layout:
    """One layout; making the object touches nothing."""

    path: Path

    def create(self) -> Layout:
        """Make the layout if it is not there yet; raise UsageError for a folder that holds something else."""
        with _explained("cannot create the bundle store", self.path):
            if (self.path / LAYOUT_FILE).exists():
                return self.check()
            self.path.mkdir(parents=True, exist_ok=True)
            foreign = sorted(
                entry.name
                for entry in self.path.iterdir()
                if not entry.name.startswith(".") and entry.name not in _MAY_LIE_BESIDE
            )
            if foreign:
                raise UsageError(
                    f"the folder holds other things ({', '.join(foreign[:3])}) and is not an OCI image layout",
                    where=str(self.path),
                    hint="name an empty folder",
                )
            (self.path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
            self._index().create()
            files.write_atomic(self.path / LAYOUT_FILE, json.dumps({"imageLayoutVersion": LAYOUT_VERSION}).encode())
        return self

    def check(self) -> Layout:
        """Raise UsageError if the folder is no layout, IntegrityError if its version is not one hwc knows."""
        marker = self.path / LAYOUT_FILE
        if not marker.is_file():
            raise UsageError(
                "not an OCI image layout: the file oci-layout is missing",
                where=str(self.path),
                hint="`hwc build` makes one, `hwc pull` fills one",
            )
        with marker.open("rb") as stream:
            table = oci_manifest.parse_json(stream.read(4096), where=str(marker))
        version = table.get("imageLayoutVersion") if isinstance(table, Mapping) else None
        if version != LAYOUT_VERSION:
            raise IntegrityError(
                f"image layout version {version!r:.40} is not one this hwc can read ({LAYOUT_VERSION})",
                where=str(marker),
                hint="a newer hwc may read it",
            )
        return self

    def blob_path(self, digest: str) -> Path:
        """Return where a blob lies or would lie; raise IntegrityError for anything but a sha256 digest."""
        name = digests.checked(digest, where=str(self.path)).removeprefix("sha256:")
        return self.path / "blobs" / "sha256" / name

    def has(self, blob: str | Descriptor) -> bool:
        """Tell whether a blob is here: by digest alone, or with the right size too."""
        path = self.blob_path(blob if isinstance(blob, str) else blob.digest)
        try:
            found = path.lstat()
        except FileNotFoundError:
            return False
        return stat.S_ISREG(found.st_mode) and (isinstance(blob, str) or found.st_size == blob.size_bytes)

    def put_bytes(self, payload: bytes, media_type: str) -> Descriptor:
        """Store a blob; bytes that are here already are not written again."""
        descriptor = Descriptor(media_type=media_type, digest=digests.of_bytes(payload), size_bytes=len(payload))
        return self.put_chunks(lambda: [payload], descriptor)

    def put_file(self, path: Path, media_type: str) -> Descriptor:
        """Store a file's bytes: read once to hash, and again to copy if they are not here yet."""
        descriptor = Descriptor(media_type=media_type, digest=digests.of_file(path), size_bytes=path.stat().st_size)
        return self.put_chunks(lambda: read_chunks(path), descriptor)

    def put_chunks(self, chunks: Callable[[], Iterable[bytes]], expected: Descriptor) -> Descriptor:
        """Store a blob whose digest and size are known, unless it is here; raise IntegrityError if it differs."""
        if self.has(expected):
            return expected
        with self.writer(expected) as blob:
            for chunk in chunks():
                blob.write(chunk)
        return expected

    @contextmanager
    def writer(self, expected: Descriptor) -> Iterator[BlobWriter]:
        """Take a blob as a stream; it appears when the block ends well and the bytes are the expected ones."""
        self.check()
        with _explained("cannot write to the bundle store", self.path):
            fail_point("layout.before-blob")
            with oci_ingest.temporary(self.path / ".ingest") as (stream, temporary):
                blob = BlobWriter(stream)
                yield blob
                if (blob.digest, blob.size_bytes) != (expected.digest, expected.size_bytes):
                    raise IntegrityError(
                        f"expected {expected.size_bytes} bytes of {expected.digest}, "
                        f"got {blob.size_bytes} bytes of {blob.digest}",
                        where=str(self.path),
                    )
                stream.flush()
                os.fsync(stream.fileno())
                os.fchmod(stream.fileno(), 0o644)
                os.replace(temporary, self.blob_path(expected.digest))
            files.sync_folder(self.path / "blobs" / "sha256")

    def read_bytes(self, blob: str | Descriptor, max_bytes: int = MAX_MANIFEST_BYTES) -> bytes:
        """Return a blob's bytes, verified; raise IntegrityError if it is missing, too large, cut short or altered."""
        digest = blob if isinstance(blob, str) else blob.digest
        where = str(self.blob_path(digest))
        with self.open_blob(blob) as stream:
            payload = stream.read(max_bytes + 1)
        if len(payload) > max_bytes:
            raise IntegrityError(f"blob is larger than the {max_bytes} bytes that are read", where=where)
        if digests.of_bytes(payload) != digest:
            raise IntegrityError("blob does not match its digest", where=where)
        return payload

    @contextmanager
    def open_blob(self, blob: str | Descriptor) -> Iterator[BinaryIO]:
        """Open a blob for reading, unverified; links, pipes and files of the wrong size raise IntegrityError."""
        path = self.blob_path(blob if isinstance(blob, str) else blob.digest)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise IntegrityError("blob is missing", where=str(path), hint="pull or build it again") from error
        except OSError as error:
            raise IntegrityError(f"blob cannot be read: {error.strerror}", where=str(path)) from error
        with open(handle, "rb", closefd=True) as stream:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise IntegrityError("blob is not a regular file", where=str(path))
            if isinstance(blob, Descriptor) and found.st_size != blob.size_bytes:
                raise IntegrityError(
                    f"blob holds {found.st_size} bytes where {blob.size_bytes} were promised",
                    where=str(path),
                    hint="pull or build it again",
                )
            yield stream

    def tags(self) -> dict[str, Descriptor]:
        """Return every tag and what it points at."""
        self.check()
        return self._index().tags()

    def tag(self, name: str, descriptor: Descriptor) -> bool:
        """Point a tag at a blob that is here; tell whether anything changed."""
        return self.update(name, lambda _: descriptor)

    def update(self, name: str, decide: Callable[[Descriptor | None], Descriptor]) -> bool:
        """Move a tag to what ``decide`` makes of its present target, with every other writer kept out meanwhile."""

        def checked(old: Descriptor | None) -> Descriptor:
            new = decide(old)
            with self.open_blob(new):
                return new

        self.check()
        with _explained("cannot write to the bundle store", self.path):
            return self._index().update(name, checked)

    def untag(self, name: str) -> bool:
        """Remove a tag and leave the blobs; tell whether it was there."""
        self.check()
        with _explained("cannot write to the bundle store", self.path):
            return self._index().update(name, lambda _: None)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep garbage collection out while blobs are written that no tag reaches yet; many may hold at once."""
        with self._flocked(fcntl.LOCK_SH):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until nobody holds the layout, and keep everybody from holding it."""
        with self._flocked(fcntl.LOCK_EX):
            yield

    @contextmanager
    def roots(self) -> Iterator[tuple[Descriptor, ...]]:
        """Give what every entry of the index points at, tagged or not, while no tag can change."""
        self.check()
        with self._index().reading() as entries:
            yield oci_manifest.parse_descriptors(entries, where=str(self.path))

    def blob_files(self) -> list[Path]:
        """Return the files of all blobs."""
        return sorted((self.path / "blobs" / "sha256").glob("[0-9a-f]" * 64))

    def _index(self) -> IndexFile:
        return IndexFile(self.path)

    @contextmanager
    def _flocked(self, operation: int) -> Iterator[None]:
        self.check()
        with _explained("cannot lock the bundle store", self.path):
            handle = os.open(self.path / ".held", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(handle, operation)
                yield
            finally:
                os.close(handle)


def read_chunks(path: Path) -> Iterator[bytes]:
    """Yield a file's bytes in chunks of 1 MiB."""
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


@contextmanager
def _explained(doing: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise files.explain_os_error(error, doing) from error
