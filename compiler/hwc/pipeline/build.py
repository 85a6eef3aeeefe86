"""Build: plan, run, hold against the gates, describe, pack. Nothing is tagged unless everything passed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from hwc import machine
from hwc.bundle import pack
from hwc.bundle.export_dir import chosen_measurement
from hwc.bundle.gates import Verdict, hold
from hwc.bundle.open import Bundle
from hwc.bundle.serving import Serving
from hwc.capture.source import locate
from hwc.errors import GateError, UsageError
from hwc.events import Event, Listener
from hwc.lower.placing import uses_host
from hwc.measure.profile import Method
from hwc.oci_layout import Layout
from hwc.pipeline import equivalence, tuning
from hwc.pipeline import targets as resolving
from hwc.pipeline.front import Setting
from hwc.pipeline.outcome import Outcome, created_utc
from hwc.pipeline.plan import Plan, ResolvedTarget, VariantPlan, make_plan, walk
from hwc.pipeline.run import run_steps
from hwc.pipeline.spent import Spent, spent
from hwc.pipeline.store import Store
from hwc.quantise import scheme as schemes
from hwc.spec.model import ModelSpec
from hwc.spec.project import Found, FoundTarget, Project, find_prices, find_target, locate_target


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
    baseline: Bundle | None = None
    """Bundle of the same model to hold regressions against."""
    choices: Mapping[str, str] = field(default_factory=dict)
    """Candidate in its descriptor's [[tune]] by which a variant's code is made; the descriptor's own way elsewhere."""
    tune_budget_s: float | None = None
    """Time for measuring the candidates of each variant, whose choices then replace ``choices``; None: do not."""


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
    modelled: Mapping[str, tuple[str, ...]]
    """Target to its units that were not executed: code on its cores computes in their place."""
    steps_made: int
    steps_reused: int
    wall_s: float
    verdicts: tuple[Verdict, ...]
    store: str
    spent: tuple[Spent, ...]
    """What the steps took that were run for the artefacts, not for tuning alone."""
    chosen: Mapping[str, str]
    """What tuning chose, a candidate by variant; empty where nothing was tuned."""


def plan_build(project: Project, request: Request) -> Plan:
    """Resolve targets and source and plan the steps; touches no network and runs no stage."""
    return _planner(project, request)(request.choices)


def _planner(project: Project, request: Request) -> tuning.PlanOf:
    """Return what plans a build with candidates chosen for some variants; everything else is resolved once."""
    _refuse_unknown_gates(request.found.spec)
    wanted = [_buildable(locate_target(project, name)) for name in request.targets]
    targets = [_resolved(project, found) for found in wanted]
    setting = Setting(
        machine_fingerprint=machine.describe().fingerprint,
        method=asdict(Method()),
        timeout_s=project.spec.step_timeout_s,
        memory_bytes=project.spec.step_memory_bytes,
        profile=not request.smoke,
    )
    located = locate(request.found.spec.source, request.found.folder)
    wanted_schemes = [schemes.find(name) for name in request.schemes]
    return lambda choices: make_plan(request.found, located, targets, wanted_schemes, setting, choices)


def _resolved(project: Project, found: FoundTarget) -> ResolvedTarget:
    """Resolve a target, and its host where its rules may send work there."""
    resolved = replace(resolving.resolve(found.spec, project.home), folder=found.folder)
    if not uses_host(found.spec.legality, found.spec.placement):
        return resolved
    host = resolving.resolve(find_target(project, found.spec.placement.host), project.home)
    if not host.spec.execution.driver.startswith("local"):
        raise UsageError(
            f"work cannot fall back to `{host.spec.name}`: a host runs code on local devices",
            where=f"targets/{found.spec.name}.toml [placement] host", hint="name a target of a CPU, as llvm-cpu-host",
        )
    name = resolved.device_name if host.device_name else ""
    return replace(resolved, host=host, device_name=name, absent_reason=resolved.absent_reason or host.absent_reason)


