"""The hand-over: what a vendor whose compiler is elsewhere gets, in files whose formats the README tells."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hwc.errors import InternalError

FLAG = "--compile-to=executable-sources"
SOURCES, PARAMETERS, TARGET, README = "executable-sources.mlir", "parameters.json", "target.json", "README.md"
FILES = (SOURCES, PARAMETERS, TARGET, README)
_PARAMETER = re.compile(
    r'^\s*util\.global private .* = #\w+\.parameter\.named<"(?P<scope>[^"]+)"::"(?P<key>[^"]+)"> : '
    r"(?P<type>[!\w.]*tensor<[^ ]*)$",
    re.MULTILINE,
)
_BUILTIN = re.compile(r"tensor<((?:\d+x)*)(\w+)>")
_TORCH = re.compile(r"!torch\.vtensor<\[([\d,]*)\],(\w+)>")
_BITS = {"i1": 8, "i4": 4, "f8E4M3FN": 8}

_README = """# Hand-over of {model} for {target}

hwc stopped before code generation: this chip's compiler is at its vendor. Nothing here was run on the chip, and no
figure in this bundle is about it.

| file | what it is |
|---|---|
| `code/{sources}` | MLIR of IREE's `--compile-to=executable-sources`: the host program and every `hal.executable` |
| `code/{parameters}` | every parameter that the sources load: scope, key, element type, shape, bytes |
| `code/{target_json}` | the chip's descriptor, complete |
| `weights/*.irpa` | the parameters, in IREE's parameter archives; a key is in one of them |
| `graph/model.onnx` | the same model as ONNX without weights: what the sources compute, operator by operator |
| `golden/cases.npz`, `cases.json` | inputs: `N.NAME` of case N, and the function each case is for |
| `golden/expected.npz` | what the float model answers |
| `golden/reference.npz` | what this variant has to answer, from ONNX Runtime; absent where weights stay in float |

Functions: {functions}.

## Element types
`i4` is two elements a byte, the even index in the low nibble, in two's complement: code less 8. Group scales are
float16, one for each output channel and group along K: weight = (code - zero) * scale. E4M3 codes are bytes with one
float32 scale for each output channel. Everything is little-endian, row-major, without padding inside a tensor.

## To accept a compiler's result
Run every case of `golden/cases.npz`, and hold the largest difference to `reference.npz` (or `expected.npz`) against
`parity_max_abs` of `facts.json`; the quality gates there are against `expected.npz`.
"""


def write(sources: Path, module: str, told: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Move the sources into ``out`` and write what tells of them; return facts.

    ``module`` is the text that was compiled, ``told`` the model's name, its functions and the descriptor.
    """
    shutil.move(sources, out / SOURCES)
    declared = parameters(module)
    (out / PARAMETERS).write_text(json.dumps(declared, indent=1, sort_keys=True) + "\n")
    (out / TARGET).write_text(json.dumps(told["descriptor"], indent=1, sort_keys=True) + "\n")
    text = _README.format(
        model=told["model"], target=told["descriptor"]["title"], functions=", ".join(told["functions"]),
        sources=SOURCES, parameters=PARAMETERS, target_json=TARGET,
    )
    (out / README).write_text(text)
    executables = len(re.findall(r"^ *hal\.executable (?:private|public) ", (out / SOURCES).read_text(), re.MULTILINE))
    if not executables:
        raise InternalError("the compiler wrote no executable sources", where=SOURCES)
    return {"hand_over": {"executables": executables, "parameters": len(declared)}}


def parameters(module: str) -> list[dict[str, Any]]:
    """Return every parameter that a module declares, by key: scope, element type, shape and bytes."""
    rows = {}
    for found in _PARAMETER.finditer(module):
        shape, dtype = _typed(found["type"])
        bits = _BITS.get(dtype) or int(re.sub(r"\D", "", dtype))
        rows[found["key"]] = {
            "scope": found["scope"], "key": found["key"], "element_type": dtype, "shape": shape,
            "bytes": math.prod(shape) * bits // 8,
        }
    return [rows[key] for key in sorted(rows)]


def _typed(text: str) -> tuple[list[int], str]:
    if found := _TORCH.fullmatch(text):
        return [int(size) for size in found[1].split(",") if size], found[2]
    if found := _BUILTIN.fullmatch(text):
        return [int(size) for size in found[1].split("x") if size], found[2]
    raise InternalError(f"a parameter of an unknown type: {text}")
