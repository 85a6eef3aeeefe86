"""The quantised ONNX graph: the reference that ONNX Runtime runs and the form that lowering starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hwc import onnx_io
from hwc.errors import InternalError
from hwc.formats import BITS, Format
from hwc.quantise import fp8_activations, int8_activations
from hwc.quantise.codes import Codes
from hwc.quantise.linears import ADJUSTED, Linear, candidates, is_gather, transposed_products

if TYPE_CHECKING:
    import numpy as np
    import onnx

MS_DOMAIN = "com.microsoft"
PRODUCT = ".product"
"""Suffix of a biased linear's result before its bias is added."""


def apply(linears: Sequence[Linear], model: onnx.ModelProto, *, where: str) -> onnx.ModelProto:
    """Rewrite every listed layer of a detached graph, static or dynamic, in place; return it.

    Integers become ``com.microsoft.MatMulNBits`` (f32 scales: ONNX Runtime refuses f16 scales with f32 input), and
    ``com.microsoft.GatherBlockQuantized`` where rows are read by number; fp8 becomes ``DequantizeLinear`` +
    ``MatMul``. Before it, activations are rounded where the format says so. A Gemm's bias becomes an Add. The weight
    input makes way for ``<layer>.codes``, ``.scales`` and ``.zeros``. Raises InternalError if a layer is not found.
    """
    if not linears:
        return model
    replaced = _replace_nodes(model, linears)
    if missing := {linear.layer for linear in linears} - replaced:
        raise InternalError(f"{len(missing)} quantised layers are not in the graph, {min(missing)} first", where=where)
    _adjust(model, {name for linear in linears for name in linear.adjusted})
    return model


def _replace_nodes(model: onnx.ModelProto, linears: Sequence[Linear]) -> set[str]:
    """Put each listed layer's nodes in place of those that read its float weight; return the layers found."""
    chosen = {linear.weight: linear for linear in linears}
    by_output = {node.output[0]: chosen[linear.weight] for node, linear in candidates(model) if linear.weight in chosen}
    tied, shapes = _tied_products(model, chosen), _static_shapes(model)
    fresh: list[onnx.NodeProto] = []
    replaced: set[str] = set()
    for node in model.graph.node:
        linear = by_output.get(node.output[0])
        table = chosen.get(node.input[0]) if node.input else None
        if node.output[0] in tied:
            layer = tied[node.output[0]]
            fresh += _tied(node, layer)
            replaced.add(layer.layer)
        elif linear is not None:
            fresh += _replacement(node, linear, shapes.get(node.input[0]))
            replaced.add(linear.layer)
        elif table is not None and table.gathered and is_gather(node, table.weight):
            fresh.append(_gather(node, table))
            replaced.add(table.layer)
        elif table is None or not table.gathered:
            fresh.append(node)
    copies = [_copy(node) for node in fresh]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    _keep_shapes(model)
    _swap_inputs(model, list(chosen.values()))
    if any(node.domain == MS_DOMAIN for node in copies) and all(e.domain != MS_DOMAIN for e in model.opset_import):
        model.opset_import.add(domain=MS_DOMAIN, version=1)
    return replaced


def _tied_products(model: onnx.ModelProto, chosen: Mapping[str, Linear]) -> dict[str, Linear]:
    """Return the outputs of MatMuls by the Transpose of a gathered table, with the table."""
    return {
        product.output[0]: chosen[node.input[0]]
        for node in model.graph.node
        if node.input and node.input[0] in chosen and chosen[node.input[0]].gathered
        for product in transposed_products(model, node, node.input[0])
    }


def _adjust(model: onnx.ModelProto, names: set[str]) -> None:
    """Let the graph read the scheme's own value of each named weight."""
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            if name in names:
                node.input[position] = name + ADJUSTED
    for value in model.graph.input:
        if value.name in names:
            value.name += ADJUSTED
    weights = [name + ADJUSTED if name in names else name for name in onnx_io.weight_names(model)]
    onnx_io.set_weight_names(model, weights)


