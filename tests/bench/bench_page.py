"""The bench's figures as a page for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import goals
from fixed import READ

Row = Mapping[str, Any]
MIB = 2**20
TITLES = {
    "encoders": "MiniLM, batch × tokens", "cnn": "CNN", "smollm2": "SmolLM2 135M", "gemma3-270m": "Gemma 3 270M",
    "matmul": "Single products",
}
ABOUT = """\
Every contestant is a process of its own, pinned to as many cores as it has threads; in each round of a case everyone
has one turn of equally many calls, and waits, stopped, while another is measured. Times are from host arrays to host
arrays. Ratios are of medians within a round: their median, with tenth and ninetieth percentile over the rounds. Least,
median and percentiles of times are of single calls. A contestant is right if its answer has the direction of the float
model's (cosine, in ONNX Runtime without optimisation) and is close to exact arithmetic on its own codes; a language
model, if it finds likeliest what the float model says in PyTorch. Who answers wrongly is flagged, and counts nowhere.
Predicted: by the target's calibration, on one thread, kernels included. Roofline:
the larger of all arithmetic at the calibrated float32 peak and of all stored weights, read once at the calibrated
bandwidth of memory."""


def page(facts: Row, *, pictures: Sequence[str]) -> str:
    """Return docs/reference/bench.md; ``pictures`` names the parts that are drawn."""
    lines = [
        "# Bench: speed beside hand-tuned libraries", "",
        "<!-- Written by tests/bench/bench.py (`make bench`); measure again, do not edit. Reasons: goals.toml. -->", "",
        f"{ABOUT} The raw figures are in [bench.json](bench.json).", "",
        "## Goals", "", *_goals(facts["goals"]), "",
        "## Portability", "", *_portability(facts["parts"]), "",
    ]
    for name, title in TITLES.items():
        if name in facts["parts"]:
            lines += _part(name, title, facts["parts"][name], drawn=name in pictures)
    return "\n".join(lines)


_SIGNS = {"speedup": ("×", "≥"), "time": ("×", "≤"), "bandwidth": ("of bandwidth", "≥"), "memory": ("of allowed", "≤"),
          "load": ("s", "≤"), "linear": ("off the line", "≤")}  # fmt: skip


def _goals(rows: Sequence[Row]) -> list[str]:
    met = sum(row["met"] for row in rows)
    lines = [
        f"{met} of {len(rows)} are met. Speed-ups are of the fastest peer that the goal names; ≥ and ≤ tell the aim.",
        "", "| Goal | Model, case | Threads | Measured [p10, p90] | Aim | Met | Beside | Predicted, ms | Remark |",
        "|---|---|---:|---:|---:|---|---|---:|---|",
    ]
    for row in rows:
        unit, sign = _SIGNS[row["kind"]]
        found = row["found"]
        told = "–"
        if found is not None:
            told = f"**{found['value']:.3g}** {unit}"
            if found["low"] != found["high"] and row["kind"] != "linear":
                told = f"**{found['value']:.3g}** [{found['low']:.3g}, {found['high']:.3g}] {unit}"
        verdict = "yes" if row["met"] else "**no**" if found is not None else "not measured"
        remark = row["missing"] or ("" if row["met"] else row["reason"] or "no reason is written down")
        beside = found["against"] if found is not None else ""
        lines.append(
            f"| {row['title']} | {row['part']}, {row['case']} | {row['threads']} | {told} | {sign} {row['aim']:g} | "
            f"{verdict} | {_plain(beside)} | {_predicted(row.get('predicted_ms'))} | {_plain(remark)} |"
        )
    return lines


def _portability(parts: Mapping[str, Mapping[str, Row]]) -> list[str]:
    lines = [
        "Time of hwc's fastest artefact ÷ that of the fastest hand-tuned library on this chip, at weights of one",
        "precision: geometric mean over the cases that both have, and the worst of them. Below 1: hwc is faster.", "",
        "| Model | Weights | Threads | Mean | Worst | Where | Cases | Against |",
        "|---|---|---:|---:|---:|---|---:|---|",
    ]
    lines += [
        f"| {title} | {row['precision']} | {threads} | **{row['mean']:.2f}** | {row['worst']:.2f} | "
        f"{row['worst_case']} | {row['cases']} | {_plain(', '.join(row['against']))} |"
        for name, title in TITLES.items()
        for threads, section in sorted(parts.get(name, {}).items())
        for row in goals.portability(section)
    ]
    return lines


def _part(name: str, title: str, sections: Mapping[str, Row], *, drawn: bool) -> list[str]:
    lines = [f"## {title}", ""]
    if drawn:
        lines += [f"![{title}: milliseconds a call](../images/bench-{name}.svg)", ""]
    for threads, section in sorted(sections.items()):
        lines += [f"### {title}, {threads} thread{'s' if threads != '1' else ''}", "", _when(section), ""]
        lines += [_bandwidth(section), ""] if _bandwidth(section) else []
        rows = [row for row in section["rows"] if row["contestant"] != READ]
        lines += ["<details><summary>Every figure</summary>", "", *_table(rows), "", "</details>", ""]
        lines += [*_memory(rows), ""] if any("load" in row for row in rows) else []
        lines += [f"- Not there: {who}: {_plain(why)}" for who, why in sorted(section["absent"].items())]
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


def _bandwidth(section: Row) -> str:
    read = next((row for row in section["rows"] if row["contestant"] == row["case"] == READ), None)
    if read is None or READ not in section["facts"]:
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


def _table(rows: Sequence[Row]) -> list[str]:
    last = "Agrees | KL" if any("agreed" in (row.get("check") or {}) for row in rows) else "Cosine | Error on own codes"
    lines = [
        f"| Case | Contestant | Least, ms | Median, ms | p10–p90 | n | {last} | Predicted, ms | Roofline, ms |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    order = {case: index for index, case in enumerate(dict.fromkeys(row["case"] for row in rows))}
    for row in sorted(rows, key=lambda row: (order[row["case"]], row["ms"]["median"])):
        ms, predicted = row["ms"], row.get("predicted")
        roofline = f"{predicted['roofline']:.3g}" if predicted else ""
        lines.append(
            f"| {row['case']} | {row['contestant']} | {ms['min']:.4g} | {ms['median']:.4g} | {ms['p10']:.4g}–"
            f"{ms['p90']:.4g} | {ms['n']} | {_check(row.get('check'))} | {_predicted(predicted)} | {roofline} |"
        )
    return lines


def _check(check: Row | None) -> str:
    if check is None:
        return " | "
    keys = ("agreed", "kl") if "agreed" in check else ("cosine", "same_codes")
    forms = {"agreed": ".2f", "kl": ".4f", "cosine": ".5f", "same_codes": ".1e"}
    told = ["" if check[key] is None else format(check[key], forms[key]) for key in keys]
    return " | ".join(told if check["right"] else [f"**wrong** {told[0]}", told[1]])


def _predicted(row: Row | None) -> str:
    return f"{row['base']:.3g} [{row['low']:.3g}, {row['high']:.3g}]" if row and "base" in row else ""


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


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
