"""Cycles of matrix products as ZigZag models them; runs in ZigZag's own environment.

    zigzag_gemms.py CHIP.json SHAPES.json WORK     a line of JSON a shape, as each is done

The accelerator is a weight-stationary systolic array: a register for a weight and one behind it in every cell, partial
sums that move down the columns, a memory for all three operands with a port each, and DRAM behind one shared port.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import yaml
from zigzag.api import get_hardware_performance_zigzag

WIDE = 1 << 20
"""Bits a cycle of ports that are not what is compared."""
LOOP_LIMIT = 6
"""ZigZag's own default for how finely loops are split while orders are searched; 8 changed no figure."""


def main() -> int:
    """Model each shape and print its line."""
    chip, shapes = (json.loads(Path(name).read_text()) for name in sys.argv[1:3])
    logging.disable(logging.CRITICAL)
    for shape in shapes:
        print(json.dumps({**shape, **_model(chip, shape, Path(sys.argv[3]))}), flush=True)
    return 0


def _model(chip: dict[str, Any], shape: dict[str, Any], work: Path) -> dict[str, Any]:
    files = {"chip": accelerator(chip, shape["dram_bits"]), "map": mapping(chip), "work": workload(shape)}
    for name, told in files.items():
        (work / f"{name}.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
    paths = [str(work / f"{name}.yaml") for name in ("work", "chip", "map")]
    try:
        _, cycles, found = get_hardware_performance_zigzag(
            *paths, opt="latency", dump_folder=str(work / "out"), lpf_limit=LOOP_LIMIT, loma_show_progress_bar=False
        )
    except ValueError as error:
        return {"failed": str(error)}
    best = found[0][1][0][0]
    return {
        "cycles": cycles, "on": best.latency_total1 - best.latency_total0, "steady": best.latency_total0,
        "off": best.latency_total2 - best.latency_total1,
    }


def accelerator(chip: dict[str, Any], dram_bits: int) -> dict[str, Any]:
    """Return the description of the chip, every width in bits a cycle."""
    rows, columns, sums = chip["rows"], chip["columns"], 32
    cell = _memory(
        16, ["I2"], [], [_port("r_port_1", 8, "I2, tl"), _port("w_port_1", 8, "I2, fh")], force_double_buffering=True
    )
    register = _memory(
        sums, ["O"], ["D2"],
        [_port(name, sums, f"O, {way}") for name, way in (("r_port_1", "tl"), ("r_port_2", "th"), ("w_port_1", "fh"),
                                                          ("w_port_2", "fl"))],
    )
    sram = _memory(
        chip["sram_bytes"] * 8, ["I1", "I2", "O"], ["D1", "D2"],
        [
            _port("r_port_1", 8 * rows, "I1, tl"), _port("r_port_2", 8 * columns, "I2, tl"),
            _port("r_port_3", sums * columns, "O, tl"), _port("r_port_4", WIDE, "O, th"),
            _port("w_port_1", WIDE, "I1, fh"), _port("w_port_2", WIDE, "I2, fh"),
            _port("w_port_3", sums * columns, "O, fl"), _port("w_port_4", WIDE, "O, fh"),
        ],
    )
    ways = [f"{operand}, {way}" for operand in ("I1", "I2") for way in ("fh", "tl")]
    dram = _memory(
        10**13, ["I1", "I2", "O"], ["D1", "D2"],
        [_port("rw_port_1", dram_bits, *ways, *(f"O, {way}" for way in ("fh", "tl", "fl", "th")))],
    )
    return {
        "name": "array", "memories": {"cell": cell, "sum": register, "sram": sram, "dram": dram},
        "operational_array": {
            "unit_energy": 0.04, "unit_area": 1, "dimensions": ["D1", "D2"], "sizes": [columns, rows],
            "systolic_dimensions": ["D1", "D2"],
        },
    }


def _memory(bits: int, operands: list[str], served: list[str], ports: list[Any], **more: bool) -> dict[str, Any]:
    return {
        "size": bits, "r_cost": 1, "w_cost": 1, "area": 0, "latency": 1, "operands": operands, "ports": ports,
        "served_dimensions": served, **more,
    }


def _port(name: str, bits: int, *allocation: str) -> dict[str, Any]:
    kinds = {"r": "read", "w": "write", "rw": "read_write"}
    return {
        "name": name, "type": kinds[name.partition("_")[0]], "bandwidth_min": 8, "bandwidth_max": bits,
        "allocation": list(allocation),
    }


def mapping(chip: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the spatial mapping: outputs over columns, the reduction over rows; ZigZag searches the order in time."""
    spatial = {"D1": [f"K, {chip['columns']}"], "D2": [f"C, {chip['rows']}"]}
    return [{
        "name": "default", "spatial_mapping": spatial, "memory_operand_links": {"O": "O", "W": "I2", "I": "I1"},
    }]


def workload(shape: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one product of int8 operands: sums of 32 bits on the chip, results of 8 outside."""
    return [{
        "id": 0, "name": "product", "operator_type": "Gemm", "equation": "O[b][k]+=W[k][c]*I[b][c]",
        "dimension_relations": [], "loop_dims": ["B", "K", "C"],
        "loop_sizes": [shape["m"], shape["n"], shape["k"]],
        "operand_precision": {"I": 8, "W": 8, "O": 32, "O_final": 8}, "operand_source": {"I": 0, "W": 0},
    }]


if __name__ == "__main__":
    sys.exit(main())
