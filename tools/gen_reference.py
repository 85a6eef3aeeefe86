"""Write docs/reference from the code: commands, exit codes, targets, schemes, stages and JSON Schemas (`make docs`)."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

from typer.main import get_command

from hwc.cli import facts as fact_commands
from hwc.cli import facts_action
from hwc.cli.main import app
from hwc.errors import BY_NAME
from hwc.formats import BITS
from hwc.pipeline.stages import STAGES
from hwc.quantise.scheme import OPTIONS, SCHEMES
from hwc.spec import strict
from hwc.spec.facts import facts
from hwc.spec.target import TargetSpec

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "docs" / "reference"
WIDTH = 100
NOTICE = "<!-- Written by tools/gen_reference.py (`make docs`); change the code, not this file. -->\n"


def commands() -> Iterator[tuple[str, Any, Any]]:
    """Yield (full name, command, context) of ``hwc`` and every command below it, in the order of its help."""
    root = get_command(app)
    context = root.make_context("hwc", [], resilient_parsing=True, terminal_width=WIDTH, max_content_width=WIDTH)
    yield "hwc", root, context
    yield from _below("hwc", root, context)


def _below(name: str, group: Any, context: Any) -> Iterator[tuple[str, Any, Any]]:
    for word in group.list_commands(context):
        command = group.get_command(context, word)
        inner = command.make_context(
            word, [], parent=context, resilient_parsing=True, terminal_width=WIDTH, max_content_width=WIDTH
        )
        yield f"{name} {word}", command, inner
        if hasattr(command, "list_commands"):
            yield from _below(f"{name} {word}", command, inner)


def cli() -> str:
    """Return every command's help."""
    parts = [f"# Commands\n\n{NOTICE}\nOptions before the command hold for all of them. Results go to stdout, progress "
             "and errors to stderr.\n[Exit codes](errors.md) tell what kind of failure ended a command.\n"]
    for name, command, context in commands():
        parts.append(f"## {name}\n\n```text\n{command.get_help(context).strip()}\n```\n")
    return "\n".join(parts)


def errors() -> str:
    """Return the exit codes."""
    rows = [(0, "–", "It worked.")]
    rows += [(cls.exit_code, f"`{name}`", " ".join((cls.__doc__ or "").split())) for name, cls in BY_NAME.items()]
    lines = [f"| {code} | {name} | {text} |" for code, name, text in sorted(rows)]
    return (
        f"# Exit codes\n\n{NOTICE}\nEvery failure is one of these. Its message says what happened, `where`, and as a "
        "`hint` what to do;\n`--debug` adds the traceback. A failed build never exits 0 and never moves a tag.\n\n"
        "| Code | Class in `hwc.errors` | Meaning |\n|---:|---|---|\n" + "\n".join(lines) + "\n"
    )


def targets() -> list[TargetSpec]:
    """Load the shipped targets."""
    return [strict.load(path, TargetSpec) for path in sorted((ROOT / "targets").glob("*.toml"))]


def target_page() -> str:
    """Return what the shipped descriptors say."""
    shipped = targets()
    rows = []
    for spec in shipped:
        lowering = spec.lowering
        chip = (lowering.gpu or lowering.cpu) if lowering else ""
        runs = f"`{spec.execution.driver}`" + (", functional only" if spec.execution.functional_only else "")
        runs = "not here" if spec.execution.driver == "none" else runs
        cells = (
            f"`{spec.name}`", spec.title, spec.made, spec.hardware_status, lowering.backend if lowering else "–",
            {"host": "detected", "": "–"}.get(chip, f"`{chip}`"), lowering.opt_level if lowering else "–", runs,
            spec.price or "–",
        )
        rows.append(f"| {' | '.join(cells)} |")
    reasons = [f"- `{spec.name}`: {spec.not_built}." for spec in shipped if spec.not_built]
    return (
        f"# Targets\n\n{NOTICE}\nOne file of [targets/](../../targets) each. "
        "[How to add one](../how-to/add-a-target.md); the keys are in\n[schemas/target.json](schemas/target.json). "
        "`hwc targets show NAME` adds what was detected on a machine,\n`hwc targets check NAME` whether a descriptor "
        "can be right.\n\n"
        "| Target | Device | hwc makes | Hardware | Backend | Chip | Level | Runs by | Price entry |\n|"
        + "---|" * 9 + "\n" + "\n".join(rows)
        + "\n\nWhy hwc makes no artefact:\n\n" + "\n".join(reasons)
        + "\n\n## Figures\n\nOf one whole chip, in its peaks: dense, a multiply-add counted as two operations, a link "
        "in each direction. A range is\nbase (low to high). What nobody has disclosed is absent.\n\n"
        + "\n".join(_figures(spec) for spec in shipped if facts(spec))
    )


