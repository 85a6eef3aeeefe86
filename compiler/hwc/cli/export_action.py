"""What the export commands do: open the bundle, make one call, say what was written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hwc import render
from hwc.bundle import export_dir as plain
from hwc.cli.bundle_action import open_named
from hwc.errors import UsageError
from hwc.serve import onnx_export, triton


def export_dir(text: str, destination: Path) -> None:
    """Write a bundle's variants as plain files."""
    render.result(str(plain.export(open_named(text).variants, destination)))


def export_onnx(text: str, destination: Path, *, form: str, force: bool) -> None:
    """Write a variant's model as ONNX, and tell how it was proven."""
    variants = open_named(text).variants
    if len(variants) > 1:
        raise UsageError(
            f"the bundle has {len(variants)} variants, and one becomes a model file", where=text,
            hint="name one as BUNDLE#TARGET/SCHEME: " + ", ".join(variant.name for variant in variants),
        )
    chosen = next(known for known in onnx_export.FORMS if known == form)
    made = onnx_export.export(variants[0], destination, form=chosen, replace=force)
    options = ", ".join(f"{name}={value}" for name, value in made.session_options.items()) or "no session options"
    render.note(
        f"{made.proof.calls} golden calls in ONNX Runtime ({options}): largest difference {made.proof.max_abs:.1e}"
    )
    if made.proof.greedy_tokens:
        render.note(f"the next {made.proof.greedy_tokens} tokens of the golden prompt are those of the bundle's code")
    render.note(f"{variants[0].name} as {chosen}: {render.size(made.model_bytes)}")
    render.result(str(destination))


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
