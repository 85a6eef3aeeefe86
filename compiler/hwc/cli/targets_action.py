"""What ``hwc targets list``, ``show`` and ``new`` do: load, or write, then render."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hwc import render
from hwc.cli.facts_action import flat
from hwc.errors import UsageError
from hwc.files import write_atomic
from hwc.pipeline.targets import resolve
from hwc.spec import new_target, strict
from hwc.spec.facts import Fact, facts, kinds
from hwc.spec.legality import LegalityRule
from hwc.spec.project import FoundTarget, Project, names_on, open_project, read_target
from hwc.spec.target import TargetSpec

RULE_COLUMNS = ("operations", "types", "weights", "shape", "becomes", "reason")
FIGURE_COLUMNS = ("figure", "value", "source", "entry of [sources]")
SOURCE_COLUMNS = ("entry of [sources]", "kind", "where")


def listed(format: str) -> None:
    """List targets."""
    project = open_project(Path.cwd())
    rows = [_row(project, name) for name in sorted(names_on(project.targets_path))]
    if format == "json":
        render.as_json(rows)
        return
    columns = ("target", "title", "made", "backend", "hardware", "figures", "runs here")
    render.table("", columns, [list(row.values()) for row in rows])


def _row(project: Project, name: str) -> dict[str, str]:
    resolved = resolve(read_target(project, name).spec, project.home)
    spec = resolved.spec
    counted = kinds(facts(spec))
    return {
        "name": name, "title": spec.title, "made": spec.made,
        "backend": spec.lowering.backend if spec.lowering else "–", "hardware": spec.hardware_status,
        "figures": ", ".join(f"{count} {kind}" for kind, count in counted.items()) or "–",
        "runs_here": resolved.device_name or "no",
    }


def show(name: str, format: str) -> None:
    """Show one target, resolved."""
    project = open_project(Path.cwd())
    resolved = resolve(read_target(project, name).spec, project.home)
    figures = facts(resolved.spec)
    document = {
        **resolved.spec.model_dump(mode="json", exclude_none=True), "made": resolved.spec.made,
        **_modelled(resolved.spec),
        "resolved": {
            "device_on_this_machine": resolved.device_name, "absent_reason": resolved.absent_reason,
            "required_isa_features": list(resolved.device.isa_features),
        },
    }
    if format == "json":
        render.as_json({**document, "figures": [{**asdict(fact), "told": fact.told()} for fact in figures]})
        return
    _show(resolved.spec, document, figures)


def _modelled(spec: TargetSpec) -> dict[str, dict[str, str]]:
    """Tell which units are not executed, and what is in their place."""
    text = "not executed: {} on the cores computes in its place; its time and energy come from its figures"
    told = {
        unit: text.format(f"the code of {', '.join(kernels)}" if kernels else "generated code")
        for unit, kernels in spec.modelled.items()
    }
    return {"modelled": told} if told else {}


def _show(spec: TargetSpec, document: dict[str, Any], figures: Sequence[Fact]) -> None:
    """Draw what is no figure as keys and values, then legality, figures and their sources as tables of their own."""
    kept = {key: value for key, value in document.items() if key not in ("hardware", "sources", "legality")}
    render.table(spec.title, ("key", "value"), [[key, value] for key, value in flat(kept)])
    if spec.legality:
        render.table("the first rule that fits decides", RULE_COLUMNS, [_rule(rule) for rule in spec.legality])
    if figures:
        counted = ", ".join(f"{count} {kind}" for kind, count in kinds(figures).items())
        render.table(f"{len(figures)} figures: {counted}", FIGURE_COLUMNS, [_figure(fact) for fact in figures])
        told = {fact.source_key: _source(fact) for fact in figures}
        render.table("", SOURCE_COLUMNS, list(told.values()))


def _rule(rule: LegalityRule) -> list[str]:
    bounds = [
        f"{dim} {sign} {bound}"
        for sign, bounds in (("≥", rule.at_least), ("≤", rule.at_most), ("multiple of", rule.multiple_of))
        for dim, bound in bounds.items()
    ]
    return [
        " ".join(rule.ops) or "all", " ".join(rule.elements) or "any", " ".join(rule.weights) or "any",
        ", ".join(bounds) or "any", " ".join(filter(None, (rule.action, rule.kernel, rule.unit))), rule.reason,
    ]


def _figure(fact: Fact) -> list[str]:
    return [fact.key.removeprefix("hardware."), fact.told(), fact.source, fact.source_key]


def _source(fact: Fact) -> list[str]:
    when = f" ({fact.as_of})" if fact.as_of else ""
    return [fact.source_key, fact.source, f"{fact.where}{when}"]


def new(name: str, origin: str | None) -> None:
    """Write a new descriptor; raise UsageError for a bad name, or one that is taken."""
    project = open_project(Path.cwd())
    path = project.root / project.spec.targets_dir / f"{name}.toml"
    found = read_target(project, origin) if origin is not None else None
    text = _text(name, found)
    strict.parse(text, TargetSpec, where=f"the new descriptor {name}")
    if name in (known := names_on(project.targets_path)):
        raise UsageError(f"there is a target `{name}`", where=str(known[name]), hint="choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())
    if found is not None:
        _bring(found, path.parent)
    render.note(f"fill it in, then: hwc targets check {name}")
    render.result(str(path))


def _text(name: str, found: FoundTarget | None) -> str:
    if found is None:
        return new_target.template(name)
    text = strict.read_text(found.folder / f"{found.spec.name}.toml")
    return new_target.copied(text, name, found.spec.name)


def _bring(found: FoundTarget, folder: Path) -> None:
    """Tell which files of the original's kernels lie beside it, and are wanted beside the copy."""
    for kernel in found.spec.kernels.values():
        file = kernel.source or kernel.object
        if not (folder / file).is_file():
            render.note(f"copy {found.folder / file} to {folder / file}: a kernel is in it")
