"""Mixtures of experts: the static form computes what transformers' loop computes, and parameters are counted truly."""

from __future__ import annotations

from typing import Any

import pytest
from decoder_parts import decoder

from hwc.capture import experts

HIDDEN, INNER, EXPERTS = 16, 8, 4


def mixture(model_type: str, **changed: Any) -> Any:
    sizes = (
        {"num_local_experts": EXPERTS, "intermediate_size": INNER}
        if model_type == "mixtral"
        else {"num_experts": EXPERTS, "moe_intermediate_size": INNER}
    )
    return decoder(model_type, **{**sizes, "num_experts_per_tok": 2, **changed})


@pytest.mark.parametrize(
    ("model_type", "changed", "sparse_layers"),
    [
        ("qwen3_moe", {"norm_topk_prob": True}, 3),
        ("qwen3_moe", {"norm_topk_prob": False}, 3),
        ("qwen3_moe", {"num_experts_per_tok": 1, "norm_topk_prob": True}, 3),
        ("qwen3_moe", {"num_experts_per_tok": 4}, 3),
        ("qwen3_moe", {"decoder_sparse_step": 2}, 1),
        ("qwen3_moe", {"mlp_only_layers": [0]}, 2),
        ("qwen3_moe", {"num_experts": 0}, 0),
        ("mixtral", {}, 3),
    ],
)
def test_the_static_form_is_the_model(model_type: str, changed: dict[str, Any], sparse_layers: int) -> None:
    import torch

    model = mixture(model_type, **changed).double()  # sums in another order are no difference to see
    assert len(experts.blocks(model)) == sparse_layers
    tokens = torch.arange(2 * 7).reshape(2, 7)
    with torch.no_grad():
        due = model(tokens).logits
        with experts.static(model):
            found = model(tokens).logits
        assert torch.equal(model(tokens).logits, due)  # the model is as it was
    torch.testing.assert_close(found, due, atol=1e-12, rtol=1e-12)
    assert due.abs().max() > 0.1


def test_active_parameters_are_all_but_those_of_the_experts_a_token_is_not_sent_to() -> None:
    model = mixture("qwen3_moe", mlp_only_layers=[0])
    total = sum(weight.numel() for weight in model.parameters())
    an_expert = 3 * HIDDEN * INNER
    assert experts.counts(model) == {
        "parameters": total, "active_parameters": total - 2 * (EXPERTS - 2) * an_expert,
        "experts": EXPERTS, "experts_per_token": 2,
    }


def test_a_dense_model_has_no_other_count() -> None:
    model = mixture("qwen3_moe", num_experts=0)
    assert experts.counts(model) == {"parameters": sum(weight.numel() for weight in model.parameters())}


def test_a_router_chooses_as_many_experts_as_it_should_where_scores_are_equal() -> None:
    import torch

    weights = experts.routing_weights(torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 2.0, 0.0]]), 2, normed=True)
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0]]))


def test_routing_weights_are_those_of_topk() -> None:
    import torch

    scores = torch.randn(500, 16, generator=torch.Generator().manual_seed(1))
    shares, chosen = torch.topk(scores.softmax(-1), 3, dim=-1)
    due = torch.zeros_like(scores).scatter(1, chosen, shares)
    assert torch.equal(experts.routing_weights(scores, 3, normed=False), due)
