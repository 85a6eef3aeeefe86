"""The importer's MLIR read line by line: its operators, their static types, and which value is which parameter."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_OPERATOR = re.compile(
    r'^\s*(?P<result>%[\w$.-]+) = torch\.operator "onnx\.(?P<name>\w+)"\((?P<operands>[^)]*)\) '
    r"(?:\{(?P<attributes>.*)\} )?: \((?P<types>.*)\) -> (?P<type>!torch\.vtensor<[^ ]*>)\s*$"
)
_TYPE = re.compile(r"!torch\.vtensor<\[([^\]]*)\],(\w+)>|!torch\.none")
_INTEGER = re.compile(r"torch\.onnx\.(\w+) = (-?\d+) : si64")
_GLOBAL = re.compile(r'^\s*util\.global private @("[^"]+"|[^ ]+) = #\w+\.parameter\.named<"[^"]*"::"([^"]+)">')
_LOAD = re.compile(r'^\s*(%[\w$.-]+) = util\.global\.load (?:immutable )?@("[^"]+"|[^ ]+) : ')
_CAST = re.compile(r"^\s*(%[\w$.-]+) = torch_c\.from_builtin_tensor (%[\w$.-]+) : ")


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorType:
    """A static tensor type; ``dtype`` as torch-mlir writes it (``f32``, ``si64``, ``ui8``, ``f8E4M3FN``)."""

    shape: tuple[int, ...]
    dtype: str

    def builtin(self) -> str:
        """Write it as a builtin tensor type."""
        return f"tensor<{''.join(f'{size}x' for size in self.shape)}{self.dtype}>"

    def torch(self) -> str:
        """Write it as a torch value tensor type."""
        return f"!torch.vtensor<[{','.join(map(str, self.shape))}],{self.dtype}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One ``torch.operator "onnx.…"`` line with a single result."""

    line: int
    """Index into the module's lines."""
    name: str
    """ONNX op type."""
    result: str
    operands: tuple[str, ...]
    attributes: Mapping[str, int]
    """Integer attributes only."""
    types: tuple[TensorType | None, ...]
    """Of the operands; None for an absent one. Empty if one of the types is not static."""
    type: TensorType | None
    """Of the result; None if it is not static."""


def operators(lines: Sequence[str], names: frozenset[str]) -> Iterator[Operator]:
    """Yield the operators of the given ONNX op types, in order."""
    for index, line in enumerate(lines):
        found = _OPERATOR.match(line)
        if found is None or found["name"] not in names:
            continue
        operands = tuple(entry.strip() for entry in found["operands"].split(",") if entry.strip())
        types = _types(found["types"])
        results = _types(found["type"])
        yield Operator(
            line=index,
            name=found["name"],
            result=found["result"],
            operands=operands,
            attributes={key: int(value) for key, value in _INTEGER.findall(found["attributes"] or "")},
            types=types if len(types) == len(operands) else (),
            type=results[0] if results else None,
        )


def _types(text: str) -> tuple[TensorType | None, ...]:
    """Parse a comma-separated list of types; empty if a dimension is dynamic."""
    parsed: list[TensorType | None] = []
    for found in _TYPE.finditer(text):
        if found[0] == "!torch.none":
            parsed.append(None)
            continue
        sizes = [size for size in found[1].split(",") if size]
        if not all(size.isdigit() for size in sizes):
            return ()
        parsed.append(TensorType(shape=tuple(map(int, sizes)), dtype=found[2]))
    return tuple(parsed)


def parameter_keys(lines: Sequence[str]) -> dict[str, str]:
    """Return the parameter key behind each value that is a parameter cast to a torch tensor."""
    keys = {found[1]: found[2] for found in map(_GLOBAL.match, lines) if found}
    loads = {found[1]: found[2] for found in map(_LOAD.match, lines) if found}
    casts = {found[1]: found[2] for found in map(_CAST.match, lines) if found}
    return {value: keys[loads[source]] for value, source in casts.items() if loads.get(source) in keys}
