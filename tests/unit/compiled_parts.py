"""Compiled modules of one function, run on this machine's CPU; shared by tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hwc.lower import iree
from hwc.lower.flags import compiler_flags
from hwc.program import Device, Function, Port, Program, Slice
from hwc.runtime.session import Session
from hwc.spec.target import Lowering

LIMITS = iree.Limits(timeout_s=120, memory_bytes=8 << 30)
FLAGS = compiler_flags(
    Lowering(
        backend="llvm-cpu", cpu="x86-64-v3", flags=("--iree-opt-const-expr-max-size-increase-threshold=0",)
    ),
    quantised=True,
)


def run_on_cpu(
    code: Path, archive: Path, feeds: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]],
    function: str = "main_graph", dtype: str = "float32",
) -> dict[str, np.ndarray]:
    """Call a module's function; ``shapes`` are those of its outputs, all of one type."""
    program = Program(
        code=Slice(path=code),
        parameters=(Slice(path=archive),),
        functions=(
            Function(
                name=function, bucket={},
                inputs=tuple(Port(name=name, dtype=str(x.dtype), shape=x.shape) for name, x in feeds.items()),
                outputs=tuple(Port(name=name, dtype=dtype, shape=shape) for name, shape in shapes.items()),
            ),
        ),
        device=Device(driver="local-sync"),
    )
    return Session(program).call(function, dict(feeds))
