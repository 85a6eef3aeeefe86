"""Use a bundle from Python: ``hwc.open("minilm:dev#llvm-cpu-host/w4a16").run(texts)``, or ``.generate(prompt)``."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hwc.bundle.open import Variant, open_bundle
from hwc.bundle.program import copy_out, program_of
from hwc.bundle.reference import parse
from hwc.errors import UsageError
from hwc.oci_layout import Layout
from hwc.program import on_threads
from hwc.runtime import chat
from hwc.runtime.batching import InputRule, run
from hwc.runtime.language import Generation, Language, Options, Prompt, Stream, Timings
from hwc.runtime.sampling import Sampling
from hwc.runtime.tokens import Tokens
from hwc.spec.project import open_project

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Generation", "Model", "Sampling", "Stream", "Timings", "find_variant", "generates_text", "open"]


class Model:
    """One verified variant, loaded on its device. Its weights are memory-mapped from the store."""

    def __init__(self, variant: Variant, threads: int | None = None) -> None:
        from hwc.runtime.session import Session

        variant.verify()
        self.variant = variant
        program = program_of(variant)
        self._program = program if threads is None else on_threads(program, threads)
        self._session = Session(self._program)
        if generates_text(variant):
            return
        facts = variant.facts["model"]
        self._batch_dim: str = facts["batch_dim"]
        self._output_dims = variant.facts["capture"].get("output_dims", {})
        self._rules = {
            name: InputRule(dtype=row["dtype"], shape=tuple(row["shape"]), pad=row["pad"])
            for name, row in facts["inputs"].items()
        }

    def run(self, items: Sequence[str] | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run texts, or arrays [batch, …] by input name; return outputs [batch, …] by name.

        Any number of items is laid into the compiled shapes; texts longer than the largest one are cut.
        Raises UsageError for inputs the model does not take, and for a language model.
        """
        self._require_encoder()
        feeds = items if isinstance(items, Mapping) else self.tokenise(items)
        return run(self._session, self._program.functions, self._rules, self._batch_dim, feeds, self._output_dims)

    def tokenise(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the model's inputs [batch, longest] for some texts."""
        import numpy as np

        from hwc.capture.text import Encoder

        self._require_encoder()
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise UsageError("texts are given as a list of texts", hint='run(["one text", "another"])')
        if not texts:
            raise UsageError("no text to run")
        if not any(role.startswith("tokenizer/") for role in self.variant.files):
            raise UsageError(
                "the model has no tokenizer, so it takes no text", where=self.variant.name, hint="pass arrays (--input)"
            )
        sizes = [
            size for function in self._program.functions for dim, size in function.bucket.items()
            if dim != self._batch_dim
        ]
        with tempfile.TemporaryDirectory(prefix="hwc-tokenizer-") as folder:
            encoder = Encoder(copy_out(self.variant, "tokenizer", Path(folder)), max_tokens=max(sizes, default=0))
        rows = [encoder.encode(text) for text in texts]
        width = max(len(row["input_ids"]) for row in rows)
        feeds = {}
        for name, rule in self._rules.items():
            if name not in rows[0]:
                raise UsageError(f"the model takes `{name}`, which text does not give", hint="pass arrays instead")
            filled = np.full((len(rows), width), rule.pad or 0, dtype=rule.dtype)
            for index, row in enumerate(rows):
                filled[index, : len(row[name])] = row[name]
            feeds[name] = filled
        return feeds

    def stream(
        self, prompt: Prompt, *, max_new_tokens: int | None = None, sampling: Sampling | None = None,
        stop: Sequence[str] = (),
    ) -> Stream:
        """Return the answer of a language model to one prompt; iterating it gives text as it comes.

        A prompt is a text, token ids, or chat messages for the model's chat template. Raises UsageError for a prompt
        that is empty or longer than the cache, and for a model that does not generate text.
        """
        options = Options(max_new_tokens=max_new_tokens, sampling=sampling or Sampling(), stop=_texts(stop))
        return self._language.stream(prompt, options)

    def generate(
        self, prompt: Prompt, *, max_new_tokens: int | None = None, sampling: Sampling | None = None,
        stop: Sequence[str] = (),
    ) -> Generation:
        """Return a language model's whole answer to one prompt, as ``stream`` takes it."""
        return self.generate_all([prompt], max_new_tokens=max_new_tokens, sampling=sampling, stop=stop)[0]

    def generate_all(
        self, prompts: Sequence[Prompt], *, max_new_tokens: int | None = None, sampling: Sampling | None = None,
        stop: Sequence[str] = (),
    ) -> list[Generation]:
        """Return the answers to several prompts, as many side by side as the artefact has rows for."""
        options = Options(max_new_tokens=max_new_tokens, sampling=sampling or Sampling(), stop=_texts(stop))
        return self._language.generate(prompts, options)

    @functools.cached_property
    def _language(self) -> Language:
        if not generates_text(self.variant):
            raise UsageError("the model does not generate text", where=self.variant.name, hint="use run(texts)")
        with tempfile.TemporaryDirectory(prefix="hwc-tokenizer-") as name:
            folder = copy_out(self.variant, "tokenizer", Path(name))
            tokens, template = Tokens(folder), chat.load(folder)
        return Language(self._session, self._program.functions, self.variant.facts["generation"], tokens, template)

    def _require_encoder(self) -> None:
        if generates_text(self.variant):
            raise UsageError("the model generates text", where=self.variant.name, hint="use generate(prompt)")


def _texts(stop: Sequence[str]) -> tuple[str, ...]:
    return (stop,) if isinstance(stop, str) else tuple(stop)


def generates_text(variant: Variant) -> bool:
    """Tell whether a variant is of a language model."""
    return bool(variant.facts.get("model", {}).get("task") == "text-generation")


def open(reference: str, *, store: Path | None = None, threads: int | None = None) -> Model:
    """Open one variant of a bundle, verify every byte of it and load it on its device.

    ``threads`` is for CPU code; without it a variant runs as its target says, on one. A process runs all its artefacts
    of several threads on the same ones. Raises UsageError for an unknown bundle, for one of several variants where the
    reference names none, and for threads that cannot be had; IntegrityError for altered content, MachineError where
    the device or a CPU feature is missing.
    """
    return Model(find_variant(reference, store=store), threads)


def find_variant(reference: str, *, store: Path | None = None) -> Variant:
    """Return the one variant a reference names."""
    project = open_project(Path.cwd(), store=store)
    parsed = parse(reference, default_store=str(project.store))
    bundle = open_bundle(Layout(parsed.store), parsed)
    if len(bundle.variants) != 1:
        names = ", ".join(variant.name for variant in bundle.variants)
        hint = f"add #TARGET/SCHEME, one of: {names}"
        raise UsageError(f"{reference} has {len(bundle.variants)} variants", hint=hint)
    return bundle.variants[0]
