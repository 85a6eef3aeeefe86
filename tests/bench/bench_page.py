"""One chip's figures as a page for people: docs/reference/bench/<slug>.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import chips
import goals_page
from compared import portability
from fixed import READ
from goals_page import plain, predicted_ms

Row = Mapping[str, Any]
MIB = 2**20
TITLES = {
    "encoders": "MiniLM, batch × tokens", "cnn": "CNN", "smollm2": "SmolLM2 135M", "gemma3-270m": "Gemma 3 270M",
    "matmul": "Single products",
}
READ_WHOLE = ("smollm2", "gemma3-270m", "matmul")
"""Parts in which a call reads all stored weights; of MiniLM's table of words it reads a few rows."""
ABOUT = """\
Every contestant is a process of its own, pinned to as many cores as it has threads; in each round of a case everyone
has one turn of equally many calls, and waits, stopped, while another is measured. Times are from host arrays to host
arrays. Ratios are of medians within a round: their median, with tenth and ninetieth percentile over the rounds. Least,
median and percentiles of times are of single calls. A contestant is right if its answer has the direction of the float
model's (cosine, in ONNX Runtime without optimisation) and is close to exact arithmetic on its own codes; a language
model, if it finds likeliest what the float model says in PyTorch. Who answers wrongly is flagged, and counts nowhere.
Predicted: by the target's calibration, on one thread, kernels included. Roofline:
the larger of all arithmetic at the calibrated float32 peak and of all stored weights, read once at the calibrated
bandwidth of memory. Behind ≥, where the target's calibration is of another chip or of one thread: memory's part alone,
at the bandwidth that was read in the same rounds; weights that a cache holds can be faster."""


def page(slug: str, facts: Row, *, pictures: Sequence[str]) -> str:
    """Return a chip's page; ``pictures`` names the parts that are drawn."""
    chip = next(chips.title(section) for sections in facts["parts"].values() for section in sections.values())
    lines = [
        f"# Bench: speed on {chip}", "",
        "<!-- Written by tests/bench/bench.py (`make bench`); measure again, do not edit. Reasons: goals.toml. -->", "",
        f"{ABOUT} The raw figures are in [{slug}.json]({slug}.json).", "",
        "[All chips beside each other](../bench.md).", "",
        "## Goals", "", *goals_page.table(facts["goals"]), "",
        "## Portability", "", *_portability(facts["parts"]), "",
    ]
    for name, title in TITLES.items():
        if name in facts["parts"]:
            picture = f"../../images/bench-{slug}-{name}.svg" if name in pictures else ""
            lines += _part(title, facts["parts"][name], picture, floors=name in READ_WHOLE)
    return "\n".join(lines)


def _portability(parts: Mapping[str, Mapping[str, Row]]) -> list[str]:
    lines = [
        "Time of hwc's fastest artefact ÷ that of the fastest hand-tuned library on this chip, at weights of one",
        "precision: geometric mean over the cases that both have, and the worst of them. Below 1: hwc is faster.", "",
        "| Model | Weights | Threads | Mean | Worst | Where | Cases | Against |",
        "|---|---|---:|---:|---:|---|---:|---|",
    ]
    lines += [
        f"| {title} | {row['precision']} | {threads} | **{row['mean']:.2f}** | {row['worst']:.2f} | "
        f"{row['worst_case']} | {row['cases']} | {plain(', '.join(row['against']))} |"
        for name, title in TITLES.items()
        for threads, section in sorted(parts.get(name, {}).items())
        for row in portability(section)
    ]
    return lines


def _part(title: str, sections: Mapping[str, Row], picture: str, *, floors: bool) -> list[str]:
    lines = [f"## {title}", ""]
    if picture:
        lines += [f"![{title}: milliseconds a call]({picture})", ""]
    for threads, section in sorted(sections.items()):
        lines += [f"### {title}, {threads} thread{'s' if threads != '1' else ''}", "", _when(section), ""]
        lines += [_bandwidth(section), ""] if _bandwidth(section) else []
        rows = [row for row in section["rows"] if row["contestant"] != READ]
        table = _table(rows, _read_per_ms(section) if floors else None)
        lines += ["<details><summary>Every figure</summary>", "", *table, "", "</details>", ""]
        lines += [*_memory(rows), ""] if any("load" in row for row in rows) else []
        lines += [f"- Not there: {who}: {plain(why)}" for who, why in sorted(section["absent"].items())]
        lines += [f"- {who}: {told}" for who, told in _facts(section)]
        lines += [f"- {note}" for note in section.get("notes", ())]
        lines.append("")
    return lines


