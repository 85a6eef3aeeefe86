"""One piece of a model's work: what is computed, on which shapes and types, and the bytes that have to pass."""

from __future__ import annotations

from dataclasses import dataclass

from hwc.spec.hardware import Element
from hwc.spec.legality import OpClass


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What one dispatch does, or several of equal shape.

    Bytes count every operand once, as if caches held what is read again. A gather reads the rows it takes, not its
    table.
    """

    op: OpClass
    name: str
    """The dispatch's name in the compiler's IR, or the layer's where no compiler was asked."""
    count: int = 1
    """How often it runs in one call of the model."""
    batch: int = 1
    m: int = 0
    n: int = 0
    k: int = 0
    """Extents of a matmul, [m, k] × [k, n] in each of ``batch``; 0 for other work."""
    points: int = 0
    """Elements of the result."""
    rank: int = 0
    """Rank of the result."""
    activations: Element
    weights: Element | None = None
    """Type in which a stored weight lies in memory; None where no operand is one."""
    accumulator: Element = "float32"
    flops: float
    """Operations of one run; a multiply-add counts as two."""
    read_bytes: float
    """Activations read."""
    weight_bytes: float = 0.0
    """Stored weights read, with scales and zero points."""
    write_bytes: float

    @property
    def traffic_bytes(self) -> float:
        """Every byte that passes in one run."""
        return self.read_bytes + self.weight_bytes + self.write_bytes
