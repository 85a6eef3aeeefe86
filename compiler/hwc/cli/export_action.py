"""What the export commands do: open the bundle, make one call, say what was written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hwc import render
from hwc.bundle import export_dir as plain
from hwc.cli.bundle_action import open_named
from hwc.serve import triton


def export_dir(text: str, destination: Path) -> None:
    """Write a bundle's variants as plain files."""
    render.result(str(plain.export(open_named(text).variants, destination)))


def export_triton(
    text: str, destination: Path, *, backends: Sequence[str] | None, allow_unverified: bool
) -> None:
    """Write a model repository for Triton and name its models."""
    chosen = tuple(backend for backend in triton.BACKENDS if not backends or backend in backends)
    models = triton.export(
        open_named(text).variants, destination, backends=chosen, allow_unverified=allow_unverified
    )
    for model in models:
        render.note(f"{model.name}: {model.variant.name} with {model.backend}")
    render.result(str(destination))
