"""Check of a language model: its windows scored, its greedy text written, on its real runtime in a clean process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwc.capture import calls, greedy, reduced
from hwc.capture.reduced import Reduced
from hwc.measure import check as checking
from hwc.measure import language
from hwc.measure.clustered import Estimate
from hwc.program import Program
from hwc.runtime import clean
from hwc.spec.model import EvaluationSpec

EXPECTED, OUTPUTS = "expected.npz", "outputs.npz"
FLOAT_REFERENCE = "the float32 model as captured, in ONNX Runtime"


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """What an artefact's answers are compared with."""

    cases: Path
    """Folder of the calls and of the float model's answers to them."""
    reference: Path
    """Answers of strict ONNX Runtime on the same quantised graph."""
    nearest: Path | None = None
    """Answers of the scheme's twin that rounds to nearest."""


def check(
    program: Program,
    evaluation: EvaluationSpec,
    against: Golden,
    *,
    context_tokens: int,
    greedy_tokens: int,
    work: Path,
    timeout_s: float,
    memory_bytes: int,
) -> dict[str, Any]:
    """Score every call and write the golden text in a clean process; return parity, quality and memory.

    ``parity`` compares logits with strict ONNX Runtime on the same quantised graph, ``quality`` next-token
    distributions with the float model's, and up to ``greedy_tokens`` tokens with those of the model in PyTorch. Where
    no shape tells the logits of every position, quality is the greedy tokens alone.
    """
    report = clean.serve(
        work, program, "score", timeout_s=timeout_s, memory_bytes=memory_bytes, cases=str(against.cases),
        context_tokens=context_tokens, greedy_tokens=greedy_tokens,
    )
    found = reduced.load(work / OUTPUTS)
    told = greedy.load(against.cases)
    tokens = report["greedy_tokens"]
    estimates = {
        **_scores(found, against),
        "greedy_tokens": language.greedy_tokens([told.tokens[: len(tokens)]], [tokens]),
    }
    return {
        "parity": {
            "max_abs": language.parity(reduced.load(against.reference), found), "cases": len(found.lse),
            "by_bucket": {}, "greedy_logits_max_abs": report["greedy_logits_max_abs"],
        },
        "quality": {"evaluator": "language", **_told(estimates), **_references(evaluation)},
        "greedy_tokens": tokens,
        **checking.process_facts(report),
    }


def _scores(found: Reduced, against: Golden) -> dict[str, Estimate]:
    """Return what the windows of text tell; nothing where there are none."""
    scored = calls.load_scored(against.cases)
    count = len(scored.domains) * scored.positions_per_window
    if not count:
        return {}
    at = language.places(scored.domains, scored.positions_per_window)
    floats, own = (calls.part(one, 0, count) for one in (reduced.load(against.cases / EXPECTED), found))
    estimates = language.compare(floats, own, at)
    if against.nearest is not None:
        nearest = calls.part(reduced.load(against.nearest), 0, count)
        estimates["kl_vs_rtn"] = language.kl_vs_rtn(floats, own, nearest, at)
    return estimates


def _told(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    return {
        "metrics": {name: row.value for name, row in estimates.items()},
        "intervals": {name: list(row.ci95) for name, row in estimates.items() if row.ci95 is not None},
        "observations": {name: row.n for name, row in estimates.items()},
    }


def _references(evaluation: EvaluationSpec) -> dict[str, Any]:
    return {"data_sha256": evaluation.sha256, "reference": evaluation.reference or FLOAT_REFERENCE}
