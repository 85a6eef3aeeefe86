"""Build: plan, run, hold against the gates, describe, pack. Nothing is tagged unless everything passed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hwc import digest, machine
from hwc.bundle import pack
from hwc.bundle.describe import Findings, describe
from hwc.bundle.manifest import content_sha256
from hwc.bundle.serving import to_document
from hwc.capture.source import locate
from hwc.errors import GateError, UsageError
from hwc.events import Event, Listener
from hwc.measure.check import misses
from hwc.measure.profile import Method, misses_latency
from hwc.oci_layout import Layout
from hwc.pipeline import targets as resolving
from hwc.pipeline.plan import Plan, Setting, VariantPlan, make_plan
from hwc.pipeline.run import run_steps
from hwc.pipeline.step import tool_version
from hwc.pipeline.store import Artifact, Store
from hwc.quantise import scheme as schemes
from hwc.spec.model import Gates, ModelSpec
from hwc.spec.project import Found, Project, find_prices, find_target

TOOLS = ("torch", "optimum-onnx", "onnx", "onnxsim", "onnxruntime", "iree-base-compiler", "iree-base-runtime")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to build."""

    found: Found
    targets: tuple[str, ...]
    schemes: tuple[str, ...]
    jobs: int
    tag: str = "dev"
    smoke: bool = False
    """Check, but do not profile."""
    refresh: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a build came to."""

    tag: str
    digest: str
    changed: bool
    serving: tuple[dict[str, Any], ...]
    """serving.json of every variant, in the plan's order."""
    bits_per_parameter: tuple[float, ...]
    reasons: tuple[str, ...]
    """Why a variant is unverified; empty otherwise."""
    steps_made: int
    steps_reused: int
    wall_s: float
    store: str


def plan_build(project: Project, request: Request) -> Plan:
    """Resolve targets and source and plan the steps; touches no network and runs no stage."""
    _refuse_unknown_gates(request.found.spec)
    targets = [resolving.resolve(find_target(project, name), project.home) for name in request.targets]
    setting = Setting(
        machine_fingerprint=machine.describe().fingerprint,
        method=asdict(Method()),
        timeout_s=project.spec.step_timeout_s,
        memory_bytes=project.spec.step_memory_bytes,
        profile=not request.smoke,
    )
    located = locate(request.found.spec.source, request.found.folder)
    return make_plan(request.found, located, targets, [schemes.find(name) for name in request.schemes], setting)


def _refuse_unknown_gates(spec: ModelSpec) -> None:
    """Raise UsageError for gates of a scheme there is none of: they would hold nothing, silently."""
    for name in spec.gates:
        try:
            schemes.find(name)
        except UsageError as error:
            raise UsageError(error.what, where=f"[gates.{name}] of model {spec.name}", hint=error.hint) from error


def build(project: Project, request: Request, listen: Listener) -> Built:
    """Run a build to its bundle.

    Raises GateError, with every miss, before anything is tagged; and whatever the first failing step raises.
    """
    started = time.monotonic()
    plan = plan_build(project, request)
    counted = _Counter(listen)
    store = Store(project.home)
    store.repair()
    done = run_steps(
        plan.steps(), store, counted, jobs=request.jobs, timeout_s=project.spec.step_timeout_s,
        memory_bytes=project.spec.step_memory_bytes, refresh=request.refresh,
    )
    outcomes = [_Outcome(plan, variant, done) for variant in plan.variants]
    _hold_gates(request.found.spec, outcomes)
    parts = [outcome.parts(project, request) for outcome in outcomes]
    spec = request.found.spec
    identity = pack.ModelIdentity(
        model_id=spec.name, version=request.tag, title=spec.title, licences=(spec.licence,)
    )
    packed = pack.pack(
        Layout(project.store).create(), model=identity, tag=f"{spec.name}:{request.tag}", variants=parts,
        created_utc=_created(outcomes),
    )
    return Built(
        tag=packed.tag,
        digest=packed.digest,
        changed=packed.changed,
        serving=tuple(dict(part.measurements[0].serving) for part in parts),
        bits_per_parameter=tuple(outcome.audit["bits_per_parameter"] for outcome in outcomes),
        reasons=tuple(variant.target.absent_reason for variant in plan.variants),
        steps_made=counted.made,
        steps_reused=counted.reused,
        wall_s=time.monotonic() - started,
        store=str(project.store),
    )


class _Counter:
    def __init__(self, listen: Listener) -> None:
        self.listen, self.made, self.reused = listen, 0, 0

    def __call__(self, event: Event, /) -> None:
        self.made += event.kind == "done"
        self.reused += event.kind == "hit"
        self.listen(event)


def _read(folder: Path, name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / name).read_text())
    return loaded


