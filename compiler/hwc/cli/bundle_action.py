"""What the bundle commands do: resolve the reference, make one call, render its result."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc import render
from hwc.bundle import compare as comparing
from hwc.bundle import export_dir as exporting
from hwc.bundle import remove as removing
from hwc.bundle.open import Bundle, Variant, open_bundle, require_verified
from hwc.bundle.reference import Reference, parse
from hwc.errors import UsageError
from hwc.lower.passes.kernel_call import is_call_of
from hwc.oci_layout import Layout
from hwc.spec.project import Project, open_project
from hwc.spec.target import UNNAMED

if TYPE_CHECKING:
    import numpy as np


def _resolve(text: str) -> tuple[Project, Layout, Reference]:
    project = open_project(Path.cwd())
    reference = parse(text, default_store=str(project.store))
    return project, Layout(reference.store).check(), reference


def open_named(text: str) -> Bundle:
    """Open the bundle, or the one variant of it, that a command names."""
    _, layout, reference = _resolve(text)
    return open_bundle(layout, reference)


def inspect(text: str, *, format: str) -> None:
    """Show a bundle's variants."""
    bundle = open_named(text)
    serving = [
        chosen.serving for variant in bundle.variants if (chosen := exporting.chosen_measurement(variant)) is not None
    ]
    if format == "json":
        facts = {variant.name: dict(variant.facts) for variant in bundle.variants}
        render.as_json({"tag": bundle.tag, "digest": bundle.digest, "serving": serving, "facts": facts})
        return
    bits = [float(variant.facts["audit"]["bits_per_parameter"]) for variant in bundle.variants]
    render.bundle(f"{bundle.tag}  {bundle.digest[:19]}  created {bundle.created_utc}", serving, bits)
    for variant in bundle.variants:
        render.result("\n  ".join(_details(variant)))


def _details(variant: Variant) -> list[str]:
    """Return a variant's name and what its tables leave out: coverage, files, memory, where the time goes."""
    audit = variant.facts["audit"]
    weights = sum(blob.length for role, blob in variant.files.items() if role.startswith("weights/"))
    code = sum(blob.length for role, blob in variant.files.items() if role.startswith("code/"))
    lines = [
        variant.name,
        f"covers {audit['layers_quantised']} of {audit['layers']} linears, "
        f"{audit['parameters_quantised_share']:.0%} of {audit['parameters']:,} parameters; method: {audit['method']}",
        *(
            f"{row['codes']} {row['parameters']:,} parameters: {row['arrived']} as {row['stored']}"
            + (f", since {row['reason']}" if row["reason"] else "")
            for row in audit.get("sources", []) if row["codes"] != "float"
        ),
        f"code {render.size(code)}, weights {render.size(weights)}, {len(variant.files)} files in all",
    ]
    chosen = exporting.chosen_measurement(variant)
    documents = chosen.documents if chosen is not None else {}
    if executed := documents.get("check.json", {}).get("executed"):
        lines += _executed(executed, variant.facts)
    lines += _tuned(documents.get("tune.json", {}))
    profile = documents.get("profile.json")
    if profile:
        told = profile["memory"]
        grown = told["private_after_load_bytes"] - told["private_before_load_bytes"]
        working = told["private_after_run_bytes"] - told["private_after_load_bytes"]
        resident = told["rss_after_run_bytes"] - told["rss_before_load_bytes"]
        lines.append(
            f"loading takes {profile['load_s'] * 1e3:.1f} ms and {render.size(grown)} beside the mapped weights, "
            f"running {render.size(working)} more; resident growth in all {render.size(resident)}"
        )
        for name, rows in (profile["dispatches"].get("functions") or {}).items():
            top = ", ".join(f"{row['dispatch']} {row['share']:.0%}" for row in rows[:3])
            lines.append(f"{name} spends its time in {top}")
    return lines


def _tuned(told: Mapping[str, Any]) -> list[str]:
    """Return what tuning tried of a variant, and what it chose."""
    lines = [f"tuned: made by `{told['chosen']}`; {told['rule']}"] if told else []
    for row in told.get("candidates", []):
        if "left_out" in row:
            lines.append(f"  {row['name']}: left out: {row['left_out']}")
            continue
        shapes = ", ".join(
            f"{name} {one['median_ms']:.3g} ± {one['iqr_ms'] / 2:.2g} ms" for name, one in row["shapes"].items()
        )
        ratio = f"{one['value']:.3f} ({one['low']:.3f}–{one['high']:.3f}) of the default's time; " if (
            one := row.get("ratio")
        ) else ""
        lines.append(f"  {row['name']}: {ratio}{shapes}")
    return lines


