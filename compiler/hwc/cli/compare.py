"""``hwc targets compare``: a model across targets, and what assumptions would have to be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hwc.cli.options import Format


def targets_compare(
    model: Annotated[str, typer.Argument(help="A model's name or path; of a language model, config.json is enough.")],
    target: Annotated[list[str], typer.Option("-t", "--target", help="Target; give two or more.")],
    quantise: Annotated[str | None, typer.Option("-q", "--quantise", help="Scheme (default: float).")] = None,
    batch: Annotated[int, typer.Option(min=1, max=65536, help="Sequences of a language model.")] = 1,
    context: Annotated[int, typer.Option(min=1, max=1 << 20, help="Tokens in its cache.")] = 1024,
    prompt_tokens: Annotated[int, typer.Option(min=1, max=1 << 20, help="Tokens of its prompt.")] = 512,
    by: Annotated[Literal["usd", "latency", "energy"], typer.Option(help="What decides.")] = "usd",
    plot: Annotated[Path | None, typer.Option(help="SVG to write.")] = None,
    format: Format = "table",
) -> None:
    """Compare predictions across targets: intervals, what each assumed figure moves, and break-even values."""
    from hwc.cli import compare_action

    sizes = compare_action.Sizes(batch=batch, context=context, prompt_tokens=prompt_tokens)
    wanted = compare_action.Wanted(scheme=quantise, by=by, plot=plot, format=format)
    compare_action.compare(model, target, wanted, sizes)
