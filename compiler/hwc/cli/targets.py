"""``hwc targets``: describe a chip, show what is known of it, and check it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwc.cli.compare import targets_compare
from hwc.cli.options import Format


def group() -> typer.Typer:
    """Return the group of commands."""
    made = typer.Typer(
        help="Describe, list, show, check and compare targets.", no_args_is_help=True, rich_markup_mode=None
    )
    for command in (targets_list, targets_show, targets_new, targets_check, targets_calibrate, targets_compare):
        made.command(command.__name__.rpartition("_")[2])(command)
    return made


def targets_list(format: Format = "table") -> None:
    """List the targets on the search path, what is made for them, and which of them run here."""
    from hwc.cli import targets_action

    targets_action.listed(format)


def targets_show(name: Annotated[str, typer.Argument(help="A target's name.")], format: Format = "table") -> None:
    """Show a target's descriptor and figures, with what was detected on this machine."""
    from hwc.cli import targets_action

    targets_action.show(name, format)


def targets_new(
    name: Annotated[str, typer.Argument(help="The new target's name.")],
    origin: Annotated[str | None, typer.Option("--from", help="Target to start from (default: a template).")] = None,
) -> None:
    """Write targets/NAME.toml, a commented descriptor to fill in; never overwrites one."""
    from hwc.cli import targets_action

    targets_action.new(name, origin)


def targets_check(
    name: Annotated[str, typer.Argument(help="A target's name.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Tell how much of this model the target covers, and what does not fit."),
    ] = None,
    scheme: Annotated[str, typer.Option("--scheme", "-q", help="Quantisation scheme of the model.")] = "fp32",
    strict: Annotated[bool, typer.Option(help="A tool that is not installed fails the check (exit 4).")] = False,
    format: Format = "table",
) -> None:
    """Check a descriptor by itself and by its tools (exit 2), or how much of a model it runs (exit 3)."""
    from hwc.cli import conformance_action, coverage_action

    if model is None:
        conformance_action.check(name, format, strict=strict)
    else:
        coverage_action.check(name, model, scheme, format)


def targets_calibrate(
    name: Annotated[str, typer.Argument(help="A target that this machine runs.")] = "llvm-cpu-host",
    budget_s: Annotated[float, typer.Option("--budget-s", min=1, help="Seconds to time for, after compiling.")] = 120.0,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="JSON to write (default: targets/calibration/NAME.json).")
    ] = None,
    format: Format = "table",
) -> None:
    """Measure what this machine reaches of its peaks, by kind of work, and fit the predictions to it."""
    from hwc.cli import calibrate_action

    calibrate_action.calibrate(name, output, budget_s=budget_s, format=format)
