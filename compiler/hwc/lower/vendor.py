"""The vendor's door: what a descriptor declares of kernels and tools, the files they are in, and who computes what."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwc import digest
from hwc.errors import UsageError
from hwc.files import confined
from hwc.lower.legality import judge_one, sized
from hwc.lower.passes.kernel_call import Import
from hwc.lower.passes.kernel_linears import Product
from hwc.predict.operation import Operation
from hwc.spec.hardware import Element
from hwc.spec.legality import LegalityRule, OpClass, PatternName, Placement, Vendor, VendorKernel
from hwc.spec.target import TargetSpec

HEADER = Path(__file__).with_name("kernels") / "hwc_kernels.h"
_INCLUDED = ("*.h", "*.inc")
PATTERN_TYPES: dict[PatternName, tuple[Element, Element | None]] = {
    "matmul_f32": ("float32", "float32"), "matmul_f32_tiles": ("float32", "float32"),
    "matmul_f16": ("float16", "float16"), "matmul_fp8": ("float32", "float8_e4m3fn"),
    "dequantise_matmul_int4": ("float32", "int4"), "dequantise_matmul_int8": ("float32", "int8"),
    "attention_f32": ("float32", None), "conv2d_f32": ("float32", "float32"),
    "rounded_matmul_int4": ("float32", "int4"),
}
"""Pattern to the element types of its activations, as they come, and weights; attention has none."""
PATTERN_OPS: dict[PatternName, OpClass] = {"attention_f32": "attention", "conv2d_f32": "conv"}
"""Pattern to the kind of work it is, where that is no matmul."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Kernels and tools of one descriptor."""

    kernels: Mapping[str, VendorKernel]
    vendor: Vendor
    rules: tuple[LegalityRule, ...]
    placement: Placement
    folder: Path
    """Where the descriptor lies: its kernels and tools lie beside it."""
    descriptor: Mapping[str, Any] = field(default_factory=dict)
    """The whole descriptor, for a hand-over."""
    whole: bool = True
    """Whether the whole model is lowered: a kernel may well match nothing in a part of one."""

    def chosen(self, product: Product) -> Import | None:
        """Return the kernel of a product: the one rules name, or by its pattern where they keep it on the chip."""
        for name, kernel in self.kernels.items():
            if product.tiled and not kernel.encoding:
                continue
            if kernel.pattern == product.pattern and self._allowed(name, product):
                return Import(
                    name=name, symbol=kernel.symbol, object=f"{name}.o", columns_per_call=kernel.columns_per_call,
                    least_calls=kernel.least_calls,
                )
        return None

    def leaves(self, product: Product) -> bool:
        """Tell whether rules send a product off the chip, where no kernel of the chip's can take it."""
        return not judge_one(_operation(product), self.rules, self.placement).on_chip

    def might(self, name: str, product: Product) -> bool:
        """Tell whether a product is on the chip and of the sizes that a kernel is for."""
        kernel = self.kernels[name]
        return not self.leaves(product) and sized(_operation(product), kernel.at_least, kernel.at_most)

    def _allowed(self, name: str, product: Product) -> bool:
        if not sized(_operation(product), self.kernels[name].at_least, self.kernels[name].at_most):
            return False
        if not any(rule.kernel == name for rule in self.rules):
            return not self.leaves(product)
        return judge_one(_operation(product), self.rules, self.placement).kernel == name


def params(target: TargetSpec, folder: Path | None) -> dict[str, Any]:
    """Return what code depends on of a descriptor's kernels and tools, with digests of their files; {} without any.

    Raises UsageError for a file that is not there.
    """
    if not target.kernels and not target.vendor.executable_hook and not target.vendor.hand_over:
        return {}
    rules = target.legality if target.kernels else ()
    kernels = {
        name: kernel.model_dump(mode="json", exclude={"unit", "executes"}, exclude_defaults=True)
        for name, kernel in target.kernels.items()
    }
    return {
        "kernels": kernels,
        "vendor": target.vendor.model_dump(mode="json", exclude={"timeout_s"}, exclude_defaults=True),
        "legality": [rule.model_dump(mode="json", exclude_defaults=True) for rule in rules],
        "placement": target.placement.model_dump(mode="json", exclude_defaults=True) if kernels else {},
        "files": dict(sorted(_digests(target, folder or Path()))),
        **({"descriptor": target.model_dump(mode="json", exclude_none=True)} if target.vendor.hand_over else {}),
    }


def door(told: Mapping[str, Any], folder: Path, timeout_s: float, *, whole: bool = True) -> Door | None:
    """Return the door that ``params`` told of; None without one."""
    if not told:
        return None
    return Door(
        kernels={name: VendorKernel.model_validate(entry) for name, entry in told["kernels"].items()},
        vendor=Vendor.model_validate({**told["vendor"], "timeout_s": timeout_s}),
        rules=tuple(LegalityRule.model_validate(rule) for rule in told["legality"]),
        placement=Placement.model_validate(told["placement"]), folder=folder,
        descriptor=told.get("descriptor", {}), whole=whole,
    )


def command(argv: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    """Return a command whose parts that name files beside the descriptor are those files."""
    return tuple(str(_beside(part, folder) or part) for part in argv)


def _digests(target: TargetSpec, folder: Path) -> Iterator[tuple[str, str]]:
    for name, kernel in target.kernels.items():
        file = confined(folder, kernel.source or kernel.object)
        if not file.is_file():
            key = "source" if kernel.source else "object"
            raise UsageError(
                f"kernel `{name}`: there is no file {kernel.source or kernel.object} beside the descriptor",
                where=f"{folder / target.name}.toml [kernels.{name}] {key}",
                hint="a copied descriptor needs its kernels' folder too; without [kernels] all code is generated",
            )
        yield f"{kernel.source or kernel.object}", digest.of_file(file)
        for pattern in _INCLUDED if kernel.source else ():
            for header in file.parent.glob(pattern):
                yield header.relative_to(folder).as_posix(), digest.of_file(header)
    if any(kernel.source for kernel in target.kernels.values()):
        yield HEADER.name, digest.of_file(HEADER)
        yield from _program(target.vendor.compiler, folder)
    yield from _program(target.vendor.executable_hook, folder)


def _program(argv: tuple[str, ...], folder: Path) -> Iterator[tuple[str, str]]:
    """Tell a program apart by its file, and by those of its arguments that lie beside the descriptor."""
    for position, part in enumerate(argv):
        found = _beside(part, folder) or (Path(shutil.which(part) or "") if position == 0 else None)
        if found is not None:
            yield part, digest.of_file(found) if found.is_file() else "absent"


def _beside(part: str, folder: Path) -> Path | None:
    if part.startswith(("-", "/")) or not (folder / part).is_file():
        return None
    return confined(folder, part)


def _operation(product: Product) -> Operation:
    activations, weights = PATTERN_TYPES[product.pattern]
    return Operation(
        op=PATTERN_OPS.get(product.pattern, "matmul"), name=product.layer, batch=product.batch, m=product.m,
        n=product.n, k=product.k, points=product.batch * product.m * product.n, rank=2, activations=activations,
        weights=weights, flops=2.0 * product.batch * product.m * product.n * product.k, read_bytes=0.0,
        write_bytes=0.0,
    )
