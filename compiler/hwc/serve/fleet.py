"""A fleet file: which bundles stand on which nodes, and the nodes' live state."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from hwc.bundle.export_dir import chosen_measurement
from hwc.bundle.open import open_bundle
from hwc.bundle.reference import parse
from hwc.errors import UsageError
from hwc.oci_layout import Layout
from hwc.serve.candidate import Candidate, State, prepare
from hwc.spec.strict import Record, from_table, load


class StateSpec(Record):
    """Live state, as a monitoring system or a person writes it."""

    healthy: bool = True
    queued_ms: Annotated[float, Field(ge=0)] = 0.0
    utilisation: Annotated[float, Field(ge=0, le=1)] = 0.0
    thermal_factor: Annotated[float, Field(gt=0)] = 1.0
    draining: bool = False


class NodeSpec(Record):
    """One server."""

    name: str
    bundles: tuple[str, ...]
    """Bundles it has loaded, as ``minilm:1.0.0`` or ``minilm:1.0.0#llvm-cpu-host/w4a16``."""
    usd_per_hour: Annotated[float, Field(gt=0)] | None = None
    """What this node really costs; absent: the price table's base price in the bundle."""
    state: StateSpec = StateSpec()


class FleetSpec(Record):
    """A whole fleet."""

    schema_version: Literal[1] = 1
    node: tuple[NodeSpec, ...]


def load_fleet(path: Path, *, default_store: Path) -> tuple[list[Candidate], dict[str, State]]:
    """Read a fleet file and the serving metadata of every bundle it names.

    Raises UsageError for an unknown key, node or bundle, IntegrityError for metadata of a newer schema.
    """
    fleet = load(path, FleetSpec)
    names = [node.name for node in fleet.node]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"two nodes are called {twice[0]!r}", where=str(path))
    candidates = [
        candidate
        for node in fleet.node
        for reference in node.bundles
        for candidate in _candidates(node, reference, default_store, path)
    ]
    return candidates, {node.name: State(**node.state.model_dump()) for node in fleet.node}


def _candidates(node: NodeSpec, reference: str, default_store: Path, fleet: Path) -> list[Candidate]:
    try:
        parsed = parse(reference, default_store=str(default_store))
        bundle = open_bundle(Layout(parsed.store).check(), parsed)
    except UsageError as error:
        raise UsageError(error.what, where=f"{fleet}, node {node.name}", hint=error.hint) from error
    found = []
    for variant in bundle.variants:
        measurement = chosen_measurement(variant)
        if measurement is not None:
            found.append(prepare(node.name, bundle.tag, measurement.parsed_serving(), usd_per_hour=node.usd_per_hour))
    return found


def overlay_state(states: Mapping[str, State], path: Path) -> dict[str, State]:
    """Return states with those of a JSON file ``{node: {queued_ms, …}}`` laid over them; refuse unknown nodes."""
    try:
        document: Any = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the live state: {error}", where=str(path)) from error
    if not isinstance(document, dict):
        raise UsageError("live state is a JSON object of node names", where=str(path))
    merged = dict(states)
    for name, fields in document.items():
        if name not in states:
            raise UsageError(f"the live state is of an unknown node {name!r}", where=str(path), hint=", ".join(states))
        spec = from_table({**asdict(states[name]), **fields}, StateSpec, where=f"{path}, node {name}")
        merged[name] = State(**spec.model_dump())
    return merged
