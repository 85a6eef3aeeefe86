"""Check and profile a packed bundle on this machine, which need not be its builder's."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwc import digest, files, machine
from hwc.bundle import pack
from hwc.bundle.describe import Findings, describe
from hwc.bundle.describe_language import equivalents
from hwc.bundle.export_dir import chosen_measurement
from hwc.bundle.gates import hold
from hwc.bundle.open import Bundle, Variant, open_bundle
from hwc.bundle.program import copy_out, program_of
from hwc.bundle.reference import Reference
from hwc.bundle.serving import Serving, to_document
from hwc.errors import GateError, IntegrityError, UsageError
from hwc.events import Event, Listener
from hwc.files import locked
from hwc.measure import check as checking
from hwc.measure import profile as profiling
from hwc.measure import score as scoring
from hwc.oci_layout import Layout
from hwc.pipeline.step import tool_version
from hwc.pipeline.store import Store
from hwc.program import on_threads
from hwc.spec.model import EvaluationSpec, Gates
from hwc.spec.project import Project, find_prices
from hwc.spec.target import TargetSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one variant came to on this machine."""

    variant: str
    parity: str
    quality: str
    verdict: str
    document: dict[str, Any]


def remeasure(
    project: Project, layout: Layout, reference: Reference, listen: Listener, *, profile: bool,
    threads: int | None = None,
) -> list[Row]:
    """Verify, run and compare every variant the reference names; with ``profile``, time it and attach the result.

    ``threads`` is for CPU code, and stands in the measurement; without it a variant runs as its target says.
    Raises MachineError where a device or a CPU feature is missing, IntegrityError for altered content, GateError if
    a variant misses a gate here; nothing is attached then.
    """
    if profile and not reference.tag:
        raise UsageError("a profile is attached to a tag", where=str(reference), hint="name the bundle as MODEL:TAG")
    bundle = open_bundle(layout, reference)
    rows = []
    for variant in bundle.variants:
        started = time.monotonic()
        listen(Event(kind="start", step=f"check {variant.name}"))
        with Store(project.home).scratch("remeasure") as work, locked(project.home / "locks" / "machine"):
            rows.append(_one(project, layout, bundle, variant, work, profile=profile, threads=threads))
        listen(Event(kind="done", step=f"check {variant.name}", wall_s=time.monotonic() - started))
    return rows


def _one(
    project: Project, layout: Layout, bundle: Bundle, variant: Variant, work: Path, *, profile: bool,
    threads: int | None,
) -> Row:
    variant.verify()
    program, facts = program_of(variant), variant.facts
    if threads is not None:
        program = on_threads(program, threads)
    if profile and program.device.emulator is not None:
        raise UsageError(
            "an emulated chip has no latency: the emulator's time says nothing about it", where=variant.name,
            hint="`hwc check` runs it; its figures are predicted from the descriptor",
        )
    evaluation = EvaluationSpec.model_validate(facts["evaluation"])
    _own_evaluator(evaluation.evaluator, facts.get("evaluator_sha256"))
    golden = copy_out(variant, "golden", work / "golden")
    same_graph = golden / ("reference.npz" if (golden / "reference.npz").is_file() else "expected.npz")
    limits: dict[str, Any] = {
        "timeout_s": project.spec.step_timeout_s, "memory_bytes": project.spec.step_memory_bytes
    }
    if (generation := facts.get("generation")) is not None:
        nearest = golden / "nearest.npz"
        against = scoring.Golden(
            cases=golden, reference=same_graph, nearest=nearest if nearest.is_file() else None
        )
        report = scoring.check(
            program, evaluation, against, context_tokens=int(generation["context_tokens"]),
            greedy_tokens=int(generation["greedy_tokens"]), work=work / "run", **limits,
        )
    else:
        reference = work / "reference"
        reference.mkdir()
        (reference / "expected.npz").write_bytes(same_graph.read_bytes())
        report = checking.check(
            program, evaluation, folder=Path.cwd(), cases=golden, reference=reference, work=work / "run", **limits
        )
    timed = _timed(project, program, facts, golden, work) if profile else None
    serving = _serving(project, bundle, variant, report, timed)
    verdicts = hold(
        serving, Gates.model_validate(facts["gates"]), parity_max_abs=facts["parity_max_abs"],
        functional=facts["target"]["execution"]["functional_only"],
    )
    missed = [verdict.told for verdict in verdicts if verdict.outcome == "missed"]
    if missed:
        raise GateError(
            f"{variant.name} misses {len(missed)} gate(s) on this machine", where="; ".join(missed),
            hint="the artefact computes something else here: do not serve it from this machine",
        )
    if timed is not None:
        own = program.device.threads == facts["device"]["threads"]
        method = "profile" if own else f"profile-threads-{program.device.threads}"
        _attach(layout, bundle, variant, serving, {"check.json": report, "profile.json": timed}, method)
    metrics = report["quality"]["metrics"]
    told = next(name for name in ("cosine_mean", "kl_mean", "top1", "max_abs", "greedy_tokens") if name in metrics)
    return Row(
        variant=variant.name, parity=f"{report['parity']['max_abs']:.1e}", quality=f"{told} {metrics[told]:.5f}",
        verdict="passed" + (", profile attached" if timed else ""),
        document={"variant": variant.name, "check": report, "profile": timed},
    )


