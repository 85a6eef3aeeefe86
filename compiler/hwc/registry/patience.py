"""How long hwc waits for a registry, and how often it tries again."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hwc.registry.failures import Passing, Unreachable


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """The bounds of waiting."""

    tries: int = 5
    connect_tries: int = 3
    first_wait_s: float = 0.5
    longest_wait_s: float = 60.0
    connect_s: float = 10.0
    read_s: float = 60.0

    def wait_s(self, tried: int, failure: Passing) -> float | None:
        """Return how long to wait after ``tried`` failures in a row, None to give up.

        Waits double and are spread by half, so that clients do not come back all at once. What ``Retry-After`` asks
        for is waited for, unless it is too long to be waited for at all.
        """
        if tried >= (self.connect_tries if isinstance(failure, Unreachable) else self.tries):
            return None
        asked_s = failure.retry_after_s or 0.0
        if asked_s > self.longest_wait_s:
            return None
        own_s = self.first_wait_s * 2.0 ** (tried - 1) * random.uniform(0.5, 1.0)  # noqa: S311
        return max(asked_s, min(own_s, self.longest_wait_s))
