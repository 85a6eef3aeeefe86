"""What became of one variant: its steps' outputs, read into the files, facts and metadata that a bundle holds."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hwc import digest, machine
from hwc.bundle import pack
from hwc.bundle.describe import Findings, describe
from hwc.bundle.describe_language import equivalents
from hwc.bundle.manifest import content_sha256
from hwc.bundle.serving import Serving, to_document
from hwc.capture.calls import DOMAINS
from hwc.capture.greedy import LOGITS, TOKENS
from hwc.lower import hand_over
from hwc.measure import noise
from hwc.pipeline.plan import Plan, VariantPlan
from hwc.pipeline.step import tool_version
from hwc.pipeline.store import Artifact
from hwc.program import device_facts
from hwc.quantise.encode import archives_in
from hwc.spec.model import Gates
from hwc.spec.prices import PriceTable

TOOLS = ("torch", "optimum-onnx", "onnx", "onnxsim", "onnxruntime", "iree-base-compiler", "iree-base-runtime")

LANGUAGE_GOLDEN = (DOMAINS, TOKENS, LOGITS)
"""Golden files of language models alone."""


def _kept_bits(lowered: Mapping[str, Any]) -> int | None:
    """Return the fewest bits of activations that a kernel in an artefact keeps; None where all keep what they get."""
    kernels = lowered.get("vendor", {}).get("kernels", {}).values()
    return min((one["activation_bits"] for one in kernels if one["linked"] and "activation_bits" in one), default=None)


def _read(folder: Path, name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / name).read_text())
    return loaded


class Outcome:
    """The outputs of one variant's steps."""

    def __init__(
        self, plan: Plan, variant: VariantPlan, done: Mapping[str, Artifact], tuned: Mapping[str, Any] | None = None
    ) -> None:
        self.spec, self.variant = plan.found.spec, variant
        self.path = {
            name: done[step.key].path
            for name, step in {
                "capture": variant.capture, "simplify": variant.simplify, "cases": variant.cases,
                "reference": variant.reference, "nearest": variant.nearest, "noise": variant.noise,
                "encode": variant.encode, "lower": variant.lower, "check": variant.check, "profile": variant.profile,
            }.items()
            if step is not None and step.key in done
        }
        self.sha256 = {
            artifact.path / name: sha256 for artifact in done.values() for name, sha256 in artifact.sha256.items()
        }
        self.audit = _read(self.path["encode"], "audit.json")
        self.check = _read(self.path["check"], "check.json") if "check" in self.path else None
        self.profile = _read(self.path["profile"], "profile.json") if "profile" in self.path else None
        self.tuned = dict(tuned) if tuned else None

    @property
    def functional(self) -> bool:
        """Whether the device is only good for functional tests."""
        return self.variant.target.spec.execution.functional_only

    def gates(self) -> Gates:
        """Return the gates of the variant's scheme; a functional device owes no more greedy tokens than it makes."""
        gates, generation = self.spec.gates.get(self.variant.scheme.name, Gates()), self.spec.generation
        if not (self.functional and generation and gates.greedy_tokens_min):
            return gates
        return gates.model_copy(
            update={"greedy_tokens_min": min(gates.greedy_tokens_min, generation.functional_tokens)}
        )

    @property
    def parity_max_abs(self) -> float:
        """Largest difference allowed to ONNX Runtime on the same quantised graph."""
        own, rounded = self.spec.parity_max_abs, self.spec.parity_rounded_max_abs
        bits = _kept_bits(_read(self.path["lower"], "lower.json"))
        if bits is not None and rounded is not None:
            own = rounded
        elif bits is not None and "noise" in self.path:
            own = max(own, noise.bound_at(self.path["noise"], bits))
        return max(own, noise.bound(self.path["noise"]) if self.variant.scheme.rounds_activations else 0.0)

    @property
    def measured_utc(self) -> str | None:
        """When it was profiled here; None if it was not."""
        return self.profile["measured_utc"] if self.profile else None

    def files(self) -> dict[str, Path]:
        """Role to file: what the bundle holds."""
        code = hand_over.FILES if self.variant.target.spec.made == "hand-over" else ("module.vmfb",)
        found = {
            **{f"code/{name}": self.path["lower"] / name for name in code},
            **{f"weights/{path.name}": path for path in archives_in(self.path["encode"])},
            "graph/model.onnx": self.path["encode"] / "graph.onnx",
        }
        for name in ("cases.npz", "cases.json", "expected.npz", *LANGUAGE_GOLDEN):
            if (self.path["cases"] / name).is_file():
                found[f"golden/{name}"] = self.path["cases"] / name
        if "reference" in self.path:
            found["golden/reference.npz"] = self.path["reference"] / "expected.npz"
        if "nearest" in self.path:
            found["golden/nearest.npz"] = self.path["nearest"] / "expected.npz"
        for kind in ("tokenizer", "licences"):
            folder = self.path["capture"] / kind
            for file in sorted(folder.iterdir()) if folder.is_dir() else []:
                found[f"{kind}/{file.name}"] = file
        return found

    def facts(self) -> dict[str, Any]:
        """Return what is true of the variant wherever it was built: no time, no path, no measurement."""
        target, spec = self.variant.target, self.spec
        return {
            "model": {
                "id": spec.name, "title": spec.title, "task": spec.task, "licence": spec.licence,
                "batch_dim": spec.batch_dim, "outputs": list(spec.outputs),
                "inputs": {name: tensor.model_dump(mode="json") for name, tensor in spec.inputs.items()},
            },
            "target": target.spec.model_dump(mode="json", exclude_none=True),
            "target_sha256": digest.of_json(target.spec.model_dump(mode="json")),
            "device": device_facts(target.device),
            "scheme": asdict(self.variant.scheme),
            "audit": self.audit,
            "capture": _read(self.path["capture"], "capture.json"),
            "simplify": _read(self.path["simplify"], "simplify.json"),
            "lower": _read(self.path["lower"], "lower.json"),
            "evaluation": spec.evaluation.model_dump(mode="json", exclude_none=True),
            **_evaluator_facts(self.variant),
            "gates": self.gates().model_dump(mode="json", exclude_none=True),
            "parity_max_abs": self.parity_max_abs,
            **({"generation": self.language()} if spec.generation else {}),
            "tools": {tool: tool_version(tool) for tool in TOOLS},
        }

    def language(self) -> dict[str, Any] | None:
        """Return the shape of a language model and of its cache; None for any other model."""
        if self.spec.generation is None:
            return None
        told = self.spec.generation
        return {
            **_read(self.path["capture"], "capture.json")["language"],
            "context_tokens": told.context_tokens, "batches": list(told.batches),
            "greedy_tokens": told.functional_tokens if self.functional else told.golden_tokens,
        }

    def serving(self, tag: str, prices: PriceTable, golden_tokens: Mapping[str, Sequence[int]]) -> Serving:
        """Return the variant's serving metadata; ``golden_tokens`` of every variant that was checked, by name."""
        digests = self.digests()
        found = Findings(
            bundle_id=f"{self.spec.name}:{tag}",
            model_id=self.spec.name,
            created_utc=created_utc([self]),
            target=self.variant.target.spec,
            scheme=self.variant.scheme.name,
            content_sha256=content_sha256(digests.items()),
            golden_sha256=digests["golden/cases.npz"],
            tokenizer_sha256=digests.get("tokenizer/tokenizer.json"),
            audit=self.audit,
            check=self.check,
            profile=self.profile,
            tools={tool: tool_version(tool) for tool in TOOLS},
            raw={name: digest.of_json(document) for name, document in self.documents().items()},
            language=self.language(),
            lowered=_read(self.path["lower"], "lower.json"),
            equivalents=equivalents(self.variant.name, golden_tokens),
        )
        return describe(found, prices)

    def digests(self) -> dict[str, str]:
        """Role to digest of its file, as recorded when it was made."""
        return {role: self.sha256[path] for role, path in self.files().items()}

    def documents(self) -> dict[str, dict[str, Any]]:
        """Return the measurements as they were made."""
        found = {"check.json": self.check, "profile.json": self.profile, "tune.json": self.tuned}
        return {name: document for name, document in found.items() if document}

    def parts(self, serving: Serving) -> pack.VariantParts:
        """Return what is packed."""
        measurement = pack.MeasurementParts(
            serving=to_document(serving),
            machine_sha256=machine.describe().fingerprint,
            method="build",
            documents=self.documents(),
        )
        return pack.VariantParts(
            target=self.variant.target.spec.name,
            scheme=self.variant.scheme.name,
            status=serving.status,
            files=self.files(),
            sha256=self.digests(),
            facts=self.facts(),
            measurements=(measurement,),
        )


def _evaluator_facts(variant: VariantPlan) -> dict[str, str]:
    """Return the digest of the user's own evaluator, by which a later check knows that it is the same."""
    sha256 = variant.check.params.get("evaluator_sha256") if variant.check else None
    return {"evaluator_sha256": sha256} if sha256 else {}


def created_utc(outcomes: Sequence[Outcome]) -> str:
    """Return when the newest measurement was made, or SOURCE_DATE_EPOCH, or the epoch where nothing was measured."""
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(epoch)))
    return max(filter(None, (outcome.measured_utc for outcome in outcomes)), default="1970-01-01T00:00:00Z")
