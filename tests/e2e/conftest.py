"""What the tests of use share: models made on the spot, and bundles built from them once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from language_parts import causal_folder
from use_parts import FACTORY, encoder_folder, linear_onnx

if TYPE_CHECKING:
    from command import Cli


@dataclass(frozen=True, slots=True, kw_only=True)
class FromPath:
    """A model given as a bare path, built once."""

    source: str
    """As the user gave it, relative to the working folder."""
    name: str
    schemes: tuple[str, ...]
    file: Path
    told: str
    """What the build wrote to stderr."""
    built: Mapping[str, Any]

    def content(self) -> dict[str, str]:
        return contents(self.built)


def contents(built: Mapping[str, Any]) -> dict[str, str]:
    """Return variant id to content digest of a build's JSON."""
    rows = [variant["identity"] for variant in built["variants"]]
    return {row["variant_id"]: row["content_sha256"] for row in rows}


@pytest.fixture(scope="session")
def paths_cli(shared_mlp: Cli, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """A command line whose working folder holds models of every kind. Read it, never change it."""
    folder = tmp_path_factory.mktemp("paths")
    encoder_folder(folder / "tiny-bert", sentence=False)
    encoder_folder(folder / "tiny-sentences", sentence=True)
    linear_onnx(folder / "linears.onnx")
    linear_onnx(folder / "beside" / "external.onnx", external=True)
    linear_onnx(folder / "turned.onnx", transposed=True)
    (folder / "module.py").write_text(FACTORY)
    return type(shared_mlp)(home=folder / "home", store=folder / "store", cwd=folder)


@pytest.fixture(scope="session")
def build_path(paths_cli: Cli) -> Callable[..., FromPath]:
    """Return a function that builds a model of the working folder for this CPU, each at most once a session."""
    done: dict[str, FromPath] = {}

    def build(source: str, *schemes: str) -> FromPath:
        if source not in done:
            chosen = [part for scheme in schemes for part in ("-q", scheme)]
            ran = paths_cli("build", source, "-t", "llvm-cpu-host", *chosen, "--smoke", "--format", "json").ok()
            built = ran.json()[0]
            done[source] = FromPath(
                source=source, name=built["tag"].partition(":")[0], schemes=schemes, told=ran.stderr, built=built,
                file=paths_cli.cwd / source.rpartition(":")[0] if ".py:" in source else paths_cli.cwd / source,
            )
        assert done[source].schemes == schemes, "a path is built with one list of schemes"
        return done[source]

    return build


@pytest.fixture(scope="session")
def language(shared_mlp: Cli, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """A command line with a small language model as ``./tiny-llama``. Read it, never change it."""
    folder = tmp_path_factory.mktemp("language")
    causal_folder(folder / "tiny-llama")
    return type(shared_mlp)(home=folder / "home", store=folder / "store", cwd=folder)


@pytest.fixture(scope="session")
def built_language(language: Cli) -> Mapping[str, Any]:
    """The small language model built for this CPU: scheme to serving.json."""
    schemes = ("-q", "fp32", "-q", "w4a16", "-q", "fp8")
    ran = language("build", "./tiny-llama", "-t", "llvm-cpu-host", *schemes, "--format", "json").ok()
    documents = ran.json()[0]["variants"]
    return {document["identity"]["variant_id"].partition("/")[2]: document for document in documents}
