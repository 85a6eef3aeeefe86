"""The language bench's figures as a page for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
MIB = 2**20


def page(facts: Row) -> str:
    """Return docs/reference/bench-language.md."""
    parts = [
        "# Bench: language models",
        "",
        "<!-- Written by tests/bench/language.py (`make bench-language`); measure again, do not edit. -->",
        "",
        "Quality of hwc's language models beside other tools', each model in one run on one machine. Speed and memory",
        "are in [bench](bench.md). The raw figures are in [bench-language.json](bench-language.json).",
        "",
    ]
    for model, found in sorted(facts["quality"].items()):
        parts += [f"## Quality of {model}", "", _when(found), "", *_quality(found), ""]
    return "\n".join(parts)


def _when(found: Row) -> str:
    busy = f"{found['busy_cores_before']:.2f} cores busy with other work before"
    told = f"{found['machine']['cpu_model']}, {found['measured_utc']}, {busy}."
    return told if found["quiet"] else told + " **The machine was busy: its times are not worth quoting.**"


def _quality(found: Row) -> list[str]:
    calibration = found["calibration"]
    present = [row for row in found["rows"] if "metrics" in row]
    absent = [f"- {row['name']}: {row['absent']}" for row in found["rows"] if "absent" in row]
    base = next((_kl(row) for row in present if row["name"].endswith("-rtn")), None)
    about = f"""Reference: {found['reference']}. Every position of {found['windows']} windows of held-out text
(`{found['data_sha256'][:19]}…`) is scored; who calibrates does so on the same {calibration['items']} windows of
{calibration['window_tokens']} tokens of other text. Every row is the same float graph in ONNX Runtime with the weights
that a tool's codes stand for, so that only codes and scales differ; embeddings and head stay float. KL in nats, of
next-token distributions to the reference's; ± is one standard error, clustered by window. CPU seconds are those of
quantising, without loading; peers run on one thread.

The reference's weights were quantised before they came here, which flatters whoever finds those very codes again: float
zero points in groups of 32 (HQQ) can hold what GGUF's Q4_1 and Q4_K hold. Such a figure tells of the file, not of the
method; symmetric schemes have no such help.

| Quantiser | Bits a weight | KL, mean | × RTN | KL, p99 | Top-1 | Perplexity ratio | CPU s | Peak RSS MiB |
|---|---:|---:|---:|---:|---:|---:|---:|---:|"""
    rows = [_judged(row, base) for row in sorted(present, key=_kl)]
    return [about, *rows, "", _shipped(found["shipped"]), "", *absent, "", *_settings(present)]


def _kl(row: Row) -> float:
    return float(row["metrics"]["kl_mean"]["value"])


def _judged(row: Row, base: float | None) -> str:
    metrics, cost = row["metrics"], row["cost"]
    told = [
        row["name"], f"{row['bits']:.3f}", _spread(metrics["kl_mean"], 4), f"{_kl(row) / base:.3f}" if base else "",
        f"{metrics['kl_p99']['value']:.2f}", _spread(metrics["top1"], 3), _spread(metrics["perplexity_ratio"], 4),
        f"{cost['cpu_s']:.0f}", f"{cost['peak_rss_bytes'] / MIB:.0f}",
    ]  # fmt: skip
    return f"| {' | '.join(told)} |"


def _spread(row: Row, digits: int) -> str:
    error = row["standard_error"]
    return f"{row['value']:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def _shipped(rows: Sequence[Row]) -> str:
    told = ", ".join(f"{row['scheme']} {_spread(row['metrics']['kl_mean'], 4)}" for row in rows)
    return f"Mean KL of hwc's bundles, embeddings and head as the model's specification says: {told}."


def _settings(rows: Sequence[Row]) -> list[str]:
    lines = ["Settings:", ""]
    for row in rows:
        versions = ", ".join(f"{name} {version}" for name, version in row["cost"]["versions"].items())
        lines.append(f"- {row['name']}{f' ({versions})' if versions else ''}: {row['cost']['settings']}")
    return lines
