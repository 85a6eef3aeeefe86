"""Gates hold serving metadata against bounds and baselines; what cannot be judged is said not to be."""

import copy
import math
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from test_serving_schema import verified

from hwc.bundle.gates import Verdict, hold
from hwc.bundle.regression import growth_interval
from hwc.bundle.serving import Serving, parse_serving
from hwc.errors import UsageError
from hwc.pipeline import ci
from hwc.spec.model import Gates, Regression

PARITY = 5e-5
MACHINE = "sha256:" + "cd" * 32


def document(**metrics: float) -> dict[str, Any]:
    made = copy.deepcopy(verified())
    values = {"parity_max_abs": 1e-7, "max_abs": 0.01, "cosine_mean": 0.99, **metrics}
    made["quality"] = [
        {"metric": name, "reference": "float32", "value": value, "method": "measured"} for name, value in values.items()
    ]
    made["profile"]["conditions"]["machine_sha256"] = MACHINE
    return made


def serving(**metrics: float) -> Serving:
    return parse_serving(document(**metrics))


def with_cell(change: dict[str, Any], latency: dict[str, Any] | None = None) -> Serving:
    made = document()
    cell = made["profile"]["request"][0]
    cell.update(change)
    cell["latency_ms"].update(latency or {})
    return parse_serving(made)


def missed(verdicts: list[Verdict]) -> list[str]:
    return [verdict.told for verdict in verdicts if verdict.outcome == "missed"]


@pytest.mark.parametrize(
    ("metrics", "gates", "told"),
    [
        ({"parity_max_abs": 1e-3}, Gates(), "max abs 1.00e-03 to ONNX Runtime"),
        ({"cosine_mean": 0.98}, Gates(cosine_mean_min=0.99), "cosine_mean 0.9800, at least 0.99"),
        ({}, Gates(top1_min=0.5), "the evaluator does not measure it"),
        ({"max_abs": 2e-5}, Gates(max_abs=1e-5), "max abs 2.00e-05 to the float model"),
        ({}, Gates(bits_per_parameter_max=4.0), "bits per parameter, at most 4"),
        ({}, Gates(weights_bytes_max=1000), "bytes of weights, at most 1000"),
        ({"own": 1.0}, Gates(metrics_min={"own": 2.0}), "own 1.0000, at least 2"),
        ({"kl_mean": 0.09}, Gates(kl_mean_max=0.06), "kl_mean 0.0900, at most 0.06"),
        ({"kl_mean": 2e-4}, Gates(kl_mean_max=1e-4), "kl_mean 2.00e-04, at most 0.0001"),
        ({"kl_p99": 1.5}, Gates(kl_p99_max=1.0), "kl_p99 1.5000, at most 1"),
        ({"kl_vs_rtn": 0.6}, Gates(kl_vs_rtn_max=0.5), "kl_vs_rtn 0.6000, at most 0.5"),
        ({"perplexity_ratio": 1.1}, Gates(perplexity_ratio_max=1.05), "perplexity_ratio 1.1000, at most 1.05"),
        ({"greedy_tokens": 7}, Gates(greedy_tokens_min=64), "greedy_tokens 7.0000, at least 64"),
        ({}, Gates(kl_mean_max=0.06), "kl_mean is gated at 0.06, but the evaluator does not measure it"),
        ({}, Gates(p99_ms_max=10.0), "p99 11 ms, at most 10 ms"),
        ({}, Gates(usd_per_million_items_max=0.01), "0.02 USD per million items"),
    ],
)
def test_a_missed_gate_is_told_with_its_figure(metrics, gates, told):
    found = missed(hold(serving(**metrics), gates, parity_max_abs=PARITY))
    assert len(found) == 1
    assert told in found[0]


def test_figures_at_their_bounds_pass():
    gates = Gates(cosine_mean_min=0.99, max_abs=0.01, p99_ms_max=11.0, usd_per_million_items_max=0.02)
    verdicts = hold(serving(parity_max_abs=PARITY), gates, parity_max_abs=PARITY)
    assert {verdict.outcome for verdict in verdicts} == {"passed"}
    assert len(verdicts) == 5


def test_a_noisy_shape_is_not_judged_and_a_latency_gate_never_passes_for_want_of_a_quiet_one():
    verdicts = hold(with_cell({"valid": False}), Gates(p99_ms_max=1.0), parity_max_abs=PARITY)
    assert [verdict.outcome for verdict in verdicts if verdict.gate.startswith("p99")] == ["unjudged", "missed"]


