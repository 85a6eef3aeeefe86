"""What the fact commands do: load, then render."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from hwc import render
from hwc.errors import UsageError
from hwc.files import write_atomic
from hwc.quantise import scheme as schemes
from hwc.spec import infer, strict
from hwc.spec.project import find_model, find_target, names_on, open_project


def models_list(format: str) -> None:
    """List models."""
    project = open_project(Path.cwd())
    found = [find_model(project, name) for name in sorted(names_on(project.models_path))]
    if format == "json":
        render.as_json([{"name": row.spec.name, "title": row.spec.title, "task": row.spec.task} for row in found])
        return
    specs = [row.spec for row in found]
    rows = [
        [spec.name, spec.title, spec.task, spec.source.kind, " ".join(spec.build.schemes), spec.licence]
        for spec in specs
    ]
    render.table("", ("model", "title", "task", "source", "schemes", "licence"), rows)


def models_show(name: str, format: str) -> None:
    """Show one model as TOML, or as JSON."""
    found = infer.find(open_project(Path.cwd()), name)
    if format == "json":
        render.as_json(found.spec.model_dump(mode="json", exclude_none=True))
    else:
        render.result(infer.to_toml(found.spec))


def models_new(source: str, output: Path | None, *, force: bool) -> None:
    """Write an inferred specification."""
    project = open_project(Path.cwd())
    found = infer.infer(source)
    path = (output or project.root / project.spec.models_dir / f"{found.spec.name}.toml").absolute()
    if path.suffix != ".toml":
        raise UsageError("a model's specification is a .toml file", where=str(path))
    if path.exists() and not force:
        raise UsageError("the file exists", where=str(path), hint="--force overwrites it, -o names another")
    spec = infer.relocated(found, path.parent).model_copy(update={"name": infer.name_from(path.stem)})
    write_atomic(path, infer.to_toml(spec).encode())
    render.result(str(path))


def schemes_list(format: str) -> None:
    """List schemes."""
    if format == "json":
        render.as_json([asdict(entry) for entry in schemes.SCHEMES.values()])
        return
    rows = [[entry.name, entry.title, entry.method] for entry in schemes.SCHEMES.values()]
    render.table("", ("scheme", "title", "method"), rows)
    options = [[key, short, meaning] for key, (short, meaning) in schemes.OPTIONS.items()]
    title = "Options, as in w4a16-g128-e8 or w4a16(group=128, embeddings=int8)"
    render.table(title, ("option", "short", "means"), options)


def schemes_show(name: str, format: str) -> None:
    """Show one scheme and its encoding on each target."""
    entry = schemes.find(name)
    project = open_project(Path.cwd())
    encodings = {
        target: {kind: find_target(project, target).encoding.get(kind, "–") for kind in entry.of_model("int8").kinds}
        for target in names_on(project.targets_path)
    }
    document = {**asdict(entry), "encodings": {} if entry.is_float else encodings}
    if format == "json":
        render.as_json(document)
    else:
        render.table(entry.title, ("key", "value"), [[key, value] for key, value in flat(document)])


def schema(kind: str) -> None:
    """Print one JSON Schema."""
    from hwc.bundle.serving import serving_schema
    from hwc.spec.model import ModelSpec
    from hwc.spec.prices import PriceTable
    from hwc.spec.project import ProjectSpec
    from hwc.spec.target import TargetSpec

    if kind == "serving":
        render.as_json(serving_schema())
        return
    records: dict[str, type[strict.Record]] = {
        "model": ModelSpec, "target": TargetSpec, "prices": PriceTable, "project": ProjectSpec,
    }
    render.as_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **records[kind].model_json_schema()})


def flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return the leaves of a document as dotted keys and text."""
    if isinstance(value, dict):
        return [row for key, inner in value.items() for row in flat(inner, f"{prefix}.{key}" if prefix else str(key))]
    return [(prefix, " ".join(str(item) for item in value) if isinstance(value, list) else str(value))]
