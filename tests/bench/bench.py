"""Measure hwc's artefacts beside the best hand-tuned libraries on this CPU: `make bench`, on a quiet machine.

Writes the record of the chip it runs on, docs/reference/bench/<slug>.json; for every chip that has one, a page beside
it and docs/images/bench-<slug>-PART.svg; and the summary, docs/reference/bench.md. `--only` picks parts, `--threads`
numbers of threads and `--seconds` the time of a part's rounds; what is not measured in a run is kept from the runs
before. Each part is written as soon as it is done, so that a run that is cut off keeps what it has.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path

import bench_page
import bench_plots
import bench_summary
import goals
import parts
import quiet
import records

from hwc.errors import HwcError

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "bench"
"""Of the chips' records and pages, beside the summary."""


def main() -> int:
    """Measure what is asked for, part by part, and write the pages after each."""
    arguments = _arguments()
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.getLogger().setLevel(logging.ERROR)  # ONNX Runtime's quantiser warns once a graph
    records.load(arguments.out / FOLDER)  # a section in a wrong place is told before measuring, not behind it
    failed = []
    for name in [] if arguments.page else arguments.only:
        try:
            _measure(name, arguments)
        except (SystemExit, HwcError) as error:  # a part that does not build must not cost the others
            _tell(f"{name}: {error}")
            failed.append(name)
    print(publish(arguments.out, arguments.images))
    return 1 if failed else 0


def _measure(name: str, arguments: argparse.Namespace) -> None:
    """Measure a part on every number of threads asked for; write everything after each."""
    part = parts.PARTS[name]
    with tempfile.TemporaryDirectory(prefix="hwc-bench-", dir=arguments.work) as work:
        options = tuple(arguments.build)
        place = parts.Place(work=Path(work), cache=arguments.cache, store=arguments.store, options=options)
        _tell(f"{name}: building and preparing")
        ready = part.prepare(place)
        for threads in arguments.threads:
            seconds = arguments.seconds if arguments.seconds is not None else part.seconds
            before = quiet.when()
            _tell(f"{name}, {threads} thread(s): {seconds:.0f} s of rounds", busy=before["busy_cores_before"])
            section = {**before, **ready(threads, seconds), "seconds": seconds, "build_options": list(options)}
            records.add(arguments.out / FOLDER, name, threads, section)
            publish(arguments.out, arguments.images)


def publish(out: Path, images: Path) -> str:
    """Judge the goals on every chip that has a record, write all pages and pictures, and return the summary."""
    folder, wanted = out / FOLDER, goals.load(goals.FILE)
    images.mkdir(parents=True, exist_ok=True)
    found = records.load(folder)
    for slug, facts in found.items():
        facts["goals"] = goals.judged(wanted, facts["parts"])
        drawn = bench_plots.pictures(facts["parts"])
        for name, picture in drawn.items():
            (images / f"bench-{slug}-{name}.svg").write_text(picture)
        (folder / f"{slug}.md").write_text(bench_page.page(slug, facts, pictures=tuple(drawn)))
        records.save(folder, slug, facts)
    page = bench_summary.page(found)
    (out / "bench.md").write_text(page)
    return page


def _tell(text: str, *, busy: float = 0.0) -> None:
    warned = f"; {busy:.2f} cores are busy: not worth publishing" if busy > quiet.MOST_BUSY_CORES else ""
    print(f"{text}{warned}", file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hwc-bench"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=(*parts.GROUPS, *parts.PARTS), help="part; all without it")
    parser.add_argument("--threads", action="append", type=int, choices=(1, 2), help="threads; 1 and 2 without it")
    parser.add_argument("--seconds", type=float, help="time for the rounds of a part on 1 or 2 threads")
    parser.add_argument("--build", action="append", default=[], help="option of `hwc build`, as --build=--tune")
    parser.add_argument("--page", action="store_true", help="measure nothing: judge and write all pages anew")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reference", help="folder of pages and records")
    parser.add_argument("--images", type=Path, default=ROOT / "docs" / "images", help="folder of pictures")
    parser.add_argument("--cache", type=Path, default=cache, help="folder of peers' environments and models")
    parser.add_argument("--store", type=Path, default=cache / "store", help="store of the bundles that are built")
    parser.add_argument("--work", type=Path, help="folder for a run's own files; several GiB")
    arguments = parser.parse_args()
    asked = arguments.only or list(parts.PARTS)
    arguments.only = list(dict.fromkeys(one for name in asked for one in parts.GROUPS.get(name, (name,))))
    arguments.threads = arguments.threads or [1, 2]
    return arguments


if __name__ == "__main__":
    sys.exit(main())