def language(timed: bool = True, **change: Any) -> Serving:
    made = document()
    latency = made["profile"]["request"][0]["latency_ms"]
    rest = {"batch": 1, "tok_s": 100.0, "valid": True, "method": "measured", **change}
    made["profile"]["request"] = []
    if timed:
        made["profile"]["prefill"] = [{"isl": 128, "ttft_ms": latency, **rest}]
        made["profile"]["decode"] = [{"context": 512, "itl_ms": latency, **rest}]
    else:
        del made["provenance"]["tier"]["latency"]
    return parse_serving(made)


def latency_verdicts(found: Serving, bound: float) -> list[tuple[str, str]]:
    gates = Gates(ttft_p99_ms_max=bound, itl_p99_ms_max=bound)
    verdicts = hold(found, gates, parity_max_abs=PARITY)
    return [(verdict.gate, verdict.outcome) for verdict in verdicts if "p99" in verdict.gate]


def test_what_a_functional_device_does_not_tell_is_unjudged_and_what_it_tells_is_judged():
    gates = Gates(kl_mean_max=0.06, greedy_tokens_min=4)
    for tokens, outcome in ((4, "passed"), (3, "missed")):
        verdicts = hold(serving(greedy_tokens=tokens), gates, parity_max_abs=PARITY, functional=True)
        told = {verdict.gate: verdict.outcome for verdict in verdicts}
        assert told == {"parity": "passed", "kl_mean": "unjudged", "greedy_tokens": outcome}


@pytest.mark.parametrize(("bound", "outcome"), [(11.0, "passed"), (10.9, "missed")])
def test_time_to_first_token_and_between_tokens_are_judged_on_their_own_cells(bound, outcome):
    assert latency_verdicts(language(), bound) == [
        ("ttft_p99_ms batch 1, prompt 128", outcome),
        ("itl_p99_ms batch 1, context 512", outcome),
    ]


def test_token_latencies_that_are_noisy_or_were_never_measured_do_not_pass():
    assert [outcome for _, outcome in latency_verdicts(language(valid=False), 99.0)] == ["unjudged", "missed"] * 2
    assert latency_verdicts(language(timed=False), 99.0) == [("ttft_p99_ms", "unjudged"), ("itl_p99_ms", "unjudged")]


def with_intervals(**rows: tuple[float, float]) -> Serving:
    """Return a document whose metrics have a value and a 95 % half-interval."""
    made = document(**{name: value for name, (value, _) in rows.items()})
    for row in made["quality"]:
        if row["metric"] in rows:
            value, half = rows[row["metric"]]
            row["ci95"] = [value - half, value + half]
    return parse_serving(made)


@pytest.mark.parametrize(("ratio", "flagged"), [(0.96, True), (0.99, False), (1.04, False)])
def test_a_gain_over_the_float_model_beyond_chance_is_noted_and_misses_no_gate(ratio, flagged):
    found = with_intervals(perplexity_ratio=(ratio, 1.96 * 0.01))  # a standard error of 0.01
    verdicts = hold(found, Gates(perplexity_ratio_max=1.1), parity_max_abs=PARITY)
    noted = [verdict.gate for verdict in verdicts if verdict.outcome == "unjudged"]
    assert noted == (["perplexity_ratio plausibility"] if flagged else [])
    assert not missed(verdicts)


def test_a_metrics_interval_is_told_beside_it():
    found = missed(hold(with_intervals(kl_mean=(0.09, 0.01)), Gates(kl_mean_max=0.06), parity_max_abs=PARITY))
    assert found == ["kl_mean 0.0900 (95 %: 0.0800 … 0.1000), at most 0.06"]


def test_another_models_baseline_is_refused():
    other = document()
    other["identity"]["model_id"] = "mlp"
    with pytest.raises(UsageError, match="baseline is of model mlp"):
        hold(serving(), Gates(), parity_max_abs=PARITY, baseline=parse_serving(other))


def _regression(before: Serving, after: Serving, **bounds: float) -> list[Verdict]:
    verdicts = hold(after, Gates(regression=Regression(**bounds)), parity_max_abs=PARITY, baseline=before)
    return [verdict for verdict in verdicts if "baseline" in verdict.gate]


