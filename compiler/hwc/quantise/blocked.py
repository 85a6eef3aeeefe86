"""Blocked: a quantised graph in standard ONNX operators alone, its weights behind DequantizeLinear (opset 21).

ONNX Runtime fuses a DequantizeLinear of blocked integers [K, N], along axis 0, with the MatMul behind it. Rows that are
read by number are gathered as codes and dequantised after that: dequantising a table of 49,152 × 576 first takes 309 ms
a call, three of its rows 0.1 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hwc import onnx_io
from hwc.errors import UsageError
from hwc.formats import BITS, Format
from hwc.quantise.blocked_weights import SCALES
from hwc.quantise.graph import MS_DOMAIN
from hwc.quantise.linears import Linear

if TYPE_CHECKING:
    import onnx

OPSET = 21
"""First operator set with 4-bit integers and blocks in DequantizeLinear."""
IR_VERSION = 10
_OTHER_FORM = "export with `--form matmulnbits`"


def rewrite(model: onnx.ModelProto, linears: Sequence[Linear]) -> onnx.ModelProto:
    """Return a detached quantised graph with every MatMulNBits and GatherBlockQuantized in standard operators.

    ``linears`` are its layers (restore.layers); what the result reads in place of their weights, blocked_weights.py
    makes.
    Raises UsageError for a table with offsets, and for a graph of an older operator set that cannot be converted.
    """
    by_layer = {linear.layer: linear for linear in linears}
    for linear in linears:
        if linear.gathered and linear.format is not None and linear.format.zeros == "offset":
            raise UsageError(
                "rows with float offsets cannot be told by DequantizeLinear", where=linear.layer,
                hint=_OTHER_FORM,
            )
    whole = _at_opset(model)
    fresh: list[onnx.NodeProto] = []
    for node in whole.graph.node:
        if node.domain == MS_DOMAIN and node.op_type == "MatMulNBits":
            fresh += _product(node, by_layer[node.input[2].removesuffix(SCALES)])
        elif node.domain == MS_DOMAIN and node.op_type == "GatherBlockQuantized":
            fresh += _rows(node, by_layer[node.input[2].removesuffix(SCALES)])
        else:
            fresh.append(_copy(node))
    live = _live(fresh, {value.name for value in whole.graph.output})
    del whole.graph.node[:]
    whole.graph.node.extend(live)
    _drop_domain(whole)
    return whole


def _at_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx
    from onnx import version_converter

    known = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    whole = onnx.ModelProto()
    try:
        whole.CopyFrom(model if known >= OPSET else version_converter.convert_version(model, OPSET))
    except RuntimeError as error:
        raise UsageError(
            f"the graph is of operator set {known} and cannot be told in {OPSET}, which has blocks: "
            f"{str(error).strip().splitlines()[0]}", hint=_OTHER_FORM,
        ) from error
    whole.ir_version = max(whole.ir_version, IR_VERSION)
    return whole


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    import onnx

    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied


def _drop_domain(model: onnx.ModelProto) -> None:
    kept = [(entry.domain, entry.version) for entry in model.opset_import if entry.domain != MS_DOMAIN]
    del model.opset_import[:]
    for domain, version in kept:
        model.opset_import.add(domain=domain, version=version)


def _live(nodes: Sequence[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """Return the nodes that something reads; a tied table's codes had a Reshape of their own."""
    read, kept = set(outputs), []
    for node in reversed(nodes):
        if read & set(node.output):
            read |= set(node.input)
            for entry in node.attribute:
                read |= set().union(*map(onnx_io.used_names, (entry.g, *entry.graphs)))
            kept.append(node)
    return kept[::-1]


