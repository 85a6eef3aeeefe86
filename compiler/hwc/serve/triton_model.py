"""A Triton model that runs one artefact of hwc; it needs NumPy and iree.runtime, and nothing of hwc.

`hwc export triton` copies this file beside the artefact; `program.json` says what the artefact is. Folders listed in
the server's environment variable HWC_TRITON_PATH are looked in first for NumPy and iree.runtime.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import platform
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [folder for folder in os.environ.get("HWC_TRITON_PATH", "").split(os.pathsep) if folder]

import numpy as np  # noqa: E402
import triton_python_backend_utils as triton  # noqa: E402

Arrays = dict[str, np.ndarray]


class TritonPythonModel:
    """What Triton's Python backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Check NumPy, every file and the CPU, then load; whatever is raised stops the model from being served."""
        check_numpy()
        config = json.loads(args["model_config"])
        folder = Path(__file__).resolve().parent
        self.program = read_program(folder, config["parameters"]["program_sha256"]["string_value"])
        self.batched = config["max_batch_size"] > 0
        check_cpu(self.program["device"])
        self.artefact = Artefact(folder, self.program)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer every request; those of one shape run together."""
        feeds = [
            {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self.program["inputs"]}
            for request in requests
        ]
        groups: dict[Any, list[int]] = {}
        for index, row in enumerate(feeds):
            shape = tuple(value.shape[1:] for value in row.values()) if self.batched else index
            groups.setdefault(shape, []).append(index)
        answers: dict[int, Any] = {}
        for members in groups.values():
            answers.update(zip(members, self._answer([feeds[member] for member in members]), strict=True))
        return [answers[index] for index in range(len(requests))]

    def _answer(self, rows: list[Arrays]) -> list[Any]:
        try:
            outputs = self._run(rows)
        except Exception as error:  # a request's fault is that request's answer: the server goes on
            return [triton.InferenceResponse(error=triton.TritonError(str(error))) for _ in rows]
        tensors = [[triton.Tensor(name, np.ascontiguousarray(row[name])) for name in row] for row in outputs]
        return [triton.InferenceResponse(row) for row in tensors]

    def _run(self, rows: list[Arrays]) -> list[Arrays]:
        if len(rows) == 1:
            return [run(self.program, self.artefact.call, rows[0])]
        whole = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        outputs = run(self.program, self.artefact.call, whole)
        ends = np.cumsum([len(next(iter(row.values()))) for row in rows])[:-1]
        split = {name: np.split(value, ends) for name, value in outputs.items()}
        return [{name: parts[index] for name, parts in split.items()} for index in range(len(rows))]


def check_numpy() -> None:
    """Raise RuntimeError if this NumPy and Triton's stub disagree about arrays.

    A stub from before NumPy 2 reads strides where NumPy 2 keeps something else: inputs and outputs are then wrong,
    and nothing says so.
    """
    sent = np.arange(6, dtype=np.float32).reshape(2, 3)
    back = triton.Tensor.from_dlpack("probe", triton.Tensor("probe", sent).to_dlpack()).as_numpy()
    if back.shape != sent.shape or not np.array_equal(back, sent):
        raise RuntimeError(
            f"this Triton's Python stub cannot handle NumPy {np.__version__}: it reads wrong numbers. "
            "Put NumPy 1.26 into a folder and name the folder in HWC_TRITON_PATH"
        )


def read_program(folder: Path, sha256: str) -> dict[str, Any]:
    """Return what the artefact is; raise RuntimeError if a file is not the one that was exported."""
    check_digest(folder / "program.json", sha256)
    program: dict[str, Any] = json.loads((folder / "program.json").read_bytes())
    for name, expected in program["files"].items():
        check_digest(folder / name, expected)
    return program


def check_digest(path: Path, expected: str) -> None:
    """Raise RuntimeError unless a file's digest is the one that was told."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        found = "sha256:" + hashlib.sha256(mapped).hexdigest()
    if found != expected:
        raise RuntimeError(f"{path.name} does not match its digest: export the model again")


