"""Give executables the chip's own format and facts, so that a runtime which does not know the chip refuses them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

_FORMAT = re.compile(r'(#hal\.executable\.target<"[^"]+", )"[^"]+"(, \{)')
_MODULE = re.compile(r"^module \{", re.MULTILINE)


def name_executables(mlir: str, target: str, format_name: str, attributes: Mapping[str, int | str]) -> str:
    """Return the module with one local device, whose executables have the format and carry ``hwc.KEY`` attributes.

    ``target`` is the compiler's own ``#hal.executable.target<…>`` for the chip's triple and features.

    Raises ValueError if either text is not of the expected form: nothing may be compiled for another chip in silence.
    """
    device = f'#hal.device.target<"local", [{named(target, format_name, attributes)}]>'
    result, opened = _MODULE.subn(lambda _: f"module attributes {{hal.device.targets = [{device}]}} {{", mlir, count=1)
    if opened != 1:
        raise ValueError("the text has no module without attributes")
    return result


def named(target: str, format_name: str, attributes: Mapping[str, int | str]) -> str:
    """Return an executable target with the chip's format and facts; raise ValueError if the text is not one."""
    facts = "".join(f"hwc.{key} = {_literal(value)}, " for key, value in sorted(attributes.items()))
    made, found = _FORMAT.subn(lambda match: f'{match[1]}"{format_name}"{match[2]}{facts}', target)
    if found != 1:
        raise ValueError(f"not an executable target: {target[:80]}")
    return made


def _literal(value: int | str) -> str:
    return f"{value} : i64" if isinstance(value, int) else json.dumps(value)
