"""Graphs split over devices of one artefact: compiled, and run on as many devices; shared by tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from compiled_parts import FLAGS, LIMITS

from hwc import onnx_io
from hwc.formats import Kind
from hwc.lower import iree, kernel_objects
from hwc.lower.opened import Opened
from hwc.lower.passes.devices import declare_devices, write_parts
from hwc.lower.passes.kept_state import KeptTensor, keep_state
from hwc.lower.passes.linears import generated, rewrite_linears
from hwc.lower.passes.merge import merge_buckets
from hwc.program import Device, Function, Port, Program, Slice
from hwc.quantise.encode import write_archive
from hwc.quantise.encodings import Packed
from hwc.runtime.session import Session


def answer(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return what ONNX Runtime computes; weights are among ``feeds``."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, dict(feeds))[0]
    return found


def plain(weights: Mapping[str, np.ndarray]) -> dict[str, Packed]:
    """Return float weights as they lie in an archive."""
    return {name: Packed(payload=v, dtype="float32", shape=v.shape) for name, v in weights.items()}


def module(
    model: onnx.ModelProto, work: Path, devices: int, encodings: Mapping[Kind, str], own: Opened | None = None,
    kept: Sequence[KeptTensor] = (),
) -> str:
    """Return a sharded graph's module, as it is compiled."""
    model.graph.name = "main_graph"
    onnx_io.save(model, work / "g.onnx")
    count = len(onnx_io.weight_names(model))
    text = iree.import_graph(work / "g.onnx", inputs=len(model.graph.input) - count, work=work, limits=LIMITS)
    choose = generated if own is None else own.door.chosen
    text = keep_state(write_parts(text, "model"), kept)
    made = rewrite_linears(text, encodings=encodings, scope="model", choose=choose)
    text = declare_devices(merge_buckets({"main": made.mlir}), iree.probe_target(FLAGS, work), devices)
    if own is None:
        return text
    own.note("main", made.seen)
    return own.declared(text)


def flow_and_code(
    model: onnx.ModelProto, work: Path, devices: int, encodings: Mapping[Kind, str] | None = None
) -> tuple[str, Path]:
    """Compile a sharded graph; return its flow IR and the artefact."""
    text = module(model, work, devices, encodings or {})
    return iree.flow_text(text, FLAGS, work=work, limits=LIMITS), compiled(text, work)


def compiled(text: str, work: Path) -> Path:
    """Compile a module; objects of kernels lie in a folder of their own."""
    flags = (*FLAGS, f"--iree-hal-executable-object-search-path={kernel_objects.FOLDER}")
    return iree.compile_module(text, flags, work=work, limits=LIMITS)[0]


def loaded(
    code: Path, entries: Mapping[str, Packed], inputs: Mapping[str, np.ndarray], shape: tuple[int, ...], devices: int
) -> Session:
    """Load an artefact whose one function yields ``y``, on devices of its own."""
    archive = code.with_name("weights.irpa")
    write_archive(entries, archive)
    return Session(
        Program(
            code=Slice(path=code), parameters=(Slice(path=archive),),
            functions=(
                Function(
                    name="main", bucket={},
                    inputs=tuple(Port(name=name, dtype=str(x.dtype), shape=x.shape) for name, x in inputs.items()),
                    outputs=(Port(name="y", dtype="float32", shape=shape),),
                ),
            ),
            device=Device(driver="local-sync"), beside=(Device(driver="local-sync"),) * (devices - 1),
        )
    )
