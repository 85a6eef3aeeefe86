"""``serving.json`` holds its rules: no latency without a run, tiers no better than their worst figure, no guesses."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from hwc.bundle import serving
from hwc.bundle.serving import parse_serving, serving_schema, to_document
from hwc.errors import IntegrityError

DIGEST = "sha256:" + "ab" * 32


def unverified() -> dict[str, Any]:
    return {
        "status": "unverified",
        "identity": {
            "schema_version": "1.0.0",
            "bundle_id": "minilm:1.2.0",
            "model_id": "minilm",
            "variant_id": "llvm-cpu-host/w4a16",
            "content_sha256": DIGEST,
            "created_utc": "2026-11-22T12:00:00Z",
        },
        "target": {"kind": "cpu", "device": "x86-64 host", "runtime": "iree 3.13.0"},
        "model": {"arch": "dense", "params": 22_713_216, "weight_scheme": "w4a16", "act_dtype": "float32"},
        "resources": {"weights_bytes": 14_000_000, "method": "estimated"},
        "definitions": {"boundary": "engine", "percentile_method": "linear"},
        "provenance": {"tier": {"memory": "estimated"}},
    }


def cell(method: str = "measured") -> dict[str, Any]:
    latency = {"p50": 8.0, "p90": 9.0, "p95": 9.5, "p99": 11.0, "mean": 8.2, "std": 0.4, "ci95": [8.1, 8.3], "n": 200}
    return {
        "batch": 1,
        "bucket": "b1_s128",
        "dims": {"batch": 1, "sequence": 128},
        "latency_ms": latency,
        "items_s": 121.0,
        "valid": True,
        "method": method,
    }


def verified() -> dict[str, Any]:
    document = unverified()
    document["status"] = "verified"
    document["profile"] = {"request": [cell()], "conditions": {"threads": 2, "throttled": False, "runs": 200}}
    document["resources"] |= {"method": "measured", "load_s": 0.05}
    document["quality"] = [{"metric": "cosine_mean", "reference": "float32", "value": 0.99, "method": "measured"}]
    usd = {"low": 0.01, "base": 0.02, "high": 0.04}
    document["cost"] = {
        "mode": "owned",
        "usd_per_hour": {"total": usd, "power": usd},
        "usd_per_million_items": [{"bucket": "b1_s128", "utilisation": 0.5, "usd": usd, "j_per_item": usd}],
        "assumptions": ["utilisation 0.5"],
        "as_of": "2026-11-22",
        "method": "assumed",
    }
    document["qos"] = [{"id": "ui", "percentile": 99, "latency_ms": 150, "max_rps": 60, "pass": True}]
    tier = {"latency": "measured", "memory": "measured", "quality": "measured", "cost": "assumed"}
    document["provenance"] = {"tier": tier, "tools": {"iree": "3.13.0"}, "raw": {"profile.json": DIGEST}}
    return document


@pytest.mark.parametrize("document", [unverified(), verified()], ids=["unverified", "verified"])
def test_a_document_survives_being_parsed_and_written(document: dict[str, Any]) -> None:
    once = to_document(parse_serving(document))
    assert to_document(parse_serving(json.dumps(once).encode())) == once
    for key, expected in document.items():
        if key != "profile":
            assert once[key] == expected | once[key] if isinstance(expected, dict) else once[key] == expected


def test_absent_figures_stay_absent() -> None:
    once = to_document(parse_serving(unverified()))
    assert "load_s" not in once["resources"]
    assert "cost" not in once
    assert set(once["provenance"]["tier"]) == {"memory"}


def add(document: dict[str, Any], group: str) -> None:
    full = verified()
    if group == "cost":
        document["cost"] = full["cost"]
        document["provenance"]["tier"]["cost"] = "assumed"
    elif group == "fit":
        document["fit"] = [
            {"quantity": "latency_ms", "form": "a", "coefficients": {}, "domain": {}, "method": "measured"}
        ]
    else:
        document[group] = full.get(group, {})


@pytest.mark.parametrize("group", ["profile", "fit", "qos", "capacity", "cost"])
def test_what_never_ran_on_its_device_tells_no_latency(group: str) -> None:
    document = unverified()
    add(document, group)
    with pytest.raises(IntegrityError, match="status unverified, yet latency is told"):
        parse_serving(document)


def test_what_never_ran_may_still_tell_what_an_hour_costs() -> None:
    document = unverified()
    add(document, "cost")
    document["cost"]["usd_per_million_items"] = []
    assert parse_serving(document).cost is not None


@pytest.mark.parametrize("group", ["latency", "memory", "quality", "cost"])
def test_a_tier_better_than_its_worst_figure_is_refused(group: str) -> None:
    document = verified()
    worse = copy.deepcopy(document)
    if group == "latency":
        worse["profile"]["request"].append(cell("simulated"))
    elif group == "memory":
        peak = {"batch": 1, "bucket": "b1_s128", "peak_bytes": 5, "method": "simulated"}
        worse["resources"]["peak"] = [peak]
    elif group == "quality":
        worse["quality"].append({**worse["quality"][0], "method": "simulated"})
    else:
        worse["provenance"]["tier"]["cost"] = "measured"
    with pytest.raises(IntegrityError, match="worst methods"):
        parse_serving(worse)
    worse["provenance"]["tier"][group] = "assumed" if group == "cost" else "simulated"
    assert parse_serving(worse).status == "verified"


def test_a_tier_for_an_empty_group_is_refused() -> None:
    document = unverified()
    document["provenance"]["tier"]["quality"] = "measured"
    with pytest.raises(IntegrityError, match="worst methods"):
        parse_serving(document)


def test_methods_rank_from_measured_to_assumed() -> None:
    ranked: list[serving.Method] = ["measured", "calibrated", "datasheet", "simulated", "estimated", "assumed"]
    for index, method in enumerate(ranked):
        assert serving.worst(ranked[: index + 1]) == method


@pytest.mark.parametrize("version", ["2.0.0", "11.0.0", "0.9.0"])
def test_another_major_schema_version_is_refused(version: str) -> None:
    document = verified()
    document["identity"]["schema_version"] = version
    with pytest.raises(IntegrityError, match=f"schema version {version}"):
        parse_serving(document)


def test_a_newer_minor_version_with_an_unknown_key_says_to_upgrade() -> None:
    document = verified()
    document["identity"]["schema_version"] = "1.1.0"
    assert parse_serving(document).identity.schema_version == "1.1.0"
    document["carbon"] = {}
    with pytest.raises(IntegrityError, match="carbon") as caught:
        parse_serving(document)
    assert "newer hwc" in caught.value.hint


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("identity", "schema_version"), 1),
        (("identity", "schema_version"), "1.x"),
        (("identity", "content_sha256"), "sha256:../../etc/passwd"),
        (("identity", "created_utc"), "yesterday"),
        (("target", "gpu_count"), 1),
        (("profile", "request", 0, "latency_ms", "p50"), 9.4),
        (("profile", "request", 0, "latency_ms", "p50"), float("nan")),
        (("profile", "request", 0, "latency_ms", "ci95"), [9, 10]),
        (("profile", "request", 0, "items_s"), 0),
        (("cost", "usd_per_hour", "total"), {"low": 3, "base": 2, "high": 1}),
        (("cost", "usd_per_million_items", 0, "utilisation"), 1.5),
        (("qos", 0, "percentile"), 100),
    ],
)
def test_a_broken_document_is_refused(path: tuple[str | int, ...], value: object) -> None:
    document: Any = verified()
    place = document
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    with pytest.raises(IntegrityError, match=r"serving\.json"):
        parse_serving(document)


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b'{"a":1,"a":2}', b"[" * 100_000, b'{"x": NaN}'])
def test_bytes_that_are_no_document_are_refused(payload: bytes) -> None:
    with pytest.raises(IntegrityError):
        parse_serving(payload)


def test_the_json_schema_is_closed_and_names_every_group() -> None:
    schema = serving_schema()
    assert schema["additionalProperties"] is False
    assert all(record["additionalProperties"] is False for record in schema["$defs"].values())
    assert set(schema["properties"]) == set(serving.Serving.model_fields)
    assert "pass" in schema["$defs"]["Qos"]["properties"]
    assert json.loads(json.dumps(schema)) == schema
