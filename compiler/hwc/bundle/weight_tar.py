"""One file in one uncompressed tar whose data starts at byte 4096, so that it can be memory-mapped in place.

Container runtimes mount tar layers; IREE maps parameters at page boundaries. A PAX extended header holding a padded
comment moves the data to the first boundary: 512 (PAX header) + 3072 (its records) + 512 (file header) = 4096.
Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header".
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hwc.digest import CHUNK_BYTES
from hwc.errors import IntegrityError, StepError
from hwc.oci_layout import read_chunks

DATA_OFFSET_BYTES = 4096
MAX_NAME_BYTES = 100
"""A ustar header's own name field; longer names would need a further PAX record."""

_END = bytes(2 * tarfile.BLOCKSIZE)
_MODE = 0o644
_SAFE_NAME = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[A-Za-z0-9._][A-Za-z0-9._+-]*(?:/[A-Za-z0-9._][A-Za-z0-9._+-]*)*")
# Blocks round the records up to 3072 bytes as long as they take more than 2560: room for a `size` record remains.
_COMMENT = "the file starts at byte 4096 of this archive".ljust(2700, ".")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Where a file's bytes lie inside its archive."""

    offset_bytes: int
    length_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Digests:
    """What a file and its archive hash to."""

    length_bytes: int
    file_sha256: str
    archive_sha256: str


def is_safe_name(name: str) -> bool:
    """Tell whether a name is a plain relative path of at most 100 ASCII characters, without ``.`` or ``..`` parts."""
    return len(name) <= MAX_NAME_BYTES and _SAFE_NAME.fullmatch(name) is not None


def header(name: str, length_bytes: int) -> bytes:
    """Return the 4096 bytes before the file: the same for the same name and length, on every machine."""
    if not is_safe_name(name):
        raise IntegrityError(f"not a safe file name: {name!r:.120}")
    member = tarfile.TarInfo(name)
    member.size = length_bytes
    member.mode = _MODE
    member.pax_headers = {"comment": _COMMENT}
    head = member.tobuf(tarfile.PAX_FORMAT)
    assert len(head) == DATA_OFFSET_BYTES, len(head)
    return head


def archive_bytes(length_bytes: int) -> int:
    """Return the size of the archive of a file of this length."""
    return DATA_OFFSET_BYTES + length_bytes + _padding_bytes(length_bytes) + len(_END)


def archive(name: str, payload: bytes) -> bytes:
    """Return the whole archive of a small file."""
    return header(name, len(payload)) + payload + bytes(_padding_bytes(len(payload))) + _END


def digests_of(path: Path, name: str) -> Digests:
    """Hash a file and its archive in one reading."""
    plain, packed, length_bytes = hashlib.sha256(), hashlib.sha256(), path.stat().st_size
    packed.update(header(name, length_bytes))
    for chunk in read_chunks(path):
        plain.update(chunk)
        packed.update(chunk)
    packed.update(bytes(_padding_bytes(length_bytes)) + _END)
    return Digests(
        length_bytes=length_bytes,
        file_sha256="sha256:" + plain.hexdigest(),
        archive_sha256="sha256:" + packed.hexdigest(),
    )


def chunks(path: Path, name: str) -> Iterator[bytes]:
    """Yield the archive of a file in pieces of at most 1 MiB; raise StepError if the file changes meanwhile."""
    with path.open("rb") as stream:
        length_bytes = os.fstat(stream.fileno()).st_size
        yield header(name, length_bytes)
        left_bytes = length_bytes
        while chunk := stream.read(CHUNK_BYTES):
            left_bytes -= len(chunk)
            yield chunk
    if left_bytes:
        raise StepError("the file changed while it was packed", where=str(path), hint="pack again")
    yield bytes(_padding_bytes(length_bytes)) + _END


def locate(stream: BinaryIO, name: str, *, where: str) -> Slice:
    """Return where the file ``name`` lies in an archive; raise IntegrityError unless it is the archive's only content.

    Refused: links, devices, sparse files, set-id bits, other owners, names other than the expected one, further
    entries, anything but zeros after the file, and an archive cut short.
    """
    total_bytes = os.fstat(stream.fileno()).st_size
    stream.seek(0)
    member = _member(stream.read(DATA_OFFSET_BYTES), where)
    if problem := _problem(member, name):
        raise IntegrityError(problem, where=where)
    if member.size < 0 or archive_bytes(member.size) != total_bytes:
        raise IntegrityError(
            f"an archive of {total_bytes} bytes cannot hold just one file of {member.size} bytes", where=where
        )
    stream.seek(DATA_OFFSET_BYTES + member.size)
    if any(stream.read(tarfile.BLOCKSIZE + len(_END))):
        raise IntegrityError("something follows the file in its archive", where=where)
    return Slice(offset_bytes=DATA_OFFSET_BYTES, length_bytes=member.size)


def _padding_bytes(length_bytes: int) -> int:
    return -length_bytes % tarfile.BLOCKSIZE


def _member(head: bytes, where: str) -> tarfile.TarInfo:
    """Parse the header block; only these 4096 bytes are handed to the parser, so none of its reads can be large."""
    try:
        archive = tarfile.TarFile(fileobj=io.BytesIO(head), mode="r", format=tarfile.PAX_FORMAT)
        member = archive.next()
    except (tarfile.TarError, ValueError, EOFError, OverflowError) as error:
        raise IntegrityError(f"not a tar archive of one file: {error}", where=where) from error
    if member is None:
        raise IntegrityError("the archive is empty", where=where)
    return member


def _problem(member: tarfile.TarInfo, name: str) -> str:
    if not is_safe_name(member.name):
        return f"the archive holds a file whose name leaves its folder: {member.name!r:.120}"
    if member.name != name:
        return f"the archive holds {member.name!r} where {name!r} is expected"
    if member.type != tarfile.REGTYPE:
        return f"{name!r} is not a regular file in its archive"
    if member.mode != _MODE or member.uid or member.gid:
        return f"{name!r} has mode {member.mode:o} and owner {member.uid}:{member.gid}; expected 644 and 0:0"
    if member.offset_data != DATA_OFFSET_BYTES or not set(member.pax_headers) <= {"comment", "size"}:
        return f"{name!r} does not start at byte {DATA_OFFSET_BYTES} of its archive"
    return ""
