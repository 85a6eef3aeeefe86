"""A specification as TOML text with comments, which parses back to an equal specification."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from hwc.spec.model import Gates, ModelSpec

_COMMENTS = {
    "name": "must equal the file's name",
    "licence": "of the weights, as an SPDX identifier",
    "outputs": "outputs to keep, in order",
    "functional_buckets": "for devices that are only good for functional tests",
    "batch_dim": "the dimension along which requests are joined",
    "opset": "ONNX operator set of the export",
    "parity_max_abs": "largest difference allowed to ONNX Runtime on the same quantised graph",
    "parity_rounded_max_abs": "the same where a kernel keeps activations in fewer bits than float32 has",
    "pad": "fills a sequence up to its bucket; absent: only the batch is filled up",
    "low": "range of seeded random values, where no evaluation data feeds this input",
    "exclude": "layers that stay in float, by glob on the layer's name",
    "evaluator": "embedding, classification, vector, or your own file.py:function",
    "file": "text, one item a line, beside this file; empty: seeded random inputs",
    "targets": "built unless -t and -q say otherwise",
    "all_targets": "the full matrix",
    "library": "auto, transformers or sentence_transformers",
}
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_GATES_EXAMPLE = """\
# Bounds an artefact must hold to be tagged, by scheme. None is set yet: build once, look at what
# `hwc inspect` shows as measured, then write down what you can promise, for example
#
# [gates.fp32]
# max_abs = 1e-5
#
# [gates.w4a16]
# cosine_mean_min = 0.95
"""


def to_toml(spec: ModelSpec) -> str:
    """Write every key of a specification, defaults included, with what it means; ``parse`` gives it back."""
    table = spec.model_dump(mode="json", exclude_none=True)
    for key in spec.generation.layout() if spec.generation else ():  # follows from [generation]
        del table[key]
    scalars = {key: value for key, value in table.items() if not isinstance(value, dict)}
    parts = [
        f"# A model for hwc. `hwc models show {spec.name}` reads this file; `hwc build {spec.name}` builds it.",
        *_lines(scalars),
        *_table("source", {key: value for key, value in table["source"].items() if value not in ("", [])}),
        *(_table("generation", table["generation"]) if spec.generation else []),
        *(line for name, value in table.get("inputs", {}).items() for line in _table(_path("inputs", name), value)),
        *_table("quantise", table["quantise"]),
        *_table("evaluation", table["evaluation"]),
        *_table("calibration", table["calibration"]),
        *_gates(spec.gates),
        *_table("build", table["build"]),
    ]
    return "\n".join(parts) + "\n"


def _gates(gates: Mapping[str, Gates]) -> list[str]:
    if not gates:
        return ["", _GATES_EXAMPLE.rstrip("\n")]
    lines: list[str] = []
    for scheme, gate in gates.items():
        lines += _table(_path("gates", scheme), gate.model_dump(mode="json", exclude_none=True))
    return lines


def _table(path: str, values: Mapping[str, Any]) -> list[str]:
    return ["", f"[{path}]", *_lines(values)]


def _lines(values: Mapping[str, Any]) -> Iterable[str]:
    for key, value in values.items():
        comment = f"  # {_COMMENTS[key]}" if key in _COMMENTS else ""
        yield f"{_key(key)} = {_value(value)}{comment}"


def _path(*keys: str) -> str:
    return ".".join(_key(key) for key in keys)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _string(key)


def _string(text: str) -> str:
    """Quote a string: JSON's escapes are a subset of TOML's, apart from DEL, which TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return repr(value)
