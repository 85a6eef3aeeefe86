"""What refers to a manifest, as its measurements do, in registries that keep no list themselves: the fallback tag.

Source: OCI distribution specification 1.1, "Referrers Tag Schema". Registries know no compare-and-swap, so writers may
lose each other's entries: each reads again what it wrote and repeats until its own entry stays.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import replace

from hwc import oci_manifest
from hwc.errors import RegistryError
from hwc.oci_manifest import INDEX_TYPE, MANIFEST_TYPE, Descriptor, Index
from hwc.registry.client import Client

TRIES = 12
_SETTLE_S = 0.05


def fallback_tag(subject_digest: str) -> str:
    """Return the tag of a digest's referrers."""
    return subject_digest.replace(":", "-")


def read(client: Client, subject_digest: str) -> tuple[Descriptor, ...]:
    """Return what refers to a digest, told by the registry or by the fallback tag, with its true artifact type.

    Some tools write no artifact type into the fallback index; the manifest itself is asked then.
    """
    found = client.referrers(subject_digest) or client.find_manifest(fallback_tag(subject_digest))
    if found is None:
        return ()
    rows = oci_manifest.parse_index(found.payload, where=subject_digest).manifests
    return tuple(row if row.artifact_type else _typed(client, row) for row in rows)


def attach(client: Client, subject_digest: str, added: Sequence[Descriptor]) -> None:
    """Add entries to the fallback tag; raise RegistryError if other writers remove them again and again."""
    tag = fallback_tag(subject_digest)
    for tried in itertools.count(1):
        found = client.find_manifest(tag)
        rows = () if found is None else oci_manifest.parse_index(found.payload, where=tag).manifests
        there = {row.digest for row in rows}
        missing = [row for row in added if row.digest not in there]
        if not missing:
            return
        if tried > TRIES:
            break
        client.put_manifest(tag, Index(manifests=(*rows, *missing)).to_bytes(), INDEX_TYPE)
        time.sleep(_SETTLE_S * random.uniform(1, tried))  # noqa: S311
    raise RegistryError(
        "others write the list of referrers at the same time, and this entry is lost", where=tag,
        hint="run the same command again",
    )


def _typed(client: Client, row: Descriptor) -> Descriptor:
    if row.media_type != MANIFEST_TYPE:
        return row
    payload = client.manifest(row.digest).payload
    manifest = oci_manifest.parse_manifest(payload, where=row.digest)
    return replace(row, artifact_type=manifest.artifact_type or manifest.config.media_type)
