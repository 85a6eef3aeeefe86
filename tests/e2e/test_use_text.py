"""MiniLM in use: any number of texts, of any length, embedded as the float model embeds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from use_parts import cosine

import hwc
from hwc.errors import UsageError

if TYPE_CHECKING:
    from command import Cli

pytestmark = pytest.mark.slow

PAIRS = [
    ("The cat sleeps on the sofa.", "A kitten is napping on the couch."),
    ("How do I reset my password?", "I forgot my password and need a new one."),
    ("The stock market fell sharply today.", "Shares dropped steeply this afternoon."),
]
LONG = "The committee discussed the budget of the next year in great detail. " * 40
TEXTS = [text for pair in PAIRS for text in pair] + [LONG, "Rain.", "An embedding of a short sentence."]
FLOORS = {"fp32": 0.99999, "w4a16": 0.93}


@pytest.fixture(scope="module")
def minilm(shared_mlp: Cli, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    folder = tmp_path_factory.mktemp("minilm")
    cli = type(shared_mlp)(home=folder / "home", store=folder / "store", cwd=folder)
    schemes = [part for scheme in FLOORS for part in ("-q", scheme)]
    cli("build", "minilm", "-t", "llvm-cpu-host", *schemes, "--smoke").ok()
    return cli


@pytest.fixture(scope="module")
def fp32(minilm: Cli) -> hwc.Model:
    return hwc.open("minilm:dev#llvm-cpu-host/fp32", store=minilm.store)


@pytest.fixture(scope="module")
def expected(minilm: Cli) -> np.ndarray:
    """Return what ONNX Runtime makes of the captured graph, one text at a time at its own length."""
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    from hwc import onnx_io
    from hwc.capture.simplify import session

    captured = next(Path(minilm.home).glob("store/capture/*"))
    opened = session(
        onnx_io.attach(onnx_io.load_graph(captured / "graph.onnx"), dict(load_file(captured / "weights.safetensors")))
    )
    tokenizer = Tokenizer.from_file(str(captured / "tokenizer" / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=128)
    rows = []
    for text in TEXTS:
        ids = np.asarray([tokenizer.encode(text).ids], np.int64)
        rows.append(opened.run(["sentence_embedding"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0])
    return np.stack(rows)


@pytest.mark.parametrize("count", [1, 3, 9])
def test_any_number_of_texts_is_embedded_as_onnx_runtime_does(count: int, fp32: hwc.Model, expected) -> None:
    got = fp32.run(TEXTS[:count])["sentence_embedding"]
    np.testing.assert_allclose(got, expected[:count], atol=1e-5)


def test_a_text_longer_than_the_largest_shape_is_cut_to_it(fp32: hwc.Model, expected) -> None:
    got = fp32.run([LONG])["sentence_embedding"]
    np.testing.assert_allclose(got, expected[TEXTS.index(LONG)][None], atol=1e-5)
    assert fp32.tokenise([LONG])["input_ids"].shape == (1, 128)


@pytest.mark.parametrize("scheme", FLOORS)
def test_every_scheme_stays_close_to_the_float_model(scheme: str, minilm: Cli, expected) -> None:
    got = hwc.open(f"minilm:dev#llvm-cpu-host/{scheme}", store=minilm.store).run(TEXTS)["sentence_embedding"]
    assert min(cosine(left, right) for left, right in zip(got, expected, strict=True)) > FLOORS[scheme]


@pytest.mark.parametrize("scheme", FLOORS)
def test_a_paraphrase_is_nearer_than_any_other_sentence(scheme: str, minilm: Cli) -> None:
    model = hwc.open(f"minilm:dev#llvm-cpu-host/{scheme}", store=minilm.store)
    vectors = model.run([text for pair in PAIRS for text in pair])["sentence_embedding"]
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -1)
    assert similarity.argmax(axis=1).tolist() == [1, 0, 3, 2, 5, 4]


@pytest.mark.parametrize("texts", [[], "one text", [1, 2], {"input_ids": np.ones((1, 8), np.int64)}])
def test_what_is_no_list_of_texts_is_refused(texts, fp32: hwc.Model) -> None:
    with pytest.raises(UsageError):
        fp32.run(texts)


def test_the_command_line_prints_embeddings_as_json(minilm: Cli, expected) -> None:
    texts = ["--text", TEXTS[0], "--text", TEXTS[1]]
    ran = minilm("run", "minilm:dev#llvm-cpu-host/fp32", *texts, "--format", "json").ok()
    np.testing.assert_allclose(json.loads(ran.stdout)["sentence_embedding"], expected[:2], atol=1e-5)
