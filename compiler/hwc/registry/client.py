"""The distribution API of one repository: manifests by their raw bytes, blobs as streams, tags and referrers.

Source: OCI distribution specification 1.1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import TracebackType

from hwc import digest as digests
from hwc import oci_manifest
from hwc.bundle.reference import Reference
from hwc.errors import IntegrityError, RegistryError
from hwc.oci_manifest import INDEX_TYPE, MANIFEST_TYPE, MAX_MANIFEST_BYTES, Descriptor
from hwc.registry import credentials, wire
from hwc.registry.patience import Patience
from hwc.registry.wire import Answer, Ask, Wire

_HOSTS = {"docker.io": "registry-1.docker.io"}
_ACCEPT = {"accept": f"{INDEX_TYPE}, {MANIFEST_TYPE}"}
_MAX_TAG_PAGES = 100
_NEXT = re.compile(r"<([^<>]+)>\s*;\s*rel=\"?next\"?")
_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A manifest or an index, in the bytes it was pushed in."""

    payload: bytes
    descriptor: Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobStream:
    """A blob's bytes from some offset on."""

    start: int
    chunks: Iterator[bytes]


class Client:
    """One repository of one registry; a context manager. Thread-safe."""

    def __init__(
        self, place: Reference, *, plain_http: bool, env: Mapping[str, str], patience: Patience | None = None
    ) -> None:
        self.place = replace(place, tag="", digest="", target="", scheme="")
        self._base = f"/v2/{place.repository}"
        self._pull = (f"repository:{place.repository}:pull",)
        self._push = (f"repository:{place.repository}:pull,push",)
        known = credentials.find(place.registry, env)
        host = _HOSTS.get(place.registry, place.registry)
        self._wire = Wire(host, plain_http=plain_http, credentials=known, patience=patience)
        self.patience = self._wire.patience

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wire.close()

    def find_manifest(self, point: str) -> Document | None:
        """Return what a tag or a digest names, verified against the digests told; None if it is not there."""
        ask = Ask(
            method="GET", url=f"{self._base}/manifests/{point}", headers=_ACCEPT, scopes=self._pull,
            expected=frozenset({200, 404}),
        )
        answer = self._wire.read(ask, MAX_MANIFEST_BYTES)
        return None if answer.status == 404 else _document(answer, point)

    def manifest(self, point: str) -> Document:
        """Return what a tag or a digest names; raise RegistryError that tells the tags if it is not there."""
        found = self.find_manifest(point)
        if found is None:
            raise self.absent(point)
        return found

    def absent(self, point: str) -> RegistryError:
        """Return the error that something is not in the repository."""
        try:
            there = ", ".join(self.tags()[:12]) or "no tags"
        except RegistryError:
            return RegistryError(
                f"no such repository, or no {point} in it", where=str(self.place),
                hint="check host and repository, and whether your account may read it",
            )
        return RegistryError(f"the repository holds no {point}", where=str(self.place), hint=f"there is: {there}")

    def digest_of(self, point: str) -> str:
        """Return the digest that a tag points at, empty if there is no such tag."""
        ask = Ask(
            method="HEAD", url=f"{self._base}/manifests/{point}", headers=_ACCEPT, scopes=self._pull,
            expected=frozenset({200, 404}),
        )
        answer = self._wire.read(ask, 0)
        if answer.status == 404:
            return ""
        told = answer.headers.get("docker-content-digest", "")
        if told:
            return digests.checked(told, where=answer.where)
        found = self.find_manifest(point)
        return found.descriptor.digest if found is not None else ""

    def put_manifest(self, point: str, payload: bytes, media_type: str) -> bool:
        """Store a manifest under a tag; tell whether the registry keeps its subject's referrers itself."""
        ask = Ask(
            method="PUT", url=f"{self._base}/manifests/{point}", headers={"content-type": media_type},
            body=lambda: [payload], body_bytes=len(payload), scopes=self._push, expected=frozenset({201}),
        )
        answer = self._wire.read(ask, MAX_MANIFEST_BYTES)
        _check_told(answer, digests.of_bytes(payload))
        return "oci-subject" in answer.headers

    def has_blob(self, blob: Descriptor) -> bool:
        """Tell whether a blob is there, in its right size."""
        ask = Ask(
            method="HEAD", url=f"{self._base}/blobs/{blob.digest}", scopes=self._push, expected=frozenset({200, 404})
        )
        answer = self._wire.read(ask, 0)
        return answer.status == 200 and answer.headers.get("content-length", "") in ("", str(blob.size_bytes))

    @contextmanager
    def blob(self, blob: Descriptor, offset: int) -> Iterator[BlobStream]:
        """Give a blob's bytes from ``offset`` on, or from the start where the registry knows no ranges.

        Nothing is verified but lengths: an answer of another length than the blob's raises IntegrityError.
        """
        ask = Ask(
            method="GET", url=f"{self._base}/blobs/{digests.checked(blob.digest, where=str(self.place))}",
            headers={"range": f"bytes={offset}-"} if offset else {}, scopes=self._pull,
            expected=frozenset({200, 206, 416}) if offset else frozenset({200}),
        )
        with self._wire.stream(ask) as response:
            wire.refuse_encoded(response)
            if response.status_code == 416:
                raise IntegrityError(f"the registry has less than {offset} bytes of the blob", where=blob.digest)
            start = offset if response.status_code == 206 else 0
            _check_lengths(response.headers, blob, start, ranged=response.status_code == 206)
            yield BlobStream(start=start, chunks=response.iter_raw())

    def start_upload(self, blob: Descriptor, mount_from: str = "") -> str:
        """Return the address that takes a blob's bytes; empty if it was mounted from another repository instead."""
        mount = f"?mount={blob.digest}&from={mount_from}" if mount_from else ""
        source = (f"repository:{mount_from}:pull",) if mount_from else ()
        ask = Ask(
            method="POST", url=f"{self._base}/blobs/uploads/{mount}", scopes=self._push + source, body=list,
            expected=frozenset({201, 202}),
        )
        answer = self._wire.read(ask, MAX_MANIFEST_BYTES)
        location = answer.headers.get("location", "")
        if answer.status == 202 and not location:
            raise RegistryError("the registry tells no address to upload to", where=answer.where)
        return "" if answer.status == 201 else location

    def finish_upload(self, location: str, blob: Descriptor, chunks: Callable[[], Iterable[bytes]]) -> None:
        """Send a blob's bytes in one request."""
        ask = Ask(
            method="PUT", url=f"{location}{'&' if '?' in location else '?'}digest={blob.digest}", body=chunks,
            body_bytes=blob.size_bytes, headers={"content-type": "application/octet-stream"}, scopes=self._push,
            expected=frozenset({201}), repeatable=False,
        )
        _check_told(self._wire.read(ask, MAX_MANIFEST_BYTES), blob.digest)

    def tags(self) -> list[str]:
        """Return every tag of the repository."""
        url, found = f"{self._base}/tags/list?n=1000", list[str]()
        for _ in range(_MAX_TAG_PAGES):
            answer = self._wire.read(Ask(method="GET", url=url, scopes=self._pull), MAX_MANIFEST_BYTES)
            table = oci_manifest.parse_json(answer.payload, where=answer.where)
            names = (table.get("tags") if isinstance(table, dict) else None) or []
            found += [name for name in names if isinstance(name, str)]
            onward = _NEXT.search(answer.headers.get("link", ""))
            if onward is None:
                break
            url = onward[1]
        return sorted(set(found))

    def referrers(self, digest: str) -> Document | None:
        """Return the registry's own index of what refers to a digest; None if the registry keeps none."""
        ask = Ask(
            method="GET", url=f"{self._base}/referrers/{digest}", headers=_ACCEPT, scopes=self._pull,
            expected=frozenset({200, 404}),
        )
        answer = self._wire.read(ask, MAX_MANIFEST_BYTES)
        return None if answer.status == 404 else _document(replace(answer, headers={}), "referrers")


