"""Describe: what a build found out about one variant, as ``serving.json``; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hwc.bundle import describe_cost, describe_language
from hwc.bundle.fanout import fanout
from hwc.bundle.serving import SCHEMA_VERSION, Serving, tiers
from hwc.bundle.serving_profile import Conditions, Latency, Profile, RequestCell
from hwc.bundle.serving_records import (
    Definitions,
    Equivalence,
    Identity,
    Model,
    PeakCell,
    Provenance,
    Qos,
    Quality,
    Resources,
    Target,
)
from hwc.spec.prices import PriceTable
from hwc.spec.target import TargetSpec

CALL_DEFINITIONS = Definitions(
    boundary="engine",
    percentile_method="nearest rank over single calls; a p99 needs 100 samples",
    latency="one call, inputs on the device to outputs on the host; no queue, no tokenizer, no network",
)
QOS_P99_MS = {"interactive": 150.0, "standard": 2000.0}
"""Classes of service by their bound on the p99: an agentic user interface, and everything else that waits."""
P99_SAMPLES = 100
"""Fewer samples than this cannot tell a p99 apart from the maximum, so none is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Everything about one variant that its serving metadata is made from."""

    bundle_id: str
    model_id: str
    created_utc: str
    target: TargetSpec
    scheme: str
    content_sha256: str
    golden_sha256: str
    tokenizer_sha256: str | None
    audit: Mapping[str, Any]
    check: Mapping[str, Any] | None
    profile: Mapping[str, Any] | None
    tools: Mapping[str, str]
    raw: Mapping[str, str]
    language: Mapping[str, Any] | None = None
    """Of a language model: its shape, and ``context_tokens``."""
    lowered: Mapping[str, Any] = field(default_factory=dict)
    """``lower.json``: the functions, and how they are spread over devices."""
    equivalents: tuple[str, ...] = ()
    """Variants that made the same golden tokens."""


def _activations(audit: Mapping[str, Any]) -> str:
    """Return the type of values between layers, and what some linears round them to."""
    rounded = any(told.endswith("int8 activations") for told in audit.get("parameters_by_format", ()))
    return "float32, int8 in products" if rounded else "float32"


def describe(found: Findings, prices: PriceTable) -> Serving:
    """Return the serving metadata; a variant that was not checked on its device has no latency and no claims."""
    verified = found.check is not None and found.target.made == "build"
    language = found.language
    latency = _profile(found.profile, language) if verified and found.profile else Profile()
    quality = _quality(found.check) if found.check else ()
    resources = _resources(found, latency)
    priced = describe_cost.price(found.target, latency, prices)
    return Serving(
        status="hand-over" if found.target.made == "hand-over" else "verified" if verified else "unverified",
        identity=Identity(
            schema_version=SCHEMA_VERSION,
            bundle_id=found.bundle_id,
            model_id=found.model_id,
            variant_id=f"{found.target.name}/{found.scheme}",
            content_sha256=found.content_sha256,
            created_utc=found.created_utc,
        ),
        target=_target(found),
        model=Model(
            params=(language or found.audit)["parameters"],
            weight_scheme=found.scheme,
            act_dtype=_activations(found.audit),
            tokenizer_sha256=found.tokenizer_sha256,
            **_shape(language or {}),
        ),
        resources=resources,
        fanout=fanout(found.target, found.lowered, language=language is not None),
        definitions=describe_language.DEFINITIONS if language else CALL_DEFINITIONS,
        profile=latency,
        cost=priced,
        qos=describe_language.qos(latency) if language else _qos(latency),
        quality=quality,
        equivalence=Equivalence(golden_sha256=found.golden_sha256, variants=found.equivalents),
        provenance=Provenance(
            tier=tiers(profile=latency, fit=(), resources=resources, quality=quality, cost=priced),
            tools=dict(found.tools),
            raw=dict(found.raw),
        ),
    )


def _shape(language: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the model record tells of a language model alone; nothing else may be a mixture of experts."""
    return {
        "arch": "moe" if language.get("experts") else "dense",
        "active_params": language.get("active_parameters"), "experts": language.get("experts"),
        "layers": language.get("layers"), "kv_dtype": language.get("kv_dtype"),
        "kv_bytes_per_token": language.get("kv_bytes_per_token"),
        "max_context_tokens": language.get("context_tokens"),
    }


def _target(found: Findings) -> Target:
    lowering, execution = found.target.code(), found.target.execution
    modelled = "".join(f"; its unit {unit} is modelled, not executed" for unit in found.target.modelled)
    return Target(
        kind=found.target.kind,
        device=(execution.speaks_for or found.target.title) + modelled,
        count=lowering.shards,
        isa_features=tuple(lowering.cpu_features) or ((lowering.cpu,) if lowering.cpu else ()),
        runtime=f"iree-base-runtime {found.tools.get('iree-base-runtime', 'unknown')}",
        min_runtime=found.tools.get("iree-base-runtime"),
        driver=execution.driver,
        compiler=f"iree-base-compiler {found.tools.get('iree-base-compiler', 'unknown')}",
    )


