"""Commands that write a bundle in another system's form."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from hwc.cli.options import Reference


class Backend(StrEnum):
    """What a Triton server can run a variant with."""

    IREE = "iree"
    ONNXRUNTIME = "onnxruntime"


class Form(StrEnum):
    """How packed weights are told in ONNX."""

    MATMULNBITS = "matmulnbits"
    DEQUANTIZE_LINEAR = "dequantize-linear"


Destination = Annotated[Path, typer.Argument(help="Folder to create.")]


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    group = typer.Typer(help="Write a bundle in another system's form.", no_args_is_help=True, rich_markup_mode=None)
    group.callback()(lambda: None)
    group.command("dir")(export_dir)
    group.command("onnx")(export_onnx)
    group.command("triton")(export_triton)
    app.add_typer(group, name="export")


def export_dir(bundle: Reference, destination: Destination) -> None:
    """Write code, weights, tokenizer and metadata as plain files."""
    from hwc.cli import export_action

    export_action.export_dir(bundle, destination)


def export_onnx(
    bundle: Reference,
    destination: Destination,
    form: Annotated[
        Form, typer.Option(help="ONNX Runtime's own operators for packed weights, or standard operators alone.")
    ] = Form.MATMULNBITS,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export to ONNX.")] = False,
) -> None:
    """Write BUNDLE#TARGET/SCHEME as one ONNX model, proven in ONNX Runtime."""
    from hwc.cli import export_action

    export_action.export_onnx(bundle, destination, form=form, force=force)


def export_triton(
    bundle: Reference,
    destination: Destination,
    backend: Annotated[
        list[Backend] | None, typer.Option(help="Backend to write models for; repeat for several (default: both).")
    ] = None,
    allow_unverified: Annotated[
        bool, typer.Option("--allow-unverified", help="Write variants that never ran on the device they are for.")
    ] = False,
) -> None:
    """Write a Triton model repository: the Python backend runs the compiled code, ONNX Runtime the graph."""
    from hwc.cli import export_action

    export_action.export_triton(bundle, destination, backends=backend, allow_unverified=allow_unverified)
