"""The cache of stage outputs: content-addressed, atomic, locked, self-repairing; may be deleted at any time."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwc import digest
from hwc.errors import IntegrityError
from hwc.faults import fail_point
from hwc.files import explain_os_error, locked, remove_tree, sync_folder, try_lock, write_atomic

RECORD = "artifact.json"
SCRATCH_LOCK = "scratch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One stage's output: immutable once it is visible."""

    kind: str
    key: str
    digest: str
    """Digest of its sorted (file name, size, sha256) list."""
    path: Path
    sha256: Mapping[str, str]
    """File name to digest, as recorded when it was made."""


class Store:
    """Stage outputs under ``HWC_HOME``, by key."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def _place(self, kind: str, key: str) -> Path:
        return self.home / "store" / kind / key.removeprefix("sha256:")

    def lookup(self, kind: str, key: str) -> Artifact | None:
        """Return a whole output, or None if there is none or a file of it is missing or of another size.

        Only reads: without the lock that ``produce`` holds, what looks damaged may just be appearing.
        """
        place = self._place(kind, key)
        try:
            record = json.loads((place / RECORD).read_text())
            found = _artifact(kind, key, record, place)
            whole = all((place / row["name"]).stat().st_size == row["bytes"] for row in record["files"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if whole else None

    def _discard(self, place: Path) -> None:
        try:
            remove_tree(place)
        except OSError as error:
            raise explain_os_error(error, "cannot remove a damaged stage output") from error

    def forget(self, kind: str, key: str) -> None:
        """Remove one output, so that it is made again from the beginning."""
        self._discard(self._place(kind, key))
        self._discard(self.work_path(kind, key))

    def produce(
        self, kind: str, key: str, make: Callable[[Path], None], *, waiting: Callable[[], None] | None = None
    ) -> tuple[Artifact, bool]:
        """Return the output of a key, made by ``make(folder)`` if it is not whole there; and whether it was made now.

        Two builds that want the same output do the work once: the second waits on a lock. ``make`` writes into an
        empty folder of its own, which becomes visible in one rename after it returned; a failure leaves its folder
        under ``failed/`` for its logs and nothing else.
        """
        lock = self.home / "locks" / f"{kind}-{key.removeprefix('sha256:')}"
        try:
            with locked(lock, waiting=waiting):
                found = self.lookup(kind, key)
                if found is not None:
                    return found, False
                return self._make(kind, key, make), True
        except OSError as error:
            raise explain_os_error(error, f"cannot write the output of {kind}") from error

    def _make(self, kind: str, key: str, make: Callable[[Path], None]) -> Artifact:
        place = self._place(kind, key)
        with self.scratch(kind) as folder:
            try:
                make(folder)
            except BaseException:
                self._keep_failed(kind, key, folder)
                raise
            record = _record(folder)
            write_atomic(folder / RECORD, json.dumps(record, indent=1).encode())
            _sync_tree(folder)
            fail_point("store.before-rename")
            place.parent.mkdir(parents=True, exist_ok=True)
            remove_tree(place)
            os.replace(folder, place)
            sync_folder(place.parent)
            fail_point("store.after-rename")
        self._discard(self.work_path(kind, key))
        return _artifact(kind, key, record, place)

    def note(self, label: str, text: str) -> None:
        """Keep a short text under a label, for ``recall``."""
        write_atomic(self.home / "notes" / f"{digest.short(digest.of_bytes(label.encode()))}.json", text.encode())

    def recall(self, label: str) -> str | None:
        """Return the text last noted under a label, or None."""
        try:
            return (self.home / "notes" / f"{digest.short(digest.of_bytes(label.encode()))}.json").read_text()
        except OSError:
            return None

    def scratch(self, purpose: str) -> Scratch:
        """Return a context manager that yields an empty folder, removed at its end."""
        return Scratch(self.home, purpose)

    def work_path(self, kind: str, key: str) -> Path:
        """Return where a step may keep what it has done so far, until its output is there; its lock guards it."""
        return self.home / "work" / f"{kind}-{key.removeprefix('sha256:')}"

    def failed_path(self, kind: str, key: str) -> Path:
        """Return where a failed step's folder is kept."""
        return self.home / "failed" / f"{kind}-{digest.short(key)}"

    def _keep_failed(self, kind: str, key: str, folder: Path) -> None:
        kept = self.failed_path(kind, key)
        remove_tree(kept)
        kept.parent.mkdir(parents=True, exist_ok=True)
        for file in folder.rglob("*"):  # logs and modules explain a failure; weights do not
            if file.is_file() and file.stat().st_size > (8 << 20):
                file.unlink()
        os.replace(folder, kept)

    def entries(self) -> Iterator[tuple[str, Path, int, float]]:
        """Yield (kind, folder, bytes, last use as seconds since the epoch) of every output."""
        for record in sorted(self.home.glob(f"store/*/*/{RECORD}")):
            size = sum(file.stat().st_size for file in record.parent.rglob("*") if file.is_file())
            yield record.parent.parent.name, record.parent, size, record.stat().st_atime

    def verify(self) -> list[Path]:
        """Hash every output and remove those that are not what they were; return what was removed."""
        removed = []
        for record in sorted(self.home.glob(f"store/*/*/{RECORD}")):
            folder = record.parent
            try:
                stored = json.loads(record.read_text())
                whole = stored["digest"] == _record(folder)["digest"]
            except (OSError, ValueError, KeyError):
                whole = False
            if not whole:
                remove_tree(folder)
                removed.append(folder)
        return removed

    def collect(self, *, older_than_s: float) -> int:
        """Remove outputs and unfinished work not used for a time, and what dead ones left; return the bytes freed."""
        freed = self.repair()
        limit = time.time() - older_than_s
        for _, folder, size, used in list(self.entries()):
            if used < limit:
                remove_tree(folder)
                freed += size
        for work in self.home.glob("work/*"):
            freed += self._collect_work(work, limit)
        return freed

    def _collect_work(self, work: Path, limit: float) -> int:
        """Remove what an unfinished step has kept, unless it is running or was touched after a time."""
        handle = try_lock(self.home / "locks" / work.name)
        if handle is None:
            return 0
        try:
            files = [file.stat() for file in work.rglob("*") if file.is_file()]
            if max((file.st_mtime for file in files), default=0.0) >= limit:
                return 0
            remove_tree(work)
            return sum(file.st_size for file in files)
        finally:
            os.close(handle)

    def repair(self) -> int:
        """Remove scratch folders whose process is gone; return the bytes freed."""
        freed = 0
        with locked(self.home / "locks" / SCRATCH_LOCK):
            found = (self.home / "tmp").glob("*")
            places = {path.with_suffix("") if path.suffix == ".lock" else path for path in found}
            for folder in sorted(places):
                lock = folder.with_name(folder.name + ".lock")
                handle = try_lock(lock)
                if handle is None:
                    continue
                freed += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
                remove_tree(folder)
                lock.unlink(missing_ok=True)
                os.close(handle)
        return freed


