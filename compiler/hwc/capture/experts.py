"""Mixtures of experts in a static form: every expert computes every token, and counts by its routing weight."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def _normed(block: Any) -> bool:
    """Tell whether the weights of a token's experts are made to sum to 1."""
    return bool(getattr(block, "norm_topk_prob", True))  # Mixtral has no such choice: it always does


def blocks(model: Any) -> list[Any]:
    """Return a model's blocks of experts, in order; none for a dense model.

    Such a block has ``gate`` (a linear that gives a score an expert), ``experts`` and ``top_k``, and is made of nothing
    else: it is known by its class, since one with a shared expert beside them would have these too.
    """
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

    kinds = (MixtralSparseMoeBlock, Qwen3MoeSparseMoeBlock)
    return [module for module in model.modules() if isinstance(module, kinds)]


def counts(model: Any) -> dict[str, int]:
    """Return ``parameters`` and, of a mixture of experts, ``active_parameters``, ``experts``, ``experts_per_token``.

    Parameters are all of the model's, embeddings and heads included, tied ones once. Active are those that one token
    meets: all but the experts that it is not sent to. That is how the names are meant of Mixtral 8x7B (46.7e9 and
    12.9e9; https://arxiv.org/abs/2401.04088) and Qwen3-30B-A3B (30.5e9 and 3.3e9; https://arxiv.org/abs/2505.09388).
    """
    total = sum(weight.numel() for weight in model.parameters())
    found = blocks(model)
    if not found:
        return {"parameters": total}
    idle = 0
    for block in found:
        of_experts = sum(weight.numel() for weight in block.experts.parameters())
        idle += of_experts // len(block.experts) * (len(block.experts) - block.top_k)
    return {
        "parameters": total, "active_parameters": total - idle,
        "experts": len(found[0].experts), "experts_per_token": found[0].top_k,
    }


@contextmanager
def static(model: Any) -> Iterator[None]:
    """Let every block of experts compute in the static form for as long as the block lasts.

    transformers looks which experts any token is sent to and loops over those: no graph can hold that. Here each expert
    runs on all tokens, so its linears stay plain products with rank-2 weights, which quantisation covers like any
    other. The code does the work of a dense model of all experts.

    Calibration therefore sees all tokens in every expert, not only those sent to it. That is meant: an expert that few
    tokens of the text are sent to would otherwise be fitted to fewer rows than it has inputs, or to none, and gate and
    up projections of all experts of a block share one Hessian.
    """
    found = blocks(model)
    for block in found:
        block.forward = functools.partial(_forward, block)
    try:
        yield
    finally:
        for block in found:
            del block.forward


def _forward(block: Any, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the block makes of hidden states [B, S, H], and the scores [B, S, experts] of its gate."""
    import torch

    scores = block.gate(hidden)
    weights = routing_weights(scores, block.top_k, normed=_normed(block))
    mixed = torch.zeros_like(hidden)
    for number, expert in enumerate(block.experts):
        mixed = mixed + expert(hidden) * weights[..., number : number + 1]
    return mixed, scores


def routing_weights(scores: torch.Tensor, top_k: int, *, normed: bool) -> torch.Tensor:
    """Return each expert's weight, float32 [..., experts]: the softmax of its score, 0 where it is not chosen.

    Chosen are the ``top_k`` likeliest; of equal ones those with the lower number. An expert's rank is counted by
    comparing it with each other one, which every target can do, where not every one can sort.
    """
    import torch

    shares = torch.softmax(scores, dim=-1, dtype=torch.float32)
    other, own = shares[..., None, :], shares[..., :, None]
    number = torch.arange(scores.shape[-1])
    ahead = (other > own) | ((other == own) & (number[None, :] < number[:, None]))
    weights = torch.where(ahead.to(torch.float32).sum(-1) < top_k, shares, 0.0)
    return weights / weights.sum(-1, keepdim=True) if normed else weights
