"""``hwc build``, ``plan``, ``why`` and ``doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwc.cli.options import Format

Models = Annotated[
    list[str], typer.Argument(help="Names from models/, TOML files, HF folders, x.onnx or file.py:factory.")
]
Targets = Annotated[list[str] | None, typer.Option("-t", "--target", help="Target; repeat for several.")]
Schemes = Annotated[list[str] | None, typer.Option("-q", "--quantise", help="Scheme; repeat for several.")]
All = Annotated[bool, typer.Option("--all", help="Every target and scheme the model names as its full matrix.")]


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command()(build)
    app.command()(plan)
    app.command()(why)
    app.command()(doctor)


def build(
    models: Models,
    target: Targets = None,
    quantise: Schemes = None,
    everything: All = False,
    jobs: Annotated[int, typer.Option("-j", "--jobs", help="Steps at once; 0: by cores and memory.")] = 0,
    smoke: Annotated[bool, typer.Option("--smoke", help="Check, but do not profile.")] = False,
    refresh: Annotated[list[str] | None, typer.Option(help="Stage to run again, as `profile`; repeatable.")] = None,
    tune: Annotated[bool, typer.Option("--tune", help="Measure the targets' [[tune]] candidates; take the best.")] = (
        False
    ),
    tune_budget_s: Annotated[float, typer.Option(min=1, help="Seconds to tune a variant in, about.")] = 300.0,
    tuned: Annotated[
        Path | None, typer.Option(help="File of tuned choices: obeyed; with --tune, written.", dir_okay=False)
    ] = None,
    tag: Annotated[str, typer.Option(help="Mutable version tag that the build moves.")] = "dev",
    baseline: Annotated[str | None, typer.Option(metavar="BUNDLE", help="Bundle to hold regressions against.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write the gates' verdicts as JUnit XML.")] = None,
    summary: Annotated[Path | None, typer.Option(help="Append the verdicts as Markdown.")] = None,
    timings: Annotated[bool, typer.Option("--timings", help="Show what each step that ran took.")] = False,
    format: Format = "table",
) -> None:
    """Export, quantise, lower, check, profile and pack models into verified bundles."""
    from hwc.cli import action

    action.build(
        models,
        action.BuildOptions(
            targets=target, schemes=quantise, everything=everything, jobs=jobs, smoke=smoke, refresh=refresh or [],
            tune_budget_s=tune_budget_s if tune else None, tuned=tuned, tag=tag, baseline=baseline, junit=junit,
            summary=summary, timings=timings, format=format,
        ),
    )


def plan(
    models: Models, target: Targets = None, quantise: Schemes = None, everything: All = False, format: Format = "table"
) -> None:
    """Show the steps a build would take and which are already done; run nothing."""
    from hwc.cli import action

    action.plan(models, (target, quantise, everything), format=format)


def why(
    models: Models, target: Targets = None, quantise: Schemes = None, everything: All = False, format: Format = "table"
) -> None:
    """Say, for every step a build would run, what changed since it last ran."""
    from hwc.cli import action

    action.why(models, (target, quantise, everything), format=format)


def doctor(format: Format = "table") -> None:
    """Say what this machine can build and run, and what to install for the rest."""
    from hwc.cli import action

    action.doctor(Path.cwd(), format=format)
