"""Placement: dispatches held to a descriptor's rules; what the chip leaves to its host goes there, in one artefact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc.errors import StepError
from hwc.lower import dispatch_work, iree, legality, links, sources
from hwc.lower.flags import compiler_flags
from hwc.lower.legality import Verdict
from hwc.lower.passes.place import place
from hwc.spec.hardware import Element
from hwc.spec.legality import LegalityRule, Placement
from hwc.spec.target import Lowering

if TYPE_CHECKING:
    import onnx

LOCAL = ("llvm-cpu", "vmvx")
"""Backends whose code runs on local devices, which are told apart by their ordinal."""
APART = "--iree-hal-link-executables=false"
"""Code of two instruction sets is not linked into one library."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placing:
    """What a build reads of a descriptor to place work."""

    legality: tuple[LegalityRule, ...]
    placement: Placement
    host: Lowering | None
    """How code is made for the host; None where no rule sends work there."""
    beside: Mapping[str, Any]
    """The host's device, as JSON values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilation:
    """How a module is compiled."""

    lowering: Lowering
    flags: tuple[str, ...]
    work: Path
    limits: iree.Limits
    programs: tuple[Path, ...] = ()
    stored: Mapping[str, Element]
    """See dispatch_work.stored_types."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A module with its work placed, the flags it is compiled by, and what the bundle tells of it."""

    mlir: str
    flags: tuple[str, ...]
    facts: Mapping[str, Any]


def uses_host(rules: Sequence[LegalityRule], placement: Placement) -> bool:
    """Tell whether a descriptor may send work to its host."""
    return placement.otherwise == "host" or any(rule.action == "host" for rule in rules)


def from_params(raw: Mapping[str, Any]) -> Placing:
    """Read it from a step's parameters."""
    return Placing(
        legality=tuple(LegalityRule.model_validate(rule) for rule in raw["legality"]),
        placement=Placement.model_validate(raw["placement"]),
        host=Lowering.model_validate(raw["host"]) if raw.get("host") else None, beside=raw.get("beside") or {},
    )


def placed(mlir: str, placing: Placing, how: Compilation, models: Mapping[str, onnx.ModelProto]) -> Result:
    """Judge every dispatch of a module and place it; ``models`` holds the ONNX graph of each function.

    The module is returned as it came if the chip runs all of it. Raises StepError naming the operation, its modules
    and bucket if a rule rejects one.
    """
    flow = _flow(mlir, how, sources.LOCATIONS, iree.ELIDED)
    modules = sources.modules_of(mlir, flow, models)
    found = {
        function: legality.judge(operations, placing.legality, placing.placement)
        for function, operations in dispatch_work.read(flow, how.stored).items()
    }
    for function, verdicts in found.items():
        _refuse(function, verdicts, modules.get(function, {}))
    hosted = {
        function: names
        for function, verdicts in found.items()
        if (names := {verdict.operation.name for verdict in verdicts if verdict.action == "host"})
    }
    if not hosted or placing.host is None:
        return Result(mlir=mlir, flags=how.flags, facts={})
    target = iree.probe_target(compiler_flags(placing.host), how.work)
    ordinal = int(how.lowering.backend in LOCAL)
    device = f'#hal.device.target<"local", {{ordinal = {ordinal} : index}}, [{target}]>'
    made = place(_flow(mlir, how), device, hosted)
    return Result(
        mlir=made.mlir, flags=(*how.flags, APART, "--compile-from=flow"),
        facts={
            "beside": [dict(placing.beside)],
            "placement": _facts(found, links.transfers(made.mlir)),
        },
    )


def _flow(mlir: str, how: Compilation, *more: str) -> str:
    path, _ = iree.compile_module(
        mlir, (*how.flags, "--compile-to=flow", *more), work=how.work, limits=how.limits, programs=how.programs
    )
    return path.read_text()


def _facts(found: Mapping[str, Sequence[Verdict]], crossing: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    return {
        function: {
            "dispatches": sum(verdict.operation.count for verdict in verdicts),
            "on_host": sorted(verdict.operation.name for verdict in verdicts if verdict.action == "host"),
            "reasons": sorted({verdict.reason for verdict in verdicts if verdict.action == "host"}),
            "link_transfers_per_call": crossing.get(function, {}).get("transfers", 0),
            "link_bytes_per_call": crossing.get(function, {}).get("bytes", 0),
        }
        for function, verdicts in sorted(found.items())
    }


def _refuse(function: str, verdicts: Sequence[Verdict], modules: Mapping[str, tuple[str, ...]]) -> None:
    """Raise StepError for the first operation that nothing runs."""
    verdict = next((verdict for verdict in verdicts if verdict.action == "reject"), None)
    if verdict is None:
        return
    operation = verdict.operation
    more = sum(other.action == "reject" for other in verdicts) - 1
    named = ", ".join(modules.get(operation.name, ())) or "the graph"
    raise StepError(
        f"nothing runs {operation.op} of {legality.told_types(operation)}: {verdict.reason}"
        + (f" ({more} more operations are rejected)" if more else ""),
        where=f"module {named}, bucket {function}, dispatch {operation.name}",
        hint="`hwc targets check NAME --model MODEL` tells all of them; a rule in [[legality]] may send it to the host",
    )
