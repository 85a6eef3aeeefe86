"""The likeliest mistakes, word for word: what was typed, what it said and how it ended (`make golden` writes anew)."""

from __future__ import annotations

import os
import pickle
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from command import HWC, ROOT, RUN_TIMEOUT_S, Cli

WRITE = os.environ.get("HWC_GOLDEN") == "write"  # read here: tests run without any HWC_* setting
TRANSCRIPTS = Path(__file__).with_name("mistakes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One command that must fail, and what lies in the folder it is typed in."""

    name: str
    command: str
    code: int
    prepare: Callable[[Path], object] = lambda folder: None
    env: dict[str, str] = field(default_factory=dict)


def onnx_file(op: str, domain: str = "", *, weight: float = 1.0) -> Callable[[Path], None]:
    """Write model.onnx: a linear layer and one more op after it."""

    def prepare(folder: Path) -> None:
        matrix = np.full((8, 8), weight, np.float32)
        nodes = [
            helper.make_node("MatMul", ["x", "fc.weight"], ["h"], name="/encoder/fc/MatMul"),
            helper.make_node(op, ["h"], ["y"], name=f"/encoder/act/{op}", domain=domain),
        ]
        graph = helper.make_graph(
            nodes, "graph", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])],
            [numpy_helper.from_array(matrix, "fc.weight")],
        )
        opsets = [helper.make_opsetid("", 21), *([helper.make_opsetid(domain, 1)] if domain else [])]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        (folder / "model.onnx").write_bytes(model.SerializeToString())

    return prepare


def mlp_toml(change: Callable[[str], str]) -> Callable[[Path], None]:
    """Write mine.toml and mlp.py: the shipped perceptron with a change."""

    def prepare(folder: Path) -> None:
        shutil.copyfile(ROOT / "models" / "mlp.py", folder / "mlp.py")
        text = (ROOT / "models" / "mlp.toml").read_text()
        changed = change(text)
        assert changed != text
        (folder / "mine.toml").write_text(changed)

    return prepare


def text_file(name: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text)


