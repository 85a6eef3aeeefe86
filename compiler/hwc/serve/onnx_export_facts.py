"""What lies beside an exported model for who runs it: facts for programs, a page for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc import digest, onnx_io
from hwc.bundle.open import Variant
from hwc.capture import state

if TYPE_CHECKING:
    import onnx

FACTS = "hwc-export.json"
README = "README.md"


def facts(variant: Variant, graph: onnx.ModelProto, form: str, options: Mapping[str, str]) -> dict[str, Any]:
    """Return the inputs, outputs and state of an export, and what it was made from; ``graph`` is the detached one."""
    states = state.find(graph)
    weights = set(onnx_io.weight_names(graph))
    apart = weights | {name for kept in states for name in (kept.name, kept.next)}
    found = {
        "variant": f"{variant.model_id} {variant.name}", "content_sha256": variant.content_sha256,
        "model": {key: variant.facts["model"][key] for key in ("id", "title", "task", "licence")},
        "form": form, "session_options": dict(options),
        "inputs": [_port(value) for value in graph.graph.input if value.name not in apart],
        "outputs": [_port(value) for value in graph.graph.output if value.name not in apart],
    }
    if "generation" in variant.facts:
        found["state"] = [
            {"input": kept.name, "output": kept.next, "dtype": "float32", "shape": list(kept.shape)} for kept in states
        ]
        found["generation"] = variant.facts["generation"]
    return found


def _port(value: onnx.ValueInfoProto) -> dict[str, Any]:
    from onnx import helper

    kind = value.type.tensor_type
    shape = [dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else "") for dim in kind.shape.dim]
    return {"name": value.name, "dtype": str(helper.tensor_dtype_to_np_dtype(kind.elem_type)), "shape": shape}


def write(told: Mapping[str, Any], folder: Path) -> None:
    """Write the facts, with the digests of the files that lie in the folder, and the page."""
    files = {path.name: digest.of_file(path) for path in sorted(folder.iterdir())}
    text = json.dumps({**told, "files": files}, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / FACTS).write_text(text + "\n", encoding="utf-8")
    (folder / README).write_text(page({**told, "files": files}), encoding="utf-8")


def page(told: Mapping[str, Any]) -> str:
    """Return the page, Markdown."""
    parts = [
        f"# {told['model']['title'] or told['model']['id']}\n\n"
        f"{told['variant']}, exported by hwc as ONNX in the form `{told['form']}`.\n"
        f"Licence: {told['model']['licence']}. `{FACTS}` holds the digests of {' and '.join(told['files'])}.",
        _table("Input", told["inputs"]) + "\n\n" + _table("Output", told["outputs"]),
        _options(told["session_options"]),
    ]
    if "state" in told:
        parts.append(_state(told["state"], told["generation"]))
    return "\n\n".join(parts) + "\n"


def _table(head: str, ports: list[Mapping[str, Any]]) -> str:
    rows = [f"| `{port['name']}` | {port['dtype']} | {_shape(port['shape'])} |" for port in ports]
    return "\n".join([f"| {head} | Type | Shape |", "|---|---|---|", *rows])


def _shape(shape: list[int | str]) -> str:
    return "[" + ", ".join(str(dim or "?") for dim in shape) + "]"


def _options(options: Mapping[str, str]) -> str:
    if not options:
        return "ONNX Runtime gives the bundle's result as it stands, without session options."
    listed = "\n".join(f'    options.add_session_config_entry("{key}", "{value}")' for key, value in options.items())
    return (
        "The result is the bundle's under these session options; without them ONNX Runtime rounds activations to int8\n"
        "where weights are packed integers, and dequantises fp8 weights anew in every call:\n\n"
        f"    options = onnxruntime.SessionOptions()\n{listed}"
    )


def _state(states: list[Mapping[str, Any]], generation: Mapping[str, Any]) -> str:
    first = states[0]
    return f"""## The cache

`{first['input']}` and {len(states) - 1} more inputs, float32 {_shape(first['shape'])}, are keys and values
of earlier tokens; `{first['output']}` and so on are the same with this call's tokens in. `state` in `{FACTS}`
pairs them.

1. Begin with zeros. `context` is yours to choose, up to {generation['context_tokens']} as built; every call copies it.
2. Prefill: `input_ids` [1, tokens] holds the whole prompt, `start` [1] is 0, `logit_index` [1, 1] is tokens − 1.
3. Decode: `input_ids` [1, 1] holds the token that was chosen, `start` [1] is how many tokens the cache holds,
   `logit_index` [1, 1] is 0. Feed every `next.…` back as `cache.…`.

`python generate.py "a prompt"` does so, with NumPy, onnxruntime and tokenizers. The text ends at token
{', '.join(map(str, generation['eos_ids'])) or '(none is told)'}."""
