"""The parts of the bench: what is built for each, and who takes part."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import built
import fixed
import language_speed
import networks
import predicted
from networks import Entered, Field
from peers.reading import last_cache_bytes

Section = dict[str, Any]
Ready = Callable[[int, float], Section]
"""Measures on a number of threads for a number of seconds."""
MODELS = Path(__file__).parent / "models"
ENCODER_SHAPES = tuple({"batch": batch, "sequence": tokens} for batch in (1, 8) for tokens in (16, 128, 512))
CNN_SHAPES = ({"batch": 1}, {"batch": 16})
CHECKED_ITEMS = 16
"""Items that the builds of these shapes are judged by; quality is measured elsewhere, on all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a run works and what it keeps."""

    work: Path
    cache: Path
    store: Path
    options: tuple[str, ...] = ()
    """Further options of `hwc build`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part, which can be run by itself."""

    prepare: Callable[[Place], Ready]
    seconds: float
    """Time of the rounds on each number of threads, unless told otherwise."""


def _shapes(model: str, shapes: Sequence[Mapping[str, int]], place: Place) -> Ready:
    names = ("fp32", "w4a16", "fp8", "w4a8")
    told = built.reshaped(model, shapes, CHECKED_ITEMS, place.cache / "models")
    made = built.make(told, names, place.store, place.options)
    field = Field(made=made, schemes={name: name for name in names}, coded="w4a16")
    return _ready([field], place)


def _products(place: Place) -> Ready:
    fields: list[Field] = []
    for model in ("k2048_n8192", "k8192_n8192", "k16384_n16384"):
        path = str(MODELS / f"{model}.toml")
        groups = {" g32": "-rtn", " g128": "-g128-rtn"} if model != "k16384_n16384" else {" g32": "-rtn"}
        kinds = ("w4a16", "w4a8")
        wanted = [f"{kind}{ending}" for kind in kinds for ending in groups.values()]
        made = built.make(path, wanted, place.store, place.options)
        size = model.removeprefix("k").replace("_n", "×")
        for group, ending in groups.items():
            schemes = {kind: f"{kind}{ending}" for kind in kinds}
            fields.append(
                Field(
                    made=made, schemes=schemes, coded=f"w4a16{ending}", label=f" · {size}{group}",
                    int8=model == "k2048_n8192",
                )
            )
    return _ready(fields, place)


def _ready(fields: Sequence[Field], place: Place) -> Ready:
    entered = Entered(work=place.work)
    for one in fields:
        networks.enter(one, entered)
    extra: dict[tuple[str, str], dict[str, Any]] = {}
    for one in fields:
        for name, scheme in one.schemes.items():
            functions = predicted.of_variant(one.made, scheme, place.cache / "predicted")
            for case, function in one.functions().items():
                told = {"weight_bytes": one.made.weight_bytes(scheme), "predicted": functions.get(function)}
                extra[f"hwc {name}", case] = told
    past_cache = dict.fromkeys(case for (_, case), told in extra.items() if told["weight_bytes"] > last_cache_bytes())
    contestants = [*entered.contestants(place.store), fixed.reading(place.work, tuple(past_cache))]

    def measure(threads: int, seconds: float) -> Section:
        section = fixed.measure(
            contestants, entered.references, threads=threads, seconds=seconds, work=place.work
        )
        for row in section["rows"]:
            told = extra.get((row["contestant"], row["case"]), {})
            row |= told if threads == 1 else {"weight_bytes": told.get("weight_bytes")} if told else {}
        notes = [one.made.told(scheme, f"hwc {name}") for one in fields for name, scheme in one.schemes.items()]
        return {**section, "versions": _versions(), "notes": notes}

    return measure


def _language(model: str, place: Place) -> Ready:
    prepared = language_speed.prepare(model, place.cache, place.store, place.work, place.options)

    def measure(threads: int, seconds: float) -> Section:
        section = language_speed.measure(prepared, threads=threads, seconds=seconds, work=place.work)
        return {**section, "versions": {**_versions(), **prepared.versions}}

    return measure


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("iree-base-runtime", "onnxruntime")}


PARTS: Mapping[str, Part] = {
    "encoders": Part(prepare=functools.partial(_shapes, "minilm", ENCODER_SHAPES), seconds=90),
    "cnn": Part(prepare=functools.partial(_shapes, "cnn", CNN_SHAPES), seconds=8),
    "smollm2": Part(prepare=functools.partial(_language, "smollm2"), seconds=90),
    "gemma3-270m": Part(prepare=functools.partial(_language, "gemma3-270m"), seconds=120),
    "matmul": Part(prepare=_products, seconds=40),
}
"""Whole models first."""
GROUPS: Mapping[str, tuple[str, ...]] = {"language": ("smollm2", "gemma3-270m")}
