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
    "{p}.rebias = arith.constant 0x38000000 : i32",
    "{p}.least = arith.constant 1024 : i32",
    "{p}.unit = arith.constant 5.9604644775390625e-08 : f32",
    "{p}.size = arith.andi {p}.word, {p}.mask : i32",
    "{p}.placed = arith.shli {p}.size, {p}.mantissas : i32",
    "{p}.normal = arith.addi {p}.placed, {p}.rebias : i32",
    "{p}.count = arith.uitofp {p}.size : i32 to f32",
    "{p}.small = arith.mulf {p}.count, {p}.unit : f32",
    "{p}.subnormal = arith.bitcast {p}.small : f32 to i32",
    "{p}.below = arith.cmpi ult, {p}.size, {p}.least : i32",
    "{p}.unsigned = arith.select {p}.below, {p}.subnormal, {p}.normal : i32",
    "{p}.sign = arith.andi {p}.word, {p}.top : i32",
    "{p}.high = arith.shli {p}.sign, {p}.halfway : i32",
    "{p}.joined = arith.ori {p}.unsigned, {p}.high : i32",
    "{result} = arith.bitcast {p}.joined : i32 to f32",
)
"""Exponent and mantissa go to their place in a float32, whose exponent becomes 112 larger. A subnormal half is so many
2^-24: IREE's devices flush subnormal float32 to zero, so none may come up on the way."""


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
