"""What each operation is predicted to take where it is placed: on the chip, or over the link on its host; pure.

Base figures of the descriptor, uncalibrated: good for shares of a whole, not for a latency.
"""

from __future__ import annotations

from hwc.errors import UsageError
from hwc.lower.coverage import Price
from hwc.lower.legality import Verdict
from hwc.predict import roofline
from hwc.predict.chip import Chip, corners
from hwc.spec.figure import spread
from hwc.spec.hardware import Link
from hwc.spec.target import TargetSpec


def pricing(target: TargetSpec, host: TargetSpec | None) -> tuple[Price | None, str]:
    """Return how operations are priced, and what the price leaves out; no price where the chip's figures are absent.

    Work on the host takes its own time, if its descriptor tells one, and what passes over the link to it and back.
    """
    try:
        chip = corners(target)["base"]
    except UsageError as absent:
        return None, absent.what
    own, left_out = None, ""
    if host is not None:
        try:
            own = corners(host)["base"]
        except UsageError:
            left_out = f"the host's own time ({host.name} tells no figures of its hardware)"
    link = next((one for one in target.hardware.links.values() if one.peer == "host"), None)
    if host is not None and link is None:
        left_out = f"{left_out}{' and ' if left_out else ''}the way to the host (no link to it is told)"

    def price(verdict: Verdict) -> float | None:
        if verdict.action != "host":
            return _on(verdict, chip)
        own_s = _on(verdict, own) if own is not None else 0.0
        return None if own_s is None else own_s + _passing_s(verdict, link)

    return price, left_out


def _on(verdict: Verdict, chip: Chip) -> float | None:
    """Return the seconds of all runs; None where no unit has a rate for the types."""
    try:
        return roofline.cost(verdict.operation, chip, "base", resident=False).seconds
    except UsageError:
        return None


def _passing_s(verdict: Verdict, link: Link | None) -> float:
    if link is None:
        return 0.0
    operation = verdict.operation
    latency_s = spread(link.latency_s).base if link.latency_s is not None else 0.0
    moved = operation.read_bytes + operation.write_bytes  # the host has the weights
    return operation.count * (2 * latency_s + moved / spread(link.bytes_per_s).base)
