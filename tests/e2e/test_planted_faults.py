"""Faults planted in the weights before any digest is taken: parity with ONNX Runtime finds every one of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from command import Cli, clean_environment
from hwc.measure.check import check
from hwc.pipeline.build import Request, plan_build
from hwc.pipeline.plan import VariantPlan
from hwc.pipeline.stages import program
from hwc.pipeline.step import Step
from hwc.pipeline.store import Store
from hwc.quantise.encode import LINEAR_ARCHIVE, read_archive, write_archive
from hwc.quantise.encodings import Packed
from hwc.quantise.tiles import SUFFIXES
from hwc.spec import infer
from hwc.spec.model import ModelSpec
from hwc.spec.project import open_project

Entries = dict[str, np.ndarray]
Fault = Callable[[Entries, str, int], None]
"""Alters the archive's entries in one layer, of so many output channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """One variant as the pipeline made it, in the cache."""

    spec: ModelSpec
    folder: Path
    variant: VariantPlan
    store: Store

    def path(self, step: Step) -> Path:
        found = self.store.lookup(step.stage.name, step.key)
        assert found is not None
        return found.path

    def parity(self, encoded: Path, work: Path) -> float:
        """Return the largest difference to ONNX Runtime on the same quantised graph."""
        report = check(
            program(encoded, self.path(self.variant.lower), self.variant.target.device), self.spec.evaluation,
            folder=self.folder, cases=self.path(self.variant.cases),
            reference=self.path(self.variant.reference or self.variant.cases), work=work, timeout_s=600,
            memory_bytes=8 << 30,
        )
        return float(report["parity"]["max_abs"])

    def with_fault(self, fault: Fault, layer: str, into: Path) -> Path:
        """Return a copy of the encoded weights with a fault planted in one layer."""
        shutil.copytree(self.path(self.variant.encode), into)
        archive = into / LINEAR_ARCHIVE
        entries = {name: np.frombuffer(payload, np.uint8).copy() for name, payload in read_archive(archive).items()}
        before = {name: value.copy() for name, value in entries.items()}
        rows = json.loads((self.path(self.variant.quantise) / "layers.json").read_text())
        channels = {name: row["n"] for row in rows for name in (row["layer"], row["weight"])}
        fault(entries, layer, channels[layer.removesuffix(SUFFIXES[True])])
        assert any(not np.array_equal(before[name], entries[name]) for name in entries), "the fault changes nothing"
        archive.unlink()
        write_archive(
            {name: Packed(payload=value, dtype="i8", shape=value.shape) for name, value in entries.items()}, archive
        )
        return into


def made(cli: Cli, model: str, scheme: str, *, target: str = "llvm-cpu-host") -> Made:
    project = open_project(cli.cwd, env=clean_environment(cli.home), store=cli.store)
    found = infer.find(project, model)
    request = Request(found=found, targets=(target,), schemes=(scheme,), jobs=1, smoke=True)
    (variant,) = plan_build(project, request).variants
    return Made(spec=found.spec, folder=found.folder, variant=variant, store=Store(project.home))


def layers(entries: Entries) -> list[str]:
    """Return the layers whose weights are packed, or for float weights their names."""
    return sorted(name.removesuffix(".codes") for name in entries if name.endswith(".codes")) or sorted(entries)


