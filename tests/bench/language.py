"""Measure language models beside their peers; write docs/reference/bench-language.md and .json: `make bench-language`.

Quality: KL, agreement and perplexity of hwc's schemes and of other quantisers', in one protocol. Speed: tokens a
second, time to the first token and memory beside ONNX Runtime and llama.cpp. `--only` and `--model` select parts; what
is not measured in a run is taken from the JSON of the run before.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import language_built
import language_page
import language_quality
import language_speed
import quiet
from language_built import Built
from peers import environment

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("smollm2", "gemma3-270m")
SCHEMES = ("w4a16-rtn", "w4a16", "w4a16-asym", "fp8")
TIMED = ("w4a16", "fp8")
ORT_METHODS = {"default-sym": 5.0, "default-asym": 5.125, "k_quant": 5.125, "hqq": 6.0, "gptq": 5.0}
"""Methods of ONNX Runtime's quantiser, and the bits they store for a weight in groups of 32, with float32 scales."""


def main() -> int:
    """Measure what is asked for and write the page."""
    arguments = _arguments()
    os.environ["HF_HUB_OFFLINE"] = "1"
    told = arguments.out / "bench-language.json"
    facts: dict[str, Any] = json.loads(told.read_text()) if told.is_file() else {"quality": {}, "speed": {}}
    for model in arguments.model:
        built = language_built.build(model, arguments.scheme, arguments.store)
        if "quality" in arguments.only:
            facts["quality"][model] = {**_when(), **_quality(built, arguments)}
        if "speed" in arguments.only:
            facts["speed"][model] = {**_when(), **_speed(built, arguments)}
        arguments.out.mkdir(parents=True, exist_ok=True)
        told.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")  # after each model: a run may be cut off
        (arguments.out / "bench-language.md").write_text(language_page.page(facts))
    print(language_page.page(facts))
    return 0


def _arguments() -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hwc-bench"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=MODELS, help="model; all without it")
    parser.add_argument("--only", action="append", choices=("quality", "speed"), help="part; both without it")
    parser.add_argument("--scheme", action="append", help=f"scheme of hwc; {', '.join(SCHEMES)} without it")
    told = "method of ONNX Runtime's quantiser; all but gptq without it"
    parser.add_argument("--ort", action="append", choices=ORT_METHODS, help=told)
    parser.add_argument("--gptq-windows", type=int, default=4, help="calibration windows for ONNX Runtime's GPTQ")
    parser.add_argument("--fresh", action="store_true", help="quantise anew with the peers whose answers are kept")
    parser.add_argument("--seconds", type=float, default=120, help="time for the rounds of a model on 1 or 2 threads")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reference", help="folder to write into")
    parser.add_argument("--cache", type=Path, default=cache, help="folder of peers' environments and answers")
    parser.add_argument("--store", type=Path, default=cache / "store", help="store of the bundles that are built")
    arguments = parser.parse_args()
    arguments.model, arguments.only = arguments.model or MODELS, arguments.only or ("quality", "speed")
    arguments.scheme = tuple(arguments.scheme or SCHEMES)
    arguments.ort = arguments.ort or [name for name in ORT_METHODS if name != "gptq"]
    return arguments


def _when() -> dict[str, Any]:
    from hwc import machine

    busy = quiet.busy_cores()
    return {
        "measured_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "busy_cores_before": busy,
        "quiet": busy <= quiet.MOST_BUSY_CORES, "machine": machine.describe().as_json(),
    }


def _quality(built: Built, arguments: argparse.Namespace) -> dict[str, Any]:
    own = [language_quality.own(f"hwc {name}", found) for name, found in built.quantised.items()]
    peers = [
        *(
            language_quality.onnxruntime(built, method, ORT_METHODS[method], arguments.gptq_windows)
            for method in arguments.ort
        ),
        language_quality.llmcompressor(built, arguments.cache / "peers"),
    ]
    rows = language_quality.measure(built, [*own, *peers], arguments.cache / "answers", fresh=arguments.fresh)
    return {
        "reference": built.spec.evaluation.reference, "data_sha256": built.spec.evaluation.sha256,
        "windows": built.spec.evaluation.items, "calibration": built.spec.calibration.model_dump(mode="json"),
        "rows": rows, "shipped": [language_quality.own_shipped(built, name) for name in built.quantised],
    }


def _speed(built: Built, arguments: argparse.Namespace) -> dict[str, Any]:
    schemes = [name for name in TIMED if name in built.quantised]
    with tempfile.TemporaryDirectory(prefix="hwc-bench-") as name:
        work = Path(name)
        found, absent = language_speed.candidates(built, schemes, arguments.cache / "peers", work)
        rows = []
        for threads in (1, 2):
            print(f"speed of {built.spec.name} on {threads} threads", file=sys.stderr, flush=True)
            rows += language_speed.measure(built, found, threads=threads, seconds=arguments.seconds, work=work)
    return {
        "rows": rows, "absent": absent, "context_tokens": built.spec.generation.context_tokens,
        "prompt": built.spec.generation.golden_prompt, "seconds": arguments.seconds,
        "versions": {
            **{name: metadata.version(name) for name in ("iree-base-runtime", "onnxruntime")},
            "llama.cpp": environment.LLAMA_CPP.packages[0],
        },
    }


if __name__ == "__main__":
    sys.exit(main())
