"""What ``hwc targets check NAME`` does: run the conformance kit, show every check, fail with the first that fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from hwc import render
from hwc.errors import MachineError, UsageError
from hwc.lower.toolchain import Bench, probe
from hwc.spec.conformance import examine
from hwc.spec.finding import Finding, fails, ok
from hwc.spec.project import FoundTarget, Project, find_prices, open_project, read_target


def check(name: str, format: str, *, strict: bool) -> None:
    """Show every finding; raise UsageError for a contradiction and, if strict, MachineError for a missing tool."""
    project = open_project(Path.cwd())
    found = read_target(project, name)
    bench = Bench(target=found.spec, folder=found.folder, home=project.home)
    findings = [*examine(found.spec), *_named(project, found), *probe(bench)]
    counts = Counter(finding.verdict for finding in findings)
    if format == "json":
        render.as_json({"target": name, "verdicts": counts, "findings": [asdict(finding) for finding in findings]})
    else:
        rows = [[finding.check, finding.verdict, finding.key, finding.reason] for finding in findings]
        render.table(found.spec.title, ("check", "verdict", "key", "reason"), rows)
        render.note(", ".join(f"{count} {verdict}" for verdict, count in counts.most_common()))
    _hold(found, findings, strict=strict)


def _named(project: Project, found: FoundTarget) -> list[Finding]:
    """Find what the descriptor names elsewhere in the project: its price, and the host that it falls back to."""
    results = []
    if found.spec.price:
        results.append(replace(_price(project, found.spec.price), check="price"))
    if found.spec.placement.otherwise == "host" or any(rule.action == "host" for rule in found.spec.legality):
        results.append(replace(_host(project, found.spec.placement.host), check="host"))
    return results


def _price(project: Project, name: str) -> Finding:
    table = find_prices(project)
    text = f"entry {name!r} in the price table of {table.as_of}"
    return ok(text, "price") if name in table.entries else fails("price", f"there is no {text}")


def _host(project: Project, name: str) -> Finding:
    try:
        return ok(read_target(project, name).spec.title, "placement.host")
    except UsageError as error:
        return fails("placement.host", error.what)


def _hold(found: FoundTarget, findings: Sequence[Finding], *, strict: bool) -> None:
    where = str(found.folder / f"{found.spec.name}.toml")
    failed = [finding for finding in findings if finding.verdict == "fails"]
    if failed:
        told = "\n".join(f"  {finding.check}: `{finding.key}`: {finding.reason}" for finding in failed)
        raise UsageError(f"{len(failed)} of {len(findings)} checks fail:\n{told}", where=where)
    missing = [finding for finding in findings if finding.missing_tool]
    if missing and strict:
        raise MachineError(f"`{missing[0].key}`: {missing[0].reason}", where=where)
