"""``hwc predict``: latency, energy and price of a model on a target, before there is an artefact or a chip."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from hwc.cli.options import Format

Activations = Literal["float32", "float16", "bfloat16"]


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command()(predict)


def predict(
    model: Annotated[str, typer.Argument(help="A model's name or path; of a language model, config.json is enough.")],
    target: Annotated[str, typer.Option("-t", "--target", help="Target.")],
    quantise: Annotated[str | None, typer.Option("-q", "--quantise", help="Scheme (default: float).")] = None,
    chips: Annotated[int, typer.Option(min=1, max=1024, help="Chips that share a language model's layers.")] = 1,
    batch: Annotated[list[int] | None, typer.Option(min=1, max=65536, help="Sequences; repeatable.")] = None,
    prompt_tokens: Annotated[list[int] | None, typer.Option(min=1, max=1 << 20, help="Prompt; repeatable.")] = None,
    context: Annotated[list[int] | None, typer.Option(min=1, max=1 << 20, help="Cached tokens; repeatable.")] = None,
    activations: Annotated[Activations | None, typer.Option(help="Type activations and the cache have.")] = None,
    format: Format = "table",
) -> None:
    """Predict latency, energy and price of a model on a target, with the interval and the method of each figure."""
    from hwc.cli import predict_action

    asked = predict_action.Asked(
        model=model, scheme=quantise, chips=chips, batches=tuple(batch or ()), prompts=tuple(prompt_tokens or ()),
        contexts=tuple(context or ()), activations=activations,
    )
    predict_action.predict(asked, target, format)
