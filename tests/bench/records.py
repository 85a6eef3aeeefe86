"""Records of figures, one file a chip: `bench/<slug>.json`, which holds what was measured on such a chip alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import chips

Facts = dict[str, Any]
"""``parts``: sections by part and number of threads; ``goals``: rows as they were judged last."""


def load(folder: Path) -> dict[str, Facts]:
    """Return every chip's record by its slug; raise SystemExit for a section that another chip was measured for."""
    return {path.stem: _read(path) for path in sorted(folder.glob("*.json"))}


def _read(path: Path) -> Facts:
    facts: Facts = json.loads(path.read_text())
    for part, sections in facts["parts"].items():
        for threads, section in sections.items():
            if "vectors" not in section or chips.slug(section) != path.stem:
                raise SystemExit(
                    f"{path}: {part} on {threads} thread(s) was measured on {section['machine']['cpu_model']}, "
                    f"{section.get('vectors', 'vectors unknown')}: move it to that chip's own record"
                )
    return facts


def add(folder: Path, part: str, threads: int, section: Facts) -> None:
    """Put a section in the place of its forerunner, into the record of the chip it was measured on."""
    slug = chips.slug(section)
    path = folder / f"{slug}.json"
    facts: Facts = _read(path) if path.is_file() else {"parts": {}}
    facts["parts"].setdefault(part, {})[str(threads)] = section
    save(folder, slug, facts)


def save(folder: Path, slug: str, facts: Facts) -> None:
    """Write a chip's record, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f"{slug}.json.new"
    new.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    new.replace(folder / f"{slug}.json")
