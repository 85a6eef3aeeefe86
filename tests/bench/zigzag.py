"""Compare predicted cycles of matrix products with ZigZag's; write docs/reference/bench-gemm.md and .json.

    tests/bench/zigzag.py [--out docs/reference] [--cache ~/.cache/hwc-bench]     takes ten minutes

Both describe one 128×128 array of int8 cells with 16 MiB beside it, once with a DRAM that never limits and once with
one of 512 bits a cycle. No clock is measured, so the machine may be busy.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zigzag_page
from peers import environment

from hwc.predict import answer, chip, language, roofline
from hwc.predict.operation import Operation
from hwc.predict.shape import LanguageShape
from hwc.predict.storage import storage
from hwc.spec import strict
from hwc.spec.prices import PriceTable
from hwc.spec.target import TargetSpec

ROOT = Path(__file__).resolve().parents[2]
HZ = 1e9
CHIP = {"rows": 128, "columns": 128, "sram_bytes": 16 << 20}
AMPLE, NARROW = 1 << 24, 512
SHAPES = (
    (128, 2048, 8192), (1, 2048, 2048), (1, 2048, 8192), (1, 4096, 4096), (1, 576, 49152), (8, 4096, 4096),
    (16, 384, 384), (16, 384, 1536), (128, 384, 1536), (128, 1536, 384), (32, 576, 1536), (7, 777, 333),
    (100, 300, 200), (129, 129, 129), (1000, 1000, 1000), (512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048),
    (4096, 4096, 4096), (4096, 256, 256), (4096, 64, 4096), (128, 8192, 2048), (64, 8192, 8192), (16, 4096, 14336),
    (256, 4096, 14336), (2048, 8192, 4096),
)
"""m, k, n: single rows, multiples of the array and not, skinny and square, weights larger than what lies beside it."""
ANCHORS = {AMPLE: 131_840, NARROW: 280_831}
"""Cycles of 128×2048×8192 that ZigZag gave on another description of such an array, before this bench was written."""


def main() -> int:
    """Model every shape twice and write the page."""
    arguments = _arguments()
    rows = [compared(row) for row in peer_rows(arguments.cache)]
    facts = {
        "chip": CHIP, "rows": rows, "anchors": {str(bits): cycles for bits, cycles in ANCHORS.items()},
        "peer": environment.ZIGZAG.packages[0], "prediction_ms": prediction_ms(),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "bench-gemm.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    page = zigzag_page.page(facts)
    (arguments.out / "bench-gemm.md").write_text(page)
    print(page)
    return 0


def _arguments() -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hwc-bench"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reference")
    parser.add_argument("--cache", type=Path, default=cache, help="where ZigZag's environment is made")
    return parser.parse_args()


def peer_rows(cache: Path) -> Iterator[dict[str, Any]]:
    """Yield ZigZag's answer for each shape and bandwidth."""
    python = environment.make(environment.ZIGZAG, cache)
    shapes = [{"m": m, "k": k, "n": n, "dram_bits": bits} for bits in (AMPLE, NARROW) for m, k, n in SHAPES]
    with tempfile.TemporaryDirectory(prefix="hwc-zigzag-") as folder:
        work = Path(folder)
        (work / "chip.json").write_text(json.dumps(CHIP))
        (work / "shapes.json").write_text(json.dumps(shapes))
        argv = [
            str(python), str(Path(__file__).parent / "peers" / "zigzag_gemms.py"), str(work / "chip.json"),
            str(work / "shapes.json"), str(work),
        ]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=work) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line.rstrip(), file=sys.stderr, flush=True)
                yield json.loads(line)
        if process.returncode:
            raise SystemExit(f"ZigZag's process exited with {process.returncode}")


def compared(row: dict[str, Any]) -> dict[str, Any]:
    """Return ZigZag's row with hwc's cycles, and the cycles that the operands alone take through the DRAM's port."""
    m, k, n, bits = (row[key] for key in ("m", "k", "n", "dram_bits"))
    base = chip.corners(target(bits))["base"]
    product = Operation(
        op="matmul", name="product", m=m, n=n, k=k, points=m * n, rank=2, activations="int8", weights="int8",
        accumulator="int32", flops=2.0 * m * n * k, read_bytes=float(m * k), weight_bytes=float(k * n),
        write_bytes=float(m * n),
    )
    seconds = roofline.cost(product, base, "best", resident=False, cold=True).seconds
    return {**row, "hwc": seconds * HZ, "port": (m * k + k * n + m * n) * 8 / bits}


def target(dram_bits: int) -> TargetSpec:
    """Return the descriptor of the array at 1 GHz, one multiply-add a cell and cycle, without overheads."""
    rate = {
        "activations": "int8", "weights": "int8", "accumulator": "int32",
        "flop_per_s": 2 * CHIP["rows"] * CHIP["columns"] * HZ,
    }
    array = {"kind": "matrix", "rows": CHIP["rows"], "columns": CHIP["columns"], "clock_hz": HZ, "rates": [rate]}
    memories = {
        "sram": {"level": 1, "size_bytes": CHIP["sram_bytes"]},
        "dram": {"level": 2, "size_bytes": 1e12, "read_bytes_per_s": dram_bits / 8 * HZ},
    }
    return TargetSpec.model_validate(
        {
            "name": "array", "title": "128×128 array", "kind": "asic", "hardware_status": "emulated",
            "not_built": "made up to be compared", "execution": {"driver": "none"}, "encoding": {},
            "hardware": {"units": {"array": array}, "memories": memories},
            "sources": {"hardware": {"kind": "estimated"}},
        }
    )


def prediction_ms() -> float:
    """Return the least time of predicting a decoder of 80 layers, prefill and decode, of seven tries."""
    shape = LanguageShape(
        layers=80, hidden=8192, inner=28672, heads=64, kv_heads=8, head_dim=128, vocabulary=32000, tied=False
    )
    prices = strict.load(sorted((ROOT / "targets" / "prices").glob("*.toml"))[-1], PriceTable)
    setting = answer.Setting(target=strict.load(ROOT / "targets" / "b200.toml", TargetSpec), prices=prices, chips=8)
    calls = [language.prefill(1, 4096), language.decode(64, 4096)]
    stored = storage(None, "bfloat16")
    return min(timeit.repeat(lambda: answer.of_language(shape, calls, stored, setting), number=1, repeat=7)) * 1e3


if __name__ == "__main__":
    sys.exit(main())
