"""SHA-256 digests of bytes, files and JSON values."""

from __future__ import annotations

import hashlib
import json
import queue
import re
import threading
from pathlib import Path
from typing import Any

from hwc.errors import IntegrityError

CHUNK_BYTES = 1 << 20
_AHEAD = 4
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def canonical_json(value: Any) -> bytes:
    """Serialise a JSON value to its one canonical form: sorted keys, no spaces, UTF-8, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def of_bytes(payload: bytes) -> str:
    """Return ``sha256:<hex>`` of the bytes."""
    return "sha256:" + hashlib.sha256(payload).hexdigest()


def of_json(value: Any) -> str:
    """Return the digest of a JSON value's canonical form."""
    return of_bytes(canonical_json(value))


def of_file(path: Path) -> str:
    """Return the digest of a file, read in chunks of 1 MiB."""
    hasher = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            hasher.update(chunk)
    return "sha256:" + hasher.hexdigest()


def of_folder(folder: Path) -> str:
    """Return the digest of a folder's sorted (relative path, file digest) list; links are followed."""
    rows = [
        [path.relative_to(folder).as_posix(), of_file(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]
    return of_json(rows)


class StreamHash:
    """SHA-256 of a stream, computed in a thread of its own while the caller waits for the next bytes.

    At most ``_AHEAD`` MiB wait to be hashed. To be closed, which ends the thread.
    """

    def __init__(self) -> None:
        self._hasher = hashlib.sha256()
        self._waiting: queue.Queue[list[bytes] | None] = queue.Queue(_AHEAD)
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (chunks := self._waiting.get()) is not None:
            self._hasher.update(b"".join(chunks))

    def update(self, chunk: bytes) -> None:
        """Hash a chunk after those before it; small ones are gathered, since each hand-over costs."""
        self._gathered.append(chunk)
        self._gathered_bytes += len(chunk)
        if self._gathered_bytes >= CHUNK_BYTES:
            self._hand_over()

    def _hand_over(self) -> None:
        self._waiting.put(self._gathered)
        self._gathered, self._gathered_bytes = [], 0

    def hexdigest(self) -> str:
        """Return the digest of everything; nothing may follow."""
        self.close()
        return self._hasher.hexdigest()

    def close(self) -> None:
        """Hash what waits and end; may be called again."""
        if self._thread.is_alive():
            self._hand_over()
            self._waiting.put(None)
            self._thread.join()


def checked(digest: str, *, where: str) -> str:
    """Return the digest unchanged if it is well formed; raise IntegrityError otherwise."""
    if not _DIGEST.fullmatch(digest):
        raise IntegrityError(f"not a sha256 digest: {digest[:90]!r}", where=where)
    return digest


def short(digest: str) -> str:
    """Return the first 12 hex digits, for people."""
    return digest.removeprefix("sha256:")[:12]
