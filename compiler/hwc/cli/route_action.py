"""What ``hwc route`` does: read, decide, render."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hwc import render
from hwc.errors import GateError, UsageError
from hwc.serve import router
from hwc.serve.fleet import load_fleet, overlay_state
from hwc.serve.request import Request, request_from
from hwc.spec.project import open_project


def pairs(options: Sequence[str] | None) -> dict[str, float] | None:
    """Read ``name=number`` options; raise UsageError for another form."""
    if not options:
        return None
    found: dict[str, float] = {}
    for option in options:
        name, sign, number = option.partition("=")
        try:
            found[name] = float(number) if "." in number else int(number)
        except ValueError:
            sign = ""
        if not sign or not name:
            raise UsageError(f"not of the form name=number: {option!r}")
    return found


def route(
    fleet: Path, request: Path | None, state: Path | None, overrides: Mapping[str, Any], *, format: str
) -> None:
    """Decide one request; exit 3 with every reason if nothing is feasible."""
    document = _document(request) if request is not None else {}
    document.update({key: value for key, value in overrides.items() if value is not None})
    wanted = request_from(document)
    candidates, states = load_fleet(fleet, default_store=open_project(Path.cwd()).store)
    if state is not None:
        states = overlay_state(states, state)
    decision = router.decide(wanted, candidates, states)
    if format == "json":
        render.as_json(_as_json(decision))
    elif decision.chosen is not None:
        _show(decision)
    if decision.chosen is None:
        told = [f"{loss.candidate}: {loss.reason}" for loss in decision.losses]
        reasons = "\n         ".join(told) or "the fleet is empty"
        raise GateError(
            f"nothing can serve this request within {_objectives(wanted)}", where=reasons,
            hint="relax the objective, split the request, add nodes, or --allow-unverified",
        )


def _document(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the request: {error}", where=str(path)) from error
    if not isinstance(loaded, dict):
        raise UsageError("a request is a JSON object", where=str(path))
    return loaded


def _objectives(wanted: Request) -> str:
    told = {"": wanted.slo_p99_ms, " to the first token": wanted.slo_ttft_ms, " per token": wanted.slo_tpot_ms}
    return ", ".join(f"{bound:g} ms{what}" for what, bound in told.items() if math.isfinite(bound))


def _show(decision: router.Decision) -> None:
    chosen = decision.chosen
    assert chosen is not None
    usd = "–" if decision.usd is None else f"{decision.usd * 1e6:.3g} $ per million such requests"
    text = ""
    if not math.isnan(decision.ttft_p99_ms):
        text = f"; TTFT p99 {decision.ttft_p99_ms:.1f} ms, TPOT p99 {decision.tpot_p99_ms:.1f} ms"
    render.result(
        f"{chosen.name}\n"
        f"  {decision.calls} call(s) of {decision.bucket}; p50 {decision.predicted_p50_ms:.1f} ms, "
        f"p99 {decision.predicted_p99_ms:.1f} ms ({decision.basis}){text}, {decision.margin_ms:.1f} ms to spare; {usd}"
    )
    if decision.link_bytes:
        render.note(f"over {decision.chips} chip(s); {decision.link_bytes / 1e3:.3g} kB pass between devices")
    if decision.losses:
        render.table("", ("lost", "because"), [[loss.candidate, loss.reason] for loss in decision.losses])


def _as_json(decision: router.Decision) -> dict[str, Any]:
    chosen = decision.chosen
    told: dict[str, Any] = {"losses": [asdict(loss) for loss in decision.losses], "chosen": None}
    if chosen is not None:
        told |= {
            "chosen": {"node": chosen.node, "bundle": chosen.bundle, "variant": chosen.variant},
            "bucket": decision.bucket, "calls": decision.calls, "predicted_p50_ms": decision.predicted_p50_ms,
            "predicted_p99_ms": decision.predicted_p99_ms, "margin_ms": decision.margin_ms, "usd": decision.usd,
            "basis": decision.basis, "chips": decision.chips, "link_bytes": decision.link_bytes,
        }
        if not math.isnan(decision.ttft_p99_ms):
            told |= {"ttft_p99_ms": decision.ttft_p99_ms, "tpot_p99_ms": decision.tpot_p99_ms}
    return told