def _profile(report: Mapping[str, Any], language: Mapping[str, Any] | None) -> Profile:
    if language is not None:
        grid = describe_language.grid(report["cells"], _latency)
    else:
        grid = {"request": tuple(_cell(cell) for cell in report["cells"])}
    conditions = report["conditions"]
    clock = conditions["after"].get("clock_mhz")
    return Profile(
        **grid,
        conditions=Conditions(
            machine_sha256=report["machine"]["fingerprint"],
            cpu=conditions["cpu"],
            governor=conditions["governor"],
            clocks_hz={"cpu": clock * 1e6} if clock else {},
            threads=conditions["threads"],
            pinning=conditions["pinning"],
            warmup_runs=report["method"]["warmup"],
            runs=min(cell["latency_ms"]["n"] for cell in report["cells"]),
            notes=tuple(f"{cell['function']}: {reason}" for cell in report["cells"] for reason in cell["noise"]),
        ),
    )


def _cell(cell: Mapping[str, Any]) -> RequestCell:
    return RequestCell(
        batch=cell["batch"],
        bucket=cell["function"],
        dims=dict(cell["bucket"]),
        latency_ms=_latency(cell["latency_ms"]),
        items_s=cell["items_per_s"],
        valid=cell["valid"],
        method="measured",
    )


def _latency(told: Mapping[str, Any]) -> Latency:
    return Latency(
        p50=told["p50"],
        p90=told["p90"],
        p95=told["p95"],
        p99=told["p99"] if told["n"] >= P99_SAMPLES else None,
        mean=told["mean"],
        std=told["std"],
        ci95=(told["mean"] - told["ci95"], told["mean"] + told["ci95"]),
        n=told["n"],
    )


def _quality(report: Mapping[str, Any]) -> tuple[Quality, ...]:
    told = report["quality"]
    metrics = told["metrics"]
    observations = told.get("observations", {})
    rows = [
        Quality(
            metric=name,
            reference=told["reference"],
            value=metrics[name],
            ci95=_interval(name, told),
            n=observations.get(name, told.get("items")),
            data_sha256=told["data_sha256"],
            method="measured",
        )
        for name in sorted(metrics)
        if not name.endswith("_ci95")
    ]
    parity = report["parity"]
    rows.append(
        Quality(
            metric="parity_max_abs",
            reference="strict ONNX Runtime on the same quantised graph",
            value=parity["max_abs"],
            n=parity["cases"],
            method="measured",
        )
    )
    return tuple(rows)


def _interval(name: str, told: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return a metric's 95 % interval: as it was measured, or from the half of it that an evaluator tells."""
    if (whole := told.get("intervals", {}).get(name)) is not None:
        return (whole[0], whole[1])
    value, half = told["metrics"][name], told["metrics"].get(f"{name}_ci95")
    return None if half is None else (value - half, value + half)


def _resources(found: Findings, latency: Profile) -> Resources:
    """Weights and load time; peak memory as the whole process had it, in the largest bucket it ran."""
    memory = (found.profile or found.check or {}).get("memory")
    peaks: tuple[PeakCell, ...] = ()
    if memory and latency.request:
        largest = max(latency.request, key=lambda cell: _volume(cell.dims))
        peaks = (
            PeakCell(
                batch=largest.batch, bucket=largest.bucket, peak_bytes=memory["peak_rss_bytes"], method="measured"
            ),
        )
    if memory and latency.decode and found.language:
        most = max(cell.batch for cell in latency.decode)
        context = int(found.language["context_tokens"])
        peaks = (
            PeakCell(batch=most, context_tokens=context, peak_bytes=memory["peak_rss_bytes"], method="measured"),
        )
    load_s = (found.profile or {}).get("load_s")
    cold_start_s = None
    if found.profile and load_s is not None:
        cold_start_s = load_s + found.profile["cells"][0]["first_ms"] / 1e3
    slots = {}
    if found.language:
        rows = max(found.language["batches"])
        slots = {"max_num_seqs": rows, "max_kv_tokens": rows * int(found.language["context_tokens"])}
    return Resources(
        weights_bytes=found.audit["weights_bytes"], peak=peaks, load_s=load_s, cold_start_s=cold_start_s,
        method="measured", **slots,
    )


def _qos(latency: Profile) -> tuple[Qos, ...]:
    """Say of every trusted cell that tells a p99 whether it alone, unqueued, is inside each class of service."""
    return tuple(
        Qos(id=name, percentile=99, latency_ms=bound_ms, bucket=cell.bucket, passes=cell.latency_ms.p99 <= bound_ms)
        for cell in latency.request
        for name, bound_ms in QOS_P99_MS.items()
        if cell.valid and cell.latency_ms.p99 is not None
    )


def _volume(dims: Mapping[str, int]) -> int:
    product = 1
    for size in dims.values():
        product *= size
    return product
