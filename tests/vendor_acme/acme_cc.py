"""Acme's compiler, as hwc calls it: one ``hal.executable`` on stdin, the same on stdout with Acme's object in it.

It makes code for a dense layer (product, bias, arithmetic on each element) and leaves all else to the stock compiler.
The object goes to the folder $HWC_OBJECTS; the executable then calls it by a static import. Standard library only.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

CC = os.environ.get("ACME_CC", "gcc").split()
FLAGS = ("-std=c11", "-O2", "-ffreestanding", "-fPIC", "-fvisibility=hidden", "-fno-stack-protector", "-fno-math-errno")
ARITHMETIC = {"addf": "+", "mulf": "*", "subf": "-", "divf": "/"}
COMPARED = {"ugt": ">", "ogt": ">", "ult": "<", "olt": "<"}
DENSE = re.compile(
    r"(?P<made>%\w+) = linalg\.matmul .*?\(d1, d2\)>.* ins\((?P<x>%\w+), (?P<w>%\w+) : "
    r"tensor<(?P<m>\d+)x(?P<k>\d+)xf32>, tensor<(?P<n>\d+)x\d+xf32>\)"
)
TAIL = re.compile(r"linalg\.generic \{.*?\} ins\((%\w+), (%\w+) : tensor<[\dx]+xf32>, tensor<([\dx]+)xf32>\)")
LOAD = re.compile(r"(%\w+) = iree_tensor_ext\.dispatch\.tensor\.load (%\w+),")
STORE = re.compile(r"iree_tensor_ext\.dispatch\.tensor\.store %\w+, (%\w+),")
SUBSPAN = re.compile(
    r"(%\w+) = (hal\.interface\.binding\.subspan .*) : "
    r"!iree_tensor_ext\.dispatch\.tensor<\w+:tensor<([\dx]+)xf32>>"
)
SCALAR = re.compile(r"(%\w+) = arith\.constant (-?[\d.]+e[+-]\d+|-?[\d.]+) : f32")
BODY = re.compile(r"\^bb0\((.*)\):")


class NotOurs(Exception):
    """An executable that Acme's compiler leaves alone."""


def expression(lines: list[str], names: dict[str, str]) -> tuple[list[str], str]:
    """Translate the arithmetic on one element to C statements; ``names`` maps values that are known to C."""
    made = []
    for line in lines:
        line = re.sub(r" loc\(.*\)$", "", line.strip())
        if found := re.match(r"(%\w+) = arith\.(\w+) (%\w+), (%\w+) : f32$", line):
            result, operator, left, right = found.groups()
            if operator not in ARITHMETIC:
                raise NotOurs(f"arith.{operator}")
            made.append(f"const float v{result[1:]} = {names[left]} {ARITHMETIC[operator]} {names[right]};")
        elif found := re.match(r"(%\w+) = arith\.cmpf (\w+), (%\w+), (%\w+) : f32$", line):
            result, how, left, right = found.groups()
            made.append(f"const int v{result[1:]} = {names[left]} {COMPARED[how]} {names[right]};")
        elif found := re.match(r"(%\w+) = arith\.select (%\w+), (%\w+), (%\w+) : f32$", line):
            result, *parts = found.groups()
            made.append("const float v{} = {} ? {} : {};".format(result[1:], *(names[part] for part in parts)))
        elif found := re.match(r"linalg\.yield (%\w+) : f32$", line):
            return made, names[found[1]]
        else:
            raise NotOurs(line[:60])
        names[result] = f"v{result[1:]}"
    raise NotOurs("a body without an end")


