"""What a folder's ``quantization_config`` says: whether its weights are compressed-tensors that can be read.

Format: https://github.com/vllm-project/compressed-tensors (0.19), as llm-compressor writes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hwc.errors import IntegrityError, UsageError

KEY = "quantization_config"
METHOD = "compressed-tensors"
FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision")
STRATEGIES = ("group", "channel", "tensor")
"""What shares one scale."""
BITS = {"int": (4, 8), "float": (8,)}
STILL = (None, False, "static", "weight")
"""Orders of columns that leave groups where they lie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressed:
    """What a folder says of its weights."""

    format: str
    bits: frozenset[int]
    """Of integers; empty if there are none."""
    left_out: tuple[str, ...]
    """What the checkpoint rounds beside its weights, and hwc does not."""


def read(config: Mapping[str, Any], *, where: str) -> Compressed | None:
    """Return what a ``config.json`` says of compressed weights; None if they are plain.

    Raises UsageError for a way of quantising that is not supported, naming it, and IntegrityError for a table that is
    none.
    """
    if _table(config, "config.json", where).get(KEY) is None:
        return None
    table = _table(config[KEY], KEY, where)
    if table.get("quant_method") != METHOD:
        raise _unsupported(f"quant_method `{table.get('quant_method')}`", where)
    if table.get("format") not in FORMATS:
        raise _unsupported(f"compressed-tensors format `{table.get('format')}`", where)
    if table.get("quantization_status", "compressed") != "compressed":
        raise _unsupported(f"quantization_status `{table['quantization_status']}`", where)
    sparsity = _table(table.get("sparsity_config") or {}, "sparsity_config", where)
    if sparsity.get("format", "dense") != "dense":
        raise _unsupported(f"sparse weights (`{sparsity['format']}`)", where)
    if table.get("transform_config"):
        raise _unsupported("rotated weights (`transform_config`)", where)
    groups = [_table(group, "config_groups", where) for group in _groups(table, where)]
    bits = {bit for group in groups for bit in _integer_bits(group, where)}
    left_out = ["activations"] if any(group.get("input_activations") for group in groups) else []
    left_out += ["keys and values"] if table.get("kv_cache_scheme") else []
    return Compressed(format=str(table["format"]), bits=frozenset(bits), left_out=tuple(left_out))


def _groups(table: Mapping[str, Any], where: str) -> Iterator[Any]:
    yield from _table(table.get("config_groups"), "config_groups", where).values()


def _integer_bits(group: Mapping[str, Any], where: str) -> Iterator[int]:
    """Check what one group of modules stores; yield the width of its integers."""
    if group.get("weights") is None:
        return
    weights = _table(group["weights"], "weights", where)
    kind, bits = str(weights.get("type", "int")), weights.get("num_bits", 8)
    if bits not in BITS.get(kind, ()):
        raise _unsupported(f"weights of type {kind} in {bits} bits", where)
    if weights.get("strategy") not in STRATEGIES:
        raise _unsupported(f"scales by `{weights.get('strategy')}`", where)
    if weights.get("actorder") not in STILL:
        raise _unsupported(f"columns grouped by activation order (actorder `{weights['actorder']}`, g_idx)", where)
    if kind == "int":
        yield int(bits)


def _table(value: Any, name: str, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise IntegrityError(f"`{name}` is no table: {str(value)[:60]}", where=where)
    return value


def _unsupported(what: str, where: str) -> UsageError:
    return UsageError(
        f"quantised checkpoint not supported: {what}", where=where,
        hint=f"supported: {METHOD} in {', '.join(FORMATS)}, with int4, int8 or FP8 weights and scales by group, "
        "channel or tensor; or a GGUF file, or the float checkpoint",
    )
