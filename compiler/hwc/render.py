"""The only place that draws: tables, progress and errors, for a terminal or for a log."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from hwc.errors import HwcError
from hwc.events import Event

_MARKS = {"start": "…", "progress": "…", "done": "✓", "hit": "=", "fail": "✗", "wait": "⏳", "note": "·", "warn": "!"}
QUIET_S = 30.0
"""Least time between two lines of progress of one step in a log."""


def error(failure: HwcError) -> None:
    """Write an error to stderr."""
    print(f"error: {failure}", file=sys.stderr)  # noqa: T201


def note(text: str) -> None:
    """Write a remark to stderr; stdout holds results alone."""
    sys.stderr.write(f"{text}\n")  # in one piece: steps that run at once tell their progress from several threads


def result(text: str) -> None:
    """Write a result to stdout; a reader that went away early is no error."""
    try:
        print(text, flush=True)  # noqa: T201
    except BrokenPipeError:  # further up, click would end the process with status 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def as_json(value: Any) -> None:
    """Write a JSON result to stdout."""
    result(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Draw a table on stdout; numbers are the caller's strings."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    drawn = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for index, column in enumerate(columns):
        numbers = any(row[index][:1].isdigit() for row in rows)
        drawn.add_column(column, justify="right" if numbers and index else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", "140"))
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(drawn)
    result(captured.get().rstrip("\n"))


class Progress:
    """Tells steps as they happen: a live list on a terminal, plain lines elsewhere."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._lock = threading.Lock()
        self._running: dict[str, float] = {}
        self._latest: dict[str, str] = {}
        self._told: dict[str, float] = {}
        self._live: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty() and not self._quiet and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.live import Live

            console = Console(stderr=True)
            self._live = Live(console=console, get_renderable=self._lines, refresh_per_second=4, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        if self._live is not None:
            self._live.__exit__(*details)
            self._live = None

    def _lines(self) -> str:
        with self._lock:
            now = time.monotonic()
            return "\n".join(
                f"  … {step}  {now - since:.0f} s  {self._latest.get(step, '')}".rstrip()
                for step, since in self._running.items()
            )

    def _due(self, event: Event) -> bool:
        """Tell whether progress is worth a line of its own: where nothing is drawn live, and not all the time."""
        now = time.monotonic()
        if self._live is not None or now - self._told.get(event.step, self._running.get(event.step, now)) < QUIET_S:
            return False
        self._told[event.step] = now
        return True

    def __call__(self, event: Event, /) -> None:
        """Take note of one event."""
        with self._lock:
            if event.kind == "start":
                self._running[event.step] = time.monotonic()
            elif event.kind == "progress":
                self._latest[event.step] = event.text
                if not self._due(event):
                    return
            elif event.kind in ("done", "fail", "hit"):
                self._running.pop(event.step, None)
                self._latest.pop(event.step, None)
        if self._quiet or (event.kind == "start" and self._live is not None):
            return
        seconds = f"  {event.wall_s:.1f} s" if event.wall_s else ""
        text = f"  {event.text}" if event.text else ""
        line = f"{_MARKS[event.kind]} {event.step}{seconds}{text}"
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False)
        else:
            note(line)


VARIANT_COLUMNS = ("variant", "status", "size MiB", "bits/param", "quality", "latency", "quality ", "cost", "content")
LATENCY_COLUMNS = ("variant", "shape", "p50 ms", "p99 ms", "mean ± 95 %", "per s", "$/M (low–high)")


def bundle(title: str, serving: Sequence[Mapping[str, Any]], bits_per_parameter: Sequence[float]) -> None:
    """Draw a bundle as two tables, what its variants are and how fast they are, from serving metadata alone.

    The columns latency, quality and cost of the first tell each group's tier: its worst method. The second counts
    items, or a language model's tokens.
    """
    table(title, VARIANT_COLUMNS, [_variant(row, bits) for row, bits in zip(serving, bits_per_parameter, strict=True)])
    rows = [cell for document in serving for cell in _cells(document)]
    if rows:
        table("", LATENCY_COLUMNS, rows)


def _variant(document: Mapping[str, Any], bits: float) -> list[str]:
    identity, tier = document["identity"], document["provenance"]["tier"]
    return [
        identity["variant_id"],
        document["status"],
        f"{document['resources']['weights_bytes'] / 2**20:.2f}",
        f"{bits:.2f}",
        _quality(document.get("quality", [])),
        *(tier.get(group, "–") for group in ("latency", "quality", "cost")),
        identity["content_sha256"].removeprefix("sha256:")[:12],
    ]


def _cells(document: Mapping[str, Any]) -> list[list[str]]:
    costs = {row["bucket"]: row["usd"] for row in document.get("cost", {}).get("usd_per_million_items", [])}
    rows = []
    rows += _token_cells(document)
    for cell in document.get("profile", {}).get("request", []):
        told, usd = cell["latency_ms"], costs.get(cell["bucket"])
        rows.append(_cell(document, cell["bucket"], cell, told, cell["items_s"], usd))
    return rows


def _token_cells(document: Mapping[str, Any]) -> list[list[str]]:
    """Return a language model's rows: its rates are tokens a second, its costs those of a million tokens."""
    told = document.get("cost", {}).get("usd_per_million_tokens", [])
    costs = {(row["phase"], row["batch"], row["tokens"]): row["usd"] for row in told}
    profile = document.get("profile", {})
    rows = []
    for cell in profile.get("prefill", []):
        usd = costs.get(("prefill", cell["batch"], cell["isl"]))
        shape = f"prefill {cell['batch']}×{cell['isl']} (TTFT)"
        rows.append(_cell(document, shape, cell, cell["ttft_ms"], cell["tok_s"], usd))
    for cell in profile.get("decode", []):
        usd = costs.get(("decode", cell["batch"], cell["context"]))
        shape = f"decode {cell['batch']} of {cell['context']} (ITL)"
        rows.append(_cell(document, shape, cell, cell["itl_ms"], cell["tok_s"], usd))
    return rows


def _cell(
    document: Mapping[str, Any], shape: str, cell: Mapping[str, Any], told: Mapping[str, Any], rate: float,
    usd: Mapping[str, float] | None,
) -> list[str]:
    return [
        document["identity"]["variant_id"],
        shape,
        f"{told['p50']:.3g}{'' if cell['valid'] else ' ?'}",
        f"{told['p99']:.3g}" if "p99" in told else f"– (n={told['n']})",
        f"{told['mean']:.3g} ± {(told['ci95'][1] - told['ci95'][0]) / 2:.2g}",
        f"{rate:.1f}",
        f"{usd['base']:.2g} ({usd['low']:.2g}–{usd['high']:.2g})" if usd else "–",
    ]


def _quality(rows: Sequence[Mapping[str, Any]]) -> str:
    """Say the first of the usual metrics, and how often the decision is the float model's where that is measured."""
    metrics = {row["metric"]: row["value"] for row in rows}
    told = [f"cosine {metrics['cosine_mean']:.5f}"] if "cosine_mean" in metrics else []
    told += [f"KL {max(metrics['kl_mean'], 0.0):.3g}"] if "kl_mean" in metrics else []
    names = {"nearest_neighbour": "neighbour", "top1": "top-1"}
    told += [f"{label} {metrics[name]:.0%}" for name, label in names.items() if name in metrics]
    return ", ".join(told) or (f"max abs {metrics['max_abs']:.1e}" if "max_abs" in metrics else "–")


def size(count: float) -> str:
    """Return bytes for people, in MiB."""
    return f"{count / 2**20:.1f} MiB"