def test_a_slow_down_beyond_its_interval_is_missed_and_one_within_noise_is_not():
    slower = with_cell({}, {"mean": 9.0, "ci95": [8.9, 9.1]})
    assert [v.outcome for v in _regression(serving(), slower, latency_growth_max=0.05)] == ["missed"]
    noisy = with_cell({}, {"mean": 9.0, "std": 20.0, "ci95": [6.0, 12.0]})
    assert [v.outcome for v in _regression(serving(), noisy, latency_growth_max=0.05)] == ["passed"]


def test_another_machines_latency_is_refused_as_a_baseline_and_said_so():
    other = document()
    other["profile"]["conditions"]["machine_sha256"] = "sha256:" + "ef" * 32
    found = _regression(parse_serving(other), serving(), latency_growth_max=0.05)
    assert [v.outcome for v in found] == ["unjudged"]
    assert "another machine" in found[0].told


def test_quality_size_and_cost_regressions_are_missed():
    worse = document(cosine_mean=0.9)
    worse["resources"]["weights_bytes"] = 15_000_000
    worse["cost"]["usd_per_million_items"][0]["usd"] = {"low": 0.03, "base": 0.03, "high": 0.04}
    found = _regression(
        serving(), parse_serving(worse), quality_drop_max=0.01, size_growth_max=0.01, cost_growth_max=0.1
    )
    assert [(v.gate, v.outcome) for v in found] == [
        ("cosine_mean against baseline", "missed"),
        ("size against baseline", "missed"),
        ("cost against baseline", "missed"),
    ]


@pytest.mark.parametrize(
    ("metric", "before", "after", "outcome"),
    [
        ("kl_mean", 0.05, 0.08, "missed"),
        ("kl_mean", 0.08, 0.05, "passed"),
        ("kl_p99", 0.5, 0.8, "missed"),
        ("perplexity_ratio", 1.02, 1.05, "missed"),
        ("perplexity_ratio", 1.05, 1.02, "passed"),
        ("top1", 0.9, 0.87, "missed"),
        ("top1", 0.87, 0.9, "passed"),
    ],
)
def test_each_language_metric_gets_worse_in_its_own_direction(metric, before, after, outcome):
    found = _regression(serving(**{metric: before}), serving(**{metric: after}), quality_drop_max=0.01)
    assert [v.outcome for v in found if v.gate == f"{metric} against baseline"] == [outcome]


def test_token_latencies_are_held_against_those_of_a_baseline_cell_by_cell():
    found = _regression(language(), language(), latency_growth_max=0.1)
    told = {verdict.gate: verdict.outcome for verdict in found if "latency" in verdict.gate}
    assert told == {
        "latency decode_b1_n512 against baseline": "passed", "latency prefill_b1_n128 against baseline": "passed",
    }


def test_the_growth_interval_is_welchs():
    told = serving().profile.request[0].latency_ms
    low, high = growth_interval(told, told)
    half = 1.96 * math.sqrt(2 * 0.4**2 / 200) / 8.2
    assert (low, high) == pytest.approx((-half, half))


def test_junit_counts_and_names_every_gate():
    verdicts = [
        Verdict(variant="cpu/fp32", gate="parity", outcome="passed", told="fine"),
        Verdict(variant="cpu/fp8", gate="cosine_mean", outcome="missed", told="0.9 < 0.99 & <bad>"),
        Verdict(variant="cpu/fp8", gate="p99_ms", outcome="unjudged", told="too noisy"),
    ]
    suite = ET.fromstring(ci.junit("minilm", verdicts)).find("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    assert suite.find("testcase/failure").get("message") == "0.9 < 0.99 & <bad>"
    assert [case.get("classname") for case in suite] == ["minilm.cpu/fp32", "minilm.cpu/fp8", "minilm.cpu/fp8"]


def test_the_summary_puts_missed_gates_first_and_keeps_its_table_whole():
    verdicts = [
        Verdict(variant="cpu/fp32", gate="parity", outcome="passed", told="fine"),
        Verdict(variant="cpu/fp8", gate="cosine", outcome="missed", told="a | b"),
    ]
    lines = ci.summary("minilm", verdicts).splitlines()
    assert lines[4].startswith("| ❌ | cpu/fp8")
    assert r"a \| b" in lines[4]
