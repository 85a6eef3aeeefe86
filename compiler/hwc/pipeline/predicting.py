"""Predict a model on a target: find its work, from a decoder's shape alone or from the compiler, then price it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwc.errors import GateError, UsageError
from hwc.events import Listener
from hwc.lower.coverage import Blocker, cover
from hwc.lower.legality import judge
from hwc.pipeline import calibrating, dispatches
from hwc.predict import answer, chip, language, shape
from hwc.predict.answer import Answer, Setting
from hwc.predict.language import Call
from hwc.predict.operation import Operation
from hwc.predict.shape import LanguageShape
from hwc.predict.storage import Storage, storage, supported, usual_activations
from hwc.quantise import scheme as schemes
from hwc.spec import infer
from hwc.spec.hardware import Element
from hwc.spec.model import bucket_id
from hwc.spec.project import Found, Project, find_prices, find_target
from hwc.spec.target import TargetSpec

BATCHES, PROMPTS, CONTEXTS = (1, 16, 64), (512,), (1024,)
"""What is predicted of a language model unless something else is asked."""
FLOAT = "fp32"
"""Scheme in which the compiler is asked for work, where none is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is to be predicted of a model."""

    model: str
    scheme: str | None = None
    chips: int = 1
    batches: tuple[int, ...] = ()
    prompts: tuple[int, ...] = ()
    contexts: tuple[int, ...] = ()
    activations: Element | None = None

    def calls(self) -> tuple[Call, ...]:
        """Return every prefill and decode of a language model that is asked for."""
        batches = self.batches or BATCHES
        first = [language.prefill(batch, tokens) for batch in batches for tokens in self.prompts or PROMPTS]
        return (*first, *(language.decode(batch, held) for batch in batches for held in self.contexts or CONTEXTS))


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A prediction, and what it is of."""

    model: str
    scheme: str
    activations: Element
    kv: Element | None
    parameters: int | None
    workload: str
    """Where the work comes from."""
    answer: Answer
    off_chip: tuple[Blocker, ...]
    """What the descriptor's rules do not leave to the chip itself; its time is counted as if they did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A model's work, found once."""

    operations: tuple[Operation, ...]
    on: Callable[[TargetSpec], Answer]
    """A target, or one that differs in its figures, to its answer."""


def predict(project: Project, asked: Asked, target_name: str, listen: Listener) -> Told:
    """Return the prediction; raises UsageError for what cannot be predicted, naming the figure that is not told.

    Of a decoder neither torch nor the compiler is asked; of any other model the compiler is, once. Raises GateError
    for work that the target's rules reject.
    """
    target = find_target(project, target_name)
    name, told, found = _shape(project, asked.model)
    work = work_of(project, asked, target, listen)
    off_chip = placed(target, work.operations)
    answered = work.on(target)
    if told is None:
        return Told(
            model=name, scheme=asked.scheme or FLOAT, activations="float32", kv=None, parameters=None,
            workload="the compiler's dispatches", answer=answered, off_chip=off_chip,
        )
    stored = _storage(asked, target, found)
    return Told(
        model=name, scheme=asked.scheme or f"{stored.linears.element} weights", activations=stored.activations,
        kv=stored.kv, parameters=told.parameters, workload="the model's shape", answer=answered, off_chip=off_chip,
    )


def placed(target: TargetSpec, operations: Sequence[Operation]) -> tuple[Blocker, ...]:
    """Return what the rules send away from the chip, largest first; raises GateError for what they reject."""
    verdicts = judge(operations, target.legality, target.placement)
    found = cover("", verdicts, gate=target.placement.coverage_gate, sources={})
    if found.rejected:
        first = found.rejected[0]
        raise GateError(
            f"`{target.name}` rejects {first.op} of {first.types}, {first.shares.flops:.0%} of the arithmetic: "
            f"{first.reason}",
            where="[[legality]]", hint="another -q or --activations may have types that it runs",
        )
    return found.blockers


def work_of(project: Project, asked: Asked, target: TargetSpec, listen: Listener) -> Work:
    """Return a model's work on a target: of a decoder by its shape, of any other model by the compiler."""
    name, told, found = _shape(project, asked.model)
    prices, calibration = find_prices(project), calibrating.of_target(project, target)

    def setting(changed: TargetSpec) -> Setting:
        return Setting(
            target=changed, prices=prices, chips=asked.chips, quantised=_quantised(asked), calibration=calibration
        )

    if told is not None:
        stored = _storage(asked, target, found)
        every = (language.operations(told, call, stored, chips=asked.chips) for call in asked.calls())
        return Work(
            operations=tuple(one for operations in every for one in operations),
            on=lambda changed: answer.of_language(told, asked.calls(), stored, setting(changed)),
        )
    assert found is not None  # what has no shape of a decoder is a model in full
    if asked.batches or asked.prompts or asked.contexts or asked.activations:
        raise UsageError(
            f"{name} is no language model: its shapes are its buckets", hint="leave out --batch, --prompt-tokens, "
            "--context and --activations, or add buckets to its specification",
        )
    traced = dispatches.of_model(project, found, target.name, asked.scheme or FLOAT, listen)
    batches = {bucket_id(bucket): bucket.get(found.spec.batch_dim, 1) for bucket in found.spec.buckets}
    shapes = {bucket: (batches.get(bucket, 1), operations) for bucket, operations in traced.workload.items()}
    return Work(
        operations=tuple(one for _, operations in shapes.values() for one in operations),
        on=lambda changed: answer.of_shapes(shapes, setting(changed)),
    )


def is_language(project: Project, model: str) -> bool:
    """Tell whether a model is a decoder, predicted from its shape."""
    return _shape(project, model)[1] is not None


def _quantised(asked: Asked) -> bool:
    return asked.scheme is not None and not schemes.find(asked.scheme).is_float


def _shape(project: Project, model: str) -> tuple[str, LanguageShape | None, Found | None]:
    """Return a model's name, its shape if it is a decoder, and its specification if more than a shape is there."""
    folder = Path(model)
    if infer.is_path(model) and (folder / "config.json").is_file() and not any(folder.glob("*.safetensors")):
        return infer.name_from(folder.absolute().name), shape.of_config(folder / "config.json"), None
    found = infer.find(project, model)
    if found.spec.generation is None:
        return found.spec.name, None, found
    return found.spec.name, shape.read(found.spec.source, found.folder), found


def _storage(asked: Asked, target: TargetSpec, found: Found | None) -> Storage:
    """Return the types of a prediction: those asked for, else what the chip's matrix units have."""
    activations = asked.activations or _usual(target)
    if asked.scheme is None:
        return storage(None, activations)
    tables = found.spec.quantise.embeddings if found is not None else "float"
    return storage(schemes.find(asked.scheme).of_model(tables), activations)


def _usual(target: TargetSpec) -> Element:
    if not target.hardware.units:
        return "float32"
    base = chip.corners(target)["base"]
    usual = usual_activations(base)
    if not supported(base, usual):
        raise UsageError(
            f"no unit of `{target.name}` holds {usual}", where="[hardware.units]",
            hint="--activations names another type",
        )
    return usual
