"""Run a worker request in a clean process and bring its report, or its error, back."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from hwc import child, told
from hwc.errors import MachineError, StepError
from hwc.lower import emulator_tools
from hwc.program import Program, to_json


def serve(
    folder: Path, program: Program, verb: str, *, timeout_s: float, memory_bytes: int, **request: Any
) -> dict[str, Any]:
    """Run one verb of the worker in ``folder``; return its report.

    Raises the error the worker reports, StepError if the process crashes or meets a limit, or MachineError for a fault
    that the emulator is known for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    payload = {"verb": verb, "program": json.loads(to_json(program)), **request}
    (folder / "request.json").write_text(json.dumps(payload, default=str))
    outcome = child.run(
        child.Call(
            argv=(sys.executable, "-m", "hwc.runtime.worker", str(folder)),
            cwd=folder,
            timeout_s=timeout_s,
            memory_bytes=memory_bytes,
        )
    )
    told.raise_told(folder)
    report = folder / "report.json"
    if outcome.returncode != 0 or not report.is_file():
        last = _reason(outcome.stderr)
        what = f"the artefact's process {outcome.describe()}: {last}"
        if helps := emulator_tools.known_fault(last):
            raise MachineError(what, where=str(program.code.path), hint=helps)
        raise StepError(
            what,
            where=str(program.code.path),
            hint="the device's driver or the generated code failed; try another optimisation level or target",
        )
    return {"peak_rss_bytes": outcome.peak_rss_bytes, **json.loads(report.read_text())}


def _reason(stderr: str) -> str:
    """Return what an emulated chip said as it ended, which is more than the runtime knows; else the last line."""
    lines = stderr.strip().splitlines() or ["it said nothing"]
    told = [line for line in lines if line.startswith(("emulated chip: ", "qemu-"))]
    return "; ".join(told[-3:]) or lines[-1]
