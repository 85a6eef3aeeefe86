"""Export to a Triton model repository: the Python backend runs the compiled code, ONNX Runtime the graph."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from hwc import digest, machine
from hwc.bundle.export_dir import appearing, chosen_measurement, copy_file
from hwc.bundle.open import Variant
from hwc.bundle.program import program_of
from hwc.errors import GateError, IntegrityError, UsageError
from hwc.files import confined
from hwc.serve.first_cases import FirstCase, first_cases
from hwc.serve.onnx_model import graph_of, prove, whole_model
from hwc.serve.triton_config import ModelConfig, Tensor, WarmUp, text
from hwc.serve.triton_ports import Ports, ports_of

Backend = Literal["iree", "onnxruntime"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
DRIVERS = ("local-sync", "local-task", "vulkan", "cuda", "hip")
"""Drivers that a server's own process can open."""
VERSION = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One folder of a model repository."""

    name: str
    backend: Backend
    variant: Variant


def export(
    variants: Sequence[Variant], destination: Path, *, backends: Sequence[Backend] = BACKENDS,
    allow_unverified: bool = False,
) -> tuple[Model, ...]:
    """Write a model repository, whole or not at all; return its models.

    Raises UsageError for a destination that is taken, a device no server can open or a bundle without a graph,
    GateError for an unverified variant, IntegrityError for altered bytes.
    """
    models = plan(variants, backends=backends, allow_unverified=allow_unverified)
    with appearing(destination) as folder:
        for model in models:
            model.variant.verify()
            _write(model, folder / model.name)
    return models


def plan(variants: Sequence[Variant], *, backends: Sequence[Backend], allow_unverified: bool) -> tuple[Model, ...]:
    """Return the models to write: one a variant for the compiled code, one a scheme for ONNX Runtime."""
    models: dict[str, Model] = {}
    for variant in variants:
        _refuse(variant, backends, allow_unverified)
        names: dict[Backend, str] = {
            "iree": f"{variant.model_id}-{variant.target}-{variant.scheme}-iree",
            "onnxruntime": f"{variant.model_id}-{variant.scheme}-onnxruntime",
        }
        for backend in backends:
            name = names[backend]
            other = models.setdefault(name, Model(name=name, backend=backend, variant=variant))
            if other.variant is variant:
                continue
            if backend == "iree":
                raise UsageError(f"{other.variant.name} and {variant.name} would both be called {name}")
            if _shapes(variant) > _shapes(other.variant):  # a software stand-in is compiled for fewer shapes
                models[name] = Model(name=name, backend=backend, variant=variant)
    return tuple(models.values())


def _shapes(variant: Variant) -> int:
    return len(program_of(variant).functions)


def _refuse(variant: Variant, backends: Sequence[Backend], allow_unverified: bool) -> None:
    if "generation" in variant.facts:
        raise UsageError(
            "a language model cannot be exported to Triton yet: it keeps a cache between calls, which "
            "requests would share",
            where=variant.name, hint="`hwc run --prompt` and hwc.open(…).generate(…) run it",
        )
    if variant.status != "verified" and not allow_unverified:
        raise GateError(
            "the variant is unverified: it never ran on the device it is for", where=variant.name,
            hint="check it on such a machine, name other variants as BUNDLE#TARGET/SCHEME, or `--allow-unverified`",
        )
    program = program_of(variant)
    driver = program.device.driver
    if "iree" in backends and program.beside:
        raise UsageError(
            f"the Triton model opens one device; this artefact runs on {len(program.beside) + 1}", where=variant.name,
            hint="export a variant that runs on one device",
        )
    if "iree" in backends and driver not in DRIVERS:
        raise UsageError(
            f"Triton cannot have the variant's device: driver {driver!r}", where=variant.name,
            hint="name other variants as BUNDLE#TARGET/SCHEME, or export with `--backend onnxruntime` alone",
        )
    if "onnxruntime" in backends:
        graph_of(variant)


def _write(model: Model, folder: Path) -> None:
    files = folder / VERSION
    files.mkdir(parents=True)
    cases = first_cases(model.variant)
    if model.backend == "iree":
        ports, parameters = ports_of(model.variant), {"program_sha256": _write_code(model.variant, files)}
    else:
        ports, parameters = _write_onnx(model.variant, files, cases), {}
    for role, blob in model.variant.files.items():
        if role.startswith(("tokenizer/", "licences/")):
            copy_file(blob, confined(files, role))
    config = _config(model, ports, _warm_ups(cases, ports, folder / "warmup"), parameters)
    (folder / "config.pbtxt").write_text(text(config), encoding="utf-8")


def _write_onnx(variant: Variant, files: Path, cases: Sequence[FirstCase]) -> Ports:
    whole = whole_model(variant)
    (files / "model.onnx").write_bytes(whole.SerializeToString(deterministic=True))
    prove(files / "model.onnx", cases, float(variant.facts["parity_max_abs"]))
    return ports_of(variant, whole)


def _write_code(variant: Variant, files: Path) -> str:
    """Write code, weights and the model that runs them; return the digest of what it reads first."""
    source = Path(__file__).with_name("triton_model.py").read_bytes()
    (files / "model.py").write_bytes(source)
    names = {"code/module.vmfb": "module.vmfb"}
    for role in sorted(variant.files):
        if role.startswith("weights/"):
            if not role.endswith(".irpa"):  # the folder is where Python looks for modules
                raise IntegrityError(f"not a parameter archive: {role!r:.120}", where=variant.name)
            names[role] = role.partition("/")[2]
    for role, name in names.items():
        copy_file(variant.files[role], confined(files, name))
    program = _program(variant, {name: variant.files[role].sha256 for role, name in names.items()})
    payload = json.dumps(program, indent=1, sort_keys=True).encode()
    (files / "program.json").write_bytes(payload)
    return digest.of_bytes(payload)


def _program(variant: Variant, files: dict[str, str]) -> dict[str, Any]:
    program, facts = program_of(variant), variant.facts
    device = program.device
    return {
        "files": files,
        "device": {
            "driver": device.driver, "device_match": device.device_match, "threads": device.threads,
            "architecture": device.architecture,
            "cpu_flags": sorted(set(machine.linux_flags(device.isa_features).values())),
        },
        "functions": [asdict(function) for function in program.functions],
        "batch_dim": facts["model"]["batch_dim"],
        "inputs": {
            name: {key: rule[key] for key in ("dtype", "shape", "pad")}
            for name, rule in facts["model"]["inputs"].items()
        },
        "output_dims": facts["capture"].get("output_dims", {}),
    }


def _config(model: Model, ports: Ports, warm_ups: tuple[WarmUp, ...], parameters: dict[str, str]) -> ModelConfig:
    told = {"variant": model.variant.name, "content_sha256": model.variant.content_sha256, **parameters}
    return ModelConfig(
        name=model.name,
        backend="python" if model.backend == "iree" else "onnxruntime",
        model_file="" if model.backend == "iree" else "model.onnx",
        max_batch=ports.max_batch,
        inputs=ports.inputs,
        outputs=ports.outputs,
        preferred_batches=tuple(batch for batch in ports.batches if batch > 1),
        queue_delay_us=queue_delay_us(model.variant),
        warm_ups=warm_ups,
        parameters=tuple(sorted(told.items())),
    )


def queue_delay_us(variant: Variant) -> int:
    """Return how long a request may wait for company: the median of the fastest measured call, or 0 if unmeasured."""
    chosen = chosen_measurement(variant)
    cells = chosen.parsed_serving().profile.request if chosen is not None else ()
    return int(min((cell.latency_ms.p50 * 1000 for cell in cells if cell.valid), default=0))


def _warm_ups(cases: Sequence[FirstCase], ports: Ports, folder: Path) -> tuple[WarmUp, ...]:
    """Write one item of each shape's first golden case; the server repeats it up to the batch."""
    folder.mkdir()
    found: list[WarmUp] = []
    for number, case in enumerate(cases):
        inputs: list[tuple[Tensor, str]] = []
        for position, port in enumerate(ports.inputs):
            value = case.feeds[port.name]
            item = value[0] if ports.batched else value
            name = f"{number}-{position}"
            (folder / name).write_bytes(item.astype(port.dtype).tobytes())
            inputs.append((Tensor(name=port.name, dtype=port.dtype, dims=item.shape), name))
        batch = len(case.feeds[ports.inputs[0].name]) if ports.batched else 1
        found.append(WarmUp(name=case.bucket, batch=batch, inputs=tuple(inputs)))
    return tuple(found)
