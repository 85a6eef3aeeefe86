"""What ``hwc report`` does: resolve the name, gather, write, tell."""

from __future__ import annotations

import os
import time
from pathlib import Path

import hwc
from hwc import render
from hwc.bundle.reference import Reference, parse
from hwc.errors import IntegrityError
from hwc.files import write_atomic
from hwc.oci_layout import LAYOUT_FILE, Layout
from hwc.report import collect
from hwc.report.page import draw
from hwc.report.records import Page
from hwc.spec.project import open_project


def report(text: str | None, output: Path) -> None:
    """Write the page; raise IntegrityError afterwards if a bundle of the store was damaged."""
    reference = _reference(text)
    layout = Layout(reference.store).check()
    whole = not reference.tag and not reference.digest
    bundles, left = collect.from_store(layout) if whole else ((collect.from_reference(layout, reference),), ())
    title = "Bundles of this store" if whole else f"Bundle {bundles[0].tags[0]}"
    page = Page(title=title, created_utc=_now(), tool=f"hwc {hwc.__version__}", bundles=bundles, left=left)
    write_atomic(output, draw(page).encode())
    render.result(str(output))
    for one in left:
        render.note(f"not shown: {one.tag}: {one.reason}")
    if damaged := [one.tag for one in left if one.damaged]:
        raise IntegrityError(f"{len(damaged)} bundles could not be read: {', '.join(damaged)}", where=str(layout.path))


def _reference(text: str | None) -> Reference:
    """Return what is meant: a bundle, or a store, whose reference has neither tag nor digest."""
    store = str(open_project(Path.cwd()).store)
    if text is None:
        return Reference(layout_path=store)
    if (Path(text) / LAYOUT_FILE).is_file():
        return Reference(layout_path=text)
    return parse(text, default_store=store)


def _now() -> str:
    """Return the time of writing, or SOURCE_DATE_EPOCH where a repeatable page is asked for."""
    told = os.environ.get("SOURCE_DATE_EPOCH", "")
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(told) if told.isdecimal() else None))
