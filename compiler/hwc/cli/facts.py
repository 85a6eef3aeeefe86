"""``hwc models``, ``targets``, ``schemes`` and ``schema``: what hwc knows, and what the user wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hwc.cli.options import Format


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    for kind, commands in {"models": (models_list, models_show, models_new),
                           "targets": (targets_list, targets_show, targets_check),
                           "schemes": (schemes_list, schemes_show)}.items():
        group = typer.Typer(help=f"List and show {kind}.", no_args_is_help=True, rich_markup_mode=None)
        for command in commands:
            group.command(command.__name__.rpartition("_")[2])(command)
        app.add_typer(group, name=kind)
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


def targets_list(format: Format = "table") -> None:
    """List the targets on the search path, and which of them run here."""
    from hwc.cli import facts_action

    facts_action.targets_list(format)


def targets_show(name: Annotated[str, typer.Argument(help="A target's name.")], format: Format = "table") -> None:
    """Show a target's descriptor, with what was detected on this machine."""
    from hwc.cli import facts_action

    facts_action.targets_show(name, format)


def targets_check(
    name: Annotated[str, typer.Argument(help="A target's name.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Tell how much of this model the target covers, and what does not fit.")
    ],
    scheme: Annotated[str, typer.Option("--scheme", "-q", help="Quantisation scheme of the model.")] = "fp32",
    format: Format = "table",
) -> None:
    """Check how much of a model a target runs itself; exit 3 under its coverage gate."""
    from hwc.cli import coverage_action

    coverage_action.check(name, model, scheme, format)


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
