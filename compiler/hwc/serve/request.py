"""A request as the router takes it, and how it is read from JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from hwc.errors import UsageError

OBJECTIVES = ("slo_p99_ms", "slo_ttft_ms", "slo_tpot_ms")
TOKENS = ("prompt_tokens", "completion_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is to be served."""

    model: str
    items: int = 1
    dims: Mapping[str, int] = field(default_factory=dict)
    """Sizes of an item's named dimensions, as ``{"sequence": 100}``."""
    prompt_tokens: int | None = None
    """Of a language model's request, whose ``items`` are sequences that are generated side by side."""
    completion_tokens: int | None = None
    slo_p99_ms: float = math.inf
    """Objective on the whole request."""
    slo_ttft_ms: float = math.inf
    """Objective on the time to the first token."""
    slo_tpot_ms: float = math.inf
    """Objective on the time per token after it."""
    min_quality: Mapping[str, float] = field(default_factory=dict)
    """Metric to its least value, as ``{"cosine_mean": 0.98}``."""
    priority: int = 0
    """Of two equal requests the higher one is served first; here: it may use a node past its drain mark."""
    allow_unverified: bool = False


def request_from(document: Mapping[str, Any]) -> Request:
    """Read a request from JSON; raise UsageError for an unknown or missing key, or an impossible value."""
    known = {entry.name for entry in fields(Request)}
    if unknown := sorted(set(document) - known):
        raise UsageError(f"unknown key `{unknown[0]}` in the request", hint=f"known: {', '.join(sorted(known))}")
    if "model" not in document or not set(OBJECTIVES) & set(document):
        raise UsageError("the request is incomplete", hint=f"it needs model and one of {', '.join(OBJECTIVES)}")
    request = Request(**document)
    told = [document[name] for name in ("items", *OBJECTIVES, *TOKENS) if name in document]
    if not all(_positive(number) for number in (*told, *request.dims.values())):
        raise UsageError(f"items, dims, {', '.join((*OBJECTIVES, *TOKENS))} are positive numbers")
    if len(set(TOKENS) & set(document)) == 1:
        raise UsageError("the request tells only one of prompt_tokens and completion_tokens", hint="tell both")
    if request.prompt_tokens is None and {"slo_ttft_ms", "slo_tpot_ms"} & set(document):
        raise UsageError("slo_ttft_ms and slo_tpot_ms are of a language model", hint="tell prompt_tokens, too")
    return request


def _positive(number: Any) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number) and number > 0
