"""The steps before a target matters: capture, shapes, cases, calibration and codes, with what each reads in its key."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from hwc.capture.source import Located
from hwc.pipeline import stages
from hwc.pipeline.step import Step, make_step
from hwc.quantise.scheme import Scheme
from hwc.quantise.sensitivity import Question
from hwc.spec.model import Bucket, ModelSpec, PythonSource
from hwc.spec.project import Found

SENSITIVITY_CASES = 2
"""Calibration cases on which each layer is rounded alone: every layer runs the whole model that often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a plan depends on beside the specifications."""

    machine_fingerprint: str
    method: dict[str, Any]
    """How to profile; see measure.profile.Method."""
    timeout_s: float
    memory_bytes: int
    profile: bool = True


def sliced(spec: ModelSpec, *fields: str, **replaced: Any) -> dict[str, Any]:
    """Return the specification with every field a stage does not read left out, so that it is not in the key."""
    kept = spec.model_dump(mode="json", include={*fields, "inputs", "outputs"}, exclude_defaults=True)
    return {
        "source": {"kind": "onnx", "path": "unread"},
        "buckets": [dict(spec.buckets[0])],
        **kept,
        **replaced,
    }


class Front:
    """The steps before a target matters."""

    def __init__(self, found: Found, located: Located, setting: Setting) -> None:
        self.found, self.spec, self.located, self.setting = found, found.spec, located, setting
        self.local = {
            "name": found.spec.name,
            "timeout_s": str(setting.timeout_s),
            "memory_bytes": str(setting.memory_bytes),
        }

    def capture(self) -> Step:
        """Return the step that captures the source as a detached graph."""
        source = self.spec.source
        params: dict[str, Any] = {
            "spec": sliced(self.spec, "opset", source=self._source(), buckets=[self._example()], **self._golden()),
            "content_sha256": self.located.content_sha256,
        }
        local = {
            **self.local,
            "path": str(self.located.path),
            "checkpoint": str(self.located.checkpoint or ""),
            "licences": str(self.located.licence_folder or ""),
            "parts": json.dumps([str(part) for part in self.located.parts]),
        }
        return make_step(stages.CAPTURE, f"capture {self.spec.name} ({source.kind})", params, local=local)

    def _source(self) -> dict[str, Any]:
        """Return the source without its place: what lies there is in the digest."""
        dumped: dict[str, Any] = self.spec.source.model_dump(mode="json", exclude_defaults=True)
        for key in ("path", "package", "module", "folder", "checkpoint", "files"):
            dumped.pop(key, None)
        if isinstance(self.spec.source, PythonSource):
            dumped["factory"] = "factory.py:" + self.spec.source.factory.rpartition(":")[2]
        return {**dumped, "path": "located"} if self.spec.source.kind != "python" else dumped

    def _golden(self) -> dict[str, Any]:
        """Return what capture reads of a language model's generation: the text it records, not the shapes."""
        if self.spec.generation is None:
            return {}
        return {
            "generation": self.spec.generation.model_dump(
                mode="json", include={"golden_prompt", "golden_tokens", "kv_dtype"}, exclude_defaults=True
            )
        }

    def _example(self) -> dict[str, int]:
        """Return the bucket that is traced: the first for the python exporter; the other sources read none."""
        if isinstance(self.spec.source, PythonSource):
            return dict(self.spec.buckets[0])
        return dict.fromkeys(self.spec.buckets[0], 1)

    def simplify(self, buckets: tuple[Bucket, ...]) -> Step:
        """Return the step that makes one static graph a bucket."""
        params = {"spec": sliced(self.spec, buckets=[dict(bucket) for bucket in buckets], **self.context())}
        return make_step(
            stages.SIMPLIFY, f"simplify {self.spec.name}", params, {"capture": self.capture()}, self.local
        )

    def cases(self, buckets: tuple[Bucket, ...], items: int) -> Step:
        """Return the step that makes golden cases of so many items, and the float model's answers."""
        evaluation = self.spec.evaluation.model_dump(
            mode="json", include={"file", "sha256", "seed"}, exclude_defaults=True
        )
        if "file" in evaluation:
            evaluation["file"] = "located"
        params = {
            "spec": sliced(
                self.spec, "batch_dim", buckets=[dict(bucket) for bucket in buckets], evaluation=evaluation,
                **self.context(),
            ),
            "items": items,
        }
        local = {**self.local, "text": str(self.found.folder / self.spec.evaluation.file)}
        inputs = {"capture": self.capture(), "simplify": self.simplify(buckets)}
        return make_step(stages.CASES, f"golden cases of {self.spec.name}", params, inputs, local)

    def context(self) -> dict[str, Any]:
        """Return what stages with static shapes read of a language model's generation: the length of its cache."""
        if self.spec.generation is None:
            return {}
        longest = self.spec.generation.context_tokens
        return {"generation": {"context_tokens": longest, "prefill_tokens": [1], "score_tokens": 1}}

    def quantise(self, scheme: Scheme) -> Step:
        """Return the step that chooses a scheme's codes."""
        params = {"scheme": asdict(scheme), "exclude": list(self.spec.quantise.exclude)}
        label = f"quantise {self.spec.name} to {scheme.name}"
        inputs = {"capture": self.capture()}
        if scheme.needs_data:
            inputs["calibration"] = self.calibration()
        if scheme.budget_bits is not None:
            inputs["sensitivity"] = self.sensitivity(scheme)
        return make_step(stages.QUANTISE, label, params, inputs, self.local)

    def sensitivity(self, scheme: Scheme) -> Step:
        """Return the step that measures what each layer costs in a scheme's format."""
        assert scheme.linears is not None
        asked = Question(
            form=scheme.linears, exclude=self.spec.quantise.exclude, output=self.spec.outputs[0],
            language=self.spec.generation is not None, cases=SENSITIVITY_CASES,
        )
        label = f"sensitivity of {self.spec.name} to {scheme.linears.told()}"
        inputs = {"capture": self.capture(), "calibration": self.calibration()}
        return make_step(stages.SENSITIVITY, label, {"question": asdict(asked)}, inputs, self.local)

    def calibration(self) -> Step:
        """Return the step that makes the cases which quantisation looks at."""
        told = self.spec.calibration.model_dump(mode="json", exclude_defaults=True)
        if "file" in told:
            told["file"] = "located/" + told["file"].rpartition("/")[2]
        pinned = self.spec.evaluation.model_dump(mode="json", include={"seed"}, exclude_defaults=True)
        if self.spec.evaluation.sha256:
            pinned |= {"file": "unread", "sha256": self.spec.evaluation.sha256}
        params = {
            "spec": sliced(
                self.spec, "batch_dim", buckets=[dict(bucket) for bucket in self.spec.buckets],
                calibration=told, evaluation=pinned, **self.context(),
            )
        }
        local = {**self.local, "text": str(self.found.folder / self.spec.calibration.file)}
        inputs = {"capture": self.capture()}
        return make_step(stages.CALIBRATION, f"calibration data of {self.spec.name}", params, inputs, local)
