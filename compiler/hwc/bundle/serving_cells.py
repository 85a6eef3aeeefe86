"""The latency cells of a variant, whatever it is: whole requests, prompts, or single tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hwc.bundle.serving import Serving
from hwc.bundle.serving_profile import Latency
from hwc.spec.figure import Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measured cell with what a million of its items, or tokens, cost."""

    shape: str
    """For people: ``batch 1, sequence 128``, or ``TTFT, batch 1, prompt 64``."""
    name: str
    """As the profile names it."""
    latency: Latency
    per_s: float
    unit: str
    """What is counted: ``items`` or ``tokens``."""
    valid: bool
    method: str
    usd: Range | None
    joules: Range | None
    utilisation: float | None


def cells_of(serving: Serving) -> list[Cell]:
    """Return every latency cell of a document; of a language model single tokens first, with the fullest cache."""
    return [*_requests(serving), *_decodes(serving), *_prompts(serving)]


def _requests(serving: Serving) -> Iterator[Cell]:
    priced = {row.bucket: row for row in serving.cost.usd_per_million_items} if serving.cost else {}
    for cell in serving.profile.request:
        row = priced.get(cell.bucket)
        yield Cell(
            shape=", ".join(f"{name} {size}" for name, size in cell.dims.items()) or cell.bucket,
            name=cell.bucket, latency=cell.latency_ms, per_s=cell.items_s, unit="items", valid=cell.valid,
            method=cell.method, usd=row.usd if row else None, joules=row.j_per_item if row else None,
            utilisation=row.utilisation if row else None,
        )


def _decodes(serving: Serving) -> Iterator[Cell]:
    for cell in sorted(serving.profile.decode, key=lambda one: (one.batch, -one.context)):
        yield _of_tokens(
            serving, "decode", cell.batch, cell.context, f"ITL, batch {cell.batch}, {cell.context} tokens in the cache",
            latency=cell.itl_ms, per_s=cell.tok_s, valid=cell.valid, method=cell.method,
        )


def _prompts(serving: Serving) -> Iterator[Cell]:
    for cell in sorted(serving.profile.prefill, key=lambda one: (one.batch, one.isl)):
        pieces = f" in {cell.calls} calls" if cell.calls > 1 else ""
        yield _of_tokens(
            serving, "prefill", cell.batch, cell.isl, f"TTFT, batch {cell.batch}, prompt {cell.isl}{pieces}",
            latency=cell.ttft_ms, per_s=cell.tok_s, valid=cell.valid, method=cell.method,
        )


def _of_tokens(
    serving: Serving, phase: str, batch: int, tokens: int, shape: str, *, latency: Latency, per_s: float, valid: bool,
    method: str,
) -> Cell:
    told = serving.cost.usd_per_million_tokens if serving.cost else ()
    row = next((row for row in told if (row.phase, row.batch, row.tokens) == (phase, batch, tokens)), None)
    return Cell(
        shape=shape, name=f"{phase}_b{batch}_n{tokens}", latency=latency, per_s=per_s, unit="tokens", valid=valid,
        method=method, usd=row.usd if row else None, joules=row.j_per_token if row else None,
        utilisation=row.utilisation if row else None,
    )
