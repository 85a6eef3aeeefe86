"""`keep` stores the codes that weights arrived with, to the bit, and says what became of every other weight."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from compiled_parts import FLAGS, LIMITS, run_on_cpu
from kept_parts import IDS, ROWS, SHAPES, captured, random_codes

from hwc import onnx_io
from hwc.capture import arrived
from hwc.capture.simplify import session
from hwc.errors import IntegrityError, StepError, UsageError
from hwc.formats import Format
from hwc.lower import iree
from hwc.lower.passes.linears import rewrite_linears
from hwc.quantise import codes as canonical
from hwc.quantise.codes import Codes, dequantise
from hwc.quantise.encode import encode, write_archive
from hwc.quantise.encodings import ENCODINGS, pack
from hwc.quantise.graph import apply, onnx_tensors
from hwc.quantise.quantise import quantise, read_layers, read_rows
from hwc.quantise.scheme import find

KEEP = find("keep")
Q4_0, Q8_0 = Format(kind="int4", group_size=32), Format(kind="int8", group_size=32)
Q4_1 = Format(kind="int4", group_size=32, zeros="offset")
INT4_ZEROS = Format(kind="int4", group_size=64, zeros="point")
INT8_ZEROS = Format(kind="int8", group_size=64, zeros="point")
FP8 = Format(kind="fp8")


def codes_of(**forms: Format) -> dict[str, Codes]:
    return {layer: random_codes(form, *SHAPES[layer], seed=at) for at, (layer, form) in enumerate(forms.items())}


def kept(folder: Path, source: Path, *, exclude: tuple[str, ...] = ()) -> dict[str, Codes]:
    folder.mkdir()
    quantise(KEEP, exclude, source, folder)
    return canonical.load(folder / "codes.safetensors")


def sources(folder: Path) -> dict[str, tuple[str, int]]:
    """Return how a type arrived to what became of it: how, and of how many parameters."""
    rows = json.loads((folder / "method.json").read_text())["sources"]
    return {row.get("arrived", "float"): (row["codes"], row["parameters"]) for row in rows}


def same(one: Codes, other: Codes) -> bool:
    parts = [(getattr(one, part), getattr(other, part)) for part in canonical.PARTS]
    return one.kind == other.kind and all(
        (a is None) == (b is None) and (a is None or (a.dtype == b.dtype and np.array_equal(a, b))) for a, b in parts
    )


@pytest.mark.parametrize("form", [Q4_0, Q8_0, INT4_ZEROS, INT8_ZEROS, Q4_1, FP8], ids=Format.told)
def test_codes_scales_zeros_and_offsets_are_kept_to_the_bit(form: Format, tmp_path: Path) -> None:
    given = codes_of(table=Q8_0, up=form, down=form)
    found = kept(tmp_path / "q", captured(tmp_path / "c", given))
    assert found.keys() == given.keys()
    assert all(same(found[layer], given[layer]) for layer in given)
    assert {linear.layer: linear.format for linear in read_layers(tmp_path / "q")} == {
        "table": Q8_0, "up": form, "down": form
    }


def test_every_parameter_is_kept_or_rounded_or_float_and_is_told_so(tmp_path: Path) -> None:
    given = codes_of(table=Q8_0, up=Q4_1)
    found = kept(tmp_path / "q", captured(tmp_path / "c", given, types={"down": "Q6_K"}))
    sizes = {layer: n * k for layer, (n, k) in SHAPES.items()}
    assert found["down"].kind == "int8"
    assert sources(tmp_path / "q") == {
        "type of table": ("kept", sizes["table"]), "type of up": ("kept", sizes["up"]),
        "Q6_K": ("rounded", sizes["down"]), "float": ("float", 0),
    }
    (tmp_path / "e").mkdir()
    encode(KEEP, {"int4": "i4-grouped", "int8": "i8-grouped"}, tmp_path / "c", tmp_path / "q", tmp_path / "e")
    audit = json.loads((tmp_path / "e" / "audit.json").read_text())
    assert [row["stored"] for row in audit["sources"]] == ["int8 g32", "int4 g32 offsets", "int8 g32", "float32"]
    assert audit["parameters_by_format"] == {
        "int4 g32 offsets": sizes["up"], "int8 g32": sizes["table"] + sizes["down"]
    }


def test_what_arrived_in_float_stays_float(tmp_path: Path) -> None:
    kept(tmp_path / "q", captured(tmp_path / "c", codes_of(up=Q4_0)))
    assert {row.layer: row.skip for row in read_rows(tmp_path / "q")} == {
        "table": "it arrived in float", "up": "", "down": "it arrived in float"
    }
    sizes = {layer: n * k for layer, (n, k) in SHAPES.items()}
    assert sources(tmp_path / "q")["float"] == ("float", sizes["table"] + sizes["down"])


@pytest.mark.parametrize("form", [Q4_1, FP8], ids=Format.told)
def test_a_table_that_onnx_runtime_cannot_read_by_row_is_rounded_to_int8_and_told(form: Format, tmp_path: Path) -> None:
    given = codes_of(table=form, up=Q4_1)
    found = kept(tmp_path / "q", captured(tmp_path / "c", given))
    assert found["table"].kind == "int8"
    weight = dequantise(given["table"])
    assert np.abs(dequantise(found["table"]) - weight).max() < np.abs(weight).max() / 127
    rows = json.loads((tmp_path / "q" / "method.json").read_text())["sources"]
    (row,) = (row for row in rows if row.get("reason"))
    assert (row["codes"], row["arrived"], row["layers"]) == ("rounded", "type of table", 1)
    assert "read by number" in row["reason"]


def test_excluded_layers_stay_float_though_they_arrived_quantised(tmp_path: Path) -> None:
    found = kept(tmp_path / "q", captured(tmp_path / "c", codes_of(table=Q8_0, up=Q4_1, down=Q4_1)), exclude=("up",))
    assert found.keys() == {"table", "down"}


@pytest.mark.parametrize("layer", ["table", "up"])
def test_codes_that_are_not_the_weights_are_refused_by_name(layer: str, tmp_path: Path) -> None:
    source = captured(tmp_path / "c", codes_of(table=Q8_0, up=Q4_1, down=Q4_1), broken=[layer])
    with pytest.raises(IntegrityError, match="not those of the captured weight") as told:
        kept(tmp_path / "q", source)
    assert told.value.where == layer


def test_one_inverted_code_is_refused(tmp_path: Path) -> None:
    source = captured(tmp_path / "c", codes_of(up=Q4_1, down=Q4_1))
    file = source / arrived.CODES
    payload = bytearray(file.read_bytes())
    payload[-1] ^= 1  # codes come last: bytes come after float16
    file.write_bytes(payload)
    with pytest.raises(IntegrityError, match="not those of the captured weight"):
        kept(tmp_path / "q", source)


def test_a_model_of_float_weights_has_nothing_to_keep(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no weight of this model arrived quantised") as told:
        kept(tmp_path / "q", captured(tmp_path / "c", {}))
    assert "w4a16" in told.value.hint


def test_a_model_none_of_whose_codes_have_a_form_is_not_rounded_under_the_name_of_keep(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="they arrived as Q4_K, Q6_K") as told:
        kept(tmp_path / "q", captured(tmp_path / "c", {}, types={"up": "Q4_K", "down": "Q6_K"}))
    assert "w8a16" in told.value.hint


def test_a_layer_that_the_graph_has_not_is_an_error_not_left_in_float(tmp_path: Path) -> None:
    source = captured(tmp_path / "c", codes_of(up=Q4_1), types={"elsewhere": "Q4_0"})
    with pytest.raises(StepError, match="not in the graph, elsewhere first"):
        kept(tmp_path / "q", source)


def test_keep_takes_no_options_and_names_every_kind() -> None:
    assert KEEP.kinds == ("fp8", "int4", "int8")
    assert not KEEP.needs_data
    assert KEEP.of_model("int8") == KEEP
    with pytest.raises(UsageError, match="keep takes no options"):
        find("keep-e4")


@pytest.mark.parametrize("form", [Q4_1, INT8_ZEROS], ids=Format.told)
@pytest.mark.parametrize("place", [0, 1])
def test_compiled_code_computes_with_exactly_the_kept_weights(form: Format, place: int, tmp_path: Path) -> None:
    table = INT8_ZEROS if form == INT8_ZEROS else Q8_0
    given = codes_of(table=table, up=form, down=form)
    source = captured(tmp_path / "c", given)
    found = kept(tmp_path / "q", source)
    model = onnx_io.load_graph(source / "graph.onnx")
    apply(read_layers(tmp_path / "q"), model, where="test")
    layers = {linear.layer: linear for linear in read_layers(tmp_path / "q")}
    tensors = {name: value for layer in found for name, value in onnx_tensors(layers[layer], found[layer]).items()}
    weights = {layer: dequantise(entry) for layer, entry in given.items()}
    rows = weights["table"][IDS]
    expected = (rows + rows @ weights["up"].T @ weights["down"].T) @ weights["table"].T
    size = np.abs(expected).max()
    (in_onnx,) = session(onnx_io.attach(model, tensors)).run(["logits"], {"ids": IDS})
    np.testing.assert_allclose(in_onnx, expected, rtol=0, atol=1e-5 * size)
    onnx_io.save(model, tmp_path / "g.onnx")
    text = iree.import_graph(tmp_path / "g.onnx", inputs=1, work=tmp_path, limits=LIMITS)
    encodings = {kind: ENCODINGS[kind][place] for kind in ("int4", "int8")}
    rewritten = rewrite_linears(text, encodings=encodings, scope="model")
    assert rewritten.layers == {"table", "up", "down"}
    entries = {}
    for layer, entry in found.items():
        entries |= pack(layer, entry, encodings[entry.kind])
    write_archive(entries, tmp_path / "w.irpa")
    code, _ = iree.compile_module(rewritten.mlir, FLAGS, work=tmp_path, limits=LIMITS)
    outputs = run_on_cpu(code, tmp_path / "w.irpa", {"ids": IDS}, {"logits": (*IDS.shape, ROWS)})
    np.testing.assert_allclose(outputs["logits"], expected, rtol=0, atol=1e-5 * size)
