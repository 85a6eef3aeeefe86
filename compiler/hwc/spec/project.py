"""Where specifications are found: the search path, ``hwc.toml`` or ``[tool.hwc]``, and the built-in folders."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from hwc.errors import UsageError
from hwc.spec import conformance, strict
from hwc.spec.model import ModelSpec
from hwc.spec.prices import PriceTable
from hwc.spec.strict import Record
from hwc.spec.target import TargetSpec


class ProjectSpec(Record):
    """A project's own settings, from ``hwc.toml`` or ``[tool.hwc]`` in pyproject.toml."""

    models_dir: str = "models"
    targets_dir: str = "targets"
    store: str = "artifacts"
    jobs: Annotated[int, Field(ge=1, le=64)] | None = None
    step_timeout_s: Annotated[float, Field(gt=0)] = 7200.0
    step_memory_bytes: Annotated[int, Field(ge=1 << 28)] = 16 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """The resolved settings and search path of one run."""

    root: Path
    spec: ProjectSpec
    home: Path
    """Cache of stage outputs, ``HWC_HOME``."""
    models_path: tuple[Path, ...]
    targets_path: tuple[Path, ...]

    @property
    def store(self) -> Path:
        """Folder of the OCI image layout that bundles are written to."""
        return self.root / self.spec.store


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A model specification and the folder that relative names in it refer to."""

    spec: ModelSpec
    folder: Path
    inferred: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundTarget:
    """A target and the folder of its descriptor, beside which its vendor's kernels and tools lie."""

    spec: TargetSpec
    folder: Path


def facts_dir(kind: str) -> Path:
    """Return the built-in folder ``models`` or ``targets``: in the wheel, else in the source tree."""
    packaged = Path(__file__).parents[1] / "facts" / kind
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / kind


def cache_home(env: Mapping[str, str]) -> Path:
    """Return ``HWC_HOME``, else ``$XDG_CACHE_HOME/hwc``, else ``~/.cache/hwc``."""
    if env.get("HWC_HOME"):
        return Path(env["HWC_HOME"]).absolute()
    base = Path(env["XDG_CACHE_HOME"]) if env.get("XDG_CACHE_HOME") else Path.home() / ".cache"
    return base / "hwc"


def open_project(
    start: Path,
    *,
    targets_dir: Path | None = None,
    models_dir: Path | None = None,
    store: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Project:
    """Find the nearest project file above ``start`` and resolve the search path.

    Precedence: argument, ``HWC_STORE`` / ``HWC_TARGETS_DIR`` / ``HWC_MODELS_DIR``, project file, user's, built-in.
    """
    env = os.environ if env is None else env
    root, spec = _nearest(start.absolute())
    wanted_store = store or (Path(env["HWC_STORE"]) if env.get("HWC_STORE") else None)
    if wanted_store is not None:
        spec = spec.model_copy(update={"store": str(wanted_store.absolute())})
    user = Path(env["XDG_CONFIG_HOME"]) if env.get("XDG_CONFIG_HOME") else Path.home() / ".config"
    overlays = {"models": models_dir or env.get("HWC_MODELS_DIR"), "targets": targets_dir or env.get("HWC_TARGETS_DIR")}

    for kind, given in overlays.items():
        if given and not Path(given).is_dir():
            hint = f"it comes from --{kind}-dir or HWC_{kind.upper()}_DIR"
            raise UsageError(f"no such folder of {kind}: {given}", hint=hint)

    def path_of(kind: str, own: str) -> tuple[Path, ...]:
        first = (Path(overlays[kind] or ""),) if overlays[kind] else ()
        return (*first, root / own, user / "hwc" / kind, facts_dir(kind))

    return Project(
        root=root,
        spec=spec,
        home=cache_home(env),
        models_path=path_of("models", spec.models_dir),
        targets_path=path_of("targets", spec.targets_dir),
    )


def _nearest(start: Path) -> tuple[Path, ProjectSpec]:
    for folder in (start, *start.parents):
        own = folder / "hwc.toml"
        if own.is_file():
            return folder, strict.load(own, ProjectSpec)
        shared = folder / "pyproject.toml"
        if shared.is_file():
            text = strict.read_text(shared)
            try:
                tools = tomllib.loads(text).get("tool", {})
            except tomllib.TOMLDecodeError as error:
                raise UsageError(f"not valid TOML: {error}", where=str(shared)) from error
            table = tools.get("hwc") if isinstance(tools, dict) else None
            if table is not None:
                return folder, strict.from_table(table, ProjectSpec, where=f"{shared} [tool.hwc]")
    return start, ProjectSpec()


def names_on(path: tuple[Path, ...]) -> dict[str, Path]:
    """List the specifications on a search path by name; an earlier folder hides a later one."""
    found: dict[str, Path] = {}
    for folder in path:
        for file in sorted(folder.glob("*.toml")) if folder.is_dir() else []:
            found.setdefault(file.stem, file)
    return found


def read_target(project: Project, name: str) -> FoundTarget:
    """Load a target by name, with its folder, though it contradict itself: for those who check or mend it.

    Raises UsageError with the nearest known name if there is none, or with the key that does not parse.
    """
    path = _find(names_on(project.targets_path), name, kind="target", listing="hwc targets list")
    spec = strict.load(path, TargetSpec)
    _same_name(spec.name, path)
    return FoundTarget(spec=spec, folder=path.parent.absolute())


def locate_target(project: Project, name: str) -> FoundTarget:
    """Load a target by name; raise as ``read_target`` does, and for a descriptor that contradicts itself."""
    found = read_target(project, name)
    if failed := conformance.contradictions(found.spec):
        path = found.folder / f"{name}.toml"
        line = strict.locate(strict.read_text(path), failed[0].key.partition("[")[0].split("."))
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise UsageError(
            f"`{failed[0].key}`: {failed[0].reason}{more}", where=f"{path}:{line}" if line else str(path),
            hint=f"`hwc targets check {name}` shows every check",
        )
    return found


def find_target(project: Project, name: str) -> TargetSpec:
    """Load a target by name; raise as ``locate_target`` does."""
    return locate_target(project, name).spec


def find_model(project: Project, name: str) -> Found:
    """Load a model by name or by the path of its TOML file; raise UsageError if there is none."""
    if name.endswith(".toml"):
        path = Path(name).absolute()
        return Found(spec=strict.load(path, ModelSpec), folder=path.parent)
    path = _find(names_on(project.models_path), name, kind="model", listing="hwc models list")
    spec = strict.load(path, ModelSpec)
    _same_name(spec.name, path)
    return Found(spec=spec, folder=path.parent)


def find_prices(project: Project) -> PriceTable:
    """Load the newest price table on the targets' search path."""
    for folder in project.targets_path:
        tables = sorted((folder / "prices").glob("*.toml"))
        if tables:
            return strict.load(tables[-1], PriceTable)
    raise UsageError("no price table found", hint="expected targets/prices/YYYY-MM.toml")


def _find(known: Mapping[str, Path], name: str, *, kind: str, listing: str) -> Path:
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean `{near[0]}`? " if near else ""
    raise UsageError(f"unknown {kind} `{name}`", hint=f"{hint}`{listing}` shows all {len(known)}")


def _same_name(name: str, path: Path) -> None:
    if name != path.stem:
        raise UsageError(f'`name = "{name}"` differs from the file\'s name', where=str(path), hint="rename one of them")
