"""What hwc itself costs, as a page for people."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def page(facts: Row) -> str:
    """Return docs/reference/bench-tool.md."""
    machine = facts["machine"]
    quiet = "" if facts["quiet"] else "\n**The machine was busy: do not quote these figures.**\n"
    return "\n".join(
        [
            "# Bench: what the tool itself costs",
            "",
            "<!-- Written by tests/bench/tool.py (`make bench-tool`); measure again, do not edit. -->",
            "",
            f"{machine['cpu_model']}, {facts['measured_utc']}, {facts['busy_cores_before']:.2f} cores busy before. "
            "Every ratio compares two things measured\nin the same run; brackets hold the least and the greatest. "
            "The raw figures are in [bench-tool.json](bench-tool.json).",
            quiet,
            _command_line(facts["help"], facts["rebuild"]),
            _cold(facts["cold_build"]),
            _routing(facts["routing"]),
            _registry(facts["registry"]),
        ]
    )


def _told(row: Row, digits: int = 2, scale: float = 1.0) -> str:
    middle, low, high = (row[key] / scale for key in ("median", "min", "max"))
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _command_line(helped: Row, rebuilt: Row) -> str:
    cpu = helped["cpu_s"]
    did = "did nothing and said so" if rebuilt["did_nothing"] else "ran steps, which is a defect"
    return f"""## Command line

| What | CPU seconds, median [min, max] | n | Aim |
|---|---:|---:|---:|
| `hwc --help` | {_told(cpu['hwc'], 3)} | {cpu['hwc']['n']} | ≤ {helped['target_cpu_s']} |
| `python -c pass` | {_told(cpu['python'], 3)} | {cpu['python']['n']} | |
| unchanged `hwc build minilm`, children included | {_told(rebuilt['cpu_s'], 3)} | {rebuilt['cpu_s']['n']} | \
≤ {rebuilt['target_cpu_s']} |

`hwc --help` takes {helped['ratio']:.1f}× an empty Python. The unchanged build {did}; in a network namespace without an
interface it {rebuilt['without_a_network']}.
"""


def _cold(cold: Row) -> str:
    ratios = "\n".join(
        f"| {name} | {_told(row)} | {'≤ ' + str(cold['target_ratio']) if index in (0, 4, 5) else ''} |"
        for index, (name, row) in enumerate(cold["ratios"].items())
    )
    stages, tools = _costs(cold["stages"]), _costs(cold["bare"])
    return f"""## Cold build of MiniLM, fp32, this CPU, three shapes

hwc, in a new HWC_HOME, one step at a time; beside the bare tools by hand with the same opset, static shapes and
compiler flags. hwc's side of a ratio is the sum of {', '.join(cold['stands_for'])}: the starts of their
processes, digests and the comparison of graphs before and after simplification included. `make static` is needed by
hand, but counted for nobody.

| Ratio | Median [min, max] | Aim |
|---|---:|---:|
{ratios}

The whole build, checks and profile included: {_told(cold['total_wall_s'], 1)} s wall.

| Stage of hwc | Wall s | CPU s | Peak RSS MiB |
|---|---:|---:|---:|
{stages}

| Bare tool | Wall s | CPU s | Peak RSS MiB |
|---|---:|---:|---:|
{tools}
"""


def _costs(rows: Row) -> str:
    return "\n".join(
        f"| {name} | {_told(row['wall_s'], 1)} | {_told(row['cpu_s'], 1)} "
        f"| {_told(row['peak_rss_bytes'], 0, 2**20)} |"
        for name, row in rows.items()
    )


def _routing(told: Row) -> str:
    took = f"p50 {told['p50_us']:.0f} µs, p99 {told['p99_us']:.0f} µs over {told['decisions']} decisions"
    return f"""## Routing

One decision over {told['candidates']} candidates, all of them feasible, as a library call:
{took}; aim: p99 ≤ {told['target_p99_us']} µs.
"""


def _registry(told: Row | None) -> str:
    if told is None:
        return "## Registry\n\nNot measured: Debian's docker-registry was not to be had.\n"
    rows = "\n".join(
        f"| {kind} | {_told(told[kind]['ratio'])} | {_told(told[kind]['wall_s'])} | {_told(told[kind]['raw_wall_s'])} "
        f"| {_told(told[kind]['cpu_s'])} | {_told(told[kind]['raw_cpu_s'])} "
        f"| {_told(told[kind]['rss_over_base_mb'], 1)} |"
        for kind in ("push", "pull")
    )
    return f"""## Registry

One blob of {told['mebibytes']} MiB to and from Debian's docker-registry on loopback, beside a raw streaming httpx
client with sha256, in turns, {told['push']['ratio']['n']} of each; processes of their own, start of Python included.
Aims: at most {told['target_ratio']}× the raw client's wall time (median of the pairs' ratios), at most
{told['target_over_base_mb']} MB of peak memory over a push of kilobytes ({told['base_rss_mb']:.0f} MB).

| | Ratio of wall time | hwc, wall s | Raw, wall s | hwc, CPU s | Raw, CPU s | Peak RSS over base, MB |
|---|---:|---:|---:|---:|---:|---:|
{rows}
"""
