"""Measure language models' quality beside their peers'; write docs/reference/bench-language.md: `make bench-language`.

KL, agreement and perplexity of hwc's schemes and of other quantisers', in one protocol; speed is bench.py's. `--model`
selects; what is not measured in a run is taken from the JSON of the run before.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import language_built
import language_page
import language_quality
import quiet
from language_built import Built

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("smollm2", "gemma3-270m")
SCHEMES = ("w4a16-rtn", "w4a16", "w4a16-asym", "fp8")
ORT_METHODS = {"default-sym": 5.0, "default-asym": 5.125, "k_quant": 5.125, "hqq": 6.0, "gptq": 5.0}
"""Methods of ONNX Runtime's quantiser, and the bits they store for a weight in groups of 32, with float32 scales."""


def main() -> int:
    """Measure what is asked for and write the page."""
    arguments = _arguments()
    os.environ["HF_HUB_OFFLINE"] = "1"
    told = arguments.out / "bench-language.json"
    facts: dict[str, Any] = json.loads(told.read_text()) if told.is_file() else {"quality": {}}
    for model in arguments.model:
        built = language_built.build(model, arguments.scheme, arguments.store)
        facts["quality"][model] = {**quiet.when(), **_quality(built, arguments)}
        arguments.out.mkdir(parents=True, exist_ok=True)
        told.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")  # after each model: a run may be cut off
        (arguments.out / "bench-language.md").write_text(language_page.page(facts))
    print(language_page.page(facts))
    return 0


def _arguments() -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hwc-bench"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=MODELS, help="model; all without it")
    parser.add_argument("--scheme", action="append", help=f"scheme of hwc; {', '.join(SCHEMES)} without it")
    told = "method of ONNX Runtime's quantiser; all but gptq without it"
    parser.add_argument("--ort", action="append", choices=ORT_METHODS, help=told)
    parser.add_argument("--gptq-windows", type=int, default=4, help="calibration windows for ONNX Runtime's GPTQ")
    parser.add_argument("--fresh", action="store_true", help="quantise anew with the peers whose answers are kept")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "reference", help="folder to write into")
    parser.add_argument("--cache", type=Path, default=cache, help="folder of peers' environments and answers")
    parser.add_argument("--store", type=Path, default=cache / "store", help="store of the bundles that are built")
    arguments = parser.parse_args()
    arguments.model = arguments.model or MODELS
    arguments.scheme = tuple(arguments.scheme or SCHEMES)
    arguments.ort = arguments.ort or [name for name in ORT_METHODS if name != "gptq"]
    return arguments


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


if __name__ == "__main__":
    sys.exit(main())
