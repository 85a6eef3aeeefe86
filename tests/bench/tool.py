"""Measure what hwc itself costs: command line, cold builds beside the bare tools, routing, registry: `make bench-tool`.

Writes docs/reference/bench-tool.md and .json. Every claim is a ratio of two things measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import cold_build
import command_line
import quiet
import registry
import routing
import tool_page

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Run the sections and write the reports."""
    arguments = _arguments()
    os.environ["HF_HUB_OFFLINE"] = "1"
    before = quiet.when()
    if not before["quiet"]:
        _tell(f"warning: {before['busy_cores_before']:.2f} cores are busy: these figures are not worth publishing")
    with tempfile.TemporaryDirectory(prefix="hwc-bench-") as name:
        facts = _measure(Path(name), arguments, before)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    (out / "bench-tool.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    (out / "bench-tool.md").write_text(tool_page.page(facts))
    print(tool_page.page(facts))
    return 0


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reference", help="folder to write into")
    parser.add_argument("--help-runs", type=int, default=10, help="runs of `hwc --help`")
    parser.add_argument("--rebuilds", type=int, default=5, help="builds with nothing to do")
    parser.add_argument("--cold-rounds", type=int, default=3, help="cold builds, each with the bare tools")
    return parser.parse_args()


def _measure(work: Path, arguments: argparse.Namespace, before: dict[str, Any]) -> dict[str, Any]:
    _tell("hwc --help")
    helped = command_line.help_cost(work, arguments.help_runs)
    _tell(f"{arguments.cold_rounds} cold builds of minilm, each with the bare tools")
    cold, home, store = cold_build.measure(work, arguments.cold_rounds)
    _tell("builds with nothing to do")
    rebuilt = command_line.rebuild_cost(work, home, store, arguments.rebuilds)
    return {
        **before,
        "help": helped,
        "cold_build": cold,
        "rebuild": rebuilt,
        "routing": routing.measure(),
        "registry": registry.measure(),
    }


if __name__ == "__main__":
    sys.exit(main())
