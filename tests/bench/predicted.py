"""What hwc itself predicts for an artefact: from the target's calibration, and from the roofline of its peaks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from built import TARGET, Made

from hwc import digest
from hwc.errors import HwcError
from hwc.lower import iree, workload
from hwc.pipeline import calibrating, dispatches
from hwc.pipeline.plan import encodings_of
from hwc.predict.efficiency import Calibration
from hwc.predict.operation import Operation
from hwc.spec.project import find_target

_MEMORY_BYTES = 12 << 30


def of_variant(made: Made, scheme: str, cache: Path) -> dict[str, dict[str, Any]]:
    """Return each function's milliseconds ``low``, ``base``, ``high`` and ``roofline``, on one thread.

    Nothing where the calibration is of another machine, or the compiler does not tell the work of an artefact. What was
    found is kept under ``cache``, by the artefact and the calibration.
    """
    calibration = calibrating.of_target(made.project, find_target(made.project, TARGET))
    if calibration is None:
        return {}
    kept = cache / f"{digest.short(digest.of_json([made.variants[scheme].lower.key, calibration.data_sha256]))}.json"
    if kept.is_file():
        found: dict[str, dict[str, Any]] = json.loads(kept.read_text())
        return found
    try:
        made_of = work_of(made, scheme)
    except HwcError:
        return {}
    quantised = not made.variants[scheme].scheme.is_float
    told = {name: predict(operations, calibration, quantised=quantised) for name, operations in made_of.items()}
    cache.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(told, indent=1))
    return told


def work_of(made: Made, scheme: str) -> workload.Workload:
    """Return a variant's work by function, as the compiler divides it."""
    variant = made.variants[scheme]
    buckets = [bucket for bucket in variant.buckets if bucket.get("logits", 1) == 1]
    return workload.of_model(
        buckets, dispatches.recipe_of(variant.target, encodings_of(variant.target.spec, variant.scheme)),
        graphs=made.path(variant.simplify), quantised=made.path(variant.quantise),
        limits=iree.Limits(timeout_s=900, memory_bytes=_MEMORY_BYTES),
    )


def predict(operations: Sequence[Operation], calibration: Calibration, *, quantised: bool) -> dict[str, float]:
    """Return milliseconds of one call.

    The roofline is the larger of all arithmetic at the measured float32 peak and of all stored weights, read once at
    the measured bandwidth of memory. Weights that a cache holds can be faster.
    """
    times = calibration.call_s(operations, quantised=quantised)
    flops = sum(one.count * one.flops for one in operations)
    weights = sum(one.count * one.weight_bytes for one in operations)
    bound_s = max(flops / calibration.flop_per_s, weights / calibration.bytes_per_s)
    return {"low": 1e3 * times.low, "base": 1e3 * times.base, "high": 1e3 * times.high, "roofline": 1e3 * bound_s}
