"""Models given as file.py:factory: the file is run in a child process, on the examples it gives."""

import re
from pathlib import Path

import pytest

from hwc.errors import HwcError, StepError, UsageError
from hwc.spec import from_python, probe
from hwc.spec.infer import infer
from hwc.spec.model import PythonSource


def refusal(kind: type[HwcError], path: object) -> HwcError:
    with pytest.raises(kind) as caught:
        infer(str(path))
    return caught.value


def python_file(tmp_path: Path, body: str) -> str:
    pytest.importorskip("torch")
    (tmp_path / "net.py").write_text(f"import torch\nfrom torch import nn\n{body}\n")
    return f"{tmp_path / 'net.py'}:create"


TWO_INPUTS = """
class Net(nn.Module):
    def forward(self, ids, scale):
        return {"rows": ids * scale, "mask": ids > 0}
def create():
    return Net()
"""


def test_examples_named_in_the_file_give_inputs_and_outputs_and_the_batch(tmp_path: Path) -> None:
    examples = 'EXAMPLE_INPUTS = {"scale": torch.ones(2, 1), "ids": torch.tensor([[1, 6], [2, 3]])}'
    spec = infer(python_file(tmp_path, TWO_INPUTS + examples)).spec
    assert spec.source == PythonSource(kind="python", factory="net.py:create")
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in spec.inputs.items()} == {
        "ids": ("int64", ("batch", 2)),
        "scale": ("float32", ("batch", 1)),
    }
    assert list(spec.inputs) == ["ids", "scale"]
    assert (spec.inputs["ids"].low, spec.inputs["ids"].high) == (1, 7)
    assert (spec.outputs, spec.buckets) == (("rows", "mask"), ({"batch": 1}, {"batch": 8}))


@pytest.mark.parametrize(
    "examples",
    [
        "create.example_inputs = lambda: (torch.ones(1, 2), torch.ones(1, 2))",
        "Net.example_inputs = (torch.ones(1, 2), torch.ones(1, 2))",
    ],
)
def test_examples_may_hang_on_the_factory_or_on_the_module(tmp_path: Path, examples: str) -> None:
    assert list(infer(python_file(tmp_path, TWO_INPUTS + examples)).spec.inputs) == ["ids", "scale"]


def test_a_module_of_a_fixed_size_stays_static(tmp_path: Path) -> None:
    body = "EXAMPLE_INPUTS = torch.ones(2, 4)\ndef create():\n    return nn.Sequential(nn.Flatten(0), nn.Linear(8, 3))"
    spec = infer(python_file(tmp_path, body)).spec
    assert (spec.inputs["input"].shape, spec.buckets) == ((2, 4), ({},))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("def create():\n    return nn.Linear(2, 2)", "no example inputs"),
        ("def make():\n    return nn.Linear(2, 2)", "`create` is not a function"),
        ("def create():\n    return 3", "returned int"),
        ("def create():\n    return 1 / 0", "ZeroDivisionError"),
        ("import nosuchmodule", "ModuleNotFoundError"),
        ("EXAMPLE_INPUTS = torch.ones(1, 3)\ndef create():\n    return nn.Linear(2, 2)", "fails on its example inputs"),
        ("EXAMPLE_INPUTS = torch.ones(1, 2).double()\ndef create():\n    return nn.Identity()", "float64"),
        ("EXAMPLE_INPUTS = torch.ones(0, 2)\ndef create():\n    return nn.Identity()", "inputs are empty"),
        ("EXAMPLE_INPUTS = 'text'\ndef create():\n    return nn.Identity()", "no tensor"),
        ("EXAMPLE_INPUTS = [torch.ones(1)] * 2\ndef create():\n    return nn.Identity()", "2 example inputs"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path, body: str, told: str) -> None:
    file = Path(python_file(tmp_path, body).partition(":")[0])
    with pytest.raises(probe.ProbeError, match=re.escape(told)):
        probe.look(file, "create")


def test_what_the_child_refuses_arrives_as_a_usage_error(tmp_path: Path) -> None:
    error = refusal(UsageError, python_file(tmp_path, "def create():\n    return nn.Linear(2, 2)"))
    assert "no example inputs" in error.what
    assert "EXAMPLE_INPUTS" in error.hint
    assert error.where.endswith("net.py:create")


def test_a_crash_of_the_users_code_leaves_this_process_alive(tmp_path: Path) -> None:
    error = refusal(StepError, python_file(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"))
    assert "SIGSEGV" in error.what


def test_users_code_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_python, "PROBE_TIMEOUT_S", 1.0)
    assert "time limit" in refusal(StepError, python_file(tmp_path, "while True: pass")).what
