"""SHA-256 digests of bytes, files and JSON values."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from hwc.errors import IntegrityError

CHUNK_BYTES = 1 << 20
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


def checked(digest: str, *, where: str) -> str:
    """Return the digest unchanged if it is well formed; raise IntegrityError otherwise."""
    if not _DIGEST.fullmatch(digest):
        raise IntegrityError(f"not a sha256 digest: {digest[:90]!r}", where=where)
    return digest


def short(digest: str) -> str:
    """Return the first 12 hex digits, for people."""
    return digest.removeprefix("sha256:")[:12]
