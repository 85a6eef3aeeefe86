"""Live values on disk: what calibration carries from one segment of a model to the next."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hwc import onnx_io
from hwc.errors import StepError

if TYPE_CHECKING:
    import numpy as np
    import onnx

Stream = Literal["float", "quantised"]
"""The same cases, as the float model computes them and as the model quantised so far does."""
STREAMS: tuple[Stream, Stream] = ("float", "quantised")


class LiveValues:
    """Values by (stream, name, case): one file for all cases of a value, removed after its last reader.

    ``index`` is all that another process needs to go on in the same folder: by ``stream/name`` the file's number, the
    element type and the shape of every case. A file that it does not name is removed.
    """

    def __init__(self, folder: Path, index: Mapping[str, Any] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._lock = folder, threading.Lock()
        self.index: dict[str, Any] = {name: dict(entry) for name, entry in (index or {}).items()}
        for file in set(folder.iterdir()) - {self._path(name) for name in self.index}:
            file.unlink()
        self._starts = {name: _starts(entry) for name, entry in self.index.items()}

    def _path(self, key: str) -> Path:
        return self._folder / f"{self.index[key]['number']}.bin"

    def put(self, stream: Stream, name: str, case: int, value: np.ndarray) -> None:
        """Write one value; cases come in order, and the first one begins the file anew."""
        key = f"{stream}/{name}"
        if case == 0:
            self._begin(key, value.dtype.str)
        with self._path(key).open("wb" if case == 0 else "ab") as stream_out:
            value.tofile(stream_out)
        self.index[key]["shapes"].append(list(value.shape))
        self._starts[key].append(self._starts[key][-1] + value.nbytes)

    def _begin(self, key: str, dtype: str) -> None:
        with self._lock:  # both streams may begin a value at the same time
            free = 1 + max((entry["number"] for entry in self.index.values()), default=-1)
            number = self.index[key]["number"] if key in self.index else free
            self.index[key] = {"number": number, "dtype": dtype, "shapes": []}
            self._starts[key] = [0]

    def has(self, stream: Stream, name: str) -> bool:
        """Tell whether a stream has its own copy of a value."""
        return f"{stream}/{name}" in self.index

    def get(self, stream: Stream, name: str, case: int) -> np.ndarray:
        """Read one value; what depends on no quantised weight is held once, as the float stream's."""
        import numpy as np

        key = f"{stream if self.has(stream, name) else 'float'}/{name}"
        entry = self.index[key]
        shape, dtype = entry["shapes"][case], np.dtype(entry["dtype"])
        read: np.ndarray = np.fromfile(self._path(key), dtype, math.prod(shape), offset=self._starts[key][case])
        return read.reshape(shape)

    def drop(self, name: str) -> None:
        """Remove a value of all cases and both streams."""
        for key in [f"{stream}/{name}" for stream in STREAMS if self.has(stream, name)]:
            self._path(key).unlink()
            del self.index[key], self._starts[key]


def _starts(entry: Mapping[str, Any]) -> list[int]:
    """Return where each case of a value begins in its file, in bytes, and where the last one ends."""
    import numpy as np

    starts, size = [0], np.dtype(entry["dtype"]).itemsize
    for shape in entry["shapes"]:
        starts.append(starts[-1] + math.prod(shape) * size)
    return starts


class Cases:
    """Calibration cases: ``cases.npz`` holds one array for each case and graph input, named ``0000.input_ids``."""

    def __init__(self, folder: Path, model: onnx.ModelProto) -> None:
        import numpy as np

        self._stored = np.load(folder / "cases.npz", allow_pickle=False)
        keys = [key.partition(".") for key in self._stored.files]
        self.names = {name for _, _, name in keys}
        self._numbers = sorted({number for number, _, _ in keys})
        weights = set(onnx_io.weight_names(model))
        self._inputs = {value.name: value for value in model.graph.input if value.name not in weights}
        if not self._numbers:
            raise StepError("the calibration data holds no case", where=str(folder))

    def __len__(self) -> int:
        """Count the cases."""
        return len(self._numbers)

    def read(self, case: int, name: str) -> np.ndarray:
        """Return one input of one case; an input that the case leaves out is zeros, as an empty cache is."""
        import numpy as np
        from onnx import helper

        if name in self.names:
            stored: np.ndarray = self._stored[f"{self._numbers[case]}.{name}"]
            return stored
        sizes = self._sizes(case)
        kind = self._inputs[name].type.tensor_type
        shape = [dim.dim_value or sizes.get(dim.dim_param, 0) for dim in kind.shape.dim]
        return np.zeros(shape, helper.tensor_dtype_to_np_dtype(kind.elem_type))

    def _sizes(self, case: int) -> dict[str, int]:
        """Return the size of every named dimension that the case's arrays tell."""
        sizes: dict[str, int] = {}
        for name in sorted(self.names & set(self._inputs)):
            dims = self._inputs[name].type.tensor_type.shape.dim
            sizes |= {dim.dim_param: size for dim, size in zip(dims, self.read(case, name).shape, strict=True)}
        return sizes
