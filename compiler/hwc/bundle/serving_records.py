"""The groups of ``serving.json``: what a router may read about one variant on one machine.

An absent figure is absent: nothing here has a made-up default. Units stand in the names; SI throughout.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from hwc.bundle.serving_profile import Count, Interval, Method, NonNegative, Positive, Share
from hwc.spec.figure import Range
from hwc.spec.model import Digest
from hwc.spec.strict import Record

Utc = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$")]


class Identity(Record):
    """Which artefact, of which model, this document is about."""

    schema_version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    bundle_id: str
    """``MODEL:VERSION``."""
    model_id: str
    variant_id: str
    """``TARGET/SCHEME``."""
    content_sha256: Digest
    created_utc: Utc


class Target(Record):
    """The device the variant is for and what it needs around it."""

    kind: Literal["cpu", "gpu", "asic"]
    device: str
    count: Count = 1
    isa_features: tuple[str, ...] = ()
    runtime: str
    min_runtime: str | None = None
    driver: str | None = None
    compiler: str | None = None


class Model(Record):
    """The model's characteristics that routing depends on."""

    arch: Literal["dense", "moe"]
    params: Count
    active_params: Count | None = None
    experts: Count | None = None
    layers: Count | None = None
    weight_scheme: str
    act_dtype: str
    kv_dtype: str | None = None
    kv_bytes_per_token: Positive | None = None
    max_context_tokens: Count | None = None
    tokenizer_sha256: Digest | None = None


class PeakCell(Record):
    """Peak memory of one shape."""

    batch: Count
    bucket: str | None = None
    context_tokens: Count | None = None
    peak_bytes: Count
    method: Method


class Resources(Record):
    """What loading and running the variant takes."""

    weights_bytes: Count
    peak: tuple[PeakCell, ...] = ()
    max_kv_tokens: Count | None = None
    max_num_seqs: Count | None = None
    load_s: NonNegative | None = None
    cold_start_s: NonNegative | None = None
    """Loading and the first call after it, in which weights are read for the first time."""
    onchip_fit_fraction: Share | None = None
    method: Method
    """Worst method among the figures that stand directly in this group."""


class FanoutCell(Record):
    """What passes between the devices in one call of one shape."""

    bucket: str
    transfers: Annotated[int, Field(ge=0)]
    link_bytes: Annotated[int, Field(ge=0)]
    link_bytes_per_unit: NonNegative
    """Of an item of the batch, or a token."""
    link_s: Range | None = None
    """As if nothing overlapped; absent where the descriptor tells no such link."""
    link_j: Range | None = None


class Fanout(Record):
    """Over how many devices one request is worked on, and what passes between them."""

    chips: Count
    peer: Literal["chip", "host"]
    """``chip``: linears are split over chips; ``host``: work the chip does not do falls back to its host."""
    link: str | None = None
    """Entry of the descriptor's [hardware.links] by which it is priced."""
    unit: Literal["item", "token"]
    cells: tuple[FanoutCell, ...]
    method: Method


class Definitions(Record):
    """What the latencies mean: peers differ in boundary, in percentiles and in TPOT."""

    boundary: Literal["engine", "server", "client"]
    percentile_method: str
    latency: str | None = None
    ttft: str | None = None
    tpot: str | None = None


class UsdPerHour(Record):
    """What an hour costs, split; a rental price has a total alone."""

    capex: Range | None = None
    power: Range | None = None
    cooling: Range | None = None
    network: Range | None = None
    maintenance: Range | None = None
    operations: Range | None = None
    total: Range


class UsdPerMillionItems(Record):
    """Cost of a million items of one shape, at a utilisation."""

    bucket: str
    utilisation: Annotated[float, Field(gt=0, le=1)]
    usd: Range
    j_per_item: Range | None = None
    """Present where the device's power is known."""


class UsdPerMillionTokens(Record):
    """Cost of a million tokens of one shape, at a utilisation."""

    phase: Literal["prefill", "decode"]
    batch: Count
    tokens: Count
    """Prompt length of a prefill, cache length of a decode."""
    utilisation: Annotated[float, Field(gt=0, le=1)]
    usd: Range
    j_per_token: Range | None = None


class Cost(Record):
    """What running the variant costs, always as low, base and high."""

    mode: Literal["owned", "rented"]
    usd_per_hour: UsdPerHour
    usd_per_million_items: tuple[UsdPerMillionItems, ...] = ()
    usd_per_million_tokens: tuple[UsdPerMillionTokens, ...] = ()
    assumptions: tuple[str, ...]
    as_of: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    method: Method


class Qos(Record):
    """Whether one class of service is held, and up to which load."""

    model_config = ConfigDict(populate_by_name=True)

    id: str
    percentile: Annotated[float, Field(gt=0, lt=100)]
    latency_ms: Positive | None = None
    ttft_ms: Positive | None = None
    tpot_ms: Positive | None = None
    bucket: str | None = None
    max_isl: Count | None = None
    max_rps: NonNegative | None = None
    max_concurrency: Annotated[int, Field(ge=0)] | None = None
    passes: Annotated[bool, Field(alias="pass")]


class Quality(Record):
    """One quality metric and what it is compared with."""

    metric: str
    reference: str
    value: float
    ci95: Interval | None = None
    n: Count | None = None
    data_sha256: Digest | None = None
    method: Method


class Capacity(Record):
    """Where load begins to hurt."""

    knee_rps: Positive | None = None
    max_concurrency: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    """Class of service to the concurrency it is held at."""
    queue_depth_warn: Annotated[int, Field(ge=0)] | None = None
    kv_util_warn: Share | None = None
    retry_after_ms: NonNegative | None = None


class Equivalence(Record):
    """Which variants may stand in for this one: those with the same golden outputs."""

    golden_sha256: Digest | None = None
    variants: tuple[str, ...] = ()


class Tiers(Record):
    """Worst method in each group; absent where the group is empty."""

    latency: Method | None = None
    memory: Method | None = None
    quality: Method | None = None
    cost: Method | None = None


class Provenance(Record):
    """How trustworthy each group is, and what it was made from."""

    tier: Tiers
    tools: dict[str, str] = Field(default_factory=dict)
    raw: dict[str, Digest] = Field(default_factory=dict)
    """Raw measurement documents by name."""
