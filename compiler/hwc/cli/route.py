"""``hwc route``: which variant on which node serves a request."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwc.cli.options import Format


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command()(route)


def route(
    fleet: Annotated[Path, typer.Option(help="Fleet file (TOML): nodes, their bundles and state.")],
    request: Annotated[Path | None, typer.Option(help="Request as JSON; the options below win over it.")] = None,
    state: Annotated[Path | None, typer.Option(help="Live state as JSON, laid over the fleet file's.")] = None,
    model: Annotated[str | None, typer.Option(help="Model the request is for.")] = None,
    items: Annotated[int | None, typer.Option(help="Items in the request.", min=1)] = None,
    size: Annotated[list[str] | None, typer.Option(help="Size of a dimension, as sequence=100.")] = None,
    prompt_tokens: Annotated[int | None, typer.Option(help="Tokens of a language model's prompt.", min=1)] = None,
    completion_tokens: Annotated[int | None, typer.Option(help="Tokens it is to generate.", min=1)] = None,
    slo_p99_ms: Annotated[float | None, typer.Option(help="Objective on the p99, in milliseconds.")] = None,
    slo_ttft_ms: Annotated[float | None, typer.Option(help="Objective on the time to the first token.")] = None,
    slo_tpot_ms: Annotated[float | None, typer.Option(help="Objective on the time per token after it.")] = None,
    min_quality: Annotated[list[str] | None, typer.Option(help="Least quality, as cosine_mean=0.98.")] = None,
    priority: Annotated[int | None, typer.Option(help="Above 0: may use draining nodes.")] = None,
    allow_unverified: Annotated[bool, typer.Option(help="Consider variants that never ran on their device.")] = False,
    format: Format = "table",
) -> None:
    """Choose a variant and a node from serving metadata and live state alone, and say why the others lost."""
    from hwc.cli import route_action


    overrides = {
        "model": model, "items": items, "slo_p99_ms": slo_p99_ms, "priority": priority,
        "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "slo_ttft_ms": slo_ttft_ms,
        "slo_tpot_ms": slo_tpot_ms,
        "dims": route_action.pairs(size), "min_quality": route_action.pairs(min_quality),
        "allow_unverified": allow_unverified or None,
    }
    route_action.route(fleet, request, state, overrides, format=format)
