"""Predict whole models from a calibration that has seen none, and hold it against their latencies, measured here.

    .venv/bin/python tests/bench/calibration.py [--calibration FILE] [--budget-s 60] [MODEL/SCHEME ...]

Writes docs/reference/bench-calibration.md and .json. Models are built into the cache first where they are not there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import calibration_page
import numpy as np
import quiet

from hwc import machine
from hwc.events import silent
from hwc.lower import iree, workload
from hwc.pipeline import calibrating, dispatches, stages
from hwc.pipeline.build import Request, plan_build
from hwc.pipeline.plan import encodings_of, walk
from hwc.pipeline.run import run_steps
from hwc.pipeline.store import Store
from hwc.predict.efficiency import Calibration, load
from hwc.predict.fit import errors
from hwc.predict.operation import Operation
from hwc.program import Program
from hwc.runtime import clean
from hwc.spec import infer
from hwc.spec.project import Project, open_project

TARGET = "llvm-cpu-host"
UNSEEN = ("minilm/fp32", "minilm/fp8", "minilm/w4a16", "cnn/fp32", "mlp/fp32", "smollm2/w4a16")
ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
_MEMORY_BYTES = 12 << 30
ENDS = ("low", "base", "high")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A variant that can be timed and predicted."""

    name: str
    program: Program
    work: Mapping[str, tuple[Operation, ...]]
    quantised: bool
    cases: Path
    context_tokens: int | None


def ready(project: Project, name: str) -> Ready:
    """Build a variant up to its code, and read its work from the compiler."""
    model, _, scheme = name.partition("/")
    found = infer.find(project, model)
    variant = plan_build(
        project, Request(found=found, targets=(TARGET,), schemes=(scheme,), jobs=1, smoke=True)
    ).variants[0]
    store = Store(project.home)
    store.repair()
    generation = found.spec.generation
    last = [variant.lower, variant.encode, *([variant.cases] if generation is None else [])]
    steps = {step.key: step for one in last for step in reversed(list(walk(one)))}
    done = run_steps(
        list(steps.values()), store, silent, jobs=1, timeout_s=project.spec.step_timeout_s,
        memory_bytes=project.spec.step_memory_bytes,
    )
    folder = {name: artefact.path for name, artefact in done.items()}
    program = stages.program(folder[variant.encode.key], folder[variant.lower.key], variant.target.device)
    buckets = [bucket for bucket in variant.buckets if bucket.get("logits", 1) == 1]
    work = workload.of_model(
        buckets, dispatches.recipe_of(variant.target, encodings_of(variant.target.spec, variant.scheme)),
        graphs=folder[variant.simplify.key], quantised=folder[variant.quantise.key],
        limits=iree.Limits(timeout_s=900, memory_bytes=_MEMORY_BYTES),
    )
    functions = tuple(entry for entry in program.functions if entry.name in work)
    return Ready(
        name=name, program=replace(program, functions=functions), work=work,
        quantised=not variant.scheme.is_float, cases=folder.get(variant.cases.key, Path()),
        context_tokens=generation.context_tokens if generation is not None else None,
    )


def timed(one: Ready, *, budget_s: float, folder: Path) -> dict[str, Any]:
    """Return the milliseconds of every series, as ``hwc profile`` measures them."""
    return clean.serve(
        folder, one.program, "time", timeout_s=600, memory_bytes=_MEMORY_BYTES, cases=str(one.cases), warmup=2,
        min_rounds=3, rounds=200, budget_s=budget_s, context_tokens=one.context_tokens, composed=False,
    )


def rows_of(one: Ready, report: Mapping[str, Any], calibration: Calibration) -> list[dict[str, Any]]:
    """Return each series with its latency, measured and predicted."""
    rows = []
    for series in report["series"]:
        name, wall = series["function"], report["wall_ms"][series["function"]]
        calls = {
            function: calibration.call_s(_read(operations, series.get("tokens")), quantised=one.quantised)
            for function, operations in one.work.items()
        }
        used = [calls[function] for function, count in series.get("calls", {name: 1}).items() for _ in range(count)]
        ends = {f"predicted_{end}_ms": 1e3 * sum(getattr(call, end) for call in used) for end in ENDS}
        dispatches = sum(operation.count for operation in one.work.get(name, ()))
        rows.append(
            {
                "variant": one.name, "series": name, "measured_min_ms": min(wall),
                "measured_p50_ms": statistics.median(wall), "n": len(wall), "dispatches": dispatches, **ends,
            }
        )
    return rows


def _read(operations: Sequence[Operation], tokens: int | None) -> list[Operation]:
    """Return the work of a call that finds ``tokens`` in its cache: the attention kernel reads no key beyond them."""
    if tokens is None:
        return list(operations)
    return [_used(operation, tokens) if operation.op == "attention" else operation for operation in operations]


def _used(attention: Operation, tokens: int) -> Operation:
    share = min(1.0, tokens / attention.n)
    read = {"flops": attention.flops * share, "read_bytes": attention.read_bytes * share}
    return replace(attention, n=max(1, round(attention.n * share)), **read)


def summarised(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the errors over all series, and the share whose measured time lies in the predicted interval."""
    predicted, measured = (np.asarray([row[key] for row in rows]) for key in ("predicted_base_ms", "measured_min_ms"))
    inside = [row["predicted_low_ms"] <= row["measured_min_ms"] <= row["predicted_high_ms"] for row in rows]
    return {**asdict(errors(predicted, measured)), "inside": statistics.fmean(inside)}


def main() -> None:
    """Build, time in turn, predict, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variants", nargs="*", default=list(UNSEEN))
    parser.add_argument("--calibration", type=Path, help="default: the one that the target's descriptor names")
    parser.add_argument("--budget-s", type=float, default=60.0, help="seconds of timing, shared by all variants")
    parser.add_argument("--output", type=Path, default=REFERENCE)
    options = parser.parse_args()
    project = open_project(ROOT)
    calibration = load(options.calibration or calibrating.default_path(project, TARGET))
    busy = quiet.busy_cores()
    everything = [ready(project, name) for name in options.variants]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="hwc-bench-") as work:
        for one in everything:
            report = timed(one, budget_s=options.budget_s / len(everything), folder=Path(work) / one.name)
            rows += rows_of(one, report, calibration)
    facts = {
        "target": TARGET, "machine": machine.describe().as_json(),
        "same_machine": calibrating.measured_here(calibration),
        "measured_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "busy_cores_before": busy,
        "load_after": os.getloadavg()[0], "quiet": busy <= quiet.MOST_BUSY_CORES,
        "calibration": {
            key: value for key, value in asdict(calibration).items() if key not in ("samples", "classes", "machine")
        },
        "classes": [asdict(entry) | {"told": entry.told()} for entry in calibration.classes],
        "rows": rows, "errors": summarised(rows),
    }
    (options.output / "bench-calibration.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    (options.output / "bench-calibration.md").write_text(calibration_page.page(facts))
    print(json.dumps(facts["errors"], indent=1))


if __name__ == "__main__":
    main()