def source(symbol: str, text: str) -> tuple[str, list[str]]:
    """Return C for a dense layer, and its bindings in the order of the C function."""
    dense, tails, store = DENSE.search(text), TAIL.findall(text), STORE.search(text)
    if dense is None or len(tails) != 1 or store is None:
        raise NotOurs("no dense layer")
    loads, spans = dict(LOAD.findall(text)), {found[1] for found in SUBSPAN.finditer(text)}
    product, bias, extent = tails[0]
    if product != dense["made"] or loads.get(bias) not in spans or int(extent.split("x")[-1]) != int(dense["n"]):
        raise NotOurs("no bias among its bindings")
    arguments = re.findall(r"(%\w+): f32", body := BODY.search(text)[1])
    assert len(arguments) == 3, body
    names = dict(SCALAR.findall(text))
    names = {name: f"{float(value)!r}f" for name, value in names.items()}
    names |= {arguments[0]: "sum", arguments[1]: "bias[n]"}
    inner = text[text.index("^bb0") :].splitlines()[1:]
    statements, result = expression(inner, names)
    k = dense["k"]
    code = [
        "#include <stddef.h>",
        "__attribute__((visibility(\"default\")))",
        f"void {symbol}(const float *x, size_t x_at, const float *w, size_t w_at, const float *bias, size_t bias_at,",
        "    float *y, size_t y_at) {",
        "    x += x_at; w += w_at; bias += bias_at; y += y_at;",
        f"    for (size_t m = 0; m < {dense['m']}; ++m)",
        f"        for (size_t n = 0; n < {dense['n']}; ++n) {{",
        "            float sum = 0;",
        f"            for (size_t k = 0; k < {k}; ++k) sum += x[m * {k} + k] * w[n * {k} + k];",
        *(f"            {statement}" for statement in statements),
        f"            y[m * {dense['n']} + n] = {result};",
        "        }",
        "}",
    ]
    return "\n".join(code) + "\n", [loads[dense["x"]], loads[dense["w"]], loads[bias], store[1]]


def compiled(name: str, code: str) -> str:
    """Compile C into $HWC_OBJECTS; return the object's name."""
    folder = Path(os.environ["HWC_OBJECTS"])
    (folder / f"{name}.c").write_text(code)
    subprocess.run([*CC, *FLAGS, "-c", f"{name}.c", "-o", f"{name}.o"], cwd=folder, check=True)
    return f"{name}.o"


def rewritten(text: str, symbol: str, obj: str, bindings: list[str]) -> str:
    """Return the executable with a body that calls the object, on a grid of one."""
    types = ", ".join(["memref<f32>, index"] * len(bindings))
    lines, calls = [], []
    for found in SUBSPAN.finditer(text):
        value, span, shape = found.groups()
        sizes = [int(size) for size in shape.split("x")]
        strides = [1]
        for size in sizes[:0:-1]:
            strides.insert(0, strides[0] * size)
        kind = f"memref<{shape}xf32, strided<{strides}, offset: ?>>"
        rank = len(sizes)
        at, indices = value[1:], ", ".join(["index"] * (1 + 2 * rank))
        lines.append(f"{value} = {span} : {kind}")
        lines.append(
            f"%p{at}, %o{at}, %s{at}:{rank}, %t{at}:{rank} = memref.extract_strided_metadata {value} : {kind} -> "
            f"memref<f32>, {indices}"
        )
    for binding in bindings:
        calls += [f"%p{binding[1:]}", f"%o{binding[1:]}"]
    constants = [line for line in text.splitlines() if re.search(r"= arith\.constant \d+ : index", line)]
    start, end = text.index("    builtin.module"), text.index("        return")
    function = re.search(r"func\.func @(\S+)\(\)", text)[0]
    inner = [
        "    builtin.module {",
        f"      func.func private @{symbol}({types}) attributes {{hal.import.static, llvm.bareptr = [true], "
        f'hal.executable.objects = [#hal.executable.object<{{path = "{obj}"}}>]}}',
        f"      {function} {{",
        *[line for line in constants if text.index(line) > start],
        *[f"        {line}" for line in lines],
        f"        func.call @{symbol}({', '.join(calls)}) : ({types}) -> ()",
    ]
    text = text[:start] + "\n".join(inner) + "\n" + text[end:]
    grid = "iree_tensor_ext.dispatch.workgroup_count_from_slice()"
    one = "%one = arith.constant 1 : index\n      hal.return %one, %one, %one : index, index, index"
    return re.sub(rf"%x, %y, %z = {re.escape(grid)}.*\n\s*hal\.return .*", one, text)


def main() -> int:
    """Serve one executable."""
    text = sys.stdin.read()
    name = re.sub(r"\W", "_", re.search(r"hal\.executable private @(\S+)", text)[1])
    try:
        code, bindings = source(f"acme_{name}", text)
    except NotOurs as reason:
        sys.stderr.write(f"acme_cc: {name}: left to the stock compiler ({reason})\n")
        sys.stdout.write(text)
        return 0
    sys.stderr.write(f"acme_cc: {name}: a dense layer, compiled\n")
    sys.stdout.write(rewritten(text, f"acme_{name}", compiled(name, code), bindings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
