"""A call of a vendor's kernel as MLIR: the dispatch in the model, and the executable that holds the kernel's import.

The C side of the call is lower/kernels/hwc_kernels.h; both sides change together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hwc.lower.passes.graph import TensorType
from hwc.lower.passes.linalg import Value
from hwc.spec.legality import COLUMNS_OF_A_TILE, PatternName

FEWEST_COLUMNS = 64
"""Of a call: what every call does alike, such as rounding activations, is little beside their products."""
CALL_ATTRIBUTE = "hwc.call"
"""Attribute of a dispatch that is a kernel's call: pattern, m, n, k, and bytes read, of weights and written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """A kernel to link: what its descriptor calls it, its symbol, and the object that has it."""

    name: str
    symbol: str
    object: str
    """File name on the compiler's object search path."""
    columns_per_call: int
    """Most columns of the result that one call computes; calls may run at once."""
    least_calls: int = 1
    """Calls that columns are shared out to at least, where each gets FEWEST_COLUMNS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One product of static sizes by a kernel: its operands in the order of the C function, the result last."""

    kernel: Import
    pattern: PatternName
    operands: tuple[TensorType, ...]
    elements: tuple[str, ...]
    """Element type under which the kernel reads each operand and writes the result: ``f32``, ``i16`` bits, ``i8``."""
    result: TensorType
    sizes: tuple[int, ...]
    """Integers of the C function after its buffers, m, n and k first; begin and end of the columns follow."""
    extents: tuple[int, int, int, int] | None = None
    """Batch, m, n and k of the work, of a kernel whose columns are something else."""
    streamed: int = 1
    """How many operands are activations; the others are stored weights."""

    @property
    def name(self) -> str:
        """Name of the executable and its export: equal calls share one."""
        kinds = "_".join(f"{element}{math.prod(kind.shape)}" for element, kind in self._buffers())
        return f"kernel_{self.kernel.symbol}_{'x'.join(map(str, self.sizes))}_{kinds}"

    @property
    def columns(self) -> int:
        """How many columns a call computes: equal shares, in whole tiles, so that threads are done at once."""
        least = min(self.kernel.least_calls, self.sizes[1] // FEWEST_COLUMNS)
        wanted = max(-(-self.sizes[1] // self.kernel.columns_per_call), least)
        share = -(-self.sizes[1] // wanted)
        return min(-(-share // COLUMNS_OF_A_TILE) * COLUMNS_OF_A_TILE, self.kernel.columns_per_call)

    @property
    def calls(self) -> int:
        """How many calls the columns take."""
        return -(-self.sizes[1] // self.columns)

    def _buffers(self) -> list[tuple[str, TensorType]]:
        return list(zip(self.elements, (*self.operands, self.result), strict=True))

    def dispatch(self, operands: Sequence[Value], result: Value) -> str:
        """Return the line that computes ``result`` in the model."""
        names = ", ".join(value.name for value in operands)
        types = ", ".join(value.type.builtin() for value in operands)
        return (
            f"{result.name} = flow.dispatch @{self.name}::@{self.name}({names}) {self._told()} : ({types}) -> "
            f"{result.type.builtin()}"
        )

    def _told(self) -> str:
        """Say what is computed, for who reads the work from the compiler's IR: the kernel's body does not tell it."""
        batch, m, n, k = self.extents or (1, *self.sizes[:3])
        streamed, weights = self.operands[: self.streamed], self.operands[self.streamed :]
        if len(weights) > 1 and weights[-1] == weights[0]:  # the codes again: there are no zeros, or no bias
            weights = weights[:-1]
        sizes = {
            **({"batch": batch} if self.extents else {}), "m": m, "n": n, "k": k,
            "read": sum(map(_bytes, streamed)), "weight": sum(map(_bytes, weights)), "write": _bytes(self.result),
        }
        told = ", ".join(f"{name} = {size} : i64" for name, size in sizes.items())
        return f'{{{CALL_ATTRIBUTE} = {{pattern = "{self.pattern}", {told}}}}}'

    def executable(self) -> list[str]:
        """Return the executable's lines, to stand once in the module."""
        return [
            f"  stream.executable private @{self.name} {{",
            f"    stream.executable.export public @{self.name} workgroups() -> (index, index, index) {{",
            f"      %calls = arith.constant {self.calls} : index",
            "      %one = arith.constant 1 : index",
            "      stream.return %calls, %one, %one : index, index, index",
            "    }",
            "    builtin.module {",
            f"      func.func private @{self.kernel.symbol}({', '.join(self._signature())}) attributes {{{_STATIC}, "
            f'hal.executable.objects = [#hal.executable.object<{{path = "{self.kernel.object}"}}>]}}',
            *(f"      {line}" for line in self._body()),
            "    }",
            "  }",
        ]

    def _signature(self) -> list[str]:
        buffers = [part for element in self.elements for part in (f"memref<{element}>", "index")]
        return [*buffers, *("index" for _ in (*self.sizes, "begin", "end"))]

    def _body(self) -> list[str]:
        buffers = self._buffers()
        arguments = ", ".join(f"%b{at}: !stream.binding" for at in range(len(buffers)))
        lines = [f"func.func @{self.name}({arguments}) {{", "  %zero = arith.constant 0 : index"]
        for at, (element, kind) in enumerate(buffers):
            lines += [f"  {line}" for line in _pointer(at, element, _count(kind, element))]
        lines += [f"  %s{at} = arith.constant {size} : index" for at, size in enumerate(self.sizes)]
        lines += [
            "  %call = stream.dispatch.workgroup.id[0] : index",
            f"  %columns = arith.constant {self.columns} : index",
            "  %begin = arith.muli %call, %columns : index",
            "  %next = arith.addi %begin, %columns : index",
            "  %end = arith.minui %next, %s1 : index",
        ]
        pointers = [part for at in range(len(buffers)) for part in (f"%p{at}", f"%o{at}")]
        given = [*pointers, *(f"%s{at}" for at in range(len(self.sizes))), "%begin", "%end"]
        lines.append(f"  func.call @{self.kernel.symbol}({', '.join(given)}) : ({', '.join(self._signature())}) -> ()")
        return [*lines, "  return", "}"]


def is_call_of(dispatch: str, symbol: str) -> bool:
    """Tell whether a dispatch of this name is a call of a kernel."""
    return re.fullmatch(rf"kernel_{re.escape(symbol)}_\d+(x\d+)*_.*", dispatch) is not None


_STATIC = "hal.import.static, llvm.bareptr = [true]"


def _pointer(at: int, element: str, count: int) -> list[str]:
    """Take a binding apart into base and offset.

    The layout has to leave the offset open: under the identity layout IREE 3.13 takes it for 0 and drops the binding's
    own, so that a kernel reads and writes the wrong part of a shared buffer, without a word.
    """
    kind = f"memref<{count}x{element}, strided<[1], offset: ?>>"
    return [
        f"%m{at} = stream.binding.subspan %b{at}[%zero] : !stream.binding -> {kind}",
        f"%p{at}, %o{at}, %n{at}, %t{at} = memref.extract_strided_metadata %m{at} : {kind} -> "
        f"memref<{element}>, index, index, index",
    ]


_BITS = {"i4": 4, "i8": 8, "i16": 16, "f16": 16, "i32": 32, "f32": 32}


def _count(kind: TensorType, element: str) -> int:
    return math.prod(kind.shape) * _BITS[kind.dtype] // _BITS[element]


def _bytes(kind: TensorType) -> int:
    return math.prod(kind.shape) * _BITS[kind.dtype] // 8
