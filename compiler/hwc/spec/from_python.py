"""Infer a specification from ``file.py:factory`` and the example inputs that the file gives.

Example inputs are looked for in this order: ``EXAMPLE_INPUTS`` in the file, ``example_inputs`` on the factory,
``example_inputs`` on the module it returns. Each is a tensor, a tuple of tensors or a dictionary from an input's
name to its tensor, or a function of no arguments that returns one of these. Unnamed tensors are called as in
``forward``. The first axis becomes the batch if the module still runs, and its outputs grow with it, when every
example is doubled along that axis. The file is run in a bounded child process: it is the user's code.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from hwc import child
from hwc.errors import StepError, UsageError
from hwc.spec.model import ModelSpec, PythonSource, TensorSpec

PROBE_TIMEOUT_S = 300.0
PROBE_MEMORY_BYTES = 16 << 30
BATCH_SIZES = (1, 8)


def infer(path: Path, factory: str, *, name: str) -> ModelSpec:
    """Infer inputs, outputs and shapes by running the module once on its example inputs.

    Raises UsageError if the file, the factory or its examples are not usable, StepError at a limit or a crash.
    """
    facts = probe(path, factory)
    batched = bool(facts["batched"])
    inputs = {key: _tensor(tensor, batched=batched) for key, tensor in facts["inputs"].items()}
    return ModelSpec(
        name=name,
        title=f"{path.name}:{factory}, inferred from its example inputs",
        source=PythonSource(kind="python", factory=f"{path.name}:{factory}"),
        inputs=inputs,
        outputs=tuple(facts["outputs"]),
        buckets=tuple({"batch": size} for size in BATCH_SIZES) if batched else ({},),
    )


def _tensor(facts: dict[str, Any], *, batched: bool) -> TensorSpec:
    shape = tuple(facts["shape"])
    return TensorSpec(
        dtype=facts["dtype"], shape=("batch", *shape[1:]) if batched else shape, low=facts["low"], high=facts["high"]
    )


def probe(path: Path, factory: str) -> dict[str, Any]:
    """Run :mod:`hwc.spec.probe` in a child process and return the facts it found."""
    package_root = str(Path(__file__).parents[2])
    with tempfile.TemporaryDirectory(prefix="hwc-probe-") as scratch:
        answer = Path(scratch) / "facts.json"
        outcome = child.run(
            child.Call(
                argv=[sys.executable, "-P", "-m", "hwc.spec.probe", str(path), factory, str(answer)],
                cwd=path.parent,
                timeout_s=PROBE_TIMEOUT_S,
                memory_bytes=PROBE_MEMORY_BYTES,
                env={"PYTHONPATH": os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH", "")]))},
            )
        )
        facts = json.loads(answer.read_bytes()) if answer.is_file() else None
    where = f"{path}:{factory}"
    if outcome.returncode or not isinstance(facts, dict):
        last = outcome.stderr.strip().splitlines()[-1:] or ["it wrote nothing"]
        raise StepError(f"looking at the module failed: the child {outcome.describe()}: {last[0][:200]}", where=where)
    if "error" in facts:
        raise UsageError(facts["error"], where=where, hint=facts.get("hint", ""))
    return facts