class _Outcome:
    """The outputs of one variant's steps."""

    def __init__(self, plan: Plan, variant: VariantPlan, done: Mapping[str, Artifact]) -> None:
        self.spec, self.variant = plan.found.spec, variant
        self.path = {
            name: done[step.key].path
            for name, step in {
                "capture": variant.capture, "simplify": variant.simplify, "cases": variant.cases,
                "reference": variant.reference,
                "encode": variant.encode, "lower": variant.lower, "check": variant.check, "profile": variant.profile,
            }.items()
            if step is not None and step.key in done
        }
        self.sha256 = {
            artifact.path / name: sha256 for artifact in done.values() for name, sha256 in artifact.sha256.items()
        }
        self.audit = _read(self.path["encode"], "audit.json")
        self.check = _read(self.path["check"], "check.json") if "check" in self.path else None
        self.profile = _read(self.path["profile"], "profile.json") if "profile" in self.path else None

    def gates(self) -> Gates:
        return self.spec.gates.get(self.variant.scheme.name, Gates())

    def misses(self) -> list[str]:
        found = []
        if self.check is not None:
            found += misses(self.check, self.gates(), self.spec.parity_max_abs, self.audit["bits_per_parameter"])
        if self.profile is not None:
            found += misses_latency(self.profile, self.gates())
        return [f"{self.variant.name}: {miss}" for miss in found]

    def files(self) -> dict[str, Path]:
        """Role to file: what the bundle holds."""
        found = {
            "code/module.vmfb": self.path["lower"] / "module.vmfb",
            "weights/float.irpa": self.path["encode"] / "float.irpa",
            "weights/linears.irpa": self.path["encode"] / "linears.irpa",
        }
        for name in ("cases.npz", "cases.json", "expected.npz"):
            found[f"golden/{name}"] = self.path["cases"] / name
        if "reference" in self.path:
            found["golden/reference.npz"] = self.path["reference"] / "expected.npz"
        for kind in ("tokenizer", "licences"):
            folder = self.path["capture"] / kind
            for file in sorted(folder.iterdir()) if folder.is_dir() else []:
                found[f"{kind}/{file.name}"] = file
        return found

    def facts(self) -> dict[str, Any]:
        """Return what is true of the variant wherever it was built: no time, no path, no measurement."""
        target, spec = self.variant.target, self.spec
        return {
            "model": {
                "id": spec.name, "title": spec.title, "task": spec.task, "licence": spec.licence,
                "batch_dim": spec.batch_dim, "outputs": list(spec.outputs),
                "inputs": {name: tensor.model_dump(mode="json") for name, tensor in spec.inputs.items()},
            },
            "target": target.spec.model_dump(mode="json", exclude_none=True),
            "target_sha256": digest.of_json(target.spec.model_dump(mode="json")),
            "device": {**asdict(target.device), "isa_features": list(target.device.isa_features)},
            "scheme": asdict(self.variant.scheme),
            "audit": self.audit,
            "capture": _read(self.path["capture"], "capture.json"),
            "simplify": _read(self.path["simplify"], "simplify.json"),
            "lower": _read(self.path["lower"], "lower.json"),
            "evaluation": spec.evaluation.model_dump(mode="json", exclude_none=True),
            **_evaluator_facts(self.variant),
            "gates": self.gates().model_dump(mode="json", exclude_none=True),
            "parity_max_abs": spec.parity_max_abs,
            "tools": {tool: tool_version(tool) for tool in TOOLS},
        }

    def created_utc(self) -> str | None:
        return self.profile["measured_utc"] if self.profile else None

    def parts(self, project: Project, request: Request) -> pack.VariantParts:
        files = self.files()
        digests = {role: self.sha256[path] for role, path in files.items()}
        documents = {"check.json": self.check or {}, "profile.json": self.profile or {}}
        found = Findings(
            bundle_id=f"{self.spec.name}:{request.tag}",
            model_id=self.spec.name,
            created_utc=_created([self]),
            target=self.variant.target.spec,
            scheme=self.variant.scheme.name,
            content_sha256=content_sha256(digests.items()),
            golden_sha256=digests["golden/cases.npz"],
            tokenizer_sha256=digests.get("tokenizer/tokenizer.json"),
            audit=self.audit,
            check=self.check,
            profile=self.profile,
            tools={tool: tool_version(tool) for tool in TOOLS},
            raw={name: digest.of_json(document) for name, document in documents.items() if document},
        )
        serving = describe(found, find_prices(project))
        measurement = pack.MeasurementParts(
            serving=to_document(serving),
            machine_sha256=machine.describe().fingerprint,
            method="build",
            documents={name: document for name, document in documents.items() if document},
        )
        return pack.VariantParts(
            target=self.variant.target.spec.name,
            scheme=self.variant.scheme.name,
            status=serving.status,
            files=files,
            facts=self.facts(),
            measurements=(measurement,),
        )


def _evaluator_facts(variant: VariantPlan) -> dict[str, str]:
    """Return the digest of the user's own evaluator, by which a later check knows that it is the same."""
    sha256 = variant.check.params.get("evaluator_sha256") if variant.check else None
    return {"evaluator_sha256": sha256} if sha256 else {}


def _created(outcomes: Sequence[_Outcome]) -> str:
    """Return when the newest measurement was made, or SOURCE_DATE_EPOCH, or the epoch where nothing was measured."""
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(epoch)))
    return max(filter(None, (outcome.created_utc() for outcome in outcomes)), default="1970-01-01T00:00:00Z")


def _hold_gates(spec: ModelSpec, outcomes: Sequence[_Outcome]) -> None:
    found = [miss for outcome in outcomes for miss in outcome.misses()]
    if found:
        raise GateError(
            f"{len(found)} gate(s) missed; nothing was tagged",
            where="; ".join(found),
            hint=f"choose another scheme, exclude sensitive layers, or change [gates] in models/{spec.name}.toml",
        )

