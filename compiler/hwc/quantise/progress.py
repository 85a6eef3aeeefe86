"""Progress of a calibration: a line for each layer, on stderr, which the step's log keeps and a build shows."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence

from hwc.events import PROGRESS
from hwc.quantise.finished import Solved
from hwc.quantise.linears import Linear
from hwc.quantise.segments import Segment

LOG = logging.getLogger(__name__)


class Progress:
    """Counts layers, and tells how long the others may take, by the numbers that a layer's solver works through."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        linears = [linear for segment in segments for group in segment.groups for linear in group.linears]
        self._layers, self._done = len(linears), 0
        self._left, self._worked = sum(map(_work, linears)), 0
        self._began = time.monotonic()

    def skipped(self, linear: Linear) -> None:
        """Count a layer that an earlier process has solved."""
        self._done += 1
        self._left -= _work(linear)

    def skip(self, segment: Segment) -> None:
        """Count all layers of a segment as such."""
        for group in segment.groups:
            for linear in group.linears:
                self.skipped(linear)

    def solved(self, linear: Linear, solved: Solved) -> None:
        """Count and tell a layer."""
        self.skipped(linear)
        self._worked += _work(linear)
        took_s = time.monotonic() - self._began
        LOG.info(
            PROGRESS + "layer %d of %d, %.0f s left (%s: relative error %.2e)",
            self._done, self._layers, took_s * self._left / self._worked, linear.layer, solved.relative_error or 0.0,
        )


def _work(linear: Linear) -> int:
    """Return a measure of how long a layer takes: its inputs' products, its own, and a run of the model through it."""
    return linear.k * (linear.k + linear.n)


def log_to_stderr() -> None:
    """Send the lines to stderr."""
    if not LOG.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        LOG.addHandler(handler)
        LOG.setLevel(logging.INFO)
