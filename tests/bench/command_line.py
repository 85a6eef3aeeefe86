"""The command line: CPU seconds of `hwc --help` beside an empty Python, and of a build with nothing to do."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from measured import run, summary

HWC = Path(sys.executable).with_name("hwc")
BUILD = ("build", "minilm", "-t", "llvm-cpu-host", "-q", "fp32", "-j", "1")


def help_cost(work: Path, repeats: int) -> dict[str, Any]:
    """Return CPU seconds of `hwc --help` and of `python -c pass`, run in turn."""
    told: dict[str, list[float]] = {"hwc": [], "python": []}
    for _ in range(repeats):
        told["hwc"].append(run((str(HWC), "--help"), log=work / "help.log").cpu_s)
        told["python"].append(run((sys.executable, "-c", "pass"), log=work / "pass.log").cpu_s)
    found = {name: summary(values) for name, values in told.items()}
    return {"cpu_s": found, "ratio": found["hwc"]["median"] / found["python"]["median"], "target_cpu_s": 0.25}


def rebuild_cost(work: Path, home: Path, store: Path, repeats: int) -> dict[str, Any]:
    """Return CPU seconds of a build whose every step is done, children included; and whether it needs a network."""
    argv = (str(HWC), "--store", str(store), *BUILD)
    costs = [run(argv, log=work / "rebuild.log", env={"HWC_HOME": str(home)}) for _ in range(repeats)]
    nothing = all("nothing to do" in cost.stderr for cost in costs)
    return {
        "cpu_s": summary([cost.cpu_s for cost in costs]),
        "wall_s": summary([cost.wall_s for cost in costs]),
        "did_nothing": nothing,
        "without_a_network": _offline(work, argv, home),
        "target_cpu_s": 1.0,
    }


def _offline(work: Path, argv: tuple[str, ...], home: Path) -> str:
    """Repeat the build in a network namespace that has no interface but a dead loopback."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return "not tried: no unshare on this machine"
    isolated = (unshare, "--map-root-user", "--net")
    try:
        run((*isolated, "true"), log=work / "unshare.log")
    except SystemExit:
        return "not tried: this user may not make a network namespace"
    run((*isolated, *argv), log=work / "offline.log", env={"HWC_HOME": str(home)})
    return "succeeds"
