"""Several texts side by side: each row of a batch goes on as it does alone, whatever the lengths of the others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from language_parts import greedy, language_toml

import hwc
from command import Cli

BATCH, CONTEXT = 4, 64


@pytest.fixture(scope="module")
def batched(language: Cli, tmp_path_factory: pytest.TempPathFactory) -> tuple[hwc.Model, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("batches")
    text = language_toml(
        "tiny-batches", language.cwd / "tiny-llama",
        generation={"context_tokens": CONTEXT, "prefill_tokens": [16], "score_tokens": 16, "batches": [1, BATCH]},
    )
    (folder / "tiny-batches.toml").write_text(text)
    own = Cli(home=language.home, store=folder / "store", cwd=folder)
    ran = own("build", "tiny-batches.toml", "-t", "llvm-cpu-host", "-q", "fp32", "--format", "json").ok()
    return hwc.open("tiny-batches", store=own.store), ran.json()[0]["variants"][0]


def test_every_shape_of_a_batch_is_checked_against_onnx_runtime(batched: tuple[hwc.Model, dict[str, Any]]) -> None:
    told = {row["metric"]: row for row in batched[1]["quality"]}
    assert told["parity_max_abs"]["value"] < 1e-4
    assert told["greedy_tokens"]["value"] == 41  # as many as the cache has room for behind a prompt of 24
    assert {cell["batch"] for cell in batched[1]["profile"]["decode"]} == {1, BATCH}
    assert batched[1]["resources"]["max_num_seqs"] == BATCH


@pytest.mark.parametrize("lengths", [(3, 30, 17, 1), (16, 16, 16, 16), (40, 2, 5), (5, 9, 20, 33, 4, 7)])
def test_rows_go_on_as_torch_goes_on_with_each_alone(
    lengths: tuple[int, ...], batched: tuple[hwc.Model, dict[str, Any]], language: Cli
) -> None:
    rng = np.random.default_rng(sum(lengths))
    prompts = [rng.integers(0, 250, length).tolist() for length in lengths]
    found = batched[0].generate_all(prompts, max_new_tokens=12)
    assert len(found) == len(prompts)
    for prompt, generation in zip(prompts, found, strict=True):
        assert len(generation.token_ids) == 12 or generation.finish == "stop"
        due = greedy(language.cwd / "tiny-llama", prompt, len(generation.token_ids))
        assert list(generation.token_ids) == due


def test_a_batch_knows_nothing_of_the_one_before(batched: tuple[hwc.Model, dict[str, Any]]) -> None:
    model = batched[0]
    prompts = ["one", "two and more", "three", "four"]
    first = [one.token_ids for one in model.generate_all(prompts, max_new_tokens=8)]
    model.generate_all(["a text of other words, longer than any of those before it"] * BATCH, max_new_tokens=8)
    assert [one.token_ids for one in model.generate_all(prompts, max_new_tokens=8)] == first
