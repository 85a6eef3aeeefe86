"""Push: blobs, then what points at them, then the tag; every step looks first, so an interrupted push goes on."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from hwc import digest as digests
from hwc import oci_manifest
from hwc.bundle.entries import Table, parse_entries
from hwc.bundle.open import open_bundle
from hwc.bundle.reference import Reference
from hwc.digest import CHUNK_BYTES, StreamHash
from hwc.errors import IntegrityError, RegistryError, UsageError
from hwc.events import Event, Listener, silent
from hwc.oci_layout import Layout
from hwc.oci_manifest import MANIFEST_TYPE, Descriptor, Manifest
from hwc.registry import contents, parallel, referrers, tags
from hwc.registry.client import Client
from hwc.registry.failures import Passing
from hwc.registry.parallel import Stop

TOLD_BYTES = 1 << 20
"""Blobs smaller than this are not told one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """What a push came to."""

    reference: str
    digest: str
    changed: bool
    """Whether the tag moved."""
    sent_blobs: int
    sent_bytes: int
    mounted_blobs: int
    present_blobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How a push is done."""

    mount_from: str = ""
    """Another repository of the registry, that may hold the same blobs."""
    workers: int = 4


def push(layout: Layout, source: Reference, client: Client, tag: str, how: How, tell: Listener) -> Pushed:
    """Push a whole bundle under a tag.

    Raises UsageError for a version that exists with other content, IntegrityError for a damaged blob, RegistryError
    if the registry fails; the tag then is what it was.
    """
    if source.target:
        raise UsageError("a bundle is pushed whole", where=str(source), hint="leave out what stands after #")
    with layout.held():
        bundle = open_bundle(layout, source)
        root = layout.tags()[source.tag] if not source.digest else _by_digest(layout, bundle.digest)
        whole = contents.below([root], layout.read_bytes)
        payload = layout.read_bytes(root)
        name = f"{client.place}:{tag}"
        old = refuse_taken(client, name, tag, parse_entries(payload, root))
        fates = _send_blobs(layout, client, whole.blobs, how, tell)
        _send_manifests(layout, client, [row for row in whole.manifests if row.digest != root.digest])
        changed = put_tag(client, name, tag, payload, old)
    sent = [blob for blob in whole.blobs if fates[blob.digest] == "sent"]
    return Pushed(
        reference=name,
        digest=root.digest,
        changed=changed,
        sent_blobs=len(sent),
        sent_bytes=sum(blob.size_bytes for blob in sent),
        mounted_blobs=list(fates.values()).count("mounted"),
        present_blobs=list(fates.values()).count("there"),
    )


def refuse_taken(client: Client, name: str, tag: str, table: Table) -> str:
    """Return the digest that a tag has; raise UsageError if it may not be moved to this bundle."""
    found = client.find_manifest(tag)
    if found is None:
        return ""
    if found.descriptor.digest != table.descriptor.digest:
        tags.refuse_change(name, old=found.descriptor.digest, new=table.descriptor.digest)
        other = parse_entries(found.payload, found.descriptor)
        if other.model_id != table.model_id:
            raise UsageError(
                f"the tag is taken by the model {other.model_id}", where=name, hint="push to another repository"
            )
    return found.descriptor.digest


def put_tag(client: Client, name: str, tag: str, payload: bytes, old: str) -> bool:
    """Point a tag at a bundle's index, and look whether it stayed; tell whether it moved.

    A registry takes the last of two writers. What was not there when this push began is looked for once more, and
    raises UsageError for a version that another writer has set meanwhile.
    """
    digest = digests.of_bytes(payload)
    now = client.digest_of(tag)
    if now == digest:
        return False
    if now != old:
        tags.refuse_change(name, old=now, new=digest)
    client.put_manifest(tag, payload, oci_manifest.INDEX_TYPE)
    if (now := client.digest_of(tag)) != digest:
        raise RegistryError(
            f"another writer moved the tag at the same time: it is {now or 'gone'}", where=name,
            hint="agree on who pushes this version, and push again",
        )
    return True


def _by_digest(layout: Layout, digest: str) -> Descriptor:
    size_bytes = layout.blob_path(digest).stat().st_size
    return Descriptor(media_type=oci_manifest.INDEX_TYPE, digest=digest, size_bytes=size_bytes)


def _send_blobs(
    layout: Layout, client: Client, blobs: tuple[Descriptor, ...], how: How, tell: Listener
) -> dict[str, str]:
    """Send several blobs at a time, the largest first; return what became of each."""
    fates: dict[str, str] = {}

    def job(blob: Descriptor) -> parallel.Job:
        def send(stop: Stop) -> None:
            step = f"push {digests.short(blob.digest)}"
            told = tell if blob.size_bytes >= TOLD_BYTES else silent
            told(Event(kind="start", step=step))
            fates[blob.digest] = _send(layout, client, blob, how, stop)
            text = f"{blob.size_bytes / 2**20:.1f} MiB {fates[blob.digest]}"
            told(Event(kind="done" if fates[blob.digest] == "sent" else "hit", step=step, text=text))

        return send

    largest_first = sorted(blobs, key=lambda blob: -blob.size_bytes)
    parallel.run([job(blob) for blob in largest_first], workers=how.workers)
    return fates


def _send(layout: Layout, client: Client, blob: Descriptor, how: How, stop: Stop) -> str:
    for tried in itertools.count(1):
        parallel.check(stop)
        if client.has_blob(blob):
            return "there"
        try:
            location = client.start_upload(blob, how.mount_from)
            if not location:
                return "mounted"
            client.finish_upload(location, blob, lambda: _verified(layout, blob, stop))
            return "sent"
        except Passing as failure:
            wait_s = client.patience.wait_s(tried, failure)
            if wait_s is None:
                raise
            stop.wait(wait_s)
    raise AssertionError


def _verified(layout: Layout, blob: Descriptor, stop: Stop) -> Iterator[bytes]:
    """Yield a blob's bytes; the last of them only if all are right, so that no registry takes a damaged blob."""
    hasher = StreamHash()
    with layout.open_blob(blob) as stream, contextlib.closing(hasher):
        held = stream.read(CHUNK_BYTES)
        while held:
            parallel.check(stop)
            hasher.update(held)
            following = stream.read(CHUNK_BYTES)
            if not following and "sha256:" + hasher.hexdigest() != blob.digest:
                raise IntegrityError(
                    "a blob does not match its digest and was not pushed", where=str(layout.blob_path(blob.digest)),
                    hint="pull or build it again",
                )
            yield held
            held = following


def _send_manifests(layout: Layout, client: Client, manifests: list[Descriptor]) -> None:
    """Put each manifest under a tag of its own, so that no garbage collection takes it, and tell its subject."""
    for row in manifests:
        payload = layout.read_bytes(row)
        tag = tags.keep_tag(row.digest)
        kept = client.digest_of(tag) == row.digest
        listed = False if kept else client.put_manifest(tag, payload, row.media_type)
        if row.media_type == MANIFEST_TYPE and not listed:
            _refer(client, row, oci_manifest.parse_manifest(payload, where=row.digest))


def _refer(client: Client, row: Descriptor, manifest: Manifest) -> None:
    """List a manifest at its subject, if it has one, unless the registry does so itself."""
    subject = manifest.subject
    if subject is not None and client.referrers(subject.digest) is None:
        referrers.attach(client, subject.digest, [row.bare().annotated(manifest.annotations)])
