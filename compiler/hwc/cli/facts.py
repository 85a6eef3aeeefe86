"""``hwc models``, ``schemes`` and ``schema``: what hwc knows, and what the user wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hwc.cli import targets
from hwc.cli.options import Format


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    for kind, commands in {"models": (models_list, models_show, models_new),
                           "schemes": (schemes_list, schemes_show)}.items():
        group = typer.Typer(help=f"List and show {kind}.", no_args_is_help=True, rich_markup_mode=None)
        for command in commands:
            group.command(command.__name__.rpartition("_")[2])(command)
        app.add_typer(group, name=kind)
    app.add_typer(targets.group(), name="targets")
    app.command()(schema)


def models_list(format: Format = "table") -> None:
    """List the models on the search path."""
    from hwc.cli import facts_action

    facts_action.models_list(format)


def models_show(
    name: Annotated[str, typer.Argument(help="A model's name, path or TOML file.")], format: Format = "table"
) -> None:
    """Show a model's whole specification, inferred parts included."""
    from hwc.cli import facts_action

    facts_action.models_show(name, format)


def models_new(
    source: Annotated[str, typer.Argument(help="HF folder, x.onnx or file.py:factory.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="TOML file to write (default: models/NAME.toml).")
    ] = None,
    force: Annotated[bool, typer.Option(help="Overwrite an existing file.")] = False,
) -> None:
    """Infer a model's specification and write it as TOML."""
    from hwc.cli import facts_action

    facts_action.models_new(source, output, force=force)


def schemes_list(format: Format = "table") -> None:
    """List the quantisation schemes."""
    from hwc.cli import facts_action

    facts_action.schemes_list(format)


def schemes_show(name: Annotated[str, typer.Argument(help="A scheme's name.")], format: Format = "table") -> None:
    """Show a scheme, and how each target encodes it."""
    from hwc.cli import facts_action

    facts_action.schemes_show(name, format)


def schema(
    kind: Annotated[Literal["model", "target", "prices", "project", "serving"], typer.Argument(help="Which schema.")],
) -> None:
    """Print the JSON Schema of a file that hwc reads or writes."""
    from hwc.cli import facts_action

    facts_action.schema(kind)
