"""Models given as bare paths: what is inferred, what is refused, and what is written down."""

import json
from pathlib import Path

import pytest

from hwc.errors import HwcError, IntegrityError, UsageError
from hwc.spec.infer import find, infer, is_path, name_from, relocated, to_toml
from hwc.spec.model import HuggingFaceSource, OnnxSource
from hwc.spec.project import find_model, open_project

BERT = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": 99,
    "pad_token_id": 3,
    "max_position_embeddings": 64,
}
ST_MODULES = [{"type": f"sentence_transformers.models.{kind}"} for kind in ("Transformer", "Pooling", "Normalize")]


def hf_folder(root: Path, config: object = BERT, *, weights: str = "model.safetensors", **extra: object) -> Path:
    folder = root / "My Model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for name, value in extra.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    if weights:
        (folder / weights).write_bytes(b"")
    return folder


def refusal(kind: type[HwcError], path: object) -> HwcError:
    with pytest.raises(kind) as caught:
        infer(str(path))
    return caught.value


# Hugging Face folders


def test_a_sentence_transformers_folder_becomes_a_sentence_encoder(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path, modules=ST_MODULES, sentence_bert_config={"max_seq_length": 32})
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Card\n")
    found = infer(str(folder))
    spec = found.spec
    assert (spec.name, spec.task, spec.licence, spec.outputs) == (
        "my-model",
        "sentence-embedding",
        "apache-2.0",
        ("sentence_embedding",),
    )
    assert (found.folder, found.inferred) == (tmp_path, True)
    assert spec.source == HuggingFaceSource(
        kind="huggingface", path="My Model", task="feature-extraction", library="sentence_transformers"
    )
    assert list(spec.inputs) == ["input_ids", "attention_mask"]
    assert (spec.inputs["input_ids"].pad, spec.inputs["input_ids"].high) == (3, 99)
    assert [tuple(bucket.values()) for bucket in spec.buckets] == [(1, 16), (1, 32), (8, 32)]


@pytest.mark.parametrize(
    ("change", "inputs", "longest"),
    [
        ({}, ["input_ids", "attention_mask", "token_type_ids"], 64),
        ({"model_type": "distilbert", "architectures": ["DistilBertModel"]}, ["input_ids", "attention_mask"], 64),
        ({"model_type": "roberta", "architectures": ["RobertaForMaskedLM"]}, ["input_ids", "attention_mask"], 60),
    ],
)
def test_a_plain_encoder_yields_its_last_hidden_state(
    tmp_path: Path, change: dict[str, object], inputs: list[str], longest: int
) -> None:
    spec = infer(str(hf_folder(tmp_path, BERT | change))).spec
    assert (spec.task, spec.outputs, list(spec.inputs)) == ("feature-extraction", ("last_hidden_state",), inputs)
    assert spec.buckets[-1] == {"batch": 8, "sequence": longest}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, "MambaForCausalLM"),
        (BERT | {"architectures": ["BertForSequenceClassification"]}, "BertForSequenceClassification"),
        ({}, "no model_type"),
        (BERT | {"auto_map": {"AutoModel": "modeling.Own"}}, "own Python code"),
    ],
)
def test_an_unsupported_folder_is_refused_by_its_kind(tmp_path: Path, config: object, told: str) -> None:
    error = refusal(UsageError, hf_folder(tmp_path, config))
    assert told in error.what
    assert error.hint


def test_an_unsupported_sentence_transformers_module_is_named(tmp_path: Path) -> None:
    modules = [{"type": "sentence_transformers.models.CLIPModel"}]
    assert "CLIPModel" in refusal(UsageError, hf_folder(tmp_path, modules=modules)).what


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_a_folder_with_pickled_weights_alone_is_refused(tmp_path: Path, weights: str) -> None:
    error = refusal(IntegrityError, hf_folder(tmp_path, weights=weights))
    assert weights in error.what
    assert "weights_only" in error.hint


