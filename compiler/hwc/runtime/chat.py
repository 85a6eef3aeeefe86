"""Chat: messages to the text a model was trained on, by the Jinja template that came with its tokenizer."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hwc import child, told
from hwc.errors import IntegrityError

TEMPLATE_CAP_BYTES = 256 << 10
CONFIG_CAP_BYTES = 16 << 20
"""``tokenizer_config.json`` lists every added token: some megabytes for a large vocabulary."""
RENDER_TIMEOUT_S = 10.0
RENDER_MEMORY_BYTES = 512 << 20
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


class Chat:
    """A chat template. It is a program from outside: it is rendered in a sandbox, in a process with limits."""

    def __init__(self, template: str, special_tokens: Mapping[str, str]) -> None:
        if len(template.encode(errors="replace")) > TEMPLATE_CAP_BYTES:
            raise IntegrityError(f"a chat template of more than {TEMPLATE_CAP_BYTES} bytes")
        self._template = template
        self._special_tokens = dict(special_tokens)

    def render(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool = True) -> str:
        """Return the messages as one text, at whose end the model is to answer.

        Raises UsageError if the template refuses the messages, IntegrityError if it is broken, reaches out of its
        sandbox or meets a limit.
        """
        request = {
            "template": self._template,
            "variables": {
                **self._special_tokens,
                "messages": [dict(message) for message in messages],
                "add_generation_prompt": add_generation_prompt,
            },
        }
        with tempfile.TemporaryDirectory(prefix="hwc-chat-") as folder:
            return _render(Path(folder), request)


def _render(folder: Path, request: Mapping[str, Any]) -> str:
    (folder / "request.json").write_text(json.dumps(request))
    outcome = child.run(
        child.Call(
            argv=(sys.executable, "-m", "hwc.runtime.chat_worker", str(folder)),
            cwd=folder,
            timeout_s=RENDER_TIMEOUT_S,
            memory_bytes=RENDER_MEMORY_BYTES,
        )
    )
    told.raise_told(folder)
    if outcome.returncode != 0:
        raise IntegrityError(f"the chat template's process {outcome.describe()}", hint="give the prompt as text")
    return str(json.loads((folder / "report.json").read_text())["text"])


def load(folder: Path) -> Chat | None:
    """Return the chat template of a tokenizer's folder, or None if it has none.

    It lies in ``chat_template.jinja``, or in ``tokenizer_config.json`` as a text or as a list of named ones, of which
    the one named ``default`` is taken. Raises IntegrityError for a file that is damaged.
    """
    config = _config(folder / "tokenizer_config.json")
    found = config.get("chat_template")
    if isinstance(found, list):
        named = [row for row in found if isinstance(row, dict) and row.get("name") == "default"]
        found = named[0].get("template") if named else None
    file = folder / "chat_template.jinja"
    if file.is_file():
        if file.stat().st_size > TEMPLATE_CAP_BYTES:
            raise IntegrityError(f"a chat template of more than {TEMPLATE_CAP_BYTES} bytes", where=str(file))
        found = file.read_bytes().decode(errors="replace")
    if found is None:
        return None
    if not isinstance(found, str):
        raise IntegrityError("chat_template is not a text", where=str(folder / "tokenizer_config.json"))
    return Chat(found, {name: text for name in SPECIAL_TOKENS if (text := _token(config.get(name))) is not None})


def _config(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    if file.stat().st_size > CONFIG_CAP_BYTES:
        raise IntegrityError(f"a tokenizer configuration of more than {CONFIG_CAP_BYTES} bytes", where=str(file))
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"not JSON: {error}", where=str(file)) from error
    if not isinstance(found, dict):
        raise IntegrityError("not a JSON object", where=str(file))
    return found


def _token(found: object) -> str | None:
    """Return a special token's text, which is given alone or as the ``content`` of an object."""
    if isinstance(found, dict):
        found = found.get("content")
    return found if isinstance(found, str) else None
