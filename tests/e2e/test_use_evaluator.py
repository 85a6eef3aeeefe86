"""A user's own evaluator judges the artefact, and its metrics can be gated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hwc.spec.project import facts_dir

if TYPE_CHECKING:
    from command import Cli

EVALUATOR = """import numpy as np
def agreement(outputs, expected):
    assert set(outputs) == set(expected) == {"logits"}
    assert outputs["logits"].shape == expected["logits"].shape
    same = outputs["logits"].argmax(-1) == expected["logits"].argmax(-1)
    return {"agreement": float(same.mean()), "items_seen": float(len(same))}
def raises(outputs, expected):
    raise RuntimeError("no label file")
def leaves(outputs, expected):
    raise SystemExit(0)
def words(outputs, expected):
    return {"agreement": "good"}
def nothing(outputs, expected):
    return None
def infinite(outputs, expected):
    return {"agreement": float("nan")}
"""


def project(cli: Cli, function: str, bound: float) -> Cli:
    """Write a project with an evaluator and a model that is gated on it, beside the perceptron's own factory."""
    models = cli.cwd / "models"
    models.mkdir()
    (models / "mlp.py").write_bytes((facts_dir("models") / "mlp.py").read_bytes())
    (models / "own.py").write_text(EVALUATOR)
    text = (facts_dir("models") / "mlp.toml").read_text()
    text = text.replace('name = "mlp"', 'name = "judged"', 1).replace(
        'evaluator = "classification"', f'evaluator = "own.py:{function}"'
    )
    head, _, rest = text.partition("[gates.fp32]")
    gates = f"[gates.fp32]\nmetrics_min = {{ agreement = {bound} }}\n\n[build]\n" + rest.partition("[build]\n")[2]
    (models / "judged.toml").write_text(head + gates)
    return cli


@pytest.fixture
def own(warm: Cli) -> Cli:
    """The command line with a warm cache, so that only what the evaluator decides is new."""
    return warm


BUILD = ("build", "judged", "-t", "llvm-cpu-host", "-q", "fp32", "--smoke", "--format", "json")


def test_an_artefact_that_holds_the_gate_is_tagged_with_the_users_metrics(own: Cli) -> None:
    built = project(own, "agreement", 0.99)(*BUILD).ok().json()[0]
    told = {row["metric"]: row["value"] for row in built["variants"][0]["quality"]}
    assert (told["agreement"], told["items_seen"]) == (1.0, 256 + 32)
    assert "judged:dev" in own.tags()


def test_an_artefact_that_misses_the_gate_is_not_tagged(own: Cli) -> None:
    ran = project(own, "agreement", 1.5)(*BUILD)
    assert ran.code == 3
    assert "agreement 1.0000, at least 1.5" in ran.stderr
    assert "judged:dev" not in own.tags()


def test_a_gate_on_a_metric_that_is_not_measured_fails(own: Cli) -> None:
    project(own, "agreement", 0.5)
    toml = own.cwd / "models" / "judged.toml"
    toml.write_text(toml.read_text().replace("agreement = 0.5", "agreament = 0.5"))
    ran = own(*BUILD)
    assert ran.code == 3
    assert "agreament is gated at 0.5, but the evaluator does not measure it" in ran.stderr


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("raises", "RuntimeError: no label file"),
        ("leaves", "SystemExit"),
        ("words", "could not convert string to float"),
        ("nothing", "evaluator own.py:nothing failed"),
        ("infinite", "not finite"),
    ],
)
def test_an_evaluator_that_fails_is_a_clear_error(function: str, told: str, own: Cli) -> None:
    ran = project(own, function, 0.5)(*BUILD)
    assert ran.code == 5
    assert told in ran.stderr
    assert f"own.py:{function}" in ran.stderr
    assert "judged:dev" not in own.tags()


def test_an_evaluator_that_is_not_in_its_file_is_named(own: Cli) -> None:
    ran = project(own, "agrement", 0.5)(*BUILD)
    assert ran.code == 2
    assert "`agrement` is not in the file" in ran.stderr


def test_a_changed_evaluator_judges_again_and_nothing_else_is_made_again(own: Cli) -> None:
    project(own, "agreement", 0.99)(*BUILD).ok()
    file = own.cwd / "models" / "own.py"
    file.write_text(file.read_text().replace("float(same.mean())", "0.5"))
    before = own.outputs()
    ran = own(*BUILD)
    assert ran.code == 3
    assert "agreement 0.5000, at least 0.99" in ran.stderr
    assert {key.partition("/")[0] for key in own.outputs().keys() - before.keys()} == {"check"}


def test_a_later_check_uses_the_very_evaluator_the_bundle_was_built_with(own: Cli) -> None:
    project(own, "agreement", 0.99)(*BUILD).ok()
    reference = "judged:dev#llvm-cpu-host/fp32"
    absent = own("check", reference)
    assert absent.code == 2
    assert "own.py:agreement" in absent.stderr
    file = own.cwd / "models" / "own.py"
    beside = type(own)(home=own.home, store=own.store, cwd=Path(file.parent))
    checked = beside("check", reference, "--format", "json").ok().json()
    assert checked[0]["check"]["quality"]["metrics"]["agreement"] == 1.0
    file.write_text(file.read_text() + "\n# another evaluator\n")
    assert beside("check", reference).code == 6


def test_a_bundle_cannot_have_a_file_from_elsewhere_run(own: Cli) -> None:
    project(own, "agreement", 0.99)
    (own.cwd / "own.py").write_text(EVALUATOR)
    toml = own.cwd / "models" / "judged.toml"
    toml.write_text(toml.read_text().replace('"own.py:agreement"', '"../own.py:agreement"'))
    own(*BUILD).ok()  # the author's own TOML may
    beside = type(own)(home=own.home, store=own.store, cwd=own.cwd / "models")
    assert beside("check", "judged:dev#llvm-cpu-host/fp32").code == 6
