"""Check: run an artefact on its real runtime and compare it with ONNX Runtime and with the float model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc.capture.golden import Case, load_cases, load_numbered
from hwc.measure import metrics
from hwc.program import Program
from hwc.runtime import clean
from hwc.spec.model import EvaluationSpec, bucket_id

if TYPE_CHECKING:
    import numpy as np


def check(
    program: Program,
    evaluation: EvaluationSpec,
    *,
    folder: Path,
    cases: Path,
    reference: Path,
    work: Path,
    timeout_s: float,
    memory_bytes: int,
) -> dict[str, Any]:
    """Run every golden case in a clean process; return parity, quality and memory.

    ``parity`` compares with strict ONNX Runtime on the same quantised graph (``reference``), ``quality`` with the
    float model. Raises MachineError where the device is missing: nothing was shown, so nothing is claimed.
    """
    report = clean.serve(work, program, "run", timeout_s=timeout_s, memory_bytes=memory_bytes, cases=str(cases))
    all_cases = load_cases(cases)
    outputs = load_numbered(work / "outputs.npz")
    same_graph = load_numbered(reference / "expected.npz")
    floats = load_numbered(cases / "expected.npz")
    by_bucket = apart(all_cases, outputs, same_graph)
    measured = metrics.evaluate(
        evaluation.evaluator, folder, by_item(all_cases, outputs), by_item(all_cases, floats)
    )
    return {
        "parity": {"max_abs": max(by_bucket.values()), "by_bucket": by_bucket, "cases": len(all_cases)},
        "quality": {
            "evaluator": evaluation.evaluator,
            "metrics": measured,
            "items": len({item for case in all_cases for item in case.items}),
            "data_sha256": evaluation.sha256,
            "reference": "the float32 model as captured, in ONNX Runtime",
        },
        **process_facts(report),
    }


def apart(
    cases: Sequence[Case], ones: Sequence[Mapping[str, np.ndarray]], others: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, float]:
    """Return bucket to the largest absolute difference of two runs of the cases, padding left out."""
    by_bucket: dict[str, float] = {}
    for case, one, other in zip(cases, ones, others, strict=True):
        name = bucket_id(case.bucket)
        difference = metrics.max_abs(of_items(case, one), of_items(case, other))
        by_bucket[name] = max(by_bucket.get(name, 0.0), difference)
    return by_bucket


def process_facts(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a checked process took; of an emulated chip, what its core executed: time and memory of such a
    process are the emulator's.
    """  # noqa: D205
    if (executed := report.get("executed")) is not None:
        return {"executed": executed}
    return {
        "memory": {key: value for key, value in report.items() if key.endswith("_bytes")}, "load_s": report["load_s"]
    }


def of_items(case: Case, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return outputs as [items, …]: the rows that hold items; the rest is padding, about which nothing is promised."""
    return {name: value[: len(case.items)] if case.batched else value[None] for name, value in values.items()}


def by_item(cases: Sequence[Case], results: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return output name to [items, …], each item once, from the case in which it first appears.

    Items of smaller shapes are filled up with zeros, the artefact's and the float model's alike.
    """
    import numpy as np

    rows: dict[str, dict[int, np.ndarray]] = {}
    for case, result in zip(cases, results, strict=True):
        for name, value in of_items(case, result).items():
            for row, item in enumerate(case.items):
                rows.setdefault(name, {}).setdefault(item, value[row])
    filled = {}
    for name, found in rows.items():
        largest = np.max([value.shape for value in found.values()], axis=0).astype(int)
        filled[name] = np.zeros((len(found), *largest), dtype=next(iter(found.values())).dtype)
        for place, item in enumerate(sorted(found)):
            corner = tuple(slice(size) for size in found[item].shape)
            filled[name][place][corner] = found[item]
    return filled


def write(report: Mapping[str, Any], out: Path) -> None:
    """Write ``check.json``."""
    (out / "check.json").write_text(json.dumps(report, indent=1, sort_keys=True))


def clean_up(work: Path) -> None:
    """Keep the artefact's outputs, which golden tests and other machines compare with; drop the rest."""
    (work / "outputs.npz").replace(work.parent / "outputs.npz")
    shutil.rmtree(work)