def inverted_byte(entries: Entries, layer: str, channels: int) -> None:
    """Invert one byte of codes, two weights in int4 and one in fp8."""
    codes = entries[f"{layer}.codes"]
    place = next(i for i in range(len(codes) // 2, len(codes)) if codes[i] & 0x7F not in (0x00, 0x7F))
    codes[place] ^= 0xFF


def inverted_top_byte(entries: Entries, layer: str, channels: int) -> None:
    """Invert sign and exponent of one float weight; its lowest byte is below what any computation shows."""
    entries[layer][len(entries[layer]) // 8 * 4 + 3] ^= 0xFF


def swapped_nibbles(entries: Entries, layer: str, channels: int) -> None:
    codes = entries[f"{layer}.codes"]
    entries[f"{layer}.codes"] = (codes << 4) | (codes >> 4)


def one_swapped_byte(entries: Entries, layer: str, channels: int) -> None:
    """Swap the nibbles of the first byte whose nibbles differ by much."""
    codes = entries[f"{layer}.codes"]
    nibbles = np.abs((codes & 15).astype(int) - (codes >> 4).astype(int))
    place = int(np.flatnonzero((nibbles > 5) & (nibbles < 11))[0])
    codes[place] = (codes[place] << 4 | codes[place] >> 4) & 0xFF


def wrong_scale_row(entries: Entries, layer: str, channels: int) -> None:
    """Give one output channel the scales of the next."""
    rows = entries[f"{layer}.scales"].reshape(channels, -1)
    rows[3] = rows[4]


def shifted_scales(entries: Entries, layer: str, channels: int) -> None:
    rows = entries[f"{layer}.scales"].reshape(channels, -1)
    rows[:] = np.roll(rows, 1, axis=0)


def dropped_zero_points(entries: Entries, layer: str, channels: int) -> None:
    """Forget the zero points: as stored, less 8, a symmetric layer's are 0."""
    entries[f"{layer}.zeros"][:] = 0


def one_dropped_zero_point(entries: Entries, layer: str, channels: int) -> None:
    zeros = entries[f"{layer}.zeros"]
    zeros[int(np.flatnonzero(zeros)[0])] = 0


INT4 = [inverted_byte, swapped_nibbles, one_swapped_byte, wrong_scale_row, shifted_scales]
FAULTS = [
    *(("w4a16", fault) for fault in INT4),
    *(("w4a16-asym", fault) for fault in (*INT4, dropped_zero_points, one_dropped_zero_point)),
    *(("fp8", fault) for fault in (inverted_byte, wrong_scale_row, shifted_scales)),
    ("fp32", inverted_top_byte),
]


@pytest.mark.parametrize("scheme", ["fp32", "fp8", "w4a16", "w4a16-asym"])
def test_weights_as_they_were_made_have_parity(shared_quantised_mlp: Cli, tmp_path: Path, scheme: str) -> None:
    case = made(shared_quantised_mlp, "mlp", scheme)
    assert case.parity(case.path(case.variant.encode), tmp_path / "work") <= case.spec.parity_max_abs


@pytest.mark.parametrize(("scheme", "fault"), FAULTS, ids=lambda value: getattr(value, "__name__", value))
def test_a_planted_fault_fails_parity(shared_quantised_mlp: Cli, tmp_path: Path, scheme: str, fault: Fault) -> None:
    case = made(shared_quantised_mlp, "mlp", scheme)
    layer = layers(read_archive(case.path(case.variant.encode) / LINEAR_ARCHIVE))[0]
    encoded = case.with_fault(fault, layer, tmp_path / "encoded")
    assert case.parity(encoded, tmp_path / "work") > case.spec.parity_max_abs


def test_rewriting_an_archive_without_a_fault_keeps_parity(shared_quantised_mlp: Cli, tmp_path: Path) -> None:
    """Else the tests above might find the rewriting."""
    case = made(shared_quantised_mlp, "mlp", "w4a16")

    shutil.copytree(case.path(case.variant.encode), tmp_path / "encoded")
    archive = tmp_path / "encoded" / LINEAR_ARCHIVE
    entries = {name: np.frombuffer(payload, np.uint8) for name, payload in read_archive(archive).items()}
    archive.unlink()
    packed = {name: Packed(payload=value, dtype="i8", shape=value.shape) for name, value in entries.items()}
    write_archive(packed, archive)
    assert case.parity(tmp_path / "encoded", tmp_path / "work") <= case.spec.parity_max_abs


@pytest.fixture(scope="module")
def quantised_minilm(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    folder = tmp_path_factory.mktemp("minilm")
    cli = Cli(home=folder / "home", store=folder / "store", cwd=folder)
    cli("build", "minilm", "-t", "llvm-cpu-host", "-q", "fp8", "-q", "w4a16", "-q", "w4a16-asym", "--smoke").ok()
    return cli


@pytest.mark.slow
@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize(
    ("scheme", "fault"),
    [
        ("w4a16", inverted_byte), ("w4a16", swapped_nibbles), ("w4a16", wrong_scale_row),
        ("w4a16-asym", dropped_zero_points), ("fp8", inverted_byte), ("fp8", wrong_scale_row),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_planted_fault_in_minilm_fails_parity(
    quantised_minilm: Cli, tmp_path: Path, scheme: str, fault: Fault, place: str
) -> None:
    case = made(quantised_minilm, "minilm", scheme)
    names = layers(read_archive(case.path(case.variant.encode) / LINEAR_ARCHIVE))
    layer = names[{"first": 0, "middle": len(names) // 2, "last": -1}[place]]
    encoded = case.with_fault(fault, layer, tmp_path / "encoded")
    assert case.parity(encoded, tmp_path / "work") > case.spec.parity_max_abs