def _own_evaluator(name: str, sha256: str | None) -> None:
    """Refuse an evaluator of the user's own unless the working folder holds the very file the bundle was built with.

    A bundle may come from anywhere: it cannot name a file elsewhere on this machine to be run.
    """
    file, colon, _ = name.rpartition(":")
    if not colon:
        return
    path = files.confined(Path.cwd(), file)
    if not path.is_file():
        hint = "run this in the folder that holds it"
        raise UsageError(f"the bundle is judged by the evaluator {name}, which is not here", where=str(path), hint=hint)
    if digest.of_file(path) != sha256:
        raise IntegrityError(
            f"the evaluator {name} is not the one the bundle was built with", where=str(path),
            hint="take the version it was built with, or build it again",
        )


def _timed(
    project: Project, program: Any, facts: Mapping[str, Any], golden: Path, work: Path
) -> dict[str, Any]:
    import json

    out = work / "profile"
    out.mkdir()
    method = profiling.Method(composed=not facts["target"]["execution"]["functional_only"])
    context_tokens = facts.get("generation", {}).get("context_tokens")
    profiling.profile(
        program, method, cases=golden, context_tokens=context_tokens, timeout_s=project.spec.step_timeout_s,
        memory_bytes=project.spec.step_memory_bytes, out=out,
    )
    loaded: dict[str, Any] = json.loads((out / "profile.json").read_text())
    return loaded


def _serving(
    project: Project, bundle: Bundle, variant: Variant, check: dict[str, Any], profile: dict[str, Any] | None
) -> Serving:
    documents = {"check.json": check, "profile.json": profile}
    tokenizer = variant.files.get("tokenizer/tokenizer.json")
    found = Findings(
        bundle_id=f"{bundle.model_id}:{bundle.version}", model_id=bundle.model_id,
        created_utc=profile["measured_utc"] if profile else bundle.created_utc,
        target=TargetSpec.model_validate(variant.facts["target"]), scheme=variant.scheme,
        content_sha256=variant.content_sha256, golden_sha256=variant.files["golden/cases.npz"].sha256,
        tokenizer_sha256=tokenizer.sha256 if tokenizer else None, audit=variant.facts["audit"], check=check,
        profile=profile,
        tools={**variant.facts["tools"], "iree-base-runtime": tool_version("iree-base-runtime")},
        raw={name: digest.of_json(document) for name, document in documents.items() if document},
        language=variant.facts.get("generation"),
        equivalents=equivalents(variant.name, {**_golden_tokens(bundle), variant.name: check.get("greedy_tokens", ())}),
    )
    return describe(found, find_prices(project))


def _golden_tokens(bundle: Bundle) -> dict[str, Sequence[int]]:
    """Return the greedy tokens of each variant, as they were last made."""
    found = {one.name: chosen_measurement(one) for one in bundle.variants}
    return {
        name: measured.documents.get("check.json", {}).get("greedy_tokens", ())
        for name, measured in found.items()
        if measured is not None
    }


def _attach(
    layout: Layout, bundle: Bundle, variant: Variant, serving: Serving, documents: dict[str, Any], method: str
) -> None:
    measurement = pack.MeasurementParts(
        serving=to_document(serving), machine_sha256=machine.describe().fingerprint, method=method,
        documents=documents,
    )
    pack.attach(
        layout,
        model=pack.ModelIdentity(
            model_id=bundle.model_id, version=bundle.version, title=variant.facts["model"]["title"]
        ),
        tag=bundle.tag,
        target=variant.target, scheme=variant.scheme, measurement=measurement, status="verified",
        created_utc=serving.identity.created_utc,
    )
