"""Check of a language model: its windows scored, its greedy text written, on its real runtime in a clean process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hwc.capture import calls, greedy, reduced
from hwc.measure import language
from hwc.program import Program
from hwc.runtime import clean
from hwc.spec.model import EvaluationSpec

OUTPUTS = "outputs.npz"
FLOAT_REFERENCE = "the float32 model as captured, in ONNX Runtime"


def check(
    program: Program,
    evaluation: EvaluationSpec,
    *,
    context_tokens: int,
    cases: Path,
    reference: Path,
    work: Path,
    timeout_s: float,
    memory_bytes: int,
) -> dict[str, Any]:
    """Score every call and write the golden text in a clean process; return parity, quality and memory.

    ``parity`` compares logits with strict ONNX Runtime on the same quantised graph, ``quality`` next-token
    distributions with the float model's, and greedy tokens with those of the model in PyTorch.
    """
    report = clean.serve(
        work, program, "score", timeout_s=timeout_s, memory_bytes=memory_bytes, cases=str(cases),
        context_tokens=context_tokens,
    )
    floats, same_graph = reduced.load(cases / "expected.npz"), reduced.load(reference / "expected.npz")
    found = reduced.load(work / OUTPUTS)
    scored = calls.load_scored(cases)
    count = len(scored.domains) * scored.positions_per_window
    estimates = language.compare(
        calls.part(floats, 0, count), calls.part(found, 0, count),
        language.places(scored.domains, scored.positions_per_window),
    )
    told = greedy.load(cases)
    estimates["greedy_tokens"] = language.greedy_tokens(
        [told.tokens[: len(report["greedy_tokens"])]], [report["greedy_tokens"]]
    )
    metrics = {name: row.value for name, row in estimates.items()}
    halves = {
        f"{name}_ci95": (row.ci95[1] - row.ci95[0]) / 2 for name, row in estimates.items() if row.ci95 is not None
    }
    return {
        "parity": {
            "max_abs": language.parity(same_graph, found), "cases": len(found.lse),
            "by_bucket": {}, "greedy_logits_max_abs": report["greedy_logits_max_abs"],
        },
        "quality": {
            "evaluator": "language", "metrics": {**metrics, **halves}, "items": count,
            "data_sha256": evaluation.sha256, "reference": evaluation.reference or FLOAT_REFERENCE,
        },
        "memory": {key: value for key, value in report.items() if key.endswith("_bytes")},
        "load_s": report["load_s"],
    }
