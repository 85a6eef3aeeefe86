"""What may serve a request: a variant on a node, reduced to what a decision needs, and the node's live state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hwc.bundle.serving import Serving
from hwc.serve.token_grid import TokenGrid, basis, bound_ms, token_grid


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a node says of itself now."""

    healthy: bool = True
    queued_ms: float = 0.0
    """Work that waits before a new request starts, in milliseconds of this node's time."""
    utilisation: float = 0.0
    thermal_factor: float = 1.0
    """Measured slow-down against the profile: 1.25 for a node that runs a quarter slower now."""
    draining: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measured shape, reduced to what a decision needs."""

    bucket: str
    batch: int
    dims: tuple[tuple[str, int], ...]
    typical_ms: float
    bound_ms: float
    """p99, or what stands for it."""
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One variant on one node."""

    node: str
    bundle: str
    variant: str
    model: str
    verified: bool
    runs: bool = True
    """Whether there is code to run: a hand-over has none."""
    cells: tuple[Cell, ...]
    tokens: TokenGrid | None = None
    """Of a language model, which has no cells."""
    quality: Mapping[str, float]
    usd_per_ms: float | None
    """Of a busy device; a language model's at the utilisation its price of tokens assumes."""
    margin_share: float
    """Held-out p90 error of the latency fit, added before the comparison with the objective; 0 on measured cells."""
    batch_dim: str = "batch"
    chips: int = 1
    """Chips that work on one request together."""
    link_bytes: Mapping[str, int] = field(default_factory=dict)
    """Bucket to the bytes that pass between devices in one call; empty where one device does everything."""
    link_bytes_per_token: float = 0.0
    """Of a language model: the most over its shapes."""

    @property
    def name(self) -> str:
        """``NODE: BUNDLE#VARIANT``."""
        return f"{self.node}: {self.bundle}#{self.variant}"


def prepare(node: str, bundle: str, serving: Serving, *, usd_per_hour: float | None = None) -> Candidate:
    """Reduce a ``serving.json`` to a candidate; a node's own price, where it is known, wins over the table's."""
    hourly = usd_per_hour
    if hourly is None and serving.cost is not None:
        hourly = serving.cost.usd_per_hour.total.base
    fits = [fit.holdout.p90 for fit in serving.fit if fit.holdout is not None]
    cells = []
    for cell in serving.profile.request:
        if not cell.valid:
            continue
        told = cell.latency_ms
        cells.append(
            Cell(
                bucket=cell.bucket,
                batch=cell.batch,
                dims=tuple((dim, size) for dim, size in cell.dims.items() if dim != "batch"),
                typical_ms=told.p50,
                bound_ms=bound_ms(told),
                basis=basis(told, cell.method),
            )
        )
    return Candidate(
        node=node,
        bundle=bundle,
        variant=serving.identity.variant_id,
        model=serving.identity.model_id,
        verified=serving.status == "verified",
        runs=serving.status != "hand-over",
        cells=tuple(cells),
        tokens=token_grid(serving),
        quality={row.metric: row.value for row in serving.quality},
        usd_per_ms=None if hourly is None else hourly / 3.6e6 / _utilisation(serving),
        margin_share=max(fits, default=0.0),
        **_fanout(serving),
    )


def _fanout(serving: Serving) -> dict[str, Any]:
    told = serving.fanout
    if told is None:
        return {}
    most = max((cell.link_bytes_per_unit for cell in told.cells), default=0.0)
    return {
        "chips": told.chips, "link_bytes": {cell.bucket: cell.link_bytes for cell in told.cells},
        "link_bytes_per_token": most if told.unit == "token" else 0.0,
    }


def _utilisation(serving: Serving) -> float:
    """Return the utilisation at which a million tokens are priced; 1 where they are not."""
    told = serving.cost.usd_per_million_tokens if serving.cost is not None else ()
    return told[0].utilisation if told else 1.0
