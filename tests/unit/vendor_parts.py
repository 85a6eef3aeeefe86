"""Acme, the text-book vendor, as tests use it: its descriptors, its kernels, and doors of them."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

from hwc.lower import vendor
from hwc.lower.opened import Opened
from hwc.lower.vendor import Door
from hwc.spec.legality import LegalityRule, VendorKernel
from hwc.spec.target import Lowering, TargetSpec

ACME = Path(__file__).resolve().parents[1] / "vendor_acme"
X86 = Lowering(backend="llvm-cpu", cpu="x86-64-v3", triple="x86_64-unknown-linux-gnu")


def target(folder: Path, name: str = "acme-one") -> TargetSpec:
    """Return one of Acme's descriptors."""
    return TargetSpec.model_validate(tomllib.loads((folder / f"{name}.toml").read_text()))


def door(folder: Path, *, columns: int = 128, rules: tuple[LegalityRule, ...] = ()) -> Door:
    """Return Acme One's door."""
    spec = target(folder)
    found = vendor.door(vendor.params(spec, folder), folder, 60.0)
    assert found is not None
    own = {
        name: kernel.model_copy(update={"columns_per_call": columns})
        for name, kernel in found.kernels.items()
    }
    return replace(found, kernels=own, rules=rules)


def with_kernels(folder: Path, kernels: dict[str, VendorKernel], **told) -> Door:
    """Return Acme One's door with these kernels, in another folder."""
    return replace(door(ACME), folder=folder, kernels=kernels, **told)


def opened(work: Path, *, columns: int = 128, lowering: Lowering = X86) -> Opened:
    """Return Acme One's door with its objects made."""
    return Opened(door(ACME, columns=columns), lowering, work)


RISCV = Lowering(
    backend="llvm-cpu", cpu="generic-rv64", triple="riscv64-unknown-elf", abi="lp64d",
    cpu_features=("+m", "+a", "+f", "+d", "+c"),
)