def check_cpu(device: dict[str, Any]) -> None:
    """Raise RuntimeError if this CPU is of another architecture or lacks a feature: the code would fault."""
    if device["architecture"] not in ("", platform.machine()):
        raise RuntimeError(f"the artefact holds {device['architecture']} code; this machine is {platform.machine()}")
    told = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    if lacking := set(device["cpu_flags"]) - set(told[1].split() if told else ()):
        raise RuntimeError(f"this CPU lacks what the artefact was compiled for: {', '.join(sorted(lacking))}")


class Artefact:
    """Code and weights, mapped from their files and loaded on their device."""

    def __init__(self, folder: Path, program: dict[str, Any]) -> None:
        import iree.runtime as rt

        self.functions = {function["name"]: function for function in program["functions"]}
        self.local = program["device"]["driver"].startswith("local")
        self.device = open_device(rt, program["device"])
        index = rt.ParameterIndex()
        for name in program["files"]:
            if name.endswith(".irpa"):
                index.load(str(folder / name))
        instance = rt.VmInstance()
        module = rt.VmModule.mmap(instance, str(folder / "module.vmfb"))
        modules = [
            rt.create_hal_module(instance, self.device),
            rt.create_io_parameters_module(instance, index.create_provider(scope="model")),
            module,
        ]
        # Not a SystemContext: the garbage collector takes its ring apart in an order the runtime does not survive.
        self.context = rt.VmContext(instance=instance, modules=modules)
        self.invokers = {
            name: rt.FunctionInvoker(self.context, self.device, module.lookup_function(name)) for name in self.functions
        }

    def call(self, name: str, feeds: Arrays) -> Arrays:
        """Call a function at its exact shape."""
        import iree.runtime as rt

        function = self.functions[name]
        arrays = [np.ascontiguousarray(feeds[port["name"]], dtype=port["dtype"]) for port in function["inputs"]]
        staged = [rt.asdevicearray(self.device, array) for array in arrays]
        results = self.invokers[name](*staged)
        found = list(results) if isinstance(results, (tuple, list)) else [results]
        hosted = [np.array(value.to_host()) if self.local else staged_copy(self.device, value) for value in found]
        named = zip(function["outputs"], hosted, strict=True)
        return {port["name"]: value.astype(port["dtype"]) for port, value in named}


def open_device(rt: Any, device: dict[str, Any]) -> Any:
    """Open the device that the artefact asks for; raise RuntimeError where there is none."""
    if device["driver"] == "local-task":
        rt.flags.parse_flags(f"--task_topology_group_count={device['threads']}")
    driver = rt.get_driver(device["driver"])
    rows = driver.query_available_devices()
    for row in rows:
        if re.search(device["device_match"], str(row.get("name", "")), re.IGNORECASE):
            return driver.create_device(row["device_id"])
    raise RuntimeError(f"no {device['driver']} device matches {device['device_match']!r}; there is: {rows}")


def staged_copy(device: Any, value: Any) -> np.ndarray:
    """Copy device memory that cannot be mapped."""
    import iree.runtime as rt

    source = value._buffer_view.get_buffer()
    size = source.byte_length()
    target = device.allocator.allocate_buffer(
        memory_type=rt.MemoryType.HOST_LOCAL | rt.MemoryType.DEVICE_VISIBLE,
        allowed_usage=rt.BufferUsage.TRANSFER | rt.BufferUsage.MAPPING,
        allocation_size=size,
    )
    done = rt.HalFence.create_at(semaphore := device.create_semaphore(0), 1)
    device.queue_copy(source, target, wait_semaphores=rt.HalFence(0), signal_semaphores=done)
    done.wait()
    del semaphore
    count = int(np.prod(value.shape)) * np.dtype(value.dtype).itemsize
    mapped = np.array(target.map().asarray((size,), np.dtype(np.uint8)))[:count]
    return np.asarray(mapped.view(value.dtype).reshape(value.shape))