def _executed(told: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Return what an emulated chip's control core did in the check: instructions, of which no time follows."""
    rows = told["dispatches"]
    total = told["instructions"]
    calls = sum(row["calls"] for row in rows)
    if total is None:
        units = [f"modelled: the unit {unit} was not executed" for unit in _modelled(facts)]
        return [f"emulated: the control core executed {calls} dispatches of the check; {told['method']}", *units]
    top = ", ".join(f"{row['dispatch']} {row['instructions'] / total:.0%}" for row in rows[:3] if total)
    lines = [f"emulated: the control core executed {total:,} instructions in {calls} dispatches of the check; {top}"]
    for unit, symbols in _modelled(facts).items():
        own = [row for row in rows if any(is_call_of(row["dispatch"], symbol) for symbol in symbols)]
        instructions, times = (sum(row[key] for row in own) for key in ("instructions", "calls"))
        lines.append(
            f"modelled: the unit {unit} was not executed; {instructions:,} of the instructions, in {times} dispatches, "
            "are of portable code in its place and say nothing about it"
        )
    return lines


def _modelled(facts: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return units that kernels stand in for, and the symbols of these kernels."""
    units: dict[str, list[str]] = {}
    for kernel in facts["target"].get("kernels", {}).values():
        if kernel["executes"] == "model":
            units.setdefault(kernel["unit"] or UNNAMED, []).append(kernel["symbol"])
    return units


def diff(before: str, after: str, *, everything: bool, format: str) -> None:
    """Show what changed between two bundles."""
    rows = comparing.compare(open_named(before), open_named(after))
    changes = [row for row in rows if everything or row.weight != "same"]
    if format == "json":
        render.as_json([asdict(row) for row in changes])
    elif format == "markdown":
        render.result(comparing.markdown(f"{before} → {after}", changes))
    elif not changes:
        render.result("no difference")
    else:
        columns = ("variant", "what", "before", "after", "Δ", "")
        render.table(
            f"{before} → {after}", columns,
            [[row.variant, row.what, row.before, row.after, row.delta, row.weight] for row in changes],
        )


def run(
    text: str, *, texts: list[str], input_file: Path | None, output_file: Path | None, threads: int | None, format: str
) -> None:
    """Run a variant on texts or arrays."""
    import numpy as np

    from hwc.api import find_variant, generates_text
    from hwc.api import open as open_model

    if generates_text(find_variant(text)):
        raise UsageError("the model generates text", where=text, hint="give the text to continue as --prompt")
    if bool(texts) == bool(input_file):
        raise UsageError("give either --text or --input", hint="--text is for models with a tokenizer")
    feeds = _arrays(input_file) if input_file else texts
    outputs: dict[str, Any] = open_model(text, threads=threads).run(feeds)
    if output_file is not None:
        with output_file.open("wb") as stream:
            np.savez(stream, **outputs)
        render.note(f"wrote {output_file}")
    if format == "json":
        render.as_json({name: value.tolist() for name, value in outputs.items()})
        return
    for name, value in outputs.items():
        with np.printoptions(precision=4, threshold=12, edgeitems=4):
            render.result(f"{name} {value.dtype}{list(value.shape)}\n{value}")


def _arrays(path: Path) -> dict[str, np.ndarray]:
    import numpy as np

    try:
        stored = np.load(path, allow_pickle=False)
        if not isinstance(stored, np.lib.npyio.NpzFile):
            raise UsageError("not an .npz: one unnamed array", where=str(path), hint="np.savez(file, NAME=array)")
        with stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"not an .npz of plain arrays: {error}", where=str(path)) from error


def remeasure(text: str, *, profile: bool, threads: int | None, format: str) -> None:
    """Check, and on request time, every variant the reference names on this machine."""
    from hwc.pipeline.remeasure import remeasure as measure

    project, layout, reference = _resolve(text)
    with render.Progress() as progress:
        rows = measure(project, layout, reference, progress, profile=profile, threads=threads)
    if format == "json":
        render.as_json([row.document for row in rows])
        return
    columns = ("variant", "parity", "quality", "result")
    render.table("", columns, [[row.variant, row.parity, row.quality, row.verdict] for row in rows])


def tag(text: str, version: str, *, plain_http: bool) -> None:
    """Freeze a bundle under a version, where it lies."""
    if parse(text).is_remote:
        from hwc.cli import registry_action

        registry_action.tag(text, version, plain_http=plain_http)
        return
    _, layout, reference = _resolve(text)
    if reference.target:
        raise UsageError("a bundle is frozen whole, not a variant of it", where=text, hint="name it as MODEL:TAG")
    bundle = open_bundle(layout, reference)
    for variant in bundle.variants:
        require_verified(variant)
    frozen = removing.freeze(layout, bundle, version)
    render.result(f"{frozen} {bundle.digest}")


def rm(text: str, *, keep_blobs: bool) -> None:
    """Remove a bundle's tag and the bytes it alone used."""
    _, layout, reference = _resolve(text)
    if reference.target or reference.digest:
        raise UsageError("a bundle is removed whole, by its tag", where=text, hint="name it as MODEL:VERSION")
    freed = removing.remove(layout, reference.tag, keep_blobs=keep_blobs)
    render.result(f"removed {reference.tag}, freed {render.size(freed)}")
