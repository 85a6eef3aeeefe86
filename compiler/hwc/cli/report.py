"""``hwc report``: one self-contained HTML page about a store or a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command()(report)


def report(
    bundle: Annotated[
        str | None,
        typer.Argument(metavar="BUNDLE|STORE", help="A bundle, or a store's folder; without it, the default store."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML file to write.")] = Path("report.html"),
) -> None:
    """Write variants, quality, latency, cost, time against the roofline and provenance as one HTML page."""
    from hwc.cli import report_action

    report_action.report(bundle, output)
