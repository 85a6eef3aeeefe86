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

_MARKS = {"start": "…", "done": "✓", "hit": "=", "fail": "✗", "wait": "⏳", "note": "·", "warn": "!"}


def error(failure: HwcError) -> None:
    """Write an error to stderr."""
    print(f"error: {failure}", file=sys.stderr)  # noqa: T201


def note(text: str) -> None:
    """Write a remark to stderr; stdout holds results alone."""
    print(text, file=sys.stderr)  # noqa: T201


def result(text: str) -> None:
    """Write a result to stdout."""
    print(text)  # noqa: T201


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
        drawn.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", "190"))
    Console(width=width, highlight=False, markup=False, emoji=False).print(drawn)


class Progress:
    """Tells steps as they happen: a live list on a terminal, plain lines elsewhere."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._lock = threading.Lock()
        self._running: dict[str, float] = {}
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
            return "\n".join(f"  … {step}  {now - since:.0f} s" for step, since in self._running.items())

    def __call__(self, event: Event, /) -> None:
        """Take note of one event."""
        with self._lock:
            if event.kind == "start":
                self._running[event.step] = time.monotonic()
            elif event.kind in ("done", "fail", "hit"):
                self._running.pop(event.step, None)
        if self._quiet or (event.kind == "start" and self._live is not None):
            return
        seconds = f"  {event.wall_s:.1f} s" if event.wall_s else ""
        text = f"  {event.text}" if event.text else ""
        line = f"{_MARKS[event.kind]} {event.step}{seconds}{text}"
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False)
        else:
            note(line)


BUILD_COLUMNS = (
    "variant", "size MiB", "bits/param", "quality", "shape", "p50 ms", "p99 ms", "items/s", "$/M items", "tiers l/q/c",
    "status", "content",
)


def build_rows(serving: Sequence[Mapping[str, Any]], bits_per_parameter: Sequence[float]) -> list[list[str]]:
    """Return one row a variant and shape, from its serving metadata alone."""
    rows: list[list[str]] = []
    for document, bits in zip(serving, bits_per_parameter, strict=True):
        identity, tier = document["identity"], document["provenance"]["tier"]
        head = [
            identity["variant_id"],
            f"{document['resources']['weights_bytes'] / 2**20:.1f}",
            f"{bits:.2f}",
            _quality(document.get("quality", [])),
        ]
        tiers = "/".join(tier.get(group, "–") for group in ("latency", "quality", "cost"))
        tail = [tiers, document["status"], identity["content_sha256"].removeprefix("sha256:")[:12]]
        cells = document.get("profile", {}).get("request", [])
        if not cells:
            rows.append([*head, "–", "–", "–", "–", "–", *tail])
        for index, cell in enumerate(cells):
            blank = index > 0  # one variant, several shapes: what holds for all is said once
            rows.append([*([""] * 4 if blank else head), *_cell(document, cell), *([""] * 3 if blank else tail)])
    return rows


def _cell(document: Mapping[str, Any], cell: Mapping[str, Any]) -> list[str]:
    told = cell["latency_ms"]
    flag = "" if cell["valid"] else " ?"
    costs = {row["bucket"]: row["usd"] for row in document.get("cost", {}).get("usd_per_million_items", [])}
    usd = costs.get(cell["bucket"])
    return [
        cell["bucket"],
        f"{told['p50']:.2f} ±{(told['ci95'][1] - told['ci95'][0]) / 2:.2f}{flag}",
        f"{told['p99']:.2f}" if "p99" in told else f"– (n={told['n']})",
        f"{cell['items_s']:.1f}",
        f"{usd['base']:.2f} ({usd['low']:.2f}–{usd['high']:.2f})" if usd else "–",
    ]


def _quality(rows: Sequence[Mapping[str, Any]]) -> str:
    metrics = {row["metric"]: row["value"] for row in rows}
    for name in ("cosine_mean", "top1"):
        if name in metrics:
            return f"{name.split('_')[0]} {metrics[name]:.5f}"
    return f"max abs {metrics['max_abs']:.1e}" if "max_abs" in metrics else "–"


def size(count: float) -> str:
    """Return bytes for people, in MiB."""
    return f"{count / 2**20:.1f} MiB"