def test_a_pickle_beside_safetensors_is_ignored(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path)
    (folder / "pytorch_model.bin").write_bytes(b"")
    assert infer(str(folder)).spec.name == "my-model"


def test_a_folder_without_weights_or_config_is_refused(tmp_path: Path) -> None:
    assert "no weights" in refusal(UsageError, hf_folder(tmp_path, weights="")).what
    assert "no config.json" in refusal(UsageError, tmp_path).what


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, " " * (1 << 21)])
def test_a_damaged_config_is_an_integrity_error(tmp_path: Path, text: str) -> None:
    folder = hf_folder(tmp_path)
    (folder / "config.json").write_text(text)
    assert "config.json" in refusal(IntegrityError, folder).what


@pytest.mark.parametrize("key", ["max_position_embeddings", "pad_token_id", "vocab_size"])
@pytest.mark.parametrize("value", ["long", -1, 1.5])
def test_a_count_that_is_none_is_an_integrity_error(tmp_path: Path, key: str, value: object) -> None:
    assert f"`{key}`" in refusal(IntegrityError, hf_folder(tmp_path, BERT | {key: value})).what


# ONNX files


def onnx_file(path: Path, inputs: list[tuple[str, int, list[object]]], *, table: str = "") -> Path:
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    nodes = [helper.make_node("Identity", [name], [f"{name}.out"]) for name, _, _ in inputs if name != table]
    initializers = []
    if table:
        nodes.append(helper.make_node("Gather", ["table", table], [f"{table}.out"]))
        initializers.append(helper.make_tensor("table", onnx.TensorProto.FLOAT, [50, 2], [0.0] * 100))
    outputs = [
        helper.make_tensor_value_info(
            f"{name}.out", 1 if name == table else kind, [*shape, 2] if name == table else shape
        )
        for name, kind, shape in inputs
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(*entry) for entry in inputs], outputs, initializers
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


def test_a_graph_gives_inputs_outputs_types_and_dimensions(tmp_path: Path) -> None:
    entries = [("ids", 7, ["N", "seq len"]), ("attention_mask", 7, ["N", "seq len"]), ("x", 1, ["N", 3])]
    spec = infer(str(onnx_file(tmp_path / "Net.onnx", entries, table="ids"))).spec
    assert (spec.name, spec.source) == ("net", OnnxSource(kind="onnx", path="Net.onnx"))
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in spec.inputs.items()} == {
        "ids": ("int64", ("N", "seq_len")),
        "attention_mask": ("int64", ("N", "seq_len")),
        "x": ("float32", ("N", 3)),
    }
    assert (spec.inputs["ids"].high, spec.inputs["attention_mask"].low) == (50, 1)
    assert (spec.batch_dim, spec.buckets) == ("N", ({"N": 1, "seq_len": 128}, {"N": 8, "seq_len": 128}))
    assert sorted(spec.outputs) == ["attention_mask.out", "ids.out", "x.out"]


@pytest.mark.parametrize("first", [None, "s31", "unk__5"])
def test_a_batch_without_a_name_of_its_own_is_called_batch(tmp_path: Path, first: str | None) -> None:
    spec = infer(str(onnx_file(tmp_path / "net.onnx", [("x", 1, [first, 3]), ("y", 1, [first])]))).spec
    assert [tensor.shape for tensor in spec.inputs.values()] == [("batch", 3), ("batch",)]
    assert spec.buckets == ({"batch": 1}, {"batch": 8})


def test_a_fixed_graph_gets_one_bucket(tmp_path: Path) -> None:
    spec = infer(str(onnx_file(tmp_path / "net.onnx", [("x", 1, [2, 3])]))).spec
    assert (spec.inputs["x"].shape, spec.buckets) == ((2, 3), ({},))


