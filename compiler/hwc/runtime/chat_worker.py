"""The process that renders one chat template: ``python -m hwc.runtime.chat_worker FOLDER``.

The folder holds ``request.json``; the worker writes ``report.json`` or ``error.json``. Its parent holds its time.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any, NoReturn

from hwc import told
from hwc.errors import HwcError, IntegrityError, UsageError

TEXT_CAP_CHARACTERS = 8 << 20
ADDRESS_CAP_BYTES = 512 << 20


class _Refused(Exception):
    """The template called ``raise_exception``."""


def main(folder: Path) -> int:
    """Render one request; return the process's exit status."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_CAP_BYTES, ADDRESS_CAP_BYTES))
    request = json.loads((folder / "request.json").read_text())
    try:
        text = render(request["template"], request["variables"])
    except HwcError as error:
        told.tell(folder, error)
        return error.exit_code
    (folder / "report.json").write_text(json.dumps({"text": text}))
    return 0


def render(template: str, variables: dict[str, Any]) -> str:
    """Return a template's text in Jinja's immutable sandbox.

    Templates are written for the environment of Hugging Face's transformers (its guide on chat templates): blocks
    trimmed, ``break`` and ``continue``, ``raise_exception`` and a ``tojson`` that escapes nothing for HTML. There is no
    ``strftime_now``: a prompt does not depend on the day. Raises UsageError for messages that the template refuses,
    IntegrityError for a template that is broken, too large in its result, or reaches out of the sandbox.
    """
    from jinja2 import TemplateError
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, autoescape=False, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    parts: list[str] = []
    length = 0
    try:
        for part in environment.from_string(template).generate(variables):
            length += len(part)
            if length > TEXT_CAP_CHARACTERS:
                raise IntegrityError(f"the chat template writes more than {TEXT_CAP_CHARACTERS} characters")
            parts.append(part)
    except _Refused as error:
        raise UsageError(f"the chat template refuses the messages: {error}") from error
    except SecurityError as error:
        raise IntegrityError(f"the chat template reaches out of its sandbox: {error}") from error
    except MemoryError as error:
        raise IntegrityError("the chat template takes too much memory") from error
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RuntimeError) as error:
        raise IntegrityError(
            f"the chat template fails: {type(error).__name__}: {error}", hint="give the prompt as text"
        ) from error
    return "".join(parts)


def _refuse(message: object) -> NoReturn:
    raise _Refused(str(message))


def _to_json(
    value: object, ensure_ascii: bool = False, indent: int | None = None,
    separators: tuple[str, str] | None = None, sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
