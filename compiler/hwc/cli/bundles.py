"""Commands on bundles: inspect, run, check, profile, tag, rm."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hwc.cli.options import Format, PlainHttp, Reference, Threads


def register(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command()(inspect)
    app.command()(diff)
    app.command()(run)
    app.command()(check)
    app.command()(profile)
    app.command()(tag)
    app.command()(rm)


def inspect(bundle: Reference, format: Format = "table") -> None:
    """Show what is in a bundle and how far to trust each figure."""
    from hwc.cli import bundle_action

    bundle_action.inspect(bundle, format=format)


def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="Bundle before.")],
    after: Annotated[str, typer.Argument(metavar="B", help="Bundle after.")],
    everything: Annotated[bool, typer.Option("--all", help="Show what did not change, too.")] = False,
    format: Annotated[Literal["table", "markdown", "json"], typer.Option("--format", help="Form.")] = "table",
) -> None:
    """Compare two bundles: size, bits, quality, latency, cost, tools, and which differences are more than noise."""
    from hwc.cli import bundle_action

    bundle_action.diff(before, after, everything=everything, format=format)


def run(
    bundle: Reference,
    text: Annotated[list[str] | None, typer.Option(help="Text to run; repeat for several.")] = None,
    input: Annotated[Path | None, typer.Option(help="An .npz with one array per input.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the outputs as .npz.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Text that a language model continues; -: read stdin.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt into the model's chat template.")] = False,
    system: Annotated[str | None, typer.Option(help="System message of the chat.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Most tokens to generate; default: to the end, or until the cache is full.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="0: the likeliest token; 1: the model's own probabilities.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Draw from that many likeliest tokens; 0: from all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens that hold this share; 1: all.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the draw: the same one gives the same text.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="Text to end before; repeat for several.")] = None,
    threads: Threads = None,
    format: Format = "table",
) -> None:
    """Run a variant on its device: an encoder on --text or --input, a language model on --prompt."""
    from hwc.cli import generate_action

    request = generate_action.Request(
        prompt=prompt, chat=chat, system=system, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k,
        top_p=top_p, seed=seed, stop=tuple(stop or ()),
    )
    generate_action.run(
        bundle, request, texts=text or [], input_file=input, output_file=output, threads=threads, format=format
    )


def check(bundle: Reference, threads: Threads = None, format: Format = "table") -> None:
    """Check variants on this machine against their golden outputs and gates."""
    from hwc.cli import bundle_action

    bundle_action.remeasure(bundle, profile=False, threads=threads, format=format)


def profile(bundle: Reference, threads: Threads = None, format: Format = "table") -> None:
    """Check and time variants on this machine and attach the measurement to the bundle."""
    from hwc.cli import bundle_action

    bundle_action.remeasure(bundle, profile=True, threads=threads, format=format)


def tag(
    bundle: Reference,
    version: Annotated[str, typer.Argument(help="Version to freeze it as, as 1.2.0; never overwritten.")],
    plain_http: PlainHttp = False,
) -> None:
    """Freeze a bundle as a version, here or in a registry; refused while any of its variants is unverified."""
    from hwc.cli import bundle_action

    bundle_action.tag(bundle, version, plain_http=plain_http)


def rm(
    bundle: Reference,
    keep_blobs: Annotated[bool, typer.Option(help="Remove the tag, but not the bytes it alone used.")] = False,
) -> None:
    """Remove a bundle from its store, and every byte that no other bundle uses."""
    from hwc.cli import bundle_action

    bundle_action.rm(bundle, keep_blobs=keep_blobs)
