"""From a variant in a store to a program a session can load: code and weights are used where they lie."""

from __future__ import annotations

from pathlib import Path

from hwc.bundle.open import Blob, Variant
from hwc.errors import IntegrityError, UsageError
from hwc.program import Program, Slice, device_from, functions_from


def program_of(variant: Variant) -> Program:
    """Return what a session needs; raise IntegrityError if the variant's facts do not describe a program.

    Raises UsageError for a hand-over, which holds no code.
    """
    if variant.status == "hand-over":
        raise UsageError(
            "the variant is a hand-over: it holds sources for the vendor's compiler, and no code to run",
            where=variant.name, hint="`hwc export dir` writes its files; code/README.md tells their formats",
        )
    try:
        device = device_from(variant.facts["device"])
        functions = functions_from(variant.facts["lower"]["functions"])
        weights = [variant.files[role] for role in sorted(variant.files) if role.startswith("weights/")]
        return Program(
            code=_slice(variant.files["code/module.vmfb"]),
            parameters=tuple(_slice(blob) for blob in weights),
            functions=functions,
            device=device,
            beside=tuple(device_from(entry) for entry in variant.facts["lower"].get("beside", ())),
        )
    except (KeyError, TypeError) as error:
        raise IntegrityError(f"the variant's facts do not describe a program: {error}", where=variant.name) from error


def _slice(blob: Blob) -> Slice:
    return Slice(path=blob.path, offset=blob.offset, length=blob.length)


def copy_out(variant: Variant, roles: str, folder: Path) -> Path:
    """Copy, verified, the files whose role starts with ``roles/`` into a folder; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for role, blob in variant.files.items():
        if role.startswith(f"{roles}/"):
            (folder / role.rpartition("/")[2]).write_bytes(blob.read_bytes())
    return folder
