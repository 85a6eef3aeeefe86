"""What an hour, a million items and one item's energy cost: pure arithmetic over a price table.

Every figure is a range: low takes every low input at once, high every high one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from hwc.errors import UsageError
from hwc.spec.figure import Range
from hwc.spec.prices import Owned, PriceEntry, Site

HOURS_PER_YEAR = 8760
_W_PER_KW = 1000
_S_PER_HOUR = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class HourlyCost:
    """USD per hour, split; of a rented device only the total is known."""

    capex: Range | None = None
    """Server and its share of the data centre, as annuities."""
    power: Range | None = None
    """What the device itself draws."""
    cooling: Range | None = None
    """What the site draws on top of that: (PUE - 1) times as much."""
    network: Range | None = None
    maintenance: Range | None = None
    operations: Range | None = None
    total: Range


def capital_recovery_factor(interest_per_year: float, years: float) -> float:
    """Return the yearly payment that repays one unit of capital with interest.

    CRF(i, n) = i(1 + i)^n / ((1 + i)^n - 1), and 1/n at i = 0. Source: Park, Contemporary Engineering Economics,
    capital recovery of an equal-payment series.
    """
    if years <= 0 or interest_per_year < 0:
        raise UsageError(f"no annuity over {years} years at {interest_per_year:.1%} interest")
    if interest_per_year == 0:
        return 1 / years
    growth: float = (1 + interest_per_year) ** years
    return interest_per_year * growth / (growth - 1)


def usd_per_hour(entry: PriceEntry, site: Site) -> HourlyCost:
    """Return what an hour of a device costs, whether it is used or not.

    Owned: [server·CRF + network·CRF + dc_capex_per_w·provisioned_w·CRF_dc]/8760 + average_kw·PUE·$/kWh
    + maintenance·server/8760 + operations. Rented: the price. Source: Barroso, Hölzle, Ranganathan, The Datacenter
    as a Computer, 3rd ed., chapter 6.
    """
    if entry.owned is None:
        assert entry.rented is not None  # the record's own rule
        return HourlyCost(total=entry.rented.usd_per_hour)
    return _owned(entry.owned, site)


def of_chips(hourly: HourlyCost, chips: int) -> HourlyCost:
    """Return the cost of an hour of several devices."""
    parts: dict[str, Range] = {
        entry.name: scaled(part, chips) for entry in fields(hourly) if (part := getattr(hourly, entry.name)) is not None
    }
    return HourlyCost(**parts)


def _owned(owned: Owned, site: Site) -> HourlyCost:
    hourly = capital_recovery_factor(site.interest_per_year, site.lifetime_years) / HOURS_PER_YEAR
    dc_hourly = capital_recovery_factor(site.interest_per_year, site.dc_lifetime_years) / HOURS_PER_YEAR
    server = scaled(owned.server_capex_usd, hourly)
    facility = scaled(_product(site.dc_capex_usd_per_w, owned.provisioned_w), dc_hourly)
    power = scaled(_product(owned.average_w, site.usd_per_kwh), 1 / _W_PER_KW)
    parts = {
        "capex": _sum(server, facility),
        "power": power,
        "cooling": scaled(power, site.pue - 1),
        "network": scaled(owned.network_capex_usd, hourly),
        "maintenance": scaled(_product(owned.maintenance_per_year, owned.server_capex_usd), 1 / HOURS_PER_YEAR),
        "operations": owned.operations_usd_per_hour,
    }
    return HourlyCost(**parts, total=_sum(*parts.values()))


def usd_per_million_items(hourly: Range, items_per_s: float, utilisation: float) -> Range:
    """Return the cost of a million items: 1e6·$/h ÷ (items/s·3600·utilisation).

    ``items_per_s`` is what the device does when it is busy, ``utilisation`` the share of time it is.
    """
    return scaled(hourly, 1e6 / (_busy(items_per_s, utilisation) * _S_PER_HOUR))


def j_per_item(average_w: Range, items_per_s: float, utilisation: float) -> Range:
    """Return joules per item: average draw, idle time included, over average rate. The site's PUE is not in it."""
    return scaled(average_w, 1 / _busy(items_per_s, utilisation))


def _busy(items_per_s: float, utilisation: float) -> float:
    if not items_per_s > 0 or not 0 < utilisation <= 1:
        raise UsageError(f"no cost per item at {items_per_s} items/s and utilisation {utilisation}")
    return items_per_s * utilisation


def scaled(value: Range, factor: float) -> Range:
    """Return a figure that many times as large."""
    return Range(low=value.low * factor, base=value.base * factor, high=value.high * factor)


def _product(left: Range, right: Range) -> Range:
    return Range(low=left.low * right.low, base=left.base * right.base, high=left.high * right.high)


def _sum(*values: Range) -> Range:
    return Range(
        low=sum(value.low for value in values),
        base=sum(value.base for value in values),
        high=sum(value.high for value in values),
    )
