"""Routing from real bundles: the objective decides, and the answer says why every other candidate lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command import ROOT, Cli

FLEET = """
[[node]]
name = "reserved"
bundles = ["mlp:dev#{variant}"]
[[node]]
name = "spot"
bundles = ["mlp:dev#{variant}"]
usd_per_hour = 0.001
[node.state]
queued_ms = 400.0
"""


@pytest.fixture(scope="module")
def fleet(shared_mlp: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a fleet of two nodes that hold the shared bundle."""
    folder = tmp_path_factory.mktemp("fleet")
    path = folder / "fleet.toml"
    path.write_text(FLEET.format(variant="llvm-cpu-host/fp32"))
    return path


def ask(cli: Cli, fleet: Path, *arguments: str, code: int = 0) -> dict:
    ran = cli("route", "--fleet", fleet, "--model", "mlp", "--format", "json", *arguments)
    assert ran.code == code, ran.stderr
    return ran.json()


def profiled(cli: Cli) -> bool:
    cells = cli("inspect", "mlp:dev", "--format", "json").ok().json()["serving"][0]["profile"]["request"]
    return any(cell["valid"] for cell in cells)


def test_a_tight_objective_takes_the_idle_node_and_a_loose_one_the_cheap_busy_node(shared_mlp: Cli, fleet: Path):
    if not profiled(shared_mlp):
        pytest.skip("every cell of the shared bundle was measured on a busy machine, and is quarantined")
    tight, loose = (ask(shared_mlp, fleet, "--slo-p99-ms", slo) for slo in ("150", "2000"))
    assert tight["chosen"]["node"] == "reserved"
    assert "too slow" in tight["losses"][0]["reason"]
    assert loose["chosen"]["node"] == "spot"
    assert "times as much" in loose["losses"][0]["reason"]
    assert loose["predicted_p99_ms"] > 400
    assert loose["usd"] < tight["usd"]


def test_live_state_is_laid_over_the_fleet_file(shared_mlp: Cli, fleet: Path, tmp_path: Path):
    state = tmp_path / "state.json"
    state.write_text(json.dumps({"reserved": {"healthy": False}}))
    told = ask(shared_mlp, fleet, "--slo-p99-ms", "150", "--state", str(state), code=3)
    assert told["chosen"] is None
    assert {loss["reason"].split(":")[0] for loss in told["losses"]} <= {
        "the node is unhealthy", "too slow", "no latency was measured that may be trusted",
    }


def test_nothing_feasible_is_refused_with_every_reason(shared_mlp: Cli, fleet: Path):
    ran = shared_mlp("route", "--fleet", fleet, "--model", "mlp", "--slo-p99-ms", "0.0001")
    assert ran.code == 3
    assert "nothing can serve this request" in ran.stderr
    assert "reserved: mlp:dev#llvm-cpu-host/fp32" in ran.stderr


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[[node]]\nname = "a"\nbundles = ["absent:dev"]\n', "absent"),
        ('[[node]]\nname = "a"\nbundels = []\n', "bundels"),
        ('[[node]]\nname = "a"\nbundles = []\n[[node]]\nname = "a"\nbundles = []\n', "two nodes"),
    ],
)
def test_a_fleet_that_names_what_is_not_there_is_refused(shared_mlp: Cli, tmp_path: Path, text: str, named: str):
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    ran = shared_mlp("route", "--fleet", path, "--model", "mlp", "--slo-p99-ms", "100")
    assert ran.code == 2
    assert named in ran.stderr


def test_the_example_fleet_in_the_docs_is_a_valid_fleet_file():
    from hwc.serve.fleet import FleetSpec
    from hwc.spec.strict import load

    assert [node.name for node in load(ROOT / "docs" / "how-to" / "fleet.toml", FleetSpec).node] == ["reserved", "spot"]
