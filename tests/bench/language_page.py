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
        "Quality and speed of hwc's language models beside other tools, each part in one run on one machine. The raw",
        "figures are in [bench-language.json](bench-language.json).",
        "",
    ]
    for model, found in sorted(facts["quality"].items()):
        parts += [f"## Quality of {model}", "", _when(found), "", *_quality(found), ""]
    for model, found in sorted(facts["speed"].items()):
        parts += [f"## Speed and memory of {model}", "", _when(found), "", *_speed(found), ""]
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


def _speed(found: Row) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    lines = [
        f"""Each runner is a process of its own, pinned to as many cores as it has threads; they take turns in shuffled
rounds for {found['seconds']:.0f} s. All have a cache of {found['context_tokens']} tokens. ONNX Runtime runs hwc's own
captured graph, the cache bound once as input and output, so that it is written in place. llama.cpp runs the GGUF file
that hwc's weights come from, its cache in float16. TTFT: prefill of a prompt, and the choice of a token. Tokens/s: the
inverse of the mean time of 32 tokens behind 128. Median [min, max]. Private memory is anonymous (`RssAnon`); mapped
files are shared and reclaimable. Every figure holds Python and its libraries (resident before loading: last column).
{versions}.
"""
    ]
    for threads in sorted({row["threads"] for row in found["rows"]}):
        rows = [row for row in found["rows"] if row["threads"] == threads and "ms" in row]
        lines += [f"### {threads} thread{'s' if threads > 1 else ''}", "", HEAD]
        lines += [*(_timed(row) for row in sorted(rows, key=lambda row: row["ms"]["itl"]["median"])), ""]
    lines += [f"- {name}: {why}" for name, why in sorted(found["absent"].items())]
    failed = [row for row in found["rows"] if "absent" in row]
    lines += [f"- {row['name']}, {row['threads']} threads: {row['absent']}" for row in failed]
    return [*lines, "", *_texts(found)]


HEAD = """\
| Runner | Tokens/s | TTFT 16, ms | TTFT 128, ms | TTFT 512, ms | Peak RSS MiB | Private MiB | Mapped MiB | Before MiB |
|---|---:|---:|---:|---:|---:|---:|---:|---:|"""


def _timed(row: Row) -> str:
    ms, memory = row["ms"], row["memory"]
    rate = {key: 1e3 / ms["itl"][other] for key, other in (("median", "median"), ("min", "max"), ("max", "min"))}
    told = [row["name"], _told(rate, 1), *(_told(ms[f"ttft_{tokens}"], 0) for tokens in (16, 128, 512))]
    sizes = [memory["peak_rss_bytes"], memory["anonymous_bytes"], memory["file_bytes"]]
    sizes.append(row["before_load"]["anonymous_bytes"] + row["before_load"]["file_bytes"])
    return f"| {' | '.join([*told, *(f'{size / MIB:.0f}' for size in sizes)])} |"


def _told(row: Row, digits: int) -> str:
    return f"{row['median']:.{digits}f} [{row['min']:.{digits}f}, {row['max']:.{digits}f}]"


def _texts(found: Row) -> list[str]:
    """Tell what every runner writes on one thread, and how far it agrees with others of the same weights."""
    rows = [row for row in found["rows"] if row["threads"] == 1 and "text" in row]
    lines = [
        f"What each writes after “{found['prompt']}”, greedily; tokens equal to PyTorch's on the float weights, and to",
        f"hwc's on the same weights, before the first that differs, of {len(rows[0]['tokens']) if rows else 0}:",
        "",
        "| Runner | As PyTorch, float | As hwc, same weights | Text |",
        "|---|---:|---:|---|",
    ]
    for row in rows:
        text = " ".join(row["text"].split()).replace("|", "\\|")
        same = "" if row["as_hwc"] is None else row["as_hwc"]
        lines.append(f"| {row['name']} | {row['as_torch']} | {same} | {text} |")
    return lines
