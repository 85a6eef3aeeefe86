"""The speed bench's chips: what tells them apart, records that hold one each, and a page of all beside each other."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from test_bench_goals import facts, row, section

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import bench_summary
import chips
import goals
import records

import bench


def of(model: str, vectors: str) -> dict[str, Any]:
    return {"machine": {"cpu_model": model, "cpu_count": 4, "memory_gib": 8}, "vectors": vectors}


@pytest.mark.parametrize(
    ("flags", "level"),
    [
        ("sse4_2", "baseline"), ("avx2 fma", "AVX2"), ("avx2 avx_vnni", "AVX-VNNI"), ("avx2 avx512f", "AVX-512"),
        ("avx2 avx_vnni avx512f avx512_vnni", "AVX-512 VNNI"), ("asimd asimddp", "NEON dot product"),
    ],
)
def test_the_widest_vectors_of_a_cpu_are_its_level(flags: str, level: str) -> None:
    assert chips.vectors(frozenset(flags.split())) == level
    assert level in chips.LEVELS


@pytest.mark.parametrize(
    ("model", "vectors", "slug"),
    [
        ("AMD EPYC", "AVX2", "amd-epyc-avx2"),
        ("Intel(R) Xeon(R) Processor", "AVX-512 VNNI", "intel-xeon-avx-512-vnni"),
        ("AMD EPYC 7763 64-Core Processor", "AVX2", "amd-epyc-7763-64-core-avx2"),
        ("Intel® Core™ i7 @ 2.60GHz", "AVX-VNNI", "intel-core-i7-2-60ghz-avx-vnni"),
        ("Intel(R) Coprocessor(TM)", "baseline", "intel-coprocessor-baseline"),
    ],
)
def test_a_slug_is_the_model_without_trademarks_and_the_vectors(model: str, vectors: str, slug: str) -> None:
    assert chips.slug(of(model, vectors)) == slug


def test_a_section_goes_into_its_own_chips_record_and_replaces_its_forerunner(tmp_path: Path) -> None:
    wide = of("AMD EPYC", "AVX-512")
    records.add(tmp_path, "cnn", 1, of("AMD EPYC", "AVX2"))
    records.add(tmp_path, "cnn", 2, {**of("AMD EPYC", "AVX2"), "seconds": 1})
    records.add(tmp_path, "cnn", 2, {**of("AMD EPYC", "AVX2"), "seconds": 2})
    records.add(tmp_path, "cnn", 1, wide)
    found = records.load(tmp_path)
    assert list(found) == ["amd-epyc-avx-512", "amd-epyc-avx2"]
    assert found["amd-epyc-avx-512"] == {"parts": {"cnn": {"1": wide}}}
    assert found["amd-epyc-avx2"]["parts"]["cnn"]["2"]["seconds"] == 2
    assert [path.suffix for path in tmp_path.iterdir()] == [".json", ".json"]


@pytest.mark.parametrize(
    "wrong", [of("AMD EPYC", "AVX-512"), of("Other", "AVX2"), {"machine": {"cpu_model": "AMD EPYC"}}]
)
def test_a_record_that_holds_another_chips_section_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    told = {"parts": {"cnn": {"1": of("AMD EPYC", "AVX2"), "2": wrong}}}
    (tmp_path / "amd-epyc-avx2.json").write_text(json.dumps(told))
    with pytest.raises(SystemExit, match=r"cnn on 2 thread\(s\) was measured on"):
        records.load(tmp_path)
    with pytest.raises(SystemExit, match="that chip's own record"):
        records.add(tmp_path, "cnn", 1, of("AMD EPYC", "AVX2"))


CASE = "M = 1 · 2048×8192 g32"


def two() -> dict[str, dict[str, Any]]:
    """Return a chip that misses a goal and one that meets it, on which more was measured."""
    right = section(row("hwc w4a16", CASE, [1.0, 1.0]), row("ONNX Runtime int4 QDQ", CASE, [3.0, 3.0]))
    wide = {**right, **of("Intel(R) Xeon(R) Processor", "AVX-512 VNNI"), "quiet": True}
    slow = section(row("hwc w4a16", CASE, [2.0, 2.0]), row("ONNX Runtime int4 QDQ", CASE, [1.0, 3.0]))
    parts = {"a-cpu-avx2": {"matmul": {"1": slow}}, "intel-xeon-avx-512-vnni": {"matmul": {"1": wide, "2": wide}}}
    wanted = goals.load(goals.FILE)
    return {slug: {"parts": told, "goals": goals.judged(wanted, told)} for slug, told in parts.items()}


def test_the_summary_has_a_column_for_each_chip_and_says_who_meets_what() -> None:
    page = bench_summary.page(two())
    assert "| Goal | Model, case | Threads | Aim | A CPU, AVX2 | Intel Xeon, AVX-512 VNNI |" in page
    assert f"| matmul, {CASE} | 1 | ≥ 1.3 × | 1 [0.6, 1.4] **missed** | 3 met |" in page
    assert "| [A CPU, AVX2](bench/a-cpu-avx2.md) | A CPU | 2 | 24 | now | matmul (1) | **0** of " in page
    assert "| Intel(R) Xeon(R) Processor | 4 | 8 | now | – | **1** of " in page
    assert "| Single products | 4 bits | 1 | **1.33** | 1.33 | **0.33** | 0.33 |" in page
    assert "| Single products | 4 bits | 2 | – | – | **0.33** | 0.33 |" in page


def test_the_summary_gives_each_chips_own_reasons_and_what_it_lacks() -> None:
    first, second = bench_summary.page(two()).split("## Why goals are missed")[1].split("### ")[1:]
    assert f"| matmul, {CASE} (1) | Zen 3 has AVX2 without VNNI" in first
    assert "not measured: encoders was not measured on 1 thread(s)" in first
    assert "Zen 3" not in second
    assert "| Reason |" not in second


def test_goals_of_one_reason_are_told_once_with_all_their_places() -> None:
    one, other = goals.judged(goals.load(goals.FILE), facts()["parts"])[:2]
    found = {"value": 0.5, "low": 0.5, "high": 0.5, "against": ""}
    missed = {**one, "found": found, "missing": "", "reason": ""}
    rows = [missed, {**missed, "threads": 2}, {**missed, "case": "d"}, {**other, "found": found, "met": True}]
    table = bench_summary.page({"a-cpu-avx2": {**facts(), "goals": rows}})
    assert f"| matmul, {CASE} (1, 2); matmul, d (1) | no reason is written down |" in table


def test_publishing_writes_a_page_and_pictures_for_every_chip_and_the_summary(tmp_path: Path) -> None:
    for told in two().values():
        for threads, measured in told["parts"]["matmul"].items():
            records.add(tmp_path / "out" / "bench", "matmul", int(threads), measured)
    summary = bench.publish(tmp_path / "out", tmp_path / "images")
    assert (tmp_path / "out" / "bench.md").read_text() == summary
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == [
        "bench-a-cpu-avx2-matmul.svg", "bench-intel-xeon-avx-512-vnni-matmul.svg",
    ]  # fmt: skip
    for slug in two():
        page = (tmp_path / "out" / "bench" / f"{slug}.md").read_text()
        assert f"(../../images/bench-{slug}-matmul.svg)" in page
        assert json.loads((tmp_path / "out" / "bench" / f"{slug}.json").read_text())["goals"]


def test_the_published_pages_are_those_of_the_published_records(tmp_path: Path) -> None:
    reference = bench.ROOT / "docs" / "reference"
    copied = tmp_path / "bench"
    copied.mkdir()
    for path in (reference / "bench").glob("*.json"):
        (copied / path.name).write_text(path.read_text())
    assert bench.publish(tmp_path, tmp_path / "images") == (reference / "bench.md").read_text()
    for path in copied.glob("*.md"):
        assert path.read_text() == (reference / "bench" / path.name).read_text()
