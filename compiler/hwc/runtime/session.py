"""A session: one artefact loaded on its device or devices of IREE's runtime, ready to be called."""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hwc import machine
from hwc.errors import IntegrityError, MachineError, UsageError
from hwc.program import ONE_THREAD, WORKERS, Device, Function, Program, Slice
from hwc.runtime.emulated import Chip
from hwc.runtime.parameters import load_index

if TYPE_CHECKING:
    import numpy as np


EMULATING_DRIVER = ONE_THREAD
"""The stock driver whose place an emulated chip takes: it makes one dispatch after another, whole."""


def open_device(device: Device) -> Any:
    """Open the HAL device an artefact asks for.

    Raises MachineError if the driver, a matching device or a needed CPU feature is not there.
    """
    import iree.runtime as rt

    if device.emulator is None:
        machine.require_cpu(device.architecture, device.isa_features)
    if device.driver == "none":
        raise MachineError("this artefact is for a device that hwc does not run", hint="run it on its own machine")
    if device.driver == WORKERS and device.threads in _shared:
        return _shared[device.threads]
    if device.driver == WORKERS:
        _ask_for_workers(device.threads)
    host = device.driver if device.emulator is None else EMULATING_DRIVER
    try:
        driver = rt.get_driver(host)
        rows = driver.query_available_devices()
    except (RuntimeError, ValueError) as error:
        raise _no_device(device, []) from error
    names = [str(row.get("name", "")) for row in rows]
    chosen = machine.choose_device(names, device.device_match)
    if chosen is None:
        raise _no_device(device, names)
    opened = driver.create_device(rows[chosen]["device_id"])
    if device.driver == WORKERS:
        _shared[device.threads] = opened
    return opened


_shared: dict[int, Any] = {}
"""The process's device of several threads, by their number: the runtime makes them once, with its driver, and a device
that goes while they come back from a call takes the process with it."""


def _ask_for_workers(threads: int) -> None:
    import iree.runtime as rt

    if _shared:
        raise UsageError(
            f"{threads} threads were asked for, where this process runs artefacts on {next(iter(_shared))}: the "
            "runtime makes its threads once", hint="open it in a process of its own",
        )
    if threads > (there := len(os.sched_getaffinity(0))):
        raise MachineError(
            f"{threads} threads were asked for; this process has {there} processor(s)",
            hint=f"ask for {there} or fewer",
        )
    rt.flags.parse_flags(f"--task_topology_group_count={threads}")


def _no_device(device: Device, names: list[str]) -> MachineError:
    wanted = f"{device.driver} device" + (f" matching {device.device_match!r}" if device.device_match else "")
    return MachineError(
        f"no {wanted} on this machine",
        where=f"devices found: {', '.join(names) or 'none'}",
        hint="`hwc doctor` tells what this machine can run and what to install",
    )


class Session:
    """A loaded artefact. Parameters are memory-mapped: they take memory only as they are touched."""

    def __init__(self, program: Program) -> None:
        import iree.runtime as rt

        self.program = program
        self._device = open_device(program.device)
        devices = [self._device, *map(open_device, program.beside)]
        self._chip = _emulated(program)
        code = _view(program.code) if self._chip is None else self._chip.code
        index = rt.ParameterIndex()
        for archive in program.parameters:
            load_index(archive.path, archive.offset, archive.length, into=index)
        instance = rt.VmInstance()
        try:
            provider = index.create_provider(scope="model")
            hal = rt.create_hal_module(instance, devices=devices)
            stored = rt.create_io_parameters_module(instance, provider)
            self._module = rt.VmModule.wrap_buffer(instance, code)
            # Not a SystemContext: that one and its modules hold each other, and the garbage collector takes such a
            # ring apart in an order that the runtime does not survive.
            self._context = rt.VmContext(instance=instance, modules=[hal, stored, self._module])
        except (RuntimeError, ValueError) as error:
            raise _load_failure(error) from error
        self._invokers: dict[str, Any] = {}
        self._functions = {function.name: function for function in program.functions}

    def call(self, function: str, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Call a function at its exact static shape; return its outputs by name.

        Raises UsageError for a missing input or a wrong shape.
        """
        entry = self._functions[function]
        results = self.invoke(function, self.stage(function, feeds))
        return {port.name: self.fetch(value) for port, value in zip(entry.outputs, results, strict=True)}

    def stage(self, function: str, feeds: Mapping[str, np.ndarray]) -> list[Any]:
        """Copy inputs to the device, in the function's order."""
        import iree.runtime as rt
        import numpy as np

        staged = []
        for port in self._functions[function].inputs:
            value = feeds.get(port.name)
            if value is None or tuple(value.shape) != port.shape:
                have = "nothing" if value is None else f"{value.dtype}{list(value.shape)}"
                raise UsageError(f"input `{port.name}` must be {port.dtype}{list(port.shape)}, not {have}")
            staged.append(rt.asdevicearray(self._device, np.ascontiguousarray(value, dtype=port.dtype)))
        return staged

    def invoke(self, function: str, staged: list[Any]) -> list[Any]:
        """Call a function with inputs that lie on the device; return outputs that lie there."""
        results = self._invoker(function)(*staged)
        return list(results) if isinstance(results, (tuple, list)) else [results]

    def _invoker(self, function: str) -> Any:
        import iree.runtime as rt

        if function not in self._invokers:
            found = self._module.lookup_function(function)
            if found is None:
                raise IntegrityError(f"the artefact's code has no function `{function}`")
            self._invokers[function] = rt.FunctionInvoker(self._context, self._device, found)
        return self._invokers[function]

    def executed(self) -> dict[str, Any] | None:
        """Return what an emulated chip's control core executed so far; None for any other device."""
        return None if self._chip is None else self._chip.counts()

    def fetch(self, value: Any) -> np.ndarray:
        """Copy one result to the host, through a staging buffer where device memory cannot be mapped."""
        import numpy as np

        if self._chip is not None or self.program.device.driver.startswith("local"):
            return np.array(value.to_host())
        return _staged_copy(self._device, value)


def _emulated(program: Program) -> Chip | None:
    emulator = program.device.emulator
    if emulator is None:
        return None
    return Chip(bytes(_view(program.code)), emulator, str(program.code.path))


def _view(code: Slice) -> memoryview:
    with code.path.open("rb") as stream:
        whole = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    end = len(whole) if code.length is None else code.offset + code.length
    return memoryview(whole)[code.offset : end]


def _load_failure(error: Exception) -> IntegrityError | MachineError:
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "parameter" in text.lower() or "NOT_FOUND" in text:
        return IntegrityError(f"the artefact's parameters do not fit its code: {text}")
    hint = "`hwc doctor` tells what this machine can run"
    return MachineError(f"the runtime refuses the artefact: {text}", hint=hint)


def _staged_copy(device: Any, value: Any) -> np.ndarray:
    import iree.runtime as rt
    import numpy as np

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
    mapped = np.array(target.map().asarray((size,), np.dtype(np.uint8)))
    count = int(np.prod(value.shape)) * np.dtype(value.dtype).itemsize
    values: np.ndarray = mapped[:count].view(value.dtype).reshape(value.shape)
    return values


def choose(program: Program, sizes: Mapping[str, int]) -> Function | None:
    """Return the smallest function whose bucket holds the given sizes, or None."""
    fitting = [
        function
        for function in program.functions
        if all(function.bucket.get(dim, size) >= size for dim, size in sizes.items())
    ]

    def volume(function: Function) -> int:
        product = 1
        for size in function.bucket.values():
            product *= size
        return product

    return min(fitting, key=volume, default=None)
