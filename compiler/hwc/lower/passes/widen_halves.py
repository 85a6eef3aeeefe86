"""Widen float16 by integer arithmetic, for a backend that stores halves but cannot convert them."""

from __future__ import annotations

import re

_EXTENSION = re.compile(r"^(?P<indent>\s*)(?P<result>%[\w.]+) = arith\.extf (?P<half>%[\w.]+) : f16 to f32$")
_STEPS = (
    "{p}.bits = arith.bitcast {half} : f16 to i16",
    "{p}.word = arith.extui {p}.bits : i16 to i32",
    "{p}.mask = arith.constant 32767 : i32",
    "{p}.top = arith.constant 32768 : i32",
    "{p}.mantissas = arith.constant 13 : i32",
    "{p}.halfway = arith.constant 16 : i32",
    "{p}.rebias = arith.constant 0x77800000 : f32",
    "{p}.size = arith.andi {p}.word, {p}.mask : i32",
    "{p}.placed = arith.shli {p}.size, {p}.mantissas : i32",
    "{p}.small = arith.bitcast {p}.placed : i32 to f32",
    "{p}.scaled = arith.mulf {p}.small, {p}.rebias : f32",
    "{p}.unsigned = arith.bitcast {p}.scaled : f32 to i32",
    "{p}.sign = arith.andi {p}.word, {p}.top : i32",
    "{p}.high = arith.shli {p}.sign, {p}.halfway : i32",
    "{p}.joined = arith.ori {p}.unsigned, {p}.high : i32",
    "{result} = arith.bitcast {p}.joined : i32 to f32",
)
"""Exponent and mantissa go to their place in a float32, whose exponent is then 112 too small: × 2^112, exactly."""


def widen_halves(mlir: str) -> str:
    """Return the module with every ``arith.extf`` from f16 to f32 done in integers; exact for finite values.

    Requires finite halves: infinity and NaN would come out as large numbers. Ensures that no f16 is converted.
    """
    lines: list[str] = []
    for number, line in enumerate(mlir.splitlines()):
        found = _EXTENSION.match(line)
        if found is None:
            lines.append(line)
            continue
        named = {"p": f"%widened{number}", "half": found["half"], "result": found["result"]}
        lines += [found["indent"] + step.format(**named) for step in _STEPS]
    return "\n".join(lines) + "\n"
