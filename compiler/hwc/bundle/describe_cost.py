"""Describe what an hour of the device costs, and a million items or tokens of every measured cell; pure."""

from __future__ import annotations

from dataclasses import asdict

from hwc.bundle import describe_language
from hwc.bundle.serving_profile import Profile
from hwc.bundle.serving_records import Cost, UsdPerHour, UsdPerMillionItems
from hwc.predict import cost
from hwc.spec.prices import PriceTable
from hwc.spec.target import TargetSpec


def price(target: TargetSpec, latency: Profile, prices: PriceTable) -> Cost | None:
    """Price an hour of the device and a million items of every cell, whose ``valid`` tells how far to trust it."""
    entry = prices.entries.get(target.price)
    if entry is None:
        return None
    chips = target.lowering.shards if target.lowering is not None else 1
    hourly = cost.of_chips(cost.usd_per_hour(entry, prices.site), chips)
    watts = cost.scaled(entry.owned.average_w, chips) if entry.owned else None
    utilisation = prices.site.utilisation
    cells = tuple(
        UsdPerMillionItems(
            bucket=cell.bucket,
            utilisation=utilisation,
            usd=cost.usd_per_million_items(hourly.total, cell.items_s, utilisation),
            j_per_item=cost.j_per_item(watts, cell.items_s, utilisation) if watts else None,
        )
        for cell in latency.request
    )
    return Cost(
        mode=entry.mode,
        usd_per_hour=UsdPerHour(**asdict(hourly)),
        usd_per_million_items=cells,
        usd_per_million_tokens=describe_language.usd(latency, hourly, watts, utilisation),
        assumptions=(
            entry.source, prices.site.source, f"utilisation {utilisation:.0%}",
            *((f"{chips} such devices",) if chips > 1 else ()),
        ),
        as_of=prices.as_of,
        method="assumed",
    )
