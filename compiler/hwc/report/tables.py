"""A bundle's tables: variants, latency, quality, memory and cost; every column tells its unit and its method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hwc import digest as digests
from hwc.bundle.serving import Serving
from hwc.bundle.serving_cells import Cell, cells_of
from hwc.bundle.serving_records import Cost, Quality
from hwc.report.html import Column, Html, element, joined, listing, number, of_class, table
from hwc.report.plots import metric_of
from hwc.report.records import VariantReport
from hwc.spec.figure import Range

MIB = 2**20


def pill(text: str, kind: str) -> Html:
    """Return a short word that stands out: ``good``, ``warn`` or ``bad``."""
    return of_class("span", f"pill {kind}", text)


def status_of(one: VariantReport) -> Html:
    """Return whether a variant ran on the device it is for."""
    if one.serving is not None and one.serving.status == "hand-over":
        return pill("hand-over", "warn")
    return pill("verified", "good") if one.verified else pill("unverified", "warn")


def variants(rows: Sequence[VariantReport]) -> Html:
    """Return what the variants are."""
    metric = metric_of(rows)
    columns = (
        Column(title="variant", number=False),
        Column(title="status", number=False),
        Column(title="weights", unit="MiB · measured"),
        Column(title="bits per parameter", unit="bit · measured"),
        Column(title=metric.replace("_", " ") or "quality", unit="± 95 % · measured"),
        *(Column(title=group, unit="method", number=False) for group in ("latency", "memory", "quality", "cost")),
        Column(title="content", unit="sha256", number=False),
    )
    caption = "Variants: what they are, and by which method each group of figures came about"
    return table(caption, columns, [_variant(one, metric) for one in rows])


def _variant(one: VariantReport, metric: str) -> list[str | Html]:
    found = one.serving
    tier = found.provenance.tier if found else None
    quality = {row.metric: row for row in found.quality}.get(metric) if found and one.verified else None
    return [
        one.name,
        status_of(one),
        f"{found.resources.weights_bytes / MIB:.2f}" if found else "–",
        "–" if one.bits_per_parameter is None else f"{one.bits_per_parameter:.2f}",
        _with_interval(quality) if quality else "–",
        (tier.latency if tier and one.verified else None) or "–",
        (tier.memory if tier else None) or "–",
        (tier.quality if tier and one.verified else None) or "–",
        (tier.cost if tier else None) or "–",
        of_class("code", "digest", digests.short(one.content_sha256)),
    ]


def _with_interval(row: Quality) -> str:
    if row.ci95 is None:
        return f"{number(row.value, 5)} (no interval)"
    return f"{row.value:.5f} ± {number((row.ci95[1] - row.ci95[0]) / 2, 2)}"


LATENCY = (
    Column(title="variant", number=False),
    Column(title="shape", number=False),
    *(Column(title=name, unit="ms") for name in ("p50", "p90", "p95", "p99")),
    Column(title="mean ± 95 %", unit="ms"),
    Column(title="std", unit="ms"),
    Column(title="samples"),
    Column(title="throughput", unit="per second"),
    Column(title="method", number=False),
    Column(title="noise", number=False),
)


def latency(rows: Sequence[VariantReport]) -> Html:
    """Return the latency of every verified variant at every shape; of the others that there is none."""
    told = [(one, cell) for one in rows if one.verified and one.serving for cell in cells_of(one.serving)]
    reasons = [element("li", _reason(one, cell)) for one, cell in told if not cell.valid]
    noisy = of_class("ul", "note", reasons) if reasons else ""
    return joined([table("Latency of one call, by shape", LATENCY, [_latency(*pair) for pair in told]), noisy])


def _reason(one: VariantReport, cell: Cell) -> str:
    """Say why a noisy cell is not to be trusted."""
    noise = one.profiled.noise if one.profiled else {}
    return f"{one.name}, {cell.shape} is noisy: {noise.get(cell.name) or 'the profile does not say why'}"


def _latency(one: VariantReport, cell: Cell) -> list[str | Html]:
    told = cell.latency
    return [
        one.name,
        cell.shape,
        *(number(value) for value in (told.p50, told.p90, told.p95)),
        "too few" if told.p99 is None else number(told.p99),
        f"{number(told.mean)} ± {number((told.ci95[1] - told.ci95[0]) / 2, 2)}",
        number(told.std),
        str(told.n),
        f"{number(cell.per_s, 4)} {cell.unit}",
        cell.method,
        pill("steady", "good") if cell.valid else pill("noisy", "warn"),
    ]


def quality(rows: Sequence[VariantReport]) -> Html:
    """Return every quality metric of the verified variants."""
    columns = (
        Column(title="variant", number=False),
        Column(title="metric", number=False),
        Column(title="value", unit="unitless"),
        Column(title="95 % interval", unit="unitless"),
        Column(title="items", unit="count"),
        Column(title="compared with", number=False),
        Column(title="method", number=False),
    )
    drawn: list[list[str | Html]] = [
        [
            one.name, row.metric.replace("_", " "), number(row.value, 5),
            f"{number(row.ci95[0], 5)} – {number(row.ci95[1], 5)}" if row.ci95 else "–",
            str(row.n or "–"), row.reference, row.method,
        ]
        for one in rows
        if one.verified and one.serving
        for row in one.serving.quality
    ]
    return table("Quality against the float model", columns, drawn)


def memory(rows: Sequence[VariantReport]) -> Html:
    """Return what loading and running takes."""
    columns = (
        Column(title="variant", number=False),
        Column(title="weights", unit="MiB on disk · measured"),
        Column(title="load time", unit="ms · measured"),
        Column(title="loading takes", unit="MiB private · measured"),
        Column(title="running adds", unit="MiB private · measured"),
        Column(title="resident growth", unit="MiB · measured"),
        Column(title="peak of the process", unit="MiB · measured"),
    )
    return table("What loading and running takes", columns, [_memory(one, one.serving) for one in rows if one.serving])


def _memory(one: VariantReport, found: Serving) -> list[str | Html]:
    grown = one.profiled.memory_bytes if one.profiled else {}
    mib = [f"{grown[key] / MIB:.2f}" if key in grown else "–" for key in ("load", "run", "resident", "peak")]
    load_s = found.resources.load_s if one.verified else None
    load = "–" if load_s is None else number(load_s * 1e3)
    return [one.name, f"{found.resources.weights_bytes / MIB:.2f}", load, *mib]


def per_million(rows: Sequence[VariantReport]) -> Html:
    """Return what a million items, or tokens, of every shape cost, and the energy of one, low, base and high."""
    columns = (
        Column(title="variant", number=False),
        Column(title="shape", number=False),
        Column(title="of", number=False),
        *(Column(title=name, unit="$ per million") for name in ("low", "base", "high")),
        *(Column(title=f"energy, {name}", unit="J each") for name in ("low", "base", "high")),
        Column(title="utilisation", unit="assumed"),
        Column(title="method", number=False),
    )
    drawn = [
        [
            one.name, cell.shape, cell.unit, *_range(cell.usd), *_range(cell.joules), f"{cell.utilisation:.0%}",
            one.serving.cost.method,
        ]
        for one in rows
        if one.verified and one.serving and one.serving.cost
        for cell in cells_of(one.serving)
        if cell.utilisation is not None
    ]
    return table("What a million items or tokens cost", columns, drawn) if drawn else Html("")


def _range(value: Range | None) -> list[str]:
    return ["–"] * 3 if value is None else [number(value.low), number(value.base), number(value.high)]


HOURLY = (
    Column(title="target", number=False),
    Column(title="part", number=False),
    *(Column(title=name, unit="$ per hour") for name in ("low", "base", "high")),
    Column(title="method", number=False),
)


def per_hour(rows: Sequence[VariantReport]) -> Html:
    """Return what an hour of each target costs, part by part, and what that assumes."""
    priced = {one.target: one.serving.cost for one in rows if one.serving and one.serving.cost}
    unpriced = sorted({one.target for one in rows} - set(priced))
    drawn = [row for target, entry in priced.items() for row in _hour(target, entry)]
    told = [
        (f"{target}: {entry.mode}, as of {entry.as_of}, assumes", _items(entry.assumptions))
        for target, entry in priced.items()
    ]
    missing = of_class("p", "note", f"No price is known for {', '.join(unpriced)}.") if unpriced else ""
    return joined([table("What an hour costs", HOURLY, drawn) if drawn else "", listing(told), missing])


def _items(texts: Sequence[str]) -> Html:
    return element("ul", [element("li", text) for text in texts])


def _hour(target: str, found: Cost) -> Iterable[list[str | Html]]:
    hour = found.usd_per_hour
    parts = {
        "capital": hour.capex, "power": hour.power, "cooling": hour.cooling, "network": hour.network,
        "maintenance": hour.maintenance, "operations": hour.operations, "total": hour.total,
    }
    for name, value in parts.items():
        if value is not None:
            strong = element("strong", name) if name == "total" else name
            yield [target, strong, *_range(value), found.method]
