"""Small real parts of a bundle, shared by the tests of bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hwc.bundle import manifest
from hwc.bundle.pack import MeasurementParts, ModelIdentity, VariantParts
from hwc.digest import of_bytes

MODEL = ModelIdentity(model_id="minilm", version="1.2.0", title="MiniLM", licences=("Apache-2.0",))
TAG = "minilm:1.2.0"
CREATED = "2026-11-22T12:00:00Z"
MACHINE = of_bytes(b"a machine")
OTHER_MACHINE = of_bytes(b"another machine")

CONTENTS = {
    "code/module.vmfb": b"code",
    "weights/float.irpa": b"f" * 5000,
    "weights/linears.irpa": b"q" * 9000,
    "tokenizer/tokenizer.json": b"{}",
    "golden/cases.npz": b"golden",
    "licences/LICENSE": b"free",
}


def write_files(folder: Path, contents: dict[str, bytes]) -> dict[str, Path]:
    paths = {}
    for role, payload in contents.items():
        path = folder / role.replace("/", "-")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(payload)
        paths[role] = path
    return paths


def content_of(contents: dict[str, bytes]) -> str:
    return manifest.content_sha256((role, of_bytes(payload)) for role, payload in contents.items())


def serving_for(content_sha256: str, *, status: str = "verified", created: str = CREATED) -> dict[str, Any]:
    return {
        "status": status,
        "identity": {
            "schema_version": "1.0.0",
            "bundle_id": TAG,
            "model_id": "minilm",
            "variant_id": "cpu/w4a16",
            "content_sha256": content_sha256,
            "created_utc": created,
        },
        "target": {"kind": "cpu", "device": "a host", "runtime": "iree 3.13.0"},
        "model": {"arch": "dense", "params": 1000, "weight_scheme": "w4a16", "act_dtype": "float32"},
        "resources": {"weights_bytes": 14_000, "method": "measured"},
        "definitions": {"boundary": "engine", "percentile_method": "linear"},
        "provenance": {"tier": {"memory": "measured"}},
    }


def measurement(
    contents: dict[str, bytes] = CONTENTS,
    *,
    machine_sha256: str = MACHINE,
    status: str = "verified",
    created: str = CREATED,
    note: str = "",
) -> MeasurementParts:
    return MeasurementParts(
        serving=serving_for(content_of(contents), status=status, created=created),
        machine_sha256=machine_sha256,
        method="profile",
        documents={"check.json": {"passed": True, "note": note}, "profile.json": {"runs": 5}},
    )


def variant(folder: Path, contents: dict[str, bytes] = CONTENTS, **changes: Any) -> VariantParts:
    fields: dict[str, Any] = {
        "target": "cpu",
        "scheme": "w4a16",
        "status": "verified",
        "files": write_files(folder, contents),
        "facts": {"audit": {"bits_per_parameter": 4.5}, "lowering": {"compiler": "iree 3.13.0"}},
        "measurements": (measurement(contents),),
    }
    return VariantParts(**(fields | changes))
