"""The quantised ONNX graph: the reference that ONNX Runtime runs and the form that lowering starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hwc import onnx_io
from hwc.errors import InternalError
from hwc.quantise.codes import Codes
from hwc.quantise.linears import ADJUSTED, Linear, candidates
from hwc.quantise.scheme import Scheme

if TYPE_CHECKING:
    import numpy as np
    import onnx

MS_DOMAIN = "com.microsoft"
PRODUCT = ".product"
"""Suffix of a biased linear's result before its bias is added."""


def apply(scheme: Scheme, linears: Sequence[Linear], model: onnx.ModelProto, *, where: str) -> onnx.ModelProto:
    """Rewrite every quantised linear of a detached graph, static or dynamic, in place; return it."""
    if not linears:
        return model
    replaced = rewrite(model, linears, scheme.kind, group_size=scheme.group_size, zeros=not scheme.symmetric)
    _adjust(model, {linear.adjusted for linear in linears if linear.adjusted})
    if replaced != len(linears):
        raise InternalError(f"{replaced} of {len(linears)} linears were replaced", where=where)
    return model


def rewrite(model: onnx.ModelProto, linears: Sequence[Linear], kind: str, *, group_size: int, zeros: bool) -> int:
    """Replace each listed linear of a detached graph, in place; return how many nodes were replaced.

    int4 becomes ``com.microsoft.MatMulNBits`` (f32 scales: ONNX Runtime refuses f16 scales with f32 input), fp8
    becomes ``DequantizeLinear`` + ``MatMul``. A Gemm's bias becomes an Add. The weight input makes way for
    ``<layer>.codes``, ``.scales`` and ``.zeros``.
    """
    chosen = {linear.weight: linear for linear in linears}
    by_output = {node.output[0]: chosen[linear.weight] for node, linear in candidates(model) if linear.weight in chosen}
    fresh: list[onnx.NodeProto] = []
    for node in model.graph.node:
        linear = by_output.get(node.output[0])
        fresh += [node] if linear is None else _replacement(node, linear, kind, group_size=group_size, zeros=zeros)
    copies = [_copy(node) for node in fresh]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    _keep_shapes(model)
    _swap_inputs(model, list(chosen.values()), kind, group_size=group_size, zeros=zeros)
    if kind == "int4" and not any(entry.domain == MS_DOMAIN for entry in model.opset_import):
        model.opset_import.add(domain=MS_DOMAIN, version=1)
    return len(by_output)


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


def _replacement(
    node: onnx.NodeProto, linear: Linear, kind: str, *, group_size: int, zeros: bool
) -> list[onnx.NodeProto]:
    from onnx import helper

    biased = node.op_type == "Gemm" and len(node.input) > 2
    product = node.output[0] + PRODUCT if biased else node.output[0]
    name = node.name or linear.layer
    if kind == "int4":
        inputs = [node.input[0], f"{linear.layer}.codes", f"{linear.layer}.scales"]
        inputs += [f"{linear.layer}.zeros"] if zeros else []
        made = [
            helper.make_node(
                "MatMulNBits", inputs, [product], name=name, domain=MS_DOMAIN,
                K=linear.k, N=linear.n, bits=4, block_size=group_size, accuracy_level=1,
            )
        ]
    else:
        weight = f"{linear.layer}.dequantised"
        made = [
            helper.make_node(
                "DequantizeLinear", [f"{linear.layer}.codes", f"{linear.layer}.scales"], [weight],
                name=f"{name}.dequantise", axis=1,
            ),
            helper.make_node("MatMul", [node.input[0], weight], [product], name=name),
        ]
    if biased:
        made.append(helper.make_node("Add", [product, node.input[2]], [node.output[0]], name=f"{name}.bias"))
    return made


def _swap_inputs(
    model: onnx.ModelProto, linears: Sequence[Linear], kind: str, *, group_size: int, zeros: bool
) -> None:
    from onnx import TensorProto, helper

    gone = {linear.weight for linear in linears}
    names = [name for name in onnx_io.weight_names(model) if name not in gone]
    inputs = [value for value in model.graph.input if value.name not in gone]
    for linear in linears:
        made: list[tuple[str, int, list[int]]]
        if kind == "int4":
            groups = linear.k // group_size
            made = [
                ("codes", TensorProto.UINT8, [linear.n, groups, group_size // 2]),
                ("scales", TensorProto.FLOAT, [linear.n, groups]),
            ]
            made += [("zeros", TensorProto.UINT8, [linear.n, (groups + 1) // 2])] if zeros else []
        else:
            made = [
                ("codes", TensorProto.FLOAT8E4M3FN, [linear.k, linear.n]),
                ("scales", TensorProto.FLOAT, [linear.n]),
            ]
        for part, dtype, shape in made:
            inputs.append(helper.make_tensor_value_info(f"{linear.layer}.{part}", dtype, shape))
            names.append(f"{linear.layer}.{part}")
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    onnx_io.set_weight_names(model, names)


def onnx_tensors(layer: str, codes: Codes) -> dict[str, np.ndarray]:
    """Return a layer's initializers in the layout of the quantised graph.

    int4: codes uint8 [N, G, g/2] with the even k in the low nibble, scales f32 [N, G], zeros uint8 [N, ⌈G/2⌉].
    fp8: codes float8_e4m3fn [K, N], scales f32 [N]. Source: the MatMulNBits and DequantizeLinear specifications.
    """
    import ml_dtypes
    import numpy as np

    n, k = codes.codes.shape
    if codes.scales.dtype != np.float16:
        return {
            f"{layer}.codes": np.ascontiguousarray(codes.codes.T).view(ml_dtypes.float8_e4m3fn),
            f"{layer}.scales": codes.scales.reshape(n).astype(np.float32),
        }
    groups = codes.scales.shape[1]
    packed = (codes.codes[:, 0::2] | (codes.codes[:, 1::2] << 4)).reshape(n, groups, k // groups // 2)
    tensors = {f"{layer}.codes": packed, f"{layer}.scales": codes.scales.astype(np.float32)}
    if codes.zeros is not None:
        padded = np.pad(codes.zeros, ((0, 0), (0, groups % 2)))
        tensors[f"{layer}.zeros"] = padded[:, 0::2] | (padded[:, 1::2] << 4)
    return tensors
