"""A backend called `onnxruntime` for a tritonserver that carries none: ONNX Runtime's own Python package.

It lets the server apply its whole check of a configuration, warm the model up and answer over HTTP with the exported
files unchanged. What it cannot show is the C++ backend itself.
"""

import json
import os
import sys
from pathlib import Path

sys.path[:0] = os.environ["HWC_TRITON_PATH"].split(os.pathsep)

import onnxruntime  # noqa: E402
import triton_python_backend_utils as triton  # noqa: E402


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.inputs = [row["name"] for row in config["input"]]
        self.outputs = [row["name"] for row in config["output"]]
        path = Path(args["model_repository"], args["model_version"], config["default_model_filename"])
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        feeds = {name: triton.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        values = self.session.run(self.outputs, feeds)
        return triton.InferenceResponse([triton.Tensor(*pair) for pair in zip(self.outputs, values, strict=True)])
