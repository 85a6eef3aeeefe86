"""Write a bundle's real table, and its plot, into README.md, from `hwc inspect --format json` alone.

    tools/plot_bundle.py minilm:dev -o docs/images/minilm-quality-latency.svg
    tools/bundle_table.py minilm:dev
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from plot_bundle import inspect

README = Path(__file__).resolve().parents[1] / "README.md"
PLOT = "docs/images/minilm-quality-latency.svg"
BEGIN, END = "<!-- bundle-table:begin -->", "<!-- bundle-table:end -->"
HEAD = (
    "| Variant | Weights MiB | Bits/param | Cosine to float | Shape | p50 ms | p99 ms | Items/s | $/M items (low–high) "
    "| Tiers latency/quality/cost | Status | Content |\n|---|---:|---:|---:|---|---:|---:|---:|---:|---|---|---|"
)


def main() -> int:
    """Read the bundle and replace the block."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", help="as hwc inspect takes it")
    parser.add_argument("--bucket", default="b1_s128", help="the shape to show, where a variant has it")
    parser.add_argument("--store", type=Path, help="folder of the bundle store")
    arguments = parser.parse_args()
    rows = [row(document, arguments.bucket) for document in inspect(arguments.bundle, arguments.store)]
    before, _, rest = README.read_text().partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        print(f"README.md has no {BEGIN} … {END}", file=sys.stderr)
        return 2
    drawn = f"\n\n![Quality against latency]({PLOT})" if (README.parent / PLOT).is_file() else ""
    README.write_text(f"{before}{BEGIN}\n{HEAD}\n" + "\n".join(rows) + f"{drawn}\n{END}{after}")
    return 0


def row(document: dict[str, Any], bucket: str) -> str:
    """Return one variant's row: at the wanted shape, else at its first."""
    identity, tier = document["identity"], document["provenance"]["tier"]
    quality = {entry["metric"]: entry["value"] for entry in document.get("quality", [])}
    size_bytes = document["resources"]["weights_bytes"]
    cells = document.get("profile", {}).get("request", [])
    cell = next((cell for cell in cells if cell["bucket"] == bucket), cells[0] if cells else None)
    fields = [
        f"`{identity['variant_id']}`",
        f"{size_bytes / 2**20:.1f}",
        f"{8 * size_bytes / document['model']['params']:.2f}",
        f"{quality['cosine_mean']:.5f}" if "cosine_mean" in quality else "–",
        *_latency(document, cell),
        "/".join(tier.get(group, "–") for group in ("latency", "quality", "cost")),
        document["status"],
        f"`{identity['content_sha256'].removeprefix('sha256:')[:12]}`",
    ]
    return f"| {' | '.join(fields)} |"


def _latency(document: dict[str, Any], cell: dict[str, Any] | None) -> Iterable[str]:
    if cell is None:
        return ["–"] * 5
    latency = cell["latency_ms"]
    costs = {entry["bucket"]: entry["usd"] for entry in document.get("cost", {}).get("usd_per_million_items", [])}
    usd = costs.get(cell["bucket"])
    return [
        cell["bucket"],
        f"{latency['p50']:.1f}" + ("" if cell["valid"] else " ?"),
        f"{latency['p99']:.1f}" if "p99" in latency else f"– (n={latency['n']})",
        f"{cell['items_s']:.1f}",
        f"{usd['base']:.2f} ({usd['low']:.2f}–{usd['high']:.2f})" if usd else "–",
    ]


if __name__ == "__main__":
    sys.exit(main())
