"""Compiler flags from a target's descriptor, and nothing but the descriptor."""

from __future__ import annotations

from hwc.spec.target import Lowering

HOST_FLAGS = (
    "--iree-hal-target-device=local",
    "--iree-hal-local-target-device-backends=llvm-cpu",
    "--iree-llvmcpu-target-cpu=host",
)
"""Flags that make the compiler look at the machine it runs on: for probing only, never for an artefact."""


def compiler_flags(lowering: Lowering, *, quantised: bool = False) -> tuple[str, ...]:
    """Return iree-compile's flags for a resolved descriptor (``cpu`` is a name, never ``host``)."""
    level = lowering.opt_level if quantised else lowering.float_opt_level or lowering.opt_level
    flags = [
        *_device_flags(lowering),
        f"--iree-opt-level={level}",
        "--mlir-print-op-on-diagnostic=false",
        *lowering.flags,
    ]
    return tuple(flags)


def _device_flags(lowering: Lowering) -> list[str]:
    if lowering.backend == "vulkan-spirv":
        return ["--iree-hal-target-device=vulkan", f"--iree-vulkan-target={lowering.gpu}"]
    if lowering.backend == "cuda":
        return ["--iree-hal-target-device=cuda", f"--iree-cuda-target={lowering.gpu}"]
    if lowering.backend == "rocm":
        return ["--iree-hal-target-device=hip", f"--iree-rocm-target={lowering.gpu}"]
    flags = [
        "--iree-hal-target-device=local",
        f"--iree-hal-local-target-device-backends={lowering.backend}",
    ]
    if lowering.backend == "llvm-cpu":
        flags.append(f"--iree-llvmcpu-target-cpu={lowering.cpu}")
        flags += [f"--iree-llvmcpu-target-triple={lowering.triple}"] if lowering.triple else []
        flags += [f"--iree-llvmcpu-target-abi={lowering.abi}"] if lowering.abi else []
        if lowering.cpu_features:
            flags.append(f"--iree-llvmcpu-target-cpu-features={','.join(lowering.cpu_features)}")
        if lowering.stack_limit_bytes:
            flags.append(f"--iree-llvmcpu-stack-allocation-limit={lowering.stack_limit_bytes}")
        if lowering.distribution_tile:
            flags.append(f"--iree-llvmcpu-distribution-size={lowering.distribution_tile}")
        if lowering.matmul_tile_bytes:
            flags.append(f"--iree-llvmcpu-matmul-tile-bytes={lowering.matmul_tile_bytes}")
    return flags
