"""Freezing a bundle in a registry under a version: the same bytes under one more tag."""

from __future__ import annotations

from hwc.bundle.entries import parse_entries
from hwc.bundle.reference import DEFAULT_VERSION, Reference
from hwc.errors import GateError, UsageError
from hwc.registry import push
from hwc.registry.client import Client


def retag(client: Client, source: Reference, version: str) -> str:
    """Tag a bundle as ``version`` and return its digest.

    Raises GateError while a variant is unverified, UsageError for a version that is mutable or has other content.
    """
    if version == DEFAULT_VERSION:
        raise UsageError(f"`{version}` is the tag that builds move; a version is frozen", hint="choose one like 1.0.0")
    found = client.manifest(source.digest or source.tag or DEFAULT_VERSION)
    table = parse_entries(found.payload, found.descriptor)
    if unverified := [entry.name for entry in table.entries.values() if entry.status != "verified"]:
        raise GateError(
            f"not verified, and cannot be promoted: {', '.join(unverified)}", where=str(source),
            hint="run `hwc check` and `hwc profile` on a machine that has the device, and push again",
        )
    name = f"{client.place}:{version}"
    old = push.refuse_taken(client, name, version, table)
    push.put_tag(client, name, version, found.payload, old)
    return found.descriptor.digest
