"""Bytes that pass between the outer memory and the chip, when operands do not fit on it."""

from __future__ import annotations

from dataclasses import dataclass

from hwc.predict.chip import Chip
from hwc.predict.operation import Operation

SHARE = 0.5
"""Part of the memory on the chip that holds operands in use; the other half takes the next ones."""
CONTRACTIONS = ("matmul", "conv", "attention")


@dataclass(frozen=True, slots=True, kw_only=True)
class Passing:
    """Traffic of one run of an operation."""

    outer_read: float
    outer_write: float
    outer_first: float = 0.0
    """Part of what is read that has to come before the first pass ends: the block of inputs that stays."""
    inner_read: float
    inner_write: float

    @property
    def outer(self) -> float:
        """Bytes over the outer memory's interface."""
        return self.outer_read + self.outer_write


def passing(operation: Operation, chip: Chip, *, resident: bool, cold: bool = False) -> Passing:
    """Return what passes at each level; ``cold``: of an operation alone, that has nothing on the chip before or after.

    Activations that fit on the chip came from and go to its own memory; weights come from outside unless the whole
    model is ``resident`` on the chip; what two activations' product reads (a KV cache) counts as weights do. An
    operand that does not fit is read again for every block of the other that does.
    """
    whole_read = operation.read_bytes + operation.weight_bytes
    if chip.inner is None:
        return Passing(outer_read=whole_read, outer_write=operation.write_bytes, inner_read=0.0, inner_write=0.0)
    room = chip.inner.size_bytes * SHARE
    if operation.op in CONTRACTIONS and operation.n:
        left, right = sides(operation)
        again_left, again_right = reread(left, right, room)
    else:
        left, right, again_left, again_right = operation.read_bytes, operation.weight_bytes, 1.0, 1.0
    kept = left / again_right if again_left == 1 else 0.0
    inside = not cold and left + operation.write_bytes <= room
    stored = operation.weights is not None or operation.op not in CONTRACTIONS
    outer_read = (0.0 if inside else left * again_left) + (0.0 if resident else right * again_right)
    if not stored and not resident:
        outer_read = max(outer_read, right)
    return Passing(
        outer_read=outer_read, outer_write=0.0 if inside else operation.write_bytes,
        outer_first=0.0 if inside else kept, inner_read=whole_read, inner_write=operation.write_bytes,
    )


def sides(operation: Operation) -> tuple[float, float]:
    """Return the bytes of the streamed side and of the side that is kept: stored weights, or the second operand."""
    if operation.weights is not None:
        return operation.read_bytes, operation.weight_bytes
    whole = operation.read_bytes + operation.weight_bytes
    share = operation.m / (operation.m + operation.n * (2 if operation.op == "attention" else 1))
    return whole * share, whole * (1 - share)


def reread(left: float, right: float, room: float) -> tuple[float, float]:
    """Return how often each side of a product is read, for the order of blocks that reads least.

    Blocks of one side stay while all of the other passes: left + right · ⌈left / room⌉, or the other way round.
    """
    left_blocks, right_blocks = max(1.0, -(-left // room)), max(1.0, -(-right // room))
    if right * left_blocks + left <= left * right_blocks + right:
        return 1.0, left_blocks
    return right_blocks, 1.0