def _document(answer: Answer, point: str) -> Document:
    found = digests.of_bytes(answer.payload)
    if point.startswith("sha256:") and found != point:
        raise IntegrityError(
            "the registry sends a manifest that does not match its digest",
            where=answer.where, hint=f"its bytes hash to {found}",
        )
    _check_told(answer, found)
    try:
        table = json.loads(answer.payload)
        media_type = table.get("mediaType") or (INDEX_TYPE if "manifests" in table else MANIFEST_TYPE)
    except (ValueError, AttributeError, RecursionError) as error:
        raise IntegrityError("the registry sends no manifest", where=answer.where) from error
    descriptor = Descriptor(media_type=str(media_type)[:255], digest=found, size_bytes=len(answer.payload))
    return Document(payload=answer.payload, descriptor=descriptor)


def _check_told(answer: Answer, digest: str) -> None:
    told = answer.headers.get("docker-content-digest", digest)
    if told != digest:
        raise IntegrityError(f"the registry speaks of {told[:90]!r}, the bytes are {digest}", where=answer.where)


def _check_lengths(headers: Mapping[str, str], blob: Descriptor, start: int, *, ranged: bool) -> None:
    told = _RANGE.fullmatch(headers.get("content-range", "")) if ranged else None
    length = headers.get("content-length", "")
    wrong = length.isdecimal() and int(length) != blob.size_bytes - start
    if wrong or (ranged and (told is None or (int(told[1]), int(told[2])) != (start, blob.size_bytes))):
        raise IntegrityError(
            f"the registry sends {length or 'an unknown number of'} bytes of {blob.digest} from byte {start} on, "
            f"which has {blob.size_bytes}",
            where=blob.digest,
        )