class Scratch:
    """An empty folder with a lock beside it that tells whether its process lives."""

    def __init__(self, home: Path, purpose: str) -> None:
        self._home = home
        self._purpose = purpose
        self._handle: int | None = None
        self._folder: Path | None = None

    def __enter__(self) -> Path:
        parent = self._home / "tmp"
        parent.mkdir(parents=True, exist_ok=True)
        with locked(self._home / "locks" / SCRATCH_LOCK):  # a repair must not see the folder before its lock
            self._folder = Path(tempfile.mkdtemp(dir=parent, prefix=f"{self._purpose}."))
            self._handle = try_lock(self._folder.with_name(self._folder.name + ".lock"))
        return self._folder

    def __exit__(self, *_: object) -> None:
        assert self._folder is not None
        if self._folder.is_dir():
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.with_name(self._folder.name + ".lock").unlink(missing_ok=True)
        if self._handle is not None:
            os.close(self._handle)


def _artifact(kind: str, key: str, record: Mapping[str, Any], place: Path) -> Artifact:
    digests = {row["name"]: row["sha256"] for row in record["files"]}
    return Artifact(kind=kind, key=key, digest=record["digest"], path=place, sha256=digests)


def _record(folder: Path) -> dict[str, Any]:
    files = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise IntegrityError("a stage wrote a link, which a store does not keep", where=str(path))
        if path.is_file() and path.name != RECORD:
            name = path.relative_to(folder).as_posix()
            files.append({"name": name, "bytes": path.stat().st_size, "sha256": digest.of_file(path)})
    return {"digest": digest.of_json(files), "files": files}


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
