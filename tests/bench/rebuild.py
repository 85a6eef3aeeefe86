"""Build time: a cold build of MiniLM step by step, the same again, and after one field changed; writes its page.

``python tests/bench/rebuild.py`` writes docs/reference/bench-build.md and .json. About eight minutes on two free cores.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measured import run

from hwc import machine
from hwc.measure.profile import conditions, steal

ROOT = Path(__file__).parents[2]
HWC = Path(sys.executable).with_name("hwc")
OUT = ROOT / "docs" / "reference" / "bench-build"
TARGET, SCHEMES = "llvm-cpu-host", ("fp32", "fp8", "w4a16")
BUILD = ("build", "minilm", "-t", TARGET, *(part for scheme in SCHEMES for part in ("-q", scheme)), "--format", "json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One field that somebody changes, and in which file."""

    name: str
    file: str
    before: str
    after: str


CHANGES = (
    Change(name="a gate", file="models/minilm.toml", before="cosine_mean_min = 0.997", after="cosine_mean_min = 0.996"),
    Change(name="the compiler's level for float", file=f"targets/{TARGET}.toml", before='"O1"', after='"O2"'),
    Change(name="a shape", file="models/minilm.toml", before="batch = 8, sequence", after="batch = 4, sequence"),
    Change(name="the evaluation's items", file="models/minilm.toml", before="items = 128", after="items = 96"),
)


def main() -> None:
    """Measure in a folder of its own and write the page."""
    with tempfile.TemporaryDirectory(prefix="hwc-rebuild-") as name:
        work = Path(name)
        for folder in ("models", "targets"):
            shutil.copytree(ROOT / folder, work / folder)
        (work / "hwc.toml").write_text("")
        before = conditions()
        rows = [_build(work, "cold"), _build(work, "unchanged"), *(_after(work, change) for change in CHANGES)]
        after = conditions()
    facts = {
        "builds": rows, "machine": machine.describe().as_json(), "steal_s": steal(before, after),
        "conditions": {"before": before, "after": after}, "command": " ".join(("hwc", *BUILD)),
        "measured_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    OUT.with_suffix(".json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    OUT.with_suffix(".md").write_text(page(facts))


def _after(work: Path, change: Change) -> dict[str, Any]:
    """Change a field, build, and change it back: every change is one from the same cold build."""
    file = work / change.file
    text = file.read_text()
    if text.count(change.before) != 1:
        raise SystemExit(f"{change.file} holds {change.before!r} {text.count(change.before)} times, not once")
    file.write_text(text.replace(change.before, change.after))
    try:
        return _build(work, change.name)
    finally:
        file.write_text(text)


def _build(work: Path, name: str) -> dict[str, Any]:
    out = work / "build.json"
    argv = (str(HWC), "--store", str(work / "store"), *BUILD)
    shell = ("bash", "-c", '"${@:2}" > "$1"', "build", str(out), *argv)
    cost = run(shell, log=work / "build.log", cwd=work, env={"HWC_HOME": str(work / "home")})
    built = json.loads(out.read_text())[0]
    return {
        "name": name, "wall_s": cost.wall_s, "cpu_s": cost.cpu_s, "steps_run": built["steps_run"],
        "steps_reused": built["steps_reused"], "spent": built["spent"],
    }


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def page(facts: dict[str, Any]) -> str:
    """Return the page of the figures, as Markdown."""
    cold = facts["builds"][0]
    where = facts["machine"]
    lines = [
        "# Build time", "",
        "<!-- Written by tests/bench/rebuild.py. -->", "",
        f"Measured once on {facts['measured_utc'][:10]}, {where['cpu_model']}, {where['cpu_count']} cores; stolen by "
        f"the hypervisor: {facts['steal_s']:.1f} s; load before {facts['conditions']['before']['load_1min']:.2f}. "
        f"`{facts['command']}`;",
        "every change is one from the same cold build. CPU seconds include all child processes.", "",
        "| build | wall s | CPU s | steps run | reused |", "|---|---:|---:|---:|---:|",
        *(
            f"| {row['name']} | {row['wall_s']:.1f} | {row['cpu_s']:.1f} | {row['steps_run']} | {row['steps_reused']} |"
            for row in facts["builds"]
        ),
        "", "## The cold build, step by step", "",
        "Steps that do not wait for each other run at once; a profile runs alone.", "",
        "| step | wall s | CPU s | compiler s | peak MiB |", "|---|---:|---:|---:|---:|",
        *(
            f"| {one['step']} | {one['wall_s']:.1f} | {one['cpu_s']:.1f} | {_seconds(one['compiler_s'])} "
            f"| {one['peak_rss_bytes'] / 2**20:.0f} |"
            for one in cold["spent"]
        ),
        "",
        f"One after another the steps take {sum(one['wall_s'] for one in cold['spent']):.0f} s; the build took "
        f"{cold['wall_s']:.0f} s.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
