"""Commands between the bundle store and registries: push, pull, list."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from hwc.cli.options import Format, PlainHttp, Reference

Parallel = Annotated[int, typer.Option("-j", "--jobs", min=1, max=16, help="Blobs to move at a time.")]


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command()(push)
    app.command()(pull)
    app.command("list")(list_bundles)


def push(
    bundle: Reference,
    destination: Annotated[
        str, typer.Argument(metavar="oci://HOST/REPO[:TAG]", help="Where to; TAG is the bundle's version if left out.")
    ],
    plain_http: PlainHttp = False,
    mount_from: Annotated[
        str, typer.Option(help="A repository of the same registry that may hold the same blobs already.")
    ] = "",
    jobs: Parallel = 4,
    format: Format = "table",
) -> None:
    """Push a bundle to a registry; a version that exists there is never changed."""
    from hwc.cli import registry_action

    registry_action.push(
        bundle, destination, plain_http=plain_http, mount_from=mount_from, jobs=jobs, format=format
    )


def pull(
    bundle: Annotated[
        str,
        typer.Argument(metavar="oci://HOST/REPO[:TAG|@DIGEST][#TARGET/SCHEME]", help="What to pull (TAG: dev)."),
    ],
    destination: Annotated[
        str, typer.Argument(metavar="[MODEL:VERSION | oci:PATH]", help="Its name here, or the store to put it into.")
    ] = "",
    only: Annotated[
        Literal["everything", "serving"],
        typer.Option(help="serving: the metadata that a router reads, and no code or weights."),
    ] = "everything",
    plain_http: PlainHttp = False,
    jobs: Parallel = 4,
    format: Format = "table",
) -> None:
    """Pull a bundle, or one variant of it, from a registry; its tag appears when all of it is here and verified."""
    from hwc.cli import registry_action

    registry_action.pull(
        bundle, destination, serving_alone=only == "serving", plain_http=plain_http, jobs=jobs, format=format
    )


def list_bundles(
    place: Annotated[
        str, typer.Argument(metavar="[oci:PATH | oci://HOST/REPO]", help="What to list (default: the bundle store).")
    ] = "",
    plain_http: PlainHttp = False,
    format: Format = "table",
) -> None:
    """List the bundles of a store or of a registry's repository: tags, variants, status and sizes."""
    from hwc.cli import registry_action

    registry_action.list_bundles(place, plain_http=plain_http, format=format)