def _when(section: Row) -> str:
    busy = f"{section['busy_cores_before']:.2f} cores busy with other work before"
    versions = ", ".join(f"{name} {version}" for name, version in section["versions"].items())
    head = f"{section['machine']['cpu_model']}, {section['measured_utc']}, {busy}"
    options = section.get("build_options")
    built = f" Built with `{' '.join(options)}`." if options else ""
    told = f"{head}; {section['seconds']:.0f} s of rounds. {versions}.{built}"
    return told if section["quiet"] else told + " **The machine was busy: these figures are not worth quoting.**"


def _read(section: Row) -> Row | None:
    """Return the row of the loop that reads memory in the same rounds."""
    read = next((row for row in section["rows"] if row["contestant"] == row["case"] == READ), None)
    return read if READ in section["facts"] else None


def _read_per_ms(section: Row) -> float | None:
    """Return the bytes that were read from memory in a millisecond, in the median."""
    read = _read(section)
    return None if read is None else section["facts"][READ]["bytes"] / read["ms"]["median"]


def _bandwidth(section: Row) -> str:
    read = _read(section)
    if read is None:
        return ""
    size = section["facts"][READ]["bytes"]
    median, best, low, high = (size / read["ms"][key] / 1e6 for key in ("median", "min", "p90", "p10"))
    return (
        f"Read bandwidth measured in the same rounds, {size >> 20} MiB: {median:.1f} GB/s [{low:.1f}, {high:.1f}], "
        f"best {best:.1f} ({section['facts'][READ]['how']})."
    )


def _facts(section: Row) -> list[tuple[str, str]]:
    return [
        (name, ", ".join(f"{key} `{value}`" for key, value in told.items()))
        for name, told in sorted(section["facts"].items()) if name != READ
    ]


def _table(rows: Sequence[Row], read_per_ms: float | None) -> list[str]:
    last = "Agrees | KL" if any("agreed" in (row.get("check") or {}) for row in rows) else "Cosine | Error on own codes"
    lines = [
        f"| Case | Contestant | Least, ms | Median, ms | p10–p90 | n | {last} | Predicted, ms | Roofline, ms |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    order = {case: index for index, case in enumerate(dict.fromkeys(row["case"] for row in rows))}
    for row in sorted(rows, key=lambda row: (order[row["case"]], row["ms"]["median"])):
        ms, predicted = row["ms"], row.get("predicted")
        roofline = f"{predicted['roofline']:.3g}" if predicted else ""
        if not predicted and read_per_ms and row.get("weight_bytes"):
            roofline = f"≥ {row['weight_bytes'] / read_per_ms:.3g}"
        lines.append(
            f"| {row['case']} | {row['contestant']} | {ms['min']:.4g} | {ms['median']:.4g} | {ms['p10']:.4g}–"
            f"{ms['p90']:.4g} | {ms['n']} | {_check(row.get('check'))} | {predicted_ms(predicted)} | {roofline} |"
        )
    return lines


def _check(check: Row | None) -> str:
    if check is None:
        return " | "
    keys = ("agreed", "kl") if "agreed" in check else ("cosine", "same_codes")
    forms = {"agreed": ".2f", "kl": ".4f", "cosine": ".5f", "same_codes": ".1e"}
    told = ["" if check[key] is None else format(check[key], forms[key]) for key in keys]
    return " | ".join(told if check["right"] else [f"**wrong** {told[0]}", told[1]])


def _memory(rows: Sequence[Row]) -> list[str]:
    lines = [
        "Memory that loading and all cases added to a process with its libraries, and load from the file to what can",
        "be called, caches of the disk warm. Private memory is anonymous; mapped files are shared and reclaimable.", "",
        "| Contestant | Load, s | Private MiB | Mapped MiB | Peak RSS MiB | Stored weights MiB | KV cache MiB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in {row["contestant"]: row for row in rows if "load" in row}.values():
        load = row["load"]
        added = [load["used"][key] - load["before"][key] for key in ("anonymous_bytes", "file_bytes")]
        sizes = [*added, load["used"]["peak_rss_bytes"]]
        own = [row["weight_bytes"], load["cache_bytes"]] if "weight_bytes" in row else []
        told = [*(f"{size / MIB:.0f}" for size in [*sizes, *own]), "", ""][:5]
        lines.append(f"| {row['contestant']} | {load['seconds']:.2f} | {' | '.join(told)} |")
    return lines
