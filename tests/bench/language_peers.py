"""Who generates text beside hwc: ONNX Runtime on hwc's own graph, llama.cpp on the GGUF file, onnxruntime-genai."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ort_graphs
from contestants import Contestant
from language_built import FLOAT, Built
from peers import environment
from peers.environment import Environment, Unavailable

from hwc import onnx_io
from hwc.capture import gguf
from hwc.quantise import codes, quantise
from hwc.quantise.graph import apply, onnx_tensors

ACCURACY = {1: "f32 inside", 4: "int8 inside"}
BUILDER = ("-p", "int4", "-e", "cpu", "--extra_options", "int4_accuracy_level=4", "int4_block_size=32")
"""Options of onnxruntime-genai's own model builder: its int4 with int8 activations, in groups of 32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cases:
    """Prompt lengths that contestants are asked."""

    full: tuple[str, ...]
    some: tuple[str, ...]
    """Of contestants that are not in the first rank: floats, and fp8."""
    one: tuple[str, ...]
    """Of ONNX Runtime's accuracy 1, which takes a second for a token of Gemma."""


def onnxruntime(built: Built, coded: str, common: Mapping[str, Any], cases: Cases, work: Path) -> Iterator[Contestant]:
    """Yield ONNX Runtime on the float graph, and on a scheme's codes at both levels of accuracy."""
    floats = ort_graphs.Folder(work / "ort-float").write(graph(built, FLOAT), "model")
    config = {**common, "engine": "onnxruntime", "graph": str(floats)}
    yield Contestant(
        name="ONNX Runtime f32", precision="float", cases=cases.some, config=config, weights=FLOAT
    )
    model, folder = graph(built, coded), ort_graphs.Folder(work / "ort-coded")
    for level, inside in ACCURACY.items():
        path = folder.write(ort_graphs.with_accuracy(model, level), f"accuracy-{level}")
        yield Contestant(
            name=f"ONNX Runtime MatMulNBits, accuracy {level} ({inside})", precision="4 bits",
            cases=cases.full if level == 4 else cases.one, config={**config, "graph": str(path)}, weights=coded,
        )


def graph(built: Built, scheme: str) -> Any:
    """Return the captured graph in a scheme, with its weights."""
    from safetensors.numpy import load_file

    weights = dict(load_file(built.capture / "weights.safetensors"))
    model = onnx_io.load_graph(built.capture / "graph.onnx")
    if scheme != FLOAT:
        folder = built.quantised[scheme].folder
        layers, coded = quantise.read_layers(folder), codes.load(folder / quantise.CODES)
        model = apply(layers, model, where="graph.onnx")
        for linear in layers:
            weights.update(onnx_tensors(linear, coded[linear.layer]))
        weights.update(quantise.read_overrides(folder))
    return onnx_io.attach(model, {name: weights[name] for name in onnx_io.weight_names(model)})


def llama_cpp(built: Built, common: Mapping[str, Any], cases: Cases, environments: Path, work: Path) -> Contestant:
    """Return llama.cpp on the GGUF file that hwc's weights come from; raise Unavailable if it does not install."""
    python = environment.make(environment.LLAMA_CPP, environments)
    whole = built.gguf[0]
    if len(built.gguf) > 1:
        whole = work / "model.gguf"
        with whole.open("wb") as stream:
            for part in built.gguf:
                stream.write(part.read_bytes())
    config = {**common, "engine": "llama_cpp", "gguf": str(whole)}
    return Contestant(
        name="llama.cpp, the same GGUF file", precision="4 bits", cases=cases.full, config=config, weights="gguf",
        python=str(python),
    )


def genai(built: Built, common: Mapping[str, Any], cases: Cases, cache: Path) -> Contestant:
    """Return onnxruntime-genai on what its own builder makes of the weights; raise Unavailable if it makes nothing.

    What it makes is kept under ``cache``.
    """
    wanted = environment.ONNXRUNTIME_GENAI
    python = environment.make(wanted, cache / "peers")
    folder = cache / "genai" / f"{built.spec.name}-{built.inputs_key}"
    if not (folder / "genai_config.json").is_file():
        _build(python, built.gguf, folder, wanted)
    return Contestant(
        name="onnxruntime-genai int4 (int8 inside)", precision="4 bits", cases=cases.full,
        config={**common, "engine": "onnxruntime_genai", "folder": str(folder)}, weights="builder", python=str(python),
    )


def _build(python: Path, parts: Sequence[Path], folder: Path, wanted: Environment) -> None:
    source, made = folder.with_name(f"{folder.name}-source"), folder.with_name(f"{folder.name}-new")
    for one in (source, made):
        shutil.rmtree(one, ignore_errors=True)
    gguf.to_folder(parts, source)
    argv = (str(python), "-m", "onnxruntime_genai.models.builder", "-m", str(source), "-i", str(source))
    log = folder.with_name(f"{folder.name}.log")
    with log.open("w") as out:
        done = subprocess.run(
            (*argv, "-o", str(made), "-c", str(source / "cache"), *BUILDER), stdout=out, stderr=out, check=False
        )
    shutil.rmtree(source)
    if done.returncode != 0 or not (made / "genai_config.json").is_file():
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise Unavailable(f"the model builder of {wanted.packages[0]} ended: {' '.join(last)[:200]}")
    made.rename(folder)


def vocabulary(built: Built) -> int:
    """Return how many tokens there are."""
    return int(json.loads((built.capture / "capture.json").read_text())["language"]["vocab_size"])
