"""Linalg as text: one value at a time, with the types it was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hwc.lower.passes.graph import TensorType


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """An SSA value of a builtin tensor type."""

    name: str
    type: TensorType


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """An operand of a generic: the loops that index it, and what its element is called in the body."""

    value: Value
    loops: Sequence[str]
    element: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """The result of a generic; loops that do not index it are reductions."""

    value: Value
    loops: Sequence[str]
    start: Value


def generic(loops: Sequence[str], inputs: Sequence[Input], output: Output, body: Sequence[str]) -> list[str]:
    """Write a ``linalg.generic``; ``body`` is scalar ops of which the last defines what is yielded.

    The body names the output's running element ``%acc``.
    """
    spans = [*(entry.loops for entry in inputs), output.loops]
    maps = ", ".join(f"affine_map<({', '.join(loops)}) -> ({', '.join(used)})>" for used in spans)
    kinds = ", ".join('"parallel"' if loop in output.loops else '"reduction"' for loop in loops)
    names = ", ".join(entry.value.name for entry in inputs)
    types = ", ".join(entry.value.type.builtin() for entry in inputs)
    arguments = ", ".join(f"%{entry.element}: {entry.value.type.dtype}" for entry in inputs)
    made = output.value.type
    return [
        f"{output.value.name} = linalg.generic {{indexing_maps = [{maps}], iterator_types = [{kinds}]}} "
        f"ins({names} : {types}) outs({output.start.name} : {made.builtin()}) {{",
        f"^bb0({arguments}, %acc: {made.dtype}):",
        *(f"  {op}" for op in body),
        f"  linalg.yield {body[-1].partition(' = ')[0]} : {made.dtype}",
        f"}} -> {made.builtin()}",
    ]


def empty(value: Value) -> str:
    """Write a ``tensor.empty``."""
    return f"{value.name} = tensor.empty() : {value.type.builtin()}"


def zeros(value: Value, start: Value) -> list[str]:
    """Fill ``start`` with zeros to get ``value``, both f32."""
    kind = value.type.builtin()
    return [
        f"{value.name}.scalar = arith.constant 0.0 : f32",
        f"{value.name} = linalg.fill ins({value.name}.scalar : f32) outs({start.name} : {kind}) -> {kind}",
    ]


def reshape(source: Value, result: Value) -> list[str]:
    """Split or join trailing or leading dimensions; nothing if the shapes are equal but for the name.

    Exactly one side's dimension may correspond to several of the other's; the other dimensions are equal.
    """
    few, many = sorted((source.type.shape, result.type.shape), key=len)
    groups = _association(few, many)
    kinds = f"{source.type.builtin()} into {result.type.builtin()}"
    if len(source.type.shape) > len(result.type.shape):
        return [f"{result.name} = tensor.collapse_shape {source.name} {groups} : {kinds}"]
    return [
        f"{result.name} = tensor.expand_shape {source.name} {groups} "
        f"output_shape {list(result.type.shape)} : {kinds}"
    ]


def _association(few: Sequence[int], many: Sequence[int]) -> list[list[int]]:
    """Return which dimensions of ``many`` make up each of ``few``, greedily from the right.

    The leading dimension takes what is left, so leading ones of size 1 are never lost.
    """
    groups: list[list[int]] = []
    stop = len(many)
    for position in range(len(few) - 1, 0, -1):
        start, size = stop - 1, many[stop - 1]
        while size < few[position]:
            start -= 1
            size *= many[start]
        groups.insert(0, list(range(start, stop)))
        stop = start
    return [list(range(stop)), *groups]
