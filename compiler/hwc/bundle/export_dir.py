"""Export to a plain folder: ``TARGET/SCHEME/`` with the files, ``facts.json`` and ``serving.json``."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hwc import digest as digests
from hwc import files
from hwc.bundle.manifest import FACTS_ROLE
from hwc.bundle.open import SERVING_NAME, Blob, Measurement, Variant
from hwc.digest import CHUNK_BYTES
from hwc.errors import IntegrityError, UsageError


def export(variants: Sequence[Variant], destination: Path) -> Path:
    """Write variants into a folder that appears whole, or not at all; every byte is verified as it is copied.

    Of several measurements the newest verified one becomes ``serving.json``; all lie in ``measurements/``.
    Raises UsageError for a destination that exists and is not an empty folder, IntegrityError for altered blobs.
    """
    with appearing(destination) as folder:
        for variant in variants:
            _write_variant(variant, folder / variant.target / variant.scheme)
    return destination


@contextmanager
def appearing(destination: Path, *, replaced: str = "") -> Iterator[Path]:
    """Give a folder to write into that becomes the destination if nothing is raised, and vanishes otherwise.

    A folder that holds a file called ``replaced`` is an earlier export, and makes way. Raises UsageError for any other
    destination that exists and is not an empty folder, MachineError if the disk refuses.
    """
    _refuse_taken(destination, replaced)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(destination) as folder:
            yield folder
            folder.chmod(0o755)
            _refuse_taken(destination, replaced)
            with _out_of_the_way(destination):
                folder.rename(destination)
        files.sync_folder(destination.parent)
    except OSError as error:
        raise files.explain_os_error(error, "cannot export") from error


def _refuse_taken(destination: Path, replaced: str) -> None:
    taken = destination.is_symlink() or destination.exists()
    if not taken or (not destination.is_symlink() and destination.is_dir() and _may_go(destination, replaced)):
        return
    raise UsageError(
        f"the destination exists and is not an empty folder{' or an earlier export' if replaced else ''}",
        where=str(destination),
    )


def _may_go(destination: Path, replaced: str) -> bool:
    return not any(destination.iterdir()) or (bool(replaced) and (destination / replaced).is_file())


@contextmanager
def _out_of_the_way(destination: Path) -> Iterator[None]:
    """Keep what lies at the destination aside until the block is done; put it back if the block fails."""
    if not destination.is_dir() or not any(destination.iterdir()):
        yield
        return
    with _temporary(destination) as aside:
        before = aside / "before"
        destination.rename(before)
        try:
            yield
        except OSError:
            before.rename(destination)
            raise


@contextmanager
def _temporary(destination: Path) -> Iterator[Path]:
    """Make a folder beside the destination, after removing those that dead exports left there."""
    prefix = f".{destination.name}.export-"
    with _folder_locked(destination.parent, fcntl.LOCK_EX):
        for stale in destination.parent.glob(prefix + "*"):
            _remove_if_dead(stale)
        folder = Path(tempfile.mkdtemp(dir=destination.parent, prefix=prefix))
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        files.remove_tree(folder)
        os.close(handle)


def _remove_if_dead(folder: Path) -> None:
    try:
        with _folder_locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            files.remove_tree(folder)
    except (BlockingIOError, FileNotFoundError):
        return  # another export is at work in it, or has just finished


@contextmanager
def _folder_locked(folder: Path, operation: int) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, operation)
        yield
    finally:
        os.close(handle)


def _write_variant(variant: Variant, folder: Path) -> None:
    folder.mkdir(parents=True)
    for role, blob in variant.files.items():
        copy_file(blob, files.confined(folder, role))
    _write_json(folder / FACTS_ROLE, variant.facts)
    chosen = chosen_measurement(variant)
    if chosen is not None:
        _write_json(folder / SERVING_NAME, chosen.serving)
    for measurement in variant.measurements:
        place = folder / "measurements" / f"{digests.short(measurement.machine_sha256)}-{measurement.method}"
        for name, document in measurement.documents.items():
            _write_json(files.confined(place, name), document)


def chosen_measurement(variant: Variant) -> Measurement | None:
    """Return the measurement to serve by: a verified one first, of as many threads as it runs on, then the newest."""
    own_threads = variant.facts.get("device", {}).get("threads", 1)

    def rank(measurement: Measurement) -> tuple[bool, bool, str, str]:
        serving = measurement.parsed_serving()
        threads = serving.profile.conditions.threads
        return (
            serving.status == "verified", threads in (None, own_threads), serving.identity.created_utc,
            measurement.digest,
        )

    return max(variant.measurements, key=rank, default=None)


def copy_file(blob: Blob, path: Path) -> None:
    """Copy a file of a bundle to a path that must be free; raise IntegrityError if its bytes were altered."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hasher, left_bytes = hashlib.sha256(), blob.length
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    with blob.path.open("rb") as source, os.fdopen(handle, "wb") as target:
        source.seek(blob.offset)
        while left_bytes and (chunk := source.read(min(CHUNK_BYTES, left_bytes))):
            hasher.update(chunk)
            target.write(chunk)
            left_bytes -= len(chunk)
        target.flush()
        os.fsync(target.fileno())
    if "sha256:" + hasher.hexdigest() != blob.sha256:
        raise IntegrityError("a file of the bundle does not match its digest", where=str(blob.path))


def _write_json(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
