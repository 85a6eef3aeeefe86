"""Together: a few calls at once, whose results do not depend on that."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def together(*calls: Callable[[], T]) -> list[T]:
    """Run each call in a thread of its own and return their results in order; the first error is raised.

    It pays where numpy or ONNX Runtime work long outside the interpreter's lock. Each call computes in one thread, as
    it would alone, so its sums are the same to the bit.
    """
    if len(calls) == 1:
        return [calls[0]()]
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]
