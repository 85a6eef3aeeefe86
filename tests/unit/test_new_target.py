"""A new descriptor parses as it is written, switched off and on; figures are told with unit, spread and source."""

import pytest

from hwc.errors import UsageError
from hwc.spec import strict
from hwc.spec.conformance import contradictions, examine
from hwc.spec.facts import Fact, facts, kinds
from hwc.spec.new_target import SWITCHED_OFF, TEMPLATE, copied, template
from hwc.spec.project import facts_dir
from hwc.spec.target import TargetSpec

TARGETS = sorted(path.stem for path in facts_dir("targets").glob("*.toml"))
SECTIONS = ("lowering", "execution.emulator", "encoding", "hardware.core", "hardware.units.vector",
            "hardware.memories.sram", "hardware.links.pcie", "hardware.overheads", "hardware.power", "[legality]",
            "placement", "vendor")


def shipped(name: str) -> str:
    return (facts_dir("targets") / f"{name}.toml").read_text(encoding="utf-8")


def target(name: str) -> TargetSpec:
    return strict.parse(shipped(name), TargetSpec, where=name)


def test_the_template_parses_as_a_chip_that_is_predicted_for_alone() -> None:
    spec = strict.parse(template("chip-x"), TargetSpec, where="chip-x.toml")
    assert (spec.name, spec.made, spec.hardware_status) == ("chip-x", "prediction", "hypothetical")
    assert not contradictions(spec)
    assert "NAME" not in template("chip-x")


def test_the_template_with_every_line_switched_on_parses_as_a_chip_that_is_built_for() -> None:
    text = template("chip-x").replace(SWITCHED_OFF, "").replace('driver = "none"', 'driver = "emulated"')
    text = text.replace('not_built = "its compiler is not described yet"\n', "")
    spec = strict.parse(text, TargetSpec, where="chip-x.toml")
    assert spec.made == "build"
    assert {finding.verdict for finding in examine(spec)} == {"ok"}


@pytest.mark.parametrize("section", SECTIONS)
def test_the_template_explains_every_part_of_a_descriptor(section: str) -> None:
    assert f"[{section}]" in TEMPLATE


@pytest.mark.parametrize("name", TARGETS)
def test_a_copy_of_a_target_is_the_target_under_another_name(name: str) -> None:
    copy = strict.parse(copied(shipped(name), "mine", name), TargetSpec, where="mine.toml")
    same = {"name": "mine", "title": f"mine (described as {name})", "calibration": ""}
    assert copy == target(name).model_copy(update=same)


def test_a_target_whose_name_stands_on_no_line_of_its_own_is_not_copied() -> None:
    with pytest.raises(UsageError, match="`name` of odd stands on no line of its own"):
        copied('kind = "cpu"\n[lowering]\n', "mine", "odd")


def figure(name: str, key: str) -> Fact:
    return next(fact for fact in facts(target(name)) if fact.key == f"hardware.{key}")


@pytest.mark.parametrize(
    ("name", "key", "told", "source"),
    [
        ("h200", "memories.hbm.read_bytes_per_s", "4.8 TB/s", "datasheet"),
        ("h200", "units.tensor.rates[bfloat16 × bfloat16 → float32].flop_per_s", "989.5 Tflop/s", "datasheet"),
        ("h200", "power.tdp_w", "700 W", "datasheet"),
        ("b200", "memories.hbm.read_bytes_per_s", "8 TB/s (7.7 to 8)", "datasheet"),
        ("b200", "units.tensor.rates[float4_e2m1fn × float4_e2m1fn → float32].flop_per_s", "9 Pflop/s", "datasheet"),
        ("jalapeno", "memories.hbm.read_bytes_per_s", "7.7 TB/s (4 to 10)", "assumed"),
        ("rv64gcv-npu", "overheads.dispatch_s", "2 µs (1 to 5)", "assumed"),
        ("rv64gcv-npu", "memories.dram.read_pj_per_byte", "40 pJ/B (32 to 56)", "estimated"),
        ("rv64gcv-npu", "system.chips", "4", "assumed"),
    ],
)
def test_a_figure_is_told_with_its_unit_its_spread_and_its_source(name: str, key: str, told: str, source: str) -> None:
    found = figure(name, key)
    assert (found.told(), found.source) == (told, source)
    assert found.where


def test_nothing_about_the_hypothetical_chip_is_a_fact() -> None:
    found = facts(target("jalapeno"))
    assert kinds(found) == {"assumed": len(found)}
    assert [fact.key for fact in found if fact.exact] == ["hardware.system.chips"]


@pytest.mark.parametrize("name", TARGETS)
def test_a_shipped_target_does_not_contradict_itself(name: str) -> None:
    assert not contradictions(target(name))


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_without_a_way_to_make_code_for_it_says_why(name: str) -> None:
    spec = target(name)
    assert bool(spec.not_built) == (spec.made != "build")
    if spec.lowering is None:
        with pytest.raises(UsageError) as caught:
            spec.code()
        assert spec.not_built in caught.value.what
