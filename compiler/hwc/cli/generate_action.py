"""What ``hwc run`` does: a language model's answer as it comes, anything else as arrays."""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwc import render
from hwc.errors import UsageError

if TYPE_CHECKING:
    from hwc.api import Generation, Model

STDIN_CAP_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The options of ``hwc run`` that are about generating text, as they were given."""

    prompt: str | None = None
    chat: bool = False
    system: str | None = None
    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


def run(
    bundle: str, request: Request, *, texts: list[str], input_file: Path | None, output_file: Path | None,
    threads: int | None, format: str,
) -> None:
    """Run a variant on a prompt, on texts or on arrays."""
    from hwc.cli import bundle_action

    if request.prompt is None:
        if request != Request():
            raise UsageError("options for generating text need a prompt", hint="give --prompt")
        bundle_action.run(
            bundle, texts=texts, input_file=input_file, output_file=output_file, threads=threads, format=format
        )
        return
    if texts or input_file or output_file:
        raise UsageError("--prompt goes without --text, --input and --output", hint="--format json tells the tokens")
    generate(bundle, request, threads=threads, format=format)


def generate(bundle: str, request: Request, *, threads: int | None, format: str) -> None:
    """Answer one prompt: on stdout the text as it comes or a JSON record, on stderr how fast it was."""
    from hwc.api import Model, Sampling, find_variant, generates_text

    sampling = Sampling(
        temperature=request.temperature, top_k=request.top_k, top_p=request.top_p, seed=request.seed
    )
    prompt = _prompt(request)
    variant = find_variant(bundle)
    if not generates_text(variant):
        raise UsageError("the model does not generate text, so it takes no --prompt", where=bundle, hint="use --text")
    _answer(Model(variant, threads), prompt, sampling, request, format=format)


def _prompt(request: Request) -> str | list[Mapping[str, str]]:
    if request.system is not None and not request.chat:
        raise UsageError("--system is a message of a chat", hint="add --chat")
    text = _read_stdin() if request.prompt == "-" else request.prompt or ""
    if not text:
        raise UsageError("the prompt is empty", hint="give at least one character")
    if not request.chat:
        return text
    system = [] if request.system is None else [{"role": "system", "content": request.system}]
    return [*system, {"role": "user", "content": text}]


def _read_stdin() -> str:
    """Return all of stdin without the line end that ``echo`` adds."""
    payload = sys.stdin.buffer.read(STDIN_CAP_BYTES + 1)
    if len(payload) > STDIN_CAP_BYTES:
        raise UsageError(f"the prompt on stdin has more than {STDIN_CAP_BYTES} bytes")
    try:
        text = payload.decode()
    except UnicodeDecodeError as error:
        what = f"the prompt is not valid UTF-8: {error.reason} at byte {error.start}"
        raise UsageError(what, where="stdin") from error
    return text.removesuffix("\n").removesuffix("\r")


def _answer(
    model: Model, prompt: str | list[Mapping[str, str]], sampling: Any, request: Request, *, format: str
) -> None:
    stream = model.stream(prompt, max_new_tokens=request.max_new_tokens, sampling=sampling, stop=request.stop)
    written = 0
    try:
        for piece in stream:
            if format != "json" and not _write(piece):
                break
            written += len(piece)
    finally:  # after Ctrl-C, too: what was generated is shown, the held-back rest of it included
        found = stream.result()
        if found.token_ids:
            _finish(found, written, format=format)


def _finish(found: Generation, written: int, *, format: str) -> None:
    if format == "json":
        render.as_json(_record(found))
    else:
        _write(found.text[written:] + "\n")
    render.note(_told(found))


def _write(text: str) -> bool:
    """Write text without a line end, at once; false if the reader went away."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _told(found: Generation) -> str:
    timings = found.timings
    speed = "" if timings.tokens_per_s is None else f", then {timings.tokens_per_s:.1f} tokens/s"
    count = len(found.token_ids)
    return (
        f"{found.prompt_tokens} prompt tokens, {count} new ({found.finish}); "
        f"first token after {timings.ttft_s * 1e3:.0f} ms{speed}"
    )


def _record(found: Generation) -> dict[str, Any]:
    itl_s = found.timings.itl_s
    return {
        "text": found.text, "token_ids": list(found.token_ids), "finish": found.finish,
        "prompt_tokens": found.prompt_tokens, "new_tokens": len(found.token_ids),
        "timings": {
            "ttft_ms": found.timings.ttft_s * 1e3,
            "itl_ms_p50": statistics.median(itl_s) * 1e3 if itl_s else None,
            "tokens_per_s": found.timings.tokens_per_s,
        },
    }
