"""``index.json`` of an OCI image layout: the tags, changed under one lock and replaced in one step."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwc import digest as digests
from hwc import files, oci_manifest
from hwc.errors import IntegrityError, UsageError
from hwc.faults import fail_point
from hwc.oci_manifest import INDEX_TYPE, MAX_MANIFEST_BYTES, REF_NAME, Descriptor

INDEX_FILE = "index.json"
_TAG = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:@/+-]{0,254})")

Entry = Mapping[str, Any]
"""One entry as it was read: what other tools wrote into it is kept."""


@dataclass(frozen=True, slots=True)
class IndexFile:
    """The index of the layout at a folder."""

    folder: Path

    def create(self) -> None:
        """Write an empty index unless there is one."""
        with self._locked():
            if not (self.folder / INDEX_FILE).exists():
                self._write([])

    def tags(self) -> dict[str, Descriptor]:
        """Return every tag and its target; raise IntegrityError for a damaged or ambiguous index."""
        return _tags(self.entries(), self._where)

    def entries(self) -> list[Entry]:
        """Return all entries, tagged or not."""
        path = self.folder / INDEX_FILE
        try:
            with path.open("rb") as stream:
                payload = stream.read(MAX_MANIFEST_BYTES + 1)
        except FileNotFoundError as error:
            raise IntegrityError("the layout has no index.json", where=self._where) from error
        if len(payload) > MAX_MANIFEST_BYTES:
            raise IntegrityError(f"index.json is larger than {MAX_MANIFEST_BYTES} bytes", where=self._where)
        oci_manifest.parse_index(payload, where=self._where)
        return list(oci_manifest.parse_json(payload, where=self._where)["manifests"])

    def update(self, name: str, decide: Callable[[Descriptor | None], Descriptor | None]) -> bool:
        """Replace a tag's target by what ``decide`` returns, None to remove it; tell whether anything changed."""
        if not _TAG.fullmatch(name):
            raise UsageError(f"not a tag: {name!r:.90}", hint="letters, digits and . _ - : @ / +, as minilm:1.2.0")
        with self._locked():
            entries = self.entries()
            old = _tags(entries, self._where).get(name)
            new = decide(old)
            if new is not None:
                new = new.annotated({REF_NAME: name})
            if new == old:
                return False
            kept = [entry for entry in entries if _name_of(entry) != name]
            self._write(kept if new is None else [*kept, new.to_json()])
        return True

    @contextmanager
    def reading(self) -> Iterator[list[Entry]]:
        """Give all entries and keep every writer out while the block runs."""
        with self._locked():
            yield self.entries()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with files.locked(self.folder / ".lock"):
            # Only a holder of the lock writes here, so what lies about was left by one that died.
            for stale in self.folder.glob(f".{INDEX_FILE}.*.tmp"):
                stale.unlink(missing_ok=True)
            yield

    def _write(self, entries: list[Entry]) -> None:
        ordered = sorted(entries, key=lambda entry: (_name_of(entry), str(entry["digest"])))
        payload = digests.canonical_json({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": ordered})
        fail_point("layout.before-index")
        files.write_atomic(self.folder / INDEX_FILE, payload)
        fail_point("layout.after-index")

    @property
    def _where(self) -> str:
        return str(self.folder / INDEX_FILE)


def _name_of(entry: Entry) -> str:
    return str((entry.get("annotations") or {}).get(REF_NAME, ""))


def _tags(entries: list[Entry], where: str) -> dict[str, Descriptor]:
    found: dict[str, Descriptor] = {}
    for entry in entries:
        name = _name_of(entry)
        if not name:
            continue
        if not _TAG.fullmatch(name):
            raise IntegrityError(f"not a tag: {name!r:.90}", where=where)
        if name in found:
            raise IntegrityError(f"two entries carry the tag {name!r}", where=where)
        found[name] = oci_manifest.parse_descriptor(entry, where=where)
    return found
