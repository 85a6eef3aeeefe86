"""Place dispatches on a second device: each carries its device's affinity, and values move where the device changes.

Works on IREE's flow IR, in which work is divided into dispatches already: what a rule was judged by is what moves.
Weights that only the second device reads are loaded there; the compiler finds that out by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass

from hwc.lower.flow_lines import function_at, short

HOST = "hwc_host"
"""Symbol of the second device."""
_DEFAULT = re.compile(r"stream\.affinity\.default = #hal\.device\.affinity<@([A-Za-z0-9_.$-]+)>")
_DISPATCH = re.compile(
    r"^(?P<head>\s*(?P<results>%.*?) = flow\.dispatch @[^ ]*?::@(?P<export>[^(\[ ]+)(?:\[[^\]]*\])?)"
    r"\((?P<operands>[^)]*)\)(?P<attributes> \{.*?\})? : \((?P<types>.*?)\) -> (?P<made>.*)$"
)
_HANDS_ON = re.compile(r"^\s*(%[\w.$]+) = flow\.tensor\.(?:reshape|bitcast|slice) (%[\w.$]+(?:#\d+)?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A module whose dispatches carry the device they run on."""

    mlir: str
    dispatches: int
    """How many dispatches went to the second device."""
    crossing: Mapping[str, int]
    """Function to the values that change the device in one call."""


def place(flow: str, host_device: str, hosted: Mapping[str, Set[str]]) -> Placed:
    """Return the module with the dispatches in ``hosted``, by function and name, on a second device.

    ``host_device`` is its ``#hal.device.target<…>``. Work that a module does when it is loaded stays on the first.
    Raises ValueError if the text has no default device, or a dispatch that is to move is not in it.
    """
    default = _DEFAULT.search(flow)
    if default is None:
        raise ValueError("the text names no default device: it is not the compiler's flow IR")
    lines, missing = [], {(function, name) for function, names in hosted.items() for name in names}
    body = _Body("", frozenset(), default[1])
    moved, crossing = 0, dict[str, int]()
    for line in flow.splitlines():
        if (opened := function_at(line)) is not None:
            body = _Body(opened, hosted.get(opened, frozenset()), default[1])
        found = _DISPATCH.match(line)
        if found is None:
            body.hand_on(line)
            lines.append(line)
        elif not body.function:
            lines.append(line)
        else:
            made = body.dispatch(found)
            moved += f"affinity<@{HOST}>" in made[-1]
            crossing[body.function] = crossing.get(body.function, 0) + len(made) - 1
            missing.discard((body.function, short(found["export"])))
            lines += made
        if line.lstrip().startswith(f"util.global private @{default[1]} "):
            lines.append(f"  util.global private @{HOST} = {host_device} : !hal.device")
    if missing:
        raise ValueError(f"dispatch {min(missing)[1]} of {min(missing)[0]} is not in the module")
    return Placed(mlir="\n".join(lines) + "\n", dispatches=moved, crossing=crossing)


class _Body:
    """One function, read from the top: which device each value lies on."""

    def __init__(self, function: str, hosted: Set[str], default: str) -> None:
        self.function, self._hosted, self._default = function, hosted, default
        self._lies: dict[str, str] = {}
        self._copies: dict[tuple[str, str], str] = {}

    def hand_on(self, line: str) -> None:
        """Take a value that is another one in a new shape to lie where that lies."""
        if (found := _HANDS_ON.match(line)) and (source := _value(found[2])) in self._lies:
            self._lies[found[1]] = self._lies[source]

    def dispatch(self, found: re.Match[str]) -> list[str]:
        """Return the dispatch on its device, after the transfers of what it reads from the other one."""
        device = HOST if short(found["export"]) in self._hosted else self._default
        operands = [name.strip() for name in found["operands"].split(",") if name.strip()]
        lines, made = [], found["made"]
        for place, (name, kind) in enumerate(zip(operands, split_types(found["types"]), strict=True)):
            if self._lies.get(_value(name), device) == device:
                continue
            if (name, device) not in self._copies:
                copy = f"%hwc_moved_{len(self._copies)}"
                self._copies[name, device] = copy
                lines.append(
                    f"    {copy} = flow.tensor.transfer {name} : {kind} to #hal.device.affinity<@{device}>"
                )
            operands[place] = self._copies[name, device]
            made = re.sub(rf"{re.escape(name)}(?![\w.$#])", operands[place], made)  # results that reuse the operand
        for result in found["results"].split(","):
            self._lies[result.strip().partition(":")[0]] = device
        attribute = f"stream.affinity = #hal.device.affinity<@{device}>"
        kept = (found["attributes"] or " {}")[2:-1]
        attributes = f" {{{kept}, {attribute}}}" if kept else f" {{{attribute}}}"
        return [*lines, f"{found['head']}({', '.join(operands)}){attributes} : ({found['types']}) -> {made}"]


def _value(name: str) -> str:
    """Return the operation's value of one of its results: ``%7`` of ``%7#1``."""
    return name.partition("#")[0]


def split_types(text: str) -> list[str]:
    """Split a list of types at the commas between them."""
    found, depth, start = [], 0, 0
    for place, sign in enumerate(text):
        depth += (sign in "<({") - (sign in ">)}")
        if sign == "," and depth == 0:
            found.append(text[start:place].strip())
            start = place + 1
    return [*found, last] if (last := text[start:].strip()) else found
