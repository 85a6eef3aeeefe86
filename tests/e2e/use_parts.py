"""Models to use in tests: small, seeded, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WORDS = [
    *("a", "the", "dog", "cat", "sat", "ran", "on", "mat", "road", "quickly", "slowly", "river", "bank", "money"),
    *("green", "blue", "sky", "is", "are", "was", "of", "and", "to", "in"),
]
FIXED_WIDTH = 64
"""Width of the inputs of the ONNX files and of the factory."""
FACTORY = f'''"""A module with a fixed seed."""
import torch
from torch import nn

EXAMPLE_INPUTS = {{"x": torch.zeros(1, {FIXED_WIDTH})}}


def create():
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear({FIXED_WIDTH}, 96), nn.ReLU(), nn.Linear(96, 8))
'''


def encoder_folder(folder: Path, *, sentence: bool) -> Path:
    """Save a one-layer BERT of 64 numbers a token, plain or as a sentence-transformers model, with its tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = Tokenizer(models.WordPiece({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64, **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=64, initializer_range=0.5,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder, safe_serialization=True)
    if sentence:
        kinds = {"": "Transformer", "1_Pooling": "Pooling"}
        modules = [
            {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for at, (path, kind) in enumerate(kinds.items())
        ]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16, "do_lower_case": False}))
        (folder / "1_Pooling").mkdir()
        pooling = {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def token_vectors(folder: Path, text: str) -> np.ndarray:
    """Return torch's own hidden states [tokens, 64] of one text."""
    import torch
    from tokenizers import Tokenizer
    from transformers import BertModel

    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).last_hidden_state[0].numpy()


def linear_onnx(path: Path, *, external: bool = False, transposed: bool = False) -> Path:
    """Save two linears with a ReLU between, of a dynamic batch: 64 → 96 → 8."""
    rng = np.random.default_rng(7)
    first = rng.standard_normal((FIXED_WIDTH, 96)).astype(np.float32) / 8
    second = rng.standard_normal((96, 8)).astype(np.float32) / 8
    stored = {"first": first.T if transposed else first, "second": second.T if transposed else second}
    used = {name: f"{name}.turned" if transposed else name for name in stored}
    nodes = [helper.make_node("Transpose", [name], [used[name]], perm=[1, 0]) for name in stored if transposed]
    nodes += [
        helper.make_node("MatMul", ["x", used["first"]], ["hidden"], name="first_product"),
        helper.make_node("Relu", ["hidden"], ["kept"]),
        helper.make_node("MatMul", ["kept", used["second"]], ["y"], name="second_product"),
    ]
    graph = helper.make_graph(
        nodes, "two_linears",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", FIXED_WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(
        model, path, save_as_external_data=external, location=f"{path.stem}.weights" if external else None,
        size_threshold=0,
    )
    return path


def run_onnx(path: Path, x: np.ndarray) -> np.ndarray:
    """Return ONNX Runtime's own result."""
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    """Return the cosine of two arrays, taken as vectors."""
    return float((left * right).sum() / (np.linalg.norm(left) * np.linalg.norm(right)))