def _figures(spec: TargetSpec) -> str:
    """Return one target's figures, and where they come from."""
    found = facts(spec)
    numbers = {key: number for number, key in enumerate(dict.fromkeys(fact.source_key for fact in found), start=1)}
    rows = [
        f"| `{fact.key.removeprefix('hardware.')}` | {fact.told()} | {fact.source} ({numbers[fact.source_key]}) |"
        for fact in found
    ]
    told = {
        fact.source_key: f"{numbers[fact.source_key]}. {fact.where}{f' ({fact.as_of})' if fact.as_of else ''}"
        for fact in found
    }
    return (
        f"### {spec.name}\n\n| Figure | Value | Source |\n|---|---:|---|\n" + "\n".join(rows)
        + "\n\n" + "\n".join(told.values()) + "\n"
    )


def scheme_page() -> str:
    """Return the schemes and how each target stores them."""
    rows = [f"| `{entry.name}` | {entry.title} | {entry.method} |" for entry in SCHEMES.values()]
    options = [f"| `{key}` | {short} | {meaning} |" for key, (short, meaning) in OPTIONS.items()]
    kinds = sorted(BITS)
    shipped = targets()
    encodings = [
        " | ".join([f"| `{spec.name}`", *(f"`{spec.encoding.get(kind, 'none')}`" for kind in kinds)])
        for spec in shipped
    ]
    return (
        f"# Schemes\n\n{NOTICE}\nA scheme says what is stored for the weights of linear layers, embeddings and the "
        "head; everything else stays in float32.\n[Why it is so](../explanation/quantisation.md).\n\n"
        "| Scheme | Weights | Method |\n|---|---|---|\n"
        + "\n".join(rows)
        + "\n\nOptions make more of them, in short behind a dash or in long in brackets: `w4a16-g128-e8` is "
        "`w4a16(group=128, embeddings=int8)`.\n\n| Option | Short | Meaning |\n|---|---|---|\n"
        + "\n".join(options)
        + "\n\nHow the codes are packed is the target's choice (`[encoding]` of its descriptor):\n\n| Target | "
        + " | ".join(kinds) + " |\n|---|" + "---|" * len(kinds) + "\n" + "\n".join(encodings) + "\n"
    )


def stage_page() -> str:
    """Return the stages and what their keys are made of."""
    rows = [
        f"| `{stage.name}` | {', '.join(stage.tools)} | {'yes' if stage.volatile else 'no'} |"
        for stage in STAGES.values()
    ]
    return (
        f"# Stages\n\n{NOTICE}\nIn the order of the pipeline. A step's key is the digest of stage, stage version, the "
        "versions of these tools,\nits parameters and the keys of its inputs "
        "([why](../explanation/identity-and-cache.md)).\n\n"
        "| Stage | Tools in the key | Measures the machine |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def schema_kinds() -> tuple[str, ...]:
    """Return what ``hwc schema`` can print."""
    return get_args(get_type_hints(fact_commands.schema)["kind"])


def schema(kind: str) -> str:
    """Return what ``hwc schema KIND`` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        facts_action.schema(kind)
    return printed.getvalue()


def pages() -> dict[str, str]:
    """Return every generated file of docs/reference: name to text."""
    return {
        "cli.md": cli(),
        "errors.md": errors(),
        "targets.md": target_page(),
        "schemes.md": scheme_page(),
        "stages.md": stage_page(),
        **{f"schemas/{kind}.json": schema(kind) for kind in schema_kinds()},
    }


def main() -> int:
    """Write the pages; tell which changed."""
    for name, text in pages().items():
        path = REFERENCE / name
        if not path.is_file() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
