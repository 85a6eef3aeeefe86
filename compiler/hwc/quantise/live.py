"""Live values on disk: what calibration carries from one segment of a model to the next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hwc import onnx_io
from hwc.errors import StepError

if TYPE_CHECKING:
    import numpy as np
    import onnx

Stream = Literal["float", "quantised"]
"""The same cases, as the float model computes them and as the model quantised so far does."""


class LiveValues:
    """Values by (stream, name, case), one ``.npy`` file each, removed after their last reader."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers: dict[tuple[Stream, str], int] = {}
        self.peak_bytes = 0
        self._bytes = 0

    def _path(self, stream: Stream, name: str, case: int) -> Path:
        number = self._numbers[stream, name]
        return self._folder / f"{number}-{case}.npy"

    def put(self, stream: Stream, name: str, case: int, value: np.ndarray) -> None:
        """Write one value."""
        import numpy as np

        self._numbers.setdefault((stream, name), len(self._numbers))
        np.save(self._path(stream, name, case), value, allow_pickle=False)
        self._bytes += value.nbytes
        self.peak_bytes = max(self.peak_bytes, self._bytes)

    def has(self, stream: Stream, name: str) -> bool:
        """Tell whether a stream has its own copy of a value."""
        return (stream, name) in self._numbers

    def get(self, stream: Stream, name: str, case: int) -> np.ndarray:
        """Read one value; what depends on no quantised weight is held once, as the float stream's."""
        import numpy as np

        own: Stream = stream if self.has(stream, name) else "float"
        read: np.ndarray = np.load(self._path(own, name, case), allow_pickle=False)
        return read

    def drop(self, name: str, cases: int) -> None:
        """Remove a value of all cases and both streams."""
        streams: tuple[Stream, Stream] = ("float", "quantised")
        for stream in streams:
            if self.has(stream, name):
                for case in range(cases):
                    path = self._path(stream, name, case)
                    self._bytes -= path.stat().st_size
                    path.unlink()


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
