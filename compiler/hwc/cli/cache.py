"""``hwc cache``: the stage outputs under HWC_HOME."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwc.cli.options import Format


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    purpose = "Look at, clean and verify the cache of stage outputs."
    group = typer.Typer(help=purpose, no_args_is_help=True, rich_markup_mode=None)
    group.command()(du)
    group.command()(gc)
    group.command()(verify)
    app.add_typer(group, name="cache")


def du(format: Format = "table") -> None:
    """Show how much the cache holds, by stage."""
    from hwc import render
    from hwc.pipeline.store import Store
    from hwc.spec.project import open_project

    totals: dict[str, list[int]] = {}
    project = open_project(Path.cwd())
    for kind, _, size, _ in Store(project.home).entries():
        row = totals.setdefault(kind, [0, 0])
        row[0] += 1
        row[1] += size
    if format == "json":
        render.as_json({kind: {"outputs": row[0], "bytes": row[1]} for kind, row in totals.items()})
        return
    rows = [[kind, str(outputs), render.size(size)] for kind, (outputs, size) in totals.items()]
    render.table(str(project.home), ("stage", "outputs", "size"), rows)


def gc(
    older_than_days: Annotated[
        float, typer.Option(help="Remove outputs not used for this long; 0 removes all.", min=0)
    ] = 14.0,
) -> None:
    """Remove old outputs and what dead processes left; bundles are never touched."""
    from hwc import render
    from hwc.pipeline.store import Store
    from hwc.spec.project import open_project

    freed = Store(open_project(Path.cwd()).home).collect(older_than_s=older_than_days * 86400)
    render.result(f"freed {render.size(freed)}")


def verify() -> None:
    """Hash every output and remove damaged ones; they are made again when needed."""
    from hwc import render
    from hwc.pipeline.store import Store
    from hwc.spec.project import open_project

    removed = Store(open_project(Path.cwd()).home).verify()
    render.result(f"{len(removed)} damaged output(s) removed" if removed else "every output is whole")
