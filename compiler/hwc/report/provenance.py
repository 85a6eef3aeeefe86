"""Where a variant's figures come from: digests, tools, machine, conditions, definitions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hwc import digest as digests
from hwc.bundle.serving import Serving
from hwc.report.html import Html, details, element, listing, of_class
from hwc.report.records import VariantReport
from hwc.report.tables import status_of


def section(rows: Sequence[VariantReport]) -> Iterable[Html]:
    """Yield one folded list for each variant."""
    for one in rows:
        yield details(element("span", [element("strong", one.name), " ", status_of(one)]), list(_variant(one)))


def _variant(one: VariantReport) -> Iterable[Html]:
    measured = "; ".join(f"{method} on machine {digests.short(machine)}" for machine, method in one.measurements)
    yield listing(
        [
            ("content (code, weights, tokenizer, golden data)", _code(one.content_sha256)),
            ("variant's index", _code(one.digest)),
            ("scheme covers", one.audit),
            ("measurements in the bundle", measured or "none"),
            *(_told(one.serving) if one.serving else ()),
        ]
    )
    if one.profiled is not None:
        yield element("p", "Machine and conditions, read while measuring:", {"class": "note"})
        yield listing(one.profiled.conditions)


def _told(found: Serving) -> Iterable[tuple[str, str | Html]]:
    tools = ", ".join(f"{name} {version}" for name, version in sorted(found.provenance.tools.items()))
    yield "parameters", f"{found.model.params:,}"
    yield "activations", found.model.act_dtype
    yield "device", found.target.device
    yield "runtime and driver", f"{found.target.runtime}, {found.target.driver or 'driver not told'}"
    yield "compiler", found.target.compiler or ""
    yield "tools", tools
    yield "latency means", found.definitions.latency or ""
    yield "percentiles", found.definitions.percentile_method
    yield "golden data", _code(found.equivalence.golden_sha256 or "")
    for name, sha256 in sorted(found.provenance.raw.items()):
        yield f"raw {name}", _code(sha256)
    yield "described", found.identity.created_utc
    yield "schema", f"serving.json {found.identity.schema_version}"


def _code(text: str) -> str | Html:
    return of_class("code", "digest", text) if text else ""
