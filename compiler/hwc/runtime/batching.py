"""Any number of items through static shapes: pick the smallest bucket that holds them, fill it up, cut the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from hwc.errors import UsageError
from hwc.program import Function

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRule:
    """How one input may be filled up."""

    dtype: str
    shape: tuple[int | str, ...]
    pad: float | None
    """Fills named dimensions other than the batch; None: they must fit a bucket exactly."""


class Callee(Protocol):
    """What runs one function at its exact shape."""

    def call(self, function: str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return outputs by name."""
        ...


def run(
    callee: Callee,
    functions: Sequence[Function],
    rules: Mapping[str, InputRule],
    batch_dim: str,
    feeds: Mapping[str, np.ndarray],
    output_dims: Mapping[str, Sequence[int | str | None]] | None = None,
) -> dict[str, np.ndarray]:
    """Run items [batch, …] of any number; return outputs [batch, …], cut to the items' own sizes.

    ``output_dims`` names the axes of outputs that are as long as an input's axis: filling is cut off them.

    Raises UsageError for a missing or unknown input, ranks or sizes that disagree, or items larger than every bucket.
    """
    import numpy as np

    feeds = {name: _array(name, value, rules.get(name)) for name, value in feeds.items()}
    sizes = _sizes(rules, feeds)
    items = sizes.get(batch_dim, 1)
    parts: list[dict[str, np.ndarray]] = []
    start = 0
    while start < items:
        function = _choose(functions, rules, batch_dim, {**sizes, batch_dim: items - start})
        rows = min(items - start, function.bucket.get(batch_dim, items))
        filled = {
            name: _fill(feeds[name], rule, function.bucket, batch_dim, slice(start, start + rows))
            for name, rule in rules.items()
        }
        wanted = {**sizes, batch_dim: rows} if batch_dim in function.bucket else sizes
        found = callee.call(function.name, filled)
        dims = output_dims or {}
        parts.append({name: _cut(value, dims.get(name, ()), batch_dim, wanted) for name, value in found.items()})
        start += rows
    return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _cut(
    value: np.ndarray, dims: Sequence[int | str | None], batch_dim: str, sizes: Mapping[str, int]
) -> np.ndarray:
    if batch_dim in sizes and batch_dim not in dims:  # an exporter may have left the first axis without a name
        dims = (batch_dim, *dims[1:])
    return value[tuple(slice(0, sizes.get(dim)) if isinstance(dim, str) else slice(None) for dim in dims)]


def _array(name: str, value: Any, rule: InputRule | None) -> np.ndarray:
    import numpy as np

    try:
        found = np.asarray(value)
    except ValueError as error:
        raise UsageError(f"input `{name}` is not an array: {error}") from error
    if rule is not None and not np.can_cast(found.dtype, rule.dtype, "same_kind"):
        raise UsageError(f"input `{name}` holds {found.dtype}; the model takes {rule.dtype}")
    return found


def _sizes(rules: Mapping[str, InputRule], feeds: Mapping[str, np.ndarray]) -> dict[str, int]:
    unknown, missing = sorted(set(feeds) - set(rules)), sorted(set(rules) - set(feeds))
    if unknown or missing:
        wrong = f"unknown input `{unknown[0]}`" if unknown else f"missing input `{missing[0]}`"
        raise UsageError(wrong, hint=f"the model takes: {', '.join(rules)}")
    sizes: dict[str, int] = {}
    for name, rule in rules.items():
        shape = feeds[name].shape
        if len(shape) != len(rule.shape):
            raise UsageError(f"input `{name}` has shape {list(shape)}; the model takes {list(rule.shape)}")
        for dim, size in zip(rule.shape, shape, strict=True):
            expected = sizes.setdefault(dim, size) if isinstance(dim, str) else dim
            if expected != size or size == 0:
                asked = f"`{dim}` is {expected}" if isinstance(dim, str) else f"the model takes {dim}"
                raise UsageError(f"input `{name}` has size {size} where {asked}")
    return sizes


def _choose(
    functions: Sequence[Function], rules: Mapping[str, InputRule], batch_dim: str, sizes: Mapping[str, int]
) -> Function:
    """Return the smallest function that holds the items; of those that hold fewer rows, the one with most rows."""
    paddable = {
        dim for rule in rules.values() if rule.pad is not None for dim in rule.shape if isinstance(dim, str)
    }

    def holds(function: Function) -> bool:
        return all(
            function.bucket[dim] >= size if dim in paddable else function.bucket[dim] == size
            for dim, size in sizes.items()
            if dim != batch_dim
        )

    fitting = [function for function in functions if holds(function)]
    if not fitting:
        have = ", ".join(str(function.bucket) for function in functions)
        raise UsageError(f"no compiled shape holds {dict(sizes)}", hint=f"compiled shapes: {have}")
    wanted = sizes.get(batch_dim, 1)
    whole = [function for function in fitting if function.bucket.get(batch_dim, wanted) <= wanted]
    if whole:
        most = max(function.bucket.get(batch_dim, wanted) for function in whole)
        fitting = [function for function in whole if function.bucket.get(batch_dim, wanted) == most]
    return min(fitting, key=_volume)


def _volume(function: Function) -> int:
    product = 1
    for size in function.bucket.values():
        product *= size
    return product


def _fill(
    value: np.ndarray, rule: InputRule, bucket: Mapping[str, int], batch_dim: str, rows: slice
) -> np.ndarray:
    import numpy as np

    shape = tuple(bucket[dim] if isinstance(dim, str) else dim for dim in rule.shape)
    axis = rule.shape.index(batch_dim) if batch_dim in rule.shape else None
    if axis is not None:
        value = value[(slice(None),) * axis + (rows,)]
    filled = np.full(shape, rule.pad or 0, dtype=rule.dtype)
    filled[tuple(slice(0, size) for size in value.shape)] = value
    return filled
