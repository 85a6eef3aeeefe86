"""The latency part of ``serving.json``: the measured grid, the conditions it was measured under, and fits to it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hwc.spec.model import Digest
from hwc.spec.strict import Record

Method = Literal["measured", "calibrated", "datasheet", "simulated", "estimated", "assumed"]
"""How a figure came about, best first."""

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Interval = tuple[float, float]
"""Lower and upper bound."""


class Latency(Record):
    """A distribution of latencies in milliseconds; ``ci95`` bounds the mean."""

    p50: Positive
    p90: Positive
    p95: Positive
    p99: Positive | None = None
    """Absent where the samples are too few to tell it."""
    mean: Positive
    std: NonNegative
    ci95: Interval
    n: Count

    @model_validator(mode="after")
    def _ordered(self) -> Latency:
        if not self.p50 <= self.p90 <= self.p95 <= (self.p99 if self.p99 is not None else self.p95):
            raise ValueError("p50 ≤ p90 ≤ p95 ≤ p99 does not hold")
        if not self.ci95[0] <= self.mean <= self.ci95[1]:
            raise ValueError("the mean lies outside its own confidence interval")
        return self


class RequestCell(Record):
    """Latency of one whole request at one static shape."""

    batch: Count
    bucket: str
    """Name of the shape, as ``b1_s128``."""
    dims: dict[str, int] = Field(default_factory=dict)
    """The shape's named dimensions."""
    latency_ms: Latency
    items_s: Positive
    valid: bool
    """False: quarantined, kept to be seen, never to be routed on."""
    method: Method


class PrefillCell(Record):
    """Time to first token at one prompt length."""

    isl: Count
    batch: Count
    calls: Count = 1
    """Pieces that the prompt goes in."""
    ttft_ms: Latency
    tok_s: Positive
    valid: bool
    method: Method


class DecodeCell(Record):
    """Inter-token latency at one batch and context."""

    batch: Count
    context: Count
    """Tokens in the cache of each row, the new one included."""
    itl_ms: Latency
    tok_s: Positive
    valid: bool
    method: Method


class LoadCell(Record):
    """Behaviour under offered load."""

    rps: Positive
    concurrency: Positive | None = None
    latency_ms: Latency | None = None
    ttft_ms: Latency | None = None
    tpot_ms: Latency | None = None
    goodput_rps: NonNegative | None = None
    valid: bool
    method: Method


class Conditions(Record):
    """The state of the machine while it was measured."""

    machine_sha256: Digest | None = None
    cpu: str | None = None
    governor: str | None = None
    clocks_hz: dict[str, Positive] = Field(default_factory=dict)
    threads: Count | None = None
    pinning: str | None = None
    temperature_c: float | None = None
    throttled: bool | None = None
    warmup_runs: Annotated[int, Field(ge=0)] | None = None
    runs: Count | None = None
    notes: tuple[str, ...] = ()


class Profile(Record):
    """The measured grid, which is the truth; every latency cell stands in here."""

    request: tuple[RequestCell, ...] = ()
    prefill: tuple[PrefillCell, ...] = ()
    decode: tuple[DecodeCell, ...] = ()
    load: tuple[LoadCell, ...] = ()
    conditions: Conditions = Conditions()

    def methods(self) -> list[Method]:
        """Return the method of every latency cell."""
        return [
            *(cell.method for cell in self.request),
            *(cell.method for cell in self.prefill),
            *(cell.method for cell in self.decode),
            *(cell.method for cell in self.load),
        ]


class Coefficient(Record):
    """One fitted number."""

    value: NonNegative
    units: str
    ci95: Interval | None = None


class Holdout(Record):
    """Error on cells that the fit never saw; relative, as shares."""

    n: Count
    mape: NonNegative
    p90: NonNegative
    max: NonNegative


class Fit(Record):
    """A formula through the grid: a convenience with an error bound, never the truth."""

    quantity: Literal["latency_ms", "ttft_ms", "itl_ms"]
    form: str
    coefficients: dict[str, Coefficient]
    domain: dict[str, Interval]
    method: Method
    holdout: Holdout | None = None
