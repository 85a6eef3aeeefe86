"""Describe a language model: time to first token, time between tokens, and what a million tokens cost; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hwc.bundle.serving_profile import DecodeCell, Latency, PrefillCell, Profile
from hwc.bundle.serving_records import Definitions, Qos, UsdPerMillionTokens
from hwc.predict import cost
from hwc.predict.cost import HourlyCost
from hwc.spec.prices import Range

QOS_MS = {"interactive": (500.0, 30.0), "standard": (2000.0, 100.0)}
"""Classes of service by TTFT and TPOT: those of MLPerf Inference for Llama-3.1-8B, as anchors."""
DEFINITIONS = Definitions(
    boundary="engine",
    percentile_method="nearest rank over single calls; a p99 needs 100 samples",
    ttft="one prefill call on an idle engine, prompt ids on the device to the last position's logits on the host",
    tpot="one decode call, token id on the device to logits on the host; the cache's whole length is attended, so it "
    "does not depend on the tokens held; sampling, tokenizer, queue and network are not in it",
)


def is_language(cells: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether a profile's cells are calls of a language model."""
    return bool(cells) and all({"sequence", "logits"} <= set(cell["bucket"]) for cell in cells)


def grid(
    cells: Sequence[Mapping[str, Any]], latency: Callable[[Mapping[str, Any]], Latency], context_tokens: int
) -> dict[str, tuple[Any, ...]]:
    """Return the prefill and decode cells of a profile; a call of one token is a decode."""
    prefill, decode = [], []
    for cell in cells:
        batch, tokens = cell["bucket"]["batch"], cell["bucket"]["sequence"]
        told = latency(cell["latency_ms"])
        rate = 1e3 * batch * tokens / told.p50
        if tokens == 1:
            decode.append(
                DecodeCell(
                    batch=batch, context=context_tokens, itl_ms=told, tok_s=rate, valid=cell["valid"],
                    method="measured",
                )
            )
        else:
            prefill.append(
                PrefillCell(
                    isl=tokens, batch=batch, ttft_ms=told, tok_s=rate, valid=cell["valid"], method="measured"
                )
            )
    return {"prefill": tuple(prefill), "decode": tuple(decode)}


def qos(profile: Profile) -> tuple[Qos, ...]:
    """Say of every class of service whether the p99 of some decode, and of the prefills up to which length, hold it."""
    rows = []
    decodes = [cell.itl_ms.p99 for cell in profile.decode if cell.valid and cell.itl_ms.p99 is not None]
    prefills = [cell for cell in profile.prefill if cell.valid and cell.ttft_ms.p99 is not None]
    for name, (ttft_ms, tpot_ms) in QOS_MS.items():
        if not decodes or not prefills:
            continue
        held = [cell.isl for cell in prefills if (cell.ttft_ms.p99 or ttft_ms + 1) <= ttft_ms]
        rows.append(
            Qos(
                id=name, percentile=99, ttft_ms=ttft_ms, tpot_ms=tpot_ms, max_isl=max(held, default=None),
                passes=bool(held) and min(decodes) <= tpot_ms,
            )
        )
    return tuple(rows)


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