def run(program: dict[str, Any], call: Callable[[str, Arrays], Arrays], feeds: Arrays) -> Arrays:
    """Run items [batch, …] of any number through static shapes, as hwc.runtime.batching does."""
    batch, rules, dims = program["batch_dim"], program["inputs"], program["output_dims"]
    sizes = measure(rules, feeds)
    items = sizes.get(batch, 1)
    parts: list[Arrays] = []
    start = 0
    while start < items:
        function = choose(program, {**sizes, batch: items - start})
        bucket = function["bucket"]
        rows = min(items - start, bucket.get(batch, items))
        filled = {name: fill(feeds[name], rules[name], bucket, batch, slice(start, start + rows)) for name in rules}
        wanted = {**sizes, batch: rows} if batch in bucket else sizes
        found = call(function["name"], filled)
        parts.append({name: cut(value, dims.get(name, []), batch, wanted) for name, value in found.items()})
        start += rows
    return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def measure(rules: dict[str, Any], feeds: Arrays) -> dict[str, int]:
    """Return the size of every named dimension; raise ValueError where inputs disagree."""
    sizes: dict[str, int] = {}
    for name, rule in rules.items():
        shape = feeds[name].shape
        if len(shape) != len(rule["shape"]):
            raise ValueError(f"input {name!r} has shape {list(shape)}; the model takes {rule['shape']}")
        for dim, size in zip(rule["shape"], shape, strict=True):
            expected = sizes.setdefault(dim, size) if isinstance(dim, str) else dim
            if expected != size or size == 0:
                raise ValueError(f"input {name!r} has size {size} where {dim!r} is {expected}")
    return sizes


def choose(program: dict[str, Any], sizes: dict[str, int]) -> dict[str, Any]:
    """Return the smallest function that holds the items; of those that hold fewer rows, the one with most rows."""
    batch = program["batch_dim"]
    padded = {dim for rule in program["inputs"].values() if rule["pad"] is not None for dim in rule["shape"]}

    def holds(bucket: dict[str, int]) -> bool:
        rest = [dim for dim in sizes if dim != batch]
        return all(bucket[dim] >= sizes[dim] if dim in padded else bucket[dim] == sizes[dim] for dim in rest)

    fitting = [function for function in program["functions"] if holds(function["bucket"])]
    if not fitting:
        raise ValueError(f"no compiled shape holds {sizes}: {[row['bucket'] for row in program['functions']]}")
    wanted = sizes.get(batch, 1)
    whole = [function for function in fitting if function["bucket"].get(batch, wanted) <= wanted]
    if whole:
        most = max(function["bucket"].get(batch, wanted) for function in whole)
        fitting = [function for function in whole if function["bucket"].get(batch, wanted) == most]
    return min(fitting, key=lambda function: int(np.prod(list(function["bucket"].values()))))


def fill(value: np.ndarray, rule: dict[str, Any], bucket: dict[str, int], batch: str, rows: slice) -> np.ndarray:
    """Return some rows of an input, filled up to a bucket's shape."""
    if batch in rule["shape"]:
        value = value[(slice(None),) * rule["shape"].index(batch) + (rows,)]
    shape = tuple(bucket[dim] if isinstance(dim, str) else dim for dim in rule["shape"])
    filled = np.full(shape, rule["pad"] or 0, dtype=rule["dtype"])
    filled[tuple(slice(0, size) for size in value.shape)] = value
    return filled


def cut(value: np.ndarray, dims: list[Any], batch: str, sizes: dict[str, int]) -> np.ndarray:
    """Cut filling off an output."""
    if batch in sizes and batch not in dims:  # an exporter may have left the first axis without a name
        dims = [batch, *dims[1:]]
    return value[tuple(slice(0, sizes.get(dim)) if isinstance(dim, str) else slice(None) for dim in dims)]
