"""The Splitwise measurements as cells, with what is known of the models and GPUs, and which cells are quarantined."""

from __future__ import annotations

import csv
import hashlib
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hwc.predict import quarantine
from hwc.predict.serving_fit import BYTES, Case, Figure, Gpu, Shape

DATA = Path(__file__).resolve().parents[1] / "data" / "splitwise" / "perf-model.csv"
SHA256 = "dbbe505d1d64fc4bd1ec03c50edf944643586de4f68a81e94cbd55dd5bdfbf41"
SHAPES = {
    # Touvron et al. 2023, config.json: 8 heads of keys and values, feed-forward 28672
    "llama2-70b": Shape(
        layers=80, hidden=8192, heads=64, head_size=128, vocabulary=32000,
        linear_parameters=2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672,
    ),
    # Le Scao et al. 2022, config.json: as many heads of keys and values as of queries, feed-forward 4·hidden
    "bloom-176b": Shape(
        layers=70, hidden=14336, heads=112, head_size=128, vocabulary=250880, linear_parameters=12 * 14336 * 14336
    ),
}
GPUS = {
    # NVIDIA A100 80GB SXM data sheet, 2021. Host of an 8-GPU node: EPYC 7V12, up to 3.3 GHz
    "a100-80gb": Gpu(
        flop_per_s=312e12, bytes_per_s=2.039e12, link_bytes_per_s=300e9, clock_hz=1.41e9, tdp_w=400,
        energy_ratio=1.0, host_speed=1.0,
    ),
    # NVIDIA H100 SXM data sheet, 2023; 4N, of the 5 nm family. Host: Xeon 8480C, up to 3.8 GHz
    "h100-80gb": Gpu(
        flop_per_s=989.4e12, bytes_per_s=3.35e12, link_bytes_per_s=450e9, clock_hz=1.83e9, tdp_w=700,
        energy_ratio=0.6, host_speed=3.8 / 3.3 * 1.18 * 1.19,
    ),
}
"""``energy_ratio``: TSMC tells 30 % less power than N7 for N5 at equal speed, 40 % for N5P, which 4N is nearest to.
``host_speed``: clocks, times Intel's 18 % (Sunny Cove over Skylake) and 19 % (Golden Cove over Sunny Cove) more work a
cycle; Zen 2 is taken for Skylake's equal: assumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One figure of one configuration."""

    model: str
    hardware: str
    figure: Figure
    gpus: int
    prompt_tokens: int
    batch: int
    new_tokens: int
    repeats_s: tuple[float, ...]
    suspect: str = ""
    """Why it is quarantined; empty if it is not."""

    @property
    def measured_s(self) -> float:
        """Median of the repeats."""
        return statistics.median(self.repeats_s)

    @property
    def case(self) -> Case:
        """What the prediction sees: nothing that was measured."""
        return Case(
            shape=SHAPES[self.model], gpu=GPUS[self.hardware], gpus=self.gpus, prompt_tokens=self.prompt_tokens,
            batch=self.batch, new_tokens=self.new_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The file, read."""

    cells: tuple[Cell, ...]
    copies: Mapping[str, tuple[str, float]]
    """Hardware whose prompt times are another's times a constant: no measurements, and left out."""


def read(path: Path = DATA) -> Table:
    """Read the file, leave out copies, merge repeated rows, and mark suspect cells."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise SystemExit(f"{path} is not the file this bench is about")
    rows = list(csv.DictReader(content.decode().splitlines()))
    copies = _copies(rows)
    kept = [row for row in rows if row["hardware"] not in copies]
    return Table(cells=tuple(_judged([*_cells(kept, "prompt"), *_cells(kept, "token")])), copies=copies)


def _copies(rows: Sequence[Mapping[str, str]]) -> dict[str, tuple[str, float]]:
    series: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        series[row["hardware"]].append(float(row["prompt_time"]))
    names = sorted(series)
    return {
        copy: (name, ratio)
        for index, name in enumerate(names)
        for copy in names[index + 1 :]
        if (ratio := quarantine.scaled_copy(series[name], series[copy])) is not None
    }


def _cells(rows: Sequence[Mapping[str, str]], figure: Figure) -> list[Cell]:
    """Group repeats. A prompt does not know how many tokens will follow: those sweeps are one cell."""
    groups: dict[tuple[str, str, int, int, int, int], set[float]] = defaultdict(set)
    for row in rows:
        new_tokens = int(row["token_size"]) if figure == "token" else 0
        sizes = (int(row["tensor_parallel"]), int(row["prompt_size"]), int(row["batch_size"]), new_tokens)
        groups[(row["model"], row["hardware"], *sizes)].add(float(row[f"{figure}_time"]) / 1e3)
    return [
        Cell(
            model=model, hardware=hardware, figure=figure, gpus=gpus, prompt_tokens=prompt, batch=batch,
            new_tokens=new, repeats_s=tuple(sorted(repeats)),
        )
        for (model, hardware, gpus, prompt, batch, new), repeats in groups.items()
    ]


def _judged(cells: Sequence[Cell]) -> list[Cell]:
    """Mark the impossible, and such a run's other figure; uneven repeats; what shrinks against a smaller size."""
    found = [replace(cell, suspect=quarantine.impossible(cell.measured_s, bound_s(cell))) for cell in cells]
    failed = {_run(cell) for cell in found if cell.suspect}
    by_run = {True: "its run's other figure is impossible", False: ""}
    found = [replace(cell, suspect=cell.suspect or by_run[_run(cell) in failed]) for cell in found]
    found = [replace(cell, suspect=cell.suspect or quarantine.uneven(cell.repeats_s)) for cell in found]
    for axis in ("batch", "prompt_tokens", "new_tokens"):
        found = _monotone(found, axis)
    return found


def _run(cell: Cell) -> tuple[str, str, int, int, int]:
    return cell.model, cell.hardware, cell.gpus, cell.prompt_tokens, cell.batch


def _monotone(cells: Sequence[Cell], axis: str) -> list[Cell]:
    sweeps: dict[tuple[object, ...], dict[int, Cell]] = defaultdict(dict)
    for cell in cells:
        others = [getattr(cell, name) for name in ("batch", "prompt_tokens", "new_tokens") if name != axis]
        sweeps[cell.model, cell.hardware, cell.figure, cell.gpus, *others][getattr(cell, axis)] = cell
    found = []
    for sweep in sweeps.values():
        trusted = {size: cell.measured_s for size, cell in sweep.items() if not cell.suspect}
        reasons = quarantine.shrinking(trusted)
        found += [replace(cell, suspect=cell.suspect or reasons.get(size, "")) for size, cell in sweep.items()]
    return found


def bound_s(cell: Cell) -> float:
    """Return the time that peak arithmetic and bandwidth of the data sheet need for the linears alone."""
    shape, gpu = SHAPES[cell.model], GPUS[cell.hardware]
    parameters = shape.layers * shape.linear_parameters / cell.gpus
    tokens = cell.batch * (cell.prompt_tokens if cell.figure == "prompt" else 1)
    return max(2 * parameters * tokens / gpu.flop_per_s, BYTES * parameters / gpu.bytes_per_s)
