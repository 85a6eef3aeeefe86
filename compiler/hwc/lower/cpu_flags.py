"""The C compiler of kernels that are for CPUs: what it may use of a CPU, and what becomes of kernels without it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence

from hwc.errors import UsageError
from hwc.spec.legality import Vendor
from hwc.spec.target import TargetSpec

_X86 = (
    "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "avx", "avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe",
    "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512vnni", "avx512bf16", "avxvnni",
)  # fmt: skip
_ARM = {"dotprod": "dotprod", "fullfp16": "fp16", "bf16": "bf16", "i8mm": "i8mm"}
"""LLVM's name of a feature to the one in ``-march``."""


def flags(architecture: str, features: Sequence[str]) -> tuple[str, ...]:
    """Return the flags that let GCC and Clang use what kernels can of ``features`` (``+avx2``), and no more.

    Raises UsageError for an instruction set without such flags here.
    """
    held = {feature[1:] for feature in features if feature.startswith("+")}
    if architecture == "x86_64":
        return ("-march=x86-64", *(f"-m{name}" for name in _X86 if name in held))
    if architecture == "aarch64":
        return ("+".join(["-march=armv8.2-a", *(told for name, told in _ARM.items() if name in held)]),)
    raise UsageError(
        f"`cpu_flags` is for x86_64 and aarch64, not {architecture}", where="[vendor] cpu_flags",
        hint="name the instruction set in [vendor] compiler",
    )


def resolved(target: TargetSpec, architecture: str, features: Sequence[str]) -> tuple[TargetSpec, str]:
    """Return a target whose compiler has its flags, and a note; without the compiler, one that does without kernels."""
    vendor = target.vendor
    if missing := _missing(target):
        return _without(target), missing
    if not target.kernels or not vendor.cpu_flags:
        return target, ""
    compiler = (*vendor.compiler, *flags(architecture, features))
    return target.model_copy(update={"vendor": vendor.model_copy(update={"compiler": compiler})}), ""


def _missing(target: TargetSpec) -> str:
    sources = [name for name, kernel in target.kernels.items() if kernel.source]
    if not target.vendor.optional or not sources or not target.vendor.compiler:
        return ""
    program = target.vendor.compiler[0]
    if shutil.which(program) is not None:
        return ""
    return f"{program} is not installed: generated code instead of the kernels {', '.join(sources)}"


def _without(target: TargetSpec) -> TargetSpec:
    held: Mapping[str, object] = {
        "kernels": {}, "legality": tuple(rule for rule in target.legality if not rule.kernel),
        "vendor": Vendor(executable_hook=target.vendor.executable_hook, timeout_s=target.vendor.timeout_s),
    }
    return target.model_copy(update=held)
