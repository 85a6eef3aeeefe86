"""What a build hands over to be packed, and the checks that it fits together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwc import digest as digests
from hwc.bundle.entries import STATUSES, Status
from hwc.bundle.manifest import NAME, check_role
from hwc.bundle.serving import parse_serving
from hwc.errors import UsageError

SERVING_NAME = "serving.json"
_DOCUMENT_NAME = re.compile(r"[a-z][a-z0-9_-]{0,40}\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """Which model a bundle is of."""

    model_id: str
    version: str
    title: str = ""
    licences: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementParts:
    """What one machine measured of a variant by one method."""

    serving: Mapping[str, Any]
    """A ``serving.json`` document."""
    machine_sha256: str
    """Digest of the machine's fingerprint."""
    method: str
    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Further documents by file name, as ``check.json`` and ``profile.json``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantParts:
    """What was built of a model for one target with one scheme."""

    target: str
    scheme: str
    status: Status
    files: Mapping[str, Path]
    """Role, as ``weights/float.irpa``, to the file."""
    facts: Mapping[str, Any]
    """How the content was made: the same for the same build on any machine."""
    sha256: Mapping[str, str] = field(default_factory=dict)
    """Role to the digest recorded when its file was made; a file that has another one by now is refused."""
    measurements: Sequence[MeasurementParts] = ()
    architecture: str = "amd64"
    """Processor of the machines that mount the variant, as container runtimes name it."""


def check_parts(model: ModelIdentity, variants: Sequence[VariantParts]) -> None:
    """Raise UsageError or IntegrityError unless the parts make up a bundle."""
    names = [f"{parts.target}/{parts.scheme}" for parts in variants]
    for name in (model.model_id, *(part for parts in variants for part in (parts.target, parts.scheme))):
        if not NAME.fullmatch(name):
            raise UsageError(f"not a name: {name!r:.90}", hint="lower-case letters, digits and . _ -")
    if not names or len(set(names)) != len(names):
        raise UsageError(f"a bundle needs variants, each of them once; given: {', '.join(names) or 'none'}")
    for parts in variants:
        for role in parts.files:
            check_role(role)
        if parts.status not in STATUSES or not any(role.startswith("code/") for role in parts.files):
            raise UsageError(
                f"a variant needs code and a status of {' or '.join(STATUSES)}", where=f"{parts.target}/{parts.scheme}"
            )


def check_measurement(measurement: MeasurementParts, content_sha256: str, status: Status) -> None:
    """Raise UsageError or IntegrityError unless a measurement speaks about this content and claims no more than it."""
    where = f"measurement {measurement.method}"
    digests.checked(measurement.machine_sha256, where=where)
    if not NAME.fullmatch(measurement.method):
        raise UsageError(f"not a method's name: {measurement.method!r:.90}", where=where)
    for name in measurement.documents:
        if not _DOCUMENT_NAME.fullmatch(name) or name == SERVING_NAME:
            raise UsageError(f"not a document's name: {name!r:.90}", where=where, hint="as check.json")
    serving = parse_serving(dict(measurement.serving), where=where)
    if serving.identity.content_sha256 != content_sha256:
        raise UsageError(
            f"serving.json is about content {digests.short(serving.identity.content_sha256)}, "
            f"the variant is {digests.short(content_sha256)}",
            where=where,
        )
    if (serving.status == "hand-over") != (status == "hand-over"):
        raise UsageError(f"serving.json says {serving.status}, the variant is {status}", where=where)
    if serving.status == "verified" and status != "verified":
        raise UsageError("serving.json says verified, the variant is unverified", where=where)
