"""``serving.json``, schema 1.0.0: one variant's latency, memory, quality and cost, and how far to trust each.

The measured grid is the truth, a fit is a convenience with an error bound, and nothing simulated is shown as measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

from pydantic import ValidationError, model_validator

from hwc.bundle.serving_profile import Fit, Method, Profile
from hwc.bundle.serving_records import (
    Capacity,
    Cost,
    Definitions,
    Equivalence,
    Fanout,
    Identity,
    Model,
    Provenance,
    Qos,
    Quality,
    Resources,
    Target,
    Tiers,
)
from hwc.errors import IntegrityError
from hwc.oci_manifest import MAX_MANIFEST_BYTES, parse_json
from hwc.spec.strict import Record

SCHEMA_VERSION = "1.0.0"
_RANK: dict[str, int] = {method: rank for rank, method in enumerate(get_args(Method))}


class Serving(Record):
    """All that a serving plane may know about a variant before it runs it."""

    status: Literal["verified", "unverified", "hand-over"]
    """``unverified``: the variant never ran on the device it is for, and tells no latency; ``hand-over``: it is sources
    for the vendor's compiler."""
    identity: Identity
    target: Target
    model: Model
    resources: Resources
    fanout: Fanout | None = None
    """Absent where one device does everything."""
    definitions: Definitions
    profile: Profile = Profile()
    fit: tuple[Fit, ...] = ()
    cost: Cost | None = None
    qos: tuple[Qos, ...] = ()
    quality: tuple[Quality, ...] = ()
    capacity: Capacity | None = None
    equivalence: Equivalence = Equivalence()
    provenance: Provenance

    @model_validator(mode="after")
    def _unverified_tells_no_latency(self) -> Serving:
        if self.status == "verified":
            return self
        told = {
            "profile": self.profile.methods(),
            "fit": self.fit,
            "qos": self.qos,
            "capacity": self.capacity is not None,
            "cost.usd_per_million_items": self.cost is not None and self.cost.usd_per_million_items,
            "cost.usd_per_million_tokens": self.cost is not None and self.cost.usd_per_million_tokens,
        }
        if named := [name for name, content in told.items() if content]:
            raise ValueError(f"status {self.status}, yet latency is told in: {', '.join(named)}")
        return self

    @model_validator(mode="after")
    def _tiers_are_the_worst_methods(self) -> Serving:
        if self.provenance.tier != (due := tiers_of(self)):
            raise ValueError(
                f"provenance.tier says {self.provenance.tier.model_dump(exclude_none=True)}, "
                f"the groups' worst methods are {due.model_dump(exclude_none=True)}"
            )
        return self


def worst(methods: Iterable[Method]) -> Method | None:
    """Return the least trustworthy of some methods, or None of none."""
    return max(methods, key=_RANK.__getitem__, default=None)


def tiers(
    *, profile: Profile, fit: Iterable[Fit], resources: Resources, quality: Iterable[Quality], cost: Cost | None
) -> Tiers:
    """Return each group's tier: the worst method in it."""
    return Tiers(
        latency=worst([*profile.methods(), *(entry.method for entry in fit)]),
        memory=worst([resources.method, *(cell.method for cell in resources.peak)]),
        quality=worst(entry.method for entry in quality),
        cost=None if cost is None else cost.method,
    )


def tiers_of(serving: Serving) -> Tiers:
    """Return the tiers that a document ought to tell."""
    return tiers(
        profile=serving.profile,
        fit=serving.fit,
        resources=serving.resources,
        quality=serving.quality,
        cost=serving.cost,
    )


def parse_serving(document: bytes | dict[str, Any], *, where: str = "serving.json") -> Serving:
    """Parse and check a ``serving.json``; raise IntegrityError for a newer schema or a broken rule."""
    if isinstance(document, bytes):
        if len(document) > MAX_MANIFEST_BYTES:
            raise IntegrityError(f"serving.json is larger than {MAX_MANIFEST_BYTES} bytes", where=where)
        document = parse_json(document, where=where)
    version = _version(document, where)
    hint = f"it follows schema {version}, this hwc {SCHEMA_VERSION}: install a newer hwc"
    newer = _numbers(version) > _numbers(SCHEMA_VERSION)
    if _numbers(version)[0] != _numbers(SCHEMA_VERSION)[0]:
        raise IntegrityError(f"serving.json has schema version {version}", where=where, hint=hint if newer else "")
    try:
        return Serving.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        raise IntegrityError(
            f"serving.json: `{key}`: {message}" if key else f"serving.json: {message}",
            where=where,
            hint=hint if newer else "`hwc schema serving` prints the schema",
        ) from error


def to_document(serving: Serving) -> dict[str, Any]:
    """Return the JSON document; absent figures are left out."""
    return serving.model_dump(mode="json", by_alias=True, exclude_none=True)


def serving_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of ``serving.json``."""
    schema = Serving.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:hwc:serving:{SCHEMA_VERSION}",
        **schema,
        "title": f"hwc serving metadata {SCHEMA_VERSION}",
    }


def _version(document: object, where: str) -> str:
    identity = document.get("identity") if isinstance(document, dict) else None
    version = identity.get("schema_version") if isinstance(identity, dict) else None
    if not isinstance(version, str) or len(version) > 30 or not all(part.isdecimal() for part in version.split(".")):
        raise IntegrityError("serving.json tells no schema version", where=where)
    return version


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