def both(first: Callable[[Path], object], second: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: (first(folder), second(folder))


def pickled(folder: Path) -> None:
    torch.save({"weight": torch.ones(2)}, folder / "model.pt")


def hf_folder_of_pickles(folder: Path) -> None:
    (folder / "bert").mkdir()
    (folder / "bert" / "config.json").write_text('{"model_type": "bert"}')
    (folder / "bert" / "pytorch_model.bin").write_bytes(pickle.dumps({}))


def truncated(folder: Path) -> None:
    onnx_file("Relu")(folder)
    payload = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(payload[: len(payload) // 2])


def escaping(folder: Path) -> None:
    onnx_file("Relu")(folder)
    model = onnx.load(folder / "model.onnx")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret.bin")
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def npz(**arrays: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: np.savez(folder / "x.npz", **arrays)


SMOKE = "-t llvm-cpu-host -q fp32 --smoke"
ALIEN = "x86-64-v3" if platform.machine() != "x86_64" else "aarch64-neoverse"

MISTAKES = [
    Mistake(name="unknown-model", command="build minilmm", code=2),
    Mistake(name="unknown-target", command="build mlp -t llvm-cpu-hots", code=2),
    Mistake(name="unknown-scheme", command="build mlp -q w4a61", code=2),
    Mistake(name="unknown-stage", command="build mlp --refresh profiel", code=2),
    Mistake(name="unknown-option-value", command="build mlp --format yaml", code=2),
    Mistake(name="missing-file", command="build ./absent.onnx", code=2),
    Mistake(
        name="unknown-key", command="build mine.toml", code=2,
        prepare=mlp_toml(lambda text: text.replace("buckets =", "bucket =")),
    ),
    Mistake(
        name="unknown-nested-key", command="build mine.toml", code=2,
        prepare=mlp_toml(lambda text: text.replace("top1_min = 0.9", "top_1_min = 0.9")),
    ),
    Mistake(
        name="wrong-value", command="build mine.toml", code=2,
        prepare=mlp_toml(lambda text: text.replace('dtype = "float32"', 'dtype = "float23"')),
    ),
    Mistake(name="broken-toml", command="build mine.toml", code=2, prepare=text_file("mine.toml", 'name = "mine\n')),
    Mistake(name="bad-reference", command="inspect mlp:dev@sha256:12", code=2),
    Mistake(name="unknown-bundle", command="inspect mpl:dev", code=2),
    Mistake(name="unknown-variant", command="inspect mlp:dev#llvm-cpu-host/w4a61", code=2),
    Mistake(name="pickle-checkpoint", command="build ./model.pt", code=6, prepare=pickled),
    Mistake(name="pickle-folder", command="build ./bert", code=6, prepare=hf_folder_of_pickles),
    Mistake(name="truncated-onnx", command=f"build ./model.onnx {SMOKE}", code=6, prepare=truncated),
    Mistake(name="escaping-onnx", command=f"build ./model.onnx {SMOKE}", code=6, prepare=escaping),
    Mistake(
        name="nan-weights", command=f"build ./model.onnx {SMOKE}", code=6,
        prepare=onnx_file("Relu", weight=float("nan")),
    ),
    Mistake(
        name="op-onnx-runtime-lacks", command=f"build ./model.onnx {SMOKE}", code=5,
        prepare=onnx_file("Frobnicate", "com.example"),
    ),
    Mistake(
        name="op-iree-lacks", command=f"build ./model.onnx {SMOKE}", code=5,
        prepare=onnx_file("FastGelu", "com.microsoft"),
    ),
    Mistake(
        name="package-not-installed", command="build mine.toml", code=4,
        prepare=mlp_toml(
            lambda text: text.replace(
                'kind = "python"\nfactory = "mlp.py:create"',
                'kind = "huggingface"\npackage = "gt-no-such-model"\nmodule = "gt_no_such_model"',
            )
        ),
    ),
    Mistake(
        name="factory-raises", command=f"build mine.toml {SMOKE}", code=2,
        prepare=both(
            mlp_toml(lambda text: text.replace("mlp.py:create", "own.py:create")),
            text_file("own.py", "def create():\n    raise KeyError('hidden_size')\n"),
        ),
    ),
    Mistake(
        name="evaluator-raises", command=f"build mine.toml {SMOKE}", code=5,
        prepare=both(
            mlp_toml(lambda text: text.replace('evaluator = "classification"', 'evaluator = "own.py:score"')),
            text_file("own.py", "def score(outputs, expected):\n    raise ValueError('no labels')\n"),
        ),
    ),
    Mistake(
        name="gate-missed", command=f"build mine.toml {SMOKE}", code=3,
        prepare=mlp_toml(
            lambda text: text.replace("max_abs = 1e-5", "max_abs = 1e-12").replace('"mlp"', '"strict-mlp"')
        ),
    ),
    Mistake(
        name="step-time-limit", command=f"build mine.toml {SMOKE}", code=5,
        prepare=both(
            mlp_toml(lambda text: text.replace("{ batch = 16 }", "{ batch = 15 }")),
            text_file("hwc.toml", "step_timeout_s = 0.01\n"),
        ),
    ),
    Mistake(name="unverified-is-not-promoted", command="tag mlp:alien 1.0.0", code=3),
    Mistake(name="another-machines-code", command="check mlp:alien", code=4),
    Mistake(
        name="wrong-input-shape", command="run mlp:dev --input x.npz", code=2,
        prepare=npz(features=np.ones((2, 255), np.float32)),
    ),
    Mistake(name="wrong-input-name", command="run mlp:dev --input x.npz", code=2, prepare=npz(x=np.ones((1, 256)))),
    Mistake(name="no-input", command="run mlp:dev", code=2),
    Mistake(name="text-without-a-tokenizer", command="run mlp:dev --text hello", code=2),
    Mistake(name="several-variants", command="run mlp:both --text hello", code=2),
    Mistake(
        name="full-disk", command="build mlp -t llvm-cpu-host -q fp32 --smoke --refresh encode", code=4,
        env={"HWC_FAIL_AT": "store.before-rename:enospc"},
    ),
]


@pytest.fixture(scope="module")
def bundles(shared_mlp: Cli, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The perceptron for this CPU, and one for a CPU that is not here: `mlp:dev`, `mlp:alien`, `mlp:both`."""
    cli = shared_mlp.copied_to(tmp_path_factory.mktemp("mistakes"))
    cli("build", "mlp", "-t", ALIEN, "-q", "fp32", "--tag", "alien").ok()
    cli("build", "mlp", "-t", ALIEN, "-t", "llvm-cpu-host", "-q", "fp32", "--smoke", "--tag", "both").ok()
    return cli


def transcript(mistake: Mistake, cli: Cli) -> str:
    """Return what was typed, how it ended and what it said, without what differs between machines and runs."""
    arguments = mistake.command.split()
    ran = cli(*arguments, env=mistake.env)
    assert ran.stdout == "", "a failed command has no result"
    said = [line for line in ran.stderr.splitlines() if line and not re.match(r"[…✓=⏳] ", line)]
    text = "\n".join(said)
    for path, name in (
        (cli.cwd, "<folder>"), (cli.home, "<home>"), (cli.store, "<store>"), (ROOT, "<hwc>"),
    ):
        text = text.replace(str(path), name)
    text = re.sub(r"sha256:[0-9a-f]{64}", "sha256:…", text)
    text = re.sub(r"-[0-9a-f]{12}/", "-…/", text)
    text = re.sub(r"\b\d+\.\d s\b", "… s", text)
    text = re.sub(r"\d\.\d\de-\d\d(?= to the float)", "…", text)
    text = text.replace(ALIEN, "another-machine").replace("aarch64", "another").replace(platform.machine(), "this one")
    return f"$ hwc {mistake.command}\n{text}\nexit code {ran.code}\n"


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_likely_mistake_is_answered_as_written_down(mistake: Mistake, bundles: Cli, tmp_path: Path) -> None:
    mistake.prepare(tmp_path)
    before = bundles.tags()
    told = transcript(mistake, Cli(home=bundles.home, store=bundles.store, cwd=tmp_path))
    file = TRANSCRIPTS / f"{mistake.name}.txt"
    if WRITE:
        file.parent.mkdir(exist_ok=True)
        file.write_text(told)
    assert told == file.read_text()
    assert told.endswith(f"exit code {mistake.code}\n")
    assert bundles.tags() == before, "a failed command moves no tag"


def test_no_transcript_is_left_over() -> None:
    assert {file.stem for file in TRANSCRIPTS.glob("*.txt")} == {mistake.name for mistake in MISTAKES}


def test_the_traceback_is_shown_when_it_is_asked_for(bundles: Cli, tmp_path: Path) -> None:
    cli = Cli(home=bundles.home, store=bundles.store, cwd=tmp_path)
    asked = subprocess.run(
        [str(HWC), "--debug", "build", "minilmm"], cwd=tmp_path, env=cli.environment(), capture_output=True, text=True,
        timeout=RUN_TIMEOUT_S, check=False,
    )
    assert asked.returncode == 2
    assert "Traceback" in asked.stderr
    assert asked.stderr.rstrip().splitlines()[-2].startswith("error: unknown model")


def mounted(folder: Path, size: str) -> bool:
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    return done.returncode == 0


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder that may not be written to, not even by root."""
    folder = tmp_path / "read-only"
    if os.geteuid() != 0:
        folder.mkdir(mode=0o555)
        yield folder
    elif mounted(folder, "64k"):
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        yield folder
        subprocess.run(["umount", str(folder)], check=True)
    else:
        pytest.skip("root may write anywhere, and mounting a read-only file system is not allowed here")


@pytest.mark.parametrize("place", ["store", "home"])
def test_a_place_that_may_not_be_written_is_told_with_the_way_out(
    bundles: Cli, tmp_path: Path, read_only: Path, place: str
) -> None:
    store, home = (read_only / "sub", bundles.home) if place == "store" else (tmp_path / "store", read_only / "sub")
    cli = Cli(home=home, store=store, cwd=tmp_path)
    refused = cli("build", "mlp", "-t", "llvm-cpu-host", "-q", "fp32", "--smoke")
    assert refused.code == 4, refused.stderr
    assert "ermission" in refused.stderr or "ead-only" in refused.stderr
    assert str(read_only) in refused.stderr
    assert "somewhere writable" in refused.stderr
    assert cli.tags() == {}


def test_a_disk_that_is_really_full_is_told_and_after_room_is_made_the_build_goes_through(
    bundles: Cli, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    if os.geteuid() != 0 or not mounted(disk, "600k"):
        pytest.skip("only root can mount a small disk; the fail points simulate one elsewhere")
    try:
        cli = Cli(home=bundles.home, store=disk / "store", cwd=tmp_path)
        full = cli("build", "mlp", "-t", "llvm-cpu-host", "-q", "fp32", "--smoke")
        assert full.code == 4, full.stderr
        assert "No space left on device" in full.stderr
        assert "free disk space" in full.stderr
        assert cli.tags() == {}
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        cli("build", "mlp", "-t", "llvm-cpu-host", "-q", "fp32", "--smoke").ok()
        assert list(cli.tags()) == ["mlp:dev"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
