"""The step that is exported says what transformers' own model says, however a text is cut into calls."""

from __future__ import annotations

from typing import Any

import pytest
from decoder_parts import decoder

from hwc.capture import causal_lm

CONTEXT, TOKENS = 24, 20
_GEMMA3 = {
    "query_pre_attn_scalar": 8, "rope_theta": 1e6, "rope_local_base_freq": 50.0,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {}),
    "qwen2 with a window in some layers": (
        "qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ),
    "qwen3, head of its own": ("qwen3", {"tie_word_embeddings": False}),
    "mistral with a window": ("mistral", {"sliding_window": 6}),
    "mistral without": ("mistral", {"sliding_window": None}),
    "gemma3": ("gemma3_text", {"sliding_window": 6, **_GEMMA3}),
    "gemma3, capped": (
        "gemma3_text", {"sliding_window": 6, **_GEMMA3, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0},
    ),
    "qwen3_moe": (
        "qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "norm_topk_prob": True},
    ),
    "mixtral with a window": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 6}),
}


def stepped(model: Any, ids: Any, cuts: list[int]) -> Any:
    """Return the logits [rows, tokens, vocabulary] of texts that go through the step in pieces."""
    import torch

    heads, width = causal_lm.state_shape(model.config)
    layers = model.config.num_hidden_layers
    caches = [torch.zeros(len(ids), heads, CONTEXT, width) for _ in range(2 * layers)]
    found = []
    with causal_lm.stepping(model) as step, torch.no_grad():
        for start, stop in zip([0, *cuts], [*cuts, ids.shape[1]], strict=True):
            index = torch.arange(stop - start).expand(len(ids), -1)
            logits, *caches = step(ids[:, start:stop], torch.full((len(ids),), start), index, *caches)
            found.append(logits)
    return torch.cat(found, 1)


@pytest.mark.parametrize(("model_type", "changed"), DECODERS.values(), ids=DECODERS.keys())
@pytest.mark.parametrize("cuts", [[], [7, 8, 9, 15]], ids=["whole", "in pieces"])
def test_the_step_is_the_model(model_type: str, changed: dict[str, Any], cuts: list[int]) -> None:
    import torch

    model = decoder(model_type, **changed)
    ids = torch.randint(0, 50, (2, TOKENS), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        due = model(ids).logits
    torch.testing.assert_close(stepped(model, ids, cuts), due, atol=2e-5, rtol=1e-5)
    assert due.std() > 0.1


@pytest.mark.parametrize("name", ["mistral with a window", "gemma3"])
def test_what_lies_before_the_window_is_seen_in_layers_without_one_alone(name: str) -> None:
    import torch

    model_type, changed = DECODERS[name]
    everywhere = {**changed, "sliding_window": TOKENS}
    ids = torch.arange(TOKENS)[None]
    with torch.no_grad():
        near, far = (decoder(model_type, **one)(ids).logits for one in (changed, everywhere))
    assert torch.allclose(near[:, :6], far[:, :6], atol=1e-5)
    assert not torch.allclose(near[:, 6:], far[:, 6:], atol=1e-2)


def test_rows_of_a_batch_begin_each_at_its_own_place() -> None:
    import torch

    model = decoder("llama")
    heads, width = causal_lm.state_shape(model.config)
    caches = [torch.zeros(3, heads, CONTEXT, width) for _ in range(6)]
    ids = torch.randint(0, 50, (3, TOKENS), generator=torch.Generator().manual_seed(4))
    lengths = torch.tensor([3, 11, 7])
    rows = torch.arange(3)
    with causal_lm.stepping(model) as step, torch.no_grad():
        _, *caches = step(ids[:, :12], torch.zeros(3, dtype=torch.int64), torch.zeros(3, 1, dtype=torch.int64), *caches)
        for _ in range(4):
            logits, *caches = step(ids[rows, lengths][:, None], lengths, torch.zeros(3, 1, dtype=torch.int64), *caches)
            lengths = lengths + 1
    for row, length in enumerate(lengths.tolist()):
        with torch.no_grad():
            due = model(ids[row : row + 1, :length]).logits[0, -1]
        torch.testing.assert_close(logits[row, 0], due, atol=2e-5, rtol=1e-5)


def test_the_model_is_itself_again_after_its_step() -> None:
    model = decoder("llama")
    with causal_lm.stepping(model):
        assert model.config._attn_implementation != "eager"
    assert model.config._attn_implementation == "eager"
