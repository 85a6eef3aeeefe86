"""One engine with one model in a process of its own: it waits for a line of JSON and answers with one.

    runner.py CONFIG.json       {"memory": true}  →  {"peak_rss_bytes": ..., ...}
                                anything else     →  what the engine answers: see generating.py, calling.py, reading.py

What an engine prints goes to stderr. An exit before the first answer tells its reason in the last line of stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

KINDS = ("generating", "calling", "reading")
"""Modules beside this one; ``opened(config)`` of each returns what answers, and facts for the page."""


def main(config: Mapping[str, Any]) -> None:
    """Load the engine, say so, and answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-config["threads"] :])
    if config["kind"] not in KINDS:
        raise SystemExit(f"no kind of engine: {config['kind']}")
    module = import_module(config["kind"])
    module.prepare(config)
    before = memory()
    started = time.perf_counter()
    answer, facts = module.opened(config)
    told = {"load_s": time.perf_counter() - started, "before_load": before, "after_load": memory(), "facts": facts}
    print(json.dumps(told), file=answers)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(memory() if "memory" in asked else answer(asked)), file=answers)


def memory() -> dict[str, int]:
    """Return the process's memory: its peak, and what is resident now, of its own and of mapped files."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    told = {"peak_rss_bytes": "VmHWM", "anonymous_bytes": "RssAnon", "file_bytes": "RssFile"}
    return {name: int(rows[key].split()[0]) * 1024 for name, key in told.items()}


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
