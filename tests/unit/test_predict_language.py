"""The work of a decoder follows from its shape: parameters, arithmetic, cache and division over chips."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from predicted_parts import LLAMA_70B, npu

from hwc.errors import IntegrityError, UsageError
from hwc.predict import answer, language, shape, whole
from hwc.predict.answer import Setting
from hwc.predict.efficiency import Calibration, Efficiency
from hwc.predict.language import decode, prefill
from hwc.predict.operation import Operation
from hwc.predict.storage import storage
from hwc.quantise import scheme
from hwc.spec import strict
from hwc.spec.prices import PriceTable

HALF = storage(None, "float16")
PRICES = strict.load(Path(__file__).parents[2] / "targets" / "prices" / "2026-11.toml", PriceTable)


def total(operations: tuple[Operation, ...], field: str) -> float:
    return sum(one.count * float(getattr(one, field)) for one in operations)


def test_parameters_and_cache_of_a_published_model() -> None:
    assert LLAMA_70B.parameters == pytest.approx(68.98e9, rel=1e-3)
    assert language.kv_bytes(LLAMA_70B, HALF, 1, 4096) == 4096 * 2 * 80 * 8 * 128 * 2
    assert language.weight_bytes(LLAMA_70B, HALF) == 2 * LLAMA_70B.parameters


def test_a_token_takes_two_operations_for_each_weight_that_it_meets() -> None:
    found = language.operations(LLAMA_70B, decode(1, 1), HALF)
    products = [one for one in found if one.op == "matmul"]
    met = LLAMA_70B.parameters - LLAMA_70B.vocabulary * LLAMA_70B.hidden  # of the embedding one row is read
    assert total(tuple(products), "flops") == 2 * met
    assert total(tuple(products), "weight_bytes") == 2 * met


def test_a_causal_prompt_attends_to_half_of_its_pairs() -> None:
    found = [one for one in language.operations(LLAMA_70B, prefill(1, 1000), HALF) if one.op == "attention"]
    assert total(tuple(found), "flops") == 4 * 80 * 64 * 128 * (1000 * 1001 // 2)


def test_pairs_within_a_window_are_those_counted_one_by_one() -> None:
    sliding = replace(LLAMA_70B, windows=(7,) * 80)
    (found,) = (one for one in language.operations(sliding, prefill(1, 50), HALF) if one.op == "attention")
    assert found.flops == 4 * 64 * 128 * sum(min(7, token + 1) for token in range(50))


def test_a_window_bounds_what_a_layer_reads_and_keeps() -> None:
    sliding = replace(LLAMA_70B, windows=(512,) * 40)
    read = [one for one in language.operations(sliding, decode(1, 4096), HALF) if one.op == "attention"]
    assert sorted(one.n for one in read) == [512, 4096]
    assert language.kv_bytes(sliding, HALF, 1, 4096) == 2 * 8 * 128 * 2 * 40 * (512 + 4096)


def test_chips_divide_the_matrices_and_the_cache() -> None:
    one, eight = (language.operations(LLAMA_70B, decode(4, 2048), HALF, chips=chips) for chips in (1, 8))
    for op in ("matmul", "attention"):
        shares = [total(tuple(row for row in found if row.op == op), "flops") for found in (one, eight)]
        assert shares[0] == pytest.approx(8 * shares[1])


def test_a_mixture_reads_the_experts_that_its_tokens_choose() -> None:
    mixture = replace(LLAMA_70B, experts=8, experts_per_token=2)
    single, many = (
        total(tuple(one for one in language.operations(mixture, decode(batch, 64), HALF) if one.name == "down"),
              "weight_bytes")
        for batch in (1, 256)
    )
    assert many == 4 * single
    assert single == 2 * 80 * LLAMA_70B.hidden * LLAMA_70B.inner * 2


def test_packed_weights_are_fewer_bytes_and_faster_tokens() -> None:
    packed = storage(scheme.find("w4a16"), "bfloat16")
    assert packed.linears.bits == 4.5
    full, small = (
        answer.of_language(LLAMA_70B, [decode(1, 128)], stored, Setting(target=npu(), prices=PRICES))
        for stored in (storage(None, "bfloat16"), packed)
    )
    ratio = full.rows[0].seconds.base / small.rows[0].seconds.base
    assert 2 < ratio < 16 / 4.5  # tables stay in float, and the array takes as long to load its tiles


@pytest.mark.parametrize(
    ("name", "activations"),
    [("w4a16", "float16"), ("w4a8", "int8"), ("fp8", "float16"), ("fp8-static", "float8_e4m3fn")],
)
def test_products_take_the_type_that_a_scheme_rounds_activations_to(name: str, activations: str) -> None:
    stored = storage(scheme.find(name), "float16")
    products = [one for one in language.operations(LLAMA_70B, decode(1, 8), stored) if one.weights]
    linears = {one.activations for one in products if one.weights == stored.linears.element}
    assert linears == {activations}


def test_a_model_larger_than_the_chips_memory_is_told_not_to_fit() -> None:
    calls = [decode(1, 128)]
    alone, joined = (
        answer.of_language(LLAMA_70B, calls, storage(None, "bfloat16"), Setting(target=npu(), prices=PRICES, chips=n))
        for n in (1, 8)
    )
    assert [alone.rows[0].fits, joined.rows[0].fits] == [False, True]
    assert joined.rows[0].call.parts["link"] > 0


def test_chips_that_are_not_joined_or_too_many_are_refused_by_key() -> None:
    stored = storage(None, "bfloat16")
    with pytest.raises(UsageError, match=r"hardware\.links"):
        answer.of_language(
            LLAMA_70B, [decode(1, 1)], stored, Setting(target=npu(links=None), prices=PRICES, chips=2)
        )
    with pytest.raises(UsageError, match="joins 8 chips, not 16"):
        answer.of_language(LLAMA_70B, [decode(1, 1)], stored, Setting(target=npu(), prices=PRICES, chips=16))


def test_a_prediction_costs_each_operation_once_a_corner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time does not grow with layers or tokens: equal operations are one."""
    asked: list[str] = []
    known = whole.cost

    def counted(operation: Operation, *rest: Any, **named: Any) -> object:
        asked.append(operation.name)
        return known(operation, *rest, **named)

    monkeypatch.setattr(whole, "cost", counted)
    setting = Setting(target=npu(), prices=PRICES)
    for layers, context in ((2, 64), (200, 100_000)):
        asked.clear()
        deep = replace(LLAMA_70B, layers=layers)
        answer.of_language(deep, [decode(1, context)], storage(None, "bfloat16"), setting)
        assert len(asked) <= 3 * 16


