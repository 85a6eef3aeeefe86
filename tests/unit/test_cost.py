"""The cost of an hour, of a million items and of one item's energy follows the published formulas."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from hwc.errors import UsageError
from hwc.predict import cost
from hwc.spec import strict
from hwc.spec.figure import Range
from hwc.spec.prices import Owned, PriceEntry, PriceTable, Rented, Site

ROOT = Path(__file__).parents[2]


def exactly(value: float) -> Range:
    return Range(low=value, base=value, high=value)


SITE = Site(
    interest_per_year=0.1,
    lifetime_years=5,
    dc_lifetime_years=10,
    dc_capex_usd_per_w=exactly(10),
    pue=1.25,
    usd_per_kwh=exactly(0.1),
    utilisation=0.5,
    source="made up for this test",
)
OWNED = Owned(
    server_capex_usd=Range(low=8760, base=17520, high=26280),
    network_capex_usd=exactly(876),
    maintenance_per_year=exactly(0.05),
    operations_usd_per_hour=exactly(0.02),
    provisioned_w=exactly(700),
    average_w=Range(low=400, base=500, high=600),
)
ENTRY = PriceEntry(mode="owned", owned=OWNED, source="made up for this test")


def table() -> PriceTable:
    return strict.load(ROOT / "targets" / "prices" / "2026-11.toml", PriceTable)


def test_the_capital_recovery_factor_matches_a_published_annuity_table() -> None:
    # (A/P, 10 %, 5) = 0.2638 and (A/P, 8 %, 15) = 0.1168 in any table of compound-interest factors
    assert cost.capital_recovery_factor(0.10, 5) == pytest.approx(0.2638, abs=5e-5)
    assert cost.capital_recovery_factor(0.08, 15) == pytest.approx(0.1168, abs=5e-5)


def test_an_annuity_repays_exactly_its_principal_with_interest() -> None:
    yearly = cost.capital_recovery_factor(0.07, 4)
    assert sum(yearly / 1.07**year for year in range(1, 5)) == pytest.approx(1)


def test_without_interest_the_price_is_spread_evenly() -> None:
    assert cost.capital_recovery_factor(0, 4) == 0.25


@pytest.mark.parametrize(("interest", "years"), [(0.1, 0), (-0.1, 5)])
def test_a_senseless_annuity_is_refused(interest: float, years: float) -> None:
    with pytest.raises(UsageError, match="no annuity"):
        cost.capital_recovery_factor(interest, years)


def test_an_owned_hour_is_the_sum_of_its_parts() -> None:
    hourly = cost.usd_per_hour(ENTRY, SITE)
    server_crf, dc_crf = 0.26379748, 0.16274539  # (A/P, 10 %, 5 and 10 years)
    assert hourly.capex is not None
    assert hourly.capex.base == pytest.approx(2 * server_crf + 7000 * dc_crf / 8760)
    assert hourly.power == Range(low=0.04, base=0.05, high=0.06)
    assert hourly.cooling == Range(low=0.01, base=0.0125, high=0.015)
    assert hourly.network is not None
    assert hourly.network.base == pytest.approx(0.1 * server_crf)
    assert hourly.maintenance is not None
    assert hourly.maintenance.base == pytest.approx(0.1)
    assert hourly.operations == exactly(0.02)
    parts = (hourly.capex, hourly.power, hourly.cooling, hourly.network, hourly.maintenance, hourly.operations)
    for end in ("low", "base", "high"):
        assert getattr(hourly.total, end) == pytest.approx(sum(getattr(part, end) for part in parts))
    assert hourly.total.low < hourly.total.base < hourly.total.high


def test_a_rented_hour_costs_its_price_and_tells_no_split() -> None:
    price = Range(low=2, base=3, high=4)
    entry = PriceEntry(mode="rented", rented=Rented(usd_per_hour=price), source="made up")
    assert cost.usd_per_hour(entry, SITE) == cost.HourlyCost(total=price)


def test_a_million_items_cost_more_the_less_the_device_is_used() -> None:
    hourly = Range(low=0.9, base=1.8, high=3.6)
    assert cost.usd_per_million_items(hourly, 1000, 1).base == pytest.approx(0.5)
    assert cost.usd_per_million_items(hourly, 1000, 0.5).base == pytest.approx(1.0)
    assert cost.usd_per_million_items(hourly, 1000, 0.5).high == pytest.approx(2.0)


def test_energy_per_item_is_draw_over_rate() -> None:
    assert cost.j_per_item(exactly(500), 1000, 0.5) == exactly(1.0)


@pytest.mark.parametrize(("rate", "utilisation"), [(0, 0.5), (-1, 0.5), (float("nan"), 0.5), (10, 0), (10, 1.01)])
def test_no_cost_per_item_is_made_up_without_a_rate(rate: float, utilisation: float) -> None:
    with pytest.raises(UsageError, match="no cost per item"):
        cost.usd_per_million_items(exactly(1), rate, utilisation)
    with pytest.raises(UsageError, match="no cost per item"):
        cost.j_per_item(exactly(1), rate, utilisation)


def test_every_entry_of_the_shipped_table_gives_an_ordered_cost_and_a_source() -> None:
    prices = table()
    for entry in prices.entries.values():
        total = cost.usd_per_hour(entry, prices.site).total
        assert 0 < total.low < total.base < total.high
        assert entry.source


def test_every_price_that_a_shipped_target_names_is_in_the_shipped_table() -> None:
    named = {tomllib.loads(path.read_text()).get("price", "") for path in (ROOT / "targets").glob("*.toml")} - {""}
    assert named <= set(table().entries)
    assert named
