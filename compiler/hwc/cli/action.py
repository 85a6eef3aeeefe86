"""What the build commands do: resolve names, make one call, render its result."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hwc import render
from hwc.bundle.gates import Verdict
from hwc.bundle.open import Bundle, open_bundle
from hwc.bundle.reference import parse
from hwc.files import write_atomic
from hwc.oci_layout import Layout
from hwc.pipeline import build as building
from hwc.pipeline import ci, explain, tuned
from hwc.pipeline.build import Built, GatesMissed, Request
from hwc.pipeline.plan import Plan
from hwc.pipeline.store import Store
from hwc.spec import infer
from hwc.spec.project import Found, Project, open_project

STEP_GIB = 3
"""Memory one step of a small model takes at most; jobs are bounded by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """The options of ``hwc build``, as they were given."""

    targets: Sequence[str] | None
    schemes: Sequence[str] | None
    everything: bool
    jobs: int
    smoke: bool
    refresh: Sequence[str]
    tune_budget_s: float | None
    tuned: Path | None
    tag: str
    baseline: str | None
    junit: Path | None
    summary: Path | None
    timings: bool
    format: str


def build(models: Sequence[str], options: BuildOptions) -> None:
    """Build every model in turn and show its bundle; the CI files are written whether gates are held or not."""
    project = open_project(Path.cwd())
    results: list[Built] = []
    verdicts: list[Verdict] = []
    try:
        for model in models:
            results.append(_build_one(project, model, options))
            verdicts += results[-1].verdicts
    except GatesMissed as missed:
        verdicts += missed.verdicts
        raise
    finally:
        _write_ci(options, ", ".join(models), verdicts)
    if options.format == "json":
        render.as_json([_as_json(built) for built in results])


def _build_one(project: Project, model: str, options: BuildOptions) -> Built:
    request = replace(
        _request(project, model, options.targets, options.schemes, options.everything),
        tag=options.tag,
        smoke=options.smoke,
        jobs=options.jobs or project.spec.jobs or default_jobs(),
        refresh=explain.known_stages(options.refresh),
        baseline=_baseline(project, options.baseline),
        tune_budget_s=options.tune_budget_s,
    )
    if options.tuned is not None and options.tune_budget_s is None:
        request = replace(request, choices=tuned.read(options.tuned, request.found.spec.name))
    _tell_inferred(model, request.found)
    with render.Progress() as progress:
        built = building.build(project, request, progress)
    if options.tuned is not None and options.tune_budget_s is not None:
        tuned.write(options.tuned, request.found.spec.name, built.chosen)
    if options.format == "table":
        show(built)
        if options.timings and built.spent:
            _show_spent(built)
    return built


def _baseline(project: Project, text: str | None) -> Bundle | None:
    if text is None:
        return None
    reference = parse(text, default_store=str(project.store))
    return open_bundle(Layout(reference.store).check(), reference)


def _write_ci(options: BuildOptions, name: str, verdicts: Sequence[Verdict]) -> None:
    """Write JUnit XML, and the summary where it was asked for or GitHub Actions gives a file for it."""
    if options.junit is not None:
        write_atomic(options.junit, ci.junit(name, verdicts))
    told = options.summary or (Path(os.environ["GITHUB_STEP_SUMMARY"]) if "GITHUB_STEP_SUMMARY" in os.environ else None)
    if told is not None and verdicts:
        with told.open("a", encoding="utf-8") as stream:
            stream.write(ci.summary(name, verdicts))
    for verdict in verdicts:
        if verdict.outcome == "unjudged":
            render.note(f"not judged: {verdict.variant} {verdict.gate}: {verdict.told}")


