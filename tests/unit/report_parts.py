"""A small bundle as the report takes it."""

from __future__ import annotations

from typing import Any

from bundle_parts import CREATED, MACHINE, serving_for

from hwc.bundle.serving import parse_serving
from hwc.digest import of_bytes
from hwc.report.profiled import read_profile
from hwc.report.records import BundleReport, Left, Page, VariantReport

CONTENT = of_bytes(b"content")
MATMUL = "async_dispatch_0_matmul_16x512x256_f32"
PROFILE: dict[str, Any] = {
    "dispatches": {
        "available": True,
        "functions": {
            "b1": [
                {"dispatch": MATMUL, "count": 3, "min_us": 50.0, "mean_us": 60.0, "share": 0.9},
                {"dispatch": "async_dispatch_1_slow_memcpy", "count": 3, "min_us": 2.0, "mean_us": 2.5, "share": 0.1},
            ]
        },
    },
    "peaks": {
        "available": True, "how": "a matrix product", "gflop_per_s": {"best": 100.0},
        "read_bytes_per_s": {"best": 2e10},
    },
    "cells": [{"function": "b1", "noise": ["the second half is +20%"]}],
    "memory": {"private_before_load_bytes": 1 << 20, "private_after_load_bytes": 3 << 20, "peak_rss_bytes": 50 << 20},
    "machine": {"cpu_model": "A CPU", "cpu_count": 2},
    "conditions": {"before": {"load_1min": 0.5}, "threads": 1},
}


def verified_serving(**changes: Any) -> dict[str, Any]:
    """Return serving metadata with one cell, one metric and a price."""
    dollars = {"low": 0.5, "base": 1.0, "high": 2.0}
    cell = {
        "batch": 1, "bucket": "b1", "dims": {"batch": 1}, "items_s": 100.0, "valid": True, "method": "measured",
        "latency_ms": {
            "p50": 10.25, "p90": 11.0, "p95": 12.0, "mean": 10.5, "std": 0.5, "ci95": [10.4, 10.6], "n": 50,
        },
    }
    quality = {
        "metric": "cosine_mean", "reference": "the float model", "value": 0.9987, "ci95": [0.998, 0.9994], "n": 10,
        "method": "measured",
    }
    cost = {
        "mode": "owned", "usd_per_hour": {"total": dollars}, "assumptions": ["a guess"], "as_of": "2026-11-22",
        "usd_per_million_items": [{"bucket": "b1", "utilisation": 0.5, "usd": dollars}], "method": "assumed",
    }
    tier = {"latency": "measured", "memory": "measured", "quality": "measured", "cost": "assumed"}
    return serving_for(CONTENT) | {
        "profile": {"request": [cell]}, "quality": [quality], "cost": cost, "provenance": {"tier": tier}, **changes,
    }


def variant(
    serving: dict[str, Any] | None = None, *, verified: bool = True, profile: dict[str, Any] | None = None,
    name: str = "cpu/w4a16",
) -> VariantReport:
    document = verified_serving() if serving is None else serving
    return VariantReport(
        name=name,
        digest=of_bytes(b"index"),
        content_sha256=CONTENT,
        bits_per_parameter=4.5,
        audit="3 of 3 linear layers",
        serving=parse_serving(document),
        profiled=read_profile(PROFILE if profile is None else profile, weight_bits=4) if verified else None,
        verified=verified,
        measurements=((MACHINE, "profile"),),
    )


def unverified(name: str = "gpu/w4a16") -> VariantReport:
    return variant(serving_for(CONTENT, status="unverified"), verified=False, name=name)


def page(*variants: VariantReport, tags: tuple[str, ...] = ("minilm:dev",), left: tuple[Left, ...] = ()) -> Page:
    bundle = BundleReport(
        tags=tags, digest=of_bytes(b"bundle"), created_utc=CREATED, title="A model", licence="MIT", variants=variants
    )
    return Page(title="Bundles", created_utc=CREATED, tool="hwc 0", bundles=(bundle,), left=left)