def test_an_input_of_an_unsupported_type_is_named(tmp_path: Path) -> None:
    error = refusal(UsageError, onnx_file(tmp_path / "net.onnx", [("x", 11, [1])]))
    assert error.what == "input `x` is DOUBLE"


def test_a_damaged_onnx_file_is_an_integrity_error(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"not a protobuf")
    refusal(IntegrityError, tmp_path / "net.onnx")


# Any path


@pytest.mark.parametrize("name", ["x.bin", "x.pt", "x.pth", "x.ckpt", "x.PT"])
def test_a_pickle_checkpoint_as_a_model_is_an_integrity_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04.")
    assert "weights_only" in refusal(IntegrityError, tmp_path / name).hint


@pytest.mark.parametrize(
    ("name", "hint"),
    [("x.py", "`x.py:create`"), ("x.safetensors", "config.json"), ("x.txt", "supported")],
)
def test_a_file_of_another_kind_is_a_usage_error_with_a_remedy(tmp_path: Path, name: str, hint: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert hint in refusal(UsageError, tmp_path / name).hint


def test_a_folder_of_a_decoder_gets_a_cache_no_longer_than_it_was_trained_on(tmp_path: Path) -> None:
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 96}
    spec = infer(str(hf_folder(tmp_path, config))).spec
    assert spec.task == "text-generation"
    assert spec.generation is not None
    assert (spec.generation.context_tokens, spec.generation.prefill_tokens) == (96, (16, 96))


def test_a_damaged_gguf_file_is_told_as_damage(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGML")
    assert "not a GGUF file" in refusal(IntegrityError, tmp_path / "x.gguf").what


@pytest.mark.parametrize("name", ["no.onnx", "no.py:create", "no/folder"])
def test_a_path_that_does_not_exist_is_a_usage_error(tmp_path: Path, name: str) -> None:
    assert "no such model file or folder" in refusal(UsageError, tmp_path / name).what


@pytest.mark.parametrize(
    ("text", "path"),
    [("minilm", False), ("a/b.toml", False), ("b.toml", False), ("./b", True), ("b.onnx", True), ("b.py:f", True)],
)
def test_paths_are_told_from_names(text: str, path: bool) -> None:
    assert is_path(text) == path


def test_a_name_wins_over_a_folder_unless_it_is_written_as_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hf_folder(tmp_path).rename(tmp_path / "mlp")
    monkeypatch.chdir(tmp_path)
    project = open_project(tmp_path, env={"XDG_CONFIG_HOME": str(tmp_path)})
    assert not find(project, "mlp").inferred
    assert find(project, "./mlp").inferred
    (tmp_path / "mlp").rename(tmp_path / "own")
    assert find(project, "own").inferred
    with pytest.raises(UsageError, match="unknown model `neither`"):
        find(project, "neither")


@pytest.mark.parametrize(
    ("text", "name"), [("My Model (v2)", "my-model-v2"), ("..", "model"), ("a" * 80, "a" * 64), ("Größe", "gr-e")]
)
def test_names_are_made_from_file_names(text: str, name: str) -> None:
    assert name_from(text) == name


def test_a_specification_written_elsewhere_still_finds_its_source(tmp_path: Path) -> None:
    found = infer(str(onnx_file(tmp_path / "net.onnx", [("x", 1, [2])])))
    models = tmp_path / "project" / "models"
    models.mkdir(parents=True)
    (models / "net.toml").write_text(to_toml(relocated(found, models)))
    again = find_model(open_project(models.parent, env={}), "net")
    assert isinstance(again.spec.source, OnnxSource)
    assert (again.folder / again.spec.source.path).resolve() == tmp_path / "net.onnx"


def test_inferring_from_json_or_onnx_does_not_import_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    folder, file = hf_folder(tmp_path), onnx_file(tmp_path / "net.onnx", [("x", 1, [2])])
    code = "import sys; from hwc.spec.infer import infer; list(map(infer, sys.argv[1:])); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, folder, file], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
