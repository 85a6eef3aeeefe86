"""What the page tells of bundles, as records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hwc.bundle.serving import Serving
from hwc.predict.dispatch_names import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """One kind of dispatch of a function; times of single executions, measured."""

    name: str
    count: int
    best_us: float
    mean_us: float
    share: float
    work: Work | None
    """Estimated from the name; None where it does not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """What one core of the measured machine does at best."""

    gflop_per_s: float
    read_bytes_per_s: float
    how: str

    def bound_us(self, work: Work) -> float:
        """Return the roofline's time for some work."""
        return work.bound_s(self.gflop_per_s * 1e9, self.read_bytes_per_s) * 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiled:
    """What the page takes from ``profile.json``, measured."""

    functions: Mapping[str, tuple[Dispatch, ...]]
    no_dispatches: str
    """Why there are none."""
    peaks: Peaks | None
    no_peaks: str
    memory_bytes: Mapping[str, float]
    noise: Mapping[str, str]
    """Function to the reasons for which its latency is not to be trusted."""
    conditions: tuple[tuple[str, str], ...]
    """The machine and the state it was in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantReport:
    """One variant."""

    name: str
    digest: str
    content_sha256: str
    bits_per_parameter: float | None
    audit: str
    """How much of the model the scheme covers."""
    serving: Serving | None
    """Of the measurement to serve by; None where there is none."""
    profiled: Profiled | None
    """None of an unverified variant."""
    verified: bool
    measurements: tuple[tuple[str, str], ...] = ()
    """Machine and method of every measurement the bundle holds."""

    @property
    def target(self) -> str:
        """The part of the name before the slash."""
        return self.name.partition("/")[0]

    @property
    def scheme(self) -> str:
        """The part of the name after the slash."""
        return self.name.partition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleReport:
    """One bundle, under every tag that points at it."""

    tags: tuple[str, ...]
    digest: str
    created_utc: str
    title: str
    licence: str
    variants: tuple[VariantReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A tag that could not be shown, and why."""

    tag: str
    reason: str
    damaged: bool
    """False: it is whole, but no bundle of hwc."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Everything the page is made from."""

    title: str
    created_utc: str
    tool: str
    bundles: tuple[BundleReport, ...]
    left: tuple[Left, ...] = ()
