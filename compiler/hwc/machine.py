"""The machine hwc runs on: its fingerprint, its CPU features, and whether an artefact's needs are met."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hwc import digest
from hwc.errors import MachineError

# LLVM's feature names where Linux's /proc/cpuinfo says something else.
_CPUINFO_NAMES = {
    "amx-bf16": "amx_bf16",
    "amx-int8": "amx_int8",
    "amx-tile": "amx_tile",
    "avx512bf16": "avx512_bf16",
    "avx512bitalg": "avx512_bitalg",
    "avx512fp16": "avx512_fp16",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512vp2intersect": "avx512_vp2intersect",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avxvnni": "avx_vnni",
    "bmi": "bmi1",
    "lzcnt": "abm",
    "pclmul": "pclmulqdq",
    "sha": "sha_ni",
    "sse3": "pni",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "neon": "asimd",
    "dotprod": "asimddp",
    "fullfp16": "asimdhp",
}
# What is not named here is not checked: Linux hides features that matter to no code generator (wbnoinvd, mwaitx
# under a hypervisor), and some that do (AVX-IFMA, AVX-VNNI-INT8, AMX-FP16, AVX10), so that their absence says nothing.
_CHECKED = re.compile(
    r"^(sse.*|ssse3|avx2?|avx512.*|avxvnni|fma|fma4|f16c|bmi|bmi2|popcnt|lzcnt|movbe|aes|pclmul|gfni|vaes|vpclmulqdq"
    r"|sha|amx-(bf16|int8|tile)|neon|dotprod|fullfp16|bf16|i8mm|sve.*|v|zv.*)$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Facts that identify a machine for measurements: two machines with equal facts measure alike."""

    architecture: str
    cpu_model: str
    cpu_count: int
    memory_gib: int
    system: str
    cpu_flags_sha256: str

    @property
    def fingerprint(self) -> str:
        """Digest of the facts."""
        return digest.of_json(asdict(self))

    def as_json(self) -> dict[str, Any]:
        """Return the facts with their fingerprint."""
        return {**asdict(self), "fingerprint": self.fingerprint}


@cache
def cpu_flags() -> frozenset[str]:
    """Return the CPU features Linux reports."""
    for line in _cpuinfo():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features", "isa"):
            return frozenset(re.split(r"[\s_]+" if key.strip() == "isa" else r"\s+", value.strip()))
    return frozenset()


@cache
def _cpuinfo() -> tuple[str, ...]:
    try:
        return tuple(Path("/proc/cpuinfo").read_text().splitlines())
    except OSError:
        return ()


@cache
def describe() -> Machine:
    """Return the facts of this machine."""
    models = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    return Machine(
        architecture=platform.machine(),
        cpu_model=models[0] if models else platform.processor() or "unknown",
        cpu_count=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PHYS_PAGES") * page_bytes / 2**30),
        system=platform.system(),
        cpu_flags_sha256=digest.of_json(sorted(cpu_flags())),
    )


def missing_features(features: Sequence[str], have: frozenset[str]) -> list[str]:
    """Return the LLVM features (``+avx2``) that a CPU reporting ``have`` lacks, in order."""
    return [feature for feature, linux in linux_flags(features).items() if linux not in have]


def linux_flags(features: Sequence[str]) -> dict[str, str]:
    """Return LLVM features (``+avx2``) that can be checked, in order, with the names that Linux gives them."""
    plain = [entry.removeprefix("+") for entry in features]
    return {
        feature: _CPUINFO_NAMES.get(feature, feature)
        for feature in plain
        if _CHECKED.match(feature)
    }


def require_cpu(architecture: str, features: Sequence[str]) -> None:
    """Raise MachineError if this CPU is of another architecture or lacks a feature: the code would fault."""
    if architecture and architecture != platform.machine():
        raise MachineError(
            f"the artefact holds {architecture} code; this machine is {platform.machine()}",
            hint="choose a variant for this machine, or build one here",
        )
    lacking = missing_features(features, cpu_flags())
    if lacking:
        raise MachineError(
            f"this CPU lacks features the artefact was compiled for: {', '.join(lacking)}",
            where=describe().cpu_model,
            hint="choose a variant for an older CPU (x86-64-v3), or build for llvm-cpu-host here",
        )


def choose_device(names: Sequence[str], pattern: str) -> int | None:
    """Return the index of the first device whose name matches, or None."""
    return next((index for index, name in enumerate(names) if re.search(pattern, name, re.IGNORECASE)), None)


def rss_bytes() -> int:
    """Return this process's resident memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_rss_bytes() -> int:
    """Return the highest resident memory of this process so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return rss_bytes()


def private_bytes() -> int:
    """Return resident memory that is not backed by a file: what the process itself allocated."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0
