"""Child process of :mod:`hwc.spec.from_python`: run a user's factory and write down its inputs and outputs.

Called as ``python -m hwc.spec.probe FILE FACTORY ANSWER``; writes a JSON object to ANSWER, either ``inputs``,
``outputs`` and ``batched``, or ``error`` and ``hint``.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from hwc.spec.model import Dtype

HINT = 'add EXAMPLE_INPUTS = {"name": torch.zeros(1, …)} to the file, or write a TOML with [inputs]'


class ProbeError(Exception):
    """What is wrong with the user's file, and what to do about it."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


def look(file: Path, factory: str) -> dict[str, Any]:
    """Return the facts about the module that ``factory`` in ``file`` makes; raise ProbeError if it is not usable."""
    import torch

    torch.manual_seed(0)  # example inputs drawn at random must give the same specification every time
    user = _guarded("the file fails to import", lambda: _load(file))
    make = vars(user).get(factory)
    if not callable(make):
        known = ", ".join(sorted(name for name, value in vars(user).items() if inspect.isfunction(value)))
        raise ProbeError(f"`{factory}` is not a function in the file", f"it defines: {known or 'no function'}")
    module = _guarded("the factory failed", make)
    if not isinstance(module, torch.nn.Module):
        raise ProbeError(f"the factory returned {type(module).__name__}, not a torch.nn.Module")
    module.eval()
    example = _example(user, make, module)
    with torch.no_grad():
        outputs = _outputs(_guarded("the module fails on its example inputs", lambda: module(*example.values())))
        batched = _is_batched(module, example, outputs)
    return {
        "inputs": {name: _facts(name, tensor) for name, tensor in example.items()},
        "outputs": list(outputs),
        "batched": batched,
    }


def _guarded(doing: str, action: Callable[[], Any]) -> Any:
    try:
        return action()
    except Exception as error:
        raise ProbeError(f"{doing}: {type(error).__name__}: {error}") from error


def _load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"hwc_user_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ImportError("not a Python file")
    user = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = user
    spec.loader.exec_module(user)
    return user


def _example(user: ModuleType, make: Any, module: Any) -> dict[str, Any]:
    import torch

    given = vars(user).get("EXAMPLE_INPUTS")
    for owner in (make, module):
        given = getattr(owner, "example_inputs", None) if given is None else given
    if given is None:
        raise ProbeError("the file gives no example inputs, so that shapes and types are unknown", HINT)
    if callable(given) and not isinstance(given, torch.Tensor):
        given = _guarded("making the example inputs failed", given)
    names = list(inspect.signature(module.forward).parameters)
    if not isinstance(given, Mapping):
        tensors = list(given) if isinstance(given, tuple | list) else [given]
        given = dict(zip(names, tensors, strict=False))  # their number is compared below
        if len(given) != len(tensors):
            raise ProbeError(f"{len(tensors)} example inputs, but forward takes {len(names)}", HINT)
    if set(given) <= set(names):  # the module is called by position
        given = {name: given[name] for name in names if name in given}
    example = {
        str(name): _guarded(f"example `{name}` is no tensor", partial(torch.as_tensor, value))
        for name, value in given.items()
    }
    if not example or any(tensor.numel() == 0 for tensor in example.values()):
        raise ProbeError("the example inputs are empty", HINT)
    return example


def _facts(name: str, tensor: Any) -> dict[str, Any]:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in get_args(Dtype):
        raise ProbeError(f"example `{name}` is {dtype}", f"supported: {', '.join(get_args(Dtype))}")
    if dtype.startswith("float"):
        low, high = -1.0, 1.0
    elif dtype == "bool":
        low, high = 0.0, 1.0
    else:
        low, high = float(tensor.min()), float(tensor.max()) + 1
    return {"dtype": dtype, "shape": list(tensor.shape), "low": low, "high": high}


def _outputs(value: Any) -> dict[str, Any]:
    """Name a module's outputs: a mapping's own keys, ``output``, or ``output_0`` and so on."""
    import torch

    if isinstance(value, Mapping):
        named = {str(key): item for key, item in value.items()}
    elif isinstance(value, tuple | list):
        named = {f"output_{index}": item for index, item in enumerate(value)}
    else:
        named = {"output": value}
    foreign = [name for name, item in named.items() if not isinstance(item, torch.Tensor)]
    if foreign or not named:
        raise ProbeError(f"the module's output is not made of tensors: {', '.join(foreign) or 'none'}")
    return named


def _is_batched(module: Any, example: dict[str, Any], outputs: dict[str, Any]) -> bool:
    import torch

    if any(value.dim() == 0 for value in (*example.values(), *outputs.values())):
        return False
    if len({value.shape[0] for value in example.values()}) != 1:
        return False
    try:
        doubled = _outputs(module(*(torch.cat([value, value]) for value in example.values())))
    except Exception:  # a module of a fixed size may refuse in any way: that is the answer
        return False
    return list(doubled) == list(outputs) and all(
        doubled[name].shape == (2 * value.shape[0], *value.shape[1:]) for name, value in outputs.items()
    )


def main(argv: list[str]) -> int:
    """Write the facts, or what is wrong, as JSON."""
    file, factory, answer = argv
    try:
        facts = look(Path(file), factory)
    except ProbeError as error:
        facts = {"error": str(error), "hint": error.hint}
    Path(answer).write_text(json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
