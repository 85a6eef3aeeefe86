"""A language model to use in tests: a tiny Llama with random weights and a tokenizer of bytes, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from command import ROOT
from hwc import digest

SPECIAL = ("<|end|>", "<|user|>", "<|model|>")
CHAT = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|model|>' }}{% endif %}"
)


def causal_folder(folder: Path, *, model_type: str = "llama", **changed: Any) -> Path:
    """Save a two-layer decoder of 64 numbers a token with grouped heads and tied embeddings."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: at for at, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL[0], "chat_template": CHAT}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model_type,
        **{
            "vocab_size": tokenizer.get_vocab_size(), "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
            "max_position_embeddings": 192, "tie_word_embeddings": True, "initializer_range": 0.2,
            "eos_token_id": len(alphabet), "bos_token_id": None, "pad_token_id": None, **changed,
        },
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder, safe_serialization=True)
    return folder


def language_toml(name: str, folder: Path, *, generation: dict[str, Any], **tables: dict[str, Any]) -> str:
    """Return a specification of a language model in a folder, measured on a little of the text that hwc ships."""
    data = ROOT / "models" / "data"
    evaluation, calibration = (data / f"language-{kind}.jsonl" for kind in ("eval", "calibration"))
    told: dict[str, dict[str, Any]] = {
        "source": {
            "kind": "huggingface", "path": str(folder), "task": "text-generation", "library": "transformers",
        },
        "generation": generation,
        "evaluation": {
            "evaluator": "language", "file": str(evaluation), "sha256": digest.of_file(evaluation), "items": 4,
            "functional_items": 2,
        },
        "calibration": {
            "file": str(calibration), "sha256": digest.of_file(calibration), "items": 4, "window_tokens": 32,
        },
    }
    for table, entries in tables.items():
        told[table] = {**told.get(table, {}), **entries}
    rows = [f'name = "{name}"', 'task = "text-generation"', "parity_max_abs = 1e-3"]
    for table, entries in told.items():
        rows += ["", f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in entries.items())]
    return "\n".join(rows) + "\n"


def greedy(folder: Path, ids: list[int], count: int) -> list[int]:
    """Return what torch goes on with, each time from the whole text."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    seen = list(ids)
    with torch.no_grad():
        for _ in range(count):
            seen.append(int(model(torch.tensor([seen])).logits[0, -1].argmax()))
    return seen[len(ids) :]