def _buildable(found: FoundTarget) -> FoundTarget:
    """Return a target that code can be made for; raise UsageError, with its own reason, for any other."""
    found.spec.code()
    return found


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
    _refuse_other_model(request)
    plan_of = _planner(project, request)
    plan = plan_of(request.choices)
    counted = _Counter(listen)
    store = Store(project.home)
    store.repair()
    run = partial(
        run_steps, store=store, jobs=request.jobs, timeout_s=project.spec.step_timeout_s,
        memory_bytes=project.spec.step_memory_bytes,
    )
    tuned: dict[str, dict[str, Any]] = {}
    if request.tune_budget_s is not None:
        tuned = tuning.Tuner(plan_of, run, counted, request.tune_budget_s).tune()
        plan = plan_of({name: record["chosen"] for name, record in tuned.items()})
    done = run(plan.steps(), listen=counted, refresh=request.refresh)
    spec, prices = request.found.spec, find_prices(project)
    outcomes = [Outcome(plan, variant, done, tuned.get(variant.name)) for variant in plan.variants]
    tokens = {outcome.variant.name: outcome.check.get("greedy_tokens", ()) for outcome in outcomes if outcome.check}
    described = [outcome.serving(request.tag, prices, tokens) for outcome in outcomes]

    def trace(variant: VariantPlan) -> Path:
        step = equivalence.layers_step(plan, variant)
        return run(list(walk(step))[::-1], listen=counted)[step.key].path

    verdicts = _verdicts(request, outcomes, described, trace)
    parts = [outcome.parts(serving) for outcome, serving in zip(outcomes, described, strict=True)]
    identity = pack.ModelIdentity(
        model_id=spec.name, version=request.tag, title=spec.title, licences=(spec.licence,)
    )
    packed = pack.pack(
        Layout(project.store).create(), model=identity, tag=f"{spec.name}:{request.tag}", variants=parts,
        created_utc=created_utc(outcomes),
    )
    return Built(
        tag=packed.tag,
        digest=packed.digest,
        changed=packed.changed,
        serving=tuple(dict(part.measurements[0].serving) for part in parts),
        bits_per_parameter=tuple(outcome.audit["bits_per_parameter"] for outcome in outcomes),
        reasons=tuple(variant.target.absent_reason for variant in plan.variants),
        modelled={variant.target.spec.name: tuple(variant.target.spec.modelled) for variant in plan.variants},
        steps_made=len(counted.labels),
        steps_reused=counted.reused,
        wall_s=time.monotonic() - started,
        verdicts=tuple(verdicts),
        store=str(project.store),
        spent=spent(plan.steps(), done, counted.labels),
        chosen={name: record["chosen"] for name, record in tuned.items()},
    )


class _Counter:
    def __init__(self, listen: Listener) -> None:
        self.listen, self.reused = listen, 0
        self.labels: list[str] = []

    def __call__(self, event: Event, /) -> None:
        if event.kind == "done":
            self.labels.append(event.step)
        self.reused += event.kind == "hit"
        self.listen(event)


class GatesMissed(GateError):
    """Some gates were missed; ``verdicts`` holds every gate's."""

    def __init__(self, model: str, verdicts: Sequence[Verdict]) -> None:
        missed = [verdict for verdict in verdicts if verdict.outcome == "missed"]
        super().__init__(
            f"{len(missed)} gate(s) missed; nothing was tagged",
            where="; ".join(f"{verdict.variant}: {verdict.told}" for verdict in missed),
            hint=f"choose another scheme, exclude sensitive layers, or change [gates] in models/{model}.toml",
        )
        self.verdicts = tuple(verdicts)


def _verdicts(
    request: Request, outcomes: Sequence[Outcome], described: Sequence[Serving], trace: equivalence.Trace
) -> list[Verdict]:
    spec = request.found.spec
    found = equivalence.verdicts(outcomes, trace)
    for outcome, serving in zip(outcomes, described, strict=True):
        before = _baseline(request.baseline, serving)
        found += hold(
            serving, outcome.gates(), parity_max_abs=outcome.parity_max_abs, baseline=before,
            functional=outcome.functional,
        )
    if any(verdict.outcome == "missed" for verdict in found):
        raise GatesMissed(spec.name, found)
    return found


def _refuse_other_model(request: Request) -> None:
    if request.baseline is not None and request.baseline.model_id != request.found.spec.name:
        raise UsageError(
            f"the baseline is of model {request.baseline.model_id}, not {request.found.spec.name}",
            hint="name a bundle of the same model",
        )


def _baseline(bundle: Bundle | None, serving: Serving) -> Serving | None:
    """Return the serving metadata of the same variant in the baseline, if it has that variant."""
    if bundle is None:
        return None
    same = [variant for variant in bundle.variants if variant.name == serving.identity.variant_id]
    measurement = chosen_measurement(same[0]) if same else None
    return measurement.parsed_serving() if measurement is not None else None