def _keep_shapes(model: onnx.ModelProto) -> None:
    """Give each new product the type of the sum it goes into: no shape inference knows MatMulNBits."""
    known = {value.name: value for value in (*model.graph.value_info, *model.graph.output)}
    made = [name for node in model.graph.node for name in node.output if name.endswith(PRODUCT)]
    for name in made:
        value = known.get(name.removesuffix(PRODUCT))
        if value is not None:
            model.graph.value_info.add(name=name).type.CopyFrom(value.type)


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    import onnx

    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied


def _static_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shape of every value that is known to have a static one."""
    shapes = {}
    for value in (*model.graph.input, *model.graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if dims and all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _replacement(node: onnx.NodeProto, linear: Linear, shape: tuple[int, ...] | None) -> list[onnx.NodeProto]:
    """Return the nodes of a quantised product; ``shape``: that of its activation, where it is static."""
    from onnx import helper

    biased = node.op_type == "Gemm" and len(node.input) > 2
    product = node.output[0] + PRODUCT if biased else node.output[0]
    name = node.name or linear.layer
    if linear.format is not None and linear.format.kind == "fp8":
        made = _fp8_matmul(node.input[0], product, linear, linear.format, name)
    else:
        x, made = node.input[0], []
        if linear.format is not None and linear.format.activations == "int8":
            x, made = int8_activations.rounded(x, linear, name, shape)
        made.append(_matmul_nbits(x, f"{linear.layer}.codes", product, linear, name))
    if biased:
        made.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]], name=f"{name}.bias"))
    return made


def _fp8_matmul(x: str, product: str, linear: Linear, form: Format, name: str) -> list[onnx.NodeProto]:
    from onnx import helper

    weight = f"{linear.layer}.dequantised"
    made = [
        helper.make_node(
            "DequantizeLinear", [f"{linear.layer}.codes", f"{linear.layer}.scales"], [weight],
            name=f"{name}.dequantise", axis=1,
        )
    ]
    if form.activations == "float":
        return [*made, helper.make_node("MatMul", [x, weight], [product], name=name)]
    rounded = fp8_activations.rounded(x, linear, form, name)
    unscaled = f"{product}.unscaled"
    return [
        *made, *rounded.nodes,
        helper.make_node("MatMul", [rounded.x, weight], [unscaled], name=name),
        helper.make_node("Mul", [unscaled, rounded.scale], [product], name=f"{name}.scale"),
    ]


def _matmul_nbits(x: str, codes: str, product: str, linear: Linear, name: str) -> onnx.NodeProto:
    from onnx import helper

    form = _integers(linear)
    inputs = [x, codes, f"{linear.layer}.scales"]
    inputs += [] if form.symmetric else [f"{linear.layer}.zeros"]
    return helper.make_node(
        "MatMulNBits", inputs, [product], name=name, domain=MS_DOMAIN, K=linear.k, N=linear.n, bits=BITS[form.kind],
        block_size=form.group_size, accuracy_level=1,
    )


def _tied(node: onnx.NodeProto, table: Linear) -> list[onnx.NodeProto]:
    """Multiply by a table that is also read by row: MatMulNBits wants its codes by group."""
    import onnx
    from onnx import helper

    form, name = _integers(table), node.name or table.layer
    shape = onnx.numpy_helper.from_array(_array([table.n, table.k // form.group_size, -1]), f"{table.layer}.by_group")
    grouped = f"{table.layer}.grouped"
    return [
        helper.make_node("Constant", [], [shape.name], name=f"{name}.by_group", value=shape),
        helper.make_node("Reshape", [f"{table.layer}.codes", shape.name], [grouped], name=f"{name}.grouped"),
        _matmul_nbits(node.input[0], grouped, node.output[0], table, name),
    ]


def _array(values: list[int]) -> np.ndarray:
    import numpy as np

    return np.asarray(values, np.int64)


def _gather(node: onnx.NodeProto, table: Linear) -> onnx.NodeProto:
    from onnx import helper

    form = _integers(table)
    inputs = [f"{table.layer}.codes", node.input[1], f"{table.layer}.scales"]
    inputs += [] if form.symmetric else [f"{table.layer}.zeros"]
    return helper.make_node(
        "GatherBlockQuantized", inputs, [node.output[0]], name=node.name or table.layer, domain=MS_DOMAIN,
        gather_axis=0, quantize_axis=1, block_size=form.group_size, bits=BITS[form.kind],
    )


def _integers(linear: Linear) -> Format:
    form = linear.format
    if form is None or form.kind == "fp8":
        raise InternalError("no integers are stored for this layer", where=linear.layer)
    return form


def _swap_inputs(model: onnx.ModelProto, linears: Sequence[Linear]) -> None:
    from onnx import helper

    gone = {linear.weight for linear in linears}
    names = [name for name in onnx_io.weight_names(model) if name not in gone]
    inputs = [value for value in model.graph.input if value.name not in gone]
    for linear in linears:
        for part, dtype, shape in _declared(linear):
            inputs.append(helper.make_tensor_value_info(f"{linear.layer}.{part}", dtype, shape))
            names.append(f"{linear.layer}.{part}")
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    onnx_io.set_weight_names(model, names)


def _declared(linear: Linear) -> list[tuple[str, int, list[int]]]:
    """Return the parts of a layer's weight in the graph, with their ONNX types and shapes."""
    from onnx import TensorProto

    form = linear.format
    assert form is not None
    if form.kind == "fp8":
        return [
            ("codes", TensorProto.FLOAT8E4M3FN, [linear.k, linear.n]), ("scales", TensorProto.FLOAT, [linear.n]),
        ]
    groups = linear.k // form.group_size
    row_bytes = linear.k * BITS[form.kind] // 8
    codes = [linear.n, row_bytes] if linear.gathered else [linear.n, groups, row_bytes // groups]
    parts = [("codes", TensorProto.UINT8, codes), ("scales", TensorProto.FLOAT, [linear.n, groups])]
    if form.zeros == "point":
        parts.append(("zeros", TensorProto.UINT8, [linear.n, -(-groups * BITS[form.kind] // 8)]))
    elif form.zeros == "offset":
        parts.append(("zeros", TensorProto.FLOAT, [linear.n, groups]))
    return parts


def onnx_tensors(linear: Linear, codes: Codes) -> dict[str, np.ndarray]:
    """Return a layer's initializers in the layout of the quantised graph.

    Integers: codes uint8 [N, G, bytes of a group], or [N, bytes of a row] where rows are read by number, the even k in
    the low nibble; scales f32 [N, G]; zeros uint8, packed like the codes, or f32 [N, G] for offsets. fp8: codes
    float8_e4m3fn [K, N], scales f32 [N]. Source: the specifications of MatMulNBits, GatherBlockQuantized and
    DequantizeLinear.
    """
    import ml_dtypes
    import numpy as np

    layer, (n, k) = linear.layer, codes.codes.shape
    if codes.kind == "fp8":
        return {
            f"{layer}.codes": np.ascontiguousarray(codes.codes.T).view(ml_dtypes.float8_e4m3fn),
            f"{layer}.scales": codes.scales.reshape(n).astype(np.float32),
        }
    groups = codes.scales.shape[1]
    packed = _nibbles(codes.codes) if codes.kind == "int4" else codes.codes
    shape = (n, -1) if linear.gathered else (n, groups, k * BITS[codes.kind] // 8 // groups)
    tensors = {f"{layer}.codes": packed.reshape(shape), f"{layer}.scales": codes.scales.astype(np.float32)}
    if codes.zeros is not None:
        padded = np.pad(codes.zeros, ((0, 0), (0, groups % 2)))
        tensors[f"{layer}.zeros"] = _nibbles(padded) if codes.kind == "int4" else codes.zeros
    if codes.offsets is not None:
        tensors[f"{layer}.zeros"] = -codes.offsets.astype(np.float32) / codes.scales.astype(np.float32)
    return tensors


def _nibbles(values: np.ndarray) -> np.ndarray:
    packed: np.ndarray = values[:, 0::2] | (values[:, 1::2] << 4)
    return packed
