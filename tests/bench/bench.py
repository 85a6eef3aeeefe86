"""Measure hwc beside the bare tools and ONNX Runtime in one run; write docs/reference/bench.md and bench.json.

Every claim is a ratio of two things measured in the same run. Run it on a quiet machine: `make bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cold_build
import command_line
import quiet
import registry
import report
import routing
from measured import run

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Run the sections and write the reports."""
    arguments = _arguments()
    os.environ["HF_HUB_OFFLINE"] = "1"
    busy = quiet.busy_cores()
    if busy > quiet.MOST_BUSY_CORES:
        _tell(f"warning: {busy:.2f} cores are busy; the page will say so, and its figures are not worth publishing")
    with tempfile.TemporaryDirectory(prefix="hwc-bench-") as name:
        facts = _measure(Path(name), arguments, busy)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    (out / "bench.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    (out / "bench.md").write_text(report.page(facts))
    print(report.page(facts))
    return 0


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reference", help="folder to write into")
    parser.add_argument("--help-runs", type=int, default=10, help="runs of `hwc --help`")
    parser.add_argument("--rebuilds", type=int, default=5, help="builds with nothing to do")
    parser.add_argument("--cold-rounds", type=int, default=3, help="cold builds, each with the bare tools")
    parser.add_argument("--latency-rounds", type=int, default=60, help="calls of each runner")
    return parser.parse_args()


def _measure(work: Path, arguments: argparse.Namespace, busy: float) -> dict[str, Any]:
    from hwc import machine

    _tell("hwc --help")
    helped = command_line.help_cost(work, arguments.help_runs)
    _tell(f"{arguments.cold_rounds} cold builds of minilm, each with the bare tools")
    cold, home, store = cold_build.measure(work, arguments.cold_rounds)
    _tell("builds with nothing to do")
    rebuilt = command_line.rebuild_cost(work, home, store, arguments.rebuilds)
    _tell("latency")
    schemes = [part for scheme in ("fp32", "fp8", "w4a16") for part in ("-q", scheme)]
    argv = (str(command_line.HWC), "--store", str(store), "build", "minilm", "-t", "llvm-cpu-host", *schemes, "--smoke")
    run(argv, log=work / "schemes.log", env={"HWC_HOME": str(home)})
    told = work / "latency.json"
    script = Path(__file__).with_name("latency.py")
    run(
        (sys.executable, str(script), str(home), str(store), str(arguments.latency_rounds), str(told)),
        log=work / "latency.log",
        env={"OMP_NUM_THREADS": "1"},
    )
    return {
        "machine": machine.describe().as_json(),
        "measured_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "busy_cores_before": busy,
        "quiet": busy <= quiet.MOST_BUSY_CORES,
        "help": helped,
        "cold_build": cold,
        "rebuild": rebuilt,
        "latency": json.loads(told.read_text()),
        "routing": routing.measure(),
        "registry": registry.measure(),
    }


if __name__ == "__main__":
    sys.exit(main())