def default_jobs() -> int:
    """Return how many steps to run at once: a core each, and memory for each."""
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return max(1, min(len(os.sched_getaffinity(0)), int(memory_gib // STEP_GIB)))


def show(built: Built) -> None:
    """Draw a build's table and say what was done."""
    render.bundle(
        f"{built.tag}  {built.digest[:19]}  in oci:{built.store}", built.serving, built.bits_per_parameter
    )
    for document, reason in zip(built.serving, built.reasons, strict=True):
        if document["status"] == "unverified":
            render.note(f"{document['identity']['variant_id']} is unverified: {reason}; it tells no latency")
        elif document["status"] == "hand-over":
            render.note(f"{document['identity']['variant_id']} is a hand-over: sources for the vendor's compiler")
    for name, units in built.modelled.items():
        for unit in units:
            render.note(f"{name}: its unit {unit} is modelled, not executed: code on the cores computes in its place")
    noisy = [name for document in built.serving for name in document["profile"].get("conditions", {}).get("notes", [])]
    if noisy:
        render.note(f"? noisy cells, kept and flagged: {'; '.join(sorted(set(noisy))[:6])}")
    done = f"{built.steps_made} steps run, {built.steps_reused} reused, {built.wall_s:.1f} s"
    render.note(f"{'built' if built.changed else 'nothing to do: up to date'} ({done})")


SPENT_COLUMNS = ("step", "wall s", "CPU s", "compiler s", "peak MiB")


def _show_spent(built: Built) -> None:
    """Draw where the time of a build went, and how much of it ran at once."""
    rows = [
        [
            one.step, f"{one.wall_s:.1f}", f"{one.cpu_s:.1f}",
            "–" if one.compiler_s is None else f"{one.compiler_s:.1f}", f"{one.peak_rss_bytes / 2**20:.0f}",
        ]
        for one in built.spent
    ]
    wall_s, cpu_s = sum(one.wall_s for one in built.spent), sum(one.cpu_s for one in built.spent)
    render.table("where the time went", SPENT_COLUMNS, rows)
    render.note(f"steps: {wall_s:.1f} s one after another, {cpu_s:.1f} s of CPU; the build: {built.wall_s:.1f} s")


def _as_json(built: Built) -> dict[str, Any]:
    return {
        "tag": built.tag, "digest": built.digest, "changed": built.changed, "variants": list(built.serving),
        "bits_per_parameter": list(built.bits_per_parameter), "unverified_reasons": list(built.reasons),
        "gates": [asdict(verdict) for verdict in built.verdicts], "steps_run": built.steps_made,
        "steps_reused": built.steps_reused, "wall_s": built.wall_s,
        "spent": [asdict(one) for one in built.spent],
    }


def _request(
    project: Project, model: str, targets: Sequence[str] | None, schemes: Sequence[str] | None, everything: bool
) -> Request:
    found = infer.find(project, model)
    matrix = found.spec.build
    every_target = matrix.all_targets if everything and matrix.all_targets else matrix.targets
    every_scheme = matrix.all_schemes if everything and matrix.all_schemes else matrix.schemes
    return Request(
        found=found, targets=tuple(dict.fromkeys(targets or every_target)),
        schemes=tuple(dict.fromkeys(schemes or every_scheme)), jobs=1,
    )


def _tell_inferred(model: str, found: Found) -> None:
    if not found.inferred:
        return
    spec = found.spec
    render.note(f"inferred from {model}: task {spec.task}, outputs {', '.join(spec.outputs)}")
    for name, tensor in spec.inputs.items():
        render.note(f"  input {name}: {tensor.dtype}[{', '.join(map(str, tensor.shape))}]")
    shapes = [", ".join(f"{dim} {size}" for dim, size in bucket.items()) or "static" for bucket in spec.buckets]
    render.note(f"  shapes {'; '.join(shapes)}; `hwc models new` writes the TOML")


Matrix = tuple[Sequence[str] | None, Sequence[str] | None, bool]
"""Targets and schemes as they were named, and whether the model's full matrix is meant."""


def _plans(project: Project, models: Sequence[str], matrix: Matrix) -> Iterator[Plan]:
    for model in models:
        yield building.plan_build(project, _request(project, model, *matrix))


def plan(models: Sequence[str], matrix: Matrix, *, format: str) -> None:
    """Show every step with its key and whether it is done."""
    project = open_project(Path.cwd())
    store = Store(project.home)
    rows = [
        {
            "step": step.label, "stage": step.stage.name, "key": step.key,
            "done": store.lookup(step.stage.name, step.key) is not None,
        }
        for planned in _plans(project, models, matrix)
        for step in planned.steps()
    ]
    if format == "json":
        render.as_json(rows)
        return
    drawn = [[str(row["step"]), "done" if row["done"] else "to run", str(row["key"])[7:19]] for row in rows]
    render.table("", ("step", "state", "key"), drawn)


def why(models: Sequence[str], matrix: Matrix, *, format: str) -> None:
    """Show what changed for every step that is to run."""
    project = open_project(Path.cwd())
    store = Store(project.home)
    rows = [row for planned in _plans(project, models, matrix) for row in explain.reasons(planned, store)]
    if format == "json":
        render.as_json(rows)
    elif not rows:
        render.result("nothing to run: every step is done")
    else:
        render.table("", ("step", "because"), [[row["step"], row["because"]] for row in rows])


def doctor(start: Path, *, format: str) -> None:
    """Show the machine's abilities."""
    from hwc.pipeline import doctor as examining

    project = open_project(start)
    report = examining.examine(project)
    if format == "json":
        render.as_json(report)
        return
    tools = [[row["name"], row["version"], row["advice"]] for row in report["tools"]]
    render.table("tools", ("tool", "version", "what to do"), tools)
    columns = ("target", "builds", "runs here", "why not, and what to do")
    targets = [[row["name"], row["builds"], row["runs"], row["advice"]] for row in report["targets"]]
    render.table("targets", columns, targets)
    models = [[row["name"], row["ready"], row["advice"]] for row in report["models"]]
    render.table("models", ("model", "ready", "what to do"), models)
    render.note(f"cache {report['home']}: {report['cache']}; free disk {report['free_gib']:.0f} GiB")
