"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Format = Annotated[Literal["table", "json"], typer.Option("--format", help="How to write the result to stdout.")]
PlainHttp = Annotated[
    bool, typer.Option("--plain-http", help="Speak HTTP without TLS; for registries on a network that you trust.")
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Threads for CPU code; default: what the target says, which is 1 for the shipped ones."),
]
Reference = Annotated[
    str,
    typer.Argument(metavar="BUNDLE", help="[oci:PATH][:TAG|@DIGEST][#TARGET/SCHEME], as minilm:dev#x86-64-v3/fp8."),
]
