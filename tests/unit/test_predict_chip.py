"""Arrays, memory and overheads add up as they do by hand, and what a descriptor does not tell is named."""

from __future__ import annotations

import pytest
from predicted_parts import npu, product

from hwc.errors import UsageError
from hwc.predict import chip, roofline, whole
from hwc.predict.array import cycles, pipelined
from hwc.predict.chip import Array
from hwc.predict.traffic import passing, reread
from hwc.predict.whole import Exchange

ARRAY = Array(count=1, rows=128, columns=128)
AMPLE = {
    "sram": {"level": 1, "size_bytes": 1 << 30},
    "dram": {"level": 2, "size_bytes": 1 << 40, "read_bytes_per_s": 1e18},
}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((128, 8192, 2048), 128 + 1024 * 128 + 254),  # tiles stream 128 rows each, as long as their load
        ((1, 2048, 2048), 128 + 255 * 128 + 1 + 254),  # one row: loading tiles is all there is to do
        ((4096, 128, 128), 128 + 4096 + 254),
        ((256, 128, 192), 96 + 2 * 256 + (96 + 128 - 2)),  # 192 rows are two tiles of 96
    ],
)
def test_cycles_of_a_product_are_those_counted_by_hand(shape: tuple[int, int, int], expected: int) -> None:
    m, n, k = shape
    assert cycles(ARRAY, m, n, k).total == pytest.approx(expected)


def test_without_overlap_each_tile_takes_its_load_and_its_work() -> None:
    assert cycles(ARRAY, 10, 128, 256, overlap=False).total == 2 * (10 + 128) + 254


def test_arrays_share_the_tiles_of_a_product() -> None:
    one, four = (cycles(Array(count=count, rows=128, columns=128), 512, 1024, 1024) for count in (1, 4))
    assert one.steady == pytest.approx(4 * four.steady)


def test_operands_that_come_late_delay_the_first_pass_alone() -> None:
    assert pipelined(80, 8, 15, 16) == max(10, 15 + 2) + 7 * 10
    assert pipelined(80, 8, 0, 160) == 8 * 20  # memory bounds every pass


def test_an_operand_is_read_again_for_each_block_of_the_other_that_fits() -> None:
    assert reread(100, 1000, 100) == (1, 1)
    assert reread(300, 1000, 100) == (1, 3)  # 300 + 3·1000 < 10·300 + 1000
    assert reread(300, 400, 100) == (1, 3)
    assert reread(1000, 300, 100) == (3, 1)


def test_weights_come_from_outside_and_small_activations_do_not() -> None:
    base = chip.corners(npu())["base"]
    found = passing(product(64, 4096, 4096), base, resident=False)
    assert found.outer == 2 * 4096 * 4096
    assert passing(product(64, 4096, 4096), base, resident=True).outer == 0


def test_a_product_in_one_row_is_bound_by_its_weights_traffic() -> None:
    base = chip.corners(npu())["base"]
    found = roofline.cost(product(1, 4096, 4096), base, "best", resident=False)
    assert found.bound == "memory"
    ends_s = (128 + 254) * 1e-9
    assert found.seconds == pytest.approx(2 * 4096 * 4096 / 100e9 + ends_s + 2e-6, rel=1e-3)


def test_a_long_product_is_bound_by_the_array_and_pays_for_partial_tiles() -> None:
    base = chip.corners(npu(memories=AMPLE))["base"]
    whole_tiles, partial = (
        roofline.cost(product(8192, n, 1024), base, "best", resident=False) for n in (1024, 1032)
    )
    assert whole_tiles.bound == "compute"
    assert whole_tiles.compute_s == pytest.approx(2 * 8192 * 1024 * 1024 / 32.768e12, rel=0.01)
    assert partial.compute_s / whole_tiles.compute_s == pytest.approx(9 / 8, rel=0.01)


def test_a_type_without_a_rate_takes_that_of_the_next_wider_one_and_says_so() -> None:
    base = chip.corners(npu())["base"]
    narrow = roofline.cost(product(64, 256, 256, weights="int4"), base, "base", resident=False)
    assert (narrow.peak.weights, narrow.widened) == ("bfloat16", True)
    wide = roofline.cost(
        product(64, 256, 256, activations="float32", weights="float32"), base, "base", resident=False
    )
    assert (wide.peak.unit, wide.widened) == ("simd", False)
    with pytest.raises(UsageError, match="no unit has a rate for float64"):
        roofline.cost(product(1, 1, 1, activations="float64", weights="float64"), base, "base", resident=False)


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"units": None}, "hardware.units"),
        ({"memories": None}, "hardware.memories"),
        ({"memories": {"dram": {"level": 1, "size_bytes": 1e9}}}, "hardware.memories.dram.read_bytes_per_s"),
    ],
)
def test_a_figure_without_which_there_is_no_answer_is_refused_by_its_key(changed: dict[str, object], key: str) -> None:
    with pytest.raises(UsageError, match=f"does not tell `{key}`"):
        chip.corners(npu(**changed))


def test_figures_that_feed_a_part_of_an_answer_are_named_when_they_are_absent() -> None:
    absent = chip.missing(npu(overheads=None, power=None), joined=False)
    assert {"hardware.overheads.dispatch_s", "hardware.overheads.invocation_s", "hardware.power.tdp_w"} <= set(absent)
    assert whole.predict([product(1, 64, 64)], chip.corners(npu(power=None))).energy_j is None


def test_assumed_figures_spread_the_answer_and_name_its_method() -> None:
    spread = {"dispatch_s": {"low": 1e-6, "base": 2e-6, "high": 50e-6}}
    narrow, wide = (whole.predict([product(1, 64, 64)], chip.corners(one)) for one in (npu(), npu(overheads=spread)))
    assert wide.seconds.high - wide.seconds.low > narrow.seconds.high - narrow.seconds.low
    assert whole.predict([product(1, 64, 64)], chip.corners(npu()), assumed=True).method == "assumed"
    assert narrow.method == "estimated"


def test_a_ring_of_chips_sends_twice_the_bytes_but_a_share_and_waits_for_each_step() -> None:
    base = chip.corners(npu())["base"]
    exchange = Exchange(count=10, each_bytes=1e6, chips=4)
    assert exchange.bytes_per_chip == 10 * 1e6 * 2 * 3 / 4
    assert exchange.seconds(base) == pytest.approx(10 * 6 * (1e6 / 4 / 50e9 + 1e-6))
    assert Exchange(count=10, each_bytes=1e6).seconds(base) == 0


def test_energy_by_level_is_the_sum_of_arithmetic_and_traffic() -> None:
    rate = {
        "activations": "bfloat16", "weights": "bfloat16", "accumulator": "float32", "flop_per_s": 1e12,
        "pj_per_flop": 0.5,
    }
    told = npu(
        units={"npu": {"kind": "matrix", "rates": [rate]}},
        memories={"dram": {"level": 1, "size_bytes": 1e9, "read_bytes_per_s": 1e11, "read_pj_per_byte": 40}},
    )
    found = whole.predict([product(4, 256, 256)], chip.corners(told))
    moved = 2 * (4 * 256 + 256 * 256 + 4 * 256)
    assert found.energy_method == "by level"
    assert found.energy_j is not None
    assert found.energy_j.base == pytest.approx((2 * 4 * 256 * 256 * 0.5 + moved * 40) * 1e-12)
