"""A dated price table: what a device costs to own or to rent, always as low, base and high."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hwc.spec.figure import NonNegative, Range
from hwc.spec.strict import Record


class Owned(Record):
    """What owning one unit takes."""

    server_capex_usd: Range
    network_capex_usd: Range
    maintenance_per_year: Range
    """Share of the server's price per year."""
    operations_usd_per_hour: Range
    provisioned_w: Range
    average_w: Range


class Rented(Record):
    """What renting one unit takes; power, cooling, network and upkeep are in the price."""

    usd_per_hour: Range


class PriceEntry(Record):
    """One priced device."""

    mode: Literal["owned", "rented"]
    owned: Owned | None = None
    rented: Rented | None = None
    source: str

    @model_validator(mode="after")
    def _matches_mode(self) -> PriceEntry:
        if (self.owned is not None) != (self.mode == "owned") or (self.rented is not None) != (self.mode == "rented"):
            raise ValueError(f"mode {self.mode!r} needs a table [{self.mode}] and no other")
        return self


class Site(Record):
    """What a data centre adds to every owned device."""

    interest_per_year: NonNegative
    lifetime_years: Annotated[float, Field(gt=0)]
    dc_lifetime_years: Annotated[float, Field(gt=0)]
    dc_capex_usd_per_w: Range
    pue: Annotated[float, Field(ge=1)]
    usd_per_kwh: Range
    utilisation: Annotated[float, Field(gt=0, le=1)]
    source: str


class PriceTable(Record):
    """All prices of one date."""

    schema_version: Literal[1] = 1
    as_of: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    site: Site
    entries: dict[str, PriceEntry]
