"""The speed bench's goals, and what its page and pictures tell of them and of every figure."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import bench_page
import bench_plots
import goals
import parts
from compared import portability
from goals import Goal
from measured import spread


def row(name: str, case: str, rounds: list[float], *, right: bool = True, **more: Any) -> dict[str, Any]:
    check = {"cosine": 0.999, "same_codes": None, "right": right}
    return {
        "contestant": name, "own": name.startswith("hwc"), "precision": "4 bits", "case": case, "threads": 1,
        "ms": spread(rounds), "rounds_ms": rounds, "check": check, **more,
    }


def section(*rows: dict[str, Any]) -> dict[str, Any]:
    read = {**row("read bandwidth", "read bandwidth", [10.0, 10.0, 20.0]), "check": None}
    return {
        "rows": [*rows, read], "absent": {"gone": "it ended"}, "seconds": 3.0, "versions": {"x": "1"},
        "facts": {"read bandwidth": {"bytes": 10**8, "how": "C"}, "llama": {"system_info": "AVX512 = 1"}},
        "measured_utc": "now", "busy_cores_before": 0.5, "quiet": False,
        "machine": {"cpu_model": "A CPU", "cpu_count": 2, "memory_gib": 24}, "vectors": "AVX2",
    }


def goal(kind: goals.Kind, aim: float, *peers: str, case: str = "c") -> Goal:
    return Goal(
        title="A goal", parts=("p",), cases=(case,), kind=kind, ours="hwc w4a16", peers=peers, threads=(1,), aim=aim,
        reasons={"AVX2": "it is hard"},
    )


def judged(one: Goal, *rows: dict[str, Any]) -> dict[str, Any]:
    return goals.judged([one], {"p": {"1": section(*rows)}})[0]


def test_a_speed_up_is_the_median_of_what_rounds_give_against_the_fastest_peer() -> None:
    rows = (
        row("hwc w4a16", "c", [1.0, 2.0, 4.0]), row("peer slow", "c", [9.0, 9.0, 9.0]),
        row("peer fast", "c", [2.0, 4.0, 4.0]),
    )
    told = judged(goal("speedup", 1.9, "peer*"), *rows)
    assert (told["found"]["value"], told["found"]["against"], told["met"]) == (2.0, "peer fast", True)
    assert told["found"]["low"] < 2.0
    assert judged(goal("time", 0.4, "peer*"), *rows)["met"] is False
    assert judged(goal("time", 0.4, "peer*"), *rows)["found"]["value"] == 0.5


def test_who_answers_wrongly_counts_neither_as_peer_nor_for_us() -> None:
    ours, slow = row("hwc w4a16", "c", [2.0, 2.0]), row("peer slow", "c", [4.0, 4.0])
    fast = row("peer fast", "c", [0.1, 0.1], right=False)
    assert judged(goal("speedup", 1.0, "peer*"), ours, slow, fast)["found"]["against"] == "peer slow"
    wrong = judged(goal("speedup", 1.0, "peer*"), row("hwc w4a16", "c", [1.0], right=False), slow)
    assert (wrong["met"], wrong["found"], wrong["missing"]) == (False, None, "hwc w4a16 answers wrongly")


def test_what_was_not_measured_is_never_met_and_says_why() -> None:
    alone = judged(goal("speedup", 1.0, "peer*"), row("hwc w4a16", "c", [1.0]))
    assert alone["missing"] == "none of peer* was measured"
    one = goal("speedup", 1.0, "peer*")
    assert goals.judged([one], {})[0]["missing"] == "p was not measured on 1 thread(s)"
    gone = Goal(**{**{key: getattr(one, key) for key in one.__slots__}, "ours": "gone"})
    assert judged(gone)["missing"] == "it ended"


def test_bandwidth_memory_and_load_are_held_against_what_was_measured_beside_them() -> None:
    memory = {"anonymous_bytes": 10**6, "file_bytes": 0}
    load = {
        "seconds": 0.3, "before": memory, "cache_bytes": 10**7,
        "used": {"anonymous_bytes": 10**6 + 10**7, "file_bytes": 10**8},
    }
    ours = row("hwc w4a16", "c", [5.0, 5.0, 5.0], weight_bytes=4 * 10**7, load=load)
    read = {**row("read bandwidth", "c", [10.0, 10.0, 90.0]), "check": None}
    assert judged(goal("bandwidth", 0.8), ours, read)["found"]["value"] == pytest.approx(0.8)
    assert judged(goal("bandwidth", 0.8), ours, read)["met"]
    assert judged(goal("bandwidth", 0.8), ours)["missing"] == "read bandwidth has no row for c"
    assert judged(goal("memory", 1.0), ours)["found"]["value"] == pytest.approx(1.1e8 / (4.6e7 + 1e7 + 5e7))
    assert not judged(goal("load", 0.2), ours)["met"]


def test_a_line_over_the_used_cache_is_left_by_what_does_not_lie_on_it() -> None:
    def rows(last: float) -> list[dict[str, Any]]:
        return [row("hwc w4a16", f"decode at {at}", [ms]) for at, ms in ((0, 1.0), (500, 2.0), (1000, last))]

    assert judged(goal("linear", 0.05, case="decode at *"), *rows(3.0))["met"]
    assert not judged(goal("linear", 0.05, case="decode at *"), *rows(9.0))["met"]
    assert "2 lengths" in judged(goal("linear", 0.05, case="decode at *"), *rows(3.0)[:2])["missing"]


def test_the_goals_that_are_written_down_name_parts_that_there_are() -> None:
    loaded = goals.load(goals.FILE)
    assert {part for one in loaded for part in one.parts} <= set(parts.PARTS)
    assert {one.kind for one in loaded} == set(goals.KINDS)
    assert len({one.title for one in loaded}) == len(loaded)


def test_a_reason_is_that_of_the_chips_vectors_and_the_parts_own_goes_first() -> None:
    reasons = {"AVX2": "narrow", "AVX2 p": "a large head", "AVX-512": "other"}
    one = Goal(**{**{key: getattr(goal("load", 1), key) for key in Goal.__slots__}, "reasons": reasons})
    told = [one.reason("AVX2", "p"), one.reason("AVX2", "q"), one.reason("AVX-512", "p"), one.reason("baseline", "p")]
    assert told == ["a large head", "narrow", "other", ""]
    assert judged(one)["reason"] == "a large head"


@pytest.mark.parametrize(
    "wrong",
    [
        'kind = "speedup"', 'kind = "fast"\npeers = ["a"]', 'kind = "load"\nwhy = ""', 'kind = "load"\nreason = ""',
        'kind = "load"\nreasons = { "AVX3" = "" }', 'kind = "load"\nreasons = { "AVX2 q" = "" }',
    ],
)
def test_a_goal_that_is_not_well_told_is_refused(tmp_path: Path, wrong: str) -> None:
    common = 'title = "t"\npart = "p"\ncase = "c"\nours = "o"\nthreads = [1]\naim = 1\n'
    (tmp_path / "goals.toml").write_text(f"[[goal]]\n{common}{wrong}\n")
    with pytest.raises(SystemExit, match=r"goals\.toml"):
        goals.load(tmp_path / "goals.toml")


def test_portability_is_the_geometric_mean_over_cases_and_precisions_stay_apart() -> None:
    rows = [
        row("hwc w4a16", "c", [1.0, 1.0]), row("peer", "c", [2.0, 2.0]),
        row("hwc w4a16", "d", [8.0, 8.0]), row("peer", "d", [1.0, 1.0]),
        row("peer", "alone", [1.0]), {**row("hwc fp32", "c", [1.0]), "precision": "float"},
    ]
    (found,) = portability(section(*rows))
    assert (found["precision"], found["worst_case"], found["cases"]) == ("4 bits", "d", 2)
    assert found["mean"] == pytest.approx(2.0)


def facts() -> dict[str, Any]:
    predicted = {"low": 1.0, "base": 2.0, "high": 3.0, "roofline": 0.5}
    one = section(
        row("hwc w4a16", "M = 1 · 2048×8192 g32", [1.0, 2.0, 4.0], predicted=predicted),
        row("ONNX Runtime int4 QDQ", "M = 1 · 2048×8192 g32", [2.0, 2.0, 2.0], right=False),
    )
    told = {"matmul": {"1": one}}
    return {"parts": told, "goals": goals.judged(goals.load(goals.FILE), told)}


def test_the_page_tells_goals_figures_absences_flags_and_a_busy_machine() -> None:
    page = bench_page.page("a-cpu-avx2", facts(), pictures=("matmul",))
    assert "![Single products: milliseconds a call](../../images/bench-a-cpu-avx2-matmul.svg)" in page
    assert page.startswith("# Bench: speed on A CPU, AVX2\n")
    assert "| M = 1 · 2048×8192 g32 | hwc w4a16 | 1 | 2 | 1.2–3.6 | 3 | 0.99900 |  | 2 [1, 3] | 0.5 |" in page
    assert "**wrong** 0.99900" in page
    assert "- Not there: gone: it ended" in page
    assert "- llama: system_info `AVX512 = 1`" in page
    assert "10.0 GB/s [5.6, 10.0], best 10.0 (C)" in page
    assert page.count("The machine was busy") == 1
    assert "0 of " in page
    assert "encoders was not measured on 1 thread(s)" in page
    widths = {line.count("|") for line in page.splitlines() if line.startswith(("| Goal", "| W4A16", "| CNN"))}
    assert widths == {10}


def test_without_a_calibration_the_weights_at_the_bandwidth_that_was_read_are_the_roofline() -> None:
    ours = row("hwc w4a16", "decode at 128", [50.0], weight_bytes=2 * 10**8)
    rows = [ours, row("llama.cpp", "decode at 128", [60.0])]
    told = {"smollm2": {"1": section(*rows)}, "encoders": {"1": section(*rows)}}
    page = bench_page.page("a-cpu-avx2", {"parts": told, "goals": []}, pictures=())
    assert page.count("|  | ≥ 20 |") == 1
    assert page.index("≥ 20 |") > page.index("## SmolLM2")


def test_the_picture_holds_a_mark_for_every_row_and_a_ring_for_a_wrong_one() -> None:
    drawn = bench_plots.pictures(facts()["parts"])
    root = ET.fromstring(drawn["matmul"])
    circles = [mark for mark in root.iter() if mark.tag.endswith("circle")]
    assert [mark.get("stroke") for mark in circles] == [None, bench_plots.WRONG]
    assert bench_plots.pictures({"cnn": {"1": section()}}) == {}