@pytest.mark.parametrize(
    ("changed", "error", "told"),
    [
        ({"hidden_size": None}, UsageError, "hidden_size"),
        ({"num_hidden_layers": -3}, IntegrityError, "not a count"),
        ({"num_hidden_layers": "many"}, IntegrityError, "not a count"),
    ],
)
def test_a_configuration_that_tells_no_decoder_is_an_error(
    changed: dict[str, object], error: type[Exception], told: str, tmp_path: Path
) -> None:
    config = {
        "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
        "vocab_size": 100,
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert shape.of_config(path).head_dim == 16
    path.write_text(json.dumps({**config, **changed}))
    with pytest.raises(error, match=told):
        shape.of_config(path)
    path.write_text("{")
    with pytest.raises(IntegrityError, match="not JSON"):
        shape.of_config(path)


def test_a_calibrated_machine_needs_no_figures_and_its_answer_says_calibrated() -> None:
    fitted = [
        Efficiency(
            op=op, weights=None, quantised=False, resident=False, compute=0.5, memory=0.8, low=0.9, high=1.2, samples=9
        )
        for op in ("matmul", "attention", "normalisation", "elementwise", "gather")
    ]
    calibration = Calibration(
        target="npu", machine={"fingerprint": "x"}, measured_utc="2026-11-24T00:00:00Z", flop_per_s=1e11,
        bytes_per_s=2e10, cache_bytes=0, dispatch_s=1e-6, invocation_s=1e-5, classes=tuple(fitted),
        data_sha256="sha256:0", held_out={}, conditions={}, versions={},
    )
    bare = Setting(target=npu(units=None, memories=None), prices=PRICES, calibration=calibration)
    found = answer.of_language(LLAMA_70B, [decode(1, 128)], storage(None, "float32"), bare)
    (row,) = found.rows
    assert (found.method, found.assumed, found.widened) == ("calibrated", (), ())
    assert row.seconds.low < row.seconds.base < row.seconds.high
    assert row.seconds.base > found.weight_bytes / 2e10  # past the measured bandwidth nothing is faster
    assert row.call.energy_method == "at most: TDP × time"
