"""Describe a language model: time to first token, time between tokens, and what a million tokens cost; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hwc.bundle.serving_profile import DecodeCell, Latency, PrefillCell, Profile
from hwc.bundle.serving_records import Definitions, Qos, UsdPerMillionTokens
from hwc.predict import cost
from hwc.predict.cost import HourlyCost
from hwc.spec.figure import Range

QOS_MS = {"interactive": (500.0, 30.0), "standard": (2000.0, 100.0)}
"""Classes of service by TTFT and TPOT: those of MLPerf Inference for Llama-3.1-8B, as anchors."""
DEFINITIONS = Definitions(
    boundary="engine",
    percentile_method="nearest rank over single calls; a p99 needs 100 samples",
    ttft="the calls that take a prompt into an empty cache on an idle engine, prompt ids on the device to the last "
    "position's logits on the host; a prompt longer than the largest shape goes in pieces, all of them timed",
    tpot="ITL of one decode call, token id on the device to logits on the host, with `context` tokens in the cache, "
    "the new one included; on an idle engine TPOT = (e2e − ttft)/(n − 1) is their mean; sampling, tokenizer, queue and "
    "network are not in it",
)


def grid(
    cells: Sequence[Mapping[str, Any]], latency: Callable[[Mapping[str, Any]], Latency]
) -> dict[str, tuple[Any, ...]]:
    """Return the prefill and decode cells of a profile."""
    prefill, decode = [], []
    for cell in cells:
        batch, tokens, valid, told = cell["batch"], cell["tokens"], cell["valid"], latency(cell["latency_ms"])
        per_s = 1e3 * batch / told.p50
        if cell["phase"] == "decode":
            decode.append(
                DecodeCell(batch=batch, context=tokens, itl_ms=told, tok_s=per_s, valid=valid, method="measured")
            )
            continue
        prefill.append(
            PrefillCell(
                isl=tokens, batch=batch, calls=sum(cell["calls"].values()), ttft_ms=told, tok_s=per_s * tokens,
                valid=valid, method="measured",
            )
        )
    return {"prefill": tuple(prefill), "decode": tuple(decode)}


def qos(profile: Profile) -> tuple[Qos, ...]:
    """Say of every class of service up to which prompt length and batch p99s hold it; only cells that tell one count.

    A batch holds a class if its slowest decode does, however full the cache is.
    """
    decodes: dict[int, float] = {}
    for cell in profile.decode:
        if cell.valid and cell.itl_ms.p99 is not None:
            decodes[cell.batch] = max(decodes.get(cell.batch, 0.0), cell.itl_ms.p99)
    prefills = {
        cell.isl: cell.ttft_ms.p99
        for cell in profile.prefill
        if cell.valid and cell.ttft_ms.p99 is not None and cell.batch == min(decodes, default=cell.batch)
    }
    if not decodes or not prefills:
        return ()
    rows = []
    for name, (ttft_ms, tpot_ms) in QOS_MS.items():
        lengths = [isl for isl, p99_ms in prefills.items() if p99_ms <= ttft_ms]
        batches = [batch for batch, p99_ms in decodes.items() if p99_ms <= tpot_ms]
        rows.append(
            Qos(
                id=name, percentile=99, ttft_ms=ttft_ms, tpot_ms=tpot_ms, max_isl=max(lengths, default=None),
                max_concurrency=max(batches, default=0), passes=bool(lengths and batches),
            )
        )
    return tuple(rows)


def equivalents(variant: str, tokens: Mapping[str, Sequence[int]]) -> tuple[str, ...]:
    """Return which other variants made the same golden tokens, as far as both went; ``tokens`` by variant."""
    own = tokens.get(variant, ())
    if not own:
        return ()
    return tuple(
        name
        for name, found in sorted(tokens.items())
        if name != variant and found and all(one == other for one, other in zip(own, found, strict=False))
    )


def usd(
    profile: Profile, hourly: HourlyCost, watts: Range | None, utilisation: float
) -> tuple[UsdPerMillionTokens, ...]:
    """Price a million tokens of every cell."""
    told = [("prefill", cell.batch, cell.isl, cell.tok_s) for cell in profile.prefill]
    told += [("decode", cell.batch, cell.context, cell.tok_s) for cell in profile.decode]
    return tuple(
        UsdPerMillionTokens(
            phase=phase, batch=batch, tokens=tokens, utilisation=utilisation,
            usd=cost.usd_per_million_items(hourly.total, rate, utilisation),
            j_per_token=cost.j_per_item(watts, rate, utilisation) if watts else None,
        )
        for phase, batch, tokens, rate in told
    )