def _product(node: onnx.NodeProto, linear: Linear) -> list[onnx.NodeProto]:
    """Multiply by the dequantised weight; offsets are multiplied by each group's sum of inputs, and added."""
    from onnx import helper

    layer, name, form = linear.layer, node.name or linear.layer, _form(linear)
    x, y = node.input[0], node.output[0]
    weight = f"{y}.weight"
    inputs = [f"{layer}.codes", f"{layer}{SCALES}", *([f"{layer}.zeros"] if form.zeros == "point" else [])]
    made = [
        helper.make_node(
            "DequantizeLinear", inputs, [weight], name=f"{name}.dequantise", axis=0, block_size=form.group_size
        )
    ]
    if form.zeros != "offset":
        return [*made, helper.make_node("MatMul", [x, weight], [y], name=name)]
    groups = linear.k // form.group_size
    sums, centred, added = f"{y}.sums", f"{y}.centred", f"{y}.offset"
    return [
        *made,
        helper.make_node("MatMul", [x, weight], [centred], name=name),
        helper.make_node("Shape", [x], [f"{y}.leading"], name=f"{name}.leading", end=-1),
        _constant(f"{y}.grouping", [groups, form.group_size], name),
        helper.make_node("Concat", [f"{y}.leading", f"{y}.grouping"], [f"{y}.split"], name=f"{name}.split", axis=0),
        helper.make_node("Reshape", [x, f"{y}.split"], [f"{y}.grouped"], name=f"{name}.grouped"),
        _constant(f"{y}.last", [-1], name),
        helper.make_node("ReduceSum", [f"{y}.grouped", f"{y}.last"], [sums], name=f"{name}.sums", keepdims=0),
        helper.make_node("MatMul", [sums, f"{layer}.offsets"], [added], name=f"{name}.offset"),
        helper.make_node("Add", [centred, added], [y], name=f"{name}.add"),
    ]


def _rows(node: onnx.NodeProto, linear: Linear) -> list[onnx.NodeProto]:
    """Gather the codes of rows, and dequantise those; nibbles of a row are its first half, then its second."""
    from onnx import helper

    layer, name, form = linear.layer, node.name or linear.layer, _form(linear)
    ids, y = node.input[1], node.output[0]

    def gather(part: str) -> onnx.NodeProto:
        return helper.make_node("Gather", [f"{layer}.row_{part}", ids], [f"{y}.{part}"], name=f"{name}.{part}", axis=0)

    parts = ["codes", "scales", *(["zeros"] if form.zeros == "point" else [])]
    made = [gather(part) for part in parts]
    codes = f"{y}.codes"
    if form.kind == "int4":
        codes = f"{y}.unpacked"
        made += [
            _nibble(f"{y}.mask", 0x0F, name), _nibble(f"{y}.shift", 4, name),
            helper.make_node("BitwiseAnd", [f"{y}.codes", f"{y}.mask"], [f"{y}.first"], name=f"{name}.first"),
            helper.make_node(
                "BitShift", [f"{y}.codes", f"{y}.shift"], [f"{y}.second"], name=f"{name}.second", direction="RIGHT"
            ),
            helper.make_node("Concat", [f"{y}.first", f"{y}.second"], [codes], name=f"{name}.unpacked", axis=-1),
        ]
        made += [] if form.zeros == "point" else _middle(y, name)  # unpacked nibbles are unsigned
    zeros = [f"{y}.zeros"] if form.zeros == "point" or form.kind == "int4" else []
    dequantised = helper.make_node(
        "DequantizeLinear", [codes, f"{y}.scales", *zeros], [y], name=name, axis=-1, block_size=form.group_size
    )
    return [*made, dequantised]


def _middle(y: str, name: str) -> list[onnx.NodeProto]:
    """Make a zero point of 8 for every group of the gathered rows."""
    import numpy as np
    from onnx import helper, numpy_helper

    eight = numpy_helper.from_array(np.array([1 << (BITS["int4"] - 1)], np.uint8), "eight")
    return [
        helper.make_node("Shape", [f"{y}.scales"], [f"{y}.shape"], name=f"{name}.shape"),
        helper.make_node("ConstantOfShape", [f"{y}.shape"], [f"{y}.zeros"], name=f"{name}.zeros", value=eight),
    ]


def _constant(output: str, values: list[int], name: str) -> onnx.NodeProto:
    import numpy as np
    from onnx import helper, numpy_helper

    value = numpy_helper.from_array(np.asarray(values, np.int64), output)
    return helper.make_node("Constant", [], [output], name=f"{name}.{output.rpartition('.')[2]}", value=value)


def _nibble(output: str, value: int, name: str) -> onnx.NodeProto:
    import numpy as np
    from onnx import helper, numpy_helper

    scalar = numpy_helper.from_array(np.asarray(value, np.uint8), output)
    return helper.make_node("Constant", [], [output], name=f"{name}.{output.rpartition('.')[2]}", value=scalar)


def _form(linear: Linear) -> Format:
    form = linear.format
    assert form is not None
    return form
